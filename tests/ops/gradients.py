"""Numeric derivatives: what the gradient of an op is compared with where there is no oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from devices import thorough

import lampion


def tensors(arrays: Sequence[np.ndarray], device: str, grad: bool = False) -> list[Any]:
    """Tensors of the device with these values."""
    made = [lampion.tensor(a).to(device) for a in arrays]
    return [t.requires_grad_() for t in made] if grad else made


def check_gradient(f: Callable[..., Any], arrays: Sequence[np.ndarray], device: str, *,
                   order: int = 2, step: float = 1e-5, tolerance: float = 1e-6) -> None:
    """Compare the derivative of sum(w * f(x)) along a random direction with central differences;
    for order 2 also that of the gradient itself. The arrays must be float64."""
    order = order if thorough(device) else 1
    rng = np.random.default_rng(7)
    directions = [rng.standard_normal(a.shape) for a in arrays]

    def scalar(values: Sequence[Any]) -> Any:
        y = f(*values)
        weights = np.random.default_rng(8).standard_normal(tuple(y.shape))
        return (y * lampion.tensor(weights).to(device)).sum()

    def along(values: Sequence[Any], create: bool) -> Any:
        grads = lampion.autograd.grad(scalar(values), values, create_graph=create)
        total = 0.0
        for g, d in zip(grads, directions):
            total = total + (g * lampion.tensor(d).to(device)).sum()
        return total

    def difference(g: Callable[[list[Any]], Any]) -> float:
        ends = []
        for sign in (1, -1):
            moved = [a + sign * step * d for a, d in zip(arrays, directions)]
            ends.append(float(g(tensors(moved, device, True))))
        return (ends[0] - ends[1]) / (2 * step)

    exact = along(tensors(arrays, device, True), order > 1)
    expected = difference(scalar)
    assert abs(float(exact) - expected) <= tolerance * (1 + abs(expected)), "first order"
    if order > 1 and exact.requires_grad:
        values = tensors(arrays, device, True)
        grads = lampion.autograd.grad(along(values, True), values, allow_unused=True)
        second = sum(float((g * lampion.tensor(d).to(device)).sum())
                     for g, d in zip(grads, directions) if g is not None)
        expected = difference(lambda v: along(v, False))
        assert abs(second - expected) <= 10 * tolerance * (1 + abs(expected)), "second order"
