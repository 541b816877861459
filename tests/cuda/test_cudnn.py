"""Convolutions and attention by cuDNN, on the simulated library, against NumPy in float64: layouts,
strides, workspaces, plans, flags, streams, graphs, errors. `test_cudnn_graphs.py` gives the same
graphs to the real frontend."""

from __future__ import annotations

import numpy as np
import pytest
import test_cuda_attention as on_attention
import test_cuda_conv as on_conv
from test_cuda_attention import BF16, F16, F32
from test_cuda_conv import made, values

import lampion
from lampion import config
from lampion.nn import functional as F
from lampion.ops import attention, conv

CONV_OPS = on_conv.OPS


@pytest.fixture(autouse=True)
def fe(simulated, gpu):
    """The simulated frontend."""
    from simulator import cudnn

    lampion.ones(1, device=gpu)  # the GPU is open
    with cudnn.installed() as module:
        yield module
    config.unset("backend.cuda.dnn")


def by(op):
    """The kernels that calls of an op took so far."""
    return {p.chosen.split()[1] for p in op.plans.values()}


CASES = {
    **on_conv.CASES,
    "float32, channels last": ((F32, (2, 6, 7, 5), (4, 6, 3, 3)),
                               {"padding": 1, "layout": "channels last"}),
    "depthwise": ((F32, (2, 6, 5, 5), (6, 1, 3, 3)), {"groups": 6, "padding": 1}),
    "one dim, channels last": ((BF16, (2, 16, 20), (8, 16, 3)),
                               {"padding": 1, "layout": "channels last"}),
    "three dims, channels last": ((F16, (1, 8, 4, 5, 6), (8, 8, 3, 1, 3)),
                                  {"padding": (1, 0, 1), "layout": "channels last"}),
}


@pytest.mark.parametrize("case", CASES)
def test_convolutions_and_their_gradients(gpu, fe, case):
    args, options = CASES[case]
    config.set("backend.cuda.dnn", "cudnn")
    on_conv.run(gpu, *args, **options)
    weight = conv.conv_backward_weight_bias if options.get("bias", True) \
        else conv.conv_backward_weight
    assert by(conv.conv_backward_data) == by(weight) == {"cuda.cudnn"}
    half = args[0] is not F32
    assert set(fe.ran) == {"tensor core" if half else "plain"} and len(fe.ran) == 3


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_a_kernel_of_one(gpu, fe, dtype, layout):
    """A product of matrices is cuBLASLt's, unless cuDNN is asked for."""
    args = gpu, dtype, (3, 12, 5, 4), (20, 12, 1, 1)
    on_conv.run(*args, layout=layout)
    assert len(fe.ran) == 1 and by(conv.conv_backward_data) == {"cuda.conv"}
    with config.override({"backend.cuda.dnn": "cudnn"}):
        on_conv.run(*args, layout=layout)
        assert len(fe.ran) == 4 and by(conv.conv_backward_data) == {"cuda.cudnn"}


def test_a_weight_in_the_other_layout_is_copied(gpu, fe):
    x, xn = made(gpu, BF16, (2, 8, 6, 5), "channels last")
    w, wn = made(gpu, BF16, (16, 8, 3, 3))
    y = F.conv2d(x, w)
    assert y.is_contiguous(memory_format=lampion.channels_last) and fe.ran == ["tensor core"]
    want = on_conv.expected(xn, wn, np.zeros(y.shape), (1, 1), (0, 0), (1, 1), 1)[0]
    assert np.abs(values(y) - want).max() < 1e-2 * np.abs(want).max()


def test_padding_of_two_sizes_is_generated(gpu, fe):
    x, xn = made(gpu, F32, (1, 4, 6, 6))
    w, wn = made(gpu, F32, (4, 4, 2, 2))
    y = F.conv2d(x, w, padding="same")
    assert not fe.ran
    wide = np.pad(xn, [(0, 0), (0, 0), (0, 1), (0, 1)])
    want = on_conv.expected(wide, wn, np.zeros(y.shape), (1, 1), (0, 0), (1, 1), 1)[0]
    np.testing.assert_allclose(values(y), want, 1e-5, 1e-5)


