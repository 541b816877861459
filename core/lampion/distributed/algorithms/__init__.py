"""`lampion.distributed.algorithms`: uneven inputs, and hooks of `DistributedDataParallel`."""

from .join import Join, Joinable, JoinHook

__all__ = ["Join", "JoinHook", "Joinable"]
