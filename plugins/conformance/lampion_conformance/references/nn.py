"""References of the ops of neural networks: convolutions, pools, norms, losses, resizing."""

from __future__ import annotations

from typing import Any

import numpy as np

from .reduce import log_softmax


def many(value: Any, rank: int) -> Any:
    """One number per dim."""
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value * rank if len(value) == 1 else value


# ---------------------------------------------------------------- convolutions

def conv(x: Any, w: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
         groups: int = 1) -> Any:
    rank = w.ndim - 2
    if x.ndim == rank + 1:
        return conv(x[None], w, bias, stride, padding, dilation, groups)[0]
    stride, dilation = many(stride, rank), many(dilation, rank)
    reach = [d * (k - 1) for k, d in zip(w.shape[2:], dilation)]
    if padding == "same":
        around = [(r // 2, r - r // 2) for r in reach]
    else:
        around = [(p, p) for p in many(0 if padding == "valid" else padding, rank)]
    x = np.pad(x, [(0, 0), (0, 0), *around])
    size = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[2:], reach, stride)]
    parts = np.split(x, groups, 1)
    out = []
    for part, kernel in zip(parts, np.split(w, groups, 0)):
        total: Any = 0
        for k in np.ndindex(*w.shape[2:]):
            at = tuple(slice(i * d, i * d + s * (o - 1) + 1, s)
                       for i, d, s, o in zip(k, dilation, stride, size))
            total = total + np.einsum("nc...,oc->no...", part[(..., *at)],
                                      kernel[(slice(None), slice(None), *k)])
        out.append(total)
    return np.concatenate(out, 1) + _per_channel(bias, rank)


def _per_channel(bias: Any, rank: int) -> Any:
    return 0 if bias is None else bias.reshape(-1, *(1,) * rank)


