"""Guards: what a compiled function takes for granted beside its arguments.

Floor 6; imports runtime. Python decides by more than arguments: attributes of modules, globals,
closures, flags. Modules count their changes (`tracing.changes`), so that two comparisons tell that
nothing changed; only if something did are the attributes of the function's modules compared.
Globals, closures and attributes of plain objects that the function's code names are compared each
time, if they are numbers, strings and the like.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from typing import Any

from ..runtime.tracing import changes
from .arguments import VALUES

_SIMPLE = (bool, int, float, complex, str, bytes, type(None))
_DEPTH = 3  # of functions that are called by name, and of objects in objects


class World:
    """Modules and values that a function can reach."""

    def __init__(self, fn: Any, arguments: Iterable[Any] = ()) -> None:
        self.modules: list[Any] = []
        self.values: list[tuple[dict[str, Any], str, Any]] = []
        self.cells: list[tuple[Any, Any]] = []
        self._seen: set[int] = set()
        self._object(fn, 0)
        for x in arguments:
            self._object(x, 0)
        for m in list(self.modules):
            forward = type(m).__dict__.get("forward")
            if forward is not None:
                self._function(forward, 1)
        self.seen = changes["modules"], changes["tensors"]
        self.print = self.fingerprint()

    def _object(self, x: Any, depth: int) -> None:
        if id(x) in self._seen or depth > _DEPTH:
            return
        if isinstance(x, types.MethodType):
            self._object(x.__self__, depth)
            self._function(x.__func__, depth)
        elif isinstance(x, types.FunctionType):
            self._function(x, depth)
        elif is_module(x):
            self._seen.add(id(x))
            for m in x.modules():
                if all(m is not known for known in self.modules):
                    self.modules.append(m)
        elif type(x) in (list, tuple, dict):
            self._seen.add(id(x))
            for y in (x.values() if type(x) is dict else x):
                self._object(y, depth + 1)
        elif depth and type(x).__module__.partition(".")[0] in ("lampion", "builtins", "numpy"):
            return
        elif type(getattr(x, "__dict__", None)) is dict and not isinstance(
                x, (type, types.ModuleType)):
            self._seen.add(id(x))
            for name, y in x.__dict__.items():
                if type(y) in _SIMPLE:
                    self.values.append((x.__dict__, name, y))
                else:
                    self._object(y, depth + 1)

    def _function(self, fn: Any, depth: int) -> None:
        fn = getattr(fn, "__wrapped__", fn)
        code = getattr(fn, "__code__", None)
        if code is None or id(code) in self._seen or depth > _DEPTH or \
                code.co_filename.startswith("<lampion"):
            return
        self._seen.add(id(code))
        space = fn.__globals__
        if space.get("__name__", "").partition(".")[0] == "lampion":
            return
        for cell in fn.__closure__ or ():
            try:
                x = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            if type(x) in _SIMPLE:
                self.cells.append((cell, x))
            else:
                self._object(x, depth + 1)
        for name in _names(code):
            if name not in space:
                continue
            x = space[name]
            if type(x) in _SIMPLE:
                self.values.append((space, name, x))
            elif isinstance(x, types.FunctionType):
                self._function(x, depth + 1)
            else:
                self._object(x, depth + 1)

    def fingerprint(self) -> tuple[Any, ...]:
        """What calls of the modules depend on: their simple attributes, which tensors they hold,
        and how many hooks."""
        out: list[Any] = []
        for m in self.modules:
            d = m.__dict__
            out.append(id(m))
            for name, x in d.items():
                if type(x) in VALUES:
                    out.append((name, type(x), x if x == x else repr(x)))
                elif name.endswith("hooks") and x:
                    out.append((name, len(x)))
            for table in (d["_parameters"], d["_buffers"], d["_modules"]):
                for x in table.values():
                    out.append((id(x), getattr(x, "node", None) is None))
        return tuple(out)

    def holds(self) -> bool:
        """Whether all is as it was."""
        for space, name, x in self.values:
            y = space.get(name)
            if y is not x and (type(y) is not type(x) or y != x):
                return False
        for cell, x in self.cells:
            y = cell.cell_contents
            if y is not x and (type(y) is not type(x) or y != x):
                return False
        if self.seen[0] != changes["modules"] or self.seen[1] != changes["tensors"]:
            if self.fingerprint() != self.print:
                return False
            self.seen = changes["modules"], changes["tensors"]
        return True

    def moved(self) -> str:
        """Which value changed since the start, for a reason; "" if none did."""
        for space, name, x in self.values:
            if space.get(name) is not x and space.get(name) != x:
                return name
        for cell, x in self.cells:
            if cell.cell_contents is not x and cell.cell_contents != x:
                return "a variable of the enclosing function"
        return "an attribute of a module" if self.fingerprint() != self.print else ""


def _names(code: Any) -> list[str]:
    """Global names in a function's code and in the functions that it defines."""
    out = list(code.co_names)
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            out += _names(c)
    return out


def is_module(x: Any) -> bool:
    """Whether an object is a module of a network."""
    return type(getattr(x, "__dict__", None)) is dict and "_modules" in x.__dict__ \
        and "_parameters" in x.__dict__


def same_memory(held: Sequence[tuple[Any, Any]]) -> bool:
    """Whether the tensors still show the storages they showed."""
    return all(t.data_.base is base for t, base in held)


__all__ = ["World", "is_module", "same_memory"]
