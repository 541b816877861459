"""Matrix products against NumPy: cuBLASLt's plans and the generated kernels, every layout."""

from __future__ import annotations

import numpy as np
import pytest

import lampion
from lampion import config
from lampion.explaining import explain
from lampion.ops import registry
from lampion.runtime.products import problem

pytest.importorskip("lampion_cuda")
F = lampion.nn.functional
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 1.6e-2,
             "complex64": 1e-5, "complex128": 1e-12}
FLOATS = list(TOLERANCE)
rng = np.random.default_rng(7)


@pytest.fixture(params=["cublas", "generated"])
def blas(request, gpu):
    """Both providers in turn."""
    config.set("backend.cuda.blas", request.param)
    registry.forget_plans()
    yield request.param
    config.unset("backend.cuda.blas")
    registry.forget_plans()


@pytest.fixture
def cublas(gpu):
    pytest.importorskip("nvmath.bindings.cublasLt", reason="needs nvmath-python")
    config.set("backend.cuda.blas", "cublas")
    registry.forget_plans()
    yield gpu
    for name in ("blas", "autotune"):
        config.unset(f"backend.cuda.{name}")
    config.unset("float32_matmul_precision")
    registry.forget_plans()


def opened():
    from lampion import plugins

    return plugins.backend("cuda").open(0)


def tensor(shape, dtype, device="cpu"):
    x = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    elif "int" in dtype:
        x = rng.integers(-9, 10, shape)
    return lampion.tensor(x).to(getattr(lampion, dtype)).to(device)


def array(x):
    x = x.cpu()
    if x.is_complex():
        return x.to(lampion.complex128).numpy()
    return (x.double() if x.is_floating_point() else x.to(lampion.int64)).numpy()


def close(got, expected, dtype):
    got = array(got)
    assert got.shape == expected.shape
    bound = TOLERANCE[dtype] * max(1.0, np.abs(expected).max(initial=0.0))
    assert np.abs(got - expected).max(initial=0.0) <= bound


def turned(x):
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


