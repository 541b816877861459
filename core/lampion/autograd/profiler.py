"""Profiles under their older names: `profile`, `record_function`, `emit_nvtx`. Floor 5, by name.

`lampion.profiler` has what is recommended today.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from lampion.profiler import record_function
from lampion.profiler.events import EventList, FunctionEvent, FunctionEventAvg, Interval, Kernel
from lampion.profiler.profiler import (
    ProfilerActivity,
    _KinetoProfile,
    _older_switches,
    supported_activities,
)
from lampion.watching import Watch

__all__ = ["profile", "record_function", "emit_nvtx", "emit_itt", "EventList", "FunctionEvent",
           "FunctionEventAvg", "Interval", "Kernel", "KinetoStepTracker"]


class profile:
    """Records what a `with` block does; without `use_device`, the host alone.

    >>> with lampion.autograd.profiler.profile() as prof:
    ...     y = lampion.ones(2).exp()
    >>> [e.name for e in prof.function_events]
    ['aten::ones', 'aten::exp']
    """

    def __init__(self, enabled: bool = True, *, use_device: str | None = None,
                 record_shapes: bool = False, with_flops: bool = False,
                 profile_memory: bool = False, with_stack: bool = False,
                 with_modules: bool = False, use_cpu: bool = True, experimental_config: Any = None,
                 acc_events: bool = False, **older: Any) -> None:
        _older_switches("profile", older)
        self.enabled = enabled
        self.use_device = use_device or next((n[4:] for n, on in older.items() if on), None)
        wanted = set(supported_activities())
        host = ProfilerActivity.CPU
        self._profile = _KinetoProfile(
            activities=({host} if use_cpu else set()) | (
                wanted - {host} if self.use_device not in (None, "cpu") else set()) or {host},
            record_shapes=record_shapes, profile_memory=profile_memory, with_stack=with_stack,
            with_flops=with_flops, with_modules=with_modules, acc_events=acc_events)

    def __enter__(self) -> profile | None:
        if not self.enabled:
            return None
        self._profile.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self.enabled:
            self._profile.stop()

    @property
    def function_events(self) -> EventList:
        """The events. RuntimeError while the block runs."""
        return self._profile.events()

    @property
    def self_cpu_time_total(self) -> float:
        """The host's time of all events, in microseconds."""
        return self.function_events.self_cpu_time_total

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0,
                     group_by_overload_name: bool = False) -> EventList:
        """The sums of the events by name."""
        return self._profile.key_averages(group_by_input_shape, group_by_stack_n,
                                          group_by_overload_name)

    def total_average(self) -> FunctionEventAvg:
        """The sum of all events."""
        return self.function_events.total_average()

    def table(self, *args: Any, **kwargs: Any) -> str:
        """The events as a table; see `EventList.table`."""
        return self.function_events.table(*args, **kwargs)

    def export_chrome_trace(self, path: str) -> None:
        """Write the trace to a file for Perfetto or chrome://tracing."""
        self._profile.export_chrome_trace(path)

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """Write stacks with weights for flame graphs; needs `with_stack=True`."""
        self._profile.export_stacks(path, metric)

    def __repr__(self) -> str:
        return "<unfinished profiler>" if self._profile._record is None else repr(
            self.function_events)

    def __str__(self) -> str:
        return "<unfinished profiler>" if self._profile._record is None else self.table()


class _Ranges:
    """A `with` block whose ops are ranges of some tool: a package, and its functions that begin and
    end one."""

    tool = begin = end = ""

    def __init__(self, enabled: bool = True, record_shapes: bool = False) -> None:
        self.enabled, self.record_shapes = enabled, record_shapes
        self._watch: Watch | None = None

    def __enter__(self) -> Any:
        if not self.enabled:
            return None
        try:
            tool = importlib.import_module(self.tool)
        except ImportError:
            raise RuntimeError(f"{type(self).__name__} needs the package {self.tool}: pip install "
                               f"{self.tool}") from None
        begin, end = getattr(tool, self.begin), getattr(tool, self.end)

        def ranged(fn: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            begin(fn.__name__)
            try:
                return call(*args, **kwargs)
            finally:
                end()

        self._watch = Watch(ranged).__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._watch is not None:
            self._watch.__exit__()


class emit_nvtx(_Ranges):
    """A `with` block whose ops are ranges of NVTX, for the tools that show these.

    RuntimeError if the package nvtx is not there.
    """

    tool, begin, end = "nvtx", "push_range", "pop_range"


class emit_itt(_Ranges):
    """A `with` block whose ops are tasks of ITT, for the tools that show these.

    RuntimeError if the package ittapi is not there.
    """

    tool, begin, end = "ittapi", "task_begin", "task_end"


class KinetoStepTracker:
    """Counts steps of whoever has them: the step of the process is the largest of all."""

    _steps: dict[str, int] = {}

    @classmethod
    def init_step_count(cls, requester: str) -> None:
        """Count for a requester, from the current step on."""
        cls._steps[requester] = cls.current_step()

    @classmethod
    def erase_step_count(cls, requester: str) -> bool:
        """Do not count for a requester any more; whether it was counted for."""
        return cls._steps.pop(requester, None) is not None

    @classmethod
    def increment_step(cls, requester: str) -> int:
        """The next step of a requester; the step of the process."""
        cls._steps[requester] = cls._steps.get(requester, cls.current_step()) + 1
        return cls.current_step()

    @classmethod
    def current_step(cls) -> int:
        """The step of the process."""
        return max(cls._steps.values(), default=0)
