"""The kernels that run oneDNN primitives as steps of a program.

``dnnl_run`` executes one primitive on the program's data pointers; ``dnnl_run_series`` executes
it several times, moving through memory. Both have the kernel interface of the runtime.

    params of dnnl_run: primitive, stream, n, block, engine, threads, memory 0 .. n-1
    block:              i64 lock, then n execution arguments { i32 number, ptr memory }
    params of dnnl_run_series: count, n, params of the first run, params of the others,
                        byte stride 0 .. n-1

The memories of a primitive are shared by all threads that run it. The first one in takes the
lock (about 5 ns); whoever finds it taken makes memories of its own (0.4 us each).

In a forked child libgomp waits for threads that no longer exist: a step made before the fork
for several threads raises RuntimeError there. Steps made in the child use one thread.

Imports ``jit`` and the standard library.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_int64, c_void_p

from . import jit

_forked = c_int64(0)  # 1 in a forked child
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: setattr(_forked, "value", 1))

_MESSAGES = {
    "failed": "oneDNN failed in a kernel; the result of it is invalid",
    "forked": "a oneDNN kernel made for several threads before fork() cannot run in the child",
}

_GLUE = """
%exec_arg = type { i32, ptr }
declare i32 @dnnl_primitive_execute(ptr, ptr, i32, ptr)
declare i32 @dnnl_memory_set_data_handle(ptr, ptr)
declare i32 @dnnl_memory_get_memory_desc(ptr, ptr)
declare i32 @dnnl_memory_create(ptr, ptr, ptr, ptr)
declare i32 @dnnl_memory_destroy(ptr)
declare void @omp_set_num_threads(i32)
declare i32 @omp_get_max_threads()
declare i32 @Py_AddPendingCall(ptr, ptr)
declare void @PyErr_SetString(ptr, ptr)

define internal i32 @raise(ptr %message) {
  %type = load ptr, ptr @PyExc_RuntimeError
  call void @PyErr_SetString(ptr %type, ptr %message)
  ret i32 -1
}

; Kernels return nothing and may run without the GIL: the error is raised by the main thread,
; as soon as it runs Python code again.
define internal void @fail(ptr %message) noinline {
  %r = call i32 @Py_AddPendingCall(ptr @raise, ptr %message)
  ret void
}
@PyExc_RuntimeError = external global ptr
@lampion_onednn_forked = external global i64

define internal void @contended(ptr %args, ptr %params) noinline {
  %p.n = getelementptr i64, ptr %params, i64 2
  %n = load i64, ptr %p.n
  %p.block = getelementptr i64, ptr %params, i64 3
  %block = load ptr, ptr %p.block
  %p.engine = getelementptr i64, ptr %params, i64 4
  %engine = load ptr, ptr %p.engine
  %theirs = getelementptr i8, ptr %block, i64 8
  %mine = alloca %exec_arg, i64 %n
  %desc = alloca ptr
  br label %make
make:
  %i = phi i64 [ 0, %0 ], [ %i.next, %make ]
  %i.theirs = getelementptr %exec_arg, ptr %theirs, i64 %i
  %i.mine = getelementptr %exec_arg, ptr %mine, i64 %i
  %number = load i32, ptr %i.theirs
  store i32 %number, ptr %i.mine
  %i.from = getelementptr %exec_arg, ptr %i.theirs, i64 0, i32 1
  %from = load ptr, ptr %i.from
  %s0 = call i32 @dnnl_memory_get_memory_desc(ptr %from, ptr %desc)
  %md = load ptr, ptr %desc
  %i.arg = getelementptr ptr, ptr %args, i64 %i
  %data = load ptr, ptr %i.arg
  %i.to = getelementptr %exec_arg, ptr %i.mine, i64 0, i32 1
  store ptr null, ptr %i.to
  %s1 = call i32 @dnnl_memory_create(ptr %i.to, ptr %md, ptr %engine, ptr %data)
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %n
  br i1 %more, label %make, label %run
run:
  %primitive = load ptr, ptr %params
  %p.stream = getelementptr i64, ptr %params, i64 1
  %stream = load ptr, ptr %p.stream
  %n32 = trunc i64 %n to i32
  %status = call i32 @dnnl_primitive_execute(ptr %primitive, ptr %stream, i32 %n32, ptr %mine)
  br label %drop
drop:
  %j = phi i64 [ 0, %run ], [ %j.next, %drop ]
  %j.mine = getelementptr %exec_arg, ptr %mine, i64 %j, i32 1
  %memory = load ptr, ptr %j.mine
  %s2 = call i32 @dnnl_memory_destroy(ptr %memory)
  %j.next = add i64 %j, 1
  %rest = icmp slt i64 %j.next, %n
  br i1 %rest, label %drop, label %check
check:
  %ok = icmp eq i32 %status, 0
  br i1 %ok, label %done, label %bad
bad:
  call void @fail(ptr @failed.message)
  br label %done
done:
  ret void
}

