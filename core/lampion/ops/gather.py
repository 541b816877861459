"""Reading by index tensors: advanced indexing, gather, index_select, take, embedding.

Floor 3. Every op checks its indices (see `checks`), clamps what it reads, and has a gradient that
adds into zeros in a fixed order: the same result every time, on every device.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..base.meta import broadcast_shapes, expand_strides, wrap_dim
from ..runtime.lowering import Nest
from . import batch_rules, checks
from .region import fill_call
from .registry import composite, kernel_op


def adjacent(dims):
    """Whether indexed dims follow each other, so that the result's index dims stay in place."""
    return tuple(dims) == tuple(range(dims[0], dims[0] + len(dims)))


def index_geometry(shape, dims, index_shapes):
    """(result shape, position of the index dims in it, broadcast index shape)."""
    try:
        common = broadcast_shapes(*index_shapes)
    except RuntimeError:
        raise IndexError("shape mismatch: indexing tensors could not be broadcast together with "
                         f"shapes {', '.join(str(list(s)) for s in index_shapes)}") from None
    rest = tuple(n for d, n in enumerate(shape) if d not in dims)
    at = dims[0] if adjacent(dims) else 0
    return rest[:at] + common + rest[at:], at, common


def index_layout(m, dims, at, nindex, full):
    """Strides of the indexed tensor over the result's dims: 0 on the index dims."""
    rest = [m.strides[d] for d in range(m.ndim) if d not in dims]
    return tuple(rest[:at]) + (0,) * nindex + tuple(rest[at:])


def index_strides(i, at, nindex, full):
    """Strides of an index tensor over the result's dims."""
    own = expand_strides(i.shape, i.strides, full[at:at + nindex])
    return (0,) * at + own + (0,) * (len(full) - at - nindex)


def index_ranges(call):
    """Every index tensor with the dim it indexes."""
    x, k = call.args["input"], 1
    if not call.outputs[0].numel:
        return []
    return [(k + j, d, x.shape[d], -x.shape[d]) for j, d in enumerate(call.dims)]


def index_offset(n, base, indices, sizes, strides):
    """Element offset of the loop point: the affine part plus every wrapped index."""
    total = base
    for i, size, stride in zip(indices, sizes, strides):
        step = n.params.stride(stride)
        total = total + checks.wrapped(i(), n.of(size)) * step
    return total


@kernel_op("input: T, indices: T[], dims")
class index_get:
    """Advanced indexing: dim dims[k] is read at indices[k] (int64 or int32, broadcast together).

    The index dims stay in place if `dims` are adjacent, else they come first.
    """

    linear = ("input",)
    where = ()
    out = False
    save = ("indices",)
    explain = checks.explain_by(index_ranges)
    batch = batch_rules.index_get

    def meta(input, indices, dims):
        shape, _, common = index_geometry(input.shape, dims, [i.shape for i in indices])
        for i, d in zip(indices, dims):
            if math.prod(common):
                checks.refuse_empty(input.shape[d], i, d)
        return [(input.dtype, shape)]

    def lower(call):
        x, out = call.inputs[0], call.outputs[0]
        metas, dims = call.args["indices"], call.dims
        _, at, common = index_geometry(x.shape, dims, [i.shape for i in metas])
        k = len(common)
        n = Nest("index", out.shape, compute=dt.opmath(out.dtype))
        o = n.output(out, out.strides)
        a = n.input(x, index_layout(x, dims, at, k, out.shape))
        idx = [n.input(i, index_strides(i, at, k, out.shape)) for i in metas]
        n.start()
        where = index_offset(n, a.offset, idx, [x.shape[d] for d in dims],
                             [x.strides[d] for d in dims])
        n.store(o, a.at(where))
        return checks.checked(call, [n.call()], index_ranges(call))

    def vjp(ctx, g):
        return (index_sum.fn(g, ctx.indices, ctx.meta("input").shape, ctx.dims), None)


