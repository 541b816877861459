"""Sparse tensors: what is checked, what stays sparse, what is refused, files and threads of use."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

import lampion
from lampion import nn


def sample(**options):
    return lampion.sparse_coo_tensor([[0, 1, 1], [2, 0, 0]], [3.0, 4.0, 5.0], (2, 3), **options)


DENSE = [[0, 0, 3], [9, 0, 0]]


def test_it_is_a_tensor_of_its_shape():
    s = sample()
    assert isinstance(s, lampion.Tensor) and s.is_sparse and s.layout is lampion.sparse_coo
    assert s.shape == (2, 3) and s.dim() == 2 and s.numel() == 6 and s._nnz() == 3
    assert (s.sparse_dim(), s.dense_dim()) == (2, 0) and s.device.type == "cpu"
    assert not s.is_coalesced() and s.coalesce().is_coalesced() and s.coalesce()._nnz() == 2
    assert s.to_dense().tolist() == DENSE and s.to_sparse_csr().to_dense().tolist() == DENSE
    assert not lampion.ones(2).is_sparse and lampion.ones(2).sparse_dim() == 0
    assert "nnz=3" in repr(s) and "layout=lampion.sparse_coo" in repr(s)


@pytest.mark.parametrize("wrong,words", [
    (lambda: lampion.sparse_coo_tensor([[0, 9]], [1.0, 2.0], (3,)), "found 9 for a dim of size 3"),
    (lambda: lampion.sparse_coo_tensor([[0, -1]], [1.0, 2.0], (3,)), "negative index -1"),
    (lambda: lampion.sparse_coo_tensor([[0, 1]], [1.0, 2.0, 3.0]), "2 places, values 3"),
    (lambda: lampion.sparse_coo_tensor([[0, 1]], [1.0, 2.0], (3, 3)), "sparse_dim"),
    (lambda: lampion.sparse_csr_tensor([0, 1], [0], [1.0], (2, 2)), "one more than the lines"),
    (lambda: lampion.sparse_csr_tensor([0, 2, 1], [0], [1.0], (2, 2), check_invariants=True),
     "must begin with 0, never fall"),
    (lambda: sample().indices(), "uncoalesced"),
    (lambda: lampion.ones(2).coalesce(), "sparse tensor layout but got Strided"),
    (lambda: sample() + 1, "all zeros would change"),
    (lambda: lampion.exp(sample()), "to_dense"),
    (lambda: lampion.sigmoid(sample()), "to_dense"),
    (lambda: sample().numpy(), "to_dense"),
    (lambda: sample() @ lampion.ones(2, 2), "shapes cannot be multiplied"),
    (lambda: sample().cos_(), "to_dense"),
])
def test_what_does_not_fit_is_refused(wrong, words):
    with pytest.raises((RuntimeError, TypeError), match=words):
        wrong()


def test_gradients_of_values_of_sparse_leaves_and_of_second_order():
    values = lampion.tensor([3.0, 4.0, 5.0], requires_grad=True)
    s = lampion.sparse_coo_tensor([[0, 1, 1], [2, 0, 0]], values, (2, 3))
    assert s.requires_grad and not s.is_leaf and s.grad_fn is not None or s._values() is values
    (lampion.sparse.mm(s, lampion.ones(3, 1)) ** 2).sum().backward()
    assert values.grad.tolist() == [6, 18, 18]
    leaf = sample(requires_grad=True)
    lampion.sparse.sum(leaf * 2).backward()
    assert leaf.grad.is_sparse and leaf.grad._values().tolist() == [2, 2, 2]
    dense = lampion.randn(3, 2, dtype=lampion.float64, requires_grad=True)
    v = lampion.randn(3, dtype=lampion.float64, requires_grad=True)

    def product(v, dense):
        return lampion.sparse_coo_tensor([[0, 1, 1], [2, 0, 0]], v, (2, 3)) @ dense

    assert lampion.autograd.gradcheck(product, (v, dense))
    assert lampion.autograd.gradgradcheck(product, (v, dense))


def test_in_place():
    s = sample()
    s += sample()
    s *= 0.5
    assert s.to_dense().tolist() == DENSE
    s.zero_()
    assert s._nnz() == 0 and s.shape == (2, 3)
    x = lampion.ones(2, 3)
    x.add_(sample(), alpha=2)
    assert x.tolist() == [[1, 1, 7], [19, 1, 1]]


def test_slices():
    s = sample().coalesce()
    assert s[1].to_dense().tolist() == DENSE[1] and s[1, 0].item() == 9
    assert s[:, lampion.tensor([2, 2, 0])].to_dense().tolist() == [[3, 3, 0], [0, 0, 9]]
    assert s[0:1].to_dense().tolist() == DENSE[:1]
    assert [row.to_dense().tolist() for row in s] == DENSE


def test_dense_dims_empty_and_other_dtypes():
    s = lampion.sparse_coo_tensor([[0, 2]], [[1, 2], [3, 4]], (3, 2))
    assert s.dense_dim() == 1 and s.dtype is lampion.int64
    assert lampion.sparse.sum(s, 1).to_dense().tolist() == [3, 0, 7]
    empty = lampion.sparse_coo_tensor(size=(2, 3))
    assert empty.to_dense().tolist() == [[0] * 3] * 2 and (empty @ lampion.ones(3, 1)).sum() == 0
    assert lampion.zeros(2, 2).to_sparse()._nnz() == 0
    assert sample().to(lampion.float64).dtype is lampion.float64 and sample().long().sum() == 12
    mask = lampion.eye(2, 3).bool().to_sparse()
    assert mask.to_dense().dtype is lampion.bool and mask.to_dense()[1, 1]


def test_copies_and_files():
    for s in (sample().coalesce(), sample().to_sparse_csr()):
        for other in (s.clone(), copy.deepcopy(s), pickle.loads(pickle.dumps(s))):
            assert other.layout is s.layout and other.to_dense().tolist() == DENSE
        file = io.BytesIO()
        lampion.save({"s": s}, file)
        file.seek(0)
        assert lampion.load(file)["s"].to_dense().tolist() == DENSE


def test_sparse_gradients_of_embeddings():
    table = nn.Embedding(5, 2, sparse=True, padding_idx=0)
    table(lampion.tensor([[1, 0], [3, 1]])).sum().backward()
    g = table.weight.grad.coalesce()
    assert g.indices().tolist() == [[1, 3]] and g.values().tolist() == [[2, 2], [1, 1]]
    with pytest.raises(RuntimeError, match="SparseAdam"):
        lampion.optim.AdamW(table.parameters()).step()
    with pytest.raises(RuntimeError, match="weight_decay"):
        lampion.optim.SGD(table.parameters(), lr=0.1, weight_decay=0.1).step()
    before = table.weight.detach().clone()
    lampion.optim.SparseAdam(table.parameters(), lr=0.1).step()
    moved = (table.weight.detach() - before).abs().sum(1)
    assert moved[[0, 2, 4]].tolist() == [0, 0, 0] and (moved[[1, 3]] > 0.19).all()


def test_products_at_places_and_reductions():
    a, b = lampion.randn(2, 4), lampion.randn(4, 3)
    at = lampion.sparse.sampled_addmm(sample().coalesce(), a, b, beta=0.0)
    assert lampion.allclose(at.to_dense(), (a @ b) * (lampion.tensor(DENSE) != 0))
    csr = lampion.sparse_csr_tensor([0, 1, 3], [2, 0, 1], [1.0, 2.0, 3.0], (2, 3))
    x = lampion.tensor([[1.0], [2.0], [3.0]])
    assert lampion.sparse.mm(csr, x, "amax").tolist() == [[3], [6]]
    assert lampion.sparse.mm(csr, x, "mean").tolist() == [[3], [4]]
    diagonal = lampion.sparse.spdiags(lampion.ones(1, 3), lampion.tensor([1]), (3, 3))
    assert diagonal.to_dense().tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
