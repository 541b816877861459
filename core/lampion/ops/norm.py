"""Normalisation layers: one kernel forward, fused kernels backward.

Floor 3. The strict ops also return the statistics that their gradients need; the public forms
return the normalised tensor alone. Second derivatives come from the compositions.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..base.located import located
from ..ir import expr as E
from ..ir.kernel import Program
from ..runtime.lowering import Nest, expand_strides
from . import batch_rules
from .registry import REGISTRY, composite, elementwise, kernel_op


def _same_shape(shape, **tensors):
    """RuntimeError for a weight or bias of another shape than the dims that are normalised."""
    for name, m in tensors.items():
        if m is not None and m.shape != tuple(shape):
            raise RuntimeError(f"Expected {name} to be of same shape as normalized_shape, but got "
                               f"{name} of shape {list(m.shape)} and normalized_shape = "
                               f"{list(shape)}")


def _tail(x, normalized_shape, op):
    """The trailing dims that are normalised. RuntimeError unless the shapes agree."""
    k = len(normalized_shape)
    if not k or x.shape[-k:] != tuple(normalized_shape):
        raise RuntimeError(
            f"{op}: Given normalized_shape={list(normalized_shape)}, expected input with shape "
            f"[*{''.join(f', {n}' for n in normalized_shape)}], but got input of size"
            f"{list(x.shape)}")
    return tuple(range(x.ndim - k, x.ndim))


def _stat_shape(x, dims):
    """Shape of a statistic: size 1 on the normalised dims."""
    return tuple(1 if d in dims else n for d, n in enumerate(x.shape))


def _affine(value, w, b):
    """value * weight + bias, for the parts that are there."""
    if w is not None:
        value = value * w()
    return value if b is None else value + b()


@kernel_op("input: T, weight: T?, bias: T?, normalized_shape, eps: S")
class layer_norm_stats:
    """(normalised, mean, 1/std) over the trailing dims (Ba, Kiros and Hinton 2016)."""

    where = ()
    noutputs = 3
    diff_outputs = 1
    save = ("input", "weight", "out1", "out2")
    batch = batch_rules.row_norm

    def meta(input, weight, bias, normalized_shape, eps):
        dims = _tail(input, normalized_shape, "layer_norm")
        _same_shape(normalized_shape, weight=weight, bias=bias)
        stat = (dt.opmath(input.dtype), _stat_shape(input, dims))
        return [(input.dtype, input.shape), stat, stat]

    def lower(call):
        x = call.args["input"]
        acc = dt.opmath(x.dtype)
        dims = _tail(x, call.normalized_shape, "layer_norm")
        n = Nest("layer_norm", x.shape, dims, compute=acc)
        o, mo, ro = [n.output(m, expand_strides(m.shape, m.strides, x.shape))
                     for m in call.outputs]
        a = n.input(x)
        w = None if call.weight is None else n.input(call.weight)
        b = None if call.bias is None else n.input(call.bias)
        eps = n.scalar()
        n.start()
        count = E.cast(n.of(math.prod(call.normalized_shape)), acc)
        mean = n.reduce("sum", a()) / count
        var = n.reduce("sum", (a() - mean) * (a() - mean)) / count
        rstd = 1.0 / E.sqrt(var + E.cast(eps, acc))
        n.store(mo, mean, inner=False)
        n.store(ro, rstd, inner=False)
        n.store(o, _affine((a() - mean) * rstd, w, b))
        return n.program()

    def vjp(ctx, g):
        x, w, mean, rstd = ctx.input, ctx.weight, ctx.out1, ctx.out2
        k = len(ctx.normalized_shape)
        gx = gw = gb = None
        affine = (w is not None and ctx.needs("weight")) or (
            ctx.args["bias"] is not None and ctx.needs("bias"))
        if affine and ctx.needs("input"):
            gx, gw, gb = layer_norm_backward.fn(g, x, mean, rstd, w, k)
        elif affine:
            gw, gb = layer_norm_backward_affine.fn(g, x, mean, rstd, k)
        elif ctx.needs("input"):
            gx = layer_norm_backward_input.fn(g, x, mean, rstd, w, k)
        if affine:
            kind = x.meta.dtype if w is None else w.meta.dtype
            if gw.meta.dtype is not kind:
                gw, gb = gw.to(kind), gb.to(kind)
        return gx, gw if w is not None else None, gb


def _input_nest(call, out):
    """The kernel of the input's gradient."""
    x = call.args["input"]
    acc = dt.opmath(x.dtype)
    dims = tuple(range(x.ndim - call.ndims, x.ndim))
    n = Nest("layer_norm_backward", x.shape, dims, compute=acc)
    o = n.output(out, out.strides)
    g, a, m, r = [n.input(call.args[k]) for k in ("grad", "input", "mean", "rstd")]
    w = None if call.weight is None else n.input(call.weight)
    n.start()
    count = E.cast(n.of(math.prod(x.shape[d] for d in dims)), acc)

    def gw():
        return g() if w is None else g() * w()

    mean, rstd = m.outer(), r.outer()
    s1, s2 = n.reduce_all(("sum", gw()), ("sum", gw() * (a() - mean)))
    k = s2 * rstd * rstd / count
    n.store(o, rstd * (gw() - s1 / count - (a() - mean) * k))
    return n


