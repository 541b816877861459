"""Writing a recording as Chrome/Perfetto JSON, and memory over time.

Floor 7; imports recording. The format: https://docs.google.com/document/d/
1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. The process of the program has a row for every thread:
ops inside named stretches, Python calls, backward nodes with arrows from the forward ops that they
belong to. Every device is a process of its own, whose rows hold its kernels, with arrows from the
launches. Allocated memory is a counter of the device.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
from typing import Any

from .recording import Recorder


def write_trace(record: Recorder | None, path: str | os.PathLike[str],
                metadata: dict[str, Any] | None = None) -> None:
    """Write a recording; compressed if the name ends in .gz. RuntimeError without a recording."""
    if record is None:
        raise RuntimeError("there is no trace to export: the profile has not recorded anything")
    opener: Any = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        json.dump(trace_of(record, metadata), file, default=str)


def trace_of(record: Recorder, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON of a recording."""
    rows = {"cpu": 1}
    for where in dict.fromkeys(str(k.device) for k in record.kernels):
        rows.setdefault(where, len(rows) + 1)
    written = [*_heads(record, rows), *_host(record), *_links(record), *_kernels(record, rows),
               *_memory(record, rows)]
    return {"schemaVersion": 1, "deviceProperties": [
                {"id": n, "name": name} for name, n in rows.items()],
            "record_shapes": int(record.shapes), "profile_memory": int(record.memory),
            "with_stack": int(record.stack), "with_flops": int(record.flops),
            "host_name": socket.gethostname(), "displayTimeUnit": "ms",
            "baseTimeNanoseconds": record.wall, **(metadata or {}), "traceEvents": written,
            "traceName": "lampion"}


def _us(record: Recorder, t: int) -> float:
    return (t - record.began) / 1000


def _heads(record: Recorder, rows: dict[str, int]) -> list[dict[str, Any]]:
    """Names and order of processes and threads."""
    pid = os.getpid()
    threads = dict.fromkeys(e.thread for e in record.events)
    found = [_head("process_name", pid, 0, name="python"),
             _head("process_sort_index", pid, 0, sort_index=pid)]
    for thread in threads:
        main = "python main thread" if thread == pid else f"python thread {thread}"
        found.append(_head("thread_name", pid, thread, name=main))
    for name, row in rows.items():
        found += [_head("process_name", row, 0, name=f"kernels of {name}"),
                  _head("process_sort_index", row, 0, sort_index=pid + row)]
        queues = sorted({k.row for k in record.kernels if str(k.device) == name})
        if queues != [0]:
            found += [_head("thread_name", row, q, name=f"queue {q}") for q in queues]
    return found


def _head(what: str, pid: int, tid: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "ts": 0, "args": args}


def _host(record: Recorder) -> list[dict[str, Any]]:
    """Ops, stretches and Python calls."""
    found = []
    for e in record.events:
        args: dict[str, Any] = {"External id": e.id}
        if e.sequence >= 0:
            args["Sequence number"] = e.sequence
        if e.forward_thread:
            args["Fwd thread id"] = e.forward_thread
        if e.shapes:
            args |= {"Input Dims": e.shapes, "Input Strides": e.strides, "Input type": e.dtypes,
                     "Concrete Inputs": e.inputs}
        if e.flops:
            args["Flops"] = e.flops
        if e.stack:
            args["Call stack"] = ";".join(e.stack)
        found.append({"ph": "X", "cat": e.kind, "name": e.name, "pid": os.getpid(),
                      "tid": e.thread, "ts": _us(record, e.start),
                      "dur": max(e.end - e.start, 0) / 1000, "args": args})
    return found


def _links(record: Recorder) -> list[dict[str, Any]]:
    """Arrows from forward ops to their backward nodes."""
    forward = {e.sequence: e for e in record.events if e.sequence >= 0 and not e.forward_thread}
    found = []
    for e in record.events:
        if e.forward_thread and e.sequence in forward:
            source = forward[e.sequence]
            common = {"cat": "fwdbwd", "name": "fwdbwd", "id": e.sequence + 1,
                      "pid": os.getpid()}
            found += [{**common, "ph": "s", "tid": source.thread, "ts": _us(record, source.start)},
                      {**common, "ph": "f", "tid": e.thread, "ts": _us(record, e.start),
                       "bp": "e"}]
    return found


def _kernels(record: Recorder, rows: dict[str, int]) -> list[dict[str, Any]]:
    """What ran on the devices, and arrows to it from where it was launched."""
    found: list[dict[str, Any]] = []
    for k, kernel in enumerate(record.kernels, 1):
        pid = rows[str(kernel.device)]
        start = _us(record, kernel.start)
        args = {"device": str(kernel.device), "correlation": k,
                "External id": kernel.event.id if kernel.event is not None else 0,
                "clock": "host" if kernel.marks is None else "device"}
        found.append({"ph": "X", "cat": "kernel", "name": kernel.name, "pid": pid,
                      "tid": kernel.row, "ts": start, "dur": (kernel.end - kernel.start) / 1000,
                      "args": args})
        if kernel.device.type != "cpu":
            common = {"cat": "ac2g", "name": "ac2g", "id": k}
            found += [{**common, "ph": "s", "pid": os.getpid(), "tid": kernel.thread,
                       "ts": _us(record, kernel.asked)},
                      {**common, "ph": "f", "pid": pid, "tid": kernel.row, "ts": start, "bp": "e"}]
    return found


def _memory(record: Recorder, rows: dict[str, int]) -> list[dict[str, Any]]:
    """Counters of allocated bytes, and an instant for every change."""
    found: list[dict[str, Any]] = []
    for at, name, change, total, thread in record.usage:
        ts, index = _us(record, at), int(name.partition(":")[2] or 0)
        found.append({"ph": "C", "name": f"Memory of {name}", "pid": rows.get(name, 1), "tid": 0,
                      "ts": ts, "args": {"allocated": total}})
        if change:
            found.append({"ph": "i", "s": "t", "cat": "cpu_instant_event", "name": "[memory]",
                          "pid": os.getpid(), "tid": thread, "ts": ts,
                          "args": {"Total Allocated": total, "Bytes": change,
                                   "Device Type": 0 if name == "cpu" else 20,
                                   "Device Id": -1 if name == "cpu" else index}})
    return found


def write_memory(record: Recorder | None, path: str, device: str) -> None:
    """Write [[times in us], [bytes allocated]] of a device; compressed if the name ends in .gz.

    RuntimeError if the memory was not recorded.
    """
    if record is None or not record.memory:
        raise RuntimeError("the profile was not told to record memory: profile_memory=True")
    points = [(_us(record, at), total) for at, name, _, total, _ in record.usage if name == device]
    opener: Any = gzip.open if path.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        json.dump([[t for t, _ in points], [n for _, n in points]], file)