@pytest.mark.parametrize("stride, right, ran", [(1, 0, 1), (1, 2, 0), (2, 3, 0), (2, -1, 1)])
def test_zeros_at_one_end(gpu, fe, stride, right, ran):
    """The library takes what fits its padding of one size, or none."""
    config.set("backend.cuda.dnn", "cudnn")
    (x, xn), (w, wn) = (made(gpu, F32, s) for s in ((2, 8, 4, 4), (8, 8, 1, 1)))
    got = values(conv.conv_forward.fn(x.detach(), w.detach(), None, (stride, stride), (0, 0),
                                      (right, right), (1, 1), 1))
    assert len(fe.ran) == ran
    ends = [(0, 0), (0, 0), (0, max(right, 0)), (0, max(right, 0))]
    wide = np.pad(xn[..., :4 + right, :4 + right], ends)[..., ::stride, ::stride]
    want = np.einsum("nchw,oc->nohw", wide, wn[..., 0, 0])
    np.testing.assert_allclose(got, want, 1e-5, 1e-5)


def test_transposed_convolutions(gpu, fe):
    x, xn = made(gpu, F32, (2, 6, 5, 4))
    w, wn = made(gpu, F32, (6, 4, 3, 3))
    y = F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1)
    assert fe.ran == ["plain"] and by(conv.conv_backward_data) == {"cuda.cudnn"}
    want = F.conv_transpose2d(x.detach().cpu(), w.detach().cpu(), stride=2, padding=1,
                              output_padding=1)
    np.testing.assert_allclose(values(y), want.numpy(), 1e-5, 1e-5)


def test_second_derivatives(gpu, fe):
    x, w = (made(gpu, F32, s)[0] for s in ((1, 4, 6, 6), (3, 4, 3, 3)))

    def second(x, w):
        y = F.conv2d(x, w, padding=1)
        g, = lampion.autograd.grad((y * y).sum(), [x], create_graph=True)
        return lampion.autograd.grad((g * g).sum(), [x, w])

    host = [t.detach().cpu().requires_grad_() for t in (x, w)]
    for a, b in zip(second(x, w), second(*host)):
        assert np.abs(values(a) - values(b)).max() < 1e-5 * np.abs(values(b)).max()
    assert len(fe.ran) > 4


def test_results_given_to_write_into(gpu, fe):
    """A result of any layout and at any address, as a compiled graph or out= gives it."""
    x, w = (made(gpu, BF16, s)[0].detach() for s in ((1, 8, 6, 6), (8, 8, 3, 3)))
    want = values(F.conv2d(x, w))
    plan = next(iter(lampion.ops.registry.REGISTRY["conv2d"].plans.values()))
    room = lampion.full((129,), 7, dtype=BF16, device=gpu)
    plan.into(room[1:].data_, x.data_, w.data_)
    got = values(room)
    assert np.array_equal(got[1:].reshape(want.shape), want) and got[0] == 7


# ---------------------------------------------------------------- flags


def test_switches_are_options(gpu, fe):
    lib = lampion.backends.cudnn
    assert lib.is_available() and lib.version() == 92801 and lib.enabled and lib.deterministic
    x, w = (made(gpu, F32, s)[0].detach() for s in ((1, 4, 5, 5), (4, 4, 3, 3)))
    exact = values(F.conv2d(x, w))
    try:
        lib.allow_tf32 = True
        assert config.get("backend.cuda.dnn_tf32") and lib.conv.fp32_precision == "tf32"
        assert lampion.get_float32_matmul_precision() == "highest"
        rounded = values(F.conv2d(x, w))
        assert 1e-6 < np.abs(rounded - exact).max() < 1e-2
        lib.conv.fp32_precision = "ieee"
        assert not lib.allow_tf32 and np.array_equal(values(F.conv2d(x, w)), exact)
        lib.deterministic = False
        first, again = values(F.conv2d(x, w)), values(F.conv2d(x, w))
        assert not np.array_equal(first, again)
        lampion.use_deterministic_algorithms(True)
        assert np.array_equal(values(F.conv2d(x, w)), exact)
        lampion.use_deterministic_algorithms(False)
        lib.deterministic = True
        with lib.flags(enabled=False):
            assert not lib.enabled
            before = len(fe.ran)
            F.conv2d(x, w)
            assert len(fe.ran) == before
        assert fe.ran == ["plain", "tf32", "plain", "atomic", "atomic", "plain"]
        F.conv2d(x, w)
        assert fe.ran[-1] == "plain"
    finally:
        lampion.use_deterministic_algorithms(False)
        for name in ("dnn", "dnn_tf32", "dnn_deterministic"):
            config.unset(f"backend.cuda.{name}")


