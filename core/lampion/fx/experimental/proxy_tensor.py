"""`make_fx`: the graph of the ops that a function calls, found by running it on tensors.

Floor 7; imports callpath, updating, fx. Where symbolic tracing runs a program on stand-ins, this
runs it on real tensors and watches the ops: composites show as what they are made of, control flow
as what was taken. What a graph of values cannot show, a write in place or a draw of random numbers,
is refused.
"""

from __future__ import annotations

import functools
import inspect
import operator
import threading
from collections.abc import Callable
from typing import Any

from ... import callpath
from ...autograd.trace import describe_writer
from ...callpath import Layer
from ...nn.modules.module import Module
from ...nn.parameter import Parameter
from ...ops import registry as R
from ...tensor import Tensor
from ...utils import _pytree as pytree
from ..graph import Graph
from ..graph_module import GraphModule
from ..node import Node

__all__ = ["make_fx", "get_proxy_mode", "get_innermost_proxy_mode"]

_active: list[_Recording] = []


class _Recording:
    """The graph of what one thread does, and which node every tensor is the value of."""

    def __init__(self, decompositions: dict[Any, Callable[..., Any]]) -> None:
        self.graph = Graph()
        self.root = Module()
        self.nodes: dict[Any, tuple[Any, Node, int]] = {}  # (kept alive, node, version)
        self.decompositions = decompositions
        self.thread = threading.get_ident()

    @staticmethod
    def _key(t: Tensor) -> tuple[int, Any]:
        """Tensors over the same memory with the same meta have the same value: `x.detach()` is
        `x`."""
        return id(t.data_), t.meta.plain

    def hold(self, t: Tensor, node: Node) -> None:
        """Say that a tensor is the value of a node."""
        self.nodes[self._key(t)] = (t.data_, node, t.data_.base.version)
        node.meta.setdefault("val", t.detach())

    def node_of(self, t: Tensor) -> Node:
        """The node of a tensor; one that was not made here becomes an attribute.

        RuntimeError for one that was written to since: a graph of values could not show it.
        """
        found = self.nodes.get(self._key(t))
        if found is not None:
            base = t.data_.base
            if base.version != found[2]:
                raise RuntimeError(
                    f"make_fx: the value of {found[1].name} was written to in place, which a graph "
                    f"of values cannot show. {describe_writer(base.writer)} Use the form of that "
                    "call that returns a new tensor.")
            return found[1]
        kind = "_param_constant" if isinstance(t, Parameter) else "_tensor_constant"
        count = sum(name.startswith(kind) for name in (*self.root._parameters,
                                                       *self.root._buffers))
        name = f"{kind}{count}"
        if isinstance(t, Parameter):
            setattr(self.root, name, t)
        else:
            self.root.register_buffer(name, t.detach())
        node = self.graph.get_attr(name)
        self.hold(t, node)
        return node

    def arguments(self, value: Any) -> Any:
        """Arguments with nodes for tensors."""
        if isinstance(value, Tensor):
            return self.node_of(value)
        if isinstance(value, list | tuple):
            made = [self.arguments(v) for v in value]
            return made if isinstance(value, list) else tuple(made)
        if isinstance(value, dict):
            return {k: self.arguments(v) for k, v in value.items()}
        return value

    def see(self, op: R.Op, values: Any) -> Any:
        """The handler of the layer: run a call and write it down."""
        if threading.get_ident() != self.thread or op.kind == "composite":
            return NotImplemented
        other = self.decompositions.get(op.fn)
        if other is not None:
            return other(*values)
        if any(p.name == "seed" for p in op.params):
            raise RuntimeError(f"make_fx: {op.qualname} draws random numbers, and every run of the "
                               "graph would get the same; draw them outside and pass them in")
        places, names = map(self.arguments, op.as_called(values, short=True))
        plan = None if op.kind == "view" else callpath.planned(op, list(values))[0]
        if plan is not None and plan.launch is None:
            return op.compose(*callpath.planned(op, list(values))[1])  # type: ignore[attr-defined]
        result = callpath.call(op, list(values))
        node = self.graph.call_function(op.fn, places, names)
        if isinstance(result, Tensor):
            self.hold(result, node)
        else:
            for k, part in enumerate(result):
                if isinstance(part, Tensor):
                    self.hold(part, self.graph.call_function(operator.getitem, (node, k)))
        return result


def make_fx(f: Callable[..., Any], decomposition_table: dict[Any, Callable[..., Any]] | None = None,
            tracing_mode: str = "real", _allow_non_fake_inputs: bool = False, *,
            pre_dispatch: bool = False, record_module_stack: bool = False,
            _allow_fake_constant: bool = False, _error_on_data_dependent_ops: bool = True,
            record_stack_traces: bool = False, proxy_module_inputs: bool = False,
            _disable_torch_fn_metadata_mode: bool = False) -> Callable[..., GraphModule]:
    """A function that runs `f` on its arguments and returns the graph of the ops that ran, with
    these arguments' leaves as inputs.

    `decomposition_table` maps functions to others that run in their place. All tracing modes run on
    the tensors that are given. ValueError for a tracing mode that does not exist.

    >>> from lampion.fx.experimental.proxy_tensor import make_fx
    >>> made = make_fx(lambda x: lampion.relu(x) * 2)(lampion.ones(2))
    >>> [n.name for n in made.graph.nodes]
    ['x_1', 'relu', 'mul', 'output']
    """
    if tracing_mode not in ("real", "fake", "symbolic"):
        raise ValueError(f"tracing_mode is 'real', 'fake' or 'symbolic', not {tracing_mode!r}")

    @functools.wraps(f)
    def traced(*args: Any, **kwargs: Any) -> GraphModule:
        recording = _Recording(dict(decomposition_table or {}))
        leaves, spec = pytree.tree_flatten((args, kwargs))
        names = _names_of(f, args, kwargs, len(leaves))
        given = []
        for name, leaf in zip(names, leaves):
            node = recording.graph.placeholder(f"{name}_1")
            if isinstance(leaf, Tensor):
                recording.hold(leaf, node)
            given.append(leaf)
        new_args, new_kwargs = pytree.tree_unflatten(given, spec)
        _active.append(recording)
        try:
            with Layer(recording.see):
                result = f(*new_args, **new_kwargs)
        finally:
            _active.remove(recording)
        recording.graph.output(recording.arguments(result))
        return GraphModule(recording.root, recording.graph,
                           getattr(f, "__name__", type(f).__name__).strip("<>"))

    return traced


def _names_of(f: Any, args: Any, kwargs: Any, count: int) -> list[str]:
    """Names for the leaves of the arguments: the function's own where they do not nest."""
    try:
        fn = f.forward if isinstance(f, Module) else f
        bound = inspect.signature(fn).bind(*args, **kwargs)
        names = []
        for name, value in bound.arguments.items():
            leaves = len(pytree.tree_leaves(value))
            names += [name] if leaves == 1 else [f"{name}_{k}" for k in range(leaves)]
        if len(names) == count:
            return names
    except (TypeError, ValueError):
        pass
    return [f"arg{k}" for k in range(count)]


def get_proxy_mode() -> Any:
    """The recording of `make_fx` that is running, or None."""
    return _active[-1] if _active else None


get_innermost_proxy_mode = get_proxy_mode
