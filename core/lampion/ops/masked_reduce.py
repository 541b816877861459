"""Reductions and normalisations that leave elements out: the functions of `lampion.masked`.

Floor 3. Where `mask` (bool, broadcast to the input) is False, an element counts as if it were not
there: it is replaced by the value that does not change the result. The ops are called `masked_sum`
and so on; `lampion.masked` hands them out as `sum` and so on.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import wrap_dim, wrap_dims
from .facts import examples
from .registry import REGISTRY, composite


def _op(name):
    return REGISTRY[name].fn


def _canonical(input, mask):
    """The mask as bool in the input's shape. IndexError if it has more dims."""
    if mask.meta.ndim > input.meta.ndim:
        raise IndexError("expected broadcastable mask (got mask dimensionality higher than of the "
                         "input)")
    return mask.expand(*input.meta.shape).to(dt.bool_)


def _without(input, mask, neutral):
    """The input with `neutral` (a number) where it is masked out."""
    if mask is None:
        return input
    return _op("where")(_canonical(input, mask), input, input.new_full((), neutral))


def _lowest(d):
    """The neutral element of a maximum."""
    if d.kind in "fc":
        return -float("inf")
    return 0 if d.kind in "bu" else -(1 << 8 * d.itemsize - 1)


def _highest(d):
    """The neutral element of a minimum."""
    if d.kind in "fc":
        return float("inf")
    return 1 if d.kind == "b" else (1 << 8 * d.itemsize - (d.kind == "i")) - 1


def _dims(dim, input):
    return wrap_dims(dim, input.meta.ndim)


REDUCED = """
    f(3, 4), mask=v([True, False, True, True])
    f(3, 4), 0, mask=v([[1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]], bool)
    f(2, 5, 3).transposed, (0, -1), mask=v([True, False, True])
    f(2, 3), -1, keepdim=True
"""
PLACED = """
    f(3, 4), mask=v([[1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]], bool)
    f(3, 4).transposed, 1, mask=v([True, False, True, True])
    f(2, 3), -1, keepdim=True
"""
ROWS = """
    f(3, 4), -1, mask=v([True, False, True, True])
    f(4, 3).transposed, 0
"""


@composite(where=("masked",), out=False, samples=REDUCED)
def masked_sum(input, dim=None, *, keepdim=False, dtype=None, mask=None):
    """Sum over `dim` (all dims if None) of the elements that the mask lets through.

    >>> lampion.masked.sum(tensor([1., 2., 4.]), mask=tensor([True, False, True])).item()
    5.0
    """
    return _op("sum")(_without(input, mask, 0), _dims(dim, input), bool(keepdim), dtype=dtype)


@composite(where=("masked",), out=False, samples=REDUCED)
def masked_prod(input, dim=None, *, keepdim=False, dtype=None, mask=None):
    """Product over `dim` (all dims if None) of the elements that the mask lets through."""
    x = _without(input, mask, 1)
    return _op("prod")(x, _dims(dim, input), bool(keepdim), dtype=dtype)


@composite(where=("masked",), out=False, samples=ROWS)
def masked_cumsum(input, dim, *, dtype=None, mask=None):
    """Running sum along `dim`; what the mask leaves out adds nothing. In the input's dtype."""
    d = dtype or input.meta.dtype
    return _op("cumsum")(_without(input, mask, 0), dim, dtype=d)


@composite(where=("masked",), out=False, samples=ROWS)
def masked_cumprod(input, dim, *, dtype=None, mask=None):
    """Running product along `dim`; what the mask leaves out is skipped. In the input's dtype."""
    d = dtype or input.meta.dtype
    return _op("cumprod")(_without(input, mask, 1), dim, dtype=d)


@composite(where=("masked",), out=False, samples=REDUCED)
def masked_amax(input, dim=None, *, keepdim=False, dtype=None, mask=None):
    """Largest element over `dim`; the lowest number of the dtype where all are masked out."""
    d = input.meta.dtype
    x = _without(input, mask, _lowest(d))
    return _op("amax")(x, _dims(dim, input), bool(keepdim)).to(dtype or d)


