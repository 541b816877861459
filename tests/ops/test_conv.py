"""Convolutions, unfold and fold against NumPy loops, on every installed device."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gradients import check_gradient, tensors, thorough

import lampion

F = lampion.nn.functional
rng = np.random.default_rng(0)


def reference(x, w, b, stride, padding, dilation, groups):
    """The definition: one dot product per output element. Geometry is a tuple per dim; padding a
    tuple of (before, after)."""
    rank = w.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0), *padding])
    reach = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilation)]
    out = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, stride)]
    y = np.zeros((x.shape[0], w.shape[0], *out), x.dtype)
    per, cg = w.shape[0] // groups, w.shape[1]
    for at in itertools.product(*map(range, out)):
        where = tuple(slice(o * s, o * s + r, d)
                      for o, s, r, d in zip(at, stride, reach, dilation))
        for o in range(w.shape[0]):
            g = o // per
            part = x[(slice(None), slice(g * cg, (g + 1) * cg), *where)]
            y[(slice(None), o, *at)] = (part * w[o]).sum(tuple(range(1, rank + 2)))
    return y if b is None else y + b.reshape(-1, *(1,) * rank)


CASES = [  # x, w, options
    ((2, 3, 8, 8), (4, 3, 3, 3), {}),
    ((2, 3, 8, 8), (4, 3, 3, 3), {"padding": 1}),
    ((2, 3, 9, 8), (4, 3, 3, 2), {"padding": (1, 2), "stride": (2, 1), "dilation": (1, 2)}),
    ((2, 3, 9, 8), (4, 3, 3, 2), {"padding": "same"}),
    ((2, 4, 9, 8), (6, 2, 3, 2), {"padding": 1, "groups": 2}),
    ((2, 4, 9, 8), (4, 1, 3, 2), {"padding": 1, "groups": 4}),
    ((1, 5, 6, 6), (7, 5, 1, 1), {"stride": 2}),
    ((2, 3, 10), (4, 3, 3), {"padding": 1, "stride": 3}),
    ((2, 3, 4, 5, 6), (4, 3, 3, 2, 1), {"padding": 1}),
    ((0, 3, 8, 8), (4, 3, 3, 3), {}),
]


def geometry(w, stride=1, padding=0, dilation=1, groups=1):
    rank = len(w) - 2

    def each(v):
        return (v,) * rank if isinstance(v, int) else v

    dilation = each(dilation)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, w[2:])]
        padding = [(t // 2, t - t // 2) for t in total]
    else:
        padding = [(p, p) for p in each(padding)]
    return each(stride), padding, dilation, groups


def values(*shapes, dtype="float32"):
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def same(result, expected, tolerance=1e-5):
    got = result.detach().cpu().numpy()
    assert got.shape == expected.shape
    scale = 1 + (np.abs(expected).max() if expected.size else 0)
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * scale)


def conv(rank, transposed=False):
    return getattr(F, f"conv{'_transpose' if transposed else ''}{rank}d")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution(device, case, dtype):
    xs, ws, options = case
    if dtype == "float64" and not thorough(device):
        return
    x, w, b = values(xs, ws, ws[:1], dtype=dtype)
    got = conv(len(ws) - 2)(*tensors((x, w, b), device), **options)
    same(got, reference(x, w, b, *geometry(ws, **options)), 1e-5 if dtype == "float32" else 1e-12)


def test_without_a_batch_and_with_integers(device):
    x, w = values((3, 6, 6), (4, 3, 3, 3))
    same(F.conv2d(*tensors((x, w), device)), reference(x[None], w, None, *geometry(w.shape))[0])
    x, w = (rng.integers(-9, 9, s) for s in ((2, 3, 6, 6), (4, 3, 3, 3)))
    same(F.conv2d(*tensors((x, w), device)), reference(x, w, None, *geometry(w.shape)))


@pytest.mark.parametrize("case", [c for c in CASES if c[0][0]], ids=str)
def test_gradients(device, case):
    xs, ws, options = case
    if case not in (CASES[2], CASES[4], CASES[7]) and not thorough(device):
        return
    check_gradient(lambda x, w, b: conv(len(ws) - 2)(x, w, b, **options),
                   values(xs, ws, ws[:1], dtype="float64"), device)


@pytest.mark.parametrize("options", [
    {"padding": 1}, {"padding": (1, 0), "stride": (2, 3), "dilation": (1, 2)}, {"padding": "same"},
], ids=str)
def test_larger_ones_in_double_precision(options):
    """Large enough for the host's kernels that work through columns."""
    x, w, b = values((3, 8, 14, 13), (16, 8, 3, 2), (16,), dtype="float64")
    same(F.conv2d(*tensors((x, w, b), "cpu"), **options),
         reference(x, w, b, *geometry(w.shape, **options)), 1e-12)
    check_gradient(lambda *t: F.conv2d(*t, **options), [x, w, b], "cpu")


