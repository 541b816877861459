"""L2: first and second derivatives of every op against central differences, in float64.

Without float64 on the device there is nothing to difference: the gradients of a network are then
in the chapter on training.
"""

from __future__ import annotations

import pytest

import lampion
from lampion.testing import op_checks

from .subjects import STANDING, TESTED, host_functions


@pytest.mark.parametrize("op", [
    pytest.param(op, id=op.qualname, marks=() if op.qualname in STANDING else pytest.mark.full)
    for op in TESTED])
def test_gradients(device, caps, quick, op):
    """Elementwise ops share one rule for layouts and broadcasting, which `add` and `where` stand
    for: of the others two samples show the formula."""
    few = op.kind == "elementwise" and op.qualname not in ("add", "where")
    with host_functions(device):
        run = op_checks.check_gradients(op, device, limit=1 if quick else 2 if few else None)
    if not run:
        pytest.skip("no sample with a floating tensor in dtypes of the device")


def test_gradients_flow_between_devices(device):
    x = lampion.ones(3, requires_grad=True, device="cpu")
    y = (x * 2).to(device)
    (y * y).sum().backward()
    assert x.grad.device.type == "cpu" and x.grad.tolist() == [8.0, 8.0, 8.0]


def test_gradients_add_up_on_the_device(device):
    x = lampion.ones(3, device=device, requires_grad=True)
    for _ in range(2):
        (x * 3).sum().backward()
    assert x.grad.device == x.device and x.grad.tolist() == [6.0, 6.0, 6.0]
