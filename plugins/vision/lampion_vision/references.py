"""What the ops compute, in NumPy, one number at a time where that is clearer: for tests.

Arguments as of the ops, with float64 arrays for floating tensors. Imports NumPy only.
"""

from __future__ import annotations

import math

import numpy as np

# ---------------------------------------------------------------- boxes

def corners(boxes, fmt):
    """(x1, y1, x2, y2) arrays of upright boxes."""
    a, b, w, h = np.moveaxis(boxes, -1, 0)
    if fmt == "xyxy":
        return a, b, w, h
    if fmt == "xywh":
        return a, b, a + w, b + h
    return a - w / 2, b - h / 2, a + w / 2, b + h / 2


def box_convert(boxes, in_fmt, out_fmt):
    if in_fmt == out_fmt:
        return boxes.copy()
    if len(in_fmt) == len("xywhr") or in_fmt.endswith("r") or len(in_fmt) == 8:
        return np.array([_turned(b, in_fmt, out_fmt) for b in boxes]).reshape(len(boxes), -1)
    x1, y1, x2, y2 = corners(boxes, in_fmt)
    if out_fmt == "xyxy":
        return np.stack([x1, y1, x2, y2], -1)
    if out_fmt == "xywh":
        return np.stack([x1, y1, x2 - x1, y2 - y1], -1)
    return np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], -1)


def _turned(box, in_fmt, out_fmt):
    """One rotated box, through its top left corner and unit vectors along its sides."""
    if in_fmt == "xyxyxyxy":
        p1, p2, p3, _ = box.reshape(4, 2)
        w, h = np.hypot(*(p2 - p1)), np.hypot(*(p3 - p2))
        r = math.degrees(math.atan2(-(p2 - p1)[1], (p2 - p1)[0]))
    else:
        *p, w, h, r = box
        p1 = np.array(p)
    angle = math.radians(r)
    right = np.array([math.cos(angle), -math.sin(angle)])
    down = np.array([math.sin(angle), math.cos(angle)])
    if in_fmt == "cxcywhr":
        p1 = p1 - right * w / 2 - down * h / 2
    if out_fmt == "xyxyxyxy":
        return np.concatenate([p1, p1 + right * w, p1 + right * w + down * h, p1 + down * h])
    start = p1 if out_fmt == "xywhr" else p1 + right * w / 2 + down * h / 2
    return np.array([*start, w, h, r])


def box_area(boxes, fmt="xyxy"):
    if boxes.dtype.kind in "bui":
        boxes = boxes.astype(np.int64)
    x1, y1, x2, y2 = corners(boxes, fmt) if fmt == "xyxy" else (
        0, 0, boxes[..., 2], boxes[..., 3])
    return (x2 - x1) * (y2 - y1)


def _sides(*c):
    """Of two boxes a, b: widths and heights of a, b, their intersection and the box around both."""
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2 = c
    inter = (np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0),
             np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0))
    around = (np.maximum(ax2, bx2) - np.minimum(ax1, bx1),
              np.maximum(ay2, by2) - np.minimum(ay1, by1))
    return (ax2 - ax1, ay2 - ay1), (bx2 - bx1, by2 - by1), inter, around


def _parts(*c):
    """(intersection, union)."""
    a, b, inter, _ = _sides(*c)
    both = inter[0] * inter[1]
    return both, a[0] * a[1] + b[0] * b[1] - both


def overlap_ratio(*c):
    with np.errstate(all="ignore"):
        inter, union = _parts(*c)
        return np.divide(inter, union)


def hull_ratio(*c):
    with np.errstate(all="ignore"):
        inter, union = _parts(*c)
        w, h = (np.maximum(s, 0) for s in _sides(*c)[3])
        return np.divide(inter, union) - np.divide(w * h - union, w * h)


def distance_ratio(*c, eps=1e-7):
    if len(c) == 9:
        *c, eps = c
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2 = c
    w, h = (np.maximum(s, 0) for s in _sides(*c)[3])
    apart = ((ax1 + ax2) / 2 - (bx1 + bx2) / 2) ** 2 + ((ay1 + ay2) / 2 - (by1 + by2) / 2) ** 2
    return overlap_ratio(*c) - apart / (w ** 2 + h ** 2 + eps)


