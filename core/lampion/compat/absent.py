"""Stand-ins for what PyTorch has and lampion lacks: they can be imported, and say so when used.

A package may even call one while it is imported, as a decorator; the error comes when what that
gave is used. Imports the standard library and this package's surface.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any, NoReturn

from . import surface


class AbsentError(NotImplementedError, RuntimeError):
    """A name of PyTorch that lampion does not have was used."""


def _fail(name: str) -> NoReturn:
    raise AbsentError(f"{name} is not in lampion yet. What is there and what is not: "
                      "docs/compat.md")


def _imports(frame: FrameType | None) -> bool:
    """Whether a package is being imported there: the body of a module runs, which is not the
    program's own, or a function that it calls. What it makes is only needed when it is used."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class _AbsentMeta(type):
    """Classes that cannot be used: calling one, or asking it for an attribute, raises. A subclass
    of one can be defined, and tested for with isinstance, because packages do both on import."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.__absent__ and _imports(sys._getframe(1)):
            return make(f"{cls.__qualname__}(...)")
        _fail(cls.__qualname__ if cls.__absent__ else f"{cls.__mro__[1].__qualname__} (the base of "
              f"{cls.__qualname__})")

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") or not cls.__dict__.get("__absent__"):
            raise AttributeError(name)
        return make(f"{cls.__qualname__}.{name}")

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __iter__(cls) -> Any:  # or __getitem__ would make an endless sequence
        if cls.__absent__ and _imports(sys._getframe(1)):
            return iter(())
        _fail(cls.__qualname__)

    def __repr__(cls) -> str:
        return f"<{cls.__qualname__}, which lampion lacks>"

    __or__ = __ror__ = lambda cls, other: Any  # in annotations


class Absent(metaclass=_AbsentMeta):
    """Base of all stand-ins."""

    __absent__ = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.__absent__ = False


def make(name: str) -> Any:
    """The stand-in for a full name such as "torch.fx.Tracer"."""
    made = _AbsentMeta(name.rpartition(".")[2], (Absent,), {"__module__": "torch"})
    made.__qualname__ = name
    made.__absent__ = True
    return made


class AbsentModule(ModuleType):
    """A module of PyTorch's that lampion lacks; what it has of names is known."""

    _is_lampion = True

    def __init__(self, name: str) -> None:
        super().__init__(name, f"{name}: not in lampion yet.")
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if surface.is_module(f"{self.__name__}.{name}"):
            return import_module(f"{self.__name__}.{name}")
        if name.startswith("__") or not surface.stands_in(self.__name__, name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        found = make(f"{self.__name__}.{name}")
        setattr(self, name, found)
        return found
