"""The classes of results that have names: `lampion.return_types.max` and its kin.

Floor 5; imports the registry.
"""

from __future__ import annotations

from .ops import registry as R
from .ops.results import _made, named


def __getattr__(name: str) -> type:
    for op in R.REGISTRY.values() if name[0] != "_" else ():
        if op.returns and (op.result_name or op.name) == name:
            return named(name, op.returns)  # type: ignore[no-any-return]
    for (known, _), cls in _made.items():
        if known == name:
            return cls  # type: ignore[no-any-return]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
