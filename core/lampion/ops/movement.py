"""Public forms of the views, with PyTorch's flexible signatures, and copies made when a view
cannot be.

Floor 3. `x.view(2, 3)` and `x.view((2, 3))` mean the same; the strict ops are in `views.py`.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import infer_size, may_overlap, view_strides, wrap_dim
from ..runtime import tracing
from . import memory as _memory
from . import views as V
from .registry import REGISTRY, composite, view_op


def sizes(args, name="size"):
    """(2, 3) from f(2, 3), f((2, 3)) or f([2, 3]). TypeError for anything but integers."""
    if len(args) == 1 and not isinstance(args[0], int) and hasattr(args[0], "__iter__"):
        args = args[0]
    out = []
    for n in args:
        if type(n) is not int:
            if isinstance(n, (float, str)) or not hasattr(n, "__index__"):
                raise TypeError(f"{name}(): argument must be tuple of ints, but found element of "
                                f"type {type(n).__name__}")
            n = n.__index__()
        out.append(n)
    return tuple(out)


def _like_input(ctx, g):
    """Gradient of a view that only regroups dims."""
    return g.reshape(ctx.meta("input").shape)


@view_op("input: T, *shape")
class reshape:
    """The same elements under another shape: a view if possible, else a copy."""

    samples = """
        f(2, 6), 3, 4
        f(2, 6), (-1, 3)
        f(2, 6).transposed, 12
        f(2, 3).expanded, (3, 2)
        f(), (1, 1)
        f(0, 3), 3, 0
        f(1), ()
    """
    vjp = _like_input

    def view(m, shape):
        shape = infer_size(sizes(shape, "reshape"), m.numel)
        strides = view_strides(m.shape, m.strides, shape)
        return None if strides is None else (shape, strides, 0)

    def compose(input, shape):
        return _memory.duplicate.fn(input, contiguous=True).reshape(*shape)


@view_op("input: T, *size, dtype=None")
class view:
    """A view under another shape or as another dtype. RuntimeError if only a copy could do."""

    samples = """
        f(2, 6), 3, 4
        f(2, 6).offset, (-1, 3)
        f(2, 2, 3).transposed, 2, 2, 3, 1
        f(2, 3), int32
    """
    where = ()
    vjp = _like_input

    def view(m, size, dtype):
        if dtype is not None or (len(size) == 1 and isinstance(size[0], (dt.dtype, type))):
            return None
        shape = infer_size(sizes(size, "view"), m.numel)
        strides = view_strides(m.shape, m.strides, shape)
        if strides is None:
            raise RuntimeError(
                "view size is not compatible with input tensor's size and stride (at least one "
                "dimension spans across two contiguous subspaces). Use .reshape(...) instead.")
        return shape, strides, 0

    def compose(input, size, dtype):
        return V.view_dtype.fn(input, size[0] if dtype is None else dtype)


@view_op("input: T, *size, implicit=False")
class expand:
    """Broadcast to a larger shape without copying; -1 keeps a dim."""

    samples = """
        f(3, 1), 3, 4
        f(3, 1).transposed, (2, -1, 4)
        f(), 2
        f(1), 0
    """
    where = ()

    def view(m, size, implicit):
        return V.expand_to.view(m, sizes(size, "expand"))

    def vjp(ctx, g):
        return V.expand_to.vjp(ctx, g)


@view_op("input: T, *dims")
class permute:
    """Reorder the dims."""

    samples = """
        f(2, 3, 4), 2, 0, 1
        f(2, 3, 4).transposed, (0, -1, 1)
        f(), ()
    """

    def view(m, dims):
        return V.permute_dims.view(m, sizes(dims, "permute"))

    def vjp(ctx, g):
        order = sizes(ctx.dims, "permute")
        back = [0] * len(order)
        for k, d in enumerate(order):
            back[d % len(order)] = k
        return g.permute(*back)


@view_op("input: T, *dim")
class squeeze:
    """Drop dims of size 1: all, one, or those of a tuple."""

    samples = """
        f(1, 3, 1)
        f(1, 3, 1), 0
        f(1, 3, 1).transposed, (0, -1)
        f(2, 3), 0
        f()
    """
    vjp = _like_input

    def view(m, dim):
        return V.squeeze_dims.view(m, sizes(dim, "squeeze") if dim else None)


@composite(method=True, out=False, where=(), samples="f(2, 6), f(3, 4).fixed")
def view_as(input, other):
    """`view` with the shape of another tensor."""
    return input.view(*other.meta.shape)


@composite(method=True, out=False, where=(), samples="f(2, 6).transposed, f(3, 4).fixed")
def reshape_as(input, other):
    """`reshape` to the shape of another tensor."""
    return input.reshape(*other.meta.shape)


@composite(method=True, out=False, where=(), samples="f(3, 1), f(2, 3, 4).fixed", replay=True)
def expand_as(input, other):
    """`expand` to the shape of another tensor."""
    return input.expand(*other.meta.shape)


@composite(replay=True, method=True, out=False, samples="""
    f(3, 1), (2, 3, 4)
    f(), (0, 2)
