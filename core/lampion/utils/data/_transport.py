"""How batches travel from a worker process to the loader.

A batch is pickled with its tensors and arrays out of band. Small payloads follow in the pipe;
large ones are written to a memory-backed file that both processes map, so that the data is
copied once, by the worker. When the loader's tensors of a batch are gone, the worker hears of it
with its next task and uses the file again: its pages are there already on both sides. The files
lie in one private directory per loader, which both sides know how to remove; if the memory file
system is full the payload takes the pipe.

Floor 7; imports the public lampion API.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import pickle
import tempfile
import weakref
from collections import deque
from typing import Any

import numpy as np

import lampion

INLINE_BYTES = 64 * 1024
ALIGN = 64
KEEP = 4  # segments that a worker holds ready; batches kept by the program need others anyway


def segment_directory() -> str:
    """A fresh private directory, in memory where the system has such a place."""
    shared = "/dev/shm"
    usable = os.path.isdir(shared) and os.access(shared, os.W_OK | os.X_OK)
    return tempfile.mkdtemp(prefix="lampion-loader-", dir=shared if usable else None)


class _Pickler(pickle.Pickler):
    """Sends host copies of tensors as out-of-band buffers."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, lampion.Tensor):
            return NotImplemented
        if obj.requires_grad and not obj.is_leaf:
            raise RuntimeError(
                "a tensor that requires grad and is not a leaf cannot be sent to another process: "
                "its graph stays behind. Return tensor.detach() from the dataset or collate_fn"
            )
        host = obj.detach().cpu().contiguous()
        raw = host.reshape(-1).view(lampion.uint8).numpy() if host.numel() else b""
        name = str(host.dtype).split(".")[-1]
        state = (pickle.PickleBuffer(raw), name, tuple(host.shape), obj.requires_grad)
        return _restore, state


def _restore(raw: Any, dtype: str, shape: tuple[int, ...], requires_grad: bool) -> Any:
    kind = getattr(lampion, dtype)
    view = memoryview(raw)
    if not view.nbytes:
        tensor = lampion.empty(shape, dtype=kind, device="cpu")
    else:
        tensor = lampion.frombuffer(view, dtype=kind).reshape(shape)
    return tensor.requires_grad_(True) if requires_grad else tensor


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


