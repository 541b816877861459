"""Convolutions: three bilinear kernels that are each other's gradients, and PyTorch's functions.

Floor 3. `conv_forward` makes the result of an input and a weight, `conv_backward_data` an input of
a result and a weight, `conv_backward_weight` a weight of an input and a result. Each has a direct
loop nest for any number of space dims; the gradient of each is made of the other two, to any order.
A transposed convolution is `conv_backward_data`. conv1d, conv2d and conv3d plan as `conv_forward`.
"""

from __future__ import annotations

from functools import lru_cache

from ..base import dtype as dt
from ..base.meta import meta
from ..ir import expr as E
from ..ir.kernel import Program
from ..runtime.backend import OpCall
from ..runtime.lowering import Nest, channel_sums, convert
from . import batch_rules
from .contract import check_dtypes, conj
from .registry import REGISTRY, composite, kernel_op

# ---------------------------------------------------------------- sizes and layouts

def channels_last_strides(shape):
    """Strides of (batch, channels, *space) with the channels innermost."""
    strides, step = [0] * len(shape), 1
    for d in (1, *range(len(shape) - 1, 1, -1), 0):
        strides[d] = step
        step *= max(shape[d], 1)
    return tuple(strides)


def result_strides(shape, *metas):
    """Channels-last strides if an operand has them (as PyTorch's convolutions do), else None."""
    if len(shape) not in (4, 5):
        return None
    for m in metas:
        if m.ndim == len(shape) and not m.contiguous \
                and m.strides == channels_last_strides(m.shape):
            return channels_last_strides(shape)
    return None


def out_sizes(space, kernel, stride, left, right, dilation):
    """Output sizes of a convolution along its space dims."""
    return tuple((n + a + b - d * (k - 1) - 1) // s + 1 for n, k, s, a, b, d in zip(
        space, kernel, stride, left, right, dilation))


def exact_right(out, space, kernel, stride, left, dilation):
    """Right paddings with which the output sizes come out as `out`."""
    return tuple((o - 1) * s + d * (k - 1) + 1 - n - a for o, n, k, s, a, d in zip(
        out, space, kernel, stride, left, dilation))


# ---------------------------------------------------------------- the three kernels

class _Loops:
    """Loop variables and element offsets that the three nests share.

    Built over dims of the nest by name; `spot` is where an output position and a kernel position
    meet in the input.
    """

    def __init__(self, name, sizes, inner, acc):
        self.names = list(sizes)
        self.n = Nest(name, list(sizes.values()), [self.names.index(k) for k in inner],
                      compute=acc, merge=False)
        self.acc = acc

    def __getitem__(self, name):
        return self.n.coord(self.names.index(name))

    def strides(self, **by_name):
        """Strides over the nest's dims, 0 for those not named."""
        return tuple(by_name.get(k, 0) for k in self.names)

    def times(self, e, n):
        """e * n, n a parameter of the kernel: one kernel serves all sizes."""
        return e * self.n.params.stride(n)

    def offset(self, m, first, second, spots):
        """Element offset of (first, second, *spots) in a tensor of meta `m`."""
        total = self.times(first, m.strides[0]) + self.times(second, m.strides[1])
        for spot, s in zip(spots, m.strides[2:]):
            total = total + self.times(spot, s)
        return total

    def inside(self, spot, n):
        """Whether a position is one of n."""
        return (spot >= _int(0)) & (spot < self.n.of(n))


def _times(e, n):
    return e * E.const(n, dt.int64)


def _int(n):
    return E.const(n, dt.int64)


def _input_spots(loops, rank, space, kernel, out, stride, left, dilation):
    """(positions in the input, mask) for output o0.. and kernel k0.. coordinates."""
    spots, mask = [], None
    for r in range(rank):
        spots.append(_times(loops[f"o{r}"], stride[r]) + _times(loops[f"k{r}"], dilation[r])
                     - _int(left[r]))
        reach = (out[r] - 1) * stride[r] + (kernel[r] - 1) * dilation[r] - left[r]
        if left[r] > 0 or reach >= space[r]:
            here = loops.inside(spots[r], space[r])
            mask = here if mask is None else mask & here
    return spots, mask


