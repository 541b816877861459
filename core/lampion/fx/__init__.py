"""`lampion.fx`: programs as graphs that programs can read and change.

    from lampion import fx
    traced = fx.symbolic_trace(model)      # a GraphModule
    print(traced.graph, traced.code)
    for node in traced.graph.nodes: ...    # change it, then traced.recompile()

A program is run on proxies, which write down what is done with them; the graph becomes Python code
again. Floor 7; imports nn, tensor and the modules beside it. `import lampion` does not import it.
"""

from __future__ import annotations

from ..native_functions import _assert
from . import (
    _pytree,
    _symbolic_trace,
    config,
    experimental,
    graph,
    graph_module,
    immutable_collections,
    interpreter,
    node,
    operator_schemas,
    passes,
    proxy,
    subgraph_rewriter,
    tensor_type,
    traceback,
)
from ._symbolic_trace import PH, ProxyableClassMeta, Tracer, symbolic_trace, wrap
from .graph import CodeGen, Graph
from .graph_module import GraphModule
from .interpreter import Interpreter, Transformer
from .node import Node, has_side_effect, map_arg
from .proxy import Proxy
from .subgraph_rewriter import replace_pattern

has_side_effect(_assert)

__all__ = ["symbolic_trace", "Tracer", "wrap", "Graph", "GraphModule", "Interpreter",
           "Transformer", "Node", "Proxy", "replace_pattern", "has_side_effect", "map_arg",
           "CodeGen", "PH", "ProxyableClassMeta"]
