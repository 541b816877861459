"""ONNX operators that gather, scatter, sort and choose. Floor 7; imports lampion and this
package."""

from __future__ import annotations

import math
from typing import Any

import lampion

from ..table import operator
from ..values import from_array


def _wrapped(indices: Any, n: int) -> Any:
    """Indices from 0 on; negative ones count from the end."""
    indices = indices.to(lampion.int64)
    return lampion.where(indices < 0, indices + n, indices)


@operator("Where", moves=True)
def where(condition: Any, X: Any, Y: Any) -> Any:
    """X where the condition holds, else Y."""
    return lampion.where(condition, X, Y)


@operator("Gather", moves=True)
def gather(data: Any, indices: Any, *, axis: int = 0) -> Any:
    """Slices of a dim, in the shape of the indices."""
    axis %= data.ndim
    index = _wrapped(indices, data.shape[axis])
    found = data.index_select(axis, index.reshape(-1))
    return found.reshape(*data.shape[:axis], *index.shape, *data.shape[axis + 1:])


@operator("GatherElements", moves=True)
def gather_elements(data: Any, indices: Any, *, axis: int = 0) -> Any:
    """data[..., indices[i, j, k], ...] along a dim."""
    return data.gather(axis, _wrapped(indices, data.shape[axis]))


def _points(indices: Any, sizes: Any) -> tuple[Any, ...]:
    """The last dim of indices as one index for each of the dims it speaks of."""
    return tuple(_wrapped(indices[..., k], sizes[k]) for k in range(indices.shape[-1]))


@operator("GatherND", moves=True)
def gather_nd(data: Any, indices: Any, *, batch_dims: int = 0) -> Any:
    """Slices at points: the last dim of indices is an index of the first dims of data."""
    b = batch_dims
    lead = tuple(lampion.arange(n, device=data.device).reshape(
        [-1 if k == d else 1 for k in range(indices.ndim - 1)])
        for d, n in enumerate(data.shape[:b]))
    return data[lead + _points(indices, data.shape[b:])]


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterElements", "Scatter", moves=True)
def scatter_elements(data: Any, indices: Any, updates: Any, *, axis: int = 0,
                     reduction: str = "none") -> Any:
    """data with updates at indices of a dim, or combined with them."""
    index = _wrapped(indices, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, index, updates)
    return data.scatter_reduce(axis, index, updates, _REDUCE[reduction], include_self=True)


@operator("ScatterND", moves=True)
def scatter_nd(data: Any, indices: Any, updates: Any, *, reduction: str = "none") -> Any:
    """data with slices replaced at points, or combined with updates."""
    depth = indices.shape[-1]
    points = _points(indices, data.shape)
    if reduction in ("none", "add"):
        return data.index_put(points, updates, accumulate=reduction == "add")
    rows = math.prod(data.shape[:depth])
    flat = lampion.zeros(indices.shape[:-1], dtype=lampion.int64, device=data.device)
    for p, n in zip(points, data.shape):
        flat = flat * n + p
    width = math.prod(data.shape[depth:])
    index = flat.reshape(-1, 1).expand(-1, width)
    out = data.reshape(rows, width).scatter_reduce(
        0, index, updates.reshape(-1, width), _REDUCE[reduction], include_self=True)
    return out.reshape(data.shape)


@operator("TensorScatter")
def tensor_scatter(past_cache: Any, update: Any, write_indices: Any = None, *,
                   mode: str = "linear", axis: int = -2) -> Any:
    """A cache with new elements written along a dim, from an index for each example on."""
    axis %= past_cache.ndim
    length = update.shape[axis]
    at = lampion.arange(length, device=update.device)
    if write_indices is not None:
        at = write_indices.to(lampion.int64).reshape(-1, 1) + at
        if mode == "circular":
            at = at % past_cache.shape[axis]
    at = at.reshape([-1 if write_indices is not None else 1] + [
        length if d == axis else 1 for d in range(1, past_cache.ndim)])
    return past_cache.scatter(axis, at.expand(update.shape), update)


@operator("OneHot", host=(1, 2))
def one_hot(indices: Any, depth: Any, values: Any, *, axis: int = -1) -> Any:
    """values[1] at the index of a new dim, values[0] elsewhere."""
    n = int(depth.reshape(-1)[0])
    kind = from_array(values).dtype
    index = _wrapped(indices, n)
    at = axis % (indices.ndim + 1)
    steps = lampion.arange(n, device=indices.device).reshape(
        [n if k == at else 1 for k in range(indices.ndim + 1)])
    off, on = (lampion.tensor(v.item(), dtype=kind, device=indices.device)
               for v in values.reshape(-1))
    return lampion.where(index.unsqueeze(at) == steps, on, off)