def aspect_penalty(*c):
    (aw, ah), (bw, bh), _, _ = _sides(*c)
    with np.errstate(all="ignore"):
        return 4 / math.pi ** 2 * (np.arctan(aw / ah) - np.arctan(bw / bh)) ** 2


def _pairs(boxes1, boxes2, fmt="xyxy"):
    return (*corners(boxes1[..., :, None, :], fmt), *corners(boxes2[..., None, :, :], fmt))


def box_iou(boxes1, boxes2, fmt="xyxy"):
    if fmt.endswith("r"):
        a, b = (box_convert(x, fmt, "cxcywhr") for x in (boxes1, boxes2))
        return np.array([[_rotated(p, q) for q in b] for p in a])
    return overlap_ratio(*_pairs(boxes1, boxes2, fmt))


def generalized_box_iou(boxes1, boxes2):
    return hull_ratio(*_pairs(boxes1, boxes2))


def distance_box_iou(boxes1, boxes2, eps=1e-7):
    return distance_ratio(*_pairs(boxes1, boxes2), eps=eps)


def complete_box_iou(boxes1, boxes2, eps=1e-7):
    c = _pairs(boxes1, boxes2)
    v, iou = aspect_penalty(*c), overlap_ratio(*c)
    return distance_ratio(*c, eps=eps) - v / (1 - iou + v + eps) * v


def clip_boxes_to_image(boxes, size):
    out = boxes.copy()
    out[..., 0::2] = np.clip(boxes[..., 0::2], 0, size[1])
    out[..., 1::2] = np.clip(boxes[..., 1::2], 0, size[0])
    return out


def remove_small_boxes(boxes, min_size):
    return np.array([k for k, (x1, y1, x2, y2) in enumerate(boxes)
                     if x2 - x1 >= min_size and y2 - y1 >= min_size], np.int64)


def masks_to_boxes(masks):
    if masks.size == 0:
        return np.zeros((0, 4), np.float32)
    out = np.zeros((len(masks), 4), np.float32)
    for k, mask in enumerate(masks):
        y, x = np.nonzero(mask)
        if len(y):
            out[k] = x.min(), y.min(), x.max(), y.max()
    return out


# ---------------------------------------------------------------- suppression

def _iou(a, b):
    """Of two boxes of four numbers."""
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union else math.nan


