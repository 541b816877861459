"""Rules of the house that a test can check: no vendor in the core, no oracle in what ships."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

VENDORS = re.compile(
    r"cuda|opencl|rocm|\bhip\b|sycl|vulkan|\bmetal\b|onednn|mkldnn|nvidia|\bamd\b|\bintel\b|pocl",
    re.IGNORECASE,
)
ORACLE = re.compile(r"^\s*(import torch\b|from torch\b)", re.MULTILINE)


def sources(*folders: str) -> list[Path]:
    found = [p for f in folders for p in (ROOT / f).rglob("*.py") if "build" not in p.parts]
    if not found:
        pytest.skip("the sources are not here")
    return found


def lines_with(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    hits = []
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if pattern.search(line):
                hits.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    return hits


def test_the_core_names_no_vendor():
    assert not (hits := lines_with(VENDORS, sources("core"))), "\n".join(hits)


def test_the_core_branches_on_no_device():
    # Printing leaves the host's name out, as PyTorch does; that is the one comparison allowed.
    branch = re.compile(r"(if|elif|while)\b.*\bdevice(\.type)?\s*(==|!=)\s*[\"'](?!cpu[\"'])")
    assert not (hits := lines_with(branch, sources("core"))), "\n".join(hits)


def test_nothing_that_ships_imports_the_oracle():
    hits = lines_with(ORACLE, sources("core", "backends", "plugins"))
    assert not hits, "\n".join(hits)


def test_files_stay_readable():
    long = [
        p for p in sources("core", "backends", "plugins") if len(p.read_bytes().splitlines()) > 800
    ]
    assert not long, long


def test_importing_lampion_imports_no_backend():
    code = """
import sys
import lampion
from importlib import metadata
points = [p for d in metadata.distributions() for p in d.entry_points]
lazy = {p.value.split(":")[0].split(".")[0] for p in points if p.group == "lampion.backends"}
lazy |= {"pluggy", "structlog", "scipy", "llvmlite", "ml_dtypes"}
print(*sorted(lazy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), done.stdout