@kernel_op("values: T, indices: T[], shape, dims")
class index_sum:
    """Zeros of `shape` with `values` added at the positions that `index_get` would read."""

    linear = ("values",)
    where = ()
    out = False
    save = ("indices",)
    batch = batch_rules.index_sum

    def meta(values, indices, shape, dims):
        return [(values.dtype, shape)]

    def lower(call):
        from ..ir.kernel import Program

        out = call.outputs[0]
        write = scatter_at(call, out, call.inputs[0], call.args["indices"], call.dims, "sum",
                           slots=range(len(call.inputs) + 1), kind="inout")
        return Program((fill_call(out, 0), write))

    def vjp(ctx, g):
        return (index_get.fn(g, ctx.indices, ctx.dims), None)


def scatter_at(call, out, values, metas, dims, op, *, slots, kind):
    """The call that combines `values` into `out` at advanced indices, index points in order."""
    full, at, common = index_geometry(out.shape, dims, [i.shape for i in metas])
    k = len(common)
    n = Nest(f"index_{op}", full, range(at, at + k), compute=dt.opmath(out.dtype))
    o = n.output(out, index_layout(out, dims, at, k, full), kind=kind)
    v = n.input(values)
    idx = [n.input(i, index_strides(i, at, k, full)) for i in metas]
    n.start()
    where = index_offset(n, o.offset, idx, [out.shape[d] for d in dims],
                         [out.strides[d] for d in dims])
    n.scatter(o, where, op, v())
    return n.call(tuple(slots))


# ---- along one dim  ----------------------------------------------------------------------------

def gather_ranges(call):
    """The index of gather, which may not be negative."""
    x = call.args["input"]
    d = wrap_dim(call.dim, x.ndim)
    return [(1, d, x.shape[d] if x.ndim else 1, 0)]


def check_gather(op, x, dim, index, *others):
    """The dim, after checking what gather and scatter ask of shapes and dtypes."""
    d = wrap_dim(dim, x.ndim)
    if not index.numel:
        return d
    if index.dtype not in (dt.int64, dt.int32):
        raise RuntimeError(f"{op}(): Expected dtype int32/int64 for index")
    if max(index.ndim, 1) != max(x.ndim, 1):
        raise RuntimeError(f"Index tensor must have the same number of dimensions as input tensor "
                           f"({op}: index {list(index.shape)}, input {list(x.shape)})")
    for k in range(index.ndim if x.ndim else 0):
        if k != d and index.shape[k] > x.shape[k]:
            raise RuntimeError(
                f"Size does not match at dimension {k} expected index {list(index.shape)} to be "
                f"no larger than self {list(x.shape)} apart from dimension {d}")
    checks.refuse_empty(x.shape[d] if x.ndim else 1, index, d)
    return d


def line_strides(m, shape, d):
    """Strides over an index shape of a tensor that is addressed by the index along `d`."""
    strides = m.strides if m.ndim == len(shape) else (0,) * len(shape)  # 0-d, or no elements
    return tuple(0 if k == d else strides[k] for k in range(len(shape)))


def line_shape(m):
    """An index shape with at least one dim."""
    return m.shape if m.ndim else (1,)


def own_strides(m):
    """Strides over `line_shape`."""
    return m.strides if m.ndim else (0,)


