"""Gradients of broadcast operands, for families and autograd.

Floor 3; imports registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .registry import REGISTRY


def sum_to_shape(t: Any, shape: Sequence[int]) -> Any:
    """Sum a broadcast gradient back to the operand's shape."""
    lead = t.meta.ndim - len(shape)
    dims = tuple(range(lead)) + tuple(
        k + lead for k, n in enumerate(shape) if n == 1 and t.meta.shape[k + lead] != 1)
    if dims:
        t = REGISTRY["sum"].fn(t, dims, True)
    return t.reshape(*shape) if t.meta.shape != tuple(shape) else t
