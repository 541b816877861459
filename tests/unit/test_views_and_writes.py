"""Views of little or no memory, writes beside what is read, and the dim order of results: what
random programs found."""

from __future__ import annotations

import pytest

import lampion


def test_writes_to_nothing_and_to_interleaved_elements():
    lampion.zeros(0, 3).expand(2, 0, 3).add_(1)
    t = lampion.zeros(8)
    t.as_strided((3, 2), (2, 3)).add_(1)  # elements 0, 2, 4 and 3, 5, 7, none of them twice
    assert t.tolist() == [1, 0, 1, 1, 1, 1, 0, 1]
    with pytest.raises(RuntimeError, match="single memory location"):
        t.as_strided((3, 2), (1, 1)).add_(1)
    with pytest.raises(RuntimeError, match="single memory location"):
        lampion.zeros(1).expand(2).add_(1)


def test_a_write_may_read_what_it_does_not_touch():
    t = lampion.arange(4).reshape(2, 2)
    t[:, 0].mul_(t.diagonal(-1, -1, 0))  # element (0, 1), between those written
    assert t.tolist() == [[0, 1], [2, 3]]
    wide = lampion.arange(6.0).reshape(2, 3)
    wide[:, :1].add_(wide[:, 2:])
    assert wide.tolist() == [[2, 1, 2], [8, 4, 5]]
    x = lampion.arange(10.0)
    x[::2].add_(x[1::2])
    assert x.tolist() == [1, 1, 5, 3, 9, 5, 13, 7, 17, 9]
    for write in (lambda: x[1:].add_(x[:-1]), lambda: x[:4].mul_(x[3:7]),
                  lambda: wide.add_(wide[:, 1:2])):
        with pytest.raises(RuntimeError, match="single memory location"):
            write()


def test_as_strided_of_an_empty_view_counts_from_the_storage():
    t = lampion.tensor([4, 2, 0])
    for empty in (t[1:1], t.reshape(1, 3).narrow(1, 2, 0)):
        assert empty.as_strided((2,), (0,), 1).tolist() == [2, 2]


def test_results_keep_the_dim_order_of_the_operand_that_cares():
    a, b = lampion.ones(12, 1), lampion.ones(4, 1, 3).as_strided((4, 1, 3), (1, 12, 4))
    assert (a + b).stride() == (1, 4, 48)
    assert (lampion.ones(3, 4).t() + lampion.ones(3)).stride() == (1, 4)


def test_writes_to_what_no_gradient_reads():
    """The stages of a Runge-Kutta step: a product with constants reads rows, later ones follow."""
    weights = lampion.tensor([[0.0, 0, 0], [0.5, 0, 0], [0.25, 0.5, 0]])
    x = lampion.ones(2, requires_grad=True)
    rows = lampion.zeros(3, 2)
    rows[0] = x * 2
    for i in (1, 2):
        rows[i] = lampion.einsum("j,jf->f", weights[i, :i], rows[:i]) * 3
    rows.sum().backward()
    assert x.grad.tolist() == [2 + 3 + 1.5 + 4.5] * 2
    y = x * 1.0
    z = y.reshape(1, 2) @ lampion.ones(2, 2)
    y.mul_(2)
    z.sum().backward()


def test_writes_to_what_a_gradient_reads_are_refused():
    x, w = lampion.ones(1, 2, requires_grad=True), lampion.ones(2, 2, requires_grad=True)
    for product in (lambda y: y @ w, lambda y: y @ y.T, lambda y: y.detach() @ w):
        y = x * 1.0
        z = product(y)
        y.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()
