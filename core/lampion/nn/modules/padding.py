"""Padding layers: circular, constant, reflection, replication and zero, over 1 to 3 axes.

`padding` is one number for all sides or (left, right, top, bottom, front, back) as far as needed.
May import: nn.functional, nn.modules.{module, utils}.
"""
from __future__ import annotations

from typing import Any

from lampion.nn import functional as F
from lampion.nn.modules.module import Module
from lampion.nn.modules.utils import _ntuple, _pair, _quadruple
from lampion.tensor import Tensor

_sextuple = _ntuple(6, "_sextuple")


class _Pad(Module):
    """Padding by a mode of `F.pad`."""

    __constants__ = ["padding"]
    padding: tuple[int, ...]

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _Sides(_Pad):
    """A padding layer without a value; `_tuple` completes its sides, `_mode` names its mode."""

    _tuple: Any
    _mode: str

    def __init__(self, padding: Any) -> None:
        super().__init__()
        self.padding = type(self)._tuple(padding)

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self._mode)


class _CircularPadNd(_Sides):
    _mode = "circular"
    _dims: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in self._dims:
            wanted = " or ".join(f"{n}D" for n in self._dims)
            raise ValueError(f"expected {wanted} input (got {input.dim()}D input)")
        return super().forward(input)


class CircularPad1d(_CircularPadNd):
    """Wrap (N, C, L) or (C, L) around along L."""

    _tuple, _dims = staticmethod(_pair), (2, 3)


class CircularPad2d(_CircularPadNd):
    """Wrap (N, C, H, W) or (C, H, W) around along H and W."""

    _tuple, _dims = staticmethod(_quadruple), (3, 4)


class CircularPad3d(_CircularPadNd):
    """Wrap (N, C, D, H, W) or (C, D, H, W) around along D, H and W."""

    _tuple, _dims = staticmethod(_sextuple), (4, 5)


class _ReflectionPadNd(_Sides):
    _mode = "reflect"


class ReflectionPad1d(_ReflectionPadNd):
    """Mirror the last axis at its ends, the edge itself not repeated.

    >>> nn.ReflectionPad1d(2)(lampion.arange(4.0).reshape(1, 4))
    tensor([[2., 1., 0., 1., 2., 3., 2., 1.]])
    """

    _tuple = staticmethod(_pair)


class ReflectionPad2d(_ReflectionPadNd):
    """Mirror the last two axes at their ends."""

    _tuple = staticmethod(_quadruple)


class ReflectionPad3d(_ReflectionPadNd):
    """Mirror the last three axes at their ends."""

    _tuple = staticmethod(_sextuple)


class _ReplicationPadNd(_Sides):
    _mode = "replicate"


class ReplicationPad1d(_ReplicationPadNd):
    """Repeat the edge of the last axis."""

    _tuple = staticmethod(_pair)


class ReplicationPad2d(_ReplicationPadNd):
    """Repeat the edges of the last two axes."""

    _tuple = staticmethod(_quadruple)


class ReplicationPad3d(_ReplicationPadNd):
    """Repeat the edges of the last three axes."""

    _tuple = staticmethod(_sextuple)


class _ConstantPadNd(_Pad):
    __constants__ = ["padding", "value"]
    _tuple: Any

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__()
        self.padding = type(self)._tuple(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPadNd):
    """Pad the last axis with `value`."""

    _tuple = staticmethod(_pair)


class ConstantPad2d(_ConstantPadNd):
    """Pad the last two axes with `value`."""

    _tuple = staticmethod(_quadruple)


class ConstantPad3d(_ConstantPadNd):
    """Pad the last three axes with `value`."""

    _tuple = staticmethod(_sextuple)


class ZeroPad1d(ConstantPad1d):
    """Pad the last axis with zeros."""

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad2d(ConstantPad2d):
    """Pad the last two axes with zeros.

    >>> nn.ZeroPad2d((1, 0, 0, 0))(lampion.ones(1, 1, 2))
    tensor([[[0., 1., 1.]]])
    """

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad3d(ConstantPad3d):
    """Pad the last three axes with zeros."""

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"
