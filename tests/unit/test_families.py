"""`import lampion` loads no family of ops: each is loaded when an op of it is first asked for."""

import marshal
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lampion.ops import families


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a program that may write byte code, in a folder of its own; the index is there."""
    cache = tmp_path_factory.mktemp("bytecode")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPYCACHEPREFIX": str(cache), "LAMPION_CACHE_DIR": ""}

    def run(code, **more):
        done = subprocess.run([sys.executable, "-c", f"{HEAD}\n{code}"], capture_output=True,
                              text=True, timeout=120, env={**env, **more})
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    run("")
    return run


HEAD = """
import sys
import lampion
from lampion.ops import families
from lampion.ops.registry import REGISTRY, CompositeOp, ElementwiseOp, KernelOp

def loaded():
    return [f for f in families.FAMILIES if f"lampion.ops.{f}" in sys.modules]
"""


def test_importing_loads_what_every_program_needs_and_no_more(run):
    late = {f"lampion.{m}" for m in (
        "nn", "optim", "func", "utils", "linalg", "fft", "special", "signal", "testing", "cli",
        "transforms", "serialization", "printing", "explaining", "runtime.lowering",
        "runtime.fallback", "ir.kernel", "autograd.functional", "autograd.forward_ad",
        "autograd.graph", "autograd.function", "autograd.anomaly")}
    assert not run("print(*loaded())")
    assert not late & set(run("print(*sys.modules)"))


def test_looking_around_loads_nothing(run):
    assert run("""
assert {"softmax", "relu_", "nn", "save", "fallbacks"} <= set(dir(lampion))
assert {"digamma", "digamma_", "__add__"} <= set(dir(lampion.Tensor))
assert {"svd", "inv"} <= set(dir(lampion.linalg)) and "zeta" in dir(lampion.special)
assert "add" in REGISTRY and len(REGISTRY) > 700 and REGISTRY.get("add").method
assert not hasattr(lampion, "no_such_op") and not hasattr(lampion.Tensor, "no_such_op")
assert str(REGISTRY["digamma"]) == "<op digamma>"
print(len(loaded()))
""") == ["0"]


def test_each_way_to_an_op_loads_its_family(run):
    ways = {"lampion.digamma": "special", "lampion.Tensor.digamma": "special",
            "lampion.special.zeta": "special", "lampion.linalg.svd": "linalg_eigen",
            "lampion.fft.rfft": "fourier", "lampion.nn.functional.softplus": "activation",
            "REGISTRY['cumsum'].params": "scan", "lampion.ops.pool.__doc__": "pool",
            "REGISTRY['sqrt'].doc": "unary"}
    for way, family in ways.items():
        got = run(f"{way}\nprint(*loaded())")
        assert family in got and len(got) < 12, (way, got)


def test_what_waits_is_the_op_before_and_after(run):
    run("""
op = REGISTRY["erf"]
assert isinstance(op, ElementwiseOp) and isinstance(op, families.Awaited)
assert op.name == op.qualname == "erf" and op.kind == "elementwise" and op.method
assert not isinstance(op, KernelOp) and not loaded()
assert op.params[0].name == "input"  # its family is loaded now
assert REGISTRY["erf"] is op and type(op) is ElementwiseOp and lampion.erf is op.fn
op = REGISTRY["digamma"]
op.plans = {}  # nor is what is written to it lost
assert type(op) is ElementwiseOp and op.plans == {} and op.promote == "float"
import copy
assert type(copy.copy(REGISTRY["cumsum"])) is KernelOp
""")


FACES = """
for op in REGISTRY.values():
    print(str([getattr(op, part) for part in families.FACE]).replace(" ", ""))
"""


def test_the_index_says_what_the_families_declare(run):
    index = Path(*run("print(next(families._places())[0])"))
    told = run(FACES + "assert not loaded()")
    kept = index.read_bytes()
    index.unlink()
    assert told == run(FACES + "assert len(loaded()) == len(families.FAMILIES)")
    assert index.read_bytes() == kept  # that import has written it again


def test_every_op_is_declared_by_the_module_it_waits_for(run):
    run("""
