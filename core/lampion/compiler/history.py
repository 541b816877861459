"""The history of a compiled function's results: nodes of autograd's graph.

Floor 6; imports autograd and program. `CompiledNode` runs a backward program; `Inlet` is where the
graph of a trace ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..autograd import engine
from ..autograd import node as N
from ..autograd.node import Node, modified
from ..autograd.state import clock, mode
from ..base.meta import Meta
from ..callpath import NS
from ..conversion import raw_copy
from ..runtime import tracing
from ..tensor import empty_meta
from .program import Program


class Backward:
    """What a `CompiledNode` needs: its program, what it saves and whose gradients it gives."""

    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name = program, name
        self.metas: tuple[Meta, ...] = ()  # of the gradients that come in
        self.outs: tuple[Meta, ...] = ()  # of those that go out
        self.targets: list[tuple[int, Any]] = []  # (argument or -1, tensor)
        self.saved: tuple[int, ...] = ()  # places among the forward program's results
        self.args: tuple[int, ...] = ()  # arguments that it reads
        self.outside: list[Any] = []  # bases that it reads and that may be written meanwhile
        self.absent: tuple[bool, ...] = ()  # targets that no gradient reaches
        # for derivatives of the gradients: the metas of all arguments, what the function reads of
        # the outside, and the function, from the arguments' tensors to those of its results
        self.arguments: tuple[Meta, ...] = ()
        self.held: list[Any] = []
        self.again: Callable[[Sequence[Any]], list[Any]] | None = None


class CompiledNode(Node):
    """The history of a compiled function's results."""

    __slots__ = ("backward",)

    @property
    def noutputs(self) -> int:
        return len(self.backward.metas)

    def name(self) -> str:
        return "CompiledFunctionBackward"

    def out_meta(self, k: int) -> Meta:
        return self.backward.metas[k]

    def unpack(self) -> list[Any]:
        return []

    def apply(self, grads: list[Any]) -> Any:
        back = self.backward
        if self.saved is N.FREED:
            raise RuntimeError(
                "Trying to backward through the graph a second time, at the compiled function "
                f"{back.name}. Specify retain_graph=True if you need to.")
        storages, args = self.saved
        for base in (*back.outside, *[args[k].base for k in back.args],
                     *[storages[k].base for k in back.saved]):
            if base.epoch > self.epoch:
                modified(self, back.metas[0], base)
        if mode.enabled:
            return self.anew(grads)
        given = [_fitting(g, m).data_ for g, m in zip(grads, back.metas)]
        streams = storages[len(storages) - 2 * len(back.program.graph.given):]
        got = back.program.run([*given, *[args[k] for k in back.args],
                                *[storages[k] for k in back.saved]], streams)
        rest = iter(zip(got, back.outs))
        return [None if gone else NS["make_tensor"](*next(rest), None) for gone in back.absent]

    def anew(self, grads: list[Any]) -> Any:
        """The gradients as results that have derivatives themselves: the function runs again, op by
        op, and autograd goes back through that."""
        back = self.backward
        if back.again is None or back.program.graph.given:
            raise RuntimeError(
                f"{back.name} is compiled, and draws random numbers or writes to memory of the "
                "outside: derivatives of its gradients (create_graph=True) are those of the "
                "function itself, uncompiled.")
        for base in back.held:
            if base.epoch > self.epoch:
                modified(self, back.metas[0], base)
        _, args = self.saved
        edges = {k: e for (k, _), e in zip(back.targets, self.edges) if k >= 0}
        tensors = []
        for k, (data, m) in enumerate(zip(args, back.arguments)):
            t = NS["make_tensor"](data, m, edges.get(k))
            if t.node is not None:
                t.node = Inlet(t)
            tensors.append(t)
        outs = [t for t in back.again(tensors) if t.node is not None]
        captures = [t.node if k < 0 else tensors[k].node for k, t in back.targets]
        inlets = [t.node for t in tensors if t.node is not None]
        for n in inlets:
            n.edges, n.kept = (), n.edges  # the history of the arguments is not ours
        try:
            roots = [(o.node, N.zeros(m) if g is None else g)
                     for o, g, m in zip(outs, grads, back.metas)]
            return engine.run(roots, retain_graph=True, create_graph=True, captures=captures,
                              accumulate=False)
        finally:
            for n in inlets:
                n.edges = n.kept


def _fitting(g: Any, m: Meta) -> Any:
    """A gradient in the layout that the program was made for; zeros for none."""
    if g is None:
        return N.zeros(m)
    if g.meta is m:
        return g
    dense = empty_meta(m)
    raw_copy(g, dense)
    return dense


class Inlet(Node):
    """The start of the history of an argument inside a trace: the gradient passes through."""

    __slots__ = ("m", "kept")

    def __init__(self, t: Any) -> None:
        self.m, self.edges, self.saved = t.meta, (t.node,), ()
        self.extra, self.epoch = None, clock[0]

    @property
    def noutputs(self) -> int:
        return 1

    def name(self) -> str:
        return "AliasBackward0"

    def out_meta(self, k: int) -> Meta:
        return self.m

    def apply(self, grads: list[Any]) -> Any:
        tracing.fail("backward() reaches an argument that requires gradients")
        return grads


def ancestors(roots: Sequence[Node]) -> Iterator[Node]:
    """The nodes of the history that leads to `roots`, these included, back to leaves and inlets."""
    stack, seen = list(roots), set(roots)
    while stack:
        n = stack.pop()
        yield n
        for e in n.edges if type(n) is not Inlet else ():
            if e is not None and e not in seen:
                seen.add(e)
                stack.append(e)


def freed(node: Node) -> bool:
    """Whether a backward pass went through this history already."""
    return any(n.saved is N.FREED for n in ancestors([node]))


__all__ = ["Backward", "CompiledNode", "Inlet", "ancestors", "freed"]
