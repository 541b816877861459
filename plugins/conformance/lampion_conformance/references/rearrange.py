"""References of ops that rearrange, join, split and repeat."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .views import narrow, sizes


def _roll(x: Any, shifts: Any, dims: Any = None) -> Any:
    return np.roll(x, shifts, dims)


def _diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    n = x.shape[-1] + abs(offset)
    out = np.zeros(x.shape[:-1] + (n, n), x.dtype)
    rows = np.arange(x.shape[-1]) + max(-offset, 0)
    out[..., rows, rows + offset] = x
    return np.moveaxis(out, (-2, -1), (dim1, dim2))


def _diag(x: Any, diagonal: int = 0) -> Any:
    return np.diag(x, diagonal)


def _into(x: Any, src: Any, view: Any) -> Any:
    """A copy of x with src in the elements that view(x) gives, found by their numbers."""
    out = x.copy()
    out.reshape(-1)[view(np.arange(x.size).reshape(x.shape))] = src
    return out


def _slice_scatter(x: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None,
                   step: int = 1) -> Any:
    key = [slice(None)] * x.ndim
    key[dim] = slice(start, end, step)
    return _into(x, src, lambda at: at[tuple(key)])


def _as_strided_scatter(x: Any, src: Any, size: Any, stride: Any, offset: int = 0) -> Any:
    out = x.copy()
    flat = out.reshape(-1)
    for at in np.ndindex(*size):
        flat[offset + sum(a * s for a, s in zip(at, stride))] = src[at]
    return out


def _fill_diagonal(x: Any, value: Any, wrap: bool = False) -> Any:
    out = np.ascontiguousarray(x).copy()
    np.fill_diagonal(out, value, wrap)
    return out


def _repeat(x: Any, *repeats: Any) -> Any:
    return np.tile(x, sizes(repeats))


def _repeat_interleave(x: Any, repeats: Any = None, dim: Any = None) -> Any:
    if repeats is None:
        return np.repeat(np.arange(len(x)), x)
    return np.repeat(x, repeats, dim)


def _combinations(x: Any, r: int = 2, with_replacement: bool = False) -> Any:
    pick = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = list(pick(x, r))
    return np.array(rows, x.dtype).reshape(len(rows), r)


def _cartesian_prod(*vectors: Any) -> Any:
    if len(vectors) == 1:
        return vectors[0]
    return np.array(list(itertools.product(*vectors)), vectors[0].dtype)


def _block_diag(*parts: Any) -> Any:
    from scipy.linalg import block_diag

    return block_diag(*parts)


# ---------------------------------------------------------------- joining and splitting

def _cat(tensors: Any, dim: int = 0) -> Any:
    kept = [t for t in tensors if t.shape != (0,)]
    return np.concatenate(kept or tensors, dim)


def _split(x: Any, size: Any, dim: int = 0) -> Any:
    n = x.shape[dim]
    if not isinstance(size, int):
        stops = np.cumsum(size)
        return tuple(narrow(x, dim, int(s - k), k) for s, k in zip(stops, size))
    starts = range(0, n, size) if n else [0]
    return tuple(narrow(x, dim, s, min(size, n - s)) for s in starts)


def _chunk(x: Any, chunks: int, dim: int = 0) -> Any:
    size = -(-x.shape[dim] // chunks)
    return _split(x, size, dim) if size else tuple(x for _ in range(chunks))


def _tensor_split(x: Any, where: Any = None, dim: int = 0, *, indices: Any = None,
                  sections: Any = None) -> Any:
    where = next(w for w in (where, indices, sections) if w is not None)
    return tuple(np.array_split(x, where, dim))


def _axis_split(dim: int) -> Any:
    def run(x: Any, where: Any) -> Any:
        return _tensor_split(x, where, dim if x.ndim > 1 else 0)

    return run


def _atleast(f: Any) -> Any:
    """Of one tensor, of several, of a list; NumPy's atleast_3d puts vectors in the middle, as
    PyTorch's does."""
    def run(*tensors: Any) -> Any:
        if len(tensors) == 1:
            one = tensors[0]
            return tuple(map(f, one)) if isinstance(one, (list, tuple)) else f(one)
        return tuple(map(f, tensors))

    return run


REFERENCE = {
    "flip": lambda x, *dims: np.flip(x, sizes(dims)), "fliplr": np.fliplr, "flipud": np.flipud,
    "roll": _roll, "rot90": np.rot90, "tril": np.tril, "triu": np.triu,
    "diag_embed": _diag_embed, "diag": _diag, "diagflat": np.diagflat,
    "select_scatter": lambda x, src, dim, index: _into(
        x, src, lambda at: np.take(at, index, dim)),
    "slice_scatter": _slice_scatter, "as_strided_scatter": _as_strided_scatter,
    "diagonal_scatter": lambda x, src, offset=0, dim1=0, dim2=1: _into(
        x, src, lambda at: np.diagonal(at, offset, dim1, dim2)),
    "fill_diagonal_": _fill_diagonal, "adjoint": lambda x: np.swapaxes(x, -1, -2).conj(),
    "repeat": _repeat, "tile": lambda x, *dims: np.tile(x, sizes(dims)),
    "repeat_interleave": _repeat_interleave,
    "broadcast_tensors": lambda *ts: tuple(np.broadcast_arrays(*ts)),
    "meshgrid": lambda *ts, indexing: tuple(np.meshgrid(*ts, indexing=indexing)),
    "cartesian_prod": _cartesian_prod, "combinations": _combinations, "block_diag": _block_diag,
    "vander": np.vander,
    "cat": _cat, "stack": np.stack, "split": _split, "split_with_sizes": _split, "chunk": _chunk,
    "tensor_split": _tensor_split, "hsplit": _axis_split(1), "vsplit": _axis_split(0),
    "dsplit": _axis_split(2), "atleast_1d": _atleast(np.atleast_1d),
    "atleast_2d": _atleast(np.atleast_2d), "atleast_3d": _atleast(np.atleast_3d),
    "hstack": np.hstack, "vstack": np.vstack, "dstack": np.dstack,
    "column_stack": np.column_stack, "unsafe_split": _split, "unsafe_chunk": _chunk,
    "clone": np.copy, "contiguous": np.copy,
    "real": np.real, "imag": np.imag, "conj": np.conj,
    "resolve_conj": np.copy, "resolve_neg": np.copy,
}
