"""Pipes that are streams: map, filter, batch, shuffle, zip, fork, demux, groupby, files.

Floor 7; imports the bases, the samplers and collate.
"""

from __future__ import annotations

import copy
import fnmatch
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import lampion

from ..collate import default_collate
from ..dataloader import get_worker_info
from ..sampler import SequentialSampler
from .datapipe import DataChunk, IterDataPipe, Shuffling, functional_datapipe

__all__ = ["Batcher", "Collator", "Concater", "Demultiplexer", "FileLister", "FileOpener",
           "Filter", "Forker", "Grouper", "IterableWrapper", "Mapper", "Multiplexer", "Sampler",
           "ShardingFilter", "Shuffler", "StreamReader", "UnBatcher", "Zipper"]


class IterableWrapper(IterDataPipe[Any]):
    """The elements of an iterable, of a copy of it by default."""

    def __init__(self, iterable: Iterable[Any], deepcopy: bool = True) -> None:
        self.iterable, self.deepcopy = iterable, deepcopy

    def __iter__(self) -> Iterator[Any]:
        source = self.iterable
        if self.deepcopy:
            try:
                source = copy.deepcopy(source)
            except TypeError:  # iterators that cannot be copied are read as they are
                pass
        yield from source

    def __len__(self) -> int:
        return len(self.iterable)  # type: ignore[arg-type]


class _Of(IterDataPipe[Any]):
    """A pipe of one other pipe, as long as that."""

    def __init__(self, datapipe: Any) -> None:
        self.datapipe = datapipe

    def __len__(self) -> int:
        return len(self.datapipe)


def _picked(data: Any, columns: Any) -> tuple[Any, ...]:
    """The arguments of a function: the sample, or columns of it."""
    if columns is None:
        return (data,)
    if isinstance(columns, (list, tuple)):
        return tuple(data[c] for c in columns)
    return (data[columns],)


@functional_datapipe("map")
class Mapper(_Of):
    """`fn` of each sample, or of its columns `input_col`; the result goes to `output_col`, or
    replaces the (first) input column."""

    def __init__(self, datapipe: Any, fn: Callable[..., Any], input_col: Any = None,
                 output_col: Any = None) -> None:
        super().__init__(datapipe)
        if input_col is None and output_col is not None:
            raise ValueError("`output_col` must be None when `input_col` is None.")
        if isinstance(output_col, (list, tuple)):
            if len(output_col) > 1:
                raise ValueError("`output_col` must be a single-element list or tuple")
            output_col = output_col[0]
        self.fn, self.input_col, self.output_col = fn, input_col, output_col

    def _apply(self, data: Any) -> Any:
        result = self.fn(*_picked(data, self.input_col))
        if self.input_col is None:
            return result
        held = list(data) if isinstance(data, tuple) else copy.copy(data)
        columns = self.input_col if isinstance(self.input_col, (list, tuple)) else [self.input_col]
        if self.output_col == -1:
            held.append(result)
        elif self.output_col is not None:
            held[self.output_col] = result
        else:
            held[columns[0]] = result
            for column in sorted(columns[1:], reverse=True):
                del held[column]
        return tuple(held) if isinstance(data, tuple) else held

    def __iter__(self) -> Iterator[Any]:
        for data in self.datapipe:
            yield self._apply(data)


@functional_datapipe("collate")
class Collator(Mapper):
    """Samples made into tensors by `default_collate`, or by the function given; a dict gives one
    function per key."""

    def __init__(self, datapipe: Any, conversion: Any = default_collate,
                 collate_fn: Callable[..., Any] | None = None) -> None:
        made = collate_fn or conversion
        if isinstance(made, dict):
            made = _by_column(made)
        super().__init__(datapipe, made)


def _by_column(functions: dict[Any, Any]) -> Callable[[Any], Any]:
    def collate(batch: Any) -> Any:
        return {k: functions.get(k, default_collate)([row[k] for row in batch]) for k in batch[0]}

    return collate


@functional_datapipe("filter")
class Filter(IterDataPipe[Any]):
    """The samples for which `filter_fn` is true. ValueError if it gives no bool."""

    def __init__(self, datapipe: Any, filter_fn: Callable[..., Any], input_col: Any = None) -> None:
        self.datapipe, self.filter_fn, self.input_col = datapipe, filter_fn, input_col

    def __iter__(self) -> Iterator[Any]:
        for data in self.datapipe:
            keep = self.filter_fn(*_picked(data, self.input_col))
            if not isinstance(keep, bool):
                raise ValueError("Boolean output is required for `filter_fn` of FilterIterDataPipe,"
                                 f" got {type(keep)}")
            if keep:
                yield data


