"""How each intrinsic, conversion and memory access is written in C-family text.

Floor 1; imports base and expr. Used by `cfamily.Emitter` only. `apply` dispatches on the
intrinsic; every rule works for one value and for a vector of lanes. A bool vector is a mask of
0 / -1 lanes; what needs several statements becomes an inline helper function, included on demand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..base import dtype as dt
from ..base.dtype import dtype
from .expr import Expr

if TYPE_CHECKING:
    from .cfamily import Emitter, Val

LANE = "0123456789abcdef"
SIGNED = {1: "char", 2: "short", 4: "int", 8: "long"}
UNSIGNED = {1: "uchar", 2: "ushort", 4: "uint", 8: "ulong"}
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*"}
_COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_BITS = {"and": "&", "or": "|", "xor": "^"}


def is_half(d: dtype) -> bool:
    """A 16-bit float: computed in float, rounded after each operation."""
    return d.kind == "f" and d.itemsize == 2


def register_size(d: dtype) -> int:
    """Bytes of a value in a register."""
    return 4 if is_half(d) else d.itemsize


def apply(e: Emitter, x: Expr, args: list[Val], d: dtype, lanes: int) -> tuple[str, int]:
    """The text of intrinsic `x` on printed operands, and the mask width if it is a bool vector."""
    op = x.op
    if op == "cast":
        v = convert(e, args[0], d)
        return v.text, v.width
    if op == "bitcast":
        return bitcast(e, args[0], d), 0
    if op == "select":
        return select(e, args, d, lanes)
    if op in _COMPARE:
        return _compare(e, op, args, lanes)
    if d.kind == "b":
        return _logic(e, op, args, lanes)
    if op == "ldexp" and e.dialect.inline_rounding:
        helper = _ldexp(e, e.dialect.value_type(d), lanes, x.value)
        text = f"{helper}({', '.join(e.vec(a, lanes) for a in args)})"
    else:
        text = _float(e, op, args, d, lanes) if d.kind == "f" else _integer(e, op, args, d, lanes)
    if is_half(d) and op not in ("neg", "abs", "maximum", "minimum"):
        text = round_half(e, text, d, lanes)
    return text, 0


def _compare(e: Emitter, op: str, args: list[Val], lanes: int) -> tuple[str, int]:
    if args[0].dtype.kind == "b" and lanes > 1:
        width = max(a.width for a in args) or 4
        a, b = (e.mask(v, width, lanes) for v in args)
        text = {"eq": f"~({a} ^ {b})", "ne": f"{a} ^ {b}", "lt": f"~{a} & {b}",
                "gt": f"{a} & ~{b}", "le": f"~{a} | {b}", "ge": f"{a} | ~{b}"}[op]
        return text, width
    a, b = (e.vec(v, lanes) for v in args)
    return f"{a} {_COMPARE[op]} {b}", register_size(args[0].dtype) if lanes > 1 else 0


def _logic(e: Emitter, op: str, args: list[Val], lanes: int) -> tuple[str, int]:
    """Operations on bool operands with a bool result."""
    op = {"add": "or", "maximum": "or", "mul": "and", "minimum": "and", "sub": "xor"}.get(op, op)
    width = (max(a.width for a in args) or 4) if lanes > 1 else 0
    v = [e.mask(a, width, lanes) for a in args]
    if op == "not":
        return (f"~{v[0]}" if lanes > 1 else f"!{v[0]}"), width
    if op not in _BITS:
        raise TypeError(f"the intrinsic {op!r} is not defined on bool")
    return f"{v[0]} {_BITS[op]} {v[1]}", width


def select(e: Emitter, args: list[Val], d: dtype, lanes: int) -> tuple[str, int]:
    """condition ? a : b, and the mask width if these are bool vectors."""
    c, a, b = args
    if d.kind == "b" and lanes > 1:
        width = max(v.width for v in args) or 4
        m = e.mask(c, width, lanes)
        return f"({m} & {e.mask(a, width, lanes)}) | (~{m} & {e.mask(b, width, lanes)})", width
    condition = c.text if c.lanes == 1 else e.mask(c, register_size(d), lanes)
    return f"{condition} ? {e.vec(a, lanes)} : {e.vec(b, lanes)}", 0


# -- floating point -------------------------------------------------------------------------------


def _float(e: Emitter, op: str, args: list[Val], d: dtype, lanes: int) -> str:
    v = [e.vec(a, lanes) for a in args]
    if op in _ARITHMETIC:
        return f"{v[0]} {_ARITHMETIC[op]} {v[1]}"
    if op == "div":
        return f"{v[0]} / {v[1]}"
    if op == "neg":
        return f"-{v[0]}"
    if op in ("maximum", "minimum"):
        if lanes == 1 and d.itemsize <= 4 and op in e.dialect.extremes:
            return f"{e.dialect.extremes[op]}({v[0]}, {v[1]})"
        c = ">" if op == "maximum" else "<"
        return f"({v[0]} != {v[0]}) ? {v[0]} : (({v[0]} {c} {v[1]}) ? {v[0]} : {v[1]})"
    ctype = e.dialect.value_type(d)
    if op == "abs":
        return _without_sign(e, v[0], ctype, lanes)
    if e.dialect.inline_rounding and op in ("floor", "ceil", "trunc", "round"):
        return f"{_float_helper(e, op, ctype, lanes)}({', '.join(v)})"
    if op == "fma" and e.dialect.inline_fma:
        return f"{_float_helper(e, op, ctype, lanes)}({', '.join(v)})"
    if op == "ldexp":
        return _call(e, "ldexp", ctype, lanes,
                     [v[0], e.dialect.convert("int", lanes, v[1])], "int")
    if op == "rsqrt" and e.dialect.inline_rounding:
        one = f"({e.dialect.vector(ctype, lanes)})(1)"
        return f"{one} / {_call(e, 'sqrt', ctype, lanes, v)}"
    name = e.dialect.call(op, d)
    if name is None:
        raise TypeError(f"{e.dialect.name} has no function for the intrinsic {op!r} on {d.name}")
    return _call(e, name, ctype, lanes, v)


def _call(e: Emitter, name: str, ctype: str, lanes: int, args: list[str],
          second: str | None = None) -> str:
    """A library call, in pieces no wider than the library takes."""
    size = 8 if ctype in ("double", "long", "ulong") else 4
    step = max(1, e.dialect.call_bytes // size)
    if lanes <= step:
        return f"{name}({', '.join(args)})"
    vector = e.dialect.vector(ctype, lanes)
    types = [vector] + [e.dialect.vector(second or ctype, lanes)] * (len(args) - 1)
    helper = f"lanes_{name}_{vector}"
    names = "abc"[:len(args)]
    pieces = []
    for k in range(0, lanes, step):
        part = "".join(LANE[k:k + step])
        pieces.append(f"{name}({', '.join(f'{n}.s{part}' for n in names)})")
    params = ", ".join(f"{t} {n}" for t, n in zip(types, names))
    e.need(helper, f"{INLINE} {vector} {helper}({params}) {{\n"
                   f"  return ({vector})({', '.join(pieces)});\n}}")
    return f"{helper}({', '.join(args)})"


INLINE = "static inline __attribute__((always_inline))"


def _types(e: Emitter, ctype: str, lanes: int) -> dict[str, str]:
    size = 8 if ctype == "double" else 4
    v = e.dialect.vector
    return {"T": v(ctype, lanes), "U": v(UNSIGNED[size], lanes), "I": v(SIGNED[size], lanes),
            "sign": "0x8000000000000000ul" if size == 8 else "0x80000000u",
            "big": "0x1p52" if size == 8 else "0x1p23f", "mantissa": "52" if size == 8 else "23",
            "bias": "1023" if size == 8 else "127"}


def _without_sign(e: Emitter, text: str, ctype: str, lanes: int) -> str:
    t = _types(e, ctype, lanes)
    bits = e.dialect.bits
    return bits(t["T"], f"{bits(t['U'], text)} & ~({t['U']}){t['sign']}")


# {native}: one instruction where the compiler has a builtin for vectors (its library may not)
_ROUND = """{inline} {T} {name}({T} x) {{
{native}  const {U} s = {ux} & ({U}){sign};
  const {T} a = {abs};
  {T} r = (a + ({T}){big}) - ({T}){big};
{fix}  r = {tr};
  return a < ({T}){big} ? r : x;
{end}}}"""
# floor and ceil work on the signed value, so the sign goes on first
_FLOOR = """{inline} {T} {name}({T} x) {{
{native}  const {U} s = {ux} & ({U}){sign};
  const {T} a = {abs};
  {T} r = (a + ({T}){big}) - ({T}){big};
  r = {tr};
  r = r {cmp} x ? r {step} ({T})1 : r;
  r = {keep};
  return a < ({T}){big} ? r : x;
{end}}}"""
_FMA = """{inline} {T} {name}({T} a, {T} b, {T} c) {{
  {contract}
  return a * b + c;
}}"""
# x * 2^n by one to three exact powers of two (see `expr.ldexp`); three reach from the largest
# number to the least
_POWERS = {1: """  return x * {n};
""", 2: """  const {I} h = n >> 1;
  return x * {h} * {n_h};
