"""Boxes: conversions, areas, clipping, and overlaps of two sets.

The overlaps are elementwise ops over coordinates that broadcast, (N, 1) against (M,): one kernel
without intermediate results, whose gradient is derived. Imports lampion's op registry.
"""

from __future__ import annotations

import math

import lampion
from lampion.ir.expr import atan, maximum, minimum, select
from lampion.ops.registry import Scalar

from . import references as ref
from .declare import composite, elementwise
from .rotated import rotated_ratio

FORMATS = ("xyxy", "xywh", "cxcywh", "xywhr", "cxcywhr", "xyxyxyxy")
UPRIGHT = FORMATS[:3]
_SMALL = {lampion.float16: lampion.float32, lampion.bfloat16: lampion.float32,
          lampion.int8: lampion.int32, lampion.int16: lampion.int32, lampion.uint8: lampion.int32,
          lampion.bool: lampion.int32}

# Samples: first boxes with corners in [0, 1] and [2, 3], second ones that overlap them in part.
FIRST = "f(3, 4, low=[0, 0, 2, 2], high=[1, 1, 3, 3])"
SECOND = "f(2, 4, low=[1.2, 1.2, 3.2, 3.2], high=[1.8, 1.8, 4, 4])"
TURNED = "f(3, 5, low=[0, 0, 2, 2, -50], high=[1, 1, 4, 3, 50]).fixed"
PAIRS = f"""
    {FIRST}, {SECOND}
    {FIRST}, f(2, 4, low=[1.2, 0.3, 1.8, 4], high=[1.4, 0.6, 1.9, 5]).transposed
    f(2, 3, 4, low=[0, 0, 2, 2], high=[1, 1, 3, 3]), {SECOND}
    f(0, 4), {SECOND}
    v([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 7]]), v([[0.0, 0, 2, 2], [2, 0, 4, 2], [0, 0, 1, 9]])
    v([[0.0, nan, 2, 2]]), v([[0.0, 0, 2, 2]])
"""


def last(op, boxes, size=4):
    """ValueError unless the last dim holds `size` coordinates."""
    if boxes.ndim < 1 or boxes.shape[-1] != size:
        raise ValueError(f"{op}: boxes have {size} coordinates in their last dim; got a tensor of "
                         f"shape {list(boxes.shape)}")


def stacked(*columns):
    return lampion.stack(columns, -1)


def _to_corners(a, b, w, h, fmt):
    """(x1, y1, x2, y2) of an upright format, of tensors or of expressions."""
    if fmt == "xyxy":
        return a, b, w, h
    if fmt == "xywh":
        return a, b, a + w, b + h
    return a - w * 0.5, b - h * 0.5, a + w * 0.5, b + h * 0.5


# ---------------------------------------------------------------- conversions

def _from_corners(x1, y1, x2, y2, fmt):
    if fmt == "xyxy":
        return x1, y1, x2, y2
    if fmt == "xywh":
        return x1, y1, x2 - x1, y2 - y1
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def _to_rotated(columns, fmt):
    """(x1, y1, w, h, r) of a rotated format; r in degrees, counter-clockwise."""
    if fmt == "xyxyxyxy":
        x1, y1, x2, y2, x3, y3, _, _ = columns
        return (x1, y1, ((x2 - x1) ** 2 + (y1 - y2) ** 2).sqrt(),
                ((x3 - x2) ** 2 + (y3 - y2) ** 2).sqrt(),
                lampion.atan2(y1 - y2, x2 - x1) * (180 / math.pi))
    x, y, w, h, r = columns
    if fmt == "cxcywhr":
        cos, sin = _turn(r)
        x, y = x - w / 2 * cos - h / 2 * sin, y - h / 2 * cos + w / 2 * sin
    return x, y, w, h, r


def _from_rotated(x, y, w, h, r, fmt):
    if fmt == "xywhr":
        return x, y, w, h, r
    cos, sin = _turn(r)
    if fmt == "cxcywhr":
        return x + w / 2 * cos + h / 2 * sin, y - w / 2 * sin + h / 2 * cos, w, h, r
    x2, y2 = x + w * cos, y - w * sin
    return x, y, x2, y2, x2 + h * sin, y2 + h * cos, x + h * sin, y + h * cos


def _turn(r):
    a = r * (math.pi / 180)
    return a.cos(), a.sin()


