"""L0: memory, copies in and out, views, threads, errors, and what the device says it can."""

from __future__ import annotations

import gc
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lampion
from lampion import plugins
from lampion.base import dtype as dt
from lampion.base.errors import OutOfMemoryError

from .values import bits, wide

SIZES = [0, 1, 2, 3, 4, 7, 8, 15, 16, 63, 64, 65, 255, 4095, 4096, 4097, (1 << 20) + 1, 1 << 26]


def pattern(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 256, n, np.uint8)


def filled(backend: Any, where: Any, data: np.ndarray) -> Any:
    storage = backend.allocate(data.nbytes, where)
    backend.copy_from_host(data, storage)
    return storage


def holds(backend: Any, storage: Any, data: np.ndarray) -> None:
    got = np.frombuffer(backend.copy_to_host(storage, data.nbytes), np.uint8)
    np.testing.assert_array_equal(got, data.view(np.uint8).ravel())


# ---- memory

@pytest.mark.parametrize("size", SIZES)
def test_memory_of_every_size(backend, where, rng, size):
    data = pattern(rng, size)
    storage = filled(backend, where, data)
    assert storage.nbytes == size and storage.offset == 0
    holds(backend, storage, data)


def test_memory_is_aligned_for_every_dtype(backend, where):
    for size in (16, 24, 1000):
        view = backend.host_view(backend.allocate(size, where))
        if view is None:
            pytest.skip("the host does not see the device's memory")
        assert np.frombuffer(view, np.uint8).ctypes.data % 16 == 0
        assert not view.readonly and view.nbytes >= size


def test_storages_do_not_overlap(backend, where, rng):
    kept = [(filled(backend, where, d), d) for d in
            [pattern(rng, int(n)) for n in rng.integers(1, 5000, 60)]]
    for storage, data in kept:
        holds(backend, storage, data)


def test_freed_memory_is_used_again_only_when_it_is_free(backend, where, rng):
    """What is alive keeps its values through hundreds of allocations of the same few sizes."""
    alive: list[tuple[Any, np.ndarray]] = []
    for step in range(300):
        data = pattern(rng, int(rng.choice([16, 100, 256, 4096])))
        alive.append((filled(backend, where, data), data))
        if len(alive) > 12:
            storage, data = alive.pop(int(rng.integers(0, len(alive))))
            holds(backend, storage, data)
            del storage
        if step % 25 == 0:
            for storage, data in alive:
                holds(backend, storage, data)


def test_a_view_keeps_the_memory_alive(backend, where, rng):
    for size in (256, 4096):
        data = pattern(rng, size)
        base = filled(backend, where, data)
        view = base.view(32).view(16)
        del base
        gc.collect()
        others = [filled(backend, where, pattern(rng, size)) for _ in range(20)]
        holds(backend, view, data[48:])
        del others


def test_freed_memory_comes_back(backend, where):
    """Forty times 4 MiB, one after the other, do not add up."""
    data = np.ones(1 << 22, np.uint8)

    def used() -> int:
        return int(backend.memory_stats(where).get("allocated", 0))

    def resident() -> int:
        status = Path("/proc/self/statm")
        return int(status.read_text().split()[1]) * 4096 if status.exists() else 0

    for _ in range(3):
        filled(backend, where, data)
    gc.collect()
    before = used(), resident()
    for _ in range(40):
        filled(backend, where, data)
    gc.collect()
    backend.synchronize(where)
    assert used() - before[0] < 16 * data.nbytes, "the device's count of bytes in use grows"
    assert resident() - before[1] < 16 * data.nbytes, "the process grows"


def test_out_of_memory_is_an_error_of_its_own_and_not_the_end(backend, where, device, rng):
    for size in (1 << 50, (1 << 62) + 5):
        with pytest.raises(OutOfMemoryError) as caught:
            backend.allocate(size, where)
        assert re.search(r"\d+ bytes|\d [KMGTPE]i?B", str(caught.value)), caught.value
    with pytest.raises(OutOfMemoryError):
        lampion.empty(1 << 48, device=device)
    data = pattern(rng, 1000)
    holds(backend, filled(backend, where, data), data)


# ---- copies

@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, np.array],
                         ids=["bytes", "bytearray", "memoryview", "array"])
def test_copies_in_take_anything_like_bytes(backend, where, rng, form):
    data = pattern(rng, 77)
    storage = backend.allocate(77, where)
    backend.copy_from_host(form(data), storage)
    holds(backend, storage, data)


