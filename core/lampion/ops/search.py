"""Finding and counting values: searchsorted, unique, isin, bincount, histograms.

Floor 3.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..base.meta import wrap_dim
from ..ir import expr as E
from ..runtime.lowering import Nest, convert
from . import batch_rules
from .join import cat
from .registry import REGISTRY, composite, kernel_op
from .results import named
from .scatter import index_put_at
from .sort import argsort, sort, unsort


@kernel_op("sorted_sequence: T, input: T, right, out_int32")
class search_lines:
    """Where each value belongs in its sorted line: the number of entries before it (or, `right`,
    before or equal)."""

    where = ()
    out = False
    differentiable = False
    batch = batch_rules.search

    def meta(sorted_sequence, input, right, out_int32):
        return [(dt.int32 if out_int32 else dt.int64, input.shape)]

    def lower(call):
        seq, x = call.inputs
        out = call.outputs[0]
        size = seq.shape[-1]
        shape = x.shape or (1,)
        n = Nest("searchsorted", shape, compute=dt.int64, merge=False)
        o = n.output(out, out.strides or (0,))
        lines = (0,) * len(shape) if seq.ndim == 1 else seq.strides[:-1] + (0,)
        s, v = n.input(seq, lines), n.input(x, x.strides or (0,))
        n.start()
        value, step, total = n.typed(v()), n.params.stride(seq.strides[-1]), n.of(size)
        position = E.const(0, dt.int64)
        for bit in reversed(range(size.bit_length())):
            probe = position + E.const(1 << bit, dt.int64)
            entry = s.at(s.offset + (E.minimum(probe, total) - 1) * step)
            hit = E.op("gt" if call.right else "ge", *comparable(entry, value))
            position = n.typed(E.select(E.op("le", probe, total) & ~hit, probe, position))
        n.store(o, position)
        return n.program()


def comparable(a, b):
    """Two values in a type that has an order."""
    return (convert(a, dt.uint8), convert(b, dt.uint8)) if a.dtype.kind == "b" else (a, b)


@composite(differentiable=False, samples="""
    v([1.0, 2, 2, 5]), v([[0.0, 2], [5, 9]])
    v([1.0, 2, 2, 5]), v([2.0, 5]), right=True, out_int32=True
    v([[1, 3, 5], [2, 4, 6]]), v([[3], [3]]), side="left"
    v([5.0, 1, 2]), v([2.0, nan]), sorter=v([1, 2, 0])
    v([1.0, 2]), 1.5
    f(0), f(3)
""")
def searchsorted(sorted_sequence, input, *, out_int32=False, right=False, side=None, sorter=None):
    """Positions at which values would be inserted into sorted lines (the last dim).

    `right` (or side="right") puts them after equal entries. `sorter` are indices that sort the
    lines.
    """
    if side is not None and side not in ("left", "right"):
        raise RuntimeError("torch.searchsorted(): side can only be 'left' or 'right' but got "
                           f"{side}")
    if side == "left" and right:
        raise RuntimeError("torch.searchsorted(): side and right can't be set to opposites, got "
                           "side of left while right was True")
    seq = sorted_sequence
    if not hasattr(input, "meta"):
        input = seq.new_tensor(input, dtype=dt.result_dtype([seq.meta.dtype], scalars=[input]))
    if seq.meta.ndim == 0:
        raise RuntimeError("torch.searchsorted(): input value can be a scalar only when boundaries "
                           "tensor dimension is 1, but we got boundaries tensor dim(0)")
    if seq.meta.dtype is not input.meta.dtype:
        common = dt.promote_types(seq.meta.dtype, input.meta.dtype)
        seq, input = seq.to(common), input.to(common)
    if seq.meta.ndim != 1 and seq.meta.shape[:-1] != input.meta.shape[:-1]:
        raise RuntimeError(
            "torch.searchsorted(): boundaries tensor should be 1 dimension or the first N-1 "
            "dimensions of boundaries tensor and input value tensor must match, but we got "
            f"boundaries tensor {list(seq.meta.shape)} and input value tensor "
            f"{list(input.meta.shape)}")
    if sorter is not None:
        if sorter.meta.shape != seq.meta.shape:
            raise RuntimeError("torch.searchsorted(): boundary and sorter must have the same size, "
                               f"but got boundary tensor {list(seq.meta.shape)}and got sorter "
                               f"tensor {list(sorter.meta.shape)}")
        seq = seq.gather(-1, sorter)
    return search_lines.fn(seq.detach(), input.detach(), right or side == "right", out_int32)


@composite(replay=True, differentiable=False, samples="""
    f(3, 4), v([-1.0, 0, 1])
    i(3).offset, v([-1, 0, 1]), right=True, out_int32=True
    v([0.0, 1, nan]), v([0.0, 1])
