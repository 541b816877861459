"""Run the benchmarks: `python benchmarks/run.py [SUITE ...]`, a suite being calls, kernels,
library, training, opencl, plugins or start, or `... opdb [options]` for every op of PyTorch's op
database, or `... compile [options]` for compiled training steps (`opdb --help` and
`compile --help` tell the options).

Everything is measured against torch in the same process, alternating; prints Markdown tables.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measure import table

SUITES = ("calls", "kernels", "library", "training", "opencl", "plugins", "start")


def calls(lampion: Any, torch: Any) -> None:
    """Call cost at 4 elements."""
    import calls as module

    for record in (False, True):
        print(table(f"Calls on 4 elements, {'recording' if record else 'not recording'}",
                    module.rows(lampion, torch, record), 1 / 1.5), flush=True)


def kernels(lampion: Any, torch: Any) -> None:
    """Eager kernels by size."""
    import kernels as module

    for size in module.SIZES:
        print(table(f"Eager kernels, {size} float32 elements",
                    module.rows(lampion, torch, size), 0.8), flush=True)


def library(lampion: Any, torch: Any) -> None:
    """Matrix products and convolutions."""
    import kernels as module

    print(table("Matrix products and convolutions, float32", module.library(lampion, torch), 0.95))


def training(lampion: Any, torch: Any) -> None:
    """Whole training steps, and the memory they take at their peak."""
    import training as module

    print(table("Training steps, float32", module.rows(lampion, torch), 1.0))
    print(module.memory())


def opencl(lampion: Any, torch: Any) -> None:
    """The OpenCL device against torch on the CPU, and the cost of a launch."""
    import opencl_kernels as module

    others = [n for n in module.CASES if n not in (*module.ELEMENTWISE, "add of 4")]
    for title, names in (("elementwise and sum", module.ELEMENTWISE), ("the rest", others)):
        print(table(f"OpenCL device against torch on the CPU: {title}, 1M float32",
                    module.rows(names), 1.0), flush=True)
    print(module.launches())


def plugins(lampion: Any, torch: Any) -> None:
    """Ops of plug-ins: the cost of a call, and lampion-vision beside torchvision."""
    import plugin_ops as module

    print(table("Calls of a plug-in's op on 4 elements", module.overhead(lampion), 0.95,
                ("plug-in", "built-in")), flush=True)
    try:
        rows = module.beside_torchvision(lampion, torch)
    except ImportError as missing:
        print(f"No comparison of lampion-vision with torchvision: {missing}.\n")
        return
    print(table("lampion-vision", rows, 0.8, ("lampion", "torchvision")), flush=True)


def start(lampion: Any, torch: Any) -> None:
    """Import time of both, in fresh processes, and the size of what is installed."""
    code = {"lampion": "import lampion", "torch": "import torch"}
    times: dict[str, list[float]] = {n: [] for n in code}
    for _ in range(7):
        for n, c in code.items():
            t = time.perf_counter()
            subprocess.run([sys.executable, "-c", c], check=True)
            times[n].append(time.perf_counter() - t)
    empty = []
    for _ in range(7):
        t = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        empty.append(time.perf_counter() - t)
    base = statistics.median(empty)
    print("### Start\n")
    for n in code:
        print(f"- `import {n}`: {statistics.median(times[n]) - base:.3f} s over an empty process")
    for n in ("lampion", "lampion_cpu", "torch", "llvmlite", "scipy", "numpy"):
        size = installed_size(n)
        if size:
            print(f"- installed size of {n}: {size / 1e6:.0f} MB")
    print()


def installed_size(name: str) -> int:
    """Bytes of a package's folder."""
    import importlib.util

    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return 0
    return sum(f.stat().st_size for root in spec.submodule_search_locations
               for f in Path(root).rglob("*") if f.is_file() and "__pycache__" not in f.parts)


def main() -> None:
    """Parse arguments and run the suites asked for."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("suite", nargs="*", choices=[*SUITES, []], help="default: all but opencl")
    own = sys.argv[1] if sys.argv[1:2] in (["opdb"], ["compile"]) else ""
    args = p.parse_args([] if own else None)
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    import torch

    import lampion

    print(f"Python {platform.python_version()}, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads, {platform.machine()}\n")
    if own:
        importlib.import_module({"opdb": "opdb", "compile": "compiled"}[own]).run(
            lampion, torch, sys.argv[2:])
        return
    for name in args.suite or [s for s in SUITES if s != "opencl"]:
        globals()[name](lampion, torch)


if __name__ == "__main__":
    main()
