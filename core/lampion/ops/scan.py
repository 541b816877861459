"""Running reductions along a dim.

Floor 3.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import wrap_dim, wrap_dims
from ..ir import expr as E
from ..ir.kernel import Scan, Store
from ..runtime.lowering import Nest, convert
from .facts import examples
from .reduce import sum_dtype
from .registry import REGISTRY, composite, kernel_op

RUNNING = """
    f(2, 3), 1
    f(3, 4).transposed, -2
    f(2, 3, 4).strided, 1
    f(2, 130), 1
    f(), 0
    f(0, 3), 0
    i(2, 3), 0
"""
TOTALS = RUNNING + """
    b(4), 0
    c(3), 0
    f(3, dtype=float16), 0, dtype=float32
"""


def _nest(call, acc):
    """A Nest over the input's shape that loops along the scanned dim."""
    x = call.inputs[0]
    dims = [wrap_dim(call.dim, x.ndim)] if x.ndim else []
    n = Nest(call.op, x.shape, dims, compute=acc)
    outs = [n.output(m, m.strides) for m in call.outputs]
    a = n.input(x)
    n.start()
    return n, outs, a


def _scan_meta(title):
    def meta(input, dim, dtype):
        wrap_dim(dim, input.ndim, op=title)
        return [(sum_dtype(input.dtype, dtype), input.shape)]

    return meta


@kernel_op("input: T, dim, *, dtype=None", out_cast="dtype")
class cumsum:
    """Running sum along `dim`; integers and bool give int64 unless dtype is given."""

    linear = ("input",)
    method = True
    inplace = True
    samples = TOTALS
    batch = "dim"
    meta = _scan_meta("cumsum")

    def lower(call):
        acc = dt.opmath(call.outputs[0].dtype)
        n, (o,), a = _nest(call, acc)
        n.scan("sum", convert(a(), acc), o)
        return n.program()

    def vjp(ctx, g):
        return (_flip_sum(g, ctx.dim).to(ctx.meta("input").dtype),)


def _flip_sum(g, dim):
    """Reverse running sum by flipping: exact where a difference of sums would cancel."""
    if not g.meta.ndim:
        return g
    return g.flip(dim).cumsum(dim).flip(dim)


@kernel_op("input: T, dim, *, dtype=None", out_cast="dtype")
class cumprod:
    """Running product along `dim`."""

    method = True
    inplace = True
    samples = TOTALS
    batch = "dim"
    meta = _scan_meta("cumprod")
    save = ("input", "out")

    def lower(call):
        acc = dt.opmath(call.outputs[0].dtype)
        n, (o,), a = _nest(call, acc)
        n.scan("prod", convert(a(), acc), o)
        return n.program()

    def vjp(ctx, g):
        x, y, d = ctx.input, ctx.out, ctx.dim
        x = x.to(y.meta.dtype)
        if not x.meta.ndim:
            return (g.to(ctx.meta("input").dtype),)
        if not (examples(x) == 0).any().item():
            return ((_flip_sum(g * y.conj(), d) / x.conj()).to(ctx.meta("input").dtype),)
        x = _cumprod_with_zeros(g, x.conj(), wrap_dim(d, x.meta.ndim))
        return (x.to(ctx.meta("input").dtype),)


def _cumprod_with_zeros(g, x, d):
    """d/dx_k sum_j g_j prod_{i<=j} x_i, without dividing: for every k the products of what comes
    before it and of what lies between it and j."""
    n = x.meta.shape[d]
    parts = []
    for k in range(n):
        before = x.narrow(d, 0, k).prod(d, True) if k else None
        after = x.narrow(d, k + 1, n - k - 1).cumprod(d) if k + 1 < n else None
        value = g.narrow(d, k, 1)
        if after is not None:
            value = value + (g.narrow(d, k + 1, n - k - 1) * after).sum(d, True)
        parts.append(value if before is None else value * before)
    return REGISTRY["cat"].fn(parts, d)


def _running_extreme(title, op):
    @kernel_op("input: T, dim")
    class block:
        __doc__ = f"(values, indices) of the running {op} along `dim`; the last of ties, NaN wins."
        batch = "dim"
        name = title
        samples = RUNNING + "v([1, 3, 3, nan, 5]), 0"
        method = True
        noutputs = 2
        diff_outputs = 1
        returns = ("values", "indices")
        save = ("out1",)

        def meta(input, dim):
            wrap_dim(dim, input.ndim, op=title)
            return [(input.dtype, input.shape), (dt.int64, input.shape)]

        def lower(call):
            n, (values, where), a = _nest(call, dt.opmath(call.inputs[0].dtype))
            v = n.typed(a())
            best = E.ref("best", v.dtype)
            at = n.position()
            # an element that equals the running extreme so far becomes its index
            hit = E.eq(v, best)
            if v.dtype.kind == "f":
                hit = hit | E.ne(v, v)
            place = n.typed(E.select(hit, at, E.const(0, dt.int64)))
            n.stage(Scan("best", op, v), Scan("at", "max", place),
                    Store(values.slot, values.offset, convert(best, values.dtype)),
                    Store(where.slot, where.offset, E.ref("at", dt.int64)))
            return n.program()

        def vjp(ctx, g):
            m = ctx.meta("input")
            if not m.ndim:
                return (g,)
            return (g.new_zeros(m.shape).scatter_add(ctx.dim, ctx.out1, g),)

    return block


