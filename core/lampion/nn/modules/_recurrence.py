"""The steps of recurrent layers and the walk of one direction over a sequence.

A step takes the gates' parts from the input and from the state, and the old state. Packed data is
a list of steps with falling batch sizes, which the reverse direction walks with rising ones. May
import: lampion.ops.recurrent, nn._ops, the compiler.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lampion
import lampion.ops.recurrent
from lampion.nn._ops import ops
from lampion.tensor import Tensor

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def step(mode: str, gx: Sequence[Tensor], gh: Sequence[Tensor], state: Any) -> Any:
    """The new state (a pair for the LSTM) from the gates' parts, in torch's order."""
    if mode == "LSTM":
        (ix, fx, cx, ox), (ih, fh, ch, oh) = gx, gh
        cell = ops.lstm_cell_state(ix, ih, fx, fh, cx, ch, state[1])
        return ops.lstm_hidden_state(ox, oh, cell), cell
    if mode == "GRU":
        (rx, zx, nx), (rh, zh, nh) = gx, gh
        return ops.gru_hidden_state(rx, rh, zx, zh, nx, nh, state)
    if mode == "RNN_TANH":
        return ops.tanh_hidden_state(gx[0], gh[0])
    return ops.relu_hidden_state(gx[0], gh[0])


def _split(gates: Tensor, count: int) -> Sequence[Tensor]:
    """The gates of a (..., count H) tensor."""
    return (gates,) if count == 1 else gates.chunk(count, -1)


def cell(mode: str, input: Tensor, state: Any, weights: Sequence[Tensor | None]) -> Any:
    """One step from the input itself: weights are w_ih, w_hh, b_ih, b_hh."""
    w_ih, w_hh, b_ih, b_hh = weights
    count, hidden = GATES[mode], _hidden(state)
    return step(mode, _split(ops.linear(input, w_ih, b_ih), count),
                _split(ops.linear(hidden, w_hh, b_hh), count), state)


_programs: list[Any] = []
_LEAST_STEPS = 4


def run(mode: str, data: Tensor, state: Any, weights: list[Tensor], bias: bool, projected: bool,
        reverse: bool, sizes: list[int] | None) -> tuple[Tensor, Any]:
    """(output, final state) of one direction over (L, N, *) or packed data with batch `sizes`.

    Sequences of a shape that comes again run as a compiled program: a step is so little work that
    Python would take more time than the arithmetic, and the gradient of a weight is one product.
    """
    if (len(data) if sizes is None else len(sizes)) < _LEAST_STEPS:
        return walk(mode, data, state, weights, bias, projected, reverse, sizes)
    if not _programs:
        from lampion.compiler.function import Compiled

        _programs.append(Compiled(walk, options={"after": 2, "quiet": True}))
    return _programs[0](mode, data, state, weights, bias, projected, reverse, sizes)


def walk(mode: str, data: Tensor, state: Any, weights: list[Tensor], bias: bool, projected: bool,
        reverse: bool, sizes: list[int] | None) -> tuple[Tensor, Any]:
    """`run`, step by step."""
    w_ih, w_hh = weights[0], weights[1]
    b_ih, b_hh = (weights[2], weights[3]) if bias else (None, None)
    w_hr = weights[-1] if projected else None
    count = GATES[mode]

    def advance(gx: Sequence[Tensor], state: Any) -> Any:
        gh = _split(ops.linear(_hidden(state), w_hh, b_hh), count)
        new = step(mode, gx, gh, state)
        return new if w_hr is None else (ops.linear(new[0], w_hr), new[1])

    # Gate by gate, then step by step: the way back is one stack a gate and one cat.
    gates = _split(ops.linear(data, w_ih, b_ih), count)
    if sizes is not None:
        steps = list(zip(*(gate.split(sizes) for gate in gates)))
        return _run_packed(steps, state, advance, reverse, sizes)
    outputs = []
    steps = list(zip(*(gate.unbind(0) for gate in gates)))
    for gx in (reversed(steps) if reverse else steps):
        state = advance(gx, state)
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