def _affine_nest(call, outputs):
    """The kernel of the gradients of weight and bias."""
    x = call.args["input"]
    acc = dt.opmath(x.dtype)
    lead = tuple(range(x.ndim - call.ndims))
    n = Nest("layer_norm_backward_affine", x.shape, lead, compute=acc)
    outs = [n.output(m, (0,) * len(lead) + m.strides) for m in outputs]
    g, a, m, r = [n.input(call.args[k]) for k in ("grad", "input", "mean", "rstd")]
    n.start()
    gw, gb = n.reduce_all(("sum", g() * ((a() - m()) * r())), ("sum", g()))
    n.store(outs[0], gw, inner=False)
    n.store(outs[1], gb, inner=False)
    return n


@kernel_op("grad: T, input: T, mean: T, rstd: T, weight: T?, ndims")
class layer_norm_backward:
    """The gradients of input, weight and bias: one op, so that a backend may read rows once."""

    where = ()
    noutputs = 3

    def meta(grad, input, mean, rstd, weight, ndims):
        shape = input.shape[input.ndim - ndims:]
        acc = dt.opmath(input.dtype)
        return [(input.dtype, input.shape), (acc, shape), (acc, shape)]

    def lower(call):
        rows, affine = _input_nest(call, call.outputs[0]), _affine_nest(call, call.outputs[1:])
        inputs = range(3, 3 + len(call.inputs))
        return Program((rows.call((0, *inputs)), affine.call((1, 2, *inputs[:4]))))

    def compose(grad, input, mean, rstd, weight, ndims):
        return (layer_norm_backward_input.fn(grad, input, mean, rstd, weight, ndims),
                *layer_norm_backward_affine.fn(grad, input, mean, rstd, ndims))


@kernel_op("grad: T, input: T, mean: T, rstd: T, weight: T?, ndims")
class layer_norm_backward_input:
    """rstd * (gw - mean(gw) - xhat * mean(gw * xhat)) with gw = g * weight."""

    where = ()

    def meta(grad, input, mean, rstd, weight, ndims):
        return [(input.dtype, input.shape)]

    def lower(call):
        return _input_nest(call, call.outputs[0]).program()

    def compose(grad, input, mean, rstd, weight, ndims):
        dims = tuple(range(input.meta.ndim - ndims, input.meta.ndim))
        mu = input.mean(dims, True)
        var = ((input - mu) * (input - mu)).mean(dims, True)
        eps = (1.0 / (rstd * rstd) - var).detach()
        r = (var + eps).rsqrt()
        gw = grad if weight is None else grad * weight
        xhat = (input - mu) * r
        return r * (gw - gw.mean(dims, True) - xhat * (gw * xhat).mean(dims, True))


