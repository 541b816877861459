"""Reductions over dims.

Floor 3.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import wrap_dims
from ..runtime.lowering import Nest, reduced_strides
from .registry import kernel_op


def reduced_shape(shape, dims, keepdim):
    """Shape after reducing `dims` (normalised)."""
    if keepdim:
        return tuple(1 if d in dims else n for d, n in enumerate(shape))
    return tuple(n for d, n in enumerate(shape) if d not in dims)


def expand_reduced(g, meta, dims, keepdim):
    """A reduced gradient seen at the shape of the input."""
    if not keepdim:
        for d in sorted(dims):
            g = g.unsqueeze(d)
    return g.expand(meta.shape)


def lower_reduction(call, op, dims, keepdim, compute, prepare=None, finish=None):
    """One reduction of a (prepared) value over `dims`, stored once per outer point."""
    x, out = call.inputs[0], call.outputs[0]
    n = Nest(call.op, x.shape, dims, compute=compute)
    o = n.output(out, reduced_strides(out, x.shape, dims, keepdim))
    a = n.input(x)
    n.start()
    value = a() if prepare is None else prepare(a())
    r = n.reduce(op, value)
    n.store(o, r if finish is None else finish(r), inner=False)
    return n.program()


def sum_dtype(d, wanted):
    """Result type of sum and prod: integers and bool give int64."""
    if wanted is not None:
        return wanted
    return dt.int64 if d.kind in "bui" else d


@kernel_op("input: T, dim=None, keepdim=False, *, dtype=None")
class sum:
    """Sum over `dim` (an int, a tuple, or None for all). 16-bit floats accumulate in float32."""

    method = True

    def meta(input, dim, keepdim, dtype):
        dims = wrap_dims(dim, input.ndim, op="sum")
        return [(sum_dtype(input.dtype, dtype), reduced_shape(input.shape, dims, keepdim))]

    def lower(call):
        x, d = call.inputs[0], call.outputs[0].dtype
        from ..runtime.lowering import convert

        dims = wrap_dims(call.dim, x.ndim)
        acc = dt.opmath(d)
        return lower_reduction(call, "sum", dims, call.keepdim, acc, lambda v: convert(v, acc))

    def vjp(ctx, g):
        m = ctx.meta("input")
        dims = wrap_dims(ctx.dim, m.ndim)
        return (expand_reduced(g, m, dims, ctx.keepdim).to(m.dtype),)
