"""Loads and stores: contiguous, uniform, strided, gathered, masked.

May import: lampion.base, lampion.ir, emit, types.
"""

from __future__ import annotations

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.ir.expr import Expr, is_const

from . import tile
from . import types as ty
from .emit import Emitter, Scope, Val


def load(em: Emitter, e: Expr, scope: Scope, vec: bool) -> Val:
    """Emit a load node into `scope`."""
    d = e.dtype
    assert d is not None
    if not vec:
        return Val((_scalar_load(em, e, scope, d),), False, scope)
    lanes = em.lanes
    if lanes is None:  # varies only through a vector result of another stage: cannot happen
        raise AssertionError("a varying load outside a vector loop")
    if lanes.tile is not None:
        found = tile.load(em, e, scope, d)
        return Val(tuple(_to_register(em, x, d, scope, True) for x in found), True, scope)
    masks = lane_masks(em, e, scope)
    coefficient, rest = em.affine(e.args[0], lanes.axis)
    contiguous = is_const(coefficient, 1) if coefficient is not None else False
    if contiguous and not em.varying(rest):
        out = contiguous_load(em, e, rest, masks, scope, d)
    else:
        out = gather(em, e, masks, scope, d)
    return Val(tuple(_to_register(em, x, d, scope, True) for x in out), True, scope)


def _scalar_load(em: Emitter, e: Expr, scope: Scope, d: dtype) -> str:
    """One element; a false mask reads from a spare zero instead."""
    index = em.value(e.args[0]).regs[0]
    t = ty.mem(d)
    at = em.put(f"getelementptr {t}, ptr {em.pointer(e.value)}, i64 {index}", scope)
    if len(e.args) == 1:
        return _to_register(em, em.put(f"load {t}, ptr {at}, align {d.itemsize}", scope),
                            d, scope, False)
    mask, other = em.value(e.args[1]).regs[0], em.value(e.args[2]).regs[0]
    em.spare = True
    safe = em.put(f"select i1 {mask}, ptr {at}, ptr @spare", scope)
    x = _to_register(em, em.put(f"load {t}, ptr {safe}, align {d.itemsize}", scope),
                     d, scope, False)
    r = ty.reg(d)
    return em.put(f"select i1 {mask}, {r} {x}, {r} {other}", scope)


def lane_masks(em: Emitter, e: Expr, scope: Scope) -> tuple[str | None, ...]:
    """Per vector: the lanes to read (user mask and tail), or None for all."""
    lanes = em.lanes
    assert lanes is not None
    tail = lanes.mask
    if len(e.args) == 1:
        return (tail,) * lanes.count
    given = em.vectors(em.value(e.args[1]), dt.bool_)
    if tail is None:
        return given
    t = ty.vec("i1", lanes.width)
    return tuple(em.put(f"and {t} {m}, {tail}", scope) for m in given)


def _other(em: Emitter, e: Expr, d: dtype, scope: Scope) -> tuple[str, ...]:
    """Per vector: what masked-off lanes get, in the memory type."""
    lanes = em.lanes
    assert lanes is not None
    if len(e.args) == 1:
        return ("zeroinitializer",) * lanes.count
    out = em.vectors(em.value(e.args[2]), d)
    if d.kind == "b":
        w = lanes.width
        return tuple(em.put(f"zext <{w} x i1> {o} to <{w} x i8>", scope) for o in out)
    return out


def contiguous_load(em: Emitter, e: Expr, rest: Expr, masks: tuple[str | None, ...],
                     scope: Scope, d: dtype) -> list[str]:
    lanes = em.lanes
    assert lanes is not None
    t, w = ty.mem(d), lanes.width
    base = lane_pointer(em, e.value, rest, d, scope)
    v = ty.vec(t, w)
    others = _other(em, e, d, scope) if any(masks) else ()
    out = []
    for u, m in enumerate(masks):
        at = offset_pointer(em, base, t, u * w, scope)
        if m is None:
            out.append(em.put(f"load {v}, ptr {at}, align {d.itemsize}", scope))
        else:
            out.append(em.intrinsic(
                f"llvm.masked.load.v{w}{suffix_of(t)}.p0", v,
                [("ptr", at), ("i32", str(d.itemsize)), (f"<{w} x i1>", m), (v, others[u])],
                scope))
    return out


def lane_pointer(em: Emitter, slot: int, rest: Expr, d: dtype, scope: Scope) -> str:
    """Pointer to lane 0 of a unit-stride access: (buffer + rest), hoisted, + loop variable."""
    lanes = em.lanes
    assert lanes is not None
    t = ty.mem(d)
    base = em.pointer(slot)
    if not is_const(rest, 0):
        key = (slot, id(rest))
        where = em.target(rest)
        held = where.pointers.get(key)
        if held is None:
            held = where.pointers[key] = em.put(
                f"getelementptr {t}, ptr {base}, i64 {em.uniform(rest)}", where)
        base = held
    return em.put(f"getelementptr {t}, ptr {base}, i64 {lanes.start}", scope)


def offset_pointer(em: Emitter, base: str, t: str, elements: int, scope: Scope) -> str:
    """`base` moved by a constant number of elements."""
    if elements == 0:
        return base
    return em.put(f"getelementptr {t}, ptr {base}, i64 {elements}", scope)


def lane_indices(em: Emitter, index: Expr, scope: Scope) -> tuple[str, ...]:
    """Element indices of every lane, as vectors of i64."""
    return em.vectors(em.value(index), dt.int64)


