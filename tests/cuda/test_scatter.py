"""Sums by index that are sorted first: values, order, masks, layouts, every distribution."""

from __future__ import annotations

import numpy as np
import pytest

import lampion
from lampion.nn import functional as F

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture
def few(monkeypatch):
    """Sort from few points on, so that the simulator need not run many."""
    from lampion_cuda import scatter
    from lampion_cuda.streams import opened

    lampion.zeros(1, device="cuda")
    monkeypatch.setattr(scatter, "FROM", 128)
    monkeypatch.setattr(opened(None).dialect, "atomics", {})  # whole numbers go this way, too
    sorted_sums = []
    real = scatter.sorted_calls
    monkeypatch.setattr(scatter, "sorted_calls", lambda *a: sorted_sums.append(real(*a)) or
                        sorted_sums[-1])
    from lampion.ops import registry

    registry.forget_plans()
    yield sorted_sums
    registry.forget_plans()


def indices(kind, n, m, rng):
    if kind == "one row":
        return np.full(n, m // 2)
    if kind == "two":
        return np.where(rng.random(n) < 0.5, 0, m - 1)
    if kind == "own rows":
        return rng.permutation(max(n, m))[:n] % m
    if kind == "in order":
        return np.sort(rng.integers(0, m, n))
    return np.minimum(rng.geometric(0.05, n), m) - 1 if kind == "skewed" else rng.integers(0, m, n)


@pytest.mark.parametrize("order", [0, -1, 9])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int64", "int16"])
def test_sums_are_right_and_the_same_in_every_order(few, simulated, dtype, order):
    """Small whole numbers, of which every sum is exact; the blocks' sizes and one more or less."""
    simulated.set(order=order)
    rng = np.random.default_rng(3)
    d = getattr(lampion, dtype)
    kinds = ("one row", "two", "own rows", "in order", "skewed", "random")
    for kind, (n, m, width) in zip(kinds * 2, (
            (2048, 5, 1), (2049, 300, 1), (4500, 5000, 1), (4095, 40, 1), (900, 17, 33),
            (1025, 256, 5), (3000, 1, 1), (256, 9, 64), (257, 70, 2), (6000, 255, 1),
            (700, 3, 40), (8193, 257, 1))):
        at = indices(kind, n, m, rng)
        low, high = (-2, 3) if dtype == "bfloat16" else (-9, 10)
        v, x = rng.integers(low, high, (n, width)), rng.integers(low, high, (m, width))
        want = x.astype(np.float64)
        np.add.at(want, at, v)
        tensors = [lampion.tensor(a).to(d).to("cuda") for a in (x, v)]
        got = tensors[0].index_add(0, lampion.tensor(at).cuda(), tensors[1]).cpu()
        expected = lampion.tensor(want).to(d)
        assert lampion.equal(got, expected), (kind, n, m, width)
    assert sum(made is not None for made in few) >= 12


def test_real_values_are_added_the_same_way_every_time(few, simulated):
    rng = np.random.default_rng(5)
    at = lampion.tensor(rng.integers(0, 40, 5000)).cuda()
    v = lampion.tensor(rng.standard_normal(5000)).cuda()
    for d, tolerance in ((lampion.float32, 2e-5), (lampion.bfloat16, 2e-2)):
        results = []
        for order in (0, -1, 4, 11):
            simulated.set(order=order)
            x = lampion.ones(40, device="cuda", dtype=d)
            results.append(x.index_add(0, at, v.to(d)).cpu())
            assert lampion.equal(results[0], results[-1])
        want = np.ones(40)
        np.add.at(want, at.cpu().numpy(), v.to(d).cpu().double().numpy())
        assert np.abs(results[0].double().numpy() - want).max() < tolerance * np.abs(want).max()
    assert all(made is not None for made in few)


def test_other_ops_and_layouts(few, simulated):
    rng = np.random.default_rng(6)

    def check(function, *arrays):
        here = [lampion.tensor(a) for a in arrays]
        got = function(*[t.cuda() for t in here]).cpu()
        want = function(*here)
        assert lampion.allclose(got, want, rtol=1e-4, atol=1e-4)

    x = rng.standard_normal((30, 50)).astype(np.float32)
    src = rng.standard_normal((30, 90)).astype(np.float32)
    wide = rng.integers(0, 50, (30, 90))
    before = len(few)
    check(lambda x, i, s: x.scatter_add(1, i, s), x, wide, src)
    check(lambda x, i, s: x.t().contiguous().t().scatter_add(1, i, s), x, wide, src)
    check(lambda x, i, s: x.t().scatter_add(0, i.t(), s.t()), x, wide, src)
    check(lambda x, i, s: x[:, ::2].clone().scatter_add_(1, i % 25, s), x, wide, src)
    check(lambda x, i, j, s: x.index_put((i, j), s, accumulate=True), x,
          rng.integers(-30, 30, 700), rng.integers(-50, 50, 700),
          rng.standard_normal(700).astype(np.float32))
    check(lambda x, i, s: x.index_add(1, i, s, alpha=-2), x, rng.integers(0, 50, 90), src)
    check(lambda i, w: lampion.bincount(i, w, minlength=70), rng.integers(0, 60, 900),
          rng.standard_normal(900).astype(np.float32))
    check(lambda i: lampion.bincount(i), rng.integers(0, 60, 900))

    def looked_up(table, i):
        table = table.detach().requires_grad_()
        F.embedding(i, table, padding_idx=3).sin().sum().backward()
        return table.grad

    check(looked_up, x, rng.integers(0, 30, (20, 40)))
    check(lambda x, i, s: x.index_add(0, i, s), x, np.zeros(0, np.int64), src[:0, :50])
    assert sum(made is not None for made in few[before:]) >= 7


def test_an_index_out_of_range_writes_nothing(few, simulated):
    x = lampion.zeros(20, device="cuda")
    at = lampion.arange(300, device="cuda") % 20
    at[150] = 20
    with pytest.raises(IndexError, match="20"):
        x.index_add_(0, at, lampion.ones(300, device="cuda"))
        lampion.cuda.synchronize()
    assert x.sum().item() in (0.0, 299.0)  # what is in range, or nothing
    assert any(made is not None for made in few)


def test_few_points_are_not_sorted(simulated):
    from lampion_cuda import scatter

    assert scatter.FROM >= 1 << 12
    x = lampion.zeros(20, device="cuda")
    x.index_add_(0, lampion.arange(300, device="cuda") % 20, lampion.ones(300, device="cuda"))
    assert x.tolist() == [15.0] * 20
