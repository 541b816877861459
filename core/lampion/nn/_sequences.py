"""ctc_loss and the embeddings of nn.functional.

May import: nn._ops, lampion.tensor.
"""
from __future__ import annotations

from itertools import pairwise
from typing import Any

import lampion
from lampion.nn._ops import ops
from lampion.replay import replayed
from lampion.tensor import Tensor
from lampion.wholes import one_by_one

_NEVER = -1e30  # log of zero that keeps gradients finite


@replayed
@one_by_one
def ctc_loss(log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any,
             blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> Tensor:
    """-log of the summed probability of all alignments of `targets` to the inputs.

    log_probs (T, N, C) or (T, C); targets (N, S), or (sum of lengths) joined; lengths (N). The
    mean divides each loss by its target length first; zero_infinity makes impossible targets cost
    nothing.
    """
    batched = log_probs.dim() == 3
    if not batched:
        if log_probs.dim() != 2:
            raise RuntimeError("ctc_loss: log_probs must be 2-D or 3-D")
        log_probs = log_probs.unsqueeze(1)
        targets = targets.unsqueeze(0) if targets.dim() == 1 else targets
    steps, batch, classes = log_probs.shape
    sizes, lengths = _lengths(input_lengths), _lengths(target_lengths)
    _check_ctc(sizes, lengths, steps, batch, classes, blank)
    losses = _ctc(log_probs, _padded_targets(targets, lengths), sizes, lengths, blank)
    infinite = losses > -_NEVER / 2
    fill = 0.0 if zero_infinity else float("inf")
    if log_probs.requires_grad and steps:
        losses = losses + _normaliser(log_probs, sizes)
    losses = lampion.where(infinite, lampion.full_like(losses, fill), losses)
    if reduction == "mean":
        counts = lampion.tensor([max(n, 1) for n in lengths], dtype=losses.dtype,
                                device=losses.device)
        return (losses / counts).mean()
    if reduction == "sum":
        return losses.sum()
    if reduction != "none":
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return losses if batched else losses.squeeze(0)


def _normaliser(log_probs: Tensor, sizes: list[int]) -> Tensor:
    """Zeros (N) whose gradient is the probabilities of the steps in use.

    The sum of a step's probabilities is 1 and constant in what log_softmax was taken of, so that
    the gradient there is the same with and without; with it, the gradient of log_probs is the one
    that PyTorch gives, the difference of predicted and posterior probabilities (Graves 2006).
    """
    step = lampion.arange(log_probs.size(0), device=log_probs.device).unsqueeze(1)
    used = step < lampion.tensor(sizes, device=log_probs.device)
    total = lampion.where(used, log_probs.exp().sum(2), 0.0).sum(0)
    return total - total.detach()


def _lengths(lengths: Any) -> list[int]:
    values = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
    return values if isinstance(values, list) else [values]


def _check_ctc(sizes: list[int], lengths: list[int], steps: int, batch: int, classes: int,
               blank: int) -> None:
    if not 0 <= blank < classes:
        raise RuntimeError("blank must be in label range")
    if len(sizes) != batch:
        raise RuntimeError("input_lengths must be of size batch_size")
    if len(lengths) != batch:
        raise RuntimeError("target_lengths must be of size batch_size")
    for i, size in enumerate(sizes):
        if size > steps:
            raise RuntimeError(f"Expected input_lengths to have value at most {steps}, but got "
                               f"value {size} (while checking batch element {i})")
        if size < 0 or lengths[i] < 0:
            raise RuntimeError("ctc_loss: lengths must be non-negative")


def _padded_targets(targets: Tensor, lengths: list[int]) -> Tensor:
    """(N, longest) with whatever behind the end."""
    if targets.dim() == 2:
        if lengths and max(lengths) > targets.size(1):
            raise RuntimeError(f"Expected tensor to have size at least {max(lengths)} at dimension "
                               f"1, but got size {targets.size(1)} for argument #2 'targets'")
        return targets.to(lampion.int64)
    if sum(lengths) != targets.numel():
        raise RuntimeError(f"Expected target_lengths to sum to {targets.numel()}, the number of "
                           f"targets, but got {sum(lengths)}")
    width, start, rows = max(lengths, default=0), 0, []
    flat = targets.to(lampion.int64)
    for length in lengths:
        row = flat[start:start + length]
        gap = flat.new_zeros(width - length)
        rows.append(lampion.cat([row, gap]) if length < width else row)
        start += length
    return lampion.stack(rows)


def _ctc(log_probs: Tensor, targets: Tensor, sizes: list[int], lengths: list[int],
         blank: int) -> Tensor:
    """Losses (N) by the forward recursion over targets with blanks between the labels."""
    steps, batch, _ = log_probs.shape
    width = targets.size(1)
    device, dtype = log_probs.device, log_probs.dtype
    labels = lampion.full((batch, 2 * width + 1), blank, dtype=lampion.int64, device=device)
    if width:
        labels[:, 1::2] = targets
    never = lampion.full((batch, 1), _NEVER, dtype=dtype, device=device)
    skip = lampion.full((batch, 2 * width + 1), _NEVER, dtype=dtype, device=device)
    if width > 1:
        differs = targets[:, 1:] != targets[:, :-1]
        skip[:, 3::2] = lampion.where(differs, 0.0, _NEVER).to(dtype)
    emitted = log_probs.gather(2, labels.unsqueeze(0).expand(steps, -1, -1))
    ends = lampion.tensor(sizes, device=device).unsqueeze(1)
    start = lampion.full((batch, 2 * width + 1), _NEVER, dtype=dtype, device=device)
    start[:, :2] = 0.0
    alpha = start + emitted[0] if steps else start
    for t in range(1, max(sizes, default=0)):
        one = lampion.cat([never, alpha[:, :-1]], 1)
        two = lampion.cat([never, never, alpha[:, :-2]], 1)[:, :2 * width + 1] + skip
        moved = lampion.stack([alpha, one, two]).logsumexp(0) + emitted[t]
        alpha = lampion.where(ends > t, moved, alpha)
    last = lampion.tensor([2 * n for n in lengths], device=device).unsqueeze(1)
    before = lampion.tensor([max(2 * n - 1, 0) for n in lengths], device=device).unsqueeze(1)
    closing = alpha.gather(1, last)
    single = lampion.tensor([n == 0 for n in lengths], device=device).unsqueeze(1)
    earlier = lampion.where(single, never, alpha.gather(1, before))
    total = -lampion.cat([closing, earlier], 1).logsumexp(1)
    silent = lampion.tensor([size == 0 for size in sizes], device=device)
    empty = lampion.tensor([0.0 if n == 0 else -_NEVER for n in lengths], dtype=dtype,
                           device=device)
    return lampion.where(silent, empty, total)


# ---- embeddings ---------------------------------------------------------------------------------


def _lookup(weight: Tensor, input: Tensor, padding_idx: int, by_count: bool,
            sparse: bool) -> Tensor:
    """Rows of the table, whose gradient is sparse if asked for."""
    if not (sparse and weight.requires_grad and lampion.is_grad_enabled()):
        return ops.embedding(weight, input, padding_idx, by_count)
    from lampion.nn._sparse_rows import SparseRows

    return SparseRows.apply(weight, input, padding_idx, by_count)


def _padding_row(padding_idx: int | None, weight: Tensor) -> int | None:
    if padding_idx is None:
        return None
    rows = weight.size(0)
    if not -rows <= padding_idx < rows:
        raise AssertionError("Padding_idx must be within num_embeddings")
    return padding_idx % rows


def _renormalize(weight: Tensor, input: Tensor, max_norm: float, norm_type: float) -> None:
    """Shrink, in place, the rows of `weight` that `input` names to at most max_norm."""
    with lampion.no_grad():
        rows = input.reshape(-1)
        picked = weight.index_select(0, rows)
        norms = picked.norm(norm_type, 1, True)
        scale = lampion.where(norms > max_norm, max_norm / (norms + 1e-7), lampion.ones_like(norms))
        weight.index_copy_(0, rows, picked * scale)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None,
              max_norm: float | None = None, norm_type: float = 2.0,
              scale_grad_by_freq: bool = False, sparse: bool = False) -> Tensor:
    """Rows of weight (V, D) by index (*): (*, D). The row padding_idx gets no gradient.

    >>> F.embedding(lampion.tensor([1, 0]), lampion.eye(2))
    tensor([[0., 1.],
            [1., 0.]])
    """
    if padding_idx is not None:
        padding_idx = _padding_row(padding_idx, weight)
    if max_norm is not None:
        _renormalize(weight, input, max_norm, norm_type)
    return _lookup(weight, input, -1 if padding_idx is None else padding_idx, scale_grad_by_freq,
                   sparse)


