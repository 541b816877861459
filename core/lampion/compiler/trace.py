"""Tracing: a function runs as it always does, and every launch is written down.

Floor 6; imports graph and what is below. The run is a real one, on the real arguments: its results
are right whatever the trace makes of them. What cannot be repeated (a value read on the host, a
copy between devices, memory that is swapped) fails the trace, with the reason and the user's line;
the function then goes on running eagerly.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from .. import callpath, conversion, random
from ..autograd.node import AccumulateGrad
from ..base.errors import LampionError
from ..callpath import NS
from ..ops import registry as R
from ..runtime import tracing
from ..runtime.backend import host_readers, host_writers
from .arguments import Read
from .graph import Buffer, Call, Graph, HostCall, Item, Late, Ref, SetGrads
from .reads import returned
from .sizes import Sizes, user

_SIZE = NS["Tensor"].size.__code__  # which looks at the shape itself
_GENERATED = "generated from the kernel IR"


class GraphBreak(LampionError, RuntimeError):
    """Raised under `fullgraph=True` where a function does what cannot be compiled."""


class Leaf:
    """What a trace knows of a leaf's gradient: as it was at the start, and whether that matters."""

    __slots__ = ("node", "start", "known", "last")

    def __init__(self, node: AccumulateGrad) -> None:
        self.node, self.start = node, node.grad
        self.known = ""  # "": not looked at yet, "read": the start matters, "cleared": it does not
        self.last = node.grad  # as the items written so far leave it


