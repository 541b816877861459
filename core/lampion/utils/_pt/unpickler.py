"""Unpickles the object structure of a checkpoint.

`restricted` runs the pickle program itself, on an allow-list of names and with no way to call or
change anything else: the safe way to read a file of unknown origin. `trusting` uses Python's
unpickler, which runs whatever the file says. Floor 7.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

import numpy as np

from ... import _utils
from ...base.device import device
from ...base.dtype import ALL, dtype
from ...base.layout import LAYOUTS
from ...tensor import Size, Tensor
from . import names

Persistent = Callable[[Any], Any]

_user_safe: dict[str, Any] = {}
_callable: set[int] = set()  # ids of what the tables hold; empty means: not known yet


def full_name(obj: Any) -> str:
    """The dotted name of a class or function, as files of lampion have it."""
    return f"{names.to_file(obj.__module__)}.{obj.__qualname__}"


def safe_objects() -> list[Any]:
    """What user code has allowed, in order."""
    return list(dict.fromkeys(_user_safe.values()))


def allow(objects: list[Any]) -> None:
    """Allow classes or functions; `(object, "module.name")` gives the name in files."""
    for item in objects:
        obj, name = item if isinstance(item, tuple) else (item, full_name(item))
        _user_safe[name] = obj
    _callable.clear()


def replace_allowed(objects: dict[str, Any] | None = None) -> dict[str, Any]:
    """Set the allowed objects (none by default); returns the former ones."""
    before = dict(_user_safe)
    _user_safe.clear()
    _user_safe.update(objects or {})
    _callable.clear()
    return before


def _numpy_dtype(*args: Any) -> Any:
    kind = np.dtype(args[0])
    if kind.kind not in "biufcSU" or kind.fields is not None:
        raise UnpicklingError(f"NumPy dtype {kind} is not among those that are safe to load")
    return np.dtype(kind.str, copy=True)


def _numpy_scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, np.dtype) or not isinstance(data, bytes):
        raise UnpicklingError("a NumPy scalar in the file is malformed")
    if len(data) != kind.itemsize:
        raise UnpicklingError("a NumPy scalar in the file has the wrong size")
    return np.frombuffer(data, kind, 1)[0]


def _numpy_array(*_: Any) -> Any:
    return np.zeros(0, np.uint8)


def _numpy_frombuffer(data: Any, kind: Any, shape: Any, order: Any) -> Any:
    if not isinstance(data, (bytes, bytearray)) or not isinstance(kind, np.dtype):
        raise UnpicklingError("a NumPy array in the file is malformed")
    return np.frombuffer(data, kind).reshape(shape, order=order).copy(order="K")


def _numpy_class(*_: Any) -> Any:
    raise UnpicklingError("numpy.ndarray cannot be called from a file")


def _latin1(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise UnpicklingError("only latin1 text may be encoded")
    return codecs.encode(text, "latin1")


def _layout(name: Any) -> Any:
    found = LAYOUTS.get(str(name).removeprefix("torch."))
    if found is None:
        raise UnpicklingError(f"there is no layout {name}")
    return found


def _allowed() -> dict[str, Any]:
    """The names that any file may use, with what they stand for."""
    from ...nn.parameter import Parameter

    table: dict[str, Any] = {
        "collections.OrderedDict": OrderedDict,
        "collections.Counter": Counter,
        "builtins.set": set,
        "builtins.frozenset": frozenset,
        "builtins.bytearray": bytearray,
        "builtins.complex": complex,
        "_codecs.encode": _latin1,
        "torch.Size": Size,
        "torch.Tensor": Tensor,
        "torch.device": device,
        "torch.nn.parameter.Parameter": Parameter,
        "torch.serialization._get_layout": _layout,
        "torch._tensor._rebuild_from_type_v2": _utils._rebuild_from_type_v2,
        "numpy.dtype": _numpy_dtype,
        "numpy.ndarray": _numpy_class,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[f"{core}.scalar"] = _numpy_scalar
        table[f"{core}._reconstruct"] = _numpy_array
    for core in ("numpy.core.numeric", "numpy._core.numeric"):
        table[f"{core}._frombuffer"] = _numpy_frombuffer
    for name in (
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
        "_rebuild_sparse_tensor",
    ):
        table[f"torch._utils.{name}"] = getattr(_utils, name)
    table.update((f"torch.{kind.name}", kind) for kind in ALL)
    return table


_table: dict[str, Any] = {}


def find_allowed(module: str, name: str) -> Any:
    """What an allowed name stands for. UnpicklingError, with the remedy, for other names."""
    if not _table:
        _table.update(_allowed())
        _callable.clear()
    if module == "__builtin__":  # Python 2's name
        module = "builtins"
    full = f"{names.to_file(module)}.{name}"
    for table in (_user_safe, _table):
        if full in table:
            return table[full]
    storage = names.find_storage_class(module, name)
    if storage is not None:
        return storage
    short = f"{module}.{name}"
    raise UnpicklingError(
        f"the file refers to {short}, which is not on the list of things that are safe to load. "
        f"If you trust the file, allow it with lampion.serialization.add_safe_globals([{name}]) "
        "(or `with safe_globals([...])`), or load everything with weights_only=False, which lets "
        "the file run any code."
    )


class _Stop(Exception):
    """Ends the machine; carries the result."""


class _Outside(Exception):
    """Carries an exception of the caller's persistent function through the machine."""


