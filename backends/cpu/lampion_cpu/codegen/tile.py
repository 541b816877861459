"""Square tiles: vectors along one axis, loaded along another and transposed in registers.

An array that is contiguous along the wrong axis is read W vectors at a time along its own axis;
log2(W) rounds of two-input shuffles turn them. May import: lampion, emit, memory, types.
"""

from __future__ import annotations

from collections.abc import Sequence

from lampion.base.dtype import dtype
from lampion.ir.expr import Expr, is_const

from . import types as ty
from .emit import Emitter, Scope


def transpose(em: Emitter, rows: Sequence[str], t: str, scope: Scope) -> list[str]:
    """The columns of W vectors of W lanes.

    Interleaving row k with row k + W/2 rotates the index bits by one; after log2(W) rounds rows
    and lanes have changed places.
    """
    w = len(rows)
    v = f"<{w} x {t}>"
    halves = [", ".join(f"i32 {k // 2 + first + (k % 2) * w}" for k in range(w))
              for first in (0, w // 2)]
    out = list(rows)
    for _ in range(w.bit_length() - 1):
        out = [em.put(f"shufflevector {v} {out[k]}, {v} {out[k + w // 2]}, <{w} x i32> <{h}>",
                      scope) for k in range(w // 2) for h in halves]
    return out


def _row_pointers(em: Emitter, first: str, step: Expr, n: int, t: str, scope: Scope) -> list[str]:
    """`n` pointers, each `step` elements behind the one before."""
    stride = em.uniform(step)
    out = [first]
    for _ in range(n - 1):
        out.append(em.put(f"getelementptr {t}, ptr {out[-1]}, i64 {stride}", scope))
    return out


def _pattern(em: Emitter, index: Expr) -> tuple[Expr | None, Expr | None, Expr]:
    """(coefficient of the lane axis, of the tile axis, the index with both at 0)."""
    lanes = em.lanes
    assert lanes is not None and lanes.tile is not None
    along, rest = em.affine(index, lanes.axis)
    across, rest = em.affine(rest, lanes.tile)
    if em.varying(rest):
        return None, None, rest
    return along, across, rest


def _corner(em: Emitter, slot: int, rest: Expr, along: Expr, across: Expr, d: dtype,
            scope: Scope) -> str:
    """Pointer to the element of lane 0 of vector 0."""
    lanes = em.lanes
    assert lanes is not None
    t = ty.mem(d)
    at = em.put(f"getelementptr {t}, ptr {em.pointer(slot)}, i64 {em.uniform(rest)}", scope)
    for c, i in ((along, lanes.start), (across, lanes.tile_start)):
        if is_const(c, 0):
            continue
        step = i if is_const(c, 1) else em.put(f"mul i64 {em.uniform(c)}, {i}", scope)
        at = em.put(f"getelementptr {t}, ptr {at}, i64 {step}", scope)
    return at


def load(em: Emitter, e: Expr, scope: Scope, d: dtype) -> list[str]:
    """The W vectors of a load, in the memory type."""
    from . import memory

    lanes = em.lanes
    assert lanes is not None
    t, w = ty.mem(d), lanes.width
    along, across, rest = _pattern(em, e.args[0])
    if along is None or across is None or len(e.args) > 1:
        return memory.gather(em, e, memory.lane_masks(em, e, scope), scope, d)
    v = f"<{w} x {t}>"
    if is_const(across, 0) and is_const(along, 1):
        corner = _corner(em, e.value, rest, along, across, d, scope)
        return [em.put(f"load {v}, ptr {corner}, align {d.itemsize}", scope)] * lanes.count
    if is_const(along, 1):
        corner = _corner(em, e.value, rest, along, across, d, scope)
        return [em.put(f"load {v}, ptr {p}, align {d.itemsize}", scope)
                for p in _row_pointers(em, corner, across, lanes.count, t, scope)]
    if is_const(across, 1) and is_const(along, 0):
        corner = _corner(em, e.value, rest, along, across, d, scope)
        out = []
        for u in range(lanes.count):
            at = memory.offset_pointer(em, corner, t, u, scope)
            out.append(em.splat(em.put(f"load {t}, ptr {at}, align {d.itemsize}", scope), t, scope))
        return out
    if is_const(across, 1):
        corner = _corner(em, e.value, rest, along, across, d, scope)
        rows = [em.put(f"load {v}, ptr {p}, align {d.itemsize}", scope)
                for p in _row_pointers(em, corner, along, w, t, scope)]
        return transpose(em, rows, t, scope)
    return memory.gather(em, e, memory.lane_masks(em, e, scope), scope, d)


def store(em: Emitter, slot: int, index: Expr, values: Sequence[str],
          masks: Sequence[str | None], d: dtype) -> None:
    """Store W vectors."""
    from . import stores

    lanes = em.lanes
    assert lanes is not None
    t, w = ty.mem(d), lanes.width
    v = f"<{w} x {t}>"
    along, across, rest = _pattern(em, index)
    if along is None or across is None or any(m is not None for m in masks) or not (
            is_const(along, 1) or is_const(across, 1)):
        stores.scatter(em, stores.Pending(slot, index, d, list(values), tuple(masks), True))
        return
    scope = em.here
    corner = _corner(em, slot, rest, along, across, d, scope)
    if is_const(along, 1):
        step, vectors = across, list(values)
    else:
        step, vectors = along, transpose(em, values, t, scope)
    for x, p in zip(vectors, _row_pointers(em, corner, step, len(vectors), t, scope)):
        em.raw(f"store {v} {x}, ptr {p}, align {d.itemsize}")


