"""Programs: a graph as a Python function of a few lines that the backend's sequences hang from.

Floor 6; imports graph, memory, passes. The generated function takes the arguments' storages,
allocates the arena and what it hands out, runs the sequences, hands gradients to leaves and calls
the host's functions, in the graph's order. It does nothing per call of the graph: that is done by
one sequence per stretch, which on a backend that joins launches is one native call.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from ..autograd.state import clock
from ..base.errors import LampionError
from ..callpath import NS
from ..ops import plans as P
from ..runtime.backend import Backend
from .graph import Buffer, Call, Graph, Late, Ref, SetGrads, escaping
from .memory import Plan, plan, rounded

__all__ = ["Program", "build"]


class Program:
    """`run(storages of the arguments)` gives the storages of the graph's outputs, then a key and an
    offset for each generator in `graph.handed`; `run(storages, numbers)` takes those of
    `graph.given`."""

    __slots__ = ("graph", "run", "memory", "source", "sequences", "__weakref__")

    def __init__(self, graph: Graph, run: Callable[..., Any], memory: Plan, source: str,
                 sequences: int) -> None:
        self.graph, self.run, self.memory = graph, run, memory
        self.source, self.sequences = source, sequences
        P.graphs.add(self)
        for told in P.on_graph:
            told(self)


class _Builder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.scope: dict[str, Any] = {"clock": clock, "NS": NS,
                                      "writer": (graph.name, build.__code__, 0)}
        self.head: list[str] = []
        self.body: list[str] = []
        self.names: dict[Any, str] = {}
        self.out = escaping(graph)
        self.written: list[Buffer] = []
        devices = [c.call.device for c in graph.calls] or [
            r.buffer.device for r in graph.outputs if r.buffer.kind == "made"]
        if len(set(devices)) > 1:
            raise LampionError(f"{graph.name} computes on {sorted(map(str, set(devices)))}: a "
                               "compiled graph has one device")
        self.device = devices[0] if devices else None
        self.backend = None if self.device is None else P.backend_of(self.device)
        self.sequences = 0

    def constant(self, value: Any, word: str) -> str:
        name = f"{word}{len(self.scope)}"
        self.scope[name] = value
        return name

    def memory(self, b: Buffer) -> str:
        """The name of a local variable with a buffer's storage."""
        name = self.names.get(b)
        if name is not None:
            return name
        if b.kind == "input":
            name = f"x{b.index}"
            self.head.append(f"{name} = a[{b.index}]")
        elif b.kind == "grad":
            leaf = self.constant(b.owner, "leaf")
            name = f"g{b.number}"
            self.head.append(f"{name} = {leaf}.grad.data_")
        elif b.kind == "held":
            name = self.constant(b.storage, "held")
        elif b in self.out:
            name = f"o{b.number}"
            self.head.append(f"{name} = {self.allocator(b.nbytes)}()")
        else:
            return "arena"
        self.names[b] = name
        return name

    def allocator(self, nbytes: int) -> str:
        """The name of a function that allocates so many bytes."""
        return self.constant(self.backend.allocator(nbytes, self.device),  # type: ignore
                             "allocate")

    def late(self, x: Late) -> str:
        key = (x.source, "key")
        if key not in self.names and x.source in self.graph.given:
            at = 2 * self.graph.given.index(x.source)
            self.names[key], self.names[x.source, "offset"] = f"n[{at}]", f"n[{at + 1}]"
        elif key not in self.names:
            g = self.constant(x.source, "generator")
            n = len(self.names)
            self.names[key] = f"key{n}"
            self.names[x.source, "offset"] = f"first{n}"
            self.head.append(f"key{n} = {g}.key")
            self.head.append(f"first{n} = {g}.advance({self.graph.draws[x.source]})")
        if x.what == "key":
            return self.names[key]
        return f"{self.names[x.source, 'offset']} + {x.what}"


