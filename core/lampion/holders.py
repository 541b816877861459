"""Who holds a device's memory: the tensors that are alive, by what they are for.

Looked for by the garbage collector's list when an allocation has failed, and at no other time.
Floor 7; imports tensor, autograd and nn.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .autograd.node import AccumulateGrad, Node
from .nn.modules.module import Module
from .optim.optimizer import Optimizer
from .runtime.arguments import human
from .tensor import Tensor

# What holds memory is a tensor, or what autograd saved without one: (device, storage).
Held = Tensor | tuple[str, Any]


@dataclass
class Total:
    """What one use holds on one device."""

    nbytes: int = 0
    count: int = 0
    most: int = 0
    largest: str = ""

    def add(self, nbytes: int, label: str) -> None:
        self.nbytes += nbytes
        self.count += 1
        if nbytes > self.most:
            self.most, self.largest = nbytes, label


def holders(most: int = 6) -> str:
    """Lines about the uses that hold most bytes, largest first, of all devices in this process:
    bytes, device, use, how many tensors, the largest one. Empty if nothing is held."""
    seen: dict[int, Any] = {}  # keeps the storages alive, whose ids are compared
    totals: dict[tuple[str, str], Total] = defaultdict(Total)
    for held, use, name in _uses():
        place = _place(held)
        if place is None:
            continue
        where, base = place
        if id(base) not in seen and base.nbytes:
            seen[id(base)] = base
            totals[where, use].add(base.nbytes, f"{name} {_shape(held, base)}".strip())
    whole = sum(t.nbytes for t in totals.values())
    lines = [f"  {human(t.nbytes):>9} on {where}: {use} ({t.count}, the largest {t.largest})"
             for (where, use), t in sorted(totals.items(), key=lambda item: -item[1].nbytes)
             if t.nbytes * 100 >= whole]
    return "\n".join(["Memory is held by:", *lines[:most]]) if lines else ""


def _uses() -> Iterator[tuple[Held, str, str]]:
    """Every tensor, and every storage that autograd saved, with what it is for and its name there:
    what is more telling comes first."""
    kinds = Module, Tensor, Optimizer, Node
    # Types, because asking an object for its class may run a program's code; and nothing but
    # these kinds is kept, since frames that are in a list which they hold live on.
    modules, tensors, optimizers, nodes = (
        [o for o in gc.get_objects() if issubclass(type(o), kind)] for kind in kinds)
    modules = [m for m in modules if "_modules" in m.__dict__]
    inner = {id(child) for module in modules for child in module._modules.values()}
    named = {}
    for model in modules:
        if id(model) in inner:
            continue
        kind = type(model).__name__
        for name, p in model.named_parameters():
            named[id(p)] = name
            yield p, f"parameters of {kind}", name
        for name, b in model.named_buffers():
            yield b, f"buffers of {kind}", name
    for t in tensors:
        if type(getattr(t, "node", None)) is AccumulateGrad and t.node.grad is not None:
            yield t.node.grad, "gradients", f"of {named[id(t)]}" if id(t) in named else ""
    for optimizer in optimizers:
        for state in getattr(optimizer, "state", {}).values():
            for name, value in state.items() if isinstance(state, dict) else ():
                if isinstance(value, Tensor):
                    yield value, f"state of {type(optimizer).__name__}", name
    for node in nodes:
        for item in _flat(node.saved):
            held = item if isinstance(item, Tensor) else (_device(node), item)
            yield held, "saved for backward", f"by {node.name()}"
    for t in sorted(tensors, key=lambda t: getattr(t, "root", None) is not None):  # views last
        yield t, "other tensors", ""


def _flat(saved: Any) -> Iterator[Any]:
    for item in saved if isinstance(saved, (list, tuple)) else ():
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item


def _device(node: Node) -> str:
    """Where a node's outputs are: only those of ops save storages without a tensor."""
    return str(node.out_meta(0).device) if hasattr(node, "plan") else "?"


def _place(held: Held) -> tuple[str, Any] | None:
    """(device, the storage that owns the memory); None for a tensor that is still being made, or
    lazy, and for what is no storage."""
    if isinstance(held, Tensor):
        if getattr(held, "meta", None) is None or getattr(held, "data_", None) is None:
            return None
        where, data = str(held.meta.device), held.data_
    else:
        where, data = held
    base = getattr(data, "base", None)
    return None if base is None else (where, base)


def _shape(held: Held, base: Any) -> str:
    """'float32[3, 4]', or the bytes of a storage of unknown shape."""
    if isinstance(held, Tensor):
        return f"{held.meta.dtype.name}{list(held.meta.shape)}"
    return human(base.nbytes)
