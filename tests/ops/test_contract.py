"""Products against NumPy, on every installed device."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import tensors, thorough

import lampion
from lampion.base.errors import DtypeError

F = lampion.nn.functional
rng = np.random.default_rng(0)

MATMUL = [
    ((2, 3), (3, 4)), ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (5, 3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 4)), ((2, 1, 2, 3), (5, 3, 4)),
    ((0, 3), (3, 4)), ((2, 0), (0, 4)), ((70, 33), (33, 41)), ((2, 3), (5, 3, 4)),
]
EINSUM = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("bij,bjk", (5, 2, 3), (5, 3, 4)), ("ii->i", (3, 3)),
    ("...ij,...jk->...ik", (5, 2, 3), (7, 5, 3, 4)), ("ij->ji", (3, 4)), ("ij->", (3, 4)),
    ("i,j->ij", (3,), (4,)), ("i,i", (3,), (3,)), ("ijk,jil->kl", (2, 3, 4), (3, 2, 5)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)), ("aab,bcc->ac", (2, 2, 3), (3, 4, 4)),
    ("ij,kl->", (2, 3), (4, 5)), ("...a->a...", (2, 3, 4)),
]


def values(*shapes, dtype="float32"):
    made = [rng.standard_normal(s) * 2 for s in shapes]
    if dtype.startswith("c"):
        made = [a + 1j * rng.standard_normal(a.shape) for a in made]
    return [a.astype(dtype) for a in made]


def same(result, expected, tolerance=1e-5):
    got = result.detach().cpu().numpy()
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    scale = 1 + (float(np.abs(expected).max()) if expected.size else 0)
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64"])
@pytest.mark.parametrize("shapes", MATMUL, ids=str)
def test_matmul(device, shapes, dtype):
    if dtype == "float64" and not thorough(device):
        return
    a, b = values(*shapes, dtype=dtype)
    same(lampion.matmul(*tensors((a, b), device)), np.matmul(a, b), 1e-4)


def test_layouts_do_not_matter(device):
    a, b = values((6, 8), (10, 6))
    x, y = tensors((a, b), device)
    same(lampion.mm(x[::2, ::2], y.t()[:4, ::2]),
         a[::2, ::2] @ b.T[:4, ::2])
    same(x[:1].expand(5, 8) @ x.t(), np.repeat(a[:1], 5, 0) @ a.T)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
def test_integers_wrap(device, dtype):
    a = rng.integers(0, 100, (7, 9)).astype(dtype)
    same(lampion.mm(*tensors((a, a.T.copy()), device)), a @ a.T)


def test_vectors(device):
    a, b, m = values((5,), (5,), (4, 5))
    x, y, z = tensors((a, b, m), device)
    same(lampion.dot(x, y), np.dot(a, b).astype("float32"))
    same(lampion.mv(z, x), m @ a)
    same(lampion.outer(x, y), np.outer(a, b))
    same(lampion.inner(z, z), np.inner(m, m))
    same(lampion.kron(z, x), np.kron(m, a))
    same(lampion.vdot(x, y), np.vdot(a, b).astype("float32"))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (2,), (7, 2), (0,)])
def test_linear(device, lead, bias):
    x, w, b = values((*lead, 3), (4, 3), (4,))
    args = tensors((x, w, b) if bias else (x, w), device)
    same(F.linear(*args), x @ w.T + (b if bias else 0))


def test_scaled_sums(device):
    c, a, b = values((2, 4), (2, 3), (3, 4))
    same(lampion.addmm(*tensors((c, a, b), device), beta=0.5, alpha=2), 0.5 * c + 2 * (a @ b))
    same(lampion.addmm(*tensors((c[0], a, b), device)), c[0] + a @ b)
    nothing = np.full((2, 4), np.nan, "float32")
    same(lampion.addmm(*tensors((nothing, a, b), device), beta=0), a @ b)
    c, a, b = values((2,), (5, 3, 4), (5, 4, 2))
    same(lampion.baddbmm(*tensors((c, a, b), device)), c + a @ b)
    same(lampion.addbmm(*tensors((c, a, b), device)), c + (a @ b).sum(0))


@pytest.mark.parametrize("case", EINSUM, ids=lambda c: c[0])
def test_einsum(device, case):
    equation, *shapes = case
    arrays = values(*shapes)
    same(lampion.einsum(equation, *tensors(arrays, device)), np.einsum(equation, *arrays))


def test_einsum_takes_lists_of_dims():
    a, b = values((2, 3), (3, 4))
    same(lampion.einsum(*[x for p in zip(tensors((a, b), "cpu"), ([0, 1], [1, 2])) for x in p],
                        [2, 0]), (a @ b).T)


@pytest.mark.parametrize("dims", [0, 1, ([1, 0], [0, 2]), ([-1], [0])], ids=str)
def test_tensordot(dims):
    shapes = {0: ((2, 3), (3, 4)), 1: ((2, 3), (3, 4))}.get(
        dims if isinstance(dims, int) else None,
        ((2, 3, 5), (3, 4, 2)) if len(dims[0] if not isinstance(dims, int) else ()) == 2
        else ((2, 3, 5), (5, 4, 2)))
    a, b = values(*shapes)
    same(lampion.tensordot(*tensors((a, b), "cpu"), dims), np.tensordot(a, b, dims))


def test_chains_and_powers(device):
    a, b, c, d = values((2, 3), (3, 4), (4, 5), (5,))
    same(lampion.linalg.multi_dot(tensors((a, b, c, d), device)),
         np.linalg.multi_dot([a, b, c, d]))
    (m,) = values((2, 3, 3))
    same(lampion.matrix_power(*tensors((m,), device), 5), np.linalg.matrix_power(m, 5), 1e-4)
    x, y = values((4, 3), (4, 3))
    same(lampion.linalg.cross(*tensors((x, y), device)), np.cross(x, y))


@pytest.mark.parametrize("call,error,words", [
    (lambda t: lampion.mm(t(2, 3), t(2, 3)), RuntimeError, "cannot be multiplied"),
    (lambda t: lampion.mm(t(3), t(2, 3)), RuntimeError, "must be a matrix"),
    (lambda t: lampion.matmul(t(), t(3)), RuntimeError, "at least 1D"),
    (lambda t: lampion.bmm(t(2, 3, 4), t(2, 5, 6)), RuntimeError, "Expected size"),
    (lambda t: lampion.dot(t(2), t(3)), RuntimeError, "inconsistent tensor size"),
    (lambda t: lampion.mm(t(2, 3), t(3, 2).double()), RuntimeError, "same dtype"),
    (lambda t: lampion.mm(t(2, 3) > 0, t(3, 2) > 0), DtypeError, "Bool"),
    (lambda t: lampion.einsum("ij,jk->il", t(2, 3), t(3, 4)), RuntimeError, "does not appear"),
    (lambda t: lampion.einsum("ii", t(2, 3)), RuntimeError, "sizes don't match"),
    (lambda t: F.linear(t(2, 3), t(4, 3), t(5)), RuntimeError, "bias"),
], ids=range(10))
def test_errors_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call(lambda *shape: lampion.ones(shape))


def reference_attention(q, k, v, mask=None):
    s = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    s = s if mask is None else np.where(mask, s, -np.inf)
    top = s.max(-1, keepdims=True)
    e = np.exp(s - np.where(np.isinf(top), 0, top))
    total = e.sum(-1, keepdims=True)
    return (np.where(total == 0, 0, e / np.where(total == 0, 1, total)) @ v).astype(q.dtype)


@pytest.mark.parametrize("kind", ["all", "causal", "mask", "grouped"])
def test_attention(device, kind):
    heads = 6 if kind == "grouped" else 3
    q, k, v = values((2, heads, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7))
    args, options, mask = tensors((q, k, v), device), {}, None
    if kind == "causal":
        options, mask = {"is_causal": True}, np.tril(np.ones((5, 6), bool))
    elif kind == "mask":  # a row that sees nothing gives zeros
        mask = (np.arange(5)[:, None] + np.arange(6)) % 3 != 1
        mask[2] = False
        options = {"attn_mask": lampion.tensor(mask).to(device)}
    elif kind == "grouped":
        options, k, v = {"enable_gqa": True}, np.repeat(k, 2, 1), np.repeat(v, 2, 1)
    got = F.scaled_dot_product_attention(*args, **options)
    same(got, reference_attention(q, k, v, mask))
