"""Draws on the device and on the host have the same bits."""

from __future__ import annotations

import pytest

import lampion

DRAWS = {
    "rand": lambda d: lampion.rand(101, device=d),
    "randn": lambda d: lampion.randn(101, device=d),
    "randint": lambda d: lampion.randint(2**40, (101,), device=d),
    "randperm": lambda d: lampion.randperm(101, device=d),
    "exponential": lambda d: lampion.empty(101, device=d).exponential_(),
    "dropout": lambda d: lampion.dropout(lampion.ones(101, device=d), 0.3, True),
    "poisson": lambda d: lampion.poisson(lampion.arange(50.0, device=d)),
    "multinomial": lambda d: lampion.multinomial(lampion.arange(9.0, device=d), 4, True),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_equal_the_hosts(name, backend):  # the fixture skips where there is no driver
    values = []
    for where in ("cpu", "opencl"):
        lampion.manual_seed(9)
        values.append(DRAWS[name](where).cpu().numpy().tobytes())
    assert values[0] == values[1]
