"""Switches of libraries that PyTorch uses: `backends.NAME.switch`, for any NAME.

They can be set and read back; those that change results are honoured: `allow_tf32` and
`matmul.allow_tf32` set the precision of float32 products. No library is chosen by them, so
`is_available()` is False and `enabled` changes nothing. Floor 7; imports ops.precision.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from .ops.precision import get_float32_matmul_precision, set_float32_matmul_precision

_DEFAULTS = {"enabled": True, "benchmark": False, "benchmark_limit": 10, "deterministic": False,
             "fp32_precision": "none", "strategy": "auto"}
_TF32 = ("allow_tf32", "fp32_precision")


class Switches(ModuleType):
    """The switches of one library. Functions that ask answer no, functions that set remember."""

    shared = True  # under whatever name a program imports it

    def __init__(self, name: str) -> None:
        super().__init__(name, "Switches that can be set and read back.")
        self.__path__: list[str] = []

    def is_available(self) -> bool:
        """False: the library is not used."""
        return False

    is_built = is_available

    def version(self) -> None:
        """None: there is no library."""
        return

    @contextmanager
    def flags(self, **switches: Any) -> Iterator[None]:
        """Set switches for a block."""
        before = {n: getattr(self, n) for n in switches}
        try:
            for n, v in switches.items():
                setattr(self, n, v)
            yield
        finally:
            for n, v in before.items():
                setattr(self, n, v)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "allow_tf32":
            return get_float32_matmul_precision() != "highest"
        if name in _DEFAULTS:
            return _DEFAULTS[name]
        if name.endswith("_enabled"):
            return lambda: bool(self.__dict__.get(f"_{name}", True))
        if name.startswith("enable_"):
            return lambda on=True: setattr(self, f"_{name[7:]}_enabled", bool(on))
        if name.startswith("allow_"):
            return True
        found = Switches(f"{self.__name__}.{name}")
        self.__dict__[name] = found
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "allow_tf32":
            set_float32_matmul_precision("high" if value else "highest")
        elif name == "fp32_precision":
            self.__dict__[name] = value
            set_float32_matmul_precision("high" if value == "tf32" else "highest")
        else:
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = Switches(f"{__name__}.{name}")
    setattr(sys.modules[__name__], name, found)
    sys.modules[found.__name__] = found
    return found


__path__: list[str] = []
open_names = True  # `import lampion.backends.NAME` for any NAME
