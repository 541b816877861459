"""Matrix products by generated kernels: any strides, any real dtype, no library needed.

16-bit floats go through the tensor cores where the GPU has the instruction (compute capability
8.0), everything else through register tiles. A product whose tiles are fewer than the
multiprocessors is split along k; the parts are then added in a fixed order, so results do not
depend on timing. Imports this package and lampion's floors 0-2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lampion.base import dtype as dt
from lampion.base.meta import expand_strides
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.products import Problem, problem

from . import gemm_text
from .compiler import Bound, Compiled, build
from .driver import check
from .gemm_text import Tile
from .launch import make_launch

if TYPE_CHECKING:
    from .driver import Device

TYPES = (dt.float32, dt.float64, dt.float16, dt.bfloat16,
         dt.int8, dt.uint8, dt.int16, dt.int32, dt.int64)
# Tiles from large to small; the first that gives every multiprocessor work is taken.
TENSOR = (Tile(128, 128, 32, 64, 64, 4, True), Tile(64, 64, 32, 32, 32, 4, True))
FLAT = Tile(16, 128, 32, 16, 32, 6, True)  # for a few rows: b is read once, as fast as it comes
PLAIN = (Tile(128, 64, 8, 8, 8, 2, False), Tile(64, 64, 16, 4, 4, 2, False))
WIDE = PLAIN[1:]                           # 8-byte types: fewer fit into registers
PART = 256           # least steps of k of a part of a split product
STATIC_SHARED = 48 << 10


def contract(device: Device, call: OpCall) -> Launch | None:
    """Build the launch for `contract`, or None where the general kernel is as good: products with
    vectors, tiny ones, and dtypes that are not real."""
    a, b, *rest = call.inputs
    c = call.outputs[0]
    if not all(m.dtype is c.dtype for m in (a, b, *rest)) or c.dtype not in TYPES:
        return None
    bias = expand_strides(rest[0].shape, rest[0].strides, c.shape) if rest else None
    p = problem(a, b, c, bias)
    if 0 in (*p.batch, p.m, p.n, p.k) or p.m == 1 or p.n == 1 or p.m * p.n < 256:
        return None
    calls, scratch, names = product(device, p)
    return make_launch(device, calls, "s" * len(call.inputs), [c.span], scratch, names)


def product(device: Device, p: Problem, tile: Tile | None = None, splits: int | None = None,
            ) -> tuple[list[Any], list[int], list[str]]:
    """(kernel calls, sizes of scratch buffers, names) of a product between the slots 0 = c, 1 = a,
    2 = b, 3 = bias. `tile` and `splits` are chosen unless given."""
    first, second = 1, 2
    if p.n < p.m and choose(device, p.turned()) is FLAT:
        p, first, second = p.turned(), 2, 1  # a few columns are a few rows of the transpose
    tile = tile or choose(device, p)
    splits = splits or parts(device, p, tile)
    nb, count = len(p.batch), math.prod(p.batch)
    tm, tn = -(-p.m // tile.rows), -(-p.n // tile.columns)
    depth = -(-p.k // (splits * tile.depth)) * tile.depth
    splits = -(-p.k // depth)
    split, bias = splits > 1, p.bias is not None
    # neighbouring threads read neighbours, whichever way the matrix lies
    along = p.a[-1] == 1, p.b[-2] == 1
    name, text = ("tensor", gemm_text.tensor) if tile.tensor else ("tiles", gemm_text.tiles)
    kernel = _built(device, text(p.dtype, tile, along, nb, bias and not split, split), name,
                    tile.shared)
    extra = (*p.bias[-2:], *p.bias[:nb]) if p.bias is not None else ()
    integers = (p.m, p.n, p.k, *p.a[-2:], *p.b[-2:], *p.c[-2:], tm, tn, depth, *p.batch,
                *p.a[:nb], *p.b[:nb], *p.c[:nb], *(extra if not split else ()))
    slots = [0, first, second] + ([3] if bias and not split else [])
    address = ("address", None)
    names = [f"gemm.{name}.{tile.rows}x{tile.columns}"]
    bound = Bound(kernel, (tm * tn * count, splits, 1), (tile.threads, 1, 1), tile.shared, integers)
    if not split:
        return [(bound, [address] * len(slots), slots)], [], names
    scratch = 3 + bias
    size = p.m * p.n * count
    calls: list[Any] = [(bound, [address] * 4, [*slots, scratch])]
    adding = build(device, gemm_text.parts(p.dtype, nb, bias), "parts")
    calls.append((Bound(adding, (-(-size // 256), 1, 1), (256, 1, 1), 0,
                        (p.m, p.n, *p.c[-2:], splits, size, *p.batch, *p.c[:nb], *extra)),
                  [address] * (2 + bias), [0, scratch, *([3] if bias else [])]))
    room = size * splits * gemm_text.accumulator(p.dtype).itemsize
    return calls, [room], [*names, f"gemm.parts.{splits}"]


def choose(device: Device, p: Problem) -> Tile:
    """The tile of a product."""
    tensor = p.dtype in (dt.float16, dt.bfloat16) and device.capability >= (8, 0)
    if tensor and p.m <= FLAT.rows:
        return FLAT
    offers: Sequence[Tile] = TENSOR if tensor else WIDE if p.dtype.itemsize == 8 else PLAIN
    count = math.prod(p.batch)
    for tile in offers[:-1]:
        if count * -(-p.m // tile.rows) * -(-p.n // tile.columns) >= device.units \
                and p.m > tile.rows // 2 and p.n > tile.columns // 2:
            return tile
    return offers[-1]


def parts(device: Device, p: Problem, tile: Tile) -> int:
    """Into how many ranges of k a product is split: one, if its tiles fill the GPU."""
    tiles = math.prod(p.batch) * -(-p.m // tile.rows) * -(-p.n // tile.columns)
    if 2 * tiles > device.units:
        return 1
    return max(1, min(2 * device.units // tiles, p.k // PART, 32))


def _built(device: Device, source: str, name: str, shared: int) -> Compiled:
    kernel = build(device, source, name)
    if shared > STATIC_SHARED:
        device.activate()
        attribute = device.drv.CUfunction_attribute
        check(device.drv.cuFuncSetAttribute(
            kernel.function, attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared),
            f"giving {name} {shared} bytes of shared memory")
    return kernel


__all__ = ["contract", "product"]
