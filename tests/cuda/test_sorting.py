"""Sorting and selection on the CUDA device, against NumPy: every dtype, ties, NaN, zeros of both
signs, short lines, lines of several tiles, any dim and layout."""

import numpy as np
import pytest

import lampion as torch
from lampion.ops.registry import REGISTRY

pytestmark = pytest.mark.usefixtures("gpu")
DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
          "float16", "bfloat16", "float32", "float64"]


def keyed(x, descending):
    """Float64 (or integer) numbers that order like x; NaN last, or first when descending."""
    if x.dtype.kind == "f":
        x = x.astype(np.float64)
        nan = np.isnan(x)
        x = np.where(nan, 0.0, x) + 0.0
        return (~nan, -x) if descending else (nan, x)
    x = x.astype(object) if x.dtype == np.uint64 else x.astype(np.int64)
    return (np.zeros(x.shape, bool), -x if descending else x)


def order(x, descending=False):
    """Stable order of the last axis."""
    flat = x.reshape(-1, x.shape[-1])
    rows = []
    for row in flat:
        nan, value = keyed(row, descending)
        by_value = np.array(sorted(range(len(row)), key=lambda k: (nan[k], value[k], k)))
        rows.append(by_value)
    return np.array(rows).reshape(x.shape)


def values(rng, name, *shape):
    """Numbers with many ties and, of floats, NaN, infinities and zeros of both signs."""
    if name == "bool":
        return torch.tensor(rng.random(shape) < 0.5)
    if name in ("uint64", "int64"):
        span = np.iinfo(name)
        a = rng.integers(span.min, span.max, shape, dtype=name)
        return torch.tensor(np.where(rng.random(shape) < 0.3, np.array(7, name), a))
    if "int" in name:
        span = np.iinfo(name)
        low, high = max(span.min, -300), min(span.max, 300)
        return torch.tensor(rng.integers(low, high, shape).astype(name))
    a = np.round(rng.standard_normal(shape) * 3, 1)
    pick = rng.random(shape)
    for k, special in enumerate((np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0)):
        a = np.where((pick > 0.02 * k) & (pick < 0.02 * (k + 1)), special, a)
    return torch.tensor(a).to(getattr(torch, name))


def array(t):
    """The values of a tensor in a NumPy dtype."""
    t = t.cpu()
    return (t.float() if t.dtype is torch.bfloat16 else t).numpy()


def same(a, b):
    """Equal bits but for those of NaN; zeros keep their signs."""
    np.testing.assert_array_equal(a, b)
    if a.dtype.kind == "f":
        real = ~np.isnan(a)
        np.testing.assert_array_equal(np.signbit(a[real]), np.signbit(b[real]))


def chosen(op, *args):
    """What runs the op."""
    from lampion import callpath

    return callpath.planned(REGISTRY[op], REGISTRY[op].bind(args, {}))[0].chosen


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("name", DTYPES)
def test_lines_of_one_tile(name, descending):
    x = values(np.random.default_rng(1), name, 5, 70)
    got = x.to("cuda").sort(-1, descending)
    want = order(array(x), descending)
    np.testing.assert_array_equal(array(got.indices), want)
    same(array(got.values), np.take_along_axis(array(x), want, -1))


@pytest.mark.parametrize("name", DTYPES)
def test_lines_of_several_tiles(name):
    descending = name in ("float32", "int16", "uint64")
    x = values(np.random.default_rng(2), name, 2, 9001)
    got = x.to("cuda").sort(-1, descending)
    want = order(array(x), descending)
    np.testing.assert_array_equal(array(got.indices), want)
    same(array(got.values), np.take_along_axis(array(x), want, -1))


@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 64, 255, 256, 257, 1023, 1025, 4096, 4097])
def test_lengths(n):
    x = torch.tensor(np.random.default_rng(n).integers(-9, 9, (3, n)).astype(np.float32))
    got = x.to("cuda").sort()
    want = np.argsort(x.numpy(), -1, kind="stable")
    np.testing.assert_array_equal(array(got.indices), want)
    same(array(got.values), np.take_along_axis(x.numpy(), want, -1))