# name -> a function of (a[7, 5], b[5, 6]) to two operands that are laid out in some way
LAYOUTS = {
    "dense": lambda a, b: (a, b),
    "a turned": lambda a, b: (turned(a), b),
    "b turned": lambda a, b: (a, turned(b)),
    "both turned": lambda a, b: (turned(a), turned(b)),
    "every other": lambda a, b: (a[:, ::2], b[:3]),
    "both with gaps": lambda a, b: (a[::2, ::2], b[::2, ::2]),
    "part of larger": lambda a, b: (a[1:, 1:4], b[2:, 1:]),
    "expanded row": lambda a, b: (a[:1].expand(7, 5), b),
    "expanded column": lambda a, b: (a[:, :1].expand(7, 5), b),
    "one row": lambda a, b: (a[:1], b),
    "one column": lambda a, b: (a, b[:, :1]),
    "vector left": lambda a, b: (a[0], b),
    "vector right": lambda a, b: (a, b[:, 0]),
    "two vectors": lambda a, b: (a[0], b[:, 0]),
    "no rows": lambda a, b: (a[:0], b),
    "no columns": lambda a, b: (a, b[:, :0]),
    "nothing to sum": lambda a, b: (a[:, :0], b[:0]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_layouts(blas, dtype, layout):
    a, b = LAYOUTS[layout](tensor((7, 5), dtype, "cuda"), tensor((5, 6), dtype, "cuda"))
    close(a @ b, array(a) @ array(b), dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_integers_wrap_around(blas, dtype):
    a, b = tensor((20, 30), dtype, "cuda"), tensor((30, 20), dtype, "cuda")
    expected = (array(a) @ array(b)).astype(dtype)
    assert np.array_equal((a @ b).cpu().numpy(), expected)


# name -> a function of (x[2, 3, 4, 5], y[2, 3, 5, 6])
BATCHES = {
    "dense": lambda x, y: (x, y),
    "one matrix right": lambda x, y: (x, y[0, 0]),
    "one matrix left": lambda x, y: (x[0, 0], y),
    "broadcast right": lambda x, y: (x, y[:1]),
    "broadcast left": lambda x, y: (x[:, :1], y),
    "heads apart": lambda x, y: (x.transpose(1, 2).contiguous().transpose(1, 2), y),
    "heads apart, turned": lambda x, y: (x, y.permute(0, 3, 1, 2).contiguous()
                                         .permute(0, 2, 3, 1)),
    "batches swapped": lambda x, y: (x.transpose(0, 1), y.transpose(0, 1)),
    "vector right": lambda x, y: (x, y[0, 0, :, 0]),
    "no batch": lambda x, y: (x[:0], y[:0]),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_batches(blas, dtype, batch):
    x, y = BATCHES[batch](tensor((2, 3, 4, 5), dtype, "cuda"), tensor((2, 3, 5, 6), dtype, "cuda"))
    close(x @ y, array(x) @ array(y), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_bias_for_each_column(blas, dtype):
    x, w, b = (tensor(s, dtype, "cuda") for s in ((9, 5), (6, 5), (6,)))
    close(F.linear(x, w, b), array(x) @ array(w).T + array(b), dtype)
    close(F.linear(x, w[1:], b[1:]), array(x) @ array(w[1:]).T + array(b[1:]), dtype)
    close(F.linear(x, w, b[:1]), array(x) @ array(w).T + array(b[:1]), dtype)
    close(F.linear(x[:, :0], w[:, :0], b), np.zeros((9, 6)) + array(b), dtype)
    deep = x.reshape(3, 3, 5).transpose(0, 1)
    close(F.linear(deep, w, b), array(deep) @ array(w).T + array(b), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(9, 6), (9, 1), (1, 6), (2, 9, 6), (2, 1, 1)])
def test_any_bias(blas, dtype, shape):
    """`contract` takes a bias of any shape that broadcasts, whoever gives it."""
    a, b, e = (tensor(s, dtype, "cuda") for s in ((2, 9, 5), (2, 5, 6), shape))
    for extra in (e, e.transpose(-1, -2).contiguous().transpose(-1, -2)):
        got = lampion.ops.contract.contract.fn(a, b, extra)
        close(got, array(a) @ array(b) + array(extra), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_into_a_turned_result(blas, dtype):
    a, b = tensor((9, 5), dtype, "cuda"), tensor((5, 6), dtype, "cuda")
    for out in (lampion.empty(6, 9, dtype=a.dtype, device="cuda").t(),
                lampion.empty(18, 12, dtype=a.dtype, device="cuda")[::2, ::2]):
        lampion.mm(a, b, out=out)
        close(out, array(a) @ array(b), dtype)


def test_gradients(blas):
    x, w, b = (tensor(s, "float64", "cuda").requires_grad_() for s in ((4, 5), (6, 5), (6,)))
    F.linear(x, w, b).square().sum().backward()
    g = 2 * (array(x.detach()) @ array(w.detach()).T + array(b.detach()))
    close(x.grad, g @ array(w.detach()), "float64")
    close(w.grad, g.T @ array(x.detach()), "float64")
    close(b.grad, g.sum(0), "float64")


# -- plans ----------------------------------------------------------------------------------------


def kernels_of(fn, *args):
    """Kernel names of the contraction behind a call, and who was chosen."""
    return next(c for c in explain(fn, *args) if c.op == "contract")


def test_explain_tells_the_provider(blas):
    a, b = tensor((20, 30), "float32", "cuda"), tensor((30, 20), "float32", "cuda")
    choice = kernels_of(lampion.matmul, a, b)
    assert ("cublasLt.float32" in choice.chosen) == (blas == "cublas")
    assert [c.source for c in choice.candidates] == ["cuda.lt", "cuda.gemm"]
    assert ("gemm.tiles" in choice.chosen) == (blas == "generated")


def test_a_missing_library_is_an_error_only_if_asked_for(gpu, monkeypatch):
    device = opened()
    monkeypatch.setitem(device.libraries, "cublasLt", "no such file")
    a = tensor((20, 20), "float32", "cuda")
    try:
        registry.forget_plans()
        assert "cuda.gemm" in kernels_of(lampion.mm, a, a).chosen
        config.set("backend.cuda.blas", "cublas")
        registry.forget_plans()
        with pytest.raises(RuntimeError, match=r"no such file.*lampion-cuda\[blas\]"):
            lampion.mm(a, a)
    finally:
        config.unset("backend.cuda.blas")
        registry.forget_plans()


def test_what_has_no_layout_is_packed_once(cublas):
    a, b = tensor((8, 10), "float32", "cuda")[:, ::2], tensor((5, 6), "float32", "cuda")
    assert "[cublasLt.float32, pack]" in kernels_of(lampion.mm, a, b).chosen
    inside = tensor((10, 8), "float32", "cuda")[2:7, 1:7]
    assert "[cublasLt.float32]" in kernels_of(lampion.mm, inside.t(), inside).chosen


def test_few_heads_are_calls_and_many_are_packed(gpu):
    from lampion_cuda.lt_layout import prepare

    def apart(outer):
        return problem(*(tensor((outer, 3, 8, 8), "float32").meta for _ in range(2)),
                       tensor((outer, 3, 8, 8), "float32").meta)._replace(
            batch=(outer, 3), a=(192, 8, 24, 1), b=(192, 64, 8, 1), c=(192, 64, 8, 1))

    p, copied = prepare(apart(2))
    assert (p.batch, copied) == ((2, 3), ())
    p, copied = prepare(apart(64))
    assert (p.batch, copied) == ((192,), ("a",))


def test_plans_of_equal_geometry_are_shared(cublas):
    from lampion_cuda.lt import library

    lib = library(opened())
    lib.launches.clear()
    a, w = tensor((9, 5), "float32", "cuda"), tensor((6, 5), "float32", "cuda")
    lampion.mm(a, w.t())
    lampion.matmul(a, w.t())
    F.linear(a, w)
    assert len(lib.launches) == 1


def test_tf32_only_where_it_is_allowed(cublas):
    from lampion_cuda import lt

    made = []
    ordinary = lt.Plan

    class Spy(ordinary):
        def __init__(self, lib, p, o, types, *rest):
            made.append(types[1])
            super().__init__(lib, p, o, types, *rest)

    lt.library(opened()).launches.clear()
    lt.Plan = Spy
    try:
        a, d = tensor((9, 9), "float32", "cuda"), tensor((9, 9), "float64", "cuda")
        lampion.mm(a, a)
        lampion.set_float32_matmul_precision("high")
        lampion.mm(a, a)
        lampion.mm(d, d)
    finally:
        lt.Plan = ordinary
    assert made == [lt._COMPUTE_32F, lt._COMPUTE_TF32, lt._COMPUTE_64F]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_addresses_of_any_alignment(blas, dtype):
    """A plan is made for aligned memory; a view of the same layout may start anywhere."""
    store = tensor((2, 33, 40), dtype, "cuda")
    b = tensor((8, 16), dtype, "cuda")
    for start in (0, 1, 2, 4, 8, 0):
        a = store.as_strided((16, 8), (40, 1), start)
        close(a @ b, array(a) @ array(b), dtype)
        close(F.linear(a, b.t(), store.as_strided((16,), (1,), start)),
              array(a) @ array(b) + array(store.as_strided((16,), (1,), start)), dtype)


def test_timing_keeps_the_result(cublas, monkeypatch):
    from lampion_cuda import lt

    monkeypatch.setattr(lt, "WORTH_TUNING", 1)
    config.set("backend.cuda.autotune", True)
    registry.forget_plans()
    a, w, b = (tensor(s, "float32", "cuda") for s in ((9, 5), (6, 5), (6,)))
    for _ in range(3):
        close(F.linear(a, w, b), array(a) @ array(w).T + array(b), "float32")
        close(a @ w.t(), array(a) @ array(w).T, "float32")


@pytest.mark.parametrize("shape", [(6,), (9, 6)])
def test_a_bias_that_no_algorithm_takes_is_copied(cublas, monkeypatch, shape):
    from lampion_cuda import lt

    tried = []
    ordinary = lt.Plan.algorithms

    def none_for_a_bias(self, *args):
        tried.append(self.added)
        return ordinary(self, *args) if self.added == "copy" else []

    monkeypatch.setattr(lt.Plan, "algorithms", none_for_a_bias)
    lt.library(opened()).launches.clear()
    a, b, e = (tensor(s, "float32", "cuda") for s in ((9, 5), (5, 6), shape))
    close(lampion.ops.contract.contract.fn(a, b, e), array(a) @ array(b) + array(e), "float32")
    assert tried == ["vector" if len(shape) == 1 else "matrix", "copy"]
    lt.library(opened()).launches.clear()


def test_a_bias_that_is_not_aligned_is_copied(cublas, monkeypatch):
    """The library's kernels read 16 bytes of a bias vector at once, and would fault."""
    from lampion_cuda import lt

    copies = []
    ordinary = lt.Descriptions.aligned
    monkeypatch.setattr(lt.Descriptions, "aligned",
                        lambda self, e: copies.append(e.offset) or ordinary(self, e))
    lt.library(opened()).launches.clear()
    registry.forget_plans()
    x, w, store = (tensor(s, "float32", "cuda") for s in ((9, 5), (6, 5), (20,)))
    for start in (0, 4, 1, 8, 3):
        e = store[start:start + 6]
        close(F.linear(x, w, e), array(x) @ array(w).T + array(e), "float32")
    assert copies == [4, 12]
    lt.library(opened()).launches.clear()


def test_old_plans_are_forgotten(cublas, monkeypatch):
    from lampion_cuda import lt

    monkeypatch.setattr(lt, "PLANS", 2)
    lib = lt.library(opened())
    lib.launches.clear()
    for n in (3, 4, 5, 3):
        a = tensor((n, n), "float32", "cuda")
        close(a @ a, array(a) @ array(a), "float32")
    assert sorted(p.m for p, *_ in lib.launches) == [4, 5]


class Refusing:
    """The library's bindings, of which `matmul` fails the first `times` times."""

    def __init__(self, lt, times):
        self.lt, self.times = lt, times

    def __getattr__(self, name):
        return getattr(self.lt, name)

    def matmul(self, *args):
        self.times -= 1
        if self.times >= 0:
            raise self.lt.cuBLASLtError(13)
        self.lt.matmul(*args)


def test_a_refused_call_is_tried_twice(cublas, monkeypatch):
    from lampion_cuda import lt

    lib = lt.library(opened())
    lib.launches.clear()
    refusing = Refusing(lib.lt, 1)
    monkeypatch.setattr(lib, "lt", refusing)
    a = tensor((9, 5), "float32", "cuda")
    close(a @ a.t(), array(a) @ array(a).T, "float32")
    refusing.times = 2
    with pytest.raises(RuntimeError, match=r"multiply float32 \[9, 5\] x \[5, 9\] on cuda"):
        _ = a @ a.t()
    close(a @ a.t(), array(a) @ array(a).T, "float32")
    lib.launches.clear()


def test_in_a_graph(blas):
    x, w, b = (tensor(s, "float32", "cuda") for s in ((9, 40), (30, 40), (30,)))

    def work():  # with packed operands, and a split product
        return F.linear(x[:, ::2], w[:, ::2], b) @ lampion.ones(30, 20, device="cuda")

    work()
    graph = lampion.cuda.CUDAGraph()
    with lampion.cuda.graph(graph):
        y = work()
    for _ in range(2):
        x.copy_(tensor((9, 40), "float32"))
        b.copy_(tensor((30,), "float32"))
        graph.replay()
        expected = array(x)[:, ::2] @ array(w)[:, ::2].T + array(b)
        close(y, expected @ np.ones((30, 20)), "float32")


def test_threads_share_plans(cublas):
    from concurrent.futures import ThreadPoolExecutor

    a, w = tensor((9, 5), "float32", "cuda"), tensor((6, 5), "float32", "cuda")
    biases = [tensor((6,), "float32", "cuda") for _ in range(8)]
    expected = [array(a) @ array(w).T + array(b) for b in biases]

    def work(k):
        for _ in range(20):
            close(F.linear(a, w, biases[k]), expected[k], "float32")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


# -- generated kernels ----------------------------------------------------------------------------


def generated(a, b, bias=None, **choice):
    """A product by the generated kernel with a tile of choice, and the names of its kernels."""
    from lampion_cuda import gemm
    from lampion_cuda.launch import make_launch

    c = lampion.empty(*a.shape[:-1], b.shape[-1], dtype=a.dtype, device="cuda")
    e = [] if bias is None else [bias.expand(c.shape)]
    p = problem(a.meta, b.meta, c.meta, e[0].meta.strides if e else None)
    calls, scratch, names = gemm.product(opened(), p, **choice)
    launch = make_launch(opened(), calls, "s" * (2 + len(e)), [c.meta.span], scratch, names)
    launch.into(c.data_, *(x.data_ for x in (a, b, *e)))
    return c, names


def tiles(dtype):
    from lampion_cuda import gemm

    if dtype == "float64":
        return gemm.WIDE
    return gemm.PLAIN if dtype == "float32" else (*gemm.TENSOR, gemm.FLAT, *gemm.PLAIN)


@pytest.mark.parametrize(("dtype", "tile"), [
    (d, t) for d in ("float32", "float64", "float16", "bfloat16") for t in tiles(d)],
    ids=lambda v: v if isinstance(v, str) else f"{v.rows}x{v.columns}x{v.own_rows}")
def test_tiles(gpu, dtype, tile):
    for m, k, n in ((72, 64, 80), (37, 45, 51)):  # vectors of memory, and not
        a, b = tensor((m, k), dtype, "cuda"), tensor((k, n), dtype, "cuda")
        e = tensor((n,), dtype, "cuda")
        for x, y in ((a, b), (turned(a), turned(b))):
            got, _ = generated(x, y, e, tile=tile)
            close(got, array(a) @ array(b) + array(e), dtype)


def test_a_few_columns_are_a_few_rows(gpu):
    a, b = tensor((2, 70, 48), "bfloat16", "cuda"), tensor((2, 48, 5), "bfloat16", "cuda")
    for e in (tensor((5,), "bfloat16", "cuda"), tensor((70, 1), "bfloat16", "cuda")):
        got, names = generated(a, b, e, splits=1)
        assert names == ["gemm.tensor.16x128"]
        close(got, array(a) @ array(b) + array(e), "bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_split_products_are_the_same_each_time(gpu, dtype):
    a, b = tensor((2, 20, 400), dtype, "cuda"), tensor((2, 400, 24), dtype, "cuda")
    e = tensor((20, 1), dtype, "cuda")
    got, names = generated(a, b, e, splits=3)
    assert names[1:] == ["gemm.parts.3"]
    close(got, array(a) @ array(b) + array(e), dtype)
    again, _ = generated(a, b, e, splits=3)
    assert np.array_equal(array(got), array(again))


def test_threads_in_any_order(simulated):
    """No barrier is missing."""
    for dtype in ("float32", "bfloat16"):
        a, b = tensor((40, 100), dtype, "cuda"), tensor((100, 40), dtype, "cuda")
        for tile in tiles(dtype)[:2]:
            for order in (0, -1, 11):
                with simulated.using(order=order):
                    got, _ = generated(a, b, tile=tile, splits=1)
                    close(got, array(a) @ array(b), dtype)


def test_products_that_fill_no_gpu_are_split(gpu):
    from lampion_cuda.gemm import choose, parts

    device = opened()

    def split(m, n, k, dtype):
        p = problem(*(lampion.empty(*s, dtype=dtype).meta for s in ((m, k), (k, n), (m, n))))
        tile = choose(device, p)
        return tile, parts(device, p, tile)

    tile, count = split(16, 64, 4096, lampion.bfloat16)
    assert tile.rows == 16 and count > 1
    assert split(64, 64, 128, lampion.float32)[1] == 1  # too short to share
    tile, count = split(4096, 4096, 4096, lampion.bfloat16)
    assert (tile.rows, count) == (128, 1)