@composite(where=("masked",), out=False, samples=REDUCED)
def masked_amin(input, dim=None, *, keepdim=False, dtype=None, mask=None):
    """Smallest element over `dim`; the highest number of the dtype where all are masked out."""
    d = input.meta.dtype
    x = _without(input, mask, _highest(d))
    return _op("amin")(x, _dims(dim, input), bool(keepdim)).to(dtype or d)


@composite(where=("masked",), out=False, differentiable=False, samples=PLACED)
def masked_argmax(input, dim=None, *, keepdim=False, dtype=None, mask=None):
    """Index of the largest element, in the input's dtype unless `dtype` says otherwise."""
    d = input.meta.dtype
    return _op("argmax")(_without(input, mask, _lowest(d)), dim, bool(keepdim)).to(dtype or d)


@composite(where=("masked",), out=False, differentiable=False, samples=PLACED)
def masked_argmin(input, dim=None, *, keepdim=False, dtype=None, mask=None):
    """Index of the smallest element, in the input's dtype unless `dtype` says otherwise."""
    d = input.meta.dtype
    return _op("argmin")(_without(input, mask, _highest(d)), dim, bool(keepdim)).to(dtype or d)


def _count(input, dim, keepdim, mask):
    """How many elements take part, as int64."""
    there = input.new_ones((), dtype=dt.bool_) if mask is None else mask
    return _canonical(input, there).sum(_dims(dim, input), keepdim)


@composite(where=("masked",), out=False, samples=REDUCED)
def masked_mean(input, dim=None, *, keepdim=False, dtype=None, mask=None):
    """Mean over `dim` of the elements that take part; NaN where none do.

    ValueError for a dtype that is neither floating nor complex.
    """
    d = dtype or input.meta.dtype
    if d.kind not in "fc":
        raise ValueError("mean(): Could not infer output dtype. "
                         f"{'Optional' if dtype else 'Input'} dtype must be either a floating "
                         f"point or complex dtype. Got: {d!r}")
    total = masked_sum.fn(input, dim, keepdim=keepdim, dtype=d, mask=mask)
    return total / _count(input, dim, bool(keepdim), mask)


@composite(where=("masked",), out=False, samples=ROWS)
def masked_median(input, dim=-1, *, keepdim=False, dtype=None, mask=None):
    """Lower median along `dim` of the elements that take part; NaN where none do.

    ValueError if none do in a row of integers.
    """
    d = input.meta.dtype
    x = input if d.kind == "f" else input.to(dt.float32)
    found = _op("nanmedian")(_without(x, mask, float("nan")), dim, keepdim)[0]
    if d.kind == "f":
        return found
    if examples(found).isnan().any().item():
        raise ValueError("masked median expects no fully masked out rows if dtype is not floating "
                         "point")
    return found.to(dtype or d)


@composite(where=("masked",), out=False, samples=REDUCED)
def masked_logsumexp(input, dim=None, *, keepdim=False, dtype=None, mask=None):
    """log of the sum of exp over `dim` of the elements that take part."""
    d = input.meta.dtype
    x = _without(input, mask, _lowest(d))
    return _op("logsumexp")(x, _dims(dim, input), bool(keepdim)).to(dtype or d)


@composite(where=("masked",), out=False, samples="""
    f(3, 4).fixed, f(3, 4).fixed, input_mask=v([True, False, True, True])
    f(5).fixed, f(5).fixed, other_mask=v([True, True, False, True, False])
    f(2, 3), f(2, 3)
""")
def masked_logaddexp(input, other, *, dtype=None, input_mask=None, other_mask=None):
    """log(exp(input) + exp(other)), where masked-out elements count as -inf."""
    d = input.meta.dtype
    return _op("logaddexp")(_without(input, input_mask, _lowest(d)),
                            _without(other, other_mask, _lowest(other.meta.dtype))).to(dtype or d)


