"""Poolings of regions of images: roi_align, roi_pool, and their position-sensitive forms.

Averages are sums over taps (see `taps`); what the boxes decide is worked out as small tensors.
Boxes have no gradient, as in torchvision. Imports taps.
"""

from __future__ import annotations

import numpy as np

import lampion
from lampion.base import dtype as dt
from lampion.ir import expr as E
from lampion.ops import checks
from lampion.ops.registry import Scalar
from lampion.runtime.lowering import Nest

from . import references as ref
from .declare import composite, elementwise, kernel_op
from .taps import INDEX, explained, linear_taps, range_of_images, tap_sum

LARGEST = 1 << 20  # pixels along a side of a box, before an accident is the likelier explanation


# ---------------------------------------------------------------- arguments

def regions(op, input, boxes, output_size):
    """(images (K) int64, boxes (K, 4), (height, width) of the output), checked."""
    if input.ndim != 4 or not input.is_floating_point():
        raise RuntimeError(f"{op}: expected a floating input of shape (N, C, H, W), got "
                           f"{input.dtype} {list(input.shape)}")
    if isinstance(boxes, (list, tuple)):
        for k, b in enumerate(boxes):
            if b.ndim != 2 or b.shape[1] != 4:
                raise ValueError(f"{op}: a list of boxes has a Tensor[L, 4] for each image, but "
                                 f"number {k} is of shape {list(b.shape)}")
        if len(boxes) > input.shape[0]:
            raise ValueError(f"{op}: boxes of {len(boxes)} images for a batch of "
                             f"{input.shape[0]}")
        each = np.repeat(np.arange(len(boxes)), [b.shape[0] for b in boxes])
        images = lampion.tensor(each, dtype=lampion.int64, device=input.device)
        boxes = lampion.cat(list(boxes)) if boxes else input.new_zeros(0, 4)
    elif boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(f"{op}: boxes are a Tensor[K, 5] (image, x1, y1, x2, y2) or a list of "
                         f"Tensor[L, 4]; got a tensor of shape {list(boxes.shape)}")
    else:
        images, boxes = boxes[:, 0].to(lampion.int64), boxes[:, 1:]
    if boxes.dtype != input.dtype:
        raise RuntimeError(f"{op}: expected input and boxes to have one dtype, but got "
                           f"{input.dtype} and {boxes.dtype}; convert the boxes with "
                           f".to({input.dtype})")
    size = (output_size,) * 2 if isinstance(output_size, int) else tuple(map(int, output_size))
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{op}: output_size is one or two positive numbers, not {output_size}")
    wide = lampion.float64 if boxes.dtype == lampion.float64 else lampion.float32
    return images.detach(), boxes.detach().to(wide), size


