"""Special functions as scalar expressions of the intrinsics.

Floor 1; imports expr and special_tables. Each is a named function (`expr.call`) with a definition
and a derivative in terms of other named functions, so it runs on every device and has
derivatives of every order that do not pass through the branches of the definition. Docstrings
name the method; handbook numbers are those of Abramowitz and Stegun.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from . import expr as E
from . import special_tables as table
from .expr import FUNCTIONS, Expr, by_type, call, select

PI = math.pi


def function(derivative: Callable[..., Any] | None) -> Callable[..., Callable[..., Expr]]:
    """Register a definition; `derivative(out, *args)` gives d/d(last argument), None is for a
    function whose ops are declared as not differentiable."""
    def deco(define: Callable[..., Expr]) -> Callable[..., Expr]:
        name = define.__name__

        def rule(a: Expr, e: Expr) -> tuple[Expr, ...]:
            if derivative is None:
                raise RuntimeError(f"the derivative of {name!r} is not implemented")
            return (*[E.const(0)] * (len(e.args) - 1), a * derivative(e, *e.args))

        FUNCTIONS[name] = (define, rule)

        def make(*args: Any) -> Expr:
            return call(name, *args)

        make.__doc__, make.__name__ = define.__doc__, name
        return make

    return deco


def series(t: Expr, coefficients: Sequence[float]) -> Expr:
    """A Chebyshev series at t in [-1, 1] (Clenshaw); shorter where float32 is computed."""
    top = max(map(abs, coefficients))
    short = list(coefficients)
    while abs(short[-1]) < 2.0 ** -28 * top:
        short.pop()
    return by_type(float64=_clenshaw(t, coefficients), other=_clenshaw(t, short))


def _clenshaw(t: Expr, coefficients: Sequence[float]) -> Expr:
    twice = t + t
    b1: Expr = E.const(0.0)
    b2: Expr = E.const(0.0)
    for c in reversed(coefficients[1:]):
        b1, b2 = E.fma(twice, b1, c - b2), b1
    return E.fma(t, b1, coefficients[0] - b2)


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's rule, constant first."""
    total: Expr = E.const(float(coefficients[-1]))
    for c in reversed(coefficients[:-1]):
        total = E.fma(total, x, c)
    return total


# ---------------------------------------------------------------- gamma

def _digamma_slope(out: Expr, x: Expr) -> Expr:
    return call("trigamma", x)


@function(_digamma_slope)
def digamma(x: Expr) -> Expr:
    """psi(x): reflection for x < 0, upward recurrence to x >= 9, then the asymptotic series
    ln x - 1/(2x) - sum B_2k / (2k x^2k) (6.3.5, 6.3.7, 6.3.18).

    psi(0) is -inf with the sign of zero flipped; negative integers give NaN.
    """
    neg = x < 0.0
    y = select(neg, 1.0 - x, x)
    shift: Expr = E.const(0.0)
    z = y
    for _ in range(9):
        small = z < 9.0
        shift = shift + select(small, 1.0 / z, 0.0)
        z = select(small, z + 1.0, z)
    inv2 = 1.0 / (z * z)
    rest = polynomial(inv2, (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12,
                             -3617 / 8160, 43867 / 14364))
    upper = E.log(z) - 0.5 / z - rest * inv2 - shift
    frac = x - E.round_(x)
    reflected = upper - PI / E.tan(PI * frac)
    result = E.rarely(neg, select(E.eq(frac, 0.0), math.nan, reflected), upper)
    return select(E.eq(x, 0.0), -1.0 / x, select(E.eq(x, -math.inf), math.nan, result))


