"""`DeviceMesh`: the processes of a world in rows and columns, with a group along each dim.

Floor 7; imports the groups.
"""

from __future__ import annotations

from typing import Any

import lampion

from ..tensor import Tensor
from . import groups
from .groups import ProcessGroup, get_rank, get_world_size, new_group

__all__ = ["DeviceMesh", "init_device_mesh"]


class DeviceMesh:
    """An array of ranks. `mesh_dim_names` name its dims; `mesh["name"]` is the part of this process
    along a dim. All processes make the same meshes in the same order.

    >>> lampion.distributed.init_process_group("gloo", world_size=1, rank=0)
    >>> mesh = lampion.distributed.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "tp"))
    >>> mesh["tp"].size(), mesh.get_coordinate()
    (1, (0, 0))
    >>> lampion.distributed.destroy_process_group()
    """

    def __init__(self, device_type: str, mesh: Any = None, *,
                 mesh_dim_names: tuple[str, ...] | None = None, backend_override: Any = None,
                 _groups: list[Any] | None = None) -> None:
        self.device_type = device_type
        found = lampion.as_tensor(mesh, device="cpu", dtype=lampion.int64)
        self.mesh: Tensor = found if found.dim() else found.reshape(1)
        self.mesh_dim_names = None if mesh_dim_names is None else tuple(mesh_dim_names)
        if self.mesh_dim_names is not None and len(self.mesh_dim_names) != self.ndim:
            raise RuntimeError(f"DeviceMesh: {len(self.mesh_dim_names)} names for {self.ndim} dims")
        self._groups = self._made_groups() if _groups is None else _groups

    def _made_groups(self) -> list[Any]:
        """This process's group along each dim."""
        found = []
        for d in range(self.ndim):
            rows = self.mesh.movedim(d, -1).reshape(-1, self.mesh.shape[d]).tolist()
            if rows == [list(range(get_world_size()))]:
                found.append(groups._get_default_group())
            else:
                made = [new_group(row) for row in rows]
                found.append(next((g for g in made if isinstance(g, ProcessGroup)), None))
        return found

    @property
    def ndim(self) -> int:
        """The number of dims."""
        return self.mesh.dim()

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of processes along each dim."""
        return tuple(self.mesh.shape)

    def size(self, mesh_dim: int | None = None) -> int:
        """The number of processes, of all or along a dim."""
        return self.mesh.numel() if mesh_dim is None else self.mesh.shape[mesh_dim]

    def _dim(self, mesh_dim: int | str | None) -> int:
        if mesh_dim is None:
            if self.ndim != 1:
                raise RuntimeError(f"DeviceMesh: name the dim; there are {self.ndim}: "
                                   f"{self.mesh_dim_names or self.shape}")
            return 0
        if isinstance(mesh_dim, str):
            if mesh_dim not in (self.mesh_dim_names or ()):
                raise KeyError(f"DeviceMesh: there is no dim {mesh_dim!r} in "
                               f"{self.mesh_dim_names}")
            return (self.mesh_dim_names or ()).index(mesh_dim)
        return mesh_dim

    def get_group(self, mesh_dim: int | str | None = None) -> ProcessGroup:
        """This process's group along a dim."""
        found: ProcessGroup = self._groups[self._dim(mesh_dim)]
        return found

    def get_all_groups(self) -> list[ProcessGroup]:
        """This process's groups along all dims."""
        return list(self._groups)

    def get_rank(self) -> int:
        """The rank of this process in the world."""
        return get_rank()

    def get_coordinate(self) -> tuple[int, ...] | None:
        """Where this process is in the mesh; None if it is not in it."""
        at = (self.mesh == get_rank()).nonzero()
        return tuple(at[0].tolist()) if at.shape[0] else None

    def get_local_rank(self, mesh_dim: int | str | None = None) -> int:
        """The place of this process along a dim."""
        at = self.get_coordinate()
        if at is None:
            raise RuntimeError("DeviceMesh: this process is not in the mesh")
        return at[self._dim(mesh_dim)]

    def __getitem__(self, names: str | tuple[str, ...]) -> DeviceMesh:
        names = (names,) if isinstance(names, str) else tuple(names)
        dims = [self._dim(n) for n in names]
        at = self.get_coordinate()
        if at is None:
            raise RuntimeError("DeviceMesh: this process is not in the mesh")
        key = tuple(slice(None) if d in dims else at[d] for d in range(self.ndim))
        part = self.mesh[key].permute([sorted(dims).index(d) for d in dims])
        return DeviceMesh(self.device_type, part, mesh_dim_names=names,
                          _groups=[self._groups[d] for d in dims])

    def _flatten(self, mesh_dim_name: str | None = None, backend_override: Any = None,
                 ) -> DeviceMesh:
        """All dims as one."""
        name = mesh_dim_name or "_".join(self.mesh_dim_names or map(str, range(self.ndim)))
        return DeviceMesh(self.device_type, self.mesh.flatten(), mesh_dim_names=(name,))

    @staticmethod
    def from_group(group: Any, device_type: str, mesh: Any = None, *,
                   mesh_dim_names: tuple[str, ...] | None = None) -> DeviceMesh:
        """The mesh of a group, or of one group for each dim of `mesh`."""
        if isinstance(group, ProcessGroup):
            return DeviceMesh(device_type, group.ranks if mesh is None else mesh,
                              mesh_dim_names=mesh_dim_names, _groups=[group])
        if mesh is None:
            raise ValueError("DeviceMesh.from_group: several groups need the mesh of ranks")
        return DeviceMesh(device_type, mesh, mesh_dim_names=mesh_dim_names, _groups=list(group))

    def __eq__(self, other: Any) -> bool:
        return self is other or (
            isinstance(other, DeviceMesh) and self.device_type == other.device_type
            and self.mesh.equal(other.mesh) and self.mesh_dim_names == other.mesh_dim_names)

    def __hash__(self) -> int:
        return hash((self.device_type, self.shape, tuple(self.mesh.flatten().tolist()),
                     self.mesh_dim_names))

    def __enter__(self) -> DeviceMesh:
        _current.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        _current.pop()

    def __repr__(self) -> str:
        if self.mesh_dim_names:
            named = ", ".join(f"{n}={s}" for n, s in zip(self.mesh_dim_names, self.shape))
            return f"DeviceMesh(({named}), '{self.device_type}')"
        return f"DeviceMesh({self.shape}, '{self.device_type}')"


_current: list[DeviceMesh] = []


def init_device_mesh(device_type: str, mesh_shape: tuple[int, ...], *,
                     mesh_dim_names: tuple[str, ...] | None = None,
                     backend_override: Any = None) -> DeviceMesh:
    """The mesh of all processes in this shape, by rank in row-major order; makes the default group
    from the environment if there is none. RuntimeError for a shape of more or fewer processes, or
    names that do not fit."""
    if mesh_dim_names is not None and (
            len(set(mesh_dim_names)) != len(mesh_dim_names) or
            len(mesh_dim_names) != len(mesh_shape)):
        raise RuntimeError(f"init_device_mesh: the names {mesh_dim_names} of the dims {mesh_shape} "
                           "must be as many and differ")
    if not groups.is_initialized():
        groups.init_process_group()
    count = 1
    for n in mesh_shape:
        count *= n
    if count != get_world_size():
        raise RuntimeError(f"init_device_mesh: a mesh {tuple(mesh_shape)} of {count} processes in "
                           f"a world of {get_world_size()}")
    return DeviceMesh(device_type, lampion.arange(count).reshape(mesh_shape),
                      mesh_dim_names=mesh_dim_names)
