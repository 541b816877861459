"""Comparison, logic, bits and tests of numbers: elementwise ops.

Floor 3. None of these has a gradient.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..ir import expr as E
from ..ir.expr import by_type, select
from .arithmetic import REAL, sign_bit
from .checks import need_tensors
from .registry import composite, elementwise

TRUTH = {"promote": "bool"}


# ---------------------------------------------------------------- order

@elementwise(kinds=REAL, aliases=("less",), tensors=("input",), **TRUTH)
def lt(input, other):
    """input < other."""
    return input < other


@elementwise(kinds=REAL, aliases=("less_equal",), tensors=("input",), **TRUTH)
def le(input, other):
    """input <= other."""
    return input <= other


@elementwise(kinds=REAL, aliases=("greater",), tensors=("input",), **TRUTH)
def gt(input, other):
    """input > other."""
    return input > other


@elementwise(kinds=REAL, aliases=("greater_equal",), tensors=("input",), **TRUTH)
def ge(input, other):
    """input >= other."""
    return input >= other


@elementwise(tensors=("input",), **TRUTH)
def eq(input, other):
    """input == other, element by element."""
    return E.eq(input, other)


@elementwise(aliases=("not_equal",), tensors=("input",), **TRUTH)
def ne(input, other):
    """input != other, element by element."""
    return E.ne(input, other)


# ---------------------------------------------------------------- truth

@elementwise(tensors=("input", "other"), **TRUTH)
def logical_and(input, other):
    """Both not 0."""
    return E.ne(input, 0) & E.ne(other, 0)


@elementwise(tensors=("input", "other"), **TRUTH)
def logical_or(input, other):
    """One or both not 0."""
    return E.ne(input, 0) | E.ne(other, 0)


@elementwise(tensors=("input", "other"), **TRUTH)
def logical_xor(input, other):
    """Exactly one not 0."""
    return E.ne(input, 0) ^ E.ne(other, 0)


@elementwise(**TRUTH)
def logical_not(input):
    """Whether the element is 0."""
    return E.eq(input, 0)


# ---------------------------------------------------------------- bits

@elementwise(kinds="bui")
def bitwise_and(input, other):
    """The bits that both have."""
    return input & other


@elementwise(kinds="bui")
def bitwise_or(input, other):
    """The bits that one or both have."""
    return input | other


@elementwise(kinds="bui")
def bitwise_xor(input, other):
    """The bits that exactly one has."""
    return input ^ other


@elementwise(kinds="bui")
def bitwise_not(input):
    """All bits flipped (not x for bool)."""
    return ~input


@elementwise(kinds="ui")
def bitwise_left_shift(input, other):
    """input << other; 0 for shifts outside of the width."""
    return by_type(i=select(other < 0, 0, input << other), u=input << other)


@elementwise(kinds="ui")
def bitwise_right_shift(input, other):
    """input >> other, keeping the sign; shifts outside of the width leave only the sign."""
    return by_type(i=select(other < 0, select(input < 0, -1, 0), input >> other), u=input >> other)


# ---------------------------------------------------------------- tests of numbers

@elementwise(inplace=False, **TRUTH)
def isnan(input):
    """Whether the element is NaN (either part of a complex number)."""
    return by_type(f=E.isnan(input), c=E.isnan(E.real(input)) | E.isnan(E.imag(input)),
                   other=E.const(False))


def _infinite(x):
    return E.eq(E.abs_(x), math.inf)


@elementwise(inplace=False, **TRUTH)
def isinf(input):
    """Whether the element is infinite (either part of a complex number)."""
    return by_type(f=_infinite(input), c=_infinite(E.real(input)) | _infinite(E.imag(input)),
                   other=E.const(False))


@elementwise(inplace=False, **TRUTH)
def isfinite(input):
    """Whether the element is neither infinite nor NaN."""
    return by_type(f=E.abs_(input) < math.inf,
                   c=(E.abs_(E.real(input)) < math.inf) & (E.abs_(E.imag(input)) < math.inf),
                   other=E.const(True))


@elementwise(inplace=False, kinds=REAL, **TRUTH)
def isposinf(input):
    """Whether the element is +inf."""
    return by_type(f=E.eq(input, math.inf), other=E.const(False))


@elementwise(inplace=False, kinds=REAL, **TRUTH)
def isneginf(input):
    """Whether the element is -inf."""
    return by_type(f=E.eq(input, -math.inf), other=E.const(False))


@elementwise(inplace=False, **TRUTH)
def isreal(input):
    """Whether the imaginary part is 0."""
    return by_type(c=E.eq(E.imag(input), 0.0), other=E.const(True))


@elementwise(inplace=False, kinds=REAL, **TRUTH)
def signbit(input):
    """Whether the sign bit is set: negative numbers, -0.0, negative NaN."""
    return by_type(b=E.const(False), u=E.const(False), other=sign_bit(input))


@elementwise(where=(), method=False, inplace=False, kinds="fc", **TRUTH)
def isclose_strict(input, other, rtol, atol):
    """input == other, or |input - other| <= atol + |rtol * other| and the left side finite."""
    distance = E.abs_(input - other)
    near = distance <= by_type(c=E.real(atol), other=atol) + E.abs_(rtol * other)
    return E.eq(input, other) | (near & (distance < math.inf))


@composite(replay=True, method=True, out=False, differentiable=False, samples="""
    f(2, 3), f(3)
    v([1.0, nan, inf]), v([1.00001, nan, inf]), equal_nan=True
    v([1.0, nan, inf]), v([1.1, nan, -inf]), 0.2
    i(3), i(3), 0.5, 2
""")
def isclose(input, other, rtol=1e-05, atol=1e-08, equal_nan=False):
    """Whether |input - other| <= atol + rtol * |other|; infinities only equal themselves."""
    need_tensors("isclose", input=input, other=other)
    a, b = input.meta.dtype, other.meta.dtype
    if a is not b:
        from .plans import _word

        raise RuntimeError(f"{_word(a)} did not match {_word(b)}")
    if rtol < 0 or atol < 0:
        what, v = ("rtol", rtol) if rtol < 0 else ("atol", atol)
        raise RuntimeError(f"{what} must be greater than or equal to zero, but got {v}")
    if a.kind not in "fc":
        exact = eq.fn(input, other)
        input, other = input.to(dt.float64), other.to(dt.float64)
        return exact | isclose_strict.fn(input, other, float(rtol), float(atol))
    close = isclose_strict.fn(input, other, float(rtol), float(atol))
    return close | (isnan.fn(input) & isnan.fn(other)) if equal_nan else close


@composite(method=True, out=False, differentiable=False, samples="""
    v([1.0, 2]), v([1.0, 2.000001])
    v([1.0, nan]), v([1.0, nan])
    v([1.0, nan]), v([1.0, nan]), equal_nan=True
""")
def allclose(input, other, rtol=1e-05, atol=1e-08, equal_nan=False):
    """Whether all elements are close (see isclose): a Python bool."""
    return bool(isclose.fn(input, other, rtol, atol, equal_nan).all())


@composite(method=True, out=False, differentiable=False, samples="""
    f(2, 3), f(2, 3)
    v([1, 2]), v([1, 2])
    v([1, 2]), v([1])
""")
def equal(input, other):
    """Whether two tensors have the same shape and elements: a Python bool."""
    if input.meta.shape != other.meta.shape:
        return False
    return bool(eq.fn(input, other).all())


__all__ = ["lt", "eq"]
