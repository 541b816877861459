"""The native storage type as LLVM IR: object layout, allocation, deallocation, methods.

One table of 64-bit words (``@lampion_rt``) is shared with Python: the type, the counters and a
free list for each size class. A listed object keeps its block and links to the next object through
its ``ref`` field. Everything here runs with the GIL held, which is what guards the lists.
May import: `cpython`, `memory`.
"""

from __future__ import annotations

from . import memory
from .cpython import DECLARATIONS, HEADER, TYPE_OFFSET, load_ir, store_ir, text_ir

__all__ = [
    "EPOCH",
    "NBYTES",
    "OBJECT_BYTES",
    "OFFSET",
    "PTR",
    "RT_ALLOCATED",
    "RT_GROW",
    "RT_LIMIT",
    "RT_PEAK",
    "RT_RESERVED",
    "RT_TYPE",
    "RT_WORDS",
    "STORAGE_IR",
    "TABLE_IR",
    "VERSION",
    "VIEW_CLASS",
    "WEAKREFS",
    "WRAP_CLASS",
    "WRITER",
    "alloc_ir",
    "rt_ir",
]

PTR, NBYTES, OFFSET, REF, VERSION, EPOCH, WRITER, WEAKREFS, CLASS, BLOCK = range(
    HEADER, HEADER + 80, 8
)
OBJECT_BYTES = HEADER + 80

# The run-time table, shared with the IR as @lampion_rt: indices of 64-bit words.
RT_TYPE, RT_GROW, RT_ALLOCATED, RT_PEAK, RT_RESERVED, RT_LIMIT, RT_HEADS = 0, 1, 2, 3, 4, 5, 8
VIEW_CLASS, WRAP_CLASS = 254, 255  # objects without a block of their own
RT_WORDS = RT_HEADS + 256

TABLE_IR = f"@lampion_rt = external global [{RT_WORDS} x i64]\n"


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


STORAGE_IR = f"""
{DECLARATIONS}{TABLE_IR}
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
