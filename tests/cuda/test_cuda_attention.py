"""Attention in one kernel on the CUDA device, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

import lampion
from lampion import config
from lampion.nn import functional as F
from lampion.ops import attention

rng = np.random.default_rng(11)
BF16, F16, F32 = lampion.bfloat16, lampion.float16, lampion.float32
# relative to the largest value: the operands are exact, weights are rounded to 8 (11, 24) bits
TOLERANCE = {BF16: 1e-2, F16: 2e-3, F32: 2e-6}
TF32 = 2e-3


def made(device, dtype, *shape, layout="dense"):
    """(a tensor on the device, its values in float64)."""
    x = lampion.tensor(rng.standard_normal(shape).astype(np.float32)).to(dtype)
    exact = x.float().numpy().astype(np.float64)
    if layout == "heads last":
        t = x.transpose(1, 2).contiguous().to(device).transpose(1, 2)
    elif layout == "odd":
        wide = lampion.zeros(*shape[:-1], shape[-1] + 1, dtype=dtype)
        wide[..., 1:] = x
        t = wide.to(device)[..., 1:]
    elif layout == "columns last":
        t = x.mT.contiguous().to(device).mT
    else:
        t = x.to(device)
    return t.detach().requires_grad_(), exact


def values(t):
    """A tensor's values as a NumPy array."""
    return t.detach().float().cpu().numpy()


def expected(q, k, v, g, mask, causal, scale):
    """The result, and the gradients of q, k and v, for g (B, H, L, V); k, v (B, H / n, S, ...)."""
    n = q.shape[1] // k.shape[1]
    keys, weighed = np.repeat(k, n, 1), np.repeat(v, n, 1)
    s = q @ keys.swapaxes(-1, -2) * scale
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    top = s.max(-1, keepdims=True)
    p = np.exp(s - np.where(np.isinf(top), 0, top))
    total = p.sum(-1, keepdims=True)
    p /= np.where(total == 0, 1, total)
    gp = g @ weighed.swapaxes(-1, -2)
    gs = p * (gp - (gp * p).sum(-1, keepdims=True)) * scale

    def shared(x):
        return x.reshape(x.shape[0], k.shape[1], n, *x.shape[2:]).sum(2)

    return (p @ weighed, gs @ keys, shared(gs.swapaxes(-1, -2) @ q),
            shared(p.swapaxes(-1, -2) @ g))