@kernel_op("grad: T, input: T, mean: T, rstd: T, ndims")
class layer_norm_backward_affine:
    """(sum(g * xhat), sum(g)) over the leading dims: the gradients of weight and bias."""

    where = ()
    noutputs = 2

    def meta(grad, input, mean, rstd, ndims):
        shape = input.shape[input.ndim - ndims:]
        acc = dt.opmath(input.dtype)
        return [(acc, shape), (acc, shape)]

    def lower(call):
        return _affine_nest(call, call.outputs).program()

    def compose(grad, input, mean, rstd, ndims):
        k = input.meta.ndim - ndims
        dims = tuple(range(k, input.meta.ndim))
        mu = input.mean(dims, True)
        var = ((input - mu) * (input - mu)).mean(dims, True)
        eps = (1.0 / (rstd * rstd) - var).detach()
        xhat = (input - mu) * (var + eps).rsqrt()
        lead = tuple(range(k))
        if not lead:
            return grad * xhat, grad * 1.0
        return (grad * xhat).sum(lead), grad.sum(lead)


@composite(where=("", "nn.functional"), samples="""
    f(2, 3), (3,)
    f(2, 3, 4).transposed, (3, 4), f(3, 4), f(3, 4)
    f(4, 70), (70,), f(70)
    f(2, 3), (3,), None, f(3), 0.1
    f(5), [5]
""")
def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-05, cudnn_enable=True):
    """(x - mean) / sqrt(var + eps) * weight + bias over the trailing dims `normalized_shape`."""
    shape = normalized_shape if type(normalized_shape) is tuple else tuple(normalized_shape)
    return layer_norm_stats.fn(input, weight, bias, shape, eps)[0]


@kernel_op("input: T, weight: T?, normalized_shape, eps: S")
class rms_norm_stats:
    """(normalised, 1/rms) over the trailing dims (Zhang and Sennrich 2019)."""

    where = ()
    noutputs = 2
    diff_outputs = 1
    save = ("input", "weight", "eps", "out1")
    batch = batch_rules.row_norm

    def meta(input, weight, normalized_shape, eps):
        dims = _tail(input, normalized_shape, "rms_norm")
        _same_shape(normalized_shape, weight=weight)
        return [(input.dtype, input.shape),
                (dt.opmath(input.dtype), _stat_shape(input, dims))]

    def lower(call):
        x = call.args["input"]
        acc = dt.opmath(x.dtype)
        n = Nest("rms_norm", x.shape, _tail(x, call.normalized_shape, "rms_norm"), compute=acc)
        o, ro = [n.output(m, expand_strides(m.shape, m.strides, x.shape)) for m in call.outputs]
        a = n.input(x)
        w = None if call.weight is None else n.input(call.weight)
        eps = n.scalar()
        n.start()
        count = E.cast(n.of(math.prod(call.normalized_shape)), acc)
        rstd = 1.0 / E.sqrt(n.reduce("sum", a() * a()) / count + E.cast(eps, acc))
        n.store(ro, rstd, inner=False)
        n.store(o, _affine(a() * rstd, w, None))
        return n.program()

    def vjp(ctx, g):
        x, w, r = ctx.input, ctx.weight, ctx.out1
        k = len(ctx.normalized_shape)
        gx = rms_norm_backward.fn(g, x, r, w, k) if ctx.needs("input") else None
        gw = None
        if w is not None and ctx.needs("weight"):
            lead = tuple(range(x.meta.ndim - k))
            xhat = x * r if x.node is None else rms_norm_stats.fn(
                x, None, ctx.normalized_shape, ctx.eps)[0]
            gw = (g * xhat).sum(lead) if lead else g * xhat
            gw = gw.to(w.meta.dtype)
        return gx, gw


@kernel_op("grad: T, input: T, rstd: T, weight: T?, ndims")
class rms_norm_backward:
    """rstd * (gw - x * rstd**2 * mean(gw * x)) with gw = g * weight."""

    where = ()

    def meta(grad, input, rstd, weight, ndims):
        return [(input.dtype, input.shape)]

    def lower(call):
        x = call.args["input"]
        acc = dt.opmath(x.dtype)
        dims = tuple(range(x.ndim - call.ndims, x.ndim))
        n = Nest("rms_norm_backward", x.shape, dims, compute=acc)
        o = n.output(call.outputs[0], call.outputs[0].strides)
        g, a, r = [n.input(call.args[k]) for k in ("grad", "input", "rstd")]
        w = None if call.weight is None else n.input(call.weight)
        n.start()
        count = E.cast(n.of(math.prod(x.shape[d] for d in dims)), acc)

        def gw():
            return g() if w is None else g() * w()

        rstd = r.outer()
        k = n.reduce("sum", gw() * a()) * rstd * rstd / count
        n.store(o, rstd * (gw() - a() * k))
        return n.program()

    def compose(grad, input, rstd, weight, ndims):
        dims = tuple(range(input.meta.ndim - ndims, input.meta.ndim))
        ms = (input * input).mean(dims, True)
        r = (ms + (1.0 / (rstd * rstd) - ms).detach()).rsqrt()
        gw = grad if weight is None else grad * weight
        return r * (gw - input * r * r * (gw * input).mean(dims, True))


