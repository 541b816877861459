"""ONNX's quantized arithmetic. Floor 7; imports lampion and this package.

A quantized number q stands for (q - zero point) * scale.
"""

from __future__ import annotations

from typing import Any

import lampion

from ..table import operator
from ..values import CODES, DTYPES, code_of, from_array, is_host_only, to_array
from .casts import FLOAT8, cast_to
from .layers import conv

_RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 21: (0, 15),
           22: (-8, 7), 25: (0, 3), 26: (-2, 1)}


def _spread(s: Any, x: Any, axis: int, block: int) -> Any:
    """Scales or zero points in a shape that goes with x: of all, of an axis, or of its blocks."""
    if s.numel() == 1:
        return s.reshape(())
    if block:
        return s.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return s.reshape([-1 if d == axis % x.ndim else 1 for d in range(x.ndim)])


def _numbers(x: Any, like: Any) -> Any:
    """The numbers of a value, whatever its dtype, as a float32 tensor."""
    if is_host_only(x):
        return from_array(to_array(x).astype("float32"), like.device)
    return x.to(lampion.float32)


@operator("QuantizeLinear", host_only=True)
def quantize_linear(x: Any, y_scale: Any, y_zero_point: Any = None, *, axis: int = 1,
                    block_size: int = 0, output_dtype: int = 0, precision: int = 0,
                    saturate: int = 1, device: Any = None) -> Any:
    """round(x / scale) + zero point, kept within the dtype's range."""
    kind = output_dtype or (2 if y_zero_point is None else code_of(y_zero_point))
    if is_host_only(y_scale):
        y_scale = _numbers(y_scale, x)
    wide = DTYPES[precision] if precision else lampion.promote_types(x.dtype, lampion.float32)
    scaled = x.to(wide) / _spread(y_scale.to(wide), x, axis, block_size)
    if kind not in _RANGES:
        return cast_to(scaled, kind, saturate, device=device)
    low, high = _RANGES[kind]
    q = scaled.round()
    if y_zero_point is not None:
        q = q + _spread(_numbers(y_zero_point, x), x, axis, block_size)
    return cast_to(q.clamp(low, high), kind, device=device)


@operator("DequantizeLinear", host_only=True)
def dequantize_linear(x: Any, x_scale: Any, x_zero_point: Any = None, *, axis: int = 1,
                      block_size: int = 0, output_dtype: int = 0) -> Any:
    """(x - zero point) * scale."""
    kind = DTYPES[output_dtype] if output_dtype else (
        lampion.float32 if is_host_only(x_scale) else x_scale.dtype)
    like = x if is_host_only(x_scale) else x_scale
    if is_host_only(like):
        like = lampion.zeros(())
    numbers = _numbers(x, like)
    if x_zero_point is not None and code_of(x) not in FLOAT8:
        numbers = numbers - _spread(_numbers(x_zero_point, like), numbers, axis, block_size)
    scale = _numbers(x_scale, like)
    return (numbers * _spread(scale, numbers, axis, block_size)).to(kind)


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(x: Any) -> Any:
    """To uint8, with the scale and zero point that the values themselves ask for."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    zero = (-low / scale).round().clamp(0, 255)
    return (((x / scale).round() + zero).clamp(0, 255).to(lampion.uint8), scale,
            zero.to(lampion.uint8))


def _centered(x: Any, zero: Any, axis: int | None = None) -> Any:
    """Integers minus their zero point, in int32."""
    wide = x.to(lampion.int32)
    if zero is None:
        return wide
    z = zero.to(lampion.int32)
    if z.ndim == 1 and z.numel() > 1 and axis is not None:
        z = z.reshape([-1 if d == axis % x.ndim else 1 for d in range(x.ndim)])
    elif z.numel() == 1:
        z = z.reshape(())
    return wide - z


@operator("MatMulInteger")
def matmul_integer(A: Any, B: Any, a_zero_point: Any = None, b_zero_point: Any = None) -> Any:
    """A product of integers, in int32."""
    return lampion.matmul(_centered(A, a_zero_point, -2), _centered(B, b_zero_point, -1))


@operator("ConvInteger")
def conv_integer(x: Any, w: Any, x_zero_point: Any = None, w_zero_point: Any = None,
                 *, auto_pad: str = "NOTSET", dilations: Any = None, group: int = 1,
                 kernel_shape: Any = None, pads: Any = None, strides: Any = None) -> Any:
    """A convolution of integers, in int32."""
    exact = lampion.float64  # holds any sum of such products below 2**53
    out = conv(_centered(x, x_zero_point).to(exact), _centered(w, w_zero_point, 0).to(exact),
               auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape,
               pads=pads, strides=strides)
    return out.to(lampion.int32)


def _requantized(total: Any, factor: Any, zero: Any) -> Any:
    """Sums of products in the quantization of the result."""
    code = CODES[zero.dtype] if not is_host_only(zero) else code_of(zero)
    if code in FLOAT8:
        return cast_to(total.to(lampion.float32) * factor, code)
    low, high = _RANGES[code]
    out = (total.to(lampion.float64) * factor).round() + zero.to(lampion.float64)
    return out.clamp(low, high).to(zero.dtype)


@operator("QLinearMatMul", host_only=True)
def qlinear_matmul(a: Any, a_scale: Any, a_zero_point: Any, b: Any, b_scale: Any,
                   b_zero_point: Any, y_scale: Any, y_zero_point: Any) -> Any:
    """A product of quantized matrices, quantized."""
    factor = (a_scale.to(lampion.float32) * b_scale.to(lampion.float32)
              / y_scale.to(lampion.float32))
    if is_host_only(a):
        total = lampion.matmul(_numbers(a, factor), _numbers(b, factor))
    else:
        total = matmul_integer(a, b, a_zero_point, b_zero_point)
    return _requantized(total, factor, y_zero_point)


@operator("QLinearConv")
def qlinear_conv(x: Any, x_scale: Any, x_zero_point: Any, w: Any, w_scale: Any,
                 w_zero_point: Any, y_scale: Any, y_zero_point: Any, B: Any = None, *,
                 auto_pad: str = "NOTSET", dilations: Any = None, group: int = 1,
                 kernel_shape: Any = None, pads: Any = None, strides: Any = None) -> Any:
    """A convolution of quantized images, quantized."""
    total = conv_integer(x, w, x_zero_point, w_zero_point, auto_pad=auto_pad,
                         dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads,
                         strides=strides)
    shape = [1, -1] + [1] * (x.ndim - 2)
    if B is not None:
        total = total + B.reshape(shape)
    factor = x_scale * w_scale / y_scale
    return _requantized(total, factor.reshape(shape) if factor.numel() > 1 else factor.reshape(()),
                        y_zero_point)


