"""Elements in other places: flips, rolls, triangles, diagonals, repeats and grids.

Floor 3.
"""

from __future__ import annotations

import itertools

from ..base import dtype as dt
from ..base.meta import broadcast_shapes, dense_strides_like, meta, wrap_dim, wrap_dims
from ..ir import expr as E
from ..ir.kernel import Program
from ..runtime import tracing
from ..runtime.lowering import Nest, convert
from . import batch_rules
from . import views as V
from .join import cat
from .movement import sizes
from .region import copy_call, place, region, touch
from .registry import REGISTRY, composite, kernel_op

# ---- flips and rolls  --------------------------------------------------------------------------

@kernel_op("input: T, dims")
class reverse_dims:
    """A copy with some dims in reverse order; `dims` is a tuple of dims in range."""

    linear = ("input",)
    where = ()
    out = False
    batch = "dims"

    def meta(input, dims):
        return [(input.dtype, input.shape, dense_strides_like(input.shape, input.strides))]

    def lower(call):
        x, out = call.inputs[0], call.outputs[0]
        n = Nest("flip", x.shape, compute=out.dtype)
        o = n.output(out, out.strides)
        back = tuple(-s if d in call.dims else s for d, s in enumerate(x.strides))
        a = n.input(x, back)
        n.start()
        start = sum((x.shape[d] - 1) * x.strides[d] for d in call.dims)
        n.store(o, a.at(n.of(start) + a.offset))
        return n.program()

    def vjp(ctx, g):
        return (reverse_dims.fn(g, ctx.dims),)


@composite(replay=True, method=True, out=False, samples="""
    f(2, 3), 0
    f(3, 4).transposed, (0, -1)
    f(2, 3, 4).strided, -2
    f(2, 3).expanded, 1, 0
    f(3), ()
    i(0, 3), 0
    f(), ()
""")
def flip(input, *dims):
    """A copy with the given dims in reverse order.

    >>> flip(tensor([1, 2, 3]), 0).tolist()
    [3, 2, 1]
    """
    dims = sizes(dims, "flip")
    if not dims:
        return input.clone()
    return reverse_dims.fn(input, wrap_dims(dims, input.meta.ndim, op="flip"))


@composite(method=True, out=False, samples="""
    f(2, 3)
    i(2, 3).transposed
""")
def fliplr(input):
    """Columns in reverse order (dim 1)."""
    if input.meta.ndim < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip.fn(input, 1)


@composite(method=True, out=False, samples="""
    f(2, 3)
    f(4).offset
""")
def flipud(input):
    """Rows in reverse order (dim 0)."""
    if input.meta.ndim < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return flip.fn(input, 0)


@composite(replay=True, method=True, out=False, samples="""
    f(2, 3), 1
    f(3, 4).transposed, (1, -2), (0, -1)
    f(5), 7, 0
    f(2, 3), (1, 1), (0, 0)
    f(0, 3), 1, 0
    f(2, 3).strided, 0
""")
def roll(input, shifts, dims=None):
    """Elements moved by `shifts` along `dims`, those that leave come in at the other end; without
    dims, on the flattened tensor."""
    shifts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    dims = () if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
    if not dims:
        if len(shifts) != 1:
            raise RuntimeError("shifts and dimensions must align. shifts: "
                               f"{len(shifts)}, dims:0")
        flat = input.reshape((-1,))
        n = flat.meta.numel
        tracing.decided("mod", shifts[0], n or 1)
        return roll_dims.fn(flat, (shifts[0] % n if n else 0,), (0,)).reshape(input.meta.shape)
    if len(shifts) != len(dims):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(shifts)}, "
                           f"dims:{len(dims)}")
    if not input.meta.ndim:
        raise IndexError(f"Dimension specified as {dims[0]} but tensor has no dimensions")
    total = {}
    for s, d in zip(shifts, dims):
        d = wrap_dim(d, input.meta.ndim)
        n = input.meta.shape[d]
        tracing.decided("mod", total.get(d, 0) + s, n or 1)
        total[d] = (total.get(d, 0) + s) % n if n else 0
    if not input.meta.ndim:
        return input.clone()
    return roll_dims.fn(input, tuple(total.values()), tuple(total))


