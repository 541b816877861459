"""The schedule for thousands of threads, scatters whose points may collide.

Floor 1; imports cfamily_lanes, cfamily_packed, expr and kernel. Two ways:

- atomics, an item a point: where the language has the operation and the order does not matter.
- in order: destinations are dealt out, by a hash, to groups (shards) and within a group to items,
  so that each destination has one owner. A group looks through all points of the ranges, block by
  block, collects its own in a list in local memory, in order, and then every item works off its
  part of the list. Results are those of a loop, bit for bit, whatever the indices are.

Grid axes along which all points have the same relative destinations (`features`: the rows of an
index_add) share one list: neighbouring items then handle neighbouring features.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import cfamily_helpers as helpers
from .cfamily import Dialect, Val
from .cfamily_packed import ThreadPrinter
from .expr import walk
from .kernel import Kernel, Scatter, coefficient, statement_exprs

BATCH = 4  # points of the list whose loads are on their way together
GOLDEN = "2654435761u"  # odd, near 2^32 / golden ratio: the upper bits of multiples are well mixed


def scatter_of(kernel: Kernel) -> Scatter | None:
    """The scatter of a kernel that does nothing else, over ranges; else None."""
    if len(kernel.stages) != 1 or not kernel.stages[0].ranges or len(kernel.stages[0].body) != 1:
        return None
    s = kernel.stages[0].body[0]
    if not isinstance(s, Scatter):
        return None
    read = {e.value for x in statement_exprs(s) for e in walk([x]) if e.op == "load"}
    return None if s.slot in read else s


def features(kernel: Kernel, s: Scatter) -> list[int]:
    """The grid axes along which destinations only shift."""
    found = []
    places = [s.index] + ([s.mask] if s.mask is not None else [])
    for axis in range(len(kernel.grid)):
        step = coefficient(s.index, axis)
        if step is None or any(x.op in ("load", "index", "ref") for x in walk([step])):
            continue
        loads = [x for x in walk(places) if x.op == "load"]
        inside = walk([*(y for x in loads for y in x.args), *places[1:]])
        if not any(x.op == "index" and x.value == axis for x in inside):
            found.append(axis)
    return found


class AtomicPrinter(ThreadPrinter):
    """An item a point of grid and ranges; `across`: neighbours along the grid."""

    def __init__(self, kernel: Kernel, dialect: Dialect, narrow: bool, across: bool) -> None:
        super().__init__(kernel, dialect, narrow)
        self.across = across

    def print(self) -> None:
        """Print the body."""
        e = self.e
        s = scatter_of(self.kernel)
        assert s is not None
        e.begin()
        grid = list(zip(range(self.first_range), self.grid()))
        ranges = [(self.first_range + k, e.value(n).text)
                  for k, n in enumerate(self.kernel.stages[0].ranges)]
        order = ranges + grid if self.across else grid + ranges
        e.line(f"const {self.int} u = {self.global_id()};")
        e.line(f"if (u >= {' * '.join(n for _, n in order)}) return;")
        self.split("u", [axis for axis, _ in order], [n for _, n in order])
        d = self.kernel.args[s.slot].dtype
        mask = e.value(s.mask).text if s.mask is not None else ""
        value = helpers.convert(e, e.value(s.value), d).text
        at = f"b{s.slot} + {e.value(s.index).text}"
        text = self.dialect.atomics[s.op, d.name].format(at=at, value=value)
        e.line(f"{f'if ({mask}) ' if mask else ''}{text};")


class OrderedPrinter(ThreadPrinter):
    """`shards` groups look through the same points, `each` an item at a time; `lanes` items of a
    group are neighbouring features."""

    def __init__(self, kernel: Kernel, dialect: Dialect, narrow: bool, group: int, each: int,
                 lanes: int, shards: int) -> None:
        super().__init__(kernel, dialect, narrow)
        self.group, self.each, self.lanes, self.shards = group, each, lanes, shards
        s = scatter_of(kernel)
        assert s is not None
        self.s, self.d = s, kernel.args[s.slot].dtype
        self.shared = features(kernel, s)
        self.block = group * each
        self.capacity = self.block + group
        self.warp = dialect.warp if dialect.shuffle and group % max(1, dialect.warp) == 0 else 0
        self.counts = [self.e.value(n).text for n in kernel.stages[0].ranges]
        self.total = " * ".join(self.counts)

    def print(self) -> None:
        """Print the body."""
        e, local = self.e, self.dialect.local
        e.begin()
        grid = self.grid()
        self.ctype = self.dialect.value_type(self.d)
        e.line(f"{local}int list[{self.capacity}];")
        e.line(f"{local}ushort owner[{self.capacity}];")
        if self.lanes == 1:
            e.line(f"{local}{self.ctype} news[{self.capacity}];")
        e.line(f"{local}int sums[{self.group // self.warp if self.warp else self.group}];")
        e.line(f"const int l = {self.local_id()};")
        e.line(f"const {self.int} place = {self.group_id()};")
        e.line(f"const uint shard = (uint)(place % {self.shards});")
        wide = [grid[k] for k in self.shared]
        rest = [k for k in range(len(grid)) if k not in self.shared]
        e.line(f"const {self.int} blocks = ({' * '.join(wide) or '1'} + {self.lanes - 1}) / "
               f"{self.lanes};")
        e.line(f"const {self.int} feature = place / {self.shards} % blocks * {self.lanes} + "
               f"l % {self.lanes};")
        e.line(f"const {self.int} u = place / {self.shards} / blocks;")
        self.split("u", rest, [grid[k] for k in rest])
        e.line("int count = 0;")
        e.open(f"for ({self.int} base = 0; base < {self.total}; base += {self.block})")
        self._collect()
        e.line("count += found;")
        e.line(self.dialect.barrier)
        e.open(f"if (count > {self.group} || base + {self.block} >= {self.total})")
        self._work_off(wide)
        e.line("count = 0;")
        e.line(self.dialect.barrier)
        e.close()
        e.close()

    def _ranges(self, flat: str) -> None:
        self.split(flat, [self.first_range + k for k in range(len(self.counts))], self.counts)

    def _collect(self) -> None:
        """Append this block's points of the shard to the list, in order."""
        e = self.e
        bits = self.shards.bit_length() - 1
        parts = self.group // self.lanes
        e.line(f"int mine[{self.each}];")
        e.line("int hits = 0;")
        self.unrolled("k", self.each)
        e.line("mine[k] = -1;")
        e.line(f"const {self.int} r = base + l * {self.each} + k;")
        e.open(f"if (r < {self.total})")
        self._ranges("r")
        for axis in self.shared:
            e.bind(axis, "0")
        mask = f"({e.value(self.s.mask).text}) && " if self.s.mask is not None else ""
        at = e.value(self.s.index).text
        key = f"(uint){at}" if self.e.narrow else f"(uint)({at} ^ ({at} >> 32))"
        e.line(f"const uint h = ({key}) * {GOLDEN};")
        test = f"h >> {32 - bits} == shard" if bits else "1"
        e.open(f"if ({mask}{test})")
        part = f"(int)(h >> {32 - bits - parts.bit_length() + 1} & {parts - 1}u)"
        e.line(f"mine[k] = {part if parts > 1 else '0'};")
        e.line("++hits;")
        e.close()
        e.close()
        e.close()
        self._positions()
        self.unrolled("k", self.each)
        e.open("if (mine[k] >= 0)")
        e.line(f"const {self.int} r = base + l * {self.each} + k;")
        e.line("list[to] = (int)r; owner[to] = (ushort)mine[k];")
        if self.lanes == 1:
            self._ranges("r")
            for axis in self.shared:
                e.bind(axis, "0")
            e.line(f"news[to] = {self._value().text};")
        e.line("++to;")
        e.close()
        e.close()

    def _value(self) -> Val:
        return helpers.convert(self.e, self.e.value(self.s.value), self.d)

    def _positions(self) -> None:
        """`to` = where this item's points go in the list; `found` = how many the group has."""
        e, barrier = self.e, self.dialect.barrier
        if self.warp:
            w, parts = self.warp, self.group // self.warp
            e.line("int sum = hits;")
            self._running("sum")
            e.line(f"if (l % {w} == {w - 1}) sums[l / {w}] = sum;")
            e.line(barrier)
            e.line(f"int warps = l % {w} < {parts} ? sums[l % {w}] : 0;")
            self._running("warps")
            shuffle = self.dialect.shuffle
            e.line(f"const int found = {shuffle.format(x='warps', lane=w - 1)};")
            e.line(f"const int before = {shuffle.format(x='warps', lane=f'(l / {w} - 1)')};")
            e.line(f"int to = count + sum - hits + (l < {w} ? 0 : before);")
            return
        e.line("sums[l] = hits;")
        e.line(barrier)
        e.open(f"for (int h = 1; h < {self.group}; h <<= 1)")
        e.line("const int y = l >= h ? sums[l - h] : 0;")
        e.line(barrier)
        e.line("sums[l] += y;")
        e.line(barrier)
        e.close()
        e.line(f"const int found = sums[{self.group - 1}];")
        e.line("int to = count + sums[l] - hits;")

    def _running(self, name: str) -> None:
        """The running sum of a variable over the items of a warp."""
        e, w = self.e, self.warp
        e.open(f"for (int h = 1; h < {w}; h <<= 1)")
        e.line(f"const int y = {self.dialect.shuffle.format(x=name, lane='(l - h)')};")
        e.line(f"if (l % {w} >= h) {name} += y;")
        e.close()

    def _work_off(self, wide: Sequence[str]) -> None:
        """Every item goes through the list for what it owns, `batch` entries at a time: first all
        loads, then the updates in order. What is written stays in a register as long as the
        destination is the same. An old value that was loaded before an entry of the same batch
        changed it is loaded again."""
        e, slot, batch = self.e, self.s.slot, BATCH if self.lanes > 1 else 1
        start = f"long last = -1; {self.ctype} held = 0;"
        store = f"if (last >= 0) {helpers.store_one(e, slot, self.d, 'last', 'held')}"
        here = helpers.load_one(e, slot, self.d, "at[k]")
        e.open(f"if (feature < {' * '.join(wide) or '1'})")
        self.split("feature", self.shared, wide)
        if batch == 1:
            e.line(start)
        e.open(f"for (int m = 0; m < count; m += {batch})")
        e.line(f"long at[{batch}];")
        e.line(f"{self.ctype} fresh[{batch}]{f', old[{batch}]' if batch > 1 else ''};")
        self.unrolled("k", batch)
        e.line("at[k] = -1;")
        inside = "" if batch == 1 else "m + k < count && "
        e.open(f"if ({inside}owner[m + k] == l / {self.lanes})")
        e.line(f"const {self.int} r = list[m + k];")
        self._ranges("r")
        e.line(f"at[k] = {e.value(self.s.index).text};")
        if batch > 1:
            e.line(f"old[k] = {here};")
        value = "news[m + k]" if self.lanes == 1 else self._value().text
        e.line(f"fresh[k] = {value};")
        e.close()
        e.close()
        if batch > 1:
            e.line(start)
        self.unrolled("k", batch)
        e.open("if (at[k] >= 0)")
        e.open("if (at[k] != last)")
        e.line(store)
        e.line(f"held = {here if batch == 1 else 'old[k]'};")
        if batch > 1:
            self.unrolled("j", batch)
            e.line(f"if (j + 1 < k && at[j] == at[k]) held = {here};")
            e.close()
        e.line("last = at[k];")
        e.close()
        combined = helpers.combine(e, self.s.op, Val("held", self.d), Val("fresh[k]", self.d))
        e.line(f"held = {combined};")
        e.close()
        e.close()
        if batch > 1:
            e.line(store)
        e.close()
        if batch == 1:
            e.line(store)
        e.close()


__all__ = ["AtomicPrinter", "OrderedPrinter", "scatter_of", "features"]