@composite(where=("", "nn.functional"), replay=True, samples="""
    f(2, 3), (3,)
    f(2, 3, 4).transposed, (3, 4), f(3, 4), 0.1
    f(4, 70), (70,), f(70)
""")
def rms_norm(input, normalized_shape, weight=None, eps=None):
    """x / sqrt(mean(x**2) + eps) * weight over the trailing dims; eps defaults to the dtype's
    machine epsilon."""
    if eps is None:
        eps = {"float64": 2.0 ** -52, "bfloat16": 2.0 ** -7, "float16": 2.0 ** -10}.get(
            input.meta.dtype.name, 2.0 ** -23)
    return rms_norm_stats.fn(input, weight, tuple(normalized_shape), eps)[0]


# ---------------------------------------------------------------- over the batch

def _channels(x, op):
    if x.ndim < 2:
        raise ValueError(f"{op}: expected at least 2D input (got {x.ndim}D input)")
    return (0, *range(2, x.ndim))


def _per_channel(m, x):
    """Strides of a [C] tensor over the shape of x."""
    return (0, m.strides[0]) + (0,) * (x.ndim - 2)


@kernel_op("input: T, weight: T?, bias: T?, eps: S")
class batch_norm_train:
    """(normalised, mean, biased variance) with the statistics of the batch, per channel (Ioffe
    and Szegedy 2015)."""

    where = ()
    noutputs = 3
    diff_outputs = 1
    save = ("input", "weight", "eps", "out1", "out2")
    batch = batch_rules.batch_norm

    def meta(input, weight, bias, eps):
        _channels(input, "batch_norm")
        stat = (dt.opmath(input.dtype), (input.shape[1],))
        return [(input.dtype, input.shape, input.strides if not input.overlapping
                 and input.span == input.nbytes else None), stat, stat]

    def lower(call):
        x = call.args["input"]
        acc = dt.opmath(x.dtype)
        dims = _channels(x, "batch_norm")
        n = Nest("batch_norm", x.shape, dims, compute=acc)
        o = n.output(call.outputs[0], call.outputs[0].strides)
        mo, vo = [n.output(m, _per_channel(m, x)) for m in call.outputs[1:]]
        a = n.input(x)
        w = None if call.weight is None else n.input(call.weight, _per_channel(call.weight, x))
        b = None if call.bias is None else n.input(call.bias, _per_channel(call.bias, x))
        eps = n.scalar()
        n.start()
        count = E.cast(n.of(math.prod(x.shape[d] for d in dims)), acc)
        mean = n.reduce("sum", a()) / count
        var = n.reduce("sum", (a() - mean) * (a() - mean)) / count
        rstd = 1.0 / E.sqrt(var + E.cast(eps, acc))
        n.store(mo, mean, inner=False)
        n.store(vo, var, inner=False)
        n.store(o, _affine((a() - mean) * rstd, w, b))
        return n.program()

    def vjp(ctx, g):
        gx, gw, gb = batch_norm_backward.fn(g, ctx.input, ctx.weight, ctx.out1, ctx.out2, ctx.eps)
        return gx, None if ctx.weight is None else gw.to(ctx.weight.meta.dtype), gb


