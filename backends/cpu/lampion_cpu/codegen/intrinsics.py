"""One scalar-IR node to LLVM instructions, on one register or on U vectors.

`emit_node` is the whole vocabulary: leaves, arithmetic, comparison, bits, conversions and the
float functions with a machine instruction. Transcendental functions are expanded before
printing (`lampion.ir.math`). May import: lampion.base, lampion.ir, emit, types, memory.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.ir.expr import Expr

from . import memory, rare
from . import types as ty
from .emit import Emitter, Scope, Val
from .plan import is_rare

_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_BOOL = {"add": "or", "mul": "and", "maximum": "or", "minimum": "and", "and": "and", "or": "or",
         "xor": "xor", "sub": "xor"}
_FCMP = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_UNARY = {"sqrt": "llvm.sqrt", "floor": "llvm.floor", "ceil": "llvm.ceil", "trunc": "llvm.trunc",
          "round": "llvm.roundeven"}


def operands(em: Emitter, e: Expr) -> Sequence[Expr]:
    """The operands that must be emitted before `e` (loads address their own)."""
    if e.op == "load":
        return ()
    return (e.args[0], e.args[2]) if is_rare(e) else e.args


class Site:
    """Where and how wide a node is being written."""

    __slots__ = ("em", "scope", "vec", "width", "count")

    def __init__(self, em: Emitter, scope: Scope, vec: bool, width: int = 0) -> None:
        self.em, self.scope, self.vec = em, scope, vec
        self.width = width or (em.lanes.width if vec and em.lanes is not None else 1)
        self.count = em.lanes.count if vec and em.lanes is not None else 1

    def t(self, d: dtype) -> str:
        return ty.vec(ty.reg(d), self.width)

    def raw(self, t: str) -> str:
        return ty.vec(t, self.width)

    def suffix(self, d: dtype) -> str:
        s = ty.suffix(d)
        return s if self.width == 1 else f"v{self.width}{s}"

    def lit(self, value: object, d: dtype) -> str:
        text = ty.literal(value, d)
        return text if self.width == 1 else f"splat ({ty.reg(d)} {text})"

    def int_lit(self, value: int, bits: int) -> str:
        return str(value) if self.width == 1 else f"splat (i{bits} {value})"

    def put(self, text: str) -> str:
        return self.em.put(text, self.scope)

    def call(self, name: str, result: str, *given: tuple[str, str]) -> str:
        return self.em.intrinsic(name, result, given, self.scope)

    def get(self, e: Expr) -> tuple[str, ...]:
        v = self.em.value(e)
        assert e.dtype is not None
        return self.em.vectors(v, e.dtype) if self.vec else v.regs


def emit_node(em: Emitter, e: Expr, scope: Scope) -> Val:
    """Emit one node whose operands are emitted, into `scope`."""
    assert e.dtype is not None
    if e.op == "const":
        return Val((ty.literal(e.value, e.dtype),), False, scope)
    if e.op == "param":
        at = em.put(f"getelementptr i64, ptr %params, i64 {e.value}", em.root)
        return Val((em.put(f"load i64, ptr {at}, align 8", em.root),), False, scope)
    if e.op == "scalar":
        t = "double" if e.dtype.kind == "f" else "i64"
        at = em.put(f"getelementptr i64, ptr %args, i64 {e.value}", em.root)
        return Val((em.put(f"load {t}, ptr {at}, align 8", em.root),), False, scope)
    vec = em.varying(e)
    if e.op == "index":
        return _index(em, e, scope, vec)
    if e.op == "load":
        return memory.load(em, e, scope, vec)
    if is_rare(e):
        return rare.lazy_select(em, e, scope, vec)
    site = Site(em, scope, vec)
    parts = [site.get(a) for a in e.args]
    ds = [a.dtype for a in e.args]
    written = 1 if vec and em.alike(e) else site.count
    out = tuple(node(site, e, [p[u] for p in parts], ds)  # type: ignore[arg-type]
                for u in range(written))
    return Val(out * (site.count // written), vec, scope)


def _index(em: Emitter, e: Expr, scope: Scope, vec: bool) -> Val:
    lanes = em.lanes
    if lanes is None or e.value not in (lanes.axis, lanes.tile):
        return em.bound[("i", e.value)][1]
    along = e.value == lanes.axis
    first = em.splat(lanes.start if along else lanes.tile_start, "i64", scope)
    t = ty.vec("i64", lanes.width)
    out = []
    for u in range(lanes.count):
        lane, vector = (1, lanes.width if lanes.tile is None else 0) if along else (0, 1)
        steps = ", ".join(f"i64 {k * lane + u * vector}" for k in range(lanes.width))
        out.append(em.put(f"add {t} {first}, <{steps}>", scope))
    return Val(tuple(out), True, scope)


def node(s: Site, e: Expr, a: Sequence[str], ds: Sequence[dtype]) -> str:
    """One vector (or register) of the result of an intrinsic."""
    d = ds[0]
    if e.op in ("cast", "bitcast"):
        assert e.dtype is not None
        return (cast if e.op == "cast" else _bitcast)(s, a[0], d, e.dtype)
    if e.op == "select":
        return s.put(f"select {s.raw('i1')} {a[0]}, {s.t(ds[1])} {a[1]}, {s.t(ds[1])} {a[2]}")
    if e.op == "ldexp" and d in (dt.float32, dt.float64):
        return _ldexp(s, a[0], a[1], d, e.value)
    return apply(s, e.op, a, d)


def apply(s: Site, op: str, a: Sequence[str], d: dtype) -> str:
    """An intrinsic on operands of type `d`."""
    if op in _FCMP:
        return _compare(s, op, a, d)
    if d is dt.float16 or d is dt.bfloat16:
        wide = [cast(s, x, d, dt.float32) for x in a]
        return cast(s, _float(s, op, wide, dt.float32), dt.float32, d)
    if d.kind == "f":
        return _float(s, op, a, d)
    if d.kind == "b":
        if op == "not":
            return s.put(f"xor {s.t(d)} {a[0]}, {s.lit(1, d)}")
        if op not in _BOOL:
            raise ValueError(f"the intrinsic {op} is not defined on bool")
        return s.put(f"{_BOOL[op]} {s.t(d)} {a[0]}, {a[1]}")
    return _integer(s, op, a, d)


def _float(s: Site, op: str, a: Sequence[str], d: dtype) -> str:
    t = s.t(d)
    if op in _FLOAT:
        return s.put(f"{_FLOAT[op]} {t} {a[0]}, {a[1]}")
    if op == "neg":
        return s.put(f"fneg {t} {a[0]}")
    if op == "abs":
        return s.call(f"llvm.fabs.{s.suffix(d)}", t, (t, a[0]))
    if op == "fma":
        return s.call(f"llvm.fma.{s.suffix(d)}", t, (t, a[0]), (t, a[1]), (t, a[2]))
    if op in _UNARY:
        return s.call(f"{_UNARY[op]}.{s.suffix(d)}", t, (t, a[0]))
    if op == "rsqrt":
        root = s.call(f"llvm.sqrt.{s.suffix(d)}", t, (t, a[0]))
        return s.put(f"fdiv {t} {s.lit(1.0, d)}, {root}")
    if op in ("maximum", "minimum"):
        return nan_extreme(s, "ogt" if op == "maximum" else "olt", a, d)
    if op == "ldexp":
        return _ldexp(s, a[0], a[1], d, 3)
    if op == "fmod":
        name = "fmodf" if d is dt.float32 else "fmod"  # what frem becomes
        s.em.symbols[name] = _libm(name)
        return s.put(f"frem {t} {a[0]}, {a[1]}")
    raise ValueError(f"the intrinsic {op} has no instruction for {d.name}; expand it first")


def nan_extreme(s: Site, order: str, a: Sequence[str], d: dtype) -> str:
    """max or min of two floats in which NaN wins.

    `x > y ? x : y` is one machine instruction that gives y when unordered, so only a NaN in x
    is left to restore.
    """
    t, b = s.t(d), s.raw("i1")
    more = s.put(f"fcmp {order} {t} {a[0]}, {a[1]}")
    best = s.put(f"select {b} {more}, {t} {a[0]}, {t} {a[1]}")
    nan = s.put(f"fcmp uno {t} {a[0]}, {a[0]}")
    return s.put(f"select {b} {nan}, {t} {a[0]}, {t} {best}")


def _ldexp(s: Site, x: str, n: str, d: dtype, factors: int) -> str:
    """x * 2**n for integral n: one instruction with AVX-512, else by powers of two, of which
    only the last can make the product round (see `expr.ldexp`)."""
    t, w = s.t(d), s.width
    if s.em.masked_native:
        lanes = 512 // (8 * d.itemsize)
        kind = "ps" if d is dt.float32 else "pd"
        if w == lanes:
            return s.call(f"llvm.x86.avx512.mask.scalef.{kind}.512", t, (t, x), (t, n), (t, x),
                          (f"i{lanes}", "-1"), ("i32", "4"))
    bits = 8 * d.itemsize
    bias, shift = (127, 23) if bits == 32 else (1023, 52)
    reach = {4: 300.0, 8: 2200.0}[d.itemsize] if factors == 3 else factors * (bias - 1.0)
    n = _clamp(s, n, -reach, reach + (factors == 1), d)
    it = s.raw(f"i{bits}")
    parts, rest = [], n
    if factors > 1:
        share = s.put(f"fmul {t} {n}, {s.lit(1.0 / factors, d)}")
        part = s.call(f"llvm.trunc.{s.suffix(d)}", t, (t, share))
        for _ in range(factors - 1):
            parts.append(part)
            rest = s.put(f"fsub {t} {rest}, {part}")
    for k in [*parts, rest]:
        whole = s.put(f"fptosi {t} {k} to {it}")
        biased = s.put(f"add {it} {whole}, {s.int_lit(bias, bits)}")
        power = s.put(f"shl {it} {biased}, {s.int_lit(shift, bits)}")
        factor = s.put(f"bitcast {it} {power} to {t}")
        x = s.put(f"fmul {t} {x}, {factor}")
    return x


def _clamp(s: Site, x: str, low: float, high: float, d: dtype) -> str:
    """Clamp, NaN to `low` (so that a conversion to integers stays defined)."""
    t, b = s.t(d), s.raw("i1")
    above = s.put(f"fcmp ogt {t} {x}, {s.lit(low, d)}")
    x = s.put(f"select {b} {above}, {t} {x}, {t} {s.lit(low, d)}")
    below = s.put(f"fcmp olt {t} {x}, {s.lit(high, d)}")
    return s.put(f"select {b} {below}, {t} {x}, {t} {s.lit(high, d)}")


def _compare(s: Site, op: str, a: Sequence[str], d: dtype) -> str:
    if d is dt.float16 or d is dt.bfloat16:
        a, d = [cast(s, x, d, dt.float32) for x in a], dt.float32
    if d.kind == "f":
        return s.put(f"fcmp {_FCMP[op]} {s.t(d)} {a[0]}, {a[1]}")
    sign = "" if op in ("eq", "ne") else ("s" if d.kind == "i" else "u")
    return s.put(f"icmp {sign}{op} {s.t(d)} {a[0]}, {a[1]}")


def _integer(s: Site, op: str, a: Sequence[str], d: dtype) -> str:
    t, bits, signed = s.t(d), 8 * d.itemsize, d.kind == "i"
    if op in _INT:
        return s.put(f"{_INT[op]} {t} {a[0]}, {a[1]}")
    if op == "neg":
        return s.put(f"sub {t} {s.lit(0, d)}, {a[0]}")
    if op == "not":
        return s.put(f"xor {t} {a[0]}, {s.lit(-1, d)}")
    if op == "abs":
        return s.call(f"llvm.abs.{s.suffix(d)}", t, (t, a[0]), ("i1", "false")) if signed else a[0]
    if op in ("maximum", "minimum"):
        name = ("s" if signed else "u") + ("max" if op == "maximum" else "min")
        return s.call(f"llvm.{name}.{s.suffix(d)}", t, (t, a[0]), (t, a[1]))
    if op == "fma":
        return s.put(f"add {t} {s.put(f'mul {t} {a[0]}, {a[1]}')}, {a[2]}")
    if op in ("floor", "ceil", "trunc", "round"):
        return a[0]
    if op in ("idiv", "fmod"):
        return _divide(s, op, a, d)
    if op in ("shl", "shr"):
        return _shift(s, op, a, d)
    if op == "mulhi":
        wide = s.raw(f"i{2 * bits}")
        x, y = (s.put(f"zext {t} {v} to {wide}") for v in a)
        product = s.put(f"mul {wide} {x}, {y}")
        high = s.put(f"lshr {wide} {product}, {s.int_lit(bits, 2 * bits)}")
        return s.put(f"trunc {wide} {high} to {t}")
    raise ValueError(f"the intrinsic {op} has no instruction for {d.name}; expand it first")


def _divide(s: Site, op: str, a: Sequence[str], d: dtype) -> str:
    """Truncating division or its remainder; by 0 gives 0, and nothing traps.

    Up to 32 bits the quotient of doubles, truncated, is exact, and doubles have vector division.
    """
    t, b, bits, signed = s.t(d), s.raw("i1"), 8 * d.itemsize, d.kind == "i"
    zero = s.put(f"icmp eq {t} {a[1]}, {s.lit(0, d)}")
    safe = s.put(f"select {b} {zero}, {t} {s.lit(1, d)}, {t} {a[1]}")
    if bits <= 32 and s.width > 1:
        # 33 bits hold -2**31 / -1 as well as every unsigned quotient; i64 is the handy size
        dv, to, back = s.raw("double"), "si" if signed else "ui", s.raw("i64")
        x, y = (s.put(f"{to}tofp {t} {v} to {dv}") for v in (a[0], safe))
        wide = s.put(f"fptosi {dv} {s.put(f'fdiv {dv} {x}, {y}')} to {back}")
        quotient = s.put(f"trunc {back} {wide} to {t}")
    elif signed:
        flip = s.put(f"icmp eq {t} {a[1]}, {s.lit(-1, d)}")
        divisor = s.put(f"select {b} {flip}, {t} {s.lit(1, d)}, {t} {safe}")
        plain = s.put(f"sdiv {t} {a[0]}, {divisor}")
        negated = s.put(f"sub {t} {s.lit(0, d)}, {a[0]}")
        quotient = s.put(f"select {b} {flip}, {t} {negated}, {t} {plain}")
    else:
        quotient = s.put(f"udiv {t} {a[0]}, {safe}")
    if op == "fmod":
        quotient = s.put(f"sub {t} {a[0]}, {s.put(f'mul {t} {quotient}, {safe}')}")
    return s.put(f"select {b} {zero}, {t} {s.lit(0, d)}, {t} {quotient}")


def _shift(s: Site, op: str, a: Sequence[str], d: dtype) -> str:
    t, b, bits = s.t(d), s.raw("i1"), 8 * d.itemsize
    if a[1].startswith("splat (") or a[1].lstrip("-").isdigit():
        amount = int(a[1].rstrip(")").split()[-1])
        if 0 <= amount < bits:
            name = {"shl": "shl", "shr": "ashr" if d.kind == "i" else "lshr"}[op]
            return s.put(f"{name} {t} {a[0]}, {a[1]}")
    inside = s.put(f"icmp ult {t} {a[1]}, {s.lit(bits, d)}")
    if op == "shr" and d.kind == "i":
        amount_ = s.put(f"select {b} {inside}, {t} {a[1]}, {t} {s.lit(bits - 1, d)}")
        return s.put(f"ashr {t} {a[0]}, {amount_}")
    amount_ = s.put(f"select {b} {inside}, {t} {a[1]}, {t} {s.lit(0, d)}")
    moved = s.put(f"{'shl' if op == 'shl' else 'lshr'} {t} {a[0]}, {amount_}")
    return s.put(f"select {b} {inside}, {t} {moved}, {t} {s.lit(0, d)}")


def _bitcast(s: Site, x: str, src: dtype, dst: dtype) -> str:
    a, b = s.t(src), s.t(dst)
    return x if a == b else s.put(f"bitcast {a} {x} to {b}")


def cast(s: Site, x: str, src: dtype, dst: dtype) -> str:
    """Convert a value. Float to integer saturates and sends NaN to 0."""
    if src is dst:
        return x
    a, b = s.t(src), s.t(dst)
    if src is dt.bfloat16:
        wide = s.put(f"zext {a} {x} to {s.raw('i32')}")
        moved = s.put(f"shl {s.raw('i32')} {wide}, {s.int_lit(16, 32)}")
        x = s.put(f"bitcast {s.raw('i32')} {moved} to {s.raw('float')}")
        return cast(s, x, dt.float32, dst)
    if src is dt.float16:
        x = s.put(f"fpext {a} {x} to {s.raw('float')}")
        return cast(s, x, dt.float32, dst)
    if dst.kind == "b":
        if src.kind == "f":
            return s.put(f"fcmp une {a} {x}, {s.lit(0.0, src)}")
        return s.put(f"icmp ne {a} {x}, {s.lit(0, src)}")
    if dst is dt.float16:
        x = cast(s, x, src, dt.float32)
        return s.put(f"fptrunc {s.raw('float')} {x} to {b}")
    if dst is dt.bfloat16:
        return _to_bfloat16(s, cast(s, x, src, dt.float32))
    if dst.kind == "f":
        if src.kind == "f":
            word = "fpext" if dst.itemsize > src.itemsize else "fptrunc"
        else:
            word = "sitofp" if src.kind == "i" else "uitofp"
        return s.put(f"{word} {a} {x} to {b}")
    if src.kind == "f":
        return _to_integer(s, x, src, dst)
    if src.kind == "b" or dst.itemsize > src.itemsize:
        return s.put(f"{'sext' if src.kind == 'i' else 'zext'} {a} {x} to {b}")
    return x if dst.itemsize == src.itemsize else s.put(f"trunc {a} {x} to {b}")


def _to_integer(s: Site, x: str, src: dtype, dst: dtype) -> str:
    """Float to integer, NaN to 0, saturating: clamped as a float, so that the conversion cannot
    overflow (8 and 16 bits go through int32). LLVM's own saturating conversion takes vectors
    apart."""
    via = dst if dst.itemsize >= 4 else dt.int32
    digits = 8 * dst.itemsize - (dst.kind == "i")
    precision = 24 if src is dt.float32 else 53
    low, beyond = (-(2.0**digits) if dst.kind == "i" else 0.0), 2.0**digits
    # the largest float below 2**digits is the largest integer if the float has that many digits
    high = beyond - 2.0 ** max(0, digits - precision)
    t, b = s.t(src), s.raw("i1")
    number = s.put(f"fcmp ord {t} {x}, {x}")
    x = s.put(f"select {b} {number}, {t} {x}, {t} {s.lit(0.0, src)}")
    word = "fptosi" if via.kind == "i" else "fptoui"
    whole = s.put(f"{word} {t} {_clamp(s, x, low, high, src)} to {s.t(via)}")
    if digits > precision:
        over = s.put(f"fcmp oge {t} {x}, {s.lit(beyond, src)}")
        most = s.lit(2**digits - 1, via)
        whole = s.put(f"select {b} {over}, {s.t(via)} {most}, {s.t(via)} {whole}")
    return whole if via is dst else s.put(f"trunc {s.t(via)} {whole} to {s.t(dst)}")


def _to_bfloat16(s: Site, x: str) -> str:
    """Round to nearest even on the bits; NaN stays NaN (quiet)."""
    i, f, b = s.raw("i32"), s.raw("float"), s.raw("i1")
    bits = s.put(f"bitcast {f} {x} to {i}")
    top = s.put(f"lshr {i} {bits}, {s.int_lit(16, 32)}")
    odd = s.put(f"and {i} {top}, {s.int_lit(1, 32)}")
    bump = s.put(f"add {i} {odd}, {s.int_lit(0x7FFF, 32)}")
    rounded = s.put(f"lshr {i} {s.put(f'add {i} {bits}, {bump}')}, {s.int_lit(16, 32)}")
    nan = s.put(f"fcmp uno {f} {x}, {x}")
    quiet = s.put(f"or {i} {top}, {s.int_lit(0x40, 32)}")
    chosen = s.put(f"select {b} {nan}, {i} {quiet}, {i} {rounded}")
    return s.put(f"trunc {i} {chosen} to {s.raw('i16')}")


COMBINE: dict[str, str] = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum",
                           "and": "and", "or": "or"}


def combine(em: Emitter, op: str, a: str, b: str, d: dtype, width: int) -> str:
    """`a op b` of a reduction, on `width` lanes, in the current scope."""
    return apply(Site(em, em.here, False, width), COMBINE[op], (a, b), d)


_math: ctypes.CDLL | None = None


def _libm(name: str) -> int:
    """Address of a C math library function."""
    global _math
    if _math is None:
        found = ctypes.util.find_library("m")
        _math = ctypes.CDLL(found) if found else ctypes.CDLL(None)
    address = ctypes.cast(getattr(_math, name), ctypes.c_void_p).value
    assert address is not None
    return address
