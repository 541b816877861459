"""Events of a profile as programs read them, and their sums by name.

Floor 7; imports recording, table. Times are microseconds since the profile began.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from .recording import Event, Recorder
from .table import memory_text, table, time_text

__all__ = ["DeviceType", "FunctionEvent", "FunctionEventAvg", "EventList", "Interval", "Kernel",
           "events_of"]


class DeviceType(enum.Enum):
    """Where an event ran: on the host, or on another device."""

    CPU = 0
    PrivateUse1 = 20


class Interval:
    """From when to when."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    def elapsed_us(self) -> float:
        """How long."""
        return self.end - self.start

    def __repr__(self) -> str:
        return f"Interval({self.start}, {self.end})"


class Kernel(NamedTuple):
    """A launch on a device: its name, the device's index and how long it took."""

    name: str
    device: int
    duration: float


_OTHER = re.compile(r"(self_)?(?!cpu_|device_)[a-z0-9]+_(time_total|time|memory_usage|time_str|"
                    r"time_total_str)")


class _Times:
    """The averages and texts of sums of times. Names with another device's in place of "device"
    mean the same."""

    count: int
    cpu_time_total: float
    device_time_total: float
    self_cpu_time_total: float
    self_device_time_total: float

    @property
    def cpu_time(self) -> float:
        """Time on the host of one call."""
        return self.cpu_time_total / self.count if self.count else 0.0

    @property
    def device_time(self) -> float:
        """Time on the device of one call."""
        return self.device_time_total / self.count if self.count else 0.0

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_str") and not name.startswith("_"):
            return time_text(getattr(self, name[:-len("_str")]))
        found = _OTHER.fullmatch(name)
        if found is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self, f"{found[1] or ''}device_{found[2]}")


class FunctionEvent(_Times):
    """One event: an op, a backward node, a named stretch, or a launch on a device."""

    def __init__(self, id: int, name: str, thread: int, start_us: float, end_us: float,
                 input_shapes: Any = None, stack: Any = None, use_device: str | None = None,
                 sequence_nr: int = -1, fwd_thread: int = 0, flops: int = 0,
                 device_type: DeviceType = DeviceType.CPU, device_index: int = 0,
                 kind: str = "cpu_op", concrete_inputs: Any = None) -> None:
        self.id, self.node_id, self.trace_name = id, -1, name
        # steps are summed up as one
        self.name = "ProfilerStep*" if name.startswith("ProfilerStep#") else name
        self.overload_name = ""
        self.time_range = Interval(start_us, end_us)
        self.thread, self.fwd_thread, self.sequence_nr = thread, fwd_thread, sequence_nr
        self.kernels: list[Kernel] = []
        self.count = 1
        self.cpu_children: list[FunctionEvent] = []
        self.cpu_parent: FunctionEvent | None = None
        self.input_shapes, self.concrete_inputs = input_shapes or [], concrete_inputs or []
        self.kwinputs: dict[str, Any] = {}
        self.stack, self.scope, self.use_device = stack or [], 0, use_device
        self.cpu_memory_usage = self.device_memory_usage = 0
        self.is_async = self.is_remote = self.is_legacy = False
        self.device_type, self.device_index, self.flops = device_type, device_index, flops
        self.is_user_annotation = kind == "user_annotation"
        self.is_python_function = kind == "python_function"
        self.activity_type = kind

    @property
    def key(self) -> str:
        """The name, by which events are summed up."""
        return self.name

    @property
    def cpu_time_total(self) -> float:  # type: ignore[override]
        """Time on the host."""
        return self.time_range.elapsed_us() if self.device_type is DeviceType.CPU else 0.0

    @property
    def self_cpu_time_total(self) -> float:  # type: ignore[override]
        """Time on the host outside the events inside this one."""
        return self.cpu_time_total - sum(c.cpu_time_total for c in self.cpu_children)

    @property
    def self_device_time_total(self) -> float:  # type: ignore[override]
        """Time on the device of the launches of this event itself."""
        if self.device_type is not DeviceType.CPU:
            return self.time_range.elapsed_us()
        return sum(k.duration for k in self.kernels)

    @property
    def device_time_total(self) -> float:  # type: ignore[override]
        """Time on the device of the launches of this event and of those inside."""
        return self.self_device_time_total + sum(c.device_time_total for c in self.cpu_children)

    @property
    def self_cpu_memory_usage(self) -> int:
        """Bytes of the host that this event itself allocated, less those that it freed."""
        return self.cpu_memory_usage - sum(c.cpu_memory_usage for c in self.cpu_children)

    @property
    def self_device_memory_usage(self) -> int:
        """Bytes of the device that this event itself allocated, less those that it freed."""
        return self.device_memory_usage - sum(c.device_memory_usage for c in self.cpu_children)

    def __repr__(self) -> str:
        return (f"<FunctionEvent id={self.id} name={self.name} cpu_time={self.cpu_time_str} "
                f"thread={self.thread} start_us={self.time_range.start:.3f} "
                f"input_shapes={self.input_shapes} device_type={self.device_type.name}>")