def build(graph: Graph, timer: Callable[[int, float], None] | None = None) -> Program:
    """Compile the Python function of a graph. With a `timer`, every call is a sequence of its own,
    timer(position, seconds) is told how long it took, and the host's part is left out."""
    b = _Builder(graph)
    for g in graph.draws:
        b.late(Late(g, "key"))
    later = _looked_at_later(graph, b)
    rows, checks = _rows(graph, later)
    memory = plan(graph, checks)
    status: dict[int, int] = {}
    for k, x in enumerate(graph.items):
        if type(x) is Call and x.status:
            status[k] = memory.size
            memory.size += rounded(x.status)
    if memory.size:
        b.head.append(f"arena = {b.allocator(memory.size)}()")
    for row in rows:
        first = graph.items[row[0]]
        if type(first) is Call and timer is not None:
            _timed(b, row, memory, status, later, timer)
        elif type(first) is Call:
            _sequence(b, row, memory, status, later)
        elif timer is not None:
            continue  # only the device's work is timed
        elif type(first) is SetGrads:
            _set_grads(b, first)
        else:
            _count_writes(b)
            function = b.constant(first.function, "function")
            args, kwargs = b.constant(first.args, "args"), b.constant(first.kwargs, "kwargs")
            b.body.append(f"{function}(*{args}, **{kwargs})")
    _count_writes(b)
    results = []
    for r in graph.outputs:
        name = b.memory(r.buffer)
        results.append(f"{name}.view({r.offset})" if r.offset else name)
    for g in graph.handed:
        results += [b.names[g, "key"], b.names[g, "offset"]]
    b.body.append(f"return ({', '.join(results)}{',' if results else ''})")
    names = ", ".join(f"{n}={n}" for n in b.scope)
    source = f"def run(a, n=(), {names}):\n" + "".join(
        f"    {line}\n" for line in (*b.head, *b.body))
    space = dict(b.scope)
    exec(compile(source, f"<lampion graph {graph.name}>", "exec"), space)
    run = space.pop("run")  # else a cycle would keep the program's memory for a while
    return Program(graph, run, memory, source, b.sequences)


def _looked_at_later(graph: Graph, b: _Builder) -> set[int]:
    """Positions of the calls whose status the backend takes and looks at when it likes, as in eager
    mode. The indices that explain an error must still be there then, which those in the arena are
    not: their status is looked at here."""
    if b.backend is None or type(b.backend).check_later is Backend.check_later:
        return set()
    return {k for k, x in enumerate(graph.items) if type(x) is Call and x.status and all(
        r.buffer.kind != "made" or r.buffer in b.out for r in x.reads if _explains(r))}


def _explains(x: Any) -> bool:
    """Whether an operand can tell what is wrong with an index."""
    return type(x) is Ref and x.meta.dtype.kind in "iu"


def _rows(graph: Graph, later: set[int]) -> tuple[list[list[int]], dict[int, int]]:
    """Positions of the items by stretch, and for calls with a status, but those in `later`, the
    position before which it is looked at: the next call that writes to the outside, the next item
    that is no call, or the end. A stretch ends there."""
    rows: list[list[int]] = []
    checks: dict[int, int] = {}
    waiting: list[int] = []
    row: list[int] = []
    for k, x in enumerate(graph.items):
        call = type(x) is Call
        outside = not call or any(w.buffer.kind != "made" for w in x.writes)  # type: ignore
        if row and (not call or (waiting and outside)):
            rows.append(row)
            row = []
        if outside:
            checks.update(dict.fromkeys(waiting, max(0, k - 1)))
            waiting = []
        if not call:
            rows.append([k])
            continue
        row.append(k)
        if x.status and k not in later:  # type: ignore[union-attr]
            waiting.append(k)
    if row:
        rows.append(row)
    checks.update(dict.fromkeys(waiting, len(graph.items) - 1))
    return rows, checks


def _sequence(b: _Builder, row: list[int], memory: Plan, status: dict[int, int],
              later: set[int]) -> None:
    """One backend sequence for a stretch of calls, and the look at their statuses."""
    slots: dict[Any, int] = {}
    kinds: list[str] = []
    words: list[str] = []
    numbers: dict[int, Any] = {}

    def slot(key: Any, kind: str, word: str, constant: Any = None) -> int:
        found = slots.get(key)
        if found is None:
            found = slots[key] = len(kinds)
            kinds.append(kind)
            if constant is None:
                words.append(word)
            else:
                numbers[found] = constant
        return found

    def place(x: Any, m: Any) -> tuple[int, int]:
        if type(x) is Ref:
            name = b.memory(x.buffer)
            if name == "arena":
                return slot("arena", "s", "arena"), memory.at[x.buffer] + x.offset
            held = x.buffer.storage if x.buffer.kind == "held" else None
            return slot(name, "s", name, held), x.offset
        if type(x) is Late:
            return slot(x, "i", b.late(x)), 0
        kind = "f" if m.kind == "f" else "i"
        return slot(("number", kind, repr(x)), kind, "", x), 0

    parts, look = [], []
    for k in row:
        c: Call = b.graph.items[k]  # type: ignore[assignment]
        where = [place(w, None) for w in c.writes]
        if c.status:
            where.append((slot("arena", "s", "arena"), status[k]))
            look.append((k, c))
        where += [place(x, m) for x, m in zip(c.reads, c.call.inputs)]
        launch = c.launch.inner[0] if c.status else c.launch  # type: ignore[index]
        parts.append((launch, where))
        for w in c.writes:
            if w.buffer.kind != "made" and w.buffer not in b.written:
                b.written.append(w.buffer)
    run = b.backend.sequence(parts, "".join(kinds), numbers, b.device)  # type: ignore[union-attr]
    b.sequences += 1
    b.body.append(f"{b.constant(run, 'sequence')}({', '.join(words)})")
    for k, c in look:
        if k in later:
            _hand_over(b, c, status[k])
    look = [(k, c) for k, c in look if k not in later]
    if look:
        _look(b, look, memory, status)


