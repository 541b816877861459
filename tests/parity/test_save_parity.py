"""Checkpoints cross between lampion and PyTorch, both ways."""

import io
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import lampion  # noqa: E402

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
          "uint16", "uint32", "uint64", "bool", "complex64", "complex128"]  # fmt: skip


def to_torch(obj, **options):
    buffer = io.BytesIO()
    lampion.save(obj, buffer, **options)
    buffer.seek(0)
    # PyTorch's restricted loader knows protocol 2 only
    return torch.load(buffer, weights_only=options.get("pickle_protocol", 2) == 2)


def to_lampion(obj, torch_options=None, **options):
    buffer = io.BytesIO()
    torch.save(obj, buffer, **(torch_options or {}))
    buffer.seek(0)
    return lampion.load(buffer, **options)


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes(name):
    values = [0, 1, 1, 0, 1, 0] if name == "bool" else [0, 1, 2, 3, 100, 120]
    ours = lampion.tensor(values, dtype=getattr(lampion, name))
    theirs = torch.tensor(values, dtype=getattr(torch, name))
    there = to_torch({"t": ours})["t"]
    assert there.dtype == theirs.dtype and there.tolist() == theirs.tolist()
    here = to_lampion({"t": theirs})["t"]
    assert here.dtype == ours.dtype and here.tolist() == theirs.tolist()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_structures(protocol):
    def build(framework):
        t = framework.tensor([1.5, 2.5])
        return {
            "list": [1, -5, 2**40, 3.25, True, False, None, "text", b"bytes"],
            "tuple": (1, (2, 3), (), (4, 5, 6, 7)),
            "ordered": OrderedDict([("b", t), ("a", 2)]),
            "set": {1, 2},
            "size": framework.Size([2, 3]),
            "dtype": framework.float16,
            "device": framework.device("cpu"),
            "complex": 1 + 2j,
            3: {"nested": [t]},
            "empty": framework.zeros(0, 3),
            "scalar": framework.tensor(7),
        }

    there = to_torch(build(lampion), pickle_protocol=protocol)
    here = to_lampion(build(torch), {"pickle_protocol": protocol})
    for loaded, framework in ((there, torch), (here, lampion)):
        assert loaded["list"] == [1, -5, 2**40, 3.25, True, False, None, "text", b"bytes"]
        assert loaded["tuple"] == (1, (2, 3), (), (4, 5, 6, 7))
        assert type(loaded["ordered"]) is OrderedDict and list(loaded["ordered"]) == ["b", "a"]
        assert loaded["ordered"]["b"].tolist() == [1.5, 2.5]
        assert loaded["set"] == {1, 2} and loaded["complex"] == 1 + 2j
        assert type(loaded["size"]) is framework.Size and tuple(loaded["size"]) == (2, 3)
        assert loaded["dtype"] is framework.float16
        assert loaded["device"] == framework.device("cpu")
        assert tuple(loaded["empty"].shape) == (0, 3) and loaded["scalar"].item() == 7
        # the two tensors are one in the pickle
        assert loaded[3]["nested"][0] is loaded["ordered"]["b"]


def shared(framework):
    base = framework.arange(12, dtype=framework.float32).reshape(3, 4)
    return {"base": base, "row": base[1], "column": base[:, 2], "flipped": base.t()}


def test_shared_memory_stays_shared():
    for loaded in (to_torch(shared(lampion)), to_lampion(shared(torch))):
        assert loaded["row"].tolist() == [4, 5, 6, 7]
        assert loaded["column"].tolist() == [2, 6, 10]
        assert tuple(loaded["flipped"].stride()) == (1, 4)
        loaded["base"].fill_(9)
        assert loaded["row"].tolist() == [9] * 4 and loaded["column"].tolist() == [9] * 3
        assert loaded["flipped"][0, 0].item() == 9


def test_parameters_and_requires_grad():
    ours = {"p": lampion.nn.Parameter(lampion.ones(2)), "t": lampion.ones(1, requires_grad=True)}
    there = to_torch(ours)
    assert type(there["p"]) is torch.nn.Parameter and there["t"].requires_grad
    theirs = {"p": torch.nn.Parameter(torch.ones(2), requires_grad=False), "t": torch.ones(1)}
    here = to_lampion(theirs)
    assert type(here["p"]) is lampion.nn.Parameter and not here["p"].requires_grad
    assert not here["t"].requires_grad


def test_optimizer_state_dicts():
    states = []
    for framework in (lampion, torch):
        params = [framework.tensor([1.0, 2.0]).requires_grad_(True) for _ in range(3)]
        optimizer = framework.optim.Adam(params, lr=0.1)
        for _ in range(3):
            for p in params:
                p.grad = framework.tensor([0.5, -0.5])
            optimizer.step()
        states.append((params, optimizer))
    there = to_torch(states[0][1].state_dict())
    here = to_lampion(states[1][1].state_dict())
    states[1][1].load_state_dict(there)
    states[0][1].load_state_dict(here)
    for params, optimizer in states:
        for p in params:
            p.grad = p.detach() * 0.1
        optimizer.step()
    for a, b in zip(states[0][0], states[1][0]):
        np.testing.assert_allclose(a.tolist(), b.tolist(), rtol=1e-5)
    steps = [s["step"].item() for s in states[1][1].state_dict()["state"].values()]
    assert steps == [4.0] * 3


def test_modules():
    def build(framework):
        nn = framework.nn
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2))

    theirs = build(torch).eval()
    ours = build(lampion).eval()
    ours.load_state_dict(to_lampion(theirs.state_dict()))
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    expected = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(
        np.asarray(ours(lampion.tensor(x)).tolist()), expected, rtol=1e-5, atol=1e-6
    )
    theirs.load_state_dict(to_torch(ours.state_dict()))


def test_old_format():
    value = {"a": torch.arange(6.0).reshape(2, 3), "b": [torch.tensor([1, 2]), "x"]}
    value["c"] = value["a"][1]
    for weights_only in (True, False):
        here = to_lampion(
            value, {"_use_new_zipfile_serialization": False}, weights_only=weights_only
        )
        assert here["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and here["b"][0].tolist() == [1, 2]
        here["a"].fill_(8)
        assert here["c"].tolist() == [8, 8, 8]


def test_map_location_of_a_foreign_device(monkeypatch):
    """A file saved on a device that is not here."""
    buffer = io.BytesIO()
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save({"t": torch.ones(2)}, buffer)
    buffer.seek(0)
    with pytest.raises(RuntimeError, match="map_location"):
        lampion.load(buffer)
    for where in ("cpu", {"cuda:0": "cpu"}, lampion.device("cpu"), lambda m, name: m):
        buffer.seek(0)
        assert lampion.load(buffer, map_location=where)["t"].tolist() == [1, 1]


def test_numpy_inside():
    value = {"a": np.arange(3), "f": np.float32(1.5), "s": np.array(["ab", "c"])}
    here = to_lampion(value)
    assert here["a"].tolist() == [0, 1, 2] and here["f"] == 1.5 and here["s"][0] == "ab"


def test_records_are_aligned_and_torch_can_map_them(tmp_path):
    path = tmp_path / "model.pt"
    lampion.save({"a": lampion.arange(100), "b": lampion.ones(3)}, path)
    there = torch.load(path, mmap=True)
    assert there["a"].tolist() == list(range(100)) and there["b"].tolist() == [1, 1, 1]
    torch.save({"a": torch.arange(100)}, path)
    here = lampion.load(path, mmap=True)
    assert here["a"].tolist() == list(range(100))
