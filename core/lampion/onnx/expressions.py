"""Elementwise ops in ONNX: single operators where ONNX has them, else their scalar expressions.

Floor 7; imports ir, ops and this package. An elementwise op is declared as an expression; its typed
nodes are ONNX's arithmetic.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import lampion

from ..base import dtype as dt
from ..base.dtype import dtype
from ..base.errors import UnsupportedError
from ..base.meta import meta
from ..export.graph import Size
from ..ir import expr as E
from ..ops import plans
from ..ops import registry as R
from .emit import Value, Writer, translation

# intrinsics that are ONNX operators on operands of one dtype
_SAME = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "idiv": "Div", "neg": "Neg",
         "abs": "Abs", "maximum": "Max", "minimum": "Min", "lt": "Less", "le": "LessOrEqual",
         "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal", "floor": "Floor", "ceil": "Ceil",
         "round": "Round", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "sin": "Sin", "cos": "Cos",
         "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh",
         "cosh": "Cosh", "tanh": "Tanh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
         "erf": "Erf", "pow": "Pow"}
_BITS = {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}
# ops that are one operator of ONNX for floating tensors
_DIRECT = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "isnan": "IsNaN",
           "isinf": "IsInf", "reciprocal": "Reciprocal", "sign": "Sign", "erf": "Erf",
           "logical_not": "Not"}


def _direct(name: str, op: str) -> None:
    @translation(name)
    def run(g: Writer, input: Value) -> str:
        if (input.dtype is not dt.bool_) if op == "Not" else input.dtype.kind != "f":
            return written(g, R.REGISTRY[name], [input])  # type: ignore[arg-type]
        return str(g.node(op, input.name))


for _name, _op in _DIRECT.items():
    _direct(_name, _op)


@translation("duplicate")
def duplicate(g: Writer, input: Value, contiguous: bool = False) -> str:
    """A copy is the value itself."""
    return input.name


@translation("convert")
def convert(g: Writer, input: Value, *, dtype: dtype, contiguous: bool = False) -> str:
    """A cast."""
    return g.cast(input.name, input.dtype, dtype)


@translation("gelu")
def gelu(g: Writer, input: Value, approximate: str = "none") -> str:
    """Gelu, where the opset has it."""
    if g.opset >= 20:
        return str(g.node("Gelu", input.name, approximate=approximate))
    return written(g, R.REGISTRY["gelu"], [input, approximate])  # type: ignore[arg-type]


@translation("leaky_relu")
def leaky_relu(g: Writer, input: Value, negative_slope: float = 0.01) -> str:
    """LeakyRelu."""
    return str(g.node("LeakyRelu", input.name, alpha=float(negative_slope)))


def _stands_for(v: Any) -> Any:
    """An operand as promotion sees it: a Meta, or the type of a number."""
    if isinstance(v, Value):
        return meta(v.dtype, v.shape, None, lampion.device("cpu"))
    return float if isinstance(v, Size) and v.inverse else int if isinstance(v, Size) else type(v)


def written(g: Writer, op: R.ElementwiseOp, values: list[Any]) -> Any:
    """The names of the results of a call of an elementwise op."""
    operands = [v for p, v in zip(op.params, values) if p.kind != R.ATTR]
    attrs = {p.name: v for p, v in zip(op.params, values) if p.kind == R.ATTR}
    compute, outs = plans.elementwise_types(op, [_stands_for(v) for v in operands], attrs)
    names: dict[str, str] = {}
    env: dict[str, dtype] = {}
    for p, v in zip(op.operands, operands):
        kind = env[p.name] = op.fixed.get(p.name, compute)
        names[p.name] = g.cast(v.name, v.dtype, kind) if isinstance(v, Value) else (
            g.number(v, kind))
    roots = E.typed(op.trace(attrs), env, compute)
    made: dict[int, str] = {}
    for e in E.walk(roots):
        made[id(e)] = _one(g, op, e, [made[id(a)] for a in e.args], names)
    results = []
    for root, out in zip(roots, outs):
        assert root.dtype is not None
        name = g.cast(made[id(root)], root.dtype, out)
        used = set(E.variables([root]))
        for p, v in zip(op.operands, operands):
            if isinstance(v, Value) and p.name not in used:  # it still broadcasts
                name = g.node("Expand", name, g.shape(v.name))
        results.append(name)
    return results[0] if len(results) == 1 else results


def _one(g: Writer, op: R.ElementwiseOp, e: E.Expr, a: list[str], names: dict[str, str]) -> str:
    """The name of one node of an expression."""
    d = e.dtype
    assert d is not None
    k = e.op
    if k == "const":
        return g.constant(np.asarray(e.value), d)
    if k == "var":
        return names[e.value]
    if k == "cast":
        return g.cast(a[0], e.args[0].dtype, d)  # type: ignore[arg-type]
    if k in _SAME and d.kind != "c":
        return str(g.node(_SAME[k], *a))
    of = e.args[0].dtype
    assert of is not None

    def c(v: Any) -> str:
        return g.constant(np.asarray(v), of)

    n = g.node
    rules = {
        "ne": lambda: n("Not", n("Equal", *a)), "select": lambda: n("Where", *a),
        "fma": lambda: n("Add", n("Mul", a[0], a[1]), a[2]),
        "rsqrt": lambda: n("Reciprocal", n("Sqrt", a[0])),
        "exp2": lambda: n("Pow", c(2), a[0]),
        "log2": lambda: n("Mul", n("Log", a[0]), c(1 / math.log(2))),
        "log10": lambda: n("Mul", n("Log", a[0]), c(1 / math.log(10))),
        "erfc": lambda: n("Sub", c(1), n("Erf", a[0])),
        "ldexp": lambda: n("Mul", a[0], n("Pow", c(2), a[1])),
        "fmod": lambda: n("Mod", *a, fmod=1), "trunc": lambda: _trunc(g, a[0]),
        "expm1": lambda: _expm1(g, a[0], c), "log1p": lambda: _log1p(g, a[0], c),
        "atan2": lambda: _atan2(g, a[0], a[1], c),
        "shl": lambda: n("BitShift", *a, direction="LEFT") if d.kind == "u" else (
            n("Mul", a[0], n("Pow", c(2), a[1]))),
        "shr": lambda: n("BitShift", *a, direction="RIGHT") if d.kind == "u" else (
            _shifted(g, a[0], n("Pow", c(2), a[1])))}
    if k in _BITS:
        word = _BITS[k] if of is dt.bool_ else f"Bitwise{_BITS[k]}"
        return str(n(word, *a))
    if k not in rules or d.kind == "c" or of.kind == "c":
        raise UnsupportedError(f"{g.where()}is made of {k!r} of {of!r}, which ONNX lacks")
    return str(rules[k]())


def _shifted(g: Writer, x: str, by: str) -> str:
    """Integers divided by a power of two, rounded down."""
    return str(g.node("Div", g.node("Sub", x, g.node("Mod", x, by)), by))


def _trunc(g: Writer, x: str) -> str:
    """Towards 0: the sign times the floor of the magnitude."""
    return str(g.node("Mul", g.node("Sign", x), g.node("Floor", g.node("Abs", x))))


def _expm1(g: Writer, x: str, c: Any) -> str:
    """2 t / (1 - t) with t = tanh(x / 2), which keeps the digits of small results; exp(x) - 1
    where that is large."""
    t = g.node("Tanh", g.node("Mul", x, c(0.5)))
    near = g.node("Div", g.node("Mul", t, c(2)), g.node("Sub", c(1), t))
    far = g.node("Sub", g.node("Exp", x), c(1))
    return str(g.node("Where", g.node("Less", g.node("Abs", x), c(1)), near, far))


def _log1p(g: Writer, x: str, c: Any) -> str:
    """log(u) x / (u - 1) with u = 1 + x, which makes up for the rounding of u; x where u is 1."""
    u = g.node("Add", x, c(1))
    v = g.node("Sub", u, c(1))
    zero = g.node("Equal", v, c(0))
    ratio = g.node("Div", x, g.node("Where", zero, c(1), v))
    large = g.node("Equal", u, x)  # infinite, or so large that 1 does not matter
    exact = g.node("Mul", g.node("Log", u), g.node("Where", large, c(1), ratio))
    return str(g.node("Where", zero, x, exact))


def _atan2(g: Writer, y: str, x: str, c: Any) -> str:
    """The angle of (x, y): atan(y / x), by half a turn on to the left of 0."""
    zero = g.node("Equal", x, c(0))
    plain = g.node("Atan", g.node("Div", y, g.node("Where", zero, c(1), x)))
    side = g.node("Where", g.node("Less", y, c(0)), c(-math.pi), c(math.pi))
    turned = g.node("Where", g.node("Less", x, c(0)), g.node("Add", plain, side), plain)
    upright = g.node("Mul", g.node("Sign", y), c(math.pi / 2))
    return str(g.node("Where", zero, upright, turned))


__all__ = ["written"]
