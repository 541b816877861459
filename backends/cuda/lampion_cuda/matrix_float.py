"""Text of products of float32 tiles: the functions of `matrix.tiles`, without halves.

Accumulators lie in a warp as those of the tensor cores do (16 rows by 8 columns: a thread has two
neighbours in each of two rows), so that kernels are written once for all dtypes. By fused
multiply-adds, which are exact to float32, a thread multiplies its rows by its columns; in TF32
(inputs rounded to 10 bits after the point) `mma.sync` does. Layouts of fragments are those of the
PTX manual ("Matrix fragments for mma.m16n8k8"). Imports this package's matrix.
"""

from __future__ import annotations

from .matrix import COMMON, COPIES, LOADING

# Rows of a tile are permuted so that in each of the ways in which a warp reads, 8 lanes that read
# 16 bytes at once (32 that read 4) lie in different banks: 8 rows of one chunk; 4 chunks of rows
# 2 i and 2 i + 1; 2 chunks of rows i, i + 2, i + 4 and i + 6.
_TYPES = """\
typedef float T;
typedef float Left;              // of fragments of a left operand,
constexpr int LEFT_COLUMNS = 8;  // which have that many columns
static __forceinline__ __device__ float to_float(float x) { return x; }
static __forceinline__ __device__ float to_type(float x) { return x; }
static __forceinline__ __device__ void store_pair(float *at, float x, float y) {
  *(float2 *)at = make_float2(x, y);
}
static __forceinline__ __device__ int turn_of(int row) {
  return (((row ^ (row >> 2)) & 1) << 2) | (row & 2) | ((row >> 2) & 1);
}
// Accumulators (of the m-th 16 rows) as a left operand: they are one.
template <int MT, int NT>
static __forceinline__ __device__ void as_left(float (&fa)[NT][MT][4],
                                               const float (&acc)[MT][NT][4], int m) {
#pragma unroll
  for (int k = 0; k < NT; ++k)
#pragma unroll
    for (int e = 0; e < 4; ++e) fa[k][m][e] = acc[m][k][e];
}
template <int MT, int NT>
static __forceinline__ __device__ void as_left(float (&fa)[NT][MT][4],
                                               const float (&acc)[MT][NT][4]) {
#pragma unroll
  for (int m = 0; m < MT; ++m) as_left(fa, acc, m);
}
"""

_EXACT = """\
static __forceinline__ __device__ float fma4(const float4 &a, const float4 &b, float c) {
  return __fmaf_rn(a.w, b.w, __fmaf_rn(a.z, b.z, __fmaf_rn(a.y, b.y, __fmaf_rn(a.x, b.x, c))));
}
// acc += a b^T: this warp's MT x 16 rows of tile a times NT x 8 rows of tile b, WIDTH long.
template <int MT, int NT, int UNROLL = 1>
static __forceinline__ __device__ void rows_by_rows(float (&acc)[MT][NT][4], const float *a,
                                                    const float *b) {
  const int l = anew(threadIdx.x & 31), row = l >> 2, column = 2 * (l & 3);
  a += row * WIDTH;
  b += column * WIDTH;
  const int turn_a = turn_of(row), turn_b[2] = {turn_of(column), turn_of(column + 1)};
#pragma unroll 1
  for (int k = 0; k < WIDTH / 4; ++k) {
    float4 x[MT][2];
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        x[m][h] = *(const float4 *)(a + (16 * m + 8 * h) * WIDTH + 4 * (k ^ turn_a));
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float4 y = *(const float4 *)(b + (8 * n + c) * WIDTH + 4 * (k ^ turn_b[c]));
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
          for (int h = 0; h < 2; ++h)
            acc[m][n][2 * h + c] = fma4(x[m][h], y, acc[m][n][2 * h + c]);
      }
  }
}
// acc += a b: fragments a of MT x 16 rows and KT x 8 columns times KT x 8 rows of tile b.
template <int MT, int NT, int KT>
static __forceinline__ __device__ void by_columns(float (&acc)[MT][NT][4],
                                                  const float (&fa)[KT][MT][4], const float *b) {
  const int l = anew(threadIdx.x & 31), side = (l & 3) >> 1;
  float left[KT][MT][4];
#pragma unroll
  for (int k = 0; k < KT; ++k)
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e) left[k][m][e] = fa[k][m][e];
  b += 2 * (l & 1);
  // Not unrolled, which would be too many instructions: the fragments move up instead.
#pragma unroll 1
  for (int k = 0; k < KT; ++k) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int turn = turn_of(j);
      const float *const from = b + j * WIDTH + 4 * (side ^ (turn & 1));
      float x[MT][2];
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h)
          x[m][h] = __shfl_sync(0xffffffffu, left[0][m][2 * h + (j & 1)], (l & 28) | (j >> 1));
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        const float2 y = *(const float2 *)(from + 4 * ((2 * n) ^ (turn & 6)));
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            acc[m][n][2 * h] = __fmaf_rn(x[m][h], y.x, acc[m][n][2 * h]);
            acc[m][n][2 * h + 1] = __fmaf_rn(x[m][h], y.y, acc[m][n][2 * h + 1]);
          }
      }
    }
    b += 8 * WIDTH;
#pragma unroll
    for (int i = 0; i + 1 < KT; ++i)
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) left[i][m][e] = left[i + 1][m][e];
  }
}
"""

