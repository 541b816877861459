"""Functions that read values on the host, such as bincount, run by vmap on one example at a time.

Floor 5; imports batching, custom. An example of a batch is a tensor of the batch's level that all
examples share, so that the host may read it; taking examples out and joining results are recorded
in the graph of the level, each as the gradient of the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.function import Function, FunctionCtx
from ..callpath import NS
from ..ops import registry as R
from . import levels as L
from .batching import BatchLevel
from .custom import at_level, own_tensors, recorded, recording


class Example(Function):
    """Example k of a batch; the gradient is that of one example among zeros."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        zero = NS["filled"](g.meta.plain, 0)
        return joined(ctx.level, [g if k == ctx.k else zero for k in range(ctx.level.size)])


class Joined(Function):
    """The batch of several examples; the gradient's examples are their gradients."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return tuple([example(ctx.level, g, k) if needed else None
                      for k, needed in enumerate(ctx.needs_input_grad)])


def example(level: BatchLevel, t: Any, k: int) -> Any:
    """Example k of a tensor, shared by all examples. A tensor that is no batch is one itself, but
    for its gradient, which is of that example only."""
    value, batched = level.parts(t)
    if not batched:
        return _recorded(level, Example, k, [t], value) if L.owner(t) is level else t
    with L.below(level):
        row = R.REGISTRY["select"].fn(value, 0, k)
    return _recorded(level, Example, k, [t], row)


def joined(level: BatchLevel, rows: Sequence[Any]) -> Any:
    """The batch whose examples are `rows`, tensors that are no batches. RuntimeError if they
    differ in shape."""
    shapes = {r.meta.shape for r in rows}
    if len(shapes) > 1:
        raise RuntimeError("vmap: the examples' results differ in shape: "
                           f"{', '.join(str(list(s)) for s in sorted(shapes))}")
    with L.below(level):
        value = R.REGISTRY["stack"].fn([level.parts(r)[0] for r in rows])
    return _recorded(level, Joined, 0, list(rows), level.over(value))


def _recorded(level: BatchLevel, cls: Any, k: int, args: list[Any], out: Any) -> Any:
    own = own_tensors(level, tuple(args))
    if not recording(own) or out.meta.dtype.kind not in "fc":
        return out
    ctx: Any = FunctionCtx()
    ctx.level, ctx.k = level, k
    return recorded(cls, ctx, own, at_level(level, [out]))[0]


def each_example(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`fn(*args, **kwargs)` example by example, if the innermost level among the arguments is a
    batch; else NotImplemented."""
    values = [*args, *kwargs.values()]
    level = L.highest(values)
    if not isinstance(level, BatchLevel) or not any(level.parts(t)[1]
                                                    for t in L.tensors_of(values)):
        return NotImplemented
    if not level.size:
        raise RuntimeError(f"vmap: {fn.__name__} cannot run over an empty batch: the shape of its "
                           "result depends on the values of an example")
    rows = []
    for k in range(level.size):
        one = L.each(values, functools.partial(_numbered, level, k))
        rows.append(fn(*one[:len(args)], **dict(zip(kwargs, one[len(args):]))))
    return _gathered(level, rows)


def _numbered(level: BatchLevel, k: int, t: Any) -> Any:
    return example(level, t, k)


def _gathered(level: BatchLevel, rows: list[Any]) -> Any:
    """The batch of results that are tensors, or (named) tuples of such."""
    first = rows[0]
    if not isinstance(first, (tuple, list)):
        return joined(level, rows)
    outs = [_gathered(level, list(column)) for column in zip(*rows)]
    return type(first)(*outs) if hasattr(first, "_fields") else type(first)(outs)
