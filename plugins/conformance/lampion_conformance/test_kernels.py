"""L1: every form of the kernel IR, by dtype and layout, to the last bit of `lampion.ir.interpret`.

For devices that declare "kernel-ir". Most kernels hold many cases as outputs, since compiling one
may take a second. The marks `full` leave out what others stand for.
"""

from __future__ import annotations

import numpy as np
import pytest

from lampion.base import dtype as dt
from lampion.ir import expr as E
from lampion.ir import interpret
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
from lampion.testing.kernel_checks import ix, many, reductions, same, sample, spanned, typed

REAL = [d for d in dt.ALL if d.kind != "c"]
NUMBERS = [d for d in REAL if d.kind != "b"]
FEW = (dt.float32, dt.int64, dt.uint8)  # what stands for all numbers in a quick run


def by_dtype(dtypes, few=FEW):
    return pytest.mark.parametrize("d", [
        pytest.param(d, marks=() if d in few else pytest.mark.full) for d in dtypes],
        ids=lambda d: d.name)


def by_case(cases, few):
    return pytest.mark.parametrize("case", [
        pytest.param(c, id="-".join(map(str, (x for x in c if isinstance(x, tuple)))).replace(
            " ", ""), marks=() if k in few else pytest.mark.full) for k, c in enumerate(cases)])


@pytest.fixture
def device_of_kernels(backend, where, caps):
    """(backend, device, dtypes) of a device that compiles kernels, or a skip."""
    if "kernel-ir" not in caps.features:
        pytest.skip("the device does not declare kernel-ir")
    return backend, where, caps.dtypes


@pytest.fixture
def check(device_of_kernels):
    backend, where, dtypes = device_of_kernels

    def run(kernel, params, buffers, ulps=0):
        absent = [a.dtype.name for a in kernel.args if a.kind != "scalar" and a.dtype not in dtypes]
        if absent:
            pytest.skip(f"the device does not claim {absent[0]}")
        return kernel_checks.check(backend, where, kernel, params, buffers, ulps)

    return run


@pytest.fixture
def check_many(check, device_of_kernels):
    def run(cases, ins, data, ulps=0):
        cases = [c for c in cases if c[1] in device_of_kernels[2]]
        outs = [np.zeros(len(data[0]), out.np) for _, out in cases]
        return check(many(cases, ins), [len(data[0])], [*outs, *data], ulps)

    return run


# ---- expressions

@by_dtype(NUMBERS)
def test_arithmetic(check_many, rng, d):
    names, one = ["add", "sub", "mul", "maximum", "minimum"], ["neg", "abs"]
    if d.kind == "f" and d.itemsize > 2:
        names, one = [*names, "fmod", "div"], [*one, "floor", "ceil", "trunc", "round", "sqrt"]
    elif d.kind != "f":
        names, one = [*names, "idiv", "fmod", "and", "or", "xor"], [*one, "not"]
    else:  # 16 bits are computed in float32 by kernels
        names = ["add", "mul", "maximum"]
    a = sample(rng, d, 150)
    b = np.where(rng.random(150) < 0.3, a, rng.permutation(sample(rng, d, 150)))
    b[:3] = a[:3]  # NaN and the infinities each with itself
    cases = [(lambda x, y, n=n: E.op(n, x, y), d) for n in names]
    cases += [(lambda x, y, n=n: E.op(n, x), d) for n in one]
    cases += [(lambda x, y, n=n: E.op(n, x, y), dt.bool_)
              for n in ("lt", "le", "gt", "ge", "eq", "ne")]
    check_many(cases, [d, d], [a, b])


@by_dtype([dt.float32, dt.float64])
def test_zeros_keep_their_sign(check_many, d):
    """Seen through 1/x, since -0 equals 0."""
    x = np.array([0.0, -0.0, 1.0, -1.0, -0.25, 0.25], d.np)
    forms = (lambda x: E.op("neg", x), lambda x: x * 1.0, lambda x: E.op("trunc", x),
             lambda x: E.op("abs", x), lambda x: x + -0.0)
    check_many([(lambda x, f=f: 1.0 / f(x), d) for f in forms], [d], [x])


