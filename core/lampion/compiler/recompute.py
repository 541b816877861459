"""Recomputation: elementwise values that would wait long for their next reader are made again.

Floor 6; imports graph and passes. What a forward pass leaves for the backward pass is most of a
training step's memory. An elementwise result is not kept if its operands stay anyway and a call
near the late readers reads them over the same points: fusion makes both in one kernel then (gelu
beside its gradient), so that the second time costs no more than a store.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

from .graph import Buffer, Call, Graph, Ref, Uses, move
from .passes import elementwise

LEAST_BYTES = 1 << 18
LEAST_CALLS = 24  # between two readers, for the later one to be late
NEAR = 16  # calls before and after it, among which another one has to read the operands


def recompute(graph: Graph) -> None:
    """Make values again before their late readers, where that costs next to nothing."""
    while _one(graph):
        pass


def _one(graph: Graph) -> bool:
    uses = Uses(graph)
    for k, c in enumerate(graph.items):
        late = _late_reader(c, k, uses) if type(c) is Call else None
        if late is None or not _operands_stay(graph, k, late, uses):
            continue
        w = c.writes[0]
        again = Buffer("made", _next_number(graph), w.buffer.nbytes, w.buffer.device)
        copy = dataclasses.replace(c, writes=(Ref(again, w.offset, w.meta),))
        rest = Graph(graph.name, graph.items[late:], [])
        move(rest, {w.buffer: (again, 0)})
        graph.items[late:] = [copy, *rest.items]
        return True
    return False


def _late_reader(c: Call, k: int, uses: Uses) -> int | None:
    """The position of the first late reader of an elementwise call's result."""
    if not elementwise(c) or len(c.writes) != 1 or not uses.private(c.writes[0]) \
            or c.writes[0].buffer.nbytes < LEAST_BYTES or not all(
            type(r) is Ref or isinstance(r, (int, float)) for r in c.reads):
        return None
    places = [k, *uses.reads.get(c.writes[0].buffer, ())]
    gap, at = max(((b - a, b) for a, b in pairwise(places)), default=(0, 0))
    return at if gap >= LEAST_CALLS else None


def _operands_stay(graph: Graph, k: int, late: int, uses: Uses) -> bool:
    """Whether the operands are the same at `late`, are read there or later anyway, and one of them
    by an elementwise call nearby over the same points."""
    c: Call = graph.items[k]  # type: ignore[assignment]
    if any(type(x) is not Call for x in graph.items[k:late]):
        return False  # what the host writes is not known
    for r in c.reads:
        if type(r) is not Ref:
            continue
        if any(k < j for j in uses.writes.get(r.buffer, ())):
            return False
        if r.buffer.kind == "made" and r.buffer not in uses.escaping \
                and max(uses.reads[r.buffer]) < late:
            return False
    shape = c.writes[0].meta.shape
    own = {tuple(r) for r in c.reads if type(r) is Ref and r.meta.shape == shape}
    return any(type(x) is Call and elementwise(x) and x.writes[0].meta.shape == shape
               and own & {tuple(r) for r in x.reads if type(r) is Ref}
               for x in graph.items[late - NEAR:late + NEAR])


def _next_number(graph: Graph) -> int:
    numbers: list[Any] = [r.buffer.number for x in graph.items if type(x) is Call for r in x.refs]
    return max(numbers) + 1


__all__ = ["recompute"]
