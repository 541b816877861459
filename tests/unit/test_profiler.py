"""lampion.profiler: what is recorded, how it nests, what it costs when nothing is."""

from __future__ import annotations

import gzip
import json
import sys
import threading
import time
from typing import Any

import pytest

import lampion as torch
from lampion import nn, watching
from lampion.autograd import engine
from lampion.autograd import profiler as older
from lampion.ops import plans, registry
from lampion.profiler import (
    ProfilerAction,
    ProfilerActivity,
    labels,
    profile,
    record_function,
    schedule,
    supported_activities,
    tensorboard_trace_handler,
)
from lampion.profiler.recording import Recorder
from lampion.profiler.table import memory_text, time_text

F = torch.nn.functional
CPU = [ProfilerActivity.CPU]


@pytest.fixture
def step():
    """One training step of a small model; its kernels are compiled before."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.randn(5, 8), torch.zeros(5, dtype=torch.int64)

    def run():
        with record_function("forward"):
            loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    run()
    return run


def tree(events: Any) -> list[tuple[int, str]]:
    """(depth, name) of events."""
    def depth(e: Any) -> int:
        return 0 if e.cpu_parent is None else 1 + depth(e.cpu_parent)

    return [(depth(e), e.name) for e in events]


def test_ops_are_inside_stretches(step):
    with profile(activities=CPU) as prof:
        step()
    names = tree(prof.events())
    assert names[:2] == [(0, "forward"), (1, "aten::linear")]
    assert (1, "aten::cross_entropy") in names and (1, "aten::relu") in names
    assert (1, "LinearBackward0") in names and (0, "Optimizer.step#SGD.step") in names
    for e in prof.events():
        assert e.time_range.end >= e.time_range.start
        for child in e.cpu_children:
            assert e.time_range.start <= child.time_range.start
            assert child.time_range.end <= e.time_range.end
        assert e.self_cpu_time_total >= -1e-6
    total = prof.key_averages().total_average()
    assert total.self_cpu_time_total == pytest.approx(
        sum(e.cpu_time_total for e in prof.events() if e.cpu_parent is None))


def test_results_are_those_without_a_profile(step):
    torch.manual_seed(3)
    x = torch.randn(4, requires_grad=True)
    def run():
        x.grad = None
        y = (x * 2).sin().cumsum(0)
        y += 1
        y.square().sum().backward()
        return y.detach().clone(), x.grad.clone(), torch.zeros(2).add_(3), torch.ones(2)[0]

    want = run()
    with profile():
        got = run()
    again = run()
    for a, b, c in zip(want, got, again):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_errors_do_not_name_a_line_that_is_not_the_programs():
    x = torch.ones(2, requires_grad=True)
    with profile():
        y = x.exp()
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace") as error:
        y.sum().backward()
    assert "recording.py" not in str(error.value) and "watching.py" not in str(error.value)
    assert "mul_" in str(error.value)


def test_nothing_is_left_behind(step):
    functions = [F.relu, F.cross_entropy, torch.add, torch.Tensor.add, torch.Tensor.__add__]
    codes = [f.__code__ for f in functions]
    launchers = {id(p): p.launch for op in registry.planned_ops()
                 for table in registry.plan_tables(op) for p in table.values()
                 if hasattr(p, "launch")}
    watchers = list(watching.watchers)
    with pytest.raises(ZeroDivisionError):
        with profile(with_stack=True, with_modules=True):
            step()
            assert watchers or any(f.__code__ is not c for f, c in zip(functions, codes))
            assert engine.watchers and plans.on_plan and labels.recorders
            1 / 0
    assert all(f.__code__ is c for f, c in zip(functions, codes))
    assert not engine.watchers and not plans.on_plan and not labels.recorders
    assert watching.watchers == watchers
    left = [p for op in registry.planned_ops() for table in registry.plan_tables(op)
            for p in table.values() if getattr(p, "launch", None) is not None
            and "timed" in getattr(p.launch, "__qualname__", "")]
    assert not left
    for op in registry.planned_ops():
        for table in registry.plan_tables(op):
            for p in table.values():
                if id(p) in launchers:
                    assert p.launch is launchers[id(p)]
    step()


def test_an_idle_label_does_nothing():
    label = record_function("x")
    with label:
        assert not label._open
    calls = []

    @record_function("named")
    def fn(n):
        calls.append(n)
        return fn(n - 1) if n else 0

    assert fn(2) == 0 and calls == [2, 1, 0] and fn.__name__ == "fn"
    with profile(activities=CPU) as prof:
        fn(1)
    assert tree(prof.events()) == [(0, "named"), (1, "named")]


def test_kernels_of_the_host(step):
    with profile(activities=CPU) as prof:
        step()
    kernels = prof._record.kernels
    names = " ".join(k.name for k in kernels)
    assert "cross_entropy" in names and "optim_sgd" in names and "relu" in names
    for k in kernels:
        assert k.start <= k.end and str(k.device) == "cpu"
        if k.event is not None:
            assert k.event.start <= k.start and k.end <= k.event.end
    assert prof.events()._use_device is None  # the host's kernels are the host's time


def test_forward_and_backward_are_linked(step, tmp_path):
    with profile(activities=CPU) as prof:
        step()
    by_number: dict[int, list[Any]] = {}
    for e in prof.events():
        if e.sequence_nr >= 0:
            by_number.setdefault(e.sequence_nr, []).append(e)
    linked = {tuple(e.name for e in pair) for pair in by_number.values() if len(pair) == 2}
    assert ("aten::linear", "LinearBackward0") in linked
    assert ("aten::relu", "ReluBackward0") in linked
    prof.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    starts = {e["id"]: e for e in events if e["ph"] == "s" and e["cat"] == "fwdbwd"}
    ends = {e["id"]: e for e in events if e["ph"] == "f" and e["cat"] == "fwdbwd"}
    assert starts.keys() == ends.keys() and len(starts) >= 3
    assert all(starts[k]["ts"] < ends[k]["ts"] for k in starts)


def test_trace_file(step, tmp_path):
    with profile(activities=CPU, record_shapes=True, profile_memory=True, with_stack=True) as prof:
        step()
        other = threading.Thread(target=lambda: torch.ones(3).exp())
        other.start()
        other.join()
    prof.add_metadata("note", "text")
    prof.add_metadata_json("numbers", "[1, 2]")
    path = str(tmp_path / "trace.json.gz")
    prof.export_chrome_trace(path)
    with gzip.open(path, "rt") as file:
        trace = json.load(file)
    assert trace["note"] == "text" and trace["numbers"] == [1, 2] and trace["schemaVersion"] == 1
    events = trace["traceEvents"]
    ops = [e for e in events if e.get("cat") == "cpu_op"]
    linear = next(e for e in ops if e["name"] == "aten::linear")
    assert linear["args"]["Input Dims"][:2] == [[5, 8], [16, 8]]
    assert linear["args"]["Input type"][0] == "float" and linear["ph"] == "X"
    assert "test_profiler.py" in linear["args"]["Call stack"]
    assert len({e["tid"] for e in ops}) == 2
    assert any(e["name"].startswith("nn.Module: Linear_") for e in events)
    assert {e["cat"] for e in events if "cat" in e} >= {
        "cpu_op", "user_annotation", "python_function", "kernel", "fwdbwd", "cpu_instant_event"}
    counters = [e for e in events if e["ph"] == "C"]
    assert counters and all(e["args"]["allocated"] >= 0 for e in counters)
    for e in events:
        assert e["ts"] >= 0 and e.get("dur", 0) >= 0 and {"ph", "name", "pid", "tid"} <= e.keys()


def test_memory():
    torch.zeros(1000)
    with profile(activities=CPU, profile_memory=True) as prof:
        with record_function("kept"):
            kept = torch.zeros(100_000)
        with record_function("freed"):
            torch.zeros(100_000)
    events = {e.name: e for e in prof.events()}
    assert events["kept"].cpu_memory_usage >= kept.nbytes
    assert events["freed"].cpu_memory_usage == 0
    assert events["freed"].self_cpu_memory_usage < 0 < events["freed"].cpu_children[
        0].cpu_memory_usage
    averages = {e.key: e for e in prof.key_averages()}
    assert averages["aten::zeros"].cpu_memory_usage >= 2 * kept.nbytes
    assert "CPU Mem" in prof.key_averages().table()


def test_memory_over_time(tmp_path):
    path = tmp_path / "memory.json"
    with profile(activities=CPU, profile_memory=True) as prof:
        x = torch.zeros(50_000)
        del x
        torch.zeros(1)
    prof.export_memory_timeline(str(path))
    times, sizes = json.loads(path.read_text())
    assert times == sorted(times) and max(sizes) - min(sizes) >= 200_000
    with pytest.raises(ValueError, match="json"):
        prof.export_memory_timeline("x.html")
    with profile(activities=CPU) as prof:
        torch.zeros(1)
    with pytest.raises(RuntimeError, match="profile_memory"):
        prof.export_memory_timeline(str(path))


def test_tables(step):
    with profile(activities=CPU, record_shapes=True, with_flops=True) as prof:
        step()
        step()
    averages = prof.key_averages()
    linear = next(e for e in averages if e.key == "aten::linear")
    assert linear.count == 4 and linear.cpu_time == pytest.approx(linear.cpu_time_total / 4)
    assert linear.flops == 2 * (2 * 5 * 8 * 16 + 2 * 5 * 16 * 4)
    shaped = [e for e in prof.key_averages(group_by_input_shape=True)
              if e.key == "aten::linear"]
    assert sorted(e.flops for e in shaped) == [2 * 2 * 5 * 16 * 4, 2 * 2 * 5 * 8 * 16]
    text = averages.table(sort_by="cpu_time_total", row_limit=3)
    lines = [line.split() for line in text.splitlines() if line and line[0] != "-"]
    assert lines[0][0] == "Name" and "FLOPs" in text and len(lines) == 5
    assert "forward" in averages.table()
    assert text.rstrip().splitlines()[-1].startswith("Self CPU time total")
    order = sorted(averages, key=lambda e: -e.self_cpu_time_total)
    first = averages.table(sort_by="self_cpu_time_total").splitlines()[3].split()[0]
    assert order[0].key.split()[0] == first
    with pytest.raises(ValueError, match="cannot sort by"):
        averages.table(sort_by="nothing")
    assert "my header" in averages.table(header="my header")
    assert averages.table(time_unit="s").count("s  ") > 5
    assert time_text(1.5e6) == "1.500s" and memory_text(3 << 20) == "3.00 MB"


def test_flops_of_convolutions_and_products():
    x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    a, b = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    with profile(activities=CPU, with_flops=True) as prof:
        F.conv2d(x, w, stride=2, padding=1)
        torch.bmm(a, b)
        torch.mm(a[0], b[0])
        a + a
    flops = {e.key: e.flops for e in prof.key_averages()}
    assert flops["aten::conv2d"] == 2 * 2 * (4 * 4) * (4 * 3 * 3 * 3)
    assert flops["aten::bmm"] == 2 * 2 * 3 * 4 * 5 and flops["aten::mm"] == 2 * 3 * 4 * 5
    assert flops["aten::add"] == 24


def test_schedule():
    plan = schedule(skip_first=1, wait=1, warmup=1, active=2, repeat=2)
    A = ProfilerAction
    cycle = [A.NONE, A.WARMUP, A.RECORD, A.RECORD_AND_SAVE]
    assert [plan(k) for k in range(11)] == [A.NONE, *cycle, *cycle, A.NONE, A.NONE]
    early = schedule(wait=2, warmup=1, active=1, skip_first=1, skip_first_wait=1)
    assert [early(k) for k in range(4)] == [A.NONE, A.WARMUP, A.RECORD_AND_SAVE, A.NONE]
    with pytest.raises(ValueError):
        schedule(wait=0, warmup=1, active=0)
    with pytest.warns(UserWarning, match="warmup"):
        schedule(wait=0, warmup=0, active=1)
    with pytest.raises(ValueError):
        plan(-1)


def test_steps_and_traces(tmp_path):
    traces = []

    def ready(prof):
        steps = [e for e in prof.events() if e.key == "ProfilerStep*"]
        traces.append([e.trace_name for e in steps])

    with profile(activities=CPU, on_trace_ready=ready,
                 schedule=schedule(wait=1, warmup=1, active=2, repeat=2)) as prof:
        for _ in range(10):
            torch.ones(2).exp()
            prof.step()
    assert traces == [["ProfilerStep#2", "ProfilerStep#3"], ["ProfilerStep#6", "ProfilerStep#7"]]
    assert prof.step_num == 10
    write = tensorboard_trace_handler(str(tmp_path / "logs"), worker_name="w", use_gzip=True)
    with profile(activities=CPU, on_trace_ready=write):
        torch.ones(2)
    written = [p.name for p in (tmp_path / "logs").iterdir()]
    assert len(written) == 1 and written[0].startswith("w.") and written[0].endswith(
        ".pt.trace.json.gz")


def test_accumulated_cycles():
    for kept, count in ((True, 3), (False, 1)):
        with profile(activities=CPU, acc_events=kept,
                     schedule=schedule(wait=0, warmup=1, active=1, repeat=3)) as prof:
            for _ in range(6):
                torch.ones(2)
                prof.step()
        assert sum(e.name == "aten::ones" for e in prof.events()) == count


def test_stop_in_the_middle_of_a_cycle():
    seen = []
    prof = profile(activities=CPU, on_trace_ready=lambda p: seen.append(len(p.events())),
                   schedule=schedule(wait=0, warmup=1, active=5))
    prof.start()
    prof.step()
    torch.ones(2).exp()
    prof.stop()
    assert len(seen) == 1 and seen[0] >= 2
    with pytest.raises(RuntimeError, match="not recorded anything"):
        profile(activities=CPU).events()
    with profile(activities=CPU):
        with pytest.raises(RuntimeError, match="running already"):
            profile(activities=CPU).start()


def test_stacks(tmp_path):
    def inner(x):
        return x.exp()

    with profile(activities=CPU, with_stack=True) as prof:
        inner(torch.ones(1000))
    exp = next(e for e in prof.events() if e.name == "aten::exp")
    assert "inner" in exp.stack[0] and "test_stacks" in exp.stack[1]
    path = tmp_path / "stacks.txt"
    prof.export_stacks(str(path), "self_cpu_time_total")
    line = next(line for line in path.read_text().splitlines() if "inner" in line)
    frames, weight = line.rsplit(" ", 1)
    assert frames.split(";")[-1].endswith("inner") and int(weight) > 0
    with pytest.raises(ValueError, match="metric"):
        prof.export_stacks(str(path), "count")
    grouped = prof.key_averages(group_by_stack_n=1)
    assert next(e for e in grouped if e.key == "aten::exp").stack == exp.stack[:1]


class Marks:
    """A device's clock, which runs by a fixed amount from mark to mark."""

    def __init__(self) -> None:
        self.count = 0

    def mark(self, where: Any) -> int:
        self.count += 1
        return self.count

    def mark_times(self, where: Any, marks: Any) -> list[int]:
        return [1000 * (m - marks[0]) for m in marks]