cummax = _running_extreme("cummax", "max")
cummin = _running_extreme("cummin", "min")


@composite(replay=True, method=True, samples="""
    f(2, 3), 1
    f(3, 4).transposed, -2
    f(2, 1, 5).strided, 2
    f(), 0
    f(0, 3), 0
    v([500, 500.5, -500]), 0
""")
def logcumsumexp(input, dim):
    """log(cumsum(exp(input))) along `dim`."""
    wrap_dim(dim, input.meta.ndim)
    if input.meta.dtype.kind not in "fc":
        input = input.to(dt.get_default_dtype())
    if not input.meta.ndim or not input.meta.numel:
        return input + 0.0
    return log_running.fn(input, dim)


@composite(where=(), out=False, replay=True)
def log_running(input, dim):
    """Running logsumexp through pairwise logaddexp, stable at every prefix."""
    n = input.meta.shape[dim]
    step, y = 1, input
    while step < n:
        head = y.narrow(dim, 0, step)
        tail = REGISTRY["logaddexp"].fn(y.narrow(dim, step, n - step), y.narrow(dim, 0, n - step))
        y = REGISTRY["cat"].fn([head, tail], dim)
        step *= 2
    return y


@composite(out_cast=lambda input, n, *_: "safe" if n else "same",
           replay=True, method=True, samples="""
    f(2, 4)
    f(5, 3).transposed, 2, 0
    f(4).offset, 1, -1, f(2), f(1)
    f(3), 4
    f(2, 3), 0
    i(2, 4), n=2
    b(5)
    c(4)
""")
def diff(input, n=1, dim=-1, prepend=None, append=None):
    """n-th forward difference along `dim`."""
    if input.meta.ndim == 0:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    if n == 0:
        return input.clone()
    parts = [t for t in (prepend, input, append) if t is not None]
    x = REGISTRY["cat"].fn(parts, dim) if len(parts) > 1 else input
    d = wrap_dim(dim, x.meta.ndim)
    for _ in range(min(n, x.meta.shape[d])):
        size = x.meta.shape[d]
        a, b = x.narrow(d, 1, max(size - 1, 0)), x.narrow(d, 0, max(size - 1, 0))
        x = a.logical_xor(b) if x.meta.dtype.kind == "b" else a - b
    return x


@composite(replay=True, samples="""
    f(2, 4)
    f(2, 4).transposed, dx=0.5, dim=0
    f(2, 4), f(4), dim=-1
    f(3, 2), f(3), dim=0
    f(2, 4), f(2, 4)
    f(2, 1)
""")
def trapezoid(y, x=None, *, dx=1, dim=-1):
    """Integral along `dim` by the trapezoidal rule."""
    n = y.meta.shape[dim] if y.meta.ndim else 1
    if x is None and n > 1 and y.meta.dtype.kind in "fc":  # all but half of both ends
        return (y.sum(dim) - (y.select(dim, 0) + y.select(dim, -1)) * 0.5) * dx
    a, b = y.narrow(dim, 0, max(n - 1, 0)), y.narrow(dim, 1, max(n - 1, 0))
    if x is None:
        return ((a + b) * (0.5 * dx)).sum(dim)
    widths = x.diff() if x.meta.ndim == 1 else x.diff(dim=dim)
    if x.meta.ndim == 1 and y.meta.ndim > 1:
        shape = [1] * y.meta.ndim
        shape[dim] = -1
        widths = widths.reshape(*shape)
    return ((a + b) * widths * 0.5).sum(dim)


@composite(samples="""
    f(2, 4), f(4)
    f(2, 4), dx=2, dim=0
""")
def trapz(y, x=None, *, dx=1, dim=-1):
    """Alias of `trapezoid`."""
    return trapezoid.fn(y, x, dx=dx, dim=dim)


@composite(replay=True, samples="""
    f(2, 4)
    f(2, 4).transposed, dx=0.5, dim=0
    f(2, 4), f(4), dim=-1
    f(3, 2), f(3), dim=0
    f(2, 4), f(2, 4)
""")
def cumulative_trapezoid(y, x=None, *, dx=1, dim=-1):
    """Running integral along `dim` by the trapezoidal rule."""
    n = y.meta.shape[dim]
    a, b = y.narrow(dim, 0, max(n - 1, 0)), y.narrow(dim, 1, max(n - 1, 0))
    if x is None:
        return ((a + b) * (0.5 * dx)).cumsum(dim)
    widths = x.diff() if x.meta.ndim == 1 else x.diff(dim=dim)
    if x.meta.ndim == 1 and y.meta.ndim > 1:
        shape = [1] * y.meta.ndim
        shape[dim] = -1
        widths = widths.reshape(*shape)
    return ((a + b) * widths * 0.5).cumsum(dim)


