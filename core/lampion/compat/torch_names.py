"""What only programs that think they run on PyTorch ask for: its version, its build, switches of
libraries that are not used here.

`EXTRA` maps the name of a module to a function that gives names and values. Imports lampion.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from . import surface


class TorchVersion(str):
    """A version that compares with version texts and tuples by its numbers.

    >>> TorchVersion("2.13.0") >= "2.2", TorchVersion("2.13.0") < (3, 0)
    (True, True)
    """

    def _numbers(self, other: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        def of(v: Any) -> tuple[int, ...]:
            parts = v if isinstance(v, tuple) else str(v).partition("+")[0].split(".")
            return tuple(int("".join(c for c in str(p) if c.isdigit()) or 0) for p in parts)

        a, b = of(str(self)), of(other)
        width = max(len(a), len(b))
        return a + (0,) * (width - len(a)), b + (0,) * (width - len(b))

    def __lt__(self, other: Any) -> bool:
        a, b = self._numbers(other)
        return a < b

    def __le__(self, other: Any) -> bool:
        a, b = self._numbers(other)
        return a <= b

    def __gt__(self, other: Any) -> bool:
        a, b = self._numbers(other)
        return a > b

    def __ge__(self, other: Any) -> bool:
        a, b = self._numbers(other)
        return a >= b

    def __eq__(self, other: Any) -> bool:
        a, b = self._numbers(other)
        return a == b

    def __ne__(self, other: Any) -> bool:
        return not self == other

    __hash__ = str.__hash__


def _torch() -> dict[str, Any]:
    return {"__version__": TorchVersion(surface.VERSION)}


def _version() -> dict[str, Any]:
    """No device library is built in, so all their versions are None."""
    known = dict.fromkeys(surface.names("torch.version"))
    return {**known, "__version__": TorchVersion(surface.VERSION), "debug": False,
            "git_version": "lampion"}


def _torch_version() -> dict[str, Any]:
    return {"TorchVersion": TorchVersion, "__version__": TorchVersion(surface.VERSION)}


def _config() -> dict[str, Any]:
    def show() -> str:
        import lampion

        return f"lampion {lampion.__version__}, Python {sys.version.split()[0]}\n"

    return {"show": show, "parallel_info": lambda: f"threads: {_threads()}\n"}


def _threads() -> int:
    import lampion

    return int(lampion.get_num_threads())


EXTRA: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": _torch, "torch.version": _version, "torch.torch_version": _torch_version,
    "torch.__config__": _config,
}


def module(name: str, **values: Any) -> ModuleType:
    """A module made of values."""
    made = ModuleType(name)
    made.__dict__.update(values)
    return made
