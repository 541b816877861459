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


def step(mode: str, gx: Tensor, gh: Tensor, state: Any) -> Any:
    """The new state (a pair for the LSTM) from both parts (..., gates H) of the gates, which are in
    torch's order."""
    if mode == "LSTM":
        gx, gh, old = _alike(gx, gh, state[1])
        return ops.lstm_step(gx, gh, old)[:2]
    if mode == "GRU":
        return ops.gru_step(*_alike(gx, gh, state))[0]
    return (ops.tanh_hidden_state if mode == "RNN_TANH" else ops.relu_hidden_state)(gx, gh)


def _alike(gx: Tensor, gh: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Operands in one dtype: products under autocast have another than the state."""
    if gx.dtype is gh.dtype is state.dtype:
        return gx, gh, state
    wide = lampion.promote_types(lampion.promote_types(gx.dtype, gh.dtype), state.dtype)
    return gx.to(wide), gh.to(wide), state.to(wide)


def cell(mode: str, input: Tensor, state: Any, weights: Sequence[Tensor | None]) -> Any:
    """One step from the input itself: weights are w_ih, w_hh, b_ih, b_hh."""
    w_ih, w_hh, b_ih, b_hh = weights
    return step(mode, ops.linear(input, w_ih, b_ih), ops.linear(_hidden(state), w_hh, b_hh), state)


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
    if bias and mode != "GRU":  # added before the gates, which only the GRU's reset parts
        b_ih, b_hh = b_ih + b_hh, None
    w_hr = weights[-1] if projected else None

    def advance(gx: Tensor, state: Any) -> Any:
        new = step(mode, gx, ops.linear(_hidden(state), w_hh, b_hh), state)
        return new if w_hr is None else (ops.linear(new[0], w_hr), new[1])

    gates = ops.linear(data, w_ih, b_ih)
    if sizes is not None:
        return _run_packed(gates.split(sizes), state, advance, reverse, sizes)
    outputs = []
    steps = gates.unbind(0)
    for gx in (reversed(steps) if reverse else steps):
        state = advance(gx, state)
        outputs.append(_hidden(state))
    # The last state gets memory of its own: a compiled walk then computes all in the output's.
    last = _hidden(state).clone()
    state = (last, state[1]) if isinstance(state, tuple) else last
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