""")
def bucketize(input, boundaries, *, out_int32=False, right=False):
    """The number of the bucket of each value, between sorted boundaries."""
    if boundaries.meta.ndim != 1:
        raise RuntimeError("bucketize(): boundaries tensor must be 1 dimension, but got dim("
                           f"{boundaries.meta.ndim})")
    return searchsorted.fn(boundaries, input, out_int32=out_int32, right=right)


@composite(replay=True, differentiable=False, samples="""
    i(3, 4), v([1, 2, -3])
    v([1.0, 2, 3]), v([2.0]), invert=True
    i(5), i(12)
    i(3), i(0)
    v([1, 2]), 2
""")
def isin(elements, test_elements, *, assume_unique=False, invert=False):
    """Whether each element is among the test elements (bool)."""
    if not hasattr(elements, "meta"):
        elements = test_elements.new_tensor(elements)
    if not hasattr(test_elements, "meta"):
        test_elements = elements.new_tensor(test_elements)
    d = dt.promote_types(elements.meta.dtype, test_elements.meta.dtype)
    x, t = elements.detach().to(d), test_elements.detach().to(d).reshape((-1,))
    n = t.meta.numel
    if not n:
        return x.new_full(x.meta.shape, bool(invert), dtype=dt.bool_)
    if n <= 8:
        hit = (x.unsqueeze(-1) == t).any(-1)
    else:
        line = sort.fn(t)[0]
        place = search_lines.fn(line, x, False, False).clamp(max=n - 1)
        hit = REGISTRY["index_get"].fn(line, (place,), (0,)) == x
    return ~hit if invert else hit


# ---- unique  -----------------------------------------------------------------------------------

unique_result = named("unique", ("output", "inverse_indices", "counts"))


def run_starts(fresh):
    """int64 positions at which runs begin: 0 and wherever `fresh` (length n - 1) holds."""
    later = fresh.nonzero().reshape((-1,)) + 1
    return cat.fn((later.new_zeros((1,)), later), 0)


def runs(fresh, n, order, want_inverse, want_counts):
    """(starts, inverse, counts) of runs in a sorted line; `order` maps back to the input."""
    starts = run_starts(fresh)
    inverse = counts = None
    if want_inverse:
        number = cat.fn((starts.new_zeros((1,)), fresh.to(dt.int64).cumsum(0)), 0)
        inverse = number if order is None else unsort.fn(number, order, 0)
    if want_counts:
        counts = cat.fn((starts[1:], starts.new_full((1,), n)), 0) - starts
    return starts, inverse, counts


def answer(output, inverse, counts):
    """PyTorch's return: the output alone, or a tuple of what was asked for."""
    found = tuple(v for v in (output, inverse, counts) if v is not None)
    return found[0] if len(found) == 1 else found


def nothing(input, shape, want_inverse, want_counts):
    """The answer for an empty input."""
    none = input.new_empty((0,), dtype=dt.int64)
    return answer(input.new_empty(shape), input.new_empty(input.meta.shape, dtype=dt.int64)
                  if want_inverse else None, none if want_counts else None)


