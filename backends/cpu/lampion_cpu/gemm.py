"""Matrix products for the native runtime: which kernel, in which layout, in which steps.

:func:`matmul_steps` takes views (slot, shape, strides, dtype) and returns the steps of a
program. It chooses among the direct kernels (small or skinny products), oneDNN (float32,
bfloat16, float16) and BLAS (float64, complex, and float32 without oneDNN). The thresholds
are measured. A plan is made for the thread count of the moment (``pool.get_num_threads``):
plan again when that changes, and in a forked child.

Imports ``blas``, ``direct``, ``onednn``, ``pack``, ``pool`` and ``program``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from . import blas, direct, onednn, pack, pool
from .direct import Epilogue
from .program import Packed, Step

ITEMSIZE = {
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip

# Measured limits. Products up to 64^3 start faster than any library call; up to 16 rows
# the packing of a library costs more than it gains, as long as B stays in the caches.
_DIRECT_PRODUCT = 64 * 64 * 64
_DIRECT_ROWS = 16
_DIRECT_WEIGHTS = 1 << 20
_STREAM_BYTES = 512 * 1024  # a matrix that misses the L2 cache is read in row order
_PAGE = 4096  # rows so far apart fall into the same cache sets
_GRAIN_CYCLES = 20_000  # work worth handing to another thread
_PACK_ROWS, _PACK_WEIGHTS = 512, 1_500_000
_SHARE_ROWS, _SHARE_WEIGHTS = 128, 64 * 64  # products that gain if others packed the weights


class View(NamedTuple):
    """An operand: program slot, shape, strides in elements, dtype name."""

    slot: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


class Plan(NamedTuple):
    """Steps of a program, the bytes of its scratch slots in order, and what does the same for
    weights that several products share."""

    steps: tuple[Step, ...]
    scratch: tuple[int, ...]
    packed: Packed | None = None


@dataclasses.dataclass(frozen=True)
class Matrix:
    """One operand of a product: slot, row and column stride, batch strides (elements)."""

    slot: int
    row: int
    column: int
    batch: tuple[int, ...]

    @property
    def transposed(self) -> Matrix:
        """The same memory with rows and columns exchanged."""
        return Matrix(self.slot, self.column, self.row, self.batch)


@dataclasses.dataclass(frozen=True)
class Product:
    """C[b, m, n] = post(sum over k of A[b, m, k] * B[b, k, n] + bias)."""

    m: int
    n: int
    k: int
    batch: tuple[int, ...]
    a: Matrix
    b: Matrix
    c: Matrix
    bias: Matrix | None
    post: str | None
    dtype: str

    @property
    def transposed(self) -> Product:
        """The same product computed as C^T = B^T A^T."""
        return dataclasses.replace(
            self, m=self.n, n=self.m, a=self.b.transposed, b=self.a.transposed,
            c=self.c.transposed, bias=self.bias and self.bias.transposed,
        )  # fmt: skip

    @property
    def count(self) -> int:
        """Number of matrices in the batch."""
        return math.prod(self.batch)


class Scratch:
    """Hands out the scratch slots of a program."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.sizes: list[int] = []

    def add(self, nbytes: int) -> int:
        self.sizes.append(nbytes)
        return self.first + len(self.sizes) - 1

    def for_primitive(self, primitive: onednn.Primitive) -> int:
        """Slot of a primitive's scratch memory (unused when it needs none)."""
        return self.add(primitive.scratchpad) if primitive.scratchpad else -1


