"""Convolutions as matrix products: patches of the input become the columns of a matrix.

On processors, where channels are enough for a vector, `direct` does without the patches. Imports
this package and lampion's floors 0-2. Every builder takes an OpCall of one of the core's three
convolution kernels and gives a Launch, or None where the direct loop nest serves: grouped or
depthwise convolutions, channels-last tensors, 16-bit types, and matrices beyond `LIMIT` bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lampion.base import dtype as dt
from lampion.base.meta import Meta, contiguous_strides, meta
from lampion.ir import expr as E
from lampion.ir.expr import Expr
from lampion.ir.kernel import KernelCall
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.lowering import Nest, channel_sums
from lampion.runtime.products import Problem

from . import columns, direct
from .gemm import product_calls
from .launch import kernel_call, make_launch

if TYPE_CHECKING:
    from .runtime import Device

LIMIT = 1 << 28  # bytes of the patch matrix
LEAST = 8        # fewer output positions than this are not worth it


def suits(device: Device, call: OpCall, x: Meta, w: Meta, y: Meta,
          across_input: bool = False) -> bool:
    """Whether a convolution of input x, weight w and result y is done here. `across_input`: vectors
    would be along the channels of x."""
    if call.groups != 1 or y.dtype not in (dt.float32, dt.float64) or 0 in (x.numel, w.numel,
                                                                            y.numel):
        return False
    if not (x.dtype is w.dtype is y.dtype and x.contiguous and w.contiguous and y.contiguous):
        return False
    places = math.prod(y.shape[2:])
    if direct.suits(device, w.shape[1] if across_input else w.shape[0]):
        return True
    size = x.shape[0] * math.prod(w.shape[1:]) * places * y.dtype.itemsize
    return places >= LEAST and w.shape[0] >= 2 and size <= LIMIT and (
        device.lanes or device.max_group >= 256)


def _times(e: Expr, n: int) -> Expr:
    return e * E.const(n, dt.int64)


def _dot(coords: Sequence[Expr], sizes: Sequence[int]) -> Expr:
    total: Expr = E.const(0, dt.int64)
    for c, s in zip(coords, contiguous_strides(sizes)):
        total = total + _times(c, s)
    return total


def _patches(device: "Device", call: OpCall, x: Meta, w: Meta, y: Meta, slots: Sequence[int],
             turned: bool) -> Any:
    """The kernel that makes columns of patches, as `make_launch` takes it."""
    made = device.lanes and columns.patches(device, call, x, w, y, slots, turned)
    return made or kernel_call(device, _spread(call, x, w, y, slots, turned))


def _spread(call: OpCall, x: Meta, w: Meta, y: Meta, slots: Sequence[int], turned: bool,
            ) -> KernelCall:
    """The loop nest that fills cols[n][c, k...][o...] (turned: cols[c, k...][n][o...]) from x."""
    rank = x.ndim - 2
    n, c, kernel, out = x.shape[0], x.shape[1], w.shape[2:], y.shape[2:]
    shape = (c, *kernel, n, *out) if turned else (n, c, *kernel, *out)
    at = {"n": 1 + rank, "c": 0, "k": 1, "o": 2 + rank} if turned else {
        "n": 0, "c": 1, "k": 2, "o": 2 + rank}
    nest = Nest("patches", shape, (), compute=x.dtype, merge=False)
    o = nest.output(meta(x.dtype, shape, None, x.device), contiguous_strides(shape))
    a = nest.buffer(x)
    nest.start()
    spots, mask = [nest.coord(at["n"]), nest.coord(at["c"])], None
    for r in range(rank):
        k, s, d, left = kernel[r], call.stride[r], call.dilation[r], call.padding[r]
        spot = _times(nest.coord(at["o"] + r), s) + _times(nest.coord(at["k"] + r), d)
        spot = spot - E.const(left, dt.int64)
        if left or (out[r] - 1) * s + (k - 1) * d - left >= x.shape[2 + r]:
            here = (spot >= E.const(0, dt.int64)) & (spot < E.const(x.shape[2 + r], dt.int64))
            mask = here if mask is None else mask & here
        spots.append(spot)
    index = _dot(spots, x.shape)
    nest.store(o, a.at(index) if mask is None else a.at(index, mask=mask), inner=False)
    return nest.call(slots)


def _plain(call: OpCall, w: Meta) -> bool:
    """Whether the patch matrix is the input itself: a 1 x 1 kernel that visits every place."""
    return (math.prod(w.shape[2:]) == 1 and all(s == 1 for s in call.stride)
            and not any(call.padding) and not any(getattr(call, "right", None) or ()))


def forward(device: Device, call: OpCall) -> Launch | None:
    """y[n] = w @ cols[n] (+ bias)."""
    x, w, y = call.input, call.weight, call.outputs[0]
    if not suits(device, call, x, w, y) or (call.bias is not None
                                            and call.bias.dtype is not y.dtype):
        return None
    n, m, k, places = y.shape[0], w.shape[0], math.prod(w.shape[1:]), math.prod(y.shape[2:])
    if direct.suits(device, m):
        inputs = 2 + (call.bias is not None)
        calls, scratch = direct.forward(device, call, 1 + inputs)
        return make_launch(device, calls, "s" * inputs, [y.span], scratch, ["conv_forward"])
    bias = None if call.bias is None else (0, call.bias.strides[0], 0)
    problem = Problem((n,), m, places, k, (0, k, 1), (k * places, places, 1),
                      (m * places, places, 1), y.dtype, bias)
    inputs = 2 + (bias is not None)
    scratch: list[int] = []
    calls: list[Any] = []
    cols = 1
    if not _plain(call, w):
        cols = 1 + inputs
        scratch.append(n * k * places * y.dtype.itemsize)
        calls.append(_patches(device, call, x, w, y, (cols, 1), False))
    made = product_calls(device, problem, 0, 2, cols, None if bias is None else 3,
                         1 + inputs + len(scratch))
    if made is None:
        return None
    return make_launch(device, calls + made[0], "s" * inputs, [y.span], scratch + made[1],
                       ["conv_forward"])


def backward_data(device: Device, call: OpCall) -> Launch | None:
    """cols[n] = transposed w @ grad[n], then every input place adds up its patches."""
    g, w, x = call.grad, call.weight, call.outputs[0]
    if not suits(device, call, x, w, g, True):
        return None
    n, m, k, places = g.shape[0], w.shape[0], math.prod(w.shape[1:]), math.prod(g.shape[2:])
    if direct.suits(device, w.shape[1]):
        calls, scratch = direct.backward_data(device, call, 3)
        return make_launch(device, calls, "ss", [x.span], scratch, ["conv_backward_data"])
    plain = _plain(call, w)
    size = x.dtype.itemsize
    problem = Problem((n,), k, places, m, (0, 1, k), (m * places, places, 1),
                      (k * places, places, 1), x.dtype, None)
    scratch = [] if plain else [n * k * places * size]
    made = product_calls(device, problem, 0 if plain else 3, 2, 1, None, 3 + len(scratch))
    if made is None:
        return None
    calls = made[0]
    if not plain:
        back = device.lanes and columns.patches_back(device, call, g, w, x, (0, 3))
        calls = [*calls, back or kernel_call(device, _gather(call, g, w, x))]
    return make_launch(device, calls, "ss", [x.span], scratch + made[1], ["conv_backward_data"])


def _gather(call: OpCall, g: Meta, w: Meta, x: Meta) -> KernelCall:
    """x[n, c, i...] = the sum over kernel positions of cols where they met this place."""
    rank = x.ndim - 2
    kernel, out = w.shape[2:], g.shape[2:]
    shape = (*x.shape, *kernel)
    inner = list(range(x.ndim, x.ndim + rank))
    nest = Nest("patches_back", shape, inner, compute=x.dtype, merge=False)
    o = nest.output(x, (*x.strides, *(0,) * rank))
    a = nest.buffer(meta(x.dtype, (x.shape[0], *w.shape[1:], *out), None, x.device))
    nest.start()
    places, mask = [], None
    for r in range(rank):
        s = call.stride[r]
        t = nest.coord(2 + r) + E.const(call.padding[r], dt.int64)
        t = t - _times(nest.coord(x.ndim + r), call.dilation[r])
        spot = t if s == 1 else E.idiv(t, E.const(s, dt.int64))
        here = (t >= E.const(0, dt.int64)) & (spot < E.const(out[r], dt.int64))
        if s > 1:
            here = here & E.eq(t, _times(spot, s))
        mask = here if mask is None else mask & here
        places.append(spot)
    coords = [nest.coord(0), nest.coord(1), *(nest.coord(k) for k in inner), *places]
    index = _dot(coords, (*x.shape[:2], *kernel, *out))
    nest.store(o, nest.reduce("sum", a.at(index, mask=mask)), inner=False)
    return nest.call((0, 3))


def backward_weight(device: Device, call: OpCall, bias: bool = False) -> Launch | None:
    """w = grad @ transposed cols over all places of all inputs at once; with `bias` also the sums
    of grad."""
    x, g, w = call.input, call.grad, call.outputs[0]
    if not suits(device, call, x, w, g):
        return None
    n, m, k, places = g.shape[0], w.shape[0], math.prod(w.shape[1:]), math.prod(g.shape[2:])
    size, outs = w.dtype.itemsize, 1 + bias
    if direct.suits(device, m):
        calls, scratch = direct.backward_weight(device, call, outs + 2)
        if bias:
            calls.append(kernel_call(device, channel_sums(g, call.outputs[1], (1, outs + 1))))
        return make_launch(device, calls, "ss", [o.span for o in call.outputs], scratch,
                           ["conv_backward_weight"])
    rows, cols = outs + 2, outs + 3
    scratch = [m * n * places * size, k * n * places * size]
    turn = Nest("rows", (m, n, places), (), compute=g.dtype)
    o = turn.output(g, (n * places, places, 1))
    a = turn.input(g, (places, m * places, 1))
    turn.start()
    turn.store(o, a(), inner=False)
    calls = [kernel_call(device, turn.call((rows, outs + 1))),
             _patches(device, call, x, w, g, (cols, outs), True)]
    problem = Problem((), m, k, n * places, (n * places, 1), (1, n * places), (k, 1), w.dtype, None)
    made = product_calls(device, problem, 0, rows, cols, None, outs + 4)
    if made is None:
        return None
    calls += made[0]
    if bias:
        calls.append(kernel_call(device, channel_sums(g, call.outputs[1], (1, outs + 1))))
    return make_launch(device, calls, "ss", [m.span for m in call.outputs], scratch + made[1],
                       ["conv_backward_weight"])
