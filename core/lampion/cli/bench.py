"""Time operators on a device."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from lampion.cli import _inputs, _show

OPS = ("add", "mul", "exp", "relu", "sum", "softmax", "matmul")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion bench`."""
    parser.add_argument("ops", nargs="*", help=f"operators (default: {' '.join(OPS)})")
    parser.add_argument("--device", help="a device; left out: the default one")
    parser.add_argument("--dtype", default="float32", help="of the tensors (float32)")
    parser.add_argument("--shape", action="append", help="of every tensor; may be repeated")
    parser.add_argument("--seconds", type=float, default=0.2, help="spent on each line (0.2)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the median time of a call, and of a call with the wait for its result."""
    import lampion
    from lampion.runtime.devices import resolve

    device = resolve(args.device)
    rows = []
    for name in args.ops or OPS:
        op = _inputs.op_named(name)
        for shape in args.shape or ["2x2", "256x256", "1024x1024"]:
            words = [shape] * 3 + (["dim=-1"] if any(p.name == "dim" for p in op.params) else [])
            values, named = _inputs.call_of(op, words, args.dtype, args.device)
            times = _time(partial(op.fn, *values, **named), device, args.seconds)
            rows.append({"op": name, "shape": shape, **times})
    if args.json:
        _show.as_json({"device": str(device), "dtype": args.dtype, "rows": rows})
        return 0
    print(f"{device}, {args.dtype}, lampion {lampion.__version__}; medians in microseconds")
    table = [(r["op"], r["shape"], f"{r['call_us']:.2f}", f"{r['done_us']:.2f}") for r in rows]
    _show.table(table, ("op", "shape", "call", "call and wait"))
    return 0


def _time(call: Callable[[], Any], device: Any, seconds: float) -> dict[str, Any]:
    """Medians over rounds of several calls: of a call alone, and with the wait for the device.

    A round lasts at least 50 microseconds, so that the clock itself does not count.
    """
    clock = time.perf_counter
    for _ in range(3):  # plans, kernels and caches
        call()
    start = clock()
    call()
    wait = partial(device.backend.synchronize, device)
    wait()
    repeat = range(max(1, int(50e-6 / (clock() - start))))
    calls: list[float] = []
    waits: list[float] = []
    end = clock() + seconds
    while clock() < end or len(calls) < 5:
        start = clock()
        for _ in repeat:
            call()
        called = clock()
        wait()
        done = clock()
        calls.append((called - start) / len(repeat))
        waits.append((done - start) / len(repeat))
    middle = len(calls) // 2
    return {
        "call_us": sorted(calls)[middle] * 1e6,
        "done_us": sorted(waits)[middle] * 1e6,
        "runs": len(calls) * len(repeat),
    }