@composite(where=("masked",), out=False, samples="""
    f(3, 4), 2.0, 1, mask=v([True, False, True, True])
    f(3, 4), 1.0, 1, mask=v([True, False, True, True])
    f(3, 4), 3.0, 0, mask=v([True, False, True, True])
    f(3, 4), inf, 1, mask=v([True, False, True, True])
    f(3, 4), -inf, 1, mask=v([True, False, True, True])
    f(3, 4), 2.0
""")
def masked_norm(input, ord=2.0, dim=None, *, keepdim=False, dtype=None, mask=None):
    """Vector norm over `dim` of the elements that take part."""
    x = _without(input, mask, float("inf") if ord == -float("inf") else 0)
    return _op("vector_norm")(x, ord, _dims(dim, input), bool(keepdim), dtype=dtype)


@composite(where=("masked",), out=False, samples=REDUCED)
def masked_var(input, dim=None, unbiased=None, *, correction=None, keepdim=False, dtype=None,
               mask=None):
    """Variance over `dim` of the elements that take part, in the input's dtype (float32 for
    integers); NaN where too few do. `unbiased=False` is `correction=0`."""
    if unbiased is not None and correction is not None:
        raise AssertionError("Only one of unbiased and correction may be given")
    if correction is None:
        correction = 0.0 if unbiased is False else 1.0
    d = dtype or (input.meta.dtype if input.meta.dtype.kind in "fc" else dt.float32)
    work = d if d.kind in "fc" else dt.float32
    count = _count(input, dim, True, mask)
    away = input - masked_sum.fn(input, dim, keepdim=True, dtype=d, mask=mask) / count
    squares = away * away.conj() if away.meta.dtype.kind == "c" else away * away
    total = masked_sum.fn(squares, dim, keepdim=keepdim, dtype=work, mask=mask)
    count = count.reshape(total.meta.shape)
    if correction:
        count = (count.to(work.to_real()) - correction).clamp(min=0)
    return (total / count).to(d)


@composite(where=("masked",), out=False, samples=REDUCED)
def masked_std(input, dim=None, unbiased=None, *, correction=None, keepdim=False, dtype=None,
               mask=None):
    """Square root of `masked_var`."""
    return masked_var.fn(input, dim, unbiased, correction=correction, keepdim=keepdim, dtype=dtype,
                         mask=mask).sqrt()


@composite(where=("masked",), out=False, samples=ROWS)
def masked_softmax(input, dim, *, dtype=None, mask=None):
    """Softmax along `dim` over the elements that take part; the others are 0."""
    return _op("softmax")(_without(input, mask, _lowest(input.meta.dtype)), dim, dtype)


@composite(where=("masked",), out=False, samples="""
    f(3, 4).fixed, -1, mask=v([True, False, True, True])
    f(4, 3).transposed, 0
""")
def masked_log_softmax(input, dim, *, dtype=None, mask=None):
    """Logarithm of the softmax over the elements that take part; the others are -inf."""
    return _op("log_softmax")(_without(input, mask, _lowest(input.meta.dtype)), dim, dtype)


@composite(where=("masked",), out=False, samples=ROWS)
def masked_softmin(input, dim, *, dtype=None, mask=None):
    """Softmax of the negative elements that take part; the others are 0."""
    return _op("softmin")(_without(input, mask, _highest(input.meta.dtype)), dim, dtype)


@composite(where=("masked",), out=False, samples="""
    f(3, 4), 2.0, 1, mask=v([True, False, True, True])
    f(3, 4).transposed, 1.0, 0
""")
def masked_normalize(input, ord, dim, *, eps=1e-12, dtype=None, mask=None):
    """The elements divided by their norm along `dim` (at least `eps`); masked-out ones are 0."""
    wrap_dim(dim, input.meta.ndim)
    size = masked_norm.fn(input, ord, dim, keepdim=True, dtype=dtype, mask=mask)
    return _without(input, mask, 0) / size.clamp(min=eps)
