"""Fourier transforms against NumPy's in double precision, on every installed device."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import check_gradient, thorough

import lampion
from lampion.base.meta import meta
from lampion.ops.registry import REGISTRY

rng = np.random.default_rng(0)
NORMS = (None, "forward", "ortho")
# one radix each, products of radices, primes that take Bluestein's way, and products with them
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 16, 17, 34, 97, 360, 1001)


def values(shape, dtype):
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def host(t):
    return t.to("cpu").numpy()


def close(got, want, dtype):
    """The error of a transform grows with log n, measured against its largest entry."""
    assert got.shape == want.shape and got.dtype == np.dtype(dtype)
    if want.size:
        limit = 8 * np.finfo(dtype).eps * np.abs(want).max()
        assert np.abs(got - want).max() <= limit


def wide(x):
    return x.astype(complex if x.dtype.kind == "c" else float)


def sizes(device):
    return SIZES if device == "cpu" else (1, 5, 12, 17, 97) if thorough(device) else (12, 17)


@pytest.mark.parametrize("dtype", ("complex64", "complex128"))
def test_line_of_every_size(device, dtype):
    for n in sizes(device):
        x = values((2, n, 3), dtype)
        t = lampion.tensor(x).to(device)
        close(host(lampion.fft.fft(t, dim=1)), np.fft.fft(wide(x), axis=1), dtype)
        close(host(lampion.fft.ifft(t, dim=1)), np.fft.ifft(wide(x), axis=1), dtype)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_real_line_of_every_size(device, dtype):
    big = {"float32": "complex64", "float64": "complex128"}[dtype]
    for n in sizes(device):
        x, h = values((2, n), dtype), values((2, n // 2 + 1), big)
        t, s = lampion.tensor(x).to(device), lampion.tensor(h).to(device)
        close(host(lampion.fft.fft(t)), np.fft.fft(wide(x)), big)
        close(host(lampion.fft.rfft(t)), np.fft.rfft(wide(x)), big)
        close(host(lampion.fft.ihfft(t)), np.fft.ihfft(wide(x)), big)
        close(host(lampion.fft.irfft(s, n)), np.fft.irfft(wide(h), n), dtype)
        close(host(lampion.fft.hfft(s, n)), np.fft.hfft(wide(h), n), dtype)


def generated(name, m, *attrs):
    """A plan of a primitive's own program, whatever kernels the device has registered."""
    from lampion.runtime.backend import OpCall

    op = REGISTRY[name]
    outs = tuple(meta(d, s, None, m.device) for d, s in op.meta(m, *attrs))
    args = dict(zip([p.name for p in op.params], (m, *attrs)))
    call = OpCall(name, (m,), args, outs, m.device)
    launch = m.device.backend.program(op.lower(call), [o.span for o in outs], m.device)
    return launch, outs[0]


@pytest.mark.parametrize("n", SIZES)
def test_generated_programs_on_the_host(n):
    from lampion.tensor import make_tensor

    x = values((3, n, 2), "complex64")
    t = lampion.tensor(x)
    for forward, want in ((True, np.fft.fft(wide(x), axis=1)),
                          (False, np.fft.ifft(wide(x), axis=1, norm="forward"))):
        launch, m = generated("fft_c2c", t.meta, (1,), 0, forward)
        close(make_tensor(launch.launch(t.data_), m, None).numpy(), want, "complex64")
    launch, m = generated("fft_c2r", t.meta, (0, 1), 2, 2 * n - 1, False)
    got = make_tensor(launch.launch(t.data_), m, None).numpy()
    close(got, np.fft.irfftn(wide(x), (3, 2 * n - 1), (0, 1)), "float32")
    launch, m = generated("fft_r2c", lampion.tensor(x.real.copy()).meta, (2, 0, 1), 1, True)
    got = make_tensor(launch.launch(lampion.tensor(x.real.copy()).data_), m, None).numpy()
    close(got, np.fft.rfftn(wide(x.real), axes=(2, 0, 1), norm="ortho"), "complex64")


