"""Small matrix products as generated LLVM kernels: no packing, no library call.

A library needs about a microsecond to start a product; up to roughly 48 x 48 x 48 that is
most of the time. The kernels here start in a few nanoseconds and keep a tile of the result
in registers. They also serve matrix-vector products, float64, and hosts without oneDNN.

Five kernels for float32 and float64:

- ``rows``: C[m, n] = sum over k of A[m, k] * B[k, n], vectors along n, any strides of A;
- ``stream``: the same for one row and a B too large for the caches;
- ``dot``: C[m, n] = sum over k of A[m, k] * B[n, k], vectors along k, any strides of C;
- ``transpose``: P[k, n] = B[n, k], so that ``rows`` can follow;
- ``sums``: sums over an outer and an inner axis.

A batch is two nested axes, so that the heads of an attention need no copy. Parameters are
int64, in the order of the ``*_PARAMETERS`` strings; strides are in bytes, and ``x0`` and ``x1``
are the batch strides of matrix x: those of the outer and of the ``inner`` batch axis.

Imports ``jit`` and the standard library.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from . import jit

_LLVM = {"float32": ("float", "f32", 4), "float64": ("double", "f64", 8)}


@functools.lru_cache(maxsize=1)
def supported() -> bool:
    """Whether this host has fused multiply-add and masked vector memory access."""
    features = jit.host_features()
    if jit.host_vector_bits() < 256:
        return False
    return "avx512f" in features or ("avx2" in features and "fma" in features)


@functools.lru_cache(maxsize=1)
def _registers() -> tuple[int, int]:
    """(vector bits, accumulators that fit the registers)."""
    if jit.host_vector_bits() >= 512:
        return 512, 24
    return 256, 12


def lanes(dtype: str) -> int:
    """Elements in one vector register."""
    return _registers()[0] // (8 * _LLVM[dtype][2])


class Tile(NamedTuple):
    """A register tile: rows, rows of the last tile (0 = none), vectors per row, panels."""

    rows: int
    tail: int
    vectors: int
    panels: int
    cost: float


@functools.lru_cache(maxsize=4096)
def choose_tile(m: int, n: int, k: int, dtype: str) -> Tile:
    """Return the cheapest register tile for an m x n x k product, cost in cycles."""
    width = lanes(dtype)
    total_vectors = math.ceil(n / width)
    best = None
    for count in range(1, 5):
        panels = math.ceil(total_vectors / count)
        vectors = math.ceil(total_vectors / panels)
        limit = min(m, 8, _registers()[1] // vectors)
        tiles = math.ceil(m / limit)
        rows = math.ceil(m / tiles)
        cost = panels * (_tile_cost(rows, vectors, k) * (m // rows))
        if m % rows:
            cost += panels * _tile_cost(m % rows, vectors, k)
        if best is None or cost < best.cost:
            best = Tile(rows, m % rows, vectors, panels, cost)
    assert best is not None
    return best


def _tile_cost(rows: int, vectors: int, k: int) -> float:
    """Cycles of one tile: bound by multiply-adds, by loads, or by their latency."""
    return k * max(rows * vectors, vectors + rows / 2, 4) + 12 + 2 * rows * vectors


class Epilogue(NamedTuple):
    """What happens to a tile: bias along ``"n"`` or ``"m"`` (or None), relu, add to C."""

    bias: str | None = None
    relu: bool = False
    accumulate: bool = False


class _Emitter:
    """Collects LLVM IR lines; vectors have ``width`` lanes of one floating-point type."""

    def __init__(self, dtype: str) -> None:
        self.scalar, self.suffix, self.size = _LLVM[dtype]
        self.width = lanes(dtype)
        self.vector = f"<{self.width} x {self.scalar}>"
        self.mask = f"<{self.width} x i1>"
        self.lines: list[str] = []
        self._next = 0

    def name(self) -> str:
        self._next += 1
        return f"%v{self._next}"

    def op(self, text: str) -> str:
        """Emit an instruction with a result; return the result's name."""
        name = self.name()
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def at(self, pointer: str, offset: str | int) -> str:
        """Pointer plus a byte offset."""
        if offset == 0:
            return pointer
        return self.op(f"getelementptr i8, ptr {pointer}, i64 {offset}")

    def mul(self, a: str | int, b: str | int) -> str:
        return self.op(f"mul i64 {a}, {b}")

    def add(self, a: str | int, b: str | int) -> str:
        return self.op(f"add i64 {a}, {b}")

    def splat(self, value: str) -> str:
        one = self.op(f"insertelement {self.vector} poison, {self.scalar} {value}, i32 0")
        zeros = f"<{self.width} x i32> zeroinitializer"
        return self.op(f"shufflevector {self.vector} {one}, {self.vector} poison, {zeros}")

    def load_scalar(self, pointer: str) -> str:
        return self.op(f"load {self.scalar}, ptr {pointer}")

    def load(self, pointer: str, mask: str | None = None) -> str:
        if mask is None:
            return self.op(f"load {self.vector}, ptr {pointer}, align {self.size}")
        return self.op(
            f"call {self.vector} @llvm.masked.load.v{self.width}{self.suffix}.p0(ptr {pointer}, "
            f"i32 {self.size}, {self.mask} {mask}, {self.vector} zeroinitializer)"
        )

    def store(self, value: str, pointer: str, mask: str | None = None) -> None:
        if mask is None:
            self.do(f"store {self.vector} {value}, ptr {pointer}, align {self.size}")
            return
        self.do(
            f"call void @llvm.masked.store.v{self.width}{self.suffix}.p0({self.vector} {value}, "
            f"ptr {pointer}, i32 {self.size}, {self.mask} {mask})"
        )

    def fma(self, a: str, b: str, c: str) -> str:
        kind = self.vector
        return self.op(
            f"call {kind} @llvm.fma.v{self.width}{self.suffix}({kind} {a}, {kind} {b}, {kind} {c})"
        )

    def relu(self, value: str, kind: str) -> str:
        """Negative values become zero; NaN stays."""
        flag = "i1" if kind == self.scalar else self.mask
        zero = "zeroinitializer" if kind != self.scalar else "0.0"
        below = self.op(f"fcmp olt {kind} {value}, {zero}")
        return self.op(f"select {flag} {below}, {kind} {zero}, {kind} {value}")

    def remaining(self, total: str, done: str) -> str:
        """total - done as an i32."""
        left = self.op(f"sub i64 {total}, {done}")
        return self.op(f"trunc i64 {left} to i32")

    def lane_mask(self, remaining: str, first: int) -> str:
        """Lanes ``first + lane < remaining`` (an i32)."""
        width = self.width
        some = self.op(f"insertelement <{width} x i32> poison, i32 {remaining}, i32 0")
        many = self.op(
            f"shufflevector <{width} x i32> {some}, <{width} x i32> poison, "
            f"<{width} x i32> zeroinitializer"
        )
        index = ", ".join(f"i32 {first + lane}" for lane in range(width))
        return self.op(f"icmp slt <{width} x i32> <{index}>, {many}")

    def parameters(self, names: str) -> dict[str, str]:
        """Load the int64 parameters in order; return name -> value."""
        values = {}
        for index, name in enumerate(names.split()):
            pointer = self.op(f"getelementptr i64, ptr %params, i64 {index}")
            values[name] = self.op(f"load i64, ptr {pointer}")
        return values

    def arguments(self, names: str) -> dict[str, str]:
        """Load the data pointers in order; return name -> pointer."""
        values = {}
        for index, name in enumerate(names.split()):
            pointer = self.op(f"getelementptr ptr, ptr %args, i64 {index}")
            values[name] = self.op(f"load ptr, ptr {pointer}")
        return values

    def declarations(self) -> str:
        n, s, v = self.width, self.suffix, self.vector
        return (
            f"declare {v} @llvm.fma.v{n}{s}({v}, {v}, {v})\n"
            f"declare {v} @llvm.masked.load.v{n}{s}.p0(ptr, i32, {self.mask}, {v})\n"
            f"declare void @llvm.masked.store.v{n}{s}.p0({v}, ptr, i32, {self.mask})\n"
            f"declare {self.scalar} @llvm.vector.reduce.fadd.v{n}{s}({self.scalar}, {v})\n"
        )

    def compile(self, name: str) -> int:
        """Wrap the lines in a kernel function and return its address."""
        bits = _registers()[0]
        text = (
            f"define void @{name}(ptr %args, ptr %params, i64 %lo, i64 %hi) #0 {{\n"
            + "\n".join(self.lines)
            + "\n}\n"
            + self.declarations()
            + f'attributes #0 = {{ nounwind "prefer-vector-width"="{bits}" '
            f'"min-legal-vector-width"="{bits}" "no-trapping-math"="true" }}\n'
        )
        return jit.compile_ir(text, [name])[name]


