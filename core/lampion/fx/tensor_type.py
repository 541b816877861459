"""Types of tensors with sizes, for annotations. Floor 7; imports nothing."""

from __future__ import annotations

from typing import Any

__all__ = ["Dyn", "TensorType", "is_consistent", "is_more_precise"]


class _DynType:
    """The type of a size that is not known."""

    def __init__(self) -> None:
        self.__name__ = "_DynType"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _DynType)

    def __hash__(self) -> int:
        return hash(_DynType)

    def __str__(self) -> str:
        return "Dyn"

    __repr__ = __str__


Dyn = _DynType()


class TensorType:
    """The type of a tensor by its sizes; `Dyn` is any size.

    >>> TensorType((1, Dyn))
    TensorType[(1, Dyn)]
    """

    def __init__(self, dim: Any) -> None:
        self.__origin__ = TensorType
        self.__args__ = dim

    def __repr__(self) -> str:
        return f"TensorType[{self.__args__}]"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorType) and list(self.__args__) == list(other.__args__)

    def __hash__(self) -> int:
        return hash(tuple(self.__args__))

    @staticmethod
    def __class_getitem__(*args: Any) -> TensorType:
        return TensorType(args[0] if len(args) == 1 and isinstance(args[0], tuple) else args)


def _compare(a: Any, b: Any, vague: Any) -> bool:
    if a == b or vague(a, b):
        return True
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        return len(a.__args__) == len(b.__args__) and all(
            _compare(x, y, vague) for x, y in zip(a.__args__, b.__args__))
    return False


def is_consistent(t1: Any, t2: Any) -> bool:
    """Whether one value could have both types."""
    return _compare(t1, t2, lambda a, b: a == Dyn or b == Dyn)


def is_more_precise(t1: Any, t2: Any) -> bool:
    """Whether every value of the first type has the second."""
    return _compare(t1, t2, lambda a, b: b == Dyn)
