"""Convolutions on processors straight from the image, without a matrix of patches.

A convolution is a product whose one factor repeats numbers of the image: the other factor is packed
into panels of a few vectors (of output channels, or of input channels for the gradient of the
input), and a register tile multiplies them by numbers that it reads from the image where they are.
The image has margins of zeros, so that no tap needs a test. Every shape has kernels of its own,
with its sizes as constants. Imports this package and lampion's floors 0-2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lampion.base import dtype as dt
from lampion.base.meta import Meta, contiguous_strides, meta
from lampion.runtime.backend import OpCall
from lampion.runtime.lowering import Nest

from .compiler import Bound
from .gemm import WIDE, WIDE_HEAD, pack_call, register_tile, turn_text
from .launch import kernel_call

if TYPE_CHECKING:
    from .runtime import Device

UNROLLED = 8      # taps in a row, up to which each is written out
GRAIN = 1 << 18   # multiplications that a work item should have at least
DEEP = 28         # vectors that the sums of a tile may take

_Calls = tuple[list[Any], list[int]]


class Axis(NamedTuple):
    """A space dim of the places that one kernel text serves: `count` places, of which place i is
    `start + i * stride` of the result and reads the image at `i * step + first + j * skip` for its
    `taps` taps, whose kernel positions are `tap + j * apart`."""

    count: int
    start: int
    stride: int
    step: int
    first: int
    skip: int
    taps: int
    tap: int
    apart: int


def suits(device: Device, vectors_along: int) -> bool:
    """Whether a convolution with so many channels along the vectors is done here."""
    return device.lanes and vectors_along >= 8


def forward(device: Device, call: OpCall, scratch_slot: int) -> _Calls:
    """y = x * w (+ bias): kernel calls and sizes of scratch."""
    x, w, y = call.input, call.weight, call.outputs[0]
    axes = [Axis(o, 0, 1, s, -p, d, k, 0, 1) for o, s, p, d, k in zip(
        y.shape[2:], call.stride, call.padding, call.dilation, w.shape[2:])]
    c, taps = w.shape[1], math.prod(w.shape[2:])
    return _products(device, [axes], x, y, w, c, taps, False, call.bias is not None, (0, 1, 2, 3),
                     scratch_slot)


def backward_data(device: Device, call: OpCall, scratch_slot: int) -> _Calls:
    """The gradient of the input: for each remainder of its places by the stride a convolution of
    the gradient with the taps that meet them."""
    g, w, x = call.grad, call.weight, call.outputs[0]
    kinds: list[list[Axis]] = [[]]
    for n, s, p, d, k in zip(x.shape[2:], call.stride, call.padding, call.dilation, w.shape[2:]):
        dim = []
        for r in range(min(s, n)):
            taps = [j for j in range(k) if (r + p - j * d) % s == 0]
            first = (r + p - taps[0] * d) // s if taps else 0
            apart = taps[1] - taps[0] if len(taps) > 1 else 1
            dim.append(Axis(-(-(n - r) // s), r, s, 1, first, -(apart * d // s), len(taps),
                            taps[0] if taps else 0, apart))
        kinds = [[*axes, a] for axes in kinds for a in dim]
    return _products(device, kinds, g, x, w, w.shape[0], math.prod(w.shape[2:]), True, False,
                     (0, 1, 2, 3), scratch_slot)


def _margins(kinds: Sequence[Sequence[Axis]], space: Sequence[int]) -> tuple[list[int], list[int]]:
    """(zeros before each dim, size of each dim with its margins)."""
    low, size = [], []
    for r, n in enumerate(space):
        spots = [a[r].first + e * a[r].step + j * a[r].skip for a in kinds if a[r].taps
                 for e in (0, a[r].count - 1) for j in (0, a[r].taps - 1)]
        lo = max(0, -min(spots, default=0))
        low.append(lo)
        size.append(max(n, max(spots, default=0) + 1) + lo)
    return low, size


def _padded(device: Device, x: Meta, low: Sequence[int], size: Sequence[int], source: int,
            scratch_slot: int) -> tuple[list[Any], list[int], int]:
    """The call that gives an image its margins, its scratch, and the slot to read from."""
    space = x.shape[2:]
    if tuple(size) == tuple(space):
        return [], [], source
    planes, item = x.shape[0] * x.shape[1], x.dtype.itemsize
    whole, inside = math.prod(size), math.prod(space)
    n, m, lo = space[-1], size[-1], low[-1]
    loops, row = "", "0"
    for r in range(len(space) - 1):
        loops += f"for (long a{r} = -{low[r]}; a{r} < {size[r] - low[r]}; ++a{r}) "
        row = f"({row}) * {space[r]} + a{r}"
    here = " && ".join(f"a{r} >= 0 && a{r} < {space[r]}" for r in range(len(space) - 1)) or "1"
    text = f"""
  const long p1 = (get_global_id(0) + 1) * share < {planes} ? (get_global_id(0) + 1) * share
                                                            : {planes};
  for (long p = get_global_id(0) * share; p < p1; ++p) {{
    __global real *to = y + p * {whole};
    {loops}{{
      if ({here}) {{
        __global const real *from = x + p * {inside} + ({row}) * {n};
        for (int j = 0; j < {lo}; ++j) to[j] = 0;
        for (int j = 0; j < {n}; ++j) to[j + {lo}] = from[j];
        for (int j = {lo + n}; j < {m}; ++j) to[j] = 0;
      }} else for (int j = 0; j < {m}; ++j) to[j] = 0;
      to += {m};
    }}
  }}"""
    share = max(1, min(GRAIN // 16 // whole, planes // (4 * device.units)))
    call = _bound(device, "margins", x, "y x", text, (-(-planes // share), 1, 1), (share,),
                  (scratch_slot, source))
    return [call], [planes * whole * item], scratch_slot


def _bound(device: Device, name: str, x: Meta, buffers: str, text: str, items: tuple[int, int, int],
           integers: Sequence[int], slots: Sequence[int]) -> Any:
    """A kernel of `text` over `buffers`, the first of which it writes, as `make_launch` takes it.
    `share` is its number."""
    d = x.dtype
    ctype, lanes = device.dialect.value_type(d), 64 // d.itemsize
    names = buffers.split()
    arguments = ", ".join(f"__global {'const ' * (k > 0)}real *restrict {n}, const long o{n}"
                          for k, n in enumerate(names))
    shifts = "\n".join(f"  {n} = (__global {'const ' * (k > 0)}real *)"
                       f"((__global {'const ' * (k > 0)}char *){n} + o{n});"
                       for k, n in enumerate(names))
    source = f"""{device.dialect.prelude}{WIDE_HEAD}
