"""`Tracer` and `symbolic_trace`: running a program on proxies to get its graph.

Floor 7; imports proxy, graph, graph_module, nn. While a tracer runs, modules are called through it,
parameters that are read become nodes, public functions ask their arguments for proxies
(`watching`), and functions that were named by `wrap` are recorded instead of run.
"""

from __future__ import annotations

import builtins
import copy
import functools
import inspect
import math
import sys
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..nn.modules._hooks import watch_calls
from ..nn.modules.module import Module
from ..nn.parameter import Parameter
from ..tensor import Tensor
from ..utils import _pytree as pytree
from ..watching import Watch, hand_over
from ._codegen import _PyTreeCodeGen, _PyTreeInfo
from ._compatibility import compatibility  # noqa: F401  (packages find it here)
from .graph import Graph
from .graph_module import GraphModule
from .node import Argument, base_types, has_side_effect, map_aggregate
from .proxy import ParameterProxy, Proxy, Scope, ScopeContextManager, TracerBase

__all__ = ["Tracer", "symbolic_trace", "wrap", "PH", "PHBase", "PHWithMeta", "ProxyableClassMeta",
           "is_fx_tracing", "is_fx_symbolic_tracing"]

HAS_VARSTUFF = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
_proxyable_classes: dict[type, None] = {}
# Functions by the globals that they are in and their name; methods by class and name.
_wrapped_fns_to_patch: dict[tuple[int, str], dict[str, Any]] = {}
_wrapped_methods_to_patch: list[tuple[type, str]] = []
_is_fx_tracing_flag = False


def is_fx_tracing() -> bool:
    """Whether a program is being traced."""
    return _is_fx_tracing_flag


def is_fx_symbolic_tracing() -> bool:
    """Whether a program is being traced."""
    return _is_fx_tracing_flag


class ProxyableClassMeta(type):
    """The metaclass of a class whose instances may be made in a traced program: making one with a
    proxy among the arguments becomes a node."""

    def __init__(cls, name: str, bases: Any, attrs: Any) -> None:
        _proxyable_classes.setdefault(cls)
        super().__init__(name, bases, attrs)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = cls.__new__(cls)
        if not is_fx_tracing():
            cls.__init__(made, *args, **kwargs)
            return made
        found: list[Proxy] = []
        map_aggregate((args, kwargs), lambda v: found.append(v) if isinstance(v, Proxy) else None)
        if found:
            return found[0].tracer.create_proxy("call_function", cls, args, kwargs)
        cls.__init__(made, *args, **kwargs)
        return made


class PHBase:
    """Says that a part of a nested argument is an input."""

    def __repr__(self) -> str:
        return "PH"


PH = PHBase()


class PHWithMeta(PHBase):
    """An input whose placeholder gets a key of meta."""

    def __init__(self, ph_key: str | None = None) -> None:
        super().__init__()
        self.ph_key = ph_key


def _all_positional(fn: Any, nargs: int) -> FunctionType:
    """The function with what `*args` and `**kwargs` collect, and what is keyword-only, as plain
    arguments: a proxy then stands for all that they collect."""
    code: CodeType = fn.__code__
    return FunctionType(
        code.replace(co_argcount=nargs, co_posonlyargcount=0, co_kwonlyargcount=0,
                     co_flags=code.co_flags & ~HAS_VARSTUFF),
        fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)


class _Patcher:
    """What is replaced while a tracer runs, and put back in the opposite order.

    Packages whose tracers have a `trace` of their own use it by this name, with the functions
    `_orig_module_call`, `_orig_module_getattr`, `_autowrap_check` and `_patch_wrapped_functions`.
    """

    def __init__(self) -> None:
        self.undo: list[Callable[[], Any]] = []
        self.seen: set[int] = set()

    def __enter__(self) -> _Patcher:
        watch = Watch(hand_over).__enter__()
        self.undo.append(lambda: watch.__exit__())
        return self

    def __exit__(self, *exc: Any) -> None:
        while self.undo:
            self.undo.pop()()
        self.seen.clear()

    def patch(self, table: dict[str, Any], name: str, value: Any,
              deduplicate: bool = True) -> None:
        """Put a value into a table of globals."""
        if name in table:
            old = table[name]
            self.undo.append(lambda: table.__setitem__(name, old))
        else:
            self.undo.append(lambda: table.pop(name, None))
        table[name] = value

    def patch_method(self, cls: type, name: str, value: Any, deduplicate: bool = True) -> None:
        """Set a method of a class."""
        if cls is Module and name == "__call__":
            self.undo.append(watch_calls(
                lambda module, call, args, kwargs: value(module, *args, **kwargs)))
            return
        old = vars(cls).get(name, self)
        if old is self:
            self.undo.append(lambda: delattr(cls, name))
        else:
            self.undo.append(lambda: setattr(cls, name, old))
        setattr(cls, name, value)