@function(lambda out, x: call("polygamma", 2, x))
def trigamma(x: Expr) -> Expr:
    """psi'(x), same scheme as `digamma` (6.4.7, 6.4.6, 6.4.12)."""
    neg = x < 0.5
    y = select(neg, 1.0 - x, x)
    shift: Expr = E.const(0.0)
    z = y
    for _ in range(9):
        small = z < 9.0
        shift = shift + select(small, 1.0 / (z * z), 0.0)
        z = select(small, z + 1.0, z)
    inv = 1.0 / z
    inv2 = inv * inv
    rest = polynomial(inv2, (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6,
                             -3617 / 510, 43867 / 798))
    upper = inv + 0.5 * inv2 + rest * inv2 * inv + shift
    s = E.sin(PI * (x - E.round_(x)))
    return E.rarely(neg, PI * PI / (s * s) - upper, upper)


def _next_polygamma(out: Expr, n: Expr, x: Expr) -> Expr:
    return call("polygamma", n.value + 1, x)


@function(_next_polygamma)
def polygamma(n: Expr, x: Expr) -> Expr:
    """psi^(n)(x), n a constant: (-1)^(n+1) n! zeta(n + 1, x) for n >= 2 (6.4.10)."""
    order = int(n.value)
    if order == 0:
        return digamma(x)
    if order == 1:
        return trigamma(x)
    return zeta(float(order + 1), x) * ((-1.0) ** (order + 1) * math.gamma(order + 1.0))


# B_2k / (2k)!
_BERNOULLI = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000,
              1 / 74724249600, -3617 / 10670622842880000)


def _zeta_slope(out: Expr, x: Expr, q: Expr) -> Expr:
    return -x * call("zeta", x + 1.0, q)


@function(_zeta_slope)
def zeta(x: Expr, q: Expr) -> Expr:
    """Hurwitz' sum (k + q)^-x by Euler and Maclaurin: ten terms, the integral, the correction.

    inf at x = 1 and at non-positive integers q; NaN for x < 1, and for negative q with x not an
    integer. Below q = -11 the sum would need more terms: NaN.
    """
    total: Expr = E.const(0.0)
    terms = 12
    for k in range(terms):
        total = total + E.op("pow", q + float(k), -x)
    w = q + float(terms)
    power = E.op("pow", w, -x)
    total = total + power * w / (x - 1.0) + 0.5 * power
    factor = x * power / w
    w2 = 1.0 / (w * w)
    correction: Expr = E.const(0.0)
    for k, b in enumerate(_BERNOULLI):
        correction = correction + b * factor
        factor = factor * ((x + (2.0 * k + 1.0)) * (x + (2.0 * k + 2.0))) * w2
    result = total + correction
    whole_q, whole_x = E.eq(q, E.floor(q)), E.eq(x, E.floor(x))
    below = select(whole_q, math.inf, select(whole_x & (w > 1.0), result, math.nan))
    result = select(q <= 0.0, below, select(E.eq(q, math.inf), 0.0, result))
    limit = select(E.eq(q, 1.0), 1.0, select(E.abs_(q) < 1.0, math.inf, 0.0))
    result = select(E.eq(x, math.inf), limit, result)
    return select(E.eq(x, 1.0), math.inf, select(x < 1.0, math.nan, result))


# ---------------------------------------------------------------- normal distribution

def _unless_nan(x: Expr, value: Expr) -> Expr:
    """`value`, but NaN where x is NaN."""
    return select(E.ne(x, x), x, value)


@function(lambda out, x: 2.0 * x * out - 2.0 / math.sqrt(PI))
def erfcx(x: Expr) -> Expr:
    """e^(x^2) erfc(x): p(t) / (1 + 2x) with t = (x - 4) / (x + 4); 2 e^(x^2) - erfcx(-x) below."""
    a = E.abs_(x)
    t = select(E.eq(a, math.inf), 1.0, (a - 4.0) / (a + 4.0))
    upper = series(t, table.ERFCX) / (1.0 + 2.0 * a)
    square = x * x
    low = select(E.eq(square, math.inf), 0.0, E.fma(x, x, -square))
    return _unless_nan(x, E.rarely(x < 0.0, 2.0 * (E.exp(square) * (1.0 + low)) - upper, upper))


@function(lambda out, x: E.exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * PI)))
def ndtr(x: Expr) -> Expr:
    """The normal distribution function: erfc(-x / sqrt 2) / 2."""
    return 0.5 * E.erfc(x * -math.sqrt(0.5))