class _Loop:
    """``for (i = first; i < last; i += step)`` with carried vector values."""

    def __init__(
        self, e: _Emitter, tag: str, first: str | int, last: str | int, step: int = 1,
        carried: tuple[tuple[str, str], ...] = (),
    ) -> None:  # fmt: skip
        """``carried``: (type, initial value) pairs. The body runs at least once."""
        self.e, self.tag, self.last, self.step = e, tag, last, step
        before, self.body, self.done = f"{tag}.before", f"{tag}.body", f"{tag}.done"
        self.latch = f"{tag}.latch"
        e.do(f"br label %{before}")
        e.label(before)
        e.do(f"br label %{self.body}")
        e.label(self.body)
        self.index = f"%{tag}.i"
        e.do(f"{self.index} = phi i64 [ {first}, %{before} ], [ %{tag}.next, %{self.latch} ]")
        self.kinds = [kind for kind, _ in carried]
        self.values = [f"%{tag}.c{i}" for i in range(len(carried))]
        for i, (kind, initial) in enumerate(carried):
            self.e.do(
                f"%{tag}.c{i} = phi {kind} [ {initial}, %{before} ], [ %{tag}.n{i}, %{self.latch} ]"
            )

    def end(self, values: list[str] | tuple = ()) -> list[str]:
        """Close the loop with the next carried values; return the final ones."""
        e, tag = self.e, self.tag
        e.do(f"br label %{self.latch}")
        e.label(self.latch)
        for i, (kind, value) in enumerate(zip(self.kinds, values, strict=True)):
            e.do(f"%{tag}.n{i} = bitcast {kind} {value} to {kind}")
        e.do(f"%{tag}.next = add i64 {self.index}, {self.step}")
        e.do(f"%{tag}.more = icmp slt i64 %{tag}.next, {self.last}")
        e.do(f"br i1 %{tag}.more, label %{self.body}, label %{self.done}")
        e.label(self.done)
        return [f"%{tag}.n{i}" for i in range(len(self.kinds))]


