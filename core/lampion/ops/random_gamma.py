"""Gamma-distributed numbers, and their derivative by the shape of the distribution.

Floor 3; imports ir, runtime, random and the registry. The public functions are in
`lampion.choices`.
"""

from __future__ import annotations

import math

import numpy as np

from ..base import dtype as dt
from ..ir import expr as E
from ..ir import special as S
from ..ir.expr import Expr, cast, op, select
from ..runtime.lowering import Nest
from .random import _settled, gaussian, open_unit, philox
from .registry import Attr, elementwise, kernel_op
from .streams import GAMMA_COUNTERS, GAMMA_TRIES


@kernel_op("input: T, seed: I, offset: I, *, log")
class draw_gamma:
    """Numbers of the standard gamma distributions whose shapes stand in `input` (dense), or their
    logarithms, which are finite where the numbers themselves are too small for the dtype.

    Rejection from a transformed normal number (Marsaglia and Tsang, A simple method for generating
    gamma variables, ACM TOMS 26, 2000). All tries run, each on its own two counters, because a
    kernel has no open loop; one is accepted with a probability above 0.95. Shapes a below 1: a
    number of shape a + 1 times u**(1 / a).
    """

    where = ()
    out = False
    differentiable = False

    def meta(input, seed, offset, log):
        return [(input.dtype, input.shape, input.strides)]

    def lower(call):
        m, out = call.inputs[0], call.outputs[0]
        d = dt.float64 if m.dtype is dt.float64 else dt.float32
        n = Nest("gamma", (m.numel, GAMMA_TRIES), [1], compute=d, merge=False)
        target, source = n.output(out, (1, 0)), n.input(m, (1, 0))
        seed, offset = n.scalar(dt.int64), n.scalar(dt.int64)
        n.start()
        shape = cast(source.outer(), d)
        small = shape < 1.0
        base = E.maximum(select(small, shape + 1.0, shape), 1.0) - 1.0 / 3.0  # NaN: as 1
        c = (1.0 / 3.0) * E.rsqrt(base)
        start = offset + n.coord(0) * (GAMMA_TRIES * GAMMA_COUNTERS)

        def numbers(k: Expr) -> tuple[Expr, Expr, Expr]:
            """A normal number and two uniform ones of a try."""
            first = start + k * GAMMA_COUNTERS
            x = gaussian(philox(seed, n.typed(first)), d)[0]
            u, boost = open_unit(philox(seed, n.typed(first + 1)), d)[:2]
            return x, u, boost

        x, u, _ = numbers(n.coord(1))
        v = 1.0 + c * x
        log_v = 3.0 * E.log(E.maximum(v, 1e-30))
        accepted = op("and", v > 0.0, E.log(u) < 0.5 * x * x + base * (1.0 - v * v * v + log_v))
        _, chosen = n.arg_reduce("max", _settled(n, cast(accepted, dt.float32)),
                                 _settled(n, cast(n.coord(1), dt.int64)))
        x, _, boost = numbers(chosen)
        v = 1.0 + c * x
        if call.log:
            value = E.log(base) + 3.0 * E.log(v)
            value = select(small, value + E.log(boost) / shape, value)
        else:
            value = base * v * v * v
            value = select(small, value * E.exp(E.log(boost) / shape), value)
            value = E.maximum(value, float(np.finfo(d.name).tiny))
        value = select(shape > 0.0, value, select(E.eq(shape, 0.0), -math.inf if call.log else 0.0,
                                                  math.nan))
        n.store(target, _settled(n, value), inner=False)
        return n.program()


# ---- the derivative by the shape ----------------------------------------------------------------

_NODES = [(float(0.5 * (x + 1)), float(0.5 * w))
          for x, w in zip(*np.polynomial.legendre.leggauss(20))]
_DECAY = 28.0  # the integrals end where the integrand has fallen by e**-28


@elementwise(where=(), method=False, kinds="f")
def gamma_path(value, input, *, log: Attr = False):
    """`value`, a drawn gamma number of shape `input` or the logarithm of one, with its derivative
    by the shape while its place in the distribution stays the same."""
    return value


