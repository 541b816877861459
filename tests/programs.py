"""Random programs of tensor ops with views and writes through them, and what NumPy makes of them.

`programs()` is a hypothesis strategy of `Program`s: lines of code over tensors t0, t1, ..., in
which `torch` is the framework under test, and the arrays that t0, t1, ... must hold at the end. The
arrays are made by NumPy while the program is drawn: a view of a tensor is a view of its array, so
a write through either is seen through all. Dtypes follow PyTorch's rules of promotion, indexing
PyTorch's order (numbers and slices first, then tensors), both written down here once more.

All numbers are multiples of 1/64 of at most 4096 (or infinite, or NaN), so that no op rounds and
results must be equal. A step whose result would leave that range, or that PyTorch leaves undefined
(writes to memory that several elements share, repeated indices), is not taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

# In this order the greater dtype is the promoted one.
DTYPES = ("bool", "uint8", "int64", "float32", "float64")
ORDER = {np.dtype(d): k for k, d in enumerate(DTYPES)}
BOOL, UINT8, INT64, FLOAT32 = (np.dtype(d) for d in DTYPES[:4])
SHAPES = ((3,), (2, 3), (), (3, 4), (4,), (2, 3, 4), (1, 3), (3, 1), (0, 3), (2, 2))
NUMBERS = (2, 0.5, -1, True, 3, 0)


class Undefined(Exception):
    """A step that is not taken."""


def need(condition: Any) -> None:
    if not condition:
        raise Undefined


@dataclass
class Value:
    """A tensor's array. `laid_out`: it lies in memory as PyTorch's tensor does, so that what is a
    view and what a copy is known for reshape, and as_strided has a meaning."""

    array: Any
    laid_out: bool = False
    storage: Any = None  # the 1-d array of a laid-out value

    @property
    def category(self) -> int:
        return category(self.array.dtype)


@dataclass
class Program:
    """Lines of code, and the arrays of t0, t1, ... at the end."""

    lines: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        """A script that runs as it stands, printed by hypothesis for the smallest failure."""
        shown = [f"print(t{k})  # {v.array.dtype}{list(v.array.shape)}: {v.array.tolist()}"
                 for k, v in enumerate(self.values)]
        return "\n" + "\n".join(["import torch", "from math import inf, nan", *self.lines, *shown])

    def run(self, torch: Any) -> list[Any]:
        """The tensors t0, t1, ... that a framework makes of the program."""
        scope = {"torch": torch, "inf": float("inf"), "nan": float("nan")}
        exec(compile("\n".join(self.lines), "<program>", "exec"), scope)
        return [scope[f"t{k}"] for k in range(len(self.values))]

    def run_compiled(self, torch: Any, times: int = 3) -> list[list[Any]]:
        """The same by a compiled function, called several times, that is given the tensors which
        no other line makes."""
        given = [line.partition(" = ") for line in self.lines
                 if line.partition(" = ")[2].startswith("torch.tensor(")]
        names = [name for name, _, _ in given]
        body = [line for line in self.lines if line.partition(" = ")[0] not in names]
        every = ", ".join(f"t{k}" for k in range(len(self.values)))
        source = "\n    ".join([f"def program({', '.join(names)}):", *body, f"return [{every}]"])
        scope = {"torch": torch, "inf": float("inf"), "nan": float("nan")}
        exec(compile(source, "<program>", "exec"), scope)
        compiled = torch.compile(scope["program"])
        return [compiled(*[eval(made, scope) for _, _, made in given]) for _ in range(times)]


# ---- PyTorch's rules -----------------------------------------------------------------

def category(d: Any) -> int:
    """0 for bool, 1 for integers, 2 for floats."""
    return {"b": 0, "u": 1, "i": 1, "f": 2}[np.dtype(d).kind]


def of_number(x: Any) -> Any:
    return BOOL if isinstance(x, bool) else INT64 if isinstance(x, int) else FLOAT32


def greater(a: Any, b: Any) -> Any:
    """The promoted dtype of two, either of which may be None."""
    if a is None or b is None:
        return b if a is None else a
    return max(a, b, key=ORDER.__getitem__)


def promoted(*operands: Any) -> Any:
    """The dtype of arithmetic on arrays and numbers: tensors with dims decide, 0-d tensors and then
    numbers only if they are of a higher category."""
    found: list[Any] = [None, None, None]
    for x in operands:
        level = 2 if not isinstance(x, np.ndarray) else 0 if x.ndim else 1
        found[level] = greater(found[level], of_number(x) if level == 2 else x.dtype)
    result = None
    for lower in found:
        if result is None or lower is None:
            result = lower if result is None else result
        elif category(result) < 2 and (result == BOOL or category(lower) == 2):
            result = greater(result, lower)
    return result


def cast(x: Any, d: Any) -> Any:
    """`x` converted as PyTorch does where C++ defines it."""
    x, d = np.asarray(x), np.dtype(d)
    if x.dtype.kind == "f" and d.kind in "ui":
        need(np.isfinite(x).all() and (d.kind == "i" or (x >= 0).all()) and (x < 256).all())
    return x.astype(d)


def exact(x: Any) -> Any:
    """`x`, unless later steps could round it."""
    if x.dtype.kind == "f":
        number = x[np.isfinite(x)].astype(np.float64)
        need((np.abs(number) <= 4096).all() and (number * 64 == np.rint(number * 64)).all())
    elif x.dtype.kind == "i":
        need((np.abs(x) <= 1 << 20).all())
    return x


def fresh(x: Any) -> Any:
    """A copy, checked."""
    return exact(np.array(x))


def index(a: Any, key: list[Any]) -> tuple[Any, Any]:
    """(view, key of arrays or None) such that view[key] is a[*key] by PyTorch's rules: numbers,
    slices and None make a view, which arrays then index."""
    used = sum(k.ndim if is_mask(k) else k is not None and k is not Ellipsis for k in key)
    need(used <= a.ndim)
    if Ellipsis not in [k for k in key if not isinstance(k, np.ndarray)]:
        key = [*key, Ellipsis]
    basic: list[Any] = []
    arrays: list[Any] = []
    d = 0  # dim of `a`
    for k in key:
        if k is Ellipsis:
            rest = a.ndim - used
            basic += [slice(None)] * rest
            arrays += [slice(None)] * rest
            d += rest
        elif k is None:
            basic.append(None)
            arrays.append(slice(None))
        elif isinstance(k, np.ndarray):
            dims = k.ndim if is_mask(k) else 1
            if is_mask(k):
                need(k.shape == a.shape[d:d + dims])
            else:
                n = a.shape[d]
                need(n and ((k >= -n) & (k < n)).all())
            basic += [slice(None)] * dims
            arrays.append(k)
            d += dims
        else:
            if isinstance(k, int):
                need(-a.shape[d] <= k < a.shape[d])
            else:
                arrays.append(slice(None))
            basic.append(k)
            d += 1
    view = a[tuple(basic)] if basic else a
    view = view if isinstance(view, np.ndarray) else np.asarray(view)
    if not view.ndim and a.ndim:  # NumPy hands out scalars, not views
        view = a[(*basic, Ellipsis)]
    return view, tuple(arrays) if any(isinstance(k, np.ndarray) for k in arrays) else None


def is_mask(k: Any) -> bool:
    return isinstance(k, np.ndarray) and k.dtype == BOOL


def addresses(a: Any) -> Any:
    """Where every element lies, from the first."""
    spots = np.zeros((), np.int64)
    for n, s in zip(a.shape, a.strides):
        spots = spots[..., None] + np.arange(n) * s
    return spots


def check_write(target: Any, source: Any = None, same: bool = False) -> None:
    """No element is written twice, and none that is still to be read; `same` allows a source that
    is the target itself."""
    need(len(np.unique(addresses(target))) == target.size)
    if isinstance(source, np.ndarray):
        need(source.size)  # empty ones share memory as well, for PyTorch
        need((same and source is target) or not np.shares_memory(target, source))


def defined_divisor(x: Any) -> None:
    """No zeros in a tensor: the sign of a zero, so of the quotient, is no one's promise."""
    need(not isinstance(x, np.ndarray) or (x != 0).all())