def matmul_steps(
    a: View, b: View, c: View, bias: View | None = None, post: str | None = None,
    *, first_scratch: int,
) -> Plan | None:  # fmt: skip
    """Plan C = post(A @ B + bias) for batches of matrices with any strides.

    ``a`` is (..., m, k), ``b`` (..., k, n) and ``c`` (..., m, n), all of one dtype; the batch
    axes of ``a`` and ``b`` broadcast to those of ``c``. ``bias`` broadcasts to (m, n) and
    varies along one axis only. ``post`` is a name in :data:`onednn.POST_OPS`, or ``"sum"``
    to add to the old C.

    Returns None for what no kernel here does (integer dtypes, k = 0, a ``post`` of another
    kernel): use the generic kernel. An empty C gives a plan without steps. Raises ValueError
    for shapes that do not fit.

    Example:
        >>> x = View(1, (2, 3), (3, 1), "float32")
        >>> w = View(2, (3, 4), (4, 1), "float32")
        >>> y = View(0, (2, 4), (4, 1), "float32")
        >>> len(matmul_steps(x, w, y, first_scratch=3).steps)
        1
    """
    product = _parse(a, b, c, bias, post)
    if product is None:
        return None
    if product.m == 0 or product.n == 0 or product.count == 0:
        return Plan((), ())
    if product.k == 0 or product.dtype not in ITEMSIZE:
        return None
    scratch = Scratch(first_scratch)
    steps: list[Step] = []
    product = _pack_odd(_simplify(product), steps, scratch)
    shared = None if steps else _shared(product, first_scratch)
    for planner in (_direct, _onednn, _blas):
        if planner(product, steps, scratch):
            return Plan(tuple(steps), tuple(scratch.sizes), shared)
    return None


# --- from views to a product ---------------------------------------------------------------


