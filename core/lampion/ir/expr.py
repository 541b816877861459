"""Scalar expressions: the language in which every elementwise op is written.

Floor 1; imports base. An `Expr` is an immutable, hash-consed DAG node, so structural equality
is identity and common subexpressions are shared. Untyped while an op is declared; `typed()`
fixes dtypes when a kernel is built. `INTRINSICS` is the whole vocabulary: a printer that knows
it can run every elementwise op, and `math.py` expands the transcendental part of it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..base import dtype as dt
from ..base.dtype import dtype

# name -> (arity, result): "same" the operands' type, "bool", or "float" (operands become floating)
INTRINSICS: dict[str, tuple[int, str]] = {
    # arithmetic. idiv truncates; idiv and fmod by integer 0 give 0; integers wrap
    "add": (2, "same"), "sub": (2, "same"), "mul": (2, "same"), "div": (2, "float"),
    "idiv": (2, "same"), "fmod": (2, "same"), "neg": (1, "same"), "abs": (1, "same"),
    "fma": (3, "same"), "mulhi": (2, "same"),  # mulhi: high word of the unsigned product
    # maximum/minimum propagate NaN
    "maximum": (2, "same"), "minimum": (2, "same"),
    # comparison (ordered, except ne) and choice
    "lt": (2, "bool"), "le": (2, "bool"), "gt": (2, "bool"), "ge": (2, "bool"),
    "eq": (2, "bool"), "ne": (2, "bool"), "select": (3, "same"),
    # bits: logical on bool, bitwise on integers. A shift by >= the width gives 0 (shr: sign fill)
    "and": (2, "same"), "or": (2, "same"), "xor": (2, "same"), "not": (1, "same"),
    "shl": (2, "same"), "shr": (2, "same"),
    # conversion. cast float -> int saturates, NaN -> 0; bitcast keeps the bits (same size)
    "cast": (1, "value"), "bitcast": (1, "value"),
    # rounding; round is half to even
    "floor": (1, "same"), "ceil": (1, "same"), "trunc": (1, "same"), "round": (1, "same"),
    # floating functions; ldexp(x, n) = x * 2**n with n integral of x's type
    "sqrt": (1, "float"), "rsqrt": (1, "float"), "ldexp": (2, "float"),
    "exp": (1, "float"), "exp2": (1, "float"), "expm1": (1, "float"),
    "log": (1, "float"), "log2": (1, "float"), "log10": (1, "float"), "log1p": (1, "float"),
    "sin": (1, "float"), "cos": (1, "float"), "tan": (1, "float"),
    "asin": (1, "float"), "acos": (1, "float"), "atan": (1, "float"), "atan2": (2, "float"),
    "sinh": (1, "float"), "cosh": (1, "float"), "tanh": (1, "float"),
    "asinh": (1, "float"), "acosh": (1, "float"), "atanh": (1, "float"),
    "erf": (1, "float"), "erfc": (1, "float"), "lgamma": (1, "float"), "pow": (2, "same"),
    # complex numbers only; `expand_complex` removes them before a kernel is printed
    "complex": (2, "complex"), "real": (1, "real"), "imag": (1, "real"),
}
# leaves: const (value), var (name), scalar (runtime argument slot), param (runtime int64 of the
# kernel), index (loop axis), load (buffer slot; args = index[, mask, other]), ref (stage result)
LEAVES = ("const", "var", "scalar", "param", "index", "load", "ref")


class Expr:
    """One node: `op`, operand nodes `args`, a `value` (constant, name, slot) and, once typed,
    its `dtype`. Python's operators build nodes; equality comparison is `eq(a, b)`, because
    `==` on Exprs is identity."""

    __slots__ = ("op", "args", "value", "dtype", "__weakref__")
    op: str
    args: tuple["Expr", ...]
    value: Any
    dtype: dtype | None

    def __add__(self, o: Any) -> "Expr": return op("add", self, o)
    def __radd__(self, o: Any) -> "Expr": return op("add", o, self)
    def __sub__(self, o: Any) -> "Expr": return op("sub", self, o)
    def __rsub__(self, o: Any) -> "Expr": return op("sub", o, self)
    def __mul__(self, o: Any) -> "Expr": return op("mul", self, o)
    def __rmul__(self, o: Any) -> "Expr": return op("mul", o, self)
    def __truediv__(self, o: Any) -> "Expr": return op("div", self, o)
    def __rtruediv__(self, o: Any) -> "Expr": return op("div", o, self)
    def __neg__(self) -> "Expr": return op("neg", self)
    def __pow__(self, o: Any) -> "Expr": return op("pow", self, o)
    def __lt__(self, o: Any) -> "Expr": return op("lt", self, o)
    def __le__(self, o: Any) -> "Expr": return op("le", self, o)
    def __gt__(self, o: Any) -> "Expr": return op("gt", self, o)
    def __ge__(self, o: Any) -> "Expr": return op("ge", self, o)
    def __and__(self, o: Any) -> "Expr": return op("and", self, o)
    def __or__(self, o: Any) -> "Expr": return op("or", self, o)
    def __xor__(self, o: Any) -> "Expr": return op("xor", self, o)
    def __invert__(self) -> "Expr": return op("not", self)
    def __lshift__(self, o: Any) -> "Expr": return op("shl", self, o)
    def __rshift__(self, o: Any) -> "Expr": return op("shr", self, o)

    def __bool__(self) -> bool:
        raise TypeError("a scalar expression has no truth value while it is traced; "
                        "use select(condition, a, b)")

    def __repr__(self) -> str:
        return show(self)

    def __reduce__(self) -> Any:
        return (node, (self.op, self.args, self.value, self.dtype))


_nodes: dict[tuple[Any, ...], Expr] = {}
_lock = threading.Lock()


def _value_key(v: Any) -> Any:
    """Constants are told apart by type and bits: 1, 1.0, True, 0.0 and -0.0 all differ."""
    if isinstance(v, float):
        return (float, v.hex())
    if isinstance(v, complex):
        return (complex, v.real.hex(), v.imag.hex())
    return (type(v), v)


def node(op: str, args: Sequence[Expr] = (), value: Any = None,
         dtype: dtype | None = None) -> Expr:
    """The unique node with these parts."""
    args = tuple(args)
    key = (op, tuple(map(id, args)), _value_key(value), dtype)
    found = _nodes.get(key)
    if found is None:
        with _lock:
            found = _nodes.get(key)
            if found is None:
                found = object.__new__(Expr)
                found.op, found.args, found.value, found.dtype = op, args, value, dtype
                _nodes[key] = found
    return found


def const(value: Any, dtype: dtype | None = None) -> Expr:
    """A literal: bool, int, float or complex."""
    return node("const", (), value, dtype)


def var(name: str, dtype: dtype | None = None) -> Expr:
    """A named operand of an op declaration."""
    return node("var", (), name, dtype)


def param(k: int) -> Expr:
    """The k-th runtime integer (int64) of a kernel: a size, a stride, an offset."""
    return node("param", (), k, dt.int64)


def scalar(slot: int, dtype: dtype) -> Expr:
    """A runtime number passed with the call in input slot `slot`: float64, int64 or uint64."""
    return node("scalar", (), slot, dtype)


def index(axis: int) -> Expr:
    """The loop variable of an axis (int64)."""
    return node("index", (), axis, dt.int64)


def ref(name: str, dtype: dtype | None = None) -> Expr:
    """The value of an earlier stage's reduction or scan."""
    return node("ref", (), name, dtype)


