"""The Python code of a graph: one line for each node, and the names that it refers to.

Floor 7; imports node, _names.
"""

from __future__ import annotations

import builtins
import enum
import keyword
import math
import re
import typing
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..base.device import device
from ..base.dtype import dtype
from ..base.layout import layout, memory_format
from ..tensor import Size
from ..utils import _pytree as pytree
from . import _names
from . import _pytree as fx_pytree
from .node import Node, _get_qualified_name, _type_repr, map_arg

TransformCodeFunc = Callable[[list[str]], list[str]]

# Calls of these functions of `operator` are printed as operators.
magic_methods = {
    "eq": "{} == {}", "ne": "{} != {}", "lt": "{} < {}", "gt": "{} > {}", "le": "{} <= {}",
    "ge": "{} >= {}", "pos": "+{}", "neg": "-{}", "invert": "~{}", "add": "{} + {}",
    "sub": "{} - {}", "mul": "{} * {}", "floordiv": "{} // {}", "truediv": "{} / {}",
    "mod": "{} % {}", "pow": "{} ** {}", "lshift": "{} << {}", "rshift": "{} >> {}",
    "and_": "{} & {}", "or_": "{} | {}", "xor": "{} ^ {}", "getitem": "{}[{}]",
    "matmul": "{} @ {}"}
reflectable_magic_methods = {n: t for n, t in magic_methods.items() if n in (
    "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "lshift", "rshift", "and_", "or_",
    "xor", "getitem", "matmul")}
inplace_methods = {
    "iadd": "{} += {}", "iand": "{} &= {}", "ifloordiv": "{} //= {}", "ilshift": "{} <<= {}",
    "imod": "{} %= {}", "imul": "{} *= {}", "imatmul": "{} @= {}", "ior": "{} |= {}",
    "ipow": "{} **= {}", "irshift": "{} >>= {}", "isub": "{} -= {}", "itruediv": "{} /= {}",
    "ixor": "{} ^= {}", "setitem": "{}[{}] = {}"}


class _CustomBuiltin(NamedTuple):
    """A name that `repr` of some values uses: how it is imported, and what it is."""

    import_str: str
    obj: Any


_registered: dict[str, _CustomBuiltin] = {}


def _register_custom_builtin(name: str, import_str: str, obj: Any) -> None:
    """Make a name known to all code that is generated."""
    _registered[name] = _CustomBuiltin(import_str, obj)


def _custom_builtins() -> dict[str, _CustomBuiltin]:
    name = _names.prefix()
    return {"inf": _CustomBuiltin("from math import inf", math.inf),
            "nan": _CustomBuiltin("from math import nan", math.nan),
            "NoneType": _CustomBuiltin("NoneType = type(None)", type(None)),
            name: _CustomBuiltin(f"import lampion as {name}", _names.root()),
            "device": _CustomBuiltin("from lampion import device", device),
            "fx_pytree": _CustomBuiltin("import lampion.fx._pytree as fx_pytree", fx_pytree),
            "pytree": _CustomBuiltin("import lampion.utils._pytree as pytree", pytree),
            **_registered}


def _is_from_torch(obj: Any) -> bool:
    """Whether code can name the object as an attribute of the package."""
    module = getattr(obj, "__module__", None)
    if not isinstance(module, str) or module.partition(".")[0] != "lampion":
        return False
    value: Any = _names.root()
    for step in _get_qualified_name(obj).split(".")[1:]:
        value = getattr(value, step, None)
    return value is obj


def _is_magic(x: str) -> bool:
    return x.startswith("__") and x.endswith("__")


def _snake_case(s: str) -> str:
    """CamelCase as snake_case.

    >>> _snake_case("MaxPool2d")
    'max_pool2d'
    """
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", s).lower()


