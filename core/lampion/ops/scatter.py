"""Writing by index tensors: index_put, scatter, index_add and their relatives.

Floor 3. The strict ops `index_put_at` and `scatter_at` combine values into a copy of the input
(`lower`) or into the input itself (`update`, the in-place form), index points in order, so that
results do not depend on threads. The public forms follow PyTorch's signatures.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..base.limits import check_fits
from ..base.meta import Meta, broadcast_shapes, contiguous_strides, dense_strides_like, wrap_dim
from ..runtime.lowering import Nest
from . import batch_rules, checks
from .facts import examples
from .gather import (
    check_gather,
    index_geometry,
    index_get,
    index_layout,
    index_offset,
    index_strides,
    line_shape,
    line_strides,
    own_strides,
)
from .region import copy_call, place
from .registry import REGISTRY, composite, kernel_op

_REDUCE = {"add": "sum", "multiply": "prod", "sum": "sum", "prod": "prod", "amax": "max",
           "amin": "min"}


def number_slot(kind, d):
    """Dtype of the slot that passes a Python number of type `kind` to be stored as `d`."""
    return dt.int64 if kind is not float and d.kind in "bui" else dt.float64


def operand(n, value, d, strides=None):
    """A function giving the value at the loop point: of a tensor, or a number's slot."""
    if isinstance(value, Meta):
        return n.input(value, strides)
    s = n.scalar(number_slot(value, d))
    return lambda: s


def value_dtype(op, input, values):
    """RuntimeError unless tensor values have the input's dtype."""
    if isinstance(values, Meta) and values.dtype is not input.dtype:
        raise RuntimeError(f"{op}: expected the source and destination dtypes to match, got "
                           f"{input.dtype!r} for the destination and {values.dtype!r} for the "
                           "source.")


def same_layout(m):
    """(dtype, shape, strides) of a copy that keeps the dim order."""
    return (m.dtype, m.shape, dense_strides_like(m.shape, m.strides))


def put_ranges(call):
    x, out = call.args["input"], []
    full = index_geometry(x.shape, call.dims, [i.shape for i in call.args["indices"]])[0]
    if 0 in full:
        return out
    for j, d in enumerate(call.dims):
        out.append((1 + j, d, x.shape[d], -x.shape[d] if call.negative else 0))
    return out


@kernel_op("input: T, indices: T[], dims, combine, negative, values: TS")
class index_put_at:
    """`input` with `values` (broadcast) combined in at advanced indices; `combine` is
    "set" or "sum"."""

    linear = ("input values",)
    where = ()
    out = False
    save = ("indices",)
    inplace = True
    explain = checks.explain_by(put_ranges)
    batch = batch_rules.index_put

    def meta(input, indices, dims, combine, negative, values):
        value_dtype("Index put", input, values)
        full, _, common = index_geometry(input.shape, dims, [i.shape for i in indices])
        for i, d in zip(indices, dims):
            if math.prod(common):
                checks.refuse_empty(input.shape[d], i, d)
        if isinstance(values, Meta):
            try:
                fits = broadcast_shapes(values.shape, full) == full
            except RuntimeError:
                fits = False
            if not fits:
                raise RuntimeError(f"shape mismatch: value tensor of shape {list(values.shape)} "
                                   "cannot be broadcast to indexing result of shape "
                                   f"{list(full)}")
        return [same_layout(input)]

    def update(call):
        return checks.checked(call, [put_call(call, True)], put_ranges(call))

    def lower(call):
        copy = copy_call(call.inputs[0], call.outputs[0])
        return checks.checked(call, [copy, put_call(call)], put_ranges(call))

    def vjp(ctx, g):
        values = ctx.plan.call.args["values"]
        if ctx.combine == "sum":
            gi = g
        else:
            gi = index_put_at.fn(g, ctx.indices, ctx.dims, "set", True, 0)
        gv = None
        if isinstance(values, Meta) and ctx.needs("values"):
            from .shapes import sum_to_shape

            gv = sum_to_shape(index_get.fn(g, ctx.indices, ctx.dims), values.shape)
        return (gi if ctx.needs("input") else None, None, gv)


