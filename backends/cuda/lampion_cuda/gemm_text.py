"""CUDA C++ of the generated matrix products: tiles in shared memory, with and without tensor cores.

Both kernels take any strides and sizes, add a bias, and can split k between blocks; `sum` adds the
parts of a split product in a fixed order. Text only: imports nothing of this package but the
dialect's prelude.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lampion.base import dtype as dt
from lampion.base.dtype import dtype

from .dialect import CUDAC
from .matrix import instructions


class Tile(NamedTuple):
    """A block's tile of the result: `rows` by `columns`, `depth` steps of k at a time. A thread, or
    with tensor cores a warp, has `own_rows` by `own_columns` of it. `stages` tiles of the operands
    are in shared memory."""

    rows: int
    columns: int
    depth: int
    own_rows: int
    own_columns: int
    stages: int
    tensor: bool

    @property
    def threads(self) -> int:
        """Threads of a block."""
        shares = (self.rows // self.own_rows) * (self.columns // self.own_columns)
        return shares * (32 if self.tensor else 1)

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory."""
        size = self.stages * (self.rows + self.columns) * self.depth * 2
        return size if self.tensor else 0


_MEMORY = {dt.float32: "float", dt.float64: "double", dt.float16: "ushort", dt.bfloat16: "ushort",
           dt.int8: "signed char", dt.uint8: "uchar", dt.int16: "short", dt.int32: "int",
           dt.int64: "long"}
# Sums of integers wrap around, which only unsigned types may.
_ARITHMETIC = {dt.float64: "double", dt.int64: "ulong", dt.int8: "uint", dt.uint8: "uint",
               dt.int16: "uint", dt.int32: "uint"}
INNER = ("m", "n", "k", "am", "ak", "bk", "bn", "cm", "cn", "tm", "tn", "depth")



def accumulator(d: dtype) -> dtype:
    """The type of the sums, and of the parts of a split product."""
    return d if d.itemsize == 8 else dt.int32 if d.kind in "ui" else dt.float32


def _head(d: dtype, defines: dict[str, object]) -> list[str]:
    arithmetic = _ARITHMETIC.get(d, "float")
    load, store = "(ARI)(x)", "(MEM)(x)"
    if d is dt.float16:
        load, store = "lmp_from_float16(x)", "lmp_to_float16(x)"
    elif d is dt.bfloat16:
        load, store = "as_bits<float>((uint)(x) << 16)", "lmp_to_bfloat16(x)"
    fma = {"float": "fmaf(x, y, z)", "double": "fma(x, y, z)"}.get(arithmetic, "((x) * (y) + (z))")
    return [CUDAC.prelude, f"#define MEM {_MEMORY[d]}", f"#define ARI {arithmetic}",
            f"#define LOAD(x) {load}", f"#define STORE(x) {store}", f"#define FMA(x, y, z) {fma}",
            *(f"#define {k} {v}" for k, v in defines.items())]


def integers(nb: int, bias: bool) -> list[str]:
    """Names of the integer arguments, in order."""
    names = [*INNER, *(f"{x}{j}" for x in ("d", "as", "bs", "cs") for j in range(nb))]
    return names + (["em", "en", *(f"es{j}" for j in range(nb))] if bias else [])


def _signature(name: str, threads: int, least: int, nb: int, bias: bool, split: bool) -> str:
    pointers = ["MEM *c", "const MEM *a", "const MEM *b", *(["const MEM *e"] if bias else []),
                *(["ARI *w"] if split else [])]
    return (f"LMP_KERNEL void __launch_bounds__({threads}, {least}) {name}(\n    "
            f"{', '.join(pointers)},\n    {', '.join(f'long {x}' for x in integers(nb, bias))}) {{")


def _move(nb: int, counter: str, names: Sequence[str]) -> list[str]:
    """Lines that move pointers to the batch of a number."""
    lines = [f"  long rest = {counter};"] if nb else []
    for k in reversed(range(nb)):
        lines.append(f"  {{ const long i = rest % d{k}; rest /= d{k};")
        lines += [f"    {x} += i * {x}s{k};" for x in names]
        lines.append("  }")
    return lines


