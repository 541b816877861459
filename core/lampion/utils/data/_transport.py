"""How batches travel from a worker process to the loader.

A batch is pickled with its tensors and arrays out of band. Small payloads follow in the pipe;
large ones are written to a memory-backed file that the receiver maps and unlinks, so that the
data is copied once, by the worker. The files live in one private directory per loader, which
both sides know how to remove; if the memory file system is full the payload takes the pipe.

Floor 7; imports the public lampion API.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
from typing import Any

import numpy as np

import lampion

INLINE_BYTES = 64 * 1024
ALIGN = 64


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


def send(connection: Any, directory: str, task: int, value: Any) -> None:
    """Send `value` as the result of `task`.

    Pickling errors are raised before anything is written to the connection.
    """
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> None:
        buffers.append(buffer.raw())

    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=keep).dump(value)
    sizes = [buffer.nbytes for buffer in buffers]
    path = None
    if sum(sizes) > INLINE_BYTES:
        path = _write_segment(directory, buffers)
    connection.send_bytes(pickle.dumps((task, sizes, path)))
    connection.send_bytes(stream.getbuffer())
    if path is None and buffers:
        for buffer in buffers:
            connection.send_bytes(buffer)


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


def receive(connection: Any) -> tuple[int, Any]:
    """The next `(task, value)` from a worker. EOFError or OSError if it is gone."""
    task, sizes, path = pickle.loads(connection.recv_bytes())
    body = connection.recv_bytes()
    if path is None:
        buffers = [_aligned(connection, size) for size in sizes]
    else:
        buffers = _map_segment(path, sizes)
    return task, pickle.loads(body, buffers=buffers)


def _aligned(connection: Any, size: int) -> memoryview:
    """Receive one buffer into fresh memory that starts at a multiple of ALIGN."""
    space = np.empty(size + ALIGN, dtype=np.uint8)
    start = -space.ctypes.data % ALIGN
    view = memoryview(space)[start : start + size]
    # An empty buffer is a message too, and recv_bytes_into rejects no size.
    connection.recv_bytes_into(view) if size else connection.recv_bytes()
    return view


def _map_segment(path: str, sizes: list[int]) -> list[memoryview]:
    """Map a segment and unlink it; its memory lives as long as a view of it does."""
    with open(path, "r+b") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0))
    try:
        os.unlink(path)
    except OSError:
        pass  # a system that keeps mapped files; the directory's removal takes it
    views, at = [], 0
    for size in sizes:
        views.append(mapped[at : at + size])
        at += _padded(size)
    return views