@composite(replay=True, reference=ref.box_convert, samples=f"""
    {FIRST}, "xyxy", "xywh"
    {FIRST}, "xyxy", "cxcywh"
    f(2, 3, 4).transposed, "cxcywh", "xyxy"
    f(0, 4), "xywh", "cxcywh"
    f(3, 4), "xywh", "xywh"
    i(2, 4, low=0, high=9), "xywh", "xyxy"
    f(3, 5, low=[0, 0, 1, 1, -40], high=[1, 1, 3, 3, 40]), "cxcywhr", "xyxyxyxy"
    f(3, 5, low=[0, 0, 1, 1, -40], high=[1, 1, 3, 3, 40]), "xywhr", "cxcywhr"
    f(2, 8, low=[0, 0, 3, 0, 3, 3, 0, 3], high=[1, 1, 4, 1, 4, 4, 1, 4]), "xyxyxyxy", "xywhr"
""")
def box_convert(boxes, in_fmt, out_fmt):
    """Boxes (..., K) in another format; a new tensor.

    Formats: "xyxy", "xywh", "cxcywh" (K = 4), and of rotated boxes "xywhr", "cxcywhr" (K = 5) and
    "xyxyxyxy" (K = 8, corners from top left clockwise); r is in degrees, counter-clockwise.
    ValueError for another format or K; between upright and rotated there is no conversion.

    >>> box_convert(lampion.tensor([[1., 2., 5., 4.]]), "xyxy", "cxcywh").tolist()
    [[3.0, 3.0, 4.0, 2.0]]
    """
    if in_fmt not in FORMATS or out_fmt not in FORMATS:
        raise ValueError(f"box_convert: Unsupported Bounding Box Conversions for given in_fmt "
                         f"{in_fmt} and out_fmt {out_fmt}; there are {', '.join(FORMATS)}")
    last("box_convert", boxes, 4 if in_fmt in UPRIGHT else 8 if in_fmt == "xyxyxyxy" else 5)
    if in_fmt == out_fmt:
        return boxes.clone()
    if (in_fmt in UPRIGHT) != (out_fmt in UPRIGHT):
        raise NotImplementedError(f"box_convert: Unsupported Bounding Box Conversions for given "
                                  f"in_fmt {in_fmt} and out_fmt {out_fmt}: one is of upright and "
                                  "one of rotated boxes")
    columns = boxes.unbind(-1)
    if in_fmt in UPRIGHT:
        return stacked(*_from_corners(*_to_corners(*columns, in_fmt), out_fmt))
    made = stacked(*_from_rotated(*_to_rotated(columns, in_fmt), out_fmt))
    return made if boxes.is_floating_point() else made.round().to(boxes.dtype)


def wide(boxes):
    """Boxes in at least 32 bits, so that products of sides do not overflow."""
    small = _SMALL.get(boxes.dtype)
    return boxes if small is None else boxes.to(small)


@composite(replay=True, reference=ref.box_area, samples=f"""
    {FIRST}
    f(2, 3, 4).transposed
    f(3, 4), "cxcywh"
    f(0, 4), "xywh"
    i(3, 4, low=0, high=100)
""")
def box_area(boxes, fmt="xyxy"):
    """Areas of boxes (..., 4): "xyxy", "xywh" or "cxcywh".

    16-bit floats give float32, small integers int32. ValueError for another format.

    >>> box_area(lampion.tensor([[1., 2., 5., 4.]])).tolist()
    [8.0]
    """
    if fmt not in UPRIGHT:
        raise ValueError(f"box_area: Unsupported Bounding Box area for given format {fmt}; there "
                         f"are {', '.join(UPRIGHT)}")
    last("box_area", boxes)
    a, b, c, d = wide(boxes).unbind(-1)
    return (c - a) * (d - b) if fmt == "xyxy" else c * d


# ---------------------------------------------------------------- overlaps of two sets

def positive(x):
    """max(x, 0), with NaN as NaN and the slope 1 at 0, as clamp has it."""
    return select(x < 0, 0.0, x)


