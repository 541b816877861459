"""Ops whose result size depends on values: nonzero, argwhere, masked_select.

Floor 3. A first kernel counts per chunk, the host adds the counts (the one wait that the result's
shape needs), a second kernel writes each chunk's part at its place.
"""

from __future__ import annotations

import sys

import numpy as np

from ..base import dtype as dt
from ..ir import expr as E
from ..runtime.backend import host_read
from ..runtime.lowering import Nest
from .registry import REGISTRY, composite, kernel_op

CHUNK = 4096
MOST_CHUNKS = 1024  # as many groups of threads keep the largest GPUs busy


def chunks_of(n):
    """(chunks, length) that cut n elements."""
    count = min(MOST_CHUNKS, max(1, -(-n // CHUNK)))
    return count, -(-n // count)


def _truth(v):
    return E.ne(v, E.cast(E.const(0), v.dtype))


@kernel_op("input: T")
class count_chunks:
    """How many elements of each chunk of a contiguous tensor are not 0 (int64)."""

    where = ()
    out = False
    differentiable = False

    def meta(input):
        return [(dt.int64, (chunks_of(input.numel)[0],))]

    def lower(call):
        x, out = call.inputs[0], call.outputs[0]
        count, length = chunks_of(x.numel)
        n = Nest("count_chunks", (count, length), [1], compute=dt.int64, merge=False)
        o, a = n.output(out, (1, 0)), n.input(x, (length, 1))
        n.start()
        inside = E.op("lt", a.offset, n.of(x.numel))
        hit = _truth(a(mask=inside, other=0)) & inside
        total = n.reduce("sum", E.select(hit, E.const(1, dt.int64), E.const(0, dt.int64)))
        n.store(o, total, inner=False)
        return n.program()


@kernel_op("input: T, counts: T, total, shape, rows")
class fill_nonzero:
    """Coordinates of the elements that are not 0, in order: (ndim, total) if `rows`, else
    (total, ndim)."""

    where = ()
    out = False
    differentiable = False

    def meta(input, counts, total, shape, rows):
        return [(dt.int64, (len(shape), total) if rows else (total, len(shape)))]

    def lower(call):
        x, counts = call.inputs
        out, shape = call.outputs[0], call.shape
        count, length = chunks_of(x.numel)
        n = Nest("fill_nonzero", (count, length), [1], compute=dt.int64, merge=False)
        o, a, c = n.output(out), n.input(x, (length, 1)), n.buffer(counts)
        n.start()
        before = starts(n, c, count)
        inside = E.op("lt", a.offset, n.of(x.numel))
        hit = n.typed(_truth(a(mask=inside, other=0)) & inside)
        one = n.typed(E.select(hit, E.const(1, dt.int64), E.const(0, dt.int64)))
        at = coordinates(n, a.offset, shape)
        running_store(n, o, before, hit, one, at, *((call.total, 1) if call.rows
                                                    else (1, len(shape))))
        return n.program()


def starts(n, counts, count):
    """Sum of the counts of the chunks before this one."""
    from ..ir.kernel import Reduce, Stage

    j = E.index(len(n.grid))
    size = n.of(count)
    value = E.select(E.op("lt", j, n.coord(0)), counts.at(j), E.const(0, dt.int64))
    name = n._ref()
    n.stages.append(Stage((size,), (Reduce(name, "sum", n.typed(value)),)))
    return E.ref(name, dt.int64)


def coordinates(n, position, shape):
    """The coordinates of a row-major position."""
    out, rest = [], position
    for size in reversed(shape[1:]):
        s = n.of(size)
        out.append(E.fmod(rest, s))
        rest = E.idiv(rest, s)
    return [*reversed([*out, rest])] if shape else []


def running_store(n, o, before, hit, one, values, across=0, step=1):
    """Store values[k] at k * across + the running count of hits * step."""
    from ..ir.kernel import Scan, Store

    name = n._ref()
    r = E.ref(name, dt.int64)
    body = [Scan(name, "sum", one)]
    for k, v in enumerate(values):
        where = (before + r - 1) * n.params.stride(step)
        if k:
            where = where + n.of(k * across)
        body.append(Store(o.slot, n._index(where), n._into(o, v), hit))
    n.stage(*body)


def count_nonzero_host(counts):
    """The counts, added on the host."""
    host_read()
    m = counts.meta
    raw = m.device.backend.copy_to_host(counts.data_, m.nbytes)
    if m.numel == 1:
        return int.from_bytes(raw, sys.byteorder)
    return int(np.frombuffer(raw, np.int64).sum())


@composite(method=False, out=False, where=())
def nonzero_rows(input):
    """Coordinates of the elements that are not 0, as int64 of shape (ndim, count)."""
    return coordinates_of(input, True)


def coordinates_of(x, rows):
    """Coordinates of the elements that are not 0, a row per dim or per element."""
    if x.node is not None:
        x = x.detach()
    m = x.meta
    if not m.numel:
        return x.new_empty((m.ndim, 0) if rows else (0, m.ndim), dtype=dt.int64)
    if not m.contiguous:
        x = x.contiguous()
    counts = count_chunks.fn(x)
    return fill_nonzero.fn(x, counts, count_nonzero_host(counts), m.shape, rows)


def _nonzero_out(input, as_tuple):
    if as_tuple:
        raise TypeError("nonzero(): out= cannot be given with as_tuple=True, whose results are "
                        "several; leave one of them out")
    return "same"


@composite(out_cast=_nonzero_out, method=True, differentiable=False, samples="""
    v([[0.0, 1, 0], [2, 0, nan]])
    b(3, 4).transposed
    i(2, 3, 2, low=0, high=1), as_tuple=True
    f(0, 3)
    v(2.0)
    v(0.0)
    v(3.0), as_tuple=True
""")
def nonzero(input, *, as_tuple=False):
    """Coordinates of the elements that are not 0: shape (count, ndim), row-major order; with
    `as_tuple`, one vector per dim."""
    if as_tuple:
        x = input.unsqueeze(0) if not input.meta.ndim else input
        return tuple(nonzero_rows.fn(x).unbind(0))
    if not input.meta.ndim:
        return input.new_empty((int(bool(input.item())), 0), dtype=dt.int64)
    return coordinates_of(input, False)


@composite(method=True, out=False, differentiable=False, samples="""
    v([[0.0, 1, 0], [2, 0, nan]])
    b(3, 4).transposed
    v(2.0)
""")
def argwhere(input):
    """Coordinates of the elements that are not 0, shape (count, ndim)."""
    return nonzero.fn(input)


@kernel_op("input: T, mask: T, counts: T, total")
class pick_true:
    """The elements of input where a contiguous mask of its shape is True, in order."""

    linear = ("input",)
    where = ()
    out = False
    save = ("mask", "counts")

    def meta(input, mask, counts, total):
        return [(input.dtype, (total,))]

    def lower(call):
        x, mask, counts = call.inputs
        out = call.outputs[0]
        n, o, c, hit, one, position = chunk_walk("pick_true", mask, counts, out)
        a = n.extra
        before = starts(n, c, chunks_of(mask.numel)[0])
        where = E.const(0, dt.int64)
        for at, stride in zip(coordinates(n, position, x.shape), x.strides):
            where = where + at * n.params.stride(stride)
        running_store(n, o, before, hit, one, [a.at(where, mask=hit)])
        return n.program()

    def vjp(ctx, g):
        return (place_true.fn(g, ctx.mask, ctx.counts), None, None)


@kernel_op("values: T, mask: T, counts: T")
class place_true:
    """Zeros of the mask's shape with values, in order, where the mask is True."""

    linear = ("values",)
    where = ()
    out = False
    save = ("mask", "counts")

    def meta(values, mask, counts):
        return [(values.dtype, mask.shape)]

    def lower(call):
        from ..ir.kernel import Scan, Store

        v, mask, counts = call.inputs
        out = call.outputs[0]
        n, o, c, hit, one, position = chunk_walk("place_true", mask, counts, out)
        before = starts(n, c, chunks_of(mask.numel)[0])
        name = n._ref()
        step = n.params.stride(v.strides[0] if v.ndim else 0)
        where = (before + E.ref(name, dt.int64) - 1) * step
        inside = n.typed(E.op("lt", position, n.of(mask.numel)))
        n.stage(Scan(name, "sum", one),
                Store(o.slot, n._index(position), n._into(o, n.extra.at(where, mask=hit)), inside))
        return n.program()

    def vjp(ctx, g):
        m = ctx.meta("values")
        return (pick_true.fn(g, ctx.mask, ctx.counts, m.numel), None, None)


def chunk_walk(name, mask, counts, out):
    """A nest over chunks of a mask: (nest, output, counts, hit, 1 or 0, position); `nest.extra`
    is the first input, addressed by hand."""
    count, length = chunks_of(mask.numel)
    n = Nest(name, (count, length), [1], compute=dt.opmath(out.dtype), merge=False)
    o = n.output(out)
    n.extra = n.buffer(out)
    a, c = n.input(mask, (length, 1)), n.buffer(counts)
    n.start()
    inside = E.op("lt", a.offset, n.of(mask.numel))
    hit = n.typed(a(mask=inside, other=False) & inside)
    one = n.typed(E.select(hit, E.const(1, dt.int64), E.const(0, dt.int64)))
    return n, o, c, hit, one, a.offset


@composite(method=False, out=False, where=())
def masked_pick(input, mask):
    """input[mask] for a mask of the input's shape."""
    mask = mask.contiguous()
    if not mask.meta.numel:
        return input.reshape((-1,))
    counts = count_chunks.fn(mask)
    return pick_true.fn(input, mask, counts, count_nonzero_host(counts))


@composite(method=True, samples="""
    f(3, 4), b(3, 4)
    f(3, 4).transposed, b(4)
    f(2, 1), b(3)
    i(0), b(0)
    f(), v(True)
    f(3, 4, dtype=float16), b(3, 4)
    f(6, dtype=float16).strided, b(6)
""")
def masked_select(input, mask):
    """The elements of input where mask (broadcast) is True, as a vector."""
    if mask.meta.dtype is not dt.bool_:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    from ..base.meta import broadcast_shapes

    shape = broadcast_shapes(input.meta.shape, mask.meta.shape)
    if mask.meta.shape != shape:
        mask = mask.expand(*shape)
    return masked_pick.fn(input if input.meta.shape == shape else input.expand(*shape), mask)


@composite(method=True, differentiable=False, samples="""
    v([[0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 0, 0]]), size=3
    f(2, 3).transposed, size=8, fill_value=7
    f(2, 3), size=2
    f(2, 3), size=0
    f(), size=2
""")
def nonzero_static(input, *, size, fill_value=-1):
    """The first `size` rows of `nonzero`, followed by rows of `fill_value` if there are fewer."""
    if size < 0:
        raise RuntimeError("nonzero_static: 'size' must be an non-negative integer")
    rows = nonzero.fn(input)
    have, ndim = rows.meta.shape
    if have >= size:
        return rows.narrow(0, 0, size).contiguous()
    rest = rows.new_full((size - have, ndim), fill_value)
    return REGISTRY["cat"].fn([rows, rest], 0)


@composite(out=False, differentiable=False, samples="""
    i(2, 3, low=0, high=23), (2, 3, 4)
    i(dtype=int32, low=0, high=5), 6
""")
def unravel_index(indices, shape):
    """Positions in the flattened tensor as coordinates in one of `shape`: a tuple of int64
    tensors, one for each dim. TypeError unless the indices are integers, ValueError for a negative
    size.

    >>> [t.item() for t in unravel_index(tensor(4), (3, 2))]
    [2, 0]
    """
    if indices.meta.dtype.kind not in "ui":
        raise TypeError(f"expected 'indices' to be integer dtype, but got {indices.meta.dtype!r}")
    if not isinstance(shape, (int, list, tuple)):
        raise TypeError(f"expected 'shape' to be int or sequence of ints, but got {type(shape)}")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(n < 0 for n in shape):
        raise ValueError(f"'shape' cannot have negative values, but got {shape}")
    rest, out = indices.to(dt.int64), []
    for n in reversed(shape):
        out.append(rest % n)
        rest = rest // n
    return tuple(reversed(out))
