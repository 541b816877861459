"""The simulated cuBLASLt against NumPy: types, transposes, layouts, batches, every epilogue."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings (lampion-cuda)")
lt = pytest.importorskip("nvmath.bindings.cublasLt", reason="needs nvmath-python")
from driver_calls import NON_BLOCKING, cu, drv, from_device, to_device, use_device  # noqa: E402

D, L = lt.MatmulDescAttribute, lt.MatrixLayoutAttribute
TYPES = {"f4": (0, 68, 0), "f8": (1, 70, 1), "f2": (2, 68, 0), "bf": (14, 68, 0), "i1": (3, 72, 10),
         "c8": (4, 68, 4), "c16": (5, 70, 5), "i4": (10, 72, 10)}
SCALE = {0: "f4", 1: "f8", 4: "c8", 5: "c16", 10: "i4"}
rng = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def started(simulated):
    use_device()
    return simulated


def set_desc(desc, **values):
    for name, value in values.items():
        which = getattr(D, name)
        buffer = np.array([int(value)], lt.get_matmul_desc_attribute_dtype(which))
        lt.matmul_desc_set_attribute(desc, which, buffer.ctypes.data, buffer.nbytes)


def set_layout(layout, **values):
    for name, value in values.items():
        which = getattr(L, name)
        buffer = np.array([int(value)], lt.get_matrix_layout_attribute_dtype(which))
        lt.matrix_layout_set_attribute(layout, which, buffer.ctypes.data, buffer.nbytes)


def bits(x, kind):
    """The array as memory of a type: bfloat16 as its bits."""
    if kind == "bf":
        return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(kind)


def numbers(x, kind):
    return (x.astype(np.uint32) << 16).view(np.float32) if kind == "bf" else x


def random(shape, kind):
    x = rng.integers(-4, 5, shape).astype(np.float64)
    return x + 1j * rng.integers(-4, 5, shape) if kind[0] == "c" else x


class Product:
    """D = alpha op(A) op(B) + beta C on the device; matrices of `order`, the last two dims."""

    def __init__(self, a, b, c, kind, out=None, transa=0, transb=0, order=0, alpha=1, beta=0,
                 **epilogue):
        out = out or ("i4" if kind == "i1" else kind)
        self.handle, (self.type, compute, scale) = lt.create(), TYPES[kind]
        self.out, self.order = out, order
        self.desc = lt.matmul_desc_create(compute, scale)
        set_desc(self.desc, TRANSA=transa, TRANSB=transb, **epilogue)
        self.batch = a.shape[0] if a.ndim == 3 else 1
        self.layouts = [self.layout(m, t) for m, t in ((a, kind), (b, kind), (c, out), (c, out))]
        self.pointers = [to_device(self.memory(m, t))
                         for m, t in ((a, kind), (b, kind), (c, out), (c * 0, out))]
        self.like = self.memory(c, out)
        self.factors = [np.array([v], SCALE[scale]) for v in (alpha, beta)]

    def memory(self, m, kind):
        return np.ascontiguousarray(bits(m if self.order else np.swapaxes(m, -1, -2), kind))

    def layout(self, m, kind):
        rows, cols = m.shape[-2:]
        made = lt.matrix_layout_create(TYPES[kind][0], rows, cols, cols if self.order else rows)
        set_layout(made, ORDER=self.order, BATCH_COUNT=self.batch,
                   STRIDED_BATCH_OFFSET=rows * cols)
        return made

    def heuristics(self, workspace=1 << 20, wanted=8):
        preference = lt.matmul_preference_create()
        buffer = np.array([workspace], np.uint64)
        lt.matmul_preference_set_attribute(
            preference, lt.MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES, buffer.ctypes.data, 8)
        out = np.zeros(wanted, lt.matmul_heuristic_result_dtype)
        count = np.zeros(1, np.int32)
        lt.matmul_algo_get_heuristic(self.handle, self.desc, *self.layouts, preference, wanted,
                                     out.ctypes.data, count.ctypes.data)
        lt.matmul_preference_destroy(preference)
        return out[:count[0]]

    def run(self, algorithm=0, stream=0, workspace=(0, 0)):
        a, b, c, d = self.pointers
        la, lb, lc, ld = self.layouts
        alpha, beta = (f.ctypes.data for f in self.factors)
        lt.matmul(self.handle, self.desc, alpha, a, la, b, lb, beta, c, lc, d, ld, algorithm,
                  *workspace, int(stream))

    def result(self):
        got = numbers(from_device(self.pointers[3], self.like), self.out)
        return got if self.order else np.swapaxes(got, -1, -2)


def op(m, trans):
    m = np.swapaxes(m, -1, -2) if trans else m
    return m.conj() if trans == 2 else m


@pytest.mark.parametrize("kind", ["f4", "f8", "f2", "bf", "c8", "c16"])
@pytest.mark.parametrize("transa, transb, order", [(0, 0, 0), (1, 0, 1), (0, 1, 0), (2, 2, 1)])
def test_products(kind, transa, transb, order):
    a = op(random((5, 7), kind), 1 if transa else 0)
    b = op(random((7, 6), kind), 1 if transb else 0)
    c = random((5, 6), kind)
    p = Product(a, b, c, kind, transa=transa, transb=transb, order=order, alpha=2, beta=-1)
    p.run()
    np.testing.assert_array_equal(p.result(), 2 * (op(a, transa) @ op(b, transb)) - c)


def test_batches_and_wider_results():
    a, b, c = random((3, 4, 5), "f2"), random((3, 5, 2), "f2"), random((3, 4, 2), "f4")
    p = Product(a, b, c, "f2", "f4")
    p.run()
    np.testing.assert_array_equal(p.result(), a @ b)


def test_integers_only_in_the_form_that_hardware_has():
    a, b, c = random((8, 4), "i1"), random((8, 4), "i1"), random((4, 4), "i4")
    p = Product(a, b, c, "i1", transa=1, beta=1)
    p.run()
    np.testing.assert_array_equal(p.result(), a.T @ b + c)
    with pytest.raises(lt.cuBLASLtError, match="NOT_SUPPORTED"):
        Product(a, b.T, random((8, 8), "i4"), "i1").run()


@pytest.mark.parametrize("kind", ["f2", "bf"])
def test_16_bit_results_are_rounded_to_nearest(kind):
    x = np.concatenate([rng.standard_normal(200) * 10.0 ** rng.integers(-9, 6, 200),
                        [np.inf, -np.inf, np.nan, 0, -0.0, 65519, 65520, 2.0**-25, 2.0**-24]])
    with np.errstate(over="ignore"):
        x = numbers(bits(x.astype(np.float32), kind), kind).astype(np.float64)
    one, nothing = np.ones((1, 1)), np.zeros((len(x), 1))
    p = Product(x[:, None], one, nothing, kind)
    p.run()
    np.testing.assert_array_equal(p.result()[:, 0].astype(np.float64), x)
    half = Product(x[:200, None], one, nothing[:200], kind, alpha=1 / 3)
    half.run()
    third = (x[:200] * np.float64(np.float32(1 / 3))).astype(np.float32)
    if kind == "f2":
        np.testing.assert_array_equal(half.result()[:, 0], third.astype(np.float16))
    else:
        assert (abs(half.result()[:, 0] - third) <= abs(third) * 2.0**-8).all()


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def unpack(words, m, n, ld):
    flags = np.unpackbits(words, bitorder="little")[:ld * n].reshape(n, ld)
    return flags[:, :m].T.astype(bool)


M, N, K = 12, 6, 8


def case(kind="f4"):
    a, b = random((M, K), kind) / 8, random((K, N), kind) / 8
    bias = rng.standard_normal(M).astype(np.float32)
    return a, b, random((M, N), kind) * 0, bias


@pytest.mark.parametrize("name", ["BIAS", "RELU", "RELU_BIAS", "GELU", "GELU_BIAS"])
@pytest.mark.parametrize("order", [0, 1])
def test_forward_epilogues(name, order):
    a, b, c, bias = case()
    p = Product(a, b, c, "f4", order=order, EPILOGUE=lt.Epilogue[name],
                **({"BIAS_POINTER": to_device(bias)} if "BIAS" in name else {}))
    p.run()
    x = a @ b + (bias[:, None] if "BIAS" in name else 0)
    expected = np.maximum(x, 0) if "RELU" in name else gelu(x) if "GELU" in name else x
    np.testing.assert_allclose(p.result(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("with_bias", [False, True])
def test_relu_keeps_bits_for_its_gradient(with_bias):
    a, b, c, bias = case()
    aux = to_device(np.zeros(N * 128 // 8, np.uint8))
    p = Product(a, b, c, "f4", EPILOGUE_AUX_POINTER=aux, EPILOGUE_AUX_LD=128,
                EPILOGUE=lt.Epilogue.RELU_AUX_BIAS if with_bias else lt.Epilogue.RELU_AUX,
                **({"BIAS_POINTER": to_device(bias)} if with_bias else {}))
    p.run()
    x = a @ b + (bias[:, None] if with_bias else 0)
    np.testing.assert_allclose(p.result(), np.maximum(x, 0), rtol=1e-5, atol=1e-6)
    words = from_device(aux, np.zeros(N * 16, np.uint8))
    np.testing.assert_array_equal(unpack(words, M, N, 128), x > 0)
    g, h = random((M, K), "f4"), random((K, N), "f4")
    sums = to_device(np.zeros(M, np.float32))
    back = Product(g, h, c, "f4", EPILOGUE_AUX_POINTER=aux, EPILOGUE_AUX_LD=128,
                   EPILOGUE=lt.Epilogue.DRELU_BGRAD, BIAS_POINTER=sums)
    back.run()
    expected = (g @ h) * (x > 0)
    np.testing.assert_allclose(back.result(), expected, rtol=1e-5)
    np.testing.assert_allclose(from_device(sums, bias), expected.sum(1), rtol=1e-5)


def test_gelu_keeps_its_input_for_its_gradient():
    a, b, c, bias = case()
    aux = to_device(np.zeros((N, 16), np.float32))
    p = Product(a, b, c, "f4", EPILOGUE_AUX_POINTER=aux, EPILOGUE_AUX_LD=16,
                EPILOGUE=lt.Epilogue.GELU_AUX_BIAS, BIAS_POINTER=to_device(bias))
    p.run()
    x = a @ b + bias[:, None]
    np.testing.assert_allclose(p.result(), gelu(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(from_device(aux, np.zeros((N, 16), np.float32))[:, :M].T, x,
                               rtol=1e-5, atol=1e-6)
    g, h = random((M, K), "f4"), random((K, N), "f4")
    back = Product(g, h, c, "f4", EPILOGUE_AUX_POINTER=aux, EPILOGUE_AUX_LD=16,
                   EPILOGUE=lt.Epilogue.DGELU)
    back.run()
    slope = (gelu(x + 1e-6) - gelu(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(back.result(), (g @ h) * slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["BGRADA", "BGRADB"])
def test_sums_of_operands(name):
    a, b, c, _ = case()
    sums = to_device(np.zeros(M, np.float32))
    p = Product(a, b, c, "f4", EPILOGUE=lt.Epilogue[name], BIAS_POINTER=sums)
    p.run()
    np.testing.assert_allclose(p.result(), a @ b, rtol=1e-5)
    expected = a.sum(1) if name == "BGRADA" else b.sum(0)
    np.testing.assert_allclose(from_device(sums, np.zeros(len(expected), np.float32)), expected,
                               rtol=1e-5)


def test_algorithms_want_their_workspace():
    a, b, c, _ = case()
    p = Product(a, b, c, "f4")
    assert [int(h["workspace_size"]) for h in p.heuristics()] == [1 << 20, 0, 4096]
    assert [int(h["workspace_size"]) for h in p.heuristics(100)] == [0]
    chosen = p.heuristics(1 << 20, 1)
    with pytest.raises(lt.cuBLASLtError, match="INVALID_VALUE"):
        p.run(chosen.ctypes.data, 0, (0, 0))
    room = int(cu.MemAlloc(1 << 20))
    p.run(chosen.ctypes.data, 0, (room, 1 << 20))
    np.testing.assert_allclose(p.result(), a @ b, rtol=1e-5)


def test_what_is_not_supported_is_declined():
    a, b, c, bias = case()
    mixed = Product(a, b, c, "bf", "f2")
    with pytest.raises(lt.cuBLASLtError, match="NOT_SUPPORTED"):
        mixed.heuristics()
    short = Product(a, b, c, "f4", EPILOGUE=lt.Epilogue.RELU_AUX, EPILOGUE_AUX_LD=64,
                    EPILOGUE_AUX_POINTER=to_device(bias))
    with pytest.raises(lt.cuBLASLtError, match="INVALID_VALUE"):
        short.heuristics()
    with pytest.raises(lt.cuBLASLtError, match="INVALID_VALUE"):
        Product(a, b, c, "f4", EPILOGUE=lt.Epilogue.BIAS).run()


@pytest.mark.parametrize("seed", [0, -1, 3])
def test_products_keep_the_order_of_their_stream(started, seed):
    a, b, c, _ = case()
    p = Product(a, b, c, "f4")
    started.set(deferred=1, seed=seed)
    s = cu.StreamCreate(NON_BLOCKING)
    p.run(stream=s)
    d = floats_of(p)
    assert (d == 0).all(), "it waits"
    cu.StreamSynchronize(s)
    np.testing.assert_allclose(p.result(), a @ b, rtol=1e-5)
    cu.StreamBeginCapture(s, drv.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    p.run(stream=s)
    run = cu.GraphInstantiate(cu.StreamEndCapture(s), 0)
    cu.MemsetD8Async(p.pointers[3], 0, M * N * 4, s)
    for _ in range(2):
        cu.GraphLaunch(run, s)
    cu.StreamSynchronize(s)
    np.testing.assert_allclose(p.result(), a @ b, rtol=1e-5)


def floats_of(p):
    from driver_calls import floats

    return floats(p.pointers[3], M * N)
