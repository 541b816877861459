"""The CPU storage: a block of host memory as a Python object, allocated in nanoseconds.

`Storage` is a heap type built at run time with ``PyType_FromSpec``; its allocation, deallocation
and methods are LLVM IR, so no compiler is needed and an allocation costs about as much as an
attribute look-up. A freed storage goes on the free list of its size class together with its block
and comes back as a whole. The lists are guarded by the GIL.

Where that cannot work (another interpreter, no GIL, a failed self-test, ``LAMPION_NATIVE=0``)
`Storage` is the pure-Python twin of `portable`, with the same interface.

May import: the standard library, `jit`, `memory`, `portable`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import struct
import sys
import sysconfig
import threading
from typing import Any

from . import jit, memory, portable

__all__ = [
    "NativeStorage",
    "PyStorage",
    "Storage",
    "empty",
    "empty_cache",
    "is_native",
    "memory_stats",
    "native_refusal",
    "reset_peak",
    "set_cache_limit",
    "wrap",
]

_log = logging.getLogger("lampion.cpu.native")

# ---- object and table layout --------------------------------------------------------------------

HEADER = object.__basicsize__
TYPE_OFFSET = HEADER - 8
PTR, NBYTES, OFFSET, REF, VERSION, EPOCH, WRITER, WEAKREFS, CLASS, BLOCK = range(
    HEADER, HEADER + 80, 8
)
OBJECT_BYTES = HEADER + 80

# The run-time table, shared with the IR as @lampion_rt: indices of 64-bit words.
RT_TYPE, RT_GROW, RT_ALLOCATED, RT_PEAK, RT_RESERVED, RT_LIMIT, RT_HEADS = 0, 1, 2, 3, 4, 5, 8
VIEW_CLASS, WRAP_CLASS = 254, 255  # objects without a block of their own
_RT_WORDS = RT_HEADS + 256

_FUNCTIONS = (
    "PyBuffer_FillInfo PyErr_Clear PyErr_ExceptionMatches PyErr_Format PyErr_Occurred "
    "PyErr_SetString PyEval_RestoreThread PyEval_SaveThread PyFloat_AsDouble PyLong_AsLongLong "
    "PyLong_AsSsize_t PyLong_AsUnsignedLongLong PyLong_FromLongLong PyNumber_AsSsize_t "
    "PyNumber_Index PyObject_CallFunctionObjArgs PyObject_ClearWeakRefs PyObject_Free PyTuple_New "
    "PyTuple_SetItem PyType_GenericAlloc PyUnicode_FromFormat Py_DecRef Py_IncRef _Py_NewReference"
).split()
_OBJECTS = "PyExc_IndexError PyExc_OverflowError PyExc_TypeError PyExc_ValueError".split()

DECLARATIONS = """
@lampion_rt = external global [264 x i64]
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


def rt_ir(name: str, index: int, kind: str = "i64") -> str:
    """IR that loads word `index` of the run-time table into ``%name``, its address ``%name.p``."""
    return (
        f"  %{name}.p = getelementptr i64, ptr @lampion_rt, i64 {index}\n"
        f"  %{name} = load {kind}, ptr %{name}.p, align 8\n"
    )


