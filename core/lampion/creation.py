"""Factory functions: tensors from data, shapes and ranges.

Floor 7; imports tensor and ops.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import dtype as dt
from .base.meta import Meta, meta
from .callpath import NS
from .ops import plans as P
from .ops import registry as R
from .runtime.devices import resolve
from .tensor import Tensor, empty_meta, make_tensor

__all__ = ["tensor", "empty", "full", "zeros", "ones"]


def tensor(data: Any, *, dtype: Any = None, device: Any = None,
           requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of `data` (nested lists, numbers, an array, a tensor)."""
    a = np.asarray(data)
    if dtype is None:
        d = dt.from_numpy(a.dtype)
        if not isinstance(data, (np.ndarray, np.generic)):
            if d.kind == "f":
                d = dt.get_default_dtype()
            elif d.kind == "c":
                d = dt.get_default_dtype().to_complex()
    else:
        d = dtype
    r = empty_meta(meta(d, a.shape, None, resolve(device)))
    raw = np.ascontiguousarray(a.astype(d.np))
    if raw.size:
        P.backend_of(r.meta.device).copy_from_host(raw.reshape(-1).view(np.uint8).data, r.data_)
    return r.requires_grad_() if requires_grad else r


def _size(size: Any) -> tuple[int, ...]:
    if len(size) == 1 and not isinstance(size[0], int) and hasattr(size[0], "__iter__"):
        size = size[0]
    return tuple(int(n) for n in size)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
          **_: Any) -> Tensor:
    """An uninitialised tensor."""
    r = empty_meta(meta(dtype or dt.get_default_dtype(), _size(size), None, resolve(device)))
    return r.requires_grad_() if requires_grad else r


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
         requires_grad: bool = False, **_: Any) -> Tensor:
    """A tensor filled with `fill_value`, whose type gives the dtype unless it is given."""
    d = dtype or dt.scalar_dtype(fill_value)
    r = R.REGISTRY["full"].fn(_size((size,)), fill_value, dtype=d, device=resolve(device))
    return r.requires_grad_() if requires_grad else r


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
          **_: Any) -> Tensor:
    """A tensor of zeros."""
    return full(_size(size), 0, dtype=dtype or dt.get_default_dtype(), device=device,
                requires_grad=requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
         **_: Any) -> Tensor:
    """A tensor of ones."""
    return full(_size(size), 1, dtype=dtype or dt.get_default_dtype(), device=device,
                requires_grad=requires_grad)


_ = (Meta, NS, make_tensor)


def _new_zeros(self: Tensor, *size: Any, dtype: Any = None, device: Any = None,
               requires_grad: bool = False, **_: Any) -> Tensor:
    """Zeros with this tensor's dtype and device unless given."""
    return zeros(*size, dtype=dtype or self.meta.dtype, device=device or self.meta.device,
                 requires_grad=requires_grad)


Tensor.new_zeros = _new_zeros  # type: ignore[attr-defined]
