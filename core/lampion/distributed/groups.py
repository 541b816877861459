"""Which processes work together: one. Floor 7; imports the standard library and the stores."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from .stores import Store


class Backend(str):
    """The name of a library that moves data between processes, in small letters.

    >>> lampion.distributed.Backend("GLOO")
    'gloo'
    """

    UNDEFINED = "undefined"
    GLOO = "gloo"
    NCCL = "nccl"
    MPI = "mpi"
    UCC = "ucc"
    XCCL = "xccl"

    def __new__(cls, name: str) -> Backend:
        if not isinstance(name, str):
            raise ValueError(f"Backend constructor parameter must be string, got {name!r}")
        return super().__new__(cls, name.lower())


class ProcessGroup:
    """The processes that take part in a collective, by their ranks in the world."""

    def __init__(self, backend: str, ranks: list[int], name: str = "") -> None:
        self.backend, self.ranks, self.group_name = Backend(backend), ranks, name

    def rank(self) -> int:
        """The place of this process in the group; -1 if it is not in it."""
        return 0 if self.ranks else -1

    def size(self) -> int:
        """The number of processes in the group."""
        return len(self.ranks)

    def name(self) -> str:
        """The name of the library that moves the data."""
        return str(self.backend)

    def __repr__(self) -> str:
        return f"ProcessGroup({self.backend}, ranks={self.ranks})"


class _World(type):
    """The default group, read through a class as PyTorch's programs do."""

    @property
    def WORLD(cls) -> ProcessGroup | None:
        """The group of all processes; None before `init_process_group`."""
        return _default


class GroupMember(metaclass=_World):
    """`GroupMember.WORLD`, and what `new_group` gives a process that is not in the group."""

    NON_GROUP_MEMBER = -100


class group(metaclass=_World):
    """`group.WORLD`: the group of all processes."""


_default: ProcessGroup | None = None


def is_available() -> bool:
    """Whether there are process groups: yes, of one process."""
    return True


def is_initialized() -> bool:
    """Whether `init_process_group` has been called."""
    return _default is not None


def is_backend_available(backend: str) -> bool:
    """Whether a library of this name moves data between processes: none does yet."""
    return False


def is_gloo_available() -> bool:
    """False: a world of one process moves no data."""
    return False


is_mpi_available = is_nccl_available = is_ucc_available = is_xccl_available = is_gloo_available


def is_torchelastic_launched() -> bool:
    """Whether a launcher that restarts failed processes started this one."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _number(given: int, variable: str) -> int:
    """An argument, or the environment variable that stands for it."""
    if given >= 0:
        return given
    if variable not in os.environ:
        raise ValueError(f"init_process_group: {variable.lower()} is neither an argument nor the "
                         f"environment variable {variable}; lampion has groups of one process: "
                         "world_size=1, rank=0")
    return int(os.environ[variable])


def init_process_group(
    backend: str | None = None, init_method: str | None = None, timeout: timedelta | None = None,
    world_size: int = -1, rank: int = -1, store: Store | None = None, group_name: str = "",
    pg_options: Any = None, device_id: Any = None, *, _ranks: Any = None,
) -> None:
    """Make the default group, of this process alone.

    `world_size` and `rank` come from the arguments or from the environment variables `WORLD_SIZE`
    and `RANK`. ValueError if neither says them, or if the group exists already;
    NotImplementedError for a world of more than one process.

    >>> lampion.distributed.init_process_group("gloo", world_size=1, rank=0)
    >>> lampion.distributed.get_world_size()
    1
    >>> lampion.distributed.destroy_process_group()
    """
    global _default
    if _default is not None:
        raise ValueError("trying to initialize the default process group twice!")
    size, place = _number(world_size, "WORLD_SIZE"), _number(rank, "RANK")
    if size != 1:
        raise NotImplementedError(f"init_process_group: a world of {size} processes; lampion has "
                                  "groups of one process so far. Start the program without a "
                                  "launcher, or with one process")
    if place != 0:
        raise ValueError(f"init_process_group: rank {place} in a world of one process")
    # "cpu:gloo,other:lib" names one library per device
    _default = ProcessGroup(backend or Backend.UNDEFINED, [0], group_name or "0")


def destroy_process_group(group: ProcessGroup | None = None) -> None:
    """Forget a group, by default the default group."""
    global _default
    if group is None or group is _default:
        _the(None)
        _default = None


def _the(group: ProcessGroup | None) -> ProcessGroup:
    """A group that was given, or the default one."""
    if isinstance(group, ProcessGroup):
        return group
    if _default is None:
        raise ValueError("Default process group has not been initialized, please make sure to "
                         "call init_process_group.")
    if group is not None:
        raise ValueError(f"this process is not in the group {group!r}")
    return _default


def new_group(ranks: list[int] | None = None, timeout: Any = None, backend: str | None = None,
              pg_options: Any = None, use_local_synchronization: bool = False,
              group_desc: str | None = None, device_id: Any = None) -> Any:
    """A group of some of the processes: of this one, or `GroupMember.NON_GROUP_MEMBER`."""
    world = _the(None)
    wanted = sorted(world.ranks if ranks is None else ranks)
    if any(r not in world.ranks for r in wanted):
        raise ValueError(f"new_group: ranks {wanted} in a world of {world.size()} process")
    if not wanted:
        return GroupMember.NON_GROUP_MEMBER
    return ProcessGroup(backend or world.backend, wanted, group_desc or "")


def _outside(group: Any) -> bool:
    """Whether this process is not in the group."""
    return group == GroupMember.NON_GROUP_MEMBER and not isinstance(group, ProcessGroup)


def get_rank(group: ProcessGroup | None = None) -> int:
    """The place of this process in a group; -1 outside of it."""
    return -1 if _outside(group) else _the(group).rank()


def get_world_size(group: ProcessGroup | None = None) -> int:
    """How many processes are in a group; -1 outside of it."""
    return -1 if _outside(group) else _the(group).size()


def get_backend(group: ProcessGroup | None = None) -> Backend:
    """The name that the group was made with."""
    return _the(group).backend


def get_process_group_ranks(group: ProcessGroup | None) -> list[int]:
    """The ranks of a group's processes in the world."""
    return list(_the(group).ranks)


def get_global_rank(group: ProcessGroup, group_rank: int) -> int:
    """The rank in the world of a place in a group."""
    ranks = _the(group).ranks
    if not 0 <= group_rank < len(ranks):
        raise ValueError(f"Group rank {group_rank} is not part of group {group}")
    return ranks[group_rank]


def get_group_rank(group: ProcessGroup, global_rank: int) -> int:
    """The place in a group of a rank in the world."""
    ranks = _the(group).ranks
    if global_rank not in ranks:
        raise ValueError(f"Global rank {global_rank} is not part of group {group}")
    return ranks.index(global_rank)


def get_node_local_rank(fallback_rank: int | None = None) -> int:
    """The place of this process among those of its machine: `LOCAL_RANK`."""
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    if fallback_rank is None:
        raise RuntimeError("LOCAL_RANK is not in the environment. Consider passing fallback_rank "
                           "to allow `get_node_local_rank` to work without a launcher")
    return int(fallback_rank)
