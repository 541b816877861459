"""Indexing, gathering, joining, rearranging, sorting and creation against NumPy, on every device.

May import: lampion, NumPy, pytest.
"""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest

import lampion as L
import lampion.nn.functional as F


def same(t, a, dtype=None):
    """Values and shape of a tensor are those of an array."""
    a = np.asarray(a)
    got = np.array(t.detach().host())
    assert tuple(t.shape) == a.shape, (t.shape, a.shape)
    assert np.allclose(got, a, equal_nan=True), (got, a)
    if dtype is not None:
        assert t.dtype is dtype


def random_key(rng, gen, shape):
    """A key that NumPy and lampion read alike (at most one block of index arrays)."""
    key, d, adv = [], 0, None
    while d < len(shape) and rng.random() < 0.85:
        n, r = shape[d], rng.random()
        if r < 0.25:
            key.append(rng.randrange(-n, n))
        elif r < 0.5:
            a, b = (rng.choice([None, rng.randrange(-n - 1, n + 2)]) for _ in range(2))
            key.append(slice(a, b, rng.choice([None, 1, 2])))
        elif r < 0.6:
            key.append(None)
            continue
        elif r < 0.85:
            if adv is None:
                adv = rng.choice([(3,), (2, 1), (2, 3)])
            key.append(gen.integers(-n, n, size=rng.choice([adv, adv[-1:]])))
        elif adv is None:
            adv = ()
            key.append(gen.random(n) < 0.5)
        else:
            key.append(slice(None))
        d += 1
    if rng.random() < 0.2:
        key.append(Ellipsis)
    return key


def separated_int(key):
    """NumPy counts integers as index arrays when it places result dims; PyTorch does not."""
    arrays = [k for k in key if isinstance(k, np.ndarray)]
    return bool(arrays) and any(isinstance(k, int) for k in key)


def for_device(key, device):
    return tuple(L.tensor(k, device=device) if isinstance(k, np.ndarray) else k for k in key)


@pytest.mark.parametrize("seed", range(3))
def test_getitem_and_setitem(device, seed):
    rng, gen = random.Random(seed), np.random.default_rng(seed)
    for _ in range(40):
        shape = tuple(rng.randrange(1, 5) for _ in range(rng.randrange(1, 4)))
        a = gen.standard_normal(shape).astype(np.float32)
        key = random_key(rng, gen, shape)
        if separated_int(key):
            continue
        try:
            want = a[tuple(key)]
        except IndexError:
            with pytest.raises(IndexError):
                L.tensor(a, device=device)[for_device(key, device)]
            continue
        x = L.tensor(a, device=device)
        same(x[for_device(key, device)], want)
        value = rng.choice([2.0, gen.standard_normal(want.shape).astype(np.float32)])
        if any(isinstance(k, np.ndarray) and k.dtype != bool for k in key):
            value = 2.0  # which of two writes to one place wins is NumPy's own business
        a[tuple(key)] = value
        x[for_device(key, device)] = (
            value if isinstance(value, float) else L.tensor(value, device=device))
        same(x, a)


def test_gradient_of_indexing_counts_reads(device):
    x = L.zeros(4, device=device, requires_grad=True)
    x[[0, 0, 3]].sum().backward()
    same(x.grad, [2, 0, 0, 1])


def test_index_errors_name_the_index(device):
    x = L.zeros(3, 4, device=device)
    with pytest.raises(IndexError, match="index 5 is out of bounds for dimension 0 with size 3"):
        x[L.tensor([0, 5], device=device)]
    with pytest.raises(IndexError, match="index 3 is out of bounds for dimension 0 with size 3"):
        x[3]
    with pytest.raises(IndexError, match="too many indices for tensor of dimension 2"):
        x[0, 0, 0]
    with pytest.raises(IndexError, match=r"mask \[2\] at index 0"):
        x[L.tensor([True, False], device=device)]
    with pytest.raises(ValueError, match="step must be greater than zero"):
        x[::-1]
    big = L.arange(100_000, device=device)
    with pytest.raises(IndexError, match="index 4 is out of bounds"):
        L.zeros(4, device=device)[big % 5]
    with pytest.raises(IndexError, match="index -1"):
        x.index_select(0, L.tensor([-1], device=device))
    with pytest.raises(IndexError):
        x[L.tensor([7], device=device)] = 1.0
    same(x, np.zeros((3, 4)))


