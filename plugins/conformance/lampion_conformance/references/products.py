"""References of products of vectors, matrices and tensors, and of attention."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from .reduce import softmax


def _blend(product: Any) -> Any:
    def run(x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        made = alpha * product(a, b)
        return made + beta * x if beta else made

    return run


def _tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    return np.tensordot(a, b, dims)


def _cross(a: Any, b: Any, dim: Any = None) -> Any:
    if dim is None:
        dim = np.broadcast_shapes(a.shape, b.shape).index(3)
    return np.cross(a, b, axis=dim)


def _linear(x: Any, weight: Any, bias: Any = 0) -> Any:
    return x @ weight.T + bias


def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
              is_causal: bool = False, scale: Any = None, enable_gqa: bool = False) -> Any:
    if enable_gqa:
        key, value = (np.repeat(t, query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ np.swapaxes(key, -1, -2) * scale
    if is_causal:
        attn_mask = np.tri(*scores.shape[-2:], dtype=bool)
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == bool \
            else scores + attn_mask
    return softmax(scores, scores.ndim - 1) @ value


REFERENCE = {
    "matmul": np.matmul, "mm": np.matmul, "bmm": np.matmul, "mv": np.matmul,
    "dot": np.dot, "vdot": np.vdot, "linear": _linear,
    "addmm": _blend(np.matmul), "addmv": _blend(np.matmul), "baddbmm": _blend(np.matmul),
    "addbmm": _blend(lambda a, b: (a @ b).sum(0)),
    "addbmm_": _blend(lambda a, b: (a @ b).sum(0)), "addr": _blend(np.outer),
    "outer": np.outer, "ger": np.outer, "inner": np.inner, "kron": np.kron,
    "vecdot": lambda x, y, *, dim=-1: (x.conj() * y).sum(dim), "tensordot": _tensordot,
    "multi_dot": lambda tensors: reduce(np.matmul, tensors),
    "chain_matmul": lambda *tensors: reduce(np.matmul, tensors),
    "matrix_power": np.linalg.matrix_power, "cross": _cross,
    "linalg_cross": lambda a, b, *, dim=-1: _cross(a, b, dim),
    "einsum": np.einsum, "scaled_dot_product_attention": attention,
}
