"""What changes between calls is never stale: modules, globals, objects, arguments, modes.

Every case is a generator of pairs, what the compiled function gives and what the function itself
gives; each pair has to be equal in values, dtype, layout and history.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import itertools
import os
import types

import numpy as np
import pytest

import lampion
from lampion import nn

CASES = []


def case(fn):
    CASES.append(fn)
    return fn


def equal(a, b):
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, lampion.Tensor):
        return (a.meta is b.meta and a.requires_grad == b.requires_grad and a.is_leaf == b.is_leaf
                and np.array_equal(a.detach().double().numpy(), b.detach().double().numpy(),
                                   equal_nan=True))
    return type(a) is type(b) and a == b


def twice(compiled, fn, *args, before=lambda: None):
    """The pairs of three calls in a row: traced, found, found again."""
    for _ in range(3):
        before()
        a = compiled(*args)
        before()
        yield a, fn(*args)


def ones(*shape, **options):
    return lampion.ones(*(shape or (3,)), **options)


# ---- modules -------------------------------------------------------------------------------------

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.k, self.inner = 2.0, nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(x) * self.k


@case
def attributes_parameters_and_hooks():
    m, x = Scaled(), lampion.randn(2, 3)
    f = lampion.compile(m)
    yield from twice(f, m, x)
    m.k = 5.0
    yield from twice(f, m, x)
    m.inner = nn.Linear(3, 3)
    yield from twice(f, m, x)
    m.inner.weight = nn.Parameter(lampion.randn(3, 3))
    yield from twice(f, m, x)
    for p, needs in ((m.inner.weight, False), (m.inner.bias, False), (m.inner.weight, True)):
        p.requires_grad_(needs)
        yield from twice(f, m, x)
    m.inner.weight.data = lampion.randn(3, 3)
    yield from twice(f, m, x)
    hook = m.inner.register_forward_hook(lambda mod, args, out: out + 1)
    yield from twice(f, m, x)
    hook.remove()
    yield from twice(f, m, x)
    hook = m.register_forward_pre_hook(lambda mod, args: (args[0] + 1,))
    yield from twice(f, m, x)
    hook.remove()
    m.double()
    yield from twice(f, m, x.double())
    m.float()
    m.inner.bias = None
    yield from twice(f, m, x)
    m.forward = lambda x: x - 1
    yield from twice(f, m, x)
    del m.forward
    yield from twice(f, m, x)


@case
def methods_of_classes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def helper(self, x):
            return self.act(x)

        def forward(self, x):
            return self.helper(x)

    m, x = Net(), lampion.randn(5)
    f = lampion.compile(m)
    yield from twice(f, m, x)
    m.act = nn.Sigmoid()
    yield from twice(f, m, x)
    Net.helper = lambda self, x: x * 10
    yield from twice(f, m, x)
    m.helper = lambda x: x * 20
    yield from twice(f, m, x)
    Net.forward = lambda self, x: x - 3
    yield from twice(f, m, x)


@case
def tensors_that_are_no_buffers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.row, self.plain, self.table = [ones()], ones(), {"a": ones()}

        def forward(self, x):
            return x * self.row[0] + self.plain * self.table["a"]

    m, x = Net(), lampion.randn(3)
    f = lampion.compile(m)
    yield from twice(f, m, x)
    m.row[0] = lampion.zeros(3)
    yield from twice(f, m, x)
    m.plain = lampion.full((3,), 7.0)
    yield from twice(f, m, x)
    m.table["a"] = lampion.full((3,), 2.0)
    yield from twice(f, m, x)
    m.table["a"].fill_(9)
    yield from twice(f, m, x)


@case
def lists_of_modules_grow():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 3)])
            self.scales = nn.ParameterList([nn.Parameter(ones())])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            for s in self.scales:
                x = x * s
            return x

    m, x = Net(), lampion.randn(2, 3)
    f = lampion.compile(m)
    yield from twice(f, m, x)
    m.layers.append(nn.Linear(3, 3))
    yield from twice(f, m, x)
    m.scales.append(nn.Parameter(ones() * 3))
    yield from twice(f, m, x)
    m.layers[0] = nn.Identity()
    yield from twice(f, m, x)


@case
def training_mode_and_what_dropout_and_batch_norm_keep():
    m, x = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)), lampion.randn(4, 3)
    state = copy.deepcopy(m.state_dict())

    def before():
        m.load_state_dict(state)
        lampion.manual_seed(0)

    f = lampion.compile(m)
    yield from twice(f, m, x, before=before)
    m.eval()
    yield from twice(f, m, x, before=before)
    m.train()
    m[1].momentum = 0.9
    yield from twice(f, m, x, before=before)
    n = int(m[1].num_batches_tracked)
    f(x)
    yield int(m[1].num_batches_tracked), n + 1
    m[2].p = 0.1
    yield from twice(f, m, x, before=before)
    m[2].eval()
    yield from twice(f, m, x, before=before)


# ---- globals, closures, objects ------------------------------------------------------------------

SCALE = 2.0
ROW = [1.0, 2.0]
TABLE = {"k": 3}


class Config:
    z = 1


CONFIG = Config()


def helper(x):
    return x + 1


@case
def globals_and_what_they_hold():
    global SCALE, CONFIG

    def fn(x):
        return x * SCALE + ROW[0] + TABLE["k"] + CONFIG.z

    f, x = lampion.compile(fn, options={"cache_size": 99}), lampion.randn(3)
    yield from twice(f, fn, x)
    for SCALE in (3.0, ones(), lampion.zeros(3), 2.0):
        yield from twice(f, fn, x)
    ROW[0] = 5.0
    yield from twice(f, fn, x)
    TABLE["k"] = 1
    yield from twice(f, fn, x)
    CONFIG.z = 4
    yield from twice(f, fn, x)
    Config.z = 9
    del CONFIG.z
    yield from twice(f, fn, x)
    Config.z = 10
    yield from twice(f, fn, x)
    CONFIG = Config()
    CONFIG.z = 77
    yield from twice(f, fn, x)


@case
def functions_code_and_defaults():
    global helper

    def fn(x, k=2):
        return helper(x) * k

    f, x, first = lampion.compile(fn), lampion.randn(3), helper
    yield from twice(f, fn, x)

    def helper(x):
        return x + 5

    yield from twice(f, fn, x)
    helper.__code__ = (lambda x: x + 50).__code__
    yield from twice(f, fn, x)
    fn.__defaults__ = (5,)
    yield from twice(f, fn, x)
    helper = first
    yield f(x, k=3), fn(x, k=3)
    yield f(k=3, x=x), fn(x, 3)


@case
def variables_of_the_enclosing_function():
    k = 1

    def fn(x):
        return x * k

    f, x = lampion.compile(fn), lampion.randn(3)
    yield from twice(f, fn, x)
    for k in (2, ones() * 7, ones() * 8):
        yield from twice(f, fn, x)


def _nested(depth, value):
    row = value
    for _ in range(depth):
        row = [row]
    return row


@case
def objects_in_objects():
    deep = types.SimpleNamespace(n=types.SimpleNamespace(n=types.SimpleNamespace(
        n=types.SimpleNamespace(n=types.SimpleNamespace(v=2)))))
    row = _nested(6, 1.0)

    def fn(x):
        return x * deep.n.n.n.n.v + row[0][0][0][0][0][0]

    f, x = lampion.compile(fn), ones()
    yield from twice(f, fn, x)
    deep.n.n.n.n.v = 3
    yield from twice(f, fn, x)
    row[0][0][0][0][0][0] = 3.0
    yield from twice(f, fn, x)
    deep.n.n = types.SimpleNamespace(n=types.SimpleNamespace(n=types.SimpleNamespace(v=8)))
    yield from twice(f, fn, x)


@case
def long_lists_and_dicts():
    row, table = list(range(1000)), {k: k for k in range(1000)}

    def fn(x):
        return x * row[500] + table[500]

    f, x = lampion.compile(fn), ones()
    yield from twice(f, fn, x)
    row[500] = 3
    yield from twice(f, fn, x)
    table[500] = 4
    yield from twice(f, fn, x)


@case
def slots_properties_dataclasses_and_arrays():
    class Slots:
        __slots__ = ("q",)

    class Reads:
        @property
        def v(self):
            return ROW[1]

    @dataclasses.dataclass
    class Data:
        k: float = 1.0

    slots, reads, data, array = Slots(), Reads(), Data(), np.ones(3)
    slots.q = 1.0

    def fn(x, data):
        return x * slots.q + reads.v + data.k + float(array[0]) + len(ROW)

    f, x = lampion.compile(fn), ones()
    yield from twice(f, fn, x, data)
    slots.q = 3.0
    yield from twice(f, fn, x, data)
    ROW[1] = 11.0
    yield from twice(f, fn, x, data)
    data.k = 4.0
    yield from twice(f, fn, x, data)
    array[0] = 3
    yield from twice(f, fn, x, data)
    ROW.append(1.0)
    yield from twice(f, fn, x, data)
    ROW.pop()


@case
def states_of_the_process():
    def fn(x):
        return (x * (2 if os.environ.get("LAMPION_NO_SUCH") else 1)
                + lampion.are_deterministic_algorithms_enabled() + lampion.get_num_threads()
                + lampion.initial_seed() % 7)

    f, x, threads = lampion.compile(fn), ones(), lampion.get_num_threads()
    lampion.manual_seed(3)
    yield from twice(f, fn, x)
    os.environ["LAMPION_NO_SUCH"] = "1"
    yield from twice(f, fn, x)
    del os.environ["LAMPION_NO_SUCH"]
    lampion.use_deterministic_algorithms(True)
    yield from twice(f, fn, x)
    lampion.use_deterministic_algorithms(False)
    lampion.set_num_threads(threads + 1)
    yield from twice(f, fn, x)
    lampion.set_num_threads(threads)
    lampion.manual_seed(4)
    yield from twice(f, fn, x)


class Counts:
    n = 0

    def step(self):
        self.n += 1
        return self.n


class CountingModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = 0

    def forward(self, x):
        self.n += 1
        return x * self.n


def _generator():
    k = 1.0
    while True:
        yield k
        k += 1


def _counters():
    """Functions that give x times the number of the call."""
    row, counter, count, numbers = [0], collections.Counter(), itertools.count(1), _generator()
    given, obj = iter([1.0, 2.0, 3.0, 4.0]), Counts()

    def in_a_list(x):
        row[0] += 1
        return x * row[0]

    def in_a_default(x, row=[0]):  # noqa: B006
        row[0] += 1
        return x * row[0]

    def in_a_counter(x):
        counter["a"] += 1
        return x * counter["a"]

    return [in_a_list, in_a_default, in_a_counter, lambda x: x * next(count),
            lambda x: x * next(numbers), lambda x: x * next(given), lambda x: x * obj.step(),
            CountingModule()]


@case
def counters():
    for fn in _counters():
        f = lampion.compile(fn, options={"quiet": True})
        yield [f(ones(1)).item() for _ in range(4)], [1.0, 2.0, 3.0, 4.0]


# ---- arguments -----------------------------------------------------------------------------------

@case
def lists_and_numbers():
    def fn(row, k=1):
        return sum(row) * k

    f, a, b = lampion.compile(fn), lampion.randn(3), lampion.randn(3)
    row = [a, b]
    yield from twice(f, fn, row)
    row.append(a)
    for given in ((row,), ([a, a, b],), ([a, b, a],), (row, 3), (row, 3.0), (row, True), (row, 1)):
        yield from twice(f, fn, *given)


def _overlapping():
    a = ones(4)
    wide = ones(6)
    yield ones(4), ones(4)
    yield a, a
    yield a, a.detach()
    yield wide[:4], wide[2:]
    yield wide[2:], wide[:4]
    yield a, lampion.from_numpy(a.numpy())
    yield ones(4, 4).t(), ones(4, 4)
    yield ones(4, 4), ones(1, 4).expand(4, 4)


@case
def arguments_that_share_memory():
    def fn(a, b):
        a.add_(1)
        return a * b

    f = lampion.compile(fn)
    for _ in range(3):
        for (a, b), (c, d) in zip(_overlapping(), _overlapping()):
            yield (f(a, b), a, b), (fn(c, d), c, d)


@case
def an_argument_that_is_also_a_global():
    for first in (True, False):
        w = ones(4)

        def fn(a, w=w):
            a.add_(1)
            return a * w

        f = lampion.compile(fn)
        makers = [lambda: ones(4), lambda w=w: w, lambda w=w: w[:]]
        for make in makers if first else reversed(makers):
            for _ in range(3):
                w.fill_(1)
                got = [t.clone() for t in (f(make()), w)]
                w.fill_(1)
                yield got, [t.clone() for t in (fn(make()), w)]

    def which(x):
        return x * (1 if x is w else 2)

    f = lampion.compile(which)
    for x in (ones(4), w, ones(4), w):
        yield from twice(f, which, x)


@case
def what_a_meta_does_not_tell():
    base, leaf = lampion.arange(4.0), ones(requires_grad=True)
    kept = leaf * 2
    kept.retain_grad()
    marked, other = ones(), ones()
    marked.grad, marked.word, other.word = ones() * 5, 2.0, 3.0
    for fn, row in (
            (lambda x: x * (1 if x.is_leaf else 2), (leaf, leaf * 1, ones())),
            (lambda x: x * (0 if x.grad_fn is None else 1), (leaf, leaf * 1, ones())),
            (lambda x: x * (1 if isinstance(x, nn.Parameter) else 2),
             (nn.Parameter(ones()), leaf, ones(), nn.Parameter(ones()))),
            (lambda x: x * (1 if x._is_view() else 2), (base[:3], ones(), base[1:])),
            (lambda x: x * (1 + x.storage_offset()), (base[:3], base[1:], base[:3])),
            (lambda x: x.as_strided((2,), (1,), 0), (base[:3], base[1:], base[2:])),
            (lambda x: x.as_strided((3,), (1,)), (base[:2], lampion.arange(3.0)[:2])),
            (lambda x: x * (2 if x.retains_grad else 1), (leaf * 1, kept)),
            (lambda x: x if x.grad is None else x * x.grad, (ones(), marked, ones())),
            (lambda x: x * x.word, (marked, other, marked)),
            (lambda x: x * (x.data_ptr() == marked.data_ptr()), (marked, ones(), marked)),
    ):
        f = lampion.compile(fn, options={"quiet": True})
        for x in row:
            yield from twice(f, fn, x)
    f = lampion.compile(lambda x: x * x._version, options={"quiet": True})
    for n in range(3):
        yield f(base), base * base._version
        base.add_(n)


@case
def layouts():
    m, x = nn.Conv2d(3, 4, 3), lampion.randn(2, 3, 6, 6)
    f = lampion.compile(m)
    for y in (x, x.contiguous(memory_format=lampion.channels_last), x[:, :, 1:],
              x.transpose(2, 3)):
        yield from twice(f, m, y)
    m.to(memory_format=lampion.channels_last)
    yield from twice(f, m, x)


# ---- modes and states ----------------------------------------------------------------------------

@case
def gradient_modes():
    w = lampion.randn(3, requires_grad=True)

    def fn(x):
        return (x * w).exp() * (2 if lampion.is_grad_enabled() else 3)

    f, x = lampion.compile(fn), lampion.randn(3)
    yield from twice(f, fn, x)
    with lampion.no_grad():
        yield from twice(f, fn, x)
    with lampion.inference_mode():
        yield from twice(f, fn, x)
    x.requires_grad_()
    yield from twice(f, fn, x)
    w.requires_grad_(False)
    yield from twice(f, fn, x)
    yield from twice(f, fn, x.detach())


@case
def autocast_and_default_dtype():
    m, x = nn.Linear(4, 4), lampion.randn(2, 4)
    f = lampion.compile(m)
    for enabled in (None, True, False, True):
        with lampion.autocast("cpu", dtype=lampion.bfloat16, enabled=bool(enabled)):
            yield from twice(f, m, x)
    with lampion.autocast("cpu", dtype=lampion.bfloat16):
        yield from twice(f, m, x)
        with lampion.no_grad():
            m.weight.fill_(1.0)
        yield from twice(f, m, x)

    def fn(x):
        return lampion.ones(3) + x

    f, x = lampion.compile(fn), lampion.randn(3)
    yield from twice(f, fn, x)
    lampion.set_default_dtype(lampion.float64)
    try:
        yield from twice(f, fn, x)
    finally:
        lampion.set_default_dtype(lampion.float32)
    yield from twice(f, fn, x)


@case
def generators_and_seeds():
    mine = lampion.Generator()

    def fn(x):
        return x + lampion.rand(3), lampion.randperm(4), lampion.rand(2, generator=mine)

    f, x = lampion.compile(fn), ones()
    for seed in (0, 1, 2):
        def before(seed=seed):
            lampion.manual_seed(seed)
            mine.manual_seed(seed)

        yield from twice(f, fn, x, before=before)
        mine = lampion.Generator()


@case
def memory_that_is_replaced():
    w = ones()

    def fn(x):
        return x * w

    f, x = lampion.compile(fn), ones()
    yield from twice(f, fn, x)
    for data in (lampion.zeros(3), lampion.ones(1)):
        w.data = data
        yield from twice(f, fn, x)
    w.set_(lampion.full((3,), 4.0))
    yield from twice(f, fn, x)
    x.data = lampion.full((3,), 2.0)
    yield from twice(f, fn, x)


def _regression():
    lampion.manual_seed(0)
    m = nn.Linear(3, 1)
    opt = lampion.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)

    def step(x):
        opt.zero_grad()
        loss = m(x).pow(2).mean()
        loss.backward()
        opt.step()
        return loss

    return m, opt, step


def _set(name, value):
    def change(m, opt):
        opt.param_groups[0][name] = value

    return change


@case
def optimizers_and_what_they_hold():
    m, opt, step = _regression()
    n, other, fn = _regression()
    f, x = lampion.compile(step, options={"cache_size": 99}), lampion.randn(4, 3)
    changes = [
        lambda m, opt: None, _set("lr", 0.01), _set("momentum", 0.5), _set("weight_decay", 0.5),
        _set("nesterov", True),
        lambda m, opt: opt.load_state_dict(copy.deepcopy(opt.state_dict())),
        lambda m, opt: m.load_state_dict({k: v * 0.5 for k, v in m.state_dict().items()}),
        lambda m, opt: opt.state.clear(),
        lambda m, opt: (m.bias.requires_grad_(False), setattr(m.bias, "grad", None)),
        lambda m, opt: setattr(m.weight, "grad", ones(1, 3)),
        lambda m, opt: m.weight.register_hook(lambda g: g * 2),
        lambda m, opt: opt.add_param_group({"params": [nn.Parameter(ones(2))]}),
    ]
    for change in changes:
        change(m, opt)
        change(n, other)
        for _ in range(3):
            yield f(x), fn(x)
        yield [p.detach().clone() for p in m.parameters()], [
            p.detach().clone() for p in n.parameters()]


@pytest.mark.parametrize("make", CASES, ids=lambda fn: fn.__name__)
def test_nothing_is_stale(make):
    for k, (got, wanted) in enumerate(make()):
        assert equal(got, wanted), f"pair {k}: {got} is not {wanted}"
