"""Random numbers: one counter stream, the same bits on every device.

Floor 3; imports ir, runtime and the registry. Philox4x32-10 turns a 64-bit key (the seed) and a
counter into four 32-bit words. Group g of a draw uses counter offset + g; word k of group g of
`groups` belongs to element k * groups + g in memory order, so that a kernel stores vectors. Every
further step is an integer operation or a correctly rounded floating one. Seed and offset are
run-time numbers: drawing again compiles nothing. The public functions are in `lampion.sampling`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from ..base import dtype as dt
from ..ir import expr as E
from ..ir.expr import Expr, cast, const, op
from ..ir.kernel import Kernel, KernelCall, Program, Store
from ..runtime.lowering import Nest, convert
from .registry import REGISTRY, kernel_op
from .streams import TRIES, per_group

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW = const(0xFFFFFFFF, dt.uint64)


def _xor(*parts: Expr | None) -> Expr:
    return reduce(lambda a, b: op("xor", a, b), [p for p in parts if p is not None])


def _half(e: Expr | None, high: bool) -> Expr | None:
    if e is None:
        return None
    return op("shr", e, const(32, dt.uint64)) if high else op("and", e, LOW)


def philox(seed: Expr, counter: Expr) -> list[Expr]:
    """Four words below 2**32, as uint64, from int64 expressions.

    All in 64 bits: one multiplication of 32-bit factors gives both halves of the product.
    """
    def wide(n: int) -> Expr:
        return const(n, dt.uint64)

    s, c = cast(seed, dt.uint64), cast(counter, dt.uint64)
    keys = [_half(s, False), _half(s, True)]
    words: list[Expr | None] = [_half(c, False), _half(c, True), None, None]  # None is 0
    for k in range(ROUNDS):
        now = [key if not k else op("and", op("add", key, wide(step * k & 0xFFFFFFFF)), LOW)
               for key, step in zip(keys, KEY_STEPS)]
        a, b = [None if w is None else op("mul", w, wide(m))
                for w, m in zip((words[0], words[2]), MULTIPLIERS)]
        words = [_xor(_half(b, True), words[1], now[0]), _half(b, False),
                 _xor(_half(a, True), words[3], now[1]), _half(a, False)]
    return words  # type: ignore[return-value]


# ---- words to numbers -----------------------------------------------------------------

def top(word: Expr, bits: int) -> Expr:
    """The highest bits of a 32-bit word, as a signed integer (bits < 32)."""
    return cast(op("shr", word, const(32 - bits, dt.uint64)), dt.int32)


def joined(a: Expr, b: Expr) -> Expr:
    """64 bits of two words (uint64)."""
    return op("or", op("shl", a, const(32, dt.uint64)), b)


def top64(a: Expr, b: Expr, bits: int) -> Expr:
    """The highest bits of two words, as int64 (bits < 64)."""
    return cast(op("shr", joined(a, b), const(64 - bits, dt.uint64)), dt.int64)


def unit(words: Sequence[Expr], d: dt.dtype) -> list[Expr]:
    """Uniform on [0, 1), in as many bits as the type's significand holds: 4 values, or 2 in
    float64."""
    if d is dt.float64:
        return [cast(top64(a, b, 53), d) * 2.0**-53 for a, b in _pairs(words)]
    bits = {"float16": 11, "bfloat16": 8}.get(d.name, 24)
    return [cast(top(w, bits), dt.float32) * 2.0**-bits for w in words]


def open_unit(words: Sequence[Expr], d: dt.dtype) -> list[Expr]:
    """Uniform on (0, 1), neither end included."""
    if d is dt.float64:
        return [(cast(top64(a, b, 52), d) + 0.5) * 2.0**-52 for a, b in _pairs(words)]
    return [(cast(top(w, 23), dt.float32) + 0.5) * 2.0**-23 for w in words]


def _pairs(words: Sequence[Expr]) -> list[tuple[Expr, Expr]]:
    return [(words[0], words[1]), (words[2], words[3])]


def _series(x: Expr, square: Expr, first: int, terms: int) -> Expr:
    """sin (first=1) or cos (first=0) of a small angle by its power series."""
    c = [(-1.0) ** k / math.factorial(2 * k + first) for k in range(terms)]
    p: Expr = const(c[-1])
    for a in c[-2::-1]:
        p = E.fma(p, square, const(a))
    return p * x if first else p


def sin_cos(word: Expr, rest: Expr | None, d: dt.dtype) -> tuple[Expr, Expr]:
    """Sine and cosine of a uniform angle: two bits choose the quadrant, the others an angle in
    [-pi/4, pi/4), where the power series converges within the rounding error."""
    if rest is None:
        quarter = top(word, 2)
        bits = cast(op("and", word, const(0x3FFFFFFF, dt.uint64)), dt.int32) - (1 << 29)
        x = cast(bits, d) * (math.pi / 2 * 2.0**-30)
    else:
        quarter = cast(top(word, 2), dt.int64)
        low = op("and", joined(word, rest), const((1 << 62) - 1, dt.uint64))
        x = cast(cast(low, dt.int64) - (1 << 61), d) * (math.pi / 2 * 2.0**-62)
    square = x * x
    small = d is not dt.float64
    s, c = _series(x, square, 1, 5 if small else 9), _series(x, square, 0, 6 if small else 9)
    odd = E.ne(op("and", quarter, 1), 0)
    sine, cosine = E.select(odd, c, s), E.select(odd, s, c)
    sine = E.select(quarter > 1, -sine, sine)
    turned = op("or", E.eq(quarter, 1), E.eq(quarter, 2))
    return sine, E.select(turned, -cosine, cosine)


def gaussian(words: Sequence[Expr], d: dt.dtype) -> list[Expr]:
    """Standard normal numbers by the Box-Muller transform: 4 values, or 2 in float64."""
    out = []
    if d is dt.float64:
        u = (cast(top64(words[0], words[1], 53), d) + 1.0) * 2.0**-53
        drawn = [(u, sin_cos(words[2], words[3], d))]
    else:
        drawn = [((cast(top(a, 31), dt.float32) + 1.0) * 2.0**-31, sin_cos(b, None, dt.float32))
                 for a, b in _pairs(words)]
    for u, (sine, cosine) in drawn:
        radius = E.sqrt(-2.0 * E.log(u))
        out += [radius * cosine, radius * sine]
    return out


# ---- kernels -----------------------------------------------------------------

_kernels: dict[Any, Kernel] = {}


def stream(call: Any, per: int, slots: Sequence[dt.dtype],
           values: Callable[..., Sequence[Expr]], reads: int = 0, places: bool = False) -> Program:
    """The kernel that writes `per` values of every group.

    `values(words, *numbers)` gives them from the words of a group; with `reads` (1: the first
    input is a dense tensor in the same order), `values(words, elements, *numbers)`; with `places`,
    the elements are their own numbers.
    """
    out = call.outputs[0]
    n, groups = out.numel, -(-out.numel // per)
    # which of the values may lie beyond the end: none, those of the last word, all
    ragged = 0 if n == per * groups else 1 if groups >= per else per
    params = (groups, *[k * groups for k in range(1, per)], *([n] if ragged else []))
    source = call.inputs[0].dtype if reads else None
    key = (call.op, out.dtype, source, per, ragged,
           tuple(v for v in call.args.values() if isinstance(v, (str, int))))
    kernel = _kernels.get(key)
    if kernel is None:
        kernel = _kernels[key] = _stream(call, per, slots, values, reads, ragged,
                                           places)
    return Program((KernelCall(kernel, params, tuple(range(3 + reads + len(slots)))),))


def _stream(call: Any, per: int, slots: Sequence[dt.dtype],
            values: Callable[..., Sequence[Expr]], reads: int, ragged: int,
            places: bool) -> Kernel:
    from ..ir.math import expand  # its tables need not be there at import

    out = call.outputs[0]
    compute = dt.opmath(out.dtype) if out.dtype.kind == "f" else dt.float32
    nest = Nest(call.op, (1,), compute=compute, merge=False)
    target = nest.output(out)
    source = nest.buffer(call.inputs[0]) if reads else None
    seed, offset = nest.scalar(dt.int64), nest.scalar(dt.int64)
    numbers = [nest.scalar(d) for d in slots]
    nest.start()
    g = nest.coord(0)
    at = [g] + [g + nest.of(0) for _ in range(1, per)]
    masks: list[Any] = [None] * per
    if ragged:
        end = nest.of(0)
        masks = [None if k < per - ragged else nest.typed(at[k] < end) for k in range(per)]
    words = philox(seed, nest.typed(offset + g))
    if places:
        made = values(words, at, *numbers)
    elif source is None:
        made = values(words, *numbers)
    else:
        made = values(words, [source.at(i, mask=m) for i, m in zip(at, masks)], *numbers)
    body = [Store(target.slot, nest.typed(i), convert(expand(nest.typed(v)), out.dtype), m)
            for i, v, m in zip(at, made, masks)]
    nest.stage(*body, inner=False)
    return nest.kernel()


def _distribution(name: str, numbers: str, slots: Sequence[dt.dtype],
                  values: Callable[..., Sequence[Expr]], doc: str) -> None:
    """Declare an op that fills new memory: `values(words, dtype, *numbers)`."""
    def meta(*args: Any) -> Any:
        return [(args[-3], args[0], args[-1])]

    def lower(call: Any) -> Program:
        d = call.outputs[0].dtype
        return stream(call, per_group(name, d), slots, lambda words, *s: values(words, d, *s))

    kernel_op(f"size, seed: I, offset: I, {numbers}*, dtype, device, strides=None")(
        type(name, (), {"__doc__": doc, "where": (), "out": False, "differentiable": False,
                        "meta": meta, "lower": lower}))


def _float(x: Expr, d: dt.dtype) -> Expr:
    """A float64 slot in the type of the computation."""
    return cast(x, dt.opmath(d) if d.kind == "f" else dt.float32)


def _between(words: Any, d: dt.dtype, low: Expr, high: Expr) -> list[Expr]:
    a, b = _float(low, d), _float(high, d)
    made = [u * (b - a) + a for u in unit(words, d)]
    return [E.select(E.eq(v, b), a, v) for v in made]  # rounding up must not reach the end


def _normal(words: Any, d: dt.dtype, mean: Expr, std: Expr) -> list[Expr]:
    a, b = _float(mean, d), _float(std, d)
    return [v * b + a for v in gaussian(words, d)]


def _exponential(words: Any, d: dt.dtype, rate: Expr) -> list[Expr]:
    r = _float(rate, d)
    return [-E.log(u) / r for u in open_unit(words, d)]


def _cauchy(words: Any, d: dt.dtype, median: Expr, sigma: Expr) -> list[Expr]:
    a, b = _float(median, d), _float(sigma, d)
    return [a + b * E.tan((u - 0.5) * math.pi) for u in open_unit(words, d)]


def _geometric(words: Any, d: dt.dtype, log_failure: Expr) -> list[Expr]:
    """Trials up to the first success: ceil(log u / log(1 - p)), at least 1."""
    f = cast(log_failure, dt.float32)
    return [E.maximum(E.ceil(E.log(u) / f), 1.0) for u in open_unit(words, dt.float32)]


_DOUBLE = dt.float64
_distribution("draw_uniform", "", (), unit, "Uniform numbers of [0, 1).")
_distribution("draw_between", "low: S, high: S, ", (_DOUBLE, _DOUBLE), _between,
              "Uniform numbers of [low, high).")
_distribution("draw_normal", "mean: S, std: S, ", (_DOUBLE, _DOUBLE), _normal,
              "Normal numbers of a mean and a standard deviation.")
_distribution("draw_log_normal", "mean: S, std: S, ", (_DOUBLE, _DOUBLE),
              lambda w, d, m, s: [E.exp(v) for v in _normal(w, d, m, s)],
              "exp of normal numbers.")
_distribution("draw_exponential", "rate: S, ", (_DOUBLE,), _exponential,
              "Exponential waiting times of a rate.")
_distribution("draw_cauchy", "median: S, sigma: S, ", (_DOUBLE, _DOUBLE), _cauchy,
              "Cauchy-distributed numbers.")
_distribution("draw_geometric", "log_failure: S, ", (_DOUBLE,), _geometric,
              "Numbers of trials up to the first success; log_failure is log(1 - p).")
_distribution("draw_bernoulli", "threshold: I, ", (dt.int64,),
              lambda w, d, t: [cast(x < cast(t, dt.uint64), d) for x in w],
              "1 with probability threshold / 2**32, else 0.")


@kernel_op("size, seed: I, offset: I, low: I, span: I, *, wide, dtype, device, strides=None")
class draw_integers:
    """low + an integer below `span`. `wide` is 0 (one word, span <= 2**32), 1 (two words, span
    <= 2**32) or 2 (two words; a span of 0 means 2**64). A draw favours no value by more than
    span / 2**32, or span / 2**64."""

    where = ()
    out = False
    differentiable = False

    def meta(size, seed, offset, low, span, wide, dtype, device, strides):
        return [(dtype, size, strides)]

    def lower(call):
        d, wide = call.outputs[0].dtype, call.wide
        thirty_two = const(32, dt.uint64)

        def values(words, low, span):
            s = cast(span, dt.uint64)
            if wide == 0:
                made = [op("shr", w * s, thirty_two) for w in words]
            elif wide == 1:
                made = [op("shr", a * s + op("shr", b * s, thirty_two), thirty_two)
                        for a, b in _pairs(words)]
            else:
                full = [joined(a, b) for a, b in _pairs(words)]
                made = [E.select(E.eq(s, 0), x, E.mulhi(x, s)) for x in full]
            return [cast(cast(m, dt.int64) + low, d) for m in made]

        return stream(call, 2 if wide else 4, (dt.int64, dt.int64), values)


@kernel_op("size, seed: I, offset: I, bits: I, *, dtype, device, strides=None")
class draw_order:
    """63 bits each: random ones, then in the lowest `bits` the element's number."""

    where = ()
    out = False
    differentiable = False

    def meta(size, seed, offset, bits, dtype, device, strides):
        return [(dtype, size, strides)]

    def lower(call):
        def values(words, at, bits):
            b = cast(bits, dt.uint64)
            above = [op("shl", op("shr", joined(p, q), b + 1), b) for p, q in _pairs(words)]
            return [op("or", cast(a, dt.int64), i) for a, i in zip(above, at)]

        return stream(call, 2, (dt.int64,), values, places=True)


