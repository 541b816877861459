"""Adafactor. Floor 7.

Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018,
algorithms 4 and 5.
"""

from __future__ import annotations

from typing import Any

import lampion

from .optimizer import OneByOne

__all__ = ["Adafactor"]


class Adafactor(OneByOne):
    """Steps scaled by the root of squared gradients, of which only row and column means are kept.

    For matrices the estimate of squares is `row_var @ col_var / mean(row_var)`; vectors keep all.
    The step is clipped to a root mean square of `d` and scaled by that of the parameter.

    Args:
        params: tensors, parameter groups or `(name, tensor)` pairs.
        lr: largest relative step; it falls with 1 / sqrt(step).
        beta2_decay: exponent of the decay of the running means, `1 - step ** beta2_decay`.
        eps: (least square root of the estimate, by default the dtype's eps; least scale of a
            parameter).
        d: clipping threshold.
        weight_decay: decoupled.
        foreach: accepted.
        maximize: ascend instead of descend.

    Raises:
        ValueError: for a negative rate or eps, a positive beta2_decay, d below 1.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2, 3))
        >>> Adafactor([w]).defaults["beta2_decay"]
        -0.8
    """

    def __init__(self, params: Any, lr: Any = 1e-2, beta2_decay: float = -0.8,
                 eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0,
                 weight_decay: float = 0.0, *, foreach: bool | None = None,
                 maximize: bool = False) -> None:
        if isinstance(lr, lampion.Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0.0:
            raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not beta2_decay <= 0.0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        for k, e in enumerate(eps, 1):
            if e is not None and not e >= 0.0:
                raise ValueError(f"epsilon{k} should be >= 0 but is: {e}")
        if not d >= 1.0:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight_decay should be >= 0 but is: {weight_decay}")
        super().__init__(params, {
            "lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d,
            "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize})

    def _update(self, group: Any, p: Any, g: Any) -> None:
        if p.is_complex():
            raise RuntimeError("Adafactor does not support complex parameters")
        g = -g if group["maximize"] else g
        state = self.state[p]
        if not state:
            state["step"] = lampion.tensor(0.0, device="cpu")
            if g.ndim > 1:
                state["row_var"] = g.new_zeros((*g.shape[:-1], 1))
                state["col_var"] = g.new_zeros((*g.shape[:-2], 1, g.shape[-1]))
            else:
                state["variance"] = lampion.zeros_like(g)
        state["step"] += 1
        n, lr = float(state["step"]), float(group["lr"])
        least, scale = group["eps"]
        least = lampion.finfo(p.dtype).eps if least is None else least
        fresh = n ** group["beta2_decay"]
        alpha = max(scale, float(p.norm(2)) / p.numel() ** 0.5) * min(lr, 1 / n ** 0.5)
        if group["weight_decay"]:
            p.mul_(1 - lr * group["weight_decay"])
        if g.ndim > 1:
            squares = g * g
            row = state["row_var"].lerp_(squares.mean(-1, True), fresh)
            col = state["col_var"].lerp_(squares.mean(-2, True), fresh)
            estimate = row @ col / row.mean(-2, True).clamp_(min=least)
        else:
            estimate = state["variance"].lerp_(g * g, fresh)
        update = g * estimate.clamp(min=least * least).rsqrt_()
        clip = max(1.0, float(update.norm(2)) / (update.numel() ** 0.5 * group["d"]))
        p.add_(update, alpha=-alpha / clip)
