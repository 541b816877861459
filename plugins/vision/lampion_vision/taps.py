"""Sums over a few pixels: what poolings of regions and deformable convolutions are made of.

A result is a weighted sum over a small grid of pixels, rows times columns. Which ones and with what
weights are tensors, *taps*: indices of rows, indices of columns (-1: no pixel), and weights.

- `tap_sum`     pixels and weights to results,
- `tap_spread`  its transpose in the pixels: results added to the pixels they come from, in order,
- `tap_dots`    its transpose in the weights: a number for each pair of a row and a column.

Each is linear in what it takes, and the derivatives of one are the other two, so that there are
derivatives of any order. Imports lampion's kernel builder.
"""

from __future__ import annotations

import itertools

import lampion
from lampion.base import dtype as dt
from lampion.ir import expr as E
from lampion.ops import checks
from lampion.ops.registry import Attr, Scalar
from lampion.runtime.lowering import Nest, convert

from . import references as ref
from .declare import elementwise, kernel_op

UNROLL = 16  # up to this many pixels, a result is one expression instead of a loop
INDEX = lampion.int32


# ---------------------------------------------------------------- linear interpolation

@elementwise(kinds="f", noutputs=2, promote=lambda d, attrs: [INDEX, d],
             domain={"position": (0.1, 2.9), "corner": (0, 1), "size": (4, 4)},
             reference=ref.linear_tap)
def linear_tap(position, corner, size: Scalar, border: Attr = False):
    """(index, weight) of one of the two pixels that linear interpolation at `position` reads:
    `corner` 0 or 1, along a dim of `size` pixels.

    Pixels outside are 0; with `border`, positions up to 1 outside count as those at the border.
    """
    if border:
        inside = (position >= -1) & (position <= size)
        place = E.minimum(E.maximum(position, 0.0), size - 1)
    else:
        inside, place = (position > -1) & (position < size), position
    low = E.floor(place)
    index = low + corner
    inside = inside & (index >= 0) & (index <= size - 1)
    beyond = place - low
    weight = E.select(corner > 0.5, beyond, 1 - beyond)
    lost = E.select(E.ne(position, position), position, 0.0)  # NaN gives NaN, outside gives 0
    return E.select(inside, index, -1.0), E.select(inside, weight, lost)


def linear_taps(position, size, border=False):
    """(index, weight) tensors of shape (*position, 2)."""
    corner = lampion.arange(2, dtype=position.dtype, device=position.device)
    corner = corner.reshape(2, *(1,) * position.ndim)
    index, weight = linear_tap(position, corner, float(size), border=border)
    return index.movedim(0, -1), weight.movedim(0, -1)


# ---------------------------------------------------------------- the kernels

RESULT = ("region", "group", "channel", "row", "column")
TAPS = ("region", "group", "row", "column", "ty", "tx")


class Geometry:
    """A nest over the dims `own` of a grid and the loops `inner`, with addresses in tensors whose
    dims go by these names; dims of size 1 broadcast."""

    def __init__(self, name, call, pixels, own, inner, acc):
        size = sizes(pixels.shape, call.ys, call.xs)
        self.dims, self.acc, self.pixels = [*own, *inner], acc, pixels
        self.n = Nest(name, [size[d] for d in self.dims],
                      range(len(own), len(self.dims)), compute=acc, merge=False)
        self.taps = list(itertools.product(range(size["ty"]), range(size["tx"])))
        self.tables = {}

    def strides(self, m, names):
        """Strides of a tensor with dims `names` over the nest."""
        at = {d: s for d, s, size in zip(names, m.strides, m.shape) if size != 1}
        return [at.get(d, 0) for d in self.dims]

    def buffer(self, name, m, names):
        """An input that is read tap by tap; None is left out."""
        if m is not None:
            self.tables[name] = (self.n.buffer(m), m, names)

    def places(self, call):
        """The inputs that say which pixels there are."""
        self.buffer("images", call.images, RESULT)
        self.buffer("ys", call.ys, TAPS)
        self.buffer("xs", call.xs, (*TAPS[:4], "tx"))

    def coords(self, tap=None):
        """The loop variables by name; those of the taps are constants if a tap is given."""
        at = {d: self.n.coord(k) for k, d in enumerate(self.dims)}
        if tap is not None:
            at["ty"], at["tx"] = (E.const(t, dt.int64) for t in tap)
        return at

    def read(self, name, at):
        """The element of an input at the coordinates."""
        buffer, m, names = self.tables[name]
        where = E.const(0, dt.int64)
        for d, s, size in zip(names, m.strides, m.shape):
            if size != 1:
                where = where + at[d] * self.n.params.stride(s)
        return buffer.at(where)

    def pixel(self, at):
        """(address of the pixel of a tap, whether there is one)."""
        n, m = self.n, self.pixels
        y, x = (E.cast(self.read(k, at), dt.int64) for k in ("ys", "xs"))
        inside = (y >= n.of(0)) & (y < n.of(m.shape[5])) & (x >= n.of(0)) & (x < n.of(m.shape[6]))
        image = at["region"]
        if "images" in self.tables:
            image = checks.clamped(self.read("images", at), n.of(m.shape[0]))
        where = (image * n.params.stride(m.strides[0]) + y * n.params.stride(m.strides[5])
                 + x * n.params.stride(m.strides[6]))
        for d, s, size in zip(RESULT[1:], m.strides[1:5], m.shape[1:5]):
            if size != 1:
                where = where + at[d] * n.params.stride(s)
        return where, n.typed(inside)

    def value(self, e):
        """An expression in the type that sums are taken in."""
        return convert(self.n.typed(e), self.acc)


