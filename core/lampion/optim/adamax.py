"""Adamax. Floor 7."""

from __future__ import annotations

from typing import Any

import lampion

from ..ops.fused_optim import Rule, adamax
from ._elementwise import Elementwise, State, check_hyperparameters, counter, ready
from .optimizer import Group

__all__ = ["Adamax"]


class Adamax(Elementwise):
    """Adamax: Adam with the running infinity norm in place of the second moment.

    `m = beta1 m + (1 - beta1) g`, `u = max(beta2 u, |g| + eps)`,
    `p -= lr / (1 - beta1^t) * m / u`.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr, betas, eps, weight_decay: numbers as above; `weight_decay` is an L2 penalty.
        foreach, capturable: accepted, see `Elementwise`.
        maximize: ascend instead of descend.
        differentiable: record the step itself for autograd.

    Raises:
        ValueError: for a rate, factor or beta out of range.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> Adamax([w]).defaults["lr"]
        0.002
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_hyperparameters(lr=lr, eps=eps, betas=betas, weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _rule(self, group: Group) -> tuple[Rule, dict[str, bool]]:
        return adamax, {"decay": group["weight_decay"] != 0, "maximize": group["maximize"]}

    def _init_state(self, group: Group, param: Any, grad: Any, state: State) -> None:
        state["step"] = counter(group, param)
        state["exp_avg"] = lampion.zeros_like(param)
        state["exp_inf"] = lampion.zeros_like(param)

    def _scalars(self, group: Group, step: float, state: State) -> tuple[Any, ...]:
        beta1, beta2 = group["betas"]
        lr = ready(group["lr"], group, step)
        return lr / (1 - beta1**step), group["weight_decay"], 1 - beta1, beta2, group["eps"]
