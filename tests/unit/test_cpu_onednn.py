"""Matrix products and convolutions of the CPU backend, against NumPy.

May import: the standard library, NumPy, pytest, ``lampion_cpu``.
"""

import ctypes
import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from lampion_cpu import blas, conv, direct, gemm, native, onednn, pack, program

needs_onednn = pytest.mark.skipif(
    not onednn.available()[0], reason=f"oneDNN: {onednn.available()[1]}"
)
TOLERANCE = {"float32": 2e-5, "float64": 1e-12, "complex64": 2e-5, "complex128": 1e-12}


def storage_of(array):
    """A storage with the bytes of a contiguous array."""
    storage = native.empty(max(array.nbytes, 1))
    ctypes.memmove(storage.ptr, array.ctypes.data, array.nbytes)
    return storage


def run_plan(plan, output, inputs):
    """Run a plan whose slot 0 is the output; return the output array."""
    prog = program.make_program(plan.steps, "s" * len(inputs), (output.nbytes,), plan.scratch)
    target = storage_of(output)
    prog.into(target, *[storage_of(x) for x in inputs])
    ctypes.memmove(output.ctypes.data, target.ptr, output.nbytes)
    return output


def view(slot, array, dtype=None):
    strides = tuple(s // array.itemsize for s in array.strides)
    return gemm.View(slot, array.shape, strides, dtype or str(array.dtype))


def random(rng, shape, dtype):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def base_of(array):
    """The array that owns the memory, and the view's offset must be 0."""
    while array.base is not None:
        array = array.base
    return array


def check_product(a, b, bias=None, post=None, seed=0, expect=True):
    """Compare matmul_steps with NumPy on (views of) arrays."""
    dtype = str(a.dtype)
    shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) + (a.shape[-2], b.shape[-1])
    old = random(np.random.default_rng(seed), shape, dtype)
    c = old.copy() if post == "sum" else np.full(shape, np.nan, dtype)
    extra = None if bias is None else view(3, bias)
    plan = gemm.matmul_steps(view(1, a), view(2, b), view(0, c), extra, post,
                             first_scratch=3 if bias is None else 4)  # fmt: skip
    if not expect:
        assert plan is None
        return None
    assert plan is not None
    inputs = [base_of(a), base_of(b)] + ([] if bias is None else [base_of(bias)])
    got = run_plan(plan, c, inputs)
    wide = "complex128" if np.dtype(dtype).kind == "c" else "float64"
    want = a.astype(wide) @ b.astype(wide)
    if bias is not None:
        want = want + bias
    if post == "sum":
        want = want + old
    if post == "relu":
        want = np.maximum(want, 0)
    scale = np.abs(want).max() if want.size else 1.0
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=TOLERANCE[dtype])
    return plan