@composite(method=True, out=False, differentiable=False, samples="""
    v([3, 1, 3, 2])
    v([[2.0, 1], [2, 3]]), return_inverse=True, return_counts=True
    i(4, 2, low=0, high=1), return_inverse=True, return_counts=True, dim=0
    f(0), return_counts=True
    b(5)
""")
def unique(input, sorted=True, return_inverse=False, return_counts=False, dim=None):
    """The distinct elements in order (or slices of `dim`), with the place of each input element
    among them and their counts if asked for."""
    x = input.detach()
    if dim is not None:
        return unique_slices(x, dim, return_inverse, return_counts, True)
    n = x.meta.numel
    if not n:
        return nothing(x, (0,), return_inverse, return_counts)
    v, order = sort.fn(x.reshape((-1,)))
    starts, inverse, counts = runs(v[1:] != v[:-1], n, order, return_inverse, return_counts)
    if inverse is not None:
        inverse = inverse.reshape(x.meta.shape)
    return answer(v.index_select(0, starts), inverse, counts)


@composite(method=True, out=False, differentiable=False, samples="""
    v([1, 1, 2, 2, 1])
    v([[1.0, 1], [2, 1]]), True, True
    v([[1, 1], [1, 1], [2, 1]]), return_counts=True, dim=0
""")
def unique_consecutive(input, return_inverse=False, return_counts=False, dim=None):
    """The first of every run of equal elements (or slices of `dim`)."""
    x = input.detach()
    if dim is not None:
        return unique_slices(x, dim, return_inverse, return_counts, False)
    n = x.meta.numel
    if not n:
        return nothing(x, (0,), return_inverse, return_counts)
    v = x.reshape((-1,))
    starts, inverse, counts = runs(v[1:] != v[:-1], n, None, return_inverse, return_counts)
    if inverse is not None:
        inverse = inverse.reshape(x.meta.shape)
    return answer(v.index_select(0, starts), inverse, counts)


def unique_slices(x, dim, want_inverse, want_counts, in_order):
    """unique along a dim: slices in lexicographic order, by stable sorts from the last column."""
    d = wrap_dim(dim, x.meta.ndim)
    moved = x.movedim(d, 0)
    n = moved.meta.shape[0]
    if not x.meta.numel:
        if n:
            raise RuntimeError("There are 0 sized dimensions, and they aren't selected, so unique "
                               "cannot be applied")
        return answer(x.clone(), x.new_empty((0,), dtype=dt.int64) if want_inverse else None,
                      x.new_empty((0,), dtype=dt.int64) if want_counts else None)
    rows = moved.reshape((n, -1))
    order = None
    if in_order:
        order = rows.new_arange(n)
        for c in reversed(range(rows.meta.shape[1])):
            column = rows.select(1, c).index_select(0, order)
            order = order.index_select(0, argsort.fn(column))
        rows = rows.index_select(0, order)
    fresh = (rows[1:] != rows[:-1]).any(1)
    starts, inverse, counts = runs(fresh, n, order, want_inverse, want_counts)
    out = rows.index_select(0, starts).reshape((starts.meta.numel, *moved.meta.shape[1:]))
    return answer(out.movedim(0, d).contiguous(), inverse, counts)


# ---- counting  ---------------------------------------------------------------------------------

