"""Generated kernels on a GPU: how much of the memory's bandwidth they reach.

    python benchmarks/gpu_kernels.py [--device cuda] [--tiny] [--only softmax] [--megabytes 256]

Every case counts the bytes that it must read and write once, whatever the kernel does, and is
compared with the fastest copy of the same run. PyTorch is measured beside it if it has this GPU.
Times are wall times of enough calls in a row to make the waiting at their end small; the least of
several rounds. Small cases, whose time is that of a launch, are marked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lampion

ROUNDS = 5
TARGET = 4e-3  # seconds of one round


class Case(NamedTuple):
    """`make(m)` gives the call for a module m, lampion or torch; `nbytes` is what it must move."""

    name: str
    nbytes: float
    make: Callable[[Any], Callable[[], Any]]


class Inputs:
    """Tensors of one module and dtype, made when they are first asked for."""

    def __init__(self, m: Any, device: str, d: str) -> None:
        self.m, self.device, self.dtype = m, device, getattr(m, d)
        self.made: dict[Any, Any] = {}

    def __call__(self, *shape: int, which: int = 0, grad: bool = False) -> Any:
        """A random tensor; `which` tells several of a shape apart."""
        key = (shape, which, grad)
        if key not in self.made:
            t = self.m.rand(*shape, device=self.device).to(self.dtype)
            self.made[key] = t.requires_grad_() if grad else t
        return self.made[key]

    def index(self, *shape: int, high: int) -> Any:
        """Random int64 indices below `high`."""
        key = (shape, high)
        if key not in self.made:
            self.made[key] = self.m.randint(0, high, shape, device=self.device)
        return self.made[key]

    def mask(self, *shape: int) -> Any:
        """Random bools."""
        key = (shape, "mask")
        if key not in self.made:
            self.made[key] = self.m.rand(*shape, device=self.device) > 0.5
        return self.made[key]


def cases(total: int, size: int) -> Iterator[Case]:
    """All cases on `total` elements of `size` bytes."""
    rows, cols = max(1, total // 4096), min(4096, total)
    n = rows * cols
    one = float(n * size)

    def case(name: str, moved: float, fn: Callable[[Any, Inputs], Any]) -> Case:
        return Case(name, moved, lambda pair: lambda: fn(*pair))

    yield case("copy", 2 * one, lambda m, t: t(rows, cols).clone())
    yield case("fill", one, lambda m, t: m.full_like(t(rows, cols), 2.0))
    yield case("add", 3 * one, lambda m, t: t(rows, cols) + t(rows, cols, which=1))
    yield case("add_", 3 * one, lambda m, t: t(rows, cols, which=1).add_(t(rows, cols)))
    yield case("mul by a row", 2 * one, lambda m, t: t(rows, cols) * t(cols))
    yield case("mul by a column", 2 * one, lambda m, t: t(rows, cols) * t(rows, 1))
    yield case("add of rows of 4095", 2 * rows * 4095 * size if cols == 4096 else 2 * one,
               lambda m, t: t(rows, max(1, cols - 1)) + t(max(1, cols - 1)))
    yield case("unaligned add", 2 * (one - size), lambda m, t: t(n)[1:] + 1.0)
    yield case("gelu", 2 * one, lambda m, t: m.nn.functional.gelu(t(rows, cols)))
    yield case("sin", 2 * one, lambda m, t: m.sin(t(rows, cols)))
    yield case("where", 3 * one + n, lambda m, t: m.where(
        t.mask(rows, cols), t(rows, cols), t(rows, cols, which=1)))
    yield case("less", 2 * one + n, lambda m, t: t(rows, cols) < t(rows, cols, which=1))
    other = 2 if size == 4 else 4
    yield case("cast", one + n * other, lambda m, t: t(rows, cols).to(
        m.bfloat16 if size == 4 else m.float32))
    yield case("transposed copy", 2 * one, lambda m, t: t(rows, cols).t().contiguous())
    yield case("permuted copy", 2 * one, lambda m, t: t(rows // 16, 16, 32, cols // 32).permute(
        0, 2, 1, 3).contiguous() if rows >= 16 and cols >= 32 else t(rows, cols).clone())
    yield case("sum", one, lambda m, t: t(rows, cols).sum())
    yield case("sum of rows", one, lambda m, t: t(rows, cols).sum(1))
    yield case("sum of columns", one, lambda m, t: t(rows, cols).sum(0))
    yield case("max", one, lambda m, t: t(rows, cols).amax())
    yield case("argmax of rows", one, lambda m, t: t(rows, cols).argmax(1))
    yield case("var of rows", one, lambda m, t: t(rows, cols).var(1))
    f = "functional"
    for length in (128, 1024, 4096, 16384):
        if length > n:
            continue
        r = n // length
        yield case(f"softmax {length}", 2 * one, lambda m, t, r=r, k=length: m.softmax(t(r, k), 1))
        yield case(f"layer_norm {length}", 2 * one, lambda m, t, r=r, k=length: getattr(
            m.nn, f).layer_norm(t(r, k), (k,), t(k), t(k, which=1)))
        yield case(f"softmax {length} backward", 3 * one, lambda m, t, r=r, k=length: back(
            m, t, ("softmax", r, k), lambda x: m.softmax(x, 1), r, k))
        yield case(f"layer_norm {length} backward", 3 * one, lambda m, t, r=r, k=length: back(
            m, t, ("norm", r, k), lambda x: getattr(m.nn, f).layer_norm(
                x, (k,), t(k, grad=True), t(k, which=1, grad=True)), r, k))
    yield case("softmax of columns", 2 * one, lambda m, t: m.softmax(t(rows, cols), 0))
    yield case("cumsum of rows", 2 * one, lambda m, t: t(rows, cols).cumsum(1))
    yield case("cumsum of columns", 2 * one, lambda m, t: t(rows, cols).cumsum(0))
    yield case("gather", 2 * one + 8 * n, lambda m, t: m.gather(
        t(rows, cols), 1, t.index(rows, cols, high=cols)))
    yield case("index_select", 2 * one, lambda m, t: t(rows, cols).index_select(
        0, t.index(rows, high=rows)))
    few = max(1, rows // 8)
    yield case("index_add of rows", 3 * few * cols * size, lambda m, t: t(
        rows, cols, which=2).index_add_(0, t.index(few, high=rows), t(few, cols)))
    many = max(1, n // 64)
    yield case("index_add of numbers", many * (3 * size + 8), lambda m, t: t(
        many, which=2).index_add_(0, t.index(many, high=many), t(many)))
    yield case("scatter_add", many * (3 * size + 8), lambda m, t: t(
        max(1, many // 1024), min(many, 1024), which=2).scatter_add_(1, t.index(
            max(1, many // 1024), min(many, 1024), high=min(many, 1024)), t(
                max(1, many // 1024), min(many, 1024))))
    yield case("bincount of 256", many * 8, lambda m, t: m.bincount(
        t.index(many, high=256), minlength=256))
    tokens, vocabulary, width = max(1, rows // 8), max(2, rows // 2), min(cols, 1024)
    yield case("embedding backward", (tokens + vocabulary) * width * size,
               lambda m, t: looked_up(m, t, tokens, vocabulary, width))
    yield case("add of 1000 (launch)", 3000 * size, lambda m, t: t(1000) + t(1000, which=1))
    yield case("sum of 1000 (launch)", 1000 * size, lambda m, t: t(1000).sum())
    yield case("softmax 8 x 1000 (launch)", 16000 * size, lambda m, t: m.softmax(t(8, 1000), 1))


def back(m: Any, t: Inputs, key: Any, fn: Callable[[Any], Any], r: int, k: int) -> Any:
    """The gradient of fn at one input; the graph is made once."""
    if key not in t.made:
        x = t(r, k, which=3, grad=True)
        t.made[key] = x, fn(x), t(r, k, which=1)
    x, y, g = t.made[key]
    return m.autograd.grad(y, [x], g, retain_graph=True)


def looked_up(m: Any, t: Inputs, tokens: int, vocabulary: int, width: int) -> Any:
    """The gradient of a table that was looked up."""
    if "table" not in t.made:
        w = t(vocabulary, width, which=3, grad=True)
        y = m.nn.functional.embedding(t.index(tokens, high=vocabulary), w)
        t.made["table"] = w, y, t(tokens, width, which=1)
    w, y, g = t.made["table"]
    return m.autograd.grad(y, [w], g, retain_graph=True)


def measured(fn: Callable[[], Any], wait: Callable[[], None], rounds: int, target: float) -> float:
    """Seconds a call takes."""
    fn()
    wait()
    start = time.perf_counter()
    fn()
    wait()
    once = time.perf_counter() - start
    count = max(1, min(1000, int(target / max(once, 1e-6))))
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            fn()
        wait()
        best = min(best, (time.perf_counter() - start) / count)
    return best


def rival(device: str) -> Any:
    """torch, if it can use this device."""
    try:
        import torch
    except ImportError:
        return None
    return torch if device.startswith("cuda") and torch.cuda.is_available() else None


def table(d: str, args: argparse.Namespace, torch: Any) -> None:
    """Measure and print one dtype."""
    size = 4 if d == "float32" else 2
    total = 1 << 14 if args.tiny else args.megabytes * (1 << 20) // size
    rounds, target = (1, 0.0) if args.tiny else (ROUNDS, TARGET)
    ours = lampion, Inputs(lampion, args.device, d)
    theirs = None if torch is None else (torch, Inputs(torch, args.device, d))
    waits: list[Callable[[], None]] = [lambda: lampion.synchronize(args.device)]
    if torch is not None:
        waits.append(torch.cuda.synchronize)
    print(f"\n## Kernels, {d}, {total * size / (1 << 20):.3g} MiB a tensor\n")
    print("| case | time µs | GB/s | of copy | torch µs | ratio |\n|---|---:|---:|---:|---:|---:|")
    best = 0.0
    for c in cases(total, size):
        if args.only and args.only not in c.name and c.name != "copy":
            continue
        spent: list[float] = []
        problem = ""
        for pair, wait in zip([ours] if theirs is None else [ours, theirs], waits):
            try:
                spent.append(measured(c.make(pair), wait, rounds, target))
            except Exception as error:  # one missing op must not hide the rest
                problem = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
                spent.append(float("nan"))
        if c.name == "copy":
            best = max(c.nbytes / s for s in spent if s == s)
        rate = c.nbytes / spent[0]
        other = f"{spent[1] * 1e6:.1f} | {spent[1] / spent[0]:.2f}" if len(spent) > 1 else "- | -"
        print(f"| {c.name} | {spent[0] * 1e6:.1f} | {rate / 1e9:.0f} | {rate / best:.0%} | {other} "
              f"|{f' {problem}' if problem else ''}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small tensors, to try the script")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--megabytes", type=int, default=256, help="MiB of a tensor")
    args = parser.parse_args()
    torch = rival(args.device)
    for d in ("float32", "bfloat16"):
        table(d, args, torch)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
