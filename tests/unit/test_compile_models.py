"""Whole programs compiled and not: training as people write it, what changes between calls."""

from __future__ import annotations

import copy
import random
import time

import numpy as np
import pytest

import lampion
from lampion import nn
from lampion.utils.checkpoint import checkpoint

F = nn.functional


def same(a, b, tol=1e-4):
    assert a.dtype is b.dtype and a.shape == b.shape
    assert lampion.allclose(a.detach(), b.detach(), rtol=tol, atol=tol)


def plain_step(net, opt):
    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.detach()

    return step


def images(n=5, batch=8):
    return [(lampion.randn(batch, 1, 8, 8), lampion.randint(0, 10, (batch,))) for _ in range(n)]


def conv_net():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 10))


def sgd(net):
    return lampion.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def adamw(net):
    return lampion.optim.AdamW(net.parameters(), lr=1e-2)


def train(build, optimizer, make_step, batches, between=None, tol=1e-4):
    """Train a model and its compiled twin on the same batches and seeds; what they return and their
    states agree. `between(k, net, optimizer)` runs after step `k`."""
    lampion.manual_seed(0)
    nets = [build()]
    nets.append(copy.deepcopy(nets[0]))
    opts = [optimizer(n) for n in nets]
    steps = [make_step(n, o) for n, o in zip(nets, opts)]
    compiled = steps[1] = lampion.compile(steps[1])
    for k, batch in enumerate(batches):
        got = []
        for n, o, step in zip(nets, opts, steps):
            lampion.manual_seed(k)
            got.append(step(*batch))
            if between is not None:
                between(k, n, o)
        same(*map(lampion.as_tensor, got), tol)
    for (name, p), q in zip(nets[0].state_dict().items(), nets[1].state_dict().values()):
        assert lampion.allclose(p.float(), q.float(), rtol=10 * tol, atol=10 * tol), name
    return compiled


def test_gradients_are_accumulated_and_clipped(said):
    def step_of(net, opt):
        def step(x, y):
            opt.zero_grad()
            total = 0
            for a, b in zip(x.chunk(2), y.chunk(2)):
                loss = F.cross_entropy(net(a), b) / 2
                loss.backward()
                total = total + loss.detach()
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            return total + norm

        return step

    train(conv_net, sgd, step_of, images())
    assert not said


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Adagrad", "Adadelta", "Adamax",
                                  "NAdam", "RAdam", "ASGD", "Rprop"])
def test_every_optimizer(name, said):
    train(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
          lambda net: getattr(lampion.optim, name)(net.parameters(), lr=1e-2), plain_step, images())
    assert not said


def test_groups_schedules_and_changed_rates(said):
    def groups(net):
        matrices = [p for p in net.parameters() if p.ndim > 1]
        return lampion.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": [
            p for p in net.parameters() if p.ndim < 2], "lr": 1e-3}], lr=1e-2)

    def change(k, net, opt):
        opt.param_groups[0]["lr"] *= 0.9
        opt.param_groups[0]["weight_decay"] = 0.2 if k > 3 else 0.1

    train(conv_net, groups, plain_step, images(7), change)

    def scheduled(net, opt):
        schedule = lampion.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=20)
        plain = plain_step(net, opt)

        def step(x, y):
            loss = plain(x, y)
            schedule.step()
            return loss

        return step

    train(conv_net, sgd, scheduled, images(6))
    assert not said


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks(reentrant, said):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c = nn.Linear(64, 32), nn.Linear(32, 10)
            self.b = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.2))

        def forward(self, x):
            x = self.a(x.flatten(1)).relu()
            for _ in range(2):
                x = checkpoint(self.b, x, use_reentrant=reentrant)
            return self.c(x)

    compiled = train(Net, adamw, plain_step, images())
    assert not said
    graph = [e.programs[0].graph for row in compiled.entries.values() for e in row][-1]
    products = sum("addmm" in c.op or "linear" in c.op or "mm" in c.op for c in graph.calls)
    assert products >= 3 * 4 - 1 + 2  # the blocks' are computed again


