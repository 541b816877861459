"""Models of public repositories compute under `lampion run` what they compute under PyTorch.

LAMPION_PROGRAMS names the folder with the checkouts (`make programs PROGRAMS=...`); PyTorch runs in
a process of its own. Outputs and losses agree within 2e-4, gradients within 2e-3 of the largest
magnitude. A case whose checkout or package is not there is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROGRAMS = os.environ.get("LAMPION_PROGRAMS", "")
HERE = Path(__file__).parent
NEEDS = {"nanoGPT": "nanoGPT", "makemore": "makemore", "cifar": "pytorch-cifar",
         "vit": "vit-pytorch", "mnist": "examples", "vae": "examples", "time": "examples",
         "word": "examples", "siamese": "pytorch-cifar"}
NAMES = ["nanoGPT", "makemore-transformer", "cifar-lenet", "vit", "mnist", "vae",
         "word-lstm", "einops",
         *(f"package-{name}" for name in (
             "longformer", "mamba2", "funnel", "performer", "spline-flow", "controlled-equation",
             "stages", "equivariant-graph", "random-field", "segmenter", "meta-learner"))]

pytestmark = pytest.mark.skipif(not PROGRAMS, reason="LAMPION_PROGRAMS names no checkouts")


def trace(command: list[str], *words: str) -> None:
    path = os.pathsep.join([str(HERE), *sys.path])
    done = subprocess.run([sys.executable, *command, str(HERE / "trace_model.py"), *words],
                          capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": path})
    if done.returncode and "No module named" in done.stderr and not command:
        pytest.skip(done.stderr.strip().splitlines()[-1])  # PyTorch itself lacks a package
    assert done.returncode == 0, done.stderr[-3000:]


def deviations(want: Any, got: Any) -> dict[str, float]:
    """The largest deviation of outputs, losses, gradients and final weights, each relative to the
    largest magnitude of its tensor. A gradient far below all others is compared with those."""
    keys = [k for k in want.files if k.partition(".")[0] in ("logits", "loss", "grad", "end")]
    missing = sorted(set(keys) ^ {k for k in got.files if k not in ("whose", "step_time")})
    assert not missing, f"not in both traces: {missing[:5]}"
    scale = max([np.abs(want[k]).max() for k in keys if k.startswith("grad.")] or [0.0])
    found = dict.fromkeys(("logits", "loss", "grad", "end"), 0.0)
    for k in keys:
        a, b = want[k].astype(np.float64), got[k].astype(np.float64)
        assert a.shape == b.shape and np.isfinite(b).all(), f"{k}: {a.shape} and {b.shape}"
        kind = k.partition(".")[0]
        size = max(np.abs(a).max(initial=0), 1e-4 * scale if kind == "grad" else 1e-3)
        found[kind] = max(found[kind], float(np.abs(a - b).max(initial=0) / size))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_model_matches_pytorch(name, tmp_path):
    needed = NEEDS.get(name.partition("-")[0])
    if needed and not (Path(PROGRAMS) / needed).is_dir():
        pytest.skip(f"there is no {needed} in {PROGRAMS}")
    want, got = tmp_path / "want.npz", tmp_path / "got.npz"
    trace([], name, PROGRAMS, str(want))
    trace(["-m", "lampion", "run"], name, PROGRAMS, str(got), str(want))
    a, b = np.load(want), np.load(got)
    assert str(a["whose"]).startswith("torch.") and str(b["whose"]).startswith("lampion.")
    off = deviations(a, b)
    assert off["logits"] <= 2e-4 and off["loss"] <= 2e-4 and off["grad"] <= 2e-3, off
