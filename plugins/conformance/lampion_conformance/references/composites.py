"""References of composites with a formula of their own and of PyTorch's names for steps of
layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .views import REFERENCE as VIEWS


def _cov(x: Any, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    return np.cov(x, ddof=correction, fweights=fweights, aweights=aweights)


def _gradient(x: Any, spacing: Any = None, dim: Any = None, edge_order: int = 1) -> Any:
    steps = spacing if isinstance(spacing, list) else [1.0 if spacing is None else spacing]
    dims = list(range(x.ndim)) if dim is None else [dim] if isinstance(dim, int) else dim
    steps = steps * len(dims) if len(steps) == 1 else steps
    return tuple(np.gradient(x, h, axis=d, edge_order=edge_order) for d, h in zip(dims, steps))


def _histogramdd(x: Any, bins: Any, range: Any = None, weight: Any = None,
                 density: bool = False) -> Any:
    points = x.reshape(-1, x.shape[-1])
    hist, edges = np.histogramdd(points, bins, range and np.reshape(range, (-1, 2)),
                                 weights=weight, density=density)
    return hist, tuple(edges)


SEGMENT = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "prod": np.prod}
EMPTY = {"sum": 0.0, "mean": np.nan, "max": -np.inf, "min": np.inf, "prod": 1.0}


def _segments(x: Any, reduce: str, lengths: Any = None, offsets: Any = None, axis: int = 0,
              initial: Any = None) -> Any:
    if axis:
        return np.stack([_segments(r, reduce, n, None, axis - 1, initial)
                         for r, n in zip(x, lengths)])
    ends = np.cumsum(lengths) if offsets is None else offsets[1:]
    starts = ends - lengths if offsets is None else offsets[:-1]

    def one(run: Any) -> Any:
        if not len(run):
            return np.full(x.shape[1:], EMPTY[reduce] if initial is None else initial)
        total = SEGMENT[reduce](run, axis=0)
        if initial is None:
            return total
        return {"max": np.maximum, "min": np.minimum,
                "mean": lambda a, b: a + b / len(run)}[reduce](total, initial)

    return np.stack([one(x[a:b]) for a, b in zip(starts, ends)])


def _hash(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    axis = None if dim == () else dim
    bits = np.ascontiguousarray(x.astype(x.dtype if x.dtype == np.float64 else np.int64))
    return np.bitwise_xor.reduce(bits.view(np.uint64), axis, keepdims=keepdim)


def _sum_to(x: Any, *size: Any) -> Any:
    size = size[0] if size and isinstance(size[0], tuple) else size
    lead = x.ndim - len(size)
    x = x.sum(tuple(range(lead)))
    stretched = tuple(d for d, (a, b) in enumerate(zip(x.shape, size)) if a != b)
    return x.sum(stretched, keepdims=True)


def _nonzero_static(x: Any, size: int, fill_value: int = -1) -> Any:
    rows = np.argwhere(x)
    out = np.full((size, x.ndim), fill_value)
    out[:len(rows)] = rows[:size]
    return out


def _chunk_cat(tensors: Any, dim: int, num_chunks: int) -> Any:
    def cut(t: Any) -> Any:
        short = -t.shape[dim] % num_chunks
        t = np.pad(t, [(0, short if d == dim else 0) for d in range(t.ndim)])
        return t.reshape(*t.shape[:dim], num_chunks, -1)

    return np.concatenate([cut(t) for t in tensors], dim + 1)


def softmax(x: Any, dim: int) -> Any:
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(dim, keepdims=True))
        return e / e.sum(dim, keepdims=True)


def _linear_cross_entropy(x: Any, w: Any, y: Any, linear_bias: Any = None, weight: Any = None,
                          reduction: str = "mean", ignore_index: int = -100,
                          label_smoothing: float = 0.0) -> Any:
    lead = x.shape[:-1]
    logits = np.tensordot(x, w, (-1, -1)) + (0 if linear_bias is None else linear_bias)
    axis = len(lead)
    logp = np.log(softmax(logits, axis))
    classes = logits.shape[axis]
    if y.dtype.kind == "f":
        target = y * (1 - label_smoothing) + label_smoothing / classes
        return -(target * logp).sum() / len(x)
    weight = np.ones(classes) if weight is None else weight
    hot = np.moveaxis(np.eye(classes)[y], -1, axis)
    shape = [-1 if d == axis else 1 for d in range(logits.ndim)]
    losses = -(hot * logp * weight.reshape(shape)).sum(axis) * (y != ignore_index)
    if reduction == "none":
        return losses
    return losses.sum() / (1 if reduction == "sum" else (weight[y] * (y != ignore_index)).sum())


def _affine(y: Any, weight: Any, bias: Any, shape: Any) -> Any:
    y = y * (1 if weight is None else weight.reshape(shape))
    return y + (0 if bias is None else bias.reshape(shape))


def _layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    mean = x.mean(axes, keepdims=True)
    rstd = 1 / np.sqrt(x.var(axes, keepdims=True) + eps)
    return _affine((x - mean) * rstd, weight, bias, shape), mean, rstd


def _group_norm(x: Any, weight: Any, bias: Any, n: int, c: int, hw: int, group: int,
                eps: float) -> Any:
    y, mean, rstd = _layer_norm(x.reshape(n, group, -1), (c // group * hw,), None, None, eps)
    shape = (1, c) + (1,) * (x.ndim - 2)
    return _affine(y.reshape(x.shape), weight, bias, shape), mean[..., 0], rstd[..., 0]


def _batch_norm(x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any,
                training: bool, momentum: float, eps: float) -> Any:
    axes = (0, *range(2, x.ndim))
    mean, var = (x.mean(axes), x.var(axes)) if training else (running_mean, running_var)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    rstd = 1 / np.sqrt(var + eps)
    y = _affine((x - mean.reshape(shape)) * rstd.reshape(shape), weight, bias, shape)
    return (y, mean, rstd) if training else (y, np.zeros(0), np.zeros(0))


def _batch_norm_with_update(x: Any, *rest: Any) -> Any:
    return (*_batch_norm(x, *rest[:4], True, *rest[4:]), np.zeros(0, np.uint8))


def _max_pool_backward(g: Any, x: Any, *rest: Any) -> Any:
    indices = rest[-1]
    out = np.zeros((*x.shape[:-2], x.shape[-2] * x.shape[-1]))
    for k in np.ndindex(*g.shape):
        out[k[:-2]][indices[k]] += g[k]
    return out.reshape(x.shape)


def _upsample_antialiased(x: Any, size: Any, align: bool, scales: Any = (None, None)) -> Any:
    """Each output is the mean of its neighbourhood under a triangle as wide as the step."""
    for axis, scale in zip((2, 3), scales):
        n = x.shape[axis]
        out = size[axis - 2] if size is not None else int(n * scale)
        step = (n - 1) / max(out - 1, 1) if align else 1 / scale if scale else n / out
        rows = []
        for o in range(out):
            width = max(step, 1.0)
            centre = step * (o + 0.5)
            low, high = max(int(centre - width + 0.5), 0), min(int(centre + width + 0.5), n)
            w = np.maximum(1 - np.abs(np.arange(low, high) + 0.5 - centre) / width, 0)
            rows.append(np.tensordot(np.take(x, range(low, high), axis), w / w.sum(), (axis, 0)))
        x = np.stack(rows, axis)
    return x


def _masked_index(x: Any, mask: Any, indices: Any, fill: float) -> Any:
    spots = [slice(None) if i is None else np.where(mask, i, 0) for i in indices]
    found = x[tuple(spots)]
    return np.where(mask, found, fill)


def _masked_put(x: Any, mask: Any, indices: Any, values: Any) -> Any:
    out = x.copy()
    for k in np.flatnonzero(mask):
        out[tuple(i[k] for i in indices)] += values[k]
    return out


def _grid_sample(x: Any, grid: Any, mode: int, padding: int, align: bool) -> Any:
    """Sample by sample, in plain loops; position 0 of the grid is the last axis."""
    rank = x.ndim - 2
    out = np.zeros((*x.shape[:2], *grid.shape[1:-1]))

    def settle(p: float, n: int) -> float:
        if padding == 2:
            low, high = (0.0, n - 1.0) if align else (-0.5, n - 0.5)
            span = high - low
            p = (p - low) % (2 * span) if span else 0.0
            p = low + (p if p <= span else 2 * span - p)
        return min(max(p, 0.0), n - 1.0) if padding else p

    def pixel(b: int, at: Any) -> Any:
        inside = all(0 <= i < n for i, n in zip(at, x.shape[2:]))
        return x[(b, slice(None), *map(int, at))] if inside else 0.0

    def cubic(t: float) -> list[float]:
        a = -0.75
        far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (t + 1, 2 - t)]
        near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, 1 - t)]
        return [far[0], *near, far[1]]

    for k in np.ndindex(*grid.shape[:-1]):
        sizes = x.shape[2:]
        raw = [((g + 1) * (n - 1) if align else (g + 1) * n - 1) / 2
               for g, n in zip(grid[k][::-1], sizes)]
        p = raw if mode == 2 else [settle(v, n) for v, n in zip(raw, sizes)]
        if mode == 1:
            value: Any = pixel(k[0], [np.round(v) for v in p])
        else:
            first = [np.floor(v) for v in p]
            taps = [cubic(v - f) if mode == 2 else [1 - (v - f), v - f]
                    for v, f in zip(p, first)]
            value = 0.0
            for c in np.ndindex(*[len(t) for t in taps]):
                at = [f + j - (mode == 2) for f, j in zip(first, c)]
                if mode == 2:
                    at = [settle(v, n) for v, n in zip(at, sizes)]
                weight = np.prod([taps[d][j] for d, j in enumerate(c)])
                value = value + weight * pixel(k[0], at)
        out[(k[0], slice(None), *k[1:])] = value
    assert rank == grid.shape[-1]
    return out


REFERENCE = {
    "slice": lambda x, dim=0, start=None, end=None, step=1: np.moveaxis(
        np.moveaxis(x, dim, 0)[start:end:step], 0, dim),
    "detach_copy": np.copy,
    "fill": lambda x, value: np.full(x.shape, value, x.dtype),
    "cov": _cov, "corrcoef": np.corrcoef, "gradient": _gradient, "histogramdd": _histogramdd,
    "segment_reduce": _segments, "hash_tensor": _hash, "sum_to_size": _sum_to,
    "nonzero_static": _nonzero_static, "_chunk_cat": _chunk_cat,
    "unravel_index": lambda i, shape: tuple(np.unravel_index(i.astype(np.int64), shape)),
    "linear_cross_entropy": _linear_cross_entropy,
    "_safe_softmax": lambda x, dim: np.nan_to_num(softmax(x, dim), nan=0.0),
    "_softmax_backward_data": lambda g, y, dim, _: y * (g - (g * y).sum(dim, keepdims=True)),
    "_log_softmax_backward_data": lambda g, y, dim, _:
        g - np.exp(y) * g.sum(dim, keepdims=True),
    "native_layer_norm": _layer_norm, "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm, "_native_batch_norm_legit": _batch_norm,
    "_batch_norm_with_update": _batch_norm_with_update,
    "native_dropout_backward": lambda g, mask, scale: g * mask * scale,
    "max_pool2d_with_indices_backward": _max_pool_backward,
    "_upsample_bilinear2d_aa": _upsample_antialiased,
    "_unsafe_masked_index": _masked_index, "_unsafe_masked_index_put_accumulate": _masked_put,
    "grid_sampler_2d": _grid_sample, "grid_sampler_3d": _grid_sample,
}


def _split(x: Any, sizes: Any, dim: int = 0) -> Any:
    at = range(sizes, x.shape[dim], sizes) if isinstance(sizes, int) else np.cumsum(sizes)[:-1]
    return tuple(np.split(x, at, dim))


_VIEWED = {**VIEWS, "alias": np.copy, "slice": REFERENCE["slice"], "split": _split,
           "split_with_sizes": _split}
REFERENCE |= {f"{name}_copy": _VIEWED[name] for name in (
    "alias", "as_strided", "diagonal", "expand", "narrow", "permute", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze",
    "view_as_complex", "view_as_real", "view")}
