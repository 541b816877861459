"""Distributions over categories: their number, one-hot vectors, counts.

Floor 7; imports odds and counts of this package.
"""

from __future__ import annotations

from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.tensor import Size, Tensor

from . import constraints
from .counts import Binomial
from .odds import Categories
from .utils import broadcast_all

__all__ = ["Categorical", "Multinomial", "OneHotCategorical", "OneHotCategoricalStraightThrough"]


class Categorical(Categories):
    """The number of a category, 0 to K - 1, for weights `probs` of shape (..., K), which are
    normalised, or their logarithms `logits`.

    >>> d = Categorical(lampion.tensor([1.0, 3.0]))
    >>> d.probs, d.log_prob(lampion.tensor(1)).exp()
    (tensor([0.2500, 0.7500]), tensor(0.7500))
    """

    arg_constraints = {"probs": constraints.simplex, "logits": constraints.real_vector}
    has_enumerate_support = True

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None,
                 ) -> None:
        shape = self._set_categories(probs, logits)
        self._num_events = shape[-1]
        super().__init__(shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self._num_events - 1)

    def _undefined(self) -> Tensor:
        return lampion.full(self._extended_shape(), lampion.nan, dtype=self.probs.dtype,
                            device=self.probs.device)

    @property
    def mean(self) -> Tensor:
        """NaN: categories are no numbers."""
        return self._undefined()

    @property
    def mode(self) -> Tensor:
        return self.probs.argmax(-1)

    @property
    def variance(self) -> Tensor:
        """NaN: categories are no numbers."""
        return self._undefined()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        sample_shape = Size(sample_shape)
        with lampion.no_grad():
            rows = self.probs.reshape(-1, self._num_events)
            if not rows.shape[0] * sample_shape.numel():
                return self._param.new_empty(self._extended_shape(sample_shape),
                                             dtype=lampion.int64)
            drawn = lampion.multinomial(rows, sample_shape.numel(), True).t()
            return drawn.reshape(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value, logits = lampion.broadcast_tensors(value.long().unsqueeze(-1), self.logits)
        return logits.gather(-1, value[..., :1]).squeeze(-1)

    def entropy(self) -> Tensor:
        return self._categorical_entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = lampion.arange(self._num_events, device=self._param.device)
        return self._enumerated(values, expand)


class OneHotCategorical(Categories):
    """Vectors of K with a 1 at a category and else zeros, for the parameters of Categorical.

    >>> OneHotCategorical(lampion.tensor([1.0, 3.0])).mean
    tensor([0.2500, 0.7500])
    """

    arg_constraints = {"probs": constraints.simplex, "logits": constraints.real_vector}
    support = constraints.one_hot
    has_enumerate_support = True

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None,
                 ) -> None:
        shape = self._set_categories(probs, logits)
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @property
    def _categorical(self) -> Categorical:
        return Categorical(**{self._form: self._param}, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        return F.one_hot(self.probs.argmax(-1), self._event_shape[0]).to(self.probs)

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        drawn = self._categorical.sample(sample_shape)
        return F.one_hot(drawn, self._event_shape[0]).to(self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value, logits = broadcast_all(value, self.logits)
        return logits.gather(-1, value.argmax(-1, keepdim=True)).squeeze(-1)

    def entropy(self) -> Tensor:
        return self._categorical_entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        n = self._event_shape[0]
        values = lampion.eye(n, dtype=self._param.dtype, device=self._param.device)
        values = values.reshape((n, *[1] * len(self._batch_shape), n))
        return values.expand((n, *self._batch_shape, n)) if expand else values


class OneHotCategoricalStraightThrough(OneHotCategorical):
    """OneHotCategorical, whose `rsample` hands gradients straight through to `probs` (Bengio,
    Leonard and Courville, Estimating or propagating gradients through stochastic neurons, 2013).

    >>> p = lampion.tensor([0.5, 0.5], requires_grad=True)
    >>> OneHotCategoricalStraightThrough(p).rsample().requires_grad
    True
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.sample(sample_shape) + (self.probs - self.probs.detach())


class Multinomial(Categories):
    """How often each of K categories comes in `total_count` (one number) draws of Categorical.

    P(x) = total_count! / (x[0]! ... x[K - 1]!) * probs[0]**x[0] ... probs[K - 1]**x[K - 1].

    >>> Multinomial(8, lampion.tensor([1.0, 3.0])).mean
    tensor([2., 6.])
    """

    arg_constraints = {"probs": constraints.simplex, "logits": constraints.real_vector}

    def __init__(self, total_count: int = 1, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        if not isinstance(total_count, int):
            raise NotImplementedError("inhomogeneous total_count is not supported")
        self.total_count = total_count
        shape = self._set_categories(probs, logits)
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        return constraints.multinomial(self.total_count)

    @property
    def _categorical(self) -> Categorical:
        return Categorical(**{self._form: self._param}, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.probs * self.total_count

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with lampion.no_grad():
            drawn = self._categorical.sample((self.total_count, *sample_shape)).movedim(0, -1)
            counts = lampion.zeros(self._extended_shape(sample_shape), dtype=self.probs.dtype,
                                   device=self.probs.device)
            return counts.scatter_add(-1, drawn, lampion.ones_like(drawn, dtype=counts.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        choices = lampion.lgamma(value.sum(-1) + 1) - lampion.lgamma(value + 1).sum(-1)
        impossible = (value == 0) & (logits == -lampion.inf)
        return choices + (logits.masked_fill(impossible, 0.0) * value).sum(-1)

    def entropy(self) -> Tensor:
        n = self.total_count
        one = Binomial(n, probs=self.probs, validate_args=False)
        k = one.enumerate_support(expand=False)[1:]
        spread = (one.log_prob(k).exp() * lampion.lgamma(k + 1)).sum((0, -1))
        all_orders = lampion.lgamma(self.probs.new_tensor(n + 1.0))
        return n * self._categorical_entropy() - all_orders + spread
