"""Forward mode: tensors with a tangent, and the tangents of every op.

Floor 5; imports levels. No op has a forward rule of its own by hand: tangents of elementwise ops
are derived from their expression, those of views and of ops declared `linear` are the op applied
to the tangent, and those of all others come from the op's vjp u -> J^T u, which is linear in u:
its own vjp is v -> J v.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autograd import node as N
from ..autograd.api import grad
from ..autograd.state import mode
from ..ops import registry as R
from . import levels as L
from .levels import Level, Virtual, stand


class Dual(Virtual):
    """A primal tensor with a tangent (None stands for zeros)."""

    __slots__ = ("tangent",)

    def __init__(self, level: Level, value: Any, tangent: Any) -> None:
        self.level, self.value, self.tangent = level, value, tangent

    def under(self) -> Sequence[Any]:
        return (self.value,) if self.tangent is None else (self.value, self.tangent)

    def describe(self) -> str:
        text = repr(self.value)
        return text if self.tangent is None or not self.level.alive else (
            f"{text[:-1]}, tangent={self.tangent!r})")


class DualLevel(Level):
    """A level of forward mode."""

    word = "a forward-mode derivative"

    def __init__(self, merged: bool = False) -> None:
        super().__init__()
        self.merged = merged

    def parts(self, t: Any) -> tuple[Any, Any]:
        """(primal, tangent) of a tensor; the tangent is None for one that does not move."""
        if L.owner(t) is not self:
            return t, None
        return t.data_.value, t.data_.tangent

    def dual(self, primal: Any, tangent: Any) -> Any:
        """A tensor with a tangent, laid out as the primal is."""
        return stand(Dual(self, primal, _fit(tangent, primal)))

    def inert(self, value: Any) -> Virtual:
        return Dual(self, value, None)

    def detach(self, t: Any) -> Virtual:
        return Dual(self, L.detached(t.data_.value), None)

    def apply(self, t: Any, fn: Callable[[Any], Any]) -> Virtual:
        primal, tangent = self.parts(t)
        return Dual(self, fn(primal), None if tangent is None else fn(tangent))

    def call(self, op: R.Op, args: list[Any]) -> Any:
        if decomposes(op, args):
            return op.compose(*args)  # type: ignore[attr-defined]
        primals = L.each(args, lambda t: self.parts(t)[0])
        outs = L.invoke(op, primals)
        many = list(outs) if isinstance(outs, tuple) else [outs]
        results = many
        if op.differentiable:
            tangents = L.each(args, lambda t: Moving(*self.parts(t)))
            found = tangents_of(op, primals, tangents, many)
            results = [o if t is None else self.dual(o, t) for o, t in zip(many, found)]
        return L.finish(self, op, args, results)

    def write(self, target: Any, source: Any) -> None:
        """The tangent is written as the primal is; a target from below becomes dual."""
        primal, tangent = self.parts(source)
        if L.owner(target) is not self:
            if tangent is None and (self.merged or source.node is None):
                target.copy_(primal)
                return
            L.promote_family(self, target)
        target.data_.value.copy_(primal)
        root = target if target.root is None else target.root
        views = [v for v in (k() for k in root.kids or ()) if v is not None]
        if target is root and not views:
            target.data_.tangent = None if tangent is None else _fit(
                tangent.clone(), target.data_.value)
        else:
            _write_shared(root, views, target, tangent)


def _write_shared(root: Any, views: list[Any], target: Any, tangent: Any) -> None:
    """Write the tangent of one of several tensors over the same memory, whose tangents share
    memory too."""
    whole = root.data_.tangent
    if tangent is None:
        if whole is not None:
            target.data_.tangent.zero_()
        return
    if whole is None or not _batches(tangent) <= _batches(whole):  # new memory, that can hold both
        room = tangent.sum() if whole is None else tangent.sum() + whole.sum()
        made = _zeros_laid_out(root.data_.value, room)
        if whole is not None:
            made.copy_(whole)
        root.data_.tangent = made
        for v in views:
            below = root.data_.value.data_
            step = (v.data_.value.data_.offset - below.offset) // v.meta.dtype.itemsize
            v.data_.tangent = R.REGISTRY["as_strided_view"].fn(
                made, v.meta.shape, v.meta.strides, step)
    target.data_.tangent.copy_(tangent)


def _batches(t: Any) -> set[int]:
    """The levels at which a tensor is a batch, by their numbers."""
    if not t.meta.virtual:
        return set()
    own = {t.data_.level.number} if getattr(t.data_, "batched", False) else set()
    return own.union(*map(_batches, t.data_.under()))


def make_dual(level: DualLevel, tensor: Any, tangent: Any) -> Any:
    """A dual tensor over `tensor`, within the graph that `tensor` is part of."""
    if L.owner(tensor) is level:
        if tensor.data_.tangent is not None:
            raise RuntimeError("make_dual: this tensor has a tangent at this level already; "
                               "unpack_dual() gives its primal")
        tensor = tensor.data_.value
    made = level.dual(tensor, tangent)
    if level.merged and tensor.node is not None:
        made.node = tensor.node
        previous, mode.enabled = mode.enabled, True
        try:
            made = R.REGISTRY["alias"].fn(made)
        finally:
            mode.enabled = previous
    return made


def unpack(level: DualLevel, t: Any) -> tuple[Any, Any]:
    """(primal, tangent) at a level, also of a tensor of a level above it."""
    L.highest((t,))
    own = L.owner(t)
    if own is None or own.number < level.number:
        return t, None
    if own is level:
        return level.parts(t)
    primal = own.apply(t, lambda v: unpack(level, v)[0])
    moving: list[Any] = []

    def tangent(v: Any) -> Any:
        found = unpack(level, v)[1]
        moving.append(found)
        return N.zeros(v.meta.plain) if found is None else found

    other = own.apply(t, tangent)
    return stand(primal), None if all(m is None for m in moving) else stand(other)


class Moving:
    """An argument with its tangent (None: it does not move)."""

    __slots__ = ("value", "tangent")

    def __init__(self, value: Any, tangent: Any) -> None:
        self.value, self.tangent = value, tangent


def decomposes(op: Any, args: Sequence[Any]) -> bool:
    """Whether a call is to be made of other ops: no rule but its composition."""
    if op.kind == "view":
        return op.compose is not None and op.view(args[0].meta.plain, *args[1:]) is None
    return bool(op.kind == "kernel" and op.compose is not None and op.vjp is None
                and not op.linear and op.jvp is None)


def _moving(v: Any) -> bool:
    if isinstance(v, tuple):
        return any(isinstance(m, Moving) and m.tangent is not None for m in v)
    return isinstance(v, Moving) and v.tangent is not None


def tangents_of(op: Any, primals: Sequence[Any], args: Sequence[Any],
                outs: Sequence[Any]) -> Sequence[Any]:
    """The tangents of a call's results; None where there is none."""
    if not any(map(_moving, args)) or not any(o.meta.dtype.kind in "fc" for o in outs):
        return [None] * len(outs)
    if op.kind == "elementwise":
        found: Sequence[Any] = _elementwise(op, args, outs)
    elif op.kind == "view":
        found = [_view(op, args)]
    else:
        got: Any = NotImplemented
        if op.jvp is not None:
            got = op.jvp(Context(op, primals, outs), *[
                _tangent(v) for p, v in zip(op.params, args) if p in op.tensors])
        if got is not NotImplemented:
            found = got if isinstance(got, tuple) else (got,)
        elif op.linear:
            found = _linear(op, primals, args, outs)
        else:
            found = _transposed_twice(op, primals, args, outs)
    return [*found, *[None] * (len(outs) - len(found))]


