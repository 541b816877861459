"""`lampion.distributed.checkpoint`: checkpoints that processes write and read together.

A folder in PyTorch's format, readable by either: `.metadata`, and a file for each process.
"""

from __future__ import annotations

from ...late import late
from . import metadata as metadata

__all__ = ["BytesStorageMetadata", "CheckpointException", "ChunkStorageMetadata",
           "DefaultLoadPlanner", "DefaultSavePlanner", "FileSystemReader", "FileSystemWriter",
           "LoadPlanner", "Metadata", "SavePlanner", "StorageReader", "StorageWriter",
           "TensorStorageMetadata", "async_save", "load", "load_state_dict", "save",
           "save_state_dict"]

__getattr__, __dir__ = late(__name__, {
    **dict.fromkeys(("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata",
                     "TensorStorageMetadata"), "metadata"),
    **dict.fromkeys(("FileSystemReader", "FileSystemWriter", "StorageReader", "StorageWriter"),
                    "filesystem"),
    **dict.fromkeys(("DefaultLoadPlanner", "DefaultSavePlanner", "LoadPlanner", "SavePlanner"),
                    "default_planner"),
    **dict.fromkeys(("async_save", "save", "save_state_dict"), "state_dict_saver"),
    **dict.fromkeys(("CheckpointException", "load", "load_state_dict"), "state_dict_loader"),
    **dict.fromkeys(("format_utils", "state_dict", "state_dict_loader", "state_dict_saver",
                     "filesystem", "default_planner"), "")})