def _split_unit(
    e: _Emitter, p: dict[str, str], unit: str, parts: str, matrices: str
) -> tuple[str, list[str]]:
    """Split a unit into the part of a matrix and the byte offsets of the batch's matrices."""
    batch = e.op(f"udiv i64 {unit}, {parts}")
    part = e.op(f"urem i64 {unit}, {parts}")
    outer = e.op(f"udiv i64 {batch}, {p['inner']}")
    inner = e.op(f"urem i64 {batch}, {p['inner']}")
    offsets = []
    for matrix in matrices.split():
        far, near = e.mul(outer, p[f"{matrix}0"]), e.mul(inner, p[f"{matrix}1"])
        offsets.append(e.add(far, near))
    return part, offsets


# --- rows: vectors along n -----------------------------------------------------------------

ROWS_PARAMETERS = "tiles n k am ak bk cm panels inner c0 c1 a0 a1 b0 b1"


@functools.cache
def rows_kernel(dtype: str, rows: int, tail: int, vectors: int, epilogue: Epilogue) -> int:
    """Compile the ``rows`` kernel of one register tile; return its address.

    Arguments: C, A, B (and bias). Parameters: :data:`ROWS_PARAMETERS`; ``tiles`` counts full
    tiles. A unit is one panel of columns of one matrix of the batch.
    """
    e = _Emitter(dtype)
    a = e.arguments("c a b bias" if epilogue.bias else "c a b")
    p = e.parameters(ROWS_PARAMETERS)
    row_offsets = [0, *(e.mul(p["am"], r) for r in range(1, max(rows, tail)))]
    unit = _Loop(e, "unit", "%lo", "%hi")
    panel, (c_batch, a_batch, b_batch) = _split_unit(e, p, unit.index, p["panels"], "c a b")
    column = e.mul(panel, vectors * e.width)
    column_bytes = e.mul(column, e.size)
    left = e.remaining(p["n"], column)
    tile = _RowsTile(e, p, epilogue, row_offsets)
    tile.masks = [e.lane_mask(left, j * e.width) for j in range(vectors)]
    tile.b = e.at(e.at(a["b"], b_batch), column_bytes)
    if epilogue.bias == "n":
        tile.bias = e.at(a["bias"], column_bytes)
    elif epilogue.bias == "m":
        tile.bias = a["bias"]
    a0 = e.at(a["a"], a_batch)
    c0 = e.at(e.at(a["c"], c_batch), column_bytes)
    loop = _Loop(e, "tile", 0, p["tiles"])
    first = e.mul(loop.index, rows)
    tile.emit("full", rows, e.at(a0, e.mul(first, p["am"])), e.at(c0, e.mul(first, p["cm"])), first)
    loop.end()
    if tail:
        first = e.mul(p["tiles"], rows)
        a1, c1 = e.at(a0, e.mul(first, p["am"])), e.at(c0, e.mul(first, p["cm"]))
        tile.emit("rest", tail, a1, c1, first)
    unit.end()
    e.do("ret void")
    return e.compile("rows")


