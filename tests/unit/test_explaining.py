"""Kernel choice as `explain` tells it: who offered, who won, why the others lost."""

from __future__ import annotations

import pytest

lampion = pytest.importorskip("lampion")
from lampion import config  # noqa: E402
from lampion.base.errors import UnsupportedError  # noqa: E402
from lampion.explaining import explain  # noqa: E402
from lampion.ops import registry  # noqa: E402
from lampion.runtime.backend import KernelImpl, Launch  # noqa: E402


@pytest.fixture
def offers():
    """Kernels for `mul` from three providers; the plans and the table are put back after."""
    pytest.importorskip("lampion_cpu")
    a = lampion.ones(3, device="cpu")
    ordinary = registry.kernel_impls("mul", "cpu")
    kept = list(ordinary)

    def build(call):
        def into(out, x, y):
            from ctypes import memmove

            memmove(out.ptr, x.ptr, out.nbytes)

        def launch(x, y):
            out = call.device.backend.allocate(12, call.device)
            into(out, x, y)
            return out

        return Launch(launch, into, ["copy_first"])

    def add(source, priority, **more):
        impl = KernelImpl("mul", "cpu", build, priority=priority, source=source, **more)
        registry.register_kernel(impl)

    add("low", 901)
    add("picky", 903, constraint=lambda call: False)
    add("declines", 902)
    impls = registry._impls["mul", "cpu"]
    index = next(i for i, impl in enumerate(impls) if impl.source == "declines")
    impls[index] = KernelImpl("mul", "cpu", lambda call: None, priority=902, source="declines")
    yield a
    impls[:] = kept
    registry.REGISTRY["mul"].plans.clear()


def test_every_candidate_is_told_with_its_reason(offers):
    (choice,) = explain(lampion.mul, offers, offers)
    assert choice.op == "mul" and choice.chosen == "kernel low (priority 901) [copy_first]"
    told = {c.source: c.verdict for c in choice.candidates}
    assert told["picky"] == "its constraint does not hold"
    assert told["declines"] == "its builder declined this call"
    assert told["low"] == "chosen"
    assert "-> kernel low" in str(explain(lampion.mul, offers, offers))


def test_settings_choose_another_provider(offers):
    with config.override({"kernels": {"mul@cpu": "generated"}}):
        (choice,) = explain(lampion.mul, offers, offers)
        assert choice.chosen.startswith("generated")
        assert {c.verdict for c in choice.candidates} == {"switched off by [kernels]"}
    with (
        config.override({"kernels": {"mul@cpu": "nobody"}}),
        pytest.raises(UnsupportedError, match=r"asks for 'nobody', but kernels come from: .*low"),
    ):
        explain(lampion.mul, offers, offers)


def test_explaining_leaves_the_plans_as_they_were():
    pytest.importorskip("lampion_cpu")
    a = lampion.ones(5, device="cpu")
    lampion.add(a, a)
    plans = registry.REGISTRY["add"].plans
    before = dict(plans)
    assert before
    explain(lampion.add, a, a)
    assert all(plans[key] is plan for key, plan in before.items())
