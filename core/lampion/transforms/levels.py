"""Levels of function transforms: tensors that stand for others, and the calls on them.

Floor 5; imports callpath, tensor, autograd. A transform (a forward-mode level, a `vmap`) that is
running is a `Level`, numbered by its depth. A tensor of a level has a `Virtual` in place of a
storage: the tensor below it and what the level adds (a tangent, a batch dim). Its meta is a twin
that no plan cache holds, so that its calls reach `transformed` by the slow path and all others
stay as fast as they were. The highest level among the arguments carries out a call by calls on the
tensors below, and records it for the reverse mode of that level: every level has a graph of its
own, which is what makes nested derivatives right.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

from .. import callpath, linking
from ..autograd import node as N
from ..autograd.node import AccumulateGrad, Select, bare, record
from ..autograd.state import mode
from ..base.meta import Meta, meta
from ..callpath import NS
from ..conversion import CopyInto
from ..ops import plans as P
from ..ops import registry as R
from ..tensor import Tensor, make_tensor

_new = object.__new__


class Virtual:
    """What a tensor of a level has in place of memory: `value`, the tensor below. `base` and
    `offset` are those of the memory at the bottom, where writes are counted."""

    __slots__ = ("level", "value")
    level: "Level"
    value: Any
    epoch = 0  # writes are counted at the bottom

    @property
    def base(self) -> Any:
        return self.value.data_.base

    @property
    def offset(self) -> int:
        return self.value.data_.offset

    def meta(self) -> Meta:
        """The ordinary meta that a tensor over this shows."""
        return self.value.meta.plain

    def under(self) -> Sequence[Any]:
        """The tensors below: the value, and what goes with it."""
        return (self.value,)

    def describe(self) -> str:
        """How the tensor prints."""
        return repr(self.value)


class _Stack(threading.local):
    """The levels that run in this thread, outermost first."""

    def __init__(self) -> None:
        self.levels: list[Level] = []


stack = _Stack()


class Level:
    """One running transform. As a context manager it is the innermost level of this thread.

    `merged` says that the level's graph and that of the tensors below are one: the gradients of
    both are computed together.
    """

    merged = False
    word = "a function transform"

    def __init__(self) -> None:
        self.number, self.alive = 0, False
        self.promoted: list[Any] = []  # tensors from below that were written to by this level's

    def __enter__(self) -> Any:
        self.number = stack.levels[-1].number + 1 if stack.levels else 1
        stack.levels.append(self)
        self.alive = True
        NS["levels"] += 1
        return self

    def __exit__(self, *exc: Any) -> None:
        stack.levels.remove(self)
        self.alive = False
        NS["levels"] -= 1
        for r in self.promoted:
            t = r()
            if t is not None and owner(t) is self:
                self.demote(t)
        self.promoted.clear()

    def demote(self, t: Any) -> None:
        """Make a tensor of this level, in place, the one below it."""
        under = t.data_.value
        t.data_, t.meta = under.data_, under.meta
        if not self.merged or t.node is None:
            t.node = under.node

    # what a kind of level defines ---------------------------------------------

    def call(self, op: R.Op, args: list[Any]) -> Any:
        """Carry out a call of which this is the highest level."""
        raise NotImplementedError

    def detach(self, t: Any) -> Virtual:
        """`t` without the histories below, and without what the level derives."""
        raise NotImplementedError

    def inert(self, value: Any) -> Virtual:
        """`value` as one of this level to which the level adds nothing."""
        raise NotImplementedError

    def write(self, target: Any, source: Any) -> None:
        """target[...] = source, for tensors of which this is the highest level."""
        raise NotImplementedError

    def apply(self, t: Any, fn: Callable[[Any], Any]) -> Virtual:
        """A linear function that keeps shapes, applied to what is below `t`."""
        raise NotImplementedError

    def read(self, t: Any, how: str) -> Any:
        """The tensor below whose values the host may read in place of `t`'s; `how` is what the
        user called ("item", "bool", "numpy"...)."""
        return t.data_.value

    def fresh(self, t: Any, made: Any) -> Any:
        """New memory that can take what is computed from `t`; `made` is such an ordinary tensor
        of one element of a batch."""
        return fresh(t.data_.value, made)


def owner(t: Any) -> Level | None:
    """The level of a tensor; None for an ordinary one."""
    return t.data_.level if t.meta.virtual else None


def tensors_of(values: Sequence[Any]) -> Iterator[Any]:
    """The tensors among the arguments of a call."""
    for v in values:
        if isinstance(v, (list, tuple)):
            yield from (t for t in v if hasattr(t, "data_"))
        elif hasattr(v, "data_"):
            yield v


def highest(values: Sequence[Any]) -> Level | None:
    """The innermost level among the arguments. Tensors of a level that has ended become those
    below them first."""
    found: Level | None = None
    for t in tensors_of(values):
        while t.meta.virtual and not t.data_.level.alive:
            t.data_.level.demote(t)
        if t.meta.virtual and (found is None or t.data_.level.number > found.number):
            found = t.data_.level
    return found


@contextmanager
def below(level: Level | None) -> Iterator[None]:
    """Inside, only the levels below this one are running."""
    levels = stack.levels
    if level is None:
        stack.levels = []
    elif level in levels:
        stack.levels = levels[:levels.index(level)]
    try:
        yield
    finally:
        stack.levels = levels


def stand(v: Virtual, node: Any = None) -> Any:
    """A tensor over a Virtual."""
    r = _new(Tensor)
    r.data_, r.meta, r.node = v, v.meta().standing(), node
    r.root = r.kids = None
    return r


def remake(data: Any, m: Meta, node: Any) -> Any:
    """A tensor over a storage or a Virtual (whose meta is its own)."""
    return stand(data, node) if isinstance(data, Virtual) else make_tensor(data, m, node)


N.make_tensor = remake


def detached(t: Any) -> Any:
    """`t` without any history, at any level."""
    level = highest((t,))
    return bare(t) if level is None else stand(level.detach(t))


def leaf(t: Any, level: Level | None) -> Any:
    """A point of `level` (None: below all) from which derivatives can be asked for: a new leaf, or
    a view within the graph of a tensor that has a history there."""
    if level is not None and owner(t) is not level:
        t = stand(level.inert(t))
    if t.node is not None:
        return R.REGISTRY["alias"].fn(t)
    return bare(t).requires_grad_()


def depends(nodes: Sequence[Any], own: Sequence[Any]) -> bool:
    """Whether a starting point other than the leaves `own` can be reached in the graph."""
    known = {id(n) for n in own}
    seen: set[int] = set()
    todo = [n for n in nodes if n is not None]
    while todo:
        n = todo.pop()
        if id(n) in seen:
            continue
        seen.add(id(n))
        if not n.edges and id(n) not in known:
            return True
        todo.extend(e for e in n.edges if e is not None)
    return False


def trimmed(t: Any, own: Sequence[Any], level: Level | None) -> Any:
    """`t` without a history that leads to nothing but the leaves `own` of `level`."""
    at = owner(t)
    if at is not None and at is not level and (level is None or at.number > level.number):
        return stand(at.apply(t, lambda v: trimmed(v, own, level)), t.node)
    return t if t.node is None or depends((t.node,), own) else bare(t)


def tracked(t: Any) -> bool:
    """Whether a tensor has a history, at any level."""
    if t.node is not None or not t.meta.virtual:
        return t.node is not None
    return any(map(tracked, t.data_.under()))


# ---------------------------------------------------------------- calls

def invoke(op: R.Op, args: Sequence[Any]) -> Any:
    """Call an op's function with bound arguments."""
    rest: list[Any] = []
    named: dict[str, Any] = {}
    spread = False
    for p, v in zip(op.params, args):
        if p.kind == "*":
            rest.extend(v)
            spread = True
        elif p.kwonly or spread:
            named[p.name] = v
        else:
            rest.append(v)
    return op.fn(*rest, **named)


