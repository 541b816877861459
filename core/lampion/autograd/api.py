"""`backward()` and `grad()`. Floor 4."""

from __future__ import annotations

from typing import Any

from . import engine


def backward(tensors: Any, grad_tensors: Any = None, retain_graph: Any = None,
             create_graph: bool = False, *, inputs: Any = None) -> None:
    """Accumulate gradients into the leaves."""
    t = tensors
    if t.node is None:
        raise RuntimeError("element 0 of tensors does not require grad and does not have a "
                           "grad_fn")
    if grad_tensors is None:
        from ..ops.registry import REGISTRY

        if t.meta.numel != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        grad_tensors = REGISTRY["full"].fn(t.meta.shape, 1, dtype=t.meta.dtype,
                                            device=t.meta.device)
    engine.run([(t.node, grad_tensors)],
               retain_graph=create_graph if retain_graph is None else retain_graph,
               create_graph=create_graph)
