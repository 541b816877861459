"""The compiler's graph: calls in order, over numbered buffers.

Floor 6; imports base and runtime only. A `Buffer` is a piece of memory, whoever owns it; a `Ref` is
a tensor in it, at a byte offset, of a meta. A `Call` is one launch: what it reads (refs and
numbers) and what it writes (refs). Calls keep the order of the program they were traced from; what
they read and write says which of them may change places. Views are no calls: they are other refs
to the same buffer.

A `Step` is what happens between launches: gradients are handed to leaves, the host calls a
function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..base.device import device
from ..base.meta import Meta
from ..runtime.backend import Launch, OpCall


class Buffer:
    """Memory of a graph.

    kind: "input" (of argument `index`), "grad" (of the leaf `owner`), "held" (that of `storage`,
    which lives outside: a parameter, a constant), "made" (by a call of the graph).
    """

    __slots__ = ("kind", "index", "owner", "_storage", "weak", "nbytes", "device", "number",
                 "shift")

    def __init__(self, kind: str, number: int, nbytes: int, where: device, *, index: int = -1,
                 owner: Any = None, storage: Any = None, shift: int = 0) -> None:
        self.kind, self.number, self.nbytes, self.device = kind, number, nbytes, where
        self.index, self.owner, self._storage = index, owner, storage
        self.weak: Any = None  # a weak reference to the storage, for memory that nobody keeps
        self.shift = shift  # where the argument's tensor starts in its base, in bytes

    @property
    def storage(self) -> Any:
        """The memory during the trace, or that of the outside; None if it is gone."""
        return self.weak() if self._storage is None and self.weak is not None else self._storage

    @storage.setter
    def storage(self, value: Any) -> None:
        self._storage, self.weak = value, None

    def __repr__(self) -> str:
        word = {"input": "arg", "grad": "grad", "held": "held", "made": "%"}[self.kind]
        return f"{word}{self.index if self.kind == 'input' else self.number}"


class Ref(NamedTuple):
    """A tensor in a buffer: at `offset` bytes from the buffer's start."""

    buffer: Buffer
    offset: int
    meta: Meta

    def __repr__(self) -> str:
        m = self.meta
        dims = "x".join(map(str, m.shape)) or "scalar"
        at = f"+{self.offset}" if self.offset else ""
        strided = "" if m.contiguous else f" strides {m.strides}"
        return f"{self.buffer!r}{at}:{m.dtype.name}[{dims}]{strided}"

    @property
    def whole(self) -> bool:
        """Whether it is all of its buffer, without gaps."""
        return self.offset == 0 and self.meta.nbytes == self.meta.span == self.buffer.nbytes


class Late(NamedTuple):
    """A number that is known when the graph runs: `source` says which generator's, `what` is "key"
    or the offset of a draw from where the stream was at the start."""

    source: Any
    what: Any

    def __repr__(self) -> str:
        return f"<{'seed' if self.what == 'key' else f'draw+{self.what}'}>"


@dataclass(eq=False)
class Call:
    """One launch. `writes` are refs to new buffers, or to existing ones (in place)."""

    op: str
    call: OpCall
    launch: Launch
    reads: tuple[Any, ...]  # Ref, Late or a number, in launch order
    writes: tuple[Ref, ...]
    generated: bool = False  # from the kernel IR: it may be fused
    plan: Any = None
    status: int = 0  # bytes of status words that the launch leaves behind its outputs
    where: str = ""  # the user's line
    kernel: Any = None  # of a fused call
    part: int = 0  # calls of different parts are not shared: one recomputes for the other
    kernels: Any = None  # the kernel program that the launch was made of, if the compiler made it

    @property
    def refs(self) -> Iterator[Ref]:
        """All tensors it touches."""
        for r in self.reads:
            if type(r) is Ref:
                yield r
        yield from self.writes

    def __repr__(self) -> str:
        args = ", ".join(repr(r) for r in self.reads)
        return f"{', '.join(map(repr, self.writes))} = {self.op}({args})"


