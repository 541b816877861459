"""`lampion.nested`: batches of tensors that differ in one size, without padding.

>>> nt = lampion.nested.nested_tensor([lampion.ones(2, 3), lampion.zeros(1, 3)])
>>> nt.values().shape, nt.offsets().tolist()
(lampion.Size([3, 3]), [0, 2, 3])
>>> lampion.nested.to_padded_tensor(nt.sum(-1), 0.0).tolist()
[[3.0, 3.0], [0.0, 0.0]]
"""

from __future__ import annotations

from typing import Any

import lampion

from ..base import layout as L
from ..tensor import Tensor
from . import ops as _ops
from .tensor import NestedTensor, made

__all__ = ["NestedTensor", "as_nested_tensor", "masked_select", "narrow", "nested_tensor",
           "nested_tensor_from_jagged", "to_padded_tensor"]


def _layout(name: str, layout: Any) -> Any:
    if layout not in (None, L.strided, L.jagged):
        raise RuntimeError(f"{name}: the layout of nested tensors is strided or jagged, not "
                           f"{layout}")
    return layout or L.strided


def _joined(name: str, parts: list[Tensor], layout: Any) -> NestedTensor:
    """A nested tensor of tensors, with their history. RuntimeError for more than one ragged dim."""
    if not parts:
        raise RuntimeError(f"{name}: Cannot construct a nested tensor from an empty tensor list")
    if not parts[0].dim():
        raise RuntimeError(f"{name}: tensors without dims are not nested; stack them")
    first = parts[0].shape
    ragged = [d for d in range(len(first)) if any(
        p.dim() != len(first) or p.shape[d] != first[d] for p in parts)] or [0]
    if len(ragged) > 1 or any(p.dim() != len(first) for p in parts):
        raise RuntimeError(
            f"{name}: Cannot represent given tensor list as a nested tensor: one dim may be "
            f"ragged, and these shapes differ in more: {[tuple(p.shape) for p in parts]}")
    at = ragged[0]
    sizes = lampion.tensor([0, *[p.shape[at] for p in parts]], device=parts[0].device)
    lengths = [p.shape[at] for p in parts]
    return made(lampion.cat(parts, at), sizes.cumsum(0), None, at + 1, layout,
                min(lengths), max(lengths))


def nested_tensor(tensor_list: Any, *, dtype: Any = None, layout: Any = None, device: Any = None,
                  requires_grad: bool = False, pin_memory: bool = False) -> NestedTensor:
    """A nested tensor with copies of the tensors (or lists of numbers), which may differ in the
    size of one dim. RuntimeError for an empty list, or tensors that differ in more.

    >>> lampion.nested.nested_tensor([[1, 2], [3]], layout=lampion.jagged).unbind()
    (tensor([1, 2]), tensor([3]))
    """
    layout = _layout("nested_tensor", layout)
    parts = [t.detach().to(device=device, dtype=dtype) if isinstance(t, Tensor)
             else lampion.tensor(t, dtype=dtype, device=device) for t in tensor_list]
    found = _joined("nested_tensor", parts, layout)
    return found.requires_grad_() if requires_grad else found


def as_nested_tensor(ts: Any, dtype: Any = None, device: Any = None,
                     layout: Any = None) -> NestedTensor:
    """A nested tensor of a list of tensors, whose history it keeps; of a tensor, the nested one of
    its rows, all of one size."""
    layout = _layout("as_nested_tensor", layout)
    if isinstance(ts, NestedTensor):
        return ts.to(device=device, dtype=dtype)
    if not isinstance(ts, (Tensor, list, tuple)) or not all(isinstance(t, Tensor) for t in ts):
        raise TypeError("as_nested_tensor(): Expected first argument to be a tensor or a list / "
                        "tuple of tensors")
    parts = list(ts.unbind()) if isinstance(ts, Tensor) else list(ts)
    return _joined("as_nested_tensor", [t.to(device=device, dtype=dtype) for t in parts], layout)


def nested_tensor_from_jagged(values: Tensor, offsets: Tensor | None = None,
                              lengths: Tensor | None = None, jagged_dim: int | None = None,
                              min_seqlen: int | None = None,
                              max_seqlen: int | None = None) -> NestedTensor:
    """A nested tensor over `values`, without a copy: example k begins at `offsets[k]` of the dim
    `jagged_dim` (of the nested tensor; 1) and ends at `offsets[k + 1]`, or has `lengths[k]`
    elements if both are given. RuntimeError if neither is.

    >>> values, offsets = lampion.arange(4.0), lampion.tensor([0, 3, 4])
    >>> lampion.nested.nested_tensor_from_jagged(values, offsets).mean(1)
    tensor([1., 3.])
    """
    if offsets is None and lengths is None:
        raise RuntimeError("nested_tensor_from_jagged(): At least one of offsets or lengths is "
                           "required.")
    if offsets is None and lengths is not None:
        offsets, lengths = lampion.cat([lengths.new_zeros(1), lengths.cumsum(0)]), None
    assert offsets is not None
    return made(values, offsets, lengths, 1 if jagged_dim is None else jagged_dim, L.jagged,
                min_seqlen, max_seqlen)


def narrow(tensor: Tensor, dim: int, start: Any, length: Any, layout: Any = None) -> NestedTensor:
    """A part of every row of a tensor (B, n, ...): `length[k]` elements from `start[k]` on. `dim`
    is 1; the values are the tensor's, without a copy."""
    _layout("narrow", layout)
    if dim != 1:
        raise RuntimeError("jagged layout only supports dim=1")
    batch, width = tensor.shape[:2]
    begin = _vector(start, batch, tensor.device)
    count = _vector(length, batch, tensor.device)
    offsets = lampion.arange(batch, device=tensor.device) * width + begin
    offsets = lampion.cat([offsets, (offsets[-1] + count[-1]).reshape(1)])
    return made(tensor.flatten(0, 1), offsets, count, 1, L.jagged)


def _vector(number: Any, batch: int, device: Any) -> Tensor:
    found = lampion.as_tensor(number, dtype=lampion.int64, device=device)
    return found.expand(batch)


def masked_select(tensor: Tensor, mask: Tensor) -> NestedTensor:
    """The elements of each row of a matrix where a mask is True."""
    if tensor.layout is not L.strided or mask.dim() != 2:
        raise RuntimeError(f"masked_select: a matrix and its mask, not {mask.dim()} dims")
    counts = mask.expand(tensor.shape).sum(1)
    offsets = lampion.cat([counts.new_zeros(1), counts.cumsum(0)])
    return made(tensor.masked_select(mask), offsets, None, 1, L.jagged)


def to_padded_tensor(input: Tensor, padding: float, output_size: Any = None,
                     out: Any = None) -> Tensor:
    """The tensor (B, longest, ...) of the examples, filled up with `padding`; with `output_size`
    as large as that."""
    if out is not None:
        raise RuntimeError("to_padded_tensor has no out= here")
    return _ops.to_padded_tensor(input, padding, output_size)