def test_a_copy_in_owns_its_values(backend, where, rng):
    data = pattern(rng, 5000)
    storage, kept = backend.allocate(5000, where), data.copy()
    backend.copy_from_host(data, storage)
    data[:] = 0
    holds(backend, storage, kept)


def test_a_copy_out_owns_its_values(backend, where, rng):
    data = pattern(rng, 5000)
    storage = filled(backend, where, data)
    got = bytes(backend.copy_to_host(storage, 5000))
    backend.copy_from_host(np.zeros(5000, np.uint8), storage)
    backend.synchronize(where)
    assert got == data.tobytes()


def test_partial_copies_touch_nothing_else(backend, where, rng):
    data, part = pattern(rng, 1000), pattern(rng, 10)
    storage = filled(backend, where, data)
    for at in (0, 1, 7, 500, 990):
        backend.copy_from_host(part, storage.view(at))
        data[at:at + 10] = part
        holds(backend, storage, data)
        holds(backend, storage.view(at), data[at:at + 10])
    backend.copy_from_host(b"", storage.view(1000))
    holds(backend, storage.view(1000), data[:0])


def test_views_of_views_start_where_they_say(backend, where, rng):
    data = pattern(rng, 300)
    base = filled(backend, where, data)
    view = base.view(100)
    inner = view.view(50).view(25)
    assert (view.offset, inner.offset, inner.nbytes) == (100, 175, 125)
    assert inner.base is base and view.base is base and base.base is base
    holds(backend, inner, data[175:])
    backend.copy_from_host(b"\1\2\3", inner)
    data[175:178] = 1, 2, 3
    holds(backend, base, data)


def test_a_view_outside_of_its_memory_is_an_error(backend, where):
    base = backend.allocate(100, where)
    base.view(100)
    for wrong in (lambda: base.view(101), lambda: base.view(60).view(41),
                  lambda: base.view(10).view(-11)):
        with pytest.raises(IndexError):
            wrong()


def test_copies_within_the_device(backend, where, rng):
    for n in (1, 64, 5001):
        data = pattern(rng, n + 16)
        source, target = filled(backend, where, data), filled(backend, where, data[::-1].copy())
        if not backend.copy(source.view(8), target.view(16), n):
            pytest.skip("the device copies through the host")
        want = data[::-1].copy()
        want[16:16 + n] = data[8:8 + n]
        holds(backend, target, want)
        holds(backend, source, data)


@pytest.mark.parametrize("d", dt.ALL, ids=lambda d: d.name)
def test_tensors_travel_unchanged(device, d):
    """Every bit pattern of every dtype there and back, also by way of other devices."""
    rng = np.random.default_rng(1)
    size = 64 * d.itemsize
    a = rng.integers(0, 2 if d.kind == "b" else 256, size, np.uint8).view(d.np)
    t = lampion.tensor(a).to(device)
    assert t.dtype is d and t.device == lampion.device(device)
    for way in (t, t.to("cpu").to(device)):
        assert bits(way) == a.tobytes()
    part = t[3:].view(61)[5:]
    assert bits(part) == a[8:].tobytes()
    assert part.storage_offset() == 8


def test_empty_and_zero_dimensional_tensors_travel(device):
    for shape in ((), (0,), (2, 0, 3), (1, 1)):
        a = np.ones(shape, np.float32)
        got = lampion.tensor(a).to(device).cpu()
        assert tuple(got.shape) == shape and got.numpy().tobytes() == a.tobytes()


# ---- order of work

def test_a_read_waits_for_all_work(device, backend, where):
    """Long kernels, one on the other's result, then a read without a synchronization."""
    for n in (1, 1 << 18):
        x = lampion.zeros(n, device=device)
        for _ in range(25):
            x = x + 1
        got = x.cpu().numpy()
        assert got[0] == got[-1] == 25 and (got == 25).all()
    backend.synchronize(where)


def test_writes_and_reads_keep_their_order(device):
    x = lampion.zeros(1 << 16, device=device)
    for k in range(5):
        y = x * 2
        x.fill_(k + 1.0)
        assert (y.cpu().numpy() == 2.0 * k).all()


