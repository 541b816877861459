"""Scaled dot product attention.

Floor 3. Two products around `attention_softmax`, one kernel that scales, masks and normalises the
scores; or `fused_attention`, on devices that bring a kernel for it, which never holds all scores at
once. Grouped heads share keys and values through broadcast batch dims, without copies.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..base.meta import broadcast_shapes, meta
from ..ir import expr as E
from ..runtime.lowering import Nest, convert, output_strides
from . import batch_rules
from .contract import fitted, gemm
from .plans import choose, kernel_call, offers
from .registry import REGISTRY, composite, kernel_op


def _rows(call, x):
    """A nest over rows of scores: the last dim is the inner loop."""
    return Nest(call.op, x.shape, [x.ndim - 1], compute=dt.opmath(x.dtype), merge=False)


def check_mask(mask, shape):
    """RuntimeError unless a mask (or None) broadcasts to scores of this shape."""
    if mask is not None and broadcast_shapes(shape, mask.shape) != tuple(shape):
        raise RuntimeError(f"The expanded size of the mask {list(mask.shape)} must match the "
                           f"attention scores {list(shape)}")


@kernel_op("scores: T, mask: T?, scale, causal")
class attention_softmax:
    """softmax(scores * scale) over the last dim, where allowed: a bool mask says where, a float
    mask is added, `causal` allows column <= row. A row with nothing allowed is 0."""

    where = ()
    out = False
    save = ("out",)
    batch = batch_rules.attention

    def meta(scores, mask, scale, causal):
        check_mask(mask, scores.shape)
        return [(scores.dtype, scores.shape)]

    def lower(call):
        x, out = call.scores, call.outputs[0]
        n = _rows(call, x)
        o, a = n.output(out, out.strides), n.input(x)
        m = None if call.mask is None else n.input(call.mask)
        n.start()
        value = convert(a(), n.compute) * call.scale
        if m is not None:
            value = E.select(m(), value, -math.inf) if m.dtype.kind == "b" \
                else value + convert(m(), n.compute)
        if call.causal:
            value = E.select(n.coord(x.ndim - 1) <= n.coord(x.ndim - 2), value, -math.inf)
        top = n.reduce("max", value)
        top = E.select(E.eq(top, -math.inf), 0.0, top)
        total = n.reduce("sum", E.exp(value - top))
        n.store(o, E.select(E.eq(total, 0.0), 0.0, E.exp(value - top) / total))
        return n.program()

    def vjp(ctx, g):
        gs = attention_softmax_backward.fn(g, ctx.out, ctx.scale)
        gm = None
        m = ctx.meta("mask")
        if m is not None and m.dtype.kind == "f" and ctx.needs("mask"):
            gm = fitted(gs / ctx.scale, _Like(m)).to(m.dtype)
        return gs, gm


class _Like:
    def __init__(self, m):
        self.meta = m


@kernel_op("grad: T, output: T, scale")
class attention_softmax_backward:
    """scale * y * (g - sum(g * y)) over the last dim."""

    where = ()
    out = False
    save = ("grad", "output")
    batch = ""

    def meta(grad, output, scale):
        return [(output.dtype, output.shape)]

    def lower(call):
        g, y, out = call.grad, call.output, call.outputs[0]
        n = Nest(call.op, y.shape, [y.ndim - 1], compute=dt.opmath(y.dtype))
        o, a, b = n.output(out, out.strides), n.input(g), n.input(y)
        n.start()
        total = n.reduce("sum", convert(a(), n.compute) * convert(b(), n.compute))
        n.store(o, convert(b(), n.compute) * (convert(a(), n.compute) - total) * call.scale)
        return n.program()

    def vjp(ctx, gg):
        g, y = ctx.grad, ctx.output
        inner = (g * y).sum(-1, True)
        cross = (gg * y).sum(-1, True)
        return (attention_softmax_backward.fn(gg, y, ctx.scale),
                (gg * (g - inner) - g * cross) * ctx.scale)


# ---------------------------------------------------------------- in one kernel

def _weights(query, key, mask, scale, causal):
    return attention_softmax.fn(gemm.fn(query, key, False, True), mask, scale, causal)


def _lines_up(query, key, value):
    """Whether every batch dim of key and value is the query's or 1, and the same in both."""
    q, k, v = query.shape[:-2], key.shape[:-2], value.shape[:-2]
    return k == v and len(q) == len(k) and all(b in (a, 1) for a, b in zip(q, k))


def _laid_out(m, width):
    """(dtype, shape, strides) of what has the dims of a tensor, but for the last, in its order in
    memory: so heads that are a view of a wider tensor's columns give such heads again."""
    shape = (*m.shape[:-1], width)
    if m.strides[-1] != 1:
        return m.dtype, shape
    return m.dtype, shape, output_strides(shape, [meta(m.dtype, shape, m.strides, m.device)])


