"""Every elementwise op on every installed device: values, dtypes and shapes against NumPy, layouts,
in-place and out= forms, gradients to order 2 against finite differences."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lampion
from lampion.ops import samples as S
from lampion.ops.registry import REGISTRY

_spec = importlib.util.spec_from_file_location(
    "elementwise_reference", Path(__file__).with_name("elementwise_reference.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
REFERENCE = _module.REFERENCE

OPS = [op for op in REGISTRY.values()
       if op.kind == "elementwise" and op.where and not op.namespace and op.noutputs == 1]
TOLERANCE = {"float32": 2e-5, "float64": 1e-10, "complex64": 2e-5}
# on devices other than the host's these stand for all the others: between them, they hold every
# intrinsic, and their kernels differ from the others' in the expression alone
CHOSEN = frozenset("""add div floor_divide remainder pow maximum clamp where lerp addcdiv lt
    logical_and bitwise_xor bitwise_left_shift isnan signbit exp log1p sin atan2 tanh erf lgamma
    round sigmoid gelu softplus digamma i0 erfinv complex angle""".split())


def maker(device: str) -> Any:
    """Tensors of a device from drawn buffers, with their layout."""
    def make(b: S.Buffer) -> Any:
        flat = lampion.tensor(b.flat).to(device)
        return flat.as_strided(b.shape, b.strides, b.offset)

    return make


def rng_of(op: Any) -> np.random.Generator:
    """The same numbers for an op in every run."""
    return np.random.default_rng(sum(map(ord, op.name)))


def kind_of(op: Any) -> str:
    """The dtype an op is tried with."""
    return "float32" if "f" in op.kinds else "int32"


def supports(device: str, name: str) -> bool:
    """Whether the device computes in this dtype."""
    from lampion.ops.plans import backend_of
    from lampion.runtime.devices import resolve

    d = resolve(device)
    return lampion.__dict__[name] in backend_of(d).capabilities(d.index or 0).dtypes


def pick(device: str, op: Any) -> None:
    """Skip what other devices need not repeat."""
    if device not in ("cpu", "refdevice") and op.name not in CHOSEN:
        pytest.skip("the expressions of other ops are tested on the host")


def compare(op: Any, got: Any, want: Any, sample: Any) -> None:
    tolerance = TOLERANCE.get(got.dtype.name, 0)
    np.testing.assert_allclose(got.detach().to("cpu").numpy(), want, rtol=tolerance,
                               atol=tolerance, err_msg=f"{op.name}{sample}")


def test_every_op_has_a_reference() -> None:
    assert not [op.name for op in OPS if op.name not in REFERENCE]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_values(op: Any, device: str) -> None:
    """Value, dtype and shape for contiguous, broadcast and (for some ops) every other layout."""
    pick(device, op)
    rng = rng_of(op)
    every = op.name in ("add", "where", "exp", "clamp", "addcmul")
    for k, sample in enumerate(S.elementwise_samples(op, rng, kind_of(op))):
        if k and not every and k != len(S.SHAPES):  # the first pair of PAIRS
            continue
        tensors, arrays = S.materialize(sample, rng, maker(device))
        got = op.fn(*tensors.args, **tensors.kwargs)
        wide = [a.astype("f8") if getattr(a, "dtype", None) == np.float32 else a
                for a in arrays.args]
        want = REFERENCE[op.name](*wide, **arrays.kwargs)
        assert got.shape == want.shape
        assert got.device == lampion.device(device)
        if op.promote == "bool":
            assert got.dtype is lampion.bool
        compare(op, got, want, sample)


@pytest.mark.parametrize("op", [op for op in OPS if op.inplace], ids=lambda op: op.name)
def test_in_place_and_out(op: Any, device: str) -> None:
    """x.op_() and op(x, out=y) leave what op(x) returns."""
    if device != "cpu" and op.name not in CHOSEN:
        pytest.skip("the host stands for the others")
    rng = rng_of(op)
    sample = next(S.elementwise_samples(op, rng, kind_of(op)))
    tensors, _ = S.materialize(sample, rng, maker(device))
    want = op.fn(*tensors.args, **tensors.kwargs)
    out = lampion.empty(want.shape, dtype=want.dtype, device=device)
    assert op.fn(*tensors.args, out=out, **tensors.kwargs) is out
    np.testing.assert_array_equal(out.to("cpu").numpy(), want.to("cpu").numpy())
    target = tensors.args[0].clone()
    if target.dtype is not want.dtype and op.promote != "bool":
        return
    version = target._version
    assert op.ifn(target, *tensors.args[1:], **tensors.kwargs) is target
    assert target._version == version + 1
    np.testing.assert_array_equal(target.to("cpu").numpy(),
                                  want.to(target.dtype).to("cpu").numpy())


def directional(fn: Any, points: list[Any], along: list[Any], h: float = 1e-5) -> Any:
    """(fn(x + h v) - fn(x - h v)) / 2h, of arrays."""
    ahead = fn([p + h * v for p, v in zip(points, along)])
    behind = fn([p - h * v for p, v in zip(points, along)])
    return (ahead - behind) / (2 * h)


WITHOUT_DERIVATIVE = {("zeta", 0)}
DIFFERENTIABLE = [op for op in OPS if op.differentiable and "f" in op.kinds]


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_gradients(op: Any, device: str) -> None:
    """Directional derivatives of op and of its gradient against central differences."""
    if device != "cpu" and op.name not in CHOSEN:
        pytest.skip("the expressions of gradients are tested on the host")
    if not supports(device, "float64"):
        pytest.skip("needs float64")
    rng = rng_of(op)
    sample = next(S.elementwise_samples(op, rng, "float64"))
    buffers = [S.draw(t, rng) for t in sample.tensors()]
    arrays = [b.array().copy() for b in buffers]
    loose = [k for k, a in enumerate(arrays)
             if a.dtype == np.float64 and (op.name, k) not in WITHOUT_DERIVATIVE]
    points = [arrays[k] for k in loose]
    weight = rng.standard_normal(points[0].shape)

    def run(values: list[Any], requires_grad: bool = False) -> tuple[Any, list[Any]]:
        made = [lampion.tensor(a).to(device) for a in arrays]
        for k, v in zip(loose, values):
            made[k] = lampion.tensor(v).to(device)
            made[k].requires_grad_(requires_grad)
        it = iter(made)
        call = sample.map(lambda _: next(it))
        return op.fn(*call.args, **call.kwargs), [made[k] for k in loose]

    def scalar(out: Any) -> Any:
        w = lampion.tensor(weight).to(device)
        if out.is_complex():
            out = out.real + 0.7 * out.imag
        return (out * w).sum()

    def first(values: list[Any], create_graph: bool = False) -> tuple[list[Any], list[Any]]:
        out, leaves = run(values, True)
        grads = lampion.autograd.grad(scalar(out), leaves, create_graph=create_graph,
                                      allow_unused=True)
        return [lampion.zeros_like(x) if g is None else g for g, x in zip(grads, leaves)], leaves

    along = [rng.standard_normal(p.shape) for p in points]
    grads, _ = first(points)
    got = sum(float((g.to("cpu").numpy() * v).sum()) for g, v in zip(grads, along))
    want = directional(lambda values: scalar(run(values)[0]).item(), points, along)
    assert got == pytest.approx(want, rel=1e-5, abs=1e-6), op.name
    # order 2: the gradient, dotted with `turn`, along `along`
    turn = [rng.standard_normal(p.shape) for p in points]
    grads, leaves = first(points, True)
    if not any(g.requires_grad for g in grads):
        return
    dotted = sum((g * lampion.tensor(t).to(device)).sum() for g, t in zip(grads, turn))
    second = lampion.autograd.grad(dotted, leaves, allow_unused=True)
    got = sum(float((g.to("cpu").numpy() * v).sum()) for g, v in zip(second, along)
              if g is not None)

    def slope(values: list[Any]) -> Any:
        return sum(float((g.detach().to("cpu").numpy() * t).sum())
                   for g, t in zip(first(values)[0], turn))

    want = directional(slope, points, along)
    assert got == pytest.approx(want, rel=1e-4, abs=1e-5), op.name


# ---------------------------------------------------------------- rules of single ops

def test_integer_division_by_zero(device: str) -> None:
    from lampion.ops.plans import backend_of
    from lampion.runtime.devices import resolve

    x = lampion.tensor([4, 5]).to(device)
    for op in ("floor_divide", "remainder", "fmod"):
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            getattr(x, op)(0)
    if "host-memory" in backend_of(resolve(device)).capabilities(0).features:
        for op in ("floor_divide", "remainder", "fmod"):
            with pytest.raises(RuntimeError, match="ZeroDivisionError"):
                getattr(x, op)(lampion.tensor([1, 0]).to(device))
    assert (x // lampion.tensor([-3, 3]).to(device)).tolist() == [-2, 1]
    assert (x % -3).tolist() == [-2, -1]


def test_integers_wrap(device: str) -> None:
    x = lampion.tensor([100, -128], dtype=lampion.int8).to(device)
    assert (x + x).tolist() == [-56, 0]
    assert (x * x).tolist() == [16, 0]
    assert (-x).tolist() == [-100, -128]
    assert (x ** 3).tolist() == [64, 0]


def test_bool_arithmetic(device: str) -> None:
    a, b = (lampion.tensor(v).to(device) for v in ([True, False, True], [True, False, False]))
    assert (a + b).tolist() == [True, False, True]
    assert (a * b).tolist() == [True, False, False]
    with pytest.raises(RuntimeError, match="two bool tensors"):
        a - b
    with pytest.raises(RuntimeError, match="Negation"):
        -a


def test_powers(device: str) -> None:
    x = lampion.tensor([2, 1, -1, 0]).to(device)
    e = lampion.tensor([-1, -3, -3, 5]).to(device)
    assert (x ** e).tolist() == [0, 1, -1, 0]
    with pytest.raises(RuntimeError, match="negative integer powers"):
        x ** -1
    y = lampion.tensor([4.0, 9.0]).to(device)
    for exponent in (2, 3, 0.5, -0.5, -1, 1.5, 0):
        np.testing.assert_allclose((y ** exponent).tolist(), np.array([4.0, 9.0]) ** exponent,
                                   rtol=1e-6)
    assert (2 ** lampion.tensor([3, 4]).to(device)).tolist() == [8, 16]


def test_alpha_and_rounding_mode(device: str) -> None:
    x = lampion.tensor([1.0, -7.0]).to(device)
    assert lampion.add(x, x, alpha=3).tolist() == [4.0, -28.0]
    assert lampion.sub(x, 1, alpha=2).tolist() == [-1.0, -9.0]
    assert x.clone().add_(x, alpha=2).tolist() == [3.0, -21.0]
    assert lampion.div(x, 2, rounding_mode="floor").tolist() == [0.0, -4.0]
    assert lampion.div(x, 2, rounding_mode="trunc").tolist() == [0.0, -3.0]
    with pytest.raises(RuntimeError, match="rounding_mode"):
        lampion.div(x, 2, rounding_mode="up")
    with pytest.raises(RuntimeError, match="floating point number"):
        lampion.add(lampion.tensor([1]), 1, alpha=0.5)


def test_clamp_forms(device: str) -> None:
    x = lampion.tensor([-2.0, 0.5, float("nan"), 3.0]).to(device)
    np.testing.assert_array_equal(x.clamp(-1, 1).tolist(), [-1, 0.5, np.nan, 1])
    np.testing.assert_array_equal(x.clamp(min=0).tolist(), [0, 0.5, np.nan, 3])
    np.testing.assert_array_equal(x.clamp(max=0).tolist(), [-2, 0, np.nan, 0])
    low = lampion.tensor([0.0, 1.0, 0.0, 9.0]).to(device)
    np.testing.assert_array_equal(x.clamp(low, 5).tolist(), [0, 1, np.nan, 5])
    with pytest.raises(RuntimeError, match="At least one"):
        x.clamp()
    y = x.clone()
    assert y.clamp_(max=1) is y


def test_neighbours(device: str) -> None:
    for name in ("float32", "float64"):
        if not supports(device, name):
            continue
        x = np.array([0.0, 1.0, -1.0, 1.0, 5e-40, np.inf, 3.0], name)
        y = np.array([1.0, 2.0, 2.0, -1.0, 0.0, 0.0, 3.0], name)
        got = lampion.nextafter(lampion.tensor(x).to(device), lampion.tensor(y).to(device))
        want = np.nextafter(x, y)
        if device == "cpu":
            np.testing.assert_array_equal(got.tolist(), want)
        else:  # a device may flush the smallest numbers to 0
            np.testing.assert_array_equal(got.tolist()[1:4], want[1:4])


def test_whole_numbers(device: str) -> None:
    a, b = ([12, -18, 0, 7, 2 ** 40], [18, 12, 0, 0, 2 ** 33 * 3])
    x, y = lampion.tensor(a).to(device), lampion.tensor(b).to(device)
    assert lampion.gcd(x, y).tolist() == np.gcd(a, b).tolist()
    assert lampion.lcm(x[:4], y[:4]).tolist() == np.lcm(a[:4], b[:4]).tolist()


def test_a_missing_derivative_is_an_error() -> None:
    x = lampion.tensor([2.0], requires_grad=True)
    for name in ("zeta", "gammainc"):
        with pytest.raises(RuntimeError, match="derivative for 'input'"):
            REGISTRY[name].fn(x, lampion.tensor([1.0])).backward()


def test_mantissa_and_exponent(device: str) -> None:
    x = np.array([1.0, -3.5, 0.0, np.inf, 1e30, 0.5, -8.0], "float32")
    m, e = lampion.frexp(lampion.tensor(x).to(device))
    want = np.frexp(x)
    np.testing.assert_array_equal(m.tolist(), want[0])
    np.testing.assert_array_equal(e.tolist(), want[1])
    assert e.dtype is lampion.int32


def test_facts() -> None:
    x = lampion.tensor([1, 2])
    assert lampion.result_type(x, 1.0) is lampion.float32
    assert lampion.can_cast(lampion.int32, lampion.float32)
    assert not lampion.can_cast(lampion.float32, lampion.int32)
    assert lampion.is_tensor(x) and lampion.numel(x) == 2 and not lampion.is_floating_point(x)
    assert x.is_same_size(lampion.tensor([3, 4])) and lampion.tensor([1]).is_nonzero()


def test_incomplete_gamma() -> None:
    import scipy.special as sp

    rng = np.random.default_rng(0)
    a = rng.uniform(0.05, 60, 500)
    x = a * rng.uniform(0, 3, 500)
    for name in ("gammainc", "gammaincc"):
        got = REGISTRY[name].fn(lampion.tensor(a), lampion.tensor(x)).numpy()
        np.testing.assert_allclose(got, getattr(sp, name)(a, x), rtol=1e-9, atol=1e-14)


def test_polynomials() -> None:
    import scipy.special as sp

    x = np.random.default_rng(0).uniform(-1, 1, 50)
    pairs = {"chebyshev_polynomial_t": sp.eval_chebyt, "chebyshev_polynomial_u": sp.eval_chebyu,
             "hermite_polynomial_h": sp.eval_hermite, "hermite_polynomial_he": sp.eval_hermitenorm,
             "laguerre_polynomial_l": sp.eval_laguerre, "legendre_polynomial_p": sp.eval_legendre}
    for name, reference in pairs.items():
        for n in (0, 1, 7, 40):
            got = REGISTRY[name].fn(lampion.tensor(x), n).numpy()
            np.testing.assert_allclose(got, reference(n, x), rtol=1e-9, atol=1e-9, err_msg=name)
        n = np.arange(50) % 9
        got = REGISTRY[name].fn(lampion.tensor(x), lampion.tensor(n)).numpy()
        np.testing.assert_allclose(got, reference(n, x), rtol=1e-9, atol=1e-9, err_msg=name)
