"""An allocation that fails says who holds the memory."""

import copy
import pickle

import pytest

import lampion
from lampion import nn
from lampion.base.errors import OutOfMemoryError
from lampion.holders import holders

HUGE = 10**15


class OnlyHere(nn.Module):  # no other test has models of this name
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(300, 2000)
        self.norm = nn.BatchNorm1d(2000)

    def forward(self, x):
        return self.norm(self.a(x)).sigmoid()


def held(error):
    """The lines below the heading."""
    lines = str(error).splitlines()
    return [line.strip() for line in lines[lines.index("Memory is held by:") + 1:]]


@pytest.fixture
def model():
    return OnlyHere()


def line(lines, use):
    (found,) = [text for text in lines if use in text]
    return found


def test_parameters_gradients_and_state_are_told_apart(model):
    optimizer = lampion.optim.Adam(model.parameters())
    model(lampion.rand(4, 300)).sum().backward()
    optimizer.step()
    with pytest.raises(lampion.OutOfMemoryError) as caught:
        lampion.empty(HUGE)
    lines = held(caught.value)
    assert "on cpu: parameters of OnlyHere (4, the largest a.weight float32[2000, 300])" in line(
        lines, "parameters of OnlyHere")
    assert "the largest of a.weight float32[2000, 300])" in line(lines, "gradients")
    assert "the largest exp_avg" in line(lines, "state of Adam")
    sizes = [float(text.split()[0]) for text in lines if text.split()[1] == "MiB"]
    assert sizes == sorted(sizes, reverse=True) and sizes


def test_what_autograd_keeps_is_told(model):
    y = model(lampion.rand(2000, 300))
    with pytest.raises(MemoryError) as caught:
        lampion.empty(HUGE)
    assert "saved for backward" in held(caught.value)[0]
    del y
    with pytest.raises(MemoryError) as caught:
        lampion.empty(HUGE)
    assert not any("saved for backward" in text for text in held(caught.value))


def test_memory_that_is_shared_counts_once():
    base = lampion.zeros(9_000_000)
    views = [base[i:] for i in range(5)]
    text = line(holders(most=100).splitlines(), "other tensors")
    assert float(text.split()[0]) < 2 * 9_000_000 * 4 / 2**20 and "float32[9000000]" in text
    assert len(views) == 5


def test_ops_raise_it_and_name_their_layer(model):
    with pytest.raises(lampion.OutOfMemoryError) as caught:
        model(lampion.zeros(1, 300).expand(10**10, 300))
    assert held(caught.value)[-1].startswith("in a of OnlyHere: Linear(in_features=300")


def test_a_copy_of_the_error_says_the_same():
    with pytest.raises(OutOfMemoryError) as caught:
        lampion.empty(HUGE)
    error = caught.value
    assert str(copy.copy(error)) == str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, RuntimeError) and isinstance(error, MemoryError)


def test_tensors_that_are_not_filled_in_yet():
    lazy, bare = nn.LazyLinear(3), lampion.Tensor.__new__(lampion.Tensor)
    bare.__dict__["kept"] = lampion.zeros(7_000_000)
    assert "float32[7000000]" in holders(most=100) and lazy is not bare


def test_a_backend_need_not_know():
    keep = lampion.zeros(1_000_000)
    assert "Memory is held by:" in str(OutOfMemoryError("acme: 12 bytes cannot be allocated"))
    assert keep.numel()
