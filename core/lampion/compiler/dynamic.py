"""Programs for sizes that nobody traced.

Floor 6; imports graph, program, results, sizes. Programs of one function that were traced for three
sizes tell how every whole number in them (dims, strides, offsets, parameters of kernels) depends on
the size: two of them give a formula, the third proves it. All else has to be the same in all three.
For a further size the formulas are evaluated, the kernels are planned for the numbers, and nothing
is traced. Before that, everything that the function's code found out about sizes (`sizes.py`) has
to be as it was; if it is not, the size is traced like any other.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from ..base.dtype import dtype
from ..base.errors import LampionError
from ..base.meta import Meta, meta
from ..ir.kernel import KernelCall
from ..ir.kernel import Program as Kernels
from ..ops import plans as P
from . import arguments
from .graph import Buffer, Call, Graph, HostCall, Late, Ref, SetGrads
from .history import Backward
from .program import build
from .results import Argument, New, Number, Same
from .sizes import value

_CONSTANT = 4096  # bytes of memory that is compared
WHOLE = "whole number"  # in the key of a call, before an argument that is one
LEAST = 2  # sizes of 0 and 1 are other programs: they broadcast
Formula = Callable[[int], Any]
Row = list[int]  # of numbers: places in a table of formulas


# Families of ops whose own decisions about sizes are known here: by what their metas tell, or told
# to the trace. A program with another kernel is one of its sizes alone.
_FAMILIES = frozenset(f"lampion.ops.{name}" for name in (
    "attention", "contract", "conv", "create", "gather", "join", "loss", "memory", "norm", "pad",
    "pool", "random", "rearrange", "recurrent", "reduce", "region", "scan", "scatter", "softmax",
    "windows"))
# ... and those whose kernels are right for all sizes that they have the parameters of
_GENERAL = frozenset(f"lampion.ops.{name}" for name in (
    "attention", "contract", "gather", "join", "loss", "memory", "norm", "recurrent", "reduce",
    "region", "softmax"))


class Unfit(Exception):
    """Two programs are not the same but for their numbers, or numbers have no formula."""


# ---- formulas ------------------------------------------------------------------------------------

def formula(sizes: Sequence[int], values: Sequence[Any]) -> Formula:
    """The number as a function of the size. Unfit if there is none that gives all `values`."""
    first = values[0]
    if any(type(v) is not type(first) for v in values):
        raise Unfit("a number changes its type")
    if all(v == first for v in values) and (first or len(set(map(repr, values))) == 1):
        return lambda s: first
    found = _whole(sizes, values) if type(first) is int else (
        _float(sizes, values) if type(first) is float else None)
    if found is None:
        raise Unfit(f"{list(values)} is no formula of {list(sizes)}")
    return found


class Table:
    """Formulas of many numbers, each worked out once."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.formulas: list[Formula] = []
        self._known: dict[Any, int] = {}

    def row(self, columns: Sequence[Sequence[Any]]) -> Row:
        """The numbers that were columns[k] for size k."""
        return [self.place(v) for v in zip(*columns)]

    def place(self, values: Sequence[Any]) -> int:
        """The place of a number's formula. Unfit if it has none."""
        key = tuple([(type(v), v.hex() if type(v) is float else v) for v in values])
        at = self._known.get(key)
        if at is None:
            at = self._known[key] = len(self.formulas)
            self.formulas.append(formula(self.sizes, values))
        return at

    def values(self, s: int) -> list[Any]:
        """All of them for a size."""
        return [f(s) for f in self.formulas]


_TERMS: tuple[tuple[Formula, Formula], ...] = (
    (lambda s: s, lambda s: 1), (lambda s: s * s, lambda s: s), (lambda s: s * s, lambda s: 1))


def _whole(sizes: Sequence[int], values: Sequence[int]) -> Formula | None:
    (s, t), (u, v) = sizes[:2], values[:2]
    for f, g in _TERMS:
        d = f(s) * g(t) - f(t) * g(s)
        if not d:
            continue
        a, b = Fraction(u * g(t) - v * g(s), d), Fraction(f(s) * v - f(t) * u, d)

        def found(n: int, a: Fraction = a, b: Fraction = b, f: Formula = f,
                  g: Formula = g) -> int:
            got = a * f(n) + b * g(n)
            if got.denominator != 1:
                raise Unfit("a number is not whole")
            return got.numerator

        if all(a * f(n) + b * g(n) == w for n, w in zip(sizes, values)):
            return found
    return None