@by_dtype([dt.float32, dt.float64])
def test_small_numbers_stay(check_many, d):
    tiny = np.finfo(d.np).tiny
    x = np.array([tiny, tiny / 4, -tiny / 1024, tiny * 1.5, 0], d.np)
    check_many([(lambda x: x * 0.5, d), (lambda x: x + x, d), (lambda x: E.ne(x, 0.0), dt.bool_)],
               [d], [x])


@by_dtype([d for d in NUMBERS if d.kind != "f"])
def test_integer_functions(check_many, rng, d):
    a, b = sample(rng, d, 150), rng.permutation(sample(rng, d, 150))
    few = rng.integers(0, 7, 150).astype(d.np)
    shift = (b % (8 * d.itemsize + 3)).astype(d.np)
    cases = [(lambda x, y, n, s: E.op("pow", x, n), d), (lambda x, y, n, s: E.op("shl", x, s), d),
             (lambda x, y, n, s: E.op("shr", x, s), d)]
    if d.kind == "u":
        cases.append((lambda x, y, n, s: E.mulhi(x, y), d))
    check_many(cases, [d] * 4, [a, b, few, shift])


def test_division_by_zero_of_integers(check_many):
    x, y = np.array([5, -5, 0, 7], np.int32), np.array([0, 0, 0, -2], np.int32)
    check_many([(lambda x, y, n=n: E.op(n, x, y), dt.int32) for n in ("idiv", "fmod")],
               [dt.int32] * 2, [x, y])


def test_logic(check_many, rng):
    cases = [(lambda x, y, n=n: E.op(n, x, y), dt.bool_)
             for n in ("and", "or", "xor", "eq", "ne", "lt", "le", "gt", "ge")]
    cases += [(lambda x, y: E.op("not", x), dt.bool_),
              (lambda x, y: E.select(x, y, E.op("not", y)), dt.bool_)]
    check_many(cases, [dt.bool_] * 2, [sample(rng, dt.bool_, 77), sample(rng, dt.bool_, 77)])


@by_dtype(REAL, (dt.float32, dt.int64, dt.bool_))
def test_casts(check_many, rng, d):
    """To every dtype: out of range floats saturate, NaN is 0, integers wrap."""
    values = sample(rng, d, 300)
    if d.kind == "f":
        big = [1e9, -1e9, 3e9, 2.0**31, -2.0**31, 2.0**63, -2.0**63, 1.9e19, 255.5, -0.7, 65520.0,
               65519.9, 1e-8, 6e-8, 3.1e-5, 0.1, 0.3]
        with np.errstate(all="ignore"):
            values[10:10 + len(big)] = np.array(big).astype(d.np)
    elif d.itemsize == 8:
        values[10:14] = np.array([2**24 + 1, 2**53 + 1, 2**62 + 1, 2**40 + 1], d.np)
    check_many([(lambda x, t=t: E.cast(x, t), t) for t in REAL], [d], [values])


def test_bits_and_choices(check_many, rng):
    n = 200
    a, b, c = (sample(rng, dt.float32, n, "small") for _ in range(3))
    near = np.where(rng.random(n) < 0.5, -(a * b), c).astype(np.float32)
    check_many([(lambda x, y, z: E.bitcast(x, dt.int32), dt.int32),
                (lambda x, y, z: E.fma(x, y, z), dt.float32)], [dt.float32] * 3, [a, b, near])
    check_many([(E.ldexp, dt.float32)], [dt.float32] * 2,
               [sample(rng, dt.float32, n), rng.integers(-320, 330, n).astype(np.float32)])
    ins = [dt.bool_, dt.float32, dt.float32, dt.int64, dt.int64, dt.uint8]
    check_many([(lambda m, a, b, c, d, u: E.select(m, a, b), dt.float32),
                (lambda m, a, b, c, d, u: E.select(m, c, d), dt.int64),
                (lambda m, a, b, c, d, u: E.select(E.eq(a, b), c, d), dt.int64),
                (lambda m, a, b, c, d, u: E.select(c > d, u, E.cast(3, dt.uint8)), dt.uint8)],
               ins, [sample(rng, d, n) for d in ins])


