"""Products of groups: one matrix per group of rows, as mixtures of experts have them.

May import: the public lampion API.
"""
from __future__ import annotations

from typing import Any

import lampion
from lampion.tensor import Tensor


def grouped_mm(mat_a: Tensor, mat_b: Tensor, *, offs: Tensor | None = None,
               bias: Tensor | None = None, out_dtype: Any = None) -> Tensor:
    """A product per group; `offs` (G) of int32 says where each group of rows ends.

    (M, K) by (G, K, N): rows of group g by matrix g, (M, N). (G, M, K) by (K, N): columns of
    group g, (M, N). (M, K) by (K, N): the inner dim is grouped, (G, M, N). (G, M, K) by (G, K, N):
    no groups, `offs` is None. Rows beyond the last group are zero.

    >>> x, w = lampion.ones(3, 2), lampion.stack([lampion.eye(2), 2 * lampion.eye(2)])
    >>> F.grouped_mm(x, w, offs=lampion.tensor([1, 3], dtype=lampion.int32)).tolist()
    [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
    """
    if mat_a.dim() not in (2, 3) or mat_b.dim() not in (2, 3):
        raise RuntimeError(f"grouped_mm: mat_a and mat_b must be 2-D or 3-D, got {mat_a.dim()}-D "
                           f"and {mat_b.dim()}-D")
    if bias is not None:
        raise RuntimeError("grouped_mm: bias is not supported; add it to the result")
    if mat_a.dim() == 3 and mat_b.dim() == 3:
        if offs is not None:
            raise RuntimeError("grouped_mm: offs is for operands of which one is 2-D")
        return _cast(lampion.bmm(mat_a, mat_b), out_dtype)
    if offs is None:
        raise RuntimeError("grouped_mm: offs must say where the groups end if an operand is 2-D")
    ends = offs.tolist()
    parts = list(zip([0, *ends], ends))
    if mat_a.dim() == 2 and mat_b.dim() == 3:
        made = [mat_a[i:j] @ mat_b[g] for g, (i, j) in enumerate(parts)]
        rest = mat_a.shape[0] - (ends[-1] if ends else 0)
        made.append(mat_a.new_zeros(rest, mat_b.shape[2]))
        return _cast(lampion.cat(made), out_dtype)
    if mat_a.dim() == 3:
        made = [mat_a[g] @ mat_b[:, i:j] for g, (i, j) in enumerate(parts)]
        rest = mat_b.shape[1] - (ends[-1] if ends else 0)
        made.append(mat_b.new_zeros(mat_a.shape[1], rest))
        return _cast(lampion.cat(made, 1), out_dtype)
    made = [mat_a[:, i:j] @ mat_b[i:j] for i, j in parts]
    return _cast(lampion.stack(made), out_dtype)


def _cast(t: Tensor, dtype: Any) -> Tensor:
    return t if dtype is None else t.to(dtype)
