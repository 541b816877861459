"""Who holds a device's memory: the tensors that are alive, by what they are for.

Looked for by the garbage collector's list when an allocation has failed, and at no other time.
Floor 7; imports tensor, autograd and nn.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from .autograd.node import AccumulateGrad, Node
from .nn.modules.module import Module
from .optim.optimizer import Optimizer
from .runtime.arguments import human
from .tensor import Tensor

# What a tensor is for, in the order of looking; the first answer counts.
Use = tuple[Any, str, str, Any]  # (tensor or storage, what it is for, its name, its device)


def holders(most: int = 6) -> str:
    """Lines about the uses that hold most bytes, largest first, of all devices in this process:
    bytes, device, how many tensors, the largest one. Empty if nothing is held."""
    seen: dict[int, Any] = {}  # keeps the storages alive, whose ids are compared
    total: dict[tuple[str, str], int] = defaultdict(int)
    count: dict[tuple[str, str], int] = defaultdict(int)
    largest: dict[tuple[str, str], tuple[int, str]] = {}
    for held, use, name, where in _uses():
        data = getattr(held, "data_", held)
        base = getattr(data, "base", None)
        if base is None or id(base) in seen or not base.nbytes:
            continue
        seen[id(base)] = base
        key = (str(where), use)
        total[key] += base.nbytes
        count[key] += 1
        if base.nbytes > largest.get(key, (0, ""))[0]:
            largest[key] = base.nbytes, " ".join(filter(None, (name, _described(held))))
    whole = sum(total.values())
    keys = sorted(total, key=lambda key: -total[key])
    lines = [f"  {human(total[key]):>9} on {key[0]}: {key[1]} ({count[key]}"
             + (f", the largest {largest[key][1]})" if largest[key][1] else ")")
             for key in keys[:most] if total[key] * 100 >= whole]
    return "\n".join(["Memory is held by:", *lines]) if lines else ""


def _uses() -> Iterator[Use]:
    """Every tensor, and every storage that autograd saved, with what it is for: what is more
    telling comes first."""
    objects = gc.get_objects()
    modules = [o for o in objects if issubclass(type(o), Module) and "_modules" in o.__dict__]
    inner = {id(child) for module in modules for child in module._modules.values()}
    named = {}
    for model in modules:
        if id(model) in inner:
            continue
        kind = type(model).__name__
        for name, p in model.named_parameters():
            named[id(p)] = name
            yield p, f"parameters of {kind}", name, p.device
        for name, b in model.named_buffers():
            yield b, f"buffers of {kind}", name, b.device
    tensors = [o for o in objects if issubclass(type(o), Tensor)]
    for t in tensors:
        if type(t.node) is AccumulateGrad and t.node.grad is not None:
            name = f"of {named[id(t)]}" if id(t) in named else ""
            yield t.node.grad, "gradients", name, t.device
    for optimizer in objects:
        if issubclass(type(optimizer), Optimizer):
            for state in getattr(optimizer, "state", {}).values():
                for name, value in state.items() if isinstance(state, dict) else ():
                    if isinstance(value, Tensor):
                        use = f"state of {type(optimizer).__name__}"
                        yield value, use, name, value.device
    for node in objects:
        if issubclass(type(node), Node):
            for item in _flat(node.saved):
                where = item.device if isinstance(item, Tensor) else _device(node)
                yield item, "saved for backward", f"by {node.name()}", where
    for t in tensors:
        yield t, "other tensors", "", t.device


def _flat(saved: Any) -> Iterator[Any]:
    for item in saved if isinstance(saved, (list, tuple)) else ():
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item


def _device(node: Node) -> Any:
    """Where a node's outputs are: only those of ops save storages without a tensor."""
    return node.out_meta(0).device if hasattr(node, "plan") else "?"


def _described(held: Any) -> str:
    """'float32[3, 4]', or the bytes of a storage of unknown shape."""
    if isinstance(held, Tensor):
        return f"{held.meta.dtype.name}{list(held.meta.shape)}"
    return human(held.base.nbytes)
