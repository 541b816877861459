"""References of ops that read and write elements by index, sort, search and count."""

from __future__ import annotations

from typing import Any

import numpy as np

from .reduce import axes

COMBINE = {"set": lambda a, b: b, "add": lambda a, b: a + b, "sum": lambda a, b: a + b,
           "multiply": lambda a, b: a * b, "prod": lambda a, b: a * b,
           "mean": lambda a, b: a + b, "amax": max, "amin": min}


def _gather(x: Any, dim: int, index: Any) -> Any:
    if not x.ndim:
        return np.broadcast_to(x, index.shape)
    out = np.empty(index.shape, x.dtype)
    for at in np.ndindex(*index.shape):
        place = list(at)
        place[dim] = index[at]
        out[at] = x[tuple(place)]
    return out


def scattered(x: Any, dim: int, index: Any, src: Any, reduce: str = "set",
              include_self: bool = True) -> Any:
    """x with src combined into the places that index names, one after the other."""
    out = x.copy()
    met: dict[Any, int] = {}
    source = np.broadcast_to(src, index.shape) if np.ndim(src) == 0 else src
    for at in np.ndindex(*index.shape):
        place = list(at)
        if place:
            place[dim] = index[at]
        key = tuple(place)
        fresh = key not in met and not include_self
        out[key] = source[at] if fresh else COMBINE[reduce](out[key], source[at])
        met[key] = met.get(key, int(include_self)) + 1
    if reduce == "mean":
        for key, n in met.items():
            out[key] = out[key] / n if out.dtype.kind == "f" else out[key] // n
    return out


def _scatter(x: Any, dim: int, index: Any, src: Any = None, *, value: Any = None,
             reduce: str | None = None) -> Any:
    return scattered(x, dim, index, value if src is None else src, reduce or "set")


def _lines(x: Any, dim: int, index: Any, source: Any) -> Any:
    """The index of `scattered` that `index` along one dim stands for."""
    shape = [1] * x.ndim
    if shape:
        shape[dim] = -1
    return np.broadcast_to(index.reshape(shape), np.shape(source))


def _index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    return scattered(x, dim, _lines(x, dim, index, source), alpha * source, "add")


def _index_copy(x: Any, dim: int, index: Any, source: Any) -> Any:
    return scattered(x, dim, _lines(x, dim, index, source), source)


def _index_fill(x: Any, dim: int, index: Any, value: Any) -> Any:
    out = x.copy()
    np.moveaxis(out, dim, 0)[index] = value
    return out


def _index_reduce(x: Any, dim: int, index: Any, source: Any, reduce: str, *,
                  include_self: bool = True) -> Any:
    return scattered(x, dim, _lines(x, dim, index, source), source, reduce, include_self)


