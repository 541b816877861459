"""Special functions as scalar expressions of the intrinsics.

Floor 1; imports expr. Being expressions, they run on every device and have gradients. Each
docstring names the method; coefficients of series are the published mathematical constants.
"""

from __future__ import annotations

import math

from . import expr as E
from .expr import Expr, select


def digamma(x: Expr) -> Expr:
    """psi(x): reflection for x < 0, upward recurrence to x >= 8, then the asymptotic series
    ln x - 1/(2x) - sum B_2k / (2k x^2k) (Abramowitz and Stegun 6.3.5, 6.3.7, 6.3.18).

    psi(0) is -inf with the sign of zero flipped; negative integers give NaN.
    """
    neg = x < 0.0
    y = select(neg, 1.0 - x, x)
    shift: Expr = E.const(0.0)
    z = y
    for _ in range(8):
        small = z < 8.0
        shift = shift + select(small, 1.0 / z, 0.0)
        z = select(small, z + 1.0, z)
    inv2 = 1.0 / (z * z)
    series: Expr = E.const(0.0)
    for c in reversed((1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)):
        series = (series + c) * inv2
    upper = E.log(z) - 0.5 / z - series - shift
    frac = x - E.trunc(x)
    reflected = upper - math.pi / E.tan(math.pi * frac)
    result = select(neg, select(E.eq(frac, 0.0), math.nan, reflected), upper)
    return select(E.eq(x, 0.0), -1.0 / x, result)


def trigamma(x: Expr) -> Expr:
    """psi'(x), same scheme as `digamma` (Abramowitz and Stegun 6.4.7, 6.4.6, 6.4.12)."""
    neg = x < 0.5
    y = select(neg, 1.0 - x, x)
    shift: Expr = E.const(0.0)
    z = y
    for _ in range(8):
        small = z < 8.0
        shift = shift + select(small, 1.0 / (z * z), 0.0)
        z = select(small, z + 1.0, z)
    inv = 1.0 / z
    inv2 = inv * inv
    series: Expr = E.const(0.0)
    for c in reversed((1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730)):
        series = (series + c) * inv2
    upper = inv + 0.5 * inv2 + series * inv + shift
    s = E.sin(math.pi * x)
    return select(neg, math.pi * math.pi / (s * s) - upper, upper)
