"""The simulated driver: memory, order of streams, graphs, and the faults it can be given."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings (lampion-cuda)")
from driver_calls import (  # noqa: E402
    NON_BLOCKING,
    DriverError,
    cu,
    drv,
    floats,
    from_device,
    launch,
    load,
    to_device,
    use_device,
)

n32 = ctypes.c_int
SEEDS = (0, -1, 1, 2, 3)
ADD = """extern "C" __global__ void add(float *y, const float *x, float a, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] + a; }"""


@pytest.fixture(autouse=True)
def started(simulated):
    use_device()
    return simulated


def add(y, x, a, n=64, stream=0):
    launch(load(ADD, "add"), -(-n // 64), 64, [y, x, ctypes.c_float(a), n32(n)], stream)


def stream():
    return cu.StreamCreate(NON_BLOCKING)


def code_of(call, *args):
    with pytest.raises(DriverError) as caught:
        call(*args)
    return caught.value.code


# -- memory ---------------------------------------------------------------------------------------


def test_copies_in_all_directions():
    x = np.arange(100, dtype=np.float32)
    a, b = to_device(x), int(cu.MemAlloc(400))
    pinned = floats(cu.MemHostAlloc(400, 0), 100)
    s = stream()
    cu.MemcpyDtoDAsync(b, a, 400, s)
    cu.MemcpyDtoHAsync(pinned.ctypes.data, b, 400, s)
    cu.StreamSynchronize(s)
    np.testing.assert_array_equal(pinned, x)
    cu.MemsetD32Async(a, 0x3f800000, 50, s)
    cu.StreamSynchronize(s)
    np.testing.assert_array_equal(from_device(a, x), np.where(np.arange(100) < 50, 1, x))


def test_new_memory_is_poison():
    assert np.isnan(from_device(int(cu.MemAlloc(400)), np.empty(100, np.float32))).all()


def test_pointers_tell_what_they_are(started):
    started.set(devices=2)
    device, host = int(cu.MemAlloc(64)), int(cu.MemHostAlloc(64, 0))
    attribute = drv.CUpointer_attribute
    kind = attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
    assert int(cu.PointerGetAttribute(kind, device)) == 2
    assert int(cu.PointerGetAttribute(kind, host)) == 1
    assert code_of(cu.PointerGetAttribute, kind, np.zeros(4).ctypes.data) == 1
    assert tuple(map(int, cu.MemGetAddressRange(device + 10))) == (device, 64)


def test_copies_outside_an_allocation_are_refused():
    p = int(cu.MemAlloc(64))
    assert code_of(cu.MemsetD8Async, p + 10, 0, 64, 0) == 1
    assert code_of(cu.MemcpyHtoD, p, np.zeros(9).ctypes.data, 72) == 1


def test_memory_ends(started):
    free, total = map(int, cu.MemGetInfo())
    started.set(total_memory=total - free + (1 << 20))  # what other tests hold, and a MiB
    p = int(cu.MemAlloc(1 << 19))
    assert code_of(cu.MemAlloc, (1 << 19) + 1) == 2
    assert tuple(map(int, cu.MemGetInfo())) == (1 << 19, total - free + (1 << 20))
    cu.MemFree(p)
    cu.MemFree(cu.MemAlloc(1 << 20))
    started.set(fail_after_bytes=1000)
    cu.MemFree(cu.MemAlloc(900))
    assert code_of(cu.MemAlloc, 200) == 2


def test_pools_count_what_they_hold():
    pool, s = cu.DeviceGetDefaultMemPool(0), stream()
    used = drv.CUmemPool_attribute.CU_MEMPOOL_ATTR_USED_MEM_CURRENT
    before = int(cu.MemPoolGetAttribute(pool, used))
    p = cu.MemAllocFromPoolAsync(5000, pool, s)
    assert int(cu.MemPoolGetAttribute(pool, used)) == before + 5000
    cu.MemFreeAsync(p, s)
    assert int(cu.MemPoolGetAttribute(pool, used)) == before


def test_writes_behind_an_allocation_and_after_its_end_are_found(started):
    p = int(cu.MemAlloc(20))
    floats(p, 6)[5] = 1
    cu.MemFree(p)
    assert started.get("violations") == 1 and "behind 20 bytes" in started.message()
    q = int(cu.MemAlloc(20))
    late = floats(q, 5)
    cu.MemFree(q)
    late[0] = 1
    for _ in range(100):
        cu.MemFree(cu.MemAlloc(20))
    assert started.get("violations") == 2 and "after it was freed" in started.message()
    started.reset()


def in_a_process(code, **environment):
    folder = str(Path(__file__).parent)
    text = f"import sys; sys.path.insert(0, {folder!r})\nimport simulator\n{code}"
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True,
                          env={**os.environ, **environment}, timeout=120)


def test_a_kernel_that_writes_out_of_bounds_dies():
    code = """