def alloc_ir(tag: str, index: str, nbytes: str, fail: str) -> str:
    """IR that allocates a storage of size class `index` into ``%tag``, else goes to `fail`.

    Leaves the builder in a fresh block ``tag.ok``. Inlined text, because no inliner runs. `fail`
    is reached with a Python exception set.
    """
    return f"""  %{tag}.hi = add i64 {index}, {RT_HEADS}
  %{tag}.hp = getelementptr i64, ptr @lampion_rt, i64 %{tag}.hi
  br label %{tag}.retry
{tag}.retry:
  %{tag} = load ptr, ptr %{tag}.hp, align 8
  %{tag}.none = icmp eq ptr %{tag}, null
  br i1 %{tag}.none, label %{tag}.slow, label %{tag}.ok, !prof !0
{tag}.slow:
  %{tag}.rc = call i32 @lampion_grow(i64 {index}, i64 {nbytes})
  %{tag}.bad = icmp ne i32 %{tag}.rc, 0
  br i1 %{tag}.bad, label %{fail}, label %{tag}.retry
{tag}.ok:
{load_ir(f"{tag}.next", f"%{tag}", REF)}  store ptr %{tag}.next, ptr %{tag}.hp, align 8
{load_ir(f"{tag}.size", f"%{tag}", BLOCK, "i64")}{rt_ir(f"{tag}.all", RT_ALLOCATED)}
{rt_ir(f"{tag}.peak", RT_PEAK)}  %{tag}.sum = add i64 %{tag}.all, %{tag}.size
  %{tag}.higher = icmp ugt i64 %{tag}.sum, %{tag}.peak
  %{tag}.top = select i1 %{tag}.higher, i64 %{tag}.sum, i64 %{tag}.peak
  store i64 %{tag}.sum, ptr %{tag}.all.p, align 8
  store i64 %{tag}.top, ptr %{tag}.peak.p, align 8
{store_ir(f"{tag}.s0", f"%{tag}", NBYTES, nbytes)}
{store_ir(f"{tag}.s1", f"%{tag}", OFFSET, "zeroinitializer", "<4 x i64>")}
  call void @_Py_NewReference(ptr %{tag})
"""


