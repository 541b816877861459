"""`torch` means lampion: in a program that `lampion run` starts, and after `compat.install()`.

Each test is a program in a process of its own, since the name `torch` lasts as long as a process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lampion.compat import surface


def run(tmp_path: Path, text: str, *words: str, settings: str = "", ok: bool = True) -> str:
    """What a program prints under `lampion run`; stderr too if it must fail."""
    program = tmp_path / "program.py"
    program.write_text(text)
    (tmp_path / "lampion.toml").write_text(settings)
    done = subprocess.run([sys.executable, "-m", "lampion", "run", str(program), *words],
                          capture_output=True, text=True, cwd=tmp_path, timeout=120,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done.stdout.strip() if ok else done.stderr


def test_a_program_trains(tmp_path):
    out = run(tmp_path, """
import sys
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import optim
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(1)
x = torch.randn(64, 5)
y = (x.sum(1) > 0).long()
net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
opt = optim.Adam(net.parameters(), lr=0.05)
for epoch in range(int(sys.argv[1])):
    for a, b in DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True):
        opt.zero_grad()
        loss = F.cross_entropy(net(a), b)
        loss.backward()
        opt.step()
print((net(x).argmax(1) == y).float().mean().item() > 0.9, sys.argv[1:])
print(type(x).__module__.partition(".")[0], __name__)
""", "12", "--lr=3")
    assert out == "True ['12', '--lr=3']\nlampion __main__"


def test_modules_and_classes_are_ours(tmp_path):
    out = run(tmp_path, """
import importlib.metadata, importlib.util
import lampion, torch, torch.nn, torch.utils.data.dataset
from torch.nn.parameter import Parameter
print(torch.Tensor is lampion.Tensor, torch.nn.Module is lampion.nn.Module)
print(Parameter is lampion.nn.Parameter, torch.float32 is lampion.float32)
print(torch.__version__, torch.__version__ >= "2.9", torch.__version__ < (3, 0))
print(importlib.metadata.version("torch"), importlib.util.find_spec("torch") is not None)
print(torch.nn.functional.relu is lampion.nn.functional.relu, torch.version.hip)
""")
    assert out.splitlines() == ["True True", "True True", "2.13.0 True True", "2.13.0 True",
                                "True None"]


def test_what_is_absent_says_so_when_used(tmp_path):
    out = run(tmp_path, """
import torch
from torch._C import FunctionSchema
from torch.package import PackageExporter as QConfig

class Mine(FunctionSchema):
    pass

print(isinstance(3, QConfig), isinstance(3, FunctionSchema))
for use in (lambda: FunctionSchema(), lambda: Mine(), lambda: QConfig.anything()):
    try:
        use()
    except NotImplementedError as error:
        print(error)
for module, name in ((torch, "no_such_thing"), (torch.nn, "Lineear")):
    try:
        getattr(module, name)
    except AttributeError as error:
        print(error)
try:
    import torch.no_such_module
except ModuleNotFoundError as error:
    print(error)
""").splitlines()
    assert out[0] == "False False"
    assert "torch._C.FunctionSchema is not in lampion" in out[1]
    assert "base of" in out[2] and "FunctionSchema" in out[2]
    assert "torch.package.PackageExporter.anything" in out[3]
    assert out[4:] == ["module 'torch' has no attribute 'no_such_thing'",
                       "module 'torch.nn' has no attribute 'Lineear'",
                       "No module named 'torch.no_such_module'"]


def test_device_names_of_programs_are_mapped_by_settings(tmp_path):
    text = """
