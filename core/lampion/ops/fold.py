"""unfold and fold: all windows of images as columns, and their sum back into images; and the sum
of the windows along one dim, which is the gradient of `Tensor.unfold`.

Floor 3. The kernels of a pair are each other's gradients. Sums gather: a pixel looks at the
windows that hold it.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..ir import expr as E
from ..runtime.lowering import Nest, convert
from . import batch_rules
from .registry import composite, kernel_op
from .windows import _int, _over, _read


def _sizes(space, kernel, stride, padding, dilation):
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1
                 for n, k, s, p, d in zip(space, kernel, stride, padding, dilation))


@kernel_op("input: T, kernel, stride, padding, dilation")
class im2col:
    """(n, c, h, w) to (n, c * kernel, windows)."""

    linear = ("input",)
    where = ()
    out = False
    batch = batch_rules.merging

    def meta(input, kernel, stride, padding, dilation):
        n, c, *space = input.shape
        out = _sizes(space, kernel, stride, padding, dilation)
        return [(input.dtype, (n, c * math.prod(kernel), math.prod(out)))]

    def lower(call):
        x, y = call.input, call.outputs[0]
        space, (kh, kw) = x.shape[2:], call.kernel
        oh, ow = _sizes(space, call.kernel, call.stride, call.padding, call.dilation)
        n = Nest("im2col", (*x.shape[:2], kh, kw, oh, ow), compute=y.dtype, merge=False)
        a, b, c = y.strides
        o = n.output(y, (a, kh * kw * b, kw * b, b, ow * c, c))
        v = n.buffer(x)
        n.start()
        at = n.coord(0) * _int(x.strides[0]) + n.coord(1) * _int(x.strides[1])
        mask = None
        for r in range(2):
            spot = n.coord(4 + r) * _int(call.stride[r]) + n.coord(2 + r) * _int(
                call.dilation[r]) - _int(call.padding[r])
            at = at + spot * _int(x.strides[2 + r])
            if call.padding[r]:
                here = (spot >= _int(0)) & (spot < _int(space[r]))
                mask = here if mask is None else mask & here
        n.store(o, _read(v, at, mask, 0))
        return n.program()

    def vjp(ctx, g):
        m = ctx.meta("input")
        return (col2im.fn(g, m.shape[2:], ctx.kernel, ctx.stride, ctx.padding, ctx.dilation),)


@kernel_op("input: T, size, kernel, stride, padding, dilation")
class col2im:
    """(n, c * kernel, windows) summed into (n, c, *size)."""

    linear = ("input",)
    where = ()
    out = False
    batch = batch_rules.merging

    def meta(input, size, kernel, stride, padding, dilation):
        n, rows, _ = input.shape
        return [(input.dtype, (n, rows // math.prod(kernel), *size))]

    def lower(call):
        x, y = call.input, call.outputs[0]
        kh, kw = call.kernel
        out = _sizes(call.size, call.kernel, call.stride, call.padding, call.dilation)
        acc = dt.opmath(y.dtype)
        n = Nest("col2im", (*y.shape, kh, kw), [4, 5], compute=acc, merge=False)
        o = n.output(y, (*y.strides, 0, 0))
        v = n.buffer(x)
        n.start()
        a, b, c = x.strides
        at = n.coord(0) * _int(a) + (n.coord(1) * _int(kh * kw) + n.coord(4) * _int(kw)
                                     + n.coord(5)) * _int(b)
        mask, column = None, _int(0)
        for r in range(2):
            s = call.stride[r]
            t = n.coord(2 + r) + _int(call.padding[r]) - n.coord(4 + r) * _int(call.dilation[r])
            spot = _over(E.maximum(t, _int(0)), s)
            here = (t >= _int(0)) & E.eq(t, spot * _int(s)) & (spot < _int(out[r]))
            mask = here if mask is None else mask & here
            column = column * _int(out[r]) + spot
        value = v.at(at + column * _int(c), mask=mask, other=0)
        n.store(o, n.reduce("sum", convert(n.typed(value), acc)), inner=False)
        return n.program()

    def vjp(ctx, g):
        return (im2col.fn(g, ctx.kernel, ctx.stride, ctx.padding, ctx.dilation),)


@kernel_op("input: T, length, step")
class overlap_add:
    """(..., windows, size) to (..., length): each window added in `step` after the one before."""

    where = ()
    out = False
    batch = ""

    samples = """
        f(2, 4, 6), 14, 2
        f(3, 2, dtype=float64), 11, 4
        c(2, 3, 5), 7, 1
    """

    def meta(input, length, step):
        return [(input.dtype, (*input.shape[:-2], length))]

    def lower(call):
        x, y, step = call.input, call.outputs[0], call.step
        windows, size = x.shape[-2:]
        acc, last = dt.opmath(y.dtype), y.ndim - 1
        n = Nest("overlap_add", (*y.shape, -(-size // step)), [y.ndim], compute=acc, merge=False)
        o, v = n.output(y, (*y.strides, 0)), n.input(x, (*x.strides[:-2], 0, 0))
        n.start()
        t = n.coord(last)
        window = _over(t, step) - n.coord(y.ndim)
        k = t - window * _int(step)
        here = (window >= _int(0)) & (window < n.of(windows)) & (k < n.of(size))
        at = v.offset + window * n.params.stride(x.strides[-2]) + k * n.params.stride(
            x.strides[-1])
        value = v.at(at, mask=here, other=0)
        n.store(o, n.reduce("sum", convert(n.typed(value), acc)), inner=False)
        return n.program()

    def vjp(ctx, g):
        windows, size = ctx.meta("input").shape[-2:]
        used = (windows - 1) * ctx.step + size if windows else 0
        return (g.narrow(-1, 0, used).unfold(-1, size, ctx.step)
                if windows else g.new_zeros(ctx.meta("input").shape),)


def _pairs(*values):
    return tuple((v, v) if isinstance(v, int) else tuple(v) for v in values)


def _check(name, kernel, stride, padding, dilation):
    for what, v, low in (("kernel size", kernel, 1), ("stride", stride, 1),
                         ("dilation", dilation, 1), ("padding", padding, 0)):
        if len(v) != 2:
            raise RuntimeError(f"{name}: It is expected {what.replace(' ', '_')} equals to 2, but "
                               f"got size {len(v)}")
        if any(n < low for n in v):
            word = "greater than zero" if low else "non-negative"
            raise RuntimeError(f"{what} should be {word}, but got {list(v)}")


@composite(where=("nn.functional",), out=False, name="unfold_windows",
           aliases=("unfold",), samples="""
    f(2, 3, 5, 4), 2
    f(1, 2, 5, 6).transposed, (2, 3), 2, 1, (1, 2)
    f(2, 4, 4), 3
