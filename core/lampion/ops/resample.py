"""Resizing: interpolate in all its modes as one kernel over tables of taps.

Floor 3. Along each dim an output is a weighted sum of a few inputs; which ones and with what
weights depends on sizes and mode only, so both are tables, made once on the host. The gradient is
the same kernel with the transposed tables: it gathers, is deterministic, and has gradients of its
own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..base import dtype as dt
from ..base.errors import DtypeError
from ..ir import expr as E
from ..runtime.backend import host_wrote
from ..runtime.lowering import Nest, collapse, convert
from . import batch_rules
from .conv import result_strides
from .registry import REGISTRY, composite, kernel_op

UNROLL = 16  # up to this many taps in all, the dims of an output are combined in one pass


@dataclass(frozen=True)
class Axis:
    """How one dim is resized: mode ("nearest", "nearest-exact", "linear", "cubic"), sizes, the
    user's scale or None, align_corners, antialias, the precision of positions, and whether a dim
    that keeps its size is copied whatever the scale."""

    mode: str
    size: int
    out: int
    scale: float | None
    align: bool
    antialias: bool
    double: bool
    keep: bool


# ---------------------------------------------------------------- tables

def _ratio(axis, f):
    """Input positions per output position."""
    if axis.align:
        return f(axis.size - 1) / f(axis.out - 1) if axis.out > 1 else f(0)
    if axis.scale is not None and axis.scale > 0:
        return f(1.0 / axis.scale)
    return f(axis.size) / f(axis.out)


def _cubic(x, a):
    """Cubic convolution's weight at distance x."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _antialiased(axis, f):
    """Taps of a filter as wide as the outputs are apart."""
    ratio, half = _ratio(axis, f), 1 if axis.mode == "linear" else 2
    support = f(half) * ratio if ratio >= 1 else f(half)
    inverse = f(1) / ratio if ratio >= 1 else f(1)
    rows = []
    for o in range(axis.out):
        center = ratio * (f(o) + f(0.5))
        low = max(int(center - support + f(0.5)), 0)
        high = min(int(center + support + f(0.5)), axis.size)
        at = np.arange(low, high)
        x = ((at - center).astype(f) + f(0.5)) * inverse
        w = np.maximum(1 - np.abs(x), 0) if axis.mode == "linear" else _cubic(x, f(-0.5))
        total = w.sum()
        rows.append((at, w / total if total else w))
    return rows


def _taps(axis):
    """For every output: (input positions, weights)."""
    f = np.float64 if axis.double else np.float32
    o = np.arange(axis.out).astype(f)
    if axis.keep and axis.size == axis.out:
        return [(np.array([i]), np.ones(1, f)) for i in range(axis.out)]
    if axis.antialias:
        return _antialiased(axis, f)
    ratio = _ratio(axis, f)
    if axis.mode.startswith("nearest"):
        at = (o + f(0.5)) * ratio if axis.mode == "nearest-exact" else o * ratio
        index = np.minimum(np.floor(at).astype(np.int64), axis.size - 1)
        return [(np.array([i]), np.ones(1, f)) for i in index]
    x = o * ratio if axis.align else ratio * (o + f(0.5)) - f(0.5)
    if axis.mode == "linear":
        x = np.maximum(x, 0)
        first = np.minimum(np.floor(x).astype(np.int64), axis.size - 1)
        t = np.clip(x - first, 0, 1).astype(f)
        second = np.minimum(first + 1, axis.size - 1)
        return [(np.array(p), np.array(w)) for p, w in zip(zip(first, second), zip(1 - t, t))]
    first = np.floor(x).astype(np.int64)
    t = (x - first).astype(f)
    weights = np.stack([_cubic(t + 1, f(-0.75)), _cubic(t, f(-0.75)), _cubic(1 - t, f(-0.75)),
                        _cubic(2 - t, f(-0.75))], -1)
    at = np.clip(first[:, None] + np.arange(-1, 3), 0, axis.size - 1)
    return list(zip(at, weights))