@kernel_op("input: T, dim, index: T, *, sparse_grad=False")
class gather:
    """out[i][j][k] = input[i][index[i][j][k]][k] for dim 1, and so on.

    Shapes: index has as many dims as input and is nowhere larger apart from `dim`; the result has
    its shape. IndexError for an index outside [0, size).

    >>> gather(tensor([[1, 2], [3, 4]]), 1, tensor([[0, 0], [1, 0]])).tolist()
    [[1, 1], [4, 3]]
    """

    linear = ("input",)
    samples = """
        f(3, 4), 1, i(3, 2, low=0, high=3)
        f(3, 4).transposed, -2, i(5, 4, low=0, high=2).transposed
        f(2, 3, 4).strided, 0, i(1, 2, 3, low=0, high=1)
        f(), 0, i(low=0, high=0)
        f(3), 0, i(0, low=0, high=0)
        i(3, 4), 0, i(2, 2, low=0, high=2)
    """
    method = True
    save = ("index",)
    explain = checks.explain_by(gather_ranges)
    batch = "dim"

    def meta(input, dim, index, sparse_grad):
        check_gather("gather", input, dim, index)
        return [(input.dtype, index.shape)]

    def lower(call):
        x, i = call.inputs
        out = call.outputs[0]
        d, shape = wrap_dim(call.dim, x.ndim), line_shape(i)
        n = Nest("gather", shape, compute=dt.opmath(out.dtype))
        o = n.output(out, own_strides(out))
        a = n.input(x, line_strides(x, shape, d))
        idx = n.input(i, own_strides(i))
        n.start()
        size, step = (x.shape[d], x.strides[d]) if x.ndim else (1, 1)
        n.store(o, a.at(a.offset + checks.clamped(idx(), n.of(size)) * n.params.stride(step)))
        return checks.checked(call, [n.call()], gather_ranges(call))

    def vjp(ctx, g):
        m = ctx.meta("input")
        return (g.new_zeros(m.shape).scatter_add(ctx.dim, ctx.index, g), None)


def select_ranges(call):
    """The index of index_select."""
    x = call.args["input"]
    d = wrap_dim(call.dim, x.ndim)
    return [(1, d, x.shape[d] if x.ndim else 1, 0)]


@kernel_op("input: T, dim, index: T")
class index_select:
    """The entries of `dim` named by a vector of indices.

    IndexError for an index outside [0, size).
    """

    linear = ("input",)
    samples = """
        f(3, 4), 0, i(5, low=0, high=2)
        f(3, 4).transposed, -1, i(2, low=0, high=3)
        f(2, 3, 4).strided, 1, i(2, low=0, high=2, dtype=int32)
        f(), 0, i(1, low=0, high=0)
        f(3), 0, i(low=0, high=2)
        f(0, 3), 1, i(2, low=0, high=2)
        b(3, 2), 0, i(4, low=0, high=2)
    """
    method = True
    save = ("index",)
    explain = checks.explain_by(select_ranges, "index out of range in self: index_select() got "
                                "index {index} for dimension {dim} with size {size}")
    batch = batch_rules.index_select

    def meta(input, dim, index):
        d = wrap_dim(dim, input.ndim)
        if index.ndim > 1:
            raise IndexError("index_select(): Index is supposed to be a vector")
        checks.index_dtype(index, "index_select")
        if not input.ndim:
            if index.numel != 1:
                raise RuntimeError("index_select(): Index to scalar can have only 1 value, got "
                                   f"{index.numel} value(s)")
            return [(input.dtype, ())]
        shape = input.shape[:d] + (index.numel,) + input.shape[d + 1:]
        if math.prod(shape):
            checks.refuse_empty(input.shape[d], index, d)
        return [(input.dtype, shape)]

    def lower(call):
        x, i = call.inputs
        out = call.outputs[0]
        d = wrap_dim(call.dim, x.ndim)
        step = i.strides[0] if i.ndim else 0
        n = Nest("index_select", out.shape, compute=dt.opmath(out.dtype))
        o = n.output(out, out.strides)
        a = n.input(x, tuple(0 if k == d else s for k, s in enumerate(x.strides)))
        idx = n.input(i, tuple(step if k == d else 0 for k in range(out.ndim)))
        n.start()
        size, stride = (x.shape[d], x.strides[d]) if x.ndim else (1, 1)
        n.store(o, a.at(a.offset + checks.clamped(idx(), n.of(size)) * n.params.stride(stride)))
        return checks.checked(call, [n.call()], select_ranges(call))

    def vjp(ctx, g):
        m = ctx.meta("input")
        index = ctx.index.reshape((-1,))
        if not m.ndim:
            return (g, None)
        return (index_sum.fn(g, (index,), m.shape, (wrap_dim(ctx.dim, m.ndim),)), None)


