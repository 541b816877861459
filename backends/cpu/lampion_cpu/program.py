"""Programs: a fixed sequence of kernel calls as one built-in function, without compiling anything.

A program's whole description (steps, parameters, output sizes) is packed into a ``bytes`` object,
which becomes the ``self`` of a METH_FASTCALL built-in; a few entry points, compiled once for all
programs, interpret it: they check the arguments, allocate the outputs, run the kernels (releasing
the GIL when the work is large) and hand the storages back. One-kernel programs, which is what
eager ops are, get an entry point unrolled for their argument kinds.

Without the native storage the same programs run through ctypes.
May import: the standard library, `cpython`, `jit`, `memory`, `native`, `pool`, `portable`,
`storage_ir`.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import jit, memory, pool, portable
from . import native as _native
from .cpython import BYTES_DATA, DECLARATIONS, TYPE_OFFSET, builtin_of, load_ir, method_def, text_ir
from .storage_ir import NBYTES, PTR, RT_TYPE, TABLE_IR, alloc_ir, rt_ir

__all__ = ["Program", "Step", "make_program"]


class Step(NamedTuple):
    """One kernel call of a program.

    `fn` is the address of ``void k(ptr args, ptr params, i64 lo, i64 hi)``; `params` the int64
    values at ``params``; ``args[i]`` is the program's slot ``slots[i]``: a data pointer, or a
    scalar's eight bytes. The kernel runs over ``[0, units)``, cut into chunks of at least `grain`
    units when several threads run it.
    """

    fn: int
    params: tuple[int, ...]
    slots: tuple[int, ...]
    units: int
    grain: int


class Packed(NamedTuple):
    """Steps, of which the first only brings an operand into the form that the others read: its
    slots begin with (the operand, where it goes). `scratch` are the bytes of the steps' scratch
    slots, `span` those of the operand."""

    steps: tuple[Step, ...]
    scratch: tuple[int, ...]
    span: int


class Program:
    """A sequence of kernels with fixed sizes; made by `make_program`.

    ``launch(*inputs)`` allocates the outputs and returns them: one storage, a tuple of several, or
    None of none. ``into(*outputs, *inputs)`` writes to storages it is given and returns None.
    `packed` does the same, for sequences in which several programs pack one operand.
    """

    __slots__ = ("derived", "inputs", "into", "keep", "launch", "nogil", "outputs", "packed",
                 "scratch", "steps")

    launch: Callable[..., Any]
    into: Callable[..., None]

    def __init__(
        self,
        steps: tuple[Step, ...],
        inputs: str,
        outputs: tuple[int, ...],
        scratch: tuple[int, ...],
        nogil: bool,
        keep: object,
        derived: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.derived = derived
        self.steps = steps
        self.inputs = inputs
        self.outputs = outputs
        self.scratch = scratch
        self.nogil = nogil
        self.keep = keep
        self.packed: Packed | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(memory.describe_bytes(n) for n in self.outputs)
        return f"<Program of {len(self.steps)} steps, inputs {self.inputs!r}, outputs ({sizes})>"


def make_program(
    steps: Sequence[Step],
    inputs: str,
    outputs: Sequence[int],
    scratch: Sequence[int] = (),
    nogil: bool | None = None,
    keep: object = None,
    derived: Sequence[tuple[int, int]] = (),
) -> Program:
    """Build a program that runs `steps` one after the other.

    `inputs` has one letter an input: ``s`` a storage, ``f`` a Python number passed as a double,
    ``i`` a Python integer passed as int64 (values of uint64 wrap). `outputs` and `scratch` are the
    sizes in bytes of storages the program allocates; scratch is freed when it returns. Slots are
    numbered outputs first, then inputs, then scratch. `nogil` releases the GIL around the kernels
    (default: when a step is large enough to be cut in chunks). `keep` is any object the kernels
    need alive: it lives as long as the program's functions. Behind the scratch come the slots of
    `derived`: (slot, bytes) is the address in that slot and so many bytes more, (-1, word) a
    constant of 64 bits.

    Calling a program raises TypeError for a wrong count or kind of argument, OverflowError for an
    integer beyond 64 bits, ValueError for an ``into`` target that is too small, OutOfMemoryError.
    Raises ValueError here for steps that refer to slots that do not exist.

    >>> program = make_program((), "s", (64,))
    >>> program.launch(_native.empty(4)).nbytes
    64
    """
    checked = tuple(Step(*step) for step in steps)
    _check(checked, inputs, tuple(outputs), tuple(scratch), tuple(derived))
    if nogil is None:
        nogil = any(step.units > step.grain for step in checked)
    program = Program(checked, inputs, tuple(outputs), tuple(scratch), bool(nogil), keep,
                      tuple(derived))
    builder = _native_functions if _native.native is not None else portable_functions
    program.launch, program.into = builder(program)
    return program


def _check(
    steps: tuple[Step, ...], inputs: str, outputs: tuple[int, ...], scratch: tuple[int, ...],
    derived: tuple[tuple[int, int], ...],
) -> None:
    if set(inputs) - set("sfi"):
        raise ValueError(f"inputs are 's', 'f' or 'i', not {inputs!r}")
    if any(size < 0 for size in outputs + scratch):
        raise ValueError(f"sizes must not be negative: {outputs}, {scratch}")
    total = len(outputs) + len(inputs) + len(scratch)
    if any(source >= total for source, _ in derived):
        raise ValueError("a derived slot is derived from one that is derived or does not exist")
    total += len(derived)
    if total > _MOST_SLOTS:  # they live on the stack
        raise ValueError(f"a program has at most {_MOST_SLOTS} slots, not {total}")
    for step in steps:
        if any(not 0 <= slot < total for slot in step.slots):
            raise ValueError(f"a step names slots {step.slots}, the program has {total}")
        if step.fn == 0 or step.units < 0:
            raise ValueError(f"a step needs a kernel address and units >= 0: {step}")


_MOST_SLOTS = 1 << 15

# ---- the packed form -----------------------------------------------------------------------------

# Byte offsets in the block. Then come the steps (six words each), the sizes of outputs and scratch
# (size class, bytes), and what they refer to by offset: slots, parameters, derived slots, input
# letters.
(_N_IN, _N_OUT, _N_MADE, _N_STEPS, _NOGIL, _N_SLOTS, _SIZES, _KINDS, _WIDEST, _N_DERIVED,
 _DERIVED) = range(0, 88, 8)
_STEPS = 88
_STEP_BYTES = 48


def _pack(program: Program) -> bytes:
    sizes = program.outputs + program.scratch
    sizes_at = _STEPS + _STEP_BYTES * len(program.steps)
    tail_at = sizes_at + 16 * len(sizes)
    tail: list[int] = []
    records: list[int] = []
    for step in program.steps:
        slots_at = tail_at + 8 * len(tail)
        params_at = slots_at + 8 * len(step.slots)
        records += [step.fn, params_at, step.units, step.grain, len(step.slots), slots_at]
        tail += [*step.slots, *step.params]
    derived_at = tail_at + 8 * len(tail)
    first = len(sizes) + len(program.inputs)
    for slot, (source, amount) in enumerate(program.derived, first):
        tail += [slot, source, amount]
    blocks = [word for size in sizes for word in (memory.class_of(size), size)]
    head = [
        len(program.inputs),
        len(program.outputs),
        len(sizes),
        len(program.steps),
        int(program.nogil),
        first + len(program.derived),
        sizes_at,
        tail_at + 8 * len(tail),
        max((len(step.slots) for step in program.steps), default=0),
        len(program.derived),
        derived_at,
    ]
    words = head + records + blocks + tail
    return struct.pack(f"<{len(words)}q", *map(_signed, words)) + program.inputs.encode()


def _signed(word: int) -> int:
    """`word` as a signed 64-bit value; OverflowError beyond the range of int64 and uint64."""
    if not -(1 << 63) <= word < 1 << 64:
        raise OverflowError(f"{word} does not fit 64 bits")
    return word - (1 << 64) if word >= 1 << 63 else word


# ---- entry points in LLVM IR ---------------------------------------------------------------------

_HELPERS = f"""
{TABLE_IR}declare i32 @lampion_grow(i64, i64)
declare void @lampion_parallel(ptr, ptr, ptr, i64, i64)
"""

_SHARED = """
declare ptr @program_count_error(i64, i64)
declare ptr @program_type_error(ptr, ptr)
declare ptr @program_small_error(i64, i64)
declare i1 @program_float(ptr, ptr)
declare i1 @program_int(ptr, ptr)
declare void @program_step(ptr, ptr, ptr)
"""


# Pieces of both the general entry point and the unrolled ones.


def _storage_ir(tag: str, obj: str, good: str) -> str:
    """Go to `good` with the data pointer of storage `obj` in %d{tag}; TypeError for others."""
    return f"""{load_ir(f"t{tag}", obj, TYPE_OFFSET)}  %k{tag} = icmp eq ptr %t{tag}, %T
  br i1 %k{tag}, label %is{tag}, label %wrong{tag}, !prof !1
