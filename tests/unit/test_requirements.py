"""`lampion.requires`: what a device lacks for a model, told before anything runs there."""

from __future__ import annotations

import json
import types

import pytest

lampion = pytest.importorskip("lampion")
pytest.importorskip("lampion_refdevice")
import lampion_refdevice as ref  # noqa: E402
from lampion import config, nn, plugins  # noqa: E402
from lampion.base import dtype as dt  # noqa: E402
from lampion.cli import main  # noqa: E402
from lampion.ops import registry  # noqa: E402
from lampion.runtime.backend import Capabilities, KernelImpl, Launch  # noqa: E402


class Poor(ref.RefBackend):
    """A device that compiles nothing, knows no float64, and must not be made to run anything."""

    name = ""
    built: list = []
    features = frozenset()

    def capabilities(self, index):
        return Capabilities(frozenset(dt.ALL) - {dt.float64}, self.features)

    def allocate(self, nbytes, device):
        raise AssertionError("memory was asked for")

    copy_from_host = copy_to_host = compile = allocate

    def languages(self):
        return ("Tongue",)

    def text_program(self, text, outputs, device):
        self.built.append(text.entry)
        return Launch(self.allocate, self.allocate)


class Compiling(Poor):
    features = frozenset({"kernel-ir"})


@pytest.fixture
def poor():
    """Devices `poor` (with a kernel for relu, and one for exp that declines) and `compiling`."""
    def build(call):
        Poor.built.append(str(call))
        return Launch(Poor.allocate, Poor.allocate) if call.op == "relu" else None

    impls = [KernelImpl(op, "poor", build, source="acme") for op in ("relu", "exp")]
    made = []
    for name, kind in (("poor", Poor), ("compiling", Compiling)):
        module = types.ModuleType(f"{name}_plugin")
        module.lampion_backend = lambda kind=kind: kind()
        module.lampion_backend.__module__ = module.__name__
        plugins.register(module, name)
        made.append(name)
    for impl in impls:
        registry.register_kernel(impl)
    Poor.built.clear()
    yield
    for name in made:
        plugins.unregister(name)
    for op in ("relu", "exp"):
        registry._impls.pop((op, "poor"))


def test_a_whole_model_on_a_device_that_compiles(poor):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                          nn.Linear(144, 3))
    x = lampion.randn(2, 1, 8, 8)
    found = lampion.requires(model, x, device="compiling", backward=True)
    assert found.complete and found.missing == []
    phases = {(n.op, n.phase) for n in found.needs}
    assert {("conv2d", "forward"), ("relu", "forward"), ("relu_backward", "backward"),
            ("batch_norm_train", "forward"), ("batch_norm_backward", "backward")} <= phases
    assert "compiling has all" in str(found)
    forward = lampion.requires(model, x, device="compiling")
    assert {n.phase for n in forward.needs} == {"forward"} and "conv2d" in str(forward)


def test_what_is_lacking_is_told_with_reason_and_example(poor):
    def program(x):
        return x.relu().exp().double().sum()

    found = lampion.requires(program, lampion.ones(2, 3), device="poor")
    missing = {n.op: n for n in found.missing}
    assert set(missing) == {"exp", "convert", "sum"} and not found.complete
    assert missing["exp"].how == "backend 'poor' has no kernel for 'exp'"
    assert missing["exp"].example == "exp(float32[2, 3]) on poor"
    assert "has no lampion.float64" in missing["convert"].how
    (relu,) = [n for n in found.needs if n.has]
    assert (relu.op, relu.how) == ("relu", "kernel acme (priority 0)")
    text = str(found)
    assert "poor lacks 3 of 4 ops that are needed" in text
    assert "exp      forward  1      error   backend 'poor' has no kernel" in text
    with config.override({"fallback.policies": {"exp@poor": "allow"}}):
        assert "exp      forward  1      allow   backend 'poor'" in str(found)