waiting = [(op, op.module) for op in REGISTRY.values() if isinstance(op, families.Awaited)]
assert len(waiting) > 700
for op, module in waiting:
    assert op.params is not None and not isinstance(op, families.Awaited)
    assert op.module == module and op.scope["__name__"] == module
assert not {f"lampion.ops.{f}" for f in families.FAMILIES} - {module for _, module in waiting}
""")


@pytest.mark.parametrize("spoilt", [b"", b"no index", marshal.dumps((["another stamp"], []))])
def test_an_index_that_is_not_good_is_replaced(run, spoilt):
    index = Path(*run("print(next(families._places())[0])"))
    kept = index.read_bytes()
    index.write_bytes(spoilt)
    assert run("print(len(loaded()))", PYTHONDONTWRITEBYTECODE="1") == [str(len(families.FAMILIES))]
    assert index.read_bytes() == spoilt
    everything, count = run("print(len(loaded()), len(families.FAMILIES))")
    assert everything == count and index.read_bytes() == kept
    assert run("print(len(loaded()))") == ["0"]


def test_the_index_is_in_the_cache_directory_where_no_byte_code_is_written(run, tmp_path):
    beside = Path(*run("print(next(families._places())[0])"))
    kept = beside.read_bytes()
    beside.unlink()
    try:
        count = "print(len(loaded()))"
        here = {"PYTHONDONTWRITEBYTECODE": "1", "LAMPION_CACHE_DIR": str(tmp_path / "cache")}
        everything = [str(len(families.FAMILIES))]
        assert run(count, **here) == everything and run(count, **here) == ["0"]
        (index,) = (tmp_path / "cache").iterdir()
        assert not beside.exists() and marshal.loads(index.read_bytes()) == marshal.loads(kept)
        if os.name == "posix":  # what others may write is not read, but replaced
            index.chmod(0o666)
            assert run(count, **here) == everything and run(count, **here) == ["0"]
            assert not index.stat().st_mode & 0o022
        nowhere = {"PYTHONDONTWRITEBYTECODE": "1", "LAMPION_CACHE_DIR": ""}
        assert run(count, **nowhere) == run(count, **nowhere) == everything
    finally:
        beside.write_bytes(kept)


def test_the_index_depends_on_every_source():
    sources = list(Path(families.__file__).parent.glob("*.py"))
    stamp = {(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sources}
    assert len(sources) > len(families.FAMILIES) and stamp <= set(families._stamp()[1])


def test_a_family_loads_in_a_namespace_and_in_threads(run):
    run("""
from threading import Barrier, Thread
from lampion.ops.registry import composite, namespace

with namespace("acme"):
    assert "digamma" in REGISTRY and lampion.digamma(lampion.ones(1)).item() < 0

    @composite
    def twice(input):
        return input + input

assert "acme::digamma" not in REGISTRY and lampion.ops.acme.twice(lampion.ones(1)).item() == 2

start, got = Barrier(8), []
def work():
    start.wait()
    got.append(lampion.linalg.svd.__name__ + lampion.Tensor.cumsum.__name__)

threads = [Thread(target=work) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
assert got == ["linalg_svdcumsum"] * 8
""")


def test_an_interrupted_import_can_be_repeated(run):
    run("""
from lampion.ops import registry

declare, count = registry.families.become, [0]
def interrupted(known, op):
    count[0] += 1
    if count[0] == 5:
        raise KeyboardInterrupt
    declare(known, op)

registry.families.become = interrupted
try:
    lampion.hardshrink
except KeyboardInterrupt:
    pass
assert count == [5]
registry.families.become = declare
assert lampion.hardshrink(lampion.ones(1)).item() == 1
assert all(op.params is not None for op in REGISTRY.values())
""")


def test_names_that_are_taken(run):
    run("""
from lampion.ops.registry import composite

for name in ("digamma", "digamma"):  # before its family is loaded, and then
    try:
        composite(lambda input: input, name=name)
    except ValueError as e:
        assert str(e) == "an op called 'digamma' is already registered"
    else:
        raise AssertionError
    lampion.digamma
""")
