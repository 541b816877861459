"""`lampion.NAME` for devices: of a plug-in's hook, of one without it, and of what is not there."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types

import pytest

import lampion
from lampion import nn, plugins
from lampion.base.errors import PluginError
from lampion.runtime.backend import Backend, Capabilities, DeviceInfo, Storage


class Bytes(Backend):
    """A device that only holds bytes."""

    def devices(self):
        return [DeviceInfo("Bytes One", ""), DeviceInfo("Bytes Two", "")]

    def capabilities(self, index):
        return Capabilities(frozenset(lampion.base.dtype.ALL))

    def allocate(self, nbytes, device):
        return Storage(bytearray(nbytes), nbytes, device)

    def copy_from_host(self, data, storage):
        data = bytes(data)
        storage.handle[storage.offset:storage.offset + len(data)] = data

    def copy_to_host(self, storage, nbytes):
        return bytes(storage.handle[storage.offset:storage.offset + nbytes])

    def memory_stats(self, device):
        return {"allocated": 7, "peak": 9}


def module(**contents) -> types.ModuleType:
    made = types.ModuleType("namespace_plugin")
    for name, value in contents.items():
        if isinstance(value, types.FunctionType):
            value.__module__ = made.__name__
        setattr(made, name, value)
    return made


@pytest.fixture
def plugin():
    names = set()

    def register(name, **hooks):
        plugins.register(module(lampion_backend=hooks.pop("backend", lambda: Bytes), **hooks), name)
        names.add(name)

    yield register
    for name in names:
        plugins.unregister(name)


def test_a_hook_gives_the_module(plugin):
    space, part = types.ModuleType("paper_space"), types.ModuleType("paper_space.part")
    space.is_available, space.part, part.answer = lambda: True, part, 42
    plugin("paperone", lampion_namespace=lambda: space)
    assert lampion.paperone is space and lampion.paperone.is_available()
    assert importlib.import_module("lampion.paperone") is space
    assert importlib.import_module("lampion.paperone.part") is part
    from lampion.paperone.part import answer

    assert answer == 42 and space.__name__ == "paper_space" and space.__spec__ is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("lampion.paperone.is_available")
    plugins.unregister("paperone")
    with pytest.raises(AttributeError):
        _ = lampion.paperone
    plugin("paperone")  # the fixture takes it back
    assert lampion.paperone is not space


def test_a_hook_gives_the_switches_of_a_library(plugin):
    class Switches:
        fast, asked = False, 3

        @staticmethod
        def is_available():
            return True

        @staticmethod
        def version():
            return 12

    class Part:
        exact = True

    given = {"paperlib": Switches(), "paperlib.part": Part()}
    plugin("paperfour", lampion_switches=lambda: given)
    lib = lampion.backends.paperlib
    assert lib.is_available() and lib.version() == 12 and lib.fast is False and lib.asked == 3
    with lib.flags(fast=True, other=1):
        assert given["paperlib"].fast is True and lib.other == 1
    assert given["paperlib"].fast is False
    lib.part.exact = False
    assert given["paperlib.part"].exact is False and not lib.part.is_available()
    other = lampion.backends.paperlib_of_nobody
    assert not other.is_available() and other.version() is None
    other.fast = True
    assert other.fast is True and given["paperlib"].fast is False


def test_a_plugin_without_the_hook_has_a_namespace(plugin):
    plugin("papertwo")
    space = lampion.papertwo
    assert not space.is_initialized() and space.device_count() == 2 and space.is_available()
    assert space.get_device_name(1) == "Bytes Two" and space.current_device() == 0
    assert space.memory_allocated() == 7 and space.max_memory_allocated(1) == 9
    assert space.memory_reserved() == 0 and space.is_initialized()
    space.manual_seed_all(5)
    assert lampion.random.get_rng_state("papertwo:1").tolist()[0] == 5
    space.synchronize()
    space.empty_cache()
    with pytest.raises(AttributeError, match="its plug-in does not provide it"):
        _ = space.nonsense


def test_tensors_and_modules_get_methods_of_the_name(plugin):
    hosted = lampion.ones(2, 3)
    plugin("paperthree", lampion_tensor_attributes=lambda: {
        "__paper__": property(lambda self: self.meta.numel)})
    moved = hosted.to("paperthree")
    assert moved.is_paperthree and not hosted.is_paperthree and hosted.__paper__ == 6
    assert hosted.paperthree(1).device == lampion.device("paperthree", 1)
    assert hosted.paperthree().cpu().tolist() == hosted.tolist()
    model = nn.Linear(2, 2).paperthree()
    assert model.weight.is_paperthree and model.weight.device.index is None
    with pytest.raises(AttributeError, match="has no attribute 'paperless'"):
        model.paperless()


def test_an_attribute_that_tensors_have_is_refused(plugin):
    plugin("paperfour", lampion_tensor_attributes=lambda: {"sum": None})
    with pytest.raises(PluginError, match="attribute 'sum' already"):
        plugins.backend("paperfour")


def test_the_doctor_shows_a_backends_report(plugin, capsys):
    class Reports(Bytes):
        def report(self):
            return {"library": "1.2 at /somewhere"}

    class Breaks(Bytes):
        def report(self):
            raise OSError("no library")

    from lampion.cli import main

    plugin("paperseven", backend=lambda: Reports)
    plugin("papereight", backend=lambda: Breaks)
    assert main(["doctor", "paperseven"]) == 0
    assert "library: 1.2 at /somewhere" in capsys.readouterr().out
    assert main(["doctor", "papereight"]) == 1
    assert "in its report: OSError: no library" in capsys.readouterr().out


def test_a_device_that_fails_is_not_available(plugin):
    def broken():
        raise RuntimeError("no driver")

    plugin("paperfive", backend=broken)
    space = lampion.paperfive
    assert not space.is_available() and space.device_count() == 0 and space.memory_stats() == {}
    space.manual_seed_all(3)
    space.empty_cache()
    for needs in (space.synchronize, space.current_device, space.get_device_name):
        with pytest.raises(PluginError, match="no driver"):
            needs()
    with pytest.raises(RuntimeError, match="lampion.paperfive.Stream needs the device"):
        space.Stream()
    assert issubclass(space.OutOfMemoryError, RuntimeError)


def test_the_current_device_of_a_backend_names_it(plugin):
    class Chooses(Bytes):
        current = 1

    plugin("papersix", backend=lambda: Chooses)
    assert lampion.empty(2, device="papersix").device == lampion.device("papersix", 1)
    Chooses.current = 0
    assert lampion.empty(2, device="papersix").device == lampion.device("papersix", 0)
    assert lampion.empty(2, device="papersix:1").device == lampion.device("papersix", 1)
    for make in (lampion.empty_like, lambda x, device: lampion.empty(2, device=device)):
        for Chooses.current in (0, 1, 0):
            made = make(lampion.ones(2), device="papersix")
            assert made.device.index == Chooses.current
    with lampion.device("papersix:1") as d:
        assert lampion.empty(2).device is d
        with lampion.device("cpu"):
            assert lampion.empty(2).is_cpu
        assert lampion.empty(2).device is d
    assert lampion.empty(2).is_cpu
    with pytest.raises(RuntimeError, match=r"papersix:2 does not exist: backend 'papersix' has 2"):
        lampion.empty(2, device="papersix:2")


def test_what_the_meta_package_offers_may_be_asked_for(tmp_path):
    """A device that could be installed has a namespace that says no; anything else has none."""
    info = tmp_path / "lampion-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lampion\nVersion: 0.1.0\n"
        "Provides-Extra: blaster\nProvides-Extra: toys\n"
        "Requires-Dist: lampion-blaster[all]==0.1.0; extra == \"blaster\"\n"
        "Requires-Dist: lampion-core[toys]==0.1.0; extra == \"toys\"\n")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import lampion as torch
from lampion import nn
assert torch.blaster.is_available() is False and torch.blaster.device_count() == 0
torch.blaster.manual_seed_all(0)
from lampion.blaster import OutOfMemoryError
x = torch.ones(2)
assert x.is_blaster is False
for call in (x.blaster, nn.Linear(1, 1).blaster):
    try:
        call()
    except RuntimeError as error:
        assert 'pip install "lampion[blaster]"' in str(error), error
    else:
        raise AssertionError
assert not hasattr(torch, "toys") and not hasattr(x, "is_toys")
try:
    torch.blaster.amp
except AttributeError as error:
    assert "lampion[blaster]" in str(error), error
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


