"""Programs without their Python code: `export` writes down the ops of a module, `save` and `load`
make files of that.

    program = lampion.export.export(model, (x,))     # or lampion.export(model, (x,))
    lampion.export.save(program, "model.pt2")
    lampion.export.load("model.pt2").module().to(device)(x)

Floor 7. The module may be called: that is `export`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from ..late import late

_WHERE = {"export": "program", "ExportedProgram": "program", "ExportGraphSignature": "program",
          "ExportError": "tracing", "Dim": "sizes", "dims": "sizes", "save": "files",
          "load": "files"}
__all__ = sorted(_WHERE)


class _Callable(ModuleType):
    """A module that can be called."""

    def __call__(self, mod: Any, args: tuple[Any, ...] = (), kwargs: Any = None,
                 **options: Any) -> Any:
        """`export(mod, args, kwargs, ...)`."""
        return self.export(mod, args, kwargs, **options)


sys.modules[__name__].__class__ = _Callable

__getattr__, __dir__ = late(__name__, _WHERE)
