"""Losses of nn.functional: wrappers with torch's arguments and compositions of tensor ops.

May import: nn._ops, nn._reduction, nn._distances, lampion.tensor.
"""
from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import lampion
from lampion.nn import _reduction
from lampion.nn._distances import pairwise_distance
from lampion.nn._ops import ops
from lampion.ops.facts import examples
from lampion.replay import replayed
from lampion.tensor import Tensor


def _resolve(size_average: Any, reduce: Any, reduction: str) -> str:
    return _reduction.resolve(size_average, reduce, reduction)


def _warn_sizes(input: Tensor, target: Tensor) -> None:
    """A target of another size broadcasts, which is rarely meant."""
    if target.shape != input.shape:
        warnings.warn(f"Using a target size ({target.size()}) that is different to the input size "
                      f"({input.size()}). This will likely lead to incorrect results due to "
                      "broadcasting. Please ensure they have the same size.", stacklevel=3)


def _weighted(values: Tensor, weight: Tensor, reduction: str) -> Tensor:
    """Reduce weight * values; the mean divides by the weights' sum."""
    if weight.shape != values.shape:
        raise ValueError("Weights and input must have the same size.")
    values = values * weight
    if reduction == "mean":
        return values.sum() / weight.sum()
    return _reduction.apply(values, reduction)


# ---- regression ---------------------------------------------------------------------------------


def mse_loss(input: Tensor, target: Tensor, size_average: bool | None = None,
             reduce: bool | None = None, reduction: str = "mean",
             weight: Tensor | None = None) -> Tensor:
    """(input - target)², reduced.

    >>> F.mse_loss(lampion.zeros(2), lampion.full((2,), 2.0))
    tensor(4.)
    """
    _warn_sizes(input, target)
    reduction = _resolve(size_average, reduce, reduction)
    if weight is not None:
        return _weighted((input - target) ** 2, weight, reduction)
    return ops.mse_loss(input, target, reduction=reduction)


def l1_loss(input: Tensor, target: Tensor, size_average: bool | None = None,
            reduce: bool | None = None, reduction: str = "mean",
            weight: Tensor | None = None) -> Tensor:
    """|input - target|, reduced."""
    _warn_sizes(input, target)
    reduction = _resolve(size_average, reduce, reduction)
    if weight is not None:
        return _weighted((input - target).abs(), weight, reduction)
    return ops.l1_loss(input, target, reduction=reduction)


def smooth_l1_loss(input: Tensor, target: Tensor, size_average: bool | None = None,
                   reduce: bool | None = None, reduction: str = "mean",
                   beta: float = 1.0) -> Tensor:
    """0.5 d² / beta where |d| < beta, else |d| - 0.5 beta; beta 0 is l1_loss."""
    _warn_sizes(input, target)
    reduction = _resolve(size_average, reduce, reduction)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if beta == 0.0:
        return ops.l1_loss(input, target, reduction=reduction)
    return ops.smooth_l1_loss(input, target, reduction=reduction, beta=beta)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0,
               weight: Tensor | None = None) -> Tensor:
    """0.5 d² where |d| <= delta, else delta (|d| - 0.5 delta)."""
    _warn_sizes(input, target)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    if weight is not None:
        values = ops.huber_loss(input, target, reduction="none", delta=delta)
        return _weighted(values, weight, reduction)
    return ops.huber_loss(input, target, reduction=reduction, delta=delta)


@replayed
def poisson_nll_loss(input: Tensor, target: Tensor, log_input: bool = True, full: bool = False,
                     size_average: bool | None = None, eps: float = 1e-8,
                     reduce: bool | None = None, reduction: str = "mean") -> Tensor:
    """exp(input) - target input (input - target log(input + eps) without log_input).

    `full` adds t log t - t + 0.5 log(2 π t) for targets above 1.
    """
    reduction = _resolve(size_average, reduce, reduction)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    values = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        stirling = target * target.log() - target + 0.5 * (2 * math.pi * target).log()
        values = values + lampion.where(target > 1, stirling, lampion.zeros_like(stirling))
    return _reduction.apply(values, reduction)