simulator.install()
from driver_calls import *
from test_simulator_driver import ADD
use_device()
p, f = int(cu.MemAlloc(4096)), load(ADD, "add")
for n in (1024, 1028):
    launch(f, 5, 256, [p, p, ctypes.c_float(1), ctypes.c_int(n)])
    print("ran", n, flush=True)
"""
    done = in_a_process(code)
    assert done.returncode == -11 and done.stdout == "ran 1024\n", done


def test_the_simulator_wants_a_process_without_a_driver():
    done = in_a_process("""
import ctypes
ctypes.CDLL(str(simulator.hostcc.libraries() / "libcuda.so.1"))
try: simulator.install()
except RuntimeError as error: print(error)
""")
    assert "already loaded" in done.stdout, done


def test_settings_come_from_the_environment():
    done = in_a_process("simulator.install(devices=3); print(simulator.get('devices'), "
                        "simulator.get('seed'), simulator.current('order'))",
                        LAMPION_SIMULATOR="devices=2,seed=9,order=-1")
    assert done.stdout == "2 9 -1\n", done


# -- streams --------------------------------------------------------------------------------------


def across_streams(started, seed, with_event):
    """A result that one stream computes and another copies to the host."""
    started.set(deferred=1, seed=seed)
    a, b, x = stream(), stream(), np.ones(64, np.float32)
    p, q = to_device(x), int(cu.MemAlloc(256))
    add(q, p, 1, stream=a)
    if with_event:
        e = cu.EventCreate(0)
        cu.EventRecord(e, a)
        cu.StreamWaitEvent(b, e, 0)
    out = np.empty_like(x)
    cu.MemcpyDtoHAsync(out.ctypes.data, q, 256, b)  # pageable: it is there when this returns
    return out


@pytest.mark.parametrize("seed", SEEDS)
def test_what_an_event_orders_is_right_in_every_order(started, seed):
    assert (across_streams(started, seed, True) == 2).all()


def test_what_nothing_orders_is_poison(started):
    assert np.isnan(across_streams(started, 0, False)).all()


def test_memory_freed_too_early_is_poison(started):
    def copied(seed, with_event):
        started.set(deferred=1, seed=seed)
        a, b, x = stream(), stream(), np.ones(64, np.float32)
        pool = cu.DeviceGetDefaultMemPool(0)
        p = int(cu.MemAllocFromPoolAsync(256, pool, a))
        cu.MemcpyHtoDAsync(p, x.ctypes.data, 256, a)
        cu.StreamSynchronize(a)
        q = int(cu.MemAlloc(256))
        cu.MemcpyDtoDAsync(q, p, 256, b)
        if with_event:
            e = cu.EventCreate(0)
            cu.EventRecord(e, b)
            cu.StreamWaitEvent(a, e, 0)
        cu.MemFreeAsync(p, a)
        cu.StreamSynchronize(b)
        return from_device(q, x)

    assert np.isnan(copied(-1, False)).all()
    assert all((copied(seed, True) == 1).all() for seed in SEEDS)


def test_pinned_memory_is_poison_until_the_copy_is_done(started):
    started.set(deferred=1)
    s, x = stream(), np.ones(64, np.float32)
    p, pinned = to_device(x), floats(cu.MemHostAlloc(256, 0), 64)
    cu.MemcpyDtoHAsync(pinned.ctypes.data, p, 256, s)
    assert np.isnan(pinned).all()
    cu.StreamSynchronize(s)
    assert (pinned == 1).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_legacy_stream_orders_blocking_streams_only(started, seed):
    started.set(deferred=1, seed=seed)
    x = np.zeros(64, np.float32)
    p, blocking = to_device(x), cu.StreamCreate(0)
    add(p, p, 1, stream=blocking)
    add(p, p, 1, stream=0)
    add(p, p, 1, stream=blocking)
    assert (from_device(p, x) == 3).all()
    started.set(seed=0)
    free = stream()
    add(p, p, 1, stream=free)
    assert (from_device(p, x) == 3).all()
    cu.StreamSynchronize(free)
    assert (from_device(p, x) == 4).all()


def test_asking_ends(started):
    started.set(deferred=1)
    s, e = stream(), cu.EventCreate(0)
    p = to_device(np.zeros(64, np.float32))
    for _ in range(5):
        add(p, p, 1, stream=s)
    cu.EventRecord(e, s)
    asked = 0
    while int(drv.cuEventQuery(e)[0]):
        asked += 1
    assert 0 < asked < 10 and not int(drv.cuStreamQuery(s)[0])


def test_events_tell_time():
    s, p = stream(), to_device(np.zeros(64, np.float32))
    a, b, untimed = cu.EventCreate(0), cu.EventCreate(0), cu.EventCreate(2)
    cu.EventRecord(a, s)
    add(p, p, 1, stream=s)
    for e in (b, untimed):
        cu.EventRecord(e, s)
    assert cu.EventElapsedTime(a, b) > 0
    assert code_of(cu.EventElapsedTime, a, untimed) == 400


def test_each_thread_needs_a_context():
    import threading

    got = []
    thread = threading.Thread(target=lambda: got.append(code_of(cu.MemAlloc, 16)))
    thread.start()
    thread.join()
    assert got == [201]


def test_devices_have_their_own_streams_and_memory(started):
    started.set(devices=2)
    x = np.arange(64, dtype=np.float32)
    p, first = to_device(x), load(ADD, "add")
    use_device(1)
    q, s = int(cu.MemAlloc(256)), stream()
    zero, one = (cu.DevicePrimaryCtxRetain(k) for k in (0, 1))
    cu.MemcpyPeerAsync(q, one, p, zero, 256, s)
    cu.StreamSynchronize(s)
    np.testing.assert_array_equal(from_device(q, x), x)
    attribute = drv.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    assert [int(cu.PointerGetAttribute(attribute, v)) for v in (p, q)] == [0, 1]
    # a module belongs to the device that it was loaded on
    assert code_of(launch, first, 1, 64, [q, q, ctypes.c_float(1), n32(64)], s) == 400
    use_device(0)


def test_kernels_may_not_use_other_devices_memory_unless_they_were_let(started):
    started.set(devices=2)
    p, pool = to_device(np.zeros(64, np.float32)), cu.DeviceGetDefaultMemPool(0)
    s = stream()
    q = int(cu.MemAllocFromPoolAsync(256, pool, s))
    cu.StreamSynchronize(s)
    use_device(1)
    there = cu.DevicePrimaryCtxRetain(0)
    cu.CtxEnablePeerAccess(there, 0)
    add(p, p, 1)  # opened by that
    add(q, p, 1)  # but pools have lists of their own
    assert code_of(cu.CtxSynchronize) == 700 and "add got memory of another" in started.message()
    started.reset()
    entry = drv.CUmemAccessDesc()
    entry.location.type = drv.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    entry.location.id = 1
    entry.flags = drv.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    cu.MemPoolSetAccess(pool, [entry], 1)
    add(q, p, 1)
    cu.CtxSynchronize()
    entry.flags = drv.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_NONE
    cu.MemPoolSetAccess(pool, [entry], 1)
    cu.CtxDisablePeerAccess(there)
    started.set(peers=0)
    assert int(cu.DeviceCanAccessPeer(0, 1)) == 0
    assert code_of(cu.CtxEnablePeerAccess, there, 0) == 217
    use_device(0)


# -- launches and faults --------------------------------------------------------------------------


def test_impossible_launches_are_refused():
    f, p = load(ADD, "add"), int(cu.MemAlloc(256))
    args = [p, p, ctypes.c_float(1), n32(64)]
    assert code_of(launch, f, 0, 64, args) == 1
    assert code_of(launch, f, 1, 1025, args) == 1
    assert code_of(launch, f, 1, 64, args, 0, 49 << 10) == 1
    cu.FuncSetAttribute(
        f, drv.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 49 << 10)
    launch(f, 1, 64, args, 0, 49 << 10)
    assert code_of(cu.ModuleLoadData, b"\x7fELF no image of this compiler") == 200


def test_a_failing_launch_is_reported_later_and_stays(started):
    s, p = stream(), int(cu.MemAlloc(256))
    started.set(deferred=1, fail_launch=2)
    add(p, p, 1, stream=s)
    add(p, p, 1, stream=s)
    assert code_of(cu.StreamSynchronize, s) == 719
    assert code_of(cu.MemAlloc, 16) == 719
    started.reset()
    cu.MemFree(p)


def test_a_deadlock_is_a_failed_launch(started):
    f = load('extern "C" __global__ void stuck() { if (threadIdx.x) __syncthreads(); }', "stuck")
    launch(f, 1, 32, [])
    assert code_of(cu.CtxSynchronize) == 719
    assert "deadlock" in started.message() and "stuck" in started.message()
    started.reset()


def test_drivers_that_do_not_work():
    done = in_a_process("""
