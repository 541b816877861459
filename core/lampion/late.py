"""Names of a package that are imported when they are first asked for. Floor 0; imports nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def late(package: str, places: Mapping[str, str],
         ) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package, by whose `places` a name is in a module of it; ""
    stands for the module of that name itself."""
    space = sys.modules[package].__dict__

    def attribute(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = importlib.import_module(f"{package}.{places[name] or name}")
        space[name] = found = getattr(found, name) if places[name] else found
        return found

    return attribute, lambda: sorted({*space, *places})
