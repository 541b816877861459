"""Text of the convolution kernels: implicit matrix products over tensors with channels last.

`gather` makes results or data gradients: rows are channels of the result, columns its positions,
and what is summed over are kernel positions and channels; operands come from global memory straight
into tiles of shared memory, patches are never built. Where there are few tiles it makes partial
sums, which `gather_sum` adds up in order. `weights` makes weight gradients: rows are
channels of the result, columns kernel positions and channels of the input, summed over positions in
parts, which `weights_sum` adds up in order. `pack` lays a tensor out with channels last, padded to
whole 16-byte chunks. float16 and bfloat16 multiply on tensor cores, float32 in float32. All index
arithmetic is in 32 bits within a tensor's positions, divisions by multiplication.

Imports this package's dialect and matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lampion.base import dtype as dt
from lampion.base.dtype import dtype

from .dialect import PRELUDE
from .matrix import COPIES, HALVES, tiles

THREADS = 256
COLUMNS = 128  # of a block's tile
STAGES = 3     # tiles in flight
TYPES = (*HALVES, dt.float32)


class Form(NamedTuple):
    """What a kernel's text depends on: the dtype, rows of a tile (`gather`: 16 to 128, else 64 or
    128), whether there are three space dims, whether there is a bias, whether `gather` makes
    partial sums."""

    dtype: dtype
    rows: int
    deep: bool = False
    bias: bool = False
    split: bool = False

    @property
    def chunk(self) -> int:
        """Elements of 16 bytes."""
        return 16 // self.dtype.itemsize


def gather_memory(form: Form) -> int:
    """Bytes of shared memory of `gather`: tiles with rows of 128 bytes (144 for float32), or what
    is written out at the end."""
    row = 128 if form.dtype in HALVES else 144
    out = form.rows * (COLUMNS + 8) * form.dtype.itemsize + 8 * COLUMNS
    return max(STAGES * (form.rows + COLUMNS) * row, out)


def depth(form: Form) -> int:
    """Positions that a step of `weights` sums over."""
    return 64 if form.dtype in HALVES else 32


def weights_memory(form: Form) -> int:
    """Bytes of shared memory of `weights`: two tiles of `depth` rows of 128 elements a stage."""
    row = 256 if form.dtype in HALVES else 528
    return STAGES * 2 * depth(form) * row


def _head(form: Form, width: int) -> str:
    half = form.dtype in HALVES
    # without tensor cores rows have 16 bytes more, against bank conflicts
    body = tiles(form.dtype, width) if half else f"""{COPIES}
constexpr int WIDTH = {width + 4};
static __forceinline__ __device__ int place(int row, int chunk) {{
  return row * WIDTH + (chunk << 2);
}}
static __forceinline__ __device__ float to_float(float x) {{ return x; }}
"""
    return f"""{PRELUDE}{body}
