"""Rewriting a kernel's expressions before printing. May import: lampion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lampion.ir import math as irmath
from lampion.ir.expr import Expr
from lampion.ir.kernel import Kernel, Scatter, Stage, Statement, Store


def map_kernel(kernel: Kernel, rule: Callable[[Expr], Expr]) -> Kernel:
    """The kernel with `rule` applied to every root expression of its statements."""
    stages = tuple(Stage(st.ranges, tuple(_map(s, rule) for s in st.body))
                   for st in kernel.stages)
    return replace(kernel, stages=stages, key=kernel.key + "#expanded")


def _map(s: Statement, rule: Callable[[Expr], Expr]) -> Statement:
    if isinstance(s, (Store, Scatter)):
        return replace(s, index=rule(s.index), value=rule(s.value),
                       mask=None if s.mask is None else rule(s.mask))
    if hasattr(s, "position"):
        return replace(s, value=rule(s.value), position=rule(s.position))
    return replace(s, value=rule(s.value))


def expand_kernel(kernel: Kernel) -> Kernel:
    """Transcendental intrinsics become arithmetic."""
    return map_kernel(kernel, irmath.expand)