@replayed
@one_by_one
def embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None,
                  max_norm: float | None = None, norm_type: float = 2,
                  scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
                  per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
                  padding_idx: int | None = None) -> Tensor:
    """Sum, mean or max of the rows of weight (V, D) in each bag: (B, D).

    input (B, N), or (N) with offsets (B) of the bags' first elements. Rows at padding_idx do not
    count; empty bags are zero. per_sample_weights, shaped as input, go with mode 'sum'.
    """
    _check_bag(input, weight, offsets, mode, per_sample_weights, scale_grad_by_freq)
    padding_idx = _padding_row(padding_idx, weight)
    if max_norm is not None:
        _renormalize(weight, input, max_norm, norm_type)
    if input.dim() == 2:
        starts = list(range(0, input.numel() + 1, input.size(1))) if input.size(1) \
            else [0] * (input.size(0) + 1)
        per_sample_weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
    else:
        starts = _bag_starts(input, offsets, include_last_offset)
    flat = input.reshape(-1)
    bags = [bag for bag, (a, b) in enumerate(pairwise(starts)) for _ in range(b - a)]
    bag_of = lampion.tensor(bags, dtype=lampion.int64, device=weight.device)
    if padding_idx is not None:
        kept = (flat != padding_idx).nonzero().squeeze(1)
        flat, bag_of = flat.index_select(0, kept), bag_of.index_select(0, kept)
        if per_sample_weights is not None:
            per_sample_weights = per_sample_weights.index_select(0, kept)
    rows = _lookup(weight, flat, -1, scale_grad_by_freq, sparse)
    if weight.dtype.itemsize == 2:  # added up in float32
        rows = rows.float()
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    return _reduce_bags(rows, bag_of, len(starts) - 1, mode).to(weight.dtype)


