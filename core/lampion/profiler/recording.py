"""What a profile writes down, and how it comes to see it.

Floor 7; imports watching, autograd.engine, ops.plans, runtime. Nothing on the call path knows of
profiles. While a `Recorder` runs,

- public functions and methods are watched (`watching`), which gives the ops of the host's rows;
- the launchers of all plans are exchanged for ones that take the time, which gives the kernels of
  the devices' rows; where the backend has marks (`Backend.mark`) the times are the device's, else
  the host's, after waiting for the device;
- the backward engine and optimizers tell of nodes and steps.

Times are nanoseconds of `time.perf_counter_ns`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import perf_counter_ns as clock
from types import FrameType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from ..autograd import engine, trace
from ..autograd.node import AccumulateGrad, Node, Select
from ..base.device import device
from ..nn import functional
from ..ops import plans as P
from ..ops import registry as R
from ..runtime import capture
from ..runtime.devices import resolve
from ..tensor import OPERATORS, Tensor
from ..watching import Watch, reroute, twin
from . import labels

_NAMES: dict[Any, str] = {}
trace.between.add(__file__)


class Event:
    """A stretch on a thread of the host: an op, a backward node, a named stretch, a Python call."""

    # What few events have is the class's: one is made for every call.
    id = 0
    shapes: Any = ()
    strides: Any = ()
    dtypes: Any = ()
    inputs: Any = ()
    stack: Any = ()
    memory: dict[str, list[int]] = {}
    sequence, forward_thread, flops = -1, 0, 0
    start = end = 0

    def __init__(self, kind: str, name: str, thread: int, parent: Event | None) -> None:
        self.kind, self.name, self.thread, self.parent = kind, name, thread, parent


class Kernel:
    """A launch on a device: when it ran there, and which event of the host asked for it."""

    __slots__ = ("name", "device", "start", "end", "event", "marks", "thread", "asked", "row")

    def __init__(self, name: str, where: device, start: int, event: Event | None,
                 thread: int) -> None:
        self.name, self.device, self.start, self.end = name, where, start, start
        self.asked = start  # by the host
        self.event, self.thread = event, thread
        self.marks: tuple[Any, Any] | None = None
        self.row = 0  # of the device's: its queue, if the marks tell


class _Thread(threading.local):
    """The innermost open event of each thread."""

    def __init__(self) -> None:
        self.top: Event | None = None
        self.id = threading.get_native_id()
        self.busy = False  # in the recorder's own code


class Recorder:
    """Records while it runs: the host's ops (`hosts`), and the kernels of the host's device
    (`hosts`) and of all others (`devices`)."""

    def __init__(self, *, hosts: bool = True, devices: bool = True, shapes: bool = False,
                 memory: bool = False, stack: bool = False, flops: bool = False,
                 modules: bool = False) -> None:
        self.hosts, self.devices, self.shapes = hosts, devices, shapes or flops
        self.memory, self.stack, self.flops, self.modules = memory, stack, flops, modules
        self.details = self.shapes or memory or stack
        self.events: list[Event] = []
        self.kernels: list[Kernel] = []
        self.usage: list[tuple[int, str, int, int, int]] = []  # time, device, bytes, total, thread
        self.began = self.ended = 0
        self.wall = 0  # time.time_ns() at `began`
        self.local = _Thread()
        self.nodes: WeakKeyDictionary[Node, Event] = WeakKeyDictionary()
        self.sequence = 0
        self.used: dict[device, Any] = {}  # devices, and their backends
        self.totals: dict[str, int] = {}  # bytes allocated, by device
        self.origin: dict[device, Any] = {}  # the first mark of each
        self.running = False
        self.paused = (False, False)  # hosts, devices
        self._undo: list[Callable[[], Any]] = []

    # ------------------------------------------------------------ on and off

    def start(self) -> None:
        """Begin. RuntimeError while another recorder runs."""
        import time

        if labels.recorders:
            raise RuntimeError("a profile is running already: one at a time can be recorded")
        self.wall, self.began, self.running = time.time_ns(), clock(), True
        labels.recorders.append(self)
        self._undo.append(lambda: labels.recorders.remove(self))
        self._time_launches()
        capture.timers.append(self.enqueued)
        self._undo.append(lambda: capture.timers.remove(self.enqueued))
        if self.hosts:
            watch = Watch(self.see).__enter__()
            self._undo.append(lambda: watch.__exit__())
            engine.watchers.append(self.backward)
            self._undo.append(lambda: engine.watchers.remove(self.backward))
            self._watch_optimizers()
            if self.stack or self.modules:
                self._watch_modules()

    def stop(self) -> None:
        """End: wait for the devices, ask for their times, leave everything as it was."""
        if not self.running:
            return
        self.running = False
        while self._undo:
            self._undo.pop()()
        self._settle()
        self.ended = clock()
        for k, event in enumerate(self.events, 1):
            event.id = k
            if not event.end:
                event.end = self.ended

    def forget(self) -> None:
        """Drop what was recorded so far: what the first calls do is not what all others do."""
        import time

        self.events.clear()
        self.kernels.clear()
        self.usage.clear()
        self.used.clear()
        self.totals.clear()
        self.local = _Thread()
        self.wall, self.began = time.time_ns(), clock()

    def pause(self, paused: bool, hosts: bool, devices: bool) -> None:
        """Leave out some rows, or take them in again."""
        self.paused = (paused and hosts, paused and devices)

    def _time_launches(self) -> None:
        changed: list[tuple[Any, Any, Any]] = []

        def exchange(plan: P.Plan) -> None:
            if getattr(plan, "launch", None) is not None:
                changed.append((plan, plan.launch, plan.into))
                plan.launch = self.timed(plan.launch, plan)
                if plan.into is not None:
                    plan.into = self.timed(plan.into, plan)

        graphs: list[tuple[FunctionType, Any]] = []

        def exchange_graph(program: Any) -> None:
            graphs.append((program.run, program.run.__code__))
            reroute(program.run, self.timed_graph(program))

        def restore() -> None:
            P.on_plan.remove(exchange)
            P.on_graph.remove(exchange_graph)
            for plan, launch, into in changed:
                plan.launch, plan.into = launch, into
            for run, code in graphs:
                run.__code__ = code
            forget()

        def forget() -> None:
            for held in R.plan_holders:  # what remembers launchers
                held.clear()

        forget()
        for op in R.planned_ops():
            for table in R.plan_tables(op):
                for plan in list(table.values()):
                    exchange(plan)
        for program in list(P.graphs):
            exchange_graph(program)
        P.on_plan.append(exchange)
        P.on_graph.append(exchange_graph)
        self._undo.append(restore)

    def _watch_optimizers(self) -> None:
        from ..optim import optimizer as O

        open_steps: list[Event] = []

        def before(optimizer: Any, args: Any, kwargs: Any) -> None:
            name = type(optimizer).__name__
            open_steps.append(self.open("user_annotation", f"Optimizer.step#{name}.step"))

        def after(optimizer: Any, args: Any, kwargs: Any) -> None:
            if open_steps:
                self.close(open_steps.pop())

        for handle in (O.register_optimizer_step_pre_hook(before),
                       O.register_optimizer_step_post_hook(after)):
            self._undo.append(handle.remove)

    def _watch_modules(self) -> None:
        from ..nn.modules._hooks import watch_calls

        numbers: dict[str, dict[int, int]] = {}

        def called(module: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            kind = type(module).__name__
            known = numbers.setdefault(kind, {})
            name = f"nn.Module: {kind}_{known.setdefault(id(module), len(known))}"
            event = self.open("python_function", name)
            try:
                return call(*args, **kwargs)
            finally:
                self.close(event)

        self._undo.append(watch_calls(called))

    # ------------------------------------------------------------ the host's rows

    def open(self, kind: str, name: str) -> Event:
        """Begin an event on this thread's row."""
        local = self.local
        event = Event(kind, name, local.id, local.top)
        local.top = event
        if self.hosts:
            self.events.append(event)
            if self.stack:
                event.stack = _stack(sys._getframe(1))
        if self.memory:
            event.memory = {}
            self._measure(event)
        event.start = clock()
        return event

    def close(self, event: Event) -> None:
        """End an event, and whatever was left open inside."""
        event.end = clock()
        if self.memory:
            self._measure(event)
        self.local.top = event.parent

    def see(self, fn: FunctionType, call: Callable[..., Any], args: tuple[Any, ...],
            kwargs: dict[str, Any]) -> Any:
        """The watcher of functions."""
        name = _NAMES.get(fn) or _name(fn)
        local = self.local
        top = local.top
        if (top is not None and top.name == name) or local.busy or self.paused[0]:
            return call(*args, **kwargs)  # the function of a function: one op
        if self.details:
            event = self.open("cpu_op", name)
            if self.shapes:
                _describe(event, args, kwargs)
                if self.flops:
                    event.flops = _flops(name, event, args, kwargs)
                event.start = clock()
        else:  # what `open` does, in place
            local.top = event = Event("cpu_op", name, local.id, top)
            self.events.append(event)
            event.start = clock()
        try:
            result = call(*args, **kwargs)
        finally:
            event.end = clock()
            if self.memory:
                self._measure(event)
            local.top = top
        if getattr(result, "node", self) is not None:
            self._link(event, result)
        return result

    def _link(self, event: Event, result: Any) -> None:
        """Remember which event made the nodes of the results."""
        found = result if type(result) in (tuple, list) else (result,)
        for t in found:
            node = getattr(t, "node", None) if isinstance(t, Tensor) else None
            if node is None:
                continue
            node = node.parent if type(node) is Select else node
            if node not in self.nodes and type(node) is not AccumulateGrad:
                event.sequence, self.sequence = self.sequence, self.sequence + 1
                self.nodes[node] = event

    def backward(self, apply: Callable[..., Any], node: Node, grads: Any) -> Any:
        """The watcher of the backward engine."""
        if type(node) is Select:
            return apply(node, grads)
        event = self.open("cpu_op", node.name())
        if self.shapes:
            _describe(event, tuple(grads), {})
        forward = self.nodes.get(node)
        if forward is not None:
            event.sequence, event.forward_thread = forward.sequence, forward.thread
        try:
            return apply(node, grads)
        finally:
            self.close(event)

    # ------------------------------------------------------------ the devices' rows

    def timed(self, launch: Callable[..., Any], plan: P.Plan) -> Callable[..., Any]:
        """A launcher that takes the time."""
        names = plan.launch_of.kernels if plan.launch_of is not None else ()
        return self._timed(launch, ", ".join(names) or plan.op.qualname, plan.call.device)

    def timed_graph(self, program: Any) -> Callable[..., Any]:
        """What runs a compiled graph: one op of the host and one kernel."""
        calls, plain = program.graph.calls, twin(program.run)
        run = self._timed(plain, program.graph.name, calls[0].call.device) if calls else plain
        name = f"lampion::compiled({program.graph.name})"

        def stretch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self.running or not self.hosts:
                return run(*args, **kwargs)
            event = self.open("cpu_op", name)
            try:
                return run(*args, **kwargs)
            finally:
                self.close(event)

        return stretch

    def _timed(self, launch: Callable[..., Any], name: str, where: device) -> Callable[..., Any]:
        backend = P.backend_of(where)
        away = where.type != "cpu"
        wanted = self.devices if away else self.hosts

        def run(*args: Any, **kwargs: Any) -> Any:
            if not self.running or not wanted or self.paused[away]:
                return launch(*args, **kwargs)
            local = self.local
            if where not in self.used:
                self.used[where], self.origin[where] = backend, backend.mark(where)
            before = backend.mark(where)
            if before is None and capture.captures:
                return launch(*args, **kwargs)  # it does not run now
            kernel = Kernel(name, where, clock(), local.top, local.id)
            try:
                return launch(*args, **kwargs)
            finally:
                after = None if before is None else backend.mark(where)
                if after is None:
                    backend.synchronize(where)
                else:
                    kernel.marks, kernel.row = (before, after), getattr(before, "row", 0)
                kernel.end = clock()
                self.kernels.append(kernel)

        return run

    def enqueued(self, launch: Callable[[], Any], name: str, where: device) -> Any:
        """Run what enqueues work that belongs to no plan, as a kernel of this name."""
        return self._timed(launch, name, where)()

    def _settle(self) -> None:
        """Turn marks into times. The devices are idle now, so that a mark tells what their clocks
        show; while the program ran, nothing waited for them."""
        for where, backend in self.used.items():
            backend.synchronize(where)
            marked = [k for k in self.kernels if k.device is where and k.marks is not None]
            if not marked:
                continue
            last = backend.mark(where)
            backend.synchronize(where)
            at = clock()
            first = self.origin[where] or marked[0].marks[0]  # type: ignore[index]
            times = backend.mark_times(
                where, [first, *[m for k in marked for m in k.marks or ()], last])
            at -= times[-1]
            for k, kernel in enumerate(marked):
                kernel.start, kernel.end = at + times[2 * k + 1], at + times[2 * k + 2]

    # ------------------------------------------------------------ memory

    def _measure(self, event: Event) -> None:
        """Note what is allocated on the host's device and on those that were used."""
        local = self.local
        local.busy = True
        try:
            for where in dict.fromkeys((resolve("cpu"), *self.used)):
                total = P.backend_of(where).memory_stats(where).get("allocated")
                if total is None:
                    continue
                name = str(where)
                entry = event.memory.get(name)
                if entry is None:
                    event.memory[name] = [total, total]
                else:
                    entry[1] = total
                before = self.totals.get(name, total)
                if before != total or name not in self.totals:
                    self.usage.append((clock(), name, total - before, total, local.id))
                    self.totals[name] = total
        finally:
            local.busy = False


