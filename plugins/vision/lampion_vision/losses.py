"""Losses of detection: focal loss, and losses of boxes from their overlap.

One elementwise op each, with its gradient derived, and the reduction. Imports boxes.
"""

from __future__ import annotations

from lampion.ir.expr import exp, log1p, maximum, select
from lampion.ops.registry import Scalar

from . import references as ref
from .boxes import COORDINATES, aspect, distance, hull, last, overlap
from .declare import composite, elementwise


def reduced(op, loss, reduction):
    """The loss as `reduction` says; ValueError for another word."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    raise ValueError(f"{op}: Invalid Value for arg 'reduction': '{reduction}'; supported are "
                     "'none', 'mean', 'sum'")


# ---------------------------------------------------------------- focal loss

@elementwise(kinds="f", reference=ref.focal, domain={
    "targets": (0, 1), "gamma": (1.5, 3), "positive": (0.1, 1), "negative": (0.1, 1)})
def focal(inputs, targets, gamma: Scalar, positive: Scalar, negative: Scalar):
    """Cross entropy of sigmoid(inputs) and targets, times (1 - p_t)^gamma and a weight for
    positive and one for negative targets (Lin et al., 2017)."""
    x, t = inputs, targets
    e = exp(select(x >= 0, -x, x))  # at most 1, so that nothing overflows, slopes neither
    entropy = select(x >= 0, x, 0.0) - x * t + log1p(e)
    p = select(x >= 0, 1 / (1 + e), e / (1 + e))
    q = select(x >= 0, e / (1 + e), 1 / (1 + e))
    wrong = maximum(p * (1 - t) + q * t, 1e-12)  # 1 - p_t; powers of 0 have no slope
    return entropy * wrong ** gamma * (positive * t + negative * (1 - t))


@composite(replay=True, reference=ref.sigmoid_focal_loss, samples="""
    f(3, 4), f(3, 4, low=0, high=1)
    f(5).strided, v([0.0, 1, 1, 0, 0.5]), 0.7, 1.5
    f(2, 3), f(2, 3, low=0, high=1), alpha=-1, reduction="mean"
    f(4), f(4, low=0, high=1), gamma=0, reduction="sum"
    v([-200.0, 200, 0, nan]), v([1.0, 1, 0, 1])
    f(0, 3), f(0, 3)
