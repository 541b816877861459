"""Choosing the schedule of a kernel: which axis is vectorised, how wide, how units are cut.

The choice looks at the kernel's static layout and at the runtime sizes of the problem it is
first built for; the code it leads to is correct for every size. What depends on the kernel alone
is worked out once for each. May import: lampion.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lampion.base import dtype as dt
from lampion.ir.expr import Expr, walk
from lampion.ir.kernel import (
    ArgReduce,
    Kernel,
    Reduce,
    Scan,
    Scatter,
    Stage,
    Statement,
    Store,
    coefficient,
)
from lampion.ir.schedule import bytes_in_order

BLOCK = 64  # elements of a one-axis grid that one unit covers
LONG_BLOCK = 8192  # elements of the vector axis in one unit when other axes are units too
GRAIN_WORK = 32768  # element-operations worth a thread
FLUSH = 64  # additions into one float accumulator before it is flushed into the next level
TILE_ACROSS, TILE_ALONG = 64, 256  # a unit of square tiles, in elements
TILE_WORK = 24  # larger expressions are not worth writing W times
STREAM_BYTES = 16 << 20  # outputs from here on bypass the caches


@dataclass(frozen=True)
class Plan:
    """A schedule. mode "grid": lanes are neighbouring points of grid axis `axis`; mode "range":
    lanes are neighbouring points of `stage_axes[k]` in stage k (None: one at a time); mode
    "tile": square tiles of the grid axes `axis` (lanes) and `across`; mode "scalar": no lanes."""

    mode: str
    width: int
    unroll: int
    axis: int = -1
    across: int = -1
    stage_axes: tuple[int | None, ...] = ()
    block: int = BLOCK  # vector-axis elements per unit; 0: the whole axis
    sequential: bool = False
    stream: bool = False
    flush: bool = False


def evaluate(e: Expr, params: Sequence[int]) -> int:
    """An integer expression over params (a size)."""
    if e.op == "param":
        return params[e.value]
    if e.op == "const":
        return int(e.value)
    v = [evaluate(a, params) for a in e.args]
    if e.op == "add":
        return v[0] + v[1]
    if e.op == "sub":
        return v[0] - v[1]
    if e.op == "mul":
        return v[0] * v[1]
    if e.op == "idiv":
        return int(v[0] / v[1]) if v[1] else 0
    if e.op == "maximum":
        return max(v)
    if e.op == "minimum":
        return min(v)
    raise ValueError(f"a size must be arithmetic on params, not {e}")


_known: dict[Kernel, dict[Any, Any]] = {}
_LIMIT = 4096  # kernels


def _once(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a kernel (and numbers) whose results are kept."""
    @functools.wraps(fn)
    def found(kernel: Kernel, *args: Any) -> Any:
        facts = _known.get(kernel)
        if facts is None:
            if len(_known) >= _LIMIT:
                _known.clear()
            facts = _known[kernel] = {}
        key = (fn, args)
        if key not in facts:
            facts[key] = fn(kernel, *args)
        return facts[key]

    return found


@dataclass
class _Access:
    index: Expr
    itemsize: int


def data_roots(kernel: Kernel) -> list[Expr]:
    """Expressions whose values are data rather than addresses."""
    roots: list[Expr] = []
    for stage in kernel.stages:
        for s in stage.body:
            roots.append(s.value)
            if isinstance(s, (Store, Scatter)) and s.mask is not None:
                roots.append(s.mask)
    return roots


def is_rare(e: Expr) -> bool:
    """Whether `e` is a select whose first arm is worth a branch around it."""
    return e.op == "select" and e.value == "rare"


def data_nodes(roots: Iterable[Expr]) -> list[Expr]:
    """Nodes that usually compute data: walks from the roots without entering load indices or
    arms of selects that rarely run."""
    seen: set[int] = set()
    out: list[Expr] = []
    stack = list(roots)
    while stack:
        e = stack.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        out.append(e)
        if is_rare(e):
            stack += [e.args[0], e.args[2]]
        else:
            stack.extend(e.args[1:] if e.op == "load" else e.args)
    return out


def _accesses(kernel: Kernel, body: Sequence[Statement]) -> list[_Access]:
    found = []
    roots: list[Expr] = []
    for s in body:
        roots.append(s.value)
        if isinstance(s, (Store, Scatter)):
            found.append(_Access(s.index, kernel.args[s.slot].dtype.itemsize))
            roots.append(s.index)
            if s.mask is not None:
                roots.append(s.mask)
    for e in walk(roots):
        if e.op == "load":
            assert e.dtype is not None
            found.append(_Access(e.args[0], e.dtype.itemsize))
    return found


