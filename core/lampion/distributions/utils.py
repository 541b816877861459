"""Helpers of the distributions, under PyTorch's names.

Floor 7; imports lampion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Number
from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.tensor import Tensor

__all__ = ["broadcast_all", "clamp_probs", "euler_constant", "lazy_property", "logits_to_probs",
           "probs_to_logits", "tril_matrix_to_vec", "vec_to_tril_matrix"]

euler_constant = 0.57721566490153286060


def broadcast_all(*values: Any) -> tuple[Tensor, ...]:
    """Tensors and numbers as tensors of one shape; numbers take dtype and device of the first
    tensor, the default dtype if there is none. ValueError for anything else.

    >>> [v.shape for v in broadcast_all(lampion.zeros(3), 1.0)]
    [lampion.Size([3]), lampion.Size([3])]
    """
    if not all(isinstance(v, (Tensor, Number)) for v in values):
        raise ValueError("parameters must all be numbers or tensors, got "
                         + ", ".join(type(v).__name__ for v in values))
    first = next((v for v in values if isinstance(v, Tensor)), None)
    options: dict[str, Any] = {"dtype": lampion.get_default_dtype()}
    if first is not None:
        options = {"dtype": first.dtype, "device": first.device}
    return lampion.broadcast_tensors(*[
        v if isinstance(v, Tensor) else lampion.tensor(v, **options) for v in values])


def clamp_probs(probs: Tensor) -> Tensor:
    """Probabilities kept away from 0 and 1 by the rounding error of their dtype."""
    eps = lampion.finfo(probs.dtype).eps
    return probs.clamp(eps, 1 - eps)


def logits_to_probs(logits: Tensor, is_binary: bool = False) -> Tensor:
    """Probabilities of log-odds (`is_binary`), or of log-weights in the last dim."""
    return logits.sigmoid() if is_binary else logits.softmax(-1)


def probs_to_logits(probs: Tensor, is_binary: bool = False) -> Tensor:
    """Log-odds (`is_binary`) or logarithms of probabilities, finite also for 0 and 1."""
    p = clamp_probs(probs)
    return p.log() - (-p).log1p() if is_binary else p.log()


class lazy_property:
    """A property computed at first use, with gradients, and kept in the instance.

    >>> Bernoulli(probs=lampion.tensor(0.5)).logits
    tensor(0.)
    """

    def __init__(self, wrapped: Callable[[Any], Any]) -> None:
        self.wrapped = wrapped
        self.__doc__ = wrapped.__doc__
        self.name = wrapped.__name__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        with lampion.enable_grad():
            value = self.wrapped(instance)
        setattr(instance, self.name, value)
        return value


def tril_matrix_to_vec(mat: Tensor, diag: int = 0) -> Tensor:
    """The elements of (..., D, D) matrices up to a diagonal, row by row: (..., N)."""
    n = mat.shape[-1]
    if not -n <= diag < n:
        raise ValueError(f"diag ({diag}) must be in [{-n}, {n - 1}]")
    rows, columns = lampion.tril_indices(n, n, diag, device=mat.device)
    return mat[..., rows, columns]


def vec_to_tril_matrix(vec: Tensor, diag: int = 0) -> Tensor:
    """Matrices (..., D, D) from their elements up to a diagonal, (..., N), zeros above."""
    # N = D (D + 1) / 2 + what lies between diagonal 0 and `diag`
    side = (-(1 + 2 * diag) + ((1 + 2 * diag) ** 2 + 8 * vec.shape[-1] + 4 * abs(diag)
                               * (diag + 1)) ** 0.5) / 2
    n = round(side)
    if abs(side - n) > lampion.finfo(vec.dtype).eps:
        raise ValueError(f"a vector of {vec.shape[-1]} elements fills no lower triangle")
    rows, columns = lampion.tril_indices(n, n, diag, device=vec.device)
    places = rows * n + columns
    flat = vec.new_zeros((*vec.shape[:-1], n * n))
    return flat.index_copy(-1, places, vec).unflatten(-1, (n, n))


def sum_rightmost(value: Tensor, dims: int) -> Tensor:
    """The sum over the last `dims` dims."""
    return value.flatten(value.dim() - dims).sum(-1) if dims else value


def binary_loss(logits: Tensor, value: Tensor) -> Tensor:
    """-log of the Bernoulli probability of `value`, elementwise."""
    return F.binary_cross_entropy_with_logits(logits, value, reduction="none")


def or_infinite(never: Tensor, value: Tensor) -> Tensor:
    """A divergence, infinite where p has values that q never has."""
    return lampion.where(never, math.inf, value)
