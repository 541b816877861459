"""Joining and splitting along a dim.

Floor 3. `cat` and `stack` are one program that copies each input to its place; the splits are
views.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import contiguous_strides, wrap_dim
from ..ir.kernel import Program
from ..runtime import tracing
from . import batch_rules
from . import views as V
from .region import copy_call, touch
from .registry import composite, kernel_op


def joined_dtype(metas):
    """Result type of a list of tensors, 0-d ones counting less."""
    return dt.result_dtype([m.dtype for m in metas if m.ndim],
                           [m.dtype for m in metas if not m.ndim])


def skipped(m):
    """PyTorch's old habit: 1-d empty tensors fit every concatenation."""
    return m.shape == (0,)


def cat_layout(metas, shape):
    """Strides of a concatenation: channels-last if all inputs are, else contiguous."""
    order = channel_order(metas[0])
    if order is None or any(channel_order(m) != order for m in metas):
        return None
    strides, step = [0] * len(shape), 1
    for d in reversed(order):
        strides[d] = step
        step *= max(shape[d], 1)
    return tuple(strides)


def channel_order(m):
    """The dim order of a dense channels-last tensor, or None."""
    if m.ndim not in (4, 5) or m.contiguous:
        return None
    order = (0, *range(2, m.ndim), 1)
    shape = [m.shape[d] for d in order]
    return order if contiguous_strides(shape) == tuple(m.strides[d] for d in order) else None


@kernel_op("tensors: T[], dim=0", out_cast="safe")
class cat:
    """Tensors one after the other along a dim; dtypes are promoted.

    RuntimeError if the other dims differ.
    """

    linear = ("tensors",)
    samples = """
        [f(2, 3), f(1, 3)]
        [f(2, 3).transposed, f(2, 1).offset, f(2, 2)], -1
        [f(0), f(2)]
        [f(2), i(3)]
        [b(2), b(1)], 0
        [f(2, 2, 3).strided, f(2, 0, 3)], 1
        (c(2), c(1))
    """
    aliases = ("concat", "concatenate")
    batch = batch_rules.join(0)

    def normalize(tensors, dim):
        if not tensors:
            raise ValueError("cat(): expected a non-empty list of Tensors")
        return tensors, dim

    def meta(tensors, dim):
        for k, m in enumerate(tensors):
            if not m.ndim:
                raise RuntimeError(f"zero-dimensional tensor (at position {k}) cannot be "
                                   "concatenated")
        metas = [m for m in tensors if not skipped(m)]
        if not metas:
            return [(joined_dtype(tensors), (0,))]
        first = metas[0]
        d = wrap_dim(dim, first.ndim)
        for k, m in enumerate(tensors):
            if skipped(m):
                continue
            if m.ndim != first.ndim:
                raise RuntimeError("Tensors must have same number of dimensions: got "
                                   f"{first.ndim} and {m.ndim}")
            for j in range(m.ndim):
                if j != d and m.shape[j] != first.shape[j]:
                    raise RuntimeError(
                        f"Sizes of tensors must match except in dimension {d}. Expected size "
                        f"{first.shape[j]} but got size {m.shape[j]} for tensor number {k} in the "
                        "list.")
        shape = list(first.shape)
        shape[d] = sum(m.shape[d] for m in metas)
        return [(joined_dtype(tensors), tuple(shape), cat_layout(metas, shape))]

    def lower(call):
        d = wrap_dim(call.dim, call.outputs[0].ndim)
        return join_program(call, d, [m.shape for m in call.args["tensors"]],
                            [m.shape[d] if not skipped(m) else 0 for m in call.args["tensors"]])

    def vjp(ctx, g):
        cache = ctx.plan.cache
        cuts = cache.get("cuts")
        if cuts is None:
            cuts = cache["cuts"] = _cuts(ctx.meta("tensors"), g.meta, ctx.dim)
        out = []
        for d, start, stop, kind in cuts:
            if d < 0:
                out.append(g.new_zeros((0,), dtype=kind))
                continue
            part = V.slice_dim.fn(g, d, start, stop, 1)
            out.append(part if kind is g.meta.dtype else part.to(kind))
        return (out,)


