"""Reductions built on the basic ones: products, norms, distances, counts, NaN-ignoring sums.

Floor 3.
"""

from __future__ import annotations

import math
import warnings

from ..base import dtype as dt
from ..base.meta import wrap_dim, wrap_dims
from ..ir import expr as E
from ..runtime.lowering import Nest, convert, reduced_strides
from .contract import conj
from .facts import examples
from .reduce import (
    amax,
    amin,
    expand_reduced,
    float_only,
    lower_reduction,
    need_elements,
    reduced_shape,
    sum_dtype,
)
from .registry import REGISTRY, composite, kernel_op
from .results import named


def _where(condition, a, b):
    return REGISTRY["where"].fn(condition, a, b)


@kernel_op("input: T, dims, keepdim=False, *, dtype=None")
class prod_dims:
    """Product over dims; integers and bool give int64."""

    where = ()
    save = ("input", "out")
    batch = "dims"

    def meta(input, dims, keepdim, dtype):
        return [(sum_dtype(input.dtype, dtype), reduced_shape(input.shape, dims, keepdim))]

    def lower(call):
        acc = dt.opmath(call.outputs[0].dtype)
        return lower_reduction(call, "prod", call.dims, call.keepdim, acc,
                               lambda v: convert(v, acc))

    def vjp(ctx, g):
        m, x = ctx.meta("input"), ctx.input
        dims = ctx.dims
        if not m.ndim or not dims:
            return (g.to(m.dtype),)
        g = expand_reduced(g, m, dims, ctx.keepdim)
        if not (examples(x) == 0).any().item():
            y = expand_reduced(ctx.out, m, dims, ctx.keepdim)
            return ((g * (y / x).conj()).to(m.dtype),)
        return ((g * _others(x.to(g.meta.dtype), dims).conj()).to(m.dtype),)


def _others(x, dims):
    """For every element the product of the others in its group, without dividing: running
    products from both ends."""
    keep = [d for d in range(x.meta.ndim) if d not in dims]
    order = keep + list(dims)
    rows = x.permute(*order)
    shape = rows.meta.shape
    rows = rows.reshape(*shape[:len(keep)], -1)
    n = rows.meta.shape[-1]
    one = rows.narrow(-1, 0, 1) * 0 + 1
    cat = REGISTRY["cat"].fn
    before = cat([one, rows.narrow(-1, 0, n - 1).cumprod(-1)], -1)
    after = cat([rows.narrow(-1, 1, n - 1).flip(-1).cumprod(-1).flip(-1), one], -1)
    back = [order.index(d) for d in range(x.meta.ndim)]
    return (before * after).reshape(*shape).permute(*back)


@composite(out_cast="any", replay=True, method=True, samples="""
    f(2, 3)
    f(3, 4).transposed, 1
    f(2, 3, 4).strided, -2, True
    f(), 0
    f(2, 0), 1
    i(2, 3), 0
    b(3, 4)
    f(4, dtype=float16), dtype=float64
    c(2, 3), 0
    v([[0.0, 2], [0, 0]]), 1
""")
def prod(input, dim=None, keepdim=False, *, dtype=None):
    """Product of all elements or along one dim."""
    n = input.meta.ndim
    dims = wrap_dims(dim, n, op="prod")
    return prod_dims.fn(input, dims, keepdim, dtype=dtype)


@kernel_op("input: T, dim=None, keepdim=False, *, dtype=None",
           out_cast=lambda input, *_: "kind" if input.meta.dtype.kind == "f" else "safe")
class nansum:
    """Sum with NaN as 0."""

    samples = """
        f(2, 3)
        f(3, 4).transposed, 1
        f(2, 3, 4).strided, (0, -1), True
        v([[1, nan], [nan, nan]]), 1
        i(2, 3), 0
        f(3), dtype=float64
    """
    method = True

    def meta(input, dim, keepdim, dtype):
        if input.dtype.kind == "c":
            raise RuntimeError("nansum does not support complex inputs")
        dims = wrap_dims(dim, input.ndim, op="nansum")
        return [(sum_dtype(input.dtype, dtype), reduced_shape(input.shape, dims, keepdim))]

    def lower(call):
        x, acc = call.inputs[0], dt.opmath(call.outputs[0].dtype)

        def number(v):
            return convert(E.select(E.ne(v, v), convert(E.const(0), v.dtype), v), acc)

        return lower_reduction(call, "sum", wrap_dims(call.dim, x.ndim), call.keepdim, acc,
                               number if x.dtype.kind == "f" else lambda v: convert(v, acc))

    def compose(input, dim, keepdim, dtype):
        x = _where(input.isnan(), 0.0, input) if input.meta.dtype.kind == "f" else input
        return REGISTRY["sum"].fn(x, dim, keepdim, dtype=dtype)


