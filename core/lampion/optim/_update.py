"""Runs an update rule on tensors, in place: as one fused kernel, or as recorded tensor operations.

`updater(rule, flags)` gives the callable `update(p, g, *buffers, *scalars)` that an optimizer
calls once per parameter. Floor 7; imports the public lampion API and `ops.fused_optim`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lampion

from ..ops.fused_optim import Rule


class TensorMath:
    """The functions of a rule on tensors; second operands may be numbers."""

    @staticmethod
    def sqrt(x: Any) -> Any:
        return lampion.sqrt(x)

    @staticmethod
    def abs(x: Any) -> Any:
        return lampion.abs(x)

    @staticmethod
    def sign(x: Any) -> Any:
        return lampion.sign(x)

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        return lampion.maximum(a, b) if isinstance(b, lampion.Tensor) else a.clamp_min(b)

    @staticmethod
    def minimum(a: Any, b: Any) -> Any:
        return lampion.minimum(a, b) if isinstance(b, lampion.Tensor) else a.clamp_max(b)

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, bool):  # a comparison of numbers
            return a if condition else b
        return lampion.where(condition, a, b)


_updaters: dict[Any, Callable[..., None]] = {}


def updater(
    rule: Rule, flags: dict[str, bool], differentiable: bool = False
) -> Callable[..., None]:
    """The in-place update `(p, g, *buffers, *scalars) -> None` of a rule with fixed options."""
    key = (rule.name, differentiable, *flags.items())
    found = _updaters.get(key)
    if found is None:
        found = _updaters[key] = recorded(rule, flags)
    return found


def recorded(rule: Rule, flags: dict[str, bool]) -> Callable[..., None]:
    """The rule as ordinary tensor operations, which autograd can record."""
    update, buffers = rule.update, len(rule.buffers)

    def run(p: Any, g: Any, *rest: Any) -> None:
        tensors = [p, g, *rest[:buffers]]
        if p.is_complex():
            tensors = [lampion.view_as_real(t) for t in tensors]
        new = update(TensorMath, *tensors, *rest[buffers:], **flags)
        tensors.pop(1)
        for old, value in zip(tensors, new):
            old.copy_(value)

    return run