def load(slot: int, idx: "Expr | int", dtype: dtype | None = None, *, mask: Expr | None = None,
         other: Any = 0) -> Expr:
    """Element `idx` (in elements) of the buffer in argument slot `slot`.

    With a `mask`, nothing is read where it is false and the value is `other` instead.
    """
    args = [wrap(idx)]
    if mask is not None:
        filler = other if isinstance(other, Expr) else const(other, dtype)
        args += [mask, filler]
    return node("load", args, slot, dtype)


def wrap(x: Any) -> Expr:
    """Numbers become constants."""
    if isinstance(x, Expr):
        return x
    if isinstance(x, (bool, int, float, complex)):
        return const(x)
    raise TypeError(f"a scalar expression cannot hold {type(x).__name__} {x!r}")


def is_const(e: Expr, value: Any = None) -> bool:
    """Whether `e` is a literal (equal to `value`, if given)."""
    return e.op == "const" and (value is None or e.value == value)


def op(name: str, *operands: Any, value: Any = None, dtype: dtype | None = None) -> Expr:
    """Apply an intrinsic. Only identities that hold for every IEEE value are folded."""
    args = tuple(map(wrap, operands))
    folded = _fold(name, args)
    if folded is not None:
        return folded
    return node(name, args, value, dtype)