class _RowsTile:
    """Emits the body of one register tile of the ``rows`` kernel."""

    def __init__(self, e: _Emitter, p: dict, epilogue: Epilogue, offsets: list) -> None:
        self.e, self.p, self.epilogue, self.offsets = e, p, epilogue, offsets
        self.masks: list[str] = []
        self.b = self.bias = ""

    def emit(self, tag: str, rows: int, a: str, c: str, first_row: str) -> None:
        """Compute ``rows`` rows from A at ``a`` and store them at ``c``."""
        e, count = self.e, len(self.masks)
        carried = [("ptr", a), ("ptr", self.b)]
        carried += [(e.vector, v) for v in self._initial(rows, c, first_row)]
        loop = _Loop(e, tag, 0, self.p["k"], carried=tuple(carried))
        a_now, b_now, *acc = loop.values
        vectors = [e.load(e.at(b_now, j * e.width * e.size), m) for j, m in enumerate(self.masks)]
        following = [e.at(a_now, self.p["ak"]), e.at(b_now, self.p["bk"])]
        for r in range(rows):
            value = e.splat(e.load_scalar(e.at(a_now, self.offsets[r])))
            for j in range(count):
                following.append(e.fma(value, vectors[j], acc[r * count + j]))
        _, _, *acc = loop.end(following)
        for r in range(rows):
            row = e.at(c, e.mul(self.p["cm"], r) if r else 0)
            for j, mask in enumerate(self.masks):
                value = acc[r * count + j]
                if self.epilogue.relu:
                    value = e.relu(value, e.vector)
                e.store(value, e.at(row, j * e.width * e.size), mask)

    def _initial(self, rows: int, c: str, first_row: str) -> list[str]:
        """Starting values of the accumulators: zero, bias, and C when accumulating."""
        e, count = self.e, len(self.masks)
        start = ["zeroinitializer"] * (rows * count)
        if self.epilogue.bias == "n":
            loaded = [
                e.load(e.at(self.bias, j * e.width * e.size), m) for j, m in enumerate(self.masks)
            ]
            start = loaded * rows
        elif self.epilogue.bias == "m":
            base = e.at(self.bias, e.mul(first_row, e.size))
            values = [e.splat(e.load_scalar(e.at(base, r * e.size))) for r in range(rows)]
            start = [value for value in values for _ in range(count)]
        if not self.epilogue.accumulate:
            return start
        total = []
        for r in range(rows):
            row = e.at(c, e.mul(self.p["cm"], r) if r else 0)
            for j, mask in enumerate(self.masks):
                old = e.load(e.at(row, j * e.width * e.size), mask)
                total.append(e.op(f"fadd {e.vector} {old}, {start[r * count + j]}"))
        return total


