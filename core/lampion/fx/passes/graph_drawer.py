"""`FxGraphDrawer`: graphs as pictures. Floor 7; imports graph_module; needs the package pydot."""

from __future__ import annotations

from typing import Any

from ..graph import Graph
from ..graph_module import GraphModule
from ..node import Node, _format_arg

__all__ = ["FxGraphDrawer"]

_COLORS = {"placeholder": "AliceBlue", "get_attr": "LightGrey", "output": "PowderBlue",
           "call_module": "LemonChiffon1", "call_function": "Honeydew", "call_method": "MistyRose"}


class FxGraphDrawer:
    """Draws a GraphModule with pydot; needs `pip install pydot`, and Graphviz to make pictures.

    `FxGraphDrawer(module, "name").get_dot_graph().write_svg("module.svg")`
    """

    def __init__(self, graph_module: GraphModule, name: str, ignore_getattr: bool = False,
                 ignore_parameters_and_buffers: bool = False, skip_node_names_in_args: bool = True,
                 parse_stack_trace: bool = False, dot_graph_shape: str | None = None,
                 normalize_args: bool = False) -> None:
        self._name, self._ignore_getattr = name, ignore_getattr
        self._ignore_attributes = ignore_parameters_and_buffers
        self._skip_names, self._parse_stack_trace = skip_node_names_in_args, parse_stack_trace
        self._shape = dot_graph_shape or "record"
        self._graphs = {name: self._draw(graph_module, name)}
        for path, child in graph_module.named_children():
            if isinstance(getattr(child, "graph", None), Graph):
                self._graphs[f"{name}_{path}"] = self._draw(child, f"{name}_{path}")

    def get_dot_graph(self, submod_name: str | None = None) -> Any:
        """The drawing of the module, or of a submodule: a pydot.Dot."""
        return self._graphs[self._name if submod_name is None else submod_name]

    def get_main_dot_graph(self) -> Any:
        """The drawing of the module."""
        return self._graphs[self._name]

    def get_submod_dot_graph(self, submod_name: str) -> Any:
        """The drawing of a submodule."""
        return self._graphs[f"{self._name}_{submod_name}"]

    def get_all_dot_graphs(self) -> dict[str, Any]:
        """All drawings, by name."""
        return self._graphs

    def _draw(self, module: Any, name: str) -> Any:
        try:
            import pydot
        except ImportError:
            raise RuntimeError("FxGraphDrawer requires the pydot package: pip install pydot"
                               ) from None
        dot = pydot.Dot(name, rankdir="TB")
        left_out = {n for n in module.graph.nodes if (
            self._ignore_getattr and n.op == "get_attr") or (
            self._ignore_attributes and n.op == "get_attr")}
        for node in module.graph.nodes:
            if node in left_out:
                continue
            dot.add_node(pydot.Node(node.name, label=self._label(module, node), shape=self._shape,
                                    style='"filled,rounded"', fontcolor="#000000",
                                    fillcolor=_COLORS[node.op]))
            for used in node.all_input_nodes:
                if used not in left_out:
                    dot.add_edge(pydot.Edge(used.name, node.name))
        return dot

    def _label(self, module: Any, node: Node) -> str:
        lines = [f"name=%{node.name}", f"op_code={node.op}"]
        target = Node._pretty_print_target(node.target)
        if node.op == "call_module":
            target = f"{target}: {type(module.get_submodule(node.target)).__name__}"
        lines.append(f"target={target}")
        if self._skip_names and node.op.startswith("call_"):
            plain = [_format_arg(a) for a in node.args if not isinstance(a, Node)]
            plain += [f"{k}={_format_arg(v)}" for k, v in node.kwargs.items()
                      if not isinstance(v, Node)]
            lines.append(f"args=({', '.join(plain)})")
        elif node.op.startswith("call_"):
            lines.append(f"args={_format_arg(node.args)} {_format_arg(node.kwargs)}")
        lines.append(f"num_users={len(node.users)}")
        found = node.meta.get("tensor_meta")
        if hasattr(found, "shape"):
            lines.append(f"dtype={found.dtype} shape={list(found.shape)}")
        if self._parse_stack_trace and node.stack_trace:
            lines.append(node.stack_trace.strip().splitlines()[-1].strip())
        text = "\\n".join(lines)
        for c in "{}<>|":
            text = text.replace(c, f"\\{c}")
        return f'"{{{text}}}"'
