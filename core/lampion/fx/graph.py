"""`Graph`: the steps of a program, in order, and what one does with them.

Floor 7; imports node, _codegen.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..nn.modules.module import Module
from ..tensor import Tensor
from ._codegen import (  # noqa: F401  (names of this module in PyTorch)
    CodeGen,
    PythonCode,
    TransformCodeFunc,
    _custom_builtins,
    _CustomBuiltin,
    _format_target,
    _is_from_torch,
    _is_magic,
    _Namespace,
    _PyTreeCodeGen,
    _PyTreeInfo,
    _register_custom_builtin,
    _snake_case,
    inplace_methods,
    magic_methods,
    reflectable_magic_methods,
)
from .node import Argument, Node, Target, map_arg

if TYPE_CHECKING:
    from .graph_module import GraphModule

__all__ = ["PythonCode", "CodeGen", "Graph"]


class _node_list:
    """The nodes of a graph in order; `reversed` goes from the end. Nodes may be erased, moved and
    inserted while it is walked."""

    def __init__(self, graph: Graph, direction: str = "_next") -> None:
        self.graph, self.direction = graph, direction

    def __len__(self) -> int:
        return self.graph._len

    def __iter__(self) -> Iterator[Node]:
        step = self.direction
        node = getattr(self.graph._root, step)
        while node is not self.graph._root:
            if not node._erased:
                yield node
            node = getattr(node, step)

    def __reversed__(self) -> Iterator[Node]:
        return iter(_node_list(self.graph, "_prev" if self.direction == "_next" else "_next"))


class _InsertPoint:
    """A `with` block in which nodes are inserted somewhere else."""

    def __init__(self, graph: Graph, insert: Callable[[Node], None]) -> None:
        self.graph, self.before = graph, graph._insert
        graph._insert = insert

    def __enter__(self) -> None:
        """The place was set already: the call alone moves it, too."""

    def __exit__(self, *exc: Any) -> None:
        self.graph._insert = self.before


class Graph:
    """Nodes in the order in which they run.

    >>> from lampion import fx
    >>> graph = fx.Graph()
    >>> x = graph.placeholder("x")
    >>> y = graph.call_function(lampion.relu, (x,))
    >>> result = graph.output(y)
    >>> fx.GraphModule({}, graph)(lampion.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def __init__(self, owning_module: GraphModule | None = None, tracer_cls: Any = None,
                 tracer_extras: dict[str, Any] | None = None) -> None:
        self._root = Node(self, "", "root", "", (), {})
        self._len = 0
        self._stale = False  # whether the numbers of the nodes are out of date
        self._used: dict[tuple[str, Any], dict[Node, None]] = {}  # nodes by op and target
        self._insert = self._root.prepend
        self._graph_namespace = _Namespace()
        self._owning_module = owning_module
        self._owners = 0
        self._tracer_cls = tracer_cls
        self._tracer_extras = tracer_extras
        self._codegen = CodeGen()
        self._co_fields: dict[str, Any] = {}

    # ------------------------------------------------------------ nodes

    @property
    def owning_module(self) -> Any:
        """The GraphModule that this is the graph of, if there is one and only one."""
        return self._owning_module

    @owning_module.setter
    def owning_module(self, module: Any) -> None:
        self._owning_module = module

    @property
    def nodes(self) -> _node_list:
        """The nodes in order. They may be changed while the list is walked."""
        return _node_list(self)

    def _moved(self) -> None:
        self._stale = True

    def _number(self) -> None:
        """Give the nodes the numbers that comparing them takes."""
        if self._stale:
            for k, node in enumerate(self.nodes, 1):
                object.__setattr__(node, "_order", k)
            self._stale = False

    @staticmethod
    def _key(op: str, target: Any) -> tuple[str, Any]:
        return op, target if op == "call_function" or op == "get_attr" or isinstance(
            target, str) else None

    def _index_add(self, node: Node) -> None:
        self._used.setdefault(self._key(node.op, node.target), {})[node] = None

    def _index_forget(self, node: Node) -> None:
        self._used.get(self._key(node.op, node.target), {}).pop(node, None)

    def output_node(self) -> Node:
        """The last node, which is the output."""
        return next(reversed(self.nodes))

    def find_nodes(self, *, op: str, target: Target | None = None,
                   sort: bool = True) -> list[Node]:
        """The nodes of a kind, for calls those of one target; in order unless `sort` is False.

        AssertionError for `call_function` without a target.
        """
        if op == "call_function" and target is None:
            raise AssertionError(f"target must be not None for op {op!r}")
        found = [n for (kind, what), nodes in self._used.items()
                 if kind == op and (target is None or what == target) for n in nodes]
        return sorted(found) if sort or (len(found) > 1 and target is None) else found

    def create_node(self, op: str, target: Target, args: tuple[Argument, ...] | None = None,
                    kwargs: dict[str, Argument] | None = None, name: str | None = None,
                    type_expr: Any = None) -> Node:
        """Add a node at the insertion point. `name` is made unique."""
        args, kwargs = args if args is not None else (), kwargs if kwargs is not None else {}
        if not isinstance(args, tuple):
            raise AssertionError(f"args must be a tuple, got {type(args)}")
        if not isinstance(kwargs, dict):
            raise AssertionError(f"kwargs must be a dict, got {type(kwargs)}")
        candidate = name if name is not None else self._target_to_str(target)
        name = self._graph_namespace.create_name(candidate, None)
        node = Node(self, name, op, target, args, kwargs, type_expr)
        self._graph_namespace.associate_name_with_obj(name, node)
        self._insert(node)
        self._len += 1
        self._index_add(node)
        for hook in getattr(self.owning_module, "_create_node_hooks", ()):
            hook(node)
        return node

    def _target_to_str(self, target: Any) -> str:
        if callable(target):
            name = getattr(target, "__name__", type(target).__name__)
        else:
            name = target
        return _snake_case(name.strip("_") if _is_magic(name) else name)

    def erase_node(self, to_erase: Node) -> None:
        """Take a node out. RuntimeError while others use it."""
        if to_erase.users:
            raise RuntimeError(f"Tried to erase Node {to_erase} but it still had "
                               f"{len(to_erase.users)} users in the graph: {to_erase.users}!")
        if to_erase.graph is not self:
            raise RuntimeError(f"Attempting to remove {to_erase} from wrong graph!")
        if to_erase._erased:
            return
        for hook in getattr(self.owning_module, "_erase_node_hooks", ()):
            hook(to_erase)
        self._index_forget(to_erase)
        to_erase._remove_from_list()
        to_erase._erased = True
        self._len -= 1
        to_erase._set_arguments((), {})

    def _clear_nodes(self) -> None:
        for node in reversed(self.nodes):
            object.__setattr__(node, "users", {})
            self.erase_node(node)

    def inserting_before(self, n: Node | None = None) -> _InsertPoint:
        """Where nodes are inserted from now on, or for a `with` block: before `n` (None: at the
        beginning)."""
        if n is None:
            return self.inserting_after(self._root)
        if n.graph is not self:
            raise AssertionError("Node to insert before is not in graph.")
        return _InsertPoint(self, n.prepend)

    def inserting_after(self, n: Node | None = None) -> _InsertPoint:
        """Like `inserting_before`, right behind `n` (None: at the end): a second node is inserted
        between `n` and the first."""
        if n is None:
            return self.inserting_before(self._root)
        if n.graph is not self:
            raise AssertionError("Node to insert after is not in graph.")
        return _InsertPoint(self, n.append)

    # ------------------------------------------------------------ kinds of nodes

    def placeholder(self, name: str, type_expr: Any = None,
                    default_value: Any = inspect.Signature.empty) -> Node:
        """Add an input called `name` ("*name" and "**name" collect what is left)."""
        args = () if default_value is inspect.Signature.empty else (default_value,)
        return self.create_node("placeholder", name, args=args, type_expr=type_expr)

    def get_attr(self, qualified_name: str, type_expr: Any = None) -> Node:
        """Add a read of an attribute of the module hierarchy: a parameter, buffer or submodule."""
        owner = self.owning_module
        if owner is not None and not _has_attribute(owner, qualified_name):
            import warnings

            warnings.warn(
                "Attempted to insert a get_attr Node with no underlying reference in the owning "
                "GraphModule! Call GraphModule.add_submodule to add the necessary submodule, "
                "GraphModule.add_parameter to add the necessary Parameter, or "
                "nn.Module.register_buffer to add the necessary buffer", stacklevel=2)
        return self.create_node("get_attr", qualified_name, type_expr=type_expr)

    def call_module(self, module_name: str, args: tuple[Argument, ...] | None = None,
                    kwargs: dict[str, Argument] | None = None, type_expr: Any = None) -> Node:
        """Add a call of a submodule, named by its path."""
        owner = self.owning_module
        if owner is not None and not _has_attribute(owner, module_name):
            import warnings

            warnings.warn("Attempted to insert a call_module Node with no underlying reference in "
                          "the owning GraphModule! Call GraphModule.add_submodule to add the "
                          "necessary submodule", stacklevel=2)
        return self.create_node("call_module", module_name, args, kwargs, type_expr=type_expr)

    def call_method(self, method_name: str, args: tuple[Argument, ...] | None = None,
                    kwargs: dict[str, Argument] | None = None, type_expr: Any = None) -> Node:
        """Add a call of a method of the first argument."""
        return self.create_node("call_method", method_name, args, kwargs, type_expr=type_expr)

    def call_function(self, the_function: Callable[..., Any],
                      args: tuple[Argument, ...] | None = None,
                      kwargs: dict[str, Argument] | None = None, type_expr: Any = None,
                      name: str | None = None) -> Node:
        """Add a call of a function."""
        return self.create_node("call_function", the_function, args, kwargs, name, type_expr)

    def output(self, result: Argument, type_expr: Any = None) -> Node:
        """Add the output."""
        return self.create_node("output", "output", args=(result,), type_expr=type_expr)

    def create_size_node(self, tensor_node: Node, dim: int) -> Node:
        """Add the size of one dim of a value."""
        return self.call_method("size", (tensor_node, dim))

    # ------------------------------------------------------------ copies

    def node_copy(self, node: Node, arg_transform: Callable[[Node], Argument] = lambda x: x
                  ) -> Node:
        """Copy a node of another graph; `arg_transform` says which nodes its arguments are here."""
        args = map_arg(node.args, arg_transform)
        kwargs = map_arg(node.kwargs, arg_transform)
        copied = self.create_node(node.op, node.target, args, kwargs, node.name, node.type)
        copied.meta = dict(node.meta)
        return copied

    def graph_copy(self, g: Graph, val_map: dict[Node, Node],
                   return_output_node: bool = False) -> Any:
        """Copy all nodes of `g` but those in `val_map`, to which the copies are added; returns what
        the copied graph returns, with `return_output_node` and its output node."""
        for node in g.nodes:
            if node in val_map:
                continue
            if node.op == "output":
                result = map_arg(node.args[0], lambda n: val_map[n])
                return (result, node) if return_output_node else result
            val_map[node] = self.node_copy(node, lambda n: val_map[n])
        return None

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Graph:
        memo = memo if memo is not None else {}
        made = Graph(tracer_cls=self._tracer_cls, tracer_extras=self._tracer_extras)
        memo[id(self)] = made
        found = made.graph_copy(self, val_map := {}, return_output_node=True)
        made._codegen = self._codegen
        for old, new in val_map.items():
            memo[id(old)] = new
        if found is not None:
            result, old_output = found
            output = made.output(result, type_expr=getattr(old_output, "type", None))
            output.name, output.meta = old_output.name, dict(old_output.meta)
        return made

    # ------------------------------------------------------------ code

    def python_code(self, root_module: str, *, verbose: bool = False, include_stride: bool = False,
                    include_device: bool = False, colored: bool = False,
                    expanded_def: bool = False, record_func: bool = False,
                    additional_meta: list[str] | None = None) -> PythonCode:
        """The graph as Python code of a function whose module is called `root_module`."""
        namespace = _Namespace()
        shown = {node: node._repr_fn for node in self.nodes}

        def name_of(node: Node) -> str:
            return namespace.create_name(node.name, node)

        try:
            for node in shown:
                node._repr_fn = name_of
            return self._codegen._gen_python_code(self.nodes, root_module, namespace,
                                                  verbose=verbose)
        finally:
            for node, fn in shown.items():
                node._repr_fn = fn

    def process_inputs(self, *args: Any) -> Any:
        """What the placeholders get of the arguments of a call."""
        return self._codegen.process_inputs(*args)

    def process_outputs(self, out: Any) -> Any:
        """What a call returns for the value of the output node."""
        return self._codegen.process_outputs(out)

    def set_codegen(self, codegen: CodeGen) -> None:
        """Let `codegen` make the code."""
        self._codegen = codegen

    def on_generate_code(self, make_transformer: Callable[[Any], Any]) -> Any:
        """Let a function change the lines of the body that is generated, for good or for a `with`
        block: `make_transformer(the function before, or None)` returns it.

        >>> graph = lampion.fx.symbolic_trace(lambda x: x + 1).graph
        >>> with graph.on_generate_code(lambda before: lambda lines: ["# here\\n", *lines]):
        ...     "# here" in graph.python_code("self").src
        True
        """
        before = self._codegen._body_transformer
        self._codegen._body_transformer = make_transformer(before)

        @contextlib.contextmanager
        def undo() -> Iterator[None]:
            try:
                yield
            finally:
                self._codegen._body_transformer = before

        return undo()

    def __str__(self) -> str:
        kind = [""]
        lines = [str(node.format_node(None, kind)) for node in self.nodes]
        return "\n    ".join([f"graph(){kind[0]}:", *lines])

    def print_tabular(self) -> None:
        """Print the nodes as a table."""
        rows = [("opcode", "name", "target", "args", "kwargs")]
        rows += [tuple(map(str, (n.op, n.name, n.target, n.args, n.kwargs))) for n in self.nodes]
        widths = [max(map(len, column)) for column in zip(*rows)]
        rows.insert(1, tuple("-" * w for w in widths))
        for row in rows:
            print("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip())

    # ------------------------------------------------------------ checks

    def lint(self) -> None:
        """RuntimeError (or ValueError) if the graph is not well formed: nodes of other graphs, uses
        before the definition, names given twice, targets that are not in the owning module."""
        names: set[str] = set()
        seen: set[Node] = set()
        for node in self.nodes:
            if node.graph is not self:
                raise RuntimeError(f"Node '{node}' does not belong to this Graph!")
            if node._erased:
                raise RuntimeError(f"Node {node} was erased")
            for used in node.all_input_nodes:
                if used.graph is not self:
                    raise RuntimeError(f"Argument '{used}' of Node '{node}' does not belong to "
                                       "this Graph, but was used as an argument! If you are "
                                       "copying nodes from another graph, make sure to use "
                                       "`arg_transform` on node_copy() to remap values")
                if used not in seen:
                    raise RuntimeError(f"Argument '{used}' of Node '{node}' was used before it "
                                       f"has been defined! Please check that Nodes in the graph "
                                       f"are topologically ordered\n{self}")
            seen.add(node)
            if node.name in names:
                raise RuntimeError(f"Node redefined name {node.name}!")
            names.add(node.name)
        if self.owning_module is not None:
            for node in self.nodes:
                self._check_target(node)

    def _check_target(self, node: Node) -> None:
        if node.op not in ("get_attr", "call_module"):
            return
        value = self.owning_module
        steps = node.target.split(".")
        for k, step in enumerate(steps):
            if not hasattr(value, step):
                raise RuntimeError(f"Node {node} target {node.target} references nonexistent "
                                   f"attribute {step} of {'.'.join(steps[:k])}")
            value = getattr(value, step)
        if node.op == "call_module" and not isinstance(value, Module):
            raise RuntimeError(f"Node {node} target {node.target} does not reference an nn.Module")
        if node.op == "get_attr" and not isinstance(value, Module | Tensor):
            import warnings

            warnings.warn(f"Node {node} target {node.target} does not reference an nn.Module, "
                          "nn.Parameter, or buffer, which is what 'get_attr' Nodes typically "
                          "target", stacklevel=3)

    def eliminate_dead_code(self, is_impure_node: Callable[[Node], bool] | None = None) -> bool:
        """Erase the nodes that nobody uses and that do nothing else; whether there were any."""
        self.lint()
        impure = is_impure_node if is_impure_node is not None else Node.is_impure
        changed = False
        for node in reversed(self.nodes):
            if not node.users and node.op not in ("placeholder", "output") and not impure(node):
                self.erase_node(node)
                changed = True
        return changed


def _has_attribute(owner: Any, path: str) -> bool:
    for step in path.split("."):
        if not hasattr(owner, step):
            return False
        owner = getattr(owner, step)
    return True