def put_call(call, careful=False):
    """The kernel call that combines the values into the output slot. `careful` leaves out what an
    index out of range would write: in place, the target must stay as it was."""
    out, metas, dims = call.outputs[0], call.args["indices"], call.dims
    full, at, common = index_geometry(out.shape, dims, [i.shape for i in metas])
    k = len(common)
    n = Nest(f"index_put_{call.combine}", full, range(at, at + k), compute=out.dtype)
    o = n.output(out, index_layout(out, dims, at, k, full), kind="inout")
    idx = [n.input(i, index_strides(i, at, k, full)) for i in metas]
    v = operand(n, call.args["values"], out.dtype)
    n.start()
    where = index_offset(n, o.offset, idx, [out.shape[d] for d in dims],
                         [out.strides[d] for d in dims])
    mask = None
    if careful:
        for i, d in zip(idx, dims):
            size = out.shape[d]
            ok = checks.inside(n, i(), -size if call.negative else 0, size)
            mask = ok if mask is None else mask & ok
    n.scatter(o, where, call.combine, v(), mask=mask)
    return n.call((0, *range(2, 2 + len(metas) + 1)))


# ---- scatter along one dim  --------------------------------------------------------------------

def scatter_ranges(call):
    x = call.args["input"]
    d = wrap_dim(call.dim, x.ndim)
    return [(1, d, x.shape[d] if x.ndim else 1, 0)]


@kernel_op("input: T, dim, index: T, combine, src: TS")
class scatter_at:
    """`input` with src[i][j] combined in at [index[i][j]][j] (dim 0), and so on for other dims."""

    where = ()
    out = False
    inplace = True
    save = ("input", "index", "src", "out")
    explain = checks.explain_by(scatter_ranges)
    batch = "dim"

    def meta(input, dim, index, combine, src):
        value_dtype("scatter()", input, src)
        d = check_gather("scatter", input, dim, index)
        if isinstance(src, Meta) and index.numel:
            if max(src.ndim, 1) != max(index.ndim, 1):
                raise RuntimeError("Index tensor must have the same number of dimensions as src "
                                   "tensor")
            if any(i > s for i, s in zip(index.shape, src.shape)):
                raise RuntimeError(
                    f"Expected index {list(index.shape)} to be no larger than self "
                    f"{list(input.shape)} apart from dimension {d} and to be no larger size than "
                    f"src {list(src.shape)}")
        return [same_layout(input)]

    def update(call):
        return checks.checked(call, [scatter_call(call, True)], scatter_ranges(call))

    def lower(call):
        copy = copy_call(call.inputs[0], call.outputs[0])
        return checks.checked(call, [copy, scatter_call(call)], scatter_ranges(call))

    def vjp(ctx, g):
        return scatter_vjp(ctx, g)

    def jvp(ctx, moved, _, src_moved):
        """Of several values for one place, the tangent is that of the value which stays."""
        if ctx.combine not in ("set", "sum"):
            return NotImplemented
        if moved is None:
            moved = ctx.input.new_zeros(ctx.input.meta.shape)
        return scatter_at.fn(moved, ctx.dim, ctx.index, ctx.combine,
                             0 if src_moved is None else src_moved)


def scatter_call(call, careful=False):
    """The kernel call that combines src into the output slot, line by line; `careful` as in
    `put_call`."""
    out, i, src = call.outputs[0], call.args["index"], call.args["src"]
    d, shape = wrap_dim(call.dim, out.ndim), line_shape(i)
    n = Nest(f"scatter_{call.combine}", shape, [d], compute=out.dtype)
    o = n.output(out, line_strides(out, shape, d), kind="inout")
    idx = n.input(i, own_strides(i))
    v = operand(n, src, out.dtype, own_strides(src) if isinstance(src, Meta) else None)
    n.start()
    size, step = (out.shape[d], out.strides[d]) if out.ndim else (1, 1)
    where = o.offset + checks.clamped(idx(), n.of(size)) * n.params.stride(step)
    mask = checks.inside(n, idx(), 0, size) if careful else None
    n.scatter(o, where, call.combine, v(), mask=mask)
    return n.call((0, 2, 3))


