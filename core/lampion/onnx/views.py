"""Views in ONNX: reshapes, transposes, slices. Floor 7; imports lampion and this package.

A view there is a value of its own; what writes to views mean is in `emit.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..base.errors import UnsupportedError
from ..export.graph import Size
from .emit import Value, Writer, translation


def _flat(sizes: Any) -> list[Any]:
    """Sizes given one by one, or as one tuple."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) and not isinstance(sizes[0], Size):
        return list(sizes[0])
    return list(sizes)


@translation("reshape", "view", "view_as_shape")
def reshape(g: Writer, input: Value, *shape: Any) -> str:
    """Reshape; a 0 is a size, not a dim to keep."""
    sizes = _flat([s for s in shape if s is not None])
    if any(type(s).__name__ == "dtype" for s in sizes):
        raise UnsupportedError(f"{g.where()}reads bits as another dtype")
    zero = any(s == 0 for s in sizes if not isinstance(s, Size))
    return str(g.node("Reshape", input.name, g.ints(sizes), allowzero=1 if zero else None))


@translation("transpose")
def transpose(g: Writer, input: Value, dim0: int, dim1: int) -> str:
    """Two dims exchanged."""
    order = list(range(input.ndim))
    if not order:
        return input.name
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return str(g.node("Transpose", input.name, perm=order))


@translation("permute_dims", "permute")
def permute(g: Writer, input: Value, *dims: Any) -> str:
    """Dims in another order."""
    order = [d % input.ndim for d in _flat(dims)]
    return str(g.node("Transpose", input.name, perm=order)) if order else input.name


@translation("t", "mT")
def turned(g: Writer, input: Value) -> str:
    """The last two dims exchanged."""
    return transpose(g, input, -1, -2) if input.ndim > 1 else input.name


@translation("movedim")
def movedim(g: Writer, input: Value, source: Any, destination: Any) -> str:
    """Dims moved to other places; the others keep their order."""
    n = input.ndim
    source, destination = ([d % n for d in ((x,) if isinstance(x, int) else x)]
                           for x in (source, destination))
    rest = iter([d for d in range(n) if d not in source])
    where = dict(zip(destination, source))
    order = [where[d] if d in where else next(rest) for d in range(n)]
    return str(g.node("Transpose", input.name, perm=order)) if n else input.name


@translation("unflatten")
def unflatten(g: Writer, input: Value, dim: int, sizes: Any) -> str:
    """A dim as several."""
    d = dim % input.ndim
    shape = g.shape(input.name)
    before, after = (g.node("Slice", shape, g.ints([a]), g.ints([b]))
                     for a, b in ((0, d), (d + 1, input.ndim)))
    return str(g.node("Reshape", input.name, g.node("Concat", before, g.ints(_flat([sizes])),
                                                    after, axis=0)))


@translation("unsqueeze")
def unsqueeze(g: Writer, input: Value, dim: int) -> str:
    """A dim of size 1."""
    return str(g.node("Unsqueeze", input.name, g.ints([dim % (input.ndim + 1)])))


@translation("squeeze")
def squeeze(g: Writer, input: Value, *dim: Any) -> str:
    """Dims of size 1 that are named, or all."""
    return _squeezed(g, input, _flat(dim) if dim and dim != ((),) else range(input.ndim))


@translation("squeeze_dims")
def squeeze_dims(g: Writer, input: Value, dims: Any = None) -> str:
    """Dims of size 1 that are named, or all."""
    return _squeezed(g, input, range(input.ndim) if dims is None else dims)


def _squeezed(g: Writer, input: Value, dims: Any) -> str:
    gone = [d % input.ndim for d in dims if input.shape[d] == 1]
    return str(g.node("Squeeze", input.name, g.ints(gone))) if gone else input.name


@translation("expand")
def expand(g: Writer, input: Value, *size: Any, implicit: bool = False) -> str:
    """Broadcast to a shape, in which -1 keeps a dim."""
    sizes = _flat([s for s in size if not isinstance(s, bool)])
    sizes = [1 if not isinstance(s, Size) and s == -1 else s for s in sizes]
    return str(g.node("Expand", input.name, g.ints(sizes)))