_orig_module_getattr = Module.__getattr__


def _orig_module_call(module: Module, *args: Any, **kwargs: Any) -> Any:
    """What calling a module does while nothing is patched."""
    return module._call_impl(*args, **kwargs)


def _patch_wrapped_functions(patcher: _Patcher) -> None:
    """Record the functions and methods that `wrap` named."""
    for (_, name), table in list(_wrapped_fns_to_patch.items()):
        original = table.get(name, getattr(builtins, name, None))
        if original is not None:
            patcher.patch(table, name, _recorded(original))
    for cls, name in _wrapped_methods_to_patch:
        patcher.patch_method(cls, name, _recorded_method(cls, name))


class Tracer(TracerBase):
    """Makes the graph of a module or function by running it on proxies.

    Modules of the library are leaves: their calls are nodes. `is_leaf_module` decides about others;
    `autowrap_modules` names modules whose functions are recorded where the program has imported
    them by name, `autowrap_functions` single functions. With `param_shapes_constant`, shapes of
    parameters are numbers.

    >>> from lampion import fx
    >>> graph = fx.Tracer().trace(lambda x: lampion.relu(x) + 1)
    >>> [node.name for node in graph.nodes]
    ['x', 'relu', 'add', 'output']
    """

    def __init__(self, autowrap_modules: tuple[ModuleType, ...] = (math,),
                 autowrap_functions: tuple[Callable[..., Any], ...] = (),
                 param_shapes_constant: bool = False) -> None:
        super().__init__()
        self._autowrap_function_ids = {
            id(value) for module in autowrap_modules for name, value in vars(module).items()
            if not name.startswith("_") and callable(value)} | {id(f) for f in autowrap_functions}
        self._autowrap_search = list(autowrap_modules)
        self.param_shapes_constant = param_shapes_constant
        self.submodule_paths: dict[Module, str] | None = None
        self.root_module_name = ""
        self.scope = Scope("", None)
        self.module_stack = OrderedDict()
        self.num_calls: dict[str, int] = {}
        self.node_name_to_scope = {}
        self._qualname_counter: dict[str, int] = defaultdict(int)

    # ------------------------------------------------------------ what subclasses decide

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        """Whether calls of `m` are nodes, not traced into: the library's layers, but containers."""
        from ..nn import Sequential

        own = type(m).__module__
        return own.startswith(("lampion.nn", "torch.nn")) and not isinstance(m, Sequential)

    def call_module(self, m: Module, forward: Callable[..., Any], args: tuple[Any, ...],
                    kwargs: dict[str, Any]) -> Any:
        """What a call of a module does: a node for a leaf, else `forward(*args, **kwargs)`."""
        path = self.path_of_module(m)
        with ScopeContextManager(self.scope, Scope(path, type(m))) as scope:
            count = self.num_calls.get(path, 0)
            key = f"{scope.module_path}@{count}" if count else scope.module_path
            self.module_stack[key] = (path, scope.module_type)
            self.num_calls[path] = count + 1
            try:
                if self.is_leaf_module(m, path):
                    return self.create_proxy("call_module", path, args, kwargs)
                return forward(*args, **kwargs)
            finally:
                self.module_stack.popitem(last=True)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """What reading an attribute of a module gives: nodes for parameters (and for buffers, with
        `proxy_buffer_attributes`), else the value."""
        if isinstance(attr_val, Parameter):
            kinds = self.root.named_parameters()
        elif self.proxy_buffer_attributes and isinstance(attr_val, Tensor):
            kinds = self.root.named_buffers()
        else:
            return attr_val
        for name, value in kinds:
            if value is attr_val:
                return self._attribute_proxy(name, value, parameter_proxy_cache)
        return attr_val

    def _attribute_proxy(self, name: str, value: Any, cache: dict[str, Any]) -> Any:
        if name not in cache:
            more = {}
            if self.param_shapes_constant:  # a subclass may not know of this argument
                more["proxy_factory_fn"] = lambda node: ParameterProxy(self, node, name, value)
            cache[name] = self.create_proxy("get_attr", name, (), {}, **more)
        return cache[name]

    _module_getattr = getattr

    def get_fresh_qualname(self, prefix: str) -> str:
        """A name like `prefix` that the root has no attribute of."""
        k = self._qualname_counter[prefix]
        while True:
            name = f"{prefix}{k}"
            k += 1
            if not hasattr(self.root, name):
                self._qualname_counter[prefix] = k
                return name

    def path_of_module(self, mod: Module) -> str:
        """The path of a module below the root. NameError if it is not there."""
        paths = self.submodule_paths
        if paths:
            found = paths.get(mod)
            if found is None:
                raise NameError("module is not installed as a submodule")
            return found
        for path, other in self.root.named_modules():
            if other is mod:
                return path
        raise NameError("module is not installed as a submodule")

    def create_arg(self, a: Any) -> Argument:
        """What of a call's argument goes into the graph: also parameters, buffers and submodules by
        their path, other tensors as constants of the root."""
        if isinstance(a, Parameter):
            for name, value in self.root.named_parameters():
                if a is value:
                    return self.create_node("get_attr", name, (), {})
            raise NameError("parameter is not a member of this module")
        if isinstance(a, Tensor):
            for name, value in self.root.named_buffers():
                if a is value:
                    return self.create_node("get_attr", name, (), {})
            return self.create_node("get_attr", self._constant(a), (), {})
        if isinstance(a, Module):
            for name, module in self.root.named_modules():
                if a is module:
                    return self.create_node("get_attr", name, (), {})
        if type(a) in _proxyable_classes:
            name = self.get_fresh_qualname(f"_{type(a).__name__}_constant_")
            setattr(self.root, name, a)
            return self.create_node("get_attr", name, (), {})
        return super().create_arg(a)

    def _constant(self, a: Tensor) -> str:
        """The attribute of the root that holds a tensor; it is added if there is none."""
        name = self.tensor_attrs.get(a)
        if name is None:
            name = self.get_fresh_qualname("_tensor_constant")
            self.tensor_attrs[a] = name
            setattr(self.root, name, a)
        return name

    # ------------------------------------------------------------ tracing

    def create_args_for_root(self, root_fn: Callable[..., Any], is_module: bool,
                             concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """(function, arguments) to run: placeholders, and the concrete values that are given."""
        analysed = inspect.unwrap(root_fn)
        code = analysed.__code__
        total = code.co_argcount + code.co_kwonlyargcount
        names = list(code.co_varnames[:total])
        args: list[Any] = []
        if is_module:
            if not total:
                raise RuntimeError("``self`` argument cannot be part of *args expansion!")
            args.append(self.root)
        rest = names[len(args):]
        signature = inspect.signature(analysed)
        if isinstance(concrete_args, tuple):
            if len(rest) != len(concrete_args):
                raise RuntimeError(f"Tracing expected {len(rest)} arguments but got "
                                   f"{len(concrete_args)} concrete arguments")
            concrete_args = dict(zip(rest, concrete_args))
        args += [self._proxy_placeholder(n, concrete_args, signature, analysed) for n in rest]
        if code.co_kwonlyargcount or code.co_flags & HAS_VARSTUFF:
            more = iter(code.co_varnames[total:])
            if code.co_flags & inspect.CO_VARARGS:
                args.append(self._proxy_placeholder("*" + next(more), concrete_args, signature,
                                                    analysed))
            if code.co_flags & inspect.CO_VARKEYWORDS:
                args.append(self._proxy_placeholder("**" + next(more), concrete_args, signature,
                                                    analysed))
            root_fn = _all_positional(analysed, len(args))
        flat, in_spec = pytree.tree_flatten(tuple(args))
        if not all(part.is_leaf() for part in in_spec.children_specs):
            return self._flattened(root_fn, names[:total], flat, in_spec)
        return root_fn, args

    def _flattened(self, root_fn: Callable[..., Any], names: list[str], flat: list[Any],
                   in_spec: Any) -> tuple[Any, list[Any]]:
        """The function of the leaves of nested arguments."""
        self.graph._codegen = _PyTreeCodeGen(_PyTreeInfo(
            names[1:] if names and names[0] == "self" else names, _without_self(in_spec, names),
            None))

        def of_leaves(*leaves: Any) -> Any:
            result, out_spec = pytree.tree_flatten(
                root_fn(*pytree.tree_unflatten(list(leaves), in_spec)))
            codegen = self.graph._codegen
            codegen.pytree_info = codegen.pytree_info._replace(out_spec=out_spec)
            return result

        return of_leaves, flat

    def _proxy_placeholder(self, name: str, concrete_args: Any, signature: inspect.Signature,
                           fn: Any) -> Any:
        given = concrete_args is not None and name in concrete_args
        default: tuple[Any, ...] = ()
        if not name.startswith("*"):
            param = signature.parameters[name]
            default = () if param.default is param.empty else (param.default,)
        if not given:
            kind = getattr(fn, "__annotations__", {}).get(name)
            return self.create_proxy("placeholder", name, default, {},
                                     type_expr=_resolved(kind, fn))
        count = 0

        def place(x: Any) -> Any:
            nonlocal count
            count += 1
            out = self.create_proxy("placeholder", f"{name}_{count}", default, {})
            if isinstance(x, PHBase):
                if isinstance(x, PHWithMeta) and x.ph_key is not None:
                    out.node.meta["ph_key"] = x.ph_key
                return out
            self._specialise(name, x, out)
            return x

        return pytree.tree_map(place, concrete_args[name])

    def _specialise(self, name: str, x: Any, out: Any) -> None:
        """Let the graph check that an argument has the value for which it was traced."""
        import lampion

        if isinstance(x, (*base_types,)) and x is not None:
            self.create_proxy("call_function", lampion._assert, (
                out == x, f"{name} has been specialized to have value {x} but got another value"),
                {})
        elif x is None:
            self.create_proxy("call_function", _assert_is_none, (
                out, f"{name} has been specialized to have value None but got another value"), {})
        else:
            warnings.warn(f"Was not able to add assertion to guarantee correct input {name} to "
                          "specialized function. It is up to the user to make sure that your "
                          "inputs match the inputs you specialized the function with.",
                          stacklevel=3)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> Graph:
        """The graph of a module or function.

        `concrete_args` gives arguments values: they are constants of the graph, which checks them;
        in a nested value, `PH` marks what stays an input. TraceError where the program's control
        flow depends on a traced value.
        """
        global _is_fx_tracing_flag
        if isinstance(root, Module):
            self.root = root
            if not hasattr(type(root), self.traced_func_name):
                raise AssertionError(f"traced_func_name={self.traced_func_name} doesn't exist in "
                                     f"{type(root).__name__}")
            fn = getattr(type(root), self.traced_func_name)
            self.root_module_name = root._get_name()
            self.submodule_paths = {m: path for path, m in root.named_modules()}
        else:
            self.root, fn = Module(), root
        self.graph = Graph(tracer_cls=getattr(self, "__class__", None))
        self.tensor_attrs = _constants_of(self.root)
        if not isinstance(fn, FunctionType):
            raise AssertionError(f"a {type(fn).__name__} cannot be traced: give a module or a "
                                 "Python function")
        was, _is_fx_tracing_flag = _is_fx_tracing_flag, True
        try:
            with _Patcher() as patches:
                fn_, args = self.create_args_for_root(fn, isinstance(root, Module), concrete_args)
                self._patch(patches, fn.__globals__)
                result = self.create_arg(fn_(*args))
                kind = _resolved(getattr(fn, "__annotations__", {}).get("return"), fn)
                self.create_node("output", "output", (result,), {}, type_expr=kind)
        finally:
            _is_fx_tracing_flag = was
        self.submodule_paths = None
        return self.graph

    def _patch(self, patches: _Patcher, fn_globals: dict[str, Any]) -> None:
        """Let modules, parameters and wrapped functions come to this tracer."""
        cache: dict[str, Any] = {}

        def module_getattr(module: Any, attr: str) -> Any:
            return self.getattr(attr, _orig_module_getattr(module, attr), cache)

        def module_call(module: Any, call: Any, args: Any, kwargs: Any) -> Any:
            _autowrap_check(patches, getattr(module.forward, "__globals__", {}),
                            self._autowrap_function_ids)
            return self.call_module(module, call, args, kwargs)

        patches.patch_method(Module, "__getattr__", module_getattr)
        patches.undo.append(watch_calls(module_call))
        _patch_wrapped_functions(patches)
        _autowrap_check(patches, fn_globals, self._autowrap_function_ids)
        for module in self._autowrap_search:
            _autowrap_check(patches, vars(module), self._autowrap_function_ids)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tracer:
        made = object.__new__(type(self))
        for name, value in self.__dict__.items():
            made.__dict__[name] = value if name in ("_autowrap_search", "root") else \
                copy.deepcopy(value, memo)
        return made


def _without_self(spec: Any, names: list[str]) -> Any:
    """The spec of the arguments as they are given to the graph's module."""
    parts = spec.children_specs[1:] if names and names[0] == "self" else spec.children_specs
    return type(spec)(spec.type, spec.context, list(parts), spec.node)


def _resolved(kind: Any, fn: Any) -> Any:
    """An annotation that is text, as what it means; the text if that is not known."""
    if not isinstance(kind, str):
        return kind
    try:
        return eval(kind, fn.__globals__)
    except Exception:  # a name that only type checkers know
        return None


def _constants_of(root: Module) -> dict[Any, str]:
    """The tensors that are plain attributes of modules, and their paths."""
    found: dict[Any, str] = {}
    for path, module in root.named_modules():
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor):
                found[value] = f"{path}.{name}" if path else name
    return found


