"""Replaying composite ops: the Python of a composite runs twice, then its launches alone.

Floor 5; imports callpath, autograd.state. A composite that is declared with `replay=True` does
nothing but call ops, in a way that only the metas of its tensors and its other arguments decide.
For calls that are not recorded for autograd, the second one with the same metas is watched: every
launch and every view it makes is written down as a step over numbered storages. Later calls run
the steps and wrap the results; shapes, strides and argument checks are not worked out again.

What cannot be written down (a value read on the host, a storage from elsewhere, a write in place,
random numbers, results that are no tensors) leaves the composite as it is.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from operator import itemgetter
from types import FunctionType
from typing import Any, NamedTuple

from . import callpath, linking, wholes
from .autograd.state import mode
from .base import dtype as dt
from .callpath import NS, Layer
from .ops import registry as R
from .runtime.backend import host_readers, host_writers

_LIMIT = 4096
_LARGEST = 1 << 16  # bytes of a constant that is worth keeping
_SEEN = object()  # the value of a key that was met once


class Result(NamedTuple):
    """One result: the storage it is in, its meta; `same` is the tensor argument that is returned
    as it is, `base` the one of which it is a view (-1: none)."""

    slot: int
    meta: Any
    same: int
    base: int


# function, what picks its arguments from the slots, its output slot(s), the slots to free after it
Step = tuple[Callable[..., Any], Callable[[list[Any]], Any], Any, tuple[int, ...]]


def player(template: list[Any], count: int, steps: Sequence[Step], results: Sequence[Result],
           build: Callable[..., Any] | None) -> Callable[[Sequence[Any]], Any]:
    """A function that runs `steps` on tensors of the metas they were written down for.

    `template` holds the slots: those of the `count` tensor arguments come first, numbers are in
    place. `build` makes the tuple of several results.
    """
    inputs, new, Tensor = slice(0, count), object.__new__, NS["Tensor"]

    def play(tensors: Sequence[Any]) -> Any:
        slots = template.copy()
        slots[inputs] = [t.data_ for t in tensors]
        for f, pick, out, dead in steps:
            slots[out] = f(*pick(slots))
            for k in dead:
                slots[k] = None
        made = []
        for slot, m, same, base in results:
            if same >= 0:
                made.append(tensors[same])
                continue
            r = new(Tensor)
            r.data_, r.meta, r.node, r.kids, r.root = slots[slot], m, None, None, None
            if base >= 0:
                linking.link(r, tensors[base])
            made.append(r)
        return made[0] if build is None else build(made)

    return play


class Recorder:
    """Writes down what a composite does, as a layer that sees every op call of this thread."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        self.thread = threading.get_ident()
        self.failed = False
        self.slots: list[Any] = [t.data_ for t in tensors]
        self.known = {id(d): k for k, d in enumerate(self.slots)}
        self.versions = [(d.base, d.base.version) for d in self.slots]
        self.constants: list[Any] = []
        self.steps: list[tuple[Callable[..., Any], list[int], int, int]] = []

    def see(self, op: R.Op, values: Sequence[Any]) -> Any:
        """The handler of the layer."""
        if threading.get_ident() != self.thread or self.failed or op.kind == "composite":
            return NotImplemented
        if any(p.name == "seed" or (p.kind in (R.ATTR, R.SCALAR, R.INTEGER)
                                    and hasattr(x, "data_"))  # a value that is read
               for p, x in zip(op.params, values)):
            self.failed = True
            return NotImplemented
        if op.kind == "view":
            return self.view(op, values)
        plan, values = callpath.planned(op, list(values))
        if plan.launch is None:
            return op.compose(*values)  # type: ignore[attr-defined]
        inputs = callpath.split(op, values)[0]
        result = callpath.run(op, plan, values)
        results = result if isinstance(result, tuple) else (result,)
        places = [self.place(x) for x in inputs]
        self.steps.append((plan.launch, places, len(self.slots),
                           len(results) if getattr(op, "noutputs", 1) > 1 else 0))
        for r in results:
            self.add(r.data_)
        return result

    def view(self, op: R.Op, values: Sequence[Any]) -> Any:
        """A view is its source's storage from an offset on."""
        result = callpath.call(op, list(values))
        source, d = values[0].data_, result.data_
        if id(d) not in self.known and d.base is source.base:
            self.steps.append((_Offset(d.offset - source.offset), [self.place(source)],
                               len(self.slots), 0))
            self.add(d)
        return result

    def read(self) -> None:
        """Values were read on the host."""
        self.failed = self.failed or threading.get_ident() == self.thread

    def constant(self, d: Any) -> None:
        """A storage was filled from the host: as nothing was read there, its values are the same
        in every call."""
        if threading.get_ident() == self.thread and d.nbytes <= _LARGEST:
            self.constants.append(d.base)
            self.add(d)

    def place(self, x: Any) -> int:
        """The slot of a launch argument; numbers get one of their own."""
        if type(x) in (int, float, bool):
            self.slots.append(x)
            return len(self.slots) - 1
        found = self.known.get(id(x))
        if found is None:
            self.failed = True
        return found or 0

    def add(self, d: Any) -> None:
        """A new storage in the next slot."""
        self.known[id(d)] = len(self.slots)
        self.slots.append(d)
        self.versions.append((d.base, d.base.version))

    def player(self, tensors: Sequence[Any], result: Any) -> Callable[..., Any] | None:
        """What repeats the call that was watched, or None if that cannot be."""
        several = isinstance(result, (tuple, list))
        results = result if several else (result,)
        if self.failed or any(base.version != v for base, v in self.versions):
            return None
        described = []
        for r in results:
            if type(r) is not NS["Tensor"] or r.node is not None or id(
                    r.data_) not in self.known or any(r.data_.base is c for c in self.constants):
                return None
            same = next((k for k, t in enumerate(tensors) if t is r), -1)
            base = next((k for k, t in enumerate(tensors) if r.root is not None
                         and r.root is (t if t.root is None else t.root)), -1)
            described.append(Result(self.known[id(r.data_)], r.meta, same, base))
        build = None if not several else getattr(type(result), "_make", type(result))
        made = {k for _, _, out, n in self.steps for k in range(out, out + max(n, 1))}
        template = [None if k in made or k < len(tensors) else x
                    for k, x in enumerate(self.slots)]
        return player(template, len(tensors), self.finish(made, described), described, build)

    def finish(self, made: set[int], results: Sequence[Result]) -> list[Step]:
        """The steps as `player` wants them: a storage is freed after the last that reads it."""
        kept, seen = {r.slot for r in results}, set[int]()
        out: list[Step] = []
        for f, places, first, n in reversed(self.steps):
            fresh = set(range(first, first + max(n, 1)))
            dead = ((set(places) & made) | fresh) - seen - kept
            seen |= set(places) | fresh
            pick = itemgetter(*places) if len(places) > 1 else itemgetter(
                slice(places[0], places[0] + 1) if places else slice(0, 0))
            out.append((f, pick, slice(first, first + n) if n else first, tuple(dead)))
        return out[::-1]


