"""Samplers: the order in which a loader visits a dataset.

All random choices are made on the host from a lampion generator, so that an order depends on the
seed alone and not on the device. Floor 7; imports the public lampion API.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np

import lampion

__all__ = [
    "BatchSampler",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
]

T_co = TypeVar("T_co", covariant=True)


def fresh_seed(generator: Any = None) -> int:
    """A random 62-bit seed, drawn from `generator` or the default one."""
    return int(lampion.randint(0, 2**62, (), generator=generator, device="cpu").item())


def seeded(generator: Any = None) -> Any:
    """`generator`, or a new one seeded from the default one.

    A sampler draws lazily while training draws too; with its own generator neither disturbs
    the other.
    """
    if generator is not None:
        return generator
    made = lampion.Generator()
    made.manual_seed(fresh_seed())
    return made


class Sampler(Generic[T_co]):
    """Base class: subclasses define `__iter__` over indices (or lists of them)."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__()")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, ..."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """A random permutation, or independent draws with `replacement`.

    Args:
        num_samples: how many to draw; defaults to the length of the data.
        generator: source of randomness.

    Raises TypeError or ValueError for bad arguments.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Any = None,
    ) -> None:
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        if not isinstance(replacement, bool):
            raise TypeError(
                f"replacement should be a boolean value, but got replacement={replacement}"
            )
        if not isinstance(self.num_samples, int) or self.num_samples <= 0:
            raise ValueError(
                "num_samples should be a positive integer value, but got "
                f"num_samples={self.num_samples}"
            )

    @property
    def num_samples(self) -> int:
        """How many indices one pass gives."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n, left = len(self.data_source), self.num_samples
        generator = seeded(self.generator)
        while left > 0:
            if self.replacement:
                size = min(left, 1024)
                drawn = lampion.randint(0, n, (size,), generator=generator, device="cpu")
            else:
                drawn = lampion.randperm(n, generator=generator, device="cpu")
            chunk = drawn.tolist()[:left]
            yield from chunk
            left -= len(chunk)

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given indices in random order."""

    def __init__(self, indices: Sequence[int], generator: Any = None) -> None:
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        order = lampion.randperm(len(self.indices), generator=self.generator, device="cpu")
        for i in order.tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Indices drawn with given weights, which need not sum to 1.

    Args:
        weights: one non-negative number per index.
        num_samples: how many to draw.
        replacement: draw independently; otherwise no index comes twice.

    Raises ValueError for bad arguments, and RuntimeError when fewer than `num_samples` weights
    are positive and indices may not repeat.
    """

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: Any = None,
    ) -> None:
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples <= 0:
            raise ValueError(
                "num_samples should be a positive integer value, but got "
                f"num_samples={num_samples}"
            )
        if not isinstance(replacement, bool):
            raise ValueError(
                f"replacement should be a boolean value, but got replacement={replacement}"
            )
        tensor = lampion.as_tensor(weights, dtype=lampion.double, device="cpu")
        if tensor.dim() != 1:
            raise ValueError(
                "weights should be a 1d sequence but given weights have shape "
                f"{tuple(tensor.shape)}"
            )
        self.weights = tensor
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        weights = np.asarray(self.weights.tolist(), dtype=np.float64)
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
            raise RuntimeError(
                "weights must be finite and non-negative, and at least one must be positive"
            )
        count = self.num_samples if self.replacement else len(weights)
        uniform = lampion.rand(
            (count,), dtype=lampion.float64, generator=self.generator, device="cpu"
        )
        draws = np.asarray(uniform.tolist())
        if self.replacement:
            return iter(self._with_replacement(weights, draws))
        return iter(self._without_replacement(weights, draws))

    @staticmethod
    def _with_replacement(weights: Any, draws: Any) -> list[int]:
        """Invert the cumulative distribution."""
        cumulative = np.cumsum(weights)
        found = np.searchsorted(cumulative, draws * cumulative[-1], side="right")
        last = int(np.flatnonzero(weights)[-1])
        return np.minimum(found, last).tolist()

    def _without_replacement(self, weights: Any, draws: Any) -> list[int]:
        """The smallest exponential variates of rate `weights`: they arrive in the right order."""
        positive = int((weights > 0).sum())
        if self.num_samples > positive:
            raise RuntimeError(
                f"cannot draw {self.num_samples} samples without replacement: only {positive} "
                "weights are positive"
            )
        with np.errstate(divide="ignore"):
            arrival = -np.log1p(-draws) / weights
        arrival[weights == 0] = np.inf
        return np.argsort(arrival, kind="stable")[: self.num_samples].tolist()

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Group the indices of another sampler into lists of `batch_size`.

    Args:
        drop_last: leave out an incomplete last batch.

    Raises ValueError for bad arguments.

    Example:
        >>> list(BatchSampler(SequentialSampler(range(5)), batch_size=2, drop_last=False))
        [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(
                "batch_size should be a positive integer value, but got "
                f"batch_size={batch_size}"
            )
        if not isinstance(drop_last, bool):
            raise ValueError(
                f"drop_last should be a boolean value, but got drop_last={drop_last}"
            )
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        while batch := list(itertools.islice(indices, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