@composite(out=False, samples="""
    f(4, 5)
    f(4, 5), edge_order=2
    f(4, 5).transposed, dim=-1
    f(4, 5), dim=(1, 0), edge_order=2
    f(4, 5), spacing=0.5
    f(4, 5), spacing=[2.0, -0.5]
    f(4, 5), spacing=[0.5], dim=1
    f(4, 5), spacing=[v([0.0, 0.5, 2.0, 3.0]), v([-2.0, -1.5, 0.0, 1.0, 4.0])]
    f(3, 5), spacing=[v([0.0, 0.5, 2.0]), v([-2.0, -1.5, 0.0, 1.0, 4.0])], edge_order=2
""")
def gradient(input, *, spacing=None, dim=None, edge_order=1):
    """Derivatives along each of `dim` (all dims if None) of a function given by its values.

    `spacing` is a number, numbers for each dim, or a list of 1-d tensors of coordinates. Inner
    points use the parabola through three neighbours, ends a difference (`edge_order` 1) or the
    parabola (2). Returns a tuple of tensors of the input's shape. RuntimeError if a dim is shorter
    than edge_order + 1.

    >>> gradient(tensor([0., 1., 4., 9.]))[0].tolist()
    [1.0, 2.0, 4.0, 5.0]
    """
    m = input.meta
    if edge_order not in (1, 2):
        raise RuntimeError("torch.gradient only supports edge_order=1 and edge_order=2.")
    if m.dtype is dt.uint8:
        raise RuntimeError("torch.gradient does not support uint8 input.")
    if hasattr(spacing, "meta"):
        raise TypeError("gradient(): argument 'spacing' must be a number, a list of numbers or a "
                        "list of tensors, not Tensor")
    dims = wrap_dims(None if dim is None else dim, m.ndim, op="gradient")
    if isinstance(spacing, (list, tuple)):
        steps = list(spacing)
        if len(steps) != len(dims):
            reason = ("'self.dim() = " if dim is None else "'len(dim) = ") + f"{len(dims)}'"
            raise RuntimeError("torch.gradient expected spacing to be unspecified, a scalar, or a "
                               f"list of length equal to {reason}, but got a list of length "
                               f"{len(steps)}")
    else:
        steps = [1 if spacing is None else spacing] * len(dims)
    if any(m.shape[d] < edge_order + 1 for d in dims):
        raise RuntimeError("torch.gradient expected each dimension size to be at least "
                           "edge_order+1")
    return tuple([_gradient_along(input, d, h, edge_order) for d, h in zip(dims, steps)])


def _gradient_along(y, d, step, edge_order):
    """The derivative along one dim, whose points are `step` (a number) or the differences of
    coordinates apart."""
    n = y.meta.shape[d]
    if hasattr(step, "meta"):
        if step.meta.shape != (n,):
            raise RuntimeError("torch.gradient expected each element of spacing to have one value "
                               f"for each of the {n} points of dimension {d}, but got shape "
                               f"{list(step.meta.shape)}")
        shape = [1] * y.meta.ndim
        shape[d] = n - 1
        h = (step[1:] - step[:-1]).reshape(shape)
        left, right = h.narrow(d, 0, n - 2), h.narrow(d, 1, n - 2)
        a, b, c = (y.narrow(d, k, n - 2) for k in range(3))
        inner = (-right / (left * (left + right)) * a + (right - left) / (left * right) * b
                 + left / (right * (left + right)) * c)
        first, last = h.narrow(d, 0, 1), h.narrow(d, n - 2, 1)
        near, far = (h.narrow(d, 1, 1), h.narrow(d, n - 3, 1)) if n > 2 else (first, last)
    else:
        inner = (y.narrow(d, 2, n - 2) - y.narrow(d, 0, n - 2)) / (2 * step)
        first = last = near = far = step

    def end(at, toward, h, next_h):
        """The derivative at an end: `toward` (1 or -1) points inwards."""
        p, q = y.narrow(d, at, 1), y.narrow(d, at + toward, 1)
        if edge_order == 1:
            return (q - p) / (toward * h)
        r = y.narrow(d, at + 2 * toward, 1)
        slope = (-(2 * h + next_h) / (h * (h + next_h)) * p + (h + next_h) / (h * next_h) * q
                 - h / (next_h * (h + next_h)) * r)
        return slope * toward

    return REGISTRY["cat"].fn([end(0, 1, first, near), inner, end(n - 1, -1, last, far)], d)
