"""Profiles have the names, columns, attributes and kinds of events of torch.profiler."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
import torch.profiler

import lampion
from lampion import profiler


def recorded(T: Any, **options: Any) -> Any:
    """A profile of a training step."""
    P = T.profiler
    net = T.nn.Sequential(T.nn.Linear(8, 4), T.nn.ReLU())
    optimizer = T.optim.SGD(net.parameters(), lr=0.1)
    x = T.ones(3, 8)
    net(x).sum().backward()
    with P.profile(activities=[P.ProfilerActivity.CPU], **options) as prof:
        with P.record_function("forward"):
            loss = net(x).sum()
        loss.backward()
        optimizer.step()
    return prof


@pytest.fixture(scope="module")
def both() -> list[Any]:
    return [recorded(T, record_shapes=True, profile_memory=True, with_flops=True)
            for T in (torch, lampion)]


def test_the_same_ops_are_seen(both):
    theirs, ours = [{e.key: e for e in p.key_averages()} for p in both]
    for name in ("forward", "aten::linear", "aten::relu", "aten::sum", "AddmmBackward0",
                 "ReluBackward0", "SumBackward0", "Optimizer.step#SGD.step"):
        assert name in theirs
        assert name in ours or name == "AddmmBackward0"  # a linear layer is one op here
        if name in ours and not name.endswith("Backward0"):
            assert ours[name].count >= 1
    assert ours["LinearBackward0"].count == theirs["AddmmBackward0"].count == 1
    linear = [{e.key: e for e in p.key_averages(group_by_input_shape=True)}["aten::linear"]
              for p in both]
    assert [s for s in linear[1].input_shapes if s] == [s for s in linear[0].input_shapes if s]


@pytest.mark.parametrize("kind", ["event", "average"])
def test_events_have_the_same_attributes(both, kind):
    def pick(prof: Any) -> Any:
        events = prof.events() if kind == "event" else prof.key_averages()
        return next(e for e in events if e.key == "aten::linear")

    theirs, ours = map(pick, both)
    legacy = re.compile(r"is_|node_|python_|external|linked|flow|structured|extra|metadata|"
                        r"overload|has_|input_dtypes|device_resource|_|event_metadata|"
                        r".*_percent$")  # the last are notes of who prints a table
    missing = [n for n in dir(theirs) if not legacy.match(n) and not hasattr(ours, n)
               and n not in ("append_cpu_child", "append_kernel", "set_cpu_parent", "use_device",
                             "kwinputs")]
    assert not missing


def test_tables_have_the_same_columns(both):
    def columns(prof: Any) -> list[str]:
        table = prof.key_averages(group_by_input_shape=True).table(sort_by="cpu_time_total")
        return re.split(r"\s{2,}", table.splitlines()[1].strip())

    theirs, ours = map(columns, both)
    assert [re.sub("[KMGT]FLOPs", "FLOPs", c) for c in ours] == [
        re.sub("[KMGT]FLOPs", "FLOPs", c) for c in theirs]


def test_traces_have_the_same_kinds(both, tmp_path):
    kinds = []
    for k, prof in enumerate(both):
        path = tmp_path / f"{k}.json"
        prof.export_chrome_trace(str(path))
        trace = json.loads(path.read_text())
        kinds.append(({(e["ph"], e.get("cat")) for e in trace["traceEvents"]},
                      set(trace)))
    theirs, ours = kinds
    assert {k for k in theirs[0] if k[1] not in ("Trace", None)} <= ours[0]
    assert theirs[1] - {"with_modules", "distributedInfo"} <= ours[1]


@pytest.mark.filterwarnings("ignore:Profiler won't be using warmup")
@pytest.mark.parametrize("plan", [
    {"wait": 1, "warmup": 1, "active": 2}, {"wait": 0, "warmup": 0, "active": 1, "repeat": 3},
    {"wait": 2, "warmup": 1, "active": 3, "repeat": 2, "skip_first": 4},
    {"wait": 2, "warmup": 1, "active": 1, "skip_first": 2, "skip_first_wait": 1}], ids=str)
def test_schedules_agree(plan):
    theirs, ours = torch.profiler.schedule(**plan), profiler.schedule(**plan)
    assert [ours(k).name for k in range(30)] == [theirs(k).name for k in range(30)]


@pytest.mark.parametrize("plan", [{"wait": 1, "warmup": 1, "active": 2, "repeat": 2},
                                  {"wait": 0, "warmup": 1, "active": 1}], ids=str)
def test_cycles_agree(plan):
    found = []
    for P in (torch.profiler, profiler):
        seen: list[Any] = []
        with P.profile(activities=[P.ProfilerActivity.CPU], schedule=P.schedule(**plan),
                       on_trace_ready=lambda p, seen=seen: seen.append(
                           (p.step_num, sorted(e.key for e in p.key_averages()
                                               if e.key.startswith("ProfilerStep"))))) as prof:
            for _ in range(7):
                prof.step()
        found.append(seen)
    assert found[0] == found[1]
