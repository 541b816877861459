"""Copies of strided views into dense memory, for kernels that need a contiguous axis.

One generic kernel, any element size and up to four axes. It serves operands that are rare
(every second column, an expanded gradient); common layouts never come here.

Imports ``jit`` and ``program``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from . import jit
from .program import Step

_AXES = 4
_GRAIN_ELEMENTS = 20_000


def dense_step(
    target: int, source: int, shape: Sequence[int], strides: Sequence[int], size: int
) -> Step:
    """Return the step that copies a strided view to dense row-major memory.

    ``size`` is the bytes of an element, ``strides`` count elements and may be zero.
    """
    axes = _merged(shape, strides)
    if len(axes) > _AXES:
        raise ValueError(f"a view of shape {tuple(shape)} has more than {_AXES} separate axes")
    axes = [(1, 0)] * (_AXES - len(axes)) + axes
    sizes = [n for n, _ in axes]
    params = (*sizes[1:], *(s * size for _, s in axes))
    rows = math.prod(sizes[:-1])
    return Step(_kernel(size), params, (target, source), rows, max(1, _GRAIN_ELEMENTS // sizes[-1]))


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
def _kernel(size: int) -> int:
    """Compile the copy for one element size; a unit is one innermost row."""
    kind = f"i{8 * size}"
    loads = "\n".join(
        f"  %p{i} = getelementptr i64, ptr %params, i64 {i}\n  %{name} = load i64, ptr %p{i}"
        for i, name in enumerate(("n1", "n2", "n3", "s0", "s1", "s2", "s3"))
    )
    text = f"""
define void @pack(ptr %args, ptr %params, i64 %lo, i64 %hi) nounwind {{
{loads}
  %to = load ptr, ptr %args
  %p.from = getelementptr ptr, ptr %args, i64 1
  %from = load ptr, ptr %p.from
  br label %row
row:
  %r = phi i64 [ %lo, %0 ], [ %r.next, %row.end ]
  %i2 = urem i64 %r, %n2
  %r2 = udiv i64 %r, %n2
  %i1 = urem i64 %r2, %n1
  %i0 = udiv i64 %r2, %n1
  %o0 = mul i64 %i0, %s0
  %o1 = mul i64 %i1, %s1
  %o2 = mul i64 %i2, %s2
  %o01 = add i64 %o0, %o1
  %o = add i64 %o01, %o2
  %source = getelementptr i8, ptr %from, i64 %o
  %first = mul i64 %r, %n3
  %target = getelementptr {kind}, ptr %to, i64 %first
  br label %element
element:
  %i = phi i64 [ 0, %row ], [ %i.next, %element ]
  %skip = mul i64 %i, %s3
  %at = getelementptr i8, ptr %source, i64 %skip
  %value = load {kind}, ptr %at, align 1
  %put = getelementptr {kind}, ptr %target, i64 %i
  store {kind} %value, ptr %put, align 1
  %i.next = add i64 %i, 1
  %i.more = icmp slt i64 %i.next, %n3
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
