"""Eigenvalues and singular values.

Floor 3. The iterations run in NumPy or LAPACK (see `lapack_spectra.py`); vjps are tensor
operations, so that they have derivatives of their own. Sources: Giles, "Collected matrix derivative
results for forward and reverse mode AD" (2008); Wan and Zhang, "Automatic differentiation for
complex valued SVD" (2019). Vectors are determined up to a factor of size 1: a gradient exists only
for what does not depend on that factor, which is checked, and repeated values give infinite
gradients.
"""

from __future__ import annotations

from ..base import dtype as dt
from . import lapack_spectra as lapack
from .facts import examples
from .linalg_checks import MATRICES, columns, eye, inexact, matrices, op, real_if, square
from .registry import composite, kernel_op


def check_gauge(name, what, phases):
    """RuntimeError if the loss depends on the phase of complex vectors: then the derivatives
    along the phases, the imaginary parts of `phases`, are not zero."""
    if phases.meta.dtype.kind != "c" or not phases.meta.numel:
        return
    phases = examples(phases)
    size = op("imag")(phases).abs().max().item()
    scale = phases.abs().max().item()
    if size > 1e-2 * max(1.0, scale) * (1.0 if phases.meta.dtype is dt.complex64 else 1e-4):
        raise RuntimeError(
            f"{name}: The {what} in the complex case are specified up to multiplication by "
            "e^{i phi}. The specified loss function depends on this quantity, so it is "
            "ill-defined.")


def differences(values):
    """values[j] - values[i] at (i, j), ones on the diagonal."""
    gap = values.unsqueeze(-2) - values.unsqueeze(-1)
    return gap + eye(values.meta, values.meta.shape[-1])


def diagonal(x):
    """The diagonals of matrices."""
    return x.diagonal(0, -2, -1)


# ---- Hermitian matrices ------------------------------------------------------------------------

def check_uplo(uplo):
    """RuntimeError unless "L" or "U" (either case)."""
    if not isinstance(uplo, str) or uplo.upper() not in ("L", "U"):
        raise RuntimeError(f"Expected UPLO argument to be 'L' or 'U', but got {uplo}")


@kernel_op("input: T, UPLO='L'")
class linalg_eigh:
    """(eigenvalues, eigenvectors) of Hermitian matrices, of which one triangle is read; values in
    ascending order, vectors in columns."""

    where = ("linalg",)
    noutputs = 2
    returns = ("eigenvalues", "eigenvectors")
    absent_grads = True
    save = ("out", "out1")
    host = lapack.eigh
    batch = ""

    def meta(input, UPLO):
        inexact("linalg.eigh", input)
        square("linalg.eigh", input)
        check_uplo(UPLO)
        return [(input.dtype.to_real(), input.shape[:-1]),
                (input.dtype, input.shape, columns(input.shape))]

    def vjp(ctx, gw, gv):
        w, v = ctx.out, ctx.out1
        if gv is None:
            return ((v * gw.unsqueeze(-2)) @ v.mH,)
        m = v.mH @ gv
        check_gauge("linalg_eigh_backward", "eigenvectors", diagonal(m))
        middle = (m - m.mH) * 0.5 / differences(w)  # Hermitian, as the matrix is
        middle = middle - diagonal(middle).diag_embed()
        if gw is not None:
            middle = middle + gw.to(v.meta.dtype).diag_embed()
        return (v @ middle @ v.mH,)

    def jvp(ctx, t):
        w, v = ctx.out, ctx.out1
        m = v.mH @ t @ v
        on = diagonal(m)
        dv = v @ ((m - on.diag_embed()) / differences(w))
        return (op("real")(on) if v.meta.dtype.kind == "c" else on), dv


@kernel_op("input: T, UPLO='L'")
class eigvalsh_only:
    """Eigenvalues of Hermitian matrices; the vectors are computed if a gradient needs them."""

    where = ()
    save = ("input",)
    host = lapack.eigh
    batch = ""

    def meta(input, UPLO):
        return linalg_eigh.meta(input, UPLO)[:1]

    def vjp(ctx, g):
        v = linalg_eigh.fn(ctx.input, ctx.UPLO)[1]
        return ((v * g.unsqueeze(-2)) @ v.mH,)


@composite(replay=True, where=("linalg",))
def linalg_eigvalsh(input, UPLO="L"):
    """The eigenvalues of Hermitian matrices in ascending order."""
    if input.node is None:
        return eigvalsh_only.fn(input, UPLO)
    return linalg_eigh.fn(input, UPLO)[0]


