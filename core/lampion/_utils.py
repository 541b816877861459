"""Functions that rebuild tensors when something is unpickled.

Pickles name these functions, so their names and arguments are part of the file format: those of
`torch._utils` are kept, and checkpoints of either framework find them. `storage` is what the
unpickler's persistent_load gave (see `utils._pt.storages.StoredMemory`).

Floor 7; imports tensor.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from .base.dtype import dtype
from .utils._pt.storages import StoredMemory


def _rebuild_tensor(storage: StoredMemory, storage_offset: int, size: Any, stride: Any) -> Any:
    """A tensor over `storage` (offset and strides in elements)."""
    return storage.tensor(storage_offset, size, stride)


def _rebuild_tensor_v2(
    storage: StoredMemory,
    storage_offset: int,
    size: Any,
    stride: Any,
    requires_grad: bool,
    backward_hooks: Any,
    metadata: Any = None,
) -> Any:
    """A tensor over `storage`, with its requires_grad flag."""
    return _finished(storage.tensor(storage_offset, size, stride), requires_grad)


def _rebuild_tensor_v3(
    storage: StoredMemory,
    storage_offset: int,
    size: Any,
    stride: Any,
    requires_grad: bool,
    backward_hooks: Any,
    dtype: dtype,
    metadata: Any = None,
) -> Any:
    """A tensor over an untyped `storage`, whose element type is given."""
    return _finished(storage.tensor(storage_offset, size, stride, dtype), requires_grad)


def _finished(tensor: Any, requires_grad: bool) -> Any:
    return tensor.requires_grad_(True) if requires_grad else tensor


def _rebuild_parameter(data: Any, requires_grad: bool, backward_hooks: Any) -> Any:
    """An nn.Parameter."""
    from .nn.parameter import Parameter

    return Parameter(data, requires_grad)


def _rebuild_parameter_with_state(
    data: Any, requires_grad: bool, backward_hooks: Any, state: Any
) -> Any:
    """An nn.Parameter with further attributes."""
    parameter = _rebuild_parameter(data, requires_grad, backward_hooks)
    _set_tensor_state(parameter, state)
    return parameter


def _rebuild_sparse_tensor(layout: Any, data: Any) -> Any:
    """A sparse tensor of its parts: (places, values, size, coalesced) or (starts, places, values,
    size)."""
    from . import sparse_compressed_tensor, sparse_coo, sparse_coo_tensor

    if layout is sparse_coo:
        places, values, size, *rest = data
        return sparse_coo_tensor(places, values, size, is_coalesced=bool(rest and rest[0]))
    starts, places, values, size = data
    return sparse_compressed_tensor(starts, places, values, size, layout=layout,
                                    check_invariants=True)


def _set_state(obj: Any, state: Any) -> None:
    """Set attributes from a `__dict__`, or from a pair of it and a dict of slots."""
    plain, slots = state if isinstance(state, tuple) else (state, None)
    for key, value in (*(plain or {}).items(), *(slots or {}).items()):
        setattr(obj, key, value)


def _set_tensor_state(tensor: Any, state: Any) -> None:
    """Set a tensor's own attributes, never what the tensor is made of (its slots)."""
    plain, slots = state if isinstance(state, tuple) else (state, None)
    for part in (plain or {}, slots or {}):
        if not isinstance(part, dict):
            raise TypeError(f"a tensor's state must be a dict, not {type(part).__name__}")
        tensor.__dict__.update(part)


def _rebuild_from_type_v2(func: Any, new_type: type, args: Any, state: Any) -> Any:
    """An instance of a Tensor subclass, with its attributes."""
    from .tensor import Tensor

    if not (isinstance(new_type, type) and issubclass(new_type, Tensor)):
        raise TypeError(f"{new_type!r} is not a class of tensors")
    made = func(*args)
    if type(made) is not new_type:
        made = made.as_subclass(new_type)
    setter = getattr(new_type, "__setstate__", None)
    if setter is not None and setter is not getattr(object, "__setstate__", None):
        made.__setstate__(state)
    else:
        _set_tensor_state(made, state)
    return made


def wrap_reduce(tensor: Any, func: Any, args: tuple[Any, ...]) -> Any:
    """Extend the recipe of a plain tensor by what a subclass and attributes need."""
    from .nn.parameter import Parameter
    from .tensor import Tensor

    state = attributes(tensor)
    kind = type(tensor)
    if kind is Tensor and not state:
        return func, args
    if kind is Parameter:
        data = _Recipe(func, (*args[:4], False, *args[5:]))
        if not state:
            return _rebuild_parameter, (data, tensor.requires_grad, OrderedDict())
        return _rebuild_parameter_with_state, (data, tensor.requires_grad, OrderedDict(), state)
    return _rebuild_from_type_v2, (func, kind, args, state)


class _Recipe:
    """Pickles as the call `func(*args)`."""

    __slots__ = ("args", "func")

    def __init__(self, func: Any, args: tuple[Any, ...]) -> None:
        self.func = func
        self.args = args

    def __reduce__(self) -> Any:
        return self.func, self.args


_INTERNAL = frozenset(("_grad", "_retains"))


def attributes(tensor: Any) -> dict[str, Any]:
    """Attributes that user code has set on a tensor."""
    return {k: v for k, v in tensor.__dict__.items() if k not in _INTERNAL}