def _log_ndtr_slope(out: Expr, x: Expr) -> Expr:
    return math.sqrt(2 / PI) / call("erfcx", x * -math.sqrt(0.5))


@function(_log_ndtr_slope)
def log_ndtr(x: Expr) -> Expr:
    """log of ndtr: by erfcx on the left, by log1p on the right."""
    t = x * math.sqrt(0.5)
    left = E.log(erfcx(-select(x < -1.0, t, 0.0)) * 0.5) - t * t
    return _unless_nan(x, select(x < -1.0, left, E.log1p(-0.5 * E.erfc(t))))


def _quantile(p: Expr, q: Expr) -> Expr:
    """The normal quantile at 1/2 + q; p = 1/2 - |q| must be exact."""
    z = q * q
    middle = q * series(z * (1 / 0.0903125) - 1.0, table.QUANTILE_MIDDLE)
    r = E.sqrt(-E.log(select(p > 0.0, p, 0.5)))
    near = series(r * (1 / 1.75) - (1.55 / 1.75 + 1.0), table.QUANTILE_TAIL)
    far = series(r * (1 / 11.25) - (5.0 / 11.25 + 1.0), table.QUANTILE_FAR)
    size = E.rarely(r >= 5.0, far, near)
    tail = select(q < 0.0, -size, size)
    inside = select(E.abs_(q) <= 0.425, middle, tail)
    edge = select(q < 0.0, -math.inf, math.inf)
    return select(p > 0.0, inside, select(E.eq(p, 0.0), edge, math.nan))


@function(lambda out, p: E.exp(0.5 * (out * out)) * math.sqrt(2 * PI))
def ndtri(p: Expr) -> Expr:
    """The inverse of ndtr: three Chebyshev series, in q^2 and in sqrt(-ln p)."""
    low = select(p < 0.5, p, 1.0 - p)
    return _unless_nan(p, _quantile(low, p - 0.5))


@function(lambda out, y: E.exp(out * out) * (math.sqrt(PI) / 2))
def erfinv(y: Expr) -> Expr:
    """The inverse of erf: the normal quantile of (1 + y) / 2, over sqrt 2."""
    return _unless_nan(y, _quantile(0.5 - 0.5 * E.abs_(y), 0.5 * y) * math.sqrt(0.5))


# ---------------------------------------------------------------- Bessel functions

def _sign(x: Expr) -> Expr:
    return select(x < 0.0, -1.0, 1.0)


@function(lambda out, x: call("i1e", x) - select(x > 0.0, out, select(x < 0.0, -out, 0.0)))
def i0e(x: Expr) -> Expr:
    """e^-|x| I0(x): a series in x to 8, in 16 / x beyond."""
    a = E.abs_(x)
    low = series(select(a < 8.0, a, 8.0) * 0.25 - 1.0, table.I0E_LOW)
    b = select(a < 8.0, 8.0, a)
    high = series(16.0 / b - 1.0, table.I0E_HIGH) * E.rsqrt(b)
    return _unless_nan(x, E.rarely(a >= 8.0, high, low))


def _i1e_slope(out: Expr, x: Expr) -> Expr:
    at0 = E.eq(x, 0.0)
    y = select(at0, 1.0, x)
    return select(at0, 0.5, call("i0e", x) - out * (_sign(x) + 1.0 / y))


@function(_i1e_slope)
def i1e(x: Expr) -> Expr:
    """e^-|x| I1(x), like i0e."""
    a = E.abs_(x)
    low = a * series(select(a < 8.0, a, 8.0) * 0.25 - 1.0, table.I1E_LOW)
    b = select(a < 8.0, 8.0, a)
    high = series(16.0 / b - 1.0, table.I1E_HIGH) * E.rsqrt(b)
    size = E.rarely(a >= 8.0, high, low)
    return _unless_nan(x, select(x < 0.0, -size, size))


