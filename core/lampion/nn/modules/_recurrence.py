"""The steps of recurrent layers and the walk of one direction over a sequence.

A step takes the gates' sums from input and from state and the old state. Packed data is a list of
steps
with falling batch sizes, which the reverse direction walks with rising ones.
May import: nn.functional.
"""
from __future__ import annotations

from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.tensor import Tensor


def lstm_step(gx: Tensor, gh: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """(h', c') from the gate sums (N, 4 H) in the order i, f, g, o."""
    i, f, g, o = (gx + gh).chunk(4, 1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def gru_step(gx: Tensor, gh: Tensor, hidden: Tensor) -> Tensor:
    """h' from the gate sums (N, 3 H) in the order r, z, n."""
    rx, zx, nx = gx.chunk(3, 1)
    rh, zh, nh = gh.chunk(3, 1)
    n = (nx + (rx + rh).sigmoid() * nh).tanh()
    return n + (zx + zh).sigmoid() * (hidden - n)


def tanh_step(gx: Tensor, gh: Tensor, hidden: Tensor) -> Tensor:
    """h' = tanh(gx + gh)."""
    return (gx + gh).tanh()


def relu_step(gx: Tensor, gh: Tensor, hidden: Tensor) -> Tensor:
    """h' = relu(gx + gh)."""
    return (gx + gh).relu()


STEPS = {"GRU": gru_step, "RNN_TANH": tanh_step, "RNN_RELU": relu_step}


def _stepper(mode: str, weights: list[Tensor], bias: bool, projected: bool) -> Any:
    """(project all inputs, advance one step) of one direction."""
    w_ih, w_hh = weights[0], weights[1]
    b_ih, b_hh = (weights[2], weights[3]) if bias else (None, None)
    w_hr = weights[-1] if projected else None

    def project(data: Tensor) -> Tensor:
        return F.linear(data, w_ih, b_ih)

    def advance(gates: Tensor, state: Any) -> Any:
        if mode != "LSTM":
            return STEPS[mode](gates, F.linear(state, w_hh, b_hh), state)
        hidden, cell = lstm_step(gates, F.linear(state[0], w_hh, b_hh), state[1])
        return (hidden if w_hr is None else F.linear(hidden, w_hr)), cell

    return project, advance


def run(mode: str, data: Tensor, state: Any, weights: list[Tensor], bias: bool, projected: bool,
        reverse: bool, sizes: list[int] | None) -> tuple[Tensor, Any]:
    """(output, final state) of one direction over (L, N, *) or packed data with batch `sizes`."""
    project, advance = _stepper(mode, weights, bias, projected)
    gates = project(data)
    if sizes is not None:
        return _run_packed(gates.split(sizes), state, advance, reverse, sizes)
    outputs = []
    steps = gates.unbind(0)
    for step in (reversed(steps) if reverse else steps):
        state = advance(step, state)
        outputs.append(_hidden(state))
    if reverse:
        outputs.reverse()
    return lampion.stack(outputs, 0), state


def _hidden(state: Any) -> Tensor:
    return state[0] if isinstance(state, tuple) else state


def _rows(state: Any, start: int, stop: int) -> Any:
    """Batch rows start to stop of a state."""
    if isinstance(state, tuple):
        return tuple(t[start:stop] for t in state)
    return state[start:stop]


def _stack_rows(parts: list[Any]) -> Any:
    """States joined along the batch."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], tuple):
        return tuple(lampion.cat(group, 0) for group in zip(*parts))
    return lampion.cat(parts, 0)


def _run_packed(steps: Any, initial: Any, advance: Any, reverse: bool,
                sizes: list[int]) -> tuple[Tensor, Any]:
    """Forward, sequences end as the batch shrinks; in reverse they start as it grows."""
    outputs: list[Tensor] = []
    if reverse:
        state = _rows(initial, 0, sizes[-1])
        for step, size in zip(reversed(steps), reversed(sizes)):
            active = _hidden(state).size(0)
            if size > active:
                state = _stack_rows([state, _rows(initial, active, size)])
            state = advance(step, state)
            outputs.append(_hidden(state))
        outputs.reverse()
        return lampion.cat(outputs, 0), state
    state, ended = initial, []
    for step, size in zip(steps, sizes):
        active = _hidden(state).size(0)
        if size < active:
            ended.append(_rows(state, size, active))
            state = _rows(state, 0, size)
        state = advance(step, state)
        outputs.append(_hidden(state))
    ended.append(state)
    ended.reverse()
    return lampion.cat(outputs, 0), _stack_rows(ended)
