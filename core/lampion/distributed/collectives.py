"""Collectives of a group of one process: what every process contributes is what this one does.

Each checks its arguments as a larger group would, so that a program that runs here is not wrong
there. With `async_op=True` they give a `Work` that is done. Floor 7; imports the tensor.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

from ..autograd.modes import no_grad
from ..tensor import Tensor
from .groups import ProcessGroup, _outside, _the


class ReduceOp(enum.Enum):
    """How the contributions are combined."""

    SUM = 0
    AVG = 1
    PRODUCT = 2
    MIN = 3
    MAX = 4
    BAND = 5
    BOR = 6
    BXOR = 7


ReduceOp.RedOpType = ReduceOp  # type: ignore[attr-defined]
reduce_op = ReduceOp


class Work:
    """A collective that is done when it is called."""

    def __init__(self, result: Sequence[Tensor] = ()) -> None:
        self._result = list(result)

    def wait(self, timeout: Any = None) -> bool:
        """True: it is done."""
        return True

    def is_completed(self) -> bool:
        """True."""
        return True

    is_success = is_completed

    def exception(self) -> None:
        """None: it did not fail."""

    def result(self) -> list[Tensor]:
        """The tensors that were written."""
        return self._result


def _member(name: str, group: ProcessGroup | None, *ranks: int | None) -> bool:
    """Whether this process takes part; ValueError for ranks that no process has."""
    if _outside(group):
        return False
    size = _the(group).size()
    for rank in ranks:
        if rank is not None and not 0 <= rank < size:
            raise ValueError(f"{name}: there is no rank {rank} in a group of {size} process")
    return True


def _tensor(name: str, tensor: Any, what: str = "tensor") -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: `{what}` must be a Tensor, not {type(tensor).__name__}")
    return tensor


def _list(name: str, tensors: Any, what: str) -> Any:
    """A list with a place for every process: one."""
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"{name}: `{what}` must be a list of tensors, "
                        f"not {type(tensors).__name__}")
    if len(tensors) != 1:
        raise ValueError(f"{name}: `{what}` has {len(tensors)} entries for 1 process")
    return tensors


def _write(name: str, to: Any, source: Any) -> None:
    to, source = _tensor(name, to, "output"), _tensor(name, source, "input")
    if to.shape.numel() != source.shape.numel() or to.dtype != source.dtype:
        raise ValueError(f"{name}: the output is {to.dtype} of shape {tuple(to.shape)}, the input "
                         f"{source.dtype} of shape {tuple(source.shape)}")
    with no_grad():
        to.copy_(source.view(to.shape) if source.is_contiguous() else source.reshape(to.shape))


def _done(async_op: bool, *result: Tensor) -> Work | None:
    return Work(result) if async_op else None


def all_reduce(tensor: Tensor, op: ReduceOp = ReduceOp.SUM, group: ProcessGroup | None = None,
               async_op: bool = False) -> Work | None:
    """Combine `tensor` over the group, in place: alone, it stays what it is.

    >>> lampion.distributed.init_process_group(world_size=1, rank=0)
    >>> lampion.distributed.all_reduce(lampion.ones(2))
    >>> lampion.distributed.destroy_process_group()
    """
    if not _member("all_reduce", group):
        return None
    return _done(async_op, _tensor("all_reduce", tensor))


def all_reduce_coalesced(tensors: Sequence[Tensor], op: ReduceOp = ReduceOp.SUM,
                         group: ProcessGroup | None = None, async_op: bool = False) -> Work | None:
    """`all_reduce` of several tensors."""
    if not _member("all_reduce_coalesced", group):
        return None
    return _done(async_op, *(_tensor("all_reduce_coalesced", t) for t in tensors))


def reduce(tensor: Tensor, dst: int | None = None, op: ReduceOp = ReduceOp.SUM,
           group: ProcessGroup | None = None, async_op: bool = False,
           group_dst: int | None = None) -> Work | None:
    """Combine `tensor` over the group, in place, on the process `dst`."""
    if not _member("reduce", group, dst, group_dst):
        return None
    return _done(async_op, _tensor("reduce", tensor))


def broadcast(tensor: Tensor, src: int | None = None, group: ProcessGroup | None = None,
              async_op: bool = False, group_src: int | None = None) -> Work | None:
    """Give every process the `tensor` of the process `src`, in place."""
    if not _member("broadcast", group, src, group_src):
        return None
    return _done(async_op, _tensor("broadcast", tensor))


def all_gather(tensor_list: list[Tensor], tensor: Tensor, group: ProcessGroup | None = None,
               async_op: bool = False) -> Work | None:
    """Write the `tensor` of every process into `tensor_list`."""
    if not _member("all_gather", group):
        return None
    to = _list("all_gather", tensor_list, "tensor_list")
    _write("all_gather", to[0], tensor)
    return _done(async_op, *to)


def all_gather_into_tensor(output_tensor: Tensor, input_tensor: Tensor,
                           group: ProcessGroup | None = None,
                           async_op: bool = False) -> Work | None:
    """Write the tensors of all processes, one after the other or stacked, into `output_tensor`."""
    if not _member("all_gather_into_tensor", group):
        return None
    _write("all_gather_into_tensor", output_tensor, input_tensor)
    return _done(async_op, output_tensor)


def all_gather_object(object_list: list[Any], obj: Any,
                      group: ProcessGroup | None = None) -> None:
    """Write the object of every process into `object_list`."""
    if _member("all_gather_object", group):
        _list("all_gather_object", object_list, "object_list")[0] = obj


def gather(tensor: Tensor, gather_list: list[Tensor] | None = None, dst: int | None = None,
           group: ProcessGroup | None = None, async_op: bool = False,
           group_dst: int | None = None) -> Work | None:
    """Write the `tensor` of every process into `gather_list` on the process `dst`."""
    if not _member("gather", group, dst, group_dst):
        return None
    to = _list("gather", gather_list, "gather_list")
    _write("gather", to[0], tensor)
    return _done(async_op, *to)


def gather_object(obj: Any, object_gather_list: list[Any] | None = None, dst: int | None = None,
                  group: ProcessGroup | None = None, group_dst: int | None = None) -> None:
    """Write the object of every process into `object_gather_list` on the process `dst`."""
    if _member("gather_object", group, dst, group_dst):
        _list("gather_object", object_gather_list, "object_gather_list")[0] = obj


def scatter(tensor: Tensor, scatter_list: list[Tensor] | None = None, src: int | None = None,
            group: ProcessGroup | None = None, async_op: bool = False,
            group_src: int | None = None) -> Work | None:
    """Write to `tensor` this process's entry of the `scatter_list` of the process `src`."""
    if not _member("scatter", group, src, group_src):
        return None
    _write("scatter", tensor, _list("scatter", scatter_list, "scatter_list")[0])
    return _done(async_op, tensor)