def test_autocast_and_averaged_weights(said):
    kept = []

    def step_of(net, opt):
        mean = copy.deepcopy(net)
        kept.append(mean)

        def step(x, y):
            with lampion.autocast("cpu", dtype=lampion.bfloat16):
                loss = F.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            with lampion.no_grad():
                for p, q in zip(mean.parameters(), net.parameters()):
                    p.mul_(0.9).add_(q, alpha=0.1)
            return loss.detach().float()

        return step

    train(conv_net, sgd, step_of, images(), tol=1e-2)
    for p, q in zip(*[m.parameters() for m in kept]):
        same(p, q, 1e-2)
    assert not said


def test_train_and_eval_in_turn(said):
    lampion.manual_seed(0)
    a = conv_net()
    b = copy.deepcopy(a)
    compiled = lampion.compile(b)
    opts = sgd(a), sgd(b)
    for k, (x, y) in enumerate(images(5)):
        for net, opt in zip((a, compiled), opts):
            lampion.manual_seed(k)
            net.train()
            loss = F.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            net.eval()
        for off in (lampion.no_grad, lampion.inference_mode):
            with off():
                same(a(x), compiled(x), 1e-3)
    assert not said


class Encoder(nn.Module):
    """Attention over padded words."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 16, padding_idx=0)
        layer = nn.TransformerEncoderLayer(16, 4, 32, 0.1, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.layers(self.words(x), src_key_padding_mask=x == 0).mean(1))


class Recurrent(nn.Module):
    """Two layers of LSTM in both directions."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.rnn = nn.LSTM(8, 8, 2, dropout=0.1, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.rnn(self.words(x))[0][:, -1])


@pytest.mark.parametrize("model", [Encoder, Recurrent])
def test_sequence_models(model, said):
    batches = [(lampion.randint(1, 20, (4, 7)), lampion.randint(0, 10, (4,))) for _ in range(4)]
    for x, _ in batches:
        x[1, 5:] = 0
    train(model, adamw, plain_step, batches)
    assert not said


def test_convolutions_of_all_kinds_and_a_smaller_last_batch(said):
    def net():
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.SiLU(),
            nn.ConvTranspose2d(8, 4, 3), nn.Upsample(scale_factor=2), nn.AvgPool2d(2),
            nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(2), nn.Conv1d(4, 4, 3, padding=1),
            nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Linear(8, 10))

    train(net, adamw, plain_step, images(3) + images(1, 3) + images(2) + images(1, 3))
    assert not said


def test_states_loaded_between_calls(said):
    saved = {}

    def between(k, net, opt):
        if k == 1:
            saved[id(net)] = copy.deepcopy((net.state_dict(), opt.state_dict()))
        if k == 4:
            net.load_state_dict(saved[id(net)][0])
            opt.load_state_dict(saved[id(net)][1])
        if k == 6:
            net.load_state_dict(saved[id(net)][0], assign=True)

    train(conv_net, sgd, plain_step, images(9), between)
    assert not said


def test_frozen_parameters_and_then_not(said):
    def between(k, net, opt):
        net[0].requires_grad_(not 1 <= k < 4)

    train(conv_net, sgd, plain_step, images(8), between)
    assert not said


def test_gradient_penalties(said):
    def step_of(net, opt):
        def step(x, y):
            x = x.clone().requires_grad_()
            out = net(x)
            g, = lampion.autograd.grad(out.sum(), x, create_graph=True)
            loss = F.cross_entropy(out, y) + (g.flatten(1).norm(dim=1) - 1).pow(2).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss.detach()

        return step

    train(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)),
          adamw, step_of, images())
    assert not said


# ---- the world around a function ------------------------------------------------------------


class Holder:
    """An object with attributes."""


def test_everything_that_a_function_names_is_guarded():
    held = Holder()
    held.value = lampion.ones(2)
    row, table = [lampion.ones(2), 1.0], {"a": lampion.ones(2), "b": 2}
    layers, numbers = [nn.Linear(2, 2)], [1.0, 2.0]
    shift, array = lampion.ones(2), np.ones(2, np.float32)

    def fn(x):
        return (layers[0](x) + held.value + row[0] * row[1] + table["a"] * table["b"] + shift
                + lampion.tensor(numbers) + lampion.tensor(array))

    f = lampion.compile(fn, options={"cache_size": 40})
    x = lampion.ones(2)

    def both():
        same(f(x), fn(x))
        same(f(x), fn(x))

    both()
    held.value = held.value * 2
    both()
    row[0] = row[0] * 3
    both()
    row[1] = 5.0
    both()
    table["a"] = table["a"] + 1
    both()
    table["b"] += 1
    both()
    layers[0] = nn.Linear(2, 2)
    both()
    numbers[1] = -1.0
    both()
    shift = lampion.zeros(2)
    both()
    array += 1
    both()


