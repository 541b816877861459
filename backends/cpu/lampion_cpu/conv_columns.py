"""Convolutions as matrix products over columns, where oneDNN has no kernel: float64, complex, and
everything when it is absent.

The windows of the images become the columns of one matrix (a generated kernel), which one product
combines with the weights; for the data gradient the product comes first and a gathering kernel
adds the columns up. Ungrouped convolutions of contiguous tensors; None for the rest.

Imports lampion's floors 0-2, ``codegen``, ``gemm``, ``pack`` and ``program``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from lampion.base import dtype as dt
from lampion.base.meta import meta
from lampion.ir import expr as E
from lampion.ir.kernel import Program
from lampion.ir.schedule import split
from lampion.runtime.backend import OpCall
from lampion.runtime.lowering import Nest

from . import codegen, pack
from .gemm import Plan, View, matmul_steps

_LEAST_WORK = 32**3  # below this the direct loop nest is done before the columns are made
_MOST_BYTES = 256 << 20


class _Sizes(NamedTuple):
    """Batch, channels, outputs, window elements, positions; and the columns' meta."""

    n: int
    c: int
    o: int
    k: int
    positions: int
    columns: Any


def _sizes(call: OpCall, x: Any, w: Any, y: Any) -> _Sizes | None:
    """The sizes, or None where the direct loop nest should do it."""
    if call.groups != 1 or not all(m.contiguous for m in (x, w, y)) or x.dtype.kind not in "fc":
        return None
    n, c, o = x.shape[0], x.shape[1], w.shape[0]
    k, positions = math.prod(w.shape[2:]), math.prod(y.shape[2:])
    columns = meta(x.dtype, (c * k, n, positions), None, x.device)
    if n * c * o * k * positions < _LEAST_WORK or columns.nbytes > _MOST_BYTES:
        return None
    return _Sizes(n, c, o, k, positions, columns)


def _int(n: int) -> E.Expr:
    return E.const(n, dt.int64)


def _steps(nest: Nest, slots: tuple[int, ...]) -> list[Any]:
    return codegen.steps(split(Program((nest.call(slots),))))[0]


def _columns_strides(s: _Sizes, kernel: tuple[int, ...]) -> tuple[int, list[int]]:
    """Strides of the columns over channels and the window's dims."""
    row, steps = s.n * s.positions, []
    for size in reversed(kernel):
        steps.append(row)
        row *= size
    return row, steps[::-1]


def _row_major(sizes: tuple[int, ...]) -> list[int]:
    return [math.prod(sizes[i + 1:]) for i in range(len(sizes))]


def _gather(call: OpCall, x: Any, s: _Sizes, kernel: tuple[int, ...], out: tuple[int, ...],
            target: int, source: int) -> list[Any]:
    """Steps that write the windows of `x` as columns (c * kernel, n, positions)."""
    rank = len(kernel)
    nest = Nest("conv_columns", (s.c, *kernel, s.n, *out), compute=x.dtype, merge=False)
    channel, steps = _columns_strides(s, kernel)
    o = nest.output(s.columns, (channel, *steps, s.positions, *_row_major(out)))
    a = nest.buffer(x)
    nest.start()
    at = nest.coord(0) * nest.of(x.strides[1]) + nest.coord(1 + rank) * nest.of(x.strides[0])
    mask = None
    for r in range(rank):
        spot = (nest.coord(2 + rank + r) * _int(call.stride[r])
                + nest.coord(1 + r) * _int(call.dilation[r]) - _int(call.padding[r]))
        at = at + spot * nest.params.stride(x.strides[2 + r])
        reach = (out[r] - 1) * call.stride[r] + (kernel[r] - 1) * call.dilation[r]
        if call.padding[r] or reach - call.padding[r] >= x.shape[2 + r]:
            here = (spot >= _int(0)) & (spot < nest.of(x.shape[2 + r]))
            mask = here if mask is None else mask & here
    nest.store(o, a.at(at) if mask is None else a.at(at, mask=mask))
    return _steps(nest, (target, source))


