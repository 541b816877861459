"""Arithmetic: elementwise ops of one, two or three tensors.

Floor 3. Every op is one scalar expression; gradients are derived from it unless a rule is given.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from ..base.errors import DtypeError
from ..base.limits import LARGEST
from ..base.meta import Meta
from ..ir import expr as E
from ..ir.expr import by_type, select
from .checks import need_tensors
from .facts import examples
from .registry import REGISTRY, Detour, Param, Scalar, composite, elementwise

FLOATING = "fc"
REAL = "buif"


# ---------------------------------------------------------------- shared checks and expressions

def kind_of(operand):
    """Dtype kind of an operand: a Meta, or the Python type of a number."""
    if isinstance(operand, Meta):
        return operand.dtype.kind
    return {bool: "b", int: "i", float: "f", complex: "c"}[operand]


def result_kind(operands):
    """The highest kind among operands."""
    return max(map(kind_of, operands), key="buifc".index)


def refuse_bool_minus(op, operands, attrs):
    """PyTorch has no subtraction of masks."""
    kinds = [kind_of(m) for m in operands[:2]]
    hint = ("If you are trying to invert a mask, use the `~` or `logical_not()` operator "
            "instead.")
    if kinds == ["b", "b"]:
        raise RuntimeError("Subtraction, the `-` operator, with two bool tensors is not "
                           "supported. Use the `^` or `logical_xor()` operator instead.")
    if "b" in kinds:
        raise RuntimeError("Subtraction, the `-` operator, with a bool tensor is not supported. "
                           + hint)


def check_alpha(op, operands, attrs):
    """The kind of `alpha` (the last operand) may not exceed that of the tensors."""
    alpha, kind = kind_of(operands[-1]), result_kind(operands[:2])
    if alpha == "b" and kind != "b":
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if alpha == "f" and kind not in "fc":
        raise RuntimeError("For integral input tensors, argument alpha must not be a floating "
                           "point number.")


def check_sub_scaled(op, operands, attrs):
    """sub with alpha: both rules."""
    refuse_bool_minus(op, operands, attrs)
    check_alpha(op, operands, attrs)


def refuse_negated_bool(op, operands, attrs):
    """-mask is an error in PyTorch."""
    if kind_of(operands[0]) == "b":
        raise RuntimeError("Negation, the `-` operator, on a bool tensor is not supported. If you "
                           "are trying to invert a mask, use the `~` or `logical_not()` operator "
                           "instead.")


def conj(x):
    """Complex conjugate in the complex case."""
    return by_type(c=E.complex_(E.real(x), -E.imag(x)), other=x)


def sign_of(x):
    """-1, 0 or 1, and 0 for NaN; x / |x| for complex numbers."""
    size = E.abs_(x)
    return by_type(
        c=select(E.eq(size, 0.0), 0.0, x / size),
        u=select(E.ne(x, 0), 1, 0), b=x,
        other=select(x > 0, 1, select(x < 0, -1, 0)))


def sign_bit(x):
    """Whether the sign bit is set, also of -0.0 and NaN."""
    return by_type(float32=E.bitcast(x, dt.int32) < 0, float64=E.bitcast(x, dt.int64) < 0,
                   other=x < 0)


def with_alpha(op, form, input, other, *, alpha, out=None):
    """add and sub with alpha != 1."""
    if isinstance(alpha, complex):  # the slot for a number holds no complex one
        if result_kind([getattr(x, "meta", type(x)) for x in (input, other)]) != "c":
            raise RuntimeError("For non-complex input tensors, argument alpha must not be a "
                               "complex number.")
        scaled, other, rest = op, other * alpha, ()
    else:
        scaled, rest = REGISTRY[op.name + "_scaled"], (alpha,)
    if form == "inplace":
        return scaled.ifn(input, other, *rest)
    return scaled.fn(input, other, *rest, out=out)


ALPHA = Detour("alpha is not $alpha", with_alpha, (Param("alpha", "S", 1, True),))


# ---------------------------------------------------------------- + - * / and relatives

@elementwise(where=(), method=False, inplace=True, check=check_alpha, numbers=True,
             fitting=("alpha", "uif"))
def add_scaled(input, other, alpha: Scalar):
    """input + alpha * other (the form of `add` with alpha != 1)."""
    return input + alpha * other


@elementwise(where=(), method=False, inplace=True, check=check_sub_scaled,
             numbers=True, fitting=("alpha", "uif"))
def sub_scaled(input, other, alpha: Scalar):
    """input - alpha * other (the form of `sub` with alpha != 1)."""
    return input - alpha * other


@elementwise(detour=ALPHA, numbers=True)
def add(input, other):
    """input + alpha * other, with broadcasting and promotion.

    >>> lampion.add(lampion.tensor([1, 2]), 10, alpha=2)
    tensor([21, 22])
    """
    return input + other


@elementwise(detour=ALPHA, check=refuse_bool_minus, numbers=True, aliases=("subtract",))
def sub(input, other):
    """input - alpha * other; RuntimeError for bool operands."""
    return input - other


@composite(method=False, samples="""
    f(2, 3), f(3)
    i(3), 2, alpha=3
    f(2), 1.5
