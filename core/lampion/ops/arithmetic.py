"""Arithmetic, comparison, logic and bits: elementwise ops of one or two tensors.

Floor 3. Every op is one scalar expression; gradients are derived from it unless a block gives
its own.
"""

from __future__ import annotations

from ..ir import expr as E
from ..ir.expr import select
from .registry import Scalar, composite, elementwise


@elementwise
def add_scaled(input, other, alpha: Scalar):
    """input + alpha * other (the form of `add` with alpha != 1)."""
    return input + alpha * other


@elementwise(where=(), method=False)
def sub_scaled(input, other, alpha: Scalar):
    """input - alpha * other."""
    return input - alpha * other


@elementwise
def add(input, other):
    """input + other."""
    return input + other


@elementwise
def sub(input, other):
    """input - other."""
    return input - other


@elementwise
def mul(input, other):
    """input * other."""
    return input * other