@kernel_op("input: T, shifts, dims")
class roll_dims:
    """A copy in which every dim of `dims` is shifted round by its own number of places."""

    linear = ("input",)
    where = ()
    out = False
    batch = "dims"

    def meta(input, shifts, dims):
        return [(input.dtype, input.shape)]

    def lower(call):
        x, out = call.inputs[0], call.outputs[0]
        if not x.numel:
            return Program((touch(x, out),))
        pieces = []  # per rolled dim: (start in the input, start in the result, length)
        for s, d in zip(call.shifts, call.dims):
            n = x.shape[d]
            pieces.append([p for p in ((0, s, n - s), (n - s, 0, s)) if p[2]])
        calls = []
        for choice in itertools.product(*pieces):
            shape, start, offset = list(x.shape), 0, 0
            for (a, b, length), d in zip(choice, call.dims):
                shape[d] = length
                start += a * x.strides[d]
                offset += b * out.strides[d]
            calls.append(copy_call(x, out, shape=tuple(shape), strides=out.strides,
                                   offset=offset, start=start))
        return Program(tuple(calls))

    def vjp(ctx, g):
        sizes = ctx.meta("input").shape
        back = tuple((sizes[d] - s) % sizes[d] if sizes[d] else 0
                     for s, d in zip(ctx.shifts, ctx.dims))
        return (roll_dims.fn(g, back, ctx.dims),)


@composite(replay=True, method=True, out=False, samples="""
    f(2, 3)
    f(2, 3).transposed, 2
    f(2, 3, 4), -1, (0, 2)
    f(2, 3), 4, (1, 0)
""")
def rot90(input, k=1, dims=(0, 1)):
    """Rotated by 90 degrees k times, from the first dim of `dims` towards the second."""
    dims = tuple(dims)
    if len(dims) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    if input.meta.ndim < 2:
        raise RuntimeError(f"expected total dims >= 2, but got total dims = {input.meta.ndim}")
    a, b = (wrap_dim(d, input.meta.ndim) for d in dims)
    if a == b:
        raise RuntimeError(f"expected rotation dims to be different, but got dim0 = {dims[0]} and "
                           f"dim1 = {dims[1]}")
    k %= 4
    if k == 0:
        return input.clone()
    if k == 2:
        return flip.fn(input, (a, b))
    return flip.fn(input, b if k == 1 else a).transpose(a, b)


# ---- triangles and diagonals  ------------------------------------------------------------------

def _triangle_meta(name):
    def rule(input, diagonal):
        if input.ndim < 2:
            raise RuntimeError(f"{name}: input tensor must have at least 2 dimensions")
        return [(input.dtype, input.shape, dense_strides_like(input.shape, input.strides))]

    return rule


def _triangle_lower(keep):
    def rule(call):
        x, out = call.inputs[0], call.outputs[0]
        n = Nest(call.op, x.shape, compute=out.dtype, merge=False)
        o, a = n.output(out, out.strides), n.input(x)
        n.start()
        inside = keep(n.coord(x.ndim - 1) - n.coord(x.ndim - 2), n.of(call.diagonal))
        v = a()
        n.store(o, E.select(inside, v, convert(E.const(0), v.dtype)))
        return n.program()

    return rule


TRIANGLES = """
    f(3, 4)
    f(3, 4).transposed, 1
    f(2, 3, 3).strided, -1
    f(0, 3)
    i(3, 3)
    b(3, 3)
"""


@kernel_op("input: T, diagonal=0")
class tril:
    """The lower triangle of matrices, zeros elsewhere; `diagonal` moves the border right."""

    linear = ("input",)
    samples = TRIANGLES
    method = True
    inplace = True
    batch = ""
    meta = _triangle_meta("tril")
    lower = _triangle_lower(lambda d, k: E.op("le", d, k))

    def vjp(ctx, g):
        return (g.tril(ctx.diagonal),)


