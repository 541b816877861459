"""Losses: elementwise errors with a reduction, and fused cross-entropy.

Floor 3. `reduction` is "none", "mean" or "sum" here; nn.functional adds PyTorch's legacy
arguments. Cross-entropy with class targets is two kernels forward (rows, then the mean) and one
backward; nothing of the size of the logits is kept but the logits themselves.
"""

from __future__ import annotations

from dataclasses import replace

from ..base import dtype as dt
from ..base.meta import meta as make_meta
from ..ir import expr as E
from ..ir.kernel import Program
from ..runtime.lowering import Nest, expand_strides
from ..runtime.tracing import refuse
from . import batch_rules, checks
from .facts import examples
from .registry import REGISTRY, Scalar, composite, elementwise, kernel_op


def reduced(values, reduction):
    """Apply "none", "mean" or "sum". ValueError for another word."""
    if reduction == "mean":
        return values.mean()
    if reduction == "sum":
        return values.sum()
    if reduction != "none":
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return values


# ---------------------------------------------------------------- elementwise errors

@elementwise(where=(), method=False, kinds="fc", promote="real")
def squared_error(input, target):
    """(input - target)**2."""
    d = input - target
    return d * d


@elementwise(where=(), method=False, kinds="f")
def absolute_error(input, target):
    """|input - target|."""
    return E.abs_(input - target)


@elementwise(where=(), method=False, kinds="f")
def smooth_l1_error(input, target, beta: Scalar):
    """Quadratic below beta, linear above (Girshick 2015)."""
    d = E.abs_(input - target)
    return E.select(d < beta, 0.5 * d * d / _positive(beta), d - 0.5 * beta)


def _positive(beta):
    """A divisor for the branch that beta = 0 never takes, but that derivatives pass through."""
    return E.select(beta > 0, beta, 1.0)


@smooth_l1_error.grad
def _smooth_l1(g, out, input, target, beta):
    d = input - target
    slope = E.select(E.abs_(d) < beta, d / _positive(beta),
                     E.select(d > 0, 1.0, E.select(d < 0, -1.0, d * 0.0)))
    return g * slope, -g * slope, None


@elementwise(where=(), method=False, kinds="f")
def huber_error(input, target, delta: Scalar):
    """Quadratic within delta, linear outside (Huber 1964)."""
    d = E.abs_(input - target)
    return E.select(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))


@elementwise(where=(), method=False, kinds="f")
def binary_cross_entropy_error(input, target):
    """-(t log x + (1 - t) log(1 - x)) with logarithms at least -100."""
    a = E.maximum(E.log(input), -100.0)
    b = E.maximum(E.log1p(-input), -100.0)
    return (target - 1.0) * b - target * a


@binary_cross_entropy_error.grad
def _bce(g, out, input, target):
    room = E.maximum((1.0 - input) * input, 1e-12)
    return g * ((input - target) / room), g * (E.log1p(-input) - E.log(input))


@elementwise(where=(), method=False, kinds="f")
def binary_logits_error(input, target):
    """Binary cross-entropy of sigmoid(input), without overflow."""
    return E.maximum(input, 0.0) - input * target + E.log1p(E.exp(-E.abs_(input)))


@binary_logits_error.grad
def _bce_logits(g, out, input, target):
    return g * (1.0 / (1.0 + E.exp(-input)) - target), -g * input


@elementwise(where=(), method=False, kinds="f")
def binary_logits_error_weighted(input, target, pos_weight):
    """The same with the positive term times pos_weight."""
    soft = E.log1p(E.exp(-E.abs_(input))) + E.maximum(-input, 0.0)  # log(1 + exp(-x))
    return (1.0 - target) * input + (1.0 + (pos_weight - 1.0) * target) * soft


@binary_logits_error_weighted.grad
def _bce_weighted(g, out, input, target, pos_weight):
    s = 1.0 / (1.0 + E.exp(-input))
    soft = E.log1p(E.exp(-E.abs_(input))) + E.maximum(-input, 0.0)
    k = 1.0 + (pos_weight - 1.0) * target
    return (g * ((1.0 - target) - k * (1.0 - s)),
            g * ((pos_weight - 1.0) * soft - input), g * (target * soft))


