"""`profile`: recording a program, by a schedule if it runs in steps.

Floor 7; imports recording, events, trace.
"""

from __future__ import annotations

import enum
import json
import os
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .. import plugins
from ..compat import surface
from .events import EventList, events_of
from .labels import record_function
from .recording import Recorder
from .trace import write_memory, write_trace

__all__ = ["profile", "schedule", "ProfilerAction", "ProfilerActivity", "supported_activities",
           "tensorboard_trace_handler", "kineto_available", "ExecutionTraceObserver"]


class ProfilerAction(enum.Enum):
    """What a profile does in a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


class _Activities(type):
    """`ProfilerActivity.NAME`: the activity of the devices of a kind, for every kind that there is
    or that programs know."""

    _made: dict[str, Any] = {}

    def __getattr__(cls, name: str) -> Any:
        kinds = {k.upper(): k for k in ("cpu", *plugins.backend_names(), *surface.devices())}
        kind = kinds.get(name) or ("privateuseone" if name == "PrivateUse1" else None)
        if kind is None:
            raise AttributeError(f"there is no ProfilerActivity.{name}: activities are "
                                 f"{', '.join(sorted(kinds))}")
        if name not in cls._made:
            cls._made[name] = made = cls.__new__(cls)
            made.name, made.kind = name, kind
        return cls._made[name]


class ProfilerActivity(metaclass=_Activities):
    """What a profile records: `CPU` the ops of the host and its kernels; the name of another device
    the kernels of devices other than the host's."""

    name: str
    kind: str

    def __repr__(self) -> str:
        return f"<ProfilerActivity.{self.name}>"


def supported_activities() -> set[ProfilerActivity]:
    """The activities of the backends that are installed."""
    return {getattr(ProfilerActivity, name.upper()) for name in
            {"cpu", *plugins.backend_names()}}


def kineto_available() -> bool:
    """Whether profiles can be recorded: yes."""
    return True


def schedule(*, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0,
             skip_first_wait: int = 0) -> Callable[[int], ProfilerAction]:
    """What to do in each step: after `skip_first` steps, cycles of `wait` steps without anything,
    `warmup` steps that are recorded and forgotten, and `active` steps. `repeat` cycles (0: for
    ever). With `skip_first_wait`, the first cycle does not wait.

    >>> plan = schedule(wait=1, warmup=1, active=2)
    >>> [plan(k).name for k in range(4)]
    ['NONE', 'WARMUP', 'RECORD', 'RECORD_AND_SAVE']
    """
    if wait < 0 or warmup < 0 or active <= 0 or repeat < 0 or skip_first < 0:
        raise ValueError("Invalid profiler schedule arguments: wait, warmup, repeat and "
                         "skip_first are at least 0 and active at least 1, got "
                         f"{wait}, {warmup}, {repeat}, {skip_first} and {active}")
    if warmup == 0:
        warnings.warn("Profiler won't be using warmup, this can skew profiler results",
                      stacklevel=2)

    def action(step: int) -> ProfilerAction:
        if step < 0:
            raise ValueError(f"Step must be non-negative. Got {step}.")
        if step < skip_first:
            return ProfilerAction.NONE
        step -= skip_first
        if skip_first_wait:
            step += wait
        length = wait + warmup + active
        if repeat and step >= repeat * length:
            return ProfilerAction.NONE
        at = step % length
        if at < wait:
            return ProfilerAction.NONE
        if at < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD_AND_SAVE if at == length - 1 else ProfilerAction.RECORD

    return action


def tensorboard_trace_handler(dir_name: str, worker_name: str | None = None,
                              use_gzip: bool = False, use_python_export: bool = False,
                              ) -> Callable[[Any], None]:
    """For `on_trace_ready`: write each trace to `dir_name`, where TensorBoard's plug-in looks."""
    def write(prof: Any) -> None:
        os.makedirs(dir_name, exist_ok=True)
        worker = worker_name or f"{socket.gethostname()}_{os.getpid()}"
        end = ".pt.trace.json" + (".gz" if use_gzip else "")
        prof.export_chrome_trace(os.path.join(dir_name, f"{worker}.{time.time_ns()}{end}"))

    return write


class ExecutionTraceObserver:
    """Writes the ops of a profile, with their arguments' shapes, to a file of JSON."""

    def __init__(self) -> None:
        self._path: str | None = None

    def register_callback(self, output_file_path: str) -> ExecutionTraceObserver:
        """Write to this file when the profile stops."""
        self._path = output_file_path
        return self

    def unregister_callback(self) -> None:
        """Do not write."""
        self._path = None

    @property
    def is_registered(self) -> bool:
        """Whether there is a file to write to."""
        return self._path is not None

    def get_output_file_path(self) -> str | None:
        """The file."""
        return self._path

    def write(self, record: Recorder) -> None:
        """Write a recording."""
        if self._path is None:
            return
        nodes = [{"id": e.id, "name": e.name, "ctrl_deps": e.parent.id if e.parent else 1,
                  "inputs": {"values": e.inputs, "shapes": e.shapes, "types": e.dtypes}}
                 for e in record.events]
        Path(self._path).write_text(json.dumps({"schema": "1.1.1-chakra.0.0.4",
                                                "pid": os.getpid(), "nodes": nodes}, default=str),
                                    encoding="utf-8")


