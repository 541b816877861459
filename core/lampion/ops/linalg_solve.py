"""Linear equations: triangular and general solves, inverses, determinants.

Floor 3. Batch dims broadcast. The primitives' `host` parts are LAPACK's (see `lapack.py`); vjps are
tensor operations, so that they have derivatives of their own. Sources: Giles, "Collected matrix
derivative results for forward and reverse mode AD" (2008). A first derivative reuses the LU
factors of the call; where the derivative is itself recorded, the equations are solved anew from A.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..base.meta import broadcast_shapes
from . import batch_rules, lapack
from .facts import examples
from .linalg_checks import (
    SQUARES,
    columns,
    eps,
    eye,
    inexact,
    matrices,
    op,
    same_dtype,
    square,
)
from .registry import composite, kernel_op
from .shapes import sum_to_shape


def to_shape(g, m):
    """A gradient summed over what was broadcast."""
    return g if g.meta.shape == m.shape else sum_to_shape(g, m.shape)


def solvable(name, a, b, left=True):
    """The shape of X in A X = B (or X A = B). RuntimeError if A and B do not fit."""
    n = square(name, a)
    matrices(name, b, "B")
    if b.shape[-2 if left else -1] != n:
        raise RuntimeError(f"{name}: Incompatible shapes of A and B for the equation "
                           f"{'AX = B' if left else 'XA = B'} ({a.shape[-2]}x{a.shape[-1]} and "
                           f"{b.shape[-2]}x{b.shape[-1]})")
    try:
        return (*broadcast_shapes(a.shape[:-2], b.shape[:-2]), *b.shape[-2:])
    except RuntimeError as e:
        raise RuntimeError(f"{name}: {e} (batch dims {list(a.shape[:-2])} of A and "
                           f"{list(b.shape[:-2])} of B)") from None


def vectors_of(a, b):
    """Whether B is one right-hand side per matrix, without a dim for columns."""
    return b.ndim == 1 or (a.ndim - 1 == b.ndim and b.shape == a.shape[:-1])


# ---- triangles ---------------------------------------------------------------------------------

@kernel_op("A: T, B: T, *, upper, left=True, unitriangular=False")
class linalg_solve_triangular:
    """X with A X = B (X A = B unless `left`) for upper or lower triangular A. The other triangle
    is not read, nor the diagonal if `unitriangular`; a 0 on the diagonal gives inf or NaN."""

    where = ("linalg",)
    save = ("A", "out")
    samples = """
        f(3, 3), f(3, 2), upper=True
        f(2, 3, 3), f(3, 2), upper=False, unitriangular=True
        f(3, 3).transposed, f(4, 2, 3), upper=False, left=False
        f(0, 0), f(0, 2), upper=True
        c(2, 2), c(2, 1), upper=True
    """
    host = lapack.triangular
    batch = batch_rules.unless_ranks_differ

    def meta(A, B, upper, left, unitriangular):
        name = "linalg.solve_triangular"
        same_dtype(name, A, B)
        inexact(name, A)
        shape = solvable(name, A, B, left)
        return [(A.dtype, shape, columns(shape))]

    def vjp(ctx, g):
        a, x, left = ctx.A.mH, ctx.out, ctx.left
        gb = linalg_solve_triangular.fn(a, g, upper=not ctx.upper, left=left,
                                        unitriangular=ctx.unitriangular)
        ga = None
        if ctx.needs("A"):
            ga = -(gb @ x.mH) if left else -(x.mH @ gb)
            edge = 1 if ctx.unitriangular else 0
            ga = to_shape(ga.triu(edge) if ctx.upper else ga.tril(-edge), ctx.meta("A"))
        return ga, to_shape(gb, ctx.meta("B")) if ctx.needs("B") else None


@composite(replay=True, method=True, returns=("solution", "cloned_coefficient"))
def triangular_solve(b, A, upper=True, transpose=False, unitriangular=False):
    """(X, a copy of A) with A X = b (the older form of `linalg.solve_triangular`)."""
    for name, m in (("b", b.meta), ("A", A.meta)):
        if m.ndim < 2:
            raise RuntimeError(f"torch.triangular_solve: Expected {name} to have at least 2 "
                               f"dimensions, but it has {m.ndim} dimensions instead")
    a, upper = (A.mT, not upper) if transpose else (A, upper)
    x = linalg_solve_triangular.fn(a, b, upper=bool(upper), unitriangular=unitriangular)
    return x, A.expand(x.meta.shape[:-2] + A.meta.shape[-2:]).clone()


@kernel_op("B: T, L: T, upper=False", out_cast="safe")
class cholesky_solve:
    """X with A X = B, given the Cholesky factor of A."""

    method = True
    save = ("L", "out")
    samples = """
        f(3, 2), v([[2, 0, 0], [1, 1, 0], [-1, 2, 3]], dtype=float32)
        f(2, 2, 1), v([[1, 2], [0, 3]], dtype=float32), True
    """
    host = lapack.cholesky_solve
    batch = batch_rules.unless_ranks_differ

    def meta(B, L, upper):
        for name, m in (("b", B), ("u", L)):
            if m.ndim < 2:
                raise RuntimeError(f"{name} should have at least 2 dimensions, but has {m.ndim} "
                                   "dimensions instead")
        inexact("cholesky_solve", L)
        same_dtype("cholesky_solve", B, L, "b", "A")
        shape = solvable("cholesky_solve", L, B)
        return [(B.dtype, shape, columns(shape))]

    def vjp(ctx, g):
        factor, x, gl = ctx.L, ctx.out, None
        gb = cholesky_solve.fn(g, factor, ctx.upper)
        if ctx.needs("L"):
            both = gb @ x.mH
            both = both + both.mH
            gl = to_shape(-(factor @ both if ctx.upper else both @ factor), ctx.meta("L"))
        return to_shape(gb, ctx.meta("B")) if ctx.needs("B") else None, gl


@kernel_op("input: T, upper=False", out_cast="safe")
class cholesky_inverse:
    """The inverse of A, given its Cholesky factor. LinAlgError for a 0 on the diagonal."""

    method = True
    save = ("input", "out")
    host = lapack.cholesky_inverse
    batch = ""

    def meta(input, upper):
        inexact("cholesky_inverse", input)
        square("cholesky_inverse", input)
        return [(input.dtype, input.shape, columns(input.shape))]

    def vjp(ctx, g):
        factor, x = ctx.input, ctx.out
        both = x @ (g + g.mH) @ x
        return (-(factor @ both if ctx.upper else both @ factor),)


# ---- LU ----------------------------------------------------------------------------------------

@kernel_op("LU: T, pivots: T, B: T, adjoint=False")
class lu_substitute:
    """X with A X = B (A^H X = B if `adjoint`), given the LU factors and pivots of A."""

    where = ()
    host = lapack.lu_solve
    batch = batch_rules.unless_ranks_differ

    def meta(LU, pivots, B, adjoint):
        shape = solvable("linalg.lu_solve", LU, B)
        return [(B.dtype, shape, columns(shape))]

    def compose(LU, pivots, B, adjoint):
        from .linalg_factor import exchanged

        step = linalg_solve_triangular.fn
        batch = broadcast_shapes(LU.meta.shape[:-2], B.meta.shape[:-2])
        B = B.expand(batch + B.meta.shape[-2:])
        if adjoint:
            y = step(LU.mH, B, upper=False)
            return exchanged(step(LU.mH, y, upper=True, unitriangular=True), pivots, back=True)
        y = step(LU, exchanged(B, pivots), upper=False, unitriangular=True)
        return step(LU, y, upper=True)


@composite(replay=True, where=("linalg",))
def linalg_lu_solve(LU, pivots, B, *, left=True, adjoint=False):
    """X with A X = B (X A = B unless `left`; A^H for A if `adjoint`), given `lu_factor` of A."""
    name = "linalg.lu_solve"
    inexact(name, LU.meta)
    same_dtype(name, LU.meta, B.meta, "LU")
    if pivots.meta.dtype is not dt.int32:
        raise RuntimeError(f"{name}: pivots should be a Tensor of scalar type torch.int32. Got "
                           f"{pivots.meta.dtype!r}")
    solvable(name, LU.meta, B.meta, left)
    if pivots.meta.shape != LU.meta.shape[:-1]:
        raise RuntimeError(f"{name}: Number of pivots per batch should be same as the dimension "
                           "of the matrix")
    if left:
        return lu_substitute.fn(LU, pivots, B, bool(adjoint))
    return lu_substitute.fn(LU, pivots, B.mH, not adjoint).mH


@composite(replay=True, method=True)
def lu_solve(b, LU_data, LU_pivots):
    """X with A X = b, given `lu_factor` of A (the older form of `linalg.lu_solve`)."""
    return linalg_lu_solve.fn(LU_data, LU_pivots, b)


SYSTEMS = """
    f(3, 3), f(3, 2)
    f(3, 3), f(3)
    f(2, 3, 3).transposed, f(2, 3)
    f(3, 3), f(2, 2, 3), left=False
    f(0, 0), f(0, 2)
    c(2, 2), c(2, 1)