@_once
def _stage_ops(kernel: Kernel, k: int) -> int:
    """Instructions of stage `k` per point, roughly."""
    return sum(1 for e in data_nodes([s.value for s in kernel.stages[k].body]) if e.args)


@_once
def _single_cost(kernel: Kernel, k: int) -> float:
    """Rough cycles of stage `k` for one point by itself."""
    return 1.2 * len(_accesses(kernel, kernel.stages[k].body)) + 0.6 * _stage_ops(kernel, k) + 1.5


@_once
def _stage_cost(kernel: Kernel, k: int, axis: int, width: int) -> float:
    """Rough cycles of stage `k` per vector of `width` lanes along `axis`."""
    cost = 0.0
    stage = kernel.stages[k]
    for a in _accesses(kernel, stage.body):
        c = coefficient(a.index, axis)
        if c is not None and c.op == "const" and c.value in (0, 1, 2):
            cost += (0.2, 1.0, 3.0)[c.value]
        else:
            cost += 3.0 * width
    return cost + 0.4 * _stage_ops(kernel, k)


@_once
def lane_width(kernel: Kernel, bits: int) -> int:
    """Lanes such that the widest data type fills one machine register."""
    size = 1
    for e in data_nodes(data_roots(kernel)):
        if e.dtype is not None and e.args and not (e.dtype is dt.int64 and _is_index(e)):
            size = max(size, e.dtype.itemsize)
    for stage in kernel.stages:
        for s in stage.body:
            if isinstance(s, ArgReduce):
                size = max(size, 4)
    return max(bits // 8 // size, 2)


def _is_index(e: Expr) -> bool:
    return all(x.op != "load" and (x.args or x.op in ("index", "param", "const"))
               for x in walk([e]))


def choose(kernel: Kernel, params: Sequence[int], bits: int) -> Plan:
    """The schedule for `kernel` on a problem of these runtime sizes."""
    grid = [evaluate(e, params) for e in kernel.grid]
    width = lane_width(kernel, bits)
    sequential = any(isinstance(s, Scatter) and s.shared for st in kernel.stages for s in st.body)
    flush = _wants_flush(kernel)
    unroll = _unroll(kernel)
    best = (_scalar_cost(kernel, params, width), Plan("scalar", 1, 1, block=0,
                                                      sequential=sequential, flush=flush))
    for axis, n in enumerate(grid):
        if not _grid_axis_legal(kernel, axis):
            continue
        cost = sum(_stage_cost(kernel, k, axis, width) * _points(st, params)
                   for k, st in enumerate(kernel.stages)) * _vectors(n, width)
        if cost < best[0]:
            outer = 1
            for k, m in enumerate(grid):
                outer *= m if k != axis else 1
            block = BLOCK if len(grid) == 1 else (0 if outer >= 64 or n <= LONG_BLOCK
                                                  else LONG_BLOCK)
            best = (cost, Plan("grid", width, unroll, axis, block=block, sequential=sequential,
                               flush=flush, stream=n * outer * _in_order(kernel, axis)
                               >= STREAM_BYTES))
    tiled = _tile_plan(kernel, grid, width)
    if tiled is not None and tiled[0] < best[0]:
        best = tiled
    ranged = _range_plan(kernel, params, width)
    if ranged is not None and ranged[0] < best[0]:
        best = (ranged[0], Plan("range", width, unroll, stage_axes=ranged[1], block=0,
                                sequential=sequential, flush=flush))
    return best[1]


@_once
def _in_order(kernel: Kernel, axis: int) -> int:
    return bytes_in_order(kernel, axis)


@_once
def _steps(kernel: Kernel) -> list[list[Any]]:
    """For every load and store how far it moves along each grid axis: a number, None (it does not
    move evenly), or "param"."""
    return [[None if (c := coefficient(a.index, k)) is None else
             c.value if c.op == "const" else "param" for k in range(len(kernel.grid))]
            for st in kernel.stages for a in _accesses(kernel, st.body)]


@_once
def _stored_steps(kernel: Kernel) -> list[Any]:
    """The same for the first store."""
    index = next(s.index for st in kernel.stages for s in st.body if isinstance(s, Store))
    return [None if (c := coefficient(index, k)) is None else
            c.value if c.op == "const" else "param" for k in range(len(kernel.grid))]


@_once
def _may_tile(kernel: Kernel) -> bool:
    return not any(st.ranges or any(not isinstance(s, Store) or s.mask is not None
                                    for s in st.body) for st in kernel.stages) \
        and work(kernel) <= TILE_WORK


def _tile_plan(kernel: Kernel, grid: Sequence[int], width: int) -> tuple[float, Plan] | None:
    """Square tiles, if some arrays are contiguous along one grid axis and some along another."""
    if not _may_tile(kernel):
        return None
    width = min(width, 16)
    found = _steps(kernel)
    unit = [k for row in found for k, step in enumerate(row) if step == 1 and grid[k] >= width]
    axes = sorted(set(unit), key=lambda k: (-unit.count(k), -k))[:2]
    if len(axes) < 2:
        return None
    stored = _stored_steps(kernel)
    along = next((k for k in axes if stored[k] == 1), axes[0])
    across = axes[1] if along == axes[0] else axes[0]
    cost = 0.0
    for row in found:
        steps = row[along], row[across]
        if None in steps:
            cost += 3.0 * width
        elif 1 in steps:
            cost += 1.0 if steps[0] == 1 else 5.0
        elif steps == (0, 0):
            cost += 0.2
        else:
            cost += 3.0 * width
    cost += 0.4 * work(kernel)
    return (cost * _vectors(grid[along], width) * _vectors(grid[across], width) * width,
            Plan("tile", width, 2, along, across, block=0))


def _vectors(n: int, width: int) -> float:
    """Vectors per element of an axis of n, tails included."""
    return -(-n // width) / max(n, 1)


def _points(stage: Stage, params: Sequence[int]) -> int:
    total = 1
    for r in stage.ranges:
        total *= max(evaluate(r, params), 1)
    return total


def _scalar_cost(kernel: Kernel, params: Sequence[int], width: int) -> float:
    return sum(_single_cost(kernel, k) * _points(st, params)
               for k, st in enumerate(kernel.stages))


def _range_plan(kernel: Kernel, params: Sequence[int],
                width: int) -> tuple[float, tuple[int | None, ...]] | None:
    """Cost per grid point and the vector axis of each stage, one row at a time."""
    first = len(kernel.grid)
    total, axes = 0.0, []
    for at, st in enumerate(kernel.stages):
        points = _points(st, params)
        best: tuple[float, int | None] = (_single_cost(kernel, at) * points, None)
        if not any(isinstance(s, (Scan, Scatter)) for s in st.body):
            ordered = any(isinstance(s, ArgReduce) for s in st.body)
            for k in range(len(st.ranges)):
                if ordered and k != len(st.ranges) - 1:
                    continue
                n = evaluate(st.ranges[k], params)
                cost = _stage_cost(kernel, at, first + k, width) * points * _vectors(n, width)
                cost += 8.0  # horizontal sums and tails
                if cost < best[0]:
                    best = (cost, first + k)
        total += best[0]
        axes.append(best[1])
    return None if all(a is None for a in axes) else (total, tuple(axes))


@_once
def _grid_axis_legal(kernel: Kernel, axis: int) -> bool:
    """Lanes along a grid axis must scatter to different, neighbouring elements."""
    for st in kernel.stages:
        for s in st.body:
            if isinstance(s, Scatter):
                c = coefficient(s.index, axis)
                if c is None or c.op != "const" or c.value != 1:
                    return False
    return True


@_once
def _wants_flush(kernel: Kernel) -> bool:
    return any(isinstance(s, Reduce) and s.op == "sum" and s.value.dtype is not None
               and s.value.dtype.kind == "f" for st in kernel.stages for s in st.body)


@_once
def work(kernel: Kernel) -> int:
    """Instructions per point, roughly."""
    return sum(1 for e in data_nodes(data_roots(kernel)) if e.args)


def _unroll(kernel: Kernel) -> int:
    ops = work(kernel)
    return 4 if ops <= 12 else (2 if ops <= 60 else 1)


def units_grain(kernel: Kernel, plan: Plan, params: Sequence[int]) -> tuple[int, int]:
    """How many units a launch has, and the fewest worth giving to a thread."""
    if plan.sequential:
        return 1, 1
    grid = [evaluate(e, params) for e in kernel.grid]
    per_point = 0.0
    for k, st in enumerate(kernel.stages):
        per_point += _points(st, params) * (1 + _stage_ops(kernel, k) / 8)
    units, span = 1, 1
    for k, n in enumerate(grid):
        if plan.mode == "tile" and k in (plan.axis, plan.across):
            edge = TILE_ALONG if k == plan.axis else TILE_ACROSS
            units *= -(-n // edge)
            span *= min(edge, n)
        elif plan.mode == "grid" and k == plan.axis:
            span = plan.block or n
            units *= -(-n // span) if span else 0
        else:
            units *= n
    return units, max(1, int(GRAIN_WORK / max(per_point * span, 1)))
