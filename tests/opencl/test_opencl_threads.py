"""The schedule for thousands of threads against the interpreter: tails, offsets, teams, columns."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lampion.base import dtype as dt
from lampion.base.device import device
from lampion.ir import cfamily_packed, cfamily_threads, interpret
from lampion.ir import expr as E
from lampion.ir.kernel import (
    Arg,
    Kernel,
    KernelCall,
    Params,
    Program,
    Reduce,
    Scan,
    Scatter,
    Stage,
    Store,
    dot,
)
from lampion.testing import kernel_checks
from lampion.testing.kernel_checks import same, typed

WHERE = device("opencl")
rng = np.random.default_rng(1)


gpu = pytest.mark.parametrize("backend", ["gpu"], indirect=True)


def sample(d, n, kind="small"):
    return kernel_checks.sample(rng, d, n, kind)


def run(backend, kernel, params, buffers, offsets=None):
    """Launch on copies that begin `offsets` elements into their storages; gives all buffers."""
    made = backend.program(
        Program((KernelCall(kernel, tuple(params), tuple(range(len(kernel.args)))),)), (), WHERE)
    stores, args = [], []
    for arg, b, off in zip(kernel.args, buffers, offsets or [0] * len(buffers)):
        if arg.kind == "scalar":
            stores.append(b)
            args.append(b)
            continue
        whole = np.zeros(off + b.size, b.dtype)
        whole[off:] = b
        s = backend.allocate(max(1, whole.nbytes), WHERE)
        backend.copy_from_host(whole.view(np.uint8), s)
        stores.append(s)
        args.append(s.view(off * b.itemsize) if off else s)
    made.into(*args)
    out = []
    for arg, b, s, off in zip(kernel.args, buffers, stores, offsets or [0] * len(buffers)):
        out.append(b if arg.kind == "scalar" else np.frombuffer(
            backend.copy_to_host(s, (off + b.size) * b.itemsize), b.dtype)[off:])
    return out


def check(backend, kernel, params, buffers, offsets=None, ulps=0.0):
    want = [b.copy() if isinstance(b, np.ndarray) else b for b in buffers]
    got = run(backend, kernel, params, buffers, offsets)
    interpret.run(kernel, params, want)
    for k, arg in enumerate(kernel.args):
        if arg.kind == "out":
            same(got[k], want[k], ulps, f"slot {k} of {kernel}\nparams {params} at {offsets}")


def pointwise(kinds, fn, out, shape, strides):
    """out[...] = fn(loads), every operand (the output first) with its strides."""
    p = Params()
    grid = tuple(p.of(n) for n in shape)
    axes = [E.index(k) for k in range(len(shape))]
    at = [dot(axes, [p.stride(s) for s in row]) for row in strides]
    loads = [E.load(1 + k, at[1 + k], d) for k, d in enumerate(kinds)]
    args = (Arg("out", out), *(Arg("in", d) for d in kinds))
    body = Store(0, at[0], typed(fn(*loads), out))
    return Kernel("pointwise", args, grid, (Stage((), (body,)),), len(p.values)), p.values


def memory(d, shape, strides):
    return sample(d, 1 + sum((n - 1) * abs(s) for n, s in zip(shape, strides)))


def both(x, y):
    return E.select(E.ne(x, y), x, y)


@gpu
@pytest.mark.parametrize("d", [dt.float32, dt.bfloat16, dt.bool_, dt.int64, dt.int8, dt.float64],
                         ids=lambda d: d.name)
def test_every_tail_and_offset(backend, d):
    """Also addresses that no vector access could take."""
    for n in (1, 3, 8, 63, 256, 1027, 4099):
        kernel, params = pointwise([d, d], both, d, (n,), [(1,), (1,), (1,)])
        data = [np.zeros(n, d.np), sample(d, n), sample(d, n)]
        for offsets in ((0, 0, 0), (1, 0, 0), (0, 3, 0), (2, 2, 2)):
            check(backend, kernel, params, data, offsets)


@gpu
@pytest.mark.parametrize("kinds,out", [
    ((dt.float32, dt.int64), dt.bool_), ((dt.bfloat16, dt.float32), dt.float32),
    ((dt.uint8, dt.float64), dt.float16)], ids=str)
def test_operands_of_several_widths(backend, kinds, out):
    def less(x, y):
        a, b = E.cast(x, dt.float32), E.cast(y, dt.float32)
        return a < b if out is dt.bool_ else E.cast(E.select(a < b, a, b), out)

    for n in (7, 513, 2048):
        kernel, params = pointwise(kinds, less, out, (n,), [(1,), (1,), (1,)])
        data = [np.zeros(n, out.np), *(sample(d, n) for d in kinds)]
        check(backend, kernel, params, data)
        check(backend, kernel, params, data, (1, 1, 0))


@gpu
@pytest.mark.parametrize("shape,strides", [
    ((6, 40), [(40, 1), (40, 1), (0, 1)]), ((6, 40), [(40, 1), (40, 1), (1, 0)]),
    ((5, 37), [(37, 1), (37, 1), (0, 1)]), ((33, 48), [(48, 1), (1, 33), (48, 1)]),
    ((4, 6, 24), [(144, 24, 1), (150, 25, 1), (0, 24, 1)]),
    ((70, 128), [(130, 1), (128, 1), (0, 0)]), ((9, 64), [(64, 1), (-64, 1), (64, 1)]),
], ids=str)
def test_rows_that_are_no_multiples(backend, shape, strides):
    for d in (dt.float32, dt.bfloat16):
        kernel, params = pointwise([d, d], both, d, shape, [
            tuple(map(abs, s)) for s in strides])
        check(backend, kernel, params, [memory(d, shape, s) for s in strides])


@gpu
@pytest.mark.parametrize("shape,strides", [
    ((40, 70), [(70, 1), (1, 40), (70, 1)]), ((33, 65), [(65, 1), (1, 33), (1, 40)]),
    ((3, 50, 20), [(1000, 20, 1), (1000, 1, 50), (20, 0, 1)]),
    ((40, 3, 50), [(150, 50, 1), (1, 40, 120), (0, 50, 1)]),
], ids=str)
def test_transposes_go_through_tiles(backend, shape, strides):
    for d in (dt.float32, dt.bfloat16, dt.bool_, dt.int64):
        kernel, params = pointwise([d, d], both, d, shape, strides)
        assert cfamily_threads.choose(kernel, params).shape == "tile"
        check(backend, kernel, params, [memory(d, shape, s) for s in strides])


@gpu
def test_large_transposes_take_larger_tiles(backend):
    shape = (1030, 1050)
    for d in (dt.float32, dt.bfloat16):
        kernel, params = pointwise([d], lambda x: x, d, shape, [(1050, 1), (1, 1030)])
        assert cfamily_threads.choose(kernel, params).vector == 64
        check(backend, kernel, params, [np.zeros(1030 * 1050, d.np), memory(d, shape, (1, 1030))])


def shares(d, rows, cols, pitch, columns=False):
    """Three stages like softmax's: x - max, divided by the sum of |x - max| + 1."""
    p = Params()
    g, r = (p.of(rows),), (p.of(cols),)
    step = [1, p.stride(rows)] if columns else [p.stride(pitch), 1]
    at = dot([E.index(0), E.index(1)], step)
    x = E.load(1, at, d)
    if d.itemsize == 2:
        x = typed(E.cast(x, dt.float32), dt.float32)
    wide = x.dtype
    m, s = E.ref("m", wide), E.ref("s", wide)
    value = typed((x - m) / (s + 1.0), wide)
    stages = (Stage(r, (Reduce("m", "max", x),)),
              Stage(r, (Reduce("s", "sum", typed(E.abs_(x - m), wide)),)),
              Stage(r, (Store(0, at, typed(E.cast(value, d), d) if wide is not d else value),)),
              Stage((), (Store(2, E.index(0), s),)))
    args = (Arg("out", d), Arg("in", d), Arg("out", wide))
    kernel = Kernel("shares", args, g, stages, len(p.values))
    size = rows * cols if columns else (rows - 1) * pitch + cols
    data = rng.integers(-8, 9, size).astype(d.np)  # sums of these are exact in any order
    return kernel, p.values, [np.zeros(size, d.np), data, np.zeros(rows, wide.np)]


