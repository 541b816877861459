"""Settings of `[backend.cpu]` reach the modules of the CPU backend."""

from __future__ import annotations

import pytest

pytest.importorskip("lampion_cpu")

SHOW = """
from lampion import plugins
info, = plugins.devices("cpu")
print(info.details["threads"], info.details["native"], info.details["vector_bits"],
      info.details["onednn"][:2])
"""


def test_a_file_sets_what_the_backend_uses(program, tmp_path):
    (tmp_path / "lampion.toml").write_text(
        "[threads]\ncount = 1\n"
        "[backend.cpu]\nnative = false\nvector_bits = 128\nonednn = false\nthreading = 'auto'\n"
    )
    done = program(None, SHOW)
    assert done.stdout == "1 False 128 no\n", done.stderr


def test_the_environment_wins_over_the_file(program, tmp_path):
    (tmp_path / "lampion.toml").write_text("[backend.cpu]\nvector_bits = 128\n")
    done = program(None, SHOW, LAMPION_VECTOR_BITS="256", LAMPION_NUM_THREADS="1")
    assert done.stdout.split()[::2] == ["1", "256"], done.stderr


def test_a_wrong_option_is_named(program, tmp_path):
    (tmp_path / "lampion.toml").write_text("[backend.cpu]\nonedn = false\n")
    done = program(None, SHOW)
    assert "unknown option 'backend.cpu.onedn' (did you mean 'backend.cpu.onednn'?)" in done.stderr
    (tmp_path / "lampion.toml").write_text("[backend.cpu]\nthreading = 'openmp'\n")
    assert "not one of auto, gomp, own, serial" in program(None, SHOW).stderr
