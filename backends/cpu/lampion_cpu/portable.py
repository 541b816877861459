"""`PyStorage`: the CPU storage in plain Python, the twin of the native type in `native`.

It has the same attributes, the same allocator policy and the same errors, and needs nothing of
the interpreter: it serves free-threaded builds and systems without POSIX, and it is what the
native type is tested against.

Freed blocks arrive on a queue, because a destructor may run at any moment, also while this thread
holds the allocator's lock. May import: the standard library, `memory`.
"""

from __future__ import annotations

import ctypes
import operator
import os
import threading
from collections import deque
from typing import Any

from . import memory

__all__ = [
    "PyStorage",
    "empty",
    "empty_cache",
    "host_buffer",
    "reset_peak",
    "set_cache_limit",
    "stats",
    "wrap",
]

_PRIVATE = object()


class PyStorage:
    """A block of host memory, or a part of one.

    Attributes: ``ptr`` (address of the first byte), ``nbytes`` (bytes from there to the block's
    end), ``offset`` (bytes from the start of ``base``), ``base`` (the storage that owns the
    memory; itself unless this is a view), and on a base ``version`` (count of in-place writes),
    ``epoch`` and ``writer`` (an object that must not refer back to the storage).

    Made by `empty`, `wrap` and `view` only. Supports weak references; the memory lives as long as
    the storage or a view of it.
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_class",
        "_owner",
        "epoch",
        "nbytes",
        "offset",
        "ptr",
        "version",
        "writer",
    )

    def __init__(self, ptr: int, nbytes: int, token: object) -> None:
        if token is not _PRIVATE:
            raise TypeError("cannot create 'lampion_cpu.Storage' instances")
        self.ptr = ptr
        self.nbytes = nbytes
        self.offset = 0
        self.version = 0
        self.epoch = 0
        self.writer: Any = None
        self._base: PyStorage | None = None
        self._owner: object = None
        self._class = -1

    @property
    def base(self) -> PyStorage:
        """The storage that owns the memory: itself unless this is a view."""
        return self._base or self

    def view(self, byte_offset: int, /) -> PyStorage:
        """The part of this storage from `byte_offset` on, sharing memory and keeping it alive.

        Counted from this storage's own start; a negative offset reaches back towards the base's.
        Raises IndexError outside the base.
        """
        base = self._base or self
        at = self.offset + operator.index(byte_offset)
        if not 0 <= at <= base.nbytes:
            raise IndexError(f"a view at byte {at} leaves its storage of {base.nbytes} bytes")
        made = PyStorage(base.ptr + at, base.nbytes - at, _PRIVATE)
        made.offset = at
        made._base = base
        return made

    def bump(self) -> None:
        """Count one more in-place write: add 1 to the base's ``version``."""
        (self._base or self).version += 1

    def __buffer__(self, flags: int) -> memoryview:
        return host_buffer(self)

    def __repr__(self) -> str:
        return f"<lampion_cpu.Storage of {self.nbytes} bytes at byte {self.offset} of its block>"

    def __del__(self) -> None:
        index = getattr(self, "_class", -1)
        if index >= 0:
            _returned.append((index, self.ptr))
            if index >= memory.FIRST_LARGE and _lock.acquire(blocking=False):
                try:
                    _drain()
                finally:
                    _lock.release()


# Re-entrant: the garbage collector may run other people's destructors while it is held.
_lock = threading.RLock()


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # a thread that is not there any more may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

_returned: deque[tuple[int, int]] = deque()
_free: list[list[int]] = [[] for _ in memory.CLASS_BYTES]
_arena = memory.Arena()
_state = {"allocated": 0, "reserved": 0, "peak": 0}
_limit = memory.default_cache_limit()


