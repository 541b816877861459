"""`CapabilityBasedPartitioner`: the largest groups of supported nodes. Floor 7; imports
operator_support, fuser_utils."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...graph_module import GraphModule
from ...node import Node
from ..operator_support import OperatorSupportBase
from ..tools_common import get_node_target
from ..utils.fuser_utils import fuse_by_partitions

__all__ = ["Partition", "CapabilityBasedPartitioner"]


class Partition:
    """A group of nodes."""

    def __init__(self, id: int | None = None, nodes: Iterable[Node] | None = None) -> None:
        self.id = id
        self.nodes: dict[Node, None] = dict.fromkeys(nodes or ())

    def __repr__(self) -> str:
        return str(list(self.nodes))

    def add_node(self, node: Node) -> None:
        """Add a node."""
        self.nodes[node] = None

    def remove_node(self, node: Node) -> None:
        """Remove a node."""
        del self.nodes[node]

    def size(self) -> int:
        """How many nodes there are."""
        return len(self.nodes)


class CapabilityBasedPartitioner:
    """Groups the nodes that are supported into as few groups as it can without cycles.

    A group of one node is dropped unless `allows_single_node_partition`, or its target is in
    `allowed_single_node_partition_ops`; so is one of nodes that compute nothing
    (`non_compute_ops`).
    """

    def __init__(self, graph_module: GraphModule, operator_support: OperatorSupportBase,
                 allows_single_node_partition: bool = False,
                 non_compute_ops: Sequence[str] | None = None,
                 allowed_single_node_partition_ops: Sequence[str] | None = None) -> None:
        self.graph_module, self.operator_support = graph_module, operator_support
        self.allows_single_node_partition = allows_single_node_partition
        self.non_compute_ops = list(non_compute_ops or ())
        self.allowed_single_node_partition_ops = list(allowed_single_node_partition_ops or ())
        self._modules = dict(graph_module.named_modules())

    def propose_partitions(self) -> list[Partition]:
        """The groups, in the order of their first nodes.

        Every node gets the level of its group in a walk along the graph: the number of times that
        a path to it changed between supported and not. Nodes of one level never reach each other
        through another, so that supported nodes of one level can be one group.
        """
        level: dict[Node, int] = {}
        groups: dict[int, Partition] = {}
        for node in self.graph_module.graph.nodes:
            if node.op in ("placeholder", "get_attr", "output"):
                level[node] = 0
                continue
            ours = self._supported(node)
            here = 0 if ours else 1
            for used in node.all_input_nodes:
                if used.op in ("placeholder", "get_attr"):
                    continue
                at = level[used]
                same = (at % 2 == 0) == ours
                here = max(here, at if same else at + 1)
            level[node] = here
            if ours:
                groups.setdefault(here, Partition(len(groups))).add_node(node)
        return [p for p in groups.values() if self._worth(p)]

    def _supported(self, node: Node) -> bool:
        return self.operator_support.is_node_supported(self._modules, node)

    def _worth(self, partition: Partition) -> bool:
        targets = [get_node_target(self._modules, n) for n in partition.nodes]
        if all(t in self.non_compute_ops for t in targets):
            return False
        return (self.allows_single_node_partition or len(targets) > 1
                or targets[0] in self.allowed_single_node_partition_ops)

    def fuse_partitions(self, partitions: Iterable[Partition], prefix: str = "fused_"
                        ) -> GraphModule:
        """Turn groups into submodules."""
        return fuse_by_partitions(self.graph_module, [p.nodes for p in partitions], prefix)

    def remove_bookend_non_compute_ops(self, partitions: Iterable[Partition]) -> None:
        """Take nodes that compute nothing from the ends of groups."""
        for p in partitions:
            changed = True
            while changed:
                changed = False
                for node in list(p.nodes):
                    idle = get_node_target(self._modules, node) in self.non_compute_ops
                    first = not any(n in p.nodes for n in node.all_input_nodes)
                    last = not any(n in p.nodes for n in node.users)
                    if idle and (first or last):
                        p.remove_node(node)
                        changed = True

    def partition_and_fuse(self, prefix: str = "fused_") -> GraphModule:
        """The module with its groups as submodules."""
        return self.fuse_partitions(self.propose_partitions(), prefix)