#pragma OPENCL FP_CONTRACT ON
typedef {ctype} real;
typedef {ctype}{lanes} row __attribute__((aligned({d.itemsize})));
{turn_text("turn", "const", "__global") if d is dt.float32 else ""}
__kernel {WIDE} void {name}({arguments}, const long share) {{
{shifts}{text}
}}
"""
    return (Bound(device.build(source, name), items, (1, 1, 1), tuple(integers)),
            [("buffer", d)] * len(names), tuple(slots))


def _products(device: Device, kinds: Sequence[Sequence[Axis]], x: Meta, y: Meta, w: Meta,
              channels: int, taps: int, back: bool, bias: bool, slots: Sequence[int],
              scratch_slot: int) -> _Calls:
    """Sums over the `channels` and taps of an image x for all channels and places of y. `slots`:
    those of y, x, w and the bias."""
    _, vectors = register_tile()
    lanes, n, across = 64 // x.dtype.itemsize, x.shape[0], y.shape[1]
    vectors = vectors if across > lanes else 1
    nr = vectors * lanes
    panels = -(-across // nr)
    low, size = _margins(kinds, x.shape[2:])
    calls, scratch, image = _padded(device, x, low, size, slots[1], scratch_slot)
    panel_slot = scratch_slot + len(scratch)
    if back:  # w[c][across][taps]: c and taps are summed over
        calls.append(pack_call(device, x.dtype, nr, across, taps, (1, taps), (channels,),
                               (across * taps,), (panel_slot, slots[2])))
        between, panel = panels * taps * nr, taps * nr
    else:     # w[across][c, taps]
        calls.append(pack_call(device, x.dtype, nr, across, channels * taps, (1, channels * taps),
                               (), (), (panel_slot, slots[2])))
        between, panel = taps * nr, channels * taps * nr
    scratch.append(panels * channels * taps * nr * x.dtype.itemsize)
    tile = _Tile(vectors, lanes, across, channels, size, y.shape[2:], w.shape[2:], between, bias,
                 x.dtype is dt.float32)
    shapes = [_shape(n * math.prod(a.count for a in axes), axes[-1].count, vectors)
              for axes in kinds]
    bodies = []
    for k, axes in enumerate(kinds):
        bodies.append(f"if (get_global_id(2) == {k}) {{\n{tile.text(axes, low, n, *shapes[k])}\n}}")
    start = f"  w += get_global_id(1) * {panel};\n  const long n0 = get_global_id(1) * {nr};\n"
    if bias:
        start += (f"  real e[{nr}];\n  for (int o = 0; o < {nr}; ++o) "
                  f"e[o] = n0 + o < {across} ? b[n0 + o] : 0;\n")
    tiles = max(-(-n * math.prod(a.count for a in axes) // (neighbours * groups))
                for axes, (neighbours, groups) in zip(kinds, shapes))
    work = shapes[0][0] * shapes[0][1] * channels * taps * nr // len(kinds)
    each = max(1, min(GRAIN // work, tiles * panels // (4 * device.units)))
    used = [slots[0], image, panel_slot] + [slots[3]] * bias
    calls.append(_bound(device, "conv", x, "y x w" + " b" * bias, "\n" + start + "\n".join(bodies),
                        (-(-tiles // each), panels, len(kinds)), (each,), used))
    return calls, scratch


def _rows(vectors: int) -> int:
    """Rows of a register tile at most, of one or two vectors each."""
    return (14 if vectors == 2 else 20) if register_tile()[0] == 8 else 6


def _shape(places: int, width: int, vectors: int) -> tuple[int, int]:
    """(neighbours in a row of the image, groups of such) that a tile has. The neighbours are at
    constant distances; a group has an address of its own."""
    def worth(shape: tuple[int, int]) -> float:
        rows = shape[0] * shape[1]
        return places / (-(-places // rows) * rows) * rows / (rows + vectors) - 0.01 * shape[1]

    most = _rows(vectors)
    return max(((k, g) for k in range(1, min(most, width) + 1) if width % k == 0
                for g in range(1, min(8, most // k) + 1)), key=worth)


class _Tile(NamedTuple):
    """The text of a work item of `_products`."""

    vectors: int
    lanes: int
    across: int
    channels: int
    size: list[int]
    result: tuple[int, ...]
    kernel: tuple[int, ...]
    between: int
    bias: bool
    turned: bool

    def text(self, axes: Sequence[Axis], low: Sequence[int], n: int, neighbours: int,
             groups: int) -> str:
        """The loop over tiles of the places of one kind."""
        rows = neighbours * groups
        places = math.prod(a.count for a in axes)
        total = n * places
        if not total:
            return ""
        nr = self.vectors * self.lanes
        first = _dot([a.first + lo for a, lo in zip(axes, low)], self.size)
        out = [f"const long end = (get_global_id(0) + 1) * share * {rows};",
               f"const long i1 = end < {total} ? end : {total};",
               f"for (long i = get_global_id(0) * share * {rows}; i < i1; i += {rows}) {{"]
        whole = math.prod(self.size)
        for r in range(groups):
            out += [f"  __global const real *x{r}; {{", f"    long p = i + {r * neighbours};",
                    f"    p = p < {total} ? p : {total - neighbours};"]
            for k in reversed(range(len(axes))):
                step = axes[k].step * math.prod(self.size[k + 1:])
                out.append(f"    const long d{k} = p % {axes[k].count} * {step}; "
                           f"p /= {axes[k].count};")
            spot = " + ".join(f"d{k}" for k in range(len(axes)))
            out.append(f"    x{r} = x + p * {self.channels * whole} + {spot} + {first}; }}")
        init = "*(row *)(e + {at})" if self.bias else "(row)(0)"
        out += [f"  row c{r}_{j} = {init.format(at=j * self.lanes)};"
                for r in range(rows) for j in range(self.vectors)]
        if all(a.taps for a in axes):
            out += [f"  for (long c = 0; c < {self.channels}; ++c) {{",
                    f"    const long xq = c * {whole}, wq = c * {self.between};",
                    *("    " + line for line in self._taps(axes, neighbours, groups)), "  }"]
        out.append(f"  real t[{rows * nr}];")
        out += [f"  *(row *)(t + {r * nr + j * self.lanes}) = c{r}_{j};"
                for r in range(rows) for j in range(self.vectors)]
        out += ["  " + line for line in self._store(axes, rows, places, total)]
        out.append("}")
        return "\n".join("  " + line for line in out)

    def _taps(self, axes: Sequence[Axis], neighbours: int, groups: int) -> list[str]:
        """The multiplications of one channel."""
        nr = self.vectors * self.lanes
        at_x = [a.skip * s for a, s in zip(axes, contiguous_strides(self.size))]
        at_w = [a.apart * s * nr for a, s in zip(axes, contiguous_strides(self.kernel))]
        base = _dot([a.tap for a in axes], self.kernel) * nr
        last = axes[-1]
        written = last.taps <= UNROLLED
        lines: list[str] = []
        for j in range(last.taps if written else 1):
            shift = (f"{j * at_x[-1]}", f"{j * at_w[-1]}") if written else (
                f"j * {at_x[-1]}", f"j * {at_w[-1]}")
            lines.append("{")
            lines += [f"const row w{v} = *(__global const row *)(w + wk + {shift[1]} + "
                      f"{v * self.lanes});" for v in range(self.vectors)]
            for r in range(neighbours * groups):
                at = r % neighbours * last.step
                lines.append(f"{{ const row s = (row)(x{r // neighbours}[xk + {shift[0]} + {at}]);")
                lines += [f"c{r}_{v} = s * w{v} + c{r}_{v};" for v in range(self.vectors)]
                lines.append("}")
            lines.append("}")
        if not written:
            lines = [f"for (long j = 0; j < {last.taps}; ++j) {{", *lines, "}"]
        outer = range(len(axes) - 1)
        sums = ["".join(f" + k{r} * {s[r]}" for r in outer) for s in (at_x, at_w)]
        lines = [f"const long xk = xq{sums[0]}, wk = wq + {base}{sums[1]};", *lines]
        for r in reversed(outer):
            lines = [f"for (long k{r} = 0; k{r} < {axes[r].taps}; ++k{r}) {{", *lines, "}"]
        return ["{", *lines, "}"]

    def _store(self, axes: Sequence[Axis], rows: int, places: int, total: int) -> list[str]:
        """Write the tile t[place][channel] to y[n][channel][place]."""
        nr, area = self.vectors * self.lanes, math.prod(self.result)
        out = [f"const long width = {self.across} - n0 < {nr} ? {self.across} - n0 : {nr};"]
        scalar = [f"for (int r = 0; r < {rows} && i + r < {total}; ++r) {{",
                  "  long p = i + r, at = 0;"]
        for k in reversed(range(len(axes))):
            a, step = axes[k], math.prod(self.result[k + 1:])
            scalar.append(f"  at += (p % {a.count} * {a.stride} + {a.start}) * {step}; "
                          f"p /= {a.count};")
        scalar += [f"  __global real *to = y + (p * {self.across} + n0) * {area} + at;",
                   f"  for (int o = 0; o < width; ++o) to[o * {area}] = t[r * {nr} + o];", "}"]
        if any(a.stride > 1 or a.start for a in axes) or not self.turned or rows < 8:
            return out + scalar
        turns = []  # the last eight rows may be some of those before once more
        for r in sorted({*range(0, rows - 7, 8), rows - 8}):
            turns += ["{ int o = 0;", "  for (; o + 8 <= width; o += 8) "
                      f"turn(t + {r * nr} + o, {nr}, to + o * {area} + {r}, {area});",
                      f"  for (; o < width; ++o) for (int r = {r}; r < {r + 8}; ++r) "
                      f"to[o * {area} + r] = t[r * {nr} + o]; }}"]
        return [*out, f"const long image = i / {places}, at = i % {places};",
                f"if (at + {rows} <= {places} && i + {rows} <= {total}) {{",
                f"  __global real *to = y + (image * {self.across} + n0) * {area} + at;",
                *("  " + line for line in turns),
                "} else {", *("  " + line for line in scalar), "}"]


def _dot(coords: Sequence[int], sizes: Sequence[int]) -> int:
    return sum(c * s for c, s in zip(coords, contiguous_strides(sizes)))


def backward_weight(device: Device, call: OpCall, scratch_slot: int) -> _Calls:
    """The gradient of the weight: for every tap the products of the image, shifted by it, with the
    gradient, whose channels are along the vectors."""
    x, g, w = call.input, call.grad, call.outputs[0]
    n, across, channels = x.shape[0], w.shape[0], w.shape[1]
    kernel, out = w.shape[2:], g.shape[2:]
    places, taps, item = math.prod(out), math.prod(kernel), x.dtype.itemsize
    _, vectors = register_tile()
    lanes = 64 // item
    vectors = vectors if across > lanes else 1
    nr = vectors * lanes
    panels = -(-across // nr)
    axes = [Axis(o, 0, 1, s, -p, d, k, 0, 1) for o, s, p, d, k in zip(
        out, call.stride, call.padding, call.dilation, kernel)]
    low, size = _margins([axes], x.shape[2:])
    slot = scratch_slot
    calls, scratch, image = _padded(device, x, low, size, 1 + len(call.outputs) - 1, slot)
    packed = slot + len(scratch)
    scratch.append(n * panels * places * nr * item)
    calls.append(pack_call(device, x.dtype, nr, across, places, (1, places), (n,),
                           (across * places,), (packed, len(call.outputs) + 1)))
    most = _rows(vectors) + 5 * (vectors == 1 and register_tile()[0] == 8)
    deep = max(1, most // taps) if taps <= most else 1  # channels of a tile
    deep = min(deep, channels)
    cuts = -(-taps // most)
    chunk = -(-taps // cuts)
    blocks = -(-channels // deep)
    items = blocks * cuts * panels
    parts = 1 if items >= 2 * device.units else min(n, -(-4 * device.units // items))
    shift = [_dot([j * a.skip for j, a in zip(_spot(t, kernel), axes)], size) for t in range(taps)]
    whole = math.prod(size)
    bodies = []
    for cut in range(cuts):
        rows = [(c, t) for c in range(deep) for t in range(cut * chunk, min(taps,
                                                                         (cut + 1) * chunk))]
        bodies.append(f"  if (get_global_id(0) % {cuts} == {cut}) {{\n"
                      + _weight_tile(rows, shift, axes, size, vectors, lanes, n, panels, places,
                                     channels, taps, across, cut * chunk, whole) + "\n  }")
    first = _dot([a.first + lo for a, lo in zip(axes, low)], size)
    text = f"""
  const long last = {channels - deep};
  const long c0 = get_global_id(0) / {cuts} * {deep} < last ? get_global_id(0) / {cuts} * {deep}
                                                            : last;
  const long n0 = get_global_id(1) * {nr};
  const long width = {across} - n0 < {nr} ? {across} - n0 : {nr};
  const long m0 = get_global_id(2) * share, m1 = m0 + share < {n} ? m0 + share : {n};
  x += c0 * {whole} + {first};
  g += get_global_id(1) * {places * nr};
  y += get_global_id(2) * {across * channels * taps};
