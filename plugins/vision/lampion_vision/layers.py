"""Modules for the ops: what a model holds them by. Imports lampion.nn."""

from __future__ import annotations

import math

import lampion
from lampion import nn

from .deformable import deform_conv2d, pair
from .regions import ps_roi_align, ps_roi_pool, roi_align, roi_pool


class Pooling(nn.Module):
    """A pooling of regions with its arguments, which its subclasses name."""

    def extra_repr(self):
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.names)

    def forward(self, input, rois):
        """Pool regions `rois` of `input`; see the function."""
        return self.op.fn(input, rois, *[getattr(self, name) for name in self.names])


class RoIAlign(Pooling):
    """See `roi_align`."""

    op, names = roi_align, ("output_size", "spatial_scale", "sampling_ratio", "aligned")

    def __init__(self, output_size, spatial_scale, sampling_ratio, aligned=False):
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.sampling_ratio, self.aligned = sampling_ratio, aligned


class RoIPool(Pooling):
    """See `roi_pool`."""

    op, names = roi_pool, ("output_size", "spatial_scale")

    def __init__(self, output_size, spatial_scale):
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale


class PSRoIAlign(Pooling):
    """See `ps_roi_align`."""

    op, names = ps_roi_align, ("output_size", "spatial_scale", "sampling_ratio")

    def __init__(self, output_size, spatial_scale, sampling_ratio):
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.sampling_ratio = sampling_ratio


class PSRoIPool(RoIPool):
    """See `ps_roi_pool`."""

    op = ps_roi_pool


class DeformConv2d(nn.Module):
    """`deform_conv2d` with a weight and a bias of its own, which start as those of Conv2d.

    ValueError unless the channels can be divided into groups.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1,
                 groups=1, bias=True):
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"DeformConv2d: {name} must be divisible by groups, but "
                                 f"{channels} is not by {groups}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("DeformConv2d", "kernel_size", kernel_size)
        self.stride = pair("DeformConv2d", "stride", stride)
        self.padding = pair("DeformConv2d", "padding", padding)
        self.dilation = pair("DeformConv2d", "dilation", dilation)
        self.weight = nn.Parameter(lampion.empty(out_channels, in_channels // groups,
                                                 *self.kernel_size))
        self.register_parameter(
            "bias", nn.Parameter(lampion.empty(out_channels)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self):
        """Draw weight and bias afresh."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input, offset, mask=None):
        """Convolve `input` at moved places; see `deform_conv2d`."""
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding,
                             self.dilation, mask)

    def extra_repr(self):
        said = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        plain = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        said += "".join(f", {k}={getattr(self, k)}" for k, v in plain.items()
                        if k == "stride" or getattr(self, k) != v)
        return said + (", bias=False" if self.bias is None else "")