@pytest.mark.parametrize("norm", NORMS)
def test_several_dims(device, norm):
    x, r = values((3, 4, 6), "complex64"), values((3, 4, 6), "float32")
    t, s = lampion.tensor(x).to(device), lampion.tensor(r).to(device)
    for name in ("fftn", "ifftn"):
        want = getattr(np.fft, name)
        f = getattr(lampion.fft, name)
        close(host(f(t, norm=norm)), want(wide(x), norm=norm), "complex64")
        close(host(f(s, (5, 2), (2, 0), norm)), want(wide(r), (5, 2), (2, 0), norm), "complex64")
        two = getattr(lampion.fft, name.replace("n", "2"))
        close(host(two(t, norm=norm)), want(wide(x), axes=(1, 2), norm=norm), "complex64")
    close(host(lampion.fft.rfftn(s, norm=norm)), np.fft.rfftn(wide(r), norm=norm), "complex64")
    close(host(lampion.fft.rfft2(s, (5, 7), norm=norm)),
          np.fft.rfft2(wide(r), (5, 7), norm=norm), "complex64")
    close(host(lampion.fft.irfftn(t, (4, 7), (0, 2), norm)),
          np.fft.irfftn(wide(x), (4, 7), (0, 2), norm), "float32")
    close(host(lampion.fft.irfft2(t, norm=norm)), np.fft.irfft2(wide(x), norm=norm), "float32")


@pytest.mark.parametrize("norm", NORMS)
def test_hermitian_dims_undo_each_other(device, norm):
    r = values((4, 6), "float32")
    t = lampion.tensor(r).to(device)
    for there, back, size in (("ihfftn", "hfftn", (4, 6)), ("ihfft2", "hfft2", (4, 6))):
        half = getattr(lampion.fft, there)(t, norm=norm)
        assert tuple(half.shape) == (4, 4)
        close(host(getattr(lampion.fft, back)(half, size, norm=norm)), wide(r), "float32")
    whole = np.conj(np.fft.fftn(wide(r), norm=norm))  # ihfftn conjugates, and scales the other way
    scale = {None: 24, "forward": 1 / 24, "ortho": 1}[norm]
    close(host(lampion.fft.ihfftn(t, norm=norm)), whole[:, :4] / scale, "complex64")


@pytest.mark.parametrize("layout", ("transposed", "strided", "expanded", "offset"))
def test_layouts(device, layout):
    x = values((5, 6), "complex64")
    whole = lampion.tensor(values((10, 12), "complex64")).to(device)
    t = {"transposed": lambda: lampion.tensor(x.T.copy()).to(device).t(),
         "strided": lambda: whole[::2, ::2], "expanded": lambda: whole[:1, :6].expand(5, 6),
         "offset": lambda: whole.reshape(-1)[7:37].reshape(5, 6)}[layout]()
    for dim in (0, 1):
        close(host(lampion.fft.fft(t, dim=dim)), np.fft.fft(wide(host(t)), axis=dim), "complex64")


def test_promotion_and_sizes(device):
    for dtype in (lampion.int64, lampion.uint8, lampion.bool):
        t = lampion.tensor([1, 0, 1]).to(dtype).to(device)
        close(host(lampion.fft.fft(t)), np.fft.fft([1.0, 0, 1]), "complex64")
        close(host(lampion.fft.irfft(t)), np.fft.irfft([1.0, 0, 1]), "float32")
    t = lampion.tensor([1.0, 2.0, 3.0]).to(device)
    for n in (1, 2, 3, 5):
        close(host(lampion.fft.fft(t, n)), np.fft.fft([1.0, 2, 3], n), "complex64")
        close(host(lampion.fft.hfft(t, n)), np.fft.hfft([1.0, 2, 3], n), "float32")
    assert lampion.fft.fft(lampion.ones(0, 3).to(device)).shape == (0, 3)
    assert lampion.fft.irfft(lampion.ones(0, 3).to(device)).shape == (0, 4)
    scalar = lampion.fft.fftn(lampion.tensor(2.0).to(device))
    assert scalar.shape == () and scalar.item() == 2
    assert lampion.fft.fftn(t, dim=()).tolist() == [1, 2, 3]


@pytest.mark.parametrize("call, error, text", (
    (lambda f, t: f.fft(t, 0), RuntimeError, "Invalid number of data points"),
    (lambda f, t: f.fft(t, 2.5), TypeError, "must be int"),
    (lambda f, t: f.fft(t, dim=2), IndexError, "out of range"),
    (lambda f, t: f.fft(t, norm="x"), RuntimeError, "normalization"),
    (lambda f, t: f.fft(t[0, 0]), IndexError, "no dimensions"),
    (lambda f, t: f.fft(t.half()), RuntimeError, "Half"),
    (lambda f, t: f.fftn(t.bfloat16()), RuntimeError, "BFloat16"),
    (lambda f, t: f.rfft(t + 0j), RuntimeError, "real input"),
    (lambda f, t: f.rfftn(t + 0j), RuntimeError, "real-valued"),
    (lambda f, t: f.ihfftn(t + 0j), RuntimeError, "floating-point"),
    (lambda f, t: f.irfft(t[:, :1]), RuntimeError, "data points"),
    (lambda f, t: f.fftn(t, dim=(0, 0)), RuntimeError, "unique"),
    (lambda f, t: f.fftn(t, (1, 2), (0,)), RuntimeError, "same length"),
    (lambda f, t: f.fftn(t, (1, 2, 3)), RuntimeError, "only has 2 dim"),
    (lambda f, t: f.rfftn(t, dim=()), RuntimeError, "at least one axis"),
    (lambda f, t: f.fft(t, out=lampion.empty(0)), RuntimeError, "out= of dtype float32"),
    (lambda f, t: f.fftshift(t, ()), RuntimeError, "shifts"),
    (lambda f, t: f.fftfreq(3, dtype=lampion.int64), RuntimeError, "floating")))
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call(lampion.fft, lampion.ones(3, 4))


