"""The earlier place of functions that change modules in place."""

from ..fsdp import fully_shard

__all__ = ["fully_shard"]