@elementwise(where=(), method=False, kinds="f")
def kl_div_error(input, target):
    """target * (log target - input), 0 at target 0."""
    return E.select(target > 0, target * (E.log(target) - input),
                    E.select(E.eq(target, 0), -input * 0.0, E.log(target)))


@kl_div_error.grad
def _kl(g, out, input, target):
    return -g * target, g * E.select(target > 0, E.log(target) - input + 1.0, 0.0)


@elementwise(where=(), method=False, kinds="f")
def kl_div_log_error(input, target):
    """exp(target) * (target - input), for targets that are logarithms."""
    return E.exp(target) * (target - input)


@composite(where=(), out=False, samples="""
    f(2, 3), f(2, 3)
    f(2, 3).transposed, f(3), reduction="sum"
    f(4), f(4), reduction="none"
""")
def mse_loss(input, target, *, reduction="mean"):
    """Squared error."""
    return reduced(squared_error.fn(input, target), reduction)


@composite(where=(), out=False, samples="""
    f(2, 3), f(2, 3)
    f(2, 3).transposed, f(3), reduction="sum"
    f(4), f(4), reduction="none"
""")
def l1_loss(input, target, *, reduction="mean"):
    """Absolute error."""
    kinds = (input.meta.dtype.kind, target.meta.dtype.kind)
    return reduced(absolute_error.fn(input, target) if kinds == ("f", "f")
                   else (input - target).abs(), reduction)


@composite(where=(), out=False, replay=True, samples="""
    f(2, 3), f(2, 3)
    f(2, 3).transposed, f(3), reduction="sum", beta=0.5
    f(4), f(4), reduction="none", beta=0.0
""")
def smooth_l1_loss(input, target, *, reduction="mean", beta=1.0):
    """Smooth L1 error."""
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    return reduced(smooth_l1_error.fn(input, target, float(beta)), reduction)


@composite(where=(), out=False, replay=True, samples="""
    f(2, 3), f(2, 3)
    f(2, 3).transposed, f(3), reduction="sum", delta=0.5
    f(4), f(4), reduction="none"
""")
def huber_loss(input, target, *, reduction="mean", delta=1.0):
    """Huber error."""
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    return reduced(huber_error.fn(input, target, float(delta)), reduction)


@composite(where=(), out=False, samples="""
    f(2, 3, low=0.1, high=0.9), f(2, 3, low=0.1, high=0.9)
    f(2, 3, low=0.1, high=0.9).transposed, f(2, 3, low=0.1, high=0.9), f(3), reduction="sum"
    v([0.0, 1, 0.5]), v([0.0, 0, 1]), reduction="none"
""")
def binary_cross_entropy(input, target, weight=None, *, reduction="mean"):
    """Binary cross-entropy of probabilities. RuntimeError outside [0, 1]."""
    x = examples(input)
    refuse((x < 0) | (x > 1), RuntimeError("all elements of input should be between 0 and 1"))
    values = binary_cross_entropy_error.fn(input, target)
    return reduced(values if weight is None else values * weight, reduction)


@composite(where=(), out=False, replay=True, samples="""
    f(2, 3), f(2, 3, low=0, high=1)
    f(2, 3).transposed, f(2, 3, low=0, high=1), f(3), reduction="sum"
    f(2, 3), f(2, 3, low=0, high=1), pos_weight=f(3, low=0.5), reduction="none"
    v([500.0, -500]), v([1.0, 1])
""")
def binary_cross_entropy_with_logits(input, target, weight=None, *, pos_weight=None,
                                     reduction="mean"):
    """Binary cross-entropy of logits."""
    values = binary_logits_error.fn(input, target) if pos_weight is None else \
        binary_logits_error_weighted.fn(input, target, pos_weight)
    return reduced(values if weight is None else values * weight, reduction)


