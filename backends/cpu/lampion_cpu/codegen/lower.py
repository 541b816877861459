"""A kernel and its plan to LLVM IR text.

The function is `void k(ptr args, ptr params, i64 lo, i64 hi)`: it runs units lo..hi-1, a unit
being one point of the outer grid axes times a block of the vector axis. May import: lampion,
emit, intrinsics, memory, plan, reduce, types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lampion.base import dtype as dt
from lampion.ir.expr import Expr, const
from lampion.ir.kernel import ArgReduce, Kernel, Reduce, Scan, Scatter, Stage, Store

from . import stores
from . import types as ty
from .emit import Emitter, Lanes
from .intrinsics import combine
from .plan import FLUSH, TILE_ACROSS, TILE_ALONG, Plan
from .reduce import Accumulator


class Lowering:
    """One kernel being written."""

    def __init__(self, kernel: Kernel, plan: Plan, bits: int, features: frozenset[str]) -> None:
        written = frozenset(s.slot for st in kernel.stages for s in st.body
                            if isinstance(s, (Store, Scatter)))
        self.kernel, self.plan = kernel, plan
        self.em = Emitter(kernel.args, written, bits, features)
        self.masked = self.em.masked_native

    def text(self, symbol: str) -> str:
        """The module: one exported function."""
        self.units()
        return self.em.module(f"define void @{symbol}(ptr noalias %args, ptr noalias %params, "
                              "i64 %lo, i64 %hi) #0", "ret void")

    # ---- the grid -----------------------------------------------------------------------------

    def units(self) -> None:
        """The loop over units; binds the outer grid axes."""
        em, plan = self.em, self.plan
        sizes = [em.uniform(e) for e in self.kernel.grid]
        apart = {"grid": (plan.axis,), "tile": (plan.axis, plan.across)}.get(plan.mode, ())
        digits: list[tuple[int, str]] = [(k, n) for k, n in enumerate(sizes) if k not in apart]
        lo, hi = "%lo", "%hi"
        if plan.mode == "grid":
            n = sizes[plan.axis]
            if not digits:
                self.one_axis(n, lo, hi)
                return
            if plan.block:
                padded = em.put(f"add i64 {n}, {plan.block - 1}")
                digits.append((-1, em.put(f"udiv i64 {padded}, {plan.block}")))
        if plan.mode == "tile":
            for axis, edge in ((plan.across, TILE_ACROSS), (plan.axis, TILE_ALONG)):
                padded = em.put(f"add i64 {sizes[axis]}, {edge - 1}")
                digits.append((-1, em.put(f"udiv i64 {padded}, {edge}")))
        if plan.sequential:
            lo, hi = "0", "1"
            for _, n in digits:
                hi = em.put(f"mul i64 {hi}, {n}")
        if not digits:
            self.point()
            return
        self.digit_loop(digits, lo, hi)

    def one_axis(self, n: str, lo: str, hi: str) -> None:
        """A grid of the vector axis alone: units are blocks of it, run as one span."""
        em, block = self.em, self.plan.block
        if self.plan.sequential or not block:
            self.span("0", n)
            return
        start = em.put(f"mul i64 {lo}, {block}")
        end = em.put(f"mul i64 {hi}, {block}")
        less = em.put(f"icmp slt i64 {end}, {n}")
        self.span(start, em.put(f"select i1 {less}, i64 {end}, i64 {n}"))

    def digit_loop(self, digits: Sequence[tuple[int, str]], lo: str, hi: str) -> None:
        """Units counted like an odometer: divided once at `lo`, then carried."""
        em = self.em
        rest, first = lo, []
        for _, n in list(digits)[:0:-1]:
            first.append(em.put(f"urem i64 {rest}, {n}"))
            rest = em.put(f"udiv i64 {rest}, {n}")
        first.append(rest)
        first.reverse()
        single = len(digits) == 1

        def body(u: str, held: list[str]) -> list[str]:
            coords = [u] if single else held
            for (axis, _), c in zip(digits, coords):
                if axis >= 0:
                    em.bind_index(axis, c)
            if self.plan.mode == "grid":
                self.block(coords[-1] if digits[-1][0] < 0 else None)
            elif self.plan.mode == "tile":
                self.tiles(coords[-2], coords[-1])
            else:
                self.point()
            return [] if single else _advance(em, digits, coords)

        em.loop(lo, hi, 1, [] if single else [("i64", c) for c in first], body, "U")

    def tiles(self, down: str, right: str) -> None:
        """One block of square tiles: whole tiles, then the rows that are left one by one."""
        em, plan, w = self.em, self.plan, self.plan.width
        top, bottom = self.bounds(down, TILE_ACROSS, plan.across)
        left, end = self.bounds(right, TILE_ALONG, plan.axis)
        height = em.put(f"and i64 {em.put(f'sub i64 {bottom}, {top}')}, {-w}")
        width = em.put(f"and i64 {em.put(f'sub i64 {end}, {left}')}, {-w}")
        middle = em.put(f"add i64 {top}, {height}")
        whole = em.put(f"add i64 {left}, {width}")

        def square(j: str, i: str) -> None:
            em.lanes = Lanes(plan.axis, w, w, i, None, plan.across, j)
            em.bind_index(plan.axis, i)
            self.point()
            em.lanes = None

        def band(j: str, _: list[str]) -> list[str]:
            em.bind_index(plan.across, j)

            def column(i: str, _: list[str]) -> list[str]:
                square(j, i)
                return []

            em.loop(left, whole, w, [], column, "S")
            return []

        def row(first: str) -> Callable[[str, list[str]], list[str]]:
            def run(j: str, _: list[str]) -> list[str]:
                em.bind_index(plan.across, j)
                self.span(first, end)
                return []

            return run

        em.loop(top, middle, w, [], band, "D")
        em.loop(top, middle, 1, [], row(whole), "E")
        em.loop(middle, bottom, 1, [], row(left), "E")

    def bounds(self, index: str, edge: int, axis: int) -> tuple[str, str]:
        """Start and end of block `index` of a grid axis."""
        em = self.em
        n = em.uniform(self.kernel.grid[axis])
        start = em.put(f"mul i64 {index}, {edge}")
        end = em.put(f"add i64 {start}, {edge}")
        less = em.put(f"icmp slt i64 {end}, {n}")
        return start, em.put(f"select i1 {less}, i64 {end}, i64 {n}")

    def block(self, index: str | None) -> None:
        """The part of the vector axis that belongs to one unit."""
        em = self.em
        if index is None:
            self.span("0", em.uniform(self.kernel.grid[self.plan.axis]))
            return
        self.span(*self.bounds(index, self.plan.block, self.plan.axis))

    def span(self, start: str, stop: str) -> None:
        """Grid points start..stop of the vector axis: unrolled vectors, then a tail."""
        axis = self.plan.axis

        def body(_: list[list[str]]) -> list[list[str]]:
            self.point()
            return []

        self.vector_loop(axis, start, stop, [], body)

    # ---- vector loops -------------------------------------------------------------------------

    def vector_loop(self, axis: int, start: str, stop: str, accs: Sequence[Accumulator],
                    body: Callable[[list[list[str]]], list[list[str]]]) -> None:
        """Run `body` over lanes of `axis`; accumulators join the loop and are updated in place.

        `body` takes and gives the registers of each accumulator (U of them in the main loop).
        """
        em, w, u = self.em, self.plan.width, self.plan.unroll
        length = em.put(f"sub i64 {stop}, {start}")
        main = em.put(f"and i64 {length}, {-(w * u)}")
        middle = main if start == "0" else em.put(f"add i64 {start}, {main}")
        if self.plan.stream:
            self.streamed(axis, start, middle, body)
        else:
            self.main_loop(axis, start, middle, accs, body)
        if self.masked:
            self.masked_tail(axis, middle, stop, accs, body)
        else:
            self.scalar_tail(axis, middle, stop, accs, body)

    def streamed(self, axis: int, start: str, stop: str,
                 body: Callable[[list[list[str]]], list[list[str]]]) -> None:
        """The main loop with stores around the caches, if the outputs are aligned for it."""
        em = self.em
        bits: str | None = None
        for slot in sorted(em.written):
            address = em.put(f"ptrtoint ptr {em.pointer(slot)} to i64")
            bits = address if bits is None else em.put(f"or i64 {bits}, {address}")
        low = em.put(f"and i64 {bits}, 63")
        aligned = em.put(f"icmp eq i64 {low}, 0")
        stream_stop = em.put(f"select i1 {aligned}, i64 {stop}, i64 {start}")
        em.stream = em.used_stream = True
        self.main_loop(axis, start, stream_stop, [], body)
        em.stream = False
        self.main_loop(axis, stream_stop, stop, [], body)

    def main_loop(self, axis: int, start: str, stop: str, accs: Sequence[Accumulator],
                  body: Callable[[list[list[str]]], list[list[str]]]) -> None:
        em, w, u = self.em, self.plan.width, self.plan.unroll
        carries = [pair for a in accs for pair in a.fresh(em, w, u)]

        def inner(i: str, held: list[str]) -> list[str]:
            em.lanes = Lanes(axis, w, u, i)
            em.bind_index(axis, i)
            out = body(_split(held, accs, u))
            em.lanes = None
            return [r for regs in out for r in regs]

        after = em.loop(start, stop, w * u, carries, inner, "V")
        for a, regs in zip(accs, _split(after, accs, u)):
            a.fold(em, regs, w, u)

    def masked_tail(self, axis: int, start: str, stop: str, accs: Sequence[Accumulator],
                    body: Callable[[list[list[str]]], list[list[str]]]) -> None:
        em, w = self.em, self.plan.width
        carries = [pair for a in accs for pair in a.current(w)]

        def inner(i: str, held: list[str]) -> list[str]:
            left = em.put(f"sub i64 {stop}, {i}")
            short = em.put(f"trunc i64 {left} to i32")
            em.lanes = Lanes(axis, w, 1, i)
            wide = em.splat(short, "i32")
            em.lanes.mask = em.put(f"icmp slt <{w} x i32> {em.iota('i32')}, {wide}")
            em.bind_index(axis, i)
            out = body(_split(held, accs, 1))
            em.lanes = None
            return [r for regs in out for r in regs]

        after = em.loop(start, stop, w, carries, inner, "T")
        for a, regs in zip(accs, _split(after, accs, 1)):
            a.vector = regs

    def scalar_tail(self, axis: int, start: str, stop: str, accs: Sequence[Accumulator],
                    body: Callable[[list[list[str]]], list[list[str]]]) -> None:
        em = self.em
        carries = [pair for a in accs for pair in a.current_scalar()]

        def inner(i: str, held: list[str]) -> list[str]:
            em.bind_index(axis, i)
            out = body(_split(held, accs, 1))
            return [r for regs in out for r in regs]

        after = em.loop(start, stop, 1, carries, inner, "T")
        for a, regs in zip(accs, _split(after, accs, 1)):
            a.scalar = regs

    # ---- stages -------------------------------------------------------------------------------

    def point(self) -> None:
        """All stages of the grid point (or points, one a lane) that is bound now."""
        axes = self.plan.stage_axes
        for k, stage in enumerate(self.kernel.stages):
            axis = axes[k] if self.plan.mode == "range" else None
            if axis is None:
                self.sequential_stage(stage)
            else:
                self.vector_stage(stage, axis)

    def sequential_stage(self, stage: Stage) -> None:
        """Range loops run one point at a time, on whatever lanes the grid has."""
        em = self.em
        accs = [Accumulator(s) for s in stage.body if isinstance(s, (Reduce, ArgReduce, Scan))]
        lanes = em.lanes
        w, u = (lanes.width, lanes.count) if lanes is not None else (1, 1)
        first = len(self.kernel.grid)
        flush = [a for a in accs if a.flushes] if self.plan.flush else []

        def nest(k: int, held: list[str]) -> list[str]:
            if k == len(stage.ranges):
                out = self.statements(stage, accs, _split(held, accs, u), None)
                return [r for regs in out for r in regs]
            n = em.uniform(stage.ranges[k])

            def body(i: str, inside: list[str]) -> list[str]:
                em.bind_index(first + k, i)
                return nest(k + 1, inside)

            types = [t for a in accs for t, _ in a.fresh(em, w, u)]
            if k == len(stage.ranges) - 1 and flush:
                return self.flushed(n, accs, list(zip(types, held)), body, w, u)
            return em.loop("0", n, 1, list(zip(types, held)), body, "R")

        start = [r for a in accs for _, r in a.fresh(em, w, u)]
        after = nest(0, start)
        for a, regs in zip(accs, _split(after, accs, u)):
            a.bind(em, regs, lanes is not None)

    def flushed(self, n: str, accs: Sequence[Accumulator], carries: list[tuple[str, str]],
                body: Callable[[str, list[str]], Sequence[str]], w: int, u: int) -> list[str]:
        """A range loop in blocks; float sums start each block afresh, which bounds their error."""
        em = self.em

        def outer(b: str, held: list[str]) -> list[str]:
            end = em.put(f"add i64 {b}, {FLUSH}")
            less = em.put(f"icmp slt i64 {end}, {n}")
            stop = em.put(f"select i1 {less}, i64 {end}, i64 {n}")
            init = []
            for a, regs in zip(accs, _split(held, accs, u)):
                init += a.fresh(em, w, u) if a.flushes else list(
                    zip([t for t, _ in a.fresh(em, w, u)], regs))
            after = em.loop(b, stop, 1, init, body, "R")
            out: list[str] = []
            for a, old, new in zip(accs, _split(held, accs, u), _split(after, accs, u)):
                out += [combine(em, a.op, o, x, a.dtype, w) for o, x in zip(old, new)
                        ] if a.flushes else new
            return out

        return em.loop("0", n, FLUSH, carries, outer, "F")

    def vector_stage(self, stage: Stage, axis: int) -> None:
        """A stage whose lanes are neighbouring points of a range axis."""
        em, first, w = self.em, len(self.kernel.grid), self.plan.width
        accs = [Accumulator(s) for s in stage.body if isinstance(s, (Reduce, ArgReduce))]
        others = [first + k for k in range(len(stage.ranges)) if first + k != axis]
        for a in accs:
            a.begin(em, w, not self.masked)
        size = em.uniform(stage.ranges[axis - first])

        def run(start: str, stop: str) -> None:
            self.vector_loop(axis, start, stop, accs,
                             lambda held: self.statements(stage, accs, held, axis))

        def nest(k: int) -> None:
            if k == len(others):
                if self.plan.flush and any(a.flushes for a in accs):
                    self.carry_loop(size, FLUSH * w * self.plan.unroll, accs, run)
                else:
                    run("0", size)
                return
            n = em.uniform(stage.ranges[others[k] - first])

            def body(i: str, _: str) -> None:
                em.bind_index(others[k], i)
                nest(k + 1)

            self.carry_loop(n, 1, accs, body)

        nest(0)
        for a in accs:
            a.finish(em, w)

    def carry_loop(self, n: str, step: int, accs: Sequence[Accumulator],
                   body: Callable[[str, str], None]) -> None:
        """An outer loop that carries the accumulators; `body` gets the bounds of a block."""
        em, w = self.em, self.plan.width
        carries = [c for a in accs for c in a.current(w) + a.current_scalar(self.masked)]

        def inner(i: str, held: list[str]) -> list[str]:
            at = 0
            for a in accs:
                at = a.restore(held, at, self.masked)
            stop = ""
            if step != 1:
                end = em.put(f"add i64 {i}, {step}")
                less = em.put(f"icmp slt i64 {end}, {n}")
                stop = em.put(f"select i1 {less}, i64 {end}, i64 {n}")
            body(i, stop)
            return [r for a in accs for _, r in a.current(w) + a.current_scalar(self.masked)]

        after = em.loop("0", n, step, carries, inner, "F")
        at = 0
        for a in accs:
            at = a.restore(after, at, self.masked)

    # ---- statements ---------------------------------------------------------------------------

    def statements(self, stage: Stage, accs: Sequence[Accumulator], held: list[list[str]],
                   over: int | None) -> list[list[str]]:
        """Run a stage's statements once; gives the accumulators' next registers.

        `over` is the axis that is both reduced and vectorised: dead lanes of its tail must not
        touch the accumulators.
        """
        em = self.em
        vec = em.lanes is not None
        mask = em.lanes.mask if em.lanes is not None and over is not None else None
        out: list[list[str]] = []
        k = 0
        for at, s in enumerate(stage.body):
            if isinstance(s, Store):
                if at == 0 or not isinstance(stage.body[at - 1], Store):
                    last = at + 1
                    while last < len(stage.body) and isinstance(stage.body[last], Store):
                        last += 1
                    stores.run(em, stage.body[at:last])  # type: ignore[arg-type]
            elif isinstance(s, Scatter):
                self.scatter(s)
                em.forget(s.slot)
            else:
                new = accs[k].update(em, held[k], mask, vec)
                out.append(new)
                if isinstance(s, Scan):
                    accs[k].bind(em, new, vec)
                k += 1
        return out

    def scatter(self, s: Scatter) -> None:
        """`buffer[index] op= value`; lanes touch neighbouring elements (the plan sees to it)."""
        em = self.em
        d = self.kernel.args[s.slot].dtype
        if s.op == "set":
            stores.write(em, stores.prepare(em, s))
            return
        from lampion.ir.expr import load, node
        name = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum"}[s.op]
        old: Expr = load(s.slot, s.index, d) if s.mask is None else load(
            s.slot, s.index, d, mask=s.mask, other=const(0 if d.kind != "f" else 0.0, d))
        if d.kind == "b":
            old = node("load", (s.index,) + ((s.mask, const(False, dt.bool_))
                                             if s.mask is not None else ()), s.slot, d)
        new = replace(s, value=node(name, (old, s.value), None, d))
        stores.write(em, stores.prepare(em, new))


def _split(regs: Sequence[str], accs: Sequence[Accumulator], u: int) -> list[list[str]]:
    """Cut a flat register list into the accumulators' parts."""
    out, at = [], 0
    for a in accs:
        n = u * a.parts
        out.append(list(regs[at:at + n]))
        at += n
    return out


def _advance(em: Emitter, digits: Sequence[tuple[int, str]], coords: list[str]) -> list[str]:
    """The next point of an odometer."""
    out = list(coords)
    carry: str | None = None
    for k in range(len(digits) - 1, -1, -1):
        step = "1" if carry is None else em.put(f"zext i1 {carry} to i64")
        moved = em.put(f"add i64 {coords[k]}, {step}")
        if k:
            carry = em.put(f"icmp eq i64 {moved}, {digits[k][1]}")
            moved = em.put(f"select i1 {carry}, i64 0, i64 {moved}")
        out[k] = moved
    return out


__all__ = ["Lowering", "ty"]