def invoke_inplace(op: R.Op, args: Sequence[Any]) -> Any:
    """Call the in-place form of an op with bound arguments."""
    named = {p.name: v for p, v in zip(op.params, args) if p.kwonly}
    return op.ifn(*[v for p, v in zip(op.params, args) if not p.kwonly], **named)


def transformed(op: R.Op, values: list[Any]) -> Any:
    """A call with tensors of transforms: their highest level carries it out."""
    level = highest(values)
    if level is None:
        return callpath.call(op, values)
    if op.kind == "view":
        args = [values[0], *[callpath._attribute(p, v)
                             for p, v in zip(op.params[1:], values[1:])]]
    else:
        args = callpath.convert(op, values)
    with below(level):
        return level.call(op, args)


def each(args: Sequence[Any], fn: Callable[[Any], Any]) -> list[Any]:
    """The arguments with `fn` applied to every tensor."""
    return [tuple([fn(t) if hasattr(t, "data_") else t for t in v])
            if isinstance(v, (list, tuple)) else fn(v) if hasattr(v, "data_") else v for v in args]


def shadow(op: Any, args: Sequence[Any]) -> Any:
    """The plan of a call by what its tensors show: it checks and records, and cannot run."""
    shadows = op.__dict__.setdefault("shadows", {})
    if op.kind == "view":
        m = args[0].meta.plain
        key: Any = (m, *args[1:])
        p = shadows.get(key)
        if p is None:
            shape, strides, _, d = view_of(op, m, args[1:])
            p = P.ViewPlan(op, meta(d, shape, strides, m.device), 0,
                         {q.name: v for q, v in zip(op.params, [m, *args[1:]])})
    else:
        key, metas = callpath.plan_key(op, args)
        p = shadows.get(key)
        if p is None:
            p = P.shadow_plan(op, metas)
    if len(shadows) > 20_000:
        shadows.clear()
    shadows[key] = p
    return p


