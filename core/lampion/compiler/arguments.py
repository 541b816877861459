"""Arguments and results of compiled functions: taken apart, described by a key, put together.

Floor 6; imports base, callpath, runtime. Tensors are found in lists, tuples, named tuples, dicts
and dataclasses. All else is part of the key: numbers and strings by value, other objects by
identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..base.device import device
from ..base.dtype import dtype
from ..callpath import NS
from ..runtime.tracing import Seen

VALUES = (bool, int, float, complex, str, bytes, type(None), dtype, device, type(Ellipsis), slice)


class Unknown(Exception):
    """Something that can neither be looked into nor be taken for a constant."""


class Read:
    """Stands in a result for the number in a tensor, `number` when it was traced."""

    def __init__(self, tensor: Any, number: Any) -> None:
        self.tensor, self.number = tensor, number


class Object:
    """Stands in a result for an object that the function made: a class and its attributes."""

    def __init__(self, cls: type, attributes: dict[str, Any]) -> None:
        self.cls, self.attributes = cls, attributes


def objects_apart(x: Any, outside: Callable[[Any], bool]) -> Any:
    """A result with plain objects that hold tensors, and are not of the outside, replaced by their
    `Object`s. Unknown for one that is there twice."""
    seen: set[int] = set()

    def apart(y: Any) -> Any:
        t = type(y)
        if t in (list, tuple):
            return t([apart(z) for z in y])
        if t is dict:
            return {k: apart(z) for k, z in y.items()}
        if isinstance(y, dict) and dataclasses.is_dataclass(y):
            new = {k: apart(z) for k, z in y.items()}
            return y if all(new[k] is z for k, z in y.items()) else t(**new)
        if not plain(y) or outside(y):
            return y
        if id(y) in seen:
            raise Unknown(f"the result holds a {t.__module__}.{t.__name__} twice")
        seen.add(id(y))
        return Object(t, {k: apart(z) for k, z in y.__dict__.items()})

    return apart(x)


def plain(x: Any) -> bool:
    """Whether an object is no more than its class and its attributes."""
    t = type(x)
    return (type(getattr(x, "__dict__", None)) is dict and not isinstance(x, (type, BaseException))
            and t.__module__.partition(".")[0] not in ("lampion", "builtins", "numpy", "functools")
            and t.__new__ is object.__new__ and t.__reduce_ex__ is object.__reduce_ex__
            and t.__reduce__ is object.__reduce__ and not hasattr(t, "__del__")
            and not callable(x) and not dataclasses.is_dataclass(x)
            and not isinstance(x, (dict, list, tuple, NS["BaseTensor"]))
            and not any(c.__dict__.get("__slots__") for c in t.__mro__))


def with_reads(x: Any, reads: Sequence[Read], mixed: bool = False) -> Any:
    """A result with the numbers that were read replaced by their `Read`s: floats are told by
    identity, a whole number if it is the only one. Unknown where that does not tell, and for other
    numbers if the function may have computed them (`mixed`)."""
    waiting = list(reads)
    whole = any(type(r.number) is not float for r in reads)
    if whole and len(reads) > 1:
        raise Unknown("several values are read on the host, whole numbers among them")

    def swap(y: Any) -> Any:
        t = type(y)
        if t in (list, tuple):
            return t([swap(z) for z in y])
        if t is dict:
            return {k: swap(z) for k, z in y.items()}
        for k, r in enumerate(waiting):
            if y is r.number:
                return waiting.pop(k)
        if mixed and t in (int, bool, float, complex, str):
            raise Unknown("a value is read on the host and computed with")
        if whole and t in (int, bool):
            raise Unknown("a whole number is read on the host and returned beside others")
        return y

    x = swap(x)
    if waiting:
        raise Unknown("a value is read on the host")
    return x


def take_apart(x: Any, key: list[Any], tensors: list[Any], keep: list[Any]) -> None:
    """Append to `key` what tells `x` apart, to `tensors` its tensors in order, to `keep` the
    objects that the key names by identity."""
    t = type(x)
    if t is NS["Tensor"] or t is NS["Parameter"]:
        key.append(x.meta)
        key.append(x.node is not None if t is NS["Tensor"] else (t, x.node is not None))
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
    elif isinstance(x, np.generic):
        key.append((t, x.tobytes()))
    elif isinstance(x, np.ndarray):
        raise Unknown("an argument is a NumPy array, whose values are no tensor's: hand over "
                      "lampion.from_numpy(array)")
    elif isinstance(x, Seen):  # of an earlier trace
        key.append((int, int.__pos__(x)))
    else:
        key.append((t, id(x)))
        keep.append(x)


def rebuild(x: Any, new: Callable[[Any], Any], keep: bool = False,
            leaf: Callable[[Any], Any] | None = None) -> Any:
    """`x` with every tensor t replaced by new(t); so are the numbers that a `Read` stands for, and
    an `Object` by the object, unless `keep`. What holds no tensors is replaced by leaf(it)."""
    t = type(x)
    if isinstance(x, NS["BaseTensor"]) or t is Read:
        return new(x)
    if t is list:
        return [rebuild(y, new, keep, leaf) for y in x]
    if isinstance(x, tuple):
        parts = [rebuild(y, new, keep, leaf) for y in x]
        return t._make(parts) if hasattr(t, "_make") else (
            tuple(parts) if t is tuple else t(parts))
    if t is dict:
        return {k: rebuild(y, new, keep, leaf) for k, y in x.items()}
    if isinstance(x, dict):
        if dataclasses.is_dataclass(x):  # an ordered dict whose fields are its items
            return t(**{k: rebuild(y, new, keep, leaf) for k, y in x.items()})
        made = t.__new__(t)
        dict.update(made, {k: rebuild(y, new, keep, leaf) for k, y in x.items()})
        return made
    if t is Object:
        attributes = {k: rebuild(y, new, keep, leaf) for k, y in x.attributes.items()}
        if keep:
            return Object(x.cls, attributes)
        made = object.__new__(x.cls)
        made.__dict__.update(attributes)
        return made
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return dataclasses.replace(x, **{f.name: rebuild(getattr(x, f.name), new, keep, leaf)
                                         for f in dataclasses.fields(x) if f.init})
    return x if leaf is None else leaf(x)


def results_of(x: Any, tensors: list[Any]) -> None:
    """The tensors of a result, in the order of `rebuild`. Unknown for objects that might hold
    tensors out of sight, or change from call to call."""
    t = type(x)
    if isinstance(x, NS["BaseTensor"]) or t is Read:
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
    elif t is Object:
        for y in x.attributes.values():
            results_of(y, tensors)
    elif t not in VALUES and not isinstance(x, type):
        raise Unknown(f"the result holds a {t.__module__}.{t.__name__}")


def same_memory(tensors: Sequence[Any]) -> tuple[int, ...]:
    """For each tensor the first one that starts at the same place of the same memory: (0, 1, 0)."""
    first: dict[int, int] = {}
    return tuple([first.setdefault(id(t.data_), k) for k, t in enumerate(tensors)])


__all__ = ["Unknown", "Read", "with_reads", "take_apart", "rebuild", "results_of", "same_memory",
           "VALUES"]
