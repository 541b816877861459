"""The fused form of attention on a device with kernels for it: here NumPy ones on the CPU."""

from __future__ import annotations

import math

import numpy as np
import pytest

import lampion
from lampion.autograd import forward_ad, gradcheck, gradgradcheck
from lampion.base.device import device
from lampion.nn import functional as F
from lampion.ops import attention
from lampion.ops import registry as R
from lampion.ops.plans import backend_of
from lampion.runtime.backend import KernelImpl
from lampion.runtime.host import host_launch


def scores(q, k, mask, scale, causal):
    s = q @ np.swapaxes(k, -1, -2) * scale
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    return s


def summed(g, like):
    """g added up over the batch dims of size 1 in `like`."""
    dims = tuple(d for d, (a, b) in enumerate(zip(g.shape, like.shape)) if a != b)
    return g.sum(dims, keepdims=True)


def with_mask(call, arrays):
    """(the tensors, mask or None) from the kernel's arrays."""
    return (*arrays, None) if call.mask is None else arrays


@pytest.fixture
def ran():
    """Kernels for both directions on the CPU, and the list of those that ran."""
    calls = []

    def forward(call):
        def run(out, lse, *arrays):
            calls.append("forward")
            q, k, v, mask = with_mask(call, arrays)
            s = scores(q, k, mask, call.scale, call.causal)
            with np.errstate(divide="ignore"):
                top = np.maximum(s.max(-1), -1e300)
                total = np.exp(s - top[..., None]).sum(-1)
                lse[...] = top + np.log(total)
            out[...] = np.exp(s - np.where(total, top + np.log(np.maximum(total, 1e-300)),
                                           np.inf)[..., None]) @ v

        return run

    def backward(call):
        def run(gq, gk, gv, *arrays):
            calls.append("backward")
            *arrays, out, lse = arrays
            g, q, k, v, mask = with_mask(call, arrays)
            s = scores(q, k, mask, call.scale, call.causal)
            p = np.exp(s - np.where(np.isfinite(lse), lse, np.inf)[..., None])
            gs = p * (g @ np.swapaxes(v, -1, -2) - (g * out).sum(-1, keepdims=True)) * call.scale
            gq[...] = gs @ k
            gk[...] = summed(np.swapaxes(gs, -1, -2) @ q, k)
            gv[...] = summed(np.swapaxes(p, -1, -2) @ g, v)

        return run

    def build(make):
        return lambda call: host_launch(call, make(call), backend_of(device("cpu")))

    lampion.zeros(1)  # the backend's own kernels first
    names = {"fused_attention": forward, "fused_attention_backward": backward}
    attention._known.clear()
    for name, make in names.items():
        R.register_kernel(KernelImpl(name, "cpu", build(make), None, 20, "test"))
    yield calls
    attention._known.clear()
    for name in names:
        R._impls[name, "cpu"] = [i for i in R._impls[name, "cpu"] if i.source != "test"]
        R.REGISTRY[name].plans.clear()


def rand(*shape):
    return lampion.randn(*shape, dtype=lampion.float64, requires_grad=True)


