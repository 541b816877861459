"""Storages on their way to and from files.

A checkpoint names each piece of memory by a key; tensors refer to it with offset, size and
strides. `StoredMemory` is such a piece: device memory with the element type the file gives it.

Floor 7; imports tensor and the planning below it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...base import dtype as dt
from ...base.dtype import dtype
from ...base.meta import meta
from ...ops import plans
from ...runtime.devices import resolve
from ...tensor import make_tensor


class StoredMemory:
    """Device memory with an element type: what a tensor in a checkpoint is a view of.

    Attributes: `data` (the base storage), `dtype` (None for untyped bytes), `device`, `nbytes`.
    """

    __slots__ = ("data", "device", "dtype", "nbytes")

    def __init__(self, data: Any, kind: dtype | None, device: Any, nbytes: int) -> None:
        self.data = data
        self.dtype = kind
        self.device = device
        self.nbytes = nbytes

    @property
    def location(self) -> str:
        """The device's name in a checkpoint."""
        return str(self.device)

    def __len__(self) -> int:
        return self.nbytes // (self.dtype.itemsize if self.dtype else 1)

    def host_bytes(self) -> memoryview:
        """The bytes; shares memory where the host can see it (keep `self` alive then)."""
        backend = plans.backend_of(self.device)
        if not self.nbytes:
            return memoryview(b"")
        view = backend.host_view(self.data)
        if view is None:
            view = memoryview(backend.copy_to_host(self.data, self.nbytes))
        return view[: self.nbytes]

    def fill(self, data: Any) -> None:
        """Overwrite the memory with bytes of the host."""
        if self.nbytes:
            plans.backend_of(self.device).copy_from_host(data, self.data)

    def to(self, device: Any) -> StoredMemory:
        """This memory on another device (itself if it is there)."""
        where = resolve(device)
        if where is self.device:
            return self
        moved = allocate(self.nbytes, self.dtype, where)
        moved.fill(self.host_bytes())
        return moved

    def cpu(self) -> StoredMemory:
        """This memory on the host."""
        return self.to("cpu")

    def tensor(self, offset: int, size: Any, stride: Any, kind: dtype | None = None) -> Any:
        """A tensor over this memory. RuntimeError if it would reach outside."""
        kind = kind or self.dtype or dt.uint8
        geometry = meta(kind, tuple(size), tuple(stride), self.device)
        start = offset * kind.itemsize
        least = min(0, sum((n - 1) * s for n, s in zip(geometry.shape, geometry.strides) if s < 0))
        if offset < 0 or least < 0 or any(n < 0 for n in geometry.shape):
            raise RuntimeError(f"the checkpoint has a tensor of impossible geometry: {geometry}")
        if start + geometry.span > self.nbytes and geometry.numel:
            raise RuntimeError(
                f"the checkpoint has a tensor that needs {start + geometry.span} bytes of a "
                f"storage of {self.nbytes}: {geometry}"
            )
        data = self.data.view(start) if start and geometry.numel else self.data
        return make_tensor(data, geometry, None)


def allocate(nbytes: int, kind: dtype | None, device: Any) -> StoredMemory:
    """Fresh memory on a device."""
    where = resolve(device)
    return StoredMemory(plans.backend_of(where).allocate(nbytes, where), kind, where, nbytes)


def of_tensor(tensor: Any) -> StoredMemory:
    """The whole memory that a tensor is a view of."""
    base = tensor.data_.base
    return StoredMemory(base, tensor.meta.dtype, tensor.meta.device, base.nbytes)


def over_host(buffer: Any, kind: dtype | None) -> StoredMemory:
    """Host memory that a writable buffer owns, without a copy where the backend can."""
    array = np.frombuffer(buffer, dtype=np.uint8)
    where = resolve("cpu")
    data = None
    if array.nbytes:
        data = plans.backend_of(where).wrap_host(array.ctypes.data, array.nbytes, array, where)
    if data is None:
        made = allocate(array.nbytes, kind, where)
        made.fill(array)
        return made
    return StoredMemory(data, kind, where, array.nbytes)


def swap_bytes(memory: StoredMemory) -> None:
    """Reverse the byte order of every element, in host memory."""
    kind = memory.dtype
    if kind is None or kind.itemsize == 1 or not memory.nbytes:
        return
    width = kind.itemsize // 2 if kind.is_complex else kind.itemsize
    swapped = np.frombuffer(memory.host_bytes(), dtype=f"u{width}").byteswap()
    memory.fill(swapped.view(np.uint8))
