"""scaled_dot_product_attention on a GPU, forward and backward, beside PyTorch's.

Run: python benchmarks/gpu_attention.py [--device cuda] [--tiny]

Batch 4, 16 heads, bfloat16. TFLOP/s count 4 B H L L D for the forward pass and 2.5 times that for
the backward, halves where causal. A small case is checked against float64 first; kernels are
compiled ahead, several at a time. `ratio` is PyTorch's time by lampion's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np


def rival() -> Any:
    """PyTorch, if it is here and has a GPU."""
    try:
        import torch

        return torch if torch.cuda.is_available() else None
    except ImportError:
        return None


def tensors(m: Any, device: str, shape: tuple[int, ...]) -> list[Any]:
    """Query, key, value and a gradient of the result, of the same values in each library."""
    rng = np.random.default_rng(0)
    made = [m.tensor(rng.standard_normal(shape).astype(np.float32)).to(device).to(m.bfloat16)
            for _ in range(4)]
    return [t.requires_grad_() for t in made[:3]] + made[3:]


def check(m: Any, device: str, length: int, width: int, causal: bool) -> float:
    """The largest error of the result and its gradients, relative to the largest value."""
    q, k, v, g = tensors(m, device, (1, 2, length, width))
    out = m.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    got = [out, *m.autograd.grad(out, [q, k, v], g)]
    got = [t.detach().to("cpu").to(m.float32).numpy() for t in got]
    qn, kn, vn, gn = (t.detach().to("cpu").to(m.float32).numpy().astype(np.float64)
                      for t in (q, k, v, g))
    s = qn @ kn.swapaxes(-1, -2) * width**-0.5
    s = np.where(np.tri(length, dtype=bool), s, -np.inf) if causal else s
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    gp = gn @ vn.swapaxes(-1, -2)
    gs = p * (gp - (gp * p).sum(-1, keepdims=True)) * width**-0.5
    want = (p @ vn, gs @ kn, gs.swapaxes(-1, -2) @ qn, p.swapaxes(-1, -2) @ gn)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, want))


def seconds(run: Callable[[], Any], wait: Callable[[], Any], tiny: bool) -> float:
    """Median time of a call, over rounds of about 15 ms."""
    run()
    wait()
    start = time.perf_counter()
    run()
    wait()
    n = 1 if tiny else max(2, min(100, int(0.015 / (time.perf_counter() - start))))
    spent = []
    for _ in range(1 if tiny else 3):
        start = time.perf_counter()
        for _ in range(n):
            run()
        wait()
        spent.append((time.perf_counter() - start) / n)
    return statistics.median(spent)


def measured(m: Any, wait: Callable[[], Any], device: str, shape: tuple[int, ...], causal: bool,
             tiny: bool) -> tuple[float, float]:
    """Seconds of the forward pass, and of both passes."""
    q, k, v, g = tensors(m, device, shape)
    attend = m.nn.functional.scaled_dot_product_attention

    def forward() -> Any:
        with m.no_grad():
            return attend(q, k, v, is_causal=causal)

    def both() -> Any:
        return m.autograd.grad(attend(q, k, v, is_causal=causal), [q, k, v], g)

    return seconds(forward, wait, tiny), seconds(both, wait, tiny)


def main() -> None:
    """Check, then measure what there is time for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=40, help="start no case after this long")
    args = parser.parse_args()
    import lampion

    begun = time.perf_counter()
    torch = rival()
    widths = (32,) if args.tiny else (64, 128)
    lengths = (40,) if args.tiny else (1024, 2048, 4096, 8192)
    batch, heads = (1, 2) if args.tiny else (4, 16)

    def checked(width: int) -> None:
        for causal in (False, True):
            try:
                error = check(lampion, args.device, 150 if not args.tiny else 40, width, causal)
                print(f"checked against float64: D={width} causal={causal}: largest error "
                      f"{error:.2%}{'' if error < 0.01 else '  WRONG'}", flush=True)
            except Exception:
                traceback.print_exc()

    with ThreadPoolExecutor(len(widths)) as pool:
        list(pool.map(checked, widths))
    print(f"({time.perf_counter() - begun:.0f} s to check and compile)\n", file=sys.stderr)
    print("## Attention: bfloat16, batch 4, 16 heads\n")
    print("| D | L | causal | forward | TFLOP/s | torch | ratio | backward | TFLOP/s | torch | "
          "ratio |\n|--:|--:|---|" + "--:|" * 8)
    for width in widths:
        for length in lengths:
            for causal in (False, True):
                if time.perf_counter() - begun > args.seconds:
                    print(f"\n(out of time before D={width} L={length})")
                    return
                row(lampion, torch, args, (batch, heads, length, width), causal)


def row(lampion: Any, torch: Any, args: Any, shape: tuple[int, ...], causal: bool) -> None:
    """Measure and print one line."""
    batch, heads, length, width = shape
    work = 4 * batch * heads * length * length * width / (2 if causal else 1) / 1e12
    cells = [f"{width}", f"{length}", "yes" if causal else "no"]
    try:
        ours = measured(lampion, lambda: lampion.synchronize(args.device), args.device, shape,
                        causal, args.tiny)
        theirs = None if torch is None else measured(
            torch, torch.cuda.synchronize, "cuda", shape, causal, args.tiny)
        pairs = [(ours[0], theirs and theirs[0], 1.0),
                 (ours[1] - ours[0], theirs and theirs[1] - theirs[0], 2.5)]
        for mine, other, factor in pairs:
            cells += [f"{mine * 1e3:.3f} ms", f"{factor * work / mine:.0f}",
                      f"{factor * work / other:.0f}" if other else "-",
                      f"{other / mine:.2f}" if other else "-"]
    except Exception as error:
        traceback.print_exc()
        cells.append(f"failed: {str(error).splitlines()[0][:80]}")
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
