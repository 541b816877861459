"""`lampion.distributed.fsdp`: FSDP's names, for groups in which there is nothing to shard."""

from ._fully_shard import (
    FSDPModule,
    UnshardHandle,
    fully_shard,
    register_fsdp_forward_method,
    share_comm_ctx,
)
from .api import CPUOffloadPolicy, DataParallelMeshDims, MixedPrecisionPolicy, OffloadPolicy
from .fully_sharded_data_parallel import *  # noqa: F403
from .fully_sharded_data_parallel import __all__ as _first

__all__ = ["CPUOffloadPolicy", "DataParallelMeshDims", "FSDPModule", "MixedPrecisionPolicy",
           "OffloadPolicy", "UnshardHandle", "fully_shard", "register_fsdp_forward_method",
           "share_comm_ctx", *_first]
