"""The loader in this process: plug-ins without wheels, versions, and pluggy kept at a distance."""

from __future__ import annotations

import subprocess
import sys
import threading
import types

import pytest

from lampion.base.errors import PluginError
from lampion.plugins import hookimpl, versions
from lampion.plugins.loader import Loader
from lampion.runtime.backend import Backend, Capabilities, DeviceInfo


class Paper(Backend):
    made = 0

    def __init__(self):
        type(self).made += 1

    def devices(self):
        return [DeviceInfo("Paper", "")]

    def capabilities(self, index):
        return Capabilities(frozenset())

    def allocate(self, nbytes, device):
        raise MemoryError

    def copy_from_host(self, data, storage):
        raise MemoryError

    def copy_to_host(self, storage, nbytes):
        raise MemoryError


def plugin(**functions) -> types.ModuleType:
    module = types.ModuleType("paper_plugin")
    for name, function in functions.items():
        function.__module__ = "paper_plugin"
        setattr(module, name, function)
    return module


@pytest.fixture
def loader():
    return Loader()


def test_a_module_of_this_process_becomes_a_device(loader):
    record = loader.register(plugin(lampion_backend=lambda: Paper), "paper-a")
    assert record.status == "loaded" and "paper-a" in loader.backend_names()
    assert isinstance(loader.backend("paper-a"), Paper)
    assert [d.name for d in loader.devices("paper-a")] == ["Paper"]
    with pytest.raises(PluginError, match="already provided by"):
        loader.register(plugin(lampion_backend=lambda: Paper), "paper-a")
    loader.unregister("paper-a")
    with pytest.raises(PluginError, match="no installed plug-in provides"):
        loader.backend("paper-a")


def test_a_backend_is_made_once_by_many_threads(loader):
    Paper.made = 0
    loader.register(plugin(lampion_backend=lambda: Paper), "paper-b")
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(loader.backend("paper-b"))) for _ in range(8)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 8 and len({id(b) for b in got}) == 1 and Paper.made == 1


@pytest.mark.parametrize("what", ["instance", "class", "factory"])
def test_a_hook_may_give_instance_class_or_factory(loader, what):
    given = {"instance": Paper(), "class": Paper, "factory": lambda: Paper()}[what]
    loader.register(plugin(lampion_backend=lambda: given), "paper-c")
    assert isinstance(loader.backend("paper-c"), Paper)


def test_what_is_no_backend_is_refused(loader):
    loader.register(plugin(lampion_backend=lambda: 3), "paper-d")
    with pytest.raises(PluginError, match="gave 3, which is no lampion.runtime.backend.Backend"):
        loader.backend("paper-d")
    named = Paper()
    named.name = "other"
    loader.register(plugin(lampion_backend=lambda: named), "paper-e")
    with pytest.raises(PluginError, match="named 'paper-e' and its backend 'other'"):
        loader.backend("paper-e")


def test_a_failure_is_kept_and_raised_again_with_its_cause(loader):
    calls = []

    def lampion_backend():
        calls.append(1)
        raise OSError("no such bus")

    record = loader.register(plugin(lampion_backend=lampion_backend), "paper-f")
    for _ in range(2):
        with pytest.raises(PluginError, match="in its hook lampion_backend: OSError") as caught:
            loader.backend("paper-f")
        assert isinstance(caught.value.__cause__, OSError)
    assert calls == [1] and record.status == "failed" and "no such bus" in record.traceback
    assert "paper-f" not in loader.backend_names()


def test_a_decorated_hook_with_another_prefix_free_name_is_noticed(loader):
    @hookimpl
    def lampion_kernles(registry):
        pass

    with pytest.raises(PluginError, match="did you mean 'lampion_kernels'"):
        loader.register(
            plugin(lampion_backend=lambda: Paper, lampion_kernles=lampion_kernles), "paper-g"
        )
    # pluggy would keep a plug-in that it rejected; we do not
    assert "paper-g" not in loader.backend_names()
    assert loader.register(plugin(lampion_backend=lambda: Paper), "paper-g").status == "loaded"


def test_an_imported_function_with_the_prefix_is_no_hook(loader):
    module = plugin(lampion_backend=lambda: Paper)

    def helper():
        pass

    helper.__module__ = "elsewhere"
    module.lampion_helper = helper
    assert loader.register(module, "paper-h").hooks == ("lampion_backend",)


def test_a_plugin_of_the_wrong_group_is_refused(loader):
    with pytest.raises(PluginError, match="has no hook lampion_ops or lampion_kernels"):
        loader.register(plugin(lampion_backend=lambda: Paper), "paper-i", group="lampion.ops")
    with pytest.raises(PluginError, match="no plug-in group"):
        loader.register(plugin(lampion_backend=lambda: Paper), "paper-i", group="lampion.opps")


def test_a_backend_that_uses_its_own_device_while_it_is_made(loader):
    loader.register(plugin(lampion_backend=lambda: loader.backend("paper-j")), "paper-j")
    with pytest.raises(PluginError, match="uses its own device while it is being made"):
        loader.backend("paper-j")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("v0_1", "0.1"), ("v0_1:v0_4", "0.1 to 0.4"), (" v1_12 : v2_0 ", "1.12 to 2.0")],
)
def test_api_ranges(text, shown):
    assert str(versions.parse(text)) == shown


@pytest.mark.parametrize("text", ["0.1", "v0.1", "v1", "", "v0_4:v0_1", "v0_1:", "v0_1-v0_2"])
def test_what_is_no_api_range(text):
    with pytest.raises(ValueError, match="API range"):
        versions.parse(text)


def test_ranges_meet(monkeypatch):
    monkeypatch.setattr(versions, "OLDEST", versions.ApiVersion(0, 3))
    monkeypatch.setattr(versions, "CURRENT", versions.ApiVersion(0, 5))
    verdicts = {
        "v0_1": "was written for plug-in API 0.1",
        "v0_2:v0_3": None,
        "v0_5": None,
        "v0_1:v1_0": None,
        "v0_6": "needs plug-in API 0.6",
    }
    for text, expected in verdicts.items():
        found = versions.refusal(versions.parse(text), "acme")
        assert (found is None) == (expected is None), text
        assert expected is None or expected in found[0]


def test_looking_at_plugins_does_not_import_pluggy():
    code = (
        "import sys, lampion.plugins as p; p.records(); p.backend_names();"
        "print('pluggy' in sys.modules, 'structlog' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False False\n", done.stderr


def test_kernels_are_collected_before_anyone_gets_the_backend():
    registry = []
    after = []
    loader = Loader(after)
    after.append(lambda: loader.load_kernels(registry))
    module = plugin(
        lampion_backend=lambda: Paper, lampion_kernels=lambda registry: registry.append("k")
    )
    loader.register(module, "paper-k")
    assert registry == []
    loader.backend("paper-k")
    assert registry == ["k"]

    def lampion_kernels(registry):
        raise ValueError("same priority")

    module = plugin(lampion_backend=lambda: Paper, lampion_kernels=lampion_kernels)
    loader.register(module, "paper-l")
    for _ in range(2):
        with pytest.raises(PluginError, match="in its hook lampion_kernels: ValueError"):
            loader.backend("paper-l")
    assert registry == ["k"]


def test_no_module_hides_a_function():
    """A module of the package under the name of one of its functions would hide it, if it was
    imported before the function was first used."""
    import pkgutil

    from lampion import plugins

    assert not {m.name for m in pkgutil.iter_modules(plugins.__path__)} & {*plugins.__all__}