def sizes(pixels, ys, xs):
    """The size of every dim of a nest."""
    region, _, row, column = (max(a, b) for a, b in zip(ys.shape, xs.shape[:4]))
    return {"region": region, "group": pixels[1], "channel": pixels[2], "row": row,
            "column": column, "ty": ys.shape[4], "tx": xs.shape[4]}


def check(op, pixels, images, ys, xs, weights=None):
    """The shape (region, group, channel, row, column) of results; RuntimeError for shapes that do
    not fit."""
    def fits(shape, names):
        return len(shape) == len(names) and all(n in (1, s[d]) for n, d in zip(shape, names))

    s = {}
    if len(pixels) == 7 and ys.ndim == 5 and xs.ndim == 5:
        s = sizes(pixels, ys, xs)
    if not s or not (
            fits(pixels[1:5], RESULT[1:]) and fits(ys.shape, TAPS[:5])
            and fits(xs.shape, (*TAPS[:4], "tx"))
            and (weights is None or fits(weights.shape, TAPS))
            and (pixels[0] == s["region"] if images is None
                 else images.shape == (s["region"],))):
        given = {"images": images, "ys": ys, "xs": xs, "weights": weights}
        raise RuntimeError(
            f"{op}: pixels (image, group, channel, row, column, height, width) of shape "
            f"{list(pixels)} do not fit " + ", ".join(
                f"{k} {list(m.shape)}" for k, m in given.items() if m is not None)
            + "; see the docstring of tap_sum")
    if images is not None and s["region"]:
        checks.index_dtype(images, op)
        checks.refuse_empty(pixels[0], images, 0, f"{op}: ")
    return tuple(s[d] for d in RESULT)


def check_amounts(op, amounts, due):
    """RuntimeError unless there is one for each result."""
    if amounts.shape != due:
        raise RuntimeError(f"{op}: expected amounts of shape {list(due)}, got "
                           f"{list(amounts.shape)}")


def range_of_images(slot):
    """What the checks of indices look at: `images` is input number `slot`."""
    def ranges(call):
        pixels = call.args.get("pixels")
        shape = call.args["shape"] if pixels is None else pixels.shape
        return [] if call.args["images"] is None else [(slot, 0, shape[0], 0)]

    return ranges


def explained(op, slot):
    """The `explain` of an op that looks at images; the error names `caller`, if there is one."""
    def explain(call, inputs):
        name = call.args.get("caller", op)
        checks.explain_by(range_of_images(slot), "{op}a region is of image {index}, but there are "
                          "{size} images", f"{name}: ")(call, inputs)

    return explain


