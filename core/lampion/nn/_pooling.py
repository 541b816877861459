"""Poolings of nn.functional that are compositions: power-average, fractional, unpooling.

May import: nn._ops, nn.modules.utils, lampion.tensor.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lampion
from lampion.nn._ops import ops
from lampion.ops.facts import examples
from lampion.replay import replayed
from lampion.tensor import Tensor


def _expand(value: Any, axes: int) -> tuple[Any, ...]:
    """One number for all axes, or one per axis."""
    if isinstance(value, Sequence):
        return tuple(value) * axes if len(value) == 1 else tuple(value)
    return (value,) * axes


# ---- power-average ------------------------------------------------------------------------------


def _lp_pool(pool: Any, axes: int, input: Tensor, norm_type: float, kernel_size: Any, stride: Any,
             ceil_mode: bool) -> Tensor:
    size = 1
    for k in _expand(kernel_size, axes):
        size *= k
    mean = pool(input.pow(norm_type), kernel_size, stride, 0, ceil_mode)
    return (mean.sign() * mean.abs().relu() * size).pow(1.0 / norm_type)


@replayed
def lp_pool1d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None,
              ceil_mode: bool = False) -> Tensor:
    """(sum x^p)^(1/p) over windows of (N, C, L) or (C, L)."""
    return _lp_pool(ops.avg_pool1d, 1, input, norm_type, kernel_size, stride, ceil_mode)


@replayed
def lp_pool2d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None,
              ceil_mode: bool = False) -> Tensor:
    """(sum x^p)^(1/p) over windows of (N, C, H, W) or (C, H, W)."""
    return _lp_pool(ops.avg_pool2d, 2, input, norm_type, kernel_size, stride, ceil_mode)


@replayed
def lp_pool3d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None,
              ceil_mode: bool = False) -> Tensor:
    """(sum x^p)^(1/p) over windows of (N, C, D, H, W) or (C, D, H, W)."""
    return _lp_pool(ops.avg_pool3d, 3, input, norm_type, kernel_size, stride, ceil_mode)


# ---- unpooling ----------------------------------------------------------------------------------


def _unpool_size(input: Tensor, axes: int, kernel: tuple[int, ...], stride: tuple[int, ...],
                 padding: tuple[int, ...], wanted: Any) -> list[int]:
    """The output's spatial size: as asked for, if it could have been pooled to the input."""
    space = input.shape[-axes:]
    usual = [(space[i] - 1) * stride[i] + kernel[i] - 2 * padding[i] for i in range(axes)]
    if wanted is None:
        return usual
    wanted = list(wanted)
    if len(wanted) == axes + 2:
        wanted = wanted[2:]
    if len(wanted) != axes:
        raise ValueError("output_size should be a sequence containing "
                         f"{axes} or {axes + 2} elements, but it has a length of '{len(wanted)}'")
    for i in range(axes):
        low, high = usual[i] - stride[i], usual[i] + stride[i]
        if not low < wanted[i] < high:
            raise ValueError(f'invalid output_size "{wanted}" (dim {i} must be between {low} and '
                             f"{high})")
    return wanted


def _max_unpool(axes: int, input: Tensor, indices: Tensor, kernel_size: Any, stride: Any,
                padding: Any, output_size: Any) -> Tensor:
    if indices.shape != input.shape:
        raise RuntimeError(f"Expected shape of indices to be the same as that of the input tensor "
                           f"({list(input.shape)}) but got indices tensor with shape: "
                           f"{list(indices.shape)}")
    if input.dim() not in (axes + 1, axes + 2):
        raise RuntimeError(f"max_unpool{axes}d: Expected {axes + 1}D or {axes + 2}D input, got "
                           f"{input.dim()}D")
    kernel = _expand(kernel_size, axes)
    step = kernel if stride is None else _expand(stride, axes)
    size = _unpool_size(input, axes, kernel, step, _expand(padding, axes), output_size)
    lead, total = input.shape[:-axes], 1
    for n in size:
        total *= n
    spots = examples(indices)
    if spots.numel() and (int(spots.max()) >= total or int(spots.min()) < 0):
        raise RuntimeError(f"found an invalid max index: {int(spots.max())} (output volumes are "
                           f"of size {'x'.join(map(str, size))})")
    flat = input.new_zeros((*lead, total))
    flat = flat.scatter(-1, indices.flatten(-axes), input.flatten(-axes))
    return flat.reshape(*lead, *size)


@replayed
def max_unpool1d(input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None,
                 padding: Any = 0, output_size: Any = None) -> Tensor:
    """Put pooled values back at `indices` of (N, C, L_out) or (C, L_out), zeros elsewhere."""
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


@replayed
def max_unpool2d(input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None,
                 padding: Any = 0, output_size: Any = None) -> Tensor:
    """Put pooled values back at `indices` of the flattened H x W, zeros elsewhere."""
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


@replayed
def max_unpool3d(input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None,
                 padding: Any = 0, output_size: Any = None) -> Tensor:
    """Put pooled values back at `indices` of the flattened D x H x W, zeros elsewhere."""
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)


# ---- fractional ---------------------------------------------------------------------------------


