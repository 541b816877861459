"""Copies of strided views into dense memory, for kernels that need a contiguous axis.

One kernel for each element size and number of separate axes. It serves operands that are rare
(every second column, an expanded gradient); common layouts never come here.

Imports ``jit`` and ``program``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from . import jit
from .program import Step

_GRAIN_ELEMENTS = 20_000


def dense_step(
    target: int, source: int, shape: Sequence[int], strides: Sequence[int], size: int
) -> Step:
    """Return the step that copies a strided view to dense row-major memory.

    ``size`` is the bytes of an element, ``strides`` count elements and may be zero.
    """
    axes = _merged(shape, strides)
    sizes = [n for n, _ in axes]
    params = (*sizes, *(s * size for _, s in axes))
    rows = math.prod(sizes[:-1])
    return Step(_kernel(size, len(axes)), params, (target, source), rows,
                max(1, _GRAIN_ELEMENTS // sizes[-1]))


def _merged(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """(size, stride) of the axes, those that continue each other joined."""
    axes: list[tuple[int, int]] = []
    for n, s in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if axes and axes[-1][1] == n * s:
            n = axes.pop()[0] * n
        axes.append((n, s))
    return axes or [(1, 0)]


@functools.cache
def _kernel(size: int, axes: int) -> int:
    """Compile the copy for one element size and number of axes; a unit is one innermost row.

    Parameters: the sizes of the axes, outermost first, then their strides in bytes.
    """
    kind, last = f"i{8 * size}", axes - 1
    loads = "\n".join(
        f"  %p{k} = getelementptr i64, ptr %params, i64 {k}\n  %{name} = load i64, ptr %p{k}"
        for k, name in enumerate([f"{of}{k}" for of in "ns" for k in range(axes)])
    )
    place = [f"  %rest{last} = add i64 %r, 0", f"  %at{last} = add i64 0, 0"]
    for k in reversed(range(last)):  # the row's index in each outer axis, and what it adds
        place += [
            f"  %i{k} = urem i64 %rest{k + 1}, %n{k}",
            f"  %rest{k} = udiv i64 %rest{k + 1}, %n{k}",
            f"  %o{k} = mul i64 %i{k}, %s{k}",
            f"  %at{k} = add i64 %at{k + 1}, %o{k}",
        ]
    where = "\n".join(place)
    text = f"""
define void @pack(ptr %args, ptr %params, i64 %lo, i64 %hi) nounwind {{
{loads}
  %to = load ptr, ptr %args
  %p.from = getelementptr ptr, ptr %args, i64 1
  %from = load ptr, ptr %p.from
  br label %row
row:
  %r = phi i64 [ %lo, %0 ], [ %r.next, %row.end ]
{where}
  %source = getelementptr i8, ptr %from, i64 %at0
  %first = mul i64 %r, %n{last}
  %target = getelementptr {kind}, ptr %to, i64 %first
  br label %element
element:
  %i = phi i64 [ 0, %row ], [ %i.next, %element ]
  %skip = mul i64 %i, %s{last}
  %at = getelementptr i8, ptr %source, i64 %skip
  %value = load {kind}, ptr %at, align 1
  %put = getelementptr {kind}, ptr %target, i64 %i
  store {kind} %value, ptr %put, align 1
  %i.next = add i64 %i, 1
  %i.more = icmp slt i64 %i.next, %n{last}
  br i1 %i.more, label %element, label %row.end
row.end:
  %r.next = add i64 %r, 1
  %r.more = icmp slt i64 %r.next, %hi
  br i1 %r.more, label %row, label %done
done:
  ret void
}}
"""
    return jit.compile_ir(text, ["pack"])["pack"]
