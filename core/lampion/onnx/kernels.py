"""Kernel ops in ONNX: products, convolutions, pooling, reductions, norms, gathers. Floor 7; imports
lampion and this package."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..base import dtype as dt
from ..base.dtype import dtype
from ..base.errors import UnsupportedError
from .emit import WHOLE, Value, Writer, translation


def _times(value: Any, n: int) -> list[int]:
    """An argument for n dims: a number for all, or one each."""
    return [int(value)] * n if isinstance(value, int) else (
        list(value) * n if len(value) == 1 else list(value))


def _dims(dim: Any, ndim: int) -> list[int]:
    """The dims of a reduction; none given means all."""
    if dim is None or dim == () or dim == [] or not ndim:
        return list(range(ndim))
    return [d % max(ndim, 1) for d in ((dim,) if isinstance(dim, int) else dim)]


# ---------------------------------------------------------------- products

@translation("linear", "contract")
def linear(g: Writer, input: Value, weight: Value, bias: Value | None = None) -> str:
    """x W^T + b; one Gemm where x is a matrix."""
    if input.ndim == 2 and weight.ndim == 2 and (bias is None or bias.ndim == 1):
        return str(g.node("Gemm", input.name, weight.name, bias.name if bias else None, transB=1))
    turned = _turned(g, weight) if weight.ndim > 1 else weight.name
    out = g.node("MatMul", input.name, turned)
    return str(out if bias is None else g.node("Add", out, bias.name))


def _turned(g: Writer, x: Value) -> str:
    """The last two dims exchanged."""
    order = list(range(x.ndim))
    order[-1], order[-2] = order[-2], order[-1]
    return str(g.node("Transpose", x.name, perm=order))


@translation("matmul", "bmm", "mm")
def matmul(g: Writer, input: Value, other: Value) -> str:
    """A product of matrices."""
    return str(g.node("MatMul", input.name, other.name))


@translation("mv", "dot")
def matrix_vector(g: Writer, input: Value, vec: Value) -> str:
    """A product with a vector."""
    return str(g.node("MatMul", input.name, vec.name))


@translation("gemm")
def gemm(g: Writer, input: Value, other: Value, ta: bool = False, tb: bool = False) -> str:
    """A product of matrices that may be transposed."""
    return str(g.node("MatMul", _turned(g, input) if ta else input.name,
                      _turned(g, other) if tb else other.name))


# ---------------------------------------------------------------- convolutions and windows

def _batched(g: Writer, input: Value, spatial: int, run: Any) -> str:
    """An op on (batch, channels, ...) that may be called without a batch."""
    if input.ndim == spatial + 2:
        return str(run(input.name))
    out = run(g.node("Unsqueeze", input.name, g.ints([0])))
    return str(g.node("Squeeze", out, g.ints([0])))


@translation("conv1d", "conv2d", "conv3d")
def conv(g: Writer, input: Value, weight: Value, bias: Value | None = None, stride: Any = 1,
         padding: Any = 0, dilation: Any = 1, groups: int = 1) -> str:
    """Conv."""
    n = weight.ndim - 2
    dilations, strides = _times(dilation, n), _times(stride, n)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:])]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    else:
        pads = (_times(0 if padding == "valid" else padding, n)) * 2
    return _batched(g, input, n, lambda x: g.node(
        "Conv", x, weight.name, bias.name if bias else None, strides=strides, pads=pads,
        dilations=dilations, group=groups, kernel_shape=list(weight.shape[2:])))


@translation("conv_forward")
def conv_forward(g: Writer, input: Value, weight: Value, bias: Value | None, stride: Any,
                 padding: Any, right: Any, dilation: Any, groups: int) -> str:
    """Conv with other pads at the end than at the start."""
    return str(g.node("Conv", input.name, weight.name, bias.name if bias else None,
                      strides=list(stride), pads=[*padding, *right], dilations=list(dilation),
                      group=groups, kernel_shape=list(weight.shape[2:])))


@translation("conv_backward_data")
def conv_transpose(g: Writer, grad: Value, weight: Value, stride: Any, padding: Any,
                   dilation: Any, groups: int, size: Any) -> str:
    """ConvTranspose: the gradient of a convolution for its input, which has this size."""
    n = weight.ndim - 2
    size = [g.first(s) for s in size][-n:]
    extra = [s - ((i - 1) * t + d * (k - 1) + 1 - 2 * p) for s, i, t, d, k, p in zip(
        size, grad.shape[2:], stride, dilation, weight.shape[2:], padding)]
    return str(g.node("ConvTranspose", grad.name, weight.name, strides=list(stride),
                      pads=list(padding) * 2, dilations=list(dilation), group=groups,
                      output_padding=extra, kernel_shape=list(weight.shape[2:])))


@translation("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(g: Writer, input: Value, kernel_size: Any, stride: Any = None, padding: Any = 0,
             dilation: Any = 1, ceil_mode: bool = False, return_indices: bool = False) -> str:
    """MaxPool."""
    n = int(g.call.op[-2]) if g.call is not None else input.ndim - 2
    if return_indices:
        raise UnsupportedError(f"{g.where()}with return_indices: ONNX counts indices otherwise")
    kernel = _times(kernel_size, n)
    if input.dtype.kind != "f":
        raise UnsupportedError(f"{g.where()}of {input.dtype!r}, for which ONNX has no MaxPool")
    return _batched(g, input, n, lambda x: g.node(
        "MaxPool", x, kernel_shape=kernel, strides=_strides(stride, kernel),
        pads=_times(padding, n) * 2, dilations=_times(dilation, n), ceil_mode=int(ceil_mode)))


def _strides(stride: Any, kernel: list[int]) -> list[int]:
    return kernel if stride is None or stride == () or stride == [] else _times(stride, len(kernel))


@translation("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(g: Writer, input: Value, kernel_size: Any, stride: Any = None, padding: Any = 0,
             ceil_mode: bool = False, count_include_pad: bool = True,
             divisor_override: Any = None) -> str:
    """AveragePool."""
    n = int(g.call.op[-2]) if g.call is not None else input.ndim - 2
    kernel = _times(kernel_size, n)
    factor = 1.0 if divisor_override is None else math.prod(kernel) / divisor_override
    if divisor_override is not None and (ceil_mode or not count_include_pad):
        raise UnsupportedError(f"{g.where()}with divisor_override and windows of several sizes")
    out = _batched(g, input, n, lambda x: g.node(
        "AveragePool", x, kernel_shape=kernel, strides=_strides(stride, kernel),
        pads=_times(padding, n) * 2, ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad)))
    return out if factor == 1.0 else str(g.node("Mul", out, g.number(factor, input.dtype)))


@translation("window_mean")
def window_mean(g: Writer, input: Value, windows: Any, size: Any, divisor: Any) -> str:
    """Means of windows of every dim: a product with a matrix for each."""
    n = len(windows)
    shape = g.fixed(input, range(input.ndim - n, input.ndim))[input.ndim - n:]
    if divisor != "inside" or any(w[0] == "fixed" and (w[3] or w[4] != 1) for w in windows):
        raise UnsupportedError(f"{g.where()}has windows that reach beyond the input")
    name = input.name
    for k, (w, have, count) in enumerate(zip(windows, shape, size)):
        matrix = np.zeros((have, count))
        for o in range(count):
            start, end = (o * w[2], o * w[2] + w[1]) if w[0] == "fixed" else (
                o * have // count, -(-(o + 1) * have // count))
            matrix[start:end, o] = 1 / (end - start)
        order = list(range(input.ndim))
        order.append(order.pop(input.ndim - n + k))
        name = g.node("MatMul", g.node("Transpose", name, perm=order),
                      g.constant(matrix, input.dtype))
        name = g.node("Transpose", name, perm=[order.index(d) for d in range(input.ndim)])
    return name


# ---------------------------------------------------------------- reductions

def _reduced(name: str, op: str) -> None:
    @translation(name)
    def run(g: Writer, input: Value, dim: Any = None, keepdim: bool = False, *,
            dtype: dtype | None = None) -> str:
        kind = dtype or (dt.int64 if op in ("ReduceSum", "ReduceProd")
                         and input.dtype.kind in "biu" else input.dtype)
        if op == "ReduceLogSumExp" and kind.kind != "f":
            kind = dt.get_default_dtype()
        x = g.cast(input.name, input.dtype, kind)
        return g.reduce(op, x, _dims(dim, input.ndim), keepdim)


for _name, _op in {"sum": "ReduceSum", "mean": "ReduceMean", "amax": "ReduceMax",
                   "amin": "ReduceMin", "prod_dims": "ReduceProd",
                   "logsumexp": "ReduceLogSumExp"}.items():
    _reduced(_name, _op)


@translation("any", "all")
def any_all(g: Writer, input: Value, dim: Any = None, keepdim: bool = False) -> str:
    """Whether the sum of 0 and 1 is not 0; for all, of what does not hold."""
    every = g.call is not None and g.call.op == "all"
    holds = input.name if input.dtype is dt.bool_ else g.node("Not", g.node(
        "Equal", input.name, g.number(0, input.dtype)))
    x = g.cast(g.node("Not", holds) if every else holds, dt.bool_, dt.int32)
    out = g.cast(g.reduce("ReduceSum", x, _dims(dim, input.ndim), keepdim), dt.int32, dt.bool_)
    out = g.node("Not", out) if every else out
    return g.cast(out, dt.bool_, dt.uint8 if input.dtype is dt.uint8 else dt.bool_)


@translation("argmax", "argmin")
def arg_extreme(g: Writer, input: Value, dim: int | None = None, keepdim: bool = False) -> str:
    """ArgMax or ArgMin, over a dim or all elements."""
    op = {"argmax": "ArgMax", "argmin": "ArgMin"}[g.call.op if g.call is not None else "argmax"]
    if not input.ndim:
        return g.number(0, dt.int64)
    if dim is not None:
        return str(g.node(op, input.name, axis=dim % max(input.ndim, 1), keepdims=int(keepdim)))
    flat = g.node("Reshape", input.name, g.ints([-1]))
    out = g.node(op, flat, axis=0, keepdims=0)
    return str(g.node("Reshape", out, g.ints([1] * input.ndim))) if keepdim else str(out)


@translation("max_dim", "min_dim")
def extreme_dim(g: Writer, input: Value, dim: int, keepdim: bool = False) -> list[str]:
    """(values, indices) along a dim."""
    if not input.ndim:
        return [input.name, g.number(0, dt.int64)]
    largest = g.call is not None and g.call.op == "max_dim"
    values = g.reduce("ReduceMax" if largest else "ReduceMin", input.name,
                      [dim % max(input.ndim, 1)], keepdim)
    return [values, g.node("ArgMax" if largest else "ArgMin", input.name,
                           axis=dim % max(input.ndim, 1), keepdims=int(keepdim))]


@translation("variance", "deviation")
def variance(g: Writer, input: Value, dim: Any, correction: Any, keepdim: bool = False) -> str:
    """The mean square distance from the mean, with fewer degrees of freedom, or its root."""
    dims = _dims(dim, input.ndim)
    away = g.node("Sub", input.name, g.reduce("ReduceMean", input.name, dims, True))
    total = g.reduce("ReduceSum", g.node("Mul", away, away), dims, keepdim)
    count = g.node("ReduceProd", g.node("Gather", g.shape(input.name), g.ints(dims), axis=0),
                   keepdims=0) if g.opset >= 18 else g.constant(np.array(
                       math.prod(g.fixed(input, dims)[d] for d in dims), np.int64))
    free = g.node("Sub", g.cast(count, dt.int64, input.dtype), g.number(correction, input.dtype))
    out = g.node("Div", total, g.node("Max", free, g.number(0, input.dtype)))
    return str(g.node("Sqrt", out)) if g.call is not None and g.call.op == "deviation" else str(out)


@translation("norm_dims")
def norm_dims(g: Writer, input: Value, dims: Any, keepdim: bool, kind: str, p: float) -> str:
    """The p-norm over dims."""
    axes = _dims(dims, input.ndim)
    if kind in ("two", "one"):
        return g.reduce("ReduceL2" if kind == "two" else "ReduceL1", input.name, axes, keepdim)
    x = g.node("Abs", input.name)
    if kind in ("max", "min"):
        return g.reduce("ReduceMax" if kind == "max" else "ReduceMin", x, axes, keepdim)
    if kind == "zero":
        there = g.node("Not", g.node("Equal", x, g.number(0, input.dtype)))
        return g.reduce("ReduceSum", g.cast(there, dt.bool_, input.dtype), axes, keepdim)
    total = g.reduce("ReduceSum", g.node("Pow", x, g.number(p, input.dtype)), axes, keepdim)
    return str(g.node("Pow", total, g.number(1 / p, input.dtype)))


@translation("cumsum")
def cumsum(g: Writer, input: Value, dim: int, *, dtype: dtype | None = None) -> str:
    """CumSum."""
    kind = dtype or (dt.int64 if input.dtype.kind in "biu" else input.dtype)
    x = g.cast(input.name, input.dtype, kind)
    if not input.ndim:
        return x
    return str(g.node("CumSum", x, g.constant(np.array(dim % max(input.ndim, 1)))))


@translation("softmax_rows", "log_softmax_rows")
def softmax(g: Writer, input: Value, dim: int) -> str:
    """Softmax or LogSoftmax along a dim."""
    op = "Softmax" if g.call is None or g.call.op == "softmax_rows" else "LogSoftmax"
    if not input.ndim:
        row = g.node(op, g.node("Reshape", input.name, g.ints([1])), axis=0)
        return str(g.node("Reshape", row, g.ints([])))
    return str(g.node(op, input.name, axis=dim % max(input.ndim, 1)))


@translation("topk")
def topk(g: Writer, input: Value, k: Any, dim: int = -1, largest: bool = True,
         sorted: bool = True) -> list[str]:
    """TopK."""
    if not input.ndim:
        return [input.name, g.number(0, dt.int64)]
    return list(g.node("TopK", input.name, g.ints([k]), outputs=2, axis=dim,
                       largest=int(largest), sorted=int(sorted)))


@translation("sort")
def sort(g: Writer, input: Value, dim: int = -1, descending: bool = False, *,
         stable: Any = None) -> list[str]:
    """TopK of all elements."""
    if not input.ndim:
        return [input.name, g.number(0, dt.int64)]
    d = dim % max(input.ndim, 1)
    n = g.node("Gather", g.shape(input.name), g.ints([d]), axis=0)
    return list(g.node("TopK", input.name, n, outputs=2, axis=d, largest=int(descending)))


# ---------------------------------------------------------------- norms and attention

@translation("layer_norm_stats")
def layer_norm(g: Writer, input: Value, weight: Value | None, bias: Value | None,
               normalized_shape: Any, eps: float = 1e-5) -> list[str]:
    """LayerNormalization, or what it is made of in opsets that lack it; also mean and 1/std."""
    n = len(normalized_shape)
    scale = weight.name if weight else g.constant(np.ones([g.first(s) for s in normalized_shape]),
                                                  input.dtype)
    if g.opset >= 17:
        return list(g.node("LayerNormalization", input.name, scale, bias.name if bias else None,
                           outputs=3, axis=-n, epsilon=float(eps)))
    dims = list(range(input.ndim - n, input.ndim))
    mean = g.reduce("ReduceMean", input.name, dims, True)
    away = g.node("Sub", input.name, mean)
    spread = g.reduce("ReduceMean", g.node("Mul", away, away), dims, True)
    inverse = g.node("Reciprocal", g.node("Sqrt", g.node("Add", spread, g.number(
        eps, input.dtype))))
    out = g.node("Mul", g.node("Mul", away, inverse), scale)
    return [out if bias is None else g.node("Add", out, bias.name), mean, inverse]


@translation("rms_norm_stats")
def rms_norm(g: Writer, input: Value, weight: Value | None, normalized_shape: Any,
             eps: float) -> list[str]:
    """x / sqrt(mean(x^2) + eps), times a weight; also 1/root."""
    dims = list(range(input.ndim - len(normalized_shape), input.ndim))
    square = g.reduce("ReduceMean", g.node("Mul", input.name, input.name), dims, True)
    inverse = g.node("Reciprocal", g.node("Sqrt", g.node("Add", square, g.number(
        eps, input.dtype))))
    out = g.node("Mul", input.name, inverse)
    return [out if weight is None else g.node("Mul", out, weight.name), inverse]


def _normalizes(input: Any, running_mean: Any, running_var: Any, weight: Any = None,
                bias: Any = None, training: bool = False, *rest: Any, **more: Any) -> bool:
    """Whether a batch_norm is one by given statistics, which changes nothing."""
    return not training and running_mean is not None and running_var is not None


WHOLE["batch_norm"] = _normalizes


@translation("batch_norm")
def batch_norm(g: Writer, input: Value, running_mean: Value, running_var: Value,
               weight: Value | None = None, bias: Value | None = None, training: bool = False,
               momentum: float = 0.1, eps: float = 1e-5, *rest: Any) -> str:
    """BatchNormalization by given statistics."""
    def of(v: Value | None, number: float) -> str:
        return v.name if v is not None else g.constant(
            np.full(input.shape[1], number), input.dtype)

    return str(g.node("BatchNormalization", input.name, of(weight, 1), of(bias, 0),
                      running_mean.name, running_var.name, epsilon=float(eps)))


@translation("batch_norm_train")
def batch_norm_train(g: Writer, input: Value, weight: Value | None, bias: Value | None,
                     eps: float) -> list[str]:
    """Normalized by the batch's own statistics; also these."""
    dims = [d for d in range(input.ndim) if d != 1]
    shape = g.ints([1, -1] + [1] * (input.ndim - 2))
    mean = g.reduce("ReduceMean", input.name, dims, True)
    away = g.node("Sub", input.name, mean)
    spread = g.reduce("ReduceMean", g.node("Mul", away, away), dims, True)
    out = g.node("Div", away, g.node("Sqrt", g.node("Add", spread, g.number(eps, input.dtype))))
    if weight is not None:
        out = g.node("Mul", out, g.node("Reshape", weight.name, shape))
    if bias is not None:
        out = g.node("Add", out, g.node("Reshape", bias.name, shape))
    flat = g.ints([-1])
    return [out, g.node("Reshape", mean, flat), g.node("Reshape", spread, flat)]


