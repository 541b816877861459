"""Sliding windows over space dims: the kernels behind all poolings.

Floor 3. A window rule per space dim says which input positions belong to an output position:
("fixed", kernel, stride, padding, dilation) or ("adaptive",), PyTorch's even split. The kernels
work on (*lead, *space) with any number of lead dims. Gradients never add concurrently: either an
input position looks at the windows that hold it, or a plane adds its windows in order. So results
are deterministic.
"""

from __future__ import annotations

import itertools
import math

from ..base import dtype as dt
from ..base.meta import meta
from ..ir import expr as E
from ..ir.kernel import Program
from ..runtime.lowering import Nest, collapse, convert
from .conv import result_strides
from .region import fill_call
from .registry import kernel_op

UNROLL = 32  # windows up to this size are written out instead of looped over
SCATTER_PLANES = 32  # from here on planes are enough parallel work for one point each


def _int(n):
    return E.const(n, dt.int64)


def _over(e, n):
    """e / n, rounded down, for e >= 0: a shift where n is a power of two (vectors have no 64-bit
    division)."""
    if n == 1:
        return e
    return e >> _int(n.bit_length() - 1) if n & (n - 1) == 0 else E.idiv(e, _int(n))


class Fixed:
    """A window rule along one dim of `space` inputs and `size` outputs."""

    def __init__(self, rule, space, size):
        _, self.kernel, self.stride, self.pad, self.dilation = rule
        self.space, self.size = space, size
        self.span = self.kernel
        self.dense = self.dilation == 1
        # how many windows may hold one input position
        self.back_span = -(-self.kernel // self.stride) if self.dense else self.kernel
        last = (size - 1) * self.stride + (self.kernel - 1) * self.dilation - self.pad
        self.inside = self.pad == 0 and last < space

    def start(self, o):
        """First position of window `o` (before clipping)."""
        return o * _int(self.stride) - _int(self.pad)

    def at(self, o, k):
        """(position of element `k` of window `o`, mask or None)."""
        p = self.start(o) + k * _int(self.dilation)
        return p, None if self.inside else (p >= _int(0)) & (p < _int(self.space))

    def first(self, o):
        """The first position of window `o` that is inside."""
        p = self.start(o)
        if not self.pad:
            return p
        d = self.dilation
        steps = _over(E.maximum(_int(0) - p, _int(0)) + _int(d - 1), d)
        return p + steps * _int(d)

    def back(self, i, j):
        """(window, mask, element number in it) of the j-th candidate window for position `i`."""
        t = i + _int(self.pad)
        if self.dense:
            o = _over(t, self.stride) - j
            k = t - o * _int(self.stride)
            mask = (o >= _int(0)) & (o < _int(self.size))
            if self.kernel % self.stride or self.kernel < self.stride:
                mask = mask & (k < _int(self.kernel))
            return o, mask, k
        rest = t - j * _int(self.dilation)
        o = _over(E.maximum(rest, _int(0)), self.stride)
        mask = (rest >= _int(0)) & E.eq(rest, o * _int(self.stride)) & (o < _int(self.size))
        return o, mask, j

    def count(self, o, padded):
        """How many positions window `o` has, those in the padding included or not."""
        if self.inside:
            return _int(self.kernel)
        start = self.start(o)
        end = start + _int(self.kernel)
        if padded:
            return E.minimum(end, _int(self.space + self.pad)) - start
        return E.minimum(end, _int(self.space)) - E.maximum(start, _int(0))


class Adaptive:
    """Window o of `size` covers [floor(o n / size), ceil((o + 1) n / size)) of n positions."""

    def __init__(self, rule, space, size):
        self.space, self.size = space, size
        ends = [(o * space // size, -(-(o + 1) * space // size)) for o in range(size)]
        self.span = max((b - a for a, b in ends), default=0)
        back = [(i * size // space, -(-(i + 1) * size // space)) for i in range(space)]
        self.back_span = max((b - a for a, b in back), default=0)
        self.inside = all(b - a == self.span for a, b in ends)

    def start(self, o):
        return E.idiv(o * _int(self.space), _int(self.size))

    first = start

    def _end(self, o):
        return E.idiv((o + _int(1)) * _int(self.space) + _int(self.size - 1), _int(self.size))

    def at(self, o, k):
        p = self.start(o) + k
        return p, None if self.inside else p < self._end(o)

    def back(self, i, j):
        o = E.idiv(i * _int(self.size), _int(self.space)) + j
        return o, o * _int(self.space) < (i + _int(1)) * _int(self.size), i - self.start(o)

    def count(self, o, padded):
        return self._end(o) - self.start(o)


def rules(windows, space, size):
    """The rule objects of all space dims."""
    kinds = {"fixed": Fixed, "adaptive": Adaptive}
    return [kinds[w[0]](w, n, o) for w, n, o in zip(windows, space, size)]


class _Geometry:
    """A nest over (lead, positions) with hand-made addresses on the other side.

    `backward` nests run over input positions and look at windows; forward ones the reverse.
    """

    def __init__(self, name, space_meta, near, far, windows, acc, *, backward):
        rank = len(windows)
        self.rank = rank
        here = near[0].shape
        lead = len(here) - rank
        sizes, rows = collapse(here[:lead], [m.strides[:lead] for m in (*near, *far)])
        space = space_meta[0]
        self.rules = rules(windows, space, space_meta[1])
        spans = [(r.back_span if backward else r.span) for r in self.rules]
        self.unrolled = math.prod(spans) <= UNROLL
        self.spans = spans
        shape = (*sizes, *here[lead:], *(() if self.unrolled else spans))
        self.nlead = len(sizes)
        grid = self.nlead + rank
        self.n = Nest(name, shape, range(grid, len(shape)), compute=acc, merge=False)
        pad = (0,) * (len(shape) - grid)
        self.near = [(*row, *m.strides[lead:], *pad) for m, row in zip(near, rows)]
        self.far = [(row, m.strides[lead:]) for m, row in zip(far, rows[len(near):])]
        self.backward = backward

    def here(self):
        """Coordinates of the space dims of the grid."""
        return [self.n.coord(self.nlead + r) for r in range(self.rank)]

    def address(self, k, spots):
        """Element offset in far operand `k` at space positions `spots`."""
        row, steps = self.far[k]
        total = _int(0)
        for d, s in enumerate(row):
            total = total + self.n.coord(d) * _int(s)
        for spot, s in zip(spots, steps):
            total = total + spot * _int(s)
        return total

    def elements(self):
        """Tuples of element numbers: constants if unrolled, else the loop variables once."""
        if self.unrolled:
            return [tuple(map(_int, k)) for k in itertools.product(*map(range, self.spans))]
        first = self.nlead + self.rank
        return [tuple(self.n.coord(first + r) for r in range(self.rank))]

    def visit(self, ks):
        """(positions on the far side, mask or None, local element number) of one element."""
        spots, mask, local = [], None, _int(0)
        for r, rule in enumerate(self.rules):
            o = self.here()[r]
            if self.backward:
                spot, ok, k = rule.back(o, ks[r])
            else:
                (spot, ok), k = rule.at(o, ks[r]), ks[r]
            spots.append(spot)
            local = local * _int(rule.span) + k
            if ok is not None:
                mask = ok if mask is None else mask & ok
        return spots, mask, local


def _lowest(d):
    if d.kind == "f":
        return -math.inf
    return 0 if d.kind in "bu" else -(1 << (8 * d.itemsize - 1))


def _read(operand, index, mask, other):
    return operand.at(index) if mask is None else operand.at(index, mask=mask, other=other)


def _spaces(m, windows):
    return m.shape[m.ndim - len(windows):]


def _numbers_dtype(windows_rules):
    """The dtype of an element number within a window."""
    return dt.uint8 if math.prod(r.span for r in windows_rules) <= 256 else dt.int32


def max_call(name, x, out, windows, slots, *, index=None, values=True, pick=None):
    """The kernel call that finds the maximum of every window.

    Writes the values to `out`, if `values`; the flat position ("flat") or element number
    ("local") to the meta in `index[1]`; or instead of the value that of `pick` at the maximum.
    """
    results = ([out] if values else []) + ([index[1]] if index is not None else [])
    sources = [x] + ([pick] if pick is not None else [])
    space = _spaces(x, windows)
    g = _Geometry(name, (space, _spaces(results[0], windows)), results, sources, windows,
                  dt.opmath(x.dtype), backward=False)
    n = g.n
    outs = [n.output(m, s) for m, s in zip(results, g.near)]
    ins = [n.buffer(m) for m in sources]
    n.start()
    kind = "pick" if pick is not None else index[0] if index is not None else None
    best, at = (_unrolled_max if g.unrolled else _looped_max)(g, ins[0], _lowest(x.dtype), kind)
    if pick is not None:
        n.store(outs[0], n.typed(ins[1].at(g.address(1, at))), inner=False)
    elif values:
        n.store(outs[0], best, inner=False)
    if index is not None:
        n.store(outs[-1], at, inner=False)
    return n.call(slots)


def _flat(spots, space):
    total = _int(0)
    for p, size in zip(spots, space):
        total = total * _int(size) + p
    return total


def _unflat(at, space):
    spots = []
    for size in reversed(space):
        rest = _over(at, size)
        spots.append(at - rest * _int(size))
        at = rest
    return spots[::-1]


def _unrolled_max(g, x, low, kind):
    """(maximum, where) by comparing one element after the other: of equal ones the first wins, of
    NaNs the last, as in PyTorch. An all -inf window points at its first element inside.

    What is chosen along the way are small constants: the distance from the window's start.
    """
    best = at = None
    space = [r.space for r in g.rules]
    for ks in g.elements():
        spots, mask, local = g.visit(ks)
        v = _read(x, g.address(0, spots), mask, low)
        if kind is None:
            best = v if best is None else E.maximum(best, v)
            continue
        steps = [k.value * getattr(r, "dilation", 1) for k, r in zip(ks, g.rules)]
        far = local.value if kind == "local" else _flat([_int(k) for k in steps], space).value
        here = E.const(far, dt.int32)
        if best is None:
            best, at = v, here
            starts = [r.start(o) for r, o in zip(g.rules, g.here())]
            if kind != "local" and any(getattr(r, "pad", 0) for r in g.rules):
                first = [r.first(o) for r, o in zip(g.rules, g.here())]
                at = E.cast(_flat(first, space) - _flat(starts, space), dt.int32)
            continue
        take = (v > best) | E.isnan(v) if low == -math.inf else v > best
        best, at = E.select(take, v, best), E.select(take, here, at)
    if kind in (None, "local"):
        return best, at
    at = _flat(starts, space) + E.cast(at, dt.int64)
    return best, at if kind == "flat" else _unflat(at, space)


def _looped_max(g, x, low, kind):
    spots, mask, local = g.visit(g.elements()[0])
    v = _read(x, g.address(0, spots), mask, low)
    if kind is None:
        return g.n.reduce("max", v), None
    space = [r.space for r in g.rules]
    inside = [E.minimum(E.maximum(p, _int(0)), _int(n - 1)) for p, n in zip(spots, space)]
    best, at = g.n.arg_reduce("max", v, local if kind == "local" else _flat(inside, space))
    return best, _unflat(at, space) if kind == "pick" else at


@kernel_op("input: T, windows, size")
class window_max:
    """The maximum of every window."""

    where = ()
    out = False
    save = ("input",)
    batch = ""

    def meta(input, windows, size):
        shape = (*input.shape[:input.ndim - len(size)], *size)
        return [(input.dtype, shape, result_strides(shape, input))]

    def lower(call):
        return Program((max_call("window_max", call.input, call.outputs[0], call.windows, (0, 1)),))

    def vjp(ctx, g):
        return (window_max_backward.fn(g, ctx.input, ctx.windows),)


@kernel_op("input: T, windows, size")
class window_max_index:
    """The maximum of every window and its position in the flattened space (int64)."""

    where = ()
    out = False
    noutputs = 2
    diff_outputs = 1
    save = ("input",)
    batch = ""

    def meta(input, windows, size):
        shape = (*input.shape[:input.ndim - len(size)], *size)
        strides = result_strides(shape, input)
        return [(input.dtype, shape, strides), (dt.int64, shape, strides)]

    def lower(call):
        return Program((max_call("window_max_index", call.input, call.outputs[0], call.windows,
                                 (0, 1, 2), index=("flat", call.outputs[1])),))

    def vjp(ctx, g):
        return (window_max_backward.fn(g, ctx.input, ctx.windows),)


@kernel_op("source: T, input: T, windows, size")
class window_max_pick:
    """`source` at the maxima of `input`'s windows (both have one shape)."""

    linear = ("source",)
    where = ()
    out = False
    save = ("input",)
    batch = ""

    def meta(source, input, windows, size):
        shape = (*input.shape[:input.ndim - len(size)], *size)
        return [(source.dtype, shape, result_strides(shape, input))]

    def lower(call):
        return Program((max_call("window_max_pick", call.input, call.outputs[0], call.windows,
                                 (0, 2, 1), pick=call.source),))

    def vjp(ctx, g):
        return window_max_backward.fn(g, ctx.input, ctx.windows), None


@kernel_op("grad: T, input: T, windows")
class window_max_backward:
    """Gradient of `window_max`: each input position gets the gradients of the windows whose first
    maximum it is."""

    linear = ("grad",)
    where = ()
    out = False
    save = ("input",)
    batch = ""

    def meta(grad, input, windows):
        return [(grad.dtype, input.shape, result_strides(input.shape, input))]

    def lower(call):
        g, x, out = call.grad, call.input, call.outputs[0]
        planes = math.prod(x.shape[:x.ndim - len(call.windows)])
        fits = out.dtype.itemsize >= 4 and math.prod(_spaces(x, call.windows)) < 1 << 31
        if planes >= SCATTER_PLANES and fits:  # 16-bit floats are added in float32
            return scatter_back(call, g, x, out)
        return gather_back(call, g, x, out)

    def vjp(ctx, g):
        x = ctx.input
        size = _spaces(ctx.meta("grad"), ctx.windows)
        return window_max_pick.fn(g, x, ctx.windows, size), None


def scatter_back(call, g, x, out):
    """Every plane of the space adds its windows' gradients one after the other."""
    windows, acc = call.windows, dt.opmath(out.dtype)
    rank, space = len(windows), _spaces(x, windows)
    spots = meta(dt.int32, g.shape, None, g.device)
    first = max_call("window_max_spot", x, None, windows, (3, 2), values=False,
                     index=("flat", spots))
    lead = g.ndim - rank
    sizes, (ro, rg, ri) = collapse(g.shape[:lead], [m.strides[:lead] for m in (out, g, spots)])
    n = Nest("window_max_scatter", (*sizes, *g.shape[lead:]), range(len(sizes), len(sizes) + rank),
             compute=acc, merge=False)
    o = n.output(out, None)
    a = n.input(g, (*rg, *g.strides[lead:]))
    b = n.input(spots, (*ri, *spots.strides[lead:]))
    n.start()
    base = _int(0)
    for d, s in enumerate(ro):
        base = base + n.coord(d) * _int(s)
    target = _int(0)
    for p, s in zip(_unflat(E.cast(b(), dt.int64), space), out.strides[lead:]):
        target = target + p * _int(s)
    if out.contiguous:
        target = E.cast(b(), dt.int64)
    n.scatter(o, base + target, "sum", a())
    fill = fill_call(out, 0)
    return Program((first, fill, n.call((0, 1, 3))), (spots.nbytes,))


def gather_back(call, g, x, out):
    """Every input position adds the gradients of the windows that chose it."""
    windows, acc = call.windows, dt.opmath(out.dtype)
    space, size = _spaces(x, windows), _spaces(g, windows)
    numbers = meta(_numbers_dtype(rules(windows, space, size)), g.shape, None, g.device)
    first = max_call("window_max_number", x, None, windows, (3, 2), values=False,
                     index=("local", numbers))
    geo = _Geometry("window_max_backward", (space, size), [out], [g, numbers], windows, acc,
                    backward=True)
    n = geo.n
    o = n.output(out, geo.near[0])
    a, b = n.buffer(g), n.buffer(numbers)
    n.start()

    def term(ks):
        spots, mask, local = geo.visit(ks)
        number = E.cast(b.at(geo.address(1, spots), mask=mask, other=0), dt.int64)
        held = mask & E.eq(number, local)
        return a.at(geo.address(0, spots), mask=held, other=0)

    _store_sum(geo, o, term, acc)
    return Program((first, n.call((0, 1, 3))), (numbers.nbytes,))


def _store_sum(geo, out, term, acc):
    """Store the sum of a term over a geometry's elements."""
    if not geo.unrolled:
        total = geo.n.reduce("sum", convert(geo.n.typed(term(geo.elements()[0])), acc))
    else:
        total = None
        for ks in geo.elements():
            v = term(ks)
            total = v if total is None else total + v
    geo.n.store(out, total, inner=False)


def _divisor(geo, spots, divisor, acc):
    """What the sum of the window at output positions `spots` is divided by."""
    if isinstance(divisor, int):
        return E.const(float(divisor) if acc.kind == "f" else divisor, acc)
    total = _int(1)
    for rule, o in zip(geo.rules, spots):
        total = total * rule.count(o, divisor == "padded")
    if E.is_const(total):
        return E.const(float(total.value) if acc.kind == "f" else total.value, acc)
    # an empty window divides 0: by 1 then
    return E.cast(E.maximum(total, _int(1)), acc)


def _divide(value, by, acc):
    return value / by if acc.kind == "f" else E.idiv(value, by)


@kernel_op("input: T, windows, size, divisor")
class window_mean:
    """The sum of every window over a divisor: an integer, "padded" (its positions, those in the
    padding included) or "inside" (only those inside)."""

    linear = ("input",)
    where = ()
    out = False
    batch = ""

    def meta(input, windows, size, divisor):
        shape = (*input.shape[:input.ndim - len(size)], *size)
        return [(input.dtype, shape, result_strides(shape, input))]

    def lower(call):
        x, out = call.input, call.outputs[0]
        acc = dt.opmath(out.dtype)
        geo = _Geometry("window_mean", (_spaces(x, call.windows), call.size), [out], [x],
                        call.windows, acc, backward=False)
        n = geo.n
        o, a = n.output(out, geo.near[0]), n.buffer(x)
        n.start()

        def term(ks):
            spots, mask, _ = geo.visit(ks)
            return _read(a, geo.address(0, spots), mask, 0)

        by = _divisor(geo, geo.here(), call.divisor, acc)
        if geo.unrolled:
            total = None
            for ks in geo.elements():
                v = term(ks)
                total = v if total is None else total + v
        else:
            total = n.reduce("sum", convert(n.typed(term(geo.elements()[0])), acc))
        n.store(o, _divide(total, by, acc), inner=False)
        return n.program()

    def vjp(ctx, g):
        m = ctx.meta("input")
        return (window_mean_backward.fn(g, ctx.windows, _spaces(m, ctx.windows), ctx.divisor),)


@kernel_op("grad: T, windows, space, divisor")
class window_mean_backward:
    """Gradient of `window_mean` for an input of this space."""

    linear = ("grad",)
    where = ()
    out = False
    batch = ""

    def meta(grad, windows, space, divisor):
        shape = (*grad.shape[:grad.ndim - len(space)], *space)
        return [(grad.dtype, shape, result_strides(shape, grad))]

    def lower(call):
        g, out = call.grad, call.outputs[0]
        acc = dt.opmath(out.dtype)
        geo = _Geometry("window_mean_backward", (call.space, _spaces(g, call.windows)), [out], [g],
                        call.windows, acc, backward=True)
        n = geo.n
        o, a = n.output(out, geo.near[0]), n.buffer(g)
        n.start()

        def term(ks):
            spots, mask, _ = geo.visit(ks)
            v = a.at(geo.address(0, spots), mask=mask, other=0)
            return _divide(v, _divisor(geo, spots, call.divisor, acc), acc)

        _store_sum(geo, o, term, acc)
        return n.program()

    def vjp(ctx, g):
        size = _spaces(ctx.meta("grad"), ctx.windows)
        return (window_mean.fn(g, ctx.windows, size, ctx.divisor),)
