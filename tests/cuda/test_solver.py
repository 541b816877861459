"""Linear algebra on the CUDA device, against NumPy: by the host's processor, and by cuSOLVER and
cuBLAS, whose place a stand-in on the simulator's memory takes (the libraries themselves with
LAMPION_CUDA_REAL=1)."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from real import REAL

import lampion as torch
from lampion import callpath
from lampion.ops.registry import REGISTRY

scipy_lapack = pytest.importorskip("scipy.linalg.lapack")
pytestmark = pytest.mark.usefixtures("gpu")
_KINDS = {"s": np.float32, "d": np.float64, "c": np.complex64, "z": np.complex128}
_CUDA = {0: np.float32, 1: np.float64, 4: np.complex64, 5: np.complex128}
LENGTH = 96  # of every workspace


def numbers(address, kind, *shape, ld=None):
    """A vector, or a matrix by columns that are `ld` apart, at an address."""
    assert address, "a null pointer"
    size = np.dtype(kind).itemsize
    strides = (size,) if len(shape) == 1 else (size, (ld or shape[0]) * size)
    span = sum((n - 1) * s for n, s in zip(shape, strides)) + size
    return np.ndarray(shape, kind, (ctypes.c_char * span).from_address(address), 0, strides)


class StandIn:
    """The calls of cuSOLVER's dense part and of cuBLAS, as documented, computed by LAPACK."""

    def __init__(self):
        self.calls, self.stream = [], None

    def create(self):
        return 7

    create_gesvdj_info = create_params = create

    def set_stream(self, handle, stream):
        assert handle == 7
        self.stream = stream

    def xsyev_batched_buffer_size(self, handle, params, job, uplo, n, kind, a, ld, real, w, compute,
                                  count):
        assert compute == kind and _CUDA[real] == _CUDA[kind]().real.dtype
        return 256, 32

    def xsyev_batched(self, handle, params, job, uplo, n, kind, a, ld, real, w, compute, there,
                      size, here, room, info, count):
        assert (size, room) == (256, 32) and here
        self.calls.append("xsyev_batched")
        for k in range(count):
            step = np.dtype(_CUDA[kind]).itemsize * n * n
            self._syevd(_CUDA[kind], job, uplo, n, a + k * step, ld,
                        w + k * n * np.dtype(_CUDA[real]).itemsize, there, size, info + 4 * k)

    def __getattr__(self, name):
        letter, routine = name[0], name[1:]
        if letter not in _KINDS:
            raise AttributeError(name)
        routine = {"ungqr": "orgqr", "unmqr": "ormqr", "heevd": "syevd"}.get(
            routine.removesuffix("_buffer_size"), routine.removesuffix("_buffer_size"))
        if letter in "cz" and name[1:].startswith(("org", "orm", "sy")):
            raise AttributeError(f"{name}: complex routines have other names")
        if name.endswith("_buffer_size"):
            return lambda *sizes: LENGTH
        run, kind = getattr(self, f"_{routine}"), _KINDS[letter]

        def call(handle, *args):
            assert handle == 7 and self.stream
            self.calls.append(routine)
            run(kind, *args)

        return call

    def lapack(self, name, kind):
        letter = next(k for k, v in _KINDS.items() if v is kind)
        return getattr(scipy_lapack, letter + name)

    def _potrf(self, kind, uplo, n, a, ld, work, length, info):
        assert work % 256 == 0 and length == LENGTH
        x = numbers(a, kind, n, n, ld=ld)
        done, code = self.lapack("potrf", kind)(x, lower=1 - uplo, clean=0)
        x[...] = done
        numbers(info, np.int32, 1)[0] = code

    def _potrf_batched(self, kind, uplo, n, table, ld, infos, count):
        for k, a in enumerate(numbers(table, np.uint64, count).tolist()):
            self._potrf(kind, uplo, n, a, ld, 256, LENGTH, infos + 4 * k)

    def _potrs(self, kind, uplo, n, nrhs, a, lda, b, ldb, info):
        x = numbers(b, kind, n, nrhs, ld=ldb)
        x[...] = self.lapack("potrs", kind)(numbers(a, kind, n, n, ld=lda), x, lower=1 - uplo)[0]
        numbers(info, np.int32, 1)[0] = 0

    def _potri(self, kind, uplo, n, a, ld, work, length, info):
        x = numbers(a, kind, n, n, ld=ld)
        x[...], code = self.lapack("potri", kind)(x, lower=1 - uplo)
        numbers(info, np.int32, 1)[0] = code

    def _getrf(self, kind, m, n, a, ld, work, pivots, info):
        assert work % 256 == 0
        x = numbers(a, kind, m, n, ld=ld)
        x[...], p, code = self.lapack("getrf", kind)(x)
        numbers(pivots, np.int32, min(m, n))[...] = p + 1
        numbers(info, np.int32, 1)[0] = code

    def _getrf_batched(self, kind, n, table, ld, pivots, infos, count):
        for k, a in enumerate(numbers(table, np.uint64, count).tolist()):
            self._getrf(kind, n, n, a, ld, 256, pivots + 4 * n * k, infos + 4 * k)

    def _getrs(self, kind, trans, n, nrhs, a, lda, pivots, b, ldb, info):
        x, p = numbers(b, kind, n, nrhs, ld=ldb), numbers(pivots, np.int32, n)
        x[...] = self.lapack("getrs", kind)(numbers(a, kind, n, n, ld=lda), p - 1, x,
                                            trans=trans)[0]
        numbers(info, np.int32, 1)[0] = 0

    def _getrs_batched(self, kind, trans, n, nrhs, table, lda, pivots, others, ldb, info, count):
        pairs = zip(numbers(table, np.uint64, count).tolist(),
                    numbers(others, np.uint64, count).tolist())
        for k, (a, b) in enumerate(pairs):
            self._getrs(kind, trans, n, nrhs, a, lda, pivots + 4 * n * k, b, ldb, info)

    def _geqrf(self, kind, m, n, a, ld, tau, work, length, info):
        x = numbers(a, kind, m, n, ld=ld)
        x[...], t = self.lapack("geqrf", kind)(x)[:2]
        numbers(tau, kind, min(m, n))[...] = t
        numbers(info, np.int32, 1)[0] = 0

    def _orgqr(self, kind, m, n, k, a, ld, tau, work, length, info):
        x = numbers(a, kind, m, n, ld=ld)
        name = "ungqr" if np.dtype(kind).kind == "c" else "orgqr"
        x[...] = self.lapack(name, kind)(x, numbers(tau, kind, k))[0]
        numbers(info, np.int32, 1)[0] = 0

    def _ormqr(self, kind, side, trans, m, n, k, a, lda, tau, c, ldc, work, length, info):
        x = numbers(c, kind, m, n, ld=ldc)
        rows = n if side else m
        name = "unmqr" if np.dtype(kind).kind == "c" else "ormqr"
        assert trans in ((0, 2) if name == "unmqr" else (0, 1))
        x[...] = self.lapack(name, kind)("LR"[side], "NTC"[trans],
                                         numbers(a, kind, rows, k, ld=lda), numbers(tau, kind, k),
                                         x, 64 * rows)[0]
        numbers(info, np.int32, 1)[0] = 0

    def _syevd(self, kind, job, uplo, n, a, ld, w, work, length, info):
        x = numbers(a, kind, n, n, ld=ld)
        name = "heevd" if np.dtype(kind).kind == "c" else "syevd"
        values, v, code = self.lapack(name, kind)(x, compute_v=job, lower=1 - uplo)
        numbers(w, values.dtype.type, n)[...] = values
        if job:
            x[...] = v
        numbers(info, np.int32, 1)[0] = code

    def _gesvdj(self, kind, job, econ, m, n, a, lda, s, u, ldu, v, ldv, work, length, info, jacobi):
        assert jacobi == 7
        x = numbers(a, kind, m, n, ld=lda)
        if not np.isfinite(x).all():
            numbers(s, np.dtype(kind).type(0).real.dtype.type, min(m, n))[...] = np.nan
            return
        left, values, right = np.linalg.svd(x, full_matrices=not econ)
        x[...] = 0  # it is destroyed
        numbers(s, values.dtype.type, min(m, n))[...] = values
        if job:
            numbers(u, kind, *left.shape, ld=ldu)[...] = left
            numbers(v, kind, *right.T.shape, ld=ldv)[...] = right.conj().T
        numbers(info, np.int32, 1)[0] = 0

    def _gesvdj_batched(self, kind, job, m, n, a, lda, s, u, ldu, v, ldv, work, length, info,
                        jacobi, count):
        assert max(m, n) <= 32
        size, real = np.dtype(kind).itemsize, np.dtype(kind).type(0).real.dtype.itemsize
        for k in range(count):
            self._gesvdj(kind, job, 0, m, n, a + k * m * n * size, lda, s + k * min(m, n) * real,
                         u + k * m * m * size, ldu, v + k * n * n * size, ldv, work, length,
                         info + 4 * k, jacobi)

    def _trsm(self, kind, side, uplo, trans, unit, m, n, alpha, a, lda, b, ldb):
        from scipy.linalg import solve_triangular

        assert numbers(alpha, kind, 1)[0] == 1
        size = n if side else m
        x, t = numbers(b, kind, m, n, ld=ldb), numbers(a, kind, size, size, ld=lda)
        t = np.triu(t) if uplo else np.tril(t)
        t, lower = (t.T, bool(uplo)) if trans else (t, not uplo)
        if side:
            x[...] = solve_triangular(t.T, x.T, lower=not lower, unit_diagonal=bool(unit)).T
        else:
            x[...] = solve_triangular(t, x, lower=lower, unit_diagonal=bool(unit))


