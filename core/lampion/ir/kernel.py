"""The kernel IR: a grid of independent points, each running a short list of loop stages.

Floor 1; imports base and expr. One eager op is a one-op kernel; fusion makes larger ones. The
same kernel is printed as LLVM IR or a C-family dialect, or interpreted; printers choose the
schedule (what is vectorised, what runs in parallel), the kernel fixes only the meaning:

    for every point g of the grid (in parallel, any order):
        for every stage, in order:
            for every point r of the stage's ranges (in row-major order):
                the stage's statements, in order

Axes are numbered: grid axes 0..G-1, then the stage's ranges G, G+1, ... Sizes and strides are
`param(k)` (runtime int64) or small constants; a stride that is statically 0 or 1 is a constant,
which is how a printer sees what is broadcast and what is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..base import dtype as dt
from ..base.dtype import dtype
from .expr import Expr, const, is_const, param, show, walk, wrap


@dataclass(frozen=True)
class Arg:
    """One argument slot. kind: "out" or "in" (buffers), "inout" (read and written), or
    "scalar" (dtype float64, int64 or uint64: passed by value in an 8-byte slot)."""

    kind: str
    dtype: dtype


@dataclass(frozen=True)
class Reduce:
    """`name op= value` over the stage's ranges; `ref(name)` is usable in later stages.

    op: sum, prod, max, min (NaN wins), and, or. dtype is the accumulator's type (value's type).
    With `imag` (op "prod" only) value + i imag are complex numbers: `ref(name)` is the real part
    of their product and `ref(name + ".imag")` the imaginary one.
    """

    name: str
    op: str
    value: Expr
    imag: Expr | None = None


@dataclass(frozen=True)
class ArgReduce:
    """Index (`ref(name)`, int64) and value (`ref(name + "_value")`) of the first max or min.

    NaN counts as the extreme value. `position` is the int64 expression that is returned.
    """

    name: str
    op: str  # "max" | "min"
    value: Expr
    position: Expr


@dataclass(frozen=True)
class Scan:
    """Running `name op= value`; `ref(name)` in later statements of the same stage is the
    inclusive result at this point. op and `imag` as in Reduce. Sequential along the ranges."""

    name: str
    op: str
    value: Expr
    imag: Expr | None = None


@dataclass(frozen=True)
class Store:
    """`args[slot][index] = value` (converted to the slot's dtype), where `mask` holds."""

    slot: int
    index: Expr
    value: Expr
    mask: Expr | None = None


@dataclass(frozen=True)
class Scatter:
    """`args[slot][index] op= value` in order; op: sum, prod, max, min, or "set".

    Different grid points must touch different elements, unless `shared` says that they may
    collide: then a printer either runs the grid sequentially or uses atomics (sum only).
    """

    slot: int
    index: Expr
    op: str
    value: Expr
    mask: Expr | None = None
    shared: bool = False


Statement = Reduce | ArgReduce | Scan | Store | Scatter


@dataclass(frozen=True)
class Stage:
    """Statements run at every point of `ranges` (row-major); () means once per grid point."""

    ranges: tuple[Expr, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Kernel:
    """A complete kernel. `args` are the slots: outputs first, then inputs and scalars.

    All expressions are typed. `nparams` is how many runtime integers it takes. `key` is a stable
    text of the whole content: equal keys mean equal kernels (use it for caches).
    """

    name: str
    args: tuple[Arg, ...]
    grid: tuple[Expr, ...]
    stages: tuple[Stage, ...]
    nparams: int
    key: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", _key(self))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kernel) and self.key == other.key

    @property
    def digest(self) -> str:
        """A short hash of `key`, for file and symbol names."""
        import hashlib  # ten milliseconds of every start, for what only backends ask

        return hashlib.sha256(self.key.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return pretty(self)


def expressions(kernel: Kernel) -> list[Expr]:
    """The root expressions of a kernel (values, indexes, masks, sizes)."""
    roots = list(kernel.grid)
    for stage in kernel.stages:
        roots += stage.ranges
        for s in stage.body:
            roots += statement_exprs(s)
    return roots


def statement_exprs(s: Statement) -> list[Expr]:
    """The expressions of one statement."""
    if isinstance(s, ArgReduce):
        return [s.value, s.position]
    if isinstance(s, (Reduce, Scan)):
        return [s.value] + ([s.imag] if s.imag is not None else [])
    return [s.index, s.value] + ([s.mask] if s.mask is not None else [])


def map_statement(s: Statement, f: Callable[[Expr], Expr]) -> Statement:
    """The statement with `f` applied to each of its expressions."""
    if isinstance(s, ArgReduce):
        return replace(s, value=f(s.value), position=f(s.position))
    if isinstance(s, (Reduce, Scan)):
        return replace(s, value=f(s.value), imag=None if s.imag is None else f(s.imag))
    return replace(s, index=f(s.index), value=f(s.value),
                   mask=None if s.mask is None else f(s.mask))


def _key(kernel: Kernel) -> str:
    """Serialise the DAG by numbering nodes in walk order, so shared nodes stay shared."""
    names: dict[int, int] = {}
    lines: list[str] = []
    for k, e in enumerate(walk(expressions(kernel))):
        names[id(e)] = k
        value = e.value.name if isinstance(e.value, dtype) else (
            e.value.hex() if isinstance(e.value, float) else repr(e.value))
        of = e.dtype.name if e.dtype is not None else "?"
        lines.append(f"{k}={e.op}:{of}:{value}({','.join(str(names[id(a)]) for a in e.args)})")

    def n(e: Expr | None) -> str:
        return "-" if e is None else str(names[id(e)])

    # how many parameters is part of it: a kernel may be given some that it does not use
    lines.append(f"args {kernel.nparams} "
                 + " ".join(f"{a.kind}:{a.dtype.name}" for a in kernel.args))
    lines.append("grid " + " ".join(map(n, kernel.grid)))
    for stage in kernel.stages:
        lines.append("stage " + " ".join(map(n, stage.ranges)))
        for s in stage.body:
            head = type(s).__name__
            if isinstance(s, (Reduce, Scan, ArgReduce)):
                extra = f"{s.name} {s.op}"
            elif isinstance(s, Scatter):
                extra = f"{s.slot} {s.op} {s.shared}"
            else:
                extra = str(s.slot)
            lines.append(f"{head} {extra} " + " ".join(map(n, statement_exprs(s))))
    return "\n".join(lines)


def pretty(kernel: Kernel) -> str:
    """The kernel as indented pseudo-code."""
    out = [f"kernel {kernel.name}({', '.join(f'{a.kind} {a.dtype.name}' for a in kernel.args)})"]
    out += [f"  for i{k} < {show(n)} (grid)" for k, n in enumerate(kernel.grid)]
    g = len(kernel.grid)
    for stage in kernel.stages:
        pad = "    "
        for k, n in enumerate(stage.ranges):
            out.append(f"{pad}for i{g + k} < {show(n)}")
            pad += "  "
        for s in stage.body:
            mask = getattr(s, "mask", None)
            where = f" if {show(mask)}" if mask is not None else ""
            if isinstance(s, Store):
                out.append(f"{pad}b{s.slot}[{show(s.index)}] = {show(s.value)}{where}")
            elif isinstance(s, Scatter):
                out.append(f"{pad}b{s.slot}[{show(s.index)}] {s.op}= {show(s.value)}{where}")
            else:
                word = "arg" if isinstance(s, ArgReduce) else (
                    "scan " if isinstance(s, Scan) else "")
                out.append(f"{pad}{s.name} = {word}{s.op}({show(s.value)})")
    return "\n".join(out)


@dataclass(frozen=True)
class KernelCall:
    """A kernel bound to a problem: runtime `params` and the program `slots` of its args.

    Program slots are numbered outputs first, then inputs (tensors and scalars in call order),
    then scratch buffers.
    """

    kernel: Kernel
    params: tuple[int, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What an op call lowers to: kernel calls in order, with scratch buffers (bytes each).

    `status` int64 words are an additional output slot after the results: the kernels leave
    something other than 0 there if the values of an input are not acceptable.
    """

    calls: tuple[KernelCall, ...]
    scratch: tuple[int, ...] = ()
    status: int = 0


class Params:
    """Collects the runtime integers of a kernel while it is built.

    `of(n)` gives the expression for the value n; 0 and 1 of strides stay constants through
    `stride(n)`, because printers specialise on them (as on -1, lines read backwards).
    """

    def __init__(self) -> None:
        self.values: list[int] = []

    def of(self, n: int) -> Expr:
        """A fresh runtime parameter with value `n`."""
        self.values.append(int(n))
        return param(len(self.values) - 1)

    def stride(self, n: int) -> Expr:
        """A stride: the constants 0, 1 and -1 stay static."""
        return const(n, dt.int64) if n in (0, 1, -1) else self.of(n)


def dot(axes: Sequence[Any], strides: Sequence[Any]) -> Expr:
    """Element offset sum(axis * stride) as an expression; 0 strides vanish."""
    total: Expr = const(0, dt.int64)
    for a, s in zip(axes, strides):
        s = wrap(s)
        if is_const(s, 0):
            continue
        a = wrap(a)
        term = a if is_const(s, 1) else (s if is_const(a, 1) else _int("mul", a, s))
        total = term if is_const(total, 0) else _int("add", total, term)
    return total


def _int(op: str, *args: Expr) -> Expr:
    from .expr import node

    return node(op, tuple(const(a.value, dt.int64) if a.op == "const" else a for a in args),
                None, dt.int64)


def coefficient(e: Expr, axis: int) -> Expr | None:
    """d e / d index(axis) if `e` is affine in that axis, as an axis-free expression, else None.

    A printer uses it to tell contiguous (1), uniform (0), strided and gathered accesses apart.
    """
    if e.op == "index":
        return const(1 if e.value == axis else 0, dt.int64)
    if not any(x.op == "index" and x.value == axis for x in walk([e])):
        return const(0, dt.int64)
    if e.op in ("add", "sub"):
        a, b = (coefficient(x, axis) for x in e.args)
        if a is None or b is None:
            return None
        if is_const(b, 0):
            return a
        if is_const(a, 0) and e.op == "add":
            return b
        if a.op == "const" and b.op == "const":
            return const(a.value + b.value if e.op == "add" else a.value - b.value, dt.int64)
        return _int(e.op, a, b)
    if e.op == "mul":
        for x, y in (e.args, e.args[::-1]):
            free = coefficient(y, axis)
            if free is not None and is_const(free, 0):
                c = coefficient(x, axis)
                if c is None:
                    return None
                return y if is_const(c, 1) else _int("mul", c, y)
    if e.op == "neg":
        c = coefficient(e.args[0], axis)
        return None if c is None else (
            const(-c.value, dt.int64) if c.op == "const" else _int("neg", c))
    return None