""")
def broadcast_to(input, size):
    """Broadcast to `size`."""
    return input.expand(*size)


@view_op("input: T, source, destination")
class movedim:
    """Move dims to new positions; the others keep their order."""

    aliases = ("moveaxis",)
    samples = """
        f(2, 3, 4), 0, 2
        f(2, 3, 4).transposed, (0, -1), (1, 0)
        f(2, 3, 4), 0, -1
    """

    def view(m, source, destination):
        src, dst = ([wrap_dim(d, m.ndim) for d in ((dims,) if isinstance(dims, int) else dims)]
                    for dims in (source, destination))
        if len(src) != len(dst):
            raise RuntimeError(f"movedim: Invalid source or destination dims: source ({src} dims) "
                               f"should contain the same number of dims as destination ({dst} "
                               "dims)")
        if len(set(src)) != len(src):
            raise RuntimeError(f"movedim: repeated dim in `source` ({src})")
        if len(set(dst)) != len(dst):
            raise RuntimeError(f"movedim: repeated dim in `destination` ({dst})")
        order = [-1] * m.ndim
        for a, b in zip(src, dst):
            order[b] = a
        rest = iter(d for d in range(m.ndim) if d not in src)
        return V.permute_dims.view(m, [next(rest) if d < 0 else d for d in order])

    def vjp(ctx, g):
        return (g.movedim(ctx.destination, ctx.source),)


@composite(replay=True, method=True, out=False, samples="""
    f(2, 3, 4)
    f(2, 3, 4).transposed, 1
    f(2, 3, 4), 0, -2
    f()
    f(2, 0, 3), 1
""")
def flatten(input, start_dim=0, end_dim=-1):
    """Merge the dims from start_dim to end_dim."""
    m = input.meta
    a, b = wrap_dim(start_dim, m.ndim), wrap_dim(end_dim, m.ndim)
    if a > b:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if not m.ndim:
        return input.reshape((1,))
    if a == b:
        return input
    n = 1
    for s in m.shape[a:b + 1]:
        n *= s
    return input.reshape(m.shape[:a] + (n,) + m.shape[b + 1:])


@view_op("input: T, dim, sizes")
class unflatten:
    """Split a dim into `sizes` (one may be -1)."""

    samples = """
        f(2, 6), 1, (2, -1)
        f(6, 2).transposed, -2, (3, 2)
    """
    vjp = _like_input

    def view(m, dim, sizes):
        d = wrap_dim(dim, m.ndim)
        if not sizes:
            raise RuntimeError("unflatten: sizes must be non-empty")
        known = 1
        for n in sizes:
            known *= n if n != -1 else 1
        if (sizes.count(-1) == 0 and known != m.shape[d]) or (known and m.shape[d] % known):
            raise RuntimeError(f"unflatten: Provided sizes {list(sizes)} don't multiply up to the "
                               f"size of dim {d} ({m.shape[d]}) in the input tensor")
        shape = m.shape[:d] + infer_size(sizes, m.shape[d]) + m.shape[d + 1:]
        return shape, view_strides(m.shape, m.strides, shape), 0


@composite(method=True, out=False, samples="""
    f(2, 3)
    f(2, 3).transposed
    f()
""")
def ravel(input):
    """One dim with all elements; a view if possible."""
    return input.reshape((-1,))


@composite(out=False, where=(), name="slice", samples="""
    f(4, 5)
    f(4, 5).transposed, 1, 1, 4
    f(4, 5), 0, None, None, 2
    f(4, 5), -1, -3, 99
""")
def slice_range(input, dim=0, start=None, end=None, step=1):
    """input[start:end:step] along `dim`, as a view. IndexError for a bad dim, RuntimeError for a
    step that is not positive."""
    m = input.meta
    if not m.ndim:
        raise RuntimeError("slice() cannot be applied to a 0-dim tensor.")
    if step <= 0:
        raise RuntimeError("slice step must be positive")
    d = wrap_dim(dim, m.ndim)
    n = m.shape[d]
    a, b, _ = slice(start, end, step).indices(n)
    for k in (start, end):
        if k is not None:
            tracing.decided("lt", k, n)
            tracing.decided("lt", k, -n)
    tracing.decided("lt", a, b)
    return V.slice_dim.fn(input, d, a, max(a, b), step)


@composite(method=True, out=False, samples="""
    f(4, 3), 0, 1, 2
    f(4, 3).transposed, -1, -2, 1
    f(4), 0, 4, 0
