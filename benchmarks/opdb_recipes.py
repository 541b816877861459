"""Recipes: the arguments of the ops whose arguments are not simply one or two tensors.

By family, then by the entry's name ("name" or "name/variant").
"""

from __future__ import annotations

import torch
from opdb_tensors import (
    SMALL,
    Call,
    Recipe,
    Sizes,
    b,
    call,
    f,
    i,
    p,
    perm,
    regular,
    spd,
    table,
    z,
)


def _images(s: Sizes, dims: int) -> torch.Tensor:
    edge = {1: s.l, 2: s.h, 3: 4 if s is SMALL else 16}[dims]
    return f(s.b, s.ch, *(edge,) * dims)


def _kernel(s: Sizes, dims: int) -> torch.Tensor:
    return f(s.ch, s.ch, *(3,) * dims)


def _unpool(dims: int) -> Recipe:
    def recipe(s: Sizes) -> Call:
        pool = getattr(torch.nn.functional, f"max_pool{dims}d")
        values, where = pool(_images(s, dims), 2, return_indices=True)
        return call(values, where, 2)

    return recipe


def _attention(s: Sizes) -> Call:
    e, heads = s.e, 2 if s is SMALL else 8
    x = f(s.l, s.b, e)
    return call(
        x,
        x,
        x,
        e,
        heads,
        f(3 * e, e, low=-0.1, high=0.1),
        f(3 * e),
        None,
        None,
        False,
        0.0,
        f(e, e, low=-0.1, high=0.1),
        f(e),
        need_weights=False,
    )


def _ctc(s: Sizes) -> Call:
    classes, length = (4, 2) if s is SMALL else (50, 20)
    return call(
        f(s.l, s.b, classes).log_softmax(-1),
        i(s.b, length, low=1, high=classes),
        torch.full((s.b,), s.l),
        torch.full((s.b,), length),
    )


def _lines(s: Sizes, dims: int, mode: str) -> Call:
    return call(
        _images(s, dims),
        scale_factor=2.0,
        mode=mode,
        **({} if "nearest" in mode or mode == "area" else {"align_corners": False}),
    )


def _index_rows(s: Sizes) -> torch.Tensor:
    return perm(s.r)


def _scatter_index(s: Sizes) -> torch.Tensor:
    return i(s.r, s.c, high=s.c)


