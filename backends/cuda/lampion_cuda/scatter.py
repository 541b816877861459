"""Sums by index whose points are many: sorted by destination, then added up in order.

The generated kernel for scatters that may collide looks through all points again and again (see
`lampion.ir.cfamily_threads_scatter`), which takes long where there are many. Here a kernel writes
down every point's destination, a stable radix sort brings equal ones together, and a second kernel
adds up the values of neighbours, in the order of the sort, which is that of the points. Threads
take the same number of points each, however long the runs of one destination are: runs that reach
beyond a thread are put together from the parts' sums, in their order, within a block by shared
memory and across blocks by a last kernel. A sum thus depends on the values alone, not on the run,
the GPU or the other destinations' counts.

Imports lampion.ir and this package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lampion.base import dtype as dt
from lampion.ir import cfamily_helpers as helpers
from lampion.ir import cfamily_lanes as lanes
from lampion.ir.cfamily import Val, assemble
from lampion.ir.cfamily_packed import ThreadPrinter, fits
from lampion.ir.cfamily_threads import choose
from lampion.ir.cfamily_threads_scatter import features, scatter_of
from lampion.ir.kernel import Arg, Kernel, KernelCall, coefficient
from lampion.ir.math import expand_kernel

from .compiler import Bound, build, entry_name
from .sorting import LONGEST, order_calls, order_scratch

if TYPE_CHECKING:
    from .driver import Device

FROM = 1 << 15   # points; with fewer the launches of a sort take longer than they save
GROUP = 256      # threads of a block
BATCH = 4        # points whose loads are on their way together
WARP = 32        # neighbouring features that threads of a block take, at most


class Sizes:
    """How the points of a scatter are laid out: `rest` and `shared` axes of the grid, their
    counts, and the division of work."""

    def __init__(self, kernel: Kernel, params: Sequence[int]) -> None:
        s = scatter_of(kernel)
        assert s is not None
        grid, ranges = lanes.sizes(kernel, params)
        self.shared = features(kernel, s)
        self.rest = [k for k in range(len(grid)) if k not in self.shared]
        self.width = math.prod([grid[k] for k in self.shared])
        self.points = math.prod([grid[k] for k in self.rest]) * math.prod(ranges[0])
        self.lanes = min(WARP, 1 << (self.width - 1).bit_length())  # features side by side
        self.each = 8 if self.lanes < 8 else 32  # points of a thread
        self.block = GROUP // self.lanes * self.each
        self.blocks = -(-self.points // self.block)


class _Printer(ThreadPrinter):
    """What the kernels share. Their arguments are those of the scatter, then `more`: (kind, dtype,
    None for that of the sums)."""

    more: Sequence[tuple[str, Any]]

    def __init__(self, kernel: Kernel, dialect: Any, sizes: Sizes) -> None:
        s = scatter_of(kernel)
        assert s is not None
        self.s, self.sizes, self.first_more = s, sizes, len(kernel.args)
        self.d = kernel.args[s.slot].dtype
        self.sum = dt.opmath(self.d)
        more = [Arg(kind, d or self.sum) for kind, d in self.more]
        super().__init__(replace(kernel, args=(*kernel.args, *more), key=""), dialect, True)
        self.ctype = self.dialect.value_type(self.sum)

    def print(self) -> None:
        """Print the body."""
        self.e.begin()
        grid = self.grid()
        ranges = [self.e.value(n).text for n in self.kernel.stages[0].ranges]
        axes = [*self.sizes.rest, *(self.first_range + k for k in range(len(ranges)))]
        self.axes, self.counts = axes, [*(grid[k] for k in self.sizes.rest), *ranges]
        self.wide = [grid[k] for k in self.sizes.shared]
        self.e.line(f"const int n = (int){lanes.EXTRA[0]}, across = "
                    f"(int)({' * '.join(self.wide) or '1'});")
        self.body([f"b{k}" for k in range(self.first_more, len(self.kernel.args))])

    def body(self, more: Sequence[str]) -> None:
        """Print what is after the sizes."""
        raise NotImplementedError

    def feature(self, flat: str) -> None:
        """Bind the axes that all points share, and say how far a destination is moved by them."""
        e = self.e
        e.line(f"{self.int} wide_rest = {flat};")
        steps = ["0"]
        for k, axis in reversed(list(enumerate(self.sizes.shared))):
            e.line(f"const {self.int} f{k} = wide_rest % {self.wide[k]}; "
                   f"wide_rest /= {self.wide[k]};")
            e.bind(axis, f"f{k}")
            step = coefficient(self.s.index, axis)
            assert step is not None
            steps.append(f"(long)f{k} * {e.value(step).text}")
        e.line(f"const long moved = {' + '.join(steps)};")

    def write(self, key: str) -> None:
        """Add `sum` to the destination `key` of this feature."""
        e, slot = self.e, self.s.slot
        e.open(f"if ({key} != {lanes.EXTRA[1]})")
        e.line(f"const long at = (long){key} + moved;")
        e.line(f"const {self.ctype} old = {helpers.load_one(e, slot, self.d, 'at')};")
        e.line(f"const {self.ctype} all = "
               f"{helpers.combine(e, 'sum', Val('old', self.sum), Val('sum', self.sum))};")
        e.line(helpers.store_one(e, slot, self.d, "at", "all"))
        e.close()

    def add(self, name: str, text: str) -> None:
        """`name` plus a value of the sums' type."""
        self.e.line(f"{name} = "
                    f"{helpers.combine(self.e, 'sum', Val(name, self.sum), Val(text, self.sum))};")


