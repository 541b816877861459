"""cummax and cummin along few long lines: two scans in a row, each of which is cut into parts.

The op's own kernel scans values and places together, which keeps one team of threads per line
busy. Alone, each is a scan that the schedule cuts, so that a single line fills the GPU. Imports
lampion's floors 0-2 and this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lampion.base import dtype as dt
from lampion.ir import expr as E
from lampion.ir.kernel import Program, Scan, Store
from lampion.ir.schedule import split
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.lowering import Nest, convert

from .launch import program_launch

if TYPE_CHECKING:
    from .driver import Device


def extreme(device: Device, call: OpCall) -> Launch | None:
    """The running extremes, then the last place so far that equals them; None where lines are too
    short or too many to be cut."""
    x, (values, places) = call.inputs[0], call.outputs
    if not x.ndim or x.dtype.kind == "c" or not x.numel:
        return None
    op, dims, acc = call.op.removeprefix("cum"), [call.dim % x.ndim], dt.opmath(x.dtype)
    first = Nest(f"{call.op}_values", x.shape, dims, compute=acc)
    o, a = first.output(values, values.strides), first.input(x)
    first.start()
    first.scan(op, a(), o)

    second = Nest(f"{call.op}_places", x.shape, dims, compute=acc)
    o, a, best = second.output(places, places.strides), second.input(x), second.input(values)
    second.start()
    v = second.typed(a())
    hit = E.eq(v, best())
    if v.dtype is not None and v.dtype.kind == "f":
        hit = hit | E.ne(v, v)
    place = second.typed(E.select(hit, second.position(), E.const(0, dt.int64)))
    assert o.offset is not None
    second.stage(Scan("at", "max", place),
                 Store(o.slot, o.offset, convert(E.ref("at", dt.int64), dt.int64)))
    program = Program((first.call((0, 2)), second.call((1, 2, 0))))
    if len(split(program, threads=True).calls) == len(program.calls):
        return None
    return program_launch(device, program, [m.span for m in call.outputs])
