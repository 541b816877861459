"""Functions of the top level with native arguments, as PyTorch gives them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lampion

CALLS = """
batch_norm(a, None, None, None, None, True, 0.1, 1e-5, False)
bilinear(a, b, w)
binary_cross_entropy_with_logits(a, p)
binary_cross_entropy_with_logits(a, p, None, p, 1)
cosine_embedding_loss(a, b, s)
cosine_embedding_loss(a, b, s, 0.1, 2)
cosine_similarity(a, b)
pairwise_distance(a, b)
hinge_embedding_loss(a, s2, 1.0, 1)
kl_div(a, p)
kl_div(a, p, 2, log_target=True)
margin_ranking_loss(a, b, s2)
triplet_margin_loss(a, b, p)
poisson_nll_loss(a, p, True, False, 1e-8, 1)
frobenius_norm(a, (0, 1))
frobenius_norm(a, 1, True)
nuclear_norm(a)
norm_except_dim(w, 2, 1)
detach(a)
is_signed(a)
get_device(a)
is_inference(a)
rrelu(a)
grid_sampler(im, grid, 0, 0, True)
affine_grid_generator(theta, (1, 1, 2, 3), False)
max_pool1d_with_indices(a, 2)
lstm_cell(a, (h, h), w4, u4)
gru_cell(a, h, w3, u3)
rnn_tanh_cell(a, h, w1, u1)
rnn_relu_cell(a, h, w1, u1)
are_deterministic_algorithms_enabled()
get_deterministic_debug_mode()
is_anomaly_enabled()
is_warn_always_enabled()
""".strip().split("\n")


@pytest.mark.parametrize("text", CALLS)
def test_as_pytorch(text):
    rng = np.random.default_rng(3)

    def make(*shape):
        return rng.normal(size=shape).astype(np.float32)

    arrays = {"a": make(4, 3), "b": make(4, 3), "w": make(2, 3, 3), "p": abs(make(4, 3)),
              "s": np.sign(make(4)), "s2": np.sign(make(4, 3)), "im": make(1, 1, 4, 4),
              "grid": make(1, 2, 3, 2), "theta": make(1, 2, 3), "h": make(4, 5), "w4": make(20, 3),
              "u4": make(20, 5), "w3": make(15, 3), "u3": make(15, 5), "w1": make(5, 3),
              "u1": make(5, 5)}
    found = []
    for m in (lampion, torch):
        scope = {n: m.tensor(x) for n, x in arrays.items()}
        found.append(eval(f"m.{text}", {**scope, "m": m}))
    ours, theirs = ([x] if not isinstance(x, tuple) else list(x) for x in found)
    assert len(ours) == len(theirs)
    for x, y in zip(ours, theirs):
        if isinstance(y, torch.Tensor):
            assert tuple(x.shape) == tuple(y.shape)
            np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=2e-5, atol=2e-5)
        else:
            assert x == y