@kernel_op("input: T, seed: I, offset: I, *, dtype")
class draw_bernoulli_each:
    """1 with the probability that stands in `input` (dense), else 0."""

    where = ()
    out = False
    differentiable = False

    def meta(input, seed, offset, dtype):
        return [(dtype, input.shape, input.strides)]

    def lower(call):
        d, source = call.outputs[0].dtype, call.inputs[0].dtype
        fine = dt.float64 if source is dt.float64 else dt.float32

        def values(words, elements):
            return [cast(u < cast(p, fine), d) for u, p in zip(unit(words, fine), elements)]

        return stream(call, 2 if source is dt.float64 else 4, (), values, reads=1)


@kernel_op("input: T, seed: I, offset: I, *, large")
class draw_poisson:
    """Poisson-distributed numbers with the rates in `input` (dense). `large` says that some may
    be 10 or more; the other draws do not depend on it.

    Rates below 10 by inversion: the number of terms of the distribution function below a uniform
    number, 48 of them. Others by Hörmann's transformed rejection, whose tries all run, each on
    its own counter, because a kernel has no open loop.
    """

    where = ()
    out = False
    differentiable = False

    def meta(input, seed, offset, large):
        return [(input.dtype, input.shape, input.strides)]

    def lower(call):
        m, out = call.inputs[0], call.outputs[0]
        d = dt.float64 if m.dtype is dt.float64 else dt.float32
        n = Nest("poisson", (m.numel, TRIES), [1], compute=d, merge=False)
        target, source = n.output(out, (1, 0)), n.input(m, (1, 0))
        seed, offset = n.scalar(dt.int64), n.scalar(dt.int64)
        n.start()
        rate = cast(source.outer(), d)
        start = offset + n.coord(0) * TRIES
        value = _inversion(E.minimum(rate, 10.0), unit(philox(seed, n.typed(start)), d)[0])
        if call.large:
            words = philox(seed, n.typed(start + n.coord(1)))
            u, v = (open_unit if d is dt.float64 else unit)(words, d)[:2]
            k, accepted = _rejection(E.maximum(rate, 10.0), u, v)
            _, k = n.arg_reduce("max", _settled(n, cast(accepted, dt.float32)),
                                _settled(n, cast(k, dt.int64)))
            value = E.select(rate < 10.0, value, cast(k, d))
        n.store(target, _settled(n, E.select(E.eq(rate, rate), value, rate)), inner=False)
        return n.program()


