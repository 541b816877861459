"""ONNX's optimizer steps (preview). Floor 7; imports lampion and this package.

Inputs are the learning rate R, the step T, then all tensors, all gradients, and all states.
"""

from __future__ import annotations

from typing import Any

from ..table import operator
from ..values import to_array

_DOMAIN = "ai.onnx.preview.training"


def _columns(rest: Any, count: int) -> list[Any]:
    each = len(rest) // count
    return [rest[k * each:(k + 1) * each] for k in range(count)]


def _number(t: Any) -> Any:
    return to_array(t).reshape(-1)[0].item()


@operator("Adagrad", domain=_DOMAIN)
def adagrad(R: Any, T: Any, *inputs: Any, decay_factor: float = 0.0, epsilon: float = 1e-6,
            norm_coefficient: float = 0.0) -> Any:
    """Gradients divided by the root of the sum of their squares so far."""
    xs, gs, hs = _columns(inputs, 3)
    rate = _number(R) / (1 + _number(T) * decay_factor)
    grads = [g + norm_coefficient * x for x, g in zip(xs, gs)]
    squares = [h + g * g for h, g in zip(hs, grads)]
    return (*[x - rate * g / (h.sqrt() + epsilon) for x, g, h in zip(xs, grads, squares)],
            *squares)


@operator("Adam", domain=_DOMAIN)
def adam(R: Any, T: Any, *inputs: Any, alpha: float = 0.9, beta: float = 0.999,
         epsilon: float = 1e-6, norm_coefficient: float = 0.0,
         norm_coefficient_post: float = 0.0) -> Any:
    """Running means of gradients, divided by the root of those of their squares."""
    xs, gs, vs, hs = _columns(inputs, 4)
    rate, step = _number(R), _number(T)
    if step > 0:
        rate = rate * (1 - beta ** step) ** 0.5 / (1 - alpha ** step)
    grads = [g + norm_coefficient * x for x, g in zip(xs, gs)]
    means = [alpha * v + (1 - alpha) * g for v, g in zip(vs, grads)]
    squares = [beta * h + (1 - beta) * g * g for h, g in zip(hs, grads)]
    news = [(1 - norm_coefficient_post) * (x - rate * v / (h.sqrt() + epsilon))
            for x, v, h in zip(xs, means, squares)]
    return (*news, *means, *squares)


@operator("Momentum", domain=_DOMAIN)
def momentum(R: Any, T: Any, *inputs: Any, alpha: float, beta: float, mode: str,
             norm_coefficient: float) -> Any:
    """Gradients added up with decay; "nesterov" looks one step ahead."""
    xs, gs, vs = _columns(inputs, 3)
    rate = _number(R)
    if _number(T) == 0:
        beta = 1.0
    grads = [g + norm_coefficient * x for x, g in zip(xs, gs)]
    states = [alpha * v + beta * g for v, g in zip(vs, grads)]
    steps = states if mode == "standard" else [g + alpha * v for g, v in zip(grads, states)]
    return (*[x - rate * s for x, s in zip(xs, steps)], *states)
