"""Device memory: storages over buffers of the driver's stream-ordered pool, in bins per stream.

Buffers come from the driver's pool (`cuMemAllocFromPoolAsync`), which other libraries in the
process share. A freed buffer goes to a bin of its stream and is used again without asking the
driver; `empty_cache` gives bins back. Imports lampion's floors 0-2 and this package's driver.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lampion import config
from lampion.runtime.arguments import human

from .driver import check
from .errors import OUT_OF_MEMORY, explain

if TYPE_CHECKING:
    from .driver import Device
    from .streams import Event, Stream

SMALLEST = 512  # bytes, and the alignment of every buffer is at least 256
KEPT = 1 << 20  # bytes of the largest buffers that are kept for one purpose


def round_size(nbytes: int) -> int:
    """The bin for a request: at least 512 bytes, then 8 sizes per power of two.

    >>> round_size(1), round_size(1000), round_size(5000)
    (512, 1024, 5120)
    """
    if nbytes <= SMALLEST:
        return SMALLEST
    step = max(SMALLEST, 1 << max(0, (nbytes - 1).bit_length() - 4))
    return -(-nbytes // step) * step


class Bin:
    """Free buffers (device addresses) of one size on one stream."""

    __slots__ = ("size", "free", "pool", "stream")

    def __init__(self, size: int, pool: Pool, stream: Stream) -> None:
        self.size = size
        self.free: list[int] = []
        self.pool = pool
        self.stream = stream


class Storage:
    """A piece of device memory: `buf` is the address of the buffer, `offset` the bytes from
    there. A view keeps its base alive, and the base gives the buffer back to its bin."""

    __slots__ = ("buf", "nbytes", "offset", "bin", "_base", "version", "epoch", "writer",
                 "__weakref__")

    def __init__(self, buf: int, nbytes: int, bin: Bin, offset: int = 0,
                 base: Storage | None = None) -> None:
        self.buf = buf
        self.nbytes = nbytes
        self.bin = bin
        self.offset = offset
        self._base = base
        self.version = 0
        self.epoch = 0
        self.writer: Any = None

    @property
    def base(self) -> Storage:
        """The storage that owns the memory."""
        return self if self._base is None else self._base

    @property
    def ptr(self) -> int:
        """The device address of the first byte."""
        return self.buf + self.offset

    @property
    def device(self) -> Any:
        """The device this memory is on."""
        return self.bin.pool.device.where

    @property
    def handle(self) -> int:
        """The device address of the buffer."""
        return self.buf

    def view(self, byte_offset: int) -> Storage:
        """The memory from `byte_offset` past this view's start on."""
        if byte_offset == 0:
            return self
        base, at = self.base, self.offset + byte_offset
        return Storage(self.buf, base.nbytes - at, self.bin, at, base)

    def __del__(self) -> None:
        if self._base is None:
            b = self.bin
            b.free.append(self.buf)
            b.pool.active -= b.size

    def __repr__(self) -> str:
        return f"<cuda storage of {self.nbytes} bytes at {self.buf:#x} + {self.offset}>"


class Lent:
    """The bin of a buffer that other streams use as well: when it is freed it waits until they
    have done what they were given, and then goes to its home bin. For memory of another library
    the home is None, and `owner` is kept so long."""

    __slots__ = ("size", "free", "pool", "stream", "home", "users", "owner")

    def __init__(self, pool: Pool, home: Bin | None, stream: Stream, owner: Any = None) -> None:
        self.pool, self.home, self.stream, self.owner = pool, home, stream, owner
        self.size = 0 if home is None else home.size
        self.free = self  # a storage that dies calls bin.free.append(buf)
        self.users: list[Stream] = []

    def append(self, buf: int) -> None:
        """Take the buffer back."""
        try:
            users = self.users if self.home is not None else [*self.users, self.stream]
            captures = [s.capture for s in users if s.capture is not None]
            if captures:  # work that is captured is done by replays: until then, keep it apart
                captures[0].lent.append((self, buf))
                return
            self.pool.lent.append(([s.record_event() for s in users], self, buf))
            self.pool.collect()
        except Exception:
            pass  # the driver is shutting down

    def done(self, buf: int) -> None:
        """Nobody uses the buffer any more."""
        if self.home is not None:
            self.home.free.append(buf)
        self.owner = None


