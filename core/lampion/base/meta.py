"""Interned tensor metas and the algebra of shapes and strides.

Floor 0; imports dtype and device only. A `Meta` is everything about a tensor but its bytes:
dtype, shape, strides (in elements), device. Metas are interned, so identity is equality and
plan caches probe them by address; every derived fact is computed once per distinct meta.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .device import device
from .dtype import NAMED, dtype, of_type

_TABLE: dict[tuple[dtype, tuple[int, ...], tuple[int, ...], device], "Meta"] = {}
_LIMIT = 100_000


class Meta:
    """dtype, shape, strides and device of a tensor, interned by `meta()`.

    `span` is the number of bytes from the first element to the end of the last one.
    """

    __slots__ = ("dtype", "shape", "strides", "device", "ndim", "numel", "nbytes", "span",
                 "contiguous", "overlapping", "override", "virtual",
                 "twin", "__weakref__")

    def __init__(self, dtype: dtype, shape: tuple[int, ...], strides: tuple[int, ...],
                 device: device) -> None:
        self.dtype, self.shape, self.strides, self.device = dtype, shape, strides, device
        self.ndim = len(shape)
        self.numel = math.prod(shape)
        self.nbytes = self.numel * dtype.itemsize
        last = sum((n - 1) * s for n, s in zip(shape, strides)) if self.numel else -1
        self.span = (last + 1) * dtype.itemsize
        self.contiguous = is_contiguous(shape, strides)
        self.overlapping = may_overlap(shape, strides)
        # the twin of an overriding meta (see `overriding`), or None for an ordinary one
        self.override: Meta | None = None
        self.virtual = False  # whether it is such a twin, of a tensor that stands for others
        self.twin: Meta | None = None  # that twin, once made

    def overriding(self) -> "Meta":
        """A twin that no plan cache ever holds: tensors whose class overrides ops carry it, so
        that every call of theirs misses the fast path and is seen by the override."""
        if self.override is not None:
            return self
        twin = Meta(self.dtype, self.shape, self.strides, self.device)
        twin.override = self
        return twin

    def standing(self) -> "Meta":
        """The twin for a tensor of a function transform, which has no memory of its own: its
        calls miss every plan cache as well, and the call path hands them to the transform."""
        plain = self.plain
        if plain.twin is None:
            plain.twin = plain.overriding()
            plain.twin.virtual = True
        return plain.twin

    @property
    def plain(self) -> "Meta":
        """The ordinary meta behind an overriding twin."""
        return self if self.override is None else self.override

    def __repr__(self) -> str:
        return f"Meta({self.dtype.name}{list(self.shape)}, strides={self.strides}, {self.device})"

    def with_dtype(self, dtype: dtype) -> "Meta":
        """The same geometry with another element type."""
        return meta(dtype, self.shape, self.strides, self.device)


def meta(dtype: dtype, shape: Sequence[int], strides: Sequence[int] | None,
         device: device) -> Meta:
    """The interned Meta; `strides=None` means contiguous."""
    shape = tuple(shape)
    strides = contiguous_strides(shape) if strides is None else tuple(strides)
    key = (dtype, shape, strides, device)
    found = _TABLE.get(key)
    if found is None:
        if isinstance(dtype, type):  # `dtype=bool` means what it means in Python
            return meta(of_type(dtype), shape, strides, device)
        if dtype.name in NAMED:
            raise TypeError(f"there are no tensors of {dtype!r} yet, only its name and its limits; "
                            "convert to float16, bfloat16 or an integer type")
        # Identity only serves as a cache key, so forgetting old entries is always safe.
        if len(_TABLE) >= _LIMIT:
            _TABLE.clear()
        found = _TABLE[key] = Meta(dtype, shape, strides, device)
    return found


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements. Sizes of 0 count as 1, as in PyTorch.

    >>> contiguous_strides((2, 3, 4))
    (12, 4, 1)
    """
    out, step = [], 1
    for n in reversed(shape):
        out.append(step)
        step *= max(n, 1)
    return tuple(reversed(out))


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Row-major without gaps; strides of size-1 dims do not count; empty is contiguous."""
    if 0 in shape:
        return True
    step = 1
    for n, s in zip(reversed(shape), reversed(strides)):
        if n != 1:
            if s != step:
                return False
            step *= n
    return True


def may_overlap(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether two indices name one element; beyond 4096 elements also where they only seem to, in
    strides that no view but as_strided makes."""
    if not interleaved(shape, strides) or 0 in shape:
        return False
    if any(s == 0 and n > 1 for n, s in zip(shape, strides)) or math.prod(shape) > 4096:
        return True
    spots = places(shape, strides)
    return len(set(spots)) < len(spots)


