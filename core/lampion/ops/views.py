"""Views: ops whose result shares its input's memory.

Floor 3. A rule gets the input's meta and the arguments and returns (shape, strides, offset in
elements). The strict ops take canonical arguments; `movement.py` holds the public forms with
PyTorch's flexible signatures.
"""

from __future__ import annotations

from ..base.meta import broadcast_shapes, expand_strides, infer_size, view_strides, wrap_dim
from .region import place_like
from .registry import view_op


@view_op("input: T, dim0, dim1")
class transpose:
    """Swap two dims."""

    samples = """
        f(2, 3), 0, 1
        f(2, 3, 4).transposed, -1, 0
        f(), 0, -1
        i(0, 3), 1, 0
    """
    aliases = ("swapaxes", "swapdims")

    def view(m, dim0, dim1):
        a, b = wrap_dim(dim0, m.ndim), wrap_dim(dim1, m.ndim)
        shape, strides = list(m.shape), list(m.strides)
        if shape:
            shape[a], shape[b] = shape[b], shape[a]
            strides[a], strides[b] = strides[b], strides[a]
        return shape, strides, 0

    def vjp(ctx, g):
        return g.transpose(ctx.dim0, ctx.dim1)


@view_op("input: T")
class t:
    """Transpose a tensor of at most 2 dims."""

    samples = """
        f(2, 3)
        f(3, 2).transposed
        f(4)
        f()
    """

    def view(m):
        if m.ndim > 2:
            raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {m.ndim}D")
        return m.shape[::-1], m.strides[::-1], 0

    def vjp(ctx, g):
        return g.t()


@view_op("input: T")
class mT:
    """The last two dims swapped (also the property `Tensor.mT`)."""

    method = False
    where = ()

    def view(m):
        if m.ndim < 2:
            raise RuntimeError("tensor.mT is only supported on matrices or batches of matrices. "
                               f"Got {m.ndim}-D tensor.")
        return (m.shape[:-2] + (m.shape[-1], m.shape[-2]),
                m.strides[:-2] + (m.strides[-1], m.strides[-2]), 0)

    def vjp(ctx, g):
        return g.transpose(-1, -2)


@view_op("input: T, dims")
class permute_dims:
    """Reorder the dims; `dims` is a tuple."""

    method = False
    where = ()

    def view(m, dims):
        if len(dims) != m.ndim:
            raise RuntimeError(
                f"permute(sparse_coo): number of dimensions in the tensor input does not match "
                f"the length of the desired ordering of dimensions i.e. input.dim() = {m.ndim} "
                f"is not equal to len(dims) = {len(dims)}")
        order = [wrap_dim(d, m.ndim) for d in dims]
        if len(set(order)) != len(order):
            raise RuntimeError("permute(): duplicate dims are not allowed.")
        return [m.shape[d] for d in order], [m.strides[d] for d in order], 0

    def vjp(ctx, g):
        n = len(ctx.dims)
        back = [0] * n
        for k, d in enumerate(ctx.dims):
            back[d % n] = k
        return g.permute(back)


@view_op("input: T, dim")
class unsqueeze:
    """Insert a dim of size 1."""

    samples = """
        f(2, 3), 0
        f(2, 3).transposed, -1
        f(), 0
        b(2, 0), 1
    """

    def view(m, dim):
        d = wrap_dim(dim, m.ndim + 1)
        step = m.shape[d] * m.strides[d] if d < m.ndim else 1
        return m.shape[:d] + (1,) + m.shape[d:], m.strides[:d] + (step,) + m.strides[d:], 0

    def vjp(ctx, g):
        m = ctx.meta("input")
        return g.squeeze_dims((wrap_dim(ctx.dim, m.ndim + 1),))


@view_op("input: T, dims=None")
class squeeze_dims:
    """Drop dims of size 1: those in `dims`, or all."""

    samples = """
        f(1, 3, 1)
        f(1, 3, 1).transposed, (0, -1)
        f(2, 3), (0,)
    """
    where = ()

    def view(m, dims):
        drop = set(range(m.ndim)) if dims is None else {wrap_dim(d, m.ndim) for d in dims}
        keep = [d for d in range(m.ndim) if d not in drop or m.shape[d] != 1]
        return [m.shape[d] for d in keep], [m.strides[d] for d in keep], 0

    def vjp(ctx, g):
        return g.view_as_shape(ctx.meta("input").shape)