@kernel_op("count: T, prob: T, seed: I, offset: I, *, large")
class draw_binomial:
    """Numbers of successes among `count` trials of probability `prob` (both dense and alike).
    `large` says that some may have 10 or more in the mean; the other draws do not depend on it.

    As for draw_poisson: inversion below a mean of 10, else Hörmann's transformed rejection (BTRS,
    1993). Probabilities above a half count the failures.
    """

    where = ()
    out = False
    differentiable = False

    def meta(count, prob, seed, offset, large):
        return [(count.dtype, count.shape, count.strides)]

    def lower(call):
        m, out = call.inputs[0], call.outputs[0]
        d = dt.float64 if m.dtype is dt.float64 else dt.float32
        n = Nest("binomial", (m.numel, TRIES), [1], compute=d, merge=False)
        target = n.output(out, (1, 0))
        trials, chances = n.input(m, (1, 0)), n.input(call.inputs[1], (1, 0))
        seed, offset = n.scalar(dt.int64), n.scalar(dt.int64)
        n.start()
        count, chance = cast(trials.outer(), d), cast(chances.outer(), d)
        p = E.maximum(E.minimum(chance, 1.0 - chance), 0.0)
        mean = count * p
        start = offset + n.coord(0) * TRIES
        few = E.minimum(count, 10.0 / E.maximum(p, 1e-30))
        value = _binomial_inversion(few, p, unit(philox(seed, n.typed(start)), d)[0])
        if call.large:
            words = philox(seed, n.typed(start + n.coord(1)))
            u, v = (open_unit if d is dt.float64 else unit)(words, d)[:2]
            fair = E.maximum(p, 10.0 / E.maximum(count, 20.0))  # values that the others discard
            k, accepted = _binomial_rejection(E.maximum(count, 20.0), fair, u, v)
            _, k = n.arg_reduce("max", _settled(n, cast(accepted, dt.float32)),
                                _settled(n, cast(k, dt.int64)))
            value = E.select(mean < 10.0, value, cast(k, d))
        value = E.select(chance > 0.5, count - value, value)
        value = E.select(op("or", count <= 0.0, chance <= 0.0), 0.0, value)
        value = E.select(E.eq(mean, mean), value, mean)  # NaN stays
        n.store(target, _settled(n, value), inner=False)
        return n.program()