def _float(sizes: Sequence[int], values: Sequence[float]) -> Formula | None:
    """A float as Python computes it of the size and a constant; bit for bit, or not at all."""
    s, v = sizes[0], values[0]
    if not v or v != v or abs(v) == float("inf"):
        return None
    for c in (v * s, float(round(v * s)), v / s, v / s / s, v * s * s, float(round(v * s * s))):
        for found in (lambda n, c=c: c / n, lambda n, c=c: c * n, lambda n, c=c: c * (n * n),
                      lambda n, c=c: c / (n * n)):
            if all(found(n) == w for n, w in zip(sizes, values)):
                return found  # type: ignore[return-value]
    for k in (round(1 / (v * s)), round(1 / (v * s * s))):
        for found in (lambda n, k=k: 1 / (k * n), lambda n, k=k: 1 / (k * n * n)):
            if k and all(found(n) == w for n, w in zip(sizes, values)):
                return found  # type: ignore[return-value]
    return _unbiased(sizes, values)


def _unbiased(sizes: Sequence[int], values: Sequence[float]) -> Formula | None:
    """c times m / (m - 1) for m = k n values: what makes a variance unbiased."""
    (s, t), (v, w) = sizes[:2], values[:2]
    r = v * t / (w * s)
    if r * s == t:
        return None
    k = round((r - 1) / (r * s - t))
    if k < 1 or k * s < 2:
        return None
    c = float(f"{v * (k * s - 1) / (k * s):.12g}")

    def found(n: int) -> float:
        return c * (k * n / (k * n - 1))

    return found if all(found(n) == x for n, x in zip(sizes, values)) else None


# ---- going through an entry ----------------------------------------------------------------------

