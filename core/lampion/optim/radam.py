"""RAdam. Floor 7."""

from __future__ import annotations

from typing import Any

import lampion

from ..ops.fused_optim import Rule, radam
from ._elementwise import Elementwise, State, check_hyperparameters, counter, ready
from .optimizer import Group

__all__ = ["RAdam"]


class RAdam(Elementwise):
    """RAdam: Adam that holds back its adaptive part until the second moment is trustworthy.

    With `rho_inf = 2 / (1 - beta2) - 1` and `rho_t = rho_inf - 2 t beta2^t / (1 - beta2^t)`, the
    step is Adam's times a rectification factor when `rho_t > 5`, else plain momentum.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr, betas, eps: as in Adam.
        weight_decay: L2 penalty, or, with `decoupled_weight_decay`, shrinkage by lr times it.
        foreach, capturable: accepted, see `Elementwise`.
        maximize: ascend instead of descend.
        differentiable: record the step itself for autograd.

    Raises:
        ValueError: for a rate, factor or beta out of range.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> RAdam([w]).defaults["decoupled_weight_decay"]
        False
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_hyperparameters(lr=lr, eps=eps, betas=betas, weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _rule(self, group: Group) -> tuple[Rule, dict[str, bool]]:
        return radam, {
            "decay": group["weight_decay"] != 0,
            "decoupled": bool(group["decoupled_weight_decay"]),
            "maximize": group["maximize"],
        }

    def _init_state(self, group: Group, param: Any, grad: Any, state: State) -> None:
        state["step"] = counter(group, param)
        state["exp_avg"] = lampion.zeros_like(param)
        state["exp_avg_sq"] = lampion.zeros_like(param)

    def _scalars(self, group: Group, step: float, state: State) -> tuple[Any, ...]:
        beta1, beta2 = group["betas"]
        lr = ready(group["lr"], group, step)
        weight_decay = group["weight_decay"]
        bias2 = 1 - beta2**step
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * step * beta2**step / bias2
        rect, trusted = 0.0, rho > 5.0
        if isinstance(step, lampion.Tensor):
            safe = lampion.where(trusted, rho, 5.0)
            rect = ((safe - 4) * (safe - 2) * rho_inf
                    / ((rho_inf - 4) * (rho_inf - 2) * safe)) ** 0.5 * trusted
        elif trusted:
            rect = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
        rate, shrink = lr / (1 - beta1**step), 1 - lr * weight_decay
        rates = (rate, rect, bias2**0.5, group["eps"], weight_decay, shrink)
        return *rates, 1 - beta1, beta2, 1 - beta2
