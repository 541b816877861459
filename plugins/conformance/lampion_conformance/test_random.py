"""L2: random numbers, bit for bit those of the host, from the same seed."""

from __future__ import annotations

import pytest

import lampion

from .values import bits

DRAWS = {
    "uniform_": (-1.0, 3.0), "normal_": (0.5, 2.0), "exponential_": (1.5,), "cauchy_": (0.0, 2.0),
    "log_normal_": (0.1, 0.5), "geometric_": (0.3,), "random_": (3, 90), "bernoulli_": (0.3,),
}


def alike(draw, device):
    """The same bits on the device as on the host, or on the reference device if it is the host."""
    found = []
    for where in (device, "cpu" if device != "cpu" else "ref"):
        lampion.manual_seed(0xFEDCBA9876543210)
        made = draw(where)
        assert made.device == lampion.device(where)
        found.append(bits(made))
    assert found[0] == found[1]


@pytest.mark.parametrize("d", [
    pytest.param(d, marks=pytest.mark.full if d in ("float64", "bfloat16") else ())
    for d in ("float32", "float16", "float64", "bfloat16")])
@pytest.mark.parametrize("law", DRAWS)
def test_distributions(device, caps, law, d):
    if getattr(lampion, d) not in caps.dtypes:
        pytest.skip(f"the device does not claim {d}")
    for n in (1, 6, 500):
        alike(lambda where, n=n: getattr(lampion.empty(
            n, dtype=getattr(lampion, d), device=where), law)(*DRAWS[law]), device)


@pytest.mark.parametrize("draw", [
    pytest.param(draw, id=name) for name, draw in {
        "randn": lambda d: lampion.randn(3, 5, device=d),
        "randperm": lambda d: lampion.randperm(100, device=d),
        "randint64": lambda d: lampion.randint(-(2**63), 2**63 - 1, (50,), device=d),
        "randint8": lambda d: lampion.randint(10, (3, 5), device=d, dtype=lampion.uint8),
        "bernoulli": lambda d: lampion.bernoulli(lampion.full((50,), 0.25, device=d)),
        "poisson": lambda d: lampion.poisson(lampion.arange(50.0, device=d)),
        "multinomial": lambda d: lampion.multinomial(lampion.arange(9.0, device=d), 20, True),
        "dropout": lambda d: lampion.dropout(lampion.ones(77, device=d), 0.3, True),
    }.items()])
def test_choices(device, draw):
    alike(draw, device)


def test_draws_go_on_where_the_last_one_ended(device):
    """Two draws are not one draw twice, and together they are what the host draws."""
    alike(lambda d: lampion.cat([lampion.rand(k, device=d) for k in (5, 8, 3)]), device)
    lampion.manual_seed(3)
    assert bits(lampion.rand(40, device=device)) != bits(lampion.rand(40, device=device))


def test_the_counter_carries(device):
    def draw(where):
        g = lampion.Generator(where).manual_seed(7)
        g.set_offset(2**32 - 2)
        return lampion.rand(37, generator=g, device=where)

    alike(draw, device)


def test_a_state_can_be_kept(device):
    g = lampion.Generator(device).manual_seed(11)
    lampion.rand(3, generator=g, device=device)
    state = g.get_state()
    first = bits(lampion.randn(9, generator=g, device=device))
    g.set_state(state)
    assert bits(lampion.randn(9, generator=g, device=device)) == first