def _tangent(v: Any) -> Any:
    return tuple(map(_tangent, v)) if isinstance(v, tuple) else (
        v.tangent if isinstance(v, Moving) else None)


class Context:
    """What a kernel op's jvp sees: arguments and results ("out", "out1"...) by name."""

    def __init__(self, op: Any, primals: Sequence[Any], outs: Sequence[Any]) -> None:
        self.__dict__.update({p.name: v for p, v in zip(op.params, primals)})
        self.__dict__.update({f"out{k or ''}": o for k, o in enumerate(outs)})


def _elementwise(op: Any, args: Sequence[Any], outs: Sequence[Any]) -> list[Any]:
    """Run the derived tangent op."""
    attrs = {p.name: v for p, v in zip(op.params, args) if p.kind == R.ATTR}
    operands = [v for p, v in zip(op.params, args) if p.kind != R.ATTR]
    metas = [v.value.meta for v in operands if isinstance(v, Moving)] + [o.meta for o in outs]
    f = op.forward(attrs, tuple(map(_moving, operands)),
                   any(m.dtype.kind == "c" for m in metas))
    found: list[Any] = [None] * len(outs)
    for k, j in f.same:
        found[k] = operands[j].tangent.clone()  # results have memory of their own
    if f.op is not None:
        known = {p.name: v.value if isinstance(v, Moving) else v
                 for p, v in zip(op.operands, operands)}
        known.update({f"out{op.order}_{k}": o for k, o in enumerate(outs)})
        got = f.op.fn(*[known[n] for n in f.saved], *[operands[k].tangent for k in f.moving],
                      tuple([outs[k].meta.dtype for k in f.targets]))
        for k, t in zip(f.targets, (got,) if len(f.targets) == 1 else got):
            found[k] = t
    return found


def _view(op: Any, args: Sequence[Any]) -> Any:
    """A view of the tangent."""
    primal, tangent = args[0].value, args[0].tangent
    strided = R.REGISTRY["as_strided_view"]
    if op is strided and L.reaches_out(primal.meta, *args[1:]):
        return _strided(primal, tangent, *args[1:])
    if tangent.meta.strides != primal.meta.strides:
        # the primal overlaps or has gaps, so that no tangent can have its layout
        if op is strided:
            tangent = _zeros_laid_out(primal, tangent).copy_(tangent)
        else:
            tangent = tangent.contiguous()
    return L.invoke(op, [tangent, *args[1:]])