@functional_datapipe("batch")
class Batcher(IterDataPipe[Any]):
    """Batches of `batch_size` samples; the last may be smaller, unless `drop_last`."""

    def __init__(self, datapipe: Any, batch_size: int, drop_last: bool = False,
                 wrapper_class: Any = DataChunk) -> None:
        if batch_size <= 0:
            raise AssertionError("Batch size is required to be larger than 0!")
        self.datapipe, self.batch_size = datapipe, batch_size
        self.drop_last, self.wrapper_class = drop_last, wrapper_class

    def __iter__(self) -> Iterator[Any]:
        batch: list[Any] = []
        for data in self.datapipe:
            batch.append(data)
            if len(batch) == self.batch_size:
                yield self.wrapper_class(batch)
                batch = []
        if batch and not self.drop_last:
            yield self.wrapper_class(batch)

    def __len__(self) -> int:
        n = len(self.datapipe)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


@functional_datapipe("unbatch")
class UnBatcher(IterDataPipe[Any]):
    """The samples of batches, `unbatch_level` levels deep (-1: all)."""

    def __init__(self, datapipe: Any, unbatch_level: int = 1) -> None:
        self.datapipe, self.unbatch_level = datapipe, unbatch_level

    def _parts(self, data: Any, level: int) -> Iterator[Any]:
        if level < -1:
            raise ValueError("unbatch_level must be -1 or >= 0")
        if level == 0 or (level == -1 and not isinstance(data, list)):
            yield data
        elif isinstance(data, list):
            for part in data:
                yield from self._parts(part, level if level == -1 else level - 1)
        else:
            raise IndexError(f"unbatch_level {self.unbatch_level} exceeds the depth of the "
                             "DataPipe")

    def __iter__(self) -> Iterator[Any]:
        for data in self.datapipe:
            yield from self._parts(data, self.unbatch_level)


@functional_datapipe("shuffle")
class Shuffler(_Of, Shuffling[Any]):
    """The samples in an order drawn from a buffer of `buffer_size` of them."""

    def __init__(self, datapipe: Any, *, buffer_size: int = 10000, unbatch_level: int = 0) -> None:
        if buffer_size <= 0:
            raise ValueError("buffer_size should be larger than 0")
        super().__init__(datapipe.unbatch(unbatch_level) if unbatch_level else datapipe)
        self.buffer_size = buffer_size

    def __iter__(self) -> Iterator[Any]:
        if not self._on:
            yield from self.datapipe
            return
        import random

        seed = self._seed
        if seed is None:
            seed = int(lampion.empty((), dtype=lampion.int64).random_())
        self._seed, order = None, random.Random(seed)
        held: list[Any] = []
        for data in self.datapipe:
            if len(held) == self.buffer_size:
                k = order.randrange(len(held))
                held[k], data = data, held[k]
                yield data
            else:
                held.append(data)
        order.shuffle(held)
        yield from held


@functional_datapipe("sharding_filter")
class ShardingFilter(IterDataPipe[Any]):
    """In each worker of a loader its share of the samples: every n-th one."""

    def __init__(self, source_datapipe: Any, sharding_group_filter: Any = None) -> None:
        self.source_datapipe = source_datapipe
        self.num_of_instances, self.instance_id = 1, 0

    def apply_sharding(self, num_of_instances: int, instance_id: int,
                       sharding_group: Any = None) -> None:
        """Take the share `instance_id` of `num_of_instances`."""
        if instance_id >= num_of_instances:
            raise ValueError(f"instance_id({instance_id}) should be smaller than "
                             f"num_of_instances({num_of_instances})")
        self.num_of_instances, self.instance_id = num_of_instances, instance_id

    def _share(self) -> tuple[int, int]:
        worker = get_worker_info()
        n, k = self.num_of_instances, self.instance_id
        return (n, k) if worker is None else (n * worker.num_workers,
                                              k * worker.num_workers + worker.id)

    def __iter__(self) -> Iterator[Any]:
        n, k = self._share()
        for place, data in enumerate(self.source_datapipe):
            if place % n == k:
                yield data

    def __len__(self) -> int:
        n, k = self._share()
        return len(self.source_datapipe) // n + (k < len(self.source_datapipe) % n)


@functional_datapipe("concat")
class Concater(IterDataPipe[Any]):
    """One pipe after another."""

    def __init__(self, *datapipes: Any) -> None:
        if not datapipes:
            raise ValueError("Expected at least one DataPipe, but got nothing")
        self.datapipes = datapipes

    def __iter__(self) -> Iterator[Any]:
        for pipe in self.datapipes:
            yield from pipe

    def __len__(self) -> int:
        return sum(len(p) for p in self.datapipes)


