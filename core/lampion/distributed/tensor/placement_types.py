"""How a tensor lies on a dim of a mesh: a part of it, all of it, or a summand of it.

Floor 7; imports the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Partial", "Placement", "Replicate", "Shard"]


class Placement:
    """How a tensor lies on a dim of a mesh."""

    def is_shard(self, dim: int | None = None) -> bool:
        """Whether each process has a part of the tensor (along `dim`)."""
        return isinstance(self, Shard) and dim in (None, self.dim)

    def is_replicate(self) -> bool:
        """Whether each process has all of it."""
        return isinstance(self, Replicate)

    def is_partial(self, reduce_op: str | None = None) -> bool:
        """Whether the tensor is what the processes have together."""
        return isinstance(self, Partial) and reduce_op in (None, self.reduce_op)


@dataclass(frozen=True)
class Shard(Placement):
    """Each process has a part along `dim`: the first ones have one row more, where they are not
    the same."""

    dim: int

    def __str__(self) -> str:
        return f"S({self.dim})"

    @staticmethod
    def local_shard_size_and_offset(curr_local_size: int, num_chunks: int,
                                    rank: int) -> tuple[int, int]:
        """(how many rows, from which on) a place has."""
        width = -(-curr_local_size // num_chunks)
        first = min(rank * width, curr_local_size)
        return min(width, curr_local_size - first), first


@dataclass(frozen=True)
class Replicate(Placement):
    """Each process has all of it."""

    def __str__(self) -> str:
        return "R"


@dataclass(frozen=True)
class Partial(Placement):
    """The tensor is the sum (or `reduce_op`: "avg", "max", "min", "product") of what the processes
    have."""

    reduce_op: str = "sum"

    def __str__(self) -> str:
        return f"P({self.reduce_op})"
