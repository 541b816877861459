"""Ops of detection and segmentation for lampion: boxes, suppression, regions, losses.

    import lampion_vision as vision
    keep = vision.nms(boxes, scores, 0.5)          # or lampion.ops.vision.nms, without an import

Names, arguments and defaults are those of `torchvision.ops`. Every op is declared once and runs on
every device, with its gradients. Imports lampion's public modules.
"""

from __future__ import annotations

from typing import Any

from lampion import ops

from . import boxes, deformable, losses, regions, resizing, rotated, suppression, taps

_LAYERS = ("DeformConv2d", "PSRoIAlign", "PSRoIPool", "RoIAlign", "RoIPool")
__all__ = [
    "batched_nms", "box_area", "box_convert", "box_iou", "clip_boxes_to_image", "complete_box_iou",
    "complete_box_iou_loss", "deform_conv2d", "distance_box_iou", "distance_box_iou_loss",
    "generalized_box_iou", "generalized_box_iou_loss", "masks_to_boxes", "nms", "ps_roi_align",
    "ps_roi_pool", "remove_small_boxes", "resize", "resized_crop", "roi_align", "roi_pool",
    "sigmoid_focal_loss", *_LAYERS]


def __getattr__(name: str) -> Any:
    """Functions when they are first asked for, and layers, which import lampion.nn."""
    if name in _LAYERS:
        from . import layers

        found = getattr(layers, name)
    elif name in __all__:
        found = getattr(ops.vision, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def lampion_ops(registry: Any) -> None:
    """The hook of the plug-in: importing this module has declared the ops."""