class _Keys(_Printer):
    """A thread a point: its destination, or, where the mask leaves it out, `height`, which is
    beyond all of them."""

    more = (("out", dt.uint32),)

    def body(self, more: Sequence[str]) -> None:
        e = self.e
        e.line(f"const {self.int} u = {self.global_id()};")
        e.line("if (u >= n) return;")
        self.split("u", self.axes, self.counts)
        for axis in self.sizes.shared:
            e.bind(axis, "0")
        at = f"(uint){e.value(self.s.index).text}"
        if self.s.mask is not None:
            at = f"{e.value(self.s.mask).text} ? {at} : (uint){lanes.EXTRA[1]}"
        e.line(f"{more[0]}[u] = {at};")


class _Sums(_Printer):
    """A thread some points in the order of the sort, of one feature."""

    more = (("in", dt.uint32), ("in", dt.uint32), ("out", None), ("out", None))

    def body(self, more: Sequence[str]) -> None:
        e, z = self.e, self.sizes
        keys, places, heads, tails = more
        groups = GROUP // z.lanes
        e.line(f"{self.dialect.local}{self.ctype} first[{GROUP}];")
        e.line(f"{self.dialect.local}uchar through[{GROUP}];")
        e.line(f"const int l = threadIdx.x, lane = l % {z.lanes}, g = l / {z.lanes};")
        e.line(f"const int wide = (across + {z.lanes - 1}) / {z.lanes};")
        e.line("const int block = blockIdx.x / wide;")
        e.line(f"const int feature = blockIdx.x % wide * {z.lanes} + lane;")
        e.line(f"const int start = block * {z.block} + g * {z.each};")
        e.line(f"const int end = start + {z.each} < n ? start + {z.each} : n;")
        e.line("const bool live = start < n && feature < across;")
        self.feature("feature < across ? feature : 0")
        e.line(f"{self.ctype} sum = 0, head = 0;")
        e.line("uint key = 0; bool left = false, right = false;")
        e.open("if (live)")
        e.line(f"key = {keys}[start]; left = start > 0 && {keys}[start - 1] == key;")
        e.open(f"for (int c = start; c < end; c += {BATCH})")
        e.line(f"uint next[{BATCH}]; {self.ctype} value[{BATCH}];")
        self.unrolled("k", BATCH)
        e.line(f"next[k] = c + k < end ? {keys}[c + k] : (uint){lanes.EXTRA[1]};")
        e.line("value[k] = 0;")
        e.open(f"if (next[k] != {lanes.EXTRA[1]})")
        e.line(f"const {self.int} r = (int){places}[c + k];")
        self.split("r", self.axes, self.counts)
        e.line(f"value[k] = {helpers.convert(e, e.value(self.s.value), self.sum).text};")
        e.close()
        e.close()
        self.unrolled("k", BATCH)
        e.open("if (c + k < end)")
        e.open("if (next[k] != key)")
        e.line("if (left) head = sum; else {")
        self.write("key")
        e.line("}")
        e.line("key = next[k]; sum = 0; left = false;")
        e.close()
        self.add("sum", "value[k]")
        e.close()
        e.close()
        e.close()
        e.line(f"right = end < n && {keys}[end] == key;")
        e.line("if (left) head = sum;")
        e.line("else if (!right) {")
        self.write("key")
        e.line("}")
        e.close()
        e.line("first[l] = head; through[l] = live && left && right;")
        e.line(self.dialect.barrier)
        e.line("if (!live) return;")
        # the run that begins here and goes on, and, for the block before, the one that goes on here
        e.open("if (!left && right)")
        self._follow(groups, z.lanes)
        e.line(f"if (open) {tails}[(long)block * across + feature] = sum;")
        e.line("else {")
        self.write("key")
        e.line("}")
        e.close()
        e.open(f"if (g == 0 && start > 0 && {keys}[start - 1] == {keys}[start])")
        e.line("sum = head;")
        e.open("if (through[l])")
        self._follow(groups, z.lanes)
        e.line("(void)open;")
        e.close()
        e.line(f"{heads}[(long)block * across + feature] = sum;")
        e.close()

    def _follow(self, groups: int, step: int) -> None:
        """Add the parts of the run that later threads have; `open`: to the end of the block."""
        self.e.line("bool open = true;")
        self.e.open(f"for (int h = g + 1; open && h < {groups}; ++h)")
        self.add("sum", f"first[h * {step} + lane]")
        self.e.line(f"open = through[h * {step} + lane];")
        self.e.close()


