"""Sequences of different lengths: packed, padded and back.

May import: lampion.tensor, nn.functional.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import lampion
from lampion.nn import functional as F
from lampion.tensor import Tensor


class _Packed(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Packed):
    """A batch of sequences step by step: first elements of all, second elements of all, ...

    data (sum of lengths, *); batch_sizes (longest length), int64 on the CPU, how many sequences
    reach each step; sorted_indices order the batch by falling length and unsorted_indices undo it.
    Made by `pack_padded_sequence` and `pack_sequence`; recurrent layers take and return it.
    """

    __slots__ = ()

    def __new__(cls, data: Tensor, batch_sizes: Tensor | None = None,
                sorted_indices: Tensor | None = None,
                unsorted_indices: Tensor | None = None) -> PackedSequence:
        if batch_sizes is None:
            if not (isinstance(data, (list, tuple)) and len(data) == 2):
                raise AssertionError("PackedSequence takes data and batch_sizes")
            data, batch_sizes = data
        if batch_sizes.device.type != "cpu":
            raise ValueError("batch_sizes should always be on CPU. Instances of PackedSequence "
                             "should never be created manually. They should be instantiated by "
                             "functions like pack_sequence and pack_padded_sequences in "
                             "nn.utils.rnn.")
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same sequences with data (and the indices) moved or cast."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        move = {"device": data.device}
        order, back = (None if t is None else t.to(**move)
                       for t in (self.sorted_indices, self.unsorted_indices))
        return type(self)(data, self.batch_sizes, order, back)

    def cpu(self) -> PackedSequence:
        """The same sequences on the CPU."""
        return self.to("cpu")

    def double(self) -> PackedSequence:
        """The same sequences in float64."""
        return self.to(dtype=lampion.float64)

    def float(self) -> PackedSequence:
        """The same sequences in float32."""
        return self.to(dtype=lampion.float32)

    def half(self) -> PackedSequence:
        """The same sequences in float16."""
        return self.to(dtype=lampion.float16)

    def long(self) -> PackedSequence:
        """The same sequences in int64."""
        return self.to(dtype=lampion.int64)

    def int(self) -> PackedSequence:
        """The same sequences in int32."""
        return self.to(dtype=lampion.int32)

    def pin_memory(self) -> PackedSequence:
        """The same sequences, the data in pinned memory."""
        return type(self)(self.data.pin_memory(), self.batch_sizes, self.sorted_indices,
                          self.unsorted_indices)

    def is_pinned(self) -> bool:
        """Is the data in pinned memory?"""
        return self.data.is_pinned()


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes `permutation`."""
    if permutation is None:
        return None
    positions = lampion.arange(permutation.numel(), device=permutation.device,
                               dtype=permutation.dtype)
    return lampion.empty_like(permutation).scatter_(0, permutation, positions)


def pack_padded_sequence(input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False,
                         enforce_sorted: bool = True) -> PackedSequence:
    """Pack (T, B, *), or (B, T, *) with batch_first, whose sequences have `lengths`.

    enforce_sorted wants falling lengths (RuntimeError otherwise); without it the batch is sorted.

    >>> nn.utils.rnn.pack_padded_sequence(lampion.zeros(3, 2), [3, 1]).batch_sizes
    tensor([2, 1, 1])
    """
    lengths = lampion.as_tensor(lengths, dtype=lampion.int64)
    if lengths.device.type != "cpu":
        raise RuntimeError("'lengths' argument should be a 1D CPU int64 tensor, but got a tensor "
                           f"on {lengths.device}")
    order = None
    if not enforce_sorted:
        lengths, order = lengths.sort(descending=True)
        order = order.to(input.device)
        input = input.index_select(0 if batch_first else 1, order)
    if batch_first:
        input = input.transpose(0, 1)
    sizes = _batch_sizes(lengths.tolist(), input)
    parts, step = [], 0
    for size, group in groupby(sizes):
        count = len(list(group))
        parts.append(input[step:step + count, :size].reshape(count * size, *input.shape[2:]))
        step += count
    data = parts[0] if len(parts) == 1 else lampion.cat(parts, 0)
    return PackedSequence(data, lampion.tensor(sizes, dtype=lampion.int64, device="cpu"), order,
                          None)


