"""Runs jobs in forked processes, an entry at a time; a crash or a timeout costs one entry.

The parent imports PyTorch and op_db once (ten seconds) and forks; a worker that died or hangs is
replaced by a fresh fork.
"""

from __future__ import annotations

import multiprocessing as mp
import multiprocessing.connection as mc
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

EACH = 60  # entries a worker takes before a fresh one replaces it: plans and kernels add up


def run(tasks: list[Any], work: Callable[[Any], Any], jobs: int, timeout: float,
        ) -> Iterator[tuple[Any, Any, str]]:
    """(task, result, "") of each task, or (task, None, "crash" or "timeout")."""
    waiting = list(reversed(tasks))
    busy: dict[Any, _Worker] = {}
    idle: list[_Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                w = idle.pop() if idle else _Worker(work)
                w.start(waiting.pop())
                busy[w.pipe] = w
            for pipe in mc.wait(list(busy), timeout=1.0):
                w = busy.pop(pipe)
                try:
                    result = w.pipe.recv()
                except (EOFError, ConnectionError):
                    w.stop()
                    yield w.task, None, "crash"
                    continue
                yield w.task, result, ""
                if w.done < EACH:
                    idle.append(w)
                else:
                    w.stop()
            now = time.monotonic()
            for w in [w for w in busy.values() if now - w.since > timeout]:
                del busy[w.pipe]
                w.stop()
                yield w.task, None, "timeout"
    finally:
        for w in [*busy.values(), *idle]:
            w.stop()


class _Worker:
    """A forked process that does one task at a time."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        context = mp.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Any = None
        self.since = 0.0
        self.done = 0

    def start(self, task: Any) -> None:
        """Hand out a task."""
        self.task, self.since = task, time.monotonic()
        self.done += 1
        self.pipe.send(task)

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Any, work: Callable[[Any], Any]) -> None:
    import faulthandler

    faulthandler.enable(open(os.devnull, "w"))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(work(task))
