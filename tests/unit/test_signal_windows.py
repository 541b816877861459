"""Window functions against scipy.signal's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import windows as reference

import lampion

W = lampion.signal.windows
CASES = {
    "bartlett": {}, "blackman": {}, "cosine": {}, "hamming": {}, "hann": {}, "nuttall": {},
    "exponential": {"tau": 2.5}, "gaussian": {"std": 1.5}, "kaiser": {"beta": 9.0},
    "general_cosine": {"a": [0.5, 0.3, 0.2]}, "general_hamming": {"alpha": 0.6}}


@pytest.mark.parametrize("m", (0, 1, 2, 5, 8, 33))
@pytest.mark.parametrize("name", CASES)
def test_values(name, m):
    kw = CASES[name]
    for sym in (True, False):
        got = getattr(W, name)(m, sym=sym, dtype=lampion.float64, **kw)
        want = getattr(reference, name)(m, *kw.get("a", ()) and [kw["a"]], sym=sym,
                                        **{k: v for k, v in kw.items() if k != "a"})
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-12, atol=1e-15)
        single = getattr(W, name)(m, sym=sym, **kw)
        assert single.dtype is lampion.float32
        if sym:
            assert (single.numpy() == single.numpy()[::-1]).all()


def test_every_name_of_the_module_is_tested():
    assert set(CASES) == set(W.__all__)


@pytest.mark.parametrize("name", ("bartlett", "blackman", "hamming", "hann", "kaiser"))
def test_older_functions(name):
    old, new = getattr(lampion, f"{name}_window"), getattr(W, name)
    for m in (0, 1, 2, 7):
        assert lampion.equal(old(m), new(m, sym=False))
        assert lampion.equal(old(m, periodic=False), new(m))
    assert old(6, dtype=lampion.float16).dtype is lampion.float16
    assert old(6, requires_grad=True).requires_grad
    for error, args, kwargs in ((RuntimeError, (-1,), {}), (TypeError, (2.5,), {}),
                                (RuntimeError, (3,), {"dtype": lampion.int64})):
        with pytest.raises(error, match=f"{name}_window"):
            old(*args, **kwargs)


def test_own_arguments():
    want = 0.3 - 0.7 * np.cos(2 * np.pi * np.arange(5) / 5)
    np.testing.assert_allclose(lampion.hamming_window(5, True, 0.3, 0.7).numpy(), want, rtol=1e-6)
    assert lampion.equal(lampion.kaiser_window(5, True, 3.0), W.kaiser(5, beta=3.0, sym=False))
    got = W.exponential(4, center=0.0, tau=2.0, sym=False).numpy()
    np.testing.assert_allclose(got, np.exp(-np.arange(4) / 2), rtol=1e-6)


@pytest.mark.parametrize("call, error", (
    (lambda: W.hann(-1), ValueError), (lambda: W.hann(3.5), TypeError),
    (lambda: W.hann(3, dtype=lampion.float16), ValueError),
    (lambda: W.hann(3, layout=1), ValueError),
    (lambda: W.kaiser(3, beta=-1.0), ValueError), (lambda: W.gaussian(3, std=0.0), ValueError),
    (lambda: W.exponential(3, tau=0.0), ValueError),
    (lambda: W.exponential(3, center=1.0), ValueError),
    (lambda: W.general_cosine(3, a=[]), ValueError), (lambda: W.general_cosine(3, a=2), TypeError)))
def test_errors(call, error):
    with pytest.raises(error):
        call()
