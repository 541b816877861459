"""`lampion.nn.functional`: the functions behind the layers, with torch's names and arguments.

Ops whose arguments are torch's come straight from the op registry, at first use. Here and in the
modules imported below are wrappers (in-place switches, older arguments, checks) and compositions.
May import: lampion.tensor, lampion.library and the private modules of lampion.nn.
"""
# ruff: noqa: F401  (the names are this module's)
from __future__ import annotations

from typing import Any

from lampion.nn._activations import *  # noqa: F403
from lampion.nn._attention import multi_head_attention_forward
from lampion.nn._chunked_loss import linear_cross_entropy
from lampion.nn._distances import cosine_similarity, normalize, pairwise_distance, pdist
from lampion.nn._grouped import grouped_mm as grouped_mm
from lampion.nn._losses import *  # noqa: F403
from lampion.nn._ops import find, ops
from lampion.nn._pooling import (
    adaptive_max_pool1d_with_indices,
    adaptive_max_pool2d_with_indices,
    adaptive_max_pool3d_with_indices,
    fractional_max_pool2d,
    fractional_max_pool2d_with_indices,
    fractional_max_pool3d,
    fractional_max_pool3d_with_indices,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d_with_indices,
    max_pool2d_with_indices,
    max_pool3d_with_indices,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)
from lampion.nn._sequences import ctc_loss, embedding, embedding_bag
from lampion.nn._vision import (
    GRID_SAMPLE_INTERPOLATION_MODES,
    GRID_SAMPLE_PADDING_MODES,
    affine_grid,
    channel_shuffle,
    grid_sample,
    native_channel_shuffle,
    pixel_shuffle,
    pixel_unshuffle,
    upsample,
    upsample_bilinear,
    upsample_nearest,
)
from lampion.tensor import Tensor

# Ops that are functions of this module as they are declared.
OPS = frozenset({
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "batch_norm", "celu_", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "elu_", "fold", "gelu", "group_norm", "hardshrink", "hardtanh_",
    "instance_norm", "interpolate", "layer_norm", "leaky_relu_", "linear",
    "local_response_norm", "log_softmax", "logsigmoid", "max_pool1d", "max_pool2d",
    "max_pool3d", "one_hot", "pad", "relu_", "rms_norm", "scaled_dot_product_attention",
    "selu_", "sigmoid", "softmax", "softmin", "softplus", "softshrink", "softsign", "tanh",
    "tanhshrink", "threshold_", "unfold"
})


def __getattr__(name: str) -> Any:
    if name not in OPS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = find(name)
    globals()[name] = found  # the next look-up is a plain one
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *OPS})


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[*, k] = x1ᵀ W[k] x2 + b[k]: (*, I), (*, J), W (K, I, J) to (*, K)."""
    if input1.dim() != input2.dim() or input1.shape[:-1] != input2.shape[:-1]:
        raise RuntimeError("bilinear(): input batch dimensions do not match: got "
                           f"{list(input1.shape[:-1])} and {list(input2.shape[:-1])}")
    out, size1, size2 = weight.shape
    for which, x, size in (("input1", input1, size1), ("input2", input2, size2)):
        if x.size(-1) != size:
            raise RuntimeError(f"bilinear(): {which} size does not match weight size: got "
                               f"{x.size(-1)} but expected {size}")
    left = input1.reshape(-1, size1) @ weight.transpose(0, 1).reshape(size1, out * size2)
    flat = (left.view(-1, out, size2) * input2.reshape(-1, 1, size2)).sum(-1)
    flat = flat.view(*input1.shape[:-1], out)
    return flat if bias is None else flat + bias


def conv_tbc(input: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """conv1d with time first: input (T, N, C_in), weight (K, C_in, C_out), output (T', N, C_out).
    """
    y = ops.conv1d(input.permute(1, 2, 0), weight.permute(2, 1, 0), bias, padding=pad)
    return y.permute(2, 0, 1)