class _Namespace:
    """Names that are given once: a name that is taken gets a number."""

    def __init__(self) -> None:
        self._obj_to_name: dict[Any, str] = {}
        self._used_names: set[str] = set()
        self._base_count: dict[str, int] = defaultdict(int)

    def create_name(self, candidate: str, obj: Any) -> str:
        """A free name like `candidate`; asked again for the same object, the same name."""
        if obj is not None and obj in self._obj_to_name:
            return self._obj_to_name[obj]
        candidate = re.sub(r"[^0-9a-zA-Z_]+", "_", candidate) or "_unnamed"
        if candidate[0].isdigit():
            candidate = f"_{candidate}"
        base, number = candidate, 0
        match = re.fullmatch(r"(.*)_(\d+)", candidate)
        if match is not None:
            base, number = match[1], int(match[2])
        if not number:
            number = self._base_count[base]
        while candidate in self._used_names or self._is_illegal_name(candidate, obj):
            number += 1
            candidate = f"{base}_{number}"
        self._used_names.add(candidate)
        self._base_count[base] = number
        if obj is not None:
            self._obj_to_name[obj] = candidate
        return candidate

    def associate_name_with_obj(self, name: str, obj: Any) -> None:
        """Let a name stand for an object from now on."""
        self._obj_to_name.setdefault(obj, name)

    def _is_illegal_name(self, name: str, obj: Any) -> bool:
        if keyword.iskeyword(name):
            return True
        if name in builtins.__dict__:
            return obj is not builtins.__dict__[name]
        known = _custom_builtins().get(name) if name in _RESERVED or name in _registered else None
        return known is not None and obj is not known.obj

    def _rename_object(self, obj: Any, name: str) -> None:
        self._obj_to_name[obj] = name
        self._used_names.add(name)


_RESERVED = frozenset(("inf", "nan", "NoneType", "torch", "lampion", "device", "fx_pytree",
                       "pytree"))


@dataclass
class PythonCode:
    """The code of a graph: its text, and the globals it needs."""

    src: str
    globals: dict[str, Any]
    _lineno_map: dict[int, int | None] | None = None
    _prologue_start: int = 0


def _format_target(base: str, target: str) -> str:
    """Code of a dotted attribute of `base`; steps that are no identifiers are fetched."""
    for step in target.split("."):
        base = f"{base}.{step}" if step.isidentifier() else f'getattr({base}, "{step}")'
    return base


