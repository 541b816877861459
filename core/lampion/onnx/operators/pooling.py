"""ONNX's pooling operators. Floor 7; imports lampion and this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lampion

from ...nn import functional as F
from ..table import operator
from .layers import same_pads


class Windows:
    """The geometry of a pooling operator: outputs, pads and reach of every dim."""

    def __init__(self, x: Any, kernel: Sequence[int], strides: Any, dilations: Any, pads: Any,
                 auto_pad: str, ceil_mode: int) -> None:
        n = len(kernel)
        self.kernel = list(kernel)
        self.strides, self.dilations = list(strides or [1] * n), list(dilations or [1] * n)
        sizes = x.shape[2:]
        if auto_pad == "VALID":
            ceil_mode = 0
        self.pads = same_pads(auto_pad, sizes, kernel, self.strides, self.dilations, pads)
        self.out, self.more = [], []  # outputs; elements that the last window lacks at the end
        for k, size in enumerate(sizes):
            begin, end = self.pads[k], self.pads[n + k]
            reach = (self.kernel[k] - 1) * self.dilations[k] + 1
            free = size + begin + end - reach
            count = (-(-free // self.strides[k]) if ceil_mode else free // self.strides[k]) + 1
            if ceil_mode and (count - 1) * self.strides[k] >= size + begin:
                count -= 1
            self.out.append(count)
            self.more.append((count - 1) * self.strides[k] + reach - size - begin)

    def pad(self, x: Any, value: float) -> Any:
        """The input with all that windows reach."""
        n = len(self.kernel)
        flat = [p for k in reversed(range(n)) for p in (self.pads[k], self.more[k])]
        return F.pad(x, flat, value=value) if any(flat) else x

    def views(self, x: Any, value: float) -> Any:
        """All windows of an input that is padded with a value: a last dim of their elements."""
        x = self.pad(x, value)
        n = len(self.kernel)
        for k in range(n):
            reach = (self.kernel[k] - 1) * self.dilations[k] + 1
            x = x.unfold(2 + k, reach, self.strides[k])[..., ::self.dilations[k]]
        return x.flatten(2 + n)


def _lowest(kind: Any) -> Any:
    return -float("inf") if kind.is_floating_point else lampion.iinfo(kind).min


@operator("MaxPool")
def max_pool(X: Any, *, auto_pad: str = "NOTSET", ceil_mode: int = 0,
             dilations: Sequence[int] | None = None, kernel_shape: Sequence[int],
             pads: Sequence[int] | None = None, storage_order: int = 0,
             strides: Sequence[int] | None = None, outputs: int = 1) -> Any:
    """The largest of each window, and where in the input it is."""
    w = Windows(X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    n = len(w.kernel)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1] if n <= 3 else None
    low = _lowest(X.dtype)
    if outputs == 1:
        if pool is not None and X.is_floating_point():
            return pool(w.pad(X, low), w.kernel, w.strides, 0, w.dilations)
        return w.views(X, low).amax(-1)
    views = w.views(X, low)
    best = views.argmax(-1)
    at = lampion.arange(math.prod(X.shape[2:]), device=X.device).reshape(1, 1, *X.shape[2:])
    if storage_order:  # counted with the last two dims in the order of columns
        at = at.reshape(1, 1, *X.shape[2:][::-1]).permute(0, 1, *range(2, 2 + n)[::-1])
    where = w.views(at, 0).expand(*X.shape[:2], *views.shape[2:])
    where = where.gather(-1, best.unsqueeze(-1)).squeeze(-1)
    planes = lampion.arange(X.shape[0] * X.shape[1], device=X.device).reshape(
        *X.shape[:2], *[1] * n)
    return views.amax(-1), where + planes * math.prod(X.shape[2:])


@operator("AveragePool")
def average_pool(X: Any, *, auto_pad: str = "NOTSET", ceil_mode: int = 0,
                 count_include_pad: int = 0, dilations: Sequence[int] | None = None,
                 kernel_shape: Sequence[int], pads: Sequence[int] | None = None,
                 strides: Sequence[int] | None = None) -> Any:
    """The mean of each window, of the input's own elements or of pads, too."""
    w = Windows(X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    n = len(w.kernel)
    if n <= 3 and set(w.dilations) == {1} and w.pads == [0] * (2 * n) and max(w.more) <= 0:
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n - 1]
        return pool(X, w.kernel, w.strides)
    ones = lampion.ones(1, 1, *X.shape[2:], dtype=X.dtype, device=X.device)
    if count_include_pad:
        flat = [p for k in reversed(range(n)) for p in (w.pads[k], w.pads[n + k])]
        ones = F.pad(ones, flat, value=1.0)
        inner = Windows(ones, kernel_shape, strides, dilations, None, "NOTSET", ceil_mode)
        inner.more = [m - w.pads[n + k] for k, m in enumerate(w.more)]
        counts = inner.views(ones, 0.0).sum(-1)
    else:
        counts = w.views(ones, 0.0).sum(-1)
    return w.views(X, 0.0).sum(-1) / counts


