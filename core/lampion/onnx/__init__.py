"""ONNX: `load` runs models of other frameworks, `export` writes models for them.

Reading and writing files needs the `onnx` package (`pip install onnx`), which is imported when a
function here first needs it. Floor 7.
"""

from __future__ import annotations

from typing import Any

from ..late import late

_WHERE = {"load": "importing", "ImportedModel": "importing", "operator": "table",
          "export": "exporting", "ONNXProgram": "exporting", "TrainingMode": "exporting",
          "is_in_onnx_export": "exporting"}
__all__ = sorted(_WHERE)

__getattr__, __dir__ = late(__name__, _WHERE)
