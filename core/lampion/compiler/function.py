"""Compiled functions: entries by what the arguments look like, traced on first use.

Floor 6; imports everything of this package. A call probes the entries with the key of its arguments
and the state of the flags; an entry whose guards hold runs its program. Otherwise the function runs
under a trace, once, and the trace becomes a new entry: a whole program, or (if its results need
gradients) a forward and a backward program around one node of the graph of autograd. What a trace
cannot follow runs eagerly from then on, and a line of the log says why.
"""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from .. import callpath
from ..autograd import engine
from ..autograd.node import AccumulateGrad
from ..autograd.state import clock, mode
from ..base import dtype as dt
from ..base.meta import Meta, meta
from ..callpath import NS
from ..conversion import raw_copy
from ..logging import get_logger
from ..ops import plans as P
from ..runtime import tracing
from ..tensor import empty_meta
from . import arguments, names
from .dynamic import WHOLE, Template, Unfit, pattern
from .fusion import fuse
from .graph import Buffer, Call, Graph, Late, Ref
from .guards import World, is_module, ours, same_memory, watched
from .history import Backward, CompiledNode, Inlet, ancestors, freed
from .joining import join_in_place, merge_products
from .passes import drop_dead, elide_copies, functionalize, share_common
from .program import Program, build
from .recompute import recompute
from .results import Argument, New, Number, Same, maker
from .sizes import looked, plain
from .trace import GraphBreak, Trace, fact

_changes = tracing.changes
_CONTAINERS = ("ModuleList", "ModuleDict", "OptimizedModule")
CACHE_SIZE = 32  # kinds of calls of which none came twice, before new ones run eagerly
MOST_ENTRIES = 512
MOST_BROKEN = 4  # traces that failed for one reason, before new kinds of calls are not traced
_NEVER: dict[str, int] = {}
MOST_MISSES = 8  # samples of other sizes from which nothing could be learnt
MOST_TRIES = 4  # pairs of earlier samples that a new one is compared with


def _log_graph(graph: Graph) -> None:
    get_logger("compile").debug("traced", graph=str(graph))


seen_graphs: Callable[[Graph], None] = _log_graph  # told of every graph before its passes


def optimize(graph: Graph) -> Graph:
    """All passes, in order."""
    seen_graphs(graph)
    functionalize(graph)
    share_common(graph)
    drop_dead(graph)
    elide_copies(graph)
    join_in_place(graph)
    merge_products(graph)
    recompute(graph)
    fuse(graph)
    get_logger("compile").debug("compiled", graph=str(graph))
    return graph


class Entry:
    """What one kind of call runs. `reason` says why, if that is the function itself."""

    def __init__(self, world: World | None, reason: str = "") -> None:
        self.world, self.reason = world, reason
        self.parts: list[tuple[dict[str, Any], Compiled]] = []  # what is compiled instead
        self.programs: tuple[Program, ...] = ()
        self.result: Any = None  # its structure
        self.made: Sequence[Any] = ()  # how its tensors are made
        self.sizes: Any = None  # what the function found out about sizes
        self.held: list[tuple[Any, Any, Any]] = []  # (tensor, its storage, its node)
        self.grads: list[tuple[Any, Any]] = []  # (leaf, the meta of its gradient or None)
        self.checks: list[tuple[int, Meta, Exception]] = []  # places of flags that raise an error
        self.leaves: list[Any] = []  # whose gradients it changes; they have no hooks
        self.keep: list[Any] = []
        self.moves = -1
        self.used = False  # more than once
        self.moved = False  # whether the function changed what it reads
        self.apart = False  # whether it writes to arguments, which must not overlap then
        self.typed = False  # whether it may tell a Parameter from a tensor
        self.facts: list[tuple[int, str, Any]] = []  # (argument, what of it, how it has to be)
        self.same: list[tuple[int, Any]] = []  # (argument, memory of the outside that it is)
        self.outside: list[Any] = []  # tensors of the outside that no other argument may show
        self._bases: tuple[int, frozenset[int]] = (-1, frozenset())

    def holds(self) -> bool:
        """Whether the guards beside the key hold."""
        if self.grads:
            for leaf, m in self.grads:
                g = leaf.grad
                if (None if g is None else g.meta) is not m:
                    return False
        for leaf in self.leaves:
            if leaf.accumulated or (leaf.extra is not None and hooked(leaf.extra)):
                return False
        if self.world is not None and not self.world.holds():
            return False
        if self.moves != _changes["tensors"]:
            if not same_memory(self.held):
                return False
            self.moves = _changes["tensors"]
        return True

    def fits(self, tensors: Sequence[Any]) -> bool:
        """Whether it is right for these arguments, beyond their metas."""
        for k, what, how in self.facts:
            if fact(tensors[k], what) != how:
                return False
        for k, base in self.same:
            if tensors[k].data_.base is not base():
                return False
        return not self.outside or self.beside(tensors)

    def beside(self, tensors: Sequence[Any]) -> bool:
        """Whether the arguments share no memory with the outside, save where they did."""
        stamp, bases = self._bases
        if stamp != _changes["tensors"]:
            bases = frozenset([id(t.data_.base) for r in self.outside for t in [r()]
                               if t is not None])
            self._bases = _changes["tensors"], bases
        if bases.isdisjoint([id(t.data_.base) for t in tensors]):
            return True
        known = {k for k, _ in self.same}
        return all(k in known or id(t.data_.base) not in bases for k, t in enumerate(tensors))

    def run(self, tensors: Sequence[Any]) -> Any:
        """The results of a call with these tensors among its arguments."""
        raise NotImplementedError

    def check(self, storages: Sequence[Any]) -> None:
        """Raise the error of the first flag that is true."""
        for place, m, error in self.checks:
            if NS["make_tensor"](storages[place], m, None).item():
                raise error.with_traceback(None)


