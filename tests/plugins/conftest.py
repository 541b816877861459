"""Builds throw-away plug-in wheels with pip, offline, and runs programs that see them.

Each wheel is a real one: a pyproject.toml, one module, entry points. They are built once per test
session and installed into a folder of their own, which programs get by PYTHONPATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.0"

[tool.setuptools]
py-modules = ["{module}"]

{points}
"""

BACKEND = '''
from lampion.plugins import hookimpl
from lampion.runtime.backend import Backend, Capabilities, DeviceInfo, Storage

class Acme(Backend):
    """A backend that only holds bytes."""

    def devices(self):
        return [DeviceInfo("Acme One", "a machine of paper", {"driver": "acmedrv 7.1"})]

    def capabilities(self, index):
        return Capabilities(frozenset())

    def allocate(self, nbytes, device):
        return Storage(bytearray(nbytes), nbytes, device)

    def copy_from_host(self, data, storage):
        storage.handle[: len(bytes(data))] = bytes(data)

    def copy_to_host(self, storage, nbytes):
        return bytes(storage.handle[:nbytes])
'''

GOOD = (
    BACKEND
    + """
@hookimpl
def lampion_config_schema():
    return {"speed": (int, 3, "how fast"), "mode": (("slow", "fast"), "slow", "how to run")}

@hookimpl
def lampion_backend():
    return Acme
"""
)

OPS = """
def lampion_ops(registry):
    registry.append("ops")

def lampion_kernels(registry):
    registry.append("kernels")
"""

COMMAND = """
from lampion.plugins.hookspecs import Command

def lampion_cli_commands():
    def arguments(parser):
        parser.add_argument("word")
    def run(args):
        print("acme says", args.word)
        return 7
    return [Command("acme-say", "say a word", arguments, run)]
"""

# distribution -> (module source, {group: {name: value or None for the module}})
WHEELS: dict[str, tuple[str, dict[str, dict[str, str]]]] = {
    "acme-good": (GOOD, {"backends": {"acme": ""}, "api": {"acme": "v0_1"}}),
    "acme-twin": (GOOD, {"backends": {"acme": ""}, "api": {"all": "v0_1:v0_3"}}),
    "acme-raises": (
        "import acme_missing_sdk\n" + GOOD,
        {"backends": {"raises": ""}, "api": {"raises": "v0_1"}},
    ),
    "acme-exits": (
        "raise SystemExit('no licence')\n",
        {"backends": {"exits": ""}, "api": {"exits": "v0_1"}},
    ),
    "acme-typo": (
        GOOD.replace("def lampion_backend", "def lampion_backnd"),
        {"backends": {"typo": ""}, "api": {"typo": "v0_1"}},
    ),
    "acme-argument": (
        GOOD.replace("def lampion_backend()", "def lampion_backend(device)"),
        {"backends": {"argument": ""}, "api": {"argument": "v0_1"}},
    ),
    "acme-newer": (
        "raise AssertionError('imported in spite of its API')\n",
        {"backends": {"newer": ""}, "api": {"newer": "v9_0"}},
    ),
    "acme-mute": (
        "raise AssertionError('imported without an API range')\n",
        {"backends": {"mute": ""}},
    ),
    "acme-half": (
        GOOD.replace("def copy_to_host", "def copy_to_hose"),
        {"backends": {"half": ""}, "api": {"half": "v0_1"}},
    ),
    "acme-driverless": (
        GOOD.replace("return [DeviceInfo", "raise RuntimeError('libacme.so not found')\n        ["),
        {"backends": {"driverless": ""}, "api": {"driverless": "v0_1"}},
    ),
    "acme-ops": (OPS, {"ops": {"acme-ops": ""}, "api": {"acme-ops": "v0_1"}}),
    "acme-ops-bad": (
        OPS.replace('registry.append("ops")', "1 / 0"),
        {"ops": {"acme-ops-bad": ""}, "api": {"acme-ops-bad": "v0_1"}},
    ),
    "acme-say": (COMMAND, {"cli": {"acme-say": ""}, "api": {"acme-say": "v0_1"}}),
}


def _write_project(folder: Path, name: str) -> Path:
    source, groups = WHEELS[name]
    module = name.replace("-", "_") + "_plugin"
    points = ""
    for group, entries in groups.items():
        points += f'[project.entry-points."lampion.{group}"]\n'
        points += "".join(f'{key} = "{value or module}"\n' for key, value in entries.items())
    project = folder / name
    project.mkdir()
    (project / f"{module}.py").write_text(source)
    (project / "pyproject.toml").write_text(
        PYPROJECT.format(name=name, module=module, points=points)
    )
    return project


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all wheels of WHEELS, built by pip without a network."""
    pytest.importorskip("setuptools", reason="building wheels offline needs setuptools")
    folder = tmp_path_factory.mktemp("projects")
    projects = [_write_project(folder, name) for name in WHEELS]
    house = tmp_path_factory.mktemp("wheels")
    _pip("wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-w", house, *projects)
    assert len(list(house.glob("*.whl"))) == len(WHEELS)
    return house


@pytest.fixture(scope="session")
def install(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory):
    """install("acme-good", ...) -> a folder with these wheels installed; the same each time."""
    sites: dict[tuple[str, ...], Path] = {}

    def into_folder(*names: str) -> Path:
        if names not in sites:
            site = tmp_path_factory.mktemp("site")
            wheels = [
                next(wheelhouse.glob(name.replace("-", "_") + "-1.0-*.whl")) for name in names
            ]
            _pip("install", "-q", "--no-index", "--no-deps", "--target", site, *wheels)
            sites[names] = site
        return sites[names]

    return into_folder


@pytest.fixture
def program(tmp_path: Path):
    """program(site, code or [arguments of lampion], **environment) -> the finished process.

    It runs in an empty folder with no settings of the user's.
    """

    def run(site: Path | None, what: str | list[str], seconds: int = 120, **environment: str):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("LAMPION_")}
        path = os.pathsep.join(filter(None, [str(site or ""), clean.get("PYTHONPATH", "")]))
        clean.update(XDG_CONFIG_HOME=str(tmp_path), PYTHONPATH=path, **environment)
        command = [sys.executable, "-m", "lampion", *what]
        if isinstance(what, str):
            command = [sys.executable, "-c", textwrap.dedent(what)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=clean, timeout=seconds
        )

    return run