# ---------------------------------------------------------------- functions that are recorded

def _find_proxy(*values: Any) -> Proxy | None:
    found: list[Proxy] = []
    map_aggregate(values, lambda v: found.append(v) if isinstance(v, Proxy) else None)
    return found[0] if found else None


def _recorded(original: Callable[..., Any]) -> Callable[..., Any]:
    """The function, a node where an argument is a proxy."""
    @functools.wraps(original)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        proxy = _find_proxy(args, kwargs)
        if proxy is None:
            return original(*args, **kwargs)
        made = proxy.tracer.create_proxy("call_function", original, args, kwargs)
        made.node.meta["is_wrapped"] = True
        return made

    return recorded


def _recorded_method(cls: type, name: str) -> Callable[..., Any]:
    original = getattr(cls, name)

    @functools.wraps(original)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        proxy = _find_proxy(args, kwargs)
        if proxy is None:
            return original(*args, **kwargs)
        return proxy.tracer.create_proxy("call_method", name, args, kwargs)

    return recorded


def _autowrap_check(patcher: _Patcher, table: dict[str, Any], ids: set[int]) -> None:
    """Record the functions with these ids in a table of globals, once."""
    if id(table) in patcher.seen:
        return
    patcher.seen.add(id(table))
    for name, value in list(table.items()):
        if not name.startswith("_") and callable(value) and id(value) in ids:
            patcher.patch(table, name, _recorded(value))


