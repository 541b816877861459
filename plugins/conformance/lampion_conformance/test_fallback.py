"""L2: what a device lacks is an error; if the user allows it, it runs elsewhere and is recorded.

The device's own abilities are hidden from lampion for the length of a test.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

import lampion
from lampion import config, plugins
from lampion.base.errors import UnsupportedError
from lampion.ops.plans import backend_of, offers
from lampion.ops.registry import REGISTRY
from lampion.runtime.devices import resolve


@pytest.fixture
def lacking(backend, monkeypatch):
    """The name of an elementwise op that the device now lacks."""
    able = backend.capabilities
    name = next(n for n in ("sinh", "atan", "expm1", "cosh") if not offers(REGISTRY[n],
                                                                           backend.name))
    REGISTRY[name].plans.clear()
    hidden = {"kernel-ir", "host-functions"}
    monkeypatch.setattr(backend, "capabilities", lambda index: able(index)._replace(
        features=able(index).features - hidden))
    lampion.reset_fallbacks()
    yield name
    REGISTRY[name].plans.clear()
    config.unset("fallback.policy")
    lampion.reset_fallbacks()


def test_the_default_is_an_error_that_names_everything(device, lacking):
    x = lampion.tensor(np.ones(11, np.float32)).to(device)
    with pytest.raises(UnsupportedError) as caught:
        getattr(lampion, lacking)(x)
    for word in (lacking, "float32", device, "LAMPION_FALLBACK_POLICY"):
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    assert not lampion.fallbacks()


def needs_another_host(device):
    others = [n for n in plugins.backend_names() if n != device.partition(":")[0]]
    for name in others:
        try:
            if "host-memory" in backend_of(resolve(name)).capabilities(0).features:
                return
        except Exception:
            continue
    pytest.skip("no other device whose memory the host sees is installed")


def test_allowed_it_runs_and_is_in_the_ledger(device, lacking):
    needs_another_host(device)
    config.set("fallback.policy", "allow")
    a = np.linspace(-1, 1, 13).astype(np.float32)
    x = lampion.tensor(a).to(device)
    for _ in range(2):
        y = getattr(lampion, lacking)(x)
    function = {"atan": "arctan"}.get(lacking, lacking)
    np.testing.assert_allclose(y.cpu().numpy(), getattr(np, function)(a), 1e-6)
    assert y.device == lampion.device(device)
    entry, = lampion.fallbacks()
    assert (entry.op, entry.device, entry.count) == (lacking, device, 2)
    assert entry.bytes == 2 * 2 * a.nbytes and entry.ran_on != device


def test_a_warning_if_wanted(device, lacking):
    needs_another_host(device)
    config.set("fallback.policy", "warn")
    with pytest.warns(UserWarning, match=lacking):
        getattr(lampion, lacking)(lampion.ones(17, device=device))


@contextmanager
def watched(device):
    """The calls that another backend's memory and programs get meanwhile."""
    calls: list[str] = []
    undo = []
    for name in plugins.backend_names():
        if name == device.partition(":")[0]:
            continue
        try:
            other = plugins.backend(name)
        except plugins.PluginError:
            continue
        for method in ("allocate", "program", "copy_from_host", "compile"):
            real = getattr(other, method)

            def noted(*args, real=real, what=f"{name}.{method}", **kwargs):
                calls.append(what)
                return real(*args, **kwargs)

            setattr(other, method, noted)
            undo.append((other, method))
    try:
        yield calls
    finally:
        for other, method in undo:
            delattr(other, method)


def test_nothing_runs_elsewhere_in_silence(device):
    """While ops of every kind run on the device, no other backend is asked for anything."""
    rng = np.random.default_rng(0)
    a = lampion.tensor(rng.standard_normal((5, 23)).astype(np.float32)).to(device)
    b = lampion.tensor(rng.standard_normal((23, 4)).astype(np.float32)).to(device)
    lampion.reset_fallbacks()
    with watched(device) as calls:
        results = [a + 1.5, a.exp(), a.sum(0), a @ b, a.softmax(-1), a.cumsum(1), a.sort(1)[0],
                   a.t().contiguous(), a.argmax(1), (a > 0).any(), lampion.cat([a, a])]
        backend_of(resolve(device)).synchronize(resolve(device))
    assert all(r.device == lampion.device(device) for r in results)
    assert not calls, f"the device called {sorted(set(calls))}"
    assert not lampion.fallbacks()
