"""`kl_divergence` and `register_kl`: the Kullback-Leibler divergences of pairs of distributions.

Floor 7; imports the distributions of this package. The closed forms are in `kl_same`, for two of
one kind, and `kl_pairs`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from lampion.tensor import Tensor

from .distribution import Distribution

__all__ = ["kl_divergence", "register_kl"]

_registered: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {}
_found: dict[tuple[type, type], Any] = {}  # what dispatch has found, by exact types


def register_kl(type_p: type, type_q: type) -> Callable[[Any], Any]:
    """Decorator: the function gives KL(p || q) for p and q of these classes, or of subclasses for
    which nothing nearer is registered. TypeError unless both are classes.

    >>> class Mine(Normal): pass
    >>> @register_kl(Mine, Normal)
    ... def _(p, q):
    ...     return lampion.tensor(7.0)
    >>> kl_divergence(Mine(0.0, 1.0), Normal(0.0, 1.0))
    tensor(7.)
    """
    for name, kind in (("type_p", type_p), ("type_q", type_q)):
        if not isinstance(kind, type):  # any class will do: packages have hierarchies of their own
            raise TypeError(f"Expected {name} to be a class, but got {kind!r}")

    def deco(fn: Any) -> Any:
        _registered[type_p, type_q] = fn
        _found.clear()
        return fn

    return deco


def _nearest(p: type, q: type) -> Any:
    """The function registered for the nearest pair of base classes, or None. If the nearest by p
    is not the nearest by q, that by p is taken, with a warning."""
    fits = [(a, b) for a, b in _registered if issubclass(p, a) and issubclass(q, b)]
    if not fits:
        return None

    def rank(first: int) -> tuple[type, type]:
        return min(fits, key=lambda pair: [(p, q)[k].__mro__.index(pair[k])
                                           for k in (first, 1 - first)])

    left, right = rank(0), rank(1)
    if _registered[left] is not _registered[right]:
        warnings.warn(f"Ambiguous kl_divergence({p.__name__}, {q.__name__}). Please "
                      f"register_kl({left[0].__name__}, {right[1].__name__})", RuntimeWarning,
                      stacklevel=3)
    return _registered[left]


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """KL(p || q), the mean of log p(x) - log q(x) for x from p: of the shape of the batch.

    NotImplementedError if no closed form is registered for the two classes.

    >>> kl_divergence(Normal(0.0, 1.0), Normal(2.0, 1.0))
    tensor(2.)
    """
    key = (type(p), type(q))
    try:
        fn = _found[key]
    except KeyError:
        fn = _found[key] = _nearest(*key)
    if fn is None:
        raise NotImplementedError(f"No KL(p || q) is implemented for p type {type(p).__name__} and "
                                  f"q type {type(q).__name__}: use register_kl, or a mean over "
                                  "samples")
    return fn(p, q)


from . import kl_pairs as _pairs  # noqa: E402, F401  (they register themselves)
from . import kl_same as _same  # noqa: E402, F401