SCALE = 1.0


class Scaled(nn.Module):
    """A network whose helper method reads a global."""

    def helper(self, x):
        return x * SCALE

    def forward(self, x):
        return self.helper(x)


def test_globals_that_methods_read_are_guarded(monkeypatch):
    f = lampion.compile(Scaled())
    x = lampion.ones(2)
    assert f(x).tolist() == f(x).tolist() == [1, 1]
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert f(x).tolist() == f(x).tolist() == [2, 2]


def test_what_a_function_does_not_read_may_change(said):
    class Trainer:
        def __init__(self):
            self.steps, self.net = 0, nn.Linear(2, 2)

        def predict(self, x):
            return self.net(x)

        def count(self):
            self.steps += 1

    trainer = Trainer()
    f = lampion.compile(trainer.predict)
    for _ in range(12):
        f(lampion.ones(2))
        trainer.count()
    assert not said and sum(map(len, f.entries.values())) == 1


def test_side_effects_happen_in_every_call(said):
    losses = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = None

        def forward(self, x, out):
            self.last = x * 2
            losses.append(x.sum())
            out.append(1)
            return x + 1

    net = Net()
    f = lampion.compile(net)
    for k in range(5):
        given = []
        f(lampion.full((2,), float(k)), given)
        assert given == [1] and net.last.tolist() == [2 * k] * 2
    assert len(losses) == 5 and losses[4].item() == 8
    assert len(said) <= 3


def test_host_randomness_and_the_clock_are_not_frozen(said):
    def fn(x):
        return x * random.random() + float(np.random.rand())

    f, g = lampion.compile(fn), lampion.compile(lambda x: x * time.perf_counter())
    x = lampion.ones(1, dtype=lampion.float64)
    assert len({f(x).item() for _ in range(3)}) == 3 == len({g(x).item() for _ in range(3)})
    assert "random numbers of Python" in said[0] and "clock" in said[-1]


def test_what_prints_prints_in_every_call(said, capsys):
    def fn(x, loud):
        if loud:
            print("loud")
        return x + 1

    f = lampion.compile(fn)
    for loud in (True, False, True, False, True):
        same(f(lampion.ones(2), loud), lampion.full((2,), 2.0))
    assert capsys.readouterr().out == "loud\n" * 3
    assert said == [said[0]] and "prints" in said[0]


class Layer:
    """Keys of a layer, kept."""

    def __init__(self, keys):
        self.keys, self.count = keys, 1


class Cache:
    """An object with layers."""

    def __init__(self):
        self.layers = []


def test_results_may_be_objects_that_the_function_made(said):
    w = nn.Parameter(lampion.ones(3))

    def fn(x):
        cache = Cache()
        cache.layers.append(Layer(x * w))
        cache.layers.append(Layer(x + 1))
        return {"sum": (x * w).sum(), "cache": cache}

    f = lampion.compile(fn)
    outs = [f(lampion.full((3,), float(k))) for k in range(4)]
    for k, out in enumerate(outs):
        assert type(out["cache"]) is Cache and type(out["cache"].layers[0]) is Layer
        assert out["cache"].layers[0].keys.tolist() == [k] * 3
        assert out["cache"].layers[1].keys.tolist() == [k + 1] * 3
        assert out["cache"].layers[1].count == 1
    outs[3]["cache"].layers[0].keys.sum().backward()
    assert w.grad.tolist() == [3, 3, 3] and not said


