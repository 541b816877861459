"""Storages and programs of the CPU run time.

Everything is tested twice by the same tests: on the native type and on its pure-Python twin.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("llvmlite")

from lampion_cpu import jit, memory, native, pool, portable, program
from lampion_cpu.program import Step, make_program

PACKAGE_PARENT = str(Path(jit.__file__).resolve().parents[1])
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

# out[i] = a[i] * s + k over float32, with the scalars a double and an int64.
AXPY = """
define void @k(ptr %args, ptr %params, i64 %lo, i64 %hi) {
entry:
  %o = load ptr, ptr %args
  %ap = getelementptr ptr, ptr %args, i64 1
  %a = load ptr, ptr %ap
  %sp = getelementptr double, ptr %args, i64 2
  %s = load double, ptr %sp
  %kp = getelementptr i64, ptr %args, i64 3
  %ki = load i64, ptr %kp
  %kd = sitofp i64 %ki to double
  br label %c
c:
  %i = phi i64 [ %lo, %entry ], [ %i1, %b ]
  %z = icmp slt i64 %i, %hi
  br i1 %z, label %b, label %x
b:
  %p = getelementptr float, ptr %a, i64 %i
  %v = load float, ptr %p
  %d = fpext float %v to double
  %m = fmul double %d, %s
  %n = fadd double %m, %kd
  %f = fptrunc double %n to float
  %q = getelementptr float, ptr %o, i64 %i
  store float %f, ptr %q
  %i1 = add i64 %i, 1
  br label %c
x:
  ret void
}
"""

# out[i] = a[i] + b[i] + params[0] over int64, counting in slot 3 how long each chunk was.
ADD = """
define void @k(ptr %args, ptr %params, i64 %lo, i64 %hi) {
entry:
  %o = load ptr, ptr %args
  %ap = getelementptr ptr, ptr %args, i64 1
  %a = load ptr, ptr %ap
  %bp = getelementptr ptr, ptr %args, i64 2
  %b = load ptr, ptr %bp
  %k = load i64, ptr %params
  br label %c
c:
  %i = phi i64 [ %lo, %entry ], [ %i1, %body ]
  %z = icmp slt i64 %i, %hi
  br i1 %z, label %body, label %x
body:
  %p = getelementptr i64, ptr %a, i64 %i
  %v = load i64, ptr %p
  %q = getelementptr i64, ptr %b, i64 %i
  %w = load i64, ptr %q
  %s = add i64 %v, %w
  %t = add i64 %s, %k
  %r = getelementptr i64, ptr %o, i64 %i
  store i64 %t, ptr %r
  %i1 = add i64 %i, 1
  br label %c
x:
  ret void
}
"""


def kernel(text: str) -> int:
    return jit.compile_ir(text, ["k"])["k"]


@pytest.fixture(params=["native", "portable"])
def cpu(request, monkeypatch):
    """The storage functions and `make_program` of one implementation."""
    if request.param == "native":
        if native.native is None:
            pytest.skip(f"no native storage: {native.native_refusal()}")
        chosen = native.native
        made = SimpleNamespace(storage=chosen.type, buffer=memoryview, name="native")
    else:
        monkeypatch.setattr(native, "native", None)
        chosen = portable
        made = SimpleNamespace(
            storage=portable.PyStorage, buffer=portable.host_buffer, name="portable"
        )
    for name in ("empty", "wrap", "empty_cache", "stats", "reset_peak", "set_cache_limit"):
        setattr(made, name, getattr(chosen, name))
    made.make_program = make_program
    return made


def write(cpu, storage, values, letter="f"):
    data = struct.pack(f"<{len(values)}{letter}", *values)
    cpu.buffer(storage)[: len(data)] = data


def read(cpu, storage, count, letter="f"):
    size = struct.calcsize(letter) * count
    return list(struct.unpack(f"<{count}{letter}", bytes(cpu.buffer(storage)[:size])))


def filled(cpu, values, letter="f"):
    made = cpu.empty(struct.calcsize(letter) * len(values))
    write(cpu, made, values, letter)
    return made


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


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- storage -----------------------------------------------------------------------------------


def test_attributes_of_a_new_storage(cpu):
    for nbytes in (0, 1, 63, 64, 65, 128, 129, 4096, 1 << 20, (1 << 20) + 1, 5 << 20):
        made = cpu.empty(nbytes)
        assert type(made) is cpu.storage
        assert (made.nbytes, made.offset, made.version, made.epoch) == (nbytes, 0, 0, 0)
        assert made.base is made and made.writer is None
        assert made.ptr and made.ptr % 64 == 0
        if nbytes >= 2 << 20:
            assert made.ptr % (2 << 20) == 0
        ctypes.memset(made.ptr, 7, nbytes)
        assert str(nbytes) in repr(made)


def test_storages_do_not_overlap(cpu):
    for nbytes in (1, 64, 100, 5000, 1 << 20, 3 << 20):
        made = [cpu.empty(nbytes) for _ in range(20)]
        starts = sorted(storage.ptr for storage in made)
        assert all(b - a >= nbytes for a, b in zip(starts, starts[1:]))


def test_a_freed_block_is_reused_and_reset(cpu):
    made = cpu.empty(1000)
    made.version, made.epoch, made.writer = 3, 4, "me"
    address = made.ptr
    del made
    again = cpu.empty(900)
    assert again.ptr == address and again.nbytes == 900
    assert (again.version, again.epoch, again.writer) == (0, 0, None)


def test_bad_sizes(cpu):
    with pytest.raises(ValueError, match="negative"):
        cpu.empty(-1)
    for wrong in (1.5, "8", None):
        with pytest.raises(TypeError):
            cpu.empty(wrong)
    with pytest.raises(OverflowError):
        cpu.empty(1 << 70)
    for huge in (1 << 43, 1 << 50, (1 << 63) - 1):
        with pytest.raises(MemoryError, match="cannot allocate") as caught:
            cpu.empty(huge)
        assert isinstance(caught.value, RuntimeError) and "TiB" in str(caught.value)
    cpu.empty(True)  # an int, like any other


def test_out_of_memory_names_sizes(cpu, monkeypatch):
    held = cpu.empty(1 << 20)
    monkeypatch.setattr(memory, "map_pages", lambda nbytes: 0)
    cpu.empty_cache()
    with pytest.raises(memory.OutOfMemoryError, match=r"cannot allocate 40\.00 MiB: .* in use"):
        cpu.empty(40 << 20)
    assert held.nbytes == 1 << 20


def test_views(cpu):
    made = cpu.empty(1000)
    view = made.view(40)
    assert type(view) is cpu.storage and view.base is made
    assert (view.ptr, view.nbytes, view.offset) == (made.ptr + 40, 960, 40)
    nested = view.view(60)
    assert nested.base is made and nested.offset == 100 and nested.nbytes == 900
    assert nested.view(-100).ptr == made.ptr
    assert made.view(1000).nbytes == 0
    for base, offset in ((made, -1), (made, 1001), (view, -41), (view, 961)):
        with pytest.raises(IndexError, match="leaves its storage"):
            base.view(offset)
    with pytest.raises(TypeError):
        made.view("1")
    with pytest.raises((OverflowError, IndexError)):
        made.view(1 << 80)


def test_a_view_keeps_its_base_alive(cpu):
    made = cpu.empty(64)
    write(cpu, made, [1.0] * 16)
    watch = weakref.ref(made)
    view = made.view(8)
    del made
    gc.collect()
    assert watch() is view.base and read(cpu, view, 14) == [1.0] * 14
    del view
    assert watch() is None


def test_versions_are_counted_on_the_base(cpu):
    made = cpu.empty(64)
    view = made.view(8)
    view.bump()
    made.bump()
    assert made.version == 2
    view.base.version += 5
    view.base.epoch = 9
    assert (made.version, made.epoch) == (7, 9)


def test_writer_is_a_plain_reference(cpu):
    class Writer:
        pass

    made, writer = cpu.empty(8), Writer()
    watch = weakref.ref(writer)
    made.writer = writer
    del writer
    assert made.writer is watch()
    made.writer = None
    assert watch() is None
    made.writer = writer = Writer()
    count = sys.getrefcount(writer)
    del made
    assert sys.getrefcount(writer) == count - 1


def test_wrap_keeps_its_owner(cpu):
    owner = ctypes.create_string_buffer(b"hello world", 16)
    count = sys.getrefcount(owner)
    made = cpu.wrap(ctypes.addressof(owner), 16, owner)
    assert sys.getrefcount(owner) == count + 1
    assert made.base is made and made.offset == 0 and made.nbytes == 16
    view = made.view(6)
    del made
    assert bytes(cpu.buffer(view)[:5]) == b"world" and view.base.nbytes == 16
    del view
    assert sys.getrefcount(owner) == count
    for wrong in ((1, 2), ("x", 1, None), (1, None, None)):
        with pytest.raises(TypeError):
            cpu.wrap(*wrong)
    with pytest.raises(ValueError, match="negative"):
        cpu.wrap(1, -1, None)


def test_storages_are_made_by_the_allocator_only(cpu):
    with pytest.raises(TypeError):
        cpu.storage()
    with pytest.raises(AttributeError):
        cpu.empty(8).colour = 1


def test_weak_references(cpu):
    fired = []
    for _ in range(3):
        made = cpu.empty(8)
        watch = weakref.ref(made, fired.append)
        assert watch() is made
        del made
        assert watch() is None
    assert len(fired) == 3
    table = weakref.WeakKeyDictionary()
    made = cpu.empty(8)
    table[made] = 1
    del made
    assert not table


def test_buffer_keeps_the_storage(cpu):
    made = cpu.empty(32)
    watch = weakref.ref(made)
    view = cpu.buffer(made)
    assert view.nbytes == 32 and not view.readonly
    del made
    view[:3] = b"abc"
    assert watch() is not None and bytes(view[:3]) == b"abc"
    numpy = pytest.importorskip("numpy")
    array = numpy.frombuffer(view, numpy.float32)
    del view
    array[:] = 2
    assert watch() is not None
    del array
    assert watch() is None


def test_statistics(cpu):
    cpu.empty_cache()
    gc.collect()
    before = cpu.stats()
    a, b = cpu.empty(100), cpu.empty(3 << 20)
    now = cpu.stats()
    assert now["allocated"] - before["allocated"] == 128 + (3 << 20)
    assert now["reserved"] >= now["allocated"] and now["peak"] >= now["allocated"]
    del b
    assert cpu.stats()["allocated"] - before["allocated"] == 128
    cpu.reset_peak()
    assert cpu.stats()["peak"] == cpu.stats()["allocated"]
    del a
    cpu.empty_cache()
    assert cpu.stats()["allocated"] == before["allocated"]


def test_empty_cache_returns_large_blocks(cpu):
    cpu.empty_cache()
    before = cpu.stats()["reserved"]
    made = cpu.empty(20 << 20)
    assert cpu.stats()["reserved"] == before + (20 << 20)
    del made
    assert cpu.stats()["reserved"] == before + (20 << 20)
    cpu.empty_cache()
    assert cpu.stats()["reserved"] == before


def test_cache_limit(cpu):
    cpu.empty_cache()
    before = cpu.stats()
    free = before["reserved"] - before["allocated"]
    try:
        cpu.set_cache_limit(free + (10 << 20))
        made = [cpu.empty(4 << 20) for _ in range(5)]
        assert cpu.stats()["reserved"] == before["reserved"] + (20 << 20)
        del made
        assert cpu.stats()["reserved"] == before["reserved"] + (8 << 20)
        cpu.set_cache_limit(0)
        assert cpu.stats()["reserved"] == before["reserved"]
    finally:
        cpu.set_cache_limit(memory.default_cache_limit())


@linux
def test_allocation_does_not_leak(cpu):
    def churn(count):
        for i in range(count):
            made = cpu.empty(i * 37 % 5000)
            made.view(i * 37 % 5000).writer = made.ptr
            cpu.wrap(made.ptr, 1, made)

    churn(5000)
    before, stats = resident_bytes(), cpu.stats()["allocated"]
    churn(300_000 if cpu.name == "native" else 30_000)
    assert resident_bytes() - before < 4 << 20
    assert cpu.stats()["allocated"] == stats


def test_a_finaliser_may_allocate_and_raise(cpu):
    class Noisy:
        def __del__(self):
            cpu.empty(100)
            cpu.empty(1 << 21)

    for _ in range(50):
        made = cpu.empty(1 << 21)
        made.writer = Noisy()
        try:
            raise KeyError("kept")
        except KeyError as error:
            del made
            assert error.args == ("kept",)


def test_refusals(monkeypatch):
    monkeypatch.setenv("LAMPION_NATIVE", "0")
    assert native.native_refusal() == "LAMPION_NATIVE=0"
    monkeypatch.delenv("LAMPION_NATIVE")
    monkeypatch.setattr(native.platform, "python_implementation", lambda: "PyPy")
    assert "PyPy" in native.native_refusal()


def test_a_failed_self_test_falls_back_and_says_so(monkeypatch, caplog):
    if native.native is None:
        pytest.skip("no native storage")

    def broken(_):
        raise AssertionError("views are off")

    monkeypatch.setattr(native, "_self_test", broken)
    assert native._start() is None
    assert "the native CPU storage is not used: AssertionError: views are off" in caplog.text


def test_the_twin_is_chosen_when_asked():
    out = run_python(
        """
        from lampion_cpu import native, program
        assert not native.is_native() and native.Storage is native.PyStorage
        assert program.make_program((), "s", (8, 8)).launch(native.empty(4))[1].nbytes == 8
        assert bytes(native.host_buffer(native.wrap(0, 0, None))) == b""
        print("twin")
        """,
        LAMPION_NATIVE="0",
    )
    assert out.strip() == "twin"


# ---- programs ----------------------------------------------------------------------------------


def add_program(cpu, count, constant=0, **options):
    step = Step(kernel(ADD), (constant,), (0, 1, 2), count, count)
    return cpu.make_program([step], "ss", (8 * count,), **options)


def test_launch_and_into(cpu):
    made = add_program(cpu, 4, constant=-5)
    a, b = filled(cpu, [1, 2, 3, 4], "q"), filled(cpu, [10, 20, 30, 40], "q")
    out = made.launch(a, b)
    assert type(out) is cpu.storage and out.nbytes == 32 and out.base is out
    assert read(cpu, out, 4, "q") == [6, 17, 28, 39]
    assert made.into(out, out, b) is None
    assert read(cpu, out, 4, "q") == [11, 32, 53, 74]
    wide = cpu.empty(100)
    made.into(wide.view(40), a, b)
    assert read(cpu, wide.view(40), 4, "q") == [6, 17, 28, 39]


@pytest.mark.parametrize("scratch", [(), (64,)])
def test_scalars(cpu, scratch):
    """One program for the unrolled entry point, one for the general one."""
    step = Step(kernel(AXPY), (), (0, 1, 2, 3), 3, 3)
    made = cpu.make_program([step], "sfi", (12,), scratch)
    a, out = filled(cpu, [1.0, 2.0, 3.0]), cpu.empty(12)

    def both(s, k):
        made.into(out, a, s, k)
        first = read(cpu, made.launch(a, s, k), 3)
        assert first == read(cpu, out, 3)
        return first

    assert both(2.5, 1) == [3.5, 6.0, 8.5]
    assert both(-1, True) == [0.0, -1.0, -2.0]
    assert both(-1.0, -1) == [-2.0, -3.0, -4.0]
    assert both(True, -(1 << 63)) == [-float(1 << 63)] * 3
    assert both(0, (1 << 64) - 7) == [-7.0] * 3
    assert both(0, 1 << 63) == [-float(1 << 63)] * 3
    for bad in (1 << 64, -(1 << 63) - 1):
        with pytest.raises(OverflowError):
            made.launch(a, 1.0, bad)
    with pytest.raises(OverflowError):
        made.launch(a, 1 << 2000, 1)
    for bad in ("1", None, [1], 1.0):
        with pytest.raises(TypeError):
            made.launch(a, 1.0, bad)
    for bad in ("1", None, [1], a, 1j):
        with pytest.raises(TypeError):
            made.launch(a, bad, 1)
    assert both(1.0, 0) == [1.0, 2.0, 3.0]


class Raises:
    def __float__(self):
        raise KeyError("float")

    def __index__(self):
        raise KeyError("index")


@pytest.mark.parametrize("scratch", [(), (64,)])
def test_conversion_errors_propagate(cpu, scratch):
    step = Step(kernel(AXPY), (), (0, 1, 2, 3), 3, 3)
    made = cpu.make_program([step], "sfi", (12,), scratch)
    a = filled(cpu, [1.0, 2.0, 3.0])
    before, count = cpu.stats()["allocated"], sys.getrefcount(a)
    with pytest.raises(KeyError, match="float"):
        made.launch(a, Raises(), 1)
    with pytest.raises(KeyError, match="index"):
        made.launch(a, 1.0, Raises())
    assert cpu.stats()["allocated"] == before and sys.getrefcount(a) == count


@pytest.mark.parametrize("scratch", [(), (64,)])
def test_wrong_arguments(cpu, scratch):
    step = Step(kernel(ADD), (0,), (0, 1, 2), 4, 4)
    made = cpu.make_program([step], "ss", (32,), scratch)
    a = filled(cpu, [1, 2, 3, 4], "q")
    for wrong in ((), (a,), (a, a, a)):
        with pytest.raises(TypeError, match=f"takes 2 arguments, {len(wrong)} were given"):
            made.launch(*wrong)
        with pytest.raises(TypeError, match=f"takes 3 arguments, {len(wrong) + 1} were given"):
            made.into(*((*wrong, a) if len(wrong) < 2 else (a,) * 4))
    for wrong in (None, 1, "s", object(), a.ptr, cpu.storage):
        for position in range(3):
            arguments = [a, a, a]
            arguments[position] = wrong
            with pytest.raises(TypeError, match="expected a CPU storage"):
                made.into(*arguments)
            with pytest.raises(TypeError, match="expected a CPU storage"):
                made.launch(*(arguments[1:] if position else arguments[:2]))
    with pytest.raises(TypeError):
        made.launch(a, b=a)
    with pytest.raises(ValueError, match="an output of 32 bytes does not fit a storage of 31"):
        made.into(cpu.empty(31), a, a)


def test_several_steps_outputs_and_scratch(cpu):
    fn = kernel(ADD)
    # t = a + b + 1; x = t + a; y = x + t
    steps = [
        Step(fn, (1,), (4, 2, 3), 4, 4),
        Step(fn, (0,), (0, 4, 2), 4, 4),
        Step(fn, (0,), (1, 0, 4), 4, 4),
    ]
    made = cpu.make_program(steps, "ss", (32, 32), (32,))
    a, b = filled(cpu, [1, 2, 3, 4], "q"), filled(cpu, [10, 20, 30, 40], "q")
    before = cpu.stats()["allocated"]
    x, y = made.launch(a, b)
    assert cpu.stats()["allocated"] == before + 2 * 64
    assert read(cpu, x, 4, "q") == [13, 25, 37, 49]
    assert read(cpu, y, 4, "q") == [25, 48, 71, 94]
    p, q = cpu.empty(32), cpu.empty(32)
    assert made.into(p, q, a, b) is None
    assert read(cpu, p, 4, "q") == [13, 25, 37, 49] and read(cpu, q, 4, "q") == [25, 48, 71, 94]
    assert "3 steps" in repr(made)


def test_program_without_outputs_or_steps(cpu):
    a = filled(cpu, [1, 2, 3, 4], "q")
    step = Step(kernel(ADD), (1,), (0, 0, 0), 4, 4)
    assert cpu.make_program([step], "s", ()).launch(a) is None
    assert read(cpu, a, 4, "q") == [3, 5, 7, 9]
    assert cpu.make_program([], "", (0,)).launch().nbytes == 0
    assert cpu.make_program([Step(kernel(ADD), (1,), (0, 0, 0), 0, 1)], "", (0,)).launch().ptr


def test_large_params_and_many_inputs(cpu):
    made = add_program(cpu, 4, constant=(1 << 64) - 1)
    a = filled(cpu, [1, 2, 3, 4], "q")
    assert read(cpu, made.launch(a, a), 4, "q") == [1, 3, 5, 7]
    with pytest.raises(OverflowError):
        add_program(cpu, 4, constant=1 << 64).launch(a, a)
    step = Step(kernel(ADD), (0,), (0, 1, 20), 4, 4)
    wide = cpu.make_program([step], "s" * 20, (32,))
    assert read(cpu, wide.launch(*[a] * 20), 4, "q") == [2, 4, 6, 8]


def test_bad_programs():
    fn = kernel(ADD)
    for arguments in (
        ([Step(fn, (), (0, 2), 1, 1)], "s", (8,)),
        ([Step(fn, (), (-1,), 1, 1)], "s", (8,)),
        ([Step(0, (), (0,), 1, 1)], "s", (8,)),
        ([Step(fn, (), (0,), -1, 1)], "s", (8,)),
        ([], "sx", (8,)),
        ([], "s", (-8,)),
        ([], "s" * 40000, (8,)),
    ):
        with pytest.raises(ValueError):
            make_program(*arguments)


@pytest.mark.parametrize("nogil", [None, True, False])
@pytest.mark.parametrize("scratch", [(), (64,)])
def test_large_programs_use_the_pool(cpu, nogil, scratch):
    count = 200_000
    step = Step(kernel(ADD), (1,), (0, 1, 2), count, 1000)
    made = cpu.make_program([step], "ss", (8 * count,), scratch, nogil)
    a = filled(cpu, range(count), "q")
    before = pool.get_num_threads()
    try:
        for threads in (1, 2, 3):
            pool.set_num_threads(threads)
            out = made.launch(a, a)
            assert read(cpu, out, count, "q") == [2 * i + 1 for i in range(count)]
    finally:
        pool.set_num_threads(before)


def test_failed_allocation_undoes_the_rest(cpu, monkeypatch):
    made = cpu.make_program([], "s", (100, 200, 1 << 42), (50,))
    a = cpu.empty(8)
    before, count = cpu.stats()["allocated"], sys.getrefcount(a)
    for _ in range(10):
        with pytest.raises(MemoryError, match="4.00 TiB"):
            made.launch(a)
    assert cpu.stats()["allocated"] == before and sys.getrefcount(a) == count
    single = cpu.make_program([Step(kernel(ADD), (), (0, 1), 0, 1)], "s", (1 << 42,))
    with pytest.raises(MemoryError):
        single.launch(a)


def test_reference_counts_are_exact(cpu):
    pairs = [add_program(cpu, 4), cpu.make_program([], "ss", (8, 8), (8,))]
    a = filled(cpu, [1, 2, 3, 4], "q")
    for made in pairs:
        launch = made.launch
        counts = [sys.getrefcount(x) for x in (a, None, launch)]
        for _ in range(1000):
            made.launch(a, a)
            try:
                made.launch(a, 1)
            except TypeError:
                pass
        outputs = made.launch(a, a)
        for _ in range(100):
            made.into(*([outputs] if cpu.storage is type(outputs) else outputs), a, a)
        after = [sys.getrefcount(x) for x in (a, None, launch)]
        assert after[0] == counts[0] and after[2] == counts[2]
        assert abs(after[1] - counts[1]) < 100


def test_keep_lives_as_long_as_the_functions(cpu):
    class Thing:
        pass

    thing = Thing()
    watch = weakref.ref(thing)
    made = add_program(cpu, 4, keep=thing)
    launch = made.launch
    del thing, made
    gc.collect()
    assert watch() is not None or cpu.name == "portable"
    a = filled(cpu, [1, 2, 3, 4], "q")
    assert read(cpu, launch(a, a), 4, "q") == [2, 4, 6, 8]
    del launch
    gc.collect()
    assert watch() is None


@linux
def test_a_million_launches_do_not_leak(cpu):
    made = [add_program(cpu, 4), cpu.make_program([], "ss", (8, 5000), (300,))]
    a = filled(cpu, [1, 2, 3, 4], "q")

    def churn(count):
        for function in made:
            launch = function.launch
            for _ in range(count):
                launch(a, a)

    churn(2000)
    before, stats = resident_bytes(), cpu.stats()
    churn(500_000 if cpu.name == "native" else 10_000)
    assert resident_bytes() - before < 2 << 20
    assert cpu.stats()["allocated"] == stats["allocated"]


@linux
def test_programs_do_not_leak(cpu):
    def churn(count):
        for _ in range(count):
            add_program(cpu, 4)

    churn(1000)
    before = resident_bytes()
    churn(20_000)
    assert resident_bytes() - before < 2 << 20


def test_many_python_threads(cpu):
    """Launches with and without the GIL at once; every result is checked."""
    count = 3000
    programs = [add_program(cpu, count, nogil=nogil) for nogil in (True, False)]
    programs.append(
        cpu.make_program(
            [
                Step(kernel(ADD), (0,), (3, 1, 2), count, 100),
                Step(kernel(ADD), (0,), (0, 3, 1), count, 100),
            ],
            "ss",
            (8 * count,),
            (8 * count,),
        )
    )
    failures = []

    def work(seed):
        a = filled(cpu, range(seed, seed + count), "q")
        for i in range(60):
            which = i % 3
            out = programs[which].launch(a, a)
            times = 3 if which == 2 else 2
            got = read(cpu, out, count, "q")
            if got != [times * v for v in range(seed, seed + count)]:
                failures.append((seed, i))

    before = cpu.stats()["allocated"]
    running = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1000, 2000, 3000)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not failures
    gc.collect()
    assert cpu.stats()["allocated"] == before


@linux
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_launch_in_a_forked_child(cpu):
    count = 100_000
    step = Step(kernel(ADD), (1,), (0, 1, 2), count, 100)
    made = cpu.make_program([step], "ss", (8 * count,))
    a = filled(cpu, range(count), "q")
    made.launch(a, a)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        good = read(cpu, made.launch(a, a), count, "q") == [2 * i + 1 for i in range(count)]
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_launch_from_a_small_stack():
    """The argument frames of a wide program fit the smallest stack threads commonly get."""
    made = make_program([], "s" * 4000, (8,))
    a = native.empty(8)
    results = []
    before = threading.stack_size(256 << 10)
    try:
        thread = threading.Thread(target=lambda: results.append(made.launch(*[a] * 4000)))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert results[0].nbytes == 8


def test_exports():
    for module in (jit, memory, native, pool, portable, program):
        for name in module.__all__:
            assert hasattr(module, name), name
