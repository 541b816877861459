"""Reductions, norms and losses in special places: zeros, NaN, nothing, large and half-precision
sums, running statistics. Values and gradients in general are in test_derived.py."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import check_gradient, tensors

import lampion

F = lampion.nn.functional
rng = np.random.default_rng(11)


def test_gradients_of_products_with_zeros(device):
    x = rng.standard_normal((3, 4))
    x[0, 1] = x[1, 0] = x[1, 2] = 0.0
    check_gradient(lambda t: t.prod(1), [x], device)
    check_gradient(lambda t: t.cumprod(1), [x], device, order=1)


@pytest.mark.parametrize("dim", [0, 1])
def test_products_of_complex_numbers(device, dim):
    x = rng.standard_normal((37, 40)) + 1j * rng.standard_normal((37, 40))
    x /= abs(x)
    t = lampion.tensor(x.astype(np.complex64)).to(device)
    np.testing.assert_allclose(t.prod(dim).cpu().numpy(), x.prod(dim), rtol=2e-5)
    np.testing.assert_allclose(t.cumprod(dim).cpu().numpy(), x.cumprod(dim), rtol=2e-5)


def test_integers_sum_to_int64_and_have_no_mean(device):
    t = lampion.tensor([[1, 2], [3, 250]], dtype=lampion.uint8).to(device)
    assert t.sum().dtype is lampion.int64 and t.sum().item() == 256
    assert t.prod(1).tolist() == [2, 750]
    with pytest.raises(RuntimeError, match="mean"):
        t.mean()


def test_nan_wins(device):
    t = lampion.tensor([1.0, float("nan"), 3.0]).to(device)
    assert all(np.isnan(v.item()) for v in (t.amax(), t.amin(), t.sum(), t.max(0).values))
    assert t.argmax().item() == 1 and t.nansum().item() == 4.0


def test_empty(device):
    t = lampion.zeros(0, 3).to(device)
    assert t.sum().item() == 0.0 and t.sum(0).tolist() == [0.0] * 3 and t.prod().item() == 1.0
    assert not t.any().item() and t.all().item()
    assert t.logsumexp(0).tolist() == [-float("inf")] * 3
    with pytest.raises(IndexError):
        t.amax(0)
    with pytest.raises(IndexError, match="out of range"):
        t.sum(2)


def test_half_accumulates_in_float(device):
    t = lampion.ones(4096).to(device)
    assert t.to(lampion.bfloat16).sum().item() == 4096.0
    assert t.to(lampion.float16).sum().item() == 4096.0


def test_a_large_sum_is_accurate(device):
    x = rng.random(300_001).astype(np.float32)
    got = tensors([x], device)[0].sum().item()
    assert abs(got - x.astype(np.float64).sum()) < 2e-6 * x.sum()


def normalised(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def test_batch_norm_trains_and_tracks(device):
    x = rng.standard_normal((5, 3, 4)).astype(np.float32)
    (t,) = tensors([x], device)
    mean, var = lampion.zeros(3).to(device), lampion.ones(3).to(device)
    got = F.batch_norm(t, mean, var, training=True, momentum=0.1)
    np.testing.assert_allclose(got.cpu().numpy(), normalised(x, (0, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean.cpu().numpy(), 0.1 * x.mean((0, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(var.cpu().numpy(),
                               0.9 + 0.1 * x.var((0, 2), ddof=1), rtol=1e-4)
    still = F.batch_norm(t, mean, var, training=False).cpu().numpy()
    want = (x - mean.cpu().numpy()[:, None]) / np.sqrt(var.cpu().numpy()[:, None] + 1e-5)
    np.testing.assert_allclose(still, want, rtol=1e-4, atol=1e-5)


def test_a_class_out_of_range_is_named(device):
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        F.cross_entropy(lampion.zeros(2, 3).to(device), lampion.tensor([0, 7]).to(device))
