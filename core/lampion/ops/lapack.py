"""The LAPACK set as functions on NumPy arrays: the `host` parts of the linear algebra ops.

Floor 3; imports base, runtime. What NumPy does not hand out (LU, LDL, reflectors, triangular
solves) comes from SciPy's LAPACK, imported when a kernel is first built. Results are stored by
columns, so that LAPACK works in place in them; its wrappers are called directly, a microsecond
each, and matrix by matrix over a batch. Eigenvalues and the like are in `lapack_spectra.py`.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from .. import plugins
from ..base.errors import UnsupportedError
from ..runtime import threads
from ..runtime.failures import fail

_ONE = np.int32(1)  # faster than a Python number
_LETTERS = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}
_HERMITIAN = {"syevd": "heevd", "sytrf_h": "hetrf", "sytrs_h": "hetrs", "orgqr": "ungqr",
              "ormqr": "unmqr"}


@functools.cache
def _libraries():
    """SciPy's BLAS and LAPACK, told how many threads lampion uses."""
    try:
        from scipy.linalg import blas, lapack
    except ImportError as e:
        raise UnsupportedError(
            "linear algebra on the host needs SciPy's LAPACK, which cannot be imported "
            f"({e}). Install it with: pip install scipy") from e
    if "cpu" in plugins.backend_names():  # who else computes on the host has threads of its own
        threads.set_num_threads(threads.get_num_threads())
    return blas, lapack


@functools.cache
def routine(name, dtype):
    """A LAPACK (or BLAS) routine for a dtype, by its name without the letter. A real name stands
    for its complex twin too; "_h" is the Hermitian one of two."""
    blas, lapack = _libraries()
    if dtype.kind == "c":
        name = _HERMITIAN.get(name, name)
    name = _LETTERS[dtype.name] + name.removesuffix("_h")
    return getattr(lapack, name, None) or getattr(blas, name)


# ---- errors --------------------------------------------------------------------------------------

def with_status(call, kind, name, run):
    """A function on arrays from `run`, which takes all but the last output and returns LAPACK's
    codes. That output receives them, and if the call has check_errors (true, or the name that the
    error is to show) the first nonzero one becomes a LinAlgError."""
    at = len(call.outputs) - 1
    wanted = call.check_errors
    name = wanted if isinstance(wanted, str) else name
    single = not call.outputs[at].ndim

    def checking(*arrays):
        codes = run(*arrays[:at], *arrays[at + 1:])
        infos = arrays[at]
        infos[...] = codes if single else np.reshape(codes, infos.shape)
        if wanted and (codes if single else any(codes)):
            first = None if single else int(np.flatnonzero(codes)[0])
            fail(kind, name, codes if single else codes[first], first)

    return checking


def raising(kind, name, run):
    """`run` with a LinAlgError for the first nonzero code."""
    def checking(*arrays):
        codes = run(*arrays)
        many = type(codes) is list
        if any(codes) if many else codes:
            at = int(np.flatnonzero(codes)[0]) if many else None
            source = arrays[-1]
            wrong = source.reshape(-1, *source.shape[-2:])[at or 0]
            fail(kind if kind != "svd" or np.isfinite(wrong).all() else "finite", name,
                 codes if at is None else codes[at], at)

    return checking


# ---- batches -----------------------------------------------------------------------------------

def keep(out, result):
    """Copy a routine's result unless it was made in place (what f2py takes for misaligned is
    copied first, for instance)."""
    if result is not out:
        out[...] = result


def nothing(*parts):
    """What is done with matrices without elements, which LAPACK refuses."""
    return 0


def over(one, metas, ranks, empty=nothing, start=None):
    """A function on whole arrays from `one`, which works on single matrices and returns LAPACK's
    info; the function returns that, or a list of them for a batch. `metas` and `ranks` are the
    arrays' and the number of their core dims, outputs first; batch dims of inputs broadcast.
    `empty` takes the place of `one` where matrices have no elements. With `start`, that output
    begins as a copy of the last input, which `one` does not see: LAPACK works in place."""
    batch = metas[0].shape[:metas[0].ndim - ranks[0]]
    if any(0 in m.shape[m.ndim - r:] for m, r in zip(metas, ranks)):
        one = empty
    if start is not None:
        inner = over(one, metas[:-1], ranks[:-1], empty)

        def copying(*arrays):
            arrays[start][...] = arrays[-1]
            return inner(*arrays[:-1])

        return copying
    if not batch:
        return one
    count = math.prod(batch)

    def stack(a, rank):
        core = a.shape[a.ndim - rank:]
        if a.shape[:a.ndim - rank] != batch:
            a = np.broadcast_to(a, batch + core)
        return a.reshape(count, *core)

    return lambda *arrays: [one(*parts) for parts in zip(*map(stack, arrays, ranks))]


def blocked(n):
    """A size of workspace with which LAPACK uses its blocked algorithms."""
    return max(1, 64 * n)


@functools.lru_cache(64)
def _below(m, n):
    return np.tri(m, n, -1, bool)


def clear_below(a):
    """Zero a matrix below its diagonal."""
    m, n = a.shape
    np.copyto(a, 0, where=_below(m, n) if m * n <= 4096 else np.tri(m, n, -1, bool))


