"""Random calls have PyTorch's forms: shapes, dtypes, strides, gradients asked for, errors."""

from __future__ import annotations

import pytest

import lampion

torch = pytest.importorskip("torch")

CALLS = {
    "rand": lambda t: t.rand(2, 3),
    "rand tuple": lambda t: t.rand((2, 3)),
    "rand list": lambda t: t.rand([2, 3]),
    "rand size": lambda t: t.rand(size=(2, 3)),
    "rand 0-d": lambda t: t.rand(()),
    "rand none": lambda t: t.rand(0, 4),
    "rand half": lambda t: t.rand(3, dtype=t.float16),
    "rand complex": lambda t: t.rand(3, dtype=t.complex64),
    "rand grad": lambda t: t.rand(3, requires_grad=True),
    "rand out": lambda t: t.rand(3, out=t.empty(5, dtype=t.float64)[:3]),
    "rand generator": lambda t: t.rand(3, generator=t.Generator()),
    "randn": lambda t: t.randn(2, 0, 3),
    "randn double": lambda t: t.randn(2, dtype=t.double),
    "randint": lambda t: t.randint(7, (2, 3)),
    "randint low": lambda t: t.randint(3, 7, (2,)),
    "randint names": lambda t: t.randint(low=3, high=7, size=[2]),
    "randint float": lambda t: t.randint(3, 7, (2,), dtype=t.float32),
    "randint like": lambda t: t.randint_like(t.ones(2, 3).t(), 5),
    "randint like low": lambda t: t.randint_like(t.ones(2, 3), 2, 5, dtype=t.int32),
    "randperm": lambda t: t.randperm(5),
    "randperm int": lambda t: t.randperm(5, dtype=t.int32),
    "randperm none": lambda t: t.randperm(0),
    "rand like": lambda t: t.rand_like(t.ones(2, 3).t()),
    "randn like": lambda t: t.randn_like(t.ones(2, 3, 4).permute(2, 0, 1), dtype=t.float64),
    "normal": lambda t: t.normal(0.0, 1.0, (2, 3)),
    "normal tensors": lambda t: t.normal(t.zeros(2, 1), t.ones(3)),
    "normal mean": lambda t: t.normal(t.zeros(2, 1), 2.0),
    "normal std": lambda t: t.normal(1.0, t.ones(3)),
    "bernoulli": lambda t: t.bernoulli(t.rand(3, 2).t()),
    "bernoulli p": lambda t: t.bernoulli(t.ones(3, dtype=t.int64), 0.5),
    "bernoulli_ tensor": lambda t: t.ones(2, 3, dtype=t.int64).bernoulli_(t.rand(3)),
    "bernoulli p transposed": lambda t: t.bernoulli(t.rand(3, 2).t(), 0.5),
    "poisson": lambda t: t.poisson(t.rand(3, 2).t()),
    "multinomial": lambda t: t.multinomial(t.rand(4), 2),
    "multinomial rows": lambda t: t.multinomial(t.rand(3, 4), 6, replacement=True),
    "multinomial method": lambda t: t.rand(3, 4).multinomial(2),
    "uniform_": lambda t: t.ones(3).uniform_(2, 3),
    "uniform_ names": lambda t: t.ones(3).uniform_(to=3),
    "random_ byte": lambda t: t.ones(3, dtype=t.uint8).random_(),
    "random_ to": lambda t: t.ones(3).random_(4),
    "random_ range": lambda t: t.ones(3).random_(2, 4),
    "geometric_": lambda t: t.ones(3, dtype=t.int32).geometric_(0.5),
    "dropout": lambda t: t.dropout(t.ones(2, 3).t(), 0.5, True),
    "dropout gaps": lambda t: t.dropout(t.ones(6, 8)[:, ::2], 0.5, True),
    "dropout grad": lambda t: t.dropout(t.ones(3, requires_grad=True), 0.5, True),
    "dropout all": lambda t: t.dropout(t.ones(3), 1.0, True),
    "feature_dropout": lambda t: t.feature_dropout(t.ones(2, 3, 4), 0.5, True),
    "alpha_dropout": lambda t: t.alpha_dropout(t.ones(2, 3), 0.5, True),
    "dropout_": lambda t: t.dropout_(t.ones(2, 3), 0.5, True),
    # errors
    "negative size": lambda t: t.rand(-1),
    "integers": lambda t: t.rand(2, dtype=t.int64),
    "no size": lambda t: t.randint(4),
    "empty range": lambda t: t.randint(4, 4, (2,)),
    "out of dtype": lambda t: t.randint(0, 300, (2,), dtype=t.uint8),
    "negative n": lambda t: t.randperm(-1),
    "n beyond dtype": lambda t: t.randperm(300, dtype=t.uint8),
    "negative std": lambda t: t.ones(2).normal_(0, -1),
    "crossed": lambda t: t.ones(2).uniform_(2, 1),
    "probability": lambda t: t.ones(2).bernoulli_(2.0),
    "probabilities": lambda t: t.bernoulli(t.full((2,), 2.0)),
    "integer probabilities": lambda t: t.bernoulli(t.ones(2, dtype=t.int64)),
    "rate": lambda t: t.ones(2).exponential_(-1.0),
    "trials": lambda t: t.ones(2).geometric_(0.0),
    "sigma": lambda t: t.ones(2).cauchy_(0, -1),
    "not enough": lambda t: t.multinomial(t.rand(3), 4),
    "no sample": lambda t: t.multinomial(t.rand(3), 0),
    "negative weight": lambda t: t.multinomial(-t.rand(3), 1),
    "no weight": lambda t: t.multinomial(t.zeros(3), 1),
    "rank": lambda t: t.multinomial(t.rand(3, 3, 3), 1),
    "dropout rate": lambda t: t.dropout(t.ones(3), 1.5, True),
    "dropout of integers": lambda t: t.dropout(t.ones(3, dtype=t.int64), 0.5, True),
    "leaf": lambda t: t.ones(3, requires_grad=True).normal_(),
    "overlap": lambda t: t.ones(1).expand(3).normal_(),
    "seed": lambda t: t.manual_seed(2**64),
    "state": lambda t: t.Generator().set_state(t.ones(3)),
    "generator": lambda t: t.rand(3, generator=5),
}


def outcome(call, t):
    try:
        r = call(t)
    except Exception as e:
        return type(e).__name__
    return (tuple(r.shape), str(r.dtype).partition(".")[2], tuple(r.stride()), r.requires_grad)


@pytest.mark.parametrize("name", CALLS)
def test_calls_have_the_same_form(name):
    assert outcome(CALLS[name], lampion) == outcome(CALLS[name], torch)