OPS = ["linalg_cholesky_ex", "cholesky_solve", "cholesky_inverse", "linalg_lu_factor_ex",
       "lu_substitute", "solve_with_factors", "linalg_inv_ex", "det_with_factors",
       "slogdet_with_factors", "linalg_solve_triangular", "geqrf", "linalg_householder_product",
       "ormqr", "qr_factors", "linalg_eigh", "eigvalsh_only", "linalg_svd", "svdvals_only"]


def forget():
    for name in OPS:
        REGISTRY[name].plans.clear()


@pytest.fixture
def solver(gpu):
    """cuSOLVER's stand-in in the library's place, all plans made anew."""
    from lampion.runtime.devices import resolve
    from lampion_cuda import solver

    torch.zeros(1, device="cuda")
    device = resolve("cuda").backend.open(0)
    if REAL:
        if solver.library(device) is None:
            pytest.skip("cuSOLVER is not installed")
        yield None
        return
    before = device.libraries.get("cusolver")
    standing = StandIn()
    device.libraries["cusolver"] = solver.Library(device, standing, standing)
    forget()
    yield standing
    device.libraries["cusolver"] = before
    forget()


@pytest.fixture(params=["float32", "float64", "complex64", "complex128"])
def kind(request):
    return request.param


def random(shape, kind, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape)
    if kind.startswith("complex"):
        a = a + 1j * rng.standard_normal(shape)
    return a.astype(kind)