"""


# ---- general matrices --------------------------------------------------------------------------

@kernel_op("A: T, B: T, *, check_errors=False")
class solve_with_factors:
    """(X, LU, pivots, info) with A X = B."""

    where = ()
    noutputs = 4
    diff_outputs = 1
    save = ("A", "out", "out1", "out2")
    host = lapack.solve
    batch = batch_rules.unless_ranks_differ

    def meta(A, B, check_errors):
        shape = solvable("linalg.solve", A, B)
        return [(B.dtype, shape, columns(shape)), (A.dtype, A.shape, columns(A.shape)),
                (dt.int32, A.shape[:-1]), (dt.int32, A.shape[:-2])]

    def vjp(ctx, g):
        x = ctx.out
        if x.node is None:
            gb = lu_substitute.fn(ctx.out1, ctx.out2, g, True)
        else:
            gb = solve_with_factors.fn(ctx.A.mH, g)[0]
        ga = to_shape(-(gb @ x.mH), ctx.meta("A")) if ctx.needs("A") else None
        return ga, to_shape(gb, ctx.meta("B")) if ctx.needs("B") else None


@composite(replay=True, where=("linalg",), returns=("result", "info"), samples=SYSTEMS)
def linalg_solve_ex(A, B, *, left=True, check_errors=False):
    """(X, info) with A X = B (X A = B unless `left`). B may be vectors, one per matrix. `info` is
    0, or k if the pivot k (from 1) is 0; with `check_errors` that is a LinAlgError."""
    name, a, b = "linalg.solve", A.meta, B.meta
    inexact(name, a)
    same_dtype(name, a, b)
    square(name, a)
    vector = vectors_of(a, b)
    if vector:
        if not left:
            raise RuntimeError("linalg.solve: Vector broadcasting of the right hand side is not "
                               "supported for left=False. In this case linalg.solve is equivalent "
                               "to B / A.squeeze(-1)")
        B = B.unsqueeze(-1)
    if left:
        x, _, _, info = solve_with_factors.fn(A, B, check_errors=check_errors)
    else:
        solvable(name, a, b, left)
        x, _, _, info = solve_with_factors.fn(A.mT, B.mT, check_errors=check_errors)
        x = x.mT
    return (x.squeeze(-1) if vector else x), info


@composite(replay=True, where=("linalg",), samples=SYSTEMS)
def linalg_solve(A, B, *, left=True):
    """X with A X = B (X A = B unless `left`); B may be vectors, one per matrix.

    LinAlgError, naming the batch element, for a singular matrix.

    >>> A, b = lampion.tensor([[2., 0.], [0., 4.]]), lampion.tensor([2., 8.])
    >>> lampion.linalg.solve(A, b).tolist()
    [1.0, 2.0]
    """
    return linalg_solve_ex.fn(A, B, left=left, check_errors="torch.linalg.solve")[0]


@kernel_op("A: T, *, check_errors=False")
class linalg_inv_ex:
    """(inverse, info) of square matrices. `info` is 0, or k if the pivot k (from 1) is 0; with
    `check_errors` that is a LinAlgError."""

    where = ("linalg",)
    noutputs = 2
    diff_outputs = 1
    returns = ("inverse", "info")
    save = ("out",)
    host = lapack.inverse
    batch = ""

    def meta(A, check_errors):
        inexact("linalg.inv", A)
        square("linalg.inv", A)
        return [(A.dtype, A.shape, columns(A.shape)), (dt.int32, A.shape[:-2])]

    def vjp(ctx, g):
        x = ctx.out.mH
        return (-(x @ g @ x),)


@composite(replay=True, where=("linalg",), samples=SQUARES)
def linalg_inv(A):
    """The inverse of square matrices. LinAlgError, naming the batch element, for a singular one.

    >>> lampion.linalg.inv(lampion.tensor([[2., 0.], [0., 4.]])).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    return linalg_inv_ex.fn(A, check_errors="linalg.inv")[0]