@composite(out_cast="kind", replay=True, method=True, samples="""
    f(2, 3)
    f(3, 4).transposed, 1
    f(2, 3, 4).strided, (0, -1), True
    v([[1, nan], [nan, nan]]), 1
""")
def nanmean(input, dim=None, keepdim=False, *, dtype=None):
    """Mean of the elements that are not NaN."""
    float_only("nanmean", input.meta.dtype, "expected input to have floating point or complex "
               "dtype.")
    count = (~input.isnan()).sum(dim, keepdim)
    return nansum.fn(input, dim, keepdim, dtype=dtype) / count


@composite(method=True, differentiable=False, samples="""
    v([[0, 2, 0], [1, nan, 3]])
    i(3, 4, low=-1, high=1), 1
    b(2, 3, 4).transposed, (0, -1)
    f(0, 3), 0
    f()
    c(3)
""")
def count_nonzero(input, dim=None):
    """How many elements are not zero."""
    return (input != 0).sum(dim)


@kernel_op("input: T, *, dim=None, keepdim=False")
class aminmax:
    """(smallest, largest) over one dim or all; NaN wins."""

    samples = """
        f(2, 3)
        f(3, 4).transposed, dim=-1
        f(3, 4), dim=0, keepdim=True
        i(5), dim=0
        v([1, nan, 3])
        f()
    """
    method = True
    noutputs = 2
    returns = ("min", "max")

    def meta(input, dim, keepdim):
        dims = wrap_dims(dim, input.ndim, op="aminmax")
        if input.ndim > 64:
            raise RuntimeError("aminmax(): only tensors with up to 64 dims are supported")
        if dim is None and not input.numel:
            raise RuntimeError("aminmax(): cannot compute aminmax over an empty dimension as the "
                               "operation has no identity.")
        need_elements("aminmax", input, dims)
        return [(input.dtype, reduced_shape(input.shape, dims, keepdim))] * 2

    def lower(call):
        x, (low, high) = call.inputs[0], call.outputs
        dims = wrap_dims(call.dim, x.ndim)
        n = Nest("aminmax", x.shape, dims, compute=dt.opmath(x.dtype))
        places = [n.output(m, reduced_strides(m, x.shape, dims, call.keepdim)) for m in
                  (low, high)]
        a = n.input(x)
        n.start()
        for o, r in zip(places, n.reduce_all(("min", a()), ("max", a()))):
            n.store(o, r, inner=False)
        return n.program()

    def compose(input, dim, keepdim):
        dims = () if dim is None else dim
        return named("aminmax", ("min", "max"))(amin.fn(input, dims, keepdim),
                                                amax.fn(input, dims, keepdim))


@composite(replay=True, method=True, out=False, samples="""
    f(3, 3)
    f(2, 4).transposed
    i(3, 2)
""")
def trace(input):
    """Sum of a matrix's diagonal."""
    if input.meta.ndim != 2:
        raise RuntimeError(f"trace: expected a matrix, but got tensor with dim {input.meta.ndim}")
    return input.diagonal().sum()


# ---------------------------------------------------------------- norms

@kernel_op("input: T, dims, keepdim, kind, p: S")
class norm_dims:
    """The p-norm over dims in one pass; kind is "two", "one", "max", "min", "zero" or "power"."""

    where = ()
    save = ("input", "out", "p")
    batch = "dims"

    def meta(input, dims, keepdim, kind, p):
        if kind in ("max", "min"):
            need_elements("linalg.vector_norm", input, dims)
        return [(input.dtype.to_real(), reduced_shape(input.shape, dims, keepdim))]

    def lower(call):
        x, out = call.inputs[0], call.outputs[0]
        acc = dt.opmath(out.dtype)
        n = Nest(f"norm_{call.kind}", x.shape, call.dims, compute=acc)
        o = n.output(out, reduced_strides(out, x.shape, call.dims, call.keepdim))
        a = n.input(x)
        p = E.cast(n.scalar(), acc)
        n.start()
        n.store(o, norm_of(n, call.kind, E.abs_(a()), p), inner=False)
        return n.program()

    def vjp(ctx, g):
        m, x, p = ctx.meta("input"), ctx.input, ctx.p
        y = expand_reduced(ctx.out, m, ctx.dims, ctx.keepdim)
        g = expand_reduced(g, m, ctx.dims, ctx.keepdim)
        kind = ctx.kind
        if kind == "zero":
            return (x * 0,)
        if kind == "one":
            return (g * x.sgn(),)
        size = x.abs()
        if kind in ("max", "min"):
            hit = (size == y).to(size.meta.dtype)
            return (x.sgn() * hit * (g / hit.sum(ctx.dims, True)),)
        zero = y == 0  # where the norm has no derivative: 0, and not by a division by 0
        y = y.masked_fill(zero, 1.0)
        if kind == "two":
            return (_where(zero, 0.0, x * (g / y)),)
        if p < 1:
            slope = _where(size == 0, 0.0, size ** (p - 1))
        else:
            slope = size ** (p - 1)
        return (_where(zero, 0.0, x.sgn() * slope * (g / y ** (p - 1))),)


