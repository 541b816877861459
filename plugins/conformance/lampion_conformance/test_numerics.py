"""L2: how exact functions are, in units in the last place; the table is part of the report.

The bounds are those that lampion's expansions keep on every device (docs/accuracy.md).
"""

from __future__ import annotations

import numpy as np
import pytest

import lampion
from lampion.base import dtype as dt
from lampion.ir import accuracy
from lampion.ir.math import BOUNDS
from lampion.ops.registry import REGISTRY

# Without lgamma: the reference device takes Python's, whose error beside the zeros at 1 and 2 is
# small only in absolute terms.
FUNCTIONS = [f for f in sorted(BOUNDS) if f in REGISTRY and f != "lgamma"]


@pytest.mark.parametrize("d", [dt.float32, dt.float64], ids=lambda d: d.name)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_errors_of_functions(device, caps, quick, record_property, function, d):
    if d not in caps.dtypes:
        pytest.skip(f"the device does not claim {d.name}")
    op = getattr(lampion, function)

    def on_device(_, env):
        return op(*[lampion.tensor(a).to(device) for a in env.values()]).cpu().numpy()

    samples = 400 if quick else 4000
    error = accuracy.measure(function, d, samples, evaluate=on_device)
    record_property("ulps", (function, d.name, error))
    bound = BOUNDS[function][0 if d is dt.float32 else 1]
    assert error <= bound, f"{function} of {d.name} is {error:.2f} ulps off, more than {bound:g}"


def test_sums_are_as_exact_as_they_can_be(device):
    a = (np.random.default_rng(0).random(1 << 18) + 0.5).astype(np.float32)
    exact = np.sum(a, dtype=np.longdouble)
    got = lampion.tensor(a).to(device).sum().item()
    assert abs(got - exact) / exact < 3e-7


def test_products_are_as_exact_as_float32(device):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((40, 300), (300, 50)))
    got = (lampion.tensor(a).to(device) @ lampion.tensor(b).to(device)).cpu().numpy()
    exact = a.astype(np.float64) @ b.astype(np.float64)
    size = np.abs(a).astype(np.float64) @ np.abs(b)
    assert (np.abs(got - exact) <= 2e-6 * size).all()
