"""The schedule for thousands of threads, scans: blocks of a few elements an item, and a carry.

Floor 1; imports cfamily_lanes, cfamily_packed, expr and kernel. Used by the team printer. An item
scans its own elements; what comes before them passes between the items of a warp where the language
has it, else through local memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import cfamily_helpers as helpers
from .cfamily import Val, of
from .cfamily_lanes import accumulator, start_text
from .cfamily_packed import neighbours, unit, words
from .expr import Expr, walk
from .kernel import Scan, Stage, Statement, Store, statement_exprs

if TYPE_CHECKING:
    from .cfamily_threads_team import TeamPrinter


class ScanStage:
    """One stage with scans, in a team of any layout."""

    def __init__(self, p: TeamPrinter, stage: Stage) -> None:
        self.p, self.e, self.stage = p, p.e, stage
        self.each = p.vector * p.unroll
        self.counts = [p.e.value(n).text for n in stage.ranges]
        self.total = " * ".join(self.counts)
        self.axes = [p.first_range + k for k in range(len(self.counts))]
        roots = [x for s in stage.body for x in statement_exprs(s)]
        self.packable = neighbours(p.kernel, roots, self.axes[-1], p.vector) if p.vector > 1 else []
        read = {x.value for x in walk(roots) if x.op == "load"}
        self.packs = [s for s in stage.body if isinstance(s, Store) and p.vector > 1
                      and s.mask is None and unit(s.index, self.axes[-1])
                      and words(p.kernel.args[s.slot].dtype, p.vector) > 0 and s.slot not in read]
        warp = p.dialect.warp if p.dialect.shuffle else 0
        self.warp = 0 if p.across or (warp and p.team > warp and p.team % warp) else warp
        self.arrays: dict[Expr, str] = {}
        self.scanned: dict[str, Val] = {}  # results, element by element

    def print(self) -> None:
        """Print the loop over blocks."""
        p, e = self.p, self.e
        carries = {}
        for s in self.stage.body:
            if isinstance(s, Scan):
                v = carries[s.name] = accumulator(e, of(s.value), 1)
                e.line(f"{e.ctype(v)} {v.text} = {start_text(e, s.op, v)};")
        base, self.f = e.fresh("f"), e.fresh("f")
        e.open(f"for ({p.int} {base} = 0; {base} < {self.total}; "
               f"{base} += {p.team * self.each})")
        e.line(f"const {p.int} {self.f} = {base} + t * {self.each};")
        self._load()
        waiting: list[Statement] = []
        for s in self.stage.body:
            if isinstance(s, Scan):
                self._others(waiting)
                waiting = []
                self._scan(s, carries[s.name])
            else:
                waiting.append(s)
        self._others(waiting)
        e.close()
        e.refs.update(carries)
        e.forget_lanes()

    def _load(self) -> None:
        p, e = self.p, self.e
        self.arrays = {x: e.fresh("w") for x in self.packable}
        for x, array in self.arrays.items():
            e.line(f"uint {array}[{words(of(x), p.vector)}];")
        if self.arrays:
            e.open(f"if ({self.f} < {self.total})")
            p.split(self.f, self.axes, self.counts)
            for x, array in self.arrays.items():
                e.load_words(array, 0, x.value, of(x), e.value(x.args[0]).text, p.vector, True)
            e.close()

    def _elements(self, live: bool) -> None:
        """Open the loop over the item's elements, as far as there are any."""
        p, e = self.p, self.e
        p.unrolled("v", self.each)
        test = f"{self.f} + v < {self.total}"
        e.open(f"if ({test} && live)" if live and p.teams > 1 else f"if ({test})")
        p.split(f"({self.f} + v)", self.axes, self.counts)
        for x, array in self.arrays.items():
            e.packed[x] = p.element_of(x, array, "v")
        for name, v in self.scanned.items():
            e.refs[name] = v._replace(level=e.level, volatile=True)
        e.forget_lanes()

    def _close(self) -> None:
        self.e.packed.clear()
        self.e.close()
        self.e.close()

    def _others(self, body: list[Statement]) -> None:
        """Statements between scans, in order, element by element."""
        p, e = self.p, self.e
        if not body:
            return
        results = {}
        for s in body:
            if s in self.packs:
                assert isinstance(s, Store)
                count = words(p.kernel.args[s.slot].dtype, p.vector)
                results[s] = e.fresh("z")
                e.line(f"uint {results[s]}[{count}] = {{{', '.join('0' * count)}}};")
        self._elements(live=True)
        for s in body:
            if isinstance(s, Store) and s in results:
                d = p.kernel.args[s.slot].dtype
                v = helpers.convert(e, e.value(s.value), d)
                e.deposit(results[s], d, "v", e.memory_text(v, d))
            else:
                p._statement(s)
        self._close()
        if results:
            live = " && live" if p.teams > 1 else ""
            e.open(f"if ({self.f} < {self.total}{live})")
            p.split(self.f, self.axes, self.counts)
            for s, array in results.items():
                e.store_words(array, s.slot, p.kernel.args[s.slot].dtype, e.value(s.index).text,
                              p.vector, True)
            e.close()

    def _scan(self, s: Scan, carry: Val) -> None:
        """Scan one block; then the elements of this item are in an array."""
        p, e = self.p, self.e
        ctype, array = e.ctype(carry), e.fresh("r")

        def at(index: str) -> Val:
            return carry._replace(text=f"{array}[{index}]")

        e.line(f"{ctype} {array}[{self.each}];")
        p.unrolled("v", self.each)
        e.line(f"{array}[v] = {start_text(e, s.op, carry)};")
        e.close()
        self._elements(live=False)
        e.line(f"{array}[v] = {e.value(s.value).text};")
        self._close()
        if self.each > 1:
            e.open(f"{p.dialect.unroll}\nfor (int v = 1; v < {self.each}; ++v)")
            e.line(f"{array}[v] = {helpers.combine(e, s.op, at('v - 1'), at('v'))};")
            e.close()
        before, whole = carry._replace(text=e.fresh("r")), carry._replace(text=e.fresh("r"))
        e.line(f"{ctype} {before.text} = {carry.text};")
        mine = carry._replace(text=f"{array}[{self.each - 1}]")
        if p.team == 1:
            e.line(f"const {ctype} {whole.text} = {mine.text};")
        elif self.warp:
            self._by_warps(s, ctype, mine, before, whole)
        else:
            self._by_memory(s, ctype, mine, before, whole)
        p.unrolled("v", self.each)
        e.line(f"{array}[v] = {helpers.combine(e, s.op, before, at('v'))};")
        e.close()
        e.line(f"{carry.text} = {helpers.combine(e, s.op, carry, whole)};")
        self.scanned[s.name] = at("v")

    def _by_memory(self, s: Scan, ctype: str, mine: Val, before: Val, whole: Val) -> None:
        p, e, barrier = self.p, self.e, self.p.dialect.barrier
        tmp = p._local(ctype, 0, p.group)
        step = p.teams if p.across else 1
        y = mine._replace(text=e.fresh("y"))
        e.line(f"{tmp}[l] = {mine.text};")
        e.line(barrier)
        e.open(f"for (int h = 1; h < {p.team}; h <<= 1)")
        e.line(f"{ctype} {y.text} = {tmp}[l];")
        earlier = mine._replace(text=f"{tmp}[l - h * {step}]")
        e.line(f"if (t >= h) {y.text} = {helpers.combine(e, s.op, earlier, y)};")
        e.line(barrier)
        e.line(f"{tmp}[l] = {y.text};")
        e.line(barrier)
        e.close()
        earlier = mine._replace(text=f"{tmp}[l - {step}]")
        e.line(f"if (t > 0) {before.text} = {helpers.combine(e, s.op, before, earlier)};")
        first = "0" if p.teams == 1 else "y" if p.across else f"y * {p.team}"
        e.line(f"const {ctype} {whole.text} = {tmp}[{first} + {(p.team - 1) * step}];")
        e.line(barrier)

    def _by_warps(self, s: Scan, ctype: str, mine: Val, before: Val, whole: Val) -> None:
        p, e, barrier = self.p, self.e, self.p.dialect.barrier
        shuffle = p.dialect.shuffle
        w = min(self.warp, p.team)
        x = mine._replace(text=e.fresh("x"))
        e.line(f"{ctype} {x.text} = {mine.text};")
        self._running(s, ctype, x, f"t % {w}", w)
        left = mine._replace(text=e.fresh("y"))
        e.line(f"const {ctype} {left.text} = ({ctype}){shuffle.format(x=x.text, lane='(l - 1)')};")
        if p.team > w:
            parts = p.team // w
            sums = p._local(ctype, 1, p.group // w)
            e.line(f"if (l % {w} == {w - 1}) {sums}[l / {w}] = {x.text};")
            e.line(barrier)
            z = mine._replace(text=e.fresh("z"))
            first = f"y * {parts} + " if p.teams > 1 else ""
            e.line(f"{ctype} {z.text} = l % {w} < {parts} ? {sums}[{first}l % {w}] : "
                   f"{start_text(e, s.op, mine)};")
            self._running(s, ctype, z, f"l % {w}", parts)
            text = shuffle.format(x=z.text, lane=parts - 1)
            e.line(f"const {ctype} {whole.text} = ({ctype}){text};")
            prior = mine._replace(text=e.fresh("y"))
            text = shuffle.format(x=z.text, lane=f"(t / {w} - 1)")
            e.line(f"const {ctype} {prior.text} = ({ctype}){text};")
            e.line(f"if (t >= {w}) {before.text} = {helpers.combine(e, s.op, before, prior)};")
            e.line(barrier)
        else:
            text = shuffle.format(x=x.text, lane=f"(l | {p.team - 1})")
            e.line(f"const {ctype} {whole.text} = ({ctype}){text};")
        e.line(f"if (t % {w} > 0) {before.text} = {helpers.combine(e, s.op, before, left)};")

    def _running(self, s: Scan, ctype: str, x: Val, lane: str, count: int) -> None:
        """x = the running result over `count` items of a warp."""
        e, h = self.e, 1
        while h < count:
            e.open("")
            text = self.p.dialect.shuffle.format(x=x.text, lane=f"(l - {h})")
            y = x._replace(text=e.fresh("y"))
            e.line(f"const {ctype} {y.text} = ({ctype}){text};")
            e.line(f"if ({lane} >= {h}) {x.text} = {helpers.combine(e, s.op, y, x)};")
            e.close()
            h *= 2
