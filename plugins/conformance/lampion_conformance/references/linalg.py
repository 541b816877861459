"""References of linear algebra: NumPy's and SciPy's functions, matrix by matrix where they need it.

Factorizations that are determined only up to signs or order are tested by what they multiply to,
in tests/ops/test_linalg.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def solve(A: Any, B: Any, *, left: bool = True, **_: Any) -> Any:
    if B.ndim == 1 or (A.ndim - 1 == B.ndim and B.shape == A.shape[:-1]):
        return np.linalg.solve(A, B[..., None])[..., 0]
    if left:
        return np.linalg.solve(A, B)
    return turned(np.linalg.solve(turned(A), turned(B)))


def turned(x: Any) -> Any:
    return np.swapaxes(x, -2, -1)


def solve_triangular(A: Any, B: Any, *, upper: bool, left: bool = True,
                     unitriangular: bool = False) -> Any:
    A = np.triu(A) if upper else np.tril(A)
    if unitriangular:
        A = A * (1 - np.eye(A.shape[-1])) + np.eye(A.shape[-1])
    return solve(A, B, left=left)


def cholesky_solve(B: Any, L: Any, upper: bool = False) -> Any:
    return np.linalg.solve(turned(L) @ L if upper else L @ turned(L), B)


def no_failure(A: Any) -> Any:
    return np.zeros(A.shape[:-2], np.int32)


def logdet(x: Any) -> Any:
    sign, size = np.linalg.slogdet(x)
    with np.errstate(all="ignore"):
        return np.where(sign == 0, -np.inf, np.log(sign) + size)


def matrix_exp(x: Any) -> Any:
    import scipy.linalg

    flat = x.reshape(-1, *x.shape[-2:]) if x.size else x
    return np.array([scipy.linalg.expm(m) for m in flat]).reshape(x.shape) if x.size else x


def matrix_norm(x: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *,
                dtype: Any = None) -> Any:
    return np.linalg.norm(x, ord, dim, keepdim)


def norm(x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False) -> Any:
    return np.linalg.norm(x, ord, dim, keepdim)


def cond(x: Any, p: Any = None) -> Any:
    with np.errstate(all="ignore"):
        return np.linalg.cond(x, p)


def matrix_rank(x: Any, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Any:
    s = np.linalg.svd(x, compute_uv=False)
    eps = np.finfo(np.float32).eps * max(x.shape[-2:])
    bound = tol if tol is not None else (eps if rtol is None else rtol) * s.max(-1)
    return (s > np.asarray(bound)[..., None]).sum(-1)


def vander(x: Any, *, N: Any = None) -> Any:
    return x[..., None] ** np.arange(x.shape[-1] if N is None else N)


def diagonal(A: Any) -> Any:
    return np.diagonal(A, axis1=-2, axis2=-1)


REFERENCE = {
    "linalg_solve": solve,
    "linalg_solve_ex": lambda A, B, **k: (solve(A, B, **k), no_failure(A)),
    "linalg_solve_triangular": solve_triangular,
    "cholesky_solve": cholesky_solve,
    "linalg_inv": np.linalg.inv,
    "inverse": np.linalg.inv,
    "det": np.linalg.det,
    "slogdet": lambda A: tuple(np.linalg.slogdet(A)),
    "logdet": logdet,
    "linalg_pinv": np.linalg.pinv,
    "pinverse": np.linalg.pinv,
    "linalg_svdvals": lambda A: np.linalg.svd(A, compute_uv=False),
    "linalg_tensorinv": lambda A, ind=2: np.linalg.tensorinv(A, ind),
    "linalg_tensorsolve": lambda A, B, dims=None: np.linalg.tensorsolve(A, B, dims),
    "matrix_exp": matrix_exp,
    "linalg_vander": vander,
    "linalg_diagonal": diagonal,
    "matrix_norm": matrix_norm,
    "linalg_norm": norm,
    "cond": cond,
    "matrix_rank": matrix_rank,
}