RECIPES: dict[str, dict[str, Recipe]] = {
    "elementwise": {
        "imag": lambda s: call(z(s.n)),
        "real": lambda s: call(z(s.n)),
        "view_as_real": lambda s: call(z(s.n)),
        "view_as_complex": lambda s: call(f(s.n, 2)),
        "resolve_conj": lambda s: call(z(s.n)),
        "nn.functional.silu/complex": lambda s: call(z(s.n)),
        "nn.functional.prelu": lambda s: call(f(s.b, s.ch, s.n // s.b // s.ch), f(s.ch)),
        "nn.functional.threshold": lambda s: call(f(s.n), 0.1, 2.0),
        "nn.functional.leaky_relu": lambda s: call(f(s.n), 0.2),
        "mvlgamma/mvlgamma_p_1": lambda s: call(f(s.n, low=3, high=6), 1),
        "mvlgamma/mvlgamma_p_3": lambda s: call(f(s.n, low=3, high=6), 3),
        "mvlgamma/mvlgamma_p_5": lambda s: call(f(s.n, low=3, high=6), 5),
        "round/decimals_0": lambda s: call(f(s.n), decimals=0),
        "round/decimals_3": lambda s: call(f(s.n), decimals=3),
        "round/decimals_neg_3": lambda s: call(f(s.n), decimals=-3),
        **{
            f"polygamma/polygamma_n_{k}": (lambda s, k=k: call(k, f(s.n, low=0.2, high=4)))
            for k in range(5)
        },
        "special.polygamma/special_polygamma_n_0": lambda s: call(0, f(s.n, low=0.2, high=4)),
        "fill": lambda s: call(f(s.n), 1.0),
        "logit": lambda s: call(p(s.n), 1e-6),
        "complex": lambda s: call(f(s.n), f(s.n)),
        "polar": lambda s: call(p(s.n), f(s.n)),
        "div/trunc_rounding": lambda s: call(f(s.n), p(s.n), rounding_mode="trunc"),
        "div/floor_rounding": lambda s: call(f(s.n), p(s.n), rounding_mode="floor"),
        "pow": lambda s: call(f(s.n, low=0.1), f(s.n)),
        "__rpow__": lambda s: call(f(s.n), 2.0),
        "float_power": lambda s: call(f(s.n, low=0.1), f(s.n)),
        "__radd__": lambda s: call(f(s.n), 2.0),
        "__rdiv__": lambda s: call(p(s.n), 2.0),
        "__rmul__": lambda s: call(f(s.n), 2.0),
        "__rmod__": lambda s: call(p(s.n), 2.0),
        "__rsub__": lambda s: call(f(s.n), 2.0),
        "__rmatmul__": lambda s: call(f(s.m, s.m), f(s.m, s.m)),
        "igamma": lambda s: call(f(s.n, low=0.2, high=4), f(s.n, low=0.2, high=4)),
        "igammac": lambda s: call(f(s.n, low=0.2, high=4), f(s.n, low=0.2, high=4)),
        "special.zeta": lambda s: call(f(s.n, low=1.2, high=4), f(s.n, low=0.2, high=4)),
        "ldexp": lambda s: call(f(s.n), i(s.n)),
        "clamp": lambda s: call(f(s.n), -0.5, 0.5),
        "addcmul": lambda s: call(f(s.n), f(s.n), f(s.n), value=0.5),
        "addcdiv": lambda s: call(f(s.n), f(s.n), p(s.n), value=0.5),
        "lerp": lambda s: call(f(s.n), f(s.n), 0.3),
        "where": lambda s: call(b(s.n), f(s.n), f(s.n)),
        "masked_fill": lambda s: call(f(s.n), b(s.n), 0.5),
        "masked_select": lambda s: call(f(s.n), b(s.n)),
        "masked_scatter": lambda s: call(f(s.n), b(s.n), f(s.n)),
        "isclose": lambda s: call(f(s.n), f(s.n)),
        "allclose": lambda s: call(*(f(s.n),) * 2),
        "equal": lambda s: (lambda x: call(x, x.clone()))(f(s.n)),
        "nn.functional.glu": lambda s: call(f(s.r, s.c)),
        "nn.functional.gelu": lambda s: call(f(s.n)),
        "nn.functional.hardswish": lambda s: call(f(s.n)),
        "item": lambda s: call(f(1)),
        "to": lambda s: call(f(s.n), torch.float64),
        "scalar_tensor": lambda s: call(3.0),
    },
    "random": {
        "cauchy": lambda s: call(f(s.n)),
        "exponential": lambda s: call(f(s.n)),
        "geometric": lambda s: call(f(s.n), 0.5),
        "log_normal": lambda s: call(f(s.n)),
        "uniform": lambda s: call(f(s.n)),
        "normal/in_place": lambda s: call(f(s.n)),
        "normal": lambda s: call(f(s.n), p(s.n)),
        "normal/number_mean": lambda s: call(0.5, p(s.n)),
        "bernoulli": lambda s: call(p(s.n)),
        "multinomial": lambda s: call(p(s.r, s.c), 1),
        "randn": lambda s: call(s.n),
        "rand": lambda s: call(s.n),
        "randint": lambda s: call(10, (s.n,)),
        "rand_like": lambda s: call(f(s.n)),
        "randn_like": lambda s: call(f(s.n)),
        "randint_like": lambda s: call(f(s.n), 10),
        **{
            f"nn.functional.{k}": (lambda s: call(f(s.r, s.c), 0.5))
            for k in ("dropout", "alpha_dropout", "feature_alpha_dropout/with_train")
        },
        "nn.functional.feature_alpha_dropout/without_train": lambda s: call(
            f(s.r, s.c), 0.5, training=False
        ),
        "nn.functional.dropout2d": lambda s: call(_images(s, 2), 0.5),
        "nn.functional.dropout3d": lambda s: call(_images(s, 3), 0.5),
    },
    "factories": {
        "empty": lambda s: call(s.n),
        "zeros": lambda s: call(s.n),
        "ones": lambda s: call(s.n),
        "full": lambda s: call((s.n,), 2.0),
        "eye": lambda s: call(s.m),
        "arange": lambda s: call(s.n),
        "linspace": lambda s: call(0.0, 1.0, s.n),
        "logspace": lambda s: call(0.0, 1.0, s.n),
        "linspace/tensor_overload": lambda s: call(torch.tensor(0.0), torch.tensor(1.0), s.n),
        "logspace/tensor_overload": lambda s: call(torch.tensor(0.0), torch.tensor(1.0), s.n),
        "empty_permuted": lambda s: call((s.r, s.c), (1, 0)),
        "empty_strided": lambda s: call((s.r, s.c), (s.c, 1)),
        "new_empty": lambda s: call(f(2), (s.n,)),
        "new_zeros": lambda s: call(f(2), (s.n,)),
        "new_ones": lambda s: call(f(2), (s.n,)),
        "new_full": lambda s: call(f(2), (s.n,), 2.0),
        "new_empty_strided": lambda s: call(f(2), (s.r, s.c), (s.c, 1)),
        "full_like": lambda s: call(f(s.n), 2.0),
        "tril_indices": lambda s: call(s.m, s.m),
        "triu_indices": lambda s: call(s.m, s.m),
    },
    "products": {
        **{
            k: (lambda s: call(f(s.m, s.m), f(s.m, s.m), f(s.m, s.m)))
            for k in ("addmm", "addmm/decomposed")
        },
        "addmv": lambda s: call(f(s.r), f(s.r, s.c), f(s.c)),
        "mv": lambda s: call(f(s.r, s.c), f(s.c)),
        "addbmm": lambda s: call(f(s.d, s.d), f(s.b, s.d, s.d), f(s.b, s.d, s.d)),
        "baddbmm": lambda s: call(*(f(s.b, s.d, s.d) for _ in range(3))),
        "bmm": lambda s: call(f(s.b, s.d, s.d), f(s.b, s.d, s.d)),
        "dot": lambda s: call(f(s.n), f(s.n)),
        "vdot": lambda s: call(f(s.n), f(s.n)),
        "inner": lambda s: call(f(s.m, s.m), f(s.m, s.m)),
        "mm": lambda s: call(f(s.m, s.m), f(s.m, s.m)),
        "matmul": lambda s: call(f(s.b, s.d, s.d), f(s.d, s.d)),
        "addr": lambda s: call(f(s.r, s.c), f(s.r), f(s.c)),
        "outer": lambda s: call(f(s.r), f(s.c)),
        "ger": lambda s: call(f(s.r), f(s.c)),
        "kron": lambda s: call(f(s.ch, s.ch), f(s.ch, s.ch)),
        "tensordot": lambda s: call(f(s.d, s.d, 4), f(s.d, 4, s.d), [[1, 2], [0, 1]]),
        "einsum": lambda s: call("bij,bjk->bik", f(s.b, s.d, s.d), f(s.b, s.d, s.d)),
        "cross": lambda s: call(f(s.n // 3 or 1, 3), f(s.n // 3 or 1, 3)),
        "linalg.cross": lambda s: call(f(s.n // 3 or 1, 3), f(s.n // 3 or 1, 3)),
        "linalg.vecdot": lambda s: call(f(s.r, s.c), f(s.r, s.c)),
        "linalg.multi_dot": lambda s: call([f(s.d, s.d) for _ in range(3)]),
        "linalg.matrix_power": lambda s: call(f(s.d, s.d) / s.d, 5),
        "cdist": lambda s: call(f(s.d, 32), f(s.d, 32)),
        "dist": lambda s: call(f(s.n), f(s.n)),
        "nn.functional.linear": lambda s: call(f(s.d, s.e), f(s.e, s.e), f(s.e)),
        "nn.functional.bilinear": lambda s: call(f(s.d, 16), f(s.d, 16), f(8, 16, 16)),
        "nn.functional.pdist": lambda s: call(f(s.d, 32)),
    },
    "linear algebra": {
        **{
            k: (lambda s: call(spd(s.d)))
            for k in (
                "cholesky",
                "linalg.cholesky",
                "linalg.cholesky_ex",
                "linalg.eigh",
                "linalg.eigvalsh",
                "linalg.ldl_factor",
                "linalg.ldl_factor_ex",
                "linalg.matrix_rank/hermitian",
                "linalg.pinv/hermitian",
            )
        },
        **{
            k: (lambda s: call(regular(s.d)))
            for k in (
                "linalg.det",
                "linalg.slogdet",
                "logdet",
                "linalg.inv",
                "linalg.inv_ex",
                "inverse",
                "linalg.lu_factor",
                "linalg.lu_factor_ex",
                "linalg.lu",
                "lu",
                "linalg.qr",
                "qr",
                "geqrf",
                "linalg.eig",
                "linalg.eigvals",
                "linalg.svd",
                "svd",
                "linalg.svdvals",
                "linalg.cond",
                "linalg.matrix_norm",
                "linalg.norm",
                "linalg.norm/subgradients_at_zero",
                "linalg.matrix_rank",
                "linalg.pinv",
                "linalg.pinv/singular",
                "pinverse",
                "matrix_exp",
                "norm/nuc",
                "svd_lowrank",
                "pca_lowrank",
                "linalg.diagonal",
                "trace",
            )
        },
        "norm/fro": lambda s: call(f(s.r, s.c), "fro"),
        "norm/inf": lambda s: call(f(s.n), float("inf")),
        "norm": lambda s: call(f(s.n)),
        "cholesky_inverse": lambda s: call(torch.linalg.cholesky(spd(s.d))),
        "cholesky_solve": lambda s: call(f(s.d, 4), torch.linalg.cholesky(spd(s.d))),
        **{
            k: (lambda s: call(regular(s.d), f(s.d, 4)))
            for k in (
                "linalg.solve",
                "linalg.solve_ex",
                "linalg.lstsq",
                "linalg.lstsq/grad_oriented",
            )
        },
        "linalg.solve_triangular": lambda s: call(regular(s.d).triu(), f(s.d, 4), upper=True),
        "triangular_solve": lambda s: call(f(s.d, 4), regular(s.d).triu()),
        "linalg.lu_solve": lambda s: call(*torch.linalg.lu_factor(regular(s.d)), f(s.d, 4)),
        "lu_solve": lambda s: call(f(s.d, 4), *torch.linalg.lu_factor(regular(s.d))),
        "lu_unpack": lambda s: call(*torch.linalg.lu_factor(regular(s.d))),
        "linalg.ldl_solve": lambda s: call(*torch.linalg.ldl_factor(spd(s.d)), f(s.d, 4)),
        "linalg.householder_product": lambda s: call(*torch.geqrf(regular(s.d))),
        "ormqr": lambda s: call(*torch.geqrf(regular(s.d)), f(s.d, 4)),
        "linalg.vander": lambda s: call(p(s.ch), N=4),
        "linalg.tensorinv": lambda s: call(regular(s.ch).reshape(s.ch, s.ch), 1),
        "linalg.tensorsolve": lambda s: call(regular(s.ch), f(s.ch)),
    },
    "reductions and scans": {
        "max/reduction_with_dim": lambda s: call(table(s), 1),
        "max/reduction_no_dim": lambda s: call(table(s)),
        "min/reduction_with_dim": lambda s: call(table(s), 1),
        "min/reduction_no_dim": lambda s: call(table(s)),
        "aminmax": lambda s: call(table(s)),
        "median": lambda s: call(table(s), 1),
        "nanmedian": lambda s: call(table(s), 1),
        "mode": lambda s: call(i(s.r, s.c), 1),
        "kthvalue": lambda s: call(table(s), 2, 1),
        "quantile": lambda s: call(table(s), 0.3, 1),
        "nanquantile": lambda s: call(table(s), 0.3, 1),
        "std/unbiased": lambda s: call(table(s), False),
        "var/unbiased": lambda s: call(table(s), False),
        "std_mean": lambda s: call(table(s), 1),
        "var_mean": lambda s: call(table(s), 1),
        "std_mean/unbiased": lambda s: call(table(s), False),
        "var_mean/unbiased": lambda s: call(table(s), False),
        "logsumexp": lambda s: call(table(s), 1),
        "corrcoef": lambda s: call(f(s.ch, s.c)),
        "cov": lambda s: call(f(s.ch, s.c)),
        "histc": lambda s: call(f(s.n), 100, -2, 2),
        "histogram": lambda s: call(f(s.n), 100, range=(-2.0, 2.0)),
        "histogramdd": lambda s: call(f(s.r, 2), [10, 10]),
        "bincount": lambda s: call(i(s.n, high=s.v)),
        "hash_tensor": lambda s: call(table(s)),
        **{
            k: (lambda s: call(table(s), 1))
            for k in (
                "cumsum",
                "cumprod",
                "cummax",
                "cummin",
                "logcumsumexp",
                "softmax",
                "log_softmax",
                "nn.functional.softmin",
                "diff",
            )
        },
        **{
            f"{k}/with_dtype": (lambda s: call(table(s), 1, dtype=torch.float64))
            for k in ("softmax", "log_softmax", "nn.functional.softmin")
        },
        "trapz": lambda s: call(table(s)),
        "trapezoid": lambda s: call(table(s)),
        "cumulative_trapezoid": lambda s: call(table(s)),
        "gradient": lambda s: call(table(s)),
        "renorm": lambda s: call(table(s), 2, 0, 1.0),
        **{
            f"masked.{k}": (lambda s: call(table(s), 1, mask=b(s.r, s.c)))
            for k in ("cumsum", "cumprod", "median", "softmax", "log_softmax", "softmin")
        },
        "masked.normalize": lambda s: call(table(s), 2.0, 1, mask=b(s.r, s.c)),
        "masked.logaddexp": lambda s: call(
            table(s), table(s), input_mask=b(s.r, s.c), other_mask=b(s.r, s.c)
        ),
    },
    "sorting and searching": {
        **{
            k: (lambda s: call(perm(s.r * s.c).reshape(s.r, s.c).float()))  # no ties
            for k in ("sort", "argsort", "msort")
        },
        "topk": lambda s: call(table(s), 2),
        "unique": lambda s: call(i(s.n, high=s.v)),
        "unique_consecutive": lambda s: call(i(s.n, high=4)),
        "nonzero": lambda s: call(b(s.n)),
        "nonzero_static": lambda s: call(b(s.n), size=s.n // 4),
        "argwhere": lambda s: call(b(s.n)),
        "searchsorted": lambda s: call(f(s.v).sort()[0], f(s.n)),
        "bucketize": lambda s: call(f(s.n), f(s.v).sort()[0]),
        "isin": lambda s: call(i(s.n, high=100), i(10, high=100)),
    },
    "indexing": {
        "gather": lambda s: call(table(s), 1, _scatter_index(s)),
        "take_along_dim": lambda s: call(table(s), _scatter_index(s), 1),
        "scatter": lambda s: call(table(s), 1, _scatter_index(s), table(s)),
        "scatter_add": lambda s: call(table(s), 1, _scatter_index(s), table(s)),
        **{
            f"scatter_reduce/{k}": (
                lambda s, k=k: call(table(s), 1, _scatter_index(s), table(s), k)
            )
            for k in ("sum", "prod", "mean", "amin", "amax")
        },
        "index_select": lambda s: call(table(s), 0, _index_rows(s)),
        "index_fill": lambda s: call(table(s), 0, _index_rows(s), 1.0),
        "index_copy": lambda s: call(table(s), 0, _index_rows(s), table(s)),
        "index_add": lambda s: call(table(s), 0, _index_rows(s), table(s)),
        **{
            f"index_reduce/{k}": (lambda s, k=k: call(table(s), 0, _index_rows(s), table(s), k))
            for k in ("mean", "prod", "amin", "amax")
        },
        "__getitem__": lambda s: call(table(s), _index_rows(s)),
        "index_put": lambda s: call(table(s), (_index_rows(s),), table(s)),
        "take": lambda s: call(table(s), i(s.n, high=s.r * s.c)),
        "put": lambda s: call(table(s), perm(s.r * s.c), f(s.r * s.c)),
        "select_scatter": lambda s: call(table(s), f(s.c), 0, 1),
        "slice_scatter": lambda s: call(table(s), f(s.r // 2, s.c), 0, 0, s.r // 2),
        "diagonal_scatter": lambda s: call(table(s), f(min(s.r, s.c))),
        "as_strided_scatter": lambda s: call(table(s), f(s.r // 2, s.c), (s.r // 2, s.c), (s.c, 1)),
        "unravel_index": lambda s: call(i(s.n, high=s.r * s.c), (s.r, s.c)),
        "nn.functional.embedding": lambda s: call(i(s.b, s.l, high=s.v), f(s.v, s.e)),
        "nn.functional.embedding_bag": lambda s: call(i(s.b, s.l, high=s.v), f(s.v, s.e)),
        "nn.functional.one_hot": lambda s: call(i(s.r, high=s.v), s.v),
    },
    "views and copies": {
        **{
            k: (lambda s: call([table(s), table(s)]))
            for k in ("cat", "stack", "hstack", "vstack", "dstack", "column_stack")
        },
        "block_diag": lambda s: call(f(s.m, s.m), f(s.m, s.m)),
        "cartesian_prod": lambda s: call(f(s.r), f(s.c)),
        "combinations": lambda s: call(f(s.d)),
        "meshgrid/variadic_tensors": lambda s: call(f(s.r), f(s.c), indexing="ij"),
        "meshgrid/list_of_tensors": lambda s: call([f(s.r), f(s.c)], indexing="ij"),
        "broadcast_tensors": lambda s: call(f(s.r, 1), f(1, s.c)),
        "broadcast_shapes": lambda s: call((s.r, 1), (1, s.c)),
        "broadcast_to": lambda s: call(f(1, s.c), (s.r, s.c)),
        "expand": lambda s: call(f(1, s.c), (s.r, s.c)),
        "sum_to_size": lambda s: call(table(s), s.c),
        "expand_copy": lambda s: call(f(1, s.c), (s.r, s.c)),
        "expand_as": lambda s: call(f(1, s.c), table(s)),
        **{
            k: (lambda s: call(table(s), 2))
            for k in ("chunk", "unsafe_chunk", "tensor_split", "hsplit", "vsplit")
        },
        "dsplit": lambda s: call(f(s.r, s.c // 2, 2), 2),
        "split": lambda s: call(table(s), s.r // 2),
        "unsafe_split": lambda s: call(table(s), s.r // 2),
        **{
            k: (lambda s: call(table(s), [s.r // 2, s.r - s.r // 2]))
            for k in ("split/list_args", "split_with_sizes", "split_with_sizes_copy")
        },
        "unbind": lambda s: call(f(4, s.n // 4)),
        "unbind_copy": lambda s: call(f(4, s.n // 4)),
        "flip": lambda s: call(table(s), (1,)),
        "roll": lambda s: call(table(s), 1, 1),
        "repeat": lambda s: call(f(s.d, s.d), (2, 2)),
        "tile": lambda s: call(f(s.d, s.d), (2, 2)),
        "repeat_interleave": lambda s: call(table(s), 2, 1),
        "permute": lambda s: call(table(s), (1, 0)),
        "permute_copy": lambda s: call(table(s), (1, 0)),
        "transpose": lambda s: call(table(s), 0, 1),
        "transpose_copy": lambda s: call(table(s), 0, 1),
        "movedim": lambda s: call(table(s), 0, 1),
        "narrow": lambda s: call(table(s), 0, 0, s.r // 2),
        "narrow_copy": lambda s: call(table(s), 0, 0, s.r // 2),
        "select": lambda s: call(table(s), 0, 1),
        "reshape": lambda s: call(table(s), (s.c, s.r)),
        "view": lambda s: call(table(s), (s.c, s.r)),
        "view_copy": lambda s: call(table(s), (s.c, s.r)),
        "reshape_as": lambda s: call(table(s), f(s.c, s.r)),
        "view_as": lambda s: call(table(s), f(s.c, s.r)),
        "unflatten": lambda s: call(table(s), 0, (2, s.r // 2)),
        **{k: (lambda s: call(f(1, s.n))) for k in ("squeeze", "squeeze_copy")},
        "squeeze/multiple": lambda s: call(f(1, s.n, 1), (0, 2)),
        "unsqueeze": lambda s: call(f(s.n), 0),
        "unsqueeze_copy": lambda s: call(f(s.n), 0),
        "as_strided": lambda s: call(table(s), (s.r // 2, s.c), (s.c, 1)),
        "as_strided/partial_views": lambda s: call(table(s), (s.r // 2, s.c // 2), (s.c, 1)),
        "as_strided_copy": lambda s: call(table(s), (s.r // 2, s.c), (s.c, 1)),
        "unfold": lambda s: call(f(s.n), 0, 2, 2),
        "unfold_copy": lambda s: call(f(s.n), 0, 2, 2),
        "diagonal_copy": lambda s: call(table(s)),
        "diag": lambda s: call(f(s.d)),
        "diag_embed": lambda s: call(f(s.b, s.d)),
        "diagflat": lambda s: call(f(s.d)),
        "resize_": lambda s: call(table(s), (s.c, s.r)),
        "resize_as_": lambda s: call(table(s), f(s.c, s.r)),
        "constant_pad_nd": lambda s: call(_images(s, 2), (1, 1, 1, 1), 0.5),
        "nn.functional.pad/constant": lambda s: call(_images(s, 2), (1, 1, 1, 1)),
        "nn.functional.pad/replicate_negative": lambda s: call(
            _images(s, 2), (-1, 1, 1, -1), mode="replicate"
        ),
        **{
            f"nn.functional.pad/{k}": (lambda s, k=k: call(_images(s, 2), (1, 1, 1, 1), mode=k))
            for k in ("reflect", "replicate", "circular")
        },
    },
    "layers": {
        **{
            f"nn.functional.conv{k}d": (
                lambda s, k=k: call(_images(s, k), _kernel(s, k), f(s.ch), padding=1)
            )
            for k in (1, 2, 3)
        },
        **{
            f"nn.functional.conv_transpose{k}d": (
                lambda s, k=k: call(_images(s, k), _kernel(s, k), f(s.ch))
            )
            for k in (1, 2, 3)
        },
        **{
            f"nn.functional.{a}_pool{k}d": (lambda s, k=k: call(_images(s, k), 2))
            for k in (1, 2, 3)
            for a in ("max", "avg", "adaptive_avg", "adaptive_max")
        },
        **{
            f"nn.functional.max_unpool{k}d{v}": _unpool(k) for k in (1, 2, 3) for v in ("", "/grad")
        },
        "nn.functional.fractional_max_pool2d": lambda s: call(_images(s, 2), 2, output_size=2),
        "nn.functional.fractional_max_pool3d": lambda s: call(_images(s, 3), 2, output_size=2),
        "nn.functional.unfold": lambda s: call(_images(s, 2), 3, padding=1),
        "nn.functional.fold": lambda s: call(
            f(s.b, s.ch * 4, s.h * s.h // 4), (s.h, s.h), 2, stride=2
        ),
        **{
            f"nn.functional.interpolate/{k}": (lambda s, k=k: _lines(s, 2, k))
            for k in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
        },
        "nn.functional.interpolate/linear": lambda s: _lines(s, 1, "linear"),
        "nn.functional.interpolate/trilinear": lambda s: _lines(s, 3, "trilinear"),
        "nn.functional.upsample_bilinear": lambda s: call(_images(s, 2), scale_factor=2),
        "nn.functional.upsample_nearest": lambda s: call(_images(s, 2), scale_factor=2),
        **{
            f"nn.functional.batch_norm{v}": (
                lambda s: call(
                    _images(s, 2),
                    torch.zeros(s.ch),
                    torch.ones(s.ch),
                    p(s.ch),
                    f(s.ch),
                    training=True,
                )
            )
            for v in ("", "/without_cudnn")
        },
        "native_batch_norm": lambda s: call(
            _images(s, 2), p(s.ch), f(s.ch), torch.zeros(s.ch), torch.ones(s.ch), True, 0.1, 1e-5
        ),
        "nn.functional.instance_norm": lambda s: call(_images(s, 2)),
        "nn.functional.group_norm": lambda s: call(_images(s, 2), 2, p(s.ch), f(s.ch)),
        "native_group_norm": lambda s: call(
            _images(s, 2), p(s.ch), f(s.ch), s.b, s.ch, s.h * s.h, 2, 1e-5
        ),
        "nn.functional.layer_norm": lambda s: call(table(s), (s.c,), p(s.c), f(s.c)),
        "native_layer_norm": lambda s: call(table(s), (s.c,), p(s.c), f(s.c), 1e-5),
        "nn.functional.rms_norm": lambda s: call(table(s), (s.c,), p(s.c)),
        "nn.functional.local_response_norm": lambda s: call(_images(s, 2), 2),
        "nn.functional.normalize": lambda s: call(table(s)),
        "nn.functional.scaled_dot_product_attention": lambda s: call(
            *(f(s.b, 4, s.l, 32) for _ in range(3))
        ),
        "nn.functional.multi_head_attention_forward": _attention,
        "nn.functional.pixel_shuffle": lambda s: call(f(s.b, 4 * s.ch, s.h, s.h), 2),
        "nn.functional.pixel_unshuffle": lambda s: call(_images(s, 2), 2),
        "nn.functional.channel_shuffle": lambda s: call(_images(s, 2), 2),
        "nn.functional.grid_sample": lambda s: call(
            _images(s, 2), f(s.b, s.h, s.h, 2, low=-1, high=1), align_corners=False
        ),
        "grid_sampler_2d": lambda s: call(
            _images(s, 2), f(s.b, s.h, s.h, 2, low=-1, high=1), 0, 0, False
        ),
        "grid_sampler_3d": lambda s: call(
            _images(s, 3), f(s.b, 4, 8, 8, 3, low=-1, high=1), 0, 0, False
        ),
        "nn.functional.affine_grid": lambda s: call(f(s.b, 2, 3), (s.b, s.ch, s.h, s.h)),
    },
    "losses": {
        **{
            f"nn.functional.{k}": (lambda s: call(f(s.n), f(s.n)))
            for k in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss")
        },
        **{
            f"nn.functional.{k}": (lambda s: call(f(s.n), b(s.n) * 2.0 - 1))
            for k in ("soft_margin_loss", "hinge_embedding_loss")
        },
        "nn.functional.kl_div": lambda s: call(p(s.r, s.c).log(), p(s.r, s.c)),
        "nn.functional.binary_cross_entropy": lambda s: call(p(s.n), p(s.n)),
        "nn.functional.binary_cross_entropy_with_logits": lambda s: call(f(s.n), p(s.n)),
        "nn.functional.gaussian_nll_loss": lambda s: call(f(s.n), f(s.n), p(s.n)),
        "nn.functional.cross_entropy": lambda s: call(f(s.r, s.c), i(s.r, high=s.c)),
        **{
            f"nn.functional.linear_cross_entropy{k}": (
                lambda s: call(f(s.d, s.e), f(s.v, s.e), i(s.d, high=s.v))
            )
            for k in ("", "/chunked", "/chunked_none")
        },
        "nn.functional.nll_loss": lambda s: call(f(s.r, s.c), i(s.r, high=s.c)),
        "nn.functional.multi_margin_loss": lambda s: call(f(s.r, s.c), i(s.r, high=s.c)),
        "nn.functional.multilabel_margin_loss": lambda s: call(
            f(s.d, s.ch), torch.where(torch.arange(s.ch) < 2, i(s.d, s.ch, high=s.ch), -1)
        ),
        "nn.functional.multilabel_soft_margin_loss": lambda s: call(
            f(s.r, s.c), b(s.r, s.c).float()
        ),
        "nn.functional.margin_ranking_loss": lambda s: call(f(s.n), f(s.n), b(s.n) * 2.0 - 1),
        "nn.functional.cosine_similarity": lambda s: call(table(s), table(s)),
        "nn.functional.cosine_embedding_loss": lambda s: call(table(s), table(s), b(s.r) * 2.0 - 1),
        "nn.functional.pairwise_distance": lambda s: call(table(s), table(s)),
        "nn.functional.triplet_margin_loss": lambda s: call(table(s), table(s), table(s)),
        "nn.functional.triplet_margin_with_distance_loss": lambda s: call(
            table(s), table(s), table(s)
        ),
        "nn.functional.ctc_loss": _ctc,
    },
    "signals": {
        "stft": lambda s: call(
            f(s.b, max(s.n // s.b // 8, 64)), 64, return_complex=True, window=torch.hann_window(64)
        ),
        "istft": lambda s: call(
            torch.stft(
                f(s.b, max(s.n // s.b // 8, 64)),
                64,
                return_complex=True,
                window=torch.hann_window(64),
            ),
            64,
            window=torch.hann_window(64),
        ),
        "fft.fftshift": lambda s: call(table(s)),
        "fft.ifftshift": lambda s: call(table(s)),
        "signal.windows.general_cosine": lambda s: call(s.n, a=[0.46, 0.23, 0.31]),
        **{
            f"signal.windows.{k}": (lambda s: call(s.n))
            for k in (
                "hamming",
                "hann",
                "bartlett",
                "blackman",
                "cosine",
                "exponential",
                "gaussian",
                "kaiser",
                "general_hamming",
                "nuttall",
            )
        },
    },
}