def test_times_of_a_device_that_has_marks(monkeypatch, tmp_path):
    backend, marks = plans.backend_of(torch.device("cpu")), Marks()
    torch.ones(3).exp()
    monkeypatch.setattr(backend, "mark", marks.mark, raising=False)
    monkeypatch.setattr(backend, "mark_times", marks.mark_times, raising=False)
    with profile(activities=CPU) as prof:
        torch.ones(3).exp()
    kernels = prof._record.kernels
    assert [k.end - k.start for k in kernels] == [1000] * len(kernels) and len(kernels) == 2
    assert kernels[1].start - kernels[0].start == 2000
    prof.export_chrome_trace(str(tmp_path / "t.json"))
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert {e["args"]["clock"] for e in events if e.get("cat") == "kernel"} == {"device"}


def test_a_device_without_marks_is_waited_for(monkeypatch):
    backend = plans.backend_of(torch.device("cpu"))
    torch.ones(3).exp()
    waits = []
    monkeypatch.setattr(backend, "synchronize", lambda d: waits.append(time.perf_counter_ns()),
                        raising=False)
    with profile(activities=CPU) as prof:
        torch.ones(3).exp()
    inside = [k for k in prof._record.kernels if any(k.start <= w <= k.end for w in waits)]
    assert len(inside) == len(prof._record.kernels) == 2


