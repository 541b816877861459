"""Non-maximum suppression: boxes that overlap a better one are left out.

One kernel finds all pairs that overlap, 64 to a word; whether a box stays depends on the boxes
before it, and the host decides that on whole rows of bits. Imports boxes.
"""

from __future__ import annotations

import numpy as np

import lampion
from lampion.base import dtype as dt
from lampion.base.errors import DtypeError
from lampion.ir import expr as E
from lampion.ops import checks
from lampion.runtime.lowering import Nest

from . import references as ref
from .boxes import overlap
from .declare import composite, kernel_op

BITS = 64
MOST_BYTES = 1 << 26  # of bits at a time


@kernel_op("corners: T, first: T?, last: T?, begin, count, words, *, threshold: S")
class overlap_bits:
    """Which of the boxes begin, begin + 1, ... overlap which later ones of their group, as bits.

    `corners` (4, N) holds x1, y1, x2, y2. The group of box i are the boxes [first[i], last[i])
    (N, int64), or all. Bit b of the int64 word (i - begin, w) of the result (count, words) is set
    if box j = first[i] + 64 w + b of the group comes after i and their intersection over union is
    above `threshold`.
    """

    differentiable = False
    reference = ref.overlap_bits
    samples = """
        v([[0.0, 0, 5, 0], [0, 0, 5, 0], [4, 4, 9, 4], [4, 3, 9, 4]]), None, None, 0, (
            4), 1, threshold=0.5
        f(4, 70, low=0, high=3), None, None, 3, 50, 2, threshold=0.2
        f(4, 5, low=0, high=3).transposed, v([0, 0, 2, 2, 2]), v([2, 2, 5, 5, 5]), 1, (
            4), 1, threshold=0.2
        f(4, 0), None, None, 0, 0, 0, threshold=0.5
    """

    def meta(corners, first, last, begin, count, words, threshold):
        if corners.ndim != 2 or corners.shape[0] != 4:
            raise RuntimeError("overlap_bits: expected corners of shape (4, N), got "
                               f"{list(corners.shape)}")
        if corners.dtype.kind != "f":
            raise DtypeError(f"overlap_bits is not implemented for {corners.dtype!r}; convert the "
                             "boxes with .float()")
        n = corners.shape[1]
        if not 0 <= begin <= begin + count <= n:
            raise RuntimeError(f"overlap_bits: there are no boxes {begin} to {begin + count} of "
                               f"{n}")
        for m in (first, last):
            if m is not None and m.shape != (n,):
                raise RuntimeError(f"overlap_bits: {n} boxes need ranges of shape [{n}], got "
                                   f"{list(m.shape)}")
        return [(dt.int64, (count, words))]

    def lower(call):
        boxes, out = call.corners, call.outputs[0]
        n = Nest("overlap_bits", (*out.shape, BITS), [2], compute=dt.opmath(boxes.dtype),
                 merge=False)
        o, x = n.output(out, (*out.strides, 0)), n.buffer(boxes)
        ranges = [None if m is None else (n.buffer(m), n.params.stride(m.strides[0]))
                  for m in (call.first, call.last)]
        threshold = E.cast(n.scalar(), dt.opmath(boxes.dtype))
        n.start()
        count = n.of(boxes.shape[1])
        i, bit = n.coord(0) + n.of(call.begin), n.coord(2)
        first, last = (whole if r is None else checks.clamped(r[0].at(i * r[1]), count + 1)
                       for r, whole in zip(ranges, (E.const(0, dt.int64), count)))
        j = first + n.coord(1) * E.const(BITS, dt.int64) + bit
        real = n.typed(j < last)

        def box(at, mask=None):
            return [x.at(at * n.params.stride(boxes.strides[1]) + n.of(k * boxes.strides[0]),
                         mask=mask) for k in range(4)]

        inter, union = overlap(box(i), box(j, real))
        hit = real & (j > i) & (inter / union > threshold)
        word = n.reduce("sum", E.select(hit, E.const(1, dt.int64) << bit, E.const(0, dt.int64)))
        n.store(o, word, inner=False)
        return n.program()


def below(threshold, d):
    """The largest number of a dtype that is not above a threshold: what numbers of the dtype are
    compared with, as if they were compared in float64."""
    if d is lampion.float64:
        return threshold
    near = np.float32(threshold)
    return float(np.nextafter(near, np.float32(-np.inf)) if float(near) > threshold else near)