@composite(replay=True, method=True, samples="""
    f(3, 4), i(2, 3, low=-12, high=11)
    f(3, 4).transposed, i(5, low=0, high=11)
    f(3), i(0)
    f(), i(low=0, high=0)
""")
def take(input, index):
    """The elements of the flattened input at `index` (int64, negative counts from the end)."""
    if index.meta.dtype is not dt.int64:
        raise RuntimeError("take(): Expected a long tensor for index, but got "
                           f"{index.meta.dtype!r}")
    n = input.meta.numel
    if not n and index.meta.numel:
        raise IndexError("take(): tried to take from an empty tensor")
    flat = input.reshape((-1,))
    if not index.meta.numel:
        return input.new_empty(index.meta.shape) if input.node is None else \
            flat.reshape((-1,))[:0].reshape(index.meta.shape)
    return take_flat.fn(flat, index)


def take_ranges(call):
    n = call.args["input"].numel
    return [(1, 0, n, -n)]


@kernel_op("input: T, index: T")
class take_flat:
    """Elements of a vector at indices of any shape."""

    linear = ("input",)
    where = ()
    out = False
    save = ("index",)
    explain = checks.explain_by(take_ranges, "out of range: tried to access index {index} on a "
                                "tensor of {size} elements.")
    batch = batch_rules.take

    def meta(input, index):
        return [(input.dtype, index.shape)]

    def lower(call):
        x, i = call.inputs
        out = call.outputs[0]
        n = Nest("take", out.shape, compute=dt.opmath(out.dtype))
        o = n.output(out, out.strides)
        a = n.buffer(x)
        idx = n.input(i)
        n.start()
        n.store(o, a.at(checks.wrapped(idx(), n.of(x.numel)) * n.params.stride(x.strides[0])))
        return checks.checked(call, [n.call()], take_ranges(call))

    def vjp(ctx, g):
        return (index_sum.fn(g, (ctx.index,), ctx.meta("input").shape, (0,)), None)


@composite(replay=True, method=True, samples="""
    f(3, 4), i(3, 2, low=-4, high=3), 1
    f(3, 4).transposed, i(1, 4, low=0, high=2), 0
    f(3, 4), i(5, low=0, high=11)
""")
def take_along_dim(input, indices, dim=None):
    """`gather` with broadcasting and negative indices; without dim, on the flattened tensors."""
    if indices.meta.dtype is not dt.int64:
        raise RuntimeError("torch.take_along_dim(): dtype of indices should be Long but got "
                           f"{indices.meta.dtype!r}")
    if dim is None:
        return gather.fn(input.reshape((-1,)), 0, indices.reshape((-1,)))
    if input.meta.ndim != indices.meta.ndim:
        raise RuntimeError(
            "torch.take_along_dim(): input and indices should have the same number of dimensions, "
            f"but got {input.meta.ndim} dimensions for input, and {indices.meta.ndim} dimensions "
            "for indices")
    d = wrap_dim(dim, input.meta.ndim)
    shape = list(broadcast_shapes(
        input.meta.shape[:d] + (1,) + input.meta.shape[d + 1:],
        indices.meta.shape[:d] + (1,) + indices.meta.shape[d + 1:]))
    shape[d] = indices.meta.shape[d]
    indices = indices.expand(*shape)
    shape[d] = input.meta.shape[d]
    n = input.meta.shape[d]
    return gather.fn(input.expand(*shape), d, (indices + n) % n if n else indices)


def embedding_ranges(call):
    n = call.args["weight"].shape[0]
    return [(1, 0, n, 0)]


