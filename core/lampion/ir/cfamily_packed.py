"""What the schedules for thousands of threads share: narrow indices and elements in packed words.

Floor 1; imports cfamily, cfamily_lanes, expr and kernel. `PackedEmitter` prints index arithmetic
in 32 bits where `fits` says that nothing leaves them, and reads elements out of arrays of 32-bit
words that were loaded several at a time. `ThreadPrinter` binds grid points to threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..base import dtype as dt
from ..base.dtype import dtype
from . import cfamily_helpers as helpers
from . import cfamily_lanes as lanes_schedule
from .cfamily import Dialect, Emitter, Val, is_index, of
from .cfamily_lanes import _Printer
from .expr import Expr, const, is_const, substitute, walk
from .kernel import Kernel, Scatter, Stage, Store, coefficient, statement_exprs

NARROW = (1 << 31) - (1 << 18)  # room for what groups reach beyond the last point
WIDEST = 16                     # bytes of one access


# -- whether 32 bits hold every index -------------------------------------------------------------


def fits(kernel: Kernel, params: Sequence[int]) -> bool:
    """Whether all integer arithmetic on loop variables and sizes stays within 31 bits."""
    bounds = Bounds(params)
    points = 1
    for axis, n in enumerate(kernel.grid):
        points *= max(1, bounds.size(n))
        bounds.axes[axis] = max(0, bounds.size(n) - 1)
    if points >= NARROW:
        return False
    for stage in kernel.stages:
        total = 1
        for k, n in enumerate(stage.ranges):
            total *= max(1, bounds.size(n))
            bounds.axes[len(kernel.grid) + k] = max(0, bounds.size(n) - 1)
        roots = [e for s in stage.body for e in statement_exprs(s)]
        if total >= NARROW or not all(bounds.within(e) for e in walk([*roots, *stage.ranges])):
            return False
        bounds.memo.clear()  # the same axis is another range in the next stage
    return all(bounds.within(e) for e in walk(list(kernel.grid)))


class Bounds:
    """Least and largest values of index arithmetic."""

    def __init__(self, params: Sequence[int]) -> None:
        self.params = params
        self.axes: dict[int, int] = {}  # axis -> its last point
        self.memo: dict[Expr, tuple[int, int]] = {}
        self._pure: dict[Expr, bool] = {}

    def size(self, e: Expr) -> int:
        """The largest value of a size."""
        return self.of(e)[1] if is_index(e, self._pure) else NARROW

    def within(self, e: Expr) -> bool:
        """False for index arithmetic that may need more than 31 bits."""
        if not is_index(e, self._pure):
            return True
        low, high = self.of(e)
        return low > -NARROW and high < NARROW

    def of(self, e: Expr) -> tuple[int, int]:
        """(least, largest) value of index arithmetic."""
        found = self.memo.get(e)
        if found is None:
            found = self.memo[e] = self._of(e)
        return found

    def _of(self, e: Expr) -> tuple[int, int]:
        if e.op == "const":
            return int(e.value), int(e.value)
        if e.op == "param":
            return int(self.params[e.value]), int(self.params[e.value])
        if e.op == "index":
            return 0, self.axes.get(e.value, 0)
        args = [self.of(a) for a in e.args]
        (a, b), (c, d) = args[0], args[-1]
        if e.op == "neg":
            return -b, -a
        if e.op == "add":
            return a + c, b + d
        if e.op == "sub":
            return a - d, b - c
        if e.op == "mul":
            corners = (a * c, a * d, b * c, b * d)
            return min(corners), max(corners)
        if e.op == "idiv":  # truncated: never larger than the dividend
            return min(a, 0, -b), max(b, 0, -a)
        largest = max(abs(c), abs(d), 1) - 1  # fmod has the dividend's sign
        return max(min(a, 0), -largest), min(max(b, 0), largest)


# -- the emitter ----------------------------------------------------------------------------------


class PackedEmitter(Emitter):
    """Prints scalars; index arithmetic in `int` if `narrow`.

    `packed` says which loads are elements of an array filled before: expression -> (text of the
    value, the loop level at which it is valid).
    """

    def __init__(self, kernel: Kernel, dialect: Dialect, narrow: bool) -> None:
        super().__init__(kernel, dialect)
        self.narrow = narrow
        self.index_type = "int" if narrow else "long"
        self.packed: dict[Expr, Callable[[], str]] = {}

    def begin(self) -> None:
        """Narrow copies of the parameters, at the head of the body."""
        if self.narrow:
            for k in range(self.kernel.nparams):
                self.line(f"const int q{k} = (int)p{k};")

    def _print(self, e: Expr, flat: bool) -> Val:
        if e.op == "param" and self.narrow:
            return Val(f"q{e.value}", dt.int64)
        if e in self.packed:
            d = of(e)
            return self.define(self.packed[e](), d, 1, self.level)
        return super()._print(e, flat)

    def _apply(self, e: Expr, args: list[Val]) -> Val:
        if self.narrow:
            pure = is_index(e, self._pure)
            for k, x in enumerate(e.args):
                if x.op == "const" and pure:
                    args[k] = args[k]._replace(text=str(int(x.value)))
                elif x.op != "const" and not pure and is_index(x, self._pure):
                    args[k] = args[k]._replace(text=f"((long){args[k].text})")
        return super()._apply(e, args)

    # -- words ------------------------------------------------------------------------------------

    def raw(self, array: str, d: dtype, at: str) -> str:
        """Element `at` of an array of words, in its type in memory."""
        ctype = self.dialect.types[d.name]
        if d.itemsize >= 4:
            text = f"{array}[{at}]" if d.itemsize == 4 else (
                f"((ulong){array}[2 * ({at})] | (ulong){array}[2 * ({at}) + 1] << 32)")
            return self.dialect.bits(ctype, text) if d.kind == "f" else f"(({ctype}){text})"
        unsigned, word, shift = _place(d, at)
        text = f"(({unsigned})({array}[{word}] >> {shift}))"
        return text if ctype == unsigned else f"(({ctype}){text})"

    def element(self, array: str, d: dtype, at: str) -> str:
        """The same as a value in a register."""
        text = self.raw(array, d, at)
        if helpers.is_half(d):
            return f"{helpers._half_in(self, d, 1)}({text})"
        return f"({text} != 0)" if d.kind == "b" else text

    def memory_text(self, v: Val, d: dtype) -> str:
        """A value of dtype `d` as it is written to memory."""
        if helpers.is_half(d):
            return f"{helpers._half_out(self, d, 1)}({v.text})"
        return f"(({v.text}) != 0)" if d.kind == "b" else f"({v.text})"

    def deposit(self, array: str, d: dtype, at: str, text: str) -> None:
        """Put an element, as it is in memory, into an array of words (small ones: zero before)."""
        if d.itemsize >= 4:
            unsigned = helpers.UNSIGNED[d.itemsize]
            text = self.dialect.bits(unsigned, text) if d.kind == "f" else f"({unsigned}){text}"
        if d.itemsize == 8:
            name = self.fresh("n")
            self.line(f"const ulong {name} = {text};")
            self.line(f"{array}[2 * ({at})] = (uint){name}; "
                      f"{array}[2 * ({at}) + 1] = (uint)({name} >> 32);")
        elif d.itemsize == 4:
            self.line(f"{array}[{at}] = {text};")
        else:
            unsigned, word, shift = _place(d, at)
            self.line(f"{array}[{word}] |= (uint)({unsigned}){text} << {shift};")

    def load_words(self, array: str, start: int | str, slot: int, d: dtype, at: str, count: int,
                   checked: bool) -> None:
        """Fill words from `start` on with `count` elements from element `at` on. checked: where
        the address is no multiple of the size, one by one."""
        self._transfer(slot, d, at, count, checked, start, array, True)

    def store_words(self, array: str, slot: int, d: dtype, at: str, count: int,
                    checked: bool) -> None:
        """Write words from 0 on to `count` elements from element `at` on."""
        self._transfer(slot, d, at, count, checked, 0, array, False)

    def _transfer(self, slot: int, d: dtype, at: str, count: int, checked: bool, start: int | str,
                  array: str, load: bool) -> None:
        size, dialect = d.itemsize, self.dialect
        piece = access(d, count)
        if checked:
            self.open(f"if (((ulong)(b{slot} + {at}) & {piece - 1}) == 0)")
        vector = dialect.vector("uint", piece // 4)
        names = [""] if piece == 4 else ["." + c for c in "xyzw"[:piece // 4]]
        for k in range(count * size // piece):
            where = f"b{slot} + {at}" + (f" + {k * piece // size}" if k else "")
            words = [f"{array}[{_plus(start, k * piece // 4 + i)}]" for i in range(piece // 4)]
            t = self.fresh("v")
            if load:
                text = dialect.packed_load.format(space=dialect.space, type=vector, at=where)
                self.line(f"const {vector} {t} = {text};")
                self.line(" ".join(f"{w} = {t}{c};" for w, c in zip(words, names)))
            else:
                self.line(f"{vector} {t}; " + " ".join(f"{t}{c} = {w};"
                                                       for w, c in zip(words, names)))
                self.line(dialect.packed_store.format(space=dialect.space, type=vector, at=where,
                                                      value=t))
        if not checked:
            return
        self.close()
        self.open("else")
        first = f"({start}) * 4 / {size}" if start else "0"
        if load:
            for i in range(count * size // 4 if size < 4 else 0):
                self.line(f"{array}[{_plus(start, i)}] = 0;")
            for i in range(count):
                self.deposit(array, d, f"{first} + {i}", f"b{slot}[{at} + {i}]")
        else:
            for i in range(count):
                self.line(f"b{slot}[{at} + {i}] = {self.raw(array, d, str(i))};")
        self.close()


def _place(d: dtype, at: str) -> tuple[str, str, str]:
    """(unsigned type, word, bits to shift by) of a small element in an array of words."""
    if d.itemsize == 2:
        return "ushort", f"({at}) >> 1", f"((({at}) & 1) << 4)"
    return "uchar", f"({at}) >> 2", f"((({at}) & 3) << 3)"


def _plus(start: int | str, k: int) -> str:
    return str(start + k) if isinstance(start, int) else f"{start} + {k}" if k else start


def access(d: dtype, count: int) -> int:
    """Bytes of one access to `count` neighbouring elements."""
    return min(WIDEST, count * d.itemsize)


def words(d: dtype, count: int) -> int:
    """32-bit words that hold `count` elements."""
    return count * d.itemsize // 4


def unit(e: Expr, axis: int) -> bool:
    """Whether an index moves by one element along an axis."""
    step = coefficient(e, axis)
    return step is not None and is_const(step, 1)


def neighbours(kernel: Kernel, roots: Sequence[Expr], axis: int, count: int) -> list[Expr]:
    """The loads under `roots` that may be done `count` neighbours along `axis` at a time."""
    written = {s.slot for stage in kernel.stages for s in stage.body
               if isinstance(s, (Store, Scatter))}
    return [e for e in walk(roots) if e.op == "load" and len(e.args) == 1
            and e.value not in written and of(e).itemsize * count >= 4
            and unit(e.args[0], axis)]


def vector_length(kernel: Kernel, stages: Sequence[Stage], axis: int, length: int, tail: bool,
                  ) -> int:
    """How many neighbours along `axis` a thread should take in these stages: accesses of 16
    bytes, or of at least 8 where types differ; a divisor of `length` unless the schedule has a
    `tail` loop."""
    statements = [s for stage in stages for s in stage.body]
    kinds = [of(e) for e in walk([x for s in statements for x in statement_exprs(s)])
             if e.op == "load" and len(e.args) == 1 and unit(e.args[0], axis)]
    kinds += [kernel.args[s.slot].dtype for s in statements
              if isinstance(s, Store) and s.mask is None and unit(s.index, axis)]
    if not kinds:
        return 1
    sizes = [d.itemsize for d in kinds]
    n = max(WIDEST // max(sizes), 8 // min(sizes))
    while n > 1 and length % n and not (tail and length >= n):
        n //= 2
    return n


def origin(e: Expr) -> Expr:
    """An index at the first point of all axes."""
    axes = {x: const(0, dt.int64) for x in walk([e]) if x.op == "index"}
    return substitute([e], axes)[0] if axes else e


# -- the printer ----------------------------------------------------------------------------------


class ThreadPrinter(_Printer):
    """Prints kernels in which a work item has its own grid point, or part of one."""

    e: PackedEmitter

    def __init__(self, kernel: Kernel, dialect: Dialect, narrow: bool) -> None:
        super().__init__(kernel, dialect, lanes_schedule.Variant("grid", len(kernel.grid) - 1, 1))
        self.e = PackedEmitter(kernel, dialect, narrow)
        self.copy_refs = [self.e.refs]
        self.int = self.e.index_type

    def local_id(self) -> str:
        """The number of this item in its group."""
        return f"({self.int}){self.dialect.local_id.format(d=0)}"

    def group_id(self) -> str:
        """The number of this group."""
        return f"({self.int}){self.dialect.group_id.format(d=0)}"

    def global_id(self) -> str:
        """The number of this item."""
        return f"({self.int}){self.dialect.global_id.format(d=0)}"

    def grid(self) -> list[str]:
        """The sizes of the grid."""
        return [self.e.value(n).text for n in self.kernel.grid]

    def split(self, flat: str, axes: Sequence[int], counts: Sequence[str]) -> None:
        """Bind axes to the row-major digits of `flat`."""
        e, rest = self.e, flat
        for at in reversed(range(len(axes))):
            g = e.fresh("g")
            if at == 0:
                e.line(f"const {self.int} {g} = {rest};")
            else:
                after = e.fresh("u")
                text = f"{rest} / {counts[at]}"
                if self.e.narrow:  # never negative: cheaper without a sign
                    text = f"(int)((uint){rest} / (uint){counts[at]})"
                e.line(f"const {self.int} {after} = {text};")
                e.line(f"const {self.int} {g} = {rest} - {after} * {counts[at]};")
                rest = after
            e.bind(axes[at], g)

    def unrolled(self, name: str, count: int) -> None:
        """Open a loop of a fixed number of steps that the compiler is to unroll."""
        hint = f"{self.dialect.unroll}\n" if count > 1 and self.dialect.unroll else ""
        self.e.open(f"{hint}for (int {name} = 0; {name} < {count}; ++{name})")

    def element_of(self, load: Expr, array: str, at: str) -> Callable[[], str]:
        """What `PackedEmitter.packed` holds for a load."""
        return lambda: self.e.element(array, of(load), at)


__all__ = ["PackedEmitter", "ThreadPrinter", "fits", "neighbours", "vector_length", "unit",
           "origin", "access", "words"]
