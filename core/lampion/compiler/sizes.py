"""Sizes that a traced function looks at, and what it does with them.

Floor 6; imports runtime. While a trace goes on, `x.shape` gives the user's code whole
numbers that write down what becomes of them: a comparison is a *fact* (the code went one way), a
quotient or remainder is a number that has to be what it is. A program for sizes that nobody traced
may be used if all facts are as they were. What cannot be written down (a size as a key of a dict,
a float made of it that is compared) makes the program one of these sizes alone (`fixed`).
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..runtime import tracing

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul}
_WHOLE: dict[str, Callable[[Any, Any], Any]] = {
    "floordiv": operator.floordiv, "mod": operator.mod, "pow": operator.pow,
    "lshift": operator.lshift, "rshift": operator.rshift, "and": operator.and_,
    "or": operator.or_, "xor": operator.xor}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge}
_ALL = _ARITHMETIC | _WHOLE | _COMPARISONS | {"neg": lambda a, b: -a, "abs": lambda a, b: abs(a)}

Term = Any  # a whole number, ("read", k), or (name, Term, Term)


class Sizes:
    """What a trace wrote down: `reads`, the sizes that were looked at, in order; `facts`, terms
    over them and their values."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.facts: list[tuple[Term, Any]] = []
        self.pins: list[int] = []  # reads that have to be as they are
        self.views: list[Any] = []  # the plans of views that were made
        self.fixed = False
        self.open = True

    def read(self, n: int) -> Seen:
        """The size `n`, looked at."""
        self.reads.append(n)
        return seen(n, ("read", len(self.reads) - 1), self)

    def pin(self, n: int) -> None:
        """The size `n` was handed out as Python's own number."""
        self.pins.append(len(self.reads))
        self.reads.append(n)

    def decided(self, name: str, a: int, b: int) -> None:
        """An op went by name(a, b) of two numbers that may depend on sizes."""
        at = len(self.reads)
        self.reads += [int(a), int(b)]
        self.facts.append(((name, ("read", at), ("read", at + 1)), _ALL[name](int(a), int(b))))

    def close(self) -> None:
        """The end of the trace: sizes that are still around are plain numbers."""
        self.open = False


def value(term: Term, reads: Sequence[int]) -> Any:
    """What a term is for other sizes. ArithmeticError if there is no such number."""
    if type(term) is not tuple:
        return term
    if term[0] == "read":
        return reads[term[1]]
    return _ALL[term[0]](value(term[1], reads), value(term[2], reads))


def user(frame: Any) -> bool:
    """Whether a frame is the user's code and not lampion's."""
    name = frame.f_code.co_filename
    return "/lampion/" not in name and not name.startswith("<lampion")


def seen(n: int, term: Term, log: Sizes) -> Seen:
    """A size that writes down what becomes of it."""
    made = int.__new__(Seen, n)
    made.term, made.log = term, log
    return made