""" + "\n".join(bodies)
    share = -(-n // parts)
    parts = -(-n // share)
    target = 0 if parts == 1 else slot + len(scratch)
    calls.append(_bound(device, "conv_weight", x, "y x g", text, (blocks * cuts, panels, parts),
                        (share,), (target, image, packed)))
    if parts > 1:
        count = across * channels * taps
        scratch.append(parts * count * item)
        calls.append(kernel_call(device, _added(w, parts, count).call((0, target))))
    return calls, scratch


def _spot(t: int, kernel: Sequence[int]) -> list[int]:
    """The position of tap number t."""
    out = []
    for k in reversed(kernel):
        out.append(t % k)
        t //= k
    return out[::-1]


def _added(w: Meta, parts: int, count: int) -> Nest:
    """The sum of the parts of a weight's gradient."""
    nest = Nest("parts", (count, parts), (1,), compute=w.dtype)
    o = nest.output(w, (1, 0))
    a = nest.input(meta(w.dtype, (parts, count), None, w.device), (1, count))
    nest.start()
    nest.store(o, nest.reduce("sum", a()), inner=False)
    return nest


def _weight_tile(rows: Sequence[tuple[int, int]], shift: Sequence[int], axes: Sequence[Axis],
                 size: Sequence[int], vectors: int, lanes: int, n: int, panels: int, places: int,
                 channels: int, taps: int, across: int, tap: int, whole: int) -> str:
    """The sums over all places of the products of some channels and taps with a panel."""
    nr = vectors * lanes
    out = [f"row c{k}_{v} = (row)(0);" for k in range(len(rows)) for v in range(vectors)]
    out += ["for (long m = m0; m < m1; ++m) {",
            f"  __global const real *q = g + m * {panels * places * nr};"]
    inner: list[str] = [f"row g{v} = *(__global const row *)(q + {v * lanes});"
                        for v in range(vectors)]
    for k, (c, t) in enumerate(rows):
        inner.append(f"{{ const row s = (row)(p[{c * whole + shift[t]}]);")
        inner += [f"c{k}_{v} = s * g{v} + c{k}_{v};" for v in range(vectors)]
        inner.append("}")
    last = axes[-1]
    inner = [f"for (int i = 0; i < {last.count}; ++i, p += {last.step}, q += {nr}) {{",
             *inner, "}"]
    at = f"x + m * {channels * whole}" + "".join(
        f" + a{r} * {axes[r].step * math.prod(size[r + 1:])}" for r in range(len(axes) - 1))
    inner = [f"__global const real *p = {at};", *inner]
    for r in reversed(range(len(axes) - 1)):
        inner = [f"for (long a{r} = 0; a{r} < {axes[r].count}; ++a{r}) {{", *inner, "}"]
    out += ["  {", *("  " + line for line in inner), "  }", "}"]
    out.append(f"real t[{len(rows) * nr}];")
    out += [f"*(row *)(t + {k * nr + v * lanes}) = c{k}_{v};" for k in range(len(rows))
            for v in range(vectors)]
    out += [f"for (int o = 0; o < width; ++o) for (int r = 0; r < {len(rows)}; ++r)",
            f"  y[(n0 + o) * {channels * taps} + c0 * {taps} + {tap} + r] = t[r * {nr} + o];"]
    return "\n".join("    " + line for line in out)
