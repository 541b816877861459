"""Activations and dropout of nn.functional: in-place switches and compositions.

May import: nn._ops, lampion.tensor.
"""
from __future__ import annotations

import math
import warnings
from typing import Any

import lampion
from lampion.nn._ops import ops
from lampion.replay import replayed
from lampion.tensor import Tensor

# ---- activations with an in-place form ----------------------------------------------------------


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where x > threshold, else value."""
    return (ops.threshold_ if inplace else ops.threshold)(input, threshold, value)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(0, x).

    >>> F.relu(lampion.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return ops.relu_(input) if inplace else ops.relu(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(0, x), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha (exp(x) - 1)."""
    return (ops.elu_ if inplace else ops.elu)(input, alpha)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))."""
    return (ops.celu_ if inplace else ops.celu)(input, alpha)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """The scaled elu that keeps mean 0 and variance 1."""
    return ops.selu_(input) if inplace else ops.selu(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope x."""
    return (ops.leaky_relu_ if inplace else ops.leaky_relu)(input, negative_slope)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0,
             inplace: bool = False) -> Tensor:
    """clamp(x, min_val, max_val); ValueError if min_val > max_val."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    return (ops.hardtanh_ if inplace else ops.hardtanh)(input, min_val, max_val)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """clamp(x + 3, 0, 6) / 6."""
    return ops.hardsigmoid_(input) if inplace else ops.hardsigmoid(input)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x clamp(x + 3, 0, 6) / 6."""
    return ops.hardswish_(input) if inplace else ops.hardswish(input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x)."""
    return ops.silu_(input) if inplace else ops.silu(input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus(x))."""
    return ops.mish_(input) if inplace else ops.mish(input)


def rrelu(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False,
          inplace: bool = False) -> Tensor:
    """x where x >= 0, else a x, a drawn from [lower, upper] in training, their mean otherwise."""
    if lower > upper:
        raise RuntimeError("Lower bound should be less than or equal to the upper bound")
    if training:
        slope = lampion.empty_like(input, requires_grad=False).uniform_(lower, upper)
        factor = lampion.where(input.detach() > 0, lampion.ones_like(slope), slope)
        return input.mul_(factor) if inplace else input * factor
    return leaky_relu(input, (lower + upper) / 2, inplace)


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3,
           training: bool = False) -> Tensor:
    """In-place rrelu."""
    return rrelu(input, lower, upper, training, True)


# ---- other activations --------------------------------------------------------------------------


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else weight x; weight has one element or one per channel (axis 1)."""
    if input.dim() == 0 and weight.numel() != 1:
        raise RuntimeError("Not allow zero-dim input tensor.")
    return lampion.prelu(input, weight)


@replayed
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a sigmoid(b), a and b the halves of x along `dim`."""
    if input.dim() == 0:
        raise RuntimeError("glu does not support scalars because halving size must be even")
    size = input.size(dim)
    if size % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim % input.dim()} is "
                           f"size {size}")
    first, second = input.chunk(2, dim)
    return first * second.sigmoid()


# ---- sampling ------------------------------------------------------------------------------------


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10,
                   dim: int = -1) -> Tensor:
    """Sample from the relaxed categorical distribution of `logits`; `hard` gives one-hot samples.

    The gradient of a hard sample is that of the soft one.
    """
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=2)
    noise = -lampion.empty_like(logits, requires_grad=False).exponential_().log()
    soft = ops.softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    index = soft.max(dim, keepdim=True)[1]
    one_hot = lampion.zeros_like(logits, requires_grad=False).scatter_(dim, index, 1.0)
    return one_hot - soft.detach() + soft


# ---- dropout ------------------------------------------------------------------------------------


