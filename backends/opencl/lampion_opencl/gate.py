"""Small launches go to the driver's threads in batches. Imports pyopencl.

PoCL wakes its worker threads for every enqueue. Where these and the calling thread share few
cores, a stream of small kernels spends most of its time on waking, on locks and on being
preempted. So after the first few, small launches are enqueued behind a user event, which is set
when a launch comes that is worth waking for, when somebody waits, or when there are many.
"""

from __future__ import annotations

import threading
from typing import Any

import pyopencl as cl

DIRECT = 4    # launches after a wait that start at once
BATCH = 1024  # launches that may be held


class Gate:
    """Holds back the small launches of one in-order queue.

    A launcher counts `room` down by one for a small launch and calls `turn` when it was 0; for a
    larger one it calls `release` where `event` is not None.
    """

    __slots__ = ("context", "queue", "event", "room", "_lock")

    def __init__(self, context: Any, queue: Any) -> None:
        self.context, self.queue = context, queue
        self.event: Any = None
        self.room = DIRECT
        self._lock = threading.Lock()

    def turn(self) -> None:
        """Let go what is held, and hold what comes."""
        with self._lock:
            self._set()
            self.event = cl.UserEvent(self.context)
            cl.enqueue_barrier(self.queue, [self.event])
            self.room = BATCH

    def release(self) -> None:
        """Let go what is held; the next launches start at once."""
        with self._lock:
            self._set()
            self.room = DIRECT

    def _set(self) -> None:
        event, self.event = self.event, None
        if event is not None:
            event.set_status(cl.command_execution_status.COMPLETE)
