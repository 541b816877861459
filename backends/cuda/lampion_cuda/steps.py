"""Calls that are several steps over memory: of vendor libraries, generated copies and kernels.

Imports this package and lampion's floors 0-2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lampion.base import dtype as dt
from lampion.base.meta import Meta
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.lowering import Nest

from .handwritten import kernel
from .launch import make_launch, make_native, program_launch

if TYPE_CHECKING:
    from .driver import Device


class Array(NamedTuple):
    """A tensor in a slot of the call: outputs first, then inputs, then scratch buffers."""

    slot: int
    meta: Meta


class Steps:
    """Collects the steps of one call. Every step is called as step(stream, storages by slot)."""

    def __init__(self, device: Device, call: OpCall) -> None:
        self.device = device
        self.outputs = [Array(k, m) for k, m in enumerate(call.outputs)]
        self.inputs = [Array(len(self.outputs) + k, m) for k, m in enumerate(call.inputs)]
        self.scratch: list[int] = []
        self.steps: list[Callable[[Any, Sequence[Any]], None]] = []

    def buffer(self, nbytes: int) -> int:
        """The slot of a scratch buffer."""
        self.scratch.append(nbytes)
        return len(self.outputs) + len(self.inputs) + len(self.scratch) - 1

    def copy(self, to: Array, of: Array) -> None:
        """Copy, converting the dtype; `of` is broadcast."""
        n = Nest("copy_strided", to.meta.shape, compute=dt.opmath(to.meta.dtype))
        o, a = n.output(to.meta, to.meta.strides), n.input(of.meta)
        n.start()
        n.store(o, a())
        run = program_launch(self.device, n.program(), ()).into
        self.steps.append(lambda stream, s: run(s[to.slot], s[of.slot]))

    def kernel(self, name: str, text: str, count: int, slots: Sequence[int],
               integers: Sequence[int], number: float | None = None, **holes: Any) -> None:
        """A hand-written kernel of `count` threads. Its parameters: the addresses of the slots, the
        integers, and, if given, a number (double)."""
        if not count:
            return
        bound, args, _ = kernel(self.device, name, text, -(-count // 256), 256,
                                range(len(slots)), () if number is not None else integers, **holes)
        where, kinds = tuple(slots), "s" * len(slots)
        if number is None:
            run = make_launch(self.device, [(bound, args, tuple(range(len(slots))))], kinds, [], [],
                              [name]).into
            self.steps.append(lambda stream, s: run(*[s[k] for k in where]))
            return
        numbers = (*integers, number)
        args = [*args, *[("scalar", dt.int64)] * len(integers), ("scalar", dt.float64)]
        run = make_launch(self.device, [(bound, args, tuple(range(len(args))))],
                          kinds + "i" * len(integers) + "f", [], [], [name]).into
        self.steps.append(lambda stream, s: run(*[s[k] for k in where], *numbers))

    def launch(self, name: str) -> Launch:
        """The Launch of all steps."""
        steps = tuple(self.steps)

        def run(stream: Any, *slots: Any) -> None:
            for step in steps:
                step(stream, slots)

        return make_native(self.device, run, "s" * len(self.inputs),
                           [a.meta.span for a in self.outputs], self.scratch, [name], steps)