@function(lambda out, x: call("i1", x))
def i0(x: Expr) -> Expr:
    """The modified Bessel function I0."""
    return select(E.eq(E.abs_(x), math.inf), math.inf, E.exp(E.abs_(x)) * i0e(x))


def _i1_slope(out: Expr, x: Expr) -> Expr:
    at0 = E.eq(x, 0.0)
    return select(at0, 0.5, call("i0", x) - out / select(at0, 1.0, x))


@function(_i1_slope)
def i1(x: Expr) -> Expr:
    """The modified Bessel function I1."""
    return select(E.eq(E.abs_(x), math.inf), x, E.exp(E.abs_(x)) * i1e(x))


def _k_scaled(nu: int, x: Expr) -> Expr:
    """e^x K_nu(x) for x > 0; inf at 0 and NaN below."""
    s = select(x < 2.0, x, 2.0)
    t = s * s * 0.5 - 1.0
    if nu == 0:
        low = series(t, table.K0_LOW) - E.log(0.5 * s) * i0(s)
    else:
        low = series(t, table.K1_LOW) / s + E.log(0.5 * s) * i1(s)
    b = select(x < 2.0, 2.0, x)
    high = series(4.0 / b - 1.0, table.K0_HIGH if nu == 0 else table.K1_HIGH) * E.rsqrt(b)
    value = select(x < 2.0, low * E.exp(s), high)
    return _unless_nan(x, select(x > 0.0, value, select(E.eq(x, 0.0), math.inf, math.nan)))


@function(lambda out, x: out - call("scaled_modified_bessel_k1", x))
def scaled_modified_bessel_k0(x: Expr) -> Expr:
    """e^x K0(x)."""
    return _k_scaled(0, x)


@function(lambda out, x: out - call("scaled_modified_bessel_k0", x) - out / x)
def scaled_modified_bessel_k1(x: Expr) -> Expr:
    """e^x K1(x)."""
    return _k_scaled(1, x)


@function(lambda out, x: -call("modified_bessel_k1", x))
def modified_bessel_k0(x: Expr) -> Expr:
    """The modified Bessel function K0."""
    return select(E.eq(x, math.inf), 0.0, _k_scaled(0, x) * E.exp(-x))


@function(lambda out, x: -call("modified_bessel_k0", x) - out / x)
def modified_bessel_k1(x: Expr) -> Expr:
    """The modified Bessel function K1."""
    return select(E.eq(x, math.inf), 0.0, _k_scaled(1, x) * E.exp(-x))


def _wave(nu: int, x: Expr) -> tuple[Expr, Expr]:
    """(J, Y) of order nu for x >= 8 from modulus and phase; the shift of the angle by odd
    multiples of pi/4 is done on sine and cosine, which keeps it exact."""
    w = 8.0 / x
    t = 2.0 * (w * w) - 1.0
    p = series(t, table.P0 if nu == 0 else table.P1)
    q = w * series(t, table.Q0 if nu == 0 else table.Q1)
    s, c = E.sin(x), E.cos(x)
    cosine, sine = (c + s, s - c) if nu == 0 else (s - c, -(s + c))
    scale = E.rsqrt(PI * x)
    return scale * (p * cosine - q * sine), scale * (p * sine + q * cosine)


def _split(x: Expr) -> tuple[Expr, Expr, Expr]:
    """(|x| up to 8, |x| from 8 on, t of the low series)."""
    a = E.abs_(x)
    low = select(a < 8.0, a, 8.0)
    high = select((a < 8.0) | E.eq(a, math.inf), 8.0, a)
    return low, high, low * low * (1 / 32) - 1.0


@function(lambda out, x: -call("bessel_j1", x))
def bessel_j0(x: Expr) -> Expr:
    """J0: a series in x^2 to 8, modulus and phase beyond."""
    _, high, t = _split(x)
    a = E.abs_(x)
    value = E.rarely(a >= 8.0, _wave(0, high)[0], series(t, table.J0_LOW))
    return _unless_nan(x, select(E.eq(a, math.inf), 0.0, value))


