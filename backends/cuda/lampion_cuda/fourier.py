"""Fourier transforms by cuFFT, where it is installed; else the op's generated passes run.

A transform is a few steps over memory: packing what the library cannot address (or would
overwrite), one plan per group of up to three dims, and a pass for what it does not do itself: the
normalisation, conjugation, and leaving out imaginary parts that cannot be there. Plans are kept;
their work area is scratch memory of the call. Imports nvmath.bindings, this package and lampion's
floors 0-2.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.base.meta import Meta, contiguous_strides, meta
from lampion.logging import get_logger
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.lowering import collapse

from .steps import Array, Steps

if TYPE_CHECKING:
    from .driver import Device

_log = get_logger("cuda")

RANK = 3  # dims of one plan
# cudaDataType
_KIND = {dt.float32: 0, dt.float64: 1, dt.complex64: 4, dt.complex128: 5}


class Layout(NamedTuple):
    """Lines of a batched transform as cuFFT addresses them: `step` from one entry of the innermost
    dim to the next, allocated sizes `embed`, `distance` between `batch` transforms."""

    step: int
    embed: tuple[int, ...]
    distance: int
    batch: int


def layout(shape: Sequence[int], strides: Sequence[int], dims: Sequence[int]) -> Layout | None:
    """The layout of a transform over `dims` (innermost last), or None if it has none.

    >>> layout((4, 8), (8, 1), (1,))
    Layout(step=1, embed=(8,), distance=8, batch=4)
    >>> layout((4, 8), (8, 1), (0,))
    Layout(step=8, embed=(4,), distance=1, batch=8)
    """
    rest = [d for d in range(len(shape)) if d not in dims]
    sizes, (steps,) = collapse([shape[d] for d in rest], [[strides[d] for d in rest]])
    if len(sizes) > 1:
        return None
    step = strides[dims[-1]] if shape[dims[-1]] > 1 else 1
    if step < 1 or (steps and steps[0] < 1):
        return None
    embed, inner = [shape[d] for d in dims], step
    for k in range(len(dims) - 1, 0, -1):
        outer = strides[dims[k - 1]]
        if shape[dims[k - 1]] > 1:
            if outer < 1 or outer % inner or outer // inner < shape[dims[k]]:
                return None
            embed[k] = outer // inner
        inner *= embed[k]
    return Layout(step, tuple(embed), steps[0] if steps else 1, sizes[0] if sizes else 1)


def inwards(dims: Sequence[int], strides: Sequence[int], last: int | None = None) -> list[int]:
    """The dims in the order of their strides, or with `last` as the innermost."""
    order = sorted((d for d in dims if d != last), key=lambda d: (-strides[d], d))
    return order if last is None else [*order, last]


class Library:
    """cuFFT on one GPU, and its plans by geometry."""

    def __init__(self, device: Device, cufft: Any = None) -> None:
        if cufft is None:
            from nvmath.bindings import cufft

        self.cufft = cufft
        self.device = device
        self.version = cufft.get_version()
        self.plans: dict[Any, Plan] = {}
        self.lock = threading.Lock()

    def plan(self, n: Sequence[int], source: Layout, of: dtype, target: Layout, to: dtype) -> Plan:
        """The plan of a geometry."""
        key = (tuple(n), source, of, target, to)
        with self.lock:
            found = self.plans.get(key)
            if found is None:
                if len(self.plans) >= 512:
                    self.plans.clear()  # those that launches hold stay
                found = self.plans[key] = Plan(self, *key)
            return found


class Plan:
    """A plan of cuFFT; `work` is the size of its work area in bytes."""

    def __init__(self, lib: Library, n: Sequence[int], source: Layout, of: dtype, target: Layout,
                 to: dtype) -> None:
        self.cufft = c = lib.cufft
        self.device = lib.device
        self.lock = threading.Lock()
        lib.device.activate()
        self.handle: int | None = None
        handle = c.create()
        try:
            c.set_auto_allocation(handle, 0)
            self.work = int(c.xt_make_plan_many(
                handle, len(n), list(n), list(source.embed), source.step, source.distance,
                _KIND[of], list(target.embed), target.step, target.distance, _KIND[to],
                source.batch, _KIND[to.to_complex()]))
        except Exception:
            c.destroy(handle)
            raise
        self.handle = handle

    def run(self, stream: int, source: int, target: int, work: int, direction: int) -> None:
        """Enqueue the transform. The plan's stream and work area are state: one at a time."""
        c = self.cufft
        self.device.activate()
        with self.lock:
            c.set_stream(self.handle, stream)
            if work:
                c.set_work_area(self.handle, work)
            c.xt_exec(self.handle, source, target, direction)

    def __del__(self) -> None:
        if self.handle is not None:
            try:
                self.cufft.destroy(self.handle)
            except Exception:  # the process ends and the library is gone already
                self.handle = None


