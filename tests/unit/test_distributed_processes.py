"""Several processes of one machine: collectives, gradients, uneven inputs, a launcher."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

import lampion
import lampion.distributed as dist
from lampion import multiprocessing, nn
from lampion.distributed import checkpoint, fsdp
from lampion.distributed.algorithms.ddp_comm_hooks import default_hooks
from lampion.distributed.checkpoint import format_utils
from lampion.distributed.nn import functional as collectives
from lampion.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from lampion.nn.parallel import DistributedDataParallel


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(rank, check, size, port, folder):
    lampion.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", timedelta(seconds=60), size, rank)
    check(rank, size, Path(folder))
    dist.barrier()
    dist.destroy_process_group()


def together(check, size, folder):
    """Run `check(rank, size, folder)` in processes that are one world; what fails there fails
    here."""
    multiprocessing.spawn(started, (check, size, free_port(), str(folder)), nprocs=size)


def row(rank, n=5, dtype=lampion.float32):
    return (lampion.arange(n) * (rank + 1)).to(dtype)


def check_collectives(rank, size, folder):
    every = [row(k) for k in range(size)]
    for op, want in ((dist.ReduceOp.SUM, sum(every)), (dist.ReduceOp.MAX, every[-1]),
                     (dist.ReduceOp.MIN, every[0]), (dist.ReduceOp.AVG, sum(every) / size),
                     (dist.ReduceOp.PRODUCT, every[0] * every[1] * every[2])):
        x = row(rank)
        dist.all_reduce(x, op)
        assert x.allclose(want), (op, x)
    x = row(rank, dtype=lampion.bfloat16)
    work = dist.all_reduce(x, async_op=True)
    assert work.wait() and work.is_success() and x.float().allclose(sum(every))
    x = lampion.tensor(rank)
    dist.all_reduce(x)
    assert x.item() == 3
    x = row(rank)
    dist.reduce(x, 1)
    assert x.allclose(sum(every) if rank == 1 else row(rank))
    x = row(rank)
    dist.broadcast(x, 2)
    assert x.equal(every[2])
    got = [lampion.zeros(5) for _ in range(size)]
    dist.all_gather(got, row(rank))
    assert all(a.equal(b) for a, b in zip(got, every))
    flat = lampion.zeros(size * 5)
    dist.all_gather_into_tensor(flat, row(rank))
    assert flat.equal(lampion.cat(every))
    dist.gather(row(rank), got if rank == 0 else None, 0)
    x = lampion.zeros(5)
    dist.scatter(x, [t + 1 for t in every] if rank == 1 else None, 1)
    assert x.equal(every[rank] + 1)
    dist.reduce_scatter(x, [row(k) + rank for k in range(size)])
    assert x.equal(every[rank] * size + 3)
    x = lampion.zeros(2)
    dist.reduce_scatter_tensor(x, lampion.arange(6.0))
    assert x.equal(lampion.arange(6.0)[2 * rank:2 * rank + 2] * size)
    dist.all_to_all(got, [row(k) + 10 * rank for k in range(size)])
    assert all(t.equal(every[rank] + 10 * k) for k, t in enumerate(got))
    x = lampion.zeros(6)
    dist.all_to_all_single(x, lampion.full((6,), float(rank)))
    assert x.tolist() == [0, 0, 1, 1, 2, 2]


def check_messages(rank, size, folder):
    objects = [None] * size
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": k} for k in range(size)]
    objects = [rank, None]
    dist.broadcast_object_list(objects, 1)
    assert objects == [1, None]
    mine = [None]
    dist.scatter_object_list(mine, ["a", "b", "c"] if rank == 0 else None, 0)
    assert mine == ["abc"[rank]]
    gathered = [None] * size if rank == 2 else None
    dist.gather_object(rank * 2, gathered, 2)
    assert rank != 2 or gathered == [0, 2, 4]
    right, left = (rank + 1) % size, (rank - 1) % size
    x = lampion.zeros(3)
    works = dist.batch_isend_irecv([dist.P2POp(dist.irecv, x, left),
                                    dist.P2POp(dist.isend, lampion.full((3,), float(rank)), right)])
    for work in works:
        work.wait()
    assert x.tolist() == [left] * 3
    if rank:
        dist.send(row(rank), 0, tag=rank)
    else:  # in another order than they were sent
        for k in (2, 1):
            assert dist.recv(x := lampion.zeros(5), k, tag=k) == k and x.equal(row(k))
    pair = dist.new_group([0, 2])
    if rank == 1:
        assert pair == dist.GroupMember.NON_GROUP_MEMBER and dist.all_reduce(x, group=pair) is None
    else:
        x = row(rank)
        dist.all_reduce(x, group=pair)
        assert x.equal(row(0) + row(2)) and dist.get_rank(pair) == rank // 2
    mine, groups = dist.new_subgroups_by_enumeration([[0, 1], [2]])
    x = lampion.ones(1)
    dist.all_reduce(x, group=mine)
    assert len(groups) == 2 and x.item() == mine.size() == (2 if rank < 2 else 1)


def check_mesh(rank, size, folder):
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    assert mesh.get_coordinate() == divmod(rank, 2) and mesh["tp"].size() == 2
    x = lampion.ones(1) * rank
    dist.all_reduce(x, group=mesh["dp"].get_group())
    assert x.item() == rank % 2 * 2 + 2 and mesh.get_local_rank("tp") == rank % 2
    with pytest.raises(RuntimeError, match="6 processes"):
        dist.init_device_mesh("cpu", (2, 3))


def trained(model, batches):
    optimizer = lampion.optim.SGD(model.parameters(), lr=0.1)
    for x in batches:
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()


def check_gradients(rank, size, folder):
    lampion.manual_seed(rank)  # other weights in every process, until the wrapper gives its own
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    ddp = DistributedDataParallel(model, bucket_cap_mb=1e-5)
    assert len(ddp.reducer.buckets) > 1
    lampion.manual_seed(0)
    same = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert all(a.equal(b) for a, b in zip(model.parameters(), same.parameters()))
    data = lampion.randn(5, 4 * size, 3)
    trained(same, data)
    trained(ddp, data[:, 4 * rank:4 * rank + 4])
    assert all(a.allclose(b, atol=1e-6) for a, b in zip(model.parameters(), same.parameters()))
    ddp.zero_grad()
    same.zero_grad()
    with ddp.no_sync():
        ddp(data[0, rank:rank + 1]).sum().backward()
    ddp(data[0, rank:rank + 1]).sum().backward()
    (same(data[0, :size]).sum() * 2 / size).backward()  # both passes are in the average
    assert all(p.grad.allclose(q.grad, atol=1e-6)
               for p, q in zip(model.parameters(), same.parameters()))


class Sometimes(nn.Module):
    """A part of it is used by one process only, another by none."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(2, 2, bias=False) for _ in range(3))

    def forward(self, x, both):
        return self.a(x) + self.b(x) if both else self.a(x)