def _read(operand, index, mask, acc):
    return convert(operand.at(index) if mask is None else operand.at(index, mask=mask), acc)


@kernel_op("input: T, weight: T, bias: T?, stride, padding, right, dilation, groups")
class conv_forward:
    """Cross-correlation of (n, c, *space) with (o, c / groups, *kernel). `padding` and `right` are
    the zeros before and after each space dim; all geometry is one number per dim."""

    linear = ("input bias", "weight")
    where = ()
    out = False
    save = ("input", "weight")
    batch = batch_rules.convolution_forward

    def meta(input, weight, bias, stride, padding, right, dilation, groups):
        space = out_sizes(input.shape[2:], weight.shape[2:], stride, padding, right, dilation)
        shape = (input.shape[0], weight.shape[0], *space)
        return [(input.dtype, shape, result_strides(shape, input, weight))]

    def lower(call):
        x, w, y = call.input, call.weight, call.outputs[0]
        rank, groups, acc = x.ndim - 2, call.groups, dt.opmath(y.dtype)
        per, cg = w.shape[0] // groups, w.shape[1]
        sizes = {"n": x.shape[0], "g": groups, "o": per}
        sizes |= {f"o{r}": y.shape[2 + r] for r in range(rank)} | {"c": cg}
        sizes |= {f"k{r}": w.shape[2 + r] for r in range(rank)}
        inner = ["c", *(f"k{r}" for r in range(rank))]
        loops = _Loops("conv_forward", sizes, inner, acc)
        n, space = loops.n, {f"o{r}": y.strides[2 + r] for r in range(rank)}
        o = n.output(y, loops.strides(n=y.strides[0], g=per * y.strides[1], o=y.strides[1],
                                      **space))
        a = n.buffer(x)
        b = n.input(w, loops.strides(g=per * w.strides[0], o=w.strides[0], c=w.strides[1],
                                     **{f"k{r}": w.strides[2 + r] for r in range(rank)}))
        extra = None
        if call.bias is not None:
            s = call.bias.strides[0]
            extra = n.input(call.bias, loops.strides(g=per * s, o=s))
        n.start()
        spots, mask = _input_spots(loops, rank, x.shape[2:], w.shape[2:], y.shape[2:],
                                   call.stride, call.padding, call.dilation)
        at = loops.offset(x, loops["n"], loops.times(loops["g"], cg) + loops["c"], spots)
        total = n.reduce("sum", _read(a, at, mask, acc) * convert(b(), acc))
        n.store(o, total if extra is None else total + extra.outer(), inner=False)
        return n.program()

    def vjp(ctx, g):
        x, w = ctx.input, ctx.weight
        kernel, space = w.meta.shape[2:], x.meta.shape[2:]
        rest = (ctx.stride, ctx.padding, ctx.dilation, ctx.groups)
        gx = gw = gb = None
        if ctx.needs("input"):
            gx = conv_backward_data.fn(g, conj(w), *rest, space)
        bias = ctx.meta("bias") is not None and ctx.needs("bias")
        if ctx.needs("weight"):
            if bias:
                gw, gb = conv_backward_weight_bias.fn(conj(x), g, *rest, kernel)
            else:
                gw = conv_backward_weight.fn(conj(x), g, *rest, kernel)
        elif bias:
            gb = g.sum((0, *range(2, g.meta.ndim)))
        return gx, gw, gb


