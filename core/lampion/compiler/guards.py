"""Guards: what a compiled function takes for granted beside its arguments.

Floor 6; imports runtime. Python decides by more than arguments: attributes of modules and objects,
globals, closures, lists and dicts. The function's code, and that of the functions and methods it
names, tells which of them it can read: `World` collects them, compares numbers and strings by value
and all else by identity, in one generated function. Modules count their changes
(`tracing.changes`), so that two comparisons tell that nothing changed; only if something did are
the attributes of the function's modules compared.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import dis
import functools
import gc
import os
import random
import sys
import time
import types
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .. import config
from ..callpath import NS
from ..runtime.tracing import active, changes
from .arguments import VALUES

_SIMPLE = (bool, int, float, complex, str, bytes, type(None))
_DEPTH = 8  # of objects in objects, whose attributes the code names
_NEAR = 3  # where an iterator is surely one that the function moves
_WHOLE = 4096  # elements of a list or dict that are all compared; of larger ones length and ends
_ROOM = 20_000  # elements of all lists and dicts that are looked into
_BYTES = 4096  # of a NumPy array whose values are compared
_GONE = object()
_BOXES = (list, tuple, dict, set, collections.deque)
# Packages that are not looked into; pytest's rewritten asserts name its own, to explain failures.
_OURS = ("lampion", "builtins", "numpy", "_pytest")
_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class World:
    """Modules and values that a function can reach."""

    def __init__(self, fn: Any, arguments: Iterable[Any] = ()) -> None:
        self.modules: list[Any] = []
        self.values: list[tuple[Any, str, Any]] = []  # (namespace, name, value)
        self.cells: list[tuple[Any, Any]] = []
        self.boxes: list[tuple[Any, Any]] = []  # (list or dict, what is in it)
        self.arrays: list[tuple[Any, bytes]] = []
        self.functions: list[tuple[Any, Any, Any]] = []  # (function, its code, its defaults)
        self.slots: list[tuple[Any, str, Any]] = []  # (object without a dict, name, value)
        self.states: list[tuple[Any, Any]] = []  # (getter, value)
        self.tensors: list[Any] = []  # weak references to those that it names
        self.globals: set[str] = set()  # names of globals, and of what is built in
        self.compares = False  # whether the code asks which object something is
        self.reason = ""  # why nobody can tell whether all is as it was
        self._check: Any = None
        self._room = _ROOM
        self._given: list[tuple[Any, Any]] = []  # boxes among the arguments: not to be changed
        self._seen: set[int] = set()
        self.names: set[str] = set()  # of attributes in all code that was reached
        self._types: list[tuple[type, bool]] = []  # whose methods may be called by such a name
        self._spaces: list[tuple[Any, int]] = []  # dicts of attributes, and their depth
        self._done: set[tuple[int, str]] = set()
        self._shadows: list[tuple[Any, type]] = []  # dicts of attributes, and the object's class
        self._slotted: list[tuple[Any, set[str], int]] = []  # objects without a dict
        self._object(fn, 0)
        for x in arguments:
            self._argument(x, 0)
        self._reach()
        self._ask()
        self._draws = _draws()
        self._pinned = [x for m in self.modules for x in _attributes(m)]
        self.seen = changes["modules"], changes["tensors"]
        self.print = self.fingerprint()

    # ---- what can be reached -------------------------------------------------------------------

    def _argument(self, x: Any, depth: int) -> None:
        if isinstance(x, _BOXES) and depth <= _DEPTH:
            self._given.append((x, _contents(x)))
            for y in (x.values() if isinstance(x, dict) else x):
                self._argument(y, depth + 1)
        elif dataclasses.is_dataclass(x) and not isinstance(x, type):
            self._types.append((type(x), False))  # its fields are part of the key
            for f in dataclasses.fields(x):
                self._argument(getattr(x, f.name), depth + 1)
        elif not isinstance(x, NS["BaseTensor"]):
            self._object(x, 0)

    def _object(self, x: Any, depth: int) -> None:
        if type(x) in _SIMPLE or id(x) in self._seen or depth > _DEPTH:
            return
        if isinstance(x, types.MethodType):
            self._object(x.__self__, depth)
            self._function(x.__func__)
        elif isinstance(x, types.FunctionType):
            self._function(x)
        elif isinstance(x, functools.partial):
            for y in (x.func, x.args, x.keywords):
                self._object(y, depth)
        elif is_module(x):
            self._module(x)
        elif isinstance(x, NS["BaseTensor"]):
            self._seen.add(id(x))
            self.tensors.append(weakref.ref(x))
        elif isinstance(x, _BOXES):
            if type(x).__module__.partition(".")[0] != _OURS[0]:
                self._box(x, depth)
        elif isinstance(x, type):
            if not ours(x):
                self._seen.add(id(x))
                self._types.append((x, True))
                self._spaces.append((x.__dict__, depth))
        elif isinstance(x, types.ModuleType):
            if ours(x) or x.__name__.partition(".")[0] in sys.stdlib_module_names:
                return
            self._seen.add(id(x))
            if "site-packages" in (getattr(x, "__file__", None) or ""):
                depth = max(depth, _DEPTH - 2)  # not far into libraries
            self._spaces.append((x.__dict__, depth))
        elif depth <= _NEAR and hasattr(type(x), "__next__") and (
                ours(type(x)) or type(x).__module__ == "itertools"):
            self.reason = (f"the function reads {type(x).__qualname__}, an iterator of the "
                           "outside, which moves on in every call")
        elif type(x).__module__ == "numpy":
            if hasattr(x, "tobytes") and x.nbytes <= _BYTES:
                self.arrays.append((x, x.tobytes()))
        else:
            self._plain(x, depth)

    def _box(self, x: Any, depth: int) -> None:
        """A list, tuple, dict, set or deque."""
        self._seen.add(id(x))
        if type(x) is not tuple:
            self.boxes.append((x, _contents(x)))
        if len(x) <= min(_WHOLE, self._room):
            self._room -= len(x)
            for y in (x.values() if isinstance(x, dict) else x):
                self._object(y, depth + 1)
        if not ours(type(x)):
            self._types.append((type(x), False))
            self._attributes(x, depth)

    def _plain(self, x: Any, depth: int) -> None:
        """An object of a class of the user's."""
        wrapped = getattr(x, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType):
            self._function(wrapped)
        if any(ours(t) and t is not object for t in type(x).__mro__):
            return  # optimizers and the like: their state is their own
        self._seen.add(id(x))
        self._types.append((type(x), False))
        self._attributes(x, depth)

    def _attributes(self, x: Any, depth: int) -> None:
        """The attributes of an object: its own, and those that it has of its class."""
        space = getattr(x, "__dict__", None)
        if type(space) is dict:
            self._spaces.append((space, depth))
            self._shadows.append((space, type(x)))
        named = {n for c in type(x).__mro__ for n in _names(c.__dict__.get("__slots__", ()))}
        if named:
            self._slotted.append((x, named, depth))

    def _module(self, x: Any) -> None:
        for m in x.modules():
            if id(m) not in self._seen:
                self._seen.add(id(m))
                self.modules.append(m)
                self._types.append((type(m), False))
                for name, y in m.__dict__.items():
                    if name.endswith("hooks"):
                        for hook in y.values() if isinstance(y, dict) else ():
                            self._object(hook, 0)
                    elif name not in _TABLES:
                        self._object(y, 1)

    def _function(self, fn: Any) -> None:
        while True:
            code = getattr(fn, "__code__", None)
            if code is not None and id(fn) not in self._seen and not (
                    code.co_filename.startswith("<lampion") or ours(fn)):
                self._seen.add(id(fn))
                self.functions.append((fn, code, fn.__defaults__))
                for x in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()):
                    self._object(x, 1)
                for cell in fn.__closure__ or ():
                    try:
                        x = cell.cell_contents
                    except ValueError:  # not filled yet
                        continue
                    self.cells.append((cell, _known(x)))
                    self._object(x, 1)
                self._code(code, fn.__globals__)
            fn = getattr(fn, "__wrapped__", None)
            if fn is None:
                return

    def _code(self, code: Any, space: dict[str, Any]) -> None:
        """The globals and the names of attributes in a function's code and in the functions that
        it defines."""
        for i in dis.get_instructions(code):
            if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                self.globals.add(i.argval)
                if i.argval in space:
                    self._value(space, i.argval, 0)
            elif i.opname in ("IS_OP", "CONTAINS_OP"):
                self.compares = True
            elif "ATTR" in i.opname or "METHOD" in i.opname:
                self.names.add(i.argval)
        for c in code.co_consts:
            if isinstance(c, types.CodeType):
                self._code(c, space)
            elif type(c) is str and c.isidentifier():  # getattr(x, "name")
                self.names.add(c)

    def _value(self, space: Any, name: str, depth: int) -> None:
        x = space[name]
        if not isinstance(x, types.ModuleType):
            if (id(space), name) in self._done:
                return
            self._done.add((id(space), name))
            self.values.append((space, name, _known(x)))
        self._object(x, depth + 1)

    def _reach(self) -> None:
        """Follow names, as attributes and methods, until there are no new ones."""
        size = -1
        while size != (size := len(self.names) + len(self._spaces) + len(self._types)):
            for space, depth in list(self._spaces):
                for name in [n for n in space if n in self.names]:
                    self._value(space, name, depth)
            for space, t in self._shadows:
                self._shadow(space, t)
            for x, named, depth in list(self._slotted):
                for name in named & self.names:
                    if (id(x), name) not in self._done and hasattr(x, name):
                        self._done.add((id(x), name))
                        y = getattr(x, name)
                        self.slots.append((x, name, _known(y)))
                        self._object(y, depth + 1)
            for t, called in list(self._types):
                for c in t.__mro__:
                    for name, x in () if ours(c) else list(c.__dict__.items()):
                        if name in self.names or name == "forward" or (
                                name.startswith("__") and (called or name != "__init__")):
                            if not name.startswith("__") and (id(c), name) not in self._done:
                                self._done.add((id(c), name))
                                self.values.append((c.__dict__, name, _known(x)))
                                self._object(x, 1)
                            self._method(x)

    def _shadow(self, space: dict[str, Any], t: type) -> None:
        """What an object has of its class, as long as it has none of its own: a number of the
        class, a method."""
        for c in t.__mro__:
            for name in [] if ours(c) else [n for n in c.__dict__ if n in self.names]:
                if name not in space and (id(space), name) not in self._done:
                    self._done.add((id(space), name))
                    self.values.append((space, name, _GONE))

    def _ask(self) -> None:
        """States that have a getter, where the code names it."""
        if self.names & {"environ", "getenv"}:
            data = getattr(os.environ, "_data", os.environ)
            self.states.append((data.copy, data.copy()))
        for name in self.names & _GETTERS:
            get = getattr(sys.modules[_OURS[0]], name, None)
            if get is not None:
                self.states.append((get, get()))

    def _method(self, x: Any) -> None:
        if isinstance(x, (staticmethod, classmethod)):
            x = x.__func__
        if isinstance(x, property):
            x = x.fget
        if isinstance(x, (types.FunctionType, functools.partial)) or hasattr(x, "__wrapped__"):
            self._object(x, 1)

    @property
    def asks_types(self) -> bool:
        """Whether the code may tell a Parameter from a tensor."""
        return bool((self.names | self.globals) & {"Parameter", "type", "__class__"})

    def holds_object(self, x: Any) -> bool:
        """Whether an object was there before the function was called."""
        return id(x) in self._seen

    def roots(self) -> list[Any]:
        """The modules that are part of no other."""
        inside = {id(c) for m in self.modules for c in m.children()}
        return [m for m in self.modules if id(m) not in inside]

    # ---- whether all is as it was --------------------------------------------------------------

    def fingerprint(self) -> tuple[Any, ...]:
        """What calls of the modules depend on: their attributes, which tensors they hold, and how
        many hooks."""
        out: list[Any] = [changes["hooks"], config.get("float32_matmul_precision")]
        for m in self.modules:
            d = m.__dict__
            out.append(id(m))
            for name, x in d.items():
                if type(x) in VALUES:
                    out.append((name, type(x), x if x == x else repr(x)))
                elif name.endswith("hooks"):
                    if x:
                        out.append((name, len(x)))
                elif name not in _TABLES:
                    out.append((name, id(x)))
            for table in (d["_parameters"], d["_buffers"], d["_modules"]):
                for x in table.values():
                    out.append((id(x), getattr(x, "node", None) is None))
        return tuple(out)

    def holds(self) -> bool:
        """Whether all is as it was."""
        check = self._check
        if check is None:
            check = self._check = self._generated()
        try:
            if not check():
                return False
        except (KeyError, ValueError, AttributeError):  # something is there no more
            return False
        if self.seen[0] != changes["modules"] or self.seen[1] != changes["tensors"]:
            if self.fingerprint() != self.print:
                return False
            self.seen = changes["modules"], changes["tensors"]
        return True

    def _generated(self) -> Any:
        """The function that compares everything but the modules."""
        scope: dict[str, Any] = {"same": _same, "holds": _holds}
        tests: list[str] = []

        def bind(value: Any) -> str:
            name = f"v{len(scope)}"
            scope[name] = value
            return name

        def compare(found: str, x: Any) -> None:
            if type(x) is weakref.ref:
                tests.append(f"(y := {found}) is not None and y is {bind(x)}()")
            elif type(x) in _SIMPLE and x is not None:
                known = bind(x)
                tests.append(f"((y := {found}) is {known} or same(y, {known}))")
            else:
                tests.append(f"{found} is {bind(x)}")

        for space, name, x in self.values:
            if x is _GONE:
                tests.append(f"{name!r} not in {bind(space)}")
            else:
                compare(f"{bind(space)}[{name!r}]", x)
        for cell, x in self.cells:
            compare(f"{bind(cell)}.cell_contents", x)
        for fn, code, defaults in self.functions:
            f = bind(fn)
            tests.append(f"{f}.__code__ is {bind(code)} and {f}.__defaults__ is {bind(defaults)}")
        for x, name, y in self.slots:
            compare(f"{bind(x)}.{name}", y)
        tests += [f"holds({bind(box)}, {bind(inside)})" for box, inside in self.boxes]
        tests += [f"{bind(array)}.tobytes() == {bind(data)}" for array, data in self.arrays]
        tests += [f"{bind(get)}() == {bind(x)}" for get, x in self.states]
        given = ", ".join(f"{n}={n}" for n in scope)
        source = f"def check({given}):\n    return ({' and '.join(tests) or 'True'})\n"
        exec(compile(source, "<lampion guards>", "exec"), scope)
        return scope["check"]

    def moved(self) -> str:
        """What changed since the start, for a reason; "" if nothing did."""
        found = self._moved()
        self._pinned, self._given = [], []
        return found

    def _moved(self) -> str:
        for space, name, x in self.values:
            if not _same(space.get(name, _GONE), x):
                return f"the function changes {name}"
        for cell, x in self.cells:
            if not _same(cell.cell_contents, x):
                return "the function changes a variable of the enclosing function"
        for x, name, y in self.slots:
            if not _same(getattr(x, name, _GONE), y):
                return f"the function changes {name}"
        for box, inside in (*self.boxes, *self._given):
            if not _holds(box, inside):
                return f"the function changes a {type(box).__name__} of the outside"
        if any(array.tobytes() != data for array, data in self.arrays):
            return "the function changes a NumPy array"
        if any(a != b for a, b in zip(self._draws, _draws())):  # of NumPy's, if it was there before
            return "the function draws random numbers of Python or NumPy"
        if self.fingerprint() != self.print:
            return "the function changes an attribute of a module"
        return ""