wrong{tag}:
  %e{tag} = call ptr @program_type_error(ptr %t{tag}, ptr null)
  ret ptr null
is{tag}:
{load_ir(f"d{tag}", obj, PTR, "i64")}  br label %{good}
"""


def _fits_ir(tag: str, obj: str, need: str, good: str) -> str:
    """Go to `good` if storage `obj` has `need` bytes; ValueError otherwise."""
    return f"""{load_ir(f"have{tag}", obj, NBYTES, "i64")}
  %fits{tag} = icmp sge i64 %have{tag}, {need}
  br i1 %fits{tag}, label %{good}, label %small{tag}, !prof !1
small{tag}:
  %se{tag} = call ptr @program_small_error(i64 {need}, i64 %have{tag})
  ret ptr null
"""


def _work_ir(call: str) -> str:
    """Run `call`, without the GIL if the program says so, and go to %finish."""
    return f"""{load_ir("nogil", "%block", _NOGIL, "i64")}  %free = icmp ne i64 %nogil, 0
  br i1 %free, label %released, label %held
released:
  %thread = call ptr @PyEval_SaveThread()
  {call}
  call void @PyEval_RestoreThread(ptr %thread)
  br label %finish
held:
  {call}
  br label %finish
"""


_WEIGHTS = """
!0 = !{!"branch_weights", i32 1, i32 1000}
!1 = !{!"branch_weights", i32 1000, i32 1}
"""


def _core_ir() -> str:
    return f"""
{DECLARATIONS}{_HELPERS}
{text_ir("m_count", "this program takes %zd arguments, %zd were given")}
{text_ir("m_type", "expected a CPU storage, not an object of %R")}
{text_ir("m_small", "an output of %zd bytes does not fit a storage of %zd bytes")}
{text_ir("m_range", "an integer argument does not fit 64 bits")}