def write(target: Any, value: Any) -> None:
    """Overwrite an array if the value fits it."""
    value = exact(cast(value, target.dtype))
    target[...] = value


# ---- drawing programs -----------------------------------------------------------------

ARITHMETIC = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum,
              "minimum": np.minimum}
COMPARISON = {"eq": np.equal, "lt": np.less, "ge": np.greater_equal, "ne": np.not_equal}
BITWISE = {"bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or,
           "bitwise_xor": np.bitwise_xor}
UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": np.negative, "abs": np.abs, "clone": np.array, "square": np.square,
    "sign": lambda a: np.where(a == a, np.sign(a), 0).astype(a.dtype),
    "logical_not": np.logical_not}
REDUCE: dict[str, Callable[..., Any]] = {
    "sum": np.sum, "prod": np.prod, "amax": np.max, "amin": np.min, "any": np.any, "all": np.all,
    "mean": np.mean}


class Writer:
    """Draws the steps of one program and runs them on arrays."""

    def __init__(self) -> None:
        self.program = Program()
        self.random = random.Random(0)

    # -- drawing

    def pick(self, choices: Any) -> Any:
        return choices[self.number(0, len(choices) - 1)]

    def number(self, low: int, high: int) -> int:
        need(low <= high)
        return self.random.randint(low, high)

    def tensor(self, good: Callable[[Value], bool] = lambda v: True) -> tuple[str, Value]:
        """The name and value of a tensor, the last ones first."""
        found = [k for k, v in enumerate(self.program.values) if good(v)][::-1]
        need(found)
        k = self.pick(found)
        return f"t{k}", self.program.values[k]

    def operand(self, other: Any) -> tuple[str, Any]:
        """A tensor that broadcasts with `other`, or a number."""
        if self.number(0, 2) == 0:
            x = self.pick(NUMBERS)
            need(not (other.dtype == UINT8 and x < 0))
            return str(x), x
        name, v = self.tensor(lambda v: fits(v.array.shape, other.shape))
        return name, v.array

    def dim(self, a: Any) -> int:
        need(a.ndim)
        return self.number(-a.ndim, a.ndim - 1)

    # -- taking steps

    def new(self, code: str, array: Any, laid_out: bool = False, storage: Any = None) -> None:
        self.program.lines.append(f"t{len(self.program.values)} = {code}")
        self.program.values.append(Value(array, laid_out, storage))

    def line(self, code: str) -> None:
        self.program.lines.append(code)

    def view_of(self, v: Value, code: str, array: Any) -> None:
        self.new(code, array, v.laid_out, v.storage)

    def step(self, seed: int, kind: Any = None) -> None:
        """One step, all of whose choices follow from a number: a program is a list of numbers, any
        of which can be left out, and that is how a failing one is made small."""
        self.random.seed(seed)
        kind = kind or self.pick(STEPS)
        try:
            with np.errstate(all="ignore"):
                kind(self)
        except Undefined:
            pass

    def create(self) -> None:
        shape = self.pick(SHAPES)
        d = np.dtype(self.pick(("float32", "int64", "bool", "uint8", "float64")))
        n = int(np.prod(shape))
        seed = self.number(0, 9)
        flat = (np.arange(n) * (seed + 1) + seed) % 7
        if d.kind in "if":
            flat = flat - 3
        flat = (flat > 0) if d == BOOL else flat.astype(d)
        if d.kind == "f":
            flat = flat / 2
            if n and self.number(0, 3) == 3:
                flat[seed % n] = self.pick((np.nan, np.inf, -np.inf, -0.0))
        flat = flat.astype(d)
        a = flat.reshape(shape)
        code = f"torch.tensor({a.tolist()}, dtype=torch.{d.name})"
        self.new(code if a.size else f"{code}.reshape({shape})", a, True, flat)

    def elementwise(self) -> None:
        name, v = self.tensor()
        a = v.array
        kind = self.number(0, 4)
        if kind == 0:
            op = self.pick(list(UNARY))
            need(not (op in ("neg", "sign", "abs", "square") and a.dtype == BOOL))
            self.new(f"{name}.{op}()", fresh(UNARY[op](a)))
            return
        other, b = self.operand(a)
        d = promoted(a, b)
        if kind == 1:
            op = self.pick(list(COMPARISON))
            need(not (d == UINT8 and not isinstance(b, np.ndarray)))
            self.new(f"torch.{op}({name}, {other})", fresh(COMPARISON[op](cast(a, d), cast(b, d))))
        elif kind == 2:
            op = self.pick(list(BITWISE))
            need(d.kind in "bui")
            self.new(f"torch.{op}({name}, {other})", fresh(BITWISE[op](cast(a, d), cast(b, d))))
        elif kind == 3:
            d = d if d.kind == "f" else FLOAT32
            defined_divisor(b)
            self.new(f"{name} / {other}", fresh(cast(a, d) / cast(b, d)))
        else:
            op = self.pick(list(ARITHMETIC))
            need(not (op == "sub" and BOOL in (d, a.dtype, getattr(b, "dtype", of_number(b)))))
            need(isinstance(b, np.ndarray) or op not in ("maximum", "minimum"))
            self.new(f"torch.{op}({name}, {other})", fresh(ARITHMETIC[op](cast(a, d), cast(b, d))))

    def where(self) -> None:
        c, mask = self.tensor(lambda v: v.array.dtype == BOOL)
        name, v = self.tensor(lambda v: fits(v.array.shape, mask.array.shape))
        a = v.array
        other, b = self.operand(a)
        need(not isinstance(b, np.ndarray) or fits(b.shape, mask.array.shape))
        d = promoted(a, b)
        self.new(f"torch.where({c}, {name}, {other})",
                 fresh(np.where(mask.array, cast(a, d), cast(b, d))))

    def convert(self) -> None:
        name, v = self.tensor()
        d = self.pick(DTYPES)
        need(v.array.dtype != d)
        self.new(f"{name}.to(torch.{d})", fresh(cast(v.array, d)))

    def reduce(self) -> None:
        name, v = self.tensor(lambda v: v.array.size > 0)
        a = v.array
        op = self.pick(list(REDUCE))
        need(op != "mean" or a.dtype.kind == "f")
        keep = bool(self.number(0, 1))
        if op in ("sum", "prod") and a.dtype.kind != "f":
            a = a.astype(INT64)
        if a.ndim and self.number(0, 2):
            d = self.dim(a)
            made = REDUCE[op](a, axis=d, keepdims=keep)
            code = f"{name}.{op}({d}, keepdim={keep})"
        else:
            made, code = REDUCE[op](a), f"{name}.{op}()"
        made = np.asarray(made).astype(UINT8 if op in ("any", "all") and a.dtype == UINT8
                                       else made.dtype)
        self.new(code, fresh(made))

    def scan(self) -> None:
        name, v = self.tensor(lambda v: v.array.ndim > 0)
        a, d = v.array, self.dim(v.array)
        kind = self.pick(("cumsum", "flip", "roll", "sort"))
        if kind == "cumsum":
            a = a if a.dtype.kind == "f" else a.astype(INT64)
            self.new(f"{name}.cumsum({d})", fresh(np.cumsum(a, d, dtype=a.dtype)))
        elif kind == "flip":
            self.new(f"{name}.flip({d})", fresh(np.flip(a, d)))
        elif kind == "roll":
            k = self.number(-2, 2)
            self.new(f"{name}.roll({k}, {d})", fresh(np.roll(a, k, d)))
        else:
            self.new(f"{name}.sort({d})[0].contiguous()", fresh(np.sort(a, d, kind="stable")))

    def join(self) -> None:
        name, v = self.tensor()
        a = v.array
        if self.number(0, 1):
            other, w = self.tensor(lambda w: w.array.shape == a.shape)
            d = self.number(-a.ndim - 1, a.ndim)
            kind = promoted(a, w.array)
            self.new(f"torch.stack([{name}, {other}], {d})",
                     fresh(np.stack([cast(a, kind), cast(w.array, kind)], d)))
        else:
            d = self.dim(a) % a.ndim
            other, w = self.tensor(lambda w: w.array.ndim == a.ndim and all(
                m == n for k, (m, n) in enumerate(zip(w.array.shape, a.shape)) if k != d))
            kind = promoted(a, w.array)
            self.new(f"torch.cat([{name}, {other}], {d})",
                     fresh(np.concatenate([cast(a, kind), cast(w.array, kind)], d)))

    # -- views

    def view(self) -> None:
        name, v = self.tensor()
        a = v.array
        kind = self.pick(("transpose", "unsqueeze", "squeeze", "narrow", "select", "expand",
                          "diagonal", "permute", "unfold", "T", "split", "reshape", "as_strided"))
        if kind == "transpose":
            p, q = self.dim(a), self.dim(a)
            self.view_of(v, f"{name}.transpose({p}, {q})", np.swapaxes(a, p, q))
        elif kind == "unsqueeze":
            d = self.number(-a.ndim - 1, a.ndim)
            self.view_of(v, f"{name}.unsqueeze({d})", np.expand_dims(a, d))
        elif kind == "squeeze":
            d = self.dim(a)
            self.view_of(v, f"{name}.squeeze({d})", a.squeeze(d) if a.shape[d] == 1 else a[:])
        elif kind == "narrow":
            d = self.dim(a)
            start = self.number(0, a.shape[d])
            n = self.number(0, a.shape[d] - start)
            key = [slice(None)] * a.ndim
            key[d] = slice(start, start + n)
            self.view_of(v, f"{name}.narrow({d}, {start}, {n})", a[tuple(key)])
        elif kind == "select":
            d = self.dim(a)
            k = self.number(-a.shape[d], a.shape[d] - 1)
            key = [slice(None)] * a.ndim
            key[d] = k
            self.view_of(v, f"{name}.select({d}, {k})", a[(*key, Ellipsis)])
        elif kind == "expand":
            lead = self.pick(((), (2,)))
            size = (*lead, *[self.pick((3, 2)) if n == 1 else n for n in a.shape])
            strides = (*[0] * len(lead), *[0 if n == 1 else s for n, s in zip(a.shape, a.strides)])
            self.view_of(v, f"{name}.expand({size})", as_strided(a, size, strides))
        elif kind == "diagonal":
            p, q = self.dim(a), self.dim(a)
            need(p % a.ndim != q % a.ndim)
            k = self.number(-1, 1)
            found = np.diagonal(a, k, p, q)
            row = [slice(None)] * a.ndim
            row[p % a.ndim], row[q % a.ndim] = slice(max(-k, 0), None), slice(max(k, 0), None)
            self.view_of(v, f"{name}.diagonal({k}, {p}, {q})",
                         as_strided(a[tuple(row)], found.shape, found.strides))
        elif kind == "permute":
            order = tuple(self.random.sample(range(a.ndim), a.ndim))
            self.view_of(v, f"{name}.permute({order})", a.transpose(order))
        elif kind == "unfold":
            d = self.dim(a) % a.ndim
            size, step = self.number(1, 2), self.number(1, 2)
            need(size <= a.shape[d])
            shape, strides = list(a.shape), list(a.strides)
            shape[d] = (a.shape[d] - size) // step + 1
            strides[d] *= step
            self.view_of(v, f"{name}.unfold({d}, {size}, {step})",
                         as_strided(a, (*shape, size), (*strides, a.strides[d])))
        elif kind == "T":
            need(a.ndim == 2)
            self.view_of(v, f"{name}.T", a.T)
        elif kind == "split":
            d = self.dim(a) % a.ndim
            need(a.shape[d])
            size = self.number(1, a.shape[d])
            at = self.number(0, -(-a.shape[d] // size) - 1)
            key = [slice(None)] * a.ndim
            key[d] = slice(at * size, (at + 1) * size)
            self.view_of(v, f"{name}.split({size}, {d})[{at}]", a[tuple(key)])
        elif kind == "reshape":
            self.reshape(name, v)
        else:
            self.as_strided(name, v)

    def reshape(self, name: str, v: Value) -> None:
        a = v.array
        options = [(a.size,), (-1, 1), (1, *a.shape)]
        options += [(n, a.size // n) for n in (2, 3) if a.size and a.size % n == 0]
        shape = self.pick(options)
        need(a.size or -1 not in shape)
        made = a.reshape(shape)
        if not v.laid_out:
            self.new(f"{name}.reshape({shape}).clone()", np.array(made))
        elif np.shares_memory(made, a):
            self.view_of(v, f"{name}.view({shape})", made)
        else:
            flat = np.array(made).reshape(-1)
            self.new(f"{name}.reshape({shape})", flat.reshape(made.shape), True, flat)

    def as_strided(self, name: str, v: Value) -> None:
        need(v.laid_out and v.storage.size)
        n, item = v.storage.size, v.storage.itemsize
        size = self.pick(((2,), (2, 2), (3, 2), ()))
        strides = tuple(self.number(0, 3) for _ in size)
        start = self.number(0, n - 1)
        need(start + sum((k - 1) * s for k, s in zip(size, strides)) < n)
        self.view_of(v, f"{name}.as_strided({size}, {strides}, {start})",
                     as_strided(v.storage[start:], size, [s * item for s in strides]))

    # -- indexing

    def key(self, a: Any) -> tuple[str, list[Any]]:
        """(code, parts) of an index of up to as many parts as there are dims."""
        code, parts = [], []
        d = 0
        for _ in range(self.number(1, a.ndim + 1)):
            kind = self.number(0, 6)
            n = a.shape[d] if d < a.ndim else 0
            if kind == 0:
                code.append("None")
                parts.append(None)
                continue
            if kind == 1:
                need(Ellipsis not in [k for k in parts if not isinstance(k, np.ndarray)])
                code.append("...")
                parts.append(Ellipsis)
                d = a.ndim - 1  # whatever follows is for the last dim
                continue
            if d >= a.ndim or (kind == 6 and n == 0):
                break
            if kind in (2, 3):
                start, stop = self.pick((None, 0, 1, -2)), self.pick((None, 2, -1, 9))
                step = self.pick((None, 2))
                code.append(":".join("" if k is None else str(k) for k in (start, stop, step)))
                parts.append(slice(start, stop, step))
            elif kind == 4:
                k = self.number(-n, n - 1)
                code.append(str(k))
                parts.append(k)
            elif kind == 5:
                found = [(f"t{k}", v.array) for k, v in enumerate(self.program.values)
                         if v.array.dtype == BOOL and v.array.ndim
                         and v.array.shape == a.shape[d:d + v.array.ndim]]
                if found:
                    name, mask = self.pick(found)
                else:
                    mask = np.array([bool(k % 2 == self.number(0, 1)) for k in range(n)], bool)
                    name = f"torch.tensor({mask.tolist()}, dtype=torch.bool)"
                code.append(name)
                parts.append(mask)
                d += mask.ndim - 1
            else:
                where = [self.number(-n, n - 1) for _ in range(self.number(1, 3))]
                spots = np.array(where)
                if self.number(0, 1):
                    code.append(str(where))
                else:
                    spots = spots.reshape((-1, 1)) if self.number(0, 1) else spots
                    code.append(f"torch.tensor({spots.tolist()})")
                parts.append(spots)
            d += 1
        need(parts)
        return ", ".join(code), parts

    def take(self) -> None:
        name, v = self.tensor()
        code, parts = self.key(v.array)
        view, arrays = self.found(v.array, parts)
        if arrays is None:
            self.view_of(v, f"{name}[{code},]", view)
        else:
            self.new(f"{name}[{code},]", fresh(view[arrays]))

    def found(self, a: Any, parts: list[Any]) -> tuple[Any, Any]:
        view, arrays = index(a, parts)
        if arrays is not None:
            try:
                view[arrays]
            except IndexError:  # index arrays that do not broadcast
                raise Undefined from None
        return view, arrays

    def put(self) -> None:
        name, v = self.tensor()
        code, parts = self.key(v.array)
        view, arrays = self.found(v.array, parts)
        place = view if arrays is None else view[arrays]
        if self.number(0, 1):
            x = self.pick(NUMBERS)
            other, value = str(x), np.asarray(x)
            need(not (v.array.dtype == UINT8 and x < 0))
        else:
            other, w = self.tensor(lambda w: broadcasts_to(w.array.shape, place.shape))
            value = w.array
            need(arrays is None or value.dtype == v.array.dtype)
            check_write(v.array, value)
        for part in parts:
            check_write(v.array, part)
        value = exact(cast(value, v.array.dtype))
        if arrays is None:
            view[...] = value
        else:
            spots = np.arange(view.size).reshape(view.shape)[arrays]
            need(len(np.unique(spots)) == spots.size or not value.ndim)
            view[arrays] = value
        self.line(f"{name}[{code},] = {other}")

    # -- writes

    def update(self) -> None:
        name, v = self.tensor()
        a = v.array
        op = self.pick(("add", "mul", "sub", "copy", "fill", "masked_fill", "clamp", "zero",
                        "div", "bitwise_or"))
        check_write(a)
        if op == "fill":
            x = self.pick(NUMBERS)
            need(not (a.dtype == UINT8 and x < 0))
            write(a, x)
            self.line(f"{name}.fill_({x})")
        elif op == "zero":
            write(a, 0)
            self.line(f"{name}.zero_()")
        elif op == "clamp":
            need(a.dtype != BOOL)
            low, high = self.pick(((0, 2), (1, 1), (0, 3)))
            write(a, np.clip(a, a.dtype.type(low), a.dtype.type(high)))
            self.line(f"{name}.clamp_({low}, {high})")
        elif op == "masked_fill":
            mask, m = self.tensor(lambda m: m.array.dtype == BOOL
                                  and broadcasts_to(m.array.shape, a.shape))
            check_write(a, m.array)
            x = self.pick(NUMBERS)
            need(not (a.dtype == UINT8 and x < 0) and category(of_number(x)) <= v.category)
            write(a, np.where(m.array, cast(x, a.dtype), a))
            self.line(f"{name}.masked_fill_({mask}, {x})")
        elif op == "copy":
            other, w = self.tensor(lambda w: broadcasts_to(w.array.shape, a.shape))
            check_write(a, w.array, same=True)
            write(a, w.array)
            self.line(f"{name}.copy_({other})")
        else:
            other, b = self.operand(a)
            if isinstance(b, np.ndarray):
                need(broadcasts_to(b.shape, a.shape))
                check_write(a, b, same=True)
            d = promoted(a, b)
            need(category(d) <= v.category)
            if op == "div":
                need(d.kind == "f")
                defined_divisor(b)
            if op == "bitwise_or":
                need(d.kind in "bui")
            need(not (op == "sub" and BOOL in (d, a.dtype, getattr(b, "dtype", of_number(b)))))
            f = {"div": np.divide, "bitwise_or": np.bitwise_or, **ARITHMETIC}[op]
            write(a, exact(f(cast(a, d), cast(b, d))))
            self.line(f"{name}.{op}_({other})")

    def gather(self) -> None:
        name, v = self.tensor(lambda v: v.array.ndim > 0 and v.array.size > 0)
        a = v.array
        d = self.dim(a) % a.ndim
        n = a.shape[d]
        kind = self.pick(("index_select", "gather", "scatter", "index_add", "masked_select"))
        if kind == "masked_select":
            mask, m = self.tensor(lambda m: m.array.dtype == BOOL
                                  and fits(m.array.shape, a.shape))
            x, keep = np.broadcast_arrays(a, m.array)
            self.new(f"{name}.masked_select({mask})", fresh(x[keep]))
            return
        if kind in ("index_select", "index_add"):
            at = [self.number(0, n - 1) for _ in range(self.number(1, 3))]
            if kind == "index_select":
                self.new(f"{name}.index_select({d}, torch.tensor({at}))", fresh(np.take(a, at, d)))
                return
            shape = (*a.shape[:d], len(at), *a.shape[d + 1:])
            other, w = self.tensor(lambda w: w.array.shape == shape and w.array.dtype == a.dtype)
            need(a.dtype not in (BOOL, UINT8))
            check_write(a, w.array)
            total = np.array(a)
            np.add.at(np.moveaxis(total, d, 0), at, np.moveaxis(w.array, d, 0))
            write(a, total)
            self.line(f"{name}.index_add_({d}, torch.tensor({at}), {other})")
            return
        shift = self.number(0, n - 1)
        spots = (np.arange(a.size).reshape(a.shape) * 0 + np.expand_dims(
            np.arange(n), [k for k in range(a.ndim) if k != d]) + shift) % n  # a permutation
        code = f"torch.tensor({spots.tolist()})"
        if kind == "gather":
            self.new(f"{name}.gather({d}, {code})", fresh(np.take_along_axis(a, spots, d)))
            return
        other, w = self.tensor(lambda w: w.array.shape == a.shape and w.array.dtype == a.dtype)
        check_write(a, w.array)
        out = np.array(a)
        np.put_along_axis(out, spots, w.array, d)
        write(a, out)
        self.line(f"{name}.scatter_({d}, {code}, {other})")


def fits(a: Any, b: Any) -> bool:
    """Whether two shapes broadcast."""
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1]))


def broadcasts_to(a: Any, b: Any) -> bool:
    """Whether shape a broadcasts to shape b."""
    return len(a) <= len(b) and all(m in (1, n) for m, n in zip(a[::-1], b[::-1]))


STEPS = (Writer.view, Writer.take, Writer.put, Writer.update, Writer.elementwise, Writer.create,
         Writer.view, Writer.update, Writer.reduce, Writer.gather, Writer.where, Writer.join,
         Writer.convert, Writer.scan)


def program_of(seeds: list[int]) -> Program:
    """The program of a list of numbers, one a step; the first steps make two tensors."""
    writer = Writer()
    for k, seed in enumerate(seeds):
        writer.step(seed, Writer.create if k < 2 else None)
    return writer.program


def programs(steps: int = 40) -> st.SearchStrategy[Program]:
    """Programs of up to `steps` steps, some of which cannot be taken."""
    numbers = st.integers(0, 2**20)
    return st.lists(numbers, min_size=12, max_size=steps).map(program_of)


def differences(program: Program, tensors: list[Any], array_of: Callable[[Any], Any]) -> list[str]:
    """What is not as it should be: one line for every such tensor."""
    wrong = []
    for k, (v, t) in enumerate(zip(program.values, tensors)):
        kind = str(t.dtype).rpartition(".")[2]
        if kind != v.array.dtype.name or tuple(t.shape) != v.array.shape:
            wrong.append(f"t{k} is {kind}{list(t.shape)}, not {v.array.dtype}{list(v.array.shape)}")
        elif not np.array_equal(array_of(t), v.array, equal_nan=v.array.dtype.kind == "f"):
            wrong.append(f"t{k} is {t.tolist()}, not {v.array.tolist()}")
    return wrong
