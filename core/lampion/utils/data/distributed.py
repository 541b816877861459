"""A sampler that gives each of several processes its share of a dataset. Floor 7."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from typing import Any

import lampion

from .sampler import Sampler

__all__ = ["DistributedSampler"]


def _from_process_group(what: str) -> int:
    group = getattr(lampion, "distributed", None)
    if group is None or not group.is_available() or not group.is_initialized():
        raise RuntimeError(
            f"DistributedSampler needs {what}: pass it, or initialise a process group first"
        )
    return group.get_world_size() if what == "num_replicas" else group.get_rank()


class DistributedSampler(Sampler[int]):
    """Every `num_replicas`-th index, starting from `rank`.

    Args:
        num_replicas, rank: number of processes and this one's; by default the process group's.
        shuffle: permute by `seed + epoch`; call `set_epoch` before each epoch.
        drop_last: drop the tail so that shares are equal; otherwise the start is repeated.

    Raises ValueError for a rank out of range, RuntimeError without a process group.

    Example:
        >>> list(DistributedSampler(range(6), num_replicas=2, rank=1, shuffle=False))
        [1, 3, 5]
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if num_replicas is None:
            num_replicas = _from_process_group("num_replicas")
        if rank is None:
            rank = _from_process_group("rank")
        if rank >= num_replicas or rank < 0:
            raise ValueError(
                f"Invalid rank {rank}, rank should be in the interval [0, {num_replicas - 1}]"
            )
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self.drop_last = drop_last
        n = len(dataset)
        if drop_last and n % num_replicas != 0:
            self.num_samples = math.ceil((n - num_replicas) / num_replicas)
        else:
            self.num_samples = math.ceil(n / num_replicas)
        self.total_size = self.num_samples * num_replicas
        self.shuffle = shuffle
        self.seed = seed

    def __iter__(self) -> Iterator[Any]:
        n = len(self.dataset)
        if self.shuffle:
            generator = lampion.Generator()
            generator.manual_seed(self.seed + self.epoch)
            indices = lampion.randperm(n, generator=generator, device="cpu").tolist()
        else:
            indices = list(range(n))
        if n and not self.drop_last:
            indices = (indices * math.ceil(self.total_size / n))[: self.total_size]
        return iter(indices[self.rank : self.total_size : self.num_replicas])

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose permutation comes next."""
        self.epoch = epoch