@composite(replay=True, method=True, samples="f(3, 3) \n f(2, 2, 2).transposed \n c(2, 2)")
def inverse(input):
    """`linalg.inv`."""
    return linalg_inv_ex.fn(input, check_errors="linalg.inv")[0]


# ---- determinants ------------------------------------------------------------------------------

def with_factors(m):
    """Metas of the LU factors and pivots of a call."""
    return [(m.dtype, m.shape, columns(m.shape)), (dt.int32, m.shape[:-1])]


def times_identity(d, m):
    """A number per matrix, on the diagonal of matrices like those of a meta."""
    return d.unsqueeze(-1).unsqueeze(-1) * eye(m, m.shape[-1])


@kernel_op("A: T")
class det_with_factors:
    """(det, LU, pivots)."""

    where = ()
    noutputs = 3
    diff_outputs = 1
    save = ("A", "out", "out1", "out2")
    host = lapack.determinant
    batch = ""

    def meta(A):
        inexact("linalg.det", A)
        square("linalg.det", A)
        return [(A.dtype, A.shape[:-2]), *with_factors(A)]

    def vjp(ctx, g):
        a, det = ctx.A, ctx.out
        if bool((examples(det) == 0).any()):
            return (adjugate(a, g),)
        d = times_identity(g * det.conj(), a.meta)
        if det.node is None:
            return (lu_substitute.fn(ctx.out1, ctx.out2, d, True),)
        return (solve_with_factors.fn(a.mH, d)[0],)