define ptr @program_count_error(i64 %want, i64 %got) {{
  %te = load ptr, ptr @PyExc_TypeError
  %r = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %te, ptr @m_count, i64 %want, i64 %got)
  ret ptr null
}}
define ptr @program_type_error(ptr %type, ptr %unused) {{
  %te = load ptr, ptr @PyExc_TypeError
  %r = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %te, ptr @m_type, ptr %type)
  ret ptr null
}}
define ptr @program_small_error(i64 %need, i64 %have) {{
  %ve = load ptr, ptr @PyExc_ValueError
  %r = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %ve, ptr @m_small, i64 %need, i64 %have)
  ret ptr null
}}

; Store a Python number as a double; false with an exception set on failure.
define i1 @program_float(ptr %o, ptr %slot) {{
  %v = call double @PyFloat_AsDouble(ptr %o)
  store double %v, ptr %slot
  %maybe = fcmp oeq double %v, -1.0
  br i1 %maybe, label %ask, label %good
ask:
  %error = call ptr @PyErr_Occurred()
  %bad = icmp ne ptr %error, null
  br i1 %bad, label %fail, label %good
good:
  ret i1 true
fail:
  ret i1 false
}}

; Store a Python integer as int64, wrapping the range of uint64; false on failure.
define i1 @program_int(ptr %o, ptr %slot) {{
  %n = call ptr @PyNumber_Index(ptr %o)
  %none = icmp eq ptr %n, null
  br i1 %none, label %fail, label %signed
signed:
  %v = call i64 @PyLong_AsLongLong(ptr %n)
  store i64 %v, ptr %slot
  %maybe = icmp eq i64 %v, -1
  br i1 %maybe, label %ask, label %good
ask:
  %error = call ptr @PyErr_Occurred()
  %over = icmp ne ptr %error, null
  br i1 %over, label %unsigned, label %good
unsigned:
  call void @PyErr_Clear()
  %u = call i64 @PyLong_AsUnsignedLongLong(ptr %n)
  store i64 %u, ptr %slot
  %maybe2 = icmp eq i64 %u, -1
  br i1 %maybe2, label %ask2, label %good
ask2:
  %error2 = call ptr @PyErr_Occurred()
  %bad = icmp ne ptr %error2, null
  br i1 %bad, label %explain, label %good
explain:
  %oe = load ptr, ptr @PyExc_OverflowError
  call void @PyErr_SetString(ptr %oe, ptr @m_range)
  call void @Py_DecRef(ptr %n)
  br label %fail
good:
  call void @Py_DecRef(ptr %n)
  ret i1 true
fail:
  ret i1 false
}}

