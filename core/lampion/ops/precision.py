"""How exact products of float32 matrices have to be.

Floor 3. The setting is the option `float32_matmul_precision`. Kernels read it when they are
planned, so a call costs nothing for it; changing it plans all calls afresh.
"""

from __future__ import annotations

from .. import config
from ..runtime import tracing
from . import registry

_LEVELS = ("highest", "high", "medium")


def set_float32_matmul_precision(precision: str) -> None:
    """Allow devices to multiply float32 matrices with less exact units.

    "highest": as exact as float32. "high": inputs may be rounded to 10 bits after the point (TF32).
    "medium": to 7 bits (bfloat16). Sums are always of float32, and a device without faster units
    computes the same at every level. RuntimeError unless it is a str, ValueError for any other
    word.

    >>> lampion.set_float32_matmul_precision("high"); lampion.get_float32_matmul_precision()
    'high'
    >>> lampion.set_float32_matmul_precision("highest")
    """
    if not isinstance(precision, str):
        raise RuntimeError("set_float32_matmul_precision expects a str, but got "
                           f"{type(precision).__name__}")
    if precision not in _LEVELS:
        raise ValueError(f"set_float32_matmul_precision expects one of "
                         f"{', '.join(map(repr, _LEVELS))}, but got {precision!r}")
    if precision != get_float32_matmul_precision():
        config.set("float32_matmul_precision", precision, "set_float32_matmul_precision")
        registry.forget_plans()
        tracing.changes["modules"] += 1  # compiled programs look again what they were made for


def get_float32_matmul_precision() -> str:
    """The precision of products of float32 matrices: "highest", "high" or "medium"."""
    return str(config.get("float32_matmul_precision"))


__all__ = ["get_float32_matmul_precision", "set_float32_matmul_precision"]
