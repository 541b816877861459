"""make_fx: the graph of the ops that ran."""

from __future__ import annotations

import pickle

import pytest

import lampion as torch
from lampion import nn
from lampion.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

F = torch.nn.functional


def test_composites_show_as_their_ops():
    def fn(x, w):
        return {"n": F.layer_norm(x @ w, (3,)), "t": x.chunk(2, 1)[0].detach() + 1}

    x, w = torch.randn(2, 4), torch.randn(4, 3)
    made = make_fx(fn)(x, w)
    names = [n.target.__name__ for n in made.graph.nodes if n.op == "call_function"]
    assert "matmul" in names and "chunk" not in names
    a, b = torch.randn(2, 4), torch.randn(4, 3)
    for k, value in fn(a, b).items():
        assert torch.equal(made(a, b)[k], value)
    made.graph.lint()
    assert [n.name for n in made.graph.nodes if n.op == "placeholder"] == ["x_1", "w_1"]
    assert made.graph.find_nodes(op="placeholder")[0].meta["val"].shape == (2, 4)


def test_gradients_are_in_the_graph():
    def step(x, w):
        w = w.detach().requires_grad_()
        loss = F.relu(x @ w).square().mean()
        return torch.autograd.grad(loss, w)[0]

    made = make_fx(step)(torch.randn(5, 4), torch.randn(4, 3))
    x, w = torch.randn(5, 4), torch.randn(4, 3)
    assert torch.equal(made(x, w), step(x, w))


def test_parameters_and_constants_are_attributes():
    net, shift = nn.Linear(2, 2), torch.ones(2)
    x = torch.randn(3, 2)
    made = make_fx(lambda x: net(x) + shift)(x)
    assert dict(made.named_parameters()).keys() == {"_param_constant0", "_param_constant1"}
    assert made._param_constant0 is net.weight and list(dict(made.named_buffers())) == [
        "_tensor_constant0"]
    y = torch.randn(3, 2)
    assert torch.equal(made(y), net(y) + shift)
    assert torch.equal(make_fx(net)(x)(y), net(y))


def test_nested_arguments_and_modes():
    made = make_fx(lambda pair, k=1: pair[0] * pair[1] + k, tracing_mode="symbolic")(
        (torch.ones(2), torch.ones(2)), k=2)
    assert made(torch.ones(2), 3 * torch.ones(2), 2).tolist() == [5.0, 5.0]
    seen = []
    make_fx(lambda x: seen.append(get_proxy_mode()) or x + 1)(torch.ones(1))
    assert seen[0] is not None and get_proxy_mode() is None
    with pytest.raises(ValueError, match="tracing_mode"):
        make_fx(lambda x: x, tracing_mode="nothing")


def test_decompositions():
    def silu(x):
        return x * x.sigmoid()

    made = make_fx(lambda x: F.silu(x), {silu_op(): silu})(
        torch.ones(2))
    assert [n.name for n in made.graph.nodes][1:-1] == ["sigmoid", "mul"]


def silu_op():
    from lampion.ops.registry import REGISTRY

    return REGISTRY["silu"].fn


def test_what_a_graph_of_values_cannot_show_is_refused():
    def writes(x):
        y = x + 1
        y.mul_(2)
        return y

    with pytest.raises(RuntimeError, match="written to in place.*last written"):
        make_fx(writes)(torch.ones(2))
    with pytest.raises(RuntimeError, match="random numbers"):
        make_fx(lambda x: F.dropout(x))(torch.ones(2))
    assert (torch.ones(2) + 1).tolist() == [2.0, 2.0]


def test_pickling():
    made = make_fx(lambda x: torch.relu(x) * 2)(torch.ones(2))
    assert pickle.loads(pickle.dumps(made))(torch.tensor([-1.0, 3.0])).tolist() == [0.0, 6.0]
