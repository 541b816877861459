"""The GPU benchmarks of convolutions and attention run, on the simulator, with small cases."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import lampion
from lampion import config

FOLDER = Path(__file__).parents[2] / "benchmarks"


def printed(name, capsys, monkeypatch):
    """What a benchmark prints, and that nothing in it failed."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "rival", lambda: None)
    monkeypatch.setattr(sys, "argv", [name, "--tiny"])
    module.main()
    out, err = capsys.readouterr()
    assert "failed" not in out and "WRONG" not in out and "Traceback" not in err
    return out


@pytest.fixture
def fe(simulated, gpu):
    from simulator import cudnn

    lampion.ones(1, device=gpu)
    with cudnn.installed() as module:
        yield module


def test_convolutions(fe, capsys, monkeypatch):
    out = printed("gpu_conv", capsys, monkeypatch)
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    assert sum("| generated |" in line for line in lines) == 6
    assert sum("| cuDNN |" in line for line in lines) == 6
    assert {"tensor core", "plain"} <= set(fe.ran)


def test_attention(fe, capsys, monkeypatch):
    out = printed("gpu_attention", capsys, monkeypatch)
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    for kind in ("bfloat16 | generated", "bfloat16 | cuDNN", "float32 | generated",
                 "float32 (TF32) | generated"):
        assert sum(f"| {kind} |" in line for line in lines) == 2, kind
    assert fe.ran and config.get("backend.cuda.dnn") == "auto"
    assert lampion.get_float32_matmul_precision() == "highest"
