"""Rewriting a kernel's expressions before printing. May import: lampion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lampion.ir import math as irmath
from lampion.ir.expr import Expr
from lampion.ir.kernel import Kernel, Stage, map_statement


def map_kernel(kernel: Kernel, rule: Callable[[Expr], Expr]) -> Kernel:
    """The kernel with `rule` applied to every root expression of its statements."""
    stages = tuple(Stage(st.ranges, tuple(map_statement(s, rule) for s in st.body))
                   for st in kernel.stages)
    return replace(kernel, stages=stages, key=kernel.key + "#expanded")


def expand_kernel(kernel: Kernel) -> Kernel:
    """Transcendental intrinsics become arithmetic."""
    return map_kernel(kernel, irmath.expand)
