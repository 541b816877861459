"""Copying, converting and filling: the ops that make or overwrite memory.

Floor 3.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..runtime.lowering import Nest
from .registry import Attr, elementwise, kernel_op


@elementwise(inplace=False, where=(), method=False)
def duplicate(input, *, contiguous: Attr = False):
    """A copy with its own memory; dense strides are kept unless `contiguous`."""
    return input


@elementwise(inplace=False, where=(), method=False, promote=lambda d, attrs: [attrs["dtype"]])
def convert(input, *, dtype: Attr, contiguous: Attr = False):
    """A copy converted to `dtype` (float to integer truncates, anything to bool is != 0)."""
    return input


@kernel_op("size, fill: S, *, dtype, device")
class full:
    """A tensor of `size` filled with one number. dtype must be given here; the public `full`
    infers it."""

    where = ()
    differentiable = False

    def meta(size, fill, dtype, device):
        return [(dtype, size)]

    def lower(call):
        out = call.outputs[0]
        n = Nest("full", out.shape, compute=out.dtype)
        o = n.output(out, out.strides)
        value = n.scalar(dt.float64)
        n.start()
        n.store(o, value)
        return n.program()
