"""Sequences of launches, which compiled graphs run: memory and numbers that change between calls,
memory that is freed, random numbers, threads, errors. In both schedules."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

import lampion
from lampion.base import dtype as dt
from lampion.base.device import device
from lampion.base.meta import meta
from lampion.runtime.backend import Launch
from lampion.runtime.lowering import Nest

WHERE = device("opencl")
N = 1000


def adding(backend):
    """The launch of a + b."""
    m = meta(dt.float32, (N,), None, WHERE)
    nest = Nest("add", (N,), (), compute=dt.float32)
    o = nest.output(m, (1,))
    a, b = nest.input(m, (1,)), nest.input(m, (1,))
    nest.start()
    nest.store(o, a() + b(), inner=False)
    return backend.program(nest.program(), [m.span], WHERE)


def numbers(backend, array):
    s = backend.allocate(array.nbytes, WHERE)
    backend.copy_from_host(array, s)
    return s


def read(backend, storage, count=N):
    return np.frombuffer(backend.copy_to_host(storage, 4 * count), np.float32)


@pytest.fixture
def add(backend):
    """y = a + b + b, through a block of memory whose second half is used."""
    one = adding(backend)
    parts = [(one, [(2, 4 * N), (0, 0), (1, 0)]), (one, [(3, 0), (2, 4 * N), (1, 0)])]
    return backend.sequence(parts, "ssss", {}, WHERE)


def floats(k):
    return np.random.default_rng(k).standard_normal(N).astype(np.float32)


def test_other_memory_in_every_call(backend, add):
    block = backend.allocate(8 * N, WHERE)
    for k in range(5):
        a, b = floats(k), floats(k + 9)
        out = backend.allocate(4 * N, WHERE)
        add(numbers(backend, a), numbers(backend, b), block, out)
        np.testing.assert_array_equal(read(backend, out), a + b + b)


def test_views_at_other_offsets(backend, add):
    block, many = backend.allocate(8 * N, WHERE), numbers(backend, np.concatenate(
        [floats(k) for k in range(4)]))
    b = floats(7)
    for k in (0, 2, 1, 1, 3):
        out = backend.allocate(4 * (N + 8), WHERE).view(32)
        add(many.view(4 * N * k), numbers(backend, b), block, out)
        np.testing.assert_array_equal(read(backend, out), floats(k) + b + b)


def test_freed_memory_is_not_used_again(backend, add):
    """The buffers of one call are given back to the driver before the next."""
    for k in range(3):
        a, b = floats(k), floats(k + 9)
        out = backend.allocate(4 * N, WHERE)
        add(numbers(backend, a), numbers(backend, b), backend.allocate(8 * N, WHERE), out)
        np.testing.assert_array_equal(read(backend, out), a + b + b)
        del out
        gc.collect()
        backend.empty_cache()


def test_constants_live_as_long_as_the_sequence(backend):
    one = adding(backend)
    held = numbers(backend, floats(1))
    run = backend.sequence([(one, [(2, 0), (0, 0), (1, 0)])], "sss", {1: held}, WHERE)
    del held
    gc.collect()
    backend.empty_cache()
    out = backend.allocate(4 * N, WHERE)
    run(numbers(backend, floats(2)), out)
    np.testing.assert_array_equal(read(backend, out), floats(1) + floats(2))


def test_a_launch_that_is_no_list_of_kernels(backend):
    """It is called between the others, with views where the graph has offsets."""
    one = adding(backend)
    seen = []

    def into(*storages):
        seen.append([s.offset for s in storages])
        one.into(*storages)

    apart = Launch(one.launch, into)
    parts = [(one, [(2, 0), (0, 0), (1, 0)]), (apart, [(2, 4 * N), (2, 0), (1, 0)]),
             (one, [(3, 0), (2, 4 * N), (1, 0)])]
    run = backend.sequence(parts, "ssss", {}, WHERE)
    a, b = floats(1), floats(2)
    out = backend.allocate(4 * N, WHERE)
    run(numbers(backend, a), numbers(backend, b), backend.allocate(8 * N, WHERE), out)
    np.testing.assert_array_equal(read(backend, out), a + b + b + b)
    assert seen == [[4 * N, 0, 0]]


def test_wrong_arguments_are_refused(backend, add):
    good = [numbers(backend, floats(k)) for k in range(2)]
    block, out = backend.allocate(8 * N, WHERE), backend.allocate(4 * N, WHERE)
    with pytest.raises(TypeError, match="storage of this backend, not NoneType"):
        add(good[0], None, block, out)
    add(*good, block, out)
    np.testing.assert_array_equal(read(backend, out), floats(0) + floats(1) + floats(1))


def test_threads_do_not_mix_their_memory(backend, add):
    wrong = []

    def work(seed):
        block = backend.allocate(8 * N, WHERE)
        for k in range(seed, seed + 20):
            a, b = floats(k), floats(k + 1)
            out = backend.allocate(4 * N, WHERE)
            add(numbers(backend, a), numbers(backend, b), block, out)
            if not (read(backend, out) == a + b + b).all():
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(100 * k,)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_calls_that_nobody_waits_for_are_not_held_back_for_ever(backend, add):
    if backend.open(0).gate is None:
        pytest.skip("nothing is held back on this device")
    from lampion_opencl.gate import BATCH

    gate = backend.open(0).gate
    memory = [numbers(backend, floats(k)) for k in range(2)]
    memory += [backend.allocate(8 * N, WHERE), backend.allocate(4 * N, WHERE)]
    seen = set()
    for _ in range(BATCH):
        add(*memory)
        seen.add(gate.event)
    assert seen == {None} or len(seen) > 1  # never held, or let go in between
    np.testing.assert_array_equal(read(backend, memory[3]), floats(0) + floats(1) + floats(1))


@pytest.fixture
def here():
    try:
        return lampion.zeros(1, device="opencl").device
    except RuntimeError as error:
        pytest.skip(str(error))


def test_random_numbers_and_numbers_that_change(here):
    """Keys and offsets of the generator are arguments of every call."""
    def noisy(x):
        return lampion.nn.functional.dropout(x * 2, 0.5) + lampion.rand_like(x)

    f, x = lampion.compile(noisy), lampion.ones(333, device=here)
    for seed in (3, 4, 2**63 + 5):
        lampion.manual_seed(seed)
        want = [noisy(x) for _ in range(4)]
        lampion.manual_seed(seed)
        for w in want:
            assert (f(x) == w).all()
    assert not (want[0] == want[1]).all()


def test_an_index_out_of_range(here):
    table, f = lampion.randn(5, 3, device=here), lampion.compile(lambda t, k: t[k] * 2)
    k = lampion.tensor([0, 4, 2], device=here)
    for _ in range(3):
        assert (f(table, k) == table[k] * 2).all()
    with pytest.raises(IndexError):
        f(table, lampion.tensor([0, 5, 2], device=here))
    assert (f(table, k) == table[k] * 2).all()
