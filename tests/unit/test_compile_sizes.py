"""Sizes that change between calls: programs for sizes that nobody traced, equal to eager or not
used at all."""

from __future__ import annotations

import math

import numpy as np
import pytest

import lampion
from lampion import nn
from lampion.compiler.dynamic import Unfit, formula
from lampion.nn import functional as F

SIZES = [17, 19, 24, 9, 33, 64, 20, 8, 40, 41, 5, 3, 2, 1]
ROWS = [1.0 * k for k in range(200)]
TABLE = {17: 2.0, 40: 3.0}


def templates(f):
    return sum(map(len, getattr(f, "_compiled", f).templates.values()))


def equal(a, b, tol=1e-6):
    if isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            equal(x, y, tol)
    elif isinstance(a, lampion.Tensor):
        assert a.meta is b.meta
        np.testing.assert_allclose(a.detach().double().numpy(), b.detach().double().numpy(),
                                   rtol=tol, atol=tol)
    else:
        assert type(a) is type(b) and a == b


def check(fn, make, sizes=SIZES, tol=1e-6):
    """Compare a compiled function with the function itself, at every size; how many templates
    there are then."""
    f = lampion.compile(fn, dynamic=True, options={"quiet": True, "cache_size": 99})
    for n in sizes:
        args = make(n)
        state = lampion.get_rng_state()
        try:
            wanted = fn(*args)
        except (RuntimeError, IndexError) as e:
            with pytest.raises(type(e)):
                f(*args)
            continue
        for _ in range(2):
            lampion.set_rng_state(state)
            equal(f(*args), wanted, tol)
    return templates(f)


def rows(n):
    return (lampion.randn(n, 6),)


def batch(n):
    return (lampion.randn(2, n, 6),)


def test_formulas():
    assert formula([2, 3, 5], [7, 9, 13])(10) == 23
    assert formula([2, 3, 5], [4, 9, 25])(10) == 100
    assert formula([2, 3, 5], [6, 12, 30])(10) == 110
    assert formula([2, 3, 5], [1 / 2, 1 / 3, 1 / 5])(7) == 1 / 7
    assert formula([2, 3, 5], [1 / 12, 1 / 18, 1 / 30])(7) == 1 / 42
    assert formula([2, 3, 5], [4, 4, 4])(10) == 4
    assert math.copysign(1, formula([2, 3, 5], [-0.0, -0.0, -0.0])(10)) == -1
    for values in ([4, 4, 5], [1, 2, 3.0], [True, False, True], [0.0, -0.0, 0.0], [8, 8, 16]):
        with pytest.raises(Unfit):
            formula([2, 3, 5], values)
    with pytest.raises(Unfit):
        formula([2, 4, 6], [1, 2, 3])(5)


@pytest.mark.parametrize(("fn", "make"), [
    (lambda x: (x + 1).exp() * 2, rows),
    (lambda x: x.softmax(-1) @ x.transpose(-1, -2), batch),
    (lambda x: x.sum() / x.shape[0], rows),
    (lambda x: x.mean(0) * (1.0 / x.numel()), rows),
    (lambda x: x.view(-1, 3).cumsum(0), rows),
    (lambda x: x.reshape(x.shape[0] * x.shape[1], x.shape[2]).t(), batch),
    (lambda x: x + lampion.arange(x.shape[1])[:, None], batch),
    (lambda x: lampion.cat([x, x[:1], x[-1:]]), rows),
    (lambda x: (x[1:] - x[:-1]).abs().sum(), rows),
    (lambda x: x.transpose(1, 2).contiguous().mean(-1), batch),
    (lambda x: F.layer_norm(x, (6,)).tril(), batch),
    (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), batch),
    (lambda x: x.expand(3, *x.shape).sum(1), rows),
    (lambda x: lampion.stack([x, x * 2], 1).flatten(0, 1), rows),
    (lambda x: (x, x.shape[0], 2 * x.shape[0] + 1), rows),
    (lambda x: x * 2 if x.shape[0] < 1000 else x * 3, rows),
    (lambda x: x.argmax(0) + x.shape[0], rows),
    (lambda x: F.pad(x, (0, 0, 2, 1)), rows),
    (lambda x: F.conv1d(x, lampion.ones(2, x.shape[1], 3)),
     lambda n: (lampion.randn(2, 4, n),)),
])
def test_one_template_serves_all_sizes(fn, make):
    assert check(fn, make) == 1