# --- dot: vectors along k ------------------------------------------------------------------

DOT_PARAMETERS = "tiles n k am bn cm cn groups bias_m bias_n inner c0 c1 a0 a1 b0 b1"


def dot_columns(rows: int) -> int:
    """Columns of the result that one step of the ``dot`` kernel computes."""
    return 8 if rows == 1 else 4


@functools.cache
def dot_kernel(dtype: str, rows: int, tail: int, epilogue: Epilogue) -> int:
    """Compile the ``dot`` kernel for tiles of 1 to 4 rows; return its address.

    Arguments: C, A, B (and bias). Parameters: :data:`DOT_PARAMETERS`, of which ``bias_m`` and
    ``bias_n`` step through the bias and ``tiles`` counts the full tiles of rows. A unit is one
    group of :func:`dot_columns` columns of one matrix of the batch.
    """
    e = _Emitter(dtype)
    a = e.arguments("c a b bias" if epilogue.bias else "c a b")
    p = e.parameters(DOT_PARAMETERS)
    tile = _DotTile(e, p, epilogue)
    last_column = e.op(f"sub i64 {p['n']}, 1")
    unit = _Loop(e, "unit", "%lo", "%hi")
    group, (c_batch, a_batch, b_batch) = _split_unit(e, p, unit.index, p["groups"], "c a b")
    first = e.mul(group, dot_columns(rows))
    b0 = e.at(a["b"], b_batch)
    for j in range(dot_columns(rows)):  # columns past the end repeat the last one
        wanted = e.add(first, j)
        inside = e.op(f"icmp slt i64 {wanted}, {p['n']}")
        index = e.op(f"select i1 {inside}, i64 {wanted}, i64 {last_column}")
        tile.columns.append(index)
        tile.b_rows.append(e.at(b0, e.mul(p["bn"], index)))
    a0, c0 = e.at(a["a"], a_batch), e.at(a["c"], c_batch)
    loop = _Loop(e, "tile", 0, p["tiles"])
    tile.emit("full", rows, a0, c0, a.get("bias"), e.mul(loop.index, rows))
    loop.end()
    if tail:
        tile.emit("rest", tail, a0, c0, a.get("bias"), e.mul(p["tiles"], rows))
    unit.end()
    e.do("ret void")
    return e.compile("dot")