def _cuts(metas, whole, dim):
    """(dim, start, stop, dtype) of every part of a cat; dim -1 for parts that are skipped."""
    d, out, at = wrap_dim(dim, whole.ndim), [], 0
    for m in metas:
        if skipped(m):
            out.append((-1, 0, 0, m.dtype))
            continue
        out.append((d, at, at + m.shape[d], m.dtype))
        at += m.shape[d]
    return out


def join_program(call, d, shapes, widths):
    """Copies of the inputs into the result at successive places along dim `d`."""
    out, metas = call.outputs[0], list(call.inputs)
    calls, at = [], 0
    for k, (m, shape, w) in enumerate(zip(metas, shapes, widths)):
        if m.numel and w:
            calls.append(copy_call(m, out, slots=(0, 1 + k), shape=shape, strides=out.strides,
                                   offset=at * out.strides[d]))
        else:
            calls.append(touch(m, out, (0, 1 + k)))
        at += w
    return Program(tuple(calls))


@kernel_op("tensors: T[], dim=0", out_cast="safe")
class stack:
    """Tensors of one shape along a new dim."""

    linear = ("tensors",)
    samples = """
        [f(2, 3), f(2, 3)]
        [f(2, 3).transposed, f(2, 3).strided], -1
        [f(), f(), f()]
        [f(0, 2), f(0, 2)], 1
        [i(2), f(2)]
    """
    batch = batch_rules.join(1)

    def normalize(tensors, dim):
        if not tensors:
            raise RuntimeError("stack expects a non-empty TensorList")
        return tensors, dim

    def meta(tensors, dim):
        first = tensors[0]
        d = wrap_dim(dim, first.ndim + 1)
        for k, m in enumerate(tensors):
            if m.shape != first.shape:
                raise RuntimeError(f"stack expects each tensor to be equal size, but got "
                                   f"{list(first.shape)} at entry 0 and {list(m.shape)} at entry "
                                   f"{k}")
        shape = first.shape[:d] + (len(tensors),) + first.shape[d:]
        return [(joined_dtype(tensors), shape)]

    def lower(call):
        out, metas = call.outputs[0], call.args["tensors"]
        d = wrap_dim(call.dim, out.ndim)
        strides = out.strides[:d] + out.strides[d + 1:]
        calls = []
        for k, m in enumerate(metas):
            if m.numel:
                calls.append(copy_call(m, out, slots=(0, 1 + k), shape=m.shape, strides=strides,
                                       offset=k * out.strides[d]))
            else:
                calls.append(touch(m, out, (0, 1 + k)))
        return Program(tuple(calls))

    def vjp(ctx, g):
        metas = ctx.meta("tensors")
        parts = g.unbind(ctx.dim)
        return ([p if p.meta.dtype is m.dtype else p.to(m.dtype)
                 for p, m in zip(parts, metas)],)


# ---- splitting  --------------------------------------------------------------------------------

@composite(replay=True, method=True, out=False, samples="""
    f(5, 3), 2
    f(3, 5).transposed, (1, 4), -1
    f(0), 0
    f(4), 4
""")
def split(input, split_size_or_sections, dim=0):
    """Views of consecutive parts: of one size (the last may be smaller), or of given sizes."""
    m = input.meta
    if not m.ndim:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    size = split_size_or_sections
    if isinstance(size, (list, tuple)):
        return split_with_sizes.fn(input, size, dim)
    d, size = wrap_dim(dim, m.ndim), int(size)
    n = m.shape[d]
    if size < 0:
        raise RuntimeError(f"split expects split_size be non-negative, but got split_size={size}")
    if size == 0:
        if n:
            raise RuntimeError("split_size can only be 0 if dimension size is 0, but got dimension "
                               f"size of {n}")
        return (V.slice_dim.fn(input, d, 0, 0, 1),)
    part = V.slice_dim.fn
    tracing.decided("floordiv", -n, size)
    return tuple([part(input, d, k, min(k + size, n), 1) for k in range(0, n, size)]
                 or [part(input, d, 0, 0, 1)])


