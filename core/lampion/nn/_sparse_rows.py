"""Rows of a table whose gradient is a sparse tensor. May import: the public lampion API."""
from __future__ import annotations

from typing import Any

import lampion
from lampion.autograd import Function
from lampion.nn._ops import ops
from lampion.sparse.tensor import made_coo


class SparseRows(Function):
    """weight[input]; the gradient names each row that was used, once for every use."""

    @staticmethod
    def forward(ctx: Any, weight: Any, input: Any, padding_idx: int, by_count: bool) -> Any:
        ctx.save_for_backward(input)
        ctx.shape, ctx.padding_idx, ctx.by_count = tuple(weight.shape), padding_idx, by_count
        return ops.embedding(weight, input, padding_idx, by_count)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (input,) = ctx.saved_tensors
        rows, values = input.reshape(-1).long(), grad.reshape(-1, ctx.shape[1])
        if ctx.padding_idx >= 0:
            kept = (rows != ctx.padding_idx).nonzero().squeeze(1)
            rows, values = rows[kept], values[kept]
        if ctx.by_count and rows.numel():
            values = values / lampion.bincount(rows)[rows].unsqueeze(1)
        return made_coo(rows.unsqueeze(0), values, ctx.shape, False), None, None, None