def test_kernels_are_not_built_where_the_answer_is_known(poor):
    registry.register_kernel(KernelImpl("relu", "compiling", lambda call: 1 / 0, source="acme"))
    try:
        found = lampion.requires(lambda x: x.relu(), lampion.ones(3), device="compiling")
    finally:
        registry._impls.pop(("relu", "compiling"))
    assert found.needs[0].how == "acme, or generated from the kernel IR" and not Poor.built


def test_calls_that_differ_are_counted(poor):
    found = lampion.requires(lambda x: (x[0] + 1, x + 1, x + 1), lampion.ones(2, 3),
                             device="compiling")
    assert [(n.op, n.calls) for n in found.needs] == [("add", 2)]


def test_an_op_with_a_kernel_there_is_not_taken_apart(poor):
    op = lampion.kernel("requirestest::twice(x: float32[*b]) -> float32[*b]", "", device="poor")(
        lambda x: x.exp() + x.t().contiguous().t())
    x = lampion.ones(2, 3, requires_grad=True)
    found = lampion.requires(lambda x: op(x), x, device="poor")
    assert [(n.op, n.has) for n in found.needs] == [("requirestest::twice", True)]
    assert Poor.built == []
    whole = lampion.requires(lambda x: op(x), x, device="poor", backward=True)
    assert [n.phase for n in whole.needs] == ["forward", *["backward"] * (len(whole.needs) - 1)]
    assert {"exp"} <= {n.op for n in whole.missing}  # its gradient comes from the composite
    assert "exp" in {n.op for n in lampion.requires(op, x, device="compiling").needs}


def test_the_model_is_afterwards_as_before(poor):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    x = lampion.randn(8, 4)
    model(x).sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    objects = [p.grad for p in model.parameters()]
    state = lampion.get_rng_state()
    lampion.requires(model, x, device="compiling", backward=True)
    assert all((v == before[k]).all() for k, v in model.state_dict().items())
    assert all(p.grad is o and (o == g).all()
               for p, o, g in zip(model.parameters(), objects, grads))
    assert (lampion.get_rng_state() == state).all()
    assert lampion.ones(2, 3).exp().relu().tolist() == [[pytest.approx(2.7182817)] * 3] * 2


def test_arguments_by_place_and_by_name(poor):
    def model(x, *, scale):
        return x * scale

    inputs = {"x": lampion.ones(2), "scale": lampion.ones(2)}
    assert [n.op for n in lampion.requires(model, inputs, device="compiling").needs] == ["mul"]
    both = (lampion.ones(2), lampion.ones(2))
    assert [n.op for n in lampion.requires(lampion.mul, both, device="compiling").needs] == ["mul"]
    with pytest.raises(plugins.PluginError, match="nosuch"):
        lampion.requires(model, inputs, device="nosuch")
    with pytest.raises(ZeroDivisionError):
        lampion.requires(lambda x: 1 / 0, lampion.ones(1), device="compiling")


def test_the_command(poor, tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "import lampion\nfrom lampion import nn\n"
        "class Net(nn.Module):\n"
        "    def forward(self, x, i): return x.exp()[i]\n"
        "net = Net()\n"
        "def make(): return Net()\n"
        "def function(x, i): return x.exp()[i]\n")
    for name in ("Net", "net", "make", "function"):
        words = ["requires", f"{tmp_path}/net.py:{name}", "4x3", "2:int64"]
        assert main([*words, "--device", "compiling"]) == 0
        assert "compiling has all" in capsys.readouterr().out
    assert main([*words, "--device", "poor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["complete"] and told["needs"][0]["op"] == "exp"
    for wrong in (["net.py", "3"], [f"{tmp_path}/net.py:nothing", "3"],
                  [f"{tmp_path}/net.py:net", "3y"], [f"{tmp_path}/net.py:net", "3:sin"]):
        assert main(["requires", *wrong, "--device", "poor"]) == 2
        assert "error" in capsys.readouterr().err
