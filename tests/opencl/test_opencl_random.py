"""Draws on the device, in both schedules, and on the host have the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from zlib import crc32

import lampion


def fill(name, *numbers, dtype="float32"):
    return lambda d: getattr(lampion.empty(
        101, dtype=getattr(lampion, dtype), device=d), name)(*numbers)


def spread(d):
    return lampion.linspace(0.0, 1.0, 50, device=d)


DRAWS = {
    "rand": lambda d: lampion.rand(101, device=d),
    "randn": lambda d: lampion.randn(101, device=d),
    "randint": lambda d: lampion.randint(2**40, (101,), device=d),
    "randperm": lambda d: lampion.randperm(101, device=d),
    **{f"{name}{numbers}": fill(name, *numbers) for name, numbers in (
        ("uniform_", (-1.0, 3.0)), ("normal_", (0.5, 2.0)), ("exponential_", (1.5,)),
        ("cauchy_", (0.0, 2.0)), ("log_normal_", (0.1, 0.5)), ("geometric_", (0.3,)),
        ("random_", (3, 90)), ("bernoulli_", (0.3,)))},
    "normal in float64": fill("normal_", 0.5, 2.0, dtype="float64"),
    "exponential in float64": fill("exponential_", 1.5, dtype="float64"),
    "cauchy in float64": fill("cauchy_", 0.0, 2.0, dtype="float64"),
    "bernoulli": lambda d: lampion.bernoulli(spread(d)),
    "dropout": lambda d: lampion.dropout(lampion.ones(101, device=d), 0.3, True),
    "poisson": lambda d: lampion.poisson(lampion.arange(50.0, device=d)),
    "binomial": lambda d: lampion.binomial(lampion.arange(50.0, device=d) * 2, spread(d)),
    "multinomial": lambda d: lampion.multinomial(lampion.arange(9.0, device=d), 4, True),
    "multinomial once": lambda d: lampion.multinomial(lampion.arange(9.0, device=d), 5),
}


def digests(device):
    """{draw: checksum of its bytes}, each from one seed."""
    out = {}
    for name, draw in DRAWS.items():
        lampion.manual_seed(9)
        out[name] = crc32(draw(device).cpu().numpy().tobytes())
    return out


def test_draws_equal_the_hosts(backend):  # the fixture skips where there is no driver
    child = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=570,
        env={**os.environ, "LAMPION_BACKEND_OPENCL_SCHEDULE": backend.schedule})
    assert child.returncode == 0, child.stderr
    found = dict(line.split("=") for line in child.stdout.splitlines())
    assert found.pop("schedule") == backend.schedule
    assert found == {name: str(sum_) for name, sum_ in digests("cpu").items()}


if __name__ == "__main__":  # the test's child: one process has one schedule
    for name, checksum in digests("opencl").items():
        print(f"{name}={checksum}")
    print(f"schedule={lampion.config.get('backend.opencl.schedule')}")
