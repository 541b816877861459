"""Fixtures: the OpenCL backend opened once per schedule. Skipped where there is no driver."""

from __future__ import annotations

import pytest

from lampion import config


@pytest.fixture(scope="session", params=["cpu", "gpu"])
def backend(request):
    pytest.importorskip("pyopencl")
    from lampion_opencl import plugin, runtime

    config.register_schema("backend.opencl", plugin.lampion_config_schema())
    try:
        runtime.discover()
    except RuntimeError as error:
        pytest.skip(str(error))
    with config.override({"backend.opencl.schedule": request.param}):
        made = plugin.OpenCLBackend()
        made.open(0)
    made.schedule = request.param
    return made
