"""Sorting and what follows from it: topk, kthvalue, median, mode, quantile.

Floor 3. `sort` is stable, NaN counts as the largest value. Devices without a kernel of their own
run one of two lowerings: short lines find every element's rank by counting, long ones go through a
bitonic network over (value, index) pairs, padded to a power of two.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import contiguous_strides, meta, wrap_dim
from ..ir import expr as E
from ..ir.kernel import Program
from ..runtime.lowering import Nest, convert
from .facts import examples
from .registry import REGISTRY, composite, kernel_op
from .results import named

COUNTING = 256  # lines up to this length are ranked by counting


def less(a, b, descending):
    """Whether `a` sorts strictly before `b`: NaN last, or first when descending."""
    if descending:
        a, b = b, a
    if a.dtype.kind == "b":
        a, b = convert(a, dt.uint8), convert(b, dt.uint8)
    if a.dtype.kind != "f":
        return E.op("lt", a, b)
    return E.op("lt", a, b) | (E.isnan(b) & E.eq(a, a))


def before(a, i, b, j, descending):
    """The total order of (value, index) pairs."""
    return less(a, b, descending) | (~less(b, a, descending) & E.op("lt", i, j))


def sort_shapes(input, dim, op="sort"):
    """(dim, length of a line); RuntimeError for complex numbers."""
    d = wrap_dim(dim, input.ndim)
    if input.dtype.kind == "c":
        raise RuntimeError(f"{op}(): does not support complex dtypes, as they have no order")
    return d, input.shape[d] if input.ndim else 1


@kernel_op("input: T, dim=-1, descending=False, *, stable=None")
class sort:
    """(values, indices) of the entries along a dim in order. Always stable; NaN is the largest.

    >>> sort(tensor([3, 1, 2])).indices.tolist()
    [1, 2, 0]
    """

    samples = """
        f(2, 5)
        f(5, 3).transposed, 0, True
        f(2, 3, 4).strided, 1
        f(2, 90), 1
        i(4, 5, low=0, high=2), stable=True
        i(3, 40, low=0, high=5), 1, True
        v([[nan, 1, 1, -inf], [2, nan, 2, 0]]), 1
        f()
        f(0, 3), 0
        b(6)
    """
    method = True
    noutputs = 2
    returns = ("values", "indices")
    save = ("out1",)
    batch = "dim"

    def meta(input, dim, descending, stable):
        sort_shapes(input, dim)
        return [(input.dtype, input.shape), (dt.int64, input.shape)]

    def lower(call):
        x = call.inputs[0]
        d, n = sort_shapes(x, call.dim)
        if not x.ndim:
            x = meta(x.dtype, (1,), None, x.device)
        rule = by_counting if n <= COUNTING else by_network
        return rule(call, x, d, n, bool(call.descending))

    def vjp(ctx, g, _):
        m = ctx.meta("input")
        return (unsort.fn(g, ctx.out1, wrap_dim(ctx.dim, m.ndim)) if m.ndim else g,)


def by_counting(call, x, d, n, descending, most=None):
    """Every element counts those that sort before it: its place. Only the first `most` places
    are written, if that is given."""
    values, indices = call.outputs
    shape = x.shape + (n,)
    k = Nest("sort_count", shape, [x.ndim], compute=dt.int64, merge=False)
    places = contiguous_strides(values.shape or (1,))
    line = tuple(0 if j == d else s for j, s in enumerate(places)) + (0,)
    v, i = k.output(values, line), k.output(indices, line)
    own = k.input(x, x.strides + (0,))
    other = k.input(x, tuple(0 if j == d else s for j, s in enumerate(x.strides))
                    + (x.strides[d],))
    k.start()
    here, there = k.coord(d), k.coord(x.ndim)
    a = k.typed(own())
    hit = before(k.typed(other()), there, a, here, descending)
    rank = k.reduce("sum", E.select(hit, E.const(1, dt.int64), E.const(0, dt.int64)))
    step = k.params.stride(places[d])
    wanted = None if most is None else E.op("lt", rank, k.of(most))
    k.store_at(v, v.offset + rank * step, a, inner=False, mask=wanted)
    k.store_at(i, i.offset + rank * step, here, inner=False, mask=wanted)
    return Program((k.call((0, 1, 2, 2)),))


def entry_by_counting(call, x, d, n, k):
    """The entry of each line before which as many sort as wanted; see `entry_at` for k."""
    values, indices = call.outputs
    nest = Nest("entry_count", x.shape + (n,), [x.ndim], compute=dt.int64, merge=False)
    line = tuple(0 if j == d else s for j, s in enumerate(values.strides)) + (0,)
    v, i = nest.output(values, line), nest.output(indices, line)
    own = nest.input(x, x.strides + (0,))
    other = nest.input(x, tuple(0 if j == d else s for j, s in enumerate(x.strides))
                       + (x.strides[d],))
    nest.start()
    here, there = nest.coord(d), nest.coord(x.ndim)
    a, b = nest.typed(own()), nest.typed(other())
    one, zero = E.const(1, dt.int64), E.const(0, dt.int64)
    counts = [("sum", E.select(before(b, there, a, here, False), one, zero))]
    middle = not isinstance(k, int)
    if middle and x.dtype.kind == "f":
        counts.append(("sum", E.select(E.ne(b, b), one, zero)))
    place, *nans = nest.reduce_all(*counts)
    length = nest.of(n)
    wanted = nest.of((n - 1) // 2 if middle else k)
    if nans:
        wanted = E.op("idiv", length - nans[0] - 1, 2) if k == "nanmedian" else E.select(
            nans[0] > 0, length - nans[0], wanted)
    hit = E.eq(place, wanted)
    nest.store(v, a, inner=False, mask=hit)
    nest.store(i, here, inner=False, mask=hit)
    return Program((nest.call((0, 1, 2, 2)),))


def by_network(call, x, d, n, descending):
    """Bitonic sort: log2(n)^2 / 2 kernels, each a compare-exchange of all pairs."""
    values, _ = call.outputs
    lines = x.numel // n if n else 0
    bits = (n - 1).bit_length()
    size = 1 << bits
    scratch = (lines * size * x.dtype.itemsize, lines * size * 8) * 2
    first = 3  # slots: values, indices, input, then two pairs of scratch buffers
    calls = [fill_pairs(x, d, n, size, (first, first + 1, 2))]
    at = 0
    for level in range(1, bits + 1):
        for mask in [(1 << level) - 1, *(1 << s for s in range(level - 2, -1, -1))]:
            a, b = first + 2 * at, first + 2 * (1 - at)
            calls.append(exchange(x, n, lines, size, mask, descending, (b, b + 1, a, a + 1)))
            at = 1 - at
    calls.append(take_pairs(x, values, d, n, size, (0, 1, first + 2 * at, first + 2 * at + 1)))
    return Program(tuple(calls), scratch)


def split_line(shape, d, size):
    """Strides over `shape` of a buffer (lines, size) in which dim `d` lies inside a line."""
    rest = contiguous_strides([n for j, n in enumerate(shape) if j != d])
    rest = iter(s * size for s in rest)
    return tuple(1 if j == d else next(rest) for j in range(len(shape)))


def fill_pairs(x, d, n, size, slots):
    """Values and indices into scratch; padding has indices from n on."""
    shape = tuple(size if j == d else m for j, m in enumerate(x.shape))
    k = Nest("sort_fill", shape, compute=dt.opmath(x.dtype), merge=False)
    line = split_line(x.shape, d, size)
    v = k.output(x, line)
    i = k.output(meta(dt.int64, x.shape, None, x.device), line)
    a = k.input(x, x.strides)
    k.start()
    here = k.coord(d)
    k.store(v, a(mask=E.op("lt", here, k.of(n))))
    k.store(i, here)
    return k.call(slots)


def exchange(x, n, lines, size, mask, descending, slots):
    """One step: every element takes the smaller or larger of itself and its partner."""
    k = Nest("sort_exchange", (lines, size), compute=dt.opmath(x.dtype), merge=False)
    m = meta(x.dtype, (lines, size), None, x.device)
    im = meta(dt.int64, (lines, size), None, x.device)
    v, i = k.output(m, m.strides), k.output(im, im.strides)
    a, ai = k.buffer(m), k.buffer(im)
    k.start()
    here = k.coord(1)
    row = k.coord(0) * k.of(size)
    partner = k.typed(E.op("xor", here, k.of(mask)))
    x0, i0 = a.at(row + here), ai.at(row + here)
    x1, i1 = a.at(row + partner), ai.at(row + partner)
    limit = k.of(n)
    real0, real1 = E.op("lt", i0, limit), E.op("lt", i1, limit)
    first = E.select(real0 & real1, before(x0, i0, x1, i1, descending), E.op("lt", i0, i1))
    keep = k.typed((first & E.op("lt", here, partner)) | (~first & ~E.op("lt", here, partner)))
    k.store(v, E.select(keep, x0, x1))
    k.store(i, E.select(keep, i0, i1))
    return k.call(slots)


def take_pairs(x, values, d, n, size, slots):
    """The first n of every line into the results."""
    k = Nest("sort_take", x.shape, compute=dt.opmath(x.dtype))
    line = split_line(x.shape, d, size)
    strides = contiguous_strides(x.shape)
    v = k.output(values, strides)
    i = k.output(meta(dt.int64, x.shape, None, x.device), strides)
    a = k.input(x, line)
    ai = k.input(meta(dt.int64, x.shape, None, x.device), line)
    k.start()
    k.store(v, a())
    k.store(i, ai())
    return k.call(slots)


@kernel_op("values: T, order: T, dim")
class unsort:
    """values[.., k, ..] at [.., order[.., k, ..], ..], for the indices that `sort` gives: all
    places are different, so no order of writing matters."""

    linear = ("values",)
    where = ()
    out = False
    save = ("order",)
    batch = "dim"

    def meta(values, order, dim):
        return [(values.dtype, values.shape)]

    def lower(call):
        (values, order), out, d = call.inputs, call.outputs[0], call.dim
        n = Nest("unsort", values.shape, compute=dt.opmath(values.dtype))
        o = n.output(out, tuple(0 if j == d else s for j, s in enumerate(out.strides)))
        i, v = n.input(order), n.input(values)
        n.start()
        n.store_at(o, o.offset + i() * n.params.stride(out.strides[d]), v(), inner=False)
        return Program((n.call((0, 2, 1)),))

    def vjp(ctx, g):
        return (g.gather(ctx.dim, ctx.order), None)


@composite(method=True, differentiable=False, samples="""
    f(2, 5)
    f(5, 3).transposed, 0, True
    i(4, 5, low=0, high=2), stable=True
    f()