; Run one step record of a block over the arguments given.
define void @program_step(ptr %block, ptr %step, ptr %args) {{
{load_ir("fn", "%step", 0)}{load_ir("poff", "%step", 8, "i64")}
{load_ir("units", "%step", 16, "i64")}{load_ir("grain", "%step", 24, "i64")}
  %params = getelementptr i8, ptr %block, i64 %poff
  %small = icmp sle i64 %units, %grain
  br i1 %small, label %serial, label %parallel
serial:
  call void %fn(ptr %args, ptr %params, i64 0, i64 %units)
  ret void
parallel:
  call void @lampion_parallel(ptr %fn, ptr %args, ptr %params, i64 %units, i64 %grain)
  ret void
}}

define internal void @run_steps(ptr %block, ptr %frame, ptr %args) {{
entry:
{load_ir("count", "%block", _N_STEPS, "i64")}  br label %next
next:
  %s = phi i64 [ 0, %entry ], [ %s1, %run ]
  %more = icmp slt i64 %s, %count
  br i1 %more, label %begin, label %out
begin:
  %off = mul i64 %s, {_STEP_BYTES}
  %at = add i64 %off, {_STEPS}
  %step = getelementptr i8, ptr %block, i64 %at
{load_ir("n", "%step", 32, "i64")}{load_ir("soff", "%step", 40, "i64")}
  %slots = getelementptr i8, ptr %block, i64 %soff
  br label %gather
gather:
  %i = phi i64 [ 0, %begin ], [ %i1, %one ]
  %rest = icmp slt i64 %i, %n
  br i1 %rest, label %one, label %run
one:
  %sp = getelementptr i64, ptr %slots, i64 %i
  %slot = load i64, ptr %sp
  %fp = getelementptr i64, ptr %frame, i64 %slot
  %v = load i64, ptr %fp
  %ap = getelementptr i64, ptr %args, i64 %i
  store i64 %v, ptr %ap
  %i1 = add i64 %i, 1
  br label %gather
run:
  call void @program_step(ptr %block, ptr %step, ptr %args)
  %s1 = add i64 %s, 1
  br label %next
out:
  ret void
}}