@translation("attention_softmax")
def attention_softmax(g: Writer, scores: Value, mask: Value | None, scale: float,
                      causal: bool) -> str:
    """Softmax of scaled scores where a mask allows it; rows without anything allowed are 0."""
    x = g.node("Mul", scores.name, g.number(scale, scores.dtype))
    low = g.number(-math.inf, scores.dtype)
    if mask is not None and mask.dtype is dt.bool_:
        x = g.node("Where", mask.name, x, low)
    elif mask is not None:
        x = g.node("Add", x, g.cast(mask.name, mask.dtype, scores.dtype))
    if causal:
        sizes, zero, one = g.shape(scores.name), g.number(0, dt.int64), g.number(1, dt.int64)
        rows, columns = (g.node("Range", zero, g.node("Gather", sizes, g.number(
            scores.ndim - k, dt.int64), axis=0), one) for k in (2, 1))
        before = g.node("LessOrEqual", columns, g.node("Unsqueeze", rows, g.ints([1])))
        x = g.node("Where", before, x, low)
    if mask is None:
        return str(g.node("Softmax", x, axis=-1))
    top = g.reduce("ReduceMax", x, [scores.ndim - 1], True)
    nothing = g.node("Equal", top, low)
    out = g.node("Softmax", g.node("Where", nothing, g.number(0, scores.dtype), x), axis=-1)
    return str(g.node("Where", nothing, g.number(0, scores.dtype), out))