@composite(where=(), out=False, replay=True, samples="""
    f(2, 3), f(2, 3, low=0.1, high=1)
    f(2, 3).transposed, f(2, 3), reduction="sum", log_target=True
    f(3), v([0.0, 0.5, 1]), reduction="none"
""")
def kl_div(input, target, *, reduction="mean", log_target=False):
    """Pointwise Kullback-Leibler divergence."""
    op = kl_div_log_error if log_target else kl_div_error
    return reduced(op.fn(input, target), reduction)


# ---------------------------------------------------------------- class targets

def _rows(x, target, op):
    """Check shapes of (N, C, *) input with (N, *) target, or (C) with ()."""
    if not x.ndim >= 1:
        raise ValueError(f"{op}: expected an input of at least 1 dimension")
    axis = 1 if x.ndim > 1 else 0
    want = x.shape[:axis] + x.shape[axis + 1:]
    if target.shape != want:
        if x.ndim > 1 and target.ndim and target.shape[0] != x.shape[0]:
            raise ValueError(f"Expected input batch_size ({x.shape[0]}) to match target "
                             f"batch_size ({target.shape[0]}).")
        raise RuntimeError(f"{op}: Expected target size {list(want)}, got {list(target.shape)}")
    if target.dtype not in (dt.int64, dt.uint8, dt.int32):
        raise RuntimeError(f"{op}: expected scalar type Long for the target but found "
                           f"{target.dtype!r}")
    return axis


def _target_strides(t, axis):
    return t.strides[:axis] + (0,) + t.strides[axis:]


def _outer_shape(x, axis):
    return x.shape[:axis] + x.shape[axis + 1:]


def _check_target(call, x, target, axis, ignore):
    """The kernel call that sets the status word if a class is out of range and not ignored."""
    status = len(call.outputs)
    n = Nest("class_check", target.shape, range(target.ndim), compute=dt.int64)
    o = n.output(make_meta(dt.int64, (1,), None, x.device))
    t = n.input(target)
    n.start()
    v = E.cast(t(), dt.int64)
    bad = ((v < 0) | (v >= n.of(x.shape[axis]))) & E.ne(v, n.of(ignore))
    flag = n.reduce("or", E.select(bad, E.const(1, dt.int64), E.const(0, dt.int64)))
    n.store_at(o, 0, flag, inner=False)
    slot = status + 1 + list(call.args).index("target")
    return n.call((status, slot))


def _explain(call, inputs):
    """IndexError naming the first class out of range."""
    k = list(call.args).index("target")
    x, t = call.args["input"], call.args["target"]
    c = x.shape[1 if x.ndim > 1 else 0]
    values = checks.host(inputs[k], t).ravel()
    bad = values[((values < 0) | (values >= c)) & (values != call.ignore_index)]
    raise IndexError(f"Target {bad[0] if bad.size else '?'} is out of bounds.")


def _shift(calls, k):
    """Slots after the outputs move up by the status word."""
    return [replace(c, slots=tuple(s + 1 if s >= k else s for s in c.slots)) for c in calls]


def _finish(call, values, weights, shape, acc):
    """Second kernel: the mean or the sum of the rows, and the total weight."""
    total = call.outputs[-1]
    out = call.outputs[0]
    n = Nest("mean_of_rows", shape, range(len(shape)), compute=acc)
    o, w_out = n.output(out), n.output(total)
    flat = make_meta(acc, shape, None, out.device)
    v, w = n.input(flat), n.input(flat)
    n.start()
    s, weight = n.reduce_all(("sum", v()), ("sum", w()))
    n.store_at(o, 0, s / weight if call.reduction == "mean" else s, inner=False)
    n.store_at(w_out, 0, weight if call.reduction == "mean" else E.const(1.0, acc), inner=False)
    return n.call((0, len(call.outputs) - 1, values, weights))


