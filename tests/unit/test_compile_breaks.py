"""Functions that cannot be one program: results, gradients and effects are those of the function,
and one line says why."""

from __future__ import annotations

import random

import numpy as np
import pytest

import lampion
from lampion import nn
from lampion.compiler.trace import GraphBreak
from lampion.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.steps = 0

    def forward(self, x):
        return self.b(F.gelu(self.norm(self.a(x))))


def states(net, opt):
    return [t.detach().clone() for t in net.state_dict().values()] + [
        v.clone() for s in opt.state.values() for v in s.values()
        if isinstance(v, lampion.Tensor)]


def equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        if isinstance(x, lampion.Tensor):
            np.testing.assert_allclose(x.detach().double().numpy(), y.detach().double().numpy(),
                                       rtol=1e-4, atol=1e-5)
        else:
            assert x == pytest.approx(y, rel=1e-4, abs=1e-5), (x, y)


def plain(net, opt, log):
    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        log.append(loss.item())
        return loss.item() * 2

    return step


def decides(net, opt, log):
    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        if loss.item() > 1.4:
            (loss * 2).backward()
        else:
            loss.backward()
        opt.step()
        return loss

    return step


def of_a_sum(net, opt, log):
    def step(x, y):
        out = net(x)
        if out.sum() > 0:
            out = out * 2
        F.cross_entropy(out, y).backward()
        opt.step()
        opt.zero_grad()
        return out.detach()

    return step


def scaled(net, opt, log):
    scaler = lampion.amp.GradScaler("cpu", init_scale=8.0)

    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        return loss

    return step


def masked(net, opt, log):
    def step(x, y):
        out = net(x)
        keep = y > 0
        loss = F.cross_entropy(out[keep], y[keep])
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss, keep.nonzero(), y.unique()

    return step


def counted(net, opt, log):
    def step(x, y):
        net.steps += 1
        loss = F.cross_entropy(net(x), y) * net.steps
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    return step


def printed(net, opt, log):
    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        print(f"loss {loss.item():.3f}")
        return loss

    return step


def clipped(net, opt, log):
    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        log.append(float(norm))
        opt.step()
        return loss, norm

    return step


def of_numpy(net, opt, log):
    def step(x, y):
        out = net(x)
        order = np.argsort(out.detach().numpy().sum(1))
        loss = F.cross_entropy(out[lampion.from_numpy(order.copy())[:3]], y[:3])
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    return step


STEPS = [plain, decides, of_a_sum, scaled, masked, counted, printed, clipped, of_numpy]


def run(make, compiled, optimizer, batches):
    lampion.manual_seed(0)
    net = Net()
    opt = optimizer(net.parameters())
    log: list[float] = []
    step = make(net, opt, log)
    if compiled:
        step = lampion.compile(step)
    out = []
    for x, y in batches:
        got = step(x, y)
        out += list(got) if isinstance(got, tuple) else [got]
        out += [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    return [x for x in out if x is not None] + log + states(net, opt) + [net.steps]


def batches(sizes=(5, 5, 5, 7, 7, 4, 9)):
    lampion.manual_seed(1)
    return [(lampion.randn(n, 6), lampion.randint(0, 4, (n,))) for n in sizes]


@pytest.mark.parametrize("optimizer", [
    lambda p: lampion.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: lampion.optim.AdamW(p, lr=0.01)],
    ids=["sgd", "adamw"])
@pytest.mark.parametrize("make", STEPS, ids=lambda f: f.__name__)
def test_steps_with_breaks(make, optimizer, capsys):
    equal(run(make, True, optimizer, batches()), run(make, False, optimizer, batches()))
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(printed) // 2] == printed[len(printed) // 2:]


def test_lbfgs_with_a_closure():
    def make(net, opt, log):
        def step(x, y):
            def closure():
                opt.zero_grad()
                loss = F.cross_entropy(net(x), y)
                loss.backward()
                return loss

            return opt.step(closure)

        return step

    def optimizer(parameters):
        return lampion.optim.LBFGS(parameters, lr=0.1, max_iter=4)

    equal(run(make, True, optimizer, batches())[:40], run(make, False, optimizer, batches())[:40])


def test_packed_sequences_and_bags():
    lampion.manual_seed(0)
    rnn, bag = nn.LSTM(6, 5, batch_first=True), nn.EmbeddingBag(10, 4, mode="mean")

    def packed(x, lengths):
        rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True,
                                                 enforce_sorted=False)
        out, (h, c) = rnn(rows)
        out, n = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
        return out, h, c, n

    f, g = lampion.compile(packed), lampion.compile(lambda i, o: bag(i, o))
    for lengths in ([4, 2, 3], [4, 2, 3], [1, 4, 2], [4, 4, 4]):
        x = lampion.randn(3, 4, 6)
        equal(f(x, lampion.tensor(lengths)), packed(x, lampion.tensor(lengths)))
    for offsets in ([0, 2, 3], [0, 2, 3], [0, 1, 5]):
        i, o = lampion.randint(0, 10, (6,)), lampion.tensor(offsets)
        equal([g(i, o)], [bag(i, o)])


