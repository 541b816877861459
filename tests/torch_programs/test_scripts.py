"""Programs of public repositories run to their end under `lampion run`, in a copy of their folder.

LAMPION_PROGRAMS names the folder with the checkouts (`make programs PROGRAMS=...`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = os.environ.get("LAMPION_PROGRAMS", "")
pytestmark = pytest.mark.skipif(not PROGRAMS, reason="LAMPION_PROGRAMS names no checkouts")


def copied(name: str, tmp_path: Path) -> Path:
    source = Path(PROGRAMS) / name
    if not source.is_dir():
        pytest.skip(f"there is no {name} in {PROGRAMS}")
    return Path(shutil.copytree(source, tmp_path / Path(name).name))


def run(folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "lampion", "run", *words], cwd=folder,
                          capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("file", [
    "nn/dynamic_net", "nn/two_layer_net_module", "nn/two_layer_net_nn", "nn/two_layer_net_optim",
    "autograd/two_layer_net_autograd", "autograd/two_layer_net_custom_function",
    "tensor/two_layer_net_tensor"])
def test_first_steps(file, tmp_path):
    out = run(copied("jc-examples", tmp_path), f"{file}.py")
    losses = [float(line.split()[-1]) for line in out.splitlines() if re.match(r"\d+ ", line)]
    assert losses[-1] < losses[0] / 2


def test_micrograd_s_own_tests(tmp_path):
    assert "2 passed" in run(copied("micrograd", tmp_path), "-m", "pytest", "-q", "test")


@pytest.mark.parametrize("kind", ["bigram", "mlp", "rnn", "gru", "bow", "transformer"])
def test_makemore_trains(kind, tmp_path):
    out = run(copied("makemore", tmp_path), "makemore.py", "--type", kind, "--max-steps", "20",
              "-n", "0", "--n-layer", "1", "--n-embd", "16", "--n-embd2", "16")
    assert "step 10 | loss" in out


def test_nanogpt_trains_resumes_and_samples(tmp_path):
    folder = copied("nanoGPT", tmp_path)
    (folder / "data/shakespeare_char/input.txt").write_text((folder / "README.md").read_text() * 8)
    run(folder, "data/shakespeare_char/prepare.py")
    small = ["config/train_shakespeare_char.py", "--device=cpu", "--eval_iters=2",
             "--log_interval=1", "--block_size=16", "--batch_size=4", "--n_layer=1", "--n_head=2",
             "--n_embd=16", "--always_save_checkpoint=True", "--eval_interval=5",
             "--dtype=float32"]
    assert "iter 5: loss" in run(folder, "train.py", *small, "--max_iters=5", "--compile=False")
    out = run(folder, "train.py", *small, "--max_iters=8", "--init_from=resume", "--compile=True")
    assert "iter 8: loss" in out and "iter 4: loss" not in out
    pytest.importorskip("tiktoken")
    assert "-----" in run(folder, "sample.py", "--out_dir=out-shakespeare-char", "--device=cpu",
                          "--num_samples=1", "--max_new_tokens=10", "--dtype=float32")


@pytest.mark.parametrize("package", ["einops.layers.torch", "torchdiffeq", "safetensors.torch",
                                     "transformers", "accelerate", "tensorboard"])
def test_packages_import(package, tmp_path):
    pytest.importorskip(package.partition(".")[0])
    (tmp_path / "program.py").write_text(f"import {package}\nprint('imported')\n")
    assert "imported" in run(tmp_path, "program.py")
