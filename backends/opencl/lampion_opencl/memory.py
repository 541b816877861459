"""Device memory: storages over pooled buffers, with our own account of the bytes.

Drivers accept more memory than there is and fail later, so the pool keeps count and refuses
first. A freed buffer goes back to its bin at once: the device's queue runs in order, so whatever
is enqueued next comes after the work that still reads it. Imports pyopencl, lampion's floors 0-2.
"""

from __future__ import annotations

import threading
from typing import Any

import pyopencl as cl

from lampion.base.errors import OutOfMemoryError
from lampion.runtime.arguments import human

from .errors import explain

SMALLEST = 256


def round_size(nbytes: int) -> int:
    """The bin for a request: at least 256 bytes, then 8 sizes per power of two.

    >>> round_size(1), round_size(1000), round_size(1025)
    (256, 1024, 1152)
    """
    if nbytes <= SMALLEST:
        return SMALLEST
    step = max(SMALLEST, 1 << max(0, (nbytes - 1).bit_length() - 4))
    return -(-nbytes // step) * step


class Bin:
    """Free buffers of one size."""

    __slots__ = ("size", "free", "pool")

    def __init__(self, size: int, pool: "Pool") -> None:
        self.size = size
        self.free: list[Any] = []
        self.pool = pool


class Storage:
    """A piece of a device buffer. `offset` is in bytes from the buffer's start; a view keeps its
    base alive, and the base gives the buffer back to its bin."""

    __slots__ = ("buf", "nbytes", "offset", "bin", "_base", "version", "epoch", "writer",
                 "__weakref__")

    def __init__(self, buf: Any, nbytes: int, bin: Bin, offset: int = 0,
                 base: "Storage | None" = None) -> None:
        self.buf = buf
        self.nbytes = nbytes
        self.bin = bin
        self.offset = offset
        self._base = base
        self.version = 0
        self.epoch = 0
        self.writer: Any = None

    @property
    def base(self) -> "Storage":
        """The storage that owns the memory."""
        return self if self._base is None else self._base

    @property
    def device(self) -> Any:
        """The device this memory is on."""
        return self.bin.pool.device

    @property
    def handle(self) -> Any:
        """The `pyopencl.Buffer`."""
        return self.buf

    def view(self, byte_offset: int) -> "Storage":
        """The memory from `byte_offset` past this view's start on."""
        if byte_offset == 0:
            return self
        base, at = self.base, self.offset + byte_offset
        if not 0 <= at <= base.nbytes:
            raise IndexError(f"byte {at} is outside a storage of {base.nbytes} bytes")
        return Storage(self.buf, base.nbytes - at, self.bin, at, base)

    def __del__(self) -> None:
        if self._base is None:
            b = self.bin
            b.free.append(self.buf)
            b.pool.active -= b.size

    def __repr__(self) -> str:
        return f"<opencl storage of {self.nbytes} bytes at offset {self.offset}>"


class Pool:
    """Buffers of one device by size. `limit`: bytes that may be reserved in all."""

    def __init__(self, context: Any, device: Any, limit: int, largest: int) -> None:
        self.context, self.device = context, device
        self.limit, self.largest = limit, largest
        self.bins: dict[int, Bin] = {}
        self._serves: dict[int, Bin] = {}  # bins by the size of a request
        self.active = 0
        self.peak = 0
        self.reserved = 0
        self.allocations = 0
        self._lock = threading.Lock()

    def bin(self, nbytes: int) -> Bin:
        """The bin that serves requests of `nbytes`."""
        found = self._serves.get(nbytes)
        if found is None:
            size = round_size(nbytes)
            with self._lock:
                found = self.bins.setdefault(size, Bin(size, self))
                if len(self._serves) > 4096:
                    self._serves.clear()
                self._serves[nbytes] = found
        return found

    def allocate(self, nbytes: int) -> Storage:
        """A storage of `nbytes`. OutOfMemoryError names who holds what."""
        b = self.bin(nbytes)
        try:
            buf = b.free.pop()
        except IndexError:
            buf = self.grow(b)
        self.active = a = self.active + b.size
        if a > self.peak:
            self.peak = a
        return Storage(buf, nbytes, b)

    def grow(self, b: Bin) -> Any:
        """A new buffer for a bin that is empty."""
        if b.size > self.largest:
            raise OutOfMemoryError(
                f"cannot allocate {human(b.size)} on {self.device}: its largest single buffer is "
                f"{human(self.largest)}. {self.holders()}")
        with self._lock:
            if self.reserved + b.size > self.limit:
                self._release()
            if self.reserved + b.size > self.limit:
                raise OutOfMemoryError(
                    f"cannot allocate {human(b.size)} on {self.device}. {self.holders()}")
            try:
                buf = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, b.size)
            except (cl.Error, MemoryError) as error:
                self._release()
                try:
                    buf = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, b.size)
                except (cl.Error, MemoryError):
                    raise explain(error, f"allocating {human(b.size)} on {self.device}",
                                  self.holders()) from error
            self.reserved += b.size
            self.allocations += 1
            return buf

    def _release(self) -> None:
        for b in list(self.bins.values()):
            while b.free:
                try:
                    b.free.pop().release()
                except IndexError:
                    break
                self.reserved -= b.size

    def empty_cache(self) -> None:
        """Give free buffers back to the driver."""
        with self._lock:
            self._release()

    def holders(self) -> str:
        """Who holds the memory, for error messages."""
        cached = self.reserved - self.active
        import gc
        from collections import Counter

        live = Counter(o.bin.size for o in gc.get_objects()
                       if type(o) is Storage and o._base is None and o.bin.pool is self)
        sizes = [f"{live[n]} x {human(n)}" for n in sorted(live, reverse=True)]
        largest = f" (largest first: {', '.join(sizes[:4])})" if sizes else ""
        return (f"Live tensors hold {human(self.active)}{largest}, {human(max(cached, 0))} is "
                f"cached, the limit is {human(self.limit)}. Free tensors, use smaller batches, or "
                "raise memory_fraction in [backend.opencl].")

    def stats(self) -> dict[str, int]:
        """Bytes by name."""
        return {"allocated": self.active, "peak": self.peak, "reserved": self.reserved,
                "limit": self.limit, "allocations": self.allocations}
