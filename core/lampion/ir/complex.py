"""Complex numbers as pairs of real expressions, so that no printer knows them.

Floor 1; imports base, expr, kernel. `expand_complex(kernel)` sees complex buffers as buffers of
twice as many reals (element i at 2i and 2i+1) and rewrites every expression into its real and
imaginary part. The functions below take and give such pairs; formulas follow Kahan, "Branch Cuts
for Complex Elementary Functions" (1987), so cuts lie where C and NumPy have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..base import dtype as dt
from ..base.dtype import dtype
from . import expr as E
from .expr import Expr, const, node, op, ref, select, walk
from .kernel import (
    Arg,
    ArgReduce,
    Kernel,
    Reduce,
    Scan,
    Scatter,
    Stage,
    Statement,
    Store,
    statement_exprs,
)

Pair = tuple[Expr, Expr]
INF = math.inf


# ---- helpers ----

def choose(c: Expr, x: Pair, y: Pair) -> Pair:
    """Component-wise select."""
    return select(c, x[0], y[0]), select(c, x[1], y[1])


def both(c: Expr, d: Expr) -> Expr:
    """Logical and."""
    return op("and", c, d)


def with_sign(magnitude: Expr, sign: Expr) -> Expr:
    """|magnitude| with the sign of `sign`, -0 included (1/sign tells)."""
    negative = op("or", sign < 0.0, both(E.eq(sign, 0.0), 1.0 / sign < 0.0))
    m = E.abs_(magnitude)
    return select(negative, -m, m)


def ordered(a: Expr, b: Expr) -> Pair:
    """(larger, smaller) of two magnitudes."""
    swap = a < b
    return select(swap, b, a), select(swap, a, b)


# ---- arithmetic ----

def add(x: Pair, y: Pair) -> Pair:
    """x + y."""
    return x[0] + y[0], x[1] + y[1]


def sub(x: Pair, y: Pair) -> Pair:
    """x - y."""
    return x[0] - y[0], x[1] - y[1]


def neg(x: Pair) -> Pair:
    """-x."""
    return -x[0], -x[1]


def mul(x: Pair, y: Pair) -> Pair:
    """(ac - bd) + (ad + bc) i."""
    (a, b), (c, d) = x, y
    return a * c - b * d, a * d + b * c


def div(x: Pair, y: Pair) -> Pair:
    """Smith's division: by the larger part first, so that nothing overflows early."""
    (a, b), (c, d) = x, y
    swap = E.abs_(c) < E.abs_(d)
    p, q = select(swap, d, c), select(swap, c, d)
    u, v = select(swap, b, a), select(swap, a, b)
    r = q / p
    scale = 1.0 / (p + q * r)
    re, im = (u + v * r) * scale, (v - u * r) * scale
    im = select(swap, -im, im)
    zero = E.eq(p, 0.0)
    size = E.abs_(p)
    return select(zero, a / size, re), select(zero, b / size, im)


def reciprocal(x: Pair) -> Pair:
    """1 / x."""
    return div((const(1.0), const(0.0)), x)


def modulus(x: Pair) -> Expr:
    """|x| without early overflow; infinite if either part is, even beside a NaN."""
    a, b = E.abs_(x[0]), E.abs_(x[1])
    big, small = ordered(a, b)
    t = small / big
    r = big * E.sqrt(E.fma(t, t, 1.0))
    r = select(E.eq(big, 0.0), a + b, r)
    return select(op("or", E.eq(a, INF), E.eq(b, INF)), INF, r)


# ---- exponentials and logarithms ----

def exp(x: Pair) -> Pair:
    """e^a (cos b + i sin b); e^a in two halves, so that a product in range is not lost."""
    a, b = x
    half = E.exp(0.5 * a)
    c, s = E.cos(b), E.sin(b)
    re, im = half * c * half, half * s * half
    real = E.eq(b, 0.0)
    whole = E.exp(a)
    nothing = E.eq(a, -INF)
    return (select(real, whole, select(nothing, 0.0, re)),
            select(real, b, select(nothing, 0.0, im)))