def _strided(primal: Any, tangent: Any, size: Any, stride: Any, offset: int) -> Any:
    """`as_strided` that shows memory around the primal, which does not move."""
    m, view = primal.meta, R.REGISTRY["as_strided_view"].fn
    before = max(-offset, 0)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride)) + 1
    flat = tangent.new_zeros((before + max(last, m.span // m.dtype.itemsize, 1),))
    view(flat, m.shape, m.strides, before).copy_(tangent)
    return view(flat, size, stride, offset + before)


def _linear(op: Any, primals: Sequence[Any], args: Sequence[Any],
            outs: Sequence[Any]) -> list[Any]:
    """The sum, over the groups of arguments that the op is linear in, of the op with a group's
    tangents in place of its values. An optional argument of another group is left out."""
    groups = [g.split() for g in op.linear]
    optional = {n for g in groups for n in g}
    total: list[Any] = []
    for names in groups:
        if not any(_moving(v) for p, v in zip(op.params, args) if p.name in names):
            continue
        values = [(_tangent_or_zero(p, v) if p.name in names else
                   None if p.kind == R.OPTIONAL and p.name in optional else primal)
                  for p, v, primal in zip(op.params, args, primals)]
        got = L.invoke(op, values)
        many = list(got) if isinstance(got, tuple) else [got]
        many = [t if o.meta.dtype.kind in "fc" else None for t, o in zip(many, outs)]
        total = many if not total else [
            a if b is None else a + b for a, b in zip(total, many)]
    return total[:getattr(op, "diff_outputs", None)]


def _tangent_or_zero(p: R.Param, v: Any) -> Any:
    if isinstance(v, tuple):
        return tuple([_tangent_or_zero(p, t) for t in v])
    if not isinstance(v, Moving):
        return None if v is None else 0 * v if isinstance(v, (int, float)) else v
    if v.tangent is not None:
        return v.tangent
    return None if p.kind == R.OPTIONAL else N.zeros(v.value.meta.plain)


def _transposed_twice(op: Any, primals: Sequence[Any], args: Sequence[Any],
                      outs: Sequence[Any]) -> list[Any]:
    """v -> J v as the vjp of the vjp."""
    level = L.highest(primals)
    found: list[Any] = [None] * len(outs)
    previous, mode.enabled = mode.enabled, True
    try:
        leaves: list[Any] = []
        tangents: list[Any] = []
        got = L.invoke(op, [_started(v, level, leaves, tangents) for v in args])
        many = list(got) if isinstance(got, tuple) else [got]
        at = [k for k, o in enumerate(many) if o.node is not None]
        seeds = [L.leaf(N.zeros(many[k].meta.plain), level) for k in at]
        first = grad([many[k] for k in at], leaves, seeds, create_graph=True,
                     allow_unused=True) if at else ()
        pairs = [(g, t) for g, t in zip(first, tangents) if g is not None and g.node is not None]
        if pairs:
            own = [t.node for t in (*leaves, *seeds)]
            graph = previous and (level is not None or any(map(L.tracked, tangents))
                                  or L.depends([g.node for g, _ in pairs], own))
            second = grad([g for g, _ in pairs], seeds, [t for _, t in pairs],
                          create_graph=graph, allow_unused=True)
            for k, t in zip(at, second):
                found[k] = t if t is None else L.trimmed(t, own, level)
    finally:
        mode.enabled = previous
    return found


def _started(v: Any, level: Any, leaves: list[Any], tangents: list[Any]) -> Any:
    """An argument from which derivatives can be asked for, if it moves."""
    if isinstance(v, tuple):
        return tuple([_started(m, level, leaves, tangents) for m in v])
    if not isinstance(v, Moving):
        return v
    if v.tangent is None:
        return v.value
    leaves.append(L.leaf(v.value, level))
    tangents.append(v.tangent)
    return leaves[-1]


# ---------------------------------------------------------------- layouts

def _fit(tangent: Any, primal: Any) -> Any:
    """A tangent in the dtype, shape and (where memory is dense) strides of its primal."""
    m = primal.meta
    if tangent.meta.dtype is not m.dtype:
        tangent = tangent.to(m.dtype)
    if tangent.meta.shape != m.shape:
        tangent = tangent.expand(m.shape)
    if tangent.meta.strides != m.strides and m.span == m.nbytes and not m.overlapping:
        order = sorted(range(m.ndim), key=lambda k: (-m.strides[k], k))
        back = sorted(range(m.ndim), key=order.__getitem__)
        tangent = tangent.permute(order).contiguous().permute(back)
    return tangent


def _zeros_laid_out(primal: Any, like: Any) -> Any:
    """Zeros with the strides of a primal, and the batch dims of `like`."""
    m = primal.meta
    flat = like.new_zeros((max(m.span // m.dtype.itemsize, 1),))
    return R.REGISTRY["as_strided_view"].fn(flat, m.shape, m.strides, 0)


__all__ = ["Dual", "DualLevel", "tangents_of", "decomposes"]
