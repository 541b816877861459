"""Update rules: fused kernels against the same rule in NumPy float64; what steps promise."""

import math

import numpy as np
import pytest

import lampion
from lampion import optim
from lampion.ops.fused_optim import RULES
from lampion.optim._update import recorded, updater


class NumpyMath:
    sqrt, abs, sign = np.sqrt, np.abs, np.sign
    maximum, minimum = np.maximum, np.minimum

    @staticmethod
    def where(condition, a, b):
        return np.where(condition, a, b)


def flag_sets(rule):
    names = [
        name
        for name, p in __import__("inspect").signature(rule.update).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    ]
    for bits in range(1 << len(names)):
        yield {name: bool(bits >> k & 1) for k, name in enumerate(names)}


def operands(rule, seed, shape=(3, 5)):
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape).astype(np.float32) for _ in range(2 + len(rule.buffers))]
    for a in arrays[2:]:
        np.abs(a, out=a)
    if "grad_avg" in rule.buffers:
        arrays[3] *= 0.1  # a variance must not be negative
    scalars = [float(x) for x in rng.uniform(0.1, 0.9, len(rule.scalars))]
    return arrays, scalars


@pytest.mark.parametrize("name", RULES)
def test_fused_kernels_compute_their_rule(name, device):
    rule = RULES[name]
    for seed, flags in enumerate(flag_sets(rule)):
        arrays, scalars = operands(rule, seed)
        tensors = [lampion.tensor(a, device=device) for a in arrays]
        updater(rule, flags)(*tensors, *scalars)
        wide = [a.astype(np.float64) for a in arrays]
        expected = rule.update(NumpyMath, *wide, *scalars, **flags)
        for tensor, value in zip([tensors[0], *tensors[2:]], expected):
            np.testing.assert_allclose(
                np.asarray(tensor.tolist()), value, rtol=2e-5, atol=2e-6, err_msg=f"{flags}"
            )
        assert tensors[1].tolist() == arrays[1].tolist()


