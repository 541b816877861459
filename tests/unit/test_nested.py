"""Nested tensors: one ragged dim, without padding."""

from __future__ import annotations

import copy
import pickle

import pytest

import lampion
from lampion import nested, nn
from lampion.autograd import gradcheck, gradgradcheck
from lampion.nn import functional as F

LENGTHS = (3, 1, 4)


def parts(*inner, dtype=lampion.float32):
    lampion.manual_seed(0)
    return [lampion.randn(n, *inner, dtype=dtype) for n in LENGTHS]


def each(fn, tensors):
    """What a function gives for each example."""
    return [fn(t) for t in tensors]


def same(got, want):
    found = got.unbind()
    assert len(found) == len(want)
    for a, b in zip(found, want):
        assert a.shape == b.shape and a.allclose(b, atol=1e-6)


def test_what_a_nested_tensor_is():
    x = parts(2)
    nt = nested.nested_tensor(x, layout=lampion.jagged)
    assert nt.offsets().tolist() == [0, 3, 4, 8] and nt.values().shape == (8, 2)
    assert nt.is_nested and nt.layout is lampion.jagged and nt.dim() == 3 and len(nt) == 3
    assert nt.size(0) == 3 and nt.size(-1) == 2 and nt.numel() == 16 and nt.is_contiguous()
    assert isinstance(nt.size(1), lampion.SymInt) and nt.size(1) == (nt + 1).size(1)
    assert nt.size(1) != nested.nested_tensor(x).size(1) and nt.size(1) >= 0
    assert "NestedTensor(size=(3, j" in repr(nt) and nt._get_max_seqlen() == 4
    assert nt.tolist() == [t.tolist() for t in x] and not lampion.ones(1).is_nested
    with pytest.raises(TypeError, match="no number"):
        int(nt.size(1))


POINTWISE = [lambda t: t + 1, lambda t: t * t, F.gelu, lampion.exp, lambda t: t.sigmoid(), F.relu,
             lambda t: 2 - t, lambda t: t.clamp(0, 1), lambda t: lampion.where(t > 0, t, 0.0),
             lambda t: t.masked_fill(t > 0, 0.5), F.silu, lambda t: t > 0, lambda t: t.double()]
INNER = [lambda t: t.sum(-1), lambda t: t.mean(-1, keepdim=True), lambda t: t.amax(-1),
         lambda t: t.max(-1).indices, lambda t: F.softmax(t, -1), lambda t: t.std(-1),
         lambda t: F.layer_norm(t, (4,)), lambda t: F.rms_norm(t, (4,)),
         lambda t: F.linear(t, lampion.ones(3, 4), lampion.arange(3.0)),
         lambda t: t @ lampion.ones(4, 2), lambda t: t.unflatten(-1, (2, 2)).flatten(-2),
         lambda t: t.unsqueeze(-1).squeeze(-1), lambda t: t[..., 1:], lambda t: t[..., 2],
         lambda t: t.chunk(2, -1)[1], lambda t: t.narrow(-1, 1, 2), lambda t: t.split(3, -1)[0],
         lambda t: lampion.cat([t, t + 1], -1), lambda t: t.transpose(-1, -2).transpose(-1, -2),
         lambda t: F.normalize(t, dim=-1), lambda t: lampion.stack([t, t], -1)]


@pytest.mark.parametrize("fn", POINTWISE + INNER)
def test_functions_of_each_element(fn):
    x = parts(4)
    same(fn(nested.nested_tensor(x)), each(fn, x))


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "prod", "logsumexp"])
def test_reductions_of_examples(name):
    x = parts(2, dtype=lampion.float64)
    nt = nested.nested_tensor(x)
    got = getattr(nt, name)(1)
    assert got.allclose(lampion.stack([getattr(t, name)(0) for t in x]))
    assert getattr(nt, name)(1, keepdim=True).shape == (3, 1, 2)
    if name in ("sum", "mean"):
        assert getattr(nt, name)().allclose(getattr(lampion.cat(x), name)())
        assert getattr(nt, name)((0, 1)).allclose(getattr(lampion.cat(x), name)(0))
    with pytest.raises(RuntimeError, match="batch dimension"):
        nt.sum(0)


def test_softmax_and_sums_along_the_ragged_dim():
    x = parts(2)
    nt = nested.nested_tensor(x)
    same(nt.softmax(1), each(lambda t: t.softmax(0), x))
    same(F.log_softmax(nt, 1), each(lambda t: t.log_softmax(0), x))
    same(nt.cumsum(1), each(lambda t: t.cumsum(0), x))


def test_padding_and_back():
    x = parts(2)
    nt = nested.nested_tensor(x)
    full = nested.to_padded_tensor(nt, -1.0)
    assert full.shape == (3, 4, 2) and full[1, 0].equal(x[1][0]) and (full[1, 1:] == -1).all()
    assert nt.to_padded_tensor(0.0, (3, 6, 2)).shape == (3, 6, 2)
    with pytest.raises(RuntimeError, match="has room for 2"):
        nt.to_padded_tensor(0.0, (3, 2, 2))