; Drop the references objs[from..to).
define internal void @drop(ptr %objs, i64 %from, i64 %to) {{
entry:
  br label %next
next:
  %i = phi i64 [ %from, %entry ], [ %i1, %one ]
  %more = icmp slt i64 %i, %to
  br i1 %more, label %one, label %out
one:
  %p = getelementptr ptr, ptr %objs, i64 %i
  %o = load ptr, ptr %p
  call void @Py_DecRef(ptr %o)
  %i1 = add i64 %i, 1
  br label %next
out:
  ret void
}}

; One storage, a tuple of them, or None; the references objs[0..count) are consumed.
define internal ptr @result(ptr %objs, i64 %count) {{
entry:
  switch i64 %count, label %several [ i64 0, label %nothing  i64 1, label %single ]
nothing:
  call void @Py_IncRef(ptr @_Py_NoneStruct)
  ret ptr @_Py_NoneStruct
single:
  %o = load ptr, ptr %objs
  ret ptr %o
several:
  %tuple = call ptr @PyTuple_New(i64 %count)
  %none = icmp eq ptr %tuple, null
  br i1 %none, label %fail, label %next
fail:
  call void @drop(ptr %objs, i64 0, i64 %count)
  ret ptr null
next:
  %i = phi i64 [ 0, %several ], [ %i1, %next ]
  %p = getelementptr ptr, ptr %objs, i64 %i
  %e = load ptr, ptr %p
  %rc = call i32 @PyTuple_SetItem(ptr %tuple, i64 %i, ptr %e)
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %count
  br i1 %more, label %next, label %done
done:
  ret ptr %tuple
}}

