"""Kernels compiled by the CPU code generator against the NumPy interpreter.

Random kernels over all layouts, every intrinsic on every type, tails of every length, several
ranges and stages, arg-reductions with NaN and ties, scans and scatters.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from lampion.base import dtype as dt
from lampion.ir import expr as E
from lampion.ir import interpret
from lampion.ir.kernel import (
    Arg,
    ArgReduce,
    Kernel,
    Params,
    Reduce,
    Scan,
    Scatter,
    Stage,
    Store,
    dot,
)
from lampion.testing import kernel_checks
from lampion.testing.kernel_checks import ix, same, typed
from lampion_cpu import codegen, jit
from lampion_cpu.codegen.plan import Plan

ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
REAL = [d for d in dt.ALL if d.kind != "c"]
NUMBERS = [d for d in REAL if d.kind != "b"]
rng = np.random.default_rng(0)


def launch(kernel, params, buffers, plan=None, chunks=1):
    """Run a kernel through its machine code, its units cut in chunks."""
    compiled = codegen.compile_kernel(kernel, params, plan)
    slots = (ctypes.c_int64 * max(len(buffers), 1))()
    for k, (arg, b) in enumerate(zip(kernel.args, buffers)):
        if arg.kind == "scalar":
            slots[k] = int(np.array([b], arg.dtype.np).view(np.int64)[0])
        else:
            slots[k] = b.ctypes.data
    values = (ctypes.c_int64 * max(len(params), 1))(*params)
    units, grain = compiled.units_grain(params)
    assert grain >= 1
    edges = np.linspace(0, units, min(chunks, units) + 1).astype(int)
    for lo, hi in zip(edges[:-1], edges[1:]):
        ENTRY(compiled.address)(ctypes.addressof(slots), ctypes.addressof(values),
                                int(lo), int(hi))
    return compiled


sample = functools.partial(kernel_checks.sample, rng)


def check(kernel, params, buffers, outs=(0,), ulps=0, plan=None, chunks=1):
    """Compare a launch with the interpreter on copies of the buffers."""
    mine = [b.copy() if isinstance(b, np.ndarray) else b for b in buffers]
    theirs = [b.copy() if isinstance(b, np.ndarray) else b for b in buffers]
    compiled = launch(kernel, params, mine, plan, chunks)
    interpret.run(kernel, params, theirs)
    for k in outs:
        same(mine[k], theirs[k], ulps, f"{kernel}\n{compiled.plan} params {params}")
    return compiled


def elementwise(fn, ins, out, n=None):
    """A one-axis kernel `out[i] = fn(ins[i]...)`."""
    loads = [E.load(k + 1, E.index(0), d) for k, d in enumerate(ins)]
    value = typed(fn(*loads), out)
    assert value.dtype is out, (value, value.dtype, out)
    args = (Arg("out", out),) + tuple(Arg("in", d) for d in ins)
    return Kernel("map", args, (E.param(0),), (Stage((), (Store(0, E.index(0), value),)),), 1)


PLANS = [None, Plan("scalar", 1, 1, block=0), Plan("grid", 4, 2, 0), Plan("grid", 16, 4, 0)]


@pytest.mark.parametrize("plan", PLANS, ids=["chosen", "scalar", "grid4x2", "grid16x4"])
def test_every_tail_length(plan):
    kernel = elementwise(lambda x, y: x * y + 1.0, [dt.float32, dt.float32], dt.float32)
    for n in range(1, 140):
        check(kernel, [n], [np.zeros(n + 3, np.float32), sample(dt.float32, n),
                            sample(dt.float32, n)], plan=plan, chunks=1 + n % 3)


def test_binary_arithmetic_of_every_type():
    for d, name in itertools.product(NUMBERS, ["add", "sub", "mul", "maximum", "minimum",
                                               "idiv", "fmod", "and", "or", "xor", "shl", "shr"]):
        if d.kind == "f" and name in ("idiv", "and", "or", "xor", "shl", "shr"):
            continue
        if d.kind == "f" and d.itemsize == 2:
            continue  # 16-bit floats are computed in float32 by their kernels
        a, b = sample(d, 150), rng.permutation(sample(d, 150))
        if name in ("shl", "shr"):
            b = (b % (8 * d.itemsize + 3)).astype(d.np)
        check(elementwise(lambda x, y: E.op(name, x, y), [d, d], d), [150],
              [np.zeros(150, d.np), a, b])


def test_comparisons_of_every_type():
    for d, name in itertools.product(REAL, ["lt", "le", "gt", "ge", "eq", "ne"]):
        a = sample(d, 100)
        b = np.where(rng.random(100) < 0.3, a, rng.permutation(a)).astype(d.np)
        check(elementwise(lambda x, y: E.op(name, x, y), [d, d], dt.bool_), [100],
              [np.zeros(100, bool), a, b])


def test_unary_of_every_type():
    for d in NUMBERS:
        if d.itemsize == 2 and d.kind == "f":
            continue
        for name in ["neg", "abs", "floor", "ceil", "trunc", "round", "not", "sqrt"]:
            if (name == "not") == (d.kind == "f") or (name == "sqrt" and d.kind != "f"):
                continue
            check(elementwise(lambda x: E.op(name, x), [d], d), [77],
                  [np.zeros(77, d.np), sample(d, 77)])
    for name in ["and", "or", "xor"]:
        check(elementwise(lambda x, y: E.op(name, x, y), [dt.bool_] * 2, dt.bool_), [77],
              [np.zeros(77, bool), sample(dt.bool_, 77), sample(dt.bool_, 77)])


@pytest.mark.parametrize("source", REAL, ids=lambda d: d.name)
def test_casts(source):
    values = sample(source, 300)
    if source.kind == "f":
        big = np.array([1e9, -1e9, 3e9, 2.0**31, -2.0**31, 2.0**63, -2.0**63, 1.9e19, 255.5, -0.7,
                        65520.0, 65519.9, 1e-8, 6e-8, 3.1e-5, 0.1, 0.3], np.float64)
        with np.errstate(all="ignore"):
            values[10:10 + len(big)] = big.astype(source.np)
    for target in REAL:
        kernel = elementwise(lambda x: E.cast(x, target), [source], target)
        check(kernel, [300], [np.zeros(300, target.np), values])


def test_bitcast_mulhi_fma_ldexp_select():
    n = 200
    check(elementwise(lambda x: E.bitcast(x, dt.int32), [dt.float32], dt.int32), [n],
          [np.zeros(n, np.int32), sample(dt.float32, n, "small")])
    check(elementwise(lambda x: E.bitcast(x, dt.float64), [dt.int64], dt.float64), [n],
          [np.zeros(n), sample(dt.int64, n)])
    for d in (dt.uint32, dt.uint64, dt.uint8):
        check(elementwise(E.mulhi, [d, d], d), [n], [np.zeros(n, d.np), sample(d, n),
                                                     rng.permutation(sample(d, n))])
    for d in (dt.float32, dt.float64):
        a, b, c = (sample(d, n, "small") for _ in range(3))
        check(elementwise(E.fma, [d, d, d], d), [n], [np.zeros(n, d.np), a, b, c])
        near = np.where(rng.random(n) < 0.5, -(a * b), c).astype(d.np)
        check(elementwise(E.fma, [d, d, d], d), [n], [np.zeros(n, d.np), a, b, near])
        p = rng.integers(-2300 if d is dt.float64 else -320, 330, n).astype(d.np)
        check(elementwise(E.ldexp, [d, d], d), [n], [np.zeros(n, d.np), sample(d, n), p])
    for d in REAL:
        check(elementwise(lambda c, x, y: E.select(c, x, y), [dt.bool_, d, d], d), [n],
              [np.zeros(n, d.np), sample(dt.bool_, n), sample(d, n), sample(d, n)])


def test_index_and_scalars_as_data():
    args = (Arg("out", dt.float64), Arg("scalar", dt.float64), Arg("scalar", dt.int64))
    value = typed(E.cast(E.index(0), dt.float64) * E.scalar(1, dt.float64)
                  + E.cast(E.scalar(2, dt.int64), dt.float64), dt.float64)
    kernel = Kernel("arange", args, (E.param(0),), (Stage((), (Store(0, E.index(0), value),)),), 1)
    for n in (1, 8, 31, 333):
        check(kernel, [n], [np.zeros(n), 0.25, -7], chunks=3)


def strided(d, shape, strides):
    size = 1 + sum((n - 1) * s for n, s in zip(shape, strides))
    return sample(d, size)


LAYOUTS = [  # shape, strides of the output, of x, of y
    ((5, 7), (7, 1), (7, 1), (0, 1)), ((5, 70), (70, 1), (70, 1), (1, 0)),
    ((33, 40), (40, 1), (1, 33), (40, 1)), ((33, 40), (1, 33), (1, 33), (0, 0)),
    ((33, 40), (1, 33), (40, 1), (1, 33)), ((6, 5, 17), (85, 17, 1), (1, 6, 30), (17, 0, 1)),
    ((3, 4, 5, 6), (120, 30, 6, 1), (1, 3, 12, 60), (0, 1, 4, 20)),
    ((64,), (2,), (3,), (1,)), ((9, 31), (62, 2), (31, 1), (93, 3)),
    ((70, 300), (300, 1), (1, 70), (300, 1)), ((16, 16), (16, 1), (1, 16), (1, 16)),
    ((2, 9000), (9000, 1), (9000, 1), (0, 1)), ((100, 3), (3, 1), (3, 1), (1, 0)),
]


@pytest.mark.parametrize("case", LAYOUTS, ids=str)
@pytest.mark.parametrize("d", [dt.float32, dt.int64, dt.bool_, dt.bfloat16], ids=lambda d: d.name)
def test_layouts(case, d):
    shape, so, sx, sy = case
    p = Params()
    grid = tuple(p.of(n) for n in shape)
    axes = [E.index(k) for k in range(len(shape))]
    o, x, y = (dot(axes, [p.stride(s) for s in row]) for row in (so, sx, sy))
    value = typed(E.select(E.ne(E.load(2, y, d), E.load(1, x, d)), E.load(1, x, d),
                           E.load(2, y, d)), d)
    kernel = Kernel("layout", (Arg("out", d), Arg("in", d), Arg("in", d)), grid,
                    (Stage((), (Store(0, o, value),)),), len(p.values))
    buffers = [strided(d, shape, so), strided(d, shape, sx), strided(d, shape, sy)]
    check(kernel, p.values, buffers, chunks=3)
    check(kernel, p.values, buffers, plan=Plan("scalar", 1, 1, block=0), chunks=2)
    for axis in range(len(shape)):
        for other in range(len(shape)):
            if other != axis:
                check(kernel, p.values, buffers, chunks=2,
                      plan=Plan("tile", 8, 2, axis, other, block=0))
        for block in (0, 8192) if len(shape) > 1 else (64,):
            check(kernel, p.values, buffers, plan=Plan("grid", 8, 2, axis, block=block), chunks=2)


def reduction(op, d, shape, strides, inner, kind="small", extra=None):
    """(kernel, params, buffers) reducing the dims `inner` of a strided array."""
    p = Params()
    outer = [k for k in range(len(shape)) if k not in inner]
    grid = tuple(p.of(shape[k]) for k in outer)
    ranges = tuple(p.of(shape[k]) for k in inner)
    axes = [None] * len(shape)
    for at, k in enumerate(outer + list(inner)):
        axes[k] = E.index(at)
    x = E.load(1, dot(axes, [p.stride(s) for s in strides]), d)
    out = dot([E.index(k) for k in range(len(outer))],
              [p.stride(int(np.prod([shape[j] for j in outer[k + 1:]], dtype=int)))
               for k in range(len(outer))])
    position = E.const(0, dt.int64)
    for at, k in enumerate(inner):
        position = E.op("add", E.op("mul", position, p.of(shape[k])), E.index(len(outer) + at))
    size = int(np.prod([shape[k] for k in outer], dtype=int))
    data = strided(d, shape, strides) if kind == "mixed" else sample(
        d, 1 + sum((n - 1) * s for n, s in zip(shape, strides)), "small")
    if op.startswith("arg"):
        body = ArgReduce("r", op[3:], x, ix(position))
        stages = (Stage(ranges, (body,)),
                  Stage((), (Store(0, ix(out), E.ref("r", dt.int64)),
                             Store(2, ix(out), E.ref("r_value", d)))))
        args = (Arg("out", dt.int64), Arg("in", d), Arg("out", d))
        return (Kernel("arg", args, grid, stages, len(p.values)), p.values,
                [np.zeros(size, np.int64), data, np.zeros(size, d.np)])
    stages = (Stage(ranges, (Reduce("r", op, x),)),
              Stage((), (Store(0, ix(out), E.ref("r", d)),)))
    return (Kernel("reduce", (Arg("out", d), Arg("in", d)), grid, stages, len(p.values)),
            p.values, [np.zeros(size, d.np), data])


REDUCED = [
    ((7, 50), (50, 1), (1,)), ((50, 7), (7, 1), (0,)), ((33, 70), (70, 1), (0,)),
    ((1000,), (1,), (0,)), ((3, 5000), (5000, 1), (1,)), ((5000, 40), (40, 1), (0,)),
    ((4, 5, 6), (30, 6, 1), (0, 2)), ((4, 5, 60), (300, 60, 1), (1,)),
    ((4, 30, 9), (270, 1, 30), (0, 1)), ((4, 30, 9), (1, 4, 120), (2, 1)), ((6, 11), (11, 0), (1,)),
]


@pytest.mark.parametrize("case", REDUCED, ids=str)
def test_reductions(case):
    shape, strides, inner = case
    for op, d in [("sum", dt.float32), ("sum", dt.float64), ("sum", dt.int64), ("sum", dt.int32),
                  ("max", dt.float32), ("min", dt.float64), ("max", dt.int8), ("min", dt.uint8),
                  ("and", dt.bool_), ("or", dt.bool_), ("prod", dt.int64), ("max", dt.bool_),
                  ("argmax", dt.float32), ("argmin", dt.float64), ("argmax", dt.int32),
                  ("argmin", dt.uint8), ("argmax", dt.bool_), ("argmax", dt.bfloat16)]:
        kind = "mixed" if op in ("max", "min") or op.startswith("arg") else "small"
        kernel, params, buffers = reduction(op, d, shape, strides, inner, kind)
        outs = (0, 2) if op.startswith("arg") else (0,)
        if op == "sum" and d.kind == "f":
            mine, theirs = [b.copy() for b in buffers], [b.copy() for b in buffers]
            launch(kernel, params, mine)
            interpret.run(kernel, params, theirs)
            scale = np.sqrt(np.prod([shape[k] for k in inner]))
            assert np.abs(mine[0] - theirs[0]).max() <= 8 * np.finfo(d.np).eps * scale
        else:
            check(kernel, params, buffers, outs)
            for plan in (Plan("scalar", 1, 1, block=0),
                         Plan("range", 8, 2, stage_axes=(len(kernel.grid) + len(inner) - 1, None),
                              block=0)):
                check(kernel, params, buffers, outs, plan=plan)


def test_arg_reductions_keep_the_first_of_ties_and_nan():
    for n in (1, 5, 16, 17, 64, 65, 200, 1000):
        for special in (None, np.nan, np.inf, -np.inf):
            for op in ("argmax", "argmin"):
                kernel, params, buffers = reduction(op, dt.float32, (4, n), (n, 1), (1,))
                buffers[1][:] = rng.integers(0, 3, 4 * n)
                if special is not None:
                    buffers[1][rng.random(4 * n) < 0.3] = special
                    buffers[1][:n] = special
                check(kernel, params, buffers, (0, 2))


def test_sum_is_accurate():
    n = 1 << 20
    x = (rng.random(n) + 0.5).astype(np.float32)
    kernel, params, buffers = reduction("sum", dt.float32, (n,), (1,), (0,))
    buffers[1] = x
    launch(kernel, params, buffers)
    exact = np.sum(x, dtype=np.longdouble)
    assert abs(float(buffers[0][0] - exact)) / float(exact) < 3e-7


def test_empty_range_gives_the_identity():
    for op, want in (("sum", 0.0), ("prod", 1.0)):
        kernel, params, buffers = reduction(op, dt.float32, (5, 0), (1, 1), (1,))
        buffers[1] = np.zeros(1, np.float32)
        launch(kernel, params, buffers)
        assert (buffers[0] == want).all()


def normalize(shape, strides, inner):
    """Subtract the mean and divide by the largest magnitude: three dependent stages."""
    p = Params()
    outer = [k for k in range(len(shape)) if k not in inner]
    grid, ranges = (tuple(p.of(shape[k]) for k in ks) for ks in (outer, inner))
    axes = [None] * len(shape)
    for at, k in enumerate(outer + list(inner)):
        axes[k] = E.index(at)
    at = dot(axes, [p.stride(s) for s in strides])
    x = E.load(1, at, dt.float64)
    s, m = E.ref("s", dt.float64), E.ref("m", dt.float64)
    count = float(np.prod([shape[k] for k in inner]))
    centred = typed(x - s / count, dt.float64)
    stages = (Stage(ranges, (Reduce("s", "sum", x),)),
              Stage(ranges, (Store(0, at, centred),)),
              Stage(ranges, (Reduce("m", "max", typed(E.abs_(E.load(0, at, dt.float64)),
                                                      dt.float64)),)),
              Stage(ranges, (Store(0, at, typed(E.load(0, at, dt.float64) / m, dt.float64)),)))
    kernel = Kernel("normalize", (Arg("out", dt.float64), Arg("in", dt.float64)), grid, stages,
                    len(p.values))
    data = sample(dt.float64, 1 + sum((n - 1) * t for n, t in zip(shape, strides)), "small")
    return kernel, p.values, [np.zeros_like(data), data]


@pytest.mark.parametrize("case", [((9, 100), (100, 1), (1,)), ((100, 9), (9, 1), (0,)),
                                  ((100, 90), (90, 1), (0,)), ((3, 4, 50), (200, 50, 1), (0, 2)),
                                  ((40,), (1,), (0,)), ((5, 37), (37, 1), (1,))], ids=str)
def test_several_stages(case):
    kernel, params, buffers = normalize(*case)
    compiled = launch(kernel, params, [b.copy() for b in buffers])
    mine, theirs = [b.copy() for b in buffers], [b.copy() for b in buffers]
    launch(kernel, params, mine, chunks=2)
    interpret.run(kernel, params, theirs)
    np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-12, atol=1e-13, err_msg=str(compiled))


@pytest.mark.parametrize("shape,strides,dim", [((6, 50), (50, 1), 1), ((50, 33), (33, 1), 0),
                                               ((70,), (1,), 0), ((3, 20, 40), (800, 40, 1), 1)])
def test_scans(shape, strides, dim):
    for op, d in (("sum", dt.int64), ("prod", dt.int32), ("max", dt.float32), ("sum", dt.float64)):
        p = Params()
        outer = [k for k in range(len(shape)) if k != dim]
        grid, ranges = tuple(p.of(shape[k]) for k in outer), (p.of(shape[dim]),)
        axes = [None] * len(shape)
        for at, k in enumerate(outer + [dim]):
            axes[k] = E.index(at)
        at = dot(axes, [p.stride(s) for s in strides])
        body = (Scan("r", op, E.load(1, at, d)), Store(0, at, E.ref("r", d)))
        kernel = Kernel("scan", (Arg("out", d), Arg("in", d)), grid, (Stage(ranges, body),),
                        len(p.values))
        data = sample(d, int(np.prod(shape)), "mixed" if op == "max" else "small")
        check(kernel, p.values, [np.zeros_like(data), data], chunks=2)


def test_gather_and_masked_loads():
    for d in REAL:
        n, m = 90, 40
        table, where = sample(d, m), rng.integers(0, m, n)
        idx = E.load(2, E.index(0), dt.int64)
        kernel = Kernel("take", (Arg("out", d), Arg("in", d), Arg("in", dt.int64)), (E.param(0),),
                        (Stage((), (Store(0, E.index(0), E.load(1, idx, d)),)),), 1)
        check(kernel, [n], [np.zeros(n, d.np), table, where])
        mask = ix(E.index(0) - 5)
        inside = typed((mask >= 0) & (mask < m), dt.bool_)
        for at in (mask, ix(mask * E.param(1))):
            padded = typed(E.load(1, at, d, mask=inside, other=E.const(1, d)), d)
            kernel = Kernel("pad", (Arg("out", d), Arg("in", d)), (E.param(0),),
                            (Stage((), (Store(0, E.index(0), padded, typed(E.index(0) < 80,
                                                                           dt.bool_)),)),), 2)
            check(kernel, [n, 1], [np.zeros(n, d.np), table])
            check(kernel, [n, 1], [np.zeros(n, d.np), table], plan=Plan("scalar", 1, 1, block=0))


def test_gather_rows():
    p = Params()
    rows, cols = p.of(20), p.of(50)
    at = ix(E.load(2, E.index(0), dt.int64) * cols + E.index(1))
    kernel = Kernel("rows", (Arg("out", dt.float32), Arg("in", dt.float32), Arg("in", dt.int64)),
                    (rows, cols), (Stage((), (Store(0, ix(E.index(0) * cols + E.index(1)),
                                                    E.load(1, at, dt.float32)),)),), 2)
    compiled = check(kernel, p.values, [np.zeros(1000, np.float32), sample(dt.float32, 500),
                                        rng.integers(0, 10, 20)], chunks=3)
    assert compiled.plan.mode == "grid" and compiled.plan.axis == 1


@pytest.mark.parametrize("op", ["sum", "prod", "max", "min", "set"])
@pytest.mark.parametrize("shared", [False, True])
def test_scatter(op, shared):
    for d in (dt.float32, dt.int64, dt.uint8, dt.bool_, dt.float64):
        n, m, cols = 30, 7, 21
        p = Params()
        pn, pc = p.of(n), p.of(cols)
        row = E.load(2, E.index(1), dt.int64)
        mask = typed(E.ne(E.index(1), 3), dt.bool_)
        # every grid point owns a column; rows arrive in order
        owner = Scatter(0, ix(row * pc + E.index(0)), op,
                        E.load(1, ix(E.index(1) * pc + E.index(0)), d), mask)
        kernel = Kernel("index_add", (Arg("inout", d), Arg("in", d), Arg("in", dt.int64)), (pc,),
                        (Stage((pn,), (owner,)),), 2)
        if shared:
            row = E.load(2, E.index(0), dt.int64)
            mask = typed(E.ne(E.index(0), 3), dt.bool_)
            owner = Scatter(0, ix(row * pc + E.index(1)), op,
                            E.load(1, ix(E.index(0) * pc + E.index(1)), d), mask, True)
            kernel = Kernel("index_put", kernel.args, (pn, pc), (Stage((), (owner,)),), 2)
        check(kernel, p.values, [sample(d, m * cols, "small"), sample(d, n * cols, "small"),
                                 rng.integers(0, m, n)], chunks=1 if shared else 3)


def test_sixteen_bit_floats_round_to_nearest_even():
    every = np.arange(65536, dtype=np.uint16)
    for d in (dt.float16, dt.bfloat16):
        kernel = elementwise(lambda x: E.cast(E.cast(x, dt.float32) * 1.5, d), [d], d)
        check(kernel, [65536], [np.zeros(65536, d.np), every.view(d.np)])
        ties = (rng.standard_normal(4096) * 100).astype(np.float32).view(np.uint32)
        ties = (ties & 0xFFFF0000 | np.array([0x8000, 0x7FFF, 0x8001, 0], np.uint32
                                             )[rng.integers(0, 4, 4096)]).view(np.float32)
        check(elementwise(lambda x: E.cast(x, d), [dt.float32], d), [4096],
              [np.zeros(4096, d.np), ties])


def test_streaming_stores(monkeypatch):
    from lampion_cpu.codegen import plan as planning
    monkeypatch.setattr(planning, "STREAM_BYTES", 1)
    kernel = elementwise(lambda x: x + 1.0, [dt.float32], dt.float32)
    base = np.zeros(2100, np.float32)
    for shift in (0, 1):
        start = (-base.ctypes.data // 4) % 16 + shift
        out = base[start:start + 2000]
        x = sample(dt.float32, 2000)
        compiled = launch(kernel, [2000], [out, x], chunks=3)
        assert compiled.plan.stream
        same(out, x + np.float32(1))


def test_the_text_is_deterministic():
    kernel, params, _ = normalize((9, 100), (100, 1), (1,))
    plan = codegen.choose(kernel, params, jit.host_vector_bits())
    assert codegen.kernel_text(kernel, plan) == codegen.kernel_text(kernel, plan)


def test_an_intrinsic_that_cannot_be_printed_is_an_error():
    kernel = elementwise(lambda x: E.op("sub", x, x), [dt.float32], dt.float32)
    bad = E.node("real", (E.load(1, E.index(0), dt.float32),), None, dt.float32)
    kernel = Kernel("bad", kernel.args, kernel.grid,
                    (Stage((), (Store(0, E.index(0), bad),)),), 1)
    with pytest.raises(ValueError, match="real"):
        codegen.compile_kernel(kernel, [4])


def test_stores_compute_before_any_of_them_writes():
    """Outputs may be the inputs' memory: swapping two arrays in place must work."""
    d = dt.float32
    a, b = E.load(2, E.index(0), d), E.load(3, E.index(0), d)
    kernel = Kernel("swap", (Arg("out", d), Arg("out", d), Arg("in", d), Arg("in", d)),
                    (E.param(0),),
                    (Stage((), (Store(0, E.index(0), b), Store(1, E.index(0), a))),), 1)
    for n in (1, 7, 64, 100):
        x, y = sample(d, n, "small"), sample(d, n, "small")
        p, q = x.copy(), y.copy()
        launch(kernel, [n], [p, q, p, q])
        same(p, y)
        same(q, x)