@view_op("input: T, size")
class expand_to:
    """Broadcast to `size` (a tuple; -1 keeps a dim)."""

    where = ()
    method = False

    def view(m, size):
        lead = len(size) - m.ndim
        if lead < 0:
            raise RuntimeError(
                f"expand({{{list(m.shape)}}}, size={list(size)}): the number of sizes provided "
                f"({len(size)}) must be greater or equal to the number of dimensions in the "
                f"tensor ({m.ndim})")
        target = []
        for k, n in enumerate(size):
            have = m.shape[k - lead] if k >= lead else 1
            if n == -1 and k < lead:
                raise RuntimeError(
                    f"expand({{{list(m.shape)}}}, size={list(size)}): the expanded size of the "
                    f"tensor (-1) isn't allowed in a leading, non-existing dimension {k}")
            n = have if n == -1 else n
            if n < 0:
                raise RuntimeError(f"expand: negative size {n} in dimension {k}")
            if have not in (1, n):
                raise RuntimeError(
                    f"The expanded size of the tensor ({n}) must match the existing size "
                    f"({have}) at non-singleton dimension {k}.  Target sizes: {list(size)}.  "
                    f"Tensor sizes: {list(m.shape)}")
            target.append(n)
        return target, expand_strides(m.shape, m.strides, target), 0

    def vjp(ctx, g):
        from .shapes import sum_to_shape

        return sum_to_shape(g, ctx.meta("input").shape)


@view_op("input: T, shape")
class view_as_shape:
    """The same elements under another shape, without a copy (shape fully known)."""

    samples = """
        f(2, 6), (3, 4)
        f(), (1, 1)
    """
    where = ()

    def view(m, shape):
        strides = view_strides(m.shape, m.strides, shape)
        if strides is None:
            raise RuntimeError(
                "view size is not compatible with input tensor's size and stride (at least one "
                "dimension spans across two contiguous subspaces). Use .reshape(...) instead.")
        return shape, strides, 0

    def vjp(ctx, g):
        return g.reshape(ctx.meta("input").shape)