class _Machine:
    """The pickle machine: a stack, marks, a memo, and one method per instruction."""

    def __init__(self, data: Any, start: int, persistent: Persistent, find: Any) -> None:
        self.data = memoryview(data)
        self.at = start
        self.persistent = persistent
        self.find = find
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute up to STOP; the result is the top of the stack."""
        table = _INSTRUCTIONS
        try:
            while True:
                code = self.data[self.at]
                self.at += 1
                instruction = table.get(code)
                if instruction is None:
                    raise UnpicklingError(f"unknown or forbidden pickle instruction {code:#04x}")
                instruction(self)
        except _Stop as end:
            return end.args[0]
        except _Outside as outside:
            raise outside.args[0] from None
        except (UnpicklingError, RuntimeError):
            raise
        except Exception as error:  # whatever a damaged file leads to
            kind = type(error).__name__
            raise UnpicklingError(
                f"the pickle is cut short or malformed, near byte {self.at}: {kind}: {error}"
            ) from error

    # -- reading ------------------------------------------------------------------------------

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        if count < 0 or self.at + count > len(self.data):
            raise UnpicklingError("the pickle is cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        """The next number, in a struct format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]  # type: ignore[no-any-return]

    def line(self) -> str:
        """The text up to the next newline."""
        rest = bytes(self.data[self.at : self.at + 4096])
        end = rest.find(b"\n")
        if end < 0:
            raise UnpicklingError("the pickle is cut short or malformed")
        self.at += end + 1
        return rest[:end].decode("utf-8")

    def to_mark(self) -> list[Any]:
        """Pop everything above the latest mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def top(self, kind: type | tuple[type, ...]) -> Any:
        """The top of the stack, which must be of this type."""
        found = self.stack[-1]
        if not isinstance(found, kind):
            raise UnpicklingError(f"malformed pickle: cannot add items to {type(found).__name__}")
        return found

    # -- instructions -------------------------------------------------------------------------

    def stop(self) -> None:
        raise _Stop(self.stack.pop())

    def proto(self) -> None:
        version = self.number("<B")
        if version > 5:
            raise UnpicklingError(f"unsupported pickle protocol: {version}")

    def frame(self) -> None:
        self.take(8)

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def dup(self) -> None:
        self.stack.append(self.stack[-1])

    def push_slice(self, count: int) -> None:
        self.stack.append(bytes(self.take(count)))

    def push_text(self, count: int) -> None:
        self.stack.append(str(self.take(count), "utf-8", "surrogatepass"))

    def old_string(self, count: int) -> None:
        # Python 2's str; text in every file that PyTorch wrote with it
        self.stack.append(str(self.take(count), "utf-8"))

    def long(self, count: int) -> None:
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:]) if count else ()
        if count:
            if len(items) != count:
                raise IndexError
            del self.stack[-count:]
        self.stack.append(items)

    def tuple_from_mark(self) -> None:
        items = tuple(self.to_mark())
        self.stack.append(items)

    def list_from_mark(self) -> None:
        items = self.to_mark()
        self.stack.append(items)

    def dict_from_mark(self) -> None:
        items = self.to_mark()
        self.stack.append(dict(zip(items[::2], items[1::2])))

    def frozenset_from_mark(self) -> None:
        items = frozenset(self.to_mark())
        self.stack.append(items)

    def append(self) -> None:
        item = self.stack.pop()
        self.top(list).append(item)

    def appends(self) -> None:
        items = self.to_mark()
        self.top(list).extend(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.top(dict)[key] = value

    def set_items(self) -> None:
        items = self.to_mark()
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2]):
            target[key] = value

    def add_items(self) -> None:
        items = self.to_mark()
        self.top(set).update(items)

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        if key not in self.memo:
            raise UnpicklingError(f"malformed pickle: nothing was kept under {key}")
        self.stack.append(self.memo[key])

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def global_lines(self) -> None:
        module = self.line()
        self.stack.append(self.find(module, self.line()))

    def global_from_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise UnpicklingError("malformed pickle: a name must be text")
        self.stack.append(self.find(module, name))

    def reduce(self) -> None:
        args, func = self.stack.pop(), self.stack[-1]
        if not isinstance(args, tuple) or not _may_call(func):
            raise UnpicklingError(f"the file may not call {func!r}")
        try:
            self.stack[-1] = func(*args)
        except (UnpicklingError, RuntimeError):
            raise
        except Exception as error:
            name = getattr(func, "__qualname__", func)
            raise UnpicklingError(f"the file's call of {name} failed: {error}") from error

    def new_object(self) -> None:
        args, cls = self.stack.pop(), self.stack.pop()
        self.stack.append(_make(cls, args, {}))

    def new_object_ex(self) -> None:
        kwargs, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(_make(cls, args, kwargs))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        _build(target, state)

    def persistent_id(self) -> None:
        pid = self.stack.pop()
        try:
            self.stack.append(self.persistent(pid))
        except Exception as error:
            raise _Outside(error) from error


def _may_call(func: Any) -> bool:
    """Whether `func` came from an allow-list (and not from the file's own data)."""
    if not _callable:
        _callable.update(
            id(x) for table in (_table, _user_safe) for x in table.values() if callable(x)
        )
    return id(func) in _callable


def _make(cls: Any, args: Any, kwargs: Any) -> Any:
    """`cls.__new__` for allowed classes."""
    if not isinstance(cls, type) or not _may_call(cls) or not isinstance(args, tuple):
        raise UnpicklingError(f"the file may not make an instance of {cls!r}")
    return cls.__new__(cls, *args, **kwargs)


def _build(target: Any, state: Any) -> None:
    """Give a fresh instance its state; only for types whose state cannot do harm."""
    kind = type(target)
    if isinstance(target, np.ndarray):
        _build_array(target, state)
    elif isinstance(target, np.dtype):
        _build_dtype(target, state)
    elif kind is OrderedDict or kind is Counter:
        if not isinstance(state, dict):
            raise UnpicklingError(f"the state of a {kind.__name__} must be a dict")
        target.__dict__.update(state)
    elif any(kind is allowed for allowed in _user_safe.values()):
        if hasattr(kind, "__setstate__"):
            target.__setstate__(state)
        else:
            _utils._set_state(target, state)
    elif isinstance(target, Tensor):
        _utils._set_tensor_state(target, state)
    else:
        raise UnpicklingError(
            f"the file may not change an object of type {kind.__module__}.{kind.__qualname__}; "
            "if you trust it, add the type with lampion.serialization.add_safe_globals"
        )


def _build_dtype(target: Any, state: Any) -> None:
    """The byte order, and nothing else, comes from the file."""
    order = state[1] if isinstance(state, tuple) and len(state) == 8 else None
    plain = order in ("<", ">", "=", "|") and all(x is None for x in state[2:5])
    if not plain or (order == "|") != (target.byteorder == "|"):
        raise UnpicklingError("a NumPy dtype in the file is malformed")
    sizes = (target.itemsize, target.alignment) if target.kind in "SU" else (-1, -1)
    target.__setstate__((3, order, None, None, None, *sizes, target.flags))


def _build_array(target: Any, state: Any) -> None:
    well_formed = (
        isinstance(state, tuple)
        and len(state) == 5
        and isinstance(state[1], tuple)
        and all(type(n) is int and n >= 0 for n in state[1])
        and isinstance(state[2], np.dtype)
        and not state[2].hasobject
        and isinstance(state[4], bytes)
    )
    if not well_formed:
        raise UnpicklingError("a NumPy array in the file is malformed")
    try:
        target.__setstate__((1, state[1], state[2], bool(state[3]), state[4]))
    except (ValueError, TypeError) as error:
        raise UnpicklingError(f"a NumPy array in the file is malformed: {error}") from None


def _value(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value)


def _fresh(make: Callable[[], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(make())


def _sized(method: Any, form: str) -> Callable[[_Machine], None]:
    return lambda m: method(m, m.number(form))


def _boolean_or_int(m: _Machine) -> None:
    text = m.line()
    m.stack.append(text == "01" if text in ("00", "01") else int(text))


_M = _Machine
_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    code[0]: action
    for code, action in {
        pickle.STOP: _M.stop,
        pickle.PROTO: _M.proto,
        pickle.FRAME: _M.frame,
        pickle.MARK: _M.mark,
        pickle.POP: _M.pop,
        pickle.POP_MARK: lambda m: (m.to_mark(), None)[1],
        pickle.DUP: _M.dup,
        pickle.NONE: _value(None),
        pickle.NEWTRUE: _value(True),
        pickle.NEWFALSE: _value(False),
        pickle.INT: _boolean_or_int,
        pickle.LONG: lambda m: m.stack.append(int(m.line().rstrip("L"))),
        pickle.FLOAT: lambda m: m.stack.append(float(m.line())),
        pickle.BININT: lambda m: m.stack.append(m.number("<i")),
        pickle.BININT1: lambda m: m.stack.append(m.number("<B")),
        pickle.BININT2: lambda m: m.stack.append(m.number("<H")),
        pickle.BINFLOAT: lambda m: m.stack.append(m.number(">d")),
        pickle.LONG1: _sized(_M.long, "<B"),
        pickle.LONG4: _sized(_M.long, "<i"),
        pickle.BINUNICODE: _sized(_M.push_text, "<I"),
        pickle.SHORT_BINUNICODE: _sized(_M.push_text, "<B"),
        pickle.BINUNICODE8: _sized(_M.push_text, "<Q"),
        pickle.BINSTRING: _sized(_M.old_string, "<i"),
        pickle.SHORT_BINSTRING: _sized(_M.old_string, "<B"),
        pickle.BINBYTES: _sized(_M.push_slice, "<I"),
        pickle.SHORT_BINBYTES: _sized(_M.push_slice, "<B"),
        pickle.BINBYTES8: _sized(_M.push_slice, "<Q"),
        pickle.BYTEARRAY8: _sized(lambda m, n: m.stack.append(bytearray(m.take(n))), "<Q"),
        pickle.EMPTY_TUPLE: _value(()),
        pickle.TUPLE1: lambda m: m.tuple_of(1),
        pickle.TUPLE2: lambda m: m.tuple_of(2),
        pickle.TUPLE3: lambda m: m.tuple_of(3),
        pickle.TUPLE: _M.tuple_from_mark,
        pickle.EMPTY_LIST: _fresh(list),
        pickle.LIST: _M.list_from_mark,
        pickle.APPEND: _M.append,
        pickle.APPENDS: _M.appends,
        pickle.EMPTY_DICT: _fresh(dict),
        pickle.DICT: _M.dict_from_mark,
        pickle.SETITEM: _M.set_item,
        pickle.SETITEMS: _M.set_items,
        pickle.EMPTY_SET: _fresh(set),
        pickle.ADDITEMS: _M.add_items,
        pickle.FROZENSET: _M.frozenset_from_mark,
        pickle.BINPUT: _sized(_M.put, "<B"),
        pickle.LONG_BINPUT: _sized(_M.put, "<I"),
        pickle.BINGET: _sized(_M.get, "<B"),
        pickle.LONG_BINGET: _sized(_M.get, "<I"),
        pickle.MEMOIZE: _M.memoize,
        pickle.GLOBAL: _M.global_lines,
        pickle.STACK_GLOBAL: _M.global_from_stack,
        pickle.REDUCE: _M.reduce,
        pickle.NEWOBJ: _M.new_object,
        pickle.NEWOBJ_EX: _M.new_object_ex,
        pickle.BUILD: _M.build,
        pickle.BINPERSID: _M.persistent_id,
    }.items()
}


def restricted(data: Any, persistent: Persistent, start: int = 0) -> tuple[Any, int]:
    """Unpickle from `data[start:]` with allowed names only.

    Args:
        persistent: turns a persistent id into an object.

    Returns the object and where its pickle ends. Raises UnpicklingError for anything that is
    not allowed or malformed; RuntimeError or TypeError of a rebuild function pass through.
    """
    machine = _Machine(data, start, persistent, find_allowed)
    return machine.run(), machine.at


class Trusting(pickle.Unpickler):
    """Python's unpickler, with PyTorch's names leading to lampion's things."""

    persistent: Persistent

    def find_class(self, module: str, name: str) -> Any:
        """Import a global by its name in files."""
        special = {"torch._tensor._rebuild_from_type_v2": _utils._rebuild_from_type_v2,
                   "torch.serialization._get_layout": _layout}  # fmt: skip
        found = special.get(f"{module}.{name}") or names.find_storage_class(module, name)
        if found is not None:
            return found
        try:
            if names.from_file(module) == module and module.partition(".")[0] != "lampion":
                return super().find_class(module, name)  # knows the names of Python 2, too
            return names.resolve_global(module, name)
        except (ImportError, AttributeError) as error:
            raise UnpicklingError(
                f"the file refers to {module}.{name}, which is not here: {error}"
            ) from error

    def persistent_load(self, pid: Any) -> Any:
        """A storage, from its persistent id."""
        return self.persistent(pid)


def referenced_names(data: Any) -> list[str]:
    """The names that a checkpoint's pickle refers to and that are not allowed, sorted."""
    import pickletools

    found: set[str] = set()
    recent: list[str] = []
    for instruction, argument, _ in pickletools.genops(bytes(data)):
        if instruction.name == "GLOBAL":
            found.add(".".join(str(argument).split(" ", 1)))
        elif instruction.name == "STACK_GLOBAL" and len(recent) >= 2:
            found.add(".".join(recent[-2:]))
        elif isinstance(argument, str):
            recent.append(argument)
    out = []
    for full in sorted(found):
        module, _, name = full.rpartition(".")
        try:
            find_allowed(module, name)
        except UnpicklingError:
            out.append(full)
    return out


__all__ = ["Trusting", "allow", "find_allowed", "referenced_names", "replace_allowed",
           "restricted", "safe_objects", "dtype"]  # fmt: skip