""")
def narrow(input, dim, start, length):
    """`length` entries of a dim from `start` on."""
    m = input.meta
    if not m.ndim:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    d = wrap_dim(dim, m.ndim)
    if hasattr(start, "meta") and (start.meta.ndim or start.meta.dtype.kind not in "ui"):
        raise RuntimeError("start must be an 0-dim integral Tensor.")
    n, start, length = m.shape[d], int(start), int(length)
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    if not -n <= start <= n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n}], but "
                         f"got {start})")
    start = start + n if start < 0 else start
    if start + length > n:
        raise RuntimeError(f"start ({start}) + length ({length}) exceeds dimension size ({n}).")
    return V.slice_dim.fn(input, d, start, start + length, 1)


@composite(replay=True, method=True, out=False, samples="""
    f(2, 3)
    f(2, 3).transposed, -1
    f(0, 3)
""")
def unbind(input, dim=0):
    """The slices along a dim, as views."""
    m = input.meta
    if not m.ndim:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    d = wrap_dim(dim, m.ndim)
    pick = V.select.fn
    return tuple([pick(input, d, k) for k in range(m.shape[d])])


@composite(method=True, out=False, samples="""
    f(3, 4), (2, 2), (1, 2)
    f(12), (3, 3), (2, 1), 1
    f(6), (2, 0), (1, 1), 2
""")
def as_strided(input, size, stride, storage_offset=None):
    """A view with any strides; `storage_offset` (elements) counts from the storage's start."""
    m, d = input.meta, input.data_
    item = m.dtype.itemsize
    here = d.offset // item
    start = here if storage_offset is None else storage_offset
    if storage_offset is not None:
        tracing.original(input, "storage_offset")  # a trace has to know that it matters
    size, stride = tuple(size), tuple(stride)
    last = sum((n - 1) * s for n, s in zip(size, stride)) + 1 if 0 not in size else 0
    if start < 0 or (start + last) * item > d.base.nbytes:
        raise RuntimeError(
            f"setStorage: sizes {list(size)}, strides {list(stride)}, storage offset {start}, "
            f"and itemsize {item} requiring a storage size of {(start + last) * item} are out of "
            f"bounds for storage of size {d.base.nbytes}")
    return V.as_strided_view.fn(input, size, stride, start - here)


def as_strided_backward(g, m, size, stride, offset):
    """Gradient of as_strided: `g` added into zeros of the base's geometry; elements that the view
    names twice get both, what it names outside of the base gets lost. `offset` counts from the
    base's first element and is negative for a view that starts before it."""
    low = min(offset, 0)
    n = max(m.span // m.dtype.itemsize, offset + strided_span(size, stride), 1) - low
    flat = g.new_zeros((n,))
    if may_overlap(size, stride):
        flat = flat.index_add(0, strided_index(flat, size, stride) + (offset - low),
                              g.reshape(-1))
    else:
        flat.as_strided(size, stride, offset - low).copy_(g)
    return flat.as_strided(m.shape, m.strides, -low).clone()


def strided_span(size, stride):
    """Elements from the first to the last of a strided view."""
    return sum((n - 1) * s for n, s in zip(size, stride)) + 1 if 0 not in size else 0


def strided_index(like, size, stride):
    """int64 element offsets of a strided view, in row-major order (1-d)."""
    total = REGISTRY["full"].fn((1,), 0, dtype=dt.int64, device=like.meta.device)
    for n, s in zip(size, stride):
        steps = REGISTRY["full"].fn((n,), 1, dtype=dt.int64, device=like.meta.device)
        total = (total.unsqueeze(-1) + (steps.cumsum(0) - 1) * s).reshape(-1)
    return total


@composite(method=True, out=False, where=(), samples="""
    f(7), 0, 3, 2
    f(3, 5).transposed, 1, 2, 1
    f(5, 2), -2, 5, 1
    f(), 0, 1, 1
""")
def unfold(input, dimension, size, step):
    """All windows of `size` every `step` along a dim, as a view."""
    return V.unfold_dim.fn(input, dimension, size, step)


@composite(method=True, out=False, where=(), replay=True, samples="""
    f(3, 3), (7,), 0, 3, 2
    f(4, 3, 2), (5, 3), -2, 2, 1
""")
def unfold_backward(grad, shape, dimension, size, step):
    """Gradient of Tensor.unfold: windows added back where they came from."""
    add = REGISTRY["overlap_add"].fn
    if not shape:
        return add(grad.unsqueeze(0), 1, step).reshape(())
    d = wrap_dim(dimension, len(shape))
    return add(grad.movedim(d, -2), shape[d], step).movedim(-1, d)