def scatter_object_list(scatter_object_output_list: list[Any],
                        scatter_object_input_list: list[Any] | None = None,
                        src: int | None = None, group: ProcessGroup | None = None,
                        group_src: int | None = None) -> None:
    """Write to the first place of the output list this process's entry of the input list."""
    if not _member("scatter_object_list", group, src, group_src):
        return
    if not isinstance(scatter_object_output_list, list) or not scatter_object_output_list:
        raise ValueError("scatter_object_list: `scatter_object_output_list` must be a list with at "
                         "least one entry")
    given = _list("scatter_object_list", scatter_object_input_list, "scatter_object_input_list")
    scatter_object_output_list[0] = given[0]


def broadcast_object_list(object_list: list[Any], src: int | None = None,
                          group: ProcessGroup | None = None, device: Any = None,
                          group_src: int | None = None) -> None:
    """Give every process the objects of the process `src`, in place."""
    _member("broadcast_object_list", group, src, group_src)


def reduce_scatter(output: Tensor, input_list: list[Tensor], op: ReduceOp = ReduceOp.SUM,
                   group: ProcessGroup | None = None, async_op: bool = False) -> Work | None:
    """Combine lists of tensors over the group; `output` is this process's entry."""
    if not _member("reduce_scatter", group):
        return None
    _write("reduce_scatter", output, _list("reduce_scatter", input_list, "input_list")[0])
    return _done(async_op, output)


def reduce_scatter_tensor(output: Tensor, input: Tensor, op: ReduceOp = ReduceOp.SUM,
                          group: ProcessGroup | None = None,
                          async_op: bool = False) -> Work | None:
    """Combine tensors over the group; `output` is this process's part of them."""
    if not _member("reduce_scatter_tensor", group):
        return None
    _write("reduce_scatter_tensor", output, input)
    return _done(async_op, output)


def all_to_all(output_tensor_list: list[Tensor], input_tensor_list: list[Tensor],
               group: ProcessGroup | None = None, async_op: bool = False) -> Work | None:
    """Send one tensor to every process and receive one from each."""
    if not _member("all_to_all", group):
        return None
    to = _list("all_to_all", output_tensor_list, "output_tensor_list")
    _write("all_to_all", to[0], _list("all_to_all", input_tensor_list, "input_tensor_list")[0])
    return _done(async_op, *to)


def all_to_all_single(output: Tensor, input: Tensor, output_split_sizes: list[int] | None = None,
                      input_split_sizes: list[int] | None = None,
                      group: ProcessGroup | None = None, async_op: bool = False) -> Work | None:
    """Send a part of `input` to every process and receive the parts of `output`."""
    if not _member("all_to_all_single", group):
        return None
    for tensor, sizes in ((output, output_split_sizes), (input, input_split_sizes)):
        if sizes and list(sizes) != [tensor.shape[0]]:
            raise ValueError(f"all_to_all_single: split sizes {sizes} of a tensor with "
                             f"{tensor.shape[0]} rows for 1 process")
    _write("all_to_all_single", output, input)
    return _done(async_op, output)


def barrier(group: ProcessGroup | None = None, async_op: bool = False,
            device_ids: list[int] | None = None) -> Work | None:
    """Wait for all processes of the group: none is missing."""
    return _done(async_op) if _member("barrier", group) else None


def monitored_barrier(group: ProcessGroup | None = None, timeout: Any = None,
                      wait_all_ranks: bool = False) -> None:
    """`barrier` that names who is missing: nobody."""
    _member("monitored_barrier", group)