def clamped(x):
    return x[: min(x.shape[0], 20)] * 2


def padded(x):
    return F.pad(x, (0, 0, 0, -x.shape[0] % 8))


def unrolled(x):
    for k in range(x.shape[0] // 8):
        x = x + k
    return x


def looked_up(x):
    return x * TABLE.get(x.shape[0], 1.0)


def of_a_list(x):
    return x * ROWS[x.shape[0]]


def by_length(x):
    return x * 2 if len(x) > 21 else x * 3


def floats(x):
    return x[: int(x.shape[0] * 0.5)] * math.sqrt(x.shape[0]) + x.shape[0] / 7


def compared_floats(x):
    return x * 2 if x.shape[0] / 3 > 7.5 else x * 3


def of_strings(x):
    return x * (2 if f"{x.shape[0]}".endswith("9") else 3)


def several(x):
    n, d = x.shape
    if n % 2:
        return x * 2
    if n > 30 or d == n:
        return x * 3
    return x.view(n // 2, 2 * d)


@pytest.mark.parametrize("sizes", [
    SIZES, SIZES[::-1], [16, 24, 32, 17, 40, 64, 8], list(range(30))])
@pytest.mark.parametrize("fn", [
    clamped, padded, unrolled, looked_up, of_a_list, by_length, floats, compared_floats, of_strings,
    several,
    lambda x: x[:16] * 2,
    lambda x: x[-16:] * 2,
    lambda x: x[4:30].sum(0),
    lambda x: x.narrow(0, 0, min(len(x), 12)),
    lambda x: [p.sum() for p in x.split(10)],
    lambda x: [p.sum() for p in x.chunk(3)],
    lambda x: [p.sum() for p in x.tensor_split(3)],
    lambda x: [p.sum() for p in x.tensor_split((12, 30))],
    lambda x: x.roll(20, 0),
    lambda x: x.roll(7),
    lambda x: x[::2] + 1,
    lambda x: x.flip(0)[:7],
    lambda x: x.diagonal().sum(),
    lambda x: x.unfold(0, 3, 2).sum(-1),
    lambda x: x.topk(2, 0)[0],
    lambda x: x.sort(0)[0],
    lambda x: F.pad(x, (0, 0, -12, 0)),
    lambda x: x[0] + x[-1] + x[min(12, x.shape[0] - 1)],
    lambda x: x.select(0, 12),
    lambda x: lampion.fft.rfft(x, dim=0).abs(),
    lambda x: F.adaptive_avg_pool1d(x.t(), 2),
    lambda x: F.avg_pool1d(x.t(), 2, ceil_mode=True),
    lambda x: F.interpolate(x[None, None], scale_factor=2),
    lambda x: F.interpolate(x[None, None], size=(12, 6)),
    lambda x: x.repeat_interleave(2, 0)[:25],
    lambda x: lampion.linspace(0, 1, x.shape[0]) * x.t(),
    lambda x: x.as_strided((2, 3), (6, 1), 30),
    lambda x: lampion.tensor([x.shape[0], 1.0]) + 1,
    lambda x: x * x.shape[0] ** 2 + (x.shape[0] << 1) - x.shape[0] // 3,
    lambda x: lampion.triu_indices(x.shape[0], 20)[0] + 1,
    lambda x: x.triu(15),
    lambda x: lampion.eye(x.shape[0], 20) + 1,
    lambda x: x.nonzero().shape[0] + x.sum(),
])
def test_functions_that_decide_by_sizes(fn, sizes):
    check(fn, rows, sizes)


def test_numbers_that_may_be_two_things_at_once():
    check(lambda x: x.view(x.shape[0], 2, 3) @ lampion.ones(3, 6), rows, [6, 3, 2, 12, 18, 24, 36])
    check(lambda x, y: x @ y.t() + x.shape[0] - y.shape[0],
          lambda n: (lampion.randn(n, 6), lampion.randn(n + n % 3, 6)))
    check(lambda x, y: x.sum(0) + y.sum(0),
          lambda n: (lampion.randn(n, 6), lampion.randn(2 * n + 1, 6)))


def test_whole_numbers_among_the_arguments():
    def fn(cache, x, at):
        cache = cache.clone()
        cache[at:at + x.shape[0]] = x
        return cache[: at + x.shape[0]].sum(0) * at

    cache = lampion.zeros(64, 6)
    f = lampion.compile(fn, dynamic=True)
    for at in [2, 3, 5, 7, 11, 13, 40, 60, 62, 63, 0, 1]:
        x = lampion.randn(min(4, 64 - at), 6)
        for _ in range(2):
            equal(f(cache, x, at), fn(cache, x, at))
    assert templates(f) == 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.b = nn.Linear(8, 6)

    def forward(self, x):
        return self.b(self.drop(self.norm(self.a(x)).relu()))


def test_training_steps_and_statistics():
    def make():
        lampion.manual_seed(0)
        net = Net()
        opt = lampion.optim.AdamW(net.parameters(), lr=0.01)

        def step(x):
            loss = net(x).square().mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss

        return net, step

    net, step = make()
    other, fn = make()
    f = lampion.compile(step)
    for k, n in enumerate(SIZES[:-1] * 2):
        x = lampion.randn(n, 6)
        lampion.manual_seed(k)
        got = f(x)
        lampion.manual_seed(k)
        equal(got, fn(x), 1e-4)
    for p, q in zip(net.state_dict().values(), other.state_dict().values()):
        equal(p, q, 1e-4)
    assert templates(f) == 1


def test_gradients_through_compiled_modules():
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
    f = lampion.compile(net)
    for n in SIZES:
        x = lampion.randn(n, 6, requires_grad=True)
        y = x.detach().requires_grad_()
        for a, model in ((x, f), (y, net)):
            net.zero_grad()
            model(a).square().sum().backward()
            a.weights = [p.grad.clone() for p in net.parameters()]
        equal(x.grad, y.grad, 1e-5)
        equal(x.weights, y.weights, 1e-4)
    assert templates(f) == 1
    x = lampion.randn(50, 6, requires_grad=True)  # second derivatives, at a size nobody traced
    g, = lampion.autograd.grad(f(x).square().sum(), x, create_graph=True)
    h, = lampion.autograd.grad(net(x).square().sum(), x, create_graph=True)
    equal(lampion.autograd.grad(g.sum(), x), lampion.autograd.grad(h.sum(), x), 1e-4)


def test_decoding_with_a_growing_cache():
    lampion.manual_seed(0)
    project = nn.Linear(8, 24)

    @lampion.no_grad()
    def step(x, keys, values):
        q, k, v = project(x).view(1, 1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        keys, values = lampion.cat([keys, k], 2), lampion.cat([values, v], 2)
        y = F.scaled_dot_product_attention(q, keys, values)
        return y.transpose(1, 2).reshape(1, 1, 8), keys, values

    f = lampion.compile(step)
    x = lampion.randn(1, 1, 8)
    one = two = lampion.zeros(1, 2, 0, 4), lampion.zeros(1, 2, 0, 4)
    for _ in range(20):
        y, *one = f(x, *one)
        z, *two = step(x, *two)
        equal([y, *one], [z, *two], 1e-5)
    assert templates(f) == 1 and f.budget > 20


def test_guards_hold_at_sizes_that_were_not_traced():
    net = Net().eval()
    f = lampion.compile(net)
    for n in (5, 7, 9, 11):
        f(lampion.randn(n, 6))
    assert templates(f) == 1
    x = lampion.randn(13, 6)
    equal(f(x), net(x))
    net.b.weight.data = net.b.weight.data * 2
    for n in (13, 15):
        x = lampion.randn(n, 6)
        equal(f(x), net(x))
    net.b = nn.Linear(8, 3)
    for n in (13, 15, 17):
        x = lampion.randn(n, 6)
        equal(f(x), net(x))


def test_sizes_are_numbers_to_the_function():
    seen = []

    def fn(x):
        n = x.shape[0]
        assert isinstance(n, int) and isinstance(x.size(0), int) and n == x.size(0)
        seen.append((n, n * 2, -n, n // 2, n / 2, int(n), float(n), f"{n}", [0] * n, divmod(n, 3),
                     round(n / 3), math.ceil(n / 3), bool(n), n ** 2, max(n, 3), abs(n), 10 - n,
                     list(range(n)), x.shape == (n, 6), {n: 1}[n], n & 3, 7 % n))
        return x + n

    lampion.compile(fn, options={"quiet": True})(lampion.ones(7, 6))
    assert seen == [(7, 14, -7, 3, 3.5, 7, 7.0, "7", [0] * 7, (2, 1), 2, 3, True, 49, 7, 7, 3,
                     list(range(7)), True, 1, 3, 0)]


@pytest.mark.parametrize(("dynamic", "wanted"), [(None, 1), (True, 1), (False, 0)])
def test_the_option(dynamic, wanted):
    f = lampion.compile(lambda x: x + 1, dynamic=dynamic)
    for n in SIZES:
        assert f(lampion.ones(n)).tolist() == [2.0] * n
    assert templates(f) == wanted


def test_more_sizes_than_programs_are_kept(monkeypatch):
    from lampion.compiler import function

    monkeypatch.setattr(function, "MOST_ENTRIES", 8)
    f = lampion.compile(lambda x: x + 1, options={"cache_size": 4})
    for n in range(1, 60):
        assert f(lampion.ones(n)).tolist() == [2.0] * n
    assert sum(map(len, f.entries.values())) <= 9


def test_sizes_that_outlive_their_trace():
    kept = []

    def fn(x, n):
        kept.append(x.shape[0])
        return x * n

    f = lampion.compile(fn, options={"quiet": True})
    g = lampion.compile(lambda x, n: x * n, fullgraph=True)
    x = lampion.ones(5)
    f(x, 2)
    assert kept[0] == 5 and f"{kept[0]} {kept[0] + 1}" == "5 6" and {5: 1}[kept[0]] == 1
    for _ in range(3):
        assert g(x, kept[0]).tolist() == [5.0] * 5
    assert sum(map(len, g.entries.values())) == 1


LOOKUPS = {
    "list": lambda x: x * [1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 200][x.shape[0]],
    "part of a list": lambda x: x * [0, 1, 2, 3, 4, 5, 6, 7, 8, 90, 7, 1, 1][x.shape[0]:][0],
    "length of a part": lambda x: x * len(([0] * 8)[:x.shape[0]]),
    "zip": lambda x: x * sum(1 for _ in zip(range(x.shape[0]), range(8))),
    "logarithm": lambda x: x * math.floor(math.log2(x.shape[0])),
    "bits": lambda x: x * x.shape[0].bit_length(),
    "array": lambda x: x * float(np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 99, 7])[x.shape[0]]),
    "dict": lambda x: x * {4: 1, 5: 1, 6: 1, 8: 1}.get(x.shape[0], 5),
    "text": lambda x: x * (2 if str(x.shape[0]) == "9" else 3),
    "set": lambda x: x * (2 if x.shape[0] in {9, 10} else 3),
    "shape": lambda x: x * (2 if x.shape == (9, 3) else 3),
    "chunks": lambda x: lampion.cat([x[i:i + 4].cumsum(0) for i in range(0, x.shape[0], 4)]),
}


@pytest.mark.parametrize("what", LOOKUPS)
def test_what_python_makes_of_a_size_unseen(what):
    fn = LOOKUPS[what]
    f = lampion.compile(fn, options={"quiet": True, "cache_size": 99})
    for n in [4, 5, 6, 8, 9, 10, 7, 3] * 2:
        x = lampion.randn(n, 3)
        equal(f(x), fn(x), 1e-6)


@pytest.mark.parametrize("what", ["zip", "logarithm", "bits", "dict", "text", "set", "shape",
                                  "chunks"])
def test_what_a_promise_need_not_say(what):
    fn = LOOKUPS[what]
    f = lampion.compile(fn, dynamic=True, options={"quiet": True, "cache_size": 99})
    for n in [4, 5, 6, 8, 9, 10, 7, 3] * 2:
        x = lampion.randn(n, 3)
        equal(f(x), fn(x), 1e-6)
