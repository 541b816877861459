"""L2: every public op by whatever path the device takes, against NumPy; in-place and out= forms.

Ops that are functions of the host may run there if the device cannot call them; the report names
them, and a device where there are any has no L2. Installed op plug-ins take part.
"""

from __future__ import annotations

import pytest

from lampion.testing import op_checks

from .subjects import STANDING, TESTED, host_functions, reference

COMPLETE = [op for op in TESTED if reference(op) is not None]


@pytest.mark.parametrize("op", COMPLETE, ids=lambda op: op.qualname)
def test_values(device, quick, record_property, op):
    limit = None if not quick else 3 if op.qualname in STANDING else 1
    with host_functions(device) as fell:
        run = op_checks.check_values(op, device, reference(op), limit)
    record_property("elsewhere", fell)
    if not run:
        pytest.skip("the device has none of the dtypes of the samples")


@pytest.mark.parametrize("op", [
    pytest.param(op, id=op.qualname, marks=() if op.qualname in STANDING else pytest.mark.full)
    for op in COMPLETE if op.out or op.inplace])
def test_forms(device, quick, op):
    with host_functions(device):
        op_checks.check_forms(op, device, 1 if quick else None)
