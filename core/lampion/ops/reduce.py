"""Reductions over dims.

Floor 3.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import wrap_dim, wrap_dims
from ..ir import expr as E
from ..runtime.lowering import Nest, convert, reduced_strides
from . import batch_rules
from .registry import REGISTRY, composite, kernel_op
from .shapes import sum_to_shape


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


@kernel_op("input: T, dim=None, keepdim=False, *, dtype=None", out_cast="dtype")
class sum:
    """Sum over `dim` (an int, a tuple, or None for all). 16-bit floats accumulate in float32."""

    samples = """
        f(2, 3)
        f(3, 4).transposed, 1
        f(2, 3, 4).strided, (0, -1), True
        f(2, 3, 4).expanded, dim=-2, keepdim=True
        f(3, 130), 1
        f(), 0
        f(2, 0), 1
        i(2, 3), 0
        b(3, 4)
        i(5, dtype=uint8, low=200, high=255), dtype=int32
        f(4, dtype=float16), dtype=float64
        c(2, 3), 0
        v([1, inf, nan])
    """
    linear = ("input",)
    method = True
    batch = "dim"

    def meta(input, dim, keepdim, dtype):
        dims = wrap_dims(dim, input.ndim, op="sum")
        return [(sum_dtype(input.dtype, dtype), reduced_shape(input.shape, dims, keepdim))]

    def lower(call):
        x, d = call.inputs[0], call.outputs[0].dtype
        dims = wrap_dims(call.dim, x.ndim)
        acc = dt.opmath(d)
        return lower_reduction(call, "sum", dims, call.keepdim, acc, lambda v: convert(v, acc))

    def vjp(ctx, g):
        m = ctx.meta("input")
        dims = wrap_dims(ctx.dim, m.ndim)
        return (expand_reduced(g, m, dims, ctx.keepdim).to(m.dtype),)


def float_only(op, d, what):
    """RuntimeError as PyTorch's for ops that have no integer form."""
    if d.kind not in "fc":
        raise RuntimeError(f"{op}(): {what} Got: {d!r}. Convert with .float() or pass dtype=.")


def reduced_numel(meta, dims):
    """How many elements one result combines."""
    n = 1
    for d in dims:
        n *= meta.shape[d]
    return n


def need_elements(op, meta, dims):
    """IndexError for reductions without identity over an empty range."""
    for d in dims:
        if meta.shape[d]:
            continue
        raise IndexError(f"{op}(): Expected reduction dim {d} to have non-zero size.")


@kernel_op("input: T, dim=None, keepdim=False, *, dtype=None", out_cast="safe")
class mean:
    """Mean over `dim`. RuntimeError for integer tensors unless a floating dtype is given."""

    samples = """
        f(2, 3)
        f(3, 4).transposed, 1
        f(2, 3, 4).strided, (0, -1), True
        f(2, 3, 4).expanded, dim=-2, keepdim=True
        f(3, 130), 1
        f(), 0
        f(2, 0), 0
        i(2, 3), 0, dtype=float64
        c(2, 3), 0
    """
    linear = ("input",)
    method = True
    batch = "dim"

    def meta(input, dim, keepdim, dtype):
        d = dtype or input.dtype
        float_only("mean", d, "could not infer output dtype. Input dtype must be either a floating "
                   "point or complex dtype.")
        dims = wrap_dims(dim, input.ndim, op="mean")
        return [(d, reduced_shape(input.shape, dims, keepdim))]

    def lower(call):
        x, d = call.inputs[0], call.outputs[0].dtype
        dims = wrap_dims(call.dim, x.ndim)
        acc = dt.opmath(d)
        out = call.outputs[0]
        n = Nest("mean", x.shape, dims, compute=acc)
        o = n.output(out, reduced_strides(out, x.shape, dims, call.keepdim))
        a = n.input(x)
        n.start()
        total = n.reduce("sum", convert(a(), acc))
        n.store(o, total / E.cast(n.of(reduced_numel(x, dims)), acc.to_real()), inner=False)
        return n.program()

    def vjp(ctx, g):
        m = ctx.meta("input")
        dims = wrap_dims(ctx.dim, m.ndim)
        g = g / (reduced_numel(m, dims) or 1)
        return (expand_reduced(g, m, dims, ctx.keepdim).to(m.dtype),)


