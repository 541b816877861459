"""Streams, events, memory used on several streams, copies nobody waits for, and sharing."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from real import REAL

import lampion

pytestmark = pytest.mark.usefixtures("gpu")
apart = pytest.mark.skipif(REAL, reason="needs two GPUs or faults of the simulator")


@pytest.fixture
def cuda():
    import lampion.cuda

    before = lampion.cuda.current_stream()
    yield lampion.cuda
    lampion.cuda.set_stream(before)


@pytest.fixture(params=range(4))
def any_order(request):
    """In the simulator, work that nothing orders runs in an order that the seed decides."""
    if not REAL:
        request.getfixturevalue("simulated").set(deferred=1, seed=request.param)
    elif request.param:
        pytest.skip("a GPU has its own order")


def test_streams_have_names_and_priorities(cuda):
    s = cuda.Stream()
    assert s.device == lampion.device("cuda") and s.cuda_stream and s.priority == 0
    assert isinstance(cuda.current_stream(), cuda.Stream)
    assert cuda.current_stream() is cuda.default_stream() and s is not cuda.default_stream()
    urgent, lazy = cuda.Stream(priority=-100), cuda.Stream(priority=100)
    assert urgent.priority < 0 and lazy.priority == 0
    many = {cuda.Stream() for _ in range(100)}
    assert len(many) == 32 and cuda.default_stream() not in many
    assert "lampion.cuda.Stream" in repr(s) and s.query()


def test_the_current_stream_is_each_threads_own(cuda):
    s, seen = cuda.Stream(), []
    with cuda.stream(s):
        assert cuda.current_stream() is s
        t = threading.Thread(target=lambda: seen.append(cuda.current_stream()))
        t.start()
        t.join()
        with cuda.stream(None):
            assert cuda.current_stream() is s
    other = cuda.Stream()
    with s as entered, other, s:
        assert entered is s is cuda.current_stream()
    assert seen == [cuda.default_stream()] and cuda.current_stream() is cuda.default_stream()
    cuda.set_stream(s)
    assert cuda.current_stream() is s


def test_a_thread_can_launch(cuda, gpu):
    x, out = lampion.arange(6.0, device=gpu), []
    (x * 2).tolist()
    t = threading.Thread(target=lambda: out.append((x * 2).tolist()))
    t.start()
    t.join()
    assert out == [[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]]


def test_events_order_streams(cuda, gpu, any_order):
    a, b = cuda.Stream(), cuda.Stream()
    x = lampion.zeros(50, device=gpu)
    a.wait_stream(cuda.current_stream())
    with cuda.stream(a):
        for _ in range(3):
            x += 1
        ready = a.record_event()
    b.wait_event(ready)
    with cuda.stream(b):
        x *= 10
        done = b.record_event()
    done.wait(cuda.current_stream())
    assert (x + 1).tolist() == [31.0] * 50
    assert done.query() and ready.query()


def test_events_measure_time(cuda, gpu):
    a, b = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    with pytest.raises(ValueError, match="recorded before"):
        a.elapsed_time(b)
    a.record()
    lampion.ones(1000, device=gpu).sum()
    b.record()
    b.synchronize()
    assert 0 <= a.elapsed_time(b) < 60_000
    with pytest.raises(ValueError, match="enable_timing=True"):
        a.elapsed_time(cuda.Event())
    assert cuda.Event().query() and cuda.Event(blocking=True).device is None
    with pytest.raises(RuntimeError, match="between processes"):
        cuda.Event(interprocess=True)


def test_another_librarys_stream(cuda, gpu):
    s = cuda.Stream()
    foreign = cuda.ExternalStream(s.cuda_stream)
    assert foreign.cuda_stream == s.cuda_stream
    assert cuda.ExternalStream(s.cuda_stream) is foreign
    with cuda.stream(foreign):
        y = lampion.ones(5, device=gpu) * 3
    foreign.synchronize()
    assert y.tolist() == [3.0] * 5


def test_memory_of_another_stream_is_not_used_early(cuda, gpu, any_order):
    """record_stream: the reader on `side` sees the values, though the tensor dies first."""
    side = cuda.Stream()
    for _ in range(3):
        x = lampion.full((4000,), 5.0, device=gpu)
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            y = x.sin().cos() * 1.0 + x
        x.record_stream(side)
        del x
        fresh = [lampion.full((4000,), float(k), device=gpu) for k in range(2)]
        cuda.current_stream().wait_stream(side)
        np.testing.assert_allclose(y.cpu().numpy(), np.cos(np.sin(np.float32(5))) + 5, rtol=1e-5)
        cuda.synchronize()
        del fresh
        again = [lampion.zeros(4000, device=gpu) for _ in range(4)]
        cuda.current_stream().wait_stream(side)
        del again, y


def test_a_lent_buffer_comes_home(cuda, gpu, request):
    if not REAL:
        request.getfixturevalue("simulated").set(deferred=1, seed=0)
    side = cuda.Stream()
    x = lampion.zeros(3000, device=gpu)
    address = x.data_ptr()
    cuda.synchronize()
    with cuda.stream(side):
        x.add_(1)
    x.record_stream(side)
    active = cuda.memory_allocated()
    del x
    gc.collect()
    assert cuda.memory_allocated() < active
    cuda.synchronize()
    taken = [lampion.empty(3000, device=gpu) for _ in range(3)]
    assert address in {t.data_ptr() for t in taken}


def test_record_stream_needs_streams():
    with pytest.raises(RuntimeError, match="has no streams"):
        lampion.ones(2).record_stream(None)


# ---- copies --------------------------------------------------------------------------------------

def test_pinned_memory(cuda, gpu):
    x = lampion.arange(24.0).reshape(4, 6)
    p = x.pin_memory()
    assert p.is_pinned() and not x.is_pinned() and p.pin_memory() is p
    assert p.tolist() == x.tolist() and p[1:, 2:].is_pinned() and p.is_pinned("cuda")
    assert x.t().pin_memory().stride() == (1, 6)
    on_gpu = lampion.ones(3, device=gpu)
    assert not on_gpu.is_pinned()
    with pytest.raises(RuntimeError, match="cannot pin"):
        on_gpu.pin_memory()
    assert lampion.empty(0).pin_memory().numel() == 0


def test_copies_nobody_waits_for(cuda, gpu, any_order):
    source = lampion.arange(1000.0).pin_memory()
    moved = source.to(gpu, non_blocking=True)
    doubled = (moved * 2).to("cpu", non_blocking=True)
    assert doubled.is_pinned()
    cuda.current_stream().synchronize()
    assert doubled.tolist() == (source * 2).tolist()
    target = lampion.zeros(1000, device=gpu)
    target.copy_(source, non_blocking=True)
    back = lampion.empty(1000).pin_memory()
    back.copy_(target, non_blocking=True)
    cuda.synchronize()
    assert back.tolist() == source.tolist()
    pageable = lampion.arange(1000.0)
    moved = pageable.to(gpu, non_blocking=True)
    pageable.zero_()  # it was read before the call returned
    assert moved[999].item() == 999.0


def test_pinned_memory_is_not_used_early(cuda, gpu, any_order):
    results = []
    for k in range(6):  # each block dies while its copy is under way
        results.append(lampion.full((3000,), float(k)).pin_memory().to(gpu, non_blocking=True))
    assert [r.unique().tolist() for r in results] == [[float(k)] for k in range(6)]
    from lampion_cuda.pinned import POOL

    before = POOL.reserved
    gc.collect()
    cuda.synchronize()
    lampion.full((3000,), 1.0).pin_memory()
    assert POOL.reserved == before  # a block was used again
    cuda.empty_cache()
    assert POOL.reserved < before or not before


def test_a_copy_that_is_waited_for_has_read_pinned_memory(cuda, gpu, any_order):
    source = lampion.full((500,), 3.0).pin_memory()
    moved = source.to(gpu)
    source.fill_(9.0)
    assert moved.unique().tolist() == [3.0]


def test_a_loader_gives_pinned_batches(cuda):
    from lampion.utils.data import DataLoader, TensorDataset

    data = TensorDataset(lampion.arange(6.0), lampion.arange(6))
    for batch in DataLoader(data, batch_size=2, pin_memory=True):
        assert all(t.is_pinned() for t in batch)
    from lampion.pinning import pin

    made = pin({"a": [lampion.ones(2)], "b": ("x", lampion.ones(1)), "c": 3})
    assert made["a"][0].is_pinned() and made["b"][1].is_pinned() and made["c"] == 3
    assert not next(iter(DataLoader(data)))[0].is_pinned()


def test_copies_of_views_and_dtypes(cuda, gpu):
    x = lampion.arange(24.0).reshape(4, 6)
    on = lampion.zeros(6, 4, device=gpu)
    on.copy_(x.t())
    assert on.tolist() == x.t().tolist()
    on.t().copy_(x + 1)
    assert on.t().tolist() == (x + 1).tolist()
    host = lampion.zeros(4, 6, dtype=lampion.int32)
    host.copy_(on.t())
    assert host.tolist() == (x + 1).int().tolist()
    row = lampion.zeros(4, 6)
    row[1:3].copy_(on.t()[1:3])
    assert row.tolist()[2] == (x + 1).tolist()[2] and row[3].sum().item() == 0


# ---- sharing -------------------------------------------------------------------------------------

class Shown:
    """An array of another library, by __cuda_array_interface__."""

    def __init__(self, tensor, **changes):
        self.kept = tensor
        self.__cuda_array_interface__ = {**tensor.__cuda_array_interface__, **changes}


class Producer:
    """An array of another library, by DLPack; notes the stream it was asked for."""

    def __init__(self, tensor):
        self.tensor, self.streams = tensor, []

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        return self.tensor.__dlpack__(stream=stream)


def test_dlpack_shares_memory(cuda, gpu):
    x = lampion.arange(12.0, device=gpu).reshape(3, 4)
    made = Producer(x.t())
    y = lampion.from_dlpack(made)
    assert y.data_ptr() == x.data_ptr() and y.shape == (4, 3) and y.stride() == (1, 4)
    assert made.streams == [cuda.current_stream().cuda_stream] and y.is_cuda
    y.mul_(2)
    assert x.tolist() == (lampion.arange(12.0).reshape(3, 4) * 2).tolist()
    assert x.__dlpack_device__() == (2, 0)
    z = lampion.from_dlpack(x.__dlpack__(stream=-1))
    del x, y, made
    gc.collect()
    assert z[2, 3].item() == 22.0
    with pytest.raises(ValueError, match="ambiguous"):
        z.__dlpack__(stream=0)
    assert lampion.from_dlpack(lampion.ones(2, device=gpu).bfloat16().__dlpack__()).dtype \
        is lampion.bfloat16


def test_dlpack_to_the_host(cuda, gpu):
    x = lampion.ones(3, device=gpu)
    assert lampion.from_dlpack(x.__dlpack__(dl_device=(1, 0))).is_cpu
    with pytest.raises(BufferError, match="cannot be given"):
        x.__dlpack__(dl_device=(1, 0), copy=False)
    with pytest.raises(BufferError, match="require gradient"):
        x.requires_grad_().__dlpack__()


def test_dlpack_orders_the_consumers_stream(cuda, gpu, any_order):
    theirs = cuda.Stream()
    x = lampion.zeros(800, device=gpu)
    for _ in range(4):
        x += 1
    capsule = x.__dlpack__(stream=theirs.cuda_stream)
    with cuda.stream(theirs):
        y = lampion.from_dlpack(capsule)
        z = y * 10
    cuda.current_stream().wait_stream(theirs)
    assert z.unique().tolist() == [40.0]


def test_the_array_interface(cuda, gpu):
    x = lampion.arange(12, dtype=lampion.int32, device=gpu).reshape(3, 4)
    shown = x.__cuda_array_interface__
    assert shown["typestr"] == "<i4" and shown["shape"] == (3, 4) and shown["strides"] is None
    assert shown["version"] == 3 and shown["stream"] == cuda.current_stream().cuda_stream
    assert x.t().__cuda_array_interface__["strides"] == (4, 16)
    assert not hasattr(lampion.ones(2), "__cuda_array_interface__")
    assert not hasattr(lampion.ones(2, device=gpu).bfloat16(), "__cuda_array_interface__")
    with pytest.raises(RuntimeError, match="requires grad"):
        _ = lampion.ones(2, device=gpu, requires_grad=True).__cuda_array_interface__
    y = lampion.as_tensor(Shown(x.t()))
    assert y.data_ptr() == x.data_ptr() and y.tolist() == x.t().tolist()
    assert lampion.as_tensor(Shown(x), device="cpu").tolist() == x.tolist()
    copied = lampion.tensor(Shown(x), dtype=lampion.float32)
    assert copied.data_ptr() != x.data_ptr() and copied.dtype is lampion.float32
    assert copied.is_cuda
    with pytest.raises(TypeError, match="mask"):
        lampion.as_tensor(Shown(x, mask=x))
    with pytest.raises(TypeError, match="no dtype"):
        lampion.as_tensor(Shown(x, typestr="<m8"))


def test_the_array_interfaces_stream_comes_first(cuda, gpu, any_order):
    theirs = cuda.Stream()
    theirs.wait_stream(cuda.current_stream())
    with cuda.stream(theirs):
        x = lampion.zeros(700, device=gpu)
        for _ in range(4):
            x += 2
        shown = Shown(x)
    assert (lampion.as_tensor(shown) + 1).unique().tolist() == [9.0]


def test_foreign_memory_is_held_until_work_is_done(cuda, gpu, request):
    """The owner of borrowed memory may free it only after our work on it."""
    if not REAL:
        request.getfixturevalue("simulated").set(deferred=1, seed=0)
    kept = lampion.full((900,), 4.0, device=gpu)
    shown = Shown(kept)
    import weakref

    gone = weakref.ref(shown)
    y = lampion.as_tensor(shown) * 2  # the borrowing tensor dies at once
    del shown
    gc.collect()
    if not REAL:
        assert gone() is not None
    cuda.synchronize()
    cuda.empty_cache()
    assert gone() is None and y.unique().tolist() == [8.0]


# ---- two GPUs ------------------------------------------------------------------------------------

@apart
@pytest.mark.parametrize("settings", [{}, {"deferred": 1, "seed": 1}, {"deferred": 1, "seed": 2}])
def test_two_gpus(settings):
    from programs_apart import run

    run("""
        from lampion import cuda
        assert cuda.device_count() == 2 and cuda.current_device() == 0
        a = lampion.arange(1000.0, device="cuda")
        b = lampion.arange(1000.0, device="cuda:1")
        assert a.device == lampion.device("cuda:0") and b.get_device() == 1
        c = (a * 2).to("cuda:1") + b
        assert c.device.index == 1 and c.tolist() == [3.0 * k for k in range(1000)]
        d = lampion.zeros(1000, device="cuda:0"); d.copy_(c)
        assert d.tolist() == c.tolist()
        try:
            a + b
        except RuntimeError as error:
            assert "cuda:0" in str(error) and "cuda:1" in str(error), error
        else:
            raise AssertionError
        with cuda.device(1):
            assert cuda.current_device() == 1
            assert lampion.ones(3, device="cuda").device.index == 1
            assert lampion.ones(3).cuda().device.index == 1
            assert lampion.randn(3, device="cuda").device.index == 1
        assert lampion.ones(3, device="cuda").device.index == 0
        assert lampion.randn(3, device="cuda").device.index == 0
        assert lampion.ones(3).cuda(1).device.index == 1
        with cuda.device_of(b):
            assert cuda.current_device() == 1
        s = cuda.Stream(device=1)
        with cuda.stream(s):
            assert cuda.current_device() == 1 and cuda.current_stream() is s
            y = lampion.full((10,), 2.0, device="cuda") * 4
        s.synchronize()
        assert y.tolist() == [8.0] * 10 and cuda.current_device() == 0
        assert cuda.can_device_access_peer(0, 1) and not cuda.can_device_access_peer(1, 1)
        lampion.manual_seed(5)
        r = [lampion.rand(4, device=f"cuda:{k}").tolist() for k in range(2)]
        assert r[0] == r[1]
        cuda.manual_seed_all(9)
        assert [g.tolist()[0] for g in cuda.get_rng_state_all()] == [9, 9]
        with lampion.device("cuda:1"):
            assert lampion.zeros(2).device.index == 1 and lampion.tensor([1, 2]).device.index == 1
        import threading
        seen = []
        cuda.set_device(1)
        t = threading.Thread(target=lambda: seen.append(cuda.current_device())); t.start(); t.join()
        assert seen == [0] and cuda.current_device() == 1
        e0, e1 = cuda.Event(), cuda.Event()
        e0.record(cuda.current_stream(0)); cuda.current_stream(1).wait_event(e0)
        try:
            e0.record(cuda.current_stream(1))
        except RuntimeError as error:
            assert "does not match recording stream's device" in str(error)
        else:
            raise AssertionError
        model = lampion.nn.Linear(2, 2).cuda(0)
        assert model.weight.device.index == 0
        try:
            lampion.ones(1, device="cuda:2")
        except RuntimeError as error:
            assert "cuda:2 does not exist: backend 'cuda' has 2" in str(error)
        else:
            raise AssertionError
        assert not simulator.get("violations"), simulator.message()
    """, devices=2, **settings)


@apart
def test_two_gpus_that_do_not_reach_each_other():
    from programs_apart import run

    run("""
        from cuda.bindings import driver
        driver.cuDeviceCanAccessPeer = lambda a, b: (driver.CUresult(0), 0)
        peer = []
        copy, driver.cuMemcpyPeerAsync = driver.cuMemcpyPeerAsync, lambda *a: peer.append(a)
        a = lampion.arange(1000.0, device="cuda:0")
        b = (a * 2).to("cuda:1") + 1
        assert b.tolist() == [2.0 * k + 1 for k in range(1000)] and not peer
        assert not lampion.cuda.can_device_access_peer(0, 1)
        a.copy_(b)
        assert a.tolist() == b.tolist()
        assert not simulator.get("violations"), simulator.message()
    """, devices=2)