def test_activities():
    assert ProfilerActivity.CPU in supported_activities()
    assert ProfilerActivity.CPU is ProfilerActivity.CPU
    with pytest.raises(AttributeError, match="activities are"):
        ProfilerActivity.NOTHING
    with pytest.raises(TypeError, match="ProfilerActivity"):
        profile(activities=["cpu"])
    with pytest.raises(TypeError, match="unexpected"):
        profile(nothing=1)
    others = [a for a in supported_activities() if a is not ProfilerActivity.CPU]
    with profile(activities=[ProfilerActivity.PrivateUse1, *others]) as prof:
        torch.ones(2).exp()
    assert not prof.events()  # nothing of the host was asked for


def test_pausing():
    with profile(activities=CPU) as prof:
        torch.ones(2).exp()
        prof.toggle_collection_dynamic(False, CPU)
        torch.ones(2).sin()
        prof.toggle_collection_dynamic(True, CPU)
        torch.ones(2).cos()
    names = [e.name for e in prof.events()]
    assert "aten::exp" in names and "aten::cos" in names and "aten::sin" not in names


def test_older_names():
    with older.profile(record_shapes=True, use_device=None) as prof:
        with older.record_function("part"):
            torch.ones(2).exp()
    assert [e.name for e in prof.function_events] == ["part", "aten::ones", "aten::exp"]
    assert "aten::exp" in prof.key_averages().table() and "aten::exp" in str(prof)
    assert prof.self_cpu_time_total > 0 and prof.total_average().count == 3
    with older.profile(enabled=False) as off:
        torch.ones(2)
    assert off is None
    with older.emit_nvtx(enabled=False):
        torch.ones(1)
    tracker = older.KinetoStepTracker
    tracker.init_step_count("a")
    assert tracker.increment_step("a") == tracker.current_step()
    assert tracker.erase_step_count("a") and not tracker.erase_step_count("a")