def library(device: Device) -> Library | None:
    """The library on a GPU, or None if it is not installed."""
    found = device.library("cufft", Library, "no cuFFT: generated passes transform")
    return found if isinstance(found, Library) else None


_FINISH = """
LMP_KERNEL __launch_bounds__($THREADS) void $NAME($REAL *x, const long count, const long line,
    const long middle, const double scale) {
  // Pairs (re, im): both times `scale`, the second turned over if $TURN; without $KEEP the
  // imaginary parts of entries 0 and `middle` of every line are dropped.
  const long k = LMP_GLOBAL_0;
  if (k >= count) return;
  const long at = k % line;
  const bool real = !$KEEP && (at == 0 || at == middle);
  x[2 * k] *= ($REAL)scale;
  x[2 * k + 1] = real ? 0 : x[2 * k + 1] * ($TURN ? -($REAL)scale : ($REAL)scale);
}
"""
_SCALE = """
LMP_KERNEL __launch_bounds__($THREADS) void $NAME($REAL *x, const long count, const double scale) {
  const long k = LMP_GLOBAL_0;
  if (k < count) x[k] *= ($REAL)scale;
}
"""


class Transforms(Steps):
    """The steps of one call."""

    def __init__(self, lib: Library, call: OpCall) -> None:
        super().__init__(lib.device, call)
        self.lib = lib

    def plan(self, dims: Sequence[int], to: Array, of: Array, direction: int, n: Sequence[int],
             ) -> bool:
        """Transform along dims; False if the library cannot address one of the two."""
        source = layout(of.meta.shape, of.meta.strides, dims)
        target = layout(to.meta.shape, to.meta.strides, dims)
        if source is None or target is None:
            return False
        plan = self.lib.plan(n, source, of.meta.dtype, target, to.meta.dtype)
        work = self.buffer(plan.work) if plan.work else 0

        def run(stream: Any, s: Sequence[Any]) -> None:
            plan.run(stream.handle, s[of.slot].ptr, s[to.slot].ptr, s[work].ptr if work else 0,
                     direction)

        self.steps.append(run)
        return True

    def finish(self, at: Array, scale: float, turn: bool = False, drop: int = 0) -> None:
        """Scale a contiguous array, conjugate it, drop the imaginary parts that a line of `drop`
        real entries has none of (its half is the last dim)."""
        m = at.meta
        if scale == 1 and not turn and not drop:
            return
        real = "double" if m.dtype.to_real() is dt.float64 else "float"
        if m.dtype.kind != "c":
            self.kernel("k_fft_scale", _SCALE, m.numel, (at.slot,), (m.numel,), scale, REAL=real)
            return
        line = m.shape[-1] if drop else 1
        middle = drop // 2 if drop % 2 == 0 else -1
        self.kernel("k_fft_finish", _FINISH, m.numel, (at.slot,), (m.numel, line, middle), scale,
                    REAL=real, TURN=int(turn), KEEP=int(not drop))


