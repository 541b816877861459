"""Update rules of the optimizers: one scalar expression per rule, written once.

Holds the arithmetic of every element-wise optimizer (SGD, Adam, ...) as plain Python functions
over *values*: a value may be a tensor or a node of the scalar expression language, so the same text
serves as the reference (run on tensors, differentiable) and as the body of the one fused in-place
kernel that updates a parameter together with its state. Nothing here reads a group, a state
dictionary or a step counter: scalars arrive ready-made (differences such as 1 - beta too, so that
they are rounded once), on/off options arrive as keyword flags.

May import: the standard library only.

Every rule has the signature `rule(m, p, g, *buffers, *scalars, **flags) -> (new_p, *new_buffers)`,
where `m` offers `sqrt`, `abs`, `sign`, `maximum`, `minimum` and `where`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Value = Any  # a tensor, an expression node, or a Python number


@dataclass(frozen=True)
class Rule:
    """One update rule.

    Attributes:
        name: unique name, also that of the kernel.
        update: the expression (see the module's docstring for its signature).
        buffers: state tensors updated in place beside the parameter, in call order.
        scalars: names of the numbers that follow the tensors, in call order.
        sparse: whether a gradient of 0 changes nothing (without decay), so that with a sparse
            gradient only its places need be looked at.
    """

    name: str
    update: Callable[..., tuple[Value, ...]]
    buffers: tuple[str, ...]
    scalars: tuple[str, ...]
    sparse: bool = False


RULES: dict[str, Rule] = {}


def rule(*, buffers: str, scalars: str,
         sparse: bool = False) -> Callable[[Callable[..., Any]], Rule]:
    """Register the decorated function as the rule of its name."""

    def declare(update: Callable[..., Any]) -> Rule:
        made = Rule(update.__name__, update, tuple(buffers.split()), tuple(scalars.split()),
                    sparse)
        RULES[made.name] = made
        return made

    return declare


def _signed(g: Value, maximize: bool) -> Value:
    return -g if maximize else g


def _decayed(p: Value, g: Value, weight_decay: Value, decay: bool) -> Value:
    return g + p * weight_decay if decay else g


def _mix(old: Value, new: Value, weight: Value) -> Value:
    """Exponential moving average, in the form that is exact when `old == new`."""
    return old + (new - old) * weight


@rule(buffers="", scalars="lr weight_decay", sparse=True)
def sgd(m, p, g, lr, weight_decay, *, decay, maximize):
    g = _decayed(p, _signed(g, maximize), weight_decay, decay)
    return (p - g * lr,)


@rule(buffers="momentum_buffer", scalars="lr weight_decay momentum intake")
def sgd_momentum(
    m, p, g, buf, lr, weight_decay, momentum, intake, *, decay, maximize, nesterov, first
):
    g = _decayed(p, _signed(g, maximize), weight_decay, decay)
    buf = g if first else buf * momentum + g * intake
    move = g + buf * momentum if nesterov else buf
    return p - move * lr, buf


def _adam_averages(p, g, exp_avg, exp_avg_sq, weight_decay, shrink, weight1, beta2, weight2, flags):
    """The start of every Adam: sign, decay (L2 or decoupled), first and second moment."""
    decay, decoupled, maximize = flags
    g = _decayed(p, _signed(g, maximize), weight_decay, decay and not decoupled)
    p = p * shrink if decay and decoupled else p
    return p, g, _mix(exp_avg, g, weight1), exp_avg_sq * beta2 + g * g * weight2


ADAM_SCALARS = "step_size bias2_sqrt eps weight_decay shrink weight1 beta2 weight2"


@rule(buffers="exp_avg exp_avg_sq", scalars=ADAM_SCALARS)
def adam(
    m, p, g, exp_avg, exp_avg_sq,
    step_size, bias2_sqrt, eps, weight_decay, shrink, weight1, beta2, weight2, *,
    decay, decoupled, maximize,
):  # fmt: skip
    p, g, exp_avg, exp_avg_sq = _adam_averages(
        p, g, exp_avg, exp_avg_sq, weight_decay, shrink, weight1, beta2, weight2,
        (decay, decoupled, maximize),
    )  # fmt: skip
    denom = m.sqrt(exp_avg_sq) / bias2_sqrt + eps
    return p - exp_avg / denom * step_size, exp_avg, exp_avg_sq


@rule(buffers="exp_avg exp_avg_sq max_exp_avg_sq", scalars=ADAM_SCALARS)
def adam_amsgrad(
    m, p, g, exp_avg, exp_avg_sq, max_exp_avg_sq,
    step_size, bias2_sqrt, eps, weight_decay, shrink, weight1, beta2, weight2, *,
    decay, decoupled, maximize,
):  # fmt: skip
    p, g, exp_avg, exp_avg_sq = _adam_averages(
        p, g, exp_avg, exp_avg_sq, weight_decay, shrink, weight1, beta2, weight2,
        (decay, decoupled, maximize),
    )  # fmt: skip
    max_exp_avg_sq = m.maximum(max_exp_avg_sq, exp_avg_sq)
    denom = m.sqrt(max_exp_avg_sq) / bias2_sqrt + eps
    return p - exp_avg / denom * step_size, exp_avg, exp_avg_sq, max_exp_avg_sq


def _rmsprop(
    m, p, g, square_avg, grad_avg, buf, lr, weight_decay, alpha, weight, eps, momentum, flags
):
    decay, maximize, centered, with_momentum = flags
    g = _decayed(p, _signed(g, maximize), weight_decay, decay)
    square_avg = square_avg * alpha + g * g * weight
    spread = square_avg
    if centered:
        grad_avg = _mix(grad_avg, g, weight)
        spread = square_avg - grad_avg * grad_avg
    move = g / (m.sqrt(spread) + eps)
    if with_momentum:
        buf = move = buf * momentum + move
    return p - move * lr, square_avg, grad_avg, buf


RMSPROP_SCALARS = "lr weight_decay alpha weight eps momentum"


@rule(buffers="square_avg", scalars=RMSPROP_SCALARS)
def rmsprop(
    m, p, g, square_avg, lr, weight_decay, alpha, weight, eps, momentum, *, decay, maximize
):
    return _rmsprop(
        m, p, g, square_avg, None, None, lr, weight_decay, alpha, weight, eps, momentum,
        (decay, maximize, False, False),
    )[:2]  # fmt: skip


@rule(buffers="square_avg momentum_buffer", scalars=RMSPROP_SCALARS)
def rmsprop_momentum(
    m, p, g, square_avg, buf, lr, weight_decay, alpha, weight, eps, momentum, *, decay, maximize
):
    p, square_avg, _, buf = _rmsprop(
        m, p, g, square_avg, None, buf, lr, weight_decay, alpha, weight, eps, momentum,
        (decay, maximize, False, True),
    )  # fmt: skip
    return p, square_avg, buf


@rule(buffers="square_avg grad_avg", scalars=RMSPROP_SCALARS)
def rmsprop_centered(
    m, p, g, square_avg, grad_avg, lr, weight_decay, alpha, weight, eps, momentum, *,
    decay, maximize,
):  # fmt: skip
    return _rmsprop(
        m, p, g, square_avg, grad_avg, None, lr, weight_decay, alpha, weight, eps, momentum,
        (decay, maximize, True, False),
    )[:3]  # fmt: skip


@rule(buffers="square_avg grad_avg momentum_buffer", scalars=RMSPROP_SCALARS)
def rmsprop_centered_momentum(
    m, p, g, square_avg, grad_avg, buf, lr, weight_decay, alpha, weight, eps, momentum, *,
    decay, maximize,
):  # fmt: skip
    return _rmsprop(
        m, p, g, square_avg, grad_avg, buf, lr, weight_decay, alpha, weight, eps, momentum,
        (decay, maximize, True, True),
    )  # fmt: skip


@rule(buffers="sum", scalars="rate weight_decay eps", sparse=True)
def adagrad(m, p, g, total, rate, weight_decay, eps, *, decay, maximize):
    g = _decayed(p, _signed(g, maximize), weight_decay, decay)
    total = total + g * g
    return p - g / (m.sqrt(total) + eps) * rate, total


@rule(buffers="square_avg acc_delta", scalars="lr weight_decay rho weight eps")
def adadelta(
    m, p, g, square_avg, acc_delta, lr, weight_decay, rho, weight, eps, *, decay, maximize
):
    g = _decayed(p, _signed(g, maximize), weight_decay, decay)
    square_avg = square_avg * rho + g * g * weight
    delta = m.sqrt(acc_delta + eps) / m.sqrt(square_avg + eps) * g
    acc_delta = acc_delta * rho + delta * delta * weight
    return p - delta * lr, square_avg, acc_delta


@rule(buffers="exp_avg exp_inf", scalars="rate weight_decay weight1 beta2 eps")
def adamax(
    m, p, g, exp_avg, exp_inf, rate, weight_decay, weight1, beta2, eps, *, decay, maximize
):  # fmt: skip
    g = _decayed(p, _signed(g, maximize), weight_decay, decay)
    exp_avg = _mix(exp_avg, g, weight1)
    exp_inf = m.maximum(exp_inf * beta2, m.abs(g) + eps)
    return p - exp_avg / exp_inf * rate, exp_avg, exp_inf


@rule(
    buffers="exp_avg exp_avg_sq",
    scalars="grad_rate avg_rate bias2 eps weight_decay shrink weight1 beta2 weight2",
)
def nadam(
    m, p, g, exp_avg, exp_avg_sq, grad_rate, avg_rate, bias2, eps, weight_decay, shrink,
    weight1, beta2, weight2, *, decay, decoupled, maximize,
):  # fmt: skip
    p, g, exp_avg, exp_avg_sq = _adam_averages(
        p, g, exp_avg, exp_avg_sq, weight_decay, shrink, weight1, beta2, weight2,
        (decay, decoupled, maximize),
    )  # fmt: skip
    denom = m.sqrt(exp_avg_sq / bias2) + eps
    p = p - g / denom * grad_rate
    return p - exp_avg / denom * avg_rate, exp_avg, exp_avg_sq


@rule(
    buffers="exp_avg exp_avg_sq",
    scalars="rate rect bias2_sqrt eps weight_decay shrink weight1 beta2 weight2",
)
def radam(
    m, p, g, exp_avg, exp_avg_sq,
    rate, rect, bias2_sqrt, eps, weight_decay, shrink, weight1, beta2, weight2, *,
    decay, decoupled, maximize,
):  # fmt: skip
    p, g, exp_avg, exp_avg_sq = _adam_averages(
        p, g, exp_avg, exp_avg_sq, weight_decay, shrink, weight1, beta2, weight2,
        (decay, decoupled, maximize),
    )  # fmt: skip
    move = exp_avg * rate
    adapted = move * (bias2_sqrt / (m.sqrt(exp_avg_sq) + eps)) * rect
    return p - m.where(rect > 0, adapted, move), exp_avg, exp_avg_sq


@rule(buffers="ax", scalars="eta shrink mu weight_decay")
def asgd(m, p, g, ax, eta, shrink, mu, weight_decay, *, decay, maximize):
    g = _decayed(p, _signed(g, maximize), weight_decay, decay)
    p = p * shrink - g * eta
    return p, m.where(mu < 1, ax + (p - ax) * mu, p)


@rule(buffers="prev step_size", scalars="etaminus etaplus step_size_min step_size_max")
def rprop(
    m, p, g, prev, step_size, etaminus, etaplus, step_size_min, step_size_max, *, maximize
):  # fmt: skip
    g = _signed(g, maximize)
    agreement = g * prev
    step_size = m.where(
        agreement > 0,
        step_size * etaplus,
        m.where(agreement < 0, step_size * etaminus, step_size),
    )
    step_size = m.minimum(m.maximum(step_size, step_size_min), step_size_max)
    g = m.where(agreement < 0, 0.0, g)
    return p - m.sign(g) * step_size, g, step_size
