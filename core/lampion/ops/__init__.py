"""Floor 3: the op registry and one file per op family. Imports base, ir, runtime.

`lampion.ops.acme.swish` is the op `swish` of the namespace `acme`, from whichever plug-in declared
it; installed op plug-ins are loaded when a namespace is asked for that is not there yet.
"""

from __future__ import annotations

import pkgutil
from typing import Any

FAMILIES = frozenset(m.name for m in pkgutil.iter_modules(__path__))


class Namespace:
    """The ops of one namespace, as attributes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        from .registry import REGISTRY

        op = REGISTRY.get(f"{self._name}::{name}")
        if op is None:
            raise AttributeError(f"there is no op {name!r} in lampion.ops.{self._name}; it has: "
                                 f"{', '.join(dir(self))}")
        return op.fn

    def __dir__(self) -> list[str]:
        from .registry import REGISTRY

        head = f"{self._name}::"
        return sorted(n[len(head):] for n in REGISTRY if n.startswith(head))


def __getattr__(name: str) -> Any:
    # `from .ops import plans` asks here before it looks for a module: that must load no plug-in
    if name.startswith("_") or name in FAMILIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import registry

    found = Namespace(name)
    if not dir(found):
        registry.collect()
    if not dir(found):
        raise AttributeError(f"no installed plug-in declares ops in the namespace {name!r}")
    return found
