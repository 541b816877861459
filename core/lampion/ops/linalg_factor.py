"""Factorizations of matrices: Cholesky, LU, LDL, QR and the reflectors behind it.

Floor 3. The primitives have no loop nest: LAPACK is the state of the art, and its algorithms (see
`lapack.py`, their `host` parts) are nothing a generated kernel would come near. Derivatives are
written in tensor operations, so they have derivatives of their own; sources: Murray, "Differentia-
tion of the Cholesky decomposition" (2016); Walter and Lehmann, "Algorithmic differentiation of
linear algebra functions" (2010), whose real formulas hold for complex matrices with H for T.
"""

from __future__ import annotations

from ..base import dtype as dt
from . import lapack
from .linalg_checks import columns, eye, inexact, matrices, op, square
from .linalg_solve import linalg_solve_triangular
from .registry import composite, kernel_op
from .results import named

# ---- Cholesky ----------------------------------------------------------------------------------

@kernel_op("input: T, *, upper=False, check_errors=False")
class linalg_cholesky_ex:
    """(L, info) with input = L L^H for Hermitian positive-definite matrices (or the upper factor
    U, input = U^H U). `info` is 0, or the order of the first minor that is not positive-definite;
    with `check_errors` that is a LinAlgError."""

    where = ("linalg",)
    noutputs = 2
    diff_outputs = 1
    returns = ("L", "info")
    save = ("out",)
    host = lapack.cholesky
    batch = ""

    def meta(input, upper, check_errors):
        inexact("linalg.cholesky", input)
        square("linalg.cholesky", input)
        return [(input.dtype, input.shape, columns(input.shape)), (dt.int32, input.shape[:-2])]

    def vjp(ctx, g):
        factor = ctx.out
        if ctx.upper:
            factor, g = factor.mH, g.mH
        m = factor.mH @ g
        m = m.tril()
        both = (m + m.tril(-1).mH) * 0.5
        y = linalg_solve_triangular.fn(factor.mH, both, upper=True)
        return (linalg_solve_triangular.fn(factor, y, upper=False, left=False),)

    def jvp(ctx, t):
        factor = ctx.out.mH if ctx.upper else ctx.out
        y = linalg_solve_triangular.fn(factor, t, upper=False)
        m = linalg_solve_triangular.fn(factor.mH, y, upper=True, left=False)
        moved = factor @ ((m.tril() + m.tril(-1)) * 0.5)
        return moved.mH if ctx.upper else moved


@composite(replay=True, where=("linalg",))
def linalg_cholesky(input, *, upper=False):
    """The lower (or upper) Cholesky factor of Hermitian positive-definite matrices.

    LinAlgError, naming the batch element, for a matrix that is not positive-definite.

    >>> lampion.linalg.cholesky(lampion.tensor([[4., 2.], [2., 5.]])).tolist()
    [[2.0, 0.0], [1.0, 2.0]]
    """
    return linalg_cholesky_ex.fn(input, upper=upper, check_errors="linalg.cholesky")[0]


@composite(out_cast="safe", replay=True, method=True)
def cholesky(input, upper=False):
    """The Cholesky factor (the older form of `linalg.cholesky`)."""
    return linalg_cholesky_ex.fn(input, upper=upper, check_errors="cholesky")[0]


# ---- LU ----------------------------------------------------------------------------------------

@kernel_op("A: T, *, pivot=True, check_errors=False")
class linalg_lu_factor_ex:
    """(LU, pivots, info): A = P L U with L (unit diagonal) and U packed in one matrix. Row i was
    exchanged with row pivots[i] (from 1), in order; `info` is 0, or k if U[k, k] (from 1) is 0."""

    where = ("linalg",)
    noutputs = 3
    diff_outputs = 1
    returns = ("LU", "pivots", "info")
    save = ("out", "out1")
    host = lapack.lu
    batch = ""

    def meta(A, pivot, check_errors):
        if A.ndim < 2:
            raise RuntimeError("torch.lu_factor: Expected tensor with 2 or more dimensions. Got "
                               f"size: {list(A.shape)} instead")
        inexact("linalg.lu_factor", A)
        if not pivot:
            raise RuntimeError("linalg.lu_factor: LU without pivoting is not implemented on the "
                               "CPU")
        *batch, m, n = A.shape
        return [(A.dtype, A.shape, columns(A.shape)), (dt.int32, (*batch, min(m, n))),
                (dt.int32, tuple(batch))]

    def vjp(ctx, g):
        """The square part is differentiated as in Walter and Lehmann, the columns beyond it as
        those of L X, the rows beyond it as those of X U."""
        lu, (m, n) = ctx.out, ctx.out.meta.shape[-2:]
        k = min(m, n)
        factor, top = lu.narrow(-1, 0, k).narrow(-2, 0, k), g.narrow(-1, 0, k).narrow(-2, 0, k)
        gl, gu, more = top, top, None
        if n > k:
            right = lu.narrow(-1, k, n - k)
            more = linalg_solve_triangular.fn(factor.mH, g.narrow(-1, k, n - k), upper=True,
                                              unitriangular=True)
            gl = gl - more @ right.mH
        if m > k:
            below = lu.narrow(-2, k, m - k)
            more = linalg_solve_triangular.fn(factor.mH, g.narrow(-2, k, m - k), upper=False,
                                              left=False)
            gu = gu - below.mH @ more
        lower = factor.tril(-1) + eye(lu.meta, k)
        middle = (lower.mH @ gl.tril(-1)).tril(-1) + (gu.triu() @ factor.triu().mH).triu()
        ga = linalg_solve_triangular.fn(factor.mH, middle, upper=True, unitriangular=True)
        ga = linalg_solve_triangular.fn(factor.mH, ga, upper=False, left=False)
        if more is not None:
            ga = op("cat")([ga, more], -1 if n > k else -2)
        return (exchanged(ga, ctx.out1, back=True),)


