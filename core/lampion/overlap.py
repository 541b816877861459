"""Whether two tensors share elements: what an in-place call must not read while it writes.

Floor 5; imports base.
"""

from __future__ import annotations

import math
from typing import Any

from .base.meta import Meta
from .ops import registry as R


def check_overlap(op: R.Op, target: Any, other: Any) -> None:
    """RuntimeError if `other` shares part of the target's memory but is not the same tensor."""
    d = getattr(other, "data_", None)
    t = target.data_
    if d is None or d.base is not t.base:
        return
    if d.offset == t.offset and other.meta.plain is target.meta.plain:
        return
    if other.meta.numel == 0 or target.meta.numel == 0:
        return
    if (d.offset >= t.offset + target.meta.span) or (t.offset >= d.offset + other.meta.span):
        return
    if _interleaved(other.meta, target.meta, d.offset - t.offset):
        return
    raise RuntimeError(
        f"{op.qualname}: unsupported operation: some elements of the input tensor and the "
        "written-to tensor refer to a single memory location. Please clone() the tensor before "
        "performing the operation.")


def _interleaved(a: Meta, b: Meta, distance: int) -> bool:
    """Whether two views with equal strides step past each other (x[::2] and x[1::2])."""
    if a.strides != b.strides or a.dtype is not b.dtype:
        return False
    steps = [s for s, n in zip(a.strides, a.shape) if n > 1]
    if not steps:
        return True
    return (distance // a.dtype.itemsize) % math.gcd(*steps) != 0
