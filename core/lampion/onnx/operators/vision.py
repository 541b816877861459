"""ONNX operators on images: resizing, sampling, regions. Floor 7; imports lampion and this
package."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import lampion

from ...nn import functional as F
from ..table import operator
from ..values import from_array
from .shape import ints

# ---------------------------------------------------------------- Resize

_NEAREST: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5), "round_prefer_ceil": lambda x: np.floor(
        x + 0.5), "floor": np.floor, "ceil": np.ceil}


def _sources(mode: str, out: int, size: int, scale: float, roi: Sequence[float]) -> Any:
    """Where in the input each output lies (`coordinate_transformation_mode`)."""
    x = np.arange(out, dtype=np.float64)
    whole = scale * size
    if mode == "align_corners":
        return x * (size - 1) / (whole - 1) if whole != 1 else x * 0
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        if whole == 1:
            return x * 0 + (end - start) * (size - 1) / 2 + start * (size - 1)
        return start * (size - 1) + x * (end - start) * (size - 1) / (whole - 1)
    if mode == "pytorch_half_pixel" and whole == 1:
        return x * 0 - 0.5
    if mode == "half_pixel_symmetric":
        return size / 2 * (1 - out / whole) + (x + 0.5) / scale - 0.5
    return (x + 0.5) / scale - 0.5


def _cubic(d: Any, a: float) -> Any:
    """Keys' cubic kernel at a distance."""
    d = np.abs(d)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _taps(x: Any, mode: str, scale: float, antialias: int, a: float) -> tuple[Any, Any]:
    """(indices, weights), each (outputs, taps): what an output is the weighted sum of."""
    reach = 1 if mode == "linear" else 2
    shrink = min(scale, 1.0) if antialias else 1.0
    half = math.floor(-reach / shrink) + 1
    at = np.floor(x).astype(np.int64)[:, None] + np.arange(half, 2 - half)
    d = (at - x[:, None]) * shrink
    w = np.clip(1 - np.abs(d), 0, 1) if mode == "linear" else _cubic(d, a)
    return at, w / w.sum(1, keepdims=True)


def _combine(x: Any, axis: int, at: Any, weights: Any) -> Any:
    """Weighted sums of the elements of an axis."""
    n = x.shape[axis]
    at = np.clip(at, 0, n - 1)
    if at.shape[1] <= 4:
        shape = [-1 if d == axis else 1 for d in range(x.ndim)]
        total: Any = 0
        for k in range(at.shape[1]):
            part = x.index_select(axis, from_array(at[:, k], x.device))
            total = total + part * from_array(weights[:, k], x.device).to(x.dtype).reshape(shape)
        return total
    matrix = np.zeros((len(at), n))
    np.add.at(matrix, (np.arange(len(at))[:, None], at), weights)
    return (x.movedim(axis, -1) @ from_array(matrix, x.device).to(x.dtype).t()).movedim(-1, axis)


def _extents(X: Any, dims: list[int], scales: Any, sizes: Any, policy: str,
             ) -> tuple[list[float], list[int]]:
    """(scales, sizes) of the dims that are resized."""
    have = [X.shape[d] for d in dims]
    if sizes is not None and sizes.size:
        wanted = ints(sizes)
        factors = [w / h for w, h in zip(wanted, have)]
        if policy != "stretch":
            one = min(factors) if policy == "not_larger" else max(factors)
            return [one] * len(dims), [int(one * h + 0.5) for h in have]
        return factors, wanted
    factors = [float(s) for s in scales.reshape(-1)]
    return factors, [int(s * h) for s, h in zip(factors, have)]


@operator("Resize", host=(1, 2, 3))
def resize(X: Any, roi: Any = None, scales: Any = None, sizes: Any = None, *, antialias: int = 0,
           axes: Sequence[int] | None = None,
           coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75,
           exclude_outside: int = 0, extrapolation_value: float = 0.0,
           keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest",
           nearest_mode: str = "round_prefer_floor", opset: int = 19) -> Any:
    """An image of another size, one axis after the other."""
    if opset < 11:  # inputs were X and scales
        scales, roi, coordinate_transformation_mode, nearest_mode = roi, None, "asymmetric", "floor"
    dims = list(range(X.ndim)) if axes is None else [a % X.ndim for a in axes]
    factors, out = _extents(X, dims, scales, sizes, keep_aspect_ratio_policy)
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    ends = np.asarray(roi).reshape(2, -1).T if crop and roi is not None else [(0, 1)] * len(dims)
    x = X if X.is_floating_point() and X.dtype.itemsize >= 4 else X.to(lampion.float32)
    outside = []
    for d, factor, size, span in zip(dims, factors, out, ends):
        n = X.shape[d]
        if factor == 1 and size == n and tuple(span) == (0, 1):
            continue
        at = _sources(coordinate_transformation_mode, size, n, factor, span)
        if crop:
            outside.append((d, (at < 0) | (at > n - 1)))
        if mode == "nearest":
            index = np.clip(_NEAREST[nearest_mode](at), 0, n - 1).astype(np.int64)
            x = x.index_select(d, from_array(index, X.device))
            continue
        taps, weights = _taps(at, mode, factor, antialias, cubic_coeff_a)
        if exclude_outside:
            weights = np.where((taps < 0) | (taps >= n), 0.0, weights)
            total = weights.sum(1, keepdims=True)
            weights = weights / np.where(total == 0, 1.0, total)
        x = _combine(x, d, taps, weights)
    for d, gone in outside:
        mask = from_array(gone, X.device).reshape([-1 if k == d else 1 for k in range(x.ndim)])
        x = x.masked_fill(mask, extrapolation_value)
    if X.is_floating_point() or x.dtype is X.dtype:
        return x.to(X.dtype)
    limits = lampion.iinfo(X.dtype)
    return x.round().clamp(limits.min, limits.max).to(X.dtype)