""")
def rsub(input, other, *, alpha=1):
    """other - alpha * input."""
    need_tensors("rsub", input=input)
    if alpha == 1:
        return sub.fn(other, input)
    return sub.fn(other, input, alpha=alpha) if hasattr(other, "meta") else sub.fn(
        other, input * alpha)


@elementwise(aliases=("multiply",), numbers=True)
def mul(input, other):
    """input * other."""
    return input * other


def with_rounding(op, form, input, other, *, rounding_mode, out=None):
    """div with rounding_mode "trunc" or "floor"."""
    if rounding_mode not in ("trunc", "floor"):
        raise RuntimeError("div expected rounding_mode to be one of None, 'trunc', or 'floor' "
                           f"but found '{rounding_mode}'")
    rounded = REGISTRY["div_trunc" if rounding_mode == "trunc" else "floor_divide"]
    if form == "inplace":
        return rounded.ifn(input, other)
    return rounded.fn(input, other, out=out)


@elementwise(promote="float", aliases=("divide", "true_divide"), numbers=True,
             domain={"other": (0.5, 3)}, detour=Detour(
    "rounding_mode is not None", with_rounding, (Param("rounding_mode", "A", None, True),)))
def div(input, other):
    """input / other; integers become floats. rounding_mode "trunc" or "floor" rounds the
    quotient and keeps the dtype."""
    return input / other


@elementwise(where=(), method=False, inplace=True, kinds="uif", divisor="other",
             numbers=True)
def div_trunc(input, other):
    """The quotient rounded towards 0."""
    return by_type(f=E.trunc(input / other), other=E.idiv(input, other))


@elementwise(kinds="uif", divisor="other", numbers=True, domain={"other": (0.6, 3)})
def floor_divide(input, other):
    """The quotient rounded down. RuntimeError for integer division by 0."""
    real = floored_quotient(input, other)
    rest = truncated_rest(input, other)
    off = E.ne(rest, 0) & ((rest < 0) ^ (other < 0))
    return by_type(f=real, i=E.idiv(input, other) - select(off, 1, 0), u=E.idiv(input, other))


def truncated_rest(x, y):
    """fmod. Floating numbers whose quotient is small enough to be off by at most one take two
    exact multiply-adds; the intrinsic, which is a slow loop everywhere, serves the others."""
    ratio = x / y
    whole = E.trunc(ratio)
    first = E.fma(-whole, y, x)
    short = E.abs_(first) >= E.abs_(y)
    past = E.ne(first, 0.0) & ((first < 0.0) ^ (x < 0.0))
    step = select(ratio < 0.0, -1.0, 1.0)
    whole = whole + select(short, select(past, 0.0, step), select(past, -step, 0.0))
    rest = E.fma(-whole, y, x)
    rest = select(E.eq(rest, 0.0), x * 0.0, rest)
    limit = by_type(float64=2.0 ** 50, other=2.0 ** 21)
    usual = (E.abs_(ratio) < limit) & (E.abs_(y) < math.inf)
    fast = E.rarely(~usual, E.fmod(x, y), rest)
    return by_type(f=fast, other=E.fmod(x, y))


def floored_quotient(input, other):
    """floor(input / other) for floating numbers, exact even where the quotient rounds up."""
    rest = truncated_rest(input, other)
    off = E.ne(rest, 0) & ((rest < 0) ^ (other < 0))
    quotient = (input - rest) / other - select(off, 1.0, 0.0)
    down = E.floor(quotient)
    rounded = down + select(quotient - down > 0.5, 1.0, 0.0)
    zero = select(sign_bit(input / other), -0.0, 0.0)
    return select(E.eq(other, 0), input / other, select(E.eq(quotient, 0), zero, rounded))


@div_trunc.grad
@floor_divide.grad
def _flat(g, out, input, other):
    return None, None


@elementwise(kinds="uif", divisor="other", domain={"other": (0.6, 3)})
def remainder(input, other):
    """input modulo other, with the sign of other. RuntimeError for integer division by 0."""
    rest = truncated_rest(input, other)
    off = E.ne(rest, 0) & ((rest < 0) ^ (other < 0))
    return by_type(u=rest, other=select(off, rest + other, rest))


@remainder.grad
def _remainder_grad(g, out, input, other):
    return g, -g * floored_quotient(input, other)


@elementwise(tensors=("input",), kinds="uif", divisor="other", domain={"other": (0.6, 3)})
def fmod(input, other):
    """The rest of the division rounded towards 0, with the sign of input. RuntimeError for
    integer division by 0."""
    return truncated_rest(input, other)


@fmod.grad
def _fmod_grad(g, out, input, other):
    return g, -g * E.trunc(input / other)


@elementwise(out_cast="same", check=refuse_negated_bool, aliases=("negative",), kinds="buifc")
def neg(input):
    """-input; RuntimeError for bool."""
    return -input


@composite(method=True, out=False, samples="""
    f(2, 3).transposed
    i(3)
