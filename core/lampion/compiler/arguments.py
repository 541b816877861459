"""Arguments and results of compiled functions: taken apart, described by a key, put together.

Floor 6; imports base, callpath. Tensors are found in lists, tuples, named tuples, dicts and
dataclasses. All else is part of the key: numbers and strings by value, other objects by identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ..base.device import device
from ..base.dtype import dtype
from ..callpath import NS

VALUES = (bool, int, float, complex, str, bytes, type(None), dtype, device, type(Ellipsis), slice)


class Unknown(Exception):
    """Something that can neither be looked into nor be taken for a constant."""


def take_apart(x: Any, key: list[Any], tensors: list[Any], keep: list[Any]) -> None:
    """Append to `key` what tells `x` apart, to `tensors` its tensors in order, to `keep` the
    objects that the key names by identity."""
    t = type(x)
    if t is NS["Tensor"] or t is NS["Parameter"]:
        key.append(x.meta)
        key.append(x.node is not None)
        tensors.append(x)
    elif t is float:
        key.append((t, x.hex()))
    elif t in VALUES:
        key.append((t, x if t is not slice else (x.start, x.stop, x.step)))
    elif t is list or isinstance(x, tuple):
        key.append((t, len(x)))
        for y in x:
            take_apart(y, key, tensors, keep)
    elif isinstance(x, dict):
        key.append((t, tuple(x)))
        for y in x.values():
            take_apart(y, key, tensors, keep)
    elif dataclasses.is_dataclass(x) and not isinstance(x, type):
        key.append(t)
        for f in dataclasses.fields(x):
            take_apart(getattr(x, f.name), key, tensors, keep)
    elif isinstance(x, NS["BaseTensor"]):
        raise Unknown(f"an argument is a {t.__name__}, which overrides operations"
                      if x.meta.override is not None else f"an argument is a {t.__name__}")
    else:
        key.append((t, id(x)))
        keep.append(x)


def rebuild(x: Any, new: Callable[[Any], Any]) -> Any:
    """`x` with every tensor t replaced by new(t)."""
    t = type(x)
    if isinstance(x, NS["BaseTensor"]):
        return new(x)
    if t is list:
        return [rebuild(y, new) for y in x]
    if isinstance(x, tuple):
        parts = [rebuild(y, new) for y in x]
        return t._make(parts) if hasattr(t, "_make") else (
            tuple(parts) if t is tuple else t(parts))
    if t is dict:
        return {k: rebuild(y, new) for k, y in x.items()}
    if isinstance(x, dict):
        if dataclasses.is_dataclass(x):  # an ordered dict whose fields are its items
            return t(**{k: rebuild(y, new) for k, y in x.items()})
        made = t.__new__(t)
        dict.update(made, {k: rebuild(y, new) for k, y in x.items()})
        return made
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return dataclasses.replace(x, **{
            f.name: rebuild(getattr(x, f.name), new) for f in dataclasses.fields(x) if f.init})
    return x


def results_of(x: Any, tensors: list[Any]) -> None:
    """The tensors of a result, in the order of `rebuild`. Unknown for objects that might hold
    tensors out of sight, or change from call to call."""
    t = type(x)
    if isinstance(x, NS["BaseTensor"]):
        tensors.append(x)
    elif t is list or isinstance(x, tuple):
        for y in x:
            results_of(y, tensors)
    elif isinstance(x, dict):
        for y in x.values():
            results_of(y, tensors)
    elif dataclasses.is_dataclass(x) and not isinstance(x, type):
        for f in dataclasses.fields(x):
            if f.init:
                results_of(getattr(x, f.name), tensors)
    elif t not in VALUES:
        raise Unknown(f"the result holds a {t.__module__}.{t.__name__}")


def same_memory(tensors: Sequence[Any]) -> tuple[int, ...]:
    """For each tensor the first one that starts at the same place of the same memory: (0, 1, 0)."""
    first: dict[int, int] = {}
    return tuple([first.setdefault(id(t.data_), k) for k, t in enumerate(tensors)])


__all__ = ["Unknown", "take_apart", "rebuild", "results_of", "same_memory", "VALUES"]
