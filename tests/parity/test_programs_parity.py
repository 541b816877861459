"""Random programs on the host against PyTorch: dtypes, shapes, strides, values, what views see.

`LAMPION_TEST_PROGRAMS` says how many (`make nightly` runs 20,000).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import lampion

sys.path.insert(0, str(Path(__file__).parents[1]))
from programs import differences, programs  # noqa: E402

COUNT = int(os.environ.get("LAMPION_TEST_PROGRAMS", "300"))


def steps(t):
    """Strides that say something: those of dims with more than one element."""
    return [s for s, n in zip(t.stride(), t.shape) if n > 1] if t.numel() else []


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=COUNT, deadline=None, database=None, derandomize=COUNT <= 300,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(programs())
def test_programs_give_what_torch_gives(program):
    ours, theirs = program.run(lampion), program.run(torch)
    assert not differences(program, theirs, lambda t: t.numpy()), "the reference is wrong"
    for k, (a, b) in enumerate(zip(ours, theirs)):
        assert str(a.dtype).rpartition(".")[2] == str(b.dtype).rpartition(".")[2], f"t{k}"
        assert tuple(a.shape) == tuple(b.shape), f"t{k}"
        assert steps(a) == steps(b), f"t{k}: strides {a.stride()}, not {b.stride()}"
        np.testing.assert_array_equal(a.numpy(), b.numpy(), f"t{k}")
