"""Functions of one number: roots, exponentials, logarithms, trigonometry, rounding, complex parts.

Floor 3. Every op is one scalar expression; gradients are derived from it unless a rule is given.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..base.errors import DtypeError
from ..base.meta import Meta
from ..ir import expr as E
from ..ir.expr import by_type, select
from .arithmetic import FLOATING, REAL, conj
from .registry import REGISTRY, Attr, Detour, Param, composite, elementwise

FUNCTION = {"promote": "float"}
SPECIAL = ("", "special")


# ---------------------------------------------------------------- roots, exp, log

@elementwise(domain=(0.1, 4), **FUNCTION)
def sqrt(input):
    """The square root; NaN for negative numbers."""
    return E.sqrt(input)


@elementwise(domain=(0.1, 4), **FUNCTION)
def rsqrt(input):
    """1 / sqrt(input)."""
    return E.rsqrt(input)


@elementwise(**FUNCTION)
def exp(input):
    """e**input.

    >>> lampion.exp(lampion.tensor([0.0]))
    tensor([1.])
    """
    return E.exp(input)


@elementwise(where=SPECIAL, **FUNCTION)
def exp2(input):
    """2**input."""
    return E.exp2(input)


@elementwise(where=SPECIAL, **FUNCTION)
def expm1(input):
    """e**input - 1, exact near 0."""
    return E.expm1(input)


@elementwise(domain=(0.1, 4), **FUNCTION)
def log(input):
    """The natural logarithm."""
    return E.log(input)


@elementwise(domain=(0.1, 4), **FUNCTION)
def log2(input):
    """The logarithm to base 2."""
    return E.log2(input)


@elementwise(domain=(0.1, 4), **FUNCTION)
def log10(input):
    """The logarithm to base 10."""
    return E.log10(input)


@elementwise(where=SPECIAL, domain=(-0.9, 4), **FUNCTION)
def log1p(input):
    """log(1 + input), exact near 0."""
    return E.log1p(input)


@elementwise(tensors=("input", "other"), kinds=FLOATING)
def logaddexp(input, other):
    """log(e**input + e**other) without overflow."""
    return _log_sum(input, other, E.exp, E.log1p)


@elementwise(tensors=("input", "other"), kinds="f")
def logaddexp2(input, other):
    """log2(2**input + 2**other) without overflow."""
    return _log_sum(input, other, E.exp2, lambda x: E.log1p(x) * (1 / math.log(2)))


def _complex_log_sum(a, b):
    """The larger plus log(1 + e**(smaller - larger)), by real parts: without overflow, and on the
    branch that PyTorch's is on, whose imaginary part may lie beyond pi."""
    ra, rb = E.real(a), E.real(b)
    less = ra < rb
    low, high = select(less, a, b), select(less, b, a)
    endless = E.eq(ra, rb) & E.eq(E.abs_(ra), math.inf)
    limit = select(ra < 0.0, low, E.log(E.exp(a) + E.exp(b)))
    return select(endless, limit, high + E.log1p(E.exp(select(endless, 0.0, low - high))))


def _log_sum(a, b, power, log_one_plus):
    high = E.maximum(a, b)
    same = E.eq(a, b)  # also where both are the same infinity
    distance = select(same, 0.0, -E.abs_(a - b))
    real = high + log_one_plus(power(distance))
    return by_type(c=_complex_log_sum(a, b), other=real)


@logaddexp.grad
def _logaddexp_grad(g, out, input, other):
    left = by_type(c=conj(E.exp(input - out)), other=_share(input, other, out, E.exp))
    right = by_type(c=conj(E.exp(other - out)), other=_share(other, input, out, E.exp))
    return g * left, g * right


@logaddexp2.grad
def _logaddexp2_grad(g, out, input, other):
    return g * _share(input, other, out, E.exp2), g * _share(other, input, out, E.exp2)