def run(device, dtype, b, h, shared, queries, keys, width, depth, *, causal=False, mask="",
        layout="dense", scale=None, tolerance=None):
    """One call and its gradients, checked."""
    q, qn = made(device, dtype, b, h, queries, width, layout=layout)
    k, kn = made(device, dtype, b, shared, keys, width, layout=layout)
    v, vn = made(device, dtype, b, shared, keys, depth, layout=layout)
    g, gn = made(device, dtype, b, h, queries, depth, layout=layout)
    m = mn = None
    if mask == "bool":
        mn = rng.random((queries, keys)) > 0.3
        mn[0] = mn[queries // 2:queries // 2 + 3] = False  # rows with nothing allowed
        m = lampion.tensor(mn).to(device)
    elif mask:
        m, mn = made(device, dtype, h, queries, keys)
        m = m.detach()
    out = F.scaled_dot_product_attention(q, k, v, m, is_causal=causal, scale=scale,
                                         enable_gqa=h != shared)
    got = [out, *lampion.autograd.grad(out, [q, k, v], g.detach())]
    want = expected(qn, kn, vn, gn, mn, causal, scale or width**-0.5)
    for name, a, b in zip(("out", "query", "key", "value"), got, want):
        assert a.dtype is dtype and tuple(a.shape) == b.shape
        error = np.abs(values(a) - b).max() / np.abs(b).max()
        assert error < (tolerance or TOLERANCE[dtype]), (name, error)
    return got


def fused(op=attention.fused_attention):
    """How many calls have a kernel of their own."""
    return sum("cuda.attention" in p.chosen for p in op.plans.values())


@pytest.fixture(autouse=True)
def generated(gpu):
    """cuDNN, where it is installed, has tests of its own."""
    lampion.ones(1, device=gpu)  # the options of the backend are there
    with config.override({"backend.cuda.dnn": "generated"}):
        yield


@pytest.fixture(autouse=True)
def nothing_is_planned(generated):
    for op in (attention.fused_attention, attention.fused_attention_backward):
        op.plans.clear()


CASES = {
    "one block": ((BF16, 1, 1, 1, 5, 7, 16, 16), {}),
    "many blocks, shared keys": ((BF16, 2, 4, 2, 70, 150, 64, 64), {}),
    "causal": ((BF16, 1, 2, 1, 140, 70, 32, 32), {"causal": True}),
    "causal, more keys": ((F16, 1, 1, 1, 40, 130, 32, 32), {"causal": True}),
    "heads last in memory": ((BF16, 1, 2, 2, 40, 40, 64, 64),
                             {"causal": True, "layout": "heads last"}),
    "addresses and widths that are not multiples of 16 bytes": (
        (F16, 1, 2, 2, 40, 33, 20, 13), {"layout": "odd"}),
    "columns last in memory": ((BF16, 1, 1, 1, 9, 8, 24, 16), {"layout": "columns last"}),
    "128 wide": ((BF16, 1, 1, 1, 140, 70, 128, 128), {}),
    "bool mask": ((BF16, 1, 1, 1, 70, 140, 96, 96), {"mask": "bool"}),
    "added mask": ((BF16, 1, 2, 1, 70, 140, 128, 80), {"mask": "added"}),
    "256 wide": ((BF16, 1, 1, 1, 40, 50, 256, 256), {}),
    "a scale": ((BF16, 1, 1, 1, 20, 20, 32, 32), {"scale": 0.7}),
    "one query": ((F16, 3, 2, 2, 1, 65, 64, 64), {}),
    "float32, one block": ((F32, 1, 1, 1, 5, 7, 16, 16), {}),
    "float32, many blocks, shared keys": ((F32, 2, 4, 2, 70, 90, 64, 64), {}),
    "float32, causal": ((F32, 1, 2, 1, 140, 70, 32, 32), {"causal": True}),
    "float32, causal, more keys": ((F32, 1, 1, 1, 40, 130, 48, 48), {"causal": True}),
    "float32, heads last in memory": ((F32, 1, 2, 2, 40, 40, 64, 64),
                                      {"causal": True, "layout": "heads last"}),
    "float32, odd addresses and widths": ((F32, 1, 2, 2, 40, 33, 21, 13), {"layout": "odd"}),
    "float32, columns last in memory": ((F32, 1, 1, 1, 9, 8, 24, 16), {"layout": "columns last"}),
    "float32, bool mask": ((F32, 1, 1, 1, 70, 140, 96, 96), {"mask": "bool"}),
    "float32, added mask": ((F32, 1, 2, 1, 70, 140, 64, 40), {"mask": "added"}),
    "float32, 128 wide": ((F32, 1, 1, 1, 130, 70, 128, 128), {"causal": True}),
    "float32, 192 wide": ((F32, 1, 1, 1, 70, 40, 192, 170), {}),
    "float32, 256 wide": ((F32, 1, 1, 1, 40, 50, 256, 256), {"mask": "bool"}),
    "float32, one query": ((F32, 3, 2, 2, 1, 65, 64, 64), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(gpu, case):
    args, options = CASES[case]
    run(gpu, *args, **options)
    assert fused() == fused(attention.fused_attention_backward) == 1


@pytest.fixture
def tf32_allowed():
    lampion.set_float32_matmul_precision("high")
    yield
    lampion.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("args, options", [
    ((F32, 2, 4, 2, 70, 50, 64, 64), {"causal": True}),
    ((F32, 1, 2, 1, 40, 70, 96, 33), {"mask": "added"}),
    ((F32, 1, 1, 1, 40, 30, 250, 256), {"mask": "bool"})], ids=["causal", "mask", "256 wide"])
def test_float32_where_tf32_is_allowed(gpu, tf32_allowed, args, options):
    out = values(run(gpu, *args, **options, tolerance=TF32)[0])
    assert fused() == fused(attention.fused_attention_backward) == 1
    # it was TF32: rounding the inputs shows
    assert np.isfinite(out).all() and lampion.get_float32_matmul_precision() == "high"


def test_tf32_rounds_to_ten_bits(gpu, tf32_allowed):
    """Products of values with 10 bits after the point are exact, and more bits are rounded."""
    def result(width, add):
        v = lampion.full((1, 1, 1, width), 1 + 2.0**-10 + add, device=gpu)
        q = lampion.zeros(1, 1, 1, width, device=gpu)
        return values(F.scaled_dot_product_attention(q, q, v)).flat[0]

    assert result(32, 0) == 1 + 2.0**-10
    assert result(32, 2.0**-12) == 1 + 2.0**-10
    assert result(32, 2.0**-11 + 2.0**-13) == 1 + 2.0**-9
    lampion.set_float32_matmul_precision("highest")
    assert result(32, 2.0**-12) == np.float32(1 + 2.0**-10 + 2.0**-12)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_memory_grows_with_the_length_alone(gpu, dtype):
    """No matrix of scores is in memory, forward or backward."""
    def most(length):
        q, k, v = (made(gpu, dtype, 1, 1, length, 16)[0] for _ in range(3))
        F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()  # plans
        lampion.cuda.synchronize()
        before = lampion.cuda.memory_allocated()
        lampion.cuda.reset_peak_memory_stats()
        F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
        return lampion.cuda.max_memory_allocated() - before

    short, long = most(256), most(1024)
    assert long < 1024 * 1024 * dtype.itemsize / 2
    assert long < 5 * short


@pytest.mark.parametrize("shape", [(1, 2, 0, 5), (1, 2, 4, 0), (0, 2, 4, 5)])
def test_nothing_to_attend_to(gpu, shape):
    b, h, queries, keys = shape
    q = lampion.ones(b, h, queries, 8, device=gpu, requires_grad=True)
    k, v = (lampion.ones(b, h, keys, 8, device=gpu, requires_grad=True) for _ in range(2))
    out = F.scaled_dot_product_attention(q, k, v)
    out.sum().backward()
    assert out.shape == (b, h, queries, 8) and not values(out)[:, :, :, :0 if keys else 8].any()
    assert all(t.grad.shape == t.shape for t in (q, k, v))


@pytest.mark.parametrize("order", [-1, 7, 23])
def test_every_order_of_threads(simulated, gpu, order):
    simulated.set(order=order)
    run(gpu, F32, 1, 2, 1, 70, 50, 32, 32, causal=True)
    run(gpu, F32, 1, 2, 1, 40, 70, 128, 64, mask="added")
    run(gpu, BF16, 1, 2, 1, 130, 70, 32, 32, causal=True)
    run(gpu, BF16, 1, 2, 1, 40, 70, 64, 64, mask="added")


def test_results_are_the_same_every_time(gpu):
    global rng
    rng = np.random.default_rng(5)
    first = run(gpu, BF16, 1, 2, 1, 70, 90, 32, 32)
    rng = np.random.default_rng(5)
    for a, b in zip(first, run(gpu, BF16, 1, 2, 1, 70, 90, 32, 32)):
        assert np.array_equal(values(a), values(b))


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_infinite_and_nan_scores(gpu, dtype):
    q, k, v = (made(gpu, dtype, 1, 1, 4, 16)[0].detach() for _ in range(3))
    q[0, 0, 1] = float("nan")
    out = values(F.scaled_dot_product_attention(q, k, v))
    assert np.isnan(out[0, 0, 1]).all() and np.isfinite(out[0, 0, [0, 2, 3]]).all()


def test_a_gradient_that_is_expanded(gpu):
    q, k, v = (made(gpu, BF16, 1, 2, 9, 32)[0] for _ in range(3))
    F.scaled_dot_product_attention(q, k, v).sum().backward()
    p = np.exp(values(q) @ values(k).swapaxes(-1, -2) / 32**0.5)
    p /= p.sum(-1, keepdims=True)
    want = np.broadcast_to(p.sum(-2)[..., None], v.shape)
    np.testing.assert_allclose(values(v.grad), want, 2e-2, 1e-2)


def test_second_derivatives_take_the_composition(gpu):
    q, k, v = (made(gpu, BF16, 1, 1, 5, 16)[0] for _ in range(3))
    host = [t.detach().float().to("cpu").requires_grad_() for t in (q, k, v)]

    def second(q, k, v):
        out = F.scaled_dot_product_attention(q, k, v)
        g, = lampion.autograd.grad(out.sum(), [q], create_graph=True)
        return lampion.autograd.grad((g * g).sum(), [q, k, v])

    for a, b in zip(second(q, k, v), second(*host)):
        b = values(b)
        assert np.abs(values(a) - b).max() < 5e-2 * np.abs(b).max()


@pytest.mark.parametrize("dtype, scale", [(lampion.float64, None), (BF16, -0.5)])
def test_what_the_kernels_decline_is_composed(gpu, dtype, scale):
    q, k, v = (made(gpu, dtype, 1, 1, 6, 16)[0].detach() for _ in range(3))
    got = F.scaled_dot_product_attention(q, k, v, scale=scale)
    want = F.scaled_dot_product_attention(*(t.cpu().double() for t in (q, k, v)), scale=scale)
    assert not fused()
    np.testing.assert_allclose(values(got), values(want), 2e-2, 1e-2)