@kernel_op("grad: T, weight: T, stride, padding, dilation, groups, size")
class conv_backward_data:
    """Gradient of `conv_forward` for its input, of space `size`: also the transposed
    convolution."""

    linear = ("grad", "weight")
    where = ()
    out = False
    save = ("grad", "weight")
    batch = batch_rules.convolution_data

    def meta(grad, weight, stride, padding, dilation, groups, size):
        shape = (grad.shape[0], weight.shape[1] * groups, *size)
        return [(grad.dtype, shape, result_strides(shape, grad, weight))]

    def lower(call):
        g, w, x = call.grad, call.weight, call.outputs[0]
        rank, groups, acc = x.ndim - 2, call.groups, dt.opmath(x.dtype)
        per, cg = w.shape[0] // groups, w.shape[1]
        sizes = {"n": x.shape[0], "g": groups, "c": cg}
        sizes |= {f"i{r}": x.shape[2 + r] for r in range(rank)} | {"o": per}
        sizes |= {f"k{r}": w.shape[2 + r] for r in range(rank)}
        loops = _Loops("conv_backward_data", sizes, ["o", *(f"k{r}" for r in range(rank))], acc)
        n = loops.n
        o = n.output(x, loops.strides(n=x.strides[0], g=cg * x.strides[1], c=x.strides[1],
                                      **{f"i{r}": x.strides[2 + r] for r in range(rank)}))
        a = n.buffer(g)
        b = n.input(w, loops.strides(g=per * w.strides[0], o=w.strides[0], c=w.strides[1],
                                     **{f"k{r}": w.strides[2 + r] for r in range(rank)}))
        n.start()
        spots, mask = [], None
        for r in range(rank):
            k, d, s = w.shape[2 + r], call.dilation[r], call.stride[r]
            t = loops[f"i{r}"] + _int(call.padding[r]) - _times(loops[f"k{r}"], d)
            spot = t if s == 1 else E.idiv(t, _int(s))
            here = (t >= _int(0)) & (spot < n.of(g.shape[2 + r]))
            if s > 1:
                here = here & E.eq(t, _times(spot, s))
            if not (k == 1 and s == 1 and not call.padding[r]):
                mask = here if mask is None else mask & here
            spots.append(spot)
        at = loops.offset(g, loops["n"], loops.times(loops["g"], per) + loops["o"], spots)
        n.store(o, n.reduce("sum", _read(a, at, mask, acc) * convert(b(), acc)), inner=False)
        return n.program()

    def vjp(ctx, g):
        y, w = ctx.grad, ctx.weight
        kernel, space = w.meta.shape[2:], g.meta.shape[2:]
        right = exact_right(y.meta.shape[2:], space, kernel, ctx.stride, ctx.padding,
                            ctx.dilation)
        gy = gw = None
        if ctx.needs("grad"):
            gy = conv_forward.fn(g, conj(w), None, ctx.stride, ctx.padding, right, ctx.dilation,
                                 ctx.groups)
        if ctx.needs("weight"):
            gw = conv_backward_weight.fn(g, conj(y), ctx.stride, ctx.padding, ctx.dilation,
                                         ctx.groups, kernel)
        return gy, gw


