"""What a call costs on a GPU, beside PyTorch: launches, memory, copies, graphs, streams, events.

Run: python benchmarks/gpu_calls.py [--device cuda] [--tiny]

The time of a call is the host's: 200 calls are enqueued on an idle GPU and the clock is stopped
before the wait, so that the GPU's own time is not in it. Both libraries run the same code.
A case that fails leaves a line that says so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

ENQUEUED, ROUNDS = 200, 15


def host_seconds(call: Callable[[], Any], wait: Callable[[], Any], calls: int = ENQUEUED) -> float:
    """Seconds of the host for one of `calls` calls that nothing waits for; the median round."""
    spent = []
    for _ in range(ROUNDS):
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        spent.append((time.perf_counter() - start) / calls)
    wait()
    return statistics.median(spent)


def whole_seconds(call: Callable[[], Any], wait: Callable[[], Any], calls: int = 10) -> float:
    """Seconds of one of `calls` calls, their work included; the median of five rounds."""
    spent = []
    for _ in range(5):
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        spent.append((time.perf_counter() - start) / calls)
    return statistics.median(spent)


# ---- cases: function(m, cuda, device, tiny) -> {label: (value, unit)}; m is lampion or torch -----

def calls(m: Any, cuda: Any, device: str, tiny: bool) -> dict[str, tuple[float, str]]:
    """Calls on four elements."""
    a, b = m.ones(4, device=device), m.ones(4, device=device)
    x, y = m.ones(4, 4, device=device), m.ones(4, 4, device=device)
    leaf = m.ones(4, device=device, requires_grad=True)

    def chain() -> Any:
        t = a
        for _ in range(20):
            t = t + b
        return t

    work: list[tuple[str, Callable[[], Any], int]] = [
        ("a + b", lambda: a + b, 1), ("a.add_(b)", lambda: a.add_(b), 1),
        ("a * 2.0", lambda: a * 2.0, 1), ("a.sum()", lambda: a.sum(), 1),
        ("softmax", lambda: x.softmax(1), 1), ("x @ y, 4 x 4", lambda: x @ y, 1),
        ("a + b, recorded for autograd", lambda: leaf + b, 1),
        ("20 additions in a row, each", chain, 20),
        ("x[1:, 2:] (a view)", lambda: x[1:, 2:], 1),
        ("empty(1000)", lambda: m.empty(1000, device=device), 1),
        ("randn(4)", lambda: m.randn(4, device=device), 1)]
    found = {}
    for name, call, share in work:
        call()
        count = ENQUEUED // share
        found[name] = (host_seconds(call, cuda.synchronize, count) / share * 1e6, "µs")
    return found


def copies(m: Any, cuda: Any, device: str, tiny: bool) -> dict[str, tuple[float, str]]:
    """Copies between host and GPU, in GB/s."""
    n = (1 if tiny else 64) << 20
    pageable = m.ones(n // 4)
    pinned = pageable.pin_memory()
    on = m.empty(n // 4, device=device)
    other = m.empty(n // 4, device=device)
    work = [("host to GPU, pageable", lambda: on.copy_(pageable)),
            ("host to GPU, pinned", lambda: on.copy_(pinned, non_blocking=True)),
            ("GPU to host, pageable", lambda: pageable.copy_(on)),
            ("GPU to host, pinned", lambda: pinned.copy_(on, non_blocking=True)),
            ("GPU to GPU (read and write)", lambda: other.copy_(on))]
    found = {}
    for name, call in work:
        call()
        scale = 2 if "read and write" in name else 1
        found[name] = (scale * n / whole_seconds(call, cuda.synchronize, 4) / 1e9, "GB/s")
    small = m.ones(4, device=device)
    found["item() of a result"] = (
        host_seconds(lambda: small.sum().item(), cuda.synchronize, 50) * 1e6, "µs")
    return found


def graphs(m: Any, cuda: Any, device: str, tiny: bool) -> dict[str, tuple[float, str]]:
    """A graph of 100 kernels on 1000 elements, beside the same calls."""
    x = m.ones(1000, device=device)

    def hundred() -> Any:
        y = x
        for _ in range(100):
            y = y + 1.0
        return y

    hundred()
    g = cuda.CUDAGraph()
    with cuda.graph(g):
        out = hundred()
    g.replay()
    cuda.synchronize()
    assert float(out[0].item()) == 101.0, "the graph computed something else"
    found = {"100 calls": (whole_seconds(hundred, cuda.synchronize, 5) * 1e6, "µs"),
             "replay of 100 kernels": (whole_seconds(g.replay, cuda.synchronize, 20) * 1e6, "µs"),
             "enqueue a replay": (host_seconds(g.replay, cuda.synchronize, 20) * 1e6, "µs")}
    r = cuda.CUDAGraph()
    with cuda.graph(r):
        drawn = m.rand(1000, device=device)
    r.replay()
    first = drawn.clone()
    r.replay()
    assert not bool((first == drawn).all().item()), "a replay drew the same numbers again"
    found["enqueue a replay that draws"] = (
        host_seconds(r.replay, cuda.synchronize, 20) * 1e6, "µs")
    return found


def streams(m: Any, cuda: Any, device: str, tiny: bool) -> dict[str, tuple[float, str]]:
    """A copy from pinned memory beside a computation: after each other, and on two streams."""
    n = (1 if tiny else 32) << 20
    pinned, on = m.ones(n // 4).pin_memory(), m.empty(n // 4, device=device)
    x = m.ones((1 if tiny else 64) << 18, device=device)
    side = cuda.Stream()

    def compute() -> None:
        y = x
        for _ in range(8):
            y = y.sin()

    def in_turn() -> None:
        on.copy_(pinned, non_blocking=True)
        compute()

    def beside() -> None:
        with cuda.stream(side):
            on.copy_(pinned, non_blocking=True)
        compute()
        cuda.current_stream().wait_stream(side)

    in_turn()
    beside()
    e = cuda.Event()
    s = cuda.current_stream()
    return {"copy, then compute": (whole_seconds(in_turn, cuda.synchronize, 5) * 1e6, "µs"),
            "copy beside compute": (whole_seconds(beside, cuda.synchronize, 5) * 1e6, "µs"),
            "record an event": (host_seconds(e.record, cuda.synchronize) * 1e6, "µs"),
            "wait for an event": (host_seconds(lambda: s.wait_event(e), cuda.synchronize) * 1e6,
                                  "µs")}


def events(m: Any, cuda: Any, device: str, tiny: bool) -> dict[str, tuple[float, str]]:
    """The time between two events, and by the host's clock."""
    x = m.ones((1 if tiny else 64) << 20, device=device)
    x.sin()
    cuda.synchronize()
    a, b = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    start = time.perf_counter()
    a.record()
    for _ in range(20):
        x.sin()
    b.record()
    b.synchronize()
    host = (time.perf_counter() - start) * 1e3
    return {"20 sin by events": (a.elapsed_time(b), "ms"), "the same by the host": (host, "ms")}