def _binomial_inversion(count: Expr, p: Expr, u: Expr) -> Expr:
    odds = p / (1.0 - p)
    term = E.exp(count * E.log1p(-p))
    total, found = term, cast(u >= term, dt.float32)
    for k in range(1, 48):
        term = term * E.maximum(count - (k - 1.0), 0.0) * odds * (1.0 / k)
        total = total + term
        found = found + cast(op("and", u >= total, count >= k), dt.float32)
    return found


def _binomial_rejection(count: Expr, p: Expr, u: Expr, v: Expr) -> tuple[Expr, Expr]:
    """(candidate, whether it is accepted)."""
    q = 1.0 - p
    spread = E.sqrt(count * p * q)
    b = 1.15 + 2.53 * spread
    a = -0.0873 + 0.0248 * b + 0.01 * p
    u = u - 0.5
    us = 0.5 - E.abs_(u)
    k = E.floor((2.0 * a / us + b) * u + count * p + 0.5)
    within = op("and", k >= 0.0, k <= count)
    quick = op("and", within, op("and", us >= 0.07, v <= 0.92 - 4.2 / b))

    def log_weight(k: Expr) -> Expr:  # the binomial law is that of two Poisson numbers, given both
        return _log_poisson(k, count * p) + _log_poisson(count - k, count * q)

    mode = E.floor((count + 1.0) * p)
    left = E.log(v * (2.83 + 5.1 / b) * spread / (a / (us * us) + b))
    inside = E.minimum(E.maximum(k, 0.0), count)
    exact = op("and", within, left <= log_weight(inside) - log_weight(mode))
    return k, op("or", quick, exact)


