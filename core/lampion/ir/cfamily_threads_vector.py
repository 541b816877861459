"""The schedule for thousands of threads, kernels without ranges: a few vectors an item.

Floor 1; imports cfamily_packed, expr and kernel. A group of G items takes a tile of G * V * U
neighbouring grid points: item l has the vectors of V points that begin at (j * G + l) * V, j < U.
All of its loads come first, so that they are on their way together. The last tile, and all tiles
where an address is no multiple of the access, go one point at a time, neighbouring items at
neighbouring points.
"""

from __future__ import annotations

from ..base import dtype as dt
from . import cfamily_helpers as helpers
from .cfamily import Dialect, Val, of
from .cfamily_packed import ThreadPrinter, access, neighbours, origin, unit, words
from .expr import Expr, is_const, walk
from .kernel import Kernel, Store, coefficient, expressions


def vectorizable(kernel: Kernel) -> bool:
    """Whether this schedule can run a kernel: one that has no ranges and only reads what it does
    not write."""
    if not kernel.grid or any(stage.ranges for stage in kernel.stages):
        return False
    statements = [s for stage in kernel.stages for s in stage.body]
    if not all(isinstance(s, Store) for s in statements):
        return False
    written = {s.slot for s in statements if isinstance(s, Store)}
    return not any(e.op == "load" and e.value in written for e in walk(expressions(kernel)))


class VectorPrinter(ThreadPrinter):
    """`vector` neighbouring points an access, `unroll` accesses an item."""

    def __init__(self, kernel: Kernel, dialect: Dialect, narrow: bool, group: int, vector: int,
                 unroll: int) -> None:
        super().__init__(kernel, dialect, narrow)
        self.group, self.vector, self.unroll = group, vector, unroll
        self.axis = len(kernel.grid) - 1
        self.stores = [s for stage in kernel.stages for s in stage.body if isinstance(s, Store)]
        roots = [x for s in self.stores for x in (s.value, s.index, *(
            [s.mask] if s.mask is not None else []))]
        self.loads = neighbours(kernel, roots, self.axis, vector) if vector > 1 else []

    def print(self) -> None:
        """Print the body."""
        e = self.e
        e.begin()
        grid = self.grid()
        total = " * ".join(grid)
        each = self.vector * self.unroll
        tile = self.group * each
        e.line(f"const {self.int} first = {self.group_id()} * {tile};")
        e.line(f"const {self.int} l = {self.local_id()};")
        if each > 1:
            even = self._even()
            e.open(f"if (first + {tile} <= {total}{even and f' && ({even}) == 0'})")
            self._tile(grid)
            e.close()
            e.open("else")
            e.open(f"for (int k = 0; k < {each}; ++k)")
            u = f"first + k * {self.group} + l"
        else:
            u = "first + l"
        e.open(f"if ({u} < {total})")
        self.split(f"({u})", range(len(grid)), grid)
        for s in self.stores:
            self._statement(s)
        e.close()
        if each > 1:
            e.close()
            e.close()

    def _packs(self, s: Store) -> bool:
        return (self.vector > 1 and s.mask is None and unit(s.index, self.axis)
                and words(self.kernel.args[s.slot].dtype, self.vector) > 0)

    def _affine(self, e: Expr) -> bool:
        return all(coefficient(e, k) is not None for k in range(self.axis + 1)) and not any(
            x.op == "load" for x in walk([e]))

    def _even(self) -> str:
        """Bits of all addresses that are to be 0."""
        e = self.e
        accesses = [(x.value, x.args[0]) for x in self.loads]
        accesses += [(s.slot, s.index) for s in self.stores if self._packs(s)]
        bits: dict[str, None] = {}
        for slot, at in accesses:
            if not self._affine(at):
                continue
            d = self.kernel.args[slot].dtype
            low = access(d, self.vector) - 1
            bits[f"(int)((ulong)b{slot} & {low})"] = None
            for part in (*(coefficient(at, k) for k in range(self.axis)), origin(at)):
                if part is not None and not is_const(part, 0):
                    bits[f"(({e.value(part).text} * {d.itemsize}) & {low})"] = None
        return " | ".join(bits)

    def _vectors(self, grid: list[str]) -> None:
        """Open the loop over the vectors of this item and bind the axes to its first point."""
        self.unrolled("j", self.unroll)
        u = self.e.fresh("u")
        self.e.line(f"const {self.int} {u} = first + (j * {self.group} + l) * {self.vector};")
        self.split(u, range(len(grid)), grid)

    def _tile(self, grid: list[str]) -> None:
        e, n = self.e, self.vector
        arrays = {}
        for x in self.loads:
            arrays[x] = e.fresh("w")
            e.line(f"uint {arrays[x]}[{self.unroll * words(of(x), n)}];")
        if self.loads:
            self._vectors(grid)
            for x, array in arrays.items():
                at = e.value(x.args[0]).text
                e.load_words(array, f"j * {words(of(x), n)}", x.value, of(x), at, n,
                             not self._affine(x.args[0]))
            e.close()
        self._vectors(grid)
        results = {}
        for k, s in enumerate(self.stores):
            if self._packs(s):
                count = words(self.kernel.args[s.slot].dtype, n)
                results[k] = e.fresh("z")
                e.line(f"uint {results[k]}[{count}] = {{{', '.join('0' * count)}}};")
        inner, _ = e.axes[self.axis]
        if n > 1:
            self.unrolled("v", n)
            e.bind(self.axis, f"({inner} + v)")
        else:
            e.open("")
        for x, array in arrays.items():
            e.packed[x] = self.element_of(x, array, f"j * {n} + v")
        for k, s in enumerate(self.stores):
            if k in results:
                d = self.kernel.args[s.slot].dtype
                e.deposit(results[k], d, "v", e.memory_text(self._stored(s, d), d))
            else:
                self._statement(s)
        e.packed.clear()
        e.close()
        e.bind(self.axis, inner)
        for k, array in results.items():
            s = self.stores[k]
            e.store_words(array, s.slot, self.kernel.args[s.slot].dtype, e.value(s.index).text, n,
                          not self._affine(s.index))
        e.close()

    def _stored(self, s: Store, d: dt.dtype) -> Val:
        return helpers.stored(self.e, s.value, d)
