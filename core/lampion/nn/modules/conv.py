"""Convolutions and transposed convolutions over 1, 2 and 3 axes, and their lazy forms.

May import: nn.functional, nn.init, nn.parameter, nn.modules.{module, lazy, utils}.
"""
from __future__ import annotations

import math
from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.nn import init
from lampion.nn.modules.lazy import LazyModuleMixin
from lampion.nn.modules.module import Module
from lampion.nn.modules.utils import _pair, _reverse_repeat_tuple, _single, _triple
from lampion.nn.parameter import Parameter, UninitializedParameter
from lampion.tensor import Tensor

_PADDING_MODES = {"zeros", "reflect", "replicate", "circular"}


class _ConvNd(Module):
    """What all convolutions share: checked sizes, weight and bias, printing."""

    __constants__ = ["stride", "padding", "dilation", "groups", "padding_mode", "output_padding",
                     "in_channels", "out_channels", "kernel_size"]

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, ...],
                 stride: tuple[int, ...], padding: Any, dilation: tuple[int, ...], transposed: bool,
                 output_padding: tuple[int, ...], groups: int, bias: bool, padding_mode: str,
                 device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        _check_conv(in_channels, out_channels, groups, stride, padding, padding_mode)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.transposed = transposed
        self.output_padding = output_padding
        self.groups = groups
        self.padding_mode = padding_mode
        self._reversed_padding_repeated_twice = self._sides()
        shape = self._weight_shape()
        self.weight = Parameter(lampion.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(lampion.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _weight_shape(self) -> tuple[int, ...]:
        first, second = self.out_channels, self.in_channels
        if self.transposed:
            first, second = second, first
        return (first, second // self.groups, *self.kernel_size)

    def _sides(self) -> Any:
        """Padding of both sides of each axis, last axis first, for the modes that pad ahead."""
        if not isinstance(self.padding, str):
            return _reverse_repeat_tuple(self.padding, 2)
        sides = [0] * (2 * len(self.kernel_size))
        if self.padding == "same":
            for axis, (size, step) in enumerate(zip(reversed(self.kernel_size),
                                                    reversed(self.dilation))):
                total = step * (size - 1)
                sides[2 * axis:2 * axis + 2] = total // 2, total - total // 2
        return sides

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform in ±1/sqrt(fan_in)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in != 0:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def _own(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, from the table if they are there (see Linear.forward)."""
        try:
            params = self._parameters
            return params["weight"], params["bias"]
        except KeyError:
            return self.weight, self.bias

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, " \
               f"stride={self.stride}"
        nothing = (0,) * len(self.kernel_size)
        if self.padding != nothing:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * len(self.dilation):
            text += f", dilation={self.dilation}"
        if self.output_padding != nothing:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


def _check_conv(in_channels: int, out_channels: int, groups: int, stride: tuple[int, ...],
                padding: Any, padding_mode: str) -> None:
    if groups <= 0:
        raise ValueError("groups must be a positive integer")
    if in_channels % groups != 0:
        raise ValueError("in_channels must be divisible by groups")
    if out_channels % groups != 0:
        raise ValueError("out_channels must be divisible by groups")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"Invalid padding string {padding!r}, should be one of "
                             "{'same', 'valid'}")
        if padding == "same" and any(s != 1 for s in stride):
            raise ValueError("padding='same' is not supported for strided convolutions")
    if padding_mode not in _PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {_PADDING_MODES}, but got "
                         f"padding_mode='{padding_mode}'")


def _make_init(tuple_of: Any) -> Any:
    """The constructor of a convolution whose sizes `tuple_of` completes."""

    def __init__(self: Any, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1,
                 padding: Any = 0, dilation: Any = 1, groups: int = 1, bias: bool = True,
                 padding_mode: str = "zeros", device: Any = None, dtype: Any = None) -> None:
        _ConvNd.__init__(
            self, in_channels, out_channels, tuple_of(kernel_size), tuple_of(stride),
            padding if isinstance(padding, str) else tuple_of(padding), tuple_of(dilation), False,
            tuple_of(0), groups, bias, padding_mode, device, dtype)

    return __init__


class _Conv(_ConvNd):
    """Forward of the plain convolutions: pad ahead unless the padding is zeros."""

    _function: str

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0,) * len(self.kernel_size)
        conv = getattr(F, self._function)
        return conv(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self._own()
        return self._conv_forward(input, weight, bias)


class Conv1d(_Conv):
    """Cross-correlate x (N, C_in, L) with weight (C_out, C_in/groups, K): y (N, C_out, L_out).

    L_out = (L + 2 padding - dilation (K - 1) - 1) // stride + 1; padding may be 'same' or 'valid'.

    >>> nn.Conv1d(16, 33, 3, stride=2)(lampion.zeros(20, 16, 50)).shape
    lampion.Size([20, 33, 24])
    """

    _function = "conv1d"
    __init__ = _make_init(_single)


class Conv2d(_Conv):
    """Cross-correlate x (N, C_in, H, W) with weight (C_out, C_in/groups, KH, KW): (N, C_out, H',
    W').

    Sizes follow Conv1d's formula on each axis.

    >>> nn.Conv2d(16, 33, (3, 5), padding=(4, 2))(lampion.zeros(20, 16, 50, 100)).shape
    lampion.Size([20, 33, 56, 100])
    """

    _function = "conv2d"
    __init__ = _make_init(_pair)


class Conv3d(_Conv):
    """Cross-correlate x (N, C_in, D, H, W) with weight (C_out, C_in/groups, KD, KH, KW).

    >>> nn.Conv3d(4, 8, 3)(lampion.zeros(1, 4, 5, 6, 7)).shape
    lampion.Size([1, 8, 3, 4, 5])
    """

    _function = "conv3d"
    __init__ = _make_init(_triple)


class _ConvTransposeNd(_ConvNd):
    """Forward of the transposed convolutions."""

    _function: str
    _axes: int

    def _output_padding(self, input: Tensor, output_size: Any) -> tuple[int, ...]:
        """The extra size per axis that makes the output as large as `output_size`."""
        if output_size is None:
            return self.output_padding
        axes = self._axes
        size = list(output_size)
        if len(size) == axes + 2 or (len(size) == axes + 1 and input.dim() == axes + 1):
            size = size[-axes:]
        if len(size) != axes:
            raise ValueError(f"ConvTranspose{axes}D: for {input.dim()}D input, output_size must "
                             f"have {axes} or {input.dim()} elements (got {len(size)})")
        least = [(input.size(axis - axes) - 1) * self.stride[axis] - 2 * self.padding[axis]
                 + self.dilation[axis] * (self.kernel_size[axis] - 1) + 1 for axis in range(axes)]
        most = [least[axis] + self.stride[axis] - 1 for axis in range(axes)]
        if any(not low <= s <= high for low, s, high in zip(least, size, most)):
            raise ValueError(f"requested an output size of {output_size}, but valid sizes range "
                             f"from {least} to {most} (for an input of {input.size()[-axes:]})")
        return tuple(s - low for s, low in zip(size, least))

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for "
                             f"{type(self).__name__}")
        weight, bias = self._own()
        conv = getattr(F, self._function)
        return conv(input, weight, bias, self.stride, self.padding,
                    self._output_padding(input, output_size), self.groups, self.dilation)


def _make_transpose_init(tuple_of: Any) -> Any:
    def __init__(self: Any, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1,
                 padding: Any = 0, output_padding: Any = 0, groups: int = 1, bias: bool = True,
                 dilation: Any = 1, padding_mode: str = "zeros", device: Any = None,
                 dtype: Any = None) -> None:
        if padding_mode != "zeros":
            raise ValueError('Only "zeros" padding mode is supported for '
                             f"{self.__class__.__name__}")
        _ConvNd.__init__(
            self, in_channels, out_channels, tuple_of(kernel_size), tuple_of(stride),
            tuple_of(padding), tuple_of(dilation), True, tuple_of(output_padding), groups, bias,
            padding_mode, device, dtype)

    return __init__


class ConvTranspose1d(_ConvTransposeNd):
    """The gradient of Conv1d as a layer: x (N, C_in, L), weight (C_in, C_out/groups, K).

    L_out = (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1; `output_size` at
    the call chooses among the sizes that stride makes ambiguous.

    >>> nn.ConvTranspose1d(16, 33, 3, stride=2)(lampion.zeros(20, 16, 50)).shape
    lampion.Size([20, 33, 101])
    """

    _function, _axes = "conv_transpose1d", 1
    __init__ = _make_transpose_init(_single)


class ConvTranspose2d(_ConvTransposeNd):
    """The gradient of Conv2d as a layer: x (N, C_in, H, W), weight (C_in, C_out/groups, KH, KW).

    >>> nn.ConvTranspose2d(4, 8, 2, stride=2)(lampion.zeros(1, 4, 5, 5)).shape
    lampion.Size([1, 8, 10, 10])
    """

    _function, _axes = "conv_transpose2d", 2
    __init__ = _make_transpose_init(_pair)


class ConvTranspose3d(_ConvTransposeNd):
    """The gradient of Conv3d as a layer: x (N, C_in, D, H, W), weight (C_in, C_out/groups, ...).

    >>> nn.ConvTranspose3d(4, 8, 2, stride=2)(lampion.zeros(1, 4, 2, 3, 4)).shape
    lampion.Size([1, 8, 4, 6, 8])
    """

    _function, _axes = "conv_transpose3d", 3
    __init__ = _make_transpose_init(_triple)


class _LazyConv(LazyModuleMixin):
    """A convolution whose in_channels come from the first input."""

    def __init__(self, out_channels: int, kernel_size: Any, *args: Any, device: Any = None,
                 dtype: Any = None, **kwargs: Any) -> None:
        names = self._argument_names()
        if len(args) > len(names):
            raise TypeError(f"{type(self).__name__} takes at most {len(names) + 2} positional "
                            f"arguments, got {len(args) + 2}")
        kwargs = {**dict(zip(names, args)), **kwargs}
        device, dtype = kwargs.pop("device", device), kwargs.pop("dtype", dtype)
        bias = kwargs.pop("bias", True)
        super().__init__(0, 0, kernel_size, **{**kwargs, "bias": False, "groups": 1})
        self.groups = kwargs.get("groups", 1)
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        self.out_channels = out_channels
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    @classmethod
    def _argument_names(cls) -> tuple[str, ...]:
        middle = ("padding", "output_padding", "groups", "bias", "dilation") \
            if issubclass(cls, _ConvTransposeNd) else ("padding", "dilation", "groups", "bias")
        return ("stride", *middle, "padding_mode", "device", "dtype")

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params() and self.in_channels != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor, *args: Any, **kwargs: Any) -> None:
        """Give the parameters their shapes from `input` and draw their values."""
        if not self.has_uninitialized_params():
            return
        axes = len(self.kernel_size)
        if input.dim() not in (axes + 1, axes + 2):
            raise RuntimeError(f"Expected {axes + 1}D (unbatched) or {axes + 2}D (batched) input "
                               f"to {type(self).__name__}, but got input of size: {input.shape}")
        self.in_channels = input.shape[-axes - 1]
        if self.in_channels % self.groups != 0:
            raise ValueError("in_channels must be divisible by groups")
        self.weight.materialize(self._weight_shape())
        if self.bias is not None:
            self.bias.materialize((self.out_channels,))
        self.reset_parameters()


class LazyConv1d(_LazyConv, Conv1d):
    """Conv1d without in_channels: they come from the first input.

    >>> nn.LazyConv1d(8, 3)(lampion.zeros(1, 4, 10)).shape
    lampion.Size([1, 8, 8])
    """

    cls_to_become = Conv1d


class LazyConv2d(_LazyConv, Conv2d):
    """Conv2d without in_channels: they come from the first input."""

    cls_to_become = Conv2d


class LazyConv3d(_LazyConv, Conv3d):
    """Conv3d without in_channels: they come from the first input."""

    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyConv, ConvTranspose1d):
    """ConvTranspose1d without in_channels: they come from the first input."""

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConv, ConvTranspose2d):
    """ConvTranspose2d without in_channels: they come from the first input."""

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConv, ConvTranspose3d):
    """ConvTranspose3d without in_channels: they come from the first input."""

    cls_to_become = ConvTranspose3d
