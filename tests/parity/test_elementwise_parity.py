"""Elementwise ops against PyTorch: every dtype, edge values, promotion, strides, gradients of
complex numbers, in-place and out= rules, errors."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import lampion  # noqa: E402
from lampion.base import dtype as dt  # noqa: E402
from lampion.base.meta import meta  # noqa: E402
from lampion.ops import plans  # noqa: E402
from lampion.ops import samples as S  # noqa: E402
from lampion.ops.registry import REGISTRY  # noqa: E402
from lampion.runtime.devices import resolve  # noqa: E402

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
          "float64", "complex64", "complex128")
TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-11,
             "complex64": 3e-5, "complex128": 1e-10}
OPS = [op for op in REGISTRY.values()
       if op.kind == "elementwise" and op.where and not op.namespace and op.noutputs == 1]
EDGES = np.array([0.0, -0.0, 1, -1, 0.5, -0.5, 2, -2.5, 1e-3, 30, -30, 1e-30, np.inf, -np.inf,
                  np.nan, 3.5, -7, 100, -100])
# PyTorch has no 16-bit form of these; lampion computes them in float32
MORE_DTYPES = frozenset("""zeta erfcx log_ndtr ndtri modified_bessel_i0 modified_bessel_i1
    modified_bessel_k0 modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1
    bessel_j0 bessel_j1 bessel_y0 bessel_y1 spherical_bessel_j0 airy_ai""".split())
HERE_MORE: dict[str, dict[str, str]] = {
    "hardtanh": {"uint8": "PyTorch refuses negative limits for unsigned numbers"},
    "complex": {"float16": "PyTorch has half-width complex numbers"},
    "softsign": {"complex64": "complex sizes are left to compositions", "complex128": "likewise",
                 "int8": "PyTorch wraps 1 + |x|; lampion computes in floats", "bool": "likewise"},
    "zeta": {"float32": "lampion gives NaN below -11"},
}
# where PyTorch's value is the worse one (see the comments), and what not to compare there
LESS_EXACT = {"bessel_j0": 1e-6, "bessel_j1": 1e-6, "bessel_y0": 1e-6, "bessel_y1": 1e-6,
              "airy_ai": 1e-5}
INFINITE_IS_NAN = frozenset("""i0 i1 modified_bessel_i0 modified_bessel_i1 bessel_j0 bessel_j1
    bessel_y0 bessel_y1 airy_ai ldexp gelu""".split())
NAN_SIGN = frozenset(("signbit", "copysign"))  # bfloat16 loses the sign of NaN in conversion
OTHER_ARGUMENTS = frozenset(("complex", "polar"))  # PyTorch promotes nothing here

warnings.filterwarnings("ignore", category=UserWarning)


def theirs(op: Any) -> Any:
    """PyTorch's function of this op, or None."""
    for where, module in (("", torch), ("special", torch.special),
                          ("nn.functional", torch.nn.functional)):
        if where in op.where and hasattr(module, op.name):
            return getattr(module, op.name)
    return None


PAIRED = [op for op in OPS if theirs(op) is not None]


def to_torch(b: S.Buffer) -> Any:
    a = b.flat.astype("f4") if b.dtype.name == "bfloat16" else b.flat
    t = torch.from_numpy(a.copy()).to(getattr(torch, b.dtype.name))
    return t.as_strided(b.shape, b.strides, b.offset)


def to_ours(b: S.Buffer) -> Any:
    a = b.flat.astype("f4") if b.dtype.name == "bfloat16" else b.flat
    return lampion.tensor(a).to(b.dtype).as_strided(b.shape, b.strides, b.offset)


def array_t(x: Any) -> Any:
    x = x.detach().resolve_conj().resolve_neg()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy(force=True)


def array_l(x: Any) -> Any:
    return (x.detach().float() if x.dtype is lampion.bfloat16 else x.detach()).numpy()


def outcome(fn: Any, sample: S.Sample) -> tuple[Any, Any]:
    try:
        return fn(*sample.args, **sample.kwargs), None
    except (RuntimeError, TypeError, ValueError, IndexError) as e:
        return None, e


def both(op: Any, sample: S.Sample, rng: np.random.Generator) -> tuple[Any, Any, Any, Any, list]:
    """(their result, their error, our result, our error, arrays) of one sample."""
    buffers = [S.draw(t, rng) for t in sample.tensors()]
    left, right = iter(buffers), iter(buffers)
    with np.errstate(all="ignore"):
        a = outcome(theirs(op), sample.map(lambda _: to_torch(next(left))))
        b = outcome(op.fn, sample.map(lambda _: to_ours(next(right))))
    return *a, *b, [x.array() for x in buffers]