def _weight_meta(input, grad, stride, padding, dilation, groups, kernel):
    shape = (grad.shape[1], input.shape[1] // groups, *kernel)
    return input.dtype, shape, result_strides(shape, input, grad)


def _weight_call(call, slots):
    """The nest of the weight gradient, bound to the program slots (out, input, grad)."""
    x, g, w = call.input, call.grad, call.outputs[0]
    rank, groups, acc = x.ndim - 2, call.groups, dt.opmath(w.dtype)
    per, cg = w.shape[0] // groups, w.shape[1]
    sizes = {"g": groups, "o": per, "c": cg} | {f"k{r}": w.shape[2 + r] for r in range(rank)}
    sizes |= {"n": x.shape[0]} | {f"o{r}": g.shape[2 + r] for r in range(rank)}
    loops = _Loops("conv_backward_weight", sizes, ["n", *(f"o{r}" for r in range(rank))], acc)
    n = loops.n
    o = n.output(w, loops.strides(g=per * w.strides[0], o=w.strides[0], c=w.strides[1],
                                  **{f"k{r}": w.strides[2 + r] for r in range(rank)}))
    a = n.buffer(x)
    b = n.input(g, loops.strides(n=g.strides[0], g=per * g.strides[1], o=g.strides[1],
                                 **{f"o{r}": g.strides[2 + r] for r in range(rank)}))
    n.start()
    spots, mask = _input_spots(loops, rank, x.shape[2:], w.shape[2:], g.shape[2:], call.stride,
                               call.padding, call.dilation)
    at = loops.offset(x, loops["n"], loops.times(loops["g"], cg) + loops["c"], spots)
    n.store(o, n.reduce("sum", _read(a, at, mask, acc) * convert(b(), acc)), inner=False)
    return n.call(slots)


def _weight_vjp(ctx, g):
    """Gradients of the weight gradient for its input and its output gradient."""
    x, y = ctx.input, ctx.grad
    right = exact_right(y.meta.shape[2:], x.meta.shape[2:], g.meta.shape[2:], ctx.stride,
                        ctx.padding, ctx.dilation)
    gx = gy = None
    if ctx.needs("input"):
        gx = conv_backward_data.fn(conj(y), g, ctx.stride, ctx.padding, ctx.dilation, ctx.groups,
                                   x.meta.shape[2:])
    if ctx.needs("grad"):
        gy = conv_forward.fn(conj(x), g, None, ctx.stride, ctx.padding, right, ctx.dilation,
                             ctx.groups)
    return gx, gy


@kernel_op("input: T, grad: T, stride, padding, dilation, groups, kernel")
class conv_backward_weight:
    """Gradient of `conv_forward` for its weight, whose space is `kernel`."""

    linear = ("input", "grad")
    where = ()
    out = False
    save = ("input", "grad")
    vjp = _weight_vjp
    batch = batch_rules.convolution_weight

    def meta(*args):
        return [_weight_meta(*args)]

    def lower(call):
        return Program((_weight_call(call, (0, 1, 2)),))


@kernel_op("input: T, grad: T, stride, padding, dilation, groups, kernel")
class conv_backward_weight_bias:
    """Gradients of `conv_forward` for its weight and its bias."""

    where = ()
    out = False
    noutputs = 2
    save = ("input", "grad")
    batch = batch_rules.convolution_weight

    def meta(input, grad, *geometry):
        return [_weight_meta(input, grad, *geometry), (grad.dtype, grad.shape[1:2])]

    def lower(call):
        return Program((_weight_call(call, (0, 2, 3)),
                        channel_sums(call.grad, call.outputs[1], (1, 3))))

    def vjp(ctx, g, g_bias):
        gx, gy = _weight_vjp(ctx, g)
        if ctx.needs("grad"):
            gy = gy + g_bias.reshape(-1, *(1,) * (gy.meta.ndim - 2))
        return gx, gy


# ---------------------------------------------------------------- PyTorch's functions

def tupled(value, rank, what, op):
    """One number per space dim, from a number or a sequence of 1 or `rank` numbers."""
    if isinstance(value, int):
        return (value,) * rank
    value = tuple(int(v) for v in value)
    if len(value) == 1:
        return value * rank
    if len(value) != rank:
        raise RuntimeError(f"expected {what} to be a single integer value or a list of {rank} "
                           f"values to match the convolution dimensions, but got {what}="
                           f"{list(value)}")
    return value


@lru_cache(4096)
def geometry(op, rank, kernel, stride, padding, dilation):
    """(stride, left padding, right padding, dilation), one number per space dim each."""
    stride = tupled(stride, rank, "stride", op)
    dilation = tupled(dilation, rank, "dilation", op)
    if isinstance(padding, str):
        if padding == "valid":
            left = right = (0,) * rank
        elif padding == "same":
            if any(s != 1 for s in stride):
                raise RuntimeError("padding='same' is not supported for strided convolutions")
            total = [d * (k - 1) for d, k in zip(dilation, kernel)]
            left = tuple(t // 2 for t in total)
            right = tuple(t - t // 2 for t in total)
        else:
            raise RuntimeError(f"Invalid padding string: '{padding}'")
    else:
        left = right = tupled(padding, rank, "padding", op)
    if any(p < 0 for p in left):
        raise RuntimeError("negative padding is not supported")
    if any(s <= 0 for s in stride):
        raise RuntimeError("non-positive stride is not supported")
    if any(d <= 0 for d in dilation):
        raise RuntimeError("dilation should be greater than zero")
    return stride, left, right, dilation


def check_conv(op, rank, x, w, bias, groups):
    """PyTorch's checks of ranks, dtypes and channels (of a forward convolution)."""
    if x.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to "
                           f"{op}, but got input of size: {list(x.shape)}")
    if w.ndim != rank + 2:
        raise RuntimeError(f"{op}: expected a weight of {rank + 2} dims, but got one of size "
                           f"{list(w.shape)}")
    check_dtypes(op, x, w)
    if bias is not None and bias.dtype is not x.dtype:
        raise RuntimeError(f"Input type ({x.dtype!r}) and bias type ({bias.dtype!r}) should be "
                           "the same")
    if groups <= 0:
        raise RuntimeError("non-positive groups is not supported")


def check_sizes(rank, x, w, bias, groups, left, right, dilation):
    """Channels, bias and kernel sizes of a forward convolution (batched)."""
    if w.shape[0] < groups or w.shape[0] % groups:
        raise RuntimeError(f"Given groups={groups}, expected weight to be divisible by {groups} at "
                           f"dimension 0, but got weight of size {list(w.shape)} instead")
    if x.shape[1] != w.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(w.shape)}, expected input"
            f"{list(x.shape)} to have {w.shape[1] * groups} channels, but got {x.shape[1]} "
            "channels instead")
    if bias is not None and (bias.ndim != 1 or bias.shape[0] != w.shape[0]):
        raise RuntimeError(f"Given weight of size {list(w.shape)}, expected bias to be "
                           f"1-dimensional with {w.shape[0]} elements, but got bias of size "
                           f"{list(bias.shape)} instead")
    padded = [n + a + b for n, a, b in zip(x.shape[2:], left, right)]
    reach = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilation)]
    if any(p < r for p, r in zip(padded, reach)):
        raise RuntimeError(
            f"Calculated padded input size per channel: ({' x '.join(map(str, padded))}). Kernel "
            f"size: ({' x '.join(map(str, reach))}). Kernel size can't be greater than actual "
            "input size")


