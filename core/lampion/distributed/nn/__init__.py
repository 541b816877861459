"""`lampion.distributed.nn`: collectives that autograd goes through."""

from .functional import (
    Function,
    ReduceOp,
    all_gather,
    all_reduce,
    all_to_all,
    all_to_all_single,
    broadcast,
    gather,
    group,
    reduce,
    reduce_scatter,
    scatter,
)

__all__ = ["Function", "ReduceOp", "all_gather", "all_reduce", "all_to_all", "all_to_all_single",
           "broadcast", "gather", "group", "reduce", "reduce_scatter", "scatter"]
