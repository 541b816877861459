"""`Proxy`: stands for a value while a program is traced, and writes down what is done with it.

Floor 7; imports graph, node, watching. Tracers say how proxies are made and what becomes of the
arguments of calls.
"""

from __future__ import annotations

import copy
import dis
import enum
import inspect
import operator
import sys
import traceback as _traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from types import FrameType, FunctionType
from typing import Any

from ..base.device import device
from ..base.dtype import dtype
from ..base.layout import layout, memory_format
from ..tensor import OPERATORS, Size, Tensor
from ..watching import follow_classes
from . import traceback as fx_traceback
from ._codegen import magic_methods, reflectable_magic_methods
from ._names import SPELLED
from .graph import Graph
from .node import Argument, Node, Target, base_types, has_side_effect, map_aggregate

__all__ = ["TracerBase", "GraphAppendingTracer", "TraceError", "Proxy", "MetaProxy", "Attribute",
           "ParameterProxy", "Scope", "ScopeContextManager"]


class TraceError(ValueError):
    """The program does something with a traced value that depends on what the value is."""


@dataclass
class Scope:
    """The module whose forward is being traced: its path and class."""

    module_path: str
    module_type: Any


class ScopeContextManager:
    """A `with` block in which a `Scope` object has other values."""

    def __init__(self, scope: Scope, current_scope: Scope) -> None:
        self._prev_scope = copy.copy(scope)
        scope.module_path = current_scope.module_path
        scope.module_type = current_scope.module_type
        self._scope = scope

    def __enter__(self) -> Scope:
        return self._scope

    def __exit__(self, *args: Any) -> None:
        self._scope.module_path = self._prev_scope.module_path
        self._scope.module_type = self._prev_scope.module_type


