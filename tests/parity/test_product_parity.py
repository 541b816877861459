"""Products, convolutions, poolings, attention and resizing against PyTorch: values, strides,
dtypes, gradients to second order, and the words of errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from product_cases import CASES, CONVOLUTIONS, ERRORS, INDICES, PRODUCTS

import lampion

warnings.filterwarnings("ignore", message="Using padding='same'")


def arrays(shapes, dtype):
    rng = np.random.default_rng(3)
    made = [rng.standard_normal(s) * 2 for s in shapes]
    if dtype.startswith("c"):
        made = [a + 1j * rng.standard_normal(a.shape) for a in made]
    return [a.astype(dtype) for a in made]


def derivatives(t, call, values, order):
    """The result, its gradients, and those of a random sum of them."""
    rng = np.random.default_rng(4)
    xs = [t.tensor(v, requires_grad=True) for v in values]
    y = call(t, *xs)

    def like(a, **options):
        return t.tensor(rng.standard_normal(tuple(a.shape)).astype(values[0].dtype), **options)

    seed = like(y, requires_grad=True)
    grads = t.autograd.grad(y, xs, seed, create_graph=order > 1)
    out = [y, *grads]
    if order > 1:
        total = 0
        for g in grads:
            if g.requires_grad:
                total = total + (g * like(g)).sum()
        if values[0].dtype.kind == "c":
            total = t.view_as_real(total)[..., 0]
        out += t.autograd.grad(total, [*xs, seed], allow_unused=True)
    return out


def numbers(x):
    if x is None:
        return 0
    x = x.detach()
    return (x.resolve_conj() if isinstance(x, torch.Tensor) else x).numpy()


def compare(call, shapes, dtype, order, tolerance):
    values = arrays(shapes, dtype)
    ours = derivatives(lampion, call, values, order)
    theirs = derivatives(torch, call, values, order)
    assert tuple(ours[0].shape) == tuple(theirs[0].shape)
    assert ours[0].stride() == theirs[0].stride() or 0 in ours[0].shape
    assert str(ours[0].dtype).rpartition(".")[2] == str(theirs[0].dtype).rpartition(".")[2]
    for a, b in zip(ours, theirs):
        a, b = numbers(a), numbers(b)
        scale = 1 + np.abs(b).max() if np.size(b) else 1
        np.testing.assert_allclose(a + 0 * b, b + 0 * a, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name,call,shapes", CASES, ids=[c[0] for c in CASES])
def test_single_precision(name, call, shapes):
    compare(call, shapes, "float32", 1, 1e-4)


@pytest.mark.parametrize("name,call,shapes", CASES, ids=[c[0] for c in CASES])
def test_second_order(name, call, shapes):
    compare(call, shapes, "float64", 2, 1e-8)


COMPLEX = [c for c in PRODUCTS[:24] + CONVOLUTIONS[:3] if "cross" not in c[0]]


@pytest.mark.parametrize("name,call,shapes", COMPLEX, ids=[c[0] for c in COMPLEX])
def test_complex(name, call, shapes):
    compare(call, shapes, "complex128", 2, 1e-8)


@pytest.mark.parametrize("name,shape,geometry", INDICES, ids=[str(c) for c in INDICES])
def test_indices(name, shape, geometry):
    x = np.random.default_rng(5).standard_normal(shape).astype("float32")
    a, b = (getattr(t.nn.functional, name)(t.tensor(x), *geometry, return_indices=True)
            for t in (lampion, torch))
    for p, q in zip(a, b):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_accumulates_in_single(dtype):
    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((33, 700)), rng.standard_normal((700, 40))
    got, wanted = (t.tensor(x).to(getattr(t, dtype)) @ t.tensor(w).to(getattr(t, dtype))
                   for t in (lampion, torch))
    exact = (torch.tensor(x).to(getattr(torch, dtype)).double()
             @ torch.tensor(w).to(getattr(torch, dtype)).double()).numpy()
    ours = np.abs(got.to(lampion.float64).numpy() - exact).max()
    assert ours <= 1.01 * np.abs(wanted.double().numpy() - exact).max() + 1e-6


@pytest.mark.parametrize("call", ERRORS, ids=range(len(ERRORS)))
def test_errors_read_the_same(call):
    with pytest.raises(Exception) as theirs:
        call(torch)
    with pytest.raises(type(theirs.value)) as ours:
        call(lampion)
    assert str(theirs.value).split("\n")[0][:60] in str(ours.value)