@kernel_op("grad: T, input: T, weight: T?, mean: T, var: T, eps: S")
class batch_norm_backward:
    """Gradients of input, weight and bias of `batch_norm_train`, in one kernel."""

    where = ()
    noutputs = 3

    def meta(grad, input, weight, mean, var, eps):
        stat = (dt.opmath(input.dtype), (input.shape[1],))
        return [(input.dtype, input.shape), stat, stat]

    def lower(call):
        x = call.args["input"]
        acc = dt.opmath(x.dtype)
        dims = _channels(x, "batch_norm")
        n = Nest("batch_norm_backward", x.shape, dims, compute=acc)
        o = n.output(call.outputs[0], call.outputs[0].strides)
        wo, bo = [n.output(m, _per_channel(m, x)) for m in call.outputs[1:]]
        g, a = n.input(call.args["grad"]), n.input(x)
        w = None if call.weight is None else n.input(call.weight, _per_channel(call.weight, x))
        m, v = [n.input(call.args[k], _per_channel(call.args[k], x)) for k in ("mean", "var")]
        eps = n.scalar()
        n.start()
        count = E.cast(n.of(math.prod(x.shape[d] for d in dims)), acc)
        mean, rstd = m.outer(), 1.0 / E.sqrt(v.outer() + E.cast(eps, acc))
        s1, s2 = n.reduce_all(("sum", g()), ("sum", g() * (a() - mean)))
        n.store(wo, s2 * rstd, inner=False)
        n.store(bo, s1, inner=False)
        scale = rstd if w is None else rstd * w.outer()
        n.store(o, (g() - s1 / count - (a() - mean) * (s2 * rstd * rstd / count)) * scale)
        return n.program()

    def compose(grad, input, weight, mean, var, eps):
        dims = (0, *range(2, input.meta.ndim))
        shape = (1, -1) + (1,) * (input.meta.ndim - 2)
        mu = input.mean(dims, True)
        v = ((input - mu) * (input - mu)).mean(dims, True)
        r = (v + eps).rsqrt()
        xhat = (input - mu) * r
        s1, s2 = grad.sum(dims, True), (grad * xhat).sum(dims, True)
        count = input.meta.numel // input.meta.shape[1]
        gx = (grad - s1 / count - xhat * s2 / count) * r
        if weight is not None:
            gx = gx * weight.reshape(*shape)
        return gx, s2.reshape(-1), s1.reshape(-1)


