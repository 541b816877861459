"""The plug-in contract as strangers rely on it: a wheel of the oldest version that is served works,
the page that lists the contract is true, and what will go away is warned about."""

from __future__ import annotations

import re
import types
import warnings
from pathlib import Path

import pytest

from lampion.config import parse_toml
from lampion.plugins import api, versions
from lampion.plugins.loader import Loader
from lampion.plugins.versions import CURRENT, OLDEST, ApiVersion
from lampion.runtime import backend
from lampion.runtime.backend import Backend

HERE = Path(__file__).parent / "oldest_api"
ROOT = Path(__file__).parents[2]

PROGRAM = """
import numpy as np
import lampion as torch
from lampion import plugins
from lampion.explaining import explain

for group in ("lampion.backends", "lampion.ops", "lampion.cli"):
    for r in plugins.records(group):
        if r.distribution == "lampion-oldest":
            assert plugins.load(r).status == "loaded", r.reason
            assert str(r.api) == "OLDEST" and not r.deprecated
assert [d.name for d in plugins.devices("oldest")] == ["Oldest One", "Oldest Two"]

a = np.arange(12, dtype=np.float32).reshape(3, 4) / 7 - 0.5
x = torch.tensor(a, device="oldest", requires_grad=True)
y = torch.ops.oldest.swish(x, 2.0) + torch.ops.oldest.power(x, n=3) * torch.ops.oldest.normed(x)
y = y.sum() + torch.ops.oldest.range_of(x, 1).sum() + (torch.ops.oldest.corner(x) ** 2).sum()
y.backward()
z = torch.tensor(a, requires_grad=True)
w = torch.ops.oldest.swish(z, 2.0) + torch.ops.oldest.power(z, n=3) * torch.ops.oldest.normed(z)
w = w.sum() + torch.ops.oldest.range_of(z, 1).sum() + (torch.ops.oldest.corner(z) ** 2).sum()
w.backward()
np.testing.assert_allclose(x.grad.cpu().numpy(), z.grad.numpy(), rtol=2e-5, atol=1e-6)

told = explain(torch.mm, x.detach(), x.detach().t())
assert "oldest-blas" in told[-1].chosen, told
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
net.to("oldest")
optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
points = torch.rand(64, 2, device="oldest")
target = (points[:, :1] > points[:, 1:]).float()
losses = []
for _ in range(25):
    optimizer.zero_grad()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(net(points), target)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < 0.6 * losses[0], losses

u = x.detach().to("oldest:1")
assert str(u.device) == "oldest:1" and (u.cpu().numpy() == a).all()
assert x.detach().clone().view(-1)[3:].cpu().tolist() == a.ravel()[3:].tolist()
torch.oldest.synchronize()
assert torch.oldest.is_available() and torch.oldest.device_count() == 2 and x.is_oldest
try:
    torch.empty(1 << 42, device="oldest")
except torch.OutOfMemoryError as error:
    assert "too many" in str(error)
else:
    raise AssertionError("no error")
print("all is well")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder in which the wheel of the oldest contract is installed, built by pip."""
    import shutil
    import subprocess
    import sys

    pytest.importorskip("setuptools")
    source = tmp_path_factory.mktemp("source") / "lampion-oldest"
    shutil.copytree(HERE, source)
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps",
         "--no-build-isolation", "--target", str(target), str(source)],
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.mark.wheels
@pytest.mark.xdist_group("wheels")
def test_a_wheel_of_the_oldest_contract_runs(site, program):
    done = program(site, PROGRAM.replace("OLDEST", str(OLDEST)),
                   PYTHONWARNINGS="error::DeprecationWarning:lampion")
    assert (done.stdout, done.returncode) == ("all is well\n", 0), done.stdout + done.stderr
    said = program(site, ["oldest-say", "hello"])
    assert (said.stdout, said.returncode) == ("oldest says hello\n", 7), said.stderr


def test_that_wheel_is_of_the_oldest_contract():
    declared = parse_toml((HERE / "pyproject.toml").read_text(), HERE)
    (text,) = declared["project"]["entry-points"][versions.API_GROUP].values()
    assert versions.parse(text).last == OLDEST, "raising OLDEST takes a wheel written for it"
    source = "".join(p.read_text() for p in HERE.glob("*.py"))
    newer = [n for n, v in api.SINCE.items() if v > OLDEST]
    newer += [s.partition("(")[0] for s, v, *_ in api.hooks() if v > OLDEST]
    used = [n for n in newer if re.search(rf"\bdef {n.partition('.')[2] or n}\b|\b{n}\b", source)]
    assert not used, used


