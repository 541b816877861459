"""Indexing, gathering, joining, rearranging, sorting and creation against torch: values, dtypes,
shapes, error types, and gradients of first and second order.

May import: lampion, torch, NumPy, pytest.
"""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest

import lampion
import lampion.nn.functional as LF

torch = pytest.importorskip("torch")
TF = torch.nn.functional
BOTH = ((lampion, LF), (torch, TF))
warnings.simplefilter("ignore")


def check(ours, theirs):
    """Equal values, shapes and dtypes, also inside tuples."""
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs):
            check(a, b)
        return
    if not isinstance(theirs, torch.Tensor):
        assert ours == theirs
        return
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert str(ours.dtype).split(".")[1] == str(theirs.dtype).split(".")[1]
    b = theirs.detach().numpy()
    tol = {"float32": 1e-5, "float16": 1e-3}.get(b.dtype.name, 1e-9)
    assert np.allclose(np.array(ours.detach().host()), b, rtol=tol, atol=tol, equal_nan=True)


def attempt(fn, *args):
    """(result, None) or (None, error)."""
    try:
        return fn(*args), None
    except Exception as e:
        return None, e


def compare(fn, *arrays):
    """Run fn(module, functional, *tensors) in both, compare results and gradients."""
    rng = np.random.default_rng(0)
    inputs = [[m.tensor(a) if isinstance(a, np.ndarray) else a for a in arrays] for m, _ in BOTH]
    leaves = [[t.requires_grad_() for t, a in zip(side, arrays)
               if isinstance(a, np.ndarray) and a.dtype == np.float64] for side in inputs]
    (ours, mine), (theirs, other) = (attempt(fn, m, f, *side)
                                     for (m, f), side in zip(BOTH, inputs))
    if other is not None or mine is not None:
        assert isinstance(mine, type(other)), (mine, other)
        return
    check(ours, theirs)
    outs = [r if isinstance(r, (tuple, list)) else [r] for r in (ours, theirs)]
    live = [k for k, t in enumerate(outs[1])
            if isinstance(t, torch.Tensor) and t.requires_grad]
    if not live or not leaves[1]:
        return
    weights = [rng.standard_normal(tuple(outs[1][k].shape)) for k in live]
    grads = []
    for (m, _), out, leaf in zip(BOTH, outs, leaves):
        w = [m.tensor(v).requires_grad_() for v in weights]
        total = sum((out[k] * v * v).sum() for k, v in zip(live, w))
        first = m.autograd.grad(total, leaf, create_graph=True, allow_unused=True)
        square = sum((g * g).sum() for g in first if g is not None)
        second = ()  # a gradient that depends on nothing has none of its own
        if getattr(square, "requires_grad", False):
            second = m.autograd.grad(square, w, allow_unused=True)
        grads.append((first, second))
    for got, want in [*zip(grads[0][0], grads[1][0]), *zip(grads[0][1], grads[1][1])]:
        if want is not None:
            check(got, want)


GEN = np.random.default_rng(7)
N = GEN.standard_normal


def I(low, high, *shape):  # noqa: E743 - short beside N
    return GEN.integers(low, high, size=shape)


X, M, V, S = N((3, 4, 5)), N((4, 6)), N(7), np.array(2.5)
MASK = GEN.random((4, 6)) < 0.4
NAN = np.array([[1, np.nan, 0.0, -0.0, 5, np.nan, 2], [3, 3, -1, np.inf, -np.inf, 0, -0.0]],
               np.float32)  # float32 inputs are not differentiated here