@kernel_op("query: T, key: T, value: T, mask: T?, scale, causal")
class fused_attention:
    """(softmax(query @ key.T * scale + mask) @ value, logsumexp of the scores, at least float32),
    for devices with a kernel that keeps only blocks of the scores. Batch dims of key and value
    are the query's or 1. A row with nothing allowed is 0, its logsumexp -inf. No gradient flows
    through the logsumexp: it is there for `fused_attention_backward`."""

    where = ()
    out = False
    noutputs = 2
    diff_outputs = 1
    save = ("query", "key", "value", "mask", "out", "out1")

    def meta(query, key, value, mask, scale, causal):
        if not _lines_up(query, key, value):
            raise RuntimeError(f"fused_attention: the batch dims of key {list(key.shape)} and "
                               f"value {list(value.shape)} must be those of query "
                               f"{list(query.shape)} or 1; expand them")
        rows = query.shape[:-1]
        check_mask(mask, (*rows, key.shape[-2]))
        return [_laid_out(query, value.shape[-1]), (dt.opmath(query.dtype), rows)]

    def compose(query, key, value, mask, scale, causal):
        out = gemm.fn(_weights(query, key, mask, scale, causal), value, False, False)
        acc = dt.opmath(query.meta.dtype)
        scores = gemm.fn(query.detach(), key.detach(), False, True).to(acc) * scale
        if causal:
            allowed = REGISTRY["tril"].fn(REGISTRY["ones_like"].fn(scores, dtype=dt.bool_))
            scores = scores.masked_fill(allowed.logical_not(), -math.inf)
        if mask is not None:
            scores = scores.masked_fill(mask.logical_not(), -math.inf) \
                if mask.meta.dtype.kind == "b" else scores + mask.detach()
        return out, scores.logsumexp(-1)

    def vjp(ctx, g):
        q, k, v, mask = ctx.query, ctx.key, ctx.value, ctx.mask
        gm = None
        if mask is not None and ctx.needs("mask"):
            p = _weights(q, k, mask, ctx.scale, ctx.causal)
            gs = attention_softmax_backward.fn(gemm.fn(g, v, False, True), p, 1.0)
            gm = fitted(gs, mask)
        gq = gk = gv = None
        if ctx.needs("query") or ctx.needs("key") or ctx.needs("value"):
            gq, gk, gv = fused_attention_backward.fn(g, q, k, v, mask, ctx.out, ctx.out1, ctx.scale,
                                                     ctx.causal)
        return gq, gk, gv, gm


@kernel_op("grad: T, query: T, key: T, value: T, mask: T?, output: T, logsumexp: T, scale, causal")
class fused_attention_backward:
    """Gradients of `fused_attention` for query, key and value, from those of its first result.
    `output` and `logsumexp` are what it returned: they follow from the other arguments, so that
    derivatives are taken of the composition, which does without them."""

    where = ()
    out = False
    noutputs = 3

    def meta(grad, query, key, value, *rest):
        return [_laid_out(m, m.shape[-1]) for m in (query, key, value)]

    def compose(grad, query, key, value, mask, output, logsumexp, scale, causal):
        p = _weights(query, key, mask, scale, causal)
        gv = gemm.fn(p, grad, True, False)
        gs = attention_softmax_backward.fn(gemm.fn(grad, value, False, True), p, scale)
        gq, gk = gemm.fn(gs, key, False, False), gemm.fn(gs, query, True, False)
        return fitted(gq, query), fitted(gk, key), fitted(gv, value)


def _offered(metas, scale, causal):
    """Whether the device has a kernel of its own for the fused form of a call on (query, key,
    value, mask) of these metas."""
    query = metas[0]
    if not offers(fused_attention, query.device.type) or not _lines_up(*metas[:3]) or any(
            m is not None and m.virtual for m in metas):  # of a function transform
        return False
    call = kernel_call(fused_attention, (*metas, scale, causal))
    return choose(fused_attention, call, None)[0] is not None


# ---------------------------------------------------------------- PyTorch's function

def check_attention(q, k, v, mask, causal):
    """PyTorch's checks of ranks, dtypes, sizes and the mask."""
    for name, m in (("Query", q), ("Key", k), ("Value", v)):
        if m.ndim < 2:
            raise RuntimeError(f"scaled_dot_product_attention: Expected query, key, and value to "
                               f"all be  at least 2 dimensional, but got {name} dim: {m.ndim}")
        if m.dtype.kind != "f":
            raise RuntimeError(f"scaled_dot_product_attention: {name} must be floating point, not "
                               f"{m.dtype!r}")
    if not q.dtype is k.dtype is v.dtype:
        raise RuntimeError("Expected query, key, and value to have the same dtype, but got "
                           f"query.dtype: {q.dtype!r} key.dtype: {k.dtype!r} and value.dtype: "
                           f"{v.dtype!r} instead.")
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise RuntimeError(
            f"scaled_dot_product_attention: query {list(q.shape)}, key {list(k.shape)} and value "
            f"{list(v.shape)} do not fit: query and key share the last dim, key and value the "
            "second to last")
    if mask is None:
        return
    if causal:
        raise RuntimeError("_scaled_dot_product_attention: Explicit attn_mask should not be set "
                           "when is_causal=True")
    if mask.dtype.kind != "b" and mask.dtype is not q.dtype:
        raise RuntimeError("Expected attn_mask dtype to be bool or float or to match query dtype, "
                           f"but got attn_mask.dtype: {mask.dtype!r} and  query.dtype: "
                           f"{q.dtype!r} instead.")