def _check_bag(input: Tensor, weight: Tensor, offsets: Tensor | None, mode: str,
               per_sample_weights: Tensor | None, scale_grad_by_freq: bool) -> None:
    if input.dim() not in (1, 2):
        raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension "
                         f"{input.dim()}")
    if input.dim() == 2 and offsets is not None:
        raise ValueError("if input is 2D, then offsets has to be None, as input is treated is a "
                         "mini-batch of fixed length sequences. However, found offsets of type "
                         f"{type(offsets)}")
    if input.dim() == 1:
        if offsets is None:
            raise ValueError("offsets has to be a 1D Tensor but got None")
        if offsets.dim() != 1:
            raise ValueError("offsets has to be a 1D Tensor")
    if mode not in ("sum", "mean", "max"):
        raise ValueError("mode has to be one of sum, mean or max")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError("max mode does not support scaling the gradient by the frequency")
    if per_sample_weights is not None:
        if mode != "sum":
            raise NotImplementedError("embedding_bag: per_sample_weights was not None. "
                                      "per_sample_weights is only supported for mode='sum' "
                                      f"(got mode='{mode}').")
        if per_sample_weights.shape != input.shape:
            raise ValueError(f"embedding_bag: If per_sample_weights ({per_sample_weights.shape}) "
                             "is not None, then it must have the same shape as the input "
                             f"({input.shape})")


def _bag_starts(input: Tensor, offsets: Tensor, include_last_offset: bool) -> list[int]:
    """The bags' first elements and, at the end, the number of elements."""
    starts = offsets.tolist()
    if starts and starts[0] != 0:
        raise RuntimeError("offsets[0] has to be 0, i.e., the first sequence in the mini-batch "
                           f"has to start from position 0. However, got {starts[0]}")
    if starts and starts[-1] > input.size(0):
        raise RuntimeError(f"offsets[-1] can not be greater than input's length({input.size(0)}) "
                           f"but got offsets[-1] of {starts[-1]}")
    return starts if include_last_offset else [*starts, input.size(0)]


def _reduce_bags(rows: Tensor, bag_of: Tensor, bags: int, mode: str) -> Tensor:
    out = lampion.zeros((bags, rows.size(1)), dtype=rows.dtype, device=rows.device)
    if mode == "max":
        index = bag_of.unsqueeze(1).expand(-1, rows.size(1))
        return out.scatter_reduce(0, index, rows, "amax", include_self=False)
    summed = out.index_add(0, bag_of, rows)
    if mode == "sum":
        return summed
    counts = lampion.zeros(bags, dtype=rows.dtype, device=rows.device)
    counts = counts.index_add(0, bag_of, lampion.ones(bag_of.numel(), dtype=rows.dtype,
                                                      device=rows.device))
    return summed / counts.clamp(min=1).unsqueeze(1)