def exp2(x: Pair) -> Pair:
    """exp(x ln 2)."""
    return exp((x[0] * math.log(2), x[1] * math.log(2)))


def expm1(x: Pair) -> Pair:
    """(expm1(a) cos b - 2 sin(b/2)^2) + i e^a sin b."""
    a, b = x
    h = E.sin(0.5 * b)
    return E.expm1(a) * E.cos(b) - 2.0 * h * h, E.exp(a) * E.sin(b)


def log_modulus(x: Pair) -> Expr:
    """log |x|: from |x|^2 - 1, computed as a product, where |x| is near 1."""
    big, small = ordered(E.abs_(x[0]), E.abs_(x[1]))
    near = both(big > 0.7, big < 1.5)
    t = small / select(E.eq(big, 0.0), 1.0, big)
    excess = E.fma(big - 1.0, big + 1.0, small * small)
    far = E.log(big) + 0.5 * E.log1p(select(E.eq(big, INF), 0.0, t * t))
    r = select(near, 0.5 * E.log1p(select(near, excess, 0.0)), far)
    return select(op("or", E.eq(E.abs_(x[0]), INF), E.eq(E.abs_(x[1]), INF)), INF, r)


def angle(x: Pair) -> Expr:
    """The argument of x in [-pi, pi]."""
    return E.atan2(x[1], x[0])


def log(x: Pair) -> Pair:
    """log |x| + i arg x."""
    return log_modulus(x), angle(x)


def log1p(x: Pair) -> Pair:
    """log(1 + x): log1p(2a + a^2 + b^2)/2 near 0."""
    a, b = x
    small = both(E.abs_(a) < 0.5, E.abs_(b) < 0.5)
    excess = E.fma(a, a + 2.0, b * b)
    re = select(small, 0.5 * E.log1p(select(small, excess, 0.0)), log_modulus((a + 1.0, b)))
    return re, E.atan2(b, a + 1.0)


def scaled_log(base: float) -> Callable[[Pair], Pair]:
    """log to another base."""
    k = 1.0 / math.log(base)

    def f(x: Pair) -> Pair:
        re, im = log(x)
        return re * k, im * k

    f.__doc__ = f"log(x)/log({base:g})."
    return f


def power(x: Pair, y: Pair) -> Pair:
    """exp(y log x); 0 to a power of positive real part is 0, anything to the 0 is 1."""
    result = exp(mul(y, log(x)))
    zero = both(E.eq(x[0], 0.0), E.eq(x[1], 0.0))
    result = choose(both(zero, y[0] > 0.0), (const(0.0), const(0.0)), result)
    none = both(E.eq(y[0], 0.0), E.eq(y[1], 0.0))
    return choose(none, (const(1.0), const(0.0)), result)


def sqrt(x: Pair) -> Pair:
    """The root with a real part >= 0; scaled so that |x| neither overflows nor loses digits."""
    a, b = x
    m = E.maximum(E.abs_(a), E.abs_(b))
    large, tiny = m > 1e30, m < 1e-30
    scale = select(large, 2.0**-40, select(tiny, 2.0**60, 1.0))
    back = select(large, 2.0**20, select(tiny, 2.0**-30, 1.0))
    c, d = a * scale, b * scale
    t = E.sqrt(0.5 * (E.abs_(c) + modulus((c, d))))
    other = 0.5 * d / t
    right = op("or", a > 0.0, E.eq(a, 0.0))
    re = select(right, t, E.abs_(other)) * back
    im = select(right, other, with_sign(t, b)) * back
    zero = E.eq(m, 0.0)
    infinite = E.eq(E.abs_(b), INF)
    left = E.eq(a, -INF)
    re = select(infinite, INF, select(zero, 0.0, select(left, b * 0.0, re)))
    im = select(op("or", infinite, zero), b, select(left, with_sign(const(INF), b), im))
    at_inf = both(E.eq(a, INF), op("not", infinite))
    return select(at_inf, INF, re), select(at_inf, with_sign(const(0.0), b), im)