# ---------------------------------------------------------------- making, joining, moving

@translation("full")
def full(g: Writer, size: Any, fill: Any, *, dtype: dtype, device: Any = None,
         strides: Any = None) -> str:
    """One number everywhere."""
    value = g.number(fill, dtype)
    return str(g.node("Expand", value, g.ints(size))) if size else value


@translation("arange_int", "arange_float")
def arange(g: Writer, n: Any, start: Any, step: Any, *, dtype: dtype, device: Any = None) -> str:
    """Range, in int64, then scaled."""
    steps = g.node("Range", g.number(0, dt.int64), g.size(n), g.number(1, dt.int64))
    if dtype.kind == "f":
        wide = dt.float64 if dtype is dt.float64 else dt.float32
        out = g.node("Mul", g.cast(steps, dt.int64, wide), g.number(step, wide))
        return g.cast(g.node("Add", out, g.number(start, wide)), wide, dtype)
    if step != 1:
        steps = g.node("Mul", steps, g.number(step, dt.int64))
    if start != 0:
        steps = g.node("Add", steps, g.number(start, dt.int64))
    return g.cast(steps, dt.int64, dtype)


@translation("identity_matrix")
def identity_matrix(g: Writer, n: int, m: int, *, dtype: dtype, device: Any = None) -> str:
    """Ones on the diagonal."""
    return g.constant(np.eye(n, m), dtype)


