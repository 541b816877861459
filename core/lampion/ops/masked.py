"""masked_fill, and the one-argument form of where.

Floor 3.
"""

from __future__ import annotations

import numbers

from ..base import dtype as dt
from ..base.limits import check_fits
from ..ir.expr import select
from .registry import REGISTRY, Scalar, composite, elementwise


@elementwise(where=(), method=False, inplace=True)
def masked_fill_number(input, mask: bool, value: Scalar):
    """input, with a number where mask holds."""
    return select(mask, value, input)


@masked_fill_number.grad
def _(g, out, input, mask, value):
    return select(mask, 0, g), None


def check_fill(input, mask, value):
    """The value as a number of the input's kind, or a 0-d tensor of its dtype."""
    if mask.meta.dtype is not dt.bool_:
        raise RuntimeError("masked_fill_ only supports boolean masks, but got mask with dtype "
                           f"{mask.meta.dtype!r}")
    d = input.meta.dtype
    if hasattr(value, "meta"):
        if value.meta.ndim:
            raise RuntimeError("masked_fill_ only supports a 0-dimensional value tensor, but got "
                               f"tensor with {value.meta.ndim} dimension(s).")
        if not dt.can_cast(value.meta.dtype, d):
            raise RuntimeError(f"value cannot be converted to type {d.name} without overflow")
        return value.to(input.meta.device, d)
    if isinstance(value, complex) and d.kind != "c":
        raise RuntimeError(f"value cannot be converted to type {d.name} without overflow")
    if isinstance(value, complex):
        return input.new_tensor(value)
    if not isinstance(value, numbers.Number):
        value = value.item()
    check_fits(value, d)
    return int(value) if d.kind in "ui" else value


@composite(replay=True, method=True, samples="""
    f(3, 4), b(3, 4), 2.0
    f(3, 4).transposed, b(4), f()
    i(5), b(5), 3
    b(3), b(3), True
    c(3), b(3), 1
    f(2, 1).fixed, b(3), -inf
    f(0), b(0), 1
""")
def masked_fill(input, mask, value):
    """`input` with one value where mask (broadcast) is True.

    >>> masked_fill(tensor([1., 2.]), tensor([True, False]), 0).tolist()
    [0.0, 2.0]
    """
    value = check_fill(input, mask, value)
    if hasattr(value, "meta"):
        return REGISTRY["where"].fn(mask, value, input)
    return masked_fill_number.fn(input, mask, value)


@composite(method=True, out=False, where=(), name="masked_fill_", samples="""
    f(3, 4), b(3, 4), 2.0
    f(3, 4).transposed, b(4), f()
    i(5).strided, b(5), 3
""")
def masked_fill_inplace(input, mask, value):
    """In-place `masked_fill`."""
    value = check_fill(input, mask, value)
    if hasattr(value, "meta"):
        if value.node is None and not value.meta.virtual:
            value = value.item()
        else:
            return input.copy_(REGISTRY["where"].fn(mask, value, input))
    return masked_fill_number.ifn(input, mask, value)
