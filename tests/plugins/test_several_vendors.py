"""Devices of several vendors in one process: one autograd graph over all of them, copies between
any two, threads, forks. The stranger among them is a plug-in made here, with memory of its own."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

lampion = pytest.importorskip("lampion")
from lampion import nn, plugins  # noqa: E402
from lampion.runtime.devices import resolve  # noqa: E402


@pytest.fixture(scope="module")
def devices():
    """cpu, the others that work here, and the stranger."""
    path = Path(__file__).parent / "oldest_api" / "oldest_plugin.py"
    spec = importlib.util.spec_from_file_location("stranger_plugin", path)
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    module = types.ModuleType("stranger_plugin")
    module.lampion_backend = lambda: Stranger()
    module.lampion_backend.__module__ = module.__name__

    class Stranger(source.Oldest):
        name = "stranger"

        def __init__(self):
            self.allocated, self.threads, self.waited, self.speed = 0, 1, 0, 3

    plugins.register(module, "stranger")
    found = []
    for name in ("cpu", "opencl", "ref", "stranger"):
        try:
            if plugins.devices(name):
                found.append(f"{name}:0" if name == "opencl" else name)
        except plugins.PluginError:
            continue
    assert {"cpu", "stranger"} <= set(found)
    yield found
    plugins.unregister("stranger")


def test_one_graph_over_all_devices(devices):
    leaves = [lampion.full((3,), float(k + 1), device=d).requires_grad_()
              for k, d in enumerate(devices)]
    total = lampion.zeros(3, device=devices[-1])
    for leaf in leaves:  # the running value visits each device
        total = (total.to(leaf.device) * leaf).tanh() + leaf
    loss = total.to(devices[0]).pow(2).sum()
    loss.backward()
    alone = [leaf.detach().cpu().requires_grad_() for leaf in leaves]
    want = lampion.zeros(3)
    for leaf in alone:
        want = (want * leaf).tanh() + leaf
    want.pow(2).sum().backward()
    for leaf, other in zip(leaves, alone):
        assert leaf.grad.device == leaf.device
        np.testing.assert_allclose(leaf.grad.cpu().numpy(), other.grad.numpy(), rtol=1e-5)


def test_second_derivatives_cross_devices(devices):
    x = lampion.tensor([0.3, -0.7], requires_grad=True, device=devices[0])
    y = x
    for d in devices:
        y = (y.to(d) ** 2).sin()
    (first,) = lampion.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = lampion.autograd.grad(first.sum(), x)
    z = x.detach().requires_grad_()
    w = z
    for _ in devices:
        w = (w ** 2).sin()
    (one,) = lampion.autograd.grad(w.sum(), z, create_graph=True)
    (two,) = lampion.autograd.grad(one.sum(), z)
    np.testing.assert_allclose(second.numpy(), two.numpy(), rtol=1e-4)


def test_copies_between_any_two(devices):
    a = np.arange(24, dtype=np.float32).reshape(4, 6)
    for here, there in itertools.product(devices, repeat=2):
        x = lampion.tensor(a).to(here)
        for view, want in ((x, a), (x.t(), a.T), (x[1:, ::2], a[1:, ::2]), (x[2, 3], a[2, 3]),
                           (x[:0], a[:0]), (x[:1].expand(3, 6), np.repeat(a[:1], 3, 0))):
            moved = view.to(there)
            assert moved.device == resolve(there) and tuple(moved.shape) == want.shape
            np.testing.assert_array_equal(moved.cpu().numpy(), want)
            target = lampion.zeros(4, *view.shape, device=there)
            target[1].copy_(view)  # to a place in other memory
            np.testing.assert_array_equal(target.cpu().numpy()[1], want)
            assert not target.cpu().numpy()[[0, 2, 3]].any()
        for kind in (lampion.int64, lampion.bool, lampion.float16, lampion.complex64):
            np.testing.assert_array_equal(x.to(kind).to(there).cpu().numpy(),
                                          x.to(kind).cpu().numpy())
            np.testing.assert_array_equal(x.to(there, kind).cpu().numpy(), x.to(kind).cpu().numpy())


def test_an_op_over_two_devices_names_both(devices):
    for here, there in itertools.permutations(devices, 2):
        with pytest.raises(RuntimeError, match="same device") as told:
            lampion.ones(2, device=here) + lampion.ones(2, device=there)
        assert all(str(resolve(d)) in str(told.value) for d in (here, there))


def test_each_has_its_own_memory(devices):
    def allocated(name):
        d = resolve(name)
        return d.backend.memory_stats(d).get("allocated", 0)

    counting = [d for d in devices if d != "ref"]  # which counts nothing
    for name in counting:
        before = {d: allocated(d) for d in counting}
        kept = lampion.ones(1 << 18, device=name)
        after = {d: allocated(d) for d in counting}
        assert after.pop(name) >= before.pop(name) + (1 << 20) and after == before
        del kept


def test_a_model_over_devices_learns(devices):
    lampion.manual_seed(0)
    layers = [nn.Linear(2, 8), *[nn.Linear(8, 8) for _ in devices[2:]], nn.Linear(8, 1)]
    for layer, device in zip(layers, devices):
        layer.to(device)
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = lampion.optim.Adam(parameters, lr=0.03)
    x = lampion.rand(32, 2)
    y = (x[:, :1] > x[:, 1:]).float()
    losses = []
    for _ in range(15):
        h = x
        for layer, device in zip(layers, devices):
            h = layer(h.to(device)).tanh()
        loss = (h.cpu() - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert {p.device.type for p in parameters} == {d.partition(":")[0] for d in devices}


def test_threads_on_all_devices_at_once(devices):
    failures = []
    start = threading.Barrier(4)

    def work(seed):
        try:
            start.wait(30)
            rng = np.random.default_rng(seed)
            order = rng.permutation(devices)
            for _ in range(4):
                a = rng.standard_normal((5, 7)).astype(np.float32)
                x = lampion.tensor(a, requires_grad=True)
                y = x
                for d in order:
                    y = y.to(str(d)) * 1.5 - 0.25
                (y * y).sum().backward()
                want, scale = a, 1.5 ** len(order)
                for _ in order:
                    want = want * np.float32(1.5) - np.float32(0.25)
                np.testing.assert_allclose(y.detach().cpu().numpy(), want, rtol=1e-5)
                np.testing.assert_allclose(x.grad.numpy(), 2 * want * scale, rtol=1e-4, atol=1e-5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert not failures, failures[0]
    assert not any(t.is_alive() for t in threads)


def in_a_fork(check):
    """The exit status of `check()` in a forked child; 14 (of SIGALRM) if it does not end."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        signal.alarm(60)
        status = 1
        try:
            check()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_a_device_works_or_says_why_not(devices):
    tensors = {d: lampion.ones(1000, device=d) for d in devices}
    recorded = {d: (t * 2).requires_grad_() for d, t in tensors.items()}
    for t in tensors.values():
        assert (t + 1).sum().item() == 2000
    calls = {"a known call": lambda d: (tensors[d] + 1).sum().item() == 2000,
             "a new one": lambda d: tensors[d].erf().sum().item() > 800,
             "a value": lambda d: tensors[d][3].item() == 1,
             "memory": lambda d: lampion.ones(5, device=d).sum().item() == 5,
             "a copy": lambda d: lampion.arange(4).to(d).cpu().tolist() == [0, 1, 2, 3],
             "a gradient": lambda d: recorded[d].sum().backward() is None}

    def outcome(call, d):
        try:
            return "works" if call(d) else "wrong"
        except RuntimeError as error:
            return "refuses" if "fork" in str(error) and "spawn" in str(error) else repr(error)

    def check():
        for d in devices:
            outcomes = {what: outcome(call, d) for what, call in calls.items()}
            assert set(outcomes.values()) in ({"works"}, {"refuses"}), (d, outcomes)
        assert outcome(calls["a known call"], "cpu") == "works"

    assert in_a_fork(check) == 0
    for d, t in tensors.items():  # and here all goes on
        assert (t + 1).sum().item() == 2000, d