def _starts(sample: Tensor, size: int, kernel: int, out: int) -> Tensor:
    """First positions of the windows along one axis: sample (N, C) to (N, C, out)."""
    last = size - kernel
    if out == 1:
        return lampion.full((*sample.shape, 1), last, dtype=lampion.int64, device=sample.device)
    alpha = last / (out - 1)
    step = lampion.arange(out - 1, dtype=sample.dtype, device=sample.device)
    offset = sample.unsqueeze(-1)
    inner = ((step + offset) * alpha).to(lampion.int64) - (offset * alpha).to(lampion.int64)
    end = lampion.full((*sample.shape, 1), last, dtype=lampion.int64, device=sample.device)
    return lampion.cat([inner, end], -1)


def _fractional_size(axes: int, input: Tensor, kernel: tuple[int, ...], output_size: Any,
                     output_ratio: Any) -> tuple[int, ...]:
    name = f"fractional_max_pool{axes}d"
    if output_size is None and output_ratio is None:
        raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
    if output_size is None:
        ratios = _expand(output_ratio, axes)
        if len(ratios) != axes:
            raise ValueError(f"{name} requires output_ratio to either be a single Int or tuple of "
                             "Ints.")
        output_size = [int(n * r) for n, r in zip(input.shape[-axes:], ratios)]
    out = _expand(output_size, axes)
    for n, k, o in zip(input.shape[-axes:], kernel, out):
        if o + k - 1 > n:
            raise RuntimeError(f"{name}: pool size {k} with output size {o} is too large relative "
                               f"to input size {n}")
    return out


def _fractional_max_pool(axes: int, input: Tensor, kernel_size: Any, output_size: Any,
                         output_ratio: Any, samples: Tensor | None) -> tuple[Tensor, Tensor]:
    kernel = _expand(kernel_size, axes)
    out = _fractional_size(axes, input, kernel, output_size, output_ratio)
    batched = input.dim() == axes + 2
    x = input if batched else input.unsqueeze(0)
    if samples is None:
        samples = lampion.rand((*x.shape[:2], axes), dtype=x.dtype, device=x.device)
    best, where = _largest_in_windows(x, samples, kernel, tuple(out))
    return (best, where) if batched else (best.squeeze(0), where.squeeze(0))


@replayed
def _largest_in_windows(x: Tensor, samples: Tensor, kernel: tuple[int, ...],
                        out: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(maxima, flat indices) of windows placed by `samples`, which hold the last axis first."""
    axes, lead, space = len(kernel), x.shape[:2], x.shape[2:]
    flat = None
    for axis in range(axes):
        start = _starts(samples[..., axes - 1 - axis], space[axis], kernel[axis], out[axis])
        window = lampion.arange(kernel[axis], device=x.device)
        position = start.unsqueeze(-1) + window
        shape = [*lead, *[1] * (2 * axes)]
        shape[2 + axis], shape[2 + axes + axis] = out[axis], kernel[axis]
        position = position.reshape(shape)
        flat = position if flat is None else flat * space[axis] + position
    windows = math.prod(out), math.prod(kernel)
    index = flat.reshape(*lead, windows[0] * windows[1])
    values = x.flatten(2).gather(2, index).reshape(*lead, *out, windows[1])
    best, at = values.max(-1)
    where = index.reshape(*lead, *out, windows[1]).gather(-1, at.unsqueeze(-1)).squeeze(-1)
    return best, where


def fractional_max_pool2d_with_indices(
        input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(maxima, flat indices) over pseudo-random windows of (N, C, H, W) or (C, H, W)."""
    return _fractional_max_pool(2, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool3d_with_indices(
        input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(maxima, flat indices) over pseudo-random windows of (N, C, D, H, W) or (C, D, H, W)."""
    return _fractional_max_pool(3, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool2d(input: Tensor, kernel_size: Any, output_size: Any = None,
                          output_ratio: Any = None, return_indices: bool = False,
                          _random_samples: Tensor | None = None) -> Any:
    """Maxima over pseudo-random windows of (N, C, H, W), and their indices if asked for."""
    both = _fractional_max_pool(2, input, kernel_size, output_size, output_ratio, _random_samples)
    return both if return_indices else both[0]


def fractional_max_pool3d(input: Tensor, kernel_size: Any, output_size: Any = None,
                          output_ratio: Any = None, return_indices: bool = False,
                          _random_samples: Tensor | None = None) -> Any:
    """Maxima over pseudo-random windows of (N, C, D, H, W), and their indices if asked for."""
    both = _fractional_max_pool(3, input, kernel_size, output_size, output_ratio, _random_samples)
    return both if return_indices else both[0]


def _with_indices(name: str) -> Any:
    def pool(*args: Any, **kwargs: Any) -> Any:
        kwargs["return_indices"] = True
        return getattr(ops, name)(*args, **kwargs)

    pool.__name__ = f"{name}_with_indices"
    pool.__doc__ = f"`{name}` that returns (values, indices)."
    return pool


max_pool1d_with_indices = _with_indices("max_pool1d")
max_pool2d_with_indices = _with_indices("max_pool2d")
max_pool3d_with_indices = _with_indices("max_pool3d")
adaptive_max_pool1d_with_indices = _with_indices("adaptive_max_pool1d")
adaptive_max_pool2d_with_indices = _with_indices("adaptive_max_pool2d")
adaptive_max_pool3d_with_indices = _with_indices("adaptive_max_pool3d")