class _Segment:
    """A mapped file of the worker's: `path` names it for both sides."""

    __slots__ = ("mapped", "path", "size")

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        with open(path, "r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), size)

    def write(self, buffers: list[memoryview]) -> None:
        """Copy the buffers in, each at a multiple of ALIGN."""
        at = 0
        for buffer in buffers:
            self.mapped[at : at + buffer.nbytes] = buffer
            at += _padded(buffer.nbytes)


class Sender:
    """The worker's end: sends results, keeps the segments that may be written again."""

    def __init__(self, connection: Any, directory: str) -> None:
        self.connection = connection
        self.directory = directory
        self.lent: dict[str, _Segment] = {}
        self.free: list[_Segment] = []
        self.dropped: list[str] = []  # for the loader to forget, told with the next result

    def returned(self, paths: list[str]) -> None:
        """The loader is done with these segments."""
        for path in paths:
            segment = self.lent.pop(path, None)
            if segment is not None:
                self.free.append(segment)
        self._drop(self.free[:-KEEP])

    def _drop(self, segments: list[_Segment]) -> None:
        """Give the memory of free segments back."""
        for segment in list(segments):
            self.free.remove(segment)
            segment.mapped.close()
            self.dropped.append(segment.path)

    def send(self, task: int, value: Any) -> None:
        """Send `value` as the result of `task`.

        Pickling errors are raised before anything is written to the connection.
        """
        buffers: list[memoryview] = []

        def keep(buffer: pickle.PickleBuffer) -> None:
            buffers.append(buffer.raw())

        stream = io.BytesIO()
        try:
            _Pickler(stream, protocol=5, buffer_callback=keep).dump(value)
        except (AttributeError, TypeError) as error:  # what pickle raises of some versions
            raise pickle.PicklingError(f"{error} (a {type(value).__name__} cannot be pickled)"
                                       ) from error
        sizes = [buffer.nbytes for buffer in buffers]
        path = self._place(buffers) if sum(sizes) > INLINE_BYTES else None
        self.connection.send_bytes(pickle.dumps((task, sizes, path, self.dropped)))
        self.dropped = []
        self.connection.send_bytes(stream.getbuffer())
        if path is None:
            for buffer in buffers:
                self.connection.send_bytes(buffer)

    def _place(self, buffers: list[memoryview]) -> str | None:
        """Write the buffers to a segment; None if there is no room for one."""
        need = sum(_padded(buffer.nbytes) for buffer in buffers)
        fitting = [s for s in self.free if need <= s.size <= 2 * need]
        if fitting:
            segment = min(fitting, key=lambda s: s.size)
            self.free.remove(segment)
            segment.write(buffers)
        else:
            self._drop(self.free)  # they were for batches unlike this one
            path = _write_segment(self.directory, buffers)
            if path is None:
                return None
            segment = _Segment(path, need)
        self.lent[segment.path] = segment
        return segment.path


def _write_segment(directory: str, buffers: list[memoryview]) -> str | None:
    """Write the buffers, each aligned, to a new file; None if there is no room for it."""
    try:
        handle, path = tempfile.mkstemp(dir=directory)
    except OSError:
        return None
    try:
        # write() reports a full file system; storing through a mapping would be a fatal signal
        with open(handle, "wb", buffering=0) as file:
            for buffer in buffers:
                _write_all(file, buffer)
                _write_all(file, memoryview(bytes(_padded(buffer.nbytes) - buffer.nbytes)))
    except OSError:
        os.unlink(path)
        return None
    return path


def _write_all(file: Any, data: memoryview) -> None:
    while data.nbytes:
        data = data[file.write(data) :]


class Receiver:
    """The loader's end: receives results, notes the segments that nobody uses any more.

    `returned` fills from wherever the last tensor of a segment dies, in any thread.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.mapped: dict[str, mmap.mmap] = {}
        self.returned: deque[str] = deque()

    def take_returned(self) -> list[str]:
        """The segments that may be written again, for the worker to know."""
        return [self.returned.popleft() for _ in range(len(self.returned))]

    def receive(self) -> tuple[int, Any]:
        """The next `(task, value)` from the worker. EOFError or OSError if it is gone."""
        task, sizes, path, dropped = pickle.loads(self.connection.recv_bytes())
        body = self.connection.recv_bytes()
        for old in dropped:
            self.mapped.pop(old, None)
        if path is None:
            buffers = [_aligned(self.connection, size) for size in sizes]
        else:
            buffers = self._views(path, sizes)
        return task, pickle.loads(body, buffers=buffers)

    def _views(self, path: str, sizes: list[int]) -> list[memoryview]:
        """Views of a segment's buffers; when the last one dies, the segment is returned."""
        mapped = self.mapped.get(path)
        if mapped is None:
            mapped = self.mapped[path] = self._map(path)
        lease = (ctypes.c_char * len(mapped)).from_buffer(mapped)
        weakref.finalize(lease, self.returned.append, path).atexit = False
        whole = memoryview(lease).cast("B")
        views, at = [], 0
        for size in sizes:
            views.append(whole[at : at + size])
            at += _padded(size)
        return views

    def _map(self, path: str) -> mmap.mmap:
        """Map a segment and unlink it: its memory lives as long as a mapping of it does."""
        with open(path, "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
        try:
            os.unlink(path)
        except OSError:
            pass  # a system that keeps mapped files; the directory's removal takes it
        return mapped


def _aligned(connection: Any, size: int) -> memoryview:
    """Receive one buffer into fresh memory that starts at a multiple of ALIGN."""
    space = np.empty(size + ALIGN, dtype=np.uint8)
    start = -space.ctypes.data % ALIGN
    view = memoryview(space)[start : start + size]
    if size:
        connection.recv_bytes_into(view)
    else:
        connection.recv_bytes()  # an empty buffer is a message too
    return view
