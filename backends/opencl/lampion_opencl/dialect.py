"""OpenCL C as a dialect of the C-family printer. Imports lampion.ir and nothing of this package."""

from __future__ import annotations

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.ir.cfamily import Dialect

_SAME = ("sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos",
         "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
         "floor", "ceil", "trunc", "fmod", "fma", "ldexp")
# The specification allows these more than 4 units in the last place, or gives no bound at all.
_LOOSE = {"tanh", "tan", "atan2", "erf", "erfc", "lgamma", "pow"}

_PRELUDE = "#pragma OPENCL FP_CONTRACT OFF\n"
_DOUBLES = """#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
"""
# Compilers based on clang convert vectors in line; library calls are slow in some runtimes.
_CONVERT = """#if defined(__has_builtin)
#if __has_builtin(__builtin_convertvector)
#define CONVERT(T, x) __builtin_convertvector(x, T)
#endif
#endif
#if defined(__has_builtin)
#define HAS(x) __has_builtin(x)
#else
#define HAS(x) 0
#endif
#ifndef CONVERT
#define CONVERT(T, x) convert_##T(x)
#endif
"""
# x * 2^n rounds once in a single instruction here; nothing portable compiles to it
_SCALE = """#ifdef __AVX512F__
#if HAS(__builtin_ia32_scalefps512_mask)
#define SCALE_float16(x, n) __builtin_ia32_scalefps512_mask(x, n, x, (ushort)-1, 4)
#define SCALE_double8(x, n) __builtin_ia32_scalefpd512_mask(x, n, x, (uchar)-1, 4)
#endif
#endif
"""


class OpenCLC(Dialect):
    """OpenCL C 1.2. `lanes`: printed for the explicit-vector schedule; `doubles`: has float64;
    `fused`: a * b + c is rounded once where contraction is on."""

    name = "opencl"
    kernel = "__kernel void"
    space = "__global "
    local = "__local "
    barrier = "barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);"
    global_id = "get_global_id({d})"
    group_id = "get_group_id({d})"
    local_id = "get_local_id({d})"
    group_of_one = "__attribute__((reqd_work_group_size(1, 1, 1)))"
    group_of = "__attribute__((reqd_work_group_size({n}, 1, 1)))"
    contract_on = '_Pragma("OPENCL FP_CONTRACT ON")'
    functions = {**{f: f for f in _SAME}, "round": "rint", "erf": "erf", "erfc": "erfc",
                 "lgamma": "lgamma", "pow": "pow"}

    atomics = {(op, d): f"atomic_{word}({{at}}, {{value}})"
               for op, word in (("sum", "add"), ("max", "max"), ("min", "min"))
               for d in ("int32", "uint32")}
    vector_builtins = {
        "round": "__builtin_elementwise_roundeven", "floor": "__builtin_elementwise_floor",
        "ceil": "__builtin_elementwise_ceil", "trunc": "__builtin_elementwise_trunc",
        "any": "__builtin_reduce_or", "all": "__builtin_reduce_and",
        "stream": "__builtin_nontemporal_store"}

    scale = "SCALE"

    def __init__(self, *, lanes: bool, doubles: bool, fused: bool = False) -> None:
        self.lanes = lanes
        self.doubles = doubles
        self.inline_rounding = lanes
        self.inline_fma = lanes and fused
        self.prelude = _PRELUDE + (_DOUBLES if doubles else "") + _CONVERT + (
            _SCALE if lanes else "")

    def convert(self, ctype: str, lanes: int, text: str) -> str:
        if lanes == 1:
            return f"({ctype})({text})"
        return f"CONVERT({ctype}{lanes}, ({text}))"

    def expands(self, op: str, d: dtype) -> bool:
        """Whether an intrinsic is better written as arithmetic than called."""
        if op in ("sqrt", "rsqrt", "floor", "ceil", "trunc", "round", "fma", "ldexp", "fmod"):
            return False
        return self.lanes or op in _LOOSE


FLOATS = (dt.float32, dt.float64)