define void @dnnl_run(ptr %args, ptr %params, i64 %lo, i64 %hi) {
  %p.threads = getelementptr i64, ptr %params, i64 5
  %threads = load i64, ptr %p.threads
  %threads32 = trunc i64 %threads to i32
  %forked = load i64, ptr @lampion_onednn_forked
  %several = icmp sgt i64 %threads, 1
  %forked.bit = icmp ne i64 %forked, 0
  %stale = and i1 %forked.bit, %several
  br i1 %stale, label %refuse, label %go
refuse:
  call void @fail(ptr @forked.message)
  ret void
go:
  %before = call i32 @omp_get_max_threads()
  %same = icmp eq i32 %before, %threads32
  br i1 %same, label %plain, label %switch
switch:
  call void @omp_set_num_threads(i32 %threads32)
  call void @run(ptr %args, ptr %params)
  call void @omp_set_num_threads(i32 %before)
  ret void
plain:
  tail call void @run(ptr %args, ptr %params)
  ret void
}

define internal void @run(ptr %args, ptr %params) {
  %p.block = getelementptr i64, ptr %params, i64 3
  %block = load ptr, ptr %p.block
  %pair = cmpxchg ptr %block, i64 0, i64 1 acquire monotonic
  %mine = extractvalue { i64, i1 } %pair, 1
  br i1 %mine, label %start, label %busy
busy:
  call void @contended(ptr %args, ptr %params)
  ret void
start:
  %p.n = getelementptr i64, ptr %params, i64 2
  %n = load i64, ptr %p.n
  %memories = getelementptr i64, ptr %params, i64 6
  br label %set
set:
  %i = phi i64 [ 0, %start ], [ %i.next, %set ]
  %i.memory = getelementptr ptr, ptr %memories, i64 %i
  %memory = load ptr, ptr %i.memory
  %i.arg = getelementptr ptr, ptr %args, i64 %i
  %data = load ptr, ptr %i.arg
  %s0 = call i32 @dnnl_memory_set_data_handle(ptr %memory, ptr %data)
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %n
  br i1 %more, label %set, label %run
run:
  %primitive = load ptr, ptr %params
  %p.stream = getelementptr i64, ptr %params, i64 1
  %stream = load ptr, ptr %p.stream
  %n32 = trunc i64 %n to i32
  %exec = getelementptr i8, ptr %block, i64 8
  %status = call i32 @dnnl_primitive_execute(ptr %primitive, ptr %stream, i32 %n32, ptr %exec)
  store atomic i64 0, ptr %block release, align 8
  %ok = icmp eq i32 %status, 0
  br i1 %ok, label %done, label %bad
bad:
  call void @fail(ptr @failed.message)
  br label %done
done:
  ret void
}

define void @dnnl_run_series(ptr %args, ptr %params, i64 %lo, i64 %hi) {
  %count = load i64, ptr %params
  %p.n = getelementptr i64, ptr %params, i64 1
  %n = load i64, ptr %p.n
  %p.first = getelementptr i64, ptr %params, i64 2
  %first = load ptr, ptr %p.first
  %p.rest = getelementptr i64, ptr %params, i64 3
  %rest = load ptr, ptr %p.rest
  %strides = getelementptr i64, ptr %params, i64 4
  %moved = alloca ptr, i64 %n
  br label %run
run:
  %i = phi i64 [ 0, %0 ], [ %i.next, %call ]
  br label %move
move:
  %j = phi i64 [ 0, %run ], [ %j.next, %move ]
  %j.stride = getelementptr i64, ptr %strides, i64 %j
  %stride = load i64, ptr %j.stride
  %offset = mul i64 %stride, %i
  %j.from = getelementptr ptr, ptr %args, i64 %j
  %from = load ptr, ptr %j.from
  %to = getelementptr i8, ptr %from, i64 %offset
  %j.to = getelementptr ptr, ptr %moved, i64 %j
  store ptr %to, ptr %j.to
  %j.next = add i64 %j, 1
  %j.more = icmp slt i64 %j.next, %n
  br i1 %j.more, label %move, label %call
call:
  %is.first = icmp eq i64 %i, 0
  %which = select i1 %is.first, ptr %first, ptr %rest
  call void @dnnl_run(ptr %moved, ptr %which, i64 0, i64 1)
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %count
  br i1 %more, label %run, label %done
done:
  ret void
}
"""


def compile_glue(handle: ctypes.CDLL) -> tuple[int, int]:
    """Compile the glue kernels against this library and return their addresses."""

    def address(library: ctypes.CDLL, name: str) -> int:
        value = ctypes.cast(getattr(library, name), c_void_p).value
        assert value is not None
        return value

    calls = ("primitive_execute", "memory_set_data_handle", "memory_get_memory_desc",
             "memory_create", "memory_destroy")  # fmt: skip
    symbols = {f"dnnl_{name}": address(handle, f"dnnl_{name}") for name in calls}
    # libdnnl is linked to libgomp, so the symbol is found through its handle.
    for name in ("omp_set_num_threads", "omp_get_max_threads"):
        symbols[name] = address(handle, name)
    for name in ("Py_AddPendingCall", "PyErr_SetString"):
        symbols[name] = address(ctypes.pythonapi, name)
    exception = c_void_p.in_dll(ctypes.pythonapi, "PyExc_RuntimeError")
    symbols["PyExc_RuntimeError"] = ctypes.addressof(exception)
    symbols["lampion_onednn_forked"] = ctypes.addressof(_forked)
    names = ("dnnl_run", "dnnl_run_series")
    messages = "".join(
        f'@{name}.message = private constant [{len(text) + 1} x i8] c"{text}\\00"\n'
        for name, text in _MESSAGES.items()
    )
    found = jit.compile_ir(messages + _GLUE, names, symbols)
    return found[names[0]], found[names[1]]