def test_threads(device, backend, where):
    """Four threads allocate, compute in several stages, and read, at the same time."""
    wrong: list[str] = []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            start.wait()
            for _ in range(12):
                a = rng.standard_normal((9, 50 + seed)).astype(np.float32)
                t = lampion.tensor(a).to(device)
                e = np.exp(a - a.max(-1, keepdims=True))
                got = (t - t.amax(-1, keepdim=True)).exp()
                got = (got / got.sum(-1, keepdim=True)).cpu().numpy()
                np.testing.assert_allclose(got, e / e.sum(-1, keepdims=True), 1e-5, 1e-6)
                softmax = t.softmax(-1).cpu().numpy()
                np.testing.assert_allclose(softmax, e / e.sum(-1, keepdims=True), 1e-5, 1e-6)
                data = pattern(rng, 3000)
                holds(backend, filled(backend, where, data), data)
        except BaseException as error:
            wrong.append(f"thread {seed}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[0]


# ---- fill, and the count of writes

@pytest.mark.parametrize("d", dt.ALL, ids=lambda d: d.name)
def test_fill(device, caps, d):
    if d not in caps.dtypes:
        pytest.skip(f"the device does not claim {d.name}")
    for shape in ((), (1,), (7,), (0, 2), (3, 5), (9001,)):
        one = lampion.full(shape, 1, dtype=d, device=device).cpu()
        assert one.dtype is d and (wide(one) == 1).all()
        assert tuple(one.shape) == shape
    x = lampion.ones(6, 8, dtype=d, device=device)
    x[1::2, 3:5].zero_()
    want = np.ones((6, 8))
    want[1::2, 3:5] = 0
    np.testing.assert_array_equal(wide(x), want)


def test_writes_are_counted_on_the_base(device):
    """Autograd relies on it: what was saved for a gradient and written to since is an error."""
    x = lampion.ones(6, device=device)
    before = x._version
    x[2:][1:].fill_(3)
    assert x._version > before and x[2:]._version == x._version
    x = lampion.ones(6, device=device, requires_grad=True)
    y = x.exp()
    y.detach()[1:].fill_(0)
    with pytest.raises(RuntimeError, match=r"inplace|in place"):
        y.sum().backward()


# ---- what the device says

def test_capabilities_are_dtypes_and_words(caps):
    assert caps.dtypes and all(isinstance(d, dt.dtype) for d in caps.dtypes)
    assert dt.float32 in caps.dtypes, "a device without float32 runs no network"
    assert all(isinstance(f, str) for f in caps.features)


@pytest.mark.parametrize("d", dt.ALL, ids=lambda d: d.name)
def test_dtypes_are_what_the_device_claims(device, caps, d):
    """Arithmetic in every claimed dtype; in every other an error that names op, dtype, device."""
    a = lampion.ones(5, dtype=d).to(device)
    if d in caps.dtypes:
        got = (a * a).cpu()
        assert got.dtype is d and (wide(got) == 1).all()
        return
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        a * a
    said = str(caught.value)
    for word in ("mul", d.name, device.partition(":")[0]):
        assert word in said, f"the error does not name {word!r}: {said}"


def test_host_memory_is_what_it_says(backend, where, caps, rng):
    data = pattern(rng, 64)
    view = backend.host_view(filled(backend, where, data))
    assert (view is not None) == ("host-memory" in caps.features)
    if view is not None:
        assert bytes(view[:64]) == data.tobytes()


def test_tensors_of_two_devices_do_not_mix(device):
    other = "cpu" if device != "cpu" else next(
        (n for n in plugins.backend_names() if n == "ref"), None)
    if other is None:
        pytest.skip("no second device")
    with pytest.raises(RuntimeError) as caught:
        lampion.ones(2, device=device) + lampion.ones(2, device=other)
    assert "add" in str(caught.value) and device in str(caught.value) and other in str(caught.value)


def test_a_device_that_does_not_exist_is_named(where, backend):
    many = len(backend.devices())
    with pytest.raises(RuntimeError, match=f"{where.type}:{many + 7}"):
        lampion.ones(2, device=f"{where.type}:{many + 7}")


def test_descriptions(backend):
    for info in backend.devices():
        assert info.name and info.description and isinstance(info.details, dict)


def test_two_devices_of_one_backend(backend, where, rng):
    if len(backend.devices()) < 2:
        pytest.skip("there is one device")
    first, second = (f"{where.type}:{k}" for k in range(2))
    a = rng.standard_normal(1000).astype(np.float32)
    x = lampion.tensor(a).to(first)
    y = x.to(second)
    assert str(y.device) == second
    x.zero_()
    np.testing.assert_array_equal(y.cpu().numpy(), a)
    np.testing.assert_array_equal((y + y).cpu().numpy(), a + a)
    with pytest.raises(RuntimeError, match="same device"):
        x + y
