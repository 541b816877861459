"""How a product is laid out for cuBLASLt: as matrices with columns in memory.

A row-major product D = A B is asked for as D^T = B^T A^T. What the library has no layout for is
copied first. Imports lampion's floors 0-2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from lampion.base.meta import contiguous_strides
from lampion.runtime.products import Problem

CALL = 3e-6       # seconds that one more call takes, about
BANDWIDTH = 2e12  # bytes a second of a copy, about


class Matrix(NamedTuple):
    """How the library sees a matrix: columns in memory, `ld` elements apart, `turned` if that is
    the transpose of what is meant."""

    rows: int
    columns: int
    ld: int
    turned: bool


def by_columns(rows: int, columns: int, row: int, column: int) -> Matrix | None:
    """A matrix with these strides, or None if the library has no layout for it.

    >>> by_columns(3, 2, 1, 3)
    Matrix(rows=3, columns=2, ld=3, turned=False)
    >>> by_columns(3, 2, 2, 1)
    Matrix(rows=2, columns=3, ld=2, turned=True)
    >>> by_columns(3, 2, 4, 2) is None
    True
    """
    for r, c, one, ld, turned in ((rows, columns, row, column, False),
                                  (columns, rows, column, row, True)):
        if one == 1 or r == 1:
            if c == 1:
                ld = r
            if ld >= r:
                return Matrix(r, c, ld, turned)
    return None


class Operands(NamedTuple):
    """A product D = X Y as the library is asked for it. `x` and `y` say which input each is (0 or
    1); strides of the batch dims are kept beside."""

    x: int
    y: int
    left: Matrix
    right: Matrix
    result: Matrix


def arrange(p: Problem) -> Operands | None:
    """D^T = B^T A^T for a result with rows in memory, D = A B for one with columns."""
    (am, ak), (bk, bn), (cm, cn) = p.a[-2:], p.b[-2:], p.c[-2:]
    for x, y, result, left, right in (
            (1, 0, by_columns(p.n, p.m, cn, cm), by_columns(p.n, p.k, bn, bk),
             by_columns(p.k, p.m, ak, am)),
            (0, 1, by_columns(p.m, p.n, cm, cn), by_columns(p.m, p.k, am, ak),
             by_columns(p.k, p.n, bk, bn))):
        if result is not None and not result.turned and left and right:
            return Operands(x, y, left, right, result)
    return None


def packed(p: Problem, which: str) -> Problem:
    """The problem with operand `which` ("a" or "b") copied into dense memory, where a batch dim
    over which it is the same takes no room."""
    shape, own, nb = operand_shape(p, which), getattr(p, which), len(p.batch)
    room = [1 if d < nb and s == 0 else n for d, (n, s) in enumerate(zip(shape, own))]
    dense = contiguous_strides(room)
    return p._replace(**{which: tuple(0 if d < nb and own[d] == 0 else s
                                      for d, s in enumerate(dense))})


def operand_shape(p: Problem, which: str) -> tuple[int, ...]:
    """Batch dims, rows and columns of operand "a" or "b"."""
    return (*p.batch, p.m, p.k) if which == "a" else (*p.batch, p.k, p.n)


def prepare(p: Problem) -> tuple[Problem, tuple[str, ...]] | None:
    """The problem as the library can solve it, and the operands to copy first for that: those
    without a layout, and those whose batch dims would take more calls than the copy is worth.
    None if the result has no layout."""
    best: tuple[float, Problem, tuple[str, ...]] | None = None
    for names in ((), ("a",), ("b",), ("a", "b")):
        q, cost = p, 0.0
        for name in names:
            q = packed(q, name)
            room = math.prod(n for n, s in zip(operand_shape(p, name), getattr(p, name)) if s)
            cost += CALL + 2 * room * p.dtype.itemsize / BANDWIDTH
        q = q.merged()
        if arrange(q) is not None:
            cost += CALL * (math.prod(q.batch) // max(q.batch, default=1))
            if best is None or cost < best[0]:
                best = cost, q, names
    return None if best is None else best[1:]


def additions(q: Problem, o: Operands) -> list[tuple[str, Matrix | None]]:
    """Ways to add the bias, best first: as the vector of an epilogue, as the matrix C, or copied
    into the result, to which the product is then added."""
    if q.bias is None:
        return [("", None)]
    row, column = q.bias[-2:] if o.x == 0 else q.bias[:-3:-1]
    rows, columns = o.result.rows, o.result.columns
    found: list[tuple[str, Matrix | None]] = []
    if not any(q.bias[:-2]) and (column == 0 or columns == 1) and (row == 1 or rows == 1) \
            and q.dtype.kind == "f":
        found.append(("vector", None))
    else:
        source = by_columns(rows, columns, row, column)
        if source is not None and not source.turned:
            found.append(("matrix", source))
    return [*found, ("copy", None)]
