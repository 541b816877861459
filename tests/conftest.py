"""The `device` argument: a test that takes it runs once for every installed device.

LAMPION_TEST_DEVICES=one,two:1 names the devices instead; then one that does not work is a failure.
Without it, a device that is installed but cannot be used here (no driver, no `ld`) is skipped with
the backend's own reason, save the host's, which must always work.

LAMPION_SIMULATOR=on LAMPION_TEST_DEVICES=cuda runs tests on a simulated GPU (tests/cuda/simulator).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one

# Errors of indices at the call, as tests expect them (read when that backend is loaded).
os.environ.setdefault("LAMPION_CUDA_CHECKS", "now")

if os.environ.get("LAMPION_SIMULATOR"):
    sys.path.insert(0, str(Path(__file__).parent / "cuda"))
    import simulator

    simulator.install()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give `device` to every test that asks for it and has no list of its own."""
    if "device" not in metafunc.fixturenames:
        return
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0]
        names = names.split(",") if isinstance(names, str) else names
        if "device" in [name.strip() for name in names]:
            return
    from devices import wanted_devices

    metafunc.parametrize("device", wanted_devices(), indirect=True, scope="session")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The name of a device that works, or a skip that says why it does not."""
    name = request.param
    from lampion import plugins

    try:
        found = plugins.devices(name.partition(":")[0])
    except plugins.PluginError as error:
        if name == "cpu" or os.environ.get("LAMPION_TEST_DEVICES"):
            raise
        pytest.skip(str(error))
    if not found:
        pytest.skip(f"{name}: no device found")
    return name


_STARTS = pytest.StashKey[dict]()


@pytest.fixture(autouse=True)
def numbers_of_the_test(request: pytest.FixtureRequest) -> None:
    """A module's `rng` starts every test from the same state, whichever tests ran before it."""
    rng = getattr(request.module, "rng", None)
    if isinstance(rng, np.random.Generator):
        states = request.session.stash.setdefault(_STARTS, {})
        rng.bit_generator.state = states.setdefault(request.module.__name__,
                                                    rng.bit_generator.state)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reasons why compiled functions ran eagerly."""
    from lampion.compiler import function

    reasons: list[str] = []
    monkeypatch.setattr(function.Compiled, "_say", lambda self, reason: reasons.append(reason))
    return reasons
