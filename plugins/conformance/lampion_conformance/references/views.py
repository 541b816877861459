"""References of views and of the ops that move elements about."""

from __future__ import annotations

from typing import Any

import numpy as np


def sizes(args: Any) -> Any:
    """f(2, 3) and f((2, 3)) mean the same."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else args


def _view(x: Any, *shape: Any) -> Any:
    if isinstance(shape[0], np.dtype):  # of float32 values, which the reference gets as float64
        return x.astype(np.float32).view(shape[0])
    return x.reshape(sizes(shape))


def _expand(x: Any, *size: Any) -> Any:
    size = sizes(size)
    lead = len(size) - x.ndim
    return np.broadcast_to(x, [x.shape[k - lead] if n == -1 else n for k, n in enumerate(size)])


def _squeeze(x: Any, *dim: Any) -> Any:
    dims = range(x.ndim) if not dim else [d % x.ndim for d in sizes(dim)]
    return np.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))


def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if not x.ndim:
        return x.reshape(1)
    a, b = start_dim % x.ndim, end_dim % x.ndim
    return x.reshape(x.shape[:a] + (int(np.prod(x.shape[a:b + 1])),) + x.shape[b + 1:])


def _unflatten(x: Any, dim: int, sizes: Any) -> Any:
    d = dim % x.ndim
    return x.reshape(x.shape[:d] + tuple(sizes) + x.shape[d + 1:])


def narrow(x: Any, dim: int, start: int, length: int) -> Any:
    start = start + x.shape[dim] if start < 0 else start
    return np.take(x, range(start, start + length), dim)


def _as_strided(x: Any, size: Any, stride: Any, offset: int = 0) -> Any:
    flat = x.reshape(-1)
    at = sum((s * np.arange(n).reshape([-1] + [1] * (len(size) - k - 1))
              for k, (n, s) in enumerate(zip(size, stride))), np.zeros([], int))
    return flat[np.broadcast_to(at + offset, size)]


def _unfold(x: Any, dimension: int, size: int, step: int) -> Any:
    if not x.ndim:
        return x.reshape(1)[:size]
    windows = np.lib.stride_tricks.sliding_window_view(x, size, dimension)
    return np.take(windows, range(0, windows.shape[dimension], step), dimension)


def _unfold_backward(g: Any, shape: Any, dimension: int, size: int, step: int) -> Any:
    out, dimension = np.zeros(shape), dimension % len(shape)
    full, parts = np.moveaxis(out, dimension, 0), np.moveaxis(g, (dimension, -1), (0, 1)) \
        if g.ndim > 1 else g
    for k, window in enumerate(parts):
        full[k * step:k * step + size] += window
    return out


def _unsqueeze(x: Any, dim: int) -> Any:
    return np.expand_dims(x, dim)


REFERENCE = {
    "transpose": lambda x, a, b: np.swapaxes(x, a, b) if x.ndim else x,
    "t": np.transpose, "unsqueeze": _unsqueeze,
    "select": lambda x, dim, index: np.take(x, index, dim),
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: np.diagonal(x, offset, dim1, dim2)
    if -x.shape[dim1] <= offset <= x.shape[dim2] else np.zeros((0,)),
    "view_as_real": lambda x: np.stack([x.real, x.imag], -1),
    "view_as_complex": lambda x: x[..., 0] + 1j * x[..., 1],
    "reshape": lambda x, *shape: x.reshape(sizes(shape)), "view": _view, "expand": _expand,
    "permute": lambda x, *dims: np.transpose(x, sizes(dims)), "squeeze": _squeeze,
    "view_as": lambda x, other: x.reshape(other.shape),
    "reshape_as": lambda x, other: x.reshape(other.shape),
    "expand_as": lambda x, other: np.broadcast_to(x, other.shape),
    "broadcast_to": np.broadcast_to, "movedim": np.moveaxis, "moveaxis": np.moveaxis,
    "flatten": _flatten, "unflatten": _unflatten, "ravel": np.ravel, "narrow": narrow,
    "unbind": lambda x, dim=0: tuple(np.moveaxis(x, dim, 0)), "as_strided": _as_strided,
    "unfold": _unfold, "unfold_backward": _unfold_backward,
    "squeeze_dims": lambda x, dims=None: _squeeze(x, *(() if dims is None else (dims,))),
    "view_as_shape": lambda x, shape: x.reshape(shape),
}