def test_numbers_passed_by_value(check):
    args = (Arg("out", dt.float64), Arg("scalar", dt.float64), Arg("scalar", dt.int64))
    value = typed(E.cast(E.index(0), dt.float64) * E.scalar(1, dt.float64)
                  + E.cast(E.scalar(2, dt.int64), dt.float64), dt.float64)
    kernel = Kernel("arange", args, (E.param(0),), (Stage((), (Store(0, E.index(0), value),)),), 1)
    for n, step, start in ((1, 0.25, -7), (8, 1.5, 2**40), (31, -3.0, 0), (333, 1e-3, 5)):
        check(kernel, [n], [np.zeros(n), step, start])


@by_dtype([dt.float32, dt.int32, dt.float64], (dt.float32, dt.int32))
def test_one_kernel_serves_many_sizes_and_dtypes(check, rng, d):
    """Caches keyed by too little show here: kernels of one name, shape and size one after the
    other, differing in dtype or in params."""
    for other in (d, dt.int64, d):
        kernel = many([(lambda x: x + x, other)], [other])
        for n in (33, 7, 33, 120):
            check(kernel, [n], [np.zeros(n, other.np), sample(rng, other, n)])
    p = [many([(lambda x, k=k: x * k, d)], [d]) for k in (2, 3)]
    for kernel in (*p, *p):
        check(kernel, [50], [np.zeros(50, d.np), sample(rng, d, 50)])


# ---- sizes and layouts

def test_every_tail_length(check, rng):
    kernel = many([(lambda x, y: x * y + 1.0, dt.float32)], [dt.float32, dt.float32])
    for n in [*range(1, 40), 63, 64, 65, 255, 257, 1023, 70001]:
        check(kernel, [n], [np.zeros(n, np.float32), sample(rng, dt.float32, n),
                            sample(rng, dt.float32, n)])


def test_nothing_is_written_past_the_end(check, rng):
    kernel = many([(lambda x: x + x, dt.int32)], [dt.int32])
    for n in (0, 1, 5, 31, 64, 1000):
        check(kernel, [n], [np.full(n + 70, -1, np.int32), sample(rng, dt.int32, n + 70)])


LAYOUTS = [  # shape, strides of the output, of x, of y
    ((5, 7), (7, 1), (7, 1), (0, 1)), ((5, 70), (70, 1), (70, 1), (1, 0)),
    ((33, 40), (40, 1), (1, 33), (40, 1)), ((33, 40), (1, 33), (1, 33), (0, 0)),
    ((33, 40), (1, 33), (40, 1), (1, 33)), ((6, 5, 17), (85, 17, 1), (1, 6, 30), (17, 0, 1)),
    ((3, 4, 5, 6), (120, 30, 6, 1), (1, 3, 12, 60), (0, 1, 4, 20)),
    ((64,), (2,), (3,), (1,)), ((9, 31), (62, 2), (31, 1), (93, 3)),
    ((2, 9000), (9000, 1), (9000, 1), (0, 1)), ((100, 3), (3, 1), (3, 1), (1, 0)),
]


@by_case(LAYOUTS, (0, 2, 5, 7))
def test_layouts(check, rng, case):
    shape, so, sx, sy = case
    for d in (dt.float32, dt.bool_, dt.int64):
        p = Params()
        grid = tuple(p.of(n) for n in shape)
        axes = [E.index(k) for k in range(len(shape))]
        o, x, y = (dot(axes, [p.stride(s) for s in row]) for row in (so, sx, sy))
        value = typed(E.select(E.ne(E.load(2, y, d), E.load(1, x, d)), E.load(1, x, d),
                               E.load(2, y, d)), d)
        kernel = Kernel("layout", (Arg("out", d), Arg("in", d), Arg("in", d)), grid,
                        (Stage((), (Store(0, o, value),)),), len(p.values))
        check(kernel, p.values, [sample(rng, d, spanned(shape, s)) for s in (so, sx, sy)])


