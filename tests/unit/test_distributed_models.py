"""FSDP, distributed tensors, sharded checkpoints and optimizers, in a group of one process."""

from __future__ import annotations

import functools

import pytest

import lampion
import lampion.distributed as dist
from lampion import nn
from lampion.distributed import checkpoint, fsdp
from lampion.distributed.algorithms._checkpoint import checkpoint_wrapper as wrapping
from lampion.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from lampion.distributed.checkpoint import format_utils
from lampion.distributed.checkpoint import state_dict as states
from lampion.distributed.fsdp import wrap
from lampion.distributed.nn import functional as collectives
from lampion.distributed.tensor import (
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
    ones,
    parallel,
)


@pytest.fixture(autouse=True)
def world():
    dist.init_process_group("gloo", world_size=1, rank=0)
    yield
    dist.destroy_process_group()


def net():
    lampion.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)))


def step(model, optimizer=None):
    lampion.manual_seed(1)
    optimizer = optimizer or lampion.optim.Adam(model.parameters(), lr=0.1)
    loss = model(lampion.randn(5, 2)).float().pow(2).sum()
    loss.backward()
    optimizer.step()
    return optimizer


POLICIES = {
    "classes": wrap.ModuleWrapPolicy({nn.Linear}),
    "function": wrap.CustomPolicy(lambda m: isinstance(m, nn.Linear)),
    "layers": functools.partial(wrap.transformer_auto_wrap_policy,
                                transformer_layer_cls={nn.Linear}),
    "size": functools.partial(wrap.size_based_auto_wrap_policy, min_num_params=12),
    "lambda": functools.partial(wrap.lambda_auto_wrap_policy,
                                lambda_fn=lambda m: isinstance(m, nn.Linear)),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_wrapped_models_train_as_they_are(policy):
    plain, wrapped = net(), net()
    model = fsdp.FullyShardedDataParallel(wrapped, auto_wrap_policy=POLICIES[policy])
    inside = fsdp.FullyShardedDataParallel.fsdp_modules(model)
    assert len(inside) == 3 and model.check_is_root() and not inside[1].check_is_root()
    assert list(model.state_dict()) == list(plain.state_dict())
    step(plain)
    step(model)
    for a, b in zip(plain.state_dict().values(), model.state_dict().values()):
        assert a.equal(b)
    assert str(model.load_state_dict(plain.state_dict())) == "<All keys matched successfully>"
    with model.no_sync(), model.summon_full_params(model):
        assert model.module is wrapped and model.clip_grad_norm_(1.0) > 0


def test_mixed_precision_casts_parameters_not_norms():
    policy = fsdp.MixedPrecision(param_dtype=lampion.bfloat16)
    model = fsdp.FullyShardedDataParallel(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
                                          mixed_precision=policy)
    seen = []
    model.module[0].register_forward_hook(lambda m, i, o: seen.append((m.weight.dtype, o.dtype)))
    model.module[1].register_forward_pre_hook(lambda m, i: seen.append(m.weight.dtype))
    model(lampion.randn(3, 2)).float().pow(3).sum().backward()
    assert seen == [(lampion.bfloat16, lampion.bfloat16), lampion.float32]
    assert all(p.grad.dtype is lampion.float32 for p in model.parameters())


def test_fully_shard_in_place():
    policy = fsdp.MixedPrecisionPolicy(lampion.bfloat16, output_dtype=lampion.float32)
    model = net()
    plain = type(model[0])
    fsdp.fully_shard(model[0], mp_policy=policy)
    fsdp.fully_shard(model)
    assert isinstance(model, fsdp.FSDPModule) and isinstance(model[0], plain)
    x = lampion.randn(3, 2)
    assert model[0](x).dtype is lampion.float32
    want = nn.functional.linear(x.bfloat16(), model[0].weight.bfloat16(), model[0].bias.bfloat16())
    assert model[0](x).equal(want.float())
    step(model)
    model.set_requires_gradient_sync(False)
    model.unshard(async_op=True).wait()
    with pytest.raises(AssertionError, match="one state"):
        fsdp.fully_shard(model)
    with pytest.raises(NotImplementedError, match="combines no gradients"):
        model.set_all_reduce_hook(print)


def test_settings_of_state_dicts():
    model = fsdp.FullyShardedDataParallel(net())
    kind, cls = fsdp.StateDictType, fsdp.FullyShardedDataParallel
    with cls.state_dict_type(model, kind.FULL_STATE_DICT, fsdp.FullStateDictConfig(True, True)):
        assert cls.get_state_dict_type(model).state_dict_config.offload_to_cpu
    assert not cls.get_state_dict_type(model).state_dict_config.offload_to_cpu
    with pytest.raises(RuntimeError, match="Expected state_dict_config"):
        cls.set_state_dict_type(model, kind.SHARDED_STATE_DICT, fsdp.FullStateDictConfig())
    optimizer = step(model)
    named = cls.optim_state_dict(model, optimizer)
    assert set(named["state"]) == {n for n, _ in net().named_parameters()}
    other = lampion.optim.Adam(model.parameters())
    other.load_state_dict(cls.optim_state_dict_to_load(model, other, named))
    for p in model.parameters():
        assert other.state[p]["exp_avg"].equal(optimizer.state[p]["exp_avg"])
    assert other.param_groups[0]["lr"] == 0.1


def test_states_by_name_go_to_other_wrappers():
    first = nn.parallel.DistributedDataParallel(net())
    optimizer = step(first)
    model_state, optim_state = states.get_state_dict(first, optimizer)
    assert list(model_state) == list(net().state_dict())
    second = lampion.compile(net())
    other = lampion.optim.Adam(second.parameters())
    flat = states.StateDictOptions(flatten_optimizer_state_dict=True)
    states.set_state_dict(second, other, model_state_dict=model_state, optim_state_dict=optim_state)
    for a, b in zip(first.parameters(), second.parameters()):
        assert a.equal(b) and other.state[b]["exp_avg"].equal(optimizer.state[a]["exp_avg"])
    third = lampion.optim.Adam(second.parameters())
    flat_state = states.get_optimizer_state_dict(first, optimizer, options=flat)
    assert "state.0.weight.exp_avg" in flat_state and "param_groups.0.bias.lr" in flat_state
    states.set_optimizer_state_dict(second, third, flat_state, options=flat)
    assert third.param_groups[0]["lr"] == 0.1 and len(third.state) == len(optimizer.state)
    first.module[0].weight.requires_grad_(False)
    assert "0.weight" not in states.get_model_state_dict(
        first, options=states.StateDictOptions(ignore_frozen_params=True))
    inner = states.get_model_state_dict(first, submodules={first.module[0]})
    assert list(inner) == ["0.weight", "0.bias"]


def test_checkpoints_in_folders(tmp_path):
    model = net()
    optimizer = step(model)
    checkpoint.save({"model": model, "optim": optimizer, "epoch": 3, "mixed": [lampion.ones(1),
                                                                           {"x": 2}]},
                    checkpoint_id=tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [".metadata", "__0_0.distcp"]
    other = nn.Sequential(nn.Linear(2, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)))
    second = step(other)
    state = {"model": other, "optim": second, "epoch": 0, "mixed": [lampion.zeros(1), {"x": 0}]}
    checkpoint.load(state, checkpoint_id=tmp_path / "a")
    for a, b in zip(model.state_dict().values(), other.state_dict().values()):
        assert a.equal(b)
    assert state["epoch"] == 3 and state["mixed"][1]["x"] == 2 and state["mixed"][0].item() == 1
    assert state["model"] is other
    with pytest.raises(checkpoint.CheckpointException, match="Missing key.*nothing"):
        checkpoint.load({"nothing": lampion.ones(1)}, checkpoint_id=tmp_path / "a")
    with pytest.raises(checkpoint.CheckpointException, match="Size mismatch"):
        checkpoint.load({"mixed": [lampion.zeros(5)]}, checkpoint_id=tmp_path / "a")
    kept = {"nothing": lampion.ones(1)}
    checkpoint.load(kept, checkpoint_id=tmp_path / "a",
                    planner=checkpoint.DefaultLoadPlanner(allow_partial_load=True))
    assert kept["nothing"].item() == 1
    checkpoint.async_save({"x": lampion.ones(2)}, checkpoint_id=tmp_path / "b").result()
    format_utils.dcp_to_torch_save(tmp_path / "b", tmp_path / "b.pt")
    assert lampion.load(tmp_path / "b.pt")["x"].tolist() == [1, 1]
    format_utils.torch_save_to_dcp(tmp_path / "b.pt", tmp_path / "c")
    assert format_utils.everything(checkpoint.FileSystemReader(tmp_path / "c"))["x"].sum() == 2


def test_metadata_names_nothing_else(tmp_path):
    import pickle

    (tmp_path / ".metadata").write_bytes(pickle.dumps(print))
    with pytest.raises(pickle.UnpicklingError, match="builtins.print"):
        checkpoint.load({}, checkpoint_id=tmp_path)


def test_distributed_tensors():
    mesh = dist.init_device_mesh("cpu", (1, 1))
    x = lampion.arange(6.0).view(2, 3).requires_grad_()
    t = distribute_tensor(x, mesh, [Shard(0), Replicate()])
    assert t.placements == (Shard(0), Replicate()) and t.shape == (2, 3) and t.requires_grad
    assert (t * t).placements == t.placements and (t @ t.mT).placements == (Replicate(),) * 2
    (t * t).full_tensor().sum().backward()
    assert t.grad.to_local().equal(2 * x.detach()) and isinstance(t, lampion.Tensor)
    assert t.redistribute(placements=[Replicate(), Shard(-1)]).placements[1] == Shard(1)
    assert ones(2, 2, device_mesh=mesh, placements=[Replicate(), Partial()]).sum().item() == 4
    with pytest.raises(ValueError, match="placements length: 1"):
        distribute_tensor(lampion.ones(1), mesh, [Shard(0)])
    layer = nn.Linear(2, 2)
    assert parallel.parallelize_module(layer, mesh, parallel.ColwiseParallel()) is layer
    with pytest.raises(TypeError, match="ParallelStyle"):
        parallel.parallelize_module(layer, mesh, 3)


def test_wrapped_activations():
    plain, model = net(), net()
    wrapping.apply_activation_checkpointing(
        model, check_fn=lambda m: isinstance(m, nn.Linear))
    assert isinstance(model[0], wrapping.CheckpointWrapper)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model[0].named_parameters()] == ["weight", "bias"]
    model.load_state_dict(plain.state_dict())
    step(plain)
    step(model)
    for a, b in zip(plain.parameters(), model.parameters()):
        assert a.equal(b)
    reentrant = wrapping.checkpoint_wrapper(nn.Linear(2, 2), wrapping.CheckpointImpl.REENTRANT)
    reentrant(lampion.ones(1, 2, requires_grad=True)).sum().backward()
    offloaded = wrapping.offload_wrapper(nn.Linear(2, 2))
    offloaded(lampion.ones(1, 2)).sum().backward()
    assert all(p.grad is not None for p in (*reentrant.parameters(), *offloaded.parameters()))


