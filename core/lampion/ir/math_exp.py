"""exp, log, pow and the hyperbolic family as scalar expressions.

Floor 1; imports base, expr, math_tables. Every function takes the untyped operand and the
floating type it is for; `math.py` fixes the types and caches the result. Error figures of all
are in docs/accuracy.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..base import dtype as dt
from ..base.dtype import dtype
from . import expr as E
from . import math_tables as T
from .expr import Expr, bitcast, const, fma, ldexp, op, rarely, select

INF, NAN = math.inf, math.nan
LN2 = math.log(2)


class Format:
    """The constants of an IEEE format."""

    def __init__(self, d: dtype, integer: dtype, unsigned: dtype, mantissa: int, bias: int,
                 ln2: tuple[float, float]) -> None:
        self.dtype, self.int, self.uint = d, integer, unsigned
        self.mantissa, self.bias = mantissa, bias
        self.ln2_high, self.ln2_low = ln2
        self.magic = 1.5 * 2.0**mantissa  # adding it rounds to an integer in the low bits
        self.smallest_normal = 2.0 ** (1 - bias)
        self.name = str(8 * d.itemsize)
        # exp overflows above `overflow` and is 0 below `underflow`
        self.overflow, self.underflow = (89.0, -104.0) if mantissa == 23 else (710.0, -746.0)
        # and a normal number above `normal`
        self.normal = -87.33 if mantissa == 23 else -708.39

    def table(self, name: str) -> tuple[float, ...]:
        """A coefficient table for this format."""
        found: tuple[float, ...] = getattr(T, f"{name}_{self.name}")
        return found


# ln 2 as a short high part (n times it is exact for every exponent n) plus the rest
F32 = Format(dt.float32, dt.int32, dt.uint32, 23, 127,
             (0.693145751953125, 1.42860682030941723212e-6))
F64 = Format(dt.float64, dt.int64, dt.uint64, 52, 1023,
             (6.93147180369123816490e-01, 1.90821492927058770002e-10))
FORMATS = {dt.float32: F32, dt.float64: F64}


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """A polynomial given by ascending coefficients."""
    p: Expr = const(coefficients[-1])
    for c in coefficients[-2::-1]:
        p = fma(p, x, const(c))
    return p


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """A polynomial by Estrin's scheme: shorter dependency chains for long tables."""
    if len(coefficients) < 7:
        return horner(x, coefficients)
    terms: list[Expr] = [const(c) for c in coefficients]
    while len(terms) > 1:
        paired = [fma(terms[k + 1], x, terms[k]) for k in range(0, len(terms) - 1, 2)]
        terms = paired + ([terms[-1]] if len(terms) % 2 else [])
        x = x * x
    return terms[0]


def clamp(x: Expr, low: float, high: float) -> Expr:
    """Limit x; NaN passes through."""
    x = select(x < low, low, x)
    return select(x > high, high, x)


def copysign(magnitude: Expr, sign: Expr, f: Format) -> Expr:
    """`magnitude` (not negative) with the sign bit of `sign`."""
    top = const(-(1 << (8 * f.dtype.itemsize - 1)), f.int)
    bits = op("or", bitcast(magnitude, f.int), op("and", bitcast(sign, f.int), top))
    return bitcast(bits, f.dtype)


def flip_sign(x: Expr, sign_bits: Expr, f: Format) -> Expr:
    """x with its sign bit changed where `sign_bits` (an integer) has its top bit set."""
    top = const(-(1 << (8 * f.dtype.itemsize - 1)), f.int)
    return bitcast(op("xor", bitcast(x, f.int), op("and", sign_bits, top)), f.dtype)


# ---- exponentials ----

def nearest(x: Expr, scale: float, f: Format) -> Expr:
    """The integer next to x * scale, well below 2**mantissa: an addition rounds it, which costs
    less than an instruction for rounding."""
    return fma(x, const(scale), const(f.magic)) - f.magic