def memory(m: Any, cuda: Any, device: str, tiny: bool) -> dict[str, tuple[float, str]]:
    """Memory of training steps of a small network."""
    width = 64 if tiny else 1024
    net = m.nn.Sequential(m.nn.Linear(width, 4 * width), m.nn.GELU(),
                          m.nn.Linear(4 * width, width)).to(device)
    opt = m.optim.Adam(net.parameters())
    x = m.randn(512, width, device=device)
    cuda.synchronize()
    cuda.empty_cache()
    cuda.reset_peak_memory_stats()
    for _ in range(3):
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()
    cuda.synchronize()
    mib = 1 << 20
    return {"allocated": (cuda.memory_allocated() / mib, "MiB"),
            "at most allocated": (cuda.max_memory_allocated() / mib, "MiB"),
            "reserved": (cuda.memory_reserved() / mib, "MiB")}


CASES = {"Host time of a call": calls, "Copies": copies, "Graphs": graphs,
         "Streams and events": streams, "Time by events": events,
         "Memory of a training step": memory}


def bare_launch(device: str) -> tuple[float, str]:
    """A kernel that does nothing, by the driver's call alone: the floor under every launch."""
    import lampion
    from lampion_cuda import compiler
    from lampion_cuda.launch import Block, argument_layout

    gpu = lampion.ones(1, device=device).data_.bin.pool.device
    kernel = compiler.build(gpu, 'extern "C" __global__ void nothing(long long n) {}\n', "nothing")
    block = Block(*argument_layout("q"))
    launch, stream, function = gpu.drv.cuLaunchKernel, gpu.current.stream.cu, kernel.function
    return host_seconds(lambda: launch(function, 1, 1, 1, 32, 1, 1, 0, stream, block.table, 0),
                        gpu.finish) * 1e6, "µs"


def rival() -> Any:
    """PyTorch, if it is here and has a GPU."""
    try:
        import torch

        return torch if torch.cuda.is_available() else None
    except ImportError:
        return None


def measured(case: Callable[..., Any], m: Any, device: str, tiny: bool) -> Any:
    """What a case gives, or the line that says how it failed."""
    try:
        return case(m, m.cuda, device, tiny)
    except Exception as error:
        first = (str(error) or "no message").splitlines()[0]
        return f"{type(error).__name__}: {first[:150]}"


def table(title: str, ours: Any, theirs: Any) -> None:
    """Print one case."""
    print(f"\n### {title}\n")
    for name, result in (("lampion", ours), ("torch", theirs)):
        if isinstance(result, str):
            print(f"{name} failed: {result}\n")
    rows = ours if isinstance(ours, dict) else theirs if isinstance(theirs, dict) else {}
    print("| | unit | lampion | torch | times better |\n|---|---|---:|---:|---:|")
    for label in rows:
        cells = [r.get(label) if isinstance(r, dict) else None for r in (ours, theirs)]
        unit = next(c[1] for c in cells if c)
        words = [f"{c[0]:.3g}" if c else "" for c in cells]
        ratio = ""
        if cells[0] and cells[1] and cells[0][0] and cells[1][0]:
            better = cells[0][0] / cells[1][0] if unit == "GB/s" else cells[1][0] / cells[0][0]
            ratio = f"{better:.2f}"
        print(f"| {label} | {unit} | {words[0]} | {words[1]} | {ratio} |")
    print(flush=True)


def main() -> None:
    """Run all cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small cases, to try the script")
    args = parser.parse_args()
    import lampion
    import lampion.cuda

    torch = rival()
    print("## Calls, memory and copies")
    for title, case in CASES.items():
        ours = measured(case, lampion, args.device, args.tiny)
        if case is calls and isinstance(ours, dict):
            try:
                ours["an empty kernel, by the driver"] = bare_launch(args.device)
            except Exception as error:
                print(f"the empty kernel failed: {error}")
        table(title, ours, measured(case, torch, args.device, args.tiny) if torch else None)
    print(lampion.cuda.memory_summary().replace("\n", "\n    ").join(("    ", "\n")))


if __name__ == "__main__":
    main()
