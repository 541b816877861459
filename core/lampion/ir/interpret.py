"""Run a kernel in NumPy: the executable specification, and the oracle of the printers' tests.

Floor 1; imports base, expr and kernel. Written to be obviously right, not fast: reductions are
evaluated on the whole grid at once, scans and scatters one range point at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..base import dtype as dt
from ..base.dtype import dtype
from .cfamily_helpers import identity
from .expr import Expr, walk
from .kernel import ArgReduce, Kernel, Reduce, Scan, Scatter, Stage, Store

Array = Any
_erf: Any = np.vectorize(math.erf, otypes=[np.float64])
_erfc: Any = np.vectorize(math.erfc, otypes=[np.float64])


def run(kernel: Kernel, params: Sequence[int], buffers: Sequence[Any]) -> None:
    """Execute `kernel` on `buffers`: per slot a 1-D NumPy array (written in place), or a number.

    >>> from lampion.base import dtype as dt
    >>> from lampion.ir.expr import index, load, param
    >>> from lampion.ir.kernel import Arg, Kernel, Stage, Store
    >>> x = load(1, index(0), dt.int64)
    >>> from lampion.ir.expr import typed
    >>> body = (Store(0, index(0), typed([x + x], {}, dt.int64)[0]),)
    >>> k = Kernel("twice", (Arg("out", dt.int64), Arg("in", dt.int64)), (param(0),),
    ...            (Stage((), body),), 1)
    >>> out = np.zeros(3, np.int64)
    >>> run(k, [3], [out, np.array([1, 2, 3])]); out.tolist()
    [2, 4, 6]
    """
    with np.errstate(all="ignore"):
        _Run(kernel, params, buffers).all()


class _Run:
    def __init__(self, kernel: Kernel, params: Sequence[int], buffers: Sequence[Any]) -> None:
        self.kernel, self.params, self.buffers = kernel, params, buffers
        self.grid = [self.size(e) for e in kernel.grid]
        self.refs: dict[str, Array] = {}
        self.index: dict[int, Array] = {}

    def size(self, e: Expr) -> int:
        return int(evaluate([e], {}, self.params)[0])

    def axes(self, sizes: Sequence[int]) -> None:
        """Index arrays of grid axes and ranges, broadcastable to grid + ranges."""
        n = len(sizes)
        self.index = {k: np.arange(m, dtype=np.int64).reshape([-1 if j == k else 1
                                                               for j in range(n)])
                      for k, m in enumerate(sizes)}

    def all(self) -> None:
        if 0 in self.grid:
            return
        for stage in self.kernel.stages:
            sequential = any(isinstance(s, (Scan, Scatter)) for s in stage.body)
            (self.sequential if sequential else self.parallel)(stage)

    def get(self, e: Expr, refs: Mapping[str, Array]) -> Array:
        return evaluate([e], refs, self.params, self.index, self.buffers)[0]

    # ---- stages of reductions and stores: every point at once ----

    def parallel(self, stage: Stage) -> None:
        ranges = [self.size(e) for e in stage.ranges]
        shape = tuple(self.grid + ranges)
        self.axes(shape)
        g = len(self.grid)
        inside = {k: v.reshape(v.shape + (1,) * len(ranges)) if isinstance(v, np.ndarray) else v
                  for k, v in self.refs.items()}
        for s in stage.body:
            if isinstance(s, Store):
                self.store(s, shape, inside)
                continue
            assert isinstance(s, (Reduce, ArgReduce))
            self.refs |= reduced(s, lambda e: np.broadcast_to(
                self.get(e, inside), shape).reshape(tuple(self.grid) + (-1,)))
        assert all(np.shape(v) == tuple(self.grid) for v in self.refs.values()), g

    def store(self, s: Store, shape: tuple[int, ...], refs: Mapping[str, Array]) -> None:
        out = self.buffers[s.slot]
        index = np.broadcast_to(self.get(s.index, refs), shape).ravel()
        value = np.broadcast_to(self.get(s.value, refs), shape).ravel()
        if s.mask is not None:
            keep = np.broadcast_to(self.get(s.mask, refs), shape).ravel()
            index, value = index[keep], value[keep]
        out[index] = value

    # ---- scans and scatters: one range point after the other ----

    def sequential(self, stage: Stage) -> None:
        ranges = [self.size(e) for e in stage.ranges]
        self.axes(self.grid)
        g = tuple(self.grid)
        state: dict[str, Array] = {}
        for point in np.ndindex(*ranges):
            for k, i in enumerate(point):
                self.index[len(g) + k] = np.int64(i)
            refs = {**self.refs, **state}
            for s in stage.body:
                if isinstance(s, Store):
                    self.store(s, g, refs)
                elif isinstance(s, Scatter):
                    self.scatter(s, g, refs)
                else:
                    assert isinstance(s, (Scan, Reduce)), "arg-reductions do not scan"
                    v = np.broadcast_to(self.get(s.value, refs), g)
                    old = state.get(s.name)
                    if s.imag is not None:
                        w = np.broadcast_to(self.get(s.imag, refs), g)
                        if old is not None:
                            mate = state[s.name + ".imag"]
                            v, w = old * v - mate * w, old * w + mate * v
                        state[s.name], state[s.name + ".imag"] = v, w
                        refs.update(state)
                        continue
                    state[s.name] = v if old is None else combine(s.op, old, v)
                    refs[s.name] = state[s.name]
        self.refs.update(state)

    def scatter(self, s: Scatter, shape: tuple[int, ...], refs: Mapping[str, Array]) -> None:
        out = self.buffers[s.slot]
        index = np.broadcast_to(self.get(s.index, refs), shape).ravel()
        value = np.broadcast_to(self.get(s.value, refs), shape).ravel()
        keep = (np.ones(index.shape, bool) if s.mask is None
                else np.broadcast_to(self.get(s.mask, refs), shape).ravel())
        for i, v, k in zip(index, value, keep):
            if k:
                out[i] = v if s.op == "set" else combine(s.op, out[i:i + 1], np.array([v]))[0]


def combine(op: str, a: Array, b: Array) -> Array:
    """One step of a reduction."""
    if op in ("max", "min"):
        return (np.maximum if op == "max" else np.minimum)(a, b)
    if a.dtype == bool:
        return a | b if op in ("sum", "or") else a & b
    f: Callable[[Array, Array], Array] = {
        "sum": np.add, "prod": np.multiply, "and": np.bitwise_and, "or": np.bitwise_or}[op]
    return f(a, b).astype(a.dtype)


def reduced(s: Reduce | ArgReduce, rows: Callable[[Expr], Array]) -> dict[str, Array]:
    """What a reduction gives, by name; `rows(e)` are values with all ranges in the last axis."""
    v = rows(s.value)
    if isinstance(s, ArgReduce):
        best = _first_extreme(s.op, v)[..., None]
        return {s.name: np.take_along_axis(rows(s.position), best, -1)[..., 0],
                s.name + "_value": np.take_along_axis(v, best, -1)[..., 0]}
    if s.imag is None:
        return {s.name: reduce_last(s.op, v)}
    total = np.prod(v + 1j * rows(s.imag), axis=-1)
    return {s.name: total.real.astype(v.dtype), s.name + ".imag": total.imag.astype(v.dtype)}


def reduce_last(op: str, v: Array) -> Array:
    """Reduce the last axis in the values' own type (16 and 32-bit floats through float64)."""
    kind, n = v.dtype.kind, v.shape[-1]
    if op in ("max", "min"):
        if n == 0:
            return np.full(v.shape[:-1], identity(op, dt.by_name(v.dtype.name)), v.dtype)
        return (np.max if op == "max" else np.min)(v, axis=-1)
    if kind == "b":
        return v.any(-1) if op in ("sum", "or") else v.all(-1)
    if op in ("and", "or"):
        f = np.bitwise_and if op == "and" else np.bitwise_or
        return f.reduce(v, axis=-1, dtype=v.dtype)
    wide = v.dtype if kind in "iuc" else np.float64
    total: Any = np.sum if op == "sum" else np.prod
    if n == 0:
        return np.full(v.shape[:-1], op == "prod", v.dtype)
    return total(v, axis=-1, dtype=wide).astype(v.dtype)


