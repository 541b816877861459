"""`lampion.testing.op_checks` finds what is wrong with an op, and passes what is right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import lampion
from lampion.ops.registry import REGISTRY, composite, kernel_op, namespace
from lampion.ops.samples import Sample, T, draw, parse
from lampion.testing import op_checks


@contextmanager
def declared(fn: Any, **options: Any) -> Iterator[Any]:
    """A composite of its own namespace, for as long as the test runs."""
    with namespace("checked"):
        op = composite(fn, **options)
    try:
        yield op
    finally:
        del REGISTRY[op.qualname]


def doubled(input):
    return input * 2.0


GOOD = {"samples": "f(2, 3)\nf(3, 4).transposed\nf(0)\nf()", "reference": lambda x: 2 * x}


def test_a_right_op_passes(device):
    with declared(doubled, **GOOD) as op:
        op_checks.check_op(op, device)
        assert op_checks.ops_of("checked") == [op]
        assert op_checks.check_values(op, device) == 4
        assert op_checks.check_values(op, device, limit=1) == 1
    with pytest.raises(ValueError, match="checked"):
        op_checks.ops_of("checked")


@pytest.mark.parametrize(("change", "words"), [
    ({"reference": lambda x: 3 * x}, "Not equal"),
    ({"reference": lambda x: 2 * x.reshape(-1)}, "shape"),
    ({"reference": lambda x: (2 * x).astype(np.float16)}, "float32, not float16"),
    ({"reference": lambda x: (2 * x, x)}, "1 results, not 2"),
    ({"reference": None}, "lacks reference"), ({"samples": None}, "lacks samples"),
    ({"samples": "i(3)"}, "gradient"), ({"samples": "f(3"}, "open bracket"),
    ({"samples": "g(3)"}, "'g' is not defined"),
    ({"differentiable": False}, "declared not differentiable"),
])
def test_what_a_block_gets_wrong_is_named(change, words):
    with declared(doubled, **{**GOOD, **change}) as op, pytest.raises(AssertionError, match=words):
        op_checks.check_op(op)


@pytest.mark.parametrize(("slope", "words"), [
    (lambda x, g: g * x, "derivative is"), (lambda x, g: g * 2 * x.detach(), "second order"),
])
def test_wrong_gradients_are_found(slope, words):
    class Square(lampion.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            return slope(*ctx.saved_tensors, g)

    def squared(input):
        return Square.apply(input)

    with declared(squared, samples="f(3)") as op, pytest.raises(AssertionError, match=words):
        op_checks.check_gradients(op)


def test_a_changed_input_is_found():
    def careless(input):
        return input.mul_(2.0)

    with declared(careless, **GOOD) as op, pytest.raises(AssertionError, match="changed its input"):
        op_checks.check_values(op)


def test_samples_cost_nothing_at_import():
    code = "import sys, lampion; sys.exit('lampion.ops.samples' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_text_and_objects_say_the_same():
    text = parse("""
        f(2, 3), dim=(0, -1)   # a comment
        [i(4, low=0, high=3),
         v([True, False])], float64
    """)
    assert text[0] == Sample(T((2, 3)), dim=(0, -1))
    assert text[1] == Sample([T((4,), "int64", 0, 3), T((2,), "bool", values=[True, False])],
                             lampion.float64)


def test_bounds_may_differ_along_the_last_dim():
    for layout in ("contiguous", "transposed", "strided", "offset"):
        (sample,) = parse(f"f(50, 3, low=[0, 5, -2], high=[1, 6, -2]).{layout}".replace(
            ".contiguous", ""))
        drawn = draw(sample.args[0], np.random.default_rng(0)).array()
        assert drawn.shape == (50, 3) and drawn.strides[-1] > 0
        assert (drawn[:, 0] >= 0).all() and (drawn[:, 0] <= 1).all()
        assert (drawn[:, 1] >= 5).all() and np.ptp(drawn[:, 1]) > 0.5
        assert (drawn[:, 2] == -2).all()
    (sample,) = parse("i(40, 2, low=[0, 7], high=9)")
    drawn = draw(sample.args[0], np.random.default_rng(0)).array()
    assert drawn[:, 0].min() == 0 and drawn[:, 1].min() == 7 and drawn.max() == 9


def test_slips_in_a_block_are_named():
    class hides:
        save = ("values",)

        def meta(values):
            return [(values.dtype, values.shape)]

        def vjp(ctx, g):
            return g

    with pytest.raises(ValueError, match=r"'hides': ctx.values is a part of every context"):
        kernel_op("values: T", namespace="checked")(hides)

    class miscounts:
        def meta(input):
            return [(input.dtype, input.shape)] * 2

        def lower(call):
            return None

    op = kernel_op("input: T", namespace="checked")(miscounts)
    try:
        with pytest.raises(TypeError, match="describes 2 results, but its block says noutputs = 1"):
            op(lampion.ones(2))
    finally:
        del REGISTRY[op.qualname]
