"""Named tuples of results: `named("max", ("values", "indices"))`.

Floor 3; imports nothing. The classes are public as `lampion.return_types.max`, and are made when a
result first needs one.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

PUBLIC = "lampion.return_types"
_made: dict[tuple[str, tuple[str, ...]], Any] = {}


def named(name: str, fields: tuple[str, ...]) -> Any:
    """The class of results called `name`, one for each name and set of fields."""
    found = _made.get((name, fields))
    if found is None:
        base: Any = namedtuple(name, fields)  # type: ignore[misc]
        found = _made[name, fields] = type(name, (base,), {
            "__slots__": (), "__module__": PUBLIC, "__repr__": _repr, "__reduce__": _reduce})
    return found


def _repr(self: Any) -> str:
    body = ",\n".join(f"{f}={v!r}" for f, v in zip(self._fields, self))
    return f"{PUBLIC}.{type(self).__name__}(\n{body})"


def _reduce(self: Any) -> Any:
    return (_rebuild, (type(self).__name__, self._fields, tuple(self)))


def _rebuild(name: str, fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return named(name, fields)(*values)
