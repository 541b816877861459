"""`Variable(tensor)`: a tensor, in programs from before tensors could record. Floor 5, by name."""

from __future__ import annotations

from typing import Any


class _VariableType(type):
    """Every tensor is a Variable; making one gives a tensor."""

    def __instancecheck__(cls, instance: Any) -> bool:
        from lampion import Tensor

        return isinstance(instance, Tensor)

    def __subclasscheck__(cls, subclass: Any) -> bool:
        from lampion import Tensor

        return issubclass(subclass, Tensor)

    def __call__(cls, data: Any = None, requires_grad: bool = False, volatile: Any = None) -> Any:
        """The tensor over the same memory that is a leaf of a new graph."""
        from lampion import Tensor

        if data is None:
            return Tensor()
        if not isinstance(data, Tensor):
            raise TypeError("Variable data has to be a tensor, but got "
                            f"{type(data).__name__}")
        return data.detach().requires_grad_(bool(requires_grad))


class Variable(metaclass=_VariableType):
    """A tensor.

    >>> x = lampion.autograd.Variable(lampion.ones(2), requires_grad=True)
    >>> x.requires_grad, isinstance(x, lampion.Tensor)
    (True, True)
    """
