"""Kernels behind the factory functions: ranges, the identity matrix, indices of triangles.

Floor 3. Starts and steps are run-time numbers, so one compiled kernel serves them all. The public
functions, with PyTorch's signatures, are in `creation.py`.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..ir import expr as E
from ..runtime.lowering import Nest, convert
from .registry import kernel_op


def wide(call):
    """The type in which a range is computed: float64 where the device has it."""
    d = call.outputs[0].dtype
    if d is dt.float64:
        return d
    b = call.device.backend
    return dt.float64 if dt.float64 in b.capabilities(call.device.index or 0).dtypes else dt.float32


def along(call, value, slots, compute):
    """A kernel that stores value(i, *slots) along the one dim of the result."""
    out = call.outputs[0]
    n = Nest(call.op, out.shape, compute=compute, merge=False)
    o = n.output(out, out.strides)
    s = [n.scalar(d) for d in slots]
    n.start()
    n.store(o, convert(n.typed(value(n.coord(0), *s)), out.dtype))
    return n.program()


@kernel_op("n, start: I, step: I, *, dtype, device")
class arange_int:
    """start + i * step in integers, i < n."""

    where = ()
    out = False
    differentiable = False

    def meta(n, start, step, dtype, device):
        return [(dtype, (n,))]

    def lower(call):
        return along(call, lambda i, a, b: a + i * b, [dt.int64, dt.int64], dt.int64)


@kernel_op("n, start: S, step: S, *, dtype, device")
class arange_float:
    """start + i * step, i < n."""

    where = ()
    out = False
    differentiable = False

    def meta(n, start, step, dtype, device):
        return [(dtype, (n,))]

    def lower(call):
        w = wide(call)
        return along(call, lambda i, a, b: E.cast(a, w) + E.cast(i, w) * E.cast(b, w),
                     [dt.float64, dt.float64], w)


@kernel_op("n, start: S, end: S, step: S, *, dtype, device")
class linspace_steps:
    """n numbers from start to end, counted from the nearer end."""

    where = ()
    out = False
    differentiable = False

    def meta(n, start, end, step, dtype, device):
        return [(dtype, (n,))]

    def lower(call):
        w = wide(call)
        last = call.n - 1

        def value(i, a, b, s):
            up = E.cast(a, w) + E.cast(i, w) * E.cast(s, w)
            down = E.cast(b, w) - E.cast(last - i, w) * E.cast(s, w)
            return E.select(i < call.n // 2, up, down)

        return along(call, value, [dt.float64] * 3, w)


@kernel_op("n, m, *, dtype, device")
class identity_matrix:
    """Ones on the diagonal of an n x m matrix, zeros elsewhere."""

    where = ()
    out = False
    differentiable = False

    def meta(n, m, dtype, device):
        return [(dtype, (n, m))]

    def lower(call):
        out = call.outputs[0]
        n = Nest("eye", out.shape, compute=out.dtype, merge=False)
        o = n.output(out, out.strides)
        n.start()
        d = dt.opmath(out.dtype) if out.dtype.kind != "c" else out.dtype.to_real()
        one = E.cast(E.eq(n.coord(0), n.coord(1)), d)
        n.store(o, one)
        return n.program()


def triangle_start(n, i, columns, offset, upper):
    """How many elements of a matrix's triangle lie above row `i` (an expression of Nest `n`).

    Row k of the lower triangle has k + offset + 1 elements, between 0 and `columns`; the upper
    one has what the lower one of offset - 1 leaves.
    """
    if upper:
        return i * n.of(columns) - triangle_start(n, i, columns, offset - 1, False)
    first = max(0, -offset)  # the first row that is not empty, and the first that is full
    whole = max(columns - offset - 1, first)
    some = E.maximum(E.minimum(i, n.of(whole)), n.of(first))
    growing = (some - n.of(first)) * (some + n.of(first + 2 * offset + 1))
    return E.op("idiv", growing, 2) + E.maximum(i - n.of(whole), 0) * n.of(columns)


def triangle_numel(rows, columns, offset, upper):
    """How many elements a triangle has."""
    if upper:
        return rows * columns - triangle_numel(rows, columns, offset - 1, False)
    first, last = max(0, -offset), max(columns - offset - 1, 0)
    growing = range(first, min(last, rows))
    full = max(0, rows - max(last, first))
    return (len(growing) * (growing[0] + growing[-1] + 2 * offset + 2) // 2 if growing else 0
            ) + full * columns


@kernel_op("rows, columns, offset, upper, *, dtype, device")
class triangle_indices:
    """(2, count): row and column of each element of a triangle, row by row."""

    where = ()
    out = False
    differentiable = False

    def meta(rows, columns, offset, upper, dtype, device):
        return [(dtype, (2, triangle_numel(rows, columns, offset, upper)))]

    def lower(call):
        out, offset, columns = call.outputs[0], call.offset, call.columns
        n = Nest("triangle_indices", (call.rows, columns), compute=dt.int64, merge=False)
        o = n.output(out)
        n.start()
        i, j = n.coord(0), n.coord(1)
        start = triangle_start(n, i, columns, offset, call.upper)
        if call.upper:
            at = start + (j - E.maximum(i + n.of(offset), 0))
            inside = j >= i + n.of(offset)
        else:
            at, inside = start + j, j <= i + n.of(offset)
        n.store_at(o, at, i, mask=inside)
        n.store_at(o, at + n.of(out.shape[1]), j, mask=inside)
        return n.program()
