"""How checkpoints are read and written, as programs ask for it. Floor 7."""

from __future__ import annotations

from typing import Any

__all__ = ["DefaultLoadPlanner", "DefaultSavePlanner", "LoadPlanner", "SavePlanner"]


class SavePlanner:
    """How a checkpoint is written."""


class LoadPlanner:
    """How a checkpoint is read."""


class DefaultSavePlanner(SavePlanner):
    """Nested state dicts are flattened, and what several processes have is written once."""

    def __init__(self, flatten_state_dict: bool = True, flatten_sharded_tensors: bool = True,
                 dedup_replicated_tensors: Any = None, dedup_save_to_lowest_rank: bool = False,
                 enable_plan_caching: bool = False) -> None:
        if not flatten_state_dict:
            raise ValueError("DefaultSavePlanner: flatten_state_dict=False is not in lampion")


class DefaultLoadPlanner(LoadPlanner):
    """Names that the checkpoint does not have are errors, or with `allow_partial_load` stay as they
    are."""

    def __init__(self, flatten_state_dict: bool = True, flatten_sharded_tensors: bool = True,
                 allow_partial_load: bool = False) -> None:
        if not flatten_state_dict:
            raise ValueError("DefaultLoadPlanner: flatten_state_dict=False is not in lampion")
        self.allow_partial_load = allow_partial_load


class _EmptyStateDictLoadPlanner(DefaultLoadPlanner):
    """Reads everything that is in the checkpoint, or what begins with one of some names."""

    def __init__(self, keys: set[str] | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keys = keys
