"""Unfold (sliding windows to columns) and Fold (columns summed back).

May import: nn.functional, nn.modules.module.
"""
from __future__ import annotations

from typing import Any

from lampion.nn import functional as F
from lampion.nn.modules.module import Module
from lampion.tensor import Tensor


class Fold(Module):
    """Sum columns (N, C KH KW, L) back into images (N, C, *output_size): the adjoint of Unfold.

    >>> nn.Fold((4, 5), (2, 2))(lampion.zeros(1, 3 * 2 * 2, 12)).shape
    lampion.Size([1, 3, 4, 5])
    """

    __constants__ = ["output_size", "kernel_size", "dilation", "padding", "stride"]

    def __init__(self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
                 stride: Any = 1) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding,
                      self.stride)

    def extra_repr(self) -> str:
        return (f"output_size={self.output_size}, kernel_size={self.kernel_size}, "
                f"dilation={self.dilation}, padding={self.padding}, stride={self.stride}")


class Unfold(Module):
    """The windows of images (N, C, H, W) as columns (N, C KH KW, L).

    >>> nn.Unfold((2, 3))(lampion.zeros(2, 5, 3, 4)).shape
    lampion.Size([2, 30, 4])
    """

    __constants__ = ["kernel_size", "dilation", "padding", "stride"]

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
                 stride: Any = 1) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (f"kernel_size={self.kernel_size}, dilation={self.dilation}, "
                f"padding={self.padding}, "
                f"stride={self.stride}")
