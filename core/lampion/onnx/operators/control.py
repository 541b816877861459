"""ONNX's control flow. Floor 7; imports lampion and this package.

A graph among the attributes is a function of its inputs that returns a list of results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lampion

from ..table import operator
from ..values import from_array, is_host_only, on_host, to_array

Body = Any  # importing.Body: called with inputs, it gives a list of results


def _holds(condition: Any) -> bool:
    """A condition's value on the host."""
    return bool(to_array(condition).reshape(-1)[0])


@operator("If", host=(0,))
def if_(cond: Any, *, then_branch: Body, else_branch: Body) -> Any:
    """One of two graphs."""
    return tuple(then_branch() if _holds(cond) else else_branch())


def _stacked(parts: list[Any], axis: int = 0) -> Any:
    """Values of all iterations along a new dim."""
    if is_host_only(parts[0]):
        import numpy as np

        return np.stack(parts, axis)
    return lampion.stack(parts, axis)


@operator("Loop", host=(0,))
def loop(M: Any = None, cond: Any = None, *v_initial: Any, body: Body) -> Any:
    """A graph again and again: at most M times, while its condition holds."""
    limit = None if M is None else int(M.reshape(-1)[0])
    going = cond is None or _holds(cond)
    states, columns, k = list(v_initial), None, 0
    while going and (limit is None or k < limit):
        condition, *rest = body(on_host(k, dtype=lampion.int64), on_host(going), *states)
        states, new = rest[:len(states)], rest[len(states):]
        columns = [[] for _ in new] if columns is None else columns
        for column, v in zip(columns, new):
            column.append(v)
        going = _holds(condition)
        k += 1
    rows = body.nothing(1 + len(states)) if columns is None else map(_stacked, columns)
    return (*states, *rows)


@operator("Scan")
def scan(*initial_state_and_scan_inputs: Any, body: Body, num_scan_inputs: int,
         scan_input_axes: Sequence[int] | None = None,
         scan_input_directions: Sequence[int] | None = None,
         scan_output_axes: Sequence[int] | None = None,
         scan_output_directions: Sequence[int] | None = None,
         directions: Sequence[int] | None = None, opset: int = 9) -> Any:
    """A graph for every slice of the last inputs, handing states on."""
    values = list(initial_state_and_scan_inputs)
    if opset < 9:
        return _batched_scan(values, body, num_scan_inputs, directions)
    count = len(values) - num_scan_inputs
    states, inputs = values[:count], values[count:]
    axes = list(scan_input_axes or [0] * num_scan_inputs)
    backwards = list(scan_input_directions or [0] * num_scan_inputs)
    steps = inputs[0].shape[axes[0]]
    columns: list[list[Any]] | None = None
    for k in range(steps):
        rows = [x.select(a, steps - 1 - k if b else k)
                for x, a, b in zip(inputs, axes, backwards)]
        out = body(*states, *rows)
        states, new = out[:count], out[count:]
        columns = [[] for _ in new] if columns is None else columns
        for column, v in zip(columns, new):
            column.append(v)
    if columns is None:
        return (*states, *body.nothing(count))
    ends = list(scan_output_directions or [0] * len(columns))
    at = list(scan_output_axes or [0] * len(columns))
    return (*states, *[_stacked(c[::-1] if d else c, a) for c, d, a in zip(columns, ends, at)])


def _batched_scan(values: list[Any], body: Body, num_scan_inputs: int, directions: Any) -> Any:
    """Scan of opset 8: each example of a batch on its own, of its own length."""
    lens, values = values[0], values[1:]
    count = len(values) - num_scan_inputs
    batch = values[-1].shape[0]
    lengths = [values[-1].shape[1]] * batch if lens is None else to_array(lens).reshape(-1)
    examples = []
    for b in range(batch):
        mine = [v[b] for v in values[:count]] + [v[b][:int(lengths[b])] for v in values[count:]]
        examples.append(scan(*mine, body=body, num_scan_inputs=num_scan_inputs,
                             scan_input_directions=directions))
    return tuple(lampion.stack(parts) for parts in zip(*examples))


@operator("SequenceMap", host_only=True)
def sequence_map(input_sequence: list[Any], *additional_inputs: Any, body: Body) -> Any:
    """A graph for every value of a sequence (and of further ones)."""
    columns: list[list[Any]] = []
    for k, value in enumerate(input_sequence):
        rest = [x[k] if isinstance(x, list) else x for x in additional_inputs]
        out = body(value, *rest)
        columns = columns or [[] for _ in out]
        for column, v in zip(columns, out):
            column.append(v)
    return tuple(columns) or tuple([] for _ in body.graph.outputs)


@operator("Constant", host_only=True)
def constant(*, value: Any = None, sparse_value: Any = None, value_float: Any = None,
             value_floats: Any = None, value_int: Any = None, value_ints: Any = None,
             value_string: Any = None, value_strings: Any = None, device: Any = None) -> Any:
    """A value of the model itself."""
    import numpy as np

    for given, kind in ((value_float, np.float32), (value_floats, np.float32),
                        (value_int, np.int64), (value_ints, np.int64),
                        (value_string, object), (value_strings, object)):
        if given is not None:
            return from_array(np.asarray(given, kind), device)
    return value if value is not None else sparse_value
