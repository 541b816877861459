"""Stores: contiguous, uniform, paired, scattered, masked, around the caches.

A store is prepared (its value computed) and written in two steps, so that neighbouring stores
can all compute before one of them writes: their buffers may be the same memory under several
names. May import: lampion, emit, memory, tile, types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.ir.expr import Expr, is_const
from lampion.ir.kernel import Scatter, Store

from . import memory, tile
from . import types as ty
from .emit import Emitter


@dataclass
class Pending:
    """A store whose values (memory type) and masks are in registers."""

    slot: int
    index: Expr
    dtype: dtype
    values: list[str]
    masks: tuple[str | None, ...]
    vec: bool


def run(em: Emitter, batch: Sequence[Store]) -> None:
    """Emit neighbouring stores of one stage."""
    at = 0
    while at < len(batch):
        group = [batch[at]]
        written = {("m", batch[at].slot)}
        while at + len(group) < len(batch):
            s = batch[at + len(group)]
            roots = [s.value, s.index] + ([s.mask] if s.mask is not None else [])
            if not paired(group[-1], s) and any(written & em.deps(e) for e in roots):
                break
            group.append(s)
            written.add(("m", s.slot))
        _group(em, group)
        for s in group:
            em.forget(s.slot)
        at += len(group)


def paired(a: Store, b: Store) -> bool:
    """Whether b writes the element after a's: two parts of a complex number."""
    return (a.slot == b.slot and a.mask is b.mask and b.index.op == "add"
            and b.index.args[0] is a.index and is_const(b.index.args[1], 1))


def _group(em: Emitter, group: Sequence[Store]) -> None:
    pending = [prepare(em, s) for s in group]
    k = 0
    while k < len(group):
        if k + 1 < len(group) and paired(group[k], group[k + 1]) and _interleave(
                em, pending[k], pending[k + 1]):
            k += 2
        else:
            write(em, pending[k])
            k += 1


def prepare(em: Emitter, s: Store | Scatter) -> Pending:
    """Compute the value and the mask of a store."""
    d = em.args[s.slot].dtype
    lanes = em.lanes
    vec = lanes is not None and any(
        em.varying(x) for x in (s.index, s.value) + ((s.mask,) if s.mask is not None else ()))
    if not vec:
        value = _to_memory(em, em.value(s.value).regs[0], d, False)
        mask = None if s.mask is None else em.value(s.mask).regs[0]
        return Pending(s.slot, s.index, d, [value], (mask,), False)
    assert lanes is not None
    values = [_to_memory(em, x, d, True) for x in em.vectors(em.value(s.value), d)]
    masks: tuple[str | None, ...] = (lanes.mask,) * lanes.count
    if s.mask is not None:
        given = em.vectors(em.value(s.mask), dt.bool_)
        masks = given if lanes.mask is None else tuple(
            em.put(f"and <{lanes.width} x i1> {m}, {lanes.mask}") for m in given)
    return Pending(s.slot, s.index, d, values, masks, True)


def write(em: Emitter, p: Pending) -> None:
    """Emit the memory writes of a prepared store."""
    if not p.vec:
        _scalar(em, p)
        return
    lanes = em.lanes
    assert lanes is not None
    w, t = lanes.width, ty.mem(p.dtype)
    v = ty.vec(t, w)
    if lanes.tile is not None:
        tile.store(em, p.slot, p.index, p.values, p.masks, p.dtype)
        return
    coefficient, rest = em.affine(p.index, lanes.axis)
    if coefficient is None or not is_const(coefficient, 1) or em.varying(rest):
        scatter(em, p)
        return
    base = memory.lane_pointer(em, p.slot, rest, p.dtype, em.here)
    for u, m in enumerate(p.masks):
        at = memory.offset_pointer(em, base, t, u * w, em.here)
        if m is not None:
            _masked(em, v, t, p.values[u], at, p.dtype.itemsize, m)
        elif em.stream:
            em.raw(f"store {v} {p.values[u]}, ptr {at}, align {w * p.dtype.itemsize}, "
                   "!nontemporal !0")
        else:
            em.raw(f"store {v} {p.values[u]}, ptr {at}, align {p.dtype.itemsize}")


def _interleave(em: Emitter, a: Pending, b: Pending) -> bool:
    """Write two parts of complex numbers as whole vectors; False if the layout is another."""
    lanes = em.lanes
    if lanes is None or lanes.tile is not None or not (a.vec and b.vec) or any(
            a.masks) or any(b.masks):
        return False
    coefficient, rest = em.affine(a.index, lanes.axis)
    if coefficient is None or not is_const(coefficient, 2) or em.varying(rest):
        return False
    w, t = lanes.width, ty.mem(a.dtype)
    v = ty.vec(t, w)
    base = memory.lane_pointer(em, a.slot, rest, a.dtype, em.here, 2)
    for u in range(lanes.count):
        for half in (0, 1):
            order = ", ".join(f"i32 {(half * w + k) // 2 + (k % 2) * w}" for k in range(w))
            x = em.put(f"shufflevector {v} {a.values[u]}, {v} {b.values[u]}, "
                       f"<{w} x i32> <{order}>")
            at = memory.offset_pointer(em, base, t, (2 * u + half) * w, em.here)
            em.raw(f"store {v} {x}, ptr {at}, align {a.dtype.itemsize}")
    return True


def _masked(em: Emitter, v: str, t: str, x: str, at: str, align: int, mask: str) -> None:
    w = v[1:].split()[0]
    name = f"llvm.masked.store.v{w}{memory.suffix_of(t)}.p0"
    em.declares.add(f"declare void @{name}({v}, ptr, i32, <{w} x i1>)")
    em.raw(f"call void @{name}({v} {x}, ptr {at}, i32 {align}, <{w} x i1> {mask})")


def scatter(em: Emitter, p: Pending) -> None:
    """Lanes to arbitrary elements."""
    lanes = em.lanes
    assert lanes is not None
    w, t = lanes.width, ty.mem(p.dtype)
    v = ty.vec(t, w)
    indices = memory.lane_indices(em, p.index, em.here)
    name = f"llvm.masked.scatter.v{w}{memory.suffix_of(t)}.v{w}p0"
    em.declares.add(f"declare void @{name}({v}, <{w} x ptr>, i32, <{w} x i1>)")
    for u, m in enumerate(p.masks):
        at = em.put(f"getelementptr {t}, ptr {em.pointer(p.slot)}, <{w} x i64> {indices[u]}")
        em.raw(f"call void @{name}({v} {p.values[u]}, <{w} x ptr> {at}, i32 {p.dtype.itemsize}, "
               f"<{w} x i1> {m or 'splat (i1 true)'})")


def _scalar(em: Emitter, p: Pending) -> None:
    t = ty.mem(p.dtype)
    at = em.put(f"getelementptr {t}, ptr {em.pointer(p.slot)}, i64 "
                f"{em.value(p.index).regs[0]}")

    def put() -> list[str]:
        em.raw(f"store {t} {p.values[0]}, ptr {at}, align {p.dtype.itemsize}")
        return []

    if p.masks[0] is None:
        put()
    else:
        em.branch(p.masks[0], put)


def _to_memory(em: Emitter, x: str, d: dtype, vec: bool) -> str:
    """Booleans are bytes in memory."""
    if d.kind != "b":
        return x
    w = em.lanes.width if vec and em.lanes is not None else 1
    return em.put(f"zext {ty.vec('i1', w)} {x} to {ty.vec('i8', w)}")
