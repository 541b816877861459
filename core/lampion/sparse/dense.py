"""Methods of dense tensors that have to do with sparse ones. Floor 7; imports the sparse tensor."""

from __future__ import annotations

from typing import Any, NoReturn

from ..base import layout as L
from ..tensor import Tensor
from . import ops
from .construct import _blocks
from .tensor import SparseTensor, made_coo


def to_sparse(self: Tensor, *args: Any, layout: Any = None, blocksize: Any = None,
               dense_dim: int | None = None) -> SparseTensor:
    """The elements that are not 0, as a sparse tensor: COO, or of the layout given."""
    n = self.dim() - (dense_dim or 0)
    if args and not isinstance(args[0], L.layout):
        n, args = args[0], ()
    kind = args[0] if args else layout or L.sparse_coo
    there = self.detach() != 0
    if n < self.dim():
        there = there.flatten(n).any(-1)
    places = there.nonzero().t().contiguous()
    held = self[tuple(places)] if n else self.unsqueeze(0)
    return made_coo(places, held, tuple(self.shape), True).to_sparse(layout=kind)


def sparse_mask(self: Tensor, mask: SparseTensor) -> SparseTensor:
    """The elements of a dense tensor at the places of a sparse one."""
    coo = mask.to_sparse_coo().coalesce()
    return coo._with(self[tuple(coo._places)]).to_sparse(layout=mask.layout)


def to_sparse_coo(self: Tensor) -> SparseTensor:
    """The elements that are not 0, as a COO tensor."""
    return to_sparse(self)


def to_sparse_csr(self: Tensor, dense_dim: int | None = None) -> SparseTensor:
    """The elements that are not 0, as a CSR tensor."""
    return to_sparse(self, layout=L.sparse_csr)


def to_sparse_csc(self: Tensor, dense_dim: int | None = None) -> SparseTensor:
    """The elements that are not 0, as a CSC tensor."""
    return to_sparse(self, layout=L.sparse_csc)


to_sparse_bsr = to_sparse_bsc = _blocks


def sparse_dim(self: Tensor) -> int:
    """0: no dim of a dense tensor is sparse."""
    return 0


def dense_dim(self: Tensor) -> int:
    """All dims of a dense tensor."""
    return self.dim()


def smm(self: Tensor, mat: Any) -> Any:
    """The product with a sparse matrix."""
    return ops.mm(self, mat)


def sspaddmm(self: Tensor, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """`beta * self + alpha * (mat1 @ mat2)`."""
    return ops.addmm(self, mat1, mat2, beta=beta, alpha=alpha)


def _only_sparse(name: str) -> Any:
    def fail(self: Tensor, *args: Any) -> NoReturn:
        raise RuntimeError(f"{name} expected sparse tensor layout but got Strided")

    fail.__name__ = name
    fail.__doc__ = "RuntimeError: this tensor is dense."
    return fail


for _name in ("coalesce", "is_coalesced", "indices", "values", "_indices", "_values", "_nnz",
              "crow_indices", "col_indices", "ccol_indices", "row_indices", "sparse_resize_",
              "sparse_resize_and_clear_", "resize_as_sparse_"):
    globals()[_name] = _only_sparse(_name)