@operator("LpPool")
def lp_pool(X: Any, *, auto_pad: str = "NOTSET", ceil_mode: int = 0,
            dilations: Sequence[int] | None = None, kernel_shape: Sequence[int], p: int = 2,
            pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Any:
    """The p-norm of each window."""
    w = Windows(X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    return (w.views(X, 0.0).abs() ** p).sum(-1) ** (1.0 / p)


def _global_dims(X: Any) -> tuple[int, ...]:
    return tuple(range(2, X.ndim))


@operator("GlobalAveragePool")
def global_average_pool(X: Any) -> Any:
    """The mean of each channel."""
    return X.mean(_global_dims(X), True)


@operator("GlobalMaxPool")
def global_max_pool(X: Any) -> Any:
    """The largest of each channel."""
    return X.amax(_global_dims(X), True)


@operator("GlobalLpPool")
def global_lp_pool(X: Any, *, p: int = 2) -> Any:
    """The p-norm of each channel."""
    return (X.abs() ** p).sum(_global_dims(X), True) ** (1.0 / p)


@operator("MaxUnpool", host=(2,))
def max_unpool(X: Any, I: Any, output_shape: Any = None, *,  # noqa: E741
               kernel_shape: Sequence[int], pads: Sequence[int] | None = None,
               strides: Sequence[int] | None = None) -> Any:
    """Values put back where they were the largest; 0 elsewhere."""
    n = len(kernel_shape)
    strides, pads = list(strides or [1] * n), list(pads or [0] * (2 * n))
    inner = [(size - 1) * s - pads[k] - pads[n + k] + kernel_shape[k]
             for k, (size, s) in enumerate(zip(X.shape[2:], strides))]
    planes = X.shape[0] * X.shape[1]
    flat = lampion.zeros(planes * math.prod(inner), dtype=X.dtype, device=X.device)
    out = flat.scatter(0, I.reshape(-1), X.reshape(-1)).reshape(*X.shape[:2], *inner)
    if output_shape is None:
        return out
    wanted = [int(v) for v in output_shape.reshape(-1)][2:]
    return F.pad(out, [p for a, b in zip(reversed(wanted), reversed(inner)) for p in (0, a - b)])


@operator("Col2Im", host=(1, 2))
def col2im(input: Any, image_shape: Any, block_shape: Any, *,
           dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None,
           strides: Sequence[int] | None = None) -> Any:
    """Columns of windows added up into an image of any number of dims."""
    sizes = [int(v) for v in image_shape.reshape(-1)]
    kernel = [int(v) for v in block_shape.reshape(-1)]
    n = len(sizes)
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    pads = list(pads or [0] * (2 * n))
    wide = [s + pads[k] + pads[n + k] for k, s in enumerate(sizes)]
    count = [(wide[k] - (kernel[k] - 1) * dilations[k] - 1) // strides[k] + 1 for k in range(n)]
    index = lampion.zeros((), dtype=lampion.int64)
    for k in range(n):
        at = (lampion.arange(kernel[k]).reshape(-1, 1) * dilations[k]
              + lampion.arange(count[k]) * strides[k])
        place = [1] * (2 * n)
        place[k], place[n + k] = kernel[k], count[k]
        index = index * wide[k] + at.reshape(place)
    batch, width = input.shape[0], math.prod(kernel)
    channels = input.shape[1] // width
    values = input.reshape(batch, channels, -1)
    flat = lampion.zeros(batch, channels, math.prod(wide), dtype=input.dtype,
                         device=input.device)
    out = flat.index_add(2, index.reshape(-1).to(input.device), values).reshape(
        batch, channels, *wide)
    for k, size in enumerate(sizes):
        out = out.narrow(2 + k, pads[k], size)
    return out
