"""Launches: a generated Python function per program, with nothing left to decide.

A launch checks the kinds of its arguments, takes output buffers from the current stream's bins,
packs the arguments of each kernel into a prepared block and calls the driver. Blocks are taken
from a list and put back, so threads never share one. Imports this package and lampion's floors
0-2.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from lampion.base import dtype as dt
from lampion.ir.kernel import KernelCall, Program, Scatter
from lampion.ir.schedule import split
from lampion.runtime.arguments import input_kinds, refuse, whole
from lampion.runtime.backend import Launch, TextKernel

from .compiler import Bound, bind, build
from .errors import INVALID_CONTEXT, INVALID_HANDLE, explain
from .memory import Storage, round_size

if TYPE_CHECKING:
    from .driver import Device

SYNC = os.environ.get("LAMPION_CUDA_SYNC", "") not in ("", "0")


def program_launch(device: Device, program: Program, outputs: Sequence[int]) -> Launch:
    """The Launch of a lowered op."""
    program = split(program, threads=True)
    kinds = input_kinds(program, len(outputs))
    calls, scratch = [], list(program.scratch)
    for c in program.calls:
        made = None
        if any(isinstance(x, Scatter) for stage in c.kernel.stages for x in stage.body):
            from .scatter import sorted_calls

            made = sorted_calls(device, c, outputs, len(outputs) + len(kinds) + len(scratch))
        if made is None:
            calls.append(kernel_call(device, c))
        else:
            calls += made[0]
            scratch += made[1]
    names = [c.kernel.name for c in program.calls]
    return make_launch(device, calls, kinds, outputs, scratch, names)


def kernel_call(device: Device, c: KernelCall) -> tuple[Bound, list[Any], tuple[int, ...]]:
    """A generated kernel as `make_launch` takes it."""
    args = [("scalar" if a.kind == "scalar" else "buffer", a.dtype) for a in c.kernel.args]
    return bind(device, c.kernel, c.params), args, c.slots


class Made(NamedTuple):
    """What `Launch.keep` is here. `into` enqueues and does nothing else, so it may be captured.

    `calls`: its kernels as `make_launch` takes them; None if a function of Python enqueues.
    `keep`: what must live as long.
    """

    into: Callable[..., None]
    calls: Sequence[tuple[Bound, Sequence[Any], Sequence[int]]] | None
    keep: Any


class Block:
    """Argument memory for one kernel launch: values in `values`, addresses of them in order at
    `table` (what the driver wants)."""

    __slots__ = ("values", "table", "_pointers")

    def __init__(self, layout: struct.Struct, offsets: Sequence[int]) -> None:
        self.values = ctypes.create_string_buffer(max(layout.size, 1))
        base = ctypes.addressof(self.values)
        self._pointers = (ctypes.c_void_p * max(len(offsets), 1))(*[base + o for o in offsets])
        self.table = ctypes.addressof(self._pointers)


def argument_layout(letters: Sequence[str]) -> tuple[struct.Struct, list[int]]:
    """The packed layout of arguments (struct letters, 8 bytes each) and the offset of each."""
    return struct.Struct("=" + "".join(letters)), [8 * k for k in range(len(letters))]


def failed(device: Device, code: Any, bound: Bound, block: Block, names: Sequence[str]) -> None:
    """After a launch that the driver refused: activate the GPU in this thread and try again, as a
    thread's first launch needs, or raise."""
    number = int(code)
    stream = device.current.stream
    if number in (INVALID_CONTEXT, INVALID_HANDLE):
        device.activate()
        assert bound.compiled is not None
        number = int(device.drv.cuLaunchKernel(
            bound.compiled.function, *bound.grid, *bound.block, bound.shared, stream.cu,
            block.table, 0)[0])
    if number:
        sizes = f"{bound.grid} blocks of {bound.block} threads"
        raise explain(number, f"launching {', '.join(names)} with {sizes} on {device.where}",
                      device.pool.holders() if number == 2 else "")


def synchronized(device: Device, names: Sequence[str]) -> None:
    """Wait for a launch, so that its fault is reported here (LAMPION_CUDA_SYNC=1)."""
    if device.current.stream.capture is not None:
        return  # nothing runs before the replay
    code = device.drv.cuStreamSynchronize(device.current.stream.cu)[0]
    if code:
        raise explain(code, f"running {', '.join(names)} on {device.where}")


