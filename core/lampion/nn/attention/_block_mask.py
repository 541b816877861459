"""Masks of attention as blocks: which blocks are needed at all, and which need no mask.

A mask is a function of the indices of batch, head, query and key. Evaluated once, it is summarised
by rectangles of BLOCK_SIZE: those with nothing allowed are left out, those where all is allowed are
"full", and only the rest ask the function again. Floor 7; imports the tensor and vmap.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import lampion

from ...func import vmap
from ...tensor import Tensor

Mod = Callable[..., Tensor]
_DEFAULT_SPARSE_BLOCK_SIZE = 128
_LISTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks",
          "q_indices", "full_q_num_blocks", "full_q_indices")


def noop_mask(batch: Tensor, head: Tensor, token_q: Tensor, token_kv: Tensor) -> Tensor:
    """The mask that allows everything."""
    return batch.new_ones((), dtype=lampion.bool)


def _sliced(batch: Tensor, head: Tensor, token_q: Tensor, token_kv: Tensor) -> Tensor:
    raise RuntimeError("the mask function of an indexed BlockMask is not known: indices of queries "
                       "count from another place. Set `block_mask.mask_mod` to one that adds the "
                       "offset")


def over_scores(mod: Mod, scored: bool) -> Mod:
    """`mod` over vectors of indices (batch, head, query, key), the scores first if `scored`."""
    first = (0,) if scored else ()
    for which in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None),
                  (0, None, None, None)):
        mod = vmap(mod, in_dims=(*first, *which))
    return mod


def indices(*sizes: int, device: Any) -> tuple[Tensor, ...]:
    """Vectors that count up to each size."""
    return tuple(lampion.arange(n, device=device) for n in sizes)


def _joined(mask_mods: tuple[Mod, ...], start: bool, name: str) -> Mod:
    if not all(map(callable, mask_mods)):
        raise RuntimeError(f"All inputs should be callable mask_mods: {mask_mods}")

    def joined(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        found = b.new_full((), start, dtype=lampion.bool)
        for mod in mask_mods:
            more = mod(b, h, q_idx, kv_idx)
            found = found & more if start else found | more
        return found

    joined.__name__ = joined.__qualname__ = name
    return joined


def and_masks(*mask_mods: Mod) -> Mod:
    """The mask of what all of the masks allow."""
    return _joined(mask_mods, True, "and_mask")


def or_masks(*mask_mods: Mod) -> Mod:
    """The mask of what any of the masks allows."""
    return _joined(mask_mods, False, "or_mask")


def _takes_scores(mod: Mod) -> bool:
    """Whether a function changes scores; else it is a mask. AssertionError if it is neither."""
    count = sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
                for p in inspect.signature(mod).parameters.values())
    if count not in (4, 5):
        raise AssertionError(f"Expected 4 or 5 positional args, got {count}: a mask is a function "
                             "of (b, h, q_idx, kv_idx), a score_mod of (score, b, h, q_idx, "
                             "kv_idx)")
    return count == 5


def create_mask(mod_fn: Mod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int,
                device: Any = None) -> Tensor:
    """The mask (B, H, Q_LEN, KV_LEN), bool, of a mask function, or of a function of scores, that
    forbids where it gives minus infinity. None for B or H stands for 1.

    >>> nn.attention.flex_attention.create_mask(lambda b, h, q, k: q >= k, 1, 1, 2, 2)
    tensor([[[[ True, False],
              [ True,  True]]]])
    """
    shape = (B or 1, H or 1, Q_LEN, KV_LEN)
    places = indices(*shape, device=device)
    if _takes_scores(mod_fn):
        scores = lampion.zeros(shape, device=device)
        return over_scores(mod_fn, True)(scores, *places).isneginf().logical_not()
    return over_scores(mod_fn, False)(*places).expand(shape).to(lampion.bool)


def _listed(dense: Tensor) -> tuple[Tensor, Tensor]:
    """(how many, which) columns of each row of a 0-1 matrix are 1; the others follow."""
    order = dense.to(lampion.int32).argsort(dim=-1, descending=True, stable=True)
    return dense.sum(-1, dtype=lampion.int32), order.to(lampion.int32)


def _dense(count: Tensor, which: Tensor, columns: int) -> Tensor:
    """The 0-1 matrix of such lists."""
    wanted = lampion.arange(which.shape[-1], device=which.device) < count.unsqueeze(-1)
    at = which.long().where(wanted, columns)  # what is not listed goes to a column of its own
    made = lampion.zeros((*which.shape[:-1], columns + 1), dtype=lampion.int32,
                         device=which.device)
    return made.scatter(-1, at, 1)[..., :columns]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def create_block_mask(mask_mod: Mod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int,
                      device: Any = None, BLOCK_SIZE: int | tuple[int, int] = 128,
                      _compile: bool = False, separate_full_blocks: bool = True,
                      compute_dq_write_order: bool = False,
                      dq_kv_order: bool = True) -> BlockMask:
    """The `BlockMask` of a mask function for sequences of these lengths. None for B or H: the mask
    is the same for every batch or head. `compute_dq_write_order` and `dq_kv_order` say how other
    devices order sums of gradients; here they are always in order.

    >>> from lampion.nn.attention.flex_attention import create_block_mask
    >>> create_block_mask(lambda b, h, q, k: q >= k, None, None, 256, 256).sparsity()
    25.0
    """
    rows, columns = _pair(BLOCK_SIZE)
    mask = create_mask(mask_mod, B, H, Q_LEN, KV_LEN, device)
    padded = lampion.nn.functional.pad(mask, (0, -KV_LEN % columns, 0, -Q_LEN % rows))
    blocks = padded.unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows))
    allowed = blocks.sum((-1, -3), dtype=lampion.int32)
    full = allowed == rows * columns if separate_full_blocks else None
    partial = allowed > 0 if full is None else (allowed > 0) & ~full
    return BlockMask.from_kv_blocks(
        *_listed(partial), *((None, None) if full is None else _listed(full)),
        BLOCK_SIZE=(rows, columns), mask_mod=mask_mod, seq_lengths=(Q_LEN, KV_LEN))


class BlockMask:
    """Which blocks of the scores are computed, in lists: for each row of blocks the number of
    columns (`kv_num_blocks`, (B, H, rows)) and the columns (`kv_indices`, (B, H, rows, columns)),
    for those where `mask_mod` decides, and the same (`full_kv_...`) for those where all is
    allowed. `q_...` are the same lists by columns. Blocks that are not listed are not allowed.

    `create_block_mask` makes one from a function, `from_kv_blocks` from lists.
    """

    _TENSOR_ATTRS = [*_LISTS]
    _CONTEXT_ATTRS = ["seq_lengths", "BLOCK_SIZE", "mask_mod"]

    kv_num_blocks: Tensor
    kv_indices: Tensor
    full_kv_num_blocks: Tensor | None
    full_kv_indices: Tensor | None
    q_num_blocks: Tensor | None
    q_indices: Tensor | None
    full_q_num_blocks: Tensor | None
    full_q_indices: Tensor | None

    def __init__(self, seq_lengths: tuple[int, int], kv_num_blocks: Tensor, kv_indices: Tensor,
                 full_kv_num_blocks: Tensor | None, full_kv_indices: Tensor | None,
                 q_num_blocks: Tensor | None, q_indices: Tensor | None,
                 full_q_num_blocks: Tensor | None, full_q_indices: Tensor | None,
                 BLOCK_SIZE: tuple[int, int] = (128, 128), mask_mod: Mod = noop_mask, *,
                 dq_write_order: Tensor | None = None, dq_write_order_full: Tensor | None = None,
                 dq_kv_order: Tensor | None = None, dq_kv_order_spt: bool | None = None) -> None:
        if kv_indices.dim() < 2:
            raise RuntimeError("BlockMask must have at least 2 dimensions")
        for a, b, names in ((full_kv_num_blocks, full_kv_indices, "full_kv"),
                            (q_num_blocks, q_indices, "q"),
                            (full_q_num_blocks, full_q_indices, "full_q")):
            if (a is None) != (b is None):
                raise AssertionError(f"{names}_num_blocks and {names}_indices must be both "
                                     "provided or omitted")
        self.seq_lengths, self.BLOCK_SIZE, self.mask_mod = seq_lengths, BLOCK_SIZE, mask_mod
        given = (kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices, q_num_blocks,
                 q_indices, full_q_num_blocks, full_q_indices)
        for name, value in zip(_LISTS, given):
            setattr(self, name, value)

    @classmethod
    def from_kv_blocks(cls, kv_num_blocks: Tensor, kv_indices: Tensor,
                       full_kv_num_blocks: Tensor | None = None,
                       full_kv_indices: Tensor | None = None,
                       BLOCK_SIZE: int | tuple[int, int] = 128, mask_mod: Mod | None = None,
                       seq_lengths: tuple[int, int] | None = None, compute_q_blocks: bool = True,
                       *, dq_write_order: Tensor | None = None,
                       dq_write_order_full: Tensor | None = None,
                       dq_kv_order: Any = None) -> BlockMask:
        """A mask from the lists of each row of blocks; those of the columns are made."""
        if kv_indices.dim() < 2:
            raise RuntimeError("BlockMask must have at least 2 dimensions")
        if (full_kv_num_blocks is None) != (full_kv_indices is None):
            raise AssertionError("full_kv_num_blocks and full_kv_indices must be both provided or "
                                 "omitted")
        size = _pair(BLOCK_SIZE)
        columns = kv_indices.shape[-1]
        turned: list[Tensor | None] = [None] * 4
        if compute_q_blocks:
            turned[:2] = _listed(_dense(kv_num_blocks, kv_indices, columns).transpose(-1, -2))
            if full_kv_num_blocks is not None and full_kv_indices is not None:
                turned[2:] = _listed(_dense(full_kv_num_blocks, full_kv_indices,
                                            columns).transpose(-1, -2))
        lengths = seq_lengths or (kv_indices.shape[-2] * size[0], columns * size[1])
        return cls(lengths, kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices,
                   *turned, BLOCK_SIZE=size, mask_mod=mask_mod or noop_mask)

    def as_tuple(self, flatten: bool = True) -> tuple[Any, ...]:
        """Lengths, lists, block size and function, in the order of the constructor."""
        lists = tuple(getattr(self, name) for name in _LISTS)
        if flatten:
            return (*self.seq_lengths, *lists, *self.BLOCK_SIZE, self.mask_mod)
        return (self.seq_lengths, *lists, self.BLOCK_SIZE, self.mask_mod)

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, H, length of queries, length of keys)."""
        return (*self.kv_indices.shape[:-2], *self.seq_lengths)

    def numel(self) -> int:
        """How many scores there are."""
        n = 1
        for size in self.shape:
            n *= size
        return n

    def sparsity(self) -> float:
        """Percent of the scores that are in no listed block."""
        rows, columns = self.BLOCK_SIZE
        blocks = int(self.kv_num_blocks.sum())
        if self.full_kv_num_blocks is not None:
            blocks += int(self.full_kv_num_blocks.sum())
        return 100 * (1 - blocks * rows * columns / self.numel())

    def _blocks(self) -> tuple[Tensor, Tensor | None]:
        """0-1 matrices of the partial and of the full blocks."""
        columns = self.kv_indices.shape[-1]
        full = None if self.full_kv_num_blocks is None or self.full_kv_indices is None else (
            _dense(self.full_kv_num_blocks, self.full_kv_indices, columns))
        return _dense(self.kv_num_blocks, self.kv_indices, columns), full

    def to_dense(self) -> Tensor:
        """(B, H, rows, columns) of blocks, int32: 1 where a block is listed."""
        partial, full = self._blocks()
        return partial if full is None else partial + full

    def __getitem__(self, index: Any) -> BlockMask:
        """The mask of some batches, heads and rows of blocks; a number keeps its dim. What remains
        of the function is for the caller to say: set `mask_mod`."""
        items = index if isinstance(index, tuple) else (index,)
        kept = tuple(slice(k + n, k + n + 1) if isinstance(k, int) and k < 0
                     else slice(k, k + 1) if isinstance(k, int) else k
                     for k, n in zip(items, self.kv_num_blocks.shape))
        kept += items[len(kept):]

        def of(lists: Tensor | None) -> Tensor | None:
            return None if lists is None else lists[kept]

        return self.from_kv_blocks(
            self.kv_num_blocks[kept], self.kv_indices[kept], of(self.full_kv_num_blocks),
            of(self.full_kv_indices), self.BLOCK_SIZE, _sliced, self.seq_lengths,
            self.q_indices is not None)

    def _adjust(self, new_q_len: int, new_kv_len: int) -> BlockMask:
        """The mask of shorter sequences, from their beginning."""
        rows = -(-new_q_len // self.BLOCK_SIZE[0])
        columns = -(-new_kv_len // self.BLOCK_SIZE[1])
        partial, full = (None if part is None else part[..., :rows, :columns]
                         for part in self._blocks())
        assert partial is not None
        return self.from_kv_blocks(
            *_listed(partial), *((None, None) if full is None else _listed(full)), self.BLOCK_SIZE,
            self.mask_mod, (new_q_len, new_kv_len), self.q_indices is not None)

    def to(self, device: Any) -> BlockMask:
        """The mask with its lists on another device."""
        moved = [None if v is None else v.to(device)
                 for v in (getattr(self, name) for name in _LISTS)]
        return BlockMask(self.seq_lengths, *moved,  # type: ignore[arg-type]
                         BLOCK_SIZE=self.BLOCK_SIZE, mask_mod=self.mask_mod)

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """A picture of at most `grid_size` characters for each of the first `limit` matrices: a
        character is full where all blocks under it are listed, shaded where some are."""
        dense = self.to_dense()
        batch = dense.shape[:-2]
        matrices = dense.reshape(-1, *dense.shape[-2:]).tolist()
        down, across = (max(1, -(-n // g)) for n, g in zip(
            dense.shape[-2:], _pair(grid_size)))
        pictures = []
        for k, matrix in enumerate(matrices[:limit]):
            place, rest = [], k
            for n in reversed(batch):
                place.append(rest % n)
                rest //= n
            lines = []
            for r in range(0, len(matrix), down):
                cells = [[v for row in matrix[r:r + down] for v in row[c:c + across]]
                         for c in range(0, len(matrix[0]), across)]
                lines.append("".join(2 * ("█" if all(c) else "░" if any(c) else " ")
                                     for c in cells))
            pictures.append("\n".join([str(tuple(place[::-1])), *lines]))
        text = "\n\n".join(pictures)
        if len(matrices) > limit:
            text += ("\n\n...\nTo print out more, set BlockMask.to_string(limit=N)\nYou can also "
                     "index (BlockMask[batch, head]) to choose a specific batch or head")
        return text

    def __str__(self) -> str:
        return (f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%, \n"
                f"{self.to_string().strip()}\n)")

    def __repr__(self) -> str:
        lines = [f"    {name}={None if v is None else v.shape},"
                 for name, v in ((n, getattr(self, n)) for n in _LISTS)]
        name = getattr(self.mask_mod, "__name__", self.mask_mod)
        return "\n".join(["BlockMask(", *lines, f"    BLOCK_SIZE={self.BLOCK_SIZE},",
                          f"    shape={self.shape},", f"    sparsity={self.sparsity():.2f}%,",
                          f"    mask_mod={name}", ")"])

    def allowed(self, batch: int, heads: int) -> Tensor:
        """The mask that broadcasts to (batch, heads, queries, keys), bool: what is in a listed
        block and, unless that is a full one, allowed by the function."""
        rows, columns = self.BLOCK_SIZE
        length, width = self.seq_lengths
        partial, full = self._blocks()

        def spread(blocks: Tensor) -> Tensor:
            wide = blocks[:batch].to(lampion.bool).repeat_interleave(rows, -2).repeat_interleave(
                columns, -1)
            return wide[..., :length, :width]

        sizes = (batch if partial.shape[0] > 1 else 1, heads if partial.shape[1] > 1 else 1)
        found = spread(partial)
        if self.mask_mod is not noop_mask:
            places = indices(*sizes, length, width, device=partial.device)
            found = found & over_scores(self.mask_mod, False)(*places)
        return found if full is None else found | spread(full)