SHAPES = [
    (1, 1, 1), (1, 7, 5), (4, 4, 4), (5, 1, 3), (3, 2, 1), (16, 16, 16), (17, 33, 50),
    (64, 10, 32), (8, 40, 300), (1, 300, 200), (300, 1, 77), (33, 65, 129), (70, 80, 90),
    (2, 600, 300), (600, 3, 300), (128, 96, 200),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("form", ["NN", "NT", "TN", "TT"])
def test_matmul_forms(form, dtype):
    rng = np.random.default_rng(1)
    for m, n, k in SHAPES:
        a = random(rng, (m, k) if form[0] == "N" else (k, m), dtype)
        b = random(rng, (k, n) if form[1] == "N" else (n, k), dtype)
        check_product(a if form[0] == "N" else a.T, b if form[1] == "N" else b.T)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("post", [None, "relu", "sum"])
@pytest.mark.parametrize("bias", ["n", "m", "scalar", "gaps"])
def test_matmul_epilogues(bias, post, dtype):
    rng = np.random.default_rng(2)
    for (m, n, k), turned in itertools.product(
        [(5, 6, 7), (40, 37, 50), (1, 500, 400), (3, 9, 200), (200, 90, 70)], [False, True]
    ):
        a = random(rng, (m, k), dtype)
        b = random(rng, (n, k), dtype).T if turned else random(rng, (k, n), dtype)
        extra = {
            "n": random(rng, (n,), dtype),
            "m": random(rng, (m, 1), dtype),
            "scalar": random(rng, (1,), dtype),
            "gaps": random(rng, (2 * n,), dtype)[::2],
        }[bias]
        check_product(a, b, extra, post)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_matmul_batches(dtype):
    rng = np.random.default_rng(3)

    def r(*shape):
        return random(rng, shape, dtype)

    check_product(r(6, 5, 4), r(6, 4, 3))
    check_product(r(6, 5, 4), r(4, 3))  # folds into one product
    check_product(r(5, 4), r(6, 4, 3))
    check_product(r(2, 1, 5, 4), r(1, 3, 4, 6))
    check_product(r(2, 3, 5, 4), r(3, 4, 6))
    check_product(r(7, 1, 40), r(40, 30))
    check_product(r(8, 70, 65), r(8, 65, 80))
    check_product(r(8, 70, 65), r(8, 80, 65).transpose(0, 2, 1))
    heads = r(2, 9, 3, 8).transpose(0, 2, 1, 3)  # (batch, head, time, channel), not collapsible
    check_product(heads, r(2, 9, 3, 8).transpose(0, 2, 3, 1))
    heads = r(2, 70, 3, 64).transpose(0, 2, 1, 3)
    check_product(heads, r(2, 70, 3, 64).transpose(0, 2, 3, 1))
    if dtype != "complex64":
        check_product(heads, r(3, 64, 30), r(30), "relu")


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("size", [6, 90])
def test_matmul_odd_strides(size, dtype):
    rng = np.random.default_rng(4)
    a = random(rng, (size, 2 * size), dtype)[:, ::2]
    b = random(rng, (2 * size, 3 * size), dtype)[::2, ::3]
    check_product(a, b)
    check_product(a.T, b.T)
    check_product(np.broadcast_to(random(rng, (1,), dtype), (size, size)), b)
    check_product(b, np.broadcast_to(random(rng, (1, size), dtype), (size, size)))
    check_product(b, np.broadcast_to(random(rng, (1,), dtype), (4, size, size)))
    check_product(np.broadcast_to(random(rng, (size, 1), dtype), (size, size)), a)


def test_matmul_transposed_output():
    rng = np.random.default_rng(5)
    for m, n, k in [(5, 6, 7), (120, 90, 100)]:
        for dtype in ("float32", "float64", "complex128"):
            a, b = random(rng, (m, k), dtype), random(rng, (k, n), dtype)
            c = np.zeros((n, m), dtype)
            plan = gemm.matmul_steps(view(1, a), view(2, b), view(0, c.T), first_scratch=3)
            got = run_plan(plan, c, [a, b])
            np.testing.assert_allclose(got.T, a @ b, rtol=1e-3, atol=1e-4)


def test_matmul_limits():
    x = np.zeros((0, 3), np.float32)
    assert check_product(x, np.zeros((3, 4), np.float32)).steps == ()
    check_product(np.zeros((2, 0), np.float32), np.zeros((0, 4), np.float32), expect=False)
    whole = gemm.View(0, (2, 2), (2, 1), "int32")
    assert gemm.matmul_steps(whole, whole, whole, first_scratch=3) is None
    ok = gemm.View(0, (2, 2), (2, 1), "float32")
    assert gemm.matmul_steps(ok, ok, ok, None, "no such", first_scratch=3) is None
    with pytest.raises(ValueError, match="do not fit"):
        gemm.matmul_steps(ok, gemm.View(0, (3, 2), (2, 1), "float32"), ok, first_scratch=3)


def bfloat16(array):
    """Round to bfloat16; return (bits, value)."""
    bits = array.astype(np.float32).view(np.uint32)
    bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


@needs_onednn
@pytest.mark.parametrize("form", ["NN", "NT", "TN"])
def test_matmul_bfloat16(form):
    rng = np.random.default_rng(6)
    for m, n, k in [(4, 4, 4), (1, 200, 300), (300, 1, 200), (64, 48, 100), (600, 1600, 1024)]:
        a, wide_a = bfloat16(rng.standard_normal((m, k) if form[0] == "N" else (k, m)))
        b, wide_b = bfloat16(rng.standard_normal((k, n) if form[1] == "N" else (n, k)))
        if form[0] == "T":
            a, wide_a = a.T, wide_a.T
        if form[1] == "T":
            b, wide_b = b.T, wide_b.T
        c = np.zeros((m, n), np.uint16)
        views = [view(s, x, "bfloat16") for s, x in ((1, a), (2, b), (0, c))]
        plan = gemm.matmul_steps(*views, first_scratch=3)
        assert plan is not None
        run_plan(plan, c, [base_of(a), base_of(b)])
        got = (c.astype(np.uint32) << 16).view(np.float32)
        want = wide_a @ wide_b
        np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2 * np.abs(want).max())


