"""Complex kernels as real ones: every function against NumPy, reductions, loads and stores."""

from __future__ import annotations

import numpy as np
import pytest

from lampion.base import dtype as dt
from lampion.ir import complex as C
from lampion.ir import expr as E
from lampion.ir import interpret
from lampion.ir.kernel import Arg, ArgReduce, Kernel, Reduce, Scan, Scatter, Stage, Store

rng = np.random.default_rng(0)


def as_real(a):
    return a.view(a.real.dtype).reshape(-1) if a.dtype.kind == "c" else a


def run(kernel, params, arrays):
    """Expand and interpret; arrays are changed in place."""
    real = C.expand_complex(kernel)
    assert not any(a.dtype.kind == "c" for a in real.args)
    interpret.run(real, params, [as_real(a) if isinstance(a, np.ndarray) else a for a in arrays])


def unary(name, d=dt.complex128, out=None):
    x = E.load(1, E.index(0), d)
    value = E.typed([E.op(name, x)], {}, d)[0]
    out = out or value.dtype
    return Kernel(name, (Arg("out", out), Arg("in", d)), (E.param(0),),
                  (Stage((), (Store(0, E.index(0), value),)),), 1)


NUMPY = {"exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2,
         "log10": np.log10, "log1p": lambda z: (
             0.5 * np.log1p(2 * z.real + z.real**2 + z.imag**2)
             + 1j * np.arctan2(z.imag, 1 + z.real)), "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos,
         "tan": np.tan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asin": np.arcsin,
         "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh, "acosh": np.arccosh,
         "atanh": np.arctanh, "neg": np.negative, "rsqrt": lambda z: 1 / np.sqrt(z)}


@pytest.mark.parametrize("name", sorted(NUMPY))
@pytest.mark.parametrize("d", [dt.complex64, dt.complex128], ids=["complex64", "complex128"])
def test_functions(name, d):
    z = np.concatenate([
        rng.standard_normal(400) + 1j * rng.standard_normal(400),
        1 + 1e-3 * (rng.standard_normal(50) + 1j * rng.standard_normal(50)),
        8 * (rng.standard_normal(100) + 1j * rng.standard_normal(100)),
        [2, -2, 0.5, -0.5, 2j, -2j, 1e-20 + 1e-20j, 3 - 4j, -3 + 4j]]).astype(d.np)
    out = np.zeros_like(z)
    run(unary(name, d), [len(z)], [out, z])
    want = NUMPY[name](z.astype(np.complex128))
    error = np.abs(out - want) / np.maximum(np.abs(want), 1e-300)
    assert error.max() < (3e-6 if d is dt.complex64 else 3e-14), z[error.argmax()]


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "sinh", "cosh", "tanh", "sin", "cos",
                                  "tan"])
def test_special_values(name):
    parts = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 300.0, -800.0]
    z = np.array([complex(a, b) for a in parts for b in parts])
    out = np.zeros_like(z)
    run(unary(name), [len(z)], [out, z])
    with np.errstate(all="ignore"):
        want = NUMPY[name](z)
    for x, g, w in zip(z, out, want):
        if np.isfinite(w):
            assert abs(g - w) <= 1e-13 * abs(w) + 1e-300, (name, x, g, w)
            if not (np.isinf(x.real) or np.isinf(x.imag)) and name in ("log", "sqrt"):
                assert (np.signbit(g.real), np.signbit(g.imag)) == (
                    np.signbit(w.real), np.signbit(w.imag)), (name, x, g, w)
        elif name in ("log", "sqrt", "exp") and not np.isnan(w):
            assert np.isinf(abs(g)), (name, x, g, w)


def binary(name, d=dt.complex128):
    x, y = E.load(1, E.index(0), d), E.load(2, E.index(0), d)
    value = E.typed([E.op(name, x, y)], {}, d)[0]
    return Kernel(name, (Arg("out", value.dtype), Arg("in", d), Arg("in", d)), (E.param(0),),
                  (Stage((), (Store(0, E.index(0), value),)),), 1)


