"""`lampion.profiler`: where a program's time and memory go.

    from lampion.profiler import ProfilerActivity, profile, record_function

    with profile(profile_memory=True) as prof:
        with record_function("forward"):
            loss = model(x).sum()
        loss.backward()
    print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=10))
    prof.export_chrome_trace("trace.json")

A program that is not being recorded pays nothing. Floor 7; imports its modules when one of their
names is first used: libraries that only label their code import nothing else.
"""

from __future__ import annotations

from typing import Any

from ..late import late
from .labels import record_function

_PLACES = {**dict.fromkeys(("profile", "schedule", "ProfilerAction", "ProfilerActivity",
                            "supported_activities", "tensorboard_trace_handler",
                            "kineto_available", "ExecutionTraceObserver"), "profiler"),
           "DeviceType": "events"}

__all__ = ["record_function", *_PLACES]

__getattr__, __dir__ = late(__name__, _PLACES)
