"""Composites: what they refuse, edge cases, and steps of gradients against autograd. Values and
derivatives are tested from the samples in their blocks."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import tensors

import lampion

F = lampion.nn.functional
rng = np.random.default_rng(17)
X = rng.standard_normal((3, 6))


def host(t):
    return t.detach().cpu().numpy()


def test_cov_refuses_weights_that_do_not_fit(device):
    x, f, a = tensors([X, np.array([1, 2, 1, 3, 1, 1]), rng.random(6) + 0.1], device)
    assert x[0].corrcoef().item() == 1.0
    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert host(x[:, :1].cov()).size == 9
    for wrong, words in (({"fweights": a}, "integral"), ({"fweights": f[:3]}, "numel"),
                         ({"aweights": f}, "floating point"), ({"fweights": -f}, "negative")):
        with pytest.raises(RuntimeError, match=words):
            x.cov(**wrong)


def test_gradient_needs_enough_points(device):
    (x,) = tensors([X], device)
    for order in (1, 2):
        with pytest.raises(RuntimeError, match=r"edge_order\+1"):
            lampion.gradient(x[:, :order], edge_order=order)
    with pytest.raises(RuntimeError, match="spacing"):
        lampion.gradient(x, spacing=[1.0])


def test_equal_values_have_bins_one_wide_in_all(device):
    constant = lampion.ones(4).to(device).histogram(2)
    assert constant.bin_edges.tolist() == [0.5, 1.0, 1.5] and constant.hist.tolist() == [0.0, 4.0]


@pytest.mark.parametrize("reduce, neutral", [
    ("sum", 0.0), ("mean", np.nan), ("max", -np.inf), ("min", np.inf), ("prod", 1.0)])
def test_empty_segments(reduce, neutral, device):
    (t,) = tensors([X.T.copy()], device)
    empty = lampion.segment_reduce(t, reduce, lengths=lampion.tensor([0, 6]).to(device))[0, 0]
    np.testing.assert_equal(empty.item(), neutral)
    with pytest.raises(RuntimeError, match="sum"):
        lampion.segment_reduce(t, reduce, lengths=lampion.tensor([1, 2]).to(device))


def test_hash_is_the_xor_of_the_bits(device):
    ints = rng.integers(-(2**62), 2**62, (5, 7))
    (t,) = tensors([ints], device)
    assert t.hash_tensor().dtype is lampion.uint64
    for dim, want in ((0, np.bitwise_xor.reduce(ints, 0)), (1, np.bitwise_xor.reduce(ints, 1))):
        assert t.hash_tensor(dim).tolist() == want.view(np.uint64).tolist()
    assert t.hash_tensor((0, 1), keepdim=True).shape == (1, 1)
    x = rng.standard_normal((3, 4)).astype(np.float32)
    bits = np.bitwise_xor.reduce(x.astype(np.float64).view(np.uint64).ravel())
    assert tensors([x], device)[0].hash_tensor().item() == int(bits)
    with pytest.raises(RuntimeError, match="mode"):
        t.hash_tensor(mode=1)


def test_indices(device):
    flat = rng.integers(0, 24, (2, 5))
    (t,) = tensors([flat], device)
    for got, want in zip(lampion.unravel_index(t, (2, 3, 4)), np.unravel_index(flat, (2, 3, 4))):
        assert got.tolist() == want.tolist()
    x = lampion.tensor([[0, 3, 0], [4, 0, 5]]).to(device)
    assert x.nonzero_static(size=2).tolist() == [[0, 1], [1, 0]]
    assert x.nonzero_static(size=4, fill_value=9).tolist() == [[0, 1], [1, 0], [1, 2], [9, 9]]
    with pytest.raises(TypeError, match="integer"):
        lampion.unravel_index(x.float(), 3)
    with pytest.raises(ValueError, match="negative"):
        lampion.unravel_index(x, (-1,))


def test_shapes(device):
    (x,) = tensors([X], device)
    np.testing.assert_allclose(host(x.sum_to_size(1, 6)), X.sum(0, keepdims=True), 1e-12)
    assert x.sum_to_size((3, 6)) is x
    with pytest.raises(RuntimeError, match="not expandable"):
        x.sum_to_size(6, 3)
    assert lampion.broadcast_shapes((2, 1), 3, ()) == (2, 3)
    with pytest.raises(RuntimeError):
        lampion.broadcast_shapes((2,), (3,))
    assert x.__rdiv__(1.0).tolist() == (1.0 / x).tolist()


def test_safe_softmax(device):
    x = X.copy()
    x[1] = x[0, 2] = -np.inf
    got = lampion._safe_softmax(tensors([x], device)[0], 1)
    e = np.exp(x[[0, 2]])
    np.testing.assert_allclose(host(got)[[0, 2]], e / e.sum(1, keepdims=True), 1e-9)
    assert host(got)[1].tolist() == [0.0] * 6
    (t,) = tensors([x], device, grad=True)
    lampion._safe_softmax(t, 1)[1].sum().backward()
    assert not t.grad.isnan().any()


def test_native_batch_norm_updates_running_statistics(device):
    x = rng.standard_normal((2, 4, 3))
    (t,) = tensors([x], device)
    running = lampion.zeros(4, dtype=lampion.float64).to(device)
    spread = lampion.ones(4, dtype=lampion.float64).to(device)
    y = lampion.native_batch_norm(t, None, None, running, spread, True, 0.1, 1e-5)[0]
    np.testing.assert_allclose(host(running), 0.1 * x.mean((0, 2)), 1e-9, 1e-12)
    np.testing.assert_allclose(host(spread), 0.9 + 0.1 * x.var((0, 2), ddof=1), 1e-9)
    again = lampion._native_batch_norm_legit(t, None, None, True, 0.1, 1e-5)[0]
    np.testing.assert_allclose(host(again), host(y), 1e-9)


def test_steps_of_gradients(device):
    x = rng.standard_normal((1, 2, 4, 4))
    (t,) = tensors([x], device, grad=True)
    y, indices = F.max_pool2d(t, 2, return_indices=True)
    (g,) = tensors([rng.standard_normal((1, 2, 2, 2))], device)
    y.backward(g)
    mine = lampion.max_pool2d_with_indices_backward(g, t.detach(), 2, 2, 0, 1, False, indices)
    np.testing.assert_allclose(host(mine), host(t.grad))
    (z,) = tensors([X], device, grad=True)
    p = z.softmax(1)
    (g,) = tensors([rng.standard_normal((3, 6))], device)
    p.backward(g)
    mine = lampion._softmax_backward_data(g, p.detach(), 1, lampion.float64)
    np.testing.assert_allclose(host(mine), host(z.grad), 1e-12)
    kept = lampion.native_dropout_backward(g, g > 0, 2.0)
    np.testing.assert_allclose(host(kept), np.maximum(host(g), 0) * 2)


def test_products_of_complex_numbers_have_conjugate_gradients():
    x = (X + 1j * X[::-1])[:, :3].copy()
    t = lampion.tensor(x).requires_grad_()
    t.prod().real.backward()  # d Re(f) / d conj(x) times 2 is conj(f')
    want = np.conj(x.prod() / x)
    np.testing.assert_allclose(host(t.grad), want, 1e-9)
    t.grad = None
    t.cumprod(1)[:, -1].real.sum().backward()
    np.testing.assert_allclose(host(t.grad), np.conj(x.prod(1, keepdims=True) / x), 1e-9)
    t.grad = None
    t.logsumexp(1).real.sum().backward()
    e = np.exp(x)
    np.testing.assert_allclose(host(t.grad), np.conj(e / e.sum(1, keepdims=True)), 1e-9)


def test_layer_norm_refuses_parameters_of_another_shape(device):
    x = lampion.ones(2, 3).to(device)
    for weight, bias in ((lampion.ones(2), None), (None, lampion.ones(1, 3))):
        with pytest.raises(RuntimeError, match="same shape as normalized_shape"):
            F.layer_norm(x, (3,), *[p if p is None else p.to(device) for p in (weight, bias)])


def test_linear_cross_entropy_loss_holds_its_layer(device):
    loss = lampion.nn.LinearCrossEntropyLoss(6, 4, out_features=(2,), bias=True).to(device).double()
    (x,) = tensors([X], device)
    target = lampion.tensor([[0, 3], [1, 1], [2, 0]]).to(device)
    logits = loss.linear(x).reshape(3, 4, 2)
    assert loss(x, target).item() == pytest.approx(F.cross_entropy(logits, target).item())
    assert set(loss.state_dict()) == {"linear.weight", "linear.bias"}
    with pytest.raises(RuntimeError, match="weight shape"):
        lampion.nn.LinearCrossEntropyLoss(6, 4, weight=lampion.ones(3))
