"""Regenerate core/lampion/ir/math_tables.py: polynomial coefficients of the math expansions.

Method: each function is brought to a smooth quotient g(t) on an interval [a, b] (see the table
below); the polynomial interpolates g at the Chebyshev nodes of the interval in 60-digit
arithmetic, which is within a small factor of the minimax polynomial, is converted to powers of
t, and is rounded to the target type. The degree is the least whose largest relative error (of
the whole function, not of g) is under the bound; it is written beside the coefficients.

Run: python core/tools/fit_math_tables.py > core/lampion/ir/math_tables.py   (needs mpmath)
"""

from __future__ import annotations

import mpmath as mp

mp.mp.dps = 60
LN2 = mp.log(2)


def near_zero(g, small):
    """Evaluate g away from 0 (limits of quotients are taken by symmetric averaging)."""
    def at(t):
        t = mp.mpf(t)
        if abs(t) < small:
            h = mp.mpf(10) ** -12
            with mp.workdps(120):
                return (g(t + h) + g(t - h)) / 2 if abs(t) < h else g(t)
        return g(t)
    return at


def interpolate(g, a, b, degree):
    """Monomial coefficients (ascending) of the Chebyshev interpolant of g on [a, b]."""
    n = degree + 1
    a, b = mp.mpf(a), mp.mpf(b)
    nodes = [(a + b) / 2 + (b - a) / 2 * mp.cos((2 * k + 1) * mp.pi / (2 * n)) for k in range(n)]
    values = [g(t) for t in nodes]
    coef = list(values)  # Newton's divided differences
    for j in range(1, n):
        for i in range(n - 1, j - 1, -1):
            coef[i] = (coef[i] - coef[i - 1]) / (nodes[i] - nodes[i - j])
    out = [mp.mpf(0)]
    for k in range(n - 1, -1, -1):
        shifted = [mp.mpf(0)] + out
        for i, c in enumerate(out):
            shifted[i] -= nodes[k] * c
        shifted[0] += coef[k]
        out = shifted
    return out[:n]


def worst(g, weight, coefs, a, b, points=400):
    """Largest |p - g| * weight over a grid of the interval."""
    top = mp.mpf(0)
    for k in range(points + 1):
        t = mp.mpf(a) + (mp.mpf(b) - mp.mpf(a)) * k / points
        top = max(top, abs(mp.polyval(coefs[::-1], t) - g(t)) * weight(t))
    return top


def weighted(g, weight, a, b, degree, points=160, rounds=12):
    """Ascending coefficients of a polynomial that is near-minimax for weight * (p - g): least
    squares on Chebyshev points, the weights sharpened where the error is large (Lawson)."""
    a, b = mp.mpf(a), mp.mpf(b)
    at = [(a + b) / 2 + (b - a) / 2 * mp.cos((2 * k + 1) * mp.pi / (2 * points))
          for k in range(points)]
    want, scale = [g(t) for t in at], [weight(t) for t in at]
    w = [mp.mpf(1)] * points
    best, least = None, None
    for _ in range(rounds):
        n = degree + 1
        left, right = mp.zeros(n, n), mp.zeros(n, 1)
        for t, y, s, v in zip(at, want, scale, w):
            f = v * s * s
            powers = [t ** k for k in range(2 * n - 1)]
            for i in range(n):
                right[i] += f * y * powers[i]
                for j in range(n):
                    left[i, j] += f * powers[i + j]
        c = list(mp.lu_solve(left, right))
        error = [abs(mp.polyval(c[::-1], t) - y) * s for t, y, s in zip(at, want, scale)]
        if least is None or max(error) < least:
            best, least = c, max(error)
        mean = sum(w_ * e for w_, e in zip(w, error)) / points
        w = [w_ * e / mean for w_, e in zip(w, error)]
    return best


