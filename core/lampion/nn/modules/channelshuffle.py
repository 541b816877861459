"""ChannelShuffle.

May import: nn.functional, nn.modules.module.
"""
from __future__ import annotations

from lampion.nn import functional as F
from lampion.nn.modules.module import Module
from lampion.tensor import Tensor


class ChannelShuffle(Module):
    """Interleave `groups` groups of channels of (N, C, *).

    >>> nn.ChannelShuffle(2)(lampion.arange(4.0).reshape(1, 4, 1)).flatten()
    tensor([0., 2., 1., 3.])
    """

    __constants__ = ["groups"]

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
