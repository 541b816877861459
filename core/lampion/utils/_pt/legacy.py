"""Reads checkpoints from before the zip container: pickles one after the other, then bytes.

The order is: a magic number, a protocol number, facts of the writing system, the object, the keys
of its storages, and per key a count and the raw elements. Floor 7.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

from .storages import StoredMemory, allocate, swap_bytes
from .unpickler import Trusting, restricted

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def is_legacy(head: bytes) -> bool:
    """Whether a file that starts so may be of this format: a pickle that begins with MAGIC."""
    number = MAGIC.to_bytes(10, "little")
    return head[:1] == b"\x80" and number in head[:32]


class _Pickles:
    """Reads consecutive pickles from bytes, restricted or trusting."""

    def __init__(self, data: bytes, weights_only: bool) -> None:
        self.data = data
        self.at = 0
        self.weights_only = weights_only

    def next(self, persistent: Callable[[Any], Any] | None = None) -> Any:
        """The next object."""

        def none(pid: Any) -> Any:
            raise UnpicklingError(f"unexpected persistent id {pid!r}")

        if self.weights_only:
            value, self.at = restricted(self.data, persistent or none, self.at)
            return value
        stream = io.BytesIO(self.data)
        stream.seek(self.at)
        unpickler = Trusting(stream)
        unpickler.persistent = persistent or none
        value = unpickler.load()
        self.at = stream.tell()
        return value


def load(data: bytes, weights_only: bool, place: Callable[[StoredMemory, str], Any]) -> Any:
    """The object of a legacy checkpoint.

    Args:
        place: moves host memory to where its location tag and map_location say.
    """
    pickles = _Pickles(data, weights_only)
    if pickles.next() != MAGIC:
        raise UnpicklingError("Invalid magic number; corrupt file?")
    version = pickles.next()
    if version != PROTOCOL:
        raise UnpicklingError(f"Invalid protocol version: {version}")
    little = bool(pickles.next().get("little_endian", True))
    storages, start = _Storages(), pickles.at
    pickles.next(storages.note)  # only to learn the storages, which follow the object
    keys = pickles.next()
    storages.fill(data, pickles.at, keys, little)
    placed: dict[str, StoredMemory] = {}

    def persistent(pid: Any) -> StoredMemory:
        key = pid[2]
        if key not in placed:
            placed[key] = place(*storages.found[key])
        return placed[key]

    pickles.at = start
    return pickles.next(persistent)


class _Storages:
    """Host memory by key, filled once the object's pickle has named all of it."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[StoredMemory, str]] = {}

    def note(self, pid: Any) -> StoredMemory:
        """The memory for a persistent id."""
        if not (isinstance(pid, tuple) and len(pid) == 6 and pid[0] == "storage"):
            raise UnpicklingError(f"unsupported persistent id {pid!r}")
        _, kind, key, location, count, view = pid
        if view is not None:
            raise UnpicklingError("views of storages are not supported: save the file anew")
        if key not in self.found:
            width = kind.dtype.itemsize if kind.dtype else 1
            self.found[key] = (allocate(count * width, kind.dtype, "cpu"), location)
        return self.found[key][0]

    def fill(self, data: bytes, at: int, keys: Any, little: bool) -> None:
        """Read the raw elements."""
        form = "<q" if little else ">q"
        for key in keys:
            memory = self.found[key][0]
            if at + 8 > len(data):
                raise UnpicklingError("the file is cut short: storages are missing")
            (count,) = struct.unpack_from(form, data, at)
            at += 8
            if count * (memory.dtype.itemsize if memory.dtype else 1) != memory.nbytes:
                raise UnpicklingError(f"the storage {key} has another size than announced")
            if at + memory.nbytes > len(data):
                raise UnpicklingError("the file is cut short: storages are missing")
            memory.fill(memoryview(bytearray(data[at : at + memory.nbytes])))
            at += memory.nbytes
            if not little:
                swap_bytes(memory)
