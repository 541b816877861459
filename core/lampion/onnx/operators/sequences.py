"""ONNX's sequences and optionals: lists, and None for an optional that is empty. Floor 7; imports
lampion and this package."""

from __future__ import annotations

from typing import Any

import lampion

from ..table import operator
from ..values import on_host


def _position(position: Any, default: int) -> int:
    return default if position is None else int(position.reshape(-1)[0])


@operator("SequenceConstruct", host_only=True)
def sequence_construct(*inputs: Any) -> Any:
    """A sequence of values."""
    return (list(inputs),)


@operator("SequenceEmpty")
def sequence_empty(*, dtype: int = 1) -> Any:
    """A sequence of nothing."""
    return ([],)


@operator("SequenceInsert", host=(2,), host_only=True)
def sequence_insert(input_sequence: list[Any], tensor: Any, position: Any = None) -> Any:
    """A sequence with one value more."""
    out = list(input_sequence)
    at = _position(position, len(out))
    out.insert(at, tensor)
    return (out,)


@operator("SequenceErase", host=(1,), host_only=True)
def sequence_erase(input_sequence: list[Any], position: Any = None) -> Any:
    """A sequence with one value less."""
    out = list(input_sequence)
    del out[_position(position, -1)]
    return (out,)


@operator("SequenceAt", host=(1,), host_only=True)
def sequence_at(input_sequence: list[Any], position: Any) -> Any:
    """The value at a position."""
    return input_sequence[_position(position, 0)]


@operator("SequenceLength", host_only=True)
def sequence_length(input_sequence: list[Any]) -> Any:
    """How many values there are, in host memory."""
    return on_host(len(input_sequence), dtype=lampion.int64)


@operator("SplitToSequence", host=(1,))
def split_to_sequence(input: Any, split: Any = None, *, axis: int = 0, keepdims: int = 1) -> Any:
    """Parts along a dim as a sequence."""
    if split is None:
        parts = input.split(1, axis)
        return ([p if keepdims else p.squeeze(axis) for p in parts],)
    if split.ndim == 0:
        return (list(input.split(int(split), axis)),)
    return (list(input.split([int(s) for s in split], axis)),)


@operator("ConcatFromSequence")
def concat_from_sequence(input_sequence: list[Any], *, axis: int, new_axis: int = 0) -> Any:
    """The values of a sequence joined along a dim, or a new one."""
    return lampion.stack(input_sequence, axis) if new_axis else lampion.cat(input_sequence, axis)


@operator("Optional", host_only=True)
def optional(input: Any = None, *, type: Any = None) -> Any:
    """The value, or None."""
    return (input,)


@operator("OptionalGetElement", host_only=True)
def optional_get_element(input: Any) -> Any:
    """The value of an optional. RuntimeError if it is empty."""
    if input is None:
        raise RuntimeError("OptionalGetElement: the optional is empty")
    return (input,)


@operator("OptionalHasElement", host_only=True)
def optional_has_element(input: Any = None) -> Any:
    """Whether an optional is not empty."""
    return on_host(input is not None)


