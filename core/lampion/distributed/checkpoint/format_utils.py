"""Sharded checkpoints as single files and back; commands too. Floor 7; imports the readers."""

from __future__ import annotations

import os
from typing import Any

import lampion

from ...serialization import load as load_file
from ...serialization import save as save_file
from .default_planner import _EmptyStateDictLoadPlanner
from .filesystem import FileSystemReader
from .metadata import MetadataIndex, TensorStorageMetadata
from .state_dict_loader import _read_tensor
from .state_dict_saver import save

__all__ = ["dcp_to_torch_save", "torch_save_to_dcp"]


def everything(reader: FileSystemReader, keys: set[str] | None = None) -> dict[str, Any]:
    """What a checkpoint holds, nested as it was; with `keys`, what begins with one of them."""
    metadata = reader.read_metadata()
    found: dict[str, Any] = {}
    for name, known in metadata.state_dict_metadata.items():
        if keys is not None and not any(name == k or name.startswith(f"{k}.") for k in keys):
            continue
        if isinstance(known, TensorStorageMetadata):
            value: Any = lampion.empty(tuple(known.size), dtype=known.properties.dtype)
            _read_tensor(name, value, known, metadata, reader)
        else:
            value = reader.read(metadata.storage_data[MetadataIndex(name)], weights_only=False)
        _set(found, (metadata.planner_data or {}).get(name, (name,)), value)
    return found


def _set(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    """Put a value at a path; numbers are places of lists."""
    for key, following in zip(path, [*path[1:], None]):
        last = following is None
        fresh: Any = value if last else [] if isinstance(following, int) else {}
        if isinstance(tree, list):
            tree += [None] * (key + 1 - len(tree))
            if last or tree[key] is None:
                tree[key] = fresh
        elif last or key not in tree:
            tree[key] = fresh
        tree = tree[key]


def dcp_to_torch_save(dcp_checkpoint_dir: str | os.PathLike[str],
                      torch_save_path: str | os.PathLike[str]) -> None:
    """Write what a sharded checkpoint holds into one file, as `lampion.save`."""
    save_file(everything(FileSystemReader(dcp_checkpoint_dir)), torch_save_path)


def torch_save_to_dcp(torch_save_path: str | os.PathLike[str],
                      dcp_checkpoint_dir: str | os.PathLike[str]) -> None:
    """Write what a file holds as a sharded checkpoint."""
    save(load_file(torch_save_path, weights_only=False), checkpoint_id=dcp_checkpoint_dir,
         no_dist=True)


def _load_state_dict(state_dict: dict[str, Any], storage_reader: FileSystemReader,
                     process_group: Any = None, coordinator_rank: int = 0, no_dist: bool = False,
                     planner: Any = None) -> None:
    """Read everything (with an `_EmptyStateDictLoadPlanner`), or what `state_dict` has."""
    if isinstance(planner, _EmptyStateDictLoadPlanner):
        state_dict.update(everything(storage_reader, planner.keys))
    else:
        from .state_dict_loader import load

        load(state_dict, storage_reader=storage_reader, planner=planner, no_dist=no_dist)
