"""Clipping of gradients by norm and by value.

May import: lampion.tensor.
"""
from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import lampion
from lampion.tensor import Tensor


def _as_list(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def get_total_norm(tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0,
                   error_if_nonfinite: bool = False, foreach: bool | None = None) -> Tensor:
    """The norm of all tensors as if they were one vector; a 0-d tensor.

    RuntimeError with error_if_nonfinite if it is not finite.

    >>> nn.utils.get_total_norm([lampion.full((1,), 3.0), lampion.full((1,), 4.0)])
    tensor(5.)
    """
    listed = _as_list(tensors)
    norm_type = float(norm_type)
    if not listed:
        return lampion.tensor(0.0)
    device = listed[0].device
    norms = [tensor.norm(norm_type).to(device) for tensor in listed]
    total = norms[0] if len(norms) == 1 else lampion.stack(norms).norm(norm_type)
    if error_if_nonfinite and not bool(lampion.isfinite(total)):
        raise RuntimeError(f"The total norm of order {norm_type} for gradients from `parameters` "
                           "is non-finite, so it cannot be clipped. To disable this error and "
                           "scale the gradients by the non-finite norm anyway, set "
                           "`error_if_nonfinite=False`")
    return total


def clip_grads_with_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float,
                          total_norm: Tensor, foreach: bool | None = None) -> None:
    """Scale the gradients in place by min(1, max_norm / (total_norm + 1e-6))."""
    grads = [p.grad for p in _as_list(parameters) if p.grad is not None]
    if not grads:
        return
    scale = (float(max_norm) / (total_norm + 1e-6)).clamp(max=1.0)
    with lampion.no_grad():
        for grad in grads:
            grad.mul_(scale.to(grad.device))


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0,
                    error_if_nonfinite: bool = False, foreach: bool | None = None) -> Tensor:
    """Scale the gradients of `parameters` in place to a joint norm of at most max_norm.

    Returns the norm before; `foreach` is accepted and changes nothing.

    >>> p = nn.Parameter(lampion.zeros(2)); p.grad = lampion.full((2,), 3.0)
    >>> total = nn.utils.clip_grad_norm_(p, 1.0)
    """
    if not isinstance(parameters, Tensor):
        parameters = list(parameters)
        if not parameters:
            warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.",
                          stacklevel=2)
    listed = _as_list(parameters)
    grads = [p.grad for p in listed if p.grad is not None]
    with lampion.no_grad():
        total = get_total_norm(grads, norm_type, error_if_nonfinite)
    clip_grads_with_norm_(listed, max_norm, total)
    return total


def clip_grad_norm(*args: Any, **kwargs: Any) -> Tensor:
    """Older name of clip_grad_norm_."""
    warnings.warn("`nn.utils.clip_grad_norm` is now deprecated in favor of "
                  "`nn.utils.clip_grad_norm_`.", FutureWarning, stacklevel=2)
    return clip_grad_norm_(*args, **kwargs)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float,
                     foreach: bool | None = None) -> None:
    """Clamp the gradients of `parameters` in place to ±clip_value."""
    clip_value = float(clip_value)
    with lampion.no_grad():
        for param in _as_list(parameters):
            if param.grad is not None:
                param.grad.clamp_(min=-clip_value, max=clip_value)