def overlap_bits(corners, first, last, begin, count, words, *, threshold):
    n = corners.shape[1]
    out = np.zeros((count, words), np.int64)
    for i in range(begin, begin + count):
        start, end = (0, n) if first is None else (first[i], last[i])
        for j in range(i + 1, end):
            if _iou(corners[:, i], corners[:, j]) > threshold:
                out[i - begin, (j - start) // 64] |= np.left_shift(np.int64(1), (j - start) % 64)
    return out


def nms(boxes, scores, iou_threshold):
    return batched_nms(boxes, scores, np.zeros(len(boxes), int), iou_threshold)


def batched_nms(boxes, scores, idxs, iou_threshold):
    rank = np.where(np.isnan(scores), np.inf, scores)  # NaN sorts as the largest
    kept = []
    for k in np.argsort(-rank, kind="stable"):
        if not any(idxs[k] == idxs[j] and _iou(boxes[j], boxes[k]) > iou_threshold for j in kept):
            kept.append(k)
    return np.array(kept, np.int64)


# ---------------------------------------------------------------- losses

def _reduce(loss, reduction):
    loss = np.asarray(loss, np.float64)
    if reduction == "mean":
        return loss.mean() if loss.size else np.float64(0)
    return loss.sum() if reduction == "sum" else loss


def focal(inputs, targets, gamma, positive, negative):
    p = 1 / (1 + np.exp(-inputs))
    right = p * targets + (1 - p) * (1 - targets)
    entropy = targets * np.logaddexp(0, -inputs) + (1 - targets) * np.logaddexp(0, inputs)
    return entropy * (1 - right) ** gamma * (positive * targets + negative * (1 - targets))


def sigmoid_focal_loss(inputs, targets, alpha=0.25, gamma=2, reduction="none"):
    with np.errstate(all="ignore"):
        weights = (1, 1) if alpha < 0 else (alpha, 1 - alpha)
        return _reduce(focal(inputs, targets, gamma, *weights), reduction)


def _eps_iou(c, eps):
    inter, union = _parts(*c)
    return inter / (union + eps), union


def hull_loss(*c, eps=1e-7):
    if len(c) == 9:
        *c, eps = c
    iou, union = _eps_iou(c, eps)
    w, h = _sides(*c)[3]
    return 1 - iou + (w * h - union) / (w * h + eps)


def distance_loss(*c, eps=1e-7):
    if len(c) == 9:
        *c, eps = c
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2 = c
    w, h = _sides(*c)[3]
    apart = ((ax1 + ax2 - bx1 - bx2) ** 2 + (ay1 + ay2 - by1 - by2) ** 2) / 4
    return 1 - _eps_iou(c, eps)[0] + apart / (w ** 2 + h ** 2 + eps)


def aspect_weight(*c, eps=1e-7):
    if len(c) == 9:
        *c, eps = c
    v = aspect_penalty(*c)
    return v / (1 - _eps_iou(c, 1e-7)[0] + v + eps)


def complete_loss(*c):
    *c, alpha = c
    return distance_loss(*c) + alpha * aspect_penalty(*c)


def _each(loss):
    def run(boxes1, boxes2, reduction="none", eps=1e-7):
        c = (*np.moveaxis(boxes1, -1, 0), *np.moveaxis(boxes2, -1, 0))
        return _reduce(loss(c, eps), reduction)

    return run


generalized_box_iou_loss = _each(lambda c, eps: hull_loss(*c, eps))
distance_box_iou_loss = _each(lambda c, eps: distance_loss(*c, eps))
complete_box_iou_loss = _each(lambda c, eps: complete_loss(*c, aspect_weight(*c, eps)))


# ---------------------------------------------------------------- taps

def linear_tap(position, corner, size, border=False):
    shape = np.broadcast_shapes(np.shape(position), np.shape(corner))
    index, weight = np.full(shape, -1, np.int32), np.zeros(shape)
    places, corners_ = np.broadcast_arrays(position, corner)
    for k in np.ndindex(shape):
        p, c = places[k], corners_[k]
        if border:
            if not -1 <= p <= size:
                continue
            p = min(max(p, 0), size - 1)
        low = math.floor(p)
        at = int(low + c) if 0 <= low + c <= size - 1 else -1
        if at >= 0 and -1 < p < size:
            index[k], weight[k] = at, (p - low if c > 0.5 else 1 - (p - low))
    return index, weight


def _taps(regions, ys, xs):
    """(result indices, tap indices, pixel) of every tap that has a pixel."""
    region, group, row, column = np.broadcast_shapes(ys.shape[:4], xs.shape[:4])
    ys = np.broadcast_to(ys, (region, group, row, column, ys.shape[4]))
    xs = np.broadcast_to(xs, (region, group, row, column, xs.shape[4]))
    for at in np.ndindex(region, group, row, column):
        for j, y in enumerate(ys[at]):
            for i, x in enumerate(xs[at]):
                yield at, (j, i), (y, x)


def _broadcast(ys, xs, weights, groups):
    shape = np.broadcast_shapes(ys.shape[:4], xs.shape[:4], (1, groups, 1, 1))
    ys = np.broadcast_to(ys, (*shape, ys.shape[4]))
    if weights is not None:
        weights = np.broadcast_to(weights, (*shape, ys.shape[4], xs.shape[4]))
    return shape, ys, xs, weights


def _pixels(pixels, row, column):
    """Pixels with a channel of their own for each row and column of the results."""
    return np.broadcast_to(pixels, (*pixels.shape[:3], row, column, *pixels.shape[5:]))


def tap_sum(pixels, images, ys, xs, weights, caller=""):
    shape, ys, xs, weights = _broadcast(ys, xs, weights, pixels.shape[1])
    x = _pixels(pixels, *shape[2:])
    out = np.zeros((*shape[:2], pixels.shape[2], *shape[2:]))
    for (r, g, p, q), tap, (v, u) in _taps(shape, ys, xs):
        if 0 <= v < x.shape[5] and 0 <= u < x.shape[6]:
            n = r if images is None else images[r]
            out[r, g, :, p, q] += x[n, g, :, p, q, v, u] * weights[(r, g, p, q, *tap)]
    return out


def tap_spread(amounts, images, ys, xs, weights, shape):
    grid, ys, xs, weights = _broadcast(ys, xs, weights, shape[1])
    out = np.zeros((*shape[:3], *grid[2:], *shape[5:]))
    for (r, g, p, q), tap, (v, u) in _taps(grid, ys, xs):
        if 0 <= v < shape[5] and 0 <= u < shape[6]:
            n = r if images is None else images[r]
            out[n, g, :, p, q, v, u] += amounts[r, g, :, p, q] * weights[(r, g, p, q, *tap)]
    for d in (3, 4):
        if shape[d] == 1:
            out = out.sum(d, keepdims=True)
    return out


def tap_dots(pixels, amounts, images, ys, xs):
    shape, ys, xs, _ = _broadcast(ys, xs, None, pixels.shape[1])
    x = _pixels(pixels, *shape[2:])
    out = np.zeros((*shape, ys.shape[4], xs.shape[4]))
    for (r, g, p, q), tap, (v, u) in _taps(shape, ys, xs):
        if 0 <= v < x.shape[5] and 0 <= u < x.shape[6]:
            n = r if images is None else images[r]
            out[(r, g, p, q, *tap)] = amounts[r, g, :, p, q] @ x[n, g, :, p, q, v, u]
    return out


# ---------------------------------------------------------------- regions

def sample_count(start, end, pooled):
    return np.ceil((end - start) / pooled)


def _boxes(boxes):
    """(image, x1, y1, x2, y2) of every region."""
    if isinstance(boxes, (list, tuple)):
        return [(k, *b) for k, many in enumerate(boxes) for b in many]
    return [(int(b[0]), *b[1:]) for b in boxes]


def _size(output_size):
    return (output_size, output_size) if isinstance(output_size, int) else output_size


def _bilinear(image, y, x):
    """Channels of an image (C, H, W) at a place; 0 more than a pixel outside."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    j, i = int(y), int(x)
    down, right = min(j + 1, height - 1), min(i + 1, width - 1)
    fy, fx = y - j, x - i
    return ((1 - fy) * ((1 - fx) * image[:, j, i] + fx * image[:, j, right])
            + fy * ((1 - fx) * image[:, down, i] + fx * image[:, down, right]))


def _align(image, box, size, ratio, p, q):
    """The average of the samples of bin (p, q) of a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = box
    h, w = (y2 - y1) / size[0], (x2 - x1) / size[1]
    rows = ratio if ratio > 0 else max(math.ceil(h), 0)
    columns = ratio if ratio > 0 else max(math.ceil(w), 0)
    total = np.zeros(len(image))
    for j in range(rows):
        for i in range(columns):
            total += _bilinear(image, y1 + (p + (j + 0.5) / rows) * h,
                               x1 + (q + (i + 0.5) / columns) * w)
    return total / max(rows * columns, 1)


def roi_align(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    size, regions = _size(output_size), _boxes(boxes)
    out = np.zeros((len(regions), input.shape[1], *size))
    for k, (n, *box) in enumerate(regions):
        x1, y1, x2, y2 = np.array(box) * spatial_scale - (0.5 if aligned else 0)
        if not aligned:
            x2, y2 = x1 + max(x2 - x1, 1), y1 + max(y2 - y1, 1)
        for p, q in np.ndindex(*size):
            out[k, :, p, q] = _align(input[n], (x1, y1, x2, y2), size, sampling_ratio, p, q)
    return out


def ps_roi_align(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1):
    size, regions = _size(output_size), _boxes(boxes)
    x = input.reshape(len(input), -1, *size, *input.shape[2:])
    out = np.zeros((len(regions), x.shape[1], *size))
    for k, (n, *box) in enumerate(regions):
        box = np.array(box) * spatial_scale - 0.5
        for p, q in np.ndindex(*size):
            out[k, :, p, q] = _align(x[n, :, p, q], box, size, sampling_ratio, p, q)
    return out


def _round(x):
    """Halves away from 0, as C's round."""
    return math.floor(abs(x) + 0.5) * (1 if x >= 0 else -1)


def _bins(box, spatial_scale, size, more, height, width):
    """((p, q), rows, columns) of every bin of a box, as slices of whole pixels."""
    x1, y1, x2, y2 = (_round(b * spatial_scale) for b in box)
    h, w = max(y2 - y1 + more, 1) / size[0], max(x2 - x1 + more, 1) / size[1]
    for p, q in np.ndindex(*size):
        rows = [math.floor(p * h) + y1, math.ceil((p + 1) * h) + y1]
        columns = [math.floor(q * w) + x1, math.ceil((q + 1) * w) + x1]
        yield (p, q), slice(*np.clip(rows, 0, height)), slice(*np.clip(columns, 0, width))


def ps_roi_pool(input, boxes, output_size, spatial_scale=1.0):
    size, regions = _size(output_size), _boxes(boxes)
    x = input.reshape(len(input), -1, *size, *input.shape[2:])
    out = np.zeros((len(regions), x.shape[1], *size))
    for k, (n, *box) in enumerate(regions):
        for (p, q), rows, columns in _bins(box, spatial_scale, size, 0, x.shape[4] - 1,
                                           x.shape[5] - 1):
            part = x[n, :, p, q, rows, columns]
            if part[0].size:
                out[k, :, p, q] = part.mean((1, 2))
    return out


def bin_max(pixels, images, top, bottom, left, right, span, caller=""):
    shape = (len(images), pixels.shape[1], top.shape[1], left.shape[1])
    out, at = np.zeros(shape), np.full(shape, -1)
    for k, c, p, q in np.ndindex(*shape):
        best = None
        for y in range(top[k, p], bottom[k, p]):
            for x in range(left[k, q], right[k, q]):
                v = pixels[images[k], c, y, x]
                if best is None or v > best or (np.isnan(v) and not np.isnan(best)):
                    best, out[k, c, p, q], at[k, c, p, q] = v, v, y * pixels.shape[3] + x
    return out, at


def roi_pool(input, boxes, output_size, spatial_scale=1.0):
    size, regions = _size(output_size), _boxes(boxes)
    out = np.zeros((len(regions), input.shape[1], *size))
    for k, (n, *box) in enumerate(regions):
        for (p, q), rows, columns in _bins(box, spatial_scale, size, 1, *input.shape[2:]):
            part = input[n, :, rows, columns]
            if part[0].size:
                out[k, :, p, q] = part.max((1, 2))
    return out


# ---------------------------------------------------------------- deformable convolution

def _within(image, y, x):
    """Channels of an image (C, H, W) at a place, interpolated with zeros around."""
    if not (np.isfinite(y) and np.isfinite(x)):
        return np.full(len(image), y + x)
    out = np.zeros(len(image))
    j, i = math.floor(y), math.floor(x)
    for row, wy in ((j, 1 - (y - j)), (j + 1, y - j)):
        for column, wx in ((i, 1 - (x - i)), (i + 1, x - i)):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                out += wy * wx * image[:, row, column]
    return out


def deform_conv2d(input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0),
                  dilation=(1, 1), mask=None):
    stride, padding, dilation = map(_size, (stride, padding, dilation))
    n, channels = input.shape[:2]
    outs, per_group, kh, kw = weight.shape
    groups, moved = channels // per_group, offset.shape[1] // (2 * kh * kw)
    space = offset.shape[2:]
    shifts = offset.reshape(n, moved, kh * kw, 2, *space)
    out = np.zeros((n, outs, *space))
    for k, p, q in np.ndindex(n, *space):
        columns = np.zeros((channels, kh * kw))
        for g, t in np.ndindex(moved, kh * kw):
            part = slice(g * channels // moved, (g + 1) * channels // moved)
            dy, dx = shifts[k, g, t, :, p, q]
            y = p * stride[0] - padding[0] + t // kw * dilation[0] + dy
            x = q * stride[1] - padding[1] + t % kw * dilation[1] + dx
            columns[part, t] = _within(input[k, part], y, x)
            if mask is not None:
                columns[part, t] *= mask.reshape(n, moved, kh * kw, *space)[k, g, t, p, q]
        for o in range(outs):
            g = o * groups // outs
            part = columns[g * per_group:(g + 1) * per_group]
            out[k, o, p, q] = (weight[o].reshape(per_group, -1) * part).sum()
    return out if bias is None else out + bias[:, None, None]


# ---------------------------------------------------------------- resizing

def _weights(size, out, mode, antialias):
    """The matrix (out, size) of a resizing along one dim."""
    m = np.zeros((out, size))
    scale = size / out
    for o in range(out):
        if mode.startswith("nearest"):
            at = (o + 0.5) * scale if mode == "nearest-exact" else o * scale
            m[o, min(int(at), size - 1)] = 1
            continue
        centre = (o + 0.5) * scale - 0.5
        wide = max(scale, 1) if antialias else 1
        reach = wide if mode == "bilinear" else 2 * wide
        for k in range(math.floor(centre - reach), math.ceil(centre + reach) + 1):
            d = abs(k - centre) / wide
            if mode == "bilinear":
                w = max(1 - d, 0)
            else:
                a = -0.5 if antialias else -0.75
                w = ((a + 2) * d ** 3 - (a + 3) * d ** 2 + 1 if d <= 1 else
                     a * (d ** 3 - 5 * d ** 2 + 8 * d - 4) if d < 2 else 0)
            if antialias and not 0 <= k < size:
                continue
            m[o, min(max(k, 0), size - 1)] += w
        m[o] /= m[o].sum() if antialias else 1
    return m


def resize(img, size, interpolation="bilinear", max_size=None, antialias=True):
    height, width = img.shape[-2:]
    if isinstance(size, int) or len(size) == 1:
        edge = size if isinstance(size, int) else size[0]
        other = int(edge * max(height, width) / min(height, width))
        if max_size is not None and other > max_size:
            edge, other = int(max_size * edge / other), max_size
        size = (other, edge) if width <= height else (edge, other)
    rows = _weights(height, size[0], interpolation, antialias)
    columns = _weights(width, size[1], interpolation, antialias)
    out = rows @ img.astype(np.float64) @ columns.T
    return out if img.dtype.kind == "f" else np.round(out.clip(0, 255)).astype(img.dtype)


def resized_crop(img, top, left, height, width, size, interpolation="bilinear", antialias=True):
    part = np.zeros((*img.shape[:-2], height, width))
    for y, x in np.ndindex(height, width):
        if 0 <= y + top < img.shape[-2] and 0 <= x + left < img.shape[-1]:
            part[..., y, x] = img[..., y + top, x + left]
    return resize(part, size, interpolation, antialias=antialias)


# ---------------------------------------------------------------- rotated boxes

def _polygon(x, y, w, h, r):
    """Corners of a rotated box."""
    a = math.radians(r)
    right = np.array([math.cos(a), -math.sin(a)])
    down = np.array([math.sin(a), math.cos(a)])
    return [np.array([x, y]) + i * w / 2 * right + j * h / 2 * down
            for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]


def _cross(a, b):
    return a[0] * b[1] - a[1] * b[0]


def _cut(points, start, end):
    """The part of a polygon on the inner side of a line (Sutherland and Hodgman)."""
    kept = []
    for k, p in enumerate(points):
        before = points[k - 1]
        here, there = _cross(end - start, p - start), _cross(end - start, before - start)
        if (here >= 0) != (there >= 0):
            kept.append(before + (p - before) * (there / (there - here)))
        if here >= 0:
            kept.append(p)
    return kept


def _rotated(a, b):
    points, other = _polygon(*a), _polygon(*b)
    for k in range(4):
        points = _cut(points, other[k - 1], other[k]) if points else []
    inter = sum(_cross(points[k - 1], p) for k, p in enumerate(points)) / 2
    union = a[2] * a[3] + b[2] * b[3] - inter
    return inter / union if union else 0.0


def rotated_ratio(*c):
    c = np.broadcast_arrays(*c)
    return np.array([_rotated([x[k] for x in c[:5]], [x[k] for x in c[5:]])
                     for k in np.ndindex(c[0].shape)]).reshape(c[0].shape)