def test_offsets_and_in_place(device_of_kernels):
    """Views start anywhere, also a view of a view; an operand may be the output."""
    backend, where, _ = device_of_kernels
    kernel = many([(lambda x: x * 2.0, dt.float32)], [dt.float32])
    made = backend.program(Program((KernelCall(kernel, (20,), (0, 1)),)), (80,), where)
    x = np.arange(50, dtype=np.float32)
    s = backend.allocate(x.nbytes, where)
    backend.copy_from_host(x, s)
    view = s.view(24).view(16)
    made.into(view, view)
    out = made.launch(view)
    x[10:30] *= 2
    got = np.frombuffer(backend.copy_to_host(s, x.nbytes), np.float32)
    np.testing.assert_array_equal(got, x)
    got = np.frombuffer(backend.copy_to_host(out, 80), np.float32)
    np.testing.assert_array_equal(got, x[10:30] * 2)


# ---- reductions and scans

REDUCED = [
    ((7, 50), (50, 1), (1,)), ((50, 7), (7, 1), (0,)), ((33, 70), (70, 1), (0,)),
    ((1000,), (1,), (0,)), ((3, 5000), (5000, 1), (1,)), ((5000, 40), (40, 1), (0,)),
    ((4, 5, 6), (30, 6, 1), (0, 2)), ((4, 5, 60), (300, 60, 1), (1,)),
    ((4, 30, 9), (270, 1, 30), (0, 1)), ((6, 11), (11, 0), (1,)),
]
OPS = [("sum", dt.int64), ("max", dt.float32), ("min", dt.float32), ("max", dt.int8),
       ("and", dt.bool_), ("or", dt.bool_), ("prod", dt.int32), ("max", dt.bool_),
       ("argmax", dt.float32), ("argmin", dt.float32), ("argmax", dt.int32), ("argmax", dt.bool_)]


@by_case(REDUCED, (0, 2, 6))
def test_reductions(check, device_of_kernels, rng, case):
    check(*reductions(rng, OPS, *case))
    backend, where, _ = device_of_kernels
    kernel, params, buffers = reductions(rng, [("sum", dt.float32)], *case)
    mine, theirs = ([b.copy() for b in buffers] for _ in range(2))
    kernel_checks.launch(backend, where, kernel, params, mine)
    interpret.run(kernel, params, theirs)
    # eight units in the last place of the largest result, or of a typical sum if that is larger
    scale = max(np.sqrt(np.prod([case[0][k] for k in case[2]])), np.abs(theirs[0]).max())
    assert np.abs(mine[0] - theirs[0]).max() <= 8 * np.finfo(np.float32).eps * scale


def test_reductions_of_one_sign(check, rng):
    """A wrong starting value wins over values that are all on one side of it."""
    for op, sign in (("max", -1), ("min", 1)):
        for d in (dt.float32, dt.int32):
            kernel, params, buffers = reductions(rng, [(op, d)], (6, 19), (19, 1), (1,))
            buffers[1][:] = sign * rng.integers(3, 90, len(buffers[1]))
            check(kernel, params, buffers)
    kernel, params, buffers = reductions(rng, [("prod", dt.float32)], (6, 19), (19, 1), (1,))
    buffers[1][:] = np.where(rng.random(len(buffers[1])) < 0.5, 2, 0.5)
    check(kernel, params, buffers, 4)


def test_reductions_see_nan(check, rng):
    for op in ("max", "min"):
        for at in (0, 5, 40):
            kernel, params, buffers = reductions(rng, [(op, dt.float32)], (4, 41), (41, 1), (1,))
            buffers[1][:] = rng.standard_normal(len(buffers[1]))
            buffers[1][at::41] = np.nan
            assert np.isnan(check(kernel, params, buffers)[0]).all()


def test_positions_are_of_the_first_of_ties_and_of_nan(check, rng):
    for n in (1, 5, 16, 17, 64, 65, 200, 1000):
        for special in (None, np.nan, np.inf, -np.inf):
            kernel, params, buffers = reductions(
                rng, [("argmax", dt.float32), ("argmin", dt.float32)], (4, n), (n, 1), (1,))
            for b in buffers[4:]:
                b[:] = rng.integers(0, 3, 4 * n)
                if special is not None:
                    b[rng.random(4 * n) < 0.3] = special
                    b[:n] = special
            check(kernel, params, buffers)