define internal ptr @run(ptr %self, ptr %argv, i64 %n, i1 %into) {{
entry:
  %block = getelementptr i8, ptr %self, i64 {BYTES_DATA}
{load_ir("nin", "%block", _N_IN, "i64")}{load_ir("nout", "%block", _N_OUT, "i64")}
{load_ir("nmade", "%block", _N_MADE, "i64")}{load_ir("nslots", "%block", _N_SLOTS, "i64")}
{load_ir("sizesoff", "%block", _SIZES, "i64")}{load_ir("kindsoff", "%block", _KINDS, "i64")}
{load_ir("widest", "%block", _WIDEST, "i64")}
  %sizes = getelementptr i8, ptr %block, i64 %sizesoff
  %kinds = getelementptr i8, ptr %block, i64 %kindsoff
  %given = select i1 %into, i64 %nout, i64 0
  %want = add i64 %nin, %given
  %right = icmp eq i64 %n, %want
  br i1 %right, label %frames, label %wrongcount
wrongcount:
  %ce = call ptr @program_count_error(i64 %want, i64 %n)
  ret ptr null
frames:
{rt_ir("T", RT_TYPE, "ptr")}  %room = add i64 %nslots, 1
  %frame = alloca i64, i64 %room, align 8
  %objs = alloca ptr, i64 %room, align 8
  %wide = add i64 %widest, 1
  %args = alloca i64, i64 %wide, align 8
  br label %targets
targets:
  %j = phi i64 [ 0, %frames ], [ %j1, %target ]
  %moret = icmp slt i64 %j, %given
  br i1 %moret, label %checkt, label %inputs
checkt:
  %tp = getelementptr ptr, ptr %argv, i64 %j
  %t = load ptr, ptr %tp
{_storage_ir("t", "%t", "room_t")}room_t:
  %j2 = shl i64 %j, 1
  %j21 = add i64 %j2, 1
  %needp = getelementptr i64, ptr %sizes, i64 %j21
  %need = load i64, ptr %needp
{_fits_ir("t", "%t", "%need", "target")}target:
  %tslot = getelementptr i64, ptr %frame, i64 %j
  store i64 %dt, ptr %tslot
  %j1 = add i64 %j, 1
  br label %targets
inputs:
  %i = phi i64 [ 0, %targets ], [ %i1, %input ]
  %morei = icmp slt i64 %i, %nin
  br i1 %morei, label %kind, label %allocate
kind:
  %kp = getelementptr i8, ptr %kinds, i64 %i
  %k = load i8, ptr %kp
  %ai = add i64 %i, %given
  %ap = getelementptr ptr, ptr %argv, i64 %ai
  %a = load ptr, ptr %ap
  %si = add i64 %i, %nout
  %slot = getelementptr i64, ptr %frame, i64 %si
  switch i8 %k, label %storage [ i8 102, label %real  i8 105, label %whole ]
storage:
{_storage_ir("a", "%a", "pointer")}pointer:
  store i64 %da, ptr %slot
  br label %input
real:
  %rok = call i1 @program_float(ptr %a, ptr %slot)
  br i1 %rok, label %input, label %fail
whole:
  %wok = call i1 @program_int(ptr %a, ptr %slot)
  br i1 %wok, label %input, label %fail
input:
  %i1 = add i64 %i, 1
  br label %inputs
allocate:
  %m = phi i64 [ %given, %inputs ], [ %m1, %made ]
  %morem = icmp slt i64 %m, %nmade
  br i1 %morem, label %size, label %derive
size:
  %m2 = shl i64 %m, 1
  %cp = getelementptr i64, ptr %sizes, i64 %m2
  %c = load i64, ptr %cp
  %bp = getelementptr i64, ptr %cp, i64 1
  %b = load i64, ptr %bp
{alloc_ir("o", "%c", "%b", "undo")}  br label %made
undo:
  call void @drop(ptr %objs, i64 %given, i64 %m)
  br label %fail
made:
  %op = getelementptr ptr, ptr %objs, i64 %m
  store ptr %o, ptr %op
{load_ir("optr", "%o", PTR, "i64")}  %isout = icmp slt i64 %m, %nout
  %shifted = add i64 %m, %nin
  %os = select i1 %isout, i64 %m, i64 %shifted
  %oslot = getelementptr i64, ptr %frame, i64 %os
  store i64 %optr, ptr %oslot
  %m1 = add i64 %m, 1
  br label %allocate
derive:
{load_ir("nderived", "%block", _N_DERIVED, "i64")}{load_ir("doff", "%block", _DERIVED, "i64")}
  br label %derived
derived:
  %q = phi i64 [ 0, %derive ], [ %q1, %put ]
  %moreq = icmp slt i64 %q, %nderived
  br i1 %moreq, label %one_d, label %work
one_d:
  %q24 = mul i64 %q, 24
  %qat = add i64 %doff, %q24
  %qp = getelementptr i8, ptr %block, i64 %qat
{load_ir("qslot", "%qp", 0, "i64")}{load_ir("qsource", "%qp", 8, "i64")}
{load_ir("qamount", "%qp", 16, "i64")}  %bare = icmp slt i64 %qsource, 0
  br i1 %bare, label %put, label %add_d
add_d:
  %qsp = getelementptr i64, ptr %frame, i64 %qsource
  %qbase = load i64, ptr %qsp
  br label %put
put:
  %qstart = phi i64 [ 0, %one_d ], [ %qbase, %add_d ]
  %qvalue = add i64 %qstart, %qamount
  %qtp = getelementptr i64, ptr %frame, i64 %qslot
  store i64 %qvalue, ptr %qtp
  %q1 = add i64 %q, 1
  br label %derived
work:
{_work_ir("call void @run_steps(ptr %block, ptr %frame, ptr %args)")}finish:
  call void @drop(ptr %objs, i64 %nout, i64 %nmade)
  %returned = select i1 %into, i64 0, i64 %nout
  %r = call ptr @result(ptr %objs, i64 %returned)
  ret ptr %r
fail:
  ret ptr null
}}