def _fold(name: str, a: tuple[Expr, ...]) -> Expr | None:
    if name == "mul":
        for x, y in ((a[0], a[1]), (a[1], a[0])):
            if x.op == "const" and type(x.value) is int and x.value == 1:
                return y
            # integer 0 is only written by index arithmetic and by derivatives of constants
            if x.op == "const" and type(x.value) is int and x.value == 0:
                return x
    elif name == "add":
        for x, y in ((a[0], a[1]), (a[1], a[0])):
            if x.op == "const" and type(x.value) is int and x.value == 0:
                return y
    elif name == "sub" and a[1].op == "const" and type(a[1].value) is int and a[1].value == 0:
        return a[0]
    elif name == "neg" and a[0].op == "neg":
        return a[0].args[0]
    elif name == "select" and a[1] is a[2]:
        return a[1]
    elif name == "select" and a[0].op == "const":
        return a[1] if a[0].value else a[2]
    if all(x.op == "const" and type(x.value) is int for x in a):
        return _fold_ints(name, [x.value for x in a])
    return None


def _fold_ints(name: str, v: list[int]) -> Expr | None:
    table: dict[str, Callable[..., int]] = {
        "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y,
        "neg": lambda x: -x}
    fn = table.get(name)
    return const(fn(*v)) if fn else None


def _function(name: str) -> Callable[..., Expr]:
    def call(*args: Any) -> Expr:
        return op(name, *args)

    call.__name__ = name
    call.__doc__ = f"The `{name}` intrinsic on scalar expressions."
    return call


exp, exp2, expm1 = _function("exp"), _function("exp2"), _function("expm1")
log, log2, log10, log1p = (_function("log"), _function("log2"), _function("log10"),
                           _function("log1p"))
sqrt, rsqrt = _function("sqrt"), _function("rsqrt")
sin, cos, tan = _function("sin"), _function("cos"), _function("tan")
asin, acos, atan, atan2 = (_function("asin"), _function("acos"), _function("atan"),
                           _function("atan2"))
sinh, cosh, tanh = _function("sinh"), _function("cosh"), _function("tanh")
asinh, acosh, atanh = _function("asinh"), _function("acosh"), _function("atanh")
erf, erfc, lgamma = _function("erf"), _function("erfc"), _function("lgamma")
floor, ceil, trunc, round_ = (_function("floor"), _function("ceil"), _function("trunc"),
                              _function("round"))
maximum, minimum, fma = _function("maximum"), _function("minimum"), _function("fma")
idiv, fmod, mulhi = _function("idiv"), _function("fmod"), _function("mulhi")
eq, ne, select, abs_ = (_function("eq"), _function("ne"), _function("select"), _function("abs"))
complex_, real, imag = _function("complex"), _function("real"), _function("imag")


def ldexp(x: Any, n: Any, factors: int = 3) -> Expr:
    """x * 2**n, n integral of x's type. `factors`: into how many powers of two that are normal
    numbers a printer has to split 2**n so that only the last product rounds. One is enough if 2**n
    is normal itself, two if x is near 1 and n within twice that range, three always."""
    return node("ldexp", (wrap(x), wrap(n)), factors)


def rarely(condition: Any, seldom: Any, usual: Any) -> Expr:
    """select(condition, seldom, usual), where the condition hardly ever holds and `seldom` is
    long: a printer may branch around it."""
    return node("select", tuple(map(wrap, (condition, seldom, usual))), "rare")


def cast(x: Any, d: dtype) -> Expr:
    """Convert to dtype `d` (float -> int saturates, NaN -> 0)."""
    return node("cast", (wrap(x),), d)


def bitcast(x: Any, d: dtype) -> Expr:
    """Reinterpret the bits as dtype `d` of the same size."""
    return node("bitcast", (wrap(x),), d)


def by_type(**cases: Any) -> Expr:
    """The case of the type an op is computed in: named by dtype ("float64"), else by kind ("f",
    "i", "u", "b", "c", or several: "ui"), else `other`. Settled by `resolve` before typing.

    >>> by_type(f=x / y, other=idiv(x, y))
    """
    return node("by_type", tuple(map(wrap, cases.values())), tuple(cases))


# name -> (definition in expressions, derivative rule (adjoint, node) -> adjoints of the operands)
FUNCTIONS: dict[str, tuple[Callable[..., Expr], Callable[..., tuple[Expr, ...]]]] = {}


def call(name: str, *args: Any) -> Expr:
    """A function of `FUNCTIONS` as one node: it is differentiated by its own rule, and replaced
    by its definition when a kernel is typed."""
    return node("call", tuple(map(wrap, args)), name)