def hermitian(shape, kind, definite=True):
    a = random(shape, kind, 3)
    h = np.conj(np.swapaxes(a, -1, -2))
    return a @ h + shape[-1] * np.eye(shape[-1], dtype=kind) if definite else a + h


def near(got, want, kind):
    tolerance = 2e-4 if kind in ("float32", "complex64") else 1e-10
    got = got.cpu().resolve_conj().numpy() if hasattr(got, "cpu") else got
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tolerance,
                               atol=tolerance * max(1.0, float(np.abs(want).max(initial=0))))


def there(a):
    return torch.tensor(a, device="cuda")


BATCHES = [(), (3,), (2, 3)]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("upper", [False, True])
def test_cholesky(solver, kind, batch, upper):
    a = hermitian((*batch, 5, 5), kind)
    want = np.linalg.cholesky(a)
    factor = torch.linalg.cholesky(there(a), upper=upper)
    near(factor, np.conj(np.swapaxes(want, -1, -2)) if upper else want, kind)
    b = random((*batch, 5, 2), kind)
    near(torch.cholesky_solve(there(b), factor, upper), np.linalg.solve(a, b), kind)
    near(torch.cholesky_inverse(factor, upper), np.linalg.inv(a), kind)
    if solver is not None:
        assert ("potrf_batched" if batch else "potrf") in solver.calls


def test_what_is_not_positive_definite_is_an_error(solver):
    a = np.stack([np.eye(3), np.diag([1.0, -1, 1])]).astype(np.float32)
    with pytest.raises(torch.linalg.LinAlgError, match=r"\(Batch element 1\).*order 2"):
        torch.linalg.cholesky(there(a))
    with pytest.raises(torch.linalg.LinAlgError, match="leading minor of order 2"):
        torch.linalg.cholesky(there(a[1]))
    assert torch.linalg.cholesky_ex(there(a)).info.tolist() == [0, 2]


