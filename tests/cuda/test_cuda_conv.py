"""Convolutions on the CUDA device: implicit products, against NumPy in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import lampion
from lampion import config
from lampion.nn import functional as F
from lampion.ops import conv

rng = np.random.default_rng(17)
BF16, F16, F32 = lampion.bfloat16, lampion.float16, lampion.float32
TOLERANCE = {BF16: 1e-2, F16: 2e-3, F32: 2e-6}
OPS = (conv.conv_forward, conv.conv_backward_data, conv.conv_backward_weight,
       conv.conv_backward_weight_bias)
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def made(device, dtype, shape, layout="channels first"):
    """(a tensor on the device, its values in float64)."""
    x = lampion.tensor(rng.standard_normal(shape).astype(np.float32)).to(dtype)
    exact = x.float().numpy().astype(np.float64)
    if layout == "channels last":
        t = x.movedim(1, -1).contiguous().to(device).movedim(-1, 1)
    elif layout == "odd":
        wide = lampion.zeros(*shape[:-1], shape[-1] + 1, dtype=dtype)
        wide[..., 1:] = x
        t = wide.to(device)[..., 1:]
    else:
        t = x.to(device)
    return t.detach().requires_grad_(), exact


def values(t):
    """A tensor's values as a NumPy array."""
    return t.detach().float().cpu().numpy()


def expected(x, w, g, stride, padding, dilation, groups):
    """(result, gradients of x and w) for the result's gradient g, by loops over the kernel."""
    kernel, rank = w.shape[2:], x.ndim - 2
    wide = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in padding]])
    out, gx, gw = np.zeros(g.shape), np.zeros(wide.shape), np.zeros(w.shape)
    n, c, o = x.shape[0], w.shape[1], w.shape[0] // groups
    for k in itertools.product(*map(range, kernel)):
        where = (..., *(slice(a * d, a * d + (s - 1) * t + 1, t) for a, d, s, t in zip(
            k, dilation, g.shape[2:], stride)))
        part = wide[where].reshape(n, groups, c, -1)
        tap = w[(..., *k)].reshape(groups, o, c)
        grad = g.reshape(n, groups, o, -1)
        out += np.einsum("ngcp,goc->ngop", part, tap).reshape(out.shape)
        gx[where] += np.einsum("ngop,goc->ngcp", grad, tap).reshape(gx[where].shape)
        gw[(..., *k)] = np.einsum("ngop,ngcp->goc", grad, part).reshape(-1, c)
    inside = tuple(slice(p, p + s) for p, s in zip(padding, x.shape[2:]))
    assert rank == len(kernel)
    return out, gx[(..., *inside)], gw


def run(device, dtype, x, w, *, stride=1, padding=0, dilation=1, groups=1, bias=True,
        layout="channels first"):
    """One convolution and its gradients, checked."""
    rank = len(w) - 2
    full = [(v,) * rank if isinstance(v, int) else v for v in (stride, padding, dilation)]
    xt, xn = made(device, dtype, x, layout)
    wt, wn = made(device, dtype, w, layout)
    bt, bn = made(device, dtype, w[:1])
    out = CONV[rank](xt, wt, bt if bias else None, stride, padding, dilation, groups)
    gt, gn = made(device, dtype, tuple(out.shape), layout)
    leaves = [xt, wt] + [bt] * bias
    got = [out, *lampion.autograd.grad(out, leaves, gt.detach())]
    want = list(expected(xn, wn, gn, *full, groups))
    if bias:
        want[0] = want[0] + bn.reshape(-1, *(1,) * rank)
        want.append(gn.sum((0, *range(2, rank + 2))))
    for name, a, b in zip(("out", "input", "weight", "bias"), got, want):
        assert a.dtype is dtype and tuple(a.shape) == b.shape
        error = np.abs(values(a) - b).max() / np.abs(b).max()
        # sums of rounded products: the error grows with the root of their number at most
        assert error < TOLERANCE[dtype] * max(1, math.log2(b.size)), (name, error)
    return got


def chosen():
    """The kernels that the calls so far took, by op."""
    return {op.name: {p.chosen for p in op.plans.values()} for op in OPS if op.plans}


@pytest.fixture(autouse=True)
def generated(gpu):
    """cuDNN, where it is installed, has tests of its own."""
    lampion.ones(1, device=gpu)  # the options of the backend are there
    with config.override({"backend.cuda.dnn": "generated"}):
        yield


@pytest.fixture(autouse=True)
def nothing_is_planned(generated):
    for rank in (1, 2, 3):
        lampion.ops.registry.REGISTRY[f"conv{rank}d"].plans.clear()
    for op in OPS:
        op.plans.clear()