def _program(call, rows_call, x, target, axis, acc, ninputs):
    """Check, rows, and the reduction if there is one."""
    k = len(call.outputs)
    check = _check_target(call, x, target, axis, call.ignore_index)
    shape = _outer_shape(x, axis)
    first = k + ninputs
    calls, scratch = [rows_call], ()
    if call.reduction != "none":
        size = make_meta(acc, shape, None, x.device).span
        calls.append(_finish(call, first, first + 1, shape, acc))
        scratch = (size, size)
    tail = [check] if target.numel else []
    return Program((*tail, *_shift(calls, k)), scratch, status=len(tail))


@kernel_op("input: T, target: T, weight: T?, label_smoothing: S, ignore_index, reduction")
class cross_entropy_classes:
    """(loss, logsumexp of every row, total weight) for class targets; the total weight is only
    written for the mean.

    The loss of a row is w_t (1 - s) (lse - x_t) + s / C sum_c w_c (lse - x_c); ignored rows
    count neither in the sum nor in the mean's divisor.
    """

    where = ()
    noutputs = 3
    diff_outputs = 1
    save = ("input", "target", "weight", "label_smoothing", "out1", "out2")
    explain = _explain
    batch = batch_rules.class_loss

    def meta(input, target, weight, label_smoothing, ignore_index, reduction):
        axis = _rows(input, target, "cross_entropy")
        if input.dtype.kind != "f":
            raise RuntimeError(f'"cross_entropy" is not implemented for dtype {input.dtype!r}')
        if weight is not None and weight.shape != (input.shape[axis],):
            raise RuntimeError("cross_entropy: weight tensor should be defined either for all "
                               f"{input.shape[axis]} classes or no classes but got weight tensor "
                               f"of shape: {list(weight.shape)}")
        acc, shape = dt.opmath(input.dtype), _outer_shape(input, axis)
        return [(input.dtype, shape if reduction == "none" else ()), (acc, shape), (acc, ())]

    def lower(call):
        x, t, w = call.args["input"], call.args["target"], call.args["weight"]
        axis = 1 if x.ndim > 1 else 0
        acc, shape = dt.opmath(x.dtype), _outer_shape(x, axis)
        k = len(call.outputs)
        n = Nest("cross_entropy", x.shape, [axis], compute=acc)
        row = make_meta(acc, shape, None, x.device)
        none = call.reduction == "none"
        o = n.output(call.outputs[0] if none else row, _target_strides(row, axis))
        lse_out = n.output(row, _target_strides(row, axis))
        w_out = None if none else n.output(row, _target_strides(row, axis))
        a, target = n.input(x), n.input(t, _target_strides(t, axis))
        weight = None if w is None else n.input(w, expand_strides((w.shape[0],), w.strides, (
            w.shape[0],)) if x.ndim == 1 else (0,) * axis + w.strides + (0,) * (x.ndim - axis - 1))
        at_weight = None if w is None else n.operands[weight.slot]
        smoothing = E.cast(n.scalar(), acc)
        n.start()
        c = E.cast(target.outer(), dt.int64)
        ok = E.ne(c, n.of(call.ignore_index))
        inside = checks.clamped(c, n.of(x.shape[axis]))
        top = n.reduce("max", a())
        total = n.reduce("sum", E.exp(a() - top))
        lse = top + E.log(total)
        spread = (lse - a()) if w is None else (lse - a()) * at_weight()
        picked = a.at(E.op("add", a.outer_offset, E.op("mul", inside, n.of(x.strides[axis]))))
        wt = E.const(1.0, acc) if w is None else weight.at(
            E.op("mul", inside, n.of(w.strides[0])))
        smooth = n.reduce("sum", spread) / E.cast(n.of(x.shape[axis]), acc)
        loss = wt * (1.0 - smoothing) * (lse - picked) + smoothing * smooth
        n.store(lse_out, lse, inner=False)
        n.store(o, E.select(ok, loss, 0.0), inner=False)
        if w_out is not None:
            n.store(w_out, E.select(ok, wt, 0.0), inner=False)
        ninputs = 3 + (w is not None)
        first = k + ninputs
        ins = tuple(range(k, k + ninputs))
        slots = (0, 1) + ins if none else (first, 1, first + 1) + ins
        return _program(call, n.call(slots), x, t, axis, acc, ninputs)

    def vjp(ctx, g):
        gx = cross_entropy_backward.fn(
            g, ctx.input, ctx.target, ctx.weight, ctx.out1, ctx.out2, ctx.label_smoothing,
            ctx.ignore_index, ctx.reduction) if ctx.needs("input") else None
        gw = None
        if ctx.weight is not None and ctx.needs("weight"):
            raise RuntimeError("cross_entropy: the derivative with respect to weight is not "
                               "implemented; detach it")
        return gx, None, gw