def _place(nb: int, bias: bool, split: bool) -> list[str]:
    """Lines that find the block's tile: i0, j0, the range of k, and the batch. Eight rows of tiles
    run together, so that what they read is in the cache."""
    lines = [
        "  const long tiles = tm * tn, batch = blockIdx.x / tiles;",
        "  const long tile = blockIdx.x - batch * tiles;",
        "  const long first = tile / (8 * tn) * 8, high = tm - first < 8 ? tm - first : 8;",
        "  const long within = tile - first * tn;",
        "  const long i0 = (first + within % high) * BM, j0 = within / high * BN;",
        "  const long k0 = blockIdx.y * depth, k1 = k0 + depth < k ? k0 + depth : k;",
        *_move(nb, "batch", ["a", "b", "c"] + ["e"] * bias)]
    if split:
        lines.append("  w += (blockIdx.y * (gridDim.x / tiles) + batch) * m * n;")
    return lines


def _result(bias: bool, split: bool, value: str) -> str:
    """The statement that stores `value` at row i, column j."""
    if split:
        return f"w[i * n + j] = {value};"
    added = " + LOAD(e[i * em + j * en])" if bias else ""
    return f"c[i * cm + j * cn] = STORE({value}{added});"


# -- without tensor cores -------------------------------------------------------------------------

_VECTORS = """\
struct __align__(VECTOR) Four { MEM v[4]; };
struct __align__(16) Sums { ARI v[4]; };
"""


