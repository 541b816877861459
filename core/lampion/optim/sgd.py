"""Stochastic gradient descent with momentum. Floor 7."""

from __future__ import annotations

from typing import Any

from ..ops.fused_optim import sgd, sgd_momentum
from ..runtime.capture import captures
from ._elementwise import (
    Elementwise,
    check_hyperparameters,
    check_modes,
    number,
    refuse_fresh_state,
)
from ._update import updater
from .optimizer import Group

__all__ = ["SGD"]


class SGD(Elementwise):
    r"""Stochastic gradient descent, optionally with (Nesterov) momentum.

    `buf = momentum * buf + (1 - dampening) * (grad + weight_decay * p)`, `p -= lr * buf`; the
    first step takes the gradient itself as `buf`.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr: step size, a number or one-element tensor.
        momentum, dampening, weight_decay: factors as above.
        nesterov: look ahead along the momentum (needs momentum and no dampening).
        maximize: ascend instead of descend.
        foreach, fused: accepted; the update is one fused kernel per parameter in any case.
        differentiable: record the step itself for autograd.

    Raises:
        ValueError: for a negative rate or factor.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> optimizer = SGD([w], lr=0.5)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [0.0, 0.0]
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Any = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_hyperparameters(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        check_modes(foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _update_group(self, index: int, group: Group) -> None:
        recorded = bool(group["differentiable"])
        lr, weight_decay = group["lr"], group["weight_decay"]
        if not recorded:
            lr, weight_decay = number(lr), number(weight_decay)
        flags = {
            "decay": recorded or weight_decay != 0,
            "maximize": group["maximize"],
        }
        if group["momentum"] == 0:
            update = updater(sgd, flags, recorded)
            for p in group["params"]:
                grad = p.grad
                if grad is not None:
                    update(p, grad, lr, weight_decay)
        else:
            self._update_with_momentum(group, flags, lr, weight_decay)

    def _update_with_momentum(
        self, group: Group, flags: dict[str, bool], lr: Any, weight_decay: Any
    ) -> None:
        recorded = bool(group["differentiable"])
        momentum, intake = number(group["momentum"]), 1 - number(group["dampening"])
        flags["nesterov"] = group["nesterov"]
        update = updater(sgd_momentum, {**flags, "first": False}, recorded)
        state_of = self.state
        for p in group["params"]:
            grad = p.grad
            if grad is None:
                continue
            state = state_of[p]
            buf = state.get("momentum_buffer")
            if buf is not None:
                update(p, grad, buf, lr, weight_decay, momentum, intake)
            else:
                if captures:
                    refuse_fresh_state(self)
                buf = state["momentum_buffer"] = grad.detach().clone()
                start = updater(sgd_momentum, {**flags, "first": True}, recorded)
                start(p, grad, buf, lr, weight_decay, momentum, intake)