def reduce_exp(x: Expr, f: Format) -> tuple[Expr, Expr]:
    """(n, r) with x = n ln 2 + r and |r| <= ln 2 / 2 (Cody and Waite, two parts of ln 2)."""
    n = nearest(x, 1 / LN2, f)
    r = fma(n, const(-f.ln2_high), x)
    return n, fma(n, const(-f.ln2_low), r)


def exp_mantissa(r: Expr, f: Format) -> Expr:
    """exp(r) on the reduced interval: 1 + (r + r^2 p(r))."""
    return 1.0 + fma(r * r, polynomial(r, f.table("EXP")), r)


def exp(x: Expr, f: Format) -> Expr:
    """Reduction by multiples of ln 2, a polynomial, and the exponent put back by ldexp.

    Arithmetic that underflows takes many processors a hundred times as long, and masked scores are
    -inf or close to it: results that are 0 are selected, and subnormal ones have a rare path.
    """
    n, r = reduce_exp(clamp(x, f.normal, f.overflow), f)
    usual = ldexp(exp_mantissa(r, f), n, 2)
    n, r = reduce_exp(clamp(x, f.underflow, f.normal), f)
    subnormal = ldexp(exp_mantissa(r, f), n, 2)
    tiny = op("and", x < f.normal, x > f.underflow)
    return select(x <= f.underflow, 0.0, rarely(tiny, subnormal, usual))


def exp2(x: Expr, f: Format) -> Expr:
    """2**x = 2**n (1 + r p(r)), n the nearest integer."""
    low, high = (-151.0, 129.0) if f is F32 else (-1076.0, 1025.0)
    x = clamp(x, low, high)
    n = nearest(x, 1.0, f)
    r = x - n
    return ldexp(fma(r, polynomial(r, f.table("EXP2")), const(1.0)), n, 2)


def expm1(x: Expr, f: Format) -> Expr:
    """2**n (exp(r) - 1) + (2**n - 1), all halved until the end so that 2**n cannot overflow."""
    # below -1.4 mantissa digits the result is -1
    x = clamp(x, -0.7 * (f.mantissa + 3), f.overflow)
    n, r = reduce_exp(x, f)
    p = fma(r * r, polynomial(r, f.table("EXP")), r)
    half = ldexp(const(1.0), n - 1.0, 1)
    y = fma(half, p, half - 0.5)
    return select(E.eq(n, 0.0), select(E.eq(x, 0.0), x, p), y + y)  # keeps -0


# ---- logarithms ----

def split_normal(x: Expr, f: Format) -> tuple[Expr, Expr]:
    """(m, e) with x = m 2**e and sqrt(1/2) <= m < sqrt(2), for positive normal x."""
    bits = bitcast(x, f.int)
    root_half = {F32: 0x3F3504F3, F64: 0x3FE6A09E667F3BCD}[f]
    k = op("shr", bits - const(root_half, f.int), const(f.mantissa, f.int))
    m = bitcast(bits - op("shl", k, const(f.mantissa, f.int)), f.dtype)
    return m, E.cast(k, f.dtype)


def split(x: Expr, f: Format) -> tuple[Expr, Expr]:
    """The same for any positive finite x."""
    small = x < f.smallest_normal
    m, e = split_normal(select(small, x * 2.0**f.mantissa, x), f)
    return m, select(small, e - float(f.mantissa), e)


def of_logarithm(x: Expr, f: Format, finish: Callable[[Expr, Expr], Expr]) -> Expr:
    """`finish(m, e)` of the parts of x; -inf at 0, NaN below, inf at inf.

    Subnormal numbers are rare enough for a path of their own.
    """
    positive = x > 0.0
    subnormal = op("and", positive, x < f.smallest_normal)
    y = E.rarely(subnormal, finish(*split(x, f)), finish(*split_normal(x, f)))
    special = select(E.eq(x, 0.0), -INF, select(positive, x, NAN))
    return select(op("and", positive, x < INF), y, special)


