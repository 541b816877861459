"""Memory formats and layouts: the names PyTorch gives to orders of dims in memory.

Floor 0.
"""

from __future__ import annotations

from typing import Any

from . import dtype as dt
from .meta import Meta, contiguous_strides, dense_strides_like


class memory_format:
    """An order of dims in memory. `ndim` is the rank it is for (0: any)."""

    __slots__ = ("name", "ndim")

    def __init__(self, name: str, ndim: int) -> None:
        self.name, self.ndim = name, ndim

    def __repr__(self) -> str:
        long = {"contiguous": "contiguous_format", "preserve": "preserve_format"}
        return f"{dt._PREFIX}.{long.get(self.name, self.name)}"

    def __reduce__(self) -> Any:
        return (_format, (self.name,))


class layout:
    """How elements are stored: `strided` in memory at regular distances, the others as places and
    values (`lampion.sparse`)."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{dt._PREFIX}.{self.name}"

    def __reduce__(self) -> Any:
        return (_get_layout, (f"torch.{self.name}",))  # as files name it


contiguous_format = memory_format("contiguous", 0)
preserve_format = memory_format("preserve", 0)
legacy_contiguous_format = contiguous_format
channels_last = memory_format("channels_last", 4)
channels_last_3d = memory_format("channels_last_3d", 5)
LAYOUTS = {n: layout(n) for n in ("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr",
                                  "sparse_bsc", "jagged")}
strided, sparse_coo, sparse_csr, sparse_csc, sparse_bsr, sparse_bsc, jagged = LAYOUTS.values()
_ALL = {f.name: f for f in (contiguous_format, preserve_format, channels_last, channels_last_3d)}


def _format(name: str) -> memory_format:
    return _ALL[name]


def _get_layout(name: str) -> layout:
    return LAYOUTS[name.rpartition(".")[2]]


def format_strides(shape: tuple[int, ...], fmt: memory_format) -> tuple[int, ...]:
    """Strides of a dense tensor in a format. RuntimeError if the rank does not fit."""
    if not fmt.ndim:
        return contiguous_strides(shape)
    if len(shape) != fmt.ndim:
        raise RuntimeError(f"required rank {fmt.ndim} tensor to use {fmt.name} format")
    order = (0, *range(2, len(shape)), 1)
    strides, step = [0] * len(shape), 1
    for d in reversed(order):
        strides[d] = step
        step *= max(shape[d], 1)
    return tuple(strides)


def like_strides(m: Meta, fmt: memory_format | None) -> tuple[int, ...]:
    """Strides of a fresh tensor like `m`: its own if they are dense, else its order of dims."""
    if fmt is None or fmt is preserve_format:
        if not m.overlapping and m.span == m.nbytes:
            return m.strides
        return dense_strides_like(m.shape, m.strides)
    return format_strides(m.shape, fmt)


def matches_format(m: Meta, fmt: memory_format) -> bool:
    """Whether a tensor's strides are those of a format (dims of size 1 do not count)."""
    if fmt is contiguous_format:
        return m.contiguous
    if fmt is preserve_format or m.ndim != fmt.ndim:
        return False
    want = format_strides(m.shape, fmt)
    return all(n == 1 or a == b for n, a, b in zip(m.shape, m.strides, want))