def _spread(call: OpCall, x: Any, s: _Sizes, kernel: tuple[int, ...], out: tuple[int, ...],
            target: int, source: int) -> list[Any]:
    """Steps that add columns up into images `x`: every pixel looks at its windows."""
    rank = len(kernel)
    inner = range(2 + rank, 2 + 2 * rank)
    nest = Nest("conv_images", (*x.shape, *kernel), inner, compute=x.dtype, merge=False)
    o = nest.output(x, (*x.strides, *(0,) * rank))
    a = nest.buffer(s.columns)
    nest.start()
    channel, steps = _columns_strides(s, kernel)
    at = nest.coord(0) * nest.of(s.positions) + nest.coord(1) * nest.of(channel)
    mask = None
    for r, near in enumerate(_row_major(out)):
        k = nest.coord(2 + rank + r)
        t = nest.coord(2 + r) + _int(call.padding[r]) - k * _int(call.dilation[r])
        stride = call.stride[r]
        spot = t if stride == 1 else E.idiv(t, _int(stride))
        here = (t >= _int(0)) & (spot < nest.of(out[r]))
        if stride > 1:
            here = here & E.eq(t, spot * _int(stride))
        mask = here if mask is None else mask & here
        at = at + k * nest.of(steps[r]) + spot * nest.params.stride(near)
    nest.store(o, nest.reduce("sum", a.at(at, mask=mask)), inner=False)
    return _steps(nest, (target, source))


def _views(s: _Sizes, dtype: str, columns: int, y: int) -> tuple[View, View]:
    """Columns and results as batches of matrices (n, rows, positions)."""
    p = s.positions
    return (View(columns, (s.n, s.c * s.k, p), (p, s.n * p, 1), dtype),
            View(y, (s.n, s.o, p), (s.o * p, p, 1), dtype))


def forward(call: OpCall) -> Plan | None:
    """Plan conv_forward: columns, then weights @ columns + bias."""
    x, w, y = call.input, call.weight, call.outputs[0]
    s = _sizes(call, x, w, y)
    if s is None:
        return None
    slot, name, rows = 1 + len(call.inputs), x.dtype.name, s.c * s.k
    columns, result = _views(s, name, slot, 0)
    bias = None
    if call.bias is not None:
        bias = View(3, (s.o, 1), (call.bias.strides[0], 0), name)
    product = matmul_steps(View(2, (s.o, rows), (rows, 1), name), columns, result, bias,
                           first_scratch=slot + 1)
    if product is None:
        return None
    first = _gather(call, x, s, w.shape[2:], y.shape[2:], slot, 1)
    return Plan((*first, *product.steps), (s.columns.nbytes, *product.scratch))


def backward_data(call: OpCall) -> Plan | None:
    """Plan conv_backward_data: transposed weights @ gradient, then the columns added up."""
    g, w, x = call.grad, call.weight, call.outputs[0]
    s = _sizes(call, x, w, g)
    if s is None:
        return None
    name, rows = x.dtype.name, s.c * s.k
    columns, gradient = _views(s, name, 3, 1)
    product = matmul_steps(View(2, (rows, s.o), (1, rows), name), gradient, columns,
                           first_scratch=4)
    if product is None:
        return None
    last = _spread(call, x, s, w.shape[2:], g.shape[2:], 0, 3)
    return Plan((*product.steps, *last), (s.columns.nbytes, *product.scratch))


def backward_weight(call: OpCall) -> Plan | None:
    """Plan the weight gradient, one product over all images, and that of the bias if asked."""
    x, g, w = call.input, call.grad, call.outputs[0]
    s = _sizes(call, x, w, g)
    if s is None:
        return None
    first, name, rows = len(call.outputs), x.dtype.name, s.c * s.k
    columns, turned, total = first + 2, first + 3, s.n * s.positions
    product = matmul_steps(
        View(turned, (s.o, total), (total, 1), name),
        View(columns, (total, rows), (1, total), name),
        View(0, (s.o, rows), (rows, 1), name), first_scratch=first + 4)
    if product is None:
        return None
    size, p = x.dtype.itemsize, s.positions
    steps = _gather(call, x, s, w.shape[2:], g.shape[2:], columns, first)
    steps.append(pack.dense_step(turned, first + 1, (s.o, s.n, p), (p, s.o * p, 1), size)
                 if size <= 8 else _turn(s, g, turned, first + 1))
    steps += product.steps
    if first == 2:
        nest = Nest("conv_bias_gradient", (s.o, total), [1], compute=g.dtype)
        o, a = nest.output(call.outputs[1], (1, 0)), nest.input(g, (total, 1))
        nest.start()
        nest.store(o, nest.reduce("sum", a()), inner=False)
        steps += _steps(nest, (1, turned))
    return Plan(tuple(steps), (s.columns.nbytes, g.nbytes, *product.scratch))


def _turn(s: _Sizes, g: Any, target: int, source: int) -> Any:
    """The step that makes (n, o, positions) into (o, n, positions), for wide elements."""
    nest = Nest("conv_turn", (s.o, s.n, s.positions), compute=g.dtype)
    p = s.positions
    out = nest.output(g, (s.n * p, p, 1))
    a = nest.input(g, (p, s.o * p, 1))
    nest.start()
    nest.store(out, a())
    return _steps(nest, (target, source))[0]
