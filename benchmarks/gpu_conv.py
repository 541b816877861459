"""Convolutions of ResNet-50 on a GPU, forward and both gradients, beside PyTorch's (cuDNN).

Run: python benchmarks/gpu_conv.py [--device cuda] [--tiny]

Batch 32, tensors with channels first and last, bfloat16 and float32 (PyTorch's float32 without
TF32, which is what lampion computes), by lampion's generated kernels and, where it is installed, by
cuDNN through lampion. A small case of each kind is checked against float64 first. Each cell is
lampion's TFLOP/s and, after the slash, PyTorch's time by lampion's.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

# channels in and out, size, kernel, stride, padding
LAYERS = [(3, 64, 224, 7, 2, 3), (64, 64, 56, 3, 1, 1), (64, 256, 56, 1, 1, 0),
          (128, 128, 56, 3, 2, 1), (128, 128, 28, 3, 1, 1), (256, 512, 56, 1, 2, 0),
          (256, 256, 14, 3, 1, 1), (512, 512, 7, 3, 1, 1)]
TINY = [(3, 8, 12, 3, 1, 1), (8, 16, 10, 1, 2, 0)]


def rival() -> Any:
    """PyTorch, if it is here and has a GPU."""
    try:
        import torch

        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        return torch if torch.cuda.is_available() else None
    except ImportError:
        return None


def engines(lampion: Any) -> list[str]:
    """What can convolve here."""
    return ["generated", *(["cuDNN"] if lampion.backends.cudnn.is_available() else [])]


def chosen(lampion: Any, engine: str) -> Any:
    """A context in which that does it."""
    return lampion.config.override(
        {"backend.cuda.dnn": "generated" if engine == "generated" else "cudnn"})


def seconds(run: Callable[[], Any], wait: Callable[[], Any], tiny: bool) -> float:
    """Median time of a call, over rounds of about 8 ms."""
    run()
    wait()
    start = time.perf_counter()
    run()
    wait()
    n = 1 if tiny else max(3, min(100, int(0.008 / (time.perf_counter() - start))))
    spent = []
    for _ in range(1 if tiny else 3):
        start = time.perf_counter()
        for _ in range(n):
            run()
        wait()
        spent.append((time.perf_counter() - start) / n)
    return statistics.median(spent)


class Case:
    """One layer in one library."""

    def __init__(self, m: Any, device: str, dtype: str, batch: int, layer: tuple[int, ...],
                 last: bool) -> None:
        inside, outside, size, kernel, self.stride, self.padding = layer
        self.m = m
        rng = np.random.default_rng(0)

        def made(*shape: int) -> Any:
            t = m.tensor(rng.standard_normal(shape).astype(np.float32)).to(getattr(m, dtype))
            return t.contiguous(memory_format=m.channels_last).to(device) if last else t.to(device)

        self.x = made(batch, inside, size, size).requires_grad_()
        self.w = made(outside, inside, kernel, kernel).requires_grad_()
        out = self.forward()
        self.g = made(*out.shape)
        self.work = 2 * out.numel() * inside * kernel**2 / 1e12

    def forward(self) -> Any:
        """The result."""
        return self.m.nn.functional.conv2d(self.x, self.w, None, self.stride, self.padding)

    def timed(self, wait: Callable[[], Any], tiny: bool) -> tuple[float, float, float]:
        """Seconds of the result, of the gradient of x, of the gradient of w."""
        with self.m.no_grad():
            first = seconds(self.forward, wait, tiny)
        out = self.forward()
        grad = self.m.autograd.grad
        return (first, *(seconds(lambda t=t: grad(out, [t], self.g, retain_graph=True), wait, tiny)
                         for t in (self.x, self.w)))

    def error(self) -> float:
        """The largest error of result and gradients, relative to the largest value."""
        out = self.forward()
        got = [out, *self.m.autograd.grad(out, [self.x, self.w], self.g)]
        got, (x, w, g) = ([t.detach().to("cpu").to(self.m.float32).numpy().astype(np.float64)
                           for t in ts] for ts in (got, (self.x, self.w, self.g)))
        p, s = self.padding, self.stride
        wide = np.pad(x, [(0, 0), (0, 0), (p, p), (p, p)])
        y, gx, gw = np.zeros_like(g), np.zeros_like(wide), np.zeros_like(w)
        rows, columns = g.shape[2:]
        for i, j in itertools.product(range(w.shape[2]), range(w.shape[3])):
            part = (..., slice(i, i + (rows - 1) * s + 1, s),
                    slice(j, j + (columns - 1) * s + 1, s))
            y += np.einsum("nchw,oc->nohw", wide[part], w[..., i, j])
            gx[part] += np.einsum("nohw,oc->nchw", g, w[..., i, j])
            gw[..., i, j] = np.einsum("nohw,nchw->oc", g, wide[part])
        gx = gx[:, :, p:p + x.shape[2], p:p + x.shape[3]]
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, (y, gx, gw)))


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
    kinds = (("bfloat16", 1e-2), ("float32", 1e-5))
    for engine, (dtype, allowed), layer in itertools.product(engines(lampion), kinds, TINY):
        try:
            with chosen(lampion, engine):
                error = Case(lampion, args.device, dtype, 2, layer, False).error()
            print(f"checked against float64: {engine}, {dtype} {layer}: largest error {error:.1e}"
                  f"{'' if error < allowed else '  WRONG'}", flush=True)
        except Exception:
            traceback.print_exc()
    print(f"({time.perf_counter() - begun:.0f} s to check and compile)", file=sys.stderr)
    print("\n## Convolutions of ResNet-50: TFLOP/s / ratio to PyTorch\n")
    print("| layer | dtype | channels | by | forward | gradient of x | gradient of w |\n"
          "|---|---|---|---|--:|--:|--:|")
    rows = (("bfloat16", False), ("bfloat16", True), ("float32", False))
    for (dtype, last), layer in itertools.product(rows, TINY if args.tiny else LAYERS):
        if time.perf_counter() - begun > args.seconds:
            print(f"\n(out of time before {dtype} {layer})")
            return
        row(lampion, torch, args, dtype, layer, last)


def row(lampion: Any, torch: Any, args: Any, dtype: str, layer: tuple[int, ...], last: bool,
        ) -> None:
    """Measure and print one layer, a line for each engine."""
    inside, outside, size, kernel, stride, _ = layer
    batch = 2 if args.tiny else 32
    theirs = None
    if torch is not None:
        try:
            theirs = Case(torch, "cuda", dtype, batch, layer, last).timed(
                torch.cuda.synchronize, args.tiny)
        except Exception:
            traceback.print_exc()
    for engine in engines(lampion):
        cells = [f"{inside} to {outside}, {size} x {size}, kernel {kernel}, stride {stride}", dtype,
                 "last" if last else "first", engine]
        try:
            with chosen(lampion, engine):
                mine = Case(lampion, args.device, dtype, batch, layer, last)
                ours = mine.timed(lambda: lampion.synchronize(args.device), args.tiny)
            for k, spent in enumerate(ours):
                ratio = f"{theirs[k] / spent:.2f}" if theirs else "-"
                cells.append(f"{mine.work / spent:.1f} / {ratio}")
        except Exception as error:
            traceback.print_exc()
            cells.append(f"failed: {str(error).splitlines()[0][:80]}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
