"""Text of the tensor-core instructions: mma.sync, ldmatrix, cp.async, and tiles in shared memory.

Each instruction is one function of device code with two bodies: inline PTX (compute capability 8.0
and newer), and under LMP_HOST the same function in plain C++ over the lanes of a simulated warp, so
that kernels made of them run on a host. Layouts of fragments are those of the PTX manual
("Matrix fragments for mma.m16n8k16"). Imports lampion's floor 0.
"""

from __future__ import annotations

from lampion.base import dtype as dt
from lampion.base.dtype import dtype

HALVES = (dt.float16, dt.bfloat16)

_CONVERSIONS = {
    dt.bfloat16: ("bf16", """\
static __device__ __forceinline__ float to_float(ushort h) {
  return __uint_as_float((uint)h << 16);
}
#ifdef LMP_HOST
static __device__ ushort to_half(float x) {
  const uint u = __float_as_uint(x);
  return (ushort)(x != x ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
#endif
"""),
    dt.float16: ("f16", """\
#ifdef LMP_HOST
static __device__ float to_float(ushort h) {
  _Float16 x;
  __builtin_memcpy(&x, &h, 2);
  return (float)x;
}
static __device__ ushort to_half(float x) {
  const _Float16 h = (_Float16)x;
  ushort u;
  __builtin_memcpy(&u, &h, 2);
  return u;
}
#else
static __device__ __forceinline__ float to_float(ushort h) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
}
#endif
"""),
}

# 16-byte copies into shared memory that a thread waits for later.
COPIES = """\
#ifdef LMP_HOST
// A copy arrives as late as it may: when its thread waits for it.
struct lmp_copy { void *to; const void *from; int group; };
static struct { lmp_copy waiting[96]; int count, group; } lmp_copies[1024];
static __device__ void copy16(void *to, const void *from, bool there) {
  auto &all = lmp_copies[threadIdx.x];
  assert(all.count < 96);
  all.waiting[all.count++] = {to, there ? from : nullptr, all.group};
}
static __device__ void end_copies() { ++lmp_copies[threadIdx.x].group; }
template <int LEFT> static __device__ void wait_copies() {
  auto &all = lmp_copies[threadIdx.x];
  int left = 0;
  for (int k = 0; k < all.count; ++k) {
    const lmp_copy c = all.waiting[k];
    if (c.group + LEFT >= all.group) all.waiting[left++] = c;
    else if (c.from) __builtin_memcpy(c.to, c.from, 16);
    else __builtin_memset(c.to, 0, 16);
  }
  all.count = left;
}
#else
static __forceinline__ __device__ uint shared_address(const void *p) {
  return (uint)__cvta_generic_to_shared(p);
}
// 16 bytes to shared memory, arriving after wait_copies; zeros if there is nothing to copy.
static __forceinline__ __device__ void copy16(void *to, const void *from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
static __forceinline__ __device__ void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Wait until at most LEFT groups of copies are under way.
template <int LEFT> static __forceinline__ __device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
}
#endif
"""

