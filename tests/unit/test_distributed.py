"""Process groups of one process, stores, and the modules that are written for several."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

import lampion
import lampion.distributed as dist
from lampion import nn


@pytest.fixture
def world(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    dist.init_process_group("gloo", world_size=1, rank=0)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_world_begins_and_ends(monkeypatch):
    assert dist.is_available() and not dist.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    dist.init_process_group()
    assert dist.is_initialized() and dist.get_rank() == 0 and dist.get_world_size() == 1
    with pytest.raises(ValueError, match="twice"):
        dist.init_process_group("gloo", world_size=1, rank=0)
    dist.destroy_process_group()
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="not been initialized"):
        dist.get_rank()


def test_what_a_larger_world_needs(monkeypatch):
    for name in ("RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="MASTER_ADDR"):
        dist.init_process_group("gloo", world_size=2, rank=0)
    with pytest.raises(ValueError, match="rank"):
        dist.init_process_group("gloo", world_size=1)
    with pytest.raises(ValueError, match="rank 3 in a world of 2"):
        dist.init_process_group("gloo", world_size=2, rank=3)
    with pytest.raises(ValueError, match="rendezvous handler for x://"):
        dist.init_process_group("gloo", "x://y", world_size=2, rank=0)
    assert not dist.is_initialized()


def test_collectives(world):
    x = lampion.arange(6.0).reshape(2, 3)
    y = x.clone()
    work = dist.all_reduce(y, dist.ReduceOp.MAX, async_op=True)
    assert work.wait() and work.is_completed() and y.equal(x)
    assert dist.all_reduce(y) is None
    got = [lampion.zeros(2, 3)]
    dist.all_gather(got, x)
    assert got[0].equal(x) and got[0] is not x
    flat = lampion.zeros(1, 2, 3)
    dist.all_gather_into_tensor(flat, x)
    assert flat[0].equal(x)
    to = lampion.zeros(3, 2)
    dist.reduce_scatter(to, [x.t()])
    assert to.equal(x.t())
    dist.scatter(y, [x + 1])
    assert y.equal(x + 1)
    objects = [None]
    dist.all_gather_object(objects, {"a": 1})
    assert objects == [{"a": 1}]
    dist.broadcast(x, 0)
    dist.barrier()


def test_collectives_check_their_arguments(world):
    x = lampion.ones(2)
    with pytest.raises(ValueError, match="2 entries for 1 process"):
        dist.all_gather([x, x], x)
    with pytest.raises(ValueError, match="no rank 1"):
        dist.broadcast(x, 1)
    with pytest.raises(TypeError, match="must be a Tensor"):
        dist.all_reduce([x])
    with pytest.raises(ValueError, match="shape"):
        dist.all_gather([lampion.ones(3)], x)


def test_groups(world):
    group = dist.new_group([0])
    assert dist.get_process_group_ranks(group) == [0] and dist.get_rank(group) == 0
    assert dist.get_global_rank(group, 0) == 0 and dist.get_group_rank(group, 0) == 0
    outside = dist.new_group([])
    assert outside == dist.GroupMember.NON_GROUP_MEMBER and dist.get_rank(outside) == -1
    assert dist.group.WORLD is dist.GroupMember.WORLD is not None


@pytest.mark.parametrize("kind", ["hash", "file", "tcp"])
def test_stores(kind, tmp_path):
    below = {"hash": dist.HashStore, "file": lambda: dist.FileStore(str(tmp_path / "store"), 1),
             "tcp": lambda: dist.TCPStore("127.0.0.1", 0, 1, True)}[kind]()
    store = dist.PrefixStore("run", below)
    assert store.add("n", 2) == 2 and store.add("n", 3) == 5 and store.get("n") == b"5"
    store.set("a", "x")
    store.append("a", "y")
    assert store.get("a") == b"xy" and store.check(["a", "n"]) and not store.check(["b"])
    assert store.compare_set("a", "no", "z") == b"xy" and store.compare_set("a", "xy", "z") == b"z"
    assert store.delete_key("a") and not store.delete_key("a")
    threading.Timer(0.1, store.set, ("later", b"now")).start()
    assert store.get("later") == b"now"
    with pytest.raises(dist.DistStoreError, match="never"):
        store.wait(["never"], timedelta(seconds=0.1))
    assert store.num_keys() >= 2


def test_wrapped_modules_have_the_keys_and_gradients_of_their_module(world):
    lampion.manual_seed(0)
    plain = nn.Linear(3, 2)
    x = lampion.randn(4, 3)
    for wrap in (nn.parallel.DistributedDataParallel, nn.DataParallel):
        net = wrap(plain)
        assert list(net.state_dict()) == ["module.weight", "module.bias"]
        net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()})
        net(x).sum().backward()
        assert plain.weight.grad.allclose(x.sum(0).expand(2, 3))
        plain.zero_grad()
    ddp = nn.parallel.DistributedDataParallel(plain)
    with ddp.no_sync():
        assert not ddp.require_backward_grad_sync
    assert ddp.require_backward_grad_sync
    with pytest.raises(RuntimeError, match="any parameter that requires"):
        nn.parallel.DistributedDataParallel(nn.ReLU())


def test_data_parallel_says_that_one_device_works():
    with pytest.warns(UserWarning, match="not split"):
        nn.DataParallel(nn.Linear(1, 1), device_ids=[0, 1])


def test_sync_batch_norm_replaces_batch_norm():
    lampion.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)))
    made = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert type(made[1]) is nn.SyncBatchNorm is type(made[2][0])
    other = nn.BatchNorm2d(2)
    x = lampion.randn(3, 2, 4, 4)
    assert made[1](x).equal(other(x)) and made[1].running_mean.equal(other.running_mean)
    with pytest.raises(ValueError, match="at least 2D"):
        made[1](lampion.ones(2))


@pytest.mark.parametrize("transpose", [False, True])
def test_a_norm_folded_into_a_convolution(transpose):
    lampion.manual_seed(0)
    conv = (nn.ConvTranspose2d if transpose else nn.Conv2d)(3, 4, 3, bias=transpose).eval()
    norm = nn.BatchNorm2d(4)
    norm(lampion.randn(5, 4, 6, 6) * 3 + 1)
    norm.eval()
    x = lampion.randn(2, 3, 6, 6)
    made = nn.utils.fuse_conv_bn_eval(conv, norm, transpose)
    assert made is not conv and made(x).allclose(norm(conv(x)), atol=1e-5)
    with pytest.raises(AssertionError, match="only for eval"):
        nn.utils.fuse_conv_bn_eval(conv.train(), norm)


def test_a_norm_folded_into_a_linear_layer():
    lampion.manual_seed(0)
    linear, norm = nn.Linear(3, 4).eval(), nn.BatchNorm1d(4)
    norm(lampion.randn(9, 4) * 2 - 1)
    norm.eval()
    x = lampion.randn(2, 3)
    assert nn.utils.fuse_linear_bn_eval(linear, norm)(x).allclose(norm(linear(x)), atol=1e-5)