class _DotTile:
    """Emits the body of one tile of the ``dot`` kernel."""

    def __init__(self, e: _Emitter, p: dict[str, str], epilogue: Epilogue) -> None:
        self.e, self.p, self.epilogue = e, p, epilogue
        self.columns: list[str] = []
        self.b_rows: list[str] = []
        self.whole = e.op(f"and i64 {p['k']}, -{e.width}")
        self.left = e.remaining(p["k"], self.whole)
        self.mask = e.lane_mask(self.left, 0)

    def emit(self, tag: str, rows: int, a: str, c: str, bias: str | None, first: str) -> None:
        """Compute ``rows`` rows from row ``first`` on and store them."""
        e, p = self.e, self.p
        index = [e.add(first, r) for r in range(rows)]
        acc = self._sum(tag, [e.at(a, e.mul(p["am"], i)) for i in index])
        for r in range(rows):
            row, values = e.at(c, e.mul(p["cm"], index[r])), []
            for j, column in enumerate(self.columns):
                value = _reduce(e, acc[r * len(self.columns) + j])
                if bias:
                    offset = e.add(e.mul(p["bias_m"], index[r]), e.mul(p["bias_n"], column))
                    added = e.load_scalar(e.at(bias, offset))
                    value = e.op(f"fadd {e.scalar} {value}, {added}")
                values.append((value, e.at(row, e.mul(p["cn"], column))))
            _store_columns(e, values, self.epilogue)

    def _sum(self, tag: str, a_rows: list[str]) -> list[str]:
        """Accumulate vectors of products over k; one accumulator per (row, column)."""
        e = self.e

        def products(offset: str, acc: list[str], mask: str | None) -> list[str]:
            a_values = [e.load(e.at(row, offset), mask) for row in a_rows]
            b_values = [e.load(e.at(row, offset), mask) for row in self.b_rows]
            pairs = [(x, y) for x in a_values for y in b_values]
            return [e.fma(x, y, z) for (x, y), z in zip(pairs, acc, strict=True)]

        count = len(a_rows) * len(self.b_rows)
        some = e.op(f"icmp sgt i64 {self.whole}, 0")
        e.do(f"br label %{tag}.enter")
        e.label(f"{tag}.enter")
        e.do(f"br i1 {some}, label %{tag}.main, label %{tag}.joined")
        e.label(f"{tag}.main")
        zero = tuple((e.vector, "zeroinitializer") for _ in range(count))
        loop = _Loop(e, f"{tag}.k", 0, self.whole, e.width, zero)
        final = loop.end(products(e.mul(loop.index, e.size), loop.values, None))
        e.do(f"br label %{tag}.joined")
        e.label(f"{tag}.joined")
        merged = [
            e.op(f"phi {e.vector} [ zeroinitializer, %{tag}.enter ], [ {f}, %{loop.done} ]")
            for f in final
        ]
        more = e.op(f"icmp sgt i32 {self.left}, 0")
        e.do(f"br i1 {more}, label %{tag}.extra, label %{tag}.summed")
        e.label(f"{tag}.extra")
        added = products(e.mul(self.whole, e.size), merged, self.mask)
        e.do(f"br label %{tag}.summed")
        e.label(f"{tag}.summed")
        return [
            e.op(f"phi {e.vector} [ {m}, %{tag}.joined ], [ {x}, %{tag}.extra ]")
            for m, x in zip(merged, added, strict=True)
        ]


def _reduce(e: _Emitter, value: str) -> str:
    return e.op(
        f"call reassoc {e.scalar} @llvm.vector.reduce.fadd.v{e.width}{e.suffix}"
        f"({e.scalar} -0.0, {e.vector} {value})"
    )


def _store_columns(e: _Emitter, values: list[tuple[str, str]], epilogue: Epilogue) -> None:
    """Store scalars; all old values are read first, for repeated columns."""
    if epilogue.accumulate:
        read = [e.load_scalar(where) for _, where in values]
        values = [
            (e.op(f"fadd {e.scalar} {value}, {old}"), where)
            for (value, where), old in zip(values, read, strict=True)
        ]
    for value, where in values:
        if epilogue.relu:
            value = e.relu(value, e.scalar)
        e.do(f"store {e.scalar} {value}, ptr {where}")


# --- stream: one row, B read once in order -------------------------------------------------

STREAM_PARAMETERS = "n k ak bk"
STREAM_VECTORS, STREAM_DEPTH = 4, 8


@functools.cache
def stream_kernel(dtype: str, epilogue: Epilogue, ones: bool = False) -> int:
    """Compile C[n] = sum over k of A[k] * B[k, n] for large B; return its address.

    Eight rows of B are read side by side, which is what the prefetchers follow; the sums stay
    in C between the passes. Arguments: C, A, B (and bias along n); with ``ones`` there is no A
    and the kernel sums the rows of B. Parameters: :data:`STREAM_PARAMETERS`. A unit is
    ``STREAM_VECTORS`` vectors of columns.
    """
    e = _Emitter(dtype)
    a = e.arguments("c b" if ones else "c a b bias" if epilogue.bias else "c a b")
    p = e.parameters(STREAM_PARAMETERS)
    body = _StreamBody(e, a, p)
    if not epilogue.accumulate:
        body.sweep("start", [], lambda value, place: place.bias() if epilogue.bias else body.zero)
    elif epilogue.bias:
        body.sweep("start", [], lambda v, place: e.op(f"fadd {e.vector} {v}, {place.bias()}"))
    body.passes("deep", 0, STREAM_DEPTH)
    body.passes("flat", STREAM_DEPTH, 1)
    if epilogue.relu:
        body.sweep("relu", [], lambda value, place: e.relu(value, e.vector))
    e.do("ret void")
    return e.compile("stream")