class Pool:
    """The memory of one GPU. `limit`: bytes that may be reserved in all."""

    def __init__(self, device: Device) -> None:
        drv = device.drv
        self.device = device
        self.limit = int(device.memory * config.get("backend.cuda.memory_fraction"))
        self.handle = check(drv.cuDeviceGetDefaultMemPool(device.handle),
                            f"asking {device.name} for its memory pool")
        # keep what was freed: giving it back to the system at each synchronisation is slow
        attribute = drv.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        check(drv.cuMemPoolSetAttribute(self.handle, attribute, drv.cuuint64_t(2**64 - 1)),
              "configuring the memory pool")
        self.active = self.peak = self.reserved = self.peak_reserved = 0
        self.allocations = self.retries = self.failures = 0
        self.streams: list[Stream] = []
        self.lent: list[tuple[list[Event], Lent, int]] = []  # freed, but still used by streams
        self.lock = threading.RLock()

    def allocate(self, nbytes: int, stream: Stream | None = None) -> Storage:
        """A storage of `nbytes`. OutOfMemoryError names who holds what."""
        size = round_size(nbytes)
        s = self.device.current.stream if stream is None else stream
        try:
            b = s.bins[size]
            buf = b.free.pop()
        except LookupError:
            b, buf = self.grow(s, size)
        self.active = a = self.active + size
        if a > self.peak:
            self.peak = a
        return Storage(buf, nbytes, b)

    def recurring(self, nbytes: int) -> Callable[[], Storage]:
        """A function that allocates `nbytes` again and again, where it can at addresses that it
        gave before. Small buffers are kept for it in bins of its own while it lives; of large ones
        it asks for those it had, of which it gives the older one."""
        size = round_size(nbytes)
        local = self.device.current
        if size <= KEPT:
            key = object()

            def allocate() -> Storage:
                s = local.stream
                try:
                    b = s.bins[key]
                    buf = b.free.pop()
                except LookupError:
                    b, buf = self.grow(s, size, key)
                self.active = a = self.active + size
                if a > self.peak:
                    self.peak = a
                return Storage(buf, nbytes, b)

            weakref.finalize(allocate, self.dissolve, key).atexit = False
            return allocate
        recent: tuple[int, ...] = ()

        def again() -> Storage:
            nonlocal recent
            b = local.stream.bins.get(size)
            for buf in recent if b is not None else ():
                try:
                    b.free.remove(buf)
                except ValueError:
                    continue
                b.free.append(buf)  # the next that is taken
                break
            made = self.allocate(nbytes)
            recent = (*[x for x in recent if x != made.buf], made.buf)[-2:]
            return made

        return again

    def dissolve(self, key: object) -> None:
        """Give the buffers of the bins for `key` to those of their streams."""
        with self.lock:
            for s in self.streams:
                b = s.bins.pop(key, None)
                if b is not None:
                    free, b.free = b.free, self.bin(s, b.size).free
                    b.free += free

    def foreign(self, address: int, nbytes: int, owner: Any) -> Storage:
        """A storage over memory that `owner` keeps: it is let go when all work is done."""
        return Storage(address, nbytes, Lent(self, None, self.device.current.stream, owner))

    def lend(self, storage: Storage, stream: Stream) -> None:
        """Note that work on `stream` uses the storage's buffer: it is not used anew before that
        work is done."""
        base = storage.base
        b = base.bin
        if not isinstance(b, Lent):
            if stream is b.stream:
                return
            base.bin = b = Lent(self, b, b.stream)
        if stream not in b.users:
            b.users.append(stream)

    def collect(self) -> None:
        """Take back lent buffers whose users are done."""
        with self.lock:
            waiting, self.lent = self.lent, []
            for entry in waiting:
                events, lent, buf = entry
                if all(e.query() for e in events):
                    lent.done(buf)
                else:
                    self.lent.append(entry)

    def bin(self, stream: Stream, size: int, key: object = None) -> Bin:
        """The bin of a stream for a size (see `round_size`), or one for a purpose of its own."""
        name = size if key is None else key
        b = stream.bins.get(name)
        if b is None:
            b = stream.bins[name] = Bin(size, self, stream)
            if stream not in self.streams:
                self.streams.append(stream)
        return b

    def grow(self, stream: Stream, size: int, key: object = None) -> tuple[Bin, int]:
        """A new buffer where a bin is missing or empty, and that bin."""
        with self.lock:
            b = self.bin(stream, size, key)
            if self.lent:
                self.collect()
                if b.free:
                    return b, b.free.pop()
            if key is not None:
                try:
                    return b, self.bin(stream, size).free.pop()
                except IndexError:
                    pass
            if self.reserved + size > self.limit:
                self._make_room()
            code, buf = 0, 0
            if self.reserved + size <= self.limit:
                code, buf = self._ask(stream, size)
                if code == OUT_OF_MEMORY:
                    self.retries += 1
                    self._make_room()
                    code, buf = self._ask(stream, size)
            if code or not buf:
                self.failures += 1
                raise explain(code or OUT_OF_MEMORY, f"allocating {human(size)} on "
                              f"{self.device.where}", self.holders())
            self.reserved += size
            self.peak_reserved = max(self.peak_reserved, self.reserved)
            self.allocations += 1
            return b, buf

    def _ask(self, stream: Stream, size: int) -> tuple[int, int]:
        """(result code, address) of a buffer from the driver, usable on `stream`."""
        self.device.activate()
        result = self.device.drv.cuMemAllocFromPoolAsync(size, self.handle, stream.allocator.cu)
        if result[0]:
            return int(result[0]), 0
        stream.allocated()
        return 0, int(result[1])

    def _make_room(self) -> None:
        """Give back what can be given back, waiting for it if need be."""
        if self.lent and not self.device.captures:
            self.device.finish()
            self.collect()
        self.release()

    def release(self) -> None:
        """Give free buffers back to the driver, each in the order of its stream."""
        drv = self.device.drv
        self.device.activate()
        with self.lock:
            for s in self.streams:
                if s.capture is not None:  # its bins belong to the graph
                    continue
                for b in list(s.bins.values()):
                    while b.free:
                        try:
                            buf = b.free.pop()
                        except IndexError:
                            break
                        check(drv.cuMemFreeAsync(buf, s.allocator.cu), "freeing memory")
                        self.reserved -= b.size
                s.freed()

    def empty_cache(self) -> None:
        """Give free buffers back to the system."""
        self.collect()
        self.release()
        self.device.finish()
        check(self.device.drv.cuMemPoolTrimTo(self.handle, 0), "trimming the memory pool")

    def holders(self) -> str:
        """Who holds the memory, for error messages."""
        import gc
        from collections import Counter

        live = Counter(o.bin.size for o in gc.get_objects()
                       if type(o) is Storage and o._base is None and o.bin.pool is self)
        sizes = [f"{live[n]} x {human(n)}" for n in sorted(live, reverse=True)]
        largest = f" (largest first: {', '.join(sizes[:4])})" if sizes else ""
        free, total = self.device.drv.cuMemGetInfo()[1:]
        return (f"Live tensors hold {human(self.active)}{largest}, "
                f"{human(max(self.reserved - self.active, 0))} is cached, the limit is "
                f"{human(self.limit)}; the GPU has {human(free)} of {human(total)} free, the rest "
                "belongs to this or other processes. Free tensors, use smaller batches, or change "
                "memory_fraction in [backend.cuda].")

    def stats(self) -> dict[str, int]:
        """Bytes and counts by name."""
        return {"allocated": self.active, "peak": self.peak, "reserved": self.reserved,
                "peak_reserved": self.peak_reserved, "limit": self.limit,
                "allocations": self.allocations, "retries": self.retries,
                "failures": self.failures}