def rsqrt(x: Pair) -> Pair:
    """1 / sqrt(x)."""
    return reciprocal(sqrt(x))


# ---- circular and hyperbolic ----

def sinh(x: Pair) -> Pair:
    """sinh a cos b + i cosh a sin b."""
    a, b = x
    return (select(E.eq(a, 0.0), a, E.sinh(a) * E.cos(b)),
            select(E.eq(b, 0.0), b, E.cosh(a) * E.sin(b)))


def cosh(x: Pair) -> Pair:
    """cosh a cos b + i sinh a sin b."""
    a, b = x
    zero = op("or", E.eq(a, 0.0), E.eq(b, 0.0))
    sign = with_sign(const(0.0), a) * with_sign(const(1.0), b)
    return E.cosh(a) * E.cos(b), select(zero, sign, E.sinh(a) * E.sin(b))


def tanh(x: Pair) -> Pair:
    """Kahan's form by sinh a and tan b; beyond |a| = 9 (20) only the sign and e^(-2|a|) matter."""
    a, b = x
    big = E.abs_(a) > 20.0
    s = E.sinh(select(big, 0.0, a))
    t = E.tan(b)
    beta = 1.0 + t * t
    rho = E.sqrt(1.0 + s * s)
    den = 1.0 + beta * s * s
    steep = E.eq(E.abs_(t), INF)
    re = select(steep, rho / s, beta * rho * s / den)
    im = select(steep, 1.0 / t, t / den)
    far = 4.0 * E.sin(b) * E.cos(b) * E.exp(-2.0 * E.abs_(a))
    infinite = E.eq(E.abs_(b), INF)
    far = select(both(infinite, E.eq(E.abs_(a), INF)), 0.0, far)
    return (select(E.eq(a, 0.0), a, select(big, with_sign(const(1.0), a), re)),
            select(E.eq(b, 0.0), b, select(big, far, im)))


def turned(f: Callable[[Pair], Pair]) -> Callable[[Pair], Pair]:
    """g(x) = f(ix)/i, which takes sinh, tanh, asinh, atanh to sin, tan, asin, atan."""
    def g(x: Pair) -> Pair:
        re, im = f((-x[1], x[0]))
        return im, -re

    g.__doc__ = "By a quarter turn of the hyperbolic function."
    return g


def cos(x: Pair) -> Pair:
    """cosh(ix)."""
    return cosh((-x[1], x[0]))


def asin(x: Pair) -> Pair:
    """Kahan's form by the roots of 1 - x and 1 + x."""
    p, q = sqrt((1.0 - x[0], -x[1])), sqrt((1.0 + x[0], x[1]))
    re = E.atan2(x[0], p[0] * q[0] - p[1] * q[1])
    return re, E.asinh(p[0] * q[1] - p[1] * q[0])


def acos(x: Pair) -> Pair:
    """Kahan's form by the roots of 1 - x and 1 + x."""
    p, q = sqrt((1.0 - x[0], -x[1])), sqrt((1.0 + x[0], x[1]))
    return 2.0 * E.atan2(p[0], q[0]), E.asinh(q[0] * p[1] - q[1] * p[0])


def acosh(x: Pair) -> Pair:
    """Kahan's form by the roots of x - 1 and x + 1."""
    p, q = sqrt((x[0] - 1.0, x[1])), sqrt((x[0] + 1.0, x[1]))
    return E.asinh(p[0] * q[0] + p[1] * q[1]), 2.0 * E.atan2(p[1], q[0])


def atanh(x: Pair) -> Pair:
    """log1p(4a/((1-a)^2 + b^2))/4 + i atan2(2b, (1-a)(1+a) - b^2)/2."""
    a, b = x
    u = 1.0 - E.abs_(a)
    q = 4.0 * E.abs_(a) / E.fma(u, u, b * b)
    re = with_sign(0.25 * E.log1p(q), a)
    im = 0.5 * E.atan2(2.0 * b, u * (1.0 + E.abs_(a)) - b * b)
    large = op("or", E.abs_(a) > 1e15, E.abs_(b) > 1e15)
    quarter = with_sign(const(math.pi / 2), b)
    return select(large, with_sign(const(0.0), a), re), select(large, quarter, im)


