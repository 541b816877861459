"""Writing sharded checkpoints. Floor 7; imports the collectives and the folder's format."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ...tensor import Size, Tensor
from .. import collectives, groups
from ..tensor.api import DTensor
from .filesystem import FileSystemWriter, StorageWriter
from .metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

__all__ = ["async_save", "save", "save_state_dict"]


def _leaf(value: Any) -> bool:
    """Whether a list is kept as one thing: there is no tensor and no dict in it."""
    return not any(isinstance(v, (Mapping, Tensor)) or (isinstance(v, list) and not _leaf(v))
                   for v in value)


def flattened(tree: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """What is in dicts, and in lists with tensors or dicts, by its path."""
    if isinstance(tree, Mapping):
        items: Any = ((str(k), v) for k, v in tree.items())
    elif isinstance(tree, list) and not _leaf(tree):
        items = enumerate(tree)
    else:
        return {path: tree}
    found = {}
    for key, value in items:
        found.update(flattened(value, (*path, key)))
    return found


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a path."""
    return ".".join(map(str, path))


def with_states(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Modules, optimizers and the like as their state dicts."""
    return {k: v.state_dict() if isinstance(getattr(v, "state_dict", None), Callable)  # type: ignore
            and isinstance(getattr(v, "load_state_dict", None), Callable)  # type: ignore
            else v for k, v in state_dict.items()}


class _Alone:
    """A group of this process."""

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 1


def group_of(process_group: Any, no_dist: bool) -> Any:
    """The processes that write or read together."""
    return _Alone() if no_dist or not groups.is_initialized() else groups._the(process_group)


def everybody(group: Any, value: Any) -> list[Any]:
    """The values of all processes."""
    if group.size() == 1:
        return [value]
    found = [None] * group.size()
    collectives.all_gather_object(found, value, group)
    return found


def _tensor_items(name: str, t: Tensor) -> tuple[TensorStorageMetadata, dict[Any, Tensor]]:
    """What is said about a tensor, and the parts of it that this process has."""
    if isinstance(t, DTensor):
        local, at = t.to_local(), t.local_offsets()
        whole, mine = tuple(t.shape), tuple(local.shape)
    else:
        local, whole, mine, at = t, tuple(t.shape), tuple(t.shape), (0,) * t.dim()
    chunk = ChunkStorageMetadata(Size(at), Size(mine))
    meta = TensorStorageMetadata(TensorProperties.create_from_tensor(local), Size(whole), [chunk])
    return meta, {MetadataIndex(name, at, 0): local.detach()}


def save(state_dict: dict[str, Any], *, checkpoint_id: str | os.PathLike[str] | None = None,
         storage_writer: StorageWriter | None = None, planner: Any = None,
         process_group: Any = None, no_dist: bool = False,
         use_collectives: bool = True) -> Metadata:
    """Write a checkpoint into the folder `checkpoint_id`: what several processes have is written by
    one of them. Modules and optimizers in `state_dict` are written as their state dicts. The format
    is that of PyTorch's `torch.distributed.checkpoint`, and read by it.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> from lampion.distributed import checkpoint
    >>> _ = checkpoint.save({"w": lampion.ones(2), "step": 3}, checkpoint_id=folder)
    >>> state = {"w": lampion.zeros(2), "step": 0}
    >>> checkpoint.load(state, checkpoint_id=folder)
    >>> state
    {'w': tensor([1., 1.]), 'step': 3}
    """
    writer = storage_writer or FileSystemWriter(_named(checkpoint_id))
    if not isinstance(writer, FileSystemWriter):
        raise TypeError(f"save: a FileSystemWriter writes, not a {type(writer).__name__}")
    group = group_of(process_group, no_dist)
    paths = flattened(with_states(state_dict))
    metas: dict[str, Any] = {}
    items: dict[Any, Any] = {}
    for path, value in paths.items():
        name = name_of(path)
        if isinstance(value, Tensor):
            metas[name], parts = _tensor_items(name, value)
            items.update(parts)
        else:
            metas[name] = BytesStorageMetadata()
            items[MetadataIndex(name)] = value
    plans = everybody(group, [(k.fqn, None if k.offset is None else tuple(k.offset))
                              for k in items])
    before = {item for plan in plans[:group.rank()] for item in plan}
    mine = {k: v for k, v in items.items()
            if (k.fqn, None if k.offset is None else tuple(k.offset)) not in before}
    where = writer.write(group.rank(), mine)
    described = everybody(group, (metas, where, {name_of(p): p for p in paths}))
    metadata = _merged(described)
    metadata.storage_meta = StorageMeta(writer.path, str(uuid.uuid4()))
    if group.rank() == 0:
        writer.finish(metadata)
    everybody(group, None)
    return metadata


def _merged(described: list[Any]) -> Metadata:
    """What all processes wrote, as one."""
    metas: dict[str, Any] = {}
    storage: dict[Any, Any] = {}
    names: dict[str, Any] = {}
    for theirs, where, paths in described:
        names.update(paths)
        storage.update(where)
        for name, meta in theirs.items():
            known = metas.setdefault(name, meta)
            if isinstance(known, TensorStorageMetadata) and known is not meta:
                known.chunks += [c for c in meta.chunks if c not in known.chunks]
    return Metadata(metas, names, storage, version="1.0.0")


def _named(checkpoint_id: Any) -> Any:
    if checkpoint_id is None:
        raise RuntimeError("a checkpoint needs `checkpoint_id`, its folder, or a storage writer or "
                           "reader")
    return checkpoint_id


_pool: list[ThreadPoolExecutor] = []


def async_save(state_dict: dict[str, Any], *, checkpoint_id: Any = None,
               storage_writer: StorageWriter | None = None, planner: Any = None,
               process_group: Any = None, async_checkpointer_type: Any = None,
               async_stager: Any = None, no_dist: bool = False,
               use_collectives: bool = True) -> Future[Any]:
    """`save` in another thread, of what the tensors are now; a future to wait for."""
    from ...utils import _pytree as pytree

    now = pytree.tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v,
                          with_states(state_dict))
    if not _pool:
        _pool.append(ThreadPoolExecutor(1, "lampion checkpoint"))
    return _pool[0].submit(save, now, checkpoint_id=checkpoint_id, storage_writer=storage_writer,
                           process_group=process_group, no_dist=no_dist)


def save_state_dict(state_dict: dict[str, Any], storage_writer: StorageWriter,
                    process_group: Any = None, coordinator_rank: int = 0, no_dist: bool = False,
                    planner: Any = None) -> Metadata:
    """The older form of `save`."""
    return save(state_dict, storage_writer=storage_writer, process_group=process_group,
                no_dist=no_dist)