@composite(replay=True, method=True, out=False, samples="""
    f(5, 3), (2, 3)
    f(3, 5).transposed, [0, 1, 4], -1
""")
def split_with_sizes(input, split_sizes, dim=0):
    """Views of consecutive parts of given sizes, which must add up to the dim."""
    d = wrap_dim(dim, input.meta.ndim)
    n, sizes = input.meta.shape[d], [int(s) for s in split_sizes]
    if any(s < 0 for s in sizes):
        raise RuntimeError("split_with_sizes expects split_sizes have only non-negative entries, "
                           f"but got split_sizes={sizes}")
    if sum(sizes) != n:
        raise RuntimeError(f"split_with_sizes expects split_sizes to sum exactly to {n} (input "
                           f"tensor's size at dimension {d}), but got split_sizes={sizes}")
    out, at = [], 0
    for s in sizes:
        out.append(V.slice_dim.fn(input, d, at, at + s, 1))
        at += s
    return tuple(out)


@composite(replay=True, method=True, out=False, samples="""
    f(5, 3), 2
    f(3, 5).transposed, 4, -1
    f(0, 2), 3
""")
def chunk(input, chunks, dim=0):
    """At most `chunks` views of equal size (the last may be smaller)."""
    m = input.meta
    if not m.ndim:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    d = wrap_dim(dim, m.ndim)
    size = -(-m.shape[d] // chunks)
    tracing.decided("mod", m.shape[d], chunks)
    if size == 0:
        return split_with_sizes.fn(input, [0] * chunks, d)
    return split.fn(input, size, d)


@composite(replay=True, method=True, out=False, samples="""
    f(5, 3), 3
    f(3, 5).transposed, (1, 3), -1
    f(5), (3, 1, 9)
    f(4), v([1, 2])
    f(4), sections=2
    f(4), indices=(1,)
""")
def tensor_split(input, indices_or_sections=None, dim=0, *, indices=None, sections=None):
    """Views split into a number of nearly equal parts, or before the given indices."""
    m = input.meta
    if not m.ndim:
        raise RuntimeError("tensor_split expected at least a 1-dimensional tensor, but got a "
                           "tensor with 0 dims")
    what = next(v for v in (indices_or_sections, indices, sections, 0) if v is not None)
    if hasattr(what, "meta"):
        what = what.tolist()
    d = wrap_dim(dim, m.ndim)
    n = m.shape[d]
    if isinstance(what, int):
        if what <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {what}")
        small, extra = divmod(n, what)
        tracing.decided("mod", n, what)
        return split_with_sizes.fn(input, [small + (k < extra) for k in range(what)], d)
    stops = [*[slice(0, int(k)).indices(n)[1] for k in what], n]
    for k in what:
        tracing.decided("lt", k, n)
        tracing.decided("lt", k, -n)
    out, at = [], 0
    for s in stops:
        out.append(V.slice_dim.fn(input, d, at, max(at, s), 1))
        at = s
    return tuple(out)


def _split_along(name, least, dim_of, samples):
    def fn(input, indices_or_sections):
        m = input.meta
        if m.ndim < least:
            raise RuntimeError(f"torch.{name} requires a tensor with at least {least} dimension"
                               f"{'s' if least > 1 else ''}, but got a tensor with {m.ndim} "
                               "dimensions!")
        if isinstance(indices_or_sections, str):
            raise TypeError(f"{name}(): argument 'indices_or_sections' must be int or tuple of "
                            "ints, not str")
        d = dim_of(m)
        if isinstance(indices_or_sections, int) and indices_or_sections > 0 and (
                m.shape[d] % indices_or_sections):
            raise RuntimeError(f"torch.{name} attempted to split along dimension {d}, but the "
                               f"size of the dimension {m.shape[d]} is not divisible by the "
                               f"split_size {indices_or_sections}!")
        return tensor_split.fn(input, indices_or_sections, d)

    fn.__name__ = name
    fn.__doc__ = f"Split into views as numpy.{name} does."
    return composite(fn, method=True, out=False, samples=samples)


hsplit = _split_along("hsplit", 1, lambda m: 0 if m.ndim == 1 else 1, """
    f(2, 4), 2
    f(4), (1, 3)
    f(3, 4).transposed, (2,)
""")
vsplit = _split_along("vsplit", 2, lambda m: 0, """
    f(4, 2), 2
    f(4, 3).transposed, (1, 3)
""")
dsplit = _split_along("dsplit", 3, lambda m: 2, """
    f(2, 1, 4), 2
    f(2, 3, 4).transposed, (1,)
""")


@composite(method=False, out=False, samples="""
    f()
    f(2, 3)
    f(), f(2)
    [f(), i(2)]
""")
def atleast_1d(*tensors):
    """Tensors with at least 1 dim (one tensor, or a list of them)."""
    return _each(tensors, lambda t: t.reshape((1,)) if not t.meta.ndim else t)


def _two(t):
    return t.reshape((1, 1)) if not t.meta.ndim else t.unsqueeze(0) if t.meta.ndim == 1 else t


def _three(t):
    n = t.meta.ndim
    return t.reshape((1, 1, 1)) if not n else t.unsqueeze(0).unsqueeze(-1) if n == 1 else \
        t.unsqueeze(-1) if n == 2 else t


def _each(tensors, rule):
    if len(tensors) == 1 and not isinstance(tensors[0], (list, tuple)):
        return rule(tensors[0])
    if len(tensors) == 1:
        tensors = tensors[0]
    return tuple([rule(t) for t in tensors])


@composite(method=False, out=False, samples="""
    f()
    f(3)
    f(2, 3), f(3)
""")
def atleast_2d(*tensors):
    """Tensors with at least 2 dims, new ones in front."""
    return _each(tensors, _two)


@composite(method=False, out=False, samples="""
    f()
    f(3)
    f(2, 3)
    f(2, 3, 4), f(3)
""")
def atleast_3d(*tensors):
    """Tensors with at least 3 dims."""
    return _each(tensors, _three)


def _some(name, tensors):
    if not tensors:
        raise RuntimeError(f"{name} expects a non-empty TensorList")
    return tensors


@composite(out_cast="safe", replay=True, samples="""
    [f(2), f(3)]
    [f(2, 3).transposed, f(2, 1)]
    [f(), f()]
""")
def hstack(tensors):
    """Join along dim 1 (dim 0 for vectors)."""
    parts = atleast_1d.fn(list(_some("hstack", tensors)))
    return cat.fn(parts, 0 if parts[0].meta.ndim == 1 else 1)


@composite(out_cast="safe", replay=True, aliases=("row_stack",), samples="""
    [f(3), f(3)]
    (f(2, 3).transposed, f(3))
""")
def vstack(tensors):
    """Join along dim 0, vectors as rows."""
    return cat.fn(atleast_2d.fn(list(_some("vstack", tensors))), 0)


@composite(out_cast="safe", replay=True, samples="""
    [f(3), f(3)]
    [f(2, 3), f(2, 3).transposed]
""")
def dstack(tensors):
    """Join along dim 2."""
    return cat.fn(atleast_3d.fn(list(_some("dstack", tensors))), 2)


@composite(out_cast="safe", replay=True, samples="""
    [f(3), f(3, 2)]
    [f(), f()]
""")
def column_stack(tensors):
    """Join along dim 1, vectors as columns."""
    parts = [t.reshape((t.meta.numel, 1)) if t.meta.ndim <= 1 else t
             for t in _some("column_stack", tensors)]
    return cat.fn(parts, 1)



@composite(method=True, out=False, samples="f(5, 3), 2")
def unsafe_split(input, split_size, dim=0):
    """`split` (the name is PyTorch's: results are views here too)."""
    return split.fn(input, split_size, dim)


@composite(method=True, out=False, samples="f(5, 3), 2, 1")
def unsafe_chunk(input, chunks, dim=0):
    """`chunk` (the name is PyTorch's: results are views here too)."""
    return chunk.fn(input, chunks, dim)


@composite(samples="""
    [f(2, 5), f(2, 3)], 1, 2
    [f(4, 3)], 0, 3
""")
def _chunk_cat(tensors, dim, num_chunks):
    """Each tensor cut along `dim` into `num_chunks` parts (padded with zeros), parts of one number
    flattened and joined: shape (..., num_chunks, all the rest)."""
    if num_chunks < 1:
        raise RuntimeError(f"_chunk_cat expects positive num_chunks, got {num_chunks}")
    if not tensors:
        raise RuntimeError("_chunk_cat expects a non-empty input tensor list")
    d = wrap_dim(dim, tensors[0].meta.ndim)
    parts = []
    for t in tensors:
        m = t.meta
        missing = -m.shape[d] % num_chunks
        tracing.decided("mod", m.shape[d], num_chunks)
        if missing:
            zeros = t.new_zeros(m.shape[:d] + (missing,) + m.shape[d + 1:])
            t = cat.fn([t, zeros], d)
        parts.append(t.reshape(m.shape[:d] + (num_chunks, -1)))
    return cat.fn(parts, d + 1)
