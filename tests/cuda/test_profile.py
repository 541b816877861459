"""Profiles of the CUDA device: times of kernels between events of its streams."""

from __future__ import annotations

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
