"""Loads: contiguous, uniform, paired, gathered, masked.

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
    step = coefficient.value if coefficient is not None and coefficient.op == "const" else 0
    if step == 1 and not em.varying(rest):
        out = contiguous_load(em, e, rest, masks, scope, d)
    elif step == -1 and not any(masks) and not em.varying(rest):
        out = backward_load(em, e, rest, scope, d)
    elif step == 2 and not any(masks) and not em.varying(rest):
        out = paired_load(em, e, rest, scope, d)
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


def backward_load(em: Emitter, e: Expr, rest: Expr, scope: Scope, d: dtype) -> list[str]:
    """Neighbouring elements in descending order: contiguous loads and a shuffle."""
    lanes = em.lanes
    assert lanes is not None
    t, w = ty.mem(d), lanes.width
    v = ty.vec(t, w)
    base = lane_pointer(em, e.value, rest, d, scope, -1)
    order = ", ".join(f"i32 {w - 1 - k}" for k in range(w))
    out = []
    for u in range(lanes.count):
        at = offset_pointer(em, base, t, 1 - (u + 1) * w, scope)
        x = em.put(f"load {v}, ptr {at}, align {d.itemsize}", scope)
        out.append(em.put(f"shufflevector {v} {x}, {v} poison, <{w} x i32> <{order}>", scope))
    return out


def paired_load(em: Emitter, e: Expr, rest: Expr, scope: Scope, d: dtype) -> list[str]:
    """Every second element (a part of complex numbers): two overlapping loads and a shuffle.

    The second load ends at the last element wanted, so that nothing beyond it is touched.
    """
    lanes = em.lanes
    assert lanes is not None
    t, w = ty.mem(d), lanes.width
    v = ty.vec(t, w)
    base = lane_pointer(em, e.value, rest, d, scope, 2)
    picks = ", ".join(f"i32 {2 * k if 2 * k < w else 2 * k + 1}" for k in range(w))
    out = []
    for u in range(lanes.count):
        first = em.put(f"load {v}, ptr {offset_pointer(em, base, t, 2 * u * w, scope)}, "
                       f"align {d.itemsize}", scope)
        second = em.put(f"load {v}, ptr {offset_pointer(em, base, t, 2 * u * w + w - 1, scope)}, "
                        f"align {d.itemsize}", scope)
        out.append(em.put(f"shufflevector {v} {first}, {v} {second}, <{w} x i32> <{picks}>",
                          scope))
    return out


def lane_pointer(em: Emitter, slot: int, rest: Expr, d: dtype, scope: Scope,
                 step: int = 1) -> str:
    """Pointer to lane 0: (buffer + rest), hoisted, + loop variable times `step`."""
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
    start = lanes.start if step == 1 else em.put(f"mul i64 {lanes.start}, {step}", scope)
    return em.put(f"getelementptr {t}, ptr {base}, i64 {start}", scope)


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
