"""Continuous stand-ins for Bernoulli and one-hot categorical samples, with a temperature.

Floor 7; imports odds and transformed of this package. C. Maddison, A. Mnih and Y. Teh, The concrete
distribution, 2017; E. Jang, S. Gu and B. Poole, Categorical reparameterization with Gumbel-softmax,
2017.
"""

from __future__ import annotations

import math
from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.tensor import Tensor

from . import constraints
from .odds import Categories, Odds
from .transformed import TransformedDistribution
from .transforms import ExpTransform, SigmoidTransform
from .utils import broadcast_all, clamp_probs

__all__ = ["ExpRelaxedCategorical", "LogitRelaxedBernoulli", "RelaxedBernoulli",
           "RelaxedOneHotCategorical"]


def _number_like(temperature: Any, parameter: Tensor) -> Tensor:
    if isinstance(temperature, Tensor):
        return temperature
    return lampion.tensor(temperature, dtype=parameter.dtype, device=parameter.device)


class LogitRelaxedBernoulli(Odds):
    """(logits + a logistic number) / temperature: the log-odds of `RelaxedBernoulli`.

    >>> LogitRelaxedBernoulli(lampion.tensor(1.0), 0.5).log_prob(lampion.tensor(0.0)).exp()
    tensor(0.2500)
    """

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.real
    has_rsample = True

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        self._set_odds(probs, logits, validate_args)
        self.temperature = _number_like(temperature, self._param)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        p = clamp_probs(self.probs.expand(shape))
        u = clamp_probs(lampion.rand(shape, dtype=p.dtype, device=p.device))
        return (u.log() - (-u).log1p() + p.log() - (-p).log1p()) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        away = self.logits - value * self.temperature
        return self.temperature.log() + away - 2 * F.softplus(away)


class RelaxedBernoulli(TransformedDistribution):
    """Numbers from 0 to 1 that approach Bernoulli's, of `probs` or `logits`, as `temperature` goes
    to 0.

    >>> RelaxedBernoulli(lampion.tensor(0.5), probs=lampion.tensor([0.2, 0.7])).rsample().shape
    lampion.Size([2])
    """

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        super().__init__(LogitRelaxedBernoulli(temperature, probs, logits,
                                               validate_args=validate_args),
                         SigmoidTransform(), validate_args=validate_args)

    @property
    def temperature(self) -> Tensor:
        """The temperature."""
        return self.base_dist.temperature

    @property
    def logits(self) -> Tensor:
        """Log-odds."""
        return self.base_dist.logits

    @property
    def probs(self) -> Tensor:
        """Probabilities."""
        return self.base_dist.probs


class ExpRelaxedCategorical(Categories):
    """The logarithms of `RelaxedOneHotCategorical`: log-softmax of (logits + Gumbel numbers) /
    temperature.

    >>> ExpRelaxedCategorical(lampion.tensor(1.0), lampion.ones(3)).event_shape
    lampion.Size([3])
    """

    arg_constraints = {"probs": constraints.simplex, "logits": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        shape = self._set_categories(probs, logits)
        self.temperature = _number_like(temperature, self._param)
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        u = lampion.rand(self._extended_shape(sample_shape), dtype=self.logits.dtype,
                         device=self.logits.device)
        gumbel = -(-clamp_probs(u).log()).log()
        return ((self.logits + gumbel) / self.temperature).log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n = self._event_shape[0]
        logits, value = broadcast_all(self.logits, value)
        score = (logits - value * self.temperature).log_softmax(-1).sum(-1)
        return score + math.lgamma(n) + (n - 1) * self.temperature.log()


class RelaxedOneHotCategorical(TransformedDistribution):
    """Vectors on the simplex that approach one-hot ones, of `probs` or `logits`, as `temperature`
    goes to 0.

    >>> RelaxedOneHotCategorical(lampion.tensor(0.5), lampion.ones(3)).rsample().shape
    lampion.Size([3])
    """

    arg_constraints = {"probs": constraints.simplex, "logits": constraints.real_vector}
    support = constraints.simplex
    has_rsample = True

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        super().__init__(ExpRelaxedCategorical(temperature, probs, logits,
                                               validate_args=validate_args),
                         ExpTransform(), validate_args=validate_args)

    @property
    def temperature(self) -> Tensor:
        """The temperature."""
        return self.base_dist.temperature

    @property
    def logits(self) -> Tensor:
        """Logarithms of the probabilities."""
        return self.base_dist.logits

    @property
    def probs(self) -> Tensor:
        """Probabilities."""
        return self.base_dist.probs
