"""Accumulators of reductions, arg-reductions and scans.

May import: lampion, emit, intrinsics, types.
"""

from __future__ import annotations

from collections.abc import Sequence

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.ir.kernel import ArgReduce, Reduce, Scan

from . import types as ty
from .emit import Emitter, Val
from .intrinsics import COMBINE, Site, apply, combine


class Accumulator:
    """The running state of one statement.

    `parts` registers a vector: 1, or 2 for an arg-reduction (value and position) and a complex
    product (real and imaginary part). In a loop whose
    lanes are being reduced, `vector` is the lanes' state between loops and `scalar` that of
    single elements.
    """

    def __init__(self, statement: Reduce | ArgReduce | Scan) -> None:
        self.statement = statement
        assert statement.value.dtype is not None
        self.dtype: dtype = statement.value.dtype
        self.op = statement.op
        self.arg = isinstance(statement, ArgReduce)
        self.imag = getattr(statement, "imag", None)
        self.kinds = [self.dtype, dt.int64] if self.arg else [self.dtype] * (
            1 if self.imag is None else 2)
        self.parts = len(self.kinds)
        self.vector: list[str] = []
        self.scalar: list[str] = []
        self.flushes = (isinstance(statement, Reduce) and self.op == "sum"
                        and self.dtype.kind == "f")

    # ---- registers ----------------------------------------------------------------------------

    def types(self, w: int) -> list[str]:
        """The type of each part."""
        return [ty.vec(ty.reg(d), w) for d in self.kinds]

    def empty(self, w: int) -> list[str]:
        """The neutral state: identity, and position -1 or imaginary part 0."""
        values = [ty.identity(self.op, self.dtype), -1 if self.arg else 0][:self.parts]
        words = [ty.literal(v, d) for v, d in zip(values, self.kinds)]
        if w == 1:
            return words
        return [f"splat ({ty.reg(d)} {x})" for x, d in zip(words, self.kinds)]

    def fresh(self, em: Emitter, w: int, u: int) -> list[tuple[str, str]]:
        """(type, neutral register) of U states, part by part."""
        return [(t, e) for t, e in zip(self.types(w), self.empty(w)) for _ in range(u)]

    def begin(self, em: Emitter, w: int, scalars: bool) -> None:
        """Start a reduction over lanes."""
        self.vector = self.empty(w)
        self.scalar = self.empty(1) if scalars else []

    def current(self, w: int) -> list[tuple[str, str]]:
        """(type, register) of the lanes' state."""
        return list(zip(self.types(w), self.vector))

    def current_scalar(self, masked: bool = False) -> list[tuple[str, str]]:
        """(type, register) of the single elements' state."""
        return [] if masked else list(zip(self.types(1), self.scalar))

    def restore(self, regs: list[str], at: int, masked: bool) -> int:
        """Take the state from loop-carried registers; gives the next position."""
        self.vector = list(regs[at:at + self.parts])
        at += self.parts
        if not masked:
            self.scalar = list(regs[at:at + self.parts])
            at += self.parts
        return at

    # ---- code ---------------------------------------------------------------------------------

    def update(self, em: Emitter, held: list[str], mask: str | None, vec: bool) -> list[str]:
        """Take in the statement's value at the current point."""
        s = self.statement
        v = em.value(s.value)
        values = em.vectors(v, self.dtype) if vec else v.regs
        site = Site(em, em.here, vec)
        u = len(values)
        if isinstance(s, ArgReduce):
            p = em.value(s.position)
            where = em.vectors(p, dt.int64) if vec else p.regs
            best, at = held[:u], held[u:]
            takes = [_better(site, self.op, x, b, i, self.dtype)
                     for x, b, i in zip(values, best, at)]
            if mask is not None:
                takes = [site.put(f"and {site.raw('i1')} {t}, {mask}") for t in takes]
            c, t, it = site.raw("i1"), site.t(self.dtype), site.raw("i64")
            new = [site.put(f"select {c} {k}, {t} {x}, {t} {b}")
                   for k, x, b in zip(takes, values, best)]
            pos = [site.put(f"select {c} {k}, {it} {x}, {it} {i}")
                   for k, x, i in zip(takes, where, at)]
            return new + pos
        if self.imag is not None:
            other = em.value(self.imag)
            second = em.vectors(other, self.dtype) if vec else other.regs
            pairs = [self.product(site, (held[k], held[u + k]), (values[k], second[k]))
                     for k in range(u)]
            new = [p[0] for p in pairs] + [p[1] for p in pairs]
        else:
            new = [apply(site, COMBINE[self.op], (h, x), self.dtype)
                   for h, x in zip(held, values)]
        if mask is not None:
            c, t = site.raw("i1"), site.t(self.dtype)
            new = [site.put(f"select {c} {mask}, {t} {x}, {t} {h}") for x, h in zip(new, held)]
        return new

    def product(self, s: Site, x: Sequence[str], y: Sequence[str]) -> list[str]:
        """(ac - bd, ad + bc)."""
        def f(op: str, a: str, b: str) -> str:
            return apply(s, op, (a, b), self.dtype)

        return [f("sub", f("mul", x[0], y[0]), f("mul", x[1], y[1])),
                f("add", f("mul", x[0], y[1]), f("mul", x[1], y[0]))]

    def fold(self, em: Emitter, regs: list[str], w: int, u: int) -> None:
        """Join the U states of a finished loop (as a tree) into the lanes' state."""
        states = [[regs[k + u * part] for part in range(self.parts)] for k in range(u)]
        while len(states) > 1:
            joined = [self.merge(em, states[k], states[k + 1], w)
                      for k in range(0, len(states) - 1, 2)]
            states = joined + states[2 * len(joined):]
        self.vector = self.merge(em, self.vector, states[0], w)

    def merge(self, em: Emitter, a: list[str], b: list[str], w: int) -> list[str]:
        """Two states to one; of equal extremes the smaller position is kept."""
        if self.imag is not None:
            return self.product(Site(em, em.here, False, w), a, b)
        if not self.arg:
            return [combine(em, self.op, a[0], b[0], self.dtype, w)]
        s = Site(em, em.here, False, w)
        c, t, it = s.raw("i1"), s.t(self.dtype), s.raw("i64")
        better = _better(s, self.op, b[0], a[0], a[1], self.dtype)
        same = _tie(s, a[0], b[0], self.dtype)
        sooner = s.put(f"icmp slt {it} {b[1]}, {a[1]}")
        tie = s.put(f"and {c} {same}, {sooner}")
        take = s.put(f"or {c} {better}, {tie}")
        real = s.put(f"icmp sge {it} {b[1]}, {s.lit(0, dt.int64)}")
        take = s.put(f"and {c} {take}, {real}")
        return [s.put(f"select {c} {take}, {t} {b[0]}, {t} {a[0]}"),
                s.put(f"select {c} {take}, {it} {b[1]}, {it} {a[1]}")]

    def finish(self, em: Emitter, w: int) -> None:
        """Reduce the lanes (as a tree), add the single elements, and bind the result."""
        state, types = self.vector, [ty.reg(d) for d in self.kinds]
        while w > 1:
            half = w // 2
            parts: list[list[str]] = []
            for first in (0, half):
                order = ", ".join(f"i32 {first + k}" for k in range(half))
                parts.append([em.put(
                    f"shufflevector <{w} x {t}> {r}, <{w} x {t}> poison, <{half} x i32> <{order}>")
                    if half > 1 else em.put(f"extractelement <{w} x {t}> {r}, i32 {first}")
                    for t, r in zip(types, state)])
            state, w = self.merge(em, parts[0], parts[1], half), half
        if self.scalar:
            state = self.merge(em, state, self.scalar, 1)
        self.bind(em, state, False)

    def bind(self, em: Emitter, regs: list[str], vec: bool) -> None:
        """Make the state readable as `ref(name)`."""
        name, n = self.statement.name, len(regs) // self.parts
        if not self.arg:
            em.bind(("r", name), Val(tuple(regs[:n]), vec, em.here))
            if self.imag is not None:
                em.bind(("r", name + ".imag"), Val(tuple(regs[n:]), vec, em.here))
            return
        em.bind(("r", name + "_value"), Val(tuple(regs[:n]), vec, em.here))
        em.bind(("r", name), Val(tuple(regs[n:]), vec, em.here))