def _check_p(p: float) -> None:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _keep_mask(input: Tensor, shape: Any, p: float) -> Tensor:
    """0 with probability p, else 1 / (1 - p)."""
    mask = lampion.empty(shape, dtype=input.dtype, device=input.device)
    if p == 1.0:
        return mask.zero_()
    return mask.bernoulli_(1 - p).div_(1 - p)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability p and scale the others by 1/(1-p); identity if not
    training.

    ValueError unless 0 <= p <= 1.
    """
    _check_p(p)
    if not training or p == 0.0:
        return input
    if inplace:
        return input.mul_(_keep_mask(input, input.shape, p))
    return ops.dropout(input, p, True)


def _channel_dropout(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    """Dropout of whole (n, c) slices of (N, C, *)."""
    if not training or p == 0.0:
        return input
    shape = (*input.shape[:2], *[1] * (input.dim() - 2))
    mask = _keep_mask(input, shape, p)
    return input.mul_(mask) if inplace else input * mask


def _unbatched(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    """`_channel_dropout` of (C, *)."""
    out = _channel_dropout(input.unsqueeze(0), p, training, inplace).squeeze(0)
    return input if inplace else out


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True,
              inplace: bool = False) -> Tensor:
    """Dropout of whole channels of (N, C, L) or (C, L)."""
    _check_p(p)
    if input.dim() not in (2, 3):
        raise RuntimeError(f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D "
                           "input. Note that dropout1d exists to provide channel-wise dropout on "
                           "inputs with 1 spatial dimension, a channel dimension, and an optional "
                           "batch dimension (i.e. 2D or 3D inputs).")
    return (_unbatched if input.dim() == 2 else _channel_dropout)(input, p, training, inplace)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True,
              inplace: bool = False) -> Tensor:
    """Dropout of whole channels of (N, C, H, W); axis 0 is always the batch."""
    _check_p(p)
    if input.dim() not in (3, 4):
        warnings.warn(f"dropout2d: Received a {input.dim()}-D input to dropout2d, which is "
                      "deprecated and will result in an error in a future release.", stacklevel=2)
    return _channel_dropout(input, p, training, inplace)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True,
              inplace: bool = False) -> Tensor:
    """Dropout of whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    _check_p(p)
    if input.dim() not in (4, 5):
        warnings.warn(f"dropout3d: Received a {input.dim()}-D input to dropout3d, which is "
                      "deprecated and will result in an error in a future release.", stacklevel=2)
    return (_unbatched if input.dim() == 4 else _channel_dropout)(input, p, training, inplace)


def _alpha_dropout(input: Tensor, shape: Any, p: float, training: bool, inplace: bool) -> Tensor:
    """x keeps with probability 1 - p, else becomes selu's limit; scaled to mean 0 and variance 1.
    """
    _check_p(p)
    if not training or p == 0.0:
        return input
    if p == 1.0:
        return input.mul_(0) if inplace else input * 0
    limit = 1.7580993408473766  # 1.0507 * 1.6733, minus the value of selu at -inf
    scale = 1.0 / math.sqrt((limit * limit * p + 1) * (1 - p))
    keep = lampion.empty(shape, dtype=input.dtype, device=input.device).bernoulli_(1 - p)
    shift = (keep - 1) * (limit * scale) + limit * scale * p
    factor = keep * scale
    return input.mul_(factor).add_(shift) if inplace else input * factor + shift


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False,
                  inplace: bool = False) -> Tensor:
    """Dropout that keeps mean and variance of selu's output."""
    return _alpha_dropout(input, input.shape, p, training, inplace)


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False,
                          inplace: bool = False) -> Tensor:
    """alpha_dropout of whole channels (axis 1)."""
    shape = (*input.shape[:2], *[1] * (input.dim() - 2))
    return _alpha_dropout(input, shape, p, training, inplace)


__all__ = [
    "alpha_dropout", "celu", "dropout", "dropout1d", "dropout2d", "dropout3d", "elu",
    "feature_alpha_dropout", "glu", "gumbel_softmax", "hardsigmoid", "hardswish", "hardtanh",
    "leaky_relu", "mish", "prelu", "relu", "relu6", "rrelu", "rrelu_", "selu", "silu",
    "threshold",
]
