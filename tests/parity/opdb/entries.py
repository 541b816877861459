"""The entries of op_db: what they are called, their families, what is left out, their samples."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.special
import torch

# Entries that mean nothing outside PyTorch, with the reason.
LEFT_OUT = {
    "jiterator_unary": "compiles CUDA source text",
    "jiterator_binary": "compiles CUDA source text",
    "jiterator_4inputs_with_extra_args": "compiles CUDA source text",
    "jiterator_binary_return_by_ref": "compiles CUDA source text",
    "jiterator_2inputs_2outputs": "compiles CUDA source text",
    "to_sparse": "sparse layouts",
    "sparse.sampled_addmm": "sparse layouts",
    "sparse.mm": "sparse layouts",
    "torch._scaled_mm": "private: 8-bit product of CUDA",
    "torch._scaled_mm_v2": "private: 8-bit product of CUDA",
    "torch.ops.aten._efficient_attention_forward": "private: a CUDA kernel",
    "torch.ops.aten._flash_attention_forward": "private: a CUDA kernel",
    "torch.ops.aten._safe_softmax.default": "private: a step of scaled_dot_product_attention",
    "_chunk_cat": "private: a step of sharded training",
    "_segment_reduce": "private: prototype",
    "_batch_norm_with_update": "private: a duplicate of batch_norm",
    "_native_batch_norm_legit": "private: a duplicate of native_batch_norm",
    "_softmax_backward_data": "private: the gradient of softmax",
    "_unsafe_masked_index": "private: a step of the compiler's padding",
    "_unsafe_masked_index_put_accumulate": "private: a step of the compiler's padding",
}

# Checks of entries in which PyTorch itself is wrong, with the reason; with a third word, only that
# kind of out= tensors.
EXCUSED: dict[tuple[str, ...], str] = {
    ("as_strided_scatter", "grad"): "PyTorch gives the gradient of input to what src replaced",
    ("as_strided_scatter", "gradgrad"): "likewise",
    ("fft.ihfft2", "out"): "PyTorch leaves out= as it is if one dim is transformed",
    ("fft.ihfftn", "out"): "likewise",
    ("native_batch_norm", "out", "larger"): "PyTorch does not resize the statistics of evaluation",
    ("masked.logaddexp", "gradgrad"): "PyTorch gives NaN where both are masked out",
    ("masked.logaddexp", "forward_mode"): "likewise",
}

# Entries in whose float64 PyTorch has float32's accuracy: functions that are exact.
EXACT: dict[str, Any] = {
    f"special.{name}": getattr(scipy.special, name.removeprefix("bessel_"))
    for name in ("bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1")}

# Entries that tell where values are: among equal ones PyTorch promises no position (unless asked
# for a stable order). For each, which argument after the input is the dim.
POSITIONS = {"sort": 0, "argsort": 0, "mode": 0, "topk": 1, "kthvalue": 1}

# Entries whose values are random: their distribution is compared.
RANDOM = frozenset("""
    bernoulli cauchy exponential geometric log_normal multinomial normal rand_like randint
    randint_like randn randn_like uniform nn.functional.dropout nn.functional.dropout2d
    nn.functional.dropout3d nn.functional.alpha_dropout nn.functional.feature_alpha_dropout
    nn.functional.fractional_max_pool2d nn.functional.fractional_max_pool3d nn.functional.rrelu
    svd_lowrank pca_lowrank
