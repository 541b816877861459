"""Random programs on the host against NumPy: broadcasting, promotion, indexing, views, writes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings

import lampion

sys.path.insert(0, str(Path(__file__).parents[1]))
from programs import differences, programs  # noqa: E402

COUNT = int(os.environ.get("LAMPION_TEST_PROGRAMS", "500"))


@settings(max_examples=COUNT, deadline=None, database=None, derandomize=COUNT <= 500,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(programs())
def test_programs_give_what_numpy_gives(program):
    found = program.run(lampion)
    assert not differences(program, found, lambda t: t.cpu().numpy())


COMPILED = COUNT // 5


@settings(max_examples=COMPILED, deadline=None, database=None, derandomize=COMPILED <= 100,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(programs())
def test_compiled_programs_give_what_numpy_gives(program):
    for found in program.run_compiled(lampion):
        assert not differences(program, found, lambda t: t.cpu().numpy())


EVERYWHERE = int(os.environ.get("LAMPION_TEST_DEVICE_PROGRAMS", "10"))


def test_programs_on_every_device(device):
    """The same programs on devices that compile each kernel for a while: fewer of them."""
    @settings(max_examples=EVERYWHERE, deadline=None, database=None, derandomize=True,
              suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(programs())
    def check(program):
        with lampion.device(device):
            found = program.run(lampion)
        assert not differences(program, found, lambda t: t.cpu().numpy())
        assert all(t.device.type == device.partition(":")[0] for t in found)

    check()