_SUMS = ("cpu_time_total", "device_time_total", "self_cpu_time_total", "self_device_time_total",
         "cpu_memory_usage", "device_memory_usage", "self_cpu_memory_usage",
         "self_device_memory_usage", "flops", "count")


class FunctionEventAvg(_Times):
    """The sum of the events of one name."""

    def __init__(self) -> None:
        self.key: Any = None
        self.count = 0
        self.cpu_time_total = self.device_time_total = 0.0
        self.self_cpu_time_total = self.self_device_time_total = 0.0
        self.cpu_memory_usage = self.device_memory_usage = 0
        self.self_cpu_memory_usage = self.self_device_memory_usage = 0
        self.flops, self.node_id, self.scope = 0, -1, 0
        self.is_async = self.is_remote = self.is_legacy = self.is_user_annotation = False
        self.use_device: str | None = None
        self.input_shapes: Any = ""
        self.stack: Any = []
        self.overload_name = ""
        self.cpu_children: Any = []
        self.cpu_parent: Any = None
        self.device_type = DeviceType.CPU

    def add(self, other: Any) -> FunctionEventAvg:
        """Add an event or a sum of the same name."""
        if self.key is None:
            for name in ("key", "use_device", "input_shapes", "stack", "device_type",
                         "is_user_annotation", "node_id", "scope", "cpu_parent", "cpu_children"):
                setattr(self, name, getattr(other, name))
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    __iadd__ = add

    def __repr__(self) -> str:
        return (f"<FunctionEventAvg key={self.key} self_cpu_time={self.self_cpu_time_total_str} "
                f"cpu_time={self.cpu_time_str} self_device_time={self.self_device_time_total_str} "
                f"device_time={self.device_time_str} input_shapes={self.input_shapes} "
                f"cpu_memory_usage={memory_text(self.cpu_memory_usage)}>")


