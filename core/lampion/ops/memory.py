"""Copying, converting and filling: the ops that make or overwrite memory.

Floor 3.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.limits import check_fits
from ..base.meta import dense_strides_like
from ..runtime.lowering import Nest
from .registry import Attr, composite, elementwise, kernel_op


@elementwise(inplace=False, where=(), method=False)
def duplicate(input, *, contiguous: Attr = False):
    """A copy with its own memory; dense strides are kept unless `contiguous`."""
    return input


@elementwise(inplace=False, where=(), method=False, promote=lambda d, attrs: [attrs["dtype"]])
def convert(input, *, dtype: Attr, contiguous: Attr = False):
    """A copy converted to `dtype` (float to integer truncates, anything to bool is != 0)."""
    return input


@kernel_op("size, fill: S, *, dtype, device, strides=None")
class full:
    """A tensor of `size` filled with one number. dtype must be given here; the public `full`
    infers it."""

    where = ()
    differentiable = False

    def meta(size, fill, dtype, device, strides):
        return [(dtype, size, strides)]

    def lower(call):
        out = call.outputs[0]
        n = Nest("full", out.shape, compute=out.dtype)
        o = n.output(out, out.strides)
        integral = out.dtype.kind in "bui" and call.args["fill"] is not float
        value = n.scalar(dt.int64 if integral else dt.float64)
        n.start()
        n.store(o, value)
        return n.program()


@composite(method=True, out=False, samples="""
    f(2, 3)
    f(3, 4).transposed
    f(2, 3, 4).strided
    f(2, 3).expanded
    i(0, 3)
""")
def clone(input, *, memory_format=None):
    """A copy with its own memory; dense strides are kept unless a memory format is asked for."""
    wanted = getattr(memory_format, "name", "preserve")
    if wanted == "preserve":
        return duplicate.fn(input)
    if wanted == "contiguous":
        return duplicate.fn(input, contiguous=True)
    return channels_last(input, memory_format, always=True)


@composite(method=True, out=False, where=(), samples="""
    f(2, 3)
    f(3, 4).transposed
    f(2, 3).expanded
    b(2, 3).strided
""")
def contiguous(input, memory_format=None):
    """This tensor if it is contiguous (in the format), else a contiguous copy."""
    wanted = getattr(memory_format, "name", "contiguous")
    if wanted in ("contiguous", "preserve"):
        return input if input.meta.contiguous else duplicate.fn(input, contiguous=True)
    return channels_last(input, memory_format, always=False)


def channels_last(input, memory_format, always):
    """A copy (or the tensor itself) whose channel dim is innermost."""
    m = input.meta
    if m.ndim != memory_format.ndim:
        raise RuntimeError(f"required rank {memory_format.ndim} tensor to use "
                           f"{memory_format.name} format")
    order = (0, *range(2, m.ndim), 1)
    rows = input.permute(order)
    if rows.meta.contiguous and not always:
        return input
    back = (0, m.ndim - 1, *range(1, m.ndim - 1))
    return duplicate.fn(rows, contiguous=True).permute(back)


@composite(samples="""
    f(2, 3), 1.5
    f(3, 4).transposed, f()
    i(0, 2), 3
""")
def fill(input, value):
    """A tensor like `input` with one value (a number or a 0-d tensor) everywhere."""
    m = input.meta
    if type(value) in (bool, int, float) and input.node is None and not m.virtual:
        check_fits(value, m.dtype)
        return full.fn(m.shape, value, dtype=m.dtype, device=m.device,
                       strides=dense_strides_like(m.shape, m.strides))
    return duplicate.fn(input).fill_(value)
