"""interpolate, unfold and fold of nn.functional as compositions of index reads and adds.

Positions and weights are worked out on the host, once per size, in float32 as the mode's
definition has them. May import: nn._ops, lampion.tensor, numpy.
"""
from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np

import lampion
from lampion.nn._ops import ops
from lampion.tensor import Tensor

# Modes in which an axis of equal size is copied; nearest does so with two axes alone.
_KEEPING = frozenset({"linear", "bilinear", "trilinear"})
_MODE_OF_AXES = {1: ("linear",), 2: ("bilinear", "bicubic"), 3: ("trilinear",)}


# ---- interpolate --------------------------------------------------------------------------------

def interpolate(input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
                antialias: bool = False) -> Tensor:
    """Resize the space of (N, C, *), with 1 to 3 axes, to `size` or by `scale_factor`.

    Modes: nearest, nearest-exact, area, linear (1 axis), bilinear and bicubic (2), trilinear (3).
    align_corners, for the last four, keeps the corners' values. antialias goes with bilinear and
    bicubic. ValueError for arguments that do not fit.

    >>> F.interpolate(lampion.tensor([[[1.0, 2.0]]]), scale_factor=2)
    tensor([[[1., 1., 2., 2.]]])
    """
    axes = input.dim() - 2
    align = _check_mode(input, mode, align_corners, antialias)
    out, scales = _sizes(input, size, scale_factor, recompute_scale_factor)
    if mode == "area":
        pool = getattr(ops, f"adaptive_avg_pool{axes}d")
        return pool(input, tuple(out))
    for axis in range(axes):
        if input.size(2 + axis) == out[axis] and not antialias \
                and (mode in _KEEPING or (mode, axes) == ("nearest", 2)):
            continue  # whatever the factor says
        taps = _taps(input.size(2 + axis), out[axis], mode, align, scales[axis], antialias)
        input = _along(input, 2 + axis, taps)
    return input


def _check_mode(input: Tensor, mode: str, align_corners: bool | None, antialias: bool) -> bool:
    axes = input.dim() - 2
    plain = mode in ("nearest", "nearest-exact", "area")
    known = plain or any(mode in modes for modes in _MODE_OF_AXES.values())
    if not known or axes not in (1, 2, 3):
        raise NotImplementedError(
            "Input Error: Only 3D, 4D and 5D input Tensors supported (got "
            f"{input.dim()}D) for the modes: nearest | linear | bilinear | bicubic | trilinear | "
            f"area | nearest-exact (got {mode})")
    if plain and align_corners is not None:
        raise ValueError("align_corners option can only be set with the interpolating modes: "
                         "linear | bilinear | bicubic | trilinear")
    if not plain and mode not in _MODE_OF_AXES[axes]:
        raise NotImplementedError(f"Got {input.dim()}D input, but {mode} mode needs "
                                  f"{3 if mode == 'linear' else 5 if mode == 'trilinear' else 4}D "
                                  "input")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError("Anti-alias option is restricted to bilinear and bicubic modes and "
                         "requires a 4-D tensor as input")
    return bool(align_corners)


def _sizes(input: Tensor, size: Any, scale_factor: Any,
           recompute: bool | None) -> tuple[list[int], list[float | None]]:
    """The output's space and, where the factor itself is to be used, the factors."""
    space = input.shape[2:]
    axes = len(space)
    if (size is None) == (scale_factor is None):
        raise ValueError("only one of size or scale_factor should be defined" if size is not None
                         else "either size or scale_factor should be defined")
    given = size if size is not None else scale_factor
    listed = list(given) if isinstance(given, (list, tuple)) else [given] * axes
    if len(listed) != axes:
        raise ValueError("Input and output must have the same number of spatial dimensions, but "
                         f"got input with spatial dimensions of {list(space)} and output "
                         f"{'size' if size is not None else 'scale_factor'} of {given}.")
    if size is not None:
        if recompute:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        out, factors = [int(n) for n in listed], [None] * axes
    else:
        out = [int(np.floor(float(n) * float(f))) for n, f in zip(space, listed)]
        factors = [None] * axes if recompute else [float(f) for f in listed]
    if min(out, default=1) <= 0 or min(space, default=1) <= 0:
        raise RuntimeError("Input and output sizes should be greater than 0, but got input (sizes: "
                           f"{list(space)}) output (sizes: {out})")
    return out, factors


