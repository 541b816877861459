"""Sorting, scans, selection, Fourier transforms, linear algebra and sums by index on a GPU.

Run: python benchmarks/gpu_ops.py [--device cuda] [--tiny] [--seconds 45] [--only WORDS]

Each case runs as a program would call it, is checked against NumPy, and timed beside PyTorch if
that is here: many calls in a row, the host's share included, best of three rounds. A case that
fails leaves a line that says so; when the time is up, the rest is left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import lampion
from lampion.ops.registry import REGISTRY

Arrays = list[Any]


class Case(NamedTuple):
    """`make(rng)` gives the inputs as arrays, `run(m, xs)` calls library m on tensors, and
    `check(arrays, results)` says what is wrong with the results, as arrays, or nothing. `moved`:
    bytes that the call must read and write, at least; `op`: whose kernel to name."""

    name: str
    make: Callable[[Any], Arrays]
    run: Callable[[Any, Arrays], Any]
    check: Callable[[Arrays, Arrays], str]
    moved: float = 0
    op: str = ""


def close(got: Any, want: Any, tolerance: float) -> str:
    """Nothing, or by how much results are off, relative to the largest."""
    if got.shape != want.shape:
        return f"shape {got.shape}, not {want.shape}"
    scale = float(np.abs(want).max(initial=0)) or 1.0
    off = float(np.abs(got - want).max(initial=0)) / scale
    return "" if off <= tolerance else f"off by {off:.1e}"


def equal(got: Any, want: Any) -> str:
    """Nothing, or how many entries differ."""
    if got.shape != want.shape:
        return f"shape {got.shape}, not {want.shape}"
    different = int((got != want).sum())
    return f"{different} entries differ" if different else ""


def normal(*shape: int, kind: str = "float32") -> Callable[[Any], Arrays]:
    """One array of normal numbers."""
    def make(rng: Any) -> Arrays:
        if kind.startswith("complex"):
            half = "float32" if kind == "complex64" else "float64"
            a = rng.standard_normal((*shape, 2), dtype=half)
            return [a.view(kind)[..., 0]]
        return [rng.standard_normal(shape, dtype=kind)]

    return make


def integers(high: int, *shape: int) -> Callable[[Any], Arrays]:
    """One array of integers below `high`."""
    return lambda rng: [rng.integers(0, high, shape)]


def sorted_right(xs: Arrays, out: Arrays) -> str:
    """Values and stable indices of a sort of the last dim."""
    return equal(out[0], np.sort(xs[0], -1)) or equal(
        np.take_along_axis(xs[0], out[1], -1), out[0]) or (
        "" if (np.diff(out[1], axis=-1)[np.diff(out[0], axis=-1) == 0] > 0).all() else "unstable")


def largest(k: int) -> Callable[[Arrays, Arrays], str]:
    """The k largest of the last dim; of many lines the first ones are looked at."""
    def check(xs: Arrays, out: Arrays) -> str:
        x, values, places = (a[:16] if a.ndim > 1 else a for a in (xs[0], *out))
        return equal(values, -np.sort(-x, -1)[..., :k]) or equal(
            np.take_along_axis(x, places, -1), values)

    return check


def running(dim: int, tolerance: float) -> Callable[[Arrays, Arrays], str]:
    """A running sum."""
    return lambda xs, out: close(out[0], np.cumsum(xs[0], dim, dtype=np.float64), tolerance)


def sorting(size: Callable[[int], int]) -> list[Case]:
    m1, m16, rows = size(1 << 20), size(1 << 24), size(4096)
    logits = size(512), size(50257)

    def sort(m: Any, xs: Arrays) -> Any:
        return m.sort(xs[0], stable=True)

    return [
        Case("sort 1M float32", normal(m1), sort, sorted_right, m1 * 16, "sort"),
        Case("sort 16M float32", normal(m16), sort, sorted_right, m16 * 16, "sort"),
        Case("sort 16M int64", integers(1 << 40, m16), sort, sorted_right, m16 * 24, "sort"),
        Case("sort 4096 rows of 1024", normal(rows, size(1024)), sort, sorted_right,
             rows * size(1024) * 16, "sort"),
        Case("sort 1024 columns of 4096", normal(size(4096), size(1024)),
             lambda m, xs: m.sort(xs[0], 0, stable=True),
             lambda xs, out: equal(out[0], np.sort(xs[0], 0)), rows * size(1024) * 16, "sort"),
        Case("topk 100 of 16M", normal(m16), lambda m, xs: m.topk(xs[0], min(100, m16)),
             largest(min(100, m16)), m16 * 4, "topk"),
        Case("topk 50 of 512 x 50257", normal(*logits), lambda m, xs: m.topk(xs[0], 50),
             largest(50), logits[0] * logits[1] * 4, "topk"),
        Case("kthvalue of 4096 x 1024", normal(rows, size(1024)),
             lambda m, xs: m.kthvalue(xs[0], 10),
             lambda xs, out: equal(out[0], np.partition(xs[0], 9, -1)[:, 9]),
             rows * size(1024) * 4, "entry_at"),
        Case("unique of 4M int64", integers(size(1 << 20), size(1 << 22)),
             lambda m, xs: m.unique(xs[0], return_inverse=True, return_counts=True),
             lambda xs, out: equal(out[0], np.unique(xs[0])) or equal(out[0][out[1]], xs[0]),
             size(1 << 22) * 8),
        Case("searchsorted 16M in 1M", lambda rng: [np.sort(rng.standard_normal(
            m1, dtype="float32")), rng.standard_normal(m16, dtype="float32")],
            lambda m, xs: m.searchsorted(xs[0], xs[1]),
            lambda xs, out: equal(out[0][:100000], np.searchsorted(xs[0], xs[1][:100000])),
            m16 * 12),
    ]


def scans(size: Callable[[int], int]) -> list[Case]:
    n, side = size(1 << 24), size(4096)
    return [
        Case("cumsum of 16M float32", lambda rng: [rng.random(n, dtype="float32")],
             lambda m, xs: m.cumsum(xs[0], 0), running(0, 1e-5), n * 8, "cumsum"),
        Case("cumsum of 16M int64", integers(1000, n), lambda m, xs: m.cumsum(xs[0], 0),
             lambda xs, out: equal(out[0], np.cumsum(xs[0])), n * 16, "cumsum"),
        Case("cumsum of 4096 rows of 4096", normal(side, side), lambda m, xs: m.cumsum(xs[0], 1),
             running(1, 1e-4), side * side * 8, "cumsum"),
        Case("cumsum down 4096 columns", normal(side, side), lambda m, xs: m.cumsum(xs[0], 0),
             running(0, 1e-4), side * side * 8, "cumsum"),
        Case("cumsum down 16 columns of 1M", normal(size(1 << 20), 16),
             lambda m, xs: m.cumsum(xs[0], 0), running(0, 1e-4), size(1 << 20) * 128, "cumsum"),
        Case("cummax of 16M", normal(n), lambda m, xs: m.cummax(xs[0], 0),
             lambda xs, out: equal(out[0], np.maximum.accumulate(xs[0])) or equal(
                 xs[0][out[1]], out[0]), n * 16, "cummax"),
        Case("nonzero of 16M, 10%", lambda rng: [rng.random(n, dtype="float32") < 0.1],
             lambda m, xs: m.nonzero(xs[0]),
             lambda xs, out: equal(out[0][:, 0], np.flatnonzero(xs[0])), n * 1.8),
        Case("x[mask] of 16M, half", lambda rng: [rng.standard_normal(n, dtype="float32")],
             lambda m, xs: xs[0][xs[0] > 0], lambda xs, out: equal(out[0], xs[0][xs[0] > 0]),
             n * 8),
    ]


def fourier(size: Callable[[int], int]) -> list[Case]:
    n, side = size(1 << 24), size(4096)

    def line(name: str, make: Any, run: Any, check: Any, moved: float) -> Case:
        return Case(name, make, run, check, moved, "fft_c2c" if "rfft" not in name else "fft_r2c")

    return [
        line("fft of 16M", normal(n, kind="complex64"), lambda m, xs: m.fft.fft(xs[0]),
             lambda xs, out: close(out[0], np.fft.fft(xs[0]), 1e-5), n * 16),
        line("fft of 4096 rows of 4096", normal(side, side, kind="complex64"),
             lambda m, xs: m.fft.fft(xs[0]),
             lambda xs, out: close(out[0][:8], np.fft.fft(xs[0][:8]), 1e-5), side * side * 16),
        line("fft2 of 4096 x 4096", normal(side, side, kind="complex64"),
             lambda m, xs: m.fft.fft2(xs[0]),
             lambda xs, out: close(out[0], np.fft.fft2(xs[0]), 1e-5), side * side * 16),
        line("rfft2 of 32 x 1024 x 1024", normal(size(32), size(1024), size(1024)),
             lambda m, xs: m.fft.rfft2(xs[0]),
             lambda xs, out: close(out[0][:2], np.fft.rfft2(xs[0][:2]), 1e-5),
             size(32) * size(1024) ** 2 * 8),
        line("fft of 1000 rows of 1009 (a prime)", normal(size(1000), 1009, kind="complex64"),
             lambda m, xs: m.fft.fft(xs[0]),
             lambda xs, out: close(out[0], np.fft.fft(xs[0]), 1e-5), size(1000) * 1009 * 16),
        line("fft of complex128 rows", normal(size(1000), size(1024), kind="complex128"),
             lambda m, xs: m.fft.fft(xs[0]),
             lambda xs, out: close(out[0], np.fft.fft(xs[0]), 1e-12), size(1000) * size(1024) * 32),
    ]


def definite(*shape: int) -> Callable[[Any], Arrays]:
    """Symmetric positive-definite matrices."""
    def make(rng: Any) -> Arrays:
        a = rng.standard_normal((*shape, shape[-1]), dtype="float32")
        return [a @ a.swapaxes(-1, -2) / shape[-1] + np.eye(shape[-1], dtype="float32")]

    return make


def linear(size: Callable[[int], int]) -> list[Case]:
    found = []

    def matrices(name: str, shape: tuple[int, ...]) -> None:
        n = shape[-1]

        def pair(rng: Any) -> Arrays:
            return [rng.standard_normal((*shape, n), dtype="float32")
                    + n ** 0.5 * np.eye(n, dtype="float32"),
                    rng.standard_normal((*shape, 8), dtype="float32")]

        found.extend([
            Case(f"cholesky {name}", definite(*shape), lambda m, xs: m.linalg.cholesky(xs[0]),
                 lambda xs, out: close(out[0] @ out[0].swapaxes(-1, -2), xs[0], 1e-4), 0,
                 "linalg_cholesky_ex"),
            Case(f"solve {name}", pair, lambda m, xs: m.linalg.solve(*xs),
                 lambda xs, out: close(xs[0] @ out[0], xs[1], 1e-3), 0, "solve_with_factors"),
            Case(f"qr {name}", normal(*shape, n), lambda m, xs: m.linalg.qr(xs[0]),
                 lambda xs, out: close(out[0] @ out[1], xs[0], 1e-4), 0, "qr_factors"),
            Case(f"eigh {name}", definite(*shape), lambda m, xs: m.linalg.eigh(xs[0]),
                 lambda xs, out: close(out[1] * out[0][..., None, :] @ out[1].swapaxes(-1, -2),
                                       xs[0], 1e-4), 0, "linalg_eigh")])
        if n <= 1024:
            found.append(Case(
                f"svd {name}", normal(*shape, n), lambda m, xs: m.linalg.svd(xs[0], False),
                lambda xs, out: close(out[0] * out[1][..., None, :] @ out[2], xs[0], 1e-4), 0,
                "linalg_svd"))

    for n in (256, 1024, 2048):
        matrices(str(n), (size(n),))
    matrices("512 of 32", (size(512), size(32)))
    found.append(Case("triangular solve 2048, 256 columns",
                      lambda rng: [np.tril(rng.standard_normal((size(2048),) * 2, dtype="float32"))
                                   / size(2048) + np.eye(size(2048), dtype="float32"),
                                   rng.standard_normal((size(2048), 256), dtype="float32")],
                      lambda m, xs: m.linalg.solve_triangular(*xs, upper=False),
                      lambda xs, out: close(xs[0] @ out[0], xs[1], 1e-4), 0,
                      "linalg_solve_triangular"))
    return found


def random(size: Callable[[int], int]) -> list[Case]:
    n = size(1 << 26)

    def moments(mean: float, spread: float) -> Callable[[Arrays, Arrays], str]:
        def check(xs: Arrays, out: Arrays) -> str:
            a = out[0].astype(np.float64)
            bound = 6 * spread / len(a) ** 0.5
            off = abs(a.mean() - mean), abs(a.std() - spread)
            return "" if max(off) < 2 * bound else f"mean {a.mean():.4g}, spread {a.std():.4g}"

        return check

    def device(xs: Arrays) -> Any:
        return xs[0].device

    one = normal(1)
    return [
        Case("randn of 64M", one, lambda m, xs: m.randn(n, device=device(xs)), moments(0, 1),
             n * 4),
        Case("rand of 64M", one, lambda m, xs: m.rand(n, device=device(xs)),
             moments(0.5, 12 ** -0.5), n * 4),
        Case("randperm of 1M", one, lambda m, xs: m.randperm(size(1 << 20), device=device(xs)),
             lambda xs, out: equal(np.sort(out[0]), np.arange(size(1 << 20))), size(1 << 20) * 8),
        Case("dropout of 16M", normal(size(1 << 24)),
             lambda m, xs: m.nn.functional.dropout(xs[0], 0.25),
             lambda xs, out: "" if abs((out[0] == 0).mean() - 0.25) < 0.2 * (
                 1 if len(out[0]) < 1e6 else 0.01) else "another share of zeros",
             size(1 << 24) * 8),
    ]


def by_index(size: Callable[[int], int]) -> list[Case]:
    n, width, vocabulary = size(1 << 20), 64, size(50000)

    def rows(high: int) -> Callable[[Any], Arrays]:
        return lambda rng: [rng.integers(0, high, n),
                            rng.standard_normal((n, width), dtype="float32")]

    def sums(high: int) -> Callable[[Arrays, Arrays], str]:
        def check(xs: Arrays, out: Arrays) -> str:
            want = np.zeros((high, width))
            order = np.argsort(xs[0], kind="stable")
            names, starts = np.unique(xs[0][order], return_index=True)
            want[names] = np.add.reduceat(xs[1][order].astype(np.float64), starts)
            return close(out[0], want, 1e-4)

        return check

    def add(high: int) -> Callable[[Any, Arrays], Any]:
        return lambda m, xs: m.zeros(high, width, device=xs[0].device).index_add(0, *xs)

    def embedding(m: Any, xs: Arrays) -> Any:
        weight = m.zeros(vocabulary, width, device=xs[0].device, requires_grad=True)
        m.nn.functional.embedding(xs[0], weight).backward(xs[1])
        return weight.grad

    return [
        Case("index_add of 1M rows of 64 into 50000", rows(vocabulary), add(vocabulary),
             sums(vocabulary), n * width * 4),
        Case("index_add of 1M rows of 64 into 10", rows(10), add(10), sums(10), n * width * 4),
        Case("embedding and its gradient, 1M rows of 64", rows(vocabulary), embedding,
             sums(vocabulary), n * width * 8),
        Case("scatter_add of 16M into 1M", lambda rng: [
            rng.integers(0, n, size(1 << 24)), rng.random(size(1 << 24), dtype="float32")],
            lambda m, xs: m.zeros(n, device=xs[0].device).scatter_add(0, *xs),
            lambda xs, out: close(out[0], np.bincount(xs[0], xs[1], n), 1e-4),
            size(1 << 24) * 12),
        Case("bincount of 16M, 1000 bins", integers(1000, size(1 << 24)),
             lambda m, xs: m.bincount(xs[0]),
             lambda xs, out: equal(out[0], np.bincount(xs[0])), size(1 << 24) * 8),
        Case("index_select of 1M rows of 64", rows(n), lambda m, xs: m.index_select(
            xs[1], 0, xs[0]), lambda xs, out: equal(out[0], xs[1][xs[0]]), n * width * 8),
        Case("gather of 16M", lambda rng: [rng.standard_normal(n, dtype="float32"),
                                           rng.integers(0, n, size(1 << 24))],
             lambda m, xs: m.gather(xs[0], 0, xs[1]),
             lambda xs, out: equal(out[0], xs[0][xs[1]]), size(1 << 24) * 12),
    ]


def cases(tiny: bool) -> list[Case]:
    """All of them."""
    def size(n: int) -> int:
        return max(4, min(n, 60 if n <= 4096 else 9000 if n > 1 << 20 else 3000)) if tiny else n

    return [c for part in (sorting, scans, by_index, fourier, random, linear) for c in part(size)]


def results(x: Any) -> Arrays:
    """The tensors of a result as arrays."""
    parts = list(x) if isinstance(x, (tuple, list)) else [x]
    return [p.detach().cpu().numpy() for p in parts]


def seconds(call: Callable[[], Any], wait: Callable[[], Any], budget: float) -> float:
    """Seconds of one of many calls in a row: the best of three rounds."""
    start = time.perf_counter()
    call()
    wait()
    once = max(time.perf_counter() - start, 1e-6)
    if once > budget:
        return once
    count, best = max(1, min(500, int(budget / once / 3))), once
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        best = min(best, (time.perf_counter() - start) / count)
    return best


def rival() -> Any:
    """PyTorch, if it is here and has a GPU."""
    try:
        import torch

        return torch if torch.cuda.is_available() else None
    except Exception as error:
        print(f"no torch: {error}")
        return None


def chosen(op: str) -> str:
    """What ran an op last."""
    found = [p.chosen for p in REGISTRY[op].plans.values()] if op else []
    return found[-1].replace("kernel ", "").partition(" (")[0] if found else ""


def measure(c: Case, device: str, torch: Any, budget: float) -> str:
    """The row of a case in the table."""
    arrays = c.make(np.random.default_rng(7))
    xs = [lampion.tensor(a).to(device) for a in arrays]
    start = time.perf_counter()
    out = c.run(lampion, xs)
    lampion.synchronize(device)
    first = time.perf_counter() - start
    wrong = c.check(arrays, results(out))
    del out
    ours = seconds(lambda: c.run(lampion, xs), lambda: lampion.synchronize(device), budget)
    by = chosen(c.op)
    theirs = ""
    if torch is not None:
        try:
            ys = [torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays]
            spent = seconds(lambda: c.run(torch, ys), torch.cuda.synchronize, budget)
            theirs = f"{spent * 1e6:.1f} | {ours / spent:.2f}"
        except Exception as error:
            theirs = f"{type(error).__name__} |"
    rate = f"{c.moved / ours / 1e9:.0f}" if c.moved else ""
    note = f"**WRONG: {wrong}** " if wrong else ""
    note += f"first call {first:.2f} s" if first > 0.5 else ""
    return f"| {c.name} | {ours * 1e6:.1f} | {rate} | {theirs or ' |'} | {by} | {note} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--seconds", type=float, default=45, help="start no case after that long")
    parser.add_argument("--only", default="", help="cases with any of these words, by commas")
    options = parser.parse_args()
    words = [w for w in options.only.split(",") if w]
    torch, start, left, failed = rival(), time.perf_counter(), 0, 0
    print("| case | µs | GB/s at least | torch, µs | of torch's time | by |  |")
    print("|---|--:|--:|--:|--:|---|---|")
    for c in cases(options.tiny):
        if words and not any(w in c.name for w in words):
            continue
        if time.perf_counter() - start > options.seconds:
            left += 1
            continue
        try:
            row = measure(c, options.device, torch, 0.0 if options.tiny else 0.1)
        except Exception as error:
            row = f"| {c.name} | {type(error).__name__}: {str(error).splitlines()[0][:160]} |"
            failed += 1
        failed += "**WRONG" in row
        print(row, flush=True)
    print(f"\n{failed} cases failed or were wrong; {left} were left out when the time was up; "
          f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
