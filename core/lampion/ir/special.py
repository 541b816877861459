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
    """A Chebyshev series at t in [-1, 1], by Clenshaw's recurrence. Where float32 is computed it
    is shorter, and a polynomial by Horner's rule, which rounds less and takes half the time, if
    that does not cancel."""
    top = max(map(abs, coefficients))
    short = list(coefficients)
    while abs(short[-1]) < 2.0 ** -28 * top:
        short.pop()
    powers = monomials(short)
    narrow = polynomial(t, powers) if sum(map(abs, powers)) < 4 * top else _clenshaw(t, short)
    return by_type(float64=_clenshaw(t, coefficients), other=narrow)


def monomials(coefficients: Sequence[float]) -> list[float]:
    """The coefficients of 1, t, t^2, ... of a Chebyshev series."""
    before, this = [1.0], [0.0, 1.0]
    total = [coefficients[0]] + [0.0] * (len(coefficients) - 1)
    for c in coefficients[1:]:
        for k, m in enumerate(this):
            total[k] += c * m
        after = [0.0] + [2 * m for m in this]
        for k, m in enumerate(before):
            after[k] -= m
        before, this = this, after
    return total


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


def _product_error(x: Expr, product: Expr, high: float, low: float) -> Expr:
    """x (high + low) minus the rounded x * high."""
    return E.fma(x, high, -product) + x * low


# ---------------------------------------------------------------- gamma

def _digamma_slope(out: Expr, x: Expr) -> Expr:
    return call("trigamma", x)


@function(_digamma_slope)
def digamma(x: Expr) -> Expr:
    """psi(x): on [1, 3] a series times the distance to the root; by the recurrence from there
    below 1 and up to 9; the asymptotic series ln x - 1/(2x) - sum B_2k / (2k x^2k) beyond;
    reflection for x < 0 (6.3.5, 6.3.7, 6.3.18).

    psi(0) is -inf with the sign of zero flipped; negative integers give NaN.
    """
    neg = x < 0.0
    y = select(neg, 1.0 - x, x)
    z, total = y, E.const(0.0)
    for k in range(8, 2, -1):  # down into [2, 3): all terms are positive, the smallest first
        step = (y >= float(k)) & (y < 9.0)
        total = total + select(step, 1.0 / (z - 1.0), 0.0)
        z = select(step, z - 1.0, z)
    below = y < 1.0
    z = select(below, y + 1.0, select(y < 9.0, z, 2.0))
    core = ((z - table.DIGAMMA_ROOT[0]) - table.DIGAMMA_ROOT[1]) * series(z - 2.0, table.DIGAMMA)
    w = select(y < 9.0, 9.0, y)
    inv2 = 1.0 / (w * w)
    rest = polynomial(inv2, (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12,
                             -3617 / 8160, 43867 / 14364))
    beyond = E.log(w) - 0.5 / w - rest * inv2
    upper = select(y < 9.0, select(below, core - 1.0 / y, core + total), beyond)
    frac = x - E.round_(x)
    reflected = upper - PI / E.tan(PI * frac)
    result = E.rarely(neg, select(E.eq(frac, 0.0), math.nan, reflected), upper)
    return select(E.eq(x, 0.0), -1.0 / x, select(E.eq(x, -math.inf), math.nan, result))


@function(lambda out, x: call("polygamma", 2, x))
def trigamma(x: Expr) -> Expr:
    """psi'(x): reflection for x < 0, upward recurrence to x >= 9, then the asymptotic series
    (6.4.7, 6.4.6, 6.4.12)."""
    neg = x < 0.0
    y = select(neg, 1.0 - x, x)
    z, terms = y, []
    for _ in range(9):
        small = z < 9.0
        terms.append(select(small, 1.0 / (z * z), 0.0))
        z = select(small, z + 1.0, z)
    inv = 1.0 / z
    inv2 = inv * inv
    rest = polynomial(inv2, (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6,
                             -3617 / 510, 43867 / 798))
    upper = inv + (0.5 * inv2 + rest * inv2 * inv)
    for term in reversed(terms):  # the smallest first
        upper = upper + term
    ratio = PI / E.sin(PI * (x - E.round_(x)))
    return E.rarely(neg, ratio * ratio - upper, upper)


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
              1 / 74724249600, -3617 / 10670622842880000, 43867 / 5109094217170944000,
              -174611 / 802857662698291200000, 77683 / 14101100039391805440000,
              -236364091 / 1693824136731743669452800000)


