"""Ops of plug-ins: a call beside one of a built-in op, and lampion-vision beside torchvision.

The first table declares built-in elementwise ops once more, as a plug-in would, and alternates
calls of both on 4 elements. The other needs torchvision, which nothing here installs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import Row, undisturbed, versus


def overhead(lampion: Any) -> list[Row]:
    """A plug-in's op against the built-in one of the same expression, recording or not."""
    from lampion.ops.registry import REGISTRY, elementwise, namespace

    def again(name: str) -> None:
        """Declare a built-in op once more: the same expression and the same gradient."""
        op = REGISTRY[name]
        made = elementwise(op.body, promote=op.promote, name=name, method=False,
                           tensors=[p.name for p in op.params if p.kind == "T"])
        if op.gradient is not None:
            made.grad(op.gradient)

    with namespace("benchmark"):
        for name in ("sigmoid", "expm1", "atan2"):
            again(name)
    rows = []
    for record in (False, True):
        a = lampion.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=record)
        b = lampion.tensor([0.5, 1.5, 2.5, 3.5])
        for name, args in (("sigmoid", (a,)), ("expm1", (a,)), ("atan2", (a, b))):
            ours = functools.partial(getattr(lampion.ops.benchmark, name), *args)
            theirs = functools.partial(getattr(lampion, name), *args)
            rows.append(versus(f"{name}{', recording' if record else ''}", ours, theirs, rounds=31,
                               clock=time.thread_time))
    return rows


def scenes(rng: np.random.Generator) -> dict[str, Any]:
    """What the functions of a detector work on: images, boxes, scores, offsets."""
    def boxes(n: int, span: float, longest: float) -> np.ndarray:
        corner, size = rng.random((n, 2)) * span, rng.random((n, 2)) * longest + 10
        return np.concatenate([corner, corner + size], 1).astype(np.float32)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    regions = np.concatenate([rng.integers(0, 2, (200, 1)), boxes(200, 500, 300)], 1)
    return {"features": normal(2, 64, 50, 64), "regions": regions.astype(np.float32),
            "maps": normal(2, 49 * 4, 50, 64),
            "crowd": boxes(1000, 300, 60), "sparse": boxes(1000, 3000, 60),
            "many": boxes(5000, 1000, 60), "scores": rng.random(5000).astype(np.float32),
            "classes": rng.integers(0, 20, 5000), "x": normal(2, 64, 32, 32),
            "offset": normal(2, 18, 32, 32), "weight": normal(64, 64, 3, 3),
            "mask": rng.random((2, 9, 32, 32)).astype(np.float32),
            "logits": normal(100, 1000), "hits": (rng.random((100, 1000)) < 0.1).astype(np.float32)}


def cases(m: Any, vision: Any, data: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The calls, for lampion and its library or torch and its."""
    d = {k: m.tensor(v) for k, v in data.items()}
    score = d["scores"]

    def trained(call: Callable[..., Any], *names: str) -> Callable[[], Any]:
        def run() -> None:
            leaves = [d[n].detach().requires_grad_() for n in names]
            call(*leaves).sum().backward()

        return run

    def pool(x: Any) -> Any:
        return vision.roi_align(x, d["regions"], 7, 1 / 16, 2, True)

    def deform(x: Any, offset: Any, weight: Any, mask: Any) -> Any:
        return vision.deform_conv2d(x, offset, weight, None, (1, 1), (1, 1), (1, 1), mask)

    def focal(logits: Any) -> Any:
        return vision.sigmoid_focal_loss(logits, d["hits"], reduction="mean")

    return {
        "nms, 1000 boxes, most overlap": lambda: vision.nms(d["crowd"], score[:1000], 0.5),
        "nms, 1000 boxes, few overlap": lambda: vision.nms(d["sparse"], score[:1000], 0.5),
        "nms, 5000 boxes": lambda: vision.nms(d["many"], score, 0.5),
        "batched_nms, 5000 boxes, 20 classes": lambda: vision.batched_nms(
            d["many"], score, d["classes"], 0.5),
        "box_iou, 1000 x 1000": lambda: vision.box_iou(d["crowd"], d["sparse"]),
        "generalized_box_iou, 1000 x 1000": lambda: vision.generalized_box_iou(
            d["crowd"], d["sparse"]),
        "roi_align, 200 regions": lambda: pool(d["features"]),
        "roi_align, adaptive": lambda: vision.roi_align(d["features"], d["regions"], 7, 1 / 16),
        "roi_align, with its gradient": trained(pool, "features"),
        "roi_pool": lambda: vision.roi_pool(d["features"], d["regions"], 7, 1 / 16),
        "ps_roi_align": lambda: vision.ps_roi_align(d["maps"], d["regions"], 7, 1 / 16, 2),
        "deform_conv2d": lambda: deform(d["x"], d["offset"], d["weight"], d["mask"]),
        "deform_conv2d, with its gradients": trained(deform, "x", "offset", "weight", "mask"),
        "sigmoid_focal_loss, with its gradient": trained(focal, "logits"),
    }


def beside_torchvision(lampion: Any, torch: Any) -> list[Row]:
    """lampion-vision against torchvision.ops, with as many threads. ImportError without them."""
    import torchvision

    import lampion_vision

    lampion.set_num_threads(torch.get_num_threads())
    data = scenes(np.random.default_rng(0))
    ours, theirs = cases(lampion, lampion_vision, data), cases(torch, torchvision.ops, data)
    return [undisturbed(name, ours[name], theirs[name], rounds=11) for name in ours]
