"""`lampion.sparse`: functions of sparse tensors. The constructors are at the top level.

>>> x = lampion.sparse_coo_tensor([[0, 1], [2, 0]], [3.0, 4.0], (2, 3))
>>> lampion.sparse.mm(x, lampion.ones(3, 1)).tolist()
[[3.0], [4.0]]
"""

from __future__ import annotations

from typing import Any

from . import ops as _ops
from .construct import (
    check_sparse_tensor_invariants,
    sparse_bsc_tensor,
    sparse_bsr_tensor,
    sparse_compressed_tensor,
    sparse_coo_tensor,
    sparse_csc_tensor,
    sparse_csr_tensor,
    spdiags,
)
from .tensor import SparseTensor

__all__ = ["SparseTensor", "addmm", "as_sparse_gradcheck", "check_sparse_tensor_invariants",
           "log_softmax", "mm", "sampled_addmm", "softmax", "spdiags", "sum"]

_constructors = (sparse_bsc_tensor, sparse_bsr_tensor, sparse_compressed_tensor,
                 sparse_coo_tensor, sparse_csc_tensor, sparse_csr_tensor)


def mm(mat1: Any, mat2: Any, reduce: str | None = None) -> Any:
    """The product of a sparse matrix and another one; dense unless both are sparse.

    `reduce` ("sum", "mean", "amax", "amin") says how the products of a row of a CSR matrix with a
    dense one are put together.
    """
    if reduce in (None, "sum"):
        return _ops.mm(mat1, mat2)
    import lampion

    coo = mat1.to_sparse_coo()
    rows, columns = coo._places
    parts = coo._held.unsqueeze(1) * mat2[columns]
    zeros = lampion.zeros(mat1.shape[0], mat2.shape[1], dtype=parts.dtype, device=parts.device)
    return zeros.scatter_reduce(0, rows.unsqueeze(1).expand(parts.shape), parts, reduce,
                                include_self=False)


def addmm(mat: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """`beta * mat + alpha * (mat1 @ mat2)` with a sparse `mat1`."""
    return _ops.addmm(mat, mat1, mat2, beta=beta, alpha=alpha)


def sampled_addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1.0, alpha: Any = 1.0) -> Any:
    """`beta * input + alpha * (mat1 @ mat2)` at the places of the sparse `input` only."""
    rows, columns = input.to_sparse_coo()._places
    product = (mat1[rows] * mat2.t()[columns]).sum(1)
    return input._with(beta * input._held + alpha * product)


def sum(input: Any, dim: Any = None, dtype: Any = None) -> Any:
    """The sum of a sparse tensor: over some dims sparse, of all elements a dense number."""
    return _ops.sum(input, dim, dtype=dtype)


def softmax(input: Any, dim: int, *, dtype: Any = None) -> Any:
    """Softmax over the kept elements of each line; those that are not kept count as -inf."""
    return _ops.softmax(input, dim, dtype)


def log_softmax(input: Any, dim: int, *, dtype: Any = None) -> Any:
    """The logarithm of `softmax`."""
    return _ops.softmax(input, dim, dtype, log=True)


def as_sparse_gradcheck(gradcheck: Any) -> Any:
    """`gradcheck` for functions of sparse tensors: it varies their values."""
    def checked(fn: Any, inputs: Any, *args: Any, masked: Any = None, **kwargs: Any) -> Any:
        kept = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        values = tuple(x._held if isinstance(x, SparseTensor) else x for x in kept)

        def of_values(*values: Any) -> Any:
            made = fn(*[x._with(v) if isinstance(x, SparseTensor) else v
                        for x, v in zip(kept, values, strict=True)])
            return made.to_dense() if isinstance(made, SparseTensor) else made

        return gradcheck(of_values, values, *args, **kwargs)

    return checked