def grouped(query, key, value, mask):
    """Operands of shape (..., groups, repeats, rows, width): heads that share a key are one
    group."""
    heads, shared, own = (t.meta.shape[-3] for t in (query, key, value))
    if not shared or not own or heads % shared or heads % own:
        raise RuntimeError("Number of heads in key and value must divide the number of heads in "
                           f"query: got {heads}, {shared} in key and {own} in value")
    if shared != own:  # every head has a key and a value of its own
        key, value = (t.repeat_interleave(heads // t.meta.shape[-3], -3) for t in (key, value))
        shared = heads
    repeats = heads // shared
    query = query.unflatten(-3, (shared, repeats))
    key, value = key.unsqueeze(-3), value.unsqueeze(-3)
    if mask is not None and mask.meta.ndim > 2:
        mask = mask.unflatten(-3, (shared, repeats)) if mask.meta.shape[-3] == heads \
            else mask.unsqueeze(-3)
    return query, key, value, mask


_known = {}  # calls that were checked: default scale, whether heads are grouped, whether fused as
# they are, whether fused in the wider dtype that sums are of


def _know(call, *tensors):
    """Check a call once per combination of metas."""
    q, k, v, mask, causal, gqa = call
    check_attention(q, k, v, mask, causal)
    width = q.shape[-1]
    if len(_known) > 10_000:
        _known.clear()
    scale = 1.0 / math.sqrt(width) if width else 1.0
    regroup = gqa and q.ndim > 2 and not q.shape[-3] == k.shape[-3] == v.shape[-3]
    if regroup:
        tensors = grouped(*tensors)
    metas = [None if t is None else t.meta for t in tensors]
    wide = [m if m is None or m.dtype.kind == "b" else meta(dt.opmath(m.dtype), m.shape, None,
                                                            m.device) for m in metas]
    fused = _offered(metas, scale, bool(causal))
    known = _known[call] = (scale, regroup, fused, fused or (
        q.dtype is not wide[0].dtype and not any(m is not None and m.virtual for m in metas)
        and _offered(wide, scale, bool(causal))))
    return known


@composite(where=("nn.functional",), out=False, replay=True, samples="""
    f(2, 3, 4), f(2, 5, 4), f(2, 5, 2)
    f(1, 2, 3, 4), f(1, 2, 3, 4).transposed, f(1, 2, 3, 4), is_causal=True
    f(2, 3, 4), f(2, 5, 4), f(2, 5, 2), f(3, 5), scale=0.3
    f(3, 4), f(5, 4), f(5, 2), v([[True, False, True, True, False]] * 3)
    f(1, 4, 3, 2), f(1, 2, 5, 2), f(1, 2, 5, 2), enable_gqa=True
    f(1, 4, 3, 2), f(1, 2, 5, 2), f(1, 4, 5, 2), enable_gqa=True
""")
def scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0,
                                 is_causal=False, scale=None, enable_gqa=False):
    """softmax(query @ key.T * scale + mask) @ value.

    query (..., heads, L, E), key (..., heads, S, E), value (..., heads, S, V) give
    (..., heads, L, V). A bool `attn_mask` is True where a query may look; a float one is added.
    `scale` is 1 / sqrt(E) unless given. With enable_gqa, key and value may have fewer heads.

    >>> q = lampion.ones(1, 2, 3, 4)
    >>> lampion.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).shape
    Size([1, 2, 3, 4])
    """
    call = (query.meta, key.meta, value.meta, None if attn_mask is None else attn_mask.meta,
            is_causal, enable_gqa)
    known = _known.get(call)
    if known is None:
        known = _know(call, query, key, value, attn_mask)
    if scale is None:
        scale = known[0]
    regroup = known[1]
    if regroup:
        query, key, value, attn_mask = grouped(query, key, value, attn_mask)
    if known[2] and dropout_p == 0.0:
        out = fused_attention.fn(query, key, value, attn_mask, float(scale), bool(is_causal))[0]
    else:
        d, wide = query.meta.dtype, dt.opmath(query.meta.dtype)
        if d is not wide:  # rounded once, at the end
            query, key, value = query.to(wide), key.to(wide), value.to(wide)
            if attn_mask is not None and attn_mask.meta.dtype.kind == "f":
                attn_mask = attn_mask.to(wide)
        if known[3] and dropout_p == 0.0:
            out = fused_attention.fn(query, key, value, attn_mask, float(scale),
                                     bool(is_causal))[0]
        else:
            weights = _weights(query, key, attn_mask, float(scale), bool(is_causal))
            if dropout_p > 0.0:
                weights = REGISTRY["dropout"].fn(weights, dropout_p, True)
            out = gemm.fn(weights, value, False, False)
        out = out if d is wide else out.to(d)
    return out.flatten(-4, -3) if regroup else out
