"""Every public op on every installed device, from the samples in its block: values, dtypes and
shapes against its reference, in-place and out= forms, gradients to order 2 against differences.

What is checked, and how, is in `lampion.testing.op_checks`; op plug-ins that are installed take
part. The host, the reference device and devices named in LAMPION_TEST_DEVICES (`make conformance
DEVICE=...`) run everything. Others compile each kernel for a good part of a second: they run the
first sample of every op, and the forms and gradients of some, whose kernels stand for the rest.
"""

from __future__ import annotations

from typing import Any

import pytest
from devices import thorough, wanted_devices
from references import REFERENCE

from lampion import plugins
from lampion.nn import functional
from lampion.ops import registry
from lampion.testing import op_checks

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
EXCLUDED = {
    **dict.fromkeys(FACTORED.split(), FACTORS),
    "can_cast": "a fact about dtypes, not about values; tests/ops/test_elementwise.py::test_facts",
    "result_type": "a fact about dtypes, not about values; tests/ops/test_elementwise.py",
}
# Still to be given samples and a reference. This list only shrinks.
PENDING = frozenset("""
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d addbmm addmm addmv addr alpha_dropout avg_pool1d
    avg_pool2d avg_pool3d baddbmm batch_norm bernoulli binary_cross_entropy
    binary_cross_entropy_with_logits bmm chain_matmul channel_shuffle chebyshev_polynomial_t
    chebyshev_polynomial_u chebyshev_polynomial_v chebyshev_polynomial_w constant_pad_nd conv1d
    conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution cross
    cross_entropy dot dropout einsum feature_alpha_dropout feature_dropout fold gammainc
    gammaincc ger group_norm hermite_polynomial_h hermite_polynomial_he huber_loss inner
    instance_norm interpolate kl_div kron l1_loss laguerre_polynomial_l layer_norm
    legendre_polynomial_p linalg_cross linear local_response_norm matmul matrix_power max_pool1d
    max_pool2d max_pool3d mm mse_loss multi_dot multinomial mv mvlgamma native_channel_shuffle
    native_dropout nll_loss one_hot outer pad pixel_shuffle pixel_unshuffle poisson polygamma
    polygamma_method rms_norm scaled_dot_product_attention select_scatter_into
    shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v
    shifted_chebyshev_polynomial_w slice_scatter_into smooth_l1_loss squeeze_dims tensordot
    unfold_backward unfold_windows vdot vecdot view_as_shape
""".split())


# What stands for the gradients and forms of all ops on devices that are not run thoroughly.
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
TESTED = [op for op in PUBLIC if op.qualname not in EXCLUDED and op.qualname not in PENDING]


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
    assert not lacking, "\n".join(f"{k} lacks {', '.join(v)}" for k, v in lacking.items())


def test_the_lists_name_ops_that_lack_something() -> None:
    names = {op.qualname for op in PUBLIC}
    assert EXCLUDED.keys() <= names and names >= PENDING
    done = [op.qualname for op in PUBLIC if op.qualname in PENDING
            and not op_checks.missing_parts(op, reference(op))]
    assert not done, f"take these out of PENDING: {' '.join(done)}"


@on_devices(TESTED)
def test_values(op: Any, device: str) -> None:
    run = op_checks.check_values(op, device, reference(op), None if thorough(device) else 1)
    if not run:
        pytest.skip(f"{device} has none of the dtypes of the samples")


@on_devices([op for op in TESTED if op.out or op.inplace], ELSEWHERE)
def test_forms(op: Any, device: str) -> None:
    op_checks.check_forms(op, device, None if thorough(device) else 1)


@on_devices(TESTED, ELSEWHERE)
def test_gradients(op: Any, device: str) -> None:
    """Elementwise ops share one rule for layouts and broadcasting: two samples show a formula."""
    if thorough(device):
        few = op.kind == "elementwise" and op.qualname not in ELSEWHERE
        op_checks.check_gradients(op, device, limit=2 if few else None)
    else:
        op_checks.check_gradients(op, device, order=1, limit=1)