def test_a_sum_is_accurate(device_of_kernels, rng):
    backend, where, _ = device_of_kernels
    n = 1 << 20
    kernel, params, buffers = reductions(rng, [("sum", dt.float32)], (n,), (1,), (0,))
    buffers[1] = (rng.random(n) + 0.5).astype(np.float32)
    kernel_checks.launch(backend, where, kernel, params, buffers)
    exact = np.sum(buffers[1], dtype=np.longdouble)
    assert abs(float(buffers[0][0] - exact)) / float(exact) < 3e-7


def test_an_empty_reduction_gives_the_identity(device_of_kernels, rng):
    backend, where, _ = device_of_kernels
    for op, want in (("sum", 0.0), ("prod", 1.0)):
        kernel, params, buffers = reductions(rng, [(op, dt.float32)], (5, 0), (1, 1), (1,))
        buffers[0][:] = 7
        kernel_checks.launch(backend, where, kernel, params, buffers)
        assert (buffers[0] == want).all()


@by_case([((6, 50), (50, 1), 1), ((50, 33), (33, 1), 0), ((700,), (1,), 0),
          ((3, 20, 40), (800, 40, 1), 1)], (0, 1))
def test_scans(check, rng, case):
    shape, strides, dim = case
    for op, d in (("sum", dt.int64), ("prod", dt.int32), ("max", dt.float32), ("or", dt.bool_)):
        p = Params()
        outer = [k for k in range(len(shape)) if k != dim]
        grid, ranges = tuple(p.of(shape[k]) for k in outer), (p.of(shape[dim]),)
        axes = [None] * len(shape)
        for at, k in enumerate([*outer, dim]):
            axes[k] = E.index(at)
        at = dot(axes, [p.stride(s) for s in strides])
        body = (Scan("r", op, E.load(1, at, d)), Store(0, at, E.ref("r", d)))
        kernel = Kernel("scan", (Arg("out", d), Arg("in", d)), grid, (Stage(ranges, body),),
                        len(p.values))
        data = sample(rng, d, int(np.prod(shape)), "mixed" if op == "max" else "small")
        check(kernel, p.values, [np.zeros_like(data), data])


def test_stages_follow_each_other(device_of_kernels, rng):
    """Subtract the mean, then divide by the largest magnitude of what was stored."""
    backend, where, _ = device_of_kernels
    for rows, n in ((9, 100), (3, 1000), (40, 7)):
        p = Params()
        grid, ranges = (p.of(rows),), (p.of(n),)
        at = dot([E.index(0), E.index(1)], [p.stride(n), p.stride(1)])
        d = dt.float32
        x, s, m = E.load(1, at, d), E.ref("s", d), E.ref("m", d)
        stages = (Stage(ranges, (Reduce("s", "sum", x),)),
                  Stage(ranges, (Store(0, at, typed(x - s / float(n), d)),)),
                  Stage(ranges, (Reduce("m", "max", typed(E.abs_(E.load(0, at, d)), d)),)),
                  Stage(ranges, (Store(0, at, typed(E.load(0, at, d) / m, d)),)))
        kernel = Kernel("normalize", (Arg("out", d), Arg("in", d)), grid, stages, len(p.values))
        mine, theirs = ([np.zeros(rows * n, np.float32), b] for b in [sample(rng, d, rows * n,
                                                                             "small")] * 2)
        kernel_checks.launch(backend, where, kernel, p.values, mine)
        interpret.run(kernel, p.values, theirs)
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-5, atol=1e-6)


# ---- addresses from memory

