"""`SubgraphMatcher`: where a pattern is in a graph. Floor 7; imports graph_module, node."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any

from ....tensor import Tensor
from ...graph import Graph
from ...graph_module import _get_attr
from ...node import Node

__all__ = ["SubgraphMatcher", "InternalMatch"]


@dataclass
class InternalMatch:
    """One place where the pattern is: which node of the graph each node of the pattern is."""

    anchors: list[Node]
    nodes_map: dict[Node, Node] = field(default_factory=dict)
    placeholder_nodes: list[Any] = field(default_factory=list)
    returning_nodes: list[Node] = field(default_factory=list)
    name_node_map: dict[str, Node] = field(default_factory=dict)

    def __copy__(self) -> InternalMatch:
        return InternalMatch(self.anchors, self.nodes_map.copy(), self.placeholder_nodes.copy(),
                             self.returning_nodes.copy())


class SubgraphMatcher:
    """Finds the places of a pattern.

    Inputs of the pattern stand for anything. What it returns is where the search starts; its other
    nodes may only be used inside it. `match_output` and `match_placeholder` ask for outputs and
    inputs of the graph itself; `ignore_literals` lets constants differ.
    """

    def __init__(self, pattern: Graph, match_output: bool = False, match_placeholder: bool = False,
                 remove_overlapping_matches: bool = True, ignore_literals: bool = False) -> None:
        self.pattern, self.match_output = pattern, match_output
        self.match_placeholder, self.ignore_literals = match_placeholder, ignore_literals
        self.remove_overlapping_matches = remove_overlapping_matches
        if not len(pattern.nodes):
            raise ValueError("SubgraphMatcher cannot be initialized with an empty pattern")
        for node in pattern.nodes:
            if node.op != "output" and not node.users:
                raise AssertionError("SubgraphMatcher cannot be initialized with a pattern that "
                                     f"has unused nodes: {node}")
        self.pattern_placeholder_nodes = [n for n in pattern.nodes if n.op == "placeholder"]
        output = pattern.output_node()
        self.pattern_returning_nodes: list[Node] = output.all_input_nodes
        self.pattern_anchors = [output] if match_output else [
            n for n in self.pattern_returning_nodes if len(n.users) == 1]

    def match(self, graph: Graph, node_name_match: str = "") -> list[InternalMatch]:
        """The places in a graph, by the order of their first anchors. Of places that overlap, only
        the first is kept, if the matcher was told so."""
        candidates = [[g for g in graph.nodes if self._same_call(a, g)
                       and (not node_name_match or node_name_match in g.name)]
                      for a in self.pattern_anchors]
        found: list[InternalMatch] = []
        for anchors in itertools.product(*candidates):
            match = InternalMatch(list(anchors))
            if len(set(anchors)) == len(anchors) and all(
                    self._match(p, g, match) for p, g in zip(self.pattern_anchors, anchors)):
                found.append(match)
        found = [m for m in found if self._complete(m)]
        return self._apart(found) if self.remove_overlapping_matches else found

    # ------------------------------------------------------------ nodes

    def _same_call(self, pn: Node, gn: Node) -> bool:
        if not self.match_placeholder and pn.op == "placeholder":
            return True
        if pn.op != gn.op:
            return False
        if pn.op in ("placeholder", "output"):
            return True
        if pn.op == "get_attr":
            a = _get_attr(pn.graph.owning_module, pn.target)
            b = _get_attr(gn.graph.owning_module, gn.target)
            return isinstance(a, Tensor) and isinstance(b, Tensor) if isinstance(a, Tensor) \
                else a == b
        return pn.target == gn.target

    def _match(self, pn: Any, gn: Any, match: InternalMatch) -> bool:
        if not isinstance(pn, Node):
            return not isinstance(gn, Node) and (self.ignore_literals or (
                type(gn) is type(pn) and gn == pn))
        if not isinstance(gn, Node):
            if pn.op == "placeholder" and not self.match_placeholder:
                if pn in match.nodes_map:
                    return match.nodes_map[pn] == gn
                match.nodes_map[pn] = gn
                return True
            return False
        if pn in match.nodes_map:
            return match.nodes_map[pn] is gn
        if gn in match.nodes_map.values() and pn.op != "placeholder":
            return False
        if not self._same_call(pn, gn):
            return False
        saved = copy.copy(match)
        match.nodes_map[pn] = gn
        if pn.op == "placeholder":
            return True
        if self._match_arguments(pn, gn, match):
            return True
        match.nodes_map = saved.nodes_map
        return False

    def _match_arguments(self, pn: Node, gn: Node, match: InternalMatch) -> bool:
        args1, kwargs1 = pn.args, pn.kwargs
        args2, kwargs2 = gn.args, gn.kwargs
        if len(args1) != len(args2) or kwargs1.keys() != kwargs2.keys():
            whole1, whole2 = _by_name(pn), _by_name(gn)
            if whole1 is None or whole2 is None or whole1.keys() != whole2.keys():
                return False
            args1, kwargs1, args2, kwargs2 = (), whole1, (), whole2
        return self._match_values(list(args1), list(args2), match) and all(
            self._match_values(v, kwargs2[k], match) for k, v in kwargs1.items())

    def _match_values(self, a: Any, b: Any, match: InternalMatch) -> bool:
        if isinstance(a, list | tuple) and isinstance(b, list | tuple):
            return len(a) == len(b) and all(
                self._match_values(x, y, match) for x, y in zip(a, b))
        if isinstance(a, slice) and isinstance(b, slice):
            return self._match_values((a.start, a.stop, a.step), (b.start, b.stop, b.step), match)
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(
                self._match_values(v, b[k], match) for k, v in a.items())
        return self._match(a, b, match)

    # ------------------------------------------------------------ places

    def _complete(self, match: InternalMatch) -> bool:
        """Fill in what the match returns and takes; False if what is inside is used outside."""
        for pn in self.pattern_returning_nodes:
            if pn not in match.nodes_map:
                return False
        match.placeholder_nodes = [match.nodes_map.get(p) for p in self.pattern_placeholder_nodes]
        match.returning_nodes = [match.nodes_map[p] for p in self.pattern_returning_nodes]
        match.name_node_map = {p.name: g for p, g in match.nodes_map.items()
                               if isinstance(g, Node)}
        inside = {g for p, g in match.nodes_map.items()
                  if p.op != "placeholder" and isinstance(g, Node)}
        return all(user in inside for p, g in match.nodes_map.items()
                   if p.op not in ("placeholder", "get_attr", "output")
                   and p not in self.pattern_returning_nodes for user in g.users)

    @staticmethod
    def _apart(matches: list[InternalMatch]) -> list[InternalMatch]:
        taken: set[Node] = set()
        kept = []
        for match in matches:
            own = {g for p, g in match.nodes_map.items()
                   if p.op not in ("placeholder", "output") and isinstance(g, Node)}
            if not own & taken:
                kept.append(match)
                taken |= own
        return kept


def _by_name(node: Node) -> dict[str, Any] | None:
    """The arguments of a call by name, defaults included, if the signature is known."""
    try:
        found = node.normalized_arguments(node.graph.owning_module,
                                          normalize_to_only_use_kwargs=True)
    except (AttributeError, RuntimeError):
        return None
    return None if found is None else found.kwargs