def tiles(d: dtype, t: Tile, along: tuple[bool, bool], nb: int, bias: bool, split: bool) -> str:
    """The kernel `tiles`: register tiles over shared memory. `along`: whether rows of a, and
    columns of b, are read along k by neighbouring threads."""
    threads = t.threads
    # of a multiprocessor: as many as have registers for it
    at_once = 512 if t.own_rows == 4 and d.itemsize < 8 else 256 if bias or d.itemsize == 8 else 384
    size = {"ushort": 2, "short": 2, "int": 4, "float": 4}.get(_MEMORY[d], d.itemsize)
    vectors = t.rows * t.depth // 4 // threads, t.columns * t.depth // 4 // threads
    defines = {"BM": t.rows, "BN": t.columns, "BK": t.depth, "TM": t.own_rows,
               "TN": t.own_columns, "THREADS": threads, "VECTOR": min(16, 4 * size)}

    def load(x: str, count: int, extent: str, k_first: bool, sides: tuple[str, str],
             steps: tuple[str, str]) -> tuple[list[str], list[str], list[str]]:
        """Lines that set up pointers; that fetch step `at` of k into registers, where the matrix
        can be read four elements at once (the pointers move along); and that keep what was fetched
        in buffer `to`, or bring it there element by element. `sides`: start and end of the rows;
        `steps`: strides along them and along k."""
        (start, limit), (s, sk) = sides, steps
        run, ld, end = (sk, s, "k") if k_first else (s, sk, limit)
        setup = [f"  const bool whole_{x} = {run} == 1 && {ld} % 4 == 0 && {end} % 4 == 0 && "
                 f"(unsigned long long){x} % VECTOR == 0;"]
        bring, keep = [f"if (whole_{x}) {{"], [f"if (whole_{x}) {{"]
        for v in range(count):
            number, name = f"(t + {v * threads})", f"{x}{v}"
            if k_first:  # four steps of k of one row
                row, q = f"{number} / (BK / 4)", f"{number} % (BK / 4) * 4"
            else:        # four rows at one step of k
                row, q = f"{number} % ({extent} / 4) * 4", f"{number} / ({extent} / 4)"
            setup += [f"  const int row_{name} = {row}, q_{name} = {q};",
                      f"  const MEM *p_{name} = {x} + ({start} + row_{name}) * {s} + "
                      f"(k0 + q_{name}) * {sk};",
                      f"  const bool in_{name} = {start} + row_{name} < {limit};"]
            bring += [f"if (in_{name} && at + q_{name} < k1) {{",
                      f"const Four f = *(const Four *)p_{name};",
                      *(f"r{x}[{v}][{z}] = LOAD(f.v[{z}]);" for z in range(4)), "} else {",
                      *(f"r{x}[{v}][{z}] = 0;" for z in range(4)), "}",
                      f"p_{name} += BK * {sk};"]
            for z in range(4):
                at = f"[q_{name} + {z}][row_{name}]" if k_first else f"[q_{name}][row_{name} + {z}]"
                keep.append(f"{x}_tile[to]{at} = r{x}[{v}][{z}];")
        row, q = ("u / BK", "u % BK") if k_first else (f"u % {extent}", f"u / {extent}")
        keep += ["} else {", f'_Pragma("unroll 2") for (int u = t; u < {extent} * BK; '
                 "u += THREADS) {", f"const int i = {row}, q = {q};",
                 f"{x}_tile[to][q][i] = {start} + i < {limit} && at + q < k1 ? "
                 f"LOAD({x}[({start} + i) * {s} + (at + q) * {sk}]) : (ARI)0;", "} }"]
        return setup, [f"  {line} \\" for line in [*bring, "}"]], [f"  {k} \\" for k in keep]

    a = load("a", vectors[0], "BM", along[0], ("i0", "m"), ("am", "ak"))
    b = load("b", vectors[1], "BN", along[1], ("j0", "n"), ("bn", "bk"))
    return "\n".join([
        *_head(d, defines), _VECTORS,
        "#define BRING { \\", *a[1], *b[1], "}",
        "#define KEEP(to) { \\", *a[2], *b[2], "}",
        _signature("tiles", threads, at_once // threads, nb, bias, split),
        "  __align__(16) __shared__ ARI a_tile[2][BK][BM + 4];",
        "  __align__(16) __shared__ ARI b_tile[2][BK][BN + 4];",
        *_place(nb, bias, split),
        "  const int t = threadIdx.x, tx = t % (BN / TN), ty = t / (BN / TN);", *a[0], *b[0],
        f"  ARI acc[TM][TN], ra[{vectors[0]}][4], rb[{vectors[1]}][4];",
        "#pragma unroll",
        "  for (int r = 0; r < TM; ++r)",
        "#pragma unroll",
        "    for (int s = 0; s < TN; ++s) acc[r][s] = 0;",
        "  long at = k0;",
        "  BRING KEEP(0)",
        "  __syncthreads();",
        "  int now = 0;",
        "  while (at < k1) {",
        "    at += BK;",
        "    if (at < k1) BRING",
        "#pragma unroll",
        "    for (int q = 0; q < BK; ++q) {",
        "      Sums x[TM / 4], y[TN / 4];",
        "#pragma unroll",
        "      for (int r = 0; r < TM / 4; ++r)",
        "        x[r] = *(const Sums *)&a_tile[now][q][r * (BM * 4 / TM) + ty * 4];",
        "#pragma unroll",
        "      for (int s = 0; s < TN / 4; ++s)",
        "        y[s] = *(const Sums *)&b_tile[now][q][s * (BN * 4 / TN) + tx * 4];",
        "#pragma unroll",
        "      for (int r = 0; r < TM; ++r)",
        "#pragma unroll",
        "        for (int s = 0; s < TN; ++s)",
        "          acc[r][s] = FMA(x[r / 4].v[r % 4], y[s / 4].v[s % 4], acc[r][s]);",
        "    }",
        "    if (at < k1) {",
        "      now ^= 1;",
        "      KEEP(now)",
        "      __syncthreads();",
        "    }",
        "  }",
        "#pragma unroll",
        "  for (int r = 0; r < TM; ++r)",
        "#pragma unroll",
        "    for (int s = 0; s < TN; ++s) {",
        "      const long i = i0 + r / 4 * (BM * 4 / TM) + ty * 4 + r % 4;",
        "      const long j = j0 + s / 4 * (BN * 4 / TN) + tx * 4 + s % 4;",
        f"      if (i < m && j < n) {{ {_result(bias, split, 'acc[r][s]')} }}",
        "    }",
        "}"])


# -- with tensor cores ----------------------------------------------------------------------------

_TILES = """\
// Where chunk `x` (8 elements) of row `r` is in a tile with C chunks a row: eight rows of one
// chunk, which one instruction reads, are in different banks.
#define SPOT(r, x, C) ((r) * (C) + ((x) ^ ((C) >= 8 ? (r) & 7 : (C) == 4 ? (r) >> 1 & 3 \\
                                                    : (r) >> 2 & 1)))
// One tile of an operand: ROWS rows of C chunks, elements `step` apart, rows `pitch` apart, from
// `x` on. Beyond `high` rows and `wide` elements there are zeros. `whole`: 16 bytes at a time.
#define FETCH(tile, x, ROWS, C, pitch, step, whole, high, wide) { \\
    const int first = t / (C), s = t % (C); \\
    const ushort *from = (x) + first * (pitch) + s * 8 * (step); \\
    const int left = (int)((wide) < 8 * (C) ? (wide) : 8 * (C)) - s * 8; \\
    if (whole) { \\
      _Pragma("unroll") for (int v = 0; v < (ROWS); v += THREADS / (C)) { \\
        const int r = first + v; \\
        const bool there = r < (high) && left > 0; \\
        if ((ROWS) % (THREADS / (C)) == 0 || r < (ROWS)) \\
          copy16((tile) + SPOT(r, s, C) * 8, there ? from : (x), there); \\
        from += THREADS / (C) * (pitch); \\
      } \\
    } else { \\
      _Pragma("unroll 1") for (int r = first; r < (ROWS); r += THREADS / (C)) { \\
        _Pragma("unroll 1") for (int q = 0; q < 8; ++q) \\
          (tile)[SPOT(r, s, C) * 8 + q] = r < (high) && q < left ? from[q * (step)] : (ushort)0; \\
        from += THREADS / (C) * (pitch); \\
      } \\
    } \\
  }
"""


def tensor(d: dtype, t: Tile, along: tuple[bool, bool], nb: int, bias: bool, split: bool) -> str:
    """The kernel `tensor`, of 16-bit floats: warp tiles of m16n8k16 products. `along`: whether a,
    and b, lie along k in memory, which decides how their tiles are kept."""
    threads = t.threads
    defines = {"BM": t.rows, "BN": t.columns, "BK": t.depth, "WM": t.own_rows,
               "WN": t.own_columns, "STAGES": t.stages, "THREADS": threads}
    # (rows, chunks a row) of a tile in shared memory, and (pitch, step, high, wide)
    a_rows, a_chunks = ("BM", "(BK / 8)") if along[0] else ("BK", "(BM / 8)")
    b_rows, b_chunks = ("BN", "(BK / 8)") if along[1] else ("BK", "(BN / 8)")
    a_walk = ("am", "ak") if along[0] else ("ak", "am")
    b_walk = ("bn", "bk") if along[1] else ("bk", "bn")

    def whole(x: str, walk: tuple[str, str], end: str) -> str:
        return (f"  const bool whole_{x} = {walk[1]} == 1 && {walk[0]} % 8 == 0 && {end} % 8 == 0 "
                f"&& (unsigned long long){x} % 16 == 0;")

    def fetch(x: str, rows: str, chunks: str, walk: tuple[str, str], side: str,
              k_wide: bool) -> str:
        ends = (side, "k1 - at") if k_wide else ("k1 - at", side)
        stride_k = walk[1] if k_wide else walk[0]
        return (f"    FETCH({x}_tiles + slot * {rows} * {chunks} * 8, {x} + at * {stride_k}, "
                f"{rows}, {chunks}, {walk[0]}, {walk[1]}, whole_{x}, {ends[0]}, {ends[1]}) \\")

    a_spot = (f"SPOT(wm + r * 16 + (lane & 15), q / 8 + (lane >> 4), {a_chunks})" if along[0] else
              f"SPOT(q + (lane & 7) + (lane >> 4) * 8, (wm + r * 16) / 8 + (lane >> 3 & 1), "
              f"{a_chunks})")
    b_spot = (f"SPOT(wn + s * 16 + (lane & 7) + (lane >> 4) * 8, q / 8 + (lane >> 3 & 1), "
              f"{b_chunks})" if along[1] else
              f"SPOT(q + (lane & 7) + (lane >> 3 & 1) * 8, (wn + s * 16) / 8 + (lane >> 4), "
              f"{b_chunks})")
    read = {True: "load_matrices", False: "load_turned"}
    added = [f"        if (i < m && j + {h} < n) v{h} += LOAD(e[i * em + (j + {h}) * en]);"
             for h in range(2)] if bias and not split else []
    # two columns at once where they are neighbours; parts are always dense
    target, row, value = ("w", "n", "v{h}") if split else ("c", "cm", "STORE(v{h})")
    step = "1" if split else "cn"
    both = ("*(float2 *)(w + i * n + j) = make_float2(v0, v1);" if split else
            "*(uint *)(c + i * cm + j) = pack2(v0, v1);")
    one = [f"if (j + {h} < n) {target}[i * {row} + (j + {h}) * {step}] = {value.format(h=h)};"
           for h in range(2)]
    return "\n".join([
        *_head(d, defines), instructions(d), _TILES,
        "#define BRING(number) { \\",
        "    const long at = k0 + (long)(number) * BK; const int slot = (number) % STAGES; \\",
        fetch("a", a_rows, a_chunks, a_walk, "rows", along[0]),
        fetch("b", b_rows, b_chunks, b_walk, "columns", along[1]),
        "  }",
        _signature("tensor", threads, 1 if t.own_rows * t.own_columns * threads > 524288 else 2,
                   nb, bias, split),
        "  LMP_DYN_SMEM(ushort, a_tiles);",
        "  ushort *const b_tiles = a_tiles + STAGES * BM * BK;",
        *_place(nb, bias, split),
        "  a += i0 * am; b += j0 * bn;",
        "  const int t = threadIdx.x, lane = t % 32, warp = t / 32;",
        "  const int rows = m - i0 < BM ? (int)(m - i0) : BM;",
        "  const int columns = n - j0 < BN ? (int)(n - j0) : BN;",
        whole("a", a_walk, "k" if along[0] else "m"), whole("b", b_walk, "k" if along[1] else "n"),
        "  const int wm = warp / (BN / WN) * WM, wn = warp % (BN / WN) * WN;",
        "  float acc[WM / 16][WN / 8][4];",
        "#pragma unroll",
        "  for (int r = 0; r < WM / 16; ++r)",
        "#pragma unroll",
        "    for (int s = 0; s < WN / 8; ++s)",
        "#pragma unroll",
        "      for (int h = 0; h < 4; ++h) acc[r][s][h] = 0;",
        "  const int steps = (int)((k1 - k0 + BK - 1) / BK);",
        "  for (int z = 0; z < STAGES - 1; ++z) {",
        "    if (z < steps) BRING(z)",
        "    end_copies();",
        "  }",
        "  for (int z = 0; z < steps; ++z) {",
        "    wait_copies<STAGES - 2>();",
        "    __syncthreads();",
        "    if (z + STAGES - 1 < steps) BRING(z + STAGES - 1)",
        "    end_copies();",
        f"    const ushort *const as = a_tiles + z % STAGES * {a_rows} * {a_chunks} * 8;",
        f"    const ushort *const bs = b_tiles + z % STAGES * {b_rows} * {b_chunks} * 8;",
        "#pragma unroll",
        "    for (int q = 0; q < BK; q += 16) {",
        "      uint x[WM / 16][4], y[WN / 16][4];",
        "#pragma unroll",
        "      for (int r = 0; r < WM / 16; ++r) {",
        f"        {read[along[0]]}(x[r], as + {a_spot} * 8);",
        "      }",
        "#pragma unroll",
        "      for (int s = 0; s < WN / 16; ++s) {",
        f"        {read[along[1]]}(y[s], bs + {b_spot} * 8);",
        "      }",
        "#pragma unroll",
        "      for (int r = 0; r < WM / 16; ++r)",
        "#pragma unroll",
        "        for (int s = 0; s < WN / 8; ++s)",
        "          mma(acc[r][s], x[r], y[s / 2][s % 2 * 2], y[s / 2][s % 2 * 2 + 1]);",
        "    }",
        "  }",
        "  const bool pairs = n % 2 == 0;" if split else
        "  const bool pairs = cn == 1 && cm % 2 == 0 && (unsigned long long)c % 4 == 0;",
        "#pragma unroll",
        "  for (int r = 0; r < WM / 16; ++r)",
        "#pragma unroll",
        "    for (int s = 0; s < WN / 8; ++s)",
        "#pragma unroll",
        "      for (int h = 0; h < 2; ++h) {",
        "        const long i = i0 + wm + r * 16 + h * 8 + lane / 4;",
        "        const long j = j0 + wn + s * 8 + lane % 4 * 2;",
        "        float v0 = acc[r][s][h * 2], v1 = acc[r][s][h * 2 + 1];", *added,
        f"        if (i < m && pairs && j + 1 < n) {{ {both} }}",
        f"        else if (i < m) {{ {' '.join(one)} }}",
        "      }",
        "}"])


# -- the parts of a split product -----------------------------------------------------------------


def parts(d: dtype, nb: int, bias: bool) -> str:
    """The kernel `parts`: c = the sum of `count` dense products in w (+ bias), in order."""
    names = ["m", "n", "cm", "cn", "count", "size", *(f"{x}{j}" for x in ("d", "cs")
                                                     for j in range(nb))]
    names += ["em", "en", *(f"es{j}" for j in range(nb))] if bias else []
    pointers = ["MEM *c", "const ARI *w", *(["const MEM *e"] if bias else [])]
    return "\n".join([
        *_head(d, {}),
        f"LMP_KERNEL void __launch_bounds__(256) parts(\n    {', '.join(pointers)},\n    "
        f"{', '.join(f'long {x}' for x in names)}) {{",
        "  const long at = LMP_GLOBAL_0;",
        "  if (at >= size) return;",
        "  const long batch = at / (m * n), i = at / n % m, j = at % n;",
        *_move(nb, "batch", ["c"] + ["e"] * bias),
        "  ARI total = w[at];",
        "  for (long p = 1; p < count; ++p) total += w[p * size + at];",
        f"  {_result(bias, False, 'total')}",
        "}"])