""")
def sigmoid_focal_loss(inputs, targets, alpha=0.25, gamma=2, reduction="none"):
    """Focal loss of logits against targets in [0, 1] of the same shape.

    `alpha` weighs positive against negative targets (-1: not), `gamma` makes examples that are
    right count less; "mean" and "sum" reduce. ValueError for another alpha or reduction.

    >>> sigmoid_focal_loss(lampion.tensor([0.0]), lampion.tensor([1.0])).tolist()
    [0.043321698904037476]
    """
    if not 0 <= alpha <= 1 and alpha != -1:
        raise ValueError(f"sigmoid_focal_loss: Invalid alpha value: {alpha}. alpha must be in the "
                         "range [0,1] or -1 for ignore.")
    if inputs.shape != targets.shape:
        raise ValueError(f"sigmoid_focal_loss: Target size ({list(targets.shape)}) must be the "
                         f"same as input size ({list(inputs.shape)})")
    weights = (1.0, 1.0) if alpha < 0 else (float(alpha), 1.0 - alpha)
    return reduced("sigmoid_focal_loss", focal(inputs, targets, float(gamma), *weights), reduction)


# ---------------------------------------------------------------- boxes

def inside(a, b, eps):
    """(intersection over union with eps below the line, union)."""
    inter, union = overlap(a, b)
    return inter / (union + eps), union


@elementwise(**COORDINATES, reference=ref.hull_loss)
def hull_loss(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, eps: Scalar = 1e-7):
    """1 - generalized intersection over union of two boxes."""
    a, b = (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2)
    iou, union = inside(a, b, eps)
    w, h = hull(a, b)
    return 1 - iou + (w * h - union) / (w * h + eps)


@elementwise(**COORDINATES, reference=ref.distance_loss)
def distance_loss(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, eps: Scalar = 1e-7):
    """1 - distance intersection over union of two boxes."""
    a, b = (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2)
    w, h = hull(a, b)
    return 1 - inside(a, b, eps)[0] + distance(a, b) / (w * w + h * h + eps)


@elementwise(**COORDINATES, reference=ref.aspect_weight)
def aspect_weight(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, eps: Scalar = 1e-7):
    """alpha = v / (1 - iou + v + eps), the weight of v in the complete loss."""
    a, b = (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2)
    v = aspect(a, b)
    return v / (1 - inside(a, b, 1e-7)[0] + v + eps)


@elementwise(**COORDINATES, reference=ref.complete_loss)
def complete_loss(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, alpha):
    """1 - distance intersection over union + alpha v of two boxes."""
    a, b = (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2)
    w, h = hull(a, b)
    apart = distance(a, b) / (w * w + h * h + 1e-7)
    return 1 - inside(a, b, 1e-7)[0] + apart + alpha * aspect(a, b)


def coordinates(op, boxes1, boxes2):
    """The coordinates of two tensors of boxes (..., 4) of one shape."""
    last(op, boxes1)
    if boxes1.shape != boxes2.shape:
        raise ValueError(f"{op}: the boxes are compared one by one, so that both tensors have one "
                         f"shape; got {list(boxes1.shape)} and {list(boxes2.shape)}")
    return *boxes1.unbind(-1), *boxes2.unbind(-1)


LEFT = "f(3, 4, low=[0, 0, 2, 2], high=[1, 1, 3, 3])"
RIGHT = "f(3, 4, low=[1.2, 1.2, 3.2, 3.2], high=[1.8, 1.8, 4, 4])"
APART = "f(3, 4, low=[3.2, 0, 5.2, 2], high=[3.8, 1, 6, 3])"
LOSSES = f"""
    {LEFT}, {RIGHT}
    {LEFT}, {APART}.transposed, "sum"
    {LEFT}, {APART}, reduction="mean", eps=0.01
    f(4, low=[0, 0, 2, 2], high=[1, 1, 3, 3]), f(4, low=[0, 0, 2, 2], high=[1, 1, 3, 3])
    v([[0.0, 0, 2, 2], [0, 0, 2, 2]]), v([[0.0, 0, 2, 2], [2, 2, 3, 3]])
    f(0, 4), f(0, 4), "sum"
"""


@composite(replay=True, reference=ref.generalized_box_iou_loss, samples=LOSSES)
def generalized_box_iou_loss(boxes1, boxes2, reduction="none", eps=1e-7):
    """1 - generalized intersection over union of "xyxy" boxes (..., 4), one by one
    (Rezatofighi et al., 2019); "mean" and "sum" reduce."""
    c = coordinates("generalized_box_iou_loss", boxes1, boxes2)
    return mean_of_none("generalized_box_iou_loss", hull_loss(*c, eps), reduction)


@composite(replay=True, reference=ref.distance_box_iou_loss, samples=LOSSES)
def distance_box_iou_loss(boxes1, boxes2, reduction="none", eps=1e-7):
    """1 - distance intersection over union of "xyxy" boxes (..., 4), one by one
    (Zheng et al., 2020); "mean" and "sum" reduce."""
    c = coordinates("distance_box_iou_loss", boxes1, boxes2)
    return mean_of_none("distance_box_iou_loss", distance_loss(*c, eps), reduction)


@composite(replay=True, reference=ref.complete_box_iou_loss, samples=f"""
    {LEFT}.fixed, {RIGHT}.fixed
    {LEFT}, {APART}, "sum", 1e12
    {LEFT}.fixed, {APART}.fixed, reduction="mean", eps=0.01
    f(0, 4).fixed, f(0, 4).fixed, "sum"
""")
def complete_box_iou_loss(boxes1, boxes2, reduction="none", eps=1e-7):
    """1 - complete intersection over union of "xyxy" boxes (..., 4), one by one (Zheng et al.,
    2020); "mean" and "sum" reduce. The weight of the aspect ratios is a constant of the
    gradient."""
    c = coordinates("complete_box_iou_loss", boxes1, boxes2)
    alpha = aspect_weight(*[x.detach() for x in c], eps)
    return mean_of_none("complete_box_iou_loss", complete_loss(*c, alpha), reduction)


def mean_of_none(op, loss, reduction):
    """`reduced`, where the mean of no boxes is 0."""
    return loss.sum() if reduction == "mean" and not loss.numel() else reduced(op, loss, reduction)