_STORAGE_IR = f"""
{DECLARATIONS}
declare i32 @munmap(ptr, i64)
{text_ir("m_args", "wrap expects (ptr, nbytes, owner)")}
{text_ir("m_negative", "a storage cannot have a negative size (%zd bytes)")}
{text_ir("m_repr", "<lampion_cpu.Storage of %zd bytes at byte %zd of its block>")}
{text_ir("m_view", "a view at byte %zd leaves its storage of %zd bytes")}
{text_ir("m_refill", "refill expects (class, block bytes, address, count)")}

define internal i1 @failed(i64 %value) {{
  %maybe = icmp eq i64 %value, -1
  br i1 %maybe, label %ask, label %no
ask:
  %error = call ptr @PyErr_Occurred()
  %yes = icmp ne ptr %error, null
  ret i1 %yes
no:
  ret i1 false
}}

; Ask Python for more blocks of a class; nonzero with an exception set when there are none.
define i32 @lampion_grow(i64 %index, i64 %nbytes) {{
{rt_ir("callee", RT_GROW, "ptr")}  %a = call ptr @PyLong_FromLongLong(i64 %index)
  %a0 = icmp eq ptr %a, null
  br i1 %a0, label %bad, label %second
second:
  %b = call ptr @PyLong_FromLongLong(i64 %nbytes)
  %b0 = icmp eq ptr %b, null
  br i1 %b0, label %drop, label %ask
drop:
  call void @Py_DecRef(ptr %a)
  br label %bad
ask:
  %r = call ptr (ptr, ...) @PyObject_CallFunctionObjArgs(ptr %callee, ptr %a, ptr %b, ptr null)
  call void @Py_DecRef(ptr %a)
  call void @Py_DecRef(ptr %b)
  %r0 = icmp eq ptr %r, null
  br i1 %r0, label %bad, label %good
good:
  call void @Py_DecRef(ptr %r)
  ret i32 0
bad:
  ret i32 -1
}}

define ptr @storage_empty(ptr %self, ptr %arg) {{
  %oe = load ptr, ptr @PyExc_OverflowError
  %n = call i64 @PyNumber_AsSsize_t(ptr %arg, ptr %oe)
  %f = call i1 @failed(i64 %n)
  br i1 %f, label %bad, label %sign
sign:
  %negative = icmp slt i64 %n, 0
  br i1 %negative, label %refuse, label %size
refuse:
  %ve = load ptr, ptr @PyExc_ValueError
  %ignored = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %ve, ptr @m_negative, i64 %n)
  br label %bad
size:
  %tiny = icmp ule i64 %n, 128
  br i1 %tiny, label %first, label %other
first:
  %above = icmp ugt i64 %n, 64
  %c0 = zext i1 %above to i64
  br label %take
other:
  %m = sub i64 %n, 1
  %lz = call i64 @llvm.ctlz.i64(i64 %m, i1 true)
  %bit = sub i64 63, %lz
  %small = icmp ult i64 %bit, 20
  br i1 %small, label %halves, label %eighths
halves:
  %b1 = sub i64 %bit, 1
  %sh = lshr i64 %m, %b1
  %half = and i64 %sh, 1
  %b7 = sub i64 %bit, 7
  %b72 = shl i64 %b7, 1
  %b73 = add i64 %b72, 2
  %c1 = add i64 %b73, %half
  br label %take
eighths:
  %b3 = sub i64 %bit, 3
  %sh3 = lshr i64 %m, %b3
  %eighth = and i64 %sh3, 7
  %b20 = sub i64 %bit, 20
  %b208 = shl i64 %b20, 3
  %b209 = add i64 %b208, {memory.FIRST_LARGE}
  %c2 = add i64 %b209, %eighth
  %known = icmp ult i64 %c2, {len(memory.CLASS_BYTES)}
  %c3 = select i1 %known, i64 %c2, i64 {len(memory.CLASS_BYTES)}
  br label %take
take:
  %c = phi i64 [ %c0, %first ], [ %c1, %halves ], [ %c3, %eighths ]
{alloc_ir("o", "%c", "%n", "bad")}  ret ptr %o
bad:
  ret ptr null
}}
declare i64 @llvm.ctlz.i64(i64, i1)

; A storage object without a block of its own, from the free list or new.
define internal ptr @shell(i64 %index) {{
  %hi = add i64 %index, {RT_HEADS}
  %hp = getelementptr i64, ptr @lampion_rt, i64 %hi
  %o = load ptr, ptr %hp
  %none = icmp eq ptr %o, null
  br i1 %none, label %fresh, label %reuse
reuse:
{load_ir("next", "%o", REF)}  store ptr %next, ptr %hp
{store_ir("z", "%o", OFFSET, "zeroinitializer", "<4 x i64>")}
  call void @_Py_NewReference(ptr %o)
  ret ptr %o
fresh:
{rt_ir("type", RT_TYPE, "ptr")}  %n = call ptr @PyType_GenericAlloc(ptr %type, i64 0)
  %bad = icmp eq ptr %n, null
  br i1 %bad, label %out, label %mark
mark:
{store_ir("c", "%n", CLASS, "%index")}  br label %out
out:
  ret ptr %n
}}

define ptr @storage_view(ptr %self, ptr %arg) {{
  %oe = load ptr, ptr @PyExc_OverflowError
  %n = call i64 @PyNumber_AsSsize_t(ptr %arg, ptr %oe)
  %f = call i1 @failed(i64 %n)
  br i1 %f, label %bad, label %look
look:
{load_ir("class", "%self", CLASS, "i64")}  %isview = icmp eq i64 %class, {VIEW_CLASS}
{load_ir("ref", "%self", REF)}  %base = select i1 %isview, ptr %ref, ptr %self
{load_ir("off", "%self", OFFSET, "i64")}{load_ir("total", "%base", NBYTES, "i64")}
  %at = add i64 %off, %n
  %outside = icmp ugt i64 %at, %total
  br i1 %outside, label %refuse, label %make
refuse:
  %ie = load ptr, ptr @PyExc_IndexError
  %ignored = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %ie, ptr @m_view, i64 %at, i64 %total)
  br label %bad
make:
  %o = call ptr @shell(i64 {VIEW_CLASS})
  %none = icmp eq ptr %o, null
  br i1 %none, label %bad, label %fill
fill:
{load_ir("start", "%base", PTR, "i64")}  %ptr = add i64 %start, %at
  %left = sub i64 %total, %at
  call void @Py_IncRef(ptr %base)
{store_ir("s0", "%o", PTR, "%ptr")}{store_ir("s1", "%o", NBYTES, "%left")}
{store_ir("s2", "%o", OFFSET, "%at")}{store_ir("s3", "%o", REF, "%base", "ptr")}  ret ptr %o
bad:
  ret ptr null
}}

define ptr @storage_wrap(ptr %self, ptr %args, i64 %count) {{
  %three = icmp eq i64 %count, 3
  br i1 %three, label %first, label %refuse
refuse:
  %te = load ptr, ptr @PyExc_TypeError
  call void @PyErr_SetString(ptr %te, ptr @m_args)
  br label %bad
first:
  %a0 = load ptr, ptr %args
  %ptr = call i64 @PyLong_AsSsize_t(ptr %a0)
  %f0 = call i1 @failed(i64 %ptr)
  br i1 %f0, label %bad, label %second
second:
{load_ir("a1", "%args", 8)}  %n = call i64 @PyLong_AsSsize_t(ptr %a1)
  %f1 = call i1 @failed(i64 %n)
  br i1 %f1, label %bad, label %sign
sign:
  %negative = icmp slt i64 %n, 0
  br i1 %negative, label %short, label %make
short:
  %ve = load ptr, ptr @PyExc_ValueError
  %ignored = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %ve, ptr @m_negative, i64 %n)
  br label %bad
make:
  %o = call ptr @shell(i64 {WRAP_CLASS})
  %none = icmp eq ptr %o, null
  br i1 %none, label %bad, label %fill
fill:
{load_ir("owner", "%args", 16)}  call void @Py_IncRef(ptr %owner)
{store_ir("s0", "%o", PTR, "%ptr")}{store_ir("s1", "%o", NBYTES, "%n")}
{store_ir("s2", "%o", REF, "%owner", "ptr")}  ret ptr %o
bad:
  ret ptr null
}}

define ptr @storage_base(ptr %self, ptr %closure) {{
{load_ir("class", "%self", CLASS, "i64")}  %isview = icmp eq i64 %class, {VIEW_CLASS}
{load_ir("ref", "%self", REF)}  %base = select i1 %isview, ptr %ref, ptr %self
  call void @Py_IncRef(ptr %base)
  ret ptr %base
}}

define ptr @storage_bump(ptr %self, ptr %unused) {{
{load_ir("class", "%self", CLASS, "i64")}  %isview = icmp eq i64 %class, {VIEW_CLASS}
{load_ir("ref", "%self", REF)}  %base = select i1 %isview, ptr %ref, ptr %self
{load_ir("v", "%base", VERSION, "i64")}  %v1 = add i64 %v, 1
  store i64 %v1, ptr %v.p
  call void @Py_IncRef(ptr @_Py_NoneStruct)
  ret ptr @_Py_NoneStruct
}}

define ptr @storage_repr(ptr %self) {{
{load_ir("n", "%self", NBYTES, "i64")}{load_ir("off", "%self", OFFSET, "i64")}
  %r = call ptr (ptr, ...) @PyUnicode_FromFormat(ptr @m_repr, i64 %n, i64 %off)
  ret ptr %r
}}

define i32 @storage_buffer(ptr %self, ptr %view, i32 %flags) {{
{load_ir("ptr", "%self", PTR)}{load_ir("n", "%self", NBYTES, "i64")}
  %rc = call i32 @PyBuffer_FillInfo(ptr %view, ptr %self, ptr %ptr, i64 %n, i32 0, i32 %flags)
  ret i32 %rc
}}

define void @storage_dealloc(ptr %s) {{
{load_ir("weak", "%s", WEAKREFS)}{load_ir("writer", "%s", WRITER)}
  %noweak = icmp eq ptr %weak, null
  br i1 %noweak, label %second, label %clear, !prof !1
clear:
  call void @PyObject_ClearWeakRefs(ptr %s)
  br label %second
second:
  %nowriter = icmp eq ptr %writer, null
  br i1 %nowriter, label %sort, label %forget, !prof !1
forget:
{store_ir("w", "%s", WRITER, "null", "ptr")}  call void @Py_DecRef(ptr %writer)
  br label %sort
sort:
{load_ir("class", "%s", CLASS, "i64")}{load_ir("ref", "%s", REF)}
{load_ir("size", "%s", BLOCK, "i64")}{rt_ir("all", RT_ALLOCATED)}
  %rest = sub i64 %all, %size
  store i64 %rest, ptr %all.p
  %big = icmp uge i64 %class, {memory.FIRST_LARGE}
  br i1 %big, label %rare, label %push, !prof !0
rare:
  %isshell = icmp uge i64 %class, {VIEW_CLASS}
  br i1 %isshell, label %push, label %large
large:
{rt_ir("reserved", RT_RESERVED)}{rt_ir("limit", RT_LIMIT)}
  %cached = sub i64 %reserved, %rest
  %over = icmp sgt i64 %cached, %limit
  br i1 %over, label %release, label %push
release:
  call void @storage_release(ptr %s)
  ret void
push:
  %hi = add i64 %class, {RT_HEADS}
  %hp = getelementptr i64, ptr @lampion_rt, i64 %hi
  %head = load ptr, ptr %hp
  store ptr %head, ptr %ref.p
  store ptr %s, ptr %hp
  br i1 %big, label %owner, label %done, !prof !0
owner:
  %hasref = icmp uge i64 %class, {VIEW_CLASS}
  br i1 %hasref, label %drop, label %done
drop:
  call void @Py_DecRef(ptr %ref)
  ret void
done:
  ret void
}}

; Free an object that is on no list, and its own mapping if it has one.
define internal void @storage_release(ptr %s) {{
{load_ir("size", "%s", BLOCK, "i64")}  %none = icmp eq i64 %size, 0
  br i1 %none, label %object, label %pages
pages:
{load_ir("ptr", "%s", PTR)}{rt_ir("reserved", RT_RESERVED)}
  %rest = sub i64 %reserved, %size
  store i64 %rest, ptr %reserved.p
  %rc = call i32 @munmap(ptr %ptr, i64 %size)
  br label %object
object:
{load_ir("type", "%s", TYPE_OFFSET)}  call void @PyObject_Free(ptr %s)
  call void @Py_DecRef(ptr %type)
  ret void
}}

; Free everything on the list of a class without shared blocks: _drop(class).
define ptr @storage_drop(ptr %self, ptr %arg) {{
entry:
  %index = call i64 @PyLong_AsSsize_t(ptr %arg)
  %hi = add i64 %index, {RT_HEADS}
  %hp = getelementptr i64, ptr @lampion_rt, i64 %hi
  br label %next
next:
  %o = load ptr, ptr %hp
  %none = icmp eq ptr %o, null
  br i1 %none, label %out, label %one
one:
{load_ir("link", "%o", REF)}  store ptr %link, ptr %hp
  call void @storage_release(ptr %o)
  br label %next
out:
  call void @Py_IncRef(ptr @_Py_NoneStruct)
  ret ptr @_Py_NoneStruct
}}

; Put `count` adjacent fresh blocks on a list: _refill(class, block bytes, address, count).
define ptr @storage_refill(ptr %self, ptr %args, i64 %n) {{
entry:
  %four = icmp eq i64 %n, 4
  br i1 %four, label %read, label %refuse
refuse:
  %te = load ptr, ptr @PyExc_TypeError
  call void @PyErr_SetString(ptr %te, ptr @m_refill)
  ret ptr null
read:
{load_ir("a0", "%args", 0)}{load_ir("a1", "%args", 8)}{load_ir("a2", "%args", 16)}
{load_ir("a3", "%args", 24)}  %index = call i64 @PyLong_AsSsize_t(ptr %a0)
  %size = call i64 @PyLong_AsSsize_t(ptr %a1)
  %start = call i64 @PyLong_AsSsize_t(ptr %a2)
  %count = call i64 @PyLong_AsSsize_t(ptr %a3)
  %error = call ptr @PyErr_Occurred()
  %bad = icmp ne ptr %error, null
  br i1 %bad, label %fail, label %setup
setup:
  %hi = add i64 %index, {RT_HEADS}
  %hp = getelementptr i64, ptr @lampion_rt, i64 %hi
{rt_ir("type", RT_TYPE, "ptr")}  br label %loop
loop:
  %i = phi i64 [ 0, %setup ], [ %i1, %fill ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %make, label %done
make:
  %o = call ptr @PyType_GenericAlloc(ptr %type, i64 0)
  %none = icmp eq ptr %o, null
  br i1 %none, label %fail, label %fill
fill:
  %step = mul i64 %i, %size
  %ptr = add i64 %start, %step
{store_ir("s0", "%o", PTR, "%ptr")}{store_ir("s1", "%o", CLASS, "%index")}
{store_ir("s2", "%o", BLOCK, "%size")}  %head = load ptr, ptr %hp
{store_ir("s3", "%o", REF, "%head", "ptr")}  store ptr %o, ptr %hp
{rt_ir("reserved", RT_RESERVED)}  %sum = add i64 %reserved, %size
  store i64 %sum, ptr %reserved.p
  %i1 = add i64 %i, 1
  br label %loop
done:
  call void @Py_IncRef(ptr @_Py_NoneStruct)
  ret ptr @_Py_NoneStruct
fail:
  ret ptr null
}}
!0 = !{{!"branch_weights", i32 1, i32 1000}}
!1 = !{{!"branch_weights", i32 1000, i32 1}}
"""