def norm_of(n, kind, v, p):
    """The p-norm of magnitudes `v` over the inner loops; `kind` as `norm_kind` says."""
    return {"two": lambda: E.sqrt(n.reduce("sum", v * v)),
            "one": lambda: n.reduce("sum", v),
            "max": lambda: n.reduce("max", v), "min": lambda: n.reduce("min", v),
            "zero": lambda: n.reduce("sum", E.select(E.eq(v, 0.0), 0.0, 1.0)),
            "power": lambda: E.op("pow", n.reduce("sum", E.op("pow", v, p)), 1.0 / p),
            }[kind]()


def norm_kind(p):
    return {2.0: "two", 1.0: "one", math.inf: "max", -math.inf: "min", 0.0: "zero"}.get(
        float(p), "power")


@composite(replay=True, where=("linalg",), samples="""
    f(2, 3)
    f(3, 4).transposed, 1, 1
    f(2, 3, 4).strided, 3.5, (0, -1), True
    f(3, 4), inf, 0
    f(3, 4), -inf, -1
    f(3, 4), 0
    f(3, 4, low=0.5), -2, 0
    f(3, 4, low=0.5), 0.5, 1
    f(), 2
    f(0, 3), 2, 0
    c(2, 3), 2, 1
    c(2, 3), 3
    v([[0.0, 0], [3, 4]]), dim=1
    f(3), dtype=float64
""")
def vector_norm(x, ord=2, dim=None, keepdim=False, *, dtype=None):
    """(sum |x|**ord) ** (1/ord) over `dim`; inf and -inf give extremes, 0 counts nonzeros."""
    float_only("linalg.vector_norm", dtype or x.meta.dtype, "expected a floating point or complex "
               "tensor as input.")
    if dtype is not None:
        x = x.to(dtype)
    return norm_dims.fn(x, wrap_dims(dim, x.meta.ndim), keepdim, norm_kind(ord), float(ord))


