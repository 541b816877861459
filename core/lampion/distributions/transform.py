"""`Transform`, the base of all transforms, and its inverse.

Floor 7; imports lampion. Public as `lampion.distributions.transforms.Transform`.
"""

from __future__ import annotations

import weakref
from typing import Any

from lampion.tensor import Tensor

__all__ = ["Transform"]


class Transform:
    """A map from `domain` to `codomain`, called like a function; `inv` goes back.

    A subclass gives `_call(x)`, `_inverse(y)` and, where it is `bijective`,
    `log_abs_det_jacobian(x, y)`, the logarithm of |dy/dx| without the dims of one event. With
    `cache_size=1` the last pair (x, y) is kept: the inverse of that very y is that x, exactly.
    A map that is not bijective has a pseudo-inverse: t(t.inv(t(x))) is t(x).

    >>> t = ExpTransform()
    >>> t(lampion.zeros(2)), t.inv(lampion.ones(2))
    (tensor([1., 1.]), tensor([0., 0.]))
    """

    bijective: Any = False
    domain: Any
    codomain: Any

    def __init__(self, cache_size: int = 0) -> None:
        if cache_size not in (0, 1):
            raise ValueError(f"cache_size must be 0 or 1, not {cache_size!r}")
        self._cache_size = cache_size
        self._inv: Any = None
        self._last: tuple[Any, Any] = (None, None)
        super().__init__()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_inv": None}  # weak references are made anew

    @property
    def event_dim(self) -> int:
        """How many dims one event has, before and after; ValueError if that differs."""
        if self.domain.event_dim != self.codomain.event_dim:
            raise ValueError(f"{self!r} changes the number of event dims: ask domain and codomain")
        return self.domain.event_dim

    @property
    def inv(self) -> Transform:
        """The inverse, whose inverse is this very transform."""
        found = self._inv() if self._inv is not None else None
        if found is None:
            found = _InverseTransform(self)
            self._inv = weakref.ref(found)
        return found

    @property
    def sign(self) -> Any:
        """1 if increasing, -1 if decreasing: of maps of numbers, perhaps a tensor."""
        raise NotImplementedError(f"{self!r} has no sign")

    def with_cache(self, cache_size: int = 1) -> Any:
        """The same transform with this size of the cache."""
        if self._cache_size == cache_size:
            return self
        if type(self).__init__ is Transform.__init__:
            return type(self)(cache_size=cache_size)
        raise NotImplementedError(f"{type(self).__name__} does not define with_cache()")

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = object.__hash__

    def __call__(self, x: Tensor) -> Tensor:
        return self._mapped(x, False)

    def _inv_call(self, y: Tensor) -> Tensor:
        return self._mapped(y, True)

    def _mapped(self, given: Tensor, back: bool) -> Tensor:
        """The image of a tensor; that of the last one is looked up, if there is a cache."""
        if self._cache_size and given is self._last[back]:
            return self._last[not back]
        result = self._inverse(given) if back else self._call(given)
        if self._cache_size:
            self._last = (result, given) if back else (given, result)
        return result

    def _call(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _inverse(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |dy / dx| at x, where y is the image of x: without the dims of the event."""
        raise NotImplementedError(f"{type(self).__name__} has no Jacobian determinant")

    def forward_shape(self, shape: Any) -> Any:
        """The shape of the image of a tensor of this shape."""
        return shape

    def inverse_shape(self, shape: Any) -> Any:
        """The shape of what has an image of this shape."""
        return shape

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Same:
    """Equal to every transform of its class."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self))

    __hash__ = object.__hash__


class _InverseTransform(Transform):
    """The other direction of a transform, which it keeps alive."""

    def __init__(self, transform: Transform) -> None:
        super().__init__(transform._cache_size)
        self._inv: Any = transform

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    @property
    def inv(self) -> Transform:
        return self._inv

    @property
    def domain(self) -> Any:
        return self._inv.codomain

    @property
    def codomain(self) -> Any:
        return self._inv.domain

    @property
    def bijective(self) -> bool:
        return self._inv.bijective

    @property
    def sign(self) -> Any:
        return self._inv.sign

    def with_cache(self, cache_size: int = 1) -> Transform:
        return self._inv.with_cache(cache_size).inv

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _InverseTransform) and self._inv == other._inv

    __hash__ = object.__hash__

    def __call__(self, x: Tensor) -> Tensor:
        return self._inv._inv_call(x)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -self._inv.log_abs_det_jacobian(y, x)

    def forward_shape(self, shape: Any) -> Any:
        return self._inv.inverse_shape(shape)

    def inverse_shape(self, shape: Any) -> Any:
        return self._inv.forward_shape(shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._inv!r})"
