"""Custom `autograd.Function`s within function transforms.

Floor 5; imports levels, tangents, autograd. A Function is applied below the highest level of its
arguments, which adds what it stands for: the tangents that the Function's `jvp` gives, or a batch
dim. Where the level has a graph of its own, the call gets a node there as well.
"""

from __future__ import annotations

import copy
from typing import Any

from ..autograd.function import Function, FunctionCtx, _finish
from ..autograd.state import mode
from . import levels as L
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
        return level.custom(cls, args)  # type: ignore[attr-defined]


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
