"""Named tuples of results: `lampion.return_types.max`, with fields `values` and `indices`.

Floor 5; imports the registry. Classes are made when a result first needs one.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from .ops import registry as R

_made: dict[tuple[str, tuple[str, ...]], type] = {}


def named(name: str, fields: tuple[str, ...]) -> type:
    """The class of results of an op, one for each name and set of fields."""
    found = _made.get((name, fields))
    if found is None:
        base: Any = namedtuple(name, fields)  # type: ignore[misc]
        found = _made[name, fields] = type(name, (base,), {
            "__slots__": (), "__module__": __name__, "__repr__": _repr, "__reduce__": _reduce})
    return found


def _repr(self: Any) -> str:
    body = ",\n".join(f"{f}={v!r}" for f, v in zip(self._fields, self))
    return f"{__name__}.{type(self).__name__}(\n{body})"


def _reduce(self: Any) -> Any:
    return (_rebuild, (type(self).__name__, self._fields, tuple(self)))


def _rebuild(name: str, fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return named(name, fields)(*values)


def of(op: R.Op) -> type:
    """The class of the results of an op that names them."""
    return named(op.result_name or op.name, op.returns)


def __getattr__(name: str) -> type:
    for op in R.REGISTRY.values():
        if op.returns and (op.result_name or op.name) == name:
            return of(op)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
