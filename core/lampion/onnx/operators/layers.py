"""ONNX operators that are layers: products, convolutions, normalizations. Floor 7; imports lampion
and this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lampion

from ...nn import functional as F
from ..table import binary, operator
from ..values import DTYPES

binary("MatMul", lampion.matmul)


@operator("Gemm")
def gemm(A: Any, B: Any, C: Any = None, *, alpha: float = 1.0, beta: float = 1.0,
         transA: int = 0, transB: int = 0) -> Any:
    """alpha A B + beta C, of matrices that may be transposed."""
    if C is not None and C.ndim == 1 and transB and not transA and alpha == beta == 1.0:
        return F.linear(A, B, C)
    product = lampion.mm(A.t() if transA else A, B.t() if transB else B)
    if alpha != 1.0:
        product = (product * alpha).to(A.dtype)
    return product if C is None else product + (C if beta == 1.0 else (C * beta).to(C.dtype))


@operator("Einsum")
def einsum(*Inputs: Any, equation: str) -> Any:
    """A sum of products, by named dims."""
    return lampion.einsum(equation.replace(" ", ""), *Inputs)


# ---------------------------------------------------------------- convolutions

def same_pads(mode: str, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int],
              dilations: Sequence[int], pads: Sequence[int] | None) -> list[int]:
    """The pads of a window operator: those given (begins, then ends), or what `auto_pad` says."""
    n = len(kernel)
    if mode in ("NOTSET", ""):
        return list(pads) if pads is not None else [0] * (2 * n)
    if mode == "VALID":
        return [0] * (2 * n)
    begin, end = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        less, more = total // 2, total - total // 2
        begin.append(less if mode == "SAME_UPPER" else more)
        end.append(more if mode == "SAME_UPPER" else less)
    return begin + end


def padded(x: Any, pads: Sequence[int], value: float = 0.0) -> tuple[Any, list[int]]:
    """(input, symmetric pads that are left for the operator itself)."""
    n = len(pads) // 2
    if list(pads[:n]) == list(pads[n:]):
        return x, list(pads[:n])
    flat = [p for k in reversed(range(n)) for p in (pads[k], pads[n + k])]
    return F.pad(x, flat, value=value), [0] * n


@operator("Conv")
def conv(X: Any, W: Any, B: Any = None, *, auto_pad: str = "NOTSET",
         dilations: Sequence[int] | None = None, group: int = 1,
         kernel_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
         strides: Sequence[int] | None = None) -> Any:
    """A convolution over any number of dims."""
    kernel = W.shape[2:]
    n = len(kernel)
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    if n == 0:
        raise RuntimeError("Conv: the weight has no spatial dims")
    around = same_pads(auto_pad, X.shape[2:], kernel, strides, dilations, pads)
    x, left = padded(X, around)
    return lampion.convolution(x, W, B, strides, left, dilations, False, [0] * n, group)


@operator("ConvTranspose")
def conv_transpose(X: Any, W: Any, B: Any = None, *, auto_pad: str = "NOTSET",
                   dilations: Sequence[int] | None = None, group: int = 1,
                   kernel_shape: Sequence[int] | None = None,
                   output_padding: Sequence[int] | None = None,
                   output_shape: Sequence[int] | None = None,
                   pads: Sequence[int] | None = None,
                   strides: Sequence[int] | None = None) -> Any:
    """The transpose of a convolution, cropped by pads or to a shape."""
    kernel = W.shape[2:]
    n = len(kernel)
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    extra = list(output_padding or [0] * n)
    around = list(pads) if pads is not None and auto_pad == "NOTSET" else [0] * (2 * n)
    whole = [s * (size - 1) + e + (k - 1) * d + 1 for size, k, s, d, e in zip(
        X.shape[2:], kernel, strides, dilations, extra)]
    wanted = output_shape if output_shape is not None else (
        [size * s for size, s in zip(X.shape[2:], strides)]
        if auto_pad.startswith("SAME") else None)
    if wanted is not None:
        for k, (full, size) in enumerate(zip(whole, wanted[-n:])):
            total = full - size
            half = total // 2
            first = half if auto_pad == "SAME_UPPER" else total - half
            around[k], around[n + k] = first, total - first
    if around[:n] == around[n:] and min(around) >= 0:
        return lampion.convolution(X, W, B, strides, around[:n], dilations, True, extra, group)
    out = lampion.convolution(X, W, B, strides, [0] * n, dilations, True, extra, group)
    return F.pad(out, [-p for k in reversed(range(n)) for p in (around[k], around[n + k])])


@operator("CausalConvWithState")
def causal_conv_with_state(input: Any, weight: Any, bias: Any = None, past_state: Any = None, *,
                           activation: str = "none") -> Any:
    """Each channel convolved with what came before, which the state carries on."""
    past = weight.shape[2] - 1
    if past_state is None:
        past_state = lampion.zeros(*input.shape[:2], past, dtype=input.dtype, device=input.device)
    whole = lampion.cat([past_state, input], 2)
    out = F.conv1d(whole, weight, bias, groups=input.shape[1])
    if activation in ("silu", "swish"):
        out = F.silu(out)
    return out, whole.narrow(2, whole.shape[2] - past, past)


# ---------------------------------------------------------------- normalizations

@operator("BatchNormalization")
def batch_normalization(X: Any, scale: Any, B: Any, input_mean: Any, input_var: Any, *,
                        epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0,
                        spatial: int = 1, outputs: int = 1) -> Any:
    """Normalized by the channels' statistics: those given, or in training mode the batch's own."""
    if not training_mode:
        if scale.dtype is X.dtype and input_mean.dtype is X.dtype:
            return F.batch_norm(X, input_mean, input_var, scale, B, False, 0.0, epsilon)
        wide = F.batch_norm(X.to(input_mean.dtype), input_mean, input_var,
                            scale.to(input_mean.dtype), B.to(input_mean.dtype), False, 0.0,
                            epsilon)
        return wide.to(X.dtype)
    dims = [d for d in range(X.ndim) if d != 1]
    mean, var = X.mean(dims), X.var(dims, correction=0)
    out = F.batch_norm(X, mean, var, scale, B, False, 0.0, epsilon)
    return (out, input_mean * momentum + mean * (1 - momentum),
            input_var * momentum + var * (1 - momentum))[:max(outputs, 1)]


@operator("InstanceNormalization")
def instance_normalization(input: Any, scale: Any, B: Any, *, epsilon: float = 1e-5) -> Any:
    """Normalized over the pixels of each channel."""
    return F.instance_norm(input, weight=scale, bias=B, eps=epsilon)


@operator("GroupNormalization")
def group_normalization(X: Any, scale: Any, bias: Any, *, num_groups: int,
                        epsilon: float = 1e-5, stash_type: int = 1, opset: int = 21) -> Any:
    """Normalized over groups of channels; before opset 21 a scale and bias are a group's."""
    if opset < 21:
        each = X.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(X, num_groups, scale, bias, epsilon)


