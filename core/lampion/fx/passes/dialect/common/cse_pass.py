"""`CSEPass`: calls that compute the same are made once. Floor 7; imports fx."""

from __future__ import annotations

from typing import Any

from .... import _names
from ....graph import Graph
from ....graph_module import GraphModule
from ....node import Node, map_arg
from ...infra.pass_base import PassBase, PassResult

__all__ = ["CSEPass"]


def _key(node: Node, args: Any, kwargs: Any) -> Any:
    """What equal calls have in common; TypeError for arguments that cannot be compared."""
    def frozen(a: Any) -> Any:
        if isinstance(a, list | tuple):
            return type(a).__name__, tuple(map(frozen, a))
        if isinstance(a, dict):
            return tuple((k, frozen(v)) for k, v in a.items())
        if isinstance(a, slice):
            return "slice", frozen(a.start), frozen(a.stop), frozen(a.step)
        return type(a), a

    key = (node.op, node.target, frozen(args), frozen(kwargs))
    hash(key)
    return key


class CSEPass(PassBase):
    """Keeps the first of several equal calls of functions and methods. Calls that draw random
    numbers or have other effects are left; where something is written in place, nothing is merged:
    a copy must stay one. `banned_ops` are never merged."""

    def __init__(self, banned_ops: set[Any] | None = None) -> None:
        self.banned_ops = banned_ops or set()

    def call(self, graph_module: GraphModule) -> PassResult:
        """The module with a new graph."""
        old, new = graph_module.graph, Graph()
        written = any(_names.writes(n.target, n.kwargs) for n in old.nodes
                      if n.op in ("call_function", "call_method"))
        env: dict[Node, Node] = {}
        seen: dict[Any, Node] = {}
        changed = False
        for node in old.nodes:
            if written or node.op not in ("call_function", "call_method", "get_attr") \
                    or node.target in self.banned_ops or node.is_impure():
                env[node] = new.node_copy(node, lambda n: env[n])
                continue
            args, kwargs = (map_arg(a, lambda n: env[n]) for a in (node.args, node.kwargs))
            try:
                key = _key(node, args, kwargs)
            except TypeError:
                env[node] = new.node_copy(node, lambda n: env[n])
                continue
            if key in seen:
                env[node], changed = seen[key], True
            else:
                env[node] = seen[key] = new.node_copy(node, lambda n: env[n])
        new._codegen = old._codegen
        made = GraphModule(graph_module, new, type(graph_module).__name__)
        made.meta = graph_module.meta
        return PassResult(made, changed)
