"""Counts of floating-point operations against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.utils.flop_counter

import lampion
import lampion.utils.flop_counter

CASES = {
    "linear": lambda lib: lib.nn.Sequential(lib.nn.Linear(6, 8), lib.nn.ReLU(),
                                            lib.nn.Linear(8, 3))(x(lib, 4, 6)),
    "conv": lambda lib: lib.nn.Conv2d(3, 4, 3, padding=1)(x(lib, 2, 3, 8, 8)),
    "strided groups": lambda lib: lib.nn.Conv2d(4, 8, 3, stride=2, groups=2)(x(lib, 2, 4, 9, 9)),
    "conv1d": lambda lib: lib.nn.Conv1d(3, 4, 5)(x(lib, 2, 3, 16)),
    "transposed": lambda lib: lib.nn.ConvTranspose2d(4, 2, 3)(x(lib, 2, 4, 9, 9)),
    "mm": lambda lib: x(lib, 3, 4) @ x(lib, 4, 5),
    "bmm": lambda lib: lib.bmm(x(lib, 2, 3, 4), x(lib, 2, 4, 5)),
    "baddbmm": lambda lib: lib.baddbmm(x(lib, 2, 3, 5), x(lib, 2, 3, 4), x(lib, 2, 4, 5)),
}


def x(lib, *shape):
    return lib.ones(*shape, requires_grad=True)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_totals(name, backward):
    if backward and "groups" in name:
        pytest.skip("PyTorch counts the gradient of a grouped input once per group")
    found = []
    for lib in (torch, lampion):
        with lib.utils.flop_counter.FlopCounterMode(display=False) as counter:
            out = CASES[name](lib)
            if backward:
                (out * 2).sum().backward()
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0


def test_modules_and_tables():
    net = lampion.nn.Sequential(lampion.nn.Linear(6, 8), lampion.nn.Linear(8, 3))
    with lampion.utils.flop_counter.FlopCounterMode(display=False) as counter:
        net(lampion.ones(4, 6))
    counts = counter.get_flop_counts()
    assert counts["Sequential.0"] == {"linear": 384} and counts["Sequential.1"] == {"linear": 192}
    assert counts["Sequential"] == counts["Global"] == {"linear": 576}
    assert "Sequential.0" in counter.get_table() and "66.67%" in counter.get_table()
