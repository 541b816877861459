"""Poolings and resizing against NumPy loops, on every installed device."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gradients import check_gradient, tensors, thorough

import lampion

F = lampion.nn.functional
rng = np.random.default_rng(0)


def windows(space, kernel, stride, padding, dilation, ceil):
    """Per output position: its positions inside per dim, and its size with padding."""
    per_dim = []
    for n, k, s, p, d in zip(space, kernel, stride, padding, dilation):
        rest = n + 2 * p - d * (k - 1) - 1
        out = (rest + (s - 1 if ceil else 0)) // s + 1
        out -= ceil and (out - 1) * s >= n + p
        rows = []
        for o in range(out):
            start = o * s - p
            inside = [i for i in range(start, start + d * (k - 1) + 1, d) if 0 <= i < n]
            rows.append((inside, min(start + k, n + p) - start))
        per_dim.append(rows)
    return per_dim


def adaptive(space, size):
    return [[(list(range(o * n // m, -(-(o + 1) * n // m))), -(-(o + 1) * n // m) - o * n // m)
             for o in range(m)] for n, m in zip(space, size)]


def pooled(x, per_dim, f):
    """f(values of a window, its padded size) for all windows of the last dims."""
    rank = len(per_dim)
    out = np.zeros((*x.shape[:-rank], *map(len, per_dim)), x.dtype)
    for at in itertools.product(*(range(len(rows)) for rows in per_dim)):
        rows = [per_dim[d][o] for d, o in enumerate(at)]
        block = x[(..., *np.ix_(*(r[0] for r in rows)))]
        flat = block.reshape(*x.shape[:-rank], np.prod([len(r[0]) for r in rows]))
        out[(..., *at)] = f(flat, int(np.prod([r[1] for r in rows])))
    return out


def largest(flat, _):
    return flat.max(-1)


GEOMETRY = [  # shape, kernel, stride, padding, dilation, ceil
    ((2, 3, 8, 8), (2, 2), (2, 2), (0, 0), (1, 1), False),
    ((2, 3, 9, 8), (3, 3), (2, 2), (1, 1), (1, 1), False),
    ((2, 3, 9, 8), (3, 2), (1, 3), (1, 0), (2, 1), False),
    ((2, 3, 9, 8), (3, 3), (2, 2), (1, 1), (1, 1), True),
    ((20, 2, 9, 11), (7, 7), (2, 2), (3, 3), (1, 1), False),
    ((3, 9, 8), (2, 2), (1, 1), (0, 0), (1, 1), False),
    ((0, 3, 8, 8), (2, 2), (2, 2), (0, 0), (1, 1), False),
    ((3, 2, 9), (2,), (2,), (0,), (1,), True),
    ((2, 2, 4, 5, 6), (2, 3, 2), (1, 2, 2), (1, 1, 0), (1, 1, 1), False),
]


def values(shape, dtype="float32"):
    return rng.permutation(int(np.prod(shape))).reshape(shape).astype(dtype) / 7


def same(result, expected, tolerance=1e-6):
    np.testing.assert_allclose(result.detach().cpu().numpy(), expected, rtol=tolerance,
                               atol=tolerance)


@pytest.mark.parametrize("case", GEOMETRY, ids=str)
def test_max_pool(device, case):
    shape, kernel, *rest = case
    rank = len(kernel)
    if case not in GEOMETRY[1:3] and not thorough(device):
        return
    pool = getattr(F, f"max_pool{rank}d")
    x = values(shape)
    t = tensors([x], device)[0]
    expected = pooled(x, windows(shape[-rank:], kernel, *rest), largest)
    same(pool(t, kernel, *rest), expected)
    found, index = pool(t, kernel, *rest, return_indices=True)
    same(found, expected)
    if shape[0]:
        flat = x.reshape(*shape[:-rank], -1)
        where = index.cpu().numpy().reshape(*shape[:-rank], -1)
        same(found.flatten(-rank), np.take_along_axis(flat, where, -1))
        check_gradient(lambda v: pool(v, kernel, *rest), [x.astype("float64")], device)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("case", [c for c in GEOMETRY if set(c[4]) == {1}], ids=str)
def test_avg_pool(device, case, include):
    shape, kernel, stride, padding, dilation, ceil = case
    rank = len(kernel)
    if case not in GEOMETRY[3:4] and not thorough(device):
        return
    pool = getattr(F, f"avg_pool{rank}d")
    x = values(shape)
    expected = pooled(x, windows(shape[-rank:], kernel, stride, padding, dilation, ceil),
                      lambda v, n: v.sum(-1) / (n if include else v.shape[-1]))
    args = (kernel, stride, padding, ceil, include)
    same(pool(*tensors([x], device), *args), expected, 1e-5)
    if shape[0]:
        check_gradient(lambda v: pool(v, *args), [x.astype("float64")], device)


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (9, 8), (11, 3), (3, 2)], ids=str)
def test_adaptive(device, size):
    if size != (3, 4) and not thorough(device):
        return
    x = values((2, 3, 9, 8))
    t = tensors([x], device)[0]
    rows = adaptive(x.shape[-2:], size)
    same(F.adaptive_avg_pool2d(t, size), pooled(x, rows, lambda v, n: v.mean(-1)), 1e-5)
    same(F.adaptive_max_pool2d(t, size), pooled(x, rows, largest))
    double = [x.astype("float64")]
    check_gradient(lambda v: F.adaptive_avg_pool2d(v, size), double, device)
    check_gradient(lambda v: F.adaptive_max_pool2d(v, size), double, device)


def test_not_a_number_wins_and_ties_go_to_the_first(device):
    x = np.array([[1, 5, 5, 5], [np.nan, 2, 5, 5]], "float32").reshape(1, 2, 4)
    t = tensors([x], device)[0].requires_grad_()
    y, index = F.max_pool1d(t, 2, return_indices=True)
    np.testing.assert_array_equal(y.detach().cpu().numpy(), [[[5, 5], [np.nan, 5]]])
    np.testing.assert_array_equal(index.cpu().numpy(), [[[1, 2], [0, 2]]])
    F.max_pool1d(t, 2).sum().backward()
    np.testing.assert_array_equal(t.grad.cpu().numpy(), [[[0, 1, 1, 0], [1, 0, 1, 0]]])


def test_a_window_of_minus_infinity_points_inside(device):
    x = np.full((1, 3, 3), -np.inf, "float32")
    _, index = F.max_pool2d(*tensors([x], device), 3, 2, 1, return_indices=True)
    np.testing.assert_array_equal(index.cpu().numpy(), [[[0, 1], [3, 4]]])


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("size", [(11, 3), (4, 10)], ids=str)
def test_interpolate_reproduces_what_it_must(device, mode, size):
    """A constant stays constant, and the gradient is exact."""
    if size != (11, 3) and not thorough(device):
        return
    one = tensors([np.ones((1, 2, 7, 5), "float32")], device)[0]
    same(F.interpolate(one, size, mode=mode), np.ones((1, 2, *size)), 1e-5)
    x = values((1, 2, 7, 5), "float64")
    check_gradient(lambda t: F.interpolate(t, size, mode=mode), [x], device)


def test_interpolate_corners_and_nearest(device):
    x = values((1, 1, 4, 4))
    t = tensors([x], device)[0]
    same(F.interpolate(t, scale_factor=2), x.repeat(2, -1).repeat(2, -2))
    got = F.interpolate(t, (7, 7), mode="bilinear", align_corners=True).cpu().numpy()
    np.testing.assert_allclose(got[..., ::2, ::2], x, rtol=1e-6)
    np.testing.assert_allclose(got[..., ::2, 1::2], (x[..., 1:] + x[..., :-1]) / 2, rtol=1e-5)


@pytest.mark.parametrize("call,error,words", [
    (lambda t: F.max_pool2d(t(1, 2, 8, 8), 9), RuntimeError, "Output size is too small"),
    (lambda t: F.max_pool2d(t(1, 2, 8, 8), 2, padding=2), RuntimeError, "at most half"),
    (lambda t: F.max_pool2d(t(1, 2, 8, 8), (2, 2, 2)), RuntimeError, "single int"),
    (lambda t: F.avg_pool2d(t(8, 8), 2), RuntimeError, "Expected 3D or 4D"),
    (lambda t: F.avg_pool2d(t(1, 2, 8, 8), 2, divisor_override=0), RuntimeError, "not zero"),
    (lambda t: F.max_pool2d(t(1, 2, 8, 8) > 0, 2), NotImplementedError, "not implemented"),
    (lambda t: F.adaptive_avg_pool2d(t(1, 2, 8, 8), (-1, 2)), RuntimeError, "greater than"),
    (lambda t: F.interpolate(t(1, 2, 8, 8), 3, 2.0), ValueError, "only one of size"),
], ids=range(8))
def test_errors_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call(lambda *shape: lampion.ones(shape))