@gpu
@pytest.mark.parametrize("cols", [1, 2, 3, 8, 31, 33, 100, 127, 128, 256, 1000, 1001, 5000])
def test_rows_shared_by_teams(backend, cols):
    for d in (dt.float32, dt.bfloat16):
        for rows in (1, 5):
            kernel, params, data = shares(d, rows, cols, cols)
            check(backend, kernel, params, data, ulps=2)
        check(backend, kernel, params, data, (1, 3, 0), ulps=2)
    check(backend, *shares(dt.float64, 3, cols, cols + 1), ulps=2)


@gpu
@pytest.mark.parametrize("rows,cols", [(1, 9), (40, 3), (40, 100), (130, 64), (33, 1000)])
def test_columns_shared_by_teams(backend, rows, cols):
    for d in (dt.float32, dt.bfloat16):
        check(backend, *shares(d, rows, cols, 0, columns=True), ulps=2)


def scanned(d, rows, cols, columns):
    """Two running results, of which the second builds on the first."""
    p = Params()
    g, r = (p.of(rows),), (p.of(cols),)
    at = dot([E.index(0), E.index(1)], [1, p.stride(rows)] if columns else [p.stride(cols), 1])
    x, s, m = E.load(1, at, d), E.ref("s", d), E.ref("m", d)
    body = (Scan("s", "sum", x), Store(0, at, typed(s - x, d)), Scan("m", "max", s),
            Store(2, at, m))
    args = (Arg("out", d), Arg("in", d), Arg("out", d))
    data = rng.integers(-2, 3, rows * cols).astype(d.np)
    kernel = Kernel("scanned", args, g, (Stage(r, body),), len(p.values))
    return kernel, p.values, [np.zeros_like(data), data, np.zeros_like(data)]


