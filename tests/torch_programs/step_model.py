"""Training steps of one model, timed on request.

Run: python step_model.py CASE PROGRAMS THREADS

`torch` is whatever the process has under this name. For each line with a number on standard input
that many steps are taken, and the seconds of the fastest are written.
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
    print("ready", torch.Tensor.__module__, flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            began = time.perf_counter()
            steps.zero_grad()
            loss_of(model, *inputs)[1].backward()
            steps.step()
            times.append(time.perf_counter() - began)
        print(min(times), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
