"""Sparse tensors: coordinates (COO) and compressed rows or columns (CSR, CSC).

A sparse tensor is a `Tensor` of its shape whose elements are kept as dense tensors of places and
values. What it computes is composed of dense ops on the values (gathers, index_add), on every
device, and is recorded for autograd through them. An op that has no sparse form raises; nothing is
made dense silently. Floor 7; imports the public lampion API.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import lampion

from ..base import layout as L
from ..base.meta import meta
from ..holding import Holding
from ..tensor import Tensor, make_tensor

__all__ = ["SparseTensor", "made_coo", "made_compressed"]


def _refuse(what: str) -> NoReturn:
    raise NotImplementedError(
        f"{what} has no form for sparse tensors here. Call to_dense() first, or work on "
        "values() and indices()")


class SparseTensor(Holding):
    """A sparse tensor. Make one with `sparse_coo_tensor`, `sparse_csr_tensor` or `to_sparse`.

    `layout` is `sparse_coo`, `sparse_csr` or `sparse_csc`. COO tensors may name a place more than
    once, its values are then added; `coalesce()` sorts and adds them.
    """

    _layout: Any
    _places: Any  # COO: (dims, n) of int64; compressed: the plain indices
    _starts: Any  # compressed: where each row or column begins
    _held: Any  # values (n, *dense)
    _sorted: bool

    # ---- what the tensor is

    @property
    def layout(self) -> Any:
        """The kind of sparse tensor."""
        return self._layout

    @property
    def is_sparse(self) -> bool:
        """Whether this is a COO tensor."""
        return self._layout is L.sparse_coo

    @property
    def is_sparse_csr(self) -> bool:
        """Whether this is a CSR tensor."""
        return self._layout is L.sparse_csr

    def backward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """RuntimeError: a sparse tensor has no single value."""
        raise RuntimeError("grad can be implicitly created only for scalar outputs")

    def _nnz(self) -> int:
        """How many elements are kept."""
        return self._held.shape[0]

    def sparse_dim(self) -> int:
        """How many dims are sparse."""
        return self._places.shape[0] if self.is_sparse else 2

    def dense_dim(self) -> int:
        """How many dims each value has."""
        return self.dim() - self.sparse_dim()

    def is_coalesced(self) -> bool:
        """Whether places are sorted and named once."""
        self._need(L.sparse_coo, "is_coalesced")
        return self._sorted

    def _need(self, kind: Any, name: str) -> None:
        if self._layout is not kind:
            raise RuntimeError(f"{name} expected a tensor of layout {kind}, but got one of layout "
                               f"{self._layout}")

    def _coalesced_(self, coalesced: bool) -> SparseTensor:
        """Say that the places are sorted and named once, without looking."""
        self._sorted = coalesced
        return self

    def _indices(self) -> Tensor:
        """Places, as they are kept."""
        self._need(L.sparse_coo, "_indices")
        return self._places

    def _values(self) -> Tensor:
        """Values, as they are kept."""
        return self._held

    def indices(self) -> Tensor:
        """Places (sparse dims, n) of a coalesced COO tensor."""
        self._need(L.sparse_coo, "indices")
        if not self._sorted:
            raise RuntimeError("Cannot get indices on an uncoalesced tensor, please call "
                               ".coalesce() first")
        return self._places

    def values(self) -> Tensor:
        """Values (n, *dense dims) of a coalesced or compressed tensor."""
        if self.is_sparse and not self._sorted:
            raise RuntimeError("Cannot get values on an uncoalesced tensor, please call "
                               ".coalesce() first")
        return self._held

    def _compressed(self, kind: Any, name: str, what: str) -> Tensor:
        self._need(kind, name)
        return getattr(self, what)

    def crow_indices(self) -> Tensor:
        """Where each row of a CSR tensor begins."""
        return self._compressed(L.sparse_csr, "crow_indices", "_starts")

    def col_indices(self) -> Tensor:
        """The columns of a CSR tensor's values."""
        return self._compressed(L.sparse_csr, "col_indices", "_places")

    def ccol_indices(self) -> Tensor:
        """Where each column of a CSC tensor begins."""
        return self._compressed(L.sparse_csc, "ccol_indices", "_starts")

    def row_indices(self) -> Tensor:
        """The rows of a CSC tensor's values."""
        return self._compressed(L.sparse_csc, "row_indices", "_places")

    # ---- other forms of the same tensor

    def _with(self, values: Tensor) -> SparseTensor:
        """Other values at the same places."""
        if self.is_sparse:
            return made_coo(self._places, values, self._shape_with(values), self._sorted)
        return made_compressed(self._layout, self._starts, self._places, values,
                               tuple(self.shape))

    def _shape_with(self, values: Tensor) -> tuple[int, ...]:
        return (*self.shape[:self.sparse_dim()], *values.shape[1:])

    def to_sparse_coo(self) -> SparseTensor:
        """The COO tensor of the same elements."""
        if self.is_sparse:
            return self
        lines = lampion.arange(self._starts.shape[0] - 1, device=self._places.device)
        lines = lines.repeat_interleave(self._starts.diff().to(lampion.int64),
                                        output_size=self._nnz())
        pair = (lines, self._places.to(lampion.int64))
        rows, columns = pair if self.is_sparse_csr else pair[::-1]
        coo = made_coo(lampion.stack([rows, columns]), self._held, tuple(self.shape), False)
        return coo._coalesced_(self.is_sparse_csr)

    def to_sparse(self, *args: Any, layout: Any = None, blocksize: Any = None,
                  dense_dim: int | None = None) -> SparseTensor:
        """The tensor in another sparse layout; COO by default."""
        if args and not isinstance(args[0], L.layout):
            if args[0] != self.sparse_dim():
                _refuse("to_sparse with another number of sparse dims")
            args = ()
        kind = args[0] if args else layout or L.sparse_coo
        if kind is L.sparse_coo:
            return self.to_sparse_coo()
        return self.to_sparse_csr() if kind is L.sparse_csr else self.to_sparse_csc()

    def to_sparse_csr(self, dense_dim: int | None = None) -> SparseTensor:
        """The CSR tensor of the same elements."""
        if self.is_sparse_csr:
            return self
        coo = self.to_sparse_coo().coalesce()
        if coo.sparse_dim() != 2:
            raise RuntimeError("to_sparse_csr: a matrix is compressed, not a tensor of "
                               f"{coo.sparse_dim()} sparse dims")
        rows, columns = coo._places
        return made_compressed(L.sparse_csr, _starts_of(rows, self.shape[0]), columns, coo._held,
                               tuple(self.shape))

    def to_sparse_csc(self, dense_dim: int | None = None) -> SparseTensor:
        """The CSC tensor of the same elements."""
        if self._layout is L.sparse_csc:
            return self
        turned = self.t().to_sparse_csr()
        return made_compressed(L.sparse_csc, turned._starts, turned._places, turned._held,
                               tuple(self.shape))

    def coalesce(self) -> SparseTensor:
        """The COO tensor with sorted places, each named once."""
        self._need(L.sparse_coo, "coalesce")
        if self._sorted:
            return self
        sizes = self.shape[:self.sparse_dim()]
        keys, inverse = lampion.unique(_keys(self._places, sizes), sorted=True,
                                       return_inverse=True)
        total = _added(self._held, inverse, keys.shape[0])
        return made_coo(_places_of(keys, sizes), total, tuple(self.shape), True)

    def to_dense(self, dtype: Any = None, *, masked_grad: bool = True) -> Tensor:
        """The dense tensor of the same elements."""
        coo = self.to_sparse_coo()
        sizes = coo.shape[:coo.sparse_dim()]
        total = _added(coo._held, _keys(coo._places, sizes), math.prod(sizes))
        dense = total.reshape(tuple(self.shape))
        return dense if dtype is None else dense.to(dtype)

    def detach(self) -> SparseTensor:
        """The same elements without their history."""
        return self._with(self._held.detach())

    def clone(self, *, memory_format: Any = None) -> SparseTensor:
        """A copy of places and values."""
        if self.is_sparse:
            return made_coo(self._places.clone(), self._held.clone(), tuple(self.shape),
                            self._sorted)
        return made_compressed(self._layout, self._starts.clone(), self._places.clone(),
                               self._held.clone(), tuple(self.shape))

    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        """Moved or cast, as `Tensor.to`."""
        held = self._held.to(*args, **kwargs)
        where = held.device
        if self.is_sparse:
            return made_coo(self._places.to(where), held, tuple(self.shape), self._sorted)
        return made_compressed(self._layout, self._starts.to(where), self._places.to(where), held,
                               tuple(self.shape))

    def cpu(self, *args: Any, **kwargs: Any) -> SparseTensor:
        """On the processor."""
        return self.to("cpu")

    def type(self, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Cast to a dtype, or the name of the type."""
        if dtype is None:
            return f"torch.sparse.{self._held.type().rpartition('.')[2]}"
        return self.to(dtype)

    def contiguous(self, memory_format: Any = None) -> SparseTensor:
        """The tensor itself."""
        return self

    def numpy(self, *args: Any, **kwargs: Any) -> NoReturn:
        """TypeError: NumPy has no sparse arrays."""
        raise TypeError(f"can't convert {self._layout} layout tensor to numpy. Use "
                        "Tensor.to_dense() first.")

    def tolist(self) -> Any:
        """The dense tensor's elements."""
        return self.to_dense().tolist()

    def item(self) -> Any:
        """The one element."""
        return self.to_dense().item()

    def stride(self, dim: Any = None) -> NoReturn:
        """RuntimeError: sparse tensors have no strides."""
        raise RuntimeError("Sparse tensors do not have strides")

    def untyped_storage(self) -> NoReturn:
        """NotImplementedError: there are several storages."""
        _refuse("untyped_storage")

    storage = data_ptr = untyped_storage  # type: ignore[assignment]

    @property
    def data(self) -> SparseTensor:
        """`detach()`."""
        return self.detach()

    def is_floating_point(self) -> bool:
        """Whether values are floating-point numbers."""
        return self._held.is_floating_point()

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.to_dense())

    def __iter__(self) -> Any:
        return (self[k] for k in range(self.shape[0]))

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseTensor:
        return self.clone().detach().requires_grad_(self.requires_grad)

    def __reduce_ex__(self, proto: int) -> Any:
        from .._utils import _rebuild_sparse_tensor

        if self.is_sparse:
            return _rebuild_sparse_tensor, (L.sparse_coo, (
                self._places, self._held, tuple(self.shape), self._sorted))
        return _rebuild_sparse_tensor, (self._layout, (
            self._starts, self._places, self._held, tuple(self.shape)))

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        parts = [("indices", self._places)] if self.is_sparse else (
            [("crow_indices", self._starts), ("col_indices", self._places)]
            if self.is_sparse_csr else
            [("ccol_indices", self._starts), ("row_indices", self._places)])
        text = ",\n       ".join(f"{n}={t!r}" for n, t in [*parts, (
            "values", self._held.detach())])
        text += f",\n       size={tuple(self.shape)}, nnz={self._nnz()}"
        if self._held.dtype is not lampion.get_default_dtype():
            text += f", dtype={self._held.dtype}"
        text += f", layout={self._layout}"
        if self.grad_fn is not None:
            text += f", grad_fn=<{type(self.grad_fn).__name__}>"
        elif self.requires_grad:
            text += ", requires_grad=True"
        return f"tensor({text})"

    __str__ = __repr__

    # ---- ops

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from . import ops

        name = getattr(func, "__name__", str(func))
        rule = ops.RULES.get(name)
        if rule is None:
            _refuse(name)
        return rule(*args, **(kwargs or {}))

    def __getitem__(self, index: Any) -> Any:
        from . import ops

        return ops.item(self, index)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        _refuse("assignment to elements")