def transform(device: Device, call: OpCall) -> Launch | None:
    """fft_c2c, fft_r2c and fft_c2r."""
    x, y = call.inputs[0], call.outputs[0]
    if not y.numel or x.dtype.to_complex() not in _KIND:
        return None
    lib = library(device)
    if lib is None:
        return None
    whole = y if call.op == "fft_c2r" else x
    points = math.prod(whole.shape[d] for d in call.dim)
    scale = (1.0, 1 / math.sqrt(points), 1 / points)[call.norm]
    steps = Transforms(lib, call)
    direction = -1 if call.forward else 1
    {"fft_c2c": _complex, "fft_r2c": _to_half, "fft_c2r": _from_half}[call.op](
        steps, call, direction, scale)
    return steps.launch(f"cufft.{call.op}")


def _groups(dims: Sequence[int]) -> list[Sequence[int]]:
    return [dims[k:k + RANK] for k in range(0, len(dims), RANK)]


def _innermost(steps: Transforms, d: dtype, m: Meta, dims: Sequence[int]) -> Array:
    """A scratch array of a tensor's shape in which `dims` lie innermost, in this order."""
    order = [k for k in range(m.ndim) if k not in dims] + list(dims)
    packed = contiguous_strides([m.shape[k] for k in order])
    strides = tuple(packed[order.index(k)] for k in range(m.ndim))
    return Array(steps.buffer(m.numel * d.itemsize), meta(d, m.shape, strides, m.device))


def _in_place(steps: Transforms, at: Array, dims: Sequence[int], direction: int) -> None:
    """Complex transforms along dims of an array, by way of a copy where that is needed."""
    for group in _groups(dims):
        order = inwards(group, at.meta.strides)
        n = [at.meta.shape[d] for d in order]
        if not steps.plan(order, at, at, direction, n):
            there = _innermost(steps, at.meta.dtype, at.meta, order)
            steps.copy(there, at)
            steps.plan(order, there, there, direction, n)
            steps.copy(at, there)


def _complex(steps: Transforms, call: OpCall, direction: int, scale: float) -> None:
    x, y = steps.inputs[0], steps.outputs[0]
    groups = _groups(call.dim)
    order = inwards(groups[0], y.meta.strides)
    n = [y.meta.shape[d] for d in order]
    if x.meta.dtype is y.meta.dtype and steps.plan(order, y, x, direction, n):
        rest = [d for g in groups[1:] for d in g]
    else:
        steps.copy(y, x)
        rest = list(call.dim)
    _in_place(steps, y, rest, direction)
    steps.finish(y, scale)


def _to_half(steps: Transforms, call: OpCall, direction: int, scale: float) -> None:
    x, y = steps.inputs[0], steps.outputs[0]
    last = call.dim[-1]
    first = [*call.dim[:-1][-(RANK - 1):], last]  # with the half dim go up to two others
    rest = [d for d in call.dim if d not in first]
    order = inwards(first, y.meta.strides, last)
    n = [x.meta.shape[d] for d in order]
    if not steps.plan(order, y, x, -1, n):
        source = _innermost(steps, x.meta.dtype, x.meta, order)
        steps.copy(source, x)
        target = _innermost(steps, y.meta.dtype, y.meta, order)
        steps.plan(order, target, source, -1, n)
        steps.copy(y, target)
    _in_place(steps, y, rest, -1)
    steps.finish(y, scale, turn=direction > 0)  # of a real array: the conjugate


def _from_half(steps: Transforms, call: OpCall, direction: int, scale: float) -> None:
    x, y = steps.inputs[0], steps.outputs[0]
    last = call.dim[-1]
    # the library overwrites what it reads, and lines must lie together to be looked over
    half = _innermost(steps, x.meta.dtype, x.meta, [last])
    steps.copy(half, x)
    _in_place(steps, half, call.dim[:-1], direction)
    m = half.meta
    lines = meta(m.dtype, (m.numel // m.shape[last], m.shape[last]), None, m.device)
    steps.finish(Array(half.slot, lines), scale, turn=direction < 0, drop=call.size)
    if not steps.plan([last], y, half, 1, [call.size]):
        target = _innermost(steps, y.meta.dtype, y.meta, [last])
        steps.plan([last], target, half, 1, [call.size])
        steps.copy(y, target)
