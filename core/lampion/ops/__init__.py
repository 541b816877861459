"""Floor 3: the op registry and one file per op family. Imports base, ir, runtime.

`lampion.ops.acme.swish` is the op `swish` of the namespace `acme`, from whichever plug-in declared
it; installed op plug-ins are loaded when a namespace is asked for that is not there yet.
"""

from __future__ import annotations

import importlib
from importlib.machinery import PathFinder
from typing import Any

PROGRAMS: dict[str, Any] = {}  # programs' own ops (see custom_ops), by namespace::name


def is_module(name: str) -> bool:
    """Whether a module of this package has the name, which then can be no namespace."""
    return PathFinder.find_spec(f"{__name__}.{name}", __path__) is not None


class Namespace:
    """The ops of one namespace, as attributes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        from .registry import REGISTRY

        full = f"{self._name}::{name}"
        op = REGISTRY.get(full)
        if op is None and full in PROGRAMS:
            return PROGRAMS[full]
        if op is None:
            raise AttributeError(f"there is no op {name!r} in lampion.ops.{self._name}; it has: "
                                 f"{', '.join(dir(self))}")
        return op.fn

    def __dir__(self) -> list[str]:
        from .registry import REGISTRY

        head = f"{self._name}::"
        return sorted(n[len(head):] for n in (*REGISTRY, *PROGRAMS) if n.startswith(head))


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if is_module(name):  # `from .ops import plans` asks here, too
        return importlib.import_module(f"{__name__}.{name}")
    from . import registry

    found = Namespace(name)
    if not dir(found):
        registry.collect()
    if not dir(found):
        raise AttributeError(f"no installed plug-in declares ops in the namespace {name!r}")
    return found