@pytest.mark.parametrize("name,f", [("add", np.add), ("sub", np.subtract), ("mul", np.multiply),
                                    ("div", np.divide), ("pow", np.power)])
def test_arithmetic(name, f):
    a = rng.standard_normal(300) + 1j * rng.standard_normal(300)
    b = rng.standard_normal(300) + 1j * rng.standard_normal(300)
    b[0], b[1], b[2] = 1e300 + 1e300j, 1e-300 - 1e-300j, 2.0
    out = np.zeros_like(a)
    run(binary(name), [300], [out, a, b])
    with np.errstate(all="ignore"):
        want = f(a, b)
    ok = np.isfinite(want) & (np.abs(b) < 1e10)
    np.testing.assert_allclose(out[ok], want[ok], rtol=1e-13)
    if name == "div":
        np.testing.assert_allclose(out[:2], want[:2], rtol=1e-13)


def test_comparison_and_modulus():
    a = np.array([1 + 2j, 3 + 4j, 0, 3e200 + 4e200j, complex(np.inf, np.nan)])
    b = np.array([1 + 2j, 3 - 4j, 0, 0, 0])
    for name, f in (("eq", np.equal), ("ne", np.not_equal)):
        out = np.zeros(5, bool)
        run(binary(name), [5], [out, a, b])
        np.testing.assert_array_equal(out, f(a, b))
    out = np.zeros(5)
    run(unary("abs"), [5], [out, a])
    np.testing.assert_allclose(out, np.abs(a))


def test_casts_select_parts_and_constants():
    z = rng.standard_normal(20) + 1j * rng.standard_normal(20)
    x = E.load(1, E.index(0), dt.complex128)
    for fn, want in [
            (lambda x: E.cast(E.cast(x, dt.complex64), dt.complex128),
             z.astype(np.complex64).astype(np.complex128)),
            (lambda x: E.select(E.real(x) > 0.0, x * 2.0, E.complex_(E.imag(x), 1.0)),
             np.where(z.real > 0, z * 2, z.imag + 1j)),
            (lambda x: x * (1 + 2j), z * (1 + 2j)),
            (lambda x: E.cast(E.imag(x), dt.complex128), z.imag + 0j)]:
        value = E.typed([fn(x)], {}, dt.complex128)[0]
        kernel = Kernel("f", (Arg("out", dt.complex128), Arg("in", dt.complex128)),
                        (E.param(0),), (Stage((), (Store(0, E.index(0), value),)),), 1)
        out = np.zeros_like(z)
        run(kernel, [20], [out, z])
        np.testing.assert_allclose(out, want, rtol=1e-15)


@pytest.mark.parametrize("op,f", [("sum", np.sum), ("prod", np.prod)])
@pytest.mark.parametrize("d", [dt.complex64, dt.complex128], ids=["complex64", "complex128"])
def test_reductions(op, f, d):
    z = (rng.standard_normal((7, 30)) + 1j * rng.standard_normal((7, 30))).astype(d.np)
    at = E.typed([E.index(0) * E.param(1) + E.index(1)], {}, dt.int64)[0]
    stages = (Stage((E.param(1),), (Reduce("r", op, E.load(1, at, d)),)),
              Stage((), (Store(0, E.index(0), E.ref("r", d)),)))
    kernel = Kernel(op, (Arg("out", d), Arg("in", d)), (E.param(0),), stages, 2)
    out = np.zeros(7, d.np)
    run(kernel, [7, 30], [out, z.ravel()])
    tolerance = 2e-5 if d is dt.complex64 else 1e-12
    np.testing.assert_allclose(out, f(z, axis=1), rtol=tolerance)
    _compiled(kernel, [7, 30], z.ravel(), f(z, axis=1), tolerance)
    body = (Scan("r", op, E.load(1, at, d)), Store(0, at, E.ref("r", d)))
    kernel = Kernel("cum" + op, kernel.args, (E.param(0),), (Stage((E.param(1),), body),), 2)
    out = np.zeros(210, d.np)
    want = (np.cumsum if op == "sum" else np.cumprod)(z, axis=1).ravel()
    run(kernel, [7, 30], [out, z.ravel()])
    np.testing.assert_allclose(out, want, rtol=tolerance)
    _compiled(kernel, [7, 30], z.ravel(), want, tolerance)


