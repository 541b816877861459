"""The geometry of batched matrix products, for backends with kernels of their own.

Floor 2; imports base and `lowering`. `problem` reads the operands of a contraction as one batch of
strided matrices with as few batch dims as memory allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..base.dtype import dtype
from ..base.meta import Meta
from .lowering import collapse


class Problem(NamedTuple):
    """c[..., m, n] = sum over k of a[..., m, k] b[..., k, n] (+ bias); strides in elements, one
    per batch dim and then two of the matrices."""

    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a: tuple[int, ...]
    b: tuple[int, ...]
    c: tuple[int, ...]
    dtype: dtype
    bias: tuple[int, ...] | None  # strides over the result of what is added to it

    def transposed(self) -> Problem:
        """The product of the transposed matrices in the other order: with a and b exchanged."""
        def turn(strides: tuple[int, ...]) -> tuple[int, ...]:
            return (*strides[:-2], strides[-1], strides[-2])

        return self._replace(m=self.n, n=self.m, a=turn(self.b), b=turn(self.a), c=turn(self.c),
                             bias=turn(self.bias) if self.bias else None)

    def merged(self) -> Problem:
        """The same product with batch dims merged that memory walks as one, and without those of
        size 1."""
        nb = len(self.batch)
        rows = [self.a, self.b, self.c, self.bias or (0,) * (nb + 2)]
        batch, steps = collapse(self.batch, [r[:nb] for r in rows])
        a, b, c, e = ((*s, *r[nb:]) for s, r in zip(steps, rows))
        return self._replace(batch=tuple(batch), a=a, b=b, c=c, bias=e if self.bias else None)

    def turned(self) -> Problem:
        """The transpose of the product: b^T a^T."""
        a, b, c, e = ((*x[:-2], x[-1], x[-2])
                      for x in (self.b, self.a, self.c, self.bias or (0, 0)))
        return self._replace(m=self.n, n=self.m, a=a, b=b, c=c, bias=e if self.bias else None)


def problem(a: Meta, b: Meta, c: Meta, bias: Sequence[int] | None = None) -> Problem:
    """The geometry of a product whose operands have the batch dims of `c`.

    Batches that share one b become rows of one matrix; batch dims that memory walks as one are
    merged, those of size 1 dropped.
    """
    nb = c.ndim - 2
    batch, m, n, k = c.shape[:nb], c.shape[-2], c.shape[-1], a.shape[-1]
    sa, sb, sc = (_batch_strides(x, nb) for x in (a, b, c))
    am = a.strides[-2]
    se = list(bias[:nb]) if bias is not None else [0] * nb
    em = bias[-2] if bias is not None else 0
    # rows of all batches in one matrix, if b is the same for all
    if nb and all(s == 0 or d == 1 for s, d in zip(sb, batch)):
        rows, sizes = m, list(batch)
        while sizes and (sizes[-1] == 1 or (sa[len(sizes) - 1] == rows * am
                                            and sc[len(sizes) - 1] == rows * c.strides[-2]
                                            and se[len(sizes) - 1] == rows * em)):
            rows *= sizes.pop()
        batch, m = batch[:len(sizes)], rows
    kept = len(batch)
    return Problem(tuple(batch), m, n, k, (*sa[:kept], *a.strides[-2:]),
                   (*sb[:kept], *b.strides[-2:]), (*sc[:kept], *c.strides[-2:]), c.dtype,
                   None if bias is None else (*se[:kept], *bias[-2:])).merged()


def _batch_strides(x: Meta, nb: int) -> list[int]:
    """Strides over the batch dims, 0 where `x` is broadcast."""
    own = x.shape[:-2]
    pad = nb - len(own)
    return [0] * pad + [0 if n == 1 else s for n, s in zip(own, x.strides[:-2])]


__all__ = ["Problem", "problem"]
