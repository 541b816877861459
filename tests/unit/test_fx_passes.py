"""Passes of lampion.fx over graphs: what they make computes the same."""

from __future__ import annotations

import operator

import pytest

import lampion as torch
from lampion import fx, nn
from lampion.fx.experimental.const_fold import split_const_subgraphs
from lampion.fx.passes.dialect.common.cse_pass import CSEPass
from lampion.fx.passes.graph_drawer import FxGraphDrawer
from lampion.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from lampion.fx.passes.operator_support import (
    OperatorSupport,
    OpSupports,
    any_chain,
    chain,
    create_op_support,
)
from lampion.fx.passes.shape_prop import ShapeProp
from lampion.fx.passes.utils.fuser_utils import fuse_by_partitions, validate_partition

X = torch.tensor([0.5, -1.0, 2.0])


def adds() -> OperatorSupport:
    return OperatorSupport({"operator.add": None})


def chained(x):
    a = x + 1
    b = a + 2
    c = torch.relu(b)
    d = a + c
    e = d + 3
    return e, a


def test_groups_of_supported_nodes():
    made = fx.symbolic_trace(chained)
    partitioner = CapabilityBasedPartitioner(made, adds())
    groups = partitioner.propose_partitions()
    assert [[n.name for n in p.nodes] for p in groups] == [["add", "add_1"], ["add_2", "add_3"]]
    fused = partitioner.fuse_partitions(groups)
    assert [n for n, _ in fused.named_children()] == ["fused_0", "fused_1"]
    fused.graph.lint()
    fused.recompile()
    assert all(torch.equal(a, b) for a, b in zip(fused(X), chained(X)))
    assert [n.target for n in fused.graph.nodes if n.op == "call_module"] == ["fused_0", "fused_1"]


def test_single_nodes_and_nodes_that_compute_nothing():
    def fn(x):
        return torch.relu(x + 1)

    made = fx.symbolic_trace(fn)
    assert not CapabilityBasedPartitioner(made, adds()).propose_partitions()
    assert CapabilityBasedPartitioner(made, adds(), True).propose_partitions()
    assert CapabilityBasedPartitioner(
        made, adds(),
        allowed_single_node_partition_ops=["operator.add"]).propose_partitions()
    idle = CapabilityBasedPartitioner(fx.symbolic_trace(lambda x: x + 1 + 2), adds(),
                                      non_compute_ops=["operator.add"])
    assert not idle.propose_partitions()


def test_a_group_must_not_reach_itself_from_outside():
    made = fx.symbolic_trace(chained)
    a, b, c, d, e = [n for n in made.graph.nodes if n.op == "call_function"]
    assert validate_partition([a, b]) and not validate_partition([a, d])
    with pytest.raises(AssertionError, match="cycles"):
        fuse_by_partitions(made, [[a, d]])
    assert validate_partition([c, d])


@pytest.mark.parametrize("seed", range(6))
def test_partitions_of_random_graphs(seed):
    import random

    draw = random.Random(seed)
    graph = fx.Graph()
    values = [graph.placeholder("x")]
    for _ in range(25):
        fn = draw.choice([torch.add, torch.mul, torch.relu, torch.tanh])
        count = 2 if fn in (torch.add, torch.mul) else 1
        values.append(graph.call_function(fn, tuple(draw.choices(values, k=count))))
    graph.output(tuple(values[-4:]))
    made = fx.GraphModule({}, graph)
    if seed % 2:
        made.graph.eliminate_dead_code()
    want = made(X)
    support = create_op_support(lambda modules, node: node.target in (torch.add, torch.relu))
    fused = CapabilityBasedPartitioner(made, support, True).partition_and_fuse()
    fused.recompile()
    assert all(torch.equal(a, b) for a, b in zip(fused(X), want))
    left = [n for n in fused.graph.nodes if n.target in (torch.add, torch.relu)]
    assert all(n.users.keys() <= set(left) for n in left)  # dead code


def test_supports():
    made = fx.symbolic_trace(lambda x: x + 1 - torch.relu(x))
    ShapeProp(made).propagate(X)
    add, relu, sub = [n for n in made.graph.nodes if n.op == "call_function"]
    modules = dict(made.named_modules())
    both = any_chain(adds(), OperatorSupport({"lampion.relu": None}))
    assert [both.is_node_supported(modules, n) for n in (add, relu, sub)] == [True, True, False]
    assert not chain(adds(), both).is_node_supported(modules, relu)
    typed = OperatorSupport({"operator.add": (([torch.float32],), {}),
                             "lampion.relu": (([torch.float64],), {})})
    assert typed.is_node_supported(modules, add) and not typed.is_node_supported(modules, relu)
    assert not OpSupports.decline_if_input_dtype(torch.float32).is_node_supported(modules, add)
    assert not OpSupports.decline_if_node_in_names({"add"}).is_node_supported(modules, add)


def test_equal_calls_are_merged():
    def fn(x):
        a = torch.relu(x).sum(0) + torch.relu(x).sum(0)
        return a, torch.rand(2), torch.rand(2), torch.relu(x).sum(dim=0), x[0:1], x[0:1]

    result = CSEPass()(fx.symbolic_trace(lambda x: fn(x)[0] + fn(x)[0]))
    names = [n.name for n in result.graph_module.graph.nodes]
    assert result.modified and names.count("relu") == 1 and "relu_1" not in names
    assert torch.equal(result.graph_module(X), fn(X)[0] * 2)
    drawn = CSEPass()(fx.symbolic_trace(lambda x: (torch.rand_like(x), torch.rand_like(x))))
    a, b = drawn.graph_module(X)
    assert not drawn.modified and not torch.equal(a, b)

    def writes(x):
        a, b = x * 2, x * 2
        a.add_(1)
        return a, b

    kept = CSEPass()(fx.symbolic_trace(writes)).graph_module
    assert all(torch.equal(p, q) for p, q in zip(kept(X), writes(X)))


class Folding(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.register_buffer("b", torch.tensor([0.5]))
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        scale = self.w.exp() + self.b
        return self.layer(x * scale), scale * 2 + x + self.w


def test_constants_are_folded():
    net = Folding()
    folded = split_const_subgraphs(net)
    want = net(X)
    assert all(torch.allclose(a, b) for a, b in zip(folded(X), want))
    assert folded.has_folding_been_run
    names = [str(n.target) for n in folded.graph.nodes]
    assert "exp" not in names and sum(n.startswith("_FX_CONST") for n in names) == 2
    again = split_const_subgraphs(net, lambda n: n.target == "exp")
    assert "exp" in [n.target for n in again.graph.nodes]
    assert all(torch.allclose(a, b) for a, b in zip(again(X), want))
    plain = split_const_subgraphs(fx.symbolic_trace(lambda x: x + 1))
    assert torch.equal(plain(X), X + 1)


def test_drawings():
    made = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    try:
        import pydot  # noqa: F401
    except ImportError:
        with pytest.raises(RuntimeError, match="pip install pydot"):
            FxGraphDrawer(made, "net")
        return
    text = FxGraphDrawer(made, "net").get_dot_graph().to_string()
    assert "Linear" in text and "->" in text and operator