def view_of(op: Any, m: Meta, rest: Sequence[Any]) -> Any:
    """(shape, strides, offset, dtype) of a view op's result; None if it must copy."""
    spec = op.view(m, *rest)
    if spec is None:
        return None
    return tuple(spec[0]), tuple(spec[1]), spec[2], spec[3] if len(spec) > 3 else m.dtype


def reaches_out(m: Meta, shape: Sequence[int], strides: Sequence[int], offset: int) -> bool:
    """Whether a strided view reaches beyond the elements of a tensor of meta `m`."""
    if 0 in shape:
        return False
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides))
    return offset < 0 or last >= max(m.span // m.dtype.itemsize, 1)


def edges_of(op: R.Op, args: Sequence[Any], level: Level) -> tuple[Any, ...]:
    """The nodes of the operands in the graph of `level`."""
    def own(t: Any) -> Any:
        return t.node if level.merged or owner(t) is level else None

    edges: list[Any] = []
    for p, v in zip(op.params, args):
        if isinstance(v, (list, tuple)) and p.kind == R.LIST:
            edges.extend(own(t) for t in v)
        elif hasattr(v, "data_"):
            edges.append(own(v))
        elif op.kind == "elementwise" and p.kind != R.ATTR:
            edges.append(None)
    return tuple(edges)


def finish(level: Level, op: Any, args: Sequence[Any], results: Sequence[Any]) -> Any:
    """Results of a call in the form of the op's: views linked to their base, and recorded in the
    graph of `level` if an operand is part of it."""
    outs = list(results)
    source = args[0] if args else None
    linked = op.kind == "view" and owner(source) is level
    edges = edges_of(op, args, level) if op.differentiable and mode.enabled else ()
    recorded = any(e is not None for e in edges)
    plan = shadow(op, args) if recorded else None
    recorded = recorded and plan.diff
    if linked or recorded:
        outs = [o if owner(o) is level else stand(level.inert(o)) for o in outs]
    if recorded:
        operands = tuple([v for p, v in zip(op.params, args) if p.kind != R.ATTR]
                         ) if op.kind == "elementwise" else tuple(args)
        needs = tuple([e is not None for e in edges]) if op.kind == "elementwise" else True
        node = record(plan, edges, operands, tuple(outs), needs)
        if len(outs) == 1:
            outs[0].node = node
        else:
            for k, o in enumerate(outs[:getattr(op, "diff_outputs", None)]):
                if o.meta.dtype.kind in "fc":
                    o.node = Select(node, k)
    if linked:
        link(outs[0], source)
    return outs[0] if getattr(op, "noutputs", 1) == 1 else callpath.result_tuple(op, outs)


def link(view: Any, source: Any) -> None:
    """Make `view` one of `source`'s base."""
    root = source if source.root is None else source.root
    view.root = root
    root.kids = [*(root.kids or ()), ref(view)]
    if not len(root.kids) & 31:
        linking.prune(root)


# ---------------------------------------------------------------- writes

def transformed_inplace(op: R.Op, name: str, values: list[Any]) -> Any:
    """An in-place call with tensors of transforms: out of place, then written."""
    target = values[0]
    if highest(values) is None:  # all of them were of levels that have ended
        return invoke_inplace(op, values)
    callpath.check_leaf(target, name)
    if mode.enabled and target.meta.virtual:  # what the call saves must outlive the write
        from ..updating import apart

        values = [apart(v, target.data_.base) for v in values]
    return NS["assign"](target, transformed(op, values), name)


def copy(target: Any, source: Any) -> Any:
    """`target.copy_(source)`, recorded in the graph of the highest level."""
    level = highest((target, source))
    if level is None:
        return target.copy_(source)
    with below(level):
        level.write(target, source)
    edges = tuple([t.node if level.merged or owner(t) is level else None
                   for t in (target, source)])
    if mode.enabled and (edges[0] is not None or (
            edges[1] is not None and target.meta.dtype.kind in "fc")):
        n: Any = _new(CopyInto)
        n.edges, n.saved, n.extra, n.epoch = edges, (), None, 0
        n.source, n.result = source.meta.plain, target.meta.plain
        callpath.rebase(target, n)
    return target


def promote(level: Level, t: Any) -> None:
    """Make a tensor from below one of `level`, in place, until the level ends."""
    made = make_tensor(t.data_, t.meta, t.node) if not t.meta.virtual else stand(t.data_, t.node)
    made.root, made.kids = t.root, t.kids
    t.data_ = level.inert(made)
    t.meta = made.meta.standing()
    if type(made.node) is AccumulateGrad or not level.merged:
        t.node = None
    level.promoted.append(ref(t))


def promote_family(level: Level, t: Any) -> None:
    """`promote` a tensor together with its base and the views of that."""
    root = t if t.root is None else t.root
    for v in [root, t, *[k() for k in root.kids or ()]]:
        if v is not None and owner(v) is not level:
            promote(level, v)


def apply_below(t: Any, fn: Callable[[Any], Any]) -> Any:
    """A linear function of tensors, such as a copy to another device, below `t`'s level."""
    level = highest((t,))
    if level is None:
        return fn(t)
    with below(level):
        return stand(level.apply(t, fn))


def readable(t: Any, how: str) -> Any:
    """The ordinary tensor whose values the host may read in place of `t`'s. RuntimeError if there
    are several (a batch)."""
    while t.meta.virtual:
        t = t.data_.level.read(t, how)
    return t


def fresh(t: Any, made: Any) -> Any:
    """A new tensor `made` "like" `t`, with the batch dims that `t` has."""
    return t.data_.level.fresh(t, made) if t.meta.virtual else made


NS.update(transformed=transformed, transformed_inplace=transformed_inplace,
          transformed_apply=apply_below, transformed_detach=detached,
          transformed_read=readable, transformed_copy=copy, transformed_fresh=fresh)

__all__ = ["Level", "Virtual", "stack", "below", "owner", "highest", "stand", "bare", "detached",
           "leaf", "depends", "trimmed", "tracked", "invoke", "each", "shadow", "view_of", "finish",
           "promote", "promote_family", "reaches_out", "readable", "tensors_of", "remake"]
