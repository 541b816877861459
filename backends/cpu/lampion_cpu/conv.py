"""Convolutions for the native runtime, through oneDNN.

:func:`conv_steps` and its two gradients take views in PyTorch's order of axes, (batch,
channels, *space), with any strides, for one to three spatial axes. Each plans the reorders
into the layouts that its primitive runs fast in, the primitive, and the reorder of the
result. A transposed convolution is :func:`conv_backward_data_steps`.

Imports ``direct``, ``gemm`` (views and plans), ``onednn``, ``pack`` and ``program``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import direct, onednn, pack
from .gemm import Plan, Scratch, View, matmul_steps
from .onednn import Bound, Desc, Geometry, Primitive
from .program import Step

_LARGE = 2_000_000  # multiply-adds from which the GIL is worth releasing


class _Shape(NamedTuple):
    """What all three passes share: geometry, groups, dtype and the multiply-adds."""

    geometry: Geometry
    groups: int
    dtype: str
    work: int


def conv_steps(
    x: View, w: View, y: View, bias: View | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int, post: str | None = None,
    *, first_scratch: int,
) -> Plan | None:  # fmt: skip
    """Plan y = post(conv(x, w) + bias).

    ``x`` is (batch, in, *space), ``w`` (out, in / groups, *kernel), ``y`` (batch, out, *space),
    ``bias`` (out,) or None; ``stride``, ``padding`` (before the first element; the size of ``y``
    says how much follows the last) and ``dilation`` have one value per spatial axis. ``post`` is
    a name in :data:`onednn.POST_OPS`.

    Returns None when oneDNN is absent or has no fast kernel (float64, integers, zero sizes):
    compose the convolution from other kernels then. Raises ValueError for sizes that do not fit.
    """
    shape = _checked(x, w, y, stride, padding, dilation, groups)
    if shape is None or (bias is not None and bias.dtype != shape.dtype):
        return None
    if post not in (None, *onednn.POST_OPS):
        return None
    posts = (post,) if post else ()
    planner = _Planner(first_scratch)
    b = None if bias is None else planner.dense(bias)

    def make(d: dict[int, Desc]) -> Primitive | None:
        extra = None if b is None else onednn.desc(b.shape, b.strides, b.dtype)
        return onednn.convolution(
            d[onednn.SRC], d[onednn.WEIGHTS], extra, d[onednn.DST], shape.geometry, posts
        )

    tensors = {
        onednn.SRC: _Tensor(x, False), onednn.WEIGHTS: _weights(w, shape.groups),
        onednn.DST: _Tensor(y, True),
    }  # fmt: skip
    if b is not None:
        tensors[onednn.BIAS] = _Tensor(b, False)
    return planner.plan(make, tensors, shape, _styles("forward", x, y, w, shape))


def conv_backward_data_steps(
    gy: View, w: View, gx: View, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, *, first_scratch: int,
) -> Plan | None:  # fmt: skip
    """Plan the gradient of :func:`conv_steps` with respect to ``x``, written to ``gx``."""
    shape = _checked(gx, w, gy, stride, padding, dilation, groups)
    if shape is None:
        return None

    def make(d: dict[int, Desc]) -> Primitive | None:
        return onednn.convolution_backward_data(
            d[onednn.DIFF_SRC], d[onednn.WEIGHTS], d[onednn.DIFF_DST], shape.geometry
        )

    tensors = {
        onednn.DIFF_DST: _Tensor(gy, False), onednn.WEIGHTS: _weights(w, shape.groups),
        onednn.DIFF_SRC: _Tensor(gx, True),
    }  # fmt: skip
    styles = _styles("backward_data", gx, gy, w, shape)
    return _Planner(first_scratch).plan(make, tensors, shape, styles)


def conv_backward_weights_steps(
    x: View, gy: View, gw: View, gbias: View | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int, *, first_scratch: int,
) -> Plan | None:  # fmt: skip
    """Plan the gradients with respect to ``w`` and (when given) the bias."""
    shape = _checked(x, gw, gy, stride, padding, dilation, groups)
    if shape is None or (gbias is not None and not _is_dense(gbias)):
        return None
    for planner in (_summed_products, _one_product):
        if (plan := planner(x, gy, gw, gbias, shape, first_scratch)) is not None:
            return plan

    def make(d: dict[int, Desc]) -> Primitive | None:
        extra = None if gbias is None else onednn.desc(gbias.shape, (1,), gbias.dtype)
        return onednn.convolution_backward_weights(
            d[onednn.SRC], d[onednn.DIFF_WEIGHTS], extra, d[onednn.DIFF_DST], shape.geometry
        )

    tensors = {
        onednn.SRC: _Tensor(x, False), onednn.DIFF_DST: _Tensor(gy, False),
        onednn.DIFF_WEIGHTS: _weights(gw, shape.groups)._replace(output=True),
    }  # fmt: skip
    if gbias is not None:
        tensors[onednn.DIFF_BIAS] = _Tensor(gbias, True)
    styles = _styles("backward_weights", x, gy, gw, shape)
    return _Planner(first_scratch).plan(make, tensors, shape, styles)


# --- checks --------------------------------------------------------------------------------


def _checked(
    x: View, w: View, y: View, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int,
) -> _Shape | None:  # fmt: skip
    """Validate the sizes; None when oneDNN cannot do it."""
    rank = len(x.shape) - 2
    if not len(stride) == len(padding) == len(dilation) == rank == len(w.shape) - 2:
        raise ValueError("stride, padding, dilation and the kernel need one value per axis")
    if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups or y.shape[1] != w.shape[0]:
        raise ValueError(f"channels do not fit: {x.shape}, {w.shape}, {y.shape}, {groups} groups")
    right = []
    for i in range(rank):
        reach = dilation[i] * (w.shape[i + 2] - 1) + 1
        # the padding on the right is what the result's size asks for: "same" is not symmetric
        after = (y.shape[i + 2] - 1) * stride[i] + reach - x.shape[i + 2] - padding[i]
        if not -stride[i] < after < max(reach, padding[i] + 1):
            raise ValueError(f"a result of size {y.shape[i + 2]} on axis {i + 2} does not fit")
        right.append(after)
    sizes = (*x.shape, *w.shape, *y.shape)
    if not 1 <= rank <= 3 or 0 in sizes or not x.dtype == w.dtype == y.dtype:
        return None
    if x.dtype not in onednn.DTYPES or not onednn.available()[0]:
        return None
    geometry = Geometry(tuple(stride), tuple(dilation), tuple(padding), tuple(right))
    work = math.prod(y.shape) * math.prod(w.shape[1:])
    return _Shape(geometry, groups, x.dtype, work)


def _is_dense(view: View) -> bool:
    """Whether the elements fill their memory once, in any order of the axes."""
    expected = 1
    for size, stride in sorted(zip(view.shape, view.strides, strict=True), key=lambda p: p[1]):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


class _Tensor(NamedTuple):
    """A user tensor in oneDNN's logical shape, and whether the primitive writes it."""

    view: View
    output: bool
    is_weights: bool = False