def batched(m, rank):
    """The meta with a batch dim of 1 in front if it has none."""
    if m.ndim == rank + 2:
        return m
    return meta(m.dtype, (1, *m.shape), (m.shape[0] * m.strides[0], *m.strides), m.device)


SAMPLES = {1: """
    f(2, 3, 6), f(4, 3, 3)
    f(2, 4, 7).transposed, f(4, 2, 2), f(4), 2, 1, 2, 2
    f(3, 5), f(2, 3, 3), f(2), padding="same"
    f(2, 3, 6).strided, f(3, 1, 3).transposed, None, 1, "valid", 1, 3
    c(1, 2, 4), c(2, 2, 2)
""", 2: """
    f(2, 3, 5, 4), f(4, 3, 3, 2)
    f(1, 4, 5, 6).transposed, f(2, 2, 2, 3), f(2), (2, 1), (1, 2), (1, 2), 2
    f(2, 4, 4), f(2, 2, 1, 1), f(2)
    f(1, 2, 4, 4), f(2, 2, 2, 3).strided, padding="same", dilation=2
    f(0, 2, 4, 4), f(3, 2, 2, 2)
""", 3: """
    f(1, 2, 3, 4, 3), f(2, 2, 2, 2, 1), f(2)
    f(1, 2, 4, 3, 3).transposed, f(2, 1, 2, 1, 3), None, 2, 1, 1, 2
"""}