@operator("NonZero")
def non_zero(X: Any) -> Any:
    """Indices of elements that are not 0, a row for each dim."""
    return lampion.nonzero(X).t().contiguous()


@operator("Compress", moves=True)
def compress(input: Any, condition: Any, *, axis: int | None = None) -> Any:
    """Slices of a dim (or elements) whose condition holds."""
    if axis is None:
        input, axis = input.reshape(-1), 0
    kept = lampion.nonzero(condition.reshape(-1)).reshape(-1)
    return input.index_select(axis, kept)


@operator("ReverseSequence")
def reverse_sequence(input: Any, sequence_lens: Any, *, batch_axis: int = 1,
                     time_axis: int = 0) -> Any:
    """Each example's first elements in reverse order."""
    x = input.movedim((batch_axis, time_axis), (0, 1))
    at = lampion.arange(x.shape[1], device=x.device)
    ends = sequence_lens.to(lampion.int64).reshape(-1, 1)
    index = lampion.where(at < ends, ends - 1 - at, at)
    index = index.reshape(*index.shape, *[1] * (x.ndim - 2)).expand(x.shape)
    return x.gather(1, index).movedim((0, 1), (batch_axis, time_axis))


@operator("TopK", host=(1,))
def top_k(X: Any, K: Any = None, *, axis: int = -1, largest: int = 1, sorted: int = 1,
          k: int | None = None) -> Any:
    """The k largest or smallest along a dim and their indices; of equal ones the first."""
    count = int(K.reshape(-1)[0]) if K is not None else int(k or 0)
    values, indices = X.sort(dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


@operator("Unique")
def unique(X: Any, *, axis: int | None = None, sorted: int = 1) -> Any:
    """Distinct elements or slices, where each is first, where each element went, how many."""
    values, inverse, counts = lampion.unique(X, return_inverse=True, return_counts=True, dim=axis)
    inverse, n = inverse.reshape(-1), counts.numel()
    steps = lampion.arange(inverse.numel(), device=X.device)
    first = lampion.full((n,), inverse.numel(), dtype=lampion.int64, device=X.device)
    first = first.scatter_reduce(0, inverse, steps, "amin", include_self=True)
    if not sorted:
        order = first.argsort()
        rank = lampion.empty_like(order).scatter(0, order, lampion.arange(n, device=X.device))
        values = values.index_select(axis or 0, order)
        first, counts, inverse = first[order], counts[order], rank[inverse]
    return values, first, inverse, counts


@operator("NonMaxSuppression", host=(2, 3, 4))
def non_max_suppression(boxes: Any, scores: Any, max_output_boxes_per_class: Any = None,
                        iou_threshold: Any = None, score_threshold: Any = None, *,
                        center_point_box: int = 0) -> Any:
    """Boxes by falling score, without those that overlap a better one: rows (batch, class, box)."""
    limit = 0 if max_output_boxes_per_class is None else int(
        max_output_boxes_per_class.reshape(-1)[0])
    most = 0.0 if iou_threshold is None else float(iou_threshold.reshape(-1)[0])
    least = None if score_threshold is None else float(score_threshold.reshape(-1)[0])
    overlaps = _overlaps(boxes, center_point_box)
    found: list[list[int]] = []
    order = scores.argsort(dim=-1, descending=True, stable=True).tolist()
    suppressed = (overlaps > most).tolist()
    values = scores.tolist()
    for b, classes in enumerate(order):
        for c, ranked in enumerate(classes):
            kept: list[int] = []
            for k in ranked:
                if len(kept) == limit or (least is not None and values[b][c][k] <= least):
                    break
                if not any(suppressed[b][j][k] for j in kept):
                    kept.append(k)
            found += [[b, c, k] for k in kept]
    return lampion.tensor(found, dtype=lampion.int64, device=boxes.device).reshape(-1, 3)


def _overlaps(boxes: Any, center_point_box: int) -> Any:
    """Intersection over union of all pairs of boxes of each example."""
    if center_point_box:
        middle, extent = boxes[..., :2], boxes[..., 2:]
        low, high = middle - extent / 2, middle + extent / 2
    else:
        low = lampion.minimum(boxes[..., :2], boxes[..., 2:])
        high = lampion.maximum(boxes[..., :2], boxes[..., 2:])
    area = (high - low).prod(-1)
    inner = (lampion.minimum(high.unsqueeze(2), high.unsqueeze(1))
             - lampion.maximum(low.unsqueeze(2), low.unsqueeze(1))).clamp(min=0).prod(-1)
    union = area.unsqueeze(2) + area.unsqueeze(1) - inner
    return lampion.where(union > 0, inner / union, lampion.zeros_like(union))