def scatter_vjp(ctx, g):
    """Gradients of scatter_at with respect to input and src."""
    dim, index, op = ctx.dim, ctx.index, ctx.combine
    whole = ctx.plan.call.args["src"]
    src = None
    if isinstance(whole, Meta):  # src may be larger than index: only a corner is used
        src = corner(ctx.src, index.meta.shape)
    if op == "sum":
        gi, gs = g, (g.gather(dim, index) if src is not None else None)
    elif op == "set":
        gi = scatter_at.fn(g, dim, index, "set", 0)
        gs = g.gather(dim, index) if src is not None else None
    elif op in ("max", "min"):
        out = ctx.out
        won = (ctx.input == out).to(g.meta.dtype)
        src_won = (src == out.gather(dim, index)).to(g.meta.dtype)
        share = g / scatter_at.fn(won, dim, index, "sum", src_won)
        gi, gs = won * share, src_won * share.gather(dim, index)
    else:
        gi, gs = prod_vjp(ctx, g, dim, index, src)
    if gs is not None and whole.shape != gs.meta.shape:
        gs = place.fn(gs, whole.shape, contiguous_strides(whole.shape), 0)
    return gi, None, gs


def corner(t, shape):
    """The first shape[d] entries of every dim."""
    for d, n in enumerate(shape):
        if t.meta.shape[d] != n:
            t = t.narrow(d, 0, n)
    return t


def prod_vjp(ctx, g, dim, index, src):
    """The product rule with zeros: a single zero factor still gets the product of the others."""
    x, out = ctx.input, ctx.out
    one = x.masked_fill(x == 0, 1)
    gi = g * scatter_at.fn(one, dim, index, "prod", src) / one
    zero = src == 0
    count = scatter_at.fn(g.new_zeros(x.meta.shape), dim, index, "sum",
                          zero.to(g.meta.dtype)).gather(dim, index)
    single = zero & (count == 1)
    others = scatter_at.fn(x, dim, index, "prod", src.masked_fill(single, 1))
    plain = (g * out).gather(dim, index) / src.masked_fill(zero, 1)
    gs = (g * others).gather(dim, index) * single.to(g.meta.dtype) + plain.masked_fill(zero, 0)
    return gi, gs


# ---- public forms  -----------------------------------------------------------------------------

def _scatter_op(reduce):
    if reduce is None:
        return "set"
    if reduce not in ("add", "multiply"):
        raise RuntimeError("reduce argument must be either add or multiply.")
    return _REDUCE[reduce]


def _check_number(input, value):
    if type(value) in (int, float):
        check_fits(value, input.meta.dtype)


def _source(input, src, value):
    src = value if src is None else src
    if src is None:
        raise TypeError("scatter() missing required argument: 'src' or 'value'")
    _check_number(input, src)
    return src


@composite(method=True, samples="""
    f(3, 4), 1, v([[0, 3], [2, 1], [1, 0]]), f(3, 4)
    f(3, 4).transposed, -2, v([[0, 2, 1, 1], [2, 0, 0, 2]]), value=1.5
    f(3), 0, v([1, 1, 2]), f(3), reduce="add"
    f(3).fixed, 0, v([1, 1, 2]), f(3).fixed, reduce="multiply"
    f(3), 0, i(0), f(0)
    f(), 0, v(0), f()
    i(4), 0, v([3, 0]), i(2)
""")
def scatter(input, dim, index, src=None, *, value=None, reduce=None):
    """`input` with src[i][j] (or one number) written at [index[i][j]][j] for dim 0; `reduce` may
    be "add" or "multiply". IndexError for an index outside [0, size).

    >>> zeros(3).scatter(0, tensor([2, 0]), tensor([5., 7.])).tolist()
    [7.0, 0.0, 5.0]
    """
    return scatter_at.fn(input, dim, index, _scatter_op(reduce), _source(input, src, value))


@composite(method=True, out=False, name="scatter_", where=(), samples="""
    f(3, 4), 1, v([[0, 3], [2, 1], [1, 0]]), f(3, 4)
    f(3), 0, v([1, 1, 2]), f(3), reduce="add"
    f(4), 0, v([1, 2]), value=3
""")
def scatter_inplace(input, dim, index, src=None, *, value=None, reduce=None):
    """In-place `scatter`."""
    return scatter_at.ifn(input, dim, index, _scatter_op(reduce), _source(input, src, value))


@composite(method=True, samples="""
    f(3, 4), 1, i(3, 6, low=0, high=3), f(3, 6)
    f(3, 4).transposed, -2, i(5, 3, low=0, high=2), f(5, 4).transposed
    f(), 0, v(0), f()
    i(4), 0, i(9, low=0, high=3), i(9)
""")
def scatter_add(input, dim, index, src):
    """`input` with src[i][j] added at [index[i][j]][j] for dim 0."""
    return scatter_at.fn(input, dim, index, "sum", src)


