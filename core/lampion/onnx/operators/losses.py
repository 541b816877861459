"""ONNX's loss functions. Floor 7; imports lampion and this package."""

from __future__ import annotations

from typing import Any

from ...nn import functional as F
from ..table import operator


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(input: Any, target: Any, weight: Any = None, *,
                                 ignore_index: int | None = None,
                                 reduction: str = "mean") -> Any:
    """The negative values at the targets' classes, weighted by class."""
    return F.nll_loss(input, target.long(), weight, reduction=reduction,
                      ignore_index=-100 if ignore_index is None else ignore_index)


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_loss(scores: Any, labels: Any, weights: Any = None, *,
                               ignore_index: int | None = None, reduction: str = "mean") -> Any:
    """Cross entropy of scores and labels; the logarithms of probabilities as a second output."""
    log_prob = F.log_softmax(scores, 1)
    loss = negative_log_likelihood_loss(log_prob, labels, weights, ignore_index=ignore_index,
                                        reduction=reduction)
    return loss, log_prob
