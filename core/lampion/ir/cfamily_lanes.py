"""The schedule for processors with few cores and wide vectors: C-family text with explicit lanes.

Floor 1; imports cfamily, expr, kernel and schedule. A work item is a work group of its own and
runs a contiguous piece of the problem; nothing synchronises. Two shapes of loop:

- "grid": the lanes are neighbouring points of one grid axis; stages loop their ranges inside.
- "row": the lanes run along the innermost range; a work item does whole grid points.

`choose` picks shape and axis from the kernel and its parameters, `render` prints one variant,
`geometry` says how many work items it takes. Sums of floats are blocked, so that the error grows
with the square root of the length at worst.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from ..base import dtype as dt
from . import cfamily_helpers as helpers
from .cfamily import LANE, Dialect, Emitter, Val, assemble
from .expr import Expr, const, is_const, walk
from .kernel import (
    ArgReduce,
    Kernel,
    Reduce,
    Scan,
    Scatter,
    Stage,
    Statement,
    Store,
    coefficient,
    expressions,
)
from .schedule import bytes_in_order

BLOCK = 64       # vector steps summed before they are added to the total
GRAIN = 1 << 15  # elements a work item should have at least
STREAM = 8 << 20  # bytes of results from which on they bypass the caches
TILE = 16        # rows that are walked together where reads are transposed


class Variant(NamedTuple):
    """Which loops to print: shape "grid" or "row", the vector axis (a grid axis, or -1), lanes,
    the grid axis that is tiled with it (-1: none), how many vectors a loop step takes, and
    whether stores bypass the caches."""

    shape: str
    axis: int
    lanes: int
    tile: int = -1
    unroll: int = 1
    stream: bool = False


_SIZE_OPS = ("add", "sub", "mul", "neg", "idiv", "fmod", "maximum", "minimum")
EXTRA = ("width", "height")  # schedule integers: elements along the vector axis, outer points


def evaluate(e: Expr, params: Sequence[int]) -> int | None:
    """The value of an integer expression of constants and parameters, else None."""
    if e.op == "const":
        return int(e.value)
    if e.op == "param":
        return int(params[e.value])
    a = [evaluate(x, params) for x in e.args]
    if e.op not in _SIZE_OPS or None in a:
        return None
    if e.op == "neg":
        return -a[0]  # type: ignore[operator]
    x, y = a
    assert x is not None and y is not None
    if e.op in ("idiv", "fmod"):
        quotient = 0 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        return quotient if e.op == "idiv" else (x - quotient * y if y else 0)
    return {"add": x + y, "sub": x - y, "mul": x * y, "maximum": max(x, y),
            "minimum": min(x, y)}[e.op]


def sizes(kernel: Kernel, params: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Grid sizes and, per stage, range sizes (a range that depends on the grid point counts 1)."""
    def of(e: Expr) -> int:
        n = evaluate(e, params)
        return 1 if n is None else n

    return [of(e) for e in kernel.grid], [[of(e) for e in s.ranges] for s in kernel.stages]


def ordered(kernel: Kernel) -> bool:
    """Whether the grid must run in order: scatters that may collide."""
    return any(isinstance(s, Scatter) and s.shared for stage in kernel.stages for s in stage.body)


def sequential(stage: Stage) -> bool:
    """Whether the ranges of a stage must run in order, one by one."""
    return any(isinstance(s, (Scan, Scatter)) or getattr(s, "imag", None) is not None
               for s in stage.body)


def widest(kernel: Kernel) -> int:
    """Bytes of the widest value type (index arithmetic does not count)."""
    return max([helpers.register_size(a.dtype) for a in kernel.args if a.kind != "scalar"] + [
        e.dtype.itemsize for e in walk(expressions(kernel))
        if e.dtype is not None and e.dtype.kind == "f"])


def unit_strides(kernel: Kernel, axis: int) -> float:
    """How many accesses are contiguous along an axis; a strided one costs."""
    score = 0.0
    seen: set[tuple[int, Expr]] = set()
    for e in _accesses(kernel):
        slot, index = e
        if e in seen:
            continue
        seen.add(e)
        step = coefficient(index, axis)
        weight = 1.5 if kernel.args[slot].kind != "in" else 1.0
        if step is not None and is_const(step, 1):
            score += weight
        elif step is None or not is_const(step, 0):
            score -= weight
    return score


