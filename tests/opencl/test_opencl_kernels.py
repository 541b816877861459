"""Kernels compiled for OpenCL against the NumPy interpreter, in both schedules.

Compiling costs a tenth of a second a kernel, so most kernels here hold many cases as outputs.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from lampion.base import dtype as dt
from lampion.base.device import device
from lampion.ir import cfamily_lanes, interpret
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
from lampion.testing.kernel_checks import ix, many, same, spanned, typed

REAL = [d for d in dt.ALL if d.kind != "c"]
NUMBERS = [d for d in REAL if d.kind != "b"]
WHERE = device("opencl")
rng = np.random.default_rng(0)


sample = functools.partial(kernel_checks.sample, rng)
reductions = functools.partial(kernel_checks.reductions, rng)


def launch(backend, kernel, params, buffers):
    kernel_checks.launch(backend, WHERE, kernel, params, buffers)


def check(backend, kernel, params, buffers, ulps=0):
    kernel_checks.check(backend, WHERE, kernel, params, buffers, ulps)


def run_many(backend, cases, ins, data, ulps=0):
    n = len(data[0])
    outs = [np.zeros(n, out.np) for _, out in cases]
    check(backend, many(cases, ins), [n], [*outs, *data], ulps)


def test_what_rarely_runs_stays_in_its_branch():
    """The reduction of huge angles is integer arithmetic that ordinary ones must not pay for."""
    from lampion_opencl import compiler
    from lampion_opencl.dialect import OpenCLC

    kernel = many([(E.sin, dt.float32)], [dt.float32])
    text = compiler.render(OpenCLC(lanes=True, doubles=True), kernel,
                           cfamily_lanes.Variant("grid", 0, 16), "k")
    body = text[text.index("__kernel"):].splitlines()
    branch = next(k for k, line in enumerate(body) if line.strip().startswith("if (any_"))
    costly = [k for k, line in enumerate(body) if "mulhi_uint16" in line]
    assert costly and min(costly) > branch
    inside = len(body[branch + 1]) - len(body[branch + 1].lstrip())
    assert all(len(body[k]) - len(body[k].lstrip()) >= inside for k in costly)


def test_big_results_bypass_the_caches(backend, monkeypatch):
    """Where the address allows it; tails and odd offsets are written as ever."""
    plain = many([(lambda x: x + x, dt.float32)], [dt.float32])
    assert cfamily_lanes.choose(plain, [1 << 21]).stream
    assert not cfamily_lanes.choose(plain, [1 << 20]).stream
    monkeypatch.setattr(cfamily_lanes, "STREAM", 1)
    n = 1005
    for d in (dt.float32, dt.bool_, dt.bfloat16):
        kernel = many([(lambda x: x + x if x.dtype is not dt.bool_ else ~x, d)], [d])
        x, size = sample(d, n), d.itemsize
        place = backend.allocate((n + 64) * size, WHERE)
        source = backend.allocate(n * size, WHERE)
        backend.copy_from_host(x.tobytes(), source)
        made = backend.program(Program((KernelCall(kernel, (n,), (0, 1)),)), (), WHERE)
        want = [np.zeros(n, d.np), x]
        interpret.run(kernel, [n], want)
        for offset in (0, 64 * size, size):
            made.into(place.view(offset), source)
            got = np.frombuffer(backend.copy_to_host(place.view(offset), n * size), d.np)
            same(got, want[0], 0, f"{d.name} at {offset}")


def test_every_tail_length(backend):
    kernel = many([(lambda x, y: x * y + 1.0, dt.float32)], [dt.float32, dt.float32])
    for n in [*range(1, 40), 63, 64, 65, 255, 257, 70001]:
        check(backend, kernel, [n], [np.zeros(n, np.float32), sample(dt.float32, n),
                                     sample(dt.float32, n)])


@pytest.mark.parametrize("d", NUMBERS, ids=lambda d: d.name)
def test_binary_and_unary(backend, d):
    names = ["add", "sub", "mul", "maximum", "minimum"]
    one = ["neg", "abs", "floor", "ceil", "trunc", "round"]
    if d.kind == "f":
        names, one = names + ["fmod", "div"], one + ["sqrt"]
        if d.itemsize == 2:
            names, one = ["add", "mul", "maximum"], ["neg", "abs"]
    else:
        names += ["idiv", "fmod", "and", "or", "xor"]
        one += ["not"]
    a, b = sample(d, 150), rng.permutation(sample(d, 150))
    cases = [(lambda x, y, name=name: E.op(name, x, y), d) for name in names]
    cases += [(lambda x, y, name=name: E.op(name, x), d) for name in one]
    cases += [(lambda x, y, name=name: E.op(name, x, y), dt.bool_)
              for name in ("lt", "le", "gt", "ge", "eq", "ne")]
    same_values = rng.random(150) < 0.3
    b[same_values] = a[same_values]
    run_many(backend, cases, [d, d], [a, b])
    if d.kind != "f":
        shift = (b % (8 * d.itemsize + 3)).astype(d.np)
        run_many(backend, [(lambda x, y, name=name: E.op(name, x, y), d)
                           for name in ("shl", "shr")], [d, d], [a, shift])


@pytest.mark.parametrize("d", [d for d in NUMBERS if d.kind != "f"], ids=lambda d: d.name)
def test_integer_functions(backend, d):
    a, b = sample(d, 150), rng.permutation(sample(d, 150))
    small = rng.integers(0, 7, 150).astype(d.np)
    cases = [(lambda x, y, n: E.op("pow", x, n), d)]
    if d.kind == "u":
        cases.append((lambda x, y, n: E.mulhi(x, y), d))
    run_many(backend, cases, [d, d, d], [a, b, small])


def test_bool_logic(backend):
    cases = [(lambda x, y, n=n: E.op(n, x, y), dt.bool_)
             for n in ("and", "or", "xor", "eq", "ne", "lt", "le", "gt", "ge")]
    cases += [(lambda x, y: E.op("not", x), dt.bool_),
              (lambda x, y: E.select(x, y, E.op("not", y)), dt.bool_)]
    run_many(backend, cases, [dt.bool_] * 2, [sample(dt.bool_, 77), sample(dt.bool_, 77)])


@pytest.mark.parametrize("source", REAL, ids=lambda d: d.name)
def test_casts(backend, source):
    values = sample(source, 300)
    if source.kind == "f":
        big = np.array([1e9, -1e9, 3e9, 2.0**31, -2.0**31, 2.0**63, -2.0**63, 1.9e19, 255.5, -0.7,
                        65520.0, 65519.9, 1e-8, 6e-8, 3.1e-5, 0.1, 0.3], np.float64)
        with np.errstate(all="ignore"):
            values[10:10 + len(big)] = big.astype(source.np)
    cases = [(lambda x, t=t: E.cast(x, t), t) for t in REAL]
    run_many(backend, cases, [source], [values])


def test_bitcast_fma_ldexp_select(backend):
    n = 200
    a, b, c = (sample(dt.float32, n, "small") for _ in range(3))
    near = np.where(rng.random(n) < 0.5, -(a * b), c).astype(np.float32)
    run_many(backend, [(lambda x, y, z: E.bitcast(x, dt.int32), dt.int32),
                       (lambda x, y, z: E.fma(x, y, z), dt.float32)], [dt.float32] * 3,
             [a, b, near])
    run_many(backend, [(lambda x: E.bitcast(x, dt.float64), dt.float64)], [dt.int64],
             [sample(dt.int64, n)])
    run_many(backend, [(lambda x: E.bitcast(x, dt.int16), dt.int16)], [dt.float16],
             [sample(dt.float16, n)[3:]])
    a, b, c = (sample(dt.float64, n, "small") for _ in range(3))
    run_many(backend, [(E.fma, dt.float64)], [dt.float64] * 3,
             [a, b, np.where(rng.random(n) < 0.5, -(a * b), c)])
    for d, low in ((dt.float32, -320), (dt.float64, -2300)):
        p = rng.integers(low, 330, n).astype(d.np)
        run_many(backend, [(E.ldexp, d)], [d, d], [sample(d, n), p])
    ins = [dt.bool_, dt.float32, dt.float32, dt.int64, dt.int64, dt.uint8, dt.float16]
    cases = [(lambda m, a, b, c, d, u, h: E.select(m, a, b), dt.float32),
             (lambda m, a, b, c, d, u, h: E.select(m, c, d), dt.int64),
             (lambda m, a, b, c, d, u, h: E.select(E.eq(a, b), c, d), dt.int64),
             (lambda m, a, b, c, d, u, h: E.select(c > d, u, E.cast(3, dt.uint8)), dt.uint8),
             (lambda m, a, b, c, d, u, h: E.select((c > d) & m, h, -h), dt.float16)]
    run_many(backend, cases, ins, [sample(d, n) for d in ins])


FUNCTIONS = ["exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin",
             "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc",
             "rsqrt"]


@pytest.mark.parametrize("d", [dt.float32, dt.float64], ids=lambda d: d.name)
def test_functions(backend, d):
    x = np.concatenate([sample(d, 200, "small"), sample(d, 60)]).astype(d.np)
    y = rng.permutation(x)
    outs = {}
    for names in (FUNCTIONS[:11], FUNCTIONS[11:]):
        kernel = many([(lambda v, w, f=f: E.op(f, v), d) for f in names]
                      + [(lambda v, w: E.op("pow", v, w), d),
                         (lambda v, w: E.op("atan2", v, w), d)], [d, d])
        mine = [np.zeros(len(x), d.np) for _ in range(len(names) + 2)]
        launch(backend, kernel, [len(x)], [*mine, x, y])
        wide = [np.zeros(len(x), np.float64) for _ in mine]
        kernel = many([(lambda v, w, f=f: E.op(f, v), dt.float64) for f in names]
                      + [(lambda v, w: E.op("pow", v, w), dt.float64),
                         (lambda v, w: E.op("atan2", v, w), dt.float64)], [dt.float64] * 2)
        interpret.run(kernel, [len(x)], [*wide, x.astype(np.float64), y.astype(np.float64)])
        outs |= dict(zip([*names, "pow", "atan2"], zip(mine, wide)))
    for name, (got, want) in outs.items():
        with np.errstate(all="ignore"):
            same(got, want.astype(d.np), 5, name)


def test_index_and_scalars_as_data(backend):
    args = (Arg("out", dt.float64), Arg("scalar", dt.float64), Arg("scalar", dt.int64))
    value = typed(E.cast(E.index(0), dt.float64) * E.scalar(1, dt.float64)
                  + E.cast(E.scalar(2, dt.int64), dt.float64), dt.float64)
    kernel = Kernel("arange", args, (E.param(0),), (Stage((), (Store(0, E.index(0), value),)),), 1)
    for n in (1, 8, 31, 333):
        check(backend, kernel, [n], [np.zeros(n), 0.25, -7])


def strided(d, shape, strides):
    return sample(d, spanned(shape, strides))


LAYOUTS = [  # shape, strides of the output, of x, of y
    ((5, 7), (7, 1), (7, 1), (0, 1)), ((5, 70), (70, 1), (70, 1), (1, 0)),
    ((33, 40), (40, 1), (1, 33), (40, 1)), ((33, 40), (1, 33), (1, 33), (0, 0)),
    ((33, 40), (1, 33), (40, 1), (1, 33)), ((6, 5, 17), (85, 17, 1), (1, 6, 30), (17, 0, 1)),
    ((3, 4, 5, 6), (120, 30, 6, 1), (1, 3, 12, 60), (0, 1, 4, 20)),
    ((64,), (2,), (3,), (1,)), ((9, 31), (62, 2), (31, 1), (93, 3)),
    ((2, 9000), (9000, 1), (9000, 1), (0, 1)), ((100, 3), (3, 1), (3, 1), (1, 0)),
]


@pytest.mark.parametrize("case", LAYOUTS, ids=str)
def test_layouts(backend, case):
    shape, so, sx, sy = case
    for d in (dt.float32, dt.bool_, dt.bfloat16):
        p = Params()
        grid = tuple(p.of(n) for n in shape)
        axes = [E.index(k) for k in range(len(shape))]
        o, x, y = (dot(axes, [p.stride(s) for s in row]) for row in (so, sx, sy))
        value = typed(E.select(E.ne(E.load(2, y, d), E.load(1, x, d)), E.load(1, x, d),
                               E.load(2, y, d)), d)
        kernel = Kernel("layout", (Arg("out", d), Arg("in", d), Arg("in", d)), grid,
                        (Stage((), (Store(0, o, value),)),), len(p.values))
        check(backend, kernel, p.values,
              [strided(d, shape, so), strided(d, shape, sx), strided(d, shape, sy)])


REDUCED = [
    ((7, 50), (50, 1), (1,)), ((50, 7), (7, 1), (0,)), ((33, 70), (70, 1), (0,)),
    ((1000,), (1,), (0,)), ((3, 5000), (5000, 1), (1,)), ((5000, 40), (40, 1), (0,)),
    ((4, 5, 6), (30, 6, 1), (0, 2)), ((4, 5, 60), (300, 60, 1), (1,)),
    ((4, 30, 9), (270, 1, 30), (0, 1)), ((6, 11), (11, 0), (1,)),
]
OPS = [("sum", dt.float32), ("sum", dt.int64), ("max", dt.float32), ("min", dt.float64),
       ("max", dt.int8), ("and", dt.bool_), ("or", dt.bool_), ("prod", dt.int32),
       ("max", dt.bool_), ("argmax", dt.float32), ("argmin", dt.float64), ("argmax", dt.int32),
       ("argmax", dt.bool_), ("argmin", dt.bfloat16)]


@pytest.mark.parametrize("case", REDUCED, ids=str)
def test_reductions(backend, case):
    kernel, params, buffers = reductions(OPS[1:], *case)
    check(backend, kernel, params, buffers)
    kernel, params, buffers = reductions(OPS[:1], *case)
    mine, theirs = [b.copy() for b in buffers], [b.copy() for b in buffers]
    launch(backend, kernel, params, mine)
    interpret.run(kernel, params, theirs)
    # eight units in the last place of the largest result, or of a typical sum if that is larger
    scale = max(np.sqrt(np.prod([case[0][k] for k in case[2]])), np.abs(theirs[0]).max())
    assert np.abs(mine[0] - theirs[0]).max() <= 8 * np.finfo(np.float32).eps * scale


def test_reductions_in_both_loop_shapes(backend):
    """A single type at a time chooses the same shapes as real ops do."""
    for op, d in (("sum", dt.int32), ("argmax", dt.float32), ("max", dt.uint8)):
        for case in (REDUCED[0], REDUCED[2], REDUCED[3], REDUCED[6]):
            check(backend, *reductions([(op, d)], *case))


def test_arg_reductions_keep_the_first_of_ties_and_nan(backend):
    for n in (1, 5, 16, 17, 64, 65, 200, 1000):
        for special in (None, np.nan, np.inf, -np.inf):
            for op in ("argmax", "argmin"):
                kernel, params, buffers = reductions([(op, dt.float32)], (4, n), (n, 1), (1,))
                buffers[2][:] = rng.integers(0, 3, 4 * n)
                if special is not None:
                    buffers[2][rng.random(4 * n) < 0.3] = special
                    buffers[2][:n] = special
                check(backend, kernel, params, buffers)


def test_sum_is_accurate(backend):
    n = 1 << 20
    kernel, params, buffers = reductions([("sum", dt.float32)], (n,), (1,), (0,))
    buffers[1] = (rng.random(n) + 0.5).astype(np.float32)
    launch(backend, kernel, params, buffers)
    exact = np.sum(buffers[1], dtype=np.longdouble)
    assert abs(float(buffers[0][0] - exact)) / float(exact) < 3e-7


def test_empty_range_gives_the_identity(backend):
    for op, want in (("sum", 0.0), ("prod", 1.0)):
        kernel, params, buffers = reductions([(op, dt.float32)], (5, 0), (1, 1), (1,))
        buffers[1] = np.zeros(1, np.float32)
        launch(backend, kernel, params, buffers)
        assert (buffers[0] == want).all()


def test_empty_grid_runs_nothing(backend):
    kernel = many([(lambda x: x + 1, dt.int32)], [dt.int32])
    launch(backend, kernel, [0], [np.zeros(1, np.int32), np.zeros(1, np.int32)])


def normalize(shape, strides, inner):
    """Subtract the mean and divide by the largest magnitude: dependent stages."""
    p = Params()
    outer = [k for k in range(len(shape)) if k not in inner]
    grid, ranges = (tuple(p.of(shape[k]) for k in ks) for ks in (outer, inner))
    axes = [None] * len(shape)
    for at, k in enumerate(outer + list(inner)):
        axes[k] = E.index(at)
    at = dot(axes, [p.stride(s) for s in strides])
    d = dt.float64
    x, s, m = E.load(1, at, d), E.ref("s", d), E.ref("m", d)
    count = float(np.prod([shape[k] for k in inner]))
    stages = (Stage(ranges, (Reduce("s", "sum", x),)),
              Stage(ranges, (Store(0, at, typed(x - s / count, d)),)),
              Stage(ranges, (Reduce("m", "max", typed(E.abs_(E.load(0, at, d)), d)),)),
              Stage(ranges, (Store(0, at, typed(E.load(0, at, d) / m, d)),)))
    kernel = Kernel("normalize", (Arg("out", d), Arg("in", d)), grid, stages, len(p.values))
    data = sample(d, 1 + sum((n - 1) * t for n, t in zip(shape, strides)), "small")
    return kernel, p.values, [np.zeros_like(data), data]


@pytest.mark.parametrize("case", [((9, 100), (100, 1), (1,)), ((100, 9), (9, 1), (0,)),
                                  ((100, 90), (90, 1), (0,)), ((3, 4, 50), (200, 50, 1), (0, 2)),
                                  ((40,), (1,), (0,)), ((5, 37), (37, 1), (1,)),
                                  ((3, 1000), (1000, 1), (1,))], ids=str)
def test_several_stages(backend, case):
    kernel, params, buffers = normalize(*case)
    mine, theirs = [b.copy() for b in buffers], [b.copy() for b in buffers]
    launch(backend, kernel, params, mine)
    interpret.run(kernel, params, theirs)
    np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape,strides,dim", [((6, 50), (50, 1), 1), ((50, 33), (33, 1), 0),
                                               ((700,), (1,), 0), ((3, 20, 40), (800, 40, 1), 1)])
def test_scans(backend, shape, strides, dim):
    for op, d in (("sum", dt.int64), ("prod", dt.int32), ("max", dt.float32), ("or", dt.bool_)):
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
        check(backend, kernel, p.values, [np.zeros_like(data), data])


@pytest.mark.parametrize("d", REAL, ids=lambda d: d.name)
def test_gather_and_masked_loads(backend, d):
    n, m = 90, 40
    table, where = sample(d, m), rng.integers(0, m, n)
    idx = E.load(4, E.index(0), dt.int64)
    mask = ix(E.index(0) - 5)
    inside = typed((mask >= 0) & (mask < m), dt.bool_)
    stores = [Store(0, E.index(0), E.load(3, idx, d))]
    for k, at in enumerate((mask, ix(mask * E.param(1)))):
        padded = typed(E.load(3, at, d, mask=inside, other=E.const(1, d)), d)
        stores.append(Store(k + 1, E.index(0), padded, typed(E.index(0) < 80, dt.bool_)))
    kernel = Kernel("pad", (Arg("out", d),) * 3 + (Arg("in", d), Arg("in", dt.int64)),
                    (E.param(0),), (Stage((), tuple(stores)),), 2)
    check(backend, kernel, [n, 1], [*(np.zeros(n, d.np) for _ in range(3)), table, where])


def test_gather_rows(backend):
    p = Params()
    rows, cols = p.of(20), p.of(50)
    at = ix(E.load(2, E.index(0), dt.int64) * cols + E.index(1))
    kernel = Kernel("rows", (Arg("out", dt.float32), Arg("in", dt.float32), Arg("in", dt.int64)),
                    (rows, cols), (Stage((), (Store(0, ix(E.index(0) * cols + E.index(1)),
                                                    E.load(1, at, dt.float32)),)),), 2)
    check(backend, kernel, p.values, [np.zeros(1000, np.float32), sample(dt.float32, 500),
                                      rng.integers(0, 10, 20)])


@pytest.mark.parametrize("shared", [False, True])
def test_scatter(backend, shared):
    cases = [("sum", dt.float32), ("prod", dt.int64), ("max", dt.uint8), ("min", dt.float64),
             ("set", dt.float32), ("sum", dt.bool_), ("sum", dt.float16)]
    for op, d in cases:
        n, m, cols = 30, 7, 21
        p = Params()
        pn, pc = p.of(n), p.of(cols)
        args = (Arg("inout", d), Arg("in", d), Arg("in", dt.int64))
        a, b = (0, 1) if shared else (1, 0)  # row axis, column axis
        row = E.load(2, E.index(a), dt.int64)
        mask = typed(E.ne(E.index(a), 3), dt.bool_)
        value = E.load(1, ix(E.index(a) * pc + E.index(b)), d)
        write = Scatter(0, ix(row * pc + E.index(b)), op, value, mask, shared)
        # not shared: every grid point owns a column, rows arrive in order
        kernel = Kernel("put", args, (pn, pc) if shared else (pc,),
                        (Stage(() if shared else (pn,), (write,)),), 2)
        check(backend, kernel, p.values, [sample(d, m * cols, "small"),
                                          sample(d, n * cols, "small"), rng.integers(0, m, n)])


def test_sixteen_bit_floats_round_to_nearest_even(backend):
    every = np.arange(65536, dtype=np.uint16)
    for d in (dt.float16, dt.bfloat16):
        run_many(backend, [(lambda x: E.cast(E.cast(x, dt.float32) * 1.5, d), d)], [d],
                 [every.view(d.np)])
        ties = (rng.standard_normal(4096) * 100).astype(np.float32).view(np.uint32)
        ties = (ties & 0xFFFF0000 | np.array([0x8000, 0x7FFF, 0x8001, 0], np.uint32
                                             )[rng.integers(0, 4, 4096)]).view(np.float32)
        run_many(backend, [(lambda x: E.cast(x, d), d)], [dt.float32], [ties])


def test_a_result_as_an_address(backend):
    """Ranks by counting: every grid point stores where its own reduction says."""
    p = Params()
    n, m = p.of(12), p.of(37)
    d = dt.float32
    here, there = (E.load(1, ix(E.index(k) * m + E.index(1)), d) for k in (0, 2))
    one, zero = E.const(1, dt.int64), E.const(0, dt.int64)
    smaller = typed(E.select(there < here, one, zero), dt.int64)
    rank = E.ref("r", dt.int64)
    stages = (Stage((n,), (Reduce("r", "sum", smaller),)),
              Stage((), (Store(0, ix(rank * m + E.index(1)), here),)))
    kernel = Kernel("ranks", (Arg("out", d), Arg("in", d)), (n, m), stages, 2)
    data = np.stack([rng.permutation(12) for _ in range(37)], 1).astype(np.float32)
    check(backend, kernel, p.values, [np.zeros(12 * 37, np.float32), data.ravel()])


def test_offsets_and_in_place(backend):
    """Views start anywhere; an operand may be the output."""
    kernel = many([(lambda x: x * 2.0, dt.float32)], [dt.float32])
    made = backend.program(Program((KernelCall(kernel, (20,), (0, 1)),)), (80,), WHERE)
    x = np.arange(50, dtype=np.float32)
    s = backend.allocate(x.nbytes, WHERE)
    backend.copy_from_host(x, s)
    made.into(s.view(40), s.view(40))
    out = made.launch(s.view(40))
    got = np.frombuffer(backend.copy_to_host(s, x.nbytes), np.float32)
    x[10:30] *= 2
    np.testing.assert_array_equal(got, x)
    got = np.frombuffer(backend.copy_to_host(out, 80), np.float32)
    np.testing.assert_array_equal(got, x[10:30] * 2)