class Trace(tracing.Tracer):
    """A recording of one run; `with trace:` around it, `graph()` afterwards.

    `arguments` are the tensors that later runs replace, or what stands for them; `originals` are
    the caller's; `code` is the function's.
    """

    def __init__(self, name: str, arguments: Sequence[Any], strict: bool = False,
                 code: Any = None, originals: Sequence[Any] = (),
                 dynamic: bool = True) -> None:
        self.name, self.strict = name, strict
        self.code = code  # of the function, if it is one
        self.checks: list[tuple[Any, Exception]] = []  # flags that have to be false
        self.mixed = False  # whether it may have computed with them
        self.reads: list[Read] = []  # numbers that it read in order to return them
        self.thread = threading.get_ident()
        self.reason = ""
        self.dynamic, self.seen = dynamic, Sizes()
        self.places = {id(t): k for k, t in reversed(list(enumerate(arguments)))}
        self.originals = originals or arguments
        self.arguments = {id(t.data_.base): t for t in reversed(arguments)}
        self.facts: dict[tuple[int, str], Any] = {}  # (argument, what was asked of it) -> answer
        self.items: list[Item] = []
        self.buffers: dict[int, Buffer] = {}
        self.constants: set[int] = set()
        self.written: set[Buffer] = set()
        self.leaves: dict[AccumulateGrad, Leaf] = {}
        self.generators: dict[Any, list[Any]] = {}  # generator -> [key, first offset, groups]
        self.held: dict[int, Any] = {}  # id(storage) -> the tensor that showed it
        self.parts = self.count = 0
        self._streams = [(g, g.key, g.offset) for g in random.defaults()]
        for k, t in enumerate(arguments):
            base = t.data_.base
            known = self.buffers.get(id(base))
            if known is None:
                self.buffers[id(base)] = Buffer("input", k, base.nbytes, t.meta.device, index=k,
                                                storage=base, shift=t.data_.offset)
            elif known.shift != t.data_.offset:
                self.reason = "two arguments are views of one tensor"

    # ---- the time of the trace -----------------------------------------------------------------

    def __enter__(self) -> Trace:
        conversion._plain_copies.clear()  # copies that look at no trace
        tracing.active.append(self)
        host_readers.append(self._read)
        host_writers.append(self._constant)
        self._layer = callpath.Layer(lambda op, values: self._seen(values))
        self._layer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._layer.__exit__(*error)
        del self._layer  # a cycle, which would keep the old gradients for long
        host_writers.remove(self._constant)
        host_readers.remove(self._read)
        tracing.active.remove(self)

    def _mine(self) -> bool:
        return threading.get_ident() == self.thread and not self.reason

    def fail(self, reason: str) -> None:
        """Give the trace up; under `strict`, raise GraphBreak at the user's line."""
        if not self._mine():
            return
        where = user_line()
        self.reason = f"{reason} ({where})" if where else reason
        if self.strict:
            raise GraphBreak(f"{self.name} cannot be compiled as one graph: {self.reason}. Move "
                             "that out of the function, or leave fullgraph=True out to run it "
                             "eagerly.")

    def _read(self) -> None:
        self.fail("a value is read on the host")

    def item(self, t: Any) -> Any:
        if not self._mine() or t.meta.virtual:
            return None
        f = sys._getframe(2)
        if f.f_code.co_name == "__float__":
            f = f.f_back  # type: ignore[assignment]
        how = returned(f) if f.f_code is self.code else ""
        if not how:
            return None
        self.mixed = self.mixed or how == "perhaps"
        alias = NS["make_tensor"](t.data_, t.meta.plain, None)
        self.__exit__()
        try:
            number = alias.item()
        finally:
            self.__enter__()
        self.reads.append(Read(alias, number))
        return number

    def original(self, t: Any, what: str) -> Any:
        if not self._mine():
            return t
        k = self.places.get(id(t))
        if k is not None:
            t = self.originals[k]
        answer = fact(t, what)
        if answer is None:
            self.fail(f"{what} of a tensor is read")
        elif k is not None:
            self.facts[k, what] = answer
        elif what in ("storage_offset", "grad"):  # of what is no argument itself
            b = self.buffers.get(id(t.data_.base))
            if b is None or b.kind != "made":
                self.fail(f"{what} of a tensor is read")
        return t

    def sizes(self, row: Sequence[int]) -> Sequence[int]:
        f = sys._getframe(2)
        if f.f_code is _SIZE:
            f = f.f_back
        if not self.dynamic or not self._mine() or not user(f):
            return row
        return tuple([self.seen.read(n) for n in row])

    def decided(self, name: str, a: int, b: int) -> None:
        if self.dynamic and self._mine():
            self.seen.decided(name, a, b)

    def viewed(self, plan: Any) -> None:
        if self.dynamic and self._mine():
            self.seen.views.append(plan)

    def length(self, n: int) -> None:
        if self._mine() and user(sys._getframe(2)):
            self.seen.pin(n)

    def check(self, bad: Any, error: Exception) -> bool:
        if not self._mine() or bad.meta.virtual:
            return False
        wrong = bad.detach().any()
        if not self._mine():
            return False
        self.checks.append((NS["make_tensor"](wrong.data_, wrong.meta.plain, None), error))
        self.__exit__()
        try:
            if wrong.item():
                raise error
        finally:
            self.__enter__()
        return True

    def _constant(self, storage: Any) -> None:
        if self._mine():
            b = self._buffer(storage, None)
            if b.kind == "made":
                b.kind, b.storage = "held", storage.base
            self.constants.add(id(storage.base))

    def _seen(self, values: Sequence[Any]) -> Any:
        """The layer's handler: looks at what calls are given, takes none of them."""
        if self._mine():
            for v in values:
                for t in (v if type(v) in (list, tuple) else (v,)):
                    d = getattr(t, "data_", None)
                    if d is None:
                        continue
                    if t.meta.virtual:
                        self.fail("a function transform is running")
                        return NotImplemented
                    if id(d.base) not in self.buffers:
                        self._buffer(d, t.meta.device)
                        self.held[id(d.base)] = t
                    if type(t.node) is AccumulateGrad and t.node not in self.leaves:
                        self.leaves[t.node] = Leaf(t.node)
        return NotImplemented

    # ---- what the call path tells --------------------------------------------------------------

    def ran(self, plan: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        if not self._mine():
            return
        if "fallback" in plan.chosen:
            self.fail(f"{plan.op.qualname} falls back to another device")
            return
        late = self._late_positions(plan, inputs)
        reads: list[Any] = []
        for k, (x, m) in enumerate(zip(inputs, plan.call.inputs)):
            if hasattr(x, "base"):
                r = self.ref(x, m)
                if r.buffer.kind == "made" and r.buffer not in self.written and m.numel:
                    self.fail(f"{plan.op.qualname} reads memory that nothing has written")
                reads.append(r)
            else:
                if self.reads and any(x == r.number for r in self.reads):
                    self.fail("a value is read on the host and computed with")
                reads.append(late.get(k, x))
        writes = []
        for x, m in zip(outputs, plan.metas):
            if id(x.base) not in self.buffers:
                self.made(x)
            if id(x.base) in self.constants:
                self.fail("a constant that the function makes is written in place")
            writes.append(self.ref(x, m))
            self.written.add(writes[-1].buffer)
        launch = plan.launch_of
        self.items.append(Call(plan.op.qualname, plan.call, launch, tuple(reads), tuple(writes),
                               plan.chosen == _GENERATED, plan,
                               0 if launch.inner is None else launch.inner[1], user_line(),
                               part=self.parts))

    def made(self, storage: Any) -> None:
        if self._mine() and id(storage.base) not in self.buffers:
            base = storage.base
            b = self.buffers[id(base)] = Buffer("made", self._number(), base.nbytes, None)
            # not kept alive: a trace takes no more memory than the run itself
            b.weak = weakref.ref(base, functools.partial(_gone, self.buffers, id(base)))

    def part(self) -> None:
        if self._mine():
            self.parts += 1

    def drew(self, generator: Any, first: int, groups: int) -> None:
        if not self._mine():
            return
        known = self.generators.get(generator)
        if known is None:
            self.generators[generator] = [generator.key, first, groups]
        elif known[0] != generator.key:
            self.fail("a generator is seeded")
        elif first == known[1] + known[2]:
            known[2] += groups
        elif not known[1] <= first <= first + groups <= known[1] + known[2]:
            self.fail("a generator's position is set")

    def grad_read(self, node: AccumulateGrad) -> None:
        if not self._mine():
            return
        leaf = self._leaf(node)
        leaf.known = leaf.known or "read"
        g = node.grad
        if g is not None and id(g.data_.base) not in self.buffers:
            base = g.data_.base
            self.buffers[id(base)] = Buffer("grad", self._number(), base.nbytes,
                                            g.meta.device, owner=node, storage=base,
                                            shift=g.data_.offset)

    def grad_cleared(self, node: AccumulateGrad) -> None:
        if self._mine():
            leaf = self._leaf(node)
            leaf.known = leaf.known or "cleared"

    def _number(self) -> int:
        self.count += 1
        return self.count

    def _leaf(self, node: AccumulateGrad) -> Leaf:
        found = self.leaves.get(node)
        if found is None:
            found = self.leaves[node] = Leaf(node)
        return found

    def host_call(self, function: Callable[..., Any], args: Sequence[Any],
                  kwargs: dict[str, Any]) -> Any:
        given = [*args[1:], *kwargs.values()]
        if self._mine() and any(callable(a) or hasattr(a, "data_") for a in given):
            self.fail(f"{getattr(function, '__qualname__', function)}() is given a function or a "
                      "tensor")
        if self._mine():
            self._settle_grads()
        self.__exit__()
        try:
            result = function(*args, **kwargs)
        finally:
            self.__enter__()
        if self._mine():
            self.items.append(HostCall(function, tuple(args), kwargs))
            for leaf in self.leaves.values():
                if leaf.last is not leaf.node.grad:
                    self.fail(f"{function.__qualname__}() replaces gradients")
        return result

    # ---- refs ----------------------------------------------------------------------------------

    def ref(self, storage: Any, m: Any) -> Ref:
        """The ref of a tensor that shows `storage`."""
        b = self._buffer(storage, m.device)
        if b.device is None:
            b.device = m.device
        at = storage.offset - b.shift
        if at < 0:
            self.fail("a view reaches back before the start of an argument")
        if b.kind == "input":
            t = self.arguments.get(id(b.storage))
            if t is not None and at + m.span > t.meta.span:
                self.facts[b.index, "room"] = fact(self.originals[b.index], "room")
        return Ref(b, at, m)

    def _buffer(self, storage: Any, where: Any) -> Buffer:
        base = storage.base
        found = self.buffers.get(id(base))
        if found is None:
            found = self.buffers[id(base)] = Buffer("held", self._number(), base.nbytes, where,
                                                    storage=base)
        return found

    def _late_positions(self, plan: Any, inputs: Sequence[Any]) -> dict[int, Late]:
        """Launch arguments that are the key or a position of a generator."""
        out: dict[int, Late] = {}
        at = 0
        names = []
        for p in plan.op.params:
            if p.kind == R.ATTR:
                continue
            v = plan.call.args[p.name]
            if p.kind == R.LIST:
                at += len(v)
            elif v is not None:
                if p.name in ("seed", "offset"):
                    names.append((p.name, at))
                at += 1
        where = dict(names)
        if "seed" not in where or "offset" not in where:
            return out
        key, first = inputs[where["seed"]], inputs[where["offset"]]
        for g, (k, start, groups) in self.generators.items():
            if k == key and start <= first <= start + groups:
                return {where["seed"]: Late(g, "key"), where["offset"]: Late(g, first - start)}
        self.fail("random numbers come from a position that the function did not draw")
        return out

    # ---- the end -------------------------------------------------------------------------------

    def _settle_grads(self) -> None:
        """Write down the gradients that leaves were given since the last time."""
        changed: list[tuple[Any, Any]] = []
        for leaf in self.leaves.values():
            g = leaf.node.grad
            if g is leaf.last:
                continue
            leaf.last = g
            if g is None:
                changed.append((leaf.node, None))
                continue
            b = self.buffers.get(id(g.data_.base))
            if g.node is not None or g.root is not None:
                self.fail("a leaf is given a gradient that has a history or is a view")
            elif b is None:
                changed.append((leaf.node, g))
            elif b.kind == "made":
                changed.append((leaf.node, self.ref(g.data_, g.meta.plain)))
            else:
                changed.append((leaf.node, g))
        if changed:
            self.items.append(SetGrads(changed))

    def finish(self) -> None:
        """The end of the function: gradients, and the checks of what moved."""
        if not self._mine():
            return
        self._settle_grads()
        for g, (key, start, groups) in self.generators.items():
            if g.key != key or g.offset != start + groups:
                self.fail("a generator's position is set")
        for g, key, offset in self._streams:
            if g not in self.generators and (g.key, g.offset) != (key, offset):
                self.fail("a generator's position is set")

    def graph(self, outputs: Sequence[Ref], items: Sequence[Item] | None = None) -> Graph:
        """What was written down."""
        return Graph(self.name, list(self.items if items is None else items), list(outputs),
                     {g: n for g, (_, _, n) in self.generators.items()})


def fact(t: Any, what: str) -> Any:
    """What programs may depend on of an argument's property, beyond its meta; None if on more
    than can be compared."""
    n = t.node
    leaf = n is None or type(n) is AccumulateGrad
    if what == "is_leaf":
        return leaf
    if what == "_is_view":
        return t.root is not None
    if what == "retains_grad":
        return bool(t.__dict__.get("_retains"))
    if what == "room":  # how much memory there is from its start
        return t.data_.base.nbytes - t.data_.offset
    if what == "storage_offset":
        return t.data_.offset
    if (what == "grad_fn" and leaf) or (what == "_base" and t.root is None) or (
            what == "grad" and t.__dict__.get("_grad") is None):
        return True
    return None


def _gone(buffers: dict[int, Buffer], at: int, _: Any) -> None:
    buffers.pop(at, None)


def user_line() -> str:
    """file:line of the innermost frame that is not lampion's."""
    f: Any = sys._getframe(1)
    while f is not None:
        name = f.f_code.co_filename
        if "/lampion/" not in name and not name.startswith("<lampion"):
            return f"{name.rsplit('/', 1)[-1]}:{f.f_lineno}"
        f = f.f_back
    return ""


__all__ = ["Trace", "GraphBreak", "Leaf", "fact", "user_line"]