def _declare(rank):
    """conv1d, conv2d or conv3d."""
    op = f"conv{rank}d"

    class block:
        linear = ("input bias", "weight")
        batch = batch_rules.convolution
        where = ("", "nn.functional")
        out = False
        name = op
        samples = SAMPLES[rank]
        save = ("input", "weight")

        def meta(input, weight, bias, stride, padding, dilation, groups):
            check_conv(op, rank, input, weight, bias, groups)
            g = geometry(op, rank, weight.shape[2:], stride, padding, dilation)
            x = batched(input, rank)
            check_sizes(rank, x, weight, bias, groups, g[1], g[2], g[3])
            space = out_sizes(x.shape[2:], weight.shape[2:], *g)
            shape = (x.shape[0], weight.shape[0], *space)
            if x is not input:
                return [(x.dtype, shape[1:])]
            return [(x.dtype, shape, result_strides(shape, x, weight))]

        def through(call):
            x, w = batched(call.input, rank), call.weight
            stride, left, right, dilation = geometry(op, rank, w.shape[2:], call.stride,
                                                     call.padding, call.dilation)
            args = {"input": x, "weight": w, "bias": call.bias, "stride": stride,
                    "padding": left, "right": right, "dilation": dilation,
                    "groups": call.groups}
            inputs = (x, *call.inputs[1:])
            return OpCall("conv_forward", inputs, args, (batched(call.outputs[0], rank),),
                          call.device)

        def vjp(ctx, g):
            return _conv_vjp(ctx, g, op, rank)

    block.__doc__ = _DOC.format(rank=rank, space=", ".join("LHD"[:1] if rank == 1 else
                                                           ("H", "W") if rank == 2 else
                                                           ("D", "H", "W")))
    return kernel_op("input: T, weight: T, bias: T? = None, stride=1, padding=0, dilation=1, "
                     "groups=1")(block)


_DOC = """Cross-correlate (N, C, {space}) or (C, {space}) with a weight (O, C / groups, *kernel).

    `padding` is a number, one per dim, "same" or "valid". RuntimeError for sizes that do not fit.
    """


def _conv_vjp(ctx, g, op, rank):
    """Gradients of conv1d... through those of conv_forward."""
    x, w = ctx.input, ctx.weight
    one = x.meta.ndim == rank + 1
    if one:
        x, g = x.unsqueeze(0), g.unsqueeze(0)
    kernel = w.meta.shape[2:]
    stride, left, _, dilation = geometry(op, rank, kernel, ctx.stride, ctx.padding, ctx.dilation)
    rest = (stride, left, dilation, ctx.groups)
    gx = gw = gb = None
    if ctx.needs("input"):
        gx = conv_backward_data.fn(g, conj(w), *rest, x.meta.shape[2:])
        gx = gx.squeeze(0) if one else gx
    bias = ctx.meta("bias") is not None and ctx.needs("bias")
    if ctx.needs("weight"):
        if bias:
            gw, gb = conv_backward_weight_bias.fn(conj(x), g, *rest, kernel)
        else:
            gw = conv_backward_weight.fn(conj(x), g, *rest, kernel)
    elif bias:
        gb = g.sum((0, *range(2, rank + 2)))
    return gx, gw, gb


conv1d, conv2d, conv3d = _declare(1), _declare(2), _declare(3)


def conv_transpose(op, rank, input, weight, bias, stride, padding, output_padding, groups,
                   dilation):
    """A transposed convolution: the data gradient of the convolution with this weight."""
    x, w = input.meta, weight.meta
    check_conv(op, rank, x, w, None if bias is None else bias.meta, groups)
    stride, left, _, dilation = geometry(op, rank, w.shape[2:], stride, _plain(padding),
                                         _plain(dilation))
    extra = tupled(output_padding, rank, "output_padding", op)
    for e, s, d in zip(extra, stride, dilation):
        if e < 0:
            raise RuntimeError("negative output_padding is not supported")
        if e >= s and e >= d:
            raise RuntimeError("output padding must be smaller than either stride or dilation, "
                               f"but got output_padding: {list(extra)}, stride: {list(stride)}, "
                               f"dilation: {list(dilation)}")
    one = x.ndim == rank + 1
    if one:
        input = input.unsqueeze(0)
        x = input.meta
    if w.shape[0] < groups or x.shape[1] != w.shape[0]:
        raise RuntimeError(
            f"Given transposed=1, weight of size {list(w.shape)}, expected input{list(x.shape)} "
            f"to have {w.shape[0]} channels, but got {x.shape[1]} channels instead")
    if w.shape[0] % groups:
        raise RuntimeError(f"Given groups={groups}, expected weight to be divisible by {groups} at "
                           f"dimension 0, but got weight of size {list(w.shape)} instead")
    channels = w.shape[1] * groups
    if bias is not None and tuple(bias.meta.shape) != (channels,):
        raise RuntimeError(f"Given transposed=1, weight of size {list(w.shape)}, expected bias to "
                           f"be 1-dimensional with {channels} elements, but got bias of size "
                           f"{list(bias.meta.shape)} instead")
    size = tuple((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in zip(
        x.shape[2:], stride, left, dilation, w.shape[2:], extra))
    if any(n <= 0 for n in size):
        raise RuntimeError(
            f"Given input size per channel: ({' x '.join(map(str, x.shape[2:]))}). Calculated "
            f"output size per channel: ({' x '.join(map(str, size))}). Output size is too small")
    y = conv_backward_data.fn(input, weight, stride, left, dilation, groups, size)
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * rank)
    return y.squeeze(0) if one else y


