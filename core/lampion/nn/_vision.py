"""Shuffles, grids and older names of interpolate in nn.functional.

May import: nn._ops, lampion.tensor.
"""
from __future__ import annotations

import itertools
import warnings
from typing import Any

import lampion
from lampion.nn._ops import ops
from lampion.replay import replayed
from lampion.tensor import Tensor

GRID_SAMPLE_INTERPOLATION_MODES = {"bilinear": 0, "nearest": 1, "bicubic": 2}
GRID_SAMPLE_PADDING_MODES = {"zeros": 0, "border": 1, "reflection": 2}


@replayed
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C r², H, W) to (*, C, H r, W r).

    >>> F.pixel_shuffle(lampion.zeros(1, 9, 4, 4), 3).shape
    lampion.Size([1, 1, 12, 12])
    """
    r = upscale_factor
    if input.dim() < 3:
        raise RuntimeError("pixel_shuffle expects input to have at least 3 dimensions, but got "
                           f"input with {input.dim()} dimension(s)")
    if r <= 0:
        raise RuntimeError(f"pixel_shuffle expects a positive upscale_factor, but got {r}")
    *lead, channels, height, width = input.shape
    if channels % (r * r):
        raise RuntimeError("pixel_shuffle expects its input's 'channel' dimension to be divisible "
                           f"by the square of upscale_factor, but input.size(-3)={channels} is not "
                           f"divisible by {r * r}")
    out, n = channels // (r * r), len(lead)
    blocks = input.reshape(*lead, out, r, r, height, width)
    blocks = blocks.permute(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return blocks.reshape(*lead, out, height * r, width * r)


@replayed
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H r, W r) to (*, C r², H, W)."""
    r = downscale_factor
    if input.dim() < 3:
        raise RuntimeError("pixel_unshuffle expects input to have at least 3 dimensions, but got "
                           f"input with {input.dim()} dimension(s)")
    if r <= 0:
        raise RuntimeError(f"pixel_unshuffle expects a positive downscale_factor, but got {r}")
    *lead, channels, height, width = input.shape
    for name, size in (("height", height), ("width", width)):
        if size % r:
            raise RuntimeError(f"pixel_unshuffle expects {name} to be divisible by "
                               f"downscale_factor, "
                               f"but input.size({-2 if name == 'height' else -1})={size} is not "
                               f"divisible by {r}")
    n = len(lead)
    blocks = input.reshape(*lead, channels, height // r, r, width // r, r)
    blocks = blocks.permute(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return blocks.reshape(*lead, channels * r * r, height // r, width // r)


@replayed
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Interleave `groups` groups of the channels of (N, C, *)."""
    if input.dim() < 3:
        raise RuntimeError("channel_shuffle expects input with > 2 dims, but got input with sizes "
                           f"{list(input.shape)}")
    channels = input.size(1)
    if groups <= 0:
        raise RuntimeError("Number of groups to divide channels in must be positive. Value of "
                           f"groups:{groups}")
    if channels % groups:
        raise RuntimeError(f"Number of channels must be divisible by groups. Got {channels} "
                           f"channels and {groups} groups.")
    split = input.reshape(input.size(0), groups, channels // groups, *input.shape[2:])
    return split.transpose(1, 2).reshape(input.shape)


native_channel_shuffle = channel_shuffle


@replayed
def upsample(input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
             align_corners: bool | None = None) -> Tensor:
    """Older name of interpolate."""
    warnings.warn("`nn.functional.upsample` is deprecated. Use `nn.functional.interpolate` "
                  "instead.",
                  stacklevel=2)
    return ops.interpolate(input, size, scale_factor, mode, align_corners)


@replayed
def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """interpolate(mode='nearest')."""
    warnings.warn("`nn.functional.upsample_nearest` is deprecated. Use `nn.functional.interpolate` "
                  "instead.", stacklevel=2)
    return ops.interpolate(input, size, scale_factor, mode="nearest")


@replayed
def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """interpolate(mode='bilinear', align_corners=True)."""
    warnings.warn("`nn.functional.upsample_bilinear` is deprecated. Use "
                  "`nn.functional.interpolate` "
                  "instead.", stacklevel=2)
    return ops.interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


# ---- grids --------------------------------------------------------------------------------------


def _centres(size: int, align_corners: bool, like: Tensor) -> Tensor:
    """Positions of `size` samples in [-1, 1]."""
    if size <= 1:
        return lampion.zeros(size, dtype=like.dtype, device=like.device)
    line = lampion.linspace(-1, 1, size, dtype=like.dtype, device=like.device)
    return line if align_corners else line * ((size - 1) / size)


@replayed
def affine_grid(theta: Tensor, size: Any, align_corners: bool | None = None) -> Tensor:
    """Sampling positions of affine maps: theta (N, 2, 3), size (N, C, H, W) to (N, H, W, 2).

    In three dimensions theta is (N, 3, 4) and the grid (N, D, H, W, 3).
    """
    if align_corners is None:
        warnings.warn("Default grid_sample and affine_grid behavior has changed to "
                      "align_corners=False since 1.3.0. Please specify align_corners=True if the "
                      "old behavior is desired. See the documentation of grid_sample for details.",
                      stacklevel=2)
        align_corners = False
    if not theta.is_floating_point():
        raise ValueError(f"Expected theta to have floating point type, but got {theta.dtype}")
    axes = len(size) - 2
    if axes not in (2, 3):
        raise NotImplementedError("affine_grid only supports 4D and 5D sizes, for 2D and 3D affine "
                                  f"transforms, respectively. Got size {tuple(size)}.")
    if theta.dim() != 3 or tuple(theta.shape[1:]) != (axes, axes + 1):
        raise ValueError(f"Expected a batch of {axes}D affine matrices of shape "
                         f"Nx{axes}x{axes + 1} "
                         f"for size {tuple(size)}. Got {tuple(theta.shape)}.")
    if min(size) <= 0:
        raise ValueError(f"Expected non-zero, positive output size. Got {tuple(size)}")
    space = tuple(size[2:])
    lines = []
    for axis in reversed(range(axes)):  # x is the last axis
        line = _centres(space[axis], align_corners, theta)
        shape = [1] * axes
        shape[axis] = space[axis]
        lines.append(line.reshape(shape).expand(space))
    base = lampion.stack([*lines, lampion.ones_like(lines[0])], -1).reshape(1, -1, axes + 1)
    grid = lampion.matmul(base, theta.transpose(1, 2))
    return grid.reshape(theta.size(0), *space, axes)


@replayed
def grid_sample(input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros",
                align_corners: bool | None = None) -> Tensor:
    """input (N, C, H, W) at the positions grid (N, H', W', 2) in [-1, 1]: (N, C, H', W').

    In three dimensions (N, C, D, H, W) and (N, D', H', W', 3). mode: bilinear, nearest or (2-d)
    bicubic; padding_mode: zeros, border or reflection. ValueError for other names.
    """
    if mode not in GRID_SAMPLE_INTERPOLATION_MODES:
        raise ValueError("nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' "
                         f"or 'bicubic', but got: '{mode}'")
    if padding_mode not in GRID_SAMPLE_PADDING_MODES:
        raise ValueError("nn.functional.grid_sample(): expected padding_mode to be 'zeros', "
                         f"'border', or 'reflection', but got: '{padding_mode}'")
    if align_corners is None:
        warnings.warn("Default grid_sample and affine_grid behavior has changed to "
                      "align_corners=False since 1.3.0. Please specify align_corners=True if the "
                      "old behavior is desired. See the documentation of grid_sample for details.",
                      stacklevel=2)
        align_corners = False
    axes = input.dim() - 2
    if axes not in (2, 3) or grid.dim() != input.dim():
        raise RuntimeError("grid_sampler(): expected 4D or 5D input and grid with same number of "
                           f"dimensions, but got input with sizes {list(input.shape)} and grid "
                           f"with sizes {list(grid.shape)}")
    if input.size(0) != grid.size(0) or grid.size(-1) != axes:
        raise RuntimeError("grid_sampler(): expected grid and input to have same batch size and "
                           f"grid to have size {axes} in last dimension, but got input with sizes "
                           f"{list(input.shape)} and grid with sizes {list(grid.shape)}")
    if mode == "bicubic" and axes == 3:
        raise RuntimeError("grid_sampler(): bicubic interpolation only supports 4D input")
    sizes = list(input.shape[2:])
    positions = [_unnormalize(grid[..., axes - 1 - a], sizes[a], align_corners)
                 for a in range(axes)]
    if mode == "bicubic":
        return _bicubic(input, positions, sizes, padding_mode, align_corners)
    positions = [_into(p, n, padding_mode, align_corners) for p, n in zip(positions, sizes)]
    if mode == "nearest":
        return _take(input, [p.round() for p in positions], sizes)
    return _linear(input, positions, sizes)


def _unnormalize(x: Tensor, size: int, align_corners: bool) -> Tensor:
    """[-1, 1] to pixel positions."""
    return (x + 1) * ((size - 1) / 2) if align_corners else ((x + 1) * size - 1) / 2


def _into(x: Tensor, size: int, padding_mode: str, align_corners: bool) -> Tensor:
    """Positions outside moved inside as the padding mode says."""
    if padding_mode == "zeros":
        return x
    if padding_mode == "reflection":
        low, high = (0, 2 * (size - 1)) if align_corners else (-1, 2 * size - 1)
        span = (high - low) / 2
        if span == 0:
            x = lampion.zeros_like(x)
        else:
            away = (x - low / 2).abs()
            turns = (away / span).floor().detach()
            inside = away - turns * span
            even = (turns - 2 * (turns / 2).floor()) == 0
            x = lampion.where(even, inside, span - inside) + low / 2
    return x.clamp(0, size - 1)


def _take(input: Tensor, positions: list[Tensor], sizes: list[int]) -> Tensor:
    """input at whole positions, zero outside: (N, C, *grid)."""
    batch, channels = input.shape[:2]
    space = positions[0].shape[1:]
    inside, flat = None, None
    for p, n in zip(positions, sizes):
        ok = (p >= 0) & (p <= n - 1)
        inside = ok if inside is None else inside & ok
        index = lampion.where(ok, p, lampion.zeros_like(p)).detach().to(lampion.int64)
        flat = index if flat is None else flat * n + index
    flat = flat.reshape(batch, 1, -1).expand(-1, channels, -1)
    values = input.flatten(2).gather(2, flat).reshape(batch, channels, *space)
    return values * inside.unsqueeze(1).to(input.dtype)


def _linear(input: Tensor, positions: list[Tensor], sizes: list[int]) -> Tensor:
    """The weighted sum over the 2^axes corners around each position."""
    floors = [p.floor().detach() for p in positions]
    parts = [p - f for p, f in zip(positions, floors)]
    total = None
    for corner in itertools.product((0, 1), repeat=len(positions)):
        weight = None
        for bit, part in zip(corner, parts):
            one = part if bit else 1 - part
            weight = one if weight is None else weight * one
        values = _take(input, [f + bit for f, bit in zip(floors, corner)], sizes)
        term = values * weight.unsqueeze(1)
        total = term if total is None else total + term
    return total


def _cubic_weights(t: Tensor) -> list[Tensor]:
    """The four weights of cubic convolution (a = -0.75) at the fraction t."""
    a = -0.75

    def near(x: Tensor) -> Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _bicubic(input: Tensor, positions: list[Tensor], sizes: list[int], padding_mode: str,
             align_corners: bool) -> Tensor:
    floors = [p.floor().detach() for p in positions]
    weights = [_cubic_weights(p - f) for p, f in zip(positions, floors)]
    total = None
    for i, j in itertools.product(range(4), repeat=2):
        at = [_into(f + (k - 1), n, padding_mode, align_corners)
              for f, k, n in zip(floors, (i, j), sizes)]
        term = _take(input, at, sizes) * (weights[0][i] * weights[1][j]).unsqueeze(1)
        total = term if total is None else total + term
    return total