def log_reduced(frac: Expr, e: Expr, f: Format) -> Expr:
    """e ln 2 + log(1 + frac) for sqrt(1/2) - 1 <= frac < sqrt(2) - 1.

    float32: log(1+t) = t - t^2/2 + t^3 p(t). float64: with s = t/(2+t) the odd series
    2s + s^3 p(s^2), written as t - (t^2/2 - s (t^2/2 + s^2 p)), which rounds only small terms.
    """
    half = 0.5 * frac * frac
    if f is F32:
        y = frac * frac * frac * polynomial(frac, f.table("LOG"))
        y = fma(e, const(f.ln2_low), y)
        return fma(e, const(f.ln2_high), frac + (y - half))
    s = frac / (2.0 + frac)
    z = s * s
    r = z * polynomial(z, f.table("LOG_Q"))
    tail = half - fma(s, half + r, e * f.ln2_low)
    return fma(e, const(f.ln2_high), frac - tail)


def log(x: Expr, f: Format) -> Expr:
    """Mantissa around 1 and exponent from the bits; see `log_reduced`."""
    return of_logarithm(x, f, lambda m, e: log_reduced(m - 1.0, e, f))


def log1p(x: Expr, f: Format) -> Expr:
    """The exponent comes from 1 + x, the fraction from x itself: 2**-e x + (2**-e - 1)."""
    u = 1.0 + x
    _, e = split_normal(u, f)
    scale = ldexp(const(1.0), -e, 2)
    frac = fma(x, scale, scale - 1.0)
    y = select(E.eq(x, 0.0), x, log_reduced(frac, e, f))  # keeps -0
    special = select(E.eq(u, 0.0), -INF, select(u > 0.0, u, NAN))
    return select(op("and", u > 0.0, u < INF), y, special)


def log2(x: Expr, f: Format) -> Expr:
    """e + (t + t p(t)) (float32); e + log(m)/ln 2 with a two-part 1/ln 2 (float64)."""
    if f is F32:
        def short(m: Expr, e: Expr) -> Expr:
            t = m - 1.0
            return e + fma(t, polynomial(t, f.table("LOG2")), t)

        return of_logarithm(x, f, short)

    def finish(m: Expr, e: Expr) -> Expr:
        p, q = scaled_log(m, (1.4426950408889634, 2.0355273740931033e-17), f)
        s, r = two_sum(e, p)
        return s + (r + q)

    return of_logarithm(x, f, finish)


def log10(x: Expr, f: Format) -> Expr:
    """e log10(2) + (t/2 + t p(t)), log10(2) in two parts."""
    if f is F32:
        def short(m: Expr, e: Expr) -> Expr:
            t = m - 1.0
            y = fma(t, polynomial(t, f.table("LOG10")), 0.5 * t)
            y = fma(e, const(7.9034151667e-07), y)
            return fma(e, const(3.0102920532e-01), y)

        return of_logarithm(x, f, short)

    def finish(m: Expr, e: Expr) -> Expr:
        p, q = scaled_log(m, (0.4342944819032518, 1.098319650216765e-17), f)
        y = fma(e, const(3.69423907715893078616e-13), q)
        s, r = two_sum(e * 3.01029995663611771306e-01, p)  # exact: 32 bits times 11
        return s + (r + y)

    return of_logarithm(x, f, finish)


def scaled_log(m: Expr, scale: tuple[float, float], f: Format) -> tuple[Expr, Expr]:
    """log(m) times a two-part constant, in double length."""
    hi, lo = log_mantissa(m, f)
    p, q = times(hi, const(scale[0]))
    return p, q + fma(hi, const(scale[1]), lo * scale[0])


# ---- double-length arithmetic ----

