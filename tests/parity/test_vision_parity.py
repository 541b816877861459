"""lampion-vision against torchvision, where that is installed: values, dtypes, gradients.

Left out is what README.md of the wheel says differs on purpose.
"""

from __future__ import annotations

import numpy as np
import pytest

import lampion

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("torchvision.ops", exc_type=(ImportError, RuntimeError),
                             reason="torchvision is not here, or is of another torch")
ours = pytest.importorskip("lampion_vision")


def boxes(rng, n, span=20.0):
    corner, size = rng.random((n, 2)) * span, rng.random((n, 2)) * span / 2 + 0.1
    return np.concatenate([corner, corner + size], 1).astype(np.float32)


def regions(rng, n, span=16.0):
    return np.concatenate([rng.integers(0, 2, (n, 1)), boxes(rng, n, span)], 1).astype(np.float32)


def same(name, args, moving=(), tolerance=1e-5, **kwargs):
    """Compare a call, and the gradients of the arguments `moving`."""
    made = []
    for m in (torch, lampion):
        def tensor(a, m=m):
            if isinstance(a, list):
                return [tensor(x) for x in a]
            return m.tensor(a) if isinstance(a, np.ndarray) else a

        made.append([tensor(a) for a in args])
        for k in moving:
            made[-1][k].requires_grad_()
    want, got = getattr(theirs, name)(*made[0], **kwargs), getattr(ours, name)(*made[1], **kwargs)
    assert str(got.dtype).partition(".")[2] == str(want.dtype).partition(".")[2]
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), tolerance, tolerance)
    if moving:
        w = np.random.default_rng(0).standard_normal(tuple(want.shape)).astype(np.float32)
        (want * torch.tensor(w)).sum().backward()
        (got * lampion.tensor(w)).sum().backward()
        for k in moving:
            np.testing.assert_allclose(made[1][k].grad.numpy(), made[0][k].grad.numpy(),
                                       10 * tolerance, 10 * tolerance)


IOUS = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")


@pytest.mark.parametrize("name", IOUS)
def test_overlaps(name):
    rng = np.random.default_rng(1)
    a, b = boxes(rng, 7), boxes(rng, 5)
    same(name, [a, b], (0, 1))
    same(name, [a.astype(np.int64), b.astype(np.int64)], tolerance=1e-4)
    same(name, [a.astype(np.float16), b.astype(np.float16)], tolerance=5e-2)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", [f"{n}_loss" for n in IOUS[1:]])
def test_losses_of_boxes(name, reduction):
    rng = np.random.default_rng(2)
    a, b = boxes(rng, 6), boxes(rng, 6)
    same(name, [a, b], (0, 1), reduction=reduction)
    same(name, [a.astype(np.int64), b.astype(np.int64)], reduction=reduction)
    same(name, [a[:0], b[:0]], reduction=reduction)


@pytest.mark.parametrize("fmt", ["cxcywhr", "xywhr", "xyxyxyxy"])
def test_rotated_boxes(fmt):
    rng = np.random.default_rng(3)
    b = np.concatenate([rng.random((40, 2)) * 10, rng.random((40, 2)) * 6 + 0.5,
                        rng.random((40, 1)) * 360 - 180], 1).astype(np.float32)
    b[5], b[9, :4], b[9, 4] = b[6], b[10, :4], b[10, 4] + 180
    b = theirs.box_convert(torch.tensor(b), "cxcywhr", fmt).numpy()
    same("box_iou", [b[:20], b, fmt], tolerance=5e-4)
    for other in ("cxcywhr", "xywhr"):
        same("box_convert", [b, fmt, other], tolerance=1e-4)


@pytest.mark.parametrize("out", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("given", ["xyxy", "xywh", "cxcywh"])
def test_conversions(given, out):
    b = boxes(np.random.default_rng(4), 6)
    same("box_convert", [b, given, out])
    same("box_convert", [b.astype(np.int64), given, out])
    same("box_area", [b, out])
    same("box_area", [b.astype(np.uint8)])
    same("clip_boxes_to_image", [b, (9, 7)], (0,))
    same("remove_small_boxes", [b, 4.0])
    same("masks_to_boxes", [np.random.default_rng(5).random((4, 9, 8)) > 0.97])


@pytest.mark.parametrize("options", [{}, {"alpha": -1}, {"gamma": 0}, {"reduction": "mean"},
                                     {"gamma": 1.5, "reduction": "sum"}])
def test_focal_loss(options):
    rng = np.random.default_rng(6)
    x = rng.standard_normal(30).astype(np.float32) * 4
    same("sigmoid_focal_loss", [x, (rng.random(30) > 0.5).astype(np.float32)], (0,), **options)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("n", [10, 300])
def test_suppression(n, threshold):
    rng = np.random.default_rng(n)
    b, scores = boxes(rng, n), np.round(rng.random(n) * 20).astype(np.float32)
    same("nms", [b, scores, threshold])
    same("nms", [np.round(b), scores, threshold])
    different = rng.permutation(n).astype(np.float32)  # torchvision orders ties in any way here
    same("batched_nms", [b, different, rng.integers(0, 4, n), threshold])


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.37])
def test_regions(scale):
    rng = np.random.default_rng(7)
    x, r = rng.standard_normal((2, 8, 13, 17)).astype(np.float32), regions(rng, 6)
    r[0, 1:] = -3, -2, 30, 40
    for ratio in (-1, 0, 1, 2, 3, 5):
        for aligned in (True, False):
            same("roi_align", [x, r, (3, 2), scale, ratio, aligned], (0,), 1e-4)
        same("ps_roi_align", [x, r, (4, 2), scale, ratio], (0,), 1e-4)
    same("roi_align", [x, [r[:4, 1:], r[4:, 1:]], 7], (0,), 1e-4)
    same("roi_pool", [x, r, (3, 2), scale], (0,))
    same("ps_roi_pool", [x, r, (4, 2), scale], tolerance=1e-4)


@pytest.mark.parametrize(("groups", "moved", "stride", "padding", "dilation", "masked"), [
    (1, 1, (1, 1), (0, 0), (1, 1), False), (2, 2, (2, 1), (1, 2), (1, 2), True),
    (4, 1, (1, 1), (1, 1), (1, 1), True), (1, 4, (2, 2), (0, 0), (2, 2), False)])
def test_deformable_convolution(groups, moved, stride, padding, dilation, masked):
    rng = np.random.default_rng(8)
    h, w = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(
        (13, 17), padding, dilation, (3, 2), stride))

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    args = [normal(2, 8, 13, 17), normal(2, 12 * moved, h, w) * 3, normal(4 * groups, 8 // groups,
            3, 2), normal(4 * groups), stride, padding, dilation]
    if masked:
        args.append(normal(2, 6 * moved, h, w))
    same("deform_conv2d", args, (0, 1, 2, 3, *([7] if masked else [])), 2e-4)