def fit(name, g, a, b, weight, bound, start=2):
    """The least degree whose error is under the bound."""
    for degree in range(start, 40):
        c = (weighted(g, weight, a, b, degree) if name in LAWSON
             else interpolate(g, a, b, degree))
        error = worst(g, weight, c, a, b, 100)
        if error < bound:
            return c, error
    raise SystemExit(f"{name}: no degree reaches {bound}")


def one(_):
    return mp.mpf(1)


def safe(f):
    return near_zero(f, mp.mpf(10) ** -10)


def g_exp(r):  # exp(r) = 1 + r + r^2 g
    return (mp.exp(r) - 1 - r) / r ** 2


def g_exp2(r):  # 2^r = 1 + r g
    return (mp.power(2, r) - 1) / r


def g_log(f):  # log(1+f) = f - f^2/2 + f^3 g
    return (mp.log1p(f) - f + f ** 2 / 2) / f ** 3


def g_atanh_odd(z):  # log((1+q)/(1-q)) = 2q + q^3 g(q^2)
    q = mp.sqrt(z)
    return (mp.log((1 + q) / (1 - q)) - 2 * q) / q ** 3


def g_atanh_odd2(z):  # g_atanh_odd(z) = 2/3 + z g
    return (g_atanh_odd(z) - mp.mpf(2) / 3) / z


def g_log2(f):  # log2(1+f) = f + f g
    return mp.log1p(f) / f / LN2 - 1


def g_log10(f):  # log10(1+f) = f/2 + f g
    return mp.log1p(f) / f / mp.log(10) - mp.mpf("0.5")


def g_sin(z):  # sin r = r + r^3 g(r^2)
    r = mp.sqrt(z)
    return (mp.sin(r) - r) / r ** 3


def g_cos(z):  # cos r = 1 - r^2/2 + r^4 g(r^2)
    r = mp.sqrt(z)
    return (mp.cos(r) - 1 + z / 2) / z ** 2


def g_sinpi(z):  # sin(pi r) = r (pi + z g)
    r = mp.sqrt(z)
    return (mp.sin(mp.pi * r) / r - mp.pi) / z


def g_asin(z):  # asin x = x + x^3 g(x^2)
    x = mp.sqrt(z)
    return (mp.asin(x) - x) / x ** 3


def g_atan(z):  # atan t = t + t^3 g(t^2)
    t = mp.sqrt(z)
    return (mp.atan(t) - t) / t ** 3


def g_sinh(z):  # sinh x = x + x^3 g(x^2)
    x = mp.sqrt(z)
    return (mp.sinh(x) - x) / x ** 3


def g_tanh(z):  # tanh x = x + x^3 g(x^2)
    x = mp.sqrt(z)
    return (mp.tanh(x) - x) / x ** 3


def g_erf(z):  # erf x = x + x g(x^2)
    x = mp.sqrt(z)
    return mp.erf(x) / x - 1


def g_erf_q(a):  # erf a = -expm1(-(a + a g(a)))
    return -mp.log(mp.erfc(a)) / a - 1


def w_erf_q(a):  # relative error of erf by an error of g
    return a * mp.erfc(a) / mp.erf(a)


ERFC_K = mp.mpf(4)


def g_erfcx(t):  # exp(a^2) erfc(a) (1 + 2a) with t = (a - K)/(a + K)
    a = ERFC_K * (1 + t) / (1 - t)
    return mp.exp(a * a) * mp.erfc(a) * (1 + 2 * a)


def g_lgamma1(t):  # lgamma(1+t) = t g
    return mp.loggamma(1 + t) / t


def g_lgamma2(t):  # lgamma(2+t) = t g
    return mp.loggamma(2 + t) / t


def g_stirling(z):  # lgamma x = (x-1/2) log x - x + log(2 pi)/2 + g(1/x^2)/x
    x = 1 / mp.sqrt(z)
    with mp.workdps(100):
        return (mp.loggamma(x) - (x - mp.mpf(1) / 2) * mp.log(x) + x
                - mp.log(2 * mp.pi) / 2) * x


