"""Training steps of one model, timed on request.

Run: python step_model.py CASE PROGRAMS THREADS

`torch` is whatever the process has under this name. For each line with a number on standard input
that many steps are taken, and the seconds of the fastest are written: of the processor with one
thread, which other programs on the machine do not lengthen, else of the clock.
"""

from __future__ import annotations

import sys
import time

import torch
from cases import CASES, LARGE


def main(name: str, programs: str, threads: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(int(threads))
    model, inputs, loss_of, optimizer = {**CASES, **LARGE}[name](programs)
    steps = optimizer(model.parameters())
    now = time.process_time if threads == "1" else time.perf_counter
    print("ready", torch.Tensor.__module__, flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            began = now()
            steps.zero_grad()
            loss_of(model, *inputs)[1].backward()
            steps.step()
            times.append(now() - began)
        print(min(times), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
