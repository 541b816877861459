"""Embedding and EmbeddingBag: tables of vectors looked up by index.

May import: nn.functional, nn.init, nn.parameter, nn.modules.module.
"""
from __future__ import annotations

from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.nn import init
from lampion.nn.modules.module import Module
from lampion.nn.parameter import Parameter
from lampion.tensor import Tensor


class _Table(Module):
    """The weight (num_embeddings, embedding_dim) and its options."""

    def _make_table(self, weight: Tensor | None, freeze: bool, device: Any, dtype: Any) -> None:
        self.padding_idx = _checked_index(self.padding_idx, self.num_embeddings)
        shape = (self.num_embeddings, self.embedding_dim)
        if weight is None:
            self.weight = Parameter(lampion.empty(shape, device=device, dtype=dtype),
                                    requires_grad=not freeze)
            self.reset_parameters()
        elif tuple(weight.shape) != shape:
            raise AssertionError("Shape of weight does not match num_embeddings and embedding_dim")
        else:
            self.weight = Parameter(weight, requires_grad=not freeze)

    def reset_parameters(self) -> None:
        """Draw the table from the standard normal distribution; the padding row is zero."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with lampion.no_grad():
                self.weight[self.padding_idx].fill_(0)

    def _options(self) -> str:
        text = "{num_embeddings}, {embedding_dim}"
        if self.max_norm is not None:
            text += ", max_norm={max_norm}"
        if self.norm_type != 2:
            text += ", norm_type={norm_type}"
        if self.scale_grad_by_freq is not False:
            text += ", scale_grad_by_freq={scale_grad_by_freq}"
        return text


def _checked_index(padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise AssertionError("Padding_idx must be within num_embeddings")
    return padding_idx % rows if padding_idx < 0 else padding_idx


class Embedding(_Table):
    """Row lookup: indices (*) of int32 or int64 to vectors (*, embedding_dim).

    The row padding_idx starts as zeros and gets no gradient; max_norm shrinks looked-up rows in
    place.

    >>> nn.Embedding(10, 3)(lampion.tensor([[1, 2], [4, 3]])).shape
    lampion.Size([2, 2, 3])
    """

    __constants__ = ["num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type",
                     "scale_grad_by_freq", "sparse"]

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None,
                 max_norm: float | None = None, norm_type: float = 2.0,
                 scale_grad_by_freq: bool = False, sparse: bool = False,
                 _weight: Tensor | None = None, _freeze: bool = False, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self._make_table(_weight, _freeze, device, dtype)
        self.sparse = sparse

    def forward(self, input: Tensor) -> Tensor:
        try:  # see Linear.forward
            weight = self._parameters["weight"]
        except KeyError:
            weight = self.weight
        return F.embedding(input, weight, self.padding_idx, self.max_norm, self.norm_type,
                           self.scale_grad_by_freq, self.sparse)

    def extra_repr(self) -> str:
        text = self._options()
        if self.padding_idx is not None:
            text = text.replace("{embedding_dim}", "{embedding_dim}, padding_idx={padding_idx}")
        if self.sparse is not False:
            text += ", sparse=True"
        return text.format(**self.__dict__)

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True,
                        padding_idx: int | None = None, max_norm: float | None = None,
                        norm_type: float = 2.0,
                        scale_grad_by_freq: bool = False, sparse: bool = False) -> Embedding:
        """An Embedding whose table is the 2-d tensor `embeddings`, frozen unless told otherwise."""
        _check_table(embeddings)
        rows, columns = embeddings.shape
        return cls(rows, columns, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse,
                   _weight=embeddings, _freeze=freeze)


def _check_table(embeddings: Tensor) -> None:
    if embeddings.dim() != 2:
        raise AssertionError("Embeddings parameter is expected to be 2-dimensional")


class EmbeddingBag(_Table):
    """Sum, mean or max of looked-up rows per bag, without the rows in between.

    input (B, N) holds B bags of N; input (N) with offsets (B) starts a bag at each offset. Output
    (B, embedding_dim). per_sample_weights (as input) scale the rows, for mode 'sum' alone.

    >>> nn.EmbeddingBag(10, 3, mode="sum")(lampion.tensor([1, 2, 4]), lampion.tensor([0, 2])).shape
    lampion.Size([2, 3])
    """

    __constants__ = ["num_embeddings", "embedding_dim", "max_norm", "norm_type",
                     "scale_grad_by_freq", "mode", "sparse", "include_last_offset", "padding_idx"]

    def __init__(self, num_embeddings: int, embedding_dim: int, max_norm: float | None = None,
                 norm_type: float = 2.0, scale_grad_by_freq: bool = False, mode: str = "mean",
                 sparse: bool = False, _weight: Tensor | None = None,
                 include_last_offset: bool = False, padding_idx: int | None = None,
                 device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.padding_idx = padding_idx
        self._make_table(_weight, False, device, dtype)
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset

    def forward(self, input: Tensor, offsets: Tensor | None = None,
                per_sample_weights: Tensor | None = None) -> Tensor:
        return F.embedding_bag(input, self.weight, offsets, self.max_norm, self.norm_type,
                               self.scale_grad_by_freq, self.mode, self.sparse, per_sample_weights,
                               self.include_last_offset, self.padding_idx)

    def extra_repr(self) -> str:
        text = self._options() + ", mode={mode!r}"
        if self.padding_idx is not None:
            text += ", padding_idx={padding_idx}"
        return text.format(**{k: repr(v) for k, v in self.__dict__.items() if k != "mode"},
                           mode=self.mode)

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, max_norm: float | None = None,
                        norm_type: float = 2.0, scale_grad_by_freq: bool = False,
                        mode: str = "mean", sparse: bool = False, include_last_offset: bool = False,
                        padding_idx: int | None = None) -> EmbeddingBag:
        """An EmbeddingBag whose table is the 2-d tensor `embeddings`, frozen unless told
        otherwise.
        """
        _check_table(embeddings)
        rows, columns = embeddings.shape
        made = cls(rows, columns, max_norm, norm_type, scale_grad_by_freq, mode, sparse, embeddings,
                   include_last_offset, padding_idx)
        made.weight.requires_grad = not freeze
        return made