def _settled(n: Nest, e: Expr) -> Expr:
    from ..ir.math import expand

    return expand(n.typed(e))


def _inversion(rate: Expr, u: Expr) -> Expr:
    term = E.exp(-rate)
    total, count = term, cast(u >= term, dt.float32)
    for k in range(1, 48):
        term = term * rate * (1.0 / k)
        total = total + term
        count = count + cast(u >= total, dt.float32)
    return count


def _rejection(rate: Expr, u: Expr, v: Expr) -> tuple[Expr, Expr]:
    """(candidate, whether it is accepted) of the transformed rejection with squeeze (PTRS)."""
    root = E.sqrt(rate)
    b = 0.931 + 2.53 * root
    a = 0.02483 * b - 0.059
    u = u - 0.5
    us = 0.5 - E.abs_(u)
    k = E.floor((2.0 * a / us + b) * u + rate + 0.43)
    quick = op("and", us >= 0.07, v <= 0.9277 - 3.6224 / (b - 2.0))
    sane = op("and", k >= 0.0, op("not", op("and", us < 0.013, v > us)))
    left = E.log(v * (1.1239 + 1.1328 / (b - 3.4)) / (a / (us * us) + b))
    exact = op("and", sane, left <= _log_poisson(k, rate))
    return k, op("or", quick, exact)