""")
def argsort(input, dim=-1, descending=False, stable=False):
    """The indices that sort a dim."""
    return sort.fn(input.detach(), dim, descending)[1]


@composite(replay=True, method=True, samples="""
    f(5, 2)
    i(3, 4).transposed
""")
def msort(input):
    """The entries of dim 0 in order."""
    return sort.fn(input, 0)[0]


@kernel_op("input: T, k, dim=-1, largest=True, sorted=True")
class topk:
    """(values, indices) of the k largest (or smallest) entries of a dim, in order."""

    samples = """
        f(2, 5), 2
        f(5, 3).transposed, 3, 0, False
        f(2, 90), 4
        i(3, 4), 1, -1
        f(3), 0
        f(), 1
        v([1.0, nan, 3, 2]), 2
    """
    method = True
    noutputs = 2
    returns = ("values", "indices")
    save = ("out1",)
    batch = "dim"

    def meta(input, k, dim, largest, sorted):
        d, n = sort_shapes(input, dim, "topk")
        if not 0 <= k <= n:
            raise RuntimeError("selected index k out of range")
        shape = input.shape[:d] + (k,) + input.shape[d + 1:] if input.ndim else ()
        return [(input.dtype, shape), (dt.int64, shape)]

    def lower(call):
        x = call.inputs[0]
        d, n = sort_shapes(x, call.dim, "topk")
        if n > COUNTING or not call.k:
            return None
        if not x.ndim:
            x = meta(x.dtype, (1,), None, x.device)
        return by_counting(call, x, d, n, bool(call.largest), call.k)

    def compose(input, k, dim, largest, sorted):
        v, i = sort.fn(input, dim, bool(largest))
        if not input.meta.ndim:
            return topk_result(v, i)
        return topk_result(*[t.narrow(dim, 0, k).contiguous() for t in (v, i)])

    def vjp(ctx, g, _):
        m = ctx.meta("input")
        return (g.new_zeros(m.shape).scatter(wrap_dim(ctx.dim, m.ndim), ctx.out1, g),)


topk_result = named("topk", ("values", "indices"))
kthvalue_result = named("kthvalue", ("values", "indices"))
median_result = named("median", ("values", "indices"))
nanmedian_result = named("nanmedian", ("values", "indices"))
mode_result = named("mode", ("values", "indices"))


@kernel_op("input: T, k, dim")
class entry_at:
    """(values, indices) of the k-th entry of a dim in order, k from 0, the dim kept with size 1.
    k may also be "median" (NaN if there is one) or "nanmedian"."""

    where = ()
    out = False
    noutputs = 2
    save = ("out1",)
    batch = "dim"

    def meta(input, k, dim):
        shape = input.shape[:dim] + (1,) + input.shape[dim + 1:]
        return [(input.dtype, shape), (dt.int64, shape)]

    def lower(call):
        x = call.inputs[0]
        n = x.shape[call.dim] if x.ndim else 1
        if n > COUNTING or not x.ndim or x.dtype.kind == "c":
            return None
        return entry_by_counting(call, x, call.dim, n, call.k)

    def compose(input, k, dim):
        order = argsort.fn(input, dim)
        index = order.gather(dim, rank(input.detach(), k, dim, order))
        return input.gather(dim, index), index

    def vjp(ctx, g, _):
        return (g.new_zeros(ctx.meta("input").shape).scatter(ctx.dim, ctx.out1, g),)


def rank(x, k, d, order):
    """The position in sorted order that `entry_at` asks for, one per line."""
    n = x.meta.shape[d]
    zero = order.narrow(d, 0, 1) * 0
    if isinstance(k, int) or x.meta.dtype.kind != "f":
        return zero + (k if isinstance(k, int) else (n - 1) // 2)
    nans = (x != x).to(dt.int64).sum(d, True)
    if k == "nanmedian":
        return ((n - nans - 1) // 2).clamp(min=0)
    return REGISTRY["where"].fn(nans > 0, n - nans, zero + (n - 1) // 2)


def picked(result, pair, d, keepdim):
    """The named pair, its dim dropped unless kept."""
    return result(*pair) if keepdim else result(*[t.squeeze(d) for t in pair])


def line(input, dim, op):
    """(dim, length), refusing empty lines."""
    d, n = sort_shapes(input.meta, dim, op)
    if n == 0 and input.meta.ndim:
        raise IndexError(f"{op}(): Expected reduction dim {d} to have non-zero size.")
    return d, n


@composite(replay=True, method=True, samples="""
    f(2, 5), 2
    f(5, 3).transposed, 4, 0, True
    i(4, 5, low=0, high=3), 3
    f(), 1