# ---- Cholesky, LU, LDL -------------------------------------------------------------------------

def cholesky(call):
    """(factor, info) from (A)."""
    potrf, lower = routine("potrf", call.outputs[0].dtype), not call.upper

    def one(factor):
        done, info = potrf(factor, lower, 1, 1)
        keep(factor, done)
        return info

    run = over(one, (call.outputs[0], *call.inputs), (2, 2), start=0)
    return with_status(call, "cholesky", "linalg.cholesky_ex", run)


def cholesky_solve(call):
    """(X) from (B, factor of A)."""
    potrs, lower = routine("potrs", call.outputs[0].dtype), not call.upper

    def one(x, factor):
        keep(x, potrs(factor, x, lower, 1)[0])

    b, factor = call.inputs
    run = over(one, (*call.outputs, factor, b), (2, 2, 2), start=0)
    return lambda x, b, factor: run(x, factor, b)


def cholesky_inverse(call):
    """(inverse) from (factor)."""
    potri, lower = routine("potri", call.outputs[0].dtype), not call.upper

    def one(inverse, factor):
        inverse[...] = factor
        done, info = potri(inverse, lower, 1)
        keep(inverse, done)
        rows, columns = np.triu_indices(len(inverse), 1)
        if lower:
            inverse[rows, columns] = inverse[columns, rows].conj()
        else:
            inverse[columns, rows] = inverse[rows, columns].conj()
        return info

    run = over(one, (*call.outputs, *call.inputs), (2, 2))
    return raising("inv", "cholesky_inverse", run)


def _factorize(factors, pivots, a):
    """A function on arrays (LU, pivots, A)."""
    getrf = routine("getrf", a.dtype)

    def one(factors, pivots):
        done, pivots[...], info = getrf(factors, 1)
        keep(factors, done)
        return info

    run = over(one, (factors, pivots, a), (2, 1, 2), start=0)

    def counted(factors, pivots, a):
        codes = run(factors, pivots, a)
        np.add(pivots, _ONE, pivots)
        return codes

    return counted


def lu(call):
    """(LU, pivots, info) from (A)."""
    run = _factorize(*call.outputs[:2], *call.inputs)
    return with_status(call, "lu_factor", "torch.linalg.lu_factor_ex", run)


def lu_solve(call):
    """(X) from (LU, pivots, B): A X = B or, with `adjoint`, A^H X = B."""
    return _substitute(*call.outputs, *call.inputs, 2 if call.adjoint else 0)


def _substitute(x, factors, pivots, b, trans=0):
    """A function on arrays (X, LU, pivots, B)."""
    getrs = routine("getrs", b.dtype)

    def one(x, factors, pivots):
        keep(x, getrs(factors, pivots - 1, x, trans, 1)[0])

    return over(one, (x, factors, pivots, b), (2, 2, 1, 2), start=0)


def solve(call):
    """(X, LU, pivots, info) from (A, B). Every A is factorized once, however B broadcasts."""
    x, factors, pivots, _ = call.outputs
    a, b = call.inputs
    first, second = _factorize(factors, pivots, a), _substitute(x, factors, pivots, b)

    def run(x, factors, pivots, a, b):
        codes = first(factors, pivots, a)
        second(x, factors, pivots, b)
        return codes

    return with_status(call, "solve", "torch.linalg.solve_ex", run)


def inverse(call):
    """(inverse, info) from (A)."""
    d = call.outputs[0].dtype
    getrf, getri = routine("getrf", d), routine("getri", d)
    work = blocked(call.outputs[0].shape[-1])

    def one(x):
        done, p, info = getrf(x, 1)
        if not info:
            done, info = getri(done, p, work, 1)
        keep(x, done)
        return info

    run = over(one, (call.outputs[0], *call.inputs), (2, 2), start=0)
    return with_status(call, "inv", "linalg.inv_ex", run)


def _parity(pivots):
    """1 or -1 by the number of row exchanges."""
    moved = pivots != np.arange(1, pivots.shape[-1] + 1)
    return 1 - 2 * ((np.count_nonzero(moved) if moved.ndim == 1 else moved.sum(-1)) & 1)


def determinant(call):
    """(det, LU, pivots) from (A)."""
    factorize = _factorize(*call.outputs[1:], *call.inputs)

    def run(det, factors, pivots, a):
        factorize(factors, pivots, a)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            size = np.multiply.reduce(factors.diagonal(0, -2, -1), -1)
        det[...] = size * _parity(pivots)

    return run


def log_determinant(call):
    """(sign, logabsdet, LU, pivots) from (A)."""
    factorize = _factorize(*call.outputs[2:], *call.inputs)

    def run(sign, logabsdet, factors, pivots, a):
        factorize(factors, pivots, a)
        diagonal = factors.diagonal(0, -2, -1)
        size = np.abs(diagonal)
        with np.errstate(divide="ignore"):
            logabsdet[...] = np.log(size).sum(-1)
        sign[...] = (diagonal / np.where(size == 0, 1, size)).prod(-1) * _parity(pivots)

    return run