def test_every_second_element():
    """Parts of complex numbers: paired loads and stores touch nothing beyond the arrays."""
    for d in (dt.float32, dt.float64, dt.int16, dt.bool_):
        even = ix(E.index(0) * 2)
        odd = ix(even + 1)
        body = (Store(0, even, E.load(1, odd, d)), Store(0, odd, E.load(1, even, d)))
        kernel = Kernel("flip", (Arg("out", d), Arg("in", d)), (E.param(0),),
                        (Stage((), body),), 1)
        for n in (1, 5, 64, 130, 1000):
            x = sample(d, 2 * n)
            out = np.zeros(2 * n + 40, d.np)
            launch(kernel, [n], [out, x], chunks=2)
            same(out[0:2 * n:2], x[1::2])
            same(out[1:2 * n:2], x[0::2])
            assert not out[2 * n:].any()
            z = x.copy()
            launch(kernel, [n], [z, z])
            same(z[0::2], x[1::2])


UNARY_OPS = ["neg", "abs", "floor", "trunc", "round", "sqrt", "exp", "log", "erf"]
BINARY_OPS = ["add", "sub", "mul", "maximum", "minimum", "div"]


def random_expression(leaves, depth, r):
    """A random float32 expression with sharing, selects and casts through integers."""
    pool = list(leaves)
    for _ in range(depth):
        k = r.integers(0, 10)
        x, y, z = (pool[r.integers(0, len(pool))] for _ in range(3))
        if k < 3:
            new = E.op(UNARY_OPS[r.integers(0, len(UNARY_OPS))], x)
        elif k < 7:
            new = E.op(BINARY_OPS[r.integers(0, len(BINARY_OPS))], x, y)
        elif k == 7:
            new = E.select(x < y, z, x)
        elif k == 8:
            new = E.rarely(x > 2.0, E.exp(y) + E.exp2(z), z)
        else:
            new = E.cast(E.cast(x, dt.int32) & 7, dt.float32)
        pool.append(new)
    return pool[-1]