def test_optimizers_that_processes_share():
    plain, model = net(), net()
    step(plain)
    optimizer = dist.optim.ZeroRedundancyOptimizer(model.parameters(), lampion.optim.Adam, lr=0.1)
    step(model, optimizer)
    assert all(a.equal(b) for a, b in zip(plain.parameters(), model.parameters()))
    saved = optimizer.state_dict()
    other = dist.optim.ZeroRedundancyOptimizer(model.parameters(), lampion.optim.Adam, lr=1.0)
    other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.1 and len(other.optim.state) == 6
    local = dist.optim.PostLocalSGDOptimizer(lampion.optim.SGD(model.parameters(), lr=0.1),
                                             PeriodicModelAverager(2))
    step(model, local)
    assert local.state_dict()["step"] == 1


def test_collectives_with_gradients():
    x = lampion.randn(2, 3, dtype=lampion.float64, requires_grad=True)
    for fn in (collectives.all_reduce, lambda t: collectives.all_gather(t)[0],
               lambda t: collectives.broadcast(t, 0), lambda t: collectives.reduce(t, 0),
               lambda t: collectives.gather(t)[0], lambda t: collectives.scatter([t]),
               lambda t: collectives.reduce_scatter(t, [t]),
               lambda t: collectives.all_to_all([t], [t])[0],
               lambda t: collectives.all_to_all_single(t, t)):
        assert fn(x).equal(x) and lampion.autograd.gradcheck(fn, x)
