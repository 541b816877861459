"""Every public op on every installed device, from the samples in its block: values, dtypes and
shapes against its reference, in-place and out= forms, gradients to order 2 against differences.

What is checked, and how, is in `lampion.testing.op_checks`; op plug-ins that are installed take
part. The host, the reference device and devices named in LAMPION_TEST_DEVICES (`make conformance
DEVICE=...`) run everything. Others compile each kernel for a good part of a second: they run the
first sample of every op, and of some, whose kernels stand for the rest, three samples, the forms
and the gradient. Functions of the host run there by a fallback, as a user has to allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from devices import thorough, wanted_devices
from references import REFERENCE

from lampion import config, fallbacks, plugins, reset_fallbacks
from lampion.nn import functional
from lampion.ops import registry
from lampion.ops.plans import backend_of
from lampion.runtime.devices import resolve
from lampion.testing import op_checks, transform_checks

plugins.load_ops(registry)

# Ops that have no value to compare with, and what tests them instead.
FACTORS = "determined up to signs, phases or order, or of symmetric matrices only: test_linalg.py"
FACTORED = """
    cholesky cholesky_inverse geqrf linalg_cholesky linalg_cholesky_ex linalg_eig linalg_eigh
    linalg_eigvals linalg_eigvalsh linalg_householder_product linalg_inv_ex linalg_ldl_factor
    linalg_ldl_factor_ex linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor
    linalg_lu_factor_ex linalg_lu_solve linalg_qr linalg_svd lu lu_solve lu_unpack orgqr ormqr
    pca_lowrank qr svd svd_lowrank triangular_solve
"""
DRAWS = "draws numbers; tests/unit/test_random.py checks their law, their seed and gradients"
FACT = "a fact about dtypes, not about values; tests/ops/test_elementwise.py::test_facts"
EXCLUDED = {
    **dict.fromkeys(FACTORED.split(), FACTORS),
    **dict.fromkeys(("bernoulli", "binomial", "multinomial", "poisson", "dropout",
                     "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
                     "native_dropout"), DRAWS),
    "can_cast": FACT, "result_type": FACT,
}
# What stands for all ops on devices that are not run thoroughly.
ELSEWHERE = frozenset("""
    add div pow where clamp exp sin tanh erf complex sum amax prod logsumexp var cumsum softmax
    layer_norm cross_entropy matmul conv2d max_pool2d gather scatter_add index_select sort cat
    flip pad permute
""".split())


def public(op: Any) -> bool:
    """Whether people call this op by name; the others are parts of public ones."""
    return bool(op.where or op.method or op.namespace or op.samples
                or hasattr(functional, op.name))


PUBLIC = [op for op in registry.REGISTRY.values() if public(op)]
TESTED = [op for op in PUBLIC if op.qualname not in EXCLUDED]


def reference(op: Any) -> Any:
    return op.reference or REFERENCE.get(op.qualname)


def on_devices(ops: list[Any], elsewhere: frozenset[str] | None = None) -> Any:
    """Run a test for every (op, device); where devices are not thorough, only for some ops."""
    pairs = [(op, d) for d in wanted_devices() for op in ops
             if thorough(d) or elsewhere is None or op.qualname in elsewhere]
    return pytest.mark.parametrize("op, device", pairs, indirect=["device"],
                                   ids=[f"{d}-{op.qualname}" for op, d in pairs])


def test_every_public_op_is_complete() -> None:
    lacking = {op.qualname: parts for op in TESTED
               if (parts := op_checks.missing_parts(op, reference(op)))}
    assert not lacking, "see docs/write-ops.md, and tests/ops/references for where references " \
        "go:\n" + "\n".join(f"{k} lacks {', '.join(v)}" for k, v in lacking.items())


def test_excluded_ops_exist() -> None:
    assert EXCLUDED.keys() <= {op.qualname for op in PUBLIC}


@contextmanager
def host_functions(device: str) -> Iterator[None]:
    """Allow the fallback of ops that are functions of the host, where a device cannot call them."""
    here = resolve(device)
    if "host-functions" in backend_of(here).capabilities(here.index or 0).features:
        yield
        return
    config.set("fallback.policy", "allow")
    try:
        yield
        elsewhere = {entry.op for entry in fallbacks()}
        assert all(registry.REGISTRY[name].host for name in elsewhere), elsewhere
    finally:
        config.unset("fallback.policy")
        for entry in fallbacks():
            registry.REGISTRY[entry.op].plans.clear()  # they hold the permission
        reset_fallbacks()


@on_devices(TESTED)
def test_values(op: Any, device: str) -> None:
    limit = None if thorough(device) else 3 if op.qualname in ELSEWHERE else 1
    with host_functions(device):
        run = op_checks.check_values(op, device, reference(op), limit)
    if not run:
        pytest.skip(f"{device} has none of the dtypes of the samples")


@on_devices([op for op in TESTED if op.out or op.inplace], ELSEWHERE)
def test_forms(op: Any, device: str) -> None:
    with host_functions(device):
        op_checks.check_forms(op, device, None if thorough(device) else 1)


@on_devices(TESTED, ELSEWHERE)
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
                                or op.qualname in ELSEWHERE], ids=lambda op: op.qualname)
def test_transforms(op: Any) -> None:
    transform_checks.check_tangents(op, "cpu", limit=2)
    transform_checks.check_batches(op, "cpu", limit=3)
