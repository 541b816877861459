"""The CPU run time below storages: IR compiler, object cache, size classes and thread pool."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("llvmlite")

from lampion_cpu import jit, memory, pool

PACKAGE_PARENT = str(Path(jit.__file__).resolve().parents[1])
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

# counts[i] += 1 for each unit; lengths[lo] = hi - lo.
COUNT = """
define void @k(ptr %args, ptr %params, i64 %lo, i64 %hi) {
entry:
  %o = load ptr, ptr %args
  %lp = getelementptr ptr, ptr %args, i64 1
  %l = load ptr, ptr %lp
  %n = sub i64 %hi, %lo
  %at = getelementptr i64, ptr %l, i64 %lo
  store i64 %n, ptr %at
  br label %c
c:
  %i = phi i64 [ %lo, %entry ], [ %i1, %b ]
  %z = icmp slt i64 %i, %hi
  br i1 %z, label %b, label %x
b:
  %p = getelementptr i64, ptr %o, i64 %i
  %v = load i64, ptr %p
  %w = add i64 %v, 1
  store i64 %w, ptr %p
  %i1 = add i64 %i, 1
  br label %c
x:
  ret void
}
"""


def run_python(code: str, timeout: float = 120, **env: str) -> str:
    """Run `code` in a fresh interpreter; its standard output."""
    path = os.pathsep.join([PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": path} | env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- jit ---------------------------------------------------------------------------------------

TWICE = "define i64 @twice(i64 %x) {{ ; {tag}\n %y = add i64 %x, %x\n ret i64 %y }}"


def twice(address: int) -> int:
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(21)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMPION_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "_loaded", {})
    return tmp_path / "cpu-objects"


def test_compile_and_memory_dedupe(cache):
    text = TWICE.format(tag="dedupe")
    first = jit.compile_ir(text, ["twice"])
    before = jit.statistics()["from_memory"]
    assert jit.compile_ir(text, ["twice"]) == first
    assert jit.statistics()["from_memory"] == before + 1
    assert twice(first["twice"]) == 42


def test_symbols_reach_data_and_functions(cache):
    data = (ctypes.c_int64 * 2)(5, 7)
    callback = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(lambda x: x * 10)
    text = """
    @table = external global [2 x i64]
    declare i64 @back(i64)
    define i64 @k() {
      %p = getelementptr i64, ptr @table, i64 1
      %v = load i64, ptr %p
      %r = call i64 @back(i64 %v)
      ret i64 %r
    }
    """
    address = ctypes.cast(callback, ctypes.c_void_p).value
    symbols = {"table": ctypes.addressof(data), "back": address}
    code = jit.compile_ir(text, ["k"], symbols)["k"]
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code)() == 70
    other = (ctypes.c_int64 * 2)(5, 8)
    symbols["table"] = ctypes.addressof(other)
    code = jit.compile_ir(text, ["k"], symbols)["k"]
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code)() == 80


def test_bad_text_and_missing_symbol(cache):
    with pytest.raises(RuntimeError, match="expected"):
        jit.compile_ir("define i64 @k() { nonsense }", ["k"])
    text = (
        "declare void @nowhere_at_all()\ndefine void @k() { call void @nowhere_at_all()\nret void}"
    )
    with pytest.raises(RuntimeError, match="nowhere_at_all"):
        jit.compile_ir(text, ["k"])


def test_disk_cache_is_used_and_survives_damage(cache, monkeypatch):
    text = TWICE.format(tag="disk")
    jit.compile_ir(text, ["twice"])
    (entry,) = cache.glob("*.o")
    assert not list(cache.glob(".*"))

    def again():
        monkeypatch.setattr(jit, "_loaded", {})
        before = jit.statistics()
        assert twice(jit.compile_ir(text, ["twice"])["twice"]) == 42
        after = jit.statistics()
        return {key for key in after if after[key] != before[key]}

    assert again() == {"from_disk"}
    good = entry.read_bytes()
    for damaged in (b"", good[:20], good[:-1], good[:60] + b"\xff" + good[61:], b"X" + good[1:]):
        entry.write_bytes(damaged)
        assert again() == {"corrupt", "compiled", "written"}
        assert entry.read_bytes() == good


@pytest.mark.parametrize("where", ["", "/proc/nowhere", "FILE"])
def test_unusable_cache_directories_are_tolerated(where, tmp_path, monkeypatch):
    if where == "FILE":
        (tmp_path / "taken").write_text("")
        where = str(tmp_path / "taken")
    monkeypatch.setenv("LAMPION_CACHE_DIR", where)
    monkeypatch.setattr(jit, "_loaded", {})
    assert jit.cache_dir() is None
    assert twice(jit.compile_ir(TWICE.format(tag="nowhere"), ["twice"])["twice"]) == 42


@linux
def test_folder_writable_by_everybody_is_not_trusted(tmp_path, monkeypatch):
    folder = tmp_path / "cpu-objects"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("LAMPION_CACHE_DIR", str(tmp_path))
    assert jit.cache_dir() is None


def test_prune_keeps_the_newest(cache):
    cache.mkdir()
    for i in range(10):
        path = cache / f"{i}.o"
        path.write_bytes(bytes(100))
        os.utime(path, (i, i))
    jit._prune(cache, limit=2000)
    assert len(list(cache.iterdir())) == 10
    jit._prune(cache, limit=900)
    assert sorted(path.name for path in cache.iterdir()) == ["6.o", "7.o", "8.o", "9.o"]


def test_concurrent_processes_share_a_cache(tmp_path):
    code = """
    import ctypes
    from lampion_cpu import jit
    for i in range(12):
        text = "define i64 @f() { ret i64 %d }" % i
        assert ctypes.CFUNCTYPE(ctypes.c_int64)(jit.compile_ir(text, ["f"])["f"])() == i
    assert jit.statistics()["corrupt"] == 0
    """
    path = os.pathsep.join([PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "LAMPION_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    running = [subprocess.Popen(command, env=env) for _ in range(4)]
    assert [process.wait(120) for process in running] == [0] * 4
    files = [path.name for path in (tmp_path / "cpu-objects").iterdir()]
    assert len(files) == 12 and all(name.endswith(".o") for name in files)


def test_vector_bits(monkeypatch):
    widest = jit.host_vector_bits()
    assert widest in (128, 256, 512) and jit.host_cpu()
    monkeypatch.setenv("LAMPION_VECTOR_BITS", "128")
    assert jit.host_vector_bits() == 128
    monkeypatch.setenv("LAMPION_VECTOR_BITS", "1024")
    with pytest.raises(ValueError, match="1024"):
        jit.host_vector_bits()


# ---- memory ------------------------------------------------------------------------------------


def test_size_classes():
    sizes = memory.CLASS_BYTES
    assert all(size % memory.ALIGNMENT == 0 for size in sizes)
    edges = {n + d for n in sizes[:100] for d in (-1, 0, 1)}
    for nbytes in sorted(edges):
        index = memory.class_of(nbytes)
        assert sizes[index] >= nbytes and (index == 0 or sizes[index - 1] < nbytes)
    large = sizes[memory.FIRST_LARGE - 1 :]
    for smaller, larger in zip(large, large[1:]):
        assert (larger - smaller - 1) / larger <= 0.125


def test_cache_limit_variable(monkeypatch):
    monkeypatch.setenv("LAMPION_CPU_CACHE_BYTES", "12345")
    assert memory.default_cache_limit() == 12345
    monkeypatch.setenv("LAMPION_CPU_CACHE_BYTES", "lots")
    with pytest.raises(ValueError, match="lots"):
        memory.default_cache_limit()


# ---- pool --------------------------------------------------------------------------------------

POOL_SCRIPT = f'''
import ctypes, os, sys, threading
from lampion_cpu import jit, pool
fn = jit.compile_ir("""{COUNT}""", ["k"])["k"]

def check(units, grain, threads):
    counts = (ctypes.c_int64 * (units + 1))()
    lengths = (ctypes.c_int64 * (units + 1))()
    args = (ctypes.c_int64 * 2)(ctypes.addressof(counts), ctypes.addressof(lengths))
    pool.parallel_for(fn, ctypes.addressof(args), 0, units, grain)
    assert list(counts) == [1] * units + [0], (units, grain, threads)
    chunks = [n for n in lengths if n]
    assert sum(chunks) == units and len(chunks) <= max(1, threads), chunks
    if len(chunks) > 1:
        assert min(chunks) >= grain and max(chunks) - min(chunks) <= 1, chunks
    return len(chunks)
'''


@linux
@pytest.mark.parametrize("kind", ["gomp", "own", "serial"])
def test_pool_covers_every_unit_once(kind):
    if kind == "gomp" and pool.libgomp() is None:
        pytest.skip("libgomp is not installed")
    code = POOL_SCRIPT + textwrap.dedent("""
    assert pool.threading_kind() == os.environ["LAMPION_THREADING"]
    assert pool.get_num_threads() == (1 if pool.threading_kind() == "serial" else 3)
    for threads in (1, 2, 3, 4, 2):
        pool.set_num_threads(threads)
        threads = pool.get_num_threads()
        for units in (0, 1, 2, 3, 7, 64, 1000):
            for grain in (0, 1, 3, 500, 5000):
                used = check(units, grain, threads)
                assert used <= max(1, units // max(1, grain))
        assert check(1000, 1, threads) == threads
    for bad in (0, -1, 257):
        try:
            pool.set_num_threads(bad)
        except ValueError:
            continue
        raise AssertionError(bad)
    """)
    run_python(code, LAMPION_THREADING=kind, LAMPION_NUM_THREADS="3")


@linux
@pytest.mark.parametrize("kind", ["gomp", "own", "serial"])
def test_pool_after_fork(kind):
    if kind == "gomp" and pool.libgomp() is None:
        pytest.skip("libgomp is not installed")
    code = POOL_SCRIPT + textwrap.dedent("""
    import signal
    for _ in range(20):
        check(1000, 1, 2)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            assert pool.get_num_threads() == 1
            assert check(1000, 1, 1) == 1
            pool.set_num_threads(2)
            for _ in range(20):
                check(1000, 1, 2)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    check(1000, 1, 2)
    """)
    run_python(code, LAMPION_THREADING=kind, LAMPION_NUM_THREADS="2")


@linux
@pytest.mark.parametrize("kind", ["gomp", "own"])
def test_pool_from_several_python_threads(kind):
    if kind == "gomp" and pool.libgomp() is None:
        pytest.skip("libgomp is not installed")
    code = POOL_SCRIPT + textwrap.dedent("""
    failures = []
    def work():
        try:
            for i in range(150):
                check(100 + i, 1, 2)
        except BaseException as error:
            failures.append(error)
    running = [threading.Thread(target=work) for _ in range(4)]
    for thread in running: thread.start()
    for thread in running: thread.join()
    assert not failures, failures
    """)
    run_python(code, LAMPION_THREADING=kind, LAMPION_NUM_THREADS="2")


@linux
def test_loading_libgomp_leaves_the_environment_alone():
    code = """
    import os
    from lampion_cpu import pool
    assert pool.libgomp() is pool.libgomp()
    print(os.environ.get("GOMP_SPINCOUNT"))
    """
    assert run_python(code, GOMP_SPINCOUNT="7").strip() == "7"
    assert (
        run_python(
            "import os; del os.environ['GOMP_SPINCOUNT']\n" + textwrap.dedent(code),
            GOMP_SPINCOUNT="7",
        ).strip()
        == "None"
    )


def test_number_of_threads_from_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert pool.default_num_threads() == 5
    monkeypatch.setenv("LAMPION_NUM_THREADS", "3")
    assert pool.default_num_threads() == 3
    monkeypatch.setenv("LAMPION_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="many"):
        pool.default_num_threads()


def test_exports():
    for module in (jit, memory, pool):
        for name in module.__all__:
            assert hasattr(module, name), name
