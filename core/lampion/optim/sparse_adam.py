"""Adam for sparse gradients. Floor 7."""

from __future__ import annotations

import math
from typing import Any

import lampion

from .optimizer import OneByOne

__all__ = ["SparseAdam"]


class SparseAdam(OneByOne):
    r"""Adam whose moments and parameters change only where the sparse gradient has elements.

    Gradients that are sparse come from `nn.Embedding(..., sparse=True)`. `params` are tensors or
    groups; `betas`, `eps` and `maximize` are as in `Adam` (Kingma and Ba, 2015).

    Raises:
        ValueError: for options out of range, or sparse parameters.
        RuntimeError: in `step` if a gradient is dense.

    >>> table = nn.Embedding(10, 3, sparse=True)
    >>> optimizer = SparseAdam(table.parameters(), lr=0.1)
    >>> table(lampion.tensor([2, 5])).sum().backward()
    >>> optimizer.step()
    """

    def __init__(self, params: Any, lr: Any = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, maximize: bool = False) -> None:
        if isinstance(lr, lampion.Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not float(lr) > 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if not eps > 0.0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        for k, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {k}: {beta}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})
        for group in self.param_groups:
            for p in group["params"]:
                if p.layout is not lampion.strided:
                    raise ValueError("SparseAdam requires dense parameter tensors; only their "
                                     "gradients are sparse")

    def _update(self, group: Any, p: Any, g: Any) -> None:
        if not g.is_sparse:
            raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam "
                               "instead")
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = lampion.zeros_like(p), lampion.zeros_like(p)
        state["step"] += 1
        g = g.coalesce()
        if not g._nnz():
            return
        places, g = tuple(g.indices()), g.values()
        g = -g if group["maximize"] else g
        (beta1, beta2), step = group["betas"], state["step"]
        first, second = state["exp_avg"], state["exp_avg_sq"]
        m = first[places] * beta1 + g * (1 - beta1)
        v = second[places] * beta2 + g * g * (1 - beta2)
        first[places], second[places] = m, v
        size = group["lr"] * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        p[places] -= size * m / (v.sqrt() + group["eps"])
