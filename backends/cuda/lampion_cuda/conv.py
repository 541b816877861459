"""Convolutions as implicit matrix products: builders for the core's four convolution kernels.

float16, bfloat16 and float32 of any rank, stride, dilation and padding on GPUs of compute
capability 8.0 and newer (see `conv_kernels`); groups whose channels fill whole 16-byte chunks.
Tensors that do not have their channels last and padded are first packed so. A kernel of 1 is a
plain product where cuBLASLt is there. Every builder takes an OpCall and gives a Launch, or None
where the core's direct loop nest serves. Imports this package and lampion's floors 0-2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lampion.base.meta import Meta, meta
from lampion.ir import expr as E
from lampion.ir.kernel import KernelCall
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.lowering import Nest, channel_sums

from . import conv_kernels as text
from .attention import build_tiled
from .compiler import Bound
from .handwritten import ADDRESS
from .launch import kernel_call, make_launch
from .lt import contract

if TYPE_CHECKING:
    from .driver import Device

_INT = 2**31
_FEW = 8         # channels of a group below which a direct nest wastes less
_LARGEST_GRID = 65535
_STEPS, _PARTS = 6, 16  # of a part at least; parts of a sum at most
_SUMS = 64 << 20        # bytes of partial sums at most


def divisor(name: str, d: int) -> dict[str, int]:
    """d, and by which the kernels divide by it: n / d = (n * magic / 2^32 + n) >> shift.

    >>> divisor("d", 3)
    {'d': 3, 'd_magic': 1431655766, 'd_shift': 2}
    """
    shift = (d - 1).bit_length()
    return {name: d, f"{name}_magic": -(-(1 << (32 + shift)) // d) - (1 << 32),
            f"{name}_shift": shift}


def _three(values: Sequence[int], fill: int) -> tuple[int, int, int]:
    """One number per space dim, as of three dims."""
    z, y, x = (*[fill] * (3 - len(values)), *values)
    return z, y, x


def _named(name: str, values: Sequence[int]) -> dict[str, int]:
    return {f"{name}_{axis}": v for axis, v in zip("zyx", values)}


class Packed(NamedTuple):
    """A tensor with channels last: its slot, the elements of a position, those of a group."""

    slot: int
    pixel: int
    group: int


class _Problem:
    """A convolution of input x, weight w and result y: sizes, and the calls made so far."""

    def __init__(self, device: Device, call: OpCall, x: Meta, w: Meta, y: Meta, first: int,
                 stride: Sequence[int]) -> None:
        self.device, self.call, self.x, self.w, self.y = device, call, x, w, y
        self.groups = call.groups
        self.rank = x.ndim - 2
        self.chunk = 16 // y.dtype.itemsize
        self.inside, self.outside = w.shape[1], w.shape[0] // call.groups  # channels of a group
        self.kernel = _three(w.shape[2:], 1)
        self.space, self.result = _three(x.shape[2:], 1), _three(y.shape[2:], 1)
        self.stride, self.dilation = _three(stride, 1), _three(call.dilation, 1)
        self.padding = _three(call.padding, 0)
        self.first = first  # scratch slot
        self.scratch: list[int] = []
        self.calls: list[Any] = []
        self.partial: int | None = None

    def suits(self) -> bool:
        """Whether the kernels can do it, and better than a direct nest."""
        x, w, y = self.x, self.w, self.y
        if y.dtype not in text.TYPES or not x.dtype is w.dtype is y.dtype:
            return False
        if 0 in (x.numel, w.numel, y.numel) or self.device.capability < (8, 0):
            return False
        whole = self.inside % self.chunk == 0 and self.outside % self.chunk == 0
        if (self.groups > 1 and not whole) or self.groups > _LARGEST_GRID:
            return False
        # with channels padded to whole chunks, positions and places in the weight are 32-bit
        numbers = max(t.numel for t in (x, w, y)) * self.chunk
        counts = max(x.shape[0], w.shape[0], self.inside * self.groups)
        return (numbers < _INT and counts <= _LARGEST_GRID
                and self.inside * self.outside >= _FEW)

    def padded(self, channels: int) -> int:
        """Channels in whole chunks."""
        return -(-channels // self.chunk) * self.chunk

    def room(self, nbytes: int) -> int:
        """A scratch slot of that size."""
        self.scratch.append(nbytes)
        return self.first + len(self.scratch) - 1

    def add(self, write: Callable[[text.Form], tuple[str, list[str]]], name: str, form: text.Form,
            grid: tuple[int, int, int], memory: int, numbers: dict[str, int],
            slots: Sequence[int]) -> None:
        """Call a kernel."""
        source, names = write(form)
        bound = Bound(build_tiled(self.device, source, name, memory), grid, (text.THREADS, 1, 1),
                      memory, tuple(numbers[n] for n in names))
        self.calls.append((bound, [ADDRESS] * len(slots), slots))

    def pack(self, slot: int, m: Meta) -> Packed:
        """A tensor (n, channels, *space) with its channels last, by a copy if need be."""
        channels = m.shape[1]
        width = self.padded(channels)
        step, wanted = width, [0] * m.ndim
        wanted[1] = 1
        for d in (*reversed(range(2, m.ndim)), 0):
            wanted[d] = step
            step *= m.shape[d]
        if width == channels and all(n == 1 or a == b for n, a, b in zip(
                m.shape, m.strides, wanted)):
            return Packed(slot, channels, channels // self.groups)
        return Packed(self._copy(slot, m.shape[0], m.shape[2:], channels, width, m.shape[0],
                                 (0, m.strides[0], m.strides[1], *_three(m.strides[2:], 0))),
                      width, channels // self.groups)

    def pack_weight(self, slot: int, turned: bool) -> tuple[Packed, int]:
        """The weight as rows of kernel positions of channels: a row to a channel of the result, or
        if `turned` to one of the input. Also the elements of a row."""
        w, g = self.w, self.groups
        channels = self.outside if turned else self.inside
        width, places = self.padded(channels), math.prod(self.kernel)
        rows = self.inside * g if turned else w.shape[0]
        o, c = w.strides[:2]
        strides = (self.outside * o, c, o) if turned else (0, o, c)
        inner = self.inside if turned else rows
        made = self._copy(slot, rows, w.shape[2:], channels, width, inner,
                          (*strides, *_three(w.strides[2:], 0)))
        return Packed(made, width, rows // g * places * width), places * width

    def _copy(self, slot: int, count: int, space: Sequence[int], given: int, width: int,
              inner: int, strides: Sequence[int]) -> int:
        z, y, x = _three(space, 1)
        form = text.Form(self.y.dtype, 64, self.rank == 3)
        made = self.room(count * z * y * x * width * self.y.dtype.itemsize)
        numbers = {"positions": z * y * x, "given": given, "channels": width, "inner": inner,
                   **divisor("plane", y * x), **divisor("line", x), "x_outer": strides[0],
                   "x_inner": strides[1], "x_channel": strides[2], **_named("x", strides[3:])}
        self.add(text.pack_text, "conv_pack", form,
                 (-(-z * y * x // 64), -(-width // 64), count), 0, numbers, (made, slot))
        return made

    def geometry(self, space: Sequence[int], over: Sequence[int], taps: Sequence[int],
                 channels: int, pixel: int) -> dict[str, int]:
        """Sizes of a tensor that is gathered from, of the positions `over` which, and `taps`."""
        return {"pixel": pixel, **_named("size", space), **divisor("space", math.prod(over)),
                **divisor("plane", over[1] * over[2]), **divisor("line", over[2]),
                **divisor("taps_plane", max(1, taps[1] * taps[2])),
                **divisor("taps_line", max(1, taps[2])), **divisor("channels", channels),
                "taps": math.prod(taps)}

    def tile(self, rows: int, columns: int, steps: int) -> tuple[int, int]:
        """(rows of a tile, parts in which what is summed over is added up): no rows in vain, and as
        many blocks of threads as the GPU can run, by parts of several steps each."""
        if rows <= 64:
            size = next(n for n in (16, 32, 64) if rows <= n)
        else:
            size = 128
        slots = self.device.units * (2 if self.y.dtype in text.HALVES else 1)
        blocks = -(-rows // size) * -(-columns // text.COLUMNS) * self.groups
        parts = min(steps // _STEPS, slots // blocks, _PARTS)
        if parts > 1 and 4 * parts * rows * columns * self.groups <= _SUMS:
            return size, -(-steps // -(-steps // parts))
        return (64 if size == 128 and blocks < self.device.units else size), 1

    def gather(self, out: Meta, source: Packed, weight: Packed, row: int, rows: int,
               space: Sequence[int], over: Sequence[int], taps: Sequence[int], channels: int,
               maps: dict[str, int], out_from: int, out_step: Sequence[int],
               bias: tuple[int, int] | None = None) -> None:
        """Call `conv_gather`: `rows` channels of a group at the positions `over`."""
        positions = out.shape[0] * math.prod(over)
        steps = -(-math.prod(taps) * channels // (8 * self.chunk))
        size, parts = self.tile(rows, positions, steps)
        form = text.Form(out.dtype, size, self.rank == 3, bias is not None and parts == 1,
                         parts > 1)
        strides = _three(out.strides[2:], 0)
        numbers = {
            "rows": rows, "positions": positions, "fast": 1,
            **self.geometry(space, over, taps, channels, source.pixel), **maps,
            "weight_row": row, "tap_plane": self.kernel[1] * self.kernel[2],
            "tap_line": self.kernel[2], "x_group": source.group, "w_group": weight.group,
            "out_group": rows * out.strides[1], "out_from": out_from, "out_n": out.strides[0],
            "out_channel": out.strides[1],
            **_named("out", [s * step for s, step in zip(strides, out_step)])}
        grid = (-(-rows // form.rows) * -(-positions // text.COLUMNS), self.groups, parts)
        slots = [0, source.slot, weight.slot]
        if bias is not None:
            numbers["bias_stride"] = bias[1]
        if parts > 1:
            # as the result lies: what neighbours add up and write are neighbours
            last = out.strides[1] == 1
            every = self.groups * rows * positions
            slots[0] = self.sums(4 * parts * every)
            numbers |= {"span": -(-steps // parts), "every": every, "parts": parts,
                        "sum_row": 1 if last else positions, "sum_at": rows if last else 1,
                        **divisor("inner", rows if last else positions),
                        **divisor("outer", positions if last else rows)}
        elif bias is not None:
            slots.append(bias[0])
        self.add(text.gather_text, "conv_gather", form, grid, text.gather_memory(form), numbers,
                 slots)
        if parts > 1:
            form = form._replace(bias=bias is not None, rows=32)
            self.add(text.gather_sum_text, "conv_gather_sum", form,
                     (-(-every // text.THREADS), 1, 1), 0, numbers,
                     (0, slots[0], *((bias[0],) if bias is not None else ())))

    def sums(self, nbytes: int) -> int:
        """The scratch slot of partial sums, which calls use one after the other."""
        if self.partial is None:
            self.partial = self.room(nbytes)
        self.scratch[self.partial - self.first] = max(
            nbytes, self.scratch[self.partial - self.first])
        return self.partial

    def launch(self, inputs: int, name: str) -> Launch:
        """The calls as one Launch."""
        return make_launch(self.device, self.calls, "s" * inputs,
                           [m.span for m in self.call.outputs], self.scratch, [name])


def _visited(call: OpCall) -> tuple[Meta, Sequence[int]]:
    """The input of a convolution and its stride; for a kernel of 1 the input without the places
    that are passed over, of which nothing need be copied."""
    x, rank = call.input, call.input.ndim - 2
    given = call.grad if "grad" in call.args else call.outputs[0]
    w = call.outputs[0] if "grad" in call.args else call.weight
    if math.prod(w.shape[2:]) != 1 or any(call.padding) or any(
            (out - 1) * s >= n for n, out, s in zip(x.shape[2:], given.shape[2:], call.stride)):
        return x, call.stride
    strides = [s * t for s, t in zip(x.strides[2:], call.stride)]
    return (meta(x.dtype, (*x.shape[:2], *given.shape[2:]), (*x.strides[:2], *strides), x.device),
            (1,) * rank)


def _flat(m: Meta) -> Meta | None:
    """A tensor (n, channels, *space) as (n, channels, positions), if its memory allows."""
    step, size = 0, 1
    for n, s in zip(reversed(m.shape[2:]), reversed(m.strides[2:])):
        if n != 1:
            if size == 1:
                step = s
            elif s != step * size:
                return None
            size *= n
    return meta(m.dtype, (*m.shape[:2], size), (*m.strides[:2], step), m.device)


def _product(device: Device, call: OpCall, w: Meta, source: Meta, result: Meta,
             stride: Sequence[int], turned: bool) -> Launch | None:
    """A convolution that is a product of matrices as its operands lie: a kernel of 1 that visits
    every place. `turned`: the weight's rows are channels of the result."""
    x, y = _flat(source), _flat(result)
    if not (call.groups == 1 and math.prod(w.shape[2:]) == 1 and x is not None and y is not None
            and all(s == 1 for s in stride) and not any(call.padding)
            and source.shape[2:] == result.shape[2:]):
        return None
    rows, columns = (1, 0) if turned else (0, 1)
    a = meta(w.dtype, (w.shape[rows], w.shape[columns]), (w.strides[rows], w.strides[columns]),
             w.device)
    inputs: tuple[Meta, ...] = (a, x)
    bias = call.args.get("bias")
    if bias is not None:
        bias = meta(bias.dtype, (bias.shape[0], 1), (bias.strides[0], 0), bias.device)
        inputs = (a, x, bias)
    made = contract(device, OpCall("contract", inputs, {"a": a, "b": x, "bias": bias}, (y,),
                                   call.device))
    if made is None:
        return None
    run, into = made.launch, made.into
    return Launch(lambda first, second, *rest: run(second, first, *rest),
                  lambda out, first, second, *rest: into(out, second, first, *rest),
                  made.kernels, made.keep)