def test_benchmark_times_the_plans_once(gpu, fe):
    x, w = (made(gpu, F32, s)[0].detach() for s in ((1, 4, 5, 5), (4, 4, 3, 3)))
    want = values(F.conv2d(x, w))
    fe.ran.clear()
    with config.override({"backend.cuda.dnn_benchmark": True}):
        for _ in range(2):
            assert np.array_equal(values(F.conv2d(x, w)), want)
        names = list(fe.ran)
        assert set(names[:8]) == {"plain", "slow"} and len(names) == 10  # 2 of 4 each, and 2 calls
        assert names[8] == names[9]
    with config.override({"backend.cuda.dnn_benchmark": True,
                          "backend.cuda.dnn_benchmark_limit": 1}):
        fe.ran.clear()
        F.conv2d(x, w)
        assert fe.ran == ["plain"]


def test_the_library_can_be_asked_for(gpu, fe, monkeypatch):
    x, w = (made(gpu, F32, s)[0].detach() for s in ((1, 4, 5, 5), (4, 4, 3, 3)))
    with config.override({"backend.cuda.dnn": "generated"}):
        F.conv2d(x, w)
        assert not fe.ran
    monkeypatch.setattr(fe, "create_handle", lambda: 1 / 0)
    with config.override({"backend.cuda.dnn": "cudnn"}):
        from lampion_cuda import driver

        for d in driver._devices:
            d.libraries.pop("cudnn", None)
        with pytest.raises(RuntimeError, match=r"division by zero.*lampion-cuda\[cudnn\]"):
            F.conv2d(x, w)
    F.conv2d(x, w)
    assert not fe.ran and not lampion.backends.cudnn.is_available()


# ---------------------------------------------------------------- plans, streams, graphs, errors


def test_plans_are_kept_by_what_they_compute(gpu, fe, monkeypatch):
    from lampion_cuda import cudnn, driver

    lib = cudnn.library(driver._devices[0])
    w = made(gpu, F32, (4, 4, 3, 3))[0].detach()
    for size in (5, 6, 5):
        F.conv2d(made(gpu, F32, (1, 4, size, size))[0].detach(), w)
    assert len(lib.plans) == 2
    lampion.ops.registry.forget_plans()
    F.conv2d(made(gpu, F32, (1, 4, 5, 5))[0].detach(), w)
    assert len(lib.plans) == 2
    monkeypatch.setattr(cudnn, "PLANS", 3)
    for size in (7, 8, 9, 10):
        F.conv2d(made(gpu, F32, (1, 4, size, size))[0].detach(), w)
    assert len(lib.plans) == 3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_current_stream_is_used(simulated, gpu, fe, seed):
    simulated.set(deferred=1, seed=seed)
    x, xn = made(gpu, BF16, (2, 8, 5, 5))
    w, wn = made(gpu, BF16, (8, 8, 3, 3))
    x, w = x.detach(), w.detach()
    side = lampion.cuda.Stream()
    side.wait_stream(lampion.cuda.current_stream())
    with lampion.cuda.stream(side):
        y = F.conv2d(x * 2, w) + 1
    lampion.cuda.current_stream().wait_stream(side)
    z = F.conv2d(y, w)
    want = values(F.conv2d(F.conv2d(x.cpu() * 2, w.cpu()) + 1, w.cpu()))
    lampion.cuda.synchronize()
    assert np.abs(values(z) - want).max() < 2e-2 * np.abs(want).max()