@lru_cache(512)
def table(axis, backward):
    """(positions, weights) as arrays of (outputs, taps), padded with weight 0. `backward` is the
    transposed map: for every input, the outputs that read it."""
    taps = _taps(axis)
    if backward:
        rows = [({}) for _ in range(axis.size)]
        for o, (at, w) in enumerate(taps):
            for i, x in zip(at, w):
                rows[i][o] = rows[i].get(o, 0) + x
        taps = [(np.array(list(r)), np.array(list(r.values()))) for r in rows]
    width = max((len(at) for at, _ in taps), default=0)
    index = np.zeros((len(taps), width), np.int64)
    weight = np.zeros((len(taps), width), np.float64 if axis.double else np.float32)
    for k, (at, w) in enumerate(taps):
        index[k, :len(at)], weight[k, :len(at)] = at, w
        index[k, len(at):] = at[-1] if len(at) else 0
    return index, weight


_tables = {}


def device_tables(axes, backward, where):
    """The tables of several dims as tensors of a device: index, weight, index, weight..."""
    out = []
    for axis in axes:
        key = (axis, backward, where)
        found = _tables.get(key)
        if found is None:
            from ..creation import tensor

            if len(_tables) > 2048:
                _tables.clear()
            index, weight = table(axis, backward)
            found = _tables[key] = (tensor(index, device=where), tensor(weight, device=where))
        for t in found:  # constants, though they may have been made earlier
            host_wrote(t.data_)
        out += found
    return out


# ---------------------------------------------------------------- the kernel

@kernel_op("input: T, tables: T[], axes, backward")
class resample:
    """Resize the last len(axes) dims by tables of taps."""

    linear = ("input",)
    where = ()
    out = False
    batch = batch_rules.first

    def meta(input, tables, axes, backward):
        size = tuple(a.size if backward else a.out for a in axes)
        shape = (*input.shape[:input.ndim - len(axes)], *size)
        return [(input.dtype, shape, result_strides(shape, input))]

    def lower(call):
        x, y, rank = call.input, call.outputs[0], len(call.axes)
        indices, weights = call.tables[0::2], call.tables[1::2]
        acc = dt.opmath(y.dtype)
        lead = x.ndim - rank
        sizes, (ro, ri) = collapse(y.shape[:lead], [m.strides[:lead] for m in (y, x)])
        taps = [t.shape[1] for t in indices]
        shape = (*sizes, *y.shape[lead:], *taps)
        inner = range(len(sizes) + rank, len(shape))
        unrolled = math.prod(taps) <= UNROLL
        if unrolled:
            shape, inner = shape[:len(sizes) + rank], ()
        n = Nest("resample", shape, inner, compute=acc, merge=False)
        o = n.output(y, (*ro, *y.strides[lead:], *(0,) * len(inner)))
        v = n.buffer(x)
        tables = [(n.buffer(a), n.buffer(b)) for a, b in zip(indices, weights)]
        n.start()
        base = E.const(0, dt.int64)
        for d, s in enumerate(ri):
            base = base + n.coord(d) * E.const(s, dt.int64)

        def term(ks):
            at, weight = base, None
            for r, k in enumerate(ks):
                index, w = tables[r]
                where = n.coord(len(sizes) + r) * E.const(taps[r], dt.int64) + k
                at = at + index.at(where) * E.const(x.strides[lead + r], dt.int64)
                w = convert(n.typed(w.at(where)), acc)
                weight = w if weight is None else weight * w
            return convert(n.typed(v.at(at)), acc) * weight

        if unrolled:
            total = None
            for ks in np.ndindex(*taps):
                t = term([E.const(int(k), dt.int64) for k in ks])
                total = t if total is None else total + t
        else:
            total = n.reduce("sum", term([n.coord(len(sizes) + rank + r) for r in range(rank)]))
        n.store(o, total, inner=False)
        return n.program()

    def vjp(ctx, g):
        return resized(g, ctx.axes, not ctx.backward), None


def resized(x, axes, backward=False):
    """The last dims of `x` resized: in one pass if the taps are few, else dim by dim."""
    m = x.meta
    taps = math.prod(table(a, backward)[0].shape[1] for a in axes)
    if len(axes) == 1 or taps <= UNROLL:
        return resample.fn(x, device_tables(axes, backward, m.device), tuple(axes), backward)
    rank = len(axes)
    for r, axis in enumerate(axes):
        moved = x.movedim(r - rank, -1)
        moved = resample.fn(moved, device_tables([axis], backward, m.device), (axis,), backward)
        x = moved.movedim(-1, r - rank)
    return x


# ---------------------------------------------------------------- PyTorch's function

_KINDS = {"nearest": None, "nearest-exact": None, "area": None, "linear": 1, "bilinear": 2,
          "bicubic": 2, "trilinear": 3}


