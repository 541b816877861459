"""Averaged stochastic gradient descent. Floor 7."""

from __future__ import annotations

from typing import Any

import lampion

from ..ops.fused_optim import Rule, asgd
from ._elementwise import Elementwise, State, check_hyperparameters, counter, number, ready
from .optimizer import Group

__all__ = ["ASGD"]


class ASGD(Elementwise):
    """Averaged SGD: plain steps with a decaying rate, and the running mean of the parameters.

    `p = (1 - lambd eta) p - eta g`, `ax += (p - ax) mu`, then
    `eta = lr / (1 + lambd lr t)^alpha` and `mu = 1 / max(1, t - t0)`.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr, lambd, alpha, t0, weight_decay: numbers as above; `weight_decay` is an L2 penalty.
        foreach, capturable: accepted, see `Elementwise`.
        maximize: ascend instead of descend.
        differentiable: record the step itself for autograd.

    The average of parameter `p` is `optimizer.state[p]["ax"]`.

    Raises:
        ValueError: for a negative rate or weight decay.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> ASGD([w]).defaults["alpha"]
        0.75
    """

    _scalars_vary = True
    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_hyperparameters(lr=lr, weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for p in group["params"]:
                own = self.state.get(p, {})
                for key in ("eta", "mu"):
                    if key in own and not isinstance(own[key], lampion.Tensor):
                        own[key] = counter(group, p, own[key])

    def _rule(self, group: Group) -> tuple[Rule, dict[str, bool]]:
        return asgd, {"decay": group["weight_decay"] != 0, "maximize": group["maximize"]}

    def _init_state(self, group: Group, param: Any, grad: Any, state: State) -> None:
        state["step"] = counter(group, param)
        state["eta"] = counter(group, param, number(group["lr"]))
        state["mu"] = counter(group, param, 1.0)
        state["ax"] = lampion.zeros_like(param)

    def _scalars(self, group: Group, step: float, state: State) -> tuple[Any, ...]:
        lambd, lr = group["lambd"], ready(group["lr"], group, step)
        if isinstance(step, lampion.Tensor):
            eta, mu = state["eta"].clone(), state["mu"].clone()
            state["eta"].copy_(lr / (1 + lambd * lr * step) ** group["alpha"])
            state["mu"].copy_(1 / (step - group["t0"]).clamp_min(1))
            return eta, 1 - lambd * eta, mu, group["weight_decay"]
        eta, mu, lr = state["eta"].item(), state["mu"].item(), number(lr)
        state["eta"].fill_(lr / (1 + lambd * lr * step) ** group["alpha"])
        state["mu"].fill_(1 / max(1, step - group["t0"]))
        return eta, 1 - lambd * eta, mu, group["weight_decay"]
