"""Writes through `Tensor.data`: autograd is not told, and all other writes are still noticed."""

from __future__ import annotations

import pytest

import lampion
from lampion import nn


def used(s):
    """A graph that has saved `s`, and the leaf whose gradient is a sum of `s`."""
    w = lampion.ones(3, requires_grad=True)
    return w, (s * w).sum()


WRITES = {
    "item": lambda t: t.__setitem__(1, 5.0),
    "mask": lambda t: t.__setitem__(t > 0, 5.0),
    "range": lambda t: t.__setitem__(slice(1, 3), lampion.ones(2, 3)),
    "mul_": lambda t: t.mul_(2),
    "copy_": lambda t: t.copy_(lampion.ones(3, 3)),
    "fill_": lambda t: t.fill_(2.0),
    "normal_": lambda t: t.normal_(),
    "index_add_": lambda t: t.index_add_(0, lampion.tensor([1]), lampion.ones(1, 3)),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_graph_uses_what_data_was_given(name):
    s = lampion.ones(3, 3)
    w, y = used(s)
    WRITES[name](s.data)
    y.backward()
    assert lampion.allclose(w.grad, s.sum(0))


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("which", ["itself", "detached"])
def test_other_writes_are_noticed(name, which):
    s = lampion.ones(3, 3)
    _, y = used(s)
    WRITES[name](s if which == "itself" else s.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        y.backward()


def test_a_parameter_made_of_data_is_an_ordinary_one():
    source = lampion.ones(3, 3)
    for p in (nn.Parameter(source.data), nn.Parameter(lampion.zeros(3, 3))):
        p.data = source.data
        _, y = used(p)
        with lampion.no_grad():
            p.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace"):
            y.backward()


def test_overlap_is_seen_through_data():
    a = lampion.arange(5.0)
    a.data[1:] = a[:-1]
    assert a.tolist() == [0, 0, 1, 2, 3]
    a.data.copy_(a)
    assert a.tolist() == [0, 0, 1, 2, 3]
