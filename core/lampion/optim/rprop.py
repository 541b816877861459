"""Resilient backpropagation. Floor 7."""

from __future__ import annotations

from typing import Any

import lampion

from ..ops.fused_optim import Rule, rprop
from ._elementwise import Elementwise, State, check_hyperparameters, counter, number
from .optimizer import Group

__all__ = ["Rprop"]


class Rprop(Elementwise):
    """Rprop: a step size per element that grows while the gradient keeps its sign.

    Where the sign flips, the step shrinks by `etas[0]` and the element rests for one step; where
    it holds, the step grows by `etas[1]`, within `step_sizes`.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr: the first step size.
        etas: shrinking and growing factor, `0 < etas[0] < 1 < etas[1]`.
        step_sizes: least and largest step size.
        capturable, foreach: accepted, see `Elementwise`.
        maximize: ascend instead of descend.
        differentiable: record the step itself for autograd.

    Raises:
        ValueError: for a negative rate or factors out of range.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> Rprop([w]).defaults["etas"]
        (0.5, 1.2)
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_hyperparameters(lr=lr, etas=etas)
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _rule(self, group: Group) -> tuple[Rule, dict[str, bool]]:
        return rprop, {"maximize": group["maximize"]}

    def _init_state(self, group: Group, param: Any, grad: Any, state: State) -> None:
        lr: Any = number(group["lr"])
        state["step"] = counter(group, param)
        state["prev"] = lampion.zeros_like(param)
        state["step_size"] = lampion.full_like(grad, complex(lr, lr) if param.is_complex() else lr)

    def _scalars(self, group: Group, step: float, state: State) -> tuple[Any, ...]:
        return *group["etas"], *group["step_sizes"]
