"""Checks and arithmetic of sizes that may be symbols under PyTorch; here sizes are whole numbers.

Floor 7; imports the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .tensor import Tensor

__all__ = ["SymBool", "SymFloat", "SymInt", "sym_constrain_range",
           "sym_constrain_range_for_size", "sym_float", "sym_fresh_size", "sym_int", "sym_ite",
           "sym_max", "sym_min", "sym_not", "sym_sqrt", "sym_sum"]


class _Never(type):
    """A class without instances: sizes are numbers, whatever program asks."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"there are no symbols for numbers here, so no {cls.__name__} is made; use "
                        "the number")


class SymInt(metaclass=_Never):
    """A whole number that is not known: none is."""


class SymFloat(metaclass=_Never):
    """A number that is not known: none is."""


class SymBool(metaclass=_Never):
    """A condition that is not known: none is."""


def sym_int(a: Any) -> int:
    """The whole number towards zero."""
    return int(a)


def sym_float(a: Any) -> float:
    """The number as a float."""
    return float(a)


def sym_not(a: Any) -> bool:
    """Whether `a` is false."""
    return not a


def sym_ite(b: Any, t: Any, f: Any) -> Any:
    """`t` if `b`, else `f`."""
    return t if b else f


def sym_max(a: Any, b: Any) -> Any:
    """The larger number, a float if either is one."""
    found = max(a, b)
    return float(found) if isinstance(a, float) or isinstance(b, float) else found


def sym_min(a: Any, b: Any) -> Any:
    """The smaller number, a float if either is one."""
    found = min(a, b)
    return float(found) if isinstance(a, float) or isinstance(b, float) else found


def sym_sqrt(a: Any) -> float:
    """The square root."""
    return math.sqrt(a)


def sym_sum(args: Any) -> Any:
    """The sum."""
    return sum(args)


def sym_fresh_size(expr: Any) -> Any:
    """The size."""
    return expr


def _message(message: Any, default: str) -> str:
    return default if message is None else str(message())


def _raising(kind: type[Exception], name: str) -> Callable[..., None]:
    def check(cond: Any, message: Callable[[], Any] | None = None) -> None:
        if isinstance(cond, Tensor):
            raise TypeError(f"cond must be a bool, but got {type(cond)}")
        if not cond:
            raise kind(_message(message, "Expected cond to be True, but got False; pass a "
                                         "message to the check to say more"))

    check.__name__ = name
    check.__doc__ = f"{kind.__name__} with the message that `message()` gives, unless `cond`."
    return check


_check = _raising(RuntimeError, "_check")
_check_index = _raising(IndexError, "_check_index")
_check_value = _raising(ValueError, "_check_value")
_check_type = _raising(TypeError, "_check_type")
_check_not_implemented = _raising(NotImplementedError, "_check_not_implemented")


def _check_is_size(i: Any, message: Callable[[], Any] | None = None, *, max: Any = None) -> None:
    """RuntimeError unless the number can be a size (at most `max`)."""
    _check(i >= 0, message)
    if max is not None:
        _check(i <= max, message)


def _check_tensor_all(cond: Any, message: Callable[[], Any] | None = None) -> None:
    """RuntimeError unless all elements are true."""
    _check(bool(cond.all()), message)


def _assert_async(input: Tensor, assert_msg: str = "") -> None:
    """RuntimeError unless the one element is true."""
    if not bool(input):
        raise RuntimeError(assert_msg or "Expected Tensor with single nonzero value, but got zero")


def _shape_as_tensor(input: Tensor) -> Tensor:
    """The sizes, as a tensor."""
    import lampion

    return lampion.tensor(tuple(input.shape), dtype=lampion.int64)  # type: ignore[no-any-return]


def sym_constrain_range(size: Any, *, min: int | None = None, max: int | None = None) -> None:
    """RuntimeError unless a number is in a range; None is no bound."""
    number = int(size)
    if (min is not None and number < min) or (max is not None and number > max):
        raise RuntimeError(f"Invalid value range for {number} between [{min}, {max}].")


def sym_constrain_range_for_size(size: Any, *, min: int | None = None,
                                 max: int | None = None) -> None:
    """`sym_constrain_range` of a size, which is not negative."""
    sym_constrain_range(size, min=0 if min is None else min, max=max)