def resolve(roots: Sequence[Expr], d: dtype) -> list[Expr]:
    """Settle every `by_type` for computation in dtype `d`, and expand every `call`."""
    while any(e.op in ("by_type", "call") for e in walk(roots)):
        roots = _resolve(roots, d)
    return list(roots)


def _resolve(roots: Sequence[Expr], d: dtype) -> list[Expr]:
    def pick(e: Expr, args: tuple[Expr, ...]) -> Expr:
        if e.op == "call":
            return FUNCTIONS[e.value][0](*args)
        if e.op != "by_type":
            return rebuild(e, args)
        for match in (lambda k: k == d.name, lambda k: k != "other" and d.kind in k
                      and k not in dt._BY_NAME, lambda k: k == "other"):
            for key, a in zip(e.value, args):
                if match(key):
                    return a
        raise TypeError(f"the expression has no case for {d!r}: {show(e)}")

    return rewrite(roots, pick)


def without_complex(roots: Sequence[Expr]) -> list[Expr]:
    """Drop the complex cases of every `by_type`, so that derivatives do not drag them along."""
    def drop(e: Expr, args: tuple[Expr, ...]) -> Expr:
        if e.op != "by_type":
            return rebuild(e, args)
        cases = [(k, a) for k, a in zip(e.value, args) if k != "c" and not k.startswith("complex")]
        if all(a is cases[0][1] for _, a in cases) and cases[-1][0] == "other":
            return cases[0][1]
        return node("by_type", tuple(a for _, a in cases), tuple(k for k, _ in cases))

    return rewrite(roots, drop)


def isnan(x: Expr) -> Expr:
    """x != x."""
    return ne(x, x)