@kernel_op("pivots: T, n, inverse=False")
class lu_rows:
    """The row of A that became row i of LU, for each of n rows (or the inverse permutation)."""

    where = ()
    differentiable = False
    host = lapack.permutation
    batch = ""

    def meta(pivots, n, inverse):
        return [(dt.int64, (*pivots.shape[:-1], n))]


def exchanged(x, pivots, back=False):
    """The rows of matrices in the order that LU has them in (or back in A's)."""
    rows = lu_rows.fn(pivots, x.meta.shape[-2], back).unsqueeze(-1)
    shape = (*x.meta.shape[:-2], rows.meta.shape[-2], x.meta.shape[-1])
    return x.gather(-2, rows.expand(shape))


@composite(replay=True, where=("linalg",), returns=("LU", "pivots"))
def linalg_lu_factor(A, *, pivot=True):
    """(LU, pivots) for `linalg.lu_solve`. RuntimeError if that would divide by 0."""
    return linalg_lu_factor_ex.fn(A, pivot=pivot, check_errors="torch.linalg.lu_factor")[:2]


@composite(replay=True, where=("linalg",), returns=("P", "L", "U"))
def linalg_lu(A, *, pivot=True):
    """(P, L, U) with A = P L U: a permutation, a unit lower and an upper triangular matrix."""
    if A.meta.ndim < 2:
        raise RuntimeError("linalg.lu: Expected tensor with 2 or more dimensions. Got size: "
                           f"{list(A.meta.shape)} instead")
    lu, pivots, _ = linalg_lu_factor_ex.fn(A, pivot=pivot)
    return lu_unpack.fn(lu, pivots)


@composite(replay=True, returns=("P", "L", "U"))
def lu_unpack(LU_data, LU_pivots, unpack_data=True, unpack_pivots=True):
    """(P, L, U) from a packed LU and its pivots; what is not asked for is empty."""
    m = LU_data.meta
    matrices("torch.lu_unpack", m, "LU_data")
    if unpack_pivots and LU_pivots.meta.dtype is not dt.int32:
        raise RuntimeError("torch.lu_unpack: LU_pivots is expected to be a contiguous tensor of "
                           "torch.int32 dtype.\nNote: this function is intended to be used with "
                           "the output produced by torch.linalg.lu_factor")
    rows, cols = m.shape[-2:]
    k = min(rows, cols)
    none = LU_data.new_empty((0,))
    p = lower = upper = none
    if unpack_pivots:
        at = lu_rows.fn(LU_pivots, rows)
        p = (at.new_arange(rows).unsqueeze(-1) == at.unsqueeze(-2)).to(m.dtype)
    if unpack_data:
        lower = LU_data.narrow(-1, 0, k).tril(-1) + eye(m, rows, k)
        upper = LU_data.narrow(-2, 0, k).triu()
    return p, lower, upper


@composite(method=True)
def lu(input, pivot=True, get_infos=False):
    """(LU, pivots), and with `get_infos` the codes instead of an error for singular matrices."""
    found = linalg_lu_factor_ex.fn(input, pivot=pivot,
                                   check_errors=False if get_infos else "lu")
    return named("_lu_with_info", tuple(found._fields))(*found) if get_infos else tuple(found[:2])


# ---- LDL ---------------------------------------------------------------------------------------

