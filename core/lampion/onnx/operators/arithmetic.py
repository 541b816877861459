"""ONNX operators that work element by element. Floor 7; imports lampion and this package."""

from __future__ import annotations

import functools
from typing import Any

import lampion

from ...nn import functional as F
from ..table import binary, operator, unary

for _name, _fn in {
        "Abs": lampion.abs, "Acos": lampion.acos, "Acosh": lampion.acosh, "Asin": lampion.asin,
        "Asinh": lampion.asinh, "Atan": lampion.atan, "Atanh": lampion.atanh,
        "BitwiseNot": lampion.bitwise_not, "Ceil": lampion.ceil, "Cos": lampion.cos,
        "Cosh": lampion.cosh, "Det": lampion.det, "Erf": lampion.erf, "Exp": lampion.exp,
        "Floor": lampion.floor, "HardSwish": F.hardswish, "IsNaN": lampion.isnan,
        "Log": lampion.log, "Mish": F.mish, "Neg": lampion.neg, "Not": lampion.logical_not,
        "Reciprocal": lampion.reciprocal, "Relu": lampion.relu, "Round": lampion.round,
        "Sigmoid": lampion.sigmoid, "Sign": lampion.sign, "Sin": lampion.sin,
        "Sinh": lampion.sinh, "Softplus": F.softplus, "Softsign": F.softsign,
        "Sqrt": lampion.sqrt, "Tan": lampion.tan, "Tanh": lampion.tanh}.items():
    unary(_name, _fn)

for _name, _op in {
        "Add": lampion.add, "Sub": lampion.sub, "Mul": lampion.mul,
        "And": lampion.logical_and, "Or": lampion.logical_or, "Xor": lampion.logical_xor,
        "BitwiseAnd": lampion.bitwise_and, "BitwiseOr": lampion.bitwise_or,
        "BitwiseXor": lampion.bitwise_xor, "Greater": lampion.gt, "Less": lampion.lt,
        "GreaterOrEqual": lampion.ge, "LessOrEqual": lampion.le}.items():
    binary(_name, _op)
binary("Equal", lampion.eq, moves=True)


def _is_whole(t: Any) -> bool:
    return not (t.is_floating_point() or t.is_complex())


@operator("Div")
def div(A: Any, B: Any) -> Any:
    """Quotients; those of integers are truncated."""
    return lampion.div(A, B, rounding_mode="trunc" if _is_whole(A) else None)


@operator("Mod")
def mod(A: Any, B: Any, *, fmod: int = 0) -> Any:
    """Remainders with the sign of B, or of A with `fmod`."""
    return lampion.fmod(A, B) if fmod else lampion.remainder(A, B)


@operator("Pow")
def power(X: Any, Y: Any) -> Any:
    """X ** Y in X's dtype."""
    if _is_whole(X) and _is_whole(Y):
        return lampion.pow(X, Y.to(X.dtype))
    return lampion.pow(X, Y).to(X.dtype)


@operator("BitShift")
def bit_shift(X: Any, Y: Any, *, direction: str) -> Any:
    """Bits shifted to the "LEFT" or "RIGHT"."""
    return lampion.bitwise_left_shift(X, Y) if direction == "LEFT" else (
        lampion.bitwise_right_shift(X, Y))


@operator("Max")
def largest(*inputs: Any) -> Any:
    """The largest of all inputs; NaN where one is NaN."""
    return functools.reduce(lampion.maximum, inputs)


@operator("Min")
def smallest(*inputs: Any) -> Any:
    """The smallest of all inputs; NaN where one is NaN."""
    return functools.reduce(lampion.minimum, inputs)


@operator("Sum")
def total(*inputs: Any) -> Any:
    """The sum of all inputs."""
    return functools.reduce(lampion.add, inputs)


@operator("Mean")
def mean(*inputs: Any) -> Any:
    """The mean of all inputs."""
    return total(*inputs) / len(inputs)


@operator("Clip")
def clip(input: Any, min: Any = None, max: Any = None) -> Any:
    """Values kept between bounds; attributes before opset 11."""
    for bound, keep in ((min, lampion.maximum), (max, lampion.minimum)):
        if bound is not None:
            b = bound if hasattr(bound, "dtype") else lampion.tensor(
                bound, dtype=input.dtype, device=input.device)
            input = keep(input, b.to(input.dtype))
    return input


@operator("LeakyRelu")
def leaky_relu(X: Any, *, alpha: float = 0.01) -> Any:
    """X, or alpha X where it is negative."""
    return F.leaky_relu(X, alpha)


@operator("PRelu")
def prelu(X: Any, slope: Any) -> Any:
    """X, or slope X where it is negative."""
    return lampion.where(X < 0, slope * X, X)


@operator("Elu")
def elu(X: Any, *, alpha: float = 1.0) -> Any:
    """X, or alpha (exp X - 1) where it is negative."""
    return F.elu(X, alpha)


@operator("Celu")
def celu(X: Any, *, alpha: float = 1.0) -> Any:
    """max(0, X) + min(0, alpha (exp(X / alpha) - 1))."""
    return F.celu(X, alpha)


@operator("Selu")
def selu(X: Any, *, alpha: float = 1.67326319217681884765625,
         gamma: float = 1.05070102214813232421875) -> Any:
    """gamma X, or gamma alpha (exp X - 1) where X is not positive."""
    return gamma * lampion.where(X > 0, X, alpha * lampion.expm1(X))


@operator("ThresholdedRelu")
def thresholded_relu(X: Any, *, alpha: float = 1.0) -> Any:
    """X where it is above alpha, else 0."""
    return F.threshold(X, alpha, 0.0)


@operator("HardSigmoid")
def hard_sigmoid(X: Any, *, alpha: float = 0.2, beta: float = 0.5) -> Any:
    """alpha X + beta, kept between 0 and 1."""
    return lampion.clamp(X * alpha + beta, 0.0, 1.0)


@operator("Gelu")
def gelu(X: Any, *, approximate: str = "none") -> Any:
    """X times the normal distribution's integral up to it."""
    return F.gelu(X, approximate=approximate)


@operator("Swish")
def swish(X: Any, *, alpha: float = 1.0) -> Any:
    """X sigmoid(alpha X)."""
    return X * lampion.sigmoid(X if alpha == 1.0 else X * alpha)


@operator("SwiGLU")
def swiglu(A: Any, B: Any, *, alpha: float = 1.0) -> Any:
    """swish(A) B."""
    return swish(A, alpha=alpha) * B


@operator("Shrink")
def shrink(input: Any, *, bias: float = 0.0, lambd: float = 0.5) -> Any:
    """input nearer to 0 by bias where its magnitude is above lambd, else 0."""
    zero = lampion.zeros_like(input)
    return lampion.where(input < -lambd, input + bias,
                         lampion.where(input > lambd, input - bias, zero)).to(input.dtype)


@operator("IsInf")
def is_inf(X: Any, *, detect_negative: int = 1, detect_positive: int = 1) -> Any:
    """Where X is infinite, with one of the signs asked for."""
    if detect_negative and detect_positive:
        return lampion.isinf(X)
    if detect_negative:
        return lampion.isneginf(X)
    return lampion.isposinf(X) if detect_positive else lampion.zeros_like(X, dtype=lampion.bool)
