"""Kernels printed for thousands of threads, in several orders of threads: exchange within warps,
teams that share rows, lists of scattered points. The CPU is the reference."""

from __future__ import annotations

import pytest

import lampion
from lampion.nn import functional as F

ORDERS = (0, -1, 7)  # of the simulator's threads
g = lampion.Generator().manual_seed(11)


def numbers(*shape, dtype=lampion.float32):
    """Small whole numbers: sums of them are exact in any order."""
    return lampion.randint(-8, 9, shape, generator=g).to(dtype)


def agree(fn, *inputs, near=0.0, simulator=None):
    """fn gives the same on the CPU and on the GPU, whatever the threads' order."""
    want = fn(*inputs)
    there = [x.to("cuda") for x in inputs]
    for order in ORDERS if simulator is not None else (0,):
        if simulator is not None:
            with simulator.using(order=order):
                got = fn(*there).to("cpu")
        else:
            got = fn(*there).to("cpu")
        assert got.dtype is want.dtype and got.shape == want.shape
        if near == 0:
            assert lampion.equal(got, want), order
        else:
            assert lampion.allclose(got.float(), want.float(), rtol=near, atol=near), order


@pytest.fixture
def orders(request):
    """The simulator, if the tests run on it."""
    from real import REAL

    return None if REAL else request.getfixturevalue("simulator_session")


@pytest.mark.parametrize("length", [3, 33, 128, 1000, 4100])
def test_rows_that_teams_share(orders, length):
    x = numbers(5, length)
    agree(lambda x: x.sum(1), x, simulator=orders)
    agree(lambda x: x.argmax(1), x, simulator=orders)
    for dtype, near in ((lampion.float32, 1e-5), (lampion.bfloat16, 1e-2)):
        agree(lambda x: F.softmax(x, 1), x.to(dtype), near=near, simulator=orders)


def test_sums_in_parts(orders):
    agree(lambda x: x.sum(), numbers(70_001), simulator=orders)
    agree(lambda x: x.sum(0), numbers(600, 40), simulator=orders)
    agree(lambda x: x.amax(), numbers(70_001), simulator=orders)


@pytest.mark.parametrize("dtype", [lampion.float32, lampion.bfloat16, lampion.int64, lampion.uint8],
                         ids=str)
def test_vectors_and_what_is_left(orders, dtype):
    x = numbers(5003).abs().to(dtype)
    agree(lambda x: x + x, x, simulator=orders)
    agree(lambda x: x[3:] + x[:-3], x, simulator=orders)
    agree(lambda x: x.to(lampion.float16), x, simulator=orders)


@pytest.mark.parametrize("length", [40, 128, 1000, 5003])
def test_scans(orders, length):
    x = numbers(3, length)
    agree(lambda x: x.cumsum(1), x, simulator=orders)
    agree(lambda x: x.cummax(1).values, x, simulator=orders)
    agree(lambda x: x.cumsum(0), x.t().contiguous(), simulator=orders)
    agree(lambda x: x.cumsum(1), x.sign().to(lampion.bfloat16), simulator=orders)


def test_transposes(orders):
    x = numbers(70, 45)
    agree(lambda x: x.t().contiguous(), x, simulator=orders)
    agree(lambda x: x.t() + x.t()[:, :1], x.to(lampion.bfloat16), simulator=orders)


@pytest.mark.parametrize("shape", [(40, 3), (40, 70), (500,)])
def test_scatters_in_order(orders, shape):
    """Also sums of floats come out bit for bit."""
    index = lampion.randint(0, shape[0], (900,), generator=g)
    values = lampion.randn(900, *shape[1:], generator=g)
    start = lampion.randn(*shape, generator=g)
    agree(lambda a, i, v: a.index_add(0, i, v), start, index, values, simulator=orders)
    agree(lambda i: lampion.bincount(i, minlength=shape[0]), index, simulator=orders)


def test_sums_in_any_order_if_asked_for(orders):
    """What the option backend.cuda.scatter sets; whole numbers are exact in any order."""
    from lampion import plugins
    from lampion_cuda.dialect import CUDAC

    gpu = plugins.backend("cuda").opened(None)
    before, variants = gpu.dialect, dict(gpu.variants)
    index = lampion.randint(0, 30, (500,), generator=g)
    try:
        gpu.dialect = CUDAC(loose_sums=True)
        gpu.variants.clear()
        for dtype in (lampion.float32, lampion.float64):
            agree(lambda a, i, v: a.index_add(0, i, v), numbers(30, 7).to(dtype), index,
                  numbers(500, 7).to(dtype), simulator=orders)
        assert any(variant.shape == "atomic" for _, variant in gpu.variants)
    finally:
        gpu.dialect = before
        gpu.variants.clear()
        gpu.variants.update(variants)


def test_scatters_along_rows(orders):
    index = lampion.randint(0, 50, (6, 700), generator=g)
    values, start = lampion.randn(6, 700, generator=g), lampion.randn(6, 50, generator=g)
    agree(lambda a, i, v: a.scatter_add(1, i, v), start, index, values, simulator=orders)
    agree(lambda a, i, v: a.scatter(1, i, v), start, index, values, simulator=orders)
