"""Schemas of kernels that come as text: names, dtypes and shapes in one line.

    acme::scale_rows(x: float32[*b, n], by: float32[n], power: float32 = 1.0) -> float32[*b, n]

An argument with brackets is a tensor of this dtype and shape, one without a number. A word in a
shape is a size: the first tensor that has it says how large it is, later ones must agree; `*b` is
any number of sizes. Whole numbers stand for themselves, and expressions such as `2 * n + 1` are
computed (in results: `float32[n - k + 1]`). Floor 3; imports base and the registry.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..base import dtype as dt
from ..base.dtype import dtype
from ..base.errors import DtypeError
from ..base.meta import Meta
from . import registry as R

_NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
            "uint64")
_DTYPES = {d.name: d for d in dt.ALL}
_FORM = re.compile(r"\s*(?:([A-Za-z_]\w*)::)?([A-Za-z_]\w*)\s*\((.*)\)\s*->\s*(.+)", re.DOTALL)
_TENSOR = re.compile(r"(\w+)\s*\[(.*)\]", re.DOTALL)
_NODES = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Name, ast.Load, ast.Constant, ast.Add,
          ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.USub)


class Dim(NamedTuple):
    """One entry of a shape: a size by `name`, several (`star`), or the expression `code`."""

    text: str
    name: str
    star: bool
    code: Any
    words: tuple[str, ...]


class Argument(NamedTuple):
    """An argument (or, without a name, a result): a tensor if it has `dims`, else a number."""

    name: str
    dtype: dtype
    dims: tuple[Dim, ...] | None
    default: Any = R.REQUIRED

    def __str__(self) -> str:
        if self.dims is None:
            return self.dtype.name
        return f"{self.dtype.name}[{', '.join(d.text for d in self.dims)}]"


class Schema:
    """A parsed schema. ValueError says what is wrong with the text."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        found = _FORM.fullmatch(text)
        if found is None:
            raise self._wrong("write it as name(x: float32[n], a: float32 = 1.0) -> float32[n]")
        self.namespace, self.name = found[1] or "", found[2]
        self.args = tuple([self._argument(part) for part in R._split(found[3])])
        self.results = tuple([self._result(part) for part in R._split(found[4])])
        self._check()
        # in the order in which kernels get them, behind their arguments
        self.sizes = tuple(dict.fromkeys(
            d.name for a in self.tensors for d in a.dims or () if d.name))

    @property
    def tensors(self) -> tuple[Argument, ...]:
        """The arguments that are tensors."""
        return tuple([a for a in self.args if a.dims is not None])

    @property
    def params(self) -> tuple[R.Param, ...]:
        """The arguments as those of an op."""
        return tuple([R.Param(a.name, _kind(a), a.default) for a in self.args])

    # ---- reading ---------------------------------------------------------------------------------

    def _wrong(self, why: str) -> ValueError:
        return ValueError(f"the schema {self.text!r}: {why}")

    def _argument(self, part: str) -> Argument:
        name, colon, rest = part.partition(":")
        name, default = name.strip(), R.REQUIRED
        if not colon or not name.isidentifier():
            raise self._wrong(f"the argument {part!r} is not written as name: dtype[sizes]")
        if "[" not in rest and "=" in rest:
            rest, _, given = rest.partition("=")
            try:
                default = ast.literal_eval(given.strip())
            except (ValueError, SyntaxError):
                default = None
            if type(default) not in (int, float):
                raise self._wrong(f"the default of {name!r} must be a number, not {given.strip()}")
        return self._typed(name, rest.strip(), default)

    def _result(self, part: str) -> Argument:
        made = self._typed("", part.strip(), R.REQUIRED)
        if made.dims is None:
            raise self._wrong(f"the result {part!r} is a tensor: write {part}[] if it has no dims")
        return made

    def _typed(self, name: str, text: str, default: Any) -> Argument:
        tensor = _TENSOR.fullmatch(text)
        word = tensor[1] if tensor else text
        kind = _DTYPES.get(word)
        if kind is None:
            raise self._wrong(f"{word!r} is no dtype; they are {', '.join(_DTYPES)}")
        if tensor is None:
            if word not in _NUMBERS:
                raise self._wrong(f"{name!r} is a number, which can be {', '.join(_NUMBERS)}; a "
                                  f"tensor is written {word}[...]")
            return Argument(name, kind, None, default)
        dims = tuple([self.dim(part) for part in R._split(tensor[2])])
        if sum(d.star for d in dims) > 1:
            raise self._wrong(f"{text!r} has more than one *; which sizes they take is unclear")
        return Argument(name, kind, dims)

    def dim(self, text: str) -> Dim:
        """Read one entry of a shape. ValueError if it is none."""
        text = text.strip()
        word = text[1:].strip() if text.startswith("*") else text
        if word.isidentifier():
            return Dim(text, word, text.startswith("*"), None, (word,))
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError:
            tree = None  # type: ignore[assignment]
        if tree is None or any(not isinstance(n, _NODES) for n in ast.walk(tree)) or any(
                isinstance(n, ast.Constant) and type(n.value) is not int for n in ast.walk(tree)):
            raise self._wrong(f"{text!r} is no size: a name, *names, a whole number, or an "
                              "expression of them with + - * // %")
        words = tuple(n.id for n in ast.walk(tree) if isinstance(n, ast.Name))
        return Dim(text, "", False, compile(tree, "<schema>", "eval"), words)

    def _check(self) -> None:
        names = [a.name for a in self.args]
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise self._wrong(f"two arguments are called {twice.pop()!r}")
        if not self.tensors:
            raise self._wrong("at least one argument must be a tensor: it says on which device")
        if not self.results:
            raise self._wrong("there is no result")
        optional = False
        for a in self.args:
            if optional and a.default is R.REQUIRED:
                raise self._wrong(f"{a.name!r} needs a default, since one before it has one")
            optional = optional or a.default is not R.REQUIRED
        stars: dict[str, bool] = {}
        for d in (d for a in self.tensors for d in a.dims or () if d.name):
            if stars.setdefault(d.name, d.star) != d.star:
                raise self._wrong(f"{d.name!r} is one size here and *{d.name} there")
        for a in (*self.tensors, *self.results):
            for d in a.dims or ():
                self.known(d, stars)

    def known(self, d: Dim, stars: dict[str, bool]) -> None:
        """ValueError unless the arguments say every size in `d`."""
        for word in d.words:
            if word not in stars:
                raise self._wrong(f"no argument says how large {word!r} is")
            if stars[word] and not d.star:
                raise self._wrong(f"{word!r} is several sizes: write *{word}")
            if d.star and not stars[word]:
                raise self._wrong(f"{word!r} is one size: write it without the *")

    # ---- using -----------------------------------------------------------------------------------

    def bind(self, op: str, values: Sequence[Any]) -> dict[str, Any]:
        """Sizes by name for arguments given as Metas, and Python types for numbers.

        DtypeError, RuntimeError (shapes) or TypeError (numbers) where they do not fit.
        """
        sizes: dict[str, Any] = {}
        said: dict[str, str] = {}
        computed = []
        for a, m in zip(self.args, values):
            if a.dims is None:
                if m is float and a.dtype.kind != "f":
                    raise TypeError(f"{op}(): argument '{a.name}' must be int (the schema says "
                                    f"{a}), not float")
                continue
            if m.dtype is not a.dtype:
                raise DtypeError(f"{op}: {a.name} is {m.dtype.name}, and the schema says {a}. "
                                 f"Convert it with .to(lampion.{a.dtype.name})")
            for d, n in self._aligned(op, a, m):
                if not d.name:
                    computed.append((a, d, n))
                elif sizes.setdefault(d.name, n) != n:
                    raise RuntimeError(
                        f"{op}: {a.name} of shape {list(m.shape)} is {a} in the schema, where "
                        f"{d.text} is {_show(n)}, but {said[d.name]} says that it is "
                        f"{_show(sizes[d.name])}")
                said.setdefault(d.name, a.name)
        for a, d, n in computed:
            if eval(d.code, {"__builtins__": {}}, sizes) != n:
                raise RuntimeError(f"{op}: {a.name} is {a} in the schema, where {d.text} is "
                                   f"{eval(d.code, {'__builtins__': {}}, sizes)}, not {n}")
        return sizes

    def _aligned(self, op: str, a: Argument, m: Meta) -> list[tuple[Dim, Any]]:
        """Each entry of a shape with the size, or the sizes, that it stands for."""
        dims, shape = a.dims or (), m.shape
        at = next((k for k, d in enumerate(dims) if d.star), None)
        if len(shape) < len(dims) - (at is not None) or (at is None and len(shape) != len(dims)):
            raise RuntimeError(f"{op}: {a.name} has shape {list(shape)}, and the schema says {a}")
        if at is None:
            return list(zip(dims, shape))
        rest = len(dims) - at - 1
        middle = shape[at:len(shape) - rest]
        return [*zip(dims[:at], shape), (dims[at], tuple(middle)),
                *zip(dims[at + 1:], shape[len(shape) - rest:] if rest else ())]

    def shapes(self, op: str, sizes: dict[str, Any]) -> list[tuple[dtype, tuple[int, ...]]]:
        """(dtype, shape) of each result. RuntimeError for a negative size."""
        made = []
        for r in self.results:
            shape = points(r.dims or (), sizes)
            if any(n < 0 for n in shape):
                raise RuntimeError(f"{op}: the result {r} would have shape {list(shape)}")
            made.append((r.dtype, shape))
        return made

    def numbers(self, sizes: dict[str, Any]) -> tuple[int, ...]:
        """The sizes as kernels get them: of several, the product."""
        return tuple([n if type(n := sizes[s]) is int else math.prod(n) for s in self.sizes])


def points(dims: Sequence[Dim], sizes: dict[str, Any]) -> tuple[int, ...]:
    """The shape that `dims` stand for."""
    made: list[int] = []
    for d in dims:
        if d.star:
            made += sizes[d.name]
        else:
            made.append(sizes[d.name] if d.name else
                        int(eval(d.code, {"__builtins__": {}}, sizes)))
    return tuple(made)


def _kind(a: Argument) -> str:
    if a.dims is not None:
        return R.TENSOR
    return R.SCALAR if a.dtype.kind == "f" else R.INTEGER


def _show(n: Any) -> str:
    return str(list(n) if isinstance(n, tuple) else n)