def times(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """The product and its rounding error."""
    p = a * b
    return p, fma(a, b, -p)


def quick_sum(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """The sum and its rounding error, for |a| >= |b|."""
    s = a + b
    return s, b - (s - a)


def two_sum(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """The sum and its rounding error."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def log_mantissa(m: Expr, f: Format) -> tuple[Expr, Expr]:
    """log(m) for sqrt(1/2) <= m < sqrt(2) as a sum of two numbers, good to about 2**-65 (2**-32
    for float32) of its size.

    With q = (m-1)/(m+1) in double length: 2q + q^3 (2/3 + q^2 p(q^2)); only q^2 p is rounded to
    single length.
    """
    num = m - 1.0
    den = m + 1.0
    den_low = m - (den - 1.0)
    q = num / den
    q_low = (fma(-q, den, num) - q * den_low) / den
    z, z_low = times(q, q)
    z_low = z_low + 2.0 * q * q_low
    # c = 2/3 + z p(z), double length
    third, third_low = {F32: (0.6666666865348816, -1.9868215517249155e-08),
                        F64: (0.6666666666666666, 3.700743415417188e-17)}[f]
    t = z * polynomial(z, f.table("POW_Q"))
    c, c_low = quick_sum(const(third, f.dtype), t)
    c_low = c_low + third_low
    # q^3 c
    w, w_low = times(q, z)
    w_low = w_low + fma(q, z_low, q_low * z)
    g, g_low = times(w, c)
    g_low = g_low + fma(w, c_low, w_low * c)
    s, s_low = quick_sum(2.0 * q, g)
    return s, s_low + (g_low + 2.0 * q_low)


def power(x: Expr, y: Expr, f: Format) -> Expr:
    """x**y = 2**(y log2|x|), the logarithm and its product with y in double length; the special
    cases are C's, and have a path of their own."""
    limit = 120.0 if f is F32 else 1000.0
    a = E.abs_(x)
    t, u = _times_log2(y, *split_normal(a, f), f)
    usual = op("and", op("and", a >= f.smallest_normal, a < INF), E.abs_(t) < limit)
    z = _exp2_sum(t, u, f)
    whole, odd = _parity(y)
    signed = select(x < 0.0, select(whole, select(odd, -z, z), NAN), z)
    return E.rarely(op("not", usual), _power_slow(x, y, f), signed)


def _parity(y: Expr) -> tuple[Expr, Expr]:
    """(y is an integer, y is an odd integer)."""
    whole, half = E.eq(E.trunc(y), y), y * 0.5
    return whole, op("and", whole, E.ne(E.trunc(half), half))


def _times_log2(y: Expr, m: Expr, e: Expr, f: Format) -> tuple[Expr, Expr]:
    """y log2(m 2**e) in double length."""
    hi, lo = _log2_sum(m, e, f)
    t, u = times(y, hi)
    return t, fma(y, lo, u)


def _log2_sum(m: Expr, e: Expr, f: Format) -> tuple[Expr, Expr]:
    scale = {F32: (1.4426950216293335, 1.925963033500e-08),
             F64: (1.4426950408889634, 2.0355273740931033e-17)}[f]
    p, q = scaled_log(m, scale, f)
    s, r = two_sum(e, p)
    return quick_sum(s, r + q)


def _exp2_sum(t: Expr, u: Expr, f: Format) -> Expr:
    """2**(t + u), u small."""
    n = nearest(t, 1.0, f)
    v = (t - n) + u
    return ldexp(fma(v, polynomial(v, f.table("EXP2")), const(1.0)), n, 2)


def _power_slow(x: Expr, y: Expr, f: Format) -> Expr:
    """x**y for every x and y."""
    a = E.abs_(x)
    hi, lo = _log2_sum(*split(a, f), f)
    hi = select(E.eq(a, 0.0), -INF, select(a < INF, hi, a))  # NaN passes as a
    lo = select(op("and", a > 0.0, a < INF), lo, 0.0)
    t, u = times(y, hi)
    u = fma(y, lo, u)
    limit = 160.0 if f is F32 else 1200.0
    u = select(E.abs_(t) < limit, u, 0.0)
    magnitude = _exp2_sum(clamp(t, -limit, limit), u, f)
    return _power_specials(x, y, a, magnitude)


def _power_specials(x: Expr, y: Expr, a: Expr, magnitude: Expr) -> Expr:
    whole, odd = _parity(y)
    # the sign of x matters where it is negative, -0 included: 1/x tells
    negative = op("or", x < 0.0, op("and", E.eq(x, 0.0), 1.0 / x < 0.0))
    result = select(op("and", odd, negative), -magnitude, magnitude)
    invalid = op("and", op("and", x < 0.0, x > -INF), op("not", whole))
    result = select(op("and", invalid, E.abs_(y) < INF), NAN, result)
    one = op("and", E.eq(a, 1.0), E.eq(E.abs_(y), INF))
    is_one = op("or", op("or", E.eq(x, 1.0), E.eq(y, 0.0)), one)
    return select(is_one, 1.0, result)


# ---- hyperbolic functions ----

def _half_exp(a: Expr, f: Format) -> Expr:
    """exp(a)/2 without overflowing early, a >= 0."""
    n, r = reduce_exp(clamp(a, 0.0, f.overflow + 1.0), f)
    return ldexp(exp_mantissa(r, f), n - 1.0, 2)


def sinh(x: Expr, f: Format) -> Expr:
    """Below 1 an odd polynomial; else exp(|x|)/2 - exp(-|x|)/2."""
    a = E.abs_(x)
    z = a * a
    small = fma(a * z, polynomial(z, f.table("SINH")), a)
    h = _half_exp(a, f)
    return copysign(select(a < 1.0, small, h - 0.25 / h), x, f)


def cosh(x: Expr, f: Format) -> Expr:
    """exp(|x|)/2 + exp(-|x|)/2."""
    h = _half_exp(E.abs_(x), f)
    return h + 0.25 / h


def tanh(x: Expr, f: Format) -> Expr:
    """Below 0.32 an odd polynomial; else (d - 1)/d with d = (exp(2|x|) + 1)/2, where the rounding
    of d hardly matters. It is 1 from |x| = 9.1 (19.1) on. The exponential takes |x| itself:
    factors of 2 move into constants, where they are exact; one ln 2 is enough, as tanh flattens
    out."""
    a = E.abs_(x)
    z = a * a
    small = fma(a * z, polynomial(z, f.table("TANH")), a)
    limit = 9.2 if f is F32 else 20.0
    b = select(a > limit, limit, a)
    n = nearest(b, 2 / LN2, f)
    r = fma(n, const(-LN2 / 2), b)
    p = fma(r * r, polynomial(r, [c * 2 * 2.0**k for k, c in enumerate(f.table("EXP"))]), r)
    scale = ldexp(const(1.0), n, 1)
    d = fma(scale, p, fma(scale, const(0.5), const(0.5)))
    return copysign(select(a < 0.32, small, (d - 1.0) / d), x, f)


def asinh(x: Expr, f: Format) -> Expr:
    """log1p(a + a^2/(1 + sqrt(1 + a^2))); log(a) + ln 2 where a^2 would overflow."""
    a = E.abs_(x)
    large = 2.0 ** (f.mantissa // 2 + 3)
    b = select(a < large, a, 1.0)
    z = b * b
    near = log1p(b + z / (1.0 + E.sqrt(1.0 + z)), f)
    far = log(a, f) + LN2
    return select(E.eq(x, 0.0), x, copysign(select(a < large, near, far), x, f))


def acosh(x: Expr, f: Format) -> Expr:
    """log1p(t + sqrt(2t + t^2)), t = x - 1; log(x) + ln 2 for large x."""
    large = 2.0 ** (f.mantissa // 2 + 3)
    t = select(x < large, x, 1.0) - 1.0
    near = log1p(t + E.sqrt(fma(t, t, 2.0 * t)), f)
    far = log(x, f) + LN2
    return select(x < 1.0, NAN, select(x < large, near, far))


def atanh(x: Expr, f: Format) -> Expr:
    """log1p(2a/(1-a))/2, a = |x|."""
    a = E.abs_(x)
    y = 0.5 * log1p((a + a) / (1.0 - a), f)
    return select(E.eq(x, 0.0), x, copysign(select(a > 1.0, NAN, y), x, f))