@functional_datapipe("zip")
class Zipper(Concater):
    """Tuples of one sample from each pipe, as many as the shortest has."""

    def __iter__(self) -> Iterator[Any]:
        yield from zip(*self.datapipes)

    def __len__(self) -> int:
        return min(len(p) for p in self.datapipes)


@functional_datapipe("mux")
class Multiplexer(Zipper):
    """One sample from each pipe in turn, until the shortest has no more."""

    def __iter__(self) -> Iterator[Any]:
        for row in zip(*self.datapipes):
            yield from row

    def __len__(self) -> int:
        return super().__len__() * len(self.datapipes)


class _Branches:
    """One reading of a pipe for several branches, each of which has a queue."""

    def __init__(self, source: Any, count: int, buffer_size: int) -> None:
        self.source, self.count, self.limit = source, count, buffer_size
        self.started = set()

    def begin(self) -> None:
        """A new pass over the source: queues are empty, no branch has been started."""
        self.reader: Iterator[Any] = iter(self.source)
        self.queues: list[deque[Any]] = [deque() for _ in range(self.count)]
        self.started: set[int] = set()

    def following(self, branch: int, deal: Callable[[Any], Iterable[int]]) -> Iterator[Any]:
        """The samples of a branch; a branch that is read again begins a new pass for all."""
        if branch in self.started or not self.started:
            self.begin()
        self.started.add(branch)
        queue = self.queues[branch]
        while True:
            while queue:
                yield queue.popleft()
            for data in self.reader:
                for k in deal(data):
                    self.queues[k].append(data)
                if 0 <= self.limit < sum(map(len, self.queues)):
                    raise BufferError(f"a branch is more than {self.limit} samples ahead of "
                                      "another; read them together or enlarge buffer_size")
                if queue:
                    break
            if not queue:
                return


class _Branch(IterDataPipe[Any]):
    """One branch of a fork or demultiplexer."""

    def __init__(self, branches: _Branches, place: int, deal: Callable[[Any], Iterable[int]],
                 copied: Callable[[Any], Any] | None = None, length: Any = None) -> None:
        self._branches, self._place, self._deal = branches, place, deal
        self._copied, self._length = copied, length

    def __iter__(self) -> Iterator[Any]:
        for data in self._branches.following(self._place, self._deal):
            yield self._copied(data) if self._copied else data

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("a branch of demux has no length")
        return len(self._length)


@functional_datapipe("fork")
class Forker(IterDataPipe[Any]):
    """Several pipes with the samples of one; calling it gives the list of them."""

    def __new__(cls, datapipe: Any, num_instances: int, buffer_size: int = 1000,
                copy: str | None = None) -> Any:
        if num_instances < 1:
            raise ValueError(f"Expected `num_instances` larger than 0, but {num_instances} is "
                             "found")
        if num_instances == 1 and copy is None:
            return [datapipe]
        import copy as copies

        copied = {None: None, "shallow": copies.copy, "deep": copies.deepcopy}[copy]
        shared, everyone = _Branches(datapipe, num_instances, buffer_size), range(num_instances)
        return [_Branch(shared, k, lambda data: everyone, copied, datapipe) for k in everyone]


@functional_datapipe("demux")
class Demultiplexer(IterDataPipe[Any]):
    """Several pipes among which `classifier_fn` deals out the samples of one."""

    def __new__(cls, datapipe: Any, num_instances: int, classifier_fn: Callable[[Any], Any],
                drop_none: bool = False, buffer_size: int = 1000) -> Any:
        if num_instances < 1:
            raise ValueError(f"Expected `num_instances` larger than 0, but {num_instances} is "
                             "found")

        def deal(data: Any) -> Iterable[int]:
            k = classifier_fn(data)
            if k is None and drop_none:
                return ()
            if k is None or not 0 <= k < num_instances:
                raise ValueError(f"Output of the classification fn should be between 0 and "
                                 f"{num_instances - 1}. {k} is returned.")
            return (int(k),)

        shared = _Branches(datapipe, num_instances, buffer_size)
        return [_Branch(shared, k, deal) for k in range(num_instances)]