@operator("LayerNormalization")
def layer_normalization(X: Any, Scale: Any, B: Any = None, *, axis: int = -1,
                        epsilon: float = 1e-5, stash_type: int = 1, outputs: int = 1) -> Any:
    """Normalized over the dims from an axis on; mean and 1/deviation as further outputs."""
    at = axis % X.ndim
    shape = X.shape[at:]
    if outputs == 1 and Scale.shape == shape and (B is None or B.shape == shape):
        return F.layer_norm(X, shape, Scale, B, epsilon)
    wide = X.to(DTYPES[stash_type])
    dims = tuple(range(at, X.ndim))
    mean = wide.mean(dims, True)
    inverse = (wide.var(dims, correction=0, keepdim=True) + epsilon).rsqrt()
    out = ((wide - mean) * inverse).to(X.dtype) * Scale
    return (out if B is None else out + B), mean, inverse


@operator("RMSNormalization")
def rms_normalization(X: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5,
                      stash_type: int = 1) -> Any:
    """Divided by the root of the mean square over the dims from an axis on."""
    at = axis % X.ndim
    wide = X.to(DTYPES[stash_type])
    dims = tuple(range(at, X.ndim))
    inverse = ((wide * wide).mean(dims, True) + epsilon).rsqrt()
    return (wide * inverse).to(X.dtype) * scale


@operator("LRN")
def lrn(X: Any, *, size: int, alpha: float = 0.0001, beta: float = 0.75, bias: float = 1.0) -> Any:
    """Divided by a power of the sum of squares over neighbouring channels."""
    channels = X.shape[1]
    before = (size - 1) // 2
    rest = math.prod(X.shape[2:])
    squares = F.pad((X * X).reshape(X.shape[0], 1, channels, rest),
                    [0, 0, before, size - 1 - before])
    total = F.avg_pool2d(squares, (size, 1), stride=1) * size
    return X / (total.reshape(X.shape) * (alpha / size) + bias) ** beta


@operator("Dropout", host=(1, 2))
def dropout(data: Any, ratio: Any = 0.5, training_mode: Any = None, *, seed: int = 0,
            is_test: int = 1, outputs: int = 1) -> Any:
    """Some elements zeroed and the others scaled up, in training mode."""
    rate = float(ratio.reshape(-1)[0]) if hasattr(ratio, "reshape") else float(
        0.5 if ratio is None else ratio)
    training = training_mode is not None and bool(training_mode.reshape(-1)[0])
    if not training or rate == 0:
        return data, lampion.ones_like(data, dtype=lampion.bool)
    generator = lampion.Generator(device=data.device).manual_seed(seed) if seed else None
    kept = lampion.rand(data.shape, generator=generator, device=data.device) >= rate
    return data * kept.to(data.dtype) / (1 - rate), kept
