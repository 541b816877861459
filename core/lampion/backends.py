"""Switches of libraries that PyTorch uses: `backends.NAME.switch`, for any NAME.

A device's plug-in brings those of the libraries that it uses, by its hook `lampion_switches`. All
others can be set and read back; those that change results are honoured: `allow_tf32` and
`matmul.allow_tf32` set the precision of float32 products. No library is chosen by them, so
`is_available()` is False and `enabled` changes nothing. Floor 7; imports ops.precision, plugins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from . import plugins
from .ops.precision import get_float32_matmul_precision, set_float32_matmul_precision

_DEFAULTS = {"enabled": True, "benchmark": False, "benchmark_limit": 10, "deterministic": False,
             "fp32_precision": "none", "strategy": "auto"}
_TF32 = ("allow_tf32", "fp32_precision")


def _brought(name: str) -> list[Any]:
    """What plug-ins bring for `backends.NAME`: objects whose attributes are its switches."""
    found = []
    for record in plugins.records("lampion.backends"):
        try:
            plugins.load(record)
        except plugins.PluginError:  # `lampion doctor` tells; its switches are remembered, as all
            continue
        given = plugins.call(record, "lampion_switches", once=False) or {}
        if name in given:
            found.append(given[name])
    return found


class Switches(ModuleType):
    """The switches of one library. Functions that ask answer no, functions that set remember,
    unless a plug-in has the library."""

    shared = True  # under whatever name a program imports it

    def __init__(self, name: str) -> None:
        super().__init__(name, "Switches that can be set and read back.")
        self.__path__: list[str] = []
        self.__dict__["_own"] = None

    def _real(self, switch: str) -> Any:
        """The object of a plug-in's that has this switch, or None."""
        if self._own is None:
            self.__dict__["_own"] = _brought(self.__name__.removeprefix(f"{__name__}."))
        return next((o for o in self._own if hasattr(type(o), switch)), None)

    def is_available(self) -> bool:
        """Whether the library can be used; False if no plug-in has it."""
        real = self._real("is_available")
        return real is not None and bool(real.is_available())

    is_built = is_available

    def version(self) -> Any:
        """The library's version, None if there is no library."""
        real = self._real("version")
        return None if real is None else real.version()

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
        real = self._real(name)
        if real is not None:
            return getattr(real, name)
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
        real = None if name.startswith("_") else self._real(name)
        if real is not None:
            setattr(real, name, value)
        elif name == "allow_tf32":
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
