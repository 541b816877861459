"""Reductions, scans, softmax, norms and losses against NumPy, gradients by differences."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import check_gradient, tensors

import lampion

F = lampion.nn.functional
rng = np.random.default_rng(11)


def lse(x, axis):
    top = x.max(axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(x - top).sum(axis))


REDUCTIONS = {
    "sum": lambda x, d: x.sum(d), "mean": lambda x, d: x.mean(d), "amax": lambda x, d: x.max(d),
    "amin": lambda x, d: x.min(d), "logsumexp": lse, "prod": lambda x, d: x.prod(d),
    "var": lambda x, d: x.var(d, ddof=1), "std": lambda x, d: x.std(d, ddof=1),
    "argmax": lambda x, d: x.argmax(d), "argmin": lambda x, d: x.argmin(d),
    "cumsum": lambda x, d: x.cumsum(d), "cumprod": lambda x, d: x.cumprod(d),
    "softmax": lambda x, d: np.exp(x - np.expand_dims(lse(x, d), d)),
    "log_softmax": lambda x, d: x - np.expand_dims(lse(x, d), d),
    "norm": lambda x, d: np.sqrt((x * x).sum(d)),
}
SHAPES = [((4, 5), 1), ((4, 5), 0), ((3, 4, 5), -2), ((7,), 0), ((1, 6), 0), ((2, 130), 1)]


def call(name, t, dim):
    return getattr(lampion, name)(t, dim=dim)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_values(name, device):
    for shape, dim in SHAPES:
        if name in ("var", "std") and shape[dim] < 2:
            continue
        x = rng.standard_normal(shape).astype(np.float32)
        turned = (np.swapaxes(x, 0, -1), lambda t: t.transpose(0, -1))
        for array, view in ((x, lambda t: t), turned):
            if name in ("var", "std") and array.shape[dim] < 2:
                continue
            want = REDUCTIONS[name](array.astype(np.float64), dim)
            got = call(name, view(tensors([x], device)[0]), dim)
            np.testing.assert_allclose(got.cpu().numpy(), want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", [n for n in REDUCTIONS if not n.startswith("arg")])
def test_gradients(name, device):
    for shape, dim in SHAPES[:4]:
        x = rng.standard_normal(shape)
        check_gradient(lambda t, d=dim: call(name, t, d), [x], device)


def test_gradients_of_products_with_zeros(device):
    x = rng.standard_normal((3, 4))
    x[0, 1] = x[1, 0] = x[1, 2] = 0.0
    check_gradient(lambda t: t.prod(1), [x], device)
    check_gradient(lambda t: t.cumprod(1), [x], device, order=1)


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


def test_layer_and_group_norm(device):
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((3, 4, 6), (6,), (6,)))
    tx, tw, tb = tensors([x, w, b], device)
    got = F.layer_norm(tx, (6,), tw, tb).cpu().numpy()
    np.testing.assert_allclose(got, normalised(x, 2) * w + b, rtol=1e-4, atol=1e-5)
    got = F.group_norm(tx, 2).cpu().numpy()
    np.testing.assert_allclose(got, normalised(x.reshape(3, 2, 12), 2).reshape(x.shape),
                               rtol=1e-4, atol=1e-5)
    got = F.rms_norm(tx, (6,), tw, 1e-5).cpu().numpy()
    np.testing.assert_allclose(got, x / np.sqrt((x * x).mean(2, keepdims=True) + 1e-5) * w,
                               rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("name", ["layer", "batch", "rms", "group"])
def test_gradients_of_norms(name, device):
    f = {"layer": lambda x, w, b: F.layer_norm(x, (5,), w, b),
         "batch": lambda x, w, b: F.batch_norm(x.transpose(1, 2), None, None, w, b, True),
         "rms": lambda x, w, b: F.rms_norm(x, (5,), w, 1e-5) + b,
         "group": lambda x, w, b: F.group_norm(x.transpose(1, 2), 5, w, b)}[name]
    arrays = [rng.standard_normal(s) for s in ((3, 4, 5), (5,), (5,))]
    check_gradient(f, arrays, device, tolerance=1e-5)


def cross_entropy(x, y, w, smoothing, ignore):
    logp = x - np.expand_dims(lse(x, 1), 1)
    total = weight = 0.0
    for row, c in zip(logp, y):
        if c == ignore:
            continue
        total += -(1 - smoothing) * w[c] * row[c] - smoothing / len(row) * (w * row).sum()
        weight += w[c]
    return total / weight


def test_cross_entropy(device):
    x, w = rng.standard_normal((6, 4)), rng.random(4) + 0.5
    y = np.array([0, 3, -100, 1, 2, 2])
    tx, tw = tensors([x, w], device)
    ty = lampion.tensor(y).to(device)
    for smoothing in (0.0, 0.2):
        got = F.cross_entropy(tx, ty, tw, label_smoothing=smoothing).item()
        assert got == pytest.approx(cross_entropy(x, y, w, smoothing, -100))
    check_gradient(lambda t: F.cross_entropy(t, ty, tw, label_smoothing=0.1), [x], device)
    check_gradient(lambda t: F.cross_entropy(t, ty, reduction="none"), [x], device)
    check_gradient(lambda t: F.nll_loss(t.log_softmax(1), ty, tw), [x], device)


def test_a_class_out_of_range_is_named(device):
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        F.cross_entropy(lampion.zeros(2, 3).to(device), lampion.tensor([0, 7]).to(device))


@pytest.mark.parametrize("name", ["mse_loss", "smooth_l1_loss", "huber_loss",
                                  "binary_cross_entropy_with_logits"])
def test_gradients_of_losses(name, device):
    arrays = [rng.standard_normal((4, 3)), rng.random((4, 3))]
    check_gradient(lambda x, t: getattr(F, name)(x, t), arrays, device)


def test_running_extremes_take_the_last_of_ties(device):
    t = lampion.tensor([1.0, 3.0, 3.0, 2.0, 5.0]).to(device)
    values, indices = t.cummax(0)
    assert values.tolist() == [1.0, 3.0, 3.0, 3.0, 5.0] and indices.tolist() == [0, 1, 2, 2, 4]
