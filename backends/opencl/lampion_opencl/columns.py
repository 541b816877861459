"""Patches of images to columns of a matrix and back, on processors.

The generated loop nests put vector lanes along an axis of at least a vector's length, which in
small images is the batch or the channels, where every element is in a cache line of its own. Here
a work item takes whole planes and moves rows: what lies in the padding is known for each kernel
position, so a row is zeros, a run of neighbours, zeros. Imports this package and floors 0-2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lampion.base.meta import Meta
from lampion.runtime.backend import OpCall

from .compiler import Bound

if TYPE_CHECKING:
    from .runtime import Device

GRAIN = 1 << 13  # elements a work item should have at least
UNROLLED = 8     # kernel positions in a row, up to which each has a loop of its own
LANES = 16
STRAIGHT = 64    # neighbours that are moved without a loop

_Call = tuple[Bound, list[Any], tuple[int, ...]]
# what happens to the places lo <= j < hi of a row whose place 0 is at element off of its image
_Run = Callable[[Any, Any, Any], list[str]]


def patches(device: "Device", call: OpCall, x: Meta, w: Meta, y: Meta, slots: Sequence[int],
            turned: bool) -> _Call | None:
    """cols[n][c, k...][o...] (turned: cols[c, k...][n][o...]) from x, as `make_launch` takes it;
    None where there are too few planes for all cores."""
    rows = _Rows(call, x, w, y)
    first, out = rows.kernel[0], rows.out[-1]
    step = rows.places * (x.shape[0] if turned else 1)
    start = (f"(plane % {x.shape[1]} * {rows.inner * first} * {x.shape[0]} + plane / {x.shape[1]})"
             f" * {rows.places}" if turned else f"plane * {rows.inner * first * rows.places}")

    def run(lo: Any, hi: Any, off: Any) -> list[str]:
        return rows.over_rows(off, [
            *_fill(0, lo), *_neighbours("to[{j}]", "=", "from[at + {j}]", lo, hi, rows.stride[-1]),
            *_fill(hi, out)], _fill(0, out), f"to += {out};")

    text = [
        f"const long plane = i / {first}, k0 = i % {first};",
        f"__global const real *from = x + plane * {rows.space};",
        f"__global real *cols = y + {start} + k0 * {rows.inner * step};",
        *rows.over_kernel(1, lambda *at: ["__global real *to = cols;", *run(*at),
                                          f"cols += {step};"])]
    return rows.bound(device, "patches", text, x.shape[0] * x.shape[1] * first,
                      rows.inner * rows.places, slots)


def patches_back(device: "Device", call: OpCall, g: Meta, w: Meta, x: Meta,
                 slots: Sequence[int]) -> _Call | None:
    """x[n, c, i...] = the sum of cols[n][c, k...][o...] over the kernel positions that met it."""
    rows = _Rows(call, x, w, g)
    each = math.prod(rows.kernel) * rows.places

    def run(lo: Any, hi: Any, off: Any) -> list[str]:
        return rows.over_rows(off, _neighbours("to[at + {j}]", "+=", "cols[{j}]", lo, hi,
                                               rows.stride[-1]), [], f"cols += {rows.out[-1]};")

    text = [
        f"__global real *to = y + i * {rows.space};",
        f"__global const real *cols = x + i * {each};",
        f"for (int j = 0; j < {rows.space}; ++j) to[j] = 0;",
        *rows.over_kernel(0, run)]
    return rows.bound(device, "patches_back", text, x.shape[0] * x.shape[1], each, slots)


def _fill(lo: Any, hi: Any) -> list[str]:
    """Zeros at to[lo] to to[hi - 1]."""
    return [] if lo == hi else [f"for (int j = {lo}; j < {hi}; ++j) to[j] = 0;"]


def _neighbours(to: str, how: str, value: str, lo: Any, hi: Any, stride: int) -> list[str]:
    """`to how value` for lo <= j < hi; the one of both that is in the image takes every
    `stride`th element."""
    image = f"at + {{j}}{f' * {stride}' if stride > 1 else ''}"
    to, value = (t.replace("at + {j}", image) for t in (to, value))
    if stride > 1 or isinstance(lo, str):
        return [f"for (int j = {lo}; j < {hi}; ++j) "
                f"{to.format(j='j')} {how} {value.format(j='j')};"]

    def vector(j: Any, lanes: int) -> str:
        if lanes == 1:
            return f"{to.format(j=j)} {how} {value.format(j=j)};"
        return (f"*(__global row{lanes} *)&{to.format(j=j)} {how} "
                f"*(__global const row{lanes} *)&{value.format(j=j)};")

    lines, lanes, j = [], LANES, lo
    if hi - lo > STRAIGHT:
        j += (hi - lo) // LANES * LANES
        lines.append(f"for (int j = {lo}; j < {j}; j += {LANES}) {vector('j', LANES)}")
    while j < hi:
        while j + lanes > hi:
            if how == "=" and lo <= hi - lanes < j:  # some of it once more
                j = hi - lanes
            else:
                lanes //= 2
        lines.append(vector(j, lanes))
        j += lanes
    return lines


class _Rows:
    """The geometry of a convolution, and loops over it as text. A single spatial dim gets a first
    one of size 1, so that there is always a dim of rows and one along them."""

    def __init__(self, call: OpCall, x: Meta, w: Meta, y: Meta) -> None:
        one = (1,) * (x.ndim == 3)
        self.dtype = x.dtype
        self.image, self.out = one + x.shape[2:], one + y.shape[2:]
        self.kernel = one + w.shape[2:]
        self.stride, self.dilation = one + tuple(call.stride), one + tuple(call.dilation)
        self.left = (0,) * len(one) + tuple(call.padding)
        self.space, self.places = math.prod(self.image), math.prod(self.out)
        self.inner = math.prod(self.kernel[1:])  # kernel positions for one of the first dim

    def over_kernel(self, first: int, run: _Run) -> list[str]:
        """Loops over the kernel dims from `first` on; the last one is unrolled where it is short.
        """
        s, d, p = self.stride[-1], self.dilation[-1], self.left[-1]
        n, out, count = self.image[-1], self.out[-1], self.kernel[-1]
        lines: list[str] = []
        if count <= UNROLLED:
            for k in range(count):
                off = k * d - p
                hi = min(max(0, -(-(n - off) // s)), out)
                lines += ["{", *run(min(max(0, -(off // s)), hi), hi, off), "}"]
        else:
            lines = [
                f"for (long k = 0; k < {count}; ++k) {{",
                f"const long off = k * {d} - {p}, rest = {n} - off;",
                f"const int all = rest > 0 ? (rest + {s - 1}) / {s} : 0;",
                f"const int hi = all < {out} ? all : {out};",
                f"const int first = off < 0 ? ({s - 1} - off) / {s} : 0;",
                "const int lo = first < hi ? first : hi;",
                *run("lo", "hi", "off"), "}"]
        for r in reversed(range(first, len(self.kernel) - 1)):
            lines = [f"for (long k{r} = 0; k{r} < {self.kernel[r]}; ++k{r}) {{", *lines, "}"]
        return lines

    def over_rows(self, off: Any, inside: list[str], outside: list[str], after: str) -> list[str]:
        """Loops over the rows of places: `inside` where the image has the row, whose place 0 reads
        element `at`; `outside` where it is padding."""
        last = len(self.kernel) - 1
        here = " && ".join(f"s{r} >= 0 && s{r} < {self.image[r]}" for r in range(last))
        row = "s0"
        for r in range(1, last):
            row = f"({row}) * {self.image[r]} + s{r}"
        lines = [f"if ({here}) {{", f"const long at = ({row}) * {self.image[last]} + ({off});",
                 *inside, "}"]
        lines += ["else {", *outside, "}"] if outside else []
        lines.append(after)
        for r in reversed(range(last)):
            spot = f"a{r} * {self.stride[r]} + k{r} * {self.dilation[r]} - {self.left[r]}"
            lines = [f"for (long a{r} = 0; a{r} < {self.out[r]}; ++a{r}) {{",
                     f"const long s{r} = {spot};", *lines, "}"]
        return lines

    def bound(self, device: "Device", name: str, text: list[str], items: int, each: int,
              slots: Sequence[int]) -> _Call | None:
        """The kernel whose work items run `text` for `i` in their share of `items`, which handle
        `each` elements."""
        if items < 2 * device.units:
            return None
        ctype, size = device.dialect.value_type(self.dtype), self.dtype.itemsize
        body = "\n    ".join(text)
        vectors = "\n".join(f"typedef {ctype}{k} __attribute__((aligned({size}))) row{k};"
                            for k in (2, 4, 8, 16))
        arguments = ", ".join(f"__global {q}real *restrict {n}, const long o{n}"
                              for q, n in (("", "y"), ("const ", "x")))
        source = f"""{device.dialect.prelude}
typedef {ctype} real;
{vectors}
__kernel {device.dialect.group_of_one} void {name}({arguments}, const long height) {{
  y = (__global real *)((__global char *)y + oy);
  x = (__global const real *)((__global const char *)x + ox);
  const long i0 = get_global_id(0) * height;
  const long i1 = i0 + height < {items} ? i0 + height : {items};
  for (long i = i0; i < i1; ++i) {{
    {body}
  }}
}}
"""
        height = max(1, min(GRAIN // each, items // (8 * device.units)))
        compiled = device.build(source, name)
        return (Bound(compiled, (-(-items // height), 1), (1, 1), (height,)),
                [("buffer", self.dtype)] * 2, tuple(slots))
