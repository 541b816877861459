"""Storages with a dtype, memory that processes share, and older methods of tensors."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler

import pytest

import lampion
import lampion.multiprocessing as mp


def test_a_storage_is_the_memory_of_its_tensors():
    t = lampion.arange(6.0).reshape(2, 3)
    s = t[1].storage()
    assert type(s) is lampion.FloatStorage and s.size() == len(s) == 6 and s.nbytes() == 24
    s[0] = 9
    assert t[0, 0] == 9 and list(s)[:2] == [9.0, 1.0] and s.data_ptr() == t.data_ptr()
    copy = s.clone()
    s.fill_(2)
    assert copy[0] == 9 and t.eq(2).all()
    assert s.copy_(copy)[0] == 9 and s.untyped() == t.untyped_storage()


def test_storages_are_made_of_sizes_and_numbers():
    assert lampion.LongStorage([1, 2]).tolist() == [1, 2]
    assert lampion.TypedStorage(3, dtype=lampion.int16).nbytes() == 6
    with pytest.raises(RuntimeError, match="holds"):
        lampion.FloatStorage(2, dtype=lampion.int64)
    with pytest.raises(RuntimeError, match="slices"):
        lampion.FloatStorage([1, 2])[0:1]


def test_older_methods():
    t = lampion.tensor([1.0, 2.0])
    assert t.new(2, 3).shape == (2, 3) and t.new([3, 4]).tolist() == [3.0, 4.0]
    assert t.new(lampion.Size([3])).shape == (3,) and t.new().shape == (0,)
    assert t.clone().apply_(lambda x: x + 1).tolist() == [2.0, 3.0]
    assert t.clone().map_(t, lambda x, y: x * y).tolist() == [1.0, 4.0]
    assert t.is_set_to(t.view(2)) and not t.is_set_to(t.clone())
    assert lampion.empty(2, 3, 5).permute(1, 2, 0).dim_order() == (2, 0, 1)
    assert t.to_dense() is t and not t.is_distributed()
    with pytest.raises(RuntimeError, match="detach"):
        lampion.ones(1, requires_grad=True).apply_(abs)


def test_shared_memory_is_seen_under_its_name():
    t = lampion.arange(6.0).reshape(2, 3)
    assert not t.is_shared()
    t.share_memory_()
    assert t.is_shared() and t.untyped_storage().is_shared() and t.share_memory_() is t
    other = pickle.loads(ForkingPickler.dumps(t[1]))
    other[0] = 7
    assert t[1, 0] == 7 and other.is_shared()
    plain = pickle.loads(ForkingPickler.dumps(lampion.ones(2)))
    assert plain.equal(lampion.ones(2))
    with pytest.raises(RuntimeError, match="non-leaf"):
        ForkingPickler.dumps(lampion.ones(1, requires_grad=True) * 2)


def _add(rank, t):
    if rank == 9:
        raise ValueError("from the process")
    t[rank] += rank + 1


def test_spawned_processes_write_to_shared_memory():
    t = lampion.zeros(2).share_memory_()
    mp.spawn(_add, (t,), nprocs=2)
    assert t.tolist() == [1.0, 2.0]


def _fail(rank):
    raise ValueError("from the process")


def test_an_error_in_a_spawned_process_is_reported():
    with pytest.raises(mp.ProcessRaisedException, match="from the process"):
        mp.start_processes(_fail, nprocs=1, start_method="fork")


def test_variable_is_a_tensor():
    x = lampion.autograd.Variable(lampion.ones(2), requires_grad=True)
    assert x.requires_grad and isinstance(x, lampion.autograd.Variable)
    assert isinstance(lampion.ones(1), lampion.autograd.Variable)
    with pytest.raises(TypeError, match="has to be a tensor"):
        lampion.autograd.Variable([1])


def test_attention_ways():
    from lampion.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):
        q = lampion.ones(1, 2, 4)
        assert lampion.nn.functional.scaled_dot_product_attention(q, q, q).equal(q)
    with pytest.raises(TypeError, match="no SDPBackend"), sdpa_kernel(["math"]):
        pass


def test_hub_keeps_files_and_loads_checkouts(tmp_path):
    weights = tmp_path / "net.pt"
    lampion.save({"a": lampion.ones(2)}, weights)
    got = lampion.hub.load_state_dict_from_url(weights.as_uri(), str(tmp_path / "kept"))
    assert got["a"].equal(lampion.ones(2)) and (tmp_path / "kept" / "net.pt").exists()
    with pytest.raises(RuntimeError, match="invalid hash"):
        lampion.hub.download_url_to_file(weights.as_uri(), str(tmp_path / "x"), "0" * 64)
    assert not (tmp_path / "x").exists()
    (tmp_path / "hubconf.py").write_text("def two(n=2):\n    'Two.'\n    return n\n")
    assert lampion.hub.load(str(tmp_path), "two", source="local", n=3) == 3
    assert lampion.hub.list(str(tmp_path)) == ["two"]
    assert lampion.hub.help(str(tmp_path), "two") == "Two."
    with pytest.raises(RuntimeError, match="source='local'"):
        lampion.hub.load("someone/net", "two")
