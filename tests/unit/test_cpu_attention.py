"""Attention of the CPU backend in blocks of rows, beside the composition of other ops."""

from __future__ import annotations

import math

import numpy as np
import pytest

import lampion
from lampion.nn import functional as F
from lampion.ops import attention as ops


def heads(b, h, t, e, dtype):
    """Heads that are views of a wider tensor's columns."""
    return lampion.randn(b, t, h, e, dtype=dtype).transpose(1, 2).detach().requires_grad_()


def composed(q, k, v, mask=None, is_causal=False, scale=None):
    """The scores all at once, in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    s = q @ k.mT * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        s = s.masked_fill(lampion.ones(s.shape[-2:], dtype=lampion.bool).tril().logical_not(),
                          -math.inf)
    if mask is not None:
        s = s.masked_fill(mask.logical_not(), -math.inf) if mask.dtype is lampion.bool \
            else s + mask
    return s.softmax(-1).nan_to_num(0.0) @ v


def compare(args, dtype, **options):
    """Values and gradients of the fused form against the composition's."""
    out = F.scaled_dot_product_attention(*args, **options)
    assert out.grad_fn.name() == "FusedAttentionBackward0"
    leaves = [a for a in args if a.requires_grad]
    seed = lampion.randn(out.shape, dtype=dtype)
    got = lampion.autograd.grad(out, leaves, seed)
    again = [a.detach().requires_grad_(a.requires_grad) for a in args]
    want_out = composed(*again, **options)
    want = lampion.autograd.grad(want_out, [a for a in again if a.requires_grad], seed.double())
    limit = 1e-12 if dtype is lampion.float64 else 1e-5
    for a, b in zip((out, *got), (want_out, *want)):
        assert a.dtype is dtype
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), limit * 10, limit)


@pytest.mark.parametrize("dtype", [lampion.float32, lampion.float64], ids=str)
@pytest.mark.parametrize("rows, columns, wide", [
    (128, 128, 8), (130, 130, 16), (200, 131, 12), (131, 300, 8), (600, 600, 4)])
def test_causal(dtype, rows, columns, wide):
    lampion.manual_seed(0)
    compare((heads(2, 3, rows, 16, dtype), heads(2, 3, columns, 16, dtype),
             heads(2, 3, columns, wide, dtype)), dtype, is_causal=True)


def test_batches_without_and_with_several_dims():
    for batch in ((), (5,), (2, 2, 2)):
        q, k, v = (lampion.randn(*batch, 140, 8, dtype=lampion.float64).requires_grad_()
                   for _ in range(3))
        compare((q, k, v), lampion.float64, is_causal=True, scale=0.3)


@pytest.fixture
def always(monkeypatch):
    """Blocks for calls that would take the composition, which is the faster one there."""
    from lampion_cpu import attention

    monkeypatch.setattr(attention, "_MOST_SCORES", 0)
    ops._known.clear()
    yield
    ops._known.clear()


def test_masks(always):
    q, k, v = (heads(2, 2, t, 8, lampion.float64) for t in (70, 90, 90))
    rows = lampion.rand(70, 90) < 0.7
    rows[3] = False  # nothing is allowed
    for mask in (rows, lampion.rand(2, 1, 1, 90) < 0.7):
        compare((q, k, v, mask), lampion.float64)
    compare((q, k, v, lampion.randn(2, 70, 90, dtype=lampion.float64)), lampion.float64)
    learned = lampion.randn(2, 70, 90, dtype=lampion.float64).requires_grad_()
    compare((q, k, v, learned), lampion.float64)


def test_few_rows_and_columns(always):
    for t, s in ((1, 1), (1, 7), (3, 65), (65, 1)):
        compare((heads(1, 2, t, 8, lampion.float64), heads(1, 2, s, 8, lampion.float64),
                 heads(1, 2, s, 8, lampion.float64)), lampion.float64)


def test_keys_that_heads_share():
    q = lampion.randn(1, 4, 130, 8, dtype=lampion.float64).requires_grad_()
    k, v = (lampion.randn(1, 2, 130, 8, dtype=lampion.float64).requires_grad_() for _ in range(2))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    many = [x.repeat_interleave(2, 1) for x in (k, v)]
    want = F.scaled_dot_product_attention(q, *many, is_causal=True)
    seed = lampion.randn_like(out)
    for a, b in zip((out, *lampion.autograd.grad(out, (q, k, v), seed)),
                    (want, *lampion.autograd.grad(want, (q, k, v), seed))):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), 1e-10, 1e-12)


@pytest.mark.parametrize("dtype", [lampion.bfloat16, lampion.float16], ids=str)
def test_narrow_floats_are_computed_in_float32(dtype):
    q, k, v = (heads(1, 2, 150, 8, lampion.float32).detach().to(dtype) for _ in range(3))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    want = composed(q, k, v, is_causal=True).float().to(dtype)
    step = 2.0 ** -7 if dtype is lampion.bfloat16 else 2.0 ** -10
    np.testing.assert_allclose(out.float().numpy(), want.float().numpy(), step, 1e-6)


def test_nan_and_infinity_stay_in_their_rows():
    """But for a weight of 0 times infinity, as in any product, in the block of that column."""
    q, k, v = (heads(1, 1, 130, 8, lampion.float64).detach() for _ in range(3))
    q[0, 0, 5] = math.nan
    v[0, 0, 100] = math.inf
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    bad = out.isfinite().logical_not().any(-1)[0, 0].tolist()
    assert bad[:64] == [r == 5 for r in range(64)] and all(bad[100:])


def test_second_derivatives_are_those_of_the_composition():
    q, k, v = (heads(1, 1, 130, 2, lampion.float64) for _ in range(3))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    seed = lampion.randn_like(out)
    first = lampion.autograd.grad(out, (q, k), seed, create_graph=True)
    got = lampion.autograd.grad([(g * g).sum() for g in first], (q, k, v))
    one = [x.detach().requires_grad_() for x in (q, k, v)]
    first = lampion.autograd.grad(composed(*one, is_causal=True), one[:2], seed,
                                  create_graph=True)
    want = lampion.autograd.grad([(g * g).sum() for g in first], one)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-8, 1e-10)


def test_a_compiled_function_has_no_scores_of_all_rows():
    @lampion.compile
    def step(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).sum(-1)

    q, k, v = (heads(2, 4, 512, 8, lampion.float32).detach() for _ in range(3))
    want = F.scaled_dot_product_attention(q, k, v, is_causal=True).sum(-1)
    for _ in range(3):
        assert lampion.equal(step(q, k, v), want)
    report = str(lampion.compiler.explain(step)(q, k, v))
    assert "fused_attention" in report and "512x512" not in report


def test_several_threads_give_the_same_numbers():
    q, k, v = (heads(4, 3, 200, 16, lampion.float32).detach() for _ in range(3))
    before = lampion.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            lampion.set_num_threads(count)
            results.append(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    finally:
        lampion.set_num_threads(before)
    np.testing.assert_allclose(results[0].numpy(), results[1].numpy(), 1e-6, 1e-7)