def permutation(call):
    """(rows) from (pivots): rows[i] is the row of A that became row i of LU, or the inverse."""
    def one(rows, pivots):
        order = list(range(len(rows)))
        for k, p in enumerate(pivots.tolist()):
            order[k], order[p - 1] = order[p - 1], order[k]
        rows[...] = np.argsort(order) if call.inverse else order

    return over(one, (*call.outputs, *call.inputs), (1, 1), one)


def ldl(call):
    """(LD, pivots, info) from (A), of which the lower triangle is read."""
    d = call.outputs[0].dtype
    sytrf = routine("sytrf_h" if call.hermitian else "sytrf", d)
    work = blocked(call.outputs[0].shape[-1])

    def one(factors, pivots):
        done, pivots[...], info = sytrf(factors, 1, work, 1)
        keep(factors, done)
        clear_below(factors.T)
        return info

    run = over(one, (*call.outputs[:2], *call.inputs), (2, 1, 2), start=0)
    return with_status(call, "ldl", "torch.linalg.ldl_factor_ex", run)


def ldl_solve(call):
    """(X) from (LD, pivots, B)."""
    sytrs = routine("sytrs_h" if call.hermitian else "sytrs", call.outputs[0].dtype)

    def one(x, factors, pivots):
        keep(x, sytrs(factors, pivots, x, 1, 1)[0])

    return over(one, (*call.outputs, *call.inputs), (2, 2, 1, 2), start=0)


def triangular(call):
    """(X) from (A, B): A X = B, or X A = B unless `left`, with one triangle of A, whose diagonal
    counts as ones if `unitriangular`."""
    trsm = routine("trsm", call.outputs[0].dtype)
    right, lower, unit = not call.left, not call.upper, bool(call.unitriangular)

    def one(x, a):
        if a.flags.f_contiguous:
            keep(x, trsm(1, a, x, right, lower, 0, unit, 1))
        else:  # the transpose of the other triangle of the transpose needs no copy
            keep(x, trsm(1, a.T, x, right, not lower, 1, unit, 1))

    return over(one, (*call.outputs, *call.inputs), (2, 2, 2), start=0)


# ---- orthogonal factors ------------------------------------------------------------------------

def reflectors(call):
    """(reflectors below R, tau) from (A)."""
    geqrf, work = routine("geqrf", call.outputs[0].dtype), blocked(call.outputs[0].shape[-1])

    def one(packed, tau):
        done, tau[...] = geqrf(packed, work, 1)[:2]
        keep(packed, done)

    return over(one, (*call.outputs, *call.inputs), (2, 1, 2), start=0)


def product_of_reflectors(call):
    """(Q) from (reflectors, tau): the first columns of their product."""
    orgqr, work = routine("orgqr", call.outputs[0].dtype), blocked(call.outputs[0].shape[-1])

    def one(q, packed, tau):
        q[...] = packed
        keep(q, orgqr(q, tau, work, 1)[0])

    def none(q, packed, tau):
        q[...] = np.eye(*q.shape)

    return over(one, (*call.outputs, *call.inputs), (2, 2, 1), none)


def apply_reflectors(call):
    """(product) from (reflectors, tau, other)."""
    d = call.outputs[0].dtype
    ormqr, work = routine("ormqr", d), blocked(max(call.outputs[0].shape[-2:]))
    side = "L" if call.left else "R"
    trans = ("C" if d.kind == "c" else "T") if call.transpose else "N"

    def one(out, packed, tau):
        keep(out, ormqr(side, trans, packed[:, :len(tau)], tau, out, work, 1)[0])

    return over(one, (*call.outputs, *call.inputs), (2, 2, 1, 2), start=0)


def qr(call):
    """(Q, R) from (A) by `form`: "reduced", "complete" or "r" (Q is empty)."""
    d, (m, n) = call.outputs[1].dtype, call.inputs[0].shape[-2:]
    geqrf, orgqr = routine("geqrf", d), routine("orgqr", d)
    k, work = min(m, n), blocked(max(m, n))
    wants_q = call.form != "r"

    def one(q, r, a):
        tall = wants_q and m > n
        packed = q[:, :n] if tall else r if r.shape == a.shape else np.empty_like(a, order="F")
        packed[...] = a
        done, tau = geqrf(packed, work, 1)[:2]
        keep(packed, done)
        if tall:
            r[...] = 0
            r[:n] = packed[:n]
        elif packed is not r:
            r[...] = packed[:k]
        if wants_q:
            if not tall:
                q[...] = packed[:, :m]
            keep(q, orgqr(q, tau, work, 1)[0])
        clear_below(r)

    def none(q, r, a):
        r[...] = 0
        if wants_q:
            q[...] = np.eye(*q.shape)

    ranks = (2 if wants_q else 1, 2, 2)
    if not wants_q:  # there is one empty Q for all
        inner = over(lambda r, a: one(None, r, a), (call.outputs[1], *call.inputs), (2, 2),
                     lambda r, a: none(None, r, a))
        return lambda q, r, a: inner(r, a)
    return over(one, (*call.outputs, *call.inputs), ranks, none)