typedef {"ushort" if half else "float"} T;
constexpr int ROWS = {form.rows}, COLUMNS = {COLUMNS}, STAGES = {STAGES}, CHUNK = {form.chunk};
constexpr int THREADS = {THREADS}, DEEP = {int(form.deep)};
// n / d for n < 2^31, by the numbers that `divisor` in conv.py gives for d.
static __forceinline__ __device__ int quotient(int n, long magic, long shift) {{
  return (int)((__umulhi((uint)n, (uint)magic) + (uint)n) >> (uint)shift);
}}
static __forceinline__ __device__ void copy_chunk(T *to, const T *from, bool there, bool fast) {{
  if (fast) {{
    copy16(to, from, there);
  }} else {{
#pragma unroll 1
    for (int k = 0; k < CHUNK; ++k) to[k] = there ? from[k] : (T)0;
  }}
}}
"""


def _signature(name: str, out: str, ins: Sequence[str], numbers: Sequence[str],
               together: int = 1) -> str:
    """The head of a kernel, of which `together` blocks are to run on a multiprocessor at once."""
    parts = [f"{out} *__restrict__ out", *(f"const T *__restrict__ {n}" for n in ins),
             *(f"const long {n}" for n in numbers)]
    bounds = f"{THREADS}, {together}" if together > 1 else f"{THREADS}"
    return (f"LMP_KERNEL __launch_bounds__({bounds}) void {name}(\n    " + ",\n    ".join(parts)
            + ") {")


def _divided(*names: str) -> list[str]:
    return [n for name in names for n in (name, f"{name}_magic", f"{name}_shift")]


# Sizes of a tensor that is gathered from, strides of positions and kernel positions over it.
_GEOMETRY = ["pixel", "size_z", "size_y", "size_x", *_divided("space", "plane", "line"),
             *_divided("taps_plane", "taps_line", "channels"), "taps", "stride_z", "stride_y",
             "stride_x", "from_z", "from_y", "from_x", "move_z", "move_y", "move_x"]

_OUT = ["out_group", "out_from", "out_n", "out_channel", "out_z", "out_y", "out_x"]

# From position p: its example n and place z, y, x.
_POSITION = """\
const int n = quotient({p}, space_magic, space_shift), in_space = {p} - n * (int)space;
{i}const int z = DEEP ? quotient(in_space, plane_magic, plane_shift) : 0;
{i}const int in_plane = in_space - z * (int)plane;
{i}const int y = quotient(in_plane, line_magic, line_shift), x_ = in_plane - y * (int)line;"""

# From k, a channel of a kernel position: the channel c and the kernel position tz, ty, tx.
_TAP = """\
const int tap = quotient(k, channels_magic, channels_shift), c = k - tap * (int)channels;
{i}const bool there = tap < taps;
{i}const int tz = DEEP ? quotient(tap, taps_plane_magic, taps_plane_shift) : 0;
{i}const int in_tap = tap - tz * (int)taps_plane;
{i}const int ty = quotient(in_tap, taps_line_magic, taps_line_shift);
{i}const int tx = in_tap - ty * (int)taps_line;"""

_MULTIPLY = """\
static __forceinline__ __device__ float fma4(const float4 &a, const float4 &b, float c) {
  return __fmaf_rn(a.w, b.w, __fmaf_rn(a.z, b.z, __fmaf_rn(a.y, b.y, __fmaf_rn(a.x, b.x, c))));
}
"""


def gather_text(form: Form) -> tuple[str, list[str]]:
    """(text of `conv_gather`, integers): arguments are the result, the tensor that is gathered
    from, the packed weight (rows of kernel positions of channels), and a bias if there is one. With
    `split` the result is partial sums in float32 [part][group][row, position]."""
    half = form.dtype in HALVES
    names = ["rows", "positions", "fast", *_GEOMETRY, "weight_row", "tap_plane", "tap_line",
             "tap_z", "tap_y", "tap_x", "x_group", "w_from", "w_group"]
    names += ["span", "every", "sum_row", "sum_at"] if form.split else _OUT
    names += ["bias_stride"] if form.bias else []
    if half:
        start = """  float acc[MT][NT][4] = {};
  const int warp_row = warp / ACROSS * MT * 16, warp_column = warp % ACROSS * NT * 8;"""
        multiply = """\
    rows_by_rows<MT, NT, 4>(acc, w_tile + warp_row * WIDTH, x_tile + warp_column * WIDTH);"""
        part = """#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = m0 + warp_row + 16 * m + 8 * (e >> 1) + (l >> 2);
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        const int p = p0 + warp_column + 8 * n + 2 * (l & 3) + (e & 1);
        if (row < rows && p < positions) out[row * sum_row + p * sum_at] = acc[m][n][e];
      }
    }"""
        finish = f"""#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {{
      const int row = warp_row + 16 * m + 8 * h + (l >> 2);
      const float add = {"m0 + row < rows ? to_float(bias[(m0 + row) * bias_stride]) : 0.0f"
                         if form.bias else "0.0f"};