def test_hooks_run_in_every_call(said):
    seen = []
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    f = lampion.compile(net)
    x = lampion.randn(2, 3)
    f(x), f(x)
    with net[1].register_forward_hook(lambda module, args, out: seen.append(1)):
        f(x), f(x)
    assert len(seen) == 2
    with nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(1)):
        f(x), f(x)
    f(x)
    assert len(seen) >= 2 + 2 * 4 and len(seen) % 2 == 0
    seen.clear()
    with net[0].weight.register_hook(lambda g: seen.append(1) or g * 2):
        f(x).sum().backward()
        f(x).sum().backward()
    got, net[0].weight.grad = net[0].weight.grad, None
    net(x).sum().backward()
    assert len(seen) == 2
    same(got, net[0].weight.grad * 4)


def test_hooks_of_leaves_inside_a_compiled_step(said):
    seen = []
    net = nn.Linear(3, 4)
    step = lampion.compile(plain_step(net, sgd(net)))
    batch = lampion.randn(2, 3), lampion.tensor([1, 2])
    step(*batch), step(*batch)
    assert not said
    with net.weight.register_hook(lambda g: seen.append(1)):
        step(*batch), step(*batch)
    with net.bias.register_post_accumulate_grad_hook(lambda p: seen.append(2)):
        step(*batch), step(*batch)
    assert seen == [1, 1, 2, 2]


def test_arrays_as_arguments_are_read_each_time(said):
    f = lampion.compile(lambda a: lampion.tensor(a) * 2)
    a = np.ones(2)
    assert f(a).tolist() == [2, 2]
    a += 1
    assert f(a).tolist() == [4, 4] and "NumPy" in said[0]


def test_a_result_that_backward_needs_must_not_have_changed():
    f = lampion.compile(lambda x: x.exp())
    for _ in range(3):
        out = f(lampion.randn(3, requires_grad=True))
        total = out.sum()
        with lampion.no_grad():
            out.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace"):
            total.backward()


# ---- what is read on the host ---------------------------------------------------------------


@pytest.mark.parametrize("form", ["number", "tuple", "dict", "variable", "count"])
def test_numbers_that_are_read_only_to_be_returned(form, said):
    def step_of(net, opt):
        def step(x, y):
            out = net(x)
            loss = F.cross_entropy(out, y)
            right = (out.argmax(1) == y).sum()
            opt.zero_grad()
            loss.backward()
            opt.step()
            if form == "number":
                return loss.item()
            if form == "tuple":
                return loss.item(), right.float().item(), None
            if form == "dict":
                return {"loss": loss.item(), "out": out, "batch": 8}
            if form == "variable":
                value = float(loss)
                return [value]
            return right.item()

        def numbers(x, y):
            r = compiled(x, y)
            return [z for z in (r.values() if isinstance(r, dict) else
                                r if isinstance(r, (list, tuple)) else [r])
                    if type(z) in (int, float)]

        compiled = lampion.compile(step) if len(nets) else step
        nets.append(net)
        return numbers

    nets = []
    lampion.manual_seed(0)
    a = conv_net()
    b = copy.deepcopy(a)
    one, other = step_of(a, sgd(a)), step_of(b, sgd(b))
    for k, batch in enumerate(images(4)):
        lampion.manual_seed(k)
        want = one(*batch)
        lampion.manual_seed(k)
        got = other(*batch)
        assert list(map(type, got)) == list(map(type, want)) and got == pytest.approx(want, 1e-4)
    assert not said


def test_numbers_that_decide_or_are_computed_with_run_eagerly(said):
    def scaled(x):
        return x.sum().item() * 2

    def tested(x):
        value = x.sum().item()
        return 1 if value > 3 else 2

    def counted(x):
        return 3, (x > 0).sum().item()

    def compared(x):
        value = x.sum().item()
        large = value > 3
        return value, large

    def used(x):
        value = x.sum().item()
        return value, x > value

    for fn in (scaled, tested, counted, compared):
        f = lampion.compile(fn)
        for k in range(4):
            x = lampion.full((3,), float(k))
            assert f(x) == fn(x)
    assert len(said) == 4
    f = lampion.compile(used)
    for k in range(1, 4):
        x = lampion.tensor([float(k), 1.0, -1.0])
        assert f(x)[1].tolist() == (x > float(k)).tolist()
    assert len(said) == 5
    said.clear()

    def evaluated(x):
        with lampion.no_grad():
            return x.mean().item(), (x > 1).float().mean().item()

    f = lampion.compile(evaluated)
    for k in range(4):
        x = lampion.full((3,), float(k))
        assert f(x) == evaluated(x)
    assert not said


