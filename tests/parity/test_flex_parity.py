"""`flex_attention` and its block masks, against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention import bias as torch_bias
from torch.nn.attention import flex_attention as torch_flex

import lampion
from lampion.nn.attention import bias, flex_attention

RNG = np.random.default_rng(0)
LIBS = ((torch, torch_flex), (lampion, flex_attention))
TABLE = RNG.standard_normal((4, 200)).astype(np.float32)
MASKS = {
    "causal": lambda b, h, q, k: q >= k, "window": lambda b, h, q, k: (q - k).abs() < 20,
    "by head": lambda b, h, q, k: q >= k * (h + 1), "some rows": lambda b, h, q, k: q % 3 > b,
}
SCORES = {
    "none": lambda lib: None,
    "bias": lambda lib: (lambda s, b, h, q, k, t=lib.from_numpy(TABLE): s + t[h, k]),
    "soft cap": lambda lib: (lambda s, b, h, q, k: 3 * lib.tanh(s / 3)),
    "distances": lambda lib: (lambda s, b, h, q, k: s - (q - k).abs() * 0.1),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("score", SCORES)
def test_values(mask, score):
    arrays = [RNG.standard_normal(s).astype(np.float32) for s in
              ((2, 4, 60, 8), (2, 2, 50, 8), (2, 2, 50, 6))]
    found = []
    for lib, flex in LIBS:
        blocks = flex.create_block_mask(MASKS[mask], 2, 4, 60, 50, device="cpu", BLOCK_SIZE=16)
        out, lse = flex.flex_attention(*map(lib.from_numpy, arrays), SCORES[score](lib), blocks,
                                       scale=0.5, enable_gqa=True, return_lse=True)
        found.append((out.numpy(), lse.numpy()))
    for want, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sizes", [(2, None, 300, 200, 128), (None, 3, 64, 100, (16, 32)),
                                   (1, 2, 130, 129, 64)])
def test_block_masks(mask, sizes):
    *shape, block = sizes
    want, got = (flex.create_block_mask(MASKS[mask], *shape, device="cpu", BLOCK_SIZE=block)
                 for _, flex in LIBS)
    _same(want, got)
    _same(want[0], got[0])
    _same(want[:, 0:1, 1], got[:, 0:1, 1])
    _same(want._adjust(40, 50), got._adjust(40, 50))
    assert got.to_string((2, 3), 1) == want.to_string((2, 3), 1) and str(got) == str(want)
    assert repr(got).replace("lampion.", "torch.") == repr(want)


def _same(want, got):
    assert tuple(got.shape) == tuple(want.shape) and got.BLOCK_SIZE == want.BLOCK_SIZE
    assert got.sparsity() == pytest.approx(want.sparsity()) and got.numel() == want.numel()
    for name in got._TENSOR_ATTRS:
        a, b = getattr(want, name), getattr(got, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.tolist() == b.tolist() and str(a.dtype)[6:] == str(b.dtype)[8:], name


@pytest.mark.parametrize("variant", ["causal_upper_left", "causal_lower_right"])
@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)])
def test_causal_biases(variant, sizes):
    q, k = (RNG.standard_normal((1, 2, n, 4)).astype(np.float32) for n in sizes)
    found = [lib.nn.functional.scaled_dot_product_attention(
        lib.from_numpy(q), lib.from_numpy(k), lib.from_numpy(k), getattr(made, variant)(*sizes))
        for lib, made in ((torch, torch_bias), (lampion, bias))]
    np.testing.assert_allclose(found[1].numpy(), found[0].numpy(), atol=1e-5)