def test_basic_keys_are_views(device):
    x = L.zeros(2, 3, device=device)
    for key in (0, slice(1, 2), (slice(None), 1), None, Ellipsis, (..., 0)):
        for _ in range(2):  # planned, then cached
            assert x[key]._is_view()
    x[0][1] = 5.0
    same(x, [[0, 5, 0], [0, 0, 0]])


def test_key_types_are_told_apart(device):
    x = L.arange(6, device=device).reshape(2, 3)
    assert x[1].shape == (3,)
    assert x[True].shape == (1, 2, 3)
    assert x[1].shape == (3,)
    assert x[np.int64(1)].shape == (3,)
    with pytest.raises(TypeError):
        x[1.0:2]


def test_embedding(device):
    gen = np.random.default_rng(2)
    w = gen.standard_normal((6, 3)).astype(np.float32)
    i = gen.integers(0, 6, (2, 4))
    weight = L.tensor(w, device=device, requires_grad=True)
    out = F.embedding(L.tensor(i, device=device), weight, padding_idx=2)
    same(out, w[i])
    out.sum().backward()
    count = np.bincount(i.ravel(), minlength=6).astype(np.float32)
    count[2] = 0
    same(weight.grad, np.repeat(count[:, None], 3, 1))


@pytest.mark.parametrize("n", [0, 1, 7, 5000])
def test_nonzero_and_masks(device, n):
    gen = np.random.default_rng(n)
    a = gen.random(n) < 0.3
    m = L.tensor(a, device=device)
    same(m.nonzero(), np.argwhere(a))
    v = gen.standard_normal(n).astype(np.float32)
    x = L.tensor(v, device=device)
    same(x[m], v[a])
    same(x.masked_fill(m, 2.0), np.where(a, 2.0, v))
    b = gen.random((3, min(n, 50), 2)) < 0.5
    for got, want in zip(L.tensor(b, device=device).nonzero(as_tuple=True), np.nonzero(b)):
        same(got, want)


def test_joining_and_splitting(device):
    gen = np.random.default_rng(3)
    a, b = (gen.standard_normal((2, 3, 4)).astype(np.float32) for _ in range(2))
    x, y = L.tensor(a, device=device), L.tensor(b, device=device)
    for d in (0, 1, 2):
        same(L.cat([x, y, x], d), np.concatenate([a, b, a], d))
        same(L.stack([x, y], d), np.stack([a, b], d))
        for got, want in zip(x.tensor_split(2, d), np.array_split(a, 2, d)):
            same(got, want)
    same(L.cat([x.transpose(0, 2), y.transpose(0, 2)]), np.concatenate([a.T.transpose(0, 1, 2),
                                                                        b.T]).reshape(8, 3, 2))
    assert [tuple(p.shape) for p in x.split(2, 2)] == [(2, 3, 2)] * 2
    assert L.cat([x, L.ones(1, 3, 4, dtype=L.int64, device=device)]).dtype is L.float32
    with pytest.raises(RuntimeError, match="Sizes of tensors must match except in dimension 0"):
        L.cat([x, y[:, :2]])


