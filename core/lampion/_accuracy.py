"""How exact the elementary and special functions are: measures them, and writes docs/accuracy.md.

    python -m lampion._accuracy > docs/accuracy.md

Floor 7; needs mpmath. Not imported by anything that ships.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import lampion

from .base import dtype as dt
from .ir.accuracy import samples_of, ulps
from .ir.math import BOUNDS, accuracy_table

Array = Any
WIDE = 1e300  # stands for "all numbers" in a domain


@dataclass(frozen=True)
class Case:
    """A function of lampion.special on an interval, with its limit in ulps.

    `exact` takes and gives mpmath numbers. `first` are arguments before the one that is sampled.
    `scale`, for functions with zeros, gives the size that an error is measured against where the
    value itself is smaller.
    """

    name: str
    exact: Callable[[Any], Any]
    low: float
    high: float
    limit: tuple[float, float] = (4.0, 4.0)
    first: tuple[Any, ...] = ()
    scale: Callable[[Any], Any] | None = None
    note: str = ""


def cases() -> Iterator[Case]:
    """Every special function, over all of its domain where the dtype can hold the result."""
    import mpmath as mp

    one = mp.mpf(1)

    def bessel(f: Any, nu: int) -> Callable[[Any], Any]:
        return lambda x: f(nu, x)

    def modulus(nu: int) -> Callable[[Any], Any]:
        return lambda x: mp.sqrt(mp.besselj(nu, abs(x)) ** 2 + mp.bessely(nu, abs(x)) ** 2)

    def normal(x: Any) -> Any:
        return mp.erfc(-x / mp.sqrt(2)) / 2

    def log_normal(x: Any) -> Any:
        with mp.workdps(90):  # 1 - 1e-33 has to differ from 1
            return mp.log(normal(x))

    def quantile(p: Any) -> Any:
        with mp.workdps(90):
            return mp.sqrt(2) * mp.erfinv(2 * p - 1)

    yield Case("digamma", lambda x: mp.psi(0, x), 1e-30, WIDE)
    yield Case("digamma", lambda x: mp.psi(0, x), -20, -0.01, scale=lambda x: one * 8,
               note="of 8, where psi is less")
    for n in (1, 2, 5):
        yield Case("polygamma", lambda x, n=n: mp.psi(n, x), 1e-4, 1e4, (5.0 if n > 2 else 4.0, 4),
                   (n,), note=f"order {n}")
    yield Case("polygamma", lambda x: mp.psi(1, x), -20, -0.01, (5.0, 5.0), (1,), note="order 1")
    yield Case("zeta", lambda q: mp.zeta(3, q), 1e-6, 1e6, first=(3.0,), note="of 3 and x")
    yield Case("entr", lambda x: -x * mp.log(x), 1e-30, WIDE)
    yield Case("erf", mp.erf, -6, 6)
    yield Case("erfc", mp.erfc, -5, 9)
    yield Case("erfcx", lambda x: mp.exp(x * x) * mp.erfc(x), -9, 1e6)
    yield Case("erfinv", mp.erfinv, -1, 1)
    yield Case("ndtr", normal, -13, 8)
    yield Case("log_ndtr", log_normal, -100, 12)
    yield Case("ndtri", quantile, 1e-30, 0.999)
    for nu in (0, 1):
        i, k = bessel(mp.besseli, nu), bessel(mp.besselk, nu)
        yield Case(f"i{nu}", i, -87, 87, (4.0, 5.0))
        yield Case(f"i{nu}e", lambda x, i=i: mp.exp(-abs(x)) * i(x), -1e4, 1e4, (4.0, 5.0))
        yield Case(f"modified_bessel_k{nu}", k, 1e-2, 80, (4.0, 5.0))
        yield Case(f"scaled_modified_bessel_k{nu}", lambda x, k=k: mp.exp(x) * k(x), 1e-2, 1e4,
                   (4.0, 5.0))
        yield Case(f"bessel_j{nu}", bessel(mp.besselj, nu), -1e4, 1e4, (6.0, 6.0), (),
                   modulus(nu), "of the modulus")
        yield Case(f"bessel_y{nu}", bessel(mp.bessely, nu), 1e-6, 1e4, (8.0, 8.0), (),
                   modulus(nu), "of the modulus")
    yield Case("spherical_bessel_j0", lambda x: mp.sin(x) / x, -1e4, 1e4)
    yield Case("airy_ai", mp.airyai, -100, 20, (8.0, 8.0), (),
               lambda x: mp.hypot(mp.airyai(x), mp.airybi(x) if x < 0 else 0), "of the modulus")
    yield Case("sinc", lambda x: mp.sinpi(x) / (mp.pi * x), -1e4, 1e4)
    yield Case("logit", lambda x: mp.log(x / (1 - x)), 1e-30, 1)
    yield Case("expit", lambda x: 1 / (1 + mp.exp(-x)), -80, 80)
    yield Case("gammaln", lambda x: mp.loggamma(x), 1e-30, 1e30)
    yield Case("xlog1py", lambda x: 3 * mp.log1p(x), -1, WIDE, first=(3.0,), note="3 log1p(x)")
    yield Case("xlogy", lambda x: 3 * mp.log(x), 1e-30, WIDE, first=(3.0,), note="3 log(x)")
    yield Case("multigammaln", lambda x: mp.log(mp.pi) / 2 + mp.loggamma(x)
               + mp.loggamma(x - one / 2), 3, 1e6, note="of dimension 2")


def measure(case: Case, d: Any, samples: int = 120, device: Any = None) -> float:
    """The largest error of a case, in ulps, over values uniform in size and uniform in bits."""
    import mpmath as mp

    top = 1e30 if d is dt.float32 else 1e200
    with np.errstate(over="ignore"):
        x = samples_of(d, max(case.low, -top), min(case.high, top), samples)
    x = x[(x != 0) & (x > case.low) & (x < case.high)]
    want, size = [], []
    with mp.workdps(40):
        for v in x:
            y = mp.re(case.exact(mp.mpf(float(v))))
            want.append(_long(y))
            size.append(0 if case.scale is None else _long(abs(case.scale(mp.mpf(float(v))))))
    t = lampion.tensor(x, device=device)
    f = getattr(lampion.special, case.name)
    got = (f(t, 2) if case.name == "multigammaln" else f(*case.first, t)).to("cpu").numpy()
    true = np.array(want, np.longdouble)
    error = ulps(got, true, d)
    if case.scale is not None:
        large = np.maximum(np.abs(true), np.array(size, np.longdouble))
        with np.errstate(over="ignore"):
            unit = np.spacing(large.astype(d.np)).astype(np.longdouble)
        error = np.abs(got.astype(np.longdouble) - true) / unit
    normal = np.abs(true) >= np.finfo(d.np).tiny
    return float(error[normal].max())


def _long(y: Any) -> Any:
    high = float(y)
    return np.longdouble(high) + np.longdouble(float(y - high)) if math.isfinite(high) \
        else np.longdouble(high)


def markdown() -> str:
    """The document."""
    rows: dict[str, list[float]] = {}
    for name, _, error in accuracy_table(20000):
        rows.setdefault(name, []).append(error)
    out = [
        "# Accuracy",
        "",
        "Largest error found, in units in the last place, over random arguments (uniform in value",
        "and uniform in the bits), against arithmetic of 40 digits or more, or long double.",
        "Written by `python -m lampion._accuracy`. The expansions are the same on every device.",
        "",
        "## Elementary functions",
        "",
        "Over each function's whole domain; `tests/unit/test_ir_math.py` enforces the bounds.",
        "",
        "| function | float32 | bound | float64 | bound |",
        "|---|---|---|---|---|"]
    out += [f"| {name} | {a:.2f} | {BOUNDS[name][0]:g} | {b:.2f} | {BOUNDS[name][1]:g} |"
            for name, (a, b) in rows.items()]
    out += [
        "",
        "float16 and bfloat16 are computed in float32 and rounded once at the end. `lgamma` of a",
        "negative argument is accurate in absolute terms only near its zeros. `sqrt`, division,",
        "`fma` and rounding are the processor's own and correctly rounded; `rsqrt` is 1/sqrt(x).",
        "",
        "## Special functions",
        "",
        "`tests/ops/test_special_accuracy.py` enforces the bounds. Where a function oscillates,",
        "the error is in units in the last place of what the last column names: beside a zero no",
        "digit of the value itself can be promised without longer arithmetic.",
        "",
        "| function | from | to | float32 | bound | float64 | bound | |",
        "|---|---|---|---|---|---|---|---|"]
    for c in cases():
        a, b = (measure(c, d) for d in (dt.float32, dt.float64))
        out.append(f"| {c.name} | {c.low:g} | {c.high:g} | {a:.2f} | {c.limit[0]:g} | {b:.2f} | "
                   f"{c.limit[1]:g} | {c.note} |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
