"""The script that runs compute-sanitizer, with programs that stand in for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import sanitize


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def stand_in(folder: Path, text: str) -> None:
    path = folder / "compute-sanitizer"
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{text}\n")
    path.chmod(0o755)


def test_without_the_program_it_says_so(folder, capfd, monkeypatch):
    monkeypatch.setattr(sanitize, "found", lambda: None)
    assert sanitize.main([]) == 0
    assert "NO kernel was checked" in capfd.readouterr().out


def test_it_is_found_by_path_and_by_cuda_home(folder, monkeypatch):
    stand_in(folder, "")
    assert sanitize.found() == str(folder / "compute-sanitizer")
    monkeypatch.setenv("PATH", os.devnull)
    (folder / "bin").mkdir()
    (folder / "compute-sanitizer").rename(folder / "bin" / "compute-sanitizer")
    monkeypatch.setenv("CUDA_HOME", str(folder))
    assert sanitize.found() == str(folder / "bin" / "compute-sanitizer")


def test_both_tools_run_over_the_kernels(folder, capfd):
    stand_in(folder, "print(*sys.argv[1:], os.environ['LAMPION_CUDA_REAL'])")
    assert sanitize.main(["-k", "float32"]) == 0
    out = capfd.readouterr().out
    for tool in sanitize.TOOLS:
        assert f"--tool {tool} --error-exitcode 9" in out
    assert out.count("test_cuda_attention.py") == 2 and out.count("-k float32 1") == 2
    assert "nothing was found" in out
    missing = [n for n in sanitize.KERNELS if not (sanitize.HERE / n).exists()]
    assert not missing


def test_errors_fail_the_run(folder, capfd):
    stand_in(folder, "sys.exit(9 * ('racecheck' in sys.argv))")
    assert sanitize.main([]) == 1
    assert "found errors: racecheck (exit status 9)" in capfd.readouterr().out
