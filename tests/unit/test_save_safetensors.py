"""`.safetensors` files."""

import sys

import numpy as np
import pytest

import lampion
from lampion.utils.safetensors import load_metadata, load_safetensors, save_safetensors

safetensors = pytest.importorskip("safetensors")

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
          "uint8", "uint16", "uint32", "uint64", "bool", "complex64"]  # fmt: skip


@pytest.mark.parametrize("mmap", [False, True])
def test_round_trip(tmp_path, mmap):
    path = tmp_path / "x.safetensors"
    tensors = {name: lampion.tensor([0, 1, 1], dtype=getattr(lampion, name)) for name in DTYPES}
    tensors["view"] = lampion.tensor(np.arange(6).reshape(2, 3)).t()
    tensors["empty"] = lampion.zeros(0, 2)
    tensors["scalar"] = lampion.tensor(3.5)
    save_safetensors(tensors, path, {"made": "here"})
    loaded = load_safetensors(path, mmap=mmap)
    assert set(loaded) == set(tensors) and load_metadata(path) == {"made": "here"}
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].tolist() == tensor.tolist()
        assert tuple(loaded[name].shape) == tuple(tensor.shape)
    loaded["float32"].fill_(7)
    assert load_safetensors(path, names=["float32"])["float32"].tolist() == [0, 1, 1]


def test_other_readers_agree(tmp_path):
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "x.safetensors"
    save_safetensors({"a": lampion.tensor([[1.0, 2.0]])}, path)
    assert load_file(path)["a"].tolist() == [[1.0, 2.0]]
    save_file({"b": np.arange(4, dtype=np.int16)}, path)
    assert load_safetensors(path)["b"].tolist() == [0, 1, 2, 3]


def test_errors(tmp_path):
    path = tmp_path / "x.safetensors"
    a = lampion.zeros(4)
    with pytest.raises(RuntimeError, match="share memory"):
        save_safetensors({"a": a, "b": a.view(2, 2)}, path)
    with pytest.raises(TypeError, match="not a tensor"):
        save_safetensors({"a": 3}, path)
    with pytest.raises(TypeError, match="cannot hold"):
        save_safetensors({"a": lampion.zeros(1, dtype=lampion.complex128)}, path)
    path.write_bytes(b"\x10\0\0\0\0\0\0\0junkjunkjunkjunk")
    with pytest.raises(RuntimeError, match="no valid"):
        load_safetensors(path)
    save_safetensors({"a": a}, path)
    with pytest.raises(KeyError):
        load_safetensors(path, names=["z"])


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        save_safetensors({}, tmp_path / "x")
