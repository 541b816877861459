"""What passes share. Floor 7; imports graph_module."""

from __future__ import annotations

from typing import Any

from ..graph import Graph
from ..graph_module import GraphModule
from ..node import Node

__all__ = ["get_node_target", "is_node_output_tensor", "legalize_graph", "stable_topological_sort",
           "CALLABLE_NODE_OPS", "NodeList", "NodeSet", "Names"]

CALLABLE_NODE_OPS = {"call_module", "call_function", "call_method"}
NodeList = list[Node]
NodeSet = set[Node]
Names = list[str]


def get_node_target(submodules: Any, node: Node) -> str:
    """What a node calls, as text: a module's class, a function's or method's name."""
    if node.op not in CALLABLE_NODE_OPS:
        raise AssertionError(f"Expect op types of {', '.join(sorted(CALLABLE_NODE_OPS))}, but "
                             f"found op type {node.op}")
    if node.op == "call_module":
        module = submodules[node.target]
        return f"{type(module).__module__}.{type(module).__name__}"
    if node.op == "call_function":
        return Node._pretty_print_target(node.target)
    return node.target


def is_node_output_tensor(node: Node) -> bool:
    """Whether shape propagation found that the node's value is a tensor."""
    from ...tensor import Tensor

    kind = node.meta.get("type")
    return kind is not None and issubclass(kind, Tensor)


def _ordered(graph: Graph) -> list[Node]:
    """The nodes so that each comes after its inputs; otherwise in the order they have."""
    waiting = {n: len(n.all_input_nodes) for n in graph.nodes}
    ready = [n for n, count in waiting.items() if not count]
    order: list[Node] = []
    while ready:
        node = ready.pop(0)
        order.append(node)
        for user in node.users:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if len(order) < len(graph.nodes):
        raise RuntimeError(f"Input graph has cycles, unable to add {set(waiting) - set(order)}")
    return order


def legalize_graph(gm: GraphModule) -> GraphModule:
    """Put the nodes in an order in which each comes after its inputs. RuntimeError for a cycle."""
    made = Graph()
    made._codegen = gm.graph._codegen
    env: dict[Node, Node] = {}
    order = sorted(_ordered(gm.graph), key=lambda n: {"placeholder": 0, "output": 2}.get(n.op, 1))
    for node in order:
        env[node] = made.node_copy(node, lambda n: env[n])
    gm.graph = made
    return gm


stable_topological_sort = legalize_graph
