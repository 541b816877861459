"""The backward engine: runs nodes in dependency order, without recursion.

Floor 4; imports node, state. Thread-safe: all state of a pass is local to it; only the addition
to a leaf's gradient takes a lock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..ops.pieces import Pieces, settled
from ..runtime import tracing
from . import node as N
from .node import AccumulateGrad, Node, Select
from .state import lock, mode

anomaly = [False, True]  # enabled, check_nan
# Who sees nodes run: `watcher(apply, node, grads)` answers, for example with `apply(node, grads)`;
# the last one sees them first. A pass looks once, when it begins, whether there is any.
watchers: list[Callable[..., Any]] = []


def run(roots: Sequence[tuple[Node, Any]], *, retain_graph: bool, create_graph: bool,
        captures: Sequence[Any] = (), accumulate: bool = True) -> list[Any]:
    """Propagate root gradients. Leaves accumulate into `.grad` (if `accumulate`); the gradients
    that reach the nodes in `captures` are returned, None where none arrived."""
    previous, partial = mode.enabled, mode.partial
    mode.enabled, mode.partial = create_graph, not accumulate
    try:
        return _run(roots, retain_graph, create_graph, captures, accumulate)
    finally:
        mode.enabled, mode.partial = previous, partial


def _run(roots: Sequence[tuple[Node, Any]], retain: bool, create: bool,
         captures: Sequence[Any], accumulate: bool) -> list[Any]:
    pending, order = _count(roots)
    wanted = {id(c): k for k, c in enumerate(captures)}
    needed = _needed(order, captures) if captures and not accumulate else None
    captured: dict[int, Any] = {}
    buffers: dict[Node, list[Any]] = {}
    usual = not (anomaly[0] or watchers)
    for node, g in roots:
        have = buffers.get(node)
        buffers[node] = [g if have is None else have[0] + g]
    ready = [n for n in dict.fromkeys(n for n, _ in roots) if pending[n] == 0]
    while ready:
        node = ready.pop()
        grads = buffers.pop(node, None)
        if grads is not None and type(grads[0]) is Pieces:
            grads[0] = grads[0].tensor()
        extra = node.extra
        if grads is not None and extra is not None:
            grads = _before(node, extra, grads)
        if wanted and grads is not None and id(node) in wanted:
            captured[id(node)] = grads[0]
        kind = type(node)
        if kind is AccumulateGrad:
            if accumulate and grads is not None:
                _accumulate(node, grads[0], create)
            continue
        edges = node.edges
        if grads is None or (needed is not None and node not in needed):
            outs: Any = None
        elif kind is Select:
            outs = grads
        else:
            if not usual:
                outs = _apply(node, grads)
            elif kind is Node:
                outs = node.plan.op.run_vjp(node, grads)
            else:
                outs = node.apply(grads)
            if extra is not None and extra.post_hooks:
                outs = _after(extra, [settled(g) for g in outs], grads)
            if not retain:
                node.release()
        grads = None
        slot = node.index if kind is Select else 0  # type: ignore[attr-defined]
        k = -1
        for edge in edges:
            k += 1
            if edge is None:
                continue
            if outs is not None:
                g = outs[k]
                if g is not None:
                    buf = buffers.get(edge)
                    if buf is None:
                        if kind is Select:
                            buffers[edge] = buf = [None] * edge.noutputs
                            buf[slot] = g
                        else:  # only a Select feeds a node of several outputs
                            buffers[edge] = [g]
                    else:
                        have = buf[slot]
                        buf[slot] = g if have is None else have + g
            left = pending[edge] - 1
            pending[edge] = left
            if not left:
                ready.append(edge)
        outs = g = buf = have = None  # a gradient that nobody else holds may be taken over
    return [plain(captured.get(id(c))) for c in captures]


def _count(roots: Sequence[tuple[Node, Any]]) -> tuple[dict[Node, int], list[Node]]:
    """Uses of every reachable node, and the nodes in discovery order."""
    pending: dict[Node, int] = {}
    stack = []
    for node, _ in roots:
        if node not in pending:
            pending[node] = 0
            stack.append(node)
    order = list(stack)
    while stack:
        for edge in stack.pop().edges:
            if edge is not None:
                if edge in pending:
                    pending[edge] += 1
                else:
                    pending[edge] = 1
                    stack.append(edge)
                    order.append(edge)
    return pending, order


def _needed(order: Sequence[Node], captures: Sequence[Any]) -> set[Node]:
    """Nodes from which a captured node can be reached."""
    users: dict[Node, list[Node]] = {}
    for n in order:
        for e in n.edges:
            if e is not None:
                users.setdefault(e, []).append(n)
    seen: set[Node] = set()
    stack = [u for c in captures if c is not None for u in users.get(c, ())]
    while stack:
        n = stack.pop()
        if n not in seen:
            seen.add(n)
            stack.extend(users.get(n, ()))
    return seen


def _apply(node: Node, grads: list[Any]) -> Any:
    apply: Callable[..., Any] = type(node).apply
    if anomaly[0]:
        from .anomaly import apply_checked as apply
    for watcher in watchers:
        apply = partial(watcher, apply)
    return apply(node, grads)


def _before(node: Node, extra: Any, grads: list[Any]) -> list[Any]:
    """Tensor hooks, pre-hooks and retained gradients, in PyTorch's order."""
    if extra.tensor_hooks or extra.pre_hooks:
        tracing.fail("a hook of a gradient runs")
    if extra.tensor_hooks and grads[0] is not None:
        for fn in list(extra.tensor_hooks.values()):
            new = fn(grads[0])
            if new is not None:
                grads = [new]
    if extra.pre_hooks:
        for fn in list(extra.pre_hooks.values()):
            new = fn(tuple(grads))
            if new is not None:
                grads = list(new) if isinstance(new, (tuple, list)) else [new]
    if extra.retain is not None and grads[0] is not None:
        extra.retain(grads[0])
    return grads