def _share(a, b, out, power):
    """e**a / (e**a + e**b) where out is the logarithm of the sum, which leaves nothing to overflow
    in derivatives of this; a half for equal infinities."""
    limit = select(E.eq(a, b), 0.5, select(E.eq(a, out), 1.0, 0.0))
    return select(E.eq(E.abs_(a), math.inf), limit, power(a - out))


# ---------------------------------------------------------------- trigonometry

@elementwise(**FUNCTION)
def sin(input):
    """The sine of an angle in radians."""
    return E.sin(input)


@elementwise(**FUNCTION)
def cos(input):
    """The cosine of an angle in radians."""
    return E.cos(input)


@elementwise(**FUNCTION)
def tan(input):
    """The tangent of an angle in radians."""
    return E.tan(input)


@elementwise(aliases=("arcsin",), domain=(-0.9, 0.9), **FUNCTION)
def asin(input):
    """The angle whose sine this is."""
    return E.asin(input)


@elementwise(aliases=("arccos",), domain=(-0.9, 0.9), **FUNCTION)
def acos(input):
    """The angle whose cosine this is."""
    return E.acos(input)


@elementwise(aliases=("arctan",), **FUNCTION)
def atan(input):
    """The angle whose tangent this is."""
    return E.atan(input)


@elementwise(kinds=REAL, aliases=("arctan2",), tensors=("input", "other"), **FUNCTION)
def atan2(input, other):
    """The angle of the point (x=other, y=input)."""
    return E.atan2(input, other)


@elementwise(**FUNCTION)
def sinh(input):
    """The hyperbolic sine."""
    return E.sinh(input)


@elementwise(**FUNCTION)
def cosh(input):
    """The hyperbolic cosine."""
    return E.cosh(input)


@elementwise(where=("", "nn.functional"), **FUNCTION)
def tanh(input):
    """The hyperbolic tangent."""
    return E.tanh(input)


@elementwise(aliases=("arcsinh",), **FUNCTION)
def asinh(input):
    """The inverse hyperbolic sine."""
    return E.asinh(input)


@elementwise(aliases=("arccosh",), domain=(1.1, 4), **FUNCTION)
def acosh(input):
    """The inverse hyperbolic cosine."""
    return E.acosh(input)


@elementwise(aliases=("arctanh",), domain=(-0.9, 0.9), **FUNCTION)
def atanh(input):
    """The inverse hyperbolic tangent."""
    return E.atanh(input)


@elementwise(kinds=REAL, **FUNCTION)
def deg2rad(input):
    """Degrees to radians."""
    return input * (math.pi / 180.0)


@elementwise(kinds=REAL, **FUNCTION)
def rad2deg(input):
    """Radians to degrees."""
    return input * (180.0 / math.pi)


@elementwise(where=SPECIAL, **FUNCTION)
def sinc(input):
    """sin(pi x) / (pi x), and 1 at 0."""
    at0 = E.eq(input, 0)
    x = select(at0, 1.0, input * math.pi)
    return select(at0, 1.0, by_type(c=E.sin(x), other=_sinpi(input)) / x)


def _sinpi(x):
    """sin(pi x) from the distance to the nearest integer, which is exact."""
    n = E.round_(x)
    s = E.sin((x - n) * math.pi)
    return select(E.eq(n, 2.0 * E.round_(0.5 * n)), s, -s)


@sinc.grad
def _sinc_grad(g, out, input):
    x = input * math.pi
    near = E.abs_(x) < 0.3  # where cos x - sin x / x cancels: the Taylor series
    y = select(near, 1.0, x)
    x2 = select(near, x * x, 0.0)
    series = -x * (1 / 3 - x2 * (1 / 30 - x2 * (1 / 840 - x2 * (1 / 45360 - x2 / 3991680))))
    slope = (E.cos(y) - E.sin(y) / y) / y
    return g * math.pi * by_type(c=conj(slope), other=select(near, series, slope))


# ---------------------------------------------------------------- sigmoid and its inverse

