"""References of reductions, running reductions, softmax and norms of vectors."""

from __future__ import annotations

from typing import Any

import numpy as np


def axes(x: Any, dim: Any) -> Any:
    """NumPy's `axis` for a `dim`."""
    if dim is None or (isinstance(dim, tuple) and not dim) or not x.ndim:
        return None
    return tuple(dim) if isinstance(dim, (tuple, list)) else dim


def reduction(f: Any) -> Any:
    """f(x, axis=, keepdims=) with the arguments of a reduction op."""
    def run(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        if dtype is not None:
            x = x.astype(dtype)
        return f(x, axis=axes(x, dim), keepdims=keepdim)

    return run


def _sum(x: Any, **where: Any) -> Any:
    return np.sum(x, dtype=np.int64 if x.dtype.kind in "bui" else None, **where)


def _prod(x: Any, **where: Any) -> Any:
    return np.prod(x, dtype=np.int64 if x.dtype.kind in "bui" else None, **where)


def _quiet(f: Any) -> Any:
    """Without NumPy's warnings about empty or infinite arguments."""
    def run(*args: Any, **kwargs: Any) -> Any:
        import warnings

        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return f(*args, **kwargs)

    return run


def _arg(f: Any) -> Any:
    return lambda x, dim=None, keepdim=False: f(
        x, axis=axes(x, dim), keepdims=keepdim and x.ndim > 0)


def _logic(f: Any) -> Any:
    def run(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        found = f(x, axis=axes(x, dim), keepdims=keepdim)
        return np.asarray(found).astype(np.uint8 if x.dtype == np.uint8 else bool)

    return run


def _overloaded(reduce: Any, arg: Any, pair: Any) -> Any:
    """max and min: over everything, along a dim, of two."""
    def run(x: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        if other is not None or isinstance(dim, np.ndarray):
            return pair(x, dim if other is None else other)
        if dim is None:
            return reduce(x)
        axis = dim if x.ndim else None
        return reduce(x, axis=axis, keepdims=keepdim), arg(x, axis=axis, keepdims=keepdim)

    return run


def _moment(kind: str) -> Any:
    def run(x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *,
            correction: Any = None) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        ddof = correction if correction is not None else int(unbiased is not False)
        axis = axes(x, dim)
        v = np.var(x, axis=axis, ddof=ddof, keepdims=keepdim)
        first = v if kind.startswith("var") else np.sqrt(v)
        return (first, np.mean(x, axis=axis, keepdims=keepdim)) if "_" in kind else first

    return run


def logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    return np.logaddexp.reduce(x.astype(float), axis=axes(x, dim), keepdims=keepdim)


def softmax(x: Any, dim: Any = None, dtype: Any = None) -> Any:
    return np.exp(log_softmax(x, dim, dtype))


def log_softmax(x: Any, dim: Any = None, dtype: Any = None) -> Any:
    x = x.astype(float)
    dim = (0 if x.ndim in (0, 1, 3) else 1) if dim is None else dim
    return x - logsumexp(x, dim, x.ndim > 0)


# ---------------------------------------------------------------- running reductions

def _running(f: Any) -> Any:
    """f(x, axis) of an array with at least one dim; a number is its own running result."""
    return lambda x, dim, **options: f(x, dim, **options) if x.ndim else (
        f(x[None], 0, **options)[0])


def _total(f: Any) -> Any:
    def run(x: Any, dim: int, dtype: Any = None) -> Any:
        return f(x, axis=dim, dtype=dtype or (np.int64 if x.dtype.kind in "bui" else None))

    return _running(run)


def _running_extreme(better: Any) -> Any:
    """(values, indices); the last of equal values counts, and NaN wins."""
    def run(x: Any, dim: int) -> Any:
        if not x.ndim:
            return x, np.int64(0)
        values, where = x.copy(), np.zeros(x.shape, np.int64)
        v, w = np.moveaxis(values, dim, -1), np.moveaxis(where, dim, -1)
        for line in np.ndindex(*v.shape[:-1]):
            at = 0
            for k, e in enumerate(v[line].copy()):
                if e != e or better(e, v[line][at]):
                    at = k
                v[line][k], w[line][k] = v[line][at], at
        return values, where

    return run


def _diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    extra = {k: a for k, a in (("prepend", prepend), ("append", append)) if a is not None}
    return np.diff(x, n, dim, **extra)


def _trapezoid(y: Any, x: Any = None, *, dx: float = 1, dim: int = -1) -> Any:
    return np.trapezoid(y, x, dx, dim) if hasattr(np, "trapezoid") else np.trapz(y, x, dx, dim)


def _cumulative_trapezoid(y: Any, x: Any = None, *, dx: float = 1, dim: int = -1) -> Any:
    from scipy.integrate import cumulative_trapezoid

    return cumulative_trapezoid(y, x, dx, dim)


# ---------------------------------------------------------------- norms and distances

def _norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    a, axis = np.abs(x), axes(x, dim)
    p = 2 if p in ("fro", None) else p
    if p == 0:
        return np.sum(a != 0, axis=axis, keepdims=keepdim).astype(float)
    if np.isinf(p):
        return (np.max if p > 0 else np.min)(a, axis=axis, keepdims=keepdim)
    return np.sum(a ** p, axis=axis, keepdims=keepdim) ** (1 / p)


def _cdist(a: Any, b: Any, p: float = 2.0) -> Any:
    return _norm(a[..., :, None, :] - b[..., None, :, :], p, -1)


def _pdist(x: Any, p: float = 2.0) -> Any:
    n = len(x)
    return np.array([_norm(x[i] - x[j], p) for i in range(n) for j in range(i + 1, n)])


def _renorm(x: Any, p: float, dim: int, maxnorm: float) -> Any:
    y = x.copy()
    for part in np.moveaxis(y, dim, 0):
        size = _norm(part, p)
        part *= maxnorm / (size + 1e-7) if size > maxnorm else 1.0
    return y


REFERENCE = {
    "sum": reduction(_sum), "prod": reduction(_prod), "mean": _quiet(reduction(np.mean)),
    "amax": reduction(np.max), "amin": reduction(np.min), "nansum": reduction(
        lambda x, **where: _sum(np.where(np.isnan(x), 0, x) if x.dtype.kind == "f" else x,
                                **where)),
    "nanmean": _quiet(reduction(np.nanmean)),
    "aminmax": lambda x, *, dim=None, keepdim=False: tuple(
        f(x, axis=axes(x, dim), keepdims=keepdim) for f in (np.min, np.max)),
    "argmax": _arg(np.argmax), "argmin": _arg(np.argmin),
    "any": _logic(np.any), "all": _logic(np.all),
    "max": _overloaded(np.max, np.argmax, np.maximum),
    "min": _overloaded(np.min, np.argmin, np.minimum),
    "var": _moment("var"), "std": _moment("std"), "var_mean": _moment("var_mean"),
    "std_mean": _moment("std_mean"), "logsumexp": _quiet(logsumexp),
    "softmax": softmax, "log_softmax": log_softmax,
    "softmin": lambda x, dim=None, dtype=None: softmax(-x, dim, dtype),
    "count_nonzero": lambda x, dim=None: np.asarray(
        np.count_nonzero(x, axis=axes(x, dim)), np.int64),
    "trace": lambda x: np.trace(x),
    "cumsum": _total(np.cumsum), "cumprod": _total(np.cumprod),
    "cummax": _running_extreme(lambda a, b: a >= b),
    "cummin": _running_extreme(lambda a, b: a <= b),
    "logcumsumexp": _quiet(_running(lambda x, dim: np.logaddexp.accumulate(x, dim))),
    "diff": _diff, "trapezoid": _trapezoid, "trapz": _trapezoid,
    "cumulative_trapezoid": _cumulative_trapezoid,
    "vector_norm": _norm, "norm": _norm, "dist": lambda a, b, p=2: _norm(a - b, p),
    "cdist": _cdist, "pdist": _pdist, "renorm": _renorm,
}
