"""Ops whose result size depends on values: nonzero, argwhere, masked_select.

Floor 3. A first kernel counts per chunk, the host adds the counts (the one wait that the result's
shape needs), a second kernel writes each chunk's part at its place.
"""

from __future__ import annotations

import numpy as np

from ..base import dtype as dt
from ..ir import expr as E
from ..runtime.lowering import Nest
from .gather import index_get
from .registry import composite, kernel_op

CHUNK = 4096
MOST_CHUNKS = 256


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


@kernel_op("input: T, counts: T, total, shape")
class fill_nonzero:
    """Coordinates of the elements that are not 0, one row a dim of `shape`, columns in order."""

    where = ()
    out = False
    differentiable = False

    def meta(input, counts, total, shape):
        return [(dt.int64, (len(shape), total))]

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
        running_store(n, o, before, hit, one, coordinates(n, a.offset, shape), call.total)
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


def running_store(n, o, before, hit, one, values, total):
    """Store values[k] in row k at the running count of hits."""
    from ..ir.kernel import Scan, Store

    name = n._ref()
    r = E.ref(name, dt.int64)
    body = [Scan(name, "sum", one)]
    for k, v in enumerate(values):
        where = before + r - 1
        if k:
            where = where + n.of(k * total)
        body.append(Store(o.slot, n._index(where), n.typed(v), hit))
    n.stage(*body)


def count_nonzero_host(counts):
    """The counts, added on the host."""
    m = counts.meta
    raw = bytes(m.device.backend.copy_to_host(counts.data_, m.nbytes))
    return int(np.frombuffer(raw, np.int64).sum())


@composite(method=False, out=False, where=())
def nonzero_rows(input):
    """Coordinates of the elements that are not 0, as int64 of shape (ndim, count)."""
    x = input.detach().contiguous()
    if not x.meta.numel:
        return x.new_empty((x.meta.ndim, 0), dtype=dt.int64)
    counts = count_chunks.fn(x)
    return fill_nonzero.fn(x, counts, count_nonzero_host(counts), x.meta.shape)


@composite(method=True)
def nonzero(input, *, as_tuple=False):
    """Coordinates of the elements that are not 0: shape (count, ndim), row-major order; with
    `as_tuple`, one vector per dim."""
    if as_tuple:
        x = input.unsqueeze(0) if not input.meta.ndim else input
        return tuple(nonzero_rows.fn(x).unbind(0))
    if not input.meta.ndim:
        return input.new_empty((int(bool(input.item())), 0), dtype=dt.int64)
    return nonzero_rows.fn(input).t().contiguous()


@composite(method=True, out=False)
def argwhere(input):
    """Coordinates of the elements that are not 0, shape (count, ndim)."""
    return nonzero.fn(input)


@composite(method=True)
def masked_select(input, mask):
    """The elements of input where mask (broadcast) is True, as a vector."""
    if mask.meta.dtype is not dt.bool_:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    from ..base.meta import broadcast_shapes

    shape = broadcast_shapes(input.meta.shape, mask.meta.shape) or (1,)
    rows = nonzero_rows.fn(mask.expand(*shape))
    return index_get.fn(input.expand(*shape), tuple(rows.unbind(0)), tuple(range(len(shape))))
