"""What packages call beyond the documented names, against PyTorch: pruning, lists of tensors,
products of groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.quasirandom
from torch.nn.utils import prune as torch_prune

import lampion
import lampion.nn.parallel.scatter_gather
import lampion.utils._pytree
from lampion.nn.utils import prune

RNG = np.random.default_rng(1)
WEIGHT = RNG.standard_normal((4, 6)).astype(np.float32)
PRUNINGS = {
    "l1": lambda p, m: p.l1_unstructured(m, "weight", 0.3),
    "l1 count": lambda p, m: p.l1_unstructured(m, "weight", 5),
    "l1 bias": lambda p, m: p.l1_unstructured(m, "bias", 1),
    "ln rows": lambda p, m: p.ln_structured(m, "weight", 0.5, 2, 0),
    "ln columns": lambda p, m: p.ln_structured(m, "weight", 2, 1, -1),
    "identity": lambda p, m: p.identity(m, "weight"),
    "mask": lambda p, m: p.custom_from_mask(m, "bias", lib_of(p).tensor([0, 1, 1, 0])),
    "twice": lambda p, m: p.ln_structured(p.l1_unstructured(m, "weight", 0.3), "weight", 1, 2, 0),
    "thrice": lambda p, m: p.l1_unstructured(p.l1_unstructured(p.ln_structured(
        m, "weight", 1, 2, 1), "weight", 4), "weight", 0.25),
    "global": lambda p, m: p.global_unstructured([(m, "weight"), (m, "bias")], p.L1Unstructured,
                                                 amount=0.4),
    "permanent": lambda p, m: p.remove(p.l1_unstructured(m, "weight", 0.3), "weight"),
}


def lib_of(module):
    return torch if module is torch_prune else lampion


@pytest.mark.parametrize("name", PRUNINGS)
def test_pruned_layers(name):
    found = []
    for lib, p in ((torch, torch_prune), (lampion, prune)):
        layer = lib.nn.Linear(6, 4)
        layer.load_state_dict({"weight": lib.from_numpy(WEIGHT.copy()),
                               "bias": lib.from_numpy(WEIGHT[:, 0].copy())})
        PRUNINGS[name](p, layer)
        x = lib.from_numpy(RNG.__class__(np.random.PCG64(2)).standard_normal(
            (3, 6)).astype(np.float32))
        layer(x).pow(2).sum().backward()
        state = {k: v.numpy() for k, v in layer.state_dict().items()}
        grads = {k: v.grad.numpy() for k, v in layer.named_parameters()}
        found.append((state, grads, p.is_pruned(layer)))
    (want, want_grads, pruned), (got, got_grads, ours) = found
    assert list(want) == list(got) and list(want_grads) == list(got_grads) and pruned == ours
    for a, b in ((want, got), (want_grads, got_grads)):
        for k in a:
            np.testing.assert_allclose(b[k], a[k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [
    lambda p, m: p.l1_unstructured(m, "weight", 1.5), lambda p, m: p.remove(m, "weight"),
    lambda p, m: p.l1_unstructured(m, "weight", 99), lambda p, m: p.ln_structured(
        m, "bias", 1, 2, 0), lambda p, m: p.l1_unstructured(m, "weight", "x")])
def test_what_cannot_be_pruned(wrong):
    kinds = []
    for lib, p in ((torch, torch_prune), (lampion, prune)):
        layer = lib.nn.Linear(6, 4)
        with pytest.raises(Exception) as error:
            wrong(p, layer)
        kinds.append(error.type)
        assert {n for n, _ in layer.named_parameters()} == {"weight", "bias"}
    assert kinds[0] is kinds[1]


LISTS = {
    "_foreach_add": (("other",), {"alpha": 2}), "_foreach_add_": ((1.5,), {}),
    "_foreach_sub_": (("other",), {}), "_foreach_mul": (([2.0, 3.0],), {}),
    "_foreach_div_": ((2.0,), {}), "_foreach_pow": ((2,), {}), "_foreach_sqrt": ((), {}),
    "_foreach_neg_": ((), {}), "_foreach_zero_": ((), {}), "_foreach_copy_": (("other",), {}),
    "_foreach_lerp_": (("other", 0.3), {}), "_foreach_addcmul_": (("other", "other"),
                                                                  {"value": 2}),
    "_foreach_addcdiv": (("other", "other", [0.5, 2.0]), {}), "_foreach_norm": ((), {}),
    "_foreach_maximum_": (("other",), {}), "_foreach_clamp_min": ((0.6,), {}),
    "_foreach_clamp_max_": (([0.6, 0.7],), {}), "_foreach_reciprocal_": ((), {}),
    "_foreach_abs": ((), {}), "_foreach_sign": ((), {}), "_foreach_exp_": ((), {}),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_tensors(name):
    first = [RNG.random((2, 3)).astype(np.float32), RNG.random(4).astype(np.float32)]
    second = [a + 0.1 for a in first[::-1][::-1]]
    args, options = LISTS[name]
    found = []
    for lib in (torch, lampion):
        xs, ys = ([lib.from_numpy(a.copy()) for a in part] for part in (first, second))
        out = getattr(lib, name)(xs, *[ys if a == "other" else a for a in args], **options)
        if name.endswith("_"):
            assert all(a is b for a, b in zip(out, xs, strict=True))
        found.append([t.numpy() for t in out])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6)


@pytest.mark.parametrize("shapes", [((6, 4), (3, 4, 5)), ((3, 6, 4), (4, 7)), ((6, 7), (7, 4)),
                                    ((2, 3, 4), (2, 4, 5))])
def test_products_of_groups(shapes):
    a, b = (RNG.standard_normal(s).astype(np.float32) for s in shapes)
    ends = {(6, 4): [1, 1, 6], (3, 6, 4): [2, 3, 7], (6, 7): [2, 2, 7]}.get(shapes[0])
    found = []
    for lib in (torch, lampion):
        x, y = (lib.from_numpy(t.copy()).to(lib.bfloat16).requires_grad_() for t in (a, b))
        offs = None if ends is None else lib.tensor(ends, dtype=lib.int32)
        try:
            out = lib.nn.functional.grouped_mm(x, y, offs=offs)
        except RuntimeError as error:
            if lib is torch:
                pytest.skip(f"PyTorch does not do this: {error}")
            raise
        out.float().pow(2).sum().backward()
        found.append([t.float().detach().numpy() for t in (out, x.grad, y.grad)])
    for p, q in zip(*found, strict=True):
        np.testing.assert_allclose(q, p, rtol=0.05, atol=0.05)


def test_quasirandom_points():
    for dims in (1, 3, 12):
        want, got = torch.quasirandom.SobolEngine(dims), lampion.quasirandom.SobolEngine(dims)
        for n in (1, 3, 12):
            np.testing.assert_allclose(got.draw(n).numpy(), want.draw(n).numpy(), atol=1e-7)
        assert repr(got) == repr(want) and got.num_generated == want.num_generated
        want.reset().fast_forward(5)
        got.reset().fast_forward(5)
        np.testing.assert_allclose(got.draw(2).numpy(), want.draw(2).numpy(), atol=1e-7)
    first = lampion.quasirandom.SobolEngine(3, scramble=True, seed=4).draw(8)
    assert lampion.equal(first, lampion.quasirandom.SobolEngine(3, scramble=True, seed=4).draw(8))
    assert (first >= 0).all() and (first < 1).all() and len(first[:, 0].unique()) == 8


def test_dealing_out_and_collecting():
    tree = {"x": 4, "y": (1, [2.0, "s"])}
    both = lampion.nn.parallel.gather([(lampion.ones(2), {"k": lampion.zeros(1)})] * 2, "cpu")
    assert both[0].shape == (4,) and both[1]["k"].shape == (2,)
    rows = lampion.nn.parallel.scatter({"a": lampion.arange(4), "b": tree}, ["cpu", "cpu"])
    assert rows[1]["a"].tolist() == [2, 3] and rows[0]["b"] == tree


def test_specs_as_text():
    tree = {"a": [1, (2, 3)], "b": None}
    ours, theirs = lampion.utils._pytree, torch.utils._pytree
    text = ours.treespec_dumps(ours.tree_structure(tree))
    assert text == theirs.treespec_dumps(theirs.tree_structure(tree))
    assert ours.treespec_loads(text) == ours.tree_structure(tree)
    kind = ours._get_node_type(tree)
    assert ours.SUPPORTED_NODES[kind].flatten_fn(tree)[0] == [[1, (2, 3)], None]


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("both, biases, first", [(False, True, False), (True, False, True)])
def test_recurrent_layers_as_functions(name, both, biases, first):
    cls = {"lstm": "LSTM", "gru": "GRU"}.get(name, "RNN")
    options = {} if cls != "RNN" else {"nonlinearity": name[4:]}
    layer = getattr(torch.nn, cls)(3, 4, 2, bias=biases, bidirectional=both, batch_first=first,
                                   **options)
    x = RNG.standard_normal((5, 2, 3)).astype(np.float32)
    h = RNG.standard_normal((2 * (1 + both), 5 if first else 2, 4)).astype(np.float32)
    sizes = np.array([3, 2, 2])
    found = []
    for lib in (torch, lampion):
        params = [lib.from_numpy(p.detach().numpy().copy()) for p in layer._flat_weights]
        state = lib.from_numpy(h.copy())
        hx = (state, state * 0.5) if name == "lstm" else state
        out = getattr(lib, name)(lib.from_numpy(x), hx, params, biases, 2, 0.0, False, both, first)
        rows = lib.from_numpy(np.ascontiguousarray(x.reshape(-1, 3)[:7]))
        three = state.repeat(1, 2, 1)[:, :3].contiguous()
        hx = (three, three * 0.5) if name == "lstm" else three
        packed = getattr(lib, name)(rows, lib.from_numpy(sizes), hx, params, biases, 2, 0.0, False,
                                    both)
        found.append([t.detach().numpy() for t in (*out, *packed)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_functions_with_all_arguments():
    table = RNG.standard_normal((5, 3)).astype(np.float32)
    found = []
    for lib in (torch, lampion):
        weight = lib.from_numpy(table.copy())
        lib.embedding_renorm_(weight, lib.tensor([1, 3, 1]), 0.5, 2.0)
        x = lib.from_numpy(table.copy())
        found.append([weight.numpy(), lib.unsafe_split_with_sizes(x, [1, 4])[1].numpy(),
                      lib.nn.utils.convert_conv2d_weight_memory_format(
                          lib.nn.Conv2d(2, 3, 2), lib.channels_last).weight.stride(),
                      x.clone().map2_(x, x, lambda a, b, c: a + b * c).numpy()])
        with pytest.raises(RuntimeError):
            x.solve(x)
        with pytest.raises(RuntimeError):
            lib.sym_constrain_range(3, min=4, max=5)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5)
    sparse = lampion.eye(3).to_sparse()  # PyTorch has the name and no kernel
    assert lampion.indices_copy(sparse).equal(sparse.indices())