""".split())
# Of these, those that draw one number for a whole channel, and how many dims that has (None: all
# but the first two).
BY_CHANNEL = {"nn.functional.dropout2d": 2, "nn.functional.dropout3d": 3,
              "nn.functional.feature_alpha_dropout": None}
# Entries whose values are arbitrary: dtype and shape are compared, and strides.
UNINITIALIZED = frozenset("""empty empty_like empty_permuted empty_strided new_empty
    new_empty_strided""".split())

_CREATION = frozenset("""arange empty empty_like empty_permuted empty_strided eye fill full
    full_like linspace logspace new_empty new_empty_strided new_full new_ones new_zeros ones
    ones_like scalar_tensor tril_indices triu_indices zeros zeros_like zero_ complex polar
    """.split())
_CONVERSION = frozenset("""bfloat16 bool byte cdouble cfloat chalf char double float half int long
    short to item contiguous clone""".split())
_INDEXING = frozenset("""__getitem__ argwhere bucketize gather index_add index_copy index_fill
    index_put index_reduce index_select masked_fill masked_scatter masked_select nonzero
    nonzero_static put scatter scatter_add scatter_reduce searchsorted select_scatter
    slice_scatter diagonal_scatter as_strided_scatter take take_along_dim where
    unravel_index isin""".split())
_REDUCTION = frozenset("""aminmax cummax cummin cumprod cumsum cumulative_trapezoid logcumsumexp
    logsumexp max min median nanmedian mode kthvalue quantile nanquantile norm std std_mean var
    var_mean sum_to_size histc histogram histogramdd bincount unique unique_consecutive sort
    argsort msort topk trapezoid trapz allclose equal hash_tensor dist corrcoef cov
    softmax log_softmax renorm""".split())
_LINALG = frozenset("""addbmm addmm addmv addr baddbmm bmm cdist cholesky cholesky_inverse
    cholesky_solve cross dot einsum geqrf inner kron logdet lu lu_solve lu_unpack matmul matrix_exp
    mm mv ormqr outer pinverse qr svd tensordot trace triangular_solve vdot svd_lowrank
    pca_lowrank __rmatmul__ cholesky_inverse""".split())


def function_of(op: Any) -> Any:
    """PyTorch's function of an entry."""
    # the entry rand_like calls randn_like
    return torch.rand_like if op.name == "rand_like" else op.op


def all_entries() -> list[Any]:
    """PyTorch's list, without what is left out."""
    return [op for op in _op_db() if op.name not in LEFT_OUT]


@lru_cache(1)
def _op_db() -> list[Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    return list(op_db)


def full_name(op: Any) -> str:
    """The entry's name, with that of its variant: two entries may share a name."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def family(op: Any) -> str:
    """Which group of operators an entry belongs to."""
    name, kind = op.name, type(op).__name__
    for prefix in ("linalg", "fft", "special", "masked", "signal", "nn.functional"):
        if name.startswith(prefix + "."):
            return prefix
    for table, label in ((_LINALG, "linalg"), (_CREATION, "creation"), (RANDOM, "random"),
                         (_CONVERSION, "conversion"), (_INDEXING, "indexing"),
                         (_REDUCTION, "reduction")):
        if name in table:
            return label
    if name in ("stft", "istft"):
        return "signal"
    if kind == "ReductionOpInfo":
        return "reduction"
    if kind == "UnaryUfuncInfo":
        return "unary"
    if kind == "BinaryUfuncInfo" or name.startswith("__"):
        return "binary"
    if name.startswith("native_") or name in ("grid_sampler_2d", "grid_sampler_3d",
                                              "max_pool2d_with_indices_backward",
                                              "constant_pad_nd", "_upsample_bilinear2d_aa"):
        return "nn.functional"
    if name in ("addcdiv", "addcmul", "lerp", "clamp", "frexp", "nan_to_num", "mvlgamma"):
        return "elementwise"
    return "shape"


def seed_all(seed: int) -> None:
    """Seed every generator that samples are drawn from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def samples(op: Any, dtype: torch.dtype, count: int, seed: int, *, grad: bool = False,
            reference: bool = False) -> Iterator[tuple[int, Any]]:
    """Up to `count` samples of an entry with their numbers, spread over its list."""
    seed_all(seed)
    make = op.reference_inputs if reference else op.sample_inputs
    found = list(make("cpu", dtype, requires_grad=grad, set_seed=False))
    chosen = range(len(found))
    if 0 < count < len(found):
        chosen = sorted(random.Random(seed).sample(chosen, count))
    for k in chosen:
        yield k, found[k]


def error_samples(op: Any, count: int, seed: int) -> list[tuple[int, Any]]:
    """The calls of an entry that must raise, with their numbers."""
    if op.error_inputs_func is None:
        return []
    seed_all(seed)
    found = list(op.error_inputs("cpu", set_seed=False))
    return list(enumerate(found))[:count or None]