_INSTRUCTIONS = """\
#ifdef LMP_HOST
// What the lanes of each warp hand to each other: fragments or addresses.
static uint lmp_lanes[32][32][8];
static const ushort *lmp_rows[32][32];
static __device__ uint pack2(float low, float high) {
  return (uint)to_half(low) | (uint)to_half(high) << 16;
}
static __device__ float half_of(uint pair, int k) {
  return to_float((ushort)(pair >> (16 * k)));
}
static __device__ void mma(float (&c)[4], const uint (&a)[4], uint b0, uint b1) {
  uint (*lanes)[8] = lmp_lanes[threadIdx.x / 32];
  const int l = threadIdx.x % 32;
  for (int k = 0; k < 4; ++k) lanes[l][k] = a[k];
  lanes[l][4] = b0;
  lanes[l][5] = b1;
  __syncwarp();
  for (int e = 0; e < 4; ++e) {
    const int row = e / 2, column = 2 * (l % 4) + e % 2;
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      const int in_row = (k % 8) / 2;
      sum += half_of(lanes[4 * (l / 4) + in_row][row + 2 * (k / 8)], k % 2)
          * half_of(lanes[4 * column + in_row][4 + k / 8], k % 2);
    }
    c[e] += sum;
  }
  __syncwarp();
}
static __device__ void read_matrices(uint (&r)[4], const ushort *row, bool turned) {
  const int w = threadIdx.x / 32, l = threadIdx.x % 32;
  lmp_rows[w][l] = row;
  __syncwarp();
  for (int k = 0; k < 4; ++k) {
    const ushort **rows = lmp_rows[w] + 8 * k;
    const int i = l / 4, j = 2 * (l % 4);
    r[k] = turned ? (uint)rows[j][i] | (uint)rows[j + 1][i] << 16
                  : (uint)rows[i][j] | (uint)rows[i][j + 1] << 16;
  }
  __syncwarp();
}
static __device__ void load_matrices(uint (&r)[4], const ushort *row) {
  read_matrices(r, row, false);
}
static __device__ void load_turned(uint (&r)[4], const ushort *row) { read_matrices(r, row, true); }
#else
static __forceinline__ __device__ uint pack2(float low, float high) {
  uint pair;
  asm("cvt.rn.@x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
static __forceinline__ __device__ ushort to_half(float x) { return (ushort)pack2(x, 0.0f); }
// c += a b for a 16 x 16 (row-major), b 16 x 8 (column-major)
static __forceinline__ __device__ void mma(float (&c)[4], const uint (&a)[4], uint b0, uint b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.@.@.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four 8 x 8 matrices whose rows lanes 0-7, 8-15, 16-23, 24-31 point to.
static __forceinline__ __device__ void load_matrices(uint (&r)[4], const ushort *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)));
}
static __forceinline__ __device__ void load_turned(uint (&r)[4], const ushort *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)));
}
#endif
"""

# What kernels over tiles share, whatever the dtype.
COMMON = """\
static __forceinline__ __device__ float power2(float x) {
#ifdef LMP_HOST
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
// The same number, of which the compiler does not know that it is: what is computed from it is
// computed anew in every step of a loop, where keeping it would take registers that are not there.
static __forceinline__ __device__ int anew(int x) {
#ifndef LMP_HOST
  asm volatile("" : "+r"(x));
#endif
  return x;
}
"""

