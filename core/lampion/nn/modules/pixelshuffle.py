"""PixelShuffle and PixelUnshuffle.

May import: nn.functional, nn.modules.module.
"""
from __future__ import annotations

from lampion.nn import functional as F
from lampion.nn.modules.module import Module
from lampion.tensor import Tensor


class PixelShuffle(Module):
    """Channels to space: (*, C r², H, W) to (*, C, H r, W r).

    >>> nn.PixelShuffle(3)(lampion.zeros(1, 9, 4, 4)).shape
    lampion.Size([1, 1, 12, 12])
    """

    __constants__ = ["upscale_factor"]

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Space to channels: (*, C, H r, W r) to (*, C r², H, W)."""

    __constants__ = ["downscale_factor"]

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"