def _better(s: Site, op: str, x: str, best: str, at: str, d: dtype) -> str:
    """Whether x beats the best so far: strictly, or NaN over a number, or over nothing."""
    t, c = s.t(d), s.raw("i1")
    if d.kind == "f":
        if d.itemsize == 2:
            from .intrinsics import cast
            x, best = cast(s, x, d, dt.float32), cast(s, best, d, dt.float32)
            d, t = dt.float32, s.t(dt.float32)
        over = s.put(f"fcmp {'ugt' if op == 'max' else 'ult'} {t} {x}, {best}")
        number = s.put(f"fcmp ord {t} {best}, {best}")
        better = s.put(f"and {c} {over}, {number}")
    else:
        sign = "s" if d.kind == "i" else "u"
        better = s.put(f"icmp {sign}{'gt' if op == 'max' else 'lt'} {t} {x}, {best}")
    nothing = s.put(f"icmp slt {s.raw('i64')} {at}, {s.lit(0, dt.int64)}")
    return s.put(f"or {c} {better}, {nothing}")


def _tie(s: Site, a: str, b: str, d: dtype) -> str:
    t, c = s.t(d), s.raw("i1")
    if d.kind != "f":
        return s.put(f"icmp eq {t} {a}, {b}")
    if d.itemsize == 2:
        from .intrinsics import cast
        a, b = cast(s, a, d, dt.float32), cast(s, b, d, dt.float32)
        t = s.t(dt.float32)
    equal = s.put(f"fcmp oeq {t} {a}, {b}")
    nan_a, nan_b = (s.put(f"fcmp uno {t} {v}, {v}") for v in (a, b))
    return s.put(f"or {c} {equal}, {s.put(f'and {c} {nan_a}, {nan_b}')}")
