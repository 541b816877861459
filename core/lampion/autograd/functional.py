"""Derivatives of functions: `vjp`, `jvp`, `jacobian`, `hessian`, `vhp`, `hvp`.

Floor 4; imports api, modes. A `jvp` is the gradient of a `vjp` with respect to its (dummy) output
gradient, since the `vjp` is linear in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..ops.registry import REGISTRY
from . import node as N
from .api import batched_grad, grad
from .modes import enable_grad


def _many(x: Any, what: str) -> tuple[tuple[Any, ...], bool]:
    """(tensors as a tuple, whether they were given as one). TypeError for anything else."""
    given = isinstance(x, (tuple, list))
    items = tuple(x) if given else (x,)
    for k, t in enumerate(items):
        if not hasattr(t, "data_"):
            at = f" Value at index {k} has type {type(t)}." if given else f" Got {type(t)}."
            raise TypeError(f"The {what} must be either a Tensor or a tuple of Tensors.{at}")
    return items, given


def _fresh(inputs: Sequence[Any], create_graph: bool) -> tuple[Any, ...]:
    """The inputs as starting points: views within the graph, or leaves of their own."""
    return tuple([t.view_as(t) if create_graph and t.requires_grad
                  else t.detach().requires_grad_() for t in inputs])


def _back(values: Any, given: bool, create_graph: bool) -> Any:
    """Results in the form of the arguments, cut from the graph unless it was asked for."""
    out = tuple([v if create_graph or v is None else v.detach() for v in values])
    return out if given else out[0]


def _check_v(v: Any, like: Sequence[Any], what: str) -> tuple[Any, ...]:
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(f"The vector v can only be None if {what} is a single Tensor with "
                               "one element.")
        return (like[0].detach() * 0 + 1,)
    items, _ = _many(v, "v argument")
    if len(items) != len(like):
        raise RuntimeError(f"v is a tuple of invalid length: should be {len(like)} but got "
                           f"{len(items)}.")
    for k, (a, b) in enumerate(zip(items, like)):
        if a.shape != b.shape:
            raise RuntimeError(f"Entry {k} in v has invalid size: should be {b.shape} but got "
                               f"{a.shape}.")
    return items


def _grads(outs: Sequence[Any], ins: Sequence[Any], v: Sequence[Any] | None, create: bool,
           strict: bool, retain: bool | None = None) -> list[Any]:
    """Gradients of outputs, zeros where there is no dependence (an error if strict)."""
    live = [(o, None if v is None else v[k]) for k, o in enumerate(outs) if o.requires_grad]
    if strict and len(live) < len(outs):
        raise RuntimeError("Output of the function given by the user is independent of the "
                           "inputs. This is not allowed in strict mode.")
    got: Any = [None] * len(ins)
    if live:
        seeds = None if v is None else [g for _, g in live]
        got = grad([o for o, _ in live], list(ins), seeds, create_graph=create,
                   retain_graph=retain, allow_unused=True)
    if strict and any(g is None for g in got):
        k = next(k for k, g in enumerate(got) if g is None)
        raise RuntimeError(f"The function given by the user is independent of input {k}. This is "
                           "not allowed in strict mode.")
    return [N.zeros(t.meta.plain) if g is None else g for t, g in zip(ins, got)]


def vjp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), the product of `v` with the Jacobian). `v` has the shape of the output and
    may be None for a one-element output. RuntimeError for a wrong length or shape.

    >>> import lampion
    >>> lampion.autograd.functional.vjp(lambda x: x * x, lampion.tensor(3.0))[1]
    tensor(6.)
    """
    with enable_grad():
        ins, given = _many(inputs, "inputs given to vjp")
        ins = _fresh(ins, create_graph)
        outs, many = _many(func(*ins), "outputs of the user-provided function given to vjp")
        got = _grads(outs, ins, _check_v(v, outs, "the output"), create_graph, strict)
    return _back(outs, many, create_graph), _back(got, given, create_graph)


