"""multi_head_attention_forward: projections, masks and attention as a composition.

May import: nn._ops, nn._activations, lampion.tensor.
"""
from __future__ import annotations

import math
from typing import Any

import lampion
from lampion.base.located import located
from lampion.nn._activations import dropout
from lampion.nn._ops import ops
from lampion.replay import replayed
from lampion.tensor import Tensor


@replayed
def multi_head_attention_forward(
        query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
        in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None,
        bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor,
        out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None,
        use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None,
        k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None,
        static_k: Tensor | None = None, static_v: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False) -> tuple[Tensor, Tensor | None]:
    """Attention of query (L, N, E) over key and value (S, N, E), heads in parallel; N may be
    absent.

    Returns (output (L, N, E), weights (N, L, S), or (N, heads, L, S) unless averaged, or None).
    key_padding_mask (N, S); attn_mask (L, S) or (N heads, L, S); boolean masks are True where
    there is nothing to attend to, float masks are added. AssertionError or RuntimeError for sizes
    that do not fit.
    """
    batched = _check_shapes(query, key, value, key_padding_mask, attn_mask, num_heads)
    if not batched:
        same_key, same_value = key is query, value is key
        query = query.unsqueeze(1)
        key = query if same_key else key.unsqueeze(1)
        value = key if same_value else value.unsqueeze(1)
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
    length, batch, width = query.shape
    _check_sizes(query, key, value, embed_dim_to_check, num_heads, use_separate_proj_weight)
    head = width // num_heads
    padding = _additive(key_padding_mask, "key_padding_mask", query.dtype)
    if is_causal and attn_mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
    if is_causal and padding is None and not need_weights:
        mask = None  # the attention kernel knows the causal mask by itself
    else:
        mask = _additive(attn_mask, "attn_mask", query.dtype)
        is_causal = is_causal and padding is None
    q, k, v = _project(query, key, value, in_proj_weight, in_proj_bias, use_separate_proj_weight,
                       (q_proj_weight, k_proj_weight, v_proj_weight))
    mask = _checked_mask(mask, length, key.shape[0], batch * num_heads)
    if bias_k is not None and bias_v is not None:
        if static_k is not None or static_v is not None:
            raise AssertionError("bias cannot be added to static key or value.")
        k = lampion.cat([k, bias_k.repeat(1, batch, 1)])
        v = lampion.cat([v, bias_v.repeat(1, batch, 1)])
        mask, padding = _one_longer(mask), _one_longer(padding)
    elif bias_k is not None or bias_v is not None:
        raise AssertionError("bias_k and bias_v must be given together")
    q = q.reshape(length, batch * num_heads, head).transpose(0, 1)
    k = _heads(k, static_k, "static_k", batch, num_heads, head)
    v = _heads(v, static_v, "static_v", batch, num_heads, head)
    if add_zero_attn:
        zeros = lampion.zeros((batch * num_heads, 1, head), dtype=k.dtype, device=k.device)
        k, v = lampion.cat([k, zeros], 1), lampion.cat([v, zeros], 1)
        mask, padding = _one_longer(mask), _one_longer(padding)
    mask = _merge(mask, padding, batch, num_heads, k.size(1))
    rate = dropout_p if training else 0.0
    if need_weights:
        out, weights = _attend(q, k, v, mask, rate, is_causal and mask is None)
    else:
        out, weights = _attend_fused(q, k, v, mask, rate, is_causal, batch, num_heads), None
    out = out.transpose(0, 1).reshape(length * batch, width)
    out = ops.linear(out, out_proj_weight, out_proj_bias).view(length, batch, -1)
    if weights is not None:
        weights = weights.view(batch, num_heads, length, -1)
        if average_attn_weights:
            weights = weights.mean(1)
    if not batched:
        out = out.squeeze(1)
        weights = None if weights is None else weights.squeeze(0)
    return out, weights


@located
def _check_shapes(query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None,
                  attn_mask: Tensor | None, num_heads: int) -> bool:
    """Is the call batched? AssertionError if the tensors disagree about it."""
    if query.dim() not in (2, 3):
        raise AssertionError("query should be unbatched 2D or batched 3D tensor but received "
                             f"{query.dim()}-D query tensor")
    batched = query.dim() == 3
    kind = "batched (3-D)" if batched else "unbatched (2-D)"
    if key.dim() != query.dim() or value.dim() != query.dim():
        raise AssertionError(f"For {kind} `query`, expected `key` and `value` to be "
                             f"{query.dim()}-D "
                             f"but found {key.dim()}-D and {value.dim()}-D tensors respectively")
    if key_padding_mask is not None and key_padding_mask.dim() != query.dim() - 1:
        raise AssertionError(
            f"For {kind} `query`, expected `key_padding_mask` to be `None` or "
            f"{query.dim() - 1}-D but found {key_padding_mask.dim()}-D tensor instead")
    if attn_mask is not None:
        if attn_mask.dim() not in (2, 3):
            raise AssertionError(f"For {kind} `query`, expected `attn_mask` to be `None`, 2-D or "
                                 f"3-D but found {attn_mask.dim()}-D tensor instead")
        wanted = (num_heads, query.shape[0], key.shape[0])
        if not batched and attn_mask.dim() == 3 and tuple(attn_mask.shape) != wanted:
            raise AssertionError(f"Expected `attn_mask` shape to be {wanted} but got "
                                 f"{tuple(attn_mask.shape)}")
    return batched