@translation("select")
def select(g: Writer, input: Value, dim: int, index: Any) -> str:
    """One slice of a dim."""
    return str(g.node("Gather", input.name, g.size(index), axis=dim % input.ndim))


@translation("slice_dim")
def slice_dim(g: Writer, input: Value, dim: int, start: Any, stop: Any, step: Any) -> str:
    """A range of a dim."""
    return _sliced(g, input.name, [(dim % input.ndim, start, stop, step)])


def _sliced(g: Writer, name: str, ranges: list[tuple[int, Any, Any, Any]]) -> str:
    starts = [0 if s is None else s for _, s, _, _ in ranges]
    ends = [np.iinfo(np.int64).max if e is None else e for _, _, e, _ in ranges]
    steps = [1 if s is None else s for _, _, _, s in ranges]
    return str(g.node("Slice", name, g.ints(starts), g.ints(ends),
                      g.ints([d for d, _, _, _ in ranges]), g.ints(steps)))


@translation("index_view")
def index_view(g: Writer, input: Value, key: Any) -> str:
    """x[key] for a key of integers, ranges, None and Ellipsis."""
    given = sum(k is not None and k is not Ellipsis for k in key)
    ranges, picked, fresh, d, out = [], [], [], 0, 0
    for k in key:
        if k is Ellipsis:
            d, out = d + input.ndim - given, out + input.ndim - given
        elif k is None:
            fresh.append(out)
            out += 1
        elif isinstance(k, (tuple, slice)) and not isinstance(k, Size):
            start, stop, step = (k.start, k.stop, k.step) if isinstance(k, slice) else k
            if (start, stop, step) != (None, None, None):
                ranges.append((d, start, stop, step))
            d, out = d + 1, out + 1
        else:
            picked.append((d, k))
            d += 1
    name = _sliced(g, input.name, ranges) if ranges else input.name
    for d, k in reversed(picked):
        name = g.node("Gather", name, g.size(k), axis=d)
    return str(g.node("Unsqueeze", name, g.ints(fresh))) if fresh else name


@translation("diagonal")
def diagonal(g: Writer, input: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> str:
    """The diagonal of two dims, as the last dim."""
    dim1, dim2 = dim1 % input.ndim, dim2 % input.ndim
    shape = g.fixed(input)
    rows, columns = shape[dim1], shape[dim2]
    row, column = max(-offset, 0), max(offset, 0)
    n = max(min(rows - row, columns - column), 0)
    rest = [d for d in range(input.ndim) if d not in (dim1, dim2)]
    x = g.node("Transpose", input.name, perm=[*rest, dim1, dim2])
    x = g.node("Reshape", x, g.ints([*[input.shape[d] for d in rest], rows * columns]))
    at = (np.arange(n) + row) * columns + np.arange(n) + column
    return str(g.node("Gather", x, g.constant(at), axis=len(rest)))


@translation("unfold_dim")
def unfold_dim(g: Writer, input: Value, dimension: int, size: int, step: int) -> str:
    """Windows of a dim: their number in its place, their elements as the last dim."""
    if not input.ndim:
        raise UnsupportedError(f"{g.where()}of a tensor without dims")
    d = dimension % input.ndim
    count = (g.fixed(input, [d])[d] - size) // step + 1
    at = np.arange(count)[:, None] * step + np.arange(size)
    x = g.node("Gather", input.name, g.constant(at), axis=d)
    order = [k for k in range(input.ndim + 1) if k != d + 1]
    return str(g.node("Transpose", x, perm=[*order, d + 1]))


@translation("as_strided_view", "region")
def as_strided(g: Writer, input: Value, size: Any, stride: Any, offset: Any = 0) -> str:
    """Elements of a contiguous tensor by strides."""
    shape = g.fixed(input)
    at = np.full(tuple(size), int(offset), np.int64)
    for d, (n, s) in enumerate(zip(size, stride)):
        at += (np.arange(n) * s).reshape([-1 if k == d else 1 for k in range(len(size))])
    flat = g.node("Reshape", input.name, g.ints([math.prod(shape)]))
    return str(g.node("Gather", flat, g.constant(at), axis=0))


@translation("alias", "detach_copy")
def alias(g: Writer, input: Value) -> str:
    """The value itself."""
    return input.name