def test_in_a_graph(gpu, fe):
    x, w = (made(gpu, F32, s)[0].detach() for s in ((1, 4, 5, 5), (4, 4, 3, 3)))
    F.conv2d(x, w)
    graph = lampion.cuda.CUDAGraph()
    with lampion.cuda.graph(graph):
        y = F.conv2d(x, w)
    for factor in (1, 3):
        x.mul_(factor)
        graph.replay()
        np.testing.assert_allclose(values(y), values(F.conv2d(x.cpu(), w.cpu())), 1e-5, 1e-5)


def test_a_failure_names_the_plan(gpu, fe):
    x, w = (made(gpu, F32, s)[0].detach() for s in ((1, 4, 5, 5), (4, 4, 3, 3)))
    fe.broken[:] = ["EXECUTION_FAILED"]
    with pytest.raises(RuntimeError, match=r"conv_forward of float32 \(1x4x3x3, 1x4x5x5, 4x4x3x3; "
                                           r".*EXECUTION_FAILED"):
        F.conv2d(x, w)


def test_a_library_that_cannot_plan_is_done_without_and_said(gpu, fe, monkeypatch, capsys):
    def refuses(self):
        raise ValueError("ATTRIBUTE_NOT_SET")

    monkeypatch.setattr(fe.pygraph, "validate", refuses)
    x, w = (made(gpu, F32, s)[0].detach() for s in ((1, 4, 5, 5), (4, 4, 3, 3)))
    got = values(F.conv2d(x, w))
    np.testing.assert_allclose(got, values(F.conv2d(x.cpu(), w.cpu())), 1e-5, 1e-5)
    assert not fe.ran and "ATTRIBUTE_NOT_SET" in capsys.readouterr().err


def test_memory_is_given_back(gpu, fe):
    x, w = (made(gpu, F32, s)[0] for s in ((1, 4, 5, 5), (4, 4, 3, 3)))
    F.conv2d(x, w).sum().backward()
    x.grad = w.grad = None
    lampion.cuda.synchronize()
    before = lampion.cuda.memory_allocated()
    F.conv2d(x, w).sum().backward()
    x.grad = w.grad = None
    assert lampion.cuda.memory_allocated() == before


# ---------------------------------------------------------------- checks against generated kernels


@pytest.fixture
def checked():
    with config.override({"backend.cuda.check_plans": True}):
        yield


def test_a_plan_that_disagrees_is_named(gpu, fe, checked):
    x, w = (made(gpu, BF16, s)[0] for s in ((1, 8, 5, 5), (8, 8, 3, 3)))
    y = F.conv2d(x, w)
    g = lampion.ones(1, 8, 3, 3, dtype=BF16, device=gpu)
    fe.wrong[:] = [1.1]
    F.conv2d(x, w)  # that plan was checked
    for of in (x, w):
        with pytest.raises(RuntimeError, match=r"plan 'tensor core' on cuda disagrees.*dnn = "):
            lampion.autograd.grad(y, [of], g, retain_graph=True)
    with pytest.raises(RuntimeError, match="disagrees"):
        F.conv2d(made(gpu, BF16, (1, 8, 6, 6))[0], w)


def test_plans_that_agree(gpu, fe, checked):
    on_conv.run(gpu, *on_conv.CASES["3 x 3"][0], padding=1)
    on_conv.run(gpu, *on_conv.CASES["one dim"][0], stride=3, padding=2)
    on_attention.run(gpu, BF16, 1, 4, 2, 40, 50, 64, 64)


