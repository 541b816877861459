"""Dims that may change: `Dim`, and how sizes in a graph are found to depend on them.

The function is run for several sizes of the dims, and the graphs are compared: they must be the
same but for numbers, and every number that differs must be a polynomial (of degree 2 at most) of
the dims that also predicts one run more, or a constant divided by one. Floor 7; imports graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement
from math import comb, prod
from typing import Any

from .graph import Call, Dims, Drawn, Graph, Input, Known, Ref, Size, parts_of
from .tracing import ExportError


class Dim:
    """The name and the bounds of a dim whose size may change; dims of one name have one size.

    `Dim.AUTO` and `Dim.DYNAMIC` are dims without a name, `Dim.STATIC` one that does not change.
    ValueError unless 0 <= min <= max.

    >>> Dim("batch", max=64)
    Dim('batch', min=0, max=64)
    """

    AUTO: Any
    DYNAMIC: Any
    STATIC: Any = None

    def __init__(self, name: str, *, min: int | None = None, max: int | None = None) -> None:
        if not name.isidentifier():
            raise ValueError(f"Dim names are Python names, and {name!r} is none")
        self.__name__, self.min, self.max = name, min or 0, max
        if self.min < 0 or (max is not None and max < self.min):
            raise ValueError(f"Dim({name!r}): bounds {min} to {max}")

    def __repr__(self) -> str:
        return f"Dim({self.__name__!r}, min={self.min}, max={self.max})"


Dim.AUTO = Dim.DYNAMIC = Dim("auto")


def dims(*names: str, min: int | None = None, max: int | None = None) -> tuple[Dim, ...]:
    """Several `Dim`s with the same bounds."""
    return tuple(Dim(n, min=min, max=max) for n in names)


# ---------------------------------------------------------------- what the caller asks for

def asked(spec: Any, tree: Any, names: Sequence[str], ndims: Sequence[int], order: Sequence[str],
          ) -> tuple[list[dict[int, str]], dict[str, Dims]]:
    """For every input, the names of its dims that change, and their bounds.

    `spec` is `dynamic_shapes`, `tree` the arguments by parameter name with a Ref for each input.
    ValueError where they do not fit.
    """
    found: list[dict[int, str]] = [{} for _ in names]
    bounds: dict[str, Dims] = {}

    def put(number: int, dim: int, what: Any) -> None:
        if what is None or type(what) is int:
            return
        if isinstance(what, str):
            what = Dim(what)
        if not isinstance(what, Dim):
            raise ValueError(f"dynamic_shapes of {names[number]!r}: dim {dim} is {what!r}; give a "
                             "Dim, Dim.AUTO, or None")
        if not -ndims[number] <= dim < ndims[number]:
            raise ValueError(f"dynamic_shapes of {names[number]!r} speaks of dim {dim}, and it has "
                             f"{ndims[number]}")
        dim %= ndims[number]
        name = f"{names[number]}_{dim}" if what is Dim.AUTO else what.__name__
        old = bounds.setdefault(name, Dims(what.min, what.max))
        if old != Dims(what.min, what.max):
            raise ValueError(f"Dim {name!r} has two different bounds")
        found[number][dim] = name

    def walk(spec: Any, tree: Any) -> None:
        if spec is None:
            return
        if isinstance(tree, Ref):
            pairs = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
            for dim, what in pairs:
                put(tree.number, dim, what)
        elif isinstance(tree, Mapping):
            if not isinstance(spec, Mapping) or set(spec) - set(tree):
                raise ValueError(f"dynamic_shapes {spec!r} does not fit arguments "
                                 f"{', '.join(map(str, tree))}")
            for key, value in spec.items():
                walk(value, tree[key])
        elif isinstance(tree, (list, tuple)):
            if not isinstance(spec, (list, tuple)) or len(spec) != len(tree):
                raise ValueError(f"dynamic_shapes {spec!r} does not fit {len(tree)} arguments")
            for s, t in zip(spec, tree):
                walk(s, t)
        else:
            raise ValueError(f"dynamic_shapes {spec!r} is for an argument that is no tensor")

    if isinstance(spec, (list, tuple)):
        if len(spec) > len(order):
            raise ValueError(f"dynamic_shapes has {len(spec)} entries for {len(order)} arguments")
        spec = dict(zip(order, spec))
    walk(spec, tree)
    return found, bounds


# ---------------------------------------------------------------- runs and what they say

def _lattice(k: int) -> list[tuple[int, ...]]:
    """Points with non-negative coordinates of sum 2 at most, which settle a polynomial of degree
    2, and one more for the proof."""
    points = []
    for degree in (0, 1, 2):
        for chosen in combinations_with_replacement(range(k), degree):
            points.append(tuple(chosen.count(d) for d in range(k)))
    return [*points, (3,) * k]


def sample_points(example: Mapping[str, int], bounds: Mapping[str, Dims], step: int,
                  ) -> list[dict[str, int]]:
    """The sizes for which the function is run. ExportError if the bounds leave too few."""
    names = list(example)
    starts = {}
    for n in names:
        low, high = max(bounds[n].low, 2), bounds[n].high
        start = max(example[n], low)
        if high is not None and start + 3 * step > high:
            start = high - 3 * step
        if start < low:
            raise ExportError(f"cannot be exported: Dim {n!r} may be {low} to {high}, which is too "
                              "narrow to tell how sizes depend on it; leave it static")
        starts[n] = start
    return [{n: starts[n] + step * a for n, a in zip(names, p)} for p in _lattice(len(names))]


class Fit:
    """Finds sizes as polynomials of dims, from their values at the sample points."""

    def __init__(self, points: Sequence[Mapping[str, int]]) -> None:
        self.points = points
        names = list(points[0])
        self.monomials = [m for degree in (0, 1, 2)
                          for m in combinations_with_replacement(names, degree)]
        self.known: dict[tuple[Any, ...], Size | None] = {}
        assert len(self.monomials) == comb(len(names) + 2, 2) == len(points) - 1

    def size(self, values: Sequence[int]) -> Size | None:
        """The polynomial with these values, or None."""
        key = tuple(values)
        if key not in self.known:
            self.known[key] = self._solve([Fraction(v) for v in values])
        return self.known[key]

    def ratio(self, values: Sequence[float]) -> Size | None:
        """A constant divided by a polynomial, or None."""
        if 0.0 in values:
            return None
        first = values[0]
        turned = [Fraction(first / v).limit_denominator(1 << 20) for v in values]
        if any(abs(float(t) * v / first - 1) > 1e-12 for t, v in zip(turned, values)):
            return None
        found = self._solve(turned)
        return None if found is None else Size(found.terms, True, first)

    def _solve(self, values: list[Fraction]) -> Size | None:
        rows = [[Fraction(prod(p[d] for d in m)) for m in self.monomials] + [v]
                for p, v in zip(self.points[:-1], values)]
        n = len(rows)
        for k in range(n):
            pivot = next(r for r in range(k, n) if rows[r][k])
            rows[k], rows[pivot] = rows[pivot], rows[k]
            rows[k] = [x / rows[k][k] for x in rows[k]]
            for r in range(n):
                if r != k and rows[r][k]:
                    rows[r] = [a - rows[r][k] * b for a, b in zip(rows[r], rows[k])]
        terms = tuple((row[-1], m) for row, m in zip(rows, self.monomials) if row[-1])
        last = self.points[-1]
        predicted = sum((f * prod(last[d] for d in m) for f, m in terms), Fraction(0))
        return Size(terms) if predicted == values[-1] else None


class Unfit(Exception):
    """A number that no polynomial gives."""


def joined(graphs: Sequence[Graph], points: Sequence[Mapping[str, int]],
           inputs: Sequence[Input], bounds: Mapping[str, Dims]) -> Graph:
    """One graph for all sizes. ExportError where the runs differ in more than numbers, Unfit where
    a number is no polynomial."""
    fit, first = Fit(points), graphs[0]
    what = " and ".join(points[0])
    calls: list[Call] = []
    for k in range(max(len(g.calls) for g in graphs)):
        same = [g.calls[k] if k < len(g.calls) else None for g in graphs]
        one = next(c for c in same if c is not None)
        if any(c is None or (c.op, c.outputs, c.kwargs.keys()) != (
                one.op, one.outputs, one.kwargs.keys()) for c in same):
            raise ExportError(f"cannot be exported: which ops run depends on the size of {what}"
                              + (f" ({one.line})" if one.line else ""))
        leaf = _merger(fit, one, what)
        calls.append(one._replace(
            args=merged(leaf, [c.args for c in same if c]),
            kwargs=merged(leaf, [c.kwargs for c in same if c])))
    results = merged(_merger(fit, None, what), [g.results for g in graphs])
    return Graph(inputs, first.weights, calls, first.arguments, results, bounds,
                 [_over_runs(column) for column in zip(*[g.known for g in graphs])])


def _over_runs(known: Sequence[Known]) -> Known:
    """What is known of a value after all runs."""
    shapes = [k.shape for k in known]
    return known[0]._replace(varying=frozenset(
        d for d, sizes in enumerate(zip(*shapes)) if len(set(sizes)) > 1))


def merged(leaf: Callable[[Sequence[Any]], Any], values: Sequence[Any]) -> Any:
    """One argument of several: trees of one form, whose leaves `leaf` joins."""
    one = values[0]
    if isinstance(one, Drawn) and all(isinstance(v, Drawn) for v in values):
        return Drawn(one.what, leaf([v.groups for v in values]))
    found = [parts_of(v) for v in values]
    if found[0] is not None and all(f is not None and type(v) is type(one) and len(f[0]) == len(
            found[0][0]) and (not isinstance(v, dict) or v.keys() == one.keys())
            for f, v in zip(found, values)):
        columns = zip(*[f[0] for f in found if f is not None])
        return found[0][1]([merged(leaf, column) for column in columns])
    return leaf(values)


def _merger(fit: Fit, call: Call | None, what: str) -> Callable[[Sequence[Any]], Any]:
    def leaf(values: Sequence[Any]) -> Any:
        one = values[0]
        if all(type(v) is type(one) and (v == one or v != v) for v in values):
            return one
        found = None
        if all(type(v) is int for v in values):
            found = fit.size(values)
        elif all(type(v) is float for v in values):
            found = fit.ratio(values)
        if found is None:
            where = "" if call is None else f" of {call.op}" + (
                f" ({call.line})" if call.line else "")
            raise Unfit(f"an argument{where} depends on the size of {what} in a way that is no "
                        f"polynomial: it is {', '.join(map(repr, values))}")
        return found

    return leaf


__all__ = ["Dim", "dims", "asked", "sample_points", "joined", "Unfit"]