_EVERY_TIME: dict[Any, str] = dict.fromkeys((
    time.time, time.time_ns, time.perf_counter, time.perf_counter_ns, time.monotonic,
    time.monotonic_ns, time.process_time, datetime.datetime.now, datetime.datetime.today,
    datetime.datetime.utcnow, datetime.date.today), "reads the clock") | {
    print: "prints", input: "asks for input", open: "opens a file", time.sleep: "sleeps"}
# functions of the package that tell a state, which code may decide by
_GETTERS = {"are_deterministic_algorithms_enabled", "get_float32_matmul_precision", "initial_seed",
            "get_num_threads", "get_default_device",
            "is_deterministic_algorithms_warn_only_enabled"}
_LIBRARY = os.path.dirname(os.__file__)
_CALLERS = ("nn", "compiler", "utils")  # parts of lampion that call functions of the user's


def _users(frame: Any) -> bool:
    """Whether a frame is the user's: not Python's library, nor what lampion's operators call."""
    name = frame.f_code.co_filename
    if name.startswith(_LIBRARY) and "site-packages" not in name:
        return False
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<lampion") or "/lampion_" in name:
            return False
        if "/lampion/" in name:
            return name.rpartition("/lampion/")[2].partition("/")[0] in _CALLERS
        frame = frame.f_back
    return True


