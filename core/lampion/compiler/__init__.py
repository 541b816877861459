"""The compiler: functions and whole training steps as fused programs.

`trace.py` watches a run and writes it down as a `graph.py`; `passes.py` and `fusion.py` change the
graph; `memory.py` places its buffers; `program.py` makes it a Python function over the backend's
sequences; `function.py` decides what a call runs, by `arguments.py` and `guards.py`. `names.py` has
the public names. Floor 6.
"""

from __future__ import annotations

from typing import Any

from . import names
from .names import *  # noqa: F403
from .names import __all__ as __all__
from .names import _same as _same


def __getattr__(name: str) -> Any:
    return getattr(names, name)
