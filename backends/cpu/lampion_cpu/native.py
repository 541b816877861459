"""The CPU storage: a block of host memory as a Python object, allocated in nanoseconds.

`Storage` is a heap type built at run time with ``PyType_FromSpec``; its allocation, deallocation
and methods are LLVM IR, so no compiler is needed and an allocation costs about as much as an
attribute look-up. A freed storage goes on the free list of its size class together with its block
and comes back as a whole. The lists are guarded by the GIL.

Where that cannot work (another interpreter, no GIL, a failed self-test, ``LAMPION_NATIVE=0``)
`Storage` is the pure-Python twin of `portable`, with the same interface.

May import: the standard library, `cpython`, `jit`, `memory`, `portable`, `storage_ir`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import struct
import sys
import sysconfig
import threading
from typing import Any

from . import jit, memory, portable
from .cpython import (
    HEADER,
    METH_FASTCALL,
    METH_NOARGS,
    METH_O,
    TYPE_OFFSET,
    Member,
    Method,
    builtin_of,
    make_type,
    method_def,
    python_symbols,
)
from .storage_ir import (
    EPOCH,
    NBYTES,
    OBJECT_BYTES,
    OFFSET,
    PTR,
    RT_ALLOCATED,
    RT_GROW,
    RT_LIMIT,
    RT_PEAK,
    RT_RESERVED,
    RT_TYPE,
    RT_WORDS,
    STORAGE_IR,
    VERSION,
    VIEW_CLASS,
    WEAKREFS,
    WRAP_CLASS,
    WRITER,
)

__all__ = [
    "NativeStorage",
    "PyStorage",
    "Storage",
    "empty",
    "empty_cache",
    "host_buffer",
    "is_native",
    "memory_stats",
    "native_refusal",
    "reset_peak",
    "set_cache_limit",
    "wrap",
]

_log = logging.getLogger("lampion.cpu.native")

_CODE = [
    "storage_base",
    "storage_buffer",
    "storage_bump",
    "storage_dealloc",
    "storage_drop",
    "storage_empty",
    "storage_refill",
    "storage_repr",
    "storage_view",
    "storage_wrap",
]


def _make_storage_type(code: dict[str, int]) -> type:
    twin = portable.PyStorage

    def method(name: str, flags: int) -> Method:
        return Method(name, code[f"storage_{name}"], flags, getattr(twin, name).__doc__ or "")

    members = [
        Member("ptr", "int", PTR, False, "address of the first byte"),
        Member("nbytes", "int", NBYTES, False, "bytes from `ptr` to the end"),
        Member("offset", "int", OFFSET, False, "bytes from the start of the base"),
        Member("version", "int", VERSION, True, "count of in-place writes (of a base)"),
        Member("epoch", "int", EPOCH, True, "write epoch (of a base)"),
        Member("writer", "object", WRITER, True, "who wrote last, or None (of a base)"),
        Member("__weaklistoffset__", "weak", WEAKREFS, False, ""),
    ]
    methods = [method("view", METH_O), method("bump", METH_NOARGS), method("base", 0)]
    slots = {name: code[f"storage_{name}"] for name in ("dealloc", "repr", "buffer")}
    return make_type(
        "lampion_cpu.Storage", OBJECT_BYTES, members, methods, slots, twin.__doc__ or ""
    )


class Native:
    """The storage type of this process, its table and its allocator functions."""

    def __init__(self) -> None:
        self.table = jit.pin((ctypes.c_int64 * RT_WORDS)())
        self.symbols = python_symbols() | {
            "lampion_rt": ctypes.addressof(self.table),
            "munmap": memory.munmap_address(),
        }
        code = jit.compile_ir(STORAGE_IR, ["lampion_grow", *_CODE], self.symbols)
        self.symbols["lampion_grow"] = code["lampion_grow"]
        self.arena = memory.Arena()
        self.lock = threading.RLock()
        self.type: Any = _make_storage_type(code)
        self.grow = jit.pin(self._grow)  # one bound method: the table points at it
        self.table[RT_TYPE] = id(self.type)
        self.table[RT_GROW] = id(self.grow)
        self.table[RT_LIMIT] = memory.default_cache_limit()

        def builtin(name: str, flags: int = METH_O) -> Any:
            doc = getattr(portable, name).__doc__ if hasattr(portable, name) else ""
            return builtin_of(method_def(name, code[f"storage_{name}"], flags, doc or ""))

        self.empty = builtin("empty")
        self.wrap = builtin("wrap", METH_FASTCALL)
        self._drop = builtin("drop")
        self._refill = builtin("refill", METH_FASTCALL)
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self.lock = threading.RLock()  # a thread that is not there any more may have held it

    def _grow(self, index: int, nbytes: int) -> None:
        """Put at least one block on the list of class `index`; called by the native code."""
        if index >= len(memory.CLASS_BYTES):
            memory.class_of(nbytes)  # raises
        size = memory.CLASS_BYTES[index]
        with self.lock:
            if index < memory.FIRST_LARGE:
                address, count = self.arena.carve(index)
            else:
                address, count = self._map_large(size), 1
            if not address:
                raise memory.out_of_memory(nbytes, self.stats())
            self._refill(index, size, address, count)

    def _map_large(self, size: int) -> int:
        # A block of another class cannot serve, so cached ones go back before memory gets short.
        cached = self.table[RT_RESERVED] - self.table[RT_ALLOCATED]
        if cached and self.table[RT_RESERVED] + size > memory.physical_memory() * 3 // 4:
            self.empty_cache()
        address = memory.map_pages(size)
        if not address:
            self.empty_cache()
            address = memory.map_pages(size)
        return address

    def empty_cache(self) -> None:
        """Return every unused large block to the system."""
        for index in (*range(memory.FIRST_LARGE, len(memory.CLASS_BYTES)), VIEW_CLASS, WRAP_CLASS):
            self._drop(index)

    def stats(self) -> dict[str, int]:
        """Bytes allocated, reserved from the system, and the peak of the former."""
        table = self.table
        return {
            "allocated": table[RT_ALLOCATED],
            "reserved": table[RT_RESERVED],
            "peak": table[RT_PEAK],
        }

    def reset_peak(self) -> None:
        """Let the peak start again at what is allocated now."""
        self.table[RT_PEAK] = self.table[RT_ALLOCATED]

    def set_cache_limit(self, nbytes: int) -> None:
        """Keep at most `nbytes` of freed blocks; more are returned as they are freed."""
        self.table[RT_LIMIT] = nbytes
        if self.table[RT_RESERVED] - self.table[RT_ALLOCATED] > nbytes:
            self.empty_cache()


def native_refusal() -> str:
    """Why the native storage cannot be used here; empty when it can be tried."""
    if os.environ.get("LAMPION_NATIVE") == "0":
        return "LAMPION_NATIVE=0"
    if platform.python_implementation() != "CPython":
        return f"it needs CPython, this is {platform.python_implementation()}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "its free lists are guarded by the GIL, which this interpreter lacks"
    if struct.calcsize("P") != 8 or os.name != "posix":
        return "it needs a 64-bit POSIX system"
    word = ctypes.c_void_p.from_address(id(_log) + TYPE_OFFSET).value
    if HEADER < 16 or word != id(type(_log)):
        return f"object headers of {HEADER} bytes are laid out unexpectedly"
    return ""


def _self_test(native: Native) -> None:
    """Exercise every path of the type once; AssertionError when anything is off."""
    before = native.stats()["allocated"]
    marker = object()
    count = sys.getrefcount(marker)
    for nbytes in (0, 1, 64, 65, 4096, 3 << 20):
        block = native.empty(nbytes)
        assert type(block) is native.type and block.nbytes == nbytes
        assert block.ptr % memory.ALIGNMENT == 0 and block.base is block
        block.writer = marker
        block.version += 1
        view = block.view(nbytes)
        assert view.base is block and view.ptr == block.ptr + nbytes and view.nbytes == 0
        del block
        assert view.base.version == 1 and view.base.writer is marker
        del view
    assert sys.getrefcount(marker) == count
    outside = native.wrap(id(marker), 8, marker)
    assert outside.base is outside and sys.getrefcount(marker) == count + 1
    del outside
    assert sys.getrefcount(marker) == count and native.stats()["allocated"] == before
    try:
        native.empty(-1)
    except ValueError:
        pass
    else:
        raise AssertionError("a negative size was accepted")
    native.empty_cache()
    native.reset_peak()


def _start() -> Native | None:
    reason = native_refusal()
    if not reason:
        try:
            native = Native()
            _self_test(native)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            _log.warning("the native CPU storage is not used: %s", reason)
        else:
            return native
    _log.debug("CPU storage in pure Python: %s", reason)
    return None


native: Native | None = _start()
PyStorage = portable.PyStorage
NativeStorage: Any = native.type if native is not None else None
Storage: Any = NativeStorage or PyStorage
_chosen: Any = native if native is not None else portable
empty = _chosen.empty
wrap = _chosen.wrap
empty_cache = _chosen.empty_cache
memory_stats = _chosen.stats
reset_peak = _chosen.reset_peak
set_cache_limit = _chosen.set_cache_limit
host_buffer: Any = memoryview if native is not None else portable.host_buffer


def is_native() -> bool:
    """Whether `Storage` is the native type here (else its pure-Python twin)."""
    return native is not None
