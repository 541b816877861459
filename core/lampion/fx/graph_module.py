"""`GraphModule`: a module whose forward is generated from a graph.

Floor 7; imports graph, nn. Every instance has a class of its own, because `forward` is compiled
into the class.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import linecache
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

from ..nn.modules.module import Module
from ..nn.parameter import Parameter
from ..tensor import Tensor
from . import _names
from ._codegen import PythonCode, _custom_builtins, _is_from_torch, _PyTreeCodeGen
from .graph import Graph
from .node import Node, _get_qualified_name

__all__ = ["GraphModule", "reduce_graph_module"]

_keys = itertools.count()
# Where the meta of a module keeps attributes that copies shall have.
_USER_PRESERVED_ATTRIBUTES_KEY = "_user_preserved_attributes"


def _exec_with_source(src: str, globals: dict[str, Any]) -> None:
    """Run code whose lines show in tracebacks."""
    name = f"<eval_with_key>.{next(_keys)}"
    linecache.cache[name] = (len(src), None, src.splitlines(keepends=True), name)
    exec(compile(src, name, "exec"), globals)


def _forward_from_src(src: str, globals: dict[str, Any], co_fields: Any = None) -> Any:
    """The function `forward` that code defines."""
    return _method_from_src("forward", src, globals)


def _method_from_src(method_name: str, src: str, globals: dict[str, Any]) -> FunctionType:
    """The function that code defines. The globals are not changed."""
    scope = dict(globals)
    _exec_with_source(src, scope)
    return scope[method_name]


# ---------------------------------------------------------------- attributes by path

def _copy_attr(from_module: Module, to_module: Module, target: str) -> None:
    """Copy an attribute of a module hierarchy, making the modules on the way."""
    *path, name = target.split(".")
    source, owner = from_module, to_module
    for step in path:
        child = getattr(source, step)
        if child is getattr(owner, step, None):
            return
        source, owner = child, _child(owner, step)
    value = getattr(source, name)
    if isinstance(value, Tensor) and not isinstance(value, Parameter):
        kept = name not in getattr(source, "_non_persistent_buffers_set", ())
        _hold(owner, name, value, kept)
    else:
        setattr(owner, name, value)


def _hold(owner: Module, name: str, value: Tensor, persistent: bool = True) -> None:
    """A tensor as a buffer."""
    if name in owner.__dict__:
        delattr(owner, name)
    owner.register_buffer(name, value, persistent)


def _assign_attr(from_obj: Any, to_module: Module, target: str) -> None:
    """Set an attribute of a module hierarchy, making the modules on the way."""
    *path, name = target.split(".")
    owner = to_module
    for step in path:
        owner = _child(owner, step)
    if isinstance(from_obj, Tensor) and not isinstance(from_obj, Parameter):
        _hold(owner, name, from_obj)
    else:
        setattr(owner, name, from_obj)


def _child(owner: Module, step: str) -> Module:
    if not hasattr(owner, step):
        setattr(owner, step, Module())
    return getattr(owner, step)


def _get_attr(model: Module, attr_name: str) -> Any:
    """The attribute at a path."""
    value: Any = model
    for step in attr_name.split("."):
        value = getattr(value, step)
    return value


def _del_attr(model: Module, attr_name: str) -> None:
    """Delete the attribute at a path."""
    path, _, name = attr_name.rpartition(".")
    delattr(_get_attr(model, path) if path else model, name)


def _has_attr(model: Module, attr_name: str) -> bool:
    """Whether there is an attribute at a path."""
    try:
        _get_attr(model, attr_name)
    except AttributeError:
        return False
    return True


# ---------------------------------------------------------------- pickling

def _format_import_statement(name: str, obj: Any) -> str:
    known = _custom_builtins().get(name)
    if known is not None and known.obj is obj:
        return known.import_str
    if _is_from_torch(obj):
        module, _, attr = _get_qualified_name(obj).rpartition(".")
        module = "lampion" + module[len(_names.prefix()):]
    else:
        module, attr = getattr(obj, "__module__", "builtins") or "builtins", obj.__name__
    return f"from {module} import {attr} as {name}"


def _format_import_block(globals: dict[str, Any]) -> str:
    """Import statements of the globals of some code."""
    return "\n".join(sorted({_format_import_statement(n, v) for n, v in globals.items()}))


def reduce_graph_module(body: dict[Any, Any], import_block: str) -> Module:
    """The GraphModule of its attributes and the code in `_code`, by tracing that code."""
    scope: dict[str, Any] = {}
    exec(import_block, scope)
    forward = _method_from_src("forward", body["_code"], scope)
    return _deserialize_graph_module(forward, body)


class _CodeOnlyModule(Module):
    """The attributes of a GraphModule, and its forward."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__()
        self.__dict__ = body