@by_dtype(REAL, (dt.float32, dt.bool_))
def test_gathers_and_masked_loads(check, rng, d):
    n, m = 90, 40
    table, where = sample(rng, d, m), rng.integers(0, m, n)
    idx = E.load(4, E.index(0), dt.int64)
    mask = ix(E.index(0) - 5)
    inside = typed((mask >= 0) & (mask < m), dt.bool_)
    stores = [Store(0, E.index(0), E.load(3, idx, d))]
    for k, at in enumerate((mask, ix(mask * E.param(1)))):
        padded = typed(E.load(3, at, d, mask=inside, other=E.const(1, d)), d)
        stores.append(Store(k + 1, E.index(0), padded, typed(E.index(0) < 80, dt.bool_)))
    kernel = Kernel("pad", (Arg("out", d),) * 3 + (Arg("in", d), Arg("in", dt.int64)),
                    (E.param(0),), (Stage((), tuple(stores)),), 2)
    check(kernel, [n, 1], [*(np.zeros(n, d.np) for _ in range(3)), table, where])


@pytest.mark.parametrize("shared", [False, True], ids=["owned", "shared"])
def test_scatters_keep_the_order(check, rng, shared):
    for op, d in (("sum", dt.float32), ("prod", dt.int64), ("max", dt.uint8), ("min", dt.float32),
                  ("set", dt.float32), ("sum", dt.bool_)):
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
        check(kernel, p.values, [sample(rng, d, m * cols, "small"),
                                 sample(rng, d, n * cols, "small"), rng.integers(0, m, n)])


def test_a_result_as_an_address(check, rng):
    """Ranks by counting: every grid point stores where its own reduction says."""
    p = Params()
    n, m, d = p.of(12), p.of(37), dt.float32
    here, there = (E.load(1, ix(E.index(k) * m + E.index(1)), d) for k in (0, 2))
    smaller = typed(E.select(there < here, E.const(1, dt.int64), E.const(0, dt.int64)), dt.int64)
    stages = (Stage((n,), (Reduce("r", "sum", smaller),)),
              Stage((), (Store(0, ix(E.ref("r", dt.int64) * m + E.index(1)), here),)))
    kernel = Kernel("ranks", (Arg("out", d), Arg("in", d)), (n, m), stages, 2)
    data = np.stack([rng.permutation(12) for _ in range(37)], 1).astype(np.float32)
    check(kernel, p.values, [np.zeros(12 * 37, np.float32), data.ravel()])


@pytest.mark.parametrize("d", [dt.float16, dt.bfloat16], ids=lambda d: d.name)
def test_sixteen_bits_round_to_nearest_even(check_many, rng, d):
    every = np.arange(65536, dtype=np.uint16)
    check_many([(lambda x: E.cast(E.cast(x, dt.float32) * 1.5, d), d)], [d], [every.view(d.np)])
    ties = (rng.standard_normal(4096) * 100).astype(np.float32).view(np.uint32)
    ends = np.array([0x8000, 0x7FFF, 0x8001, 0], np.uint32)[rng.integers(0, 4, 4096)]
    ties = (ties & 0xFFFF0000 | ends).view(np.float32)
    check_many([(lambda x: E.cast(x, d), d)], [dt.float32], [ties])


# ---- functions

FUNCTIONS = ["exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin",
             "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc",
             "rsqrt"]


@by_dtype([dt.float32, dt.float64], (dt.float32,))
def test_functions(device_of_kernels, rng, d):
    backend, where, dtypes = device_of_kernels
    if d not in dtypes:
        pytest.skip(f"the device does not claim {d.name}")
    x = np.concatenate([sample(rng, d, 200, "small"), sample(rng, d, 60)]).astype(d.np)
    y = rng.permutation(x)
    for names in (FUNCTIONS[:11], FUNCTIONS[11:]):
        forms = [(lambda v, w, f=f: E.op(f, v)) for f in names]
        forms += [lambda v, w: E.op("pow", v, w), lambda v, w: E.op("atan2", v, w)]
        mine = [np.zeros(len(x), d.np) for _ in forms]
        wide = [np.zeros(len(x), np.float64) for _ in forms]
        kernel_checks.launch(backend, where, many([(f, d) for f in forms], [d, d]), [len(x)],
                             [*mine, x, y])
        interpret.run(many([(f, dt.float64) for f in forms], [dt.float64] * 2), [len(x)],
                      [*wide, x.astype(np.float64), y.astype(np.float64)])
        for name, got, want in zip([*names, "pow", "atan2"], mine, wide):
            with np.errstate(all="ignore"):
                same(got, want.astype(d.np), 5, name)
