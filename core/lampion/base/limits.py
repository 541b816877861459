"""`finfo` and `iinfo`: the numeric limits of dtypes, and which numbers they can hold.

Floor 0; imports dtype. Figures come from NumPy (ml_dtypes for bfloat16).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import dtype as dt
from .dtype import dtype

LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38,
           "float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}


def check_fits(value: Any, d: dtype) -> None:
    """RuntimeError if writing a Python number into a dtype would change it beyond rounding: a
    finite one to an infinity, a whole one around the end. Unsigned types also take negative
    numbers, -1 as their largest; bool takes all; infinities and NaN fit where there are such.

    >>> check_fits(-1, dt.uint8)
    >>> check_fits(1e6, dt.float16)
    Traceback (most recent call last):
    RuntimeError: value cannot be converted to type float16 without overflow
    """
    if -128 <= value < 128 or d.kind == "b":
        return
    if d.kind in "ui":
        high: Any = (1 << 8 * d.itemsize - (d.kind == "i")) - 1
        low = -high - (d.kind == "i")
    else:
        if not math.isfinite(value):
            return
        high = LARGEST[d.to_real().name]
        low = -high
    if not low <= value <= high:
        raise RuntimeError(f"value cannot be converted to type {d.name} without overflow")


class finfo:
    """Limits of a floating dtype (of its parts if complex): `bits`, `eps` (1.0 to the next
    number), `min`, `max`, `tiny` and `smallest_normal`, `resolution` (10 to the minus number of
    decimal digits). Without an argument, of the default dtype. TypeError for other dtypes.

    >>> finfo(dt.float32).eps
    1.1920928955078125e-07
    """

    def __init__(self, type: dtype | None = None) -> None:
        d = dt.get_default_dtype() if type is None else type
        if not isinstance(d, dtype) or d.kind not in "fc":
            raise TypeError(f"lampion.finfo() requires a floating point input type, got {d!r}. "
                            "Use lampion.iinfo to handle 'lampion.iinfo'")
        real = d.to_real()
        found: Any
        if real is dt.bfloat16 or real.name in dt.NAMED:
            import ml_dtypes

            found = ml_dtypes.finfo(real.np)
        else:
            found = np.finfo(real.np)
        self.dtype = real.name
        self.bits = real.itemsize * 8
        self.eps, self.min, self.max = float(found.eps), float(found.min), float(found.max)
        self.tiny = self.smallest_normal = float(found.smallest_normal)
        self.resolution = 1.0 if real.itemsize == 1 else 10.0 ** -int(found.precision)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, finfo) and self.dtype == other.dtype

    def __hash__(self) -> int:
        return hash(("finfo", self.dtype))

    def __repr__(self) -> str:
        return (f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, "
                f"eps={self.eps:g}, smallest_normal={self.smallest_normal:g}, "
                f"tiny={self.tiny:g}, dtype={self.dtype})")


class iinfo:
    """Limits of an integer dtype: `bits`, `min`, `max`. TypeError for other dtypes.

    >>> iinfo(dt.int8)
    iinfo(min=-128, max=127, dtype=int8)
    """

    def __init__(self, type: dtype) -> None:
        if not isinstance(type, dtype) or type.kind not in "ui":
            raise TypeError(f"lampion.iinfo() requires an integer input type, got {type!r}. "
                            "Use lampion.finfo to handle 'lampion.finfo'")
        self.dtype = type.name
        self.bits = type.itemsize * 8
        signed = type.kind == "i"
        self.min = -(1 << (self.bits - 1)) if signed else 0
        self.max = (1 << (self.bits - signed)) - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, iinfo) and self.dtype == other.dtype

    def __hash__(self) -> int:
        return hash(("iinfo", self.dtype))

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"


__all__ = ["LARGEST", "check_fits", "finfo", "iinfo"]