def wrap(fn_or_name: Any) -> Any:
    """Let calls of a function of this module be nodes, without tracing into it. Called at the top
    level of a module, with the name of a global or builtin, or as a decorator.

    NotImplementedError inside a function.

    >>> # wrap("len"): len(x) is then a node of type call_function
    """
    if not callable(fn_or_name) and not isinstance(fn_or_name, str):
        raise RuntimeError("Unsupported type for global function! Must be either a callable or "
                           "string name")
    name = fn_or_name if isinstance(fn_or_name, str) else fn_or_name.__name__
    frame = sys._getframe(1)
    if frame.f_code.co_name != "<module>":
        raise NotImplementedError("wrap must be called at the top level of a module")
    _wrapped_fns_to_patch[id(frame.f_globals), name] = frame.f_globals
    return fn_or_name


def symbolic_trace(root: Any, concrete_args: dict[str, Any] | None = None) -> GraphModule:
    """The module or function as a `GraphModule`: its graph, and a forward that is generated from
    it. See `Tracer.trace`.

    >>> from lampion import fx
    >>> double = fx.symbolic_trace(lambda x: x + x)
    >>> double(lampion.tensor([1.0, 2.0]))
    tensor([2., 4.])
    """
    tracer = Tracer()
    graph = tracer.trace(root, concrete_args)
    name = root.__class__.__name__ if isinstance(root, Module) else root.__name__
    return GraphModule(tracer.root, graph, name)


@has_side_effect
def _assert_is_none(value: Any, msg: str) -> None:
    if value is not None:
        raise AssertionError(msg)