@dataclass(eq=False)
class SetGrads:
    """Hand gradients to leaves: (leaf node, Ref, or a tensor of the outside, or None)."""

    grads: list[tuple[Any, Any]]

    def __repr__(self) -> str:
        return "; ".join(f"grad of {tuple(leaf.meta.shape)} = {value!r}"
                         for leaf, value in self.grads)


@dataclass(eq=False)
class HostCall:
    """A Python function that every run calls."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __repr__(self) -> str:
        return f"host: {getattr(self.function, '__qualname__', self.function)}"


Item = Call | SetGrads | HostCall


@dataclass
class Graph:
    """A traced function, or the forward or backward half of one."""

    name: str
    items: list[Item]
    outputs: list[Ref]  # what is handed out, in order
    draws: dict[Any, int] = field(default_factory=dict)  # generator -> groups that a run reserves
    # A backward graph draws where its forward graph did: that hands out the streams' keys and
    # offsets, which this one is given.
    handed: tuple[Any, ...] = ()
    given: tuple[Any, ...] = ()

    @property
    def calls(self) -> list[Call]:
        """The launches alone."""
        return [x for x in self.items if type(x) is Call]

    def __str__(self) -> str:
        lines = [f"graph {self.name}:"]
        for x in self.items:
            lines.append(f"  {x!r}" + (f"    # {x.where}" if getattr(x, "where", "") else ""))
        lines.append("  return " + ", ".join(map(repr, self.outputs)))
        return "\n".join(lines)


def moved(x: Any, where: dict[Buffer, tuple[Buffer, int]]) -> Any:
    """`x`; if it is a tensor in a buffer of `where`, that tensor in another buffer, so many bytes
    further."""
    if type(x) is Ref and x.buffer in where:
        b, at = where[x.buffer]
        return Ref(b, at + x.offset, x.meta)
    return x


def move(graph: Graph, where: dict[Buffer, tuple[Buffer, int]]) -> None:
    """Let every tensor of a graph be `moved`; a place in a buffer that moves itself moves along."""
    for b, (to, at) in list(where.items()):
        while to in where:
            to, more = where[to]
            at += more
        where[b] = (to, at)
    for item in graph.items:
        if type(item) is Call:
            item.reads = tuple([moved(x, where) for x in item.reads])
            item.writes = tuple([moved(w, where) for w in item.writes])
        elif type(item) is SetGrads:
            item.grads = [(leaf, moved(v, where)) for leaf, v in item.grads]
    graph.outputs = [moved(r, where) for r in graph.outputs]


class Uses:
    """Who reads and writes each buffer, by position; items before and after `boundary` are to be
    programs of their own."""

    def __init__(self, graph: Graph, boundary: int = 0) -> None:
        self.boundary = boundary
        self.reads: dict[Buffer, list[int]] = {}
        self.writes: dict[Buffer, list[int]] = {}
        self.escaping = escaping(graph)
        for k, item in enumerate(graph.items):
            if type(item) is Call:
                for r in item.reads:
                    if type(r) is Ref:
                        self.reads.setdefault(r.buffer, []).append(k)
                for w in item.writes:
                    self.writes.setdefault(w.buffer, []).append(k)

    def private(self, r: Any) -> bool:
        """Whether a tensor is all of a buffer that one call makes and nobody else owns."""
        return (type(r) is Ref and r.buffer.kind == "made" and r.whole and r.meta.contiguous
                and r.buffer not in self.escaping and len(self.writes.get(r.buffer, ())) == 1)


def escaping(graph: Graph) -> set[Buffer]:
    """The made buffers whose tensors outlive a run: outputs and gradients of leaves."""
    out = {r.buffer for r in graph.outputs if r.buffer.kind == "made"}
    for x in graph.items:
        if type(x) is SetGrads:
            out |= {v.buffer for _, v in x.grads if type(v) is Ref and v.buffer.kind == "made"}
    return out


__all__ = ["Buffer", "Ref", "Late", "Call", "SetGrads", "HostCall", "Item", "Graph", "Uses",
           "escaping", "move", "moved"]