@pytest.mark.parametrize("n", [1, 9, 130, 700])
@pytest.mark.parametrize("kind", ["float", "ties", "int", "nan"])
def test_sorting(device, n, kind):
    gen = np.random.default_rng(n)
    a = gen.standard_normal((2, n)).astype(np.float32)
    if kind == "ties":
        a = np.round(a)
    if kind == "int":
        a = gen.integers(-5, 5, (2, n))
    if kind == "nan":
        a[gen.random((2, n)) < 0.1] = np.nan
    x = L.tensor(a, device=device)
    order = np.argsort(a, axis=1, kind="stable")
    values, indices = x.sort(1)
    same(values, np.take_along_axis(a, order, 1))
    same(indices, order, L.int64)
    down = n - 1 - np.argsort(a[:, ::-1], axis=1, kind="stable")[:, ::-1]
    same(x.sort(1, descending=True).indices, down)
    k = min(n, 3)
    same(x.topk(k).values, np.take_along_axis(a, down, 1)[:, :k])
    if kind != "nan":
        same(x.kthvalue(k, 1).values, np.sort(a, 1)[:, k - 1])
        same(x.median(1).values, np.sort(a, 1)[:, (n - 1) // 2])
    same(x.t().contiguous().sort(0)[1], order.T)


def test_counting_and_searching(device):
    gen = np.random.default_rng(5)
    a = gen.integers(0, 6, 40)
    x = L.tensor(a, device=device)
    values, inverse, counts = x.unique(return_inverse=True, return_counts=True)
    want = np.unique(a, return_inverse=True, return_counts=True)
    for got, expected in zip((values, inverse, counts), want):
        same(got, expected)
    same(L.bincount(x, minlength=9), np.bincount(a, minlength=9))
    edges, v = np.sort(gen.standard_normal(11)), gen.standard_normal(20)
    for side in ("left", "right"):
        got = L.searchsorted(L.tensor(edges.astype(np.float32), device=device),
                             L.tensor(v.astype(np.float32), device=device), side=side)
        same(got, np.searchsorted(edges.astype(np.float32), v.astype(np.float32), side))
    same(L.isin(x, L.tensor([1, 4], device=device)), np.isin(a, [1, 4]))


def test_factories(device):
    same(L.arange(2, 11, 3, device=device), np.arange(2, 11, 3), L.int64)
    same(L.arange(0.0, 1.0, 0.25, device=device), np.arange(0, 1, 0.25), L.float32)
    same(L.linspace(-1, 1, 7, device=device), np.linspace(-1, 1, 7))
    same(L.eye(2, 3, device=device), np.eye(2, 3))
    same(L.full((2, 2), 2**53 + 1, device=device), np.full((2, 2), 2**53 + 1), L.int64)
    x = L.zeros(2, 3, device=device).t()
    assert L.ones_like(x).stride() == (1, 3)
    assert L.zeros(2, 3, 4, 5, device=device).to(
        memory_format=L.channels_last).stride() == (60, 1, 15, 3)
    same(L.tensor([[1, 2.5], [True, 3]], device=device), [[1, 2.5], [1, 3]], L.float32)
    with pytest.raises(ValueError, match="expected sequence of length 2 at dim 1"):
        L.tensor([[1, 2], [3]], device=device)
    with pytest.raises(RuntimeError, match="without overflow"):
        L.tensor([300], dtype=L.uint8, device=device)


def test_copying_a_tensor_warns():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        L.tensor(L.zeros(2))
    assert any("copy construct" in str(w.message) for w in seen)


def test_writes_are_seen_by_the_version_check(device):
    x = L.ones(3, device=device, requires_grad=True)
    y = x * 1
    z = y * y
    with L.no_grad():
        y[0] = 2.0
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        z.sum().backward()


def test_cached_keys_do_not_serve_their_look_alikes(device):
    x = L.arange(6, device=device).reshape(2, 3)
    for _ in range(2):  # planned, then cached
        assert x[1:2].shape == (1, 3)
        assert x[1, 0].shape == ()
        x[1, 0] = 3
        x[1:2] = 4
        x[1] = 5
    for key in (slice(1.0, 2), slice(1.0, 2.0)):
        with pytest.raises(TypeError):
            x[key]
        with pytest.raises(TypeError):
            x[key] = 7
    assert x[True, 0].shape == (1, 3)
    with pytest.raises(IndexError):
        x[1.0]
    x[True, 0] = 9
    same(x, [[9, 9, 9], [5, 5, 5]])
    index = L.tensor([0, 1], device=device)
    for _ in range(2):
        assert x[:, index].shape == (2, 2)
        x[:, index] = 1
    with pytest.raises((IndexError, RuntimeError, TypeError)):
        x[(None, None, None), index]
    same(x, [[1, 1, 9], [1, 1, 5]])


def test_arrays_and_lists_as_keys(device):
    a = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    x = L.tensor(a, device=device)
    rows, mask = np.array([2, 0]), np.array([True, False, True])
    for _ in range(2):
        same(x[rows], a[rows])
        same(x[:, rows], a[:, rows])
        same(x[rows, 1], a[rows, 1])
        same(x[mask], a[mask])
        same(x[[0, 2]], a[[0, 2]])
        same(x[:, [0, 2]], a[:, [0, 2]])
        same(x[[True, False, True]], a[mask])


def test_views_of_views(device):
    """An offset counts from where the view begins, not from where the memory does."""
    a = np.arange(60.0, dtype=np.float32).reshape(5, 12)
    x = L.tensor(a, device=device)
    same(x[1:][:, 2:][1, 3:].clone(), a[1:][:, 2:][1, 3:])
    rows = x.flatten()[7:][5:].view(4, 12)
    same(rows.select(1, 3) * 2, a[1:, 3] * 2)
    x[2:][1:][:, 4:].fill_(-1)
    a[3:, 4:] = -1
    same(x, a)
    same(x[3:][:0:1].sum(), 0.0)
    same(x[4][0:], a[4])


def test_gradients_of_slices_are_joined(device):
    """Parts of one dim, in any order, with gaps and overlaps, and slices of another dim."""
    a = np.random.default_rng(4).normal(size=(6, 5)).astype(np.float32)
    w = [float(k + 1) for k in range(8)]

    def gradient(f, order=1):
        x = L.tensor(a, device=device, requires_grad=True)
        y = f(x)
        if order == 2:
            (g,) = L.autograd.grad((y * y).sum() / 2, x, create_graph=True)
            (g2,) = L.autograd.grad((g * g).sum() / 2, x)
            return g2.cpu().numpy()
        return L.autograd.grad(y.sum(), x)[0].cpu().numpy()

    def tiles(x):
        p, q, r = x.split([1, 3, 2])
        return L.cat([r * w[2], p * w[0], q * w[1]])

    want = np.repeat([w[0], w[1], w[2]], [1, 3, 2])[:, None] * np.ones((1, 5))
    assert np.allclose(gradient(tiles), want)
    assert np.allclose(gradient(tiles, 2), want ** 4 * a, atol=1e-3)
    with_gaps = gradient(lambda x: x[1:2].sum() * 2 + x[4:5].sum() * 3)
    assert np.allclose(with_gaps[:, 0], [0, 2, 0, 0, 3, 0])
    overlap = gradient(lambda x: x[0:3].sum() + x[2:5].sum() * 2 + x[:, 1].sum() * 4 + x.sum())
    assert np.allclose(overlap[:, 0], [2, 2, 4, 3, 3, 1]) and np.allclose(overlap[:, 1],
                                                                          overlap[:, 0] + 4)
    rows = gradient(lambda x: sum((r * w[k]).sum() for k, r in enumerate(x.unbind(0))))
    assert np.allclose(rows[:, 2], w[:6])
    one = gradient(lambda x: x[2] * 7)
    assert np.allclose(one[:, 0], [0, 0, 7, 0, 0, 0])
    x = L.tensor(a, device=device, requires_grad=True)
    y = x * 1
    y.register_hook(lambda g: g * 2)
    p, q = y.chunk(2)
    (p.sum() + q.sum() * 3).backward()
    assert np.allclose(x.grad.cpu().numpy()[:, 0], [2, 2, 2, 6, 6, 6])