def test_the_reason_is_told_once_and_an_error_under_fullgraph(said):
    def fn(x):
        if x.sum() > 0:
            return x * 2
        return x * 3

    f = lampion.compile(fn)
    for x in (lampion.ones(2), lampion.ones(2), -lampion.ones(2), lampion.ones(3)):
        equal([f(x)], [fn(x)])
    assert len(said) == 1 and "read on the host" in said[0] and "test_compile_breaks.py" in said[0]
    with pytest.raises(GraphBreak, match="test_compile_breaks.py"):
        lampion.compile(fn, fullgraph=True)(lampion.ones(2))
    report = lampion.compiler.explain(fn)(lampion.ones(2))
    assert report.graph_break_count == 1 and "read on the host" in str(report)


def program(seed):
    """A function made at random: calls of two modules, arithmetic, and here and there what cannot
    be part of a program."""
    rng = random.Random(seed)
    lampion.manual_seed(seed)
    mods = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.LayerNorm(4)]
    w = nn.Parameter(lampion.randn(4))
    seen: list[float] = []
    steps = []
    for _ in range(rng.randrange(4, 10)):
        steps.append((rng.choice([
            "module", "norm", "add", "mul", "inplace", "item", "branch", "mask", "where", "size",
            "slice", "softmax", "numpy"]), rng.randrange(1, 5)))

    def fn(x):
        for what, k in steps:
            if what == "module":
                x = mods[0](x)
            elif what == "norm":
                x = mods[1](x)
            elif what == "add":
                x = x + k * w
            elif what == "mul":
                x = x * w.sigmoid() * k
            elif what == "inplace":
                x = x.clone().mul_(0.5).add_(k)
            elif what == "item":
                seen.append(round(x.sum().item(), 2))
                x = x + 0.1 * (seen[-1] > k)
            elif what == "branch":
                x = x * 2 if x.mean() > 0 else x - k
            elif what == "mask":
                x = x[x.sum(1) > -99]
            elif what == "where":
                x = lampion.where(x > 0, x, x / (k + 1))
            elif what == "size":
                x = x * (2 if x.shape[0] > k + 3 else 1)
            elif what == "slice":
                x = x[:k + 4] + x.shape[0]
            elif what == "softmax":
                x = x.softmax(-1)
            else:
                x = x + lampion.from_numpy(np.full(4, float(k), np.float32))
        return x.square().mean(0).sum(), x

    return fn, [w, *mods[0].parameters(), *mods[1].parameters()], seen


@pytest.mark.parametrize("seed", range(40))
def test_random_programs(seed):
    fn, params, seen = program(seed)
    other, others, log = program(seed)
    f = lampion.compile(fn, options={"quiet": True})
    for n in (4, 4, 5, 7, 7, 3, 9, 8):
        x = lampion.randn(n, 4)
        (loss, y), (wanted, z) = f(x), other(x)
        for a in (loss, wanted):
            if a.requires_grad:
                a.backward()
        equal([loss, y], [wanted, z])
        equal([p.grad for p in params if p.grad is not None],
              [p.grad for p in others if p.grad is not None])
        assert y.shape == z.shape and y.requires_grad == z.requires_grad and seen == log


def test_what_always_breaks_is_not_traced_for_ever():
    class Inner(nn.Module):
        def forward(self, x):
            return x * 2 + 1

    net = nn.Sequential(Inner(), nn.ReLU())

    def fn(x):
        return net(x) if x.sum() > 0 else -net(x)

    f = lampion.compile(fn, options={"quiet": True})
    for n in range(2, 12):
        equal([f(lampion.ones(n))], [fn(lampion.ones(n))])
    assert len(f.entries) == 4
    assert list(f.made.values())[0].templates  # what is inside is compiled all the same