def check_unused(rank, size, folder):
    model = Sometimes()
    for p in model.parameters():
        nn.init.ones_(p)
    ddp = DistributedDataParallel(model, find_unused_parameters=True)
    x = lampion.ones(1, 2)
    for _ in range(2):
        ddp.zero_grad()
        ddp(x, rank == 0).sum().backward()
        assert (model.a.weight.grad == 1).all() and (model.b.weight.grad == 0.5).all()
        assert model.c.weight.grad is None
    strict = DistributedDataParallel(Sometimes())
    strict(x, True).sum().backward()
    with pytest.raises(RuntimeError, match=r"finished reduction.*'c.weight'"):
        strict(x, True)


def check_hooks(rank, size, folder):
    for hook, exact in ((default_hooks.allreduce_hook, True),
                        (default_hooks.bf16_compress_hook, False),
                        (default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook), False)):
        model = nn.Linear(3, 1, bias=False)
        ddp = DistributedDataParallel(model)
        ddp.register_comm_hook(None, hook)
        ddp(lampion.full((1, 3), 1.001 + rank)).sum().backward()
        close = model.weight.grad.allclose(lampion.full((1, 3), 1.501), atol=1e-6)
        assert close is exact
        assert model.weight.grad.allclose(lampion.full((1, 3), 1.5), atol=0.01)
        with pytest.raises(RuntimeError, match="once"):
            ddp.register_comm_hook(None, hook)


def check_uneven(rank, size, folder):
    ddp = DistributedDataParallel(nn.Linear(1, 1, bias=False))
    nn.init.ones_(ddp.module.weight)
    seen = []
    with ddp.join(divide_by_initial_world_size=False):
        for _ in range(2 + rank):
            ddp.zero_grad()
            ddp(lampion.full((1, 1), 1.0 + rank)).sum().backward()
            seen.append(ddp.module.weight.grad.item())
    assert seen == [1.5, 1.5, 2.0][:2 + rank]
    with pytest.raises(RuntimeError, match="exhausted"), ddp.join(throw_on_early_termination=True):
        for _ in range(1 + rank):
            ddp(lampion.ones(1, 1)).sum().backward()