@composite(method=True, out=False, name="scatter_add_", where=(), samples="""
    f(3, 4), 1, i(3, 6, low=0, high=3), f(3, 6)
    i(4).offset, 0, i(9, low=0, high=3), i(9)
""")
def scatter_add_inplace(input, dim, index, src):
    """In-place `scatter_add`."""
    return scatter_at.ifn(input, dim, index, "sum", src)


def lowest(d):
    """The number that loses every max."""
    if d.kind == "f":
        return -math.inf
    return False if d.kind == "b" else (0 if d.kind == "u" else -(1 << (8 * d.itemsize - 1)))


def highest(d):
    """The number that loses every min."""
    if d.kind == "f":
        return math.inf
    bits = 8 * d.itemsize
    return True if d.kind == "b" else ((1 << bits) - 1 if d.kind == "u" else (1 << (bits - 1)) - 1)


def identity(op, d):
    """The neutral element of a reduction in a dtype."""
    return {"sum": 0, "mean": 0, "prod": 1, "max": lowest(d), "min": highest(d)}[op]


@composite(replay=True, method=True, inplace=True, samples="""
    f(3, 4), 1, i(3, 6, low=0, high=3), f(3, 6), "sum"
    f(3, 4).transposed, 0, i(5, 4, low=0, high=2), f(5, 4), "mean"
    f(4), 0, i(6, low=0, high=2), f(6), "amax", include_self=False
    f(4), 0, i(6, low=0, high=2), f(6), "amin"
    f(4), 0, i(6, low=0, high=2), f(6), "prod"
    f(4), 0, i(6, low=0, high=2), f(6), "mean", include_self=False
    f(4), 0, i(6, low=0, high=2), f(6), "prod", include_self=False
    i(4), 0, i(6, low=0, high=2), i(6), "amax"
    i(4), 0, i(6, low=0, high=2), i(6), "mean"
""")
def scatter_reduce(input, dim, index, src, reduce, *, include_self=True):
    """Values of src reduced ("sum", "prod", "mean", "amax", "amin") into the places of `input`
    that `index` names; without `include_self`, the old value there does not count."""
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise RuntimeError("reduce argument must be either sum, prod, mean, amax or amin, got "
                           f"{reduce}")
    op = "sum" if reduce == "mean" else _REDUCE[reduce]
    base = input if include_self else scatter_at.fn(input, dim, index, "set",
                                                    identity(op, input.meta.dtype))
    out = scatter_at.fn(base, dim, index, op, src)
    if reduce != "mean":
        return out
    start = (input.new_ones if include_self else input.new_zeros)(input.meta.shape)
    count = scatter_at.fn(start, dim, index, "sum", src.new_ones(src.meta.shape))
    return mean_of(out, count)


def mean_of(total, count):
    """total / count, rounded down for integers; a count of 0 leaves the total."""
    count = count.masked_fill(count == 0, 1)
    return total / count if total.meta.dtype.kind in "fc" else total // count


def _line(op, input, dim, index, source):
    """(dim, input, source) of index_add and the like, 0-d input seen as one element."""
    d = wrap_dim(dim, input.meta.ndim)
    if index.meta.ndim > 1:
        raise IndexError(f"{op}(): Index should have dimension 1 or 0 (got {index.meta.ndim})")
    checks.index_dtype(index.meta, op)
    if source is not None:
        m, x = source.meta, input.meta
        count = m.shape[d] if m.ndim else 1
        if index.meta.numel != count:
            raise RuntimeError(f"{op}_(): Number of indices ({index.meta.numel}) should be equal "
                               f"to source.size(dim): ({count}), for dim: {d}")
        if m.ndim != x.ndim or any(a != b for k, (a, b) in enumerate(zip(m.shape, x.shape))
                                   if k != d):
            raise RuntimeError(
                "source tensor shape must match self tensor shape, excluding the specified "
                f"dimension. Got self.shape = {list(x.shape)} source.shape = {list(m.shape)}")
    return d


def _put_line(form, op, input, d, index, values, negative=False):
    """Combine along one dim; `form` is "fn" or "ifn"."""
    index = index.reshape((-1,)) if not index.meta.ndim else index
    if input.meta.ndim:
        return getattr(index_put_at, form)(input, (index,), (d,), op, negative, values)
    values = values.reshape((1,)) if hasattr(values, "meta") else values
    if form == "fn":
        return index_put_at.fn(input.reshape((1,)), (index,), (0,), op, negative,
                               values).reshape(())
    index_put_at.ifn(input.view(1), (index,), (0,), op, negative, values)
    return input