def check(op: Any, sample: S.Sample, rng: np.random.Generator, edge: bool = False) -> None:
    want, their_error, got, our_error, arrays = both(op, sample, rng)
    name = sample.tensors()[-1].dtype
    if their_error is not None:
        if our_error is None and op.name in MORE_DTYPES and name in ("float16", "bfloat16"):
            return
        assert isinstance(our_error, (RuntimeError, type(their_error))), (
            f"{op.name} {name}: PyTorch raises {their_error!r}, lampion "
            f"{our_error!r} {got!r:.80}")
        return
    assert our_error is None, f"{op.name} {name}: {our_error!r}"
    assert str(want.dtype).removeprefix("torch.") == got.dtype.name
    assert tuple(want.shape) == tuple(got.shape)
    a, b = array_t(want), array_l(got)
    tolerance = max(TOLERANCE.get(got.dtype.name, 0),
                    LESS_EXACT.get(op.name, 0) if a.dtype.kind == "f" else 0)
    if edge and op.name in INFINITE_IS_NAN:
        keep = np.isfinite(a.astype("f8"))
        for x in arrays:
            keep &= np.isfinite(x.astype("f8"))
        a, b = a[keep], b[keep]
    if op.name in NAN_SIGN and name == "bfloat16":
        keep = ~np.isnan(arrays[-1].astype("f4"))
        a, b = a[keep], b[keep]
    np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance, equal_nan=True,
                               err_msg=f"{op.name} {name}")


def seeded(op: Any) -> np.random.Generator:
    return np.random.default_rng(sum(map(ord, op.name)))


def edge_sample(op: Any, name: str, rng: np.random.Generator) -> S.Sample:
    """All pairs of edge values of a dtype (a random choice of triples)."""
    kind = dt.by_name(name).kind
    values = {"b": np.array([True, False]), "u": np.array([0, 1, 2, 200, 255]),
              "i": np.array([0, 1, 2, 3, -1, -7, 5, 100, 127, -128])}.get(kind, EDGES)
    tensors = [p for p in op.params if p.kind in ("T", "TS")]
    n = len(tensors)
    grids = np.meshgrid(*[values] * n) if n < 3 else [
        rng.permutation(np.resize(values, 64)) for _ in range(n)]
    made: dict[str, Any] = {}
    for p, x in zip(tensors, grids):
        fixed = p.name in op.fixed
        made[p.name] = S.T(x.shape, "bool" if fixed else name, values=x != 0 if fixed else x)
    made.update({p.name: S._number(op, p, rng) for p in op.params if p.kind == "S"})
    chosen = [p for p in op.params if p.name in made]
    return S.Sample(*[made[p.name] for p in chosen if not p.kwonly],
                    **{p.name: made[p.name] for p in chosen if p.kwonly})


@pytest.mark.parametrize("op", PAIRED, ids=lambda op: op.name)
def test_dtypes(op: Any) -> None:
    """Ordinary values in every dtype: the same result, dtype and shape, or both raise."""
    rng = seeded(op)
    for name in DTYPES:
        if name in HERE_MORE.get(op.name, ()):
            continue
        check(op, next(S.elementwise_samples(op, rng, name)), rng)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8", "int64", "bool"])
@pytest.mark.parametrize("op", PAIRED, ids=lambda op: op.name)
def test_edges(op: Any, name: str) -> None:
    """NaN, infinities, signed zeros, extreme and wrapping integers."""
    if op.name in HERE_MORE and name in HERE_MORE[op.name]:
        pytest.skip(HERE_MORE[op.name][name])
    check(op, edge_sample(op, name, seeded(op)), seeded(op), edge=True)


@pytest.mark.parametrize("op_name", ["add", "div", "clamp", "where", "exp", "eq", "lerp"])
def test_strides(op_name: str) -> None:
    """The layout of results for every layout of operands."""
    op = REGISTRY[op_name]
    rng = seeded(op)
    for sample in S.elementwise_samples(op, rng):
        want, _, got, _, _ = both(op, sample, rng)
        assert tuple(want.shape) == tuple(got.shape)
        if want.numel():
            assert want.stride() == got.stride(), sample


def operand(module: Any, name: str, form: str) -> Any:
    """A tensor with dims, a 0-d tensor or a Python number of a dtype."""
    if form == "number":
        return {"b": True, "u": 2, "i": 2, "f": 2.5, "c": 2 + 1j}[dt.by_name(name).kind]
    d = getattr(module, name)
    return module.ones(2, dtype=d) if form == "dims" else module.ones((), dtype=d)


