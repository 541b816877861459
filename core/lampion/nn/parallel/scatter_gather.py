"""Dealing out inputs to devices and collecting results. Floor 7; imports nn."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lampion
from lampion.tensor import Tensor

__all__ = ["gather", "scatter", "scatter_kwargs"]


def is_namedtuple(obj: Any) -> bool:
    """Whether an object is a tuple with names."""
    return isinstance(obj, tuple) and hasattr(obj, "_asdict") and hasattr(obj, "_fields")


def scatter(inputs: Any, target_gpus: Sequence[Any], dim: int = 0) -> list[Any]:
    """One object per device: tensors in chunks along `dim`, containers of such, others as they are.

    >>> nn.parallel.scatter_gather.scatter({"x": lampion.arange(4)}, ["cpu", "cpu"])
    [{'x': tensor([0, 1])}, {'x': tensor([2, 3])}]
    """
    def deal(obj: Any) -> list[Any]:
        if isinstance(obj, Tensor):
            chunks = obj.chunk(len(target_gpus), dim)
            return [c.to(d) for c, d in zip(chunks, target_gpus)]
        if is_namedtuple(obj):
            return [type(obj)(*row) for row in zip(*map(deal, obj))]
        if isinstance(obj, tuple) and obj:
            return list(zip(*map(deal, obj)))
        if isinstance(obj, list) and obj:
            return [list(row) for row in zip(*map(deal, obj))]
        if isinstance(obj, dict) and obj:
            return [type(obj)(row) for row in zip(*map(deal, obj.items()))]
        return [obj for _ in target_gpus]

    return deal(inputs)


def scatter_kwargs(inputs: Any, kwargs: dict[str, Any] | None, target_gpus: Sequence[Any],
                   dim: int = 0) -> tuple[tuple[Any, ...], tuple[dict[str, Any], ...]]:
    """Arguments by place and by name, as many of each as there are devices with work."""
    placed = scatter(inputs, target_gpus, dim) if inputs else []
    named = scatter(kwargs, target_gpus, dim) if kwargs else []
    while len(placed) < len(named):
        placed.append(())
    while len(named) < len(placed):
        named.append({})
    return tuple(placed), tuple(named)


def gather(outputs: Any, target_device: Any, dim: int = 0) -> Any:
    """Results of the devices as one: tensors are joined along `dim` on the target device."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return lampion.cat([t.to(target_device) if t.dim() else t.to(target_device).reshape(1)
                            for t in outputs], dim)
    if first is None:
        return None
    if isinstance(first, dict):
        if any(len(out) != len(first) for out in outputs):
            raise ValueError("All dicts must have the same number of keys")
        return type(first)((k, gather([d[k] for d in outputs], target_device, dim)) for k in first)
    if is_namedtuple(first):
        return type(first)._make(gather(list(row), target_device, dim) for row in zip(*outputs))
    return type(first)(gather(list(row), target_device, dim) for row in zip(*outputs))
