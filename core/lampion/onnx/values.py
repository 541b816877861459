"""ONNX's types and values as lampion's.

A value of a graph is a tensor; a NumPy array, where lampion has no such dtype (strings, and numbers
of eight bits and less that are no integers of the machine); a list, for a sequence; or None, for
an argument that is left out and for an empty optional. Floor 7; imports the `onnx` package when a
function here first needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import lampion

from ..base.dtype import dtype
from ..interop import host_array, host_device

# TensorProto.DataType -> lampion's dtype
DTYPES: dict[int, dtype] = {
    1: lampion.float32, 2: lampion.uint8, 3: lampion.int8, 4: lampion.uint16, 5: lampion.int16,
    6: lampion.int32, 7: lampion.int64, 9: lampion.bool, 10: lampion.float16, 11: lampion.float64,
    12: lampion.uint32, 13: lampion.uint64, 14: lampion.complex64, 15: lampion.complex128,
    16: lampion.bfloat16}
CODES = {d: code for code, d in DTYPES.items()}
STRING = 8


def package() -> Any:
    """The `onnx` package. ImportError that says how to get it."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError("lampion.onnx reads and writes files through the onnx package, which "
                          "is not installed: pip install onnx (or pip install 'lampion[onnx]')"
                          ) from error
    return onnx


def numpy_dtype(code: int) -> np.dtype[Any]:
    """The NumPy dtype of a TensorProto.DataType, of ml_dtypes where NumPy has none."""
    if code == STRING:
        return np.dtype(object)
    return np.dtype(package().helper.tensor_dtype_to_np_dtype(code))


def code_of(value: Any) -> int:
    """The TensorProto.DataType of a tensor or array."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OUS":
            return STRING
        return int(package().helper.np_dtype_to_tensor_dtype(value.dtype))
    return CODES[value.dtype]


def from_array(array: Any, device: Any = None) -> Any:
    """A NumPy array as a value: a tensor with a copy of it, or, where lampion lacks the dtype, the
    array itself."""
    array = np.asarray(array)
    if array.dtype.kind in "OUS":
        return array.astype(object)
    code = int(package().helper.np_dtype_to_tensor_dtype(array.dtype))
    if code not in DTYPES:
        return array
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    t = lampion.from_numpy(np.array(array, order="C"))
    return t if device is None else t.to(device)


def to_array(value: Any) -> Any:
    """A tensor or array as a NumPy array on the host."""
    if isinstance(value, np.ndarray):
        return value
    return host_array(value.detach())


def from_proto(proto: Any, folder: str = "") -> np.ndarray[Any, Any]:
    """The values of a TensorProto; `folder` is where external data lies. Strings are objects."""
    array = package().numpy_helper.to_array(proto, folder)
    if proto.data_type == STRING:
        array = np.array([s.decode() if isinstance(s, bytes) else s for s in array.reshape(-1)],
                         object).reshape(array.shape)
    return array  # type: ignore[no-any-return]


def on_host(*numbers: Any, dtype: Any = None) -> Any:
    """A tensor of a few numbers in host memory, where shapes are computed."""
    return lampion.tensor(numbers[0] if len(numbers) == 1 else list(numbers), dtype=dtype,
                          device=host_device())


def is_host_only(value: Any) -> bool:
    """Whether lampion lacks the value's dtype."""
    return isinstance(value, np.ndarray)


def encoded(arrays: Sequence[Any]) -> tuple[list[Any], Any]:
    """Arrays of dtypes that lampion lacks as tensors of codes, and what turns such a tensor back.

    Equal values have equal codes, so that whatever moves or compares values can work on codes.
    """
    if arrays[0].dtype.kind in "OUS":
        flat = np.concatenate([a.reshape(-1) for a in arrays])
        known, codes = np.unique(flat.astype(str), return_inverse=True)
        ends = np.cumsum([a.size for a in arrays])[:-1]
        parts = [from_array(c.reshape(a.shape).astype(np.int64))
                 for c, a in zip(np.split(codes, ends), arrays)]
        return parts, lambda t: known.astype(object)[to_array(t)]
    kind = arrays[0].dtype
    parts = [from_array(np.ascontiguousarray(a).view(np.uint8).reshape(a.shape)) for a in arrays]
    return parts, lambda t: np.ascontiguousarray(to_array(t)).view(kind).reshape(tuple(t.shape))


__all__ = ["DTYPES", "CODES", "STRING", "package", "numpy_dtype", "code_of", "from_array",
           "to_array", "from_proto", "on_host", "is_host_only", "encoded"]