# ---- general matrices --------------------------------------------------------------------------

@kernel_op("input: T")
class linalg_eig:
    """(eigenvalues, eigenvectors) of square matrices, complex, in no particular order."""

    where = ("linalg",)
    noutputs = 2
    returns = ("eigenvalues", "eigenvectors")
    absent_grads = True
    save = ("out", "out1")
    host = lapack.eig
    batch = ""

    def meta(input):
        inexact("linalg.eig", input)
        square("linalg.eig", input)
        d = input.dtype.to_complex()
        return [(d, input.shape[:-1]), (d, input.shape, columns(input.shape))]

    def vjp(ctx, gw, gv):
        w, v = ctx.out, ctx.out1
        if gv is None:
            middle = gw.unsqueeze(-1) * v.mH
        else:
            m = v.mH @ gv
            on = diagonal(m)
            check_gauge("linalg_eig_backward", "eigenvectors", on)
            on = op("real")(on).to(v.meta.dtype)  # the vectors are kept at norm 1
            m = (m - (v.mH @ v) * on.unsqueeze(-2)) / differences(w).conj()
            m = m - diagonal(m).diag_embed()
            middle = (m if gw is None else m + gw.diag_embed()) @ v.mH
        g = op("linalg_solve")(v.mH, middle)
        return (real_if(g, ctx.meta("input")),)


@kernel_op("input: T")
class eigvals_only:
    """Eigenvalues of square matrices; the vectors are computed if a gradient needs them."""

    where = ()
    save = ("input",)
    host = lapack.eig
    batch = ""

    def meta(input):
        inexact("linalg.eigvals", input)
        square("linalg.eigvals", input)
        return [(input.dtype.to_complex(), input.shape[:-1])]

    def vjp(ctx, g):
        v = linalg_eig.fn(ctx.input)[1]
        g = op("linalg_solve")(v.mH, g.unsqueeze(-1) * v.mH)
        return (real_if(g, ctx.meta("input")),)


@composite(replay=True, where=("linalg",))
def linalg_eigvals(input):
    """The eigenvalues of square matrices, complex, in no particular order."""
    return eigvals_only.fn(input) if input.node is None else linalg_eig.fn(input)[0]


# ---- singular values ---------------------------------------------------------------------------

@kernel_op("A: T, full_matrices=True, *, driver=None")
class linalg_svd:
    """(U, S, Vh) with A = U diag(S) Vh: orthonormal columns of U and rows of Vh, S descending.
    `full_matrices` completes U and Vh to square ones; gradients of what that adds are not defined
    and taken as 0."""

    where = ("linalg",)
    noutputs = 3
    returns = ("U", "S", "Vh")
    absent_grads = True
    save = ("out", "out1", "out2")
    host = lapack.svd
    batch = ""

    def meta(A, full_matrices, driver):
        inexact("linalg.svd", A)
        matrices("linalg.svd", A)
        if driver is not None:
            raise RuntimeError("torch.linalg.svd: keyword argument `driver=` chooses among the "
                               "solvers of a device that has several; leave it None here.")
        *batch, m, n = A.shape
        k = min(m, n)
        u = (*batch, m, m if full_matrices else k)
        vh = (*batch, n if full_matrices else k, n)
        return [(A.dtype, u, columns(u)), (A.dtype.to_real(), (*batch, k)),
                (A.dtype, vh, columns(vh))]

    def vjp(ctx, gu, gs, gvh):
        k = ctx.out1.meta.shape[-1]
        u, s, vh = ctx.out.narrow(-1, 0, k), ctx.out1, ctx.out2.narrow(-2, 0, k)
        if gu is None and gvh is None:
            return ((u * gs.unsqueeze(-2)) @ vh,)
        gu = u.new_zeros(u.meta.shape) if gu is None else gu.narrow(-1, 0, k)
        gvh = vh.new_zeros(vh.meta.shape) if gvh is None else gvh.narrow(-2, 0, k)
        return (svd_gradient(u, s, vh, gu, gs, gvh),)