@functools.lru_cache(maxsize=512)
def _taps(n: int, out: int, mode: str, align: bool, factor: float | None,
          antialias: bool) -> tuple[tuple[list[int], list[float] | None], ...]:
    """(positions, weights) of each tap: the result is the weighted sum of the positions read."""
    f32 = np.float32
    if align:
        scale = f32((n - 1) / (out - 1)) if out > 1 else f32(0)
    else:
        scale = f32(1.0 / factor) if factor is not None else f32(n) / f32(out)
    at = np.arange(out, dtype=f32)
    if mode in ("nearest", "nearest-exact"):
        shift = f32(0) if mode == "nearest" else f32(0.5)
        index = np.minimum(np.floor((at + shift) * scale), n - 1).astype(np.int64)
        return ((index.tolist(), None),)
    if antialias:
        return _smooth_taps(n, out, mode, float(scale), align)
    source = at * scale if align else (at + f32(0.5)) * scale - f32(0.5)
    if mode != "bicubic":
        source = np.maximum(source, 0)
        low = np.minimum(source.astype(np.int64), n - 1)
        part = np.clip(source - low, 0, 1).astype(f32)
        high = np.minimum(low + 1, n - 1)
        return (low.tolist(), (1 - part).tolist()), (high.tolist(), part.tolist())
    low = np.floor(source)
    part = source - low
    weights = [_cubic(part + 1, -0.75), _cubic(part, -0.75), _cubic(1 - part, -0.75),
               _cubic(2 - part, -0.75)]
    positions = [np.clip(low.astype(np.int64) + k, 0, n - 1) for k in (-1, 0, 1, 2)]
    return tuple((p.tolist(), w.tolist()) for p, w in zip(positions, weights))


