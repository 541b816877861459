"""Turning groups of nodes into submodules. Floor 7; imports graph_module."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from ...graph import Graph
from ...graph_module import GraphModule
from ...node import Node, map_arg
from ..tools_common import legalize_graph

__all__ = ["topo_sort", "validate_partition", "fuse_as_graphmodule", "insert_subgm", "erase_nodes",
           "fuse_by_partitions"]


def topo_sort(nodes: Iterable[Node]) -> list[Node]:
    """Nodes of one graph in its order."""
    return sorted(nodes)


def validate_partition(partition: Iterable[Node]) -> bool:
    """Whether nodes can be one: no path leads out of them and in again."""
    inside = set(partition)
    seen: set[Node] = set()
    stack = [user for n in inside for user in n.users if user not in inside]
    while stack:
        node = stack.pop()
        if node in inside:
            return False
        if node not in seen:
            seen.add(node)
            stack.extend(node.users)
    return True


def fuse_as_graphmodule(gm: GraphModule, nodes: Iterable[Node], module_name: str,
                        partition_lookup_table: Any = None, *,
                        always_return_tuple: bool = False,
                        ) -> tuple[GraphModule, tuple[Node, ...], tuple[Node, ...]]:
    """(module of some nodes, the nodes that it takes, the nodes of which it gives the values).

    AssertionError if they cannot be one.
    """
    order = topo_sort(nodes)
    if not validate_partition(order):
        raise AssertionError("Invalid partition, found dependency cycles")
    inside, made, env = set(order), Graph(), dict[Node, Node]()
    inputs: dict[Node, None] = {}
    for node in order:
        for used in node.all_input_nodes:
            if used not in inside and used not in inputs and used.op != "get_attr":
                inputs[used] = None
                env[used] = made.placeholder(used.name, type_expr=used.type)
                env[used].meta = dict(used.meta)

    def value(n: Node) -> Node:
        if n not in env:  # an attribute
            env[n] = made.node_copy(n)
        return env[n]

    for node in order:
        args, kwargs = map_arg(node.args, value), map_arg(node.kwargs, value)
        env[node] = made.create_node(node.op, node.target, args, kwargs, node.name, node.type)
        env[node].meta = dict(node.meta)
    outputs = [n for n in order if any(user not in inside for user in n.users)]
    results = tuple([env[n] for n in outputs])
    made.output(results[0] if len(results) == 1 and not always_return_tuple else results)
    made.lint()
    return GraphModule(gm, made, module_name), tuple(inputs), tuple(outputs)


def insert_subgm(gm: GraphModule, sub_gm: GraphModule, orig_inputs: tuple[Node, ...],
                 orig_outputs: tuple[Node, ...]) -> GraphModule:
    """Call a module of some nodes in the place of these."""
    name = type(sub_gm).__name__
    gm.add_submodule(name, sub_gm)
    last = max(orig_outputs)
    with gm.graph.inserting_after(last):
        call = gm.graph.call_module(name, orig_inputs)
    result = sub_gm.graph.output_node().args[0]
    if not isinstance(result, tuple):
        orig_outputs[0].replace_all_uses_with(call, propagate_meta=True)
        return gm
    after = call
    for k, old in enumerate(orig_outputs):
        with gm.graph.inserting_after(after):
            after = gm.graph.call_function(operator.getitem, (call, k))
        old.replace_all_uses_with(after, propagate_meta=True)
    return gm


def erase_nodes(gm: GraphModule, nodes: Iterable[Node]) -> GraphModule:
    """Erase nodes that nobody uses but themselves."""
    for node in reversed(topo_sort(nodes)):
        gm.graph.erase_node(node)
    return gm


def fuse_by_partitions(gm: GraphModule, partitions: Iterable[Any], prefix: str = "fused_",
                       always_return_tuple: bool = False) -> GraphModule:
    """Turn groups of nodes (iterables, or dicts with nodes as keys) into submodules."""
    for k, nodes in enumerate(partitions):
        made, inputs, outputs = fuse_as_graphmodule(gm, list(nodes), f"{prefix}{k}",
                                                    always_return_tuple=always_return_tuple)
        if not outputs:  # dead code
            continue
        insert_subgm(gm, made, inputs, outputs)
        erase_nodes(gm, list(nodes))
    return legalize_graph(gm)