def test_ranges_of_other_tools(monkeypatch):
    class Tool:
        open: list[str] = []
        seen: list[str] = []

        @classmethod
        def push_range(cls, name):
            cls.open.append(name)
            cls.seen.append(name)

        @classmethod
        def pop_range(cls):
            cls.open.pop()

    Tool.task_begin, Tool.task_end = Tool.push_range, Tool.pop_range
    for make, package in ((older.emit_nvtx, "nvtx"), (older.emit_itt, "ittapi")):
        Tool.seen.clear()
        monkeypatch.setitem(sys.modules, package, Tool)
        with make():
            F.softsign(torch.ones(2))
        assert "softsign" in Tool.seen and not Tool.open
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(RuntimeError, match=f"pip install {package}"):
            make().__enter__()


def test_replayed_composites_and_copies_are_seen():
    x = torch.randn(4, 6)
    for _ in range(3):
        F.softmin(x, 1)
    with profile(activities=CPU) as prof:
        for _ in range(3):
            F.softmin(x, 1)
    assert sum(e.name == "aten::softmin" for e in prof.events()) == 3
    assert len(prof._record.kernels) >= 6  # also those that the third call replays
    assert all(k.event is not None for k in prof._record.kernels)


def test_compiled_graphs_are_one_op_and_one_kernel():
    def fn(x):
        return (x.exp() * 2 + 1).sum()

    x = torch.randn(100)
    compiled = torch.compile(fn)
    want = compiled(x)
    with profile(activities=CPU) as prof:
        got = compiled(x)
        new = torch.compile(lambda x: (x.sin() + x).sum())
        first, second = new(x), new(x)
    names = [e.name for e in prof.events()]
    assert torch.equal(got, want) and torch.equal(first, second)
    assert names[0].startswith("lampion::compiled(") and names[-1].startswith("lampion::compiled(")
    assert torch.equal(new(x), second) and torch.equal(compiled(x), want)
    assert prof._record.kernels[0].event.name == names[0]
    assert all(p.run.__code__.co_filename.startswith("<lampion graph") for p in plans.graphs)


def test_recorders_can_be_used_alone():
    recorder = Recorder()
    recorder.start()
    torch.ones(2)
    recorder.stop()
    recorder.stop()
    assert [e.name for e in recorder.events] == ["aten::ones"] and recorder.ended > recorder.began
