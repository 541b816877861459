"""Storages with a dtype: the memory of a tensor as a row of elements. Floor 7; imports interop.

`UntypedStorage` is the bytes; programs that read and write elements use these older classes.
"""

from __future__ import annotations

from typing import Any

from .base import dtype as dt
from .creation import empty
from .creation import tensor as make
from .interop import UntypedStorage
from .runtime.devices import resolve
from .tensor import Tensor

__all__ = ["TypedStorage", "UntypedStorage"]


class TypedStorage:
    """A row of `dtype` elements over an untyped storage; writing one writes to its tensors.

    Made of a number of elements, a sequence of numbers, or `wrap_storage`.

    >>> t = lampion.zeros(2)
    >>> t.storage()[1] = 5
    >>> t
    tensor([0., 5.])
    """

    dtype: Any = None

    def __init__(self, *args: Any, wrap_storage: UntypedStorage | None = None, dtype: Any = None,
                 device: Any = None) -> None:
        own = type(self).dtype
        if own is not None and dtype not in (None, own):
            raise RuntimeError(f"{type(self).__name__} holds {own}, not {dtype}")
        self.dtype = own or dtype or dt.get_default_dtype()
        if wrap_storage is None:
            if len(args) > 1:
                raise TypeError(f"{type(self).__name__} takes one size or sequence, "
                                f"not {len(args)} arguments")
            given = args[0] if args else 0
            made = empty(given, dtype=self.dtype, device=device) if isinstance(given, int) else \
                make(list(given), dtype=self.dtype, device=device)
            wrap_storage = made.untyped_storage()
        self._untyped = wrap_storage

    def untyped(self) -> UntypedStorage:
        """The bytes."""
        return self._untyped

    @property
    def device(self) -> Any:
        """Where it lies."""
        return self._untyped.device

    def _tensor(self) -> Tensor:
        """All elements, over the same memory."""
        return empty(0, dtype=self.dtype, device=self.device).set_(self._untyped, 0, (self.size(),))

    def size(self) -> int:
        """The number of elements."""
        return self._untyped.nbytes() // int(self.dtype.itemsize)

    __len__ = size

    def nbytes(self) -> int:
        """The number of bytes."""
        return self._untyped.nbytes()

    def element_size(self) -> int:
        """Bytes of an element."""
        return int(self.dtype.itemsize)

    def data_ptr(self) -> int:
        """Address of the first byte (0 where the device has none)."""
        return self._untyped.data_ptr()

    def __getitem__(self, k: Any) -> Any:
        if isinstance(k, slice):
            raise RuntimeError("slices are only supported in UntypedStorage.__getitem__")
        return self._tensor()[k].item()

    def __setitem__(self, k: Any, value: Any) -> None:
        self._tensor()[k] = value

    def __iter__(self) -> Any:
        return iter(self.tolist())

    def tolist(self) -> list[Any]:
        """The elements."""
        return list(self._tensor().tolist())

    def fill_(self, value: Any) -> TypedStorage:
        """Write a value to all elements."""
        self._tensor().fill_(value)
        return self

    def copy_(self, source: TypedStorage, non_blocking: bool | None = None) -> TypedStorage:
        """Write the elements of a storage of the same size."""
        self._tensor().copy_(source._tensor())
        return self

    def clone(self) -> TypedStorage:
        """A copy."""
        return type(self)(wrap_storage=self._tensor().clone().untyped_storage(), dtype=self.dtype)

    def cpu(self) -> TypedStorage:
        """On the host."""
        return type(self)(wrap_storage=self._tensor().cpu().untyped_storage(), dtype=self.dtype)

    def is_shared(self) -> bool:
        """Whether other processes see this memory."""
        return self._untyped.is_shared()

    def __repr__(self) -> str:
        lines = "\n".join(f" {x}" for x in self.tolist())
        return (f"{lines}\n[lampion.storage.{type(self).__name__}(dtype={self.dtype}, "
                f"device={resolve(self.device)}) of size {self.size()}]")


def _kinds() -> dict[str, type]:
    """`FloatStorage` and the like, each for one dtype."""
    names = {"Double": dt.float64, "Float": dt.float32, "Half": dt.float16, "Long": dt.int64,
             "Int": dt.int32, "Short": dt.int16, "Char": dt.int8, "Byte": dt.uint8,
             "Bool": dt.bool_, "BFloat16": dt.bfloat16, "ComplexDouble": dt.complex128,
             "ComplexFloat": dt.complex64}
    return {f"{n}Storage": type(f"{n}Storage", (TypedStorage,), {
        "dtype": d, "__doc__": f"A row of {d} elements.", "__module__": __name__})
        for n, d in names.items()}


KINDS = _kinds()
_OF = {kind.dtype: kind for kind in KINDS.values()}  # type: ignore[attr-defined]
globals().update(KINDS)
__all__ += KINDS


def storage(self: Tensor) -> TypedStorage:
    """The storage of this tensor and its views, as elements of its dtype."""
    kind = _OF.get(self.dtype, TypedStorage)
    return kind(wrap_storage=self.untyped_storage(), dtype=self.dtype)  # type: ignore[no-any-return]
