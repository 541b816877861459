"""Eigenvalues, singular values and what is made of them, as functions on NumPy arrays.

Floor 3; imports base and `lapack`, which says how such functions work.
"""

from __future__ import annotations

import numpy as np

from ..base.errors import LinAlgError
from .lapack import blocked, keep, over, raising, routine

# ---- eigenvalues and singular values -----------------------------------------------------------

def eigh(call):
    """(eigenvalues, eigenvectors) or (eigenvalues) from (A), of which one triangle is read."""
    vectors = len(call.outputs) == 2
    syevd, lower = routine("syevd", call.inputs[0].dtype), call.UPLO.upper() == "L"

    def one(values, v):
        values[...], done, info = syevd(v, vectors, lower, overwrite_a=vectors)
        if vectors:
            keep(v, done)
        return info

    run = over(one, (*call.outputs, *call.inputs), (1, 2, 2) if vectors else (1, 2),
               start=1 if vectors else None)
    return raising("eig", "linalg.eigh" if vectors else "linalg.eigvalsh", run)


def eig(call):
    """(eigenvalues, eigenvectors) or (eigenvalues) from (A)."""
    vectors, m = len(call.outputs) == 2, call.inputs[0]
    name = "linalg.eig" if vectors else "linalg.eigvals"
    geev, work = routine("geev", m.dtype), blocked(m.shape[-1])

    def one(values, *rest):
        a = rest[-1]
        if not np.isfinite(a).all():  # LAPACK may not return
            raise LinAlgError(f"{name}: input tensor should not contain infs or NaNs.")
        *w, _, v, info = geev(a, 0, vectors, lwork=work)
        values[...] = w[0]
        if len(w) == 2:  # of a real matrix: real and imaginary parts
            values.imag = w[1]
        if vectors:
            rest[0][...] = v
            if len(w) == 2:  # v[:, k] + i v[:, k + 1] belongs to the first of a conjugate pair
                first = np.flatnonzero(w[1] > 0)
                rest[0][:, first] += 1j * v[:, first + 1]
                rest[0][:, first + 1] = rest[0][:, first].conj()
        return info

    ranks = (1, 2, 2) if vectors else (1, 2)
    return raising("eig", name, over(one, (*call.outputs, *call.inputs), ranks))


def svd(call):
    """(U, S, Vh) or (S) from (A)."""
    vectors = len(call.outputs) == 3
    gesdd = routine("gesdd", call.inputs[0].dtype)
    full = int(vectors and bool(call.full_matrices))

    def one(*arrays):
        a = arrays[-1]
        u, s, vh, info = gesdd(a, vectors, full)
        if vectors:
            arrays[0][...], arrays[1][...], arrays[2][...] = u, s, vh
        else:
            arrays[0][...] = s
        return info

    def none(*arrays):
        if vectors:
            arrays[0][...], arrays[2][...] = np.eye(*arrays[0].shape), np.eye(*arrays[2].shape)
        return 0

    ranks = (2, 1, 2, 2) if vectors else (1, 2)
    return raising("svd", "linalg.svd" if vectors else "linalg.svdvals",
                     over(one, (*call.outputs, *call.inputs), ranks, none))


def pseudo_inverse(call):
    """(pinv) from (A, atol, rtol): singular values up to max(atol, rtol * largest) count as 0."""
    out, source, *tolerances = [*call.outputs, *call.inputs]
    shape = (*out.shape[:-2], *source.shape[-2:])
    solver = routine("syevd" if call.hermitian else "gesdd", source.dtype)
    product = routine("gemm", source.dtype)

    def one(out, atol, rtol, a):
        if call.hermitian:
            w, u, info = solver(a, 1, 1)
            v, s = u, np.abs(w)
        else:
            u, w, v, info = solver(a, 1, 0)  # v is already adjoint
            s = w
        with np.errstate(divide="ignore"):
            inverse = np.where(s > max(atol, rtol * s.max()), 1 / w, 0).astype(w.dtype)
        out[...] = product(1, v, u * inverse, trans_a=0 if call.hermitian else 2, trans_b=2)
        return info

    run = raising("svd", "linalg.pinv", over(one, (out, *tolerances, source), (2, 0, 0, 2)))
    return lambda out, a, atol, rtol: run(out, atol, rtol, np.broadcast_to(a, shape))


# ---- least squares -----------------------------------------------------------------------------

def _driver(name, d, m, n, k, rcond):
    """A function (a, b, with room for the solution) -> solution, rank, singular values, info."""
    solver, size = routine(name, d), routine(f"{name}_lwork", d)
    if name == "gels":
        work = int(np.real(size(m, n, k)[0]))

        def run(a, b):
            _, x, info = solver(a, b, lwork=work)
            return x, 0, (), info
    elif name == "gelsy":
        work = int(np.real(size(m, n, k, rcond)[0]))

        def run(a, b):
            _, x, _, rank, info = solver(a, b, np.zeros((n, 1), np.int32), rcond, work, 0, 0)
            return x, rank, (), info
    elif name == "gelsd":
        sizes = [int(np.real(w)) for w in size(m, n, k, rcond)[:-1]]

        def run(a, b):
            x, s, rank, info = solver(a, b, *sizes, rcond, 0, 0)
            return x, rank, s, info
    else:
        work = int(np.real(size(m, n, k, rcond)[0]))

        def run(a, b):
            _, x, s, rank, _, info = solver(a, b, rcond, work, 0, 0)
            return x, rank, s, info
    return run


def lstsq(call):
    """(solution, residuals, rank, singular values) from (A, B) by `driver`."""
    a, b = call.inputs
    (m, n), k = a.shape[-2:], b.shape[-1]
    solver = _driver(call.driver, a.dtype, m, n, k, call.rcond) if m and n and k else None

    def one(x, residuals, rank, s, a, b):
        room = np.zeros((max(m, n), k), a.dtype, order="F")
        room[:m] = b
        solution, r, values, info = solver(a, room)
        x[...] = solution[:n]
        rest = solution[n:m]
        residuals[...] = (rest * rest.conj()).real.sum(0)
        rank[...] = r
        s[...] = values if len(values) else 0
        return info

    def none(x, residuals, rank, s, a, b):
        x[...], rank[...], s[...] = 0, 0, 0
        residuals[...] = (b * b.conj()).real.sum(0) if m > n else 0
        return 0

    # the rank is one number per matrix: as a core dim of size 1 it can be written to
    run = over(one, (*call.outputs, a, b), (2, 1, 1, 1, 2, 2), none)

    def spread(x, residuals, rank, s, a, b):
        return run(x, residuals, rank[..., None], s, a, b)

    return raising("lstsq", "torch.linalg.lstsq", spread)