def _weights(w: View, groups: int) -> _Tensor:
    """Weights with a group axis in front where there are groups."""
    if groups == 1:
        return _Tensor(w, False, True)
    per = w.shape[0] // groups
    shape = (groups, per, *w.shape[1:])
    strides = (w.strides[0] * per, *w.strides)
    return _Tensor(w._replace(shape=shape, strides=strides), False, True)


# --- planning ------------------------------------------------------------------------------


def _channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of (batch, channels, *space) with the channels innermost."""
    strides, step = [0] * len(shape), 1
    for axis in (1, *range(len(shape) - 1, 1, -1), 0):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def _normal(view: View) -> View:
    """The view with the strides of axes of size 1 set to what a dense tensor would have."""
    order = sorted(range(len(view.shape)), key=lambda i: (view.strides[i], view.shape[i]))
    strides, step = list(view.strides), 1
    for axis in order:
        if view.shape[axis] == 1:
            strides[axis] = step
        step = max(step, strides[axis] * view.shape[axis])
    return view._replace(strides=tuple(strides))


class _Planner:
    """Collects the steps and scratch slots of one convolution pass."""

    def __init__(self, first_scratch: int) -> None:
        self.scratch = Scratch(first_scratch)
        self.steps: list[Step] = []

    def dense(self, view: View) -> View:
        """The view itself if it is dense, else a dense copy in scratch."""
        if _is_dense(view):
            return _normal(view)
        size = onednn.ITEMSIZE[view.dtype]
        slot = self.scratch.add(math.prod(view.shape) * size)
        self.steps.append(pack.dense_step(slot, view.slot, view.shape, view.strides, size))
        return View(slot, view.shape, _contiguous(view.shape), view.dtype)

    def plan(
        self, make: Callable[[dict[int, Desc]], Primitive | None], tensors: dict[int, _Tensor],
        shape: _Shape, styles: Sequence[str],
    ) -> Plan | None:  # fmt: skip
        """Choose layouts, then emit reorders, the primitive, and reorders of its results."""
        for number, tensor in tensors.items():
            if not tensor.output:
                tensors[number] = tensor._replace(view=self.dense(tensor.view))
            elif not _is_dense(tensor.view):
                return None
            else:
                tensors[number] = tensor._replace(view=_normal(tensor.view))
        for style in styles:
            primitive = make(_layout(tensors, style))
            if primitive is not None and "ref" not in primitive.implementation:
                return self._emit(primitive, tensors, shape)
        return None

    def _emit(
        self, primitive: Primitive, tensors: dict[int, _Tensor], shape: _Shape
    ) -> Plan | None:
        bound, after = [], []
        for number, tensor in tensors.items():
            view = tensor.view
            own = onednn.desc(view.shape, view.strides, view.dtype)
            if number in (onednn.BIAS, onednn.DIFF_BIAS):
                bound.append(Bound(number, own, view.slot))
                continue
            wanted = primitive.desc(number)
            if own.same_layout(wanted):
                bound.append(Bound(number, own, view.slot))
                continue
            slot = self.scratch.add(wanted.nbytes)
            inside, outside = (wanted, slot), (own, view.slot)
            bound.append(Bound(number, wanted, slot))
            if tensor.output:
                after.append((inside, outside))
            elif not self._reorder(outside, inside):
                return None
        large = shape.work > _LARGE
        slot = self.scratch.for_primitive(primitive)
        self.steps.append(onednn.run_step(primitive, bound, slot, large))
        for inside, outside in after:
            if not self._reorder(inside, outside):
                return None
        return Plan(tuple(self.steps), tuple(self.scratch.sizes))

    def _reorder(self, source: tuple[Desc, int], target: tuple[Desc, int]) -> bool:
        """Append a reorder from one (layout, slot) to another."""
        turn = onednn.reorder(source[0], target[0])
        if turn is None:
            return False
        bound = [Bound(onednn.SRC, *source), Bound(onednn.DST, *target)]
        slot = self.scratch.for_primitive(turn)
        self.steps.append(onednn.run_step(turn, bound, slot, source[0].nbytes > 1 << 18))
        return True


# --- which layout is fast ------------------------------------------------------------------
# Measured on AVX-512 hosts against the time of the whole plan, reorders included.

_POINTWISE_PIXELS = 144  # from here on a 1x1 convolution is best left in PyTorch's order
_FEW_CHANNELS = 4
_SUMMED_BATCH = 64
_SUMMED_WORK = 64**3
_ONE_PRODUCT_ROWS = 1024


def _is_channels_last(view: View) -> bool:
    """Whether a view with more than one channel keeps them innermost."""
    return view.shape[1] > 1 and _normal(view).strides == _channels_last(view.shape)


def _is_pointwise(w: View, shape: _Shape) -> bool:
    """Whether the convolution is one matrix product per image."""
    g = shape.geometry
    return (
        shape.groups == 1
        and math.prod(w.shape[2:]) == 1
        and set(g.strides) == {1}
        and not any(g.padding_left)
    )


def _styles(direction: str, x: View, y: View, w: View, shape: _Shape) -> list[str]:
    """Names of layouts to try, the fastest first: see :func:`_layout`."""
    if (_is_channels_last(x) or x.shape[1] == 1) and (_is_channels_last(y) or y.shape[1] == 1):
        return ["last", "any", "user"]
    rest = ["blocked", "any", "last", "user"]
    if direction == "backward_weights":
        return rest
    if direction == "backward_data" and shape.groups == 1 and x.shape[1] <= _FEW_CHANNELS:
        return ["user", *rest]
    if _is_pointwise(w, shape) and math.prod(y.shape[2:]) >= _POINTWISE_PIXELS:
        return ["user", *rest]
    return rest


def _layout(tensors: dict[int, _Tensor], style: str) -> dict[int, Desc]:
    """Descriptors of the operands in a style.

    ``user`` keeps every layout, ``last`` puts the channels innermost, ``blocked`` keeps them
    in blocks of a vector, ``any`` leaves all to oneDNN; weights are left to it but by ``user``.
    """
    block = onednn.channel_block()
    chosen = {}
    for number, (view, _, is_weights) in tensors.items():
        strides: tuple[int, ...] | None = None
        if style == "user" or len(view.shape) == 1:
            strides = view.strides
        elif style == "last" and not is_weights:
            strides = _channels_last(view.shape)
        elif style == "blocked" and not is_weights and view.shape[1] % block == 0:
            chosen[number] = onednn.blocked_desc(view.shape, view.dtype)
            continue
        chosen[number] = onednn.desc(view.shape, strides, view.dtype)
    return chosen


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _summed_products(
    x: View, gy: View, gw: View, gbias: View | None, shape: _Shape, first_scratch: int
) -> Plan | None:
    """Weight gradient of a 1x1 convolution as a sum of matrix products over the images.

    For PyTorch's order of axes. It needs no reorder of the activations, which would cost more
    than the products themselves.
    """
    batch, pixels = x.shape[0], math.prod(x.shape[2:])
    if (
        not _is_pointwise(gw, shape)
        or shape.dtype != "float32"
        or pixels < _POINTWISE_PIXELS
        or batch > _SUMMED_BATCH
        or shape.work < batch * _SUMMED_WORK
    ):
        return None
    order = _contiguous(x.shape), _contiguous(gy.shape), _contiguous(gw.shape)
    if order != tuple(_normal(v).strides for v in (x, gy, gw)) or (gbias and gbias.strides != (1,)):
        return None
    out, channels = gw.shape[:2]
    a = onednn.desc((out, pixels), (pixels, 1), shape.dtype)
    b = onednn.desc((pixels, channels), (1, pixels), shape.dtype)
    c = onednn.desc((out, channels), (channels, 1), shape.dtype)
    first, rest = onednn.matmul(a, b, c), onednn.matmul(a, b, c, post=("sum",))
    if first is None or rest is None:
        return None
    scratch = Scratch(first_scratch)
    bound = [
        Bound(onednn.SRC, a, gy.slot), Bound(onednn.WEIGHTS, b, x.slot),
        Bound(onednn.DST, c, gw.slot),
    ]  # fmt: skip
    needed = max(first.scratchpad, rest.scratchpad)
    slot = scratch.add(needed) if needed else -1
    strides = (a.nbytes, b.nbytes, 0)
    steps = [onednn.series_step((first, rest), bound, strides, batch, slot)]
    if gbias is not None:
        fn = direct.sum_kernel(gy.dtype)
        params = (batch, pixels, out * pixels * 4, pixels * 4)
        steps.append(Step(fn, params, (gbias.slot, gy.slot), out, 1))
    return Plan(tuple(steps), tuple(scratch.sizes))


def _one_product(
    x: View, gy: View, gw: View, gbias: View | None, shape: _Shape, first_scratch: int
) -> Plan | None:
    """Weight gradient of a 1x1 convolution on channels-last tensors: one matrix product."""
    out, channels = gw.shape[:2]
    rows = x.shape[0] * math.prod(x.shape[2:])
    if not _is_pointwise(gw, shape) or shape.dtype != "float32" or rows < _ONE_PRODUCT_ROWS:
        return None
    if not (_is_channels_last(x) and _is_channels_last(gy)) or (gbias and gbias.strides != (1,)):
        return None
    if _normal(gw).strides != _contiguous(gw.shape):
        return None
    plan = matmul_steps(
        View(gy.slot, (out, rows), (1, out), gy.dtype),
        View(x.slot, (rows, channels), (channels, 1), x.dtype),
        View(gw.slot, (out, channels), (channels, 1), gw.dtype),
        first_scratch=first_scratch,
    )
    if plan is None or gbias is None:
        return plan
    fn = direct.stream_kernel(gy.dtype, direct.Epilogue(), ones=True)
    units = math.ceil(out / (direct.STREAM_VECTORS * direct.lanes(gy.dtype)))
    total = Step(fn, (out, rows, 0, out * 4), (gbias.slot, gy.slot), units, 1)
    return Plan((*plan.steps, total), plan.scratch)
