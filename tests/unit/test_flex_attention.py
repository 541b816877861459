"""Attention with functions of the program as scores and masks, and masks as blocks."""

from __future__ import annotations

import math

import pytest

import lampion
from lampion import nn
from lampion.autograd import gradcheck, gradgradcheck
from lampion.nn.attention import bias
from lampion.nn.attention import flex_attention as flex
from lampion.nn.functional import scaled_dot_product_attention

flex_attention, create_block_mask = flex.flex_attention, flex.create_block_mask


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def heads(*shape, grad=False, dtype=lampion.float64):
    return lampion.randn(*shape, dtype=dtype, requires_grad=grad)


def by_hand(q, k, v, mod, mask, scale):
    """One score at a time."""
    out = lampion.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    rows = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                s = [mod(float(q[b, h, i] @ k[b, h // rows, j]) * scale, b, h, i, j)
                     if mask(b, h, i, j) else -math.inf for j in range(k.shape[2])]
                top = max(s)
                if top == -math.inf:
                    continue
                w = [math.exp(x - top) for x in s]
                for j, x in enumerate(w):
                    out[b, h, i] += x / sum(w) * v[b, h // rows, j]
    return out


def test_scores_and_masks_one_at_a_time():
    lampion.manual_seed(0)
    q, k, v = heads(2, 4, 5, 3), heads(2, 2, 6, 3), heads(2, 2, 6, 2)
    slopes = [0.5, -0.25, 1.0, 2.0]
    table = lampion.tensor(slopes, dtype=lampion.float64)
    ends = lampion.tensor([4, 6])
    mask = create_block_mask(lambda b, h, i, j: (i >= j) & (j < ends[b]) & (i != 2), 2, None, 5, 6,
                             BLOCK_SIZE=2)
    got = flex_attention(q, k, v, lambda s, b, h, i, j: s + table[h] * (j - i), mask, 0.7, True)
    want = by_hand(q, k, v, lambda s, b, h, i, j: s + slopes[h] * (j - i),
                   lambda b, h, i, j: i >= j and j < (4, 6)[b] and i != 2, 0.7)
    assert got.allclose(want) and not got[:, :, 2].any()


def test_without_a_score_mod_it_is_plain_attention():
    q = heads(2, 2, 40, 4, dtype=lampion.float32)
    mask = create_block_mask(causal, None, None, 40, 40, BLOCK_SIZE=16)
    want = scaled_dot_product_attention(q, q, q, is_causal=True)
    assert flex_attention(q, q, q, block_mask=mask).allclose(want, atol=1e-6)
    assert flex_attention(q, q, q).allclose(scaled_dot_product_attention(q, q, q), atol=1e-6)
    out, aux = flex_attention(q, q, q, block_mask=mask,
                              return_aux=flex.AuxRequest(lse=True, max_scores=True))
    scores = (q @ q.mT / 2).masked_fill(~lampion.ones(40, 40, dtype=bool).tril(), -math.inf)
    assert out.allclose(want, atol=1e-6) and aux.lse.allclose(scores.logsumexp(-1), atol=1e-5)
    assert aux.max_scores.allclose(scores.amax(-1), atol=1e-5)


def test_gradients_also_of_what_is_captured():
    lampion.manual_seed(1)
    table = heads(2, 3, 4, grad=True)
    mask = create_block_mask(lambda b, h, i, j: (i >= j) & (i > 0), 1, 1, 3, 4, BLOCK_SIZE=2)

    def run(q, k, v, table):
        return flex_attention(q, k, v, lambda s, b, h, i, j: lampion.tanh(s) + table[h, i, j],
                              mask, return_lse=True)[:2]

    args = (heads(1, 2, 3, 2, grad=True), heads(1, 2, 4, 2, grad=True),
            heads(1, 2, 4, 2, grad=True), table)
    assert gradcheck(lambda *a: run(*a)[0], args) and gradgradcheck(lambda *a: run(*a)[0], args)
    assert gradcheck(lambda *a: run(*a)[1].masked_fill(run(*a)[1] == -math.inf, 0), args)
    out, lse = run(*args)
    assert not out[:, :, 0].any() and (lse[:, :, 0] == -math.inf).all()


def test_half_precision_is_rounded_once():
    q = heads(1, 1, 8, 4, dtype=lampion.float32).bfloat16()
    got = flex_attention(q, q, q, lambda s, b, h, i, j: s * 2)
    want = flex_attention(q.float(), q.float(), q.float(), lambda s, b, h, i, j: s * 2)
    assert got.dtype is lampion.bfloat16 and got.equal(want.bfloat16())


def test_compiled():
    q = heads(1, 2, 8, 4, dtype=lampion.float32)
    table = lampion.randn(2)
    fn = lampion.compile(lambda q: flex_attention(q, q, q, lambda s, b, h, i, j: s + table[h] * i))
    want = flex_attention(q, q, q, lambda s, b, h, i, j: s + table[h] * i)
    for _ in range(3):
        assert fn(q).allclose(want, atol=1e-6)


def test_block_masks():
    mask = create_block_mask(causal, 2, None, 300, 200)
    assert mask.shape == (2, 1, 300, 200) and mask.BLOCK_SIZE == (128, 128)
    assert mask.kv_num_blocks.tolist() == [[[1, 1, 2]]] * 2
    assert mask.kv_indices.tolist() == [[[[0, 1], [1, 0], [0, 1]]]] * 2
    assert mask.full_kv_num_blocks.tolist() == [[[0, 1, 0]]] * 2
    assert mask.q_num_blocks.tolist() == [[[2, 2]]] * 2
    assert mask.to_dense()[0, 0].tolist() == [[1, 0], [1, 1], [1, 1]]
    assert mask[0].shape == (1, 1, 300, 200) and mask[0, -1:, 1].kv_num_blocks.tolist() == [[[1]]]
    assert mask._adjust(128, 128).sparsity() == 0.0
    assert "mask_mod=causal" in repr(mask) and "██" in str(mask)
    with pytest.raises(RuntimeError, match="offset"):
        flex_attention(*[lampion.ones(1, 1, 300, 2), *[lampion.ones(1, 1, 200, 2)] * 2],
                       block_mask=mask[0])


def test_lists_of_blocks_are_respected():
    count = lampion.tensor([[[1, 2]]], dtype=lampion.int32)
    which = lampion.tensor([[[[1, 0], [0, 1]]]], dtype=lampion.int32)
    mask = flex.BlockMask.from_kv_blocks(count, which, BLOCK_SIZE=2)
    assert mask.seq_lengths == (4, 4) and mask.full_kv_num_blocks is None
    q, v = lampion.zeros(1, 1, 4, 1), lampion.arange(4.0).view(1, 1, 4, 1)
    assert flex_attention(q, q, v, block_mask=mask).flatten().tolist() == [2.5, 2.5, 1.5, 1.5]


def test_masks_are_combined():
    window = flex.and_masks(causal, lambda b, h, i, j: i - j <= 1)
    either = flex.or_masks(window, lambda b, h, i, j: j == 0)
    got = flex.create_mask(either, None, None, 4, 4)[0, 0].int().tolist()
    assert got == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1]]
    scored = flex.create_mask(lambda s, b, h, i, j: lampion.where(i > j, s, -math.inf), 1, 1, 2, 2)
    assert scored[0, 0].tolist() == [[False, False], [True, False]]
    with pytest.raises(RuntimeError, match="callable"):
        flex.and_masks(1)
    with pytest.raises(AssertionError, match="4 or 5"):
        flex.create_mask(lambda a, b: a, 1, 1, 2, 2)


@pytest.mark.parametrize("shapes, options, error", [
    (((2, 3), (2, 3)), {}, NotImplementedError),
    (((1, 4, 3, 2), (1, 2, 3, 2)), {}, ValueError),
    (((1, 4, 3, 2), (1, 3, 3, 2)), {"enable_gqa": True}, ValueError),
    (((1, 1, 3, 2), (1, 1, 3, 5)), {}, ValueError),
    (((1, 1, 3, 2), (1, 1, 3, 2)), {"block_mask": (4, 3)}, ValueError)])
def test_what_does_not_fit(shapes, options, error):
    q, k = (lampion.ones(*s) for s in shapes)
    if "block_mask" in options:
        options = {"block_mask": create_block_mask(causal, None, None, *options["block_mask"])}
    with pytest.raises(error):
        flex_attention(q, k, k, **options)


@pytest.mark.parametrize("sizes", [(3, 3), (3, 5), (5, 3)])
def test_causal_biases(sizes):
    q, k = lampion.randn(2, sizes[0], 4), lampion.randn(2, sizes[1], 4)
    upper = bias.causal_upper_left(*sizes)
    assert scaled_dot_product_attention(q, k, k, upper).allclose(
        scaled_dot_product_attention(q, k, k, is_causal=True), atol=1e-6)
    if sizes[0] > sizes[1]:
        with pytest.warns(UserWarning, match="see no key"):
            lower = bias.causal_lower_right(*sizes)
    else:
        lower = bias.causal_lower_right(*sizes)
    full = lampion.ones(*sizes, dtype=bool).tril(sizes[1] - sizes[0])
    assert scaled_dot_product_attention(q, k, k, lower).allclose(
        scaled_dot_product_attention(q, k, k, full), atol=1e-6)
    assert lower.shape == sizes and (lower.logical_not() == ~full).all()
    with pytest.raises(RuntimeError, match="is_causal=True"):
        scaled_dot_product_attention(q, k, k, upper, is_causal=True)


def test_names_are_in_nn():
    assert nn.attention.flex_attention.BlockMask is flex.BlockMask