@kernel_op("pixels: T, images: T?, ys: T, xs: T, weights: T, caller='tap_sum'")
class tap_sum:
    """Weighted sums of pixels (image, group, channel, row or 1, column or 1, height, width), as
    (region, group, channel, row, column).

    `ys` (region, group, row, column, ty) and `xs` (..., tx) are indices of pixels, -1 for none;
    `weights` are (region, group, row, column, ty, tx). Any of their dims but the taps may be 1.
    `images` (region) says where each region is; without it, region r is in image r. IndexError for
    an image that there is not, which names `caller`.
    """

    linear = ("pixels", "weights")
    save = ("pixels", "images", "ys", "xs", "weights")
    explain = explained("tap_sum", 1)
    reference = ref.tap_sum
    samples = """
        f(2, 1, 3, 1, 1, 4, 5), v([1, 0, 1]), i(3, 1, 2, 1, 2, low=-1, high=3, dtype=int32), (
            i(3, 1, 1, 3, 2, low=-1, high=4, dtype=int32)), f(3, 1, 2, 3, 2, 2)
        f(2, 2, 2, 1, 1, 3, 4).transposed, None, i(2, 2, 2, 3, 2, low=-1, high=2), (
            i(2, 2, 2, 3, 2, low=0, high=3)), f(2, 2, 2, 3, 2, 2).transposed
        f(1, 1, 2, 2, 2, 3, 3), v([0, 0]), i(2, 1, 2, 1, 5, low=0, high=2), (
            i(2, 1, 1, 2, 4, low=0, high=2)), f(2, 1, 1, 1, 5, 4)
        f(2, 1, 1, 1, 1, 2, 2), i(0), i(0, 1, 1, 1, 2), i(0, 1, 1, 1, 2), f(0, 1, 1, 1, 2, 2)
    """

    def meta(pixels, images, ys, xs, weights, caller):
        return [(pixels.dtype, check(caller, pixels.shape, images, ys, xs, weights))]

    def lower(call):
        x, w, out = call.pixels, call.weights, call.outputs[0]
        few = call.ys.shape[4] * call.xs.shape[4] <= UNROLL
        g = Geometry("tap_sum", call, x, RESULT, () if few else ("ty", "tx"),
                     dt.opmath(out.dtype))
        n = g.n
        o, v = n.output(out, g.strides(out, RESULT)), n.buffer(x)
        g.places(call)
        g.buffer("weights", w, TAPS)
        n.start()

        def term(at):
            where, inside = g.pixel(at)
            return g.value(v.at(where, mask=inside)) * g.value(g.read("weights", at))

        if few:
            total = sum((term(g.coords(tap)) for tap in g.taps), start=E.const(0))
        else:
            total = n.reduce("sum", term(g.coords()))
        n.store(o, total, inner=False)
        return checks.checked(call, [n.call()], range_of_images(1)(call))

    def vjp(ctx, g):
        where = (ctx.images, ctx.ys, ctx.xs)
        gx = gw = None
        if ctx.needs("pixels"):
            gx = tap_spread(g, *where, ctx.weights, tuple(ctx.meta("pixels").shape))
        if ctx.needs("weights"):
            gw = like(tap_dots(ctx.pixels, g, *where), ctx.meta("weights"))
        return gx, None, None, None, gw


def like(g, m):
    """A gradient with the shape and dtype of what was broadcast and converted."""
    return g.sum_to_size(m.shape).to(m.dtype)