@replayed
def gaussian_nll_loss(input: Tensor, target: Tensor, var: Tensor | float, full: bool = False,
                      eps: float = 1e-6, reduction: str = "mean") -> Tensor:
    """(log var + (input - target)² / var) / 2, var at least eps (as a constant); full adds
    log(2π)/2.
    """
    if isinstance(var, (int, float)):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        var = lampion.full_like(input, var)
    elif bool((examples(var) < 0).any()):
        raise ValueError("var has negative entry/entries")
    if var.shape != input.shape:
        if tuple(input.shape[:-1]) == tuple(var.shape):
            var = var.unsqueeze(-1)
        elif not (tuple(input.shape[:-1]) == tuple(var.shape[:-1]) and var.size(-1) == 1) and any(
                have not in (1, want) for want, have in zip(reversed(input.shape),
                                                            reversed(var.shape))):
            raise ValueError("var is of incorrect size")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction + " is not valid")
    clamped = var.clone()
    with lampion.no_grad():
        clamped.clamp_(min=eps)
    values = 0.5 * (clamped.log() + (input - target) ** 2 / clamped)
    if full:
        values = values + 0.5 * math.log(2 * math.pi)
    return _reduction.apply(values, reduction)


# ---- classification -----------------------------------------------------------------------------


def nll_loss(input: Tensor, target: Tensor, weight: Tensor | None = None,
             size_average: bool | None = None, ignore_index: int = -100,
             reduce: bool | None = None, reduction: str = "mean") -> Tensor:
    """-weight[target] input[target]: log-probabilities (N, C, *) or (C), classes (N, *) or ()."""
    reduction = _resolve(size_average, reduce, reduction)
    return ops.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


@replayed
def cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None,
                  size_average: bool | None = None, ignore_index: int = -100,
                  reduce: bool | None = None, reduction: str = "mean",
                  label_smoothing: float = 0.0) -> Tensor:
    """-log softmax(input)[target]: logits (N, C, *) or (C), classes or probabilities as target.

    >>> F.cross_entropy(lampion.zeros(3, 4), lampion.tensor([0, 1, 2]))
    tensor(1.3863)
    """
    reduction = _resolve(size_average, reduce, reduction)
    return ops.cross_entropy(input, target, weight, ignore_index=ignore_index, reduction=reduction,
                             label_smoothing=label_smoothing)


@replayed
def binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None,
                         size_average: bool | None = None, reduce: bool | None = None,
                         reduction: str = "mean") -> Tensor:
    """-weight (t log x + (1 - t) log(1 - x)), logarithms at least -100."""
    reduction = _resolve(size_average, reduce, reduction)
    if target.shape != input.shape:
        raise ValueError(f"Using a target size ({target.size()}) that is different to the input "
                         f"size ({input.size()}) is deprecated. Please ensure they have the same "
                         "size.")
    if weight is not None:
        weight = weight.expand(input.shape)
    return ops.binary_cross_entropy(input, target, weight, reduction=reduction)


def binary_cross_entropy_with_logits(input: Tensor, target: Tensor, weight: Tensor | None = None,
                                     size_average: bool | None = None, reduce: bool | None = None,
                                     reduction: str = "mean",
                                     pos_weight: Tensor | None = None) -> Tensor:
    """binary_cross_entropy of sigmoid(input), stable; pos_weight multiplies the positive term."""
    reduction = _resolve(size_average, reduce, reduction)
    if target.shape != input.shape:
        raise ValueError(f"Target size ({target.size()}) must be the same as input size "
                         f"({input.size()})")
    return ops.binary_cross_entropy_with_logits(input, target, weight, pos_weight=pos_weight,
                                                reduction=reduction)


