"""ONNX: `load` runs models of other frameworks, `export` writes models for them.

Reading and writing files needs the `onnx` package (`pip install onnx`), which is imported when a
function here first needs it. Floor 7.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {"load": "importing", "ImportedModel": "importing", "operator": "table",
          "export": "exporting", "ONNXProgram": "exporting", "TrainingMode": "exporting",
          "is_in_onnx_export": "exporting"}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
