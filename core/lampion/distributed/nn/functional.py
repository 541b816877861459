"""Collectives whose gradients are collectives: what one sends forward, the other sends back.

The loss is the sum of those of all processes. Results are new tensors. Floor 7; imports the
collectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lampion

from ...autograd.function import Function
from ...tensor import Tensor
from .. import collectives as C
from ..collectives import ReduceOp
from ..groups import _the, get_rank, group

__all__ = ["Function", "ReduceOp", "all_gather", "all_reduce", "all_to_all", "all_to_all_single",
           "broadcast", "gather", "group", "reduce", "reduce_scatter", "scatter"]


def _copy(t: Tensor) -> Tensor:
    return t.detach().clone(memory_format=lampion.contiguous_format)


class _AllReduce(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, op: Any, pg: Any) -> Tensor:
        ctx.op, ctx.pg = op, pg
        out = _copy(tensor)
        C.all_reduce(out, op, pg)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if ctx.op not in (ReduceOp.SUM, ReduceOp.AVG):
            raise RuntimeError(f"all_reduce: {ctx.op} has no gradient")
        out = _copy(g)
        C.all_reduce(out, ctx.op, ctx.pg)
        return out, None, None


class _AllGather(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, pg: Any) -> tuple[Tensor, ...]:
        ctx.pg = pg
        out = [lampion.empty_like(tensor, memory_format=lampion.contiguous_format)
               for _ in range(pg.size())]
        C.all_gather(out, tensor, pg)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        mine = lampion.empty_like(grads[0], memory_format=lampion.contiguous_format)
        C.reduce_scatter(mine, list(grads), ReduceOp.SUM, ctx.pg)
        return mine, None


class _Broadcast(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, src: int, pg: Any) -> Tensor:
        ctx.src, ctx.pg = src, pg
        out = _copy(tensor)
        C.broadcast(out, src, pg)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        out = _copy(g)
        C.reduce(out, ctx.src, ReduceOp.SUM, ctx.pg)
        return out if get_rank() == ctx.src else lampion.zeros_like(out), None, None


class _Reduce(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dst: int, op: Any, pg: Any) -> Tensor:
        ctx.dst, ctx.pg, ctx.op = dst, pg, op
        out = _copy(tensor)
        C.reduce(out, dst, op, pg)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if ctx.op is not ReduceOp.SUM:
            raise RuntimeError(f"reduce: {ctx.op} has no gradient")
        out = _copy(g)
        C.broadcast(out, ctx.dst, ctx.pg)
        return out, None, None, None


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dst: int, pg: Any) -> tuple[Tensor, ...]:
        ctx.dst, ctx.pg = dst, pg
        out = [lampion.zeros_like(tensor, memory_format=lampion.contiguous_format)
               for _ in range(pg.size())]
        C.gather(tensor, out if get_rank() == dst else None, dst, pg)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        mine = lampion.empty_like(grads[0], memory_format=lampion.contiguous_format)
        C.scatter(mine, list(grads) if get_rank() == ctx.dst else None, ctx.dst, ctx.pg)
        return mine, None, None


class _Scatter(Function):
    @staticmethod
    def forward(ctx: Any, src: int, pg: Any, *tensors: Tensor) -> Tensor:
        ctx.src, ctx.pg = src, pg
        out = lampion.zeros_like(tensors[0], memory_format=lampion.contiguous_format)
        C.scatter(out, list(tensors) if get_rank() == src else None, src, pg)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        out = [lampion.zeros_like(g, memory_format=lampion.contiguous_format)
               for _ in range(ctx.pg.size())]
        C.gather(g, out if get_rank() == ctx.src else None, ctx.src, ctx.pg)
        return None, None, *out


class _ReduceScatter(Function):
    @staticmethod
    def forward(ctx: Any, op: Any, pg: Any, *tensors: Tensor) -> Tensor:
        ctx.op, ctx.pg = op, pg
        out = lampion.empty_like(tensors[pg.rank()], memory_format=lampion.contiguous_format)
        C.reduce_scatter(out, list(tensors), op, pg)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if ctx.op is not ReduceOp.SUM:
            raise RuntimeError(f"reduce_scatter: {ctx.op} has no gradient")
        out = [lampion.empty_like(g, memory_format=lampion.contiguous_format)
               for _ in range(ctx.pg.size())]
        C.all_gather(out, g, ctx.pg)
        return None, None, *out


class _AllToAll(Function):
    @staticmethod
    def forward(ctx: Any, pg: Any, outputs: Sequence[Tensor], *tensors: Tensor) -> tuple[Tensor,
                                                                                         ...]:
        ctx.pg, ctx.shapes = pg, [tuple(t.shape) for t in tensors]
        out = [lampion.empty_like(t, memory_format=lampion.contiguous_format) for t in outputs]
        C.all_to_all(out, list(tensors), pg)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        back = [grads[0].new_empty(shape) for shape in ctx.shapes]
        C.all_to_all(back, list(grads), ctx.pg)
        return None, None, *back


def all_reduce(tensor: Tensor, op: ReduceOp = ReduceOp.SUM, group: Any = None) -> Tensor:
    """The sum (or another combination) over all processes."""
    return _AllReduce.apply(tensor, op, _the(group))


def all_gather(tensor: Tensor, group: Any = None) -> tuple[Tensor, ...]:
    """The tensors of all processes."""
    return _AllGather.apply(tensor, _the(group))


def broadcast(tensor: Tensor, src: int, group: Any = None) -> Tensor:
    """The tensor of the process `src`."""
    return _Broadcast.apply(tensor, src, _the(group))


def reduce(tensor: Tensor, dst: int, op: ReduceOp = ReduceOp.SUM, group: Any = None) -> Tensor:
    """The sum over all processes, in the process `dst`."""
    return _Reduce.apply(tensor, dst, op, _the(group))


def gather(tensor: Tensor, dst: int = 0, group: Any = None) -> tuple[Tensor, ...]:
    """The tensors of all processes, in the process `dst`; zeros in others."""
    return _Gather.apply(tensor, dst, _the(group))


def scatter(tensors: Sequence[Tensor], src: int = 0, group: Any = None) -> Tensor:
    """This process's of the tensors of the process `src`."""
    return _Scatter.apply(src, _the(group), *tensors)


def reduce_scatter(output: Tensor, input_list: Sequence[Tensor], op: ReduceOp = ReduceOp.SUM,
                   group: Any = None) -> Tensor:
    """This process's entry of the combined lists."""
    return _ReduceScatter.apply(op, _the(group), *input_list)


def all_to_all(output_tensor_list: Sequence[Tensor], input_tensor_list: Sequence[Tensor],
               group: Any = None) -> tuple[Tensor, ...]:
    """What all processes send to this one, in the shapes of `output_tensor_list`."""
    return _AllToAll.apply(_the(group), output_tensor_list, *input_tensor_list)


def all_to_all_single(output: Tensor, input: Tensor, output_split_sizes: Any = None,
                      input_split_sizes: Any = None, group: Any = None) -> Tensor:
    """What all processes send to this one, one after another in the shape of `output`."""
    n = _the(group).size()
    sizes = [list(s) if s else [t.shape[0] // n] * n
             for t, s in ((output, output_split_sizes), (input, input_split_sizes))]
    parts = all_to_all(output.detach().split(sizes[0]), input.split(sizes[1]), group)
    return lampion.cat(parts)