def test_differences():
    from lampion_cuda.verify import difference

    inf, nan = np.inf, np.nan
    a = np.array([1.0, 2.0, -4.0])
    assert difference(a, a) == 0 and difference(a + 0.4, a) == pytest.approx(0.1)
    assert difference(np.array([1, inf]), np.array([1, inf])) == 0
    assert difference(np.array([1, nan]), np.array([1, nan])) == 0
    assert difference(np.array([1, inf]), np.array([1, -inf])) == inf
    assert difference(np.array([1, nan]), np.array([1, 2.0])) == inf
    assert difference(np.array([nan, nan]), np.array([nan, nan])) == 0


# ---------------------------------------------------------------- attention


@pytest.fixture(autouse=True)
def nothing_is_planned():
    for op in (attention.fused_attention, attention.fused_attention_backward, *CONV_OPS):
        op.plans.clear()
    for rank in (1, 2, 3):
        lampion.ops.registry.REGISTRY[f"conv{rank}d"].plans.clear()


@pytest.mark.parametrize("case", ["many blocks, shared keys", "causal, more keys", "128 wide",
                                  "heads last in memory", "a scale", "one query"])
def test_attention(gpu, fe, case):
    args, options = on_attention.CASES[case]
    on_attention.run(gpu, *args, **options)
    assert by(attention.fused_attention) == {"cuda.cudnn"}
    assert by(attention.fused_attention_backward) == {"cuda.cudnn"}
    assert fe.ran == ["tensor core"] * 2


def test_attention_without_examples(gpu, fe):
    q, k, v = (on_attention.made(gpu, F16, 3, n, 16) for n in (5, 7, 7))
    out = F.scaled_dot_product_attention(q[0], k[0], v[0])
    assert fe.ran == ["tensor core"]
    want = on_attention.expected(q[1][None], k[1][None], v[1][None], np.zeros((1, 3, 5, 16)),
                                   None, False, 0.25)[0][0]
    np.testing.assert_allclose(values(out), want, 1e-2, 2e-3)


@pytest.mark.parametrize("case", ["bool mask", "added mask", "256 wide", "float32, causal",
                                  "addresses and widths that are not multiples of 16 bytes"])
def test_attention_that_stays_with_generated_kernels(gpu, fe, case):
    args, options = on_attention.CASES[case]
    on_attention.run(gpu, *args, **options)
    assert not fe.ran and by(attention.fused_attention) == {"cuda.attention"}


def test_attention_has_a_switch(gpu, fe):
    lib = lampion.backends.cuda
    assert lib.cudnn_sdp_enabled()
    try:
        lib.enable_cudnn_sdp(False)
        assert not lib.cudnn_sdp_enabled()
        args, options = on_attention.CASES["causal"]
        on_attention.run(gpu, *args, **options)
        assert not fe.ran
    finally:
        config.unset("backend.cuda.dnn_attention")


def test_which_heads_share_keys():
    """Heads that share a key must be neighbours when all head dims are one."""
    from lampion_cuda.cudnn_graphs import heads, shares_neighbours

    assert shares_neighbours((2, 3), (2, 1)) and shares_neighbours((2, 3), (1, 1))
    assert shares_neighbours((2, 3), (2, 3)) and shares_neighbours((), ())
    assert not shares_neighbours((2, 3), (1, 3))
    assert heads((2, 3, 4, 5, 8), (480, 160, 40, 8, 1)) == ((2, 12, 5, 8), (480, 40, 8, 1))
    assert heads((2, 3, 4, 5, 8), (480, 40, 120, 8, 1)) is None
    assert heads((2, 3, 1, 5, 8), (120, 40, 7, 8, 1)) == ((2, 3, 5, 8), (120, 40, 8, 1))
    assert heads((5, 8), (8, 1)) == ((1, 1, 5, 8), (40, 40, 8, 1))


def test_explain_says_which(gpu, fe):
    from lampion.explaining import explain

    x, w = (made(gpu, F32, s)[0].detach() for s in ((1, 4, 5, 5), (4, 4, 3, 3)))
    assert "kernel cuda.cudnn" in str(explain(lambda: F.conv2d(x, w)))
    with config.override({"backend.cuda.dnn": "generated"}):
        assert "kernel cuda.conv" in str(explain(lambda: F.conv2d(x, w)))
