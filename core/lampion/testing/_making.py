"""`make_tensor`: random tensors of any dtype for tests. Floor 7; imports factories and draws."""

from __future__ import annotations

import math
from typing import Any

import lampion

from ..base import dtype as dt
from ..base.limits import finfo, iinfo
from ..tensor import Tensor


def make_tensor(*shape: Any, dtype: dt.dtype, device: Any = None, low: float | None = None,
                high: float | None = None, requires_grad: bool = False,
                noncontiguous: bool = False, exclude_zero: bool = False,
                memory_format: Any = None) -> Tensor:
    """A tensor filled uniformly from [low, high): by default [-9, 9) for floating and complex
    dtypes and [-9, 10) for integers ([0, 10) for unsigned ones, [0, 2) for bool).

    `exclude_zero` replaces zeros by the smallest positive value (1 for integers). ValueError for
    an empty range, for both `noncontiguous` and `memory_format`, and for `requires_grad` of an
    integer dtype.

    >>> make_tensor(2, 3, dtype=dt.float32, low=0, high=1).shape
    Size([2, 3])
    """
    sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if noncontiguous and memory_format is not None:
        raise ValueError("The parameters `noncontiguous` and `memory_format` are mutually "
                         f"exclusive, but got {noncontiguous=} and {memory_format=}")
    if requires_grad and dtype.kind not in "fc":
        raise ValueError("`requires_grad=True` is not supported for boolean and integral dtypes, "
                         f"but got {dtype=}")
    low, high = _range(dtype, low, high)
    full = (*sizes[:-1], 2 * sizes[-1]) if noncontiguous and sizes else sizes
    if dtype.kind in "bui":
        made = lampion.randint(math.ceil(low), math.ceil(high), full, dtype=dtype, device=device)
    elif dtype.kind == "c":
        parts = [_uniform(full, dtype.to_real(), device, low, high) for _ in range(2)]
        made = lampion.complex(*parts)
    else:
        made = _uniform(full, dtype, device, low, high)
    if exclude_zero:
        least = 1 if dtype.kind in "bui" else finfo(dtype).tiny
        made = lampion.where(made == 0, lampion.full_like(made, least), made)
    if noncontiguous and sizes:
        made = made[..., ::2]
    if memory_format is not None:
        made = made.clone(memory_format=memory_format)
    return made.requires_grad_(requires_grad) if requires_grad else made


def _uniform(shape: tuple[int, ...], d: dt.dtype, device: Any, low: float, high: float) -> Tensor:
    """Drawn wide, so that 16-bit dtypes reach all their values, never `high` itself."""
    wide = dt.float64 if d is dt.float64 else dt.float32
    made = (lampion.rand(shape, dtype=wide, device=device) * (high - low) + low).to(d)
    below = lampion.nextafter(lampion.tensor(high, dtype=d), lampion.tensor(low, dtype=d))
    return made.clamp(max=below.item())


def _range(d: dt.dtype, low: float | None, high: float | None) -> tuple[float, float]:
    """The bounds asked for, or the dtype's defaults, within what the dtype can hold."""
    if d.kind == "b":
        first, last, default = 0.0, 2.0, (0, 2)
    elif d.kind in "ui":
        info = iinfo(d)
        first, last, default = info.min, info.max + 1, (0 if d.kind == "u" else -9, 10)
    else:
        limit = finfo(d).max
        first, last, default = -limit, limit, (-9, 9)
    low = default[0] if low is None else low
    high = default[1] if high is None else high
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"`low` and `high` cannot be NaN, but got {low=} and {high=}")
    low, high = max(low, first), min(high, last)
    if low >= high:
        raise ValueError(f"make_tensor: the range [{low}, {high}) of values for {d!r} is empty")
    return low, high