@operator("Upsample", host=(1,))
def upsample(X: Any, scales: Any = None, *, mode: str = "nearest") -> Any:
    """An image made larger; the Resize of old opsets."""
    return resize(X, None, np.asarray(scales, np.float64), mode=mode, nearest_mode="floor",
                  coordinate_transformation_mode="asymmetric")


# ---------------------------------------------------------------- sampling

_GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}


@operator("GridSample")
def grid_sample(X: Any, grid: Any, *, align_corners: int = 0, mode: str = "linear",
                padding_mode: str = "zeros") -> Any:
    """An image's values at points between -1 and 1."""
    return F.grid_sample(X, grid.to(X.dtype), mode=_GRID_MODES.get(mode, mode),
                         padding_mode=padding_mode, align_corners=bool(align_corners))


@operator("AffineGrid", host=(1,))
def affine_grid(theta: Any, size: Any, *, align_corners: int = 0) -> Any:
    """The points of an image, mapped by a matrix for each example."""
    return F.affine_grid(theta, ints(size), align_corners=bool(align_corners))


@operator("DeformConv")
def deform_conv(X: Any, W: Any, offset: Any, B: Any = None, mask: Any = None, *,
                dilations: Sequence[int] | None = None, group: int = 1,
                kernel_shape: Sequence[int] | None = None, offset_group: int = 1,
                pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Any:
    """A convolution of images whose windows' points are moved by offsets and scaled by a mask."""
    if X.ndim != 4:
        raise RuntimeError(f"DeformConv: an input of {X.ndim} dims; images have 4")
    batch, channels, height, width = X.shape
    count, _, kh, kw = W.shape
    oh, ow = offset.shape[2:]
    sh, sw = strides or (1, 1)
    dh, dw = dilations or (1, 1)
    top, left = (pads or (0, 0, 0, 0))[:2]
    moved = offset.reshape(batch * offset_group, kh * kw, 2, oh, ow)
    line, kind, device = lampion.arange, X.dtype, X.device
    rows = ((line(kh, device=device) * dh).repeat_interleave(kw).reshape(-1, 1, 1)
            + (line(oh, device=device) * sh - top).reshape(1, -1, 1))
    columns = ((line(kw, device=device) * dw).repeat(kh).reshape(-1, 1, 1)
               + (line(ow, device=device) * sw - left).reshape(1, 1, -1))
    y, x = moved[:, :, 0] + rows.to(kind), moved[:, :, 1] + columns.to(kind)
    corners = min(height, width) > 1
    if corners:  # a point that is a pixel stays exactly there
        grid = lampion.stack([x / (width - 1) * 2 - 1, y / (height - 1) * 2 - 1], -1)
    else:
        grid = lampion.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    planes = X.reshape(batch * offset_group, channels // offset_group, height, width)
    seen = F.grid_sample(planes, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros",
                         align_corners=corners)
    seen = seen.reshape(batch, offset_group, -1, kh * kw, oh, ow)
    if mask is not None:
        seen = seen * mask.reshape(batch, offset_group, 1, kh * kw, oh, ow)
    seen = seen.reshape(batch, group, channels // group * kh * kw, oh * ow)
    out = W.reshape(1, group, count // group, -1) @ seen
    out = out.reshape(batch, count, oh, ow)
    return out if B is None else out + B.reshape(1, -1, 1, 1)


@operator("ImageDecoder", host=(0,))
def image_decoder(encoded_stream: Any, *, pixel_format: str = "RGB", device: Any = None) -> Any:
    """The pixels (height, width, channels) of the bytes of an image file, by Pillow.

    ImportError without the Pillow package.
    """
    import io

    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("ImageDecoder needs Pillow: pip install pillow") from error
    with Image.open(io.BytesIO(encoded_stream.tobytes())) as image:
        pixels = np.array(image.convert("L" if pixel_format == "Grayscale" else "RGB"))
    if pixel_format == "Grayscale":
        pixels = pixels[..., None]
    return from_array(pixels[..., ::-1] if pixel_format == "BGR" else pixels, device)


# ---------------------------------------------------------------- regions

def _points(start: float, extent: float, bins: int, grid: int, size: int) -> tuple[Any, ...]:
    """(low, high, weight of low, weight of high) of the sample points of an axis of a region."""
    p = start + (np.arange(bins * grid) + 0.5) * (extent / bins / grid)
    gone = (p < -1) | (p > size)
    p = np.clip(p, 0, size - 1)
    low = np.minimum(p.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    near = np.where(gone, 0.0, 1 - (p - low))
    return low, high, near, np.where(gone, 0.0, p - low)


def _mean_matrix(points: tuple[Any, ...], bins: int, grid: int, size: int, like: Any) -> Any:
    """The matrix that takes an axis to the means of a region's bins."""
    low, high, near, far = points
    m = np.zeros((bins * grid, size))
    at = np.arange(bins * grid)
    np.add.at(m, (at, low), near)
    np.add.at(m, (at, high), far)
    return from_array(m.reshape(bins, grid, size).mean(1), like.device).to(like.dtype)


def _largest_corner(image: Any, ys: tuple[Any, ...], xs: tuple[Any, ...], shape: Any) -> Any:
    """The largest weighted corner of all sample points of each bin."""
    best = None
    for i in (0, 1):
        rows = image.index_select(1, from_array(ys[i], image.device))
        for j in (0, 1):
            w = from_array(np.outer(ys[2 + i], xs[2 + j]), image.device).to(image.dtype)
            part = rows.index_select(2, from_array(xs[j], image.device)) * w
            best = part if best is None else lampion.maximum(best, part)
    ph, gh, pw, gw = shape
    return best.reshape(-1, ph, gh, pw, gw).amax((2, 4))


@operator("RoiAlign", host=(1, 2))
def roi_align(X: Any, rois: Any, batch_indices: Any, *,
              coordinate_transformation_mode: str = "half_pixel", mode: str = "avg",
              output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0,
              spatial_scale: float = 1.0, opset: int = 22) -> Any:
    """Regions of images at one size: the mean or maximum of points that are interpolated."""
    half = 0.5 if opset >= 16 and coordinate_transformation_mode == "half_pixel" else 0.0
    height, width = X.shape[2:]
    found = []
    for box, b in zip(rois, batch_indices.reshape(-1)):
        x0, y0, x1, y1 = (float(v) * spatial_scale - half for v in box)
        w, h = x1 - x0, y1 - y0
        if not half:
            w, h = max(w, 1.0), max(h, 1.0)
        gh = sampling_ratio or max(math.ceil(h / output_height), 1)
        gw = sampling_ratio or max(math.ceil(w / output_width), 1)
        ys = _points(y0, h, output_height, gh, height)
        xs = _points(x0, w, output_width, gw, width)
        image = X[int(b)]
        if mode == "max":
            found.append(_largest_corner(image, ys, xs, (output_height, gh, output_width, gw)))
        else:
            found.append(_mean_matrix(ys, output_height, gh, height, X) @ image
                         @ _mean_matrix(xs, output_width, gw, width, X).t())
    if not found:
        return X.new_zeros((0, X.shape[1], output_height, output_width))
    return lampion.stack(found)


@operator("MaxRoiPool", host=(1,))
def max_roi_pool(X: Any, rois: Any, *, pooled_shape: Sequence[int],
                 spatial_scale: float = 1.0) -> Any:
    """Regions of images at one size: the maximum of the pixels of each bin."""
    ph, pw = pooled_shape
    found = []
    for b, *box in rois:
        x0, y0, x1, y1 = (math.floor(float(v) * spatial_scale + 0.5) for v in box)
        h, w = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)
        rows = [(y0 + math.floor(k * h / ph), y0 + math.ceil((k + 1) * h / ph))
                for k in range(ph)]
        columns = [(x0 + math.floor(k * w / pw), x0 + math.ceil((k + 1) * w / pw))
                   for k in range(pw)]
        image, bins = X[int(b)], []
        for r0, r1 in rows:
            for c0, c1 in columns:
                part = image[:, max(r0, 0):max(r1, 0), max(c0, 0):max(c1, 0)]
                bins.append(part.amax((1, 2)) if part.numel() else image.new_zeros(len(image)))
        found.append(lampion.stack(bins, 1).reshape(-1, ph, pw))
    return lampion.stack(found) if found else X.new_zeros((0, X.shape[1], ph, pw))
