"""Just enough of CPython's C interface to make types and functions out of native code.

Structures of the stable ABI, addresses of the interpreter's functions for `jit.compile_ir`, and
the declarations of those functions in IR. Nothing here knows what the types and functions are for.
May import: the standard library, `jit`.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import jit

__all__ = [
    "BYTES_DATA",
    "DECLARATIONS",
    "HEADER",
    "METH_FASTCALL",
    "METH_NOARGS",
    "METH_O",
    "Member",
    "Method",
    "TYPE_OFFSET",
    "builtin_of",
    "load_ir",
    "make_type",
    "method_def",
    "python_symbols",
    "store_ir",
    "text_ir",
]

HEADER = object.__basicsize__
TYPE_OFFSET = HEADER - 8  # checked by the importer before anything relies on it
BYTES_DATA = bytes.__basicsize__ - 1  # where the data of a bytes object starts

DECLARATIONS = """
@_Py_NoneStruct = external global i8
@PyExc_IndexError = external global ptr
@PyExc_OverflowError = external global ptr
@PyExc_TypeError = external global ptr
@PyExc_ValueError = external global ptr
declare i32 @PyBuffer_FillInfo(ptr, ptr, ptr, i64, i32, i32)
declare void @PyErr_Clear()
declare i32 @PyErr_ExceptionMatches(ptr)
declare ptr @PyErr_Format(ptr, ptr, ...)
declare ptr @PyErr_Occurred()
declare void @PyErr_SetString(ptr, ptr)
declare void @PyEval_RestoreThread(ptr)
declare ptr @PyEval_SaveThread()
declare double @PyFloat_AsDouble(ptr)
declare i64 @PyLong_AsLongLong(ptr)
declare i64 @PyLong_AsSsize_t(ptr)
declare i64 @PyLong_AsUnsignedLongLong(ptr)
declare ptr @PyLong_FromLongLong(i64)
declare i64 @PyNumber_AsSsize_t(ptr, ptr)
declare ptr @PyNumber_Index(ptr)
declare ptr @PyObject_CallFunctionObjArgs(ptr, ...)
declare void @PyObject_ClearWeakRefs(ptr)
declare void @PyObject_Free(ptr)
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
declare ptr @PyType_GenericAlloc(ptr, i64)
declare ptr @PyUnicode_FromFormat(ptr, ...)
declare void @Py_DecRef(ptr)
declare void @Py_IncRef(ptr)
declare void @_Py_NewReference(ptr)
"""


def text_ir(name: str, message: str) -> str:
    """IR of the C string constant `@name`."""
    data = message.encode() + b"\0"
    body = "".join(f"\\{byte:02X}" for byte in data)
    return f'@{name} = private constant [{len(data)} x i8] c"{body}"\n'


def load_ir(name: str, base: str, offset: int, kind: str = "ptr") -> str:
    """IR that loads a `kind` at byte `offset` of `base` into ``%name``."""
    return (
        f"  %{name}.p = getelementptr i8, ptr {base}, i64 {offset}\n"
        f"  %{name} = load {kind}, ptr %{name}.p, align 8\n"
    )


def store_ir(name: str, base: str, offset: int, value: str, kind: str = "i64") -> str:
    """IR that stores `value` at byte `offset` of `base`; `name` is a fresh prefix."""
    return (
        f"  %{name}.p = getelementptr i8, ptr {base}, i64 {offset}\n"
        f"  store {kind} {value}, ptr %{name}.p, align 8\n"
    )


# ---- structures ---------------------------------------------------------------------------------


class _MethodDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


class _MemberDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("offset", ctypes.c_ssize_t),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


class _GetSetDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("get", ctypes.c_void_p),
        ("set", ctypes.c_void_p),
        ("doc", ctypes.c_char_p),
        ("closure", ctypes.c_void_p),
    ]


class _TypeSlot(ctypes.Structure):
    _fields_ = [("slot", ctypes.c_int), ("function", ctypes.c_void_p)]


class _TypeSpec(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("basicsize", ctypes.c_int),
        ("itemsize", ctypes.c_int),
        ("flags", ctypes.c_uint),
        ("slots", ctypes.c_void_p),
    ]


_METH_NOARGS, METH_O, METH_FASTCALL = 0x4, 0x8, 0x80
_READONLY, _T_OBJECT, _T_LONGLONG, _T_SSIZE = 1, 6, 17, 19
_FLAGS = 1 << 18 | 1 << 8 | 1 << 7  # default, immutable, cannot be instantiated from Python
_BF_GETBUFFER, _TP_DEALLOC, _TP_DOC, _TP_METHODS = 1, 52, 56, 64
_TP_REPR, _TP_MEMBERS, _TP_GETSET = 66, 72, 73


METH_NOARGS, METH_O, METH_FASTCALL = 0x4, 0x8, 0x80
_READONLY, _T_OBJECT, _T_LONGLONG, _T_SSIZE = 1, 6, 17, 19
_FLAGS = 1 << 18 | 1 << 8 | 1 << 7  # default, immutable, cannot be instantiated from Python
_SLOTS = {"buffer": 1, "dealloc": 52, "doc": 56, "methods": 64, "repr": 66, "members": 72}
_SLOTS["getset"] = 73


class Member(NamedTuple):
    """An attribute stored in the object: ``int`` words, ``object`` references or the weak list."""

    name: str
    kind: str
    offset: int
    writable: bool
    doc: str


class Method(NamedTuple):
    """A method or, with `flags` 0, a read-only property, run by native code."""

    name: str
    address: int
    flags: int
    doc: str


def make_type(
    name: str,
    size: int,
    members: Sequence[Member],
    methods: Sequence[Method],
    slots: Mapping[str, int],
    doc: str,
) -> type:
    """A heap type of `size` bytes an instance; it and its definition live for ever.

    `slots` gives addresses for ``dealloc``, ``repr`` and ``buffer``. The type takes no part in
    garbage collection and cannot be subclassed or instantiated from Python.
    """
    kinds = {"int": _T_LONGLONG, "object": _T_OBJECT, "weak": _T_SSIZE}
    fields = (_MemberDef * (len(members) + 1))()
    for field, member in zip(fields, members, strict=False):
        field.name, field.doc = member.name.encode(), member.doc.encode()
        field.kind, field.offset = kinds[member.kind], member.offset
        field.flags = 0 if member.writable else _READONLY
    properties = [method for method in methods if not method.flags]
    getset = (_GetSetDef * (len(properties) + 1))()
    for field, method in zip(getset, properties, strict=False):
        field.name, field.get, field.doc = method.name.encode(), method.address, method.doc.encode()
    functions = [method for method in methods if method.flags]
    table = (_MethodDef * (len(functions) + 1))()
    for field, method in zip(table, functions, strict=False):
        field.name, field.function = method.name.encode(), method.address
        field.flags, field.doc = method.flags, method.doc.encode()
    text = ctypes.create_string_buffer(doc.encode())
    tables = {"members": fields, "getset": getset, "methods": table, "doc": text}
    every = dict(slots) | {key: ctypes.addressof(jit.pin(value)) for key, value in tables.items()}
    entries = (_TypeSlot * (len(every) + 1))()
    for entry, (key, address) in zip(entries, every.items(), strict=False):
        entry.slot, entry.function = _SLOTS[key], address
    spec = _TypeSpec(name.encode(), size, 0, _FLAGS, ctypes.addressof(jit.pin(entries)))
    prototype = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)
    made: type = prototype(("PyType_FromSpec", ctypes.pythonapi))(ctypes.addressof(jit.pin(spec)))
    return jit.pin(made)  # type: ignore[no-any-return]


def python_symbols() -> dict[str, int]:
    """Addresses of the interpreter's functions and objects that `DECLARATIONS` names."""
    api = ctypes.pythonapi
    found = {"_Py_NoneStruct": id(None)}
    for name in re.findall(r"^declare .*?@(\w+)", DECLARATIONS, re.MULTILINE):
        found[name] = ctypes.cast(getattr(api, name), ctypes.c_void_p).value or 0
    for name in re.findall(r"^@(PyExc_\w+)", DECLARATIONS, re.MULTILINE):
        found[name] = ctypes.addressof(ctypes.c_void_p.in_dll(api, name))
    return found


def method_def(name: str, address: int, flags: int = METH_FASTCALL, doc: str = "") -> int:
    """Address of a ``PyMethodDef`` that lives for ever; many functions may share it."""
    made = jit.pin(_MethodDef(name.encode(), address, flags, doc.encode() or None))
    return ctypes.addressof(made)


_new_builtin = ctypes.PYFUNCTYPE(ctypes.py_object, *[ctypes.c_void_p] * 3)(
    ("PyCFunction_NewEx", ctypes.pythonapi)
)


def builtin_of(definition: int, owner: object = None, module: object = None) -> Any:
    """A built-in function of a `method_def`; `owner` is its ``self``, `module` is kept alive."""
    self_ = None if owner is None else id(owner)
    return _new_builtin(definition, self_, None if module is None else id(module))
