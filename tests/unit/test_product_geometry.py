"""Reading the operands of a product as few batches of strided matrices."""

from __future__ import annotations

import lampion
from lampion.base.device import device
from lampion.base.meta import meta
from lampion.runtime.products import problem


def of(*shape, strides=None):
    return meta(lampion.float32, shape, strides, device("cpu"))


def test_batches_that_share_b_are_rows():
    p = problem(of(4, 3, 2, 5), of(4, 3, 5, 6, strides=(0, 0, 6, 1)), of(4, 3, 2, 6))
    assert (p.batch, p.m, p.n, p.k) == ((), 24, 6, 5)
    assert (p.a, p.b, p.c) == ((5, 1), (6, 1), (6, 1))


def test_batch_dims_that_memory_walks_as_one_are_merged():
    p = problem(of(4, 3, 2, 5), of(4, 3, 5, 6), of(4, 3, 2, 6))
    assert (p.batch, p.a, p.b, p.c) == ((12,), (10, 5, 1), (30, 6, 1), (12, 6, 1))


def test_batch_dims_of_turned_heads_stay_apart():
    # a[b, h, t, d] of a tensor [b, t, h, d]
    p = problem(of(4, 3, 2, 5, strides=(30, 5, 15, 1)), of(4, 3, 5, 6), of(4, 3, 2, 6))
    assert (p.batch, p.a) == ((4, 3), (30, 5, 15, 1))
    assert p._replace(a=(30, 10, 5, 1)).merged().batch == (12,)


def test_a_bias_that_differs_between_batches_keeps_them_apart():
    c = of(4, 3, 2, 6)
    p = problem(of(4, 3, 2, 5), of(4, 3, 5, 6), c, (0, 6, 0, 1))
    assert (p.batch, p.bias) == ((4, 3), (0, 6, 0, 1))
    assert problem(of(4, 3, 2, 5), of(4, 3, 5, 6), c, (0, 0, 0, 1)).bias == (0, 0, 1)


def test_the_transpose_of_a_product():
    p = problem(of(4, 2, 5), of(4, 5, 6), of(4, 2, 6), (0, 0, 1))
    t = p.turned()
    assert (t.m, t.n, t.k, t.batch) == (6, 2, 5, (4,))
    assert (t.a, t.b, t.c, t.bias) == ((30, 1, 6), (10, 1, 5), (12, 1, 6), (0, 1, 0))
    assert t.turned() == p and problem(of(2, 5), of(5, 6), of(2, 6)).turned().bias is None
