"""Reads and writes `.safetensors` files: named tensors and text, and nothing that could run.

The `safetensors` library (imported on first use) writes files and validates their headers;
bytes then go straight from the file to device memory. Floor 7.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import lampion

from ..base import dtype as dt
from ._pt.archive import map_file
from ._pt.storages import allocate, of_tensor, over_host

__all__ = ["load_metadata", "load_safetensors", "save_safetensors"]

_CODES = {
    "F64": dt.float64,
    "F32": dt.float32,
    "F16": dt.float16,
    "BF16": dt.bfloat16,
    "I64": dt.int64,
    "I32": dt.int32,
    "I16": dt.int16,
    "I8": dt.int8,
    "U64": dt.uint64,
    "U32": dt.uint32,
    "U16": dt.uint16,
    "U8": dt.uint8,
    "BOOL": dt.bool_,
    "C64": dt.complex64,
}


def _library() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "reading and writing .safetensors files needs the safetensors package: "
            "pip install safetensors"
        ) from error
    return safetensors


def save_safetensors(
    tensors: Mapping[str, Any], filename: Any, metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors to a file.

    Args:
        tensors: names and tensors of any device; each is stored contiguously.
        metadata: further text.

    Raises:
        RuntimeError: if two tensors share memory (the format would store it twice; clone one).
        TypeError: for values that are no tensors, and dtypes the format lacks.
        ImportError: without the safetensors package.

    Example:
        >>> import lampion, os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "w.safetensors")
        >>> save_safetensors({"w": lampion.ones(2)}, path)
        >>> load_safetensors(path)
        {'w': tensor([1., 1.])}
    """
    library = _library()
    _check(tensors)
    kept, specs = [], {}
    for name, tensor in tensors.items():
        host = tensor.detach().cpu().contiguous()
        if host.storage_offset() or host.data_.base.nbytes != host.nbytes:
            host = host.clone()
        memory = of_tensor(host)
        kept.append((host, memory))  # alive until the file is written
        specs[name] = _spec(library, host, memory)
    library.serialize_file(specs, os.fspath(filename), dict(metadata) if metadata else None)


def _check(tensors: Mapping[str, Any]) -> None:
    owners: dict[int, str] = {}
    known = {kind.name for kind in _CODES.values()}
    for name, tensor in tensors.items():
        if not isinstance(tensor, lampion.Tensor):
            raise TypeError(f"{name!r} is a {type(tensor).__name__}, not a tensor")
        if tensor.dtype.name not in known:
            raise TypeError(f"{name!r} is {tensor.dtype!r}, which .safetensors files cannot hold")
        if tensor.numel():
            first = owners.setdefault(id(tensor.data_.base), name)
            if first != name:
                raise RuntimeError(
                    f"{first!r} and {name!r} share memory, which .safetensors files cannot "
                    "express: clone() one of them, or leave it out"
                )


def _spec(library: Any, host: Any, memory: Any) -> Any:
    """How the library wants a tensor: by address since 0.8, as bytes before."""
    name, shape = host.dtype.name, list(host.shape)
    kind = getattr(library, "TensorSpec", None)
    if kind is None:
        return {"dtype": name, "shape": shape, "data": bytes(memory.host_bytes())}
    return kind(dtype=name, shape=shape, data_ptr=host.data_ptr(), data_len=host.nbytes)


def _header(filename: Any) -> tuple[dict[str, Any], int]:
    """The validated header, and where the data starts."""
    library = _library()
    try:
        with library.safe_open(os.fspath(filename), "np"):
            pass
    except library.SafetensorError as error:
        raise RuntimeError(f"{filename} is no valid .safetensors file: {error}") from error
    with open(filename, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def load_metadata(filename: Any) -> dict[str, str]:
    """The text stored beside the tensors."""
    return dict(_header(filename)[0].get("__metadata__", {}))


def load_safetensors(
    filename: Any, device: Any = "cpu", *, names: Iterable[str] | None = None, mmap: bool = False
) -> dict[str, Any]:
    """Read tensors from a file.

    Args:
        device: where the tensors go.
        names: read only these; KeyError if one is missing.
        mmap: map the file instead of reading it (host tensors share the mapping; writes to them
            do not reach the file).

    Returns names and tensors in the file's order. Raises RuntimeError for an invalid file,
    TypeError for a dtype that lampion lacks, ImportError without the safetensors package.
    """
    header, start = _header(filename)
    header.pop("__metadata__", None)
    wanted = list(header) if names is None else list(names)
    mapping = map_file(filename) if mmap else None
    out = {}
    with open(filename, "rb") as file:
        for name in wanted:
            out[name] = _read(file, start, name, header[name], mapping).tensor_on(device)
    return out


class _Stored:
    """Host memory and the shape it is to have."""

    def __init__(self, memory: Any, shape: tuple[int, ...]) -> None:
        self.memory = memory
        self.shape = shape

    def tensor_on(self, device: Any) -> Any:
        """The tensor, on a device."""
        from ..base.meta import contiguous_strides

        moved = self.memory.to(device)
        return moved.tensor(0, self.shape, contiguous_strides(self.shape))


def _read(file: Any, start: int, name: str, entry: dict[str, Any], mapping: Any) -> _Stored:
    kind = _CODES.get(entry["dtype"])
    if kind is None:
        raise TypeError(f"{name!r} has the dtype {entry['dtype']}, which lampion does not have")
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if mapping is not None and (start + begin) % kind.itemsize == 0:
        return _Stored(over_host(mapping[start + begin : start + end], kind), shape)
    memory = allocate(end - begin, kind, "cpu")
    if memory.nbytes:
        file.seek(start + begin)
        memory.fill(memoryview(bytearray(file.read(memory.nbytes))))
    return _Stored(memory, shape)
