"""Every public op on every installed device, from the samples in its block: values, dtypes and
shapes against its reference, in-place and out= forms, gradients to order 2 against differences.

What is checked, and how, is in `lampion.testing.op_checks`; op plug-ins that are installed take
part. The host, the reference device and devices named in LAMPION_TEST_DEVICES (`make conformance
DEVICE=...`) run everything. Others compile each kernel for a good part of a second: they run the
first sample of every op, and of some, whose kernels stand for the rest, three samples, the forms
and the gradient. Functions of the host run there by a fallback, as a user has to allow.
"""

from __future__ import annotations

from typing import Any

import pytest
from devices import thorough, wanted_devices

from lampion.testing import compile_checks, op_checks, transform_checks
from lampion_conformance.subjects import (
    EXCLUDED,
    PUBLIC,
    STANDING,
    TESTED,
    host_functions,
    reference,
)


def on_devices(ops: list[Any], elsewhere: frozenset[str] | None = None) -> Any:
    """Run a test for every (op, device); where devices are not thorough, only for some ops."""
    pairs = [(op, d) for d in wanted_devices() for op in ops
             if thorough(d) or elsewhere is None or op.qualname in elsewhere]
    return pytest.mark.parametrize("op, device", pairs, indirect=["device"],
                                   ids=[f"{d}-{op.qualname}" for op, d in pairs])


def test_every_public_op_is_complete() -> None:
    lacking = {op.qualname: parts for op in TESTED
               if (parts := op_checks.missing_parts(op, reference(op)))}
    said = "\n".join(f"{k} lacks {', '.join(v)}" for k, v in lacking.items())
    assert not lacking, "see docs/write-ops.md, and for where references go " \
        f"plugins/conformance/lampion_conformance/references:\n{said}"


def test_excluded_ops_exist() -> None:
    assert EXCLUDED.keys() <= {op.qualname for op in PUBLIC}


@on_devices(TESTED)
def test_values(op: Any, device: str) -> None:
    limit = None if thorough(device) else 3 if op.qualname in STANDING else 1
    with host_functions(device):
        run = op_checks.check_values(op, device, reference(op), limit)
    if not run:
        pytest.skip(f"{device} has none of the dtypes of the samples")


@on_devices([op for op in TESTED if op.out or op.inplace], STANDING)
def test_forms(op: Any, device: str) -> None:
    with host_functions(device):
        op_checks.check_forms(op, device, None if thorough(device) else 1)


@on_devices(TESTED, STANDING)
def test_gradients(op: Any, device: str) -> None:
    """Elementwise ops share one rule for layouts and broadcasting, which `add` and `where` stand
    for: of the others two samples show the formula."""
    few = op.kind == "elementwise" and op.qualname not in ("add", "where")
    with host_functions(device):
        if thorough(device):
            op_checks.check_gradients(op, device, limit=2 if few else None)
        else:
            op_checks.check_gradients(op, device, order=1, limit=1)


# Composites, elementwise ops and views have tangents and batches by their kind; what a kernel op
# declares about itself may be wrong. The host stands for all devices: transforms only call ops.
@pytest.mark.parametrize("op", [op for op in TESTED if op.kind in ("kernel", "view")
                                or op.qualname in STANDING], ids=lambda op: op.qualname)
def test_transforms(op: Any) -> None:
    transform_checks.check_tangents(op, "cpu", limit=2)
    transform_checks.check_batches(op, "cpu", limit=3)


@pytest.mark.parametrize("op", TESTED, ids=lambda op: op.qualname)
def test_compiled(op: Any) -> None:
    compile_checks.check_compiled(op, limit=1)
