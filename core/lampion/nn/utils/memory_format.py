"""Weights of convolutions in another order of dims in memory.

May import: nn.modules.
"""
from __future__ import annotations

from typing import Any, TypeVar

from lampion.nn.modules import conv
from lampion.nn.modules.module import Module

M = TypeVar("M", bound=Module)


def _convert(module: Module, memory_format: Any, kinds: tuple[type, ...]) -> None:
    for inner in module.modules():
        if isinstance(inner, kinds):
            weight: Any = inner.weight
            weight.data = weight.detach().clone().contiguous(memory_format=memory_format)


def convert_conv2d_weight_memory_format(module: M, memory_format: Any) -> M:
    """The module, in which weights of two-dimensional convolutions lie in this memory format.

    >>> net = nn.utils.convert_conv2d_weight_memory_format(nn.Conv2d(2, 3, 3),
    ...                                                    lampion.channels_last)
    >>> net.weight.is_contiguous(memory_format=lampion.channels_last)
    True
    """
    _convert(module, memory_format, (conv.Conv2d, conv.ConvTranspose2d))
    return module


def convert_conv3d_weight_memory_format(module: M, memory_format: Any) -> M:
    """The module, in which weights of three-dimensional convolutions lie in this memory format."""
    _convert(module, memory_format, (conv.Conv3d, conv.ConvTranspose3d))
    return module
