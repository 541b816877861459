"""The tensor ops behind nn.functional, found by name at first use.

`ops.relu` is the op `relu` of the namespace nn.functional, or of the top level. An op that no one
declared is an AttributeError that names it.
May import: lampion.library.
"""
from __future__ import annotations

from typing import Any


class _Ops:
    """Attribute access looks an op up once and keeps it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = find(name)
        self.__dict__[name] = found
        return found


def find(name: str) -> Any:
    """The public op `name` of nn.functional or, failing that, of the top level."""
    from lampion.library import lookup
    try:
        return lookup("lampion.nn.functional", name)
    except AttributeError:
        return lookup("lampion", name)


ops = _Ops()
