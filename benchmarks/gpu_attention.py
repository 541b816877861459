"""scaled_dot_product_attention on a GPU, forward and backward, beside PyTorch's.

Run: python benchmarks/gpu_attention.py [--device cuda] [--tiny]

Batch 4, 16 heads; bfloat16 by generated kernels and, where it is installed, by cuDNN through
lampion; float32, and float32 where TF32 is allowed, by generated kernels. TFLOP/s count 4 B H L L D
for the forward pass and 2.5 times that for the backward, halves where causal. A small case of each
kind is checked against float64 first; kernels are compiled ahead, several at a time. `ratio` is
PyTorch's time by lampion's.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, NamedTuple

import numpy as np


def rival() -> Any:
    """PyTorch, if it is here and has a GPU."""
    try:
        import torch

        return torch if torch.cuda.is_available() else None
    except ImportError:
        return None


class Kind(NamedTuple):
    """What is measured: a dtype, what does it in lampion, the precision of products, and the
    largest error that is right."""

    dtype: str
    engine: str = "generated"
    precision: str = "highest"
    allowed: float = 1e-2

    @contextmanager
    def chosen(self, m: Any) -> Iterator[None]:
        """Settings under which a library, lampion or PyTorch, does it so."""
        m.set_float32_matmul_precision(self.precision)
        try:
            if m.__name__ != "lampion":
                yield
                return
            dnn = "generated" if self.engine == "generated" else "cudnn"
            with m.config.override({"backend.cuda.dnn": dnn}):
                yield
        finally:
            m.set_float32_matmul_precision("highest")


def kinds(lampion: Any) -> list[Kind]:
    """What can be measured here."""
    found = [Kind("bfloat16")]
    if lampion.backends.cudnn.is_available():
        found.append(Kind("bfloat16", "cuDNN"))
    return [*found, Kind("float32", allowed=1e-5), Kind("float32", "generated", "high", 5e-3)]


def tensors(m: Any, device: str, shape: tuple[int, ...], dtype: str) -> list[Any]:
    """Query, key, value and a gradient of the result, of the same values in each library."""
    rng = np.random.default_rng(0)
    made = [m.tensor(rng.standard_normal(shape).astype(np.float32)).to(device).to(getattr(m, dtype))
            for _ in range(4)]
    return [t.requires_grad_() for t in made[:3]] + made[3:]


def check(m: Any, device: str, length: int, width: int, causal: bool, dtype: str) -> float:
    """The largest error of the result and its gradients, relative to the largest value."""
    q, k, v, g = tensors(m, device, (1, 2, length, width), dtype)
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
             tiny: bool, dtype: str) -> tuple[float, float]:
    """Seconds of the forward pass, and of both passes."""
    q, k, v, g = tensors(m, device, shape, dtype)
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
    parser.add_argument("--seconds", type=float, default=70, help="start no case after this long")
    args = parser.parse_args()
    import lampion

    begun = time.perf_counter()
    torch = rival()
    widths = (32,) if args.tiny else (64, 128)
    lengths = (40,) if args.tiny else (1024, 2048, 4096, 8192)
    batch, heads = (1, 2) if args.tiny else (4, 16)

    def checked(kind: Kind, width: int) -> None:
        for causal in (False, True):
            try:
                length = 150 if not args.tiny else 40
                error = check(lampion, args.device, length, width, causal, kind.dtype)
                print(f"checked against float64: {kind.dtype} ({kind.precision}) by {kind.engine}, "
                      f"D={width} causal={causal}: largest error {error:.1e}"
                      f"{'' if error < kind.allowed else '  WRONG'}", flush=True)
            except Exception:
                traceback.print_exc()

    for kind in kinds(lampion):
        with kind.chosen(lampion), ThreadPoolExecutor(len(widths)) as pool:
            context = [copy_context() for _ in widths]
            list(pool.map(lambda c, w, k=kind: c.run(checked, k, w), context, widths))
    print(f"({time.perf_counter() - begun:.0f} s to check and compile)\n", file=sys.stderr)
    print("## Attention: batch 4, 16 heads\n")
    columns = " TFLOP/s | torch | ratio |"
    print(f"| dtype | by | D | L | causal | forward |{columns} backward |{columns}\n"
          "|---|---|--:|--:|---|" + "--:|" * 8)
    for kind, width, length, causal in itertools.product(kinds(lampion), widths, lengths,
                                                          (False, True)):
        if kind.dtype == "float32" and length > 4096:
            continue
        if time.perf_counter() - begun > args.seconds:
            print(f"\n(out of time before {kind.dtype} by {kind.engine}, D={width} L={length})")
            return
        row(lampion, torch, args, kind, (batch, heads, length, width), causal)


def row(lampion: Any, torch: Any, args: Any, kind: Kind, shape: tuple[int, ...], causal: bool,
        ) -> None:
    """Measure and print one line."""
    batch, heads, length, width = shape
    work = 4 * batch * heads * length * length * width / (2 if causal else 1) / 1e12
    name = kind.dtype if kind.precision == "highest" else f"{kind.dtype} (TF32)"
    cells = [name, kind.engine, f"{width}", f"{length}", "yes" if causal else "no"]
    try:
        with kind.chosen(lampion):
            ours = measured(lampion, lambda: lampion.synchronize(args.device), args.device, shape,
                            causal, args.tiny, kind.dtype)
        theirs = None
        if torch is not None:
            with kind.chosen(torch):
                theirs = measured(torch, torch.cuda.synchronize, "cuda", shape, causal, args.tiny,
                                  kind.dtype)
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