class Copy:
    """Goes through a compiled entry, always in the same order. Without `numbers` it collects them
    (`numbers`) and all else (`notes`); with them it makes the entry that has these instead."""

    def __init__(self, given: Sequence[Any] | None = None,
                 kernels: Sequence[Sequence[int] | None] = ()) -> None:
        self.making = given is not None
        self.kernels = iter(kernels)  # the numbers of each plan's kernels, if they are known
        self.plans: dict[Any, Any] = {}
        self.programs: list[tuple[Any, list[int]]] = []
        self.given: Iterator[Any] = iter(given or ())
        self.numbers: list[Any] = []
        self.notes: list[Any] = []
        self.keep: list[Any] = []  # what notes name by identity
        self._known: dict[int, Any] = {}  # id -> (position, copy)
        self._pinned: list[Any] = []

    def note(self, *what: Any) -> None:
        if not self.making:
            self.notes.append(what)

    def same(self, x: Any) -> None:
        """An object that has to be the same one."""
        if not self.making:
            self.notes.append(id(x))
            self.keep.append(x)

    def number(self, n: Any) -> Any:
        if self.making:
            return next(self.given)
        self.numbers.append(n)
        return n

    def once(self, x: Any, copy: Callable[[Any], Any]) -> Any:
        """The copy of an object, which is made at its first occurrence."""
        found = self._known.get(id(x))
        if found is None:
            self._pinned.append(x)
            self.note("new")
            at = len(self._known)
            found = self._known[id(x)] = (at, copy(x))
        else:
            self.note("again", found[0])
        return found[1]

    def value(self, x: Any) -> Any:
        """An attribute of a call, a result that is no tensor."""
        t = type(x)
        if t in (int, float):
            return self.number(x)
        if t is Meta:
            return self.meta(x)
        if t is dict:
            self.note(tuple(x))
            return {k: self.value(y) for k, y in x.items()}
        if t in (tuple, list):
            self.note(t, len(x))
            return t([self.value(y) for y in x])
        if t in (bool, str, type(None), complex, dtype) or isinstance(x, type):
            self.note(t, x)
        else:
            self.same(x)
        return x

    def meta(self, m: Meta) -> Meta:
        self.note(m.dtype, m.device, m.ndim)
        shape = [self.number(n) for n in m.shape]
        strides = [self.number(n) for n in m.strides]
        return meta(m.dtype, shape, strides, m.device) if self.making else m

    # ---- graphs --------------------------------------------------------------------------------

    def graph(self, g: Graph) -> Graph:
        self.note(g.name, len(g.items), len(g.outputs))
        for x in (*g.handed, *g.given):
            self.same(x)
        draws = {}
        for x, n in g.draws.items():
            self.same(x)
            draws[x] = self.number(n)
        items = [self.item(x) for x in g.items]
        return Graph(g.name, items, [self.ref(r) for r in g.outputs], draws, g.handed, g.given)

    def item(self, x: Any) -> Any:
        self.note(type(x))
        if type(x) is Call:
            return self.call(x)
        if type(x) is SetGrads:
            grads = []
            for leaf, v in x.grads:
                self.same(leaf)
                self.note(type(v))
                if type(v) is Ref:
                    v = self.ref(v)
                else:
                    self.same(v)
                grads.append((leaf, v))
            return SetGrads(grads)
        assert type(x) is HostCall
        self.same(x.function)
        for y in (*x.args, *x.kwargs.values()):
            self.note(y) if type(y) in arguments.VALUES else self.same(y)
        return x

    def buffer(self, b: Buffer) -> Buffer:
        return self.once(b, self._buffer)

    def _buffer(self, b: Buffer) -> Buffer:
        self.note(b.kind, b.index, b.device)
        if b.kind == "grad":
            self.same(b.owner)
        if b.kind == "held":
            self.constant(b)
            return b
        n = self.number(b.nbytes)
        if not self.making:
            return b
        return Buffer(b.kind, b.number, n, b.device, index=b.index, owner=b.owner, shift=b.shift)

    def constant(self, b: Buffer) -> None:
        """Memory of the outside, or that the trace filled with the same values each time."""
        base = b.storage.base
        if not self.making:
            self.notes.append(Held(base, b.nbytes, b.device))

    def ref(self, r: Ref) -> Ref:
        made = Ref(self.buffer(r.buffer), self.number(r.offset), self.meta(r.meta))
        if self.making and not 0 <= made.offset <= made.buffer.nbytes - made.meta.span:
            raise Unfit("a view reaches beyond its memory")
        return made

    def read(self, x: Any) -> Any:
        self.note(type(x))
        if type(x) is Ref:
            return self.ref(x)
        if type(x) is Late:
            self.same(x.source)
            if x.what == "key":
                self.note("key")
                return x
            return Late(x.source, self.number(x.what))
        return self.value(x)

    def call(self, c: Call) -> Call:
        self.note(c.op, c.generated, c.status, len(c.reads), len(c.writes))
        reads = tuple([self.read(x) for x in c.reads])
        writes = tuple([self.ref(w) for w in c.writes])
        if c.kernels is not None:
            call, launch, plan = self.fused(c, reads, writes)
        else:
            call, launch, plan = self.planned(c, writes)
        return Call(c.op, call, launch, reads, writes, c.generated, plan, c.status, c.where,
                    c.kernel, c.part, c.kernels) if self.making else c

    def fused(self, c: Call, reads: Sequence[Any], writes: Sequence[Ref]) -> Any:
        """A call of kernels that the compiler made."""
        kernels: Kernels = c.kernels
        calls = []
        for k in kernels.calls:
            self.note(k.kernel.key, tuple(k.slots))
            calls.append(KernelCall(k.kernel, tuple([self.number(n) for n in k.params]), k.slots))
        scratch = tuple([self.number(n) for n in kernels.scratch])
        if c.status or kernels.status:
            raise Unfit("a fused call has a status")
        if not self.making:
            return c.call, c.launch, c.plan
        where = c.call.device
        launch = P.backend_of(where).program(Kernels(tuple(calls), scratch),
                                             [w.meta.span for w in writes], where)
        inputs = tuple([x.meta if type(x) is Ref else m for x, m in zip(reads, c.call.inputs)])
        call = type(c.call)(c.call.op, inputs, {}, tuple([w.meta for w in writes]), where)
        return call, launch, c.plan

    def planned(self, c: Call, writes: Sequence[Ref]) -> Any:
        """A call of an op, planned anew."""
        if c.plan is None or c.plan.given is None or c.launch is not c.plan.launch_of:
            raise Unfit(f"nobody knows how {c.op} was planned")
        plan = self.plan(c.plan)
        if not self.making:
            return c.call, c.launch, c.plan
        launch = plan.launch_of
        if launch is None or "fallback" in plan.chosen or \
                (launch.inner[1] if launch.inner else 0) != c.status or \
                any(w.meta is not m for w, m in zip(writes, plan.metas)):
            raise Unfit(f"{c.op} is another call at this size")
        return plan.call, launch, plan

    def plan(self, p: Any) -> Any:
        make, op, values, rest = p.given
        self.same(op)
        self.note(make.__name__, p.chosen)
        values = [self.value(v) for v in values]
        rest = [self.value(v) for v in rest]
        family = _family(op)
        if family not in _FAMILIES and op.kind != "elementwise":
            raise Unfit(f"{op.qualname} may decide by a size")
        program = p.launch_of.program if op.kind == "elementwise" or family in _GENERAL else None
        if not self.making:
            self.programs.append(_numbers(program))
            return p
        numbers = next(self.kernels)
        key = repr((op.qualname, values, rest))
        made = self.plans.get(key)
        if made is None:
            made = self.plans[key] = self.remade(p, program, numbers, values, rest)
        return made

    def remade(self, p: Any, program: Any, numbers: Sequence[int] | None, values: list[Any],
               rest: list[Any]) -> Any:
        """A plan for other metas; with kernels of which the numbers are given, or planned as if it
        was the first."""
        make, op = p.given[:2]
        if numbers is None:
            made = make(op, values, *rest)
            if ("generated" in made.chosen) != ("generated" in p.chosen):
                raise Unfit(f"{op.qualname} has another kernel at this size")
            return made
        call = P.elementwise_call(op, values, *rest)[0] if make is P.elementwise_plan else \
            P.kernel_call(op, values, rest[0])
        row = iter(numbers)
        calls = tuple([KernelCall(k.kernel, tuple([next(row) for _ in k.params]), k.slots)
                       for k in program.calls])
        fresh = Kernels(calls, tuple([next(row) for _ in program.scratch]), program.status)
        return P.Plan(op, call, P.generated(op, call, fresh), p.chosen)

    # ---- entries -------------------------------------------------------------------------------

    def made(self, how: Any) -> Any:
        """How a tensor of the result is made."""
        self.note(type(how))
        if type(how) is New:
            if how.source is None or type(how.source) is int:
                self.note(how.source)
            else:
                self.same(how.source)
            self.note(how.place, how.output, how.done)
            return how._replace(meta=self.meta(how.meta))
        if type(how) is Number:
            self.note(how.place) if type(how.place) is int else self.same(how.place)
            return how._replace(meta=self.meta(how.meta))
        if type(how) is Same:
            self.same(how.value)
        if type(how) is Argument:
            self.note(how.number)
        return how

    def result(self, x: Any) -> Any:
        """The structure of a result with its numbers."""
        def leaf(y: Any) -> Any:
            return self.value(y) if type(y) in arguments.VALUES else y

        def tensor(t: Any) -> Any:
            self.note("tensor")
            return t

        return arguments.rebuild(x, tensor, True, leaf)

    def backward(self, b: Backward) -> Backward:
        graph = self.graph(b.program.graph)
        for row in (b.saved, b.args, b.absent):
            self.note(*row)
        for k, holder in b.targets:
            self.note(k)
            self.same(None if holder is None else holder.node)
        metas, outs, given = ([self.meta(m) for m in row]
                              for row in (b.metas, b.outs, b.arguments))
        self.note(len(metas), len(outs), len(given))
        if not self.making:
            return b
        made = Backward(build(graph), b.name)
        made.metas, made.outs, made.arguments = tuple(metas), tuple(outs), tuple(given)
        made.targets, made.saved, made.args, made.absent = b.targets, b.saved, b.args, b.absent
        made.outside, made.held, made.again = b.outside, b.held, b.again
        return made

    def entry(self, e: Any) -> Any:
        self.note(type(e), e.apart, e.typed, len(e.checks))
        for k, what, how in e.facts:
            self.note(k, what, how)
        for k, base in e.same:
            self.note(k)
            self.same(base())
        result = self.result(e.result)
        made = [self.made(how) for how in e.made]
        checks = []
        for place, m, error in e.checks:
            self.note(place, type(error), str(error))
            checks.append((place, self.meta(m), error))
        grads = []
        for leaf, m in e.grads:
            self.same(leaf)
            self.note(m is None)
            grads.append((leaf, None if m is None else self.meta(m)))
        forward = self.graph(e.programs[0].graph)
        back = self.backward(e.backward) if len(e.programs) > 1 else None
        if not self.making:
            return e
        fresh = type(e)(e.world, build(forward), *((back,) if back is not None else ()), result,
                        made)
        fresh.checks, fresh.grads = checks, grads
        for name in ("held", "leaves", "keep", "moves", "apart", "typed", "facts", "same",
                     "outside"):
            setattr(fresh, name, getattr(e, name))
        return fresh


