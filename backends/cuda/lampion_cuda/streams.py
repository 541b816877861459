"""Streams and events: queues of work on one GPU, each with its own free memory.

A buffer that was freed may be used again at once by work on the stream it came from, because a
stream runs in order; so every stream keeps its own bins. A buffer that other streams use as well is
told so by `record_stream` and waits for their events. `Stream` and `Event` are what programs get as
`lampion.cuda.Stream` and `lampion.cuda.Event`. Imports this package's driver.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .driver import check
from .errors import AFTER_FORK, FORKED

if TYPE_CHECKING:
    from .driver import Device
    from .memory import Bin

NOT_READY = 600
BACKEND: list[Any] = []  # the one of this process, once it is made
QUEUES = 32  # streams of one priority and GPU
NEAR = 1e8   # nanoseconds: up to this, float32 milliseconds tell single ones


def opened(device: Any = None) -> Any:
    """The opened GPU of a device, an index, a name or None (the current one)."""
    if hasattr(device, "default_stream"):
        return device
    if not BACKEND:
        from lampion import plugins

        plugins.backend("cuda")  # which notes itself here, or raises
    return BACKEND[0].opened(device)


class Stream:
    """A queue of a GPU: `Stream(device=None, priority=0)`, lower numbers go first.

    `Stream(handle=...)` is another library's stream. Work on one stream runs in order; use it by
    `with lampion.cuda.stream(s):`. A GPU has 32 of each priority, handed out in turn. Inside: the
    driver's stream `cu`, and the bins of its free buffers by size.
    """

    __slots__ = ("gpu", "cu", "handle", "priority", "bins", "capture", "__weakref__")

    gpu: Device
    bins: dict[Any, Bin]

    def __new__(cls, device: Any = None, priority: int = 0, handle: int | None = None) -> Stream:
        gpu = opened(device)
        if handle is not None:
            found = gpu.foreign.get(handle)
            if found is None:
                found = gpu.foreign.setdefault(handle, cls._over(gpu, gpu.drv.CUstream(handle), 0))
            return found
        low, high = gpu.priorities  # high is the smaller number
        queues = gpu.queues.setdefault(min(max(priority, high), low), [])
        with gpu.lock:
            if len(queues) < QUEUES:
                queues.append(cls.fresh(gpu, min(max(priority, high), low)))
            else:  # the oldest again: streams are never destroyed, so they must not become many
                queues.append(queues.pop(0))
            return queues[-1]

    @classmethod
    def fresh(cls, gpu: Device, priority: int = 0) -> Stream:
        """A queue that no other `Stream` shares."""
        gpu.activate()
        flags = gpu.drv.CUstream_flags.CU_STREAM_NON_BLOCKING.value
        return cls._over(gpu, check(gpu.drv.cuStreamCreateWithPriority(flags, priority),
                                    "making a stream"), priority)

    @classmethod
    def _over(cls, gpu: Device, cu: Any, priority: int) -> Stream:
        s = object.__new__(cls)
        s.gpu, s.cu, s.handle, s.priority, s.bins = gpu, cu, int(cu), priority, {}
        s.capture = None  # the graph that is being captured on it
        return s

    @property
    def device(self) -> Any:
        """The device it belongs to."""
        return self.gpu.where

    @property
    def cuda_stream(self) -> int:
        """The driver's handle, for other libraries."""
        return self.handle

    def synchronize(self) -> None:
        """Wait for everything enqueued so far."""
        if self.capture is not None:
            self.capture.refuse("waiting for a stream")
        self.gpu.activate()
        check(self.gpu.drv.cuStreamSynchronize(self.cu), f"waiting for {self.gpu.where}")
        self.gpu.poll()

    def query(self) -> bool:
        """Whether everything enqueued so far is done."""
        self.gpu.activate()
        result = self.gpu.drv.cuStreamQuery(self.cu)
        if int(result[0]) == NOT_READY:
            return False
        check(result, f"asking a stream of {self.gpu.where}")
        return True

    def record_event(self, event: Event | None = None) -> Event:
        """Mark the work enqueued so far by an event (a new one unless given); returns it."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Make later work of this stream wait for an event of any stream, without waiting here."""
        event.wait(self)

    def wait_stream(self, stream: Stream) -> None:
        """Make later work of this stream wait for what was enqueued on another."""
        self.wait_event(stream.record_event())

    # What the memory pool needs to know of a stream that a graph is captured on.

    @property
    def allocator(self) -> Stream:
        """The stream on which this one's memory is asked for and given back."""
        return self if self.capture is None else self.capture.side

    def allocated(self) -> None:
        """Memory was asked for on `allocator` and must be there for work on this stream."""
        if self.capture is not None:  # a graph is replayed after its capture has ended
            self.capture.side.synchronize()

    def freed(self) -> None:
        """Memory was given back on `allocator`."""

    def __enter__(self) -> Stream:
        """The current stream in the block, as by `lampion.cuda.stream(s)`."""
        from .namespace import StreamContext

        context = StreamContext(self)
        context.__enter__()
        self.gpu.current.entered.append(context)
        return self

    def __exit__(self, *exc: Any) -> None:
        self.gpu.current.entered.pop().__exit__()

    def __repr__(self) -> str:
        return f"<lampion.cuda.Stream device={self.gpu.where} cuda_stream={self.handle:#x}>"


