"""Autocast on the host: dtypes and values of expressions as PyTorch gives them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lampion

EXPRESSIONS = """
a @ b | F.linear(a, b) | (a @ b).softmax(0) | (a @ b).exp() | (a @ b).sum() | (a @ b) + a
torch.mm(a, b).relu() | F.mse_loss(a @ b, a) | F.l1_loss(a @ b, a @ a) | torch.cat([a @ b, a])
F.layer_norm(a @ b, (4,)) | F.cross_entropy(a @ b, i) | F.nll_loss((a @ b).log_softmax(1), i)
torch.einsum("ij,jk->ik", a, b) | F.conv1d(a[None], a[:, :, None]) | (a @ b).prod(0)
(a @ b).mean() | F.scaled_dot_product_attention(a, b, a) | torch.baddbmm(a[None], a[None], b[None])
torch.stack([a @ b, a]) | (a @ b).double() @ b.double() | torch.matmul(a, b[0]) | (a @ b).cumsum(0)
F.binary_cross_entropy_with_logits(a @ b, (a > 0).float()) | F.smooth_l1_loss(a @ b, a)
F.kl_div((a @ b).log_softmax(1), a.softmax(1)) | F.huber_loss(a @ b, a) | (a @ b).norm()
torch.cdist(a @ b, a @ a) | torch.addmm(a, a, b) | F.gelu(a @ b) | a.bfloat16() @ b | (a @ b) * 2
F.conv2d(a[None, None], b[None, None]) | F.conv_transpose1d(a[None], b[:, :, None])
""".replace("\n", " | ").split(" | ")


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("text", [e.strip() for e in EXPRESSIONS if e.strip()])
def test_as_pytorch(text, kind):
    rng = np.random.default_rng(len(text))
    arrays = [rng.normal(size=(4, 4)).astype(np.float32) for _ in range(2)]
    found = []
    for m in (lampion, torch):
        a, b = (m.tensor(x) for x in arrays)
        scope = {"torch": m, "F": m.nn.functional, "a": a, "b": b, "i": m.tensor([0, 3, 1, 2])}
        with m.autocast("cpu", dtype=getattr(m, kind)):
            found.append(eval(text, scope))
    ours, theirs = found
    assert ours.dtype.name == str(theirs.dtype).partition(".")[2]
    np.testing.assert_allclose(ours.double().numpy(), theirs.double().numpy(), rtol=0.03, atol=0.03)


def test_scalers_agree():
    results = []
    for m in (lampion, torch):
        w = m.tensor([1.0, -2.0], requires_grad=True)
        opt = m.optim.SGD([w], lr=0.1)
        scaler = m.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        scales = []
        for k in range(12):
            opt.zero_grad()
            factor = float("inf") if k in (4, 9) else 1.0 + k
            scaler.scale((w * w * factor).sum()).backward()
            scaler.unscale_(opt)
            m.nn.utils.clip_grad_norm_([w], 1.0)
            scaler.step(opt)
            scaler.update()
            scales.append(scaler.get_scale())
        results.append((scales, w.detach().numpy()))
    assert results[0][0] == results[1][0]
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-5)
