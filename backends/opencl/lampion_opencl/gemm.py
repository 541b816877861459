"""Matrix products: register tiles over packed panels on processors, local-memory tiles on GPUs.

Imports this package and lampion's floors 0-2. `contract` multiplies a[..., M, K] by b[..., K, N]
with any strides. On a processor b is copied once into panels as wide as the register tile (which
absorbs transposes and 16-bit types), and a work item multiplies a block of rows by one panel. On
a GPU a work group computes a 64 x 64 tile from local memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.base.meta import expand_strides
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.products import Problem, problem

from .compiler import Bound
from .launch import make_launch

if TYPE_CHECKING:
    from .runtime import Device

DEPTH = 256   # steps of k between two visits to the output: a panel that stays in the first cache
DEEP = 8192   # steps of k at most where a panel is walked whole: it stays in the second cache
ROWS = 96     # rows of a work item at most
WORTH = 1 << 19  # multiplications from which on every core is woken
SMALLER = {12: 6, 8: 4, 6: 3, 4: 2, 3: 1, 2: 1}  # rows of the tile that follows one of so many
TILE = 64     # GPU: output tile of a work group
TYPES = (dt.float32, dt.float64, dt.float16, dt.bfloat16)


def contract(device: Device, call: OpCall) -> Launch | None:
    """Build the launch for `contract`, or None where the generic kernel is as good."""
    a, b, *rest = call.inputs
    c = call.outputs[0]
    bias = expand_strides(rest[0].shape, rest[0].strides, c.shape) if rest else None
    if rest and rest[0].dtype is not c.dtype:
        return None
    if not (a.dtype is b.dtype is c.dtype and c.dtype in TYPES):
        return None
    p = problem(a, b, c, bias)
    if 0 in (*p.batch, p.m, p.n, p.k) or p.c[-1] != 1 or p.m == 1 or p.n == 1:
        return None
    if p.dtype is dt.float64 and not device.doubles:
        return None
    if (p.m * p.n * p.k < 512 or p.n < 8) if device.lanes else p.m * p.n < 1024:
        return None
    made = product_calls(device, p, 0, 1, 2, 3 if rest else None, 3 + len(rest))
    if made is None:
        return None
    return make_launch(device, made[0], "s" * len(call.inputs), [c.span], made[1], ["contract"])


def product_calls(device: Device, p: Problem, c: int, a: int, b: int, bias: int | None,
                  first_scratch: int) -> tuple[list[Any], list[int]] | None:
    """(kernel calls, scratch sizes) of a product between program slots, or None if this device
    has no kernel for it. The calls use scratch slots from `first_scratch` on."""
    if device.lanes:
        return _lanes_calls(device, p, c, a, b, bias, first_scratch)
    if device.max_group < 256:
        return None
    return _threads_calls(device, p, c, a, b, bias)


# -- shared text ----------------------------------------------------------------------------------

_HALF = """
float load_f16(ushort h) {{
  const uint a = (h & 0x7fffu) << 13;
  const uint m = a >= 0x0f800000u ? a | 0x7f800000u : as_uint(as_float(a) * 0x1p112f);
  return as_float(m | ((h & 0x8000u) << 16));
}}
float load_bf16(ushort h) {{ return as_float((uint)h << 16); }}
"""


def _source_type(d: dtype) -> tuple[str, str, str]:
    """(type in memory, type of arithmetic, text that loads `{0}`)."""
    if d is dt.float16:
        return "ushort", "float", "load_f16({0})"
    if d is dt.bfloat16:
        return "ushort", "float", "load_bf16({0})"
    name = "float" if d is dt.float32 else "double"
    return name, name, "{0}"


def _store_text(d: dtype) -> str:
    """Statement that stores the float or double {v} at {p}[{i}]."""
    if d is dt.float16:
        return "{p}[{i}] = store_f16({v});"
    if d is dt.bfloat16:
        return "{p}[{i}] = store_bf16({v});"
    return "{p}[{i}] = {v};"


_STORE_HALF = """
ushort store_f16(float x) {
  const uint u = as_uint(x), s = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  const uint r = (a + 0xc8000fffu + ((a >> 13) & 1u)) >> 13;
  const uint sub = as_uint(as_float(a) + 0.5f) - 0x3f000000u;
  uint h = a < 0x38800000u ? sub : r;
  h = a >= 0x477ff000u ? 0x7c00u : h;
  return (ushort)((a > 0x7f800000u ? 0x7e00u : h) | s);
}
ushort store_bf16(float x) {
  const uint u = as_uint(x);
  return (ushort)(x != x ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
"""


def _head(device: Device, d: dtype) -> str:
    lines = ["#pragma OPENCL FP_CONTRACT ON", WIDE_HEAD]
    if d is dt.float64:
        lines.append("#ifdef cl_khr_fp64\n#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n#endif")
    text = "\n".join(lines)
    if d.itemsize == 2:
        text += _HALF.format() + _STORE_HALF
    return text


def _pointer(name: str, ctype: str, const_: str = "const ") -> str:
    return f"__global {const_}{ctype} *{name}, const long o{name}"


def _shift(name: str, ctype: str, const_: str = "const ") -> str:
    return (f"  {name} = (__global {const_}{ctype} *)((__global {const_}char *){name} "
            f"+ o{name});")


def _batch_lines(nb: int, counter: str, steps: Sequence[str]) -> list[str]:
    """Lines that move pointers to batch number `counter`: sizes are d0.., strides X0.. for each
    name X in `steps` (pointer, stride prefix)."""
    lines = [f"  long rest = {counter};"]
    for k in reversed(range(nb)):
        lines.append(f"  {{ const long i = rest % d{k}; rest /= d{k};")
        lines += [f"    {name} += i * {name}s{k};" for name in steps]
        lines.append("  }")
    return lines


# -- processors -----------------------------------------------------------------------------------


@lru_cache
def register_tile() -> tuple[int, int]:
    """(rows, vectors of 64 bytes) of the register tile: by the number of vector registers."""
    try:
        wide = "avx512f" in Path("/proc/cpuinfo").read_text()
    except OSError:
        wide = False
    return (8, 2) if wide else (6, 1)


# A compiler that clang is in splits vectors of 64 bytes in two unless it is told that they are
# meant; the others do not know the attribute.
WIDE = "__attribute__((reqd_work_group_size(1, 1, 1))) WIDE_VECTORS"
WIDE_HEAD = """#ifdef __has_attribute
#if __has_attribute(min_vector_width)
#define WIDE_VECTORS __attribute__((min_vector_width(512)))
#endif
#endif
#ifndef WIDE_VECTORS
#define WIDE_VECTORS
#endif
"""


def turn_text(name: str, source: str, target: str) -> str:
    """A function that copies 8 x 8 floats, rows to columns, in registers: rows `bn` apart in
    address space `source`, columns `nr` apart in `target`."""
    loads = " ".join(f"ROW({j})" for j in range(8))
    return f"""
#define LOW(x, y) (float8)(x.s0, y.s0, x.s1, y.s1, x.s4, y.s4, x.s5, y.s5)
#define HIGH(x, y) (float8)(x.s2, y.s2, x.s3, y.s3, x.s6, y.s6, x.s7, y.s7)
#define FIRST(x, y) (float8)(x.s01, y.s01, x.s45, y.s45)
#define SECOND(x, y) (float8)(x.s23, y.s23, x.s67, y.s67)
typedef float8 __attribute__((aligned(4))) float8_row;
static inline __attribute__((always_inline)) void {name}(
    {source} float *b, const long bn, {target} float *p, const long nr) {{
#define ROW(j) const float8 r##j = *({source} float8_row *)(b + j * bn);
  {loads}
  const float8 a0 = LOW(r0, r1), a1 = HIGH(r0, r1), a2 = LOW(r2, r3), a3 = HIGH(r2, r3);
  const float8 a4 = LOW(r4, r5), a5 = HIGH(r4, r5), a6 = LOW(r6, r7), a7 = HIGH(r6, r7);
  const float8 c0 = FIRST(a0, a2), c1 = SECOND(a0, a2), c2 = FIRST(a1, a3), c3 = SECOND(a1, a3);
  const float8 c4 = FIRST(a4, a6), c5 = SECOND(a4, a6), c6 = FIRST(a5, a7), c7 = SECOND(a5, a7);
#define OUT(k, x, y, h) *({target} float8_row *)(p + k * nr) = (float8)(x.h, y.h);
  OUT(0, c0, c4, lo) OUT(1, c1, c5, lo) OUT(2, c2, c6, lo) OUT(3, c3, c7, lo)
  OUT(4, c0, c4, hi) OUT(5, c1, c5, hi) OUT(6, c2, c6, hi) OUT(7, c3, c7, hi)
}}
"""


def pack_call(device: Device, d: dtype, nr: int, n: int, k: int, strides: tuple[int, int],
              batch: Sequence[int], between: Sequence[int], slots: Sequence[int]) -> Any:
    """b[batch][k, n] in panels of `nr` columns, p[batch][panel][k][nr], zeros beyond n: a call as
    `make_launch` takes it. `strides` and `between`: of k and n, and of the batch's dims."""
    source = _pack_source(device, d, nr, len(batch), strides)
    items = (-(-n // nr), -(-k // DEPTH), math.prod(batch))
    return (Bound(device.build(source, "pack"), items, (1, 1, 1),
                  (n, k, *strides, *batch, *between)), [("buffer", None)] * 2, tuple(slots))


def _pack_source(device: Device, d: dtype, nr: int, nb: int, strides: Sequence[int]) -> str:
    """b[k, n] -> p[batch][panel][k][nr], zeros beyond n. A work item packs DEPTH steps of a panel.
    """
    memory, arithmetic, load = _source_type(d)
    turned = d is dt.float32 and strides[0] == 1 and strides[1] != 1 and nr % 8 == 0
    integers = ["n", "k", "bk", "bn", *(f"{x}{j}" for x in ("d", "bs") for j in range(nb))]
    item = load.format("b[i * bk + j * bn]" if strides[1] != 1 else "b[i * bk + j]")
    blocks = [f"    for (; i + 8 <= k1; i += 8) for (int j = 0; j < {nr}; j += 8)",
              f"      turn(b + i + j * bn, bn, p + i * {nr} + j, {nr});"] if turned else []
    return "\n".join([
        _head(device, d), turn_text("turn", "__global const", "__global") if turned else "",
        f"__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void pack("
        f"{_pointer('p', arithmetic, '')}, {_pointer('b', memory)}, "
        f"{', '.join(f'const long {x}' for x in integers)}) {{",
        _shift("p", arithmetic, ""), _shift("b", memory),
        "  const long panel = get_global_id(0), panels = get_global_size(0);",
        "  const long batch = get_global_id(2);",
        *_batch_lines(nb, "batch", ["b"]),
        f"  p += (batch * panels + panel) * k * {nr};",
        f"  b += panel * {nr} * bn;",
        f"  const long width = n - panel * {nr} < {nr} ? n - panel * {nr} : {nr};",
        f"  const long k0 = get_global_id(1) * {DEPTH};",
        f"  const long k1 = k0 + {DEPTH} < k ? k0 + {DEPTH} : k;",
        "  long i = k0;",
        f"  if (width == {nr}) {{",
        *blocks,
        f"    for (; i < k1; ++i) for (int j = 0; j < {nr}; ++j)",
        f"      p[i * {nr} + j] = {item};",
        "  } else {",
        f"    for (; i < k1; ++i) for (int j = 0; j < {nr}; ++j)",
        f"      p[i * {nr} + j] = j < width ? {item} : 0;",
        "  }",
        "}"])


def _tile_text(rows: int, vectors: int, lanes: int, arithmetic: str, unit: str, step: str,
               direct: bool, bias: bool, turned: bool, whole: int) -> str:
    """Statements that add `rows` rows of a times the panel to c, for k0 <= k < k1."""
    v = f"{arithmetic}{lanes}"
    am, ak = ("" if unit == "am" else " * am"), ("" if unit == "ak" else " * ak")
    spot = f"a[(i + {{r}}){am} + q{ak}]"
    if unit == "packed":  # a[panel][k][whole rows of a tile]
        spot = f"a[ib * k + q * {whole} + (i - ib) + {{r}}]"
    tile = [(r, j) for r in range(rows) for j in range(vectors)]
    out = [f"{v} c{r}_{j} = ({v})(0);" for r, j in tile]
    out.append("for (long q = k0; q < k1; ++q) {")
    for j in range(vectors):
        row = f"*(__global const {v}_row *)(p + q * {step} + {j * lanes})"
        if direct:
            out.append(f"  {v} b{j}; if (width >= {(j + 1) * lanes}) b{j} = {row}; else {{ "
                       f"b{j} = ({v})(0); for (long t = 0; t < width - {j * lanes}; ++t) "
                       f"(({arithmetic} *)&b{j})[t] = p[q * {step} + {j * lanes} + t]; }}")
        else:
            out.append(f"  const {v} b{j} = {row};")
    for r in range(rows):
        out.append(f"  {{ const {arithmetic} x = {spot.format(r=r)};")
        out += [f"    c{r}_{j} = ({v})(x) * b{j} + c{r}_{j};" for j in range(vectors)]
        out.append("  }")
    out.append("}")
    for n, (r, j) in enumerate(tile):
        if bias:
            row, first = f"(i + {r}) * em", f"n0 + {j * lanes}"
            out += [f"if (k0 == 0) {{ if (en == 0) c{r}_{j} += ({v})(e[{row}]);",
                    f"else if (en == 1 && width >= {(j + 1) * lanes}) "
                    f"c{r}_{j} += *(__global const {v}_row *)(e + {row} + {first});",
                    f"else for (long t = 0; t < width - {j * lanes} && t < {lanes}; ++t) "
                    f"(({arithmetic} *)&c{r}_{j})[t] += e[{row} + ({first} + t) * en]; }}"]
        out.append(f"left[{n}] = k0 ? left[{n}] + c{r}_{j} : c{r}_{j};" if turned else
                   _tile_store(r, j, lanes, arithmetic))
    if turned:
        nr = vectors * lanes
        out = [f"{v} left[{len(tile)}];", *_blocks_of_k(out),
               f"const {arithmetic} *from = (const {arithmetic} *)left;",
               f"__global {arithmetic} *to = c + n0 * cm + i;",
               f"for (long t = 0; t < width && t < {nr}; ++t, ++from, to += cm)",
               f"  for (int r = 0; r < {rows}; ++r) to[r] = from[r * {nr}];"]
    return "\n".join("      " + line for line in out)


def _blocks_of_k(body: Sequence[str]) -> list[str]:
    """A loop that runs `body` for k0 <= k < k1, DEPTH at a time."""
    return [f"for (long k0 = 0; k0 < k; k0 += {DEPTH}) {{",
            f"  const long k1 = k0 + {DEPTH} < k ? k0 + {DEPTH} : k;",
            *("  " + line for line in body), "}"]


def _tile_store(r: int, j: int, lanes: int, arithmetic: str) -> str:
    """Write one vector of the tile: added to what earlier blocks of k left in the sums."""
    v = f"{arithmetic}{lanes}"
    at = f"(i + {r}) * cm + n0 + {j * lanes}"
    full = f"*(__global {v}_row *)(c + {at})"
    one = (f"{v} left = c{r}_{j}; for (long t = 0; t < width - {j * lanes}; ++t) {{ "
           f"const long at = {at} + t; const {arithmetic} x = (({arithmetic} *)&left)[t]; "
           "c[at] = k0 ? c[at] + x : x; }")
    return (f"if (width >= {(j + 1) * lanes}) {full} = k0 ? {full} + c{r}_{j} : c{r}_{j};\n"
            f"else {{ {one} }}")


def _multiply_source(device: Device, d: dtype, rows: int, vectors: int, nb: int,
                     unit: str, direct: bool, bias: bool, turned: bool) -> str:
    """c = a p (+ e); a work item does a share of the rows by one panel. `unit` names the stride of
    a that is 1 ("am", "ak" or neither), or says that a is "packed"; direct: p is b itself, with
    rows of stride bk; turned: c has neighbouring rows, and `cm` is the stride of its columns."""
    _, arithmetic, _ = _source_type(d)
    lanes = 64 // (8 if arithmetic == "double" else 4)
    nr = vectors * lanes
    integers = (["m", "n", "k", "am", "ak", "cm", "pb"] + [f"d{j}" for j in range(nb)]
                + [f"as{j}" for j in range(nb)] + [f"cs{j}" for j in range(nb)]
                + [f"ps{j}" for j in range(nb) if direct]
                + (["em", "en"] + [f"es{j}" for j in range(nb)] if bias else []))
    v = f"{arithmetic}{lanes}"
    step = "pb" if direct else str(nr)
    tiles = []
    size = rows
    while size:
        tiles.append(f"    for (; i + {size} <= i1; i += {size}) {{\n"
                     + f"      const long ib = i / {rows} * {rows};\n" * (unit == "packed")
                     + _tile_text(size, vectors, lanes, arithmetic, unit, step, direct, bias,
                                  turned, rows)
                     + "\n    }")
        size = SMALLER.get(size, 0)
    real = dt.float64 if arithmetic == "double" else dt.float32
    body = ["  long i = i0;", *tiles]
    return "\n".join([
        _head(device, real),
        f"typedef {v} __attribute__((aligned({4 if arithmetic == 'float' else 8}))) {v}_row;",
        f"__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void multiply("
        f"{_pointer('c', arithmetic, '')}, {_pointer('a', arithmetic)}, "
        f"{_pointer('p', arithmetic)}, {_pointer('e', arithmetic) + ', ' if bias else ''}"
        f"{', '.join(f'const long {x}' for x in integers)}) {{",
        _shift("c", arithmetic, ""), _shift("a", arithmetic), _shift("p", arithmetic),
        _shift("e", arithmetic) if bias else "",
        "  const long panel = get_global_id(0), panels = get_global_size(0);",
        "  const long batch = get_global_id(2);",
        *_batch_lines(nb, "batch", ["a", "c"] + ["p"] * direct + ["e"] * bias),
        f"  const long n0 = panel * {nr};",
        "  p += n0;" if direct else f"  p += (batch * pb * panels + panel) * k * {nr};",
        "  const long width = n - n0;",
        "  const long blocks = get_global_size(1);",
        f"  const long share = ((m + blocks - 1) / blocks + {rows - 1}) / {rows} * {rows};",
        "  const long i0 = get_global_id(1) * share;",
        "  const long i1 = i0 + share < m ? i0 + share : m;",
        *(body if turned else _blocks_of_k(body)),
        "}"])


def _copy_source(device: Device, d: dtype, nb: int, into: bool, bias: bool = False) -> str:
    """16-bit rows to float (into=False), or float rows (+ e) to 16 bits: x[batch][m][k]."""
    integers = (["m", "k", "xm", "xk"] + [f"d{j}" for j in range(nb)]
                + [f"xs{j}" for j in range(nb)])
    integers += ["em", "en"] + [f"es{j}" for j in range(nb)] if bias else []
    _, _, load = _source_type(d)
    x = "x[i * xm + j * xk]"
    added = f" + {load.format('e[i * em + j * en]')}" if bias else ""
    work = (_store_text(d).format(p="x", i="i * xm + j * xk", v=f"(y[i * k + j]{added})") if into
            else f"y[i * k + j] = {load.format(x)};")
    signature = (f"{_pointer('x', 'ushort', '')}, {_pointer('y', 'float')}" if into else
                 f"{_pointer('y', 'float', '')}, {_pointer('x', 'ushort')}")
    shifts = [_shift("x", "ushort", "" if into else "const "),
              _shift("y", "float", "const " if into else "")]
    if bias:
        signature += f", {_pointer('e', 'ushort')}"
        shifts.append(_shift("e", "ushort"))
    return "\n".join([
        _head(device, d),
        f"__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void convert({signature}, "
        f"{', '.join(f'const long {v}' for v in integers)}) {{",
        *shifts,
        "  const long batch = get_global_id(2);",
        "  y += batch * m * k;",
        *_batch_lines(nb, "batch", ["x"] + ["e"] * bias),
        f"  const long i0 = get_global_id(1) * {ROWS};",
        f"  const long i1 = i0 + {ROWS} < m ? i0 + {ROWS} : m;",
        f"  for (long i = i0; i < i1; ++i) for (long j = 0; j < k; ++j) {work}",
        "}"])


def _lanes_calls(device: Device, p: Problem, c: int, a: int, b: int, given: int | None,
                 scratch_slot: int) -> tuple[list[Any], list[int]]:
    """Pack b, convert a and c where they are 16-bit, multiply.

    A b that has to be packed for few rows of a (a linear layer's weight) is not worth the copy:
    then the transposed product is computed, and the smaller a is packed.
    """
    half = p.dtype.itemsize == 2
    turned = not half and p.b[-2] == 1 != p.b[-1] and p.m <= ROWS and p.m < p.n and p.k <= DEEP
    if turned:
        p, a, b = p.transposed(), b, a
    _, vectors = register_tile()
    size = 8 if p.dtype is dt.float64 else 4
    lanes = 64 // size
    if p.n <= lanes:
        vectors = 1
    rows = _tile_rows(p.m, vectors)
    nr = vectors * lanes
    nb, batch = len(p.batch), math.prod(p.batch)
    panels, blocks = -(-p.n // nr), -(-p.m // ROWS)
    buffer = ("buffer", None)
    shared = all(s == 0 for s in p.b[:nb])  # one packed b serves the whole batch
    direct = not half and p.b[-1] == 1 and p.m <= ROWS  # each panel is used once: do not copy it
    packed_batch = 1 if shared else batch
    one = (1, 1, 1)
    scratch: list[int] = []
    calls: list[Any] = []
    bias = given is not None and not half  # 16-bit results get it when they are rounded
    extra_slot = [] if given is None else [given]
    if not direct:
        scratch.append(packed_batch * panels * p.k * nr * size)
        calls.append(pack_call(device, p.dtype, nr, p.n, p.k, p.b[-2:], () if shared else p.batch,
                               () if shared else p.b[:nb], (scratch_slot, b)))
    a_slot, c_slot, sa, sc = a, c, p.a, p.c
    if half:
        sa = (*_dense(p.batch, p.m * p.k), p.k, 1)
        sc = (*_dense(p.batch, p.m * p.n), p.n, 1)
        scratch += [batch * p.m * p.k * 4, batch * p.m * p.n * 4]
        a_slot, c_slot = scratch_slot + 1, scratch_slot + 2
        convert = device.build(_copy_source(device, p.dtype, nb, False), "convert")
        calls.append((Bound(convert, (1, blocks, batch), one,
                            (p.m, p.k, *p.a[-2:], *p.batch, *p.a[:nb])),
                      [buffer, buffer], [a_slot, a]))
    unit = "ak" if sa[-1] == 1 else "am" if sa[-2] == 1 else ""
    if _far(sa[-1 if unit == "am" else -2] * size, unit) and p.k >= 64 and panels >= 4 and not half:
        # rows of a tile, or steps of k, would compete for the same places of the first cache
        tall = -(-p.m // rows)
        a_slot, unit = scratch_slot + len(scratch), "packed"
        scratch.append(batch * tall * rows * p.k * size)
        calls.append(pack_call(device, p.dtype, rows, p.m, p.k, sa[-2:][::-1], p.batch, sa[:nb],
                               (a_slot, a)))
        sa = (*_dense(p.batch, tall * rows * p.k), 0, 0)
    multiply = device.build(
        _multiply_source(device, p.dtype, rows, vectors, nb, unit, direct, bias, turned),
        "multiply")
    integers = (p.m, p.n, p.k, *sa[-2:], sc[-1 if turned else -2],
                p.b[-2] if direct else int(not shared), *p.batch, *sa[:nb], *sc[:nb],
                *(p.b[:nb] if direct else ()),
                *((*p.bias[-2:], *p.bias[:nb]) if bias else ()))  # type: ignore[index]
    slots = [c_slot, a_slot, b if direct else scratch_slot] + (extra_slot if bias else [])
    shares = blocks
    if p.m * p.n * p.k * batch >= WORTH:  # every core gets some
        shares = max(blocks, min(-(-device.units // (panels * batch)), p.m // rows))
    calls.append((Bound(multiply, (panels, shares, batch), one, integers),
                  [buffer] * len(slots), slots))
    if half:
        source = _copy_source(device, p.dtype, nb, True, given is not None)
        extra = (*p.bias[-2:], *p.bias[:nb]) if p.bias is not None else ()
        slots = [c, c_slot, *extra_slot]
        calls.append((Bound(device.build(source, "convert"), (1, blocks, batch), one,
                            (p.m, p.n, *p.c[-2:], *p.batch, *p.c[:nb], *extra)),
                      [buffer] * len(slots), slots))
    return calls, scratch


def _tile_rows(m: int, vectors: int) -> int:
    """Rows of the register tile for m rows: twelve, or eight where less is left over by them."""
    rows = register_tile()[0]
    if rows != 8:
        return rows
    return min((12, 8), key=lambda r: sum(max(n * vectors, 8) for n in _cut(m, r)))


def _cut(m: int, rows: int) -> list[int]:
    """How tiles of `rows` rows and smaller ones cover m rows."""
    out: list[int] = []
    while rows:
        out += [rows] * (m // rows)
        m %= rows
        rows = SMALLER.get(rows, 0)
    return out


def _far(stride: int, unit: str) -> bool:
    """Whether rows so many bytes apart are better copied before they are read again and again."""
    return stride % 2048 == 0 or (unit == "am" and stride >= 1024)


def _dense(batch: Sequence[int], size: int) -> tuple[int, ...]:
    out: list[int] = []
    for n in reversed(batch):
        out.append(size)
        size *= n
    return tuple(reversed(out))


# -- GPUs -----------------------------------------------------------------------------------------


def _tiled_source(device: Device, d: dtype, nb: int, bias: bool) -> str:
    """A 64 x 64 tile per group of 16 x 16 items, 4 x 4 outputs an item, 16 steps of k at a time."""
    memory, arithmetic, load = _source_type(d)
    integers = (["m", "n", "k", "am", "ak", "bk", "bn", "cm"] + [f"d{j}" for j in range(nb)]
                + [f"{x}s{j}" for x in "abc" for j in range(nb)])
    integers += ["em", "en"] + [f"es{j}" for j in range(nb)] if bias else []
    added = f" + {load.format('e[i * em + j * en]')}" if bias else ""
    inner = "\n".join(
        f"      acc[{r}][{s}] += x{r} * y{s};" for r in range(4) for s in range(4))
    picks = "\n".join([f"      const {arithmetic} x{r} = as[q][ty + {16 * r}];" for r in range(4)]
                      + [f"      const {arithmetic} y{s} = bs[q][tx + {16 * s}];"
                         for s in range(4)])
    store = _store_text(d).format(p="c", i="i * cm + j", v=f"(acc[r][s]{added})")
    a_load, b_load = load.format("a[i * am + q * ak]"), load.format("b[q * bk + j * bn]")
    return "\n".join([
        _head(device, d),
        "__kernel __attribute__((reqd_work_group_size(16, 16, 1))) void tiles("
        f"{_pointer('c', memory, '')}, {_pointer('a', memory)}, {_pointer('b', memory)}, "
        f"{_pointer('e', memory) + ', ' if bias else ''}"
        f"{', '.join(f'const long {x}' for x in integers)}) {{",
        f"  __local {arithmetic} as[16][{TILE + 1}], bs[16][{TILE + 1}];",
        _shift("c", memory, ""), _shift("a", memory), _shift("b", memory),
        _shift("e", memory) if bias else "",
        "  const long batch = get_group_id(2);",
        *_batch_lines(nb, "batch", ["a", "b", "c"] + ["e"] * bias),
        "  const int tx = get_local_id(0), ty = get_local_id(1), t = ty * 16 + tx;",
        f"  const long n0 = get_group_id(0) * {TILE}, m0 = get_group_id(1) * {TILE};",
        f"  {arithmetic} acc[4][4];",
        "  for (int r = 0; r < 4; ++r) for (int s = 0; s < 4; ++s) acc[r][s] = 0;",
        "  for (long k0 = 0; k0 < k; k0 += 16) {",
        f"    for (int e = t; e < 16 * {TILE}; e += 256) {{",
        "      // neighbours read neighbours, whichever way the matrix lies",
        f"      const int r = ak == 1 ? e / 16 : e % {TILE}, w = ak == 1 ? e % 16 : e / {TILE};",
        "      const long i = m0 + r, q = k0 + w;",
        f"      as[w][r] = i < m && q < k ? {a_load} : 0;",
        "    }",
        f"    for (int e = t; e < 16 * {TILE}; e += 256) {{",
        f"      const int r = bk == 1 ? e / 16 : e % {TILE}, w = bk == 1 ? e % 16 : e / {TILE};",
        "      const long j = n0 + r, q = k0 + w;",
        f"      bs[w][r] = j < n && q < k ? {b_load} : 0;",
        "    }",
        "    barrier(CLK_LOCAL_MEM_FENCE);",
        "    for (int q = 0; q < 16; ++q) {",
        picks, inner,
        "    }",
        "    barrier(CLK_LOCAL_MEM_FENCE);",
        "  }",
        "  for (int r = 0; r < 4; ++r) for (int s = 0; s < 4; ++s) {",
        "    const long i = m0 + ty + 16 * r, j = n0 + tx + 16 * s;",
        f"    if (i < m && j < n) {{ {store} }}",
        "  }",
        "}"])


def _threads_calls(device: Device, p: Problem, c: int, a: int, b: int, given: int | None,
                   ) -> tuple[list[Any], list[int]]:
    nb, batch = len(p.batch), math.prod(p.batch)
    bias = p.bias is not None
    tiles = device.build(_tiled_source(device, p.dtype, nb, bias), "tiles")
    items = (-(-p.n // TILE) * 16, -(-p.m // TILE) * 16, batch)
    extra = (*p.bias[-2:], *p.bias[:nb]) if p.bias is not None else ()
    bound = Bound(tiles, items, (16, 16, 1),
                  (p.m, p.n, p.k, *p.a[-2:], *p.b[-2:], p.c[-2], *p.batch, *p.a[:nb], *p.b[:nb],
                   *p.c[:nb], *extra))
    slots = [c, a, b] + ([] if given is None else [given])
    return [(bound, [("buffer", None)] * len(slots), slots)], []