H = LN2 / 2 * mp.mpf("1.0005")
Q = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.001")
LO, HI = 1 / mp.sqrt(2) - 1, mp.sqrt(2) - 1
P4 = (mp.pi / 4) ** 2 * mp.mpf("1.001")
TINY = mp.mpf(10) ** -30
T10 = (mp.mpf("10.2") - 4) / (mp.mpf("10.2") + 4)
T27 = (mp.mpf(28) - 4) / (mp.mpf(28) + 4)

LAWSON = ("ERF_Q", "TANH")  # where the weight varies much, and interpolation takes a degree more
# name: (g, a, b, weight, bound for float32, bound for float64)
TABLE = {
    "EXP": (safe(g_exp), -H, H, lambda r: r ** 2, "8e-9", "1e-18"),
    "EXP2": (safe(g_exp2), "-0.5001", "0.5001", abs, "8e-9", "1e-18"),
    "LOG": (safe(g_log), LO, HI, lambda f: f ** 2, "4e-9", None),
    "LOG_Q": (g_atanh_odd, TINY, Q, lambda z: z / 2, None, "2e-18"),
    "POW_Q": (g_atanh_odd2, TINY, Q, lambda z: z * z / 2, "2e-12", "1e-21"),
    "LOG2": (safe(g_log2), LO, HI, one, "4e-9", None),
    "LOG10": (safe(g_log10), LO, HI, one, "4e-9", None),
    "SIN": (g_sin, TINY, P4, lambda z: z, "9e-9", "2e-18"),
    "COS": (g_cos, TINY, P4, lambda z: z * z, "4e-9", "2e-18"),
    "SINPI": (g_sinpi, TINY, mp.mpf("0.2501"), lambda z: z, "4e-9", "2e-18"),
    "ASIN": (g_asin, TINY, mp.mpf("0.2501"), lambda z: z, "4e-9", "3e-18"),
    "ATAN": (g_atan, TINY, mp.mpf("1.0"), lambda z: z, "8e-9", "5e-18"),
    "SINH": (g_sinh, TINY, mp.mpf("1.0"), lambda z: z, "4e-9", "2e-18"),
    "TANH": (g_tanh, TINY, mp.mpf("0.1025"), lambda z: z, "4e-8", "3e-18"),
    "ERF": (g_erf, TINY, mp.mpf("1.0"), one, "5e-9", "3e-18"),
    "ERF_Q": (g_erf_q, mp.mpf(10) ** -9, mp.mpf("3.95"), w_erf_q, "1.2e-8", None),
    "ERFCX": (g_erfcx, mp.mpf(-1), None, one, "8e-9", "2e-17"),
    "LGAMMA1": (safe(g_lgamma1), "-0.301", "0.701", one, "8e-9", "1e-17"),
    "LGAMMA2": (safe(g_lgamma2), "-0.501", "1.001", one, "8e-9", "1e-17"),
    "STIRLING": (g_stirling, mp.mpf(10) ** -12, mp.mpf(1) / 64, lambda z: z * 2, "1e-9", "1e-18"),
}


def main() -> None:
    print('"""Coefficients of the math expansions, in ascending powers, for float32 and float64.\n')
    print("Floor 1; imports nothing. Written by core/tools/fit_math_tables.py (the method is")
    print('described there); the comment beside each is its largest relative error.\n"""\n')
    for name, (g, a, b, weight, bound32, bound64) in TABLE.items():
        for bits, bound in (("32", bound32), ("64", bound64)):
            if bound is None:
                continue
            hi = b
            if name == "ERFCX":
                hi = T10 if bits == "32" else T27
            c, error = fit(name, g, mp.mpf(a), mp.mpf(hi), weight, mp.mpf(bound))
            print(f"{name}_{bits} = (  # {mp.nstr(error, 2)}")
            for x in c:
                print(f"    {float(x)!r},")
            print(")")


if __name__ == "__main__":
    main()
