"""Every GPU benchmark in one run, into one page: `python benchmarks/gpu.py [--write FILE]`.

Runs the scripts `gpu_*.py` one after the other, each in a process of its own with a time limit, and
puts their tables under one heading with the machine's description. A script that fails or takes too
long leaves what it printed and says so.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# script -> seconds it may take
SCRIPTS = {"gpu_calls": 60, "gpu_kernels": 120, "gpu_gemm": 90, "gpu_attention": 150,
           "gpu_conv": 150, "gpu_ops": 120, "gpu_models": 180}
PACKAGES = ("lampion-core", "lampion-cuda", "torch", "triton", "cuda-bindings",
            "nvidia-cuda-nvrtc", "nvidia-cublas", "nvidia-cudnn-cu13", "nvmath-python",
            "nvidia-cudnn-frontend", "numpy")


def machine(device: str) -> list[str]:
    """What the numbers were measured on."""
    from lampion import plugins

    lines = []
    for d in plugins.devices(device.partition(":")[0]):
        details = ", ".join(f"{k} {v}" for k, v in d.details.items())
        lines.append(f"- {d.name} ({d.description}; {details})")
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    python = ".".join(map(str, sys.version_info[:3]))
    return [*lines, f"- Python {python}; {', '.join(found)}",
            f"- {datetime.date.today().isoformat()}, {os.cpu_count()} processor cores"]


def section(script: str, limit: float, extra: list[str]) -> str:
    """What a script printed, or how it failed."""
    start = time.perf_counter()
    command = [sys.executable, str(HERE / f"{script}.py"), *extra]
    note = ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        out = done.stdout
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            note = f"\n`{script}.py` failed: {last}\n"
            sys.stderr.write(done.stderr)
    except subprocess.TimeoutExpired as late:
        out = (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        note = f"\n`{script}.py` was stopped after {limit:.0f} s.\n"
    print(out + note, flush=True)
    print(f"({script}: {time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
    return out.rstrip() + "\n" + note


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--write", type=Path, help="the Markdown page to write")
    parser.add_argument("--only", help="scripts, separated by commas (gpu_gemm,gpu_conv)")
    parser.add_argument("--tiny", action="store_true", help="small cases, to try the scripts")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else [
        s for s in SCRIPTS if (HERE / f"{s}.py").exists()]
    extra = ["--device", args.device] + (["--tiny"] if args.tiny else [])
    parts = ["# Measured on a GPU", "", *machine(args.device), "",
             "`make gpu` prints this page. Ratios above 1 mean that lampion is faster; torch is "
             "measured in the same process unless a table says otherwise.", ""]
    for script in chosen:
        parts.append(section(script, SCRIPTS.get(script, 120), extra))
    if args.write:
        args.write.write_text("\n".join(parts).rstrip() + "\n")


if __name__ == "__main__":
    main()
