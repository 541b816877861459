"""Text of the attention kernels: forward, and backward by keys and by queries.

One block of threads owns a block of rows (queries; keys in the backward pass for keys and values)
and walks blocks of the other side, of which two are in shared memory: one in use, one arriving.
Scores live in registers only. Softmax is the online one of Milakov and Gimelshein, arranged as in
FlashAttention-2 (Dao, 2023): a warp owns whole rows, and the accumulators of one product are the
fragments of the next. Products are those of `matrix` for float16 and bfloat16, of `matrix_float`
for float32. The gradients of keys and of queries come from two kernels, so that nothing
is added up by atomics and results are the same every time. Imports this package's dialect, matrix
and matrix_float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lampion.base.dtype import dtype

from . import matrix, matrix_float
from .dialect import PRELUDE
from .matrix import HALVES

WARPS = 4  # of a block of threads, as a rule


class Form(NamedTuple):
    """What a kernel's text depends on. `width`: of a row in shared memory, at least the widths of
    query and value. `mask`: "" (none), "bool" or "added" (in the dtype of the query). `wanted`: of
    the kernel by keys, "kv", "k" or "v". `tf32`: whether products of float32 may be in TF32."""

    dtype: dtype
    width: int
    mask: str
    batch: int        # number of batch dims
    shared: int = 0   # kernel by keys: how many of them, the last, share keys and values
    wanted: str = "kv"
    tf32: bool = False

    @property
    def half(self) -> bool:
        """Whether elements have 16 bits."""
        return self.dtype in HALVES

    def tiles(self, width: int) -> str:
        """Text of the functions over tiles."""
        return matrix.tiles(self.dtype, width) if self.half else matrix_float.tiles(
            width, self.tf32)


class Shape(NamedTuple):
    """Sizes of a kernel: 16-row tiles of a warp, rows of a block on the other side, warps."""

    tiles: int
    inner: int
    warps: int = WARPS

    @property
    def rows(self) -> int:
        """Rows that a block of threads owns."""
        return 16 * self.tiles * self.warps

    def shared_memory(self, form: Form, owned: int) -> int:
        """Bytes: `owned` tiles that stay, two walked ones that are held twice, and numbers."""
        return (form.dtype.itemsize * form.width * (owned * self.rows + 4 * self.inner)
                + 16 * self.inner)


# Sizes are as large as registers allow: more rows a warp, for a tile of the walked side that is
# read once serves them all; masks take registers too. Those of float32 leave room for two blocks a
# multiprocessor of compute capability 8.0 and 9.0, and fit 99 KiB, which is what others have.

def forward_shape(form: Form) -> Shape:
    """Sizes of the forward kernel."""
    width, mask = form.width, form.mask
    if not form.half:
        return (Shape(2, 32) if width <= 96 else Shape(2, 16) if width <= 128 else
                Shape(1, 16, 4 if width <= 192 else 2))
    if width <= 128:
        return Shape(2, 64 if width <= 64 and not mask else 32)
    return Shape(1, 16 if mask else 32)


def queries_shape(form: Form) -> Shape:
    """Sizes of the backward kernel by queries."""
    if not form.half:
        return _float_shape(form, 2)
    if form.width <= 128:
        return Shape(2, 16 if form.mask else 32)
    return Shape(1, 16 if form.mask else 32)


def keys_shape(form: Form) -> Shape:
    """Sizes of the backward kernel by keys."""
    width, mask = form.width, form.mask
    if not form.half:
        return _float_shape(form, 1)
    if width <= 64 and not mask:
        return Shape(2, 32)
    if width <= 128:
        return Shape(1, 48 if mask else 64)
    return Shape(1, 16 if mask else 32)


def _float_shape(form: Form, tiles: int) -> Shape:
    """Of a backward kernel of float32, with `tiles` where rows are short."""
    width = form.width
    if width <= 64:
        return Shape(tiles, 32)
    if width <= 128:
        return Shape(1, 32 if width <= 96 else 16)
    return Shape(1, 16 if width <= 192 else 8, 2)


def _move(dims: range, pointers: Mapping[str, str], index: str) -> str:
    """Statements that add to each pointer the offset of batch `index`, counted over `dims`, by the
    strides of the tensor that it is mapped to."""
    lines = [f"  {{ long left = {index};"]
    for j in reversed(dims):
        lines.append(f"    {{ const long c = left % d{j}; left /= d{j};")
        lines += [f"      {p} += c * {t}_s{j};" for p, t in pointers.items()]
        lines.append("    }")
    return "\n".join([*lines, "  }"])


def _signature(form: Form, name: str, outs: Sequence[str], ins: Sequence[str],
               numbers: Sequence[str], warps: int) -> str:
    parts = [*(f"{t} *__restrict__ {n}" for t, n in (o.split() for o in outs)),
             *(f"const {t} *__restrict__ {n}" for t, n in (i.split() for i in ins)),
             *(f"const long {n}" for n in numbers)]
    # Two blocks a multiprocessor, where the compiler would else spill registers to fit a third.
    two = form.mask or form.width > 128 or not form.half
    bounds = f"{32 * warps}{', 2' if two else ''}"
    return (f"LMP_KERNEL __launch_bounds__({bounds}) void {name}(\n    " + ",\n    ".join(parts)
            + ") {")


def numbers(form: Form, strided: Sequence[str]) -> list[str]:
    """Names of the integer arguments: sizes, then per tensor its strides over the batch dims and
    its row and column strides."""
    out = ["queries", "keys", "width", "depth", "scale_bits", "flags"]
    out += [f"d{j}" for j in range(form.batch)]
    for t in strided:
        out += [f"{t}_s{j}" for j in range(form.batch)]
        out += [f"{t}_row", f"{t}_column"]
    return out


_COMMON = """\
static __forceinline__ __device__ float over_lanes_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
static __forceinline__ __device__ float over_lanes_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
template <int MT, int NT> static __forceinline__ __device__ void clear(float (&acc)[MT][NT][4]) {
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[m][n][e] = 0.0f;
}
// Accumulators of rows row0... times `factor` (per 8-row part) to memory.
template <int MT, int NT>
static __forceinline__ __device__ void store_rows(T *to, long stride, int row0, int rows,
                                                  int width, const float (&acc)[MT][NT][4],
                                                  const float (&factor)[MT][2]) {
  const int l = threadIdx.x & 31;
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = row0 + 16 * m + 8 * h + (l >> 2);
      if (row >= rows) continue;
      T *at = to + row * stride;
      // pairs of columns in one piece where every row starts at an even place
      const bool pairs = !((stride | width) & 1) && !((ulong)to & (2 * sizeof(T) - 1));
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        const int column = 8 * n + 2 * (l & 3);
        const float x = acc[m][n][2 * h] * factor[m][h], y = acc[m][n][2 * h + 1] * factor[m][h];
        if (pairs) {
          if (column < width) store_pair(at + column, x, y);
        } else {
          if (column < width) at[column] = to_type(x);
          if (column + 1 < width) at[column + 1] = to_type(y);
        }
      }
    }
}
"""


_FAST = """\
  const bool fast = (flags & 1) && !(((ulong)query | (ulong)key | (ulong)value) & 15);"""
_FAST_GRAD = """
  const bool fast_grad = (flags & 2) && !((ulong)grad & 15);"""


def _defines(form: Form, shape: Shape) -> str:
    return (f"{PRELUDE}{form.tiles(form.width)}"
            f"constexpr int WARPS = {shape.warps}, THREADS = 32 * WARPS, MT = {shape.tiles};\n"
            f"constexpr int ROWS = {shape.rows}, INNER = {shape.inner}, NT = INNER / 8;\n"
            f"constexpr int WT = WIDTH / 8, KT = INNER / LEFT_COLUMNS;\n{_COMMON}")


_ROW, _COLUMN = "first_row + 16 * m + 8 * (e >> 1)", "first_column + 8 * n + (e & 1)"


def _masking(form: Form, query: str, key: str) -> str:
    """Statements that turn scores (in powers of 2, if there is a mask) into what counts: at m, n, e
    is the score of `query` and `key`."""
    loops = """\
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {"""
    firsts = "      const int first_row = anew(row0), first_column = anew(column0);"
    lines = []
    if form.mask:
        at = f"mask[(long)({query}) * row_stride + (long)({key}) * column_stride]"
        change = (f"s = {at} ? s : -INFINITY" if form.mask == "bool" else
                  f"s = __fmaf_rn(to_float({at}), 1.44269504f, s)")
        lines += ["    {", firsts,
                  "      const int row_stride = anew((int)mask_row);",
                  "      const int column_stride = anew((int)mask_column);",
                  loops,
                  "            float &s = scores[m][n][e];", "            s *= scale;",
                  f"            if (({query}) < queries && ({key}) < keys) {change};",
                  "          }", "    }"]
    lines += ["    if (edge) {", firsts, loops,
              f"            if (({key}) >= keys || (causal && ({key}) > ({query})))",
              "              scores[m][n][e] = -INFINITY;", "          }", "    }"]
    return "\n".join(lines)


def forward_text(form: Form) -> tuple[str, list[str]]:
    """(text of the kernel `attention`, names of its integers): arguments are out, logsumexp, query,
    key, value and the mask, if there is one."""
    shape = forward_shape(form)
    strided = ["out", "query", "key", "value"] + (["mask"] if form.mask else [])
    names = numbers(form, strided)
    ins = ["T query", "T key", "T value"]
    if form.mask:
        ins.append(f"{'uchar' if form.mask == 'bool' else 'T'} mask")
    text = f"""{_defines(form, shape)}
{_signature(form, "attention", ["T out", "float logsumexp"], ins, names, shape.warps)}
  LMP_DYN_SMEM(T, memory);
  T *const own = memory, *const walked = memory + ROWS * WIDTH;
  const float scale = __int_as_float((int)scale_bits);
  const bool causal = flags & 4;
  const int blocks = (int)((queries + ROWS - 1) / ROWS);
  const long batch = blockIdx.x / blocks;
  const int part = (int)(blockIdx.x % blocks);
  // blocks with the most to do come first
  const int first = (causal ? blocks - 1 - part : part) * ROWS;
{_move(range(form.batch), {t: t for t in strided}, "batch")}
  logsumexp += batch * queries;
{_FAST}
  const int warp = threadIdx.x >> 5, l = threadIdx.x & 31;
  const int end = (int)(causal && first + ROWS < keys ? first + ROWS : keys);
  load_tile<ROWS, THREADS>(own, query + first * query_row, (int)query_row, (int)query_column,
                           (int)queries - first, (int)width, fast);
  load_tile<INNER, THREADS>(walked, key, (int)key_row, (int)key_column, (int)keys, (int)width,
                            fast);
  load_tile<INNER, THREADS>(walked + INNER * WIDTH, value, (int)value_row, (int)value_column,
                            (int)keys, (int)depth, fast);
  end_copies();
  float acc[MT][WT][4], top[MT][2], total[MT][2];
  clear(acc);
  const int own0 = first + warp * MT * 16, row0 = own0 + (l >> 2);
#pragma unroll
  for (int m = 0; m < MT; ++m) {{
    top[m][0] = top[m][1] = -INFINITY;
    total[m][0] = total[m][1] = 0.0f;
  }}
  for (int start = 0, turn = 0; start < end; start += INNER, turn ^= 1) {{
    wait_copies<0>();
    __syncthreads();
    const T *const k = walked + turn * 2 * INNER * WIDTH;
    if (start + INNER < end) {{
      const int next = start + INNER;
      T *const to = walked + (turn ^ 1) * 2 * INNER * WIDTH;
      load_tile<INNER, THREADS>(to, key + next * key_row, (int)key_row, (int)key_column,
                                (int)keys - next, (int)width, fast);
      load_tile<INNER, THREADS>(to + INNER * WIDTH, value + next * value_row, (int)value_row,
                                (int)value_column, (int)keys - next, (int)depth, fast);
      end_copies();
    }}
    float scores[MT][NT][4];
    clear(scores);
    rows_by_rows<MT, NT, 4>(scores, own + warp * MT * 16 * WIDTH, k);
    const int column0 = start + 2 * (l & 3);
    const bool edge = start + INNER > keys || (causal && start + INNER - 1 > own0);
{_masking(form, _ROW, _COLUMN)}
    Left weights[KT][MT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m) {{
#pragma unroll
      for (int h = 0; h < 2; ++h) {{
        float most = -INFINITY;
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            most = fmaxf(most, scores[m][n][2 * h + e]);
        most = fmaxf(top[m][h], over_lanes_max(most));
        const float base = most == -INFINITY ? 0.0f : most{"" if form.mask else " * scale"};
        const float shrink = power2({"top[m][h] - base" if form.mask else
                                     "__fmaf_rn(top[m][h], scale, -base)"});
        top[m][h] = most;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {{
            float &s = scores[m][n][2 * h + e];
            s = power2({"s - base" if form.mask else "__fmaf_rn(s, scale, -base)"});
            sum += s;
          }}
        total[m][h] = __fmaf_rn(total[m][h], shrink, sum);
#pragma unroll
        for (int n = 0; n < WT; ++n) {{
          acc[m][n][2 * h] *= shrink;
          acc[m][n][2 * h + 1] *= shrink;
        }}
      }}
      as_left(weights, scores, m);
    }}
    by_columns<MT, WT, KT>(acc, weights, k + INNER * WIDTH);
  }}
  float factor[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {{
      const float sum = over_lanes_sum(total[m][h]);
      const int row = row0 + 16 * m + 8 * h;
      factor[m][h] = sum == 0.0f ? 0.0f : 1.0f / sum;
      if ((l & 3) == 0 && row < queries)
        logsumexp[row] = sum == 0.0f ? -INFINITY
            : (top[m][h]{"" if form.mask else " * scale"} + log2f(sum)) * 0.693147181f;
    }}
  store_rows(out, out_row, own0, (int)queries, (int)depth, acc, factor);
}}
"""
    return text, names


def sums_text(form: Form) -> tuple[str, list[str]]:
    """(text of `row_sums`, integers): sums[batch][row] = the sum of grad * out over a row, a warp
    to a row."""
    strided = ["grad", "out"]
    names = ["rows", "queries", "depth", *(f"d{j}" for j in range(form.batch))]
    for t in strided:
        names += [*(f"{t}_s{j}" for j in range(form.batch)), f"{t}_row", f"{t}_column"]
    text = f"""{PRELUDE}{form.tiles(32)}constexpr int WARPS = {WARPS};
{_signature(form, "row_sums", ["float sums"], ["T grad", "T out"], names, WARPS)}
  const long at = (long)blockIdx.x * WARPS + (threadIdx.x >> 5);
  if (at >= rows) return;
  const long batch = at / queries, row = at % queries;
{_move(range(form.batch), {t: t for t in strided}, "batch")}
  grad += row * grad_row;
  out += row * out_row;
  float sum = 0.0f;
  for (long c = threadIdx.x & 31; c < depth; c += 32)
    sum = __fmaf_rn(to_float(grad[c * grad_column]), to_float(out[c * out_column]), sum);
  for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if ((threadIdx.x & 31) == 0) sums[at] = sum;
}}
"""
    return text, names


def queries_text(form: Form) -> tuple[str, list[str]]:
    """(text of `attention_queries`, integers): the gradient of queries, arguments out, grad, query,
    key, value, the mask if there is one, logsumexp, sums."""
    shape = queries_shape(form)
    strided = ["out", "grad", "query", "key", "value"] + (["mask"] if form.mask else [])
    names = numbers(form, strided)
    ins = ["T grad", "T query", "T key", "T value"]
    if form.mask:
        ins.append(f"{'uchar' if form.mask == 'bool' else 'T'} mask")
    ins += ["float logsumexp", "float sums"]
    text = f"""{_defines(form, shape)}
{_signature(form, "attention_queries", ["T out"], ins, names, shape.warps)}
  LMP_DYN_SMEM(T, memory);
  T *const own = memory, *const walked = memory + 2 * ROWS * WIDTH;
  const float scale = __int_as_float((int)scale_bits);
  const bool causal = flags & 4;
  const int blocks = (int)((queries + ROWS - 1) / ROWS);
  const long batch = blockIdx.x / blocks;
  const int part = (int)(blockIdx.x % blocks);
  const int first = (causal ? blocks - 1 - part : part) * ROWS;
{_move(range(form.batch), {t: t for t in strided}, "batch")}
  logsumexp += batch * queries;
  sums += batch * queries;
{_FAST}{_FAST_GRAD}
  const int warp = threadIdx.x >> 5, l = threadIdx.x & 31;
  const int end = (int)(causal && first + ROWS < keys ? first + ROWS : keys);
  load_tile<ROWS, THREADS>(own, query + first * query_row, (int)query_row, (int)query_column,
                           (int)queries - first, (int)width, fast);
  load_tile<ROWS, THREADS>(own + ROWS * WIDTH, grad + first * grad_row, (int)grad_row,
                           (int)grad_column, (int)queries - first, (int)depth, fast_grad);
  load_tile<INNER, THREADS>(walked, key, (int)key_row, (int)key_column, (int)keys, (int)width,
                            fast);
  load_tile<INNER, THREADS>(walked + INNER * WIDTH, value, (int)value_row, (int)value_column,
                            (int)keys, (int)depth, fast);
  end_copies();
  float acc[MT][WT][4], base[MT][2], inner[MT][2];
  clear(acc);
  const int own0 = first + warp * MT * 16, row0 = own0 + (l >> 2);
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {{
      const int row = row0 + 16 * m + 8 * h;
      const float known = row < queries ? logsumexp[row] : -INFINITY;
      base[m][h] = known == -INFINITY ? INFINITY : known * 1.44269504f;
      inner[m][h] = row < queries ? sums[row] : 0.0f;
    }}
  for (int start = 0, turn = 0; start < end; start += INNER, turn ^= 1) {{
    wait_copies<0>();
    __syncthreads();
    const T *const k = walked + turn * 2 * INNER * WIDTH;
    if (start + INNER < end) {{
      const int next = start + INNER;
      T *const to = walked + (turn ^ 1) * 2 * INNER * WIDTH;
      load_tile<INNER, THREADS>(to, key + next * key_row, (int)key_row, (int)key_column,
                                (int)keys - next, (int)width, fast);
      load_tile<INNER, THREADS>(to + INNER * WIDTH, value + next * value_row, (int)value_row,
                                (int)value_column, (int)keys - next, (int)depth, fast);
      end_copies();
    }}
    float scores[MT][NT][4], grads[MT][NT][4];
    clear(scores);
    clear(grads);
    rows_by_rows<MT, NT>(scores, own + warp * MT * 16 * WIDTH, k);
    rows_by_rows<MT, NT>(grads, own + (ROWS + warp * MT * 16) * WIDTH, k + INNER * WIDTH);
    const int column0 = start + 2 * (l & 3);
    const bool edge = start + INNER > keys || (causal && start + INNER - 1 > own0);
{_masking(form, _ROW, _COLUMN)}
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {{
          const float s = scores[m][n][e];
          const float p = power2({"s - base[m][e >> 1]" if form.mask else
                                  "__fmaf_rn(s, scale, -base[m][e >> 1])"});
          scores[m][n][e] = p * (grads[m][n][e] - inner[m][e >> 1]);
        }}
    Left left[KT][MT][4];
    as_left(left, scores);
    by_columns<MT, WT, KT>(acc, left, k);
  }}
  float factor[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) factor[m][0] = factor[m][1] = scale * 0.693147181f;
  store_rows(out, out_row, own0, (int)queries, (int)width, acc, factor);
}}
"""
    return text, names


def keys_text(form: Form) -> tuple[str, list[str]]:
    """(text of `attention_keys`, integers): gradients of keys and values, arguments out_key,
    out_value (those `wanted`), grad, query, key, value, the mask if there is one, logsumexp, sums.

    The last `shared` batch dims are those that keys and values do not have: a block of threads adds
    up all of them. Scores are computed transposed, a row to a key.
    """
    shape = keys_shape(form)
    wanted = [f"out_{n}" for n, c in (("key", "k"), ("value", "v")) if c in form.wanted]
    masks = ["mask"] if form.mask else []
    strided = [*wanted, "grad", "query", "key", "value", *masks]
    kept = form.batch - form.shared
    # logsumexp and sums have strides over the batch dims too: the dims are in another order here
    names = [*numbers(form, strided), *(f"known_s{j}" for j in range(form.batch)), "shares"]
    ins = ["T grad", "T query", "T key", "T value"]
    if form.mask:
        ins.append(f"{'uchar' if form.mask == 'bool' else 'T'} mask")
    ins += ["float logsumexp", "float sums"]
    k, v = "k" in form.wanted, "v" in form.wanted
    shared = range(kept, form.batch)
    load_moves = _move(shared, {"query_at": "query", "grad_at": "grad", "known_at": "known"},
                       "share")
    mask_moves = f"""\
    const {'uchar' if form.mask == 'bool' else 'T'} *mask_at = mask;
{_move(shared, {"mask_at": "mask"}, "step / steps")}""" if form.mask else ""
    masking = _masking(form, _COLUMN, _ROW).replace("mask[", "mask_at[")
    weight = "s - base[b]" if form.mask else "__fmaf_rn(s, scale, -base[b])"
    text = f"""{_defines(form, shape)}
{_signature(form, "attention_keys", [f"T {n}" for n in wanted], ins, names,
            shape.warps)}
  LMP_DYN_SMEM(T, memory);
  T *const own = memory, *const walked = memory + 2 * ROWS * WIDTH;
  float *const known = (float *)(walked + 4 * INNER * WIDTH);  // logsumexp, sums; twice
  const float scale = __int_as_float((int)scale_bits);
  const bool causal = flags & 4;
  const int blocks = (int)((keys + ROWS - 1) / ROWS);
  const long batch = blockIdx.x / blocks;
  const int first = (int)(blockIdx.x % blocks) * ROWS;
  long known_from = 0;
{_move(range(kept), {**{t: t for t in strided}, "known_from": "known"}, "batch")}
{_FAST}{_FAST_GRAD}
  const int warp = threadIdx.x >> 5, l = threadIdx.x & 31;
  load_tile<ROWS, THREADS>(own, key + first * key_row, (int)key_row, (int)key_column,
                           (int)keys - first, (int)width, fast);
  load_tile<ROWS, THREADS>(own + ROWS * WIDTH, value + first * value_row, (int)value_row,
                           (int)value_column, (int)keys - first, (int)depth, fast);
  end_copies();
  float {", ".join(["acc_k[MT][WT][4]"] * k + ["acc_v[MT][WT][4]"] * v)};
  {"clear(acc_k);" if k else ""} {"clear(acc_v);" if v else ""}
  const int begin = causal ? first / INNER * INNER : 0;
  const int steps = begin < queries ? (int)((queries - begin + INNER - 1) / INNER) : 0;
  const int own0 = first + warp * MT * 16, row0 = own0 + (l >> 2);
  // blocks of queries of all batches that share these keys, one after the other
  const int all = steps * (int)shares;
  for (int step = -1; step < all; ++step) {{
    wait_copies<0>();
    __syncthreads();
    if (step + 1 < all) {{
      const int share = (step + 1) / steps, turn = (step + 1) & 1;
      const int next = begin + (step + 1) % steps * INNER;
      const T *query_at = query, *grad_at = grad;
      long known_at = known_from + next;
{load_moves}
      T *const to = walked + turn * 2 * INNER * WIDTH;
      load_tile<INNER, THREADS>(to, query_at + next * query_row, (int)query_row, (int)query_column,
                                (int)queries - next, (int)width, fast);
      load_tile<INNER, THREADS>(to + INNER * WIDTH, grad_at + next * grad_row, (int)grad_row,
                                (int)grad_column, (int)queries - next, (int)depth, fast_grad);
      end_copies();
      for (int e = threadIdx.x; e < INNER; e += THREADS) {{
        const float x = next + e < queries ? logsumexp[known_at + e] : -INFINITY;
        known[turn * 2 * INNER + e] = x == -INFINITY ? INFINITY : x * 1.44269504f;
        known[turn * 2 * INNER + INNER + e] = next + e < queries ? sums[known_at + e] : 0.0f;
      }}
    }}
    if (step < 0) continue;
    const int turn = step & 1, start = begin + step % steps * INNER;
    const T *const q = walked + turn * 2 * INNER * WIDTH;
    const float *const base = known + turn * 2 * INNER;
{mask_moves}
    float scores[MT][NT][4];
    clear(scores);
    rows_by_rows<MT, NT>(scores, own + warp * MT * 16 * WIDTH, q);
    {"float grads[MT][NT][4];" if k else ""}
    {"clear(grads);" if k else ""}
    {"rows_by_rows<MT, NT>(grads, own + (ROWS + warp * MT * 16) * WIDTH, q + INNER * WIDTH);"
     if k else ""}
    const int column0 = start + 2 * (l & 3);
    const bool edge = causal && start < own0 + MT * 16;
{masking}
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {{
          const int b = 8 * n + 2 * (l & 3) + (e & 1);
          const float s = scores[m][n][e];
          const float p = power2({weight});
          scores[m][n][e] = p;
          {"grads[m][n][e] = p * (grads[m][n][e] - base[INNER + b]);" if k else ""}
        }}
    Left left[KT][MT][4];
    {"as_left(left, scores);" if v else ""}
    {"by_columns<MT, WT, KT>(acc_v, left, q + INNER * WIDTH);" if v else ""}
    {"as_left(left, grads);" if k else ""}
    {"by_columns<MT, WT, KT>(acc_k, left, q);" if k else ""}
  }}
  float factor[MT][2];
{_store("acc_v", "out_value", "1.0f", "depth") if v else ""}
{_store("acc_k", "out_key", "scale * 0.693147181f", "width") if k else ""}
}}
"""
    return text, names


def _store(acc: str, to: str, factor: str, width: str) -> str:
    return f"""\
#pragma unroll
  for (int m = 0; m < MT; ++m) factor[m][0] = factor[m][1] = {factor};
  store_rows({to}, {to}_row, own0, (int)keys, (int){width}, {acc}, factor);"""