def empty(nbytes: int, /) -> PyStorage:
    """A new storage of `nbytes` (0 is fine), 64-byte aligned, with unspecified contents.

    Raises ValueError for a negative size and OutOfMemoryError (a MemoryError and a RuntimeError)
    when the machine cannot provide it.
    """
    size = operator.index(nbytes)
    if size > (1 << 63) - 1:
        raise OverflowError("cannot fit 'int' into an index-sized integer")
    if size < 0:
        raise ValueError(f"a storage cannot have a negative size ({size} bytes)")
    index = memory.class_of(size)
    with _lock:
        _drain()
        blocks = _free[index]
        while not blocks:
            _grow(index, size)
        address = blocks.pop()
        _state["allocated"] += memory.CLASS_BYTES[index]
        _state["peak"] = max(_state["peak"], _state["allocated"])
    made = PyStorage(address, size, _PRIVATE)
    made._class = index
    return made


def wrap(ptr: int, nbytes: int, owner: object, /) -> PyStorage:
    """A storage over `nbytes` of foreign memory at address `ptr`; `owner` is kept alive with it.

    `owner` must not refer to the storage. Raises ValueError for a negative size.
    """
    if not isinstance(ptr, int) or not isinstance(nbytes, int):
        raise TypeError("wrap expects (ptr, nbytes, owner)")
    if nbytes < 0:
        raise ValueError(f"a storage cannot have a negative size ({nbytes} bytes)")
    made = PyStorage(ptr, nbytes, _PRIVATE)
    made._owner = owner
    return made


def _grow(index: int, nbytes: int) -> None:
    size = memory.CLASS_BYTES[index]
    if index < memory.FIRST_LARGE:
        address, count = _arena.carve(index)
    else:
        cached = _state["reserved"] - _state["allocated"]
        if cached and _state["reserved"] + size > memory.physical_memory() * 3 // 4:
            _release_cached()
        address, count = memory.map_pages(size), 1
        if not address:
            _release_cached()
            address = memory.map_pages(size)
    if not address:
        raise memory.out_of_memory(nbytes, _state)
    _state["reserved"] += size * count
    _free[index].extend(address + size * i for i in reversed(range(count)))


def _drain() -> None:
    """Put returned blocks on their lists, or give them back beyond the cache limit."""
    while _returned:
        index, address = _returned.popleft()
        size = memory.CLASS_BYTES[index]
        _state["allocated"] -= size
        if index >= memory.FIRST_LARGE and _state["reserved"] - _state["allocated"] > _limit:
            _state["reserved"] -= size
            memory.unmap_pages(address, size)
        else:
            _free[index].append(address)


def _release_cached() -> None:
    for index in range(memory.FIRST_LARGE, len(memory.CLASS_BYTES)):
        size = memory.CLASS_BYTES[index]
        while _free[index]:
            _state["reserved"] -= size
            memory.unmap_pages(_free[index].pop(), size)


def empty_cache() -> None:
    """Return every unused large block to the system."""
    with _lock:
        _drain()
        _release_cached()


def stats() -> dict[str, int]:
    """Bytes allocated, reserved from the system, and the peak of the former."""
    with _lock:
        _drain()
        return dict(_state)


def reset_peak() -> None:
    """Let the peak start again at what is allocated now."""
    with _lock:
        _drain()
        _state["peak"] = _state["allocated"]


def set_cache_limit(nbytes: int) -> None:
    """Keep at most `nbytes` of freed blocks; more are returned as they are freed."""
    global _limit
    _limit = nbytes
    with _lock:
        _drain()
        if _state["reserved"] - _state["allocated"] > nbytes:
            _release_cached()


def host_buffer(storage: PyStorage) -> memoryview:
    """A writable view of the bytes of `storage`, which it keeps alive.

    >>> view = host_buffer(empty(3))
    >>> view[:] = b"abc"
    >>> bytes(view)
    b'abc'
    """
    array = (ctypes.c_ubyte * storage.nbytes).from_address(storage.ptr)
    array._storage = storage  # type: ignore[attr-defined]
    return memoryview(array).cast("B")