@view_op("input: T, dtype")
class view_dtype:
    """The same bytes as another dtype (the last dim grows or shrinks with the item size)."""

    where = ()
    method = False

    def view(m, dtype):
        a, b = m.dtype.itemsize, dtype.itemsize
        if a == b:
            return m.shape, m.strides, 0, dtype
        if not m.ndim:
            raise RuntimeError("self.dim() cannot be 0 to view a tensor as a dtype of another "
                               "size")
        if m.strides[-1] != 1 and m.shape[-1] != 1:
            raise RuntimeError(f"self.stride(-1) must be 1 to view {m.dtype!r} as {dtype!r} "
                               f"(different element sizes), but got {m.strides[-1]}")
        if a > b:
            k = a // b
            return (m.shape[:-1] + (m.shape[-1] * k,),
                    tuple(s * k for s in m.strides[:-1]) + (1,), 0, dtype)
        k = b // a
        if m.shape[-1] % k or any(s % k for s in m.strides[:-1]):
            raise RuntimeError(
                f"self.size(-1) and the strides must be divisible by {k} to view {m.dtype!r} as "
                f"{dtype!r} (different element sizes), but got {list(m.shape)}, {m.strides}")
        return (m.shape[:-1] + (m.shape[-1] // k,),
                tuple(s // k for s in m.strides[:-1]) + (1,), 0, dtype)

    def vjp(ctx, g):
        return g.view(ctx.meta("input").dtype)


@view_op("input: T, dim, index")
class select:
    """The slice at `index` of a dim, without that dim."""

    samples = """
        f(3, 4), 0, 1
        f(2, 3, 4).transposed, -1, -2
        f(3, 4).offset, 1, 3
        i(5), 0, -5
    """

    def view(m, dim, index):
        if not m.ndim:
            raise IndexError("select() cannot be applied to a 0-dim tensor.")
        d = wrap_dim(dim, m.ndim)
        n = m.shape[d]
        if not -n <= index < n:
            raise IndexError(f"select(): index {index} out of range for tensor of size "
                             f"{list(m.shape)} at dimension {d}")
        at = index % n
        return (m.shape[:d] + m.shape[d + 1:], m.strides[:d] + m.strides[d + 1:],
                at * m.strides[d] if m.numel else 0)

    def vjp(ctx, g):
        from .pieces import piece

        m = ctx.meta("input")
        d = wrap_dim(ctx.dim, m.ndim)
        return piece(ctx, g.unsqueeze(d), d, ctx.index % m.shape[d])


@view_op("input: T, dim, start, stop, step")
class slice_dim:
    """input[..., start:stop:step, ...] on one dim; start and stop already in range."""

    where = ()
    method = False

    def view(m, dim, start, stop, step):
        n = max(0, -(-(stop - start) // step))
        shape, strides = list(m.shape), list(m.strides)
        shape[dim], strides[dim] = n, strides[dim] * step
        return shape, strides, start * m.strides[dim] if 0 not in shape else 0

    def vjp(ctx, g):
        if ctx.step == 1:
            from .pieces import piece

            return piece(ctx, g, ctx.dim, ctx.start)
        return place_like(g, ctx.meta("input"), slice_dim.view, ctx.dim, ctx.start, ctx.stop,
                          ctx.step)


@view_op("input: T, size, stride, offset=0")
class as_strided_view:
    """A view with any strides; `offset` (elements) counts from the input's first element."""

    where = ()
    method = False

    def view(m, size, stride, offset):
        if len(size) != len(stride):
            raise RuntimeError(
                f"mismatch in length of strides and shape: {len(stride)} and {len(size)}")
        if any(s < 0 for s in stride):
            raise RuntimeError("as_strided: Negative strides are not supported at the moment, "
                               f"got strides: {list(stride)}")
        return size, stride, offset

    def vjp(ctx, g):
        from .movement import as_strided_backward

        return as_strided_backward(g, ctx.meta("input"), ctx.size, ctx.stride, ctx.offset)


@view_op("input: T, offset=0, dim1=0, dim2=1")
class diagonal:
    """The diagonal of two dims, as the last dim."""

    samples = """
        f(3, 4)
        f(2, 3, 4).transposed, 1, -1, 0
        f(4, 3).strided, -2
        f(2, 3), 5
    """

    def view(m, offset, dim1, dim2):
        a, b = wrap_dim(dim1, m.ndim), wrap_dim(dim2, m.ndim)
        if a == b:
            raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
        row, col = max(-offset, 0), max(offset, 0)
        n = max(0, min(m.shape[a] - row, m.shape[b] - col))
        keep = [d for d in range(m.ndim) if d not in (a, b)]
        start = row * m.strides[a] + col * m.strides[b] if n and m.numel else 0
        return ([m.shape[d] for d in keep] + [n],
                [m.strides[d] for d in keep] + [m.strides[a] + m.strides[b]], start)

    def vjp(ctx, g):
        return place_like(g, ctx.meta("input"), diagonal.view, ctx.offset, ctx.dim1, ctx.dim2)


@view_op("input: T, dimension, size, step")
class unfold_dim:
    """Windows of `size` every `step` along a dim, as a new last dim (Tensor.unfold)."""

    where = ()
    method = False

    def view(m, dimension, size, step):
        d = wrap_dim(dimension, m.ndim)
        n = m.shape[d] if m.ndim else 1
        if not 0 <= size <= n:
            raise RuntimeError(f"maximum size for tensor at dimension {d} is {n} but size is "
                               f"{size}")
        if step <= 0:
            raise RuntimeError(f"step is {step} but must be > 0")
        if not m.ndim:
            return (size,), (1,), 0
        count = (n - size) // step + 1
        return (m.shape[:d] + (count,) + m.shape[d + 1:] + (size,),
                m.strides[:d] + (m.strides[d] * step,) + m.strides[d + 1:] + (m.strides[d],), 0)

    def vjp(ctx, g):
        return g.unfold_backward(ctx.meta("input").shape, ctx.dimension, ctx.size, ctx.step)


@view_op("input: T")
class real_pairs:
    """A complex tensor as reals with a last dim of 2 (view_as_real)."""

    name = "view_as_real"
    samples = """
        c(2, 3)
        c(2, 3).transposed
        c()
    """
    method = False

    def view(m):
        if m.dtype.kind != "c":
            raise RuntimeError("view_as_real is only supported for complex tensors")
        return m.shape + (2,), tuple(2 * s for s in m.strides) + (1,), 0, m.dtype.to_real()

    def vjp(ctx, g):
        from .registry import REGISTRY

        return REGISTRY["view_as_complex"].fn(g.contiguous())


@view_op("input: T")
class complex_pairs:
    """Reals with a last dim of 2 as a complex tensor (view_as_complex)."""

    name = "view_as_complex"
    samples = """
        f(3, 2)
        f(2)
        f(0, 2)
    """
    method = False

    def view(m):
        if m.dtype.name not in ("float16", "float32", "float64"):
            raise RuntimeError("view_as_complex is only supported for half, float and double "
                               f"tensors, but got a tensor of scalar type: {m.dtype!r}")
        if not m.ndim or m.shape[-1] != 2:
            raise RuntimeError("Tensor must have a last dimension of size 2")
        if m.strides[-1] != 1 or any(s % 2 for s in m.strides[:-1]):
            raise RuntimeError("Tensor must have a last dimension with stride 1 and even strides")
        return (m.shape[:-1], tuple(s // 2 for s in m.strides[:-1]), 0, m.dtype.to_complex())

    def vjp(ctx, g):
        from .registry import REGISTRY

        return REGISTRY["view_as_real"].fn(g)


@view_op("input: T, part")
class complex_part:
    """The real (0) or imaginary (1) part of a complex tensor, as a view."""

    where = ()
    method = False

    def view(m, part):
        d = m.dtype.to_real()
        # offsets are in elements of the input: the imaginary part starts half an element in
        return m.shape, tuple(2 * s for s in m.strides), part * 0.5, d

    def vjp(ctx, g):
        from .registry import REGISTRY

        zero = g * 0
        parts = (g, zero) if ctx.part == 0 else (zero, g)
        return REGISTRY["complex"].fn(*parts)


@view_op("input: T")
class alias:
    """The same tensor as a view of itself."""

    where = ()
    method = False

    def view(m):
        return m.shape, m.strides, 0

    def vjp(ctx, g):
        return g


__all__ = ["broadcast_shapes", "infer_size"]