@kernel_op("grad: T, input: T, target: T, weight: T?, lse: T, total: T, label_smoothing: S, "
           "ignore_index, reduction")
class cross_entropy_backward:
    """Gradient of `cross_entropy_classes`, in one kernel."""

    where = ()

    def meta(grad, input, target, weight, lse, total, label_smoothing, ignore_index, reduction):
        return [(input.dtype, input.shape)]

    def lower(call):
        x, t, w = call.args["input"], call.args["target"], call.args["weight"]
        axis = 1 if x.ndim > 1 else 0
        acc = dt.opmath(x.dtype)
        n = Nest("cross_entropy_backward", x.shape, [axis], compute=acc, merge=False)
        o = n.output(call.outputs[0], call.outputs[0].strides)
        g = n.input(call.args["grad"], _target_strides(call.args["grad"], axis)
                    if call.args["grad"].ndim else (0,) * x.ndim)
        a, target = n.input(x), n.input(t, _target_strides(t, axis))
        weight = None if w is None else n.input(
            w, (0,) * axis + w.strides + (0,) * (x.ndim - axis - 1))
        row = n.input(call.args["lse"], _target_strides(call.args["lse"], axis))
        total = n.input(call.args["total"], (0,) * x.ndim)
        smoothing = E.cast(n.scalar(), acc)
        n.start()
        classes = E.cast(n.of(x.shape[axis]), acc)
        c = E.cast(target.outer(), dt.int64)
        ok = E.ne(c, n.of(call.ignore_index))
        hit = E.eq(n.coord(axis), c)
        p = E.exp(a() - row.outer())
        here = E.const(1.0, acc) if w is None else weight()
        if w is None:
            sum_w, wt = classes, E.const(1.0, acc)
        else:
            sum_w = n.reduce("sum", weight())
            wt = weight.at(E.op("mul", checks.clamped(c, n.of(x.shape[axis])),
                                n.of(w.strides[0])))
        one = wt * (1.0 - smoothing)
        rest = smoothing / classes
        value = p * (one + rest * sum_w) - E.select(hit, one, 0.0) - rest * here
        scale = g.outer() / total.outer() if call.reduction == "mean" else g.outer()
        n.store(o, E.select(ok, value * scale, 0.0))
        return n.program()

    def compose(grad, input, target, weight, lse, total, label_smoothing, ignore_index,
                reduction):
        axis = 1 if input.meta.ndim > 1 else 0
        c = input.meta.shape[axis]
        ok = target != ignore_index
        safe = REGISTRY["where"].fn(ok, target, 0)
        hot = (safe.unsqueeze(axis) == REGISTRY["arange_on"].fn(c, input.meta.device).reshape(
            *[-1 if d == axis else 1 for d in range(input.meta.ndim)])).to(input.meta.dtype)
        p = input.softmax(axis)
        w = None if weight is None else weight.reshape(
            *[-1 if d == axis else 1 for d in range(input.meta.ndim)])
        one = (1.0 - label_smoothing) * (1.0 if w is None else (hot * w).sum(axis, True))
        rest = label_smoothing / c
        sum_w = c if w is None else w.sum()
        value = p * (one + rest * sum_w) - hot * one - (rest if w is None else rest * w)
        scale = grad / total if reduction == "mean" else grad
        if grad.meta.ndim:
            scale = scale.unsqueeze(axis)
        return value * ok.unsqueeze(axis).to(input.meta.dtype) * scale


