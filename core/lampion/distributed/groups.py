"""Which processes work together. Floor 7; imports the standard library, stores and wires."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from .stores import PrefixStore, Store, rendezvous
from .wires import Wires


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
    default_device_backend_map = {"cpu": GLOO}

    def __new__(cls, name: str) -> Backend:
        if not isinstance(name, str):
            raise ValueError(f"Backend constructor parameter must be string, got {name!r}")
        return super().__new__(cls, name.lower())


class ProcessGroup:
    """The processes that take part in a collective, by their ranks in the world."""

    def __init__(self, backend: str, ranks: list[int], name: str = "",
                 wires: Wires | None = None) -> None:
        self.backend, self.ranks, self.group_name = Backend(backend), ranks, name
        self.wires = wires or Wires(0, 1, Store(), 0.0)
        self._calls = 0

    def rank(self) -> int:
        """The place of this process in the group; -1 if it is not in it."""
        return self.ranks.index(self.wires.rank) if self.wires.rank in self.ranks else -1

    def size(self) -> int:
        """The number of processes in the group."""
        return len(self.ranks)

    def name(self) -> str:
        """The name of the library that moves the data."""
        return str(self.backend)

    @property
    def group_desc(self) -> str:
        """What the group is for, as it was made."""
        return self.group_name

    def tag(self, what: str) -> str:
        """The tag of the messages of the next collective: the same in all processes, which call
        the same collectives in the same order."""
        self._calls += 1
        return f"{self.group_name}.{self._calls}/{what}"

    def send(self, place: int, tag: str, body: Any) -> None:
        """Send bytes to a place of the group."""
        self.wires.send(self.ranks[place], tag, body)

    def receive(self, place: int, tag: str) -> bytearray:
        """The bytes that a place of the group sends."""
        return self.wires.receive(self.ranks[place], tag)

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
_groups: dict[str, ProcessGroup] = {}  # all that this process is in, by name
_store: Store | None = None
_count = [0]  # of groups that were made, the same in all processes


def is_available() -> bool:
    """Whether there are process groups: yes."""
    return True


def is_initialized() -> bool:
    """Whether `init_process_group` has been called."""
    return _default is not None


def is_backend_available(backend: str) -> bool:
    """Whether data is moved between processes under this name: over TCP, as gloo."""
    return backend.lower() == Backend.GLOO


def is_gloo_available() -> bool:
    """True: TCP between processes, which is called so."""
    return True


def is_mpi_available() -> bool:
    """False: no such library is used."""
    return False


is_nccl_available = is_ucc_available = is_xccl_available = is_mpi_available


def is_torchelastic_launched() -> bool:
    """Whether a launcher that restarts failed processes started this one."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _number(given: int, variable: str) -> int:
    """An argument, or the environment variable that stands for it."""
    if given >= 0:
        return given
    if variable not in os.environ:
        raise ValueError(f"init_process_group: {variable.lower()} is neither an argument nor the "
                         f"environment variable {variable}; a launcher sets it (`python -m "
                         "lampion.distributed.run`); alone: world_size=1, rank=0")
    return int(os.environ[variable])


def init_process_group(
    backend: str | None = None, init_method: str | None = None, timeout: timedelta | None = None,
    world_size: int = -1, rank: int = -1, store: Store | None = None, group_name: str = "",
    pg_options: Any = None, device_id: Any = None, *, _ranks: Any = None,
) -> None:
    """Make the default group, of all processes.

    `world_size` and `rank` come from the arguments or from the environment variables `WORLD_SIZE`
    and `RANK`. The processes find each other by `store` or `init_method`: `env://` (the variables
    `MASTER_ADDR` and `MASTER_PORT`), `tcp://host:port`, `file://path`; a world of one needs none.
    Data moves over TCP through the host, whatever `backend` is called. ValueError if something is
    not said, or if the group exists already; DistBackendError or DistStoreError if a process does
    not come within `timeout` (30 minutes).

    >>> lampion.distributed.init_process_group("gloo", world_size=1, rank=0)
    >>> lampion.distributed.get_world_size()
    1
    >>> lampion.distributed.destroy_process_group()
    """
    global _default, _store
    if _default is not None:
        raise ValueError("trying to initialize the default process group twice!")
    size, place = _number(world_size, "WORLD_SIZE"), _number(rank, "RANK")
    if not 0 <= place < size:
        raise ValueError(f"init_process_group: rank {place} in a world of {size} processes")
    limit = timeout or timedelta(minutes=30)
    if store is None:
        store = Store() if size == 1 else rendezvous(init_method, size, place, limit)
    _count[0] += 1
    _store = PrefixStore(f"lampion/{_count[0]}", store)
    wires = Wires(place, size, _store, limit.total_seconds())
    # "cpu:gloo,other:lib" names one library per device
    _default = ProcessGroup(backend or Backend.UNDEFINED, list(range(size)), group_name or "0",
                            wires)
    _groups[_default.group_name] = _default