def places(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Where every element lies, counted from the first."""
    spots = [0]
    for n, s in zip(shape, strides):
        spots = [at + k * s for at in spots for k in range(n)]
    return spots


def interleaved(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether, sorted by stride, a dim does not step over everything that the smaller ones
    reach."""
    reach = 1
    for s, n in sorted((abs(s), n) for n, s in zip(shape, strides) if n > 1):
        if s < reach:
            return True
        reach = s * (n - 1) + reach
    return False


def dense_strides_like(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense tensor that keeps the dim order of `strides` (preserve_format).

    An overlapping or gapped input keeps only its order; ties keep the row-major order.
    """
    if interleaved(shape, strides):
        return contiguous_strides(shape)
    order = _order_dims(shape, strides)
    out, step = [0] * len(shape), 1
    for d in reversed(order):
        out[d] = step
        step *= max(shape[d], 1)
    return tuple(out)


def _order_dims(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Dims from outermost to innermost by stride; insertion sort that skips size-1 dims."""
    order: list[int] = []
    for d in range(len(shape)):
        at = len(order)
        if shape[d] != 1:
            for k in range(len(order) - 1, -1, -1):
                e = order[k]
                if shape[e] == 1:
                    continue
                if strides[e] < strides[d]:
                    at = k
                else:
                    break
        order.insert(at, d)
    return order


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all broadcast to. RuntimeError in PyTorch's words if there is none."""
    ndim = max(map(len, shapes), default=0)
    out = [1] * ndim
    for shape in shapes:
        at = ndim - len(shape)
        for d, n in enumerate(shape, at):
            if n != 1 and n != out[d]:
                if out[d] != 1:
                    raise RuntimeError(
                        f"The size of tensor a ({out[d]}) must match the size of tensor b ({n}) "
                        f"at non-singleton dimension {d}")
                out[d] = n
    return tuple(out)


def expand_strides(shape: Sequence[int], strides: Sequence[int],
                   target: Sequence[int]) -> tuple[int, ...]:
    """Strides of `shape` seen as `target`: 0 on broadcast dims. Assumes it broadcasts."""
    pad = len(target) - len(shape)
    return (0,) * pad + tuple(
        0 if n == 1 and t != 1 else s for n, s, t in zip(shape, strides, target[pad:]))


def wrap_dim(dim: int, ndim: int, *, op: str = "") -> int:
    """`dim` in [0, ndim), from [-ndim, ndim). IndexError in PyTorch's words otherwise."""
    n = ndim or 1
    if not -n <= dim < n:
        where = f"{op}: " if op else ""
        raise IndexError(f"{where}Dimension out of range (expected to be in range of "
                         f"[{-n}, {n - 1}], but got {dim})")
    return dim + n if dim < 0 else dim


def wrap_dims(dim: int | Iterable[int] | None, ndim: int, *, op: str = "") -> tuple[int, ...]:
    """Normalise a dim argument: None or () is all dims. RuntimeError on a repeated dim."""
    if dim is None:
        return tuple(range(ndim))
    if isinstance(dim, int):
        dim = (dim,)
    dims = tuple(wrap_dim(d, ndim, op=op) for d in dim)
    if not dims:
        return tuple(range(ndim))
    if len(set(dims)) != len(dims):
        twice = next(d for d in dims if dims.count(d) > 1)
        raise RuntimeError(f"{op + ': ' if op else ''}dim {twice} appears multiple times "
                           "in the list of dims")
    return tuple(d for d in dims if d < ndim)


def view_strides(shape: Sequence[int], strides: Sequence[int],
                 target: Sequence[int]) -> tuple[int, ...] | None:
    """Strides that show a tensor as `target` without a copy, or None if there are none.

    Splits the source into runs of dims that are contiguous with each other; every run must be
    covered by whole target dims.
    """
    if 0 in target:
        return contiguous_strides(target)
    out: list[int] = []
    runs = _contiguous_runs(shape, strides)
    t = len(target) - 1
    for size, step in reversed(runs):
        left = size
        while t >= 0 and (left > 1 or target[t] == 1):
            if left % target[t]:
                return None
            out.append(step)
            step *= target[t]
            left //= target[t]
            t -= 1
        if left != 1:
            return None
    while t >= 0:
        if target[t] != 1:
            return None
        out.append(out[-1] * target[t + 1] if out else 1)
        t -= 1
    return tuple(reversed(out))


def _contiguous_runs(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """(size, innermost stride) of maximal runs of dims that collapse into one."""
    runs: list[tuple[int, int]] = []
    for n, s in zip(shape, strides):
        if n == 1:
            continue
        if runs and runs[-1][1] == n * s:
            runs[-1] = (runs[-1][0] * n, s)
        else:
            runs.append((n, s))
    return runs


def infer_size(target: Sequence[int], numel: int) -> tuple[int, ...]:
    """Resolve one -1 in a view's shape. RuntimeError in PyTorch's words if impossible."""
    target = tuple(target)
    unknown = [d for d, n in enumerate(target) if n == -1]
    if any(n < -1 for n in target):
        raise RuntimeError(f"invalid shape dimension {min(target)}")
    if len(unknown) > 1:
        raise RuntimeError("only one dimension can be inferred")
    if not unknown:
        if math.prod(target) != numel:
            raise RuntimeError(f"shape '{list(target)}' is invalid for input of size {numel}")
        return target
    known = math.prod(n for n in target if n != -1)
    if known == 0:
        raise RuntimeError(
            f"cannot reshape tensor of 0 elements into shape {list(target)} because the "
            "unspecified dimension size -1 can be any value and is ambiguous")
    if numel % known:
        raise RuntimeError(f"shape '{list(target)}' is invalid for input of size {numel}")
    return tuple(numel // known if n == -1 else n for n in target)
