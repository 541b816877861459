"""Sparse tensors against PyTorch's: constructors, conversions, ops, gradients, optimizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lampion

RNG = np.random.default_rng(0)
ROWS, COLUMNS, N = 5, 4, 9
PLACES = np.stack([RNG.integers(0, ROWS, N), RNG.integers(0, COLUMNS, N)])
VALUES = RNG.standard_normal(N).astype(np.float32)
DENSE = RNG.standard_normal((COLUMNS, 3)).astype(np.float32)
SAME = RNG.standard_normal((ROWS, COLUMNS)).astype(np.float32)
VECTOR = RNG.standard_normal(COLUMNS).astype(np.float32)


def coo(lib, requires_grad=False, places=PLACES):
    values = lib.from_numpy(VALUES.copy())
    if requires_grad:
        values.requires_grad_()
    return lib.sparse_coo_tensor(lib.from_numpy(places.copy()), values, (ROWS, COLUMNS)), values


def array(x):
    if x.layout not in (torch.strided, lampion.strided):
        x = x.to_dense()
    return x.detach().numpy()


OPS = {
    "to_dense": lambda lib, s: s.to_dense(),
    "coalesce": lambda lib, s: s.coalesce(),
    "csr": lambda lib, s: s.coalesce().to_sparse_csr(),
    "csc": lambda lib, s: s.coalesce().to_sparse_csc(),
    "t": lambda lib, s: s.t(),
    "transpose": lambda lib, s: s.transpose(0, 1),
    "neg": lambda lib, s: -s,
    "abs": lambda lib, s: s.coalesce().abs(),
    "scaled": lambda lib, s: s * 2.5,
    "divided": lambda lib, s: s / 4,
    "sin": lambda lib, s: s.coalesce().sin(),
    "pow": lambda lib, s: s.coalesce().pow(2),
    "mm": lambda lib, s: lib.mm(s, lib.from_numpy(DENSE)),
    "matmul": lambda lib, s: s @ lib.from_numpy(DENSE),
    "matmul_function": lambda lib, s: lib.matmul(s, lib.from_numpy(DENSE)),
    "sparse.mm": lambda lib, s: lib.sparse.mm(s, lib.from_numpy(DENSE)),
    "spmm": lambda lib, s: lib.spmm(s, lib.from_numpy(DENSE)),
    "mv": lambda lib, s: s.mv(lib.from_numpy(VECTOR)),
    "csr mm": lambda lib, s: s.coalesce().to_sparse_csr() @ lib.from_numpy(DENSE),
    "sparse sparse": lambda lib, s: lib.sparse.mm(s, s.t()),
    "addmm": lambda lib, s: lib.sparse.addmm(lib.ones(ROWS, 3), s, lib.from_numpy(DENSE),
                                             beta=0.5, alpha=2.0),
    "add sparse": lambda lib, s: s + s * 3,
    "sub sparse": lambda lib, s: s - s.coalesce() * 3,
    "add dense": lambda lib, s: lib.from_numpy(SAME) + s,
    "mul sparse": lambda lib, s: s.coalesce() * (s * 2).coalesce(),
    "mul dense": lambda lib, s: s.coalesce() * lib.from_numpy(SAME),
    "sum": lambda lib, s: lib.sparse.sum(s),
    "sum 0": lambda lib, s: lib.sparse.sum(s, 0),
    "sum 1": lambda lib, s: lib.sparse.sum(s, dim=1),
    "softmax": lambda lib, s: lib.sparse.softmax(s, 1),
    "log_softmax 0": lambda lib, s: lib.sparse.log_softmax(s, 0),
    "index_select": lambda lib, s: s.coalesce().index_select(0, lib.tensor([3, 0, 3])),
    "select": lambda lib, s: s[1],
    "cat": lambda lib, s: lib.cat([s, s], 1),
    "stack": lambda lib, s: lib.stack([s, s]),
    "unsqueeze": lambda lib, s: s.unsqueeze(0),
    "norm": lambda lib, s: s.coalesce().norm(),
    "double": lambda lib, s: s.double(),
    "zeros_like": lambda lib, s: lib.zeros_like(s),
}


@pytest.mark.parametrize("name", OPS)
def test_values_and_layouts(name):
    want, got = OPS[name](torch, coo(torch)[0]), OPS[name](lampion, coo(lampion)[0])
    assert str(got.layout).rpartition(".")[2] == str(want.layout).rpartition(".")[2]
    assert tuple(got.shape) == tuple(want.shape) and str(got.dtype)[8:] == str(want.dtype)[6:]
    np.testing.assert_allclose(array(got), array(want), rtol=1e-5, atol=1e-6)
    if want.layout is torch.sparse_coo and want.is_coalesced():
        assert got.is_coalesced()
        np.testing.assert_array_equal(got.indices().numpy(), want.indices().numpy())


@pytest.mark.parametrize("name", [n for n in OPS if n not in ("zeros_like", "norm")])
def test_gradients_reach_the_values(name):
    found = []
    for lib in (torch, lampion):
        s, values = coo(lib, True)
        out = OPS[name](lib, s)
        out = out if out.layout is lib.strided else out.to_dense()
        weight = lib.from_numpy(RNG.__class__(np.random.PCG64(3)).standard_normal(
            tuple(out.shape)).astype(np.float32))
        try:
            (out * weight).sum().backward()
        except (RuntimeError, NotImplementedError) as error:
            if lib is torch:
                pytest.skip(f"PyTorch has no gradient here: {error}")
            raise
        found.append(values.grad.numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_dense_factor():
    found = []
    for lib in (torch, lampion):
        dense = lib.from_numpy(DENSE.copy()).requires_grad_()
        (coo(lib)[0] @ dense).pow(2).sum().backward()
        found.append(dense.grad.numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


@pytest.mark.parametrize("form", ["coo", "csr", "csc"])
def test_from_dense_and_parts(form):
    found = []
    for lib in (torch, lampion):
        x = lib.from_numpy(np.where(np.abs(SAME) > 0.7, SAME, 0))
        s = x.to_sparse() if form == "coo" else getattr(x, f"to_sparse_{form}")()
        parts = {"coo": ("indices", "values"), "csr": ("crow_indices", "col_indices", "values"),
                 "csc": ("ccol_indices", "row_indices", "values")}[form]
        found.append([getattr(s, p)().numpy() for p in parts] + [np.array(s._nnz()), array(s)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_constructors():
    for lib in (torch, lampion):
        a = lib.sparse_csr_tensor([0, 1, 3], [2, 0, 2], [3.0, 4.0, 5.0])
        assert tuple(a.shape) == (2, 3) and a.values().dtype is lib.float32
        b = lib.sparse_coo_tensor([[0, 2]], [[1, 2], [3, 4]])
        assert tuple(b.shape) == (3, 2) and b.sparse_dim() == 1 and b.dense_dim() == 1
        assert b.to_dense().tolist() == [[1, 2], [0, 0], [3, 4]]
        assert lib.sparse_coo_tensor((2, 3)).to_dense().tolist() == [[0, 0, 0]] * 2
        for wrong in (lambda lib=lib: coo(lib)[0].indices(), lambda lib=lib: coo(lib)[0].values(),
                      lambda lib=lib: lib.ones(2).coalesce()):
            with pytest.raises(RuntimeError):
                wrong()


@pytest.mark.parametrize("optimizer,options", [
    ("SGD", {"lr": 0.1}), ("SparseAdam", {"lr": 0.1}), ("Adagrad", {"lr": 0.1}),
    ("SparseAdam", {"lr": 0.05, "betas": (0.5, 0.9), "maximize": True})])
@pytest.mark.parametrize("bag", [False, True])
def test_sparse_gradients_of_embeddings(optimizer, options, bag):
    table = RNG.standard_normal((7, 3)).astype(np.float32)
    index = np.array([[1, 2, 1], [5, 2, 0]])
    found = []
    for lib in (torch, lampion):
        layer = (lib.nn.EmbeddingBag(7, 3, sparse=True, mode="mean") if bag
                 else lib.nn.Embedding(7, 3, sparse=True, padding_idx=2))
        layer.load_state_dict({"weight": lib.from_numpy(table.copy())})
        steps = getattr(lib.optim, optimizer)(layer.parameters(), **options)
        for _ in range(3):
            steps.zero_grad()
            out = layer(lib.from_numpy(index))
            (out.pow(2).sum() + out.sum()).backward()
            assert layer.weight.grad.is_sparse
            steps.step()
        found.append((array(layer.weight.grad), array(layer.weight)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_sparse_gradients_add_up_and_dense_optimizers_refuse():
    found = []
    for lib in (torch, lampion):
        weight = lib.from_numpy(SAME.copy()).requires_grad_()
        for _ in range(2):
            lib.nn.functional.embedding(lib.tensor([1, 3, 1]), weight, sparse=True).sum().backward()
        assert weight.grad.is_sparse
        with pytest.raises(RuntimeError, match="sparse gradients"):
            lib.optim.Adam([weight]).step()
        (weight * 2).sum().backward()
        found.append(array(weight.grad))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("form", ["coo", "csr", "csc"])
def test_files_go_both_ways(form, tmp_path):
    for there, here in ((torch, lampion), (lampion, torch)):
        s = coo(there)[0].coalesce()
        s = s if form == "coo" else getattr(s, f"to_sparse_{form}")()
        there.save({"s": s}, tmp_path / "file.pt")
        read = here.load(tmp_path / "file.pt", weights_only=True)["s"]
        assert str(read.layout).endswith(form)
        np.testing.assert_array_equal(array(read), array(s))
