"""Program transformations that every device wants before kernels are printed.

Floor 1; imports base, expr, kernel. `split` cuts a large reduction over few grid points into
partial results in scratch memory and a combining step, so that one sum of a million numbers is
many units of work; it also keeps float sums accurate, because each partial sum is short. How
many parts there are depends on the shape alone, so results are reproducible. `bytes_in_order`
tells whose results may bypass the caches.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..base import dtype as dt
from .expr import (
    Expr,
    const,
    index,
    is_const,
    load,
    node,
    param,
    ref,
    rewrite,
    substitute,
    walk,
)
from .kernel import (
    Arg,
    ArgReduce,
    Kernel,
    KernelCall,
    Program,
    Reduce,
    Scan,
    Scatter,
    Stage,
    Statement,
    Store,
    coefficient,
    map_statement,
    statement_exprs,
)

PART = 65536  # points of one part, at least
LARGE = 2 * PART  # ranges from here on are cut
PARTS = 256  # at most so many parts
FEW_ROWS = 64  # grid points that are too few to keep a machine busy, lanes along the range
FEW_COLUMNS = 4096  # the same with lanes along the grid
TALL = 512  # columns of so many rows, in a matrix beyond the caches, are summed a band at a time:
BAND = 32  # so many rows, which are then as many sequential streams
BEYOND_CACHE = 1 << 20  # points
# The same for thousands of threads, where hundreds of groups of them should have work:
ROW_PART = 1 << 14  # points of one part along a row, at least
ROW_GROUPS = 1 << 11  # parts of all rows, at most
ROW_STAGES = 1 << 8  # the same where several stages are cut, each into a kernel of its own
COLUMN_PART = 64  # rows of one part of columns, at least
COLUMN_THREADS = 1 << 15  # columns times parts, at most
ALIGNED = 64  # parts along a row begin at a multiple of so many points

_built: dict[tuple[str, str], Kernel] = {}
_lock = threading.Lock()


def split(program: Program, threads: bool = False) -> Program:
    """The program with large reductions over few grid points cut into parts: few large ones for
    a handful of cores, or (`threads`) many small ones for thousands of threads.

    New scratch buffers follow the program's last slot. Kernels with scatters (and, for cores, with
    scans), and problems that are small or already parallel, are left alone.
    """
    calls: list[KernelCall] = []
    scratch = list(program.scratch)
    used = max((s for c in program.calls for s in c.slots), default=-1) + 1
    base = max(used, 0) - len(scratch)
    for call in program.calls:
        if threads and (cut := _scan_cut(call)) is not None:
            calls += _scan_in_parts(call, cut, base, scratch)
        else:
            calls += (_Splitter(call, base, scratch, threads).calls() if wanted(call, threads)
                      else [call])
    if len(calls) == len(program.calls):
        return program
    return Program(tuple(calls), tuple(scratch))


def wanted(call: KernelCall, threads: bool = False) -> bool:
    """Whether a call has a large range over too few grid points to be split usefully."""
    kernel = call.kernel
    if any(isinstance(s, (Scan, Scatter)) or (isinstance(s, Reduce) and s.imag is not None)
           for st in kernel.stages for s in st.body):
        return False
    grid = 1
    for e in kernel.grid:
        grid *= size(e, call.params)
    if grid == 0:
        return False
    rows, single = _shape(kernel, call.params, threads)
    cut = _cut_for_threads if threads else _cut
    if not any(cut(st, call.params, grid, rows, single) for st in kernel.stages if st.ranges):
        return False
    return threads or (single and not rows) or grid < (FEW_ROWS if rows else FEW_COLUMNS)


def _shape(kernel: Kernel, params: Sequence[int], threads: bool) -> tuple[bool, bool]:
    """(lanes run along a range, only one stage has ranges)."""
    rows = (not (kernel.grid and columns_together(kernel, params)) if threads
            else _rows(kernel))
    return rows, sum(1 for st in kernel.stages if st.ranges) == 1


def columns_together(kernel: Kernel, params: Sequence[int]) -> bool:
    """Whether what the ranges touch lies together along the last grid axis, not along them.

    The stages with most points decide: a short one that reads partial results side by side says
    nothing about the long one that uses them.
    """
    score = 0
    points = [_points(stage, params) if stage.ranges and not _uneven(stage) else 0
              for stage in kernel.stages]
    for stage, count in zip(kernel.stages, points):
        if stage.ranges and 4 * count >= max(points):
            roots = [x for s in stage.body for x in statement_exprs(s)]
            places = {e.args[0] for e in walk(roots) if e.op == "load"}
            places |= {s.index for s in stage.body if isinstance(s, (Store, Scatter))}
            grid = len(kernel.grid)
            score += sum(_unit(e, grid - 1) - _unit(e, grid + len(stage.ranges) - 1)
                         for e in places)
    return score > 0


def _uneven(stage: Stage) -> bool:
    """Whether a range is longer at some grid points than at others."""
    return any(x.op == "index" for x in walk(stage.ranges))


def _unit(e: Expr, axis: int) -> bool:
    step = coefficient(e, axis)
    return step is not None and is_const(step, 1)


def size(e: Expr, params: Sequence[int]) -> int:
    """The value of a size expression."""
    if e.op == "param":
        return int(params[e.value])
    if e.op == "const":
        return int(e.value)
    a, b = (size(x, params) for x in e.args)
    return {"add": a + b, "sub": a - b, "mul": a * b, "maximum": max(a, b),
            "minimum": min(a, b)}[e.op]


def _points(stage: Stage, params: Sequence[int]) -> int:
    total = 1
    for r in stage.ranges:
        total *= size(r, params)
    return total


def _rows(kernel: Kernel) -> bool:
    """Whether some access is contiguous along an innermost range."""
    for st in kernel.stages:
        if st.ranges:
            axis = len(kernel.grid) + len(st.ranges) - 1
            roots = [x for s in st.body for x in statement_exprs(s)]
            for e in walk(roots):
                if e.op == "load" and _unit(e.args[0], axis):
                    return True
    return False


@dataclass
class _Cut:
    """How a stage is cut: `axis` of its ranges into `count` parts of `length`, plus `rest`."""

    axis: int
    count: int
    length: int
    rest: int

    @property
    def total(self) -> int:
        return self.count + (1 if self.rest else 0)


def _cut(stage: Stage, params: Sequence[int], grid: int, rows: bool, single: bool) -> _Cut | None:
    sizes = [size(r, params) for r in stage.ranges]
    points = 1
    for n in sizes:
        points *= n
    if points >= LARGE:
        parts = min(-(-points * grid // PART), PARTS)
    elif single and not rows and points >= TALL and points * grid >= BEYOND_CACHE and grid >= PARTS:
        parts = points // BAND
    else:
        return None
    return _even_parts(stage, sizes, parts, 1)


def _cut_for_threads(stage: Stage, params: Sequence[int], grid: int, rows: bool,
                     single: bool) -> _Cut | None:
    sizes = [size(r, params) for r in stage.ranges]
    points = 1
    for n in sizes:
        points *= n
    if rows:
        parts = min(points // ROW_PART, (ROW_GROUPS if single else ROW_STAGES) // grid)
    else:
        least = COLUMN_PART if single else 16 * COLUMN_PART
        parts = min(points // least, COLUMN_THREADS // max(grid, 32))
    if parts < (2 if single else 4):
        return None
    return _even_parts(stage, sizes, parts, ALIGNED if rows else 1)


def _even_parts(stage: Stage, sizes: Sequence[int], parts: int, align: int) -> _Cut | None:
    """About `parts` parts, of a length that is a multiple of `align`, and what is left."""
    ordered = any(isinstance(s, ArgReduce) for s in stage.body)
    axis = 0 if ordered or sizes[0] >= parts else max(range(len(sizes)), key=sizes.__getitem__)
    length = -(-sizes[axis] // parts)
    if axis == len(sizes) - 1:
        length = -(-length // align) * align
    count = sizes[axis] // length
    return None if count < 2 else _Cut(axis, count, length, sizes[axis] - count * length)


class _Splitter:
    """Turns one call into several.

    `prefix` holds the small stages that later kernels repeat to get the results so far: in place
    of each large reduction a reduction over its partial results.
    """

    def __init__(self, call: KernelCall, io: int, scratch: list[int], threads: bool) -> None:
        self.call, self.kernel, self.params = call, call.kernel, call.params
        self.io, self.scratch = io, scratch
        self.args = list(call.kernel.args)
        self.slots = list(call.slots)
        self.values = list(call.params)
        self.prefix: list[Stage] = []
        self.shape = _shape(call.kernel, call.params, threads)
        self.rule = _cut_for_threads if threads else _cut
        self.grid = 1
        for e in self.kernel.grid:
            self.grid *= size(e, self.params)

    def calls(self) -> list[KernelCall]:
        """The calls that replace the one given."""
        out: list[KernelCall] = []
        stages, at = self.kernel.stages, 0
        while at < len(stages):
            cut = self.cut(stages[at])
            if cut is not None:
                out += self.parts(stages[at], cut, at)
                at += 1
                continue
            batch = []  # consecutive small stages run together once, if they store anything
            while at < len(stages) and self.cut(stages[at]) is None:
                batch.append(stages[at])
                at += 1
            if any(isinstance(s, Store) for st in batch for s in st.body):
                out.append(self.whole(batch))
            self.prefix += [replace(st, body=kept) for st in batch
                            if (kept := tuple(s for s in st.body if not isinstance(s, Store)))]
        return out

    def cut(self, stage: Stage) -> _Cut | None:
        """How a stage is cut, or None."""
        return self.rule(stage, self.params, self.grid, *self.shape)

    def whole(self, batch: list[Stage]) -> KernelCall:
        """The small stages on the original grid."""
        kernel = _kernel(self.kernel.name, self.args, self.kernel.grid,
                         [*self.prefix, *batch], len(self.values))
        return KernelCall(kernel, tuple(self.values), tuple(self.slots))

    def parts(self, stage: Stage, cut: _Cut, at: int) -> list[KernelCall]:
        """One large stage: every part a grid point of its own."""
        n = len(self.values)
        count, length, base, first = (param(n + k) for k in range(4))
        shift = {k: index(k + 1) for k in range(len(self.kernel.grid))}
        place = {len(self.kernel.grid) + k: index(len(self.kernel.grid) + 1 + k)
                 for k in range(max(len(st.ranges) for st in self.kernel.stages) + 1)}
        inside = dict(place)
        axis = len(self.kernel.grid) + cut.axis
        start = _int("add", _int("mul", index(0), length), base)
        inside[axis] = _int("add", start, place[axis])
        ranges = list(stage.ranges)
        ranges[cut.axis] = length
        body = tuple(_move(s, {**shift, **inside}) for s in stage.body)
        prefix = [_move_stage(st, {**shift, **place}) for st in self.prefix]
        slots, stores, combine = list(self.slots), [], []
        args = list(self.args)
        self.values.append(cut.total)
        for s in stage.body:
            if isinstance(s, (Reduce, ArgReduce)):
                for name, kind in _results(s):
                    args.append(Arg("out", kind))
                    self.args.append(Arg("in", kind))
                    slots.append(self.allocate(cut.total * self.grid * kind.itemsize))
                    self.slots.append(slots[-1])
                    where = self.offset(_int("add", index(0), first), 1)
                    stores.append(Store(len(args) - 1, where, ref(name, kind)))
                combine.append(_combine(s, len(args), self.offset(
                    index(len(self.kernel.grid)), 0)))
        stages = [*prefix, Stage(tuple(ranges), body)]
        if stores:
            stages.append(Stage((), tuple(stores)))
            self.prefix.append(Stage((param(n),), tuple(combine)))
        kernel = _kernel(f"{self.kernel.name}_part", args, (count, *self.kernel.grid), stages,
                         n + 4)
        values = tuple(self.values[:n])
        out = [KernelCall(kernel, (*values, cut.count, cut.length, 0, 0), tuple(slots))]
        if cut.rest:
            out.append(KernelCall(kernel, (*values, 1, cut.rest, cut.count * cut.length,
                                           cut.count), tuple(slots)))
        return out

    def allocate(self, nbytes: int) -> int:
        """A scratch buffer; gives its program slot."""
        self.scratch.append(nbytes)
        return self.io + len(self.scratch) - 1

    def offset(self, part: Expr, first: int) -> Expr:
        """Element of a scratch buffer [parts, grid...]; grid axes are numbered from `first`."""
        total = part
        for k, n in enumerate(self.kernel.grid):
            total = _int("add", _int("mul", total, n), index(first + k))
        return total


# ---- scans ----


def _scan_cut(call: KernelCall) -> _Cut | None:
    """How a kernel that is one long scan over few grid points is cut, or None."""
    kernel = call.kernel
    if len(kernel.stages) != 1 or len(kernel.stages[0].ranges) != 1:
        return None
    stage = kernel.stages[0]
    scans = [s for s in stage.body if isinstance(s, Scan)]
    if len(scans) != 1 or scans[0].imag is not None or scans[0].op not in _OF_TWO or not all(
            isinstance(s, (Scan, Store)) for s in stage.body):
        return None
    if any(x.op == "index" for x in walk(stage.ranges)):
        return None
    points = 1
    for e in kernel.grid:
        points *= size(e, call.params)
    n = size(stage.ranges[0], call.params)
    if kernel.grid and columns_together(kernel, call.params):
        parts, align = min(n // (8 * COLUMN_PART), COLUMN_THREADS // max(points, 32)), 1
    else:
        parts, align = min(n // ROW_PART, ROW_GROUPS // (2 * max(1, points))), ALIGNED
    return _even_parts(stage, [n], parts, align) if points and parts >= 4 else None


_OF_TWO = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum"}


def _scan_in_parts(call: KernelCall, cut: _Cut, io: int, scratch: list[int]) -> list[KernelCall]:
    """Totals of the parts, their scan, and every part's own scan on top of what came before."""
    kernel, n = call.kernel, len(call.params)
    stage, dims = kernel.stages[0], len(kernel.grid)
    scan = next(s for s in stage.body if isinstance(s, Scan))
    d = scan.value.dtype
    assert d is not None
    points = 1
    for e in kernel.grid:
        points *= size(e, call.params)
    scratch += [cut.count * points * d.itemsize] * 2
    totals, before = io + len(scratch) - 2, io + len(scratch) - 1
    count, length, base, first = (param(n + k) for k in range(4))

    def place(part: Expr, axis: int) -> Expr:
        at = part
        for k, m in enumerate(kernel.grid):
            at = _int("add", _int("mul", at, m), index(axis + k))
        return at

    axes = {k: index(k + 1) for k in range(dims)}
    axes[dims] = _int("add", _int("add", _int("mul", index(0), length), base), index(dims + 1))
    slot = len(kernel.args)
    whole = ref(scan.name, d)
    inner = _move(scan, axes)
    assert isinstance(inner, Scan)
    add = _kernel(f"{kernel.name}_part", [*kernel.args, Arg("out", d)], (count, *kernel.grid), [
        Stage((length,), (Reduce(scan.name, scan.op, inner.value),)),
        Stage((), (Store(slot, place(_int("add", index(0), first), 1), whole),))], n + 4)
    places = place(index(dims), 0)
    chain = _kernel(f"{kernel.name}_chain", [Arg("out", d), Arg("in", d)], kernel.grid, [
        Stage((param(n),), (Scan(scan.name, scan.op, load(1, places, d)),
                            Store(0, places, whole)))], n + 1)
    part = _int("add", index(0), first)
    later = node("gt", (part, const(0, dt.int64)), None, dt.bool_)
    earlier = load(slot, place(_int("sub", part, const(1, dt.int64)), 1), d, mask=later,
                   other=const(0, d))
    total = node("select", (later, node(_OF_TWO[scan.op], (earlier, whole), None, d), whole), None,
                 d)

    def finish(e: Expr) -> Expr:
        return substitute([e], {whole: total})[0]

    body = [m if isinstance(m, Scan) else map_statement(m, finish)
            for m in (_move(s, axes) for s in stage.body)]
    own = _kernel(f"{kernel.name}_own", [*kernel.args, Arg("in", d)], (count, *kernel.grid),
                  [Stage((length,), tuple(body))], n + 4)
    values, slots = tuple(call.params), tuple(call.slots)
    pieces = [(cut.count, cut.length, 0, 0)]
    if cut.rest:
        pieces.append((1, cut.rest, cut.count * cut.length, cut.count))
    return [KernelCall(add, (*values, *pieces[0]), (*slots, totals)),
            KernelCall(chain, (*values, cut.count), (before, totals)),
            *(KernelCall(own, (*values, *piece), (*slots, before)) for piece in pieces)]


