"""Tests of the CUDA backend run on the simulator, in this process, unless LAMPION_CUDA_REAL=1.

On the simulator each test ends with a look at what it found wrong: writes behind an allocation or
after it was freed, deadlocks, double frees.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `simulator` and the modules beside this one

from real import REAL  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that set up faults, or look into the simulator, are not for a GPU."""
    if REAL:
        for item in items:
            if "simulated" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="of the simulator; LAMPION_CUDA_REAL=1"))


@pytest.fixture(scope="session")
def simulator_session():
    """The simulator in this process, or a skip that says what it needs."""
    pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings (lampion-cuda)")
    import simulator

    try:
        simulator.install()
    except RuntimeError as error:
        if "compiler" not in str(error):
            raise
        pytest.skip(str(error))
    return simulator


@pytest.fixture
def simulated(simulator_session):
    """The simulator, whose settings are as before when the test ends."""
    names = [*simulator_session.SETTINGS, "order"]
    with simulator_session.using(**{n: simulator_session.current(n) for n in names}):
        yield simulator_session
        simulator_session.reset()


@pytest.fixture(autouse=not REAL)
def nothing_was_wrong(request: pytest.FixtureRequest):
    """Fail a test during which the simulator found something wrong. Tests that cause it reset."""
    yield
    import simulator

    if simulator.is_installed():
        found, text = simulator.get("violations"), simulator.message()
        if found:
            simulator.reset()
        assert not found, text


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> str:
    """The device that tests of the backend run on."""
    pytest.importorskip("lampion_cuda")
    if not REAL:
        request.getfixturevalue("simulator_session")
    return "cuda"