@elementwise(where=("", "nn.functional", "special"), aliases=("expit",), **FUNCTION)
def sigmoid(input):
    """1 / (1 + e**-input)."""
    return 1.0 / (1.0 + E.exp(-input))


@sigmoid.grad
def _sigmoid_grad(g, out, input):
    slope = out * (1.0 - out)
    return g * by_type(c=conj(slope), other=slope)


@elementwise(where=SPECIAL, kinds=REAL, domain=(0.05, 0.95), **FUNCTION)
def logit(input, eps: Attr = None):
    """log(x / (1 - x)); with eps, x is first limited to [eps, 1 - eps]."""
    x = input if eps is None else E.minimum(E.maximum(input, float(eps)), 1.0 - eps)
    # from 1/4 on 2 x - 1 is exact, which keeps the digits around 1/2
    return select(x < 0.3, E.log(x / (1.0 - x)), E.log1p((x + x - 1.0) / (1.0 - x)))


@logit.grad
def _logit_grad(g, out, input, *, eps):
    slope = g / (input * (1.0 - input))
    if eps is None:
        return select((input >= 0.0) & (input <= 1.0), slope, math.nan)
    return select((input >= float(eps)) & (input <= 1.0 - eps), slope, 0.0)


# ---------------------------------------------------------------- rounding

@elementwise(out_cast="same", kinds="uif")
def floor(input):
    """The largest integer not above."""
    return by_type(f=E.floor(input), other=input)


@elementwise(out_cast="same", kinds="uif")
def ceil(input):
    """The smallest integer not below."""
    return by_type(f=E.ceil(input), other=input)


@elementwise(out_cast="same", kinds="uif", aliases=("fix",))
def trunc(input):
    """The integer part, towards 0."""
    return by_type(f=E.trunc(input), other=input)


@elementwise(out_cast="same", kinds="f")
def frac(input):
    """The part after the point, with the sign of the input."""
    return input - E.trunc(input)


def at_decimals(op, form, input, *, decimals, out=None):
    """round to decimals other than 0."""
    if input.meta.dtype.kind != "f":
        raise DtypeError(f'"round" with decimals is not implemented for {input.meta.dtype!r}')
    other = REGISTRY["round_decimals"]
    if form == "inplace":
        return other.ifn(input, decimals)
    return other.fn(input, decimals, out=out)


@elementwise(out_cast="same", kinds="uif", where=SPECIAL, detour=Detour(
    "decimals != 0", at_decimals, (Param("decimals", "A", 0, True),)))
def round(input):
    """The nearest integer, halves to even; `decimals` rounds to that many places."""
    return by_type(f=E.round_(input), other=input)


@elementwise(out_cast="same", kinds="f", where=(), method=False, inplace=True)
def round_decimals(input, decimals: Attr):
    """Rounded to `decimals` places (negative: to tens, hundreds...)."""
    power = 10.0 ** (decimals if decimals > 0 else -decimals)
    return E.round_(input * power) / power if decimals > 0 else E.round_(input / power) * power


@floor.grad
@ceil.grad
@trunc.grad
@round.grad
def _flat(g, out, input):
    return None


@round_decimals.grad
def _flat_decimals(g, out, input, *, decimals):
    return None


# ---------------------------------------------------------------- complex numbers

@elementwise(promote=lambda d, attrs: [d.to_real() if d.kind in "fc" else dt.get_default_dtype()])
def angle(input):
    """The angle of a complex number; pi for negative reals, 0 for others, NaN for NaN."""
    half_turn = select(input < 0, math.pi, 0.0)
    return by_type(c=E.atan2(E.imag(input), E.real(input)), u=E.const(0.0), b=E.const(0.0),
                   f=select(E.isnan(input), input, half_turn), other=half_turn)


@angle.grad
def _angle_grad(g, out, input):
    x, y = E.real(input), E.imag(input)
    r2 = x * x + y * y
    k = select(E.eq(r2, 0.0), 0.0, g / r2)
    return by_type(c=E.complex_(-y * k, x * k), other=E.const(0.0))


