"""erf, erfc, lgamma and powers of integers as scalar expressions.

Floor 1; imports base, expr, math_exp, math_trig. Conventions as in math_exp.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..base.dtype import dtype
from . import expr as E
from .expr import Expr, cast, const, fma, ldexp, op, select
from .math_exp import (
    F32,
    INF,
    LN2,
    Format,
    copysign,
    exp_mantissa,
    horner,
    log,
    nearest,
    polynomial,
    reduce_exp,
)
from .math_trig import sinpi_magnitude


def erf(x: Expr, f: Format) -> Expr:
    """float32: -expm1(-(a + a p(a))), a = |x|, p fitted to -log(erfc(a))/a - 1, which is precise
    down to 0 without a second branch. float64: below 1 an odd polynomial, beyond it 1 - erfc."""
    a = E.abs_(x)
    if f is F32:
        b = select(a > 3.95, 3.95, a)
        first, *others = f.table("ERF_Q")  # apart: what is added last rounds the most
        y = fma(b, fma(b, polynomial(b, others), const(first)), b)
        n = nearest(-y, 1 / LN2, f)
        r = fma(n, const(-LN2), -y)  # a small part of erf where n is large
        p = fma(r * r, polynomial(r, f.table("EXP")), r)
        scale = ldexp(const(1.0), n, 1)
        return copysign(E.abs_(fma(scale, p, scale - 1.0)), x, f)
    z = x * x
    small = fma(x, polynomial(z, f.table("ERF")), x)
    big = 1.0 - _erfc_positive(select(a > 7.0, 7.0, a), f)
    return select(a < 1.0, small, select(E.ne(x, x), x, copysign(big, x, f)))


def _erfc_positive(a: Expr, f: Format) -> Expr:
    """exp(-a^2) p(t) / (1 + 2a), t = (a-4)/(a+4); the square in double length."""
    t = (a - 4.0) / (a + 4.0)
    p = horner(t, f.table("ERFCX"))
    den = fma(a, const(2.0), const(1.0))
    g = p / den
    rest = fma(-g, den, p) - g * (2.0 * a - (den - 1.0))
    g = g + rest / den
    square = a * a
    low = fma(a, a, -square)
    n, r = reduce_exp(-square, f)
    e = exp_mantissa(r - low, f)
    return ldexp(e * g, n, 2)


def erfc(x: Expr, f: Format) -> Expr:
    """See `_erfc_positive`; 2 - erfc(-x) for negative x."""
    a = E.abs_(x)
    limit = 10.1 if f is F32 else 27.3
    y = _erfc_positive(select(a > limit, limit, a), f)
    # 1 - erf keeps small |x| accurate on both sides of 0
    z = x * x
    small = 1.0 - fma(x, polynomial(z, f.table("ERF")), x)
    tail = select(x < 0.0, 2.0 - y, y)
    return select(a < 0.5, small, select(E.ne(x, x), x, tail))


def lgamma(x: Expr, f: Format) -> Expr:
    """log|gamma(x)|.

    Around 1 and 2 as t p(t) with t the distance to that zero; from 3 to 8 shifted down by the
    recurrence; from 8 on Stirling's series; below 1/2 by reflection.
    """
    y = E.abs_(x)
    positive = _lgamma_positive(y, f)
    sine = sinpi_magnitude(y, f)
    # log(pi / (y |sin pi y|)) - lgamma(y); the smallest y lose the sine: it is pi y there
    reflected = select(y < 2.0 ** -(f.mantissa + 10), -log(y, f),
                       math.log(math.pi) - log(y * sine, f) - positive)
    reflected = select(E.eq(E.trunc(x), x), INF, reflected)
    result = E.rarely(x < 0.0, reflected, positive)
    return select(E.eq(y, INF), INF, select(E.ne(x, x), x, result))


def _lgamma_positive(y: Expr, f: Format) -> Expr:
    low = y < 0.7
    large = y >= 8.0
    # mid range: shift into [2, 3) and collect the product
    z, product = y, const(1.0)
    for k in range(3, 8):
        step = op("and", y >= float(k), op("not", large))
        z = select(step, y - float(k - 2), z)
        product = select(step, product * (y - float(k - 2)), product)
    t1 = select(low, y, y - 1.0)
    near1 = t1 * polynomial(t1, f.table("LGAMMA1"))
    t2 = select(large, 1.0, z - 2.0)
    near2 = t2 * polynomial(t2, f.table("LGAMMA2"))
    logarithm = log(select(low, y, select(large, y, product)), f)
    core = select(y < 1.5, near1, near2) + 0.0  # 0 at 1 and 2, not -0
    middle = select(low, core - logarithm, select(y >= 3.0, core + logarithm, core))
    inverse = 1.0 / y
    series = inverse * polynomial(inverse * inverse, f.table("STIRLING"))
    stirling = fma(y - 0.5, logarithm - 1.0, series + (0.5 * math.log(2 * math.pi) - 0.5))
    return select(large, stirling, middle)


def integer_power(x: Expr, n: Expr, d: dtype) -> Expr:
    """x**n by squaring, wrapping; a negative exponent gives 0, or +-1 for a base of +-1.

    Six bits of the exponent are always done; the rest sit in an arm of a select that printers
    may skip when no lane needs it.
    """
    wide = d if d.itemsize >= 4 else (dt.int32 if d.kind == "i" else dt.uint32)
    base, e = (cast(x, wide), cast(n, wide)) if wide is not d else (x, n)
    zero, one = const(0, wide), const(1, wide)
    result: Expr = one
    square, short = base, one
    bits = 8 * d.itemsize
    for k in range(bits):
        if k == 6:
            short = result
        bit = E.ne(op("and", e, const(1 << k if k < 8 * wide.itemsize - 1 or wide.kind == "u"
                                      else -(1 << k), wide)), zero)
        result = select(bit, result * square, result)
        square = square * square
    if bits > 6:
        result = E.rarely(E.ne(op("shr", e, const(6, wide)), zero), result, short)
    if d.kind == "i":
        odd = E.ne(op("and", e, one), zero)
        unit = select(E.eq(base, one), one, select(
            E.eq(base, const(-1, wide)), select(odd, const(-1, wide), one), zero))
        result = select(e < zero, unit, result)
    return cast(result, d) if wide is not d else result