@translation("tril", "triu")
def triangle(g: Writer, input: Value, diagonal: Any = 0) -> str:
    """Trilu."""
    upper = int(g.call is not None and g.call.op == "triu")
    kind = dt.int32 if input.dtype is dt.bool_ else input.dtype
    x = g.cast(input.name, input.dtype, kind)
    return g.cast(g.node("Trilu", x, g.size(diagonal), upper=upper), kind, input.dtype)


@translation("take_flat")
def take(g: Writer, input: Value, index: Value) -> str:
    """Gather of the elements in a row."""
    return str(g.node("Gather", g.node("Reshape", input.name, g.ints([-1])), index.name, axis=0))


@translation("cat")
def cat(g: Writer, tensors: Any, dim: int = 0) -> str:
    """Concat, in the dtype of all."""
    kind = _common(tensors)
    parts = [t for t in tensors if t.shape != (0,)] or tensors[:1]
    return str(g.node("Concat", *[g.cast(t.name, t.dtype, kind) for t in parts],
                      axis=dim % max(parts[0].ndim, 1)))


@translation("stack")
def stack(g: Writer, tensors: Any, dim: int = 0) -> str:
    """Concat along a new dim."""
    d, kind = dim % (tensors[0].ndim + 1), _common(tensors)
    return str(g.node("Concat", *[g.node("Unsqueeze", g.cast(t.name, t.dtype, kind), g.ints([d]))
                                  for t in tensors], axis=d))