class EventList(list):
    """Events, or sums of events, with what prints them and writes them to files."""

    def __init__(self, items: Iterable[Any] = (), *, use_device: str | None = None,
                 profile_memory: bool = False, with_flops: bool = False,
                 record: Any = None) -> None:
        super().__init__(items)
        self._use_device, self._profile_memory = use_device, profile_memory
        self._with_flops, self._record = with_flops, record

    def _like(self, items: Iterable[Any]) -> EventList:
        return EventList(items, use_device=self._use_device, profile_memory=self._profile_memory,
                         with_flops=self._with_flops, record=self._record)

    @property
    def self_cpu_time_total(self) -> float:
        """The host's time of all events."""
        return sum(e.self_cpu_time_total for e in self)

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0,
                     group_by_overload_name: bool = False) -> EventList:
        """The sums by name, and by shapes of the arguments or the innermost lines of the stack."""
        sums: dict[Any, FunctionEventAvg] = {}
        for event in self:
            key = (event.key, event.device_type, event.is_user_annotation,
                   str(event.input_shapes) if group_by_input_shape else "",
                   tuple(event.stack[:group_by_stack_n]))
            sums.setdefault(key, FunctionEventAvg()).add(event)
        for made in sums.values():
            made.stack = made.stack[:group_by_stack_n]
            made.input_shapes = made.input_shapes if group_by_input_shape else ""
        return self._like(sums.values())

    def total_average(self) -> FunctionEventAvg:
        """The sum of all events."""
        total = FunctionEventAvg()
        for event in self:
            total.add(event)
        total.key = None
        return total

    def table(self, sort_by: str | None = None, row_limit: int = 100,
              max_src_column_width: int = 75, max_name_column_width: int = 55,
              max_shapes_column_width: int = 80, header: str | None = None,
              top_level_events_only: bool = False, time_unit: str | None = None) -> str:
        """The events as a table, the largest of `sort_by` first: "cpu_time_total",
        "self_cpu_time_total", "device_time_total", "cpu_memory_usage", "count"...

        ValueError for a name that no event has.
        """
        return table(self, sort_by, row_limit, max_src_column_width, max_name_column_width,
                     max_shapes_column_width, header, top_level_events_only,
                     self._use_device, self._profile_memory, self._with_flops, time_unit)

    def __str__(self) -> str:
        return self.table()

    def export_chrome_trace(self, path: str) -> None:
        """Write the trace to a file for Perfetto or chrome://tracing."""
        from .trace import write_trace

        write_trace(self._record, path)

    def supported_export_stacks_metrics(self) -> list[str]:
        """What `export_stacks` can weigh stacks by."""
        return ["self_cpu_time_total", "self_device_time_total"]

    def export_stacks(self, path: str, metric: str) -> None:
        """Write "frame;frame;... weight" lines, outermost frame first, for flame graphs.

        ValueError for a metric that is not one of `supported_export_stacks_metrics`.
        """
        found = _OTHER.fullmatch(metric)
        metric = f"{found[1] or ''}device_{found[2]}" if found is not None else metric
        if metric not in self.supported_export_stacks_metrics():
            raise ValueError("metric should be one of: "
                             f"{self.supported_export_stacks_metrics()}, not {metric!r}")
        blanks = str.maketrans(" ;\t\n", "____")
        with open(path, "w", encoding="utf-8") as file:
            for event in self:
                weight = int(getattr(event, metric))
                if event.stack and weight > 0:
                    frames = [frame.translate(blanks) for frame in reversed(event.stack)]
                    file.write(f"{';'.join(frames)} {weight}\n")


def events_of(record: Recorder) -> EventList:
    """The events of a recording."""
    def us(t: int) -> float:
        return (t - record.began) / 1000

    launched: dict[int, list[Kernel]] = {}  # on other devices, by the event
    for k in record.kernels:
        if k.event is not None and k.device.type != "cpu":
            launched.setdefault(id(k.event), []).append(
                Kernel(k.name, k.device.index or 0, (k.end - k.start) / 1000))
    made: dict[int, FunctionEvent] = {}
    others = sorted({k.device.type for k in record.kernels} - {"cpu"})
    use_device = others[0] if others else None
    found: list[FunctionEvent] = []
    for e in record.events:
        event = FunctionEvent(e.id, e.name, e.thread, us(e.start), us(e.end), e.shapes, e.stack,
                              use_device, e.sequence, e.forward_thread, e.flops, kind=e.kind,
                              concrete_inputs=e.inputs)
        for device, (before, after) in e.memory.items():
            if device == "cpu":
                event.cpu_memory_usage += after - before
            else:
                event.device_memory_usage += after - before
        event.kernels = launched.get(id(e), [])
        parent = _parent(e, made)
        if parent is not None:
            event.cpu_parent = parent
            parent.cpu_children.append(event)
        made[id(e)] = event
        found.append(event)
    for n, k in enumerate((k for k in record.kernels if k.device.type != "cpu"),
                          len(found) + 1):
        found.append(FunctionEvent(n, k.name, k.thread, us(k.start), us(k.end),
                                   use_device=use_device, device_type=DeviceType.PrivateUse1,
                                   device_index=k.device.index or 0, kind="kernel"))
    return EventList(found, use_device=use_device, profile_memory=record.memory,
                     with_flops=record.flops, record=record)


def _parent(e: Event, made: dict[int, FunctionEvent]) -> FunctionEvent | None:
    return None if e.parent is None else made.get(id(e.parent))
