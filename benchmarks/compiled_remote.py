"""What the peers that train in processes of their own have in common: `compiled_jax.py` and
`compiled_tinygrad.py`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from compiled_models import CNN, GPT, MLP


def shapes_of(case: type) -> dict[str, tuple[int, ...]]:
    """The parameters of a case by name, as PyTorch has them."""
    if case is MLP:
        return {"0.weight": (256, 784), "0.bias": (256,), "2.weight": (10, 256), "2.bias": (10,)}
    if case is CNN:
        out: dict[str, tuple[int, ...]] = {}
        for name, shape in (("0", (16, 1, 5, 5)), ("3", (32, 16, 5, 5)), ("7", (120, 800)),
                            ("9", (84, 120)), ("11", (10, 84))):
            out |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return out
    c = GPT.width
    out = {"tok.weight": (GPT.vocab, c), "pos.weight": (GPT.length, c), "norm.weight": (c,),
           "norm.bias": (c,), "head.weight": (GPT.vocab, c)}
    for k in range(GPT.layers):
        for name, shape in (("n1", (c,)), ("n2", (c,)), ("qkv", (3 * c, c)), ("out", (c, c)),
                            ("up", (4 * c, c)), ("down", (c, 4 * c))):
            out |= {f"blocks.{k}.{name}.weight": shape, f"blocks.{k}.{name}.bias": shape[:1]}
    return out


def serve(run: Callable[[], Any]) -> None:
    """Print a line of JSON, the losses of the first steps and the seconds until the second was
    done; then for every line with a number run that many steps and print the seconds they took, and
    of processor time."""
    start = time.perf_counter()
    losses = [float(run()), float(run())]
    first = time.perf_counter() - start
    losses.append(float(run()))
    print(json.dumps({"losses": losses, "first": first}), flush=True)
    for line in sys.stdin:
        wall, used = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            run()
        print(time.perf_counter() - wall, time.process_time() - used, flush=True)