def _compiled(kernel, params, data, want, tolerance):
    """The same through machine code."""
    import ctypes

    codegen = pytest.importorskip("lampion_cpu.codegen")
    real = C.expand_complex(kernel)
    out, z = np.zeros_like(want.ravel()), np.ascontiguousarray(data)
    out = out.astype(z.dtype)
    compiled = codegen.compile_kernel(real, params)
    slots = (ctypes.c_int64 * 2)(out.ctypes.data, z.ctypes.data)
    values = (ctypes.c_int64 * len(params))(*params)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        compiled.address)(ctypes.addressof(slots), ctypes.addressof(values), 0,
                          compiled.units_grain(params)[0])
    np.testing.assert_allclose(out, want.ravel(), rtol=tolerance)


@pytest.mark.parametrize("name", ["mul", "div"])
@pytest.mark.parametrize("d", [dt.complex64, dt.complex128], ids=["complex64", "complex128"])
@pytest.mark.parametrize("n", [1, 5, 16, 63, 1000])
def test_compiled_arithmetic(name, d, n):
    import ctypes

    codegen = pytest.importorskip("lampion_cpu.codegen")
    a, b = ((rng.standard_normal(n) + 1j * rng.standard_normal(n)).astype(d.np) for _ in range(2))
    real = C.expand_complex(binary(name, d))
    out = np.zeros(n, d.np)
    compiled = codegen.compile_kernel(real, [n])
    slots = (ctypes.c_int64 * 3)(out.ctypes.data, a.ctypes.data, b.ctypes.data)
    values = (ctypes.c_int64 * 1)(n)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        compiled.address)(ctypes.addressof(slots), ctypes.addressof(values), 0,
                          compiled.units_grain([n])[0])
    want = a * b if name == "mul" else a / b
    np.testing.assert_allclose(out, want, rtol=1e-5 if d is dt.complex64 else 1e-13)


def test_scatter_adds_both_parts():
    z = (rng.standard_normal(6) + 1j * rng.standard_normal(6))
    where = np.array([0, 1, 0, 2, 1, 0])
    d = dt.complex128
    s = Scatter(0, E.load(2, E.index(0), dt.int64), "sum", E.load(1, E.index(0), d), None, True)
    kernel = Kernel("put", (Arg("inout", d), Arg("in", d), Arg("in", dt.int64)), (E.param(0),),
                    (Stage((), (s,)),), 1)
    out = np.zeros(3, np.complex128)
    run(kernel, [6], [out, z, where])
    want = np.zeros(3, np.complex128)
    np.add.at(want, where, z)
    np.testing.assert_allclose(out, want)


def test_what_complex_numbers_lack_is_an_error():
    for name in ("floor", "erf"):
        with pytest.raises(ValueError, match="complex"):
            C.expand_complex(unary(name))
    with pytest.raises(ValueError, match="complex"):
        C.expand_complex(binary("lt"))
    x = E.load(1, E.index(0), dt.complex64)
    for s in (Reduce("r", "max", x), ArgReduce("r", "max", x, E.index(0))):
        kernel = Kernel("max", (Arg("out", dt.complex64), Arg("in", dt.complex64)), (),
                        (Stage((E.param(0),), (s,)),), 1)
        with pytest.raises(ValueError, match="complex"):
            C.expand_complex(kernel)
