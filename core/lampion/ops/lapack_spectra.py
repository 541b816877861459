"""Eigenvalues, singular values and what is made of them, as functions on NumPy arrays.

Floor 3; imports base and `lapack`, which says how such functions work.
"""

from __future__ import annotations

import numpy as np

from ..base.errors import LinAlgError
from ..runtime.failures import FAILURES
from .lapack import keep, over, raising, routine

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
    vectors = len(call.outputs) == 2
    name = "linalg.eig" if vectors else "linalg.eigvals"

    def run(*arrays):
        a = arrays[-1]
        if not a.size:
            return
        try:
            if vectors:
                arrays[0][...], arrays[1][...] = np.linalg.eig(a)
            else:
                arrays[0][...] = np.linalg.eigvals(a)
        except np.linalg.LinAlgError as e:
            if not np.isfinite(a).all():
                raise LinAlgError(f"{name}: input tensor should not contain infs or NaNs.") from e
            raise LinAlgError(f"{name}: {e}") from e

    return run


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
    hermitian = call.hermitian

    def run(out, a, atol, rtol):
        if not a.size:
            return
        try:
            if hermitian:
                w, u = np.linalg.eigh(a)
                v, s = u, np.abs(w)
            else:
                u, w, vh = np.linalg.svd(a, full_matrices=False)
                v, s = np.conj(np.swapaxes(vh, -2, -1)), w
        except np.linalg.LinAlgError as e:
            kind = "svd" if np.isfinite(a).all() else "finite"
            raise LinAlgError(f"linalg.pinv: {FAILURES[kind].format(info=1)}") from e
        bound = np.maximum(atol, rtol * s.max(-1))
        with np.errstate(divide="ignore"):
            inverse = np.where(s > bound[..., None], 1 / w, 0).astype(w.dtype)
        out[...] = (v * inverse[..., None, :]) @ np.conj(np.swapaxes(u, -2, -1))

    return run


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