# ---------------------------------------------------------------- what is known of a call

def _name(fn: FunctionType) -> str:
    """An op's name as PyTorch's profiler writes it; what is no public function is lampion's own."""
    name = fn.__name__
    special = OPERATORS[name][0] if name in OPERATORS else name
    op = R.REGISTRY.get(name) or R.REGISTRY.get(name.removesuffix("_"))
    public = (special != name or (op is not None and (bool(op.where) or op.method))
              or vars(functional).get(name) is fn or fn.__module__ != "lampion")
    _NAMES[fn] = full = f"{'aten' if public else 'lampion'}::{special}"
    return full


def _describe(event: Event, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Shapes, strides and dtypes of the arguments."""
    values = [*args, *kwargs.values()]
    event.shapes = [_shape(v) for v in values]
    event.strides = [list(v.meta.strides) if isinstance(v, Tensor) else [] for v in values]
    event.dtypes = [_kind(v) for v in values]
    event.inputs = [str(v) if isinstance(v, bool | int | float | str) else "" for v in values]


def _shape(v: Any) -> list[Any]:
    if isinstance(v, Tensor):
        return list(v.meta.shape)
    if isinstance(v, list | tuple) and any(isinstance(t, Tensor) for t in v):
        return [list(t.meta.shape) for t in v if isinstance(t, Tensor)]
    return []


def _kind(v: Any) -> str:
    if isinstance(v, Tensor):
        return {"float32": "float", "float64": "double", "int64": "long int", "int32": "int"}.get(
            v.dtype.name, v.dtype.name)
    if isinstance(v, list | tuple) and any(isinstance(t, Tensor) for t in v):
        return "TensorList"
    return "Scalar" if isinstance(v, bool | int | float) else ""


def _product(sizes: Any) -> int:
    n = 1
    for s in sizes:
        n *= s
    return n


def _flops(name: str, event: Event, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Floating point operations of matrix products, convolutions, sums and products: two for a
    multiplication with addition."""
    shapes = [s for s, v in zip(event.shapes, (*args, *kwargs.values())) if isinstance(v, Tensor)]
    op = name.partition("::")[2]
    if op in ("add", "mul", "sub", "div", "add_", "mul_", "sub_", "div_") and shapes:
        return max(_product(s) for s in shapes)
    pair = {"mm": 0, "bmm": 0, "matmul": 0, "linear": 0, "addmm": 1, "baddbmm": 1}.get(op)
    if pair is not None and len(shapes) >= pair + 2:
        a, b = shapes[pair], shapes[pair + 1]
        if not a or not b:
            return 0
        columns = b[0] if op == "linear" and len(b) > 1 else b[-1] if len(b) > 1 else 1
        batch = _product(b[:-2]) // (_product(a[:-2]) or 1) if len(b) > len(a) else 1
        return 2 * _product(a) * columns * max(batch, 1)
    if op in ("conv1d", "conv2d", "conv3d") and len(shapes) >= 2:
        return _convolution(op, shapes[0], shapes[1], args, kwargs)
    return 0


def _convolution(op: str, x: Any, w: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    dims = int(op[4])

    def option(name: str, place: int, default: int) -> list[int]:
        value = kwargs.get(name, args[place] if len(args) > place else default)
        if isinstance(value, str):
            return [0] * dims
        return [value] * dims if isinstance(value, int) else list(value) * (dims // len(value))

    stride, pad, dilation = option("stride", 3, 1), option("padding", 4, 0), \
        option("dilation", 5, 1)
    if kwargs.get("padding", args[4] if len(args) > 4 else 0) == "same":
        out = x[-dims:]
    else:
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1
               for n, k, s, p, d in zip(x[-dims:], w[-dims:], stride, pad, dilation)]
    batch = x[0] if len(x) > dims + 1 else 1
    return 2 * batch * _product(out) * _product(w)


def _stack(frame: FrameType | None) -> list[str]:
    """The lines of the program that the call comes from, innermost first."""
    found = []
    while frame is not None:
        code = frame.f_code
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] != "lampion" and not code.co_filename.startswith("<lampion"):
            found.append(f"{code.co_filename}({frame.f_lineno}): {code.co_name}")
        frame = frame.f_back
    return found