def walk(roots: Sequence[Expr]) -> list[Expr]:
    """All nodes under `roots`, each once, operands before users."""
    seen: set[int] = set()
    out: list[Expr] = []
    stack: list[tuple[Expr, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        e, done = stack.pop()
        if done:
            out.append(e)
        elif id(e) not in seen:
            seen.add(id(e))
            stack.append((e, True))
            stack.extend((a, False) for a in reversed(e.args))
    return out


def rewrite(roots: Sequence[Expr], rule: Callable[[Expr, tuple[Expr, ...]], Expr]) -> list[Expr]:
    """Rebuild bottom-up: `rule(old, new_args)` gives each node's replacement."""
    new: dict[int, Expr] = {}
    for e in walk(roots):
        new[id(e)] = rule(e, tuple(new[id(a)] for a in e.args))
    return [new[id(r)] for r in roots]


def rebuild(e: Expr, args: tuple[Expr, ...]) -> Expr:
    """`e` with other operands (the default rule of `rewrite`)."""
    if args == e.args:
        return e
    if e.op in INTRINSICS and e.value is None and e.dtype is None:
        return op(e.op, *args)
    return node(e.op, args, e.value, e.dtype)


def substitute(roots: Sequence[Expr], table: Mapping[Expr, Expr]) -> list[Expr]:
    """Replace nodes (usually variables) by others, top-down: a replaced node is not entered."""
    new: dict[int, Expr] = {id(k): v for k, v in table.items()}

    def visit(e: Expr) -> Expr:
        stack = [e]
        while stack:
            x = stack[-1]
            if id(x) in new:
                stack.pop()
                continue
            todo = [a for a in x.args if id(a) not in new]
            if todo:
                stack.extend(todo)
            else:
                new[id(x)] = rebuild(x, tuple(new[id(a)] for a in x.args))
                stack.pop()
        return new[id(e)]

    return [visit(r) for r in roots]


def variables(roots: Sequence[Expr]) -> list[str]:
    """Names of the variables that occur, in order of first use."""
    return [e.value for e in walk(roots) if e.op == "var"]


def typed(roots: Sequence[Expr], env: Mapping[str, dtype], compute: dtype) -> list[Expr]:
    """Fix every node's dtype.

    `env` gives the types of variables (and stage refs); numbers take the type of what they
    meet, or `compute` when they stand alone. Operands of different types are promoted; functions
    of floating results convert integer operands to `compute` if that is floating, else to the
    default dtype. The result has explicit casts only: both operands of every node agree.
    """
    roots = resolve(roots, compute)
    floating = compute if compute.kind in "fc" else dt.opmath(dt.get_default_dtype())

    def literal(e: Expr, d: dtype) -> Expr:
        v = e.value
        if d.kind == "c":
            return node("const", (), complex(v), d)
        if d.kind == "f":
            return node("const", (), float(v), d)
        if d.kind == "b":
            return node("const", (), bool(v), d)
        return node("const", (), _wrap_int(int(v), d), d)

    def convert(e: Expr, d: dtype) -> Expr:
        if e.dtype is d:
            return e
        if e.op == "const" and (e.dtype is None or not isinstance(e.value, float)
                                or math.isfinite(e.value) or d.kind in "fc"):
            return literal(e, d)
        return node("cast", (e,), d, d)

    def join(args: Sequence[Expr]) -> dtype:
        known = [a.dtype for a in args if a.dtype is not None]
        if not known:
            kinds = {type(a.value) for a in args}
            if kinds & {float, complex} and compute.kind not in "fc":
                return floating
            return compute
        d = known[0]
        for k in known[1:]:
            d = dt.promote_types(d, k)
        for a in args:  # an untyped float literal lifts integers
            if a.dtype is None and isinstance(a.value, float) and d.kind not in "fc":
                d = floating
            if a.dtype is None and isinstance(a.value, complex) and d.kind != "c":
                d = d.to_complex() if d.kind == "f" else floating.to_complex()
        return d

    def rule(e: Expr, args: tuple[Expr, ...]) -> Expr:
        if e.op == "const":
            return e
        if e.op in ("var", "ref") and e.dtype is None:
            return node(e.op, (), e.value, env[e.value])
        if e.op in ("var", "ref", "scalar", "param", "index"):
            return e
        if e.op == "load":
            idx = convert(args[0], dt.int64)
            assert e.dtype is not None  # a load knows its buffer's type
            rest = (convert(args[1], dt.bool_), convert(args[2], e.dtype)) if len(args) > 1 else ()
            return node("load", (idx, *rest), e.value, e.dtype)
        if e.op == "cast":
            return convert(args[0], e.value)
        if e.op == "bitcast":
            a = args[0] if args[0].dtype is not None else convert(args[0], compute)
            return node("bitcast", (a,), e.value, e.value)
        return intrinsic(e, args)

    def intrinsic(e: Expr, args: tuple[Expr, ...]) -> Expr:
        kind = INTRINSICS[e.op][1]
        if e.op in ("real", "imag") and args[0].dtype is not None and args[0].dtype.kind != "c":
            return args[0] if e.op == "real" else literal(const(0), args[0].dtype)
        if e.op == "select":
            d = join(args[1:])
            return node("select", (convert(args[0], dt.bool_), convert(args[1], d),
                                   convert(args[2], d)), e.value, d)
        d = join(args)
        if kind == "float" and d.kind not in "fc":
            d = floating
        if e.op == "complex":  # its parts are real, also where all operands are complex
            d = d.to_real()
        if e.op in ("shl", "shr") and d.kind == "b":
            d = dt.int64
        new = tuple(convert(a, d) for a in args)
        out = {"bool": dt.bool_, "complex": d.to_complex(), "real": d.to_real()}.get(kind, d)
        if e.op == "abs" and d.kind == "c":
            out = d.to_real()
        return node(e.op, new, e.value, out)

    return [convert(r, compute) if r.dtype is None else r for r in rewrite(roots, rule)]


def _wrap_int(v: int, d: dtype) -> int:
    """Two's complement wrap of a literal into an integer type."""
    bits = 8 * d.itemsize
    v &= (1 << bits) - 1
    if d.kind == "i" and v >> (bits - 1):
        v -= 1 << bits
    return v


_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">",
          "ge": ">=", "eq": "==", "ne": "!=", "and": "&", "or": "|", "xor": "^",
          "shl": "<<", "shr": ">>"}


def show(e: Expr) -> str:
    """A readable one-line form, for logs and error messages."""
    if e.op == "const":
        return repr(e.value)
    if e.op in ("var", "ref"):
        return str(e.value)
    if e.op in ("param", "index", "scalar"):
        return f"{e.op[0]}{e.value}"
    inner = [show(a) for a in e.args]
    if e.op == "load":
        return f"b{e.value}[{inner[0]}{' if ' + inner[1] if len(inner) > 1 else ''}]"
    if e.op in _INFIX:
        return f"({inner[0]} {_INFIX[e.op]} {inner[1]})"
    if e.op in ("cast", "bitcast"):
        return f"{e.op}[{e.value.name}]({inner[0]})"
    return f"{e.op}({', '.join(inner)})"