""")
def positive(input):
    """The input itself; RuntimeError for bool."""
    if input.meta.dtype.kind == "b":
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


@elementwise(out_cast="same", promote="real", kinds="uifc", aliases=("absolute",))
def abs(input):
    """|input|; the modulus of complex numbers."""
    return E.abs_(input)


@abs.grad
def _abs_grad(g, out, input):
    return g * sign_of(input)


@elementwise(out_cast="same", kinds="buif")
def sign(input):
    """-1, 0 or 1 by the sign of each element; 0 for NaN."""
    return sign_of(input)


@elementwise(out_cast="same")
def sgn(input):
    """sign() extended to complex numbers: x / |x|."""
    return sign_of(input)


@sign.grad
def _sign_grad(g, out, input):
    return None


@sgn.grad
def _sgn_grad(g, out, input):
    size = E.abs_(input)
    along = E.real(conj(out) * g)
    return by_type(c=select(E.eq(size, 0.0), 0.0, (g - out * along) / size), other=E.const(0.0))


@elementwise(promote="float", domain=(0.3, 3))
def reciprocal(input):
    """1 / input."""
    return 1.0 / input


@elementwise(promote=lambda d, attrs: [dt.int64 if d.kind == "b" else d])
def square(input):
    """input * input."""
    return input * input


@elementwise(where=(), method=False, inplace=True)
def cube(input):
    """input ** 3 (the form of `pow` with exponent 3)."""
    return input * input * input


# ---------------------------------------------------------------- powers

def power(op, form, input, exponent, *, out=None):
    """pow with a number: the small exponents that have a cheaper form, then the general one."""
    t = type(exponent)
    m = getattr(input, "meta", None)
    chosen = REGISTRY["pow_general"]
    if t in (int, float) and m is not None:
        kind = m.dtype.kind
        if t is int and exponent < 0 and kind in "uib":
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        if kind in "fc" or (t is int and kind in "ui"):
            name = _POWERS.get(exponent)
            if name is not None:
                one = REGISTRY[name]
                return one.ifn(input) if form == "inplace" else one.fn(input, out=out)
    elif form == "operator" and not hasattr(exponent, "meta") and not _number_like(exponent):
        return NotImplemented
    if form == "inplace":
        return chosen.ifn(input, exponent)
    return chosen.fn(input, exponent, out=out)


_POWERS = {2: "square", 3: "cube", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


def _number_like(x):
    return isinstance(x, (bool, int, float, complex)) or hasattr(x, "__torch_function__") or (
        type(x).__module__ == "numpy" and getattr(x, "shape", None) == ())


@elementwise(kinds="uifc", domain={"input": (0.2, 3)}, detour=Detour(
    "type(exponent) is not Tensor", power))
def pow(input, exponent):
    """input ** exponent. RuntimeError for an integer tensor with a negative integer number."""
    return input ** exponent


@elementwise(kinds="uifc", where=(), method=False, inplace=True)
def pow_general(input, exponent):
    """input ** exponent (what `pow` is for numbers without a cheaper form)."""
    return input ** exponent


@composite(out_cast="safe", replay=True, method=True, samples="""
    f(2, 3, low=0.1, dtype=float64), f(3)
    i(3, low=1), f(3, dtype=float64)
    f(3, low=0.1, dtype=float64), 1.5
    2, f(3, dtype=float64)