@pytest.mark.parametrize("n", [40, 4500])
def test_any_dim_and_layout(n):
    x = values(np.random.default_rng(3), "float32", 2, n, 3)
    for view in (x.to("cuda"), x.to("cuda").permute(2, 1, 0), x.to("cuda")[:, ::2]):
        there = view.cpu()
        want = np.moveaxis(order(np.moveaxis(array(there), 1, -1)), -1, 1)
        got = view.sort(1)
        np.testing.assert_array_equal(array(got.indices), want)
        same(array(got.values), np.take_along_axis(array(there), want, 1))


def test_a_small_and_an_empty_one():
    assert torch.tensor(3.0, device="cuda").sort().values.item() == 3
    assert torch.zeros(0, 3, device="cuda").sort(0).values.shape == (0, 3)
    assert torch.zeros(3, 0, device="cuda").sort(1).indices.shape == (3, 0)
    assert torch.tensor([2, 1], device="cuda").sort().values.tolist() == [1, 2]


@pytest.mark.parametrize("n, k", [(50, 7), (50, 50), (6000, 9)])
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("name", ["float32", "int64"])
def test_topk(name, largest, n, k):
    x = values(np.random.default_rng(4), name, 3, n)
    got = x.to("cuda").topk(k, -1, largest)
    want = order(array(x), largest)[:, :k]
    np.testing.assert_array_equal(array(got.indices), want)
    same(array(got.values), np.take_along_axis(array(x), want, -1))
    across = x.to("cuda").t().topk(min(k, n), 0, largest)
    np.testing.assert_array_equal(array(across.indices), want.T)


@pytest.mark.parametrize("n", [9, 700, 5000])
@pytest.mark.parametrize("name", ["float32", "int32", "float64"])
def test_an_entry(name, n):
    x = values(np.random.default_rng(5), name, 4, n)
    if x.is_floating_point():
        x[0] = float("nan")
        x[1] = x[1].nan_to_num()
    ranks = order(array(x))
    y = x.to("cuda")
    for k in (1, 2, n):
        got = y.kthvalue(k)
        np.testing.assert_array_equal(array(got.indices), ranks[:, k - 1])
    nans = np.isnan(array(x)).sum(-1) if x.is_floating_point() else np.zeros(4, int)
    places = np.where(nans > 0, n - nans, (n - 1) // 2)
    np.testing.assert_array_equal(array(y.median(-1).indices), ranks[np.arange(4), places])
    places = np.maximum((n - nans - 1) // 2, 0)
    np.testing.assert_array_equal(array(y.nanmedian(-1).indices), ranks[np.arange(4), places])


def test_what_is_made_of_it():
    rng = np.random.default_rng(6)
    a = rng.integers(0, 50, 5000)
    x = torch.tensor(a, device="cuda")
    for got, want in zip(x.unique(return_inverse=True, return_counts=True),
                         np.unique(a, return_inverse=True, return_counts=True)):
        np.testing.assert_array_equal(array(got), want)
    counts = np.bincount(a)
    assert x.mode().values.item() == counts.argmax()
    line = np.sort(a[:100])
    found = torch.searchsorted(torch.tensor(line, device="cuda"), x)
    np.testing.assert_array_equal(array(found), np.searchsorted(line, a))


def test_gradients_flow_to_the_places():
    x = torch.tensor(np.random.default_rng(7).standard_normal((3, 40)).astype(np.float32),
                     device="cuda", requires_grad=True)
    x.topk(4).values.sum().backward()
    assert x.grad.sum().item() == 12
    assert bool(((x >= x.topk(4).values[:, -1:]) == (x.grad == 1)).all())


def test_our_kernels_run():
    x = torch.zeros(3, 40, device="cuda").detach()
    assert chosen("sort", x).startswith("kernel cuda.sorting")
    assert chosen("topk", x, 2).startswith("kernel cuda.sorting")