def adjugate(a, g):
    """g times the conjugate transpose of the adjugate of A, singular or not: from A = U S V^H,
    det(U V^H)^* U diag(products of the other singular values) V^H."""
    u, s, vh = op("linalg_svd")(a)
    unit = det.fn(u) * det.fn(vh)
    n = s.meta.shape[-1]
    others = s.unsqueeze(-2).masked_fill(eye(s.meta, n) != 0, 1.0).prod(-1)
    return (u * ((g * unit.conj()).unsqueeze(-1) * others).unsqueeze(-2)) @ vh


@composite(replay=True, method=True, where=("", "linalg"), samples=SQUARES)
def det(A):
    """Determinants of square matrices; 0 for singular ones, whose gradient is exact too.

    >>> lampion.linalg.det(lampion.tensor([[1., 2.], [3., 4.]])).item()
    -2.0
    """
    return det_with_factors.fn(A)[0]


@kernel_op("A: T")
class slogdet_with_factors:
    """(sign, log |det|, LU, pivots)."""

    where = ()
    noutputs = 4
    diff_outputs = 2
    save = ("A", "out", "out2", "out3")
    host = lapack.log_determinant
    batch = ""

    def meta(A):
        inexact("linalg.slogdet", A)
        square("linalg.slogdet", A)
        return [(A.dtype, A.shape[:-2]), (A.dtype.to_real(), A.shape[:-2]), *with_factors(A)]

    def vjp(ctx, gs, gl):
        # d log det = tr(A^-1 dA) = z; the log of the size moves by Re z, the sign by i sign Im z
        a, sign, lu = ctx.A, ctx.out, ctx.out2
        if a.meta.dtype.kind == "c":
            gl = op("complex")(gl, -op("imag")(gs.conj() * sign))
        d = times_identity(gl, a.meta)
        if sign.node is not None:
            return (solve_with_factors.fn(a.mH, d)[0],)
        zero = lu.diagonal(0, -2, -1) == 0  # a singular matrix: the gradient of one close to it
        tiny = zero.to(a.meta.dtype) * eps(a.meta.dtype)
        return (lu_substitute.fn(lu + tiny.diag_embed(), ctx.out3, d, True),)


