"""Distances, norms and similarities of nn.functional.

May import: lampion.tensor.
"""
from __future__ import annotations

from typing import Any

import lampion
from lampion.replay import replayed
from lampion.tensor import Tensor


@replayed
def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6,
                      keepdim: bool = False) -> Tensor:
    """‖x1 - x2 + eps‖ of order p over the last axis.

    >>> F.pairwise_distance(lampion.zeros(2, 3), lampion.ones(2, 3)).shape
    lampion.Size([2])
    """
    return (x1 - x2 + eps).norm(p, -1, keepdim)


@replayed
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 · x2 / (max(‖x1‖, eps) max(‖x2‖, eps)) along `dim`, after broadcasting."""
    if not (x1.is_floating_point() and x2.is_floating_point()):
        raise RuntimeError(f"expected common dtype to be floating point, yet common dtype is "
                           f"{lampion.promote_types(x1.dtype, x2.dtype)}")
    x1, x2 = lampion.broadcast_tensors(x1, x2)
    with lampion.no_grad():  # below eps the norm is the constant eps
        floor1 = (x1.norm(2, dim, True) < eps)
        floor2 = (x2.norm(2, dim, True) < eps)
    return (_unit(x1, dim, eps, floor1) * _unit(x2, dim, eps, floor2)).sum(dim)


def _unit(x: Tensor, dim: int, eps: float, floor: Tensor) -> Tensor:
    norm = x.norm(2, dim, True)
    return x / lampion.where(floor, lampion.full_like(norm, eps), norm)


@replayed
def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12,
              out: Tensor | None = None) -> Tensor:
    """x / max(‖x‖_p, eps) along `dim`.

    >>> F.normalize(lampion.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    scale = input.norm(p, dim, keepdim=True).clamp_min(eps).expand_as(input)
    return input / scale if out is None else lampion.div(input, scale, out=out)


def pdist(input: Tensor, p: float = 2) -> Tensor:
    """The p-norm distances of all pairs i < j of rows of (N, M): N (N - 1) / 2 values."""
    return lampion.pdist(input, p)