def test_dense_tensors_beside():
    x = parts(2)
    nt = nested.nested_tensor(x)
    same(nt + lampion.arange(2.0), each(lambda t: t + lampion.arange(2.0), x))
    same(nt * lampion.ones(1, 1, 1) * 2, each(lambda t: t * 2, x))
    rows = lampion.arange(3.0).view(3, 1, 1)
    same(nt + rows, [t + k for k, t in enumerate(x)])
    same(rows - nt, [k - t for k, t in enumerate(x)])
    with pytest.raises(RuntimeError, match="same along the ragged dim"):
        nt + lampion.ones(3, 2)
    with pytest.raises(RuntimeError, match="other's offsets"):
        nt + nested.nested_tensor(x)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_within_examples(causal):
    x = parts(2, 4)
    nt = nested.nested_tensor(x).transpose(1, 2)
    got = F.scaled_dot_product_attention(nt, nt, nt, is_causal=causal).transpose(1, 2)
    want = [F.scaled_dot_product_attention(*[t.transpose(0, 1)] * 3, is_causal=causal).transpose(
        0, 1) for t in x]
    same(got, want)
    other = nested.nested_tensor(parts(2, 4)[::-1]).transpose(1, 2)
    got = F.scaled_dot_product_attention(nt, other, other).transpose(1, 2)
    same(got, [F.scaled_dot_product_attention(a.transpose(0, 1), *[b.transpose(0, 1)] * 2)
               .transpose(0, 1) for a, b in zip(x, x[::-1])])


def test_products_over_the_ragged_dim_and_by_example():
    x = parts(2)
    nt = nested.nested_tensor(x)
    assert (nt.transpose(1, 2) @ nt).allclose(lampion.stack([t.mT @ t for t in x]), atol=1e-6)
    weights = lampion.randn(3, 2, 5)
    same(nt @ weights, [t @ w for t, w in zip(x, weights)])


def test_gradients():
    offsets = lampion.tensor([0, 3, 4, 6])
    values = lampion.randn(6, 2, 4, dtype=lampion.float64, requires_grad=True)

    def run(values):
        nt = nested.nested_tensor_from_jagged(values, offsets)
        q = nt.transpose(1, 2)
        out = F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)
        return out.softmax(1).amax(1) + F.layer_norm(out, (8,)).sum(1)

    assert gradcheck(run, values) and gradgradcheck(run, values)
    nt = nested.nested_tensor(parts(2), requires_grad=True)
    (nt * 2).sum().backward()
    assert nt.is_leaf and nt.grad.is_nested and (nt.grad.values() == 2).all()
    x = [t.requires_grad_() for t in parts(2)]
    nested.as_nested_tensor(x).mean(1).sum().backward()
    assert all(t.grad.allclose(lampion.full_like(t, 1 / len(t))) for t in x)


def test_layers_and_training():
    lampion.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(0.0),
                        nn.Linear(8, 1))
    x = parts(2)
    same(net(nested.nested_tensor(x)), each(net, x))
    table = nn.Embedding(5, 3)
    words = [lampion.tensor([1, 2]), lampion.tensor([4])]
    same(table(nested.nested_tensor(words)), each(table, words))


def test_narrowed_rows_have_holes():
    dense = lampion.arange(24.0).view(2, 6, 2)
    nt = nested.narrow(dense, 1, lampion.tensor([0, 2]), lampion.tensor([2, 3]),
                       layout=lampion.jagged)
    same(nt, [dense[0, :2], dense[1, 2:5]])
    same(nt.contiguous(), [dense[0, :2], dense[1, 2:5]])
    assert not nt.is_contiguous() and nt.sum(1)[1].equal(dense[1, 2:5].sum(0))
    assert nt.sum().item() == (dense[0, :2].sum() + dense[1, 2:5].sum()).item()
    same(nt.softmax(1), [dense[0, :2].softmax(0), dense[1, 2:5].softmax(0)])
    picked = nested.masked_select(lampion.arange(6.0).view(2, 3),
                                  lampion.tensor([[True, False, True], [False, True, False]]))
    assert picked.tolist() == [[0.0, 2.0], [4.0]]


def test_shapes():
    x = parts(2, 4)
    nt = nested.nested_tensor(x)
    assert nt.view(3, nt.size(1), 8).values().shape == (8, 8)
    same(nt.reshape(3, -1, 4, 2), each(lambda t: t.reshape(-1, 4, 2), x))
    same(nt.permute(0, 2, 1, 3).permute(0, 2, 1, 3), x)
    assert nt[1].equal(x[1]) and nt[2, 1].equal(x[2][1]) and nt.select(0, -1).equal(x[2])
    first, last = nt.chunk(2, 0)
    same(first, x[:2])
    same(last, x[2:])
    for wrong in (lambda: nt.view(3, -1), lambda: nt[:, 0], lambda: nt.unsqueeze(0),
                  lambda: lampion.cat([nt, nt], 0), lambda: nt.flatten(0, 1), lambda: nt.sort(-1)):
        with pytest.raises(RuntimeError):
            wrong()
    with pytest.raises(ValueError, match="batch dimension"):
        nt.transpose(0, 1)


def test_copies_and_files():
    nt = nested.nested_tensor(parts(2), requires_grad=True)
    for other in (copy.deepcopy(nt), pickle.loads(pickle.dumps(nt.detach())), nt.clone()):
        assert other.tolist() == nt.tolist() and other.is_nested
    assert copy.deepcopy(nt).requires_grad and lampion.equal(nt, nt.clone())
    assert lampion.zeros_like(nt).sum().item() == 0 and nt.to(lampion.float64).dtype.itemsize == 8


def test_what_cannot_be_nested():
    with pytest.raises(RuntimeError, match="empty"):
        nested.nested_tensor([])
    with pytest.raises(RuntimeError, match="differ in more"):
        nested.nested_tensor([lampion.ones(2, 3), lampion.ones(4, 5)])
    with pytest.raises(RuntimeError, match="offsets or lengths"):
        nested.nested_tensor_from_jagged(lampion.ones(3))
    with pytest.raises(RuntimeError, match="layout"):
        nested.nested_tensor([lampion.ones(1)], layout=lampion.sparse_coo)
