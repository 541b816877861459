"""Padding, one-hot classes and channel shuffles.

Floor 3.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.limits import check_fits
from ..base.meta import meta
from ..ir import expr as E
from ..ir.kernel import Program
from ..runtime import tracing
from ..runtime.lowering import Nest
from . import batch_rules, checks
from . import views as V
from .region import copy_call, place, touch
from .registry import composite, kernel_op

_constant = {}  # (meta, pad) -> geometry of `place`
_MODES = ("reflect", "replicate", "circular")


def pairs(pad, ndim):
    """((before, after) per dim) from PyTorch's list, which starts at the last dim."""
    pad = [int(p) for p in pad]
    if len(pad) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    if len(pad) // 2 > ndim:
        raise RuntimeError(f"Padding length should be less than or equal to two times the input "
                           f"dimension but got padding length {len(pad)} and input of dimension "
                           f"{ndim}")
    out = [(0, 0)] * ndim
    for k in range(len(pad) // 2):
        out[ndim - 1 - k] = (pad[2 * k], pad[2 * k + 1])
    return out


@composite(out=False, where=("nn.functional",), replay=True, samples="""
    f(2, 3), (1, 2)
    f(2, 3).transposed, (1, -1, 0, 2), value=1.5
    f(1, 2, 5).strided, (2, 1), "reflect"
    f(1, 2, 3, 4), (2, 1, 1, 0), "replicate"
    f(2, 5), (2, 3), "circular"
    i(3), (1, 1), "constant", 7
    f(1, 1, 3, 3, 3), (1, 1, 1, 1, 0, 2), "reflect"
    b(2), (1, 0)
""")
def pad(input, pad, mode="constant", value=None):
    """`input` with `pad` entries (last dim first: before, after, ...) around it; negative counts
    cut off. mode "constant" (with `value`), "reflect", "replicate" or "circular".

    >>> pad(tensor([1, 2, 3]), (1, 2)).tolist()
    [0, 1, 2, 3, 0, 0]
    """
    if mode == "constant":
        return constant_pad_nd.fn(input, pad, 0 if value is None else value)
    if value is not None and value != 0:
        raise ValueError(f"Padding mode '{mode}' doesn't take in value argument")
    if mode not in _MODES:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    around = pairs(pad, input.meta.ndim)
    n = len(tuple(pad)) // 2
    if not (n <= 3 and input.meta.ndim in (n + 1, n + 2)):
        raise NotImplementedError(
            "Only 2D, 3D, 4D, 5D padding with non-constant padding are supported for now")
    for d, (a, b) in enumerate(around):
        size = input.meta.shape[d]
        if mode == "reflect" and (a >= size or b >= size) and (a or b):
            raise RuntimeError(
                "Argument #4: Padding size should be less than the corresponding input dimension, "
                f"but got: padding ({a}, {b}) at dimension {d} of input {list(input.meta.shape)}")
        if mode == "circular" and (a > size or b > size):
            raise RuntimeError("Padding value causes wrapping around more than once.")
        if (a or b) and size == 0:
            raise RuntimeError(f"{mode} padding of dimension {d}, which has size 0")
        if size + a + b < 1 and (a or b):
            raise RuntimeError(f"The output size {size + a + b} of dimension {d} is not positive")
    if mode == "circular":  # what is cut off does not come round again
        for d, (a, b) in enumerate(around):
            if a < 0 or b < 0:
                input = V.slice_dim.fn(input, d, max(-a, 0), input.meta.shape[d] - max(-b, 0), 1)
        around = [(max(a, 0), max(b, 0)) for a, b in around]
    return pad_by.fn(input, tuple(around), mode)


@composite(replay=True, samples="""
    f(2, 3), (1, 2)
    f(2, 3).transposed, (1, -1, 0, 2), 1.5
    f(0, 3), (0, 0, 1, 1), 2
""")
def constant_pad_nd(input, pad, value=0):
    """`input` with one number around it (last dim first: before, after, ...)."""
    if type(value) in (int, float):
        check_fits(value, input.meta.dtype)
    try:
        how = _constant[input.meta, tuple(pad)]
    except (KeyError, TypeError):
        how = None
    if how is not None:
        return place.fn(input, *how, value)
    around = pairs(pad, input.meta.ndim)
    for d, (a, b) in enumerate(around):
        size = input.meta.shape[d]
        if size + a + b < 0:
            raise RuntimeError(f"The input size {size}, plus negative padding {a} and {b} resulted "
                               "in a negative output size, which is invalid. Check dimension "
                               f"{d} of your input.")
        tracing.decided("lt", size, -a)
        tracing.decided("lt", size, -b)
        if a < 0 or b < 0:
            start, stop = max(-a, 0), max(size - max(-b, 0), 0)
            input = V.slice_dim.fn(input, d, min(start, stop), stop, 1)
    grow = [(max(a, 0), max(b, 0)) for a, b in around]
    if all(p == (0, 0) for p in grow):
        return input.clone()
    shape = tuple(n + a + b for n, (a, b) in zip(input.meta.shape, grow))
    full = meta(input.meta.dtype, shape, None, input.meta.device)
    offset = sum(a * s for (a, _), s in zip(grow, full.strides)) if input.meta.numel else 0
    if all(a >= 0 and b >= 0 for a, b in around) and input.meta.override is None:
        if len(_constant) > 10_000:
            _constant.clear()
        _constant[input.meta, tuple(int(p) for p in pad)] = (shape, full.strides, offset)
    return place.fn(input, shape, full.strides, offset, value)


def strip(mode, before, size, side):
    """(first source, step) in result coordinates of a strip of padding, counted outwards from
    the input for reflect, from the start of the strip else; `side` is 0 before, 1 after."""
    if mode == "replicate":
        return (before, 0) if side == 0 else (before + size - 1, 0)
    if mode == "circular":
        return (size, 1) if side == 0 else (before, 1)
    return (2 * before, -1) if side == 0 else (before + size - 2, -1)


def strip_call(out, d, around, lengths, side, mode):
    """The call that fills one side of dim `d` from the result itself; dims after `d` are already
    padded, those before it not yet."""
    before, after = around[d]
    width = before if side == 0 else after
    shape = [n if j < d else out.shape[j] for j, n in enumerate(lengths)]
    shape[d] = width
    base = sum(around[j][0] * out.strides[j] for j in range(d))
    first, step = strip(mode, before, lengths[d], side)
    to = base + (0 if side == 0 else before + lengths[d]) * out.strides[d]
    n = Nest(f"pad_{mode}", shape, compute=out.dtype)
    o = n.output(out, out.strides, kind="inout")
    reading = tuple(s * step if j == d else s for j, s in enumerate(out.strides))
    a = n.input(out, reading)  # the same memory, read
    n.start()
    n.store_at(o, n.of(to) + o.offset, a.at(n.of(base + first * out.strides[d]) + a.offset))
    return n.call((0, 0))


@kernel_op("input: T, around, how")
class pad_by:
    """Padding whose values come from the input: "reflect", "replicate" or "circular"."""

    linear = ("input",)
    where = ()
    out = False
    batch = batch_rules.pad

    def meta(input, around, how):
        return [(input.dtype, tuple(n + a + b for n, (a, b) in zip(input.shape, around)))]

    def lower(call):
        x, out, around = call.inputs[0], call.outputs[0], call.around
        if not out.numel:
            return Program((touch(x, out),))
        cut = any(a < 0 or b < 0 for a, b in around)
        if cut or not strips_reach(call.how, around, x.shape):
            return None  # padding may show what is cut off: composed
        skip = sum(a * s for (a, _), s in zip(around, out.strides))
        calls = [copy_call(x, out, shape=x.shape, strides=out.strides, offset=skip)]
        for d in reversed(range(x.ndim)):
            for side in (0, 1):
                if around[d][side]:
                    calls.append(strip_call(out, d, around, x.shape, side, call.how))
        return Program(tuple(calls))

    def compose(input, around, how):
        for d, p in enumerate(around):
            if p != (0, 0):
                rows = [folded(i, input.meta.shape[d], p[0], how)
                        for i in range(input.meta.shape[d] + sum(p))]
                input = input.index_select(d, input.new_tensor(rows, dtype=dt.int64))
        return input

    def vjp(ctx, g):
        return (pad_by_backward.fn(g, ctx.meta("input").shape, ctx.around, ctx.how),)


@kernel_op("grad: T, shape, around, how")
class pad_by_backward:
    """Gradient of `pad_by`: padded entries added back to where they came from."""

    linear = ("grad",)
    where = ()
    out = False
    batch = batch_rules.pad_backward

    def meta(grad, shape, around, how):
        return [(grad.dtype, shape)]

    def lower(call):
        return None  # composed: one deterministic addition per padded dim

    def compose(grad, shape, around, how):
        for d, p in enumerate(around):
            if p != (0, 0):
                grad = fold_dim(grad, d, shape[d], *p, how)
        return grad

    def vjp(ctx, g):
        return (pad_by.fn(g, ctx.around, ctx.how),)


def strips_reach(mode, around, lengths):
    """Whether every strip of padding can be filled from the input."""
    if mode == "replicate":
        return True
    spare = 1 if mode == "reflect" else 0
    return all(max(p) <= n - spare for p, n in zip(around, lengths) if p != (0, 0))


def folded(i, size, before, mode):
    """The input coordinate that padded coordinate `i` shows."""
    p = i - before
    if mode == "replicate":
        return min(max(p, 0), size - 1)
    if mode == "reflect":
        return size - 1 - abs(size - 1 - abs(p))
    return p % size


def fold_dim(g, d, size, before, after, mode):
    """Add the padding of one dim back into `size` entries."""
    rows = [folded(i, size, before, mode) for i in range(size + before + after)]
    shape = list(g.meta.shape)
    shape[d] = size
    return g.new_zeros(shape).index_add(d, g.new_tensor(rows, dtype=dt.int64), g)


# ---- classes and channels  ---------------------------------------------------------------------

def _shuffle(name, shape):
    @composite(out=False, name=name, samples=f"f{shape}, 2\nf{shape}.transposed, 2")
    def op(input, n):
        """See nn.functional."""
        from ..nn import functional

        return getattr(functional, name)(input, n)

    return op


for _name, _shape in (("pixel_shuffle", (2, 8, 2, 3)), ("pixel_unshuffle", (3, 2, 4, 6)),
                      ("channel_shuffle", (2, 6, 2, 2)),
                      ("native_channel_shuffle", (1, 4, 3))):
    _shuffle(_name, _shape)


@composite(out=False, where=("nn.functional",), differentiable=False, samples="""
    i(2, 3, low=0, high=4), 5
    v([0, 2])
    i(0), 3
    v(1)
""")
def one_hot(tensor, num_classes=-1):
    """(*,) class numbers as (*, classes) of 0 and 1 (int64). RuntimeError for a class number that
    is negative or at least `num_classes` (-1: the largest plus one).

    >>> one_hot(tensor([0, 2])).tolist()
    [[1, 0, 0], [0, 0, 1]]
    """
    m = tensor.meta
    if m.dtype is not dt.int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    if not m.numel:
        if num_classes <= 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        return tensor.new_empty((*m.shape, num_classes))
    if num_classes == -1:
        if int(tensor.min().item()) < 0:
            raise RuntimeError("Class values must be non-negative.")
        num_classes = int(tensor.max().item()) + 1
    elif num_classes < 1:
        raise RuntimeError("num_classes should be positive")
    return one_hot_rows.fn(tensor, int(num_classes))


def class_ranges(call):
    """The class numbers must be below num_classes."""
    return [(0, 0, call.num_classes, 0)]


def bad_class(call, inputs):
    """Say which end of the range was left."""
    values = checks.host(inputs[0], call.inputs[0])
    raise RuntimeError("Class values must be non-negative." if values.min() < 0 else
                       f"Class values must be smaller than num_classes. (got {values.max()} of "
                       f"{call.num_classes})")


@kernel_op("tensor: T, num_classes")
class one_hot_rows:
    """The rows of `one_hot`; class numbers are checked in the same launch."""

    where = ()
    out = False
    differentiable = False
    explain = bad_class
    batch = ""

    def meta(tensor, num_classes):
        return [(dt.int64, (*tensor.shape, num_classes))]

    def lower(call):
        x, out = call.inputs[0], call.outputs[0]
        n = Nest("one_hot", out.shape, compute=dt.int64, merge=False)
        o, a = n.output(out, out.strides), n.input(x, x.strides + (0,))
        n.start()
        n.store(o, E.select(E.eq(a(), n.coord(x.ndim)), E.const(1, dt.int64),
                            E.const(0, dt.int64)))
        return checks.checked(call, [n.call()], class_ranges(call))
