"""Running reductions and stream compaction on the CUDA device, against NumPy."""

import numpy as np
import pytest

import lampion as torch
from lampion import callpath
from lampion.ops.registry import REGISTRY

pytestmark = pytest.mark.usefixtures("gpu")


def chosen(op, *args):
    """What runs the op."""
    return callpath.planned(REGISTRY[op], REGISTRY[op].bind(args, {}))[0].chosen


def array(t):
    """The values of a tensor in a NumPy dtype."""
    t = t.cpu()
    return (t.float() if t.dtype is torch.bfloat16 else t).numpy()


@pytest.mark.parametrize("shape, dim", [
    ((70000,), 0), ((2, 9001), 1), ((2, 9000, 3), 1), ((9000, 5), 0), ((7, 300), 1), ((300, 7), 0)])
def test_sums_of_integers_are_exact(shape, dim):
    a = np.random.default_rng(1).integers(-1000, 1000, shape)
    x = torch.tensor(a, device="cuda")
    np.testing.assert_array_equal(array(x.cumsum(dim)), a.cumsum(dim))
    back = torch.tensor(a[::-1].copy(), device="cuda").flip(0)
    np.testing.assert_array_equal(array(back.cumsum(dim)), a.cumsum(dim))


@pytest.mark.parametrize("name, tolerance", [("float32", 1e-5), ("float64", 1e-12),
                                             ("float16", 4e-3), ("bfloat16", 2e-2)])
def test_sums_of_floats(name, tolerance):
    a = np.random.default_rng(2).random(20000) * 1e-3
    x = torch.tensor(a, device="cuda").to(getattr(torch, name))
    want = array(x).astype(np.float64).cumsum()
    np.testing.assert_allclose(array(x.cumsum(0)), want, rtol=tolerance)


def test_a_dtype_is_converted_first():
    x = torch.tensor(np.random.default_rng(3).random(9000) < 0.5, device="cuda")
    np.testing.assert_array_equal(array(x.cumsum(0)), array(x).cumsum())
    got = x.cumsum(0, dtype=torch.float32)
    assert got.dtype is torch.float32
    np.testing.assert_array_equal(array(got), array(x).cumsum().astype(np.float32))


def test_products():
    a = 1 + np.random.default_rng(4).standard_normal(10000) * 1e-3
    x = torch.tensor(a, device="cuda")
    np.testing.assert_allclose(array(x.cumprod(0)), a.cumprod(), rtol=1e-10)


@pytest.mark.parametrize("name", ["float32", "int32", "uint8"])
@pytest.mark.parametrize("op", ["cummax", "cummin"])
@pytest.mark.parametrize("shape, dim", [((70000,), 0), ((70000, 2), 0)])
def test_extremes_and_their_last_places(op, name, shape, dim):
    a = np.random.default_rng(5).integers(0, 200, shape).astype(name)
    ufunc = np.maximum if op == "cummax" else np.minimum
    if name == "float32":
        a[len(a) * 3 // 4] = np.nan
        a[-5] = np.nan
    x = torch.tensor(a, device="cuda")
    assert chosen(op, x, dim).startswith("kernel cuda.scans")
    assert not chosen(op, x[:100], dim).startswith("kernel cuda.scans")
    got = getattr(x, op)(dim)
    want = ufunc.accumulate(a, dim)
    np.testing.assert_array_equal(array(got.values), want)
    line = np.arange(len(a)).reshape(-1, *[1] * (a.ndim - 1))
    hit = (a == want) | (a != a)
    np.testing.assert_array_equal(array(got.indices),
                                  np.maximum.accumulate(np.where(hit, line, 0), dim))


def test_gradient():
    x = torch.ones(9000, device="cuda", requires_grad=True)
    x.cumsum(0).sum().backward()
    np.testing.assert_array_equal(array(x.grad), np.arange(9000, 0, -1))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.6, 1.0])
def test_nonzero_and_masks(share):
    rng = np.random.default_rng(6)
    a = (rng.random((90, 111)) < share) * rng.integers(1, 9, (90, 111))
    x = torch.tensor(a, device="cuda")
    np.testing.assert_array_equal(array(x.nonzero()), np.argwhere(a))
    mask = x != 0
    np.testing.assert_array_equal(array(x[mask]), a[a != 0])
    np.testing.assert_array_equal(array(x.masked_select(mask)), a[a != 0])
    y = x.clone()
    y[mask] = -1
    np.testing.assert_array_equal(array(y), np.where(a != 0, -1, a))