def _scaled(source, alpha):
    return source if alpha == 1 else source * alpha


@composite(method=True, samples="""
    f(3, 4), 0, i(5, low=0, high=2), f(5, 4)
    f(3, 4).transposed, -1, i(2, low=0, high=3), f(3, 2), alpha=2
    f(), 0, i(1, low=0, high=0), f()
    i(3), 0, i(4, low=0, high=2), i(4)
""")
def index_add(input, dim, index, source, *, alpha=1):
    """`input` with alpha * source[k] added to entry index[k] of `dim`."""
    d = _line("index_add", input, dim, index, source)
    return _put_line("fn", "sum", input, d, index, _scaled(source, alpha))


@composite(method=True, out=False, name="index_add_", where=(), samples="""
    f(3, 4), 0, i(5, low=0, high=2), f(5, 4)
    i(3).offset, 0, i(4, low=0, high=2), i(4), alpha=3
""")
def index_add_inplace(input, dim, index, source, *, alpha=1):
    """In-place `index_add`."""
    d = _line("index_add", input, dim, index, source)
    return _put_line("ifn", "sum", input, d, index, _scaled(source, alpha))


@composite(method=True, samples="""
    f(3, 4), 0, v([2, 0]), f(2, 4)
    f(3, 4).transposed, -1, v([1, 3, 0]), f(3, 3)
    i(3), 0, v([1]), i(1)
""")
def index_copy(input, dim, index, source):
    """`input` with source[k] written over entry index[k] of `dim`."""
    d = _line("index_copy", input, dim, index, source)
    return _put_line("fn", "set", input, d, index, source)


@composite(method=True, out=False, name="index_copy_", where=(),
           samples="f(3, 4), 0, v([2, 0]), f(2, 4)")
def index_copy_inplace(input, dim, index, source):
    """In-place `index_copy`."""
    d = _line("index_copy", input, dim, index, source)
    return _put_line("ifn", "set", input, d, index, source)


def _fill_value(input, value):
    if hasattr(value, "meta"):
        if value.meta.ndim:
            raise RuntimeError("index_fill_ only supports a 0-dimensional value tensor, but got "
                               f"tensor with {value.meta.ndim} dimension(s).")
        return value.to(input.meta.dtype)
    _check_number(input, value)
    return value


@composite(method=True, samples="""
    f(3, 4), 0, v([2, 0]), 1.5
    f(3, 4).transposed, -1, v([1, -4]), f()
    i(3), 0, i(0), 2
""")
def index_fill(input, dim, index, value):
    """`input` with one number at the entries of `dim` named by `index`."""
    d = _line("index_fill", input, dim, index, None)
    value = _fill_value(input, value)
    if getattr(value, "node", None) is not None:  # an entry named twice is one use of the value
        lines = [1] * input.meta.ndim
        if lines:
            lines[d] = -1
        named = index.new_zeros((input.meta.shape[d] if lines else 1,), dtype=dt.bool_)
        named = _put_line("fn", "set", named, 0, index, True, True)
        return REGISTRY["where"].fn(named.reshape(lines), value, input)
    return _put_line("fn", "set", input, d, index, value, True)


@composite(method=True, out=False, name="index_fill_", where=(), samples="""
    f(3, 4), 0, v([2, 0]), 1.5
    i(3, 2).transposed, 1, v([1]), 7
""")
def index_fill_inplace(input, dim, index, value):
    """In-place `index_fill`."""
    d = _line("index_fill", input, dim, index, None)
    return _put_line("ifn", "set", input, d, index, _fill_value(input, value), True)


@composite(replay=True, method=True, inplace=True, samples="""
    f(3, 4), 0, i(5, low=0, high=2), f(5, 4), "amax"
    f(3, 4).transposed, 1, i(5, low=0, high=3), f(3, 5), "mean"
    f(3), 0, i(5, low=0, high=1), f(5), "prod"
    f(3), 0, i(5, low=0, high=1), f(5), "amin", include_self=False
    f(3), 0, i(5, low=0, high=1), f(5), "mean", include_self=False
""")
def index_reduce(input, dim, index, source, reduce, *, include_self=True):
    """Entries of source reduced ("prod", "mean", "amax", "amin") into entry index[k] of `dim`."""
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise RuntimeError(f"index_reduce(): Expected reduce to be one of prod, mean, amax or "
                           f"amin but got {reduce}.")
    d = _line("index_reduce", input, dim, index, source)
    shape = [1] * input.meta.ndim
    if shape:
        shape[d] = index.meta.numel
    lines = index.reshape(shape).expand(*source.meta.shape)
    return scatter_reduce.fn(input, d, lines, source, reduce, include_self=include_self)