def gather(em: Emitter, e: Expr, masks: tuple[str | None, ...], scope: Scope,
            d: dtype) -> list[str]:
    lanes = em.lanes
    assert lanes is not None
    t, w = ty.mem(d), lanes.width
    v = ty.vec(t, w)
    indices = lane_indices(em, e.args[0], scope)
    others = _other(em, e, d, scope) if any(masks) else ()
    base = em.pointer(e.value)
    out = []
    for u, m in enumerate(masks):
        at = em.put(f"getelementptr {t}, ptr {base}, <{w} x i64> {indices[u]}", scope)
        out.append(em.intrinsic(
            f"llvm.masked.gather.v{w}{suffix_of(t)}.v{w}p0", v,
            [(f"<{w} x ptr>", at), ("i32", str(d.itemsize)),
             (f"<{w} x i1>", m or "splat (i1 true)"), (v, others[u] if m else "poison")], scope))
    return out


def suffix_of(t: str) -> str:
    return {"float": "f32", "double": "f64", "half": "f16"}.get(t, t)


def _to_register(em: Emitter, x: str, d: dtype, scope: Scope, vec: bool) -> str:
    """Booleans are bytes in memory: any non-zero byte is true."""
    if d.kind != "b":
        return x
    w = em.lanes.width if vec and em.lanes is not None else 1
    zero = "0" if w == 1 else "zeroinitializer"
    return em.put(f"icmp ne {ty.vec('i8', w)} {x}, {zero}", scope)


def _to_memory(em: Emitter, x: str, d: dtype, vec: bool) -> str:
    if d.kind != "b":
        return x
    w = em.lanes.width if vec and em.lanes is not None else 1
    return em.put(f"zext {ty.vec('i1', w)} {x} to {ty.vec('i8', w)}")


def store(em: Emitter, slot: int, index: Expr, value: Expr, mask: Expr | None) -> None:
    """Emit a store of one grid or range point (or of all lanes) in the current scope."""
    d = em.args[slot].dtype
    lanes = em.lanes
    vec = lanes is not None and any(
        em.varying(x) for x in (index, value) + ((mask,) if mask is not None else ()))
    if not vec:
        _scalar_store(em, slot, index, value, mask, d)
        return
    assert lanes is not None
    scope = em.here
    w, t = lanes.width, ty.mem(d)
    v = ty.vec(t, w)
    values = [_to_memory(em, x, d, True) for x in em.vectors(em.value(value), d)]
    masks: tuple[str | None, ...] = (lanes.mask,) * lanes.count
    if mask is not None:
        given = em.vectors(em.value(mask), dt.bool_)
        masks = given if lanes.mask is None else tuple(
            em.put(f"and <{w} x i1> {m}, {lanes.mask}") for m in given)
    if lanes.tile is not None:
        tile.store(em, slot, index, values, masks, d)
        return
    coefficient, rest = em.affine(index, lanes.axis)
    if coefficient is None or not is_const(coefficient, 1) or em.varying(rest):
        scatter(em, slot, index, values, masks, d)
        return
    base = lane_pointer(em, slot, rest, d, scope)
    for u, m in enumerate(masks):
        at = offset_pointer(em, base, t, u * w, scope)
        if m is not None:
            _masked_store(em, v, t, values[u], at, d.itemsize, m)
        elif em.stream:
            em.raw(f"store {v} {values[u]}, ptr {at}, align {w * d.itemsize}, !nontemporal !0")
        else:
            em.raw(f"store {v} {values[u]}, ptr {at}, align {d.itemsize}")


def _masked_store(em: Emitter, v: str, t: str, x: str, at: str, align: int, mask: str) -> None:
    w = v[1:].split()[0]
    name = f"llvm.masked.store.v{w}{suffix_of(t)}.p0"
    em.declares.add(f"declare void @{name}({v}, ptr, i32, <{w} x i1>)")
    em.raw(f"call void @{name}({v} {x}, ptr {at}, i32 {align}, <{w} x i1> {mask})")


def scatter(em: Emitter, slot: int, index: Expr, values: list[str],
             masks: tuple[str | None, ...], d: dtype) -> None:
    lanes = em.lanes
    assert lanes is not None
    w, t = lanes.width, ty.mem(d)
    v = ty.vec(t, w)
    indices = lane_indices(em, index, em.here)
    name = f"llvm.masked.scatter.v{w}{suffix_of(t)}.v{w}p0"
    em.declares.add(f"declare void @{name}({v}, <{w} x ptr>, i32, <{w} x i1>)")
    for u, m in enumerate(masks):
        at = em.put(f"getelementptr {t}, ptr {em.pointer(slot)}, <{w} x i64> {indices[u]}")
        em.raw(f"call void @{name}({v} {values[u]}, <{w} x ptr> {at}, i32 {d.itemsize}, "
               f"<{w} x i1> {m or 'splat (i1 true)'})")


def _scalar_store(em: Emitter, slot: int, index: Expr, value: Expr, mask: Expr | None,
                  d: dtype) -> None:
    t = ty.mem(d)
    x = _to_memory(em, em.value(value).regs[0], d, False)
    i = em.value(index).regs[0]
    m = None if mask is None else em.value(mask).regs[0]
    at = em.put(f"getelementptr {t}, ptr {em.pointer(slot)}, i64 {i}")

    def write() -> list[str]:
        em.raw(f"store {t} {x}, ptr {at}, align {d.itemsize}")
        return []

    if m is None:
        write()
    else:
        em.branch(m, write)