class TracerBase:
    """How calls become nodes, and nodes proxies."""

    graph: Graph
    record_stack_traces: bool = False
    check_mutable_operations: bool = False
    trace_asserts: bool = False
    proxy_buffer_attributes: bool = False
    traced_func_name: str = "forward"
    scope: Scope
    module_stack: OrderedDict[str, tuple[str, Any]]
    node_name_to_scope: dict[str, tuple[str, type]]

    def create_node(self, kind: str, target: Target, args: tuple[Argument, ...],
                    kwargs: dict[str, Argument], name: str | None = None,
                    type_expr: Any = None) -> Node:
        """Add a node to the graph, with what is known of where it comes from."""
        if kind == "call_function" and self.check_mutable_operations:
            from .operator_schemas import check_for_mutable_operation

            check_for_mutable_operation(target, args, kwargs)
        node = self.graph.create_node(kind, target, args, kwargs, name, type_expr)
        scope = getattr(self, "scope", None)
        if scope is not None:
            self.node_name_to_scope[node.name] = (scope.module_path, scope.module_type)
        if fx_traceback.has_preserved_node_meta():
            node.meta.update(fx_traceback.get_current_meta())
        elif getattr(self, "module_stack", None):
            node.meta["nn_module_stack"] = copy.copy(self.module_stack)
        return node

    def proxy(self, node: Node) -> Proxy:
        """The proxy of a node; tracers may return a subclass."""
        return Proxy(node, self)

    def create_proxy(self, kind: str, target: Target, args: tuple[Any, ...],
                     kwargs: dict[str, Any], name: str | None = None, type_expr: Any = None,
                     proxy_factory_fn: Callable[[Node], Proxy] | None = None) -> Any:
        """Add a node whose arguments are what `create_arg` makes of these; returns its proxy."""
        args_, kwargs_ = self.create_arg(args), self.create_arg(kwargs)
        if not isinstance(args_, tuple) or not isinstance(kwargs_, dict):
            raise AssertionError("create_arg must return a tuple for args and a dict for kwargs")
        node = self.create_node(kind, target, args_, kwargs_, name, type_expr)
        proxy = self.proxy(node) if proxy_factory_fn is None else proxy_factory_fn(node)
        if self.record_stack_traces and not node.stack_trace:
            frame = self._find_user_frame()
            if frame is not None:
                summary = _traceback.StackSummary.extract(_traceback.walk_stack(frame))
                summary.reverse()
                node.stack_trace = "".join(summary.format()).strip()
        return proxy

    def _find_user_frame(self) -> FrameType | None:
        """The innermost frame that is not this package's."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and (
                frame.f_globals.get("__name__", "").partition(".")[0] == "lampion"
                or frame.f_code.co_filename.startswith("<lampion")
                or frame.f_code.co_filename == "<string>"):
            frame = frame.f_back
        return frame

    def create_arg(self, a: Any) -> Argument:
        """What of a call's argument goes into the graph: the node for a proxy, containers by their
        parts. NotImplementedError for anything that no code could name."""
        if isinstance(a, Proxy):
            return a.node
        if hasattr(type(a), "__fx_create_arg__"):
            return a.__fx_create_arg__(self)
        if isinstance(a, tuple):
            items = [self.create_arg(x) for x in a]
            if hasattr(a, "_fields"):
                return type(a)(*items)
            return a if type(a) is Size else tuple(items)
        if isinstance(a, list):
            return [self.create_arg(x) for x in a]
        if isinstance(a, dict):
            return {self._key(k): self.create_arg(v) for k, v in a.items()}
        if isinstance(a, slice):
            return slice(self.create_arg(a.start), self.create_arg(a.stop), self.create_arg(a.step))
        if isinstance(a, range):
            return range(self.create_arg(a.start), self.create_arg(a.stop), self.create_arg(a.step))
        if is_dataclass(a) and not isinstance(a, type):
            parts = {f.name: self.create_arg(getattr(a, f.name)) for f in fields(a)}
            return self.create_node("call_function", type(a), (), parts)
        if isinstance(a, (*base_types, enum.Enum, dtype, device, layout, memory_format)) \
                or a is ... or isinstance(a, Node | FunctionType | type):
            return a
        if type(a).__name__ == "Overloads" or inspect.isbuiltin(a):
            return a
        raise NotImplementedError(f"argument of type: {type(a)}")

    def _key(self, key: Any) -> Any:
        made = self.create_arg(key)
        found: list[Any] = []
        map_aggregate(made, lambda x: found.append(x) if isinstance(x, Node) else None)
        if found:
            raise RuntimeError("Keys for dictionaries used as an argument cannot contain a Node. "
                               f"Got key: {key}")
        return made

    def to_bool(self, obj: Proxy) -> bool:
        """What `bool(proxy)` does: TraceError. A subclass may decide."""
        raise TraceError("symbolically traced variables cannot be used as inputs to control flow")

    def iter(self, obj: Proxy) -> Iterator[Any]:
        """What `iter(proxy)` does where the number of items is not known: TraceError."""
        raise TraceError("Proxy object cannot be iterated. This can be attempted when the Proxy is "
                         "used in a loop or as a *args or **kwargs function argument. See the "
                         "torch.fx docs on pytorch.org for a more detailed explanation of what "
                         "types of control flow can be traced, and check out the Proxy docstring "
                         "for help troubleshooting Proxy iteration errors")

    def keys(self, obj: Proxy) -> Any:
        """What `proxy.keys()` returns, which `**proxy` asks for."""
        return Attribute(obj, "keys")()


class GraphAppendingTracer(TracerBase):
    """Adds nodes to a graph that is there: what proxies made by hand use."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.scope = Scope("", None)
        self.module_stack = OrderedDict()
        self.node_name_to_scope = {}


@has_side_effect
def assert_fn(x: Any) -> None:
    """AssertionError unless `x` is true."""
    if not x:
        raise AssertionError


