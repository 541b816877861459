"""Sample calls of ops, as descriptions that any device can make real.

Floor 3; imports base only (tensors are made by a function that the caller hands in), and is
imported by no op: a block pays nothing for its samples until a test asks for them. They are text,
one call a line (a line with an open bracket goes on in the next), or a function of a NumPy
generator that returns `Sample`s:

    samples = '''
        f(2, 3), 0
        f(3, 4).transposed, dim=(0, -1), keepdim=True
        i(5, low=0, high=3), 0, dtype=float64
        v([nan, 1, 1]), 0
    '''

`f`, `i`, `b` and `c` describe a float32, int64, bool and complex64 tensor by its shape (see `T`
for the keywords and layouts), `v` one with given values; dtypes go by their names. An elementwise
op without samples gets them from its signature and `domain`. Tests build each sample twice, as
tensors of a device and as NumPy arrays, with the same values and the same strides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..base import dtype as dt
from ..base.dtype import dtype
from ..base.meta import contiguous_strides

LAYOUTS = ("contiguous", "transposed", "strided", "expanded", "offset")


@dataclass(frozen=True)
class T:
    """A tensor to be: shape, dtype (name), range of the values, layout in memory.

    Layouts: "contiguous"; "transposed" (dims in reverse order in memory); "strided" (every
    second element of every dim); "expanded" (all dims of size > 1 but the last have stride 0);
    "offset" (starts some elements into its storage). `values` gives the elements instead.
    Integers are drawn from low to high inclusive; complex numbers have both parts in the range.
    `low` and `high` may be lists: bounds of the entries of the last dim, as for the coordinates of
    a box.
    `constant` tensors are not differentiated; nor are those with `values`, which are there for
    ties, NaN and the like.
    """

    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    low: float | Sequence[float] = -2.0
    high: float | Sequence[float] = 2.0
    layout: str = "contiguous"
    values: Any = None
    constant: bool = False

    def to(self, dtype: str) -> "T":
        """The same description with another element type."""
        return replace(self, dtype=dtype)

    @property
    def transposed(self) -> "T":
        """With its dims in reverse order in memory."""
        return replace(self, layout="transposed")

    @property
    def strided(self) -> "T":
        """Every second element of every dim of a larger tensor."""
        return replace(self, layout="strided")

    @property
    def expanded(self) -> "T":
        """With stride 0 in all dims but the last."""
        return replace(self, layout="expanded")

    @property
    def offset(self) -> "T":
        """Starting some elements into its storage."""
        return replace(self, layout="offset")

    @property
    def fixed(self) -> "T":
        """Not to be differentiated."""
        return replace(self, constant=True)


@dataclass(frozen=True)
class Sample:
    """The arguments of one call; Ts stand for tensors, also inside lists and tuples."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "kwargs", kwargs)

    def map(self, fn: Callable[[T], Any]) -> "Sample":
        """A sample with every T replaced by fn(T)."""
        return self.each(lambda a: fn(a) if isinstance(a, T) else a)

    def each(self, fn: Callable[[Any], Any]) -> "Sample":
        """A sample with every argument, and every item of a list or tuple, replaced by fn of
        it."""
        return Sample(*[_each(a, fn) for a in self.args],
                      **{k: _each(a, fn) for k, a in self.kwargs.items()})

    def tensors(self) -> list[T]:
        """The Ts, in order."""
        found: list[T] = []
        self.map(lambda t: found.append(t) or t)
        return found


def _each(a: Any, fn: Callable[[Any], Any]) -> Any:
    if type(a) in (list, tuple):
        return type(a)(_each(x, fn) for x in a)
    return fn(a)


@dataclass(frozen=True)
class Buffer:
    """A T with values: a flat array and how the tensor lies in it (strides, offset in elements)."""

    flat: Any
    dtype: dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def array(self) -> Any:
        """A NumPy view with this layout."""
        size = self.flat.itemsize
        return np.lib.stride_tricks.as_strided(
            self.flat[self.offset:], self.shape, [s * size for s in self.strides])