# ---- the interpreter's structures ----------------------------------------------------------------


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


def python_symbols() -> dict[str, int]:
    """Addresses of the interpreter's functions and objects that `DECLARATIONS` names."""
    api = ctypes.pythonapi
    found = {name: ctypes.cast(getattr(api, name), ctypes.c_void_p).value for name in _FUNCTIONS}
    for name in _OBJECTS:
        found[name] = ctypes.addressof(ctypes.c_void_p.in_dll(api, name))
    found["_Py_NoneStruct"] = id(None)
    return {name: address or 0 for name, address in found.items()}


def make_builtin(
    name: str,
    address: int,
    flags: int = METH_FASTCALL,
    doc: str = "",
    owner: object = None,
    module: object = None,
) -> Any:
    """A built-in function that runs native code; `owner` becomes its ``self``.

    The definition is made immortal: make one per piece of code with `method_def` when many
    functions share it.
    """
    return builtin_of(method_def(name, address, flags, doc), owner, module)


def method_def(name: str, address: int, flags: int = METH_FASTCALL, doc: str = "") -> int:
    """Address of an immortal ``PyMethodDef``."""
    made = jit.pin(_MethodDef(name.encode(), address, flags, doc.encode() or None))
    return ctypes.addressof(made)


def builtin_of(definition: int, owner: object = None, module: object = None) -> Any:
    """A built-in function of a `method_def`; it keeps `owner` and `module` alive."""
    self_ = None if owner is None else ctypes.c_void_p(id(owner))
    module_ = None if module is None else ctypes.c_void_p(id(module))
    return _new_builtin()(definition, self_, module_)