class Whole(Entry):
    """One program; its results need no gradients (any more)."""

    def __init__(self, world: World, program: Program, result: Any, made: Sequence[Any]) -> None:
        super().__init__(world)
        self.programs = (program,)
        self.program, self.make = program.run, maker(result, made)
        self.result, self.made = result, made

    def run(self, tensors: Sequence[Any]) -> Any:
        storages = self.program([t.data_ for t in tensors])
        if self.checks:
            self.check(storages)
        return self.make(storages, tensors, None)


class Split(Entry):
    """A forward program, and a backward program that a node of the result's history runs."""

    def __init__(self, world: World, forward: Program, backward: "Backward", result: Any,
                 made: Sequence[Any]) -> None:
        super().__init__(world)
        self.programs = (forward, backward.program)
        self.forward, self.backward, self.make = forward.run, backward, maker(result, made)
        self.result, self.made = result, made

    def run(self, tensors: Sequence[Any]) -> Any:
        storages = self.forward([t.data_ for t in tensors])
        if self.checks:
            self.check(storages)
        return self.finish(storages, tensors)

    def finish(self, storages: Sequence[Any], tensors: Sequence[Any]) -> Any:
        """The results with their history."""
        back = self.backward
        node = object.__new__(CompiledNode)
        node.backward = back
        node.edges = tuple([t.node if k < 0 else tensors[k].node for k, t in back.targets])
        node.saved = (storages, [t.data_ for t in tensors])
        node.extra, node.epoch = None, clock[0]
        return self.make(storages, tensors, node)


