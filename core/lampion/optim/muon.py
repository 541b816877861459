"""Muon. Floor 7.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the second rule for
the rate is Liu et al., "Muon is Scalable for LLM Training", 2025, section 2.2.
"""

from __future__ import annotations

import math
from typing import Any

import lampion

from .optimizer import OneByOne

__all__ = ["Muon"]


class Muon(OneByOne):
    """Momentum whose matrix is made orthogonal before each step, for the matrices of hidden layers.

    `m = momentum m + (1 - momentum) g`; the step is the orthogonal factor of m (of g moved towards
    m with `nesterov`), found by `ns_steps` Newton-Schulz iterations in bfloat16.

    Args:
        params: tensors of two dims, parameter groups or `(name, tensor)` pairs.
        lr, weight_decay, momentum: numbers as above; the decay is decoupled.
        nesterov: look ahead.
        ns_coefficients, eps, ns_steps: of the iteration x <- (a + b x x^T + c (x x^T)^2) x.
        adjust_lr_fn: "original" (the default) scales the rate by sqrt(max(1, rows / columns)),
            "match_rms_adamw" by 0.2 sqrt(max(rows, columns)).

    Raises:
        ValueError: for a negative number, an unknown rule, or a parameter that is no matrix.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.ones(2, 3))
        >>> Muon([w], lr=0.02).defaults["momentum"]
        0.95
    """

    def __init__(self, params: Any, lr: Any = 1e-3, weight_decay: float = 0.1,
                 momentum: float = 0.95, nesterov: bool = True,
                 ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
                 eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None) -> None:
        if isinstance(lr, lampion.Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0.0:
            raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not momentum >= 0.0:
            raise ValueError(f"momentum should be >= 0 but is: {momentum}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight decay should be >= 0 but is: {weight_decay}")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        super().__init__(params, {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError("Muon only supports 2D parameters whereas we found a "
                                     f"parameter with size: {p.size()}")

    def _update(self, group: Any, p: Any, g: Any) -> None:
        if p.is_complex():
            raise RuntimeError("Muon does not support complex parameters")
        state, momentum, lr = self.state[p], group["momentum"], float(group["lr"])
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = lampion.zeros_like(g)
        mean = state["momentum_buffer"].lerp_(g, 1 - momentum)
        ahead = g.lerp(mean, momentum) if group["nesterov"] else mean
        update = orthogonalized(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = p.shape
        factor = (0.2 * math.sqrt(max(rows, columns))
                  if group["adjust_lr_fn"] == "match_rms_adamw"
                  else math.sqrt(max(1, rows / columns)))
        p.mul_(1 - lr * group["weight_decay"])
        p.add_(update.to(p.dtype), alpha=-lr * factor)


def orthogonalized(g: Any, coefficients: tuple[float, float, float], steps: int, eps: float,
                   ) -> Any:
    """About the orthogonal factor of a matrix, in bfloat16: its singular values become 0.5 to 1.5.

    ValueError for 100 steps or more, or not exactly three coefficients.
    """
    if steps >= 100:
        raise ValueError("Number of steps must be less than 100 for computational efficiency")
    if len(coefficients) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")
    a, b, c = coefficients
    tall = g.shape[0] > g.shape[1]
    x = g.bfloat16()
    x = x.T if tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = lampion.addmm(x, lampion.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
