"""Tensors that are made of another tensor, and record what that one records.

Floor 6; imports tensor. The values of a sparse or nested tensor, or the part of a distributed one,
are an ordinary tensor: its gradient, with the places of the whole, is the gradient of the whole.
"""

from __future__ import annotations

from typing import Any

from .tensor import Tensor


class Holding(Tensor):
    """A tensor around `_held`. A subclass says how another such tensor is made, in `_with`."""

    _held: Tensor

    def _with(self, held: Tensor) -> Any:
        """The tensor that is as this one, around another tensor."""
        raise NotImplementedError

    @property
    def requires_grad(self) -> bool:  # type: ignore[override]
        """Whether what is held is recorded for autograd."""
        return self._held.requires_grad

    @requires_grad.setter
    def requires_grad(self, on: bool) -> None:
        self._held.requires_grad_(on)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Record what is done with it from now on."""
        self._held.requires_grad_(requires_grad)
        return self

    @property
    def grad_fn(self) -> Any:
        """The node of what is held."""
        return self._held.grad_fn

    @property
    def is_leaf(self) -> bool:
        """Whether what is held is a leaf."""
        return self._held.is_leaf

    @property
    def grad(self) -> Any:  # type: ignore[override]
        """The gradient by what is held, with the places of this tensor."""
        g = self._held.grad
        return None if g is None else self._with(g)

    @grad.setter
    def grad(self, value: Any) -> None:
        self._held.grad = value._held if isinstance(value, Holding) else value

    def retain_grad(self) -> None:
        """Keep the gradient of a tensor that is no leaf."""
        self._held.retain_grad()

    def register_hook(self, hook: Any) -> Any:
        """Call `hook` with the gradient, a tensor of this kind; what it returns replaces it."""
        def of_held(g: Tensor) -> Any:
            found = hook(self._with(g))
            return found._held if isinstance(found, Holding) else found

        return self._held.register_hook(of_held)


__all__ = ["Holding"]