class Compiled:
    """A callable that runs `fn` as compiled programs. Made by `lampion.compile`."""

    def __init__(self, fn: Callable[..., Any], *, fullgraph: bool = False,
                 dynamic: bool | None = None, options: dict[str, Any] | None = None,
                 target: Any = None) -> None:
        functools.update_wrapper(self, fn)
        self.fn, self.fullgraph, self.dynamic = fn, fullgraph, dynamic
        self.options = options or {}
        self.target = fn if target is None else target
        self.name = getattr(fn, "__qualname__", type(fn).__name__) if target is None else \
            type(target).__name__
        self.code = getattr(getattr(fn, "__func__", fn), "__code__", None)
        self.reset()

    def reset(self) -> None:
        """Forget all programs."""
        self.entries: dict[Any, list[Entry]] = {}
        self.quick: dict[Any, Entry] = {}
        self.made: dict[int, Compiled] = {}  # of modules inside
        self.parts: list[tuple[dict[str, Any], Compiled]] | None = None  # when given up
        self.said: set[str] = set()
        self.calls: dict[Any, int] = {}  # of kinds that are not traced yet
        self.budget = self.options.get("cache_size", CACHE_SIZE)
        self.samples: dict[Any, list[Any]] = {}  # traced kinds that differ in sizes alone
        self.templates: dict[Any, list[Template]] = {}
        self.broken: dict[str, int] = {}  # why traces failed, while none ever succeeded
        self.misses: dict[Any, int] = {}  # samples of which no template came

    def _too_many(self) -> str:
        return (f"{self.options.get('cache_size', CACHE_SIZE)} kinds of calls (shapes, numbers, "
                "what the function reads of the outside) were compiled of which none came twice. "
                "Give it tensors of fewer shapes, and numbers that change as tensors")

    def __reduce__(self) -> Any:
        return (_restored, (self.fn, self.fullgraph, self.options, self.dynamic))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        return functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (kwargs or NS["modes"]):  # tensors alone, as they came before
            try:
                entry = self.quick[(mode.enabled, dt._default, *[a.meta for a in args],
                                    *[a.node is None for a in args])]
            except (AttributeError, KeyError):
                pass
            else:
                if entry.holds() and (not entry.outside or entry.beside(args)):
                    return entry.run(args)
        return self._general(args, kwargs)

    def _general(self, args: Any, kwargs: Any) -> Any:
        """A call that is not like an earlier one, or not of tensors alone."""
        if tracing.active or names._stance[0] == "force_eager":
            return self.fn(*args, **kwargs)
        key: list[Any] = [mode.enabled, mode.inference, dt._default]
        if NS["modes"]:
            state = NS["autocast_key"]() if "autocast_key" in NS else (0,)
            if NS["levels"] or NS["modes"] != state[0]:
                return self.fn(*args, **kwargs)  # somebody watches every op
            key.append(state)
        tensors: list[Any] = []
        keep: list[Any] = []
        try:
            for a in args:
                if type(a) is int:
                    key.append((WHOLE, a))
                else:
                    arguments.take_apart(a, key, tensors, keep)
            if kwargs:
                arguments.take_apart(kwargs, key, tensors, keep)
            where = tuple(key)
            if len(tensors) > 1:
                where = (where, arguments.same_memory(tensors))
            found = self.entries.get(where, ())
        except (arguments.Unknown, TypeError) as e:
            return self._eager(str(e), args, kwargs)
        for entry in found:
            if entry.holds() and entry.fits(tensors):
                if entry.apart and _overlap(tensors):
                    return self.fn(*args, **kwargs)
                if not entry.used:
                    entry.used = True
                    self.budget += 1
                if entry.reason:
                    return self._in_parts(entry.parts, args, kwargs)
                self._remember(entry, args, tensors)
                return entry.run(tensors)
        if self.templates:
            further = self._further(where, tensors, keep)
            if further is not None:
                if further.apart and _overlap(tensors):
                    return self.fn(*args, **kwargs)
                self._remember(further, args, tensors)
                return further.run(tensors)
        return self._trace(where, args, kwargs, tensors, keep)

    def _further(self, where: Any, tensors: list[Any], keep: list[Any]) -> Entry | None:
        """An entry for sizes that were not traced, if those that were tell how it looks."""
        shape, numbers = pattern(where)
        for template in self.templates.get(shape, ()):
            if not template.entry.holds():
                continue
            entry: Entry | None = template.make(numbers)
            if entry is not None and entry.holds() and entry.fits(tensors):
                entry.keep, entry.used = keep, True
                self._make_room()
                self.entries.setdefault(where, []).append(entry)
                return entry
        return None

    def _sample(self, where: Any, entry: Entry) -> None:
        """Remember a traced entry; if earlier ones differ from it in sizes alone, learn from them
        how it looks for other sizes."""
        shape, numbers = pattern(where)
        rows = self.samples.setdefault(shape, [])
        rows.append((entry, numbers))
        if self.misses.get(shape, 0) > MOST_MISSES:
            del rows[:-1]
            return
        for a, b in [(a, b) for k, b in enumerate(rows[:-1]) for a in rows[:k]][-MOST_TRIES:]:
            try:
                found = Template([a, b, rows[-1]], self.dynamic is True)
            except Unfit as e:
                get_logger("compile").debug("sizes", function=self.name, reason=str(e))
                continue
            self.templates.setdefault(shape, []).append(found)
            self.budget += 3
            del rows[:]
            return
        if len(rows) > 2:
            self.misses[shape] = self.misses.get(shape, 0) + 1
            del rows[:-5]

    def _make_room(self) -> None:
        if sum(map(len, self.entries.values())) >= MOST_ENTRIES:
            self.entries.pop(next(iter(self.entries)))
            self.quick.clear()

    def _remember(self, entry: Entry, args: Any, tensors: list[Any]) -> None:
        """Let calls find an entry by the metas of their arguments alone, if these are tensors. An
        entry that writes to none of them is right for tensors that share memory, too."""
        if (names._stance[0] == "default" and len(tensors) == len(args)
                and all(map(operator.is_, args, tensors)) and not (
                    entry.apart or entry.typed or entry.facts or entry.same or NS["modes"]
                    or mode.inference)
                and len({id(t.data_) for t in tensors}) == len(tensors)
                and all(type(t) is NS["Tensor"] for t in tensors)):
            self.quick[(mode.enabled, dt._default, *[t.meta for t in tensors],
                        *[t.node is None for t in tensors])] = entry

    def _in_parts(self, parts: Sequence[tuple[dict[str, Any], Compiled]], args: Any,
                  kwargs: Any) -> Any:
        """Run the function itself, with the modules in it compiled each for itself."""
        for attributes, compiled in parts:
            attributes["forward"] = compiled
        try:
            return self.fn(*args, **kwargs)
        finally:
            for attributes, _ in parts:
                attributes.pop("forward", None)

    def _eager(self, reason: str, args: Any, kwargs: Any) -> Any:
        if self.fullgraph:
            raise GraphBreak(f"{self.name} cannot be compiled: {reason}")
        self._tell(reason)
        return self.fn(*args, **kwargs)

    def _parts(self, world: Any) -> list[tuple[dict[str, Any], Compiled]]:
        """The largest modules inside, as compiled functions that may take the place of their
        `forward` where the whole cannot be compiled."""
        waiting = [self.target] if is_module(self.target) else world.roots()
        out = []
        seen: set[int] = set()
        while waiting:
            m = waiting.pop(0)
            if id(m) in seen:
                continue
            seen.add(id(m))
            inside = list(m.children())
            if m is self.target or type(m).__name__ in _CONTAINERS:
                waiting += inside
            elif "forward" not in m.__dict__ and (inside or not ours(type(m))):
                made = self.made.get(id(m))
                if made is None:
                    made = self.made[id(m)] = Compiled(m.forward, dynamic=self.dynamic,
                                                       options=self.options, target=m)
                    names._made.add(made)
                out.append((m.__dict__, made))
        return out

    def _tell(self, reason: str) -> None:
        if reason not in self.said and not self.options.get("quiet"):
            self.said.add(reason)
            self._say(reason)

    def _say(self, reason: str) -> None:
        get_logger("compile").warning(f"{self.name} runs eagerly: {reason}")

    def _trace(self, where: Any, args: Any, kwargs: Any, tensors: list[Any],
               keep: list[Any]) -> Any:
        if names._stance[0] != "default":
            if names._stance[0] == "fail_on_recompile":
                raise RuntimeError(f"{self.name} would be compiled for this call, but the stance "
                                   "is fail_on_recompile")
            return self.fn(*args, **kwargs)
        if not self.budget:
            if self.fullgraph:
                raise GraphBreak(f"{self.name}: {self._too_many()}")
            self._tell(self._too_many())
            if not any(_metas(where) == _metas(w) for w in self.entries):
                return self.fn(*args, **kwargs)  # shapes that the modules inside do not know
            if self.parts is None:
                self.parts = self._parts(World(self.target, [*args, *kwargs.values()]))
            return self._in_parts(self.parts, args, kwargs)
        if self.options.get("after", 0):  # kinds of calls that come often are worth a trace
            self.calls[where] = self.calls.get(where, 0) + 1
            if self.calls[where] <= self.options["after"]:
                if len(self.calls) > MOST_ENTRIES:
                    self.calls.clear()
                return self.fn(*args, **kwargs)
        if max(self.broken.values(), default=0) >= MOST_BROKEN:  # it breaks whatever it is given
            return self._in_parts(self.parts or (), args, kwargs)
        self.budget -= 1
        self._make_room()
        tracer = Tracing(self, args, kwargs, tensors)
        result = tracer.run()
        entry = tracer.entry
        entry.keep = keep
        others = self.entries.setdefault(where, [])
        if entry.reason:
            self._tell(entry.reason)
            entry.parts = self.parts = self._parts(entry.world)
            if self.broken is not _NEVER:
                self.broken[entry.reason] = self.broken.get(entry.reason, 0) + 1
            if entry.moved and any(e.moved for e in others):
                entry.world = None  # it does so every time
                others.clear()
        else:
            self.broken = _NEVER
            if self.dynamic is not False:
                self._sample(where, entry)
        others.append(entry)
        return result


