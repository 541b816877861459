"""Backends given as functions, stances, and the names of PyTorch's tracer."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import lampion
from lampion import fx, nn


def test_a_backend_is_given_a_graph_module_once_for_each_kind_of_call():
    seen = []

    def backend(module, example_inputs):
        seen.append((module, example_inputs))
        return module.forward

    @lampion.compile(backend=backend)
    def fn(x, y, k=2):
        return (x + y).relu() * k

    x = lampion.ones(3)
    assert fn(x, x).tolist() == fn(x, x).tolist() == [4, 4, 4]
    assert len(seen) == 1 and isinstance(seen[0][0], fx.GraphModule)
    assert [t.shape for t in seen[0][1]] == [(3,), (3,)]
    assert fn(x, x, k=3).tolist() == [6, 6, 6]
    assert fn(lampion.ones(2), lampion.ones(2)).tolist() == [4, 4]
    assert len(seen) == 3
    lampion.compiler.reset()
    fn(x, x)
    assert len(seen) == 4


def test_a_backend_for_a_module_and_its_gradients():
    seen = []

    def backend(module, example_inputs):
        seen.append(module)
        return module

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = nn.Linear(3, 3), nn.Parameter(lampion.ones(3))

        def forward(self, x):
            return self.inner(x) * self.scale

    net, x = Net(), lampion.randn(2, 3)
    f = lampion.compile(net, backend=backend)
    np.testing.assert_allclose(f(x).detach().numpy(), net(x).detach().numpy(), rtol=1e-6)
    f(x).sum().backward()
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(x).sum().backward()
    for a, b in zip(got, [p.grad for p in net.parameters()]):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    assert len(seen) == 1 and list(f.state_dict())[0].startswith("_orig_mod.")


def test_what_a_backend_cannot_be_given():
    f = lampion.compile(lambda x: x if x.sum() > 0 else -x, backend=lambda module, inputs: module)
    with pytest.raises(RuntimeError, match="one graph"):
        f(lampion.ones(2))
    g = lampion.compile(lambda x: x + 1, backend=lambda module, inputs: 3)
    with pytest.raises(RuntimeError, match="cannot be called"):
        g(lampion.ones(2))


def test_registered_backends():
    @lampion.compiler.register_backend
    def of_the_test(module, inputs):
        return lambda *args: module(*args) * 10

    try:
        assert "of_the_test" in lampion.compiler.list_backends()
        assert "eager" in lampion.compiler.list_backends(None)
        assert lampion.compile(lambda x: x + 1, backend="of_the_test")(lampion.ones(1)).item() == 20
    finally:
        lampion.compiler.names._registered.pop("of_the_test")
    with pytest.raises(RuntimeError, match="of_the_test"):
        lampion.compile(lambda x: x, backend="of_the_test")


def test_stances():
    fn = lampion.compile(lambda x: x + 1)
    one, two = lampion.ones(1), lampion.ones(2)
    assert fn(one).item() == 2
    with lampion.compiler.set_stance("fail_on_recompile"):
        assert fn(one).item() == 2
        with pytest.raises(RuntimeError, match="fail_on_recompile"):
            fn(two)
    lampion.compiler.set_stance("eager_on_recompile")
    try:
        assert fn(one).item() == 2 and fn(two).tolist() == [2, 2]
        assert len(fn.entries) == 1
    finally:
        lampion.compiler.set_stance("default")
    assert fn(two).tolist() == [2, 2]
    assert len(fn.entries) == 2

    @lampion.compiler.set_stance("force_eager")
    def eager(x):
        return lampion.compile(lambda y: y * (2 if lampion.compiler.is_compiling() else 3))(x)

    assert eager(one).item() == 3 == eager(one).item()
    assert lampion.compiler.names._stance[0] == "default"
    with pytest.raises(RuntimeError, match="stance"):
        lampion.compiler.set_stance("wrong")


def test_names_of_the_tracer():
    from lampion.compat import torch_names

    dynamo = torch_names.EXTRA["torch._dynamo"]()
    f = dynamo["optimize"]("eager")(lambda x: x + 1)
    assert f(lampion.ones(1)).item() == 2
    g = dynamo["optimize"](nopython=True, dynamic=True)(lambda x: x + 1)
    assert g(lampion.ones(1)).item() == 2 and g.fullgraph and g.dynamic
    x = lampion.ones(2)
    assert dynamo["mark_dynamic"](x, 0) is None and dynamo["maybe_mark_dynamic"](x, 0) is None
    assert importlib.import_module("lampion.compiler").cudagraph_mark_step_begin() is None