@composite(where=(), out=False)
def arange_on(n, device):
    """0, 1, ..., n - 1 as int64 on a device."""
    return REGISTRY["full"].fn((n,), 1, dtype=dt.int64, device=device).cumsum(0) - 1


@kernel_op("input: T, target: T, weight: T?, ignore_index, reduction")
class nll_loss_classes:
    """(loss, total weight): -weight[target] * input[target] per row."""

    where = ()
    noutputs = 2
    diff_outputs = 1
    save = ("target", "weight", "out1")
    explain = _explain
    batch = batch_rules.class_loss

    def meta(input, target, weight, ignore_index, reduction):
        axis = _rows(input, target, "nll_loss")
        if weight is not None and weight.shape != (input.shape[axis],):
            raise RuntimeError("nll_loss: weight tensor should be defined either for all "
                               f"{input.shape[axis]} classes or no classes but got weight tensor "
                               f"of shape: {list(weight.shape)}")
        acc, shape = dt.opmath(input.dtype), _outer_shape(input, axis)
        return [(input.dtype, shape if reduction == "none" else ()), (acc, ())]

    def lower(call):
        x, t, w = call.args["input"], call.args["target"], call.args["weight"]
        axis = 1 if x.ndim > 1 else 0
        acc, shape = dt.opmath(x.dtype), _outer_shape(x, axis)
        k = len(call.outputs)
        row = make_meta(acc, shape, None, x.device)
        none = call.reduction == "none"
        outer_x = x.strides[:axis] + x.strides[axis + 1:]
        n = Nest("nll_loss", shape, compute=acc)
        o = n.output(call.outputs[0] if none else row, row.strides)
        w_out = None if none else n.output(row, row.strides)
        a, target = n.input(x, outer_x), n.input(t, t.strides)
        weight = None if w is None else n.buffer(w)
        n.start()
        c = E.cast(target(), dt.int64)
        ok = E.ne(c, n.of(call.ignore_index))
        inside = checks.clamped(c, n.of(x.shape[axis]))
        picked = a.at(E.op("add", a.offset, E.op("mul", inside, n.of(x.strides[axis]))))
        wt = E.const(1.0, acc) if w is None else weight.at(
            E.op("mul", inside, n.of(w.strides[0])))
        n.store(o, E.select(ok, -wt * picked, 0.0))
        if w_out is not None:
            n.store(w_out, E.select(ok, wt, 0.0))
        ninputs = 2 + (w is not None)
        first = k + ninputs
        ins = tuple(range(k, k + ninputs))
        slots = (0, *ins) if none else (first, first + 1, *ins)
        return _program(call, n.call(slots), x, t, axis, acc, ninputs)

    def vjp(ctx, g):
        m = ctx.meta("input")
        axis = 1 if m.ndim > 1 else 0
        t, w = ctx.target, ctx.weight
        ok = t != ctx.ignore_index
        safe = REGISTRY["where"].fn(ok, t, 0).to(dt.int64)
        value = -g / ctx.out1 if ctx.reduction == "mean" else -g
        rows = value.expand(*t.meta.shape) * ok.to(g.meta.dtype)
        if w is not None:
            rows = rows * w[safe]
        full = rows.new_zeros(m.shape).scatter(axis, safe.unsqueeze(axis), rows.unsqueeze(axis))
        return full, None, None


