"""`assert_close`: whether two results agree, and if not, where and by how much.

Floor 7; imports the tensor and its ops. Values are compared on the host in float64 (complex128),
integers exactly.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import lampion

from ..base import dtype as dt
from ..tensor import Tensor

# Relative and absolute tolerance by dtype; everything else is compared exactly.
TOLERANCES = {
    dt.float16: (1e-3, 1e-5), dt.bfloat16: (1.6e-2, 1e-5), dt.float32: (1.3e-6, 1e-5),
    dt.float64: (1e-7, 1e-7), dt.complex32: (1e-3, 1e-5), dt.complex64: (1.3e-6, 1e-5),
    dt.complex128: (1e-7, 1e-7)}


def assert_close(actual: Any, expected: Any, *, allow_subclasses: bool = True,
                 rtol: float | None = None, atol: float | None = None, equal_nan: bool = False,
                 check_device: bool = True, check_dtype: bool = True, check_layout: bool = True,
                 check_stride: bool = False,
                 msg: str | Callable[[str], str] | None = None) -> None:
    """AssertionError unless |actual - expected| <= atol + rtol * |expected| everywhere.

    Takes tensors, numbers, and sequences and mappings of them, nested; what is neither is made a
    tensor if it can be. Tolerances default to those of the dtype (of the looser one for two), and
    must be given both or not at all (ValueError). Device, dtype and, on request, strides are
    compared too. `msg` replaces the message, or makes one of it.

    >>> assert_close(lampion.tensor([1.0, 2.0]), lampion.tensor([1.0, 2.0 + 1e-7]))
    >>> assert_close(3, 4)
    Traceback (most recent call last):
        ...
    AssertionError: Scalars are not equal!
    <BLANKLINE>
    Expected 4 but got 3.
    Absolute difference: 1
    Relative difference: 0.25
    """
    if (rtol is None) != (atol is None):
        raise ValueError("rtol and atol must both be specified or both be unspecified, but got "
                         f"rtol={rtol} and atol={atol}")
    checks = _Checks(allow_subclasses, rtol, atol, equal_nan, check_device, check_dtype,
                     check_stride)
    try:
        checks.compare(actual, expected, ())
    except AssertionError as error:
        text = str(error)
        raise AssertionError(msg(text) if callable(msg) else msg or text) from None


class _Checks:
    """The options of one call, and the comparison by kind of the values."""

    def __init__(self, subclasses: bool, rtol: float | None, atol: float | None, nan: bool,
                 device: bool, dtype: bool, stride: bool) -> None:
        self.subclasses, self.rtol, self.atol, self.nan = subclasses, rtol, atol, nan
        self.device, self.dtype, self.stride = device, dtype, stride

    def compare(self, a: Any, b: Any, at: tuple[Any, ...]) -> None:
        if _is(a, b, Mapping):
            if set(a) != set(b):
                _fail(f"The keys of the mappings do not match: {sorted(map(repr, a))} and "
                      f"{sorted(map(repr, b))}", at)
            for key in a:
                self.compare(a[key], b[key], (*at, key))
        elif _is(a, b, Sequence) and not isinstance(a, str) and not isinstance(b, str):
            if len(a) != len(b):
                _fail(f"The length of the sequences mismatch: {len(a)} != {len(b)}", at)
            for k, (x, y) in enumerate(zip(a, b)):
                self.compare(x, y, (*at, k))
        elif a is None and b is None:
            return
        elif type(a) is bool or type(b) is bool:
            if type(a) is not type(b) or a != b:
                _fail(f"Booleans mismatch: {a} is not {b}", at)
        elif isinstance(a, numbers.Number) and isinstance(b, numbers.Number):
            self.scalars(a, b, at)
        else:
            self.tensors(self.tensor(a, b), self.tensor(b, a), at)

    def tensor(self, x: Any, other: Any) -> Tensor:
        if isinstance(x, Tensor):
            if not self.subclasses and type(x) is not type(other):
                raise TypeError(f"assert_close: {type(x).__name__} and {type(other).__name__} "
                                "differ, and allow_subclasses is False")
            if isinstance(other, Tensor):
                return x.detach()
        related = isinstance(x, type(other)) or isinstance(other, type(x))
        try:
            if related and not isinstance(x, str):
                return lampion.as_tensor(x)
        except (TypeError, ValueError, RuntimeError):
            pass
        raise TypeError(f"No comparison pair was able to handle inputs of type {type(x)} and "
                        f"{type(other)}.")

    def tolerances(self, *dtypes: dt.dtype) -> tuple[float, float]:
        if self.rtol is not None and self.atol is not None:
            return self.rtol, self.atol
        found = [TOLERANCES.get(d, (0.0, 0.0)) for d in dtypes]
        return max(r for r, _ in found), max(a for _, a in found)

    def scalars(self, a: Any, b: Any, at: tuple[Any, ...]) -> None:
        if self.dtype and type(a) is not type(b) and not (
                isinstance(a, np.generic) or isinstance(b, np.generic)):
            _fail(f"The (d)types do not match: {type(a)} != {type(b)}.", at)
        kind = {int: dt.int64, float: dt.float64, complex: dt.complex128}
        self.numbers(a, b, self.tolerances(*[kind.get(type(x), dt.float64) for x in (a, b)]), at)

    def numbers(self, a: Any, b: Any, tolerances: tuple[float, float], at: tuple[Any, ...]) -> None:
        rtol, atol = tolerances
        if a == b or (self.nan and a != a and b != b):
            return
        off = abs(a - b)
        if math.isfinite(off) and off <= atol + rtol * abs(b):
            return
        relative = off / abs(b) if b != 0 else math.inf
        allowed = (f" (up to {atol} allowed)", f" (up to {rtol} allowed)") if atol or rtol else (
            "", "")
        word = "close" if atol or rtol else "equal"
        _fail(f"Scalars are not {word}!\n\nExpected {b} but got {a}.\n"
              f"Absolute difference: {off}{allowed[0]}\n"
              f"Relative difference: {relative}{allowed[1]}", at)

    def tensors(self, a: Tensor, b: Tensor, at: tuple[Any, ...]) -> None:
        for word, wanted, x, y in (
                ("shape", True, a.shape, b.shape), ("device", self.device, a.device, b.device),
                ("dtype", self.dtype, a.dtype, b.dtype),
                ("stride()", self.stride, a.stride(), b.stride())):
            if wanted and x != y:
                _fail(f"The values for attribute '{word}' do not match: {x} != {y}.", at)
        rtol, atol = self.tolerances(a.dtype, b.dtype)
        x, y = _host(a), _host(b)
        if not x.ndim:
            self.numbers(x.item(), y.item(), (rtol, atol), at)
            return
        if x.dtype != y.dtype:
            wide = np.result_type(x, y)
            x, y = x.astype(wide), y.astype(wide)
        with np.errstate(all="ignore"):
            close = x == y
            if self.nan:
                close |= (x != x) & (y != y)
            off = _distance(x, y)
            size = _distance(y, np.zeros_like(y))
            if atol or rtol:
                close |= np.isfinite(off) & (off <= atol + rtol * size)
            if close.all():
                return
            relative = off / size
        exact = x.dtype.kind in "bui"
        _fail(_report(close, np.where(close, 0, off), np.where(close, 0, relative), atol, rtol,
                      exact), at)


def _host(t: Tensor) -> Any:
    """Values with a wide type: float64, complex128, Python integers beyond int64, int64."""
    a = t.detach().resolve_conj().cpu().host()
    if t.dtype.kind == "c":
        return a.astype(np.complex128)
    if t.dtype.kind == "f":
        return a.astype(np.float64)
    return a if t.dtype in (dt.uint64, dt.bool_) else a.astype(np.int64)


def _distance(x: Any, y: Any) -> Any:
    """|x - y| as float64, integers without overflow."""
    if x.dtype.kind in "buiO":
        high, low = np.maximum(x, y), np.minimum(x, y)
        return np.asarray(high.astype(np.longdouble) - low.astype(np.longdouble), np.float64)
    return np.asarray(np.abs(x - y), np.float64)


def _report(close: Any, off: Any, relative: Any, atol: float, rtol: float, exact: bool) -> str:
    """How many elements differ, and the largest differences with their places."""
    bad, total = int((~close).sum()), close.size
    word = "close" if atol or rtol else "equal"
    lines = [f"Tensor-likes are not {word}!", "",
             f"Mismatched elements: {bad} / {total} ({100 * bad / total:.1f}%)"]
    for name, values, allowed in (("absolute", off, atol), ("relative", relative, rtol)):
        shown = np.where(np.isnan(values), math.inf, values)
        where = tuple(map(int, np.unravel_index(int(np.argmax(shown)), values.shape)))
        value = float(values[where])
        lines.append(f"Greatest {name} difference: "
                     f"{int(value) if exact and name == 'absolute' else value} at index {where}"
                     + (f" (up to {allowed} allowed)" if atol or rtol else ""))
    return "\n".join(lines)


def _is(a: Any, b: Any, kind: type) -> bool:
    return isinstance(a, kind) and isinstance(b, kind)


def _fail(text: str, at: tuple[Any, ...]) -> None:
    if at:
        text += "\n\nThe failure occurred for item " + "".join(f"[{k!r}]" for k in at)
    raise AssertionError(text)
