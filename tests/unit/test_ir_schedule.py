"""Splitting large reductions: the same results as the whole kernel, in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from lampion.base import dtype as dt
from lampion.ir import expr as E
from lampion.ir import interpret, schedule
from lampion.ir.kernel import (
    Arg,
    ArgReduce,
    Kernel,
    KernelCall,
    Params,
    Program,
    Reduce,
    Scan,
    Stage,
    Store,
)


def typed(e, d=dt.float64):
    return E.typed([E.wrap(e)], {}, d)[0]


def run(program, arrays, io):
    """Interpret a program; `arrays` are its outputs and inputs."""
    slots = list(arrays) + [None] * len(program.scratch)
    kinds = {}
    for call in program.calls:
        for arg, slot in zip(call.kernel.args, call.slots):
            kinds[slot] = arg.dtype
    for k, nbytes in enumerate(program.scratch):
        d = kinds[io + k]
        slots[io + k] = np.zeros(nbytes // d.itemsize, d.np)
    for call in program.calls:
        interpret.run(call.kernel, call.params, [slots[k] for k in call.slots])
    return arrays


def softmax(rows, cols, contiguous):
    p = Params()
    g, r = p.of(rows), p.of(cols)
    at = E.index(0) * r + E.index(1) if contiguous else (
        E.index(1) * g + E.index(0))
    at = typed(at, dt.int64)
    x = E.load(1, at, dt.float64)
    m, s = E.ref("m", dt.float64), E.ref("s", dt.float64)
    stages = (Stage((r,), (Reduce("m", "max", x),)),
              Stage((r,), (Reduce("s", "sum", typed(x - m)),)),
              Stage((r,), (Store(0, at, typed((x - m) / s)),)),
              Stage((), (Store(2, E.index(0), s),)))
    args = (Arg("out", dt.float64), Arg("in", dt.float64), Arg("out", dt.float64))
    kernel = Kernel("shares", args, (g,), stages, len(p.values))
    return Program((KernelCall(kernel, tuple(p.values), (0, 2, 1)),))


@pytest.mark.parametrize("rows,cols", [(1, 300), (3, 257), (5, 128)])
@pytest.mark.parametrize("contiguous", [True, False])
def test_stages_that_depend_on_each_other(monkeypatch, rows, cols, contiguous):
    monkeypatch.setattr(schedule, "PART", 16)
    monkeypatch.setattr(schedule, "LARGE", 32)
    program = softmax(rows, cols, contiguous)
    parts = schedule.split(program)
    assert len(parts.calls) >= 4 and len(parts.scratch) == 2
    x = np.random.default_rng(0).standard_normal(rows * cols)
    whole = run(program, [np.zeros(rows * cols), np.zeros(rows), x], 3)
    mine = run(parts, [np.zeros(rows * cols), np.zeros(rows), x], 3)
    np.testing.assert_allclose(mine[0], whole[0], rtol=1e-10)
    np.testing.assert_allclose(mine[1], whole[1], rtol=1e-10)


@pytest.mark.parametrize("n", [64, 100, 4097])
def test_arg_reduction_keeps_the_first(monkeypatch, n):
    monkeypatch.setattr(schedule, "PART", 16)
    monkeypatch.setattr(schedule, "LARGE", 32)
    x = np.random.default_rng(n).integers(0, 4, n).astype(np.float32)
    load = E.load(1, E.index(0), dt.float32)
    stages = (Stage((E.param(0),), (ArgReduce("r", "max", load, E.index(0)),)),
              Stage((), (Store(0, E.const(0, dt.int64), E.ref("r", dt.int64)),)))
    kernel = Kernel("argmax", (Arg("out", dt.int64), Arg("in", dt.float32)), (), stages, 1)
    program = schedule.split(Program((KernelCall(kernel, (n,), (0, 1)),)))
    assert len(program.calls) > 1
    out = run(program, [np.zeros(1, np.int64), x], 2)
    assert out[0][0] == x.argmax()


def test_small_or_parallel_problems_are_left_alone():
    program = softmax(4, 1000, True)
    assert schedule.split(program) is program
    program = softmax(100, 200000, True)
    assert schedule.split(program) is program


def test_several_ranges(monkeypatch):
    monkeypatch.setattr(schedule, "PART", 16)
    monkeypatch.setattr(schedule, "LARGE", 32)
    sizes = (3, 50, 7)
    p = Params()
    n = [p.of(k) for k in sizes]
    at = typed((E.index(0) * n[1] + E.index(1)) * n[2] + E.index(2), dt.int64)
    stages = (Stage((n[0], n[1], n[2]), (Reduce("s", "sum", E.load(1, at, dt.float64)),)),
              Stage((), (Store(0, E.const(0, dt.int64), E.ref("s", dt.float64)),)))
    kernel = Kernel("total", (Arg("out", dt.float64), Arg("in", dt.float64)), (), stages, 3)
    program = schedule.split(Program((KernelCall(kernel, sizes, (0, 1)),)))
    x = np.arange(3 * 50 * 7, dtype=np.float64)
    out = run(program, [np.zeros(1), x], 2)
    assert out[0][0] == x.sum()


def test_keys_tell_kernels_apart_by_parameters_that_they_do_not_use():
    store = Store(0, typed(E.const(0), dt.int64), typed(E.const(True), dt.bool_))
    one, two = (Kernel("f", (Arg("out", dt.bool_),), (), (Stage((), (store,)),), n) for n in (1, 2))
    assert one.key != two.key


@pytest.mark.parametrize("shape,inner", [((300_000,), 0), ((3, 50_001), 1), ((40_000, 3), 0)])
def test_many_parts_for_thousands_of_threads(shape, inner):
    """Enough of them to keep a large device busy, whose first elements are aligned."""
    p = Params()
    ns = [p.of(n) for n in shape]
    axes = {k: E.index(len(shape) - 1) if k == inner else E.index(0) for k in range(len(shape))}
    at = typed(sum((axes[k] * ns[1] if k == 0 and len(shape) > 1 else axes[k]
                    for k in range(len(shape))), E.const(0, dt.int64)), dt.int64)
    x = E.load(1, at, dt.int64)
    grid = tuple(n for k, n in enumerate(ns) if k != inner)
    stages = (Stage((ns[inner],), (Reduce("s", "sum", x),)),
              Stage((), (Store(0, E.index(0) if grid else E.const(0, dt.int64),
                               E.ref("s", dt.int64)),)))
    kernel = Kernel("sums", (Arg("out", dt.int64), Arg("in", dt.int64)), grid, stages,
                    len(p.values))
    program = Program((KernelCall(kernel, tuple(p.values), (0, 1)),))
    mine = schedule.split(program, threads=True)
    parts = mine.calls[0].params[len(p.values)]
    assert parts >= (2 if inner else 16)
    data = np.random.default_rng(0).integers(-100, 100, shape)
    size = int(np.prod(shape)) // shape[inner]
    out = run(mine, [np.zeros(size, np.int64), data.ravel().copy()], 2)
    assert (out[0] == data.sum(inner).ravel()).all()
    if inner or len(shape) == 1:
        assert mine.calls[0].params[len(p.values) + 1] % schedule.ALIGNED == 0


@pytest.mark.parametrize("op", ["sum", "max", "min", "prod"])
@pytest.mark.parametrize("rows,n", [(1, 256), (1, 300), (3, 300)])
@pytest.mark.parametrize("down", [False, True])
def test_long_scans_in_parts(monkeypatch, op, rows, n, down):
    monkeypatch.setattr(schedule, "ROW_PART", 32)
    monkeypatch.setattr(schedule, "COLUMN_PART", 4)
    monkeypatch.setattr(schedule, "ALIGNED", 8)
    p = Params()
    g, r = p.of(rows), p.of(n)
    at = E.index(1) * g + E.index(0) if down else E.index(0) * r + E.index(1)
    at = typed(at, dt.int64)
    stage = Stage((r,), (Scan("s", op, E.load(1, at, dt.int64)),
                         Store(0, at, typed(E.ref("s", dt.int64) * 2, dt.int64))))
    kernel = Kernel("running", (Arg("out", dt.int64), Arg("in", dt.int64)), (g,), (stage,),
                    len(p.values))
    program = Program((KernelCall(kernel, tuple(p.values), (0, 1)),))
    assert schedule.split(program) is program
    mine = schedule.split(program, threads=True)
    names = [c.kernel.name for c in mine.calls]
    assert names[:3] == ["running_part", "running_chain", "running_own"]
    assert len(names) == (3 if n == 256 else 4)  # the rest is a call of its own
    x = np.random.default_rng(1).integers(-9, 10, (rows, n))
    x[x == 0] = 1
    function = {"sum": np.cumsum, "max": np.maximum.accumulate, "min": np.minimum.accumulate,
                "prod": np.cumprod}[op]
    x = x.T if down else x
    out = run(mine, [np.zeros(rows * n, np.int64), x.ravel().copy()], 2)
    assert (out[0].reshape(x.shape) == 2 * function(x, 0 if down else 1)).all()


def test_the_longest_stage_decides_along_which_axis_threads_lie():
    """Partial results lie side by side over the grid; the rows that use them lie along a range."""
    from lampion.ir import cfamily_threads

    i = [E.index(k) for k in range(3)]
    n, m, parts = (E.param(k) for k in range(3))
    partial = E.load(1, typed(i[1] * n + i[0], dt.int64), dt.float32)
    first = Stage((typed(parts, dt.int64),), (Reduce("r1", "sum", partial),))
    at = typed(i[0] * m + i[1], dt.int64)
    value = E.typed([E.load(2, at, dt.float32) - E.ref("r1", dt.float32)], {}, dt.float32)[0]
    second = Stage((typed(m, dt.int64),), (Store(0, at, value),))
    kernel = Kernel("centred", (Arg("out", dt.float32), Arg("in", dt.float32),
                                Arg("in", dt.float32)), (typed(n, dt.int64),), (first, second), 3)
    variant = cfamily_threads.choose(kernel, (64, 1 << 16, 4), 1024)
    assert variant.shape == "team" and not variant.across
    assert cfamily_threads.choose(kernel, (4096, 4, 4096), 1024).across