@composite(replay=True, method=True, where=("", "linalg"), returns=("sign", "logabsdet"),
           samples=SQUARES)
def slogdet(A):
    """(sign, log |det|) of square matrices; (0, -inf) for singular ones."""
    return slogdet_with_factors.fn(A)[:2]


@composite(replay=True, method=True, samples="c(3, 3) \n f(2, 1, 1, low=0.5) \n f(0, 0) \n"
           "v([[1, 2], [3, 4.0]]) \n v([[1, 2], [2, 4.0]])")
def logdet(input):
    """The log of determinants: -inf for 0, NaN for negative ones of real matrices."""
    inexact("logdet", input.meta)
    square("logdet", input.meta)
    sign, size = slogdet.fn(input)
    if input.meta.dtype.kind == "c":
        return size + sign.log()
    return op("where")(sign == -1, math.nan, size)


# ---- symmetric indefinite ----------------------------------------------------------------------

@kernel_op("LD: T, pivots: T, B: T, *, hermitian=False")
class linalg_ldl_solve:
    """X with A X = B, given `linalg.ldl_factor` of A."""

    where = ("linalg",)
    differentiable = False
    host = lapack.ldl_solve
    batch = batch_rules.unless_ranks_differ

    def meta(LD, pivots, B, hermitian):
        name = "torch.linalg.ldl_solve"
        inexact(name, LD)
        same_dtype(name, LD, B, "LD")
        shape = solvable(name, LD, B)
        if B.ndim < LD.ndim - 1:
            raise RuntimeError(f"{name}: Expected B to have at least {LD.ndim - 1} dimensions")
        if pivots.dtype.kind not in "iu":
            raise RuntimeError(f"{name}: Expected pivots to be integers. Got {pivots.dtype!r}")
        if pivots.shape != LD.shape[:-1]:
            raise RuntimeError(f"{name}: Expected LD.shape[:-1] and pivots.shape to be the same, "
                               f"but got pivots with shape {list(pivots.shape)} instead")
        return [(B.dtype, shape, columns(shape))]


# ---- tensors as matrices -----------------------------------------------------------------------

@composite(out_cast="safe", replay=True, where=("linalg",),
           samples="f(2, 2, 4) \n f(6, 2, 3), ind=1")
def linalg_tensorinv(A, ind=2):
    """The inverse of A as a map from its last dims to its first `ind` dims."""
    m = A.meta
    if ind <= 0:
        raise RuntimeError("Expected a strictly positive integer for 'ind'")
    rows, cols = math.prod(m.shape[:ind]), math.prod(m.shape[ind:])
    if rows != cols:
        raise RuntimeError("Expected self to satisfy the requirement prod(self.shape[ind:]) == "
                           f"prod(self.shape[:ind]), but got {cols} != {rows}")
    return linalg_inv.fn(A.reshape((rows, cols))).reshape(m.shape[ind:] + m.shape[:ind])


@composite(out_cast="safe", replay=True, where=("linalg",),
           samples="f(2, 3, 6), f(2, 3) \n f(6, 2, 3), f(6) \n"
           "f(2, 6, 3), f(2, 3), dims=(1,)")
def linalg_tensorsolve(A, B, dims=None):
    """X with tensordot(A, X, X.ndim) = B; `dims` of A are moved to its end first."""
    if dims is not None:
        dims = [d % A.meta.ndim for d in dims]
        A = A.movedim(dims, [A.meta.ndim - len(dims) + k for k in range(len(dims))])
    shape = A.meta.shape[B.meta.ndim:]
    n = B.meta.numel
    if math.prod(shape) != n:
        raise RuntimeError("Expected self to satisfy the requirement prod(self.shape[other.ndim:]) "
                           f"== prod(self.shape[:other.ndim]), but got {math.prod(shape)} != {n}")
    return linalg_solve.fn(A.reshape((n, n)), B.reshape((n,))).reshape(shape)
