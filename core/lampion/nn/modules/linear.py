"""Fully connected layers: Identity, Linear, Bilinear, LazyLinear.

May import: nn.functional, nn.init, nn.parameter, nn.modules.{module, lazy}.
"""
from __future__ import annotations

import math
from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.nn import init
from lampion.nn.modules.lazy import LazyModuleMixin
from lampion.nn.modules.module import Module
from lampion.nn.parameter import Parameter, UninitializedParameter
from lampion.tensor import Tensor


class Identity(Module):
    """Return the input; any constructor arguments are accepted and ignored.

    >>> nn.Identity(54, unused=True)(lampion.ones(1))
    tensor([1.])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class Linear(Module):
    """y = x Wᵀ + b, for x (*, in_features), W (out_features, in_features), y (*, out_features).

    W and b start uniform in ±1/sqrt(in_features).

    >>> nn.Linear(20, 30)(lampion.zeros(128, 20)).shape
    lampion.Size([128, 30])
    """

    __constants__ = ["in_features", "out_features"]
    in_features: int
    out_features: int
    weight: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        shape = (out_features, in_features)
        self.weight = Parameter(lampion.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(lampion.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = _inverse_root(init._calculate_fan_in_and_fan_out(self.weight)[0])
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        try:  # the table is four times as quick as the attribute, which __getattr__ resolves
            params = self._parameters
            weight, bias = params["weight"], params["bias"]
        except KeyError:
            weight, bias = self.weight, self.bias
        return F.linear(input, weight, bias)

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, "
                f"bias={self.bias is not None}")


def _inverse_root(fan: int) -> float:
    return 1 / math.sqrt(fan) if fan > 0 else 0.0


class NonDynamicallyQuantizableLinear(Linear):
    """The output projection of MultiheadAttention: a Linear under the name programs look for."""


class Bilinear(Module):
    """y[k] = x1ᵀ W[k] x2 + b[k], W (out_features, in1_features, in2_features).

    >>> nn.Bilinear(20, 30, 40)(lampion.zeros(128, 20), lampion.zeros(128, 30)).shape
    lampion.Size([128, 40])
    """

    __constants__ = ["in1_features", "in2_features", "out_features"]

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True,
                 device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if in1_features <= 0:
            raise ValueError(f"in1_features must be > 0, but got (in1_features={in1_features})")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        shape = (out_features, in1_features, in2_features)
        self.weight = Parameter(lampion.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(lampion.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform in ±1/sqrt(in1_features)."""
        bound = 1 / math.sqrt(self.weight.size(1))
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
                f"out_features={self.out_features}, bias={self.bias is not None}")


class LazyLinear(LazyModuleMixin, Linear):
    """A Linear whose in_features come from the first input; it is a plain Linear from then on.

    >>> nn.LazyLinear(30)(lampion.zeros(128, 20)).shape
    lampion.Size([128, 30])
    """

    cls_to_become = Linear

    def __init__(self, out_features: int, bias: bool = True, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__(0, 0, False)
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        self.out_features = out_features
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params() and self.in_features != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor) -> None:
        """Give the parameters their shapes from `input` and draw their values."""
        if not self.has_uninitialized_params():
            return
        with lampion.no_grad():
            self.in_features = input.shape[-1]
            self.weight.materialize((self.out_features, self.in_features))
            if self.bias is not None:
                self.bias.materialize((self.out_features,))
            self.reset_parameters()
