"""Cross-entropy of a linear layer's outputs without ever holding all of them.

The rows are done a chunk at a time and each chunk's logits are made again in the backward, so
memory is that of one chunk. May import: nn._ops, utils.checkpoint, lampion.tensor.
"""
from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import lampion
from lampion.base.dtype import dtype
from lampion.nn._ops import ops
from lampion.tensor import Tensor
from lampion.utils.checkpoint import checkpoint

_POLICIES = ("auto", "accurate", "balanced", "compact")


@dataclass(frozen=True)
class LinearCrossEntropyOptions:
    """How `linear_cross_entropy` divides its rows into chunks.

    `batch_chunk_size` rows at a time, or, where it is None, so many that a chunk's logits take
    about the memory of the input ("aspect_ratio"), or a half, a third... of it ("aspect_ratio:2",
    ":3"). "auto" is "aspect_ratio:2". `acc_dtype`, or float32 with acc_policy "accurate", is what
    16-bit inputs are computed in. `allow_retain_graph` is accepted: a graph may always be kept.

    Gradients of any order, forward mode and `func` transforms work as without options.

    Raises:
        ValueError: for an unknown policy or method, or a size below 1.

    >>> nn.LinearCrossEntropyOptions(batch_chunk_size=2).acc_policy
    'auto'
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: str = "auto"
    acc_dtype: dtype | None = None

    def __post_init__(self) -> None:
        if self.acc_policy not in _POLICIES:
            raise ValueError(f"invalid acc_policy: {self.acc_policy!r}")
        if self.chunking_method not in (None, "auto") and not _shares(self.chunking_method):
            raise ValueError(f"invalid chunking_method: {self.chunking_method!r}")
        size = self.batch_chunk_size
        if size is not None and not (isinstance(size, int) and size > 0):
            raise ValueError(f"batch_chunk_size must be positive int or None, got {size!r}")


def _shares(method: str) -> int:
    """The N of "aspect_ratio:N"; 0 if the text is something else."""
    name, colon, factor = method.partition(":")
    factor = factor if colon else "1"
    return int(factor) if name == "aspect_ratio" and factor.isdigit() else 0


def _rows(options: Any, count: int, features: int, classes: int) -> int:
    """Rows of a chunk. ValueError if size and method disagree."""
    size, method = options.batch_chunk_size, options.chunking_method
    if method == "auto":
        method = None if size is not None else "aspect_ratio:2"
    if method is None:
        return max(1, count if size is None else min(size, count))
    wide = max(1, -(-classes // features))
    share = 1 << max(0, -(-count // wide) - 1).bit_length()
    rows = max(1, min(share // _shares(method), count))
    if size is not None and size != rows:
        raise ValueError(f"batch_chunk_size (={size}) and chunking_method ('{method}') give "
                         f"different chunk sizes ({size} vs {rows}); pass only one.")
    return rows


def linear_cross_entropy(input: Tensor, linear_weight: Tensor, target: Tensor, *,
                         linear_bias: Tensor | None = None, weight: Tensor | None = None,
                         reduction: str = "mean", ignore_index: int | None = None,
                         label_smoothing: float = 0.0, options: Any = None) -> Tensor:
    """`cross_entropy(linear(input, linear_weight, linear_bias), target)`; see
    `LinearCrossEntropyOptions` for `options`, which save memory where there are many classes.

    >>> x, w, t = lampion.ones(4, 3), lampion.ones(5, 3), lampion.tensor([0, 1, 2, 3])
    >>> F.linear_cross_entropy(x, w, t, options=nn.LinearCrossEntropyOptions(batch_chunk_size=2))
    tensor(1.6094)
    """
    rest: dict[str, Any] = {"linear_bias": linear_bias, "weight": weight,
                            "ignore_index": ignore_index}
    plain = ops.linear_cross_entropy
    if options is None:
        return plain(input, linear_weight, target, reduction=reduction,
                     label_smoothing=label_smoothing, **rest)
    if (linear_weight.ndim != 2 or input.ndim not in (1, 2) or label_smoothing != 0.0
            or reduction not in ("none", "mean", "sum") or target.dtype is not lampion.int64):
        warnings.warn("linear_cross_entropy: options are ignored: chunks need one dim of classes, "
                      "targets that are classes (int64), no label smoothing, and a reduction among "
                      f"'none', 'mean' and 'sum'; got weights {list(linear_weight.shape)}, "
                      f"{target.dtype!r} targets, label_smoothing={label_smoothing}, "
                      f"reduction={reduction!r}", stacklevel=2)
        return plain(input, linear_weight, target, reduction=reduction,
                     label_smoothing=label_smoothing, **rest)
    kind = input.dtype
    wide = options.acc_dtype or (lampion.float32 if options.acc_policy == "accurate"
                                 and kind.itemsize == 2 else kind)
    if wide is not kind:
        input, linear_weight = input.to(wide), linear_weight.to(wide)
        rest.update({n: t.to(wide) for n, t in rest.items() if isinstance(t, Tensor)})
    alone = input.ndim == 1
    x, t = (input[None], target[None]) if alone else (input, target)
    rows = _rows(options, x.shape[0], x.shape[1], linear_weight.shape[0])
    part = "none" if reduction == "none" else "sum"

    def chunk(x: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return plain(x, w, t, reduction=part, **rest)

    losses = [checkpoint(chunk, a, b, linear_weight, use_reentrant=False, preserve_rng_state=False)
              if len(x) > rows else chunk(a, b, linear_weight)
              for a, b in zip(x.split(rows), t.split(rows))]
    if reduction == "none":
        out = lampion.cat(losses) if losses else chunk(x, t, linear_weight)
        return (out[0] if alone else out).to(kind)
    total = sum(losses[1:], losses[0])
    if reduction == "mean":
        ignored = -100 if ignore_index is None else ignore_index
        counted = t != ignored
        total = total / (counted.sum() if weight is None else
                         weight[lampion.where(counted, t, 0)].masked_fill(~counted, 0).sum())
    return total.to(kind)
