"""Averaging gradients while they are computed: what `DistributedDataParallel` does.

Gradients are put together in buckets, in the order in which backward passes reach them; a bucket is
combined over the group as soon as its last gradient is there, while the rest is still computed.
Floor 7; imports the collectives.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import lampion

from ..autograd.modes import no_grad
from ..autograd.node import AccumulateGrad, Select
from ..tensor import Tensor
from .collectives import ReduceOp, Work, reduced
from .groups import ProcessGroup

_numbers = itertools.count()


class GradBucket:
    """Some gradients as one row of numbers: what a communication hook is given."""

    def __init__(self, index: int, last: bool, params: Sequence[Tensor], buffer: Tensor) -> None:
        self._index, self._last, self._params, self._buffer = index, last, list(params), buffer

    def index(self) -> int:
        """The bucket's place in the order in which they are filled."""
        return self._index

    def buffer(self) -> Tensor:
        """All gradients, one after another."""
        return self._buffer

    def set_buffer(self, buffer: Tensor) -> None:
        """Replace the gradients."""
        self._buffer = buffer

    def gradients(self) -> list[Tensor]:
        """The gradients in the shapes of their parameters."""
        parts = self._buffer.split([p.numel() for p in self._params])
        return [g.view(p.shape) for g, p in zip(parts, self._params)]

    def parameters(self) -> list[Tensor]:
        """The parameters."""
        return list(self._params)

    def is_last(self) -> bool:
        """Whether no bucket is filled after this one."""
        return self._last


class Reducer:
    """Averages the gradients of parameters over a group in every backward pass.

    `hook(state, bucket)` may do the combining, and returns a future of the row of numbers.
    """

    def __init__(self, named: Sequence[tuple[str, Tensor]], group: ProcessGroup, cap: float,
                 find_unused: bool) -> None:
        self.names = [n for n, p in named if p.requires_grad]
        self.params = [p for _, p in named if p.requires_grad]
        self.group, self.find_unused = group, find_unused
        self.buckets = self._dealt_out(cap * 1024 * 1024)
        self.where = {id(p): k for k, bucket in enumerate(self.buckets) for p in bucket}
        self.name = f"{group.group_name}.ddp{next(_numbers)}"
        self.sync, self.iteration, self.divisor = True, 0, group.size()
        self.hook: Callable[[Any, GradBucket], Any] | None = None
        self.state: Any = None
        self._missing: set[int] = set()
        self._begun: dict[int, tuple[GradBucket, Any]] = {}
        self._used: set[int] = set()
        me = weakref.ref(self)

        def ready(p: Tensor) -> None:
            reducer = me()
            if reducer is not None:
                reducer._ready(p)

        self.handles = [p.register_post_accumulate_grad_hook(ready) for p in self.params]

    def _dealt_out(self, cap: float) -> list[list[Tensor]]:
        """Parameters by bucket, the last first: of one dtype and device, of `cap` bytes."""
        found: list[list[Tensor]] = []
        room = 0.0
        for p in reversed(self.params):
            size = p.numel() * p.element_size()
            first = found[-1][0] if found else None
            if first is None or size > room or (first.dtype, first.device) != (p.dtype, p.device):
                found.append([])
                room = cap
            found[-1].append(p)
            room -= size
        return found

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do: alone, and nobody wants to see the gradients."""
        return self.group.size() == 1 and self.hook is None

    # ---- a backward pass

    def prepare(self, outputs: Any) -> None:
        """Before a backward pass through these. RuntimeError if the last one left gradients out."""
        if self.idle:
            return
        if self._missing and len(self._missing) < len(self.params):
            names = [n for n, p in zip(self.names, self.params) if id(p) in self._missing]
            raise RuntimeError(
                "Expected to have finished reduction in the prior iteration before starting a new "
                f"one: parameters {names} got no gradient. Pass find_unused_parameters=True to "
                "DistributedDataParallel if they take no part in every loss")
        self._begin()
        if self.find_unused:
            leaves = _leaves(outputs)
            self._used = {id(p) for p in self.params if id(p.node) in leaves}
            for p in self.params:
                if id(p) not in self._used:
                    self._arrived(p)

    def _begin(self) -> None:
        self.iteration += 1
        self._missing = {id(p) for p in self.params}
        self._used = set(self._missing)
        self._begun = {}

    def _ready(self, p: Tensor) -> None:
        """The gradient of a parameter is complete."""
        if not self.sync or self.idle:
            return
        if not self._missing:  # a second backward pass through the same graph
            self._begin()
        self._arrived(p)

    def _arrived(self, p: Tensor) -> None:
        self._missing.discard(id(p))
        k = self.where[id(p)]
        if k not in self._begun and not any(id(q) in self._missing for q in self.buckets[k]):
            with no_grad():
                self._begun[k] = self._combine(k)
        if not self._missing:
            self._finish()

    def _combine(self, k: int) -> tuple[GradBucket, Any]:
        """Begin to combine a bucket; (the bucket, what to wait for)."""
        params = self.buckets[k]
        row = lampion.cat([(p.new_zeros(p.shape) if p.grad is None else p.grad).reshape(-1)
                           for p in params])
        bucket = GradBucket(k, k == len(self.buckets) - 1, params, row)
        if self.hook is not None:
            return bucket, self.hook(self.state, bucket)
        return bucket, Work([row], lambda: row.copy_(self._sum(k, row)))

    def _sum(self, k: int, row: Tensor) -> Tensor:
        with no_grad():
            tag = f"{self.name}.{self.iteration}/the gradients of bucket {k}"
            return reduced(self.group, tag, row, ReduceOp.SUM) / self.divisor

    def _finish(self) -> None:
        """Give parameters their averaged gradients."""
        used = self._used_anywhere()
        with no_grad():
            for bucket, waiting in self._begun.values():
                found = waiting.wait()
                if found is not None and found is not True:
                    bucket.set_buffer(found[0] if isinstance(found, (list, tuple)) else found)
                for p, g in zip(bucket.parameters(), bucket.gradients()):
                    if id(p) not in used:
                        continue
                    if p.grad is None:
                        p.grad = g.clone()
                    else:
                        p.grad.copy_(g)
        self._begun = {}

    def _used_anywhere(self) -> set[int]:
        """The parameters that some process has a gradient of."""
        if not self.find_unused or self.group.size() == 1:
            return self._used
        flags = lampion.tensor([int(id(p) in self._used) for p in self.params])
        total = reduced(self.group, f"{self.name}.{self.iteration}/unused parameters", flags,
                        ReduceOp.SUM)
        return {id(p) for p, n in zip(self.params, total.tolist()) if n}

    def shadow(self) -> None:
        """Take part in a backward pass of the others, with no gradients."""
        self._begin()
        with no_grad():
            for k, bucket in enumerate(self.buckets):
                self._sum(k, lampion.cat([p.new_zeros(p.numel()) for p in bucket]))
        if self.find_unused:
            self._used = set()
            self._used_anywhere()
        self._missing = set()


def _leaves(outputs: Any) -> set[int]:
    """The ids of the nodes of the leaves that tensors in a tree depend on."""
    from ..utils import _pytree as pytree

    todo = [t.node for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor)]
    seen: set[int] = set()
    found = set()
    while todo:
        node = todo.pop()
        node = node.parent if type(node) is Select else node
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if type(node) is AccumulateGrad:
            found.add(id(node))
        else:
            todo += node.edges
    return found


__all__ = ["GradBucket", "Reducer"]