define ptr @program_launch(ptr %self, ptr %argv, i64 %n) {{
  %r = call ptr @run(ptr %self, ptr %argv, i64 %n, i1 false)
  ret ptr %r
}}
define ptr @program_into(ptr %self, ptr %argv, i64 %n) {{
  %r = call ptr @run(ptr %self, ptr %argv, i64 %n, i1 true)
  ret ptr %r
}}
{_WEIGHTS}"""


def _single_ir(kinds: str, into: bool) -> str:
    """Entry point of a program of one step, one output and no scratch, unrolled for `kinds`.

    The step's slots are 0, 1, 2...: the frame itself is the kernel's argument array.
    """
    first = 1 if into else 0
    count = len(kinds) + first
    lines = [f"  %a{i} = load ptr, ptr %p{i}\n" for i in range(count)]
    lines = [
        f"  %p{i} = getelementptr ptr, ptr %argv, i64 {i}\n{line}" for i, line in enumerate(lines)
    ]
    lines.append(rt_ir("T", RT_TYPE, "ptr"))
    storages = [i for i in range(count) if i < first or kinds[i - first] == "s"]
    scalars = [i for i in range(count) if i not in storages]
    for i in storages:
        lines.append(_storage_ir(str(i), f"%a{i}", f"good{i}") + f"good{i}:\n")
    slots = {i: i if into else i + 1 for i in range(count)}
    for i in scalars:
        call = "program_float" if kinds[i - first] == "f" else "program_int"
        lines.append(
            f"  %s{i} = getelementptr i64, ptr %frame, i64 {slots[i]}\n"
            f"  %c{i} = call i1 @{call}(ptr %a{i}, ptr %s{i})\n"
            f"  br i1 %c{i}, label %good{i}, label %fail, !prof !1\ngood{i}:\n"
        )
    for i in storages:
        lines.append(
            f"  %s{i} = getelementptr i64, ptr %frame, i64 {slots[i]}\n"
            f"  store i64 %d{i}, ptr %s{i}\n"
        )
    sizes = _STEPS + _STEP_BYTES
    lines.append(load_ir("bytes", "%block", sizes + 8, "i64"))
    if into:
        lines.append(_fits_ir("", "%a0", "%bytes", "work") + "work:\n")
        result = "  call void @Py_IncRef(ptr @_Py_NoneStruct)\n  ret ptr @_Py_NoneStruct\n"
    else:
        lines.append(
            load_ir("class", "%block", sizes, "i64")
            + alloc_ir("o", "%class", "%bytes", "fail")
            + load_ir("optr", "%o", PTR, "i64")
            + "  store i64 %optr, ptr %frame\n"
        )
        result = "  ret ptr %o\n"
    body = "".join(lines)
    return f"""
{DECLARATIONS}{_HELPERS}{_SHARED}
define ptr @entry(ptr %self, ptr %argv, i64 %n) {{
  %frame = alloca [{len(kinds) + 2} x i64], align 8
  %block = getelementptr i8, ptr %self, i64 {BYTES_DATA}
  %right = icmp eq i64 %n, {count}
  br i1 %right, label %begin, label %wrongcount, !prof !1
wrongcount:
  %ce = call ptr @program_count_error(i64 {count}, i64 %n)
  ret ptr null
fail:
  ret ptr null
begin:
{body}
  %step = getelementptr i8, ptr %block, i64 {_STEPS}
{_work_ir("call void @program_step(ptr %block, ptr %step, ptr %frame)")}finish:
{result}}}
{_WEIGHTS}"""


_core: dict[str, int] | None = None
_entries: dict[tuple[str, bool], int] = {}
_MOST_UNROLLED = 6


def _symbols() -> dict[str, int]:
    assert _native.native is not None
    return _native.native.symbols | {"lampion_parallel": pool.parallel_address()}


def _entry(program: Program, into: bool) -> int:
    """Address of the method definition that runs `program`, compiled on first need."""
    global _core
    if _core is None:
        helpers = [line.split("@")[1].split("(")[0] for line in _SHARED.split("\n") if line]
        _core = jit.compile_ir(_core_ir(), ["program_launch", "program_into", *helpers], _symbols())
    name = "into" if into else "launch"
    kinds = program.inputs if _is_single(program) else "*"
    key = (kinds, into)
    if key not in _entries:
        address = _core[f"program_{name}"]
        if kinds != "*":
            text = _single_ir(kinds, into)
            address = jit.compile_ir(text, ["entry"], _symbols() | _core)["entry"]
        _entries[key] = method_def(name, address)
    return _entries[key]


def _is_single(program: Program) -> bool:
    wanted = tuple(range(len(program.inputs) + 1))
    return (
        len(program.steps) == 1
        and len(program.outputs) == 1
        and not program.scratch
        and not program.derived
        and program.steps[0].slots == wanted
        and len(program.inputs) <= _MOST_UNROLLED
    )


def _native_functions(program: Program) -> tuple[Any, Any]:
    block = _pack(program)
    launch, into = _entry(program, False), _entry(program, True)
    keep = program.keep
    return builtin_of(launch, block, keep), builtin_of(into, block, keep)


# ---- the twin, through ctypes --------------------------------------------------------------------


def portable_functions(program: Program) -> tuple[Callable[..., Any], Callable[..., None]]:
    """``launch`` and ``into`` of `program` for storages in pure Python."""
    storage = portable.PyStorage
    empty = portable.empty
    n_out, n_in = len(program.outputs), len(program.inputs)
    calls = [
        (step, (ctypes.c_int64 * max(1, len(step.params)))(*map(_signed, step.params)))
        for step in program.steps
    ]

    def pointer(value: Any) -> int:
        if type(value) is not storage:
            raise TypeError(f"expected a CPU storage, not an object of {type(value)!r}")
        return int(value.ptr)

    convert = {"s": pointer, "f": _double_bits, "i": _int_bits}

    def run(frame: list[int]) -> None:
        for step, params in calls:
            args = (ctypes.c_int64 * max(1, len(step.slots)))(*(frame[i] for i in step.slots))
            pool.parallel_for(
                step.fn, ctypes.addressof(args), ctypes.addressof(params), step.units, step.grain
            )

    def start(inputs: tuple[Any, ...]) -> tuple[list[int], list[Any]]:
        frame = [convert[kind](value) for kind, value in zip(program.inputs, inputs, strict=True)]
        held = [empty(size) for size in program.scratch]
        return frame + [block.ptr for block in held], held

    def derive(frame: list[int]) -> list[int]:
        return frame + [amount if source < 0 else frame[source] + amount
                        for source, amount in program.derived]

    def check_count(want: int, got: int) -> None:
        if want != got:
            raise TypeError(f"this program takes {want} arguments, {got} were given")

    def launch(*inputs: Any) -> Any:
        check_count(n_in, len(inputs))
        frame, _held = start(inputs)
        made = tuple(empty(size) for size in program.outputs)
        run(derive([block.ptr for block in made] + frame))
        return made[0] if n_out == 1 else made or None

    def into(*arguments: Any) -> None:
        check_count(n_in + n_out, len(arguments))
        targets = arguments[:n_out]
        head = [pointer(target) for target in targets]
        for need, target in zip(program.outputs, targets, strict=True):
            if target.nbytes < need:
                raise ValueError(
                    f"an output of {need} bytes does not fit a storage of {target.nbytes} bytes"
                )
        frame, _held = start(arguments[n_out:])
        run(derive(head + frame))

    return launch, into


def _double_bits(value: Any) -> int:
    real = math.ldexp(value, 0)  # unlike float(), refuses a string
    return int(struct.unpack("<q", struct.pack("<d", real))[0])


def _int_bits(value: Any) -> int:
    if not hasattr(value, "__index__"):
        raise TypeError(f"'{type(value).__name__}' object cannot be interpreted as an integer")
    try:
        return _signed(value.__index__())
    except OverflowError:
        raise OverflowError("an integer argument does not fit 64 bits") from None
