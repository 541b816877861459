"""The zip container of a checkpoint: named records, stored uncompressed and aligned.

Every record lies under one folder (`archive/data.pkl`, `archive/data/0`, ...), as PyTorch
writes it. Floor 7; imports nothing of lampion.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import zipfile
import zlib
from typing import Any, BinaryIO

ALIGN = 64
_LOCAL_HEADER = 30
_BIG = 1 << 31
_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error)
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # equal contents give equal files


class Writer:
    """Writes records to a seekable binary file."""

    def __init__(self, file: BinaryIO, folder: str) -> None:
        self._file = file
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._folder = folder

    def write(self, name: str, data: Any) -> None:
        """Store a record; `data` is bytes or any C-contiguous buffer."""
        view = memoryview(data).cast("B") if not isinstance(data, bytes) else memoryview(data)
        info = zipfile.ZipInfo(f"{self._folder}/{name}", _FIXED_DATE)
        info.file_size = view.nbytes
        big = view.nbytes >= _BIG
        info.extra = self._padding(info.filename, big)
        with self._zip.open(info, "w", force_zip64=big) as record:
            record.write(view)

    def _padding(self, filename: str, big: bool) -> bytes:
        """An extra field so long that the record's data starts at a multiple of ALIGN."""
        start = self._file.tell() + _LOCAL_HEADER + len(filename.encode()) + (20 if big else 0)
        need = -start % ALIGN
        if need < 4:
            need += ALIGN
        return struct.pack("<2sH", b"FB", need - 4) + b"Z" * (need - 4)

    def close(self) -> None:
        """Write the directory; the file itself stays open."""
        self._zip.close()


class Reader:
    """Reads records from a seekable binary file.

    Raises RuntimeError, naming the file, if the container is damaged or is not a checkpoint.
    """

    def __init__(self, file: BinaryIO, label: str) -> None:
        self._file = file
        self._label = label
        try:
            self._zip = zipfile.ZipFile(file)
        except _DAMAGE as error:
            raise RuntimeError(
                f"{label} is a zip archive without a readable directory ({error}): the file is "
                "cut short or damaged"
            ) from error
        names = self._zip.namelist()
        found = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(found) != 1:
            raise RuntimeError(f"{label} is a zip archive, but has no data.pkl: no checkpoint")
        self.folder = found[0].rpartition("/")[0]
        self._names = set(names)
        self._length = file.seek(0, io.SEEK_END)

    def has(self, name: str) -> bool:
        """Whether there is such a record."""
        return f"{self.folder}/{name}" in self._names

    def names(self) -> list[str]:
        """Names of all records."""
        start = len(self.folder) + 1
        return [n[start:] for n in self._names if n.startswith(self.folder + "/")]

    def _info(self, name: str) -> zipfile.ZipInfo:
        try:
            info = self._zip.getinfo(f"{self.folder}/{name}")
        except KeyError:
            raise RuntimeError(f"{self._label}: the record {name!r} is missing") from None
        stored = info.compress_type == zipfile.ZIP_STORED
        length = info.file_size if stored else info.compress_size
        if info.header_offset < 0 or info.header_offset + length > self._length:
            raise RuntimeError(f"{self._label}: the record {name!r} lies outside the file")
        return info

    def size(self, name: str) -> int:
        """Bytes of a record."""
        return self._info(name).file_size

    def read(self, name: str) -> bytes:
        """A record as bytes."""
        data = bytearray(self.size(name))
        self.read_into(name, memoryview(data))
        return bytes(data)

    def read_into(self, name: str, target: memoryview) -> None:
        """Read a record into memory of its size, and verify its checksum."""
        info = self._info(name)
        if info.compress_type != zipfile.ZIP_STORED:
            self._inflate(info, target)
            return
        self._file.seek(self.offset(name))
        left = target
        while left.nbytes:
            count = self._file.readinto(left)  # type: ignore[attr-defined]
            if not count:
                raise RuntimeError(f"{self._label}: the record {name!r} is cut short")
            left = left[count:]
        if zlib.crc32(target) != info.CRC:
            raise RuntimeError(
                f"{self._label}: the record {name!r} is damaged (its checksum does not match)"
            )

    def _inflate(self, info: zipfile.ZipInfo, target: memoryview) -> None:
        try:
            target[:] = self._zip.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
            raise RuntimeError(f"{self._label}: cannot read {info.filename!r}: {error}") from error

    def offset(self, name: str) -> int:
        """Where a record's data starts in the file."""
        info = self._info(name)
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER)
        if len(header) != _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise RuntimeError(f"{self._label}: the header of the record {name!r} is damaged")
        lengths = struct.unpack_from("<HH", header, 26)
        return info.header_offset + _LOCAL_HEADER + sum(lengths)

    def is_stored(self, name: str) -> bool:
        """Whether the record's bytes lie in the file as they are."""
        return self._info(name).compress_type == zipfile.ZIP_STORED


def map_file(path: Any) -> memoryview:
    """A file's bytes as private memory: writes to it stay in this process."""
    with open(os.fspath(path), "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def seekable(file: Any) -> BinaryIO:
    """`file` if one can seek in it and read into memory, else a copy in memory."""
    try:
        if file.seekable() and hasattr(file, "readinto"):
            return file  # type: ignore[no-any-return]
    except (AttributeError, io.UnsupportedOperation):
        pass
    return io.BytesIO(file.read())
