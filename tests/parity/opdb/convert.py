"""PyTorch's values into lampion's and back: tensors with strides, offset, sharing and
requires_grad; dtypes, devices, memory formats, generators; functions over tensors."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import lampion

# what NumPy lacks travels as integers of the same size
_BITS = {torch.bfloat16: torch.int16, torch.complex32: torch.int32}


def dtype(d: torch.dtype) -> Any:
    """lampion's dtype of the same name. AttributeError if it has none."""
    return getattr(lampion, str(d).removeprefix("torch."))


def dtype_back(d: Any) -> torch.dtype:
    """PyTorch's dtype of the same name."""
    return getattr(torch, d.name)


class Converter:
    """Turns the arguments of one call into lampion's; tensors that share memory go on doing so."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.storages: dict[tuple[int, torch.dtype], Any] = {}
        self.keep: list[torch.Tensor] = []  # a freed tensor's address would be another's

    def __call__(self, x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return self.tensor(x)
        if isinstance(x, torch.Size):
            return lampion.Size(x)
        if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
            return type(x)(map(self, x))
        if isinstance(x, dict):
            return {k: self(v) for k, v in x.items()}
        if isinstance(x, slice):
            return slice(self(x.start), self(x.stop), self(x.step))
        if isinstance(x, torch.dtype):
            return dtype(x)
        if isinstance(x, torch.device):
            return lampion.device(self.device)
        if isinstance(x, torch.memory_format):
            return getattr(lampion, str(x).removeprefix("torch."))
        if isinstance(x, torch.layout):
            return getattr(lampion, str(x).removeprefix("torch."))
        if isinstance(x, torch.Generator):
            return lampion.Generator().manual_seed(x.initial_seed())
        if isinstance(x, torch.nn.LinearCrossEntropyOptions):
            return lampion.nn.LinearCrossEntropyOptions(**{
                k: self(getattr(x, k)) for k in x.__dataclass_fields__})
        if isinstance(x, (types.FunctionType, torch.nn.Module)):
            return function(x)
        if isinstance(x, str) and x.partition(":")[0] == "cpu":
            return self.device
        return x

    def tensor(self, t: torch.Tensor) -> Any:
        """A leaf with the values, strides, offset and requires_grad of `t`."""
        if t.layout is not torch.strided:
            raise NotImplementedError(f"lampion has no {t.layout} tensors")
        t, needs = t.detach(), t.requires_grad
        if t.is_neg():
            t = t.resolve_neg()
        turned = t.is_conj()
        if turned:
            t = torch.view_as_complex(torch.view_as_real(t.conj()))
        key = (t.untyped_storage().data_ptr() or id(t), t.dtype)
        whole = self.storages.get(key)
        if whole is None:
            self.keep.append(t)
            flat = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage())
            bits = _BITS.get(flat.dtype, flat.dtype)
            whole = lampion.from_numpy(flat.view(bits).numpy().copy()).view(dtype(flat.dtype))
            whole = self.storages[key] = whole.to(self.device)
        if t.numel():
            r = whole.as_strided(t.shape, t.stride(), t.storage_offset()).detach()
        else:
            r = lampion.empty_strided(t.shape, t.stride(), dtype=dtype(t.dtype),
                                      device=self.device)
        if turned:
            r = r.conj()
        return r.requires_grad_() if needs else r


def function(f: Any) -> Any:
    """A Python function of a sample with `torch` replaced by lampion, or the module of lampion
    that is called like PyTorch's."""
    if isinstance(f, torch.nn.Module):
        return getattr(lampion.nn, type(f).__name__)()
    return types.FunctionType(f.__code__, {**f.__globals__, "torch": lampion}, f.__name__,
                              f.__defaults__, f.__closure__)


def back(x: Any) -> Any:
    """lampion's result as PyTorch's: tensors are copied, containers become lists or tuples."""
    if isinstance(x, lampion.Tensor):
        x = x.detach().cpu()
        kind = dtype_back(x.dtype)
        bits = np.array(x.resolve_conj().contiguous().view(dtype(_BITS.get(kind, kind))).numpy())
        return torch.from_numpy(bits).view(kind).reshape(tuple(x.shape))
    if isinstance(x, tuple):
        return tuple(map(back, x))
    if isinstance(x, list):
        return list(map(back, x))
    if isinstance(x, dict):
        return {k: back(v) for k, v in x.items()}
    if isinstance(x, lampion.dtype):
        return dtype_back(x)
    return x


def narrowed(t: Any, computed: torch.dtype) -> Any:
    """A tensor of either library in the dtype that its values were computed in, if that is
    narrower: an out= tensor may be wider than the result."""
    if isinstance(t, torch.Tensor):
        wider = t.dtype.is_floating_point and t.dtype.itemsize > computed.itemsize
        return t.to(computed) if wider else t
    wider = t.dtype.is_floating_point and t.dtype.itemsize > computed.itemsize
    return t.to(dtype(computed)) if wider else t


def map_tensors(f: Callable[[Any], Any], x: Any, kind: type = torch.Tensor) -> Any:
    """`x` with every tensor replaced by f(tensor)."""
    if isinstance(x, kind):
        return f(x)
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields") and type(x) in (list, tuple):
        return type(x)(map_tensors(f, y, kind) for y in x)
    if isinstance(x, dict):
        return {k: map_tensors(f, v, kind) for k, v in x.items()}
    return x


def tensors(x: Any, kind: type = torch.Tensor) -> list[Any]:
    """The tensors in nested containers, in order."""
    if isinstance(x, kind):
        return [x]
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, (list, tuple)):
        return [t for y in x for t in tensors(y, kind)]
    return []