def _plain(value):
    return tuple(value) if isinstance(value, list) else value


_PLACES = ("", "nn.functional")


@composite(where=_PLACES, out=False, samples="""
    f(2, 3, 4), f(3, 2, 3)
    f(2, 4, 5).transposed, f(4, 1, 2), f(2), 2, 1, 1, 2
    f(3, 4), f(3, 2, 2), None, 1, 0, 0, 1, 2
""")
def conv_transpose1d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1,
                     dilation=1):
    """Transposed convolution of (N, C, L) with a weight (C, O / groups, K)."""
    return conv_transpose("conv_transpose1d", 1, input, weight, bias, _plain(stride), padding,
                          output_padding, groups, dilation)


@composite(where=_PLACES, out=False, samples="""
    f(1, 2, 3, 3), f(2, 3, 2, 2)
    f(2, 2, 3, 4).transposed, f(2, 1, 3, 2), f(2), (2, 1), (1, 0), (1, 0), 2
""")
def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1,
                     dilation=1):
    """Transposed convolution of (N, C, H, W) with a weight (C, O / groups, *kernel)."""
    return conv_transpose("conv_transpose2d", 2, input, weight, bias, _plain(stride), padding,
                          output_padding, groups, dilation)


@composite(where=_PLACES, out=False, samples="""
    f(1, 2, 2, 2, 3), f(2, 1, 2, 1, 2), f(1)
    f(1, 1, 2, 2, 2), f(1, 2, 2, 2, 2), None, 2
""")
def conv_transpose3d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1,
                     dilation=1):
    """Transposed convolution of (N, C, D, H, W) with a weight (C, O / groups, *kernel)."""
    return conv_transpose("conv_transpose3d", 3, input, weight, bias, _plain(stride), padding,
                          output_padding, groups, dilation)


@composite(out=False, samples="""
    f(1, 2, 5), f(3, 2, 2), f(3), (2,), (1,), (1,), False, (0,), 1
    f(1, 2, 3, 3), f(2, 3, 2, 2), None, (1, 1), (0, 0), (1, 1), True, (0, 0), 1
""")
def convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    """Any convolution, transposed or not, by the rank of the weight."""
    rank = weight.meta.ndim - 2
    if transposed:
        return conv_transpose(f"conv_transpose{rank}d", rank, input, weight, bias, _plain(stride),
                              padding, output_padding, groups, dilation)
    return REGISTRY[f"conv{rank}d"].fn(input, weight, bias, stride, padding, dilation, groups)


@composite(out=False, samples="""
    f(5, 2, 3), f(3, 3, 4), f(4)
    f(5, 2, 3), f(2, 3, 4), f(4), 1
""")
def conv_tbc(input, weight, bias, pad=0):
    """conv1d with time first: (T, N, C) and (K, C, O) give (T', N, O)."""
    y = conv1d.fn(input.permute(1, 2, 0), weight.permute(2, 1, 0), bias, 1, pad)
    return y.permute(2, 0, 1).contiguous()