def kl_div(input: Tensor, target: Tensor, size_average: bool | None = None,
           reduce: bool | None = None, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target (log target - input), reduced; 'batchmean' divides the sum by the batch size."""
    reduction = _resolve(size_average, reduce, reduction)
    if reduction == "mean":
        warnings.warn("reduction: 'mean' divides the total loss by both the batch size and the "
                      "support size. 'batchmean' divides only by the batch size, and aligns with "
                      "the KL div math definition. 'mean' will be changed to behave the same as "
                      "'batchmean' in the next major release.", stacklevel=2)
    if reduction == "batchmean":
        total = ops.kl_div(input, target, reduction="sum", log_target=log_target)
        return total / input.size(0) if input.dim() != 0 else total
    return ops.kl_div(input, target, reduction=reduction, log_target=log_target)


@replayed
def soft_margin_loss(input: Tensor, target: Tensor, size_average: bool | None = None,
                     reduce: bool | None = None, reduction: str = "mean") -> Tensor:
    """log(1 + exp(-target input)), target ±1."""
    reduction = _resolve(size_average, reduce, reduction)
    return _reduction.apply(ops.softplus(-target * input), reduction)


@replayed
def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0,
                         size_average: bool | None = None, reduce: bool | None = None,
                         reduction: str = "mean") -> Tensor:
    """input where target is 1, max(0, margin - input) where it is -1, zero otherwise."""
    reduction = _resolve(size_average, reduce, reduction)
    zeros = lampion.zeros_like(input)
    negative = lampion.where(target != 1, (margin - input).clamp(min=0), zeros)
    positive = lampion.where(target != -1, input, zeros)
    return _reduction.apply(negative + positive, reduction)


@replayed
def margin_ranking_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0,
                        size_average: bool | None = None, reduce: bool | None = None,
                        reduction: str = "mean") -> Tensor:
    """max(0, -target (input1 - input2) + margin)."""
    reduction = _resolve(size_average, reduce, reduction)
    if input1.dim() != input2.dim() or input1.dim() != target.dim():
        raise RuntimeError("margin_ranking_loss : All input tensors should have same dimension "
                           f"but got sizes: input1: {input1.size()}, input2: {input2.size()}, "
                           f"target: {target.size()} ")
    return _reduction.apply((-target * (input1 - input2) + margin).clamp(min=0), reduction)


@replayed
def cosine_embedding_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0,
                          size_average: bool | None = None, reduce: bool | None = None,
                          reduction: str = "mean") -> Tensor:
    """1 - cos(x1, x2) where target is 1, max(0, cos - margin) where it is -1: (N, D) or (D)."""
    reduction = _resolve(size_average, reduce, reduction)
    wanted = {0: 1, 1: 2}.get(target.dim())
    if wanted is None:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if input1.dim() != wanted or input2.dim() != wanted:
        raise RuntimeError(f"{target.dim()}D target tensor expects {wanted}D input tensors, but "
                           f"found inputs with sizes {input1.size()} and {input2.size()}.")
    tiny = 1e-12
    product = (input1 * input2).sum(-1)
    norms = ((input1 * input1).sum(-1) + tiny) * ((input2 * input2).sum(-1) + tiny)
    cos = product / norms.sqrt()
    zeros = lampion.zeros_like(cos)
    values = lampion.where(target == 1, 1 - cos, zeros) \
        + lampion.where(target == -1, (cos - margin).clamp(min=0), zeros)
    return _reduction.apply(values, reduction)


@replayed
def multi_margin_loss(input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0,
                      weight: Tensor | None = None, size_average: bool | None = None,
                      reduce: bool | None = None, reduction: str = "mean") -> Tensor:
    """Mean over other classes i of weight[t] max(0, margin - x[t] + x[i])^p: (N, C) or (C)."""
    reduction = _resolve(size_average, reduce, reduction)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    rows, batched, classes = _rows(input, target, "multi_margin_loss")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    if weight is not None and weight.numel() != classes:
        raise RuntimeError(f"inconsistent weight size, expected {classes} but got "
                           f"{list(weight.shape)}")
    label = target.reshape(-1, 1)
    hinge = (margin - rows.gather(1, label) + rows).clamp(min=0)
    if p == 2:
        hinge = hinge * hinge
    if weight is not None:
        hinge = hinge * weight[label]
    other = lampion.ones_like(hinge, requires_grad=False).scatter(1, label, 0)
    values = (hinge * other).sum(1) / classes
    return _reduction.apply(values if batched or target.dim() else values.squeeze(0), reduction)


def _rows(input: Tensor, target: Tensor, name: str) -> tuple[Tensor, bool, int]:
    """(N, C) input, whether it had a batch axis, C."""
    if input.dim() > 2 or 0 in input.shape[-1:]:
        raise RuntimeError("Expected non-empty vector or matrix with optional 0-dim batch size, "
                           f"but got: {list(input.shape)}")
    batched = input.dim() == 2
    rows = input if batched else input.reshape(1, -1)
    if name == "multi_margin_loss" and (target.dim() > 1 or target.numel() != rows.size(0)):
        raise RuntimeError(f"inconsistent target size, expected {rows.size(0)} but got "
                           f"{list(target.shape)}")
    return rows, batched, rows.size(1)


@replayed
def multilabel_margin_loss(input: Tensor, target: Tensor, size_average: bool | None = None,
                           reduce: bool | None = None, reduction: str = "mean") -> Tensor:
    """Sum over labels t and non-labels i of max(0, 1 - (x[t] - x[i])) / C; labels end at the first
    -1.
    """
    reduction = _resolve(size_average, reduce, reduction)
    rows, batched, classes = _rows(input, target, "multilabel_margin_loss")
    if target.shape != input.shape:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: "
                           f"{list(input.shape)}")
    labels = target.reshape(rows.shape)
    live = (labels < 0).to(lampion.int64).cumsum(1) == 0
    index = lampion.where(live, labels, lampion.zeros_like(labels))
    counts = lampion.zeros_like(labels).scatter_add(1, index, live.to(labels.dtype))
    wrong = (counts == 0).to(rows.dtype)
    gap = (1 - (rows.gather(1, index).unsqueeze(2) - rows.unsqueeze(1))).clamp(min=0)
    pairs = gap * live.to(rows.dtype).unsqueeze(2) * wrong.unsqueeze(1)
    values = pairs.sum(2).sum(1) / classes
    return _reduction.apply(values if batched else values.squeeze(0), reduction)


@replayed
def multilabel_soft_margin_loss(input: Tensor, target: Tensor, weight: Tensor | None = None,
                                size_average: bool | None = None, reduce: bool | None = None,
                                reduction: str = "mean") -> Tensor:
    """Mean over the last axis of -(t logsigmoid(x) + (1 - t) logsigmoid(-x))."""
    reduction = _resolve(size_average, reduce, reduction)
    values = -(target * ops.logsigmoid(input) + (1 - target) * ops.logsigmoid(-input))
    if weight is not None:
        values = values * weight
    return _reduction.apply(values.mean(-1), reduction)


# ---- triplets -----------------------------------------------------------------------------------


@replayed
def triplet_margin_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0,
                        p: float = 2, eps: float = 1e-6, swap: bool = False,
                        size_average: bool | None = None, reduce: bool | None = None,
                        reduction: str = "mean") -> Tensor:
    """max(0, d(a, p) - d(a, n) + margin), d the p-norm; swap uses d(p, n) if it is smaller."""
    reduction = _resolve(size_average, reduce, reduction)
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")

    def distance(x1: Tensor, x2: Tensor) -> Tensor:
        return pairwise_distance(x1, x2, p, eps)

    return _triplet(anchor, positive, negative, distance, margin, swap, reduction)


def triplet_margin_with_distance_loss(
        anchor: Tensor, positive: Tensor, negative: Tensor, *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None, margin: float = 1.0,
        swap: bool = False, reduction: str = "mean") -> Tensor:
    """triplet_margin_loss with any distance function of two tensors."""
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    distance = distance_function or pairwise_distance
    return _triplet(anchor, positive, negative, distance, margin, swap, reduction)


def _triplet(anchor: Tensor, positive: Tensor, negative: Tensor, distance: Any, margin: float,
             swap: bool, reduction: str) -> Tensor:
    dims = {anchor.dim(), positive.dim(), negative.dim()}
    if len(dims) != 1:
        raise RuntimeError("The anchor, positive, and negative tensors are expected to have the "
                           f"same number of dimensions, but got: anchor {anchor.dim()}D, positive "
                           f"{positive.dim()}D, and negative {negative.dim()}D inputs")
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = lampion.minimum(far, distance(positive, negative))
    return _reduction.apply((margin + near - far).clamp(min=0), reduction)


__all__ = [name for name in dir() if name.endswith("_loss") or name in (
    "cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")]
