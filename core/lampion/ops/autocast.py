"""Which ops autocast computes in a lower precision, in float32, or in the widest type given.

The lists are PyTorch's (its "Autocast Op Reference"), by the names of lampion's ops: one for
devices with memory of their own and one for the host, whose reductions keep what they are given.
Ops that are in no list run as they are called. Floor 3; imports nothing.
"""

from __future__ import annotations

_PRODUCTS = """
    addbmm addmm addmv addr baddbmm bmm chain_matmul linalg_multi_dot conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d conv_transpose3d convolution conv_tbc linear matmul mm mv
    scaled_dot_product_attention linalg_vecdot einsum gemm
"""
LOWER = frozenset(f"{_PRODUCTS} prelu".split())
LOWER_ON_HOST = frozenset(_PRODUCTS.split())

_LOSSES = """
    poisson_nll_loss cosine_embedding_loss nll_loss hinge_embedding_loss kl_div l1_loss
    smooth_l1_loss huber_loss mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss
    triplet_margin_loss multi_margin_loss binary_cross_entropy_with_logits cross_entropy ctc_loss
    multilabel_soft_margin_loss gaussian_nll_loss
"""
FLOAT32 = frozenset(f"""
    acos asin cosh erfinv exp expm1 log log10 log2 log1p pow reciprocal rsqrt sinh tan softplus
    layer_norm group_norm rms_norm norm vector_norm matrix_norm linalg_norm linalg_vector_norm
    linalg_matrix_norm cosine_similarity dist pdist cdist renorm logsumexp prod softmax softmin
    log_softmax cumprod cumsum sum normalize logcumsumexp {_LOSSES}
""".split())
FLOAT32_ON_HOST = frozenset(f"""
    avg_pool3d binary_cross_entropy grid_sample polar prod quantile nanquantile stft cdist trace
    view_as_complex cholesky cholesky_inverse cholesky_solve inverse lu_solve orgqr ormqr pinverse
    max_pool3d max_unpool2d max_unpool3d adaptive_avg_pool3d linalg_cond linalg_matrix_rank
    linalg_solve linalg_cholesky linalg_svdvals linalg_eigvals linalg_eigvalsh linalg_inv
    linalg_householder_product linalg_tensorinv linalg_tensorsolve geqrf linalg_qr linalg_svd
    linalg_eig linalg_eigh linalg_lstsq linalg_inv_ex fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn
    fft_ifftn fft_rfft fft_irfft fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn fft_hfft fft_ihfft
    {_LOSSES}
""".split())

WIDEST = frozenset((
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "grid_sample", "index_put",
    "scatter_add", "tensordot", "cat", "stack", "vdot", "index_copy"))
WIDEST_ON_HOST = frozenset(["cat", "stack", "index_copy"])

# Probabilities in float16 underflow: these refuse, on devices whose lower type is float16.
REFUSED = frozenset(("binary_cross_entropy",))


LISTED = LOWER | FLOAT32 | FLOAT32_ON_HOST | WIDEST | REFUSED


def action(name: str, host: bool) -> str:
    """What autocast does with an op: "lower", "float32", "widest", "refuse", or "" for nothing.

    >>> action("matmul", False), action("softmax", False), action("softmax", True)
    ('lower', 'float32', '')
    """
    if name in (LOWER_ON_HOST if host else LOWER):
        return "lower"
    if name in (FLOAT32_ON_HOST if host else FLOAT32):
        return "float32"
    if name in (WIDEST_ON_HOST if host else WIDEST):
        return "widest"
    return "refuse" if name in REFUSED and not host else ""
