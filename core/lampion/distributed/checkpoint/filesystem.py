"""Sharded checkpoints in a folder: `__RANK_0.distcp` files and `.metadata`, as PyTorch writes them.

A file holds what `lampion.save` writes, one thing after another; the metadata, a pickle, says which
bytes are what. Floor 7; imports serialization.
"""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...serialization import load, save
from ...utils._pt import names
from ...utils._pt.pickler import CheckpointPickler
from .metadata import Metadata

__all__ = ["FileSystemReader", "FileSystemWriter", "StorageReader", "StorageWriter"]


@dataclass
class _StorageInfo:
    """Which bytes of which file."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: Any = None


class StorageWriter:
    """Where a checkpoint is written."""

    path: Path


class StorageReader:
    """Where a checkpoint is read."""

    path: Path


class FileSystemWriter(StorageWriter):
    """A folder that a checkpoint is written to. With `overwrite=False`, one that has none yet."""

    def __init__(self, path: str | os.PathLike[str], single_file_per_rank: bool = True,
                 sync_files: bool = True, thread_count: int = 1,
                 per_thread_copy_ahead: int = 10_000_000, cache_staged_state_dict: bool = False,
                 overwrite: bool = True, _extensions: Any = None,
                 serialization_format: Any = None) -> None:
        self.path, self.sync_files, self.overwrite = Path(path), sync_files, overwrite

    def write(self, rank: int, items: dict[Any, Any]) -> dict[Any, _StorageInfo]:
        """Write the file of a process; where each of its items is."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.overwrite and (self.path / ".metadata").exists():
            raise RuntimeError(f"Checkpoint already exists in {self.path} and overwrite=False")
        name = f"__{rank}_0.distcp"
        found = {}
        with open(self.path / name, "wb") as file:
            for key, value in items.items():
                at = file.tell()
                part = io.BytesIO()
                save(value, part)
                file.write(part.getvalue())
                found[key] = _StorageInfo(name, at, file.tell() - at)
            self._sync(file)
        return found

    def finish(self, metadata: Metadata) -> None:
        """Write what says where everything is; a checkpoint is there when this is."""
        part = self.path / ".metadata.tmp"
        with open(part, "wb") as file:
            CheckpointPickler(file, 2).dump(metadata)
            self._sync(file)
        part.replace(self.path / ".metadata")

    def _sync(self, file: BinaryIO) -> None:
        if self.sync_files:
            file.flush()
            os.fsync(file.fileno())


class FileSystemReader(StorageReader):
    """A folder that a checkpoint is read from, lampion's or PyTorch's."""

    def __init__(self, path: str | os.PathLike[str], _extension_registry: Any = None) -> None:
        self.path = Path(path)

    def read_metadata(self) -> Metadata:
        """What is in the checkpoint. FileNotFoundError if there is none."""
        with open(self.path / ".metadata", "rb") as file:
            found = _MetadataUnpickler(file).load()
        if not isinstance(found, Metadata):
            raise ValueError(f"{self.path / '.metadata'} holds a {type(found).__name__}, no "
                             "metadata of a checkpoint")
        return found

    def read(self, info: _StorageInfo, weights_only: bool = True) -> Any:
        """What some bytes of a file are."""
        if getattr(info, "transform_descriptors", None):
            raise ValueError(f"{info.relative_path}: it was written through "
                             f"{info.transform_descriptors}, which lampion does not read")
        with open(self.path / info.relative_path, "rb") as file:
            file.seek(info.offset)
            return load(io.BytesIO(file.read(info.length)), map_location="cpu",
                        weights_only=weights_only)


class _MetadataUnpickler(pickle.Unpickler):
    """Reads metadata: its own classes, dtypes, sizes, layouts and paths; nothing else is called."""

    _PLAIN = {("pathlib", n) for n in ("PosixPath", "WindowsPath", "PurePosixPath", "Path")} | {
        ("collections", "OrderedDict"), ("pathlib._local", "PosixPath")}
    _TORCH = {"torch": {"Size", "device"}, "torch.serialization": {"_get_layout"},
              "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
              "torch.distributed.checkpoint.metadata": {
                  "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
                  "BytesStorageMetadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"}}

    def find_class(self, module: str, name: str) -> Any:
        """A class that metadata is made of. UnpicklingError for any other."""
        if module == "torch.serialization" and name == "_get_layout":
            from ...base.layout import _get_layout

            return _get_layout
        if name in self._TORCH.get(module, ()) or (
                module == "torch" and names.dtype_called(name) is not None):
            return names.resolve_global(module, name)
        if (module, name) in self._PLAIN:
            return Path if module.startswith("pathlib") else super().find_class(module, name)
        raise pickle.UnpicklingError(f"metadata of a checkpoint names {module}.{name}, which is no "
                                     "part of it")