#pragma unroll
      for (int n = 0; n < NT; ++n)
        *(uint *)(result + row * PITCH + warp_column + 8 * n + 2 * (l & 3)) =
            pack2(acc[m][n][2 * h] + add, acc[m][n][2 * h + 1] + add);
    }}"""
    else:
        start = """  float acc[MT][8] = {};
  // a warp's threads: 4 rows by 8 columns, so that each reads of a tile what few others read
  const int thread_row = warp / 2 * 4 + l / 8, thread_column = warp % 2 * 8 + l % 8;"""
        multiply = """#pragma unroll 1
    for (int k = 0; k < 8; ++k) {
      float4 a[MT];
#pragma unroll
      for (int m = 0; m < MT; ++m)
        a[m] = *(const float4 *)(w_tile + place(thread_row + 16 * m, k));
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float4 b = *(const float4 *)(x_tile + place(thread_column + 16 * n, k));
#pragma unroll
        for (int m = 0; m < MT; ++m) acc[m][n] = fma4(a[m], b, acc[m][n]);
      }
    }"""
        part = """#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int row = m0 + thread_row + 16 * m, p = p0 + thread_column + 16 * n;
      if (row < rows && p < positions) out[row * sum_row + p * sum_at] = acc[m][n];
    }"""
        finish = f"""#pragma unroll
  for (int m = 0; m < MT; ++m) {{
    const int row = thread_row + 16 * m;
    const float add = {"m0 + row < rows ? to_float(bias[(m0 + row) * bias_stride]) : 0.0f"
                       if form.bias else "0.0f"};
#pragma unroll
    for (int n = 0; n < 8; ++n) result[row * PITCH + thread_column + 16 * n] = acc[m][n] + add;
  }}"""
    ins = ["x", "w", *(["bias"] if form.bias else [])]
    if form.split:
        moves = """\
  out += blockIdx.z * every + blockIdx.y * rows * positions;
  const int begin = (int)(blockIdx.z * span);"""
        steps = "(int)(begin + span < all ? span : all - begin)"
    else:
        moves = f"""\
  out += out_from + blockIdx.y * out_group;
  {"bias += blockIdx.y * rows * bias_stride;" if form.bias else ""}
  constexpr int begin = 0;"""
        steps = "all"
        part = f"""  // through shared memory, so that neighbours write neighbours
  T *const result = memory;
  long *const places = (long *)(memory + ROWS * PITCH);
{finish}
  for (int e = threadIdx.x; e < COLUMNS; e += THREADS) {{
    const int p = p0 + e;
    {_POSITION.format(p="p", i="    ")}
    places[e] = p < positions ? n * out_n + z * out_z + y * out_y + x_ * out_x : -1;
  }}
  __syncthreads();
  const bool channels_last = out_channel == 1;
  for (int e = threadIdx.x; e < ROWS * COLUMNS; e += THREADS) {{
    const int m = channels_last ? e % ROWS : e / COLUMNS;
    const int p = channels_last ? e / ROWS : e % COLUMNS;
    if (places[p] >= 0 && m0 + m < rows)
      out[places[p] + (m0 + m) * out_channel] = result[m * PITCH + p];
  }}"""
    text = f"""{_head(form, 64 if half else 32)}{"" if half else _MULTIPLY}
constexpr int PITCH = COLUMNS + 8, DEPTH = 8 * CHUNK;
// warps beside each other over the columns of a tile, and 16 rows and 8 columns of each
constexpr int ACROSS = ROWS < 32 ? 8 : 4, NT = COLUMNS / ACROSS / 8;
constexpr int MT = {"ROWS * ACROSS / 128" if half else "ROWS / 16"};
{_signature("conv_gather", "float" if form.split else "T", ins, names,
            2 if half or (form.split and not form.deep) else 1)}
  LMP_DYN_SMEM(T, memory);
  const int warp = threadIdx.x >> 5, l = threadIdx.x & 31;
  const int row_tiles = (int)((rows + ROWS - 1) / ROWS);
  const int m0 = (int)(blockIdx.x % row_tiles) * ROWS, p0 = (int)(blockIdx.x / row_tiles) * COLUMNS;
  x += blockIdx.y * x_group;
  w += w_from + blockIdx.y * w_group;
{moves}
  const bool quick = fast && !(((ulong)x | (ulong)w) & 15);
  // this thread fills one chunk of every 32nd row of both tiles
  const int chunk = threadIdx.x & 7, row = threadIdx.x >> 3;
  int at[COLUMNS / 32], at_z[COLUMNS / 32], at_y[COLUMNS / 32], at_x[COLUMNS / 32];
