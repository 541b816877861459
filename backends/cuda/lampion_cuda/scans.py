"""Running reductions along few long lines: totals of parts, their running totals, parts again.

Where there are many lines the generated kernels serve: a team of threads per line, or a thread
per column. Here every line is cut, so that a single one keeps the whole GPU busy. Three generated
kernels: the total of each part, the running totals of the parts of a line, and the running totals
within each part, begun with what came before it. How lines are cut depends on shapes alone, so
results are reproducible. Imports lampion's floors 0-2 and this package.

Source: G. Blelloch, Prefix Sums and Their Applications (1990), section 1.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.base.meta import Meta, contiguous_strides, meta
from lampion.ir import expr as E
from lampion.ir.kernel import KernelCall, Program, Scan, Store
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.lowering import Nest, convert

from .launch import program_launch

if TYPE_CHECKING:
    from .driver import Device

LEAST = 8192         # points of a line from which on it is cut
PART = 2048          # points of a part, at least, where a team walks along the line
COLUMN_PART = 64     # and where neighbouring threads walk down neighbouring lines
BUSY = 8             # teams per multiprocessor that keep a GPU busy
WORKERS = 1 << 16    # threads that do


def cut(device: Device, x: Meta, d: int) -> tuple[int, int] | None:
    """(parts, points of each) of the lines along `d`, or None if they are better left whole."""
    n = x.shape[d]
    if not x.numel or n < LEAST:
        return None
    lines = x.numel // n
    columns = x.strides[d] != 1 and x.shape[-1] > 1 and x.strides[-1] == 1
    wanted, least = (WORKERS, COLUMN_PART) if columns else (BUSY * device.units, PART)
    parts = min(-(-wanted // lines), n // least)
    if parts < 4:
        return None
    span = -(-n // parts)
    span = span if columns else -(-span // 256) * 256
    return -(-n // span), span


class Cut:
    """The kernels of a scan of `op` in `acc` along dim `d`; `slots` of a program are handed out by
    `scratch`, after the op's own."""

    def __init__(self, call: OpCall, d: int, parts: int, span: int) -> None:
        self.x: Meta = call.inputs[0]
        self.d, self.parts, self.span = d, parts, span
        self.shape = (*self.x.shape[:d], parts, span, *self.x.shape[d + 1:])
        self.first = len(call.outputs) + len(call.inputs)
        self.sizes: list[int] = []
        self.calls: list[KernelCall] = []

    def scratch(self, d: dtype) -> tuple[int, Meta]:
        """(slot, meta) of a buffer with an element for every part of every line."""
        shape = (*self.x.shape[:self.d], self.parts, *self.x.shape[self.d + 1:])
        m = meta(d, shape, None, self.x.device)
        self.sizes.append(m.nbytes)
        return self.first + len(self.sizes) - 1, m

    def strides(self, m: Meta) -> tuple[int, ...]:
        """Strides over (.., parts, span, ..) of a tensor of the input's shape."""
        s = m.strides
        return (*s[:self.d], s[self.d] * self.span, *s[self.d:])

    def nest(self, name: str, acc: dtype) -> Nest:
        return Nest(f"scan_{name}", self.shape, [self.d + 1], compute=acc, merge=False)

    def inside(self, n: Nest) -> tuple[Any, Any]:
        """(position within the line, whether it is there)."""
        at = n.coord(self.d) * n.of(self.span) + n.coord(self.d + 1)
        return n.typed(at), n.typed(E.op("lt", at, n.of(self.x.shape[self.d])))

    def run(self, op: str, acc: dtype, sources: list[tuple[int, Meta]], out: tuple[int, Meta],
            value: Callable[..., Any]) -> None:
        """Append the kernels of one scan: `value(nest, position, loads, inside)` is what is
        scanned, with the identity where `inside` does not hold."""
        d = self.d
        totals, totals_meta = self.scratch(acc)
        n = self.nest("totals", acc)
        line = contiguous_strides(totals_meta.shape)
        o = n.output(totals_meta, (*line[:d + 1], 0, *line[d + 1:]))
        loads = [n.input(m, self.strides(m)) for _, m in sources]
        n.start()
        at, inside = self.inside(n)
        n.store(o, n.reduce(op, value(n, at, loads, inside)), inner=False)
        self.calls.append(n.call((totals, *(s for s, _ in sources))))

        carries, carries_meta = self.scratch(acc)
        n = Nest("scan_parts", totals_meta.shape, [d], compute=acc)
        o, a = n.output(carries_meta, line), n.input(totals_meta, line)
        n.start()
        n.scan(op, a(), o)
        self.calls.append(n.call((carries, totals)))

        n = self.nest("within", acc)
        o = n.output(out[1], self.strides(out[1]))
        loads = [n.input(m, self.strides(m)) for _, m in sources]
        c = n.input(carries_meta, (*line[:d + 1], 0, *line[d + 1:]))
        n.start()
        at, inside = self.inside(n)
        begins = E.eq(n.coord(d + 1), E.const(0, dt.int64)) & (n.coord(d) > 0)
        before = c.at(c.offset - n.params.stride(line[d]), mask=n.typed(begins),
                      other=identity(op, acc))
        v = combine(op, before, n.typed(value(n, at, loads, inside)))
        name = n._ref()
        n.stage(Scan(name, op, n.typed(v)),
                Store(o.slot, o.offset, convert(E.ref(name, acc), out[1].dtype), inside))
        self.calls.append(n.call((out[0], *(s for s, _ in sources), carries)))

    def launch(self, device: Device, call: OpCall) -> Launch:
        """The Launch of all of it."""
        return program_launch(device, Program(tuple(self.calls), tuple(self.sizes)),
                              [m.span for m in call.outputs])


