"""`flex_attention`: attention whose scores and masks are functions of the program.

Functions are written for one score and are run for all of them by vmap, so that what they capture
(a table of biases, the lengths of documents) may be any tensor and has gradients. The scores are
held as a whole. Floor 7; imports the tensor, vmap and the block masks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypedDict

from ...ops.registry import REGISTRY
from ...tensor import Tensor
from .. import functional as F
from ._block_mask import (
    _DEFAULT_SPARSE_BLOCK_SIZE,
    BlockMask,
    Mod,
    and_masks,
    create_block_mask,
    create_mask,
    indices,
    noop_mask,
    or_masks,
    over_scores,
)

__all__ = ["AuxOutput", "AuxRequest", "BlockMask", "FlexKernelOptions", "and_masks",
           "create_block_mask", "create_mask", "flex_attention", "noop_mask", "or_masks",
           "_DEFAULT_SPARSE_BLOCK_SIZE"]


class FlexKernelOptions(TypedDict, total=False):
    """Hints to other kernels; here they change nothing."""

    num_warps: int
    num_stages: int
    BLOCK_M: int
    BLOCK_N: int
    BACKEND: str


class AuxRequest(NamedTuple):
    """What else than the output is wanted."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """What was asked for, (B, H, L) each: the logarithm of the sum of the exponentials of a row of
    scores, and its largest score (without a gradient)."""

    lse: Tensor | None = None
    max_scores: Tensor | None = None


def flex_attention(query: Tensor, key: Tensor, value: Tensor, score_mod: Mod | None = None,
                   block_mask: BlockMask | None = None, scale: float | None = None,
                   enable_gqa: bool = False, return_lse: bool = False,
                   kernel_options: FlexKernelOptions | None = None, *,
                   return_aux: AuxRequest | None = None) -> Any:
    """softmax(score_mod(query @ key.T * scale)) @ value, where `block_mask` allows.

    query (B, Hq, L, E), key (B, Hkv, S, E), value (B, Hkv, S, Ev) give (B, Hq, L, Ev), with
    Hq = Hkv unless `enable_gqa`. `score_mod(score, b, h, q_idx, kv_idx)` gives the score that is
    used. A row with nothing allowed is 0, its logarithm minus infinity. With `return_aux` the
    result is (output, AuxOutput); `return_lse=True` is its older form, (output, lse).
    ValueError for sizes that do not fit, NotImplementedError for other numbers of dims.

    >>> from lampion.nn.attention.flex_attention import flex_attention
    >>> q = lampion.ones(1, 2, 3, 4)
    >>> flex_attention(q, q, q, lambda score, b, h, q_idx, kv_idx: score + h).shape
    lampion.Size([1, 2, 3, 4])
    """
    _check(query, key, value, enable_gqa, block_mask)
    if return_lse and return_aux is not None:
        raise ValueError("flex_attention: give return_aux or return_lse (its older form), not both")
    wanted = return_aux or AuxRequest(lse=return_lse)
    batch, heads = query.shape[:2]
    mask = None if block_mask is None else block_mask.allowed(batch, heads)
    if score_mod is None and not (wanted.lse or wanted.max_scores):
        out = F.scaled_dot_product_attention(query, key, value, mask, scale=scale,
                                             enable_gqa=enable_gqa)
        return out if return_aux is None else (out, AuxOutput())
    out, aux = _attend(query, key, value, score_mod, mask, scale, wanted)
    if return_lse:
        return out, aux.lse
    return out if return_aux is None else (out, aux)


def _attend(query: Tensor, key: Tensor, value: Tensor, score_mod: Mod | None,
            mask: Tensor | None, scale: float | None, wanted: AuxRequest,
            ) -> tuple[Tensor, AuxOutput]:
    """The output and what else is wanted; scores are float32 or wider."""
    (batch, heads, length, width), shared = query.shape, key.shape[1]
    dtype = query.dtype
    if dtype.itemsize < 4:
        query, key, value = query.float(), key.float(), value.float()
    groups = (shared, heads // shared) if heads else (shared, 1)  # heads of queries that share keys
    scores = (query.unflatten(1, groups) @ key.unsqueeze(2).mT).flatten(1, 2)
    scores = scores * ((1.0 / math.sqrt(width) if width else 1.0) if scale is None else scale)
    if score_mod is not None:
        places = indices(batch, heads, length, key.shape[2], device=query.device)
        scores = over_scores(score_mod, True)(scores, *places).to(query.dtype)
    weights = REGISTRY["attention_softmax"].fn(scores, mask, 1.0, False)
    out = (weights.unflatten(1, groups) @ value.unsqueeze(2)).flatten(1, 2).to(dtype)
    lse = top = None
    if wanted.lse or wanted.max_scores:
        held = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        if wanted.lse:
            lse = _logsumexp(held)
        if wanted.max_scores:
            top = held.detach().amax(-1)
    return out, AuxOutput(lse, top)


def _logsumexp(scores: Tensor) -> Tensor:
    """Of each row; minus infinity, with a gradient of 0, where all scores are."""
    top = scores.detach().amax(-1, True)
    top = top.masked_fill(top == -math.inf, 0.0)
    total = (scores - top).exp().sum(-1)
    empty = total == 0
    found = total.masked_fill(empty, 1.0).log() + top.squeeze(-1)
    return found.masked_fill(empty, -math.inf)


def _check(query: Tensor, key: Tensor, value: Tensor, gqa: bool,
           block_mask: BlockMask | None) -> None:
    if query.dim() != 4 or key.dim() != 4 or value.dim() != 4:
        raise NotImplementedError("flex_attention: query, key and value must be 4D tensors, got "
                                  f"{query.dim()}, {key.dim()} and {value.dim()} dims")
    if not query.dtype is key.dtype is value.dtype:
        raise ValueError(f"Expected query, key, and value to have the same dtype, but got "
                         f"query.dtype: {query.dtype}, key.dtype: {key.dtype}, and value.dtype: "
                         f"{value.dtype} instead.")
    if key.shape[:3] != value.shape[:3] or query.shape[3] != key.shape[3] or (
            query.shape[0] != key.shape[0] and key.shape[0] != 1):
        raise ValueError(f"flex_attention: query {list(query.shape)}, key {list(key.shape)} and "
                         f"value {list(value.shape)} do not fit: batches are the same or 1 in key "
                         "and value, query and key share the last dim, key and value the others")
    heads, shared = query.shape[1], key.shape[1]
    if not gqa and heads != shared:
        raise ValueError("Expect query and key/value to have the same number of heads but got "
                         f"Hq={heads} and Hkv={shared}. Try setting enable_gqa=True for GQA.")
    if gqa and (shared == 0 or heads % shared):
        raise ValueError("Expect number of query heads to be a multiple of kv heads for GQA but "
                         f"got Hq={heads} and Hkv={shared}.")
    if block_mask is None:
        return
    lengths = (query.shape[2], key.shape[2])
    if lengths != tuple(block_mask.seq_lengths):
        larger = all(a <= b for a, b in zip(lengths, block_mask.seq_lengths))
        remedy = (f"make one for these lengths or adjust it: block_mask._adjust{lengths}"
                  if larger else "make one for these lengths")
        raise ValueError(f"block_mask was created for block_mask.shape={block_mask.shape} but got "
                         f"q_len={lengths[0]} and kv_len={lengths[1]}: {remedy}")
    if block_mask.shape[1] not in (1, heads):
        raise ValueError(f"flex_attention: a block mask for {block_mask.shape[1]} heads, but the "
                         f"query has {heads}")
