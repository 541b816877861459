"""`Distribution`, the base of all: shapes, validation, sampling, `expand`.

Floor 7; imports constraints and utils of this package. A subclass names the attributes that have
the shape of the batch in `_parts`; expansion and validation then need no code of its own.
"""

from __future__ import annotations

import warnings
from typing import Any

import lampion
from lampion.runtime import tracing
from lampion.runtime.tracing import refuse
from lampion.tensor import Size, Tensor

from . import constraints
from .utils import broadcast_all, lazy_property

__all__ = ["Distribution"]


class Distribution:
    """A probability distribution, or a batch of them: each of `batch_shape` has parameters of its
    own, one draw is of `event_shape`.

    A sample has the shape sample_shape + batch_shape + event_shape. `log_prob` takes values that
    broadcast to that and gives sample_shape + batch_shape.

    >>> d = MultivariateNormal(lampion.zeros(4, 3), lampion.eye(3))
    >>> d.batch_shape, d.event_shape, d.sample((2,)).shape
    (lampion.Size([4]), lampion.Size([3]), lampion.Size([2, 4, 3]))
    """

    has_rsample = False
    has_enumerate_support = False
    _validate_args = __debug__
    _parts: tuple[str, ...] | None = None

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Whether distributions check their parameters and values unless told otherwise."""
        if value not in (True, False):
            raise ValueError(f"value must be True or False, not {value!r}")
        Distribution._validate_args = value

    def __init__(self, batch_shape: Any = (), event_shape: Any = (),
                 validate_args: bool | None = None) -> None:
        self._batch_shape, self._event_shape = Size(batch_shape), Size(event_shape)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            self._validate_parameters()
        super().__init__()

    def _set_parameters(self, validate_args: bool | None, **parameters: Any) -> None:
        """Keep numbers and tensors, broadcast to one shape, which is that of the batch."""
        self.__dict__.update(zip(parameters, broadcast_all(*parameters.values())))
        shape = self.__dict__[next(iter(parameters))].shape
        Distribution.__init__(self, shape, validate_args=validate_args)

    # ---- shapes -------------------------------------------------------------

    @property
    def batch_shape(self) -> Size:
        """The shape of the parameters of single distributions."""
        return self._batch_shape

    @property
    def event_shape(self) -> Size:
        """The shape of one draw from one distribution."""
        return self._event_shape

    def _extended_shape(self, sample_shape: Any = ()) -> Size:
        return Size((*sample_shape, *self._batch_shape, *self._event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distributions with `batch_shape` for a batch: dims are added in front, and those
        of size 1 are repeated, without a copy.

        >>> Normal(0.0, lampion.ones(3, 1)).expand((2, 3, 4))
        Normal(loc: lampion.Size([2, 3, 4]), scale: lampion.Size([2, 3, 4]))
        """
        if self._parts is None:
            raise NotImplementedError(f"{type(self).__name__} has no expand()")
        home = next(c for c in type(self).__mro__ if c.__module__.startswith(__package__))
        new = self._get_checked_instance(home, _instance)
        shape, n = Size(batch_shape), len(self._batch_shape)
        for name, value in self.__dict__.items():
            if name in self._parts:
                own = value.batch_shape if isinstance(value, Distribution) else value.shape
                new.__dict__[name] = value.expand((*shape, *own[n:]))
            elif not isinstance(getattr(type(self), name, None), lazy_property):
                new.__dict__.setdefault(name, value)
        new._batch_shape = shape
        new._event_shape = self._event_shape
        new._validate_args = self._validate_args
        return new

    def _get_checked_instance(self, cls: type, _instance: Any = None) -> Any:
        if _instance is None and type(self).__init__ is not cls.__init__:
            raise NotImplementedError(
                f"{type(self).__name__} has an __init__() of its own, other than {cls.__name__}'s: "
                "it must define expand() as well")
        return type(self).__new__(type(self)) if _instance is None else _instance

    # ---- what a distribution says of itself ---------------------------------

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The constraint of each parameter, by name."""
        raise NotImplementedError

    @property
    def support(self) -> Any:
        """The constraint of the values."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """The mean: batch_shape + event_shape."""
        raise NotImplementedError

    @property
    def mode(self) -> Tensor:
        """The most probable value: batch_shape + event_shape."""
        raise NotImplementedError(f"{type(self)} does not implement mode")

    @property
    def variance(self) -> Tensor:
        """The variance of each element: batch_shape + event_shape."""
        raise NotImplementedError

    @property
    def stddev(self) -> Tensor:
        """The standard deviation of each element: batch_shape + event_shape."""
        return self.variance.sqrt()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the shape sample_shape + batch_shape + event_shape, without history."""
        with lampion.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws as `sample` gives, differentiable by the parameters; only with `has_rsample`."""
        raise NotImplementedError(f"{type(self).__name__} has no reparametrised samples")

    def sample_n(self, n: int) -> Tensor:
        """n draws. Deprecated: sample((n,))."""
        warnings.warn("sample_n(n) will be deprecated. Use .sample((n,)) instead.", UserWarning,
                      stacklevel=2)
        return self.sample(Size((n,)))

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of density or probability at `value`."""
        raise NotImplementedError

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of at most `value`."""
        raise NotImplementedError

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile: where the cdf is `value`."""
        raise NotImplementedError

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values of a finite support along a new first dim; `expand` repeats them for the
        batch, whose dims else have size 1."""
        raise NotImplementedError

    def _enumerated(self, values: Tensor, expand: bool) -> Tensor:
        values = values.reshape((-1, *[1] * len(self._batch_shape), *self._event_shape))
        return values.expand((-1, *self._batch_shape, *self._event_shape)) if expand else values

    def entropy(self) -> Tensor:
        """The entropy in nats: batch_shape."""
        raise NotImplementedError

    def perplexity(self) -> Tensor:
        """exp of the entropy: batch_shape."""
        return self.entropy().exp()

    # ---- validation ---------------------------------------------------------

    def _validate_parameters(self) -> None:
        try:
            rules = self.arg_constraints
        except NotImplementedError:
            warnings.warn(f"{type(self)} does not define `arg_constraints`: its parameters are not "
                          "checked; validate_args=False says so", stacklevel=3)
            return
        for name, rule in rules.items():
            lazy = isinstance(getattr(type(self), name, None), lazy_property)
            if constraints.is_dependent(rule) or (lazy and name not in self.__dict__):
                continue
            value = getattr(self, name)
            valid = rule.check(value)
            if tracing.active:
                refuse(~valid, ValueError(f"Expected parameter {name} of {type(self).__name__} to "
                                          f"satisfy the constraint {rule!r}"))
            elif not bool(valid.all()):
                raise ValueError(
                    f"Expected parameter {name} ({type(value).__name__} of shape "
                    f"{tuple(value.shape)}) of distribution {self!r} to satisfy the constraint "
                    f"{rule!r}, but found invalid values:\n{value}")

    def _validate_sample(self, value: Tensor) -> None:
        """ValueError unless `value` is a tensor that broadcasts to the distribution's shapes and
        lies in its support."""
        if not isinstance(value, Tensor):
            raise ValueError("The value argument to log_prob must be a Tensor")
        event = len(self._event_shape)
        if value.shape[max(value.dim() - event, 0):] != self._event_shape:
            raise ValueError(f"The right-most size of value must match event_shape: {value.shape} "
                             f"vs {self._event_shape}.")
        expected = self._extended_shape()
        for a, b in zip(reversed(value.shape), reversed(expected)):
            if a != 1 and b != 1 and a != b:
                raise ValueError(f"Value is not broadcastable with batch_shape+event_shape: "
                                 f"{value.shape} vs {expected}.")
        try:
            support = self.support
        except NotImplementedError:
            warnings.warn(f"{type(self)} does not define `support`: values are not checked; "
                          "validate_args=False says so", stacklevel=3)
            return
        if support is None:
            raise AssertionError(f"{type(self).__name__}.support is None")
        valid = support.check(value)
        if tracing.active:
            refuse(~valid, ValueError(f"Expected the value to be within the support ({support!r}) "
                                      f"of {type(self).__name__}"))
        elif not bool(valid.all()):
            raise ValueError(
                f"Expected value argument ({type(value).__name__} of shape {tuple(value.shape)}) "
                f"to be within the support ({support!r}) of the distribution {self!r}, but found "
                f"invalid values:\n{value}")

    def __repr__(self) -> str:
        shown = []
        for name in self.arg_constraints:
            value = self.__dict__.get(name)
            if value is not None:
                one = not isinstance(value, Tensor) or value.numel() == 1
                shown.append(f"{name}: {value if one else value.shape}")
        return f"{type(self).__name__}({', '.join(shown)})"