class _KinetoProfile:
    """Recording from `start_trace` to `stop_trace`; what comes after is in the result's methods."""

    def __init__(self, *, activities: Iterable[Any] | None = None, record_shapes: bool = False,
                 profile_memory: bool = False, with_stack: bool = False, with_flops: bool = False,
                 with_modules: bool = False, experimental_config: Any = None,
                 execution_trace_observer: Any = None, acc_events: bool = False,
                 custom_trace_id_callback: Callable[[], str] | None = None,
                 post_processing_timeout_s: float | None = None) -> None:
        self.activities = set(activities) if activities else supported_activities()
        wrong = [a for a in self.activities if not isinstance(a, ProfilerActivity)]
        if wrong:
            raise TypeError(f"activities are a set of ProfilerActivity, which {wrong[0]!r} is not")
        self.record_shapes, self.profile_memory = record_shapes, profile_memory
        self.with_stack, self.with_flops = with_stack, with_flops
        self.with_modules, self.acc_events = with_modules, acc_events
        self.experimental_config = experimental_config
        self.execution_trace_observer = execution_trace_observer
        self.custom_trace_id_callback = custom_trace_id_callback
        self.preset_metadata: dict[str, Any] = {}
        self._metadata: dict[str, Any] = {}
        self._recorder: Recorder | None = None
        self._record: Recorder | None = None  # the last that was complete
        self._kept: list[Any] = []
        self._events: EventList | None = None
        self._trace_id = ""

    def start(self) -> None:
        """Begin to record."""
        self.prepare_trace()
        self.start_trace()

    def stop(self) -> None:
        """End recording."""
        self.stop_trace()

    def prepare_trace(self) -> None:
        """Begin to record what will be forgotten: the first calls under a profile take longer."""
        kinds = {a.kind for a in self.activities}
        self._recorder = Recorder(
            hosts="cpu" in kinds, devices=bool(kinds - {"cpu"}), shapes=self.record_shapes,
            memory=self.profile_memory, stack=self.with_stack, flops=self.with_flops,
            modules=self.with_modules)
        self._recorder.start()

    def start_trace(self) -> None:
        """Begin to record what will be kept."""
        if self._recorder is None:
            self.prepare_trace()
        assert self._recorder is not None
        self._recorder.forget()
        callback = self.custom_trace_id_callback
        self._trace_id = callback() if callback is not None else uuid.uuid4().hex.upper()
        self._metadata |= self.preset_metadata

    def stop_trace(self) -> None:
        """End recording."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        recorder.stop()
        self._record, self._events = recorder, events_of(recorder)
        if self.acc_events:
            self._kept += self._events
        if self.execution_trace_observer is not None:
            self.execution_trace_observer.write(recorder)

    def export_chrome_trace(self, path: str) -> None:
        """Write the trace to a file for Perfetto or chrome://tracing, compressed if the name ends
        in .gz."""
        write_trace(self._complete(), path, {"trace_id": self._trace_id, **self._metadata})

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """Write stacks with weights for flame graphs; needs `with_stack=True`."""
        self.events().export_stacks(path, metric)

    def export_memory_timeline(self, path: str, device: str | None = None) -> None:
        """Write how much memory of a device was allocated when, as JSON. ValueError for another
        ending than .json or .json.gz."""
        if not path.endswith((".json", ".json.gz")):
            raise ValueError(f"{path!r}: memory timelines are written as .json or .json.gz")
        write_memory(self._complete(), path, device or "cpu")

    def events(self) -> EventList:
        """The events; of all cycles with `acc_events`, else of the last one."""
        self._complete()
        assert self._events is not None
        return self._events._like(self._kept) if self.acc_events else self._events

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0,
                     group_by_overload_name: bool = False) -> EventList:
        """The sums of the events by name; see `EventList.key_averages`."""
        return self.events().key_averages(group_by_input_shape, group_by_stack_n,
                                          group_by_overload_name)

    def _complete(self) -> Recorder:
        if self._record is None:
            raise RuntimeError("the profiler has not recorded anything yet: it does between "
                               "start() and stop(), in the active steps of its schedule")
        return self._record

    def add_metadata(self, key: str, value: str) -> None:
        """Add a text to the trace."""
        self._metadata[key] = value

    def add_metadata_json(self, key: str, value: str) -> None:
        """Add a value, given as JSON, to the trace."""
        self._metadata[key] = json.loads(value)

    def preset_metadata_json(self, key: str, value: str) -> None:
        """Add a value, given as JSON, to every trace that is recorded."""
        self.preset_metadata[key] = json.loads(value)

    def set_custom_trace_id_callback(self, callback: Callable[[], str]) -> None:
        """Let a function make the trace's id."""
        self.custom_trace_id_callback = callback

    def get_trace_id(self) -> str | None:
        """The id of the trace."""
        return self._trace_id or None

    def toggle_collection_dynamic(self, enable: bool, activities: Iterable[Any]) -> None:
        """Stop recording some activities for a while, or go on."""
        if self._recorder is not None:
            kinds = {a.kind for a in activities}
            self._recorder.pause(not enable, "cpu" in kinds, bool(kinds - {"cpu"}))