def conv_transpose(x: Any, w: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
                   output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Any:
    rank = w.ndim - 2
    if x.ndim == rank + 1:
        return conv_transpose(x[None], w, bias, stride, padding, output_padding, groups,
                              dilation)[0]
    stride, padding, extra, dilation = (
        many(v, rank) for v in (stride, padding, output_padding, dilation))
    full = [(n - 1) * s + d * (k - 1) + 1 + e for n, s, d, k, e in zip(
        x.shape[2:], stride, dilation, w.shape[2:], extra)]
    out = np.zeros((x.shape[0], groups, w.shape[1], *full), x.dtype)
    for g, (part, kernel) in enumerate(zip(np.split(x, groups, 1), np.split(w, groups, 0))):
        for k in np.ndindex(*w.shape[2:]):
            at = tuple(slice(i * d, i * d + s * (n - 1) + 1, s)
                       for i, d, s, n in zip(k, dilation, stride, x.shape[2:]))
            out[(slice(None), g, slice(None), *at)] += np.einsum(
                "nc...,co->no...", part, kernel[(slice(None), slice(None), *k)])
    crop = tuple(slice(p, n - p) for p, n in zip(padding, full))
    return out.reshape(x.shape[0], -1, *full)[(..., *crop)] + _per_channel(bias, rank)


def _convolution(x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
                 transposed: bool, output_padding: Any, groups: int) -> Any:
    if transposed:
        return conv_transpose(x, w, bias, stride, padding, output_padding, groups, dilation)
    return conv(x, w, bias, stride, padding, dilation, groups)


def _conv_tbc(x: Any, w: Any, bias: Any, pad: int = 0) -> Any:
    y = conv(x.transpose(1, 2, 0), w.transpose(2, 1, 0), bias, 1, pad)
    return y.transpose(2, 0, 1)


# ---------------------------------------------------------------- pools

def _windows(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> list[tuple[int, range]]:
    """(start, places) of every window over a dim of size n padded by p; places may lie in the
    padding."""
    span = d * (k - 1) + 1
    count = -(-(n + 2 * p - span) // s) + 1 if ceil else (n + 2 * p - span) // s + 1
    if ceil and (count - 1) * s >= n + p:
        count -= 1
    return [(i * s - p, range(i * s - p, i * s - p + span, d)) for i in range(count)]


def _pool(rank: int, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool,
          one: Any) -> Any:
    """one(values, coordinates, window sizes inside the padded input) at every window."""
    space = x.shape[-rank:]
    kernel, padding, dilation = (many(v, rank) for v in (kernel, padding, dilation))
    stride = kernel if stride is None else many(stride, rank)
    walks = [_windows(n, k, s, p, d, ceil) for n, k, s, p, d in zip(
        space, kernel, stride, padding, dilation)]
    rows = x.reshape(-1, *space)
    results = []
    for row in rows:
        for at in np.ndindex(*map(len, walks)):
            places = [walks[r][k][1] for r, k in enumerate(at)]
            padded = int(np.prod([sum(i < n + p for i in w)
                                  for w, n, p in zip(places, space, padding)]))
            inside = [[i for i in w if 0 <= i < n] for w, n in zip(places, space)]
            results.append(one(row, np.ix_(*inside), padded))
    return results, (*x.shape[:-rank], *map(len, walks))


def _largest(row: Any, grid: Any, padded: int) -> tuple[Any, int]:
    flat = np.arange(row.size).reshape(row.shape)[grid].ravel()
    values = row.reshape(-1)[flat]
    k = int(np.argmax(values))
    return values[k], flat[k]


def max_pool(rank: int) -> Any:
    def run(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
            ceil_mode: bool = False, return_indices: bool = False) -> Any:
        found, shape = _pool(rank, x, kernel_size, stride, padding, dilation, ceil_mode, _largest)
        values, where = zip(*found)
        y = np.array(values, x.dtype).reshape(shape)
        return (y, np.array(where, np.int64).reshape(shape)) if return_indices else y

    return run


def avg_pool(rank: int) -> Any:
    def run(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
            ceil_mode: bool = False, count_include_pad: bool = True,
            divisor_override: Any = None) -> Any:
        def mean(row: Any, grid: Any, padded: int) -> Any:
            part = row[grid]
            count = divisor_override or (padded if count_include_pad else part.size)
            return part.sum() / count

        found, shape = _pool(rank, x, kernel_size, stride, padding, 1, ceil_mode, mean)
        return np.array(found).reshape(shape)

    return run


def adaptive(rank: int, largest: bool) -> Any:
    def run(x: Any, output_size: Any, return_indices: bool = False) -> Any:
        space = x.shape[-rank:]
        size = [n if o is None else o for n, o in zip(space, many(output_size, rank))]
        rows, found = x.reshape(-1, *space), []
        for row in rows:
            for at in np.ndindex(*size):
                grid = np.ix_(*[range(k * n // o, -(-(k + 1) * n // o))
                                for k, n, o in zip(at, space, size)])
                found.append(_largest(row, grid, 0) if largest else (row[grid].mean(), 0))
        values, where = zip(*found)
        shape = (*x.shape[:-rank], *size)
        y = np.array(values).reshape(shape)
        return (y, np.array(where, np.int64).reshape(shape)) if return_indices else y

    return run


# ---------------------------------------------------------------- norms

def _normal(x: Any, dims: Any, eps: float) -> Any:
    return (x - x.mean(dims, keepdims=True)) / np.sqrt(x.var(dims, keepdims=True) + eps)


def _affine(y: Any, weight: Any, bias: Any, shape: Any = None) -> Any:
    weight, bias = (t if t is None or shape is None else t.reshape(shape) for t in (weight, bias))
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


def _layer_norm(x: Any, shape: Any, weight: Any = None, bias: Any = None,
                eps: float = 1e-5) -> Any:
    return _affine(_normal(x, tuple(range(-len(shape), 0)), eps), weight, bias)


def _rms_norm(x: Any, shape: Any, weight: Any = None, eps: Any = None) -> Any:
    eps = 2.0 ** -23 if eps is None else eps
    dims = tuple(range(-len(shape), 0))
    return _affine(x / np.sqrt((x * x).mean(dims, keepdims=True) + eps), weight, None)


def _batch_norm(x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None,
                training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Any:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    if training:
        y = _normal(x, (0, *range(2, x.ndim)), eps)
    else:
        y = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + eps)
    return _affine(y, weight, bias, shape)


def _group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None,
                eps: float = 1e-5) -> Any:
    rows = x.reshape(x.shape[0], groups, -1)
    return _affine(_normal(rows, 2, eps).reshape(x.shape), weight, bias,
                   (1, -1) + (1,) * (x.ndim - 2))


def _instance_norm(x: Any, mean: Any = None, var: Any = None, weight: Any = None, bias: Any = None,
                   use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5) -> Any:
    if not use_input_stats:
        return _batch_norm(x, mean, var, weight, bias, False, momentum, eps)
    return _group_norm(x, x.shape[1], weight, bias, eps)


def _local_response_norm(x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75,
                         k: float = 1.0) -> Any:
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        near = x[:, max(c - size // 2, 0):c + (size - 1) // 2 + 1]
        y[:, c] = x[:, c] / (k + alpha * (near ** 2).sum(1) / size) ** beta
    return y


# ---------------------------------------------------------------- losses

def _reduced(values: Any, reduction: str, count: Any = None) -> Any:
    if reduction == "none":
        return values
    return values.sum() if reduction == "sum" else values.sum() / (count or values.size)


def _loss(error: Any) -> Any:
    def run(x: Any, t: Any, *args: Any, reduction: str = "mean", **options: Any) -> Any:
        return _reduced(error(x, t, *args, **options), reduction)

    return run


def _smooth_l1(x: Any, t: Any, beta: float = 1.0) -> Any:
    d = np.abs(x - t)
    return d if beta == 0 else np.where(d < beta, d * d / (2 * beta), d - beta / 2)


def _huber(x: Any, t: Any, delta: float = 1.0) -> Any:
    d = np.abs(x - t)
    return np.where(d <= delta, d * d / 2, delta * (d - delta / 2))


def _bce(x: Any, t: Any, weight: Any = 1) -> Any:
    with np.errstate(divide="ignore"):
        a, b = np.maximum(np.log(x), -100), np.maximum(np.log1p(-x), -100)
    return -(t * a + (1 - t) * b) * weight


def _bce_logits(x: Any, t: Any, weight: Any = 1, *, pos_weight: Any = 1) -> Any:
    return weight * (pos_weight * t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x))


def _kl_div(x: Any, t: Any, *, log_target: bool = False) -> Any:
    from scipy.special import xlogy

    return np.exp(t) * (t - x) if log_target else xlogy(t, t) - t * x


def _classes(x: Any, t: Any) -> Any:
    """(rows of scores, class per row, shape of the rows)."""
    axis = 1 if x.ndim > 1 else 0
    return np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]), t.reshape(-1), t.shape


def _nll(x: Any, t: Any, weight: Any = None, *, ignore_index: int = -100,
         reduction: str = "mean", label_smoothing: float = 0.0) -> Any:
    rows, classes, shape = _classes(x, t)
    w = np.ones(rows.shape[1]) if weight is None else weight
    values, total = np.zeros(len(rows)), 0.0
    for k, (row, c) in enumerate(zip(rows, classes)):
        if c != ignore_index:
            smooth = -(w * row).sum() * label_smoothing / len(row)
            values[k] = -(1 - label_smoothing) * w[c] * row[c] + smooth
            total += w[c]
    return _reduced(values.reshape(shape), reduction, total)


def _cross_entropy(x: Any, t: Any, weight: Any = None, *, reduction: str = "mean",
                   label_smoothing: float = 0.0, **options: Any) -> Any:
    axis = 1 if x.ndim > 1 else 0
    logs = log_softmax(x, axis)
    if t.dtype.kind != "f":
        return _nll(logs, t, weight, reduction=reduction, label_smoothing=label_smoothing,
                    **options)
    t = t * (1 - label_smoothing) + label_smoothing / x.shape[axis]
    w = np.ones(x.shape[axis]) if weight is None else weight
    rows = -(np.moveaxis(logs * t, axis, -1) * w).sum(-1)
    return _reduced(rows, reduction)


# ---------------------------------------------------------------- windows, padding, resizing

def _unfold(x: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    if x.ndim == 3:
        return _unfold(x[None], kernel_size, dilation, padding, stride)[0]
    kernel, dilation, padding, stride = (
        many(v, 2) for v in (kernel_size, dilation, padding, stride))
    x = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in padding]])
    size = [(n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(
        x.shape[2:], dilation, kernel, stride)]
    columns = [x[:, :, a * dilation[0]:a * dilation[0] + stride[0] * (size[0] - 1) + 1:stride[0],
                 b * dilation[1]:b * dilation[1] + stride[1] * (size[1] - 1) + 1:stride[1]]
               for a in range(kernel[0]) for b in range(kernel[1])]
    return np.stack(columns, 2).reshape(x.shape[0], -1, size[0] * size[1])


def _fold(x: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
          stride: Any = 1) -> Any:
    """Adds every column entry where `_unfold` would read it."""
    if x.ndim == 2:
        return _fold(x[None], output_size, kernel_size, dilation, padding, stride)[0]
    size = many(output_size, 2)
    kernel = many(kernel_size, 2)
    channels = x.shape[1] // (kernel[0] * kernel[1])
    numbers = np.arange(1, channels * size[0] * size[1] + 1).reshape(1, channels, *size)
    source = _unfold(numbers, kernel, dilation, padding, stride)[0]
    out = np.zeros((x.shape[0], channels * size[0] * size[1] + 1))
    for n in range(x.shape[0]):
        np.add.at(out[n], source.ravel(), x[n].ravel())
    return out[:, 1:].reshape(x.shape[0], channels, *size)


def _pad(x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    around = [(0, 0)] * (x.ndim - len(pad) // 2) + [
        (pad[k], pad[k + 1]) for k in range(len(pad) - 2, -1, -2)]
    for axis, (a, b) in enumerate(around):  # negative padding crops
        x = np.take(x, range(max(-a, 0), x.shape[axis] - max(-b, 0)), axis)
    around = [(max(a, 0), max(b, 0)) for a, b in around]
    if mode == "constant":
        return np.pad(x, around, constant_values=0 if value is None else value)
    return np.pad(x, around, {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


def _one_hot(t: Any, num_classes: int = -1) -> Any:
    n = t.max() + 1 if num_classes == -1 else num_classes
    return np.eye(n, dtype=np.int64)[t]


def _cubic(t: Any) -> Any:
    """Keys' kernel with a = -0.75."""
    t, a = np.abs(t), -0.75
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    return np.where(t < 1, near, np.where(t < 2, ((t - 5) * t + 8) * t * a - 4 * a, 0))


def _matrix(n: int, o: int, scale: Any, mode: str, corners: bool, antialias: bool) -> Any:
    """(o, n) weights of resizing a dim."""
    step = 1 / scale if scale else n / o
    m, at = np.zeros((o, n)), np.arange(o)
    if mode in ("nearest", "nearest-exact"):
        shift = 0.5 if mode == "nearest-exact" else 0
        m[at, np.minimum(np.floor((at + shift) * step).astype(int), n - 1)] = 1
        return m
    if antialias:
        wide = max(step, 1)
        m = np.maximum(0, 1 - np.abs((np.arange(n) + 0.5 - ((at + 0.5) * step)[:, None]) / wide))
        return m / m.sum(1, keepdims=True)
    x = at * ((n - 1) / (o - 1)) if corners else (at + 0.5) * step - 0.5
    x = x if corners or "cubic" in mode else np.maximum(x, 0)
    low = np.floor(x).astype(int)
    taps = range(-1, 3) if "cubic" in mode else range(2)
    for k in taps:
        weight = _cubic(x - low - k) if "cubic" in mode else 1 - np.abs(x - low - k)
        np.add.at(m, (at, np.clip(low + k, 0, n - 1)), weight)
    return m


def _interpolate(x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                 align_corners: Any = None, recompute_scale_factor: Any = None,
                 antialias: bool = False) -> Any:
    rank = x.ndim - 2
    scales = many(scale_factor, rank)
    sizes = many(size, rank) if size is not None else [
        int(n * s) for n, s in zip(x.shape[2:], scales)]
    if mode == "area":
        return adaptive(rank, False)(x, sizes)
    for axis, (o, s) in enumerate(zip(sizes, scales)):
        m = _matrix(x.shape[2 + axis], o, s, mode, bool(align_corners), antialias)
        x = np.moveaxis(np.moveaxis(x, 2 + axis, -1) @ m.T, -1, 2 + axis)
    return x


def _pixel_shuffle(x: Any, r: int) -> Any:
    *lead, c, h, w = x.shape
    y = x.reshape(*lead, c // (r * r), r, r, h, w)
    return np.moveaxis(y, (-4, -3), (-3, -1)).reshape(*lead, c // (r * r), h * r, w * r)


def _pixel_unshuffle(x: Any, r: int) -> Any:
    *lead, c, h, w = x.shape
    y = x.reshape(*lead, c, h // r, r, w // r, r)
    return np.moveaxis(y, (-3, -1), (-4, -3)).reshape(*lead, c * r * r, h // r, w // r)


def _channel_shuffle(x: Any, groups: int) -> Any:
    y = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    return np.swapaxes(y, 1, 2).reshape(x.shape)


REFERENCE = {
    **{f"conv{r}d": conv for r in (1, 2, 3)},
    **{f"conv_transpose{r}d": conv_transpose for r in (1, 2, 3)},
    **{f"max_pool{r}d": max_pool(r) for r in (1, 2, 3)},
    **{f"avg_pool{r}d": avg_pool(r) for r in (1, 2, 3)},
    **{f"adaptive_avg_pool{r}d": adaptive(r, False) for r in (1, 2, 3)},
    **{f"adaptive_max_pool{r}d": adaptive(r, True) for r in (1, 2, 3)},
    "convolution": _convolution, "conv_tbc": _conv_tbc,
    "layer_norm": _layer_norm, "rms_norm": _rms_norm, "batch_norm": _batch_norm,
    "group_norm": _group_norm, "instance_norm": _instance_norm,
    "local_response_norm": _local_response_norm,
    "mse_loss": _loss(lambda x, t: (x - t) ** 2), "l1_loss": _loss(lambda x, t: np.abs(x - t)),
    "smooth_l1_loss": _loss(_smooth_l1), "huber_loss": _loss(_huber),
    "binary_cross_entropy": _loss(_bce), "binary_cross_entropy_with_logits": _loss(_bce_logits),
    "kl_div": _loss(_kl_div), "nll_loss": _nll, "cross_entropy": _cross_entropy,
    "unfold_windows": _unfold, "fold": _fold, "pad": _pad,
    "constant_pad_nd": lambda x, pad, value=0: _pad(x, pad, "constant", value),
    "one_hot": _one_hot, "interpolate": _interpolate, "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle, "channel_shuffle": _channel_shuffle,
    "native_channel_shuffle": _channel_shuffle,
}