def overlap(a, b):
    """(intersection, union) of two boxes of coordinate expressions."""
    w = positive(minimum(a[2], b[2]) - maximum(a[0], b[0]))
    h = positive(minimum(a[3], b[3]) - maximum(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return w * h, areas - w * h


def hull(a, b):
    """Width and height of the smallest box around two."""
    return maximum(a[2], b[2]) - minimum(a[0], b[0]), maximum(a[3], b[3]) - minimum(a[1], b[1])


def distance(a, b):
    """Squared distance of the centres of two boxes."""
    dx, dy = (a[0] + a[2] - b[0] - b[2]) * 0.5, (a[1] + a[3] - b[1] - b[3]) * 0.5
    return dx * dx + dy * dy


def aspect(a, b):
    """The difference of two boxes' aspect ratios as an angle, squared: (2/pi)^2 (u - v)^2."""
    turn = atan((a[2] - a[0]) / (a[3] - a[1])) - atan((b[2] - b[0]) / (b[3] - b[1]))
    return turn * turn * (4 / math.pi ** 2)


def _ratio(d, attrs):
    return [lampion.float32 if d.kind != "f" or d.itemsize == 2 else d]


# Coordinates a of the first box and b of the second, for tests with the second inside the first's
# lower right.
COORDINATES = {"promote": _ratio, "kinds": "buif", "domain": {
    "ax1": (0, 1), "ay1": (0, 1), "ax2": (2, 3), "ay2": (2, 3),
    "bx1": (1.2, 1.8), "by1": (1.2, 1.8), "bx2": (3.2, 4), "by2": (3.2, 4)}}


@elementwise(**COORDINATES, reference=ref.overlap_ratio)
def overlap_ratio(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    """Intersection over union of two boxes given by their coordinates, which broadcast."""
    inter, union = overlap((ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2))
    return inter / union


@elementwise(**COORDINATES, reference=ref.hull_ratio)
def hull_ratio(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    """Generalized intersection over union of two boxes (Rezatofighi et al., 2019): minus the part
    of the smallest box around both that is in neither."""
    a, b = (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2)
    inter, union = overlap(a, b)
    w, h = hull(a, b)
    around = positive(w) * positive(h)
    return inter / union - (around - union) / around


@elementwise(**COORDINATES, reference=ref.distance_ratio)
def distance_ratio(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, eps: Scalar = 1e-7):
    """Distance intersection over union of two boxes (Zheng et al., 2020): minus the squared
    distance of the centres over the squared diagonal of the smallest box around both."""
    a, b = (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2)
    inter, union = overlap(a, b)
    w, h = map(positive, hull(a, b))
    return inter / union - distance(a, b) / (w * w + h * h + eps)


@elementwise(**COORDINATES, reference=ref.aspect_penalty)
def aspect_penalty(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    """How much the aspect ratios of two boxes differ: (4 / pi^2) (atan(w/h) - atan(w'/h'))^2."""
    return aspect((ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2))


def pairs(op, boxes1, boxes2, size=4):
    """The coordinates of (..., N, 4) and (..., M, 4), so that they broadcast to (..., N, M)."""
    last(op, boxes1, size)
    last(op, boxes2, size)
    if boxes1.ndim < 2 or boxes2.ndim < 2:
        raise ValueError(f"{op}: expected boxes of shapes (..., N, {size}) and (..., M, {size}), "
                         f"got {list(boxes1.shape)} and {list(boxes2.shape)}; a single box is "
                         "boxes[None]")
    return *wide(boxes1).unsqueeze(-2).unbind(-1), *wide(boxes2).unsqueeze(-3).unbind(-1)


@composite(replay=True, reference=ref.box_iou, samples=PAIRS + f"""
    {FIRST}, {SECOND}, "xywh"
    {FIRST}, {SECOND}, fmt="cxcywh"
    i(3, 4, low=0, high=9), i(2, 4, low=0, high=9), "xywh"
    {TURNED}, {TURNED.replace("3, 5", "2, 5")}, "cxcywhr"
    {TURNED}, {TURNED.replace("3, 5", "2, 5")}, "xywhr"
    v([[1.0, 2, 3, 2, 30], [1, 2, 3, 2, 30], [0, 0, 2, 2, 45], [0, 0, 0, 0, 0]]), (
        v([[1.0, 2, 3, 2, 30], [1, 2, 3, 2, 210], [0, 0, 2, 2, 0], [9, 9, 1, 1, 3]])), "cxcywhr"
""")
def box_iou(boxes1, boxes2, fmt="xyxy"):
    """Intersection over union of every box of (..., N, K) with every one of (..., M, K), as
    (..., N, M). Any of the formats of `box_convert`; rotated boxes have gradients as well.

    >>> box_iou(lampion.tensor([[0., 0., 2., 2.]]), lampion.tensor([[1., 0., 3., 2.]])).tolist()
    [[0.3333333432674408]]
    """
    if fmt not in FORMATS:
        raise ValueError(f"box_iou: Unsupported format '{fmt}'; there are {', '.join(FORMATS)}")
    if fmt not in UPRIGHT:
        found = [wide(b) if b.is_floating_point() else b.to(lampion.float32)
                 for b in (boxes1, boxes2)]
        return rotated_ratio(*pairs("box_iou", *[box_convert(b, fmt, "cxcywhr") for b in found], 5))
    c = pairs("box_iou", boxes1, boxes2)
    return overlap_ratio(*_to_corners(*c[:4], fmt), *_to_corners(*c[4:], fmt))


@composite(replay=True, reference=ref.generalized_box_iou, samples=PAIRS)
def generalized_box_iou(boxes1, boxes2):
    """Generalized intersection over union of all pairs of "xyxy" boxes: (..., N, 4) and
    (..., M, 4) give (..., N, M)."""
    return hull_ratio(*pairs("generalized_box_iou", boxes1, boxes2))


@composite(replay=True, reference=ref.distance_box_iou, samples=PAIRS)
def distance_box_iou(boxes1, boxes2, eps=1e-7):
    """Distance intersection over union of all pairs of "xyxy" boxes: (..., N, 4) and (..., M, 4)
    give (..., N, M). `eps` is added to the squared diagonal."""
    return distance_ratio(*pairs("distance_box_iou", boxes1, boxes2), eps)


# The weight of the aspect ratios is a constant of the gradient, so differences are no test of it,
# except where a large eps makes it vanish.
@composite(replay=True, reference=ref.complete_box_iou, samples=f"""
    {FIRST}.fixed, {SECOND}.fixed
    {FIRST}, {SECOND}, eps=1e12
    f(0, 4).fixed, f(2, 4).fixed
""")
def complete_box_iou(boxes1, boxes2, eps=1e-7):
    """Complete intersection over union of all pairs of "xyxy" boxes (Zheng et al., 2020), as
    (..., N, M): distance_box_iou minus alpha v, v telling how the aspect ratios differ.

    alpha = v / (1 - iou + v + eps) is a constant of the gradient.
    """
    c = pairs("complete_box_iou", boxes1, boxes2)
    return distance_ratio(*c, eps) - aspect_term(c, overlap_ratio(*c), eps)


def aspect_term(coordinates, iou, eps):
    """alpha v of complete_box_iou."""
    v = aspect_penalty(*coordinates)
    fixed = v.detach()
    return v * (fixed / (1 - iou.detach() + fixed + eps))


# ---------------------------------------------------------------- other functions

@composite(replay=True, reference=ref.clip_boxes_to_image, samples=f"""
    {FIRST}, (2, 1.5)
    f(2, 3, 4, low=-4, high=4), (2, 3)
    f(4).transposed, (1, 1)
    f(0, 4), (5, 5)
    i(3, 4, low=-5, high=9), (4, 3)
    v([[nan, -1.0, inf, 7]]), (4, 3)
""")
def clip_boxes_to_image(boxes, size):
    """"xyxy" boxes (..., 4) with their coordinates clipped to an image of `size` (height, width).

    >>> clip_boxes_to_image(lampion.tensor([[-1., 1., 7., 3.]]), (2, 5)).tolist()
    [[0.0, 1.0, 5.0, 2.0]]
    """
    last("clip_boxes_to_image", boxes)
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return stacked(x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width),
                   y2.clamp(0, height))


@composite(differentiable=False, one_by_one=True, reference=ref.remove_small_boxes, samples="""
    v([[0.0, 0, 2, 2], [0, 0, 1, 2], [1, 1, 4, 2.5], [0, 0, 1.5, 1.5], [nan, 0, 9, 9]]), 1.5
    f(0, 4), 1.0
    i(6, 4, low=0, high=9), 3
""")
def remove_small_boxes(boxes, min_size):
    """The indices (int64) of the "xyxy" boxes (N, 4) whose sides are both at least `min_size`."""
    last("remove_small_boxes", boxes)
    x1, y1, x2, y2 = boxes.detach().unbind(-1)
    return lampion.where((x2 - x1 >= min_size) & (y2 - y1 >= min_size))[0]


@composite(replay=True, differentiable=False, reference=ref.masks_to_boxes, samples="""
    b(3, 5, 4)
    f(2, 4, 6).transposed
    v([[[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 3, 0]]])
    f(0, 3, 3)
    b(2, 0, 3)
""")
def masks_to_boxes(masks):
    """The "xyxy" boxes (N, 4), float32, around the elements of masks (N, H, W) that are not 0;
    zeros for an empty mask. A box goes from the first to the last element, both inside.

    >>> masks_to_boxes(lampion.tensor([[[0, 1, 1], [0, 0, 1]]])).tolist()
    [[1.0, 0.0, 2.0, 1.0]]
    """
    if masks.ndim != 3:
        raise ValueError("masks_to_boxes: expected masks of shape (N, H, W), got "
                         f"{list(masks.shape)}; one mask is masks[None]")
    if masks.numel() == 0:
        return lampion.zeros(0, 4, device=masks.device)
    inside = masks.detach() != 0
    spans = [_span(inside.any(dim)) for dim in (1, 2)]
    (x1, x2), (y1, y2) = spans
    boxes = stacked(x1, y1, x2, y2).to(lampion.float32)
    return boxes * inside.any(2).any(1).unsqueeze(-1)


def _span(hit):
    """The first and the last True of rows (N, L)."""
    at = lampion.arange(hit.shape[1], device=hit.device)
    return (lampion.where(hit, at, hit.shape[1]).amin(1), lampion.where(hit, at, -1).amax(1))
