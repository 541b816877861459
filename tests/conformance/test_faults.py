"""The conformance suite itself: it catches every planted fault, and healthy devices pass all of it.

`make conformance-faults`; not part of `make test`, since it takes minutes. Each fault is a process
that runs, quickly, the chapter which has to notice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_backend import FAULTS

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "plugins" / "conformance"

METADATA = "Metadata-Version: 2.1\nName: lampion-faulty\nVersion: 1.0\n"
POINTS = ("[lampion.backends]\nfaulty = faulty_backend\n\n[lampion.api]\nfaulty = v0_1\n")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the faulty device is installed, as far as its entry points go."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "lampion_faulty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(POINTS)
    return folder


def run(site: Path, device: str, chapters: list[str], report: Path, fault: str = "",
        *words: str) -> dict:
    """The report of a quick run of some chapters in a process of its own."""
    import lampion_conformance

    package = Path(lampion_conformance.__file__).parent
    path = os.pathsep.join(filter(None, [
        os.environ.get("PYTHONPATH", ""), str(site), str(HERE), str(package.parent)]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "lampion_conformance.plugin", "-p",
               "no:cacheprovider", "-c", str(package / "pytest.ini"), f"--rootdir={package}",
               f"--lampion-device={device}", "--lampion-quick", f"--lampion-json={report}",
               *words, *[str(package / f"test_{c}.py") for c in chapters]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, cwd=site,
                          env={**os.environ, "PYTHONPATH": path, "LAMPION_FAULT": fault})
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(report.read_text())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(site, tmp_path, fault):
    chapter, what = FAULTS[fault]
    data = run(site, "faulty", [chapter], tmp_path / "r.json", fault, "-x")
    assert data["chapters"][chapter]["failed"], f"{what}: {chapter} did not notice"


def test_without_a_fault_all_passes(site, tmp_path):
    """So it was the fault that was noticed."""
    chapters = sorted({chapter for chapter, _ in FAULTS.values()})
    data = run(site, "faulty", chapters, tmp_path / "r.json")
    assert [t for t in data["tests"] if t["outcome"] == "failed"] == []
    assert all(data["chapters"][c]["passed"] for c in chapters)


@pytest.mark.parametrize("device", ["ref", "cpu"])
def test_healthy_devices_pass_everything(site, tmp_path, device):
    from lampion_conformance import CHAPTERS

    data = run(site, device, list(CHAPTERS), tmp_path / "r.json")
    assert [t for t in data["tests"] if t["outcome"] == "failed"] == []
    assert (data["percentage"], data["level"]) == (100.0, 2)
