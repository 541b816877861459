"""The OpenCL runtime: memory, launches from threads, and every mistake with its message."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from lampion.base import dtype as dt
from lampion.base.device import device
from lampion.base.errors import OutOfMemoryError
from lampion.base.meta import meta
from lampion.ir import expr as E
from lampion.runtime import lowering

pytest.importorskip("pyopencl")
from lampion_opencl.gate import BATCH, DIRECT  # noqa: E402

WHERE = device("opencl")


def add_one(backend, n):
    m = meta(dt.float32, (n,), None, WHERE)
    x = E.var("x")
    program = lowering.elementwise("add_one", [x + 1.0], [("x", dt.float32)], [m], [m], dt.float32)
    return backend.program(program, [m.span], WHERE)


def put(backend, array):
    s = backend.allocate(array.nbytes, WHERE)
    backend.copy_from_host(array, s)
    return s


def get(backend, s, n):
    return np.frombuffer(backend.copy_to_host(s, 4 * n), np.float32)


def test_storage_is_pooled_and_accounted_for(backend):
    pool = backend.open(0).pool
    gc.collect()
    before = pool.active
    a = backend.allocate(1000, WHERE)
    assert pool.active == before + 1024
    view = a.view(256)
    assert (view.base, view.offset, view.nbytes, a.base) == (a, 256, 744, a)
    assert view.view(0) is view and (view.view(16).offset, view.view(16).base) == (272, a)
    buf = a.buf
    del a
    assert pool.active == before + 1024, "a view keeps its base alive"
    del view
    assert pool.active == before
    b = backend.allocate(900, WHERE)
    assert b.buf is buf
    del b
    backend.empty_cache()
    stats = backend.memory_stats(WHERE)
    assert stats["reserved"] == stats["allocated"] and stats["peak"] >= 1024


def test_zero_bytes(backend):
    s = backend.allocate(0, WHERE)
    backend.copy_from_host(b"", s)
    assert len(backend.copy_to_host(s, 0)) == 0


def test_copies(backend):
    x = np.arange(100, dtype=np.float32)
    s, t = put(backend, x), backend.allocate(400, WHERE)
    assert backend.copy(s.view(40), t.view(80), 160)
    np.testing.assert_array_equal(get(backend, t.view(80), 40), x[10:50])
    assert not backend.copy(s, s.view(40), 160), "overlapping copies go another way"
    assert backend.copy(s, s.view(200), 200)
    np.testing.assert_array_equal(get(backend, s.view(200), 50), x[:50])
    backend.copy_from_host(x.tobytes()[:8], s.view(4))
    np.testing.assert_array_equal(get(backend, s, 4), [0, 0, 1, 3])


def test_out_of_memory_says_who_holds_what(backend):
    pool = backend.open(0).pool
    held = backend.allocate(3 << 20, WHERE)
    old = pool.limit
    pool.limit = pool.reserved + (1 << 20)
    try:
        with pytest.raises(OutOfMemoryError, match=r"cannot allocate 64 MiB on opencl.*Live "
                                                   r"tensors hold .*3 MiB.*memory_fraction"):
            backend.allocate(64 << 20, WHERE)
    finally:
        pool.limit = old
    with pytest.raises(OutOfMemoryError, match="largest single buffer"):
        backend.allocate(1 << 50, WHERE)
    del held


def test_a_limit_frees_the_cache_before_it_refuses(backend):
    pool = backend.open(0).pool
    backend.empty_cache()
    old = pool.limit
    pool.limit = pool.reserved + (8 << 20)
    try:
        for size in (5 << 20, 6 << 20, 7 << 20):
            backend.allocate(size, WHERE)
    finally:
        pool.limit = old


def test_wrong_arguments_are_type_errors(backend):
    made = add_one(backend, 10)
    x = put(backend, np.zeros(10, np.float32))
    for bad in (None, 3, np.zeros(10, np.float32), b"x"):
        with pytest.raises(TypeError, match="argument 0 must be a storage"):
            made.launch(bad)
    with pytest.raises(TypeError):
        made.into(x, None)
    with pytest.raises(TypeError):
        made.launch()


def test_numbers_are_checked(backend):
    m = meta(dt.int64, (4,), None, WHERE)
    x, y = E.var("x"), E.var("y")
    program = lowering.elementwise("addn", [x + y], [("x", dt.int64), ("y", dt.int64)],
                                   [m, dt.int64], [m], dt.int64)
    made = backend.program(program, [m.span], WHERE)
    s = put(backend, np.arange(4))
    for value, want in ((3, 3), (True, 1), (-(1 << 63), -(1 << 63)), ((1 << 64) - 1, -1)):
        out = np.frombuffer(backend.copy_to_host(made.launch(s, value), 32), np.int64)
        np.testing.assert_array_equal(out, np.arange(4) + want)
    with pytest.raises(OverflowError):
        made.launch(s, 1 << 64)
    with pytest.raises(TypeError):
        made.launch(s, 1.5)


def test_launches_from_threads(backend):
    made = {n: add_one(backend, n) for n in (10, 1000, 5000)}
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for n in rng.choice([10, 1000, 5000], 60):
            x = rng.standard_normal(n).astype(np.float32)
            s = put(backend, x)
            for _ in range(3):
                s = made[n].launch(s)
            if not np.array_equal(get(backend, s, n), x + np.float32(1) + 1 + 1):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_freed_storages_do_not_disturb_pending_work(backend):
    """A buffer goes back to the pool while kernels that read it are still queued."""
    n = 100_000
    made = add_one(backend, n)
    x = np.zeros(n, np.float32)
    s = put(backend, x)
    for _ in range(200):
        s = made.launch(s)
    np.testing.assert_array_equal(get(backend, s, n), np.full(n, 200, np.float32))


def test_small_launches_are_held_until_somebody_waits(backend):
    d = backend.open(0)
    if d.gate is None:
        pytest.skip("only PoCL's launches are held")
    made, large = add_one(backend, 10), add_one(backend, 1 << 20)
    s, t = put(backend, np.zeros(10, np.float32)), put(backend, np.zeros(1 << 20, np.float32))
    d.finish()
    for wait in (d.finish, lambda: get(backend, s, 10), lambda: large.into(t, t),
                 lambda: d.queue.flush()):
        for _ in range(DIRECT):
            made.into(s, s)
        assert d.gate.event is None, "the first few start at once"
        made.into(s, s)
        assert d.gate.event is not None
        wait()
        assert d.gate.event is None
    for _ in range(BATCH + 10):  # more than may be held
        made.into(s, s)
    want = 4 * (DIRECT + 1) + BATCH + 10
    np.testing.assert_array_equal(get(backend, s, 10), np.full(10, want, np.float32))


def test_a_process_that_holds_launches_ends():
    code = ("import lampion\nx = lampion.ones(4, device='opencl')\n"
            "for _ in range(100): x = x + 1\nprint('end')")
    code, text = run(code)
    assert code == 0 and "end" in text, text


def test_broken_source_shows_source_and_log(backend):
    with pytest.raises(RuntimeError, match=r"(?s)refused the kernel 'bad'.*undeclared.*1 __kernel"):
        backend.open(0).build("__kernel void bad(__global float *x) {\n  x[0] = nothing;\n}\n",
                              "bad")


def test_an_absent_device_is_an_error(backend):
    with pytest.raises(RuntimeError, match="opencl:7 does not exist"):
        backend.open(7)


def run(code, **env):
    """Run Python in a process of its own with changed environment variables."""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, timeout=120,
                          capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


USE = ("import lampion\n"
       "try:\n    lampion.ones(3, device='opencl')\n"
       "except Exception as e:\n    print(type(e).__name__, e)\n")


def test_no_driver_tells_what_to_install():
    code, text = run(USE, OCL_ICD_VENDORS="/nonexistent")
    assert code == 0 and "no OpenCL driver was found" in text, text
    assert "pip install" in text and "OCL_ICD_VENDORS" in text


def test_no_linker_is_found_before_the_driver_aborts():
    code, text = run("from lampion_opencl import runtime\nfrom lampion_opencl import plugin\n"
                     "from lampion import config\n"
                     "config.register_schema('backend.opencl', plugin.lampion_config_schema())\n"
                     "try:\n    d = runtime.discover()\n    print('others', d)\n"
                     "except RuntimeError as e:\n    print(e)\n", PATH="/nonexistent")
    assert code == 0 and ("needs the linker `ld`" in text or "others" in text), text


WORKERS = ("import os\nfirst = set(os.listdir('/proc/self/task'))\nimport lampion\n"
           "x = lampion.ones(3, device='opencl')\n"
           "new = set(os.listdir('/proc/self/task')) - first\n"
           "tied = [c for c in map(os.sched_getaffinity, map(int, new)) if len(c) == 1]\n"
           "print(x.device.backend.open(0).gate is not None, os.cpu_count(), len(tied),\n"
           "      len(set().union(*tied)), 'POCL_AFFINITY' in os.environ)\n")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or (os.cpu_count() or 1) < 2
                    or len(os.sched_getaffinity(0)) < (os.cpu_count() or 1),
                    reason="needs Linux and all of at least two cores")
def test_pocl_gets_a_worker_on_each_core_unless_told_otherwise(backend):
    if backend.open(0).gate is None:
        pytest.skip("the driver is not PoCL")
    cores = os.cpu_count()
    for env, tied in (({}, cores), ({"POCL_AFFINITY": "0"}, 0), ({"POCL_AFFINITY": "1"}, cores)):
        code, text = run(WORKERS, **env)
        assert code == 0 and text.split() == [
            "True", f"{cores}", f"{tied}", f"{tied}", f"{bool(env)}"], text
    # restricted to one core, no worker may leave it
    code, text = run(f"import os\nos.sched_setaffinity(0, {{{cores - 1}}})\n{WORKERS}"
                     "assert all(c == {os.cpu_count() - 1} for c in tied), tied\n")
    assert code == 0, text


def test_importing_opens_no_driver():
    code, text = run("import sys, lampion\nimport lampion_opencl.plugin\n"
                     "print('pyopencl' in sys.modules)")
    assert code == 0 and text.strip() == "False", text


def test_a_wrong_option_is_refused():
    code, text = run(USE, LAMPION_OPENCL_SCHEDULE="fast")
    assert code == 0 and "schedule" in text and "auto" in text, text


def test_schedule_can_be_forced():
    for schedule in ("cpu", "gpu"):
        code, text = run("import lampion\nx = lampion.ones(3, device='opencl')\n"
                         "print(x.device.backend.open(0).lanes, (x + 1).tolist())",
                         LAMPION_OPENCL_SCHEDULE=schedule)
        assert code == 0 and f"{schedule == 'cpu'} [2.0, 2.0, 2.0]" in text, text
