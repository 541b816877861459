"""The short-time Fourier transform against SciPy and NumPy loops, and its inverse."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import check_gradient

import lampion

rng = np.random.default_rng(0)


def reference(x, n_fft, hop, window, center=True, mode="reflect", onesided=True):
    """Frame by frame in double precision, frequencies first."""
    if center:
        x = np.pad(x, n_fft // 2, mode=mode)
    left = (n_fft - len(window)) // 2
    w = np.pad(window, (left, n_fft - len(window) - left))
    starts = range(0, len(x) - n_fft + 1, hop)
    transform = np.fft.rfft if onesided else np.fft.fft
    return np.stack([transform(x[s:s + n_fft] * w) for s in starts], -1)


@pytest.mark.parametrize("n_fft, hop, length, kwargs", (
    (16, 4, 16, {}), (15, 4, 9, {}), (16, 16, 7, {"center": False}), (8, 3, 8, {"mode": "wrap"}),
    (8, 3, 5, {"onesided": False}), (12, 5, 12, {"mode": "constant", "onesided": False})))
def test_frames(device, n_fft, hop, length, kwargs):
    x, w = rng.standard_normal(70), rng.uniform(0.1, 1, length)
    want = reference(x, n_fft, hop, w, **kwargs)
    options = {k: v for k, v in kwargs.items() if k != "mode"}
    mode = kwargs.get("mode", "reflect")
    options["pad_mode"] = "circular" if mode == "wrap" else mode
    t, window = (lampion.tensor(a).to(device) for a in (x, w))
    got = t.stft(n_fft, hop, length, window, return_complex=True, **options)
    np.testing.assert_allclose(got.to("cpu").numpy(), want, atol=1e-12)
    both = lampion.stft(lampion.stack([t, t * 2]), n_fft, hop, length, window, normalized=True,
                        return_complex=False, **options)
    assert both.shape == (2, *want.shape, 2)
    two = lampion.view_as_complex(both.contiguous())[1].to("cpu").numpy()
    np.testing.assert_allclose(two, 2 * want / np.sqrt(n_fft), atol=1e-12)


def test_complex_signal_and_aligned_window():
    x = rng.standard_normal(50) + 1j * rng.standard_normal(50)
    w = rng.uniform(0.1, 1, 6)
    got = lampion.stft(lampion.tensor(x), 10, 4, 6, lampion.tensor(w), center=False)
    np.testing.assert_allclose(got.numpy(), reference(x, 10, 4, w, False, onesided=False),
                               atol=1e-12)
    got = lampion.stft(lampion.tensor(x), 10, 4, 6, lampion.tensor(w), center=False,
                       align_to_window=True)
    want = reference(np.pad(x, 2), 10, 4, w, False, onesided=False)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-12)


@pytest.mark.parametrize("n_fft, hop, length, kwargs", (
    (16, 4, 16, {}), (15, 4, 9, {}), (16, 5, 14, {"normalized": True}),
    (8, 2, 8, {"onesided": False}), (8, 8, 8, {"center": False, "pad_mode": "constant"})))
def test_inverse(device, n_fft, hop, length, kwargs):
    kwargs = dict(kwargs)
    x = rng.standard_normal((2, 64))
    t = lampion.tensor(x).to(device)
    window = lampion.tensor(rng.uniform(0.5, 1, length)).to(device)
    y = t.stft(n_fft, hop, length, window, return_complex=True, **kwargs)
    kwargs.pop("pad_mode", None)
    back = y.istft(n_fft, hop, length, window, length=60, **kwargs).to("cpu").numpy()
    np.testing.assert_allclose(back, x[:, :60], atol=1e-12)
    whole = y.istft(n_fft, hop, length, window, **kwargs).to("cpu").numpy()
    np.testing.assert_allclose(whole[:, :60], x[:, :60], atol=1e-12)


def test_inverse_of_complex_and_beyond_the_end():
    x = rng.standard_normal(40) + 1j * rng.standard_normal(40)
    w = lampion.ones(8, dtype=lampion.float64)
    y = lampion.stft(lampion.tensor(x), 8, window=w)
    back = lampion.istft(y, 8, window=w, onesided=False, return_complex=True)
    np.testing.assert_allclose(back.numpy(), x, atol=1e-12)
    with pytest.warns(UserWarning, match="zeros are added"):
        long = lampion.istft(y, 8, window=w, onesided=False, return_complex=True, length=50)
    assert long.shape == (50,) and (long[44:] == 0).all()


@pytest.mark.parametrize("call, text", (
    (lambda x, w: x.stft(8, window=w), "return_complex"),
    (lambda x, w: x.stft(8, 0, window=w, return_complex=True), "hop_length"),
    (lambda x, w: x.stft(8, win_length=9, return_complex=True), "win_length"),
    (lambda x, w: x.stft(8, window=w[:5], return_complex=True), "window"),
    (lambda x, w: x.stft(99, window=w, center=False, return_complex=True), "n_fft"),
    (lambda x, w: x.long().stft(8, window=w, return_complex=True), "floating point"),
    (lambda x, w: x.stft(8, window=w + 0j, onesided=True, return_complex=True), "onesided"),
    (lambda x, w: x.stft(8, window=w, align_to_window=True), "center = false"),
    (lambda x, w: x.half().stft(8, window=w.half(), return_complex=True), "Half"),
    (lambda x, w: x.reshape(1, 1, -1).stft(8, window=w, return_complex=True, center=False), "1D"),
    (lambda x, w: lampion.ones(5, 4).istft(8, window=w), "complex-valued"),
    (lambda x, w: (lampion.ones(6, 4) + 0j).istft(8, window=w), "frequency"),
    (lambda x, w: (lampion.ones(5, 4) + 0j).istft(8, 9, window=w), "hop_length"),
    (lambda x, w: (lampion.ones(5, 4) + 0j).istft(8, window=w * 0), "overlap add"),
    (lambda x, w: (lampion.ones(5, 4) + 0j).istft(8, window=w, return_complex=True), "onesided"),
    (lambda x, w: (lampion.ones(5, 0) + 0j).istft(8, window=w), "empty")))
def test_errors(call, text):
    with pytest.raises(RuntimeError, match=text):
        call(lampion.arange(40.0), lampion.ones(8))


def test_missing_window_is_warned_of():
    with pytest.warns(UserWarning, match="window"):
        lampion.stft(lampion.ones(20), 8, return_complex=True)


def test_gradients(device):
    x, w = rng.standard_normal(30), rng.uniform(0.5, 1, 8)

    def there(x, w):
        return lampion.view_as_real(x.stft(8, 3, 8, w, return_complex=True))

    def back(a, b, w):
        return lampion.complex(a, b).istft(8, 3, 8, w)

    check_gradient(there, [x, w], device)
    check_gradient(back, [rng.standard_normal((5, 7)), rng.standard_normal((5, 7)), w], device)


@pytest.mark.parametrize("windows, size, step", ((4, 6, 2), (3, 2, 4), (1, 5, 1), (5, 3, 3)))
def test_overlap_add(device, windows, size, step):
    from lampion.ops.registry import REGISTRY

    for dtype in ("float64", "complex64", "int64"):
        x = rng.integers(-9, 9, (2, windows, size)).astype(dtype)
        want = np.zeros((2, step * (windows - 1) + size + 1), dtype)
        for k in range(windows):
            want[:, k * step:k * step + size] += x[:, k]
        got = REGISTRY["overlap_add"].fn(lampion.tensor(x).to(device), want.shape[1], step)
        assert (got.to("cpu").numpy() == want).all()
    check_gradient(lambda t: t.unfold(0, size, step),
                   [rng.standard_normal((step * windows + size, 2))], device)