@kernel_op("amounts: T, images: T?, ys: T, xs: T, weights: T, shape")
class tap_spread:
    """Zeros of `shape` with every amount added to the pixels that `tap_sum` would read for it,
    times their weights. The order is fixed: the same sums every time, on every device."""

    linear = ("amounts", "weights")
    save = ("amounts", "images", "ys", "xs", "weights")
    explain = explained("tap_spread", 1)
    reference = ref.tap_spread
    samples = """
        f(3, 1, 3, 2, 3), v([1, 0, 1]), i(3, 1, 2, 1, 2, low=-1, high=3, dtype=int32), (
            i(3, 1, 1, 3, 2, low=-1, high=4, dtype=int32)), f(3, 1, 2, 3, 2, 2), (
            2, 1, 3, 1, 1, 4, 5)
        f(2, 2, 2, 2, 3).transposed, None, i(2, 2, 2, 3, 2, low=-1, high=2), (
            i(2, 2, 2, 3, 2, low=0, high=3)), f(2, 2, 2, 3, 2, 2), (2, 2, 2, 1, 1, 3, 4)
        f(2, 1, 2, 2, 2), v([0, 0]), i(2, 1, 2, 1, 5, low=0, high=2), (
            i(2, 1, 1, 2, 4, low=0, high=2)), f(2, 1, 1, 1, 5, 4), (1, 1, 2, 2, 2, 3, 3)
    """

    def meta(amounts, images, ys, xs, weights, shape):
        check_amounts("tap_spread", amounts, check("tap_spread", shape, images, ys, xs, weights))
        return [(amounts.dtype, shape)]

    def lower(call):
        out, v = call.outputs[0], call.amounts
        # a point of the grid owns what it writes: the dims that pixels have are outside the loops
        own = ["group", "channel", *(["region"] if call.images is None else []),
               *[d for d, size in zip(("row", "column"), out.shape[3:5]) if size != 1]]
        inner = [d for d in (*RESULT, "ty", "tx") if d not in own]
        g = Geometry("tap_spread", call, out, own, inner, dt.opmath(out.dtype))
        n = g.n
        o, a = n.output(out, (0,) * len(g.dims), kind="inout"), n.input(v, g.strides(v, RESULT))
        g.places(call)
        g.buffer("weights", call.weights, TAPS)
        n.start()
        at = g.coords()
        where, inside = g.pixel(at)
        n.scatter(o, where, "sum", g.value(a()) * g.value(g.read("weights", at)), mask=inside)
        return checks.checked(call, [zeros(out), n.call()], range_of_images(1)(call))

    def vjp(ctx, g):
        where = (ctx.images, ctx.ys, ctx.xs)
        gv = tap_sum(g, *where, ctx.weights) if ctx.needs("amounts") else None
        gw = None
        if ctx.needs("weights"):
            gw = like(tap_dots(g, ctx.amounts, *where), ctx.meta("weights"))
        return gv, None, None, None, gw


def zeros(m):
    """The kernel call that fills the output with zeros."""
    n = Nest("tap_zeros", m.shape, compute=m.dtype)
    o = n.output(m, m.strides)
    n.start()
    n.store(o, E.cast(E.const(0), m.dtype))
    return n.call((0,))


@kernel_op("pixels: T, amounts: T, images: T?, ys: T, xs: T")
class tap_dots:
    """The product of each amount (region, group, channel, row, column) with each of its pixels,
    summed over the channels: (region, group, row, column, ty, tx). Arguments as in `tap_sum`."""

    linear = ("pixels", "amounts")
    save = ("pixels", "amounts", "images", "ys", "xs")
    explain = explained("tap_dots", 2)
    reference = ref.tap_dots
    samples = """
        f(2, 1, 3, 1, 1, 4, 5), f(3, 1, 3, 2, 3), v([1, 0, 1]), (
            i(3, 1, 2, 1, 2, low=-1, high=3, dtype=int32)), i(3, 1, 1, 3, 2, low=-1, high=4)
        f(2, 2, 2, 1, 1, 3, 4), f(2, 2, 2, 2, 3).transposed, None, (
            i(2, 2, 2, 3, 2, low=-1, high=2)), i(2, 2, 2, 3, 2, low=0, high=3)
    """

    def meta(pixels, amounts, images, ys, xs):
        due = check("tap_dots", pixels.shape, images, ys, xs)
        check_amounts("tap_dots", amounts, due)
        return [(amounts.dtype, (due[0], due[1], due[3], due[4], ys.shape[4], xs.shape[4]))]

    def lower(call):
        x, v, out = call.pixels, call.amounts, call.outputs[0]
        g = Geometry("tap_dots", call, x, TAPS, ("channel",), dt.opmath(out.dtype))
        n = g.n
        o, a = n.output(out, g.strides(out, TAPS)), n.buffer(x)
        b = n.input(v, g.strides(v, RESULT))
        g.places(call)
        n.start()
        where, inside = g.pixel(g.coords())
        n.store(o, n.reduce("sum", g.value(a.at(where, mask=inside)) * g.value(b())), inner=False)
        return checks.checked(call, [n.call()], range_of_images(2)(call))

    def vjp(ctx, g):
        where = (ctx.images, ctx.ys, ctx.xs)
        gx = gv = None
        if ctx.needs("pixels"):
            gx = tap_spread(ctx.amounts, *where, g, tuple(ctx.meta("pixels").shape))
        if ctx.needs("amounts"):
            gv = tap_sum(ctx.pixels, *where, g)
        return gx, gv, None, None, None