CASES = {
    "plain": lambda: ((rand(2, 3, 4), rand(2, 5, 4), rand(2, 5, 2)), {}),
    "causal": lambda: ((rand(1, 2, 4, 3), rand(1, 2, 4, 3), rand(1, 2, 4, 3)),
                       {"is_causal": True}),
    "scale and float mask": lambda: ((rand(2, 3, 4), rand(2, 5, 4), rand(2, 5, 2), rand(3, 5)),
                                     {"scale": 0.3}),
    "bool mask": lambda: ((rand(3, 4), rand(5, 4), rand(5, 2),
                           lampion.tensor([[True, False, True, True, False], [False] * 5,
                                           [True] * 5])), {}),
    "grouped heads": lambda: ((rand(1, 4, 3, 2), rand(1, 2, 5, 2), rand(1, 2, 5, 2)),
                              {"enable_gqa": True}),
    "grouped heads and mask": lambda: ((rand(1, 4, 3, 2), rand(1, 2, 5, 2), rand(1, 2, 5, 2),
                                        rand(4, 3, 5)), {"enable_gqa": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_composition(ran, case):
    args, options = CASES[case]()

    def apply(*a):
        return F.scaled_dot_product_attention(*a, **options)

    fused = apply(*args)
    assert ran == ["forward"]
    seed = lampion.randn_like(fused)
    leaves = [a for a in args if a.requires_grad]
    got = lampion.autograd.grad(fused, leaves, seed)
    assert ran == ["forward", "backward"]
    attention._known.clear()
    with lampion.no_grad():
        one = [a.detach().requires_grad_(a.requires_grad) for a in args]
    kernel = R._impls.pop(("fused_attention", "cpu"))
    try:
        composed = apply(*one)
    finally:
        R._impls["fused_attention", "cpu"] = kernel
    assert len(ran) == 2
    np.testing.assert_allclose(fused.detach().numpy(), composed.detach().numpy(), 1e-12, 1e-12)
    want = lampion.autograd.grad(composed, [a for a in one if a.requires_grad], seed)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-10, 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_to_order_two(ran, case):
    args, options = CASES[case]()

    def apply(*a):
        return F.scaled_dot_product_attention(*a, **options)

    assert gradcheck(apply, args)
    assert gradgradcheck(apply, args)
    assert {"forward", "backward"} == set(ran)


def test_logsumexp_is_that_of_the_scores(ran):
    (q, k, v), _ = CASES["plain"]()
    lse = attention.fused_attention.fn(q, k, v, None, 0.5, False)[1]
    want = ((q @ k.mT) * 0.5).logsumexp(-1)
    assert lse.dtype is lampion.float64
    np.testing.assert_allclose(lse.numpy(), want.detach().numpy(), 1e-6)
    assert not lse.requires_grad
    again = attention.fused_attention.compose(q, k, v, None, 0.5, False)[1]
    np.testing.assert_allclose(again.numpy(), want.detach().numpy(), 1e-6)


def test_results_are_laid_out_as_the_operands(ran):
    q, k, v = lampion.randn(2, 5, 3 * 8, dtype=lampion.float64).requires_grad_().split(8, 2)
    heads = [t.view(2, 5, 4, 2).transpose(1, 2) for t in (q, k, v)]
    out = F.scaled_dot_product_attention(*heads)
    assert out.shape == (2, 4, 5, 2) and out.transpose(1, 2).is_contiguous()
    grads = lampion.autograd.grad(out, heads, lampion.ones_like(out))
    assert all(g.transpose(1, 2).is_contiguous() for g in grads)
    narrow = F.scaled_dot_product_attention(*heads[:2], heads[2][..., :1])
    assert narrow.shape == (2, 4, 5, 1) and narrow.stride() == (20, 1, 4, 1)
    columns = [t.mT.contiguous().mT for t in heads]
    np.testing.assert_allclose(F.scaled_dot_product_attention(*columns).detach().numpy(),
                               out.detach().numpy(), 1e-12)


def test_transforms_take_the_composition(ran):
    (q, k, v), _ = CASES["plain"]()
    q, k, v = q.detach(), k.detach(), v.detach()
    t = lampion.randn_like(q)
    with forward_ad.dual_level():
        out = F.scaled_dot_product_attention(forward_ad.make_dual(q, t), k, v)
        tangent = forward_ad.unpack_dual(out).tangent
    step = 1e-6
    far = [F.scaled_dot_product_attention(q + s * step * t, k, v).numpy() for s in (1, -1)]
    np.testing.assert_allclose(tangent.numpy(), (far[0] - far[1]) / (2 * step), 1e-6, 1e-8)
    each = lampion.vmap(F.scaled_dot_product_attention)(q, k, v)
    np.testing.assert_allclose(each.numpy(), F.scaled_dot_product_attention(q, k, v).numpy(),
                               1e-12)


def test_tangents_and_batches_of_the_fused_ops_themselves(ran):
    (q, k, v), _ = CASES["plain"]()
    q, k, v = q.detach(), k.detach(), v.detach()
    t = lampion.randn_like(v)
    scale = 1 / math.sqrt(4)

    def fused(v):
        return attention.fused_attention.fn(q, k, v, None, scale, False)[0]

    _, tangent = lampion.func.jvp(fused, (v,), (t,))
    np.testing.assert_allclose(tangent.numpy(), fused(t).numpy(), 1e-10)  # linear in value
    _, pull = lampion.func.vjp(lambda q: F.scaled_dot_product_attention(q, k, v), q)
    seeds = lampion.randn(3, 2, 3, 2, dtype=lampion.float64)
    rows = lampion.vmap(lambda g: pull(g)[0])(seeds)
    for s, row in zip(seeds, rows):
        np.testing.assert_allclose(row.numpy(), pull(s)[0].numpy(), 1e-10)


def test_dropout_takes_the_composition(ran):
    (q, k, v), _ = CASES["plain"]()
    F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    assert ran == []


def test_batch_dims_must_line_up():
    q, k = lampion.zeros(2, 3, 4), lampion.zeros(3, 3, 4)
    with pytest.raises(RuntimeError, match="batch dims of key"):
        attention.fused_attention.fn(q, k, k, None, 1.0, False)
    with pytest.raises(RuntimeError, match="mask"):
        attention.fused_attention.fn(q, q, q, lampion.zeros(5, 2, 3, 3), 1.0, False)