@kernel_op("input: T, diagonal=0")
class triu:
    """The upper triangle of matrices, zeros elsewhere; `diagonal` moves the border right."""

    linear = ("input",)
    samples = TRIANGLES
    method = True
    inplace = True
    batch = ""
    meta = _triangle_meta("triu")
    lower = _triangle_lower(lambda d, k: E.op("ge", d, k))

    def vjp(ctx, g):
        return (g.triu(ctx.diagonal),)


@composite(replay=True, method=True, samples="""
    f(3)
    f(2, 3).transposed, 1
    f(2, 3), -1, 0, -2
    i(0)
""")
def diag_embed(input, offset=0, dim1=-2, dim2=-1):
    """The last dim as a diagonal of dims `dim1`, `dim2` of the result, zeros elsewhere."""
    m = input.meta
    a, b = wrap_dim(dim1, m.ndim + 1), wrap_dim(dim2, m.ndim + 1)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    n = m.shape[-1] + abs(offset)
    rest = iter(m.shape[:-1])
    shape = tuple(n if d in (a, b) else next(rest) for d in range(m.ndim + 1))
    full = meta(m.dtype, shape, None, m.device)
    _, strides, start = V.diagonal.view(full, offset, a, b)
    return place.fn(input, shape, tuple(strides), start)


@composite(replay=True, method=True, samples="""
    f(3)
    f(3, 4).transposed, 1
    f(3), -2
""")
def diag(input, diagonal=0):
    """A square matrix with a vector on its diagonal, or the diagonal of a matrix (a view)."""
    if input.meta.ndim == 1:
        return diag_embed.fn(input, diagonal)
    if input.meta.ndim == 2:
        return V.diagonal.fn(input, diagonal)
    raise RuntimeError("diag(): Supports 1D or 2D tensors. Got "
                       f"{input.meta.ndim}D")


@composite(method=True, out=False, samples="""
    f(3)
    f(2, 2).transposed, -1
    f()
""")
def diagflat(input, offset=0):
    """A square matrix with the flattened input on its diagonal."""
    return diag_embed.fn(input.reshape((-1,)), offset)


def _into_view(input, src, rule, *args):
    """`input` with `src` in the part that a view rule describes."""
    m = input.meta
    shape = tuple(rule(m, *args)[0])
    if src.meta.shape != shape:
        raise RuntimeError(f"expected src to have a size equal to the slice of self. src size = "
                           f"{list(src.meta.shape)}, slice size = {list(shape)}")
    return overlay.fn(input, src, *region_of(m, rule, *args))


def region_of(m, rule, *args):
    """(strides, offset) of a view of a contiguous tensor."""
    _, strides, offset = rule(meta(m.dtype, m.shape, None, m.device), *args)[:3]
    return tuple(strides), int(offset)


@kernel_op("input: T, src: T, strides, offset")
class overlay:
    """A contiguous copy of `input` with `src` at a region given by strides and an offset."""

    linear = ("input src",)
    where = ()
    out = False
    batch = batch_rules.overlay

    def meta(input, src, strides, offset):
        return [(input.dtype, input.shape)]

    def lower(call):
        x, src = call.inputs
        out = call.outputs[0]
        calls = [copy_call(x, out)]
        calls.append(copy_call(src, out, slots=(0, 2), shape=src.shape, strides=call.strides,
                               offset=call.offset))
        return Program(tuple(calls))

    def vjp(ctx, g):
        src = ctx.meta("src")
        gi = overlay.fn(g, g.new_zeros(src.shape), ctx.strides, ctx.offset)
        gs = region.fn(g.contiguous(), src.shape, ctx.strides, ctx.offset)
        return gi, gs if gs.meta.dtype is src.dtype else gs.to(src.dtype)


@composite(replay=True, method=True, out=False, samples="""
    f(3, 4), f(4), 0, 1
    f(3, 4).transposed, f(3), -1, -2
    i(2, 2), i(2), 0, 0
""")
def select_scatter(input, src, dim, index):
    """A copy of input with src at input.select(dim, index)."""
    return _into_view(input, src, V.select.view, dim, index)


