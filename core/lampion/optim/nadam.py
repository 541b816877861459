"""NAdam. Floor 7."""

from __future__ import annotations

from typing import Any

import lampion

from ..ops.fused_optim import Rule, nadam
from ._elementwise import Elementwise, State, check_hyperparameters, counter, ready
from .optimizer import Group

__all__ = ["NAdam"]


class NAdam(Elementwise):
    """NAdam: Adam with Nesterov momentum whose strength follows a schedule.

    `mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)`; the step mixes the gradient, weighted by
    `(1 - mu_t) / (1 - prod mu)`, and the first moment, weighted by
    `mu_{t+1} / (1 - prod mu * mu_{t+1})`, over `sqrt(v / (1 - beta2^t)) + eps`.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr, betas, eps, momentum_decay: numbers as above.
        weight_decay: L2 penalty, or, with `decoupled_weight_decay`, shrinkage by lr times it.
        foreach, capturable: accepted, see `Elementwise`.
        maximize: ascend instead of descend.
        differentiable: record the step itself for autograd.

    Raises:
        ValueError: for a rate, factor or beta out of range.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> NAdam([w]).defaults["momentum_decay"]
        0.004
    """

    _scalars_vary = True
    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_hyperparameters(
            lr=lr, eps=eps, betas=betas, weight_decay=weight_decay, momentum_decay=momentum_decay
        )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for p in group["params"]:
                own = self.state.get(p)
                if own and not isinstance(own["mu_product"], lampion.Tensor):
                    own["mu_product"] = counter(group, p, own["mu_product"])

    def _rule(self, group: Group) -> tuple[Rule, dict[str, bool]]:
        return nadam, {
            "decay": group["weight_decay"] != 0,
            "decoupled": bool(group["decoupled_weight_decay"]),
            "maximize": group["maximize"],
        }

    def _init_state(self, group: Group, param: Any, grad: Any, state: State) -> None:
        state["step"] = counter(group, param)
        state["mu_product"] = counter(group, param, 1.0)
        state["exp_avg"] = lampion.zeros_like(param)
        state["exp_avg_sq"] = lampion.zeros_like(param)

    def _scalars(self, group: Group, step: float, state: State) -> tuple[Any, ...]:
        beta1, beta2 = group["betas"]
        lr = ready(group["lr"], group, step)
        weight_decay, decay = group["weight_decay"], group["momentum_decay"]
        mu = beta1 * (1.0 - 0.5 * 0.96 ** (step * decay))
        mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((step + 1) * decay))
        product = state["mu_product"].mul_(mu)
        if not isinstance(step, lampion.Tensor):
            product = product.item()
        grad_rate = lr * (1.0 - mu) / (1.0 - product)
        avg_rate = lr * mu_next / (1.0 - product * mu_next)
        bias2, shrink = 1 - beta2**step, 1 - lr * weight_decay
        rates = (grad_rate, avg_rate, bias2, group["eps"], weight_decay, shrink)
        return *rates, 1 - beta1, beta2, 1 - beta2