@pytest.mark.parametrize("op_name", ["add", "div", "lt", "maximum", "pow", "atan2"])
def test_promotion(op_name: str) -> None:
    """The result type over all dtype pairs and forms; types alone, nothing runs."""
    op = REGISTRY[op_name]
    cpu = resolve("cpu")
    numbers = {"b": bool, "u": int, "i": int, "f": float}
    for a, b in itertools.product(DTYPES, DTYPES):
        for forms in (("dims", "dims"), ("dims", "zero"), ("zero", "dims"), ("dims", "number"),
                      ("zero", "number"), ("number", "dims")):
            x, y = (operand(torch, n, f) for n, f in zip((a, b), forms))
            operands = []
            for n, form in zip((a, b), forms):
                d = dt.by_name(n)
                if form == "number" and d.kind == "c":
                    operands.append(meta(dt.complex64, (), None, cpu))
                else:
                    operands.append(numbers[d.kind] if form == "number" else
                                    meta(d, (2,) if form == "dims" else (), None, cpu))
            if forms[1] == "number" and dt.by_name(b).kind == "c":
                continue  # a complex number is not a 0-d tensor to PyTorch's promotion of pow
            try:
                want = str(getattr(torch, op_name)(x, y).dtype).removeprefix("torch.")
            except (RuntimeError, TypeError):
                continue
            if want == "complex32" or (op_name == "pow" and want == "bool"):
                continue  # no such type here; x ** True is a copy there
            got = plans.elementwise_types(op, operands, {})[1][0].name
            assert got == want, (op_name, a, b, forms)


COMPLEX = [op for op in PAIRED if "c" in op.kinds and op.differentiable
           and op.name not in OTHER_ARGUMENTS]


@pytest.mark.parametrize("op", COMPLEX, ids=lambda op: op.name)
def test_complex_gradients(op: Any) -> None:
    """Gradients of order 1 and 2 of complex operands."""
    rng = seeded(op)
    sample = next(S.elementwise_samples(op, rng, "complex128"))
    buffers = [S.draw(t, rng) for t in sample.tensors()]
    g = rng.standard_normal(buffers[0].shape) + 1j * rng.standard_normal(buffers[0].shape)

    def grads(module: Any, make: Any, fn: Any) -> list[Any]:
        leaves = [make(b).clone().requires_grad_() if b.dtype.kind == "c" else make(b)
                  for b in buffers]
        it = iter(leaves)
        call = sample.map(lambda _: next(it))
        y = fn(*call.args, **call.kwargs)
        w = module.tensor(g if y.is_complex() else g.real)
        inputs = [x for x in leaves if x.requires_grad]
        first = module.autograd.grad(y, inputs, w, create_graph=True)
        total = sum((f.real ** 2 + f.imag ** 2 * 0.5).sum() for f in first)
        second = module.autograd.grad(total, inputs, allow_unused=True) \
            if total.requires_grad else []
        return [*first, *[s for s in second if s is not None]]

    try:
        want = grads(torch, to_torch, theirs(op))
    except RuntimeError:
        pytest.skip("PyTorch has no such gradient")
    got = grads(lampion, to_ours, op.fn)
    for a, b in zip(want, got):
        np.testing.assert_allclose(array_l(b), array_t(a), rtol=1e-8, atol=1e-8)


REAL = [op for op in PAIRED if "f" in op.kinds and op.differentiable]
# PyTorch: not differentiable, a value beyond the domain, or a rounded constant
GRADIENT_DIFFERS = frozenset("""acosh logaddexp logaddexp2 mish relu6 hardtanh softsign polar i1e
    log_ndtr digamma hardsigmoid remainder nan_to_num""".split())


@pytest.mark.parametrize("op", [op for op in REAL if op.name not in GRADIENT_DIFFERS],
                         ids=lambda op: op.name)
def test_gradients_at_edges(op: Any) -> None:
    """Gradients at kinks, poles, infinities and NaN: PyTorch's conventions."""
    rng = seeded(op)
    sample = edge_sample(op, "float64", rng)
    buffers = [S.draw(t, rng) for t in sample.tensors()]
    g = rng.standard_normal(buffers[0].shape)

    def grads(module: Any, make: Any, fn: Any) -> Any:
        leaves = [make(b).clone().requires_grad_() if b.dtype.kind == "f" else make(b)
                  for b in buffers]
        it = iter(leaves)
        call = sample.map(lambda _: next(it))
        y = fn(*call.args, **call.kwargs)
        inputs = [x for x in leaves if x.requires_grad]
        return module.autograd.grad(y, inputs, module.tensor(g), allow_unused=True)

    try:
        want = grads(torch, to_torch, theirs(op))
    except RuntimeError:
        pytest.skip("PyTorch has no such gradient")
    got = grads(lampion, to_ours, op.fn)
    finite = np.ones(buffers[0].shape, bool)
    if op.name in INFINITE_IS_NAN or op.name == "sinc":
        for b in buffers:
            finite &= np.isfinite(b.array())
    for a, b in zip(want, got):
        if a is not None:
            b = np.zeros(g.shape) if b is None else array_l(b)
            np.testing.assert_allclose(b[finite], array_t(a)[finite], rtol=1e-9, atol=1e-9)