def _batch_sizes(lengths: list[int], input: Tensor) -> list[int]:
    """How many of the falling `lengths` reach each step."""
    if len(lengths) != input.size(1):
        raise RuntimeError(f"Expected `len(lengths)` to be equal to batch_size, but got "
                           f"{len(lengths)} "
                           f"(batch_size={input.size(1)})")
    if any(a < b for a, b in pairwise(lengths)):
        raise RuntimeError("`lengths` array must be sorted in decreasing order when "
                           "`enforce_sorted` is True. You can pass `enforce_sorted=False` to "
                           "pack_padded_sequence and/or pack_sequence to sidestep this requirement "
                           "if you do not need ONNX exportability.")
    if lengths and lengths[-1] <= 0:
        raise RuntimeError("Length of all samples has to be greater than 0, but found an element "
                           "in 'lengths' that is <= 0")
    if lengths and lengths[0] > input.size(0):
        raise RuntimeError(f"Expected lengths of at most {input.size(0)} steps, got {lengths[0]}")
    sizes, alive = [], len(lengths)
    for step in range(lengths[0] if lengths else 0):
        while lengths[alive - 1] <= step:
            alive -= 1
        sizes.append(alive)
    return sizes


def pad_packed_sequence(sequence: PackedSequence, batch_first: bool = False,
                        padding_value: float = 0.0,
                        total_length: int | None = None) -> tuple[Tensor, Tensor]:
    """(padded (T, B, *) or (B, T, *), lengths) of packed sequences; T is the longest or
    total_length.
    """
    sizes = sequence.batch_sizes.tolist()
    if total_length is not None and total_length < len(sizes):
        raise ValueError("Expected total_length to be at least the length of the longest sequence "
                         f"in input, but got total_length={total_length} and max sequence length "
                         f"being {len(sizes)}")
    data, batch, offset, parts = sequence.data, sizes[0], 0, []
    trailing = data.shape[1:]
    for size, group in groupby(sizes):
        count = len(list(group))
        part = data[offset:offset + count * size].reshape(count, size, *trailing)
        offset += count * size
        missing = (0, 0) * len(trailing) + (0, batch - size)
        parts.append(F.pad(part, missing, "constant", padding_value) if size < batch else part)
    padded = parts[0] if len(parts) == 1 else lampion.cat(parts, 0)
    if total_length is not None and total_length > len(sizes):
        missing = (0, 0) * (padded.dim() - 1) + (0, total_length - len(sizes))
        padded = F.pad(padded, missing, "constant", padding_value)
    lengths = lampion.tensor([sum(size > i for size in sizes) for i in range(batch)],
                             dtype=lampion.int64)
    padded = padded.transpose(0, 1) if batch_first else padded
    back = sequence.unsorted_indices
    if back is not None:
        return padded.index_select(0 if batch_first else 1, back), lengths[back.cpu()]
    return padded, lengths


def pad_sequence(sequences: Tensor | Sequence[Tensor], batch_first: bool = False,
                 padding_value: float = 0.0, padding_side: str = "right") -> Tensor:
    """Stack tensors (L_i, *) to (T, B, *), or (B, T, *) with batch_first, padding the shorter
    ones.

    >>> nn.utils.rnn.pad_sequence([lampion.ones(2), lampion.ones(1)], batch_first=True)
    tensor([[1., 1.],
            [1., 0.]])
    """
    if not isinstance(sequences, (Iterable, Tensor)):
        raise RuntimeError("pad_sequence: Expected iterable for input sequences, but got arg of "
                           f"type: {type(sequences)}")
    tensors = list(sequences.unbind(0)) if isinstance(sequences, Tensor) else list(sequences)
    if not tensors:
        raise RuntimeError("received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise RuntimeError("Expected padding_side to be one of left or right, but got "
                           f"{padding_side}.")
    longest = max(t.size(0) for t in tensors)
    padded = []
    for tensor in tensors:
        gap = longest - tensor.size(0)
        sides = (gap, 0) if padding_side == "left" else (0, gap)
        missing = (0, 0) * (tensor.dim() - 1) + sides
        padded.append(F.pad(tensor, missing, "constant", padding_value) if gap else tensor)
    return lampion.stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Tensor,
                   batch_first: bool = False) -> list[Tensor]:
    """The list of sequences (L_i, *) that `pad_sequence` stacked."""
    if not batch_first:
        padded_sequences = padded_sequences.transpose(0, 1)
    sizes = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
    return [sequence[:size] for sequence, size in zip(padded_sequences.unbind(0), sizes)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack a list of tensors (L_i, *)."""
    lengths = lampion.tensor([t.size(0) for t in sequences], dtype=lampion.int64)
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The list of sequences that `pack_sequence` packed."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
