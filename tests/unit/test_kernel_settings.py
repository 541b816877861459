"""Settings that decide which kernel runs an op, or whether it may run elsewhere: they hold at once,
for calls that have run before as well; and what was decided is told on request."""

from __future__ import annotations

import types

import numpy as np
import pytest

lampion = pytest.importorskip("lampion")
pytest.importorskip("lampion_cpu")
ref = pytest.importorskip("lampion_refdevice")

from lampion import config, plugins  # noqa: E402
from lampion.base.errors import UnsupportedError  # noqa: E402
from lampion.config import ConfigError  # noqa: E402
from lampion.ops import registry  # noqa: E402
from lampion.runtime.backend import Capabilities, KernelImpl, Launch  # noqa: E402


@pytest.fixture
def nines():
    """A kernel for exp on the CPU, offered with the lowest priority, that writes nines."""
    def build(call):
        def launch(x):
            out = call.device.backend.allocate(call.outputs[0].span, call.device)
            call.device.backend.copy_from_host(np.full(call.outputs[0].numel, 9, "f4"), out)
            return out

        return Launch(launch, lambda out, x: None, ["nines"])

    low = KernelImpl("exp", "cpu", build, lambda call: call.inputs[0].numel == 7, -5, "acme")
    registry.register_kernel(low)
    yield lampion.zeros(7)
    registry._impls["exp", "cpu"].remove(low)
    registry.forget_plans()


def test_an_override_holds_for_calls_that_have_run_before(nines, monkeypatch):
    monkeypatch.setitem(registry._impls, ("exp", "cpu"), [
        KernelImpl("exp", "cpu", lambda call: None, None, 50, "first"),
        *registry._impls["exp", "cpu"]])
    assert nines.exp().tolist() == [9.0] * 7  # the only one that does not decline
    with config.override({"kernels": {"exp@cpu": "generated"}}):
        assert nines.exp().tolist() == [1.0] * 7
    config.set("kernels", {"exp@cpu": "acme"})
    try:
        assert nines.exp().tolist() == [9.0] * 7
        assert lampion.zeros(6).exp().tolist() == [1.0] * 6  # its constraint does not hold
        config.set("kernels", {"exp@cpu": "generated"})
        assert nines.exp().tolist() == [1.0] * 7
    finally:
        config.unset("kernels")
    assert nines.exp().tolist() == [9.0] * 7


@pytest.mark.parametrize("key, message", [
    ("tanhh@cpu", "there is no op 'tanhh' .did you mean 'tanh'"),
    ("exp", 'not written as "op@device"'), ("@cpu", 'not written as "op@device"'),
    ("permute@cpu", "'permute' is a view"),
    ("softmax@cpu", "composed of other ops, .* `lampion explain softmax` names them")])
def test_an_override_of_what_has_no_kernels_is_an_error(key, message):
    with config.override({"kernels": {key: "acme"}}), pytest.raises(ConfigError, match=message):
        lampion.ones(3).exp()


def test_a_provider_that_offers_nothing_is_an_error(nines):
    with config.override({"kernels": {"exp@cpu": "nobody"}}):
        with pytest.raises(UnsupportedError, match="for 'nobody', but kernels come from: acme"):
            lampion.ones(3).exp()
        assert lampion.ones(3).log().tolist() == [0.0] * 3


def test_a_setting_names_an_op_of_another_device_or_gradient():
    with config.override({"kernels": {"exp@nosuch": "x", "exp_backward@ref": "y",
                                      "optim::sgd@ref": "z"}}):
        assert lampion.zeros(2).exp().tolist() == [1.0, 1.0]


def test_decisions_are_logged_on_request(capfd):
    x = lampion.ones(2, 19)
    with config.override({"log.level": "kernels", "log.format": "json"}):
        for _ in range(3):
            x.erf()
    lines = [line for line in capfd.readouterr().err.splitlines() if "erf(float32" in line]
    assert len(lines) == 1 and '"by": "generated from the kernel IR"' in lines[0]
    lampion.ones(2, 18).erf()
    assert "erf" not in capfd.readouterr().err


def test_a_kernel_that_nobody_will_use_is_told_of(capfd):
    for op in ("softmax", "expp"):
        registry.register_kernel(KernelImpl(op, "acmeless", lambda call: None, source="acme"))
    try:
        for _ in range(2):
            registry.collect()
    finally:
        for op in ("softmax", "expp"):
            registry._impls.pop((op, "acmeless"))
    told = capfd.readouterr().err
    assert told.count("nobody will use a kernel") == 2
    assert "did you mean 'exp'?" in told and "composed of other ops" in told


# ---------------------------------------------------------------- fallback policies

class Lacking(ref.RefBackend):
    """A device with memory and no kernels."""

    name = ""

    def capabilities(self, index):
        return Capabilities(super().capabilities(index).dtypes)


@pytest.fixture
def lacking():
    module = types.ModuleType("lacking_plugin")
    module.lampion_backend = lambda: Lacking()
    module.lampion_backend.__module__ = module.__name__
    plugins.register(module, "lacking")
    lampion.reset_fallbacks()
    yield lampion.arange(6, dtype=lampion.float32, device="cpu").to("lacking")
    plugins.unregister("lacking")
    lampion.reset_fallbacks()


def fails(fn):
    with pytest.raises(UnsupportedError, match="Nothing runs elsewhere unless you allow it"):
        fn()
    return True


def test_a_permission_ends_with_its_block(lacking):
    with config.override({"fallback.policy": "allow"}):
        assert lacking.exp().shape == (6,)
    assert fails(lacking.exp)


@pytest.mark.parametrize("policies, allowed", [
    ({"exp": "allow"}, "exp"), ({"exp@lacking": "allow"}, "exp"),
    ({"@lacking": "allow"}, "exp log"),
    ({"@lacking": "allow", "log": "error"}, "exp"),
    ({"exp": "allow", "exp@lacking": "error"}, ""),
    ({"exp@elsewhere": "allow", "@elsewhere": "allow"}, "")])
def test_policies_of_ops_and_devices(lacking, policies, allowed):
    with config.override({"fallback.policies": policies}):
        for op in ("exp", "log"):
            call = getattr(lacking, op)
            assert call().device.type == "lacking" if op in allowed.split() else fails(call)
    assert {e.op for e in lampion.fallbacks()} == set(allowed.split())


def test_an_op_can_be_forbidden_where_others_may(lacking):
    with config.override({"fallback.policy": "allow", "fallback.policies": {"exp": "error"}}):
        assert lacking.log().shape == (6,) and fails(lacking.exp)
    with config.override({"fallback.policies": {"exp": "warn"}}), \
            pytest.warns(UserWarning, match="exp"):
        lacking.exp()


def test_a_policy_that_is_none_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="fallback.policies.exp = 'alow' is not one of error"):
        config.set("fallback.policies", {"exp": "alow"})


def test_the_ledger_goes_on_counting_after_a_reset(lacking):
    with config.override({"fallback.policy": "allow"}):
        for count in (1, 2):
            lacking.exp()
            assert [(e.op, e.count) for e in lampion.fallbacks()] == [("exp", count)]
        lampion.reset_fallbacks()
        lacking.exp()
        (entry,) = lampion.fallbacks()
        assert (entry.op, entry.count, entry.bytes, entry.ran_on) == ("exp", 1, 48, "cpu")


def test_a_fallback_in_place_leaves_what_lies_between(lacking):
    grid = lacking.view(2, 3)
    with config.override({"fallback.policy": "allow"}):
        grid[:, ::2].add_(10)
    assert grid.cpu().tolist() == [[10, 1, 12], [13, 4, 15]]