""")
def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    """All windows of (N, C, H, W) as columns: (N, C * kernel, windows); (C, H, W) likewise."""
    kernel, dilation, padding, stride = _pairs(kernel_size, dilation, padding, stride)
    _check("im2col", kernel, stride, padding, dilation)
    m = input.meta
    if m.ndim not in (3, 4) or 0 in m.shape[m.ndim - 3:]:
        raise RuntimeError("Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and "
                           f"other non-zero dimensions for input, but got: {list(m.shape)}")
    out = _sizes(m.shape[-2:], kernel, stride, padding, dilation)
    if min(out) < 1:
        raise RuntimeError(
            f"Given input with spatial size {tuple(m.shape[-2:])}, kernel_size={kernel}, "
            f"dilation={dilation}, padding={padding}, calculated shape of the array of sliding "
            f"blocks as {out}, but its components must be at least one.")
    if m.ndim == 3:
        return im2col.fn(input.unsqueeze(0), kernel, stride, padding, dilation).squeeze(0)
    return im2col.fn(input, kernel, stride, padding, dilation)


@composite(where=("nn.functional",), out=False, replay=True, samples="""
    f(2, 12, 12), (5, 4), 2
    f(1, 6, 6), (4, 5), (1, 3), padding=(0, 1), stride=(2, 2)
    f(4, 9), 4, 2
""")
def fold(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """The sum of windows back into images: (N, C * kernel, windows) to (N, C, *output_size)."""
    size, kernel, dilation, padding, stride = _pairs(output_size, kernel_size, dilation, padding,
                                                     stride)
    _check("col2im", kernel, stride, padding, dilation)
    m = input.meta
    if m.ndim not in (2, 3):
        raise RuntimeError("Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch "
                           f"size and non-zero dimensions for input, but got: {list(m.shape)}")
    if m.shape[-2] % math.prod(kernel):
        raise RuntimeError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, "
            f"but got input.size(1)={m.shape[-2]} and kernel_size={kernel}.")
    count = math.prod(_sizes(size, kernel, stride, padding, dilation))
    if m.shape[-1] != count:
        raise RuntimeError(
            f"Given output_size={size}, kernel_size={kernel}, dilation={dilation}, "
            f"padding={padding}, stride={stride}, expected size of input's dimension 2 to match "
            f"the calculated number of sliding blocks {count}, but got input.size(2)="
            f"{m.shape[-1]}.")
    if m.ndim == 2:
        return col2im.fn(input.unsqueeze(0), size, kernel, stride, padding, dilation).squeeze(0)
    return col2im.fn(input, size, kernel, stride, padding, dilation)