def destroy_process_group(group: ProcessGroup | None = None) -> None:
    """Forget a group, by default the default group, and with it all others."""
    global _default, _store
    if group is None or group is _default:
        _the(None).wires.close()
        _default = _store = None
        _groups.clear()
    elif isinstance(group, ProcessGroup):
        _groups.pop(group.group_name, None)


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
    """A group of some of the processes, or `GroupMember.NON_GROUP_MEMBER` in a process that is not
    in it. All processes of the world call this, in the same order."""
    world = _the(None)
    wanted = sorted(world.ranks if ranks is None else ranks)
    if any(r not in world.ranks for r in wanted) or len(set(wanted)) != len(wanted):
        raise ValueError(f"new_group: ranks {wanted} in a world of {world.size()} processes")
    _count[0] += 1
    if world.wires.rank not in wanted:
        return GroupMember.NON_GROUP_MEMBER
    name = f"{_count[0]}" if use_local_synchronization is False else f"{wanted}.{len(_groups)}"
    made = ProcessGroup(backend or world.backend, wanted, name, world.wires)
    _groups[name] = made
    return made


def new_subgroups(group_size: int | None = None, group: ProcessGroup | None = None,
                  timeout: Any = None, backend: str | None = None, pg_options: Any = None,
                  group_desc: str | None = None) -> tuple[Any, list[Any]]:
    """(this process's group, all groups) of neighbouring ranks, `group_size` each."""
    ranks, size = _the(group).ranks, group_size or _the(group).size()
    if size <= 0 or len(ranks) % size:
        raise ValueError(f"new_subgroups: {len(ranks)} processes in groups of {size}")
    return new_subgroups_by_enumeration([ranks[k:k + size] for k in range(0, len(ranks), size)],
                                        timeout, backend, pg_options, group_desc)


def new_subgroups_by_enumeration(ranks_per_subgroup_list: list[list[int]], timeout: Any = None,
                                 backend: str | None = None, pg_options: Any = None,
                                 group_desc: str | None = None) -> tuple[Any, list[Any]]:
    """(this process's group or None, all groups) of these ranks, which are in one group at most."""
    named = [r for ranks in ranks_per_subgroup_list for r in ranks]
    if not named or len(set(named)) != len(named):
        raise ValueError(f"new_subgroups_by_enumeration: a rank is in two groups, or there is "
                         f"none: {ranks_per_subgroup_list}")
    groups = [new_group(ranks, timeout, backend) for ranks in ranks_per_subgroup_list]
    mine = next((g for g in groups if isinstance(g, ProcessGroup)), None)
    return mine, groups


def split_group(parent_pg: ProcessGroup | None = None, split_ranks: list[list[int]] | None = None,
                timeout: Any = None, pg_options: Any = None, group_desc: str | None = None,
                backend: Any = None) -> ProcessGroup | None:
    """This process's group of those that `split_ranks` makes of a group's places."""
    ranks = _the(parent_pg).ranks
    if not split_ranks:
        raise ValueError("split_group: split_ranks cannot be None or empty")
    return new_subgroups_by_enumeration([[ranks[k] for k in part] for part in split_ranks],
                                        timeout, backend)[0]


def get_pg_count() -> int:
    """How many groups this process is in."""
    return len(_groups)


def get_backend_config(group: ProcessGroup | None = None) -> str:
    """The name of the library for each kind of device."""
    return f"cpu:{_the(group).backend}"


def get_default_backend_for_device(device: Any) -> str:
    """The name that data of a device is moved under."""
    return str(Backend.GLOO)


def _get_default_group() -> ProcessGroup:
    """The default group; ValueError before it is made."""
    return _the(None)


def _get_default_store() -> Store:
    """The store of the default group."""
    _the(None)
    assert _store is not None
    return _store


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
