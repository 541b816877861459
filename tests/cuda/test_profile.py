"""Profiles of the CUDA device: times of kernels between events of its streams."""

from __future__ import annotations

import json

import pytest

import lampion
from lampion.profiler import profile, record_function

pytestmark = pytest.mark.usefixtures("gpu")


def test_kernels_have_the_device_times():
    x = lampion.rand(1000, device="cuda")
    (x.exp() * 2).sum().item()
    with profile(profile_memory=True) as prof:
        with record_function("work"):
            y = (x.exp() * 2).sum()
        y.item()
    work = next(e for e in prof.events() if e.name == "work")
    assert [c.name for c in work.cpu_children] == ["aten::exp", "aten::mul", "aten::sum"]
    assert all(c.kernels and c.kernels[0].duration >= 0 for c in work.cpu_children)
    kernels = prof._record.kernels
    assert len(kernels) >= 3 and all(k.marks is not None for k in kernels)
    assert all(k.end >= k.start for k in kernels)
    assert "Self CUDA" in prof.key_averages().table(sort_by="cuda_time_total")


def test_marks_tell_elapsed_time():
    backend = lampion.device("cuda").backend or lampion.plugins.backend("cuda")
    where = lampion.device("cuda")
    marks = [backend.mark(where)]
    lampion.rand(1000, device=where).exp()
    marks.append(backend.mark(where))
    times = backend.mark_times(where, marks)
    assert times[0] == 0 and times[1] >= 0


def rows_of(prof, path):
    prof.export_chrome_trace(str(path))
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    return [e for e in events if e["ph"] == "X" and e.get("cat") == "kernel"
            and names[e["pid"]].startswith("kernels of cuda")], events


def test_a_trace_has_rows_of_the_streams(tmp_path):
    x = lampion.rand(1000, device="cuda")
    side = lampion.cuda.Stream()
    with profile() as prof:
        with record_function("work"):
            y = x.exp()
            side.wait_stream(lampion.cuda.current_stream())
            with lampion.cuda.stream(side):
                z = y.sin()
            z.record_stream(lampion.cuda.current_stream())
        lampion.cuda.synchronize()
    kernels, events = rows_of(prof, tmp_path / "trace.json")
    assert len(kernels) == 2 and all(k["args"]["clock"] == "device" for k in kernels)
    assert kernels[0]["tid"] == 0 != kernels[1]["tid"]
    assert {e["args"]["name"] for e in events if e["name"] == "thread_name"
            and e["pid"] == kernels[0]["pid"]} == {"queue 0", f"queue {kernels[1]['tid']}"}
    arrows = [e for e in events if e.get("cat") == "ac2g"]
    assert len(arrows) == 4  # from each call to its kernel
    wall = next(e for e in events if e["name"] == "work")
    assert all(wall["ts"] - 1e6 < k["ts"] and k["dur"] >= 0 for k in kernels)


def test_a_profile_does_not_wait(monkeypatch):
    """No more synchronization than the program's own, from the first kernel to the last."""
    from lampion_cuda.streams import opened

    x = lampion.rand(1000, device="cuda")
    gpu = opened(None)
    waits = []

    class Counted:
        def __init__(self, drv):
            self._drv = drv

        def __getattr__(self, name):
            if name in ("cuCtxSynchronize", "cuStreamSynchronize", "cuEventSynchronize"):
                waits.append(name)
            return getattr(self._drv, name)

    f = lampion.compile(lambda t: (t.exp() * 2).sum())
    for _ in range(3):
        f(x)
    with monkeypatch.context() as patched:
        patched.setattr(gpu, "drv", Counted(gpu.drv))
        with profile() as prof:
            for _ in range(4):
                y = (x.exp() * 2).sum() + f(x)
            assert not waits
    assert waits  # at the end
    assert len(prof._record.kernels) >= 12 and y.item() > 0


def test_captures_and_replays(tmp_path):
    x = lampion.rand(1000, device="cuda")
    g = lampion.cuda.CUDAGraph()
    x.exp().sum()
    with profile() as prof:
        with lampion.cuda.graph(g):
            y = x.exp().sum()
        for _ in range(3):
            g.replay()
        y.item()
    kernels, _ = rows_of(prof, tmp_path / "trace.json")
    assert [k["name"] for k in kernels] == ["cuda.graph"] * 3
    assert all(k["args"]["clock"] == "device" for k in kernels)


def test_long_times_keep_their_digits():
    """Milliseconds in float32 tell no microseconds after some seconds."""
    import numpy as np

    from lampion_cuda.streams import times

    class At:
        def __init__(self, ns):
            self.ns = ns

        def elapsed_time(self, other):
            return float(np.float32((other.ns - self.ns) / 1e6))

    at = [0]
    for _ in range(3000):
        at += [at[-1] + 60_000_000, at[-1] + 60_005_000]
    found = times([At(n) for n in at])
    lengths = [b - a for a, b in zip(found[1::2], found[2::2])]
    assert max(abs(n - 5000) for n in lengths) < 20
    assert abs(found[-1] - at[-1]) < 1e-6 * at[-1]