@dataclass
class _Writer:
    """What writing the code of one graph collects."""

    namespace: _Namespace
    globals: dict[str, Any] = field(default_factory=dict)
    wrapped: dict[str, None] = field(default_factory=dict)

    def name_of(self, hint: str, obj: Any) -> str:
        """The name of an object in the code."""
        if _is_from_torch(obj) and obj is not device:
            return hint if hint.partition(".")[0] == _names.prefix() else _get_qualified_name(obj)
        name = hint.replace(".", "_")
        if self.globals.get(name, self) is obj:
            return name
        name = self.namespace.create_name(name, obj)
        self.globals[name] = obj
        return name

    def type_text(self, kind: Any) -> str:
        """Code of a type in an annotation."""
        if kind is None or kind == ():
            return self.name_of(_type_repr(kind), kind) if kind is not None else "None"
        origin = typing.get_origin(kind)
        if origin is not None and not isinstance(kind, type):
            args = [self.type_text(a) for a in typing.get_args(kind)]
            if origin is typing.Union or type(kind).__name__ == "UnionType":
                return " | ".join(args) if type(kind).__name__ == "UnionType" else \
                    f"{self.name_of('typing_Union', typing.Union)}[{', '.join(args)}]"
            name = getattr(kind, "_name", None)
            holder = getattr(typing, name, origin) if name else origin
            return f"{self.name_of(_type_repr(holder), holder)}[{', '.join(args) or '()'}]"
        if isinstance(kind, str):
            return repr(kind)
        return self.name_of(_type_repr(kind), kind)

    def value(self, arg: Any) -> str:
        """Code of an argument."""
        if isinstance(arg, Node):
            return repr(arg)
        if isinstance(arg, tuple) and hasattr(arg, "_fields"):
            name = self.name_of(_get_qualified_name(type(arg)), type(arg))
            return f"{name}({', '.join(map(self.value, arg))})"
        if isinstance(arg, tuple) and not isinstance(arg, Size):
            return f"({', '.join(map(self.value, arg))}{',' if len(arg) == 1 else ''})"
        if isinstance(arg, list):
            return f"[{', '.join(map(self.value, arg))}]"
        if isinstance(arg, dict):
            return "{" + ", ".join(f"{self.value(k)}: {self.value(v)}"
                                   for k, v in arg.items()) + "}"
        if isinstance(arg, slice):
            return f"slice({self.value(arg.start)}, {self.value(arg.stop)}, {self.value(arg.step)})"
        if isinstance(arg, enum.Enum):
            return f"{self.name_of(_get_qualified_name(type(arg)), type(arg))}.{arg.name}"
        if isinstance(arg, dtype | layout | memory_format):
            return f"{_names.prefix()}.{repr(arg).rpartition('.')[2]}"
        if isinstance(arg, Size):
            return f"{_names.prefix()}.Size([{', '.join(map(self.value, arg))}])"
        if callable(arg) and hasattr(arg, "__name__"):  # a type or a function
            return self.name_of(_get_qualified_name(arg), arg)
        return repr(arg)

    def arguments(self, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
        """Code between the parentheses of a call."""
        return ", ".join([*map(self.value, args),
                          *(f"{k} = {self.value(v)}" for k, v in kwargs.items())])

    def call(self, node: Node, kind: str) -> str:
        """The line of a call of a function."""
        fn, args = node.target, node.args
        name = getattr(fn, "__name__", "")
        if getattr(fn, "__module__", None) == "_operator" and not node.kwargs:
            if name in magic_methods:
                return f"{node!r}{kind} = {magic_methods[name].format(*map(self.value, args))}"
            if name in inplace_methods:
                return (f"{inplace_methods[name].format(*map(self.value, args))};  "
                        f"{node!r}{kind} = {self.value(args[0])}")
        known = self.name_of(_get_qualified_name(fn), fn)
        if known == "getattr" and len(args) == 2 and isinstance(args[1], str) \
                and args[1].isidentifier():
            return f"{node!r}{kind} = {_format_target(self.value(args[0]), args[1])}"
        if node.meta.get("is_wrapped", False):
            self.wrapped.setdefault(known)
        return f"{node!r}{kind} = {known}({self.arguments(args, node.kwargs)})"


class CodeGen:
    """Makes code of a graph; subclasses change how the function takes and returns values."""

    def __init__(self) -> None:
        self._body_transformer: TransformCodeFunc | None = None
        self._func_name = "forward"

    def gen_fn_def(self, free_vars: list[str], maybe_return_annotation: str) -> str:
        """The line with `def`."""
        if not free_vars or free_vars[0] != "self":
            free_vars.insert(0, "self")
        return f"def {self._func_name}({', '.join(free_vars)}){maybe_return_annotation}:"

    def generate_output(self, output_args: Any, *, write: Callable[[Any], str] = repr) -> str:
        """The line that returns."""
        return f"return {write(output_args)}"

    def process_inputs(self, *args: Any) -> Any:
        """What the placeholders get of the arguments of a call."""
        return args

    def process_outputs(self, outputs: Any) -> Any:
        """What a call returns for the value of the output node."""
        return outputs

    def additional_globals(self) -> list[tuple[str, Any]]:
        """More names that the code uses."""
        return []

    def _gen_python_code(self, nodes: Any, root_module: str, namespace: _Namespace, *,
                         verbose: bool = False, include_meta: bool = False) -> PythonCode:
        writer = _Writer(namespace)
        for name, known in _custom_builtins().items():
            writer.name_of(name, known.obj)
            writer.globals[name] = known.obj
        for name, value in self.additional_globals():
            writer.name_of(name, value)
        nodes = list(nodes)
        last_used = _last_uses(nodes)
        free_vars: list[str] = []
        result = ""
        body: list[tuple[str, int | None]] = []  # lines, and the number of the node they are of
        for k, node in enumerate(nodes):
            if verbose:
                body += [(text, None) for text in _origin(node, nodes[k - 1] if k else None)]
            line = self._line(node, writer, root_module, free_vars)
            if node.op == "output" and node.type is not None:
                result = f" -> {writer.type_text(node.type)}"
            if node.op not in ("placeholder", "output"):
                gone = [*last_used.get(node, ()), *([] if node.users else [node])]
                line += f";  {' = '.join(map(repr, gone))} = None" if gone else ""
            body.append((line + "\n" if line else "", k))
        lines = [text for text, _ in body]
        if not any(text and not text.lstrip().startswith("#") for text in lines):
            lines.append("pass\n")
        if self._body_transformer is not None:
            lines = self._body_transformer(lines)
        head = self.gen_fn_def(free_vars, result)
        wraps = "\n".join(f'{_names.prefix()}.fx.wrap("{n}")' for n in writer.wrapped)
        start = f"\n{wraps}\n\n{head}\n"
        code = "\n".join("    " + line for line in "".join(lines).split("\n"))
        numbers = None if self._body_transformer else _numbered(body, start.count("\n"))
        return PythonCode(start + code, writer.globals, numbers, len(wraps.splitlines()) + 3)

    def _line(self, node: Node, writer: _Writer, root: str, free_vars: list[str]) -> str:
        """The line of a node, without what is released after it."""
        kind = "" if node.type is None else f" : {writer.type_text(node.type)}"
        if node.op == "placeholder":
            default = f" = {writer.value(node.args[0])}" if node.args else ""
            free_vars.append(f"{node.target}{kind}{default}")
            plain = node.target.replace("*", "")
            return f"{node!r} = {plain}" if plain != repr(node) else ""
        if node.op == "call_method":
            call = _format_target(writer.value(node.args[0]), node.target)
            return f"{node!r}{kind} = {call}({writer.arguments(node.args[1:], node.kwargs)})"
        if node.op == "call_function":
            return writer.call(node, kind)
        if node.op == "call_module":
            return (f"{node!r}{kind} = {_format_target(root, node.target)}"
                    f"({writer.arguments(node.args, node.kwargs)})")
        if node.op == "get_attr":
            return f"{node!r}{kind} = {_format_target(root, node.target)}"
        if node.op == "output":
            if type(self).generate_output is CodeGen.generate_output:
                return self.generate_output(node.args[0], write=writer.value)
            return self.generate_output(node.args[0])
        raise NotImplementedError(f"node: {node.op} {node.target}")


def _numbered(body: list[tuple[str, int | None]], line: int) -> dict[int, int | None]:
    """The number of the node that every line of the code is of, `line` being those before."""
    found: dict[int, int | None] = {}
    for text, k in body:
        for _ in range(text.count("\n")):
            line += 1
            found[line] = k
    return found


def _last_uses(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """For every node, the values that nobody needs after it."""
    last: dict[Node, Node] = {}
    found: dict[Node, list[Node]] = {}
    for user in reversed(nodes):
        if user.op == "placeholder":
            continue

        def use(n: Node, user: Node = user) -> Node:
            if n not in last:
                last[n] = user
                if user.op != "output":
                    found.setdefault(user, []).append(n)
            return n

        map_arg(user.args, use)
        map_arg(user.kwargs, use)
    return found


def _origin(node: Node, before: Node | None) -> list[str]:
    """A comment that says which line of the program the next nodes come from."""
    if node.op in ("placeholder", "output"):
        return []
    trace = node.stack_trace
    first = before is None or before.op == "placeholder"
    if not first and before is not None and trace == before.stack_trace:
        return []
    if not trace:
        return ["\n# No stacktrace found for following nodes\n"]
    lines = [line.strip() for line in trace.strip().split("\n")]
    for where, code in zip(reversed(lines[:-1]), reversed(lines[1:])):
        match = re.match(r'File "(.+)", line (\d+), in (.+)$', where)
        if match is not None:
            return [f"\n# File: {match[1]}:{match[2]} in {match[3]}, code: {code}\n"]
    return [""]


class _PyTreeInfo(NamedTuple):
    """How the arguments and the result of the traced function nest."""

    orig_args: list[str]
    in_spec: Any
    out_spec: Any


class _PyTreeCodeGen(CodeGen):
    """Code that takes nested arguments apart for the placeholders, and nests the result."""

    def __init__(self, pytree_info: _PyTreeInfo) -> None:
        super().__init__()
        self.pytree_info = pytree_info

    def process_inputs(self, *inputs: Any) -> Any:
        """The leaves of the arguments."""
        return fx_pytree.tree_flatten_spec(inputs, self.pytree_info.in_spec)

    def process_outputs(self, out: Any) -> Any:
        """The result nested as the traced function's."""
        if self.pytree_info.out_spec is None:
            return out
        items = out if isinstance(out, list | tuple) else [out]
        return pytree.tree_unflatten(items, self.pytree_info.out_spec)

    def gen_fn_def(self, free_vars: list[str], maybe_return_annotation: str) -> str:
        """`def` with the arguments of the traced function, and the line that takes them apart."""
        if self.pytree_info is None:
            return super().gen_fn_def(free_vars, maybe_return_annotation)
        names = list(self.pytree_info.orig_args)
        if not names or names[0] != "self":
            names.insert(0, "self")
        plain = names[1:]
        head = super().gen_fn_def(names, maybe_return_annotation)
        if not free_vars:
            return head
        left = [v.partition(":")[0].partition("=")[0].strip() for v in free_vars if v != "self"]
        return (f"{head}\n    {', '.join(left)}, = fx_pytree.tree_flatten_spec("
                f"[{', '.join(plain)}], self._in_spec)")

    def generate_output(self, output_args: Any, **kwargs: Any) -> str:
        """`return`, nested."""
        if self.pytree_info.out_spec is not None:
            return f"return pytree.tree_unflatten({output_args!r}, self._out_spec)"
        return super().generate_output(output_args)

    def __deepcopy__(self, memo: Any = None) -> _PyTreeCodeGen:
        return type(self)(self.pytree_info)