def _new_builtin() -> Any:
    global _builtin_maker
    if _builtin_maker is None:
        prototype = ctypes.PYFUNCTYPE(ctypes.py_object, *[ctypes.c_void_p] * 3)
        _builtin_maker = prototype(("PyCFunction_NewEx", ctypes.pythonapi))
    return _builtin_maker


_builtin_maker: Any = None


# ---- the native allocator ------------------------------------------------------------------------


class Native:
    """The storage type of this process, its table and its allocator functions."""

    def __init__(self) -> None:
        self.table = jit.pin((ctypes.c_int64 * _RT_WORDS)())
        self.symbols = python_symbols() | {
            "lampion_rt": ctypes.addressof(self.table),
            "munmap": memory.munmap_address(),
        }
        names = "empty view wrap base bump buffer repr dealloc drop refill".split()
        code = jit.compile_ir(
            _STORAGE_IR, [f"storage_{name}" for name in names] + ["lampion_grow"], self.symbols
        )
        self.symbols["lampion_grow"] = code["lampion_grow"]
        self.code = {name: code[f"storage_{name}"] for name in names}
        self.arena = memory.Arena()
        self.lock = threading.RLock()
        self.type = jit.pin(self._make_type())
        self.grow = jit.pin(self._grow)  # one bound method: the table points at it
        self.table[RT_TYPE] = id(self.type)
        self.table[RT_GROW] = id(self.grow)
        self.table[RT_LIMIT] = memory.default_cache_limit()
        self._refill = make_builtin("_refill", self.code["refill"])
        self._drop = make_builtin("_drop", self.code["drop"], METH_O)
        self.empty = make_builtin("empty", self.code["empty"], METH_O, portable.empty.__doc__ or "")
        self.wrap = make_builtin("wrap", self.code["wrap"], doc=portable.wrap.__doc__ or "")

    def _make_type(self) -> type:
        code = self.code

        def doc(name: str) -> bytes:
            return (getattr(portable.PyStorage, name).__doc__ or "").encode()

        members = jit.pin(
            (_MemberDef * 8)(
                (b"ptr", _T_LONGLONG, PTR, _READONLY, b"address of the first byte"),
                (b"nbytes", _T_LONGLONG, NBYTES, _READONLY, b"bytes from `ptr` to the end"),
                (b"offset", _T_LONGLONG, OFFSET, _READONLY, b"bytes from the base's start"),
                (b"version", _T_LONGLONG, VERSION, 0, b"count of in-place writes (of a base)"),
                (b"epoch", _T_LONGLONG, EPOCH, 0, b"write epoch (of a base)"),
                (b"writer", _T_OBJECT, WRITER, 0, b"who wrote last, or None (of a base)"),
                (b"__weaklistoffset__", _T_SSIZE, WEAKREFS, _READONLY, None),
            )
        )
        getset = jit.pin((_GetSetDef * 2)((b"base", code["base"], None, doc("base"), None)))
        methods = jit.pin(
            (_MethodDef * 3)(
                (b"view", code["view"], METH_O, doc("view")),
                (b"bump", code["bump"], _METH_NOARGS, doc("bump")),
            )
        )
        text = jit.pin(ctypes.create_string_buffer((portable.PyStorage.__doc__ or "").encode()))
        slots = jit.pin(
            (_TypeSlot * 8)(
                (_TP_DEALLOC, code["dealloc"]),
                (_TP_REPR, code["repr"]),
                (_TP_DOC, ctypes.addressof(text)),
                (_TP_MEMBERS, ctypes.addressof(members)),
                (_TP_GETSET, ctypes.addressof(getset)),
                (_TP_METHODS, ctypes.addressof(methods)),
                (_BF_GETBUFFER, code["buffer"]),
            )
        )
        spec = jit.pin(
            _TypeSpec(b"lampion_cpu.Storage", OBJECT_BYTES, 0, _FLAGS, ctypes.addressof(slots))
        )
        make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)(
            ("PyType_FromSpec", ctypes.pythonapi)
        )
        made: type = make(ctypes.addressof(spec))
        return made

    def _grow(self, index: int, nbytes: int) -> None:
        """Put at least one block on the list of class `index`; called by the native code."""
        if index >= len(memory.CLASS_BYTES):
            memory.class_of(nbytes)  # raises
        size = memory.CLASS_BYTES[index]
        with self.lock:
            if index < memory.FIRST_LARGE:
                address, count = self.arena.carve(index)
            else:
                address, count = self._map_large(size), 1
            if not address:
                raise memory.out_of_memory(nbytes, self.stats())
            self._refill(index, size, address, count)

    def _map_large(self, size: int) -> int:
        # A block of another class cannot serve, so cached ones go back before memory gets short.
        cached = self.table[RT_RESERVED] - self.table[RT_ALLOCATED]
        if cached and self.table[RT_RESERVED] + size > memory.physical_memory() * 3 // 4:
            self.empty_cache()
        return memory.map_pages(size) or (self.empty_cache(), memory.map_pages(size))[1]

    def empty_cache(self) -> None:
        """Return every unused large block to the system."""
        for index in (*range(memory.FIRST_LARGE, len(memory.CLASS_BYTES)), VIEW_CLASS, WRAP_CLASS):
            self._drop(index)

    def stats(self) -> dict[str, int]:
        """Bytes allocated, reserved from the system, and the peak of the former."""
        table = self.table
        return {
            "allocated": table[RT_ALLOCATED],
            "reserved": table[RT_RESERVED],
            "peak": table[RT_PEAK],
        }

    def reset_peak(self) -> None:
        """Let the peak start again at what is allocated now."""
        self.table[RT_PEAK] = self.table[RT_ALLOCATED]

    def set_cache_limit(self, nbytes: int) -> None:
        """Keep at most `nbytes` of freed blocks; more are returned as they are freed."""
        self.table[RT_LIMIT] = nbytes
        if self.table[RT_RESERVED] - self.table[RT_ALLOCATED] > nbytes:
            self.empty_cache()