CASES = {
    "take": (lambda m, f, x, i: x.take(i), M, I(-24, 24, 3, 2)),
    "take_transposed": (lambda m, f, x, i: x.t().take(i), M, I(-24, 24, 3, 2)),
    "take_out_of_range": (lambda m, f, x: x.take(m.tensor([24])), M),
    "put": (lambda m, f, x, s: x.put(m.tensor([1, 5, -2]), s), M, N(3)),
    "put_add": (lambda m, f, x, s: x.put(m.tensor([1, 1, -2]), s, True), M, N(3)),
    "take_along_dim": (lambda m, f, x, i: m.take_along_dim(x, i), M, I(0, 24, 5)),
    "index_put": (lambda m, f, x, s: x.index_put((m.tensor([0, 1]), m.tensor([2, 3])), s), M,
                  N(2)),
    "index_put_add": (lambda m, f, x, s: x.index_put((m.tensor([0, 0, 1]),), s, accumulate=True),
                      M, N((3, 6))),
    "index_put_mask": (lambda m, f, x, k, s: (x * 1).index_put_((k,), s), M, MASK, S),
    "masked_fill": (lambda m, f, x, k: x.masked_fill(k[:1], 2.5), M, MASK),
    "masked_fill_tensor": (lambda m, f, x, k, v: x.masked_fill(k, v), M, MASK, S),
    "masked_fill_inplace": (lambda m, f, x, k: (x * 1).masked_fill_(k, 2), M, MASK),
    "masked_fill_not_bool": (lambda m, f, x: x.masked_fill(x, 1), M),
    "masked_select": (lambda m, f, x, k: x.masked_select(k[0]), M, MASK),
    "masked_scatter": (lambda m, f, x, k, s: x.masked_scatter(k, s), M, MASK, N(30)),
    "nonzero": (lambda m, f, k: k.nonzero(), MASK),
    "nonzero_tuple": (lambda m, f, k: m.nonzero(k, as_tuple=True), MASK),
    "where": (lambda m, f, k: m.where(k), MASK),
    "embedding": (lambda m, f, w, i: f.embedding(i, w), N((10, 4)), I(0, 10, 3, 5)),
    "embedding_padding": (lambda m, f, w, i: f.embedding(i, w, padding_idx=-2), N((10, 4)),
                          I(0, 10, 3, 5)),
    "embedding_out_of_range": (lambda m, f, w: f.embedding(m.tensor([10]), w), N((10, 4))),
    "one_hot": (lambda m, f, i: f.one_hot(i), I(0, 5, 3, 2)),
    "one_hot_small": (lambda m, f, i: f.one_hot(i, 2), I(0, 5, 30)),
    "cat_mixed": (lambda m, f, x, y: m.cat([x, y]), M, I(0, 5, 2, 6)),
    "cat_empty": (lambda m, f, x: m.cat([x, m.zeros(0, dtype=x.dtype)]), M),
    "cat_mismatch": (lambda m, f, x: m.cat([x, x[:2]], 1), M),
    "cat_none": (lambda m, f: m.cat([]),),
    "hstack": (lambda m, f, x: m.hstack([x, x]), V),
    "vstack": (lambda m, f, x: m.vstack([x, x]), V),
    "dstack": (lambda m, f, x: m.dstack([x, x]), M),
    "column_stack": (lambda m, f, x: m.column_stack([x, x]), V),
    "block_diag": (lambda m, f, a, b, c: m.block_diag(a, b, c), M, V, S),
    "cartesian_prod": (lambda m, f, a, b: m.cartesian_prod(a, b), V, N(3)),
    "combinations": (lambda m, f, a: m.combinations(a, 2, True), V),
    "meshgrid": (lambda m, f, a, b: m.meshgrid(a, b, indexing="xy"), V, N(3)),
    "diag": (lambda m, f, x: m.diag(x, 1), V),
    "diag_embed": (lambda m, f, x: m.diag_embed(x, -1, 0, 2), M),
    "diagonal_scatter": (lambda m, f, x, s: x.diagonal_scatter(s, 1), M, N(4)),
    "fill_diagonal": (lambda m, f, x: (x * 1).fill_diagonal_(3.0, wrap=True), N((9, 2))),
    "flip": (lambda m, f, x: x.transpose(0, 2).flip(1, 0), X),
    "roll": (lambda m, f, x: x.roll((1, -2), (0, 2)), X),
    "rot90": (lambda m, f, x: m.rot90(x, 3), M),
    "repeat": (lambda m, f, x: x.repeat(2, 1, 3), M),
    "tile": (lambda m, f, x: x.tile(2), M),
    "repeat_interleave": (lambda m, f, x, r: m.repeat_interleave(x, r, 1), X, I(0, 3, 4)),
    "tril": (lambda m, f, x: x.tril(1), X),
    "triu_inplace": (lambda m, f, x: (x * 1).triu_(-1), M),
    "pixel_unshuffle": (lambda m, f, x: m.pixel_unshuffle(x, 2), N((2, 3, 4, 6))),
    "window_view": (lambda m, f, x: x.unfold(2, 3, 2), X),
    "sort_nan": (lambda m, f, x: x.sort(stable=True, dim=1), NAN),
    "sort_nan_down": (lambda m, f, x: x.sort(stable=True, dim=1, descending=True), NAN),
    "sort_long": (lambda m, f, x: x.sort(), N(3000)),
    "sort_ints": (lambda m, f, x: x.sort(stable=True), I(-9, 9, 3000)),
    "median_all": (lambda m, f, x: x.median(), X),
    "nanmedian": (lambda m, f, x: x.nanmedian(1)[0], NAN),
    "quantile": (lambda m, f, x, q: x.quantile(q, 1, True), X, np.array([0.0, 0.25, 0.9])),
    "quantile_nan": (lambda m, f, x: x.nanquantile(0.4, 1), NAN),
    "unique": (lambda m, f, x: m.unique(x, return_inverse=True, return_counts=True), I(0, 5, 20)),
    "unique_rows": (lambda m, f, x: m.unique(x, return_inverse=True, return_counts=True, dim=0),
                    I(0, 2, 9, 2)),
    "unique_consecutive": (lambda m, f, x: m.unique_consecutive(x, return_counts=True),
                           I(0, 2, 20)),
    "searchsorted": (lambda m, f, s, x: m.searchsorted(s, x, right=True),
                     np.sort(N((4, 9)), -1), M),
    "bucketize": (lambda m, f, s, x: m.bucketize(x, s, out_int32=True), np.sort(N(9)), M),
    "bincount": (lambda m, f, x, w: m.bincount(x, w), I(0, 6, 20),
                 N(20).astype(np.float32)),
    "histc": (lambda m, f, x: m.histc(x.detach(), 5, -1, 1), N(100)),
    "isin": (lambda m, f, x, t: m.isin(x, t, invert=True), I(0, 99, 4, 5), I(0, 99, 50)),
}
for _d in (0, 1, -1):
    _n = X.shape[_d]
    _index, _lines = I(0, _n, 2, 3, 4), I(0, _n, 6)
    _rows = list(X.shape)
    _rows[_d] = 6
    _src, _wide = N((2, 3, 4)), N(_rows)
    CASES |= {
        f"gather{_d}": (lambda m, f, x, i, d=_d: x.gather(d, i), X, _index),
        f"scatter{_d}": (lambda m, f, x, i, d=_d: x.scatter(d, i, 1.5), X, _index),
        f"scatter_add{_d}": (lambda m, f, x, i, s, d=_d: x.scatter_add(d, i, s), X, _index, _src),
        f"index_select{_d}": (lambda m, f, x, i, d=_d: x.index_select(d, i), X, _lines),
        f"index_add{_d}": (lambda m, f, x, i, s, d=_d: x.index_add(d, i, s, alpha=2), X, _lines,
                           _wide),
        f"index_fill{_d}": (lambda m, f, x, i, d=_d: x.index_fill(d, -1 - i, 2.0), X, _lines),
        f"cat{_d}": (lambda m, f, x, d=_d: m.cat([x, x * 2, x], d), X),
        f"stack{_d}": (lambda m, f, x, d=_d: m.stack((x, x * 2), d), X),
        f"split{_d}": (lambda m, f, x, d=_d: x.split(2, d), X),
        f"tensor_split{_d}": (lambda m, f, x, d=_d: x.tensor_split((1, 2, 9, -1), d), X),
        f"topk{_d}": (lambda m, f, x, d=_d: x.topk(2, d), X),
        f"kthvalue{_d}": (lambda m, f, x, d=_d: x.kthvalue(2, d, True), X),
        f"median{_d}": (lambda m, f, x, d=_d: x.median(d), X),
        f"mode{_d}": (lambda m, f, x, d=_d: x.mode(d)[0], I(0, 3, 3, 4, 5)),
        f"select_scatter{_d}": (lambda m, f, x, d=_d: x.select_scatter(x.select(d, 0) * 2, d, 1),
                                X),
    }
    for _how in ("sum", "prod", "mean", "amax", "amin"):
        CASES[f"scatter_reduce_{_how}{_d}"] = (
            lambda m, f, x, i, s, d=_d, r=_how: x.scatter_reduce(d, i, s, r), X, _index, _src)
