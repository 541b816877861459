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

SIDES = (32, 64)  # points of a tile along each of its axes; the larger where there are many


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
    if last < 1 or grid[last] < SIDES[0] // 2 or not any(unit(s.index, last) for s in stores):
        return -1
    return next((k for k in range(last) if grid[k] >= SIDES[0] // 2 and transposed(kernel, k)), -1)


class TilePrinter(ThreadPrinter):
    """A tile of side x side points a group: along `axis` and the last axis."""

    def __init__(self, kernel: Kernel, dialect: Dialect, narrow: bool, group: int, axis: int,
                 side: int) -> None:
        super().__init__(kernel, dialect, narrow)
        self.group, self.axis, self.last = group, axis, len(kernel.grid) - 1
        self.side = side

    def print(self) -> None:
        """Print the body."""
        e = self.e
        e.begin()
        grid = self.grid()
        loads = transposed(self.kernel, self.axis)
        tiles = {x: e.fresh("tile") for x in loads}
        for x, name in tiles.items():
            e.line(f"{self.dialect.local}{self.dialect.types[of(x).name]} "
                   f"{name}[{self.side * self._pitch(x)}];")
        e.line(f"const int l = {self.local_id()};")
        e.line(f"const int across = l % {self.side};")
        e.line(f"const {self.int} place = {self.group_id()};")
        counts = list(grid)
        for k in (self.axis, self.last):
            counts[k] = f"(({grid[k]} + {self.side - 1}) / {self.side})"
        self.split("place", range(len(grid)), counts)
        corner = {k: f"({e.axes[k][0]} * {self.side})" for k in (self.axis, self.last)}
        steps = self.side * self.side // self.group
        self._open(grid, corner, self.axis, self.last, steps)
        for x, name in tiles.items():
            at = e.value(x.args[0]).text
            e.line(f"{name}[down * {self._pitch(x)} + across] = b{x.value}[{at}];")
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

    def _pitch(self, x: Expr) -> int:
        """Elements from row to row of a tile: one word more, so that columns spread over banks."""
        return self.side + max(1, 4 // of(x).itemsize)

    def _open(self, grid: Sequence[str], corner: dict[int, str], lanes: int, rows: int,
              steps: int) -> None:
        """The loop over an item's points, neighbours along `lanes`."""
        e = self.e
        self.unrolled("k", steps)
        e.line(f"const int down = l / {self.side} + k * {self.group // self.side};")
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
        text, d = f"{name}[across * {self._pitch(x)} + down]", of(x)
        if helpers.is_half(d):
            return lambda: f"{helpers._half_in(self.e, d, 1)}({text})"
        return lambda: f"({text} != 0)" if d.kind == "b" else text
