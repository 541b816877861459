"""Adagrad. Floor 7."""

from __future__ import annotations

from typing import Any

import lampion

from ..ops.fused_optim import Rule, adagrad
from ._elementwise import Elementwise, State, check_hyperparameters, check_modes, counter, ready
from .optimizer import Group

__all__ = ["Adagrad"]


class Adagrad(Elementwise):
    """Adagrad: steps divided by the root of the sum of all squared gradients.

    `s += g^2`, `p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps)`.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr, lr_decay, eps, weight_decay: numbers as above; `weight_decay` is an L2 penalty.
        initial_accumulator_value: where the sum starts.
        foreach, fused: accepted, see `Elementwise`.
        maximize: ascend instead of descend.
        differentiable: record the step itself for autograd.

    Raises:
        ValueError: for a negative rate or factor.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> Adagrad([w]).state[w]["sum"].tolist()
        [0.0, 0.0]
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_hyperparameters(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        check_modes(foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for p in group["params"]:
                self._init_state(group, p, None, self.state[p])

    def share_memory(self) -> None:
        """Move the accumulators to memory that other processes can share."""
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["sum"].share_memory_()

    def _rule(self, group: Group) -> tuple[Rule, dict[str, bool]]:
        return adagrad, {"decay": group["weight_decay"] != 0, "maximize": group["maximize"]}

    def _init_state(self, group: Group, param: Any, grad: Any, state: State) -> None:
        start: Any = self.defaults["initial_accumulator_value"]
        if param.is_complex():
            start = complex(start, start)
        state["step"] = counter(group, param)
        with lampion.no_grad():
            state["sum"] = lampion.full_like(param, start)

    def _scalars(self, group: Group, step: float, state: State) -> tuple[Any, ...]:
        lr = ready(group["lr"], group, step)
        return lr / (1 + (step - 1) * group["lr_decay"]), group["weight_decay"], group["eps"]