def _common(tensors: Any) -> dtype:
    """The dtype of tensors that are joined."""
    kind = tensors[0].dtype
    for t in tensors[1:]:
        kind = dt.promote_types(kind, t.dtype)
    return kind  # type: ignore[no-any-return]


@translation("place")
def place(g: Writer, input: Value, size: Any, strides: Any, offset: Any, fill: Any = 0) -> str:
    """Pad, where the region is that of a contiguous tensor."""
    sizes, steps = [g.first(s) for s in size], [g.first(s) for s in strides]
    at, before = g.first(offset), []
    for n, s in zip(sizes, steps):
        before.append(at // s if n > 1 or s else 0)
        at -= before[-1] * s
    after = [n - have - b for n, have, b in zip(sizes, input.shape, before)]
    whole = [math.prod(sizes[d + 1:]) for d in range(len(sizes))]
    if at or len(sizes) != input.ndim or min([*before, *after], default=0) < 0 or any(
            s != w for s, w, n in zip(steps, whole, input.shape) if n > 1):
        raise UnsupportedError(f"{g.where()}places a tensor in a way that is no padding")
    return str(g.node("Pad", input.name, g.ints([*before, *after]), g.number(fill, input.dtype)))


@translation("pad_by")
def pad_by(g: Writer, input: Value, around: Any, how: str) -> str:
    """Pad with values of the input."""
    if how == "circular":  # Pad has it from opset 19 on
        name = input.name
        for d, (a, b) in enumerate(around):
            if (a, b) != (0, 0):
                n = g.fixed(input, [d])[d]
                at = np.arange(-a, n + b) % n
                name = g.node("Gather", name, g.constant(at), axis=d)
        return name
    pads = [a for a, _ in around] + [b for _, b in around]
    return str(g.node("Pad", input.name, g.ints(pads), mode={"reflect": "reflect",
                                                           "replicate": "edge"}[how]))


@translation("reverse_dims")
def reverse_dims(g: Writer, input: Value, dims: Any) -> str:
    """Slices with steps of -1."""
    dims = _dims(dims, input.ndim)
    n = len(dims)
    return str(g.node("Slice", input.name, g.ints([-1] * n), g.ints([np.iinfo(np.int64).min] * n),
                      g.ints(dims), g.ints([-1] * n)))


@translation("roll_dims")
def roll_dims(g: Writer, input: Value, shifts: Any, dims: Any) -> str:
    """Two slices of a dim exchanged."""
    name = input.name
    for s, d in zip(shifts, dims):
        n = g.fixed(input, [d])[d]
        if n == 0 or s % n == 0:
            continue
        cut = g.ints([-(s % n)])
        far = g.ints([np.iinfo(np.int64).max])
        name = g.node("Concat", g.node("Slice", name, cut, far, g.ints([d])),
                      g.node("Slice", name, g.ints([0]), cut, g.ints([d])), axis=d % input.ndim)
    return name


# ---------------------------------------------------------------- indices

@translation("embedding")
def embedding(g: Writer, weight: Value, indices: Value, padding_idx: int = -1,
              scale_grad_by_freq: bool = False, sparse: bool = False) -> str:
    """Gather of rows."""
    return str(g.node("Gather", weight.name, indices.name, axis=0))


@translation("index_select")
def index_select(g: Writer, input: Value, dim: int, index: Value) -> str:
    """Gather along a dim."""
    if not input.ndim or not index.ndim:
        raise UnsupportedError(f"{g.where()}of a tensor or index without dims")
    return str(g.node("Gather", input.name, index.name, axis=dim % max(input.ndim, 1)))


@translation("gather")
def gather(g: Writer, input: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> str:
    """GatherElements, of the part of the input that the index has in other dims."""
    name = input.name
    if not input.ndim:
        raise UnsupportedError(f"{g.where()}of a tensor without dims")
    other = [d for d in range(input.ndim) if d != dim % input.ndim
             and input.shape[d] != index.shape[d]]
    if other:
        name = g.node("Slice", name, g.ints([0] * len(other)), g.node(
            "Gather", g.shape(index.name), g.ints(other), axis=0), g.ints(other))
    return str(g.node("GatherElements", name, index.name, axis=dim % input.ndim))


@translation("index_get")
def index_get(g: Writer, input: Value, indices: Any, dims: Any) -> str:
    """x[indices] for indices of some dims: Gather for one, GatherND for several."""
    dims = [d % input.ndim for d in dims]
    if len(dims) == 1:
        return str(g.node("Gather", input.name, g.cast(indices[0].name, indices[0].dtype, dt.int64),
                          axis=dims[0]))
    rest = [d for d in range(input.ndim) if d not in dims]
    x = g.node("Transpose", input.name, perm=[*dims, *rest])
    names = [g.cast(i.name, i.dtype, dt.int64) for i in indices]
    shape = max((i.shape for i in indices), key=len)
    total = names[0]
    for n in names[1:]:
        total = g.node("Add", total, n)
    wide = g.shape(total)
    points = g.node("Concat", *[g.node("Unsqueeze", g.node("Expand", n, wide),
                                       g.ints([-1])) for n in names], axis=-1)
    out = g.node("GatherND", x, points)
    if dims == list(range(dims[0], dims[0] + len(dims))) and dims[0]:
        k, n = len(shape), dims[0]  # neighbouring dims: the indices' dims take their place
        order = [*range(k, k + n), *range(k), *range(k + n, k + len(rest))]
        return str(g.node("Transpose", out, perm=order))
    return str(out)


@translation("index_put_at")
def index_put_at(g: Writer, input: Value, indices: Any, dims: Any, combine: str, negative: Any,
                 values: Any) -> str:
    """x[indices] = values: ScatterND, with the indexed dims in front."""
    g.fixed(input)
    dims = [d % input.ndim for d in dims]
    rest = [d for d in range(input.ndim) if d not in dims]
    shape = list(np.broadcast_shapes(*[g.fixed(i) for i in indices]))
    k, before = len(shape), dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    others = [input.shape[d] for d in rest]
    name = g.cast(values.name, values.dtype, input.dtype) if isinstance(values, Value) else (
        g.number(values, input.dtype))
    name = g.node("Expand", name, g.ints([*others[:before], *shape, *others[before:]]))
    if before:
        name = g.node("Transpose", name, perm=[*range(before, before + k), *range(before),
                                               *range(before + k, k + len(rest))])
    points = g.node("Concat", *[g.node("Unsqueeze", g.node("Expand", g.cast(
        i.name, i.dtype, dt.int64), g.ints(shape)), g.ints([-1])) for i in indices], axis=-1)
    order = [*dims, *rest]
    x = g.node("Transpose", input.name, perm=order)
    out = g.node("ScatterND", x, points, name, reduction="add" if combine == "sum" else None)
    return str(g.node("Transpose", out, perm=[order.index(d) for d in range(input.ndim)]))


@translation("scatter_at")
def scatter_at(g: Writer, input: Value, dim: int, index: Value, combine: str, src: Any) -> str:
    """ScatterElements."""
    how = {"set": None, "sum": "add", "prod": "mul", "amax": "max", "amin": "min"}.get(combine, "")
    if how == "" or not input.ndim:
        raise UnsupportedError(f"{g.where()}combines by {combine!r}, which ONNX cannot")
    if isinstance(src, Value):
        name = g.cast(src.name, src.dtype, input.dtype)
        if src.shape != index.shape:
            name = g.node("Slice", name, g.ints([0] * index.ndim), g.shape(index.name))
    else:
        name = g.node("Expand", g.number(src, input.dtype), g.shape(index.name))
    return str(g.node("ScatterElements", input.name, index.name, name, axis=dim, reduction=how))


@translation("one_hot_rows")
def one_hot(g: Writer, tensor: Value, num_classes: Any) -> str:
    """OneHot of int64."""
    return str(g.node("OneHot", tensor.name, g.size(num_classes),
                      g.constant(np.array([0, 1], np.int64)), axis=-1))


@translation("resample")
def resample(g: Writer, input: Value, tables: Any, axes: Any, backward: bool) -> str:
    """Resize by the taps of every axis: gathered and weighted."""
    if backward:
        raise UnsupportedError(f"{g.where()}is a gradient")
    name, first = input.name, input.ndim - len(axes)
    for k in range(len(axes)):
        at, weights = tables[2 * k], tables[2 * k + 1]
        d = first + k
        total = None
        for tap in range(at.shape[1]):
            column = g.constant(np.array(tap))
            part = g.node("Gather", name, g.node("Gather", at.name, column, axis=1), axis=d)
            w = g.node("Gather", weights.name, column, axis=1)
            w = g.node("Reshape", g.cast(w, weights.dtype, input.dtype),
                       g.ints([-1 if j == d else 1 for j in range(input.ndim)]))
            part = g.node("Mul", part, w)
            total = part if total is None else g.node("Add", total, part)
        assert total is not None
        name = total
    return name
