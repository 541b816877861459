"""Casts between ONNX's dtypes, also those that lampion lacks. Floor 7; imports lampion and this
package.

A value of such a dtype is a NumPy array of ml_dtypes' on the host; it becomes a tensor when it is
cast to a dtype that lampion has.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from ..table import operator
from ..values import DTYPES, STRING, code_of, from_array, numpy_dtype, to_array

FLOAT8 = (17, 18, 19, 20)  # E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ
_E8M0, _FLOAT4 = 24, 23
_SMALL_INTS = (21, 22, 25, 26)  # UINT4, INT4, UINT2, INT2


def cast_to(value: Any, to: int, saturate: int = 1, round_mode: str = "up",
            device: Any = None) -> Any:
    """A value in the dtype of a TensorProto.DataType."""
    if not isinstance(value, np.ndarray) and to in DTYPES:
        return value.to(DTYPES[to])
    array = to_array(value)
    if to == STRING:
        return _text(array)
    if array.dtype.kind == "O":
        array = np.array([float(s) for s in array.reshape(-1)], np.float64).reshape(array.shape)
        return from_array(array.astype(numpy_dtype(to)), device)
    if array.dtype.kind == "V" or to not in DTYPES:  # ml_dtypes' own
        array = array.astype(np.float32 if array.dtype != np.float64 else np.float64)
    return from_array(_narrow(array, to, saturate, round_mode), device)


def _narrow(array: Any, to: int, saturate: int, round_mode: str) -> Any:
    """A NumPy array of numbers in another dtype."""
    kind = numpy_dtype(to)
    if to == _E8M0:
        return _powers(array, saturate, round_mode)
    if to == _FLOAT4 or (saturate and to in FLOAT8):
        limit = float(ml_dtypes.finfo(kind).max)
        array = np.clip(array, -limit, limit)
    elif to in _SMALL_INTS:
        bits = ml_dtypes.iinfo(kind).bits
        low = int(ml_dtypes.iinfo(kind).min)
        array = (np.trunc(array).astype(np.int64) - low) % (1 << bits) + low
    with np.errstate(invalid="ignore", over="ignore"):
        return array.astype(kind)


def _powers(array: Any, saturate: int, round_mode: str) -> Any:
    """Magnitudes as powers of two, 2**-127 to 2**127: the exponents of float32, rounded."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    exponent = ((bits >> 23) & 255).astype(np.int64)
    fraction = bits & 0x7FFFFF
    normal = exponent != 255
    if round_mode == "up":
        more = fraction > 0
    elif round_mode == "nearest":
        half = 0x400000
        more = (fraction > half) | ((fraction == half) & (exponent > 0))
    else:
        more = np.zeros_like(normal)
    code = np.where(normal & more, exponent + 1, exponent)
    if saturate:
        code = np.where(normal, np.minimum(code, 254), code)
    return np.minimum(code, 255).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)


def _text(array: Any) -> Any:
    """Numbers as Python writes them."""
    kind = array.dtype
    if kind.kind == "O":
        return array
    if kind == np.dtype(ml_dtypes.bfloat16):
        array = array.astype(np.float32)
    return array.astype(np.str_).astype(object)


@operator("Cast", host_only=True)
def cast(input: Any, *, to: int, saturate: int = 1, round_mode: str = "up",
         device: Any = None) -> Any:
    """Values in another dtype."""
    return cast_to(input, to, saturate, round_mode, device)


@operator("CastLike", host_only=True)
def cast_like(input: Any, target_type: Any, *, saturate: int = 1, round_mode: str = "up",
              device: Any = None) -> Any:
    """Values in another value's dtype."""
    return cast_to(input, code_of(target_type), saturate, round_mode, device)


@operator("BitCast", host_only=True)
def bit_cast(input: Any, *, to: int, device: Any = None) -> Any:
    """The bits of values, read as another dtype of the same size."""
    if not isinstance(input, np.ndarray) and to in DTYPES:
        return input.contiguous().view(DTYPES[to])
    array = np.ascontiguousarray(to_array(input))
    return from_array(array.view(numpy_dtype(to)).reshape(array.shape), device)
