"""The schedule for processors with thousands of threads: C-family text.

Floor 1; imports cfamily, cfamily_lanes, cfamily_packed, the printers, expr and kernel. Shapes:

- "vector": a few vectors of neighbouring grid points an item (cfamily_threads_vector).
- "team": items share the ranges of a grid point and combine their partial results, always in the
  same order, so results are reproducible (cfamily_threads_team).
- "tile": transposes, through local memory (cfamily_threads_tile).
- "ordered", "atomic": scatters that may collide (cfamily_threads_scatter).
- "item": a work item per grid point, ranges loop inside it; neighbours touch neighbours.
- "serial": one work item does everything in order, where grid points may collide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import cfamily_lanes as lanes_schedule
from .cfamily import Dialect, assemble, of
from .cfamily_lanes import sizes
from .cfamily_packed import NARROW, ThreadPrinter, fits, unit, vector_length
from .cfamily_threads_scatter import AtomicPrinter, OrderedPrinter, features, scatter_of
from .cfamily_threads_team import TeamPrinter
from .cfamily_threads_tile import SIDES, TilePrinter, tile_axis
from .cfamily_threads_vector import VectorPrinter, vectorizable
from .expr import is_const, walk
from .kernel import (
    ArgReduce,
    Kernel,
    Reduce,
    Scan,
    Scatter,
    Store,
    coefficient,
    expressions,
)
from .schedule import columns_together

ITEM = 64             # work items of a group where they do not cooperate
GROUP = 256           # the same where there are many points
BUSY = 1 << 17        # work items that keep a large device busy
IN_FLIGHT = 64        # bytes an item should have on their way
COST = 600            # operations an item may unroll
KEPT = 16             # elements of a row that an item holds on to
WARP = 32             # items that touch memory together


class Variant(NamedTuple):
    """shape: one of those above; `group` is the work group size; narrow: index arithmetic in 32
    bits; `vector` elements an access (or a tile's side), `unroll` of them at a time; `team` items a
    grid point, `across` columns; `kept`: rows stay in registers; `main`: a stage with the ranges
    that all of this is about, or a tile's other axis; `shards`: groups that look through the points
    of an ordered scatter, `team` neighbouring features each."""

    shape: str
    group: int
    narrow: bool = False
    vector: int = 1
    unroll: int = 1
    team: int = 1
    across: bool = False
    kept: bool = False
    main: int = 0
    shards: int = 1


def choose(kernel: Kernel, params: Sequence[int], max_group: int = 256,
           dialect: Dialect | None = None) -> Variant:
    """The variant for these sizes; `dialect` says which atomic operations there are."""
    if lanes_schedule.ordered(kernel):
        return Variant("serial", 1)
    narrow = fits(kernel, params)
    grid, ranges = sizes(kernel, params)
    if vectorizable(kernel):
        return _vector(kernel, grid, narrow, max_group)
    item = Variant("item", min(ITEM, max_group), narrow)
    across = bool(grid) and columns_together(kernel, params)
    if scatter_of(kernel) is not None:
        return _scatter(kernel, grid, ranges[0], across, item, max_group, dialect)
    if not any(stage.ranges for stage in kernel.stages) or not _divisible(kernel):
        return item
    if any(isinstance(s, Scan) for stage in kernel.stages for s in stage.body):
        return _scan(kernel, grid, ranges, across, item, max_group)
    if (any(isinstance(s, ArgReduce) for stage in kernel.stages for s in stage.body)
            and max(lanes_schedule._product(r) for r in ranges if r) < WARP):
        return item  # the first of a few tries, as draws by rejection take it: in order
    return _team(kernel, grid, ranges, across, narrow, max_group)


def _vector(kernel: Kernel, grid: Sequence[int], narrow: bool, max_group: int) -> Variant:
    points = lanes_schedule._product(grid)
    axis = tile_axis(kernel, grid)
    if axis >= 0 and max_group >= SIDES[1]:
        side = SIDES[min(grid[axis], grid[-1]) >= SIDES[1] and points >= 8 * BUSY]
        return Variant("tile", min(GROUP, max_group), narrow, side, main=axis)
    vector = vector_length(kernel, kernel.stages, len(grid) - 1, grid[-1], tail=len(grid) == 1)
    heavy = _cost(kernel)
    while vector > 1 and vector * heavy > COST:
        vector //= 2
    loads = {e for e in walk(expressions(kernel)) if e.op == "load"}
    there = sum(of(e).itemsize for e in loads if unit(e.args[0], len(grid) - 1)) or 8
    unroll = 1
    while (unroll < 4 and 2 * unroll * vector * there <= IN_FLIGHT
           and 2 * unroll * vector * heavy <= COST and points >= 2 * unroll * vector * BUSY):
        unroll *= 2
    group = GROUP if points >= vector * unroll * BUSY else ITEM
    return Variant("vector", min(group, max_group), narrow, vector, unroll)


_WEIGHTS = {"exp": 15, "exp2": 15, "expm1": 30, "log": 20, "log2": 20, "log10": 20, "log1p": 30,
            "sin": 60, "cos": 60, "tan": 80, "erf": 60, "erfc": 80, "tanh": 30, "pow": 80,
            "lgamma": 150, "atan2": 60, "sinh": 40, "cosh": 40, "div": 8, "sqrt": 6, "idiv": 20,
            "fmod": 40}


def _cost(kernel: Kernel) -> int:
    """Roughly how many operations a point takes."""
    return sum(_WEIGHTS.get(e.op, 1) * (2 if e.dtype is not None and e.dtype.itemsize == 8 else 1)
               for e in walk(expressions(kernel)) if e.args) or 1


def _scan(kernel: Kernel, grid: Sequence[int], ranges: Sequence[Sequence[int]], across: bool,
          item: Variant, max_group: int) -> Variant:
    length = max(lanes_schedule._product(r) for r in ranges if r)
    points = lanes_schedule._product(grid)
    uneven = any(x.op == "index" for stage in kernel.stages for x in walk(stage.ranges))
    if length < WARP or uneven or (across and (points >= BUSY or length < 4 * WARP)):
        return item
    stages = [s for s in kernel.stages if any(isinstance(x, Scan) for x in s.body)]
    heavy, team = _cost(kernel), 1
    if across:
        columns = min(WARP, max_group)
        while team * columns * 2 <= min(2 * GROUP, max_group) and team * 8 <= length:
            team *= 2
        each = 4 if 4 * heavy <= 2 * COST else 1
        return Variant("team", team * columns, item.narrow, 1, each, team, True)
    axis = len(grid) + len(stages[0].ranges) - 1
    last = ranges[kernel.stages.index(stages[0])][-1]
    vector = vector_length(kernel, stages, axis, last, tail=False)
    alike = all(s.ranges == stages[0].ranges for s in kernel.stages if s.ranges)
    while vector > 1 and (vector * heavy > 2 * COST or not alike):
        vector //= 2
    unroll = 4 if vector == 1 and alike and 4 * heavy <= 2 * COST else 1
    while team < min(GROUP, max_group) and team * vector * unroll < length:
        team *= 2
    group = max(team, min(128, max_group))
    return Variant("team", group, item.narrow, vector, unroll, team,
                   main=kernel.stages.index(stages[0]))


def _scatter(kernel: Kernel, grid: Sequence[int], ranges: Sequence[int], across: bool,
             item: Variant, max_group: int, dialect: Dialect | None) -> Variant:
    s = scatter_of(kernel)
    assert s is not None
    length, points = lanes_schedule._product(ranges), lanes_schedule._product(grid)
    narrow = item.narrow and length * points < NARROW
    if dialect is not None and (s.op, kernel.args[s.slot].dtype.name) in dialect.atomics:
        return Variant("atomic", min(GROUP, max_group), narrow, across=across)
    shared = features(kernel, s)
    width = lanes_schedule._product([grid[k] for k in shared])
    alone = points // max(1, width)
    # loops of an item each are no worse if they are short, or many side by side
    if length < 2 * WARP or (across and alone >= BUSY // 8) or not item.narrow:
        return item
    group = min(2 * GROUP, max_group)
    lanes = min(group, _power(width))
    group = max(lanes, min(group, _power(length)))
    others = alone * -(-width // lanes)
    shards = min(_power(max(1, 2 * BUSY // (group * others))), _power(length // WARP), 256)
    return Variant("ordered", group, True, 1, 4, lanes, shards=shards)


def _team(kernel: Kernel, grid: Sequence[int], ranges: Sequence[Sequence[int]], across: bool,
          narrow: bool, max_group: int) -> Variant:
    length = max(lanes_schedule._product(r) for r in ranges if r)
    points = lanes_schedule._product(grid)
    if across and grid[-1] > 1:
        columns = min(WARP, max_group)
        team = 1
        while team * columns * 2 <= min(2 * GROUP, max_group) and team * 8 <= length:
            team *= 2
        while team * columns < min(4 * WARP, max_group):
            columns *= 2
        loads = [e for e in walk(expressions(kernel)) if e.op == "load"]
        unroll = 8 if any(of(e).itemsize < 4 for e in loads) else 4
        while unroll > 1 and length < unroll * team:
            unroll //= 2
        return Variant("team", team * columns, narrow, 1, unroll, team, True)
    main = max(range(len(ranges)), key=lambda k: lanes_schedule._product(ranges[k] or [-1]))
    alike = [s for s in kernel.stages if s.ranges == kernel.stages[main].ranges]
    axis = len(grid) + len(ranges[main]) - 1
    vector = vector_length(kernel, alike, axis, ranges[main][-1], tail=False)
    heavy = _cost(kernel)
    while vector > 1 and vector * heavy > 2 * COST:
        vector //= 2
    team = 1
    # what keeps the device busy; what lets every stage after the first find the row in registers
    least = max(2 * BUSY // max(points, 1),
                length // KEPT if len(alike) > 1 else min(GROUP, length // KEPT))
    while team < max_group and team * vector < length and team < least:
        team *= 2
    unroll = _power(-(-length // (team * vector)))
    kept = unroll * vector <= KEPT and unroll * vector * heavy <= 4 * COST
    if not kept:
        unroll = max(1, min(4, _power(IN_FLIGHT // (4 * vector)), COST // (vector * heavy)))
        unroll = _power(unroll + 1) // 2
    group = team if team >= 128 else max(team, min(128, max_group))
    return Variant("team", group, narrow, vector, unroll, team, False, kept, main)


def _power(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def _divisible(kernel: Kernel) -> bool:
    """Whether the items of a team may share the ranges of every stage."""
    first = len(kernel.grid)
    for stage in kernel.stages:
        if not stage.ranges:
            continue
        scans = [s for s in stage.body if isinstance(s, Scan)]
        if scans and any(isinstance(s, (Reduce, ArgReduce)) for s in stage.body):
            return False
        for s in stage.body:
            if isinstance(s, Scatter) or getattr(s, "imag", None) is not None:
                return False
            if isinstance(s, Store):
                steps = [coefficient(s.index, first + k) for k in range(len(stage.ranges))]
                if any(c is not None and is_const(c, 0) for c in steps):
                    return False  # several items would write one element
    return True


def geometry(kernel: Kernel, variant: Variant, params: Sequence[int],
             ) -> tuple[tuple[int, int], tuple[int, int]]:
    """(work items in two dimensions, the schedule's integers)."""
    grid, ranges = sizes(kernel, params)
    points = lanes_schedule._product(grid)
    if variant.shape == "serial":
        return (1, 1), (max(1, grid[-1] if grid else 1), max(1, points))
    each = variant.group // variant.team
    if variant.shape == "vector":
        each = variant.group * variant.vector * variant.unroll
    elif variant.shape == "tile":
        sides = [-(-n // variant.vector) if k in (variant.main, len(grid) - 1) else n
                 for k, n in enumerate(grid)]
        return (lanes_schedule._product(sides) * variant.group, 1), (0, 0)
    elif variant.shape == "atomic":
        points *= lanes_schedule._product(ranges[0])
    elif variant.shape == "ordered":
        s = scatter_of(kernel)
        assert s is not None
        width = lanes_schedule._product([grid[k] for k in features(kernel, s)])
        groups = points // max(1, width) * -(-width // variant.team) * variant.shards
        return (groups * variant.group, 1), (0, 0)
    return (-(-points // each) * variant.group, 1), (0, 0)


def render(kernel: Kernel, dialect: Dialect, variant: Variant, name: str) -> str:
    """The source text of one variant."""
    if variant.shape == "serial":
        ordered = lanes_schedule.Variant("grid", len(kernel.grid) - 1, 1)
        return lanes_schedule.render(kernel, dialect, ordered, name)
    v = variant
    printer: ThreadPrinter
    if v.shape == "vector":
        printer = VectorPrinter(kernel, dialect, v.narrow, v.group, v.vector, v.unroll)
    elif v.shape == "tile":
        printer = TilePrinter(kernel, dialect, v.narrow, v.group, v.main, v.vector)
    elif v.shape == "team":
        printer = TeamPrinter(kernel, dialect, v.narrow, v.group, v.team, v.vector, v.unroll,
                              v.across, v.kept, v.main)
    elif v.shape == "ordered":
        printer = OrderedPrinter(kernel, dialect, v.narrow, v.group, v.unroll, v.team, v.shards)
    elif v.shape == "atomic":
        printer = AtomicPrinter(kernel, dialect, v.narrow, v.across)
    else:
        printer = _ItemPrinter(kernel, dialect, v.narrow)
    printer.print()
    return assemble(printer.e, name, lanes_schedule.EXTRA,
                    attributes=dialect.group_of.format(n=variant.group))


class _ItemPrinter(ThreadPrinter):
    """A work item per grid point."""

    def print(self) -> None:
        """Print the body."""
        e = self.e
        e.begin()
        grid = self.grid()
        e.line(f"const {self.int} u = {self.global_id()};")
        e.line(f"if (u >= {' * '.join(grid) or '1'}) return;")
        self.split("u", list(range(len(grid))), grid)
        self._points()
