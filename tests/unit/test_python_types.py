"""Python's types where a dtype is due: `dtype=int` means int64, `float` float64."""

from __future__ import annotations

import numpy as np
import pytest

import lampion

X = lampion.ones(2)
CALLS = {
    "to": lambda d: X.to(d), "to by name": lambda d: X.to(dtype=d),
    "to a device": lambda d: X.to("cpu", d), "a number": lambda d: lampion.tensor(1, dtype=d),
    "numbers": lambda d: lampion.tensor([[1, 0]], dtype=d),
    "zeros": lambda d: lampion.zeros(2, dtype=d), "like": lambda d: lampion.ones_like(X, dtype=d),
    "full": lambda d: lampion.full((2,), 1, dtype=d), "new": lambda d: X.new_zeros(2, dtype=d),
    "new tensor": lambda d: X.new_tensor([1], dtype=d),
    "as_tensor": lambda d: lampion.as_tensor([1, 2], dtype=d),
    "of an array": lambda d: lampion.as_tensor(np.ones(2), dtype=d),
    "of a tensor": lambda d: lampion.as_tensor(X, dtype=d),
    "scalar_tensor": lambda d: lampion.scalar_tensor(1, dtype=d),
}
FLOATS = {
    "arange": lambda d: lampion.arange(3, dtype=d),
    "linspace": lambda d: lampion.linspace(0, 1, 3, dtype=d),
    "rand": lambda d: lampion.rand(2, dtype=d), "sum": lambda d: X.sum(dtype=d),
    "mean": lambda d: lampion.ones(2, dtype=lampion.int64).mean(dtype=d),
    "softmax": lambda d: X.softmax(0, dtype=d), "cumsum": lambda d: X.cumsum(0, dtype=d),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("given, means", [
    (int, lampion.int64), (float, lampion.float64), (bool, lampion.bool)])
def test_types_are_dtypes(name, given, means):
    got = CALLS[name](given)
    assert got.dtype is means and got.tolist() == CALLS[name](means).tolist()


@pytest.mark.parametrize("name", FLOATS)
def test_float_is_float64(name):
    for _ in range(3):  # known calls as well as new ones
        assert FLOATS[name](float).dtype is lampion.float64


def test_a_view_of_the_bits():
    assert lampion.ones(2, dtype=lampion.float64).view(int).dtype is lampion.int64


@pytest.mark.parametrize("call", [lambda: X.to(str), lambda: lampion.zeros(2, dtype=np.float32),
                                  lambda: lampion.tensor([1], dtype=list)])
def test_other_classes_are_refused(call):
    with pytest.raises(TypeError, match="must be lampion.dtype, not"):
        call()
