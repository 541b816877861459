"""Distributions of counts: Bernoulli, binomial, geometric, negative binomial, Poisson.

Floor 7; imports odds, exp_family and gammas of this package.
"""

from __future__ import annotations

from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.tensor import Tensor

from . import constraints
from .exp_family import ExponentialFamily
from .gammas import Gamma
from .odds import Odds
from .utils import binary_loss, broadcast_all

__all__ = ["Bernoulli", "Binomial", "Geometric", "NegativeBinomial", "Poisson"]


class Bernoulli(Odds, ExponentialFamily):
    """1 with probability `probs`, else 0; `logits` is log(probs / (1 - probs)).

    >>> Bernoulli(lampion.tensor(0.25)).log_prob(lampion.tensor(1.0)).exp()
    tensor(0.2500)
    """

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.boolean
    has_enumerate_support = True
    _mean_carrier_measure = 0

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None,
                 ) -> None:
        self._set_odds(probs, logits, validate_args)

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        return lampion.where(self.probs == 0.5, lampion.nan, (self.probs > 0.5).to(self.probs))

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with lampion.no_grad():
            return lampion.bernoulli(self.probs.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return -binary_loss(*broadcast_all(self.logits, value))

    def entropy(self) -> Tensor:
        return binary_loss(self.logits, self.probs)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._enumerated(lampion.arange(2, dtype=self._param.dtype,
                                               device=self._param.device), expand)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (lampion.logit(self.probs),)

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        return F.softplus(natural_params[0])


class Binomial(Odds):
    """The number of successes in `total_count` trials of probability `probs` each.

    Its probability at k is total_count! / (k! (total_count - k)!) p**k (1 - p)**(total_count - k).

    >>> Binomial(4, lampion.tensor(0.5)).log_prob(lampion.tensor(2.0)).exp()
    tensor(0.3750)
    """

    arg_constraints = {"total_count": constraints.nonnegative_integer,
                       "probs": constraints.unit_interval, "logits": constraints.real}
    has_enumerate_support = True
    _parts = ("total_count", "probs", "logits")

    def __init__(self, total_count: Any = 1, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        self._set_odds(probs, logits, validate_args, total_count=total_count)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.probs

    @property
    def mode(self) -> Tensor:
        return ((self.total_count + 1) * self.probs).floor().minimum(self.total_count)

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with lampion.no_grad():
            return lampion.binomial(self.total_count.expand(shape), self.probs.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n = self.total_count
        choices = lampion.lgamma(n + 1) - lampion.lgamma(value + 1) - lampion.lgamma(n - value + 1)
        return choices + value * self.logits - n * F.softplus(self.logits)

    def _common_count(self, name: str) -> int:
        low, high = self.total_count.aminmax()
        if low != high:
            raise NotImplementedError(f"Inhomogeneous total count not supported by `{name}`.")
        return int(high)

    def entropy(self) -> Tensor:
        self._common_count("entropy")
        log_prob = self.log_prob(self.enumerate_support(False))
        return -(log_prob.exp() * log_prob).sum(0)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        n = self._common_count("enumerate_support")
        return self._enumerated(lampion.arange(n + 1, dtype=self._param.dtype,
                                               device=self._param.device), expand)


class Geometric(Odds):
    """The number of failures before the first success, which has probability `probs` each time:
    P(k) = (1 - probs)**k probs.

    >>> Geometric(lampion.tensor(0.25)).mean
    tensor(3.)
    """

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None,
                 ) -> None:
        self._set_odds(probs, logits, validate_args)
        if self._validate_args and probs is not None and not bool((self.probs > 0).all()):
            raise ValueError(f"Expected parameter probs (Tensor of shape "
                             f"{tuple(self.probs.shape)}) of distribution {self!r} to be positive "
                             f"but found invalid values:\n{self.probs}")

    @property
    def mean(self) -> Tensor:
        return 1 / self.probs - 1

    @property
    def mode(self) -> Tensor:
        return lampion.zeros_like(self.probs)

    @property
    def variance(self) -> Tensor:
        return (1 / self.probs - 1) / self.probs

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with lampion.no_grad():
            waiting = lampion.empty(self._extended_shape(sample_shape), dtype=self.probs.dtype,
                                    device=self.probs.device).exponential_()
            return (waiting / -(-self.probs).log1p()).floor()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # 0 log(0) is 0, and has the derivative of that
        certain = (self.probs == 1) & (value == 0)
        return value * (-self.probs.masked_fill(certain, 0.0)).log1p() + self.probs.log()

    def entropy(self) -> Tensor:
        return binary_loss(self.logits, self.probs) / self.probs


class NegativeBinomial(Odds):
    """The number of successes, of probability `probs` each, before `total_count` failures:
    P(k) = gamma(n + k) / (k! gamma(n)) (1 - probs)**n probs**k, for any positive n.

    >>> NegativeBinomial(3.0, lampion.tensor(0.5)).mean
    tensor(3.)
    """

    arg_constraints = {"total_count": constraints.greater_than_eq(0),
                       "probs": constraints.half_open_interval(0.0, 1.0),
                       "logits": constraints.real}
    support = constraints.nonnegative_integer
    _parts = ("total_count", "probs", "logits")

    def __init__(self, total_count: Any, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        self._set_odds(probs, logits, validate_args, total_count=total_count)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.logits.exp()

    @property
    def mode(self) -> Tensor:
        return ((self.total_count - 1) * self.logits.exp()).floor().clamp(min=0.0)

    @property
    def variance(self) -> Tensor:
        return self.mean / (-self.logits).sigmoid()

    @property
    def _gamma(self) -> Gamma:
        """The distribution of the rate, given which the count is that of Poisson."""
        return Gamma(self.total_count, (-self.logits).exp(), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with lampion.no_grad():
            return lampion.poisson(self._gamma.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n = self.total_count
        law = n * F.logsigmoid(-self.logits) + value * F.logsigmoid(self.logits)
        choices = lampion.lgamma(n + value) - lampion.lgamma(1 + value) - lampion.lgamma(n)
        return law + choices.masked_fill(n + value == 0, 0.0)


class Poisson(ExponentialFamily):
    """The number of events of a process with the mean `rate`: P(k) = rate**k exp(-rate) / k!.

    >>> Poisson(2.0).log_prob(lampion.tensor(0.0))
    tensor(-2.)
    """

    arg_constraints = {"rate": constraints.nonnegative}
    support = constraints.nonnegative_integer
    _parts = ("rate",)

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        self._set_parameters(validate_args, rate=rate)

    @property
    def mean(self) -> Tensor:
        return self.rate

    @property
    def mode(self) -> Tensor:
        return self.rate.floor()

    @property
    def variance(self) -> Tensor:
        return self.rate

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with lampion.no_grad():
            return lampion.poisson(self.rate.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        rate, value = broadcast_all(self.rate, value)
        return lampion.xlogy(value, rate) - rate - lampion.lgamma(value + 1)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.rate.log(),)

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        return natural_params[0].exp()
