"""The one-pass gradients of layer_norm: values, rows and columns of all sizes, addresses."""

from __future__ import annotations

import pytest

import lampion
from lampion.nn import functional as F

pytestmark = pytest.mark.usefixtures("gpu")


def gradients(x, w, b, g):
    x, w, b = (t.detach().requires_grad_() for t in (x, w, b))
    F.layer_norm(x, w.shape, w, b).backward(g)
    return x.grad, w.grad, b.grad


@pytest.fixture
def launched(monkeypatch):
    """The launches that were made; few elements are enough."""
    from lampion.ops import registry
    from lampion_cuda import norms

    monkeypatch.setattr(norms, "LEAST", 1)
    made, real = [], norms.layer_norm_backward

    def keep(*args):
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(norms, "layer_norm_backward", keep)
    registry.forget_plans()
    yield made
    registry.forget_plans()


@pytest.mark.parametrize("order", [0, -1, 6])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_values(launched, simulated, dtype, order):
    simulated.set(order=order)
    lampion.manual_seed(2)
    d = getattr(lampion, dtype)
    tolerance = 1e-4 if dtype == "float32" else 3e-2
    for shape, k in (((70, 8), 1), ((300, 128), 1), ((33, 1000), 1), ((3, 9, 4, 16), 2),
                     ((5, 2048), 1), ((1, 64), 1), ((40, 4096 + 8), 1)):
        x, g = (lampion.randn(shape).to(d) for _ in range(2))
        w, b = (lampion.rand(shape[-k:]).to(d) + 0.5 for _ in range(2))
        want = gradients(*(t.double() for t in (x, w, b, g)))
        got = gradients(*(t.cuda() for t in (x, w, b, g)))
        for a, e in zip(got, want):
            assert a.dtype is d and a.shape == e.shape
            error = (a.cpu().double() - e).abs().max().item()
            assert error <= tolerance * e.abs().max().item(), (shape, error)
    assert len(launched) >= 7 and all(m is not None for m in launched)


def test_unaligned_addresses_and_what_is_declined(launched, simulated):
    lampion.manual_seed(3)
    w, b = lampion.rand(64, device="cuda"), lampion.rand(64, device="cuda")
    whole = lampion.randn(64 * 50 + 1, device="cuda")
    x, g = whole[1:].view(50, 64), lampion.randn(50, 64, device="cuda")
    for a, e in zip(gradients(x, w, b, g), gradients(x.clone(), w, b, g)):
        assert lampion.equal(a, e)
    assert launched[-1] is not None
    odd = [lampion.randn(20, 63, device="cuda") for _ in range(2)]
    got = gradients(odd[0], w[:63], b[:63], odd[1])
    want = gradients(odd[0].cpu(), w[:63].cpu(), b[:63].cpu(), odd[1].cpu())
    assert launched[-1] is None
    for a, e in zip(got, want):
        assert lampion.allclose(a.cpu(), e, rtol=1e-4, atol=1e-4)
