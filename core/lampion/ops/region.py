"""A strided region inside fresh zeros, and its counterpart that reads one.

Floor 3. `place` is the gradient of every view, `region` the gradient of `place`; neither is public.
"""

from __future__ import annotations

from ..base.meta import contiguous_strides, meta
from ..ir.kernel import Program
from ..runtime.lowering import Nest
from . import batch_rules
from .registry import kernel_op, view_op


def fill_call(out, value, *, slot=0, name="fill"):
    """The kernel call that writes one number into all of a dense output."""
    n = Nest(name, (out.span // out.dtype.itemsize,), compute=out.dtype)
    o = n.output(out, (1,))
    n.start()
    n.store(o, value)
    return n.call((slot,))


def copy_call(source, target, *, slots=(0, 1), strides=None, offset=0, shape=None, name="copy",
              start=None):
    """The kernel call that copies `source` (broadcast) into `target`, or into the part of it that
    `shape`, `strides` and `offset` (elements) describe; with `start`, the part of `source` of that
    shape from there on."""
    shape = target.shape if shape is None else shape
    n = Nest(name, shape, compute=target.dtype)
    o = n.output(target, target.strides if strides is None else strides)
    a = n.input(source, None if start is None else source.strides)
    n.start()
    value = a.at(n.of(start) + a.offset) if start else a()
    if offset:
        n.store_at(o, n.of(offset) + o.offset, value)
    else:
        n.store(o, value)
    return n.call(slots)


@kernel_op("input: T, size, strides, offset, fill=0")
class place:
    """A contiguous tensor of `size`, all `fill`, but for the region with these strides and offset
    (in elements, not overlapping), which holds `input`."""

    where = ()
    out = False
    batch = batch_rules.place

    def meta(input, size, strides, offset, fill):
        return [(input.dtype, size)]

    def lower(call):
        x, out = call.inputs[0], call.outputs[0]
        calls = [fill_call(out, call.fill)] if x.numel != out.numel else []
        if x.numel:
            calls.append(copy_call(x, out, shape=x.shape, strides=call.strides,
                                   offset=call.offset))
        if not calls:  # nothing to write
            calls = [fill_call(out, call.fill)]
        return Program(tuple(calls) if x.numel else tuple(calls) + (touch(x, out),))

    def vjp(ctx, g):
        m = ctx.meta("input")
        return (region.fn(g.contiguous(), m.shape, ctx.strides, ctx.offset),)

    def jvp(ctx, t):
        return place.fn(t, ctx.size, ctx.strides, ctx.offset)  # the fill does not move


def touch(x, out, slots=(0, 1)):
    """A call of no points that names the slot of an empty input."""
    return copy_call(x, meta(out.dtype, x.shape, None, out.device), shape=x.shape,
                     strides=contiguous_strides(x.shape), slots=slots)


@view_op("input: T, size, strides, offset")
class region:
    """A view given by strides and an offset from the input's first element (in elements)."""

    where = ()
    method = False

    def view(m, size, strides, offset):
        return size, strides, offset

    def vjp(ctx, g):
        m = ctx.meta("input")
        if not m.contiguous:
            raise RuntimeError("region is only differentiated on contiguous tensors")
        return place.fn(g, m.shape, ctx.strides, ctx.offset)


def place_like(g, m, rule, *args):
    """Gradient of the view `rule(meta, *args)` of an input of meta `m`: g inside zeros."""
    _, strides, offset = rule(meta(m.dtype, m.shape, None, m.device), *args)[:3]
    return place.fn(g, m.shape, tuple(strides), int(offset))

