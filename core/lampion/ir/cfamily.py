"""Printing typed scalar expressions as C-family text, for scalars and for explicit vectors.

Floor 1; imports base, expr and kernel. `Dialect` holds what differs between languages (type
names, qualifiers, thread numbers, library functions); `Emitter` turns expressions into single
assignment statements, placed at the outermost loop level where their operands are known. The
schedules (`cfamily_lanes`, `cfamily_threads`) build loops and statements on top of it. Integer
arithmetic wraps, division is guarded, casts saturate, NaN survives min and max.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..base import dtype as dt
from ..base.dtype import dtype
from ..base.errors import UnsupportedError
from . import cfamily_helpers as helpers
from .expr import Expr, is_const, walk
from .kernel import Kernel, coefficient, statement_exprs

LANE = "0123456789abcdef"
_SIGNED = {1: "char", 2: "short", 4: "int", 8: "long"}


class Val(NamedTuple):
    """A printed value: C text, its dtype, lane count (1 = uniform), for a bool vector the bytes
    of a mask lane, and the loop level from which it may be used."""

    text: str
    dtype: dtype
    lanes: int = 1
    width: int = 0
    level: int = 0
    volatile: bool = False


class Dialect:
    """What a C-family language calls things. Subclass it and override the table.

    Vector types, where `lanes` > 1 are used, are written `float8` with components `.s0`..`.sf`;
    16-bit floats live in memory as 16-bit words and in registers as float.
    """

    name = "c"
    kernel = "void"          # qualifier of an entry point
    space = ""               # qualifier of a pointer to device memory
    local = ""               # qualifier of memory shared by a work group
    barrier = ""             # statement: wait for the group, memory included
    global_id = "({d})"      # number of this work item in dimension d, as text
    group_id = "({d})"
    local_id = "({d})"
    group_of_one = ""        # attribute of an entry point: work groups have one item
    group_of = ""            # the same for `{n}` items
    prelude = ""
    doubles = True           # has 64-bit floats
    contract_on = ""         # statement: fuse a * b + c within this block
    inline_rounding = False  # print floor & co. with arithmetic instead of library calls
    types = {"bool": "uchar", "uint8": "uchar", "int8": "char", "uint16": "ushort",
             "int16": "short", "uint32": "uint", "int32": "int", "uint64": "ulong",
             "int64": "long", "float16": "ushort", "bfloat16": "ushort", "float32": "float",
             "float64": "double"}
    # intrinsics that the language's library computes well enough
    functions: dict[str, str] = {}
    call_bytes = 16          # widest vector given to a library function
    inline_fma = False       # print fma as a * b + c with contraction on
    # compiler builtins on vectors by intrinsic (and "any", "all", "stream": a store around the
    # caches); tested with HAS(name)
    vector_builtins: dict[str, str] = {}
    scale = ""               # macros `{scale}_{vector type}(x, n)` in the prelude: x * 2^n
    # for processors with thousands of threads; {at} is a pointer to elements, {type} one of uint,
    # uint2 and uint4, and the address a multiple of its size
    packed_load = "*(const {space}{type} *)({at})"
    packed_store = "*({space}{type} *)({at}) = {value};"
    unroll = "#pragma unroll"  # line before a loop of a fixed number of steps
    warp = 0                 # work items that can read each other's values (0: none)
    shuffle = ""             # the value of {x} in the item numbered {lane} (modulo warp) of a warp
    # expressions for a read-modify-write of the number at the pointer {at}, by (operation of a
    # scatter, dtype); used where the order does not matter
    atomics: dict[tuple[str, str], str] = {}
    # functions of two floats in which NaN wins: "maximum" and "minimum"
    extremes: dict[str, str] = {}
    # functions between 16-bit words and float, by dtype, where the language has them
    half_to_float: dict[str, str] = {}
    float_to_half: dict[str, str] = {}

    def value_type(self, d: dtype) -> str:
        """The scalar C type in which values of `d` are held in registers."""
        if d.kind == "b":
            return "int"
        if d.kind == "f" and d.itemsize == 2:
            return "float"
        if d is dt.float64 and not self.doubles:
            raise UnsupportedError(f"{self.name}: this device has no float64")
        if d.name not in self.types:
            raise UnsupportedError(f"{self.name}: no type for {d.name}")
        return self.types[d.name]

    def vector(self, ctype: str, lanes: int) -> str:
        """The type of `lanes` values."""
        return ctype if lanes == 1 else f"{ctype}{lanes}"

    def bits(self, ctype: str, text: str) -> str:
        """Reinterpret `text` as another type of the same size."""
        return f"as_{ctype}({text})"

    def convert(self, ctype: str, lanes: int, text: str) -> str:
        """Convert a number (never out of range) to `ctype`."""
        if lanes == 1:
            return f"({ctype})({text})"
        return f"convert_{ctype}{lanes}({text})"

    def call(self, op: str, d: dtype) -> str | None:
        """The library function for an intrinsic on `d`, or None to expand it."""
        return self.functions.get(op)

    def expands(self, op: str, d: dtype) -> bool:
        """Whether `math.expand_kernel` is to write an intrinsic as arithmetic: where the language
        has no function for it."""
        return self.call(op, d) is None


class Scope:
    """One open block: its header, its lines, and the values that are known in it."""

    def __init__(self, header: str) -> None:
        self.header = header
        self.lines: list[str] = []
        self.memo: dict[tuple[Expr, bool], Val] = {}


def literal(value: Any, d: dtype) -> str:
    """A typed C literal with exactly this value."""
    if d.kind == "b":
        return "1" if value else "0"
    if d.kind == "f":
        wide = d is dt.float64
        v = float(value)
        if math.isnan(v):
            return "((double)NAN)" if wide else "NAN"
        if not wide:
            with np.errstate(over="ignore"):
                v = float(np.float32(v))
        if math.isinf(v):
            text = "((double)INFINITY)" if wide else "INFINITY"
            return f"(-{text})" if v < 0 else text
        text = v.hex() + ("" if wide else "f")
        return f"({text})" if text.startswith("-") else text
    return _int_literal(int(value), d)


def _int_literal(v: int, d: dtype) -> str:
    c = Dialect.types[d.name]
    if d.itemsize < 4:
        return f"(({c}){v})"
    suffix = ("u" if d.kind == "u" else "") + ("L" if d.itemsize == 8 else "")
    if d.kind == "i" and v == -(1 << (8 * d.itemsize - 1)):
        return f"({v + 1}{suffix}-1)"
    return f"({v}{suffix})" if v < 0 else f"{v}{suffix}"


def is_index(e: Expr, seen: dict[Expr, bool]) -> bool:
    """Whether `e` is integer arithmetic over loop variables and sizes only (cannot overflow)."""
    known = seen.get(e)
    if known is None:
        known = e.dtype is dt.int64 and (
            e.op in ("index", "param", "const")
            or (e.op in ("add", "sub", "mul", "neg", "idiv", "fmod")
            and all(is_index(a, seen) for a in e.args)))
        seen[e] = known
    return known


class Emitter:
    """Prints one kernel body: keeps the open blocks and the values each of them knows."""

    def __init__(self, kernel: Kernel, dialect: Dialect) -> None:
        self.kernel = kernel
        self.dialect = dialect
        self.scopes = [Scope("")]
        self.helpers: dict[str, str] = {}
        self.lanes = 1                  # lanes of the vector axis in the current block
        self.vaxis: int | None = None
        self.stream = False             # whole vectors are written around the caches
        self.axes: dict[int, tuple[str, int]] = {}
        self.refs: dict[str, Val] = {}
        self.index_type = "long"
        self._names = 0
        self._pure: dict[Expr, bool] = {}
        self._varying: dict[Expr, bool] = {}
        self._volatile_memo: dict[tuple[Expr, bool], Val] = {}
        self.written = {s.slot for stage in kernel.stages for s in stage.body
                        if hasattr(s, "slot")}
        self._rare = rare_branches(kernel)
        self._branches: list[tuple[set[Expr], int]] = []  # (what only it needs, its level)

    # -- blocks -----------------------------------------------------------------------------------

    @property
    def level(self) -> int:
        return len(self.scopes) - 1

    def line(self, text: str, level: int | None = None) -> None:
        """Append a line to the block of `level` (default: the innermost)."""
        self.scopes[self.level if level is None else level].lines.append(text)

    def open(self, header: str) -> None:
        """Begin a nested block, such as a loop; lines of `header` but the last come before it."""
        self.scopes.append(Scope(header))
        self._volatile_memo.clear()

    def close(self) -> None:
        """End the innermost block and put it into the one around it."""
        self._volatile_memo.clear()
        scope = self.scopes.pop()
        out = self.scopes[-1].lines
        *before, header = scope.header.split("\n")
        out.extend([*before, header + " {"])
        out.extend("  " + x for x in scope.lines)
        out.append("}")

    def fresh(self, stem: str = "t") -> str:
        """A name not used before."""
        self._names += 1
        return f"{stem}{self._names}"

    def need(self, name: str, text: str) -> str:
        """Include a helper definition once; returns its name."""
        self.helpers.setdefault(name, text)
        return name

    def statement_done(self) -> None:
        """After a write: forget what was loaded from written buffers."""
        self._volatile_memo.clear()

    def forget_lanes(self) -> None:
        """After a change of lanes or references: what varies must be found anew."""
        self._varying.clear()

    def bind(self, axis: int, text: str) -> None:
        """Say how the loop variable of an axis is called in the current block."""
        self.axes[axis] = (text, self.level)
        self._varying.clear()

    # -- values -----------------------------------------------------------------------------------

    def ctype(self, v: Val) -> str:
        """The C type of a value."""
        if v.dtype.kind == "b" and v.lanes > 1:
            return self.dialect.vector(_SIGNED[v.width], v.lanes)
        return self.dialect.vector(self.dialect.value_type(v.dtype), v.lanes)

    def define(self, text: str, d: dtype, lanes: int, level: int, width: int = 0,
               volatile: bool = False) -> Val:
        """A new variable holding `text`, at `level`."""
        v = Val(self.fresh(), d, lanes, width, level, volatile)
        self.line(f"const {self.ctype(v)} {v.text} = {text};", level)
        return v

    def varies(self, e: Expr) -> bool:
        """Whether `e` differs between the lanes of the vector axis."""
        if self.lanes == 1:
            return False
        found = self._varying.get(e)
        if found is None:
            found = any(
                (x.op == "index" and x.value == self.vaxis)
                or (x.op == "ref" and self.refs[x.value].lanes > 1) for x in walk([e]))
            self._varying[e] = found
        return found

    def value(self, e: Expr, flat: bool = False) -> Val:
        """The value of `e`, printed if need be. flat: of lane 0 only (for addresses)."""
        flat = flat and self.varies(e)
        stack = [e]
        while True:
            found = self._known(e, flat)
            if found is not None:
                return found
            x = stack[-1]
            if self._known(x, flat and self.varies(x)) is not None:
                stack.pop()
                continue
            args = () if x.op == "load" else x.args[::2] if x in self._rare else x.args
            todo = [a for a in args if self._known(a, flat and self.varies(a)) is None]
            if todo:
                stack.extend(todo)
                continue
            stack.pop()
            inner = flat and self.varies(x)
            self._remember(x, inner, self._print(x, inner))

    def _known(self, e: Expr, flat: bool) -> Val | None:
        if e.op == "const":
            assert e.dtype is not None
            return Val(literal(e.value, e.dtype), e.dtype)
        if e.op == "ref":
            return self.refs[e.value]
        if e.op == "index":
            text, level = self.axes[e.value]
            if self.lanes == 1 or e.value != self.vaxis or flat:
                return Val(text, dt.int64, level=level)
        key = (e, flat)
        for scope in reversed(self.scopes):
            v = scope.memo.get(key)
            if v is not None:
                return v
        return self._volatile_memo.get(key)

    def _remember(self, e: Expr, flat: bool, v: Val) -> None:
        if v.volatile:
            self._volatile_memo[e, flat] = v
        else:
            self.scopes[v.level].memo[e, flat] = v

    def _print(self, e: Expr, flat: bool) -> Val:
        if e.op == "param":
            return Val(f"p{e.value}", dt.int64)
        if e.op == "scalar":
            return Val(f"s{e.value}", of(e))
        if e.op == "index":  # the vector axis, as a vector
            text, level = self.axes[e.value]
            iota = ", ".join(str(k) for k in range(self.lanes))
            vector = self.dialect.vector("long", self.lanes)
            return self.define(f"({vector})({text}) + ({vector})({iota})", dt.int64, self.lanes,
                               level)
        if e.op == "load":
            return self._load(e, flat)
        if e in self._rare:
            return self._branch(e, flat)
        args = [self._known(a, flat and self.varies(a)) for a in e.args]
        return self._apply(e, args)  # type: ignore[arg-type]

    def _branch(self, e: Expr, flat: bool) -> Val:
        """A select whose first choice is long and seldom needed: skipped if no lane takes it."""
        condition, other = self.value(e.args[0], flat), self.value(e.args[2], flat)
        d = e.dtype
        assert d is not None
        lanes = self.lanes if self.varies(e) and not flat else 1
        v = Val(self.fresh(), d, lanes, 0, self.level,
                condition.volatile or other.volatile)
        self.line(f"{self.ctype(v)} {v.text} = {self.vec(other, lanes)};")
        self.open(f"if ({helpers.any_lane(self, condition)})")
        self._branches.append((self._rare[e], self.level))
        first = self.value(e.args[1], flat)
        self._branches.pop()
        choice, _ = helpers.select(self, [condition, first, v], d, lanes)
        self.line(f"{v.text} = {choice};")
        self.close()
        return v

    def _home(self, e: Expr) -> int:
        """The outermost level at which `e` may be computed: what only a branch needs stays
        inside it, although its operands are known outside."""
        return next((level for alone, level in reversed(self._branches) if e in alone), 0)

    def _apply(self, e: Expr, args: list[Val]) -> Val:
        lanes = max(a.lanes for a in args)
        level = max(self._home(e), *(a.level for a in args))
        volatile = any(a.volatile for a in args)
        d = e.dtype
        assert d is not None
        if lanes == 1 and is_index(e, self._pure):
            text = _index_arithmetic(e, [a.text for a in args])
            v = Val(self.fresh("i"), d, 1, 0, level, volatile)
            self.line(f"const {self.index_type} {v.text} = {text};", level)
            return v
        text, width = helpers.apply(self, e, args, d, lanes)
        return self.define(text, d, lanes, level, width, volatile)

    def vec(self, v: Val, lanes: int | None = None) -> str:
        """The text of `v` with all lanes of the block."""
        n = self.lanes if lanes is None else lanes
        if v.lanes == n:
            return v.text
        if v.dtype.kind == "b":
            return f"({self.dialect.vector('int', n)})(-({v.text}))"
        return f"({self.dialect.vector(self.dialect.value_type(v.dtype), n)})({v.text})"

    def mask(self, v: Val, width: int, lanes: int | None = None) -> str:
        """A bool as a mask (0 or -1) of `width` bytes a lane."""
        n = self.lanes if lanes is None else lanes
        if n == 1:
            return v.text
        if v.lanes == 1:
            return f"({self.dialect.vector(_SIGNED[width], n)})(-({v.text}))"
        if v.width == width:
            return v.text
        return self.dialect.convert(_SIGNED[width], n, v.text)

    # -- memory -----------------------------------------------------------------------------------

    def stride(self, e: Expr) -> Expr | None:
        """Step of index `e` along the vector axis: None if it is not affine."""
        assert self.vaxis is not None
        if any(x.op == "ref" and self.refs[x.value].lanes > 1 for x in walk([e])):
            return None  # every lane has its own result
        return coefficient(e, self.vaxis)

    def _load(self, e: Expr, flat: bool) -> Val:
        slot, d = e.value, of(e)
        volatile = slot in self.written
        if not self.varies(e) or flat:
            return self._scalar_load(e, volatile, flat)
        mask = self.value(e.args[1]) if len(e.args) > 1 else None
        other = self.value(e.args[2]) if len(e.args) > 1 else None
        step = self.stride(e.args[0])
        if step is not None and is_const(step, 1):
            return self._row_load(e, mask, other, volatile)
        at = self._lane_addresses(e.args[0], step)
        ctype = self.dialect.value_type(d) if d.kind != "b" else "char"
        parts = []
        for k in range(self.lanes):
            one = helpers.load_one(self, slot, d, at[k])
            one = f"-{one}" if d.kind == "b" else one
            if mask is not None and other is not None:
                m = f"{mask.text}.s{LANE[k]}" if mask.lanes > 1 else mask.text
                o = f"{other.text}.s{LANE[k]}" if other.lanes > 1 else other.text
                if d.kind == "b" and other.lanes == 1:
                    o = f"-({o})"
                one = f"({m} ? ({ctype})({one}) : ({ctype})({o}))"
            parts.append(one)
        vals = self._address_vals(e.args[0], step)
        volatile = volatile or any(v.volatile for v in vals)
        level = self.level if mask is not None or volatile else max(v.level for v in vals)
        vector = self.dialect.vector(ctype, self.lanes)
        return self.define(f"({vector})({', '.join(parts)})", d, self.lanes, level,
                           1 if d.kind == "b" else 0, volatile)

    def _address_vals(self, index: Expr, step: Expr | None) -> list[Val]:
        assert self.vaxis is not None
        if step is None:
            return [self.value(index)]
        return [self.value(index, flat=True), self.value(step),
                Val("", dt.int64, level=self.axes[self.vaxis][1])]

    def _lane_addresses(self, index: Expr, step: Expr | None) -> list[str]:
        if step is None:
            v = self.value(index)
            return [f"{v.text}.s{LANE[k]}" for k in range(self.lanes)]
        base = self.value(index, flat=True).text
        if is_const(step, 0):
            return [base] * self.lanes
        by = self.value(step).text
        return [base if k == 0 else f"{base} + {k} * {by}" for k in range(self.lanes)]

    def _scalar_load(self, e: Expr, volatile: bool, flat: bool) -> Val:
        index, d = self.value(e.args[0], flat), of(e)
        text = helpers.load_one(self, e.value, d, index.text)
        level, spoiled = index.level, index.volatile
        if len(e.args) > 1:
            mask, other = self.value(e.args[1], flat), self.value(e.args[2], flat)
            ctype = self.dialect.value_type(d)
            text = f"({mask.text}) ? ({ctype})({text}) : ({ctype})({other.text})"
            level = max(level, mask.level, other.level)
            spoiled = spoiled or mask.volatile or other.volatile
        if volatile:
            level = self.level
        return self.define(text, d, 1, level, volatile=volatile or spoiled)

    def _row_load(self, e: Expr, mask: Val | None, other: Val | None, volatile: bool) -> Val:
        """Neighbouring elements in all lanes."""
        d = of(e)
        assert self.vaxis is not None
        base = self.value(e.args[0], flat=True)
        text, width = helpers.load_row(self, e.value, d, base.text)
        if mask is None or other is None:
            level = max(base.level, self.axes[self.vaxis][1])
            return self.define(text, d, self.lanes, self.level if volatile else level, width,
                               volatile)
        v = Val(self.fresh(), d, self.lanes, width, self.level, True)
        ctype = self.ctype(v)
        filler = self.mask(other, width) if d.kind == "b" else self.vec(other)
        self.line(f"{ctype} {v.text} = {filler};")
        if mask.lanes == 1:
            self.line(f"if ({mask.text}) {v.text} = {text};")
            return v
        self.line(f"if ({helpers.all_lanes(self, mask)}) {v.text} = {text};")
        self.line("else {")
        for k in range(self.lanes):
            one = helpers.load_one(self, e.value, d, f"{base.text} + {k}")
            one = f"-({one})" if d.kind == "b" else one
            self.line(f"  if ({mask.text}.s{LANE[k]}) {v.text}.s{LANE[k]} = {one};")
        self.line("}")
        return v

    def store(self, slot: int, index: Expr, value: Expr, mask: Expr | None,
              combine: Callable[[Val, Val], str] | None = None) -> None:
        """Print `buffer[index] = value`, or read-modify-write with `combine(old, new)`."""
        d = self.kernel.args[slot].dtype
        v = (helpers.stored(self, value, d) if self.lanes == 1 and combine is None
             else helpers.convert(self, self.value(value), d))
        m = self.value(mask) if mask is not None else None
        if self.lanes == 1:
            self._store_one(slot, d, self.value(index).text, v, m.text if m else None, combine)
        else:
            self._store_lanes(slot, d, index, v, m, combine)
        self.statement_done()

    def _store_one(self, slot: int, d: dtype, at: str, v: Val, mask: str | None,
                   combine: Callable[[Val, Val], str] | None) -> None:
        guard = f"if ({mask}) " if mask is not None else ""
        if combine is not None:
            old = Val(f"({helpers.load_one(self, slot, d, at)})", d)
            ctype = self.dialect.value_type(d)
            v = Val(f"(({ctype})({combine(old, v)}))", d)
        self.line(guard + helpers.store_one(self, slot, d, at, v.text))

    def _store_lanes(self, slot: int, d: dtype, index: Expr, v: Val, m: Val | None,
                     combine: Callable[[Val, Val], str] | None) -> None:
        step = self.stride(index)
        row = step is not None and is_const(step, 1)
        if row and combine is None and (m is None or m.lanes == 1):
            at = self.value(index, flat=True).text
            guard = f"if ({m.text}) " if m is not None else ""
            self.line(guard + helpers.store_row(self, slot, d, at, v))
            return
        places = self._lane_addresses(index, step)
        for k in range(self.lanes):
            one = v
            if v.lanes > 1:
                text = f"{v.text}.s{LANE[k]}"
                one = Val(f"({text} != 0)" if d.kind == "b" else text, d)
            mask = None if m is None else (
                f"{m.text}.s{LANE[k]}" if m.lanes > 1 else m.text)
            self._store_one(slot, d, places[k], one, mask, combine)


def of(e: Expr) -> dtype:
    """The dtype of a typed expression."""
    assert e.dtype is not None, f"untyped expression {e}"
    return e.dtype


RARE = 30  # nodes that only one side of a select needs, from which on it becomes a branch
MARKED = 8  # the same where the select is marked as one that rarely takes that side


def rare_branches(kernel: Kernel) -> dict[Expr, set[Expr]]:
    """Selects between numbers whose first choice is worth skipping, and what only it needs."""
    found: dict[Expr, set[Expr]] = {}
    for stage in kernel.stages:
        roots = [x for s in stage.body for x in statement_exprs(s)]
        nodes = walk(roots)
        for e in nodes:
            least = MARKED if e.value == "rare" else RARE
            if e.op == "select" and e.dtype is not None and e.dtype.kind == "f" and (
                    e.args[1].op != "const") and len(nodes) >= 2 * least:
                below = walk([e.args[1]])
                if len(below) >= least:
                    others = _reachable(roots, e)
                    alone = {x for x in below if x not in others}
                    if len(alone) >= least and not any(x.op == "ref" for x in below):
                        found[e] = alone
    return found


def _reachable(roots: Sequence[Expr], cut: Expr) -> set[Expr]:
    """Nodes under `roots` without going into the first choice of `cut`."""
    seen: set[Expr] = set()
    stack = list(roots)
    while stack:
        e = stack.pop()
        if e not in seen:
            seen.add(e)
            stack.extend(e.args[::2] if e is cut else e.args)
    return seen


def _index_arithmetic(e: Expr, a: list[str]) -> str:
    """Plain arithmetic on loop variables and sizes."""
    infix = {"add": "+", "sub": "-", "mul": "*"}.get(e.op)
    if infix:
        return f"{a[0]} {infix} {a[1]}"
    if e.op == "neg":
        return f"-({a[0]})"
    c = "/" if e.op == "idiv" else "%"
    if e.args[1].op == "const":
        return f"{a[0]} {c} {a[1]}" if e.args[1].value else "0"
    return f"({a[1]}) ? {a[0]} {c} {a[1]} : 0"


def signature(kernel: Kernel, dialect: Dialect, name: str, extra: Sequence[str]) -> str:
    """The entry point's head. Arguments: per slot a pointer and a byte offset, or a number; then
    the parameters p0, p1, ...; then the schedule's own integers `extra`."""
    parts = []
    for k, a in enumerate(kernel.args):
        if a.kind == "scalar":
            ctype = "float" if a.dtype is dt.float64 and not dialect.doubles else (
                dialect.types[a.dtype.name])
            parts.append(f"const {ctype} s{k}")
        else:
            const_ = "const " if a.kind == "in" else ""
            parts.append(f"{dialect.space}{const_}{dialect.types[a.dtype.name]} *b{k}")
            parts.append(f"const long o{k}")
    parts += [f"const long p{k}" for k in range(kernel.nparams)]
    parts += [f"const long {x}" for x in extra]
    return f"{dialect.kernel} {name}({', '.join(parts)})"


def pointers(kernel: Kernel, dialect: Dialect) -> list[str]:
    """Lines that move each pointer by its byte offset."""
    out = []
    for k, a in enumerate(kernel.args):
        if a.kind != "scalar":
            const_ = "const " if a.kind == "in" else ""
            ctype = dialect.types[a.dtype.name]
            out.append(f"b{k} = ({dialect.space}{const_}{ctype} *)"
                       f"(({dialect.space}{const_}char *)b{k} + o{k});")
    return out


def assemble(e: Emitter, name: str, extra: Sequence[str], attributes: str = "") -> str:
    """The complete source text of the kernel whose body is in the emitter's outermost block."""
    head = signature(e.kernel, e.dialect, name, extra)
    if attributes:
        first, _, rest = head.partition(" ")
        head = f"{first} {attributes} {rest}"
    body = pointers(e.kernel, e.dialect) + e.scopes[0].lines
    lines = [e.dialect.prelude, *e.helpers.values(), head + " {"]
    return "\n".join(lines + ["  " + x for x in body] + ["}"]) + "\n"
