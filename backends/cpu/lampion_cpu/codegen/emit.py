"""Text of an LLVM function, written through nested scopes, with super-lanes.

A value is uniform (one register) or varying (U vectors of W lanes, so that every instruction is
written U times in a row and the CPU overlaps them). An expression is emitted once, in the
outermost scope where everything it depends on is known: that is loop-invariant code motion and
common-subexpression elimination, done while printing, because no optimiser runs afterwards.

May import: lampion.base, lampion.ir, types, intrinsics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.ir.expr import Expr, const, node
from lampion.ir.kernel import coefficient

from . import types as ty

Key = tuple[str, Any]


class Val:
    """An emitted value: `regs` has one register (uniform) or U vectors (`vec`)."""

    __slots__ = ("regs", "vec", "scope", "splat")

    def __init__(self, regs: tuple[str, ...], vec: bool, scope: "Scope") -> None:
        self.regs, self.vec, self.scope = regs, vec, scope
        self.splat: str | None = None


class Scope:
    """Straight-line code of one nesting level and what it knows."""

    __slots__ = ("lines", "cache", "pointers", "depth", "sheltered")

    def __init__(self, depth: int, sheltered: bool = False) -> None:
        self.lines: list[str] = []
        self.cache: dict[int, Val] = {}
        self.pointers: dict[tuple[int, int], str] = {}
        self.depth = depth
        self.sheltered = sheltered  # runs only under a condition: it binds nothing of its own


class Lanes:
    """How the code being written covers the vector axis: `count` vectors of `width` lanes from
    lane 0 at `start` (a register); `mask` selects the live lanes of a tail.

    With a `tile` axis the vectors lie beside each other along that axis, from `tile_start` on,
    instead of behind each other along the vector axis.
    """

    __slots__ = ("axis", "width", "count", "start", "mask", "tile", "tile_start")

    def __init__(self, axis: int, width: int, count: int, start: str, mask: str | None = None,
                 tile: int | None = None, tile_start: str = "") -> None:
        self.axis, self.width, self.count = axis, width, count
        self.start, self.mask = start, mask
        self.tile, self.tile_start = tile, tile_start


class Emitter:
    """Writes one function. Expressions come in through `value`, control flow through `loop`."""

    def __init__(self, args: Sequence[Any], written: frozenset[int], bits: int,
                 features: frozenset[str]) -> None:
        self.args, self.written = args, written
        self.bits, self.features = bits, features
        self.declares: set[str] = set()
        self.symbols: dict[str, int] = {}  # addresses of external names
        self.arms: dict[str, Any] = {}  # out-of-line arms: name -> Slot
        self.bodies: list[str] = []
        self.spare = False
        self.stream = False  # stores of the loop being written go around the caches
        self.used_stream = False
        self.count = 0
        self.root = Scope(0)
        self.scopes: list[Scope] = [self.root]
        self.bound: dict[Key, tuple[int, Val]] = {}
        self.varying_keys: set[Key] = set()
        self.lanes: Lanes | None = None
        self._deps: dict[int, frozenset[Key]] = {}
        self._affine: dict[tuple[int, int], tuple[Expr | None, Expr]] = {}
        self._pointers: dict[int, str] = {}
        self.masked_native = "avx512vl" in features and bits == 512

    # ---- text ---------------------------------------------------------------------------------

    def fresh(self, stem: str = "t") -> str:
        self.count += 1
        return f"%{stem}{self.count}"

    @property
    def here(self) -> Scope:
        return self.scopes[-1]

    def put(self, text: str, scope: Scope | None = None) -> str:
        """Append `%new = text` and return the register."""
        name = self.fresh()
        (scope or self.scopes[-1]).lines.append(f"{name} = {text}")
        return name

    def raw(self, text: str, scope: Scope | None = None) -> None:
        (scope or self.scopes[-1]).lines.append(text)

    def intrinsic(self, name: str, result: str, operands: Sequence[tuple[str, str]],
                  scope: Scope | None = None) -> str:
        """Call an LLVM intrinsic, declaring it."""
        types = ", ".join(t for t, _ in operands)
        self.declares.add(f"declare {result} @{name}({types})")
        given = ", ".join(f"{t} {v}" for t, v in operands)
        return self.put(f"call {result} @{name}({given})", scope)

    def module(self, head: str, last: str) -> str:
        """The module text: `head` is the function's definition line, `last` its last line."""
        bits = self.bits
        body = "\n".join(line if line.endswith(":") else "  " + line for line in self.root.lines)
        spare = ("@spare = internal constant [64 x i8] zeroinitializer, align 64\n"
                 if self.spare else "")
        tail = "\n".join(sorted(self.declares))
        stream = "\n!0 = !{i32 1}" if self.used_stream else ""
        common = (f'nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" '
                  '"no-trapping-math"="true"')
        return (f"{spare}{''.join(self.bodies)}{head} {{\nentry:\n{body}\n  {last}\n}}\n{tail}\n"
                f"attributes #0 = {{ mustprogress {common} }}\n"
                f"attributes #1 = {{ noinline cold {common} }}{stream}\n")

    # ---- scopes -------------------------------------------------------------------------------

    @contextmanager
    def scope(self, sheltered: bool = False) -> Iterator[Scope]:
        """Open a nested scope; bindings made inside are dropped at the end."""
        inner = Scope(len(self.scopes), sheltered)
        self.scopes.append(inner)
        before = dict(self.bound)
        try:
            yield inner
        finally:
            self.scopes.pop()
            self.bound = before

    def bind(self, key: Key, val: Val) -> None:
        """Make `key` (("i", axis) or ("r", name)) known in the current scope."""
        self.bound[key] = (self.here.depth, val)
        for name, _ in list(_shadowed(self.here.cache, self._deps, key)):
            del self.here.cache[name]

    def forget(self, slot: int) -> None:
        """A buffer was written: values read from it are stale."""
        key = ("m", slot)
        for scope in self.scopes:
            for name, _ in _shadowed(scope.cache, self._deps, key):
                del scope.cache[name]

    def bind_index(self, axis: int, register: str) -> None:
        """The lane-0 value of a loop variable."""
        self.bind(("i", axis), Val((register,), False, self.here))

    def deps(self, e: Expr) -> frozenset[Key]:
        """What an expression's value depends on: loop variables, results, written memory."""
        found = self._deps.get(id(e))
        if found is not None:
            return found
        for x in _postorder(e, self._deps):
            keys: set[Key] = set()
            for a in x.args:
                keys |= self._deps[id(a)]
            if x.op == "index":
                keys.add(("i", x.value))
            elif x.op in ("ref", "var"):
                keys.add((x.op[0], x.value))
            elif x.op == "load" and x.value in self.written:
                keys.add(("m", x.value))
            self._deps[id(x)] = frozenset(keys)
        return self._deps[id(e)]

    def target(self, e: Expr) -> Scope:
        """The outermost scope that may hold `e` (or a sheltered one inside it)."""
        depth = 0
        for key in self.deps(e):
            if key[0] == "m":
                depth = len(self.scopes) - 1
                break
            depth = max(depth, self.bound[key][0])
        while depth + 1 < len(self.scopes) and self.scopes[depth + 1].sheltered:
            depth += 1
        return self.scopes[depth]

    def varying(self, e: Expr) -> bool:
        """Whether `e` differs between lanes."""
        lanes = self.lanes
        for key in self.deps(e):
            if lanes is not None and key in (("i", lanes.axis), ("i", lanes.tile)):
                return True
            if key in self.bound and self.bound[key][1].vec:
                return True
        return False

    # ---- values -------------------------------------------------------------------------------

    def alike(self, e: Expr) -> bool:
        """Whether all vectors of a tile have the same value for `e`."""
        lanes = self.lanes
        return (lanes is not None and lanes.tile is not None
                and ("i", lanes.tile) not in self.deps(e))

    def find(self, e: Expr) -> Val | None:
        if e.op in ("ref", "var"):
            return self.bound[(e.op[0], e.value)][1]
        i = id(e)
        scope = self.target(e)
        k = scope.depth
        while True:
            found = self.scopes[k].cache.get(i)
            if found is not None:
                return found
            if not self.scopes[k].sheltered:
                return None
            k -= 1

    def value(self, e: Expr) -> Val:
        """The value of a typed expression at the current point."""
        from .intrinsics import emit_node, operands

        stack = [e]
        while stack:
            x = stack[-1]
            if self.find(x) is not None:
                stack.pop()
                continue
            todo = [a for a in operands(self, x) if self.find(a) is None]
            if todo:
                stack.extend(todo)
                continue
            scope = self.target(x)
            scope.cache[id(x)] = emit_node(self, x, scope)
            stack.pop()
        found = self.find(e)
        assert found is not None
        return found

    def constant(self, value: object, d: dtype) -> Val:
        """A uniform literal."""
        return self.value(const(value, d))

    def uniform(self, e: Expr) -> str:
        """The register of a uniform expression."""
        v = self.value(e)
        assert not v.vec, f"{e} varies between lanes"
        return v.regs[0]

    def vectors(self, v: Val, d: dtype) -> tuple[str, ...]:
        """The U vectors of a value, splatting a uniform one where it was made."""
        if v.vec or self.lanes is None:
            return v.regs
        if v.splat is None or v.regs[0][0] != "%":
            v.splat = self.splat(v.regs[0], ty.reg(d), v.scope)
        return (v.splat,) * self.lanes.count

    def splat(self, register: str, t: str, scope: Scope | None = None) -> str:
        """All lanes equal to a scalar."""
        assert self.lanes is not None
        w = self.lanes.width
        if w == 1:
            return register
        if register[0] != "%":
            return f"splat ({t} {register})"
        one = self.put(f"insertelement <{w} x {t}> poison, {t} {register}, i32 0", scope)
        return self.put(f"shufflevector <{w} x {t}> {one}, <{w} x {t}> poison, "
                        f"<{w} x i32> zeroinitializer", scope)

    def iota(self, t: str) -> str:
        """Constant vector 0, 1, 2, ..."""
        assert self.lanes is not None
        return "<" + ", ".join(f"{t} {k}" for k in range(self.lanes.width)) + ">"

    # ---- addresses ----------------------------------------------------------------------------

    def pointer(self, slot: int) -> str:
        """The buffer pointer of an argument slot."""
        found = self._pointers.get(slot)
        if found is None:
            at = self.put(f"getelementptr ptr, ptr %args, i64 {slot}", self.root)
            found = self._pointers[slot] = self.put(f"load ptr, ptr {at}, align 8", self.root)
        return found

    def affine(self, index: Expr, axis: int) -> tuple[Expr | None, Expr]:
        """(coefficient of `axis`, the index with that axis at 0); coefficient None: gathered."""
        key = (id(index), axis)
        found = self._affine.get(key)
        if found is None:
            c = coefficient(index, axis)
            found = self._affine[key] = (c, index if c is None else at_zero(index, axis))
        return found

    # ---- control flow -------------------------------------------------------------------------

    def loop(self, start: str, stop: str, step: int | str, carries: Sequence[tuple[str, str]],
             body: Callable[[str, list[str]], Sequence[str]], name: str = "L",
             at_least_once: bool = False) -> list[str]:
        """`for i in range(start, stop, step)` with loop-carried registers.

        `carries` are (type, initial register); `body(i, carried)` runs in a fresh scope and
        returns their next values. Gives the values after the loop.
        """
        self.count += 1
        label = f"{name}{self.count}"
        i, following = f"%{label}.i", f"%{label}.n"
        held = [f"%{label}.c{k}" for k in range(len(carries))]
        with self.scope() as inner:
            new = list(body(i, held))
            lines = inner.lines
        out = self.here.lines
        out.append(f"br label %{label}.p")
        out.append(f"{label}.p:")
        if at_least_once:
            out.append(f"br label %{label}.h")
        else:
            out.append(f"%{label}.z = icmp slt i64 {start}, {stop}")
            out.append(f"br i1 %{label}.z, label %{label}.h, label %{label}.x")
        out.append(f"{label}.h:")
        out.append(f"{i} = phi i64 [ {start}, %{label}.p ], [ {following}, %{label}.l ]")
        for (t, init), h, n in zip(carries, held, new):
            out.append(f"{h} = phi {t} [ {init}, %{label}.p ], [ {n}, %{label}.l ]")
        out.extend(lines)
        out.append(f"br label %{label}.l")
        out.append(f"{label}.l:")
        out.append(f"{following} = add nsw i64 {i}, {step}")
        out.append(f"%{label}.q = icmp slt i64 {following}, {stop}")
        out.append(f"br i1 %{label}.q, label %{label}.h, label %{label}.x")
        out.append(f"{label}.x:")
        after = []
        for k, ((t, init), n) in enumerate(zip(carries, new)):
            edges = f"[ {n}, %{label}.l ]"
            if not at_least_once:
                edges = f"[ {init}, %{label}.p ], " + edges
            out.append(f"%{label}.o{k} = phi {t} {edges}")
            after.append(f"%{label}.o{k}")
        return after

    def branch(self, condition: str, then: Callable[[], Sequence[str]],
               otherwise: Sequence[tuple[str, str]] = (), scope: Scope | None = None,
               ) -> list[str]:
        """`if condition: then()`; results join with `otherwise` (type, register)."""
        self.count += 1
        label = f"B{self.count}"
        with self.scope(sheltered=True) as inner:
            new = list(then())
            lines = inner.lines
        out = (scope or self.here).lines
        out.append(f"br label %{label}.p")
        out.append(f"{label}.p:")
        out.append(f"br i1 {condition}, label %{label}.t, label %{label}.x")
        out.append(f"{label}.t:")
        out.extend(lines)
        out.append(f"br label %{label}.e")
        out.append(f"{label}.e:")
        out.append(f"br label %{label}.x")
        out.append(f"{label}.x:")
        after = []
        for k, ((t, init), n) in enumerate(zip(otherwise, new)):
            out.append(f"%{label}.o{k} = phi {t} [ {init}, %{label}.p ], [ {n}, %{label}.e ]")
            after.append(f"%{label}.o{k}")
        return after


