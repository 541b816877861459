"""The math expansions: accuracy over their domains, and the special values of IEEE and C."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lampion.base import dtype as dt
from lampion.ir import accuracy, interpret
from lampion.ir import math as M
from lampion.ir.expr import INTRINSICS, node, typed, var, walk

UNARY = [n for n in sorted(M.FUNCTIONS) if INTRINSICS[n][0] == 1]


def value(name, *args):
    """Interpret an expansion."""
    d = dt.from_numpy(args[0].dtype)
    body, variables = M.template(name, d)
    env = {v.value: a for v, a in zip(variables, args)}
    with np.errstate(all="ignore"):
        return interpret.evaluate([body], {}, env=env)[0]


@pytest.mark.parametrize("name", sorted(M.FUNCTIONS))
@pytest.mark.parametrize("d", [dt.float32, dt.float64], ids=["float32", "float64"])
def test_accuracy(name, d):
    pytest.importorskip("mpmath")
    error = accuracy.measure(name, d, 2000)
    print(f"{name} {d.name}: {error:.2f} ulp")
    assert error <= M.BOUNDS[name][d is dt.float64]


@pytest.mark.parametrize("name, low, high", [
    ("erf", 0.2, 0.2253), ("tanh", 0.24, 0.26), ("tanh", 0.319, 0.33)])
def test_accuracy_where_it_is_least(name, low, high):
    """Many neighbouring numbers, just below a power of two, where a unit is smallest."""
    a, b = (int(np.float32(v).view(np.int32)) for v in (low, high))
    x = np.arange(a, b, 7, np.int32).view(np.float32)
    wide = x.astype(np.float64)
    want = np.tanh(wide) if name == "tanh" else pytest.importorskip("scipy.special").erf(wide)
    assert accuracy.ulps(value(name, x), want.astype(np.longdouble), dt.float32).max() <= 2


def reference(name, x):
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        return interpret._FLOAT[name](wide.astype(np.longdouble)).astype(np.float64)


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("nd", [np.float32, np.float64])
def test_special_values(name, nd):
    info = np.finfo(nd)
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, info.max, -info.max, info.tiny,
                  -info.tiny, info.smallest_subnormal, -info.smallest_subnormal, 0.5, -0.5, 2.0,
                  -2.0, -3.0, 1.5, 1000.0, -1000.0, 3.0, 1e-30,
                  -2896.3223, 1e6, -1e6], nd)
    got = value(name, x)
    with np.errstate(all="ignore"):
        want = reference(name, x).astype(nd)
    if name in ("sin", "cos", "tan") and nd is np.float64:
        keep = np.abs(x) < 1e18  # the oracle is no better
        got, want, x = got[keep | ~np.isfinite(x)], want[keep | ~np.isfinite(x)], x[
            keep | ~np.isfinite(x)]
    for a, g, w in zip(x, got, want):
        if math.isnan(w):
            assert math.isnan(g), (name, a, g, w)
        elif math.isinf(w) or w == 0:
            assert g == w and math.copysign(1, g) == math.copysign(1, w), (name, a, g, w)
        else:
            near = 40 if name == "lgamma" else 5  # Python's lgamma is 14 ulps off at 1.5
            assert abs(g - w) <= near * np.spacing(np.abs(nd(w))), (name, a, g, w)


def _pow(a, b):
    """C's pow (Python's raises where C gives inf or NaN)."""
    try:
        return math.pow(a, b)
    except OverflowError:
        return math.inf if a > 0 or b % 2 != 1 else -math.inf
    except ValueError:
        if a != 0:
            return math.nan
        return math.copysign(math.inf, a) if b % 2 == 1 else math.inf


@pytest.mark.parametrize("nd", [np.float32, np.float64])
def test_power_special_cases_are_those_of_c(nd):
    values = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 2.5, -2.5, np.inf, -np.inf,
              np.nan, 1e30, 1e-30, 101.0, -101.0]
    for a in values:
        for b in values:
            got = value("pow", np.array([a], nd), np.array([b], nd))[0]
            want = nd(_pow(a, b))
            if np.isnan(want):
                assert np.isnan(got), (a, b, got)
            elif np.isinf(want) or want == 0:
                assert got == want and np.signbit(got) == np.signbit(want), (a, b, got, want)
            else:
                assert abs(got - want) <= 4 * np.spacing(abs(want)), (a, b, got, want)


def test_atan2_octants_and_zeros():
    values = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-30, -1e30, 0.5, -7.0]
    for nd in (np.float32, np.float64):
        y, x = (np.array(v, nd) for v in zip(*[(a, b) for a in values for b in values]))
        got, want = value("atan2", y, x), np.arctan2(y, x)
        np.testing.assert_allclose(got, want, rtol=4 * np.finfo(nd).eps)
        assert (np.signbit(got) == np.signbit(want))[~np.isnan(want)].all()


@pytest.mark.parametrize("d", [d for d in dt.ALL if d.kind in "iu"], ids=lambda d: d.name)
def test_integer_powers_wrap(d):
    rng = np.random.default_rng(0)
    info = np.iinfo(d.np)
    base = rng.integers(-12 if d.kind == "i" else 0, 13, 400).astype(d.np)
    exponent = rng.integers(-3 if d.kind == "i" else 0, 70, 400).astype(d.np)
    exponent[:8] = info.max
    base[8:12] = info.max
    base[12:14] = info.min
    want = interpret.integer_power(base, exponent, d)
    np.testing.assert_array_equal(value("pow", base, exponent), want)


def test_expansions_use_only_cheap_intrinsics():
    for name in M.FUNCTIONS:
        for d in (dt.float32, dt.float64):
            body, _ = M.template(name, d)
            assert not {n.op for n in walk([body])} & set(M.FUNCTIONS)


def test_sixteen_bit_floats_go_through_float32():
    x = var("x", dt.float16)
    e = M.expand(node("exp", (x,), None, dt.float16))
    assert e.op == "cast" and e.dtype is dt.float16
    got = interpret.evaluate([e], {}, env={"x": np.array([1.0], np.float16)})[0]
    assert got[0] == np.float16(math.e)


def test_complex_is_refused():
    x = var("x", dt.complex64)
    with pytest.raises(ValueError, match="expand_complex"):
        M.expand(typed([node("exp", (x,))], {"x": dt.complex64}, dt.complex64)[0])


def test_the_table_lists_every_function():
    rows = M.accuracy_table(200)
    assert {r[0] for r in rows} == set(M.FUNCTIONS) and len(rows) == 2 * len(M.FUNCTIONS)
    assert all(r[2] < 5 for r in rows)


def test_compiled_code_computes_the_same_bits():
    codegen = pytest.importorskip("lampion_cpu.codegen")
    from lampion.ir.expr import index, load, param
    from lampion.ir.kernel import Arg, Kernel, Stage, Store

    for name in UNARY:
        for d in (dt.float32,):
            x = accuracy.samples_of(d, *M.DOMAINS[name][-1], 1000)
            x[:5] = [np.nan, np.inf, -np.inf, 0.0, -0.0]
            body = node(name, (load(1, index(0), d),), None, d)
            kernel = Kernel(name, (Arg("out", d), Arg("in", d)), (param(0),),
                            (Stage((), (Store(0, index(0), body),)),), 1)
            out = np.zeros_like(x)
            import ctypes

            compiled = codegen.compile_kernel(kernel, [len(x)])
            slots = (ctypes.c_int64 * 2)(out.ctypes.data, x.ctypes.data)
            params = (ctypes.c_int64 * 1)(len(x))
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                             ctypes.c_int64)(compiled.address)(
                ctypes.addressof(slots), ctypes.addressof(params), 0,
                compiled.units_grain([len(x)])[0])
            want = value(name, x)
            bits = out.view(np.int32) == want.view(np.int32)
            ok = bits | (np.isnan(out) & np.isnan(want))
            assert ok.all(), (name, x[~ok][:4], out[~ok][:4], want[~ok][:4])