""")
def float_power(input, exponent):
    """input ** exponent in double precision."""
    wide = _double_of(input, exponent)
    return pow.fn(*(v.to(wide) if hasattr(v, "meta") else v for v in (input, exponent)))


def _double_of(*operands):
    """complex128 if an operand is complex, else float64."""
    is_complex = any(isinstance(v, complex) or (hasattr(v, "meta") and v.meta.dtype.kind == "c")
                     for v in operands)
    return dt.complex128 if is_complex else dt.float64


@composite(method=True, out=False, where=(), name="float_power_", samples="""
    f(2, 3, low=0.1, dtype=float64), f(3)
    f(3, low=0.1, dtype=float64).strided, 1.5
""")
def float_power_inplace(input, exponent):
    """In-place `float_power`. RuntimeError for a tensor that is not in double precision."""
    wide = _double_of(input, exponent)
    if input.meta.dtype is not wide:
        raise RuntimeError(f"the base given to float_power_ has dtype {input.meta.dtype!r} but the "
                           f"operation's result requires dtype {wide!r}")
    return pow.ifn(input, exponent.to(wide) if hasattr(exponent, "meta") else exponent)


# ---------------------------------------------------------------- extremes

@elementwise(tensors=("input", "other"), kinds=REAL)
def maximum(input, other):
    """The larger of two elements; NaN if either is."""
    return E.maximum(input, other)


@elementwise(tensors=("input", "other"), kinds=REAL)
def minimum(input, other):
    """The smaller of two elements; NaN if either is."""
    return E.minimum(input, other)


@elementwise(tensors=("input", "other"), kinds=REAL)
def fmax(input, other):
    """The larger of two elements; a NaN gives way to a number."""
    return select((input >= other) | E.isnan(other), input, other)


@elementwise(tensors=("input", "other"), kinds=REAL)
def fmin(input, other):
    """The smaller of two elements; a NaN gives way to a number."""
    return select((input <= other) | E.isnan(other), input, other)


def clamp_one_sided(op, form, input, min=None, max=None, *, out=None):
    """clamp with one bound."""
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    name, bound = ("clamp_max", max) if min is None else ("clamp_min", min)
    one = REGISTRY[name]
    return one.ifn(input, bound) if form == "inplace" else one.fn(input, bound, out=out)


@elementwise(kinds="uif", aliases=("clip",),
             domain={"min": (-1, 0), "max": (0.2, 1)}, fitting=("min max", "uif"),
             detour=Detour("min is None or max is None", clamp_one_sided))
def clamp(input, min=None, max=None):
    """input limited to [min, max]; bounds are numbers or tensors, None is no bound."""
    return E.minimum(E.maximum(input, min), max)


@clamp.grad
def _clamp_grad(g, out, input, min, max):
    inside = (input >= min) & (input <= max)
    return (select(inside, g, 0.0), select((min < max) & (input < min), g, 0.0),
            select((max < min) | (input > max), g, 0.0))


@elementwise(kinds="buif", tensors=("input",), fitting=("min", "uif"))
def clamp_min(input, min):
    """input, or `min` where that is larger."""
    return E.maximum(input, min)


@clamp_min.grad
def _clamp_min_grad(g, out, input, min):
    return select(input >= min, g, 0.0), select(input < min, g, 0.0)


@elementwise(tensors=("input",), kinds="buif", fitting=("max", "uif"))
def clamp_max(input, max):
    """input, or `max` where that is smaller."""
    return E.minimum(input, max)


@clamp_max.grad
def _clamp_max_grad(g, out, input, max):
    return select(input <= max, g, 0.0), select(input > max, g, 0.0)


# ---------------------------------------------------------------- three operands

def with_complex_value(op, form, input, tensor1, tensor2, *, value, out=None):
    """addcmul and addcdiv with a complex value: the slot for a number holds no complex one."""
    operands = (input, tensor1, tensor2)
    if result_kind([getattr(x, "meta", type(x)) for x in operands]) != "c":
        raise RuntimeError(f"{op.name}: value {value} cannot be converted to a real type without "
                           "overflow")
    if form == "inplace":
        return op.ifn(input, tensor1 * value, tensor2)
    return op.fn(input, tensor1 * value, tensor2, out=out)


COMPLEX_VALUE = Detour("type(value) is complex", with_complex_value)


@elementwise(kinds="uifc", detour=COMPLEX_VALUE, fitting=("value", "ui"))
def addcmul(input, tensor1, tensor2, *, value: Scalar = 1):
    """input + value * tensor1 * tensor2."""
    return input + value * tensor1 * tensor2


def _refuse_integer_addcdiv(op, operands, attrs):
    if all(kind_of(m) in "bui" for m in operands[1:3]):
        raise RuntimeError(
            "Integer division with addcdiv is no longer supported, and in a future release "
            "addcdiv will perform a true division of tensor1 and tensor2. Use (input + value * "
            "torch.trunc(tensor1 / tensor2)).to(input.dtype) or (input + value * tensor1 / "
            "tensor2).")


@elementwise(check=_refuse_integer_addcdiv, domain={"tensor2": (0.5, 2)}, detour=COMPLEX_VALUE)
def addcdiv(input, tensor1, tensor2, *, value: Scalar = 1):
    """input + value * tensor1 / tensor2; RuntimeError for integers."""
    return input + value * (tensor1 / tensor2)


def _same_floats(op, operands, attrs):
    """lerp, heaviside... do not promote."""
    kinds = [m.dtype for m in operands if isinstance(m, Meta)]
    for k in kinds[1:]:
        if k is not kinds[0]:
            raise RuntimeError(f"{op.name}: expected all tensors to have the same dtype "
                               f"{kinds[0]!r}, but got {k!r}")


@elementwise(kinds=FLOATING, check=_same_floats,
             out_cast=lambda input, end, weight: "same" if hasattr(weight, "meta") else "safe")
def lerp(input, end, weight):
    """input + weight * (end - input), exact at both ends."""
    near = input + weight * (end - input)
    far = end - (end - input) * (1 - weight)
    return select(E.abs_(weight) < 0.5, near, far)


@lerp.grad
def _lerp_grad(g, out, input, end, weight):
    return g * conj(1 - weight), g * conj(weight), g * conj(end - input)


@elementwise(tensors=("input", "other"), kinds="f")
def hypot(input, other):
    """sqrt(input**2 + other**2) without overflow."""
    a, b = E.abs_(input), E.abs_(other)
    high = select((a >= b) | E.isnan(a), a, b)
    low = select((a >= b) | E.isnan(a), b, a)
    ratio = low / select(E.eq(high, 0.0), 1.0, high)
    size = high * E.sqrt(1.0 + ratio * ratio)
    return select(E.eq(a, math.inf) | E.eq(b, math.inf), math.inf, size)


@hypot.grad
def _hypot_grad(g, out, input, other):
    return g * (input / out), g * (other / out)


@elementwise(tensors=("input",), promote="float", kinds=REAL)
def copysign(input, other):
    """|input| with the sign of other."""
    size = E.abs_(input)
    return select(sign_bit(other), -size, size)


@copysign.grad
def _copysign_grad(g, out, input, other):
    return g * select(E.eq(input, 0.0), 0.0, out / input), None


@elementwise(tensors=("input", "other"), promote="float")
def ldexp(input, other):
    """input * 2**other."""
    return input * by_type(c=E.op("pow", 2.0, other), other=E.exp2(other))


@composite(out_cast="safe", method=True, inplace=True, samples="""
    f(2, 3), f(3)
    v([0.0, 1, inf]), v([1.0, 1, 0])