@composite(where=("nn.functional",), samples="""
    f(4, 3), None, None, training=True
    f(2, 3, 4).transposed, None, None, f(3), f(3), True
    f(2, 3, 2, 2), f(3).fixed, f(3, low=0.5).fixed, f(3), f(3)
    f(2, 3, 4).strided, None, None, f(3), None, True, eps=0.1
    f(4, 3), f(3).fixed, f(3, low=0.5).fixed
""")
def batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False,
               momentum=0.1, eps=1e-05):
    """Normalise per channel (dim 1) with the batch's statistics, or with the running ones if not
    `training`. Running statistics are updated in place, with the unbiased variance."""
    m = input.meta
    if m.shape == (0,):  # the one vector there is a result for
        return input.clone()
    _channels(m, "batch_norm")
    _check_channels(m, running_mean, running_var, weight, bias)
    if training:
        count = m.numel // max(m.shape[1], 1)
        if count == 1:
            raise ValueError("Expected more than 1 value per channel when training, got input "
                             f"size {list(m.shape)}")
        y, mean, var = batch_norm_train.fn(input, weight, bias, eps)
        if running_mean is not None:
            update_running.fn(running_mean, mean.detach(), momentum, 1.0)
        if running_var is not None:
            update_running.fn(running_var, var.detach(), momentum, count / max(count - 1, 1))
        return y
    if running_mean is None or running_var is None:
        raise RuntimeError("Expected running_mean and running_var to be defined when "
                           "training=False")
    shape = (1, -1) + (1,) * (m.ndim - 2)
    if running_var.meta.dtype.itemsize < 4:  # as precise as the statistics allow
        running_var = running_var.to(dt.float32)
    scale = (running_var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -running_mean * scale
    if bias is not None:
        shift = shift + bias
    return scale_shift.fn(input, scale.reshape(*shape), shift.reshape(*shape)).to(m.dtype)


@elementwise(where=(), method=False)
def scale_shift(input, scale, shift):
    """input * scale + shift."""
    return input * scale + shift


@located
def _check_channels(m, *tensors):
    for name, t in zip(("running_mean", "running_var", "weight", "bias"), tensors):
        if t is not None and t.meta.numel != m.shape[1]:
            raise RuntimeError(f"{name} should contain {m.shape[1]} elements not {t.meta.numel}")


@composite(where=(), out=False)
def update_running(running, value, momentum, scale):
    """running = (1 - momentum) * running + momentum * scale * value, in place."""
    value = value.detach().to(running.meta.dtype)
    running.detach().mul_(1.0 - momentum).add_(value, alpha=momentum * scale)
    return running


@composite(where=("", "nn.functional"), replay=True, samples="""
    f(2, 4), 2
    f(2, 4, 3).transposed, 2, f(4), f(4)
    f(2, 4, 2, 2), 1, None, f(4), 0.1
    f(2, 6, 5), 3, f(6)
""")
def group_norm(input, num_groups, weight=None, bias=None, eps=1e-05, cudnn_enabled=True):
    """Normalise over groups of channels and all positions (Wu and He 2018)."""
    m = input.meta
    if m.ndim < 2:
        raise RuntimeError("Expected at least 2 dimensions for input tensor but received "
                           f"{m.ndim}")
    if m.shape[1] % num_groups:
        raise RuntimeError("Expected number of channels in input to be divisible by num_groups, "
                           f"but got input of shape {list(m.shape)} and num_groups={num_groups}")
    wide = dt.opmath(m.dtype)
    if wide is not m.dtype and (weight is not None or bias is not None):  # rounded once, at the end
        return group_norm.fn(input.to(wide), num_groups, weight, bias, eps).to(m.dtype)
    rows = input.reshape(m.shape[0], num_groups,
                         m.shape[1] // num_groups * math.prod(m.shape[2:]))
    y = layer_norm_stats.fn(rows, None, None, (rows.meta.shape[2],), eps)[0].reshape(*m.shape)
    shape = (1, -1) + (1,) * (m.ndim - 2)
    if weight is not None and bias is not None:
        return scale_shift.fn(y, weight.reshape(*shape), bias.reshape(*shape))
    if weight is not None:
        return y * weight.reshape(*shape)
    return y if bias is None else y + bias.reshape(*shape)


@composite(where=("", "nn.functional"), replay=True, samples="""
    f(2, 3, 4)
    f(2, 3, 4).transposed, weight=f(3), bias=f(3)
    f(1, 2, 3, 3), eps=0.1
    f(2, 3, 4), f(3).fixed, f(3, low=0.5).fixed, use_input_stats=False
""")
def instance_norm(input, running_mean=None, running_var=None, weight=None, bias=None,
                  use_input_stats=True, momentum=0.1, eps=1e-05, cudnn_enabled=True):
    """Normalise every channel of every sample over its positions (Ulyanov et al. 2016)."""
    m = input.meta
    if not use_input_stats:
        return batch_norm.fn(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if m.numel // max(m.shape[0] * m.shape[1], 1) == 1:
        raise ValueError("Expected more than 1 spatial element when training, got input size "
                         f"{list(m.shape)}")
    if running_mean is not None:
        dims = tuple(range(2, m.ndim))
        update_running.fn(running_mean, input.detach().mean(dims).mean(0), momentum, 1.0)
        update_running.fn(running_var, input.detach().var(dims).mean(0), momentum, 1.0)
    return group_norm.fn(input, m.shape[1], weight, bias, eps)


@composite(where=("nn.functional",), replay=True, samples="""
    f(2, 5, 3), 3
    f(1, 4, 2, 2).transposed, 2, 0.5, 0.5, 2.0
""")
def local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0):
    """x / (k + alpha * mean of squares over `size` neighbouring channels) ** beta."""
    m = input.meta
    if m.ndim < 3:
        raise ValueError("Expected 3D or higher dimensionality input "
                         f"(got {m.ndim} dimensions)")
    if not m.numel:
        return input
    squares = (input * input).movedim(1, -1)
    padded = REGISTRY["pad"].fn(squares, (size // 2, (size - 1) // 2))
    window = padded.unfold(-1, size, 1)
    mean = window.sum(-1) // size if m.dtype.kind in "ui" else window.mean(-1)
    return input / (mean.movedim(-1, 1) * alpha + k) ** beta
