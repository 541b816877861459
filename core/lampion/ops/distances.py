"""Distances between the rows of matrices.

Floor 3. Lanes run along the second matrix's rows, which is turned for that; a norm is accumulated
for every pair, nothing of the size pairs x columns is made.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import broadcast_shapes, expand_strides
from ..ir import expr as E
from ..runtime.lowering import Nest
from .create import triangle_start
from .registry import REGISTRY, composite, kernel_op
from .statistics import norm_kind, norm_of, vector_norm


@kernel_op("x1: T, x2: T, kind, p: S")
class row_distances:
    """p-norms of x1[..., i, :] - x2[..., :, j]: the columns of x2 are the points."""

    where = ()
    out = False

    def meta(x1, x2, kind, p):
        lead = broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
        return [(x1.dtype, (*lead, x1.shape[-2], x2.shape[-1]))]

    def lower(call):
        x, y, out = call.inputs[0], call.inputs[1], call.outputs[0]
        k = out.ndim - 2
        full = (*out.shape, x.shape[-1])
        n = Nest("row_distances", full, [k + 2], compute=dt.opmath(out.dtype), merge=False)
        o = n.output(out, (*out.strides, 0))
        lead = [expand_strides(m.shape[:-2], m.strides[:-2], out.shape[:-2]) for m in (x, y)]
        a = n.input(x, (*lead[0], x.strides[-2], 0, x.strides[-1]))
        b = n.input(y, (*lead[1], 0, y.strides[-1], y.strides[-2]))
        p = E.cast(n.scalar(), n.compute)
        n.start()
        n.store(o, norm_of(n, call.kind, E.abs_(a() - b()), p), inner=False)
        return n.program()

    def compose(x1, x2, kind, p):
        return vector_norm.fn(x1.unsqueeze(-2) - x2.transpose(-1, -2).unsqueeze(-3), p, -1)


@kernel_op("input: T, turned: T, kind, p: S")
class own_distances:
    """p-norms of input[i] - input[j], i < j, as one dim; `turned` is the input's transpose."""

    where = ()
    out = False

    def meta(input, turned, kind, p):
        n = input.shape[0]
        return [(input.dtype, (n * (n - 1) // 2,))]

    def lower(call):
        x, y, out = call.inputs[0], call.inputs[1], call.outputs[0]
        rows, columns = x.shape
        n = Nest("own_distances", (rows, rows, columns), [2], compute=dt.opmath(out.dtype),
                 merge=False)
        o = n.output(out)
        a = n.input(x, (x.strides[0], 0, x.strides[1]))
        b = n.input(y, (0, y.strides[1], y.strides[0]))
        p = E.cast(n.scalar(), n.compute)
        n.start()
        i, j = n.coord(0), n.coord(1)
        value = norm_of(n, call.kind, E.abs_(a() - b()), p)
        n.store_at(o, triangle_start(n, i, rows, 1, True) + (j - i - 1), value, inner=False,
                   mask=j > i)
        return n.program()

    def compose(input, turned, kind, p):
        n, device = input.meta.shape[0], input.meta.device
        first, second = REGISTRY["triangle_indices"].fn(n, n, 1, True, dtype=dt.int64,
                                                        device=device).unbind(0)
        return vector_norm.fn(input.index_select(0, first) - input.index_select(0, second), p, -1)


@composite(replay=True, samples="""
    f(3, 4), f(2, 4)
    f(2, 3, 4), f(2, 2, 4).transposed, 1.0
    f(3, 2), f(4, 2), p=inf
    f(3, 2), f(0, 2)
""")
def cdist(x1, x2, p=2.0, compute_mode="use_mm_for_euclid_dist_if_necessary"):
    """Distances between all rows of x1 [..., P, M] and x2 [..., R, M]."""
    for name, m in (("X1", x1.meta), ("X2", x2.meta)):
        if m.dtype.kind != "f":
            raise RuntimeError(f"cdist only supports floating-point dtypes, {name} got: {m.dtype}")
        if m.ndim < 2:
            raise RuntimeError("cdist only supports at least 2D tensors, "
                               f"{name} got: {m.ndim}D")
    if x1.meta.shape[-1] != x2.meta.shape[-1]:
        raise RuntimeError(f"X1 and X2 must have the same number of columns. X1: "
                           f"{x1.meta.shape[-1]} X2: {x2.meta.shape[-1]}")
    if p < 0:
        raise RuntimeError("cdist only supports non-negative p values")
    d = dt.promote_types(x1.meta.dtype, x2.meta.dtype)
    return row_distances.fn(x1.to(d), x2.to(d).transpose(-1, -2).contiguous(), norm_kind(p),
                            float(p))


@composite(replay=True, samples="""
    f(4, 3)
    f(3, 2).transposed, 1
    f(1, 3)
""")
def pdist(input, p=2.0):
    """Distances between all pairs of rows, i < j, as one dim."""
    m = input.meta
    if m.ndim != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {m.ndim}D")
    if m.dtype.kind != "f":
        raise RuntimeError("pdist only supports floating-point dtypes")
    if p < 0:
        raise RuntimeError("pdist only supports non-negative p values")
    return own_distances.fn(input, input.transpose(0, 1).contiguous(), norm_kind(p), float(p))


__all__ = ["cdist", "pdist", "row_distances", "own_distances"]