class _Place:
    """One vector of columns of the ``stream`` kernel."""

    def __init__(self, e: _Emitter, bias: str | None, offset: str, mask: str) -> None:
        self.e, self._bias, self.offset, self.mask = e, bias, offset, mask

    def bias(self) -> str:
        assert self._bias is not None
        return self.e.load(self.e.at(self._bias, self.offset), self.mask)


class _StreamBody:
    """Emits sweeps of the ``stream`` kernel over its columns."""

    zero = "zeroinitializer"

    def __init__(self, e: _Emitter, a: dict[str, str], p: dict[str, str]) -> None:
        self.e, self.a, self.p = e, a, p
        self.deep = e.op(f"and i64 {p['k']}, -{STREAM_DEPTH}")

    def passes(self, tag: str, after: int, depth: int) -> None:
        """Sweep over k in steps of ``depth``: up to the last full step, or after it."""
        e, p = self.e, self.p
        first, last = ("0", self.deep) if not after else (self.deep, p["k"])
        some = e.op(f"icmp slt i64 {first}, {last}")
        e.do(f"br i1 {some}, label %{tag}, label %{tag}.over")
        e.label(tag)
        loop = _Loop(e, f"{tag}.k", first, last, depth)
        rows = []
        for d in range(depth):
            k = e.add(loop.index, d)
            value = "1.0"
            if "a" in self.a:
                value = e.load_scalar(e.at(self.a["a"], e.mul(k, p["ak"])))
            value = e.splat(value)
            rows.append((value, e.at(self.a["b"], e.mul(k, p["bk"]))))
        self.sweep(f"{tag}.n", rows, lambda value, place: value)
        loop.end()
        e.do(f"br label %{tag}.over")
        e.label(f"{tag}.over")

    def sweep(self, tag: str, rows: list[tuple[str, str]], change) -> None:
        """C = change(C) + sum of value * row, over the columns of the units."""
        e = self.e
        loop = _Loop(e, tag, "%lo", "%hi")
        column = e.mul(loop.index, STREAM_VECTORS * e.width)
        left = e.remaining(self.p["n"], column)
        start = e.mul(column, e.size)
        for j in range(STREAM_VECTORS):
            offset = e.add(start, j * e.width * e.size)
            mask = e.lane_mask(left, j * e.width)
            place = _Place(e, self.a.get("bias"), offset, mask)
            where = e.at(self.a["c"], offset)
            total = change(e.load(where, mask), place)
            for value, row in rows:
                total = e.fma(value, e.load(e.at(row, offset), mask), total)
            e.store(total, where, mask)
        loop.end()


# --- sums ----------------------------------------------------------------------------------

SUM_PARAMETERS = "count n outer unit_stride"