def product(device: Device, call: OpCall, turned: bool) -> Launch | None:
    """`forward` or (`turned`) `backward_data` where it is a product of matrices by cuBLASLt."""
    source, stride = (call.grad, call.stride) if turned else _visited(call)
    return _product(device, call, call.weight, source, call.outputs[0], stride, turned)


def forward(device: Device, call: OpCall) -> Launch | None:
    """y = x * w (+ bias)."""
    inputs = 2 + (call.bias is not None)
    x, stride = _visited(call)
    made = product(device, call, False)
    if made is not None:
        return made
    p = _Problem(device, call, x, call.weight, call.outputs[0], 1 + inputs, stride)
    if not p.suits() or (call.bias is not None and call.bias.dtype is not p.y.dtype):
        return None
    source = p.pack(1, p.x)
    w, row = p.pack_weight(2, False)
    maps = {**_named("stride", p.stride), **_named("from", [-n for n in p.padding]),
            **_named("move", p.dilation), **_named("tap", (1, 1, 1)), "w_from": 0}
    bias = None if call.bias is None else (3, call.bias.strides[0])
    p.gather(p.y, source, w, row, p.outside, p.space, p.result, p.kernel, w.pixel, maps, 0,
             (1, 1, 1), bias)
    return p.launch(inputs, "conv_forward")