""")
def kthvalue(input, k, dim=-1, keepdim=False):
    """(values, indices) of the k-th smallest entry of a dim, k from 1."""
    d, n = line(input, dim, "kthvalue")
    if not 1 <= k <= n:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {d}")
    if not input.meta.ndim:
        return kthvalue_result(input.clone(), input.new_zeros((), dtype=dt.int64))
    return picked(kthvalue_result, entry_at.fn(input, int(k) - 1, d), d, keepdim)


def _median(input, dim, keepdim, result):
    d, _ = line(input, dim, result.__name__)
    if not input.meta.ndim:
        return result(input.clone(), input.new_zeros((), dtype=dt.int64))
    return picked(result, entry_at.fn(input, result.__name__, d), d, keepdim)


def _median_of_all(input, result):
    if not input.meta.numel:
        return input.new_full((), float("nan"))
    return _median(input.reshape((-1,)), 0, False, result)[0]


@composite(replay=True, method=True, samples="""
    f(2, 5)
    f(4, 3).transposed, 0
    f(2, 3, 4).strided, 1, True
    i(4)
    f(), 0
    v([[1.0, nan, 2], [3, 1, 2]]), 1
""")
def median(input, dim=None, keepdim=False):
    """The median (the lower of two); NaN if there is one. With `dim`, (values, indices)."""
    if dim is None:
        return _median_of_all(input, median_result)
    return _median(input, dim, keepdim, median_result)


@composite(replay=True, method=True, samples="""
    f(2, 5)
    f(4, 3).transposed, 0
    v([[1.0, nan, 2], [3, 1, 2], [nan, nan, nan]]), 1, True
    i(4), 0