@gamma_path.grad
def _gamma_path_grad(g, out, value, input, *, log):
    slope = log_slope(input, out if log else E.log(out))
    return 0, g * (slope if log else slope * out)


@elementwise(where=(), method=False, kinds="f")
def gamma_path_slope(input, value):
    """d value / d input of the gamma number `value` of shape `input`."""
    return log_slope(input, E.log(value)) * value


def log_slope(a: Expr, log_x: Expr) -> Expr:
    """d log x / d a, where P(a, x), the distribution function, is kept (Figurnov, Mohamed and
    Mnih, Implicit reparameterization gradients, 2018): -(dP/da) / (x p(x)).

    With dp/da = (log t - psi(a)) p that is the integral of (psi(a) - log t) p(t) / (x p(x)) from 0
    to x, or of its opposite from x up: the one is taken where the integrand has one sign, so that
    nothing cancels. It is smooth in |log(t / x)| and falls fast: Gauss and Legendre's rule. For
    small a and x the power series of P.
    """
    series = op("and", a < 2.0, log_x < math.log(2.0))
    a_here, log_here = select(series, a, 1.0), select(series, log_x, 0.0)
    a_there, log_there = select(series, 2.0, a), select(series, 0.0, log_x)
    return select(series, _by_series(a_here, log_here), _by_quadrature(a_there, log_there))


def _by_series(a: Expr, log_x: Expr) -> Expr:
    """P = x**a e**-x / gamma(a + 1) * sum of t[n], t[n] = x**n / ((a + 1) ... (a + n)), whose
    derivative by a is -t[n] (1 / (a + 1) + ... + 1 / (a + n))."""
    x = E.exp(log_x)
    term = total = E.const(1.0)
    harmonic = slope = E.const(0.0)
    for k in range(1, 22):
        step = 1.0 / (a + float(k))
        term, harmonic = term * x * step, harmonic + step
        total, slope = total + term, slope + term * harmonic
    return (total * (S.digamma(a + 1.0) - log_x) + slope) / a


def _by_quadrature(a: Expr, log_x: Expr) -> Expr:
    x = E.exp(log_x)
    large = a > 16.0
    wide = select(large, a, 16.0)
    i = 1.0 / wide
    # log x - psi(a): with both large, by log1p of the difference and psi's series for log a
    away = (x - wide) * i
    rest = i * (0.5 + i * (1 / 12 - i * i * (1 / 120 - i * i * (1 / 252))))
    far = E.log1p(E.maximum(away, -0.5)) + rest
    excess = select(op("and", large, away > -0.5), far, log_x - S.digamma(a))
    above = excess > 0.0
    sign = select(above, 1.0, -1.0)
    # the exponent at distance s is at most -d s - x s**2 / 2 above, -d s - x s**2 / (2 + s) below
    d = E.abs_(x - a)
    d = select(op("and", above, x < a), x - a, d)
    end_above = 2.0 * _DECAY / (d + E.sqrt(d * d + 2.0 * _DECAY * x))
    b = _DECAY - 2.0 * d
    root = E.sqrt(b * b + 8.0 * _DECAY * a)
    end_below = select(b > 0.0, (b + root) / (2.0 * a), 4.0 * _DECAY / (root - b))
    end = select(above, end_above, end_below)
    total: Expr = E.const(0.0)
    for node, weight in _NODES:
        s = end * node
        z = sign * s
        total = total + weight * (E.abs_(excess) + s) * E.exp((a - x) * z - x * _curve(z))
    return total * end


def _curve(z: Expr) -> Expr:
    """e**z - 1 - z."""
    small = E.abs_(z) < 0.25
    near = select(small, z, 0.0)
    p: Expr = E.const(1.0)
    for k in range(10, 2, -1):
        p = 1.0 + near * p * (1.0 / k)
    return select(small, 0.5 * near * near * p, E.expm1(z) - z)
