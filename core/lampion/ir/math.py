"""Transcendental intrinsics as expressions of the cheap ones: one definition for every device.

Floor 1; imports base, expr, kernel, math_exp, math_trig, math_special. `expand(e)` rewrites a
typed expression; what is left are additions, multiplications, fma, division, square root,
rounding, ldexp, comparisons, selects and integer operations, so a printer needs no math library
and every device computes the same bits. `accuracy_table()` says how good each function is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..base import dtype as dt
from ..base.dtype import dtype
from . import expr as E
from . import math_exp as X
from . import math_special as S
from . import math_trig as G
from .expr import Expr, node, rewrite, substitute, var
from .kernel import Kernel, Stage

FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "exp": X.exp, "exp2": X.exp2, "expm1": X.expm1, "log": X.log, "log2": X.log2,
    "log10": X.log10, "log1p": X.log1p, "pow": X.power, "sinh": X.sinh, "cosh": X.cosh,
    "tanh": X.tanh, "asinh": X.asinh, "acosh": X.acosh, "atanh": X.atanh,
    "sin": G.sin, "cos": G.cos, "tan": G.tan, "asin": G.asin, "acos": G.acos, "atan": G.atan,
    "atan2": G.atan2, "erf": S.erf, "erfc": S.erfc, "lgamma": S.lgamma,
}
_templates: dict[tuple[str, dtype], tuple[Expr, tuple[Expr, ...]]] = {}


def template(name: str, d: dtype) -> tuple[Expr, tuple[Expr, ...]]:
    """(typed expansion of an intrinsic on dtype `d`, its variables)."""
    found = _templates.get((name, d))
    if found is None:
        arity = E.INTRINSICS[name][0]
        variables = tuple(var(f"x{k}", d) for k in range(arity))
        if name == "pow" and d.kind in "iu":
            body = S.integer_power(variables[0], variables[1], d)
        elif d in X.FORMATS:
            body = FUNCTIONS[name](*variables, X.FORMATS[d])
        else:
            raise ValueError(f"{name} is not defined on {d.name}")
        typed = E.typed([body], {}, d)[0]
        assert typed.dtype is d, (name, d, typed.dtype)
        # an expansion may use other functions (none recursively)
        found = _templates[name, d] = (expand(typed), variables)
    return found


def _rule(e: Expr, args: tuple[Expr, ...]) -> Expr:
    if e.op not in FUNCTIONS:
        return e if args == e.args else node(e.op, args, e.value, e.dtype)
    d = args[0].dtype
    assert d is not None
    if d is dt.float16 or d is dt.bfloat16:
        wide = tuple(node("cast", (a,), dt.float32, dt.float32) for a in args)
        inner = _rule(node(e.op, wide, None, dt.float32), wide)
        return node("cast", (inner,), d, d)
    if d.kind == "c":
        raise ValueError(f"{e.op} of complex numbers: expand_complex comes first")
    body, variables = template(e.op, d)
    return substitute([body], dict(zip(variables, args)))[0]


def expand(e: Expr) -> Expr:
    """Replace the transcendental intrinsics under a typed expression by cheap ones.

    Integer `pow` becomes multiplication by squaring. 16-bit floats go through float32. Raises
    ValueError for complex operands.

    >>> x = var("x", dt.float32)
    >>> {n.op for n in E.walk([expand(node("exp", (x,), None, dt.float32))])} & set(FUNCTIONS)
    set()
    """
    return rewrite([e], _rule)[0]


# ---- how good they are ----

# name -> intervals that are sampled (beside special values), uniformly in the numbers' bits
DOMAINS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "exp": ((-104.0, 89.0),), "exp2": ((-150.0, 128.0),), "expm1": ((-20.0, 89.0), (-1.0, 1.0)),
    "log": ((1e-45, 3e38), (0.5, 2.0)), "log2": ((1e-45, 3e38), (0.5, 2.0)),
    "log10": ((1e-45, 3e38), (0.5, 2.0)), "log1p": ((-0.999999, 3e38), (-0.5, 1.0)),
    "sin": ((-4.0, 4.0), (-50000.0, 50000.0), (-3e38, 3e38)),
    "cos": ((-4.0, 4.0), (-50000.0, 50000.0), (-3e38, 3e38)),
    "tan": ((-4.0, 4.0), (-50000.0, 50000.0), (-3e38, 3e38)),
    "asin": ((-1.0, 1.0),), "acos": ((-1.0, 1.0),), "atan": ((-10.0, 10.0), (-3e38, 3e38)),
    "sinh": ((-2.0, 2.0), (-89.0, 89.0)), "cosh": ((-89.0, 89.0),),
    "tanh": ((-10.0, 10.0), (0.3, 0.33)),
    "asinh": ((-10.0, 10.0), (-3e38, 3e38)), "acosh": ((1.0, 10.0), (1.0, 3e38)),
    "atanh": ((-1.0, 1.0),), "erf": ((-6.0, 6.0), (0.2, 0.2253)), "erfc": ((-5.0, 9.0),),
    "lgamma": ((1e-30, 1e30), (0.1, 10.0)),
}
# documented bounds in units in the last place: (float32, float64)
BOUNDS: Mapping[str, tuple[float, float]] = {
    name: (2.0, 2.5) if name in ("exp", "log", "tanh", "erf", "sin", "cos") else (4.0, 4.0)
    for name in FUNCTIONS
}


def expand_kernel(kernel: Kernel, expands: Callable[[str, dtype], bool]) -> Kernel:
    """The kernel in which the functions that a dialect would rather not call (`expands(op,
    dtype)`) are replaced by arithmetic."""
    memo: dict[Expr, Expr] = {}

    def one(e: Expr, args: tuple[Expr, ...]) -> Expr:
        d = e.dtype
        if not (isinstance(d, dtype) and d.kind == "f" and e.op in E.INTRINSICS
                and expands(e.op, d)):
            return node(e.op, args, e.value, d)
        names = {var(f"{k}", a.dtype): a for k, a in enumerate(args)}
        done = expand(node(e.op, tuple(names), e.value, d))
        return substitute([done], names)[0]

    def of(e: Expr) -> Expr:
        found = memo.get(e)
        if found is None:
            found = memo[e] = rewrite([e], one)[0]
        return found

    stages = []
    for stage in kernel.stages:
        body = []
        for s in stage.body:
            parts = {f: getattr(s, f, None) for f in ("value", "index", "mask", "position")}
            changed: dict[str, Any] = {f: of(e) for f, e in parts.items() if isinstance(e, Expr)}
            body.append(replace(s, **changed))
        stages.append(Stage(stage.ranges, tuple(body)))
    return Kernel(kernel.name, kernel.args, kernel.grid, tuple(stages), kernel.nparams)


def accuracy_table(samples: int = 20000, evaluate: Any = None, oracle: Any = None,
                   ) -> list[tuple[str, str, float]]:
    """Largest error found, in units in the last place: (function, dtype, ulps).

    `evaluate(expr, env)` runs a typed expression on NumPy arrays (default: the interpreter);
    `oracle(name, arrays)` gives the true values in long double (default: NumPy's long double
    functions, which is good enough for float32 and, to about 0.01 ulp, for float64).
    """
    from .accuracy import measure

    return [(name, d.name, measure(name, d, samples, evaluate, oracle))
            for name in sorted(FUNCTIONS) for d in (dt.float32, dt.float64)]