""")
def nextafter(input, other):
    """The next number of the dtype after input in the direction of other."""
    d = dt.promote_types(input.meta.dtype, other.meta.dtype)
    return (next_half if d is dt.float16 else next_bfloat if d is dt.bfloat16
            else next_float).fn(input, other)


def _step(x, y, moved, tiny):
    """`moved(away)` is the neighbour of x, away from 0 or towards it; `tiny` that of 0."""
    start = select(y > 0.0, tiny, -tiny)
    there = select(E.eq(x, y), y, select(E.eq(x, 0.0), start, moved((y > x) ^ (x < 0.0))))
    return select(E.isnan(x) | E.isnan(y), x + y, there)


def _move_bits(x, away, i, f, ulp):
    return E.bitcast(E.bitcast(x, i) + E.cast(select(away, ulp, -ulp), i), f)


STEPS = {"where": (), "method": False, "kinds": "f"}


@elementwise(**STEPS)
def next_float(input, other):
    """nextafter on float32 or float64, by the bits."""
    def step(i, f):
        return _step(input, other, lambda away: _move_bits(input, away, i, f, 1),
                     E.bitcast(E.cast(1, i), f))

    return by_type(float32=step(dt.int32, dt.float32), float64=step(dt.int64, dt.float64))


@elementwise(**STEPS)
def next_bfloat(input, other):
    """nextafter on bfloat16: the upper half of a float32."""
    return _step(input, other,
                 lambda away: _move_bits(input, away, dt.int32, dt.float32, 1 << 16),
                 E.bitcast(E.cast(1 << 16, dt.int32), dt.float32))


@elementwise(**STEPS)
def next_half(input, other):
    """nextafter on float16: 2**-24 below the normal range, the 13th bit of a float32 above."""
    def moved(away):
        small = (E.abs_(input) < 2.0 ** -14) | (E.eq(E.abs_(input), 2.0 ** -14) & ~away)
        along = select((input < 0.0) ^ away, 2.0 ** -24, -2.0 ** -24)
        return select(small, input + along,
                      _move_bits(input, away, dt.int32, dt.float32, 1 << 13))

    return _step(input, other, moved, 2.0 ** -24)


def _step_gradient(g, out, input, other):
    """The step is constant: 1 in input, where there is one."""
    return select(E.eq(input, other), 0.0, g), None


for _op in (next_float, next_bfloat, next_half):
    _op.grad(_step_gradient)


@elementwise(out_cast="same", tensors=("input", "values"), kinds="buif", differentiable=False,
             check=_same_floats)
def heaviside(input, values):
    """0 for negative input, 1 for positive, `values` at 0."""
    return select(E.eq(input, 0), values, select(input > 0, 1, 0))


@elementwise(kinds="f", noutputs=2, returns=("mantissa", "exponent"),
             promote=lambda d, attrs: [d, dt.int32], samples="""
    f(2, 3)
    v([0.0, inf, -8])
    f(3, 4).transposed