simulator.install(init_error=803)
from cuda.bindings import driver
print(int(driver.cuInit(0)[0]))
simulator.set(init_error=0, devices=0)
print(int(driver.cuInit(0)[0]))
simulator.set(devices=1, driver_version=12040)
print(int(driver.cuInit(0)[0]), driver.cuDriverGetVersion()[1])
print(int(driver.cuDeviceGetTexture1DLinearMaxWidth(0, 0, 0)[0]))
""")
    assert done.stdout.split() == ["803", "100", "0", "12040", "801"], done
    assert "cuDeviceGetTexture1DLinearMaxWidth is not implemented" in done.stderr


def test_launches_can_do_nothing(started):
    x = np.zeros(64, np.float32)
    p, launches = to_device(x), started.get("launches")
    started.set(null_launches=1)
    add(p, p, 1)
    assert started.get("launches") == launches + 1 and (from_device(p, x) == 0).all()


def test_what_is_alive_is_counted(started):
    before = started.counts()
    s, e, p, h = stream(), cu.EventCreate(0), cu.MemAlloc(100), cu.MemHostAlloc(10, 0)
    module = cu.ModuleLoadData(_image())
    changed = {k: v - before[k] for k, v in started.counts().items()
               if v != before[k] and k != "peak_bytes"}
    assert changed == {"streams": 1, "events": 1, "allocations": 1, "bytes": 100, "pinned": 1,
                       "modules": 1}
    cu.StreamDestroy(s), cu.EventDestroy(e), cu.MemFree(p), cu.MemFreeHost(h)
    cu.ModuleUnload(module)
    after = started.counts()
    assert {k: v for k, v in after.items() if v != before[k]}.keys() <= {"peak_bytes"}


def _image():
    from simulator import hostcc

    return hostcc.kernel_image(ADD, "add")


# -- graphs ---------------------------------------------------------------------------------------


def captured(s, work, mode=drv.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL):
    cu.StreamBeginCapture(s, mode)
    work()
    return cu.StreamEndCapture(s)


@pytest.mark.parametrize("deferred, seed", [(0, 0), (1, 0), (1, -1), (1, 4)])
def test_graphs_replay_what_streams_captured(started, deferred, seed):
    started.set(deferred=deferred, seed=seed)
    a, b, x = stream(), stream(), np.zeros(64, np.float32)
    p, q, r = (to_device(x) for _ in range(3))
    fork, join = cu.EventCreate(2), cu.EventCreate(2)

    def work():
        add(p, p, 1, stream=a)
        cu.EventRecord(fork, a)
        cu.StreamWaitEvent(b, fork, 0)
        add(q, p, 10, stream=b)
        add(r, p, 20, stream=a)
        cu.EventRecord(join, b)
        cu.StreamWaitEvent(a, join, 0)
        add(r, q, 100, stream=a)

    graph = captured(a, work)
    assert (from_device(p, x) == 0).all(), "capturing runs nothing"
    run = cu.GraphInstantiate(graph, 0)
    for _ in range(3):
        cu.GraphLaunch(run, a)
    cu.StreamSynchronize(a)
    assert (from_device(p, x) == 3).all() and (from_device(r, x) == 113).all()
    cu.GraphDestroy(graph)
    other = captured(a, lambda: [add(p, p, 5, stream=a), *(add(q, q, 1, stream=a)
                                                           for _ in range(3))])
    assert code_of(cu.GraphExecUpdate, run, other) == 910, "another form"
    same = captured(a, lambda: add(p, p, 5, stream=a))
    single = cu.GraphInstantiate(captured(a, lambda: add(p, p, 1, stream=a)), 0)
    cu.GraphExecUpdate(single, same)
    cu.GraphLaunch(single, a)
    cu.StreamSynchronize(a)
    assert (from_device(p, x) == 8).all()


def test_a_capture_is_broken_by_what_waits():
    s, t = stream(), stream()
    e = cu.EventCreate(0)
    p = to_device(np.zeros(64, np.float32))
    for mistake in (lambda: cu.StreamSynchronize(s), lambda: cu.CtxSynchronize(),
                    lambda: cu.MemAlloc(16), lambda: from_device(p, np.empty(64, np.float32))):
        cu.StreamBeginCapture(s, drv.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL)
        assert code_of(mistake) == 900
        assert code_of(cu.StreamEndCapture, s) == 901
    cu.StreamBeginCapture(s, drv.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL)
    cu.EventRecord(e, s)
    cu.StreamWaitEvent(t, e, 0)
    add(p, p, 1, stream=t)
    assert code_of(cu.EventSynchronize, e) == 907
    assert code_of(cu.StreamEndCapture, s) == 904, "the other stream did not come back"


def test_graphs_own_the_memory_they_allocate(started):
    s, x = stream(), np.zeros(64, np.float32)
    p, pool = to_device(x), cu.DeviceGetDefaultMemPool(0)
    before = started.get("allocations")

    def work():
        q = int(cu.MemAllocFromPoolAsync(256, pool, s))
        add(q, p, 1, stream=s)
        add(p, q, 1, stream=s)
        cu.MemFreeAsync(q, s)

    graph = captured(s, work)
    run = cu.GraphInstantiate(graph, 0)
    cu.GraphDestroy(graph)
    cu.GraphLaunch(run, s)
    cu.GraphLaunch(run, s)
    assert (from_device(p, x) == 4).all() and started.get("allocations") == before + 1
    cu.GraphExecDestroy(run)
    assert started.get("allocations") == before


def test_numbers_of_the_interface_are_the_bindings_own():
    text = (Path(__file__).parent / "simulator/src/cuda_api.h").read_text()
    names = {}
    for enum in vars(drv).values():
        names.update({k: int(v) for k, v in (getattr(enum, "__members__", None) or {}).items()})
    found = re.findall(r"\b(CU(?:DA)?_[A-Z0-9_]+) = (\d+)", text)
    assert len(found) > 90
    wrong = {k: (int(v), names.get(k)) for k, v in found
             if names.get(k, int(v)) != int(v) or (k not in names and k[:2] == "CU_")}
    assert not wrong