#pragma unroll
  for (int i = 0; i < COLUMNS / 32; ++i) {{
    const int p = p0 + row + 32 * i;
    {_POSITION.format(p="p", i="    ")}
    at_z[i] = z * (int)stride_z + (int)from_z;
    at_y[i] = y * (int)stride_y + (int)from_y;
    at_x[i] = x_ * (int)stride_x + (int)from_x;
    at[i] = ((n * (int)size_z + at_z[i]) * (int)size_y + at_y[i]) * (int)size_x + at_x[i];
    if (p >= positions) at_x[i] = -(1 << 30);  // nowhere
  }}
  auto load = [&](int stage, int step) {{
    const int k = (begin + step) * DEPTH + chunk * CHUNK;
    {_TAP.format(i="    ")}
    T *const w_tile = memory + stage * (ROWS + COLUMNS) * WIDTH;
    T *const x_tile = w_tile + ROWS * WIDTH;
    const int tap_at = tz * (int)(tap_z * tap_plane) + ty * (int)(tap_y * tap_line)
        + tx * (int)tap_x;
    const T *const w_at = w + (tap_at * (int)channels + c);
#pragma unroll
    for (int i = 0; i < (ROWS + 31) / 32; ++i) {{
      if (row + 32 * i >= ROWS) break;
      const bool use = there && m0 + row + 32 * i < rows;
      copy_chunk(w_tile + place(row + 32 * i, chunk),
                 use ? w_at + (m0 + row + 32 * i) * (int)weight_row : w, use, quick);
    }}
    const int dz = tz * (int)move_z, dy = ty * (int)move_y, dx = tx * (int)move_x;
    const int moved = (dz * (int)size_y + dy) * (int)size_x + dx;
#pragma unroll
    for (int i = 0; i < COLUMNS / 32; ++i) {{
      const bool use = there && (!DEEP || (uint)(at_z[i] + dz) < (uint)size_z)
          && (uint)(at_y[i] + dy) < (uint)size_y && (uint)(at_x[i] + dx) < (uint)size_x;
      copy_chunk(x_tile + place(row + 32 * i, chunk),
                 use ? x + ((at[i] + moved) * (int)pixel + c) : x, use, quick);
    }}
  }};
  const int all = (int)((taps * channels + DEPTH - 1) / DEPTH), steps = {steps};
{start}
  for (int s = 0; s < STAGES - 1; ++s) {{
    if (s < steps) load(s, s);
    end_copies();
  }}
  for (int step = 0; step < steps; ++step) {{
    wait_copies<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) load((step + STAGES - 1) % STAGES, step + STAGES - 1);
    end_copies();
    const T *const w_tile = memory + step % STAGES * (ROWS + COLUMNS) * WIDTH;
    const T *const x_tile = w_tile + ROWS * WIDTH;
{multiply}
  }}
  wait_copies<0>();
  __syncthreads();
{part}
}}
"""
    return text, names


def gather_sum_text(form: Form) -> tuple[str, list[str]]:
    """(text of `conv_gather_sum`, integers): the result of `conv_gather` from `parts` partial sums,
    whose inner dim is that of the result."""
    half = form.dtype in HALVES
    names = ["every", "parts", "sum_row", "rows", *_divided("inner", "outer", "space", "plane",
                                                             "line"), *_OUT]
    names += ["bias_stride"] if form.bias else []
    bias = ", const T *__restrict__ bias" if form.bias else ""
    add = " + to_float(bias[(group * rows + m) * bias_stride])" if form.bias else ""
    text = f"""{_head(form, 32)}
