"""Resizing of images by an edge, and of a part of them: interpolate with the rules of images."""

from __future__ import annotations

import lampion

from . import references as ref
from .declare import composite

SMOOTH = ("bilinear", "bicubic")
MODES = ("nearest", "nearest-exact", *SMOOTH)


def new_size(space, size, max_size):
    """(height, width) after resizing: both given, or the shorter edge."""
    if not isinstance(size, int) and len(size) == 2:
        if max_size is not None:
            raise ValueError("resize: max_size should only be passed if size is the length of the "
                             "smaller edge, i.e. an int or a sequence of length 1")
        return tuple(size)
    if not isinstance(size, int) and len(size) != 1:
        raise ValueError("resize: Size must be an int or a 1 or 2 element tuple/list, not a "
                         f"{len(size)} element tuple/list")
    short, long = sorted(space)
    edge = size if isinstance(size, int) else size[0]
    other = int(edge * long / short)
    if max_size is not None:
        if max_size <= edge:
            raise ValueError(f"resize: max_size = {max_size} must be strictly greater than the "
                             f"requested size for the smaller edge size = {edge}")
        if other > max_size:
            edge, other = int(max_size * edge / other), max_size
    return (other, edge) if space[1] <= space[0] else (edge, other)


@composite(replay=True, reference=ref.resize, samples="""
    f(2, 6, 8), 3
    f(1, 2, 5, 7).transposed, (3, 9), "nearest"
    f(3, 4), [8], "bilinear", 11, False
    f(3, 8, 6), 4, "bicubic", antialias=False
    f(2, 4, 4), 4
    i(2, 6, 8, low=0, high=255, dtype=uint8), 3, antialias=False
""")
def resize(img, size, interpolation="bilinear", max_size=None, antialias=True):
    """Images (..., H, W) resized to `size` (height, width), or, if that is one number, so that the
    shorter edge has it and the longer one at most `max_size`.

    Modes: bilinear and bicubic, with `antialias` filtered as wide as pixels are apart, nearest and
    nearest-exact. Whole numbers are rounded, those of bytes kept in range. The image itself if it
    has the size already. ValueError for sizes and modes that there are not.

    >>> resize(lampion.zeros(3, 20, 30), 10).shape
    lampion.Size([3, 10, 15])
    """
    if interpolation not in MODES:
        raise ValueError(f"resize: there is no interpolation {interpolation!r}; there are "
                         f"{', '.join(MODES)}")
    if img.ndim < 2:
        raise ValueError(f"resize: expected images of shape (..., H, W), got {list(img.shape)}")
    space = tuple(img.shape[-2:])
    wanted = new_size(space, size, max_size)
    if wanted == space:
        return img
    smooth = interpolation in SMOOTH
    whole = img.dtype not in (lampion.float32, lampion.float64)
    x = img.to(lampion.float32) if whole else img
    lead = x.shape[:-2]
    x = x.reshape(-1, lead[-1] if lead else 1, *space)
    x = lampion.nn.functional.interpolate(
        x, wanted, mode=interpolation, align_corners=False if smooth else None,
        antialias=bool(antialias) and smooth)
    if not whole:
        return x.reshape(*lead, *wanted)
    if not img.is_floating_point():
        x = (x.clamp(0, 255) if img.dtype == lampion.uint8 else x).round()
    return x.reshape(*lead, *wanted).to(img.dtype)


@composite(replay=True, reference=ref.resized_crop, samples="""
    f(2, 6, 8), 1, 2, 4, 5, (3, 9), "nearest"
    f(1, 2, 5, 7), 2, 0, 2, 6, 4, antialias=False
    f(1, 4, 4), -1, -1, 6, 3, (4, 4), antialias=False
""")
def resized_crop(img, top, left, height, width, size, interpolation="bilinear", antialias=True):
    """The part of images (..., H, W) with this corner and these sizes, resized to `size` as by
    `resize`; what lies outside the images is 0."""
    rows, columns = img.shape[-2:]
    part = img[..., max(top, 0):max(top + height, 0), max(left, 0):max(left + width, 0)]
    missing = (max(-left, 0), max(left + width - columns, 0), max(-top, 0),
               max(top + height - rows, 0))
    if any(missing):
        part = lampion.nn.functional.pad(part, missing)
    return resize(part, size, interpolation, None, antialias)