class Forked:
    """What stands for the current stream in a forked process: using it says what is wrong."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(AFTER_FORK)


class Current(threading.local):
    """The current stream of each thread."""

    def __init__(self, stream: Stream) -> None:  # runs in each thread, when it first asks
        self.stream = stream if not FORKED else Forked()
        self.entered: list[Any] = []  # blocks of `with stream:`
        if not FORKED:
            stream.gpu.activate()


class Event:
    """A mark in a stream, for other streams to wait for and to measure time by.

    `enable_timing`: `elapsed_time` may be asked. `blocking`: a thread that waits sleeps.
    """

    __slots__ = ("gpu", "cu", "timing", "blocking", "capture", "__weakref__")

    def __init__(self, enable_timing: bool = False, blocking: bool = False,
                 interprocess: bool = False, external: bool = False) -> None:
        if interprocess:
            raise RuntimeError("Event(interprocess=True): events are not shared between processes "
                               "here; synchronize before handing data on")
        self.timing, self.blocking = enable_timing, blocking
        self.gpu: Any = None  # it is made when it is first recorded, for that stream's GPU
        self.cu: Any = None
        self.capture: Any = None  # the capture in which it was recorded last

    @property
    def device(self) -> Any:
        """The device it was recorded on; None before."""
        return None if self.gpu is None else self.gpu.where

    @property
    def cuda_event(self) -> int:
        """The driver's handle, for other libraries; 0 before it is recorded."""
        return 0 if self.cu is None else int(self.cu)

    def record(self, stream: Stream | None = None) -> None:
        """Mark the work enqueued so far on a stream (default: the current one)."""
        s = opened(None).current.stream if stream is None else stream
        gpu = s.gpu
        gpu.activate()
        self.capture = s.capture
        if self.gpu is None:
            kinds = gpu.drv.CUevent_flags
            flags = 0 if self.timing else kinds.CU_EVENT_DISABLE_TIMING.value
            flags |= kinds.CU_EVENT_BLOCKING_SYNC.value if self.blocking else 0
            self.cu = check(gpu.drv.cuEventCreate(flags), "making an event")
            self.gpu = gpu
        elif self.gpu is not gpu:
            raise RuntimeError(f"Event device {self.gpu.where} does not match recording stream's "
                               f"device {gpu.where}.")
        check(gpu.drv.cuEventRecord(self.cu, s.cu), "recording an event")

    def wait(self, stream: Stream | None = None) -> None:
        """Make later work of a stream (default: the current one) wait for this mark."""
        if self.gpu is not None:  # nothing to wait for before it is recorded
            s = opened(None).current.stream if stream is None else stream
            s.gpu.activate()
            if self.capture is not s.capture and self.capture is not None:
                self.capture.join(s)  # the driver takes it into the graph
            check(s.gpu.drv.cuStreamWaitEvent(s.cu, self.cu, 0), "waiting for an event")

    def query(self) -> bool:
        """Whether all work before the mark is done."""
        if self.gpu is None:
            return True
        self.gpu.activate()
        result = self.gpu.drv.cuEventQuery(self.cu)
        if int(result[0]) == NOT_READY:
            return False
        check(result, "asking an event")
        return True

    def synchronize(self) -> None:
        """Wait until all work before the mark is done."""
        if self.gpu is not None:
            self.gpu.activate()
            check(self.gpu.drv.cuEventSynchronize(self.cu), "waiting for an event")
            self.gpu.poll()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds on the GPU from this mark to another one that was reached.

        ValueError unless both have `enable_timing` and were recorded, RuntimeError if one is
        still to be reached.
        """
        if not (self.timing and end_event.timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self.gpu is None or end_event.gpu is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        if not (self.query() and end_event.query()):
            raise RuntimeError("Both events must be completed before calculating elapsed time: "
                               "call synchronize() on the later one first.")
        return float(check(self.gpu.drv.cuEventElapsedTime(self.cu, end_event.cu),
                           "measuring time"))

    def __repr__(self) -> str:
        return f"<lampion.cuda.Event {self.cuda_event:#x}>"

    def __del__(self) -> None:
        try:
            if self.cu is not None:
                self.gpu.activate()
                self.gpu.drv.cuEventDestroy(self.cu)
        except Exception:
            pass  # the interpreter or the driver is shutting down


class Mark(Event):
    """A mark for profiles, in the current stream; `row` numbers the streams that had some."""

    __slots__ = ("row",)

    def __init__(self, gpu: Device) -> None:
        super().__init__(enable_timing=True)
        stream = gpu.current.stream
        rows = gpu.libraries.setdefault("rows of profiles", {gpu.default_stream: 0})
        self.row: int = rows.setdefault(stream, len(rows))
        self.record(stream)


def times(marks: Sequence[Event]) -> list[int]:
    """When marks were reached, in nanoseconds from the first on. The driver tells milliseconds in
    float32: they are taken from a mark not long before."""
    found, base, at = [], marks[0], 0.0
    for m in marks:
        later = base.elapsed_time(m) * 1e6
        found.append(round(at + later))
        if later > NEAR:
            base, at = m, at + later
    return found