LMP_KERNEL __launch_bounds__({THREADS}) void conv_gather_sum(T *__restrict__ out,
    const float *__restrict__ sums{bias}, {", ".join(f"const long {n}" for n in names)}) {{
  const long at = (long)blockIdx.x * THREADS + threadIdx.x;
  if (at >= every) return;
  const int rest = quotient((int)at, inner_magic, inner_shift);
  const int i = (int)at - rest * (int)inner;
  const int group = quotient(rest, outer_magic, outer_shift), o = rest - group * (int)outer;
  const int m = sum_row == 1 ? i : o, p = sum_row == 1 ? o : i;
  float total = 0.0f;
  // one after the other, but read several at a time
#pragma unroll 8
  for (long part = 0; part < parts; ++part) total += sums[part * every + at];
  {_POSITION.format(p="p", i="  ")}
  total = total{add};
  out[out_from + group * out_group + n * out_n + m * out_channel + z * out_z + y * out_y
      + x_ * out_x] = {"to_half(total)" if half else "total"};
}}
"""
    return text, names


_COLUMNS_BY_COLUMNS = """\
// acc += a^T b over the rows of two tiles: MT x 16 columns of a (from chunk `a0`) by 32 of b.
static __forceinline__ __device__ void columns_by_columns(float (&acc)[MT][4][4], const ushort *a,
                                                          int a0, const ushort *b, int b0) {
  const int l = threadIdx.x & 31, ra = (l & 7) + ((l >> 4) << 3), rb = l & 15;
  const int ta = ((l >> 3) & 1) ^ turn_of(ra), tb = (l >> 4) ^ turn_of(rb);
#pragma unroll 2
  for (int k = 0; k < DEPTH / 16; ++k) {
    uint fa[MT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m)
      load_turned(fa[m], a + (16 * k + ra) * WIDTH + turned(a0 + 2 * m, ta));
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
      uint fb[4];
      load_turned(fb, b + (16 * k + rb) * WIDTH + turned(b0 + n, tb));
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        mma(acc[m][n], fa[m], fb[0], fb[1]);
        mma(acc[m][n + 1], fa[m], fb[2], fb[3]);
      }
    }
  }
}
"""


def weights_text(form: Form) -> tuple[str, list[str]]:
    """(text of `conv_weights`, integers): arguments are the partial sums in float32 [part][group]
    [row][kernel position, channel], the input, and the gradient of the result."""
    half = form.dtype in HALVES
    names = ["rows", "positions", "span", "fast", *_GEOMETRY, "grad_pixel", "x_group",
             "grad_group"]
    if half:
        start = """  float acc[MT][4][4] = {};
  const int warp_row = warp / 4 * MT * 16, warp_column = warp % 4 * 32;"""
        multiply = """\
    columns_by_columns(acc, g_tile, warp_row / 8, x_tile, warp_column / 8);"""
        finish = """#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const int row = m0 + warp_row + 16 * m + 4 * e + (l >> 2);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int column = n0 + warp_column + 8 * n + 2 * (l & 3);
        if (row < rows && column < columns)
          *(float2 *)(out + row * columns + column) = make_float2(acc[m][n][e], acc[m][n][e + 1]);
      }
    }"""
    else:
        start = """  float acc[MT][8] = {};
  const int thread_row = 4 * (warp / 2 * 4 + l / 8), thread_column = 4 * (warp % 2 * 8 + l % 8);"""
        multiply = """#pragma unroll 4
    for (int k = 0; k < DEPTH; ++k) {
      float a[MT], b[8];
#pragma unroll
      for (int m = 0; m < MT; m += 4)
        *(float4 *)(a + m) = *(const float4 *)(g_tile + k * WIDTH + thread_row + 16 * m);
#pragma unroll
      for (int n = 0; n < 8; n += 4)
        *(float4 *)(b + n) = *(const float4 *)(x_tile + k * WIDTH + thread_column + 16 * n);
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int n = 0; n < 8; ++n) acc[m][n] = __fmaf_rn(a[m], b[n], acc[m][n]);
    }"""
        finish = """#pragma unroll
  for (int m = 0; m < MT; ++m) {
    const int row = m0 + thread_row + 16 * (m & ~3) + (m & 3);
#pragma unroll
    for (int n = 0; n < 8; n += 4) {
      const int column = n0 + thread_column + 16 * n;
      if (row < rows && column < columns)
        *(float4 *)(out + row * columns + column) = make_float4(
            acc[m][n], acc[m][n + 1], acc[m][n + 2], acc[m][n + 3]);
    }
  }"""
    text = f"""{_head(form, 128)}