class Proxy:
    """Stands for the value of a node: whatever is done with it becomes a node of the graph.

    >>> from lampion import fx
    >>> graph = fx.Graph()
    >>> x = fx.Proxy(graph.placeholder("x"))
    >>> (x + 1).node
    add
    """

    def __init__(self, node: Node, tracer: TracerBase | None = None) -> None:
        if tracer is None:
            tracer = GraphAppendingTracer(node.graph)
        if isinstance(tracer, GraphAppendingTracer):
            follow_classes()  # no trace that runs says when the proxy is done with
        self.__dict__["tracer"] = tracer
        self.__dict__["node"] = node

    def __repr__(self) -> str:
        return f"Proxy({self.node.name})"

    def __getattr__(self, k: str) -> Attribute:
        return Attribute(self, k)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, d: dict[str, Any]) -> None:
        self.__dict__.update(d)

    def __deepcopy__(self, memo: dict[int, Any]) -> Proxy:
        made = object.__new__(type(self))
        made.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items()})
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", "__call__", (self, *args), kwargs)

    def __iter__(self) -> Iterator[Any]:
        frame = sys._getframe(1)
        count = _unpacked(frame)
        if count is not None:
            return (self[k] for k in range(count))  # type: ignore[index]
        return self.tracer.iter(self)

    def __abs__(self) -> Any:
        return self.tracer.create_proxy("call_function", operator.abs, (self,), {})

    def __bool__(self) -> bool:
        if self.tracer.trace_asserts and _asserts(sys._getframe(1)):
            self.tracer.create_proxy("call_function", assert_fn, (self,), {})
            return True
        return self.tracer.to_bool(self)

    def keys(self) -> Any:
        """The keys of the value, which stands for a dict."""
        return self.tracer.keys(self)

    def __len__(self) -> int:
        raise RuntimeError("'len' is not supported in symbolic tracing by default. If you want "
                           "this call to be recorded, please call torch.fx.wrap('len') at "
                           "module scope")

    @classmethod
    def __torch_function__(cls, orig_method: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tracers: dict[Any, None] = {}
        _each(args, lambda p: tracers.setdefault(p.tracer))
        _each(kwargs, lambda p: tracers.setdefault(p.tracer))
        if len(tracers) > 1:
            raise RuntimeError(f"Found multiple different tracers {list(tracers)} while trying to "
                               f"trace operations {orig_method}")
        tracer = next(iter(tracers))
        name = getattr(orig_method, "__name__", type(orig_method).__name__)
        method = OPERATORS[name][0] if name in OPERATORS else name
        if vars(Tensor).get(name) is orig_method and not _is_function(orig_method):
            return tracer.create_proxy("call_method", method, args, kwargs)
        if name in SPELLED and _is_functional(orig_method):
            args, kwargs = _spell_out(orig_method, args, kwargs)
        return tracer.create_proxy("call_function", orig_method, args, kwargs,
                                   name=tracer.graph._target_to_str(name))


def _each(value: Any, fn: Callable[[Proxy], Any]) -> None:
    """Call `fn` with every proxy in an argument."""
    if isinstance(value, Proxy):
        fn(value)
    elif isinstance(value, list | tuple):
        for v in value:
            _each(v, fn)
    elif isinstance(value, dict):
        for v in value.values():
            _each(v, fn)
    elif isinstance(value, slice):
        _each((value.start, value.stop, value.step), fn)


def _is_function(fn: Any) -> bool:
    """Whether a method of Tensor is a public function, too."""
    import lampion

    return vars(lampion).get(fn.__name__) is fn


def _is_functional(fn: Any) -> bool:
    from ..nn import functional

    return getattr(functional, fn.__name__, None) is fn


def _spell_out(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Positional arguments for what has no default, all others by name."""
    try:
        signature = inspect.signature(fn)
        bound = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):
        return args, kwargs
    bound.apply_defaults()
    places, named = [], {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name]
        if kind.kind in (kind.VAR_POSITIONAL, kind.VAR_KEYWORD):
            return args, kwargs
        if kind.default is kind.empty:
            places.append(value)
        elif name != "out" or value is not None:
            named[name] = value
    return tuple(places), named


def _next_instructions(frame: FrameType, count: int) -> list[Any]:
    """The instruction that a frame is at, and those after it, without what only fills space."""
    skip = ("CACHE", "EXTENDED_ARG", "NOP", "TO_BOOL")
    found = [i for i in dis.get_instructions(frame.f_code)
             if i.offset >= frame.f_lasti and i.opname not in skip]
    return found[:count]


def _unpacked(frame: FrameType | None) -> int | None:
    """How many values the caller unpacks, if that is what it does."""
    if frame is None:
        return None
    now = _next_instructions(frame, 1)
    return now[0].argval if now and now[0].opname == "UNPACK_SEQUENCE" else None


def _asserts(frame: FrameType) -> bool:
    """Whether the caller tests the value for an `assert`."""
    now = _next_instructions(frame, 3)
    names = [i.opname for i in now]
    return any("JUMP" in n and "IF_TRUE" in n for n in names[:2]) and any(
        "ASSERTION_ERROR" in n or (i.opname == "LOAD_COMMON_CONSTANT")
        for n, i in zip(names, now))


class Attribute(Proxy):
    """An attribute of a proxy. Only if it is used as a value is it fetched: a call is a call of a
    method."""

    def __init__(self, root: Proxy, attr: str) -> None:
        self.__dict__.update(root=root, attr=attr, tracer=root.tracer, _node=None)

    @property
    def node(self) -> Node:
        """The node that fetches the attribute."""
        if self._node is None:
            self.__dict__["_node"] = self.tracer.create_proxy(
                "call_function", getattr, (self.root, self.attr), {}).node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


class MetaProxy(Proxy):
    """A proxy that carries a value beside."""

    def __init__(self, node: Node, tracer: TracerBase | None = None, fake_mode: Any = None) -> None:
        super().__init__(node, tracer)
        self.__dict__["fake_mode"] = fake_mode


class ParameterProxy(Proxy):
    """The proxy of a parameter: its shape is that of the parameter, a constant."""

    def __init__(self, tracer: TracerBase, node: Node, name: str, param: Any) -> None:
        super().__init__(node, tracer)
        if not isinstance(param, Tensor):
            raise AssertionError(f"expected a parameter, got {type(param)}")
        self.__dict__.update(param=param, name=name)

    def __repr__(self) -> str:
        return f"ParameterProxy({self.name})"

    @property
    def shape(self) -> Any:
        """The shape of the parameter."""
        return self.param.shape

    def size(self) -> Any:
        """The shape of the parameter."""
        return self.param.size()

    def dim(self) -> int:
        """The number of dims of the parameter."""
        return self.param.dim()

    @property
    def ndim(self) -> int:
        """The number of dims of the parameter."""
        return self.param.ndim

    def numel(self) -> int:
        """The number of elements of the parameter."""
        return self.param.numel()

    def nelement(self) -> int:
        """The number of elements of the parameter."""
        return self.param.nelement()


def _define(name: str, target: Any, reflected: bool) -> None:
    """An operator of proxies, seen from the left or from the right."""
    def left(*args: Any, **kwargs: Any) -> Any:
        return args[0].tracer.create_proxy("call_function", target, args, kwargs)

    def right(self: Any, rhs: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (rhs, self), {},
                                        name=self.tracer.graph._target_to_str(target.__name__))

    method = right if reflected else left
    method.__name__ = f"__{'r' if reflected else ''}{name.strip('_')}__"
    method.__doc__ = f"A node that calls operator.{name}."
    setattr(Proxy, method.__name__, method)


for _name in magic_methods:
    _define(_name, getattr(operator, _name), False)
for _name in reflectable_magic_methods:
    _define(_name, getattr(operator, _name), True)
Proxy.__div__ = Proxy.__truediv__  # type: ignore[attr-defined]
Proxy.__rdiv__ = Proxy.__rtruediv__  # type: ignore[attr-defined]
