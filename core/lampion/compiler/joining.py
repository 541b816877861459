"""Passes about tensors that are parts of a larger one: made in place, multiplied at once.

Floor 6; imports graph, passes, ops. What a `cat` or `stack` puts side by side may be computed where
it is to be, so that nothing is copied. And the sum of many products whose factors lie side by side
(the gradient of a weight that every step of a recurrent network uses) is one product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from ..base.meta import meta, wrap_dim
from ..ops import plans as P
from ..ops import registry as R
from .graph import Buffer, Call, Graph, Ref, Uses, move

LEAST_PRODUCTS = 4


def join_in_place(graph: Graph, boundary: int = 0) -> None:
    """Make the parts of a cat or stack along the outermost dim where the result has them. Items
    before and after `boundary` are to be programs of their own."""
    uses = Uses(graph, boundary)
    where: dict[Buffer, tuple[Buffer, int]] = {}
    items: list[Any] = []
    for k, c in enumerate(graph.items):
        parts = _parts(c) if type(c) is Call else None
        if parts is not None and len({r.buffer for r in c.reads}) == len(c.reads) \
                and len(uses.writes[c.writes[0].buffer]) == 1 and all(
                uses.private(r) and r.buffer not in where
                and uses.writes[r.buffer][0] < k
                and (uses.writes[r.buffer][0] < boundary) == (k < boundary) for r in c.reads):
            for r, at in zip(c.reads, parts):
                where[r.buffer] = (c.writes[0].buffer, at)
            continue
        items.append(c)
    graph.items = items
    move(graph, where)


def _parts(c: Call) -> list[int] | None:
    """Byte offsets of the parts in the result of a cat or stack, if they are stretches of it."""
    if c.op not in ("cat", "stack") or not c.writes[0].whole or not c.writes[0].meta.contiguous:
        return None
    m = c.writes[0].meta
    d = wrap_dim(c.call.args["dim"], m.ndim)
    if any(n != 1 for n in m.shape[:d]) or not all(type(r) is Ref for r in c.reads):
        return None
    if any(r.meta.dtype is not m.dtype or not r.meta.numel for r in c.reads):
        return None
    at, out = 0, []
    for r in c.reads:
        out.append(at)
        at += r.meta.nbytes
    return out if at == m.nbytes else None


def merge_products(graph: Graph, boundary: int = 0) -> None:
    """Sums of products A1' B1 + A2' B2 + ... as one product of (A1; A2; ...) and (B1; B2; ...).
    Only what is made after `boundary` is put side by side."""
    while _merge_one(graph, boundary):
        pass


def _merge_one(graph: Graph, boundary: int) -> bool:
    uses = Uses(graph, boundary)
    producer = {w.buffer: k for k, c in enumerate(graph.items) if type(c) is Call
                for w in c.writes}
    for end in range(len(graph.items) - 1, -1, -1):
        c = graph.items[end]
        if not _is_add(c):
            continue
        users = uses.reads.get(c.writes[0].buffer, ())
        if len(users) == 1 and _is_add(graph.items[users[0]]) and uses.private(c.writes[0]):
            continue  # not the last addition
        leaves, adds = _leaves(graph, uses, producer, end)
        products = [k for k in leaves if _is_outer(graph.items[k], uses)]
        for alike in _alike(graph, products):
            order = _side_by_side(graph, uses, alike)
            if order is not None:
                _replace(graph, adds, order, end)
                return True
    return False


def _is_add(c: Any) -> bool:
    """A sum of two tensors laid out as the result is (a third operand is alpha)."""
    return (type(c) is Call and c.op == "add" and c.generated and c.reads[2:] in ((), (1,))
            and all(type(r) is Ref and r.meta is c.writes[0].meta for r in c.reads[:2]))


def _is_outer(c: Any, uses: Uses) -> bool:
    """A product that sums over the rows of both factors, each a matrix without gaps."""
    return (type(c) is Call and c.op == "gemm" and c.call.args["ta"] and not c.call.args["tb"]
            and uses.private(c.writes[0]) and all(
                r.meta.ndim == 2 and r.meta.contiguous and r.buffer.kind == "made"
                for r in c.reads[:2]))


def _leaves(graph: Graph, uses: Uses, producer: dict[Buffer, int],
            end: int) -> tuple[list[int], list[int]]:
    """Positions of the calls whose results a tree of additions adds up, and of the additions; other
    summands are given as -1."""
    leaves, adds, stack = [], [], [end]
    while stack:
        k = stack.pop()
        adds.append(k)
        for r in graph.items[k].reads[:2]:
            j = producer.get(r.buffer, -1)
            if j >= 0 and uses.private(r) and len(uses.reads[r.buffer]) == 1:
                if _is_add(graph.items[j]):
                    stack.append(j)
                    continue
                leaves.append(j)
            else:
                leaves.append(-1)
    return leaves, adds


def _alike(graph: Graph, products: Sequence[int]) -> list[list[int]]:
    """Products by the metas of their factors, as far as there are enough."""
    groups: dict[Any, list[int]] = {}
    for k in products:
        a, b = graph.items[k].reads[:2]
        groups.setdefault((a.meta, b.meta), []).append(k)
    return [g for g in groups.values() if len(g) >= LEAST_PRODUCTS]


def _side_by_side(graph: Graph, uses: Uses, alike: list[int]) -> list[int] | None:
    """The most of these products, in the order in which the factors are, or may be put, side by
    side; None if there are not enough."""
    calls = graph.items

    def follows(side: int, j: int, k: int) -> bool:
        return _consecutive([calls[j].reads[side], calls[k].reads[side]])

    def movable(row: list[int], side: int) -> bool:
        refs = [calls[k].reads[side] for k in row]
        return len({r.buffer for r in refs}) == len(refs) and all(
            uses.private(r) and uses.writes[r.buffer][0] >= uses.boundary for r in refs)

    found = [sorted(alike)]
    for side in (0, 1):
        refs = {k: calls[k].reads[side] for k in alike}
        row = sorted(refs, key=lambda k, refs=refs: (refs[k].buffer.number, refs[k].offset))
        for run in _runs(row, partial(follows, side)):
            found += [run, *_runs(run, partial(follows, 1 - side))]
    for row in sorted(found, key=len, reverse=True):
        if len(row) >= LEAST_PRODUCTS and all(
                all(follows(side, j, k) for j, k in pairwise(row)) or movable(row, side)
                for side in (0, 1)):
            return row
    return None


def _runs(row: Sequence[int], follows: Callable[[int, int], bool]) -> list[list[int]]:
    """A row cut where one does not follow the one before."""
    runs = [[row[0]]]
    for j, k in pairwise(row):
        if follows(j, k):
            runs[-1].append(k)
        else:
            runs.append([k])
    return runs


def _consecutive(refs: Sequence[Ref]) -> bool:
    return all(b.buffer is a.buffer and b.offset == a.offset + a.meta.nbytes
               for a, b in pairwise(refs))


def _replace(graph: Graph, adds: list[int], order: list[int], end: int) -> None:
    """Put one product in the place of those in `order`, and rebuild the additions of the rest."""
    items = graph.items
    calls = [items[k] for k in order]
    where: dict[Buffer, tuple[Buffer, int]] = {}
    refs: list[Ref] = []
    number = max(r.buffer.number for c in graph.calls for r in c.refs)
    for side in (0, 1):
        parts = [c.reads[side] for c in calls]
        m = parts[0].meta
        joint = meta(m.dtype, (m.shape[0] * len(parts), m.shape[1]), None, m.device)
        if _consecutive(parts):
            refs.append(Ref(parts[0].buffer, parts[0].offset, joint))
            continue
        number += 1
        b = Buffer("made", number, joint.nbytes, m.device)
        for j, r in enumerate(parts):
            where[r.buffer] = (b, j * m.nbytes)
        refs.append(Ref(b, 0, joint))
    out = calls[0].writes[0].meta
    last: Call = items[end]
    rest = [r for k in adds for r in items[k].reads[:2]
            if not any(r.buffer is w.writes[0].buffer for w in (*calls, *[items[j] for j in adds]))]
    fresh: list[Call] = []
    number += 1
    total = Ref(Buffer("made", number, out.nbytes, out.device), 0, out)
    fresh.append(_product(refs, last.writes[0] if not rest else total, last.where))
    for k, r in enumerate(rest):
        number += 1
        target = last.writes[0] if k == len(rest) - 1 else Ref(
            Buffer("made", number, out.nbytes, out.device), 0, out)
        fresh.append(_addition(last, total, r, target))
        total = target
    gone = {*order, *adds}
    graph.items = [x for k, item in enumerate(items)
                   for x in (fresh if k == end else () if k in gone else (item,))]
    move(graph, where)


def _product(refs: Sequence[Ref], target: Ref, line: str) -> Call:
    op: Any = R.REGISTRY["gemm"]
    plan = P.kernel_plan(op, [refs[0].meta, refs[1].meta, True, False], [target.meta])
    return Call("gemm", plan.call, plan.launch_of, tuple(refs), (target,),  # type: ignore[arg-type]
                plan=plan, where=line)


def _addition(like: Call, a: Ref, b: Ref, target: Ref) -> Call:
    return Call("add", like.call, like.launch, (a, b, *like.reads[2:]), (target,), True, like.plan,
                where=like.where)


__all__ = ["join_in_place", "merge_products"]