def _shadowed(cache: Mapping[int, Val], deps: Mapping[int, frozenset[Key]],
              key: Key) -> list[tuple[int, Val]]:
    """Cached values that depend on a key that is being rebound."""
    return [(i, v) for i, v in cache.items() if key in deps.get(i, ())]


def _postorder(e: Expr, done: Mapping[int, Any]) -> Iterator[Expr]:
    """Nodes under `e` that are not in `done` yet, operands first."""
    stack: list[tuple[Expr, bool]] = [(e, False)]
    while stack:
        x, ready = stack.pop()
        if id(x) in done:
            continue
        if ready:
            yield x
        else:
            stack.append((x, True))
            stack.extend((a, False) for a in x.args)


def at_zero(e: Expr, axis: int) -> Expr:
    """An affine int64 index with `axis` set to 0, folded."""
    zero = const(0, dt.int64)
    if e.op == "index":
        return zero if e.value == axis else e
    if not e.args or e.op not in ("add", "sub", "mul", "neg"):
        return e
    args = tuple(at_zero(a, axis) for a in e.args)
    if args == e.args:
        return e

    def is0(x: Expr) -> bool:
        return x.op == "const" and x.value == 0

    if e.op == "mul" and (is0(args[0]) or is0(args[1])):
        return zero
    if e.op == "add" and is0(args[0]):
        return args[1]
    if e.op in ("add", "sub") and is0(args[1]):
        return args[0]
    if e.op == "neg" and is0(args[0]):
        return zero
    return node(e.op, args, None, e.dtype)
