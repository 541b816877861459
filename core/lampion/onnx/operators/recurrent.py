"""ONNX's recurrent layers. Floor 7; imports lampion and this package.

Shapes are ONNX's: input (time, batch, features), weights (directions, gates * hidden, ...), states
(directions, batch, hidden); with `layout` 1 the batch comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lampion

from ...nn import functional as F
from ..table import operator

_ACTIVATIONS: dict[str, tuple[Callable[..., Any], float | None, float | None]] = {
    # name -> (function of x, alpha, beta; default alpha, beta)
    "relu": (lambda x, a, b: F.relu(x), None, None),
    "tanh": (lambda x, a, b: x.tanh(), None, None),
    "sigmoid": (lambda x, a, b: x.sigmoid(), None, None),
    "affine": (lambda x, a, b: x * a + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: F.leaky_relu(x, a), 0.01, None),
    "thresholdedrelu": (lambda x, a, b: F.threshold(x, a, 0.0), 1.0, None),
    "scaledtanh": (lambda x, a, b: (x * b).tanh() * a, 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: (x * a + b).clamp(0.0, 1.0), 0.2, 0.5),
    "elu": (lambda x, a, b: F.elu(x, a), 1.0, None),
    "softsign": (lambda x, a, b: F.softsign(x), None, None),
    "softplus": (lambda x, a, b: F.softplus(x), None, None)}


def _activations(names: Sequence[str], alphas: Sequence[float] | None,
                 betas: Sequence[float] | None) -> list[Callable[[Any], Any]]:
    """Functions of one argument; the numbers are dealt out to those that take some."""
    a, b = list(alphas or ()), list(betas or ())
    out = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise ValueError(f"no activation is called {name!r}")
        fn, alpha, beta = _ACTIVATIONS[name.lower()]
        if alpha is not None and a:
            alpha = a.pop(0)
        if beta is not None and b:
            beta = b.pop(0)
        out.append(lambda x, fn=fn, alpha=alpha, beta=beta: fn(x, alpha, beta))
    return out


def _run(X: Any, W: Any, R: Any, B: Any, lens: Any, states: Sequence[Any], gates: int,
         hidden: int, direction: str, layout: int, activations: Sequence[Any], each: int,
         cell: Callable[..., Any]) -> tuple[Any, ...]:
    """All directions of a layer: (Y, last states...).

    `cell(x, states, R, recurrent bias, activations, direction) -> new states`, where x is a step's
    input by W with its bias.
    """
    if layout:
        X = X.transpose(0, 1)
        states = [None if s is None else s.transpose(0, 1) for s in states]
    steps, batch = X.shape[:2]
    columns, lasts = [], []
    for d in range(W.shape[0]):
        backwards = direction == "reverse" or d == 1
        wb, rb = (None, None) if B is None else B[d].split(gates * hidden)
        mine = [lampion.zeros(batch, hidden, dtype=X.dtype, device=X.device) if s is None
                else s[d] for s in states]
        inputs = F.linear(X, W[d], wb)
        rows: list[Any] = [None] * steps
        for t in reversed(range(steps)) if backwards else range(steps):
            new = cell(inputs[t], mine, R[d], rb, activations[each * d:each * (d + 1)], d)
            if lens is not None:
                alive = (lens > t).reshape(-1, 1)
                new = [lampion.where(alive, a, b) for a, b in zip(new, mine)]
                rows[t] = lampion.where(alive, new[0], lampion.zeros_like(new[0]))
            else:
                rows[t] = new[0]
            mine = new
        columns.append(lampion.stack(rows))
        lasts.append(mine)
    Y = lampion.stack(columns, 1)
    finals = [lampion.stack([m[k] for m in lasts]) for k in range(len(states))]
    if layout:
        return (Y.permute(2, 0, 1, 3), *[f.transpose(0, 1) for f in finals])
    return (Y, *finals)


def _clipped(clip: float | None) -> Callable[[Any], Any]:
    return (lambda x: x) if clip is None else (lambda x: x.clamp(-clip, clip))


@operator("RNN")
def rnn(X: Any, W: Any, R: Any, B: Any = None, sequence_lens: Any = None, initial_h: Any = None,
        *, activation_alpha: Any = None, activation_beta: Any = None,
        activations: Sequence[str] = ("Tanh", "Tanh"), clip: float | None = None,
        direction: str = "forward", hidden_size: int | None = None, layout: int = 0) -> Any:
    """h' = f(W x + R h + b)."""
    limit = _clipped(clip)

    def cell(x: Any, states: Any, r: Any, rb: Any, fs: Any, d: int) -> list[Any]:
        return [fs[0](limit(x + F.linear(states[0], r, rb)))]

    return _run(X, W, R, B, sequence_lens, [initial_h], 1, R.shape[-1], direction, layout,
                _activations(activations, activation_alpha, activation_beta), 1, cell)


@operator("GRU")
def gru(X: Any, W: Any, R: Any, B: Any = None, sequence_lens: Any = None, initial_h: Any = None,
        *, activation_alpha: Any = None, activation_beta: Any = None,
        activations: Sequence[str] = ("Sigmoid", "Tanh") * 2, clip: float | None = None,
        direction: str = "forward", hidden_size: int | None = None, layout: int = 0,
        linear_before_reset: int = 0) -> Any:
    """Gates z, r and a candidate h, in this order in the weights."""
    limit, n = _clipped(clip), R.shape[-1]

    def cell(x: Any, states: Any, r: Any, rb: Any, fs: Any, d: int) -> list[Any]:
        (h,) = states
        past = F.linear(h, r[:2 * n], None if rb is None else rb[:2 * n])
        z, reset = fs[0](limit(x[:, :2 * n] + past)).chunk(2, 1)
        last = None if rb is None else rb[2 * n:]
        if linear_before_reset:
            own = reset * F.linear(h, r[2 * n:], last)
        else:
            own = F.linear(reset * h, r[2 * n:], last)
        new = fs[1](limit(x[:, 2 * n:] + own))
        return [(1 - z) * new + z * h]

    return _run(X, W, R, B, sequence_lens, [initial_h], 3, n, direction, layout,
                _activations(activations, activation_alpha, activation_beta), 2, cell)


@operator("LSTM")
def lstm(X: Any, W: Any, R: Any, B: Any = None, sequence_lens: Any = None, initial_h: Any = None,
         initial_c: Any = None, P: Any = None, *, activation_alpha: Any = None,
         activation_beta: Any = None, activations: Sequence[str] = ("Sigmoid", "Tanh", "Tanh") * 2,
         clip: float | None = None, direction: str = "forward", hidden_size: int | None = None,
         input_forget: int = 0, layout: int = 0) -> Any:
    """Gates i, o, f and a candidate c, in this order in the weights; P are peepholes i, o, f."""
    limit, n = _clipped(clip), R.shape[-1]

    def cell(x: Any, states: Any, r: Any, rb: Any, fs: Any, d: int) -> list[Any]:
        h, c = states
        i, o, f, g = (x + F.linear(h, r, rb)).chunk(4, 1)
        pi, po, pf = (0, 0, 0) if P is None else P[d].split(n)
        i = fs[0](limit(i + pi * c))
        f = 1 - i if input_forget else fs[0](limit(f + pf * c))
        new = f * c + i * fs[1](limit(g))
        return [fs[0](limit(o + po * new)) * fs[2](new), new]

    return _run(X, W, R, B, sequence_lens, [initial_h, initial_c], 4, n, direction, layout,
                _activations(activations, activation_alpha, activation_beta), 3, cell)
