"""ONNX operators that shape, join and split tensors. Floor 7; imports lampion and this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lampion

from ...nn import functional as F
from ..table import operator
from ..values import from_array, on_host


def ints(value: Any) -> list[int]:
    """An array of integers, or an attribute, as a list."""
    return [int(v) for v in (value.reshape(-1) if hasattr(value, "reshape") else value)]


@operator("Identity", host_only=True)
def identity(input: Any) -> Any:
    """The value itself."""
    return input


@operator("Shape", moves=True)
def shape(data: Any, *, start: int = 0, end: int | None = None) -> Any:
    """The sizes of dims, in host memory."""
    return on_host(list(data.shape)[slice(start, end)], dtype=lampion.int64)


@operator("Size", moves=True)
def size(data: Any) -> Any:
    """The number of elements, in host memory."""
    return on_host(data.numel(), dtype=lampion.int64)


@operator("Reshape", host=(1,), moves=True)
def reshape(data: Any, shape: Any, *, allowzero: int = 0) -> Any:
    """The elements in another shape; 0 keeps a dim (unless `allowzero`), -1 is what is left."""
    sizes = ints(shape)
    if not allowzero:
        sizes = [data.shape[k] if s == 0 else s for k, s in enumerate(sizes)]
    return data.reshape(sizes)


@operator("Transpose", moves=True)
def transpose(data: Any, *, perm: Sequence[int] | None = None) -> Any:
    """Dims in another order, reversed by default."""
    return data.permute(tuple(perm) if perm is not None else tuple(range(data.ndim))[::-1])


@operator("Flatten", moves=True)
def flatten(input: Any, *, axis: int = 1) -> Any:
    """A matrix of the dims before an axis and those from it on."""
    axis = axis + input.ndim if axis < 0 else axis
    return input.reshape(math.prod(input.shape[:axis]), math.prod(input.shape[axis:]))


@operator("Squeeze", host=(1,), moves=True)
def squeeze(data: Any, axes: Any = None) -> Any:
    """Without dims of size 1: all of them, or those named. RuntimeError if one is larger."""
    if axes is None:
        return data.squeeze()
    dims = tuple(ints(axes))
    for d in dims:
        if data.shape[d] != 1:
            raise RuntimeError(f"Squeeze: dim {d} of shape {list(data.shape)} is not of size 1")
    return data.squeeze(dims) if dims else data


@operator("Unsqueeze", host=(1,), moves=True)
def unsqueeze(data: Any, axes: Any) -> Any:
    """With dims of size 1 at the places named."""
    dims = ints(axes)
    ndim = data.ndim + len(dims)
    for d in sorted(d % ndim for d in dims):
        data = data.unsqueeze(d)
    return data


@operator("Concat", moves=True)
def concat(*inputs: Any, axis: int = 1) -> Any:
    """Tensors joined along a dim."""
    return lampion.cat(inputs, axis)


@operator("Split", host=(1,), moves=True)
def split(input: Any, split: Any = None, *, axis: int = 0, num_outputs: int | None = None,
          outputs: int = 1) -> Any:
    """Parts along a dim: of the sizes given, or as equal as can be."""
    if split is not None:
        return tuple(input.split(ints(split), axis))
    count = num_outputs or outputs
    size = input.shape[axis]
    each = -(-size // count)
    sizes = [max(0, min(each, size - each * k)) for k in range(count)]
    return tuple(input.split(sizes, axis))


@operator("Slice", host=(1, 2, 3, 4), moves=True)
def slice_(data: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    """Ranges of indices along dims; steps may be negative."""
    starts, ends = ints(starts), ints(ends)
    dims = ints(axes) if axes is not None else list(range(len(starts)))
    strides = ints(steps) if steps is not None else [1] * len(starts)
    for d, start, end, step in zip(dims, starts, ends, strides):
        n = data.shape[d]
        if step > 0:
            index = tuple([slice(None)] * (d % data.ndim)) + (slice(start, end, step),)
            data = data[index]
            continue
        chosen = range(*slice(start, end, step).indices(n)) if end >= -n else range(
            *slice(start, None, step).indices(n))
        low = min(chosen, default=0)
        back = data.narrow(d, low, max(chosen, default=-1) - low + 1).flip(d)
        if step < -1:
            back = back[tuple([slice(None)] * (d % data.ndim)) + (slice(None, None, -step),)]
        data = back
    return data


@operator("Expand", host=(1,), moves=True)
def expand(input: Any, shape: Any) -> Any:
    """Broadcast with a shape (either may have the larger dims)."""
    return input.expand(lampion.broadcast_shapes(tuple(input.shape), tuple(ints(shape))))


@operator("Tile", host=(1,), moves=True)
def tile(input: Any, repeats: Any) -> Any:
    """Repeated along each dim."""
    return input.repeat(ints(repeats))


_MODES = {"edge": "replicate", "reflect": "reflect", "wrap": "circular"}


@operator("Pad", host=(1, 2, 3), moves=True)
def pad(data: Any, pads: Any, constant_value: Any = None, axes: Any = None, *,
        mode: str = "constant", value: float = 0.0) -> Any:
    """More (or, where pads are negative, fewer) elements at both ends of dims."""
    dims = [d % data.ndim for d in ints(axes)] if axes is not None else list(range(data.ndim))
    given = ints(pads)
    both = {d: (given[k], given[k + len(dims)]) for k, d in enumerate(dims)}
    if mode == "constant":
        flat = [p for d in reversed(range(data.ndim)) for p in both.get(d, (0, 0))]
        number = value if constant_value is None or not constant_value.size else (
            constant_value.reshape(-1)[0].item())
        if data.dtype is lampion.bool:
            return F.pad(data.to(lampion.uint8), flat, value=int(number)).to(lampion.bool)
        return F.pad(data, flat, value=number)
    for d, (before, after) in both.items():
        data = data.index_select(d, _reached(data.shape[d], before, after, mode, data.device))
    return data


def _reached(n: int, before: int, after: int, mode: str, device: Any) -> Any:
    """Which of n elements a dim with more ends shows."""
    at = range(-before, n + after)
    if mode == "edge":
        found = [min(max(k, 0), n - 1) for k in at]
    elif mode == "wrap":
        found = [k % n for k in at]
    else:
        period = max(2 * (n - 1), 1)
        found = [min(k % period, period - k % period) if n > 1 else 0 for k in at]
    return lampion.tensor(found, dtype=lampion.int64, device=device)


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(input: Any, *, value: Any = None, device: Any = None) -> Any:
    """A tensor of one value, by default the float32 0."""
    if value is None:
        return lampion.zeros(ints(input), dtype=lampion.float32, device=device)
    if hasattr(value, "dtype") and not isinstance(value, lampion.Tensor):
        value = from_array(value)
    return lampion.full(ints(input), value.reshape(-1)[0].item(), dtype=value.dtype,
                        device=device)


@operator("Range", host=(0, 1, 2))
def range_(start: Any, limit: Any, delta: Any, *, stash_type: int = 1, device: Any = None) -> Any:
    """start, start + delta, ... up to before limit."""
    first, end, step = (v.reshape(-1)[0] for v in (start, limit, delta))
    kind = from_array(start).dtype
    if kind.is_floating_point:
        first, end, step = float(first), float(end), float(step)
    else:
        first, end, step = int(first), int(end), int(step)
    count = max(math.ceil((end - first) / step), 0)
    wide = lampion.float64 if kind is lampion.float64 else (
        lampion.float32 if kind.is_floating_point else lampion.int64)
    if kind in (lampion.float16, lampion.bfloat16) and stash_type != 1:
        wide = kind
    steps = lampion.arange(count, dtype=wide, device=device)
    return (steps * step + first).to(kind)


@operator("EyeLike")
def eye_like(input: Any, *, dtype: int | None = None, k: int = 0) -> Any:
    """Ones on the k-th diagonal of a matrix, else zeros."""
    from ..values import DTYPES

    kind = input.dtype if dtype is None else DTYPES[dtype]
    rows, columns = input.shape
    ones = lampion.ones(rows, columns, dtype=lampion.int32, device=input.device)
    return ones.triu(k).tril(k).to(kind)


@operator("Trilu", host=(1,))
def trilu(input: Any, k: Any = None, *, upper: int = 1) -> Any:
    """The upper or lower triangle of matrices, from the k-th diagonal on."""
    number = 0 if k is None else int(k.reshape(-1)[0])
    return input.triu(number) if upper else input.tril(number)


@operator("DepthToSpace")
def depth_to_space(input: Any, *, blocksize: int, mode: str = "DCR") -> Any:
    """Blocks of channels become blocks of pixels."""
    n, c, h, w = input.shape
    if mode == "CRD":
        return F.pixel_shuffle(input, blocksize)
    x = input.reshape(n, blocksize, blocksize, c // blocksize ** 2, h, w)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c // blocksize ** 2, h * blocksize,
                                               w * blocksize)


@operator("SpaceToDepth")
def space_to_depth(input: Any, *, blocksize: int, mode: str = "DCR") -> Any:
    """Blocks of pixels become channels."""
    n, c, h, w = input.shape
    x = input.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return x.permute(order).reshape(n, c * blocksize ** 2, h // blocksize, w // blocksize)


@operator("CenterCropPad", host=(1,))
def center_crop_pad(input_data: Any, shape: Any, *, axes: Sequence[int] | None = None) -> Any:
    """The middle of the input, with zeros around it where it is too small."""
    dims = list(range(input_data.ndim)) if axes is None else [a % input_data.ndim for a in axes]
    pads = [0] * (2 * input_data.ndim)
    for d, size in zip(dims, ints(shape)):
        more = size - input_data.shape[d]
        before = more // 2 if more > 0 else -(-more // 2)
        at = 2 * (input_data.ndim - 1 - d)
        pads[at], pads[at + 1] = before, more - before
    return F.pad(input_data, pads)
