"""Special functions (lampion.special): elementwise ops over the definitions in ir/special.py.

Floor 3. Gradients come from the derivatives registered with the definitions.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..ir import expr as E
from ..ir import special as S
from ..ir.expr import select
from .arithmetic import REAL
from .facts import examples
from .registry import REGISTRY, Attr, Scalar, composite, elementwise

BOTH = {"where": ("", "special"), "kinds": REAL, "promote": "float"}
ONLY = {"where": ("special",), "method": False, "kinds": REAL, "promote": "float"}


# ---------------------------------------------------------------- gamma and relatives

@elementwise(aliases=("gammaln",), domain=(0.1, 8), **BOTH)
def lgamma(input):
    """log |gamma(x)|."""
    return E.lgamma(input)


@elementwise(aliases=("psi",), domain=(0.1, 8), **BOTH)
def digamma(input):
    """The logarithmic derivative of the gamma function."""
    return S.digamma(input)


@elementwise(where=(), method=False, inplace=True, kinds=REAL, promote="float", domain=(0.2, 8))
def polygamma_of(input, n: Attr = 1):
    """The n-th derivative of digamma."""
    return S.polygamma(n, input)


def _order(n):
    if n < 0:
        raise RuntimeError("polygamma(n, x) does not support negative n.")
    return int(n)


@composite(out_cast="safe", where=("", "special"), samples="""
    1, f(2, 3, low=0.5, high=6)
    2, f(3, 4, low=0.5, high=6).transposed.fixed
    0, f(3, low=0.5, high=6)
""")
def polygamma(n, input):
    """The n-th derivative of digamma at each element."""
    return polygamma_of.fn(input, _order(n))


@composite(name="polygamma_method", method=True, inplace=True, out=False, where=(),
           aliases=("polygamma",), samples="f(2, 3, low=0.5, high=6), 1")
def polygamma_method(input, n):
    """The n-th derivative of digamma at each element."""
    return polygamma_of.fn(input, _order(n))


@elementwise(where=(), method=False, inplace=True, kinds="buif", promote="float",
             domain=(3.1, 8))
def mvlgamma_of(input, p: Attr = 1):
    """The logarithm of the p-variate gamma function."""
    total = E.const(p * (p - 1) / 4 * math.log(math.pi))
    for j in range(p):
        total = total + E.lgamma(input - 0.5 * j)
    return total


@composite(out_cast="safe", where=("", "special"), method=True, inplace=True,
           aliases=("multigammaln",), samples="""
    f(2, 3, low=3, high=8), 2
    f(3, low=3, high=8).strided, 1
    f(low=3, high=8), 4
""")
def mvlgamma(input, p):
    """The logarithm of the p-variate gamma function; p >= 1."""
    if p < 1:
        raise RuntimeError("p has to be greater than or equal to 1")
    return mvlgamma_of.fn(input, int(p))


@elementwise(samples="""
    f(2, 3, low=1.2, high=6).fixed, f(2, 3, low=0.2, high=6)
    f(3, 1, low=1.2, high=6).fixed, f(4, low=0.2, high=6)
    f(low=1.2, high=6).fixed, f(0, 2, low=0.2, high=6)
