"""What PyTorch's public modules are called and what is in them, from `torch_surface.json`.

A list of names is all that is known of PyTorch here. Imports the standard library.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

_FILE = Path(__file__).with_name("torch_surface.json")
VERSION = "2.13.0"


@lru_cache(maxsize=1)
def _read() -> tuple[frozenset[str], dict[str, frozenset[str]], dict[str, str]]:
    data = json.loads(_FILE.read_text(encoding="utf-8"))
    return (frozenset(data["modules"]),
            {module: frozenset(names.split()) for module, names in data["names"].items()},
            data["private"])


def devices() -> list[str]:
    """The kinds of device that PyTorch's programs ask for by name."""
    return list(json.loads(_FILE.read_text(encoding="utf-8"))["devices"])


def switches(kind: str) -> list[str]:
    """Functions of PyTorch's extension module that switch what is not used here ("nothing": they
    return None) or ask for it ("never": they say no; so do those of the
    top level, "top")."""
    found: str = json.loads(_FILE.read_text(encoding="utf-8"))["switches"][kind]
    return found.split()


def is_module(name: str) -> bool:
    """Whether PyTorch has a module of this full name.

    >>> is_module("torch.nn.functional"), is_module("torch.nothing")
    (True, False)
    """
    return name == "torch" or name in _read()[0]


def modules() -> list[str]:
    """The modules whose names are known, sorted."""
    return sorted(_read()[1])


def names(module: str) -> frozenset[str]:
    """The public names of a module (or of `torch.Tensor`); empty if they are not known."""
    return _read()[1].get(module, frozenset())


@lru_cache
def _others(module: str) -> frozenset[str]:
    return frozenset(_read()[2].get(module, "").split())


def stands_in(module: str, name: str) -> bool:
    """Whether `module.name` is PyTorch's: a public name, one of the internals that are visible in
    `torch` itself, or anything else that packages may import from the module."""
    return (name in names(module) or (module == "torch" and name in names("torch._C"))
            or name in _others(module))