def survivors(boxes, order, threshold, ends, ranges=(None, None)):
    """The positions in `order` of the boxes that stay: of each group, which ends before the next
    of `ends`, the first and each next one that none of those before it overlaps."""
    count = order.shape[0]
    words = int(-(-max(np.diff(ends, prepend=0), default=0) // BITS))
    rows = max(BITS, MOST_BYTES // (8 * max(words, 1)))  # that fit into the memory
    corners = boxes.detach().t().index_select(1, order)
    limit = below(float(threshold), boxes.dtype)
    kept, begin, end, left, groups = [], 0, 0, 0, iter(ends)
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        raw = overlap_bits(corners, *ranges, start, stop - start, words, threshold=limit)
        raw = raw.cpu().numpy().astype("<i8", copy=False).tobytes()
        while end < stop or left:
            if not left:  # on to the next group
                begin, end = end, next(groups)
                left = (1 << (end - begin)) - 1  # bit k is box begin + k
            lowest = left & -left
            k = begin + lowest.bit_length() - 1
            if k >= stop:
                break
            kept.append(k)
            at = (k - start) * 8 * words
            left &= ~(lowest | int.from_bytes(raw[at:at + 8 * words], "little"))
    return np.array(kept, np.int64)


def check(op, boxes, scores, idxs=None):
    """RuntimeError for shapes that do not fit."""
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise RuntimeError(f"{op}: boxes should be a tensor of shape [N, 4], got "
                           f"{list(boxes.shape)}")
    for name, t in (("scores", scores), ("idxs", idxs)):
        if t is not None and t.shape != boxes.shape[:1]:
            raise RuntimeError(f"{op}: boxes and {name} should have same number of elements in "
                               f"dimension 0, got {list(boxes.shape)} and {list(t.shape)}")
    if not boxes.is_floating_point():
        raise DtypeError(f"{op} is not implemented for boxes of {boxes.dtype}; convert them with "
                         ".float()")


def kept(boxes, scores, threshold):
    """The boxes that stay, the best first; equal scores in their order."""
    order = scores.detach().argsort(descending=True, stable=True)
    stay = survivors(boxes, order, threshold, [order.shape[0]])
    return order[lampion.from_numpy(stay).to(order.device)]


def kept_of_groups(boxes, scores, idxs, threshold):
    """`kept` of each group by itself, and then of all, the best first."""
    order = scores.detach().argsort(descending=True, stable=True)
    groups, rank = idxs.detach()[order].sort(stable=True)
    key = groups.cpu().numpy()
    ends = np.append(np.flatnonzero(key[1:] != key[:-1]) + 1, len(key))
    sizes = np.diff(ends, prepend=0)
    ranges = [lampion.from_numpy(np.repeat(e, sizes)).to(order.device)
              for e in (ends - sizes, ends)]
    stay = survivors(boxes, order[rank], threshold, ends.tolist(), ranges)
    stay = np.sort(rank.cpu().numpy()[stay])
    return order[lampion.from_numpy(stay).to(order.device)]


BOXES = "v([[0.0, 0, 4, 4], [0, 0, 4, 3], [5, 5, 9, 9], [0, 1, 4, 4], [5, 5, 9, 8.5]])"


@composite(differentiable=False, one_by_one=True, reference=ref.nms, samples=f"""
    {BOXES}, v([0.9, 0.8, 0.7, 0.95, 0.7]), 0.5
    {BOXES}, v([0.5, 0.5, 0.5, 0.5, 0.5]), 0.7
    {BOXES}, v([0.5, nan, 0.5, 0.1, 0.5]), 0.74
    v([[0.0, 0, 4, 4], [nan, 0, 4, 4], [0, 0, 0, 0], [0, 0, 0, 0]]), v([1.0, 2, 3, 3]), 0.0
    f(150, 4, low=[0, 0, 3, 3], high=[3, 3, 6, 6]), f(150), 0.3
    f(0, 4), f(0), 0.5
""")
def nms(boxes, scores, iou_threshold):
    """The indices (int64) of the "xyxy" boxes (N, 4) that stay, the best scores (N) first.

    From the best on, a box removes all others whose intersection over union with it is above
    `iou_threshold`. Of equal scores the first counts as better, on every device. RuntimeError for
    shapes that do not fit.

    >>> boxes = lampion.tensor([[0., 0., 4., 4.], [0., 0., 4., 3.], [5., 5., 9., 9.]])
    >>> nms(boxes, lampion.tensor([0.8, 0.9, 0.7]), 0.5).tolist()
    [1, 2]
    """
    check("nms", boxes, scores)
    return kept(boxes, scores, iou_threshold)


@composite(differentiable=False, one_by_one=True, reference=ref.batched_nms, samples=f"""
    {BOXES}, v([0.9, 0.8, 0.7, 0.95, 0.7]), v([0, 0, 1, 1, 1]), 0.5
    {BOXES}, v([0.5, 0.5, 0.5, 0.5, 0.5]), v([7, 7, -1, 7, -1], dtype=int32), 0.6
    f(150, 4, low=[0, 0, 3, 3], high=[3, 3, 6, 6]), f(150), i(150, low=0, high=3), 0.3
    f(0, 4), f(0), i(0), 0.5
""")
def batched_nms(boxes, scores, idxs, iou_threshold):
    """`nms` in which only boxes of one category `idxs` (N) remove each other."""
    check("batched_nms", boxes, scores, idxs)
    return kept_of_groups(boxes, scores, idxs, iou_threshold)
