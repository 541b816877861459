"""Pinned host memory: what the GPU's copy engines read and write while nobody waits.

Locking pages is slow, so blocks are kept and used again, as soon as the copies that use them are
done. Imports this package's driver, memory and streams.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from .driver import check
from .streams import Event

if TYPE_CHECKING:
    from .driver import Device
    from .streams import Stream

SMALLEST = 4096


class Block:
    """A block of pinned memory at `pointer`; a tensor owns it, and its pool gets it back."""

    __slots__ = ("pointer", "size", "pool", "events", "__weakref__")

    def __init__(self, pointer: int, size: int, pool: PinnedPool) -> None:
        self.pointer, self.size, self.pool = pointer, size, pool
        self.events: dict[Stream, Event] = {}  # the end of the last copy that uses it, by stream

    def used(self, stream: Stream) -> None:
        """A copy from or to this block was enqueued on a stream."""
        event = self.events.get(stream)
        if event is None:
            event = self.events[stream] = Event()
        event.record(stream)

    def __del__(self) -> None:
        try:
            self.pool.give_back(self)
        except Exception:
            pass  # the interpreter is shutting down


class PinnedPool:
    """All pinned memory of the process; any GPU may use it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.free: dict[int, list[int]] = {}
        self.waiting: list[tuple[Collection[Event], int, int]] = []
        self.starts: list[int] = []       # of the blocks in use, in order
        self.blocks: dict[int, Any] = {}  # weak references to them by start
        self.reserved = 0

    def allocate(self, gpu: Device, nbytes: int) -> Block:
        """A block of at least `nbytes`. OutOfMemoryError or RuntimeError if there is none."""
        import weakref

        size = max(SMALLEST, 1 << (nbytes - 1).bit_length())
        with self.lock:
            self._collect()
            stock = self.free.get(size)
            if stock:
                pointer = stock.pop()
            else:
                gpu.activate()
                portable = 1  # CU_MEMHOSTALLOC_PORTABLE: for all contexts
                pointer = int(check(gpu.drv.cuMemHostAlloc(size, portable),
                                    f"allocating {size} bytes of pinned host memory"))
                self.reserved += size
            block = Block(pointer, size, self)
            bisect.insort(self.starts, pointer)
            self.blocks[pointer] = weakref.ref(block)
            return block

    def find(self, pointer: int, nbytes: int) -> Block | None:
        """The block in use that holds `nbytes` from an address on, or None."""
        with self.lock:
            k = bisect.bisect_right(self.starts, pointer) - 1
            if k < 0:
                return None
            block = self.blocks[self.starts[k]]()
            if block is None or pointer + nbytes > block.pointer + block.size:
                return None
            found: Block = block
            return found

    def give_back(self, block: Block) -> None:
        """A block is not used any more, save by copies that were enqueued."""
        with self.lock:
            self.starts.remove(block.pointer)
            del self.blocks[block.pointer]
            self.waiting.append((block.events.values(), block.pointer, block.size))

    def _collect(self) -> None:
        waiting, self.waiting = self.waiting, []
        for entry in waiting:
            events, pointer, size = entry
            if all(e.query() for e in events):
                self.free.setdefault(size, []).append(pointer)
            else:
                self.waiting.append(entry)

    def empty_cache(self, gpu: Device) -> None:
        """Give free blocks back to the system."""
        with self.lock:
            self._collect()
            gpu.activate()
            for size, pointers in self.free.items():
                for pointer in pointers:
                    check(gpu.drv.cuMemFreeHost(pointer), "freeing pinned host memory")
                    self.reserved -= size
            self.free.clear()


POOL = PinnedPool()


def address(source: Any) -> int:
    """The address of a storage of the host's backend; 0 if it has none."""
    return int(getattr(source, "ptr", 0))


def send(source: Any, storage: Any, nbytes: int) -> bool:
    """Enqueue a copy from a pinned storage of the host on the current stream; False if it is not
    pinned."""
    pointer = address(source)
    block = POOL.find(pointer, nbytes)
    if block is None:
        return False
    gpu = storage.bin.pool.device
    gpu.activate()
    s = gpu.current.stream
    check(gpu.drv.cuMemcpyHtoDAsync(storage.ptr, pointer, nbytes, s.cu), f"copying to {gpu.where}")
    _use(block, s)
    return True


def fetch(storage: Any, target: Any, nbytes: int, wait: bool) -> bool:
    """Copy into a storage of the host. Without `wait` the copy is only enqueued if the target is
    pinned. False if the host's storage has no address."""
    pointer = address(target)
    if not pointer:
        return False
    gpu = storage.bin.pool.device
    s = gpu.current.stream
    block = None if wait else POOL.find(pointer, nbytes)
    if block is None and s.capture is not None:
        s.capture.refuse("reading values on the host")
    gpu.activate()
    check(gpu.drv.cuMemcpyDtoHAsync(pointer, storage.ptr, nbytes, s.cu),
          f"copying from {gpu.where}")
    if block is not None:
        _use(block, s)
    else:
        check(gpu.drv.cuStreamSynchronize(s.cu), f"copying from {gpu.where}")
        gpu.poll()
    return True


def _use(block: Block, stream: Stream) -> None:
    if stream.capture is not None:
        stream.capture.keep.append(block)  # replays use it
    else:
        block.used(stream)
