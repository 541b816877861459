"""Matrix products on a GPU: cuBLASLt's plans and the generated kernels, beside PyTorch.

Run: python benchmarks/gpu_gemm.py [--device cuda] [--tiny] [--seconds 40] [--only WORDS] [--tiles]

Each case runs as a program would call it, and is checked at a sample of rows and columns against
float64. The time is that of one of many calls in a row, the host's share included, best of three
rounds. Each case is printed when it is done; one that fails leaves a line that says so, and when
the time is up the rest is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import lampion
from lampion import config
from lampion.ops import registry

# Largest error, relative to the largest result, of products of normal numbers.
ALLOWED = {"float32": 2e-6, "tf32": 2e-3, "float64": 1e-14, "float16": 2e-3, "bfloat16": 8e-3,
           "complex64": 2e-6}
PROVIDERS = {"cuBLASLt": {"blas": "cublas"}, "cuBLASLt timed": {"blas": "cublas",
             "autotune": True}, "generated": {"blas": "generated"}}


class Case(NamedTuple):
    """A product [batch, m, k] x [batch, k, n]; `layout` N or T for each operand as it is stored;
    `kind` a dtype or tf32."""

    group: str
    kind: str
    m: int
    n: int
    k: int
    batch: int = 0
    layout: str = "NN"
    bias: bool = False

    @property
    def dtype(self) -> str:
        return "float32" if self.kind == "tf32" else self.kind

    @property
    def flops(self) -> float:
        return 2.0 * max(self.batch, 1) * self.m * self.n * self.k \
            * (4 if self.kind == "complex64" else 1)

    def __str__(self) -> str:
        batch = f"{self.batch} x " if self.batch else ""
        return f"{self.kind} {batch}{self.m} x {self.k} x {self.n} {self.layout}" \
            + (" + bias" if self.bias else "")


def cases(tiny: bool) -> list[Case]:
    """All of them, the most telling first."""
    def square(kind: str, *sizes: int, **more: Any) -> list[Case]:
        return [Case("square", kind, n, n, n, **more) for n in sizes]

    found = [
        *square("bfloat16", 4096, 8192, 2048, 1024), *square("float16", 4096),
        *square("float32", 4096, 2048, 1024), *square("tf32", 4096, 8192),
        *(Case("decode", "bfloat16", m, 4096, 4096, layout="NT") for m in (1, 4, 16, 64)),
        Case("linear", "bfloat16", 8192, 4096, 1024, layout="NT", bias=True),
        Case("linear", "float32", 4096, 1024, 1024, layout="NT", bias=True),
        Case("linear", "float16", 512, 4096, 4096, layout="NT", bias=True),
        *(Case("layouts", "bfloat16", 4096, 4096, 4096, layout=x) for x in ("NT", "TN", "TT")),
        *(Case("layouts", "float32", 2048, 2048, 2048, layout=x) for x in ("NT", "TN")),
        *(Case("batched", "bfloat16", n, n, n, batch=384) for n in (64, 128, 256, 512)),
        Case("batched", "float32", 64, 64, 64, batch=384),
        Case("batched", "bfloat16", 512, 512, 64, batch=384, layout="NT"),
        Case("uneven", "bfloat16", 1000, 1001, 999), Case("uneven", "float32", 1000, 1001, 999),
        Case("long k", "bfloat16", 256, 256, 65536), Case("long k", "float32", 256, 256, 65536),
        *(Case("small", "float32", n, n, n) for n in (16, 64, 256)),
        *square("float64", 2048), *square("complex64", 1024)]
    if tiny:
        def less(n: int) -> int:
            return max(1, min(n, 8 + n // 256))

        found = [c._replace(m=less(c.m), n=less(c.n), k=less(c.k), batch=min(c.batch, 2))
                 for c in found]
    return found


def operands(c: Case, m: Any, device: str, made: dict[str, Any]) -> list[Any]:
    """a, b (and bias) of a case for a library, from the same numbers."""
    batch = [c.batch] if c.batch else []
    shapes = {"a": [*batch, c.m, c.k], "b": [*batch, c.k, c.n]} | ({"e": [c.n]} if c.bias else {})
    found = []
    for name, shape in shapes.items():
        turned = name != "e" and c.layout["ab".index(name)] == "T"
        stored = shape[:-2] + shape[:-3:-1] if turned else shape
        if name not in made:
            made[name] = random(m, c.kind, stored, device)
        elif not isinstance(made[name], m.Tensor):
            try:
                made[name] = m.from_dlpack(made[name])
            except Exception as error:
                print(f"other numbers, because from_dlpack failed: {error}", file=sys.stderr)
                made[name] = random(m, c.kind, stored, device)
        x = made[name]
        found.append(x.transpose(-1, -2) if turned else x)
    return found


def random(m: Any, kind: str, shape: list[int], device: str) -> Any:
    if kind == "complex64":
        return m.complex(m.randn(shape, device=device), m.randn(shape, device=device))
    dtype = getattr(m, "float32" if kind == "tf32" else kind)
    if dtype.itemsize == 2:
        return m.randn(shape, device=device).to(dtype)
    return m.randn(shape, device=device, dtype=dtype)


def product(c: Case, m: Any, xs: list[Any]) -> Callable[[], Any]:
    if c.bias:
        weight = xs[1].transpose(-1, -2)
        return lambda: m.nn.functional.linear(xs[0], weight, xs[2])
    return lambda: m.matmul(xs[0], xs[1])


def seconds(call: Callable[[], Any], wait: Callable[[], Any], budget: float) -> float:
    """Seconds of one of many calls in a row: the best of three rounds."""
    call()
    wait()
    start = time.perf_counter()
    call()
    wait()
    once = max(time.perf_counter() - start, 1e-6)
    count = max(1, min(500, int(budget / once)))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        best = min(best, (time.perf_counter() - start) / count)
    return best


def wrong(c: Case, xs: list[Any], got: Any) -> float:
    """The largest error at 16 rows and 64 columns of the last matrix, relative to the largest
    result there."""
    r = np.random.default_rng(0)
    rows, columns = r.integers(0, c.m, 16), r.integers(0, c.n, 64)
    wide = lampion.complex128 if c.kind == "complex64" else lampion.float64

    def last(x: Any) -> Any:
        return x[-1] if x.ndim == 3 else x

    def host(x: Any) -> Any:
        return x.cpu().to(wide).numpy()

    def pick(x: Any, dim: int, at: Any) -> Any:
        return lampion.index_select(last(x), dim, lampion.tensor(at, device=x.device))

    expected = host(pick(xs[0], 0, rows)) @ host(pick(xs[1], 1, columns))
    if c.bias:
        expected = expected + host(xs[2])[columns]
    found = host(pick(pick(got, 0, rows), 1, columns))
    worst = float(np.abs(found - expected).max() / np.abs(expected).max())
    return worst if np.isfinite(worst) else float("inf")


def use(**options: Any) -> None:
    """Plan with these options of the backend from now on."""
    for name in ("blas", "autotune"):
        config.unset(f"backend.cuda.{name}")
    for name, value in options.items():
        config.set(f"backend.cuda.{name}", value)
    registry.forget_plans()


def rival() -> Any:
    """PyTorch, if it is here and has a GPU."""
    try:
        import torch

        return torch if torch.cuda.is_available() else None
    except Exception as error:
        print(f"no torch: {error}")
        return None


class Row(NamedTuple):
    case: Case
    provider: str
    seconds: float
    error: float
    note: str


def measure(c: Case, provider: str, torch: Any, device: str, budget: float,
            made: dict[str, Any]) -> Row:
    """One case by one provider; `made` holds the operands by name for both libraries."""
    if provider == "torch":
        torch.backends.cuda.matmul.allow_tf32 = c.kind == "tf32"
        xs = operands(c, torch, device, made)
        return Row(c, provider, seconds(product(c, torch, xs), torch.cuda.synchronize, budget),
                   float("nan"), "")
    lampion.set_float32_matmul_precision("high" if c.kind == "tf32" else "highest")
    use(**PROVIDERS[provider])
    xs = operands(c, lampion, device, made)
    call = product(c, lampion, xs)
    start = time.perf_counter()
    got = call()
    lampion.synchronize(device)
    first = time.perf_counter() - start
    error = wrong(c, xs, got)
    spent = seconds(call, lambda: lampion.synchronize(device), budget)
    return Row(c, provider, spent, error, f"first call {first:.2f} s" if first > 0.5 else "")


def allowed(c: Case) -> float:
    """The largest error that is no bug: sums of more products are less exact."""
    return ALLOWED[c.kind] * max(1, c.k / 4096) ** 0.5


def lines(rows: list[Row]) -> None:
    """Table lines of one case."""
    theirs = next((r.seconds for r in rows if r.provider == "torch"), None)
    for r in rows:
        ratio = f"{r.seconds / theirs:.2f}" if theirs and r.provider != "torch" else ""
        bad = "**WRONG** " if r.error > allowed(r.case) else ""
        error = "" if r.error != r.error else f"{bad}{r.error:.1e}"
        print(f"| {r.case.group}: {r.case} | {r.provider} | {r.seconds * 1e6:.1f} | "
              f"{r.case.flops / r.seconds / 1e12:.2f} | {ratio} | {error} | {r.note} |", flush=True)


def summary(rows: list[Row]) -> None:
    """Best rates by dtype, and every provider against the first one that has its cases."""
    best: dict[str, Row] = {}
    for r in rows:
        kind = r.case.kind
        if kind not in best or r.case.flops / r.seconds \
                > best[kind].case.flops / best[kind].seconds:
            best[kind] = r
    print("\nBest rates, TFLOP/s:")
    for kind, top in best.items():
        rate = top.case.flops / top.seconds
        own = {p: max((r.case.flops / r.seconds for r in rows
                       if r.provider == p and r.case.kind == kind), default=0) for p in PROVIDERS}
        print(f"- {kind}: {rate / 1e12:.1f} ({top.provider}); of that "
              + ", ".join(f"{p} {v / rate:.0%}" for p, v in own.items() if v))
    for base in ("torch", "cuBLASLt"):
        for provider in PROVIDERS:
            both = [(r.seconds, t.seconds) for r in rows for t in rows if t.case == r.case
                    and r.provider == provider != base and t.provider == base]
            if both:
                mean = float(np.exp(np.mean([np.log(a / b) for a, b in both])))
                print(f"- time of {provider} against {base}: {mean:.2f}, the geometric mean of "
                      f"{len(both)} cases")


def tiles(device: str, tiny: bool) -> None:
    """Rates of the generated kernels by tile: what the choice of tiles is made from."""
    from lampion.runtime.products import problem
    from lampion_cuda import gemm
    from lampion_cuda.gemm_text import Tile
    from lampion_cuda.launch import make_launch

    n = 24 if tiny else 4096
    offers = {"bfloat16": [*gemm.TENSOR, Tile(128, 256, 32, 64, 64, 3, True),
                           Tile(256, 128, 32, 64, 64, 3, True),
                           Tile(128, 128, 64, 64, 64, 3, True),
                           Tile(128, 128, 32, 64, 32, 4, True)],
              "float32": [*gemm.PLAIN, Tile(128, 128, 8, 8, 8, 2, False)]}
    print("\n| tile | TFLOP/s |\n|---|--:|")
    for kind, options in offers.items():
        a, b = (random(lampion, kind, [n, n], device) for _ in range(2))
        c = lampion.empty(n, n, dtype=a.dtype, device=device)
        gpu = a.data_.bin.pool.device
        for tile in options:
            try:
                calls, scratch, names = gemm.product(gpu, problem(a.meta, b.meta, c.meta), tile, 1)
                launch = make_launch(gpu, calls, "ss", [c.meta.span], scratch, names).launch
                spent = seconds(lambda f=launch: f(a.data_, b.data_),
                                lambda: lampion.synchronize(device), 0.05)
                print(f"| {kind} {tuple(tile)} | {2 * n ** 3 / spent / 1e12:.1f} |", flush=True)
            except Exception as error:
                print(f"| {kind} {tuple(tile)} | {str(error).splitlines()[0][:120]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--seconds", type=float, default=40, help="start no case after that long")
    parser.add_argument("--only", default="", help="cases with any of these words, by commas")
    parser.add_argument("--providers", default=",".join(("torch", *PROVIDERS)).replace(
        "cuBLASLt timed", "timed").replace("cuBLASLt", "cublas"),
        help="which to run, by commas: torch, cublas, timed, generated")
    parser.add_argument("--tiles", action="store_true", help="compare tiles of generated kernels")
    options = parser.parse_args()
    names = {"torch": "torch", "cublas": "cuBLASLt", "timed": "cuBLASLt timed",
             "generated": "generated"}
    torch = rival()
    providers = [names[w.strip()] for w in options.providers.split(",")]
    if torch is None:
        providers = [p for p in providers if p != "torch"]
    failures: list[str] = []
    late = 0
    budget = 0.0005 if options.tiny else 0.02
    began, rows = time.perf_counter(), []
    print("| product | by | µs | TFLOP/s | time against torch | error |  |")
    print("|---|---|--:|--:|--:|--:|---|")
    words = [w for w in options.only.split(",") if w]
    for c in cases(options.tiny):
        if words and not any(w in f"{c.group} {c}" for w in words):
            continue
        made: dict[str, Any] = {}
        done: list[Row] = []
        for provider in providers:
            if provider == "cuBLASLt timed" and (c.flops < 2e8 or c.group == "small") \
                    and not options.tiny:
                continue
            if time.perf_counter() - began > options.seconds:
                late += 1
                continue
            try:
                done.append(measure(c, provider, torch, options.device, budget, made))
            except Exception as error:
                text = (str(error).splitlines() or [type(error).__name__])[0][:200]
                failures.append(f"failed: {c} by {provider}: {type(error).__name__}: {text}")
        lines(done)
        rows += done
    lampion.set_float32_matmul_precision("highest")
    use()
    print("".join(f"\n{line}" for line in failures))
    if late:
        print(f"the time was up before {late} measurements")
    if rows:
        summary(rows)
    if options.tiles:
        tiles(options.device, options.tiny)
    print(f"\n{len(rows)} measurements in {time.perf_counter() - began:.0f} s")
    if any(r.error > allowed(r.case) for r in rows):
        sys.exit("some results are wrong")


if __name__ == "__main__":
    main()