def _classes(p: _Problem, axis: int) -> list[tuple[int, int, int, int, int, int, int]]:
    """Along one axis, for each remainder of input positions by the stride: (it, how many such
    positions, first kernel position that meets results there, the step to the next, how many, the
    result that position 0 meets at the first, by how much the next one is before it)."""
    n, s, d = p.space[axis], p.stride[axis], p.dilation[axis]
    pad, kernel = p.padding[axis], p.kernel[axis]
    step = s // math.gcd(s, d)
    out = []
    for r in range(min(s, n)):
        met = [k for k in range(min(step, kernel)) if (r + pad - k * d) % s == 0]
        first = met[0] if met else 0
        taps = -(-(kernel - first) // step) if met else 0
        out.append((r, -(-(n - r) // s), first, step, taps, (r + pad - first * d) // s,
                    step * d // s))
    return out


def _zeros(m: Meta) -> KernelCall:
    """The kernel that fills the program's slot 0 with zeros."""
    n = Nest("zeros", m.shape, compute=m.dtype)
    o = n.output(m, m.strides)
    n.start()
    n.store(o, E.const(0.0, m.dtype))
    return n.call((0,))


def backward_data(device: Device, call: OpCall) -> Launch | None:
    """The gradient of x, one class of positions after the other: those with equal remainders by
    the stride meet the same kernel positions."""
    made = product(device, call, True)
    if made is not None:
        return made
    p = _Problem(device, call, call.outputs[0], call.weight, call.grad, 3, call.stride)
    if not p.suits() or math.prod(p.stride) > 16:
        return None
    g = p.pack(1, p.y)
    w, row = p.pack_weight(2, True)
    strides = _three(p.x.strides[2:], 0)
    classes = list(itertools.product(*(_classes(p, axis) for axis in range(3))))
    met = [axes for axes in classes if all(a[4] for a in axes)]
    if len(met) < len(classes):  # the others are zeros
        p.calls.append(kernel_call(device, _zeros(p.x)))
    for axes in met:
        start = [a[2] for a in axes]
        # the weight from the first kernel positions on
        offset = (start[0] * p.kernel[1] + start[1]) * p.kernel[2] + start[2]
        maps = {**_named("stride", (1, 1, 1)), **_named("from", [a[5] for a in axes]),
                **_named("move", [-a[6] for a in axes]), **_named("tap", [a[3] for a in axes]),
                "w_from": offset * w.pixel}
        p.gather(p.x, g, w, row, p.inside, p.result, [a[1] for a in axes], [a[4] for a in axes],
                 w.pixel, maps, sum(a[0] * s for a, s in zip(axes, strides)), p.stride)
    return p.launch(2, "conv_backward_data")


def backward_weight(device: Device, call: OpCall, bias: bool = False) -> Launch | None:
    """The gradient of w, and with `bias` that of the bias: the sums of grad."""
    outs = 1 + bias
    p = _Problem(device, call, _visited(call)[0], call.outputs[0], call.grad, outs + 2,
                 _visited(call)[1])
    if not p.suits():
        return None
    x, g = p.pack(outs, p.x), p.pack(outs + 1, p.y)
    rows, channels = p.padded(p.outside), p.padded(p.inside)
    columns = math.prod(p.kernel) * channels
    positions = p.y.shape[0] * math.prod(p.result)
    form = text.Form(p.y.dtype, 64 if rows <= 64 else 128, p.rank == 3)
    tiles = -(-rows // form.rows) * -(-columns // text.COLUMNS)
    # in parts, until there is work for the whole GPU; each of several steps, and not too many
    steps = -(-positions // text.depth(form))
    parts = max(1, min(steps // 4, 2 * device.units // (tiles * p.groups), 64))
    span = -(-steps // parts) * text.depth(form)
    parts = -(-positions // span)
    every = p.groups * rows * columns
    if parts * every >= _INT:
        return None
    sums = p.room(4 * parts * every)
    numbers = {
        "rows": rows, "positions": positions, "span": span, "fast": 1,
        **p.geometry(p.space, p.result, p.kernel, channels, x.pixel), **_named("stride", p.stride),
        **_named("from", [-n for n in p.padding]), **_named("move", p.dilation),
        "grad_pixel": g.pixel, "x_group": x.group, "grad_group": g.group}
    p.add(text.weights_text, "conv_weights", form, (tiles, p.groups, parts),
          text.weights_memory(form), numbers, (sums, x.slot, g.slot))
    w = p.w
    numbers = {"all": every, "parts": parts, "given": p.inside, "rows": w.shape[0],
               **divisor("row", columns), **divisor("channels", channels),
               **divisor("taps_plane", p.kernel[1] * p.kernel[2]),
               **divisor("taps_line", p.kernel[2]), "out_row": w.strides[0],
               "out_channel": w.strides[1], **_named("out", _three(w.strides[2:], 0))}
    p.add(text.sum_text, "conv_weights_sum", form, (-(-every // text.THREADS), 1, 1), 0, numbers,
          (0, sums))
    if bias:
        p.calls.append(kernel_call(device, channel_sums(p.y, call.outputs[1], (1, outs + 1))))
    return p.launch(2, "conv_backward_weight")


def backward_weight_bias(device: Device, call: OpCall) -> Launch | None:
    """The gradients of w and of the bias."""
    return backward_weight(device, call, True)