""")
def nanmedian(input, dim=None, keepdim=False):
    """The median of what is not NaN. With `dim`, (values, indices)."""
    if dim is None:
        return _median_of_all(input, nanmedian_result)
    return _median(input, dim, keepdim, nanmedian_result)


@composite(replay=True, method=True, samples="""
    f(2, 3)
    i(4, 6, low=0, high=2).transposed, 0
    i(3, 5, low=0, high=2), -1, True
    f()
""")
def mode(input, dim=-1, keepdim=False):
    """(values, indices) of the most frequent entry of a dim, the smallest of several."""
    d, n = line(input, dim, "mode")
    if not input.meta.ndim:
        return mode_result(input.clone(), input.new_zeros((), dtype=dt.int64))
    v, order = sort.fn(input.detach(), d)
    steps = order.new_arange(n).reshape([-1 if j == d else 1 for j in range(input.meta.ndim)])
    steps = steps.expand(*order.meta.shape)
    fresh = v.narrow(d, 1, n - 1) != v.narrow(d, 0, n - 1)
    starts = REGISTRY["cat"].fn(
        (steps.narrow(d, 0, 1), steps.narrow(d, 1, n - 1) * fresh.to(dt.int64)), d)
    run = steps - starts.cummax(d)[0]
    best = run.argmax(d, True)
    index = order.gather(d, best)
    return picked(mode_result, (input.gather(d, index), index), d, keepdim)


# ---- quantiles  --------------------------------------------------------------------------------

def _quantile(input, q, dim, keepdim, interpolation, skip_nan, name):
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise RuntimeError(f"{name}() interpolation must be one of linear, lower, higher, midpoint "
                           f"or nearest, but got {interpolation}")
    m = input.meta
    if not m.numel:
        raise RuntimeError(f"{name}() input tensor must be non-empty")
    if m.dtype not in (dt.float32, dt.float64):
        raise RuntimeError(f"{name}() input tensor must be either float or double dtype")
    if not hasattr(q, "meta"):
        if not 0 <= q <= 1:
            raise RuntimeError(f"{name}() q must be in the range [0, 1] but got {q}")
        q = input.new_tensor(float(q))
    elif q.meta.dtype is not m.dtype:
        raise RuntimeError(f"{name}() q tensor must be same dtype as the input tensor")
    elif q.meta.ndim > 1:
        raise RuntimeError(f"{name}() q must be a scalar or 1D tensor")
    elif not bool(examples((q >= 0) & (q <= 1)).all()):
        raise RuntimeError(f"{name}() q values must be in the range [0, 1]")
    return _by_rank(input, q, dim, keepdim, interpolation, skip_nan)


def _by_rank(input, q, dim, keepdim, interpolation, skip_nan):
    ndim = input.meta.ndim
    if dim is None:
        rows, lead = input.reshape((1, -1)), (1,) * ndim if keepdim else ()
    else:
        d = wrap_dim(dim, ndim)
        x = input.unsqueeze(0) if not ndim else input.movedim(d, -1)
        rows = x.reshape((-1, x.meta.shape[-1]))
        shape = list(input.meta.shape)
        lead = tuple(1 if j == d else n for j, n in enumerate(shape)) if keepdim else tuple(
            n for j, n in enumerate(shape) if j != d)
    v = sort.fn(rows, 1)[0]
    n = rows.meta.shape[1]
    nans = (rows.detach() != rows.detach()).to(dt.int64).sum(1, True)
    last = (n - 1 - nans if skip_nan else nans * 0 + (n - 1)).clamp(min=0).to(v.meta.dtype)
    rank = q.reshape((1, -1)) * last
    if not skip_nan:  # a line with a NaN gives NaN: read its last entry
        rank = rank.masked_fill(nans > 0, float(n - 1))
    if interpolation == "lower":
        rank = rank.floor()
    elif interpolation == "higher":
        rank = rank.ceil()
    elif interpolation == "nearest":
        rank = rank.round()
    low = rank.detach().to(dt.int64)
    out = v.gather(1, low)
    if interpolation in ("linear", "midpoint"):
        weight = rank - low.to(rank.meta.dtype)
        if interpolation == "midpoint":
            weight = weight * 0 + 0.5
        high = v.gather(1, rank.detach().ceil().to(dt.int64))
        out = out.lerp(high, weight)
    out = out.t()
    return out.reshape(lead) if not q.meta.ndim else out.reshape((q.meta.numel, *lead))


@composite(replay=True, method=True, samples="""
    f(2, 5), 0.3
    f(5, 3).transposed, 0.5, 0, True
    f(4, 3), v([0.0, 0.25, 1]), 1
    f(7), 0.4, interpolation="lower"
    f(7), 0.4, interpolation="higher"
    f(7), 0.41, interpolation="nearest"
    f(7), 0.4, 0, interpolation="midpoint"
    v([[1.0, nan, 2], [3, 1, 2]]), 0.5, 1
""")
def quantile(input, q, dim=None, keepdim=False, *, interpolation="linear"):
    """The q-th quantiles (0 to 1) of a dim or of all elements; NaN where there is a NaN."""
    return _quantile(input, q, dim, keepdim, interpolation, False, "quantile")


@composite(replay=True, method=True, samples="""
    f(2, 5), 0.3
    f(5, 3).transposed, 0.5, 0, True
    v([[1.0, nan, 2], [3, 1, 2]]), v([0.5, 0.9]), 1
""")
def nanquantile(input, q, dim=None, keepdim=False, *, interpolation="linear"):
    """`quantile` of what is not NaN."""
    return _quantile(input, q, dim, keepdim, interpolation, True, "nanquantile")
