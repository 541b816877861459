"""The schedule for processors with thousands of threads: C-family text, one element a thread.

Floor 1; imports cfamily, cfamily_lanes, expr and kernel. Three shapes:

- "item": a work item per grid point, ranges loop inside it; neighbours touch neighbours.
- "group": a work group per grid point; its items share the ranges and combine their partial
  results in a tree in local memory, always in the same order, so results are reproducible.
- "serial": one work item does everything in order, for scatters that may collide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..base import dtype as dt
from . import cfamily_helpers as helpers
from . import cfamily_lanes as lanes_schedule
from .cfamily import Dialect, Val, assemble
from .cfamily_lanes import _Printer, accumulator, merge_arg, sizes, start_text, unit_strides
from .expr import is_const
from .kernel import ArgReduce, Kernel, Reduce, Scan, Scatter, Stage, Store, coefficient

ITEM = 64          # work items of a group where they do not cooperate
LEAST_GROUP = 32   # shorter ranges are looped by one item
ENOUGH_POINTS = 4096


class Variant(NamedTuple):
    """shape: "item", "group" or "serial"; `group` is the work group size."""

    shape: str
    group: int


def choose(kernel: Kernel, params: Sequence[int], max_group: int = 256) -> Variant:
    """The variant for these sizes."""
    if lanes_schedule.ordered(kernel):
        return Variant("serial", 1)
    grid, ranges = sizes(kernel, params)
    item = Variant("item", min(ITEM, max_group))
    length = max((lanes_schedule._product(r) for r in ranges if r), default=0)
    if length < LEAST_GROUP or not _divisible(kernel):
        return item
    along = max(unit_strides(kernel, len(grid) + len(s.ranges) - 1)
                for s in kernel.stages if s.ranges)
    if (grid and lanes_schedule._product(grid) >= ENOUGH_POINTS
            and unit_strides(kernel, len(grid) - 1) > along):
        return item
    return Variant("group", min(256 if length >= 512 else 64, max_group))


def _divisible(kernel: Kernel) -> bool:
    """Whether the items of a group may share the ranges of every stage."""
    first = len(kernel.grid)
    for stage in kernel.stages:
        if not stage.ranges:
            continue
        scans = [s for s in stage.body if isinstance(s, Scan)]
        if scans and any(isinstance(s, (Reduce, ArgReduce)) for s in stage.body):
            return False
        for s in stage.body:
            if isinstance(s, Scatter):
                return False
            if isinstance(s, Store):
                steps = [coefficient(s.index, first + k) for k in range(len(stage.ranges))]
                if any(c is not None and is_const(c, 0) for c in steps):
                    return False  # several items would write one element
    return True


def geometry(kernel: Kernel, variant: Variant, params: Sequence[int],
             ) -> tuple[tuple[int, int], tuple[int, int]]:
    """(work items in two dimensions, the schedule's integers)."""
    grid, _ = sizes(kernel, params)
    points = lanes_schedule._product(grid)
    if variant.shape == "serial":
        return (1, 1), (max(1, grid[-1] if grid else 1), max(1, points))
    if variant.shape == "group":
        return (points * variant.group, 1), (0, 0)
    return (-(-points // variant.group) * variant.group, 1), (0, 0)


def render(kernel: Kernel, dialect: Dialect, variant: Variant, name: str) -> str:
    """The source text of one variant."""
    if variant.shape == "serial":
        ordered = lanes_schedule.Variant("grid", len(kernel.grid) - 1, 1)
        return lanes_schedule.render(kernel, dialect, ordered, name)
    printer = (_GroupPrinter if variant.shape == "group" else _ItemPrinter)(
        kernel, dialect, lanes_schedule.Variant("grid", len(kernel.grid) - 1, 1))
    printer.size = variant.group
    printer.print()
    return assemble(printer.e, name, lanes_schedule.EXTRA,
                    attributes=dialect.group_of.format(n=variant.group))


class _ItemPrinter(_Printer):
    """A work item per grid point."""

    size = ITEM

    def print(self) -> None:
        e = self.e
        grid = [e.value(n).text for n in self.kernel.grid]
        total = " * ".join(grid) or "1"
        e.line(f"long u = (long){self.dialect.global_id.format(d=0)};")
        e.line(f"if (u >= {total}) return;")
        self._bind_grid(grid)
        self._points()

    def _bind_grid(self, grid: Sequence[str]) -> None:
        self._split("u", list(range(len(grid))), grid)

    def _split(self, flat: str, axes: Sequence[int], counts: Sequence[str]) -> None:
        """Bind axes to the row-major digits of `flat`."""
        e, rest = self.e, flat
        for at in reversed(range(len(axes))):
            g = e.fresh("g")
            if at == 0:
                e.line(f"const long {g} = {rest};")
            else:
                e.line(f"const long {g} = {rest} % {counts[at]};")
                after = e.fresh("u")
                e.line(f"const long {after} = {rest} / {counts[at]};")
                rest = after
            e.bind(axes[at], g)


class _GroupPrinter(_ItemPrinter):
    """A work group per grid point."""

    def print(self) -> None:
        e = self.e
        self._scratch: dict[tuple[str, int], str] = {}
        grid = [e.value(n).text for n in self.kernel.grid]
        e.line(f"const long u = (long){self.dialect.group_id.format(d=0)};")
        e.line(f"const long l = (long){self.dialect.local_id.format(d=0)};")
        self._bind_grid(grid)
        self._points()
        declarations = [f"{self.dialect.local}{ctype} {name}[{self.size}];"
                        for (ctype, _), name in self._scratch.items()]
        e.scopes[0].lines[:0] = declarations

    def _points(self) -> None:
        e = self.e
        for k, stage in enumerate(self.kernel.stages):
            if k and self._reads_writes(k):
                e.line(self.dialect.barrier)
            if not stage.ranges:
                self._single(stage)
            elif any(isinstance(s, Scan) for s in stage.body):
                self._scan_stage(stage)
            else:
                self._shared_stage(stage)

    def _reads_writes(self, k: int) -> bool:
        """Whether stage k reads or rewrites what an earlier stage wrote."""
        return bool(self.e.written)

    def _single(self, stage: Stage) -> None:
        for s in stage.body:
            writes = isinstance(s, (Store, Scatter))
            if writes:
                self.e.open("if (l == 0)")
            self._statement(s)
            if writes:
                self.e.close()

    def _flat_loop(self, stage: Stage) -> list[str]:
        return [self.e.value(n).text for n in stage.ranges]

    def _shared_stage(self, stage: Stage) -> None:
        e = self.e
        counts = self._flat_loop(stage)
        totals: dict[str, Val] = {}
        positions: dict[str, Val] = {}
        for s in stage.body:
            if isinstance(s, (Reduce, ArgReduce)):
                d = s.value.dtype
                assert d is not None
                v = totals[s.name] = accumulator(e, d, 1)
                e.line(f"{e.ctype(v)} {v.text} = {start_text(e, s.op, v)};")
            if isinstance(s, ArgReduce):
                at = positions[s.name] = accumulator(e, dt.int64, 1)
                e.line(f"long {at.text} = -1;")
        f = e.fresh("f")
        total = " * ".join(counts)
        e.open(f"for (long {f} = l; {f} < {total}; {f} += {self.size})")
        axes = [self.first_range + k for k in range(len(counts))]
        self._split(f, axes, counts)
        for s in stage.body:
            if isinstance(s, Reduce):
                acc = totals[s.name]
                e.line(f"{acc.text} = {helpers.combine(e, s.op, acc, e.value(s.value))};")
            elif isinstance(s, ArgReduce):
                v, at = e.value(s.value), e.value(s.position)
                lanes_schedule.update_arg(e, s.op, totals[s.name], positions[s.name], v, at, 1)
            else:
                self._statement(s)
        e.close()
        for s in stage.body:
            if isinstance(s, Reduce):
                self._tree(s, totals[s.name])
            elif isinstance(s, ArgReduce):
                self._arg_tree(s, totals[s.name], positions[s.name])
        e.forget_lanes()

    def _local(self, ctype: str, which: int = 0) -> str:
        return self._scratch.setdefault((ctype, which), f"shared{len(self._scratch)}")

    def _tree(self, s: Reduce, acc: Val) -> None:
        """acc = the group's total, in every item."""
        e, barrier = self.e, self.dialect.barrier
        tmp = self._local(e.ctype(acc))
        a, b = (acc._replace(text=f"{tmp}[l{x}]") for x in ("", " + h"))
        e.line(f"{tmp}[l] = {acc.text};")
        e.line(barrier)
        e.open(f"for (int h = {self.size // 2}; h > 0; h >>= 1)")
        e.line(f"if (l < h) {tmp}[l] = {helpers.combine(e, s.op, a, b)};")
        e.line(barrier)
        e.close()
        e.line(f"{acc.text} = {tmp}[0];")
        e.line(barrier)
        e.refs[s.name] = acc

    def _arg_tree(self, s: ArgReduce, best: Val, at: Val) -> None:
        e, barrier = self.e, self.dialect.barrier
        values = self._local(e.ctype(best))
        places = self._local("long", 1)
        e.line(f"{values}[l] = {best.text}; {places}[l] = {at.text};")
        e.line(barrier)
        e.open(f"for (int h = {self.size // 2}; h > 0; h >>= 1)")
        e.open("if (l < h)")
        mine = best._replace(text=f"{values}[l]"), at._replace(text=f"{places}[l]")
        other = best._replace(text=f"{values}[l + h]"), at._replace(text=f"{places}[l + h]")
        merge_arg(e, s.op, *mine, *other)
        e.close()
        e.line(barrier)
        e.close()
        e.line(f"{best.text} = {values}[0]; {at.text} = {places}[0];")
        e.line(barrier)
        e.refs[s.name], e.refs[s.name + "_value"] = at, best

    def _scan_stage(self, stage: Stage) -> None:
        """Blocks of one element an item: an inclusive scan in local memory, then a carry."""
        e, barrier = self.e, self.dialect.barrier
        counts = self._flat_loop(stage)
        carries: dict[str, Val] = {}
        for s in stage.body:
            if isinstance(s, Scan):
                assert s.value.dtype is not None
                v = carries[s.name] = accumulator(e, s.value.dtype, 1)
                e.line(f"{e.ctype(v)} {v.text} = {start_text(e, s.op, v)};")
        base, f, valid = e.fresh("f"), e.fresh("f"), e.fresh("m")
        total = " * ".join(counts)
        e.open(f"for (long {base} = 0; {base} < {total}; {base} += {self.size})")
        e.line(f"const int {valid} = {base} + l < {total};")
        e.line(f"const long {f} = {valid} ? {base} + l : {total} - 1;")
        self._split(f, [self.first_range + k for k in range(len(counts))], counts)
        for s in stage.body:
            if not isinstance(s, Scan):
                e.open(f"if ({valid})")
                self._statement(s)
                e.close()
                continue
            carry = carries[s.name]
            ctype = e.ctype(carry)
            tmp = self._local(ctype)
            v = e.value(s.value)
            e.line(f"{tmp}[l] = {valid} ? {v.text} : {start_text(e, s.op, carry)};")
            e.line(barrier)
            e.open(f"for (int h = 1; h < {self.size}; h <<= 1)")
            a, b = (carry._replace(text=f"{tmp}[l{x}]") for x in (" - h", ""))
            e.line(f"{ctype} y = {tmp}[l];")
            e.line(f"if (l >= h) y = {helpers.combine(e, s.op, a, b)};")
            e.line(barrier)
            e.line(f"{tmp}[l] = y;")
            e.line(barrier)
            e.close()
            mine = carry._replace(text=f"{tmp}[l]")
            r = e.fresh("s")
            e.line(f"const {ctype} {r} = {helpers.combine(e, s.op, carry, mine)};")
            last = carry._replace(text=f"{tmp}[{self.size - 1}]")
            e.line(f"{carry.text} = {helpers.combine(e, s.op, carry, last)};")
            e.line(barrier)
            e.refs[s.name] = Val(r, carry.dtype, 1, 0, e.level, True)
            e.forget_lanes()
        e.close()