def bins(op, input, size):
    """The input of a position-sensitive op as (N, C / (P Q), P, Q, H, W)."""
    n, channels, height, width = input.shape
    if channels % (size[0] * size[1]):
        raise RuntimeError(f"{op}: input channels must be a multiple of pooling height * pooling "
                           f"width, but got {channels} channels for bins of {size[0]} x {size[1]}")
    return input.reshape(n, channels // (size[0] * size[1]), *size, height, width)


def largest(op, counts):
    """The largest of the counts, read on the host: how far a loop has to go."""
    most = counts.amax().item() if counts.numel() else 1
    if not most <= LARGEST:
        raise RuntimeError(f"{op}: a bin is {most} pixels long; are the boxes finite, and is "
                           "spatial_scale right?")
    return max(int(most), 1)


def line(n, like):
    """0, 1, ... n - 1 in the dtype of `like`."""
    return lampion.arange(n, dtype=like.dtype, device=like.device)


def pooled(op, input, images, rows, columns):
    """tap_sum of an input (N, C, P or 1, Q or 1, H, W) over (index, weight) taps: of rows
    (K, P, ty) and of columns (K, Q, tx)."""
    (ys, wy), (xs, wx) = rows, columns
    weights = (wy[:, None, :, None, :, None] * wx[:, None, None, :, None, :]).to(
        lampion.float64 if input.dtype == lampion.float64 else lampion.float32)
    out = tap_sum(input.unsqueeze(1), images, ys[:, None, :, None], xs[:, None, None], weights, op)
    return out.squeeze(1)


# ---------------------------------------------------------------- averages of samples
# With a given number of samples these read no value, so that calls can be replayed; an adaptive
# number is read on the host, and then they run as they are.

@elementwise(kinds="f", differentiable=False, domain={"start": (0, 1), "end": (2, 3),
             "pooled": (2, 2)}, reference=ref.sample_count)
def sample_count(start, end, pooled: Scalar):
    """How many samples a bin has along a side from `start` to `end` that is cut into `pooled`: one
    for each pixel. 1 for NaN, which shows in the samples themselves."""
    count = E.ceil((end - start) / pooled)
    return E.select(count > 0, count, E.select(count <= 0, 0.0, 1.0))


def samples(op, start, end, pooled, pixels, ratio):
    """(index, weight) taps (K, pooled, 2 samples) of the samples of each bin along one side."""
    if ratio > 0:
        count, most = lampion.full_like(start, ratio), ratio
    else:
        count = sample_count(start, end, float(pooled))
        most = largest(op, count)
    size = (end - start) / pooled
    at = (line(most, start) + 0.5) * (size / count)[:, None]                      # (K, samples)
    places = start[:, None, None] + line(pooled, start)[:, None] * size[:, None, None] + at[:, None]
    index, weight = linear_taps(places, pixels, border=True)
    used = (line(most, start) < count[:, None])[:, None, :, None]
    weight = weight / count.clamp(min=1)[:, None, None, None]
    index, weight = lampion.where(used, index, -1), lampion.where(used, weight, 0.0)
    return index.to(INDEX).flatten(2), weight.flatten(2)


def aligned_average(op, input, boxes, images, size, scale, ratio, shift, least):
    """Averages of bilinear samples in the bins of boxes; `input` as in `pooled`."""
    taps = []
    for a, pooled_, pixels in ((1, size[0], input.shape[-2]), (0, size[1], input.shape[-1])):
        start, end = boxes[:, a] * scale - shift, boxes[:, a + 2] * scale - shift
        if least:  # the older rule: no side is shorter than a pixel
            end = start + (end - start).clamp(min=1.0)
        taps.append(samples(op, start, end, pooled_, pixels, ratio))
    return pooled(op, input, images, *taps)


ROIS = "v([[0.0, 0.4, 0.3, 3.6, 4.1], [1, 1.2, 0.1, 2.9, 2.3], [1, -3, 1, 9, 3.3]])"


@composite(replay=True, one_by_one=True, reference=ref.roi_align, samples=f"""
    f(2, 3, 5, 6), {ROIS}, 2
    f(2, 3, 5, 6).transposed, {ROIS}, (2, 3), 0.7, 2, True
    f(2, 2, 5, 6), {ROIS}, (1, 2), 1.5, -1, True
    f(2, 1, 4, 4), [v([[0.5, 0.5, 2.5, 3]]), v([[1.0, 1, 1, 1], [0, 0, 3, 3]])], 2, 1.0, 1
    f(2, 2, 4, 4), v([[0.0, 9, 9, 12, 12], [1, 2, 2, 1, 1]]), 2
    f(1, 2, 4, 4), f(0, 5), 3
""")
def roi_align(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    """Averages of bilinear samples in the bins of boxes (He et al., 2017): (N, C, H, W) and K
    boxes give (K, C, *output_size).

    `boxes` are (K, 5) as image, x1, y1, x2, y2, or a list of (L, 4), one for each image, of the
    dtype of `input`; times `spatial_scale` they are coordinates in `input`. A bin has
    sampling_ratio^2 samples, or, if that is not positive, one for each pixel. `aligned` moves boxes
    by half a pixel, so that pixel centres are at .5; without, sides are at least a pixel long.
    IndexError for an image that there is not. Boxes have no gradient.

    >>> x = lampion.arange(16.).reshape(1, 1, 4, 4)
    >>> roi_align(x, [lampion.tensor([[0., 0., 2., 2.]])], 1, sampling_ratio=1).tolist()
    [[[[5.0]]]]
    """
    images, boxes, size = regions("roi_align", input, boxes, output_size)
    return aligned_average("roi_align", input[:, :, None, None], boxes, images, size,
                           spatial_scale, sampling_ratio, 0.5 if aligned else 0.0, not aligned)


@composite(replay=True, one_by_one=True, reference=ref.ps_roi_align, samples=f"""
    f(2, 8, 5, 6), {ROIS}, 2
    f(2, 6, 5, 6).transposed, {ROIS}, (2, 3), 0.7, 2
    f(1, 4, 4, 4), f(0, 5), 2
""")
def ps_roi_align(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1):
    """`roi_align`, aligned, in which each bin has channels of its own (Li et al., 2017):
    (N, C P Q, H, W) gives (K, C, P, Q). RuntimeError unless the channels can be divided so."""
    images, boxes, size = regions("ps_roi_align", input, boxes, output_size)
    return aligned_average("ps_roi_align", bins("ps_roi_align", input, size), boxes, images, size,
                           spatial_scale, sampling_ratio, 0.5, False)


# ---------------------------------------------------------------- whole pixels

def half_away(x):
    """Rounded to whole numbers, halves away from 0."""
    return x.sign() * (x.abs() + 0.5).floor()


def pixel_bins(op, boxes, a, scale, count, more, pixels):
    """(first, last + 1) pixel (K, count) of each bin along coordinate `a`, and the length of the
    longest bin. Boxes are rounded to pixels and `more` longer, but one pixel at least; what is
    outside [0, pixels) is cut off."""
    start, end = half_away(boxes[:, a] * scale), half_away(boxes[:, a + 2] * scale)
    step = ((end - start + more).clamp(min=1) / count)[:, None]
    place, start = line(count, start), start[:, None]
    first = ((place * step).floor() + start).clamp(0, pixels)
    last = (((place + 1) * step).ceil() + start).clamp(0, pixels)
    return first, last, largest(op, last - first)


@composite(one_by_one=True, reference=ref.ps_roi_pool, samples=f"""
    f(2, 8, 5, 6), {ROIS}, 2
    f(2, 6, 5, 6).transposed, {ROIS}, (2, 3), 0.7
    f(1, 4, 4, 4), v([[0.0, 7, 7, 9, 9], [0, 3, 3, 1, 1]]), 2
    f(1, 4, 4, 4), f(0, 5), 2
""")
def ps_roi_pool(input, boxes, output_size, spatial_scale=1.0):
    """Averages of the pixels in the bins of boxes, each bin with channels of its own (Dai et al.,
    2016): (N, C P Q, H, W) gives (K, C, P, Q). Arguments as of `roi_align`; boxes are
    rounded to whole pixels. As in torchvision, the last row and column of the image belong to no
    bin, and bins outside give 0."""
    op = "ps_roi_pool"
    images, boxes, size = regions(op, input, boxes, output_size)
    x = bins(op, input, size)
    taps = []
    for a, count, pixels in ((1, size[0], x.shape[-2]), (0, size[1], x.shape[-1])):
        first, last, most = pixel_bins(op, boxes, a, spatial_scale, count, 0, pixels - 1)
        k, length = line(most, first), (last - first)[..., None]
        used = k < length
        taps.append((lampion.where(used, first[..., None] + k, -1.0).to(INDEX),
                     lampion.where(used, 1 / length, 0.0)))
    return pooled(op, x, images, *taps)


@kernel_op("pixels: T, images: T, top: T, bottom: T, left: T, right: T, span, caller='bin_max'")
class bin_max:
    """(largest value, its position y W + x) in the bins of regions: pixels (N, C, H, W) and
    ranges [top, bottom) (K, P) and [left, right) (K, Q), at most `span` long, give (K, C, P, Q).

    The first of equal values; NaN is the largest. An empty bin has the value 0 and position -1.
    """

    noutputs, diff_outputs = 2, 1
    save = ("images", "out1")
    reference = ref.bin_max
    explain = explained("bin_max", 1)
    returns = ("values", "positions")
    samples = """
        f(2, 3, 4, 5), v([1, 0, 1]), v([[0, 2], [1, 1], [0, 3]]), v([[2, 4], [1, 3], [4, 4]]), (
            v([[0, 1, 3], [2, 0, 0], [4, 4, 4]])), v([[2, 4, 5], [3, 1, 0], [5, 5, 4]]), (4, 3)
        v([[[[nan, 1.0], [2, 2]]]]), v([0]), v([[0, 1]]), v([[1, 2]]), v([[0]]), v([[2]]), (1, 2)
    """

    def meta(pixels, images, top, bottom, left, right, span, caller):
        k, p = top.shape
        if bottom.shape != (k, p) or right.shape != left.shape or left.shape[0] != k or (
                images.shape != (k,) or pixels.ndim != 4):
            raise RuntimeError(
                f"{caller}: pixels {list(pixels.shape)}, images {list(images.shape)}, rows "
                f"{list(top.shape)} to {list(bottom.shape)} and columns {list(left.shape)} to "
                f"{list(right.shape)} do not fit")
        checks.index_dtype(images, caller)
        checks.refuse_empty(pixels.shape[0], images, 0, f"{caller}: ")
        shape = (k, pixels.shape[1], p, left.shape[1])
        return [(pixels.dtype, shape), (dt.int64, shape)]

    def lower(call):
        x, (out, at) = call.pixels, call.outputs
        n = Nest("bin_max", (*out.shape, *call.span), [4, 5], compute=dt.opmath(x.dtype),
                 merge=False)
        o, place, v = n.output(out, (*out.strides, 0, 0)), n.output(at, (*at.strides, 0, 0)), \
            n.buffer(x)
        images = n.input(call.images, (call.images.strides[0], 0, 0, 0, 0, 0))
        top, bottom = (n.input(m, (m.strides[0], 0, m.strides[1], 0, 0, 0))
                       for m in (call.top, call.bottom))
        left, right = (n.input(m, (m.strides[0], 0, 0, m.strides[1], 0, 0))
                       for m in (call.left, call.right))
        n.start()
        count, _, height, width = x.shape
        y, c = (E.cast(first(), dt.int64) + n.coord(k) for first, k in ((top, 4), (left, 5)))
        inside = ((y < bottom()) & (c < right()) & (y >= n.of(0)) & (y < n.of(height))
                  & (c >= n.of(0)) & (c < n.of(width)))
        s = [n.params.stride(k) for k in x.strides]
        where = (checks.clamped(images(), n.of(count)) * s[0] + n.coord(1) * s[1] + y * s[2]
                 + c * s[3])
        value = v.at(where, mask=n.typed(inside), other=-float("inf"))
        best, found = n.arg_reduce("max", value, E.select(inside, y * n.of(width) + c,
                                                          E.const(-1, dt.int64)))
        some = (bottom.outer() > top.outer()) & (right.outer() > left.outer())
        n.store(o, E.select(some, best, E.cast(E.const(0), best.dtype)), inner=False)
        n.store(place, E.select(some, found, E.const(-1, dt.int64)), inner=False)
        return checks.checked(call, [n.call()], range_of_images(1)(call))

    def vjp(ctx, g):
        count, channels, height, width = ctx.meta("pixels").shape
        hit = ctx.out1 >= 0
        rows = ctx.images[:, None] * channels + lampion.arange(channels, device=g.device)
        where = rows[:, :, None, None] * (height * width) + ctx.out1.clamp(min=0)
        flat = g.new_zeros(count * channels * height * width)
        flat = flat.index_add(0, where.flatten(), lampion.where(hit, g, 0.0).flatten())
        return flat.reshape(count, channels, height, width), None, None, None, None, None


@composite(one_by_one=True, reference=ref.roi_pool, samples=f"""
    f(2, 3, 5, 6), {ROIS}, 2
    f(2, 3, 5, 6).transposed, {ROIS}, (2, 3), 0.7
    f(2, 1, 4, 4), [v([[0.5, 0.5, 2.5, 3]]), v([[1.0, 1, 1, 1], [0, 0, 3, 3]])], 2
    f(1, 2, 4, 4), v([[0.0, 7, 7, 9, 9], [0, 3, 3, 1, 1]]), 2
    f(1, 2, 4, 4), f(0, 5), 3
""")
def roi_pool(input, boxes, output_size, spatial_scale=1.0):
    """The largest pixels in the bins of boxes (Girshick, 2015): (N, C, H, W) and K boxes give
    (K, C, *output_size). Arguments as of `roi_align`; boxes are rounded to whole pixels, and bins
    outside the image give 0. NaN is the largest.
    """
    images, boxes, size = regions("roi_pool", input, boxes, output_size)
    edges, span = [], []
    for a, count, pixels in ((1, size[0], input.shape[2]), (0, size[1], input.shape[3])):
        first, last, most = pixel_bins("roi_pool", boxes, a, spatial_scale, count, 1, pixels)
        edges += [first.to(INDEX), last.to(INDEX)]
        span.append(most)
    return bin_max(input, images, *edges, tuple(span), "roi_pool")[0]