""", **ONLY)
def zeta(input, other):
    """Hurwitz' zeta function: the sum of (other + k) ** -input over k >= 0.

    >>> lampion.special.zeta(lampion.tensor(2.0), 1)
    tensor(1.6449)
    """
    return S.zeta(input, other)


@zeta.grad
def _zeta_grad(g, out, input, other):
    return NotImplemented, g * (-input * E.call("zeta", input + 1.0, other))


# ---------------------------------------------------------------- x log y, entropy

@elementwise(domain=(0.1, 3), **BOTH)
def xlogy(input, other):
    """input * log(other), 0 where input is 0; NaN where other is."""
    value = select(E.eq(input, 0), 0.0, input * E.log(other))
    return select(E.isnan(other), other + 0.0, value)


@xlogy.grad
def _xlogy_grad(g, out, input, other):
    return g * select(E.eq(input, 0) & (other <= 0.0), 0.0, E.log(other)), g * input / other


@elementwise(domain=(0.1, 3), where=("special",), method=False, kinds=REAL, promote="float")
def xlog1py(input, other):
    """input * log1p(other), 0 where input is 0; NaN where other is."""
    value = select(E.eq(input, 0), 0.0, input * E.log1p(other))
    return select(E.isnan(other), other + 0.0, value)


@xlog1py.grad
def _xlog1py_grad(g, out, input, other):
    return (g * select(E.eq(input, 0) & (other <= -1.0), 0.0, E.log1p(other)),
            g * input / (other + 1.0))


@elementwise(domain=(0.1, 3), **ONLY)
def entr(input):
    """-x log x, 0 at 0 and -inf below."""
    value = select(E.eq(input, 0), 0.0, select(input < 0, -math.inf, -input * E.log(input)))
    return select(E.isnan(input), input + 0.0, value)


@entr.grad
def _entr_grad(g, out, input):
    return g * (-1.0 - E.log(input))


# ---------------------------------------------------------------- error functions

@elementwise(**BOTH)
def erf(input):
    """The error function."""
    return E.erf(input)


@elementwise(**BOTH)
def erfc(input):
    """1 - erf(x), exact in the tail."""
    return E.erfc(input)


@elementwise(domain=(-0.95, 0.95), **BOTH)
def erfinv(input):
    """The inverse of erf on (-1, 1)."""
    return S.erfinv(input)


@elementwise(**ONLY)
def erfcx(input):
    """e**(x**2) erfc(x)."""
    return S.erfcx(input)


@elementwise(**ONLY)
def ndtr(input):
    """The distribution function of the standard normal distribution."""
    return S.ndtr(input)


@elementwise(**ONLY)
def log_ndtr(input):
    """log of ndtr, exact in the tail."""
    return S.log_ndtr(input)


@log_ndtr.grad
def _log_ndtr_grad(g, out, input):
    """The density over ndtr: from the logarithm on the right, from erfcx in the left tail."""
    right = E.exp(-0.5 * input * input - out) * math.sqrt(0.5 / math.pi)
    left = math.sqrt(2 / math.pi) / S.erfcx(-math.sqrt(0.5) * E.minimum(input, 1.0))
    return g * select(input > 1.0, right, left)


@elementwise(domain=(0.02, 0.98), **ONLY)
def ndtri(input):
    """The inverse of ndtr on (0, 1)."""
    return S.ndtri(input)


# ---------------------------------------------------------------- Bessel and Airy functions

@elementwise(**BOTH)
def i0(input):
    """The modified Bessel function of the first kind of order 0."""
    return S.i0(input)


@elementwise(**ONLY)
def i0e(input):
    """e**-|x| i0(x)."""
    return S.i0e(input)


@elementwise(**ONLY)
def i1(input):
    """The modified Bessel function of the first kind of order 1."""
    return S.i1(input)


@elementwise(**ONLY)
def i1e(input):
    """e**-|x| i1(x)."""
    return S.i1e(input)


@elementwise(name="modified_bessel_i0", **ONLY)
def modified_bessel_i0(input):
    """The modified Bessel function of the first kind of order 0."""
    return S.i0(input)


@elementwise(**ONLY)
def modified_bessel_i1(input):
    """The modified Bessel function of the first kind of order 1."""
    return S.i1(input)


@elementwise(domain=(0.1, 9), **ONLY)
def modified_bessel_k0(input):
    """The modified Bessel function of the second kind of order 0; NaN for negative numbers."""
    return S.modified_bessel_k0(input)


@elementwise(domain=(0.1, 9), **ONLY)
def modified_bessel_k1(input):
    """The modified Bessel function of the second kind of order 1; NaN for negative numbers."""
    return S.modified_bessel_k1(input)


@elementwise(domain=(0.1, 9), **ONLY)
def scaled_modified_bessel_k0(input):
    """e**x modified_bessel_k0(x)."""
    return S.scaled_modified_bessel_k0(input)


@elementwise(domain=(0.1, 9), **ONLY)
def scaled_modified_bessel_k1(input):
    """e**x modified_bessel_k1(x)."""
    return S.scaled_modified_bessel_k1(input)


@elementwise(domain=(-20, 20), **ONLY)
def bessel_j0(input):
    """The Bessel function of the first kind of order 0."""
    return S.bessel_j0(input)


@elementwise(domain=(-20, 20), **ONLY)
def bessel_j1(input):
    """The Bessel function of the first kind of order 1."""
    return S.bessel_j1(input)


@elementwise(domain=(0.2, 20), **ONLY)
def bessel_y0(input):
    """The Bessel function of the second kind of order 0; NaN for negative numbers."""
    return S.bessel_y0(input)


@elementwise(domain=(0.2, 20), **ONLY)
def bessel_y1(input):
    """The Bessel function of the second kind of order 1; NaN for negative numbers."""
    return S.bessel_y1(input)


@elementwise(domain=(-20, 20), **ONLY)
def spherical_bessel_j0(input):
    """sin(x) / x, and 1 at 0."""
    return S.spherical_bessel_j0(input)


@elementwise(domain=(-12, 8), differentiable=False, **ONLY)
def airy_ai(input):
    """The Airy function Ai."""
    return S.airy_ai(input)


# ---------------------------------------------------------------- incomplete gamma functions

LIMIT = 1000  # rounds of steps; a million needs a tenth of it
STEPS = {"where": (), "method": False, "kinds": "f", "differentiable": False}


@elementwise(noutputs=3, **STEPS)
def gamma_series_steps(input, term, total, at):
    """Sixteen terms of sum x^n / ((a + 1) ... (a + n))."""
    for _ in range(16):
        at = at + 1.0
        term = term * (input / at)
        total = total + term
    return term, total, at


@elementwise(noutputs=6, **STEPS)
def gamma_fraction_steps(input, b, c, d, h, n):
    """Eight steps of the continued fraction of Q(a, x) by Lentz' method; input is a."""
    tiny, change = 1e-30, None
    for _ in range(8):
        n = n + 1.0
        an = n * (input - n)
        b = b + 2.0
        d = an * d + b
        d = 1.0 / select(E.abs_(d) < tiny, tiny, d)
        c = b + an / c
        c = select(E.abs_(c) < tiny, tiny, c)
        change = d * c
        h = h * change
    return b, c, d, h, n, change


