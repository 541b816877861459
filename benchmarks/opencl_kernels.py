"""The OpenCL backend against PyTorch on the CPU: launches, elementwise kernels, rows, products.

    python benchmarks/opencl_kernels.py [name ...]

Both run interleaved in one process and the medians of processor time are compared, so that a busy
machine disturbs both alike; PyTorch gets one thread. Drivers: see backends/opencl/README.md.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from measure import Row, undisturbed

import lampion

N = 1024
ELEMENTWISE = ("add", "mul", "exp", "relu", "tanh", "sigmoid", "gelu", "sin", "where", "sum")
CASES: dict[str, Callable[..., Any]] = {
    "add": lambda m, x, y, w: x + y,
    "mul": lambda m, x, y, w: x * y,
    "add row": lambda m, x, y, w: x + w,
    "relu": lambda m, x, y, w: m.relu(x),
    "exp": lambda m, x, y, w: m.exp(x),
    "tanh": lambda m, x, y, w: m.tanh(x),
    "sin": lambda m, x, y, w: m.sin(x),
    "sigmoid": lambda m, x, y, w: m.sigmoid(x),
    "gelu": lambda m, x, y, w: m.nn.functional.gelu(x),
    "where": lambda m, x, y, w: m.where(x > 0, x, y),
    "to bfloat16": lambda m, x, y, w: x.to(m.bfloat16),
    "transpose": lambda m, x, y, w: x.t().contiguous(),
    "sum": lambda m, x, y, w: x.sum(),
    "sum of columns": lambda m, x, y, w: x.sum(0),
    "sum of rows": lambda m, x, y, w: x.sum(1),
    "argmax": lambda m, x, y, w: x.argmax(1),
    "softmax": lambda m, x, y, w: m.softmax(x, 1),
    "layer_norm": lambda m, x, y, w: m.nn.functional.layer_norm(x, (N,), w, w),
    "matmul": lambda m, x, y, w: x @ y,
    "matmul transposed": lambda m, x, y, w: x @ y.t(),
    "linear 64": lambda m, x, y, w: m.nn.functional.linear(x[:64], y, w),
    "add of 4": lambda m, x, y, w: w[:4] + 1.0,
}


def operands() -> tuple[list[Any], list[Any], Callable[[], None]]:
    """(our tensors, PyTorch's, wait for the device): two matrices of N x N and a row."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((N, N), (N, N), (N,))]
    ours = [lampion.from_numpy(a).to("opencl") for a in arrays]
    return ours, [torch.from_numpy(a) for a in arrays], lambda: lampion.synchronize("opencl")


def rows(names: Iterable[str]) -> list[Row]:
    """Wall time of each case, with the wait for its result, against PyTorch with its threads:
    the fastest hundredth of the calls."""
    ours, theirs, wait = operands()

    def row(name: str, fn: Callable[..., Any]) -> Row:
        def run() -> None:
            fn(lampion, *ours)
            wait()

        return undisturbed(name, run, lambda: fn(torch, *theirs))

    return [row(n, CASES[n]) for n in names]


def launches(rounds: int = 41, count: int = 500) -> str:
    """What a launch costs: an add of 4 elements, called and enqueued; then the wait included."""
    ours, _, wait = operands()
    a, b = ours[0][0, :4].clone(), ours[1][0, :4].clone()
    spent = []
    for _ in range(rounds):
        begin, busy = time.perf_counter(), time.thread_time()
        for _ in range(count):
            a + b
        enqueued, busy = time.perf_counter() - begin, time.thread_time() - busy
        wait()
        spent.append((enqueued, busy, time.perf_counter() - begin))
    call, busy, end = (statistics.median(x) / count * 1e6 for x in zip(*spent))
    return (f"add of 4 elements, median of {rounds} x {count}: call and enqueue {call:.2f} µs "
            f"({busy:.2f} µs of processor time), run to the end {end:.2f} µs\n")


def race(name: str, fn: Callable[..., Any], ours: list[Any], theirs: list[Any], sync: Any) -> float:
    """Print one line; returns how many times faster than PyTorch."""
    inner = 1000 if "of 4" in name else 3
    times: tuple[list[float], list[float]] = ([], [])
    for k in range(9):
        for t, module, args, wait in ((times[0], lampion, ours, sync),
                                      (times[1], torch, theirs, lambda: None)):
            begin = time.process_time()
            for _ in range(inner):
                fn(module, *args)
            wait()
            if k:  # the first round compiles
                t.append((time.process_time() - begin) / inner * 1e6)
    a, b = map(statistics.median, times)
    print(f"{name:20s} {a:10.1f} us   torch {b:10.1f} us   x{b / a:.2f}", flush=True)
    return b / a


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    ours, theirs, wait = operands()
    where = ours[0].device
    print(where.backend.devices()[where.index or 0])
    ratios = [race(n, f, ours, theirs, wait)
              for n, f in CASES.items() if not names or n in names]
    print(f"geometric mean x{np.exp(np.mean(np.log(ratios))):.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
