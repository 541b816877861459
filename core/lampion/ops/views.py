"""Views: ops whose result shares its input's memory.

Floor 3. A rule gets the input's meta and the arguments and returns (shape, strides, offset in
elements).
"""

from __future__ import annotations

from ..base.meta import wrap_dim
from .registry import view_op


@view_op("input: T, dim0, dim1")
class transpose:
    """Swap two dims."""

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


@view_op("input: T, dim")
class unsqueeze:
    """Insert a dim of size 1."""

    def view(m, dim):
        d = wrap_dim(dim, m.ndim + 1)
        step = m.shape[d] * m.strides[d] if d < m.ndim else 1
        return m.shape[:d] + (1,) + m.shape[d:], m.strides[:d] + (step,) + m.strides[d:], 0

    def vjp(ctx, g):
        return g.squeeze(ctx.dim)