@contextmanager
def watched(trace: Any) -> Iterator[None]:
    """A block in which the trace fails if the user's code calls what every call has to do anew: ask
    for the time, print. (Not where somebody else profiles the thread.)"""
    if sys.getprofile() is not None:
        yield
        return

    def called(frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and function in _EVERY_TIME and trace in active and _users(frame):
            trace.fail(f"the function {_EVERY_TIME[function]}")

    collects = gc.isenabled()
    gc.disable()  # callbacks of the collector would run anywhere, as if the function called them
    sys.setprofile(called)
    try:
        yield
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()


def _known(x: Any) -> Any:
    """What is kept of a value in order to compare it: tensors are not kept alive."""
    return weakref.ref(x) if isinstance(x, NS["BaseTensor"]) else x


def _same(y: Any, x: Any) -> bool:
    """Whether `y` is the value of which `x` is kept."""
    if y is x:
        return True
    if type(x) is weakref.ref:
        return y is not None and x() is y
    return type(y) is type(x) and type(y) in _SIMPLE and bool(y == x)


def _contents(box: Any) -> tuple[Any, ...]:
    """What is kept of a list or dict: its length, and its elements or the first and last one."""
    if len(box) <= _WHOLE:
        inside = (*box, *box.values()) if isinstance(box, dict) else box
        return (len(box), *map(_known, inside))
    if isinstance(box, (dict, set)):
        return (len(box),)
    return (len(box), _known(box[0]), _known(box[-1]))


def _holds(box: Any, inside: tuple[Any, ...]) -> bool:
    n = len(box)
    if n != inside[0]:
        return False
    if n > _WHOLE:
        return isinstance(box, (dict, set)) or (
            _same(box[0], inside[1]) and _same(box[-1], inside[2]))
    now = (*box, *box.values()) if isinstance(box, dict) else box
    return all(map(_same, now, inside[1:]))


def _names(slots: Any) -> tuple[str, ...]:
    """The names in `__slots__`, without those that are renamed."""
    row = (slots,) if type(slots) is str else tuple(slots)
    return tuple(n for n in row if not n.startswith("__"))


def _attributes(m: Any) -> list[Any]:
    return [x for x in m.__dict__.values() if type(x) not in VALUES] + [
        x for t in ("_parameters", "_buffers") for x in m.__dict__[t].values()]


def _draws() -> tuple[Any, ...]:
    """Where the global generators of Python and NumPy are."""
    return (random.getstate()[1], *_numpy_state())


def _numpy_state() -> tuple[Any, ...]:
    module = sys.modules.get("numpy.random")
    if module is None:
        return ()
    _, key, position, *rest = module.get_state()
    return (key.tobytes(), position, *rest)


def ours(x: Any) -> bool:
    """Whether a class, module or function is lampion's, NumPy's or built in."""
    name = x.__name__ if isinstance(x, types.ModuleType) else (
        getattr(x, "__module__", None) or "builtins")
    return name.partition(".")[0] in _OURS


def is_module(x: Any) -> bool:
    """Whether an object is a module of a network."""
    return type(getattr(x, "__dict__", None)) is dict and "_modules" in x.__dict__ \
        and "_parameters" in x.__dict__


def same_memory(held: Sequence[tuple[Any, Any, Any]]) -> bool:
    """Whether the tensors still show the storages they showed, and are the leaves they were."""
    return all(t.data_.base is base and t.node is node for t, base, node in held)


__all__ = ["World", "is_module", "ours", "same_memory", "watched"]