def check_sharded(rank, size, folder):
    mesh = dist.init_device_mesh("cpu", (2,))
    x = lampion.arange(15.0).view(5, 3)
    t = distribute_tensor(x if rank == 0 else x * 0, mesh, [Shard(0)])
    assert t.to_local().equal(x[:3] if rank == 0 else x[3:]) and t.full_tensor().equal(x)
    assert (t * 2 + 1).full_tensor().equal(x * 2 + 1) and t.sum().item() == x.sum().item()
    assert t.redistribute(placements=[Shard(1)]).to_local().equal(x[:, :2] if rank == 0
                                                                  else x[:, 2:])
    parts = DTensor.from_local(lampion.ones(2) * rank, mesh, [Partial()])
    assert parts.full_tensor().tolist() == [1, 1]
    t.requires_grad_()
    (t @ x.T).to_local().pow(2).sum().backward()
    whole = x.clone().requires_grad_()
    (whole @ x.T).pow(2).sum().backward()
    assert t.grad.full_tensor().equal(whole.grad)
    state = {"t": t.detach(), "same": x, "mine": {f"of {rank}": rank}}
    checkpoint.save(state, checkpoint_id=folder / "sharded")
    state = {"t": distribute_tensor(x * 0, mesh, [Shard(1)]), "same": x * 0}
    checkpoint.load(state, checkpoint_id=folder / "sharded")
    assert state["t"].full_tensor().equal(x) and state["same"].equal(x)
    found = format_utils.everything(checkpoint.FileSystemReader(folder / "sharded"))
    assert found["t"].equal(x) and found["mine"] == {"of 0": 0, "of 1": 1}


def check_shares(rank, size, folder):
    """An optimizer whose state is shared out, and FSDP that shares nothing out."""
    lampion.manual_seed(0)
    plain, other = (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(2))
    other.load_state_dict(plain.state_dict())
    first = lampion.optim.Adam(plain.parameters(), lr=0.1)
    second = dist.optim.ZeroRedundancyOptimizer(other.parameters(), lampion.optim.Adam, lr=0.1)
    for _ in range(2):
        for model, optimizer in ((plain, first), (other, second)):
            optimizer.zero_grad()
            model(lampion.ones(4, 2)).pow(2).sum().backward()
            optimizer.step()
    assert all(a.equal(b) for a, b in zip(plain.parameters(), other.parameters()))
    assert 0 < len(second.optim.state) < 4
    second.consolidate_state_dict(1)
    if rank == 1:
        assert len(second.state_dict()["state"]) == 4
    model = fsdp.FullyShardedDataParallel(plain, sharding_strategy=fsdp.ShardingStrategy.NO_SHARD)
    model.zero_grad()
    model(lampion.ones(1, 2) * rank).sum().backward()
    grad = plain[0].weight.grad.clone()
    plain.zero_grad()
    ((plain(lampion.zeros(1, 2)) + plain(lampion.ones(1, 2))) / 2).sum().backward()
    with model.no_sync():
        assert plain[0].weight.grad.allclose(grad)
    with pytest.raises(NotImplementedError, match="NO_SHARD"):
        fsdp.FullyShardedDataParallel(plain)


def check_gradients_of_collectives(rank, size, folder):
    x = lampion.full((2,), rank + 1.0, requires_grad=True)
    (collectives.all_reduce(x) * (rank + 1)).sum().backward()
    assert x.grad.tolist() == [3, 3]
    x.grad = None
    (collectives.all_gather(x)[1] * (rank + 1)).sum().backward()
    assert x.grad.tolist() == ([0, 0] if rank == 0 else [3, 3])
    x.grad = None
    (collectives.broadcast(x, 1) * (rank + 1)).sum().backward()
    assert x.grad.tolist() == ([0, 0] if rank == 0 else [3, 3])
    x.grad = None
    out = collectives.reduce_scatter(x, [x, x * 2])
    assert out.tolist() == [3.0 * (rank + 1)] * 2
    out.sum().backward()
    assert x.grad.tolist() == [3, 3]


CHECKS = {3: (check_collectives, check_messages), 4: (check_mesh,),
          2: (check_gradients, check_unused, check_hooks, check_uneven, check_sharded,
              check_shares, check_gradients_of_collectives)}


class All:
    """Several checks in the same processes: a process takes a second to start."""

    def __init__(self, checks):
        self.checks = checks

    def __call__(self, *args):
        for check in self.checks:
            check(*args)


@pytest.mark.parametrize("size", CHECKS)
def test_processes(size, tmp_path):
    together(All(CHECKS[size]), size, tmp_path)


def fails(rank, size, folder):
    if rank == 1:
        raise ValueError("rank 1 fails")
    dist.all_reduce(lampion.ones(1))


def test_a_process_that_fails_fails_the_others(tmp_path):
    with pytest.raises(multiprocessing.ProcessRaisedException, match="rank 1"):
        together(fails, 2, tmp_path)


def test_the_launcher(tmp_path):
    (tmp_path / "train.py").write_text("""
import os, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.ones(2) * dist.get_rank()
dist.all_reduce(x)
if dist.get_rank() == 0:
    print(x.tolist(), dist.get_world_size(), sys.argv[1:], os.environ["LOCAL_RANK"])
dist.destroy_process_group()
""")
    done = subprocess.run([sys.executable, "-m", "lampion.distributed.run", "--nproc-per-node=2",
                           "train.py", "--lr", "1"], cwd=tmp_path, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1.0, 1.0] 2 ['--lr', '1'] 0"
