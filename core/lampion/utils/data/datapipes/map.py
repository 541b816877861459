"""Pipes with a length and places: map, batch, concat, zip, shuffle. Floor 7; imports the bases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import lampion

from .datapipe import DataChunk, MapDataPipe, Shuffling, functional_datapipe

__all__ = ["Batcher", "Concater", "Mapper", "SequenceWrapper", "Shuffler", "Zipper"]


class SequenceWrapper(MapDataPipe[Any]):
    """The elements of a sequence or mapping, of a copy of it by default."""

    def __init__(self, sequence: Any, deepcopy: bool = True) -> None:
        self.sequence = copy.deepcopy(sequence) if deepcopy else sequence

    def __getitem__(self, index: Any) -> Any:
        return self.sequence[index]

    def __len__(self) -> int:
        return len(self.sequence)


def default_fn(data: Any) -> Any:
    """The sample."""
    return data


@functional_datapipe("map")
class Mapper(MapDataPipe[Any]):
    """`fn` of each sample.

    >>> SequenceWrapper([1, 2, 3]).map(lambda x: x + 1)[2]
    4
    """

    def __init__(self, datapipe: Any, fn: Callable[..., Any] = default_fn) -> None:
        self.datapipe, self.fn = datapipe, fn

    def __getitem__(self, index: Any) -> Any:
        return self.fn(self.datapipe[index])

    def __len__(self) -> int:
        return len(self.datapipe)


@functional_datapipe("batch")
class Batcher(MapDataPipe[Any]):
    """Batches of `batch_size` samples; the last may be smaller, unless `drop_last`."""

    def __init__(self, datapipe: Any, batch_size: int, drop_last: bool = False,
                 wrapper_class: Any = DataChunk) -> None:
        if batch_size <= 0:
            raise AssertionError("Batch size is required to be larger than 0!")
        self.datapipe, self.batch_size = datapipe, batch_size
        self.drop_last, self.wrapper_class = drop_last, wrapper_class

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"Index {index} is out of bound.")
        first = index * self.batch_size
        end = min(first + self.batch_size, len(self.datapipe))
        return self.wrapper_class([self.datapipe[k] for k in range(first, end)])

    def __len__(self) -> int:
        n = len(self.datapipe)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


@functional_datapipe("concat")
class Concater(MapDataPipe[Any]):
    """One pipe after another."""

    def __init__(self, *datapipes: Any) -> None:
        if not datapipes:
            raise ValueError("Expected at least one DataPipe, but got nothing")
        self.datapipes = datapipes

    def __getitem__(self, index: int) -> Any:
        place = index
        for pipe in self.datapipes:
            if place < len(pipe):
                return pipe[place]
            place -= len(pipe)
        raise IndexError(f"Index {index} is out of range.")

    def __len__(self) -> int:
        return sum(len(p) for p in self.datapipes)


@functional_datapipe("zip")
class Zipper(Concater):
    """Tuples of one sample from each pipe, as many as the shortest has."""

    def __getitem__(self, index: int) -> Any:
        return tuple(p[index] for p in self.datapipes)

    def __len__(self) -> int:
        return min(len(p) for p in self.datapipes)


class Shuffler(Shuffling[Any]):
    """A stream of the samples in random order, of the places `indices` if given."""

    def __init__(self, datapipe: Any, *, indices: list[Any] | None = None) -> None:
        self.datapipe = datapipe
        self.indices = list(range(len(datapipe))) if indices is None else indices

    def __iter__(self) -> Iterator[Any]:
        places = self.indices
        if self._on:
            generator = None
            if self._seed is not None:
                generator = lampion.Generator().manual_seed(self._seed)
                self._seed = None
            order = lampion.randperm(len(places), generator=generator).tolist()
            places = [self.indices[k] for k in order]
        for place in places:
            yield self.datapipe[place]

    def __len__(self) -> int:
        return len(self.indices)


MapDataPipe.register_datapipe_as_function("shuffle", Shuffler)  # a stream made from places
