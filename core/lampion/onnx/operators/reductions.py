"""ONNX operators that reduce and scan dims. Floor 7; imports lampion and this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lampion

from ..table import operator
from .shape import ints


def _reduction(name: str, reduce: Callable[..., Any]) -> None:
    """Declare ReduceX; `reduce(data, dims, keepdim)` takes all dims that there are."""
    @operator(name, host=(1,))
    def run(data: Any, axes: Any = None, *, keepdims: int = 1,
            noop_with_empty_axes: int = 0) -> Any:
        dims = tuple(ints(axes)) if axes is not None else ()
        if not dims:
            if noop_with_empty_axes:
                return reduce(data.unsqueeze(0), (0,), False)
            dims = tuple(range(data.ndim))
            if not dims:  # a number: as a row of one
                return reduce(data.reshape(1), (0,), False)
        return reduce(data, dims, bool(keepdims))


def _summed(before: Callable[[Any], Any] | None, after: Callable[[Any], Any] | None) -> Any:
    """A sum in the data's dtype, of what `before` makes of elements."""
    def reduce(data: Any, dims: Any, keepdim: bool) -> Any:
        kind = data.dtype
        total = (data if before is None else before(data)).sum(dims, keepdim, dtype=kind)
        return total if after is None else after(total).to(kind)

    return reduce


def _extreme(name: str) -> Any:
    def reduce(data: Any, dims: Any, keepdim: bool) -> Any:
        """amax or amin; of nothing, what is neutral."""
        if any(data.shape[d] == 0 for d in dims):
            return _of_nothing(data, dims, keepdim, name == "amax")
        if data.dtype is lampion.bool:
            return (data.any if name == "amax" else data.all)(dims, keepdim)
        return getattr(data, name)(dims, keepdim)

    return reduce


def _of_nothing(data: Any, dims: Any, keepdim: bool, lowest: bool) -> Any:
    kind = data.dtype
    if kind.is_floating_point:
        value: Any = -float("inf") if lowest else float("inf")
    elif kind is lampion.bool:
        value = not lowest
    else:
        value = lampion.iinfo(kind).min if lowest else lampion.iinfo(kind).max
    gone = {d % data.ndim for d in dims}
    sizes = [1 if d in gone else n for d, n in enumerate(data.shape) if keepdim or d not in gone]
    return lampion.full(sizes, value, dtype=kind, device=data.device)


def _product(data: Any, dims: Any, keepdim: bool) -> Any:
    kind = data.dtype
    for d in sorted((d % data.ndim for d in dims), reverse=True):
        data = data.prod(d, keepdim, dtype=kind)
    return data


def _mean(data: Any, dims: Any, keepdim: bool) -> Any:
    if data.is_floating_point():
        return data.mean(dims, keepdim)
    return data.to(lampion.float64).mean(dims, keepdim).to(data.dtype)


def _log_sum_exp(data: Any, dims: Any, keepdim: bool) -> Any:
    wide = data if data.is_floating_point() else data.to(lampion.float64)
    return lampion.logsumexp(wide, dims, keepdim).to(data.dtype)


for _name, _rule in {
        "ReduceSum": _summed(None, None), "ReduceSumSquare": _summed(lampion.square, None),
        "ReduceL1": _summed(lampion.abs, None),
        "ReduceL2": _summed(lampion.square, lampion.sqrt),
        "ReduceLogSum": _summed(None, lampion.log), "ReduceLogSumExp": _log_sum_exp,
        "ReduceMax": _extreme("amax"), "ReduceMin": _extreme("amin"),
        "ReduceProd": _product, "ReduceMean": _mean}.items():
    _reduction(_name, _rule)


def _position(name: str, find: Callable[..., Any]) -> None:
    @operator(name)
    def run(data: Any, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Any:
        """Where the extreme element of a dim is: the first such, or the last."""
        if not select_last_index:
            return find(data, axis, bool(keepdims))
        return data.shape[axis] - 1 - find(data.flip(axis), axis, bool(keepdims))


_position("ArgMax", lampion.argmax)
_position("ArgMin", lampion.argmin)


def _scan(name: str, running: Callable[..., Any], neutral: int) -> None:
    @operator(name, host=(1,))
    def run(x: Any, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Any:
        """Sums or products of all elements up to each, with or without it."""
        d = int(axis.reshape(-1)[0])
        x = x.flip(d) if reverse else x
        if exclusive:
            first = lampion.full_like(x.narrow(d, 0, min(1, x.shape[d])), neutral)
            x = lampion.cat([first, x.narrow(d, 0, max(x.shape[d] - 1, 0))], d)
        out = running(x, d, dtype=x.dtype)
        return out.flip(d) if reverse else out


_scan("CumSum", lampion.cumsum, 0)
_scan("CumProd", lampion.cumprod, 1)


def _over_rows(name: str, fn: Callable[[Any, int], Any]) -> None:
    @operator(name)
    def run(input: Any, *, axis: int | None = None, opset: int = 13) -> Any:
        """Along one dim; before opset 13 over all dims from it on."""
        if opset >= 13:
            return fn(input, -1 if axis is None else axis)
        at = (1 if axis is None else axis) % max(input.ndim, 1)
        return fn(input.flatten(at), at).reshape(input.shape)


def _hardmax(x: Any, dim: int) -> Any:
    """1 at the first largest element, else 0."""
    steps = lampion.arange(x.shape[dim], device=x.device).reshape(
        [-1 if k == dim % x.ndim else 1 for k in range(x.ndim)])
    return (x.argmax(dim, True) == steps).to(x.dtype)


_over_rows("Softmax", lampion.softmax)
_over_rows("LogSoftmax", lampion.log_softmax)
_over_rows("Hardmax", _hardmax)


@operator("LpNormalization")
def lp_normalization(input: Any, *, axis: int = -1, p: int = 2) -> Any:
    """Divided by the norm along a dim; what has none is 0."""
    size = input.abs().sum(axis, True) if p == 1 else input.square().sum(axis, True).sqrt()
    return lampion.where(size == 0, lampion.zeros_like(input), input / size)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(X: Any, *, axes: Any = (0, 2, 3)) -> Any:
    """(X - mean) / deviation over dims."""
    dims = tuple(axes)
    middle = X.mean(dims, True)
    spread = ((X * X).mean(dims, True) - middle * middle).sqrt()
    return (X - middle) / (spread + 1e-9)