def jvp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), the product of the Jacobian with `v`). `v` has the shape of the inputs and
    may be None for a one-element input.

    >>> import lampion
    >>> x = lampion.tensor([1.0, 2.0])
    >>> lampion.autograd.functional.jvp(lambda x: x * x, x, lampion.ones(2))[1]
    tensor([2., 4.])
    """
    with enable_grad():
        ins, _ = _many(inputs, "inputs given to jvp")
        v = _check_v(v, ins, "the input")
        ins = _fresh(ins, create_graph)
        outs, many = _many(func(*ins), "outputs of the user-provided function given to jvp")
        dummy = tuple([(o.detach() * 0).requires_grad_() for o in outs])
        first = _grads(outs, ins, dummy, True, strict)
        got = _grads(first, dummy, v, create_graph, False)
    return _back(outs, many, create_graph), _back(got, many, create_graph)


def jacobian(func: Callable[..., Any], inputs: Any, create_graph: bool = False,
             strict: bool = False, vectorize: bool = False,
             strategy: str = "reverse-mode") -> Any:
    """The Jacobian of a function of one or several tensors, with shape (*output, *input).

    A tuple of outputs or inputs gives a tuple (of tuples). `vectorize` computes all rows at once
    (by vmap); `strategy="forward-mode"`, only with it, by columns instead.

    >>> import lampion
    >>> lampion.autograd.functional.jacobian(lambda x: x * x, lampion.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """
    if strategy not in ("reverse-mode", "forward-mode"):
        raise ValueError('Expected strategy to be either "forward-mode" or "reverse-mode". Hint: '
                         'If your function has more outputs than inputs, "forward-mode" tends to '
                         'be more performant. Otherwise, prefer to use "reverse-mode".')
    if vectorize and strict:
        raise RuntimeError("jacobian: `strict=True` and `vectorized=True` "
                           "are not supported together. Please either set `strict=False` or "
                           "`vectorize=False`.")
    if strategy == "forward-mode":
        if create_graph:
            raise NotImplementedError("jacobian: `create_graph=True` and "
                                      '`strategy="forward-mode"` are not supported together (yet). '
                                      'Please either set `create_graph=False` or '
                                      '`strategy="reverse-mode"`.')
        if strict or not vectorize:
            raise NotImplementedError("jacobian: `strategy=\"forward-"
                                      'mode"` is only supported with `strict=False` and '
                                      "`vectorize=True`.")
        return _columns(func, inputs)
    stack = REGISTRY["stack"].fn
    with enable_grad():
        ins, given = _many(inputs, "inputs given to jacobian")
        ins = _fresh(ins, create_graph)
        outs, many = _many(func(*ins), "outputs of the user-provided function given to jacobian")
        table = []
        for o in outs:
            if vectorize:
                table.append(_rows(o, ins, create_graph))
                continue
            rows = [_grads([o.reshape(-1)[k]], ins, None, create_graph, strict, True)
                    for k in range(o.numel())]
            table.append(tuple([
                stack([r[j] for r in rows]).reshape((*o.shape, *t.shape)) if rows
                else t.new_zeros((*o.shape, *t.shape)) for j, t in enumerate(ins)]))
    done = [_back(row, given, create_graph) for row in table]
    return tuple(done) if many else done[0]


def _unit(t: Any, n: int, at: int) -> Any:
    """(n, *t.shape) with ones where row at + k meets element k."""
    m = t.meta
    eye = REGISTRY["identity_matrix"].fn(m.numel, m.numel, dtype=m.dtype, device=m.device)
    whole = REGISTRY["full"].fn((n, m.numel), 0, dtype=m.dtype, device=m.device)
    whole.narrow(0, at, m.numel).copy_(eye)
    return whole.reshape(n, *m.shape)


def _rows(o: Any, ins: Sequence[Any], create: bool) -> tuple[Any, ...]:
    """The Jacobian of one output, all rows at once."""
    if o.node is None or not o.numel():
        return tuple([t.new_zeros((*o.shape, *t.shape)) for t in ins])
    got = batched_grad([o], list(ins), [_unit(o, o.numel(), 0)], True, create, True)
    return tuple([t.new_zeros((*o.shape, *t.shape)) if g is None
                  else g.reshape(*o.shape, *t.shape) for g, t in zip(got, ins)])


def _columns(func: Callable[..., Any], inputs: Any) -> Any:
    """The Jacobian by forward mode, all columns at once."""
    from ..transforms.batching import BatchLevel
    from ..transforms.tangents import DualLevel

    ins, given = _many(inputs, "inputs given to jacobian")
    ins = tuple([t.detach() for t in ins])
    total, at, units = sum(t.numel() for t in ins), 0, []
    for t in ins:
        units.append(_unit(t, total, at))
        at += t.numel()
    with BatchLevel(total) as level, DualLevel() as forward:
        outs, many = _many(func(*[forward.dual(t, level.over(u)) for t, u in zip(ins, units)]),
                           "outputs of the user-provided function given to jacobian")
        found = [forward.parts(o) for o in outs]
        whole = [level.take(N.zeros(p.meta.plain) if t is None else t, -1) for p, t in found]
    table = []
    for w in whole:
        at, row = 0, []
        for t in ins:
            row.append(w.narrow(-1, at, t.numel()).reshape(*w.shape[:-1], *t.shape))
            at += t.numel()
        table.append(tuple(row) if given else row[0])
    return tuple(table) if many else table[0]


def hessian(func: Callable[..., Any], inputs: Any, create_graph: bool = False,
            strict: bool = False, vectorize: bool = False,
            outer_jacobian_strategy: str = "reverse-mode") -> Any:
    """The Hessian of a function with a one-element result, with shape (*input, *input); a tuple
    of tuples for a tuple of inputs.

    >>> import lampion
    >>> lampion.autograd.functional.hessian(lambda x: (x ** 3).sum(), lampion.ones(2))
    tensor([[6., 0.],
            [0., 6.]])
    """
    ins, given = _many(inputs, "inputs given to hessian")

    def first(*values: Any) -> Any:
        wanted = [t if t.requires_grad else N.bare(t).requires_grad_() for t in values]
        out = _scalar(func(*wanted), "hessian")
        return tuple(_grads([out], wanted, None, True, strict))

    if outer_jacobian_strategy not in ("reverse-mode", "forward-mode"):
        raise ValueError('Expected strategy to be either "forward-mode" or "reverse-mode".')
    got = jacobian(first, ins, create_graph, strict, vectorize, outer_jacobian_strategy)
    return got if given else got[0][0]


def _scalar(out: Any, what: str) -> Any:
    if not hasattr(out, "data_"):
        raise RuntimeError(f"The function given to {what} should return a single Tensor")
    if out.numel() != 1:
        raise RuntimeError(f"The Tensor returned by the function given to {what} should contain a "
                           "single element")
    return out.reshape(())


def vhp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), the product of `v` with the Hessian)."""
    with enable_grad():
        ins, given = _many(inputs, "inputs given to vhp")
        v = _check_v(v, ins, "the input")
        ins = _fresh(ins, create_graph)
        out = _scalar(func(*ins), "vhp")
        first = _grads([out], ins, None, True, strict)
        got = _grads(first, ins, v, create_graph, strict)
    return _back([out], False, create_graph), _back(got, given, create_graph)


def hvp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), the product of the Hessian with `v`): the Hessian is symmetric, so this is
    `vhp` for twice continuously differentiable functions; it is computed by the double-backward
    of `jvp`."""
    with enable_grad():
        ins, given = _many(inputs, "inputs given to hvp")
        v = _check_v(v, ins, "the input")
        ins = _fresh(ins, create_graph)
        out = _scalar(func(*ins), "hvp")
        first = _grads([out], ins, None, True, strict)
        dummy = tuple([(t.detach() * 0).requires_grad_() for t in ins])
        second = _grads(first, ins, dummy, True, strict)
        got = _grads(second, dummy, v, create_graph, False)
    return _back([out], False, create_graph), _back(got, given, create_graph)


__all__ = ["vjp", "jvp", "jacobian", "hessian", "vhp", "hvp"]