EXTREMES = """
    f(2, 3)
    f(3, 4).transposed, 1
    f(2, 3, 4).strided, (0, -1), True
    f(2, 3, 4).expanded, dim=-2, keepdim=True
    f(3, 130), 1
    f(), 0
    f(2, 0), 0
    i(3, 4), 0
    b(3, 4), 1
    v([[1, 3, 3], [nan, 0, 0]]), 1
"""
ONE_DIM = """
    f(2, 3)
    f(3, 4).transposed, 1
    f(2, 3, 4).strided, -2, True
    f(3, 130), 1
    f(), 0
    f(2, 0), 0
    i(3, 4, low=0, high=2), 0
    v([[1, 3, 3], [nan, 0, 0]]), 1
"""
LOGIC = """
    b(2, 3)
    b(3, 4).transposed, 1
    f(2, 3, 4).strided, (0, -1), True
    i(3, 4, low=0, high=1), 0
    i(4, dtype=uint8, low=0, high=2)
    b(0, 3), 0
    b()
    v([0, nan])
"""
MOMENTS = """
    f(2, 3)
    f(3, 4).transposed, 1
    f(2, 3, 4).strided, (0, -1), correction=0, keepdim=True
    f(2, 3, 4), -2, False, True
    f(2, 3), True
    f(3, 130), 1, correction=2
    f(4, 1).fixed, 1, correction=0
    c(3, 4)
    c(2, 3, 2).transposed, (0, -1), correction=0, keepdim=True
"""


def _extreme(title, op):
    word = "largest" if op == "max" else "smallest"

    @kernel_op("input: T, dim=(), keepdim=False")
    class block:
        __doc__ = f"The {word} value over `dim`; NaN wins, and ties share the gradient."
        batch = "dim"
        name = title
        samples = EXTREMES
        method = True
        save = ("input", "out")

        def meta(input, dim, keepdim):
            dims = wrap_dims(dim, input.ndim, op=title)
            if input.ndim > 64:
                raise RuntimeError(f"{title}(): only tensors with up to 64 dims are supported")
            if dim == () and not input.numel:
                raise RuntimeError(f"{title}(): Expected reduction dim to be specified for "
                                   "input.numel() == 0. Specify the reduction dim with the 'dim' "
                                   "argument.")
            need_elements(title, input, dims)
            if input.dtype.kind == "c":
                raise RuntimeError(f'"{title}" is not implemented for complex tensors')
            return [(input.dtype, reduced_shape(input.shape, dims, keepdim))]

        def lower(call):
            dims = wrap_dims(call.dim, call.inputs[0].ndim)
            return lower_reduction(call, op, dims, call.keepdim,
                                   dt.opmath(call.outputs[0].dtype))

        def vjp(ctx, g):
            m = ctx.meta("input")
            dims = wrap_dims(ctx.dim, m.ndim)
            top = expand_reduced(ctx.out, m, dims, ctx.keepdim)
            hit = (ctx.input == top).to(m.dtype)
            share = expand_reduced(g, m, dims, ctx.keepdim) / hit.sum(dims, True)
            return (share * hit,)

    return block


amax = _extreme("amax", "max")
amin = _extreme("amin", "min")


