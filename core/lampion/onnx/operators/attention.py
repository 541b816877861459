"""ONNX's attention operators. Floor 7; imports lampion and this package."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lampion

from ..table import operator
from ..values import DTYPES


def _heads(x: Any, count: int) -> Any:
    """(batch, time, heads * size) -> (batch, heads, time, size)."""
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def _flat(x: Any) -> Any:
    return x.transpose(1, 2).flatten(2)


def _additive(mask: Any, kind: Any) -> Any:
    """A mask as numbers to be added: what is not allowed becomes -inf."""
    if mask.dtype is not lampion.bool:
        return mask.to(kind)
    return lampion.zeros_like(mask, dtype=kind).masked_fill(~mask, -math.inf)


def _allowed(q: int, kv: int, offset: Any, left: int, right: int, device: Any) -> Any:
    """Which keys a query may look at: those at most `left` before it and `right` after it."""
    i = lampion.arange(q, device=device).reshape(-1, 1)
    j = lampion.arange(kv, device=device)
    behind = i + offset - j
    allowed = lampion.ones_like(behind, dtype=lampion.bool)
    if left >= 0:
        allowed = allowed & (behind <= left)
    if right >= 0:
        allowed = allowed & (-behind <= right)
    return allowed


@operator("Attention")
def attention(Q: Any, K: Any, V: Any, attn_mask: Any = None, past_key: Any = None,
              past_value: Any = None, nonpad_kv_seqlen: Any = None, *, is_causal: int = 0,
              kv_num_heads: int | None = None, q_num_heads: int | None = None,
              qk_matmul_output_mode: int = 0, scale: float | None = None, softcap: float = 0.0,
              softmax_precision: int | None = None, left_window_size: int = -1,
              right_window_size: int = -1, outputs: int = 1) -> Any:
    """softmax(Q K^T scale + masks) V, with a cache of keys and values and groups of queries."""
    packed = Q.ndim == 3
    if packed:
        Q, K, V = (_heads(Q, int(q_num_heads or 1)), _heads(K, int(kv_num_heads or 1)),
                   _heads(V, int(kv_num_heads or 1)))
    past = 0 if past_key is None else past_key.shape[2]
    if past_key is not None:
        K, V = lampion.cat([past_key, K], 2), lampion.cat([past_value, V], 2)
    keys, values = K, V
    kind, q, kv = Q.dtype, Q.shape[2], K.shape[2]
    offset: Any = past
    if past_key is None and nonpad_kv_seqlen is not None:
        offset = nonpad_kv_seqlen.reshape(-1, 1, 1, 1) - q
    bias = _bias(attn_mask, kind, q, kv, offset, nonpad_kv_seqlen,
                 left_window_size, 0 if is_causal else right_window_size, Q.device)
    if Q.shape[1] != K.shape[1]:
        times = Q.shape[1] // K.shape[1]
        K, V = K.repeat_interleave(times, 1), V.repeat_interleave(times, 1)
    root = lampion.tensor(math.sqrt(1 / math.sqrt(Q.shape[3]) if scale is None else scale),
                          dtype=kind, device=Q.device)
    scores = (Q * root) @ (K * root).transpose(2, 3)
    if softcap > 0:
        scores = (scores / softcap).tanh() * softcap
    shown = scores
    biased = scores if bias is None else scores + bias
    if qk_matmul_output_mode == 2:
        shown = biased
    wide = biased if softmax_precision is None else biased.to(DTYPES[softmax_precision])
    weights = wide.softmax(-1)
    if bias is not None:  # queries that may look at nothing
        weights = weights.masked_fill((bias == -math.inf).all(-1, True), 0.0)
    weights = weights.to(kind)
    if qk_matmul_output_mode == 3:
        shown = weights
    out = weights @ V
    return (_flat(out) if packed else out), keys, values, shown.to(kind)


def _bias(mask: Any, kind: Any, q: int, kv: int, offset: Any, lengths: Any, left: int,
          right: int, device: Any) -> Any:
    """All masks as one sum, or None."""
    bias = None
    if mask is not None:
        bias = _additive(mask, kind)
        short = kv - bias.shape[-1]
        if short > 0:
            bias = lampion.nn.functional.pad(bias, [0, short], value=-math.inf)
    masks = []
    if left >= 0 or right >= 0:
        masks.append(_allowed(q, kv, offset, left, right, device))
    if lengths is not None:
        at = lampion.arange(kv, device=device)
        masks.append((at < lengths.reshape(-1, 1)).reshape(-1, 1, 1, kv))
    for m in masks:
        more = _additive(m, kind)
        bias = more if bias is None else bias + more
    return bias


@operator("RotaryEmbedding")
def rotary_embedding(X: Any, cos_cache: Any, sin_cache: Any, position_ids: Any = None, *,
                     interleaved: int = 0, num_heads: int = 0,
                     rotary_embedding_dim: int = 0) -> Any:
    """Pairs of features turned by angles that grow with the position."""
    x = _heads(X, num_heads) if X.ndim == 3 else X
    dim = rotary_embedding_dim or x.shape[3]
    turned, kept = x[..., :dim], x[..., dim:]
    if position_ids is not None:
        cos_cache, sin_cache = cos_cache[position_ids], sin_cache[position_ids]
    cos, sin = cos_cache.unsqueeze(1), sin_cache.unsqueeze(1)
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imag = cos * a - sin * b, sin * a + cos * b
    out = lampion.stack([real, imag], -1).flatten(-2) if interleaved else lampion.cat(
        [real, imag], -1)
    out = lampion.cat([out, kept], -1)
    return _flat(out) if X.ndim == 3 else out


@operator("LinearAttention")
def linear_attention(query: Any, key: Any, value: Any, past_state: Any = None,
                     decay: Any = None, beta: Any = None, *, chunk_size: int = 64,
                     kv_num_heads: int, q_num_heads: int, scale: float = 0.0,
                     update_rule: str = "gated_delta") -> Any:
    """A state per head that decays and is written by keys and values, read by queries."""
    wide = lampion.float32
    q = _heads(query, q_num_heads).to(wide)
    k, v = (_heads(t, kv_num_heads).to(wide) for t in (key, value))
    gates = None if decay is None else _heads(decay, kv_num_heads).to(wide).exp().unsqueeze(-1)
    rates = None if beta is None else beta.transpose(1, 2).unsqueeze(-1).to(wide)
    steps, width, times = q.shape[2], q.shape[3], q_num_heads // kv_num_heads
    state = lampion.zeros(q.shape[0], kv_num_heads, width, v.shape[3], dtype=wide,
                          device=q.device) if past_state is None else past_state.to(wide)
    rows = []
    for t in range(steps):
        kt, vt = k[:, :, t], v[:, :, t]
        if gates is not None and "gated" in update_rule:
            state = state * gates[:, :, t]
        if rates is not None and "delta" in update_rule:
            vt = rates[:, :, t] * (vt - (state * kt.unsqueeze(-1)).sum(-2))
        state = state + kt.unsqueeze(-1) * vt.unsqueeze(-2)
        seen = state if times == 1 else state.repeat_interleave(times, 1)
        rows.append((q[:, :, t].unsqueeze(-1) * seen).sum(-2))
    out = lampion.stack(rows, 2) * (scale or 1 / math.sqrt(width))
    kind = query.dtype if past_state is None else past_state.dtype
    return _flat(out).to(query.dtype), state.to(kind)


@operator("FlexAttention", domain="ai.onnx.preview")
def flex_attention(Q: Any, K: Any, V: Any, *, scale: float | None = None,
                   softmax_precision: int | None = None,
                   score_mod: Callable[..., Any] | None = None,
                   prob_mod: Callable[..., Any] | None = None) -> Any:
    """Attention of (batch, heads, time, size) with graphs that change scores and probabilities."""
    kind = Q.dtype
    wide = DTYPES[softmax_precision] if softmax_precision else lampion.promote_types(
        kind, lampion.float32)
    if Q.shape[1] != K.shape[1]:
        times = Q.shape[1] // K.shape[1]
        K, V = K.repeat_interleave(times, 1), V.repeat_interleave(times, 1)
    scores = (Q @ K.transpose(2, 3)) * (1 / math.sqrt(Q.shape[3]) if scale is None else scale)
    if score_mod is not None:
        (scores,) = score_mod(scores)
    weights = scores.to(wide).softmax(-1)
    if prob_mod is not None:
        (weights,) = prob_mod(weights)
    return weights.to(kind) @ V