@pytest.mark.parametrize("batch", BATCHES)
def test_lu(solver, kind, batch):
    a, b = random((*batch, 4, 4), kind), random((*batch, 4, 3), kind, 1)
    near(torch.linalg.solve(there(a), there(b)), np.linalg.solve(a, b), kind)
    near(torch.linalg.inv(there(a)), np.linalg.inv(a), kind)
    near(torch.linalg.det(there(a)), np.linalg.det(a), kind)
    for got, want in zip(torch.linalg.slogdet(there(a)), np.linalg.slogdet(a)):
        near(got, np.asarray(want), kind)
    packed, pivots = torch.linalg.lu_factor(there(a))
    near(torch.linalg.lu_solve(packed, pivots, there(b)), np.linalg.solve(a, b), kind)
    h = np.conj(np.swapaxes(a, -1, -2))
    near(torch.linalg.lu_solve(packed, pivots, there(b), adjoint=True), np.linalg.solve(h, b), kind)
    p, lower, above = torch.linalg.lu(there(a))
    near(p @ lower @ above, a, kind)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_lu_of_others_than_squares(solver, shape):
    a = random((2, *shape), "float64")
    p, lower, above = torch.linalg.lu(there(a))
    near(p @ lower @ above, a, "float64")


def test_solving_with_one_matrix_for_many(solver):
    a, b = random((4, 4), "float32"), random((3, 4, 2), "float32", 1)
    near(torch.linalg.solve(there(a), there(b)), np.linalg.solve(a, b), "float32")
    a = random((3, 4, 4), "float32")
    near(torch.linalg.solve(there(a), there(b[0])), np.linalg.solve(a, b[0]), "float32")
    near(torch.linalg.solve(there(a).mT, there(b)), np.linalg.solve(a.swapaxes(-1, -2), b),
         "float32")


def test_what_is_singular_is_an_error(solver):
    a = np.zeros((2, 3, 3), np.float32)
    a[0] = np.eye(3)
    with pytest.raises(torch.linalg.LinAlgError, match="Batch element 1.*singular"):
        torch.linalg.solve(there(a), there(np.ones((2, 3, 1), np.float32)))
    with pytest.raises(torch.linalg.LinAlgError, match="diagonal element 1 is zero"):
        torch.linalg.inv(there(a[1]))
    assert torch.linalg.det(there(a)).tolist() == [1, 0]
    sign, size = torch.linalg.slogdet(there(a[1]))
    assert sign.item() == 0 and size.item() == -np.inf


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_triangles(solver, kind, upper, unit):
    from scipy.linalg import solve_triangular

    a, b = random((4, 4), kind) + 4 * np.eye(4, dtype=kind), random((4, 3), kind, 1)
    want = solve_triangular(a, b, lower=not upper, unit_diagonal=unit)
    for t in (there(a), there(a.T.copy()).mT, there(np.kron(a, np.ones((2, 2))))[::2, ::2]):
        t = t.to(there(a).dtype)
        near(torch.linalg.solve_triangular(t, there(b), upper=upper, unitriangular=unit), want,
             kind)
        right = torch.linalg.solve_triangular(t, there(b.T.copy()), upper=upper, left=False,
                                              unitriangular=unit)
        near(right, solve_triangular(a.T, b, lower=upper, unit_diagonal=unit).T, kind)
    many = np.stack([b, 2 * b])
    near(torch.linalg.solve_triangular(there(a), there(many), upper=upper, unitriangular=unit),
         np.stack([want, 2 * want]), kind)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 5, 3), (2, 3, 5)])