constexpr int MT = {"ROWS / 32" if half else "ROWS / 16"}, DEPTH = {depth(form)};
constexpr int CHUNKS = COLUMNS / CHUNK, STEP = THREADS / CHUNKS;
{_COLUMNS_BY_COLUMNS if half else ""}
{_signature("conv_weights", "float", ["x", "grad"], names, 2 if half else 1)}
  LMP_DYN_SMEM(T, memory);
  const int warp = threadIdx.x >> 5, l = threadIdx.x & 31;
  const long columns = taps * channels;
  const int row_tiles = (int)((rows + ROWS - 1) / ROWS);
  const int m0 = (int)(blockIdx.x % row_tiles) * ROWS, n0 = (int)(blockIdx.x / row_tiles) * COLUMNS;
  x += blockIdx.y * x_group;
  grad += blockIdx.y * grad_group;
  out += ((long)blockIdx.z * gridDim.y + blockIdx.y) * rows * columns;
  const int begin = (int)(blockIdx.z * span);
  const int end = (int)(begin + span < positions ? begin + span : positions);
  const bool quick = fast && !(((ulong)x | (ulong)grad) & 15);
  // this thread fills one chunk of every STEPth row of both tiles: one kernel position
  const int chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS, k = n0 + chunk * CHUNK;
  {_TAP.format(i="  ")}
  const int dz = tz * (int)move_z + (int)from_z, dy = ty * (int)move_y + (int)from_y;
  const int dx = tx * (int)move_x + (int)from_x;
  auto load = [&](int stage, int step) {{
    T *const g_tile = memory + stage * 2 * DEPTH * WIDTH, *const x_tile = g_tile + DEPTH * WIDTH;
#pragma unroll
    for (int i = 0; i < DEPTH / STEP; ++i) {{
      const int p = begin + step * DEPTH + row + STEP * i;
      {_POSITION.format(p="p", i="      ")}
      if (chunk * CHUNK < ROWS) {{
        const bool use = p < end && m0 + chunk * CHUNK < rows;
        copy_chunk(g_tile + place(row + STEP * i, chunk),
                   use ? grad + (p * (int)grad_pixel + m0 + chunk * CHUNK) : grad, use, quick);
      }}
      const int iz = z * (int)stride_z + dz, iy = y * (int)stride_y + dy;
      const int ix = x_ * (int)stride_x + dx;
      const bool use = there && p < end && (!DEEP || (uint)iz < (uint)size_z)
          && (uint)iy < (uint)size_y && (uint)ix < (uint)size_x;
      const int from = ((n * (int)size_z + iz) * (int)size_y + iy) * (int)size_x + ix;
      copy_chunk(x_tile + place(row + STEP * i, chunk), use ? x + (from * (int)pixel + c) : x, use,
                 quick);
    }}
  }};
  const int steps = end > begin ? (end - begin + DEPTH - 1) / DEPTH : 0;
{start}
  for (int s = 0; s < STAGES - 1; ++s) {{
    if (s < steps) load(s, s);
    end_copies();
  }}
  for (int step = 0; step < steps; ++step) {{
    wait_copies<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) load((step + STAGES - 1) % STAGES, step + STAGES - 1);
    end_copies();
    const T *const g_tile = memory + step % STAGES * 2 * DEPTH * WIDTH;
    const T *const x_tile = g_tile + DEPTH * WIDTH;
{multiply}
  }}
  wait_copies<0>();
{finish}
}}
"""
    return text, names


def sum_text(form: Form) -> tuple[str, list[str]]:
    """(text of `conv_weights_sum`, integers): the weight gradient from `parts` partial sums."""
    half = form.dtype in HALVES
    names = ["all", "parts", "given", "rows", *_divided("row", "channels", "taps_plane",
                                                        "taps_line"),
             "out_row", "out_channel", "out_z", "out_y", "out_x"]
    text = f"""{_head(form, 32)}
