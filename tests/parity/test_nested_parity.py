"""Nested tensors of the jagged layout, against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nested

import lampion
import lampion.nested

RNG = np.random.default_rng(0)
PARTS = [RNG.standard_normal((n, 2, 8)).astype(np.float32) for n in (3, 1, 4)]
WEIGHT = RNG.standard_normal((5, 8)).astype(np.float32)


def functional(t):
    return (lampion if isinstance(t, lampion.Tensor) else torch).nn.functional


def weight(t):
    return (lampion if isinstance(t, lampion.Tensor) else torch).from_numpy(WEIGHT.copy())


CASES = {
    "elementwise": lambda t: (t * 2 + 1).sigmoid(),
    "dense beside": lambda t: t * weight(t)[0] + weight(t)[:2],
    "linear": lambda t: functional(t).linear(t, weight(t)),
    "layer_norm": lambda t: functional(t).layer_norm(t, (8,)),
    "softmax inner": lambda t: t.softmax(-1),
    "softmax ragged": lambda t: t.flatten(2).softmax(1),
    "sum": lambda t: t.sum(), "mean": lambda t: t.mean(), "sum ragged": lambda t: t.sum(1),
    "mean ragged": lambda t: t.mean(1), "sum keepdim": lambda t: t.sum(1, keepdim=True),
    "amax ragged": lambda t: t.amax(1), "sum inner": lambda t: t.sum(-1),
    "sum both": lambda t: t.sum((0, 1)), "mean inner": lambda t: t.mean(-1, keepdim=True),
    "transpose": lambda t: t.transpose(1, 2).transpose(2, 3),
    "flatten": lambda t: t.flatten(2), "view": lambda t: t.view(3, -1, 16),
    "unflatten": lambda t: t.unflatten(-1, (2, 4)), "unsqueeze": lambda t: t.unsqueeze(-1),
    "slice": lambda t: t[..., 2:5], "chunk": lambda t: t.chunk(2, -1)[1],
    "padded": lambda t: t.to_padded_tensor(0.5),
    "attention": lambda t: functional(t).scaled_dot_product_attention(
        *[t.transpose(1, 2)] * 3).transpose(1, 2),
    "select": lambda t: t[1],
}


# PyTorch has no gradient for these, or (of softmax along the ragged dim) not that of the function;
# tests/unit/test_nested.py checks them by differences.
NO_GRADIENT = ("softmax ragged", "sum ragged", "mean ragged", "sum keepdim", "sum inner",
               "sum both", "slice")


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case):
    found = []
    for lib in (torch, lampion):
        nt = lib.nested.nested_tensor([lib.from_numpy(p.copy()) for p in PARTS],
                                      layout=lib.jagged, requires_grad=True)
        out = CASES[case](nt)
        dense = out.values() if out.is_nested else out
        if case in NO_GRADIENT:
            nt = nt.detach()
        else:
            (dense * dense).sum().backward()
        shape = [n if isinstance(n, int) else "ragged" for n in out.shape]
        found.append((dense.detach().numpy(), None if nt.grad is None else
                      nt.grad.values().numpy(), shape, out.is_nested))
    (want, want_grad, *rest), (got, got_grad, *ours) = found
    assert ours == rest
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    if want_grad is not None:
        np.testing.assert_allclose(got_grad, want_grad, rtol=1e-4, atol=1e-5)


WRONG = [lambda t: t.sum(0), lambda t: t.sum((1, 2)), lambda t: t.softmax(0), lambda t: t.unbind(1),
         lambda t: t.transpose(0, 1), lambda t: t[:2], lambda t: t.unsqueeze(0), lambda t: t @ t,
         lambda t: t.view(3, -1), lambda t: t.squeeze(0), lambda t: t.narrow(0, 0, 1)]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_refused(wrong):
    kinds = []
    for lib in (torch, lampion):
        nt = lib.nested.nested_tensor([lib.from_numpy(p.copy()) for p in PARTS], layout=lib.jagged)
        with pytest.raises(Exception) as error:
            wrong(nt)
        kinds.append(error.type)
    assert kinds[0] is kinds[1]


def test_narrow_and_masked_select():
    found = []
    for lib in (torch, lampion):
        dense = lib.arange(24.0).view(2, 6, 2)
        a = lib.nested.narrow(dense, 1, lib.tensor([0, 2]), lib.tensor([2, 3]), layout=lib.jagged)
        b = lib.nested.masked_select(dense[..., 0], dense[..., 0] % 3 == 0)
        found.append([*(t.tolist() for t in a.unbind()), *(t.tolist() for t in b.unbind()),
                      a.offsets().tolist(), a.lengths().tolist()])
    assert found[0] == found[1]