@pytest.mark.parametrize("options", [
    {}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2, "stride": (1, 3)},
    {"dilation": 2, "padding": 1},
], ids=str)
def test_transposed_is_the_adjoint(device, options):
    """<conv_transpose(y), x> = <y, conv(x)> for the same weight and geometry."""
    y, w = values((2, 4, 5, 6), (4, 3, 3, 2), dtype="float64")
    out = F.conv_transpose2d(*tensors((y, w), device), **options)
    (x,) = values(tuple(out.shape), dtype="float64")
    plain = {k: v for k, v in options.items() if k != "output_padding"}
    forward = reference(x, w, None, *geometry(w.shape, **plain))
    left = (out.cpu().numpy() * x).sum()
    assert np.isclose(left, (y * forward[..., :5, :6]).sum())
    check_gradient(lambda a, b: F.conv_transpose2d(a, b, **options), [y, w], device)


def test_channels_last_stays(device):
    x, w = values((2, 8, 8, 4), (8, 4, 3, 3))
    t, v = tensors((x, w), device)
    got = F.conv2d(t.permute(0, 3, 1, 2), v, padding=1)
    assert got.permute(0, 2, 3, 1).is_contiguous()
    same(got, reference(x.transpose(0, 3, 1, 2), w, None, *geometry(w.shape, padding=1)))


@pytest.mark.parametrize("options", [{}, {"padding": 1}, {"stride": 2, "dilation": 2}], ids=str)
def test_unfold_and_fold(device, options):
    (x,) = values((2, 3, 9, 8), dtype="float64")
    columns = F.unfold(*tensors((x,), device), (3, 2), **options)
    eye = np.eye(18).reshape(18, 3, 3, 2)
    stride, padding, dilation, _ = geometry(eye.shape, **options)
    expected = reference(x, eye, None, stride, padding, dilation, 1)
    same(columns, expected.reshape(2, 18, -1), 1e-12)
    (c,) = values(tuple(columns.shape), dtype="float64")
    back = F.fold(*tensors((c,), device), (9, 8), (3, 2), **options)
    assert np.isclose((back.cpu().numpy() * x).sum(), (c * columns.cpu().numpy()).sum())
    check_gradient(lambda t: F.unfold(t, (3, 2), **options), [x], device)


@pytest.mark.parametrize("call,words", [
    (lambda t: F.conv2d(t(1, 2, 8, 8), t(3, 3, 3, 3)), "to have 3 channels, but got 2"),
    (lambda t: F.conv2d(t(8, 8), t(3, 1, 3, 3)), "Expected 3D .unbatched. or 4D"),
    (lambda t: F.conv2d(t(1, 1, 2, 2), t(3, 1, 3, 3)), "Kernel size can't be greater"),
    (lambda t: F.conv2d(t(1, 1, 5, 5), t(3, 1, 3, 3), padding="same", stride=2), "strided"),
    (lambda t: F.conv2d(t(1, 1, 5, 5), t(3, 1, 3, 3), stride=0), "non-positive stride"),
    (lambda t: F.conv2d(t(1, 1, 5, 5), t(3, 1, 3, 3), padding=-1), "negative padding"),
    (lambda t: F.conv2d(t(1, 1, 5, 5), t(3, 1, 3, 3), t(4)), "expected bias"),
    (lambda t: F.conv_transpose2d(t(1, 2, 5, 5), t(2, 1, 3, 3), output_padding=1), "smaller"),
], ids=range(8))
def test_errors_say_what_is_wrong(call, words):
    with pytest.raises(RuntimeError, match=words):
        call(lambda *shape: lampion.ones(shape))