def _zeta_slope(out: Expr, x: Expr, q: Expr) -> Expr:
    return -x * call("zeta", x + 1.0, q)


@function(_zeta_slope)
def zeta(x: Expr, q: Expr) -> Expr:
    """Hurwitz' sum (k + q)^-x by Euler and Maclaurin: the terms below 12, the integral, the
    correction.

    inf at x = 1 and at non-positive integers q; NaN for x < 1, and for negative q with x not an
    integer. Below q = -11 the sum would need more terms: NaN.
    """
    w, terms = q, []
    for _ in range(12):
        early = w < 12.0
        terms.append(select(early, E.op("pow", w, -x), 0.0))
        w = select(early, w + 1.0, w)
    power = E.op("pow", w, -x)
    factor = x * power / w
    w2 = 1.0 / (w * w)
    correction: Expr = E.const(0.0)
    for k, b in enumerate(_BERNOULLI):
        correction = correction + b * factor
        factor = factor * ((x + (2.0 * k + 1.0)) * (x + (2.0 * k + 2.0))) * w2
    result = (correction + 0.5 * power) + power * w / (x - 1.0)
    for term in reversed(terms):  # the smallest first
        result = result + term
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
    """e^(x^2) erfc(x): (1 + p(t)) / (1 + 2x) with t = (x - 4) / (x + 4); 2 e^(x^2) - erfcx(-x)
    below 0."""
    a = E.abs_(x)
    t = select(E.eq(a, math.inf), 1.0, (a - 4.0) / (a + 4.0))
    p, b = series(t, (table.ERFCX[0] - 1.0, *table.ERFCX[1:])), select(E.eq(a, math.inf), 1.0, a)
    den = E.fma(b, 2.0, 1.0)
    upper = select(a < 1.0, 1.0 + (p - 2.0 * b) / den, (1.0 + p) / den)
    upper = select(E.eq(a, math.inf), 0.0, upper)
    square = x * x
    low = select(E.eq(square, math.inf), 0.0, E.fma(x, x, -square))
    return _unless_nan(x, E.rarely(x < 0.0, 2.0 * (E.exp(square) * (1.0 + low)) - upper, upper))


@function(lambda out, x: E.exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * PI)))
def ndtr(x: Expr) -> Expr:
    """The normal distribution function: erfc(-x / sqrt 2) / 2, corrected for the rounding of its
    argument, which the tail magnifies."""
    t = x * -math.sqrt(0.5)
    within = E.abs_(t) < 30.0
    s = select(within, t, 0.0)
    y = select(within, x, 0.0)
    low = by_type(float64=_product_error(y, s, -math.sqrt(0.5), -table.SQRT_HALF[1]),
                  other=_product_error(y, s, *(-c for c in table.SQRT_HALF_SHORT)))
    tail = select(within, low * E.exp(-(s * s)), 0.0) * (1 / math.sqrt(PI))
    return 0.5 * E.erfc(t) - tail


def _log_ndtr_slope(out: Expr, x: Expr) -> Expr:
    return math.sqrt(2 / PI) / call("erfcx", x * -math.sqrt(0.5))


@function(_log_ndtr_slope)
def log_ndtr(x: Expr) -> Expr:
    """log of ndtr: by erfcx on the left, by log1p on the right."""
    t = x * math.sqrt(0.5)
    left = E.log(erfcx(-select(x < -1.0, t, 0.0)) * 0.5) - 0.5 * (x * x)
    return _unless_nan(x, select(x < -1.0, left, E.log1p(-ndtr(-x))))


