"""`replace_pattern`: putting one piece of a graph in the place of another.

Floor 7; imports _symbolic_trace, graph_module, passes.utils.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ._symbolic_trace import symbolic_trace
from .graph import Graph
from .graph_module import GraphModule, _assign_attr, _get_attr, _has_attr
from .node import Node
from .passes.utils.matcher_utils import InternalMatch, SubgraphMatcher

__all__ = ["Match", "replace_pattern", "replace_pattern_with_filters", "ReplacedPatterns"]


class Match(NamedTuple):
    """A place that was replaced: where it was found, and which node each of the pattern's was."""

    anchor: Node
    nodes_map: dict[Node, Node]


@dataclass
class ReplacedPatterns:
    """A place that was replaced, and the nodes that are there now."""

    anchor: Node
    nodes_map: dict[Node, Node]
    replacements: list[Node]


def _graph_of(value: Any) -> Graph:
    if isinstance(value, GraphModule):
        return value.graph
    return value if isinstance(value, Graph) else symbolic_trace(value).graph


def _replace_attributes(gm: GraphModule, replacement: Any) -> None:
    """Give the module what nodes of the replacement refer to."""
    gm.delete_all_unused_submodules()
    if isinstance(replacement, GraphModule):
        replacement.graph.lint()
    for node in gm.graph.nodes:
        if node.op not in ("call_module", "get_attr") or _has_attr(gm, node.target):
            continue
        if replacement is None or not _has_attr(replacement, node.target):
            raise RuntimeError("Attempted to create a \"" + node.op + "\" node during subgraph "
                               f"rewriting with target {node.target}, but the referenced attribute "
                               "does not exist in the replacement GraphModule")
        _assign_attr(copy.deepcopy(_get_attr(replacement, node.target)), gm, node.target)
    gm.graph.lint()


def replace_pattern(gm: GraphModule, pattern: Callable[..., Any] | GraphModule,
                    replacement: Callable[..., Any] | GraphModule) -> list[Match]:
    """Replace every place of a graph that computes what `pattern` does by `replacement`; both are
    functions, or modules, of the same inputs. Returns the places.

    >>> from lampion import fx
    >>> made = fx.symbolic_trace(lambda x: lampion.relu(x) + 1)
    >>> places = fx.replace_pattern(made, lambda x: lampion.relu(x), lambda x: lampion.tanh(x))
    >>> len(places), made(lampion.zeros(1))
    (1, tensor([1.]))
    """
    return [Match(m.anchor, m.nodes_map) for m in _replace(gm, pattern, replacement)]


def replace_pattern_with_filters(
        gm: GraphModule, pattern: Any, replacement: Any = None,
        match_filters: list[Callable[[InternalMatch, Graph, Graph], bool]] | None = None,
        ignore_literals: bool = False,
        replacement_callback: Callable[[InternalMatch, Graph, Graph], Graph] | None = None,
        node_name_match: str = "") -> list[ReplacedPatterns]:
    """`replace_pattern` for the places that all `match_filters(match, graph, pattern)` accept.
    `replacement_callback` makes the replacement of each place."""
    return _replace(gm, pattern, replacement, match_filters, ignore_literals, replacement_callback,
                    node_name_match)


def _replace(gm: GraphModule, pattern: Any, replacement: Any, filters: Any = None,
             ignore_literals: bool = False, callback: Any = None,
             node_name_match: str = "") -> list[ReplacedPatterns]:
    graph, wanted = gm.graph, _graph_of(pattern)
    matcher = SubgraphMatcher(wanted, ignore_literals=ignore_literals)
    found = [m for m in matcher.match(graph, node_name_match)
             if all(f(m, graph, wanted) for f in filters or ())]
    common = None if replacement is None else _graph_of(replacement)
    if common is None and callback is None:
        raise AssertionError("Must provide either replacement GraphModule or replacement callback")
    changed: dict[Node, Node] = {}
    done = []
    for match in found:
        new = common if common is not None else callback(match, graph, wanted)
        done.append(_put(graph, matcher, match, new, changed))
    gm.recompile()
    owner = replacement if isinstance(replacement, GraphModule) else getattr(
        common, "owning_module", None)
    _replace_attributes(gm, owner)
    return done


def _put(graph: Graph, matcher: SubgraphMatcher, match: InternalMatch, new: Graph,
         changed: dict[Node, Node]) -> ReplacedPatterns:
    """Replace one place. `changed` says what results of earlier replacements are now."""
    inputs = [n for n in new.nodes if n.op == "placeholder"]
    if len(inputs) != len(match.placeholder_nodes):
        raise AssertionError(f"the pattern has {len(match.placeholder_nodes)} inputs, but the "
                             f"replacement {len(inputs)}")
    values: dict[Node, Any] = {}
    for there, here in zip(inputs, match.placeholder_nodes):
        values[there] = changed.get(here, here) if isinstance(here, Node) else here
    inside = {g for p, g in match.nodes_map.items()
              if p.op not in ("placeholder", "output") and isinstance(g, Node)}
    users = {u for g in match.returning_nodes for u in g.users} - inside
    first = min(users) if users else graph.output_node()
    with graph.inserting_before(first):
        before = {n for n in values.values() if isinstance(n, Node)}
        result = graph.graph_copy(new, values)
    results = result if isinstance(result, list | tuple) else (result,)
    if len(results) != len(match.returning_nodes):
        raise AssertionError(f"the pattern returns {len(match.returning_nodes)} values, but the "
                             f"replacement {len(results)}")
    for old, now in zip(match.returning_nodes, results):
        old.replace_all_uses_with(now)
        changed[old] = now
    for pn in reversed(matcher.pattern.nodes):
        gn = match.nodes_map.get(pn)
        if pn.op not in ("placeholder", "output") and isinstance(gn, Node) and not gn.users:
            graph.erase_node(gn)
    made = [n for n in values.values() if isinstance(n, Node) and n not in before]
    return ReplacedPatterns(match.anchors[0], match.nodes_map, made)