def _extreme_at(title, op):
    @kernel_op("input: T, dim, keepdim=False")
    class block:
        __doc__ = f"(values, indices) of the first {op} along one dim; NaN wins."
        batch = "dim"
        name = title
        where = ()
        noutputs = 2
        diff_outputs = 1
        returns = ("values", "indices")
        result_name = op
        save = ("out1",)

        def meta(input, dim, keepdim):
            d = wrap_dim(dim, input.ndim, op=op)
            dims = (d,) if input.ndim else ()
            need_elements(op, input, dims)
            shape = reduced_shape(input.shape, dims, keepdim)
            return [(input.dtype, shape), (dt.int64, shape)]

        def lower(call):
            x = call.inputs[0]
            dims = (wrap_dim(call.dim, x.ndim),) if x.ndim else ()
            values, where = call.outputs
            n = Nest(title, x.shape, dims, compute=dt.opmath(x.dtype))
            o = n.output(values, reduced_strides(values, x.shape, dims, call.keepdim))
            i = n.output(where, reduced_strides(where, x.shape, dims, call.keepdim))
            a = n.input(x)
            n.start()
            v, k = n.arg_reduce(op, a())
            n.store(o, v, inner=False)
            n.store(i, k, inner=False)
            return n.program()

        def vjp(ctx, g):
            m = ctx.meta("input")
            if not m.ndim:
                return (g,)
            d = wrap_dim(ctx.dim, m.ndim)
            at = ctx.out1
            if not ctx.keepdim:
                g, at = g.unsqueeze(d), at.unsqueeze(d)
            return (g.new_zeros(m.shape).scatter(d, at, g),)

    return block


max_dim = _extreme_at("max_dim", "max")
min_dim = _extreme_at("min_dim", "min")


def _arg(title, op):
    @kernel_op("input: T, dim=None, keepdim=False")
    class block:
        __doc__ = (f"Index of the first {op} over `dim` (None: of the flattened tensor); NaN "
                   "wins.")
        batch = batch_rules.arg_reduce
        name = title
        samples = ONE_DIM
        method = True
        differentiable = False

        def meta(input, dim, keepdim):
            dims = wrap_dims(dim, input.ndim, op=title)
            if dim is not None and input.ndim:
                need_elements(title, input, dims)
            if input.numel == 0 and dim is None:
                raise IndexError(f"{title}(): Expected reduction dim to be specified for "
                                 "input.numel() == 0. Specify the reduction dim with the 'dim' "
                                 "argument.")
            return [(dt.int64, reduced_shape(input.shape, dims, keepdim))]

        def lower(call):
            x, out = call.inputs[0], call.outputs[0]
            dims = wrap_dims(call.dim, x.ndim)
            n = Nest(title, x.shape, dims, compute=dt.opmath(x.dtype))
            o = n.output(out, reduced_strides(out, x.shape, dims, call.keepdim))
            a = n.input(x)
            n.start()
            _, k = n.arg_reduce(op, a())
            n.store(o, k, inner=False)
            return n.program()

    return block


argmax = _arg("argmax", "max")
argmin = _arg("argmin", "min")


def _logic(title, op):
    word = "any element is" if op == "or" else "all elements are"

    @kernel_op("input: T, dim=None, keepdim=False")
    class block:
        __doc__ = f"Whether {word} nonzero, over `dim`. bool, except that uint8 gives uint8."
        batch = "dim"
        name = title
        samples = LOGIC
        method = True
        differentiable = False

        def meta(input, dim, keepdim):
            dims = wrap_dims(dim, input.ndim, op=title)
            out = dt.uint8 if input.dtype is dt.uint8 else dt.bool_
            return [(out, reduced_shape(input.shape, dims, keepdim))]

        def lower(call):
            dims = wrap_dims(call.dim, call.inputs[0].ndim)
            return lower_reduction(call, op, dims, call.keepdim, dt.bool_,
                                   lambda v: convert(v, dt.bool_))

    return block


any = _logic("any", "or")
all = _logic("all", "and")


