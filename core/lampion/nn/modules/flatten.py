"""Flatten and Unflatten.

May import: nn.modules.module.
"""
from __future__ import annotations

from typing import Any

from lampion.nn.modules.module import Module
from lampion.tensor import Tensor


class Flatten(Module):
    """Make one axis of the axes start_dim to end_dim.

    >>> nn.Flatten()(lampion.zeros(32, 1, 5, 5)).shape
    lampion.Size([32, 25])
    """

    __constants__ = ["start_dim", "end_dim"]

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Make the axes `unflattened_size` of the axis `dim`; one of them may be -1.

    >>> nn.Unflatten(1, (2, 5, 5))(lampion.zeros(2, 50)).shape
    lampion.Size([2, 2, 5, 5])
    """

    __constants__ = ["dim", "unflattened_size"]

    def __init__(self, dim: Any, unflattened_size: Any) -> None:
        super().__init__()
        if isinstance(dim, str):
            raise TypeError("unflatten by axis name is not supported: give dim as an int")
        if not isinstance(dim, int):
            raise TypeError(f"invalid argument type for dim ({type(dim).__name__})")
        if not isinstance(unflattened_size, (tuple, list)):
            raise TypeError("unflattened_size must be a tuple of ints, but found type "
                            f"{type(unflattened_size).__name__}")
        for i, size in enumerate(unflattened_size):
            if not isinstance(size, int):
                raise TypeError("unflattened_size must be tuple of ints, but found element of type "
                                f"{type(size).__name__} at pos {i}")
        self.dim = dim
        self.unflattened_size = unflattened_size

    def forward(self, input: Tensor) -> Tensor:
        return input.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