def _quantile(p: Expr, q: Expr) -> Expr:
    """The normal quantile at 1/2 + q; p = 1/2 - |q| must be exact."""
    z = q * q
    middle = q * series(z * (1 / 0.0903125) - 1.0, table.QUANTILE_MIDDLE)
    r = E.sqrt(-E.log(select(p > 0.0, p, 0.5)))
    near = series(r * (1 / 1.75) - (1.55 / 1.75 + 1.0), table.QUANTILE_TAIL)
    far = series(r * (1 / 11.25) - (5.0 / 11.25 + 1.0), table.QUANTILE_FAR)
    size = r * E.rarely(r >= 5.0, far, near)
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
    s = select(a < 8.0, a, 8.0)
    low = series(s * 0.25 - 1.0, table.I0E_LOW) / E.fma(s, 0.5, 1.0)
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
    s = select(a < 8.0, a, 8.0)
    low = s * (series(s * 0.25 - 1.0, table.I1E_LOW) / E.fma(s, 1.5, 1.0))
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


def _k(nu: int, x: Expr, scaled: bool) -> Expr:
    """K_nu(x), or e^x times it, for x > 0; inf at 0 and NaN below. The logarithmic series below
    1/2, where its two parts cancel little, one in 1 / x from there on."""
    s = select(x < 0.5, x, 0.5)
    t = E.fma(s * s, 8.0, -1.0)
    if nu == 0:
        low = E.fma(-E.log(0.5 * s), series(t, table.I0_SMALL), series(t, table.K0_LOW))
    else:
        low = E.fma(E.log(0.5 * s), s * series(t, table.I1_SMALL), series(t, table.K1_LOW) / s)
    b = select((x < 0.5) | E.eq(x, math.inf), 0.5, x)
    high = series(1.0 / b - 1.0, table.K0_HIGH if nu == 0 else table.K1_HIGH) / E.sqrt(b)
    value = select(x < 0.5, low * E.exp(s) if scaled else low,
                   high if scaled else high * E.exp(-b))
    value = select(E.eq(x, math.inf), 0.0, value)
    return _unless_nan(x, select(x > 0.0, value, select(E.eq(x, 0.0), math.inf, math.nan)))


@function(lambda out, x: out - call("scaled_modified_bessel_k1", x))
def scaled_modified_bessel_k0(x: Expr) -> Expr:
    """e^x K0(x)."""
    return _k(0, x, True)


@function(lambda out, x: out - call("scaled_modified_bessel_k0", x) - out / x)
def scaled_modified_bessel_k1(x: Expr) -> Expr:
    """e^x K1(x)."""
    return _k(1, x, True)


@function(lambda out, x: -call("modified_bessel_k1", x))
def modified_bessel_k0(x: Expr) -> Expr:
    """The modified Bessel function K0."""
    return _k(0, x, False)


@function(lambda out, x: -call("modified_bessel_k0", x) - out / x)
def modified_bessel_k1(x: Expr) -> Expr:
    """The modified Bessel function K1."""
    return _k(1, x, False)


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
    """Ai: one series on [-4, 2], modulus and phase below, e^-zeta times a series above. zeta is
    kept in double length, because the phase and the exponential magnify its rounding."""
    a = E.abs_(x)
    finite = select(E.eq(a, math.inf), 4.0, a)
    z = select(finite < 2.0, 2.0, finite)
    half = E.sqrt(z)
    root = E.sqrt(half)
    half_low = E.fma(-half, half, z) / (half + half)
    cube = z * half
    cube_low = E.fma(z, half, -cube) + z * half_low
    third = cube / 1.5
    zeta, low = third, (E.fma(third, -1.5, cube) + cube_low) / 1.5
    t = (4 / 3 * 2 * math.sqrt(2)) / zeta - 1.0
    decay = E.exp(-zeta)
    above = (decay - decay * low) * series(t, table.AIRY_HIGH) / root * (0.5 / math.sqrt(PI))
    far = select(zeta < 16 / 3, 16 / 3, zeta)
    w = (16 / 3) / far
    u = 2.0 * (w * w) - 1.0
    s, c = E.sin(zeta), E.cos(zeta)
    s, c = E.fma(low, c, s), E.fma(-low, s, c)
    wave = (series(u, table.AIRY_P) * (s + c)
            - series(u, table.AIRY_Q) / far * (c - s)) / root * (1 / math.sqrt(2 * PI))
    middle = series((select(a > 4.0, 0.0, x) + 1.0) * (1 / 3), table.AIRY_MIDDLE)
    value = E.rarely(x > 2.0, above, E.rarely(x < -4.0, wave, middle))
    return _unless_nan(x, select(E.eq(a, math.inf), 0.0, value))
