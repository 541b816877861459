"""Ops of programs: `torch.library`."""

from __future__ import annotations

import pytest

import lampion
from lampion import custom_ops


def test_an_op_with_a_gradient():
    @custom_ops.custom_op("tests::cube", mutates_args=())
    def cube(x):
        return x * x * x

    def setup(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    cube.register_autograd(lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g, setup_context=setup)
    x = lampion.tensor([1.0, 2.0], requires_grad=True)
    lampion.ops.tests.cube(x).sum().backward()
    assert x.grad.tolist() == [3.0, 12.0] and cube(x.detach()).tolist() == [1.0, 8.0]
    with pytest.raises(RuntimeError, match="by place"):
        cube(x=x)


def test_a_library_defines_and_implements():
    made = custom_ops.Library("tests", "FRAGMENT")
    assert made.define("add_one(Tensor x) -> Tensor") == "add_one"
    with pytest.raises(NotImplementedError, match="no function for the device 'cpu'"):
        lampion.ops.tests.add_one(lampion.ones(1))
    made.impl("add_one", lambda x: x + 1, "CPU")
    assert lampion.ops.tests.add_one.default(lampion.ones(1)).tolist() == [2.0]
    with pytest.raises(ValueError, match="namespace::name"):
        custom_ops.custom_op("nothing", mutates_args=())(abs)
