"""DataLoader: batches of a dataset, in this process or from worker processes.

Floor 7; imports the public lampion API.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ._fetch import make_fetcher
from ._parallel import ParallelIterator
from ._worker import WorkerInfo, get_worker_info
from .collate import default_collate, default_convert
from .dataset import IterableDataset
from .sampler import BatchSampler, RandomSampler, SequentialSampler, fresh_seed

__all__ = ["DataLoader", "WorkerInfo", "default_collate", "default_convert", "get_worker_info"]

_FROZEN = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")


class _DatasetKind:
    """How samples are asked for: by index, or one after another."""

    Map = 0
    Iterable = 1


class _Endless:
    """Yields None for ever: the `indices` of a stream."""

    def __iter__(self) -> Iterator[None]:
        while True:
            yield None


class DataLoader:
    """Iterates over a dataset in batches.

    Args:
        dataset: map-style (indexed by a sampler) or an `IterableDataset`.
        batch_size: samples per batch; None gives single samples without collation.
        shuffle: visit in random order, another one each pass.
        sampler: the order of indices; excludes `shuffle`.
        batch_sampler: gives lists of indices; excludes the four before and `drop_last`.
        num_workers: processes that fetch batches; 0 fetches in this one.
        collate_fn: makes a batch of a list of samples.
        pin_memory: give batches whose tensors are in pinned memory, from which copies to a device
            need not wait; nothing happens if no device has such memory.
        pin_memory_device: the device whose memory that is, if several have some.
        drop_last: leave out an incomplete last batch.
        timeout: seconds to wait for a worker's batch; 0 waits for ever.
        worker_init_fn: called in each worker with its number.
        multiprocessing_context: a context or start method ("fork", "spawn", "forkserver").
        generator: source of randomness for shuffling and for the workers' seeds.
        prefetch_factor: batches under way per worker (2 unless given).
        persistent_workers: keep the workers between passes.
        in_order: give batches in the sampler's order (else as they are ready).

    Workers run on the host: inside them the default device is the CPU. An exception in a worker
    is raised here with the worker's traceback; a worker that dies is reported as RuntimeError
    with its exit code.

    Raises ValueError for options that contradict each other.

    Example:
        >>> import lampion
        >>> from lampion.utils.data import TensorDataset
        >>> data = TensorDataset(lampion.arange(5))
        >>> [batch[0].tolist() for batch in DataLoader(data, batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """

    _iterator: ParallelIterator | None = None
    __initialized = False

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        _check_worker_options(num_workers, timeout, prefetch_factor, persistent_workers)
        self.dataset = dataset
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.generator = generator
        self.persistent_workers = persistent_workers
        self.in_order = in_order
        self._streaming = isinstance(dataset, IterableDataset)
        if self._streaming:
            _check_streaming(shuffle, sampler, batch_sampler)
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, "
                    "sampler, and drop_last"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError(
                "batch_size=None option disables auto-batching and is mutually exclusive with "
                "drop_last"
            )
        if sampler is None:
            sampler = self._default_sampler(bool(shuffle))
        if batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        if collate_fn is None:
            collate_fn = default_collate if self._auto_collation else default_convert
        self.collate_fn = collate_fn
        self.__initialized = True

    def _default_sampler(self, shuffle: bool) -> Iterable[Any]:
        if self._streaming:
            return _Endless()
        if shuffle:
            return RandomSampler(self.dataset, generator=self.generator)
        return SequentialSampler(self.dataset)

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__initialized and name in _FROZEN:
            raise ValueError(
                f"{name} attribute should not be set after {type(self).__name__} is initialized"
            )
        super().__setattr__(name, value)

    @property
    def multiprocessing_context(self) -> Any:
        """The context that makes workers, or None for the default one."""
        return self.__context

    @multiprocessing_context.setter
    def multiprocessing_context(self, context: Any) -> None:
        if context is not None:
            if not self.num_workers > 0:
                raise ValueError(
                    "multiprocessing_context can only be used with multi-process loading "
                    f"(num_workers > 0), but got num_workers={self.num_workers}"
                )
            if isinstance(context, str):
                methods = multiprocessing.get_all_start_methods()
                if context not in methods:
                    raise ValueError(
                        "multiprocessing_context option should specify a valid start method in "
                        f"{methods!r}, but got multiprocessing_context={context!r}"
                    )
                context = multiprocessing.get_context(context)
            if not isinstance(context, multiprocessing.context.BaseContext):
                raise TypeError(
                    "multiprocessing_context option should be a valid context object or a string "
                    f"specifying the start method, but got multiprocessing_context={context}"
                )
        self.__context = context

    @property
    def _auto_collation(self) -> bool:
        return self.batch_sampler is not None

    @property
    def _index_sampler(self) -> Any:
        return self.batch_sampler if self._auto_collation else self.sampler

    def __len__(self) -> int:
        """Number of batches. TypeError if the dataset or sampler has no length."""
        if not self._streaming:
            return len(self._index_sampler)
        samples = len(self.dataset)
        if self.batch_size is None:
            return samples
        if self.drop_last:
            return samples // self.batch_size
        return -(-samples // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        seed = fresh_seed(self.generator)
        if self.num_workers == 0:
            return self._checked(self._pinned(self._serial()))
        if not self.persistent_workers:
            return self._checked(self._pinned(self._parallel(ParallelIterator(self, seed))))
        if self._iterator is None or not self._iterator.workers:
            self._iterator = ParallelIterator(self, seed)
        else:
            self._iterator.restart(self)
        return self._checked(self._pinned(self._iterator))

    def _pinned(self, batches: Iterator[Any]) -> Iterator[Any]:
        if not self.pin_memory:
            return batches
        from lampion.pinning import pin

        return (pin(batch, self.pin_memory_device or None) for batch in batches)

    def _serial(self) -> Iterator[Any]:
        fetcher = make_fetcher(
            self.dataset, self._auto_collation, self.collate_fn, self.drop_last
        )
        for index in self._index_sampler:
            try:
                batch = fetcher.fetch(index)
            except StopIteration:
                if self._streaming:
                    return
                raise RuntimeError("the dataset raised StopIteration") from None
            yield batch

    @staticmethod
    def _parallel(iterator: ParallelIterator) -> Iterator[Any]:
        """Workers that end with the pass, or when it is abandoned."""
        try:
            yield from iterator
        finally:
            iterator.stop()

    def _checked(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Warn if a stream gives more batches than its length promised."""
        if not self._streaming:
            return iter(batches)
        try:
            promised = len(self)
        except TypeError:
            return iter(batches)
        return self._counted(batches, promised)

    def _counted(self, batches: Iterator[Any], promised: int) -> Iterator[Any]:
        for given, batch in enumerate(batches, 1):
            if given == promised + 1:
                warnings.warn(
                    f"Length of IterableDataset {self.dataset} was reported to be {promised} "
                    f"(when accessing len(dataloader)), but {given} samples have been fetched. "
                    "With several workers, each one iterates the whole dataset unless it divides "
                    "the stream by get_worker_info().",
                    stacklevel=2,
                )
            yield batch

    def check_worker_number_rationality(self) -> None:
        """Kept for programs that call it: the number of workers is the caller's choice."""


def _check_worker_options(
    num_workers: int, timeout: float, prefetch_factor: int | None, persistent: bool
) -> None:
    if num_workers < 0:
        raise ValueError(
            "num_workers option should be non-negative; use num_workers=0 to disable "
            "multiprocessing."
        )
    if timeout < 0:
        raise ValueError("timeout option should be non-negative")
    if num_workers == 0 and prefetch_factor is not None:
        raise ValueError(
            "prefetch_factor option could only be specified in multiprocessing. "
            "let num_workers > 0 to enable multiprocessing, otherwise set prefetch_factor to None."
        )
    if prefetch_factor is not None and prefetch_factor < 1:
        raise ValueError("prefetch_factor option should be positive")
    if persistent and num_workers == 0:
        raise ValueError("persistent_workers option needs num_workers > 0")


def _check_streaming(shuffle: Any, sampler: Any, batch_sampler: Any) -> None:
    for name, given in (
        ("shuffle", bool(shuffle)),
        ("sampler", sampler is not None),
        ("batch_sampler", batch_sampler is not None),
    ):
        if given:
            raise ValueError(
                f"DataLoader with IterableDataset: expected unspecified {name} option"
            )