# Tiles: rows of WIDTH halves, whose 16-byte chunks are permuted within groups of 8 (4 if the row is
# not a multiple of 128 bytes), so that 8 rows of one column of chunks lie in different banks.
_TILES = """\
typedef ushort T;
typedef uint Left;                // of fragments of a left operand,
constexpr int LEFT_COLUMNS = 16;  // which have that many columns
static __forceinline__ __device__ ushort to_type(float x) { return to_half(x); }
static __forceinline__ __device__ void store_pair(ushort *at, float x, float y) {
  *(uint *)at = pack2(x, y);
}
static __forceinline__ __device__ int turn_of(int row) {
  return WIDTH % 64 ? (row >> 1) & 3 : row & 7;
}
// Where chunk `fixed` ^ `turn` is in its row: few different values besides constants, which are
// offsets of the instructions, if `fixed` is a constant.
static __forceinline__ __device__ int turned(int fixed, int turn) {
  constexpr int GROUP = WIDTH % 64 ? 4 : 8;
  return (((fixed & (GROUP - 1)) ^ turn) << 3) + ((fixed & ~(GROUP - 1)) << 3);
}
// acc += a b^T: this warp's MT x 16 rows of tile a times NT x 8 rows of tile b, WIDTH long. More
// unrolled takes more registers.
template <int MT, int NT, int UNROLL = WIDTH <= 64 ? 2 : 4>
static __forceinline__ __device__ void rows_by_rows(float (&acc)[MT][NT][4], const ushort *a,
                                                    const ushort *b) {
  const int l = anew(threadIdx.x & 31), ra = l & 15, rb = (l & 7) + ((l >> 4) << 3);
  const int ta = (l >> 4) ^ turn_of(ra), tb = ((l >> 3) & 1) ^ turn_of(rb);
#pragma unroll UNROLL
  for (int k = 0; k < WIDTH / 16; ++k) {
    uint fa[MT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m)
      load_matrices(fa[m], a + (16 * m + ra) * WIDTH + turned(2 * k, ta));
#pragma unroll
    for (int n = 0; n < NT; n += 2) {
      uint fb[4];
      load_matrices(fb, b + (8 * n + rb) * WIDTH + turned(2 * k, tb));
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        mma(acc[m][n], fa[m], fb[0], fb[1]);
        mma(acc[m][n + 1], fa[m], fb[2], fb[3]);
      }
    }
  }
}
// acc += a b: fragments a of MT x 16 rows and KT x 16 columns times KT x 16 rows of tile b.
template <int MT, int NT, int KT>
static __forceinline__ __device__ void by_columns(float (&acc)[MT][NT][4],
                                                  const uint (&fa)[KT][MT][4], const ushort *b) {
  const int l = anew(threadIdx.x & 31), row = l & 15, tb = (l >> 4) ^ turn_of(row);
#pragma unroll
  for (int k = 0; k < KT; ++k) {
#pragma unroll
    for (int n = 0; n < NT; n += 2) {
      uint fb[4];
      load_turned(fb, b + (16 * k + row) * WIDTH + turned(n, tb));
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        mma(acc[m][n], fa[k][m], fb[0], fb[1]);
        mma(acc[m][n + 1], fa[k][m], fb[2], fb[3]);
      }
    }
  }
}
// Accumulators (of the m-th 16 rows) as the fragments of a left operand: the layouts agree.
template <int MT, int NT>
static __forceinline__ __device__ void as_left(uint (&fa)[NT / 2][MT][4],
                                               const float (&acc)[MT][NT][4], int m) {
#pragma unroll
  for (int k = 0; k < NT / 2; ++k) {
    fa[k][m][0] = pack2(acc[m][2 * k][0], acc[m][2 * k][1]);
    fa[k][m][1] = pack2(acc[m][2 * k][2], acc[m][2 * k][3]);
    fa[k][m][2] = pack2(acc[m][2 * k + 1][0], acc[m][2 * k + 1][1]);
    fa[k][m][3] = pack2(acc[m][2 * k + 1][2], acc[m][2 * k + 1][3]);
  }
}
template <int MT, int NT>
static __forceinline__ __device__ void as_left(uint (&fa)[NT / 2][MT][4],
                                               const float (&acc)[MT][NT][4]) {
#pragma unroll
  for (int m = 0; m < MT; ++m) as_left(fa, acc, m);
}
"""

# The same for tiles of any type T.
LOADING = """\
constexpr int PIECE = 16 / sizeof(T);
// Where a chunk of 16 bytes is.
static __forceinline__ __device__ int place(int row, int chunk) {
  return row * WIDTH + (chunk ^ turn_of(row)) * PIECE;
}
// Rows of a matrix into a tile, zeros beyond `rows` and `width`. `wide`: 16 bytes at a time, which
// needs unit columns and alignment; call end_copies afterwards.
template <int ROWS, int THREADS>
static __forceinline__ __device__ void load_tile(T *tile, const T *from, int row_stride,
                                                 int column_stride, int rows, int width,
                                                 bool wide) {
  constexpr int CHUNKS = WIDTH / PIECE;
  // Not unrolled: the addresses of all steps would be kept in registers.
#pragma unroll 1
  for (int at = anew(threadIdx.x); at < ROWS * CHUNKS; at += THREADS) {
    const int row = at / CHUNKS, chunk = at % CHUNKS;
    T *to = tile + place(row, chunk);
    const bool there = row < rows && PIECE * chunk < width;
    const T *source = from + (long)row * row_stride;
    if (wide) {
      copy16(to, there ? source + PIECE * chunk : from, there);
    } else {
#pragma unroll 1
      for (int j = 0; j < PIECE; ++j)
        to[j] = there && PIECE * chunk + j < width
            ? source[(long)(PIECE * chunk + j) * column_stride] : (T)0;
    }
  }
}
"""


def instructions(d: dtype) -> str:
    """The functions for fragments of float16 or bfloat16 (`HALVES`)."""
    name, conversions = _CONVERSIONS[d]
    return conversions + COPIES + _INSTRUCTIONS.replace("@", name)


def tiles(d: dtype, width: int) -> str:
    """`instructions` and the functions over tiles of rows of `width` halves, a multiple of 32.
    `matrix_float.tiles` has functions of the same names for float32."""
    return f"constexpr int WIDTH = {width};\n{instructions(d)}{COMMON}{_TILES}{LOADING}"
