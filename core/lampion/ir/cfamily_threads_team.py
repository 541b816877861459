"""The schedule for thousands of threads, kernels with reductions: a team of items a grid point.

Floor 1; imports cfamily_lanes, cfamily_packed, expr and kernel. The items of a team share the
ranges. A group holds several teams, in one of two layouts:

- rows: the items of a team are neighbours and run along a contiguous range, taking vectors;
- columns (`across`): neighbouring items are neighbouring grid points, and the items of a team are
  a group's rows.

Results combine by exchange within a warp where the language has it, else in a tree in local
memory, always in the same order. Rows that fit into the registers of a team (`kept`) are read
once, however many stages use them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..base import dtype as dt
from . import cfamily_helpers as helpers
from . import cfamily_lanes as lanes_schedule
from .cfamily import Dialect, Val, of
from .cfamily_lanes import accumulator, merge_arg, start_text
from .cfamily_packed import ThreadPrinter, neighbours, unit, words
from .cfamily_threads_scan import ScanStage
from .expr import Expr, walk
from .kernel import (
    ArgReduce,
    Kernel,
    Reduce,
    Scan,
    Scatter,
    Stage,
    Statement,
    Store,
    statement_exprs,
)


class TeamPrinter(ThreadPrinter):
    """`team` items a grid point in groups of `group`; `unroll` vectors of `vector` elements at a
    time, in the stages that have the ranges of the stage `main`; one element in others."""

    def __init__(self, kernel: Kernel, dialect: Dialect, narrow: bool, group: int, team: int,
                 vector: int, unroll: int, across: bool, kept: bool, main: int) -> None:
        super().__init__(kernel, dialect, narrow)
        self.group, self.team, self.vector, self.unroll = group, team, vector, unroll
        self.across, self.kept = across, kept
        self.main = kernel.stages[main].ranges
        self.teams = group // team
        self._scratch: dict[tuple[str, int], str] = {}
        self._sizes: dict[str, int] = {}
        # what is kept between stages: (load, ranges) -> (array, whether of packed words)
        self.arrays: dict[tuple[Expr, tuple[Expr, ...]], tuple[str, bool]] = {}
        self.written = {s.slot for stage in kernel.stages for s in stage.body
                        if isinstance(s, (Store, Scatter))}

    def print(self) -> None:
        """Print the body."""
        e = self.e
        e.begin()
        grid = self.grid()
        total = " * ".join(grid) or "1"
        e.line(f"const {self.int} l = {self.local_id()};")
        if self.teams == 1:
            e.line(f"const {self.int} u = {self.group_id()};")
            e.line(f"const {self.int} t = l;")
        else:
            team, t = (f"l % {self.teams}", f"l / {self.teams}") if self.across else (
                f"l / {self.team}", f"l % {self.team}")
            e.line(f"const {self.int} y = {team};")
            e.line(f"const {self.int} t = {t};")
            e.line(f"const {self.int} place = {self.group_id()} * {self.teams} + y;")
            e.line(f"const int live = place < {total};")  # the others help, but write nothing
            e.line(f"const {self.int} u = live ? place : {total} - 1;")
        self.split("u", range(len(grid)), grid)
        self._stages()
        e.scopes[0].lines[:0] = [
            f"{self.dialect.local}{ctype} {name}[{self._sizes[name]}];"
            for (ctype, _), name in self._scratch.items()]

    def _stages(self) -> None:
        before: set[int] = set()
        for stage in self.kernel.stages:
            if before & self._touched(stage):
                self.e.line(self.dialect.barrier)
                before = set()
            before |= {s.slot for s in stage.body if isinstance(s, (Store, Scatter))}
            if not stage.ranges:
                self._single(stage)
            elif any(isinstance(s, Scan) for s in stage.body):
                ScanStage(self, stage).print()
            else:
                self._shared_stage(stage)

    def _touched(self, stage: Stage) -> set[int]:
        """The slots that a stage reads from, or writes to."""
        roots = [x for s in stage.body for x in statement_exprs(s)]
        return {x.value for x in walk([*roots, *stage.ranges]) if x.op == "load"} | {
            s.slot for s in stage.body if isinstance(s, (Store, Scatter))}

    def _single(self, stage: Stage) -> None:
        for s in stage.body:
            writes = isinstance(s, (Store, Scatter))
            if writes:
                self.e.open("if (t == 0 && live)" if self.teams > 1 else "if (t == 0)")
            self._statement(s)
            if writes:
                self.e.close()

    # -- stages that the items of a team share ---------------------------------------------------

    def _shared_stage(self, stage: Stage) -> None:
        e = self.e
        counts = [e.value(n).text for n in stage.ranges]
        total = " * ".join(counts)
        totals: dict[str, Val] = {}
        positions: dict[str, Val] = {}
        for s in stage.body:
            if isinstance(s, (Reduce, ArgReduce)):
                v = totals[s.name] = accumulator(e, of(s.value), 1)
                e.line(f"{e.ctype(v)} {v.text} = {start_text(e, s.op, v)};")
            if isinstance(s, ArgReduce):
                at = positions[s.name] = accumulator(e, dt.int64, 1)
                e.line(f"long {at.text} = -1;")
        body = _Body(self, stage, counts, totals, positions)
        if body.kept:
            body.chunk("0", total, guard=True)
        else:
            step = self.team * body.vector * body.unroll
            f = e.fresh("f")
            e.line(f"{self.int} {f} = 0;")
            if body.unroll * body.vector > 1:
                e.open(f"for (; {f} + {step} <= {total}; {f} += {step})")
                body.chunk(f, total, guard=False)
                e.close()
            e.open(f"for (; {f} < {total}; {f} += {step})")
            body.chunk(f, total, guard=True)
            e.close()
        for s in stage.body:
            if isinstance(s, Reduce):
                self._combine(s, totals[s.name])
                e.refs[s.name] = totals[s.name]
            elif isinstance(s, ArgReduce):
                self._combine(s, totals[s.name], positions[s.name])
                e.refs[s.name] = positions[s.name]
                e.refs[s.name + "_value"] = totals[s.name]
        e.forget_lanes()

    # -- combining partial results -----------------------------------------------------------------

    def _local(self, ctype: str, which: int, size: int) -> str:
        name = self._scratch.setdefault((ctype, which), f"shared{len(self._scratch)}")
        self._sizes[name] = max(size, self._sizes.get(name, 0))
        return name

    def _combine(self, s: Reduce | ArgReduce, acc: Val, at: Val | None = None) -> None:
        """acc (and at) = the team's total, in every item."""
        if self.team == 1:
            return
        warp = self.dialect.warp
        if self.across or not warp or self.team & (self.team - 1):
            self._tree(s, acc, at)
            return
        e = self.e
        self._exchange(s, acc, at, min(self.team, warp))
        if self.team <= warp:
            return
        parts = self.team // warp
        mine = f"(t & {parts - 1})" if self.teams == 1 else f"y * {parts} + (t & {parts - 1})"
        vals = [v for v in (acc, at) if v is not None]
        names = [self._local(e.ctype(v), 1000 + len(self._scratch), self.group // warp)
                 for v in vals]
        e.open(f"if (t % {warp} == 0)")
        for v, name in zip(vals, names):
            e.line(f"{name}[l / {warp}] = {v.text};")
        e.close()
        e.line(self.dialect.barrier)
        for v, name in zip(vals, names):
            e.line(f"{v.text} = {name}[{mine}];")
        self._exchange(s, acc, at, parts)

    def _exchange(self, s: Reduce | ArgReduce, acc: Val, at: Val | None, count: int) -> None:
        """Combine `count` neighbouring items: after it each of them has the result."""
        e, d = self.e, count // 2
        while d:
            e.open("")
            others = []
            for v in (acc, at):
                if v is not None:
                    other = e.fresh("y")
                    ctype = e.ctype(v)
                    text = self.dialect.shuffle.format(x=v.text, lane=f"(l ^ {d})")
                    e.line(f"const {ctype} {other} = ({ctype}){text};")
                    others.append(v._replace(text=other))
            self._merge(s, acc, at, others)
            e.close()
            d //= 2

    def _merge(self, s: Reduce | ArgReduce, acc: Val, at: Val | None,
               others: Sequence[Val]) -> None:
        if isinstance(s, ArgReduce):
            assert at is not None
            merge_arg(self.e, s.op, acc, at, *others)
        else:
            self.e.line(f"{acc.text} = {helpers.combine(self.e, s.op, acc, others[0])};")

    def _tree(self, s: Reduce | ArgReduce, acc: Val, at: Val | None) -> None:
        """Halve the team until one item has the total; reductions of a type share the memory."""
        e, barrier = self.e, self.dialect.barrier
        vals = [v for v in (acc, at) if v is not None]
        names = [self._local(e.ctype(v), k, self.group) for k, v in enumerate(vals)]
        e.line(" ".join(f"{name}[l] = {v.text};" for v, name in zip(vals, names)))
        e.line(barrier)
        step = self.teams if self.across else 1
        other = f"l + h * {step}" if step > 1 else "l + h"
        e.open(f"for (int h = {self.team // 2}; h > 0; h >>= 1)")
        e.open("if (t < h)")
        mine = [v._replace(text=f"{name}[l]") for v, name in zip(vals, names)]
        theirs = [v._replace(text=f"{name}[{other}]") for v, name in zip(vals, names)]
        self._merge(s, mine[0], mine[1] if at is not None else None, theirs)
        e.close()
        e.line(barrier)
        e.close()
        first = "0" if self.teams == 1 else "y" if self.across else f"y * {self.team}"
        e.line(" ".join(f"{v.text} = {name}[{first}];" for v, name in zip(vals, names)))
        e.line(barrier)


class _Body:
    """What an item does with the points of a stage that fall to it."""

    def __init__(self, p: TeamPrinter, stage: Stage, counts: Sequence[str],
                 totals: dict[str, Val], positions: dict[str, Val]) -> None:
        self.p, self.e, self.stage, self.counts = p, p.e, stage, counts
        self.totals, self.positions = totals, positions
        main = stage.ranges == p.main or p.across
        self.vector, self.unroll = (p.vector, p.unroll) if main else (1, 1)
        self.kept = p.kept and main
        self.axes = [p.first_range + k for k in range(len(counts))]
        self.last = self.axes[-1]
        roots = [x for s in stage.body for x in statement_exprs(s)]
        self.packable = neighbours(p.kernel, roots, self.last, self.vector)
        self.plain: list[Expr] = []  # loads that are kept value by value
        if self.kept:
            self.plain = [x for x in walk(roots) if x.op == "load" and len(x.args) == 1
                          and x.value not in p.written and x not in self.packable
                          and self._along(x)]
        if self.vector == 1 and not self.kept:
            self.packable = []
        loaded = {x.value for x in walk(roots) if x.op == "load"}
        self.packs = {k: s for k, s in enumerate(stage.body) if isinstance(s, Store)
                      and self.vector > 1 and s.mask is None and unit(s.index, self.last)
                      and words(p.kernel.args[s.slot].dtype, self.vector) > 0
                      and s.slot not in loaded}

    def _along(self, x: Expr) -> bool:
        """Whether a load moves with the ranges, by itself."""
        return not any(y.op == "ref" or (y.op == "load" and y is not x) for y in walk([x])) and (
            any(y.op == "index" and y.value in self.axes for y in walk([x])))

    def chunk(self, base: str, total: str, guard: bool) -> None:
        """The points base ... base + team * vector * unroll; guard: as far as there are any."""
        p, e = self.p, self.e
        arrays = {x: p.arrays[x, self.stage.ranges] for x in (*self.packable, *self.plain)
                  if (x, self.stage.ranges) in p.arrays}
        fresh = [x for x in (*self.packable, *self.plain) if x not in arrays]
        for x in fresh:
            packed = x in self.packable
            arrays[x] = e.fresh("w"), packed
            ctype, count = ("uint", words(of(x), self.vector)) if packed else (
                p.dialect.value_type(of(x)), self.vector)
            e.line(f"{ctype} {arrays[x][0]}[{self.unroll * count}];")
        if fresh:
            self._open(base, total, guard)
            # first what goes one by one: inside, the index of an element is not yet that of the
            # first of a vector
            for x in sorted(fresh, key=lambda x: arrays[x][1]):
                self._fill(x, arrays[x][0])
            self._close()
        if self.kept:
            p.arrays |= {(x, self.stage.ranges): found for x, found in arrays.items()}
        writes = any(isinstance(s, Store) for s in self.stage.body)
        self._open(base, total, guard, writes)
        self._points(arrays)
        self._close()

    def _open(self, base: str, total: str, guard: bool, writes: bool = False) -> None:
        """The loop over this item's vectors, the axes bound to the first point of each."""
        p, e = self.p, self.e
        p.unrolled("j", self.unroll)
        f = e.fresh("f")
        start = "t" if self.unroll == 1 else f"(j * {p.team} + t)"
        at = start if self.vector == 1 else f"{start} * {self.vector}"
        e.line(f"const {p.int} {f} = {'' if base == '0' else base + ' + '}{at};")
        tests = [f"{f} < {total}"] if guard else []
        tests += ["live"] if writes and p.teams > 1 and not self.totals else []
        if tests:
            e.open(f"if ({' && '.join(tests)})")
        else:
            e.open("")
        p.split(f, self.axes, self.counts)

    def _close(self) -> None:
        self.e.close()
        self.e.close()

    def _fill(self, x: Expr, array: str) -> None:
        """Load this vector's elements of `x`."""
        p, e = self.p, self.e
        if x in self.packable:
            e.load_words(array, f"j * {words(of(x), self.vector)}", x.value, of(x),
                         e.value(x.args[0]).text, self.vector, True)
            return
        inner, _ = e.axes[self.last]
        p.unrolled("v", self.vector)
        e.bind(self.last, f"({inner} + v)")
        e.line(f"{array}[j * {self.vector} + v] = "
               f"{helpers.load_one(e, x.value, of(x), e.value(x.args[0]).text)};")
        e.close()
        e.bind(self.last, inner)

    def _points(self, arrays: dict[Expr, tuple[str, bool]]) -> None:
        p, e, n = self.p, self.e, self.vector
        results = {}
        for k, s in self.packs.items():
            count = words(p.kernel.args[s.slot].dtype, n)
            results[k] = e.fresh("z")
            e.line(f"uint {results[k]}[{count}] = {{{', '.join('0' * count)}}};")
        inner, _ = e.axes[self.last]
        if n > 1:
            p.unrolled("v", n)
            e.bind(self.last, f"({inner} + v)")
        else:
            e.open("")
        at = f"j * {n} + v" if n > 1 else "j"
        for x, (array, packed) in arrays.items():
            e.packed[x] = p.element_of(x, array, at) if packed else (
                lambda array=array: f"{array}[{at}]")  # type: ignore[misc]
        for k, step in enumerate(self.stage.body):
            if k in results:
                d = p.kernel.args[self.packs[k].slot].dtype
                v = helpers.stored(e, self.packs[k].value, d)
                e.deposit(results[k], d, "v", e.memory_text(v, d))
            else:
                self._step(step)
        e.packed.clear()
        e.close()
        e.bind(self.last, inner)
        if results and self._helps():
            e.open("if (live)")
        for k, array in results.items():
            s = self.packs[k]
            e.store_words(array, s.slot, p.kernel.args[s.slot].dtype, e.value(s.index).text, n,
                          True)
        if results and self._helps():
            e.close()

    def _helps(self) -> bool:
        """Whether items without a grid point of their own come this far."""
        return self.p.teams > 1 and bool(self.totals)

    def _step(self, s: Statement) -> None:
        p, e = self.p, self.e
        if isinstance(s, Reduce):
            acc = self.totals[s.name]
            e.line(f"{acc.text} = {helpers.combine(e, s.op, acc, e.value(s.value))};")
        elif isinstance(s, ArgReduce):
            v, at = e.value(s.value), e.value(s.position)
            lanes_schedule.update_arg(e, s.op, self.totals[s.name], self.positions[s.name], v, at,
                                      1)
        elif isinstance(s, Store) and self._helps():
            e.open("if (live)")
            p._statement(s)
            e.close()
        else:
            p._statement(s)