def _results(s: Reduce | ArgReduce) -> list[tuple[str, dt.dtype]]:
    assert s.value.dtype is not None
    if isinstance(s, ArgReduce):
        return [(s.name + "_value", s.value.dtype), (s.name, dt.int64)]
    return [(s.name, s.value.dtype)]


def _combine(s: Reduce | ArgReduce, slots: int, at: Expr) -> Statement:
    """The same reduction over partial results in the last slots."""
    assert s.value.dtype is not None
    if isinstance(s, ArgReduce):
        return ArgReduce(s.name, s.op, load(slots - 2, at, s.value.dtype),
                         load(slots - 1, at, dt.int64))
    return Reduce(s.name, s.op, load(slots - 1, at, s.value.dtype))


def _int(op: str, a: Expr, b: Expr) -> Expr:
    return node(op, (a, b), None, dt.int64)


def _renumber(e: Expr, axes: dict[int, Expr]) -> Expr:
    def rule(x: Expr, args: tuple[Expr, ...]) -> Expr:
        if x.op == "index":
            return axes[x.value]
        return x if args == x.args else node(x.op, args, x.value, x.dtype)

    return rewrite([e], rule)[0]


def _move(s: Statement, axes: dict[int, Expr]) -> Statement:
    return map_statement(s, lambda e: _renumber(e, axes))


def _move_stage(st: Stage, axes: dict[int, Expr]) -> Stage:
    return Stage(st.ranges, tuple(_move(s, axes) for s in st.body))


def _kernel(name: str, args: Sequence[Arg], grid: Sequence[Expr], stages: Sequence[Stage],
            nparams: int) -> Kernel:
    """The kernel, one object for equal content."""
    kernel = Kernel(name, tuple(args), tuple(grid), tuple(stages), nparams)
    with _lock:
        return _built.setdefault((name, kernel.key), kernel)


def bytes_in_order(kernel: Kernel, axis: int) -> int:
    """How many bytes a grid point writes, if everything is written once and in order along
    `axis`, the only one, so that big results may bypass the caches; else 0."""
    stores = [s for stage in kernel.stages for s in stage.body]
    in_order = len(kernel.grid) == 1 and not any(stage.ranges for stage in kernel.stages) and all(
        isinstance(s, Store) and s.mask is None and s.index.op == "index"
        and s.index.value == axis and kernel.args[s.slot].kind != "inout" for s in stores)
    return sum(kernel.args[s.slot].dtype.itemsize for s in stores
               if isinstance(s, Store)) if in_order else 0