for _mode in ("constant", "reflect", "replicate", "circular"):
    for _pad, _shape in (((1, 2), (2, 3, 5)), ((2, 1, 1, 2), (2, 3, 4, 5)), ((-1, 2), (2, 3, 5)),
                         ((5, 5), (2, 3, 5)), ((1, 1, 1, 1, 1, 1), (1, 2, 3, 4, 5))):
        CASES[f"pad_{_mode}_{_pad}"] = (
            lambda m, f, x, p=_pad, mode=_mode: f.pad(x, p, mode=mode), N(_shape))


@pytest.mark.parametrize("name", CASES)
def test_op(name):
    compare(*CASES[name])


# ---- random keys  ------------------------------------------------------------------------------

def random_key(rng, gen, shape):
    """A key of every kind of item, as data that both modules can turn into their own."""
    key, d = [], 0
    common = rng.choice([(3,), (2, 1), (1, 3), (2, 3)])
    while d < len(shape) and rng.random() < 0.8:
        n, r = shape[d], rng.random()
        if r < 0.25:
            key.append(rng.randrange(-n, n))
        elif r < 0.5:
            a, b = (rng.choice([None, rng.randrange(-n - 1, n + 2)]) for _ in range(2))
            key.append(slice(a, b, rng.choice([None, 1, 2, 3])))
        elif r < 0.6:
            key.append(None)
            continue
        elif r < 0.66:
            if Ellipsis not in [k for k in key if not isinstance(k, np.ndarray)]:
                key.append(Ellipsis)
            continue
        elif r < 0.92:
            key.append(gen.integers(-n, n, size=rng.choice([common, common, (1,)])))
        elif r < 0.97 and not any(isinstance(k, np.ndarray) for k in key):
            wide = rng.choice([1, 2]) if d + 2 <= len(shape) else 1
            key.append(gen.random(shape[d:d + wide]) < 0.5)
            d += wide - 1
        else:
            key.append(rng.choice([True, False]))
            continue
        d += 1
    return key


