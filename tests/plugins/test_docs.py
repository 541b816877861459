"""What the documentation writes is run: files that a page builds up block by block (marked
`<!-- file: NAME -->`), and programs (`<!-- run -->`), in a fresh interpreter."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"<!-- (file: (?P<file>\S+)|run) -->\n```\w*\n(?P<text>.*?)```", re.DOTALL)


def files_of(page: str) -> dict[str, str]:
    """The files that a page builds up."""
    found: dict[str, str] = {}
    for m in BLOCK.finditer((DOCS / page).read_text(encoding="utf-8")):
        if m["file"]:
            found[m["file"]] = found.get(m["file"], "") + m["text"] + "\n\n"
    return found


@pytest.fixture(scope="module")
def acme(tmp_path_factory):
    """The folder into which pip installed the backend of the page."""
    pytest.importorskip("setuptools")
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    project, site = tmp_path_factory.mktemp("acme"), tmp_path_factory.mktemp("site")
    for name, text in files_of("write-a-backend.md").items():
        (project / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps",
         "--no-build-isolation", "--target", str(site), str(project)],
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return site


@pytest.mark.wheels
@pytest.mark.xdist_group("wheels")
def test_the_backend_that_is_written_works(acme, program, tmp_path):
    cache = str(tmp_path / "cache")
    done = program(acme, files_of("write-a-backend.md")["try_acme.py"], LAMPION_CACHE_DIR=cache)
    loss, device = done.stdout.split()
    assert float(loss) < 0.02 and device == "acme", done.stderr
    done = program(acme, """
        import lampion, lampion_acme
        from lampion import plugins
        class Memory(lampion_acme.Memory): pass
        import types
        module = types.ModuleType("memory_alone")
        module.lampion_backend = lambda: type("M", (Memory,), {"name": "memory"})()
        module.lampion_backend.__module__ = "memory_alone"
        plugins.register(module, "memory")
        print(lampion.zeros(3).to("memory").cpu().tolist())
        """)
    assert done.stdout == "[0.0, 0.0, 0.0]\n", done.stderr
    assert len((acme / "lampion_acme.py").read_text().splitlines()) < 300


@pytest.mark.wheels
@pytest.mark.xdist_group("wheels")
def test_the_backend_that_is_written_conforms(acme, program, tmp_path):
    pytest.importorskip("lampion_conformance")
    done = program(acme, """
        import argparse, sys
        from lampion_conformance import command
        parser = argparse.ArgumentParser()
        command.arguments(parser)
        sys.exit(command.run(parser.parse_args(["acme", "--quick", "-k",
            "contract or hygiene or a_sum or (training and not images)"])))
        """, seconds=500, LAMPION_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "acme: part of the suite, 100.0%" in done.stdout


@pytest.mark.wheels
@pytest.mark.xdist_group("wheels")
def test_the_ops_that_are_written_work(program):
    page = (DOCS / "write-ops.md").read_text(encoding="utf-8")
    texts = [m["text"] for m in BLOCK.finditer(page) if not m["file"]]
    done = program(None, "\n".join([*texts, """
x = lampion.tensor([[1.0, 4.0], [3.0, -2.0]], requires_grad=True)
y = lampion.ops.acme.softplus_with(x, 2.0).sum() + range_of(x, 1).sum() + swish(x).sum()
y.backward()
assert symmetric_part_rank(x.detach()).item() == 2
assert box_area(lampion.tensor([1.0, 1.0, 3.0, 4.0])).item() == 6.0
z = x.detach().double().requires_grad_()
want = lampion.nn.functional.softplus(z, 2.0).sum() + (z.amax(1) - z.amin(1)).sum()
(want + (z * z.sigmoid()).sum()).backward()
assert lampion.allclose(x.grad.double(), z.grad, 1e-5), (x.grad, z.grad)
"""]))
    assert done.returncode == 0, done.stderr
