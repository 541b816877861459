"""Causal masks as biases of `scaled_dot_product_attention`, aligned at either end.

Floor 7; imports the tensor and nn.functional.
"""

from __future__ import annotations

import warnings
from enum import IntEnum
from typing import Any

import lampion

from ...tensor import Tensor

__all__ = ["CausalBias", "CausalVariant", "causal_lower_right", "causal_upper_left"]


class CausalVariant(IntEnum):
    """Which corner of the matrix of scores the diagonal begins in.

    UPPER_LEFT: query i sees keys 0 to i. LOWER_RIGHT: the last query sees all keys.
    """

    UPPER_LEFT = 1
    LOWER_RIGHT = 2


class CausalBias(Tensor):
    """A causal mask of which one element is held: attention knows it, everything else sees the bool
    mask (queries, keys)."""

    variant: CausalVariant

    def __new__(cls, variant: CausalVariant, seq_len_q: int, seq_len_kv: int) -> CausalBias:
        one = lampion.ones(1, 1, dtype=lampion.bool)
        return one.expand(seq_len_q, seq_len_kv).as_subclass(cls)

    def __init__(self, variant: CausalVariant, seq_len_q: int, seq_len_kv: int) -> None:
        if not isinstance(variant, CausalVariant):
            raise AssertionError(f"CausalBias: {variant!r} is no CausalVariant")
        self.variant, self.seq_len_q, self.seq_len_kv = variant, seq_len_q, seq_len_kv
        if variant is CausalVariant.LOWER_RIGHT and seq_len_q > seq_len_kv:
            warnings.warn("a lower right causal bias of more queries than keys: the first queries "
                          "see no key, their results are 0", stacklevel=3)

    def _materialize(self, device: Any = None) -> Tensor:
        """The bool mask (queries, keys)."""
        shift = 0 if self.variant is CausalVariant.UPPER_LEFT else self.seq_len_kv - self.seq_len_q
        full = lampion.ones(self.seq_len_q, self.seq_len_kv, dtype=lampion.bool, device=device)
        return full.tril(shift)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = list(args)
        where = _ATTENTION.get(getattr(func, "__name__", ""))
        if where is not None and isinstance(args[where], cls):
            bias = args[where]
            if bias.seq_len_q == bias.seq_len_kv or bias.variant is CausalVariant.UPPER_LEFT:
                args[where], args[where + 2] = None, True  # what kernels know as `causal`
            else:
                args[where] = bias._materialize(args[0].device)
            return func(*args, **(kwargs or {}))
        from ...utils import _pytree as pytree

        plain = pytree.tree_map(lambda t: t._materialize() if isinstance(t, cls) else t,
                                (tuple(args), kwargs or {}))
        return func(*plain[0], **plain[1])

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return repr(self._materialize())


# The ops that attention is made of, and where they take mask, scale and causal.
_ATTENTION = {"attention_softmax": 1, "fused_attention": 3}


def causal_upper_left(*size: int) -> CausalBias:
    """The bias by which query i sees keys 0 to i.

    >>> nn.attention.bias.causal_upper_left(2, 3)
    tensor([[ True, False, False],
            [ True,  True, False]])
    """
    if len(size) != 2:
        raise AssertionError("causal_upper_left only supports 2D tensors")
    return CausalBias(CausalVariant.UPPER_LEFT, *size)


def causal_lower_right(*size: int) -> CausalBias:
    """The bias by which the last query sees all keys, and each one before it one key less.

    >>> nn.attention.bias.causal_lower_right(2, 3)
    tensor([[ True,  True, False],
            [ True,  True,  True]])
    """
    if len(size) != 2:
        raise AssertionError("causal_lower_right only supports 2D tensors")
    return CausalBias(CausalVariant.LOWER_RIGHT, *size)