def _deserialize_graph_module(forward: Any, body: dict[Any, Any]) -> Module:
    from ._symbolic_trace import Tracer

    tracer_cls = body.pop("_tracer_cls", None) or Tracer
    name = body.pop("_graphmodule_cls_name", "GraphModule")
    extra = body.pop("_meta", {})
    code_only = type("_CodeOnly", (_CodeOnlyModule,), {"forward": forward})(body)

    class KeepModules(tracer_cls):  # type: ignore[misc, valid-type]
        """Calls of modules were nodes, and are again."""

        def is_leaf_module(self, *_: Any) -> bool:
            return True

    spec = body.pop("_pytree_info", None)
    graph = KeepModules().trace(code_only)
    if spec is not None:
        graph._codegen = _PyTreeCodeGen(spec)
    graph._tracer_cls = tracer_cls
    made = GraphModule(code_only, graph, class_name=name)
    made.meta.update(extra)
    for key, value in body.items():
        if key not in made.__dict__ and key != "_code":
            made.__dict__[key] = value
    return made


# ---------------------------------------------------------------- the module

class GraphModule(Module):
    """A module that runs a graph.

    `root` is the module (or a dict by path) that has what nodes of the graph refer to; only that is
    taken over. Assigning `graph`, or `recompile()` after the graph was changed, compiles anew.

    >>> from lampion import fx
    >>> made = fx.symbolic_trace(lambda x: x * 2)
    >>> print(made.code.strip())
    def forward(self, x):
        mul = x * 2;  x = None
        return mul
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> GraphModule:
        base = next(c for c in cls.__mro__ if c.__qualname__ != "GraphModuleImpl"
                    and c.__qualname__ != "GraphModule.__new__.<locals>.GraphModuleImpl")

        class GraphModuleImpl(base):  # type: ignore[misc, valid-type]
            pass

        return super().__new__(GraphModuleImpl)

    def __init__(self, root: Module | dict[str, Any], graph: Graph,
                 class_name: str = "GraphModule") -> None:
        super().__init__()
        self.__class__.__name__ = class_name
        self.__class__.__module__ = GraphModule.__module__
        if isinstance(root, Module):
            if hasattr(root, "training"):
                self.training = root.training
            for node in graph.nodes:
                if node.op in ("get_attr", "call_module"):
                    _copy_attr(root, self, node.target)
        elif isinstance(root, dict):
            self._take_all(root, graph)
        else:
            raise RuntimeError(f"Unsupported type {root} passed for root!")
        self.__dict__.update(_replace_hooks=[], _create_node_hooks=[], _erase_node_hooks=[],
                             _deepcopy_hooks=[], meta={}, _tracer_cls=None, _tracer_extras={})
        self.graph = graph
        tracer = self.graph._tracer_cls
        if tracer is not None and "<locals>" not in tracer.__qualname__:
            self._tracer_cls = tracer
        if isinstance(root, GraphModule):
            self.meta.update(root.meta)

    def _take_all(self, root: dict[str, Any], graph: Graph) -> None:
        targets = []
        for node in graph.nodes:
            if node.op in ("get_attr", "call_module"):
                if node.target not in root:
                    raise RuntimeError(f"Node {node} referenced target {node.target} but that "
                                       "target was not provided in ``root``!")
                targets.append(node.target)
        for target in sorted(targets, key=lambda t: t.count(".")):
            _assign_attr(root[target], self, target)

    @property
    def graph(self) -> Graph:
        """The graph. Assigning one compiles it."""
        return self.__dict__["_graph"]

    @graph.setter
    def graph(self, g: Graph) -> None:
        if not isinstance(g, Graph):
            raise AssertionError(f"Expected a Graph instance, but got {type(g)}")
        self.__dict__["_graph"] = g
        g.owning_module = self
        self.recompile()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "graph":  # Module.__setattr__ sets plain attributes past properties of no slot
            type(self).graph.fset(self, value)  # type: ignore[attr-defined]
        else:
            super().__setattr__(name, value)

    @property
    def code(self) -> str:
        """The Python code of the graph."""
        if "_code" not in self.__dict__:
            raise RuntimeError("this module has no graph yet: assign one to .graph")
        return self.__dict__["_code"]

    def recompile(self) -> PythonCode:
        """Generate `forward` from the graph: after every change of it."""
        codegen = self.graph._codegen
        if isinstance(codegen, _PyTreeCodeGen):
            self.__dict__["_in_spec"] = codegen.pytree_info.in_spec
            self.__dict__["_out_spec"] = codegen.pytree_info.out_spec
        made = self.graph.python_code("self")
        self.__dict__["_code"] = made.src
        self.__dict__["_lineno_map"] = made._lineno_map
        cls = type(self)
        cls.forward = _method_from_src("forward", made.src, made.globals)  # type: ignore
        return made

    # ------------------------------------------------------------ submodules

    def add_submodule(self, target: str, m: Module) -> bool:
        """Put a module at a path, making the modules on the way; False if something else is in the
        way."""
        *path, name = target.split(".")
        owner: Module = self
        for step in path:
            if not hasattr(owner, step):
                setattr(owner, step, Module())
            owner = getattr(owner, step)
            if not isinstance(owner, Module):
                return False
        owner.add_module(name, m)
        return True

    def delete_submodule(self, target: str) -> bool:
        """Delete the module at a path; False if there is none."""
        *path, name = target.split(".")
        owner: Any = self
        for step in path:
            owner = getattr(owner, step, None)
            if not isinstance(owner, Module):
                return False
        if not isinstance(getattr(owner, name, None), Module):
            return False
        delattr(owner, name)
        return True

    def delete_all_unused_submodules(self) -> None:
        """Delete the modules that no node refers to, nor to anything below them."""
        used: set[str] = set()
        for node in self.graph.nodes:
            if node.op not in ("call_module", "get_attr"):
                continue
            steps = node.target.split(".")
            used.update(".".join(steps[:k]) for k in range(1, len(steps) + 1))
            if node.op == "call_module" and _has_attr(self, node.target):
                found = self.get_submodule(node.target)
                used.update(f"{node.target}.{path}" for path, _ in found.named_modules() if path)
        for path in [p for p, _ in self.named_modules() if p and p not in used]:
            self.delete_submodule(path)

    # ------------------------------------------------------------ copies, files

    def _state(self) -> dict[str, Any]:
        kept = self.__dict__.copy()
        graph = kept.pop("_graph")
        for name in ("_replace_hooks", "_create_node_hooks", "_erase_node_hooks",
                     "_deepcopy_hooks", "_lineno_map", "_in_spec", "_out_spec"):
            kept.pop(name, None)
        kept["_graphmodule_cls_name"] = type(self).__name__
        kept["_meta"] = kept.pop("meta")
        if isinstance(graph._codegen, _PyTreeCodeGen):
            kept["_pytree_info"] = graph._codegen.pytree_info
        return kept

    def __reduce__(self) -> Any:
        plain = self.graph
        made = plain.python_code("self")
        state = self._state()
        if "_pytree_info" in state:  # pickled as the function of the leaves
            codegen, plain._codegen = plain._codegen, type(Graph()._codegen)()
            try:
                made = plain.python_code("self")
            finally:
                plain._codegen = codegen
        state["_code"] = made.src
        return reduce_graph_module, (state, _format_import_block(made.globals))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()

    def _deepcopy_init(self) -> Callable[..., None]:
        return GraphModule.__init__

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphModule:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        hooks = ("_replace_hooks", "_create_node_hooks", "_erase_node_hooks", "_deepcopy_hooks")
        holder = _CodeOnlyModule(copy.deepcopy(
            {k: v for k, v in self.__dict__.items() if k not in hooks}, memo))
        graph = holder.__dict__.pop("_graph")
        self._deepcopy_init()(made, holder, graph, type(self).__name__)
        for key, value in holder.__dict__.items():
            if key in ("_parameters", "_buffers", "_modules"):
                for name, entry in value.items():
                    made.__dict__[key].setdefault(name, entry)
            elif key == "meta" or key.endswith("_hooks") or key not in made.__dict__:
                made.__dict__[key] = value
        for name, value in made.meta.get(_USER_PRESERVED_ATTRIBUTES_KEY, {}).items():
            setattr(made, name, value)
        made.training = self.training
        for hook in self._deepcopy_hooks:
            hook(made)
        made._deepcopy_hooks.extend(self._deepcopy_hooks)
        return made

    def __copy__(self) -> GraphModule:
        made = GraphModule(self, self.graph, type(self).__name__)
        made.meta = dict(self.meta)
        self.graph.owning_module = self
        return made

    def to_folder(self, folder: str | os.PathLike[str], module_name: str = "FxModule") -> None:
        """Write the module as a package: its code, and its state beside it."""
        import lampion

        where = Path(folder)
        where.mkdir(exist_ok=True)
        lampion.save(self.state_dict(), where / "state_dict.pt")
        name = _names.prefix()
        made = self.graph.python_code("self")
        lines = [_format_import_block(made.globals), f"from {name}.nn import *",
                 "", f"class {module_name}({name}.nn.Module):", "    def __init__(self):",
                 "        super().__init__()"]
        for child, module in self.named_children():
            file = where / f"{child}.pt"
            lampion.save(module, file)
            lines.append(f"        self.{child} = {name}.load(r'{file}', weights_only=False)")
        for kind in ("_buffers", "_parameters"):
            for key, value in self.__dict__[kind].items():
                if value is None:
                    continue
                made_of = f"{name}.empty({list(value.shape)}, dtype={value.dtype!r})"
                lines.append(
                    f"        self.register_buffer('{key}', {made_of})" if kind == "_buffers" else
                    f"        self.{key} = {name}.nn.Parameter({made_of}, "
                    f"requires_grad={value.requires_grad})")
        lines.append(f"        self.load_state_dict({name}.load(r'{where}/state_dict.pt'))")
        body = made.src.replace("\n", "\n    ")
        (where / "module.py").write_text("\n".join(lines) + "\n" + body + "\n", encoding="utf-8")
        (where / "__init__.py").write_text("from .module import *\n", encoding="utf-8")

    # ------------------------------------------------------------ text

    def print_readable(self, print_output: bool = True, include_stride: bool = False,
                       include_device: bool = False, colored: bool = False, *,
                       fast_sympy_print: bool = False, expanded_def: bool = False,
                       additional_meta: list[str] | None = None) -> str:
        """The code of this module and of those in it that have graphs, with the lines of the
        program that they come from; printed, too, unless `print_output` is False."""
        text = _readable(self, type(self).__name__)
        if print_output:
            print(text)
        return text

    def __str__(self) -> str:
        hint = "# To see more debug info, please use `graph_module.print_readable()`"
        return "\n".join([super().__str__(), self.code, hint])

    def _replicate_for_data_parallel(self) -> GraphModule:
        return copy.copy(self)

    # ------------------------------------------------------------ hooks of changes

    @contextlib.contextmanager
    def _set_replace_hook(self, f: Callable[..., Any]) -> Iterator[None]:
        """A `with` block in which `f(old=, new=, user=)` is told of inputs that are replaced."""
        self._register_replace_node_hook(f)
        try:
            yield
        finally:
            self._unregister_replace_node_hook(f)

    def _register_replace_node_hook(self, f: Callable[..., Any]) -> None:
        self._replace_hooks.append(f)

    def _unregister_replace_node_hook(self, f: Callable[..., Any]) -> None:
        self._replace_hooks.remove(f)

    def _register_create_node_hook(self, f: Callable[[Node], Any]) -> None:
        self._create_node_hooks.append(f)

    def _unregister_create_node_hook(self, f: Callable[[Node], Any]) -> None:
        self._create_node_hooks.remove(f)

    def _register_erase_node_hook(self, f: Callable[[Node], Any]) -> None:
        self._erase_node_hooks.append(f)

    def _unregister_erase_node_hook(self, f: Callable[[Node], Any]) -> None:
        self._erase_node_hooks.remove(f)

    def _register_deepcopy_hook(self, f: Callable[[GraphModule], Any]) -> None:
        self._deepcopy_hooks.append(f)

    def _unregister_deepcopy_hook(self, f: Callable[[GraphModule], Any]) -> None:
        self._deepcopy_hooks.remove(f)


def _readable(module: Module, name: str) -> str:
    graph = getattr(module, "graph", None)
    if not isinstance(graph, Graph):
        raise AssertionError("print_readable must be used on a module with a graph")
    code = graph.python_code("self", verbose=True).src.strip("\n ")
    parts = [code + "\n", *[_readable(child, path) for path, child in module.named_children()
                            if isinstance(getattr(child, "graph", None), Graph)]]
    inside = "\n".join("    " + line if line.strip() else ""
                       for part in parts for line in part.split("\n"))
    return f"class {name}({_names.prefix()}.nn.Module):\n{inside}"