def _put(x: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    flat = x.reshape(-1)
    return scattered(flat, 0, index.reshape(-1) % flat.size, source.reshape(-1),
                     "add" if accumulate else "set").reshape(x.shape)


def _masked_scatter(x: Any, mask: Any, source: Any) -> Any:
    out = np.broadcast_to(x, np.broadcast_shapes(x.shape, mask.shape)).copy()
    mask = np.broadcast_to(mask, out.shape)
    out[mask] = source.reshape(-1)[:mask.sum()]
    return out


def _masked_fill(x: Any, mask: Any, value: Any) -> Any:
    return np.where(mask, np.asarray(value, x.dtype), x)


def _index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    out = x.copy()
    key = tuple(slice(None) if i is None else i for i in indices)
    if accumulate:
        np.add.at(out, key, values)
    else:
        out[key] = values
    return out


def _take_along_dim(x: Any, indices: Any, dim: Any = None) -> Any:
    if dim is None:
        return x.reshape(-1)[indices.reshape(-1)]
    shape = list(np.broadcast_shapes(*(np.delete(a.shape, dim) for a in (x, indices))))
    wide = [np.broadcast_to(a, [*shape[:dim], a.shape[dim], *shape[dim:]]) for a in (x, indices)]
    return np.take_along_axis(*wide, dim)


def _masked_select(x: Any, mask: Any) -> Any:
    x, mask = np.broadcast_arrays(x, mask)
    return x[mask]


def _nonzero(x: Any, *, as_tuple: bool = False) -> Any:
    if as_tuple:
        return np.nonzero(np.atleast_1d(x))
    return np.argwhere(x)


# ---------------------------------------------------------------- order

def _order(x: Any, dim: int, descending: bool) -> Any:
    """Indices of a stable sort; NaN counts as larger than anything."""
    if not x.ndim:
        return np.zeros((), np.int64)
    if not descending:
        return np.argsort(x, dim, kind="stable")
    back = np.argsort(np.flip(x, dim), dim, kind="stable")
    return np.flip(x.shape[dim] - 1 - back, dim)


def _sort(x: Any, dim: int = -1, descending: bool = False, *, stable: Any = None) -> Any:
    order = _order(x, dim, descending)
    return (np.take_along_axis(x, order, dim) if x.ndim else x), order


def _topk(x: Any, k: int, dim: int = -1, largest: bool = True) -> Any:
    v, i = _sort(x, dim, largest)
    return tuple(np.take(a, range(k), dim) if x.ndim else a for a in (v, i))


def _pick(x: Any, at: Any, dim: int, keepdim: bool) -> Any:
    """(values, indices) of the entry of rank `at(line)` along a dim."""
    if not x.ndim:
        return x, np.int64(0)
    v, i = _sort(x, dim)
    rank = np.apply_along_axis(at, dim, x)
    rank = np.expand_dims(rank, dim)
    found = np.take_along_axis(v, rank, dim), np.take_along_axis(i, rank, dim)
    return found if keepdim else tuple(np.squeeze(a, dim) for a in found)


def _kthvalue(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    return _pick(x, lambda line: k - 1, dim, keepdim)


def _first_nan_or_middle(line: Any) -> int:
    nans = int(np.isnan(line).sum()) if line.dtype.kind == "f" else 0
    return len(line) - nans if nans else (len(line) - 1) // 2


def _middle_of_numbers(line: Any) -> int:
    nans = int(np.isnan(line).sum()) if line.dtype.kind == "f" else 0
    return max((len(line) - nans - 1) // 2, 0)


def _median(rank: Any) -> Any:
    def run(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return _pick(x.reshape(-1), rank, 0, False)[0]
        return _pick(x, rank, dim, keepdim)

    return run


def _mode(x: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """(values, indices) of the most frequent entry, the smallest of several; of its places the
    last."""
    if not x.ndim:
        return x, np.int64(0)
    moved = np.moveaxis(x, dim, -1)
    values = np.empty(moved.shape[:-1], x.dtype)
    where = np.empty(moved.shape[:-1], np.int64)
    for at in np.ndindex(*values.shape):
        found, counts = np.unique(moved[at], return_counts=True)
        values[at] = found[counts.argmax()]
        where[at] = np.flatnonzero(moved[at] == values[at])[-1]
    return tuple(np.expand_dims(a, dim) if keepdim else a for a in (values, where))


def _quantile(f: Any) -> Any:
    def run(x: Any, q: Any, dim: Any = None, keepdim: bool = False, *,
            interpolation: str = "linear") -> Any:
        return f(x, q, axis=axes(x, dim), keepdims=keepdim, method=interpolation)

    return run


# ---------------------------------------------------------------- search and counts

def _searchsorted(seq: Any, x: Any, *, out_int32: bool = False, right: bool = False,
                  side: Any = None, sorter: Any = None) -> Any:
    if sorter is not None:
        seq = np.take_along_axis(seq, sorter, -1)
    side = "right" if right or side == "right" else "left"
    if seq.ndim == 1:
        found = np.searchsorted(seq, x, side)
    else:
        found = np.stack([np.searchsorted(s, v, side) for s, v in zip(seq, x)])
    return np.asarray(found, np.int32 if out_int32 else np.int64)


def _unique(x: Any, sorted: bool = True, return_inverse: bool = False,
            return_counts: bool = False, dim: Any = None) -> Any:
    v, inverse, counts = np.unique(x, return_inverse=True, return_counts=True, axis=dim)
    inverse = inverse.reshape(x.shape if dim is None else -1)
    found = (v, *(a for a, on in ((inverse, return_inverse), (counts, return_counts)) if on))
    return found if len(found) > 1 else v


def _unique_consecutive(x: Any, return_inverse: bool = False, return_counts: bool = False,
                        dim: Any = None) -> Any:
    lines = x.reshape(-1, 1) if dim is None else np.moveaxis(x, dim, 0).reshape(x.shape[dim], -1)
    fresh = np.r_[True, (lines[1:] != lines[:-1]).any(1)]
    inverse = fresh.cumsum() - 1
    v = x.reshape(-1)[fresh] if dim is None else np.compress(fresh, x, dim)
    found = (v, *(a for a, on in ((inverse.reshape(x.shape) if dim is None else inverse,
                                   return_inverse),
                                  (np.bincount(inverse), return_counts)) if on))
    return found if len(found) > 1 else v


def _bincount(x: Any, weights: Any = None, minlength: int = 0) -> Any:
    return np.bincount(x, weights, minlength)


def _histc(x: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    low, high = (x.min(), x.max()) if min == max else (min, max)
    low, high = (low - 1, high + 1) if low == high else (low, high)
    return np.histogram(x, bins, (low, high))[0].astype(float)


def _histogram(x: Any, bins: Any, *, range: Any = None, weight: Any = None,
               density: bool = False) -> Any:
    hist, edges = np.histogram(x, bins, range, density, weight)
    return hist.astype(float), edges


def _embedding(weight: Any, indices: Any, padding_idx: int = -1) -> Any:
    return weight[indices]


REFERENCE = {
    "gather": _gather, "index_select": lambda x, dim, index: np.take(
        x, index.reshape(-1), dim) if x.ndim else x,
    "take": lambda x, index: x.reshape(-1)[index], "take_along_dim": _take_along_dim,
    "embedding": _embedding,
    "scatter": _scatter, "scatter_": _scatter, "index_put": _index_put, "index_put_": _index_put,
    "scatter_add": lambda x, dim, index, src: scattered(x, dim, index, src, "add"),
    "scatter_add_": lambda x, dim, index, src: scattered(x, dim, index, src, "add"),
    "scatter_reduce": lambda x, dim, index, src, reduce, *, include_self=True: scattered(
        x, dim, index, src, reduce, include_self),
    "index_add": _index_add, "index_add_": _index_add, "index_copy": _index_copy,
    "index_copy_": _index_copy, "index_fill": _index_fill, "index_fill_": _index_fill,
    "index_reduce": _index_reduce, "put": _put, "put_": _put, "masked_scatter": _masked_scatter,
    "masked_fill": _masked_fill, "masked_fill_": _masked_fill, "masked_select": _masked_select,
    "nonzero": _nonzero, "argwhere": np.argwhere,
    "sort": _sort, "argsort": lambda x, dim=-1, descending=False, stable=False: _order(
        x, dim, descending),
    "msort": lambda x: np.sort(x, 0), "topk": _topk, "kthvalue": _kthvalue,
    "median": _median(_first_nan_or_middle), "nanmedian": _median(_middle_of_numbers),
    "mode": _mode, "quantile": _quantile(np.quantile), "nanquantile": _quantile(np.nanquantile),
    "searchsorted": _searchsorted,
    "bucketize": lambda x, edges, **options: _searchsorted(edges, x, **options),
    "isin": lambda x, test, *, assume_unique=False, invert=False: np.isin(x, test, invert=invert),
    "unique": _unique, "unique_consecutive": _unique_consecutive, "bincount": _bincount,
    "histc": _histc, "histogram": _histogram,
}
