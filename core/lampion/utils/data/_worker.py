"""The worker process of a loader: fetches batches for the tasks it is sent. Floor 7."""

from __future__ import annotations

import os
import queue
import random
import signal
import threading
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np

import lampion

from . import _transport
from ._fetch import make_fetcher
from .dataset import IterableDataset

PARENT_CHECK_SECONDS = 5.0


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker knows of itself: `id`, `num_workers`, `seed`, and its `dataset` copy."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """In a loader's worker process, its WorkerInfo; elsewhere None.

    Example:
        >>> get_worker_info() is None
        True
    """
    return _info


@dataclass(frozen=True)
class StreamEnd:
    """The result of a task for which the worker's stream had no samples left."""


@dataclass(frozen=True)
class Resume:
    """Asks a persistent worker to start its stream anew."""


@dataclass(frozen=True)
class Failure:
    """An exception of a worker, as text, to be raised again by the loader."""

    kind: Any
    text: str
    where: str

    @classmethod
    def of(cls, error: BaseException, where: str) -> Failure:
        """Capture an exception with its traceback."""
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return cls(type(error), text, where)

    def reraise(self) -> None:
        """Raise the exception, its worker's traceback in the message."""
        message = f"Caught {self.kind.__name__} {self.where}.\nOriginal {self.text}"
        if self.kind is KeyError:
            message = _Verbatim(message)  # KeyError shows the repr of its argument
        try:
            error = self.kind(message)
        except Exception:  # the type has another constructor
            error = RuntimeError(message)
        raise error from None


class _Verbatim(str):
    """A string whose repr is itself."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Setup:
    """Everything a worker needs; sent once."""

    dataset: Any
    auto_collation: bool
    collate_fn: Any
    drop_last: bool
    base_seed: int
    worker_init_fn: Any
    id: int
    num_workers: int
    directory: str
    parent: int


def run(connection: Any, setup: Setup) -> None:
    """The main function of a worker process."""
    global _info
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the loader's to handle
    lampion.set_num_threads(1)
    # Workers prepare data on the host; a device belongs to the process that trains.
    lampion.set_default_device("cpu")
    seed = setup.base_seed + setup.id
    random.seed(seed)
    lampion.manual_seed(seed)
    np.random.seed(np.random.SeedSequence([setup.base_seed, setup.id]).generate_state(4))
    _info = WorkerInfo(setup.id, setup.num_workers, seed, setup.dataset)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(connection, tasks, setup.parent), daemon=True)
    reader.start()
    try:
        _work(connection, tasks, setup)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the loader is gone
    finally:
        connection.close()


def _read(connection: Any, tasks: Any, parent: int) -> None:
    """Move tasks off the pipe at once, so that the loader never waits to send one."""
    try:
        while True:
            if connection.poll(PARENT_CHECK_SECONDS):
                tasks.put(connection.recv())
            elif os.getppid() != parent:
                os._exit(1)
    except (EOFError, OSError):
        tasks.put(None)


def _work(connection: Any, tasks: Any, setup: Setup) -> None:
    sender = _transport.Sender(connection, setup.directory)
    where = f"in DataLoader worker process {setup.id}"
    failed: Failure | None = None
    fetcher = None
    try:
        if setup.worker_init_fn is not None:
            setup.worker_init_fn(setup.id)
        fetcher = _fetcher(setup)
    except Exception as error:
        failed = Failure.of(error, where)
    streaming = isinstance(setup.dataset, IterableDataset)
    while (message := tasks.get()) is not None:
        if isinstance(message, Resume):
            try:
                fetcher, failed = _fetcher(setup), None
            except Exception as error:
                failed = Failure.of(error, where)
            continue
        task, index, returned = message
        sender.returned(returned)
        result: Any = failed
        if failed is None:
            try:
                result = fetcher.fetch(index)  # type: ignore[union-attr]
            except StopIteration as error:
                if streaming:
                    fetcher.ended = True  # type: ignore[union-attr]
                    result = StreamEnd()
                else:
                    result = Failure.of(error, where)
            except Exception as error:
                result = Failure.of(error, where)
        _reply(sender, task, result, where)
        del result  # not kept while waiting for the next task


def _fetcher(setup: Setup) -> Any:
    return make_fetcher(setup.dataset, setup.auto_collation, setup.collate_fn, setup.drop_last)


def _reply(sender: _transport.Sender, task: int, result: Any, where: str) -> None:
    try:
        sender.send(task, result)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # the batch, or the type of an exception, does not pickle
        failure = result if isinstance(result, Failure) else Failure.of(error, where)
        if isinstance(result, Failure):
            failure = Failure(RuntimeError, result.text, where)
        sender.send(task, failure)