class profile(_KinetoProfile):
    """Records what a program does: ops, named stretches, kernels of devices, memory.

    >>> from lampion.profiler import profile, record_function
    >>> with profile(record_shapes=True) as prof:
    ...     with record_function("double"):
    ...         y = lampion.ones(3) * 2
    >>> [e.key for e in prof.key_averages()]
    ['double', 'aten::ones', 'aten::mul']

    `prof.key_averages().table(sort_by="cpu_time_total")` prints sums by name;
    `prof.export_chrome_trace("trace.json")` writes what Perfetto (https://ui.perfetto.dev) shows.
    `activities` are a set of ProfilerActivity, None all. With a `schedule`, call `step()` after
    each step of the program; `on_trace_ready(prof)` is called when a trace is complete.
    """

    def __init__(self, *, activities: Iterable[Any] | None = None,
                 schedule: Callable[[int], ProfilerAction] | None = None,
                 on_trace_ready: Callable[..., Any] | None = None, record_shapes: bool = False,
                 profile_memory: bool = False, with_stack: bool = False, with_flops: bool = False,
                 with_modules: bool = False, experimental_config: Any = None,
                 execution_trace_observer: Any = None, acc_events: bool = False,
                 custom_trace_id_callback: Callable[[], str] | None = None,
                 post_processing_timeout_s: float | None = None, **older: Any) -> None:
        if older:
            _older_switches("profile", older)
            if not activities and not any(older.values()):
                activities = {ProfilerActivity.CPU}
        super().__init__(
            activities=activities, record_shapes=record_shapes, profile_memory=profile_memory,
            with_stack=with_stack, with_flops=with_flops, with_modules=with_modules,
            experimental_config=experimental_config,
            execution_trace_observer=execution_trace_observer, acc_events=acc_events,
            custom_trace_id_callback=custom_trace_id_callback,
            post_processing_timeout_s=post_processing_timeout_s)
        self.record_steps = schedule is not None
        self.schedule = schedule or (lambda step: ProfilerAction.RECORD)
        self.on_trace_ready = on_trace_ready
        self.step_num = 0
        self.current_action = self.schedule(0)
        self.step_rec_fn: record_function | None = None

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.stop()

    def start(self) -> None:
        """Begin with step 0."""
        self._change(ProfilerAction.NONE, self.current_action)
        self._open_step()

    def stop(self) -> None:
        """End; a trace that is being recorded is complete."""
        self._close_step()
        self._change(self.current_action, None)

    def step(self) -> None:
        """The next step of the program begins."""
        self._close_step()
        before = self.current_action
        self.step_num += 1
        self.current_action = self.schedule(self.step_num)
        self._change(before, self.current_action)
        self._open_step()

    def _open_step(self) -> None:
        if self.record_steps:
            self.step_rec_fn = record_function(f"ProfilerStep#{self.step_num}")
            self.step_rec_fn.__enter__()

    def _close_step(self) -> None:
        if self.step_rec_fn is not None:
            self.step_rec_fn.__exit__(None, None, None)
            self.step_rec_fn = None

    def _change(self, before: ProfilerAction, now: ProfilerAction | None) -> None:
        """From what one step does to what the next does (None: there is none)."""
        A = ProfilerAction
        recorded = before in (A.RECORD, A.RECORD_AND_SAVE)
        goes_on = now in (A.RECORD, A.RECORD_AND_SAVE)
        if recorded and (before is A.RECORD_AND_SAVE or not goes_on):
            if before is A.RECORD and now is not None:
                warnings.warn("Incorrect schedule: RECORD followed by "
                              f"{now.name}", stacklevel=3)
            self.stop_trace()
            if self.on_trace_ready is not None and (before is A.RECORD_AND_SAVE or now is None):
                self.on_trace_ready(self)
            recorded = False
        elif before is A.WARMUP and not goes_on and now is not A.WARMUP:
            if now is not None:
                warnings.warn("Incorrect schedule: WARMUP followed by NONE", stacklevel=3)
            self.start_trace()
            self.stop_trace()
        if now is A.WARMUP and self._recorder is None:
            self.prepare_trace()
        elif goes_on and not recorded:
            self.start_trace()


def _older_switches(what: str, given: dict[str, Any]) -> None:
    """TypeError for keywords that are not of the form use_DEVICE, which activities replaced."""
    wrong = [name for name in given if not name.startswith("use_")]
    if wrong:
        raise TypeError(f"{what}() got an unexpected keyword argument '{wrong[0]}'")