LMP_KERNEL __launch_bounds__({THREADS}) void conv_weights_sum(T *__restrict__ out,
    const float *__restrict__ sums, {", ".join(f"const long {n}" for n in names)}) {{
  const long at = (long)blockIdx.x * THREADS + threadIdx.x;
  if (at >= all) return;
  const int m = quotient((int)at, row_magic, row_shift), k = (int)at - m * (int)row;
  const int tap = quotient(k, channels_magic, channels_shift), c = k - tap * (int)channels;
  if (c >= given || m >= rows) return;
  float total = 0.0f;
  // one after the other, but read several at a time
#pragma unroll 8
  for (long part = 0; part < parts; ++part) total += sums[part * all + at];
  const int tz = quotient(tap, taps_plane_magic, taps_plane_shift);
  const int in_tap = tap - tz * (int)taps_plane;
  const int ty = quotient(in_tap, taps_line_magic, taps_line_shift);
  const int tx = in_tap - ty * (int)taps_line;
  out[m * out_row + c * out_channel + tz * out_z + ty * out_y + tx * out_x] =
      {"to_half(total)" if half else "total"};
}}
"""
    return text, names


# 16 bytes at a time: a thread reads 8 positions of two channels, and writes the pairs of each.
_WIDE_PACK = """\
  if (!along && dense && !((x_channel | positions) & 7) && !((ulong)x & 15)) {
    const int i = (threadIdx.x & 7) * 8, j = (threadIdx.x >> 3) * 2;
    uint4 a = make_uint4(0, 0, 0, 0), b = a;
    if (p0 + i < positions && c0 + j < given)
      a = *(const uint4 *)(x + (c0 + j) * x_channel + p0 + i);
    if (p0 + i < positions && c0 + j + 1 < given)
      b = *(const uint4 *)(x + (c0 + j + 1) * x_channel + p0 + i);
    const uint low[4] = {a.x, a.y, a.z, a.w}, high[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      *(uint *)&tile[i + 2 * r][j] = (low[r] & 0xffffu) | high[r] << 16;
      *(uint *)&tile[i + 2 * r + 1][j] = low[r] >> 16 | (high[r] & 0xffff0000u);
    }
  } else
"""


def pack_text(form: Form) -> tuple[str, list[str]]:
    """(text of `conv_pack`, integers): out[n][position][channel], `channels` of them with zeros
    after the `given` ones. Index n has two strides: n / inner and n % inner."""
    names = ["positions", "given", "channels", "inner", *_divided("plane", "line"), "x_outer",
             "x_inner", "x_channel", "x_z", "x_y", "x_x"]
    wide = _WIDE_PACK if form.dtype in HALVES else ""
    text = f"""{_head(form, 32)}
{_signature("conv_pack", "T", ["x"], names)}
  __align__(16) __shared__ T tile[64][66];
  const int p0 = (int)blockIdx.x * 64, c0 = (int)blockIdx.y * 64, n = (int)blockIdx.z;
  x += n / inner * x_outer + n % inner * x_inner;
  out += n * positions * channels;
  // neighbours read neighbours: along channels, or else along positions
  const bool along = x_channel == 1, dense = x_x == 1 && x_y == line && x_z == plane;
{wide}#pragma unroll 8
  for (int e = threadIdx.x; e < 64 * 64; e += THREADS) {{
    const int i = along ? e / 64 : e % 64, j = along ? e % 64 : e / 64, p = p0 + i, c = c0 + j;
    long at = p;
    if (!dense) {{
      const int z = quotient(p, plane_magic, plane_shift), in_plane = p - z * (int)plane;
      const int y = quotient(in_plane, line_magic, line_shift), x_ = in_plane - y * (int)line;
      at = z * x_z + y * x_y + x_ * x_x;
    }}
    tile[i][j] = p < positions && c < given ? x[c * x_channel + at] : (T)0;
  }}
  __syncthreads();
  // a row of the result is whole chunks of 16 bytes; one of the tile starts at a multiple of 4
#pragma unroll 4
  for (int e = threadIdx.x; e < 64 * 64 / CHUNK; e += THREADS) {{
    const int i = e * CHUNK / 64, j = e * CHUNK % 64;
    const uint *const from = (const uint *)&tile[i][j];
    if (p0 + i < positions && c0 + j < channels)
      *(uint4 *)(out + (p0 + i) * channels + c0 + j) =
          make_uint4(from[0], from[1], from[2], from[3]);
  }}
}}
"""
    return text, names