def _first_extreme(op: str, v: Array) -> Array:
    """Index along the last axis of the first max or min; NaN is extreme."""
    if v.dtype.kind not in "biufc":  # bfloat16
        v = v.astype(np.float32)
    best = v.argmax(-1) if op == "max" else v.argmin(-1)
    if v.dtype.kind == "f":
        nan = np.isnan(v)
        best = np.where(nan.any(-1), nan.argmax(-1), best)
    return best


# ---- expressions ----

def evaluate(roots: Sequence[Expr], refs: Mapping[str, Array], params: Sequence[int] = (),
             index: Mapping[int, Array] | None = None, buffers: Sequence[Any] = (),
             env: Mapping[str, Array] | None = None) -> list[Array]:
    """Values of typed expressions. `env` gives values of variables."""
    done: dict[int, Array] = {}
    for e in walk(roots):
        assert e.dtype is not None, f"untyped {e}"
        a = [done[id(x)] for x in e.args]
        if e.op == "const":
            r = np.array(e.value).astype(e.dtype.np)
        elif e.op == "param":
            r = np.int64(params[e.value])
        elif e.op == "scalar":
            r = np.array(buffers[e.value]).astype(e.dtype.np)
        elif e.op == "index":
            assert index is not None
            r = index[e.value]
        elif e.op == "ref":
            r = refs[e.value]
        elif e.op == "var":
            assert env is not None
            r = env[e.value]
        elif e.op == "load":
            r = _load(buffers[e.value], e.dtype, *a)
        else:
            r = intrinsic(e.op, a, e.dtype, e.args[0].dtype)
        done[id(e)] = r
    return [done[id(r)] for r in roots]