def _log_poisson(k: Expr, rate: Expr) -> Expr:
    """log of rate**k e**-rate / k!, by Stirling's series around k = rate, where nothing large
    cancels."""
    x = (k - rate) / rate
    away = rate * ((1.0 + x) * E.log1p(E.maximum(x, -0.9999999)) - x)
    safe = E.maximum(k, 1.0)
    i = 1.0 / safe
    series = i * (1.0 / 12 - i * i * (1.0 / 360 - i * i * (1.0 / 1260)))
    return E.select(k < 0.5, -rate, -away - 0.5 * E.log(2.0 * math.pi * safe) - series)


@kernel_op("input: T, seed: I, offset: I, threshold: I, scale: S, *, strides")
class drop_elements:
    """input * scale where a word is below `threshold`, else 0.

    `strides` are those whose memory order numbers the elements; `input` must have them. The
    gradient draws the same words again, so that no mask is kept.
    """

    linear = ("input",)
    where = ()
    out = False

    def meta(input, seed, offset, threshold, scale, strides):
        return [(input.dtype, input.shape, strides)]

    def lower(call):
        d = call.outputs[0].dtype
        acc = dt.opmath(d)

        def values(words, elements, threshold, scale):
            limit, factor = cast(threshold, dt.uint64), cast(scale, acc)
            return [E.select(w < limit, x * factor, const(0.0, acc))
                    for w, x in zip(words, elements)]

        return stream(call, 4, (dt.int64, dt.float64), values, reads=1)

    save = ("seed", "offset", "threshold", "scale")

    def vjp(ctx, g):
        return REGISTRY["drop_elements"].fn(laid_out(g, ctx.strides), ctx.seed, ctx.offset,
                                            ctx.threshold, ctx.scale, strides=ctx.strides)


def laid_out(t: Any, strides: tuple[int, ...]) -> Any:
    """`t`, or a copy of it, with these dense strides (those of dims of size 1 may differ)."""
    m = t.meta.plain
    if m.strides == strides or all(
            a == b or n == 1 for n, a, b in zip(m.shape, m.strides, strides)):
        return t
    order = sorted(range(m.ndim), key=lambda k: (-strides[k], k))
    back = sorted(range(m.ndim), key=order.__getitem__)
    return t.permute(order).contiguous().permute(back)
