"""Pseudo-inverses and least squares.

Floor 3. Source of the derivatives: Golub and Pereyra, "The differentiation of pseudo-inverses and
nonlinear least squares problems whose variables separate" (1973).
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import broadcast_shapes
from . import batch_rules, lapack_spectra
from .facts import examples
from .linalg_checks import MATRICES, columns, eps, inexact, op, same_dtype, square
from .linalg_solve import to_shape, vectors_of
from .registry import composite, kernel_op


def tolerances(name, m, atol, rtol):
    """(atol, rtol) as real tensors: rtol is eps * max(m, n) unless one of them says otherwise."""
    real = m.dtype.to_real()

    def tensor(value):
        if not hasattr(value, "meta"):
            return op("full")((), float(value), dtype=real, device=m.device)
        if value.meta.dtype.kind == "c":
            raise RuntimeError(f"{name}: tolerances of complex type are not supported. Got "
                               f"{value.meta.dtype!r}")
        return value.detach().to(real)

    default = eps(real) * max(m.shape[-2:])
    if rtol is None:
        if atol is None:
            rtol = default
        elif hasattr(atol, "meta"):
            rtol = op("where")(atol.detach() > 0, 0.0, default)
        else:
            rtol = 0.0 if atol > 0 else default
    return tensor(0.0 if atol is None else atol), tensor(rtol)


@kernel_op("input: T, atol: T, rtol: T, hermitian=False")
class pinv_within:
    """The pseudo-inverse; singular values up to max(atol, rtol * largest) count as 0."""

    where = ()
    save = ("input", "out")
    host = lapack_spectra.pseudo_inverse

    def meta(input, atol, rtol, hermitian):
        *batch, m, n = input.shape
        for t in (atol, rtol):
            batch = broadcast_shapes(tuple(batch), t.shape)
        return [(input.dtype, (*batch, n, m), columns((*batch, n, m)))]

    def vjp(ctx, g):
        return to_shape(pinv_gradient(g, ctx.input, ctx.out), ctx.meta("input")), None, None


def pinv_gradient(g, a, p):
    """The gradient of A from that of its pseudo-inverse P (Golub and Pereyra, eq. 4.12)."""
    h = p.mH
    first = g.mH @ p  # the two terms that vanish for square regular matrices
    outer = first @ h - a @ (p @ (first @ h))
    second = h @ (p @ g.mH)
    return outer + second - (second @ p) @ a - h @ g @ h


@composite(out_cast="safe", replay=True, where=("linalg",), samples=MATRICES)
def linalg_pinv(input, rcond=None, hermitian=False, *, atol=None, rtol=None):
    """The Moore-Penrose pseudo-inverse. Singular values (eigenvalues if `hermitian`) up to
    max(atol, rtol * largest) count as 0; tolerances are numbers or tensors, one per matrix."""
    m = input.meta
    if m.ndim < 2 or m.dtype.kind not in "fc" or m.dtype.itemsize < 4:
        raise RuntimeError(f"linalg.pinv({m.dtype!r}{list(m.shape)}): expected a tensor with 2 or "
                           "more dimensions of float, double, cfloat or cdouble types")
    if hermitian:
        square("linalg.pinv", m)
    atol, rtol = tolerances("torch.linalg.pinv", m, atol, rcond if rtol is None else rtol)
    return pinv_within.fn(input, atol, rtol, bool(hermitian))


@composite(replay=True, method=True, samples=MATRICES)
def pinverse(input, rcond=1e-15):
    """`linalg.pinv` with a relative tolerance."""
    return linalg_pinv.fn(input, rcond)


@kernel_op("A: T, B: T, rcond, driver")
class least_squares:
    """(X, squared residuals, rank, singular values): X of least norm that minimises |A X - B|."""

    where = ()
    noutputs = 4
    diff_outputs = 2
    save = ("A", "B", "out")
    host = lapack_spectra.lstsq
    batch = batch_rules.unless_ranks_differ

    def meta(A, B, rcond, driver):
        m, n = A.shape[-2:]
        batch = broadcast_shapes(A.shape[:-2], B.shape[:-2])
        shape = (*batch, n, B.shape[-1])
        real = A.dtype.to_real()
        return [(A.dtype, shape, columns(shape)), (real, (*batch, B.shape[-1])),
                (dt.int64, batch), (real, (*batch, min(m, n)))]

    def vjp(ctx, g, gr):
        a, b, x = ctx.A, ctx.B, ctx.out
        p = linalg_pinv.fn(a)
        gb = p.mH @ g
        ga = pinv_gradient(g @ b.mH, a, p)
        if a.meta.shape[-2] > a.meta.shape[-1]:
            rest = (a @ x - b) * (2 * gr).unsqueeze(-2)
            ga, gb = ga + rest @ x.mH, gb - rest
        return to_shape(ga, ctx.meta("A")), to_shape(gb, ctx.meta("B"))


@composite(where=("linalg",), returns=("solution", "residuals", "rank", "singular_values"))
def linalg_lstsq(input, b, rcond=None, *, driver=None):
    """(solution, residuals, rank, singular_values) of least squares problems |A X - b|.

    `driver` is "gelsy" (the default: QR with pivoting), "gels" (A has full rank), "gelsd" or
    "gelss" (from singular values). Residuals are there for tall matrices of full rank and every
    driver but gelsy, the rank for all but gels, singular values for gelsd and gelss; else empty.
    """
    name, A, B = "torch.linalg.lstsq", input.meta, b.meta
    if A.ndim < 2:
        raise RuntimeError(f"{name}: input must have at least 2 dimensions.")
    if B.ndim < 1:
        raise RuntimeError(f"{name}: other must have at least 1 dimension.")
    inexact(name, A)
    same_dtype(name, A, B, "input", "other")
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise RuntimeError(f"{name}: parameter `driver` should be one of (gels, gelsy, gelsd, "
                           "gelss)")
    if A.ndim - B.ndim not in (0, 1):
        raise RuntimeError(f"{name}: input.dim() must be greater or equal to other.dim() and "
                           "(input.dim() - other.dim()) <= 1")
    vector = vectors_of(A, B)
    if A.shape[-2] != B.shape[-1 if vector else -2]:
        raise RuntimeError(f"{name}: input.size(-2) should match other.size(-"
                           f"{1 if vector else 2})")
    driver = driver or "gelsy"
    m, n = A.shape[-2:]
    rcond = eps(A.dtype) * max(m, n) if rcond is None else float(rcond)
    x, rest, rank, s = least_squares.fn(input, b.unsqueeze(-1) if vector else b, rcond, driver)
    tall = m > n and driver != "gelsy" and (driver == "gels" or bool((examples(rank) == n).all()))
    none = input.detach().new_empty((0,))
    return (x.squeeze(-1) if vector else x, rest if tall else rest.reshape((-1,))[:0],
            none.to(dt.int64) if driver == "gels" else rank,
            s if driver in ("gelsd", "gelss") else none.to(A.dtype.to_real()))
