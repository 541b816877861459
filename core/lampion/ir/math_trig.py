"""Trigonometric functions and their inverses as scalar expressions.

Floor 1; imports base, expr, math_tables, math_exp. Conventions as in math_exp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from . import expr as E
from .expr import Expr, bitcast, cast, const, fma, op, select
from .math_exp import F32, INF, NAN, Format, copysign, flip_sign, polynomial, times

# pi/2 in three parts of the format's precision
HALF_PI = {
    "32": (1.57079637050628662109375, -4.37113900018624283e-8, -1.71512489e-15),
    "64": (1.5707963267948966192, 6.123233995736766036e-17, -1.4973849048591833e-33),
}
# up to here the integer multiple of pi/2 is exact and three parts are enough
NEAR = {"32": 48039.0, "64": 1.0e9}


def _turns(words: int, bits: int) -> list[int]:
    """The first bits of 1/(2 pi) after the point, in words, by Machin's formula in integers."""
    total = words * bits + 64
    one = 1 << total

    def arctan_inverse(n: int) -> int:
        term = one // n
        sum_, k, sign = term, 3, -1
        while term:
            term //= n * n
            sum_ += sign * (term // k)
            k, sign = k + 2, -sign
        return sum_

    pi = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    value = (one * one) // (2 * pi) >> 64
    mask = (1 << bits) - 1
    return [(value >> (bits * (words - 1 - k))) & mask for k in range(words)]


def _pick(words: Sequence[int], at: Expr, f: Format) -> Expr:
    """words[at] through a tree of selects on the bits of `at`."""
    size = 1
    while size < len(words):
        size *= 2
    level: list[Expr] = [const(w, f.uint) for w in list(words) + [0] * (size - len(words))]
    bit = 0
    while len(level) > 1:
        on = E.ne(op("and", at, const(1 << bit, f.int)), const(0, f.int))
        level = [select(on, level[k + 1], level[k]) for k in range(0, len(level), 2)]
        bit += 1
    return level[0]


Turn = tuple[Expr, Expr, Expr]  # quadrant bits, remainder in [-pi/4, pi/4] and its low part


def reduce_near(x: Expr, f: Format) -> Turn:
    """Subtract multiples of pi/2, in three parts.

    The multiple is rounded by adding 1.5 * 2**mantissa, which leaves it in the low bits. The
    first product is exact within the fma, so cancellation costs nothing, and the third part, far
    below the last bit of an ordinary remainder, is kept apart.
    """
    shifted = fma(x, const(2 / math.pi), const(f.magic))
    n = shifted - f.magic
    first, second, third = (const(-part) for part in HALF_PI[f.name])
    r = fma(n, second, fma(n, first, x))
    return bitcast(shifted, f.int), r, n * third


def reduce_far(x: Expr, f: Format) -> Turn:
    """The same for any finite x >= 1 (Payne and Hanek): the fraction of x/(2 pi) from exactly the
    bits of 1/(2 pi) that matter, in integers."""
    bits = 8 * f.dtype.itemsize
    log_bits = 5 if bits == 32 else 6
    words = _turns(7 if bits == 32 else 20, bits)
    raw = bitcast(x, f.uint)
    exponent = cast(op("shr", raw, const(f.mantissa, f.uint)), f.int) - const(f.bias - 1, f.int)
    mantissa = op("or", op("shl", raw, const(bits - 1 - f.mantissa, f.uint)),
                  const(1 << (bits - 1), f.uint))
    word = op("shr", exponent, const(log_bits, f.int))
    shift = cast(op("and", exponent, const(bits - 1, f.int)), f.uint)
    back = const(bits, f.uint) - shift  # a shift by the whole width gives 0, as it should
    w = [_pick(([0] + words)[k:k + 18], word, f) for k in range(4)]
    hi, mid, lo = (op("or", op("shl", w[k], shift), op("shr", w[k + 1], back)) for k in range(3))
    # product = mantissa * (hi, mid, lo), keeping its top two words modulo 2**(2 bits)
    high_lo = op("mulhi", mantissa, lo)
    low_mid, high_mid = mantissa * mid, op("mulhi", mantissa, mid)
    p_low = low_mid + high_lo
    carry = cast(p_low < low_mid, f.uint)
    p_high = mantissa * hi + high_mid + carry
    quadrant = op("shr", p_high, const(bits - 2, f.uint))
    # the signed fraction, in units of 2**-(2 bits - 2) quarter turns
    two = const(2, f.uint)
    up = op("shl", p_high, two)
    frac = bitcast(op("or", up, op("shr", p_low, const(bits - 2, f.uint))), f.int)
    rest = op("shl", p_low, two)
    round_up = frac < const(0, f.int)
    quadrant = quadrant + cast(round_up, f.uint)
    scale = 2.0**-bits
    top = cast(frac, f.dtype)
    lost = cast(frac - cast(top, f.int), f.dtype)  # what the conversion rounded away
    lost = select(E.abs_(top) < 2.0 ** (bits - 2), lost, 0.0)
    tail = fma(cast(rest, f.dtype), const(scale), lost)
    c_high, c_low = HALF_PI[f.name][:2]
    total = top + tail
    tail = tail - (total - top)
    r, low = times(total, const(c_high))
    low = low + fma(total, const(c_low), tail * c_high)
    return bitcast(quadrant, f.int), r * scale, low * scale


def _sine(r: Expr, low: Expr, f: Format) -> Expr:
    z = r * r
    return r + fma(r * z, polynomial(z, f.table("SIN")), low)


def _cosine(r: Expr, f: Format, exact: bool = False) -> Expr:
    """1 - r^2/2 + r^4 p(r^2); `exact` and float64 put the rounding error of 1 - r^2/2 back."""
    z = r * r
    tail = z * z * polynomial(z, f.table("COS"))
    if f is F32 and not exact:
        return fma(z, const(-0.5), const(1.0)) + tail
    half = 0.5 * z
    w = 1.0 - half
    return w + (((1.0 - w) - half) + tail)


def _by_quadrant(turn: Turn, shift: int, far: bool, f: Format) -> Expr:
    """sin of (quadrant + shift) quarter turns plus the remainder."""
    q = turn[0] + const(shift, f.int)
    odd = E.ne(op("and", q, const(1, f.int)), const(0, f.int))
    y = select(odd, _cosine(turn[1], f, far), _sine(turn[1], turn[2], f))
    top = 8 * f.dtype.itemsize - 2
    return flip_sign(y, op("shl", q, const(top, f.int)), f)


def _circular(x: Expr, f: Format, finish: Callable[[Turn, bool], Expr]) -> Expr:
    """Apply `finish(turn, far)` to the near or far reduction of x."""
    near = finish(reduce_near(x, f), False)
    a = E.abs_(x)
    q, r, low = reduce_far(a, f)
    negative = x < 0.0
    turn = select(negative, -q, q), select(negative, -r, r), select(negative, -low, low)
    far = select(a < INF, finish(turn, True), NAN)
    return E.rarely(a > NEAR[f.name], far, near)


def sin(x: Expr, f: Format) -> Expr:
    """Reduce to [-pi/4, pi/4], then an odd or even polynomial by quadrant."""
    y = _circular(x, f, lambda turn, far: _by_quadrant(turn, 0, far, f))
    return select(E.eq(x, 0.0), x, y)  # keeps -0


def cos(x: Expr, f: Format) -> Expr:
    """sin a quarter turn on."""
    return _circular(x, f, lambda turn, far: _by_quadrant(turn, 1, far, f))


def tan(x: Expr, f: Format) -> Expr:
    """sin/cos of the remainder, or -cos/sin in odd quadrants."""
    def finish(turn: Turn, far: bool) -> Expr:
        s, c = _sine(turn[1], turn[2], f), _cosine(turn[1], f, far)
        odd = E.ne(op("and", turn[0], const(1, f.int)), const(0, f.int))
        return select(odd, -c, s) / select(odd, s, c)

    return select(E.eq(x, 0.0), x, _circular(x, f, finish))


def _asin_parts(x: Expr, f: Format) -> tuple[Expr, Expr, Expr]:
    """(|x| > 1/2, s, asin-like tail): s is |x|, or sqrt((1-|x|)/2) beyond 1/2, and asin s is
    s + tail."""
    a = E.abs_(x)
    outer = a > 0.5
    z = select(outer, 0.5 - 0.5 * a, a * a)
    s = select(outer, E.sqrt(z), a)
    return outer, s, s * z * polynomial(z, f.table("ASIN"))


def asin(x: Expr, f: Format) -> Expr:
    """Polynomial below 1/2; pi/2 - 2 asin(sqrt((1-x)/2)) above."""
    outer, s, tail = _asin_parts(x, f)
    high, low = HALF_PI[f.name][:2]
    far = high - (2.0 * s + (2.0 * tail - low))
    return copysign(select(outer, far, s + tail), x, f)


def acos(x: Expr, f: Format) -> Expr:
    """pi/2 - asin x below 1/2; 2 asin(sqrt((1-x)/2)), or pi minus it, beyond."""
    outer, s, tail = _asin_parts(x, f)
    high, low = HALF_PI[f.name][:2]
    signed, signed_tail = copysign(s, x, f), select(x < 0.0, -tail, tail)
    inner = high - (signed + (signed_tail - low))
    twice = 2.0 * (s + tail)
    left = 2.0 * high - (2.0 * s + (2.0 * tail - 2.0 * low))
    return select(outer, select(x < 0.0, left, twice), inner)


def _atan_unit(t: Expr, f: Format) -> Expr:
    """atan t - t for 0 <= t <= 1."""
    z = t * t
    return t * z * polynomial(z, f.table("ATAN"))


def atan(x: Expr, f: Format) -> Expr:
    """A polynomial on [0, 1]; pi/2 - atan(1/x) beyond."""
    a = E.abs_(x)
    big = a > 1.0
    t = select(big, 1.0 / a, a)
    tail = _atan_unit(t, f)
    high, low = HALF_PI[f.name][:2]
    return copysign(select(big, high - (t + (tail - low)), t + tail), x, f)


def atan2(y: Expr, x: Expr, f: Format) -> Expr:
    """atan of the smaller over the larger magnitude, then by octant; zeros and infinities as
    in C."""
    ax, ay = E.abs_(x), E.abs_(y)
    steep = ay > ax
    big, small = select(steep, ay, ax), select(steep, ax, ay)
    equal = E.eq(ax, ay)  # inf/inf and 0/0 included
    t = select(equal, select(E.eq(big, 0.0), 0.0, 1.0), small / big)
    tail = _atan_unit(t, f)
    high, low = HALF_PI[f.name][:2]
    base = select(steep, high - (t + (tail - low)), t + tail)
    left = bitcast(x, f.int) < const(0, f.int)
    other = select(steep, high + (t + (tail + low)), 2.0 * high - (t + (tail - 2.0 * low)))
    result = copysign(select(left, other, base), y, f)
    return select(op("or", E.ne(x, x), E.ne(y, y)), x + y, result)


def sinpi_magnitude(a: Expr, f: Format) -> Expr:
    """|sin(pi a)| for a >= 0, exact at integers."""
    r = E.abs_(a - E.round_(a))
    near = r <= 0.25
    s = select(near, r, 0.5 - r)
    z = s * s
    sine = s * fma(z, polynomial(z, f.table("SINPI")), const(math.pi))
    w = math.pi * s
    return select(near, sine, _cosine(w, f))
