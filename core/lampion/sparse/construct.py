"""Making sparse tensors, and what dense tensors have to do with them.

Floor 7; imports the sparse tensor.
"""

from __future__ import annotations

from typing import Any, NoReturn

import lampion

from ..base import layout as L
from ..tensor import Tensor
from .tensor import SparseTensor, _starts_of, made_compressed, made_coo

__all__ = ["check_sparse_tensor_invariants", "sparse_bsc_tensor", "sparse_bsr_tensor",
           "sparse_compressed_tensor", "sparse_coo_tensor", "sparse_csc_tensor",
           "sparse_csr_tensor", "spdiags"]


class check_sparse_tensor_invariants:
    """Whether constructors look at every index; `enable()` and `disable()`, a block or a decorator.

    Sizes are always checked; this also finds indices outside of the tensor.
    """

    _on = False

    def __init__(self, enable: bool = True) -> None:
        self.state, self._before = enable, None

    @classmethod
    def is_enabled(cls) -> bool:
        """Whether every index is looked at."""
        return check_sparse_tensor_invariants._on

    @classmethod
    def enable(cls) -> None:
        """Look at every index from now on."""
        check_sparse_tensor_invariants._on = True

    @classmethod
    def disable(cls) -> None:
        """No longer."""
        check_sparse_tensor_invariants._on = False

    def __enter__(self) -> None:
        self._before = self.is_enabled()
        check_sparse_tensor_invariants._on = self.state

    def __exit__(self, *error: Any) -> None:
        check_sparse_tensor_invariants._on = bool(self._before)

    def __call__(self, fn: Any) -> Any:
        def checked(*args: Any, **kwargs: Any) -> Any:
            with type(self)(self.state):
                return fn(*args, **kwargs)

        return checked


def _values(values: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    held = values if isinstance(values, Tensor) else lampion.tensor(values, dtype=dtype,
                                                                    device=device)
    if dtype is not None or device is not None:
        held = held.to(device=device, dtype=dtype)
    return held.detach().requires_grad_() if requires_grad else held


def _index(given: Any, device: Any) -> Tensor:
    found = given if isinstance(given, Tensor) else lampion.tensor(given, dtype=lampion.int64)
    return found.detach().to(device)


def _ints(size: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in size)


def _inside(index: Tensor, size: int, name: str) -> None:
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= size):
        bad = int(index.min()) if int(index.min()) < 0 else int(index.max())
        what = "found negative index" if bad < 0 else "size is inconsistent with indices: found"
        raise RuntimeError(f"{name}: {what} {bad} for a dim of size {size}")


def sparse_coo_tensor(indices: Any = None, values: Any = None, size: Any = None, *,
                      dtype: Any = None, device: Any = None, pin_memory: bool = False,
                      requires_grad: bool = False, check_invariants: bool | None = None,
                      is_coalesced: bool | None = None) -> SparseTensor:
    """A COO tensor: `values[k]` (n, *dense) at the place `indices[:, k]` (sparse dims, n).

    Without `size` it is as large as the places ask for; with a size alone it is empty. Gradients
    reach `values`. RuntimeError if the parts do not fit.

    >>> lampion.sparse_coo_tensor([[0, 1, 1], [2, 0, 2]], [3.0, 4.0, 5.0], (2, 3)).to_dense()
    tensor([[0., 0., 3.],
            [4., 0., 5.]])
    """
    if values is None:  # a size alone
        shape = _ints(size if indices is None else indices)
        held = lampion.zeros(0, dtype=dtype, device=device, requires_grad=requires_grad)
        empty = lampion.zeros(len(shape), 0, dtype=lampion.int64, device=held.device)
        return made_coo(empty, held, shape, True)
    held = _values(values, dtype, device, requires_grad)
    places = _index(indices, held.device).to(lampion.int64)
    if places.dim() == 1:  # one dim that is not written as a row
        places = places.unsqueeze(0) if len(places) else places.reshape(len(size or (0,)), 0)
    if held.dim() == 0:
        held = held.expand(places.shape[1])
    n = places.shape[0]
    if places.shape[1] != held.shape[0]:
        raise RuntimeError(f"number of dimensions must be sparse_dim ({n}) + dense_dim; indices "
                           f"has {places.shape[1]} places, values {held.shape[0]}")
    if size is None:
        shape = (*[int(r.max()) + 1 if r.numel() else 0 for r in places], *held.shape[1:])
    else:
        shape = _ints(size)
        if len(shape) != n + held.dim() - 1 or shape[n:] != tuple(held.shape[1:]):
            raise RuntimeError(f"number of dimensions must be sparse_dim ({n}) + dense_dim "
                               f"({held.dim() - 1}), but got size {list(shape)}")
        if check_invariants is not False:
            for k in range(n):
                _inside(places[k], shape[k], "sparse_coo_tensor")
    made = made_coo(places, held, shape, bool(is_coalesced))
    return made._coalesced_(True) if held.shape[0] < 2 and is_coalesced is None and (
        held.shape[0] == 0) else made


