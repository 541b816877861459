"""Streams: queues of work on one GPU, each with its own free memory.

A buffer that was freed may be used again at once by work on the stream it came from, because a
stream runs in order; so every stream keeps its own bins. Imports this package's errors.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .driver import check

if TYPE_CHECKING:
    from .driver import Device
    from .memory import Bin


class Stream:
    """A queue of a GPU: the driver's stream `cu` and the bins of its free buffers by size."""

    __slots__ = ("device", "cu", "handle", "bins", "owned", "__weakref__")

    def __init__(self, device: Device, priority: int = 0, handle: int | None = None) -> None:
        drv = device.drv
        self.device = device
        self.owned = handle is None
        if handle is None:
            device.activate()
            flags = drv.CUstream_flags.CU_STREAM_NON_BLOCKING.value
            self.cu = check(drv.cuStreamCreateWithPriority(flags, priority), "making a stream")
            self.handle = int(self.cu)
        else:
            self.cu, self.handle = drv.CUstream(handle), handle
        self.bins: dict[int, Bin] = {}

    def synchronize(self) -> None:
        """Wait for everything enqueued so far."""
        self.device.activate()
        check(self.device.drv.cuStreamSynchronize(self.cu), f"waiting for {self.device.where}")

    @property
    def allocator(self) -> Stream:
        """The stream on which this one's memory is asked for and given back."""
        return self

    def allocated(self) -> None:
        """Memory was asked for on `allocator` and must be there for work on this stream."""

    def freed(self) -> None:
        """Memory was given back on `allocator`."""

    def query(self) -> bool:
        """Whether everything enqueued so far is done."""
        self.device.activate()
        result = self.device.drv.cuStreamQuery(self.cu)
        if int(result[0]) == 600:  # not ready
            return False
        check(result, f"asking a stream of {self.device.where}")
        return True


class Current(threading.local):
    """The current stream of each thread."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