def _family(op: Any) -> str:
    """The module in which an op of the package is declared."""
    rule = op.body if op.kind == "elementwise" else op.meta
    return str(getattr(rule, "__module__", ""))


def _numbers(program: Any) -> tuple[Any, list[int]]:
    """(all of a kernel program but its numbers, its numbers)."""
    if program is None:
        return None, []
    return ([(c.kernel.key, tuple(c.slots), len(c.params)) for c in program.calls],
            len(program.scratch), program.status), [
                *[n for c in program.calls for n in c.params], *program.scratch]


class Held:
    """Memory of the outside as a note: the same memory, or constants with the same bytes."""

    def __init__(self, base: Any, nbytes: int, where: Any) -> None:
        self.base, self.nbytes, self.where = base, nbytes, where

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Held):
            return False
        if self.base is other.base:
            return True
        return self.nbytes == other.nbytes <= _CONSTANT and self.bytes() == other.bytes()

    def bytes(self) -> bytes:
        return bytes(P.backend_of(self.where).copy_to_host(self.base, self.nbytes))

    __hash__ = object.__hash__


# ---- templates -----------------------------------------------------------------------------------

def pattern(key: Any) -> tuple[Any, list[int]]:
    """The key of a call without its sizes, and these."""
    numbers: list[int] = []

    def strip(x: Any) -> Any:
        t = type(x)
        if t is Meta:
            numbers.extend(x.shape)
            numbers.extend(x.strides)
            return (x.dtype, x.device, x.ndim)
        if t is tuple:
            if len(x) == 2 and x[0] is WHOLE:
                numbers.append(x[1])
                return WHOLE
            return tuple([strip(y) for y in x])
        return x

    return strip(key), numbers