def _after(extra: Any, outs: Any, grads: list[Any]) -> Any:
    tracing.fail("a hook of a gradient runs")
    for fn in list(extra.post_hooks.values()):
        new = fn(tuple(outs), tuple(grads))
        if new is not None:
            outs = list(new) if isinstance(new, (tuple, list)) else [new]
    return outs


def _alone() -> int:
    """The reference count of a gradient that only the pass itself holds: measured, because it
    depends on how the interpreter passes arguments."""
    def count(node: Any, g: Any, create: bool) -> int:
        return sys.getrefcount(g)

    grads = [object()]
    return count(None, grads[0], False)


_ALONE = _alone()


def _accumulate(node: AccumulateGrad, g: Any, create: bool) -> None:
    """Add to a leaf's gradient. A first gradient that nobody else holds is taken as it is."""
    if g.meta.override is not None:
        g = plain(g)
    with lock:
        if tracing.active:
            tracing.active[-1].grad_read(node)
        have = node.grad
        if g.meta.override is not None:  # sparse: so is the sum, unless there is a dense one
            node.grad = g.detach() if have is None else (have + g).detach()
        elif have is None:
            meta = node.out_meta(0)
            if create:
                node.grad = g
            elif (sys.getrefcount(g) <= _ALONE and sys.getrefcount(g.data_) <= 2
                  and g.meta.strides == meta.strides and g.data_.base is g.data_):
                node.grad = g if g.node is None else g.detach()
            else:
                node.grad = g.detach().clone()
        elif create or have.layout is not g.layout:
            node.grad = have + g if create else (have + g).detach()
        else:
            have.add_(g.detach() if g.node is not None else g)
    if node.accumulated:
        tracing.fail("a hook of a gradient runs")
        owner = node.owner()
        if owner is not None:
            for fn in list(node.accumulated.values()):
                fn(owner)


def plain(g: Any) -> Any:
    """A gradient as a Tensor itself: the class of what it was computed from is not handed on."""
    return g if g is None or g.meta.override is None or g.is_sparse else N.make_tensor(
        g.data_, g.meta.plain, g.node)