@gpu
@pytest.mark.parametrize("rows,cols,columns", [
    (3, 33, False), (1, 5000, False), (5, 1000, False), (9, 64, False), (2, 1027, False),
    (40, 200, True), (3, 500, True)])
def test_scans(backend, rows, cols, columns):
    for d in (dt.float32, dt.int64, dt.int8, dt.float16):
        check(backend, *scanned(d, rows, cols, columns))


def scattered(d, op, rows, count, width, kind, masked=False):
    """index_add and its like: "rows" (one index a row of features), "lines" (an index for each
    element, lines side by side), "columns" (the same, lines below each other)."""
    p = Params()
    n, w, r = p.of(count), p.of(width), p.of(rows)
    g, k = E.index(0), E.index(1)
    if kind == "rows":
        place, source = k, dot([k, g], [w, 1])
        target = dot([E.load(1, place, dt.int64), g], [w, 1])
    elif kind == "lines":
        source = dot([g, k], [n, 1])
        target = dot([g, E.load(1, source, dt.int64)], [r, 1])
        place = source
    else:
        source = place = dot([k, g], [w, 1])
        target = dot([E.load(1, place, dt.int64), g], [w, 1])
    mask = E.ne(E.load(1, typed(place, dt.int64), dt.int64), 1) if masked else None
    body = Scatter(0, typed(target, dt.int64), op, E.load(2, typed(source, dt.int64), d),
                   None if mask is None else typed(mask, dt.int64))
    args = (Arg("inout", d), Arg("in", dt.int64), Arg("in", d))
    kernel = Kernel("scattered", args, (w,), (Stage((n,), (body,)),), len(p.values))
    where = rng.integers(0, rows, count if kind == "rows" else count * width)
    return kernel, p.values, [sample(d, rows * width), where, sample(d, count * width)]


@gpu
@pytest.mark.parametrize("kind,rows,count,width", [
    ("rows", 5, 700, 3), ("rows", 3, 300, 130), ("rows", 300, 3000, 1), ("rows", 40, 64, 70),
    ("rows", 1, 5000, 1), ("lines", 50, 900, 7), ("lines", 3, 20, 5), ("columns", 50, 900, 7)])
def test_scatters_that_collide(backend, kind, rows, count, width):
    """Bit for bit what a loop gives, also for float sums."""
    for d, op in ((dt.float32, "sum"), (dt.bfloat16, "sum"), (dt.float64, "prod"),
                  (dt.int64, "max"), (dt.float32, "set"), (dt.int32, "sum"), (dt.int32, "min")):
        for masked in (False, True):
            kernel, params, data = scattered(d, op, rows, count, width, kind, masked)
            got = run(backend, kernel, params, data)
            want = [b.copy() for b in data]
            interpret.run(kernel, params, want)
            same(got[0], want[0], 0, (op, d.name, masked))


