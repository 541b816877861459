"""Linear algebra that has no one right answer: factorizations by what they multiply to, gradients
by finite differences of what does not depend on signs and phases, errors by what they say.

What has one answer is in lampion_conformance/references/linalg.py and tested by test_derived.py.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
from gradients import tensors

import lampion
from lampion import config, linalg
from lampion.autograd import gradcheck, gradgradcheck

DTYPES = ["float32", "float64", "complex64", "complex128"]
SQUARE = [(3, 3), (2, 4, 4), (1, 1), (0, 0), (0, 3, 3), (2, 1, 5, 5)]
SHAPES = [(3, 3), (5, 3), (3, 5), (2, 4, 2), (2, 2, 4), (1, 1), (3, 0), (0, 3), (0, 3, 2)]
TOLERANCE = {"float32": 2e-5, "complex64": 2e-5, "float64": 1e-12, "complex128": 1e-12}


# Devices that run functions of the host: one shares its memory, one copies.
everywhere = pytest.mark.parametrize("place, dtype", [
    *(("cpu", d) for d in DTYPES), ("ref", "float32"), ("ref", "complex128")])
both = pytest.mark.parametrize("place", ["cpu", "ref"])


def random(shape, dtype="float64", seed=0):
    rng = np.random.default_rng([seed, *shape])
    x = rng.standard_normal(shape)
    if dtype.startswith("c"):
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def turned(x):
    return np.conj(np.swapaxes(x, -2, -1))


def hermitian(shape, dtype="float64", seed=0):
    x = random(shape, dtype, seed)
    return (x + turned(x)).astype(dtype)


def positive(shape, dtype="float64", seed=0):
    x = random(shape, dtype, seed)
    return (x @ turned(x) + np.eye(shape[-1])).astype(dtype)


def host(t):
    return t.detach().cpu().resolve_conj().numpy()


def close(got, want, dtype="float64"):
    got, want = (host(x) if hasattr(x, "meta") else np.asarray(x) for x in (got, want))
    assert got.shape == want.shape
    scale = TOLERANCE[dtype] * (1 + (np.abs(want).max() if want.size else 0))
    np.testing.assert_allclose(got, want, rtol=scale, atol=10 * scale)


def make(x, place="cpu"):
    return tensors([x], place)[0]


# ---- factorizations ----------------------------------------------------------------------------

@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("shape", SQUARE, ids=str)
@everywhere
def test_cholesky(place, dtype, shape, upper):
    a = positive(shape, dtype)
    factor = linalg.cholesky(make(a, place), upper=upper)
    assert str(factor.dtype).endswith(dtype)
    f = host(factor)
    close(turned(f) @ f if upper else f @ turned(f), a, dtype)
    close(np.triu(f) if upper else np.tril(f), f, dtype)
    other = linalg.cholesky_ex(make(a, place), upper=upper)
    close(other.L, f, dtype)
    assert not host(other.info).any() and other.info.dtype is lampion.int32
    inverse = lampion.cholesky_inverse(factor, upper)
    close(host(inverse) @ a, np.broadcast_to(np.eye(shape[-1]), shape), dtype)
    b = random((*shape[:-1], 2), dtype)
    close(a @ host(lampion.cholesky_solve(make(b, place), factor, upper)), b, dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@everywhere
def test_lu(place, dtype, shape):
    a = random(shape, dtype)
    p, lower, upper = linalg.lu(make(a, place))
    close(p @ lower @ upper, a, dtype)
    close(lower.tril(), lower, dtype)
    close(upper.triu(), upper, dtype)
    if min(shape):
        assert np.allclose(host(lower.diagonal(0, -2, -1)), 1)
    packed = linalg.lu_factor_ex(make(a, place))
    assert packed.pivots.dtype is lampion.int32
    close(lampion.lu_unpack(packed.LU, packed.pivots).L, lower, dtype)
    none = lampion.lu_unpack(packed.LU, packed.pivots, unpack_data=False)
    assert none.L.shape == (0,) and none.P.shape == p.shape


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("left", [False, True])
@everywhere
def test_lu_solve(place, dtype, left, adjoint):
    a, b = random((2, 3, 3), dtype), random((4, 2, 3, 3), dtype, 1)
    factors = linalg.lu_factor(make(a, place))
    x = host(linalg.lu_solve(*factors, make(b, place), left=left, adjoint=adjoint))
    m = turned(a) if adjoint else a
    close(m @ x if left else x @ m, np.broadcast_to(b, (4, 2, 3, 3)), dtype)
    close(lampion.lu_solve(make(b, place), *factors), np.linalg.solve(a, b), dtype)


@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 3), (0, 0)], ids=str)
@everywhere
def test_ldl(place, dtype, shape, conjugate):
    x = random(shape, dtype)
    a = (x + (turned(x) if conjugate else np.swapaxes(x, -2, -1))).astype(dtype)
    factors = linalg.ldl_factor(make(a, place), hermitian=conjugate)
    b = random((*shape[:-1], 2), dtype, 1)
    solution = linalg.ldl_solve(factors.LD, factors.pivots, make(b, place), hermitian=conjugate)
    close(a @ host(solution), b, dtype)


@pytest.mark.parametrize("mode", ["reduced", "complete", "r"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@everywhere
def test_qr(place, dtype, shape, mode):
    a = random(shape, dtype)
    q, r = linalg.qr(make(a, place), mode)
    close(r.triu(), r, dtype)
    if mode == "r":
        assert q.shape == (0,)
        close(np.abs(host(r)), np.abs(host(linalg.qr(make(a, place)).R)), dtype)
        return
    m, n = shape[-2:]
    k = m if mode == "complete" else min(m, n)
    assert tuple(q.shape[-2:]) == (m, k) and tuple(r.shape[-2:]) == (k, n)
    close(q @ r, a, dtype)
    close(q.mH @ q, np.broadcast_to(np.eye(k), (*shape[:-2], k, k)), dtype)


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (2, 4, 2), (3, 5), (3, 0)], ids=str)
@everywhere
def test_reflectors(place, dtype, shape):
    a = random(shape, dtype)
    packed, tau = lampion.geqrf(make(a, place))
    k = min(shape[-2:])
    left = packed[..., :k]
    q = linalg.householder_product(left, tau)
    close(q @ packed.triu()[..., :k, :], a, dtype)
    close(lampion.orgqr(left, tau), q, dtype)
    whole = host(linalg.qr(make(a, place), "complete").Q)
    for on_left, transpose in ((True, False), (True, True), (False, False), (False, True)):
        m = shape[-2]
        c = random((*shape[:-2], m, 2) if on_left else (*shape[:-2], 2, m), dtype, 1)
        full = turned(whole) if transpose else whole
        got = lampion.ormqr(left, tau, make(c, place), on_left, transpose)
        close(got, full @ c if on_left else c @ full, dtype)


# ---- eigenvalues and singular values -----------------------------------------------------------

@pytest.mark.parametrize("uplo", ["L", "U"])
@pytest.mark.parametrize("shape", SQUARE, ids=str)
@everywhere
def test_eigh(place, dtype, shape, uplo):
    a = hermitian(shape, dtype)
    w, v = linalg.eigh(make(a, place), uplo)
    assert w.dtype is v.real.dtype
    close(a @ host(v), host(v) * host(w)[..., None, :], dtype)
    close(v.mH @ v, np.broadcast_to(np.eye(shape[-1]), shape), dtype)
    close(w, np.linalg.eigvalsh(a), dtype)
    half = np.tril(a) if uplo == "L" else np.triu(a)  # the other triangle is not read
    close(linalg.eigvalsh(make(half, place), uplo), w, dtype)


@pytest.mark.parametrize("shape", SQUARE, ids=str)
@everywhere
def test_eig(place, dtype, shape):
    a = random(shape, dtype)
    w, v = linalg.eig(make(a, place))
    close(a @ host(v), host(v) * host(w)[..., None, :], dtype)
    close(np.sort_complex(host(linalg.eigvals(make(a, place)))), np.sort_complex(host(w)), dtype)
    assert v.is_complex() and w.is_complex()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@everywhere
def test_svd(place, dtype, shape, full):
    a = random(shape, dtype)
    u, s, vh = linalg.svd(make(a, place), full)
    m, n = shape[-2:]
    k = min(m, n)
    assert tuple(u.shape[-2:]) == (m, m if full else k)
    assert tuple(vh.shape[-2:]) == (n if full else k, n)
    close((u[..., :k] * s.unsqueeze(-2)) @ vh[..., :k, :], a, dtype)
    for basis in (u, vh.mH):
        size = basis.shape[-1]
        close(basis.mH @ basis, np.broadcast_to(np.eye(size), (*shape[:-2], size, size)), dtype)
    assert (np.diff(host(s), axis=-1) <= 0).all()
    older = lampion.svd(make(a, place), not full)
    close(older.V, vh.mH, dtype)


@both
def test_approximations_of_low_rank(place):
    lampion.manual_seed(0)
    a = random((2, 9, 3)) @ random((2, 3, 7), seed=1)
    u, s, v = lampion.svd_lowrank(make(a, place), 3)
    close((u * s.unsqueeze(-2)) @ v.mH, a)
    u, s, v = lampion.svd_lowrank(make(turned(a), place), 4, M=make(turned(a) * 0.5, place))
    close((u * s.unsqueeze(-2)) @ v.mH, turned(a) * 0.5)
    u, s, v = lampion.pca_lowrank(make(a, place), 3)
    close((u * s.unsqueeze(-2)) @ v.mH, a - a.mean(-2, keepdims=True))


# ---- least squares and pseudo-inverses ---------------------------------------------------------

@pytest.mark.parametrize("driver", [None, "gels", "gelsy", "gelsd", "gelss"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (3, 3), (2, 4, 2)], ids=str)
@everywhere
def test_lstsq(place, dtype, shape, driver):
    a, b = random(shape, dtype), random((*shape[:-1], 2), dtype, 1)
    got = linalg.lstsq(make(a, place), make(b, place), driver=driver)
    want = np.linalg.pinv(a.astype("complex128")) @ b
    close(got.solution, want if dtype[0] == "c" else want.real, dtype)
    tall = shape[-2] > shape[-1] and driver not in (None, "gelsy")
    if tall:
        rest = a @ host(got.solution) - b
        close(got.residuals, (np.abs(rest) ** 2).sum(-2), dtype)
    assert (got.residuals.numel() > 0) == tall
    assert (got.rank.numel() > 0) == (driver != "gels")
    if driver in ("gelsd", "gelss"):
        close(got.singular_values, np.linalg.svd(a, compute_uv=False), dtype)


@both
def test_pinv_of_deficient_and_hermitian_matrices(place):
    a = random((4, 2)) @ random((2, 3), seed=1)
    close(linalg.pinv(make(a, place)), np.linalg.pinv(a))
    h = hermitian((2, 3, 3), "complex128")
    close(linalg.pinv(make(h, place), hermitian=True), np.linalg.pinv(h, hermitian=True))
    d = make(np.diag([4.0, 1.0, 0.1]), place)
    close(linalg.pinv(d, atol=0.5), np.diag([0.25, 1, 0]))
    close(linalg.pinv(d, 0.5), np.diag([0.25, 0, 0]))
    bounds = make(np.array([0.01, 0.2]), place)
    both = linalg.pinv(d.expand(2, 3, 3), rtol=bounds)
    close(both, np.stack([np.diag([0.25, 1, 10]), np.diag([0.25, 1, 0])]))


def test_triangular_solve_returns_its_matrix():
    a, b = random((3, 3)), random((2, 3, 2), seed=1)
    x, copy = lampion.triangular_solve(make(b), make(a), upper=False, transpose=True)
    close(x, scipy.linalg.solve(np.tril(a).T, b[0])[None].repeat(2, 0) * 0 + np.linalg.solve(
        np.tril(a).T, b))
    close(copy, np.broadcast_to(a, (2, 3, 3)))


# ---- gradients ---------------------------------------------------------------------------------

def symmetric(x):
    return x + x.mH


def definite(x):
    return x @ x.mH + lampion.eye(x.shape[-1], dtype=x.dtype)


def parts(x):
    """What does not depend on the phases of columns: |entries|^2 and a fixed product."""
    return (x * x.conj()).real if x.is_complex() else x * x


def svd_invariants(x):
    u, s, vh = linalg.svd(x, False)
    return s, u @ vh, (u * s.unsqueeze(-2).exp()) @ u.mH


SQUARE_GRADIENTS = {
    "cholesky": lambda x: linalg.cholesky(definite(x)),
    "cholesky upper": lambda x: linalg.cholesky(definite(x), upper=True),
    "cholesky_inverse": lambda x: lampion.cholesky_inverse(linalg.cholesky(definite(x))),
    "lu_factor": lambda x: linalg.lu_factor(x).LU,
    "lu": lambda x: linalg.lu(x)[1:],
    "lu_solve": lambda x: linalg.lu_solve(*linalg.lu_factor(x), x.mT, left=False, adjoint=True),
    "eigh": lambda x: [linalg.eigh(symmetric(x)).eigenvalues,
                       parts(linalg.eigh(symmetric(x)).eigenvectors)],
    "eigvalsh": lambda x: linalg.eigvalsh(symmetric(x), "U"),
    "eig": lambda x: [linalg.eig(x).eigenvalues, parts(linalg.eig(x).eigenvectors)],
    "eigvals": linalg.eigvals,
    "slogdet": linalg.slogdet,
    "logdet": lambda x: lampion.logdet(definite(x)),
    "inv_ex": lambda x: linalg.inv_ex(x).inverse,
    "matrix_exp": linalg.matrix_exp,
    "matrix_power": lambda x: linalg.matrix_power(x, -3),
    "nuclear": lambda x: linalg.matrix_norm(x, "nuc"),
    "cond": linalg.cond,
}
GRADIENTS = {
    "qr": linalg.qr,
    "lu_factor": lambda x: linalg.lu_factor_ex(x).LU,
    "svd": svd_invariants,
    "svd full": lambda x: linalg.svd(x).S,
    "svdvals": linalg.svdvals,
    "pinv": linalg.pinv,
    "householder_product": lambda x: linalg.householder_product(
        x[..., :min(x.shape[-2:])], x[..., 0, :min(x.shape[-2:])]),
    "ormqr": lambda x: lampion.ormqr(x[..., :1], x[..., 0, :1], x, True, True),
    "ormqr right": lambda x: lampion.ormqr(x[..., :1], x[..., 0, :1], x.mT, False),
}


def both_orders(f, *arrays):
    values = [make(a).requires_grad_() for a in arrays]
    assert gradcheck(f, values)
    assert gradgradcheck(f, values, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", SQUARE_GRADIENTS)
def test_gradients_of_square_matrices(name, dtype):
    both_orders(SQUARE_GRADIENTS[name], random((3, 3), dtype, 5))
    both_orders(SQUARE_GRADIENTS[name], random((2, 2, 2), dtype, 6))


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_matrices(name, dtype, shape):
    if name == "householder_product" and shape == (2, 3):
        shape = (3, 1)
    both_orders(GRADIENTS[name], random(shape, dtype, 3))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gradients_of_two_operands(dtype):
    a, b = random((3, 3), dtype, 1), random((2, 3, 2), dtype, 2)
    both_orders(linalg.solve, a, b)
    both_orders(lambda a, b: linalg.solve(a, b.mT, left=False), a, b)
    both_orders(lambda a, b: lampion.cholesky_solve(b, linalg.cholesky(definite(a))), a, b)
    both_orders(lambda a, b: lampion.triangular_solve(b, a, transpose=True).solution, a, b)
    for driver in ("gels", "gelsy", "gelsd"):
        f = lambda a, b: linalg.lstsq(a, b, driver=driver)[:1 + (driver != "gelsy")]  # noqa: E731
        both_orders(f, random((4, 2), dtype, 1), random((4, 2), dtype, 2))
    both_orders(lambda a, b: linalg.lstsq(a, b).solution, random((2, 3), dtype),
                random((2, 1), dtype))


def test_gradients_of_singular_matrices():
    a = make(np.array([[1.0, 2.0], [2.0, 4.0]])).requires_grad_()
    linalg.det(a).backward()
    close(a.grad, [[4, -2], [-2, 1]])
    both_orders(linalg.det, np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 10.5]]))
    low = lambda x, y: linalg.pinv(x @ y.mT)  # noqa: E731 - of rank 2 wherever it is evaluated
    both_orders(low, random((4, 2)), random((3, 2), seed=1))
    x = lampion.eye(3, dtype=lampion.float64, requires_grad=True)
    linalg.svdvals(x).sum().backward()  # repeated values are no obstacle to their own gradients
    close(x.grad, np.eye(3))


TANGENTS = {
    "cholesky": linalg.cholesky,
    "cholesky upper": lambda x: linalg.cholesky(x, upper=True),
    "eigvalsh": linalg.eigvalsh,
    "eigh": lambda x: linalg.eigh(x).eigenvectors.abs(),
    "eigvals": linalg.eigvals,
    "svdvals": linalg.svdvals,
    "cond": linalg.cond,
    "nuclear": lambda x: linalg.matrix_norm(x, "nuc"),
    "det": linalg.det,
    "lu": lambda x: linalg.lu(x).U,
    "triangular": lambda x: linalg.solve_triangular(x, x.mT, upper=True),
    "pinv": linalg.pinv,
}


@pytest.mark.parametrize("name", TANGENTS)
def test_tangents(name):
    from lampion.autograd import forward_ad

    f, x, v = TANGENTS[name], positive((3, 3)), hermitian((3, 3), seed=1)
    with forward_ad.dual_level():
        got = forward_ad.unpack_dual(f(forward_ad.make_dual(make(x), make(v)))).tangent
    ahead, behind = (host(f(make(x + h * v))) for h in (1e-6, -1e-6))
    np.testing.assert_allclose(host(got), (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-5)


def test_gradients_that_do_not_exist():
    x = make(random((3, 3), "complex128")).requires_grad_()
    for f, name in ((linalg.eig, "linalg_eig_backward"), (linalg.svd, "svd_backward"),
                    (lambda x: linalg.eigh(x + x.mH), "linalg_eigh_backward")):
        with pytest.raises(RuntimeError, match=name):
            vectors = f(x)[1 if name != "svd_backward" else 0]
            vectors.imag.sum().backward()
    x = make(random((4, 2))).requires_grad_()
    with pytest.raises(RuntimeError, match="nrows > ncols"):
        linalg.qr(x, "complete").Q.sum().backward()
    with pytest.raises(RuntimeError, match="mode='r'"):
        linalg.qr(x, "r").R.sum().backward()
    with pytest.raises(RuntimeError, match="geqrf"):
        lampion.geqrf(x)[0].sum().backward()


# ---- errors and forms --------------------------------------------------------------------------

SINGULAR = np.stack([np.eye(2), np.zeros((2, 2))])


@pytest.mark.parametrize("f, message", [
    (linalg.cholesky, r"linalg.cholesky: \(Batch element 1\): The factorization could not be "
                      r"completed because the input is not positive-definite \(the leading minor "
                      r"of order 1"),
    (linalg.inv, r"linalg.inv: \(Batch element 1\): The diagonal element 1 is zero"),
    (lambda x: linalg.solve(x, x), r"solve: \(Batch element 1\): The solver failed"),
    (lampion.cholesky_inverse, r"cholesky_inverse: \(Batch element 1\): The diagonal element 1"),
    (linalg.lu_factor, r"lu_factor: \(Batch element 1\): U\[1,1\] is zero"),
    (linalg.ldl_factor, r"ldl_factor: \(Batch element 1\): D\[1,1\] is zero"),
], ids=["cholesky", "inv", "solve", "cholesky_inverse", "lu_factor", "ldl_factor"])
@both
def test_errors_name_the_batch_element(place, f, message):
    with pytest.raises(linalg.LinAlgError, match=message):
        f(make(SINGULAR, place))
    assert issubclass(linalg.LinAlgError, RuntimeError)


@both
def test_codes_instead_of_errors(place):
    x = make(SINGULAR, place)
    assert linalg.inv_ex(x).info.tolist() == [0, 1]
    assert linalg.cholesky_ex(x).info.tolist() == [0, 1]
    assert linalg.solve_ex(x, x).info.tolist() == [0, 1]
    assert linalg.lu_factor_ex(x).info.tolist() == [0, 1]
    assert linalg.ldl_factor_ex(x).info.tolist() == [0, 1]
    assert linalg.det(x).tolist() == [1, 0]
    assert linalg.slogdet(x).logabsdet.tolist() == [0, -np.inf]
    with pytest.raises(linalg.LinAlgError, match="linalg.inv_ex: .Batch element 1"):
        linalg.inv_ex(x, check_errors=True)


@pytest.mark.parametrize("f", [linalg.svd, linalg.svdvals, linalg.eig, linalg.eigvals,
                               linalg.pinv])
def test_infinities_are_refused(f):
    with pytest.raises(linalg.LinAlgError, match="non-finite|infs or NaNs"):
        f(lampion.full((3, 3), np.nan))


@pytest.mark.parametrize("name", ["cholesky", "inv", "det", "slogdet", "eig", "eigh", "svd", "qr",
                                  "lu", "lu_factor", "ldl_factor", "eigvals", "svdvals"])
def test_what_is_no_matrix_of_numbers_is_refused(name):
    f = getattr(linalg, name)
    for dtype in (lampion.int64, lampion.float16, lampion.bfloat16):
        with pytest.raises(RuntimeError, match=name.split("_")[0].removesuffix("vals")):
            f(lampion.ones(2, 2, dtype=dtype))
    with pytest.raises(RuntimeError, match="dimensions"):
        f(lampion.ones(2))
    if name not in ("svd", "svdvals", "qr", "lu", "lu_factor"):
        with pytest.raises(RuntimeError, match="2 by 3 matrices"):
            f(lampion.ones(2, 3))


def test_out_forms_and_names():
    a = make(positive((3, 3)))
    q, r = a.new_empty(0), a.new_empty(0)
    got = linalg.qr(a, out=(q, r))
    assert got.Q is q and got.R is r
    close(q @ r, a)
    out = a.new_empty(3, 3)
    assert linalg.inv(a, out=out) is out
    close(out @ a, np.eye(3))
    with pytest.raises(RuntimeError, match="can't be cast|Expected out tensor"):
        linalg.inv(a, out=lampion.empty(3, 3, dtype=lampion.int64))
    for f, names in ((linalg.svd, "U S Vh"), (linalg.eigh, "eigenvalues eigenvectors"),
                     (linalg.lu, "P L U"), (linalg.slogdet, "sign logabsdet"),
                     (linalg.lu_factor, "LU pivots"), (lampion.svd, "U S V")):
        assert f(a)._fields == tuple(names.split())


@both
def test_inputs_are_left_alone_whatever_their_layout(place):
    a = positive((4, 4))
    wide = np.zeros((8, 8))
    wide[::2, ::2] = a
    for x in (make(a, place), make(a, place).mT, make(wide, place)[::2, ::2]):
        for f in (linalg.cholesky, linalg.inv, linalg.lu_factor, linalg.qr, linalg.eigh,
                  linalg.svd, linalg.eig, linalg.det, linalg.ldl_factor, lampion.geqrf):
            f(x)
            close(x, a)


def test_a_device_without_host_functions_needs_a_fallback(monkeypatch):
    from lampion.base.errors import UnsupportedError
    from lampion.ops.plans import backend_of

    x = make(positive((2, 2)), "ref")
    backend = backend_of(x.device)
    bare = backend.capabilities(0)
    monkeypatch.setattr(backend, "capabilities", lambda index: type(bare)(
        bare.dtypes, bare.features - {"host-functions"}))
    from lampion.ops.registry import REGISTRY

    ex = REGISTRY["linalg_cholesky_ex"]
    ex.plans.clear()
    with pytest.raises(UnsupportedError, match="LAMPION_FALLBACK_POLICY"):
        linalg.cholesky(x)
    monkeypatch.setenv("LAMPION_FALLBACK_POLICY", "allow")
    from lampion import config

    config.reload()
    try:
        close(linalg.cholesky(x), np.linalg.cholesky(host(x)))
        assert any(e.op == "linalg_cholesky_ex" for e in lampion.fallbacks())
    finally:
        monkeypatch.undo()
        config.reload()
        ex.plans.clear()
        lampion.reset_fallbacks()


def test_missing_scipy_is_explained():
    code = """
import sys
sys.modules["scipy.linalg"] = None
import lampion
x = lampion.eye(2)
assert (x @ x).tolist() == x.tolist()
for fn in (lampion.linalg.inv, lampion.linalg.eigvals):
    try:
        fn(x)
    except lampion.base.errors.UnsupportedError as e:
        print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("pip install scipy") == 2, done.stderr


def test_one_factorization_for_a_batch_of_right_sides(device):
    """lu_substitute on devices without host functions: the rows of a batch in one order."""
    from lampion.ops.linalg_solve import lu_substitute

    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(3, 3)) + 3 * np.eye(3), rng.normal(size=(2, 3, 2))
    x = lampion.tensor(a, device="cpu")
    lu, pivots = lampion.linalg.lu_factor(x)
    for adjoint, want in ((False, np.linalg.solve(a, b)), (True, np.linalg.solve(a.T, b))):
        lu_, pivots_, b_ = (t.to(device) for t in (lu, pivots, lampion.tensor(b)))
        with config.override({"fallback.policy": "allow"}):  # of the permutation alone
            got = lu_substitute.compose(lu_, pivots_, b_, adjoint)
        np.testing.assert_allclose(got.cpu().numpy(), want, atol=1e-10)
    lampion.reset_fallbacks()