def svd_gradient(u, s, vh, gu, gs, gvh):
    """The gradient of A = U diag(S) Vh (Wan and Zhang, with Giles's terms for thin matrices)."""
    m, n, k = u.meta.shape[-2], vh.meta.shape[-1], s.meta.shape[-1]
    d = u.meta.dtype
    a, b = u.mH @ gu, vh @ gvh.mH
    left, right = a - a.mH, b - b.mH
    check_gauge("svd_backward", "singular vectors", diagonal(a) + diagonal(b))
    gap = (s * s).unsqueeze(-2) - (s * s).unsqueeze(-1)
    gap = (gap + eye(s.meta, k)).to(d)
    rows, cols = s.unsqueeze(-1).to(d), s.unsqueeze(-2).to(d)
    middle = (left / gap) * cols + rows * (right / gap)
    middle = middle - diagonal(middle).diag_embed()
    if gs is not None:
        middle = middle + gs.to(d).diag_embed()
    if d.kind == "c":
        middle = middle + (diagonal(left) / (2 * s)).diag_embed()
    g = u @ middle @ vh
    if m > k:
        g = g + (gu - u @ a) / cols @ vh
    if n > k:
        g = g + u @ ((gvh - b.mH @ vh) / rows)
    return g


@kernel_op("A: T")
class svdvals_only:
    """Singular values; the vectors are computed if a gradient needs them."""

    where = ()
    save = ("A",)
    host = lapack.svd
    batch = ""

    def meta(A):
        return [linalg_svd.meta(A, False, None)[1]]

    def vjp(ctx, g):
        u, _, vh = linalg_svd.fn(ctx.A, False)
        return ((u * g.unsqueeze(-2)) @ vh,)


@composite(replay=True, where=("linalg",), samples=MATRICES)
def linalg_svdvals(A, *, driver=None):
    """The singular values of matrices in descending order."""
    if A.node is None and driver is None:
        return svdvals_only.fn(A)
    return linalg_svd.fn(A, False, driver=driver)[1]


@composite(replay=True, method=True, returns=("U", "S", "V"))
def svd(input, some=True, compute_uv=True):
    """(U, S, V) with input = U diag(S) V^H (the older form of `linalg.svd`, which returns V^H).
    Without `compute_uv`, U and V are zeros."""
    if compute_uv:
        u, s, vh = linalg_svd.fn(input, not some)
        return u, s, vh.mH
    *batch, m, n = input.meta.shape
    s = linalg_svdvals.fn(input)
    return input.new_zeros((*batch, m, m)), s, input.new_zeros((*batch, n, n))


# ---- approximations of low rank ----------------------------------------------------------------

def orthonormal(x):
    """An orthonormal basis of the columns."""
    return op("linalg_qr")(x)[0]


def approximate_basis(A, q, niter, M):
    """Q with q orthonormal columns that span most of A's range: Halko, Martinsson and Tropp,
    "Finding structure with randomness" (2011), algorithm 4.4."""
    m = A.meta
    draw = A.new_empty((m.shape[-1], q)).normal_()

    def times(x, adjoint=False):
        y = A.mH @ x if adjoint else A @ x
        return y if M is None else y - (M.mH @ x if adjoint else M @ x)

    basis = orthonormal(times(draw))
    for _ in range(niter):
        basis = orthonormal(times(basis, True))
        basis = orthonormal(times(basis))
    return basis


@composite(out=False)
def svd_lowrank(A, q=6, niter=2, M=None):
    """(U, S, V) of the best found approximation of rank q to A (to A - M if M is given), by
    subspace iteration from a random start."""
    q = 6 if q is None else q
    rows, cols = A.meta.shape[-2:]
    M = None if M is None else M.expand(A.meta.shape)
    wide = rows < cols
    if wide:
        A, M = A.mH, None if M is None else M.mH
    basis = approximate_basis(A, q, niter, M)
    b = basis.mH @ (A if M is None else A - M)
    u, s, vh = linalg_svd.fn(b, False)
    u, v = basis @ u, vh.mH
    return (v, s, u) if wide else (u, s, v)


@composite(out=False)
def pca_lowrank(A, q=None, center=True, niter=2):
    """(U, S, V) of the q principal components of the rows of A, centered unless told not to."""
    m = A.meta
    if m.dtype.kind not in "fc":
        raise ValueError(f"pca_lowrank: input must be floating point or complex, not {m.dtype!r}")
    most = min(m.shape[-2:])
    q = min(6, most) if q is None else q
    if not 0 <= q <= most:
        raise ValueError(f"q(={q}) must be non-negative integer and not greater than "
                         f"min(m, n)={most}")
    if niter < 0:
        raise ValueError(f"niter(={niter}) must be non-negative integer")
    return svd_lowrank.fn(A - A.mean(-2, True) if center else A, q, niter)
