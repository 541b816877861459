"""Size classes, page mapping and limits of the CPU allocator; nothing about Python objects.

Blocks come in fixed size classes, so that a freed block fits the next request of its class
without a search: powers of two and their mid-points up to 1 MiB, then eight steps a doubling (at
most 12.5 % is wasted). Small blocks are cut from shared arenas; a large block is its own mapping,
2 MiB-aligned and offered huge pages when it is that big.

May import: the standard library, lampion.base.errors.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from lampion.base import errors

__all__ = [
    "ALIGNMENT",
    "CLASS_BYTES",
    "FIRST_LARGE",
    "HUGE_PAGE",
    "MAX_BYTES",
    "Arena",
    "OutOfMemoryError",
    "class_of",
    "default_cache_limit",
    "describe_bytes",
    "map_pages",
    "munmap_address",
    "out_of_memory",
    "physical_memory",
    "unmap_pages",
]

ALIGNMENT = 64
HUGE_PAGE = 2 << 20
_SMALL_MAX = 1 << 20
_TOP_BIT = 44
_ARENA_BYTES = 4 << 20


def _class_table() -> tuple[int, ...]:
    sizes = [64, 128]
    for bit in range(7, 20):
        sizes += [(1 << bit) + (1 << (bit - 1)), 2 << bit]
    for bit in range(20, _TOP_BIT):
        sizes += [(1 << bit) + step * (1 << (bit - 3)) for step in range(1, 9)]
    return tuple(sizes)


CLASS_BYTES = _class_table()
FIRST_LARGE = CLASS_BYTES.index(_SMALL_MAX) + 1
MAX_BYTES = CLASS_BYTES[-1]


class OutOfMemoryError(errors.OutOfMemoryError, MemoryError):
    """The CPU has no memory for a block; the message names the sizes involved.

    Both a MemoryError (what Python calls it) and a RuntimeError (what PyTorch raises).
    """


def class_of(nbytes: int) -> int:
    """Index of the smallest size class that holds `nbytes`; OutOfMemoryError above the largest.

    >>> CLASS_BYTES[class_of(65)], CLASS_BYTES[class_of(200)], CLASS_BYTES[class_of(1 << 20)]
    (128, 256, 1048576)
    """
    if nbytes <= 128:
        return 0 if nbytes <= 64 else 1
    if nbytes > MAX_BYTES:
        raise OutOfMemoryError(f"cannot allocate {describe_bytes(nbytes)}: no machine has that")
    bit = (nbytes - 1).bit_length() - 1
    if bit < 20:
        return 2 + 2 * (bit - 7) + ((nbytes - 1) >> (bit - 1) & 1)
    return FIRST_LARGE + 8 * (bit - 20) + ((nbytes - 1) >> (bit - 3) & 7)


def out_of_memory(nbytes: int, stats: dict[str, int]) -> OutOfMemoryError:
    """The error for a request of `nbytes` that failed with the allocator in state `stats`."""
    cached = stats["reserved"] - stats["allocated"]
    return OutOfMemoryError(
        f"the CPU cannot allocate {describe_bytes(nbytes)}: "
        f"{describe_bytes(stats['allocated'])} are in use and {describe_bytes(cached)} cached, "
        f"of {describe_bytes(physical_memory())} this process may use"
    )


def describe_bytes(nbytes: int) -> str:
    """`nbytes` for people: ``"12 bytes"``, ``"1.50 MiB"``.

    >>> describe_bytes(3 << 19)
    '1.50 MiB'
    """
    if nbytes < 1024:
        return f"{nbytes} bytes"
    value = float(nbytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.2f} {unit}"
    return f"{value / 1024:.2f} TiB"


# ---- pages from the operating system -----------------------------------------------------------

_PROT_READ_WRITE = 3
_MAP_PRIVATE = 0x02
_MAP_ANONYMOUS = 0x1000 if sys.platform == "darwin" else 0x20
_MADV_HUGEPAGE = 14
_MAP_FAILED = ctypes.c_void_p(-1).value
_posix = os.name == "posix"
_PAGE = os.sysconf("SC_PAGE_SIZE") if _posix else 4096

if _posix:
    _libc = ctypes.CDLL(None, use_errno=True)
    _mmap = _libc.mmap
    _mmap.restype = ctypes.c_void_p
    _mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_ssize_t,
    ]
    _munmap = _libc.munmap
    _munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    _madvise = _libc.madvise
    _madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def map_pages(nbytes: int) -> int:
    """Map `nbytes` of fresh zeroed memory; its address, or 0 when the system refuses.

    From 2 MiB on the address is a multiple of 2 MiB and huge pages are requested. A mapping is
    given back with `unmap_pages` and the same size.
    """
    if not _posix:
        return _portable_map(nbytes)
    align = HUGE_PAGE if nbytes >= HUGE_PAGE else 0
    address = _mmap(None, nbytes + align, _PROT_READ_WRITE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0)
    if address in (None, _MAP_FAILED):
        return 0
    if align:
        start = -(-address // align) * align
        _trim(address, start)
        _trim(start + _page_up(nbytes), address + _page_up(nbytes + align))
        if sys.platform.startswith("linux"):
            _madvise(start, nbytes, _MADV_HUGEPAGE)  # advice only: refusal costs speed
        address = start
    return int(address)


def _page_up(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE


def _trim(start: int, stop: int) -> None:
    if stop > start:
        _munmap(start, stop - start)


def unmap_pages(address: int, nbytes: int) -> None:
    """Give a mapping of `map_pages` back to the system."""
    if not _posix:
        _portable_maps.pop(address)
    elif _munmap(address, nbytes) != 0:
        raise OSError(ctypes.get_errno(), f"munmap of {nbytes} bytes failed")


def munmap_address() -> int:
    """Address of the C function ``int munmap(void *, size_t)``, for native code."""
    return ctypes.cast(_munmap, ctypes.c_void_p).value or 0


_portable_maps: dict[int, ctypes.Array[ctypes.c_char]] = {}


def _portable_map(nbytes: int) -> int:
    try:
        buffer = ctypes.create_string_buffer(nbytes + 4096)
    except MemoryError:
        return 0
    address = -(-ctypes.addressof(buffer) // 4096) * 4096
    _portable_maps[address] = buffer
    return address


class Arena:
    """Cuts small blocks from big mappings; never gives them back (classes reuse them)."""

    def __init__(self) -> None:
        self.reserved = 0
        self._next = 0
        self._stop = 0

    def carve(self, index: int) -> tuple[int, int]:
        """(address, count) of adjacent fresh blocks of class `index`; count 0: out of memory."""
        size = CLASS_BYTES[index]
        count = max(1, min(64, (32 << 10) // size))
        if self._stop - self._next < size * count:
            start = map_pages(_ARENA_BYTES)
            if not start:
                return 0, 0
            self.reserved += _ARENA_BYTES
            self._next, self._stop = start, start + _ARENA_BYTES
        # A destructor run by the collector may come in here again: take the blocks in one go.
        address = self._next
        self._next = address + size * count
        return address, count


# ---- limits ------------------------------------------------------------------------------------


def physical_memory() -> int:
    """Bytes of memory this process may use: the machine's, or its control group's if less."""
    total = 8 << 30
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def default_cache_limit() -> int:
    """Most bytes of freed blocks kept for reuse: ``LAMPION_CPU_CACHE_BYTES`` or half the memory.

    Raises ValueError when the variable is not a count of bytes.
    """
    asked = os.environ.get("LAMPION_CPU_CACHE_BYTES")
    if asked is None:
        return physical_memory() // 2
    if not asked.isdigit():
        raise ValueError(f"LAMPION_CPU_CACHE_BYTES={asked!r} is not a count of bytes")
    return int(asked)
