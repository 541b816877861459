"""Profiles of the OpenCL device: its own times of kernels, where the setting asks for them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("pyopencl")

SCRIPT = """
import json, sys, time
import lampion as torch
from lampion.profiler import profile, record_function

x = torch.rand(200_000, device="opencl")
(x * 2 + 1).sum().item()                         # compiled before the profile
with profile(profile_memory=True) as prof:
    began = time.perf_counter()
    with record_function("work"):
        y = (x.exp() * 2).sum()
    value = y.item()
    took = 1e6 * (time.perf_counter() - began)
prof.export_chrome_trace(sys.argv[1])
table = prof.key_averages().table(sort_by="opencl_time_total")
assert "Self OPENCL" in table and "OPENCL Mem" in table, table
work = next(e for e in prof.events() if e.name == "work")
assert 0 < work.device_time_total <= took, (work.device_time_total, took)
assert [e.name for e in work.cpu_children] == ["aten::exp", "aten::mul", "aten::sum"]
assert all(e.kernels for e in work.cpu_children)
assert abs(value - float((x.cpu().exp() * 2).sum())) < 1e-3 * abs(value)
"""


@pytest.mark.parametrize("profiling", ["0", "1"])
def test_kernels_are_on_the_device_row(profiling, tmp_path):
    import os

    probe = "import lampion; lampion.plugins.devices('opencl')"
    env = {**os.environ, "LAMPION_OPENCL_PROFILING": profiling}
    if subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True).returncode:
        pytest.skip("there is no OpenCL device")
    path = tmp_path / "trace.json"
    subprocess.run([sys.executable, "-c", SCRIPT, str(path)], env=env, check=True, timeout=200)
    trace = json.loads(path.read_text())
    kernels = [e for e in trace["traceEvents"] if e.get("cat") == "kernel"]
    assert len(kernels) >= 3 and {e["args"]["device"] for e in kernels} == {"opencl"}
    assert {e["args"]["clock"] for e in kernels} == {"device" if profiling == "1" else "host"}
    rows = {e["args"]["name"]: e["pid"] for e in trace["traceEvents"]
            if e["name"] == "process_name"}
    assert {e["pid"] for e in kernels} == {rows["kernels of opencl"]}
    ends = [(e["ts"], e["ts"] + e["dur"]) for e in kernels]
    assert ends == sorted(ends) and all(a <= b for a, b in ends)
    stretch = next(e for e in trace["traceEvents"] if e["name"] == "work")
    assert kernels[0]["ts"] > stretch["ts"] - 2000  # the clocks agree within 2 ms
    assert any(e["ph"] == "C" and e["name"] == "Memory of opencl" for e in trace["traceEvents"])