def _broadcast_strides(view: View, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a view's batch axes broadcast to ``batch``: 0 where it repeats."""
    own = view.shape[:-2]
    if len(own) > len(batch):
        raise ValueError(f"batch axes {own} do not broadcast to {batch}")
    missing = len(batch) - len(own)
    strides = [0] * missing
    for size, stride, full in zip(own, view.strides[:-2], batch[missing:], strict=True):
        if size not in (1, full):
            raise ValueError(f"batch axes {own} do not broadcast to {batch}")
        strides.append(stride if size == full and size != 1 else 0)
    return tuple(strides)


def _parse(a: View, b: View, c: View, bias: View | None, post: str | None) -> Product | None:
    """Check shapes and build the product; None when the bias or the dtypes do not fit."""
    m, k = a.shape[-2:]
    n = b.shape[-1]
    if b.shape[-2] != k or c.shape[-2:] != (m, n):
        raise ValueError(f"shapes {a.shape} @ {b.shape} -> {c.shape} do not fit")
    batch = tuple(c.shape[:-2])
    if not a.dtype == b.dtype == c.dtype:
        return None
    left, right, result = (
        Matrix(v.slot, v.strides[-2], v.strides[-1], _broadcast_strides(v, batch))
        for v in (a, b, c)
    )
    if any(s == 0 and size > 1 for s, size in zip(result.batch, batch, strict=True)):
        return None
    extra = None
    if bias is not None:
        extra = _bias_matrix(bias, m, n) if bias.dtype == c.dtype else None
        if extra is None:
            return None
    return Product(m, n, k, batch, left, right, result, extra, post, c.dtype)


def _bias_matrix(bias: View, m: int, n: int) -> Matrix | None:
    """A bias as a matrix that varies along rows or columns, None when it varies along both."""
    shape, strides = (1, 1, *bias.shape)[-2:], (0, 0, *bias.strides)[-2:]
    if math.prod(bias.shape[:-2]) != 1 or shape[0] not in (1, m) or shape[1] not in (1, n):
        return None
    row = strides[0] if shape[0] > 1 else 0
    column = strides[1] if shape[1] > 1 else 0
    if row and column:
        return None
    return Matrix(bias.slot, row, column, ())


def _simplify(p: Product) -> Product:
    """Drop batch axes of size 1, merge neighbours, and fold a shared B into the rows."""
    axes = [
        axis for axis in zip(p.batch, p.a.batch, p.b.batch, p.c.batch, strict=True) if axis[0] != 1
    ]
    merged: list[tuple[int, ...]] = []
    for axis in axes:
        if merged and all(merged[-1][i] == axis[0] * axis[i] for i in (1, 2, 3)):
            axis = (merged.pop()[0] * axis[0], *axis[1:])
        merged.append(axis)
    p = _with_batch(p, merged)
    if merged and not (p.bias and p.bias.row):
        size, a, b, c = merged[-1]
        if b == 0 and p.m == 1:
            rows = dataclasses.replace(p.a, row=a), dataclasses.replace(p.c, row=c)
            return _with_batch(dataclasses.replace(p, m=size, a=rows[0], c=rows[1]), merged[:-1])
        if b == 0 and a == p.m * p.a.row and c == p.m * p.c.row:
            return _with_batch(dataclasses.replace(p, m=size * p.m), merged[:-1])
    return p


def _with_batch(p: Product, axes: Sequence[tuple[int, ...]]) -> Product:
    """The product with batch axes given as (size, stride of a, of b, of c)."""
    columns = [tuple(axis[i] for axis in axes) for i in range(4)]
    return dataclasses.replace(
        p,
        batch=columns[0],
        a=dataclasses.replace(p.a, batch=columns[1]),
        b=dataclasses.replace(p.b, batch=columns[2]),
        c=dataclasses.replace(p.c, batch=columns[3]),
    )


def _is_regular(rows: int, columns: int, row: int, column: int) -> bool:
    """Whether one axis is contiguous and the other steps over it without overlap."""
    row, column = _ld(rows, columns, row, column)
    return (column == 1 and row >= columns) or (row == 1 and column >= rows)


def _ld(rows: int, columns: int, row: int, column: int) -> tuple[int, int]:
    """Strides with those of axes of size 1 (never used) set to ordinary values."""
    if rows == 1 and columns == 1:
        return 1, 1
    if rows == 1:
        return (columns, 1) if column == 1 else (1, column)
    if columns == 1:
        return (row, 1) if row != 1 else (1, rows)
    return row, column


def _pack_odd(p: Product, steps: list[Step], scratch: Scratch) -> Product:
    """Copy operands without a contiguous axis (or with repeated elements) into scratch."""

    def packed(x: Matrix, rows: int, columns: int) -> Matrix:
        row, column = _ld(rows, columns, x.row, x.column)
        if _is_regular(rows, columns, row, column):
            return dataclasses.replace(x, row=row, column=column)
        batch = [(s, t) for s, t in zip(p.batch, x.batch, strict=True) if t]
        size = ITEMSIZE[p.dtype]
        count = math.prod(s for s, _ in batch)
        slot = scratch.add(count * rows * columns * size)
        shape = (*(s for s, _ in batch), rows, columns)
        strides = (*(t for _, t in batch), row, column)
        steps.append(pack.dense_step(slot, x.slot, shape, strides, size))
        dense, near = [], rows * columns
        for s, t in reversed(list(zip(p.batch, x.batch, strict=True))):
            dense.append(near if t else 0)
            near *= s if t else 1
        return Matrix(slot, columns, 1, tuple(reversed(dense)))

    row, column = _ld(p.m, p.n, p.c.row, p.c.column)
    p = dataclasses.replace(p, c=dataclasses.replace(p.c, row=row, column=column))
    p = dataclasses.replace(p, b=packed(p.b, p.k, p.n))
    if _direct_possible(p) and _fits_rows(p):
        return p  # that kernel reads A with any strides
    return dataclasses.replace(p, a=packed(p.a, p.m, p.k))


# --- direct kernels ------------------------------------------------------------------------


class _Choice(NamedTuple):
    cost: float
    kind: str
    product: Product


def _direct(p: Product, steps: list[Step], scratch: Scratch) -> bool:
    """Plan a direct kernel when one fits and the product is small or skinny."""
    if not _direct_possible(p):
        return False
    choices = [c for q in (p, p.transposed) for c in _direct_choices(q)]
    if not choices:
        return False
    best = min(choices, key=lambda choice: choice.cost)
    _DIRECT_STEPS[best.kind](best.product, steps, scratch)
    return True


def _direct_possible(p: Product) -> bool:
    """Whether the direct kernels have this dtype, batch and post-operation."""
    return (
        p.dtype in ("float32", "float64")
        and direct.supported()
        and len(p.batch) <= 2
        and p.post in (None, "relu", "sum")
    )


def _is_small(p: Product) -> bool:
    return p.m * p.n * p.k <= _DIRECT_PRODUCT


def _fits_rows(p: Product) -> bool:
    """Whether ``rows`` can read B and write C, and is worth it."""
    if p.b.column != 1 or p.c.column != 1:
        return False
    skinny = p.m == 1 or (p.m <= _DIRECT_ROWS and p.n * p.k <= _DIRECT_WEIGHTS)
    return skinny or _is_small(p)


def _direct_choices(p: Product) -> list[_Choice]:
    """Direct kernels for a product in this orientation, with their cost in cycles."""
    small = _is_small(p)
    width, found = direct.lanes(p.dtype), []
    weights = p.k * p.n * ITEMSIZE[p.dtype]
    if _fits_rows(p):
        tile = direct.choose_tile(p.m, p.n, p.k, p.dtype)
        if p.m == 1 and not p.batch and weights > _STREAM_BYTES:
            found.append(_Choice(tile.cost / 2, "stream", p))
        else:
            found.append(_Choice(tile.cost, "rows", p))
    if p.b.row == 1 and p.a.column == 1 and (p.m <= 8 or (small and p.m <= 32)):
        rows = min(p.m, 4)
        columns = direct.dot_columns(rows)
        block = math.ceil(p.k / width) * max(rows * columns, rows + columns) + 10 * rows * columns
        cost = float(math.ceil(p.m / rows) * math.ceil(p.n / columns) * block)
        found.append(_Choice(cost, "dot", p))
    if p.b.row == 1 and p.b.column != 1 and p.c.column == 1 and small:
        turn = math.ceil(p.n / width) * math.ceil(p.k / width) * (6 * width + 20)
        cost = direct.choose_tile(p.m, p.n, p.k, p.dtype).cost + turn
        found.append(_Choice(cost, "turned", p))
    return found


def _epilogue(p: Product) -> Epilogue:
    kind = None if p.bias is None else ("m" if p.bias.row else "n")
    return Epilogue(kind, p.post == "relu", p.post == "sum")


def _slots(p: Product) -> tuple[int, ...]:
    slots = (p.c.slot, p.a.slot, p.b.slot)
    return slots if p.bias is None else (*slots, p.bias.slot)


def _batch_params(p: Product, size: int) -> list[int]:
    """The ``inner`` count and the outer and inner byte strides of C, A, B."""
    batch = (1,) * (2 - len(p.batch)) + p.batch
    values = [batch[1]]
    for matrix in (p.c, p.a, p.b):
        strides = (0,) * (2 - len(p.batch)) + matrix.batch
        values += [s * size for s in strides]
    return values


def _grain(unit_cycles: float) -> int:
    """Units that are worth a thread of their own."""
    return max(1, math.ceil(_GRAIN_CYCLES / unit_cycles))


def _rows_steps(p: Product, steps: list[Step], scratch: Scratch) -> None:
    p = _with_dense_bias(p, steps, scratch)
    size = ITEMSIZE[p.dtype]
    tile = direct.choose_tile(p.m, p.n, p.k, p.dtype)
    epilogue = _epilogue(p)
    fn = direct.rows_kernel(p.dtype, tile.rows, tile.tail, tile.vectors, epilogue)
    params = (
        p.m // tile.rows, p.n, p.k, p.a.row * size, p.a.column * size, p.b.row * size,
        p.c.row * size, tile.panels, *_batch_params(p, size),
    )  # fmt: skip
    units = tile.panels * p.count
    steps.append(Step(fn, params, _slots(p), units, _grain(tile.cost / tile.panels)))


def _with_dense_bias(p: Product, steps: list[Step], scratch: Scratch) -> Product:
    """Copy a bias with gaps (or a scalar one), so that its elements are neighbours."""
    if p.bias is None or p.bias.row == 1 or (not p.bias.row and (p.bias.column == 1 or p.n == 1)):
        return p
    size = ITEMSIZE[p.dtype]
    count, stride = (p.m, p.bias.row) if p.bias.row else (p.n, p.bias.column)
    slot = scratch.add(count * size)
    steps.append(pack.dense_step(slot, p.bias.slot, (count,), (stride,), size))
    row, column = (1, 0) if p.bias.row else (0, 1)
    return dataclasses.replace(p, bias=Matrix(slot, row, column, ()))


def _stream_steps(p: Product, steps: list[Step], scratch: Scratch) -> None:
    p = _with_dense_bias(p, steps, scratch)
    size = ITEMSIZE[p.dtype]
    fn = direct.stream_kernel(p.dtype, _epilogue(p))
    units = math.ceil(p.n / (direct.STREAM_VECTORS * direct.lanes(p.dtype)))
    params = (p.n, p.k, p.a.column * size, p.b.row * size)
    grain = max(4, _grain(p.k * direct.STREAM_VECTORS * 2))
    steps.append(Step(fn, params, _slots(p), units, grain))


def _dot_steps(p: Product, steps: list[Step], scratch: Scratch) -> None:
    size = ITEMSIZE[p.dtype]
    rows = min(p.m, 4) if p.m <= 4 or p.m % 4 == 0 else _even_rows(p.m)
    columns = direct.dot_columns(rows)
    fn = direct.dot_kernel(p.dtype, rows, p.m % rows, _epilogue(p))
    groups = math.ceil(p.n / columns)
    bias = (0, 0) if p.bias is None else (p.bias.row * size, p.bias.column * size)
    params = (
        p.m // rows, p.n, p.k, p.a.row * size, p.b.column * size, p.c.row * size,
        p.c.column * size, groups, *bias, *_batch_params(p, size),
    )  # fmt: skip
    cycles = math.ceil(p.k / direct.lanes(p.dtype)) * p.m * columns + 10 * p.m * columns
    steps.append(Step(fn, params, _slots(p), groups * p.count, _grain(cycles)))


def _even_rows(m: int) -> int:
    """Rows of a tile, at most 4, that leave the fullest last tile."""
    return math.ceil(m / math.ceil(m / 4))


def transpose_step(source: View, target: View) -> Step | None:
    """The step that copies matrices (..., n, k) to (..., k, n); both last axes are contiguous.

    None where the kernel for it cannot: other layouts and dtypes, more than two batch axes.
    """
    *batch, n, k = source.shape
    if not direct.supported() or source.dtype not in ("float32", "float64") or len(batch) > 2:
        return None
    if (source.strides[-1] != 1 and k > 1) or (target.strides[-1] != 1 and n > 1):
        return None
    size, width = ITEMSIZE[source.dtype], direct.lanes(source.dtype)
    blocks = math.ceil(n / width)
    missing = 2 - len(batch)
    inner = batch[-1] if batch else 1
    p_batch, b_batch = ((0,) * missing + v.strides[:-2] for v in (target, source))
    params = (n, k, source.strides[-2] * size, target.strides[-2] * size, blocks, inner,
              *(s * size for s in (*p_batch, *b_batch)))  # fmt: skip
    cycles = math.ceil(k / width) * (6 * width + 20)
    units = math.prod(batch) * blocks
    return Step(direct.transpose_kernel(source.dtype), params, (target.slot, source.slot), units,
                _grain(cycles))


def _turned_steps(p: Product, steps: list[Step], scratch: Scratch) -> None:
    """Transpose B into scratch, then run ``rows``."""
    size = ITEMSIZE[p.dtype]
    shared = all(s == 0 for s in p.b.batch)
    count = 1 if shared else p.count
    slot = scratch.add(count * p.k * p.n * size)
    near = p.k * p.n
    dense = (p.batch[-1] * near, near)[2 - len(p.batch):] if p.batch else ()
    batch = tuple(1 for _ in p.batch) if shared else p.batch
    source = View(p.b.slot, (*batch, p.n, p.k), (*p.b.batch, p.b.column, 1), p.dtype)
    target = View(slot, (*batch, p.k, p.n), (*dense, p.n, 1), p.dtype)
    turn = transpose_step(source, target)
    assert turn is not None
    steps.append(turn)
    strides = tuple(0 for _ in p.batch) if shared else dense
    turned = dataclasses.replace(p, b=Matrix(slot, p.n, 1, strides))
    _rows_steps(turned, steps, scratch)


_DIRECT_STEPS = {
    "rows": _rows_steps,
    "stream": _stream_steps,
    "dot": _dot_steps,
    "turned": _turned_steps,
}


# --- oneDNN --------------------------------------------------------------------------------


def _onednn(p: Product, steps: list[Step], scratch: Scratch, packed: bool = False) -> bool:
    """Plan a oneDNN primitive, with the weights reordered first where that pays, or `packed`."""
    if p.dtype not in onednn.DTYPES or not onednn.available()[0]:
        return False
    if p.post not in (None, "sum", *onednn.POST_OPS):
        return False
    if p.c.column != 1:
        p = p.transposed
    operands = ((p.a, p.m, p.k), (p.b, p.k, p.n), (p.c, p.m, p.n))
    if p.c.column != 1 or any(_overlaps(x, p.batch, rows, cols) for x, rows, cols in operands):
        return False
    a, b, c = (
        _descriptor(x, p.batch, rows, columns, p.dtype)
        for x, rows, columns in operands
    )
    p = _with_dense_bias(p, steps, scratch)
    bias = None if p.bias is None else _bias_descriptor(p)
    post = (p.post,) if p.post else ()
    bound_b = b
    packed = packed or _packs_weights(p)
    if packed:
        free = onednn.desc((p.k, p.n), None, p.dtype)
        primitive = onednn.matmul(a, free, c, bias, post)
    else:
        primitive = onednn.matmul(a, b, c, bias, post)
    if primitive is None or "ref" in primitive.implementation:
        return False
    b_slot = p.b.slot
    if packed and not b.same_layout(primitive.desc(onednn.WEIGHTS)):
        bound_b = primitive.desc(onednn.WEIGHTS)
        turn = onednn.reorder(b, bound_b)
        if turn is None:
            return False
        b_slot = scratch.add(bound_b.nbytes)
        moved = [onednn.Bound(onednn.SRC, b, p.b.slot), onednn.Bound(onednn.DST, bound_b, b_slot)]
        steps.append(onednn.run_step(turn, moved, scratch.for_primitive(turn), True))
    bound = [
        onednn.Bound(onednn.SRC, a, p.a.slot),
        onednn.Bound(onednn.WEIGHTS, bound_b, b_slot),
        onednn.Bound(onednn.DST, c, p.c.slot),
    ]
    if bias is not None and p.bias is not None:
        bound.append(onednn.Bound(onednn.BIAS, bias, p.bias.slot))
    large = p.count * p.m * p.n * p.k > 8 * _DIRECT_PRODUCT
    steps.append(onednn.run_step(primitive, bound, scratch.for_primitive(primitive), large))
    return True


def _overlaps(x: Matrix, batch: tuple[int, ...], rows: int, columns: int) -> bool:
    """Whether matrices of a batch share elements, as windows over a sequence do."""
    sizes, strides = (*batch, rows, columns), (*x.batch, x.row, x.column)
    axes = sorted((t, s) for s, t in zip(sizes, strides, strict=True) if s > 1 and t)
    return any(wide < t * s for (t, s), (wide, _) in itertools.pairwise(axes))


def _shared(p: Product, first_scratch: int) -> Packed | None:
    """The product of few rows in two steps, weights first, if several such products would be
    faster with weights packed once: whose rows are columns, or whose rows share cache sets."""
    if p.batch or not 8 <= p.m <= _SHARE_ROWS or p.n * p.k < _SHARE_WEIGHTS or p.c.column != 1 \
            or p.dtype != "float32":
        return None
    if p.b.column == 1 and p.b.row * ITEMSIZE[p.dtype] % _PAGE:
        return None
    steps: list[Step] = []
    scratch = Scratch(first_scratch)
    if not _onednn(p, steps, scratch, True) or len(steps) != 2:
        return None
    span = (p.k - 1) * p.b.row + (p.n - 1) * p.b.column + 1
    return Packed(tuple(steps), tuple(scratch.sizes), span * ITEMSIZE[p.dtype])


def _descriptor(
    x: Matrix, batch: tuple[int, ...], rows: int, columns: int, dtype: str
) -> onednn.Desc:
    """Describe a batch of matrices; a repeated batch axis has size 1."""
    sizes = [size if stride else 1 for size, stride in zip(batch, x.batch, strict=True)]
    strides, near = [], rows * columns
    for size, stride in zip(reversed(sizes), reversed(x.batch), strict=True):
        strides.append(stride or near)
        near = max(near, strides[-1] * size)
    return onednn.desc((*sizes, rows, columns), (*reversed(strides), x.row, x.column), dtype)


def _bias_descriptor(p: Product) -> onednn.Desc:
    assert p.bias is not None
    rows, columns = (p.m, 1) if p.bias.row else (1, p.n)
    ones = (1,) * len(p.batch)
    count = rows * columns
    return onednn.desc((*ones, rows, columns), (*(count for _ in ones), columns, 1), p.dtype)


def _packs_weights(p: Product) -> bool:
    """Whether reordering row-major weights first is faster: wide rows make the plain one slow."""
    return (
        not p.batch
        and p.b.column == 1
        and p.n > 1
        and p.m >= _PACK_ROWS
        and p.n * p.k >= _PACK_WEIGHTS
    )


# --- BLAS ----------------------------------------------------------------------------------


def _blas(p: Product, steps: list[Step], scratch: Scratch) -> bool:
    """Plan calls of the BLAS over strips of rows."""
    if p.post not in (None, "relu", "sum") or len(p.batch) > 2:
        return False
    if p.c.column != 1 or (p.m < p.n // 4 and p.c.row == 1):
        p = p.transposed
    if p.c.column != 1:
        return False
    fn = blas.kernel(p.dtype, p.bias is not None, p.post == "relu", p.post == "sum")
    if fn is None:
        return False
    size = ITEMSIZE[p.dtype]
    trans_a, lda = _leading(p.a, p.m, p.k)
    trans_b, ldb = _leading(p.b, p.k, p.n)
    threads = pool.get_num_threads()
    strip = p.m
    if p.count < threads and p.m * p.n * p.k > _DIRECT_PRODUCT:
        strip = max(8, math.ceil(p.m / threads / 8) * 8)
    strips = math.ceil(p.m / strip)
    bias = (0, 0) if p.bias is None else (p.bias.row * size, p.bias.column * size)
    params = (
        p.m, p.n, p.k, strip, strips, trans_a, trans_b, lda, ldb, max(p.c.row, p.n),
        p.a.row * size, p.c.row * size, *_batch_params(p, size), *bias,
    )  # fmt: skip
    cycles = strip * p.n * p.k / 8
    steps.append(Step(fn, params, _slots(p), strips * p.count, _grain(cycles)))
    return True


def _leading(x: Matrix, rows: int, columns: int) -> tuple[int, int]:
    """(transposition flag, leading dimension) of a regular matrix."""
    if x.column == 1 and x.row >= columns:
        return blas.NO_TRANSPOSE, x.row
    return blas.TRANSPOSE, x.column
