"""Rules of single elementwise ops, on every installed device; what all of them have in common is
in test_derived.py."""

from __future__ import annotations

import numpy as np
import pytest

import lampion
from lampion.ops.registry import REGISTRY


def supports(device: str, name: str) -> bool:
    """Whether the device computes in this dtype."""
    from lampion.ops.plans import backend_of
    from lampion.runtime.devices import resolve

    d = resolve(device)
    return lampion.__dict__[name] in backend_of(d).capabilities(d.index or 0).dtypes


def test_integer_division_by_zero(device: str) -> None:
    from lampion.ops.plans import backend_of
    from lampion.runtime.devices import resolve

    x = lampion.tensor([4, 5]).to(device)
    for op in ("floor_divide", "remainder", "fmod"):
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            getattr(x, op)(0)
    if "host-memory" in backend_of(resolve(device)).capabilities(0).features:
        for op in ("floor_divide", "remainder", "fmod"):
            with pytest.raises(RuntimeError, match="ZeroDivisionError"):
                getattr(x, op)(lampion.tensor([1, 0]).to(device))
    assert (x // lampion.tensor([-3, 3]).to(device)).tolist() == [-2, 1]
    assert (x % -3).tolist() == [-2, -1]


def test_integers_wrap(device: str) -> None:
    x = lampion.tensor([100, -128], dtype=lampion.int8).to(device)
    assert (x + x).tolist() == [-56, 0]
    assert (x * x).tolist() == [16, 0]
    assert (-x).tolist() == [-100, -128]
    assert (x ** 3).tolist() == [64, 0]


def test_bool_arithmetic(device: str) -> None:
    a, b = (lampion.tensor(v).to(device) for v in ([True, False, True], [True, False, False]))
    assert (a + b).tolist() == [True, False, True]
    assert (a * b).tolist() == [True, False, False]
    with pytest.raises(RuntimeError, match="two bool tensors"):
        a - b
    with pytest.raises(RuntimeError, match="Negation"):
        -a


def test_powers(device: str) -> None:
    x = lampion.tensor([2, 1, -1, 0]).to(device)
    e = lampion.tensor([-1, -3, -3, 5]).to(device)
    assert (x ** e).tolist() == [0, 1, -1, 0]
    with pytest.raises(RuntimeError, match="negative integer powers"):
        x ** -1
    y = lampion.tensor([4.0, 9.0]).to(device)
    for exponent in (2, 3, 0.5, -0.5, -1, 1.5, 0):
        np.testing.assert_allclose((y ** exponent).tolist(), np.array([4.0, 9.0]) ** exponent,
                                   rtol=1e-6)
    assert (2 ** lampion.tensor([3, 4]).to(device)).tolist() == [8, 16]


def test_alpha_and_rounding_mode(device: str) -> None:
    x = lampion.tensor([1.0, -7.0]).to(device)
    assert lampion.add(x, x, alpha=3).tolist() == [4.0, -28.0]
    assert lampion.sub(x, 1, alpha=2).tolist() == [-1.0, -9.0]
    assert x.clone().add_(x, alpha=2).tolist() == [3.0, -21.0]
    assert lampion.div(x, 2, rounding_mode="floor").tolist() == [0.0, -4.0]
    assert lampion.div(x, 2, rounding_mode="trunc").tolist() == [0.0, -3.0]
    with pytest.raises(RuntimeError, match="rounding_mode"):
        lampion.div(x, 2, rounding_mode="up")
    with pytest.raises(RuntimeError, match="floating point number"):
        lampion.add(lampion.tensor([1]), 1, alpha=0.5)


def test_clamp_forms(device: str) -> None:
    x = lampion.tensor([-2.0, 0.5, float("nan"), 3.0]).to(device)
    np.testing.assert_array_equal(x.clamp(-1, 1).tolist(), [-1, 0.5, np.nan, 1])
    np.testing.assert_array_equal(x.clamp(min=0).tolist(), [0, 0.5, np.nan, 3])
    np.testing.assert_array_equal(x.clamp(max=0).tolist(), [-2, 0, np.nan, 0])
    low = lampion.tensor([0.0, 1.0, 0.0, 9.0]).to(device)
    np.testing.assert_array_equal(x.clamp(low, 5).tolist(), [0, 1, np.nan, 5])
    with pytest.raises(RuntimeError, match="At least one"):
        x.clamp()
    y = x.clone()
    assert y.clamp_(max=1) is y


def test_neighbours(device: str) -> None:
    for name in ("float32", "float64"):
        if not supports(device, name):
            continue
        x = np.array([0.0, 1.0, -1.0, 1.0, 5e-40, np.inf, 3.0], name)
        y = np.array([1.0, 2.0, 2.0, -1.0, 0.0, 0.0, 3.0], name)
        got = lampion.nextafter(lampion.tensor(x).to(device), lampion.tensor(y).to(device))
        want = np.nextafter(x, y)
        if device == "cpu":
            np.testing.assert_array_equal(got.tolist(), want)
        else:  # a device may flush the smallest numbers to 0
            np.testing.assert_array_equal(got.tolist()[1:4], want[1:4])


def test_whole_numbers(device: str) -> None:
    a, b = ([12, -18, 0, 7, 2 ** 40], [18, 12, 0, 0, 2 ** 33 * 3])
    x, y = lampion.tensor(a).to(device), lampion.tensor(b).to(device)
    assert lampion.gcd(x, y).tolist() == np.gcd(a, b).tolist()
    assert lampion.lcm(x[:4], y[:4]).tolist() == np.lcm(a[:4], b[:4]).tolist()


def test_a_missing_derivative_is_an_error() -> None:
    x = lampion.tensor([2.0], requires_grad=True)
    for name in ("zeta", "gammainc"):
        with pytest.raises(RuntimeError, match="derivative for 'input'"):
            REGISTRY[name].fn(x, lampion.tensor([1.0])).backward()


def test_mantissa_and_exponent(device: str) -> None:
    x = np.array([1.0, -3.5, 0.0, np.inf, 1e30, 0.5, -8.0], "float32")
    m, e = lampion.frexp(lampion.tensor(x).to(device))
    want = np.frexp(x)
    np.testing.assert_array_equal(m.tolist(), want[0])
    np.testing.assert_array_equal(e.tolist(), want[1])
    assert e.dtype is lampion.int32


def test_facts() -> None:
    x = lampion.tensor([1, 2])
    assert lampion.result_type(x, 1.0) is lampion.float32
    assert lampion.can_cast(lampion.int32, lampion.float32)
    assert not lampion.can_cast(lampion.float32, lampion.int32)
    assert lampion.is_tensor(x) and lampion.numel(x) == 2 and not lampion.is_floating_point(x)
    assert x.is_same_size(lampion.tensor([3, 4])) and lampion.tensor([1]).is_nonzero()


def test_incomplete_gamma() -> None:
    import scipy.special as sp

    rng = np.random.default_rng(0)
    a = rng.uniform(0.05, 60, 500)
    x = a * rng.uniform(0, 3, 500)
    for name in ("gammainc", "gammaincc"):
        got = REGISTRY[name].fn(lampion.tensor(a), lampion.tensor(x)).numpy()
        np.testing.assert_allclose(got, getattr(sp, name)(a, x), rtol=1e-9, atol=1e-14)


def test_polynomials() -> None:
    import scipy.special as sp

    x = np.random.default_rng(0).uniform(-1, 1, 50)
    pairs = {"chebyshev_polynomial_t": sp.eval_chebyt, "chebyshev_polynomial_u": sp.eval_chebyu,
             "hermite_polynomial_h": sp.eval_hermite, "hermite_polynomial_he": sp.eval_hermitenorm,
             "laguerre_polynomial_l": sp.eval_laguerre, "legendre_polynomial_p": sp.eval_legendre}
    for name, reference in pairs.items():
        for n in (0, 1, 7, 40):
            got = REGISTRY[name].fn(lampion.tensor(x), n).numpy()
            np.testing.assert_allclose(got, reference(n, x), rtol=1e-9, atol=1e-9, err_msg=name)
        n = np.arange(50) % 9
        got = REGISTRY[name].fn(lampion.tensor(x), lampion.tensor(n)).numpy()
        np.testing.assert_allclose(got, reference(n, x), rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", ["silu", "mish"])
def test_gradients_vanish_far_below_zero(name: str) -> None:
    """x times what underflows is nothing, however large -x is, to the second order."""
    for d, far in ((lampion.float32, -1e30), (lampion.float64, -1e300)):
        x = lampion.tensor([far, -1000.0, 1000.0], dtype=d, requires_grad=True)
        y = getattr(lampion.nn.functional, name)(x)
        g, = lampion.autograd.grad(y.sum(), x, create_graph=True)
        h, = lampion.autograd.grad(g.sum(), x)
        assert g.tolist() == [0.0, 0.0, 1.0] and h.tolist() == [0.0, 0.0, 0.0]
