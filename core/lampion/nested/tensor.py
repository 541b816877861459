"""The nested tensor: values of all examples one after another, and where each example begins.

A nested tensor is a `Tensor` whose elements are kept as dense tensors. What it computes is composed
of ops on these, on every device, and is recorded for autograd through them. Floor 7; imports the
public lampion API.
"""

from __future__ import annotations

import itertools
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import lampion

from .. import watching
from ..base import layout as L
from ..base.meta import meta
from ..holding import Holding
from ..symbolic import SymInt
from ..tensor import Tensor, make_tensor

_numbers = itertools.count(1)
_sizes: WeakKeyDictionary[Any, RaggedSize] = WeakKeyDictionary()  # by what holds the offsets


class RaggedSize(SymInt):
    """The size of a ragged dim: one for each example. Nested tensors with the same offsets have the
    same; what is made element by element keeps it."""

    _number: int
    _factor: int

    @staticmethod
    def of(offsets: Tensor) -> RaggedSize:
        """The size of these offsets."""
        held = offsets.data_.base
        found = _sizes.get(held)
        if found is None:
            found = _sizes[held] = RaggedSize._new(next(_numbers), 1)
        return found

    @staticmethod
    def _new(number: int, factor: int) -> RaggedSize:
        made = object.__new__(RaggedSize)
        made._number, made._factor = number, factor
        return made

    def __repr__(self) -> str:
        return f"j{self._number}" if self._factor == 1 else f"{self._factor}*j{self._number}"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, RaggedSize) and (
            (self._number, self._factor) == (other._number, other._factor))

    def __hash__(self) -> int:
        return hash((self._number, self._factor))

    def __mul__(self, n: int) -> RaggedSize:
        return RaggedSize._new(self._number, self._factor * n)

    __rmul__ = __mul__

    def __index__(self) -> NoReturn:
        raise TypeError(f"the ragged size {self} is no number: it differs from example to example")

    __int__ = __float__ = __index__

    def _least(self, other: Any) -> bool:
        if isinstance(other, int) and other <= 1:  # no program may ask whether it is empty
            return True
        raise ValueError(f"the ragged size {self} has no order to {other}")

    __gt__ = __ge__ = _least

    def __lt__(self, other: Any) -> bool:
        return not self._least(other)

    __le__ = __lt__


def _refuse(name: str, why: str = "has no form for nested tensors here. Work on values() and "
            "offsets(), on unbind(), or on to_padded_tensor()") -> NoReturn:
    raise RuntimeError(f"{name}(): {why}")


