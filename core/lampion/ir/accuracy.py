"""Measuring the math expansions against long double.

Floor 1; imports base, expr, interpret, math. Used by tests and by `lampion._accuracy`, which writes
docs/accuracy.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..base import dtype as dt
from ..base.dtype import dtype
from . import interpret
from .math import DOMAINS, template

Array = Any


def samples_of(d: dtype, low: float, high: float, n: int, seed: int = 0) -> Array:
    """Half uniform in value, half uniform in the bits (every binade alike)."""
    rng = np.random.default_rng(seed)
    nd = d.np
    uniform = rng.uniform(max(low, -1e300), min(high, 1e300), n // 2).astype(nd)
    integer = np.int32 if d is dt.float32 else np.int64
    parts = [uniform]
    for sign, lo, hi in ((1, max(low, 0.0), high), (-1, max(-high, 0.0), -low)):
        if hi > lo:
            a, b = (int(np.array(v, nd).view(integer)) for v in (lo, hi))
            bits = rng.integers(a, b, n // 2, endpoint=True).astype(integer)
            parts.append(sign * bits.view(nd))
    x = np.concatenate(parts)
    return x[(x >= low) & (x <= high)]


def _longdouble(name: str, args: list[Array]) -> Array:
    wide = [a.astype(np.longdouble) for a in args]
    with np.errstate(all="ignore"):
        return interpret._FLOAT[name](*wide)


def _exact(name: str, x: Array) -> Array:
    """For functions NumPy lacks in long double: mpmath, one by one."""
    import mpmath as mp

    f = {"erf": mp.erf, "erfc": mp.erfc, "lgamma": lambda v: mp.log(abs(mp.gamma(v)))
         if abs(v) < 100 else mp.re(mp.loggamma(v))}.get(name) or getattr(mp, name)

    def one(v: float) -> Any:
        with mp.workdps(50 if abs(v) < 1e10 else 700 if abs(v) > 1e30 else 90):
            y = f(mp.mpf(v))
            high = float(y)
            if math.isinf(high) or math.isnan(high):
                return np.longdouble(high)
            return np.longdouble(high) + np.longdouble(float(y - high))

    return np.array([one(float(v)) for v in x], np.longdouble)


def measure(name: str, d: dtype, samples: int = 20000, evaluate: Any = None,
            oracle: Any = None) -> float:
    """The largest error of one expansion over its sampled domain, in ulps."""
    if name in ("pow", "atan2"):
        return _measure_binary(name, d, samples, evaluate, oracle)
    worst = 0.0
    for low, high in DOMAINS[name]:
        if d is dt.float64:
            low, high = _widen(low), _widen(high)
        slow = name in ("erf", "erfc", "lgamma") or (name in ("sin", "cos", "tan")
                                                     and d is dt.float64)
        n = min(samples, 3000) if slow else samples
        x = samples_of(d, low, high, n)
        if oracle is not None:
            want = oracle(name, [x])
        else:
            want = _exact(name, x) if slow else _longdouble(name, [x])
        worst = max(worst, float(ulps(_value(name, d, [x], evaluate), want, d).max()))
    return worst


def _widen(v: float) -> float:
    """A float32 limit as the float64 limit it stands for."""
    return {3e38: 1.7e308, -3e38: -1.7e308, 1e-45: 5e-324, 89.0: 709.7, -89.0: -709.7,
            -104.0: -745.0, -150.0: -1074.0, 128.0: 1023.9, 1e30: 1e300, 1e-30: 1e-300,
            -20.0: -40.0, 9.0: 26.0, 50000.0: 1e9, -50000.0: -1e9, 10.0: 10.0}.get(v, v)


def _measure_binary(name: str, d: dtype, samples: int, evaluate: Any, oracle: Any) -> float:
    rng = np.random.default_rng(1)
    top = 80.0 if d is dt.float32 else 700.0
    if name == "atan2":
        a, b = (samples_of(d, -1e20, 1e20, samples, s) for s in (1, 2))
        n = min(len(a), len(b))
        pairs = [(rng.permutation(a)[:n], rng.permutation(b)[:n])]
    else:
        base = samples_of(d, 1e-30, 1e30, samples, 3)
        y = (rng.uniform(-1, 1, len(base)) * top
             / np.maximum(np.abs(np.log(base.astype(np.float64))), 1e-3)).astype(d.np)
        close = rng.uniform(0.9, 1.1, len(base)).astype(d.np)
        z = (rng.uniform(-1, 1, len(base)) * top
             / np.maximum(np.abs(np.log(close.astype(np.float64))), 1e-5)).astype(d.np)
        pairs = [(base, y), (close, z)]
    worst = 0.0
    for x, y in pairs:
        if oracle is None and d is dt.float64:
            x, y = x[:3000], y[:3000]
            want = _exact_binary(name, x, y)
        else:
            want = oracle(name, [x, y]) if oracle else _longdouble(name, [x, y])
        worst = max(worst, float(ulps(_value(name, d, [x, y], evaluate), want, d).max()))
    return worst


def _exact_binary(name: str, x: Array, y: Array) -> Array:
    import mpmath as mp

    f = mp.atan2 if name == "atan2" else mp.power
    out = []
    with mp.workdps(50):
        for a, b in zip(x, y):
            v = f(mp.mpf(float(a)), mp.mpf(float(b)))
            high = float(v)
            out.append(np.longdouble(high) + np.longdouble(float(v - high))
                       if math.isfinite(high) else np.longdouble(high))
    return np.array(out, np.longdouble)


def _value(name: str, d: dtype, args: list[Array], evaluate: Any) -> Array:
    body, variables = template(name, d)
    env = {v.value: a for v, a in zip(variables, args)}
    if evaluate is not None:
        return evaluate(body, env)
    with np.errstate(all="ignore"):
        return interpret.evaluate([body], {}, env=env)[0]


def ulps(got: Array, want: Array, d: dtype) -> Array:
    """|got - want| in units in the last place of the rounded true value."""
    with np.errstate(all="ignore"):
        rounded = want.astype(d.np)
        step = np.spacing(np.abs(rounded)).astype(np.longdouble)
        error = np.abs(got.astype(np.longdouble) - want) / step
        top = np.finfo(d.np).max
        over = np.isinf(rounded) & (np.isinf(got) | (np.abs(got) >= top * 0.999999))
        same = (got == rounded) | (np.isnan(got) & np.isnan(want)) | over
        return np.where(same & ~np.isfinite(error), 0.0, np.where(np.isnan(error), np.inf, error))
