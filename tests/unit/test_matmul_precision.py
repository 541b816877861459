"""The setting `float32_matmul_precision`, and that changing it plans calls afresh."""

from __future__ import annotations

import pytest

import lampion
from lampion import config, replay
from lampion.ops import registry
from lampion.ops.contract import matmul


@pytest.fixture(autouse=True)
def restored():
    yield
    config.unset("float32_matmul_precision")
    registry.forget_plans()


def test_the_default_is_exact():
    assert lampion.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("level", ["high", "medium", "highest"])
def test_what_was_set_is_read(level):
    lampion.set_float32_matmul_precision(level)
    assert lampion.get_float32_matmul_precision() == config.get("float32_matmul_precision") == level


def test_an_unknown_word_changes_nothing():
    lampion.set_float32_matmul_precision("high")
    with pytest.raises(ValueError, match="'fast'"):
        lampion.set_float32_matmul_precision("fast")
    with pytest.raises(RuntimeError, match="expects a str, but got int"):
        lampion.set_float32_matmul_precision(3)
    assert lampion.get_float32_matmul_precision() == "high"


def test_a_change_plans_calls_afresh():
    a = lampion.ones(2, 2)
    a @ a
    op = registry.REGISTRY[matmul.qualname]
    assert op.plans
    lampion.set_float32_matmul_precision("highest")  # no change
    assert op.plans
    lampion.set_float32_matmul_precision("high")
    assert not op.plans
    assert (a @ a).tolist() == [[2, 2], [2, 2]]


def test_a_change_forgets_replays():
    @replay.replayed
    def twice(x, y):
        return lampion.mm(lampion.mm(x, y), y)

    a = lampion.ones(2, 2)
    for _ in range(3):
        twice(a, a)
    traces = registry.plan_holders[-1]
    assert traces
    lampion.set_float32_matmul_precision("high")
    assert not traces
    assert twice(a, a).tolist() == [[4, 4], [4, 4]]