@composite(replay=True, method=True, samples="""
    f(4, 3), f(2, 3), 0, 1, 3
    f(4, 3).transposed, f(4, 2).transposed, dim=-1, step=2
    f(4), f(1), 0, -1
    f(3), f(0), 0, 2, 1
""")
def slice_scatter(input, src, dim=0, start=None, end=None, step=1):
    """A copy of input with src at input[start:end:step] along dim."""
    d = wrap_dim(dim, input.meta.ndim)
    if step <= 0:
        raise RuntimeError("slice step must be positive")
    a, b, _ = slice(start, end, step).indices(input.meta.shape[d])
    return _into_view(input, src, V.slice_dim.view, d, a, max(a, b), step)


@composite(replay=True, method=True, out=False, samples="""
    f(3, 4), f(3)
    f(2, 3, 4).transposed, f(4, 2), 1, 0, 1
    f(3, 3), f(2), -1
""")
def diagonal_scatter(input, src, offset=0, dim1=0, dim2=1):
    """A copy of input with src on a diagonal."""
    return _into_view(input, src, V.diagonal.view, offset, dim1, dim2)


@composite(method=True, out=False, samples="""
    f(3, 4), f(2, 2), (2, 2), (1, 2)
    f(12), f(3), (3,), (2,), 1
""")
def as_strided_scatter(input, src, size, stride, storage_offset=None):
    """A copy of input with src at input.as_strided(size, stride, storage_offset)."""
    out = input.clone()
    at = 0 if storage_offset is None else storage_offset
    out.as_strided(size, stride, at).copy_(src)
    return out


@composite(method=True, out=False, name="fill_diagonal_", where=(), samples="""
    f(3, 4), 5.0
    f(7, 3), 2.0, True
    f(3, 3, 3), -1
    i(4, 4).transposed, 3
""")
def fill_diagonal_inplace(input, fill_value, wrap=False):
    """Write one number on the main diagonal; with `wrap`, tall matrices go on below."""
    m = input.meta
    if m.ndim < 2:
        raise RuntimeError("dimensions must larger than 1")
    if m.ndim > 2 and len(set(m.shape)) > 1:
        raise RuntimeError("all dimensions of input must be of equal length")
    step = sum(m.strides)
    n = min(m.shape)
    input.as_strided((n,), (step,), input.storage_offset()).fill_(fill_value)
    if wrap and m.ndim == 2 and m.shape[0] > m.shape[1] + 1:
        rows, cols = m.shape
        at = cols + 1
        while at < rows:
            part = input[at:]
            k = min(part.meta.shape)
            part.as_strided((k,), (step,), part.storage_offset()).fill_(fill_value)
            at += cols + 1
    return input


@composite(method=True, out=False, samples="""
    f(2, 3)
    c(2, 2, 3).transposed
""")
def adjoint(input):
    """The conjugate transpose of matrices."""
    if input.meta.ndim < 2:
        raise RuntimeError("tensor.adjoint() is only supported on matrices or batches of matrices. "
                           f"Got {input.meta.ndim}-D tensor.")
    turned = input.transpose(-2, -1)
    return turned.conj() if input.meta.dtype.kind == "c" else turned


# ---- repeats  ----------------------------------------------------------------------------------

@composite(replay=True, method=True, out=False, where=(), samples="""
    f(2, 3), 2, 2
    f(2, 3).transposed, (2, 1, 3)
    f(), 3
    f(2), 0
""")
def repeat(input, *args, repeats=None):
    """The tensor repeated `repeats[d]` times along each dim; new dims come in front."""
    counts = sizes(args if repeats is None else (repeats,), "repeat")
    m = input.meta
    lead = len(counts) - m.ndim
    if lead < 0:
        raise RuntimeError("Number of dimensions of repeat dims can not be smaller than number of "
                           "dimensions of tensor")
    if any(c < 0 for c in counts):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(counts)}")
    shape = (1,) * lead + m.shape
    split = tuple(v for n in shape for v in (1, n))
    wide = tuple(v for c, n in zip(counts, shape) for v in (c, n))
    out = tuple(c * n for c, n in zip(counts, shape))
    x = input.reshape(split).expand(*wide) if split else input
    return REGISTRY["duplicate"].fn(x, contiguous=True).reshape(out)