@kernel_op("input: T, *, hermitian=False, check_errors=False")
class linalg_ldl_factor_ex:
    """(LD, pivots, info): the Bunch-Kaufman factorization of symmetric (or, if `hermitian`,
    Hermitian) matrices, of which the lower triangle is read. For `linalg.ldl_solve`."""

    where = ("linalg",)
    noutputs = 3
    differentiable = False
    returns = ("LD", "pivots", "info")
    host = lapack.ldl
    batch = ""

    def meta(input, hermitian, check_errors):
        inexact("torch.linalg.ldl_factor_ex", input)
        square("torch.linalg.ldl_factor_ex", input)
        return [(input.dtype, input.shape, columns(input.shape)), (dt.int32, input.shape[:-1]),
                (dt.int32, input.shape[:-2])]


@composite(replay=True, where=("linalg",), returns=("LD", "pivots"))
def linalg_ldl_factor(input, *, hermitian=False):
    """(LD, pivots) of symmetric or Hermitian matrices. LinAlgError for singular ones."""
    return linalg_ldl_factor_ex.fn(input, hermitian=hermitian,
                                   check_errors="torch.linalg.ldl_factor")[:2]


# ---- QR ----------------------------------------------------------------------------------------

QR_FORMS = ("reduced", "complete", "r")


@kernel_op("A: T, form")
class qr_factors:
    """(Q, R); `form` is the mode of `linalg.qr`."""

    where = ()
    noutputs = 2
    save = ("A", "out", "out1")
    host = lapack.qr
    batch = ""

    def meta(A, form):
        matrices("linalg.qr", A)
        inexact("linalg.qr", A)
        if form not in QR_FORMS:
            raise RuntimeError(f"qr received unrecognized mode '{form}' but expected one of "
                               "'reduced' (default), 'r', or 'complete'")
        *batch, m, n = A.shape
        k = m if form == "complete" else min(m, n)
        q, r = (*batch, m, k), (*batch, k, n)
        return [(A.dtype, (0,)) if form == "r" else (A.dtype, q, columns(q)),
                (A.dtype, r, columns(r))]

    def vjp(ctx, gq, gr):
        q, r, (m, n) = ctx.out, ctx.out1, ctx.meta("A").shape[-2:]
        if ctx.form == "r":
            raise RuntimeError("The derivative of linalg.qr depends on Q, which is not computed "
                               "when mode='r'. Please use linalg.qr(A, mode='reduced') if you are "
                               "going to require gradients.")
        if ctx.form == "complete" and m > n:
            raise RuntimeError("The QR decomposition is not differentiable when mode='complete' "
                               "and nrows > ncols.")
        if m >= n:
            return (square_qr(q, r, gq, gr),)
        left, right = gr.narrow(-1, 0, m), gr.narrow(-1, m, n - m)
        rest = q @ r.narrow(-1, m, n - m)  # the columns of A that the square part does not see
        first = square_qr(q, r.narrow(-1, 0, m), gq + rest @ right.mH, left)
        return (op("cat")([first, q @ right], -1),)


@composite(replay=True, where=("linalg",), returns=("Q", "R"))
def linalg_qr(A, mode="reduced"):
    """(Q, R) with A = Q R: orthonormal columns times an upper triangle. "reduced" has min(m, n)
    columns, "complete" all m, "r" leaves Q empty. Differentiable where A determines Q."""
    return qr_factors.fn(A, mode)


def square_qr(q, r, gq, gr):
    """The gradient of A = Q R with square R, given those of Q and R."""
    m = (gr @ r.mH - q.mH @ gq).triu()
    diagonal = op("real")(m.diagonal(0, -2, -1)).to(m.meta.dtype)
    both = m.triu(1)
    both = both + both.mH + diagonal.diag_embed()
    return linalg_solve_triangular.fn(r.mH, gq + q @ both, upper=False, left=False)


@composite(replay=True, method=True, returns=("Q", "R"))
def qr(input, some=True):
    """(Q, R), reduced or (`some=False`) complete (the older form of `linalg.qr`)."""
    return qr_factors.fn(input, "reduced" if some else "complete")


@kernel_op("input: T", out_cast="safe")
class geqrf:
    """(a, tau): R in the upper triangle, Householder reflectors below it and their factors."""

    method = True
    noutputs = 2
    returns = ("a", "tau")
    host = lapack.reflectors
    batch = ""

    def meta(input):
        matrices("torch.geqrf", input, "input")
        inexact("torch.geqrf", input)
        *batch, m, n = input.shape
        return [(input.dtype, input.shape, columns(input.shape)),
                (input.dtype, (*batch, min(m, n)))]

    def vjp(ctx, *grads):
        raise RuntimeError("the derivative for 'self' of geqrf is not implemented; use "
                           "linalg.qr, which has one")


def reflector_columns(input, k):
    """The vectors v of the reflectors 1 - tau v v^H, as columns with ones on the diagonal."""
    return input.narrow(-1, 0, k).tril(-1) + eye(input.meta, input.meta.shape[-2], k)