def identity(op: str, d: dtype) -> Any:
    """The number that an op leaves alone."""
    if op in ("sum", "prod"):
        return int(op == "prod")
    if d.kind == "f":
        return -math.inf if op == "max" else math.inf
    bits = 8 * d.itemsize
    if d.kind in "ub":
        return 0 if op == "max" else (1 << bits) - 1
    return -(1 << bits - 1) if op == "max" else (1 << bits - 1) - 1


def combine(op: str, a: Any, b: Any) -> Any:
    """a op b, NaN winning."""
    names = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum"}
    return E.op(names[op], a, b)


def _place(call: OpCall) -> int:
    x = call.inputs[0]
    return call.dim % x.ndim if x.ndim else 0


def total(device: Device, call: OpCall) -> Launch | None:
    """cumsum, cumprod."""
    x, out = call.inputs[0], call.outputs[0]
    acc, d = dt.opmath(out.dtype), _place(call)
    parts = cut(device, x, d) if x.ndim and acc.kind in "fiu" and x.dtype.kind != "c" else None
    if parts is None:
        return None
    op = "sum" if call.op == "cumsum" else "prod"
    c = Cut(call, d, *parts)

    def value(n: Nest, at: Any, loads: list[Any], inside: Any) -> Any:
        return E.select(inside, convert(loads[0](mask=inside, other=0), acc),
                        E.const(identity(op, acc), acc))

    c.run(op, acc, [(1, x)], (0, out), value)
    return c.launch(device, call)


def extreme(device: Device, call: OpCall) -> Launch | None:
    """cummax, cummin: the running extremes, then the last place so far that equals them."""
    x, (values, places) = call.inputs[0], call.outputs
    acc, d = dt.opmath(x.dtype), _place(call)
    parts = cut(device, x, d) if x.ndim and acc.kind in "fiu" else None
    if parts is None:
        return None
    op = "max" if call.op == "cummax" else "min"
    c = Cut(call, d, *parts)

    def value(n: Nest, at: Any, loads: list[Any], inside: Any) -> Any:
        return E.select(inside, convert(loads[0](mask=inside, other=0), acc),
                        E.const(identity(op, acc), acc))

    def place(n: Nest, at: Any, loads: list[Any], inside: Any) -> Any:
        v, best = (convert(a(mask=inside, other=0), acc) for a in loads)
        hit = E.eq(v, best)
        if acc.kind == "f":
            hit = hit | E.ne(v, v)
        return E.select(inside & hit, at, E.const(0, dt.int64))

    c.run(op, acc, [(2, x)], (0, values), value)
    c.run("max", dt.int64, [(2, x), (0, values)], (1, places), place)
    return c.launch(device, call)