class NestedTensor(Holding):
    """A batch of tensors that differ in the size of one dim. `nested_tensor`,
    `nested_tensor_from_jagged` and others make one."""

    _sees_whole_calls = True
    _held: Tensor
    _starts: Tensor
    _counts: Tensor | None
    _ragged_idx: int
    _kind: Any
    _min: int | None
    _max: int | None

    # ---- what the tensor is

    def values(self) -> Tensor:
        """The elements of all examples, joined along the ragged dim."""
        return self._held

    _values = values

    def offsets(self) -> Tensor:
        """Where each example begins, and where the last one ends: (B + 1,)."""
        return self._starts

    def lengths(self) -> Tensor | None:
        """How many elements each example has, where that does not follow from the offsets."""
        return self._counts

    @property
    def _lengths(self) -> Tensor | None:
        return self._counts

    def sizes_of(self) -> Tensor:
        """How many elements each example has along the ragged dim."""
        return self._starts.diff() if self._counts is None else self._counts

    def _get_max_seqlen(self) -> int:
        """The size of the longest example."""
        if self._max is None:
            self._max = int(self.sizes_of().max())
        return self._max

    def _get_min_seqlen(self) -> int:
        """The size of the shortest example."""
        if self._min is None:
            self._min = int(self.sizes_of().min())
        return self._min

    @property
    def is_nested(self) -> bool:  # type: ignore[override]
        """True."""
        return True

    @property
    def layout(self) -> Any:
        """`jagged`, or `strided` where it was made so."""
        return self._kind

    @property
    def shape(self) -> Any:  # type: ignore[override]
        """The size of every dim; that of the ragged one is a `RaggedSize`."""
        sizes: list[Any] = list(self._held.shape)
        sizes[self._ragged_idx - 1] = RaggedSize.of(self._starts)
        return lampion.Size((self._starts.shape[0] - 1, *sizes))

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dim."""
        return self.shape if dim is None else self.shape[self._dim(dim)]

    def _size(self) -> Any:
        return self.shape

    def stride(self, dim: int | None = None) -> Any:
        """Strides of the values, and that of the batch, which is a multiple of the ragged size."""
        held = self._held.stride()
        whole = RaggedSize.of(self._starts) * held[self._ragged_idx - 1]
        return (whole, *held) if dim is None else (whole, *held)[self._dim(dim)]

    def numel(self) -> int:
        """How many elements the values have."""
        return self._held.numel()

    nelement = numel

    def __len__(self) -> int:
        return self._starts.shape[0] - 1

    def _dim(self, dim: int) -> int:
        """A dim as a number from 0 on. IndexError if there is none."""
        n = self._held.dim() + 1
        if not -n <= dim < n:
            raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], "
                             f"but got {dim})")
        return dim % n

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """Whether the ragged dim is the first one and the values are contiguous and complete."""
        return self._ragged_idx == 1 and self._counts is None and self._held.is_contiguous()

    def untyped_storage(self) -> NoReturn:
        """RuntimeError: there are several storages."""
        _refuse("untyped_storage")

    storage = data_ptr = untyped_storage  # type: ignore[assignment]

    def backward(self, gradient: Any = None, *args: Any, **kwargs: Any) -> None:
        """Accumulate gradients, given that of this tensor, a nested one."""
        if gradient is None:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        self._held.backward(gradient._held if isinstance(gradient, NestedTensor) else gradient,
                            *args, **kwargs)

    def detach(self) -> NestedTensor:
        """The same elements without their history."""
        return self._with(self._held.detach())

    @property
    def data(self) -> NestedTensor:  # type: ignore[override]
        """`detach()`."""
        return self.detach()

    def to_padded_tensor(self, padding: float, output_size: Any = None) -> Tensor:
        """See `lampion.nested.to_padded_tensor`."""
        from . import ops

        return ops.to_padded_tensor(self, padding, output_size)

    # ---- on the host

    def tolist(self) -> list[Any]:
        """The examples as lists."""
        return [t.tolist() for t in self.unbind()]

    def numpy(self, *args: Any, **kwargs: Any) -> NoReturn:
        """RuntimeError: NumPy has no ragged arrays."""
        _refuse("numpy")

    def item(self) -> Any:
        """The one element."""
        return self._held.item()

    def __iter__(self) -> Any:
        return iter(self.unbind())

    def __bool__(self) -> bool:
        return bool(self._held)

    def __deepcopy__(self, memo: dict[int, Any]) -> NestedTensor:
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: int) -> Any:
        return made, (self._held, self._starts, self._counts, self._ragged_idx, self._kind)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        parts = [f"size=({', '.join(map(str, self.shape))})", f"offsets={self._starts!r}"]
        if self._counts is not None:
            parts.append(f"lengths={self._counts!r}")
        if self.grad_fn is not None:
            parts.append(f"grad_fn=<{type(self.grad_fn).__name__}>")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return f"NestedTensor({', '.join(parts)}, contiguous={self.is_contiguous()})"

    __str__ = __repr__

    # ---- others of the same offsets

    def _with(self, values: Tensor, ragged_idx: int | None = None) -> NestedTensor:
        """Other values of the same examples."""
        return made(values, self._starts, self._counts, ragged_idx or self._ragged_idx, self._kind,
                    self._min, self._max)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from . import ops

        return ops.call(func, args, kwargs or {})


def made(values: Tensor, offsets: Tensor, lengths: Tensor | None = None, ragged_idx: int = 1,
         layout: Any = L.jagged, least: int | None = None, most: int | None = None) -> NestedTensor:
    """A nested tensor of parts that fit."""
    watching.follow_classes()  # functions that are made of ops are asked about as a whole
    zero = lampion.zeros(1, dtype=values.dtype, device=values.device)
    shape = (max(offsets.shape[0] - 1, 0), *values.shape)
    seen = meta(values.dtype, shape, (0,) * len(shape), values.device)
    found: NestedTensor = make_tensor(zero.data_, seen, None).as_subclass(NestedTensor)
    found._held, found._starts, found._counts = values, offsets, lengths
    found._ragged_idx, found._kind, found._min, found._max = ragged_idx, layout, least, most
    return found
