"""The ONNX operators by family; each module declares its own in `lampion.onnx.table`."""