def _metas(key: Any) -> list[Meta]:
    """The metas in the key of a call."""
    row = key[0] if len(key) == 2 and type(key[0]) is tuple else key
    return [x for x in row if isinstance(x, Meta)]


def _overlap(tensors: Sequence[Any]) -> bool:
    """Whether two of the tensors may share memory."""
    if len({id(t.data_.base) for t in tensors}) < len(tensors):
        return True
    spans = sorted([(at, at + t.meta.span) for t in tensors
                    for at in [getattr(t.data_, "ptr", 0)] if at and t.meta.numel])
    return any(a[1] > b[0] for a, b in pairwise(spans))


def _restored(fn: Any, fullgraph: bool, options: Any, dynamic: Any = None) -> Compiled:
    return Compiled(fn, fullgraph=fullgraph, options=options, dynamic=dynamic)


class Tracing:
    """One call under a trace, and the entry that comes of it."""

    def __init__(self, owner: Compiled, args: Any, kwargs: Any, tensors: list[Any]) -> None:
        self.owner, self.args, self.kwargs, self.tensors = owner, args, kwargs, tensors
        self.entry: Entry = Entry(None)
        self.checks: list[tuple[int, Meta, Exception]] = []
        self.instead: dict[int, Any] = {}  # id of an argument -> what stands for it

    def stand_in(self) -> None:
        """Let tensors stand for arguments with a history, where the graph of the trace is to end,
        and for arguments whose memory is part of another argument's."""
        bases: dict[int, Any] = {}
        for t in self.tensors:
            if id(t) in self.instead:
                continue
            d = t.data_
            owner = bases.setdefault(id(d.base), t)
            apart = owner.data_ is not d
            if not (apart or (mode.enabled and t.node is not None)):
                continue
            r = NS["make_tensor"](d, t.meta, None)
            if apart:  # views of one tensor, told apart by copies
                r = empty_meta(t.meta)
                raw_copy(t.detach(), r)
            if type(t) is NS["Parameter"]:
                r.__class__ = NS["Parameter"]
            r.__dict__.update({n: x for n, x in t.__dict__.items()
                               if n not in ("_grad", "_retains")})
            if mode.enabled and t.node is not None:
                r.node = Inlet(t)
            self.instead[id(t)] = r

    def run(self) -> Any:
        """The results of the call."""
        owner = self.owner
        self.stand_in()
        instead = self.instead
        args, kwargs = self.args, self.kwargs
        if instead:
            args, kwargs = arguments.rebuild((args, kwargs), lambda t: instead.get(id(t), t))
        world = World(owner.target, [*args, *kwargs.values()])
        NS.get("autocast_clear", int)()  # casts that are kept would pass for constants
        trace = Trace(owner.name, [instead.get(id(t), t) for t in self.tensors], owner.fullgraph,
                      owner.code, self.tensors, owner.dynamic is not False)
        if world.reason:
            trace.fail(world.reason)
        named = [n for t in self.tensors for n in t.__dict__ if n in world.names]
        if named:
            trace.fail(f"{named[0]} of an argument is read")
        entry: Entry | None = None
        with trace:
            with watched(trace):
                if trace.dynamic:  # numbers among the arguments are sizes, too
                    args = tuple([trace.seen.read(a) if type(a) is int else a for a in args])
                try:
                    result = owner.fn(*args, **kwargs)
                finally:
                    trace.seen.close()
            if looked(result):
                result = arguments.rebuild(result, lambda t: t, True, plain)
            trace.finish()
            moved = world.moved()
            if moved:
                trace.fail(moved)
            self._written_arguments(trace)
            if not trace.reason:
                try:
                    entry, result = self._entry(trace, world, result)
                except arguments.Unknown as e:
                    trace.fail(str(e))
        NS.get("autocast_clear", int)()
        if trace.reason or entry is None:
            self.entry = Entry(world, trace.reason or "it cannot be repeated")
            self.entry.moved = bool(moved)
            return self._own(result)
        self.entry = entry
        entry.sizes = trace.seen
        entry.checks = self.checks
        entry.leaves = [node for node, leaf in trace.leaves.items() if leaf.known]
        entry.held = [(t, t.data_.base, t.node) for t in trace.held.values()
                      if trace.buffers[id(t.data_.base)].kind == "held"]
        entry.moves = tracing.changes["tensors"]
        entry.grads = [(leaf.node, None if leaf.start is None else leaf.start.meta)
                       for leaf in trace.leaves.values() if leaf.known == "read"]
        self._memory(entry, trace, world)
        entry.apart = any(w.buffer.kind == "input" for p in entry.programs
                          for c in p.graph.calls for w in c.writes)
        for p in entry.programs:
            _forget(p.graph)
        for where in {c.call.device for p in entry.programs for c in p.graph.calls}:
            P.backend_of(where).empty_cache()  # the programs' memory is not the run's
        return result

    def _memory(self, entry: Entry, trace: Trace, world: World) -> None:
        """What has to be so of the memory of arguments in later calls."""
        entry.typed = world.asks_types
        entry.facts = [(k, what, how) for (k, what), how in trace.facts.items()]
        outside = {id(t.data_.base): t for r in world.tensors for t in [r()] if t is not None}
        entry.same = [(k, weakref.ref(t.data_.base)) for k, t in enumerate(self.tensors)
                      if id(t.data_.base) in outside]
        writes = {id(b.storage.base) for p in entry.programs for c in p.graph.calls
                  for b in (w.buffer for w in c.writes) if b.kind == "held"}
        inputs = any(w.buffer.kind == "input" for p in entry.programs for c in p.graph.calls
                     for w in c.writes)
        entry.outside = [weakref.ref(t) for t in (*outside.values(), *trace.held.values())
                         if inputs or world.compares or id(t.data_.base) in writes]

    def _own(self, result: Any) -> Any:
        """A result with the arguments themselves for what stood for them."""
        back = {id(r): t for t in self.tensors for r in [self.instead.get(id(t))] if r is not None}
        return arguments.rebuild(result, lambda t: back.get(id(t), t)) if back else result

    def _written_arguments(self, trace: Trace) -> None:
        """Writes to stand-ins are writes to the arguments."""
        for t in self.tensors:
            r = self.instead.get(id(t))
            if r is None:
                continue
            base = trace.buffers[id(r.data_.base)]
            written = any(w.buffer is base for x in trace.items if type(x) is Call
                          for w in x.writes)
            if written and (r.data_.base is not t.data_.base or (type(r.node) is not Inlet
                            and mode.enabled)):
                if r.data_.base is not t.data_.base:
                    raw_copy(r.detach(), t)
                    callpath.wrote(t, "compiled function", 3)
                if type(r.node) is not Inlet and r.node is not None:
                    callpath.rebase(t, r.node)
                trace.fail("an argument with a history, or a view of another, is written in place")

    def _entry(self, trace: Trace, world: World, result: Any) -> tuple[Entry, Any]:
        """What runs in later calls, and the results of this one."""
        tensors: list[Any] = []
        numbers = result
        if trace.reads:
            result = arguments.with_reads(result, trace.reads, trace.mixed)
        result = arguments.objects_apart(result, world.holds_object)
        arguments.results_of(result, tensors)
        reads = {k: t for k, t in enumerate(tensors) if type(t) is arguments.Read}
        tensors = [t.tensor if k in reads else t for k, t in enumerate(tensors)]
        live = [k for k, t in enumerate(tensors) if t.node is not None
                and type(t.node) is not AccumulateGrad and not freed(t.node)]
        where = {id(self.instead.get(id(t), t)): k
                 for k, t in reversed(list(enumerate(self.tensors)))}
        refs: list[Ref] = []
        made: list[Any] = []
        for k, t in enumerate(tensors):
            if k in reads:
                ref = trace.ref(t.data_, t.meta)
                outside = ref.buffer.kind != "made"
                made.append(Number(t if outside else len(refs), t.meta))
                refs += [] if outside else [ref]
                continue
            if id(t) in where:
                made.append(Argument(where[id(t)]))
                continue
            if t.meta.override is not None:
                raise arguments.Unknown(f"the result holds a {type(t).__name__}")
            if type(t.node) is AccumulateGrad and id(t.data_.base) in trace.buffers and \
                    trace.buffers[id(t.data_.base)].kind == "made":
                raise arguments.Unknown("the result is a new tensor that requires gradients")
            ref = trace.ref(t.data_, t.meta)
            if ref.buffer.kind != "made" and t.root is None and t.data_.base is t.data_:
                made.append(Same(t))  # a tensor of the outside, handed through
                continue
            source: Any = None
            if t.root is not None and ref.buffer.kind != "made":
                source = where.get(id(t.root), t.root)
            if ref.buffer.kind == "held" and source is None:
                raise arguments.Unknown("the result shows memory of the outside")
            number = live.index(k) if k in live else -1
            done = number < 0 and t.node is not None
            made.append(New(len(refs), t.meta, source, number, done))
            refs.append(ref)
        for flag, error in trace.checks:
            self.checks.append((len(refs), flag.meta, error))
            refs.append(trace.ref(flag.data_, flag.meta))
        if not live:
            graph = optimize(trace.graph(refs))
            program = build(graph)
            return Whole(world, program, _bare(result), made), numbers
        return self._split(trace, world, result, tensors, live, refs, made, self._own(numbers))

    def _split(self, trace: Trace, world: World, result: Any, tensors: list[Any],
               live: list[int], refs: list[Ref], made: list[Any],
               plain: Any) -> tuple[Entry, Any]:
        """A forward and a backward program for results `live` that need gradients."""
        forward = list(trace.items)
        leaves = [n for n in ancestors([tensors[k].node for k in live])
                  if type(n) in (AccumulateGrad, Inlet)]
        stand = {id(t.node): k for k, u in reversed(list(enumerate(self.tensors)))
                 for t in [self.instead.get(id(u))] if t is not None and type(t.node) is Inlet}
        targets: list[tuple[int, Any]] = []
        for leaf in leaves:
            k = stand.get(id(leaf), -1)
            targets.append((k, None if k >= 0 else _Holder(leaf)))
        grads = []
        for k in live:
            m = tensors[k].meta.plain
            if m.overlapping:
                m = meta(m.dtype, m.shape, None, m.device)
            g = empty_meta(m)
            g.fill_(1)
            grads.append(g)
        start = len(trace.items)
        for j, g in enumerate(grads):
            trace.buffers[id(g.data_.base)] = Buffer(
                "input", j, g.data_.base.nbytes, g.meta.device, index=j,
                storage=g.data_.base)
        beyond = [(n, n.edges) for n in leaves if type(n) is Inlet]
        for n, _ in beyond:
            n.edges = ()  # the history of an argument is not ours
        try:
            got = engine.run([(tensors[k].node, g) for k, g in zip(live, grads)],
                             retain_graph=True, create_graph=False, captures=leaves,
                             accumulate=False)
        finally:
            for n, edges in beyond:
                n.edges = edges
        if trace.reason:
            raise arguments.Unknown(trace.reason)
        absent = tuple(g is None for g in got)
        outs = [trace.ref(g.data_, g.meta.plain) for g in got if g is not None]
        both = Graph(trace.name, list(trace.items), [*refs, *outs])
        join_in_place(both, start)
        ahead = set(forward)
        forward = [x for x in both.items if x in ahead]
        merge_products(both, len(forward))
        items = both.items[len(forward):]
        refs, outs = both.outputs[:len(refs)], both.outputs[len(refs):]
        graph_b = Graph(f"{trace.name} backward", items, outs)
        share_common(graph_b)
        drop_dead(graph_b)
        # what the backward graph reads of the forward one is handed over
        inside = {w.buffer for c in graph_b.calls for w in c.writes}
        outside = {r.buffer: r.meta.device for c in graph_b.calls for r in c.reads
                   if type(r) is Ref and r.buffer not in inside}
        saved = [b for b in outside if b.kind == "made"]
        args = [b for b in outside if b.kind == "input" and b.storage is not None
                and all(b.storage is not g.data_.base for g in grads)]
        streams = tuple({x.source: None for c in graph_b.calls for x in c.reads
                         if type(x) is Late})
        back = Backward(None, trace.name)  # type: ignore[arg-type]
        back.metas = tuple(g.meta for g in grads)
        back.targets, back.absent = targets, absent
        back.args = tuple(b.index for b in args)
        back.outside = [b.storage for b in outside if b.kind == "held"]
        graph_f = trace.graph([*refs, *[Ref(b, 0, meta(dt.uint8, (b.nbytes,), None, outside[b]))
                                        for b in saved]], forward)
        graph_f.handed = streams
        renamed: dict[Buffer, Buffer] = {}
        for j, b in enumerate((*args, *saved)):
            renamed[b] = Buffer("input", b.number, b.nbytes, outside[b], index=len(grads) + j,
                                shift=b.shift)
        for c in graph_b.calls:
            c.reads = tuple(x._replace(buffer=renamed[x.buffer])
                            if type(x) is Ref and x.buffer in renamed else x for x in c.reads)
        graph_b.outputs = [r._replace(buffer=renamed.get(r.buffer, r.buffer))
                           for r in graph_b.outputs]
        graph_b.given = streams
        storages = [*[b.buffer.storage if not b.offset else b.buffer.storage.view(b.offset)
                      for b in refs], *[b.storage for b in saved]]
        whole = all(s is not None for s in storages)
        for g in streams:
            key, first, _ = trace.generators[g]
            storages += [key, first]
        program_f = build(optimize(graph_f))
        back.saved = tuple(range(len(refs), len(refs) + len(saved)))
        back.program = build(optimize(graph_b))
        back.outs = tuple(r.meta for r in graph_b.outputs)
        back.arguments = tuple([t.meta for t in self.tensors])
        back.held = [b.storage for b in {r.buffer for c in program_f.graph.calls for r in c.refs}
                     if b.kind == "held"]
        if not any(w.buffer.kind != "made" for c in program_f.graph.calls for w in c.writes):
            back.again = self._again(live)
        entry = Split(world, program_f, back, _bare(result), made)
        return entry, entry.finish(storages, self.tensors) if whole else plain

    def _again(self, live: list[int]) -> Callable[[Sequence[Any]], list[Any]]:
        """The function from tensors in the places of the arguments' to those of its results that
        have a history."""
        template, fn = _bare((self.args, self.kwargs)), self.owner.fn

        def run(tensors: Sequence[Any]) -> list[Any]:
            rest = iter(tensors)
            args, kwargs = arguments.rebuild(template, lambda t: next(rest))
            found: list[Any] = []
            arguments.results_of(fn(*args, **kwargs), found)
            return [found[k] for k in live]

        return run


class _Holder:
    """Stands for a leaf of the outside among the targets."""

    __slots__ = ("node",)

    def __init__(self, node: Any) -> None:
        self.node = node


def _bare(result: Any) -> Any:
    """A result with its tensors replaced by placeholders, so that none is kept alive."""
    return arguments.rebuild(result, lambda t: NS["make_tensor"](None, None, None), True)


def _forget(graph: Graph) -> None:
    """Let go of the memory of the trace."""
    for r in (*graph.outputs, *[r for c in graph.calls for r in c.refs]):
        if r.buffer.kind in ("made", "input", "grad"):
            r.buffer.storage = None


def hooked(extra: Any) -> bool:
    """Whether functions of the user's run when a gradient passes a node."""
    return bool(extra.tensor_hooks or extra.pre_hooks or extra.post_hooks)


__all__ = ["Compiled", "Entry", "Whole", "Split", "optimize", "CACHE_SIZE"]
