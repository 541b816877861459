"""NumPy and SciPy definitions of the elementwise ops: what tests/ops compares with.

A reference takes the arguments of the op as float64 (or complex, integer, bool) arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special as sp


def _relu(x: Any) -> Any:
    return np.where(np.isnan(x), x, np.maximum(x, 0))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _softshrink(x: Any, k: float) -> Any:
    return np.where(x > k, x - k, np.where(x < -k, x + k, 0))


def _gelu(x: Any) -> Any:
    return x * sp.ndtr(x)


def _floor_divide(a: Any, b: Any) -> Any:
    return np.floor_divide(a, b)


def _selu(x: Any) -> Any:
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))


def _where(c: Any, a: Any, b: Any) -> Any:
    return np.where(c, a, b)


def _lerp(a: Any, b: Any, w: Any) -> Any:
    return a + w * (b - a)


REFERENCE: dict[str, Callable[..., Any]] = {
    # arithmetic
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.true_divide,
    "floor_divide": _floor_divide, "remainder": np.mod, "fmod": np.fmod, "neg": np.negative,
    "abs": np.abs, "sign": np.sign, "sgn": np.sign, "reciprocal": lambda x: 1 / x,
    "square": np.square, "pow": np.power, "maximum": np.maximum, "minimum": np.minimum,
    "fmax": np.fmax, "fmin": np.fmin, "clamp": np.clip, "clamp_min": np.maximum,
    "clamp_max": np.minimum, "addcmul": lambda a, b, c, value: a + value * b * c,
    "addcdiv": lambda a, b, c, value: a + value * b / c, "lerp": _lerp, "hypot": np.hypot,
    "copysign": np.copysign, "ldexp": lambda a, b: a * 2.0 ** b, "heaviside": np.heaviside,
    "where": _where,
    "nan_to_num": lambda x, nan, posinf=None, neginf=None: np.nan_to_num(x, nan=nan),
    # comparison, logic, bits
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
    "ne": np.not_equal, "logical_and": np.logical_and, "logical_or": np.logical_or,
    "logical_xor": np.logical_xor, "logical_not": np.logical_not, "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor, "bitwise_not": np.bitwise_not,
    "bitwise_left_shift": np.left_shift, "bitwise_right_shift": np.right_shift,
    "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "isposinf": np.isposinf,
    "isneginf": np.isneginf, "isreal": np.isreal, "signbit": np.signbit,
    # functions of one number
    "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "exp": np.exp, "exp2": np.exp2,
    "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "logaddexp": np.logaddexp, "logaddexp2": np.logaddexp2, "sin": np.sin, "cos": np.cos,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "deg2rad": np.deg2rad, "rad2deg": np.rad2deg,
    "sinc": np.sinc, "sigmoid": _sigmoid, "logit": sp.logit, "floor": np.floor, "ceil": np.ceil,
    "trunc": np.trunc, "frac": lambda x: x - np.trunc(x), "round": np.round, "angle": np.angle,
    "complex": lambda a, b: a + 1j * b, "polar": lambda r, t: r * np.exp(1j * t),
    # special functions
    "lgamma": sp.gammaln, "digamma": sp.digamma, "zeta": sp.zeta, "xlogy": sp.xlogy,
    "xlog1py": sp.xlog1py, "entr": sp.entr, "erf": sp.erf, "erfc": sp.erfc, "erfinv": sp.erfinv,
    "erfcx": sp.erfcx, "ndtr": sp.ndtr, "log_ndtr": sp.log_ndtr, "ndtri": sp.ndtri, "i0": sp.i0,
    "i0e": sp.i0e, "i1": sp.i1, "i1e": sp.i1e, "modified_bessel_i0": sp.i0,
    "modified_bessel_i1": sp.i1, "modified_bessel_k0": sp.k0, "modified_bessel_k1": sp.k1,
    "scaled_modified_bessel_k0": sp.k0e, "scaled_modified_bessel_k1": sp.k1e,
    "bessel_j0": sp.j0, "bessel_j1": sp.j1, "bessel_y0": sp.y0, "bessel_y1": sp.y1,
    "spherical_bessel_j0": lambda x: sp.spherical_jn(0, x), "airy_ai": lambda x: sp.airy(x)[0],
    # activations
    "relu": _relu, "relu6": lambda x: np.clip(x, 0, 6), "hardtanh": np.clip,
    "elu": lambda x, a: np.where(x > 0, x, a * np.expm1(x)), "selu": _selu,
    "celu": lambda x, a: np.where(x > 0, x, a * np.expm1(x / a)),
    "leaky_relu": lambda x, s: np.where(x > 0, x, s * x), "gelu": _gelu,
    "silu": lambda x: x * _sigmoid(x), "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "softplus": lambda x, beta, threshold: np.log1p(np.exp(beta * x)) / beta,
    "logsigmoid": lambda x: -np.log1p(np.exp(-x)), "softsign": lambda x: x / (1 + np.abs(x)),
    "tanhshrink": lambda x: x - np.tanh(x),
    "hardshrink": lambda x, k: np.where(np.abs(x) > k, x, 0), "softshrink": _softshrink,
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "threshold": lambda x, t, v: np.where(x > t, x, v),
}