@composite(replay=True, method=True, samples="""
    f(2, 3)
    f(3, 4).transposed, 1, -1
    f(2, 3, 4), 3, (0, 2), True
    f(3, 4), inf, 0
    f(3, 4), "fro", (0, 1)
""")
def norm(input, p="fro", dim=None, keepdim=False, dtype=None):
    """Vector norm over `dim` (all dims if None); "fro" is the 2-norm, "nuc" needs two dims."""
    if p == "nuc":
        dims = (-2, -1) if dim is None else dim
        return REGISTRY["matrix_norm"].fn(input, "nuc", dims, keepdim, dtype=dtype)
    return vector_norm.fn(input, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


@composite(method=True, samples="""
    f(2, 3), f(3)
    f(2, 3).transposed, f(2, 3), 1
    f(4), f(4), inf
""")
def dist(input, other, p=2):
    """p-norm of input - other."""
    return vector_norm.fn(input - other, p)


@composite(inplace=True, replay=True, method=True, samples="""
    f(3, 4), 2, 0, 1.5
    f(3, 4).transposed, 1, -1, 2.0
    f(2, 3, 2), 3, 1, 0.5
""")
def renorm(input, p, dim, maxnorm):
    """Scale down every slice along `dim` whose p-norm exceeds `maxnorm`."""
    if input.meta.ndim < 2:
        raise RuntimeError(f"renorm: input needs at least 2 dimensions, got {input.meta.ndim} "
                           "dimensions")
    if p <= 0:
        raise RuntimeError("renorm: non-positive-norm not supported")
    if maxnorm < 0:
        raise RuntimeError(f"renorm: expected maxnorm to be >= 0 but got {maxnorm}")
    d = wrap_dim(dim, input.meta.ndim)
    others = tuple(k for k in range(input.meta.ndim) if k != d)
    size = vector_norm.fn(input, p, others, True)
    return input * _where(size > maxnorm, maxnorm / (size + 1e-7), 1.0)


# ---------------------------------------------------------------- covariance

def _weights(name, w, count, kind, words):
    """Check the weights of observations."""
    if w.meta.ndim > 1:
        raise RuntimeError(f"cov(): expected {name} to have one or fewer dimensions but got "
                           f"{name} with {w.meta.ndim} dimensions")
    if w.meta.dtype.kind not in kind:
        raise RuntimeError(f"cov(): expected {name} to have {words} dtype but got {name} with "
                           f"{w.meta.dtype!r} dtype")
    if w.meta.numel != count:
        raise RuntimeError(f"cov(): expected {name} to have the same numel as there are "
                           f"observations in the input but got {w.meta.numel} != {count}")
    if count and examples(w).min().item() < 0:
        raise RuntimeError(f"cov(): {name} cannot be negative")
    return w.reshape((-1,))


@composite(method=True, out=False, samples="""
    f(3, 5)
    f(3, 5), correction=0
    f(3, 5), fweights=v([1, 4, 2, 1, 1])
    f(3, 5), aweights=f(5, low=0.1, high=2.0)
    f(3, 5), fweights=v([1, 4, 2, 1, 1]), aweights=f(5, low=0.1, high=2.0), correction=2
    f(5)
    c(3, 5)
    f(4, 3).transposed
""")
def cov(input, *, correction=1, fweights=None, aweights=None):
    """Covariances of the variables in the rows of `input`; columns are observations.

    Divides by the number of observations less `correction`. `fweights` counts how often each was
    seen, `aweights` says how much it matters. RuntimeError for more than two dims or for weights
    that do not fit.

    >>> cov(tensor([[0., 1., 2.], [2., 1., 0.]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    m = input.meta
    if m.ndim > 2:
        raise RuntimeError("cov(): expected input to have two or fewer dimensions but got an input "
                           f"with {m.ndim} dimensions")
    if m.dtype.kind == "b":
        raise RuntimeError("cov(): bool dtype is not supported for input")
    x = input if m.ndim == 2 else input.reshape((1, -1))
    n = x.meta.shape[1]
    w = None if fweights is None else _weights("fweights", fweights, n, "ui", "integral")
    if aweights is not None:
        matter = _weights("aweights", aweights, n, "f", "floating point")
        w = matter if w is None else w * matter
    if w is not None and n and not examples(w).sum().item():
        raise RuntimeError("cov(): weights sum to zero, can't be normalized")
    total = n if w is None else w.sum()
    mean = (x if w is None else x * w).sum(1) / total
    if aweights is not None and correction:
        freedom = total - correction * (w * matter).sum() / total
    else:
        freedom = total - correction
    none = examples(freedom) <= 0 if hasattr(freedom, "meta") else freedom <= 0
    if none if isinstance(none, bool) else bool(none.any()):
        warnings.warn("cov(): degrees of freedom is <= 0. Correction should be strictly less than "
                      "the number of observations.", stacklevel=2)
        # a constant, so that nothing flows back through 1 / 0, unless only some of a batch are so
        freedom = 0 if isinstance(none, bool) or bool(none.all()) else \
            freedom.masked_fill(freedom <= 0, 0)
    x = x - mean.unsqueeze(1)
    c = x @ conj((x if w is None else x * w).t())
    return (c / freedom).squeeze()


@composite(method=True, out=False, samples="""
    f(3, 5)
    f(6).fixed
    c(3, 5)
    f(4, 3).transposed
""")
def corrcoef(input):
    """Pearson's correlation coefficients of the variables in the rows of `input`, in [-1, 1].

    >>> corrcoef(tensor([[0., 1., 2.], [2., 1., 0.]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    if input.meta.ndim > 2:
        raise RuntimeError("corrcoef(): expected input to have two or fewer dimensions but got an "
                           f"input with {input.meta.ndim} dimensions")
    c = cov.fn(input)
    if not c.meta.ndim:
        return c / c
    spread = c.diagonal()
    spread = (spread.real if c.meta.dtype.kind == "c" else spread).sqrt()
    c = c / spread.unsqueeze(1) / spread
    if c.meta.dtype.kind == "c":
        return REGISTRY["complex"].fn(c.real.clip(-1, 1), c.imag.clip(-1, 1))
    return c.clip(-1, 1)