@composite(method=True, out=False, samples="""
    f(2, 3), (2,)
    f(2, 3).transposed, 2, 1
    f(2), (2, 2)
""")
def tile(input, *args, dims=None):
    """Like `repeat`, missing leading counts being 1."""
    counts = sizes(args if dims is None else (dims,), "tile")
    return repeat.fn(input, (1,) * (input.meta.ndim - len(counts)) + counts)


@composite(one_by_one=True, replay=True, method=True, out=False, samples="""
    f(2, 3), 2
    f(2, 3).transposed, 3, 1
    f(3, 2), v([1, 0, 2]), 0
    v([1, 0, 2])
    f(2, 2), v([2]), dim=-1
""")
def repeat_interleave(input, repeats=None, dim=None, *, output_size=None):
    """Each entry of `dim` repeated: a number of times, or repeats[k] times. With one tensor
    argument, its indices repeated that often."""
    if repeats is None:
        counts = input
        input = counts.new_arange(counts.meta.numel)
        return repeat_interleave.fn(input, counts, 0)
    if dim is None:
        input, dim = input.reshape((-1,)), 0
    d = wrap_dim(dim, input.meta.ndim)
    n = input.meta.shape[d] if input.meta.ndim else 1
    if isinstance(repeats, int) or repeats.meta.numel == 1:
        times = repeats if isinstance(repeats, int) else int(repeats.item())
        if times < 0:
            raise RuntimeError("Repeats must be non-negative")
        x = input.unsqueeze(d + 1)
        shape = list(x.meta.shape)
        shape[d + 1] = times
        return x.expand(*shape).flatten(d, d + 1)
    if repeats.meta.ndim > 1:
        raise RuntimeError("repeat_interleave only accept 0D or 1D vector as repeat")
    if repeats.meta.numel != n:
        raise RuntimeError("repeats must have the same size as input along dim, but got "
                           f"repeats.size(0) = {repeats.meta.numel} and input.size({d}) = {n}")
    if repeats.meta.dtype not in (dt.int64, dt.int32):
        raise RuntimeError("repeats has to be Long or Int tensor")
    counts = repeats.tolist()
    if min(counts, default=0) < 0:
        raise RuntimeError("repeats can not be negative")
    if output_size is not None and output_size != sum(counts):
        raise RuntimeError("allocated size does not match required size")
    index = input.new_tensor(list(itertools.chain.from_iterable(
        [k] * c for k, c in enumerate(counts))), dtype=dt.int64)
    return input.index_select(d, index)


# ---- grids and blocks  -------------------------------------------------------------------------

def _many(tensors):
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        return tuple(tensors[0])
    return tensors


@composite(replay=True, method=False, out=False, samples="""
    f(3, 1), f(2)
    f(), f(2, 3).transposed
""")
def broadcast_tensors(*tensors):
    """Views of all tensors at their common shape."""
    tensors = _many(tensors)
    shape = broadcast_shapes(*[t.meta.shape for t in tensors])
    return tuple([t.expand(*shape) for t in tensors])