def _j1_slope(out: Expr, x: Expr) -> Expr:
    at0 = E.eq(x, 0.0)
    return select(at0, 0.5, call("bessel_j0", x) - out / select(at0, 1.0, x))


@function(_j1_slope)
def bessel_j1(x: Expr) -> Expr:
    """J1, like J0."""
    low, high, t = _split(x)
    a = E.abs_(x)
    size = E.rarely(a >= 8.0, _wave(1, high)[0], low * series(t, table.J1_LOW))
    size = select(E.eq(a, math.inf), 0.0, size)
    return _unless_nan(x, select(x < 0.0, -size, size))


def _positive_only(x: Expr, value: Expr) -> Expr:
    """-inf at 0, NaN below, 0 at infinity."""
    value = select(E.eq(x, math.inf), 0.0, value)
    return _unless_nan(x, select(x > 0.0, value, select(E.eq(x, 0.0), -math.inf, math.nan)))


@function(lambda out, x: -call("bessel_y1", x))
def bessel_y0(x: Expr) -> Expr:
    """Y0 for x > 0: 2/pi ln(x) J0(x) + a series in x^2 to 8, modulus and phase beyond."""
    low, high, t = _split(x)
    near = series(t, table.Y0_LOW) + (2 / PI) * (E.log(low) * series(t, table.J0_LOW))
    return _positive_only(x, E.rarely(x >= 8.0, _wave(0, high)[1], near))


@function(lambda out, x: call("bessel_y0", x) - out / x)
def bessel_y1(x: Expr) -> Expr:
    """Y1 for x > 0, like Y0."""
    low, high, t = _split(x)
    j1 = low * series(t, table.J1_LOW)
    near = low * series(t, table.Y1_LOW) + (2 / PI) * (E.log(low) * j1 - 1.0 / low)
    return _positive_only(x, E.rarely(x >= 8.0, _wave(1, high)[1], near))


def _sphere_slope(out: Expr, x: Expr) -> Expr:
    near = E.abs_(x) < 0.3
    y = select(near, 1.0, x)
    z = select(near, x * x, 0.0)
    taylor = -x * polynomial(z, (1 / 3, -1 / 30, 1 / 840, -1 / 45360, 1 / 3991680))
    return select(near, taylor, (E.cos(y) - E.sin(y) / y) / y)


@function(_sphere_slope)
def spherical_bessel_j0(x: Expr) -> Expr:
    """sin(x) / x, and 1 at 0."""
    at0 = E.eq(x, 0.0)
    value = select(at0, 1.0, E.sin(x) / select(at0, 1.0, x))
    return select(E.eq(E.abs_(x), math.inf), 0.0, value)


@function(None)
def airy_ai(x: Expr) -> Expr:
    """Ai: one series on [-4, 2], modulus and phase below, e^-zeta times a series above."""
    a = E.abs_(x)
    finite = select(E.eq(a, math.inf), 4.0, a)
    z = select(finite < 2.0, 2.0, finite)
    zeta = (2 / 3) * (z * E.sqrt(z))
    root = E.sqrt(E.sqrt(z))
    t = (4 / 3 * 2 * math.sqrt(2)) / zeta - 1.0
    above = E.exp(-zeta) * series(t, table.AIRY_HIGH) / root * (0.5 / math.sqrt(PI))
    far = select(zeta < 16 / 3, 16 / 3, zeta)
    w = (16 / 3) / far
    u = 2.0 * (w * w) - 1.0
    angle = zeta + PI / 4
    wave = (series(u, table.AIRY_P) * E.sin(angle)
            - series(u, table.AIRY_Q) / far * E.cos(angle)) / root * (1 / math.sqrt(PI))
    middle = series((select(a > 4.0, 0.0, x) + 1.0) * (1 / 3), table.AIRY_MIDDLE)
    value = E.rarely(x > 2.0, above, E.rarely(x < -4.0, wave, middle))
    return _unless_nan(x, select(E.eq(a, math.inf), 0.0, value))
