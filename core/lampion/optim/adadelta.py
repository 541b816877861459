"""Adadelta. Floor 7."""

from __future__ import annotations

from typing import Any

import lampion

from ..ops.fused_optim import Rule, adadelta
from ._elementwise import Elementwise, State, check_hyperparameters, counter, ready
from .optimizer import Group

__all__ = ["Adadelta"]


class Adadelta(Elementwise):
    """Adadelta: steps scaled by the ratio of running sizes of past steps and gradients.

    `v = rho v + (1 - rho) g^2`, `d = sqrt(u + eps) / sqrt(v + eps) * g`,
    `u = rho u + (1 - rho) d^2`, `p -= lr * d`.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr, rho, eps, weight_decay: numbers as above; `weight_decay` is an L2 penalty.
        foreach, capturable: accepted, see `Elementwise`.
        maximize: ascend instead of descend.
        differentiable: record the step itself for autograd.

    Raises:
        ValueError: for a negative rate or factor, or rho above 1.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> Adadelta([w]).defaults["rho"]
        0.9
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_hyperparameters(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _rule(self, group: Group) -> tuple[Rule, dict[str, bool]]:
        return adadelta, {"decay": group["weight_decay"] != 0, "maximize": group["maximize"]}

    def _init_state(self, group: Group, param: Any, grad: Any, state: State) -> None:
        state["step"] = counter(group, param)
        state["square_avg"] = lampion.zeros_like(param)
        state["acc_delta"] = lampion.zeros_like(param)

    def _scalars(self, group: Group, step: float, state: State) -> tuple[Any, ...]:
        lr = ready(group["lr"], group, step)
        rho = group["rho"]
        return lr, group["weight_decay"], rho, 1 - rho, group["eps"]
