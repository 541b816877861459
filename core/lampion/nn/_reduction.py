"""What `reduction`, `size_average` and `reduce` mean, for the losses.

May import: lampion.tensor.
"""
from __future__ import annotations

import warnings

from lampion.tensor import Tensor


def resolve(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction's name, with the two older arguments taken into account (and warned about)."""
    if size_average is None and reduce is None:
        if reduction not in ("mean", "sum", "none", "batchmean"):
            raise ValueError(f"{reduction} is not a valid value for reduction")
        return reduction
    averaged = True if size_average is None else size_average
    if reduce is False:
        chosen = "none"
    else:
        chosen = "mean" if averaged else "sum"
    warnings.warn("size_average and reduce args will be deprecated, please use "
                  f"reduction='{chosen}' instead.", stacklevel=4)
    return chosen


def apply(values: Tensor, reduction: str) -> Tensor:
    """`values` themselves, their mean or their sum; ValueError for another reduction."""
    if reduction == "mean":
        return values.mean()
    if reduction == "sum":
        return values.sum()
    if reduction == "none":
        return values
    raise ValueError(f"{reduction} is not a valid value for reduction")