CASES = {
    "3 x 3": ((BF16, (2, 16, 9, 10), (24, 16, 3, 3)), {"padding": 1}),
    "3 x 3, channels last": ((BF16, (2, 16, 9, 10), (24, 16, 3, 3)),
                             {"padding": 1, "layout": "channels last"}),
    "few channels, stride 2": ((BF16, (1, 3, 20, 18), (70, 3, 7, 7)),
                               {"stride": 2, "padding": 3, "bias": False}),
    "1 x 1, stride 2": ((F16, (2, 24, 8, 9), (16, 24, 1, 1)), {"stride": 2}),
    "dilated": ((F16, (1, 8, 12, 11), (8, 8, 3, 2)), {"dilation": (2, 3), "padding": (2, 1)}),
    "stride and dilation": ((F32, (1, 4, 13, 12), (8, 4, 3, 3)),
                            {"stride": (2, 4), "dilation": (3, 2), "padding": 2}),
    "many rows": ((F32, (1, 5, 8, 8), (140, 5, 3, 3)), {"padding": 1}),
    "one dim": ((F32, (3, 6, 40), (10, 6, 5)), {"stride": 3, "padding": 2}),
    "three dims": ((BF16, (1, 8, 4, 5, 6), (16, 8, 2, 3, 3)), {"stride": (1, 2, 1), "padding": 1}),
    "groups": ((BF16, (2, 16, 6, 7), (32, 8, 3, 3)), {"groups": 2, "padding": 1}),
    "groups, float32, channels last": ((F32, (2, 12, 6, 7), (24, 4, 3, 3)),
                                       {"groups": 3, "stride": 2, "layout": "channels last"}),
    "odd addresses": ((F16, (2, 5, 6, 7), (9, 5, 3, 3)), {"layout": "odd"}),
    "long sums in parts": ((BF16, (1, 128, 5, 6), (24, 128, 3, 3)), {"padding": 1}),
    "long sums in parts, channels last": ((F16, (2, 128, 4, 5), (72, 128, 3, 3)),
                                          {"padding": 1, "layout": "channels last"}),
    "long sums in parts, groups": ((F32, (2, 96, 4, 5), (16, 48, 3, 3)),
                                   {"groups": 2, "padding": 1, "stride": 2}),
    "long sums in parts, float32": ((F32, (1, 90, 5, 5), (140, 90, 3, 3)), {"bias": False}),
    "few channels of the result": ((BF16, (1, 20, 6, 7), (30, 20, 3, 3)), {"padding": 1}),
    "few channels of the result, float32": ((F32, (1, 3, 6, 7), (18, 3, 3, 3)), {}),
    "1 x 1, stride 3, channels last": ((BF16, (2, 16, 8, 9), (24, 16, 1, 1)),
                                       {"stride": (3, 2), "layout": "channels last"}),
    "1 x 1, one dim, stride 2": ((F32, (2, 6, 9), (8, 6, 1)), {"stride": 2}),
    "images whose rows are whole chunks": ((BF16, (2, 9, 8, 13), (12, 9, 3, 3)), {"padding": 1}),
    "images of more than a tile": ((F16, (1, 70, 8, 12), (8, 70, 1, 1)), {"padding": 1}),
    "kernel larger than the step": ((F32, (1, 4, 5, 5), (4, 4, 2, 2)), {"stride": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(gpu, case):
    args, options = CASES[case]
    run(gpu, *args, **options)
    weight = "conv_backward_weight" + ("_bias" if options.get("bias", True) else "")
    assert chosen() == {op: {"kernel cuda.conv (priority 10)"}
                        for op in ("conv_backward_data", weight)}
    rank = len(args[2]) - 2
    forward = lampion.ops.registry.REGISTRY[f"conv{rank}d"].plans.values()
    assert ["cuda.conv" in p.chosen for p in forward] == [True]


@pytest.mark.parametrize("rows, positions, steps, tile", [
    (512, 1568, 72, (128, 5)),     # 512 to 512, 7 x 7: 52 blocks of 72 steps are 260 of 15
    (256, 6272, 36, (128, 2)),     # 256 to 256, 14 x 14
    (128, 25088, 18, (128, 1)),    # enough blocks as it is
    (64, 100352, 9, (64, 1)), (20, 1000, 5, (32, 1)), (3, 401408, 12, (16, 1)),
    (96, 1000, 5, (64, 1)),        # sums too short for parts: smaller tiles instead
    (4096, 2000, 600, (128, 1)), (512, 128, 0, (64, 1))])
def test_tiles_fill_the_gpu(rows, positions, steps, tile):
    from types import SimpleNamespace

    from lampion_cuda.conv import _Problem

    p = SimpleNamespace(device=SimpleNamespace(units=132), y=SimpleNamespace(dtype=BF16), groups=1)
    assert _Problem.tile(p, rows, positions, steps) == tile


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_a_kernel_of_one(gpu, dtype, layout):
    run(gpu, dtype, (3, 12, 5, 4), (20, 12, 1, 1), layout=layout)
    run(gpu, dtype, (2, 3, 6), (5, 3, 1), layout=layout, bias=False)
    run(gpu, dtype, (2, 3, 6), (5, 3, 1), layout="odd", padding=1)


@pytest.mark.parametrize("stride, right", [(1, 0), (1, 2), (2, 3), (2, 1), (2, -1), (3, 0)])
def test_a_kernel_of_one_with_zeros_at_the_end(gpu, stride, right):
    (x, xn), (w, wn) = (made(gpu, F32, s) for s in ((2, 8, 4, 4), (8, 8, 1, 1)))
    got = values(conv.conv_forward.fn(x.detach(), w.detach(), None, (stride, stride), (0, 0),
                                      (right, right), (1, 1), 1))
    ends = [(0, 0), (0, 0), (0, max(right, 0)), (0, max(right, 0))]
    wide = np.pad(xn[..., :4 + right, :4 + right], ends)[..., ::stride, ::stride]
    want = np.einsum("nchw,oc->nohw", wide, wn[..., 0, 0])
    np.testing.assert_allclose(got, want, 1e-5, 1e-5)


@pytest.mark.parametrize("order", [-1, 7])
def test_every_order_of_threads(simulated, gpu, order):
    simulated.set(order=order)
    for dtype in (BF16, F32):
        run(gpu, dtype, (1, 8, 7, 6), (16, 8, 3, 3), padding=1, stride=2)
        run(gpu, dtype, (1, 104, 3, 4), (12, 104, 3, 3), padding=1)
        run(gpu, dtype, (1, 9, 8, 9), (8, 9, 3, 3))


def test_a_sum_in_parts_is_the_same_every_time(gpu):
    x, _ = made(gpu, BF16, (4, 8, 24, 24))
    w, _ = made(gpu, BF16, (8, 8, 3, 3))
    out = F.conv2d(x, w, padding=1)
    first, again = (lampion.autograd.grad(out, [w], lampion.ones_like(out), retain_graph=True)[0]
                    for _ in range(2))
    assert np.array_equal(values(first), values(again))
    wide = np.pad(values(x).astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    want = np.stack([[wide[:, :, i:i + 24, j:j + 24].sum((0, 2, 3)) for j in range(3)]
                     for i in range(3)])
    want = np.broadcast_to(want.transpose(2, 0, 1), first.shape)
    assert np.abs(values(first) - want).max() < 1e-2 * np.abs(want).max()


@pytest.mark.parametrize("dtype, x, w, groups", [
    (F32, (2, 6, 5, 5), (6, 1, 3, 3), 6), (lampion.float64, (1, 4, 5, 5), (4, 4, 3, 3), 1)])
def test_what_the_kernels_decline_is_generated(gpu, dtype, x, w, groups):
    xt, xn = made(gpu, dtype, x)
    wt, wn = made(gpu, dtype, w)
    out = F.conv2d(xt, wt, None, 1, 1, 1, groups)
    got = lampion.autograd.grad(out, [xt, wt], lampion.ones_like(out))
    want = expected(xn, wn, np.ones(out.shape), (1, 1), (1, 1), (1, 1), groups)
    for a, b in zip((out, *got), want):
        np.testing.assert_allclose(values(a), b, 1e-4, 1e-5)
    assert all(p == {"generated from the kernel IR"} for p in chosen().values())


def test_transposed(gpu):
    x, xn = made(gpu, F32, (1, 8, 5, 6))
    w, wn = made(gpu, F32, (8, 4, 3, 3))
    out = F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1)
    zeros = np.zeros((1, 4, 10, 12))
    want = expected(zeros, wn, xn, (2, 2), (1, 1), (1, 1), 1)[1]
    np.testing.assert_allclose(values(out), want, 1e-4, 1e-5)


def test_second_derivatives(gpu):
    x, w = made(gpu, F32, (1, 4, 5, 5))[0], made(gpu, F32, (4, 4, 3, 3))[0]
    host = [t.detach().cpu().double().requires_grad_() for t in (x, w)]

    def second(x, w):
        g, = lampion.autograd.grad(F.conv2d(x, w, padding=1).square().sum(), [x], create_graph=True)
        return lampion.autograd.grad(g.square().sum(), [x, w])

    for a, b in zip(second(x, w), second(*host)):
        np.testing.assert_allclose(values(a), values(b), 1e-4, 1e-2)