def draw(t: T, rng: np.random.Generator) -> Buffer:
    """Values for a T, laid out as it says."""
    d = dt.by_name(t.dtype)
    strides, offset, size = _geometry(t)
    if t.values is not None:
        flat = np.zeros(size, d.np)
        b = Buffer(flat, d, t.shape, strides, offset)
        b.array()[...] = d.encode(np.asarray(t.values)).reshape(t.shape)
        return b
    if isinstance(t.low, Sequence) or isinstance(t.high, Sequence):
        return _draw_entries(t, rng)
    return Buffer(_random(d, size, t.low, t.high, rng), d, t.shape, strides, offset)


def _draw_entries(t: T, rng: np.random.Generator) -> Buffer:
    """Values for a T whose bounds differ along the last dim."""
    bounds = np.broadcast_arrays(t.low, t.high, np.empty(t.shape[-1:]))[:2]
    b = draw(replace(t, low=0.0, high=0.0), rng)
    rows, numel = b.array(), int(np.prod(t.shape[:-1]))
    for k, (low, high) in enumerate(zip(*bounds)):
        rows[..., k] = _random(b.dtype, numel, low, high, rng).reshape(t.shape[:-1])
    return b


def _geometry(t: T) -> tuple[tuple[int, ...], int, int]:
    """(strides, offset, number of elements of the storage)."""
    shape = t.shape
    dense = contiguous_strides(shape)
    numel = int(np.prod(shape))
    if t.layout == "contiguous":
        return dense, 0, numel
    if t.layout == "transposed":
        return contiguous_strides(shape[::-1])[::-1], 0, numel
    if t.layout == "strided":
        double = contiguous_strides([2 * n for n in shape])
        return tuple(2 * s for s in double), 0, numel << len(shape)
    if t.layout == "expanded":
        last = len(shape) - 1
        return tuple(int(k == last) for k in range(len(shape))), 0, max(1, shape[-1]) if shape \
            else 1
    if t.layout == "offset":
        return dense, 3, numel + 5
    raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {t.layout!r}")


def _random(d: dtype, size: int, low: float, high: float, rng: np.random.Generator) -> Any:
    if d.kind == "b":
        return rng.random(size) < 0.5
    if d.kind in "ui":
        low = max(low, 0) if d.kind == "u" else low
        least = math.ceil(low)  # a range that leaves out 0 does so for integers, too
        return rng.integers(least, max(least, math.floor(high)), size, endpoint=True).astype(d.np)
    real = rng.uniform(low, high, size)
    if d.kind == "c":
        real = real + 1j * rng.uniform(low, high, size)
    return d.encode(real)


def materialize(sample: Sample, rng: np.random.Generator, make: Callable[[Buffer], Any],
                ) -> tuple[Sample, Sample]:
    """(the sample with tensors, the sample with NumPy arrays of the same values).

    `make(buffer)` builds a tensor.
    """
    buffers = [draw(t, rng) for t in sample.tensors()]
    left, right = iter(buffers), iter(buffers)
    return (sample.map(lambda t: make(next(left))),
            sample.map(lambda t: next(right).array().copy()))


# ---------------------------------------------------------------- samples of an op

def samples_of(op: Any, rng: np.random.Generator) -> list[Sample]:
    """The samples of an op: those of its block, or those derived from an elementwise signature.

    ValueError naming the op and the line for text that is not a call.
    """
    if isinstance(op.samples, str):
        return parse(op.samples, op.qualname)
    if op.samples is not None:
        return list(op.samples(rng))
    if op.kind == "elementwise":
        return list(elementwise_samples(op, rng, "float32" if "f" in op.kinds else "int32"))
    return []


