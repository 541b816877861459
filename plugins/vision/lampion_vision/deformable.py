"""Deformable convolution: the pixels that a kernel reads move by learned offsets.

The moved pixels are a sum over taps, the rest is a product of matrices, so that there are gradients
of any order with respect to every tensor. Imports taps.
"""

from __future__ import annotations

import lampion

from . import references as ref
from .declare import composite
from .taps import linear_taps, tap_sum


def pair(op, name, value):
    """Two numbers for height and width."""
    value = (value, value) if isinstance(value, int) else tuple(map(int, value))
    if len(value) != 2:
        raise ValueError(f"{op}: {name} is one or two numbers, not {value}")
    return value


def check(input, offset, weight, mask, space):
    """(groups of the weights, groups of the offsets); RuntimeError for shapes that do not fit."""
    if input.ndim != 4 or weight.ndim != 4 or offset.ndim != 4:
        raise RuntimeError("deform_conv2d: expected input, offset and weight of 4 dims, got "
                           f"{list(input.shape)}, {list(offset.shape)} and {list(weight.shape)}")
    channels, taps = input.shape[1], weight.shape[2] * weight.shape[3]
    groups, moved = channels // max(weight.shape[1], 1), offset.shape[1] // (2 * taps)
    if not groups or groups * weight.shape[1] != channels or weight.shape[0] % groups:
        raise RuntimeError(f"deform_conv2d: input of {channels} channels and weight of shape "
                           f"{list(weight.shape)} do not fit: the channels must be a multiple of "
                           "weight.size(1), and weight.size(0) of that multiple")
    if not moved or offset.shape[1] != 2 * moved * taps or channels % moved:
        raise RuntimeError("deform_conv2d: the shape of the offset tensor at dimension 1 is not "
                           "valid. It should be a multiple of 2 * weight.size[2] * weight.size[3] "
                           f"= {2 * taps} that divides the {channels} input channels into groups, "
                           f"but is {offset.shape[1]}")
    if min(space) < 1:
        raise RuntimeError(f"deform_conv2d: calculated output size {list(space)} is too small")
    due = {"offset": (offset, 2), "mask": (mask, 1)}
    for name, (t, each) in due.items():
        shape = (input.shape[0], each * moved * taps, *space)
        if t is not None and t.shape != shape:
            raise RuntimeError(f"deform_conv2d: expected {name} of shape {list(shape)}, got "
                               f"{list(t.shape)}")
    return groups, moved


def unmoved(like, kernel, space, step, pad, apart):
    """Where the taps of a convolution are along one dim: (kernel, space)."""
    tap = lampion.arange(kernel, dtype=like.dtype, device=like.device) * apart
    place = lampion.arange(space, dtype=like.dtype, device=like.device) * step - pad
    return tap.unsqueeze(1) + place


@composite(replay=True, reference=ref.deform_conv2d, samples="""
    f(2, 2, 4, 5), f(2, 8, 3, 4), f(3, 2, 2, 2), f(3), mask=f(2, 4, 3, 4)
    f(2, 4, 5, 6), f(2, 24, 3, 2), f(2, 2, 2, 3), None, (2, 1), (1, 0), (1, 2)
    f(1, 4, 4, 4).transposed, f(1, 16, 5, 5, low=-5, high=5), f(4, 2, 2, 2), None, 1, 1, (
        1), f(1, 8, 5, 5)
    f(0, 2, 3, 3), f(0, 8, 2, 2), f(2, 2, 2, 2)
""")
def deform_conv2d(input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0),
                  dilation=(1, 1), mask=None):
    """Convolution of (N, C, H, W) whose taps read moved pixels (Dai et al., 2017), with `mask`
    version 2 (Zhu et al., 2018): (N, O, H', W').

    `weight` is (O, C / groups, kh, kw), `bias` (O). `offset` (N, 2 G kh kw, H', W') has a shift in
    y and one in x for each tap, for G groups of channels; what it reads is interpolated, 0 outside,
    and multiplied by `mask` (N, G kh kw, H', W'). RuntimeError for shapes that do not fit.

    >>> x, still = lampion.ones(1, 1, 3, 3), lampion.zeros(1, 8, 2, 2)
    >>> deform_conv2d(x, still, lampion.ones(1, 1, 2, 2)).tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """
    op = "deform_conv2d"
    n, channels, height, width = input.shape if input.ndim == 4 else (1, 1, 1, 1)
    kernel, step = tuple(weight.shape[-2:]), pair(op, "stride", stride)
    pad, apart = pair(op, "padding", padding), pair(op, "dilation", dilation)
    space = [(size + 2 * p - d * (k - 1) - 1) // s + 1
             for size, p, d, k, s in zip((height, width), pad, apart, kernel, step)]
    groups, moved = check(input, offset, weight, mask, space)
    taps, places = kernel[0] * kernel[1], space[0] * space[1]
    shifts = offset.reshape(n, moved, *kernel, 2, *space)
    where = []
    for a, size in ((0, height), (1, width)):
        still = unmoved(offset, kernel[a], space[a], step[a], pad[a], apart[a])
        still = still.unsqueeze(-1).unsqueeze(1) if a == 0 else still.unsqueeze(1)
        position = (shifts[:, :, :, :, a] + still).reshape(n, moved, taps, places)
        where.append(linear_taps(position, size))
    (ys, wy), (xs, wx) = where
    if mask is not None:
        wy = wy * mask.reshape(n, moved, taps, places, 1)
    pixels = input.reshape(n, moved, channels // moved, 1, 1, height, width)
    columns = tap_sum(pixels, None, ys, xs, wy.unsqueeze(-1) * wx.unsqueeze(-2), op)
    columns = columns.reshape(n, groups, channels // groups * taps, places)
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    out = (matrix @ columns).reshape(n, weight.shape[0], *space)
    return out if bias is None else out + bias.reshape(-1, 1, 1)
