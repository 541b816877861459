"""Overlap of rotated boxes: one formula, with its gradient.

The intersection of two rectangles is bounded by the parts of the edges of each that lie inside the
other, and its area is half the sum of cross products along its boundary (Green). Imports lampion's
expressions.
"""

from __future__ import annotations

import math

from lampion.ir.expr import by_type, cos, eq, maximum, minimum, select, sin
from lampion.ops.samples import Sample, T

from . import references as ref
from .declare import elementwise

CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def part_inside(p, d, half):
    """How much of the way p + t d, t in [0, 1], lies in a rectangle around the origin with these
    half sides."""
    first, last = 0.0, 1.0
    for at, step, h in zip(p, d, half):
        still = eq(step, 0.0)
        step = select(still, 1.0, step)
        near, far = (-h - at) / step, (h - at) / step
        out = select((at > h) | (at < -h), 2.0, 0.0)  # beside it all the way
        first = maximum(first, select(still, out, minimum(near, far)))
        last = minimum(last, select(still, 1.0, maximum(near, far)))
    return maximum(last - first, 0.0)


RANGES = ((0, 1), (0, 1), (2, 4), (1, 3), (-50, 50), (0, 1), (0, 1), (1, 3), (2, 4), (-20, 20))


def samples(rng):
    """Boxes that overlap in part; a long formula is compiled for few layouts."""
    for first, second in (((2, 3), (2, 3)), ((3, 1), (2,)), ((0,), (1,))):
        yield Sample(*[T(first if k < 5 else second, low=low, high=high)
                       for k, (low, high) in enumerate(RANGES)])


@elementwise(kinds="f", samples=samples, reference=ref.rotated_ratio)
def rotated_ratio(ax, ay, aw, ah, ar, bx, by, bw, bh, br):
    """Intersection over union of two boxes by centre, sides and angle in degrees."""
    degree = math.pi / 180
    cb, sb = cos(br * degree), sin(br * degree)
    c, s = cos((ar - br) * degree), sin((ar - br) * degree)
    # in the frame of b: the centre of a, and a unit vector along each of its sides
    x, y = ax - bx, ay - by
    q = (x * cb - y * sb, x * sb + y * cb)
    u, v = (c, -s), (s, c)
    # Edges that lie on each other count once: as a's, if they are apart by less than a hair.
    hair = by_type(float64=1e-10, other=1e-5)
    half_a, half_b = (aw * 0.5, ah * 0.5), (bw * 0.5, bh * 0.5)
    around_b = [h * (1 + hair) for h in half_b]
    inside_a = [h * (1 - hair) for h in half_a]
    twice = 0.0
    for (i, j), (k, m) in zip(CORNERS, (*CORNERS[1:], CORNERS[0])):
        f, g = half_a[0] * i, half_a[1] * j
        p = [q[n] + f * u[n] + g * v[n] for n in (0, 1)]
        d = [half_a[0] * (k - i) * u[n] + half_a[1] * (m - j) * v[n] for n in (0, 1)]
        twice = twice + part_inside(p, d, around_b) * (p[0] * d[1] - p[1] * d[0])
        r = (half_b[0] * i - q[0], half_b[1] * j - q[1])
        e = (half_b[0] * (k - i), half_b[1] * (m - j))
        turned = [[t[0] * w[0] + t[1] * w[1] for w in (u, v)] for t in (r, e)]
        twice = twice + part_inside(*turned, inside_a) * (bw * bh * 0.5)
    inter = maximum(twice * 0.5, 0.0)
    union = aw * ah + bw * bh - inter
    return select(eq(union, 0.0), 0.0, inter / select(eq(union, 0.0), 1.0, union))