def parse(text: str, name: str = "samples") -> list[Sample]:
    """The samples that a text describes (see the top of this file).

    >>> parse("f(2, 3), dim=0")[0].kwargs
    {'dim': 0}
    """
    found, line = [], ""
    for part in text.split("\n"):
        line += part.partition("#")[0].strip()
        if not line or any(line.count(a) > line.count(b) for a, b in ("()", "[]", "{}")):
            continue
        try:
            found.append(eval(f"call({line})", dict(_vocabulary())))
        except Exception as error:
            raise ValueError(f"{name}: the sample {line!r} cannot be read: {error}") from error
        line = ""
    if line:
        raise ValueError(f"{name}: the sample {line!r} has an open bracket")
    return found


def _vocabulary() -> dict[str, Any]:
    if not _WORDS:
        def kind(name: str, low: float, high: float) -> Callable[..., T]:
            def make(*shape: int, dtype: Any = name, **options: Any) -> T:
                kept = {"low": low, "high": high} | options
                return T(shape, getattr(dtype, "name", dtype), **kept)

            return make

        _WORDS.update({d.name: d for d in dt.ALL}, call=Sample, T=T, inf=np.inf, nan=np.nan,
                      f=kind("float32", -2.0, 2.0), i=kind("int64", -5, 5),
                      b=kind("bool", 0, 1), c=kind("complex64", -2.0, 2.0), v=_given)
    return _WORDS


_WORDS: dict[str, Any] = {}


def _given(values: Any, dtype: Any = "", **options: Any) -> T:
    """A T with these values; without a dtype: float32, int64, bool or complex64."""
    a = np.asarray(values)
    usual = {"f": "float32", "c": "complex64", "b": "bool"}.get(a.dtype.kind, "int64")
    name = getattr(dtype, "name", dtype) or usual
    return T(a.shape, name, values=values, **options)



SHAPES: tuple[tuple[tuple[int, ...], str], ...] = (
    ((2, 3), "contiguous"), ((), "contiguous"), ((0, 3), "contiguous"), ((19,), "contiguous"),
    ((3, 4), "transposed"), ((3, 5), "strided"), ((2, 3, 4), "expanded"), ((7,), "offset"))
PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((3, 1, 4), (2, 1)), ((5,), ()), ((), (2, 2)), ((0,), (1,)))


def elementwise_samples(op: Any, rng: np.random.Generator, dtype: str = "float32",
                        ) -> Iterator[Sample]:
    """Samples of an elementwise op from its signature and `domain`: every layout, 0-d, empty,
    broadcast pairs, and numbers next to tensors."""
    tensors = [p for p in op.params if p.kind in ("T", "TS")]
    rest = {p.name: _number(op, p, rng) for p in op.params if p.kind in ("S", "I")}

    def one(shapes: Sequence[tuple[int, ...]], layout: str) -> Sample:
        made = {p.name: T(s, _dtype_of(op, p, dtype), *bounds(op, p.name), layout)
                for p, s in zip(tensors, shapes)}
        names = [p for p in op.params if p.name in made or p.name in rest]
        values = {**made, **rest}
        return Sample(*[values[p.name] for p in names if not p.kwonly],
                      **{p.name: values[p.name] for p in names if p.kwonly})

    for shape, layout in SHAPES:
        yield one([shape] * len(tensors), layout)
    if len(tensors) > 1:
        for a, b in PAIRS:
            yield one([(a, b)[k % 2] for k in range(len(tensors))], "contiguous")


def bounds(op: Any, name: str) -> tuple[float, float]:
    """The range of values for an operand: the op's `domain`, one for all or by name."""
    d = op.domain
    if isinstance(d, dict):
        d = d.get(name)
    return (-2.0, 2.0) if d is None else tuple(d)  # type: ignore[return-value]


def _dtype_of(op: Any, p: Any, dtype: str) -> str:
    fixed = getattr(op, "fixed", {}).get(p.name)
    return fixed.name if fixed is not None else dtype


def _number(op: Any, p: Any, rng: np.random.Generator) -> float:
    if isinstance(p.default, (int, float)):
        return p.default
    low, high = bounds(op, p.name)
    return float(rng.uniform(low, high))


__all__ = ["T", "Sample", "Buffer", "LAYOUTS", "samples_of", "parse", "draw", "materialize",
           "elementwise_samples", "bounds"]