def _output_size(rank, space, size, scale_factor, recompute):
    """(output sizes, scales or Nones)."""
    if size is not None and scale_factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is not None:
        sizes = (size,) * rank if isinstance(size, int) else tuple(int(n) for n in size)
        if len(sizes) != rank:
            raise ValueError("Input and output must have the same number of spatial dimensions, "
                             f"but got input with spatial dimensions of {list(space)} and output "
                             f"size of {size}. Please provide input tensor in (N, C, d1, d2, "
                             "...,dK) format and output size in (o1, o2, ...,oK) format.")
        if recompute:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        return sizes, (None,) * rank
    if scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    if isinstance(scale_factor, (list, tuple)):
        if len(scale_factor) != rank:
            raise ValueError(
                "Input and scale_factor must have the same number of spatial dimensions, but got "
                f"input with spatial dimensions of {list(space)} and scale_factor of shape "
                f"{scale_factor}. Please provide input tensor in (N, C, d1, d2, ...,dK) format and "
                "scale_factor in (s1, s2, ...,sK) format.")
        scales = tuple(float(s) for s in scale_factor)
    else:
        scales = (float(scale_factor),) * rank
    sizes = tuple(math.floor(n * s) for n, s in zip(space, scales))
    return sizes, ((None,) * rank if recompute else scales)


@composite(where=("nn.functional",), out=False, replay=True, samples="""
    f(1, 2, 4), 6
    f(2, 1, 3, 4).transposed, scale_factor=2
    f(1, 1, 3, 2, 2), (2, 3, 4), mode="nearest-exact"
    f(1, 2, 5), 7, mode="linear"
    f(1, 2, 5), 3, mode="linear", align_corners=True
    f(1, 2, 3, 4).transposed, (5, 6), mode="bilinear"
    f(1, 1, 4, 4), (6, 3), mode="bicubic"
    f(1, 1, 4, 4), (6, 7), mode="bicubic", align_corners=True
    f(1, 1, 2, 3, 3), (3, 4, 5), mode="trilinear"
    f(1, 2, 6), 4, mode="area"
    f(1, 1, 6, 6), (3, 4), mode="bilinear", antialias=True
""")
def interpolate(input, size=None, scale_factor=None, mode="nearest", align_corners=None,
                recompute_scale_factor=None, antialias=False):
    """Resize the space dims of (N, C, *space) to `size` or by `scale_factor`.

    Modes: nearest, nearest-exact, area (any rank), linear (3-d input), bilinear and bicubic (4-d),
    trilinear (5-d). `antialias` widens the filter of bilinear and bicubic when shrinking.
    ValueError or NotImplementedError for arguments that do not go together.
    """
    m = input.meta
    rank = m.ndim - 2
    if mode not in _KINDS or rank not in (1, 2, 3) or _KINDS[mode] not in (None, rank):
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {m.ndim}D) for the "
            "modes: "
            f"nearest | linear | bilinear | bicubic | trilinear | area | nearest-exact (got {mode})"
            )
    smooth = _KINDS[mode] is not None
    if align_corners is not None and not smooth:
        raise ValueError("align_corners option can only be set with the interpolating modes: "
                         "linear | bilinear | bicubic | trilinear")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError("Anti-alias option is restricted to bilinear and bicubic modes and "
                         "requires a 4-D tensor as input")
    space = m.shape[2:]
    sizes, scales = _output_size(rank, space, size, scale_factor, recompute_scale_factor)
    if any(n <= 0 for n in (*sizes, *space)):
        raise RuntimeError("Input and output sizes should be greater than 0, but got input "
                           f"{list(space)} and output {list(sizes)}")
    if mode == "area":
        return REGISTRY[f"adaptive_avg_pool{rank}d"].fn(input, sizes)
    if m.dtype.kind != "f" and not (not smooth and m.dtype is dt.uint8):
        raise DtypeError(f"\"interpolate\" is not implemented for {m.dtype!r} with mode {mode!r}")
    kind = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    keep = not antialias and (kind == "linear" or (mode, rank) == ("nearest", 2))
    axes = tuple(Axis(kind, n, o, s, bool(align_corners), bool(antialias),
                      m.dtype is dt.float64, keep) for n, o, s in zip(space, sizes, scales))
    return resized(input, axes)
