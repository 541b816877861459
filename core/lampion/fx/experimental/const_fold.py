"""Computing what depends on attributes alone before the first call. Floor 7; imports fx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...nn.modules.module import Module
from ...nn.parameter import Parameter
from ...tensor import Tensor
from .._symbolic_trace import symbolic_trace
from ..graph import Graph
from ..graph_module import GraphModule
from ..node import Node
from ..passes.split_module import split_module

__all__ = ["FoldedGraphModule", "get_unique_attr_name_in_module", "split_const_subgraphs"]


class FoldedGraphModule(GraphModule):
    """A module whose constants are computed in its first call, or by `run_folding()`."""

    def __init__(self, root: Module, graph: Graph, const_subgraph: Graph | None = None,
                 fx_const_folded_attrs_name: str | None = None,
                 device_for_folded_attrs: Any = "cpu") -> None:
        super().__init__(root, graph)
        self.const_subgraph_module = (
            None if const_subgraph is None else GraphModule(root, const_subgraph))
        self.has_folding_been_run = False
        self.fx_const_folded_attrs_name = fx_const_folded_attrs_name
        self.device_for_folded_attrs = device_for_folded_attrs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if not self.has_folding_been_run:
            self.run_folding()
        return self.forward(*args, **kwargs)

    def run_folding(self) -> None:
        """Compute the constants."""
        self.has_folding_been_run = True
        if self.const_subgraph_module is None or self.fx_const_folded_attrs_name is None:
            return
        values = self.const_subgraph_module()
        for k, value in enumerate(values if isinstance(values, tuple) else (values,)):
            if not isinstance(value, Tensor):
                raise TypeError(f"only tensors can be folded, not {type(value).__name__}")
            setattr(self, f"{self.fx_const_folded_attrs_name}{k}",
                    Parameter(value.detach(), requires_grad=False)
                    if value.is_floating_point() or value.is_complex() else value)


def get_unique_attr_name_in_module(mod_traced: Module, name: str) -> str:
    """A name like `name` that the module has no attribute of."""
    k = 0
    found = name
    while hasattr(mod_traced, found):
        k += 1
        found = f"{name}_{k}"
    return found


def split_const_subgraphs(module: Module | GraphModule,
                          skip_folding_node_fn: Callable[[Node], bool] | None = None,
                          device_for_folded_attrs: Any = "cpu") -> FoldedGraphModule:
    """The module with all that depends on attributes alone as constants.

    `skip_folding_node_fn(node)` says which nodes are not folded. Calls with effects, draws of
    random numbers and modules are never.
    """
    traced = module if isinstance(module, GraphModule) else symbolic_trace(module)
    fixed: set[Node] = set()
    for node in traced.graph.nodes:
        if node.op in ("placeholder", "output", "call_module"):
            continue
        if node.op != "get_attr" and (not node.all_input_nodes or not set(
                node.all_input_nodes) <= fixed or node.is_impure()):
            continue
        if skip_folding_node_fn is not None and skip_folding_node_fn(node):
            continue
        fixed.add(node)
    calls = [n for n in fixed if n.op != "get_attr"]
    if not calls:
        return FoldedGraphModule(traced, traced.graph)
    split = split_module(traced, traced, lambda n: 0 if n in fixed else 1)
    inner, name = split.submod_0, get_unique_attr_name_in_module(traced, "_FX_CONST_FOLDED_ATTRS")
    inner = _with_attributes(split, inner)
    return _assembled(split, inner, name, device_for_folded_attrs)


def _with_attributes(split: GraphModule, inner: GraphModule) -> Graph:
    """The constant part's graph, which reads its attributes itself."""
    call = next(n for n in split.graph.nodes if n.target == "submod_0")
    made, env = Graph(), dict[Node, Node]()
    for place, given in zip(inner.graph.find_nodes(op="placeholder"), call.args):
        env[place] = made.get_attr(given.target)
    result = made.graph_copy(inner.graph, env)
    made.output(result)
    return made


def _assembled(split: GraphModule, const: Graph, name: str, where: Any) -> FoldedGraphModule:
    """The rest, with attributes for what the constant part gives."""
    made, env = Graph(), dict[Node, Node]()
    call = next(n for n in split.graph.nodes if n.target == "submod_0")
    several = isinstance(const.output_node().args[0], tuple)
    holder = Module()
    for key, value in (*split._parameters.items(), *split._buffers.items(),
                       *split._modules.items()):
        setattr(holder, key, value)
    count = len(const.output_node().args[0]) if several else 1
    for k in range(count):
        setattr(holder, f"{name}{k}", Parameter(Tensor(), requires_grad=False))
    for node in split.graph.nodes:
        if node is call:
            if not several:
                env[node] = made.get_attr(f"{name}0")
        elif several and call in node.all_input_nodes and node.op == "call_function":
            env[node] = made.get_attr(f"{name}{node.args[1]}")
        else:
            env[node] = made.node_copy(node, lambda n: env[n])
    made.eliminate_dead_code()
    return FoldedGraphModule(holder, made, const, name, where)
