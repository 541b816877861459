"""Collectives that give new tensors, as compilers like them. They are complete when they return.

Floor 7; imports the differentiable collectives.
"""

from __future__ import annotations

from typing import Any

import lampion

from ..tensor import Tensor
from . import collectives as C
from .device_mesh import DeviceMesh
from .groups import ProcessGroup, _the, new_group
from .nn import functional as F

__all__ = ["AsyncCollectiveTensor", "all_gather_tensor", "all_gather_tensor_autograd",
           "all_reduce", "all_reduce_coalesced", "all_to_all_single",
           "all_to_all_single_autograd", "broadcast", "permute_tensor", "reduce_scatter_tensor",
           "reduce_scatter_tensor_autograd", "wait_tensor"]


class AsyncCollectiveTensor(Tensor):
    """A tensor that is not there yet: none is made here."""


def _group(group: Any) -> ProcessGroup:
    """A group, given as such, as a mesh (and a dim of it), or as ranks."""
    if isinstance(group, DeviceMesh):
        return group.get_group()
    if isinstance(group, tuple):
        return group[0].get_group(group[1])
    if isinstance(group, list):
        found: ProcessGroup = new_group(group)
        return found
    return _the(group)


def _kind(name: str) -> C.ReduceOp:
    return C.ReduceOp[name.upper()]


def wait_tensor(tensor: Tensor) -> Tensor:
    """The tensor: it is there."""
    return tensor


def all_reduce(self: Tensor, reduceOp: str, group: Any, tag: str = "") -> Tensor:
    """All tensors combined."""
    return F.all_reduce(self, _kind(reduceOp), _group(group))


def all_reduce_coalesced(self: list[Tensor], reduceOp: str, group: Any,
                         tag: str = "") -> list[Tensor]:
    """`all_reduce` of several tensors."""
    return [all_reduce(t, reduceOp, group) for t in self]


def broadcast(self: Tensor, src: int, group: Any, tag: str = "") -> Tensor:
    """The tensor of the process `src`."""
    return F.broadcast(self, src, _group(group))


def all_gather_tensor(self: Tensor, gather_dim: int, group: Any, tag: str = "") -> Tensor:
    """The tensors of all processes, joined along a dim."""
    return lampion.cat(F.all_gather(self, _group(group)), gather_dim)


def reduce_scatter_tensor(self: Tensor, reduceOp: str, scatter_dim: int, group: Any,
                          tag: str = "") -> Tensor:
    """This process's part, along a dim, of all tensors combined."""
    pg = _group(group)
    if self.shape[scatter_dim] % pg.size():
        raise ValueError(f"reduce_scatter_tensor: dim {scatter_dim} of size "
                         f"{self.shape[scatter_dim]} for {pg.size()} processes")
    parts = self.chunk(pg.size(), scatter_dim)
    return F.reduce_scatter(parts[pg.rank()], parts, _kind(reduceOp), pg)


def all_to_all_single(self: Tensor, output_split_sizes: Any, input_split_sizes: Any, group: Any,
                      tag: str = "") -> Tensor:
    """What all processes send to this one, one after another."""
    rows = sum(output_split_sizes) if output_split_sizes else self.shape[0]
    return F.all_to_all_single(self.detach().new_empty((rows, *self.shape[1:])), self,
                               output_split_sizes, input_split_sizes, _group(group))


def permute_tensor(self: Tensor, src_dst: list[int], group: Any, tag: str = "") -> Tensor:
    """The tensor of the process that sends to this one: place k sends to `src_dst[k]`."""
    pg = _group(group)
    n, me = pg.size(), pg.rank()
    rows = self.shape[0]
    sizes = [rows if k == src_dst[me] else 0 for k in range(n)]
    return all_to_all_single(self, [rows if src_dst[k] == me else 0 for k in range(n)], sizes, pg)


all_gather_tensor_autograd = all_gather_tensor  # all of them have gradients
reduce_scatter_tensor_autograd = reduce_scatter_tensor
all_to_all_single_autograd = all_to_all_single