class Seen(tracing.Seen):
    """A size that the user's code looked at."""

    term: Term
    log: Sizes

    def __hash__(self) -> int:
        self._fix()
        return int.__hash__(self)

    def _fix(self) -> None:
        if self.log.open and user(sys._getframe(2)):
            self.log.fixed = True

    def __bool__(self) -> bool:
        if self.log.open and user(sys._getframe(1)):
            self.log.facts.append((("ne", self.term, 0), int(self) != 0))
        return int.__ne__(self, 0)

    def __int__(self) -> int:
        self._fix()
        return int.__int__(self)

    def __float__(self) -> float:
        self._fix()
        return int.__float__(self)

    def __repr__(self) -> str:
        self._fix()
        return int.__repr__(self)

    __str__ = __repr__

    def __format__(self, how: str) -> str:
        self._fix()
        return int.__format__(self, how)

    def __pos__(self) -> int:
        return self

    def __neg__(self) -> Any:
        return -int.__int__(self) if not self.log.open else seen(
            -int.__int__(self), ("neg", self.term, 0), self.log)

    def __abs__(self) -> Any:
        return self

    def __round__(self, digits: Any = None) -> Any:
        return self

    def __truediv__(self, other: Any) -> Any:
        return self._float(int.__int__(self), other, operator.truediv)

    def __rtruediv__(self, other: Any) -> Any:
        return self._float(other, int.__int__(self), operator.truediv)

    def _float(self, a: Any, b: Any, how: Callable[[Any, Any], Any]) -> Any:
        if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
            return NotImplemented
        made = how(a, b)
        if type(made) is float and self.log.open and user(sys._getframe(2)):
            made = Quotient(made)
            made.log = self.log
        return made

    def __deepcopy__(self, memo: Any) -> int:
        return int.__int__(self)

    def bit_length(self) -> int:
        self._fix()
        return int.bit_length(self)

    def bit_count(self) -> int:
        self._fix()
        return int.__int__(self).bit_count()

    def to_bytes(self, *args: Any, **kwargs: Any) -> bytes:
        self._fix()
        return int.to_bytes(self, *args, **kwargs)

    def as_integer_ratio(self) -> tuple[int, int]:
        self._fix()
        return int.as_integer_ratio(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (int, (int.__int__(self),))


class Quotient(float):
    """A float that the user's code made of a size. To compare it, or to make a whole number of it,
    fixes the size."""

    log: Sizes

    def _fix(self) -> None:
        if self.log.open and user(sys._getframe(2)):
            self.log.fixed = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (float, (float.__float__(self),))


def _whole(name: str, how: Callable[[Any, Any], Any], back: bool, exact: bool) -> Any:
    def method(self: Seen, other: Any) -> Any:
        if not isinstance(other, int):
            if not isinstance(other, float):
                if isinstance(other, (list, tuple, str, bytes)):
                    self._fix()
                return NotImplemented
            a, b = int.__int__(self), other
            return self._float(b, a, how) if back else self._float(a, b, how)
        a, b = int.__int__(self), int.__int__(other)
        made = how(b, a) if back else how(a, b)
        log = self.log
        if not log.open or not user(sys._getframe(1)) or type(made) is not int:
            return made
        mine, theirs = self.term, other.term if type(other) is Seen else b
        term = (name, theirs, mine) if back else (name, mine, theirs)
        if not exact:
            log.facts.append((term, made))
        return seen(made, term, log)

    return method


def _compared(name: str, how: Callable[[Any, Any], Any]) -> Any:
    def method(self: Seen, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        a = int.__int__(self)
        b = int.__int__(other) if isinstance(other, int) else float.__float__(other)
        made = how(a, b)
        if self.log.open and user(sys._getframe(1)):
            term = (name, self.term, other.term if type(other) is Seen else b)
            self.log.facts.append((term, made))
        return made

    return method


def _fixing(name: str) -> Any:
    plain = getattr(float, name)

    def method(self: Quotient, *args: Any) -> Any:
        self._fix()
        return plain(self, *args)

    return method


def _chained(name: str) -> Any:
    plain = getattr(float, name)

    def method(self: Quotient, other: Any) -> Any:
        made = plain(self, other)
        if type(made) is float and self.log.open:
            made = Quotient(made)
            made.log = self.log
        return made

    return method


for _name, _how in (_ARITHMETIC | _WHOLE).items():
    setattr(Seen, f"__{_name}__", _whole(_name, _how, False, _name in _ARITHMETIC))
    setattr(Seen, f"__r{_name}__", _whole(_name, _how, True, _name in _ARITHMETIC))
for _name, _how in _COMPARISONS.items():
    setattr(Seen, f"__{_name}__", _compared(_name, _how))
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "bool", "int", "trunc", "floor", "ceil", "round",
              "hash", "repr", "str", "format", "floordiv", "mod", "divmod"):
    setattr(Quotient, f"__{_name}__", _fixing(f"__{_name}__"))
for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow"):
    setattr(Quotient, f"__{_name}__", _chained(f"__{_name}__"))


def plain(x: Any) -> Any:
    """A number as Python's own."""
    t = type(x)
    return int.__int__(x) if t is Seen else float.__float__(x) if t is Quotient else x


def looked(x: Any) -> bool:
    """Whether a number, or one in a list, tuple or dict, is a size that was looked at."""
    t = type(x)
    if t is Seen or t is Quotient:
        return True
    if isinstance(x, (list, tuple)):
        return any(map(looked, x))
    if isinstance(x, dict):
        return any(map(looked, x.values()))
    return False


__all__ = ["Sizes", "Seen", "Quotient", "value", "plain", "looked", "user"]
