"""Run one model for three steps and write down what it computes.

Run: python trace_model.py CASE PROGRAMS OUT.npz [START.npz]

`torch` is whatever the process has under this name: PyTorch, or lampion under `lampion run`. The
first run writes its start weights and inputs; the second takes them from START.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from cases import CASES


def main(name: str, programs: str, out: str, start: str = "") -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, inputs, loss_of, optimizer = CASES[name](programs)
    found = {f"input.{k}": v for k, v in enumerate(inputs)}
    found |= {f"start.{k}": v.detach().clone() for k, v in model.state_dict().items()}
    if start:
        given = np.load(start)
        inputs = [torch.from_numpy(given[f"input.{k}"].copy()) for k in range(len(inputs))]
        model.load_state_dict({k: torch.from_numpy(given[f"start.{k}"].copy())
                               for k in model.state_dict()})
        found = {}
    steps = optimizer(model.parameters())
    for step in range(4):
        logits, loss = loss_of(model, *inputs)
        found[f"loss.{step}"] = loss.detach()
        if step == 0:
            found["logits"] = logits.detach()
        if step == 3:
            break
        steps.zero_grad()
        loss.backward()
        if step == 0:
            found |= {f"grad.{k}": p.grad.clone() for k, p in model.named_parameters()
                      if p.grad is not None}
        steps.step()
    found |= {f"end.{k}": v.detach() for k, v in model.named_parameters()}
    times = []
    for _ in range(5):
        began = time.perf_counter()
        steps.zero_grad()
        loss_of(model, *inputs)[1].backward()
        steps.step()
        times.append(time.perf_counter() - began)
    whose = np.array(torch.nn.Module.__module__)
    np.savez(out, step_time=np.array(min(times)), whose=whose,
             **{k: v.detach().numpy() for k, v in found.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