@elementwise(**STEPS)
def gamma_weight(input, other):
    """x^a e^-x / gamma(a + 1): directly for small a, by Stirling's series for large."""
    a, x = input, other
    large = a > 12.0
    plain = E.exp(a * E.log(x) - x - E.lgamma(a + 1.0))
    s = select(large, a, 12.0)
    away = (x - s) / s
    rest = S.polynomial(1.0 / (s * s), (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)) / s
    stirling = E.exp(s * (E.log1p(away) - away) - rest) * E.rsqrt(2 * math.pi * s)
    return select(large, stirling, plain)


def _incomplete(a, x):
    """(P(a, x), Q(a, x)) for a > 0, 0 < x < inf: the series below a + 1, the fraction above."""
    from .compare import gt

    where = REGISTRY["where"].fn
    eps = 6e-8 if a.meta.dtype is dt.float32 else 1e-16
    below = ~gt.fn(x, a + 1)
    xs = where(below, x, a * 0.5)
    term = xs * 0 + 1
    total, at = term, a
    for _ in range(LIMIT):
        term, total, at = gamma_series_steps.fn(xs, term, total, at)
        if not bool(examples(term > total * eps).any()):
            break
    xf = where(below, a + 2, x)
    b = xf + 1 - a
    c, d = b * 0 + 1e30, 1 / b
    h, n = d, b * 0
    for _ in range(LIMIT):
        b, c, d, h, n, change = gamma_fraction_steps.fn(a, b, c, d, h, n)
        if not bool(examples((change - 1).abs() > 8 * eps).any()):
            break
    p = gamma_weight.fn(a, xs) * total
    q = gamma_weight.fn(a, xf) * h * a
    return where(below, p, 1 - q), where(below, 1 - p, q)


@elementwise(where=(), method=False, kinds="f")
def incomplete_slope(value, input, other, *, sign: Attr = 1.0):
    """`value`, with the derivative of P or Q by x: +-x^(a-1) e^-x / gamma(a)."""
    return value


@incomplete_slope.grad
def _incomplete_grad(g, out, value, input, other, *, sign):
    density = E.exp((input - 1.0) * E.log(other) - other - E.lgamma(input))
    return None, NotImplemented, g * (sign * density)


def _incomplete_op(input, other, upper):
    d = dt.promote_types(input.meta.dtype, other.meta.dtype)
    d = d if d.kind == "f" else dt.get_default_dtype()
    wide = dt.opmath(d)
    where = REGISTRY["where"].fn
    weights, x = input.to(wide), other.to(wide)
    a, free = weights.detach(), x.detach()
    valid = (a > 0) & (free > 0) & (a < math.inf) & (free < math.inf)
    p, q = _incomplete(where(valid, a, 1.0), where(valid, free, 1.0))
    outside = (a < 0) | (free < 0) | ((a == 0) & (free == 0)) | a.isnan() | free.isnan() | (
        (a == math.inf) & (free == math.inf))
    one = (free == math.inf) | (a == 0)
    edge = where(outside, math.nan, where(one, 0.0 if upper else 1.0, 1.0 if upper else 0.0))
    value = where(valid, q if upper else p, edge)
    return incomplete_slope.fn(value, weights, x, sign=-1.0 if upper else 1.0).to(d)


@composite(out_cast="safe", where=("special", ""), aliases=("igamma",), method=True, inplace=True,
           samples="""
    f(2, 3, low=0.5, high=4).fixed, f(2, 3, low=0.2, high=6)
    f(3, 1, low=0.5, high=4).fixed, f(4, low=0.2, high=6)
    v([0.0, 1, 2]), v([1.0, 0, inf])
""")
def gammainc(input, other):
    """The regularised lower incomplete gamma function P(input, other); differentiable by other."""
    return _incomplete_op(input, other, False)