@composite(one_by_one=True, method=True, out=False, differentiable=False, samples="""
    v([0, 2, 2, 5])
    v([1, 1, 3]), f(3)
    v([1, 1]), minlength=6
    i(0)
    i(4, dtype=int32, low=0, high=3), f(4, dtype=float64)
""")
def bincount(input, weights=None, minlength=0):
    """How often (or with what total weight) each non-negative integer occurs.

    >>> bincount(tensor([0, 2, 2])).tolist()
    [1, 0, 2]
    """
    m = input.meta
    if m.ndim != 1 or m.dtype.kind not in "ui":
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if minlength < 0:
        raise RuntimeError("minlength should be >= 0")
    if weights is not None and weights.meta.shape != m.shape:
        raise RuntimeError("weights should be 1-d and have the same length as input")
    x = input.to(dt.int64)
    size = minlength
    if m.numel:
        low, high = x.aminmax()
        if low.item() < 0:
            raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
        size = max(size, high.item() + 1)
    if weights is None:
        return index_put_at.fn(x.new_zeros((size,)), (x,), (0,), "sum", False, 1)
    d = weights.meta.dtype if weights.meta.dtype is dt.float32 else dt.float64
    w = weights.detach().to(d)
    return w.new_zeros((size,)).index_add(0, x, w)


def bin_edges(low, high, name):
    """Finite bounds in order; RuntimeError otherwise."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise RuntimeError(f"{name}: range of [{low}, {high}] is not finite")
    if low > high:
        raise RuntimeError(f"{name}: max must be larger than min")


def bounds_of(x, low, high, name):
    """The range of histc: as given, or that of the values if both bounds are equal; widened by 1
    on both sides if all values are equal."""
    low, high = (v.item() if hasattr(v, "item") else v for v in (low, high))
    if low == high and x.meta.numel:
        low, high = float(x.min().item()), float(x.max().item())
    bin_edges(low, high, name)
    return (low - 1, high + 1) if low == high else (low, high)


@composite(one_by_one=True, replay=True, method=True, differentiable=False, samples="""
    f(20), 5
    f(4, 5).transposed, 4, -1, 1
    v([1.0, 1]), 3
""")
def histc(input, bins=100, min=0, max=0):
    """Counts of `bins` equal bins between min and max (of the values, if both are equal)."""
    if bins <= 0:
        raise RuntimeError(f"torch.histogram(): bins must be > 0, but got {bins}")
    if input.meta.dtype.kind not in "f":
        raise RuntimeError(f'"histogram_cpu" not implemented for {input.meta.dtype!r}')
    x = input.detach().reshape((-1,))
    low, high = bounds_of(x, min, max, "torch.histc")
    wide = x.to(dt.float64) if x.meta.dtype is dt.float64 else x.to(dt.float32)
    inside = (wide >= low) & (wide <= high)
    place = ((wide - low) * (bins / (high - low))).masked_fill(~inside, 0).to(dt.int64)
    place = place.clamp(0, bins - 1)
    return x.new_zeros((bins,)).index_add(0, place, inside.to(x.meta.dtype))


def edges_of(x, bins, span, name):
    """Edges of bins as a tensor: those given, or `bins` equal ones over `span`, which is that of
    the values if None, and one wide if they are all alike. RuntimeError if it is not finite."""
    if hasattr(bins, "meta"):
        return bins
    if span is None:
        span = (x.min().item(), x.max().item()) if x.meta.numel else (0.0, 1.0)
    low, high = map(float, span)
    bin_edges(low, high, name)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return REGISTRY["linspace_steps"].fn(bins + 1, low, high, (high - low) / bins,
                                         dtype=x.meta.dtype, device=x.meta.device)


def bins_of(x, edges):
    """(number of the bin of each value, whether it is in one); the last bin has its right edge."""
    n = edges.meta.numel - 1
    place = search_lines.fn(edges.contiguous(), x.contiguous(), True, False) - 1
    place = REGISTRY["where"].fn(x == edges[n:].expand(x.meta.shape), place.new_full((), n - 1),
                                 place)
    inside = (place >= 0) & (place < n)
    return place.masked_fill(~inside, 0), inside


histogram_result = named("histogram", ("hist", "bin_edges"))
histogramdd_result = named("histogramdd", ("hist", "bin_edges"))


@composite(one_by_one=True, method=True, differentiable=False, samples="""
    f(20), 5
    f(4, 5).transposed, 4, range=(-1.0, 1.0)
    f(9), v([-1.0, 0, 0.5, 2]), weight=f(9, low=0)
    f(9), 3, density=True
