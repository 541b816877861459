"""What every chapter gets: the device, its backend, an oracle, and whether the run is quick."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lampion
from lampion import plugins
from lampion.ops.plans import backend_of
from lampion.runtime.devices import resolve


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: not part of a quick run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a device there is nothing to run; a quick run leaves out what is marked `full`."""
    if not config.getoption("lampion_device"):
        raise pytest.UsageError("name the device to test: --lampion-device=DEVICE")
    if config.getoption("lampion_quick"):
        items[:] = [item for item in items if item.get_closest_marker("full") is None]


@pytest.fixture(scope="session")
def name(pytestconfig: pytest.Config) -> str:
    """The device as it was given on the command line."""
    return pytestconfig.getoption("lampion_device")


@pytest.fixture(scope="session")
def device(name: str) -> str:
    """Its resolved name."""
    return str(resolve(name))


@pytest.fixture(scope="session")
def where(device: str) -> Any:
    """The device object."""
    return resolve(device)


@pytest.fixture(scope="session")
def backend(where: Any) -> Any:
    """The backend instance."""
    return backend_of(where)


@pytest.fixture(scope="session")
def caps(backend: Any, where: Any) -> Any:
    """What the backend says that the device can do."""
    return backend.capabilities(where.index or 0)


@pytest.fixture(scope="session")
def oracle(where: Any) -> str:
    """The device whose results count: the reference device, or the host's where that is tested."""
    return "cpu" if where.type == "ref" or "ref" not in plugins.backend_names() else "ref"


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    """Whether three minutes have to do."""
    return bool(pytestconfig.getoption("lampion_quick"))


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every test and run."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def settled() -> Any:
    """Every test starts from one seed."""
    lampion.manual_seed(0)
    yield
