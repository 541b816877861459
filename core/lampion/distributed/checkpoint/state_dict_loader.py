"""Reading sharded checkpoints. Floor 7; imports the folder's format."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ...autograd.modes import no_grad
from ...tensor import Tensor
from ..tensor.api import DTensor
from .filesystem import FileSystemReader, StorageReader
from .metadata import BytesStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata
from .state_dict_saver import _named, flattened, name_of, with_states

__all__ = ["CheckpointException", "load", "load_state_dict"]


class CheckpointException(BaseException):
    """A checkpoint does not fit; `failures` are the reasons by process."""

    def __init__(self, msg: str, failures: dict[int, Any]) -> None:
        super().__init__(msg, failures)
        self.failures = failures

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.failures}"


def load(state_dict: dict[str, Any], *, checkpoint_id: str | os.PathLike[str] | None = None,
         storage_reader: StorageReader | None = None, planner: Any = None,
         process_group: Any = None, no_dist: bool = False) -> None:
    """Read a checkpoint into the tensors that `state_dict` has, in place; other values are
    replaced, and modules and optimizers load their state. Of a tensor in parts, whatever processes
    wrote them, those are read that this process needs. Values that are no tensors are unpickled:
    read what you trust. CheckpointException for names that the checkpoint does not have (unless
    `planner` allows them) or tensors of other sizes."""
    reader = storage_reader or FileSystemReader(_named(checkpoint_id))
    if not isinstance(reader, FileSystemReader):
        raise TypeError(f"load: a FileSystemReader reads, not a {type(reader).__name__}")
    metadata = reader.read_metadata()
    partial = bool(getattr(planner, "allow_partial_load", False))
    plain = with_states(state_dict)
    for path, value in flattened(plain).items():
        name = name_of(path)
        known = metadata.state_dict_metadata.get(name)
        if known is None:
            if partial:
                continue
            _fail(f"Missing key in checkpoint state_dict: {name}.", RuntimeError)
        if isinstance(value, Tensor) and isinstance(known, TensorStorageMetadata):
            _read_tensor(name, value, known, metadata, reader)
        elif isinstance(known, BytesStorageMetadata):
            found = reader.read(metadata.storage_data[MetadataIndex(name)], weights_only=False)
            _put(plain, path, found)
        else:
            _fail(f"{name} is a {type(value).__name__} here and a tensor in the checkpoint, or the "
                  "other way round", ValueError)
    for key, value in state_dict.items():
        if isinstance(getattr(value, "load_state_dict", None), Callable):  # type: ignore[arg-type]
            value.load_state_dict(plain[key])
        else:
            state_dict[key] = plain[key]


def _fail(text: str, kind: type[Exception]) -> None:
    raise CheckpointException("the checkpoint does not fit", {0: kind(text)})


def _read_tensor(name: str, value: Tensor, known: TensorStorageMetadata, metadata: Metadata,
                 reader: FileSystemReader) -> None:
    """Fill a tensor with those parts of the saved one that it covers."""
    if tuple(value.shape) != tuple(known.size):
        _fail(f"Size mismatch between saved {known.size} and current: {value.shape} for {name}",
              ValueError)
    local = value.to_local() if isinstance(value, DTensor) else value
    first = value.local_offsets() if isinstance(value, DTensor) else (0,) * value.dim()
    for chunk in known.chunks:
        to, source = [], []
        for a, n, b, m in zip(first, local.shape, chunk.offsets, chunk.sizes):
            low, high = max(a, b), min(a + n, b + m)
            to.append(slice(low - a, max(high - a, low - a)))
            source.append(slice(low - b, max(high - b, low - b)))
        if all(s.stop > s.start for s in to):
            part = reader.read(metadata.storage_data[MetadataIndex(name, chunk.offsets)])
            with no_grad():
                local.detach()[tuple(to)].copy_(part[tuple(source)])


def _put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    """Replace what is at a path."""
    for key in path[:-1]:
        tree = tree[key] if not isinstance(tree, dict) else _of(tree, key)
    if isinstance(tree, dict):
        tree[next((k for k in tree if str(k) == path[-1]), path[-1])] = value
    else:
        tree[path[-1]] = value


def _of(tree: dict[Any, Any], key: str) -> Any:
    return next(v for k, v in tree.items() if str(k) == key)


def load_state_dict(state_dict: dict[str, Any], storage_reader: StorageReader,
                    process_group: Any = None, coordinator_rank: int = 0, no_dist: bool = False,
                    planner: Any = None) -> None:
    """The older form of `load`."""
    load(state_dict, storage_reader=storage_reader, planner=planner, no_dist=no_dist)
