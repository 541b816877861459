"""The ops that are tested, with what their values are compared with; none else says so.

Imports the registry and the references. An op plug-in that is installed takes part, with the
references in its blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lampion import config, fallbacks, plugins, reset_fallbacks
from lampion.nn import functional
from lampion.ops import registry
from lampion.ops.plans import backend_of
from lampion.runtime.devices import resolve

from .references import REFERENCE

plugins.load_ops(registry)

# Ops that have no value to compare with, and why.
FACTORS = "determined up to signs, phases or order, or of symmetric matrices only"
FACTORED = """
    cholesky cholesky_inverse geqrf linalg_cholesky linalg_cholesky_ex linalg_eig linalg_eigh
    linalg_eigvals linalg_eigvalsh linalg_householder_product linalg_inv_ex linalg_ldl_factor
    linalg_ldl_factor_ex linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor
    linalg_lu_factor_ex linalg_lu_solve linalg_qr linalg_svd lu lu_solve lu_unpack orgqr ormqr
    pca_lowrank qr svd svd_lowrank triangular_solve
"""
DRAWS = "draws numbers"
FACT = "a fact about dtypes, not about values"
EXCLUDED = {
    **dict.fromkeys(FACTORED.split(), FACTORS),
    **dict.fromkeys(("bernoulli", "binomial", "multinomial", "poisson", "dropout",
                     "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
                     "native_dropout", "_standard_gamma", "_standard_gamma_grad",
                     "_sample_dirichlet"), DRAWS),
    "can_cast": FACT, "result_type": FACT,
}
# Ops whose kernels stand for those of all others, where not everything can be run.
STANDING = frozenset([
    "add", "div", "pow", "where", "clamp", "exp", "sin", "tanh", "erf", "complex", "sum", "amax",
    "prod", "logsumexp", "var", "cumsum", "softmax", "layer_norm", "cross_entropy", "matmul",
    "conv2d", "max_pool2d", "gather", "scatter_add", "index_select", "sort", "cat", "flip", "pad",
    "permute"])


def public(op: Any) -> bool:
    """Whether people call this op by name; the others are parts of public ones."""
    return bool(op.where or op.method or op.namespace or op.samples
                or hasattr(functional, op.name))


def reference(op: Any) -> Any:
    """The NumPy function that the op is compared with."""
    return op.reference or REFERENCE.get(op.qualname)


PUBLIC = [op for op in registry.REGISTRY.values() if public(op)]
TESTED = [op for op in PUBLIC if op.qualname not in EXCLUDED]


@contextmanager
def host_functions(device: str) -> Iterator[list[str]]:
    """Allow the fallback of ops that are functions of the host, where a device cannot call them,
    and of no others (AssertionError). The names of those that fell back are in the list that it
    gives, at the end."""
    here = resolve(device)
    fell: list[str] = []
    if "host-functions" in backend_of(here).capabilities(here.index or 0).features:
        yield fell
        return
    config.set("fallback.policy", "allow")
    try:
        yield fell
        fell += sorted({entry.op for entry in fallbacks()})
        assert all(registry.REGISTRY[name].host for name in fell), fell
    finally:
        config.unset("fallback.policy")
        reset_fallbacks()