def _load(buffer: Array, d: dtype, idx: Array, mask: Any = None, other: Any = 0) -> Array:
    if mask is None:
        return buffer[idx].astype(d.np, copy=False)
    idx, mask, other = np.broadcast_arrays(idx, mask, other)
    out = np.array(other, dtype=d.np)
    out[mask] = buffer[idx[mask]]
    return out


def intrinsic(name: str, a: Sequence[Array], d: dtype, source: dtype | None) -> Array:
    """One intrinsic on arrays; the result has the type `d`."""
    assert source is not None
    nd = d.np
    if name == "cast":
        return _cast(a[0], source, d)
    if name == "bitcast":
        flat: Any = np.ascontiguousarray(a[0])
        return flat.view(nd).reshape(np.shape(a[0]))
    if name == "select":
        return np.asarray(np.where(a[0], a[1], a[2])).astype(nd, copy=False)
    if name in _COMPARE:
        return _COMPARE[name](a[0], a[1])
    if d.kind == "b":
        return _BOOL[name](*a)
    if d.kind in "iu":
        return _integer(name, a, d)
    if name == "fma":
        return fma(*a)
    if name in _EXACT:
        return _EXACT[name](*a).astype(nd, copy=False)
    if name == "ldexp":
        n = np.clip(np.nan_to_num(a[1].astype(np.float64)), -5000, 5000).astype(np.int64)
        return _scale(a[0], n).astype(nd, copy=False)
    f = _FLOAT[name]
    if d.kind == "c":
        return f(*a).astype(nd, copy=False)
    wide = np.longdouble if d is dt.float64 else np.float64
    return f(*[np.asarray(x).astype(wide) for x in a]).astype(nd, copy=False)


def _scale(x: Array, n: Array) -> Array:
    """x * 2**n with one rounding: in long double, which holds any such product's bits."""
    return np.ldexp(np.asarray(x).astype(np.longdouble), n)


_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "eq": np.equal, "ne": np.not_equal}
_BOOL: dict[str, Callable[..., Array]] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not,
    "add": np.logical_or, "mul": np.logical_and, "sub": np.logical_xor,
    "maximum": np.logical_or, "minimum": np.logical_and}
_EXACT: dict[str, Callable[..., Array]] = {  # one rounding in the operands' own type
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "neg": np.negative, "abs": np.abs, "maximum": np.maximum, "minimum": np.minimum,
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint, "sqrt": np.sqrt,
    "fmod": np.fmod}
_FLOAT: dict[str, Callable[..., Array]] = {
    "rsqrt": lambda x: 1 / np.sqrt(x), "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p, "sin": np.sin,
    "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "atan2": np.arctan2, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "pow": np.power,
    "erf": lambda x: _erf(x.astype(np.float64)), "erfc": lambda x: _erfc(x.astype(np.float64)),
    "lgamma": lambda x: _lgamma(x.astype(np.float64)), "real": np.real, "imag": np.imag,
    "complex": lambda x, y: x + 1j * y}


def _lgamma_one(x: float) -> float:
    if abs(x) > 2.5e305 or (x <= 0 and x == math.floor(x)):
        return math.inf
    return x if math.isnan(x) else math.lgamma(x)


_lgamma: Any = np.vectorize(_lgamma_one, otypes=[np.float64])


