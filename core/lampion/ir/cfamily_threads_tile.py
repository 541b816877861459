"""The schedule for thousands of threads, transposes: square tiles through local memory.

Floor 1; imports cfamily_packed, expr and kernel. Where the results lie
together along the last axis and some operand along another one, a group reads that operand's tile
with neighbouring items along its axis, and computes with neighbouring items along the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import cfamily_helpers as helpers
from .cfamily import Dialect, of
from .cfamily_packed import ThreadPrinter, unit
from .expr import Expr, is_const, walk
from .kernel import Kernel, Store, coefficient, expressions

SIDE = 32  # points of a tile along each of its axes


def transposed(kernel: Kernel, axis: int) -> list[Expr]:
    """The loads that lie together along `axis` and are strided along the last one."""
    found = []
    for e in walk(expressions(kernel)):
        if e.op == "load" and len(e.args) == 1 and unit(e.args[0], axis):
            step = coefficient(e.args[0], len(kernel.grid) - 1)
            if step is None or not (is_const(step, 0) or is_const(step, 1)):
                found.append(e)
    return found


def tile_axis(kernel: Kernel, grid: Sequence[int]) -> int:
    """The axis that is tiled with the last one, or -1. `kernel` has no ranges."""
    last = len(grid) - 1
    stores = [s for stage in kernel.stages for s in stage.body if isinstance(s, Store)]
    if last < 1 or grid[last] < SIDE // 2 or not any(unit(s.index, last) for s in stores):
        return -1
    return next((k for k in range(last) if grid[k] >= SIDE // 2 and transposed(kernel, k)), -1)


class TilePrinter(ThreadPrinter):
    """A tile of SIDE x SIDE points a group: along `axis` and the last axis."""

    def __init__(self, kernel: Kernel, dialect: Dialect, narrow: bool, group: int,
                 axis: int) -> None:
        super().__init__(kernel, dialect, narrow)
        self.group, self.axis, self.last = group, axis, len(kernel.grid) - 1

    def print(self) -> None:
        """Print the body."""
        e = self.e
        e.begin()
        grid = self.grid()
        loads = transposed(self.kernel, self.axis)
        tiles = {x: e.fresh("tile") for x in loads}
        for x, name in tiles.items():
            e.line(f"{self.dialect.local}{self.dialect.types[of(x).name]} "
                   f"{name}[{SIDE * (SIDE + 1)}];")
        e.line(f"const int l = {self.local_id()};")
        e.line(f"const int across = l % {SIDE};")
        e.line(f"const {self.int} place = {self.group_id()};")
        counts = list(grid)
        for k in (self.axis, self.last):
            counts[k] = f"(({grid[k]} + {SIDE - 1}) / {SIDE})"
        self.split("place", range(len(grid)), counts)
        corner = {k: f"({e.axes[k][0]} * {SIDE})" for k in (self.axis, self.last)}
        steps = SIDE * SIDE // self.group
        self._open(grid, corner, self.axis, self.last, steps)
        for x, name in tiles.items():
            e.line(f"{name}[down * {SIDE + 1} + across] = b{x.value}[{e.value(x.args[0]).text}];")
        self._close()
        e.line(self.dialect.barrier)
        self._open(grid, corner, self.last, self.axis, steps)
        for x, name in tiles.items():
            e.packed[x] = self._read(x, name)
        for stage in self.kernel.stages:
            for s in stage.body:
                self._statement(s)
        e.packed.clear()
        self._close()

    def _open(self, grid: Sequence[str], corner: dict[int, str], lanes: int, rows: int,
              steps: int) -> None:
        """The loop over an item's points, neighbours along `lanes`."""
        e = self.e
        self.unrolled("k", steps)
        e.line(f"const int down = l / {SIDE} + k * {self.group // SIDE};")
        names = {axis: e.fresh("g") for axis in (lanes, rows)}
        e.line(f"const {self.int} {names[lanes]} = {corner[lanes]} + across;")
        e.line(f"const {self.int} {names[rows]} = {corner[rows]} + down;")
        e.open("if (" + " && ".join(f"{n} < {grid[k]}" for k, n in names.items()) + ")")
        for axis, name in names.items():
            e.bind(axis, name)

    def _close(self) -> None:
        self.e.close()
        self.e.close()

    def _read(self, x: Expr, name: str) -> Callable[[], str]:
        text, d = f"{name}[across * {SIDE + 1} + down]", of(x)
        if helpers.is_half(d):
            return lambda: f"{helpers._half_in(self.e, d, 1)}({text})"
        return lambda: f"({text} != 0)" if d.kind == "b" else text