def _alike(op, operands, attrs):
    """The parts of complex numbers have one dtype, and it is not bfloat16."""
    first, second = [m.dtype for m in operands]
    if first is not second:
        raise RuntimeError(f"{op.name}: Expected both parts to be of one floating dtype but got "
                           f"{first!r} and {second!r}")
    for m in operands:
        if isinstance(m, Meta) and m.dtype.name == "bfloat16":
            raise DtypeError(f'"{op.name}" is not implemented for dtype {m.dtype!r}: complex '
                             "numbers have float16, float32 or float64 parts")


@elementwise(name="complex", tensors=("real", "imag"), out_cast="same", method=False, kinds="f",
             check=_alike, promote=lambda d, attrs: [d.to_complex()])
def complex_(real, imag):
    """The complex number real + i imag."""
    return E.complex_(real, imag)


@complex_.grad
def _complex_grad(g, out, real, imag):
    return E.real(g), E.imag(g)


def _single_or_double(op, operands, attrs):
    """As `_alike`; angles of float16 say too little."""
    _alike(op, operands, attrs)
    for m in operands:
        if m.dtype.name == "float16":
            raise DtypeError(f'"{op.name}" is not implemented for dtype {m.dtype!r}: convert with '
                             ".float()")


@elementwise(tensors=("abs", "angle"), out_cast="same", method=False, kinds="f",
             check=_single_or_double, domain=(0.1, 2),
             promote=lambda d, attrs: [d.to_complex()])
def polar(abs, angle):
    """The complex number of this modulus and angle."""
    return E.complex_(abs * E.cos(angle), abs * E.sin(angle))


@polar.grad
def _polar_grad(g, out, abs, angle):
    c, s = E.cos(angle), E.sin(angle)
    x, y = E.real(g), E.imag(g)
    return x * c + y * s, abs * (y * c - x * s)


@elementwise(where=(), method=False, inplace=True, kinds="c")
def conj_values(input):
    """The complex conjugate, with its own memory."""
    return E.complex_(E.real(input), -E.imag(input))


@conj_values.grad
def _conj_grad(g, out, input):
    return conj(g)


@composite(method=False, out=False, samples="""
    f(3)
    c(2, 3)
    c(3, 4).transposed
""")
def real(input):
    """The real part: a view of a complex tensor, a real tensor itself."""
    return REGISTRY["complex_part"].fn(input, 0) if input.meta.dtype.kind == "c" else input


@composite(method=False, out=False, samples="""
    c(2, 3)
    c(3, 4).transposed
""")
def imag(input):
    """The imaginary part of a complex tensor, as a view. RuntimeError for real tensors."""
    if input.meta.dtype.kind != "c":
        raise RuntimeError("imag is not implemented for tensors with non-complex dtypes.")
    return REGISTRY["complex_part"].fn(input, 1)


@composite(name="conj", method=True, inplace=True, aliases=("conj_physical",),
           samples="""
    c(2, 3)
    c(3, 4).transposed
    f(3)
""")
def conj_(input):
    """The complex conjugate; real tensors are returned as they are."""
    return conj_values.fn(input) if input.meta.dtype.kind == "c" else input


@composite(method=True, out=False, samples="""
    f(3)
    c(2, 3).transposed
""")
def resolve_conj(input):
    """The tensor itself: lampion computes conjugates at once."""
    return input


@composite(method=True, out=False, samples="f(3)")
def resolve_neg(input):
    """The tensor itself: lampion computes negatives at once."""
    return input


@composite(method=True, out=False, differentiable=False, samples="c(3)")
def is_conj(input):
    """Whether a conjugation is pending: never."""
    return False


@composite(method=True, out=False, differentiable=False, samples="f(3)")
def is_neg(input):
    """Whether a negation is pending: never."""
    return False