@pytest.mark.parametrize("seed", range(6))
def test_random_kernels(seed):
    """Random expressions in random nests: grid, reduction, and a store that uses its result."""
    r = np.random.default_rng(seed)
    d = dt.float32
    rows, cols = int(r.integers(1, 40)), int(r.integers(1, 150))
    layouts = [(cols, 1), (1, rows), (0, 1), (1, 0), (2 * cols, 2)]
    p = Params()
    g, n = p.of(rows), p.of(cols)
    axes = [E.index(0), E.index(1)]
    loads, buffers = [], []
    for slot in (2, 3, 4):
        s = layouts[r.integers(0, len(layouts))]
        loads.append(E.load(slot, dot(axes, [p.stride(k) for k in s]), d))
        buffers.append(strided(d, (rows, cols), s))
    inner = typed(random_expression(loads, 5, r), d)
    op = ["max", "min"][seed % 2]
    result = E.ref("r", d)
    outer = typed(random_expression([*loads, result], 5, r), d)
    at = ix(E.index(0) * n + E.index(1))
    stages = (Stage((n,), (Reduce("r", op, inner),)), Stage((n,), (Store(0, at, outer),)),
              Stage((), (Store(1, E.index(0), result),)))
    args = (Arg("out", d), Arg("out", d), Arg("in", d), Arg("in", d), Arg("in", d))
    kernel = Kernel("random", args, (g,), stages, len(p.values))
    from lampion_cpu.codegen.expand import expand_kernel
    expanded = expand_kernel(kernel)  # both sides run the same arithmetic: results agree in bits
    full = [np.zeros(rows * cols, np.float32), np.zeros(rows, np.float32), *buffers]
    for plan in (None, Plan("grid", 8, 2, 0), Plan("range", 16, 1, stage_axes=(1, 1, None),
                                                   block=0)):
        check(expanded, p.values, full, (0, 1), plan=plan, chunks=2)


# ---- arms that are compiled when they are first wanted -------------------------------------------


def test_a_seldom_arm_is_compiled_when_a_lane_first_wants_it() -> None:
    """A sine of small numbers compiles no far reduction; threads may be the first to want one."""
    code = """
import math
import lampion as torch
from lampion_cpu import jit, pool
from lampion_cpu.codegen import rare

torch.set_num_threads(2)
x = torch.linspace(-3, 3, 100_000)
near = torch.sin(x)
cells = [s.cell.value for s in rare._slots.values()]
assert cells and not any(cells), cells
x[77_777] = 1e30  # in the second thread's half
compiled = jit.statistics()["compiled"]
far = torch.sin(x)
assert jit.statistics()["compiled"] == compiled + 1
assert sum(s.cell.value is not None for s in rare._slots.values()) == 1
assert abs(far[77_777].item() - math.sin(x[77_777].item())) < 1e-6
far[77_777] = near[77_777]
assert (far == near).all().item()
torch.sin(x), torch.sin(x[:5])
assert sum(s.cell.value is not None for s in rare._slots.values()) == 1
"""
    env = {**os.environ, "LAMPION_CACHE_DIR": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=120)
