"""Views whose axes do not continue each other, more of them than anything unrolls: same values."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import tensors

import lampion

CUT = (slice(None, None, 2), slice(0, 2), slice(None, None, 2), slice(1, None)) * 2
TURN = tuple(reversed(range(8)))

CALLS = {
    "product": lambda m, x: m.matmul(x, x.swapaxes(-1, -2)),
    "contiguous": lambda m, x: x + 0,
    "turned": lambda m, x: x + m.permute(x, TURN) if m is lampion else x + x.transpose(TURN),
    "sum": lambda m, x: x.sum((0, 3, 5)),
    "sort": lambda m, x: m.sort(x, 5)[0] if m is lampion else np.sort(x, 5),
    "running sum": lambda m, x: m.cumsum(x, 4),
    "flip": lambda m, x: m.flip(x, (0, 5)),
    "joined": lambda m, x: m.concatenate([x, x], 3),
    "sum of products": lambda m, x: m.einsum("abcdefgh,abzdefgh->czg", x, x),
    "chosen": lambda m, x: m.where(x > 0, x, x * 2),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_on_views_of_eight_axes(name, device):
    whole = np.random.default_rng(0).standard_normal((4, 3) * 4).astype(np.float32)
    (x,) = tensors([whole], device)
    got = CALLS[name](lampion, x[CUT])
    assert np.allclose(got.detach().cpu().numpy(), CALLS[name](np, whole[CUT]), atol=1e-4)


def test_gradient_of_a_product_of_such_views(device):
    whole = np.random.default_rng(0).standard_normal((4, 3) * 4).astype(np.float32)
    (x,) = tensors([whole], device)
    x.requires_grad_()
    (x[CUT] @ lampion.ones(2, 3, device=device)).sum().backward()
    want = np.zeros_like(whole)
    want[CUT] = 3
    assert np.array_equal(x.grad.cpu().numpy(), want)


def test_writes_into_such_views(device):
    whole = np.random.default_rng(0).standard_normal((4, 3) * 4).astype(np.float32)
    (x,) = tensors([whole.copy()], device)
    x = x.clone()
    x[CUT].mul_(3)
    want = whole.copy()
    want[CUT] *= 3
    assert np.array_equal(x.cpu().numpy(), want)


def test_products_of_windows_that_overlap(device):
    """Chunks of a sequence, half of each shared with the next, as attention in windows has them."""
    whole = np.random.default_rng(0).standard_normal((3, 40, 16)).astype(np.float32)
    (x,) = tensors([whole], device)
    at = (3, 4, 16, 16), (640, 128, 16, 1)
    want = np.lib.stride_tricks.as_strided(whole, at[0], [4 * s for s in at[1]])
    windows = x.as_strided(*at)
    got = lampion.einsum("bcxd,bcyd->bcxy", windows, windows)
    assert np.allclose(got.cpu().numpy(), want @ want.swapaxes(-1, -2), atol=1e-4)
    big = lampion.ones(3, 4, 16, 96, device=device)
    assert np.allclose((windows @ big).cpu().numpy(), want @ np.ones((16, 96)), atol=1e-4)
