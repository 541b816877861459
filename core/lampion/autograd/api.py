"""`backward()` and `grad()`. Floor 4; imports engine, node, ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ops.registry import REGISTRY
from . import engine, node
from .state import mode


def _sequence(x: Any) -> list[Any]:
    return list(x) if isinstance(x, (tuple, list)) else [x]


def _root_gradients(outputs: Sequence[Any], grads: Any, what: str) -> list[Any]:
    """Check or create the gradient of every output."""
    given = [None] * len(outputs) if grads is None else _sequence(grads)
    if len(given) != len(outputs):
        raise RuntimeError(f"got {len(outputs)} tensors and {len(given)} gradients")
    out = []
    for k, (t, g) in enumerate(zip(outputs, given)):
        m = t.meta
        if g is None:
            if t.node is not None:
                if m.numel != 1:
                    raise RuntimeError("grad can be implicitly created only for scalar outputs")
                if m.dtype.kind not in "fc":
                    raise RuntimeError("grad can be implicitly created only for real scalar "
                                       f"outputs but got {m.dtype!r}")
                g = REGISTRY["full"].fn(m.shape, 1, dtype=m.dtype, device=m.device)
        else:
            if not hasattr(g, "data_"):
                raise TypeError("gradients can be either Tensors or None, but got "
                                f"{type(g).__name__}")
            if g.meta.shape != m.shape:
                raise RuntimeError(
                    f"Mismatch in shape: grad_output[{k}] has a shape of {tuple(g.meta.shape)} "
                    f"and output[{k}] has a shape of {tuple(m.shape)}.")
            if (g.meta.dtype.kind == "c") != (m.dtype.kind == "c"):
                raise RuntimeError("For complex Tensors, both grad_output and output are required "
                                   f"to have the same dtype. Mismatch in dtype: {g.meta.dtype!r} "
                                   f"and {m.dtype!r}.")
            if g.meta.dtype is not m.dtype:
                g = g.to(m.dtype)
        if t.node is None:
            raise RuntimeError(f"element {k} of tensors does not require grad and does not have "
                               f"a grad_fn ({what})")
        out.append(g)
    return out


def backward(tensors: Any, grad_tensors: Any = None, retain_graph: bool | None = None,
             create_graph: bool = False, *, inputs: Any = None,
             grad_variables: Any = None) -> None:
    """Accumulate the gradients of `tensors` into the leaves of their graph.

    `grad_tensors` are the gradients of non-scalar outputs. `inputs` restricts accumulation to
    these leaves. RuntimeError if an output has no graph or the graph was freed.
    """
    outs = _sequence(tensors)
    grads = _root_gradients(outs, grad_variables if grad_tensors is None else grad_tensors,
                            "backward")
    keep = create_graph if retain_graph is None else retain_graph
    roots = [(t.node, g) for t, g in zip(outs, grads)]
    if inputs is None:
        engine.run(roots, retain_graph=keep, create_graph=create_graph)
        return
    leaves = _sequence(inputs)
    if not leaves:
        raise RuntimeError("'inputs' argument to backward cannot be empty.")
    for t in leaves:
        if t.node is None:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    got = engine.run(roots, retain_graph=keep, create_graph=create_graph,
                     captures=[t.node for t in leaves], accumulate=False)
    for t, g in zip(leaves, got):
        if g is not None:
            if not create_graph:
                g = g.detach()
            t.grad = (g if create_graph else g.clone()) if t.grad is None else t.grad + g


def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None,
         create_graph: bool = False, only_inputs: bool = True, allow_unused: bool | None = None,
         is_grads_batched: bool = False, materialize_grads: bool = False) -> tuple[Any, ...]:
    """The gradients of `outputs` with respect to `inputs`, without touching `.grad`.

    RuntimeError if an input does not require gradients, or (unless allow_unused) was not used.

    >>> import lampion
    >>> x = lampion.tensor(3.0, requires_grad=True)
    >>> lampion.autograd.grad(x * x, x)
    (tensor(6.),)
    """
    if materialize_grads and allow_unused is False:
        raise ValueError("Expected allow_unused to be True or not passed when "
                         "materialize_grads=True, but got: allow_unused=False.")
    outs, ins = _sequence(outputs), _sequence(inputs)
    if is_grads_batched:
        return batched_grad(outs, ins, _sequence(grad_outputs), retain_graph, create_graph,
                            allow_unused, materialize_grads)
    if not ins:
        raise ValueError("grad requires non-empty inputs.")
    for t in ins:
        if t.node is None:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    keep = create_graph if retain_graph is None else retain_graph
    grads = _root_gradients(outs, grad_outputs, "grad")
    got = engine.run([(t.node, g) for t, g in zip(outs, grads)], retain_graph=keep,
                     create_graph=create_graph, captures=[t.node for t in ins], accumulate=False)
    if None in [g if g is None else 0 for g in got]:
        if not (allow_unused or materialize_grads):
            raise RuntimeError(
                "One of the differentiated Tensors appears to not have been used in the graph. "
                "Set allow_unused=True if this is the desired behavior.")
        if materialize_grads:
            got = [node.zeros(t.meta) if g is None else g for t, g in zip(ins, got)]
    if not create_graph:
        previous, mode.enabled = mode.enabled, False
        try:
            got = [g if g is None or g.node is None else node.bare(g) for g in got]
        finally:
            mode.enabled = previous
    return tuple(got)


def batched_grad(outputs: Sequence[Any], inputs: Sequence[Any], grad_outputs: Sequence[Any],
                 retain_graph: bool | None, create_graph: bool, allow_unused: bool | None,
                 materialize_grads: bool = False) -> tuple[Any, ...]:
    """`grad` for a batch of output gradients (their first dim), all at once."""
    from ..transforms.batching import BatchLevel

    size = next(g for g in grad_outputs if g is not None).meta.shape[0]
    with BatchLevel(size) as level:
        seeds = [None if g is None else level.over(g) for g in grad_outputs]
        got = grad(outputs, inputs, seeds, retain_graph, create_graph, True, allow_unused, False,
                   materialize_grads)
        return tuple([None if g is None else level.take(g, 0) for g in got])