@pytest.mark.parametrize("name", RULES)
def test_tensor_operations_compute_the_same(name):
    rule = RULES[name]
    flags = next(iter(flag_sets(rule)))
    arrays, scalars = operands(rule, 3)
    fused, plain = ([lampion.tensor(a) for a in arrays] for _ in range(2))
    updater(rule, flags)(*fused, *scalars)
    recorded(rule, flags)(*plain, *scalars)
    for a, b in zip(fused, plain):
        np.testing.assert_allclose(a.tolist(), b.tolist(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Rprop", "NAdam"])
def test_memory_layouts(name):
    """Transposed parameters, expanded gradients, state that follows the parameter."""
    results = []
    for transposed in (False, True):
        base = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
        p = lampion.tensor(base.T.copy()).t() if transposed else lampion.tensor(base)
        p.requires_grad_(True)
        options = {"momentum": 0.5} if name == "SGD" else {}
        optimizer = getattr(optim, name)([p], lr=0.1, **options)
        for k in range(3):
            p.grad = lampion.tensor([[float(k), 1.0, -1.0]]).expand(2, 3)
            optimizer.step()
        results.append(p.tolist())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types(dtype):
    kind = getattr(lampion, dtype)
    p = lampion.ones(4, dtype=kind).requires_grad_(True)
    optimizer = optim.AdamW([p], lr=0.25, weight_decay=0.0)
    p.grad = lampion.ones(4, dtype=kind)
    optimizer.step()
    assert p.dtype == kind and p.tolist() == pytest.approx([0.75] * 4, rel=1e-2)
    assert optimizer.state[p]["exp_avg"].dtype == kind


def test_complex_parameters_are_pairs_of_reals():
    z = lampion.tensor([1 + 2j, -3j], dtype=lampion.complex64).requires_grad_(True)
    pairs = lampion.tensor([[1.0, 2.0], [0.0, -3.0]]).requires_grad_(True)
    for name in ("SGD", "Adam", "RMSprop"):
        complex_, real = (getattr(optim, name)([t], lr=0.1) for t in (z, pairs))
        z.grad = lampion.tensor([0.5 - 1j, 2 + 1j], dtype=lampion.complex64)
        pairs.grad = lampion.tensor([[0.5, -1.0], [2.0, 1.0]])
        complex_.step()
        real.step()
    found = np.asarray(z.tolist())
    np.testing.assert_allclose(np.stack([found.real, found.imag], 1), pairs.tolist(), rtol=1e-5)


def test_empty_and_scalar_parameters():
    for p in (lampion.zeros(0, 3), lampion.tensor(2.0)):
        p.requires_grad_(True)
        p.grad = lampion.ones_like(p)
        for name in ("SGD", "Adam", "Adagrad", "Rprop"):
            getattr(optim, name)([p], lr=0.5).step()


def test_steps_bump_versions():
    p = lampion.ones(3).requires_grad_(True)
    p.grad = lampion.ones(3)
    optimizer = optim.Adam([p])
    before = p._version
    optimizer.step()
    assert p._version > before
    state = optimizer.state[p]["exp_avg"]
    version = state._version
    optimizer.step()
    assert state._version > version


def test_tensor_learning_rate():
    rate = lampion.tensor(0.5)
    p = lampion.ones(1).requires_grad_(True)
    optimizer = optim.SGD([p], lr=rate)
    p.grad = lampion.ones(1)
    optimizer.step()
    rate.fill_(0.25)
    optimizer.step()
    assert p.tolist() == [0.25]
    with pytest.raises(ValueError, match="1-element"):
        optim.SGD([p], lr=lampion.ones(2))


def test_counters_are_shared_views_but_separate_values():
    params = [lampion.ones(2).requires_grad_(True) for _ in range(3)]
    optimizer = optim.Adam(params)
    for _ in range(4):
        for p in params:
            p.grad = lampion.ones(2)
        optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [4] * 3
    params[1].grad = None
    optimizer.step()
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [6, 4, 6]
    params[1].grad = lampion.ones(2)
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [7, 5, 7]
    optimizer.state[params[0]]["step"].fill_(100.0)
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [101, 6, 8]
    optimizer.state[params[0]]["step"] = lampion.tensor(0.0)
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [1, 7, 9]


def numeric(function, value, h=1e-3):
    return (function(value + h) - function(value - h)) / (2 * h)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_differentiable_sgd_against_finite_differences(momentum):
    """d loss / d lr and d loss / d gradient through two steps, the first one included."""

    def run(lr, g, track=False):
        rate = lampion.tensor(lr, dtype=lampion.float64)
        grad = lampion.tensor([g], dtype=lampion.float64)
        p = lampion.tensor([1.0], dtype=lampion.float64)
        if track:
            rate.requires_grad_(True)
            grad.requires_grad_(True)
        p = p.clone()
        optimizer = optim.SGD([p], lr=rate, momentum=momentum, differentiable=True)
        for _ in range(2):
            p.grad = grad * 2.0
            optimizer.step()
        return (p * p).sum(), rate, grad

    loss, rate, grad = run(0.3, 0.7, track=True)
    loss.backward()
    by_rate = numeric(lambda x: run(x, 0.7)[0].item(), 0.3)
    by_grad = numeric(lambda x: run(0.3, x)[0].item(), 0.7)
    assert math.isclose(rate.grad.item(), by_rate, rel_tol=1e-5)
    assert math.isclose(grad.grad.item(), by_grad, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.05, "momentum": 0.9}),
        ("Adam", {"lr": 0.1}),
        ("AdamW", {"lr": 0.1}),
        ("RMSprop", {"lr": 0.02}),
        ("Adagrad", {"lr": 0.5}),
        ("Adadelta", {"lr": 10.0}),
        ("Adamax", {"lr": 0.1}),
        ("NAdam", {"lr": 0.1}),
        ("RAdam", {"lr": 0.1}),
        ("ASGD", {"lr": 0.1}),
        ("Rprop", {}),
    ],
)
def test_every_optimizer_finds_a_minimum(name, options, device):
    p = lampion.tensor([3.0, -2.0], device=device).requires_grad_(True)
    target = lampion.tensor([1.0, 0.5], device=device)
    optimizer = getattr(optim, name)([p], **options)
    for _ in range(300 if device == "cpu" else 150):
        optimizer.zero_grad()
        ((p - target) * (p - target)).sum().backward()
        optimizer.step()
    tolerance = 0.06 if device == "cpu" else 0.3
    np.testing.assert_allclose(p.tolist(), [1.0, 0.5], atol=tolerance)
    assert all(t.device.type in (device, "cpu") for s in optimizer.state.values()
               for t in s.values())  # fmt: skip
