"""Custom `autograd.Function`s within function transforms.

Floor 5; imports levels, tangents, autograd. A Function is applied below the highest level of its
arguments, which adds what it stands for: the tangents that the Function's `jvp` gives, or a batch
dim. Where the level has a graph of its own, the call gets a node there as well.
"""

from __future__ import annotations

import copy
from typing import Any

from ..autograd.function import Function, _finish
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


def _dual(level: DualLevel, cls: Any, args: tuple[Any, ...]) -> Any:
    """Primals below, tangents by the Function's jvp."""
    pairs = [level.parts(a) if hasattr(a, "data_") else (a, None) for a in args]
    primals = [p for p, _ in pairs]
    result, ctx, saved = cls._run(tuple(primals)) if not any(
        hasattr(p, "data_") and p.meta.virtual for p in primals) else _virtual(cls, primals)
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
    tensors = [a if hasattr(a, "data_") else None for a in args]
    own = [t if t is not None and (level.merged or L.owner(t) is level) else None
           for t in tensors]
    if mode.enabled and any(t is not None and t.node is not None for t in own):
        outs = _recorded(level, cls, ctx, own, primals, args, many, outs, saved)
    return tuple(outs) if isinstance(result, tuple) else outs[0]


def _virtual(cls: Any, args: list[Any]) -> Any:
    """A Function on arguments that belong to lower levels: its ctx is that of their call."""
    box: list[Any] = []

    class Inner(cls):  # type: ignore[misc]
        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            cls.setup_context(ctx, inputs, output)
            box[:] = [ctx, tuple(ctx.to_save)]

    Inner.__name__ = cls.__name__
    result = Inner.apply(*args)
    return result, box[0], box[1]


def _recorded(level: Any, cls: Any, ctx: Any, tensors: list[Any], primals: list[Any],
              args: tuple[Any, ...], below: Any, outs: list[Any],
              saved: tuple[Any, ...]) -> list[Any]:
    """Results with a node in the graph of `level`. What was saved below is saved as the tensors of
    this level that it belongs to."""
    outs = [o if not hasattr(o, "data_") or L.owner(o) is level else L.stand(level.inert(o))
            for o in outs]
    known = {id(p): a for p, a in zip(primals, args)} | {id(b): o for b, o in zip(below, outs)}
    node = cls._backward_cls()
    node.ctx = copy.copy(ctx)
    node.ctx._node = None
    node.ctx.to_save = tuple([known.get(id(t), t) for t in saved])
    node.ctx.needs_input_grad = tuple([t is not None and t.node is not None for t in tensors])
    return _finish(node, tensors, tuple(outs), True)
