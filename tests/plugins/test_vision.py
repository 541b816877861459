"""The op library in plugins/vision: what samples in its blocks cannot say, on every device.

Its samples are tested as those of built-in ops (tests/ops/test_derived.py, where it is installed).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import lampion
import lampion_vision as vision
from lampion import nn
from lampion.autograd import gradcheck, gradgradcheck
from lampion.func import jvp, vmap
from lampion.ops import registry
from lampion.runtime.backend import KernelImpl
from lampion_vision import suppression

SOURCES = Path(__file__).resolve().parents[2] / "plugins" / "vision" / "lampion_vision"
F64 = lampion.float64


def host(t):
    return t.detach().cpu().numpy()


def random_boxes(rng, n, span=20.0, dtype=np.float32):
    corner, size = rng.random((n, 2)) * span, rng.random((n, 2)) * span / 2 + 0.1
    return np.concatenate([corner, corner + size], 1).astype(dtype)


# ---------------------------------------------------------------- a plug-in like any other

def test_ops_are_in_their_namespace_and_nowhere_else():
    assert vision.nms is lampion.ops.vision.nms
    assert {"nms", "roi_align", "deform_conv2d"} <= set(dir(lampion.ops.vision))
    for name in ("nms", "focal", "tap_sum"):
        assert not hasattr(lampion, name) and not hasattr(lampion.Tensor, name)
    with pytest.raises(AttributeError, match="there is no op 'nmss' in lampion.ops.vision"):
        lampion.ops.vision.nmss


def test_only_public_modules_are_imported():
    """docs/write-ops.md lists what a library of ops may import."""
    text = (SOURCES.parents[2] / "docs" / "write-ops.md").read_text()
    public = set(re.findall(r"^\| `(lampion[\w.]*)` \|", text, re.MULTILINE))
    assert {"lampion", "lampion.ops.registry"} <= public
    used = set()
    for path in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = {f"{node.module}.{a.name}" for a in node.names}
                used |= names & public or {node.module}
    assert {n for n in used if n.split(".")[0] == "lampion"} <= public
    assert {n.split(".")[0] for n in used} <= {"lampion", "numpy", "math", "functools", "typing",
                                               "itertools", "__future__"}


def test_a_kernel_for_one_device_may_come_from_another_wheel():
    """By constraint and priority: here for float64 on the reference device only."""
    asked = []

    def build(call):
        asked.append(call.outputs[0].dtype)

    offer = KernelImpl("vision::tap_sum", "ref", build, priority=10, source="acme-kernels",
                       constraint=lambda call: call.outputs[0].dtype is F64)
    table = registry._impls.setdefault(("vision::tap_sum", "ref"), [])
    registry.register_kernel(offer)
    try:
        for dtype in (lampion.float32, F64):
            x = lampion.ones(1, 2, 9, 9, dtype=dtype, device="ref")
            box = lampion.tensor([[0, 1, 1, 5, 5]], dtype=dtype, device="ref")
            assert host(vision.roi_align(x, box, 1, sampling_ratio=1)).ravel().tolist() == [1, 1]
    finally:
        table.clear()
        registry.REGISTRY["vision::tap_sum"].plans.clear()
    assert asked == [F64]  # and declined, so that the generated kernel ran


# ---------------------------------------------------------------- boxes

def test_16_bit_boxes_give_32_bits(device):
    boxes = lampion.tensor([[0, 0, 300, 300.0]], dtype=lampion.float16, device=device)
    assert vision.box_area(boxes).dtype is lampion.float32
    assert vision.box_area(boxes).tolist() == [90000.0]  # more than float16 holds
    assert vision.box_iou(boxes, boxes).tolist() == [[1.0]]
    bytes_ = lampion.tensor([[0, 0, 200, 200]], dtype=lampion.uint8, device=device)
    assert vision.box_area(bytes_).dtype is lampion.int32
    assert vision.box_area(bytes_).tolist() == [40000]


def test_the_weight_of_aspect_ratios_is_a_constant_of_the_gradient():
    rng = np.random.default_rng(3)
    a, b = (random_boxes(rng, 4, dtype=np.float64) for _ in range(2))

    def at(x, alpha=None):
        """Complete iou of x with b, and alpha; with alpha given, for that one."""
        iou = host(vision.box_iou(lampion.tensor(x), lampion.tensor(b)))
        part = host(vision.distance_box_iou(lampion.tensor(x), lampion.tensor(b)))
        ratio = [np.arctan((c[:, 2] - c[:, 0]) / (c[:, 3] - c[:, 1])) for c in (x, b)]
        v = 4 / np.pi ** 2 * (ratio[0][:, None] - ratio[1]) ** 2
        alpha = v / (1 - iou + v + 1e-7) if alpha is None else alpha
        return part - alpha * v, alpha

    x = lampion.tensor(a, requires_grad=True)
    out = vision.complete_box_iou(x, lampion.tensor(b))
    value, alpha = at(a)
    np.testing.assert_allclose(host(out), value, rtol=1e-10)
    out.sum().backward()
    for k in range(4):
        step = np.zeros_like(a)
        step[1, k] = 1e-6
        slope = (at(a + step, alpha)[0].sum() - at(a - step, alpha)[0].sum()) / 2e-6
        assert abs(float(x.grad[1, k]) - slope) < 1e-6


def test_touching_boxes_have_the_slope_of_clamp():
    a = lampion.tensor([[0.0, 0.0, 1.0, 1.0]], requires_grad=True)
    vision.box_iou(a, lampion.tensor([[1.0, 0.0, 2.0, 1.0]])).sum().backward()
    assert a.grad.tolist() == [[0.0, 0.0, 0.5, 0.0]]


@pytest.mark.parametrize("dtype", [lampion.float32, F64])
def test_rotated_boxes_whose_edges_lie_on_each_other(dtype):
    rng = np.random.default_rng(7)
    x, y, w, h = rng.random((4, 300)) * 5 + 1
    r = rng.random(300) * 360 - 180
    a = np.radians(r)
    for shift, want in ((0, 1.0), (0.5, 1 / 3), (1.0, 0.0), (-0.25, 0.6)):
        moved = np.stack([x + shift * w * np.cos(a), y - shift * w * np.sin(a), w, h, r], 1)
        turned = np.stack([x, y, h, w, r + 90], 1)  # the same boxes
        for other in (np.stack([x, y, w, h, r], 1), turned):
            pair = [lampion.tensor(b[:, None]).to(dtype) for b in (other, moved)]
            got = host(vision.box_iou(*pair, "cxcywhr")).ravel()
            np.testing.assert_allclose(got, want, atol=1e-4 if dtype is lampion.float32 else 1e-8)


def test_the_slope_of_the_overlap_of_rotated_boxes():
    rng = np.random.default_rng(8)
    low, size = np.array([0, 0, 2, 2, -80.0]), np.array([2, 2, 3, 3, 160.0])
    a, b = (lampion.tensor(low + size * rng.random((4, 5)), requires_grad=True) for _ in range(2))
    assert gradcheck(lambda a, b: vision.box_iou(a, b, "cxcywhr"), (a, b))


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda b: vision.box_iou(b, b, "xywhr"), ValueError, r"5 coordinates.*\[3, 4\]"),
    (lambda b: vision.box_iou(b, b[0]), ValueError, r"box_iou.*\[3, 4\] and \[4\].*boxes\[None\]"),
    (lambda b: vision.box_area(b[:, :3]), ValueError, r"box_area.*4 coordinates.*\[3, 3\]"),
    (lambda b: vision.box_area(b, "xywhr"), ValueError, "xywhr.*xyxy, xywh, cxcywh"),
    (lambda b: vision.box_convert(b, "xyxy", "zz"), ValueError, "in_fmt xyxy and out_fmt zz"),
    (lambda b: vision.box_convert(b, "xyxy", "xywhr"), NotImplementedError, "rotated"),
    (lambda b: vision.masks_to_boxes(b), ValueError, r"\(N, H, W\), got \[3, 4\]"),
    (lambda b: vision.generalized_box_iou_loss(b, b[:2]), ValueError, r"\[3, 4\] and \[2, 4\]"),
    (lambda b: vision.distance_box_iou_loss(b, b, "max"), ValueError, "'reduction': 'max'"),
    (lambda b: vision.sigmoid_focal_loss(b, b, alpha=2), ValueError, "alpha value: 2"),
    (lambda b: vision.sigmoid_focal_loss(b, b[0]), ValueError, r"\[4\].*\[3, 4\]"),
    (lambda b: vision.nms(b, b[:, :2], 0.5), RuntimeError, r"nms.*scores.*\[3, 4\] and \[3, 2\]"),
    (lambda b: vision.nms(b[:, :2], b[:, 0], 0.5), RuntimeError, r"\[N, 4\], got \[3, 2\]"),
    (lambda b: vision.nms(b.long(), b[:, 0], 0.5), NotImplementedError, r"int64.*\.float\(\)"),
    (lambda b: vision.resize(b, (1, 2, 3)), ValueError, "not a 3 element"),
    (lambda b: vision.resize(b, 3, max_size=2), ValueError, "max_size = 2"),
    (lambda b: vision.resize(b, 3, "lanczos"), ValueError, "'lanczos'.*bicubic"),
])
def test_errors_name_op_shapes_and_remedy(call, error, words):
    with pytest.raises(error, match=words):
        call(lampion.ones(3, 4))


# ---------------------------------------------------------------- suppression

LONG = lampion.tensor([0, 0, 0, np.inf, 0])


def greedy(boxes, scores, threshold, idxs=None):
    """The definition, in float32 as the ops compute."""
    kept = []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for k in np.argsort(-scores, kind="stable"):
        for j in kept:
            low = np.maximum(boxes[k, :2], boxes[j, :2])
            w, h = np.maximum(np.minimum(boxes[k, 2:], boxes[j, 2:]) - low, 0)
            same = idxs is None or idxs[j] == idxs[k]
            union = area[j] + area[k] - w * h
            if same and union and float(w * h / union) > threshold:
                break
        else:
            kept.append(int(k))
    return kept


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_nms_is_greedy_also_with_ties(device, n):
    rng = np.random.default_rng(n)
    boxes = np.round(random_boxes(rng, n))
    scores = np.round(rng.random(n), 1).astype(np.float32)
    idxs = rng.integers(0, 3, n)
    for threshold in (0.3, 0.5):
        b, s = (lampion.tensor(a, device=device) for a in (boxes, scores))
        got = vision.nms(b, s, threshold)
        assert got.dtype is lampion.int64 and got.device == b.device
        assert got.tolist() == greedy(boxes, scores, threshold)
        got = vision.batched_nms(b, s, lampion.tensor(idxs, device=device), threshold)
        assert got.tolist() == greedy(boxes, scores, threshold, idxs)


def test_many_boxes_are_done_in_parts(monkeypatch):
    """The bits of a part fill the memory that is allowed."""
    monkeypatch.setattr(suppression, "MOST_BYTES", 1)
    rng = np.random.default_rng(9)
    boxes, scores = random_boxes(rng, 300), rng.random(300).astype(np.float32)
    b, s = lampion.tensor(boxes), lampion.tensor(scores)
    assert vision.nms(b, s, 0.3).tolist() == greedy(boxes, scores, 0.3)
    for classes in (2, 40):
        idxs = rng.integers(0, classes, 300)
        got = vision.batched_nms(b, s, lampion.tensor(idxs), 0.3)
        assert got.tolist() == greedy(boxes, scores, 0.3, idxs)


def test_thresholds_are_compared_as_float64():
    """Boxes of a ratio of 3/10, which in float32 is more than the number 0.3, in float64 not."""
    boxes = lampion.tensor([[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 3.0, 1.0]])
    scores = lampion.tensor([1.0, 0.5])
    assert float(np.float32(0.3)) > 0.3
    assert vision.nms(boxes, scores, 0.3).tolist() == [0]
    assert vision.nms(boxes, scores, float(np.float32(0.3))).tolist() == [0, 1]
    assert vision.nms(boxes.double(), scores, 0.3).tolist() == [0, 1]


def test_nms_records_nothing_and_runs_example_by_example():
    boxes = lampion.tensor([[[0.0, 0, 2, 2], [0, 0, 2, 2]], [[1.0, 1, 2, 2], [1, 1, 2, 2]]])
    scores = lampion.tensor([[1.0, 2.0], [2.0, 1.0]], requires_grad=True)
    assert not vision.nms(boxes[0], scores[0], 0.5).requires_grad
    assert vmap(lambda b, s: vision.nms(b, s, 0.5))(boxes, scores.detach()).tolist() == [[1], [0]]


# ---------------------------------------------------------------- regions

def plane(device, dtype=lampion.float32, height=12, width=14):
    """An image whose value at (y, x) is 3 y - 2 x + 1: interpolation gives it exactly."""
    y = lampion.arange(height, dtype=dtype, device=device)[:, None]
    return (3 * y - 2 * lampion.arange(width, dtype=dtype, device=device) + 1)[None, None]


@pytest.mark.parametrize("ratio", [-1, 1, 3])
def test_the_average_of_a_plane_is_its_value_in_the_centre(device, ratio):
    x1, y1, x2, y2 = 2.25, 1.5, 9.75, 8.5
    box = lampion.tensor([[x1, y1, x2, y2]], device=device)
    got = host(vision.roi_align(plane(device), [box], (2, 3), 1.0, ratio, True))[0, 0]
    y = y1 - 0.5 + (y2 - y1) * (np.arange(2) + 0.5) / 2
    x = x1 - 0.5 + (x2 - x1) * (np.arange(3) + 0.5) / 3
    np.testing.assert_allclose(got, 3 * y[:, None] - 2 * x + 1, rtol=1e-5)


def test_regions_of_several_images_without_boxes_and_outside(device):
    x = lampion.arange(3.0, device=device).reshape(3, 1, 1, 1).expand(3, 2, 5, 5)
    boxes = [lampion.ones(n, 4, device=device) * lampion.tensor([1.0, 1, 3, 3], device=device)
             for n in (2, 0, 1)]
    for op in (vision.roi_align, vision.roi_pool):
        assert host(op(x, boxes, 2))[:, 0, 0, 0].tolist() == [0, 0, 2]
        assert op(x, [boxes[1]] * 3, 2).shape == (0, 2, 2, 2)
        assert op(x[:, :0], boxes, 2).shape == (3, 0, 2, 2)
        assert op(x[:0], lampion.zeros(0, 5, device=device), (1, 2)).shape == (0, 2, 1, 2)
        far = lampion.tensor([[2.0, 90, 90, 99, 99]], device=device)
        assert host(op(x, far, 1)).ravel().tolist() == [0, 0]


@pytest.mark.parametrize("op", [vision.roi_align, vision.roi_pool])
def test_an_image_that_there_is_not_is_an_error(device, op):
    boxes = lampion.tensor([[0.0, 1, 1, 2, 2], [2, 1, 1, 2, 2]], device=device)
    with pytest.raises(IndexError, match=f"^{op.__name__}: .* image 2, but there are 2"):
        op(lampion.ones(2, 1, 4, 4, device=device), boxes, 2)
    with pytest.raises(IndexError):
        op(lampion.ones(0, 1, 4, 4, device=device), boxes, 2)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda x, b: vision.roi_align(x, b[:, 1:], 2), ValueError, r"Tensor\[K, 5\].*\[1, 4\]"),
    (lambda x, b: vision.roi_pool(x, [b], 2), ValueError, r"number 0 is of shape \[1, 5\]"),
    (lambda x, b: vision.roi_align(x, [b[:, 1:]] * 3, 2), ValueError, "3 images for a batch of 2"),
    (lambda x, b: vision.roi_align(x[0], b, 2), RuntimeError, r"\(N, C, H, W\).*\[4, 6, 6\]"),
    (lambda x, b: vision.roi_align(x.double(), b, 2), RuntimeError, "one dtype.*float64"),
    (lambda x, b: vision.roi_align(x, b, (2, 0)), ValueError, "output_size"),
    (lambda x, b: vision.ps_roi_align(x, b, 3), RuntimeError, "4 channels for bins of 3 x 3"),
    (lambda x, b: vision.roi_align(x, b + LONG, 2), RuntimeError, "inf pixels.*finite"),
    (lambda x, b: vision.roi_align(x, b, 2, 1e9), RuntimeError, "finite.*spatial_scale"),
])
def test_errors_of_regions(call, error, words):
    with pytest.raises(error, match=words):
        call(lampion.ones(2, 4, 6, 6), lampion.tensor([[1.0, 1, 1, 5, 5]]))


def test_a_box_of_nan_gives_nan_and_spoils_no_other(device):
    boxes = lampion.tensor([[0, np.nan, 1, 5, 5], [0, 1.0, 1, 5, 5]], device=device)
    for ratio in (-1, 2):
        out = host(vision.roi_align(plane(device), boxes, 2, 1.0, ratio, True))
        assert np.isnan(out[0]).all() and np.isfinite(out[1]).all()


def test_pixels_outside_boxes_do_not_matter(device):
    x = plane(device).clone()
    x[0, 0, 0, 0] = np.nan
    box = lampion.tensor([[0.0, 6.2, 6.1, 11, 10.7]], device=device)
    assert np.isfinite(host(vision.roi_align(x, box, 3))).all()
    assert np.isfinite(host(vision.roi_pool(x, box, 3))).all()


def test_gradients_of_regions():
    rng = np.random.default_rng(0)
    x = lampion.tensor(rng.random((2, 4, 4, 3)), requires_grad=True)
    boxes = lampion.tensor([[0, 0.4, 0.3, 2.6, 3.1], [1, -2, 1, 9, 3.3]], dtype=F64,
                           requires_grad=True)
    for op in (vision.roi_align, vision.roi_pool, vision.ps_roi_align, vision.ps_roi_pool):
        assert gradcheck(lambda x, op=op: op(x, boxes, 2), (x,))
        assert gradgradcheck(lambda x, op=op: op(x, boxes, 2) ** 2, (x,))
        op(x, boxes, 2).sum().backward()
    assert boxes.grad is None and x.grad is not None


def test_forward_mode_and_vmap():
    rng = np.random.default_rng(1)
    x, t = (lampion.tensor(rng.random((2, 4, 5, 6))) for _ in range(2))
    boxes = [lampion.tensor([[0.4, 0.3, 3.6, 4.1]], dtype=F64)] * 2

    def pool(x):
        return vision.roi_align(x, boxes, 2, sampling_ratio=2)

    np.testing.assert_allclose(host(jvp(pool, (x,), (t,))[1]), host(pool(t)), rtol=1e-12)
    many = lampion.stack([x, t])
    np.testing.assert_allclose(host(vmap(pool)(many)), np.stack([host(pool(x)), host(pool(t))]))


# ---------------------------------------------------------------- deformable convolution

def test_without_offsets_it_is_a_convolution(device):
    rng = np.random.default_rng(2)
    x, w, b = (lampion.tensor(rng.standard_normal(s).astype(np.float32), device=device)
               for s in ((2, 4, 6, 7), (6, 2, 3, 2), (6,)))
    want = nn.functional.conv2d(x, w, b, (1, 2), (1, 0), (2, 1), 2)
    still = lampion.zeros(2, 2 * 2 * 6, *want.shape[2:], device=device)
    got = vision.deform_conv2d(x, still, w, b, (1, 2), (1, 0), (2, 1))
    np.testing.assert_allclose(host(got), host(want), rtol=1e-4, atol=1e-5)
    masked = vision.deform_conv2d(x, still, w, b, (1, 2), (1, 0), (2, 1), still[:, :12] + 0.5)
    want = (want - b[:, None, None]) * 0.5 + b[:, None, None]
    np.testing.assert_allclose(host(masked), host(want), rtol=1e-4, atol=1e-5)


def test_offsets_move_what_is_read(device):
    x = plane(device)
    offset = lampion.ones(1, 2, 12, 14, device=device) * lampion.tensor(
        [1.5, -0.5], device=device).reshape(1, 2, 1, 1)
    got = host(vision.deform_conv2d(x, offset, lampion.ones(1, 1, 1, 1, device=device)))
    want = host(x)[0, 0] + 3 * 1.5 + 2 * 0.5
    np.testing.assert_allclose(got[0, 0, :-2, 1:], want[:-2, 1:], rtol=1e-5)
    assert (got[0, 0, -1] == 0).all()  # 1.5 rows below: outside


def test_gradients_of_every_tensor_to_order_2():
    rng = np.random.default_rng(4)
    args = [lampion.tensor(rng.standard_normal(s), requires_grad=True) for s in (
        (1, 2, 4, 4), (1, 16, 3, 3), (2, 2, 2, 2), (2,), (1, 8, 3, 3))]

    def call(x, offset, w, b, mask):
        return vision.deform_conv2d(x, offset, w, b, mask=mask)

    assert gradcheck(call, args)
    assert gradgradcheck(lambda x, offset, w: vision.deform_conv2d(x, offset, w), args[:3])


def test_an_offset_of_nan_is_seen_where_it_is_used():
    offset = lampion.zeros(1, 2, 3, 3)
    offset[0, 0, 1, 1] = np.nan
    out = host(vision.deform_conv2d(lampion.ones(1, 1, 3, 3), offset, lampion.ones(1, 1, 1, 1)))
    assert np.isnan(out).sum() == 1 and np.isnan(out[0, 0, 1, 1])


@pytest.mark.parametrize(("shapes", "words"), [
    (((1, 2, 4, 4), (1, 7, 3, 3), (2, 2, 2, 2)), "offset tensor at dimension 1.*= 8"),
    (((1, 2, 4, 4), (1, 8, 4, 3), (2, 2, 2, 2)), r"offset of shape \[1, 8, 3, 3\], got"),
    (((1, 3, 4, 4), (1, 8, 3, 3), (2, 2, 2, 2)), "3 channels"),
    (((1, 2, 1, 1), (1, 8, 1, 1), (2, 2, 2, 2)), "too small"),
    (((2, 4, 4), (1, 8, 3, 3), (2, 2, 2, 2)), "4 dims"),
])
def test_errors_of_deform_conv2d(shapes, words):
    with pytest.raises(RuntimeError, match=words):
        vision.deform_conv2d(*map(lampion.zeros, shapes))


# ---------------------------------------------------------------- losses, resizing, layers

def test_focal_loss_without_focus_is_cross_entropy(device):
    rng = np.random.default_rng(5)
    x = lampion.tensor(rng.standard_normal(50).astype(np.float32) * 4, device=device)
    t = (x > 1).float()
    got = vision.sigmoid_focal_loss(x, t, alpha=-1, gamma=0)
    want = nn.functional.binary_cross_entropy_with_logits(x, t, reduction="none")
    np.testing.assert_allclose(host(got), host(want), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_the_slopes_of_sure_predictions_are_finite(gamma):
    x = lampion.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
    t = lampion.tensor([1.0, 0.0, 0.0, 1.0])
    loss = vision.sigmoid_focal_loss(x, t, gamma=gamma)
    loss.sum().backward()
    assert np.isfinite(host(loss)).all() and np.isfinite(host(x.grad)).all()
    assert host(loss)[:2].tolist() == [0, 0] and (host(x.grad)[2:] != 0).all()


def test_resize_keeps_proportions_and_what_fits():
    x = lampion.rand(3, 20, 30)
    assert vision.resize(x, 10).shape == (3, 10, 15)
    assert vision.resize(x.mT, [10]).shape == (3, 15, 10)
    assert vision.resize(x, 10, max_size=12).shape == (3, 8, 12)
    assert vision.resize(x, (20, 30)) is x
    flat = lampion.full((1, 4, 4), 7, dtype=lampion.uint8)
    assert vision.resize(flat, 9, "bicubic").unique().tolist() == [7]


def test_layers():
    x, boxes = lampion.rand(1, 8, 6, 6), [lampion.tensor([[1.0, 1, 4, 5]])]
    for layer, op, args in ((vision.RoIAlign, vision.roi_align, (2, 0.5, 2, True)),
                            (vision.RoIPool, vision.roi_pool, (2, 0.5)),
                            (vision.PSRoIAlign, vision.ps_roi_align, (2, 0.5, 2)),
                            (vision.PSRoIPool, vision.ps_roi_pool, (2, 0.5))):
        assert lampion.equal(layer(*args)(x, boxes), op(x, boxes, *args))
    assert repr(vision.RoIAlign(7, 0.25, 2)) == (
        "RoIAlign(output_size=7, spatial_scale=0.25, sampling_ratio=2, aligned=False)")
    conv = vision.DeformConv2d(8, 4, 3, padding=1, groups=2)
    offset = lampion.zeros(1, 18, 6, 6)
    want = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1, groups=2)
    np.testing.assert_allclose(host(conv(x, offset)), host(want), rtol=1e-4, atol=1e-5)
    assert set(conv.state_dict()) == {"weight", "bias"}
    with pytest.raises(ValueError, match="in_channels must be divisible by groups"):
        vision.DeformConv2d(3, 4, 3, groups=2)
