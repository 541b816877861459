"""Indices out of range, found without waiting for the GPU.

A kernel that checks indices leaves a status. The stream copies it to pinned memory, where it is
looked at whenever the host waits anyway, or after some more of them: the error comes late, as
kernels run later, and names the op. A slot holds UNKNOWN until its status arrives, so that looking
asks nothing of the driver. Imports this package's driver and pinned memory.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from lampion import config

from .driver import check
from .pinned import POOL, Block

if TYPE_CHECKING:
    from .driver import Device

BLOCK = 1 << 16    # bytes of pinned memory that statuses share
MOST = 64          # statuses that may be under way before they are looked at
UNKNOWN = -1       # no status word is


class Status(NamedTuple):
    """A status on its way: its words in pinned memory, and who explains it."""

    words: Any
    block: Block
    explain: Callable[..., None]
    call: Any
    inputs: tuple[Any, ...]

    def known(self) -> bool:
        """Whether it has arrived."""
        return UNKNOWN not in self.words

    def fine(self) -> bool:
        """Whether it has arrived and says that nothing is wrong."""
        return not any(self.words)

    def look(self) -> None:
        """Raise what the op says if an index was out of range."""
        if not any(self.words):
            return
        self.words[:] = [0] * len(self.words)  # one error is raised once
        try:
            self.explain(self.call, self.inputs)
        except Exception as error:
            raise type(error)(
                f"{error} (in {self.call.op} on {self.call.device}; found late, because kernels "
                "run later than they are called: checks = \"now\" in [backend.cuda], or "
                "LAMPION_CUDA_SYNC=1, finds it at its call)") from None


class Checks:
    """The statuses of one GPU that are under way."""

    def __init__(self, gpu: Device) -> None:
        from .launch import SYNC

        self.gpu = gpu
        self.waiting: deque[Status] = deque()
        self.lock = threading.RLock()
        self.block: Block | None = None
        self.used = 0
        self.now = SYNC or config.get("backend.cuda.checks") == "now"

    def add(self, storage: Any, nbytes: int, explain: Callable[..., None], call: Any,
            inputs: tuple[Any, ...]) -> None:
        """A status was enqueued to be written to `storage`."""
        gpu = self.gpu
        s = gpu.current.stream
        words, block = self._slot(nbytes)
        status = Status(words, block, explain, call, inputs)
        if gpu.where.index is not None:  # one of several; else the launch's context is active
            gpu.activate()
        check(gpu.drv.cuMemcpyDtoHAsync(ctypes.addressof(words), storage.ptr, nbytes, s.cu),
              f"checking {call.op}")
        if s.capture is not None:
            s.capture.checks.append(status)
            return
        while self._next(Status.fine):  # it keeps its indices for nothing
            pass
        self.waiting.append(status)
        if self.now:
            s.synchronize()
        elif len(self.waiting) > MOST:
            self.poll()

    def _slot(self, nbytes: int) -> tuple[Any, Block]:
        with self.lock:
            if self.block is None or self.used + nbytes > BLOCK:
                self.block, self.used = POOL.allocate(self.gpu, max(BLOCK, nbytes)), 0
            words = (ctypes.c_int64 * (nbytes // 8)).from_address(self.block.pointer + self.used)
            self.used += nbytes
            words[:] = [UNKNOWN] * len(words)
            return words, self.block

    def again(self, statuses: list[Status]) -> None:
        """A graph that checks is replayed: look at what its last replay found, and wait anew."""
        for status in statuses:
            if status.known():
                status.look()
            status.words[:] = [UNKNOWN] * len(status.words)
            if not any(status is waiting for waiting in self.waiting):
                self.waiting.append(status)

    def poll(self) -> None:
        """Look at the statuses that have arrived; the oldest error is raised."""
        while status := self._next(Status.known):
            status.look()

    def _next(self, wanted: Callable[[Status], bool]) -> Status | None:
        """Take the oldest status, if it is `wanted`."""
        with self.lock:
            return self.waiting.popleft() if self.waiting and wanted(self.waiting[0]) else None
