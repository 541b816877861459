"""The loader's side of worker processes: sends tasks, collects batches, notices deaths. Floor 7."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
import weakref
from multiprocessing import connection as mp_connection
from typing import Any

from . import _transport, _worker
from .dataset import IterableDataset

JOIN_SECONDS = 5.0


class _Worker:
    """One worker process and what is under way there."""

    __slots__ = ("connection", "ended", "id", "outstanding", "process", "receiver")

    def __init__(self, context: Any, setup: _worker.Setup) -> None:
        self.id = setup.id
        self.connection, theirs = context.Pipe(duplex=True)
        self.process = context.Process(target=_worker.run, args=(theirs, setup), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the worker does
        self.receiver = _transport.Receiver(self.connection)
        self.outstanding = 0
        self.ended = False


def _shut_down(workers: list[_Worker], directory: str, grace: float = JOIN_SECONDS) -> None:
    """Ask the workers to stop, then make them; remove their files."""
    for worker in workers:
        try:
            worker.connection.send(None)
        except OSError:
            pass
        worker.connection.close()
    deadline = time.monotonic() + grace
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.terminate()
            worker.process.join(1.0)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
    workers.clear()
    shutil.rmtree(directory, ignore_errors=True)


def _exit_text(code: int | None) -> str:
    if code is None:
        return "unexpectedly"
    if code >= 0:
        return f"unexpectedly with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    text = f"unexpectedly with exit code {code} (killed by {name})"
    if name == "SIGKILL":
        text += "; the system kills a process like this when memory runs out"
    return text


class ParallelIterator:
    """Iterates a loader with `num_workers` processes.

    Tasks are numbered; results are given in that order, or as they come with
    `in_order=False`. At most `prefetch_factor` tasks per worker are under way.
    """

    def __init__(self, loader: Any, base_seed: int) -> None:
        self.timeout = loader.timeout
        self.in_order = loader.in_order
        self.streaming = isinstance(loader.dataset, IterableDataset)
        self.limit = loader.prefetch_factor * loader.num_workers
        directory = _transport.segment_directory()
        self.workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _shut_down, self.workers, directory)
        context = loader.multiprocessing_context or multiprocessing
        for i in range(loader.num_workers):
            setup = _worker.Setup(
                dataset=loader.dataset,
                auto_collation=loader._auto_collation,
                collate_fn=loader.collate_fn,
                drop_last=loader.drop_last,
                base_seed=base_seed,
                worker_init_fn=loader.worker_init_fn,
                id=i,
                num_workers=loader.num_workers,
                directory=directory,
                parent=os.getpid(),
            )
            self.workers.append(_Worker(context, setup))
        self.task_count = 0
        self._start(loader)

    def _start(self, loader: Any) -> None:
        self.indices = iter(loader._index_sampler)
        self.exhausted = False
        self.next_out = self.task_count
        self.turn = 0
        self.ready: dict[int, Any] = {}
        self._top_up()

    def restart(self, loader: Any) -> None:
        """Begin another pass with the same workers (persistent_workers)."""
        while self._outstanding():
            self._collect()
        self.ready.clear()
        for worker in self.workers:
            worker.ended = False
            self._send(worker, _worker.Resume())
        self._start(loader)

    def stop(self, grace: float = JOIN_SECONDS) -> None:
        """End the workers, giving them `grace` seconds to finish by themselves; idempotent."""
        alive = self._finalizer.detach()
        if alive is not None:
            _shut_down(*alive[2], grace)

    def __iter__(self) -> ParallelIterator:
        return self

    def __next__(self) -> Any:
        while True:
            task = self._ready_task()
            if task is not None:
                value = self.ready.pop(task)
                if task == self.next_out:
                    self.next_out += 1
                self._top_up()
                if isinstance(value, _worker.StreamEnd):
                    continue
                if isinstance(value, _worker.Failure):
                    value.reraise()
                return value
            if not self._outstanding():
                raise StopIteration
            self._collect()

    def _ready_task(self) -> int | None:
        if self.in_order:
            return self.next_out if self.next_out in self.ready else None
        return next(iter(self.ready), None)

    def _outstanding(self) -> int:
        return sum(worker.outstanding for worker in self.workers)

    def _top_up(self) -> None:
        """Send tasks until enough are under way, to the workers in turn."""
        while not self.exhausted and self._outstanding() + len(self.ready) < self.limit:
            worker = self._next_worker()
            if worker is None:
                return
            try:
                index = next(self.indices)
            except StopIteration:
                self.exhausted = True
                return
            self._send(worker, (self.task_count, index, worker.receiver.take_returned()))
            worker.outstanding += 1
            self.task_count += 1

    def _next_worker(self) -> _Worker | None:
        """The next one in turn whose stream goes on; with results in any order, the idlest."""
        n = len(self.workers)
        order = [self.workers[(self.turn + k) % n] for k in range(n)]
        alive = [worker for worker in order if not worker.ended]
        if not alive:
            return None
        chosen = alive[0] if self.in_order else min(alive, key=lambda w: w.outstanding)
        self.turn = chosen.id + 1
        return chosen

    def _send(self, worker: _Worker, message: Any) -> None:
        try:
            worker.connection.send(message)
        except OSError:
            self._died([worker])

    def _collect(self) -> None:
        """Wait for results and store them. RuntimeError on a dead worker or a timeout."""
        busy = [worker for worker in self.workers if worker.outstanding]
        by_handle: dict[Any, _Worker] = {worker.connection: worker for worker in busy}
        by_handle.update((worker.process.sentinel, worker) for worker in busy)
        found = mp_connection.wait(list(by_handle), self.timeout or None)
        if not found:
            message = f"DataLoader timed out after {self.timeout} seconds"
            self.stop(grace=0.1)
            raise RuntimeError(message)
        for worker in {id(by_handle[handle]): by_handle[handle] for handle in found}.values():
            try:
                # A worker may have died after its last result: read what is there first.
                if not worker.connection.poll(0):
                    self._died([worker])
                task, value = worker.receiver.receive()
            except (EOFError, OSError):
                self._died([worker])
                raise  # not reached: _died raises
            worker.outstanding -= 1
            if isinstance(value, _worker.StreamEnd):
                worker.ended = True
            self.ready[task] = value

    def _died(self, workers: list[_Worker]) -> None:
        for worker in workers:
            worker.process.join(1.0)
        pids = ", ".join(str(worker.process.pid) for worker in workers)
        how = _exit_text(workers[0].process.exitcode)
        self.stop(grace=0.1)
        raise RuntimeError(f"DataLoader worker (pid(s) {pids}) exited {how}") from None
