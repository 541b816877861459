"""Every op of the wheel on every device here: values, gradients to order 2, forward mode, vmap; all
from the samples and references in the blocks."""

from __future__ import annotations

import pytest

import lampion_vision
from lampion import plugins
from lampion.testing import op_checks

DEVICES = [name for name in plugins.backend_names() if name in ("cpu", "ref")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", op_checks.ops_of("vision"), ids=str)
def test_op(op, device):
    op_checks.check_op(op, device)


def test_every_name_is_an_op_or_a_layer():
    declared = {op.name for op in op_checks.ops_of("vision")}
    for name in lampion_vision.__all__:
        assert callable(getattr(lampion_vision, name))
        assert name in declared or name[0].isupper()
