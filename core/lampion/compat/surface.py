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
def _read() -> tuple[frozenset[str], dict[str, frozenset[str]]]:
    data = json.loads(_FILE.read_text(encoding="utf-8"))
    return (frozenset(data["modules"]),
            {module: frozenset(names.split()) for module, names in data["names"].items()})


def devices() -> list[str]:
    """The kinds of device that PyTorch's programs ask for by name."""
    return list(json.loads(_FILE.read_text(encoding="utf-8"))["devices"])


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


@lru_cache(maxsize=1)
def _private() -> dict[str, str]:
    return dict(json.loads(_FILE.read_text(encoding="utf-8"))["private"])


def stands_in(module: str, name: str) -> bool:
    """Whether `module.name` is PyTorch's: a public name, one of the internals that are visible in
    `torch` itself, or a function or class of the module's own that packages may import."""
    return (name in names(module) or (module == "torch" and name in names("torch._C"))
            or (name.startswith("_") and name in _private().get(module, "").split()))