def _accesses(kernel: Kernel) -> list[tuple[int, Expr]]:
    out = [(e.value, e.args[0]) for e in walk(expressions(kernel)) if e.op == "load"]
    for stage in kernel.stages:
        out += [(s.slot, s.index) for s in stage.body if isinstance(s, (Store, Scatter))]
    return out


def choose(kernel: Kernel, params: Sequence[int], max_lanes: int = 16) -> Variant:
    """The variant for these sizes."""
    grid, ranges = sizes(kernel, params)
    lanes = min(max_lanes, 8 if widest(kernel) == 8 else 16)
    if ordered(kernel):
        return Variant("grid", len(grid) - 1, 1)
    if any(x.op == "index" for s in kernel.stages for x in walk(list(s.ranges))):
        return Variant("row", -1, 1)  # ranges differ between grid points
    inner = _row_length(kernel, ranges)
    fits = [k for k, n in enumerate(grid) if n >= lanes]
    best = max(fits, key=lambda k: (unit_strides(kernel, k), k), default=-1)
    if inner:
        along = max((unit_strides(kernel, len(grid) + len(s.ranges) - 1)
                     for s in kernel.stages if s.ranges), default=0.0)
        points = max(1, _product(grid))
        row = inner >= lanes and (best < 0 or along >= unit_strides(kernel, best)
                                  or points < 2 * lanes)
        if row or best < 0:
            wide = _unroll(kernel, lanes, inner)
            return Variant("row", -1, lanes if inner >= lanes else 1, -1, wide)
    if best < 0:  # short axes: shorter vectors
        best = len(grid) - 1
        lanes = next((n for n in (8, 4) if n < lanes and grid and n <= grid[best]
                      and unit_strides(kernel, best) > 0), 1)
        return Variant("grid", best, lanes)
    wide = _unroll(kernel, lanes, grid[best]) if inner else 1
    stream = grid[best] * bytes_in_order(kernel, best) >= STREAM
    return Variant("grid", best, lanes, _tile_axis(kernel, grid, best), wide, stream)


def _unroll(kernel: Kernel, lanes: int, length: int) -> int:
    """Vectors a step: several where the work is short, to hide latencies."""
    cost = 0
    for stage in kernel.stages:
        if sequential(stage) or any(isinstance(s, ArgReduce) for s in stage.body):
            return 1
        if not stage.ranges and not all(isinstance(s, Store) for s in stage.body):
            return 1
        if stage.ranges:
            values = [s.value for s in stage.body if isinstance(s, (Reduce, Store))]
            cost += sum(1 for e in walk(values) if e.args and e.dtype is not dt.int64)
    n = 4 if cost <= 8 else 2 if cost <= 24 else 1
    return n if length >= 2 * n * lanes else 1


def _row_length(kernel: Kernel, ranges: Sequence[Sequence[int]]) -> int:
    """Length of the innermost range of the longest stage that lanes may run along."""
    return max((r[-1] for s, r in zip(kernel.stages, ranges)
                if r and not sequential(s)), default=0)


def _tile_axis(kernel: Kernel, grid: Sequence[int], axis: int) -> int:
    """The grid axis along which reads are contiguous when they are strided along `axis`."""
    if any(s.ranges for s in kernel.stages):
        return -1
    for k, n in enumerate(grid):
        if k == axis or n < 4:
            continue
        for slot, index in _accesses(kernel):
            along, across = coefficient(index, k), coefficient(index, axis)
            if (along is not None and is_const(along, 1) and across is not None
                    and not is_const(across, 0) and slot >= 0):
                return k
    return -1


def _product(values: Sequence[int]) -> int:
    total = 1
    for v in values:
        total *= v
    return total


