"""Helpers around tensors: data loading, trees of containers, checkpoint files. Floor 7.

The modules are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any


def swap_tensors(t1: Any, t2: Any) -> None:
    """Exchange two tensors: each name then means what the other one did. RuntimeError for tensors
    of different classes' slots, or if one is a view, or has views, that would keep the old one.

    >>> a, b = lampion.zeros(1), lampion.ones(2)
    >>> lampion.utils.swap_tensors(a, b)
    >>> a, b
    (tensor([1., 1.]), tensor([0.]))
    """
    import weakref

    from ..autograd.node import AccumulateGrad
    from ..runtime import tracing

    for t in (t1, t2):
        if t.root is not None or any(kid() is not None for kid in t.kids or ()):
            raise RuntimeError("swap_tensors: a view of one of the tensors exists, which would "
                               "go on being one of the other; clone() it")
    t1.__class__, t2.__class__ = t2.__class__, t1.__class__
    t1.__dict__, t2.__dict__ = t2.__dict__, t1.__dict__
    for slot in ("data_", "meta", "node", "root", "kids"):
        a, b = getattr(t1, slot), getattr(t2, slot)
        setattr(t1, slot, b)
        setattr(t2, slot, a)
    for t in (t1, t2):
        if type(t.node) is AccumulateGrad:
            t.node.owner = weakref.ref(t)
    tracing.changes["tensors"] += 1


def set_module(obj: Any, mod: str) -> None:
    """Say which module an object is from. TypeError for what is no name."""
    if not isinstance(mod, str):
        raise TypeError("The mod argument should be a string")
    obj.__module__ = mod


def __getattr__(name: str) -> Any:
    """A submodule, imported on first use."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