@needs_onednn
@pytest.mark.parametrize("post", ["gelu", "gelu_tanh", "silu", "sigmoid", "tanh"])
def test_matmul_post_operations(post):
    rng = np.random.default_rng(7)
    a, b = random(rng, (40, 30), "float32"), random(rng, (30, 20), "float32")
    c = np.zeros((40, 20), np.float32)
    plan = gemm.matmul_steps(view(1, a), view(2, b), view(0, c), None, post, first_scratch=3)
    x = (a.astype("float64") @ b).ravel()
    from math import erf

    want = {
        "gelu": lambda: 0.5 * x * (1 + np.array([erf(v / 2**0.5) for v in x])),
        "gelu_tanh": lambda: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "silu": lambda: x / (1 + np.exp(-x)),
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "tanh": lambda: np.tanh(x),
    }[post]()
    np.testing.assert_allclose(run_plan(plan, c, [a, b]).ravel(), want, rtol=2e-4, atol=2e-5)


@needs_onednn
def test_threads_share_a_primitive():
    """Two Python threads in the same program must not see each other's operands."""
    rng = np.random.default_rng(8)
    n = 160
    pairs = [(random(rng, (n, n), "float32"), random(rng, (n, n), "float32")) for _ in range(4)]
    c = np.zeros((n, n), np.float32)
    v = [view(s, c) for s in (1, 2, 0)]
    plan = gemm.matmul_steps(*v, first_scratch=3)
    prog = program.make_program(plan.steps, "ss", (c.nbytes,), plan.scratch, nogil=True)
    wrong = []

    def work(a, b):
        x, y, want = storage_of(a), storage_of(b), a @ b
        for _ in range(60):
            out = prog.launch(x, y)
            got = np.ctypeslib.as_array((ctypes.c_float * (n * n)).from_address(out.ptr))
            if np.abs(got.reshape(n, n) - want).max() > 1e-3:
                wrong.append(1)

    workers = [threading.Thread(target=work, args=pair) for pair in pairs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


FORK = """
import os
import numpy as np
from lampion_cpu import gemm, native, program

view = [gemm.View(slot, (300, 300), (300, 1), "float32") for slot in (1, 2, 0)]
x = native.empty(300 * 300 * 4)

def run(plan):
    program.make_program(plan.steps, "ss", (x.nbytes,), plan.scratch).launch(x, x)

before = gemm.matmul_steps(*view, first_scratch=3)
run(before)
if os.fork() == 0:
    try:
        run(before)
        for _ in range(1000):
            pass
        print("ran")
    except RuntimeError as error:
        print(error)
    run(gemm.matmul_steps(*view, first_scratch=3))
    print("planned again", flush=True)
    os._exit(0)
os.wait()
"""


@needs_onednn
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_does_not_hang():
    env = {**os.environ, "LAMPION_NUM_THREADS": "2", "LAMPION_THREADING": "gomp"}
    command = [sys.executable, "-c", FORK]
    out = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert "before fork() cannot run in the child" in out.stdout, out.stderr
    assert "planned again" in out.stdout


def test_pack_copies_any_strides():
    rng = np.random.default_rng(9)
    kinds = {1: "int8", 2: "int16", 4: "float32", 8: "float64", 16: "complex128"}
    for size, dtype in kinds.items():
        x = (rng.standard_normal((4, 5, 6, 7)) * 100).astype(dtype)
        part = x[::2, :, ::-1, ::3][:, :, ::-1].transpose(2, 0, 3, 1)
        strides = tuple(s // size for s in part.strides)
        step = pack.dense_step(0, 1, part.shape, strides, size)
        out = np.zeros(part.shape, dtype)
        run_plan(gemm.Plan((step,), ()), out, [x])
        np.testing.assert_array_equal(out, part)


SWITCHES = [
    "LAMPION_ONEDNN=0",
    "LAMPION_VECTOR_BITS=256",
    "LAMPION_VECTOR_BITS=128",
    "LAMPION_THREADING=own",
    "LAMPION_THREADING=serial",
]


@pytest.mark.parametrize("switch", SWITCHES)
def test_matmul_elsewhere(switch):
    """The same tests hold without oneDNN, with narrow vectors and with other pools."""
    if os.environ.get("LAMPION_TEST_NESTED"):
        pytest.skip("already nested")
    name, value = switch.split("=")
    env = {**os.environ, name: value, "LAMPION_TEST_NESTED": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-p", "no:cacheprovider",
               "-k", "forms or batches or epilogues or odd or transposed"]  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]


def test_reasons_are_given():
    code = "from lampion_cpu import onednn; print(onednn.available())"
    env = {**os.environ, "LAMPION_ONEDNN": "0"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "disabled by LAMPION_ONEDNN=0" in out.stdout
    env = {**os.environ, "LAMPION_ONEDNN_LIBRARY": "/nowhere/libdnnl.so"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "cannot be loaded" in out.stdout


@pytest.mark.skipif(not blas.available()[0], reason="no BLAS")
def test_blas_keeps_numpys_threads():
    found = blas._find()
    name = f"scipy_openblas_get_num_threads{found.suffix}"
    if not hasattr(found.library, name):
        pytest.skip("another BLAS")
    before = getattr(found.library, name)()
    a = np.random.default_rng(10).standard_normal((200, 200))
    check_product(a, a)
    assert getattr(found.library, name)() == before


def test_direct_tiles_cover_every_shape():
    if not direct.supported():
        pytest.skip("no fused multiply-add")
    for m, n in itertools.product(range(1, 40), (1, 3, 16, 17, 64, 100)):
        tile = direct.choose_tile(m, n, 8, "float32")
        assert tile.rows * (m // tile.rows) + tile.tail == m
        assert tile.panels * tile.vectors * direct.lanes("float32") >= n


# --- convolutions --------------------------------------------------------------------------


def conv_windows(shape, kernel, out, stride, dilation):
    """For each offset in the kernel, the slices of the padded input that meet it."""
    for offset in itertools.product(*(range(k) for k in kernel)):
        parts = [slice(None), slice(None)]
        for o, s, d, n in zip(offset, stride, dilation, out, strict=True):
            parts.append(slice(o * d, o * d + s * (n - 1) + 1, s))
        yield offset, tuple(parts)


def conv_reference(x, w, gy, stride, padding, dilation, groups):
    """(y, gx, gw) of a convolution in float64, one kernel offset at a time."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    wide = np.pad(x, [(0, 0), (0, 0)] + [(p, p) for p in padding])
    out = gy.shape[2:]
    n, channels = x.shape[:2]
    outs = w.shape[0]
    y, gwide, gw = np.zeros(gy.shape), np.zeros(wide.shape), np.zeros(w.shape)
    grouped_w = w.reshape(groups, outs // groups, *w.shape[1:])
    grouped_gy = gy.astype(np.float64).reshape(n, groups, outs // groups, -1)
    for offset, part in conv_windows(wide.shape, w.shape[2:], out, stride, dilation):
        seen = wide[part].reshape(n, groups, channels // groups, -1)
        at = (Ellipsis, *offset)
        y += np.einsum("ngcs,goc->ngos", seen, grouped_w[at]).reshape(y.shape)
        back = np.einsum("ngos,goc->ngcs", grouped_gy, grouped_w[at])
        gwide[part] += back.reshape(gwide[part].shape)
        gw[at] = np.einsum("ngos,ngcs->goc", grouped_gy, seen).reshape(outs, -1)
    inner = tuple(slice(p, p + s) for p, s in zip(padding, x.shape[2:], strict=True))
    return y, gwide[(slice(None), slice(None), *inner)], gw


def channels_last(array):
    """The same array with the channels innermost in memory."""
    rank = array.ndim
    order = (0, *range(2, rank), 1)
    back = (0, rank - 1, *range(1, rank - 1))
    return np.ascontiguousarray(array.transpose(order)).transpose(back)


def run_outputs(plan, outputs, inputs):
    """Run a plan whose first slots are several outputs."""
    targets = [storage_of(base_of(x)) for x in outputs]
    prog = program.make_program(
        plan.steps, "s" * len(inputs), [t.nbytes for t in targets], plan.scratch
    )
    prog.into(*targets, *[storage_of(base_of(x)) for x in inputs])
    for array, target in zip(outputs, targets, strict=True):
        whole = base_of(array)
        ctypes.memmove(whole.ctypes.data, target.ptr, whole.nbytes)


def close(got, want):
    scale = max(np.abs(want).max(), 1e-3)
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=3e-5)


# batch, channels, space, outputs, kernel, stride, padding, dilation, groups
CONVOLUTIONS = [
    (2, 3, (9,), 4, (3,), (1,), (1,), (1,), 1),
    (3, 16, (20,), 32, (4,), (2,), (0,), (2,), 2),
    (64, 1, (8, 8), 16, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (8, 16, (8, 8), 32, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (4, 1, (28, 28), 6, (5, 5), (1, 1), (2, 2), (1, 1), 1),
    (4, 6, (14, 14), 16, (5, 5), (1, 1), (0, 0), (1, 1), 1),
    (1, 3, (15, 22), 8, (7, 7), (2, 2), (3, 3), (1, 1), 1),
    (2, 5, (11, 6), 7, (3, 2), (2, 1), (0, 1), (1, 3), 1),
    (2, 32, (10, 12), 48, (3, 3), (2, 3), (1, 0), (2, 2), 1),
    (1, 64, (7, 7), 32, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (3, 64, (14, 14), 96, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (3, 48, (14, 14), 33, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    (2, 32, (9, 9), 32, (3, 3), (1, 1), (1, 1), (1, 1), 32),
    (2, 8, (9, 9), 16, (3, 3), (2, 2), (1, 1), (1, 1), 8),
    (2, 12, (9, 9), 6, (3, 3), (1, 1), (1, 1), (1, 1), 3),
    (2, 64, (8, 8), 64, (3, 3), (1, 1), (1, 1), (1, 1), 4),
    (1, 4, (6, 7, 5), 5, (3, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 2), 1),
    (2, 16, (4, 5, 6), 16, (3, 3, 3), (2, 1, 1), (1, 1, 1), (1, 1, 1), 1),
    (1, 1, (1, 1), 1, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (5, 2, (1, 9), 3, (1, 3), (1, 1), (0, 1), (1, 1), 1),
]


@needs_onednn
@pytest.mark.parametrize("layout", ["first", "last", "mixed", "gaps"])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case, layout):
    batch, channels, space, outs, kernel, *geometry, groups = case
    stride, padding, dilation = geometry
    rng = np.random.default_rng(11)
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(space, kernel, *geometry, strict=True)
    ]
    x = random(rng, (batch, channels, *space), "float32")
    w = random(rng, (outs, channels // groups, *kernel), "float32")
    gy = random(rng, (batch, outs, *out), "float32")
    bias = random(rng, (outs,), "float32")
    want_y, want_gx, want_gw = conv_reference(x, w, gy, stride, padding, dilation, groups)
    if layout in ("last", "mixed"):
        x, w = channels_last(x), channels_last(w)
    if layout == "last":
        gy = channels_last(gy)
    if layout == "gaps":
        x = np.repeat(x, 2, axis=-1)[..., ::2]
        w = np.repeat(w, 2, axis=0)[::2]
        bias = np.repeat(bias, 2)[::2]
    settings = (*geometry, groups)

    y = np.full_like(gy, np.nan)
    views = [view(1, x), view(2, w), view(0, y), view(3, bias)]
    plan = conv.conv_steps(*views, *settings, "relu", first_scratch=4)
    run_outputs(plan, [y], [x, w, bias])
    close(y, np.maximum(want_y + bias.reshape(1, -1, *(1 for _ in space)), 0))

    plan = conv.conv_steps(*views[:3], None, *settings, first_scratch=3)
    run_outputs(plan, [y], [x, w])
    close(y, want_y)

    gx = np.full_like(x, np.nan) if layout != "gaps" else np.full(x.shape, np.nan, x.dtype)
    views = [view(1, gy), view(2, w), view(0, gx)]
    run_outputs(conv.conv_backward_data_steps(*views, *settings, first_scratch=3), [gx], [gy, w])
    close(gx, want_gx)

    for gw in (np.full(w.shape, np.nan, "float32"), channels_last(np.zeros(w.shape, "float32"))):
        gb = np.full((outs,), np.nan, "float32")
        views = [view(2, x), view(3, gy), view(0, gw), view(1, gb)]
        plan = conv.conv_backward_weights_steps(*views, *settings, first_scratch=4)
        run_outputs(plan, [gw, gb], [x, gy])
        close(gw, want_gw)
        close(gb, gy.sum(axis=(0, *range(2, gy.ndim)), dtype=np.float64))

        views = [view(1, x), view(2, gy), view(0, gw)]
        plan = conv.conv_backward_weights_steps(*views, None, *settings, first_scratch=3)
        run_outputs(plan, [gw], [x, gy])
        close(gw, want_gw)


@needs_onednn
def test_convolution_bfloat16():
    rng = np.random.default_rng(12)
    for shape, k in (((4, 16, 8, 8), 3), ((4, 64, 14, 14), 1), ((8, 3, 12, 12), 5)):
        x, wide_x = bfloat16(rng.standard_normal(shape))
        w, wide_w = bfloat16(rng.standard_normal((32, shape[1], k, k)))
        gy, wide_gy = bfloat16(rng.standard_normal((shape[0], 32, *shape[2:])))
        settings = ((1, 1), (k // 2, k // 2), (1, 1), 1)
        wants = conv_reference(wide_x, wide_w, wide_gy, *settings)
        y, gx, gw = (np.zeros_like(v) for v in (gy, x, w))

        def v(slot, array):
            return view(slot, array, "bfloat16")

        plans = [
            conv.conv_steps(v(1, x), v(2, w), v(0, y), None, *settings, first_scratch=3),
            conv.conv_backward_data_steps(v(1, gy), v(2, w), v(0, gx), *settings, first_scratch=3),
            conv.conv_backward_weights_steps(
                v(1, x), v(2, gy), v(0, gw), None, *settings, first_scratch=3
            ),
        ]
        inputs = [(x, w), (gy, w), (x, gy)]
        for plan, got, given, want in zip(plans, (y, gx, gw), inputs, wants, strict=True):
            run_outputs(plan, [got], given)
            value = (got.astype(np.uint32) << 16).view(np.float32)
            np.testing.assert_allclose(value, want, rtol=2e-2, atol=1e-2 * np.abs(want).max())


@needs_onednn
def test_convolution_limits():
    def v(*shape, dtype="float32"):
        strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
        return gemm.View(0, shape, tuple(strides), dtype)

    one = ((1, 1), (0, 0), (1, 1), 1)
    settings = {"first_scratch": 3}
    empty = (v(0, 3, 5, 5), v(4, 3, 3, 3), v(0, 4, 3, 3), None)
    assert conv.conv_steps(*empty, *one, **settings) is None
    double = [v(*s, dtype="float64") for s in ((1, 3, 5, 5), (4, 3, 3, 3), (1, 4, 3, 3))]
    assert conv.conv_steps(*double, None, *one, **settings) is None
    with pytest.raises(ValueError, match="channels do not fit"):
        conv.conv_steps(v(1, 2, 5, 5), v(4, 3, 3, 3), v(1, 4, 3, 3), None, *one, **settings)
    for size in (2, 6):  # 3 to 5 are what padding on the right gives
        with pytest.raises(ValueError, match="does not fit"):
            conv.conv_steps(v(1, 3, 5, 5), v(4, 3, 3, 3), v(1, 4, size, 3), None, *one, **settings)
    nothing = (v(1, 3, 2, 2), v(4, 3, 3, 3), v(1, 4, 0, 0), None)
    assert conv.conv_steps(*nothing, *one, **settings) is None


@pytest.mark.parametrize("written", [False, True])
def test_products_of_a_program_pack_their_weights_once(written, monkeypatch):
    import lampion
    from lampion_cpu import sequence

    shared = []
    find = sequence._shared
    monkeypatch.setattr(sequence, "_shared", lambda parts: shared.append(find(parts)) or shared[-1])
    w = lampion.randn(128, 128) / 12

    def fn(x):
        for k in range(8):
            x = lampion.nn.functional.linear(x, w).tanh()
            if written and k == 4:
                w.mul_(0.5)
        return x

    compiled = lampion.compile(fn)
    x = lampion.randn(20, 128)
    with lampion.no_grad():
        for _ in range(3):
            start = w.clone()
            want = fn(x)
            w.copy_(start)
            got = compiled(x)
            assert lampion.allclose(got, want, 1e-5, 1e-5)
    assert any(len(found) == 8 for found in shared) != written