class _Across(_Printer):
    """A thread a block and feature: the run that begins in the block and goes on in others."""

    more = (("in", dt.uint32), ("in", None), ("in", None))

    def body(self, more: Sequence[str]) -> None:
        e, z = self.e, self.sizes
        keys, heads, tails = more
        e.line("const long u = LMP_GLOBAL_0;")
        e.line(f"if (u >= ((long)n + {z.block - 1}) / {z.block} * across) return;")
        e.line("const int block = (int)(u / across), feature = (int)(u % across);")
        e.line(f"const int start = block * {z.block}, end = start + {z.block};")
        e.line("if (end >= n) return;")
        e.line(f"const uint key = {keys}[end - 1];")
        e.line(f"if ({keys}[end] != key || ({keys}[start] == key && start > 0 && "
               f"{keys}[start - 1] == key)) return;")
        self.feature("feature")
        e.line(f"{self.ctype} sum = {tails}[u];")
        e.line("long c = u; int last = end;")
        e.open("do")
        e.line(f"c += across; last = last + {z.block} < n ? last + {z.block} : n;")
        self.add("sum", f"{heads}[c]")
        e.close()
        e.line(f"while (last < n && {keys}[last - 1] == key && {keys}[last] == key);")
        self.write("key")


def sorted_calls(device: Device, c: KernelCall, outputs: Sequence[int], free: int,
                 ) -> tuple[list[Any], list[int]] | None:
    """(kernel calls as `launch.make_launch` takes them, bytes of scratch buffers in the program's
    slots from `free` on), or None where the generated kernel is as good."""
    s = scatter_of(c.kernel)
    if s is None or s.op != "sum" or c.slots[s.slot] >= len(outputs):
        return None
    d = c.kernel.args[s.slot].dtype
    beyond = outputs[c.slots[s.slot]] // d.itemsize  # larger than all destinations
    if d.kind not in "fiu" or beyond >= 1 << 32 or not fits(c.kernel, c.params):
        return None
    variant = choose(c.kernel, c.params, min(1024, device.max_group), device.dialect)
    z = Sizes(c.kernel, c.params)
    if variant.shape != "ordered" or not z.width or not FROM <= z.points < LONGEST:
        return None
    kernel = expand_kernel(c.kernel, device.dialect.expands)
    keys, first, second = free, (free + 1, free + 2), (free + 3, free + 4)
    counts, totals, heads, tails = range(free + 5, free + 9)
    order, (in_order, places) = order_calls(device, z.points, beyond.bit_length(), keys,
                                            (first, second), counts, totals)
    count = 4 * z.points
    twice = count if len(order) > 3 else 0
    sums = z.blocks * z.width * dt.opmath(d).itemsize
    scratch = [count, count, count, twice, twice, *order_scratch(device, z.points), sums, sums]

    def call(printer: type[_Printer], items: int, *slots: int) -> Any:
        name = f"{entry_name(kernel)}{printer.__name__.lower()}"
        which = (c.kernel.key, printer, z.lanes)
        made = device.variants.get(which)
        if made is None:
            p = printer(kernel, device.dialect, z)
            p.print()
            made = device.variants[which] = build(device, assemble(
                p.e, name, lanes.EXTRA, device.dialect.group_of.format(n=GROUP)), name)
        bound = Bound(made, (-(-items // GROUP), 1, 1), (GROUP, 1, 1), 0,
                      (*c.params, z.points, beyond))
        more = [("buffer", d) for _, d in printer.more]
        args = [("scalar" if a.kind == "scalar" else "buffer", a.dtype) for a in kernel.args]
        return bound, [*args, *more], (*c.slots, *slots)

    wide = -(-z.width // z.lanes)
    return [call(_Keys, z.points, keys), *order,
            call(_Sums, z.blocks * wide * GROUP, in_order, places, heads, tails),
            call(_Across, z.blocks * z.width, in_order, heads, tails)], scratch


__all__ = ["sorted_calls"]
