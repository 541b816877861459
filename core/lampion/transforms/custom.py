"""Custom `autograd.Function`s within function transforms.

Floor 5; imports levels, tangents, autograd. A Function is applied below the highest level of its
arguments, which adds what it stands for: the tangents that the Function's `jvp` gives, or a batch
dim. Where the level has a graph of its own, the call gets a node there as well.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from ..autograd import node as N
from ..autograd.function import Function, FunctionCtx, _backward_of, _finish
from ..autograd.state import mode
from . import levels as L
from .batching import BatchLevel
from .tangents import DualLevel


def apply(cls: Any, args: tuple[Any, ...]) -> Any:
    """`cls.apply(*args)` for arguments of which some belong to transforms."""
    level = L.highest(args)
    if level is None:
        return cls.apply(*args)
    if not level.merged and cls.setup_context is Function.setup_context:
        raise RuntimeError(
            f"{cls.__name__}: in order to use an autograd.Function with function transforms (vmap, "
            "grad, jvp, jacrev, ...), it must override the setup_context staticmethod, so that "
            "forward takes no ctx.")
    with L.below(level):
        if isinstance(level, DualLevel):
            return _dual(level, cls, args)
        return _batched(level, cls, args)  # type: ignore[arg-type]


def context(cls: Any, inputs: tuple[Any, ...], output: Any) -> FunctionCtx:
    """The ctx that the Function sets up for these inputs and outputs of one level."""
    ctx = FunctionCtx()
    previous, mode.enabled = mode.enabled, False
    try:
        cls.setup_context(ctx, inputs, output)
    finally:
        mode.enabled = previous
    return ctx


def _dual(level: DualLevel, cls: Any, args: tuple[Any, ...]) -> Any:
    """Primals below, tangents by the Function's jvp."""
    pairs = [level.parts(a) if hasattr(a, "data_") else (a, None) for a in args]
    primals = tuple([p for p, _ in pairs])
    split = cls.setup_context is not Function.setup_context
    if split:
        result = cls.apply(*primals)
        ctx, saved = context(cls, primals, result), ()
    else:
        result, ctx, saved = cls._run(primals)
    many = result if isinstance(result, tuple) else (result,)
    outs = list(many)
    if any(t is not None for _, t in pairs):
        seen = copy.copy(ctx)
        seen._node, seen.to_save = None, tuple(getattr(ctx, "saved_for_forward", ()))
        got = cls.jvp(seen, *[t for _, t in pairs])
        tangents = got if isinstance(got, tuple) else (got,)
        if len(tangents) != len(many):
            raise RuntimeError(f"{cls.__name__}.jvp returned {len(tangents)} tangents for "
                               f"{len(many)} outputs")
        outs = [o if t is None else level.dual(o, t) for o, t in zip(many, tangents)]
    made = tuple(outs) if isinstance(result, tuple) else outs[0]
    own = own_tensors(level, args)
    if not recording(own):
        return made
    outs = at_level(level, outs)
    made = tuple(outs) if isinstance(result, tuple) else outs[0]
    if split:
        ctx = context(cls, args, made)
    else:  # what was saved below is saved as the tensors of this level that it belongs to
        known = {id(p): a for p, a in zip(primals, args)} | {
            id(b): o for b, o in zip(many, outs)}
        ctx = copy.copy(ctx)
        ctx._node, ctx.to_save = None, tuple([known.get(id(t), t) for t in saved])
    outs = recorded(cls, ctx, own, outs)
    return tuple(outs) if isinstance(result, tuple) else outs[0]


class Info(NamedTuple):
    """What a Function's `vmap` staticmethod is told."""

    batch_size: int
    randomness: str


def _batched(level: BatchLevel, cls: Any, args: tuple[Any, ...]) -> Any:
    """Below the batch by the Function's own `vmap`, or by one made of its other methods."""
    own = own_tensors(level, args)
    batched = [hasattr(a, "data_") and level.parts(a)[1] for a in args]
    values = tuple([level.parts(a)[0] if hasattr(a, "data_") else a for a in args])
    if not any(batched):
        result = cls.apply(*values)
        many = list(result) if isinstance(result, tuple) else [result]
    else:
        if (cls.vmap is not Function.vmap) == bool(cls.generate_vmap_rule):
            raise RuntimeError(
                f"You tried to vmap over {cls.__name__}, but it does not have vmap support. Please "
                "override and implement the vmap staticmethod or set generate_vmap_rule=True (and "
                "not both).")
        if cls.generate_vmap_rule:
            result = _over(level, cls, batched).apply(*values)
            dims: Any = 0
        else:
            result, dims = cls.vmap(Info(level.size, level.randomness),
                                    tuple([0 if b else None for b in batched]), *values)
        many = list(result) if isinstance(result, tuple) else [result]
        where = dims if isinstance(dims, tuple) else (dims,) * len(many)
        many = [level.put(o, d) if hasattr(o, "data_") else o for o, d in zip(many, where)]
    if recording(own):
        many = at_level(level, many)
        made = tuple(many) if isinstance(result, tuple) else many[0]
        many = recorded(cls, context(cls, args, made), own, many)
    return tuple(many) if isinstance(result, tuple) else many[0]


