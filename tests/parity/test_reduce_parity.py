"""Reductions, scans, norms and losses against PyTorch: values, shapes, dtypes, gradients to
second order."""

from __future__ import annotations

import numpy as np
import pytest

import lampion

torch = pytest.importorskip("torch")
rng = np.random.default_rng()


def compare(f, *shapes, order=2):
    """f(module, *tensors) on both, with gradients of a random combination of the results."""
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    ours = [lampion.tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    a, b = f(lampion, *ours), f(torch, *theirs)
    a, b = (tuple(r) if isinstance(r, tuple) else (r,) for r in (a, b))
    for x, y in zip(a, b):
        assert tuple(x.shape) == tuple(y.shape) and x.dtype.name == str(y.dtype)[6:]
        np.testing.assert_allclose(x.detach().numpy(), y.detach().numpy(), rtol=1e-4, atol=1e-5)
    live = [(x, y) for x, y in zip(a, b) if y.requires_grad]
    assert [x.requires_grad for x in a] == [y.requires_grad for y in b]
    if not live:
        return
    seeds = [rng.standard_normal(tuple(y.shape)).astype(np.float32) for _, y in live]
    ga = lampion.autograd.grad([x for x, _ in live], ours, [lampion.tensor(s) for s in seeds],
                               create_graph=order > 1)
    gb = torch.autograd.grad([y for _, y in live], theirs, [torch.tensor(s) for s in seeds],
                             create_graph=order > 1)
    for x, y in zip(ga, gb):
        np.testing.assert_allclose(x.detach().numpy(), y.detach().numpy(), rtol=1e-3, atol=1e-5)
    if order < 2 or not any(y.requires_grad for y in gb):
        return
    ha = lampion.autograd.grad(sum((x * x).sum() for x in ga), ours, allow_unused=True)
    hb = torch.autograd.grad(sum((y * y).sum() for y in gb), theirs, allow_unused=True)
    for x, y, like in zip(ha, hb, arrays):
        zero = np.zeros_like(like)
        want = zero if y is None else y.numpy(force=True)
        # sums of large terms that cancel (cumprod near 0) leave both with errors of that size
        np.testing.assert_allclose(zero if x is None else x.numpy(), want, rtol=3e-3,
                                   atol=1e-4 * max(1.0, float(np.abs(want).max(initial=0.0))))


SHAPES = [((4, 5), 1), ((3, 4, 5), -2), ((7,), 0)]


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "logsumexp", "prod", "cumsum",
                                  "cumprod", "softmax", "log_softmax", "nansum", "argmax",
                                  "logcumsumexp", "var", "std", "count_nonzero", "all", "any"])
def test_reductions(name):
    for shape, dim in SHAPES:
        compare(lambda m, x, d=dim: getattr(m, name)(x, d), shape)


@pytest.mark.parametrize("name", ["max", "min", "cummax", "cummin"])
def test_extremes_with_indices(name):
    for shape, dim in SHAPES:
        compare(lambda m, x, d=dim: tuple(getattr(m, name)(x, d)), shape)


@pytest.mark.parametrize("p", [2, 1, 3, float("inf"), -float("inf"), 0.5])
def test_norms_of_vectors(p):
    for shape, dim in SHAPES:
        compare(lambda m, x, d=dim: m.norm(x, p, d), shape)


def test_whole_tensor_and_keepdim():
    compare(lambda m, x: (x.sum(), x.mean(), x.max(), x.min(), x.prod(), x.var(), x.std()), (3, 4))
    compare(lambda m, x: (x.sum((0, 2), True), x.amax((0, 2)), x.var((0, 1), keepdim=True,
                                                                     correction=0)), (3, 4, 5))
    compare(lambda m, x: (m.diff(x, dim=1), m.trapezoid(x, dim=0), m.cumulative_trapezoid(x)),
            (3, 4))


def test_normalisation_layers():
    f = lambda m: m.nn.functional  # noqa: E731
    compare(lambda m, x, w, b: f(m).layer_norm(x, (4, 5), w, b), (3, 4, 5), (4, 5), (4, 5))
    compare(lambda m, x, w: f(m).rms_norm(x, (5,), w), (4, 5), (5,))
    compare(lambda m, x, w, b: f(m).batch_norm(x, None, None, w, b, True), (4, 3, 5, 2), (3,), (3,))
    compare(lambda m, x, w, b: f(m).group_norm(x, 2, w, b), (3, 4, 5), (4,), (4,))
    compare(lambda m, x: f(m).instance_norm(x), (3, 4, 5))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses(reduction):
    f = lambda m: m.nn.functional  # noqa: E731
    y = np.array([1, -100, 3, 2])
    w = rng.random(5).astype(np.float32)
    t = lambda m, a: m.tensor(a)  # noqa: E731
    compare(lambda m, x: f(m).cross_entropy(x, t(m, y), t(m, w), reduction=reduction,
                                            label_smoothing=0.2), (4, 5))
    compare(lambda m, x, p: f(m).cross_entropy(x, p.softmax(1), reduction=reduction),
            (4, 5), (4, 5))
    compare(lambda m, x: f(m).nll_loss(m.log_softmax(x, 1), t(m, y), t(m, w),
                                       reduction=reduction), (4, 5))
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
                 "binary_cross_entropy_with_logits"):
        compare(lambda m, x, z, n=name: getattr(f(m), n)(x, z, reduction=reduction), (4, 5), (4, 5))
    compare(lambda m, x, z: f(m).kl_div(x.log_softmax(1), z.softmax(1), reduction=reduction),
            (4, 5), (4, 5))
