"""`Node`: one step of a graph, what it is applied to and who uses it.

Floor 7; imports immutable_collections, _names. Nodes of a graph are a ring around a root that is
no step. `args` and `kwargs` may nest nodes in tuples, lists, dicts and slices; assigning them keeps
`users` of the nodes inside up to date.
"""

from __future__ import annotations

import builtins
import types
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _names
from ._compatibility import compatibility
from .immutable_collections import immutable_dict, immutable_list

if TYPE_CHECKING:
    from .graph import Graph

__all__ = ["Node", "map_arg", "map_aggregate", "has_side_effect"]

_legal_ops = dict.fromkeys(["placeholder", "call_method", "call_module", "call_function",
                            "get_attr", "output", "root"])
Target = Any
Argument = Any
BaseArgumentTypes = Any
base_types = (str, int, float, bool, complex, type(None))

# Functions that are called for more than their result; `eliminate_dead_code` keeps them.
_side_effectful_functions: set[Callable[..., Any]] = {print, setattr, delattr}
# Attributes of the node's meta that are copied by passes which replace nodes.
_side_effectful_need_to_be_preserved_pre_dispatch: list[Callable[..., Any]] = []


def has_side_effect(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Say that a function does more than return its result; usable as a decorator.

    >>> has_side_effect(print) is print
    True
    """
    _side_effectful_functions.add(fn)
    return fn


def _get_qualified_name(func: Any) -> str:
    return _names.qualified(func)


def _find_module_of_method(method: Callable[..., Any]) -> str:
    return _names.qualified(method).rpartition(".")[0]


def _type_repr(obj: Any) -> str:
    """How a type is written in code: builtins by their name, others with their module."""
    if isinstance(obj, types.FunctionType):
        return obj.__name__
    if isinstance(obj, type) and not isinstance(obj, types.GenericAlias):
        if obj.__module__ == "builtins":
            return obj.__qualname__
        return f"{_names.public_module(obj.__module__)}.{obj.__qualname__}"
    if obj is ...:
        return "..."
    return repr(obj)


def _format_arg(arg: Any, max_list_len: float = float("inf")) -> str:
    """An argument as a listing of nodes shows it."""
    if hasattr(arg, "_custom_fx_repr_fn"):
        return str(arg._custom_fx_repr_fn())
    if isinstance(arg, list | tuple):
        shown = ", ".join([_format_arg(a) for k, a in enumerate(arg) if k < max_list_len])
        if len(arg) >= max_list_len + 1:
            shown += f", ...[total_len={len(arg)}]"
        if isinstance(arg, list):
            return f"[{shown}]"
        return f"({shown},)" if len(arg) == 1 else f"({shown})"
    if isinstance(arg, dict):
        return "{" + ", ".join(f"{k}: {_format_arg(v)}" for k, v in arg.items()) + "}"
    return f"%{arg}" if isinstance(arg, Node) else str(arg)


@compatibility(is_backward_compatible=True)
class Node:
    """One step of a `Graph`: an input, a call, an attribute, or the output.

    `op` says what kind of step it is ("placeholder", "get_attr", "call_function", "call_method",
    "call_module", "output"), `target` what is called or fetched, `users` which nodes use the
    result, `meta` whatever passes want to remember.
    """

    graph: Graph
    name: str
    op: str
    users: dict[Node, None]
    type: Any
    meta: dict[str, Any]

    def __init__(self, graph: Graph, name: str, op: str, target: Target,
                 args: tuple[Argument, ...], kwargs: dict[str, Argument],
                 return_type: Any = None) -> None:
        if op not in _legal_ops:
            raise AssertionError(f"a node cannot be {op!r}; it is one of {list(_legal_ops)}")
        if op == "call_function":
            if not callable(target):
                raise ValueError(f"Node [graph = {graph}, name = '{name}'] target {target} has type"
                                 f" {_names.torch_typename(target)} but a Callable is expected")
        elif not isinstance(target, str):
            raise ValueError(f"Node [graph = {graph}, name = '{name}'] target {target} has type "
                             f"{_names.torch_typename(target)} but a str is expected")
        put = self.__dict__
        put.update(graph=graph, name=name, op=op, target=target, users={}, type=return_type,
                   meta={}, _erased=False, _prev=self, _next=self, _input_nodes={}, _order=0,
                   _sort_key=(), _repr_fn=None, _args=(), _kwargs={})
        self._set_arguments(args, kwargs)

    # ------------------------------------------------------------ place in the graph

    @property
    def next(self) -> Node:
        """The node behind this one; the graph's root behind the last."""
        return self._next

    @property
    def prev(self) -> Node:
        """The node before this one; the graph's root before the first."""
        return self._prev

    def prepend(self, x: Node) -> None:
        """Move or insert `x` before this node. AssertionError for a node of another graph."""
        if self.graph is not x.graph:
            raise AssertionError("Attempting to move a Node into a different Graph")
        if self is x:
            warnings.warn("Trying to prepend a node to itself. This behavior has no effect on the "
                          "graph.", stacklevel=2)
            return
        x._remove_from_list()
        before = self._prev
        before._next, x._prev = x, before
        x._next, self._prev = self, x
        self.graph._moved()

    def append(self, x: Node) -> None:
        """Move or insert `x` behind this node."""
        self._next.prepend(x)

    def _remove_from_list(self) -> None:
        self._prev._next, self._next._prev = self._next, self._prev

    def _place(self) -> int:
        self.graph._number()
        return self._order

    def __lt__(self, other: Node) -> bool:
        return self._place() < other._place()

    def __gt__(self, other: Node) -> bool:
        return self._place() > other._place()

    def __le__(self, other: Node) -> bool:
        return self is other or self < other

    def __ge__(self, other: Node) -> bool:
        return self is other or self > other

    # ------------------------------------------------------------ arguments

    @property
    def args(self) -> tuple[Argument, ...]:
        """The positional arguments; assigning them updates `users`."""
        return self._args

    @args.setter
    def args(self, a: tuple[Argument, ...]) -> None:
        self._set_arguments(a, self._kwargs)

    @property
    def kwargs(self) -> dict[str, Argument]:
        """The keyword arguments; assigning them updates `users`."""
        return self._kwargs

    @kwargs.setter
    def kwargs(self, k: dict[str, Argument]) -> None:
        self._set_arguments(self._args, k)

    @property
    def all_input_nodes(self) -> list[Node]:
        """The nodes among the arguments, each once, in the order in which they appear."""
        return list(self._input_nodes)

    def _set_arguments(self, args: Any, kwargs: Any) -> None:
        for old in self._input_nodes:
            old.users.pop(self, None)
        self._input_nodes = {}

        def use(n: Any) -> Any:
            if isinstance(n, Node):
                self._input_nodes.setdefault(n)
                n.users.setdefault(self)
            return n

        self._args = map_aggregate(tuple(args), use)
        self._kwargs = map_aggregate(dict(kwargs), use)

    def update_arg(self, idx: int, arg: Argument) -> None:
        """Replace one positional argument."""
        args = list(self.args)
        args[idx] = arg
        self.args = tuple(args)

    def insert_arg(self, idx: int, arg: Argument) -> None:
        """Insert a positional argument. AssertionError for a place beyond the end."""
        if not 0 <= idx <= len(self.args):
            raise AssertionError(f"insert_args index must be between 0 and {len(self.args)}, "
                                 f"got {idx}")
        self.args = (*self.args[:idx], arg, *self.args[idx:])

    def update_kwarg(self, key: str, arg: Argument) -> None:
        """Replace or add one keyword argument."""
        self.kwargs = {**self.kwargs, key: arg}

    def replace_input_with(self, old_input: Node, new_input: Node) -> None:
        """Use `new_input` wherever an argument is `old_input`."""
        self._notify(old_input, new_input)

        def exchange(n: Node) -> Node:
            return new_input if n is old_input else n

        self._set_arguments(map_arg(self.args, exchange), map_arg(self.kwargs, exchange))

    def _notify(self, old: Node, new: Node) -> None:
        for hook in getattr(self.graph.owning_module, "_replace_hooks", ()):
            hook(old=old, new=new.name, user=self)

    def replace_all_uses_with(self, replace_with: Node,
                              delete_user_cb: Callable[[Node], bool] | None = None, *,
                              propagate_meta: bool = False) -> list[Node]:
        """Let all users of this node use `replace_with`; returns the users that were changed.

        `delete_user_cb(user)` may leave out a user by returning False. With `propagate_meta`, which
        needs a `replace_with` whose meta is empty, that gets this node's.
        """
        if propagate_meta:
            if replace_with.meta:
                raise AssertionError(
                    "Called node.replace_all_uses_with(replace_with, propagate_meta=True), but "
                    "replace_with already has .meta keys")
            replace_with.meta.update(self.meta)
        changed = []
        for user in list(self.users):
            if delete_user_cb is None or delete_user_cb(user):
                user.replace_input_with(self, replace_with)
                changed.append(user)
        return changed

    # ------------------------------------------------------------ facts

    @property
    def stack_trace(self) -> str | None:
        """Where the call was made in the traced program, if the tracer wrote it down."""
        return self.meta.get("stack_trace")

    @stack_trace.setter
    def stack_trace(self, trace: str | None) -> None:
        self.meta["stack_trace"] = trace

    def is_impure(self, impure_random: bool = True) -> bool:
        """Whether the node may do more than compute its result: inputs, outputs, functions with
        effects, calls in place, draws of random numbers (unless `impure_random` is False), and
        modules that are marked so."""
        if self.op in ("placeholder", "output"):
            return True
        if self.op in ("call_function", "call_method") and _names.writes(self.target, self.kwargs):
            return True
        if self.op == "call_function":
            return self.target in _side_effectful_functions or (
                impure_random and _names.draws(self.target))
        if self.op == "call_module":
            owner = self.graph.owning_module
            if owner is None:
                raise AssertionError("self.graph.owning_module not set for purity check")
            module = owner.get_submodule(self.target)
            return getattr(module, "_is_impure", False)
        return False

    def normalized_arguments(self, root: Any, arg_types: Any = None, kwarg_types: Any = None,
                             normalize_to_only_use_kwargs: bool = False) -> Any:
        """The arguments by the signature of what is called (an `ArgsKwargsPair`), or None if the
        signature is not known."""
        from .operator_schemas import normalize_function, normalize_module

        if self.op == "call_function":
            return normalize_function(self.target, self.args, self.kwargs, arg_types, kwarg_types,
                                      normalize_to_only_use_kwargs)
        if self.op == "call_module":
            return normalize_module(root, self.target, self.args, self.kwargs,
                                    normalize_to_only_use_kwargs)
        return None

    # ------------------------------------------------------------ text

    def __repr__(self) -> str:
        return self.name if self._repr_fn is None else self._repr_fn(self)

    @staticmethod
    def _pretty_print_target(target: Any) -> str:
        if isinstance(target, str):
            return target
        if getattr(target, "__module__", None) == "_operator":
            return f"operator.{target.__name__}"
        name = _names.qualified(target)
        return name if "." in name else f"builtins.{name}"

    def format_node(self, placeholder_names: list[str] | None = None,
                    maybe_return_typename: list[str] | None = None, *,
                    include_tensor_metadata: bool = False) -> str | None:
        """The node as a line of a listing. In the listing of a whole graph, inputs are collected in
        `placeholder_names` instead."""
        kind = f"{_type_repr(self.type)} " if self.type else ""
        if self.op == "placeholder":
            if placeholder_names is not None:
                placeholder_names.append(
                    self.target + (f" : {_type_repr(self.type)}" if self.type else ""))
            default = f"(default={self.args[0]})" if self.args else ""
            return (f"%{self.name} : {kind}[num_users={len(self.users)}] = placeholder"
                    f"[target={self.target}]{default}")
        if self.op == "output":
            if self.type and maybe_return_typename:
                maybe_return_typename[0] = f" -> {_type_repr(self.type)}"
            return f"return {self.args[0]}"
        target = self._pretty_print_target(self.target)
        line = f"%{self.name} : {kind}[num_users={len(self.users)}] = {self.op}[target={target}]"
        if self.op == "get_attr":
            return line
        found = self.meta.get("tensor_meta") if include_tensor_metadata else None
        shown = f" : {found}" if found is not None else ""
        return (f"{line}(args = {_format_arg(self.args)}, kwargs = {_format_arg(self.kwargs)})"
                f"{shown}")

    def _rename(self, candidate: str) -> None:
        """Give the node another name, made unique. The code of the graph is not updated."""
        if candidate != self.name:
            self.name = self.graph._graph_namespace.create_name(candidate, None)
            self.graph._graph_namespace._rename_object(self, self.name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "name" and "name" in self.__dict__ and value != self.name:
            for hook in getattr(self.graph.owning_module, "_replace_hooks", ()):
                for user in self.users:
                    hook(old=self, new=value, user=user)
        if name in ("op", "target") and "_erased" in self.__dict__ and not self._erased:
            self.graph._index_forget(self)
            object.__setattr__(self, name, value)
            self.graph._index_add(self)
            return
        object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        kept = dict(self.__dict__)
        for name in ("_erased", "_prev", "_next", "_order"):
            kept.pop(name)
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _erased=False, _prev=self, _next=self, _order=0)


def map_arg(a: Argument, fn: Callable[[Node], Argument]) -> Argument:
    """`a` with every node in it replaced by `fn(node)`."""
    if not callable(fn):
        raise AssertionError("torch.fx.map_arg(a, fn): fn must be a callable")
    return map_aggregate(a, lambda x: fn(x) if isinstance(x, Node) else x)


def map_aggregate(a: Argument, fn: Callable[[Argument], Argument]) -> Argument:
    """`a` with every leaf of its tuples, lists, dicts and slices replaced by `fn(leaf)`; lists and
    dicts become immutable ones."""
    if isinstance(a, tuple):
        items = [map_aggregate(x, fn) for x in a]
        return type(a)(*items) if hasattr(a, "_fields") else tuple(items)
    if isinstance(a, list):
        return immutable_list([map_aggregate(x, fn) for x in a])
    if isinstance(a, dict):
        return immutable_dict({k: map_aggregate(v, fn) for k, v in a.items()})
    if isinstance(a, builtins.slice):
        return slice(map_aggregate(a.start, fn), map_aggregate(a.stop, fn),
                     map_aggregate(a.step, fn))
    return fn(a)
