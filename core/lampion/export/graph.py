"""The graph of an exported program: calls of ops by name, over numbered values.

Floor 7; imports base only. Values are numbered: first the inputs, then the weights (parameters,
buffers, constants), then what calls make. An argument of a call is a number, a text, a dtype, a
`Ref` to a value, a `Size` where it depends on the sizes of inputs, the mark `DEVICE` for the device
that the program runs on, or a list, tuple or dict of such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from ..base.dtype import dtype


class Ref(NamedTuple):
    """The value of this number."""

    number: int


class _Device:
    """The device that the program runs on."""

    def __repr__(self) -> str:
        return "device"


DEVICE = _Device()


class Drawn(NamedTuple):
    """A part of the default generator's state: its key (`what` "key"), or the first of `groups`
    counters that the call reserves ("offset")."""

    what: str
    groups: int


class Size(NamedTuple):
    """A number that follows from sizes of inputs: a sum of products of dims.

    `terms` are (factor, names of dims), the factor a Fraction. With `inverse` it is `scale` divided
    by the sum.
    """

    terms: tuple[tuple[Fraction, tuple[str, ...]], ...]
    inverse: bool = False
    scale: float = 1.0

    def value(self, dims: Mapping[str, int]) -> Any:
        """The number for these dims. ValueError where that is no integer."""
        total = sum((f * math.prod(dims[d] for d in names) for f, names in self.terms),
                    Fraction(0))
        if self.inverse:
            return self.scale / float(total)
        if total.denominator != 1:
            raise ValueError(f"the size {self} is no integer where "
                             + ", ".join(f"{d} = {n}" for d, n in dims.items()))
        return int(total)

    def __str__(self) -> str:
        parts = []
        for f, names in self.terms:
            body = "*".join(names)
            parts.append(str(f) if not body else body if f == 1 else f"{f}*{body}")
        text = " + ".join(parts) or "0"
        return f"{self.scale}/({text})" if self.inverse else text


class Call(NamedTuple):
    """A call of the op `op` (its qualified name). `outputs` are numbers of results; `several` says
    that the op returns a tuple. "copy_" and "fill_" write into their first argument."""

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    several: bool
    line: str = ""


class Input(NamedTuple):
    """A tensor that a caller gives: dims are numbers, or names of dims that may change."""

    name: str
    dtype: dtype
    shape: tuple[Any, ...]


class Weight(NamedTuple):
    """A tensor that the program has. kind: "parameter", "buffer" (persistent or not) or
    "constant". `fresh` is set where the program writes into a constant that it makes: every run
    starts from a copy."""

    name: str
    kind: str
    fresh: bool = False
    persistent: bool = True


class Known(NamedTuple):
    """What recording saw of a value: dtype, shape (of the first run), which memory it is in, and
    the dims whose size is another in other runs."""

    dtype: dtype
    shape: tuple[int, ...]
    memory: int
    varying: frozenset[int] = frozenset()


class Dims(NamedTuple):
    """What a dim that may change can be."""

    low: int
    high: int | None


class Graph:
    """Inputs, weights and calls; `arguments` and `results` are the trees of what is given and
    returned, with `Ref`s for tensors. A graph that was just recorded has a `Known` for every value
    (others have none)."""

    def __init__(self, inputs: Sequence[Input], weights: Sequence[Weight], calls: Sequence[Call],
                 arguments: Any, results: Any, dims: Mapping[str, Dims] | None = None,
                 known: Sequence[Known] = ()) -> None:
        self.inputs, self.weights, self.calls = list(inputs), list(weights), list(calls)
        self.arguments, self.results = arguments, results
        self.dims, self.known = dict(dims or {}), list(known)

    def name(self, number: int) -> str:
        """The name of a value, as the printed graph has it."""
        n = len(self.inputs)
        if number < n:
            return self.inputs[number].name
        if number < n + len(self.weights):
            return self.weights[number - n].name
        return f"%{number - n - len(self.weights)}"

    def text(self, value: Any) -> str:
        """An argument, as the printed graph has it."""
        if isinstance(value, Ref):
            return self.name(value.number)
        if isinstance(value, Size):
            return str(value)
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k}: {self.text(v)}" for k, v in value.items()) + "}"
        if type(value) in (list, tuple):
            inner = ", ".join(map(self.text, value))
            return f"[{inner}]" if isinstance(value, list) else (
                f"({inner},)" if len(value) == 1 else f"({inner})")
        return repr(value)

    def __str__(self) -> str:
        given = ", ".join(f"{i.name}: {i.dtype.name}[{', '.join(map(str, i.shape))}]"
                          for i in self.inputs)
        lines = [f"graph({given}):"]
        lines += [f"    # {w.kind} {w.name}" for w in self.weights]
        for c in self.calls:
            args = [*map(self.text, c.args), *(f"{k}={self.text(v)}" for k, v in
                                               c.kwargs.items())]
            made = ", ".join(map(self.name, c.outputs))
            where = f"  # {c.line}" if c.line else ""
            lines.append(f"    {made + ' = ' if made else ''}{c.op}({', '.join(args)}){where}")
        return "\n".join([*lines, f"    return {self.text(self.results)}"])

    __repr__ = __str__


def parts_of(value: Any) -> tuple[list[Any], Callable[[list[Any]], Any]] | None:
    """(the parts of an argument that holds others, what makes one of such parts); None for leaves.

    Lists, tuples, dicts, and the records that some ops take: named tuples and data classes."""
    if isinstance(value, (Ref, Size, Drawn)):
        return None
    if isinstance(value, dict):
        return list(value.values()), lambda parts: dict(zip(value, parts))
    if isinstance(value, list):
        return value, lambda parts: parts
    kind = type(value)
    if isinstance(value, tuple):
        return list(value), (lambda parts: kind(*parts)) if hasattr(value, "_fields") else tuple
    if is_record(value):
        return [getattr(value, f.name) for f in fields(value)], lambda parts: kind(*parts)
    return None


def is_record(value: Any) -> bool:
    """Whether an argument is a data class that an op declares."""
    return is_dataclass(value) and type(value).__module__.startswith("lampion.ops.")


def map_leaves(fn: Callable[[Any], Any], value: Any) -> Any:
    """An argument with every leaf replaced."""
    found = parts_of(value)
    if found is None:
        return fn(value)
    parts, build = found
    return build([map_leaves(fn, v) for v in parts])


__all__ = ["Ref", "DEVICE", "Drawn", "Size", "Call", "Input", "Weight", "Known", "Dims", "Graph",
           "map_leaves",
           "parts_of", "is_record"]