def keys_for(key, m):
    items = tuple(m.tensor(k) if isinstance(k, np.ndarray) else k for k in key)
    return items[0] if len(items) == 1 else items


@pytest.mark.parametrize("seed", range(8))
def test_random_keys(seed):
    rng, gen = random.Random(seed), np.random.default_rng(seed)
    for _ in range(40):
        shape = tuple(rng.randrange(1, 6) for _ in range(rng.randrange(0, 5)))
        key = random_key(rng, gen, shape)
        compare(lambda m, f, x: x[keys_for(key, m)], gen.standard_normal(shape))


@pytest.mark.parametrize("seed", range(8))
def test_random_writes(seed):
    rng, gen = random.Random(seed), np.random.default_rng(seed)
    for _ in range(30):
        shape = tuple(rng.randrange(1, 5) for _ in range(rng.randrange(1, 4)))
        key = random_key(rng, gen, shape)
        try:
            region = tuple(torch.zeros(shape)[keys_for(key, torch)].shape)
        except IndexError:
            continue
        if False in [k for k in key if isinstance(k, bool)]:
            continue
        value = gen.standard_normal(region[1:] if rng.random() < 0.3 else region)

        def write(m, f, x, v):
            y = x * 1
            y[keys_for(key, m)] = v
            return y

        compare(write, gen.standard_normal(shape), value)
        compare(lambda m, f, x: write(m, f, x, 2.5), gen.standard_normal(shape))


# ---- creation  ---------------------------------------------------------------------------------

@pytest.mark.parametrize("text", """
M.tensor([np.float64(1)])|M.tensor([np.float32(1), 2.])|M.tensor([1, [2]])|M.tensor([[1, 2], [3]])
M.tensor(300, dtype=M.uint8)|M.tensor([1.5], dtype=M.int64)|M.tensor([2**63])|M.tensor("a")
M.tensor([])|M.tensor([[]])|M.tensor([True, 2])|M.tensor([1, 2.5, 1j])|M.tensor({})
M.tensor(range(3))|M.tensor([1], requires_grad=True)|M.tensor(-2.7, dtype=M.bool)
M.tensor(np.arange(6).reshape(2, 3).T).stride()|M.tensor(2**62 + 1)
M.arange(5.)|M.arange(1, 5, 0.5)|M.arange(5, 0)|M.arange(0, 5, 0)|M.arange(5, 0, -1)
M.arange(0, 1, 0.1)|M.arange(2.5, dtype=M.int64)|M.arange(2**53, 2**53 + 3)
M.linspace(0, 1, 5)|M.linspace(-3, 10, 7, dtype=M.int32)|M.linspace(0, 1, -1)|M.logspace(0, 2, 3)
M.full((2,), True)|M.full((2,), 1j)|M.full((2,), 2.5, dtype=M.int32)|M.full((), M.tensor(2.))
M.zeros(2.5)|M.zeros(())|M.zeros((2,), 3)|M.zeros(M.Size([1]))|M.zeros(size=(1,))|M.empty(-1)
M.eye(2, 3)|M.eye(-1)|M.tril_indices(4, 2, -1)|M.triu_indices(3, 4, 1)
M.Tensor([1, 2])|M.Tensor(1.5)|M.LongTensor([1.5])|M.Tensor((2, 3))
M.zeros(2, 3, 4, 5, memory_format=M.channels_last)|M.empty_strided((2, 3), (1, 2)).stride()
M.zeros_like(M.ones(2, 3, 4).transpose(0, 2)).stride()
M.zeros_like(M.ones(3, 1).expand(3, 4)).stride()
M.empty_like(M.ones(4, 3)[::2]).stride()|M.full_like(M.ones(2), 2.5, dtype=M.int64)
M.ones(2).new_tensor([1])|M.ones(2).new_full((2,), 1)|M.scalar_tensor(3)
""".replace("\n", "|").strip("|").split("|"))
def test_creation(text):
    (ours, mine), (theirs, other) = (
        attempt(eval, text, {"M": m, "np": np}) for m in (lampion, torch))
    if other is not None or mine is not None:
        assert isinstance(mine, type(other)), (mine, other)
        return
    check(ours, theirs)
