"""The tensor ops behind nn.functional, found by name at first use.

`ops.relu` is the op `relu` of the namespace nn.functional, or of any other. An op that no one
declared is an AttributeError that names it. May import: lampion.library, lampion.ops.registry.
"""
from __future__ import annotations

from typing import Any

from lampion.tensor import Tensor


class _Ops:
    """Attribute access looks an op up once and keeps it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = find(name)
        self.__dict__[name] = found
        return found


def find(name: str) -> Any:
    """The op `name` of nn.functional, else one without a public name, else the top level's."""
    from lampion.library import lookup, public
    from lampion.ops.registry import REGISTRY
    found = public("nn.functional").get(name)
    if found is None:
        declared = REGISTRY.get(name)
        if declared is not None and not declared.where:
            return declared.fn
        return lookup("lampion", name)
    return getattr(Tensor, found) if isinstance(found, str) else found.fn


ops = _Ops()
