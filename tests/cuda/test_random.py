"""Random numbers on the CUDA device are those of the CPU for the same seed, bit for bit."""

import numpy as np
import pytest

import lampion as torch

pytestmark = pytest.mark.usefixtures("gpu")

DRAWS = {
    "rand": lambda d: torch.rand(3000, device=d),
    "rand of float64": lambda d: torch.rand(40, 5, dtype=torch.float64, device=d),
    "rand of bfloat16": lambda d: torch.rand(301, dtype=torch.bfloat16, device=d).float(),
    "randint": lambda d: torch.randint(-5, 1000, (3000,), device=d),
    "randint of a wide range": lambda d: torch.randint(0, 1 << 40, (300,), device=d),
    "randperm": lambda d: torch.randperm(5000, device=d),
    "bernoulli": lambda d: torch.bernoulli(torch.full((3000,), 0.3, device=d)),
    "dropout": lambda d: torch.nn.functional.dropout(torch.ones(3000, device=d), 0.25),
    "random_": lambda d: torch.zeros(300, dtype=torch.int32, device=d).random_(0, 77),
    "multinomial": lambda d: torch.multinomial(torch.arange(1.0, 50, device=d), 200, True),
    "randn": lambda d: torch.randn(3000, device=d),
    "randn of float64": lambda d: torch.randn(300, dtype=torch.float64, device=d),
    "normal": lambda d: torch.normal(2.0, 3.0, (300,), device=d),
    "exponential": lambda d: torch.zeros(3000, device=d).exponential_(1.5),
    "log_normal": lambda d: torch.zeros(300, device=d).log_normal_(0, 0.5),
    "cauchy": lambda d: torch.zeros(300, device=d).cauchy_(),
    "geometric": lambda d: torch.zeros(300, device=d).geometric_(0.3),
}


def both(draw):
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(1234)
        draw(device)  # the second draw goes on from the first
        found.append(draw(device).cpu().numpy())
    return found


@pytest.mark.parametrize("name", DRAWS)
def test_the_same_bits(name):
    here, there = both(DRAWS[name])
    np.testing.assert_array_equal(there, here)
