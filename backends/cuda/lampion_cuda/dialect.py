"""CUDA C++ as a dialect of the C-family printer. Imports lampion.ir and nothing of this package.

The text needs no header: it compiles with NVRTC, for any architecture, without a GPU.
"""

from __future__ import annotations

from lampion.base.dtype import dtype
from lampion.ir.cfamily import Dialect

_SAME = ("sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos",
         "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
         "floor", "ceil", "trunc", "fmod", "fma", "ldexp", "erf", "erfc", "pow")
# The programming guide allows these more than 4 units in the last place.
_LOOSE = {"lgamma", "rsqrt"}

PRELUDE = """\
#ifndef LMP_HOST
typedef unsigned char uchar; typedef unsigned short ushort; typedef unsigned int uint;
typedef unsigned long ulong;
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fc00000)
#endif
#define LMP_DYN_SMEM(T, name) extern __shared__ __align__(128) char lmp_dynamic[]; \\
    T *name = (T *)lmp_dynamic
#endif
#define LMP_KERNEL extern "C" __global__
#define LMP_LOCAL_0 threadIdx.x
#define LMP_LOCAL_1 threadIdx.y
#define LMP_GROUP_0 blockIdx.x
#define LMP_GROUP_1 blockIdx.y
#define LMP_GLOBAL_0 ((long)blockIdx.x * blockDim.x + threadIdx.x)
#define LMP_GLOBAL_1 ((long)blockIdx.y * blockDim.y + threadIdx.y)
template <class T, class S> static __forceinline__ __device__ T as_bits(S x) {
  static_assert(sizeof(T) == sizeof(S), "bits of another size");
  union { S from; T to; } u = {x};
  return u.to;
}
"""
# The larger and the smaller of two numbers, NaN if one of them is.
_EXTREMES = """\
#if !defined(LMP_HOST) && __CUDA_ARCH__ >= 800
static __forceinline__ __device__ float lmp_max(float a, float b) {
  float r; asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r;
}
static __forceinline__ __device__ float lmp_min(float a, float b) {
  float r; asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r;
}
#else
static __forceinline__ __device__ float lmp_max(float a, float b) {
  return a != a ? a : a > b ? a : b;
}
static __forceinline__ __device__ float lmp_min(float a, float b) {
  return a != a ? a : a < b ? a : b;
}
#endif
"""
# 16-bit words <-> float by the conversion instructions; on a host by arithmetic
HALVES = """\
#ifndef LMP_HOST
static __forceinline__ __device__ ushort lmp_to_bfloat16(float x) {
  ushort r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r;
}
static __forceinline__ __device__ ushort lmp_to_float16(float x) {
  ushort r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r;
}
static __forceinline__ __device__ float lmp_from_float16(ushort h) {
  float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(h)); return r;
}
#else
static inline ushort lmp_to_bfloat16(float x) {
  const uint u = as_bits<uint>(x);
  return (ushort)((x != x ? u | 0x400000u : u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
static inline ushort lmp_to_float16(float x) { return as_bits<ushort>((_Float16)x); }
static inline float lmp_from_float16(ushort h) { return (float)as_bits<_Float16>(h); }
#endif
"""


class CUDAC(Dialect):
    """CUDA C++17 of one architecture. `loose_sums`: floats are added by index with atomics, in any
    order."""

    name = "cuda"
    kernel = "LMP_KERNEL void"
    local = "__shared__ "
    barrier = "__syncthreads();"
    global_id = "LMP_GLOBAL_{d}"
    group_id = "LMP_GROUP_{d}"
    local_id = "LMP_LOCAL_{d}"
    group_of_one = "__launch_bounds__(1)"
    group_of = "__launch_bounds__({n})"
    functions = {**{f: f for f in _SAME}, "round": "rint", "lgamma": "lgamma"}
    prelude = PRELUDE + HALVES + _EXTREMES
    extremes = {"maximum": "lmp_max", "minimum": "lmp_min"}
    warp = 32
    shuffle = "__shfl_sync(0xffffffffu, {x}, {lane})"
    atomics = {**{(op, d): f"atomic{word}({{at}}, ({c}){{value}})"
                  for op, word in (("sum", "Add"), ("max", "Max"), ("min", "Min"))
                  for d, c in (("int32", "int"), ("uint32", "uint"))},
               **{("sum", d): "atomicAdd((unsigned long long *)({at}), "
                              "(unsigned long long){value})" for d in ("int64", "uint64")}}
    half_to_float = {"float16": "lmp_from_float16"}
    float_to_half = {"float16": "lmp_to_float16", "bfloat16": "lmp_to_bfloat16"}

    def __init__(self, *, loose_sums: bool = False) -> None:
        if loose_sums:
            self.atomics = {**self.atomics, ("sum", "float32"): "atomicAdd({at}, {value})",
                            ("sum", "float64"): "atomicAdd({at}, {value})"}

    def bits(self, ctype: str, text: str) -> str:
        return f"as_bits<{ctype}>({text})"

    def convert(self, ctype: str, lanes: int, text: str) -> str:
        return f"({ctype})({text})"

    def call(self, op: str, d: dtype) -> str | None:
        name = self.functions.get(op)
        return name if name is None or d.itemsize == 8 else f"{name}f"

    def expands(self, op: str, d: dtype) -> bool:
        """Whether an intrinsic is better written as arithmetic than called."""
        return op in _LOOSE and op != "rsqrt"
