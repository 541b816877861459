"""Checks for what compiles kernels: values that find mistakes, and comparison to the last bit.

Floor 7; imports base, ir. A backend's tests run a kernel and `lampion.ir.interpret` on the same
values and compare with `same`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base import dtype as dt
from ..base.dtype import dtype
from ..ir import expr as E


def sample(rng: np.random.Generator, d: dtype, n: int, kind: str = "mixed") -> Any:
    """`n` values of a dtype. "mixed" starts with special ones (NaN, infinities, both zeros, the
    ends of an integer's range) and is wild; "small" has small ones only."""
    if d.kind == "b":
        return rng.integers(0, 2, n).astype(bool)
    if d.kind in "iu":
        info = np.iinfo(d.np)
        small = rng.integers(-9 if d.kind == "i" else 0, 10, n).astype(d.np)
        if kind == "small":
            return small
        wild = rng.integers(int(info.min), int(info.max), n, endpoint=True,
                            dtype=np.uint64 if d is dt.uint64 else np.int64).astype(d.np)
        out = np.where(rng.random(n) < 0.5, small, wild)
        edges = np.array([0, 1, int(info.min), int(info.max)], d.np)
        out[:min(n, 4)] = edges[:min(n, 4)]
        return out
    out = rng.standard_normal(n) * (1 if kind == "small" else 10)
    if kind == "mixed":
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 1.5, -2.5, 1e-42, 1e30])
        out[:min(n, 10)] = special[:min(n, 10)]
    with np.errstate(all="ignore"):
        return out.astype(d.np)


def same(got: Any, want: Any, ulps: float = 0, where: object = "") -> None:
    """AssertionError unless equal bit for bit (NaN equals NaN, 0 equals -0), or within some ulps.
    `where` is said in the error."""
    got, want = np.asarray(got), np.asarray(want)
    if got.dtype.kind not in "biu":
        if got.dtype.itemsize == 2:
            got, want = got.astype(np.float32), want.astype(np.float32)
        with np.errstate(all="ignore"):
            near = np.abs(got.astype(np.longdouble) - want) <= ulps * np.spacing(np.abs(want))
            ok = (np.isnan(got) & np.isnan(want)) | (got == want) | near
    else:
        ok = got == want
    bad = np.flatnonzero(~ok)
    if len(bad):
        raise AssertionError((where, bad[:5], got.ravel()[bad[:5]], want.ravel()[bad[:5]]))


def typed(e: Any, d: dtype) -> E.Expr:
    """An expression with its types fixed, numbers as `d`."""
    return E.typed([E.wrap(e)], {}, d)[0]


def ix(e: Any) -> E.Expr:
    """An index expression."""
    return typed(e, dt.int64)


__all__ = ["sample", "same", "typed", "ix"]