def test_that_wheel_has_all_of_its_contract():
    source = "".join(p.read_text() for p in HERE.glob("*.py"))
    for signature, since, *_ in api.hooks():
        if since <= OLDEST:
            assert f"def {signature.partition('(')[0]}(" in source
    for name, since in api.SINCE.items():
        method = name.partition(".")[2]
        if since <= OLDEST and method not in ("", "name", "program", "kernels"):
            assert f"def {method}(" in source, name


# ---------------------------------------------------------------- the list

def test_the_page_is_what_the_code_says():
    page = ROOT / "docs" / "plugin-api.md"
    assert page.read_text(encoding="utf-8") == api.page(), \
        "run: python -m lampion.plugins.api > docs/plugin-api.md"


def test_every_part_of_the_contract_has_a_version():
    methods = {f"Backend.{n}" for n in vars(Backend) if not n.startswith("_")}
    listed = {n for n in api.SINCE if "." in n}
    assert methods == listed
    assert all(hasattr(backend, n) for n in api.SINCE if "." not in n)
    assert all(OLDEST <= v <= CURRENT for v in api.SINCE.values())
    assert set(api.SINCE.values()) | {v for _, v, *_ in api.hooks()} == {
        ApiVersion(0, minor) for minor in range(1, CURRENT.minor + 1)}


# ---------------------------------------------------------------- deprecations

def test_what_is_deprecated_stays_for_one_minor_version():
    for name, d in api.DEPRECATED.items():
        assert d.since <= CURRENT < d.gone, f"{name}: the contract is {CURRENT}: take it out"
        assert d.gone >= ApiVersion(d.since.major, d.since.minor + 1), name
        assert name in api.SINCE or name in [s.partition("(")[0] for s, *_ in api.hooks()]


class Paper(Backend):
    def devices(self):
        return []

    def capabilities(self, index):
        return backend.Capabilities(frozenset())

    def allocate(self, nbytes, device):
        raise MemoryError

    copy_from_host = copy_to_host = allocate


class Old(Paper):
    def empty_cache(self):
        pass


@pytest.fixture
def plugin():
    def make(kind, name):
        module = types.ModuleType(f"plugin_{name}")

        def lampion_backend():
            return kind

        def lampion_config_schema():
            return {}

        for function in (lampion_backend, lampion_config_schema)[:2 if kind is Old else 1]:
            function.__module__ = module.__name__
            setattr(module, function.__name__, function)
        return module

    return make


def test_a_plugin_with_what_goes_away_works_and_is_warned_about(plugin, monkeypatch):
    monkeypatch.setattr(api, "DEPRECATED", {
        "lampion_config_schema": api.Deprecation(
            ApiVersion(0, 2), ApiVersion(0, 4), "write options"),
        "Backend.empty_cache": api.Deprecation(ApiVersion(0, 3), ApiVersion(0, 4), "write trim")})
    loader = Loader()
    with pytest.warns(api.PluginDeprecationWarning) as told:
        loader.register(plugin(Old, "old"), "old")
        loader.backend("old")
        loader.backend("old")
    assert sorted(str(w.message).partition(": ")[2] for w in told) == [
        "Backend.empty_cache is deprecated since plug-in API 0.3 and gone in 0.4: write trim",
        "lampion_config_schema is deprecated since plug-in API 0.2 and gone in 0.4: write options"]
    assert len(loader.record("old").as_dict()["deprecated"]) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader.register(plugin(Paper, "new"), "new")
        loader.backend("new")
    assert loader.record("new").deprecated == ()


def test_a_backend_is_asked_for_its_kernels_where_no_hook_offers_them(plugin):
    class Offering(Paper):
        def kernels(self):
            return [backend.KernelImpl("exp", "offering", lambda call: None, source="paper")]

    class Table(list):
        register_kernel = list.append

    table, after = Table(), []
    loader = Loader(after)
    after.append(lambda: loader.load_kernels(table))
    loader.register(plugin(Offering, "offering"), "offering")
    loader.backend("offering")
    after[0]()
    assert [k.source for k in table] == ["paper"]