def test_the_modules_inside_are_compiled_where_the_whole_cannot_be(said):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n = nn.Linear(8, 8), nn.LayerNorm(8)

        def forward(self, x):
            return x + F.gelu(self.a(self.n(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block() for _ in range(2)])
            self.head = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4))

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
                if x.sum().item() > 1e9:
                    raise ValueError("it explodes")
            return self.head(x)

    net = Net()
    twin = copy.deepcopy(net)
    f = lampion.compile(net)
    for _ in range(4):
        x = lampion.randn(5, 8)
        same(f(x), twin(x))
        f(x).sum().backward()
        twin(x).sum().backward()
    for p, q in zip(net.parameters(), twin.parameters()):
        same(p.grad, q.grad, 1e-3)
    assert len(said) == 1
    inside = f._compiled.made.values()
    assert sorted(m.name for m in inside) == ["Block", "Block", "Sequential"]
    assert all(e.programs for m in inside for row in m.entries.values() for e in row)
    assert "forward" not in net.head.__dict__

    opt = sgd(net)
    shown = []

    @lampion.compile
    def step(x):
        loss = net.head(x).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        shown.append(f"{loss:.3f}")

    for _ in range(4):
        step(x)
    assert len(shown) == 4 and len(set(shown)) > 1


def test_kinds_that_are_compiled_stay_so_when_there_are_too_many(said):
    f = lampion.compile(lambda x: x * 2, options={"cache_size": 2})
    for n in (1, 2, 3, 4, 3):
        same(f(lampion.ones(n)), lampion.full((n,), 2.0))
    assert len(said) == 1
    entry = next(iter(f.entries.values()))[0]
    ran = []
    run, entry.run = entry.run, lambda *args: ran.append(1) or run(*args)
    same(f(lampion.ones(1)), lampion.full((1,), 2.0))
    assert ran == [1]


def test_too_many_numbers_leave_the_modules_compiled(said):
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def fn(x, k):
        return net(x) * k if k % 2 else net(x)

    f = lampion.compile(fn, options={"cache_size": 2})
    x = lampion.ones(2, 4)
    for k in range(6):
        same(f(x, k), fn(x, k))
    assert len(said) == 1 and "numbers" in said[0]
    (inside,) = f.made.values()
    assert [e.programs for row in inside.entries.values() for e in row][0]


def test_values_are_checked_in_every_run(said):
    f = lampion.compile(lambda p, y: F.binary_cross_entropy(p, y))
    g = lampion.compile(lambda p: lampion.multinomial(p, 1))
    h = lampion.compile(lambda m, s: lampion.distributions.Normal(m, s).log_prob(m))
    good, bad = lampion.tensor([0.2, 0.7]), lampion.tensor([0.2, -1.5])
    for _ in range(3):
        same(f(good, good), F.binary_cross_entropy(good, good))
        lampion.manual_seed(1)
        got = g(good)
        lampion.manual_seed(1)
        assert got.item() == lampion.multinomial(good, 1).item()
        same(h(good, good), lampion.distributions.Normal(good, good).log_prob(good))
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        f(bad, good)
    with pytest.raises(RuntimeError, match="probability tensor"):
        g(bad)
    with pytest.raises(RuntimeError, match="sum of probabilities"):
        g(lampion.zeros(2))
    with pytest.raises(ValueError, match="scale"):
        h(good, bad)
    same(f(good, good), F.binary_cross_entropy(good, good))
    assert not said
    w = nn.Parameter(good.clone())
    for _ in range(2):
        f(w, good).backward()
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        f(lampion.tensor([2.0, 0.0], requires_grad=True), good)


def test_callbacks_of_the_collector_are_not_the_functions(said):
    import gc
    import time

    def told(phase, info):
        time.perf_counter()

    def fn(x):
        for _ in range(2000):
            loop = []
            loop.append(loop)
        return x + 1

    gc.callbacks.append(told)
    try:
        f = lampion.compile(fn)
        for _ in range(2):
            same(f(lampion.ones(2)), lampion.full((2,), 2.0))
    finally:
        gc.callbacks.remove(told)
    assert not said and gc.isenabled()