def _cubic(x: Any, a: float) -> Any:
    """Keys' cubic convolution kernel at distances x >= 0."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _smooth_taps(n: int, out: int, mode: str, scale: float,
                 align: bool) -> tuple[tuple[list[int], list[float] | None], ...]:
    """Taps of the kernel stretched by the scale, so that shrinking averages what it skips."""
    radius = (1.0 if mode == "bilinear" else 2.0) * max(scale, 1.0)
    stretch = 1.0 / max(scale, 1.0)
    rows = []
    for i in range(out):
        centre = scale * (i + 0.5)
        first = max(int(centre - radius + 0.5), 0)
        last = min(int(centre + radius + 0.5), n)
        x = np.abs((np.arange(first, last) - centre + 0.5) * stretch)
        weights = np.maximum(1 - x, 0) if mode == "bilinear" else _cubic(x, -0.5)
        rows.append((first, weights / weights.sum()))
    width = max(len(w) for _, w in rows)
    taps = []
    for k in range(width):
        positions = [min(first + k, n - 1) for first, _ in rows]
        taps.append((positions, [float(w[k]) if k < len(w) else 0.0 for _, w in rows]))
    return tuple(taps)


def _along(input: Tensor, axis: int, taps: Any) -> Tensor:
    """The weighted sum of the taps along one axis."""
    total = None
    for positions, weights in taps:
        index = lampion.tensor(positions, dtype=lampion.int64, device=input.device)
        part = input.index_select(axis, index)
        if weights is not None:
            shape = [1] * input.dim()
            shape[axis] = len(weights)
            part = part * lampion.tensor(weights, dtype=input.dtype,
                                         device=input.device).reshape(shape)
        total = part if total is None else total + part
    return total


# ---- windows to columns and back ----------------------------------------------------------------

def _pairs(**options: Any) -> list[tuple[int, int]]:
    """Each option as a pair; RuntimeError for one that is no number or pair of them."""
    made = []
    for name, value in options.items():
        pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
        pair = pair * 2 if len(pair) == 1 else pair
        if len(pair) != 2:
            raise RuntimeError(f"It is expected {name} equals to 2, but got size {len(pair)}")
        if min(pair) < (0 if name == "padding" else 1):
            raise RuntimeError(f"{name} should be greater than zero, but got {list(pair)}")
        made.append(pair)
    return made


@functools.lru_cache(maxsize=256)
def _windows(size: tuple[int, int], kernel: tuple[int, int], dilation: tuple[int, int],
             padding: tuple[int, int], stride: tuple[int, int]) -> tuple[list[int], int]:
    """Positions in the padded, flattened image of all elements of all windows; the window count."""
    counts, lines = [], []
    for n, k, d, p, s in zip(size, kernel, dilation, padding, stride):
        count = (n + 2 * p - d * (k - 1) - 1) // s + 1
        if count <= 0:
            raise RuntimeError(f"the sliding windows do not fit: spatial size {list(size)}, "
                               f"kernel_size={list(kernel)}, dilation={list(dilation)}, "
                               f"padding={list(padding)}, stride={list(stride)}")
        counts.append(count)
        lines.append([[i * d + j * s for j in range(count)] for i in range(k)])
    width = size[1] + 2 * padding[1]
    flat = [y * width + x for rows, columns in itertools.product(*lines)
            for y in rows for x in columns]
    return flat, counts[0] * counts[1]


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
           stride: Any = 1) -> Tensor:
    """The windows of (N, C, H, W) or (C, H, W) as columns (N, C KH KW, L)."""
    kernel, spread, sides, step = _pairs(kernel_size=kernel_size, dilation=dilation,
                                         padding=padding, stride=stride)
    if input.dim() not in (3, 4):
        raise RuntimeError("Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and "
                           f"other non-zero dimensions for input, but got: {list(input.shape)}")
    batched = input.dim() == 4
    x = input if batched else input.unsqueeze(0)
    flat, count = _windows(tuple(x.shape[2:]), kernel, spread, sides, step)
    x = ops.pad(x, (sides[1], sides[1], sides[0], sides[0])) if any(sides) else x
    index = lampion.tensor(flat, dtype=lampion.int64, device=x.device)
    columns = x.flatten(2).index_select(2, index)
    columns = columns.reshape(x.size(0), x.size(1) * kernel[0] * kernel[1], count)
    return columns if batched else columns.squeeze(0)


def fold(input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
         stride: Any = 1) -> Tensor:
    """Columns (N, C KH KW, L) added up into (N, C, *output_size): the adjoint of unfold."""
    size, kernel, spread, sides, step = _pairs(
        output_size=output_size, kernel_size=kernel_size, dilation=dilation, padding=padding,
        stride=stride)
    if input.dim() not in (2, 3):
        raise RuntimeError("Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch "
                           f"size and non-zero dimensions for input, but got: {list(input.shape)}")
    batched = input.dim() == 3
    x = input if batched else input.unsqueeze(0)
    area = kernel[0] * kernel[1]
    if x.size(1) % area:
        raise RuntimeError("Expected size of input's dimension 1 to be divisible by the product of "
                           f"kernel_size, but got input.size(1)={x.size(1)} and kernel_size="
                           f"({kernel[0]}, {kernel[1]}).")
    flat, count = _windows(size, kernel, spread, sides, step)
    if x.size(2) != count:
        raise RuntimeError(f"Given output_size={size}, kernel_size={kernel}, dilation={spread}, "
                           f"padding={sides}, stride={step}, expected size of input's dimension 2 "
                           f"to match the calculated number of sliding blocks {count}, but got "
                           f"input.size(2)={x.size(2)}.")
    channels = x.size(1) // area
    high, wide = size[0] + 2 * sides[0], size[1] + 2 * sides[1]
    index = lampion.tensor(flat, dtype=lampion.int64, device=x.device)
    image = lampion.zeros((x.size(0), channels, high * wide), dtype=x.dtype, device=x.device)
    image = image.index_add(2, index, x.reshape(x.size(0), channels, area * count))
    image = image.reshape(x.size(0), channels, high, wide)
    image = image[:, :, sides[0]:high - sides[0], sides[1]:wide - sides[1]]
    return image if batched else image.squeeze(0)
