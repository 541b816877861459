"""Finding modules: `torch.X` is a module that hands out what `lampion.X` has.

Imports lampion and this package.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from types import FunctionType, ModuleType
from typing import Any

from . import surface
from .absent import AbsentModule, make

# Kept in the module once looked up: they are never replaced in lampion's own module.
_LASTING = (type, FunctionType, ModuleType)


class Mirror(ModuleType):
    """`torch.X`: lampion's module X, then what only programs under `torch` need (`extra`), then a
    stand-in for what PyTorch has beyond that."""

    _is_lampion = True

    def __init__(self, name: str, ours: ModuleType, extra: dict[str, Any] | None = None) -> None:
        super().__init__(name, ours.__doc__)
        self.__path__: list[str] = []
        self._ours = ours
        for key in surface.names(name):  # what is there, for those who read __dict__
            if isinstance(ours.__dict__.get(key), _LASTING[:2]):
                setattr(self, key, ours.__dict__[key])
        for key, value in (extra or {}).items():
            setattr(self, key, value)

    def __getattr__(self, name: str) -> Any:
        if name in ("__file__", "__all__"):
            return getattr(self._ours, name)
        full = f"{self.__name__}.{name}"
        if name.startswith("__") and not surface.is_module(full):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        try:
            found = getattr(self._ours, name)
        except AttributeError:
            if surface.is_module(full):
                return importlib.import_module(full)
            if not surface.stands_in(self.__name__, name):
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}"
                                     ) from None
            found = make(full)
        if isinstance(found, ModuleType) and _mirrored(found):
            return importlib.import_module(full)
        if isinstance(found, _LASTING):
            setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        ours = [n for n in dir(self._ours) if not n.startswith("__")]
        return sorted({*ours, *self.__dict__})


def _mirrored(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] == "lampion"


# Modules of PyTorch whose names are those of the top level.
_TOP = ("torch._C", "torch._VF", "torch._tensor", "torch.functional")


def _ours(fullname: str) -> ModuleType | None:
    """lampion's module for the name of one of PyTorch's, or None."""
    name = "lampion" + ("" if fullname in _TOP else fullname.removeprefix("torch"))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
    parent, _, last = name.rpartition(".")
    found = getattr(sys.modules.get(parent), last, None)
    return found if isinstance(found, ModuleType) else None


def _extra(fullname: str) -> dict[str, Any]:
    """What `torch.X` has that is only for programs that think they run on PyTorch."""
    from . import torch_names

    return torch_names.EXTRA.get(fullname, dict)()


class _Loader:
    """Makes the module for a name."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The mirror of lampion's module, or a stand-in."""
        ours = _ours(spec.name)
        extra = _extra(spec.name)
        if getattr(ours, "shared", False):  # its attributes are switches, not names
            return ours
        if ours is None and not extra:
            return AbsentModule(spec.name)
        made = Mirror(spec.name, ours or ModuleType(spec.name), extra)
        if spec.name == "torch":
            made.torch = made  # as PyTorch's own module has
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module is complete."""


class _Installed(Distribution):
    """What `importlib.metadata.version("torch")` is told."""

    def read_text(self, filename: str) -> str | None:
        """The metadata; the distribution has no files."""
        if filename == "METADATA":
            return f"Metadata-Version: 2.1\nName: torch\nVersion: {surface.VERSION}\n"
        return None

    def locate_file(self, path: Any) -> Any:
        """No file of it is anywhere."""
        raise FileNotFoundError(path)


class Finder(DistributionFinder):
    """The entry of `sys.meta_path`: asked first for every import."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """A spec for `torch` and what lampion or PyTorch has under it."""
        if fullname != "torch" and not fullname.startswith("torch."):
            return None
        if not surface.is_module(fullname) and _ours(fullname) is None:
            return None
        return ModuleSpec(fullname, _Loader(), is_package=True)

    @staticmethod
    def invalidate_caches() -> None:
        """Nothing is cached."""

    @classmethod
    def find_distributions(cls, context: Any = None) -> Any:
        """The distribution `torch`, for packages that ask for its version."""
        return [_Installed()] if getattr(context, "name", None) in (None, "torch") else []
