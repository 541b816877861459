"""Whether two tensors share elements: what an in-place call must not read while it writes.

Floor 5; imports base.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from .base.meta import Meta, places
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
    if _apart(target.meta, other.meta, d.offset - t.offset):
        return
    raise RuntimeError(
        f"{op.qualname}: unsupported operation: some elements of the input tensor and the "
        "written-to tensor refer to a single memory location. Please clone() the tensor before "
        "performing the operation.")


@lru_cache(4096)
def _apart(a: Meta, b: Meta, distance: int) -> bool:
    """Whether two views, b starting `distance` bytes past a, share no element: looked up for up to
    4096 elements of one size, else known of equal strides that step past each other."""
    item = a.dtype.itemsize
    if b.dtype.itemsize != item or distance % item:
        return False
    distance //= item
    if a.numel <= 4096 and b.numel <= 4096:
        return set(places(a.shape, a.strides)).isdisjoint(
            at + distance for at in places(b.shape, b.strides))
    if a.strides != b.strides:
        return False
    steps = [s for s, n in zip(a.strides, a.shape) if n > 1]
    return not steps or distance % math.gcd(*steps) != 0