import torch
d = torch.device("gpu9:0")
print(d, torch.zeros(2, device="gpu9").device, torch.ones(1).to("gpu9").device)
"""
    assert run(tmp_path, text, settings="[compat]\ngpu9 = 'cpu'\n") == "cpu:0 cpu cpu"
    assert "gpu9" in run(tmp_path, text, ok=False)


def test_the_program_is_found_and_its_errors_are_its_own(tmp_path):
    error = run(tmp_path, "import torch\ntorch.ones(2) @ torch.ones(3)\n", ok=False)
    first, second = error.splitlines()[:2]  # the traceback begins in the program
    assert first.startswith("Traceback") and "program.py" in second and "RuntimeError" in error
    assert "runpy" not in error and "SyntaxError" in run(tmp_path, "def f(:\n", ok=False)
    done = subprocess.run([sys.executable, "-m", "lampion", "run", "no-such.py"],
                          capture_output=True, text=True, timeout=60, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 2 and "no-such.py" in done.stderr


def test_modules_run_by_name(tmp_path):
    (tmp_path / "job.py").write_text(
        "import sys, torch\nprint(torch.ones(2).sum().item(), *sys.argv[1:])")
    done = subprocess.run([sys.executable, "-m", "lampion", "run", "-m", "job", "7"],
                          capture_output=True, text=True, timeout=60, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.stdout.split() == ["2.0", "7"], done.stderr


def test_install_refuses_where_pytorch_is_loaded(monkeypatch):
    from types import ModuleType

    from lampion import compat

    if compat.installed():
        pytest.skip("installed by another test of this process")
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    with pytest.raises(RuntimeError, match="imported already"):
        compat.install()
    assert not compat.installed()


def test_every_module_of_the_list_can_be_imported(tmp_path):
    out = run(tmp_path, """
import importlib
from lampion.compat import surface
for name in surface.modules():
    if name != "torch.Tensor":
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as e:  # as PyTorch's does without the package
            assert name == "torch.utils.tensorboard" and e.name in (None, "tensorboard"), e
            continue
        for attribute in surface.names(name):
            getattr(importlib.import_module(name), attribute)
print("all")
""")
    assert out == "all"
    assert len(surface.modules()) > 80


def test_devices_that_are_not_here_are_answered_truthfully(tmp_path):
    out = run(tmp_path, """
import torch
x = torch.ones(1)
print(x.is_mps, x.is_xpu, torch.xpu.is_available(), torch.xpu.device_count())
try:
    x.xpu()
except RuntimeError as error:
    print("xpu" in str(error))
""")
    assert out == "False False False 0\nTrue"


def test_spawned_processes_are_ours_too(tmp_path):
    out = run(tmp_path, """
import torch
import torch.multiprocessing as mp

def work(rank, x, queue):
    x[rank] += 1
    queue.put((rank, type(x).__module__.partition(".")[0]))

if __name__ == "__main__":
    for method in ("spawn", "forkserver"):
        x = torch.zeros(2).share_memory_()
        queue = mp.get_context(method).SimpleQueue()
        mp.start_processes(work, (x, queue), nprocs=2, start_method=method)
        print(x.tolist(), sorted(queue.get() for _ in range(2)))
""")
    line = "[1.0, 1.0] [(0, 'lampion'), (1, 'lampion')]"
    assert out.splitlines() == [line, line]


def test_what_packages_import_is_there(tmp_path):
    out = run(tmp_path, """
import torch
import torch._dynamo
import torch.distributed as dist
import torch.utils.model_zoo
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.fx import wrap
from torch.nn.attention import SDPBackend
from torch.types import Device, Number
from torch.utils.hooks import RemovableHandle

@torch._dynamo.disable
def double(x):
    return x * 2

parts = [torch.ones(2), torch.zeros(1, 3)]
flat = _flatten_dense_tensors(parts)
print(double(flat).tolist(), [p.shape == q.shape for p, q in
                              zip(_unflatten_dense_tensors(flat, parts), parts)])
print(torch._C.Generator is torch.Generator, torch.functional.einsum is torch.einsum)
print(torch.__config__.show().startswith("lampion"), dist.is_initialized())
""")
    assert out == "[2.0, 2.0, 0.0, 0.0, 0.0] [True, True]\nTrue True\nTrue False"


def test_a_decorator_that_is_missing_fails_when_it_is_used(tmp_path):
    (tmp_path / "package.py").write_text("""