""", 3: """  const {I} h = {third};
  const {T} p = {h};
  return x * p * p * {n_2h};
"""}
_CLAMP = """  nf = nf > ({T}){reach} ? ({T}){reach} : nf;
  nf = nf < ({T})-{reach} ? ({T})-{reach} : nf;
"""


def _ldexp(e: Emitter, ctype: str, lanes: int, factors: int) -> str:
    t = _types(e, ctype, lanes)
    name = f"ldexp{factors}_{t['T']}"
    scalar_i = SIGNED[8 if ctype == "double" else 4]

    def power(m: str) -> str:
        return e.dialect.bits(t["T"], "(({I}){bias} + {m}) << {mantissa}".format(m=m, **t))

    third = e.dialect.convert(scalar_i, lanes, "nf * ({T})0.333333333333f".format(**t))
    body = _CLAMP.format(reach="2200" if ctype == "double" else "300", **t) if factors == 3 else ""
    if e.dialect.scale and lanes > 1:  # one instruction where the prelude knows it
        native = f"{e.dialect.scale}_{t['T']}"
        body += f"#ifdef {native}\n  return {native}(x, nf);\n#else\n"
    body += f"  const {t['I']} n = {e.dialect.convert(scalar_i, lanes, 'nf')};\n"
    body += _POWERS[factors].format(n=power("n"), h=power("h"), n_h=power("(n - h)"),
                                    n_2h=power("(n - 2 * h)"), third=third, **t)
    if e.dialect.scale and lanes > 1:
        body += "#endif\n"
    return e.need(name, f"{INLINE} {t['T']} {name}({t['T']} x, {t['T']} nf) {{\n{body}}}")


def _float_helper(e: Emitter, op: str, ctype: str, lanes: int) -> str:
    t = _types(e, ctype, lanes)
    name = f"{op}_{t['T']}"
    if name in e.helpers:
        return name
    bits = e.dialect.bits
    common = {"inline": INLINE, "name": name, **t, "ux": bits(t["U"], "x"),
              "abs": bits(t["T"], f"{bits(t['U'], 'x')} & ~({t['U']}){t['sign']}"),
              "tr": bits(t["T"], f"{bits(t['U'], 'r')} | s"), "keep": bits(
                  t["T"], f"({bits(t['U'], 'r')} & ~({t['U']}){t['sign']}) | s"),
              "contract": e.dialect.contract_on, "native": "", "end": ""}
    builtin = e.dialect.vector_builtins.get(op)
    if builtin:
        common["native"] = f"#if HAS({builtin})\n  return {builtin}(x);\n#else\n"
        common["end"] = "#endif\n"
    if op in ("round", "trunc"):
        fix = "" if op == "round" else f"  r = r > a ? r - ({t['T']})1 : r;\n"
        return e.need(name, _ROUND.format(fix=fix, **common))
    if op in ("floor", "ceil"):
        down = op == "floor"
        # floor of a small positive or ceil of a small negative number is a zero of x's sign
        keep = common["keep"] if not down else "r"
        text = _FLOOR.format(**{**common, "keep": keep}, cmp=">" if down else "<",
                             step="-" if down else "+")
        return e.need(name, text)
    return e.need(name, _FMA.format(**common))


# -- integers -------------------------------------------------------------------------------------


def _integer(e: Emitter, op: str, args: list[Val], d: dtype, lanes: int) -> str:
    v = [e.vec(a, lanes) for a in args]
    size = d.itemsize
    vec = e.dialect.vector
    t, u = vec(e.dialect.types[d.name], lanes), vec(UNSIGNED[size], lanes)
    if op in _BITS:
        return _narrow(f"{v[0]} {_BITS[op]} {v[1]}", t, lanes)
    if op == "not":
        return _narrow(f"~{v[0]}", t, lanes)
    if op in _ARITHMETIC or op == "neg":
        return _wrapping(e, op, v, d, t, u, lanes)
    if op in ("maximum", "minimum"):
        return f"({v[0]} {'>' if op == 'maximum' else '<'} {v[1]}) ? {v[0]} : {v[1]}"
    if op == "abs":
        if d.kind == "u":
            return v[0]
        negative = _wrapping(e, "neg", v, d, t, u, lanes)
        return f"({v[0]} < ({t})0) ? {negative} : {v[0]}"
    if op in ("floor", "ceil", "trunc", "round"):
        return v[0]
    if op == "fma":
        product = _wrapping(e, "mul", v[:2], d, t, u, lanes)
        return _wrapping(e, "add", [f"({product})", v[2]], d, t, u, lanes)
    makers: dict[str, Callable[..., str]] = {
        "idiv": _division, "fmod": _division, "shl": _shift, "shr": _shift, "mulhi": _mulhi,
        "pow": _power}
    if op not in makers:
        raise TypeError(f"the intrinsic {op!r} is not defined on {d.name}")
    return f"{makers[op](e, op, d, t, u, lanes)}({', '.join(v)})"


def _narrow(text: str, t: str, lanes: int) -> str:
    """C computes small integers as int: cut back to the type."""
    return f"({t})({text})" if lanes == 1 else text


def _wrapping(e: Emitter, op: str, v: list[str], d: dtype, t: str, u: str, lanes: int) -> str:
    """Arithmetic modulo 2^n: signed overflow would be undefined, so it is done unsigned."""
    bits = e.dialect.bits
    w = [bits(u, x) for x in v] if d.kind == "i" else v
    if op == "neg":
        text = f"({u})0 - {w[0]}"
    elif lanes == 1 and d.itemsize < 4:
        text = f"1u * {w[0]} {_ARITHMETIC[op]} {w[1]}"
    else:
        text = f"{w[0]} {_ARITHMETIC[op]} {w[1]}"
    return bits(t, f"({u})({text})") if d.kind == "i" else _narrow(text, t, lanes)


def _division(e: Emitter, op: str, d: dtype, t: str, u: str, lanes: int) -> str:
    """By 0 gives 0; the least integer by -1 wraps. Neither may trap."""
    name = f"{op}_{t}"
    c = "/" if op == "idiv" else "%"
    m = e.dialect.vector(SIGNED[d.itemsize], lanes) if lanes > 1 else "int"
    if d.kind == "u":
        body = f"  const {m} z = b == ({t})0;\n  return z ? ({t})0 : a {c} (z ? ({t})1 : b);"
    else:
        negative = _wrapping(e, "neg", ["a"], d, t, u, lanes)
        other = negative if op == "idiv" else f"({t})0"
        body = (f"  const {m} z = b == ({t})0;\n  const {m} m = b == ({t})-1;\n"
                f"  const {t} q = {_narrow(f'a {c} ((z | m) ? ({t})1 : b)', t, lanes)};\n"
                f"  return z ? ({t})0 : (m ? {other} : q);")
    return e.need(name, f"{INLINE} {t} {name}({t} a, {t} b) {{\n{body}\n}}")


def _shift(e: Emitter, op: str, d: dtype, t: str, u: str, lanes: int) -> str:
    """Counts at or beyond the width give 0, or the sign for a signed right shift."""
    name = f"{op}_{t}"
    bits = e.dialect.bits
    n = 8 * d.itemsize
    count = bits(u, "b") if d.kind == "i" else "b"
    ok = f"{count} < ({u}){n}"
    safe = _narrow(f"(b & ({t}){n - 1})", t, lanes)
    if op == "shl":
        a = bits(u, "a") if d.kind == "i" else "a"
        moved = f"({u})({a} << {bits(u, safe) if d.kind == 'i' else safe})"
        moved = bits(t, moved) if d.kind == "i" else moved
        rest = f"({t})0"
    else:
        moved = _narrow(f"a >> {safe}", t, lanes)
        rest = _narrow(f"a >> ({t}){n - 1}", t, lanes) if d.kind == "i" else f"({t})0"
    return e.need(name, f"{INLINE} {t} {name}({t} a, {t} b) {{\n"
                        f"  return ({ok}) ? {moved} : {rest};\n}}")


def _mulhi(e: Emitter, op: str, d: dtype, t: str, u: str, lanes: int) -> str:
    name = f"mulhi_{t}"
    bits, convert_ = e.dialect.bits, e.dialect.convert
    a, b = (bits(u, x) if d.kind == "i" else x for x in "ab")
    if d.itemsize == 8:
        low = f"({u})0xffffffffu"
        body = (f"  const {u} x = {a}, y = {b};\n"
                f"  const {u} xl = x & {low}, xh = x >> ({u})32, yl = y & {low}, "
                f"yh = y >> ({u})32;\n"
                f"  const {u} mid = xh * yl + ((xl * yl) >> ({u})32);\n"
                f"  const {u} mid2 = xl * yh + (mid & {low});\n"
                f"  const {u} r = xh * yh + (mid >> ({u})32) + (mid2 >> ({u})32);\n")
    else:
        wide = UNSIGNED[2 * d.itemsize]
        w = e.dialect.vector(wide, lanes)
        product = (f"{convert_(wide, lanes, a)} * {convert_(wide, lanes, b)}"
                   if lanes > 1 or d.itemsize == 4 else f"(uint)({a}) * (uint)({b})")
        shifted = f"({product}) >> ({w}){8 * d.itemsize}"
        if lanes == 1 and d.itemsize < 4:
            shifted = f"({product}) >> {8 * d.itemsize}"
        body = f"  const {u} r = {convert_(UNSIGNED[d.itemsize], lanes, shifted)};\n"
    result = bits(t, "r") if d.kind == "i" else "r"
    return e.need(name, f"{INLINE} {t} {name}({t} a, {t} b) {{\n{body}  return {result};\n}}")


def _power(e: Emitter, op: str, d: dtype, t: str, u: str, lanes: int) -> str:
    """By squaring; a negative exponent gives the truncated reciprocal."""
    scalar_t, scalar_u = e.dialect.types[d.name], UNSIGNED[d.itemsize]
    one = f"pow_{scalar_t}"
    bits = e.dialect.bits
    mul = (lambda x, y: bits(scalar_t, f"({scalar_u})(1u * {bits(scalar_u, x)} * "
                                       f"{bits(scalar_u, y)})")) if d.kind == "i" else (
        lambda x, y: f"({scalar_t})(1u * {x} * {y})")
    odd = f"  if (n < 0) return a == 1 ? ({scalar_t})1 : a == -1 ? ({scalar_t})" \
          f"((n & 1) ? -1 : 1) : ({scalar_t})0;\n" if d.kind == "i" else ""
    e.need(one, f"{INLINE} {scalar_t} {one}({scalar_t} a, {scalar_t} n) {{\n{odd}"
                f"  {scalar_t} r = 1;\n  while (n) {{\n    if (n & 1) r = {mul('r', 'a')};\n"
                f"    a = {mul('a', 'a')};\n    n >>= 1;\n  }}\n  return r;\n}}")
    if lanes == 1:
        return one
    name = f"pow_{t}"
    parts = ", ".join(f"{one}(a.s{LANE[k]}, b.s{LANE[k]})" for k in range(lanes))
    return e.need(name, f"{INLINE} {t} {name}({t} a, {t} b) {{\n  return ({t})({parts});\n}}")


# -- conversion -----------------------------------------------------------------------------------


def convert(e: Emitter, v: Val, d: dtype) -> Val:
    """`v` as dtype `d`, as an expression (not yet a variable)."""
    src = v.dtype
    if src is d:
        return v
    text, width = _convert(e, v, src, d)
    return v._replace(text=f"({text})", dtype=d, width=width)


def stored(e: Emitter, value: Expr, d: dtype) -> Val:
    """An expression that is about to be written as dtype `d`. A float32 that becomes a 16-bit float
    is left as it is, for writing rounds it."""
    if is_half(d):
        if value.op == "cast" and value.dtype is d and value.args[0].dtype is dt.float32:
            value = value.args[0]
        if value.dtype is dt.float32:
            return e.value(value)._replace(dtype=d)
    return convert(e, e.value(value), d)


def _convert(e: Emitter, v: Val, src: dtype, d: dtype) -> tuple[str, int]:
    lanes = v.lanes
    if d.kind == "b":
        zero = "0" if lanes == 1 else f"({e.ctype(v)})0"
        return f"{v.text} != {zero}", register_size(src) if lanes > 1 else 0
    target = e.dialect.value_type(d)
    if src.kind == "b":
        if lanes == 1:
            return f"({target})({v.text})", 0
        size = register_size(d)
        m = e.mask(v, size, lanes)
        vector = e.dialect.vector(target, lanes)
        if d.kind == "f":
            return f"{m} ? ({vector})1 : ({vector})0", 0
        return f"{e.dialect.bits(vector, m)} & ({vector})1", 0
    if src.kind == "f" and d.kind in "ui":
        return f"{_saturate(e, src, d, lanes)}({v.text})", 0
    same = e.dialect.value_type(src) == target if src.kind == "f" and d.kind == "f" else False
    text = v.text if same else e.dialect.convert(target, lanes, v.text)
    if is_half(d):
        if src.kind in "ui" and d is dt.float16:
            # beyond the range the float itself is right: it rounds to infinity
            pass
        return round_half(e, text, d, lanes), 0
    return text, 0


_SATURATE = """{inline} {T} {name}({F} x) {{
  const {M} high = x >= ({F}){hi};
  const {M} low = x < ({F}){lo};
  const {M} bad = (x != x) | high | low;
  const {F} y = bad ? ({F})0 : x;
  const {T} r = {cvt};
  return {pick};
}}"""


def _saturate(e: Emitter, src: dtype, d: dtype, lanes: int) -> str:
    f = e.dialect.value_type(src)
    target = e.dialect.types[d.name]
    vec = e.dialect.vector
    name = f"sat_{target}_{vec(f, lanes)}"
    if name in e.helpers:
        return name
    n = 8 * d.itemsize
    hi, lo = (2 ** n, 0) if d.kind == "u" else (2 ** (n - 1), -(2 ** (n - 1)))
    suffix = "" if f == "double" else "f"
    size = 8 if f == "double" else 4
    t = vec(target, lanes)
    top = {"u": f"{hi - 1}{'ul' if n == 64 else 'u'}", "i": f"{hi - 1}{'l' if n == 64 else ''}"}
    bottom = "0" if d.kind == "u" else f"(-{-lo - 1}{'l' if n == 64 else ''} - 1)"
    high, low = "high", "low"
    if lanes > 1 and size != d.itemsize:
        high, low = (e.dialect.convert(SIGNED[d.itemsize], lanes, x) for x in (high, low))
    pick = f"({high}) ? ({t}){top[d.kind]} : (({low}) ? ({t}){bottom} : r)"
    return e.need(name, _SATURATE.format(
        inline=INLINE, T=t, F=vec(f, lanes), M=vec(SIGNED[size], lanes) if lanes > 1 else "int",
        name=name, hi=f"{float(hi).hex()}{suffix}", lo=f"({float(lo).hex()}{suffix})",
        cvt=e.dialect.convert(target, lanes, "y"), pick=pick))


def bitcast(e: Emitter, v: Val, d: dtype) -> str:
    """The bits of `v` as dtype `d` of the same size."""
    text, src = v.text, v.dtype
    if src is d:
        return text
    if is_half(src):
        text = f"{_half_out(e, src, v.lanes)}({text})"
    if is_half(d):
        u = e.dialect.vector("ushort", v.lanes)
        return f"{_half_in(e, d, v.lanes)}({e.dialect.bits(u, text)})"
    if src.kind == "b":
        one = f"({e.dialect.vector('uchar', v.lanes)})1"
        text = f"({e.dialect.vector('uchar', v.lanes)})({e.dialect.convert('uchar', v.lanes, text)}"
        text += f" & {one})"
    return e.dialect.bits(e.dialect.vector(e.dialect.value_type(d), v.lanes), text)


# -- 16-bit floats: words in memory, float in registers -------------------------------------------

_BF16_OUT = """{inline} {H} {name}({F} x) {{
  const {U} u = {bits};
  const {U} r = (u + ({U})0x7fffu + ((u >> ({U})16) & ({U})1)) >> ({U})16;
  const {U} n = (u >> ({U})16) | ({U})0x40u;
  return {cvt};
}}"""
# float16: the exponent is moved by multiplication, which also makes and rounds subnormals
_F16_OUT = """{inline} {H} {name}({F} x) {{
  const {U} u = {bits};
  const {U} s = (u >> ({U})16) & ({U})0x8000u;
  const {U} a = u & ({U})0x7fffffffu;
  const {U} r = a + ({U})0xc8000fffu + ((a >> ({U})13) & ({U})1);
  const {F} tiny = {tiny} + ({F})0.5f;
  const {U} sub = {subbits} - ({U})0x3f000000u;
  {U} h = (a < ({U})0x38800000u) ? sub : (r >> ({U})13);
  h = (a >= ({U})0x477ff000u) ? ({U})0x7c00u : h;
  h = (a > ({U})0x7f800000u) ? ({U})0x7e00u : h;
  return {cvt};
}}"""
_F16_IN = """{inline} {F} {name}({H} h) {{
  const {U} u = {wide};
  const {U} a = (u & ({U})0x7fffu) << ({U})13;
  const {F} f = {scaled} * ({F})0x1p112f;
  const {U} top = a | ({U})0x7f800000u;
  const {U} m = (a >= ({U})0x0f800000u) ? top : {fbits};
  return {result};
}}"""


def _half_types(e: Emitter, lanes: int) -> dict[str, str]:
    v = e.dialect.vector
    return {"inline": INLINE, "F": v("float", lanes), "U": v("uint", lanes),
            "H": v("ushort", lanes)}


def _half_out(e: Emitter, d: dtype, lanes: int) -> str:
    """float -> 16-bit word, round to nearest even."""
    if lanes == 1 and d.name in e.dialect.float_to_half:
        return e.dialect.float_to_half[d.name]
    t = _half_types(e, lanes)
    bits, cvt = e.dialect.bits, e.dialect.convert
    name = f"{d.name}_word_{t['H']}"
    if d is dt.bfloat16:
        pick = "(x != x) ? n : r"
        text = _BF16_OUT.format(name=name, bits=bits(t["U"], "x"),
                                cvt=cvt("ushort", lanes, f"({pick})"), **t)
    else:
        a = bits(t["F"], "a")
        text = _F16_OUT.format(name=name, bits=bits(t["U"], "x"), tiny=a,
                               subbits=bits(t["U"], "tiny"),
                               cvt=cvt("ushort", lanes, "(h | s)"), **t)
    return e.need(name, text)


def _half_in(e: Emitter, d: dtype, lanes: int) -> str:
    """16-bit word -> float, exactly."""
    if lanes == 1 and d.name in e.dialect.half_to_float:
        return e.dialect.half_to_float[d.name]
    t = _half_types(e, lanes)
    bits, cvt = e.dialect.bits, e.dialect.convert
    name = f"{d.name}_float_{t['H']}"
    wide = cvt("uint", lanes, "h")
    if d is dt.bfloat16:
        body = bits(t["F"], f"{wide} << ({t['U']})16")
        return e.need(name, f"{INLINE} {t['F']} {name}({t['H']} h) {{\n  return {body};\n}}")
    sign = f"((u & ({t['U']})0x8000u) << ({t['U']})16)"
    return e.need(name, _F16_IN.format(name=name, wide=wide, scaled=bits(t["F"], "a"),
                                       fbits=bits(t["U"], "f"),
                                       result=bits(t["F"], f"m | {sign}"), **t))


def round_half(e: Emitter, text: str, d: dtype, lanes: int) -> str:
    """A float rounded to the values of a 16-bit type."""
    return f"{_half_in(e, d, lanes)}({_half_out(e, d, lanes)}({text}))"


# -- memory ---------------------------------------------------------------------------------------


def load_one(e: Emitter, slot: int, d: dtype, at: str) -> str:
    """One element as a register value."""
    text = f"b{slot}[{at}]"
    if is_half(d):
        return f"{_half_in(e, d, 1)}({text})"
    return f"({text} != 0)" if d.kind == "b" else text


def store_one(e: Emitter, slot: int, d: dtype, at: str, text: str) -> str:
    """The statement that writes one element."""
    if is_half(d):
        text = f"{_half_out(e, d, 1)}({text})"
    elif d.kind == "b":
        text = f"(({text}) != 0)"
    return f"b{slot}[{at}] = {text};"


def _row(e: Emitter, d: dtype, const_: str) -> tuple[str, str]:
    """(vector type, pointer type for element alignment)."""
    ctype = e.dialect.types[d.name]
    vector = e.dialect.vector(ctype, e.lanes)
    alias = f"{vector}_row"
    e.need(alias, f"typedef {vector} __attribute__((aligned({d.itemsize}))) {alias};")
    return vector, f"{e.dialect.space}{const_}{alias} *"


def load_row(e: Emitter, slot: int, d: dtype, at: str) -> tuple[str, int]:
    """Neighbouring elements; also the mask width if they are bools."""
    const_ = "const " if e.kernel.args[slot].kind == "in" else ""
    vector, pointer = _row(e, d, const_)
    text = f"*({pointer})(b{slot} + {at})"
    if is_half(d):
        return f"{_half_in(e, d, e.lanes)}({text})", 0
    if d.kind == "b":
        return f"({text} != ({vector})0)", 1
    return text, 0


def store_row(e: Emitter, slot: int, d: dtype, at: str, v: Val) -> str:
    """The statement that writes neighbouring elements."""
    vector, pointer = _row(e, d, "")
    if d.kind == "b":
        text = f"{e.dialect.bits(vector, e.mask(v, 1))} & ({vector})1"
    elif is_half(d):
        text = f"{_half_out(e, d, e.lanes)}({e.vec(v)})"
    else:
        text = e.vec(v)
    if e.stream and "stream" in e.dialect.vector_builtins:
        return f"{_stream(e, vector, e.lanes * d.itemsize)}(({pointer})(b{slot} + {at}), {text});"
    return f"*({pointer})(b{slot} + {at}) = {text};"


# the compiler knows instructions for this only where the address is a multiple of the size
_STREAM = """{inline} void stream_{vector}({space}{vector}_row *p, {vector} v) {{
#if HAS({builtin})
  if (((ulong)p & {low}) == 0) {{ {builtin}(v, ({space}{vector} *)p); return; }}
#endif
  *p = v;
}}"""


def _stream(e: Emitter, vector: str, size: int) -> str:
    return e.need(f"stream_{vector}", _STREAM.format(
        inline=INLINE, vector=vector, space=e.dialect.space, low=size - 1,
        builtin=e.dialect.vector_builtins["stream"]))


def all_lanes(e: Emitter, m: Val) -> str:
    """Whether a mask holds in every lane."""
    return _fold_lanes(e, m, "all", "&")


def any_lane(e: Emitter, m: Val) -> str:
    """Whether a mask holds in some lane."""
    return m.text if m.lanes == 1 else _fold_lanes(e, m, "any", "|")


def _fold_lanes(e: Emitter, m: Val, word: str, symbol: str) -> str:
    ctype = e.ctype(m)
    name = f"{word}_{ctype}"
    lines, n, at = [], m.lanes, "m"
    base = SIGNED[m.width]
    while n > 1:
        n //= 2
        t = e.dialect.vector(base, n)
        low, high = (f"{at}.s{LANE[k]}" if n == 1 else
                     f"{at}.s{''.join(LANE[k:k + n])}" for k in (0, n))
        lines.append(f"  const {t} m{n} = {low} {symbol} {high};")
        at = f"m{n}"
    builtin = e.dialect.vector_builtins.get(word)
    if builtin:
        lines.insert(0, f"#if HAS({builtin})\n  return {builtin}(m) != 0;\n#else")
        at += " != 0;\n#endif\n  //"
    e.need(name, f"{INLINE} int {name}({ctype} m) {{\n" + "\n".join(lines)
           + f"\n  return {at} != 0;\n}}")
    return f"{name}({m.text})"


# -- reductions -----------------------------------------------------------------------------------


def identity(op: str, d: dtype) -> Any:
    """The value that a reduction starts from."""
    if op == "sum" or op == "or":
        return 0
    if op == "prod":
        return 1
    if op == "and":
        return True if d.kind == "b" else -1
    if d.kind == "b":
        return op == "min"
    if d.kind == "f":
        return float("-inf") if op == "max" else float("inf")
    n = 8 * d.itemsize
    if d.kind == "u":
        return 0 if op == "max" else 2 ** n - 1
    return -(2 ** (n - 1)) if op == "max" else 2 ** (n - 1) - 1


_COMBINE = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "and": "and",
            "or": "or"}


def combine(e: Emitter, op: str, a: Val, b: Val) -> str:
    """`a op b` for a reduction; NaN wins in max and min."""
    lanes = max(a.lanes, b.lanes)
    d = a.dtype
    if op == "set":
        return b.text
    if d.kind == "b":
        text, width = _logic(e, _COMBINE[op], [a, b], lanes)
        return text if lanes == 1 or width == a.width else e.dialect.convert(
            SIGNED[a.width], lanes, f"({text})")
    if d.kind == "f":
        text = _float(e, _COMBINE[op], [a, b], d, lanes)
        return round_half(e, text, d, lanes) if is_half(d) else text
    return _integer(e, _COMBINE[op], [a, b], d, lanes)