@composite(replay=True, method=False, out=False, samples="""
    f(2), f(3), indexing="ij"
    f(2), f(3), f(1), indexing="xy"
    f(), f(2), indexing="ij"
""")
def meshgrid(*tensors, indexing=None):
    """Coordinate grids of vectors: result k varies along dim k ("ij") or as in plots ("xy")."""
    tensors = _many(tensors)
    if indexing is None:
        import warnings

        warnings.warn("meshgrid: in an upcoming release, it will be required to pass the indexing "
                      "argument.", stacklevel=2)
        indexing = "ij"
    if indexing not in ("ij", "xy"):
        raise RuntimeError('meshgrid: indexing must be one of "xy" or "ij", but received: '
                           f"{indexing}")
    if not tensors:
        raise RuntimeError("meshgrid expects a non-empty TensorList")
    for t in tensors:
        if t.meta.ndim > 1:
            raise RuntimeError("Expected 0D or 1D tensor in the tensor list but got: tensor of "
                               f"shape {list(t.meta.shape)}")
        if t.meta.dtype is not tensors[0].meta.dtype:
            raise RuntimeError("torch.meshgrid expects all tensors to have the same dtype")
    swap = indexing == "xy" and len(tensors) >= 2
    if swap:
        tensors = (tensors[1], tensors[0], *tensors[2:])
    shape = tuple(t.meta.numel for t in tensors)
    out = [t.reshape([-1 if j == k else 1 for j in range(len(shape))]).expand(*shape)
           for k, t in enumerate(tensors)]
    if swap:
        out[0], out[1] = out[1], out[0]
    return tuple(out)


@composite(replay=True, method=False, out=False, samples="""
    f(2), f(3)
    f(2)
    i(2), i(1), i(2)
""")
def cartesian_prod(*tensors):
    """All combinations of elements of vectors, one a row."""
    tensors = _many(tensors)
    for t in tensors:
        if t.meta.ndim != 1:
            raise RuntimeError(f"Expect a 1D vector, but got shape {list(t.meta.shape)}")
    if len(tensors) == 1:
        return tensors[0]
    grids = meshgrid.fn(*tensors, indexing="ij")
    return REGISTRY["stack"].fn([g.reshape((-1,)) for g in grids], 1)


@composite(method=False, out=False, samples="""
    f(4)
    f(3), 3
    f(3), 2, True
    i(2), 3
""")
def combinations(input, r=2, with_replacement=False):
    """All r-element combinations of a vector's elements, one a row, in lexicographic order."""
    if input.meta.ndim != 1:
        raise RuntimeError(f"Expect a 1D vector, but got shape {list(input.meta.shape)}")
    if r < 0:
        raise RuntimeError(f"Expect a non-negative number, but got {r}")
    if r == 0:
        return input.new_empty((0,))
    if r == 2:
        n, device = input.meta.numel, input.meta.device
        pairs = REGISTRY["triangle_indices"].fn(n, n, int(not with_replacement), True,
                                                dtype=dt.int64, device=device)
        return input.index_select(0, pairs.t().reshape((-1,))).reshape((-1, 2))
    pick = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = list(pick(range(input.meta.numel), r))
    index = input.new_tensor(rows, dtype=dt.int64)
    return input.index_select(0, index.reshape((-1,))).reshape((len(rows), r))


@composite(replay=True, method=False, out=False, samples="""
    f(2, 3), f(1, 2)
    f(2), f(), f(2, 2).transposed
""")
def block_diag(*tensors):
    """A matrix with the given ones (0-d and 1-d as rows) along its diagonal."""
    tensors = _many(tensors)
    rows = []
    for t in tensors:
        if t.meta.ndim > 2:
            raise RuntimeError("block_diag: Input tensors must have 2 or fewer dimensions. Got "
                               f"{t.meta.ndim}")
        rows.append(t.reshape((1, -1)) if t.meta.ndim < 2 else t)
    width, at, out = sum(t.meta.shape[1] for t in rows), 0, []
    for t in rows:
        h, w = t.meta.shape
        out.append(place.fn(t, (h, width), (width, 1), at if h and w else 0))
        at += w
    return cat.fn(out, 0)


@composite(replay=True, method=False, out=False, samples="""
    f(3)
    f(3), 4, True
    i(3), 2
""")
def vander(x, N=None, increasing=False):
    """Columns of powers of a vector."""
    if x.meta.ndim != 1:
        raise RuntimeError("x must be a one-dimensional tensor.")
    n = x.meta.numel if N is None else N
    powers = x.new_arange(n)
    if not increasing:
        powers = flip.fn(powers, 0)
    return x.unsqueeze(-1) ** powers