""")
def frexp(input):
    """(mantissa, exponent) with input = mantissa * 2**exponent and 1/2 <= |mantissa| < 1."""
    single = _frexp_parts(input, dt.int32, dt.float32, 23, 0xFF, 126)
    double = _frexp_parts(input, dt.int64, dt.float64, 52, 0x7FF, 1022)
    return tuple(by_type(float32=a, float64=b) for a, b in zip(single, double))


def _frexp_parts(x, i, f, width, mask, half):
    """By the bits; subnormal numbers are scaled up first. `half` is the exponent field of 1/2."""
    tiny = E.abs_(x) < 2.0 ** (1 - half)
    bits = E.bitcast(select(tiny, x * 2.0 ** 60, x), i)
    exponent = ((bits >> width) & mask) - half - E.cast(select(tiny, 60, 0), i)
    mantissa = E.bitcast((bits & ~(mask << width)) | (half << width), f)
    plain = E.eq(x, 0.0) | ~(E.abs_(x) < math.inf)
    return select(plain, x, mantissa), select(plain, E.cast(0, i), exponent)


@frexp.grad
def _frexp_grad(g, g_exponent, mantissa, exponent, input):
    return g * E.exp2(-exponent)


# ---------------------------------------------------------------- choice

def where_indices(op, form, condition, input=None, other=None, *, out=None):
    """where(condition): the indices of the true elements."""
    if input is not None:
        raise TypeError("where() expects either condition alone, or condition, input and other")
    return REGISTRY["nonzero"].fn(condition, as_tuple=True)


def _boolean_condition(op, operands, attrs):
    d = operands[0].dtype
    if d.name not in ("bool", "uint8"):
        from .plans import _word

        raise RuntimeError("where expected condition to be a boolean tensor, but got a tensor "
                           f"with dtype {_word(d)}")


@elementwise(out_cast="same", method=False, check=_boolean_condition,
             detour=Detour("other is None", where_indices), fitting=("input other", "ui"))
def where(condition: bool, input=None, other=None):
    """input where the condition holds, other elsewhere; where(condition) gives indices."""
    return select(condition, input, other)


@composite(name="where_method", method=True, out=False, where=(), aliases=("where",), samples="""
    f(2, 3), b(3), f(2, 1)
    f(3, 4).transposed, b(3, 4), 1.5
    i(3), b(3), i(3)
