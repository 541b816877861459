"""`out=`: which dtypes it may have, by op and by call, and what is written into it."""

import pytest

import lampion as lp

x = lp.tensor([[2.0, 1.0], [1.0, 3.0]])
half = lp.tensor([3.0 + 0j, -1.0 + 0j])


def out(dtype, *shape):
    return lp.empty(shape, dtype=dtype)


@pytest.mark.parametrize(("call", "shape", "good", "bad"), [
    (lambda o: lp.cholesky(x, out=o), (2, 2), "float64 complex64", "int64"),
    (lambda o: lp.cholesky_inverse(x, out=o), (2, 2), "float64", "int64"),
    (lambda o: lp.cholesky_solve(x, x, out=o), (2, 2), "float64", "int64"),
    (lambda o: lp.lerp(x, x + 1, 0.5, out=o), (2, 2), "float64 float16", "int64"),
    (lambda o: lp.lerp(x, x + 1, x, out=o), (2, 2), "float32", "float64 int64"),
    (lambda o: lp.inner(x, x, out=o), (2, 2), "float32", "float64"),
    (lambda o: lp.inner(x, lp.tensor(2.0), out=o), (2, 2), "float64", "int64"),
    (lambda o: lp.diff(x, out=o), (2, 1), "float64", "int64"),
    (lambda o: lp.diff(x, n=0, out=o), (2, 2), "float32", "float64"),
    (lambda o: lp.linalg.matrix_power(x, 1, out=o), (2, 2), "float64", "int64"),
    (lambda o: lp.linalg.matrix_power(x, 3, out=o), (2, 2), "float32", "float64"),
    (lambda o: lp.nansum(x, out=o), (), "float64 float16", "int64 complex64"),
    (lambda o: lp.nanmean(x, 0, out=o), (2,), "float64", "int64"),
    (lambda o: lp.fft.irfft(half, out=o), (2,), "float64 float16", "int64 complex64"),
    (lambda o: lp.fft.hfftn(half, out=o), (2,), "float64", "complex64"),
    (lambda o: lp.fft.fft(half, out=o), (2,), "complex128", "float32"),
    (lambda o: lp.fft.rfft(x, out=o), (2, 2), "complex128", "float32"),
    (lambda o: lp.fft.ihfft(x, out=o), (2, 2), "complex64", "complex128 float32"),
    (lambda o: lp.special.chebyshev_polynomial_t(x, 3, out=o), (2, 2), "float64", "int64"),
])
def test_dtypes(call, shape, good, bad):
    natural = call(None)
    for name in good.split():
        target = out(getattr(lp, name), *shape)
        assert call(target) is target
        lp.testing.assert_close(target, natural.to(target.dtype), rtol=2e-3, atol=2e-3)
    for name in bad.split():
        with pytest.raises(RuntimeError):
            call(out(getattr(lp, name), *shape))


def test_geqrf_writes_both():
    a, tau = out(lp.float64, 2, 2), out(lp.float64, 2)
    lp.geqrf(x, out=(a, tau))
    want = lp.geqrf(x)
    lp.testing.assert_close(a, want.a.double())
    lp.testing.assert_close(tau, want.tau.double())


def test_nonzero_as_tuple_has_no_out():
    with pytest.raises(TypeError, match="as_tuple"):
        lp.nonzero(x, as_tuple=True, out=out(lp.int64, 0))


def test_normal_draws_in_the_dtype_of_out():
    target = out(lp.float64, 2, 2)
    assert lp.normal(x, 0.0, out=target) is target
    lp.testing.assert_close(target, x.double())
    assert lp.normal(x[0], 1.0, out=out(lp.float32, 5, 2)).shape == (5, 2)
    with pytest.raises(RuntimeError):
        lp.normal(x, 1.0, out=out(lp.float32, 3))
    with pytest.raises(NotImplementedError, match="floating"):
        lp.normal(x, x, out=out(lp.int64, 2, 2))
