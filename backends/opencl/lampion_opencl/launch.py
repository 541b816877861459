"""Launches: a generated Python function per program, with nothing left to decide.

A launch checks the kinds of its arguments, takes output buffers from their bins, sets every
argument of each kernel in two calls, and enqueues. Kernel objects keep neither values across
threads nor buffers alive, so all arguments are set each time. Imports this package only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pyopencl as cl
from pyopencl import _cl

from lampion.base import dtype as dt
from lampion.ir.kernel import KernelCall, Program
from lampion.ir.schedule import split
from lampion.runtime.arguments import input_kinds, refuse, whole
from lampion.runtime.backend import Launch, TextKernel

from .compiler import Bound, bind
from .errors import explain
from .memory import Storage

if TYPE_CHECKING:
    from .runtime import Device


# How numbers are packed, by dtype.
_LETTERS = {"float32": "f", "float64": "d", "int8": "b", "int16": "h", "int32": "i", "int64": "l",
            "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "l"}


class Kernels(NamedTuple):
    """What a launch is made of, for whoever joins launches: the kernel calls over slots (results,
    inputs, `scratch` of so many bytes), and its `into`."""

    calls: tuple[Any, ...]
    scratch: tuple[int, ...]
    into: Any


def real(value: Any) -> float:
    """A floating argument."""
    return float(value)


def program_launch(device: "Device", program: Program, outputs: Sequence[int]) -> Launch:
    """The Launch of a lowered op."""
    program = split(program, threads=not device.lanes)
    kinds = input_kinds(program, len(outputs))
    calls = [kernel_call(device, c) for c in program.calls]
    names = [c.kernel.name for c in program.calls]
    return make_launch(device, calls, kinds, outputs, program.scratch, names)


def kernel_call(device: "Device", c: KernelCall) -> tuple[Bound, list[Any], tuple[int, ...]]:
    """A generated kernel as `make_launch` takes it."""
    args = [("scalar" if a.kind == "scalar" else "buffer", a.dtype) for a in c.kernel.args]
    return bind(device, c.kernel, c.params), args, c.slots


def text_program(device: "Device", text: TextKernel, outputs: Sequence[int]) -> Launch:
    """The Launch of a kernel in OpenCL C: `__kernel void entry(__global results..., arguments...,
    long sizes...)`, run for every point of the grid, and beyond it where a group reaches so far.

    RuntimeError with the compiler's message, or if it takes another number of arguments.
    """
    # programs are kept by their text, and a text may hold several kernels
    compiled = device.build(f"{text.source}\n// {text.entry}\n", text.entry)
    takes, given = compiled.kernel().num_args, len(text.args) + len(text.sizes)
    if takes != given:
        raise RuntimeError(
            f"the kernel {text.entry!r} takes {takes} arguments, and its schema hands over "
            f"{given}: {', '.join(f'{d.name} {kind}' for kind, d in text.args)}"
            + f", {len(text.sizes)} sizes" * bool(text.sizes))
    group = text.group or (1,) * len(text.grid)
    items = tuple([-(-n // g) * g for n, g in zip(text.grid, group)])
    bound = Bound(compiled if 0 not in items else None, items, text.group or None, text.sizes)
    kinds = "".join("s" if kind == "memory" else "f" if d.kind == "f" else "i"
                    for kind, d in text.args[len(outputs):])
    made = make_launch(device, [(bound, text.args, range(len(text.args)))], kinds, outputs, (),
                       [text.entry])

    def into(*args: Any) -> None:
        """Results may lie anywhere in their memory: they are copied there."""
        results = made.launch(*args[len(outputs):])
        for target, result, n in zip(args, results if len(outputs) > 1 else (results,), outputs):
            copied(device, result, target, n)

    return Launch(made.launch, into, made.kernels, made.keep)


def compact(device: "Device", storage: Storage) -> Storage:
    """The bytes of a view in memory of their own."""
    made = device.pool.allocate(storage.nbytes)
    copied(device, storage, made, storage.nbytes)
    return made


def copied(device: "Device", source: Storage, target: Storage, nbytes: int) -> None:
    """Enqueue a copy."""
    if nbytes:
        cl.enqueue_copy(device.queue, target.buf, source.buf, byte_count=nbytes,
                        src_offset=source.offset, dst_offset=target.offset)


def make_launch(device: "Device", calls: Sequence[tuple[Bound, Sequence[Any], Sequence[int]]],
                kinds: str, outputs: Sequence[int], scratch: Sequence[int],
                names: Sequence[str]) -> Launch:
    """Generate `launch` and `into` for kernel calls.

    Each call is (bound program, [(kind, dtype)] per argument, program slots). Generated kernels
    take memory and byte offset of a "buffer", and a "scalar" as 8 bytes; those of other people the
    "memory" alone, which then must begin where the buffer does, and a "number" of its own size.
    """
    pool = device.pool
    space: dict[str, Any] = {
        "Storage": Storage, "table": device._local, "queue": device.commands, "pool": pool,
        "enqueue": _cl.enqueue_nd_range_kernel, "whole": whole, "real": real,
        "refuse": partial(refuse, Storage),
        "compact": partial(compact, device),
        "failure": lambda e: explain(e, f"running {', '.join(names)}", pool.holders()),
        "ClError": cl.Error, "kinds": kinds, "gate": device.gate}
    inputs = [f"i{k}" for k in range(len(kinds))]
    outs = [f"o{k}" for k in range(len(outputs))]
    temps = [f"w{k}" for k in range(len(scratch))]
    slots = outs + inputs + temps
    body = _run_lines(calls, slots, space)
    if device.gate is not None and body:
        body = _gated(calls, body)
    lines = [f"def launch({', '.join(inputs)}):", *_check(inputs, kinds)]
    for name, size in zip(outs, outputs):
        lines += _allocate(name, size, space, pool)
    for name, size in zip(temps, scratch):
        lines += _allocate(name, size, space, pool)
    result = outs[0] if len(outs) == 1 else f"({', '.join(outs)})"
    lines += [*body, f"    return {result}"]
    all_args = outs + inputs
    lines += [f"def into({', '.join(all_args)}):", *_check(all_args, "s" * len(outs) + kinds)]
    for name, size in zip(temps, scratch):
        lines += _allocate(name, size, space, pool)
    lines += body or ["    pass"]
    exec(compile("\n".join(lines), "<lampion opencl launch>", "exec"), space)
    foreign = any(kind in ("memory", "number") for _, args, _ in calls for kind, _ in args)
    keep = None if foreign else Kernels(tuple(calls), tuple(scratch), space["into"])
    return Launch(space["launch"], space["into"], names, keep)


def _check(names: Sequence[str], kinds: str) -> list[str]:
    tests = [f"type({n}) is not Storage" for n, kind in zip(names, kinds) if kind == "s"]
    lines = []
    if tests:
        full = f"({', '.join(names)},)"
        lines += [f"    if {' or '.join(tests)}:", f"        refuse({full}, {kinds!r})"]
    for n, kind in zip(names, kinds):
        if kind == "f":
            lines.append(f"    {n} = real({n})")
        elif kind == "i":
            lines.append(f"    {n} = whole({n})")
    return lines


def _allocate(name: str, nbytes: int, space: dict[str, Any], pool: Any) -> list[str]:
    """Lines of `pool.allocate`, in place."""
    b = pool.bin(nbytes)
    label = f"bin_{b.size}"
    space[label], space[f"pop_{b.size}"], space["grow"] = b, b.free.pop, pool.grow
    return ["    try:", f"        buf = pop_{b.size}()", "    except IndexError:",
            f"        buf = grow({label})",
            f"    {name} = Storage(buf, {nbytes}, {label})",
            f"    pool.active = a = pool.active + {b.size}",
            "    if a > pool.peak:", "        pool.peak = a"]


def _run_lines(calls: Sequence[Any], slots: Sequence[str], space: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for n, (bound, args, where) in enumerate(calls):
        if bound.compiled is None:
            continue
        space[f"c{n}"] = bound.compiled
        space[f"g{n}"], space[f"l{n}"] = bound.items, bound.group
        buffers, numbers, at = [], [], 0
        for (kind, d), slot in zip(args, where):
            name = slots[slot]
            if kind == "buffer":
                buffers.append(f"{at}, {name}.buf")
                numbers.append(f"{at + 1}, b'l', {name}.offset")
                at += 2
            elif kind == "memory":
                lines += [f"    if {name}.offset:", f"        {name} = compact({name})"]
                buffers.append(f"{at}, {name}.buf")
                at += 1
            elif kind == "number":
                numbers.append(f"{at}, b'{_LETTERS[d.name]}', {name}")
                at += 1
            else:
                numbers.append(f"{at}, {letter(bound, d)!r}, {name}")
                at += 1
        numbers += [f"{at + k}, b'l', {v}" for k, v in enumerate(bound.integers)]
        lines += ["    try:", f"        k = table.table[c{n}]", "    except KeyError:",
                  f"        k = c{n}.kernel()"]
        lines += ["    try:"]
        if buffers:
            lines.append(f"        k._set_arg_multi(({', '.join(buffers)},))")
        if numbers:
            lines.append(f"        k._set_arg_buf_pack_multi(({', '.join(numbers)},))")
        lines += [f"        enqueue(queue, k, g{n}, l{n})", "    except ClError as e:",
                  "        raise failure(e) from e"]
    return lines


def _gated(calls: Sequence[Any], body: list[str]) -> list[str]:
    """`body` around which the gate holds small launches and lets the others go."""
    bounds = [bound for bound, _, _ in calls if bound.compiled is not None]
    if any(b.group is None or math.prod(b.items) > math.prod(b.group) for b in bounds):
        # more than one group
        return [*body, "    if gate.event is not None:", "        gate.release()"]
    return ["    room = gate.room", f"    gate.room = room - {len(bounds)}", "    if room <= 0:",
            "        gate.turn()", *body]


def letter(bound: Bound, d: Any) -> bytes:
    """How a generated kernel takes a scalar."""
    if d is dt.float64:
        assert bound.compiled is not None
        return b"d" if bound.compiled.device.doubles else b"f"
    return b"l"