@functional_datapipe("groupby")
class Grouper(IterDataPipe[Any]):
    """Lists of samples that have the same `group_key_fn`, full ones of `group_size` at once."""

    def __init__(self, datapipe: Any, group_key_fn: Callable[[Any], Any], *,
                 keep_key: bool = False, buffer_size: int = 10000, group_size: int | None = None,
                 guaranteed_group_size: int | None = None, drop_remaining: bool = False) -> None:
        self.datapipe, self.group_key_fn, self.keep_key = datapipe, group_key_fn, keep_key
        self.buffer_size, self.group_size = buffer_size, group_size
        self.guaranteed = (group_size if guaranteed_group_size is None and group_size is not None
                           and 0 < group_size <= buffer_size else guaranteed_group_size)
        self.drop_remaining = drop_remaining

    def _given(self, key: Any, group: list[Any]) -> Any:
        chunk = DataChunk(group)
        return (key, chunk) if self.keep_key else chunk

    def __iter__(self) -> Iterator[Any]:
        held: dict[Any, list[Any]] = defaultdict(list)
        count = 0
        for data in self.datapipe:
            key = self.group_key_fn(data)
            held[key].append(data)
            count += 1
            if self.group_size is not None and len(held[key]) == self.group_size:
                count -= self.group_size
                yield self._given(key, held.pop(key))
            if count == self.buffer_size:
                key = max(held, key=lambda k: len(held[k]))
                group = held.pop(key)
                count -= len(group)
                if self.guaranteed is not None and len(group) < self.guaranteed:
                    if not self.drop_remaining:
                        raise RuntimeError(f"Failed to group items: {group}")
                else:
                    yield self._given(key, group)
        for key, group in held.items():
            yield self._given(key, group)


@functional_datapipe("sampler")
class Sampler(_Of):
    """The samples of a pipe that has places, in the order of a sampler."""

    def __init__(self, datapipe: Any, sampler: Any = SequentialSampler,
                 sampler_args: Any = None, sampler_kwargs: Any = None) -> None:
        super().__init__(datapipe)
        self.sampler = sampler(*(sampler_args or ()),
                               **{"data_source": datapipe, **(sampler_kwargs or {})})

    def __iter__(self) -> Iterator[Any]:
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


@functional_datapipe("list_files")
class FileLister(IterDataPipe[str]):
    """Paths of the files in folders whose names match `masks`, sorted within each folder."""

    def __init__(self, root: Any = ".", masks: str | Sequence[str] = "", *,
                 recursive: bool = False, abspath: bool = False, non_deterministic: bool = False,
                 length: int = -1) -> None:
        self.roots = [root] if isinstance(root, str) else root
        self.masks = [masks] if isinstance(masks, str) else list(masks)
        self.recursive, self.abspath = recursive, abspath
        self.any_order, self.length = non_deterministic, length

    def __iter__(self) -> Iterator[str]:
        for root in self.roots:
            if os.path.isfile(root):
                yield os.path.abspath(root) if self.abspath else root
                continue
            for folder, folders, files in os.walk(root):
                if not self.any_order:
                    folders.sort()
                    files.sort()
                if not self.recursive:
                    folders.clear()
                for name in files:
                    if not any(self.masks) or any(fnmatch.fnmatch(name, m) for m in self.masks):
                        path = os.path.join(folder, name)
                        yield os.path.abspath(path) if self.abspath else path

    def __len__(self) -> int:
        if self.length == -1:
            raise TypeError(f"{type(self).__name__} instance doesn't have valid length")
        return self.length


@functional_datapipe("open_files")
class FileOpener(_Of):
    """Pairs of a path and the open file."""

    def __init__(self, datapipe: Any, mode: str = "r", encoding: str | None = None,
                 length: int = -1) -> None:
        if mode not in ("b", "t", "rb", "rt", "r"):
            raise ValueError(f"Invalid mode {mode}")
        super().__init__(datapipe)
        self.mode = mode if "r" in mode else "r" + mode
        self.encoding, self.length = encoding, length

    def __iter__(self) -> Iterator[Any]:
        for path in self.datapipe:
            yield path, open(path, self.mode, encoding=self.encoding)  # noqa: SIM115

    def __len__(self) -> int:
        if self.length == -1:
            raise TypeError(f"{type(self).__name__} instance doesn't have valid length")
        return self.length


@functional_datapipe("read_from_stream")
class StreamReader(IterDataPipe[Any]):
    """Pairs of a path and what its stream has, whole or in chunks of `chunk`."""

    def __init__(self, datapipe: Any, chunk: int | None = None) -> None:
        self.datapipe, self.chunk = datapipe, chunk

    def __iter__(self) -> Iterator[Any]:
        for path, stream in self.datapipe:
            with stream:
                while data := stream.read(self.chunk if self.chunk is not None else -1):
                    yield path, data
