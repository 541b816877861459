"""Fits the Chebyshev series of core/lampion/ir/special_tables.py (needs mpmath).

    python core/tools/fit_special_tables.py > core/lampion/ir/special_tables.py

Each entry is a smooth function on [-1, 1]; the text beside it says how t comes from the argument.
Coefficients come from the function's values at Chebyshev nodes, computed with 40 digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp

mp.mp.dps = 40
RELATIVE = mp.mpf(2) ** -57


def coefficients(f: Callable[[Any], Any], n: int = 72) -> list[float]:
    """Chebyshev coefficients of f, cut where they no longer matter in double precision."""
    nodes = [mp.cos(mp.pi * (k + mp.mpf(1) / 2) / n) for k in range(n)]
    values = [f(t) for t in nodes]
    out = []
    for j in range(n):
        s = mp.fsum(v * mp.cos(mp.pi * j * (k + mp.mpf(1) / 2) / n) for k, v in enumerate(values))
        out.append(s * (1 if j == 0 else 2) / n)
    top = max(abs(c) for c in out)
    while abs(out[-1]) < RELATIVE * top:
        out.pop()
    return [float(c) for c in out]


def phase(nu: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """P(t) and x Q(t) / 8 of J + iY = sqrt(2 / (pi x)) e**(i (x - phi)) (P + iQ), x >= 8."""
    def both(t: Any) -> Any:
        x = mp.sqrt(128 / (t + 1))
        phi = (2 * nu + 1) * mp.pi / 4
        h = (mp.besselj(nu, x) + 1j * mp.bessely(nu, x)) * mp.sqrt(mp.pi * x / 2)
        return h * mp.exp(-1j * (x - phi)), x

    return lambda t: both(t)[0].real, lambda t: both(t)[0].imag * both(t)[1] / 8


def airy_phase(z: Any) -> tuple[Any, Any]:
    """P and Q of Ai(-z) = (P sin(u) - Q cos(u)) / (sqrt(pi) z**(1/4)), u = zeta + pi/4."""
    u = mp.mpf(2) / 3 * z ** mp.mpf(1.5) + mp.pi / 4
    a = mp.sqrt(mp.pi) * z ** mp.mpf(0.25)
    ai, bi = mp.airyai(-z) * a, mp.airybi(-z) * a
    return ai * mp.sin(u) + bi * mp.cos(u), bi * mp.sin(u) - ai * mp.cos(u)


def airy_z(t: Any) -> Any:
    """z from t = 2 (zeta_4 / zeta)**2 - 1, zeta = 2/3 z**1.5, zeta_4 that of z = 4."""
    return (mp.mpf(16) / 3 / mp.sqrt((t + 1) / 2) * 3 / 2) ** (mp.mpf(2) / 3)


def quantile(p: Any) -> Any:
    """x > 0 with 1 - Phi(x) = p."""
    guess = mp.sqrt(-2 * mp.log(p)) - mp.mpf(1) / 2
    if p > 0.4:
        guess = (mp.mpf(1) / 2 - p) * mp.sqrt(2 * mp.pi)
    return mp.findroot(lambda x: mp.log(mp.erfc(x / mp.sqrt(2)) / 2) - mp.log(p), guess)


def central(t: Any) -> Any:
    z = mp.mpf(0.180625) / 2 * (t + 1)
    q = mp.sqrt(z)
    return quantile(mp.mpf(1) / 2 - q) / q


def tail(low: Any, high: Any) -> Callable[[Any], Any]:
    def f(t: Any) -> Any:
        r = (high - low) * (t + 1) / 2 + low
        return quantile(mp.exp(-r ** 2)) / r

    return f


def erfcx(t: Any) -> Any:
    x = 4 * (1 + t) / (1 - t)
    return mp.exp(x * x) * mp.erfc(x) * (1 + 2 * x)


def weighted(nu: int, slope: float) -> Callable[[Any], Any]:
    """(1 + slope x) e**-x I_nu(x) / x**nu, x = 4 (t + 1)."""
    def f(t: Any) -> Any:
        x = 4 * (t + 1)
        return (1 + mp.mpf(slope) * x) * mp.exp(-x) * mp.besseli(nu, x) / x ** nu

    return f


DIGAMMA_ROOT = mp.findroot(lambda x: mp.psi(0, x), mp.mpf("1.4616"))


def digamma(t: Any) -> Any:
    return mp.psi(0, t + 2) / (t + 2 - DIGAMMA_ROOT)


def k0_low(t: Any) -> Any:
    x = mp.sqrt((t + 1) / 8)
    return mp.besselk(0, x) + mp.log(x / 2) * mp.besseli(0, x)


def k1_low(t: Any) -> Any:
    x = mp.sqrt((t + 1) / 8)
    return x * (mp.besselk(1, x) - mp.log(x / 2) * mp.besseli(1, x))


def y0_low(t: Any) -> Any:
    x = mp.sqrt(32 * (t + 1))
    return mp.bessely(0, x) - 2 / mp.pi * mp.log(x) * mp.besselj(0, x)


def y1_low(t: Any) -> Any:
    x = mp.sqrt(32 * (t + 1))
    return (mp.bessely(1, x) - 2 / mp.pi * (mp.log(x) * mp.besselj(1, x) - 1 / x)) / x


def scaled(bessel: Callable[..., Any], nu: int, sign: int, first: Any) -> Callable[[Any], Any]:
    """sqrt(x) e**(sign x) bessel(nu, x), t = 2 first / x - 1."""
    def f(t: Any) -> Any:
        x = 2 * first / (t + 1)
        return mp.sqrt(x) * mp.exp(sign * x) * bessel(nu, x)

    return f


def high_airy(t: Any) -> Any:
    zeta = mp.mpf(2) / 3 * mp.mpf(2) ** mp.mpf(1.5) * 2 / (t + 1)
    x = (zeta * 3 / 2) ** (mp.mpf(2) / 3)
    return mp.airyai(x) * mp.exp(zeta) * 2 * mp.sqrt(mp.pi) * x ** mp.mpf(0.25)


def root(z: Any) -> Any:
    return mp.sqrt(z)


TABLES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "I0E_LOW": ("(1 + x/2) e**-x I0(x), x = 4 (t + 1)", weighted(0, 0.5)),
    "I0E_HIGH": ("sqrt(x) e**-x I0(x), t = 16 / x - 1", scaled(mp.besseli, 0, -1, 8)),
    "I1E_LOW": ("(1 + 3x/2) e**-x I1(x) / x, x = 4 (t + 1)", weighted(1, 1.5)),
    "I1E_HIGH": ("sqrt(x) e**-x I1(x), t = 16 / x - 1", scaled(mp.besseli, 1, -1, 8)),
    "I0_SMALL": ("I0(x), x**2 = (t + 1) / 8", lambda t: mp.besseli(0, root((t + 1) / 8))),
    "I1_SMALL": ("I1(x) / x, x**2 = (t + 1) / 8",
                 lambda t: mp.besseli(1, root((t + 1) / 8)) / root((t + 1) / 8)),
    "K0_LOW": ("K0(x) + ln(x/2) I0(x), x**2 = (t + 1) / 8", k0_low),
    "K0_HIGH": ("sqrt(x) e**x K0(x), t = 1 / x - 1", scaled(mp.besselk, 0, 1, mp.mpf(0.5))),
    "K1_LOW": ("x (K1(x) - ln(x/2) I1(x)), x**2 = (t + 1) / 8", k1_low),
    "K1_HIGH": ("sqrt(x) e**x K1(x), t = 1 / x - 1", scaled(mp.besselk, 1, 1, mp.mpf(0.5))),
    "J0_LOW": ("J0(x), x**2 = 32 (t + 1)", lambda t: mp.besselj(0, root(32 * (t + 1)))),
    "J1_LOW": ("J1(x) / x, x**2 = 32 (t + 1)",
               lambda t: mp.besselj(1, root(32 * (t + 1))) / root(32 * (t + 1))),
    "Y0_LOW": ("Y0(x) - 2/pi ln(x) J0(x), x**2 = 32 (t + 1)", y0_low),
    "Y1_LOW": ("(Y1(x) - 2/pi (ln(x) J1(x) - 1/x)) / x, x**2 = 32 (t + 1)", y1_low),
    "P0": ("P of order 0, t = 128 / x**2 - 1", phase(0)[0]),
    "Q0": ("x Q / 8 of order 0, t = 128 / x**2 - 1", phase(0)[1]),
    "P1": ("P of order 1, t = 128 / x**2 - 1", phase(1)[0]),
    "Q1": ("x Q / 8 of order 1, t = 128 / x**2 - 1", phase(1)[1]),
    "AIRY_MIDDLE": ("Ai(x), x = 3 t - 1", lambda t: mp.airyai(3 * t - 1)),
    "AIRY_HIGH": ("2 sqrt(pi) x**(1/4) e**zeta Ai(x), t = 2 zeta(2) / zeta - 1", high_airy),
    "AIRY_P": ("P of Ai(-z), t = 2 (zeta(4) / zeta)**2 - 1", lambda t: airy_phase(airy_z(t))[0]),
    "AIRY_Q": ("zeta Q of Ai(-z), same t",
               lambda t: airy_phase(airy_z(t))[1] * 2 / 3 * airy_z(t) ** mp.mpf(1.5)),
    "ERFCX": ("(1 + 2x) erfcx(x), t = (x - 4) / (x + 4)", erfcx),
    "QUANTILE_MIDDLE": ("x / q, q**2 = 0.0903125 (t + 1), Phi(x) = 1/2 + q", central),
    "QUANTILE_TAIL": ("x / r, r = sqrt(-ln p) = 1.55 + 1.75 (t + 1)",
                      tail(mp.mpf(1.55), mp.mpf(5.05))),
    "QUANTILE_FAR": ("x / r, r = sqrt(-ln p) = 5 + 11.25 (t + 1)", tail(mp.mpf(5), mp.mpf(27.5))),
    "DIGAMMA": ("psi(x) / (x - root), x = t + 2", digamma),
}


def split(x: Any, bits: int) -> tuple[float, float]:
    """x as a number of `bits` bits and the rest."""
    _, exponent = mp.frexp(x)
    scale = mp.mpf(2) ** (bits - exponent)
    high = mp.nint(x * scale) / scale
    return float(high), float(x - high)


CONSTANTS = {
    "DIGAMMA_ROOT": ("the root of psi: 24 bits, then the rest", split(DIGAMMA_ROOT, 24)),
    "SQRT_HALF": ("sqrt(1/2): 53 bits, then the rest", split(mp.sqrt(mp.mpf(0.5)), 53)),
    "SQRT_HALF_SHORT": ("sqrt(1/2): 24 bits, then the rest", split(mp.sqrt(mp.mpf(0.5)), 24)),
}


def main() -> None:
    """Print the module."""
    print('"""Chebyshev series of the special functions. Written by '
          'core/tools/fit_special_tables.py.\n\nFloor 1; imports nothing.\n"""\n')
    for name, (text, f) in TABLES.items():
        print(f"# {text}")
        print(f"{name} = (")
        row = "   "
        for c in coefficients(f):
            item = f" {c!r},"
            if len(row) + len(item) > 99:
                print(row)
                row = "   "
            row += item
        print(row + "\n)")
    for name, (text, values) in CONSTANTS.items():
        print(f"# {text}\n{name} = {values!r}")


if __name__ == "__main__":
    main()
