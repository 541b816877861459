"""RMSprop. Floor 7."""

from __future__ import annotations

from typing import Any

import lampion

from ..ops.fused_optim import (
    Rule,
    rmsprop,
    rmsprop_centered,
    rmsprop_centered_momentum,
    rmsprop_momentum,
)
from ._elementwise import Elementwise, State, check_hyperparameters, counter, ready
from .optimizer import Group

__all__ = ["RMSprop"]


_RULES = {
    (False, False): rmsprop,
    (False, True): rmsprop_momentum,
    (True, False): rmsprop_centered,
    (True, True): rmsprop_centered_momentum,
}


class RMSprop(Elementwise):
    """RMSprop: steps divided by the running root mean square of the gradient.

    `v = alpha v + (1 - alpha) g^2`, `p -= lr * g / (sqrt(v) + eps)`; `centered` subtracts the
    squared running mean from `v`, `momentum` accumulates the steps.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr, alpha, eps, weight_decay, momentum: numbers as above; `weight_decay` is an L2 penalty.
        centered: normalise by the estimated variance.
        maximize: ascend instead of descend.
        capturable, foreach: accepted, see `Elementwise`.
        differentiable: record the step itself for autograd.

    Raises:
        ValueError: for a negative rate or factor.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> RMSprop([w], momentum=0.9).defaults["alpha"]
        0.99
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_hyperparameters(
            lr=lr, eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha
        )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _rule(self, group: Group) -> tuple[Rule, dict[str, bool]]:
        flags = {"decay": group["weight_decay"] != 0, "maximize": group["maximize"]}
        return _RULES[bool(group["centered"]), group["momentum"] > 0], flags

    def _init_state(self, group: Group, param: Any, grad: Any, state: State) -> None:
        state["step"] = counter(group, param)
        state["square_avg"] = lampion.zeros_like(param)
        if group["momentum"] > 0:
            state["momentum_buffer"] = lampion.zeros_like(param)
        if group["centered"]:
            state["grad_avg"] = lampion.zeros_like(param)

    def _scalars(self, group: Group, step: float, state: State) -> tuple[Any, ...]:
        lr = ready(group["lr"], group, step)
        alpha = group["alpha"]
        return lr, group["weight_decay"], alpha, 1 - alpha, group["eps"], group["momentum"]