def reflected(x, vectors, tau, order):
    """x multiplied from the left by reflectors, one after the other."""
    for i in order:
        v = vectors.narrow(-1, i, 1)
        x = x - (tau.narrow(-1, i, 1).unsqueeze(-1) * v) @ (v.mH @ x)
    return x


def check_reflectors(name, input, tau):
    """RuntimeError unless `tau` fits a matrix of reflectors."""
    matrices(name, input, "input")
    inexact(name, input)
    if input.shape[-2] < input.shape[-1]:
        raise RuntimeError(f"{name}: input.shape[-2] must be greater than or equal to "
                           "input.shape[-1]")
    if input.shape[-1] < (tau.shape[-1] if tau.ndim else 0):
        raise RuntimeError(f"{name}: input.shape[-1] must be greater than or equal to "
                           "tau.shape[-1]")
    if tau.ndim != input.ndim - 1 or tau.shape[:-1] != input.shape[:-2]:
        raise RuntimeError(f"{name}: Expected tau to have one dimension less than input and the "
                           f"same batch dimensions, but got tau {list(tau.shape)} and input "
                           f"{list(input.shape)}")
    if tau.dtype is not input.dtype:
        raise RuntimeError(f"{name}: tau dtype {tau.dtype!r} does not match input dtype "
                           f"{input.dtype!r}")


@kernel_op("input: T, tau: T", out_cast="safe")
class linalg_householder_product:
    """The first columns of a product of Householder reflectors, which `geqrf` gives: Q."""

    where = ("linalg",)
    host = lapack.product_of_reflectors

    def meta(input, tau):
        check_reflectors("torch.linalg.householder_product", input, tau)
        return [(input.dtype, input.shape, columns(input.shape))]

    def compose(input, tau):
        m, n, k = *input.meta.shape[-2:], tau.meta.shape[-1]
        return reflected(eye(input.meta, m, n).expand(input.meta.shape),
                         reflector_columns(input, k), tau, reversed(range(k)))


@composite(method=True)
def orgqr(input, tau):
    """`linalg.householder_product` by LAPACK's name."""
    return linalg_householder_product.fn(input, tau)


@kernel_op("input: T, tau: T, other: T, left=True, transpose=False")
class ormqr:
    """`other` multiplied by the whole Q that the reflectors of `geqrf` stand for, from the left or
    the right, transposed (conjugated too) if asked for."""

    method = True
    host = lapack.apply_reflectors

    def meta(input, tau, other, left, transpose):
        check_ormqr(input, tau, other, left)
        return [(other.dtype, other.shape, columns(other.shape))]

    def compose(input, tau, other, left, transpose):
        k = tau.meta.shape[-1]
        vectors = reflector_columns(input, k)
        if not left:  # C Q = (Q^H C^H)^H
            other, transpose = other.mH, not transpose
        if transpose:
            out = reflected(other, vectors, tau.conj(), range(k))
        else:
            out = reflected(other, vectors, tau, reversed(range(k)))
        return out if left else out.mH


def check_ormqr(input, tau, other, left):
    """RuntimeError unless the shapes and dtypes of `ormqr` fit."""
    for name, m in (("input", input), ("other", other)):
        if m.ndim < 2:
            raise RuntimeError(f"torch.ormqr: {name} must have at least 2 dimensions.")
    inexact("torch.ormqr", input)
    dim, side = (-2, "-2") if left else (-1, "-1")
    if other.shape[dim] < tau.shape[-1]:
        raise RuntimeError(f"torch.ormqr: other.shape[{side}] must be greater than or equal to "
                           "tau.shape[-1]")
    if other.shape[dim] != input.shape[-2]:
        raise RuntimeError(f"torch.ormqr: other.shape[{side}] must be equal to input.shape[-2]")
    if tau.shape[-1] > input.shape[-1]:
        raise RuntimeError("torch.ormqr: tau.shape[-1] must be less than or equal to "
                           "input.shape[-1]")
    if tau.ndim != input.ndim - 1 or tau.shape[:-1] != input.shape[:-2]:
        raise RuntimeError("torch.ormqr: Expected tau to have one dimension less than input and "
                           f"the same batch dimensions, but got tau {list(tau.shape)}")
    if other.ndim != input.ndim or other.shape[:-2] != input.shape[:-2]:
        raise RuntimeError("torch.ormqr: Expected other and input to have the same batch "
                           f"dimensions, but got {list(other.shape)} and {list(input.shape)}")
    for name, m in (("tau", tau), ("other", other)):
        if m.dtype is not input.dtype:
            raise RuntimeError(f"torch.ormqr: Expected input and {name} to have the same dtype, "
                               f"but input has dtype {input.dtype!r} and {name} has dtype "
                               f"{m.dtype!r}")