@composite(replay=True, method=True, samples="""
    f(3, 4), v([[11, 0], [5, -2]]), f(2, 2)
    f(3, 4).transposed, v([1, 1, 2]), f(3), True
    i(3), v([2]), i(1)
""")
def put(input, index, source, accumulate=False):
    """`input` with source written (or added) at positions of the flattened tensor."""
    return put_flat(input, index, source, accumulate).reshape(input.meta.shape)


@composite(method=True, out=False, name="put_", where=(), samples="""
    f(3, 4), v([[11, 0], [5, -2]]), f(2, 2)
    f(3, 4).transposed, v([1, 1, 2]), f(3), True
""")
def put_inplace(input, index, source, accumulate=False):
    """In-place `put`."""
    return input.copy_(put.fn(input, index, source, accumulate))


def put_flat(input, index, source, accumulate):
    """put on the flattened tensor."""
    if source.meta.dtype is not input.meta.dtype:
        raise RuntimeError("put_(): self and source expected to have the same dtype, but got "
                           f"self.dtype = {input.meta.dtype!r} and source.dtype = "
                           f"{source.meta.dtype!r}")
    if index.meta.numel != source.meta.numel:
        raise RuntimeError("put_(): Expected source and index to have the same number of "
                           f"elements, but got source.numel() = {source.meta.numel}, "
                           f"index.numel() = {index.meta.numel}")
    flat = input.reshape((-1,))
    return index_put_at.fn(flat, (index.reshape((-1,)),), (0,), "sum" if accumulate else "set",
                           True, source.reshape((-1,)))


@composite(method=True, inplace=True, out=False, samples="""
    f(3, 4), b(3, 4), f(12)
    f(3, 4).transposed, b(4), f(4, 3).transposed
    i(5), b(5), i(5)
    f(3), v([False, False, False]), f(3)
""")
def masked_scatter(input, mask, source):
    """`input` with the True places of `mask` taking the elements of source in order."""
    if mask.meta.dtype is not dt.bool_:
        raise RuntimeError(f"masked_scatter_ only supports boolean masks, but got mask with dtype "
                           f"{mask.meta.dtype!r}")
    if source.meta.dtype is not input.meta.dtype:
        raise RuntimeError("masked_scatter: expected self and source to have same dtypes but got "
                           f"{input.meta.dtype!r} and {source.meta.dtype!r}")
    shape = broadcast_shapes(input.meta.shape, mask.meta.shape)
    if mask.meta.virtual:  # within vmap the number of True places may differ between examples
        return _masked_scatter_by_counting(input.expand(*shape), mask.expand(*shape), source)
    where = mask.expand(*shape).reshape((-1,)).nonzero().reshape((-1,))
    n = where.meta.numel
    if source.meta.numel < n:
        raise RuntimeError("masked_scatter: expected the number of elements in source "
                           f"({source.meta.numel}) to be at least the number of ones in mask "
                           f"({n})")
    flat = input.expand(*shape).reshape((-1,))
    return index_put_at.fn(flat, (where,), (0,), "set", False,
                           source.reshape((-1,)).narrow(0, 0, n)).reshape(shape)


def _masked_scatter_by_counting(input, mask, source):
    """`masked_scatter` with results of known shape only: a True place takes the element of source
    whose number is that of the True places before it."""
    counts = mask.reshape((-1,)).cumsum(0)
    n, most = counts.meta.numel, source.meta.numel
    if n and int(examples(counts).max().item()) > most:
        raise RuntimeError("masked_scatter: expected the number of elements in source "
                           f"({most}) to be at least the number of ones in mask")
    if not n or not most:
        return input.clone()
    taken = source.reshape((-1,))[(counts - 1).clamp(min=0, max=most - 1)]
    return REGISTRY["where"].fn(mask, taken.reshape(input.meta.shape), input)