class _Offset:
    """storage -> the same storage from `offset` bytes further on."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, d: Any) -> Any:
        return d.view(self.offset)


def replayed(body: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of tensors be replayed; see the module's docstring for what it promises."""
    traces: dict[Any, Any] = {}
    R.plan_holders.append(traces)

    @functools.wraps(body)
    def fn(*args: Any, **kwargs: Any) -> Any:
        if NS["modes"]:
            return wholes.whole(body, args, kwargs)
        Tensor, Parameter, recording = NS["Tensor"], NS["Parameter"], mode.enabled
        key: list[Any] = [dt._default]
        tensors = []
        for a in (*args, fn, *kwargs.items()) if kwargs else args:
            t = type(a)
            if t is Tensor or t is Parameter:
                if recording and a.node is not None:
                    return body(*args, **kwargs)
                key.append(a.meta)
                tensors.append(a)
            elif t is list or t is tuple:
                key.append((t, len(a)))
                for x in a:
                    if type(x) is Tensor or type(x) is Parameter:
                        if recording and x.node is not None:
                            return body(*args, **kwargs)
                        key.append(x.meta)
                        tensors.append(x)
                    else:
                        key += type(x), tuple(x) if type(x) is list else x
            else:
                key += t, repr(a) if t is float and not a else a  # -0.0 equals 0.0
        where = tuple(key)
        try:
            found = traces.get(where)
        except TypeError:  # an argument without a hash
            return body(*args, **kwargs)
        if type(found) is FunctionType:
            return found(tensors)
        if found is None and not any(t.meta.virtual or t.meta.override for t in tensors) and (
                not any(map(of_a_class, (*args, *kwargs.values())))):
            if len(traces) >= _LIMIT:
                traces.clear()
            traces[where] = _SEEN
        elif found is _SEEN:
            return watched(body, args, kwargs, tensors, traces, where)
        return body(*args, **kwargs)

    return fn


def of_a_class(a: Any) -> bool:
    """Whether an argument is, or holds, a tensor of a class of its own: such calls are its."""
    if isinstance(a, (list, tuple)):
        return any(map(of_a_class, a))
    return isinstance(a, NS["Tensor"]) and type(a) not in (NS["Tensor"], NS["Parameter"])


def watched(body: Callable[..., Any], args: Any, kwargs: Any, tensors: Sequence[Any],
            traces: dict[Any, Any], where: Any) -> Any:
    """Run a composite and keep what repeats it under `where`."""
    if not tensors or len({id(t.data_) for t in tensors}) != len(tensors):
        return body(*args, **kwargs)  # which of two equal arguments is meant cannot be seen
    recorder = Recorder(tensors)
    with Layer(recorder.see):
        host_readers.append(recorder.read)
        host_writers.append(recorder.constant)
        try:
            result = body(*args, **kwargs)
        finally:
            host_readers.remove(recorder.read)
            host_writers.remove(recorder.constant)
    traces[where] = recorder.player(tensors, result) or False
    return result


__all__ = ["replayed", "Recorder"]
