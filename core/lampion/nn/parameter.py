"""Parameters and buffers: tensors that a module owns, and their uninitialized forms.

May import: lampion.tensor, lampion.callpath. Imported by every module.
"""
from __future__ import annotations

from collections import OrderedDict
from typing import Any

import lampion
from lampion import callpath
from lampion.runtime.backend import counted
from lampion.tensor import Tensor, disabled_torch_function


class Parameter(Tensor):
    """A leaf tensor that a module trains: assigned as an attribute it appears in `parameters()`.

    `Parameter(data=None, requires_grad=True)` shares storage with `data`. Operations on parameters
    give plain tensors. RuntimeError if an integer tensor is to require gradients.

    >>> nn.Parameter(lampion.zeros(2)).requires_grad
    True
    """

    __torch_function__ = disabled_torch_function

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        if data is None:
            data = lampion.empty(0)
        detached = data.detach()
        if not data.meta.virtual:
            detached.data_ = counted(detached.data_)
        return Tensor._make_subclass(cls, detached, requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        if id(self) in memo:
            return memo[id(self)]
        copied = type(self)(self.detach().clone(), self.requires_grad)
        memo[id(self)] = copied
        _copy_attributes(self, copied, memo)
        return copied

    def __reduce_ex__(self, proto: int) -> tuple[Any, ...]:
        state = _attributes(self)
        args = (self.detach(), self.requires_grad, OrderedDict())
        if not state:
            return _rebuild_parameter, args
        return _rebuild_parameter_with_state, (*args, state)


# Ops that take tensors or numbers let parameters on their short path, by the exact type.
callpath.NS["Parameter"] = Parameter


def _attributes(tensor: Tensor) -> dict[str, Any]:
    """What a program hung on the tensor (its instance dictionary)."""
    return dict(getattr(tensor, "__dict__", {}))


def _copy_attributes(source: Tensor, target: Tensor, memo: dict[int, Any]) -> None:
    import copy
    for name, value in _attributes(source).items():
        setattr(target, name, copy.deepcopy(value, memo))


def _rebuild_parameter(data: Tensor, requires_grad: bool, backward_hooks: Any) -> Parameter:
    """What a pickled parameter is read back with."""
    return Parameter(data, requires_grad)


def _rebuild_parameter_with_state(data: Tensor, requires_grad: bool, backward_hooks: Any,
                                  state: dict[str, Any]) -> Parameter:
    param = Parameter(data, requires_grad)
    param.__dict__.update(state)
    return param


class _BufferMeta(type(Tensor)):  # type: ignore[misc]
    """`isinstance(t, Buffer)` is true of the plain tensors that `Buffer(...)` marks."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if cls is Buffer and isinstance(instance, Tensor):
            return getattr(instance, "_is_buffer", False)
        return type.__instancecheck__(cls, instance)


class Buffer(Tensor, metaclass=_BufferMeta):
    """`Buffer(data, persistent=True)`: a tensor that registers itself as a buffer when assigned.

    The result is a plain tensor sharing storage with `data`, marked for `Module.__setattr__`.

    >>> module = nn.Module(); module.mean = nn.Buffer(lampion.zeros(3))
    >>> list(module.state_dict())
    ['mean']
    """

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Any:
        if data is None:
            data = lampion.empty(0)
        marked = data.detach().requires_grad_(data.requires_grad)
        marked.persistent = persistent
        marked._is_buffer = True
        return marked


_UNINITIALIZED = (
    "Can't access the shape of an uninitialized parameter or buffer. This error usually happens in "
    "`load_state_dict` when trying to load an uninitialized parameter into an initialized one. "
    "Call `forward` to initialize the parameters before accessing their attributes.")


class UninitializedTensorMixin:
    """A tensor with a dtype and a device but no shape yet; `materialize(shape)` gives it one."""

    cls_to_become: type | None = None

    def materialize(self, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Turn this object, in place, into an ordinary uninitialized-valued tensor of `shape`."""
        held = Tensor.detach(self)
        made = lampion.empty(shape, device=held.device if device is None else device,
                             dtype=held.dtype if dtype is None else dtype)
        self.data = made
        self.__class__ = self.cls_to_become  # type: ignore[assignment]

    @property
    def shape(self) -> Any:
        raise RuntimeError(_UNINITIALIZED)

    def share_memory_(self) -> Any:
        raise RuntimeError("Can't share memory on an uninitialized parameter or buffer. Call "
                           "`forward` to initialize the parameters before calling "
                           "`module.share_memory()`.")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce_ex__(self, proto: int) -> tuple[Any, ...]:
        held = Tensor.detach(self)
        return type(self), (self.requires_grad, held.device, held.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        held = Tensor.detach(self)
        copied = type(self)(requires_grad=self.requires_grad, device=held.device, dtype=held.dtype)
        memo[id(self)] = copied
        return copied


class UninitializedParameter(UninitializedTensorMixin, Parameter):
    """A parameter whose shape is not known until the first forward of its lazy module."""

    cls_to_become = Parameter

    def __new__(cls, requires_grad: bool = True, device: Any = None,
                dtype: Any = None) -> UninitializedParameter:
        held = lampion.empty(0, device=device, dtype=dtype)
        return Tensor._make_subclass(cls, held, requires_grad)


class UninitializedBuffer(UninitializedTensorMixin, Tensor):
    """A buffer whose shape is not known until the first forward of its lazy module."""

    __torch_function__ = disabled_torch_function
    cls_to_become = Tensor

    def __new__(cls, requires_grad: bool = False, device: Any = None, dtype: Any = None,
                persistent: bool = True) -> UninitializedBuffer:
        held = lampion.empty(0, device=device, dtype=dtype)
        made = Tensor._make_subclass(cls, held, requires_grad)
        made.persistent = persistent
        made._is_buffer = True
        return made


def is_lazy(param: Any) -> bool:
    """Is `param` an uninitialized parameter or buffer?"""
    return isinstance(param, UninitializedTensorMixin)
