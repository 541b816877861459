"""Public forms of the views, with PyTorch's flexible signatures, and copies made when a view
cannot be.

Floor 3. `x.view(2, 3)` and `x.view((2, 3))` mean the same; the strict ops are in `views.py`.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import infer_size, view_strides, wrap_dim
from . import memory as _memory
from . import views as V
from .registry import composite


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


@composite(method=True, out=False)
def reshape(input, *shape):
    """The same elements under another shape: a view if possible, else a copy."""
    m = input.meta
    if len(shape) == 1 and type(shape[0]) is tuple:
        shape = shape[0]
    else:
        shape = sizes(shape, "reshape")
    if shape == m.shape:
        return V.alias(input) if input.node is not None else V.view_as_shape(input, shape)
    shape = infer_size(shape, m.numel)
    if view_strides(m.shape, m.strides, shape) is None:
        input = _memory.duplicate(input, contiguous=True)
    return V.view_as_shape.fn(input, shape)


@composite(method=True, out=False, where=())
def view(input, *shape):
    """A view under another shape or as another dtype. RuntimeError if only a copy could do."""
    if len(shape) == 1 and isinstance(shape[0], dt.dtype):
        return V.view_dtype(input, shape[0])
    return V.view_as_shape.fn(input, infer_size(sizes(shape, "view"), input.meta.numel))


@composite(method=True, out=False, where=())
def view_as(input, other):
    """`view` with the shape of another tensor."""
    return input.view(other.shape)


@composite(method=True, out=False, where=())
def reshape_as(input, other):
    """`reshape` to the shape of another tensor."""
    return input.reshape(other.shape)


@composite(method=True, out=False, where=())
def expand(input, *size, implicit=False):
    """Broadcast to a larger shape without copying; -1 keeps a dim."""
    return V.expand_to.fn(input, sizes(size, "expand"))


@composite(method=True, out=False, where=())
def expand_as(input, other):
    """`expand` to the shape of another tensor."""
    return V.expand_to.fn(input, other.meta.shape)


@composite(method=True, out=False)
def broadcast_to(input, size):
    """Broadcast to `size`."""
    return V.expand_to.fn(input, sizes((size,), "broadcast_to"))


@composite(method=True, out=False)
def permute(input, *dims):
    """Reorder the dims."""
    return V.permute_dims.fn(input, sizes(dims, "permute"))


@composite(method=True, out=False)
def squeeze(input, *dim):
    """Drop dims of size 1: all, one, or those of a tuple."""
    return V.squeeze_dims.fn(input, sizes(dim, "squeeze") if dim else None)


@composite(method=True, out=False)
def movedim(input, source, destination):
    """Move dims to new positions; the others keep their order."""
    n = input.meta.ndim
    src = [wrap_dim(d, n) for d in ((source,) if isinstance(source, int) else source)]
    dst = [wrap_dim(d, n) for d in ((destination,) if isinstance(destination, int)
                                    else destination)]
    if len(src) != len(dst):
        raise RuntimeError(f"movedim: Invalid source or destination dims: source ({src} dims) "
                           f"should contain the same number of dims as destination ({dst} dims)")
    if len(set(src)) != len(src):
        raise RuntimeError(f"movedim: repeated dim in `source` ({src})")
    if len(set(dst)) != len(dst):
        raise RuntimeError(f"movedim: repeated dim in `destination` ({dst})")
    order = [-1] * n
    for a, b in zip(src, dst):
        order[b] = a
    rest = iter(d for d in range(n) if d not in src)
    return input.permute([next(rest) if d < 0 else d for d in order])


@composite(method=True, out=False)
def moveaxis(input, source, destination):
    """Alias of `movedim`."""
    return movedim.fn(input, source, destination)


@composite(method=True, out=False)
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


@composite(method=True, out=False)
def unflatten(input, dim, sizes):
    """Split a dim into `sizes` (one may be -1)."""
    m = input.meta
    d = wrap_dim(dim, m.ndim)
    sizes = tuple(sizes)
    if not sizes:
        raise RuntimeError("unflatten: sizes must be non-empty")
    known = 1
    for n in sizes:
        known *= n if n != -1 else 1
    if (sizes.count(-1) == 0 and known != m.shape[d]) or (known and m.shape[d] % known):
        raise RuntimeError(f"unflatten: Provided sizes {list(sizes)} don't multiply up to the "
                           f"size of dim {d} ({m.shape[d]}) in the input tensor")
    return input.view(m.shape[:d] + infer_size(sizes, m.shape[d]) + m.shape[d + 1:])


@composite(method=True, out=False)
def ravel(input):
    """One dim with all elements; a view if possible."""
    return input.reshape((-1,))


@composite(method=True, out=False)
def narrow(input, dim, start, length):
    """`length` entries of a dim from `start` on."""
    m = input.meta
    if not m.ndim:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    d = wrap_dim(dim, m.ndim)
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


@composite(method=True, out=False)
def unbind(input, dim=0):
    """The slices along a dim, as views."""
    m = input.meta
    if not m.ndim:
        raise RuntimeError("unbind(): dimension specified as 0 but tensor has no dimensions")
    d = wrap_dim(dim, m.ndim)
    pick = V.select.fn
    return tuple([pick(input, d, k) for k in range(m.shape[d])])


@composite(method=True, out=False)
def as_strided(input, size, stride, storage_offset=None):
    """A view with any strides; `storage_offset` (elements) counts from the storage's start."""
    made = V.as_strided_view.fn(input, tuple(size), tuple(stride))
    item = input.meta.dtype.itemsize
    offset = input.data_.offset if storage_offset is None else storage_offset * item
    reach = offset + made.meta.span
    if offset < 0 or reach > input.data_.base.nbytes:
        raise RuntimeError(
            f"setStorage: sizes {list(size)}, strides {list(stride)}, storage offset "
            f"{offset // item}, and itemsize {item} requiring a storage size of {reach} are out "
            f"of bounds for storage of size {input.data_.base.nbytes}")
    made.data_ = input.data_.base.view(offset)
    return made