# How numbers are packed, by dtype: 8 bytes each.
_LETTERS = {"float32": "f4x", "float64": "d", "int8": "b7x", "int16": "h6x", "int32": "i4x",
            "int64": "q", "uint8": "B7x", "uint16": "H6x", "uint32": "I4x", "uint64": "q"}


def text_program(device: Device, text: TextKernel, outputs: Sequence[int]) -> Launch:
    """The Launch of a kernel in CUDA C: `extern "C" __global__ void entry(results..., arguments...,
    long long sizes...)`, run for every point of the grid, and beyond it to the end of a block.

    RuntimeError with the compiler's message if it does not build.
    """
    # kernels are kept by their text, and a text may hold several
    compiled = build(device, f"{text.source}\n// {text.entry}\n", text.entry)
    group = text.group or ((256,), (16, 16), (8, 8, 4))[len(text.grid) - 1]
    blocks = [-(-n // g) for n, g in zip(text.grid, group)]
    rest = (1,) * (3 - len(blocks))
    bound = Bound(compiled if 0 not in blocks else None, (*blocks, *rest), (*group, *rest), 0,
                  text.sizes)
    kinds = "".join("s" if kind == "memory" else "f" if d.kind == "f" else "i"
                    for kind, d in text.args[len(outputs):])
    return make_launch(device, [(bound, text.args, range(len(text.args)))], kinds, outputs, (),
                       [text.entry])


def make_launch(device: Device, calls: Sequence[tuple[Bound, Sequence[Any], Sequence[int]]],
                kinds: str, outputs: Sequence[int], scratch: Sequence[int],
                names: Sequence[str]) -> Launch:
    """Generate `launch` and `into` for kernel calls.

    Each call is (bound kernel, [("buffer" | "address" | "scalar", dtype)] per argument, program
    slots). Generated kernels take address and byte offset of a "buffer"; hand-written ones take
    one address, offset included, of an "address" or "memory". Numbers are passed as 8 bytes, a
    "number" in the size of its dtype.
    """
    slots, space, inputs, outs, temps = _frame(device, kinds, outputs, scratch, names)
    body = _run_lines(calls, slots, space)
    return _assemble(device, space, kinds, inputs, outs, temps, outputs, scratch, body, names,
                     calls, None)


def make_native(device: Device, run: Callable[..., None], kinds: str, outputs: Sequence[int],
                scratch: Sequence[int], names: Sequence[str], keep: Any = None) -> Launch:
    """A Launch around a function: `run(stream, *slots)` gets the current Stream, then outputs,
    inputs and scratch (Storages or numbers) in program order, and enqueues."""
    slots, space, inputs, outs, temps = _frame(device, kinds, outputs, scratch, names)
    space["run"] = run
    body = [f"    run(local.stream, {', '.join(slots)})"]
    if device.where.index is not None:  # one of several: libraries ask which one is active
        body.insert(0, "    dev.activate()")
    if SYNC:
        body.append("    sync(dev, names)")
    return _assemble(device, space, kinds, inputs, outs, temps, outputs, scratch, body, names,
                     None, keep)


def _frame(device: Device, kinds: str, outputs: Sequence[int], scratch: Sequence[int],
           names: Sequence[str]) -> tuple[list[str], dict[str, Any], list[str], list[str],
                                          list[str]]:
    inputs = [f"i{k}" for k in range(len(kinds))]
    outs = [f"o{k}" for k in range(len(outputs))]
    temps = [f"w{k}" for k in range(len(scratch))]
    space: dict[str, Any] = {
        "Storage": Storage, "pool": device.pool, "grow": device.pool.grow, "dev": device,
        "local": device.current, "cu_launch": device.drv.cuLaunchKernel, "whole": whole,
        "refuse": partial(refuse, Storage), "failed": failed, "sync": synchronized,
        "names": tuple(names)}
    return outs + inputs + temps, space, inputs, outs, temps


def _assemble(device: Device, space: dict[str, Any], kinds: str, inputs: list[str],
              outs: list[str], temps: list[str], outputs: Sequence[int], scratch: Sequence[int],
              body: list[str], names: Sequence[str], calls: Any, keep: Any) -> Launch:
    made = [(n, s) for n, s in zip(outs + temps, [*outputs, *scratch])]
    lines = [f"def launch({', '.join(inputs)}):", *_check(inputs, kinds), "    s = local.stream"]
    for name, size in made:
        lines += _allocate(name, size)
    result = outs[0] if len(outs) == 1 else f"({', '.join(outs)})"
    lines += [*body, f"    return {result}"]
    arguments = outs + inputs
    lines += [f"def into({', '.join(arguments)}):", *_check(arguments, "s" * len(outs) + kinds),
              "    s = local.stream"]
    for name, size in made[len(outs):]:
        lines += _allocate(name, size)
    lines += body
    exec(compile("\n".join(lines), "<lampion cuda launch>", "exec"), space)
    return Launch(space["launch"], space["into"], names, Made(space["into"], calls, keep))


def _check(names: Sequence[str], kinds: str) -> list[str]:
    tests = [f"type({n}) is not Storage" for n, kind in zip(names, kinds) if kind == "s"]
    lines = []
    if tests:
        full = f"({', '.join(names)},)"
        lines += [f"    if {' or '.join(tests)}:", f"        refuse({full}, {kinds!r})"]
    for n, kind in zip(names, kinds):
        if kind == "f":
            lines.append(f"    {n} = float({n})")
        elif kind == "i":
            lines.append(f"    {n} = whole({n})")
    return lines


def _allocate(name: str, nbytes: int) -> list[str]:
    """Lines of `pool.allocate`, in place."""
    size = round_size(nbytes)
    return ["    try:", f"        b = s.bins[{size}]", "        buf = b.free.pop()",
            "    except LookupError:", f"        b, buf = grow(s, {size})",
            f"    {name} = Storage(buf, {nbytes}, b)",
            f"    pool.active = a = pool.active + {size}",
            "    if a > pool.peak:", "        pool.peak = a"]


def _run_lines(calls: Sequence[Any], slots: Sequence[str], space: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for n, (bound, args, where) in enumerate(calls):
        if bound.compiled is None:
            continue
        found = words(bound, args, where)
        texts = {"buffer": "{}.buf", "offset": "{}.offset", "address": "{0}.buf + {0}.offset",
                 "number": "{}"}
        values = [str(x) if what == "fixed" else texts[what].format(slots[x])
                  for _, what, x in found]
        layout, offsets = argument_layout([letter for letter, _, _ in found])
        space[f"free{n}"] = free = [Block(layout, offsets)]
        space[f"block{n}"] = lambda layout=layout, offsets=offsets: Block(layout, offsets)
        space[f"pop{n}"], space[f"push{n}"] = free.pop, free.append
        space[f"pack{n}"], space[f"f{n}"] = layout.pack_into, bound.compiled.function
        space[f"bound{n}"] = bound
        shape = ", ".join(map(str, (*bound.grid, *bound.block, bound.shared)))
        lines += ["    try:", f"        k = pop{n}()", "    except IndexError:",
                  f"        k = block{n}()",
                  f"    pack{n}({', '.join(['k.values', '0', *values])})",
                  f"    e = cu_launch(f{n}, {shape}, s.cu, k.table, 0)[0]",
                  "    if e:", f"        failed(dev, e, bound{n}, k, names)",
                  f"    push{n}(k)"]
        if SYNC:
            lines.append("    sync(dev, names)")
    return lines


def words(bound: Bound, args: Sequence[Any], where: Sequence[int]) -> list[tuple[str, str, int]]:
    """The words of a kernel's arguments: (struct letters, what it is, whose): the address of a
    slot's "buffer" and its "offset", an "address", which is both, a "number", or, with its value,
    what is "fixed"."""
    found = []
    for (kind, d), slot in zip(args, where):
        if kind == "buffer":
            found += [("q", "buffer", slot), ("q", "offset", slot)]
        elif kind in ("address", "memory"):
            found.append(("q", "address", slot))
        else:
            letter = _LETTERS[d.name] if kind == "number" else "d" if d is dt.float64 else "q"
            found.append((letter, "number", slot))
    return found + [("q", "fixed", n) for n in bound.integers]
