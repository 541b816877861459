"""NumPy and SciPy definitions of the ops, by name: what their values are compared with.

A reference takes the arguments of the op, with arrays for tensors: float64 for every floating
dtype, complex128 for complex ones; see `lampion.testing.op_checks.check_values` for what its
results stand for. None of them may import lampion.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def _gather() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        family = import_module(f"{__name__}.{path.stem}").REFERENCE
        twice = found.keys() & family.keys()
        assert not twice, f"{path.name} defines what another file defines: {sorted(twice)}"
        found |= family
    return found


REFERENCE = _gather()
