"""Activation functions: elementwise ops of nn.functional.

Floor 3. Each is one scalar expression, so that a call is one kernel forward and one backward.
"""

from __future__ import annotations

import math

from ..ir import expr as E
from ..ir.expr import by_type, select
from .arithmetic import conj, kind_of, sign_of
from .registry import Attr, Detour, Scalar, composite, elementwise

NN = ("nn.functional",)
# not a method; the in-place form belongs to nn.functional
LAYER = {"where": NN, "method": False, "inplace": True, "kinds": "f"}
ONLY_NEW = {"where": NN, "method": False, "kinds": "f"}
SQRT_HALF = math.sqrt(0.5)


def logistic(x):
    """1 / (1 + e**-x); the limits keep the square of the sum finite, in which derivatives end."""
    def of(most):
        return 1.0 / (1.0 + E.exp(E.minimum(-x, most)))

    return by_type(c=1.0 / (1.0 + E.exp(-x)), float64=of(350.0), other=of(44.0))


def _not_bool(op, operands, attrs):
    if kind_of(operands[0]) == "b":
        raise RuntimeError(f"Boolean inputs not supported for {op.name}")


@elementwise(where=("", "nn.functional"), kinds="buif", check=_not_bool)
def relu(input):
    """max(0, input); NaN stays.

    >>> lampion.relu(lampion.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return by_type(f=E.maximum(input, 0.0), u=input, other=E.maximum(input, 0))


@relu.grad
def _relu_grad(g, out, input):
    return select(out <= 0.0, 0.0, g)


@elementwise(where=NN, method=False, inplace=True, kinds="uif")
def relu6(input):
    """min(max(0, input), 6)."""
    return E.minimum(E.maximum(input, 0), 6)


@relu6.grad
def _relu6_grad(g, out, input):
    return select((out > 0.0) & (out < 6.0), g, 0.0)


@elementwise(where=NN, method=False, inplace=True, kinds="uif",
             fitting=("min_val max_val", "uif"))
def hardtanh(input, min_val: Scalar = -1.0, max_val: Scalar = 1.0):
    """input limited to [min_val, max_val]."""
    return E.minimum(E.maximum(input, min_val), max_val)


@hardtanh.grad
def _hardtanh_grad(g, out, input, min_val, max_val):
    return select((input <= min_val) | (input >= max_val), 0.0, g), None, None


@elementwise(**LAYER)
def elu(input, alpha: Scalar = 1.0):
    """x where x > 0, else alpha (e**x - 1)."""
    return select(input > 0.0, input, alpha * E.expm1(input))


@elu.grad
def _elu_grad(g, out, input, alpha):
    low = select(input > 0.0, 0.0, input)
    return g * select(input > 0.0, 1.0, alpha * E.exp(low)), None


SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@elementwise(where=("", "nn.functional"), method=False, inplace=True, kinds="f")
def selu(input):
    """The scaled elu that keeps mean 0 and variance 1."""
    return SELU_SCALE * select(input > 0.0, input, SELU_ALPHA * E.expm1(input))


@selu.grad
def _selu_grad(g, out, input):
    low = select(input > 0.0, 0.0, input)
    return g * select(input > 0.0, SELU_SCALE, (SELU_ALPHA * SELU_SCALE) * E.exp(low))


@elementwise(where=("", "nn.functional"), method=False, inplace=True, kinds="f")
def celu(input, alpha: Scalar = 1.0):
    """max(0, x) + min(0, alpha (e**(x / alpha) - 1))."""
    return select(input > 0.0, input, alpha * E.expm1(input / alpha))


@celu.grad
def _celu_grad(g, out, input, alpha):
    low = select(input > 0.0, 0.0, input)
    return g * select(input > 0.0, 1.0, E.exp(low / alpha)), None


@elementwise(where=NN, method=False, inplace=True, kinds="f")
def leaky_relu(input, negative_slope: Scalar = 0.01):
    """x where x > 0, else negative_slope x."""
    return select(input > 0.0, input, negative_slope * input)


def _approximation(op, operands, attrs):
    if attrs["approximate"] not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")


@elementwise(check=_approximation, out_cast="same", **ONLY_NEW)
def gelu(input, *, approximate: Attr = "none"):
    """x times the normal distribution's Phi(x); approximate="tanh" takes a tanh for it."""
    half = 0.5 * input
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (input + 0.044715 * (input * input * input))
        return E.fma(half, E.tanh(inner), half)
    return E.fma(half, E.erf(input * SQRT_HALF), half)


@gelu.grad
def _gelu_grad(g, out, input, *, approximate):
    if approximate == "tanh":
        k = math.sqrt(2 / math.pi)
        square = input * input
        t = E.tanh(k * (input + 0.044715 * (input * square)))
        inner = k + (k * 3 * 0.044715) * square
        return g * (0.5 * (1.0 + t) + 0.5 * input * (1.0 - t * t) * inner)
    cdf = 0.5 * (1.0 + E.erf(input * SQRT_HALF))
    density = E.exp(-0.5 * (input * input)) * (1 / math.sqrt(2 * math.pi))
    return g * (cdf + input * density)


@elementwise(where=NN, method=False, inplace=True, kinds="fc")
def silu(input):
    """x times sigmoid(x)."""
    return input / (1.0 + E.exp(-input))


@silu.grad
def _silu_grad(g, out, input):
    s = 1.0 / (1.0 + E.exp(-input))
    t = E.exp(select(input < 0.0, input, -input))  # of the smaller power nothing overflows
    tail = select(input < 0.0, t, 1.0) / (1.0 + t) + input * (t / ((1.0 + t) * (1.0 + t)))
    return g * by_type(c=conj(s * (1.0 + input * (1.0 - s))), other=tail)


