"""`split_module`: a graph as a chain of submodules. Floor 7; imports graph_module."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from ...nn.modules.module import Module
from ..graph import Graph
from ..graph_module import GraphModule, _get_attr
from ..node import Node, map_arg

__all__ = ["Partition", "split_module"]


class Partition:
    """The nodes that become one submodule, what they take and what they give."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.submod_name = f"submod_{name}"
        self.node_names: list[str] = []
        self.nodes: list[Node] = []
        self.inputs: dict[Node, None] = {}
        self.outputs: dict[Node, None] = {}
        self.dependencies: dict[str, None] = {}
        self.graph = Graph()
        self.targets: dict[str, Any] = {}

    def __repr__(self) -> str:
        return (f"name: {self.name},\n nodes: {self.node_names},\n inputs: {list(self.inputs)},\n"
                f" outputs: {list(self.outputs)}")


def split_module(m: GraphModule, root_m: Module, split_callback: Callable[[Node], Any],
                 qualname_map: dict[str, str] | None = None,
                 keep_original_order: bool | None = False,
                 keep_original_node_name: bool | None = False,
                 keep_original_input_name: bool = True, *, partition_affix: str | None = None,
                 tuple_return: bool = False) -> GraphModule:
    """A module that calls submodules `submod_0`, ..., one for each number that
    `split_callback(node)` gives.

    Inputs and attributes stay outside and are handed in. `qualname_map` gets, for the path of every
    submodule in the result, its path in `root_m`. With `keep_original_order` the submodules are
    called in the order of their first nodes. RuntimeError if two of them need each other.
    """
    parts = _partitions(m, split_callback, partition_affix)
    order = list(parts) if keep_original_order else _sorted(parts)
    if keep_original_order:
        _check_order(parts, order)
    base, env = Graph(), {}
    attributes: dict[str, Any] = {}
    for node in m.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            env[node] = base.node_copy(node)
            if node.op == "get_attr":
                attributes[node.target] = _get_attr(m, node.target)
    for name in order:
        part = parts[name]
        attributes[part.submod_name] = _submodule(part, m, qualname_map, tuple_return,
                                                  bool(keep_original_node_name),
                                                  keep_original_input_name)
        call = base.call_module(part.submod_name, tuple([env[n] for n in part.inputs]))
        results = list(part.outputs)
        if len(results) == 1 and not tuple_return:
            env[results[0]] = call
        elif results:
            for k, node in enumerate(results):
                env[node] = base.call_function(operator.getitem, (call, k))
    last = m.graph.output_node()
    output = base.output(map_arg(last.args[0], lambda n: env[n]), last.type)
    output.meta = dict(last.meta)
    return GraphModule(attributes, base)


def _partitions(m: GraphModule, split_callback: Callable[[Node], Any], affix: str | None
                ) -> dict[str, Partition]:
    parts: dict[str, Partition] = {}
    owner: dict[Node, Partition] = {}
    for node in m.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            continue
        here = None
        if node.op != "output":
            number = split_callback(node)
            name = f"{affix}_{number}" if affix is not None else str(number)
            here = owner[node] = parts.setdefault(name, Partition(name))
            here.nodes.append(node)
            here.node_names.append(node.name)
        for used in node.all_input_nodes:
            maker = owner.get(used)
            if maker is here:
                continue
            if maker is not None:
                maker.outputs.setdefault(used)
            if here is not None:
                here.inputs.setdefault(used)
                if maker is not None:
                    here.dependencies.setdefault(maker.name)
    return parts


def _sorted(parts: dict[str, Partition]) -> list[str]:
    """The partitions so that each comes after those that it needs."""
    waiting = {n: set(p.dependencies) for n, p in parts.items()}
    free, order = [n for n, needs in waiting.items() if not needs], list[str]()
    while free:
        done = free.pop()
        order.append(done)
        for name, needs in waiting.items():
            if done in needs:
                needs.remove(done)
                free += [] if needs else [name]
    if len(order) < len(parts):
        raise RuntimeError("cycle exists between partitions!")
    return order


def _check_order(parts: dict[str, Partition], order: list[str]) -> None:
    for k, name in enumerate(order):
        late = [d for d in parts[name].dependencies if d in order[k:]]
        if late:
            raise RuntimeError(f"the partition {name!r} needs {late[0]!r}, which comes after it: "
                               "split without keep_original_order")


def _submodule(part: Partition, m: GraphModule, qualname_map: dict[str, str] | None,
               tuple_return: bool, keep_name: bool, keep_input: bool) -> GraphModule:
    """The module of one partition."""
    env: dict[Node, Node] = {}
    for k, used in enumerate(part.inputs):
        env[used] = part.graph.placeholder(used.name if keep_input else f"arg_{k}",
                                           type_expr=used.type)
        env[used].meta = dict(used.meta)
    for node in part.nodes:
        target = node.target
        if node.op == "call_module":
            target = node.target.replace(".", "_")
            part.targets[target] = _get_attr(m, node.target)
            if qualname_map is not None:
                qualname_map[f"{part.submod_name}.{target}"] = node.target
        made = part.graph.create_node(
            node.op, target, map_arg(node.args, lambda n: env[n]),
            map_arg(node.kwargs, lambda n: env[n]), node.name if keep_name else None, node.type)
        made.meta = dict(node.meta)
        env[node] = made
    results = tuple([env[n] for n in part.outputs])
    part.graph.output(results[0] if len(results) == 1 and not tuple_return else results)
    return GraphModule(part.targets, part.graph)
