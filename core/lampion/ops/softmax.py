"""Softmax and its logarithm, with fused backward kernels.

Floor 3.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import wrap_dim
from ..ir import expr as E
from ..runtime.lowering import Nest
from .registry import composite, kernel_op


def row_nest(call, dim, *, outputs, inputs):
    """A Nest over the full shape with one inner dim."""
    x = inputs[0]
    dims = [wrap_dim(dim, x.ndim)] if x.ndim else []
    n = Nest(call.op, x.shape, dims, compute=dt.opmath(x.dtype))
    outs = [n.output(m, m.strides) for m in outputs]
    ins = [n.input(m) for m in inputs]
    n.start()
    return n, outs, ins


def same(input, dim):
    """Meta rule: floating input, output like it."""
    if input.dtype.kind != "f":
        raise RuntimeError(f'"softmax" is not implemented for dtype {input.dtype!r}; convert '
                           "with .float() or pass dtype=")
    wrap_dim(dim, input.ndim, op="softmax")
    return [(input.dtype, input.shape)]


@kernel_op("input: T, dim")
class softmax_rows:
    """exp(x - max) / sum along one dim."""

    where = ()
    save = ("out",)
    batch = "dim"
    meta = same

    def lower(call):
        n, (o,), (x,) = row_nest(call, call.dim, outputs=call.outputs, inputs=call.inputs)
        top = n.reduce("max", x())
        total = n.reduce("sum", E.exp(x() - top))
        if call.outputs[0].dtype.itemsize == 2:  # one division a row: the result is rounded to less
            n.store(o, E.exp(x() - top) * (1.0 / total))
        else:
            n.store(o, E.exp(x() - top) / total)
        return n.program()

    def vjp(ctx, g):
        return (softmax_backward.fn(g, ctx.out, ctx.dim),)


@kernel_op("grad: T, output: T, dim")
class softmax_backward:
    """y * (g - sum(g * y))."""

    where = ()
    save = ("grad", "output")
    batch = "dim"

    def meta(grad, output, dim):
        return [(output.dtype, output.shape)]

    def lower(call):
        n, (o,), (g, y) = row_nest(call, call.dim, outputs=call.outputs, inputs=call.inputs)
        total = n.reduce("sum", g() * y())
        n.store(o, y() * (g() - total))
        return n.program()

    def vjp(ctx, gg):
        g, y, d = ctx.grad, ctx.output, ctx.dim
        inner = (g * y).sum(d, True)
        cross = (gg * y).sum(d, True)
        return softmax_backward.fn(gg, y, d), gg * (g - inner) - g * cross


@kernel_op("input: T, dim")
class log_softmax_rows:
    """x - max - log(sum(exp(x - max))) along one dim."""

    where = ()
    save = ("out",)
    batch = "dim"
    meta = same

    def lower(call):
        n, (o,), (x,) = row_nest(call, call.dim, outputs=call.outputs, inputs=call.inputs)
        top = n.reduce("max", x())
        total = n.reduce("sum", E.exp(x() - top))
        n.store(o, x() - top - E.log(total))
        return n.program()

    def vjp(ctx, g):
        return (log_softmax_backward.fn(g, ctx.out, ctx.dim),)


@kernel_op("grad: T, output: T, dim")
class log_softmax_backward:
    """g - exp(y) * sum(g)."""

    where = ()
    save = ("grad", "output")
    batch = "dim"

    def meta(grad, output, dim):
        return [(output.dtype, output.shape)]

    def lower(call):
        n, (o,), (g, y) = row_nest(call, call.dim, outputs=call.outputs, inputs=call.inputs)
        total = n.reduce("sum", g())
        n.store(o, g() - E.exp(y()) * total)
        return n.program()

    def vjp(ctx, gg):
        g, y, d = ctx.grad, ctx.output, ctx.dim
        p = y.exp()
        return gg - (gg * p).sum(d, True), -gg * p * g.sum(d, True)


def _legacy_dim(ndim):
    """The dim that PyTorch's deprecated calls without `dim` mean."""
    return 0 if ndim in (0, 1, 3) else 1


@composite(method=True, where=("", "special", "nn.functional"), samples="""
    f(2, 3), 1
    f(3, 4).transposed, -2
    f(2, 3, 4).strided, dim=1
    f(2, 130), 1
    f(), 0
    f(0, 3), 0
    f(3, 2)
    i(2, 3), 1, float32
    v([[1000, 1001], [-inf, 0]]), 1
""")
def softmax(input, dim=None, dtype=None, _stacklevel=3):
    """Softmax along `dim`: positive values that sum to 1."""
    x = input if dtype is None else input.to(dtype)
    return softmax_rows.fn(x, _legacy_dim(x.meta.ndim) if dim is None else dim)


@composite(method=True, where=("", "special", "nn.functional"), samples="""
    f(2, 3), 1
    f(3, 4).transposed, -2
    f(2, 3, 4).strided, dim=1
    f(2, 130), 1
    f(), 0
    f(0, 3), 0
    f(3, 2)
    i(2, 3), 1, float32
    v([[1000.0, 1001], [-1000, 0]]), 1
""")
def log_softmax(input, dim=None, dtype=None, _stacklevel=3):
    """Logarithm of softmax along `dim`, accurate for large values."""
    x = input if dtype is None else input.to(dtype)
    return log_softmax_rows.fn(x, _legacy_dim(x.meta.ndim) if dim is None else dim)


@composite(where=("nn.functional",), samples="""
    f(2, 3), 1
    f(3, 4).transposed, 0
""")
def softmin(input, dim=None, dtype=None, _stacklevel=3):
    """Softmax of -input."""
    return softmax.fn(-input, dim, dtype)
