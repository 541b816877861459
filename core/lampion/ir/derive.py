"""Symbolic reverse-mode derivatives of scalar expressions.

Floor 1; imports expr. `vjp(outputs, seeds, wrt)` walks the DAG once backwards and returns one
adjoint expression per variable, so an elementwise op needs no hand-written gradient and its
derivative, being an expression, has derivatives of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from . import expr as E
from .expr import Expr, const, node, op, rewrite, select, walk

Rule = Callable[[Expr, Expr], tuple[Expr, ...]]
ZERO = const(0)
RULES: dict[str, Rule] = {}
# results that are constant almost everywhere, or not real-valued: the adjoint stops there
FLAT = frozenset(("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor", "not", "shl", "shr",
                  "floor", "ceil", "trunc", "round", "idiv", "mulhi", "bitcast"))


def rule(name: str) -> Callable[[Rule], Rule]:
    """Register `f(adjoint, node) -> one adjoint per operand` for an intrinsic."""
    def deco(fn: Rule) -> Rule:
        RULES[name] = fn
        return fn

    return deco


def _simple(name: str, derivative: Callable[[Expr, Expr], Expr]) -> None:
    """A unary rule from df/dx as a function of (x, f(x))."""
    RULES[name] = lambda a, e: (a * derivative(e.args[0], e),)


RULES["add"] = lambda a, e: (a, a)
RULES["sub"] = lambda a, e: (a, -a)
RULES["mul"] = lambda a, e: (a * e.args[1], a * e.args[0])
RULES["div"] = lambda a, e: (a / e.args[1], -a * (e / e.args[1]))
RULES["neg"] = lambda a, e: (-a,)
RULES["fma"] = lambda a, e: (a * e.args[1], a * e.args[0], a)
RULES["cast"] = lambda a, e: (a if e.value.kind in "fc" else ZERO,)
RULES["select"] = lambda a, e: (ZERO, select(e.args[0], a, 0.0), select(e.args[0], 0.0, a))
RULES["fmod"] = lambda a, e: (a, -a * E.trunc(e.args[0] / e.args[1]))
RULES["ldexp"] = lambda a, e: (E.ldexp(a, e.args[1]), ZERO)
# Where numbers are complex, an adjoint is the conjugate of the gradient dL/dRe + i dL/dIm, which
# makes the rules of holomorphic functions those of real ones; a real node has a real adjoint.
RULES["complex"] = lambda a, e: (E.real(a), -E.imag(a))
RULES["real"] = lambda a, e: (E.complex_(E.real(a), 0.0),)
RULES["imag"] = lambda a, e: (E.complex_(0.0, -E.real(a)),)


@rule("abs")
def _abs(a: Expr, e: Expr) -> tuple[Expr, ...]:
    """The sign, 0 at 0; for complex numbers conj(x) / |x|."""
    x = e.args[0]
    at0 = E.eq(e, 0.0)
    along = E.real(a) / select(at0, 1.0, e)
    turned = E.complex_(E.real(x) * along, -(E.imag(x) * along))
    return (E.by_type(c=select(at0, 0.0, turned),
                      other=select(x > 0, a, select(x < 0, -a, a * 0.0))),)


@rule("by_type")
def _by_type(a: Expr, e: Expr) -> tuple[Expr, ...]:
    """Each case gets the adjoint where it is the one that counts."""
    return tuple(E.by_type(**{k: a if k == case else ZERO for k in e.value}) for case in e.value)


@rule("maximum")
def _maximum(a: Expr, e: Expr) -> tuple[Expr, ...]:
    """The larger operand gets the adjoint; ties share it, as in PyTorch."""
    x, y = e.args
    half = select(E.eq(x, y), a * 0.5, a)
    return select(x < y, 0.0, half), select(y < x, 0.0, half)


@rule("minimum")
def _minimum(a: Expr, e: Expr) -> tuple[Expr, ...]:
    x, y = e.args
    half = select(E.eq(x, y), a * 0.5, a)
    return select(x > y, 0.0, half), select(y > x, 0.0, half)


@rule("atan2")
def _atan2(a: Expr, e: Expr) -> tuple[Expr, ...]:
    y, x = e.args
    r2 = x * x + y * y
    at_origin = E.eq(r2, 0.0)
    k = select(at_origin, 0.0, a / r2)
    return k * x, -k * y


@rule("pow")
def _pow(a: Expr, e: Expr) -> tuple[Expr, ...]:
    """d x**y: y x**(y-1), with 0 at y = 0; and x**y log x, with 0 at x = 0 <= y."""
    x, y = e.args
    dx = select(E.eq(y, 0), 0.0, a * (y * E.op("pow", x, y - 1)))
    flat = E.eq(x, 0) & E.by_type(c=E.real(y) >= 0.0, other=y >= 0)
    dy = select(flat, 0.0, a * (e * E.log(x)))
    return dx, dy


_simple("sqrt", lambda x, y: 0.5 / y)
_simple("rsqrt", lambda x, y: -0.5 * (y * y * y))
_simple("exp", lambda x, y: y)
_simple("exp2", lambda x, y: y * math.log(2))
_simple("expm1", lambda x, y: y + 1.0)
_simple("log", lambda x, y: 1.0 / x)
_simple("log2", lambda x, y: 1.0 / (x * math.log(2)))
_simple("log10", lambda x, y: 1.0 / (x * math.log(10)))
_simple("log1p", lambda x, y: 1.0 / (x + 1.0))
_simple("sin", lambda x, y: E.cos(x))
_simple("cos", lambda x, y: -E.sin(x))
_simple("tan", lambda x, y: 1.0 + y * y)
_simple("asin", lambda x, y: E.rsqrt(1.0 - x * x))
_simple("acos", lambda x, y: -E.rsqrt(1.0 - x * x))
_simple("atan", lambda x, y: 1.0 / (x * x + 1.0))
_simple("sinh", lambda x, y: E.cosh(x))
_simple("cosh", lambda x, y: E.sinh(x))
_simple("tanh", lambda x, y: 1.0 - y * y)
_simple("asinh", lambda x, y: E.rsqrt(x * x + 1.0))
_simple("acosh", lambda x, y: 1.0 / (E.sqrt(x - 1.0) * E.sqrt(x + 1.0)))
_simple("atanh", lambda x, y: 1.0 / (1.0 - x * x))
_simple("erf", lambda x, y: 2.0 / math.sqrt(math.pi) * E.exp(-(x * x)))
_simple("erfc", lambda x, y: -2.0 / math.sqrt(math.pi) * E.exp(-(x * x)))


RULES["lgamma"] = lambda a, e: (a * E.call("digamma", e.args[0]),)
RULES["call"] = lambda a, e: E.FUNCTIONS[e.value][1](a, e)


def vjp(outputs: Sequence[Expr], seeds: Sequence[Expr], wrt: Sequence[str],
        overrides: dict[Expr, Rule] | None = None) -> list[Expr]:
    """Adjoints of the variables `wrt` for output adjoints `seeds`.

    A variable that does not matter gets the integer constant 0.

    >>> x = E.var("x"); vjp([E.exp(x)], [E.var("g")], ["x"])
    [(g * exp(x))]
    """
    adjoint: dict[int, Expr] = {}
    nodes = walk(outputs)
    found: dict[str, Expr] = {}
    for out, seed in zip(outputs, seeds):
        prev = adjoint.get(id(out))
        adjoint[id(out)] = seed if prev is None else prev + seed
    live = _depends(nodes, set(wrt))
    for e in reversed(nodes):
        a = adjoint.get(id(e))
        if a is None or id(e) not in live:
            continue
        if e.op == "var":
            found[e.value] = a
            continue
        if e.op in FLAT or not e.args:
            continue
        for operand, part in zip(e.args, RULES[e.op](a, e)):
            if id(operand) not in live or part is ZERO:
                continue
            prev = adjoint.get(id(operand))
            adjoint[id(operand)] = part if prev is None else prev + part
    return [found.get(name, ZERO) for name in wrt]


def _depends(nodes: Sequence[Expr], names: set[str]) -> set[int]:
    """Ids of the nodes whose value depends on one of the variables."""
    live: set[int] = set()
    for e in nodes:
        if (e.op == "var" and e.value in names) or any(id(a) in live for a in e.args):
            live.add(id(e))
    return live


def jvp(outputs: Sequence[Expr], tangents: dict[str, Expr]) -> list[Expr]:
    """Directional derivatives: the adjoint of the adjoint is linear in its seed."""
    seeds = [E.var(f"_seed{k}") for k in range(len(outputs))]
    names = list(tangents)
    adjoints = vjp(outputs, seeds, names)
    total: list[Expr] = []
    for k in range(len(outputs)):
        terms = vjp(adjoints, [tangents[n] for n in names], [f"_seed{k}"])
        total.append(terms[0])
    return total


def conj(e: Expr) -> Expr:
    """Complex conjugate."""
    return E.complex_(E.real(e), -E.imag(e))


from . import special  # noqa: E402, F401  (fills E.FUNCTIONS)

__all__ = ["vjp", "jvp", "conj", "rule", "RULES", "FLAT", "rewrite", "node", "op"]