FUNCTIONS: dict[str, Callable[..., Pair]] = {
    "add": add, "sub": sub, "neg": neg, "mul": mul, "div": div, "exp": exp, "exp2": exp2,
    "expm1": expm1, "log": log, "log2": scaled_log(2.0), "log10": scaled_log(10.0),
    "log1p": log1p, "pow": power, "sqrt": sqrt, "rsqrt": rsqrt, "sinh": sinh, "cosh": cosh,
    "tanh": tanh, "sin": turned(sinh), "cos": cos, "tan": turned(tanh), "asin": asin,
    "acos": acos, "atan": turned(atanh), "asinh": turned(asin), "acosh": acosh, "atanh": atanh,
    "fma": lambda x, y, z: add(mul(x, y), z),
}


# ---- kernels ----

def expand_complex(kernel: Kernel) -> Kernel:
    """The kernel on real buffers: complex element i is the reals at 2i and 2i + 1.

    Raises ValueError for what complex numbers lack (an order, rounding, erf...).
    """
    return _Expansion(kernel).kernel()


class _Expansion:
    """Real and imaginary parts of a kernel's expressions."""

    def __init__(self, kernel: Kernel) -> None:
        self.source = kernel
        self.real: dict[int, Expr] = {}
        self.pairs: dict[int, Pair] = {}
        names = {a.dtype.to_real() for a in kernel.args if a.dtype.kind == "c"}
        self.compute = dt.float64 if dt.float64 in names else dt.float32

    def kernel(self) -> Kernel:
        """The rewritten kernel."""
        k = self.source
        stages = []
        for st in k.stages:
            body: list[Statement] = []
            for s in st.body:
                body += self.statement(s)
            stages.append(Stage(st.ranges, tuple(body)))
        args = tuple(Arg(a.kind, a.dtype.to_real()) for a in k.args)
        return Kernel(k.name, args, k.grid, tuple(stages), k.nparams)

    def statement(self, s: Statement) -> list[Statement]:
        """One statement becomes one or two."""
        d = s.value.dtype
        assert d is not None
        for e in statement_exprs(s):
            self.visit(e)
        if isinstance(s, ArgReduce):
            if d.kind == "c":
                raise ValueError("complex numbers have no order: no arg-reduction")
            return [ArgReduce(s.name, s.op, self.get(s.value), self.get(s.position))]
        if isinstance(s, (Reduce, Scan)):
            return self.reduction(s, d)
        slot = self.source.args[s.slot].dtype
        mask = None if s.mask is None else self.get(s.mask)
        if slot.kind != "c":
            if isinstance(s, Store):
                return [Store(s.slot, self.get(s.index), self.get(s.value), mask)]
            return [Scatter(s.slot, self.get(s.index), s.op, self.get(s.value), mask, s.shared)]
        if isinstance(s, Scatter) and s.op not in ("sum", "set"):
            raise ValueError(f"scatter {s.op!r} is not defined on complex numbers")
        parts = self.parts(s.value)
        out: list[Statement] = []
        for k in (0, 1):
            where, x = self.element(self.get(s.index), k), self.typed(parts[k])
            out.append(Store(s.slot, where, x, mask) if isinstance(s, Store)
                       else Scatter(s.slot, where, s.op, x, mask, s.shared))
        return out

    def reduction(self, s: Reduce | Scan, d: dtype) -> list[Statement]:
        """Sums part by part; products as one statement of two parts."""
        kind = type(s)
        if d.kind != "c":
            return [kind(s.name, s.op, self.get(s.value))]
        re, im = (self.typed(x) for x in self.parts(s.value))
        if s.op == "sum":
            return [kind(s.name, "sum", re), kind(s.name + ".imag", "sum", im)]
        if s.op == "prod":
            return [kind(s.name, "prod", re, im)]
        raise ValueError(f"reduction {s.op!r} is not defined on complex numbers")

    def element(self, index: Expr, k: int) -> Expr:
        """Index of the real (0) or imaginary (1) part of a complex element."""
        twice = node("mul", (index, const(2, dt.int64)), None, dt.int64)
        return node("add", (twice, const(1, dt.int64)), None, dt.int64) if k else twice

    def typed(self, e: Expr) -> Expr:
        return E.typed([e], {}, self.compute)[0]

    def get(self, e: Expr) -> Expr:
        """The replacement of a real node."""
        return self.typed(self.real[id(e)])

    def parts(self, e: Expr) -> Pair:
        """The parts of a node, real or complex."""
        found = self.pairs.get(id(e))
        return found if found is not None else (self.real[id(e)], const(0.0))

    # ---- expressions ----

    def visit(self, root: Expr) -> None:
        """Rewrite all nodes under a root."""
        for e in walk([root]):
            if id(e) in self.real or id(e) in self.pairs:
                continue
            assert e.dtype is not None
            if e.dtype.kind == "c":
                self.pairs[id(e)] = self.complex_node(e)
            elif any(a.dtype is not None and a.dtype.kind == "c" for a in e.args):
                self.real[id(e)] = self.reduced(e)
            else:
                args = tuple(self.real[id(a)] for a in e.args)
                # operands may have lost their type; typed() restores it from the leaves
                self.real[id(e)] = e if args == e.args else node(
                    e.op, args, e.value, e.dtype if e.op in ("load", "cast", "bitcast") else None)

    def complex_node(self, e: Expr) -> Pair:
        """The parts of a complex-valued node."""
        assert e.dtype is not None
        part = e.dtype.to_real()
        if e.op == "const":
            v = complex(e.value)
            return const(v.real, part), const(v.imag, part)
        if e.op == "ref":
            return ref(e.value, part), ref(e.value + ".imag", part)
        if e.op == "load":
            return self.load(e, part)
        if e.op == "complex":
            return self.real[id(e.args[0])], self.real[id(e.args[1])]
        if e.op == "cast":
            re, im = self.parts(e.args[0])
            return E.cast(re, part), E.cast(im, part)
        if e.op == "select":
            return choose(self.real[id(e.args[0])], self.parts(e.args[1]), self.parts(e.args[2]))
        f = FUNCTIONS.get(e.op)
        if f is None:
            raise ValueError(f"{e.op} is not defined on complex numbers")
        return f(*(self.parts(a) for a in e.args))

    def load(self, e: Expr, part: dtype) -> Pair:
        index = self.real[id(e.args[0])]
        extra: list[tuple[Expr, ...]] = [(), ()]
        if len(e.args) > 1:
            other = self.parts(e.args[2])
            extra = [(self.real[id(e.args[1])], o) for o in other]
        re, im = (node("load", (self.element(index, k), *extra[k]), e.value, part)
                  for k in (0, 1))
        return re, im

    def reduced(self, e: Expr) -> Expr:
        """A real-valued node with complex operands."""
        p = [self.parts(a) for a in e.args]
        if e.op in ("real", "imag"):
            return p[0][e.op == "imag"]
        if e.op == "abs":
            return modulus(p[0])
        if e.op == "eq":
            return op("and", E.eq(p[0][0], p[1][0]), E.eq(p[0][1], p[1][1]))
        if e.op == "ne":
            return op("or", E.ne(p[0][0], p[1][0]), E.ne(p[0][1], p[1][1]))
        if e.op == "cast":
            assert e.dtype is not None
            if e.dtype.kind == "b":
                return op("or", E.ne(p[0][0], 0.0), E.ne(p[0][1], 0.0))
            return E.cast(p[0][0], e.dtype)
        raise ValueError(f"{e.op} is not defined on complex numbers")