def native_refusal() -> str:
    """Why the native storage cannot be used here; empty when it can be tried."""
    if os.environ.get("LAMPION_NATIVE") == "0":
        return "LAMPION_NATIVE=0"
    if platform.python_implementation() != "CPython":
        return f"it needs CPython, this is {platform.python_implementation()}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "its free lists are guarded by the GIL, which this interpreter lacks"
    if sys.version_info < (3, 10):
        return "it needs Python 3.10"
    if struct.calcsize("P") != 8 or os.name != "posix":
        return "it needs a 64-bit POSIX system"
    word = ctypes.c_void_p.from_address(id(_log) + TYPE_OFFSET).value
    if HEADER < 16 or word != id(type(_log)):
        return f"object headers of {HEADER} bytes are laid out unexpectedly"
    return ""


def _self_test(native: Native) -> None:
    """Exercise every path of the type once; AssertionError when anything is off."""
    before = native.stats()["allocated"]
    marker = object()
    count = sys.getrefcount(marker)
    for nbytes in (0, 1, 64, 65, 4096, 3 << 20):
        block = native.empty(nbytes)
        assert type(block) is native.type and block.nbytes == nbytes
        assert block.ptr % memory.ALIGNMENT == 0 and block.base is block
        block.writer = marker
        block.version += 1
        view = block.view(nbytes)
        assert view.base is block and view.ptr == block.ptr + nbytes and view.nbytes == 0
        del block
        assert view.base.version == 1 and view.base.writer is marker
        del view
    assert sys.getrefcount(marker) == count
    outside = native.wrap(id(marker), 8, marker)
    assert outside.base is outside and sys.getrefcount(marker) == count + 1
    del outside
    assert sys.getrefcount(marker) == count and native.stats()["allocated"] == before
    try:
        native.empty(-1)
    except ValueError:
        pass
    else:
        raise AssertionError("a negative size was accepted")
    native.empty_cache()
    native.reset_peak()


def _start() -> Native | None:
    reason = native_refusal()
    if not reason:
        try:
            native = Native()
            _self_test(native)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            _log.warning("the native CPU storage is not used: %s", reason)
        else:
            return native
    _log.debug("CPU storage in pure Python: %s", reason)
    return None


native: Native | None = _start()
PyStorage = portable.PyStorage
NativeStorage: Any = native.type if native is not None else None
Storage: Any = NativeStorage or PyStorage
_chosen: Any = native if native is not None else portable
empty = _chosen.empty
wrap = _chosen.wrap
empty_cache = _chosen.empty_cache
memory_stats = _chosen.stats
reset_peak = _chosen.reset_peak
set_cache_limit = _chosen.set_cache_limit


def is_native() -> bool:
    """Whether `Storage` is the native type here (else its pure-Python twin)."""
    return native is not None
