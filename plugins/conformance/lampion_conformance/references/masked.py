"""References of lampion.masked: every group of elements is picked out and reduced on its own."""

from __future__ import annotations

from typing import Any

import numpy as np


def masked(f: Any) -> Any:
    """A reduction by `f(elements)` of the elements that take part."""
    def run(x: Any, dim: Any = None, keepdim: bool = False, mask: Any = None) -> Any:
        keep = np.broadcast_to(True if mask is None else mask, x.shape)
        dims = tuple(range(x.ndim)) if dim is None else (dim,) if isinstance(dim, int) else dim
        dims = sorted(d % x.ndim for d in dims)
        rest = [d for d in range(x.ndim) if d not in dims]
        shape = [x.shape[d] for d in rest]
        rows = x.transpose(*rest, *dims).reshape(*shape, -1)
        there = keep.transpose(*rest, *dims).reshape(*shape, -1)
        out = np.array([f(rows[k][there[k]]) for k in np.ndindex(*shape)]).reshape(shape)
        return np.expand_dims(out, tuple(dims)) if keepdim else out

    return run


def along(f: Any, outside: float) -> Any:
    """`f(elements)` of every row in place of those that take part, `outside` elsewhere."""
    def run(x: Any, dim: int, mask: Any = None) -> Any:
        keep = np.moveaxis(np.broadcast_to(True if mask is None else mask, x.shape), dim, -1)
        rows = np.moveaxis(x, dim, -1)
        out = np.full(rows.shape, outside, float)
        for k in np.ndindex(*rows.shape[:-1]):
            out[k][keep[k]] = f(rows[k][keep[k]])
        return np.moveaxis(out, -1, dim)

    return run


def running(f: Any, start: float) -> Any:
    def run(x: Any, dim: int, mask: Any = None) -> Any:
        return f(np.where(True if mask is None else mask, x, start), axis=dim)

    return run


def _placed(f: Any, worst: float) -> Any:
    def run(x: Any, dim: int, keepdim: bool = False, mask: Any = None) -> Any:
        kept = np.where(True if mask is None else mask, x, worst)
        return f(kept, axis=dim, keepdims=keepdim).astype(float)

    return run


def _placed_anywhere(f: Any, worst: float) -> Any:
    one = _placed(f, worst)
    return lambda x, dim=None, **more: one(x.ravel(), 0, mask=np.broadcast_to(
        more["mask"], x.shape).ravel()) if dim is None else one(x, dim, **more)


def _softmax(v: Any) -> Any:
    e = np.exp(v - v.max())
    return e / e.sum()


def _norm(x: Any, order: float = 2.0, dim: Any = None, **more: Any) -> Any:
    return masked(lambda v: np.linalg.norm(v, order))(x, dim, **more)


def _normalize(x: Any, order: float, dim: int, mask: Any = None) -> Any:
    return along(lambda v: v / np.linalg.norm(v, order), 0.0)(x, dim, mask)


def _logaddexp(a: Any, b: Any, input_mask: Any = True, other_mask: Any = True) -> Any:
    return np.logaddexp(np.where(input_mask, a, -np.inf), np.where(other_mask, b, -np.inf))


REFERENCE = {
    "masked_sum": masked(np.sum), "masked_prod": masked(np.prod), "masked_mean": masked(np.mean),
    "masked_amax": masked(np.max), "masked_amin": masked(np.min),
    "masked_var": masked(lambda v: v.var(ddof=1)), "masked_std": masked(lambda v: v.std(ddof=1)),
    "masked_logsumexp": masked(lambda v: np.log(np.exp(v).sum())), "masked_norm": _norm,
    "masked_argmax": _placed_anywhere(np.argmax, -np.inf),
    "masked_argmin": _placed_anywhere(np.argmin, np.inf),
    "masked_median": lambda x, dim=-1, mask=None: masked(
        lambda v: np.sort(v)[(len(v) - 1) // 2])(x, dim, mask=mask),
    "masked_cumsum": running(np.cumsum, 0.0), "masked_cumprod": running(np.cumprod, 1.0),
    "masked_softmax": along(_softmax, 0.0), "masked_softmin": along(lambda v: _softmax(-v), 0.0),
    "masked_log_softmax": along(lambda v: np.log(_softmax(v)), -np.inf),
    "masked_normalize": _normalize, "masked_logaddexp": _logaddexp,
}