""")
def histogram(input, bins, *, range=None, weight=None, density=False):
    """(hist, bin_edges) over equal bins or over given edges; the last bin holds its right edge."""
    x = input.detach().reshape((-1,))
    edges = edges_of(x, bins, range, "torch.histogram")
    place, inside = bins_of(x, edges)
    w = x.new_ones(x.meta.shape) if weight is None else weight.detach().reshape((-1,))
    hist = x.new_zeros((edges.meta.numel - 1,)).index_add(0, place, w * inside.to(w.meta.dtype))
    if density:
        hist = hist / (hist.sum() * (edges[1:] - edges[:-1]))
    return histogram_result(hist, edges)


@composite(one_by_one=True, out=False, differentiable=False, samples="""
    f(9, 2), 3
    f(2, 5, 3).transposed, [2, 3, 1], density=True
    f(9, 2), [2, 4], range=[-1.0, 1.0, 0.0, 2.0], weight=f(9, low=0.0)
    f(9, 2), [v([-1.0, 0.0, 2.0]), v([-2.0, -1.0, 0.5, 1.0])]
""")
def histogramdd(input, bins, *, range=None, weight=None, density=False):
    """(hist, bin_edges) of points whose coordinates are along the last dim of `input`.

    `bins` is a number of equal bins, one for each coordinate, or a list of edges; `range` holds
    the lower and upper end of each coordinate in turn. bin_edges is a tuple of vectors.
    RuntimeError for shapes that do not fit.
    """
    m = input.meta
    if m.ndim < 2:
        raise RuntimeError("torch.histogramdd: input tensor should have at least 2 dimensions")
    if m.dtype.kind != "f":
        raise NotImplementedError(f'"histogramdd" is not implemented for {m.dtype!r}')
    n = m.shape[-1]
    counts = [bins] * n if isinstance(bins, int) else list(bins)
    if len(counts) != n:
        raise RuntimeError("histogramdd: The size of bins must be equal to the innermost dimension "
                           "of the input.")
    if range is not None and len(range) != 2 * n:
        raise RuntimeError(f"torch.histogramdd: for a {n}-dimensional histogram range should have "
                           f"{2 * n} elements, but got {len(range)}")
    if weight is not None and weight.meta.shape != m.shape[:-1]:
        raise RuntimeError("torch.histogramdd: if weight tensor is provided it should have the "
                           "same shape as the input tensor excluding its innermost dimension, but "
                           f"got input with shape {list(m.shape)} and weight with shape "
                           f"{list(weight.meta.shape)}")
    points = input.detach().reshape((-1, n))
    edges, shape, flat, inside = [], [], None, None
    for d, count in enumerate(counts):
        x = points.select(1, d)
        span = None if range is None else (range[2 * d], range[2 * d + 1])
        line = edges_of(x, count, span, f"torch.histogramdd: dimension {d}")
        place, within = bins_of(x, line)
        bins_here = line.meta.numel - 1
        flat = place if flat is None else flat * bins_here + place
        inside = within if inside is None else inside & within
        edges.append(line)
        shape.append(bins_here)
    w = points.new_ones((points.meta.shape[0],)) if weight is None else (
        weight.detach().reshape((-1,)).to(m.dtype))
    hist = points.new_zeros((math.prod(shape),)).index_add(0, flat, w * inside.to(w.meta.dtype))
    hist = hist.reshape(shape)
    if density:
        hist = hist / hist.sum()
        for d, line in enumerate(edges):
            width = (line[1:] - line[:-1]).reshape((-1,) + (1,) * (n - 1 - d))
            hist = hist / width
    return histogramdd_result(hist, tuple(edges))