@composite(out_cast="safe", method=True, samples="""
    f(2, 3)
    f(3, 4).transposed, 1
    f(3, 4), 0, True
    f(), 0
    i(3, 4), -1
    v([[1, 3, 3], [nan, 0, 1]]), 1
    f(2, 3), f(3)
    f(2, 3), other=f(2, 1)
""")
def max(input, dim=None, keepdim=False, *, other=None):
    """max(x): the largest element; max(x, dim): (values, indices); max(x, other): elementwise."""
    return _overloads("max", input, dim, keepdim, other)


@composite(out_cast="safe", method=True, samples="""
    f(2, 3)
    f(3, 4).transposed, 1
    f(3, 4), 0, True
    f(), 0
    i(3, 4), -1
    v([[1, 1, 3], [nan, 0, 1]]), 1
    f(2, 3), f(3)
    f(2, 3), other=f(2, 1)
""")
def min(input, dim=None, keepdim=False, *, other=None):
    """min(x): the smallest element; min(x, dim): (values, indices); min(x, other):
    elementwise."""
    return _overloads("min", input, dim, keepdim, other)


def _overloads(name, input, dim, keepdim, other):
    if other is not None or hasattr(dim, "data_"):
        pair = REGISTRY["maximum" if name == "max" else "minimum"]
        return pair.fn(input, dim if other is None else other)
    if dim is None:
        if input.meta.numel == 0:
            raise RuntimeError(f"{name}(): Expected reduction dim to be specified for "
                               "input.numel() == 0. Specify the reduction dim with the 'dim' "
                               "argument.")
        return REGISTRY["amax" if name == "max" else "amin"].fn(input)
    return REGISTRY[name + "_dim"].fn(input, dim, keepdim)


def _moments(call, root):
    x, out = call.inputs[0], call.outputs[0]
    dims = wrap_dims(call.dim, x.ndim)
    acc = dt.opmath(x.dtype)
    n = Nest(call.op, x.shape, dims, compute=acc)
    o = n.output(out, reduced_strides(out, x.shape, dims, call.keepdim))
    a = n.input(x)
    correction = n.scalar()
    n.start()
    count = E.cast(n.of(reduced_numel(x, dims)), acc)
    mu = n.reduce("sum", a()) / count
    total = n.reduce("sum", (a() - mu) * (a() - mu))
    free = count - E.cast(correction, acc)
    v = total / E.select(free > 0.0, free, 0.0)
    n.store(o, E.sqrt(v) if root else v, inner=False)
    return n.program()


@kernel_op("input: T, dim, correction: S, keepdim=False")
class variance:
    """Variance over `dim` with `correction` degrees of freedom removed (two passes)."""

    where = ()
    save = ("input", "correction")
    batch = "dim"

    def meta(input, dim, correction, keepdim):
        float_only("var", input.dtype, "only support floating point and complex dtypes.")
        dims = wrap_dims(dim, input.ndim, op="var")
        return [(input.dtype, reduced_shape(input.shape, dims, keepdim))]

    def lower(call):
        return _moments(call, False)

    def vjp(ctx, g):
        m, x = ctx.meta("input"), ctx.input
        dims = wrap_dims(ctx.dim, m.ndim)
        free = reduced_numel(m, dims) - ctx.correction
        scale = 2.0 / free if free > 0 else float("nan")
        g = expand_reduced(g, m, dims, ctx.keepdim)
        return (g * scale * (x - x.mean(dims, True)),)


@kernel_op("input: T, dim, correction: S, keepdim=False")
class deviation:
    """Standard deviation over `dim` (see `variance`)."""

    where = ()
    save = ("input", "correction", "out")
    batch = "dim"

    def meta(input, dim, correction, keepdim):
        float_only("std", input.dtype, "only support floating point and complex dtypes.")
        dims = wrap_dims(dim, input.ndim, op="std")
        return [(input.dtype, reduced_shape(input.shape, dims, keepdim))]

    def lower(call):
        return _moments(call, True)

    def vjp(ctx, g):
        m, x = ctx.meta("input"), ctx.input
        dims = wrap_dims(ctx.dim, m.ndim)
        free = reduced_numel(m, dims) - ctx.correction
        s = expand_reduced(ctx.out, m, dims, ctx.keepdim)
        g = expand_reduced(g, m, dims, ctx.keepdim)
        scale = 1.0 / free if free > 0 else float("nan")
        r = g / s * scale * (x - x.mean(dims, True))
        return (REGISTRY["where"].fn(s == 0, 0.0, r),)


