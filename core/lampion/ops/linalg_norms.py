"""Norms of matrices and what singular values tell: condition, rank.

Floor 3.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..base.meta import wrap_dim
from .linalg_checks import MATRICES, inexact, matrices, op, square
from .linalg_lstsq import tolerances
from .registry import composite
from .statistics import vector_norm


def spectrum(x, dims):
    """Singular values of the matrices in two dims."""
    return op("linalg_svdvals")(x.movedim(dims, (-2, -1)))


def extreme(sizes, dim, keepdim, largest):
    """The largest (0 of none) or smallest of what is not negative."""
    if not largest:
        return sizes.amin(dim, keepdim)
    return sizes.amax(dim, keepdim) if sizes.meta.shape[dim] else sizes.sum(dim, keepdim)


@composite(replay=True, where=("linalg",), samples=MATRICES + """
    f(3, 4, 2), "nuc", (0, 1)
    f(3, 4), 2, keepdim=True
    f(2, 3, 4), -2
    f(3, 4), inf
    f(2, 3, 4), -inf, (0, 2), True
    f(3, 4), 1
    f(2, 3, 4), -1, (2, 0), dtype=float64
""")
def matrix_norm(input, ord="fro", dim=(-2, -1), keepdim=False, *, dtype=None):
    """Norms of matrices: "fro", "nuc" (sum of the singular values), inf and -inf (largest and
    smallest sum of a row), 1 and -1 (of a column), 2 and -2 (largest, smallest singular value).

    >>> lampion.linalg.matrix_norm(lampion.tensor([[3., 0.], [0., 4.]])).item()
    5.0
    """
    name, m = "linalg.matrix_norm", input.meta
    matrices(name, m)
    inexact(name, m if dtype is None else m.with_dtype(dtype), low=True)
    if isinstance(dim, int) or len(dim) != 2:
        raise RuntimeError(f"{name}: dim must be a 2-tuple. Got {dim}")
    rows, cols = (wrap_dim(d, m.ndim, op=name) for d in dim)
    if rows == cols:
        raise RuntimeError(f"{name}: dims must be different. Got ({dim[0]}, {dim[1]})")
    if isinstance(ord, str) and ord not in ("fro", "nuc"):
        raise RuntimeError(f"{name}: Order {ord} not supported.")
    if not isinstance(ord, str) and abs(ord) not in (1, 2, math.inf):
        raise RuntimeError(f"{name}: Order {ord} not supported.")
    if ord == "fro":
        return vector_norm.fn(input, 2, (rows, cols), keepdim, dtype=dtype)
    if dtype is not None:
        input = input.to(dtype)
    if ord == "nuc" or abs(ord) == 2:
        inexact(name, input.meta)
        s = spectrum(input, (rows, cols))
        out = s.sum(-1) if ord == "nuc" else extreme(s, -1, False, ord > 0)
        for d in sorted((rows, cols)) if keepdim else ():
            out = out.unsqueeze(d)
        return out
    summed, picked = (rows, cols) if abs(ord) == 1 else (cols, rows)
    if not keepdim and picked > summed:
        picked -= 1
    sums = vector_norm.fn(input, 1, summed, keepdim)
    return extreme(sums, picked, keepdim, ord > 0)


@composite(replay=True, where=("linalg",), samples="""
    f(3, 4)
    f(3), 3
    f(3, 4), "fro"
    f(3, 4, 2), 1, (0, 1)
    f(3, 4), inf, 1, True
    c(3)
""")
def linalg_norm(input, ord=None, dim=None, keepdim=False, *, dtype=None):
    """A vector norm (2 unless `ord` is given) over one dim, or over all of them if neither `ord`
    nor `dim` is given; else a matrix norm over two dims."""
    ndim = input.meta.ndim
    dims = (dim,) if isinstance(dim, int) else dim
    if ord is not None:
        if dims is not None and len(dims) not in (1, 2):
            raise RuntimeError(f"linalg.norm: If dim is specified, it must be of length 1 or 2. "
                               f"Got {list(dims)}")
        if dims is None and ndim not in (1, 2):
            raise RuntimeError("linalg.norm: If dim is not specified but ord is, the input must "
                               f"be 1D or 2D. Got {ndim}D.")
        if (len(dims) if dims is not None else ndim) == 2:
            return matrix_norm.fn(input, ord, tuple(dims) if dims is not None else (0, 1),
                                  keepdim, dtype=dtype)
        if isinstance(ord, str):
            raise RuntimeError(f"linalg.norm: Order {ord} needs a matrix, but there is one dim")
    return vector_norm.fn(input, 2 if ord is None else ord, dims, keepdim, dtype=dtype)


@composite(out_cast="safe", replay=True, where=("linalg",), samples="""
    f(3, 3)
    f(2, 4, 3), -2
    f(2, 3, 3), "fro"
    f(3, 3), "nuc"
    f(3, 3), 1
    f(3, 3), -inf
    c(2, 2)
    v([[1, 2], [2, 4.0]]), 1
""")
def cond(input, p=None):
    """The condition number: the ratio of the largest to the smallest singular value for p None
    and 2 (the inverse of it for -2), else norm(A) * norm(inverse); inf for singular matrices."""
    name, m = "linalg.cond", input.meta
    matrices(name, m)
    inexact(name, m)
    if p is None or (not isinstance(p, str) and abs(p) == 2):
        s = op("linalg_svdvals")(input)
        first, last = s.select(-1, 0), s.select(-1, -1)
        return last / first if p == -2 else first / last
    if (isinstance(p, str) and p not in ("fro", "nuc")) or (
            not isinstance(p, str) and abs(p) not in (1, math.inf)):
        raise RuntimeError(f"{name} got an invalid norm type: {p}")
    square(name, m)
    if not m.numel:
        return vector_norm.fn(input, 1, (-2, -1)) * 0
    inverse, info = op("linalg_inv_ex")(input)
    size = matrix_norm.fn(input, p) * matrix_norm.fn(inverse, p)
    return size.masked_fill(info != 0, math.inf)


@composite(replay=True, where=("linalg",), differentiable=False, samples=MATRICES + """
    v([[1, 2], [2, 4.0]])
    v([[1, 2], [2, 4.0]]), hermitian=True
    v([[4, 0], [0, 1.0]]), 2
    v([[4, 0], [0, 1.0]]), rtol=0.5
""")
def matrix_rank(input, tol=None, hermitian=False, *, atol=None, rtol=None):
    """The number of singular values (sizes of eigenvalues if `hermitian`) that exceed
    max(atol, rtol * largest). Tolerances are numbers or tensors, one per matrix."""
    name, m = "torch.linalg.matrix_rank", input.meta
    matrices(name, m, "input")
    inexact(name, m)
    x = input.detach()
    if tol is not None:
        atol, rtol = tol, 0.0
    atol, rtol = tolerances(name, m, atol, rtol)
    if not m.numel:
        return op("full")(m.shape[:-2], 0, dtype=dt.int64, device=m.device)
    s = op("eigvalsh_only")(x, "L").abs() if hermitian else op("linalg_svdvals")(x)
    bound = op("maximum")(atol, rtol * s.amax(-1))
    return (s > bound.unsqueeze(-1)).sum(-1)