def test_in_place_dtype_rules() -> None:
    """What may be written into which dtype, with the same kind of error."""
    cases = [("add_", "int64", 1.5), ("mul_", "int64", 2), ("div_", "int64", 2),
             ("add_", "bool", 1), ("add_", "float16", 1.5), ("pow_", "int32", 2),
             ("lt_", "float32", 1), ("sub_", "bool", True), ("clamp_", "int64", 0)]
    for method, name, other in cases:
        x = torch.ones(3, dtype=getattr(torch, name))
        y = lampion.ones(3, dtype=getattr(lampion, name))
        try:
            want = getattr(x, method)(other)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                getattr(y, method)(other)
            continue
        got = getattr(y, method)(other)
        assert got is y and got.dtype.name == name
        np.testing.assert_allclose(array_l(got), array_t(want))


def test_out_argument() -> None:
    """out= is resized and converted into; impossible conversions raise."""
    a = np.arange(6.0).reshape(2, 3)
    x, y = torch.tensor(a), lampion.tensor(a)
    for name in ("float32", "complex128", "int64"):
        want, got = (torch.empty(2, 3, dtype=getattr(torch, name)),
                     lampion.empty(2, 3, dtype=getattr(lampion, name)))
        try:
            torch.add(x, 1.5, out=want)
        except RuntimeError:
            with pytest.raises(RuntimeError, match="can't be cast"):
                lampion.add(y, 1.5, out=got)
            continue
        assert lampion.add(y, 1.5, out=got) is got
        np.testing.assert_allclose(array_l(got), array_t(want))
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        lampion.exp(y.clone().requires_grad_(), out=lampion.empty(2, 3))


@pytest.mark.parametrize("call", [
    "add(x, 'a')", "x + None", "sub(b, b)", "x.clamp()", "neg(b)", "div(x, x, rounding_mode='k')",
    "add(i, i, alpha=0.5)", "i ** -1", "i // 0", "where(x, x, x)", "bitwise_and(x, x)",
    "x + ones(5)", "lt(c, c)", "maximum(c, c)", "heaviside(x, i)", "lerp(x, x.double(), 0.5)",
    "round(i, decimals=2)", "imag(x)", "addcdiv(i, i, i)", "polygamma(-1, x)", "mvlgamma(x, 0)",
    "gcd(x, x)", "nn.functional.gelu(x, approximate='no')", "x.add_(ones(2, 2, 2))"])
def test_errors(call: str) -> None:
    """The same exception type for the same mistake."""
    def run(module: Any) -> None:
        scope = {n: getattr(module, n) for n in
                 ("add", "sub", "neg", "div", "where", "bitwise_and", "ones", "lt", "maximum",
                  "heaviside", "lerp", "round", "imag", "addcdiv", "polygamma", "mvlgamma", "gcd",
                  "nn")}
        scope.update(x=module.ones(2, 3), i=module.tensor([[1, 2, 3]] * 2),
                     b=module.tensor([True]), c=module.tensor([1j]))
        eval(call, scope)

    with pytest.raises(Exception) as theirs_error:  # noqa: B017, PT011
        run(torch)
    with pytest.raises(theirs_error.type if theirs_error.type is not NotImplementedError
                       else RuntimeError):
        run(lampion)


NUMBERS = ["x.clamp(0, 300)", "x.clamp(max=300)", "x.clamp_(0, 300)", "h.clamp(0, 1e9)",
           "h.clamp(max=inf)", "u.clamp(-1, 5)", "lib.where(b, x, 300)", "lib.where(b, h, 1e9)",
           "lib.where(b, 300, x)", "lib.add(x, x, alpha=300)", "lib.add(h, h, alpha=1e9)",
           "lib.add(u, u, alpha=-1)", "lib.rsub(x, x, alpha=300)", "x.add(x, alpha=-128)",
           "x.add_(x, alpha=128)", "lib.addcmul(x, x, x, value=300)", "x.clamp_min(300)",
           "lib.addcmul(h, h, h, value=1e9)", "x.clamp_max(-300)", "x.clamp(0.5, 1e9)", "x + 300",
           "lib.nn.functional.hardtanh(h, -1e9, 1e9)", "lib.nn.functional.threshold(x, 300, 300)"]


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_that_the_dtype_does_not_hold(text):
    found = []
    for lib in (torch, lampion):
        names = {"lib": lib, "inf": float("inf"), "b": lib.tensor([True, False]),
                 "x": lib.tensor([1, 2], dtype=lib.int8), "u": lib.tensor([1], dtype=lib.uint8),
                 "h": lib.tensor([1.0, 2.0], dtype=lib.float16)}
        try:
            found.append(eval(text, names).tolist())
        except RuntimeError as error:
            assert "without overflow" in str(error)
            found.append("overflow")
    assert found[0] == found[1]