@functools.cache
def sum_kernel(dtype: str) -> int:
    """Compile C[u] = sum over j < count, i < n of A[j, u, i], i contiguous.

    Arguments: C, A. Parameters: :data:`SUM_PARAMETERS`, the strides in bytes. A unit is one
    element of C.
    """
    e = _Emitter(dtype)
    a = e.arguments("c a")
    p = e.parameters(SUM_PARAMETERS)
    unit = _Loop(e, "unit", "%lo", "%hi")
    start = e.at(a["a"], e.mul(unit.index, p["unit_stride"]))
    outer = _Loop(e, "outer", 0, p["count"], carried=((e.vector, "zeroinitializer"),))
    row = e.at(start, e.mul(outer.index, p["outer"]))
    width = 4 * e.width
    carried = tuple((e.vector, "zeroinitializer") for _ in range(4))
    inner = _Loop(e, "inner", 0, p["n"], width, carried)
    left = e.remaining(p["n"], inner.index)
    sums = []
    for j, value in enumerate(inner.values):
        offset = e.mul(e.add(inner.index, j * e.width), e.size)
        loaded = e.load(e.at(row, offset), e.lane_mask(left, j * e.width))
        sums.append(e.op(f"fadd {e.vector} {value}, {loaded}"))
    total = outer.values[0]
    for value in inner.end(sums):
        total = e.op(f"fadd {e.vector} {total}, {value}")
    (final,) = outer.end([total])
    where = e.at(a["c"], e.mul(unit.index, e.size))
    e.do(f"store {e.scalar} {_reduce(e, final)}, ptr {where}")
    unit.end()
    e.do("ret void")
    return e.compile("sums")


# --- transpose -----------------------------------------------------------------------------

TRANSPOSE_PARAMETERS = "n k bn pk blocks inner p0 p1 b0 b1"


@functools.cache
def transpose_kernel(dtype: str) -> int:
    """Compile ``transpose``: P[k, n] = B[n, k] with k contiguous in B and n in P.

    Arguments: P, B. Parameters: :data:`TRANSPOSE_PARAMETERS`. A unit is one block of
    ``lanes(dtype)`` values of n, of one matrix of the batch.
    """
    e = _Emitter(dtype)
    a = e.arguments("p b")
    p = e.parameters(TRANSPOSE_PARAMETERS)
    last = e.op(f"sub i64 {p['n']}, 1")
    unit = _Loop(e, "unit", "%lo", "%hi")
    block, (p_batch, b_batch) = _split_unit(e, p, unit.index, p["blocks"], "p b")
    first = e.mul(block, e.width)
    source = e.at(a["b"], b_batch)
    target = e.at(e.at(a["p"], p_batch), e.mul(first, e.size))
    remaining_n = e.remaining(p["n"], first)
    n_mask = e.lane_mask(remaining_n, 0)
    rows = []
    for j in range(e.width):  # rows past the end repeat the last one and are not stored
        wanted = e.add(first, j)
        inside = e.op(f"icmp slt i64 {wanted}, {p['n']}")
        index = e.op(f"select i1 {inside}, i64 {wanted}, i64 {last}")
        rows.append(e.at(source, e.mul(index, p["bn"])))
    loop = _Loop(e, "k", 0, p["k"], e.width)
    remaining_k = e.remaining(p["k"], loop.index)
    k_mask = e.lane_mask(remaining_k, 0)
    offset = e.mul(loop.index, e.size)
    values = _transposed(e, [e.load(e.at(row, offset), k_mask) for row in rows])
    for i, value in enumerate(values):
        wanted = e.add(loop.index, i)
        inside = e.op(f"icmp slt i64 {wanted}, {p['k']}")
        mask = e.op(f"select i1 {inside}, {e.mask} {n_mask}, {e.mask} zeroinitializer")
        e.store(value, e.at(target, e.mul(wanted, p["pk"])), mask)
    loop.end()
    unit.end()
    e.do("ret void")
    return e.compile("transpose")


def _transposed(e: _Emitter, rows: list[str]) -> list[str]:
    """Transpose a square block held in registers by exchanging ever larger sub-blocks."""
    width, rows = e.width, list(rows)
    distance = 1
    while distance < width:
        for i in range(width):
            if i & distance:
                continue
            top, bottom = rows[i], rows[i + distance]
            upper = [x if not x & distance else width + x - distance for x in range(width)]
            lower = [x + distance if not x & distance else width + x for x in range(width)]
            for place, order in ((i, upper), (i + distance, lower)):
                lanes_ = ", ".join(f"i32 {x}" for x in order)
                rows[place] = e.op(
                    f"shufflevector {e.vector} {top}, {e.vector} {bottom}, "
                    f"<{width} x i32> <{lanes_}>"
                )
        distance *= 2
    return rows
