"""A normalization that follows a convolution or linear layer, folded into its weights.

For evaluation, y = (W x + b - E) / sqrt(V + eps) * g + h is one layer with the weights
W g / sqrt(V + eps) and the bias (b - E) g / sqrt(V + eps) + h. Floor 7; imports nn.
"""

from __future__ import annotations

import copy
from typing import Any

import lampion
from lampion.nn.parameter import Parameter

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval",
           "fuse_linear_bn_weights"]


def _fold(weight: Any, bias: Any, mean: Any, var: Any, eps: float, scale: Any, shift: Any,
          axis: int) -> tuple[Parameter, Parameter]:
    """Weights and bias of the one layer; `axis` of the weights counts its outputs."""
    bias = lampion.zeros_like(mean) if bias is None else bias
    scale = lampion.ones_like(mean) if scale is None else scale
    shift = lampion.zeros_like(mean) if shift is None else shift
    factor = scale * lampion.rsqrt(var + eps)
    shape = [1] * weight.dim()
    shape[axis] = -1
    made = (weight * factor.reshape(shape)).to(weight.dtype), \
        ((bias - mean) * factor + shift).to(bias.dtype)
    grad = weight.requires_grad, bias.requires_grad
    return Parameter(made[0].detach(), grad[0]), Parameter(made[1].detach(), grad[1])


def fuse_conv_bn_weights(conv_w: Any, conv_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float,
                         bn_w: Any, bn_b: Any, transpose: bool = False) -> Any:
    """(weight, bias) of a convolution that does what the convolution and the norm do.

    `transpose` for transposed convolutions, whose weights count the outputs second.
    """
    return _fold(conv_w, conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, 1 if transpose else 0)


def fuse_linear_bn_weights(linear_w: Any, linear_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float,
                           bn_w: Any, bn_b: Any) -> Any:
    """(weight, bias) of a linear layer that does what the layer and the norm do."""
    return _fold(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, 0)


def _evaluated(layer: Any, bn: Any) -> Any:
    """A copy of the layer to write to; both must be in evaluation and the norm must know its
    statistics."""
    if layer.training or bn.training:
        raise AssertionError("Fusion only for eval!")
    if bn.running_mean is None or bn.running_var is None:
        raise AssertionError("fusion: the norm tracks no running statistics "
                             "(track_running_stats=False)")
    return copy.deepcopy(layer)


def fuse_conv_bn_eval(conv: Any, bn: Any, transpose: bool = False) -> Any:
    """A convolution that does what `conv` and then `bn` do; both in evaluation.

    >>> conv, bn = nn.Conv2d(1, 2, 3).eval(), nn.BatchNorm2d(2).eval()
    >>> x = lampion.randn(1, 1, 5, 5)
    >>> nn.utils.fuse_conv_bn_eval(conv, bn)(x).allclose(bn(conv(x)), atol=1e-5)
    True
    """
    made = _evaluated(conv, bn)
    made.weight, made.bias = fuse_conv_bn_weights(
        made.weight, made.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias,
        transpose)
    return made


def fuse_linear_bn_eval(linear: Any, bn: Any) -> Any:
    """A linear layer that does what `linear` and then `bn` do; both in evaluation.

    AssertionError if the norm has neither one feature nor the layer's number of them.
    """
    made = _evaluated(linear, bn)
    if linear.out_features != bn.num_features and bn.num_features != 1:
        raise AssertionError("To fuse, linear.out_features == bn.num_features or "
                             "bn.num_features == 1")
    made.weight, made.bias = fuse_linear_bn_weights(
        made.weight, made.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    return made