def sparse_compressed_tensor(compressed_indices: Any, plain_indices: Any, values: Any,
                             size: Any = None, *, dtype: Any = None, layout: Any = None,
                             device: Any = None, pin_memory: bool = False,
                             requires_grad: bool = False,
                             check_invariants: bool | None = None) -> SparseTensor:
    """A matrix whose rows (`sparse_csr`) or columns (`sparse_csc`) are compressed."""
    if layout not in (L.sparse_csr, L.sparse_csc):
        raise RuntimeError(f"sparse_compressed_tensor: layout is {layout!r}; it must be sparse_csr "
                           "or sparse_csc")
    held = _values(values, dtype, device, requires_grad)
    starts, places = _index(compressed_indices, held.device), _index(plain_indices, held.device)
    if starts.dim() != 1 or places.dim() != 1:
        raise NotImplementedError("batches of compressed tensors are not there; use a list of them")
    lines = starts.shape[0] - 1
    if size is None:
        across = int(places.max()) + 1 if places.numel() else 0
        shape = (lines, across) if layout is L.sparse_csr else (across, lines)
    else:
        shape = _ints(size)
    across = shape[1 if layout is L.sparse_csr else 0]
    if shape[0 if layout is L.sparse_csr else 1] != lines:
        raise RuntimeError(f"compressed_indices has {lines + 1} elements, which is not one more "
                           f"than the lines of a tensor of size {list(shape)}")
    if places.shape[0] != held.shape[0]:
        raise RuntimeError(f"plain_indices has {places.shape[0]} elements, values "
                           f"{held.shape[0]}")
    check = check_sparse_tensor_invariants.is_enabled() if check_invariants is None \
        else check_invariants
    if check:
        _inside(places, across, "sparse_compressed_tensor")
        if int(starts[0]) != 0 or int(starts[-1]) != held.shape[0] or bool(
                (starts.diff() < 0).any()):
            raise RuntimeError("compressed_indices must begin with 0, never fall and end with the "
                               f"number of values ({held.shape[0]})")
    return made_compressed(layout, starts, places, held, shape)


def sparse_csr_tensor(crow_indices: Any, col_indices: Any, values: Any, size: Any = None,
                      **options: Any) -> SparseTensor:
    """A CSR matrix: row k has the elements from `crow_indices[k]` on.

    >>> lampion.sparse_csr_tensor([0, 1, 3], [2, 0, 2], [3.0, 4.0, 5.0], (2, 3)).to_dense()
    tensor([[0., 0., 3.],
            [4., 0., 5.]])
    """
    options.pop("layout", None)
    return sparse_compressed_tensor(crow_indices, col_indices, values, size, layout=L.sparse_csr,
                                    **options)


def sparse_csc_tensor(ccol_indices: Any, row_indices: Any, values: Any, size: Any = None,
                      **options: Any) -> SparseTensor:
    """A CSC matrix: column k has the elements from `ccol_indices[k]` on."""
    options.pop("layout", None)
    return sparse_compressed_tensor(ccol_indices, row_indices, values, size, layout=L.sparse_csc,
                                    **options)


def _blocks(*args: Any, **kwargs: Any) -> NoReturn:
    """NotImplementedError: there are no tensors of blocks."""
    raise NotImplementedError("tensors of blocks (BSR, BSC) are not there; use sparse_csr_tensor "
                              "or sparse_coo_tensor with dense dims")


sparse_bsr_tensor = sparse_bsc_tensor = _blocks


def spdiags(diagonals: Tensor, offsets: Tensor, shape: Any, layout: Any = None) -> SparseTensor:
    """The sparse matrix whose diagonals are the rows of `diagonals`."""
    rows_of = diagonals if diagonals.dim() == 2 else diagonals.unsqueeze(0)
    which = offsets.reshape(-1)
    columns = lampion.arange(rows_of.shape[1], device=which.device).expand(rows_of.shape)
    rows = columns - which.unsqueeze(1)
    kept = (rows >= 0) & (rows < shape[0]) & (columns < shape[1])
    places = lampion.stack([rows[kept], columns[kept]])
    return sparse_coo_tensor(places, rows_of[kept], shape).to_sparse(layout=layout or L.sparse_coo)


def _convert_indices_from_coo_to_csr(self: Tensor, size: int, *, out_int32: bool = False) -> Tensor:
    """Where each of `size` lines begins, given the sorted lines of the elements."""
    found = _starts_of(self, size)
    return found.to(lampion.int32) if out_int32 else found


def _convert_indices_from_csr_to_coo(crow_indices: Tensor, col_indices: Tensor, *,
                                     out_int32: bool = False, transpose: bool = False) -> Tensor:
    """The places (2, n) of a CSR matrix's elements."""
    counts = crow_indices.diff().to(lampion.int64)
    lines = lampion.arange(len(counts), device=crow_indices.device).repeat_interleave(
        counts, output_size=len(col_indices))
    pair = [lines, col_indices.to(lampion.int64)]
    found = lampion.stack(pair[::-1] if transpose else pair)
    return found.to(lampion.int32) if out_int32 else found
