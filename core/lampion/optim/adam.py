"""Adam and AdamW. Floor 7."""

from __future__ import annotations

from typing import Any

import lampion

from ..ops.fused_optim import Rule, adam, adam_amsgrad
from ._elementwise import (
    Elementwise,
    State,
    check_hyperparameters,
    check_modes,
    counter,
    ready,
)
from .optimizer import Group

__all__ = ["Adam", "AdamW"]


def _check_tensor_betas(betas: Any, foreach: Any, capturable: Any) -> None:
    tensors = [isinstance(beta, lampion.Tensor) for beta in betas]
    if not (all(tensors) or all(isinstance(beta, float) for beta in betas)):
        raise ValueError("betas must be either both floats or both Tensors")
    for i, beta in enumerate(betas):
        if tensors[i] and not capturable and foreach:
            raise ValueError(
                f"betas[{i}] as a Tensor is not supported for capturable=False and foreach=True"
            )
        if tensors[i] and beta.numel() != 1:
            raise ValueError(f"Tensor betas[{i}] must be 1-element")


def _flat(value: Any) -> Any:
    return value.squeeze() if isinstance(value, lampion.Tensor) and value.dim() else value


class Adam(Elementwise):
    r"""Adam: steps scaled by running first and second moments of the gradient.

    `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`,
    `p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)`.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr: step size, a number or one-element tensor.
        betas: decay of the two moments, each in [0, 1).
        eps: added to the denominator.
        weight_decay: L2 penalty, or, with `decoupled_weight_decay`, shrinkage by lr times it.
        amsgrad: use the largest second moment seen so far.
        maximize: ascend instead of descend.
        foreach, fused, capturable: accepted, see `Elementwise`.
        differentiable: record the step itself for autograd.

    Raises:
        ValueError: for a rate, factor or beta out of range.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> optimizer = Adam([w], lr=0.5)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.5, 0.5]
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        if isinstance(lr, lampion.Tensor) and foreach and not capturable:
            raise ValueError(
                "lr as a Tensor is not supported for capturable=False and foreach=True"
            )
        check_hyperparameters(lr=lr, eps=eps, betas=betas, weight_decay=weight_decay)
        _check_tensor_betas(betas, foreach, capturable)
        check_modes(foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "betas": tuple(_flat(beta) for beta in betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def _rule(self, group: Group) -> tuple[Rule, dict[str, bool]]:
        flags = {
            "decay": bool(group["weight_decay"] != 0),
            "decoupled": bool(group["decoupled_weight_decay"]),
            "maximize": bool(group["maximize"]),
        }
        return (adam_amsgrad if group["amsgrad"] else adam), flags

    def _init_state(self, group: Group, param: Any, grad: Any, state: State) -> None:
        state["step"] = counter(group, param)
        state["exp_avg"] = lampion.zeros_like(param)
        state["exp_avg_sq"] = lampion.zeros_like(param)
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = lampion.zeros_like(param)

    def _scalars(self, group: Group, step: float, state: State) -> tuple[Any, ...]:
        beta1, beta2 = group["betas"]
        lr, weight_decay, beta1, beta2 = (
            ready(v, group, step) for v in (group["lr"], group["weight_decay"], beta1, beta2))
        step_size = lr / (1 - beta1**step)
        bias2_sqrt = (1 - beta2**step) ** 0.5
        shrink = 1 - lr * weight_decay
        eps = group["eps"]
        return step_size, bias2_sqrt, eps, weight_decay, shrink, 1 - beta1, beta2, 1 - beta2


class AdamW(Adam):
    """Adam with decoupled weight decay: `p *= 1 - lr * weight_decay` before each step.

    Arguments and errors are Adam's; `weight_decay` defaults to 0.01.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2))
        >>> AdamW([w]).param_groups[0]["decoupled_weight_decay"]
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