def _keys(places: Tensor, sizes: Any) -> Tensor:
    """One number per place: its position in a dense tensor of these sizes."""
    if not len(sizes):
        return lampion.zeros(places.shape[1], dtype=lampion.int64, device=places.device)
    total = places[0]
    for k in range(1, len(sizes)):
        total = total * sizes[k] + places[k]
    return total


def _places_of(keys: Tensor, sizes: Any) -> Tensor:
    """The places of such numbers."""
    rows = []
    for n in reversed(sizes):
        rows.append(keys % n)
        keys = keys.div(n, rounding_mode="floor")
    if not rows:
        return lampion.zeros(0, keys.shape[0], dtype=lampion.int64, device=keys.device)
    return lampion.stack(rows[::-1])


def _added(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """The sums of the values in each of `count` groups."""
    if values.dtype is lampion.bool:
        return _added(values.to(lampion.uint8), groups, count) > 0
    zeros = lampion.zeros((count, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return zeros.index_add(0, groups, values)


def _starts_of(lines: Tensor, count: int) -> Tensor:
    """Where each of `count` lines begins, given the sorted lines of the elements."""
    found = lampion.bincount(lines, minlength=count).cumsum(0)
    return lampion.cat([found.new_zeros(1), found])


def _made(values: Tensor, shape: tuple[int, ...]) -> SparseTensor:
    """The shell: a tensor of the shape that shows one zero everywhere."""
    zero = lampion.zeros(1, dtype=values.dtype, device=values.device)
    seen = meta(values.dtype, shape, (0,) * len(shape), values.device)
    made: SparseTensor = make_tensor(zero.data_, seen, None).as_subclass(SparseTensor)
    made._held, made._starts = values, None
    return made


def made_coo(places: Tensor, values: Tensor, shape: tuple[int, ...],
             coalesced: bool) -> SparseTensor:
    """A COO tensor of parts that fit."""
    made = _made(values, shape)
    made._layout, made._places, made._sorted = L.sparse_coo, places, coalesced
    return made


def made_compressed(kind: Any, starts: Tensor, places: Tensor, values: Tensor,
                    shape: tuple[int, ...]) -> SparseTensor:
    """A CSR or CSC tensor of parts that fit."""
    made = _made(values, shape)
    made._layout, made._starts, made._places, made._sorted = kind, starts, places, True
    return made