def test_out():
    x = values((3, 4), "complex64")
    out = lampion.empty(0, dtype=lampion.complex64)
    assert lampion.fft.fft(lampion.tensor(x), out=out) is out
    close(out.numpy(), np.fft.fft(wide(x)), "complex64")


# ---- gradients  ----

def pairs(t):
    return lampion.view_as_real(t) if t.is_complex() else t


CASES = (
    ("fft", (3, 5), {"n": 7}), ("ifft", (5, 3), {"dim": 0, "n": 4}), ("irfft", (2, 4), {}),
    ("irfft", (2, 4), {"n": 7, "norm": "forward"}), ("hfft", (2, 4), {"norm": "ortho"}),
    ("fftn", (3, 2, 4), {"s": (3, 5)}), ("irfftn", (3, 4), {}), ("hfftn", (3, 4), {"s": (4, 5)}),
    ("fft", (2, 17), {}), ("ifft2", (3, 4), {"norm": "forward"}))


@pytest.mark.parametrize("name, shape, kwargs", CASES)
def test_gradient_of_complex(device, name, shape, kwargs):
    f = getattr(lampion.fft, name)
    arrays = [rng.standard_normal(shape), rng.standard_normal(shape)]
    check_gradient(lambda a, b: pairs(f(lampion.complex(a, b), **kwargs)), arrays, device)


@pytest.mark.parametrize("name, shape, kwargs", (
    ("fft", (3, 5), {"n": 7}), ("rfft", (3, 6), {}), ("rfft", (5, 2), {"dim": 0}),
    ("ihfft", (2, 7), {"norm": "ortho"}), ("rfftn", (3, 4, 2), {"dim": (0, 2, 1)}),
    ("ihfft2", (3, 5), {}), ("fftn", (2, 3), {"norm": "ortho"}), ("irfft", (2, 4), {})))
def test_gradient_of_real(device, name, shape, kwargs):
    f = getattr(lampion.fft, name)
    check_gradient(lambda a: pairs(f(a, **kwargs)) ** 2, [rng.standard_normal(shape)], device)


@pytest.mark.parametrize("name, kwargs", (("irfft", {"n": 6}), ("hfft", {"n": 5})))
def test_imaginary_parts_that_are_not_looked_at(name, kwargs):
    """Those of entry 0, and of the middle one of an even number: no effect, gradient 0."""
    f = getattr(lampion.fft, name)
    x = lampion.tensor(values(4 if kwargs["n"] == 6 else 3, "complex128"))
    bent = x.clone()
    bent[0] += 5j
    ends = [0]
    if kwargs["n"] % 2 == 0:
        bent[-1] -= 3j
        ends.append(-1)
    assert lampion.allclose(f(x, **kwargs), f(bent, **kwargs), rtol=0, atol=1e-14)
    x.requires_grad_()
    (f(x, **kwargs) ** 3).sum().backward()
    assert all(abs(x.grad[k].imag.item()) < 1e-12 for k in ends)


# ---- order of frequencies  ----

@pytest.mark.parametrize("shape", ((5,), (4,), (3, 4), (2, 3, 5)))
def test_shifts(device, shape):
    x = values(shape, "float32")
    t = lampion.tensor(x).to(device)
    for dim in (None, 0, -1, tuple(range(len(shape)))):
        for name in ("fftshift", "ifftshift"):
            got = host(getattr(lampion.fft, name)(t, dim))
            assert (got == getattr(np.fft, name)(x, dim)).all()


@pytest.mark.parametrize("n", (1, 2, 5, 8))
@pytest.mark.parametrize("d", (1.0, 0.1, 4))
def test_frequencies(n, d):
    for name in ("fftfreq", "rfftfreq"):
        got = getattr(lampion.fft, name)(n, d, dtype=lampion.float64)
        np.testing.assert_allclose(got.numpy(), getattr(np.fft, name)(n, d), rtol=1e-15)
    assert lampion.fft.fftfreq(n, d, requires_grad=True).requires_grad
