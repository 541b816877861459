"""PyTorch's operator database: every entry's results, gradients, errors and forms, against the
strict list of known gaps (opdb/known_gaps.txt)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("expecttest")

from opdb import gaps  # noqa: E402

FAMILIES = ("binary", "conversion", "creation", "elementwise", "fft", "indexing", "linalg",
            "masked", "nn.functional", "random", "reduction", "shape", "signal", "special",
            "unary")
RESULTS = os.environ.get("LAMPION_OPDB_RESULTS", "")  # where to leave them for the report

pytestmark = pytest.mark.xdist_group("opdb")  # one process collects, with workers of its own


def run(file: Path, *options: str) -> dict[str, Any]:
    """What the command finds, in a process of its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("opdb")), *options, "--json", str(file),
               "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert file.exists(), done.stderr[-3000:]
    return json.loads(file.read_text())


def confirmed(line: str, results: dict[str, Any]) -> bool:
    """Whether a failure is one with other numbers too: what only rounds otherwise on another
    processor passes with these."""
    name, check, d = line.split()
    file = Path(results["file"]).with_name("again.json")
    found = (gaps.outcomes(run(file, "--ops", name, "--check", check, "--samples", "2",
                               "--seed", str(seed))).get((name, check, d)) for seed in (1, 2))
    return not all(found)


@pytest.fixture(scope="module")
def results(tmp_path_factory: Any) -> dict[str, Any]:
    """What the command finds with the options of the list."""
    file = Path(RESULTS or tmp_path_factory.mktemp("opdb") / "cpu.json")
    return {**run(file, *gaps.OPTIONS), "file": str(file)}


def test_families_are_all_listed(results: dict[str, Any]) -> None:
    assert {e["family"] for e in results["entries"].values()} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_new_failures_and_no_stale_gaps(family: str, results: dict[str, Any]) -> None:
    news, mended = gaps.compare(results, family)
    news = [line for line in news if confirmed(line, results)]
    assert not news, f"these fail and are no known gaps: {news}"
    assert not mended, f"these pass: take them off opdb/known_gaps.txt: {mended}"