""")
def where_method(self, condition, other):
    """This tensor where the condition holds, other elsewhere."""
    return where.fn(condition, self, other)


def fill_limits(op, form, input, nan=0.0, posinf=None, neginf=None, *, out=None):
    """nan_to_num with the limits of the dtype."""
    d = input.meta.dtype
    if d.kind not in "fc":
        return input if form == "inplace" else positive_copy(input, out)
    top = LARGEST[d.to_real().name]
    args = (input, 0.0 if nan is None else nan, top if posinf is None else posinf,
            -top if neginf is None else neginf)
    return op.ifn(*args) if form == "inplace" else op.fn(*args, out=out)


def positive_copy(input, out):
    """A copy, or `out` filled with the values."""
    return input.clone() if out is None else REGISTRY["duplicate"].fn(input, out=out)


@elementwise(out_cast="same", kinds="fc", detour=Detour(
    "posinf is None or neginf is None or nan is None or input.meta.dtype.kind in 'bui'",
    fill_limits))
def nan_to_num(input, nan: Scalar = 0.0, posinf: Scalar = None, neginf: Scalar = None):
    """NaN and infinities replaced: by `nan`, and by posinf and neginf, which default to the
    largest and smallest number of the dtype."""
    return by_type(f=_replaced(input, nan, posinf, neginf),
                   c=E.complex_(_replaced(E.real(input), nan, posinf, neginf),
                                _replaced(E.imag(input), nan, posinf, neginf)), other=input)


def _replaced(x, nan, posinf, neginf):
    x = select(E.isnan(x), nan, x)
    return select(E.eq(x, math.inf), posinf, select(E.eq(x, -math.inf), neginf, x))


@nan_to_num.grad
def _nan_to_num_grad(g, out, input, nan, posinf, neginf):
    finite = by_type(c=E.ne(E.abs_(input), math.inf) & E.eq(input, input),
                     other=E.abs_(input) < math.inf)
    return select(finite, g, 0.0), None, None, None


# ---------------------------------------------------------------- integers

@elementwise(where=(), method=False, noutputs=2, differentiable=False, kinds="ui")
def gcd_steps(input, other):
    """Eight steps of Euclid's algorithm on a pair."""
    a, b = input, other
    for _ in range(8):
        done = E.eq(b, 0)
        a, b = select(done, a, b), select(done, b, E.fmod(a, select(done, 1, b)))
    return a, b


@composite(out_cast="safe", method=True, inplace=True, differentiable=False, samples="""
    i(2, 3, low=-20, high=20), i(3, low=-20, high=20)
    i(4), v([0, 0, 6, -3])
""")
def gcd(input, other):
    """The greatest common divisor of integers."""
    if input.meta.dtype.kind not in "ui" or other.meta.dtype.kind not in "ui":
        raise DtypeError(f'"gcd" is not implemented for dtype {input.meta.dtype!r}; it takes '
                         "integers")
    a, b = input.abs(), other.abs()
    while True:
        a, b = gcd_steps.fn(a, b)
        if not bool((examples(b) != 0).any()):
            return a


@composite(out_cast="safe", replay=True, method=True, inplace=True, differentiable=False,
           samples="""
    i(2, 3, low=-20, high=20), i(3, low=-20, high=20)
    i(4), v([0, 0, 6, -3])
""")
def lcm(input, other):
    """The least common multiple of integers; 0 if either is 0."""
    d = gcd.fn(input, other)
    part = div_trunc.fn(input, d.clamp_min(1))
    return (part * other).abs()


__all__ = ["add", "sub", "mul", "div", "conj", "sign_of", "sign_bit", "kind_of"]