def _timed(b: _Builder, row: list[int], memory: Plan, status: dict[int, int], later: set[int],
           timer: Callable[[int, float], None]) -> None:
    """The calls of a stretch one by one, each with the time it took until the device was done."""
    told, now = b.constant(timer, "timer"), b.constant(perf_counter, "now")
    wait = b.constant(b.backend.synchronize, "wait")  # type: ignore[union-attr]
    where = b.constant(b.device, "device")
    for k in row:
        b.body.append(f"{wait}({where})")
        b.body.append(f"start = {now}()")
        _sequence(b, [k], memory, status, later)
        b.body.append(f"{wait}({where})")
        b.body.append(f"{told}({k}, {now}() - start)")


def _hand_over(b: _Builder, c: Call, at: int) -> None:
    """Let the backend look at a status later. Only indices are kept for then."""
    def word(x: Any) -> str:
        if not _explains(x):
            return "None"
        name = b.memory(x.buffer)
        return f"{name}.view({x.offset})" if x.offset else name

    take = b.constant(b.backend.check_later, "later")  # type: ignore[union-attr]
    explain = b.constant(c.plan.op.explain, "explain")
    call = b.constant(c.call, "call")
    inputs = "".join(f"{word(x)}, " for x in c.reads)
    b.body.append(f"{take}(arena.view({at}), {c.status}, {explain}, {call}, ({inputs}))")


def _look(b: _Builder, calls: list[tuple[int, Call]], memory: Plan, status: dict[int, int]) -> None:
    """Read the status words and let the op explain what is not 0."""
    read = b.backend.copy_to_host  # type: ignore[union-attr]

    def explain(arena: Any, *others: Any) -> None:
        rest = iter(others)
        for k, c in calls:
            given = [x if type(x) is not Ref else
                     arena.view(memory.at[x.buffer] + x.offset) if x.buffer in memory.at
                     else next(rest).view(x.offset) for x in c.reads]
            if any(bytes(read(arena.view(status[k]), c.status))):
                c.plan.op.explain(c.call, tuple(given))

    others = [b.memory(x.buffer) for _, c in calls for x in c.reads
              if type(x) is Ref and x.buffer not in memory.at]
    # padding between the words holds anything, so that each is looked at by itself
    pieces = [(status[k], c.status) for k, c in calls]
    check, told = b.constant(read, "read"), b.constant(explain, "explain")
    test = " or ".join(f"any(bytes({check}(arena.view({at}), {n})))" for at, n in pieces)
    b.body.append(f"if {test}:")
    b.body.append(f"    {told}({', '.join(['arena', *others])})")


def _set_grads(b: _Builder, item: SetGrads) -> None:
    for leaf, value in item.grads:
        node = b.constant(leaf, "leaf")
        if type(value) is Ref:
            name = b.memory(value.buffer)
            at = f"{name}.view({value.offset})" if value.offset else name
            made = b.constant(value.meta, "meta")
            b.body.append(f"{node}.grad = NS['make_tensor']({at}, {made}, None)")
        else:
            b.body.append(f"{node}.grad = " + (
                "None" if value is None else b.constant(value, "tensor")))


def _count_writes(b: _Builder) -> None:
    """Writes to memory of the outside are counted, as those of single calls are."""
    if not b.written:
        return
    held = [x.storage.base for x in b.written if x.kind == "held"]
    names = [f"{b.memory(x)}.base" for x in b.written if x.kind != "held"]
    b.body.append("clock[0] = c = clock[0] + 1")
    every = b.constant(tuple(held), "written")
    tail = f", {', '.join(names)}" if names else ""
    b.body += [f"for s in (*{every}{tail},):", "    s.version += 1", "    s.epoch = c",
               "    s.writer = writer"]
    b.written = []