_TF32 = """\
#ifdef LMP_HOST
static uint lmp_lanes[32][32][8];  // what the lanes of each warp hand to each other
static __device__ uint tf32(float x) {
  const uint u = __float_as_uint(x);
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & ~0x1fffu;
}
static __device__ void mma8(float (&c)[4], uint a0, uint a1, uint a2, uint a3, uint b0, uint b1) {
  uint (*lanes)[8] = lmp_lanes[threadIdx.x / 32];
  const int l = threadIdx.x % 32;
  const uint mine[6] = {a0, a1, a2, a3, b0, b1};
  for (int k = 0; k < 6; ++k) lanes[l][k] = mine[k];
  __syncwarp();
  for (int e = 0; e < 4; ++e) {
    const int row = e / 2, column = 2 * (l % 4) + e % 2;
    float sum = 0;
    for (int k = 0; k < 8; ++k)
      sum += __uint_as_float(lanes[4 * (l / 4) + k % 4][row + 2 * (k / 4)])
          * __uint_as_float(lanes[4 * column + k % 4][4 + k / 4]);
    c[e] += sum;
  }
  __syncwarp();
}
#else
static __forceinline__ __device__ uint tf32(float x) {
  uint r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}
// c += a b for a 16 x 8 (row-major), b 8 x 8 (column-major)
static __forceinline__ __device__ void mma8(float (&c)[4], uint a0, uint a1, uint a2, uint a3,
                                            uint b0, uint b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
#endif
// acc += a b^T: this warp's MT x 16 rows of tile a times NT x 8 rows of tile b, WIDTH long. The
// columns of 4 chunks make 2 steps, in an order that is the same for a and b.
template <int MT, int NT, int UNROLL = 1>
static __forceinline__ __device__ void rows_by_rows(float (&acc)[MT][NT][4], const float *a,
                                                    const float *b) {
  const int l = anew(threadIdx.x & 31), row = l >> 2, turn = (l & 3) ^ turn_of(row);
  a += row * WIDTH;
  b += row * WIDTH;
#pragma unroll 1
  for (int k = 0; k < WIDTH / 16; ++k) {
    const int at = 4 * ((4 * k) ^ turn);
    uint x[MT][2][4];
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float4 v = *(const float4 *)(a + (16 * m + 8 * h) * WIDTH + at);
        x[m][h][0] = tf32(v.x);
        x[m][h][1] = tf32(v.y);
        x[m][h][2] = tf32(v.z);
        x[m][h][3] = tf32(v.w);
      }
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      const float4 v = *(const float4 *)(b + 8 * n * WIDTH + at);
      const uint y[4] = {tf32(v.x), tf32(v.y), tf32(v.z), tf32(v.w)};
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int s = 0; s < 4; s += 2)
          mma8(acc[m][n], x[m][0][s], x[m][1][s], x[m][0][s + 1], x[m][1][s + 1], y[s], y[s + 1]);
    }
  }
}
// acc += a b: fragments a of MT x 16 rows and KT x 8 columns times KT x 8 rows of tile b. Columns
// of a and rows of b are taken in the order in which accumulators lie: 0, 2, 4, 6, 1, 3, 5, 7.
template <int MT, int NT, int KT>
static __forceinline__ __device__ void by_columns(float (&acc)[MT][NT][4],
                                                  const float (&fa)[KT][MT][4], const float *b) {
  const int l = anew(threadIdx.x & 31), row = 2 * (l & 3), side = l >> 4;
  const int turns[2] = {turn_of(row), turn_of(row + 1)};
  b += row * WIDTH + ((l >> 2) & 3);
#pragma unroll
  for (int k = 0; k < KT; ++k) {
    uint x[MT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e) x[m][e] = tf32(fa[k][m][e]);
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      uint y[2];
#pragma unroll
      for (int c = 0; c < 2; ++c)
        y[c] = tf32(b[(8 * k + c) * WIDTH + 4 * ((2 * n + side) ^ turns[c])]);
#pragma unroll
      for (int m = 0; m < MT; ++m)
        mma8(acc[m][n], x[m][0], x[m][2], x[m][1], x[m][3], y[0], y[1]);
    }
  }
}
"""


def tiles(width: int, tf32: bool) -> str:
    """The functions over tiles of rows of `width` floats, a multiple of 32; in TF32 if asked."""
    return (f"constexpr int WIDTH = {width};\n{COPIES}{_TYPES}{COMMON}"
            f"{_TF32 if tf32 else _EXACT}{LOADING}")