def test_orthogonal_factors(solver, kind, shape):
    a = random(shape, kind)
    m, n = shape[-2:]
    for mode in ("reduced", "complete"):
        q, r = torch.linalg.qr(there(a), mode)
        near(q @ r, a, kind)
        near(q.mH @ q, np.broadcast_to(np.eye(q.shape[-1], dtype=kind),
                                       (*shape[:-2], *q.shape[-1:] * 2)), kind)
        assert not r.tril(-1).abs().any().item()
        assert q.shape[-1] == (m if mode == "complete" else min(m, n))
    only = torch.linalg.qr(there(a), "r")[1]
    near(only.mH @ only, np.conj(np.swapaxes(a, -1, -2)) @ a, kind)
    packed, tau = torch.geqrf(there(a))
    near(packed.triu(), r.cpu().numpy(), kind)
    if m >= n:
        near(torch.linalg.householder_product(packed, tau), torch.linalg.qr(
            there(a)).Q.cpu().numpy(), kind)
        full = torch.linalg.qr(there(a), "complete").Q
        other = there(random((*shape[:-2], m, 2), kind, 2))
        near(torch.ormqr(packed, tau, other), (full @ other).cpu().numpy(), kind)
        near(torch.ormqr(packed, tau, other, transpose=True), (full.mH @ other).cpu().numpy(), kind)
        near(torch.ormqr(packed, tau, other.mT.contiguous(), left=False),
             (other.mT @ full).cpu().numpy(), kind)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("uplo", ["L", "U"])
def test_eigenvalues_of_hermitian_matrices(solver, kind, batch, uplo):
    a = hermitian((*batch, 5, 5), kind, False)
    read = np.tril(a) if uplo == "L" else np.triu(a)
    values, vectors = torch.linalg.eigh(there(read), uplo)
    want = np.linalg.eigvalsh(a)
    near(values, want, kind)
    near(vectors * values.unsqueeze(-2) @ vectors.mH, a, kind)
    near(torch.linalg.eigvalsh(there(read), uplo), want, kind)
    if solver is not None:
        assert ("xsyev_batched" if batch else "syevd") in solver.calls


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 5, 3), (2, 3, 5), (2, 40, 3)])
def test_singular_values(solver, kind, shape):
    a = random(shape, kind)
    want = np.linalg.svd(a, compute_uv=False)
    near(torch.linalg.svdvals(there(a)), want, kind)
    k = min(shape[-2:])
    for full in (False, True):
        u, s, vh = torch.linalg.svd(there(a), full)
        near(s, want, kind)
        near(u[..., :k] * s.unsqueeze(-2) @ vh[..., :k, :], a, kind)
        near(u.mH @ u, np.broadcast_to(np.eye(u.shape[-1], dtype=kind),
                                       (*shape[:-2], *u.shape[-1:] * 2)), kind)
        near(vh @ vh.mH, np.broadcast_to(np.eye(vh.shape[-2], dtype=kind),
                                         (*shape[:-2], *vh.shape[-2:-1] * 2)), kind)


def test_what_is_not_finite_has_no_singular_values(solver):
    a = np.eye(3, dtype=np.float32)
    a[1, 1] = np.nan
    with pytest.raises(torch.linalg.LinAlgError, match="non-finite"):
        torch.linalg.svdvals(there(a))


def test_gradients_and_empty_ones(solver):
    a = there(hermitian((3, 3), "float64")).requires_grad_()
    torch.linalg.cholesky(a).sum().backward()
    b = a.detach().cpu().requires_grad_()
    torch.linalg.cholesky(b).sum().backward()
    near(a.grad, b.grad.numpy(), "float64")
    assert torch.linalg.cholesky(torch.zeros(0, 3, 3, device="cuda")).shape == (0, 3, 3)
    assert torch.linalg.det(torch.zeros(0, 0, device="cuda")).item() == 1


def test_the_library_is_chosen_and_without_it_the_host(solver):
    x = there(np.eye(3, dtype=np.float32))
    op = REGISTRY["det_with_factors"]

    def chosen():
        return callpath.planned(op, op.bind((x,), {}))[0].chosen

    assert chosen().startswith("kernel cuda.solver")
    if REAL:
        return
    from lampion.runtime.devices import resolve

    resolve("cuda").backend.open(0).libraries["cusolver"] = None
    op.plans.clear()
    assert chosen() == "function of the host"


def test_what_the_host_does():
    a = random((3, 3), "float64")
    values = torch.linalg.eigvals(there(a)).cpu().numpy()
    near(np.sort_complex(values), np.sort_complex(np.linalg.eigvals(a)), "float64")
    near(torch.linalg.pinv(there(a)), np.linalg.pinv(a), "float64")
    b = random((3, 2), "float64", 1)
    near(torch.linalg.lstsq(there(a), there(b)).solution, np.linalg.lstsq(a, b, rcond=None)[0],
         "float64")