# Functions of Python that make something of a number without telling it.
_LEAKS = frozenset((
    "range", "zip", "enumerate", "map", "filter", "slice", "sum", "sorted", "reversed", "iter",
    "bin", "oct", "hex", "chr", "bytes", "bytearray", "memoryview"))
_SAFE = frozenset(("sqrt", "pi", "e", "inf", "nan", "tau"))  # of math: floats that have no formula


def _refuse_leaks(world: Any) -> None:
    """Unfit if a function's code names what sizes could go to unseen."""
    names = world.globals & _LEAKS
    if world.globals & {"math", "cmath", "operator", "itertools"}:
        names |= world.names & (set(dir(math)) | set(dir(operator)) | set(dir(itertools))) - _SAFE
    if names:
        raise Unfit(f"a size may go to {', '.join(sorted(names))} unseen")


class Template:
    """Three entries as one, for all sizes."""

    def __init__(self, rows: Sequence[tuple[Any, Sequence[int]]], trusting: bool = False) -> None:
        """`rows`: entries, and the numbers in the keys of their calls. Unfit if they do not agree,
        or more than one size changes, or the function's code gets to see one that changes: Python
        may look it up in a list, and nobody is told. `trusting` takes its word that it does not."""
        entries = [e for e, _ in rows]
        keys = [numbers for _, numbers in rows]
        self.at = next((k for k, v in enumerate(zip(*keys)) if len(set(v)) > 1), -1)
        sizes = [numbers[self.at] for numbers in keys]
        if self.at < 0 or len(set(sizes)) < 3 or min(sizes) < LEAST:
            raise Unfit("there are no three sizes")
        self.table = Table(sizes)
        self.key = self.table.row(keys)
        logs = [e.sizes for e in entries]
        if any(log is None or log.fixed for log in logs):
            raise Unfit("the function decides by a size")
        if len({len(log.reads) for log in logs}) > 1 or len({len(log.facts) for log in logs}) > 1:
            raise Unfit("the function looks at other sizes")
        if any(log.pins != logs[0].pins or any(log.reads[k] != logs[0].reads[k] for k in log.pins)
               for log in logs):
            raise Unfit("the length of a tensor is asked for")
        if trusting:
            _refuse_leaks(entries[-1].world)
        elif any(len(set(column)) > 1 for column in zip(*[log.reads for log in logs])):
            raise Unfit("the function reads a size that changes, and dynamic=True was not given")
        self.reads = self.table.row([log.reads for log in logs])
        self.facts = []
        for row in zip(*[log.facts for log in logs]):
            if any(term != row[0][0] for term, _ in row):
                raise Unfit("the function computes other sizes")
            self.facts.append((row[0][0], self.table.place([got for _, got in row])))
        copies = []
        for e in entries:
            copies.append(Copy())
            copies[-1].entry(e)
        self.numbers = self._row(copies, "the programs differ")
        self.kernels = [self._kernels(row) for row in zip(*[c.programs for c in copies])]
        self.views: list[tuple[Any, Row]] = []
        if len({len(log.views) for log in logs}) > 1:
            raise Unfit("other views are made")
        for plans in zip(*[log.views for log in logs]):
            copies = [Copy() for _ in plans]
            for c, p in zip(copies, plans):
                _view(c, p)
            view = plans[-1], self._row(copies, "other views are made")
            if view not in self.views:
                self.views.append(view)
        self.entry = entries[-1]

    def _row(self, copies: Sequence[Copy], reason: str) -> Row:
        """The formulas of what copies collected; all else has to be the same."""
        first = copies[0]
        if any(c.notes != first.notes or len(c.numbers) != len(first.numbers) for c in copies):
            raise Unfit(reason)
        return self.table.row([c.numbers for c in copies])

    def _kernels(self, row: Sequence[tuple[Any, list[int]]]) -> Row | None:
        """How the numbers of a plan's kernels depend on the size; None if that is not known."""
        first = row[0][0]
        if first is None or any(kernels != first for kernels, _ in row):
            return None
        try:
            return self.table.row([numbers for _, numbers in row])
        except Unfit:
            return None

    def make(self, numbers: Sequence[int]) -> Any:
        """The entry for a call with these numbers in its key; None if it has to be traced."""
        s = numbers[self.at]
        if s < LEAST:
            return None
        try:
            v = self.table.values(s)
            if any(v[k] != n for k, n in zip(self.key, numbers)):
                return None
            reads = [v[k] for k in self.reads]
            if any(value(term, reads) != v[k] for term, k in self.facts):
                return None
            if not all(_same_view(p, [v[k] for k in row]) for p, row in self.views):
                return None
            kernels = [None if row is None else [v[k] for k in row] for row in self.kernels]
            return Copy([v[k] for k in self.numbers], kernels).entry(self.entry)
        except (Unfit, ArithmeticError, RuntimeError, TypeError, ValueError, IndexError,
                LampionError):
            return None  # what is wrong with the size, the function itself will say


def _view(c: Copy, p: Any) -> tuple[Any, list[Any], Meta, int]:
    """(source, arguments, result, offset) of the plan of a view."""
    c.same(p.op)
    source, *rest = p.call.args.values()
    return c.meta(source), [c.value(v) for v in rest], c.meta(p.meta), c.number(p.offset)


def _same_view(p: Any, numbers: Sequence[Any]) -> bool:
    """Whether a view comes out as these numbers say."""
    m, rest, result, offset = _view(Copy(numbers), p)
    got = p.op.view(m, *rest)
    if got is None:
        return False
    d = got[3] if len(got) > 3 else m.dtype
    start = int(got[2] * m.dtype.itemsize) if m.numel or 0 not in got[0] else 0
    return meta(d, got[0], got[1], m.device) is result and start == offset


__all__ = ["WHOLE", "Template", "Unfit", "pattern", "formula"]
