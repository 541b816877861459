"""`lampion new`: what it writes installs as it is, and its own tests pass at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lampion.cli import main
from lampion.cli.new import backend_words, ops_words
from lampion.ir import kinds

pytestmark = [pytest.mark.wheels, pytest.mark.xdist_group("wheels")]


def written(tmp_path: Path, kind: str, name: str) -> Path:
    assert main(["new", kind, name, "--dir", str(tmp_path)]) == 0
    (folder,) = [p for p in tmp_path.iterdir() if (p / "pyproject.toml").exists()]
    return folder


def own_tests(folder: Path, site: Path, *words: str) -> str:
    """Install a package into `site` and run its own tests there."""
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps",
                    "--no-build-isolation", "--target", str(site), str(folder)], check=True,
                   timeout=300)
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
                          cwd=folder, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": path, "LAMPION_TEST_DEVICES": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_backend_is_green_and_reports_what_is_its_own(tmp_path):
    folder = written(tmp_path, "backend", "newdev")
    out = own_tests(folder, tmp_path / "site", "-s")
    assert "own: nothing yet" in out and "fill" in out
    text = (folder / "lampion_newdev.py").read_text()
    assert len(text.splitlines()) < 300 and "NewdevBackend" in text
    assert (folder / ".github" / "workflows" / "tests.yml").exists()
    # the first kind filled in: constants, by NumPy
    filled = text.replace('''        """Values that are read from nowhere: zeros, full, arange."""
        return None
''', '''        """Values that are read from nowhere: zeros, full, arange."""
        return super().compile(kernel)
''')
    assert filled != text
    (folder / "lampion_newdev.py").write_text(filled)
    out = own_tests(folder, tmp_path / "site2", "-s", "-k", "our_own or fill")
    assert "own: fill" in out


def test_new_ops_are_green(tmp_path):
    out = own_tests(written(tmp_path, "ops", "New-Ops"), tmp_path / "site")
    assert " passed" in out and "failed" not in out


def test_names_are_checked_and_nothing_is_overwritten(tmp_path, capsys):
    for words in (["backend", "Ac-me"], ["backend", "class"], ["ops", "3ops"]):
        assert main(["new", *words, "--dir", str(tmp_path)]) == 2
        assert "cannot be the name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    written(tmp_path, "backend", "twice")
    assert main(["new", "backend", "twice", "--dir", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert backend_words("my_dev")["Class"] == "MyDevBackend"
    assert ops_words("acme-ops")["namespace"] == "acme"


def test_every_op_is_of_some_kind():
    import lampion as L

    seen = set()

    class Looking:
        def __call__(self, kernel):
            seen.add(kinds.kind(kernel))
            return original(kernel)

    from lampion import plugins

    backend = plugins.backend("ref")
    original, backend.compile = backend.compile, Looking()
    try:
        # sizes that no other test has planned already
        x = L.arange(143.0, device="ref").reshape(13, 11) % 7
        i = L.arange(11, device="ref") % 3
        for make in (lambda: L.full((3, 13, 11), 4, device="ref"), lambda: x.t().contiguous(),
                     lambda: x.to(L.int16), lambda: x * 2 + 1.25, lambda: x.index_select(1, i),
                     lambda: x.prod(0), lambda: x.argmin(0), lambda: x.softmax(0),
                     lambda: x.cumsum(0), lambda: x.index_add(1, i, x)):
            make()
    finally:
        del backend.compile
    assert seen == set(kinds.KINDS)