@located
def _check_sizes(query: Tensor, key: Tensor, value: Tensor, embed_dim: int, num_heads: int,
                 separate: bool) -> None:
    width = query.shape[-1]
    if width != embed_dim:
        raise AssertionError(f"was expecting embedding dimension of {embed_dim}, but got {width}")
    if width % num_heads:
        raise AssertionError(f"embed_dim {width} not divisible by num_heads {num_heads}")
    if separate and key.shape[:2] != value.shape[:2]:
        raise AssertionError(f"key's sequence and batch dims {key.shape[:2]} do not match value's "
                             f"{value.shape[:2]}")
    if not separate and key.shape != value.shape:
        raise AssertionError(f"key shape {key.shape} does not match value shape {value.shape}")


def _additive(mask: Tensor | None, name: str, dtype: Any) -> Tensor | None:
    """`mask` as numbers to add to the scores."""
    if mask is None:
        return None
    if mask.dtype == lampion.bool:
        return lampion.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
            mask, float("-inf"))
    if not mask.is_floating_point():
        raise AssertionError(f"only bool and floating types of {name} are supported")
    return mask


def _project(query: Tensor, key: Tensor, value: Tensor, weight: Tensor | None, bias: Tensor | None,
             separate: bool, weights: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Q, K, V; as few products as the identity of the inputs allows."""
    width = query.size(-1)
    if separate:
        for name, part in zip("qkv", weights):
            if part is None:
                raise AssertionError("use_separate_proj_weight is True but "
                                     f"{name}_proj_weight is None")
        parts = (None,) * 3 if bias is None else bias.chunk(3)
        return tuple(ops.linear(x, w, b)  # type: ignore[return-value]
                     for x, w, b in zip((query, key, value), weights, parts))
    if weight is None:
        raise AssertionError("use_separate_proj_weight is False but in_proj_weight is None")
    if key is value and query is key:
        return ops.linear(query, weight, bias).chunk(3, -1)
    parts = (None,) * 3 if bias is None else bias.chunk(3)
    if key is value:
        q = ops.linear(query, weight[:width], parts[0])
        both = ops.linear(key, weight[width:], None if bias is None else bias[width:])
        return (q, *both.chunk(2, -1))
    return tuple(ops.linear(x, w, b)  # type: ignore[return-value]
                 for x, w, b in zip((query, key, value), weight.chunk(3), parts))


@located
def _checked_mask(mask: Tensor | None, length: int, source: int, heads: int) -> Tensor | None:
    """The attention mask with a leading axis of 1 or batch * heads."""
    if mask is None:
        return None
    wanted = (length, source) if mask.dim() == 2 else (heads, length, source)
    if tuple(mask.shape) != wanted:
        raise RuntimeError(f"The shape of the {mask.dim()}D attn_mask is {mask.shape}, but should "
                           f"be {wanted}.")
    return mask.unsqueeze(0) if mask.dim() == 2 else mask


def _one_longer(mask: Tensor | None) -> Tensor | None:
    """`mask` with one more key, to be attended to."""
    return None if mask is None else ops.pad(mask, (0, 1))


@located
def _heads(tensor: Tensor, static: Tensor | None, name: str, batch: int, heads: int,
           head: int) -> Tensor:
    """(S, N, E) as (N heads, S, head), or the static tensor of that shape."""
    if static is None:
        return tensor.reshape(tensor.shape[0], batch * heads, head).transpose(0, 1)
    if static.size(0) != batch * heads or static.size(2) != head:
        raise AssertionError(f"expecting {name}.size(0) of {batch * heads} and {name}.size(2) of "
                             f"{head}, but got {static.size(0)} and {static.size(2)}")
    return static


def _merge(mask: Tensor | None, padding: Tensor | None, batch: int, heads: int,
           source: int) -> Tensor | None:
    """One additive mask (1 or N heads, L or 1, S) of both kinds."""
    if padding is None:
        return mask
    if tuple(padding.shape) != (batch, source):
        raise AssertionError(f"expecting key_padding_mask shape of {(batch, source)}, but got "
                             f"{tuple(padding.shape)}")
    spread = padding.view(batch, 1, 1, source).expand(-1, heads, -1, -1)
    spread = spread.reshape(batch * heads, 1, source)
    return spread if mask is None else mask + spread


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float,
            causal: bool) -> tuple[Tensor, Tensor]:
    """softmax(Q Kᵀ / sqrt(head) + mask) V step by step, with the weights."""
    if causal:
        raise AssertionError("is_causal needs its attn_mask here")
    scores = lampion.bmm(q * math.sqrt(1.0 / q.size(-1)), k.transpose(-2, -1))
    if mask is not None:
        scores = scores + mask
    weights = ops.softmax(scores, -1)
    if rate > 0.0:
        weights = dropout(weights, rate)
    return lampion.bmm(weights, v), weights


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float, causal: bool,
                  batch: int, heads: int) -> Tensor:
    """The same through scaled_dot_product_attention, without the weights: (N heads, L, head)."""
    length, source, head = q.size(1), k.size(1), q.size(2)
    if mask is not None:
        mask = mask.unsqueeze(0) if mask.size(0) == 1 and mask.dim() == 3 and batch * heads != 1 \
            else mask.view(batch, heads, -1, source)
    out = ops.scaled_dot_product_attention(
        q.view(batch, heads, length, head), k.view(batch, heads, source, head),
        v.view(batch, heads, source, head), attn_mask=mask, dropout_p=rate, is_causal=causal)
    return out.reshape(batch * heads, length, head)