def geometry(kernel: Kernel, variant: Variant, params: Sequence[int], units: int,
             ) -> tuple[tuple[int, int], tuple[int, int]]:
    """(work items in two dimensions, the schedule's integers) for `units` processors."""
    grid, ranges = sizes(kernel, params)
    work = max(1, sum(max(1, _product(r)) for r in ranges))
    if ordered(kernel):
        return (1, 1), (max(1, grid[-1] if grid else 1), max(1, _product(grid[:-1])))
    if variant.shape == "row" or not grid:
        points = _product(grid)
        height = max(1, min(-(-GRAIN // work), points), -(-points // (units * 64)))
        return (1, -(-points // height)), (0, height)
    n = grid[variant.axis]
    outer = _product(grid) // max(n, 1)
    width = min(n, max(variant.lanes, -(-GRAIN // work)))
    if width < n:
        step = variant.lanes * variant.unroll
        width = -(-width // step) * step
    height = 1
    if width >= n:
        width = n
        height = max(1, min(outer, -(-GRAIN // max(1, work * n))))
    if variant.tile >= 0:
        height = max(height, min(TILE, outer))
    return (max(1, -(-n // max(width, 1))), -(-outer // height)), (width, height)


def render(kernel: Kernel, dialect: Dialect, variant: Variant, name: str) -> str:
    """The source text of one variant."""
    printer = _Printer(kernel, dialect, variant)
    printer.print()
    return assemble(printer.e, name, EXTRA, attributes=dialect.group_of_one)


class _Printer:
    """Prints the loops of one variant."""

    def __init__(self, kernel: Kernel, dialect: Dialect, variant: Variant) -> None:
        self.kernel, self.dialect, self.variant = kernel, dialect, variant
        self.e = Emitter(kernel, dialect)
        self.first_range = len(kernel.grid)
        self.copies = 1      # vectors that the current block handles side by side
        self.copy_refs: list[dict[str, Val]] = [self.e.refs]

    def print(self) -> None:
        e = self.e
        grid = [e.value(n).text for n in self.kernel.grid]
        if self.variant.shape == "row" or not grid:
            self._outer_loop(range(len(grid)), grid)
            self._set_lanes(1, None)
            self._points()
            self._close_outer(range(len(grid)), grid)
            return
        axis = self.variant.axis
        outer = [k for k in range(len(grid)) if k != axis]
        if self.variant.tile >= 0:  # the tiled axis moves fastest among the outer ones
            outer = [k for k in outer if k != self.variant.tile] + [self.variant.tile]
        e.line(f"const long x0 = {dialect_id(self.dialect, 0)} * width;")
        e.line(f"const long x1 = {least('x0 + width', grid[axis])};")
        if self.variant.tile >= 0 and self.variant.lanes > 1:
            self._tiled(axis, outer, grid)
            return
        self._outer_loop(outer, grid)
        e.line("long x = x0;")
        for copies in {self.variant.unroll: 0, 1: 0} if self.variant.lanes > 1 else ():
            step = copies * self.variant.lanes
            e.open(f"for (; x + {step} <= x1; x += {step})")
            self._grid_points(axis, self.variant.lanes, copies)
            e.close()
        e.open("for (; x < x1; ++x)")
        self._grid_points(axis, 1)
        e.close()
        self._close_outer(outer, grid)

    def _tiled(self, axis: int, outer: Sequence[int], grid: Sequence[str]) -> None:
        """Lanes outside, the outer points of the work item inside: transposed reads stay in
        cache lines that were just fetched."""
        e, lanes = self.e, self.variant.lanes
        e.line("long x = x0;")
        for step in (lanes, 1):
            e.open(f"for (; x + {step} <= x1; x += {step})")
            self._outer_loop(outer, grid)
            self._grid_points(axis, step)
            self._close_outer(outer, grid)
            e.close()

    def _grid_points(self, axis: int, lanes: int, copies: int = 1) -> None:
        self.e.bind(axis, "x")
        self._set_lanes(lanes, axis)
        self.copies, self.copy_refs = copies, [{} for _ in range(copies)]
        self.e.refs = self.copy_refs[0]
        self._points()
        self.copies, self.copy_refs = 1, [self.e.refs]
        self._set_lanes(1, None)

    def _each_copy(self, axis: int, name: str, body: Callable[[int], None]) -> None:
        """Print `body(k)` for every vector that the block handles, `axis` moved along."""
        e = self.e
        if self.copies == 1:
            body(0)
            return
        own = self.copy_refs[0] is not self.copy_refs[1]
        for k in range(self.copies):
            e.open("")
            e.bind(axis, f"({name} + {k * self.variant.lanes})")
            # what follows from a vector's own results must not be shared with the others
            e.refs = {n: v._replace(level=e.level) for n, v in self.copy_refs[k].items()
                      } if own else self.copy_refs[k]
            body(k)
            e.close()
        e.bind(axis, name)

    def _set_lanes(self, lanes: int, axis: int | None) -> None:
        self.e.lanes, self.e.vaxis = lanes, axis
        self.e.stream = self.variant.stream and lanes > 1
        self.e.forget_lanes()

    # -- the outer loop: grid points of this work item, counters carried ------------------------

    def _outer_loop(self, axes: Sequence[int], grid: Sequence[str]) -> None:
        e = self.e
        total = " * ".join(grid[k] for k in axes) or "1"
        u0, u1, u = e.fresh("u"), e.fresh("u"), e.fresh("u")
        e.line(f"const long {u0} = {dialect_id(self.dialect, 1)} * height;")
        e.line(f"const long {u1} = {least(f'{u0} + height', total)};")
        rest = u0
        names = {}
        for at, k in enumerate(reversed(axes)):
            names[k] = e.fresh("g")
            if at == len(axes) - 1:
                e.line(f"long {names[k]} = {rest};")
            else:
                e.line(f"long {names[k]} = {rest} % {grid[k]};")
                after = e.fresh("u")
                e.line(f"const long {after} = {rest} / {grid[k]};")
                rest = after
        e.open(f"for (long {u} = {u0}; {u} < {u1}; ++{u})")
        self._counters = names
        for k in axes:
            e.bind(k, names[k])

    def _close_outer(self, axes: Sequence[int], grid: Sequence[str]) -> None:
        e = self.e
        names = self._counters
        text = ""
        for k in axes:  # outermost first: build nested carries
            step = f"++{names[k]};"
            text = step if not text else (
                f"if (++{names[k]} == {grid[k]}) {{ {names[k]} = 0; {text} }}")
        if text:
            e.line(text)
        e.close()

    # -- one grid point (or `lanes` of them) ---------------------------------------------------

    def _points(self) -> None:
        for stage in self.kernel.stages:
            if not stage.ranges:
                self._each_copy(self.variant.axis, "x", partial(self._statements, stage.body))
            elif self.variant.shape == "row" and not sequential(stage):
                self._row_stage(stage)
            else:
                self._looped_stage(stage)

    def _statements(self, body: Sequence[Statement], _: int) -> None:
        for s in body:
            self._statement(s)

    def _looped_stage(self, stage: Stage) -> None:
        """All ranges one by one; in a grid variant every lane has its own grid point."""
        sums = [_Accumulators(self, stage, self.e.lanes) for _ in range(self.copies)]
        scans = {s.name: self._begin_scan(s) for s in stage.body if isinstance(s, Scan)}

        def body(k: int) -> None:
            for s in stage.body:
                if isinstance(s, Scan):
                    self._step_scan(s, scans[s.name])
                elif not sums[k].step(s):
                    self._statement(s)

        depth, inner = self._open_ranges(stage)
        for a in sums:
            a.open_block()
        self._open_inner(inner)
        self._each_copy(self.variant.axis, "x", body)
        self.e.close()
        for a in sums:
            a.close_block()
        for _ in range(depth):
            self.e.close()
        for a, refs in zip(sums, self.copy_refs):
            self.e.refs = refs
            a.finish()
        self.e.refs = self.copy_refs[0]

    def _open_ranges(self, stage: Stage) -> tuple[int, tuple[str, int, str]]:
        """Open the loops over the ranges, the innermost only over blocks of BLOCK points. Gives
        the number of loops, and (header, axis, name) of the loop inside a block."""
        e = self.e
        *outer, last = stage.ranges
        self._open_plain(outer)
        n, r, end = e.value(last).text, e.fresh("r"), e.fresh("e")
        e.open(f"for ({e.index_type} {r} = 0; {r} < {n};)")
        e.line(f"const {e.index_type} {end} = {least(f'{r} + {BLOCK}', n)};")
        return len(stage.ranges), (f"for (; {r} < {end}; ++{r})", self.first_range + len(outer), r)

    def _open_plain(self, ranges: Sequence[Expr]) -> None:
        e = self.e
        for k, size in enumerate(ranges):
            n, r = e.value(size).text, e.fresh("r")
            e.open(f"for ({e.index_type} {r} = 0; {r} < {n}; ++{r})")
            e.bind(self.first_range + k, r)

    def _open_inner(self, inner: tuple[str, int, str]) -> None:
        header, axis, name = inner
        self.e.open(header)
        self.e.bind(axis, name)

    def _row_stage(self, stage: Stage) -> None:
        """Lanes along the innermost range, several vectors a step, then one, then the tail."""
        e, lanes = self.e, self.variant.lanes
        *outer, last = stage.ranges
        n = e.value(last).text
        reducing = all(isinstance(s, Reduce) for s in stage.body)
        copies = self.variant.unroll if reducing and lanes > 1 else 1
        vectors = [_Accumulators(self, stage, lanes) for _ in range(copies)] if lanes > 1 else []
        single = _Accumulators(self, stage, 1)
        self._open_plain(outer)
        r = e.fresh("r")
        e.line(f"long {r} = 0;")
        for count in {copies: 0, 1: 0} if vectors else ():
            self._row_blocks(stage, vectors[:count], lanes, r, n)
        self._row_blocks(stage, [single], 1, r, n)
        for _ in outer:
            e.close()
        for other in vectors[1:]:
            other.add_into(vectors[0])
        if vectors:
            vectors[0].reduce_into(single)
        single.finish()

    def _row_blocks(self, stage: Stage, sums: Sequence[_Accumulators], lanes: int, r: str,
                    n: str) -> None:
        """The loops from `r` on that take one vector for each of `sums` a step."""
        e, axis = self.e, self.first_range + len(stage.ranges) - 1
        step, end = lanes * len(sums), e.fresh("e")
        e.open(f"for (; {r} + {step} <= {n};)")
        e.line(f"const long {end} = {least(f'{r} + {BLOCK * step}', f'{n} - {step - 1}')};")
        self._set_lanes(lanes, axis)
        for a in sums:
            a.open_block()
        self._open_inner((f"for (; {r} < {end}; {r} += {step})", axis, r))

        def body(k: int) -> None:
            for s in stage.body:
                if not sums[k].step(s):
                    self._statement(s)

        refs = e.refs
        self.copies, self.copy_refs = len(sums), [refs] * len(sums)
        self._each_copy(axis, r, body)
        self.copies, self.copy_refs = 1, [refs]
        e.close()
        for a in sums:
            a.close_block()
        self._set_lanes(1, None)
        e.close()

    # -- statements -----------------------------------------------------------------------------

    def _statement(self, s: Statement) -> None:
        e = self.e
        if isinstance(s, Store):
            e.store(s.slot, s.index, s.value, s.mask)
        elif isinstance(s, Scatter):
            op = s.op
            e.store(s.slot, s.index, s.value, s.mask,
                    None if op == "set" else lambda a, b: helpers.combine(e, op, a, b))
        elif isinstance(s, (Reduce, ArgReduce)):  # a stage without ranges: one element
            v = e.value(s.value)
            if isinstance(s, ArgReduce):
                e.refs[s.name + "_value"] = v
                v = e.value(s.position)
            e.refs[s.name] = v
        else:
            e.refs[s.name] = e.value(s.value)
        if isinstance(s, (Reduce, Scan)) and s.imag is not None:
            e.refs[s.name + ".imag"] = e.value(s.imag)

    def _begin_scan(self, s: Scan) -> tuple[Val, Val | None]:
        """The running value, and its imaginary part where it is a product of complex numbers."""
        e = self.e
        d = s.value.dtype
        assert d is not None
        v = accumulator(e, d, e.lanes)
        e.line(f"{e.ctype(v)} {v.text} = {start_text(e, s.op, v)};")
        return v, None if s.imag is None else imaginary(e, d, e.lanes)

    def _step_scan(self, s: Scan, acc: tuple[Val, Val | None]) -> None:
        e = self.e
        running, imag = acc
        v = e.value(s.value)
        if imag is None:
            e.line(f"{running.text} = {helpers.combine(e, s.op, running, v)};")
        else:
            assert s.imag is not None
            multiply(e, running, imag, v, e.value(s.imag))
            e.refs[s.name + ".imag"] = imag._replace(level=e.level, volatile=True)
        e.refs[s.name] = running._replace(level=e.level, volatile=True)
        e.forget_lanes()


def dialect_id(dialect: Dialect, d: int) -> str:
    """The number of this work item, as a signed integer."""
    return f"(long){dialect.global_id.format(d=d)}"


def least(a: str, b: str) -> str:
    """The smaller of two integers, without a library call."""
    return f"({a}) < ({b}) ? ({a}) : ({b})"


def accumulator(e: Emitter, d: dt.dtype, lanes: int) -> Val:
    """A fresh variable of dtype `d` (not yet declared) at the current level."""
    return Val(e.fresh("a"), d, lanes, 4 if d.kind == "b" and lanes > 1 else 0, e.level)


def start_text(e: Emitter, op: str, v: Val) -> str:
    """The identity of `op` as an initialiser for `v`."""
    c = e.value(const(helpers.identity(op, v.dtype), v.dtype))
    return e.mask(c, v.width, v.lanes) if v.dtype.kind == "b" else e.vec(c, v.lanes)


def imaginary(e: Emitter, d: dt.dtype, lanes: int) -> Val:
    """A declared variable for the imaginary part of a product, 0 at first."""
    v = accumulator(e, d, lanes)
    e.line(f"{e.ctype(v)} {v.text} = {start_text(e, 'sum', v)};")
    return v


def multiply(e: Emitter, re: Val, im: Val, x: Val, y: Val) -> None:
    """re + im i becomes its product with x + y i."""
    a, b = e.vec(x, re.lanes), e.vec(y, re.lanes)
    product = e.fresh("t")
    e.line(f"const {e.ctype(re)} {product} = {re.text} * {a} - {im.text} * {b};")
    e.line(f"{im.text} = {re.text} * {b} + {im.text} * {a};")
    e.line(f"{re.text} = {product};")


class _Accumulators:
    """The running values of a stage's reductions, in `lanes` lanes.

    Sums of floats have a second level: they are collected in a block and then added.
    """

    def __init__(self, printer: _Printer, stage: Stage, lanes: int) -> None:
        self.p, self.e, self.lanes = printer, printer.e, lanes
        self.totals: dict[str, Val] = {}
        self.positions: dict[str, Val] = {}
        self.blocks: dict[str, Val] = {}
        self.imags: dict[str, Val] = {}
        self.statements = [s for s in stage.body if isinstance(s, (Reduce, ArgReduce))]
        e = self.e
        for s in self.statements:
            d = s.value.dtype
            assert d is not None
            v = self.totals[s.name] = accumulator(e, d, lanes)
            e.line(f"{e.ctype(v)} {v.text} = {start_text(e, s.op, v)};")
            if isinstance(s, Reduce) and s.imag is not None:
                self.imags[s.name] = imaginary(e, d, lanes)
            if isinstance(s, ArgReduce):
                at = self.positions[s.name] = accumulator(e, dt.int64, lanes)
                minus = e.vec(Val("-1l", dt.int64), lanes)
                e.line(f"{e.ctype(at)} {at.text} = {minus};")

    def open_block(self) -> None:
        """Before the innermost loop: fresh block sums."""
        e = self.e
        for s in self.statements:
            d = s.value.dtype
            if isinstance(s, Reduce) and s.op == "sum" and d is not None and d.kind == "f":
                v = self.blocks[s.name] = accumulator(e, d, self.lanes)
                e.line(f"{e.ctype(v)} {v.text} = {start_text(e, 'sum', v)};")

    def step(self, s: Statement) -> bool:
        """Print a reduction's update; False if `s` is not one."""
        e = self.e
        if isinstance(s, Reduce) and s.imag is not None:
            multiply(e, self.totals[s.name], self.imags[s.name], e.value(s.value), e.value(s.imag))
            return True
        if isinstance(s, Reduce):
            acc = self.blocks.get(s.name, self.totals[s.name])
            e.line(f"{acc.text} = {helpers.combine(e, s.op, acc, e.value(s.value))};")
            return True
        if isinstance(s, ArgReduce):
            v, at = e.value(s.value), e.value(s.position)
            update_arg(e, s.op, self.totals[s.name], self.positions[s.name], v, at, self.lanes)
            return True
        return False

    def close_block(self) -> None:
        """After the innermost loop: add the block sums."""
        for name, block in self.blocks.items():
            total = self.totals[name]
            self.e.line(f"{total.text} = {helpers.combine(self.e, 'sum', total, block)};")
        self.blocks = {}

    def add_into(self, other: _Accumulators) -> None:
        """Combine lane by lane with accumulators of the same shape."""
        for s in self.statements:
            total = other.totals[s.name]
            text = helpers.combine(self.e, s.op, total, self.totals[s.name])
            self.e.line(f"{total.text} = {text};")

    def reduce_into(self, single: _Accumulators) -> None:
        """Fold the lanes into one-lane accumulators."""
        e = self.e
        for s in self.statements:
            lane_vals = _lanes_of(e, self.totals[s.name])
            if isinstance(s, ArgReduce):
                positions = _lanes_of(e, self.positions[s.name])
                for v, at in zip(lane_vals, positions):
                    merge_arg(e, s.op, single.totals[s.name], single.positions[s.name], v, at)
                continue
            while len(lane_vals) > 1:
                half = len(lane_vals) // 2
                lane_vals = [e.define(helpers.combine(e, s.op, a, b), a.dtype, 1, e.level)
                             for a, b in zip(lane_vals[:half], lane_vals[half:])]
            acc = single.totals[s.name]
            e.line(f"{acc.text} = {helpers.combine(e, s.op, acc, lane_vals[0])};")

    def finish(self) -> None:
        """Publish the results to later stages."""
        e = self.e
        for s in self.statements:
            if isinstance(s, ArgReduce):
                e.refs[s.name] = self.positions[s.name]
                e.refs[s.name + "_value"] = self.totals[s.name]
            else:
                e.refs[s.name] = self.totals[s.name]
            if s.name in self.imags:
                e.refs[s.name + ".imag"] = self.imags[s.name]
        e.forget_lanes()


def _lanes_of(e: Emitter, v: Val) -> list[Val]:
    out = []
    for k in range(v.lanes):
        text = f"{v.text}.s{LANE[k]}"
        out.append(Val(f"({text} != 0)" if v.dtype.kind == "b" else text, v.dtype, 1, 0, v.level))
    return out


def better(e: Emitter, op: str, new: Val, old: Val, lanes: int) -> str:
    """Condition: `new` beats `old` (NaN beats numbers), as a mask of the value's width."""
    a, b = e.vec(new, lanes), e.vec(old, lanes)
    c = ">" if op == "max" else "<"
    text = f"({a} {c} {b})"
    if new.dtype.kind == "f":
        text = f"({text} | (({a} != {a}) & ({b} == {b})))"
    return text


def update_arg(e: Emitter, op: str, best: Val, position: Val, v: Val, at: Val,
               lanes: int) -> None:
    """best, position = v, at where v is better or nothing was seen yet."""
    if v.dtype.kind == "b":
        v, best_value = _as_number(e, v, lanes), _as_number(e, best, lanes)
    else:
        best_value = best
    value_width = helpers.register_size(v.dtype)
    win = Val(better(e, op, v, best_value, lanes), dt.bool_, lanes, value_width)
    none = Val(f"({position.text} < {e.vec(Val('0l', dt.int64), lanes)})", dt.bool_, lanes, 8)
    take = e.define(f"{e.mask(win, 8, lanes)} | {e.mask(none, 8, lanes)}", dt.bool_, lanes,
                    e.level, 8 if lanes > 1 else 0)
    width = best.width or value_width
    if best.dtype.kind == "b":
        m = e.mask(take, width, lanes)
        zero = e.vec(Val("((uchar)0)", dt.uint8), lanes)
        new = e.mask(Val(f"({v.text} != {zero})", dt.bool_, lanes, value_width), width, lanes)
        e.line(f"{best.text} = ({m} & {new}) | (~{m} & {best.text});" if lanes > 1 else
               f"{best.text} = {m} ? {new} : {best.text};")
    else:
        e.line(f"{best.text} = {e.mask(take, width, lanes)} ? {e.vec(v, lanes)} : {best.text};")
    e.line(f"{position.text} = {take.text} ? {e.vec(at, lanes)} : {position.text};")


def _as_number(e: Emitter, v: Val, lanes: int) -> Val:
    n = helpers.convert(e, v, dt.uint8)
    return e.define(e.vec(n, lanes), dt.uint8, lanes, e.level, 0, True)


def merge_arg(e: Emitter, op: str, best: Val, position: Val, v: Val, at: Val) -> None:
    """Fold another partial result in: the better value, then the smaller position."""
    a, b = v.text, best.text
    same = f"({a} == {b})"
    if v.dtype.kind == "f":
        same = f"({same} | (({a} != {a}) & ({b} != {b})))"
    win = better(e, op, v, best, 1)
    take = e.fresh("m")
    e.line(f"const int {take} = ({at.text} >= 0) & (({position.text} < 0) | {win} | "
           f"({same} & ({at.text} < {position.text})));")
    e.line(f"{best.text} = {take} ? {a} : {b};")
    e.line(f"{position.text} = {take} ? {at.text} : {position.text};")