@kernel_op("weight: T, indices: T, padding_idx=-1, scale_grad_by_freq=False, sparse=False")
class embedding:
    """Rows of `weight` (N, ...) at indices of any shape; gradient of row `padding_idx` is zero.

    IndexError for an index outside [0, N).
    """

    linear = ("weight",)
    samples = """
        f(5, 3), i(2, 4, low=0, high=4)
        f(5, 3).transposed, i(6, low=0, high=4)
        f(5, 3).fixed, i(6, low=0, high=4), 2
        f(4, 2), i(low=0, high=3)
        f(4, 2), i(0, low=0, high=3)
        f(4, 2), i(3, low=0, high=3, dtype=int32)
    """
    out = False
    save = ("indices",)
    explain = checks.explain_by(embedding_ranges, "index out of range in self: embedding() got "
                                "index {index} for a table of {size} rows")
    batch = batch_rules.embedding

    def meta(weight, indices, padding_idx, scale_grad_by_freq, sparse):
        if weight.ndim != 2:
            raise RuntimeError("'weight' must be 2-D")
        if indices.dtype not in (dt.int64, dt.int32):
            raise RuntimeError(
                "Expected tensor for argument #1 'indices' to have one of the following scalar "
                f"types: Long, Int; but got {indices.dtype!r} instead (while checking arguments "
                "for embedding)")
        if sparse:
            raise RuntimeError("embedding: sparse gradients are not supported; use sparse=False")
        checks.refuse_empty(weight.shape[0], indices, 0)
        return [(weight.dtype, indices.shape + weight.shape[1:])]

    def lower(call):
        w, i = call.inputs
        out = call.outputs[0]
        n = Nest("embedding", out.shape, compute=dt.opmath(out.dtype))
        o = n.output(out, out.strides)
        a = n.input(w, (0,) * i.ndim + w.strides[1:])
        idx = n.input(i, i.strides + (0,))
        n.start()
        n.store(o, a.at(a.offset + checks.clamped(idx(), n.of(w.shape[0]))
                        * n.params.stride(w.strides[0])))
        return checks.checked(call, [n.call()], embedding_ranges(call))

    def vjp(ctx, g):
        m = ctx.meta("weight")
        return (embedding_backward.fn(g, ctx.indices, m.shape[0], ctx.padding_idx,
                                      ctx.scale_grad_by_freq), None)


@kernel_op("grad: T, indices: T, rows, padding_idx, scale_grad_by_freq")
class embedding_backward:
    """Gradient of `embedding`: rows added where they came from, in the order of the indices."""

    linear = ("grad",)
    where = ()
    out = False
    save = ("indices",)
    batch = batch_rules.embedding_backward

    def meta(grad, indices, rows, padding_idx, scale_grad_by_freq):
        return [(grad.dtype, (rows, grad.shape[-1]))]

    def lower(call):
        from ..ir import expr as E
        from ..ir.kernel import Program

        if call.scale_grad_by_freq:
            return None
        g, i = call.inputs
        out = call.outputs[0]
        full = g.shape
        n = Nest("embedding_backward", full, range(i.ndim), compute=dt.opmath(out.dtype))
        o = n.output(out, (0,) * i.ndim + (out.strides[1],), kind="inout")
        v, idx = n.input(g), n.input(i, i.strides + (0,))
        n.start()
        row = E.cast(idx(), dt.int64)
        where = o.offset + checks.clamped(row, n.of(out.shape[0])) * n.params.stride(
            out.strides[0])
        mask = None if call.padding_idx < 0 else E.ne(row, n.of(call.padding_idx))
        n.scatter(o, where, "sum", v(), mask=mask)
        return Program((fill_call(out, 0), n.call()))

    def compose(grad, indices, rows, padding_idx, scale_grad_by_freq):
        if scale_grad_by_freq:
            flat = indices.reshape((-1,))
            counts = index_sum.fn(grad.new_ones(flat.meta.shape), (flat,), (rows,), (0,))
            counts = index_get.fn(counts, (indices,), (0,))
            grad = grad / counts.unsqueeze(-1)
        return embedding_backward.fn(grad, indices, rows, padding_idx, False)

    def vjp(ctx, g):
        if ctx.scale_grad_by_freq:
            raise RuntimeError("embedding: second-order gradients are not defined with "
                               "scale_grad_by_freq")
        out = embedding.fn(g, ctx.indices)
        if ctx.padding_idx >= 0:
            keep = (ctx.indices != ctx.padding_idx).unsqueeze(-1)
            out = out * keep.to(out.meta.dtype)
        return (out, None)