@elementwise(**LAYER)
def mish(input):
    """x tanh(softplus(x)).

    With n = e**x (e**x + 2), tanh(log(1 + e**x)) = n / (n + 2): one exponential in all.
    """
    e = E.exp(E.minimum(input, 20.0))
    n = e * (e + 2.0)
    return select(input > 20.0, input, input * (n / (n + 2.0)))


@mish.grad
def _mish_grad(g, out, input):
    e = E.exp(E.minimum(input, 20.0))
    n = e * (e + 2.0)
    t = n / (n + 2.0)
    return g * select(input > 20.0, 1.0, t + input * (e / (1.0 + e)) * (1.0 - t * t))


@elementwise(out_cast="same", **ONLY_NEW)
def softplus(input, beta: Scalar = 1.0, threshold: Scalar = 20.0):
    """log(1 + e**(beta x)) / beta, and x itself where beta x > threshold."""
    z = input * beta
    return select(z > threshold, input, E.log1p(E.exp(E.minimum(z, threshold))) / beta)


@softplus.grad
def _softplus_grad(g, out, input, beta, threshold):
    z = input * beta
    return g * select(z > threshold, 1.0, logistic(z)), None, None


@elementwise(out_cast="same", **ONLY_NEW)
def logsigmoid(input):
    """log(sigmoid(x)) without overflow."""
    return E.minimum(input, 0.0) - E.log1p(E.exp(-E.abs_(input)))


@logsigmoid.grad
def _logsigmoid_grad(g, out, input):
    return g * logistic(-input)


@elementwise(where=NN, method=False, inplace=False, promote="float")
def softsign(input):
    """x / (1 + |x|)."""
    return input / (1.0 + E.abs_(input))


@softsign.grad
def _softsign_grad(g, out, input):
    size = 1.0 + E.abs_(input)
    turned = E.real(g * conj(input)) / (size * size)  # what |x| adds for complex numbers
    return by_type(c=g / size - sign_of(input) * turned, other=g / (size * size))


@elementwise(where=NN, method=False, inplace=False, kinds="uifc", promote="float")
def tanhshrink(input):
    """x - tanh(x)."""
    return input - E.tanh(input)


@elementwise(out_cast="same", where=NN + ("",), method=True, inplace=False, kinds="f")
def hardshrink(input, lambd: Scalar = 0.5):
    """0 where |x| <= lambd, else x."""
    return select((input >= -lambd) & (input <= lambd), 0.0, input)


@hardshrink.grad
def _hardshrink_grad(g, out, input, lambd):
    return select((input > lambd) | (input < -lambd), g, 0.0), None


def _refuse_lambda(op, form, input, lambd, out=None):
    raise RuntimeError(f"softshrink: lambda must be in range [0, inf), but found {lambd}")


@elementwise(out_cast="same", detour=Detour("lambd < 0", _refuse_lambda), **ONLY_NEW)
def softshrink(input, lambd: Scalar = 0.5):
    """x moved towards 0 by lambd."""
    return select(input > lambd, input - lambd, select(input < -lambd, input + lambd,
                                                       input * 0.0))


@softshrink.grad
def _softshrink_grad(g, out, input, lambd):
    return select((input > lambd) | (input < -lambd), g, 0.0), None


@elementwise(where=NN, method=False, inplace=True, kinds="f")
def hardsigmoid(input):
    """clamp(x + 3, 0, 6) / 6."""
    return E.minimum(E.maximum(input + 3.0, 0.0), 6.0) * (1 / 6)


@hardsigmoid.grad
def _hardsigmoid_grad(g, out, input):
    return select((input > -3.0) & (input < 3.0), g * (1 / 6), 0.0)


@elementwise(where=NN, method=False, inplace=True, kinds="f")
def hardswish(input):
    """x clamp(x + 3, 0, 6) / 6."""
    return input * E.minimum(E.maximum(input + 3.0, 0.0), 6.0) * (1 / 6)


@hardswish.grad
def _hardswish_grad(g, out, input):
    middle = g * (input * (1 / 3) + 0.5)
    return select(input <= -3.0, 0.0, select(input >= 3.0, g, middle))


@elementwise(where=("", "nn.functional"), method=False, inplace=True, kinds="uif",
             fitting=("threshold value", "ui"))
def threshold(input, threshold: Scalar, value: Scalar):
    """x where x > threshold, else value."""
    return select(input <= threshold, value, input)


@threshold.grad
def _threshold_grad(g, out, input, threshold, value):
    return select(input <= threshold, 0.0, g), None, None


@composite(replay=True, method=True, out=False, samples="""
    f(2, 3), f(1)
    f(2, 3, 2).transposed, f(3)
    f(), f(1)
""")
def prelu(input, weight):
    """x where x > 0, else weight x; weight has one element, or one per channel (dim 1)."""
    m, w = input.meta, weight.meta
    if w.ndim > 1:
        raise RuntimeError("prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = "
                           f"{w.ndim}")
    channels = m.shape[1] if m.ndim > 1 else 1
    if w.numel not in (1, channels):
        raise RuntimeError(
            "Mismatch of parameter numbers and input channel size. Found parameter numbers = "
            f"{w.numel} and channel size = {channels}.")
    if w.ndim:
        weight = weight.reshape((-1, *[1] * (m.ndim - 2)) if m.ndim > 1 else (1,) * m.ndim)
    return prelu_values.fn(input, weight)


@elementwise(where=(), method=False, kinds="f")
def prelu_values(input, weight):
    """x where x > 0, else weight x, broadcast."""
    return select(input > 0.0, input, weight * input)