@composite(out_cast="safe", where=("special", ""), aliases=("igammac",), method=True, inplace=True,
           samples="""
    f(2, 3, low=0.5, high=4).fixed, f(2, 3, low=0.2, high=6)
    f(3, 1, low=0.5, high=4).fixed, f(4, low=0.2, high=6)
    v([0.0, 1, 2]), v([1.0, 0, inf])
""")
def gammaincc(input, other):
    """The regularised upper incomplete gamma function Q(input, other); differentiable by other."""
    return _incomplete_op(input, other, True)


# ---------------------------------------------------------------- orthogonal polynomials

def _chebyshev(x, p, q, k):
    return 2.0 * x * p - q


# name -> (member of degree 1, recurrence (x, p_k, p_k-1, k) -> p_k+1); degree 0 is 1
POLYNOMIALS = {
    "chebyshev_polynomial_t": (lambda x: x, _chebyshev),
    "chebyshev_polynomial_u": (lambda x: x + x, _chebyshev),
    "chebyshev_polynomial_v": (lambda x: x + x - 1.0, _chebyshev),
    "chebyshev_polynomial_w": (lambda x: x + x + 1.0, _chebyshev),
    "hermite_polynomial_h": (lambda x: x + x, lambda x, p, q, k: 2.0 * (x * p - k * q)),
    "hermite_polynomial_he": (lambda x: x, lambda x, p, q, k: x * p - k * q),
    "laguerre_polynomial_l": (
        lambda x: 1.0 - x, lambda x, p, q, k: ((2.0 * k + 1.0 - x) * p - k * q) / (k + 1.0)),
    "legendre_polynomial_p": (
        lambda x: x, lambda x, p, q, k: ((2.0 * k + 1.0) * x * p - k * q) / (k + 1.0)),
}
UNROLLED = 32


def _family(name, first, step, shifted):
    """Declare one family: an op for a number n, a step, and the public composite."""
    @elementwise(name=f"{name}_degree", where=(), method=False, kinds=REAL, promote="float",
                 doc=f"The member of degree n of {name}.")
    def degree(input, n: Attr = 3):
        x = 2.0 * input - 1.0 if shifted else input * 1.0
        q, p = E.const(1.0), first(x)
        if n <= 0:
            return input * 0.0 + (1.0 if n == 0 else 0.0)
        for k in range(1, n):
            q, p = p, step(x, p, q, float(k))
        return p

    @elementwise(name=f"{name}_step", where=(), method=False, kinds="f",
                 doc=f"One step of the recurrence of {name}.")
    def one_step(input, p, q, k: Scalar):
        return step(2.0 * input - 1.0 if shifted else input, p, q, k)

    def public(input, n):
        if not hasattr(n, "meta") and n <= UNROLLED:
            return degree.fn(input, int(n))
        return _by_steps(input, n, degree, one_step)

    samples = """
        f(2, 3, low=0.1, high=0.9), 3
        f(3, 4, low=0.1, high=0.9).transposed, 0
        f(3, low=0.1, high=0.9), 40
        f(3, low=0.1, high=0.9), i(2, 3, low=0, high=6)
        f(low=0.1, high=0.9), 1
    """
    public.__name__ = name
    public.__doc__ = (f"{name.replace('_', ' ').capitalize()} of degree n (a number or a tensor) "
                      "at each element, by its recurrence.")
    composite(public, out_cast="safe", where=("special",), samples=samples)


def _by_steps(input, n, degree, one_step):
    """Members of any degree, also of a tensor of degrees: all up to the largest, one by one."""
    where = REGISTRY["where"].fn
    if not hasattr(input, "meta"):
        input = REGISTRY["full"].fn((), float(input), dtype=n.meta.dtype if
                                    n.meta.dtype.kind == "f" else dt.get_default_dtype(),
                                    device=n.meta.device)
    q, p = degree.fn(input, 0), degree.fn(input, 1)
    if not hasattr(n, "meta"):
        for k in range(1, int(n)):
            q, p = p, one_step.fn(input, p, q, float(k))
        return p
    if n.meta.dtype.kind == "f":
        d = dt.promote_types(p.meta.dtype, n.meta.dtype)
        q, p = q.to(d), p.to(d)
    whole = n.to(dt.int64) if n.meta.dtype.kind == "b" else n.trunc()
    found = where(whole <= 0, where(whole == 0, q, 0.0), p)
    top = int(examples(whole).max().item()) if whole.meta.numel else 0
    for k in range(1, top):
        q, p = p, one_step.fn(input, p, q, float(k))
        found = where(whole > k, p, found)
    return found


for _name, (_first, _step) in POLYNOMIALS.items():
    _family(_name, _first, _step, False)
    if _name.startswith("chebyshev"):
        _family(f"shifted_{_name}", _first, _step, True)