import torch.export
from torch.utils.data.dataloader import _BaseDataLoaderIter

@torch.export.register_dataclass("x")
def exported():
    return 1

def call():
    return exported()
""")
    out = run(tmp_path, """
import torch
import package
print(isinstance(1, package._BaseDataLoaderIter), hasattr(torch.utils.data.dataloader, "_none"))
for use in (package.call, lambda: torch.export.register_dataclass("x")):
    try:
        use()
    except NotImplementedError as error:
        print("torch.export.register_dataclass" in str(error))
print(torch.ops.aten.add.Tensor(torch.ones(1), 1).item())
""")
    assert out == "False False\nTrue\nTrue\n2.0"


def test_packages_that_look_inside(tmp_path):
    out = run(tmp_path, """
import torch, torch.distributions, torch.hub
from torch.serialization import MAP_LOCATION
from torch._C._functorch import is_batchedtensor
from torch.distributed._functional_collectives import all_gather_tensor
seen = []
torch.vmap(lambda x: seen.append(is_batchedtensor(x)) or x)(torch.ones(2))
print(seen, is_batchedtensor(torch.ones(2)), torch.torch is torch)
print(sum(isinstance(v, type) for v in vars(torch.distributions).values()) > 40)
torch.onnx.register_custom_op_symbolic("a::b", None, 11)
print(torch._C._get_tracing_state(), torch.nn.Module.cuda.__name__, torch.hub.HASH_REGEX.pattern)
print(torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max, torch.quint8.itemsize)
try:
    torch.zeros(2, dtype=torch.float8_e5m2)
except TypeError as error:
    print("float16" in str(error))
""")
    assert out.splitlines() == [
        "[True] False True", "True", r"None cuda -([a-f0-9]*)\.",
        "torch.float8_e4m3fn 448.0 1", "True"]


def test_stand_ins_can_be_made_by_functions_that_imports_call(tmp_path):
    (tmp_path / "package.py").write_text("""
import torch
def register():
    return torch.package.GlobGroup("n")
kept = register()
""")
    out = run(tmp_path, """
import package
try:
    package.register()
except RuntimeError as error:
    print(error)
""")
    assert out.startswith("torch.package.GlobGroup is not in lampion yet")


def test_names_of_the_compiler(tmp_path):
    """What trainers and adapters ask of a compiled model."""
    assert run(tmp_path, """
import torch
import torch._dynamo

net = torch.compile(torch.nn.Linear(2, 2))
assert isinstance(net, torch._dynamo.OptimizedModule)
assert isinstance(net, torch._dynamo.eval_frame.OptimizedModule)
assert isinstance(net._orig_mod, torch.nn.Linear)
assert torch._dynamo.explain(torch.nn.Linear(2, 2))(torch.ones(1, 2)).graph_break_count == 0
print("fine")
""") == "fine"


def test_older_and_private_names(tmp_path):
    out = run(tmp_path, """
import torch
print(torch.cond(torch.tensor(True), lambda x: x + 1, lambda x: x - 1, (torch.ones(1),)))
print(torch.while_loop(lambda i: i < 3, lambda i: i + 1, (torch.tensor(0),)))
print(torch.get_autocast_cpu_dtype(), torch.is_autocast_cpu_enabled(), torch.has_mkl)
print(torch.float32, torch.sparse_csr, torch.Size([2]), "__builtins__" in dir(torch.distributions))
try:
    torch._assert(False, "must hold")
except AssertionError as error:
    print(error)
""")
    assert out.splitlines() == [
        "tensor([2.])", "(tensor(3),)", "torch.bfloat16 False False",
        "torch.float32 torch.sparse_csr torch.Size([2]) False", "must hold"]