def _dims_and_correction(input, dim, unbiased, correction):
    """The (dim, correction) of var's two signatures: var(x, True) and var(x, dim, True)."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    return wrap_dims(dim, input.meta.ndim), correction


def _variance(input, dims, correction, keepdim):
    """The variance; that of complex numbers is the sum of their parts' variances."""
    if input.meta.dtype.kind != "c":
        return variance.fn(input, dims, correction, keepdim)
    real, imag = (variance.fn(REGISTRY[part].fn(input), dims, correction, keepdim)
                  for part in ("real", "imag"))
    return real + imag


def _deviation(input, dims, correction, keepdim):
    """The standard deviation; where it is 0 so is its gradient."""
    if input.meta.dtype.kind != "c":
        return deviation.fn(input, dims, correction, keepdim)
    v = _variance(input, dims, correction, keepdim)
    where = REGISTRY["where"].fn
    return where(v == 0, 0.0, where(v == 0, 1.0, v).sqrt())


@composite(out_cast="safe", method=True, samples=MOMENTS)
def var(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    """Variance over `dim`, with n - correction degrees of freedom (default 1). That of complex
    numbers is real: the mean squared distance from their mean."""
    dims, c = _dims_and_correction(input, dim, unbiased, correction)
    return _variance(input, dims, c, keepdim)


@composite(out_cast="safe", method=True, samples=MOMENTS)
def std(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    """Standard deviation over `dim` (see `var`)."""
    dims, c = _dims_and_correction(input, dim, unbiased, correction)
    return _deviation(input, dims, c, keepdim)


@composite(samples=MOMENTS)
def var_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    """(variance, mean) over `dim`."""
    dims, c = _dims_and_correction(input, dim, unbiased, correction)
    return _variance(input, dims, c, keepdim), mean.fn(input, dims, keepdim)


@composite(samples=MOMENTS)
def std_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    """(standard deviation, mean) over `dim`."""
    dims, c = _dims_and_correction(input, dim, unbiased, correction)
    return _deviation(input, dims, c, keepdim), mean.fn(input, dims, keepdim)


@kernel_op("input: T, dim, keepdim=False", out_cast="safe")
class logsumexp:
    """log(sum(exp(input))) over `dim`, computed around the maximum."""

    samples = """
        f(2, 3), 1
        f(3, 4).transposed, (0, -1), True
        f(2, 3, 4).strided, dim=0
        f(), 0
        f(0, 3).fixed, 0
        i(2, 3), 0
        v([[1e30, 1e30], [inf, 1], [-inf, -inf]]), 1
    """
    method = True
    save = ("input", "out")
    where = ("", "special")
    batch = "dim"

    def meta(input, dim, keepdim):
        dims = wrap_dims(dim, input.ndim, op="logsumexp")
        d = input.dtype if input.dtype.kind in "fc" else dt.get_default_dtype()
        return [(d, reduced_shape(input.shape, dims, keepdim))]

    def lower(call):
        x, out = call.inputs[0], call.outputs[0]
        dims = wrap_dims(call.dim, x.ndim)
        if reduced_numel(x, dims) == 0:
            n = Nest("fill", out.shape, compute=dt.opmath(out.dtype))
            o = n.output(out, out.strides)
            n.buffer(x)
            n.start()
            n.store(o, float("-inf"))
            return n.program()
        acc = dt.opmath(out.dtype)
        n = Nest("logsumexp", x.shape, dims, compute=acc)
        o = n.output(out, reduced_strides(out, x.shape, dims, call.keepdim))
        a = n.input(x)
        n.start()
        size = convert(a(), acc)
        top = n.reduce("max", E.real(size) if acc.kind == "c" else size)
        at = E.select(E.abs_(top) < float("inf"), top, 0.0)  # an infinite maximum is the result
        total = n.reduce("sum", E.exp(convert(a(), acc) - at))
        n.store(o, E.log(total) + at, inner=False)
        return n.program()

    def vjp(ctx, g):
        from .contract import conj

        m = ctx.meta("input")
        dims = wrap_dims(ctx.dim, m.ndim)
        y = expand_reduced(ctx.out, m, dims, ctx.keepdim)
        return (expand_reduced(g, m, dims, ctx.keepdim) * conj((ctx.input - y).exp()),)


@composite(method=True, out=False, where=(), samples="""
    f(2, 3), (1, 3)
    f(4, 2, 3).transposed, 2, 1
    f(2, 3), (2, 3)
    f(2, 3), ()
""")
def sum_to_size(input, *args, size=None):
    """Sum over the dims that broadcasting from `size` would have added or stretched.

    RuntimeError if `size` does not broadcast to the input's shape.

    >>> lampion.ones(2, 3).sum_to_size(1, 3).tolist()
    [[2.0, 2.0, 2.0]]
    """
    given = args if size is None else (size,)
    wanted = tuple(given[0]) if given and hasattr(given[0], "__iter__") else given
    shape = input.meta.shape
    lead = len(shape) - len(wanted)
    if lead < 0 or [n for n, have in zip(wanted, shape[lead:]) if n not in (1, have)]:
        raise RuntimeError(f"size {{{list(wanted)}}} is not expandable to size {{{list(shape)}}}.")
    return sum_to_shape(input, wanted) if wanted else sum.fn(input)


@composite(replay=True, method=True, differentiable=False, samples="""
    i(3, 5)
    f(3, 5), 1
    i(3, 5, dtype=int32), (0, -1), keepdim=True
    b(7, 2).transposed, 0
    v([[1.5, nan], [-inf, 0.0]], dtype=float64), 0
""")
def hash_tensor(input, dim=(), *, keepdim=False, mode=0):
    """Exclusive or (uint64) over `dim` (all dims if empty) of the elements' 64 bits: floating
    ones as float64, the others as int64. RuntimeError for a `mode` other than 0."""
    m = input.meta
    if mode != 0:
        raise RuntimeError(f"Unknown hash_tensor mode: {mode}")
    if m.dtype.kind == "c":
        raise NotImplementedError(f'"hash_tensor" is not implemented for {m.dtype!r}')
    every = dim is None or (not isinstance(dim, int) and not dim)
    dims = wrap_dims(None if every else dim, m.ndim, op="hash_tensor")
    if every and not m.numel:
        raise RuntimeError("hash_tensor: Expected reduction dim to be specified for "
                           "input.numel() == 0. Specify the reduction dim with the 'dim' argument.")
    need_elements("hash_tensor", m, dims)
    bits = input.to(dt.float64).view(dt.int64) if m.dtype.kind == "f" else input.to(dt.int64)
    kept = [d for d in range(m.ndim) if d not in dims]
    rows = bits.permute(*dims, *kept).reshape((-1, *(m.shape[d] for d in kept)))
    while rows.meta.shape[0] > 1:  # fold the upper half onto the lower
        n = rows.meta.shape[0]
        half = (n + 1) // 2
        folded = rows.narrow(0, 0, n - half).bitwise_xor(rows.narrow(0, half, n - half))
        rows = REGISTRY["cat"].fn([folded, rows.narrow(0, n - half, 2 * half - n)], 0)
    return rows.reshape(reduced_shape(m.shape, dims, keepdim)).view(dt.uint64)
