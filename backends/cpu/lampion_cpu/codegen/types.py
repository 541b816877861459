"""LLVM types and literals of the element types.

A value lives in a register as `i1` (bool), `iN`, `half`, `i16` (the bits of a bfloat16),
`float` or `double`; in memory a bool is a byte. May import: lampion.base.
"""

from __future__ import annotations

import struct

from lampion.base import dtype as dt
from lampion.base.dtype import dtype

_REGISTER = {"bool": "i1", "float16": "half", "bfloat16": "i16", "float32": "float",
             "float64": "double"}
_SUFFIX = {"float16": "f16", "bfloat16": "i16", "float32": "f32", "float64": "f64", "bool": "i1"}


def reg(d: dtype) -> str:
    """The register type of one element."""
    return _REGISTER.get(d.name) or f"i{8 * d.itemsize}"


def mem(d: dtype) -> str:
    """The memory type of one element."""
    return "i8" if d.kind == "b" else reg(d)


def suffix(d: dtype) -> str:
    """The name of the type in overloaded intrinsics ("f32", "i64")."""
    return _SUFFIX.get(d.name) or f"i{8 * d.itemsize}"


def vec(t: str, w: int) -> str:
    """`<w x t>`, or `t` itself for one lane."""
    return t if w == 1 else f"<{w} x {t}>"


def literal(value: object, d: dtype) -> str:
    """A constant as LLVM spells it; floats in exact hexadecimal."""
    if d.kind == "b":
        return "true" if value else "false"
    if d.kind in "iu":
        return str(int(value))  # type: ignore[call-overload]
    x = float(value)  # type: ignore[arg-type]
    if d is dt.float16:
        return f"0xH{_bits16(x, 'e'):04X}"
    if d is dt.bfloat16:
        return str(_bfloat16_bits(x))
    if d is dt.float32:
        x = round_float32(x)
    return f"0x{struct.unpack('<Q', struct.pack('<d', x))[0]:016X}"


def round_float32(x: float) -> float:
    """`x` rounded to float32 (overflow gives inf)."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    except OverflowError:
        return float("inf") if x > 0 else float("-inf")


def _bits16(x: float, code: str) -> int:
    try:
        return int(struct.unpack("<H", struct.pack("<" + code, x))[0])
    except OverflowError:
        return 0x7C00 if x > 0 else 0xFC00


def _bfloat16_bits(x: float) -> int:
    x = round_float32(x)
    bits = int(struct.unpack("<I", struct.pack("<f", x))[0])
    if x != x:
        return 0x7FC0
    bits += 0x7FFF + ((bits >> 16) & 1)
    bits >>= 16
    return bits - 0x10000 if bits >= 0x8000 else bits


def identity(op: str, d: dtype) -> object:
    """The neutral element of a reduction."""
    if op in ("sum", "or"):
        return 0
    if op == "prod":
        return 1
    if op == "and":
        return 1 if d.kind == "b" else -1
    if op not in ("max", "min"):
        raise ValueError(f"unknown reduction {op!r}")
    if d.kind == "f":
        return float("-inf") if op == "max" else float("inf")
    if d.kind == "b":
        return op == "min"
    bits = 8 * d.itemsize
    low, high = (0, (1 << bits) - 1) if d.kind == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    return low if op == "max" else high