def fma(a: Array, b: Array, c: Array) -> Array:
    """a*b + c with one rounding.

    float32: the product is exact in float64; the sum's rounding error is folded into its last
    bit (rounding to odd), so the final rounding to float32 is right. float64: exact product and
    sum by error-free transformations, in long double where it is wide enough for the factors.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    if a.dtype == np.float32:
        p, z = a.astype(np.float64) * b, c.astype(np.float64)
        s = p + z
        t = s - p
        error = (p - (s - t)) + (z - t)
        bits = s.view(np.int64).copy()
        odd = (bits & 1) == 1
        nudge = np.where((error == 0) | odd | ~np.isfinite(s), 0,
                         np.where((error > 0) == (s > 0), 1, -1))
        return (bits + nudge).view(np.float64).astype(np.float32)
    hi = a * b
    big = np.float64(134217729.0)
    ah, bh = (x * big - (x * big - x) for x in (a, b))
    al, bl = a - ah, b - bh
    low = ((ah * bh - hi) + ah * bl + al * bh) + al * bl
    s = hi + c
    t = s - hi
    rest = ((hi - (s - t)) + (c - t)) + low
    exact = s + rest
    return np.where(np.isfinite(exact) & (rest != 0), exact, s)  # s has the right sign of 0


def _cast(x: Array, src: dtype, dst: dtype) -> Array:
    if dst.kind == "b":
        return np.asarray(x).astype(np.float64 if src.kind == "f" else src.np) != 0
    if src.kind == "f" and dst.kind in "iu":
        info = np.iinfo(dst.np)
        wide = np.nan_to_num(np.trunc(np.asarray(x).astype(np.longdouble)), nan=0.0)
        return np.clip(wide, np.longdouble(int(info.min)), np.longdouble(int(info.max))
                       ).astype(dst.np)
    if (src.kind in "iu" and dst in (dt.float16, dt.bfloat16)) or (
            src is dt.float64 and dst in (dt.float16, dt.bfloat16)):
        x = np.asarray(x).astype(np.float32)
    return np.asarray(x).astype(dst.np)


def _integer(name: str, a: Sequence[Array], d: dtype) -> Array:
    nd, bits = d.np, 8 * d.itemsize
    if name in ("floor", "ceil", "trunc", "round"):
        return a[0]
    if name == "fma":
        return (a[0] * a[1] + a[2]).astype(nd, copy=False)
    if name in ("shl", "shr"):
        amount: Any = a[1].astype(np.int64) if d.kind == "i" else a[1]
        outside = (amount < 0) | (amount >= bits)
        safe = np.where(outside, 0, a[1]).astype(nd, copy=False)
        moved = np.left_shift(a[0], safe) if name == "shl" else np.right_shift(a[0], safe)
        fill: Any = np.where(a[0] < 0, -1, 0) if name == "shr" and d.kind == "i" else 0
        return np.where(outside, fill, moved).astype(nd, copy=False)
    if name in ("idiv", "fmod"):
        zero = a[1] == 0
        safe = np.where(zero, 1, a[1]).astype(nd, copy=False)
        f = np.fmod(a[0], safe)
        q = f if name == "fmod" else _truncated(a[0], safe, f)
        return np.where(zero, 0, q).astype(nd, copy=False)
    if name == "mulhi" and bits <= 32:
        mask = (1 << bits) - 1  # the high word of the unsigned product
        x, y = ((np.asarray(v).astype(np.int64) & mask).astype(np.uint64) for v in a)
        return ((x * y) >> np.uint64(bits)).astype(nd)
    if name == "mulhi":
        mask = (1 << bits) - 1
        u: Any = 1
        for v in a:
            u = u * (np.asarray(v).astype(object) & mask)
        u = u >> bits
        wrapped = np.vectorize(lambda p: p - (1 << bits) if d.kind == "i" and p >> (bits - 1)
                               else p, otypes=[object])(u)
        return np.asarray(wrapped).astype(nd, copy=False)
    if name == "pow":
        return integer_power(a[0], a[1], d)
    return _INT[name](*a).astype(nd, copy=False)


def _truncated(a: Array, b: Array, rest: Array) -> Array:
    """The quotient rounded towards 0 (NumPy's `//` rounds down)."""
    q = np.floor_divide(a, b)
    return q + ((rest != 0) & ((a < 0) != (b < 0))).astype(q.dtype)


def integer_power(x: Array, n: Array, d: dtype) -> Array:
    """x**n wrapping; a negative exponent gives 0, or +-1 for a base of +-1."""
    x, n = np.broadcast_arrays(x, n)
    out, base, e = np.ones(x.shape, d.np), x.copy(), n.copy()
    negative = e < 0
    e = np.where(negative, 0, e)
    for _ in range(8 * d.itemsize):
        out = np.where(e & 1, out * base, out).astype(d.np)
        base = (base * base).astype(d.np)
        e = e >> 1
    odd = (n & 1) != 0
    sign = np.where(x == 1, 1, np.where(x == -1, np.where(odd, -1, 1), 0)) if d.kind == "i" else 0
    return np.where(negative, sign, out).astype(d.np)


_INT: dict[str, Callable[..., Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "abs": np.abs,
    "maximum": np.maximum, "minimum": np.minimum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "not": np.invert}
