"""Gradients of slices, put together once instead of being added up.

Floor 3; imports registry and views. The gradient of `x[a:b]` is zero outside the slice. When x was
split, each part's would be a whole tensor of zeros with one part filled in, and these would be
added; instead the parts are kept as they are (`Pieces`) until the node that made x runs, and joined
then: one `cat` where they tile the dim.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from ..base.meta import Meta
from . import registry as R

_start = itemgetter(0)


class Pieces:
    """Gradients of slices along one dim of a tensor of meta `m`: (start, gradient) pairs. Adding
    to one gives the parts together, or a tensor where they are no longer along one dim."""

    __slots__ = ("m", "dim", "parts")

    def __init__(self, m: Meta, dim: int, parts: list[tuple[int, Any]]) -> None:
        self.m, self.dim, self.parts = m, dim, parts

    def __add__(self, other: Any) -> Any:
        if type(other) is Pieces:
            if other.dim == self.dim:
                return Pieces(self.m, self.dim, self.parts + other.parts)
            other = other.tensor()
        return self.tensor() + other

    def __radd__(self, other: Any) -> Any:
        return other + self.tensor()

    def tensor(self) -> Any:
        """The whole gradient."""
        dim, size = self.dim, self.m.shape[self.dim]
        parts = sorted(self.parts, key=_start)
        if len(parts) == 1:
            return self._alone(*parts[0])
        row: list[Any] = []
        at = 0
        for start, g in parts:
            if start < at:  # they overlap
                total = self._alone(*parts[0])
                for part in parts[1:]:
                    total = total + self._alone(*part)
                return total
            if start > at:
                row.append(self._zeros(start - at, g))
            row.append(g)
            at = start + g.meta.shape[dim]
        if at < size:
            row.append(self._zeros(size - at, parts[0][1]))
        return R.REGISTRY["cat"].fn(row, dim)

    def _alone(self, start: int, g: Any) -> Any:
        """A part inside zeros."""
        from .region import place_like
        from .views import slice_dim

        return place_like(g, self.m, slice_dim.view, self.dim, start,
                          start + g.meta.shape[self.dim], 1)

    def _zeros(self, length: int, like: Any) -> Any:
        shape = self.m.shape
        return R.REGISTRY["full"].fn((*shape[:self.dim], length, *shape[self.dim + 1:]), 0,
                                     dtype=like.meta.dtype, device=like.meta.device)


def settled(g: Any) -> Any:
    """A gradient as a tensor."""
    return g.tensor() if type(g) is Pieces else g


def piece(ctx: Any, g: Any, dim: int, start: int) -> Any:
    """The gradient of a slice from `start` on, as pieces where only the engine sees it."""
    m = ctx.meta("input")
    if g.meta.shape == m.shape:
        return g
    whole = Pieces(m, dim, [(start, g)])
    if g.meta.virtual or g.meta.override is not None or 0 in m.shape:
        return whole.tensor()
    return whole


__all__ = ["Pieces", "piece", "settled"]
