"""What PyTorch keeps in this module: groups, collectives, stores. Floor 7."""

from __future__ import annotations

from typing import Any

from . import groups
from .collectives import *  # noqa: F403
from .groups import *  # noqa: F403
from .groups import ProcessGroup, _groups, _outside
from .groups import _get_default_group as _get_default_group
from .groups import _get_default_store as _get_default_store
from .stores import *  # noqa: F403

_pg_map = _groups
__all__ = [n for n in globals() if not n.startswith("_") and n not in ("annotations", "Any")]


def _rank_not_in_group(group: Any) -> bool:
    """Whether this process is not in a group."""
    return _outside(group)


def _get_pg_default_device(group: Any = None) -> Any:
    """The device whose data a group moves."""
    from ..base.device import device

    return device("cpu")


def _resolve_process_group(group_name: str) -> ProcessGroup:
    """The group of a name."""
    return groups._groups[group_name]