@composite(where=(), out=False, samples="""
    f(4, 3), i(4, low=0, high=2)
    f(4, 3).transposed, i(4, low=0, high=2), f(3, low=0.5).fixed, reduction="sum"
    f(2, 3, 2), v([[0, 2], [1, 1]]), ignore_index=1
    f(3), v(1), reduction="none"
    f(4, 3), v([0, -100, 2, 1]), reduction="none"
""")
def nll_loss(input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    """Negative log-likelihood of class targets."""
    return nll_loss_classes.fn(input, target, weight, ignore_index, reduction)[0]


@composite(where=(), out=False, replay=True, samples="""
    f(4, 3), i(4, low=0, high=2)
    f(4, 3).transposed, i(4, low=0, high=2), f(3, low=0.5).fixed, label_smoothing=0.1
    f(2, 3, 2), v([[0, 2], [1, 1]]), ignore_index=1, reduction="sum"
    f(3), v(1), reduction="none"
    f(4, 3), f(4, 3, low=0, high=1)
    f(4, 3), f(4, 3, low=0, high=1), f(3, low=0.5).fixed, label_smoothing=0.2, reduction="sum"
""")
def cross_entropy(input, target, weight=None, *, ignore_index=-100, reduction="mean",
                  label_smoothing=0.0):
    """Cross-entropy of logits with class targets or, for a floating target of the input's shape,
    with class probabilities."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError("label_smoothing must be between 0.0 and 1.0. Got: "
                           f"{label_smoothing}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if target.meta.shape == input.meta.shape and target.meta.dtype.kind == "f":
        return _with_probabilities(input, target, weight, reduction, label_smoothing)
    return cross_entropy_classes.fn(input, target, weight, label_smoothing, ignore_index,
                                    reduction)[0]


def _with_probabilities(input, target, weight, reduction, label_smoothing):
    axis = 1 if input.meta.ndim > 1 else 0
    c = input.meta.shape[axis]
    if label_smoothing:
        target = target * (1.0 - label_smoothing) + label_smoothing / c
    logp = input.log_softmax(axis)
    if weight is not None:
        logp = logp * weight.reshape(*[-1 if d == axis else 1 for d in range(input.meta.ndim)])
    rows = -(logp * target).sum(axis)
    if reduction == "mean":
        return rows.sum() / max(input.meta.numel // c, 1)
    return reduced(rows, reduction)


@composite(where=("nn.functional",), out=False, samples="""
    f(3, 4), f(5, 4), i(3, low=0, high=4), linear_bias=f(5)
    f(3, 4), f(5, 2, 4), i(3, 2, low=0, high=4), reduction="none"
    f(3, 4), f(5, 4), f(3, 5, low=0.0, high=1.0), label_smoothing=0.1
    f(4), f(5, 4), i(low=0, high=4), weight=f(5, low=0.5, high=2.0).fixed, reduction="sum"
    f(3, 4), f(5, 4), v([2, 1, 4]), ignore_index=1
""")
def linear_cross_entropy(input, linear_weight, target, *, linear_bias=None, weight=None,
                         reduction="mean", ignore_index=None, label_smoothing=0.0):
    """cross_entropy of the logits linear(input, linear_weight, linear_bias).

    input (N, in) or (in); linear_weight (C, in), or (C, d1, ..., in) for logits of shape
    (N, C, d1, ...); target as for cross_entropy. `ignore_index` (-100 if None) is for class targets
    only. RuntimeError for shapes that do not fit.
    """
    x, w = input.meta.shape, linear_weight.meta.shape
    if len(x) not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {len(x)}")
    if len(w) < 2:
        raise RuntimeError("expected linear_weight with dimensionality at least 2, got "
                           f"{len(w)}")
    if x[-1] != w[-1]:
        raise RuntimeError("expected equal input and linear_weight last dimensions (in_features), "
                           f"got {x[-1]} and {w[-1]}, respectively")
    if linear_bias is not None and linear_bias.meta.shape != w[:-1]:
        raise RuntimeError(f"expected linear_bias shape {w[:-1]}, got {linear_bias.meta.shape}")
    if len(w) > 2 and len(x) == 1:
        raise RuntimeError(f"K-dimensional loss defined by linear_weight shape {w} requires "
                           f"batched input, (N, {x[-1]}), got unbatched input with shape {x}")
    shape = x[:-1] + w[:-1]
    if ignore_index is not None and target.meta.shape == shape:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    bias = None if linear_bias is None else linear_bias.reshape((-1,))
    logits = REGISTRY["linear"].fn(input, linear_weight.reshape((-1, w[-1])), bias)
    return cross_entropy.fn(logits.reshape(shape), target, weight, reduction=reduction,
                            ignore_index=-100 if ignore_index is None else ignore_index,
                            label_smoothing=label_smoothing)