def test_how_scatters_are_dealt_out():
    """Groups enough, destinations of one owner; atomics only for what is exact in any order."""
    from lampion_opencl.dialect import OpenCLC

    dialect = OpenCLC(lanes=False, doubles=True)
    kernel, _, _ = scattered(dt.float32, "sum", 4, 4, 4, "rows")
    rows = cfamily_threads.choose(kernel, [8192, 1024, 50000], 256, dialect)
    assert rows.shape == "ordered" and rows.team == 256 and rows.shards >= 128
    assert cfamily_threads.geometry(kernel, rows, [8192, 1024, 50000])[0][0] >= 1 << 17
    one = cfamily_threads.choose(kernel, [1 << 20, 1, 1000], 256, dialect)
    assert one.shape == "ordered" and one.team == 1 and one.shards == 256
    assert cfamily_threads.choose(kernel, [20, 1 << 20, 5], 256, dialect).shape == "item"
    exact, _, _ = scattered(dt.int32, "sum", 4, 4, 4, "rows")
    assert cfamily_threads.choose(exact, [8192, 1024, 5], 256, dialect).shape == "atomic"


def test_what_fits_into_registers_is_read_once():
    from lampion_opencl import compiler
    from lampion_opencl.dialect import OpenCLC

    kernel, params, _ = shares(dt.float32, 4096, 4096, 4096)
    variant = cfamily_threads.choose(kernel, params, 256)
    assert variant.kept and variant.vector == 4 and variant.team == 256
    text = compiler.render(OpenCLC(lanes=False, doubles=True), kernel, variant, "k")
    assert len(re.findall(r"= \*\(const __global uint4 \*\)\(b1", text)) == 1
    long, params, _ = shares(dt.float32, 2, 40000, 40000)
    assert not cfamily_threads.choose(long, params, 256).kept


def test_large_tensors_take_vectors_and_small_ones_many_groups():
    kernel, _ = pointwise([dt.float32] * 2, both, dt.float32, (8,), [(1,)] * 3)
    large = cfamily_threads.choose(kernel, [1 << 26])
    assert large.vector == 4 and large.unroll > 1 and large.group == 256
    small = cfamily_threads.choose(kernel, [1 << 14])
    (items, _), _ = cfamily_threads.geometry(kernel, small, [1 << 14])
    assert small.vector == 4 and small.unroll == 1 and items // small.group >= 64


def test_when_indices_are_narrow():
    """32 bits only if nothing that is computed from loop variables and sizes may leave them."""
    def narrow(shape, strides):
        kernel, params = pointwise([dt.float32] * 2, both, dt.float32, (2,) * len(shape),
                                   [(7,) * len(shape)] * 3)
        return cfamily_threads.choose(kernel, [*shape, *(s for row in strides for s in row)]
                                      ).narrow

    assert narrow((1 << 20,), [(1,)] * 3)
    assert narrow((1 << 20,), [(1000,), (1,), (1,)])
    assert not narrow((1 << 20,), [(1 << 12,), (1,), (1,)])
    assert not narrow((1 << 20,), [(1,), (1,), (-(1 << 12),)])
    assert not narrow((1 << 16, 1 << 15), [(1, 0)] * 3)  # the points alone
    assert not narrow((1, 1), [(1 << 31, 0)] * 3)  # a parameter, though it is not used
    step = E.op("mul", E.index(0), E.param(1))
    body = Store(0, E.index(0), typed(E.cast(step, dt.float32), dt.float32))
    ramp = Kernel("ramp", (Arg("out", dt.float32),), (E.param(0),), (Stage((), (body,)),), 2)
    assert cfamily_packed.fits(ramp, [1000, 1 << 20])
    assert not cfamily_packed.fits(ramp, [4000, 1 << 20])


@gpu
def test_indices_are_data_too(backend):
    """Where index arithmetic is narrow, what is stored of it is not."""
    far = typed(E.op("sub", E.op("mul", E.index(0), E.param(1)), E.param(1)), dt.int64)
    product = typed(E.op("mul", E.cast(E.load(1, E.index(0), dt.int64), dt.int64), far), dt.int64)
    body = (Store(0, E.index(0), typed(product + far, dt.int64)),)
    kernel = Kernel("far", (Arg("out", dt.int64), Arg("in", dt.int64)), (E.param(0),),
                    (Stage((), body),), 2)
    for n in (5, 300):
        check(backend, kernel, [n, 70001], [np.zeros(n, np.int64),
                                            rng.integers(-2**40, 2**40, n)])


@gpu
def test_nothing_to_do(backend):
    kernel, _ = pointwise([dt.float32] * 2, both, dt.float32, (0,), [(1,)] * 3)
    run(backend, kernel, [0], [np.zeros(1, np.float32)] * 3)
    kernel, params = pointwise([dt.float32] * 2, both, dt.float32, (), [()] * 3)
    check(backend, kernel, params, [sample(dt.float32, 1) for _ in range(3)])
    kernel, params, data = shares(dt.float32, 3, 0, 1)
    check(backend, kernel, params, data)