def _over(level: BatchLevel, cls: Any, batched: list[Any]) -> Any:
    """The Function that applies `cls` to every example, for tensors below the batch: each of its
    methods is that of `cls` run with batched tensors."""
    size, randomness = level.size, level.randomness

    def run(fn: Any, values: Any, dims: Any, sums: Any = ()) -> Any:
        with BatchLevel(size, randomness) as inner:
            got = fn(*[inner.over(v) if d else v for v, d in zip(values, dims)])
            many = got if isinstance(got, tuple) else (got,)
            outs = [inner.take(o, 0) if hasattr(o, "data_") else o for o in many]
        for k, d in enumerate(sums):  # an argument that all examples share gets all gradients
            if not d and hasattr(outs[k], "data_"):
                outs[k] = outs[k].sum(0)
        return tuple(outs) if isinstance(got, tuple) or sums else outs[0]

    class Over(Function):
        @staticmethod
        def forward(*values: Any) -> Any:
            return run(cls.forward, values, batched)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*[v if hasattr(v, "data_") else None for v in inputs])
            ctx.save_for_forward(*[v if hasattr(v, "data_") else None for v in inputs])
            ctx.rest = [None if hasattr(v, "data_") else v for v in inputs]

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            kept = [r if s is None else s for s, r in zip(ctx.saved_tensors, ctx.rest)]

            def example(*values: Any) -> Any:
                primals, gs = values[:len(kept)], values[len(kept):]
                inner = context(cls, primals, _no_grad(cls.forward, primals))
                inner.needs_input_grad = tuple([hasattr(v, "data_") for v in primals])
                got = _backward_of(cls)(inner, *gs)
                return tuple([
                    N.sum_to_shape(g, v.meta.shape)
                    if hasattr(g, "data_") and g.meta.shape != v.meta.shape else g
                    for g, v in zip(got if isinstance(got, tuple) else (got,), primals)])

            return run(example, [*kept, *grads], [*batched, *[True] * len(grads)], batched)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            kept = [r if s is None else s for s, r in zip(ctx.saved_tensors, ctx.rest)]

            def example(*values: Any) -> Any:
                primals, ts = values[:len(kept)], values[len(kept):]
                inner = context(cls, primals, _no_grad(cls.forward, primals))
                inner.to_save = tuple(getattr(inner, "saved_for_forward", ()))
                return cls.jvp(inner, *ts)

            return run(example, [*kept, *tangents],
                       [*batched, *[t is not None and b for t, b in zip(tangents, batched)]])

    Over.__name__ = cls.__name__
    return Over


def _no_grad(fn: Any, args: Any) -> Any:
    previous, mode.enabled = mode.enabled, False
    try:
        return fn(*args)
    finally:
        mode.enabled = previous


def own_tensors(level: Any, args: tuple[Any, ...]) -> list[Any]:
    """The arguments that are tensors in the graph of a level; None for the others."""
    return [a if hasattr(a, "data_") and (level.merged or L.owner(a) is level) else None
            for a in args]


def recording(tensors: list[Any]) -> bool:
    """Whether a call with these tensors gets a node."""
    return mode.enabled and any(t is not None and t.node is not None for t in tensors)


def at_level(level: Any, outs: list[Any]) -> list[Any]:
    """Results as tensors of a level."""
    return [L.stand(level.inert(o)) if hasattr(o, "data_") and L.owner(o) is not level else o
            for o in outs]


def recorded(cls: Any, ctx: FunctionCtx, tensors: list[Any], outs: list[Any]) -> list[Any]:
    """Results with a node of the Function that has this ctx."""
    node = cls._backward_cls()
    node.ctx = ctx
    ctx.needs_input_grad = tuple([t is not None and t.node is not None for t in tensors])
    return _finish(node, tensors, tuple(outs), True)
