"""Gradients of broadcast operands, for families and autograd.

Floor 3; imports registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .registry import REGISTRY


@lru_cache(1024)
def broadcast_dims(wide: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dims of `wide` that an operand of `shape` was repeated along."""
    lead = len(wide) - len(shape)
    return tuple(range(lead)) + tuple(
        k + lead for k, n in enumerate(shape) if n == 1 and wide[k + lead] != 1)


def sum_to_shape(t: Any, shape: Sequence[int]) -> Any:
    """Sum a broadcast gradient back to the operand's shape."""
    dims = broadcast_dims(t.meta.shape, tuple(shape))
    if dims:
        t = REGISTRY["sum"].fn(t, dims, True)
    return t.reshape(*shape) if t.meta.shape != tuple(shape) else t
