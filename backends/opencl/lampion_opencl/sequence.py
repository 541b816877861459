"""Many launches as one function: what a compiled graph runs on this backend.

A launch sets all arguments of its kernels each time, because these are shared. A sequence has
kernel objects of its own, whose sizes, numbers and memory stay as they were set: a call compares
the memory that it was given with that of the call before, sets the arguments that changed, and
enqueues one kernel after the other. Launches that are more than kernels (a copy of results) stay
calls between two such stretches. Imports this package and lampion's floors 0-2.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyopencl as cl
from pyopencl import _cl

from lampion.runtime.arguments import refuse, whole
from lampion.runtime.backend import Launch

from .errors import FORKED, explain, refuse_fork
from .launch import Kernels, letter, real
from .memory import Storage

if TYPE_CHECKING:
    from .runtime import Device

ALIGN = 256  # bytes between the scratch of a launch's parts

_CONVERT: dict[str, Callable[[Any], Any]] = {"f": real, "i": whole}

Part = tuple[Launch, Sequence[tuple[int, int]]]


def sequence(device: "Device", parts: Sequence[Part], kinds: str,
             constants: dict[int, Any]) -> Callable[..., None]:
    """See `Backend.sequence`."""
    stretches: list[Any] = []
    for part in parts:
        keep = part[0].keep
        if type(keep) is not Kernels or keep.into is not part[0].into:
            stretches.append(part)
        elif stretches and type(stretches[-1]) is list:
            stretches[-1].append(part)
        else:
            stretches.append([part])
    runs = [_Stretch(device, s, kinds, constants).run if type(s) is list
            else _called(s, kinds, constants) for s in stretches]
    given = [k for k in range(len(kinds)) if k not in constants]
    if len(runs) == 1:
        only = runs[0]
        return lambda *slots: only(dict(zip(given, slots)))

    def several(*slots: Any) -> None:
        table = dict(zip(given, slots))
        for run in runs:
            run(table)

    return several


def _called(part: Part, kinds: str, constants: dict[int, Any]) -> Callable[[Any], None]:
    """A launch that is called as it is."""
    into, where = part[0].into, tuple(part[1])

    def run(slots: dict[int, Any]) -> None:
        values = [(slots[k] if k in slots else constants[k], at) for k, at in where]
        into(*[x.view(at) if at else x for x, at in values])

    return run


class _Stretch:
    """Kernels one after the other, and where the memory and numbers of each slot go."""

    def __init__(self, device: "Device", parts: Sequence[Part], kinds: str,
                 constants: dict[int, Any]) -> None:
        self.device, self.lock = device, threading.Lock()
        self.steps: list[Any] = []
        self.held = list(constants.values())  # a kernel does not keep its memory alive
        self.names: list[str] = []
        self.large = False
        self.room = 0
        # by slot: (kernel, index of the argument, bytes from the slot's start) or (.., letter)
        self.memory: dict[int, list[tuple[Any, int, int]]] = {}
        self.numbers: dict[int, list[tuple[Any, int, bytes]]] = {}
        self.convert = {k: _CONVERT[kind] for k, kind in enumerate(kinds) if kind != "s"}
        self.last: dict[int, Any] = {}
        for launch, where in parts:
            self._add(launch, list(where), kinds, constants)
        if self.room:
            self.memory.setdefault(-1, [])

    def _add(self, launch: Launch, where: list[tuple[int, int]], kinds: str,
             constants: dict[int, Any]) -> None:
        keep = launch.keep
        at = 0
        for n in keep.scratch:  # the queue runs in order: all launches may have the same
            where.append((-1, at))
            at += -(-n // ALIGN) * ALIGN
        self.room = max(self.room, at)
        for bound, args, slots in keep.calls:
            if bound.compiled is None:
                continue
            kernel = cl.Kernel(bound.compiled.program, bound.compiled.name)
            index = 0
            for (kind, d), s in zip(args, slots):
                slot, offset = where[s]
                if kind == "buffer":
                    if slot in constants:
                        _set_memory(kernel, index, constants[slot], offset)
                    else:
                        self.memory.setdefault(slot, []).append((kernel, index, offset))
                    index += 2
                    continue
                code = letter(bound, d)
                if slot in constants:
                    value = _CONVERT[kinds[slot]](constants[slot])
                    kernel._set_arg_buf_pack_multi((index, code, value))
                else:
                    self.numbers.setdefault(slot, []).append((kernel, index, code))
                index += 1
            for k, v in enumerate(bound.integers):
                kernel._set_arg_buf_pack_multi((index + k, b"l", v))
            self.steps.append((kernel, bound.items, bound.group))
            self.names.append(bound.compiled.name)
            self.large |= bound.group is None or any(
                n > g for n, g in zip(bound.items, bound.group))

    def run(self, slots: dict[int, Any]) -> None:
        """Enqueue everything with these storages and numbers."""
        if FORKED:
            refuse_fork()
        device, last = self.device, self.last
        if self.room:
            slots[-1] = device.pool.allocate(self.room)
        gate, queue, enqueue = device.gate, device.commands, _cl.enqueue_nd_range_kernel
        with self.lock:
            try:
                for slot, places in self.memory.items():
                    s = slots[slot]
                    if type(s) is not Storage:
                        refuse(Storage, (s,), "s")
                    was = last.get(slot)
                    if was is None or was[0] is not s.buf or was[1] != s.offset:
                        last[slot] = None  # whatever happens in between
                        for kernel, index, offset in places:
                            _set_memory(kernel, index, s, offset)
                        last[slot] = s.buf, s.offset
                for slot, uses in self.numbers.items():
                    value = self.convert[slot](slots[slot])
                    for kernel, index, code in uses:
                        kernel._set_arg_buf_pack_multi((index, code, value))
                if gate is not None:
                    if gate.event is None or gate.room <= 0:
                        gate.turn()  # the driver's threads are woken once
                    gate.room -= len(self.steps)
                for kernel, items, group in self.steps:
                    enqueue(queue, kernel, items, group)
            except cl.Error as e:
                raise explain(e, f"running {', '.join(dict.fromkeys(self.names))}",
                              device.pool.holders()) from e
            finally:
                if gate is not None and self.large:
                    gate.release()


def _set_memory(kernel: Any, index: int, storage: Any, offset: int) -> None:
    kernel._set_arg_multi((index, storage.buf))
    kernel._set_arg_buf_pack_multi((index + 1, b"l", storage.offset + offset))