@composite(method=True, out=False, where=())
def unfold(input, dimension, size, step):
    """All windows of `size` every `step` along a dim, as a view."""
    return V.unfold_dim.fn(input, dimension, size, step)


@composite(method=True, out=False, where=())
def unfold_backward(grad, shape, dimension, size, step):
    """Gradient of Tensor.unfold: windows added back where they came from."""
    d = wrap_dim(dimension, len(shape))
    full = grad.new_zeros(shape if shape else (1,))
    count = grad.meta.shape[d] if shape else 1
    for k in range(size):
        part = grad.select(-1, k) if shape else grad[k].reshape((1,))
        region = V.slice_dim.fn(full, d, k, k + (count - 1) * step + 1, step)
        full = V_add_region(full, region, part, d, k, count, step)
    return full if shape else full.reshape(())


def V_add_region(full, region, part, d, start, count, step):
    """full with part added to a slice, keeping the graph intact."""
    return (region + part).slice_scatter_into(full, d, start, start + (count - 1) * step + 1, step)


@composite(method=True, out=False, where=())
def select_scatter_into(src, full, dim, index):
    """`full` with `src` written at full.select(dim, index); `full` is fresh and may be reused."""
    out = full.clone() if full.node is not None else full
    V.select.fn(out, dim, index).copy_(src)
    return out


@composite(method=True, out=False, where=())
def slice_scatter_into(src, full, dim, start, stop, step):
    """`full` with `src` written at a slice; `full` is fresh and may be reused."""
    out = full.clone() if full.node is not None else full
    V.slice_dim.fn(out, dim, start, stop, step).copy_(src)
    return out


@composite(method=True, out=False, where=())
def as_strided_scatter_into(src, meta, size, stride, offset):
    """Gradient of as_strided: add `src` into a zero tensor of the base's geometry."""
    n = max(meta.span // meta.dtype.itemsize, 1)
    flat = src.new_zeros((n,))
    index = flat.new_arange_strided(size, stride)
    flat = flat.index_add(0, index, src.reshape((-1,)))
    return as_strided.fn(flat, meta.shape, meta.strides, 0).clone()


@composite(method=True, out=False, where=())
def new_arange_strided(like, size, stride):
    """int64 element offsets of a strided view, in row-major order (1-d)."""
    total = None
    for n, s in zip(size, stride):
        steps = like.new_arange(n) * s
        total = steps if total is None else (total.unsqueeze(-1) + steps)
        if total.meta.ndim > 1:
            total = total.reshape((-1,))
    return total if total is not None else like.new_arange(1)
