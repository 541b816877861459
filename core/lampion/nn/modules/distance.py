"""PairwiseDistance and CosineSimilarity.

May import: nn.functional, nn.modules.module.
"""
from __future__ import annotations

from lampion.nn import functional as F
from lampion.nn.modules.module import Module
from lampion.tensor import Tensor


class PairwiseDistance(Module):
    """‖x1 - x2 + eps‖ of order p over the last axis: (N, D), (N, D) to (N).

    >>> nn.PairwiseDistance()(lampion.zeros(3, 4), lampion.ones(3, 4)).shape
    lampion.Size([3])
    """

    __constants__ = ["norm", "eps", "keepdim"]

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm = p
        self.eps = eps
        self.keepdim = keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)


class CosineSimilarity(Module):
    """x1 · x2 / max(‖x1‖ ‖x2‖, eps) along `dim`."""

    __constants__ = ["dim", "eps"]

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return F.cosine_similarity(x1, x2, self.dim, self.eps)
