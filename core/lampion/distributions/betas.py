"""Distributions on the unit interval and the simplex: Beta, Dirichlet, Kumaraswamy, continuous
Bernoulli.

Floor 7; imports exp_family, odds and transformed of this package.
"""

from __future__ import annotations

import math
from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.tensor import Tensor

from . import constraints
from .exp_family import ExponentialFamily
from .locations import Uniform
from .odds import Odds
from .transformed import TransformedDistribution
from .transforms import AffineTransform, PowerTransform
from .utils import binary_loss, broadcast_all, clamp_probs, euler_constant

__all__ = ["Beta", "ContinuousBernoulli", "Dirichlet", "Kumaraswamy"]


class Dirichlet(ExponentialFamily):
    """Vectors x on the simplex, of density proportional to the product of x[k]**(a[k] - 1), where
    a is `concentration` (positive, of shape (..., K)).

    Samples are gamma numbers over their sum, and differentiable by a through these.

    >>> Dirichlet(lampion.tensor([1.0, 3.0])).mean
    tensor([0.2500, 0.7500])
    """

    arg_constraints = {"concentration": constraints.independent(constraints.positive, 1)}
    support = constraints.simplex
    has_rsample = True
    _mean_carrier_measure = 0
    _parts = ("concentration",)

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        if concentration.dim() < 1:
            raise ValueError("`concentration` parameter must be at least one-dimensional.")
        self.concentration = concentration
        shape = concentration.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.concentration.sum(-1, True)

    @property
    def mode(self) -> Tensor:
        """Of concentrations that are all below 1 the first corner, one of those where the density
        is infinite."""
        above = (self.concentration - 1).clamp(min=0.0)
        mode = above / above.sum(-1, True)
        below = (self.concentration < 1).all(-1, keepdim=True)
        corner = F.pad(lampion.zeros_like(mode[..., 1:]), [1, 0], value=1.0)
        return lampion.where(below, corner, mode)

    @property
    def variance(self) -> Tensor:
        a, total = self.concentration, self.concentration.sum(-1, True)
        return a * (total - a) / (total.square() * (total + 1))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return lampion._sample_dirichlet(
            self.concentration.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a = self.concentration
        return (lampion.xlogy(a - 1, value).sum(-1) + lampion.lgamma(a.sum(-1))
                - lampion.lgamma(a).sum(-1))

    def entropy(self) -> Tensor:
        a = self.concentration
        n, total = a.shape[-1], a.sum(-1)
        return (lampion.lgamma(a).sum(-1) - lampion.lgamma(total)
                - (n - total) * lampion.digamma(total) - ((a - 1) * lampion.digamma(a)).sum(-1))

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.concentration,)

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        x, = natural_params
        return lampion.lgamma(x).sum(-1) - lampion.lgamma(x.sum(-1))


class Beta(ExponentialFamily):
    """The beta distribution of a = `concentration1` and b = `concentration0`: density proportional
    to x**(a - 1) (1 - x)**(b - 1).

    >>> Beta(1.0, 3.0).mean
    tensor(0.2500)
    """

    arg_constraints = {"concentration1": constraints.positive,
                       "concentration0": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True
    _mean_carrier_measure = 0
    _parts = ("_dirichlet",)

    def __init__(self, concentration1: Any, concentration0: Any,
                 validate_args: bool | None = None) -> None:
        both = lampion.stack(broadcast_all(concentration1, concentration0), -1)
        self._dirichlet = Dirichlet(both, validate_args=validate_args)
        super().__init__(self._dirichlet.batch_shape, validate_args=validate_args)

    @property
    def concentration1(self) -> Tensor:
        """The exponent of x, plus 1."""
        return self._dirichlet.concentration[..., 0]

    @property
    def concentration0(self) -> Tensor:
        """The exponent of 1 - x, plus 1."""
        return self._dirichlet.concentration[..., 1]

    @property
    def mean(self) -> Tensor:
        return self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def mode(self) -> Tensor:
        return self._dirichlet.mode[..., 0]

    @property
    def variance(self) -> Tensor:
        return self._dirichlet.variance[..., 0]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._dirichlet.rsample(sample_shape)[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._dirichlet.log_prob(lampion.stack([value, 1.0 - value], -1))

    def entropy(self) -> Tensor:
        return self._dirichlet.entropy()

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return self.concentration1, self.concentration0

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        x, y = natural_params
        return lampion.lgamma(x) + lampion.lgamma(y) - lampion.lgamma(x + y)


class Kumaraswamy(TransformedDistribution):
    """The distribution on the unit interval with the cdf 1 - (1 - x**a)**b, for a =
    `concentration1` and b = `concentration0`.

    >>> Kumaraswamy(1.0, 3.0).mean
    tensor(0.2500)
    """

    arg_constraints = {"concentration1": constraints.positive,
                       "concentration0": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True
    _parts = ("concentration1", "concentration0")

    def __init__(self, concentration1: Any, concentration0: Any,
                 validate_args: bool | None = None) -> None:
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        one = lampion.ones_like(self.concentration0)
        # 1 - (1 - x**a)**b is uniform, and so is what it leaves to 1
        super().__init__(Uniform(0 * one, one, validate_args=False),
                         [PowerTransform(1 / self.concentration0), AffineTransform(1.0, -1.0),
                          PowerTransform(1 / self.concentration1)], validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b = self.concentration1, self.concentration0
        return (a.log() + b.log() + lampion.xlogy(a - 1, value)
                + lampion.special.xlog1py(b - 1, -value.pow(a)))

    def _moment(self, n: int) -> Tensor:
        """The mean of x**n: b B(1 + n / a, b)."""
        a, b = 1 + n / self.concentration1, self.concentration0
        log_beta = lampion.lgamma(a) + lampion.lgamma(b) - lampion.lgamma(a + b)
        return b * log_beta.exp()

    @property
    def mean(self) -> Tensor:
        return self._moment(1)

    @property
    def mode(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        log_mode = ((a - 1).log() - (a * b - 1).log()) / a
        return lampion.where((a < 1) | (b < 1), lampion.nan, log_mode.exp())

    @property
    def variance(self) -> Tensor:
        return self._moment(2) - self._moment(1).square()

    def entropy(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        harmonic = lampion.digamma(b + 1) + euler_constant
        return (1 - 1 / b) + (1 - 1 / a) * harmonic - a.log() - b.log()


class ContinuousBernoulli(Odds, ExponentialFamily):
    """Numbers of the unit interval with density proportional to p**x (1 - p)**(1 - x), for p =
    `probs` or the log-odds `logits` (Loaiza-Ganem and Cunningham, The continuous Bernoulli, 2019).

    Where p lies between `lims`, formulas that lose all digits at 1/2 are replaced by their series.

    >>> ContinuousBernoulli(lampion.tensor(0.5)).mean
    tensor(0.5000)
    """

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True
    _mean_carrier_measure = 0

    def __init__(self, probs: Any = None, logits: Any = None,
                 lims: tuple[float, float] = (0.499, 0.501), validate_args: bool | None = None,
                 ) -> None:
        self._lims = lims
        checked = self._validate_args if validate_args is None else validate_args
        if probs is not None and logits is None:
            probs, = broadcast_all(probs)
            if checked and not bool(constraints.unit_interval.check(probs).all()):
                raise ValueError("The parameter probs has invalid values")
            probs = clamp_probs(probs)
        self._set_odds(probs, logits, validate_args)

    def _outside(self) -> Tensor:
        """Whether the plain formulas hold."""
        return (self.probs <= self._lims[0]) | (self.probs > self._lims[1])

    def _away(self) -> Tensor:
        """The probabilities; where formulas fail, the lower limit for them."""
        return lampion.where(self._outside(), self.probs, self._lims[0])

    def _log_norm(self) -> Tensor:
        """log of 2 atanh(1 - 2p) / (1 - 2p), what the density is multiplied by."""
        p = self._away()
        plain = ((-p).log1p() - p.log()).abs().log() - (1 - 2 * p).abs().log()
        x = (self.probs - 0.5).square()
        return lampion.where(self._outside(), plain, math.log(2) + (4 / 3 + 104 / 45 * x) * x)

    @property
    def mean(self) -> Tensor:
        p = self._away()
        plain = p / (2 * p - 1) + 1 / ((-p).log1p() - p.log())
        x = self.probs - 0.5
        return lampion.where(self._outside(), plain, 0.5 + (1 / 3 + 16 / 45 * x.square()) * x)

    @property
    def variance(self) -> Tensor:
        p = self._away()
        plain = p * (p - 1) / (1 - 2 * p).square() + 1 / ((-p).log1p() - p.log()).square()
        x = (self.probs - 0.5).square()
        return lampion.where(self._outside(), plain, 1 / 12 - (1 / 15 - 128 / 945 * x) * x)

    @property
    def stddev(self) -> Tensor:
        return self.variance.sqrt()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with lampion.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(lampion.rand(self._extended_shape(sample_shape), dtype=self.probs.dtype,
                                      device=self.probs.device))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return -binary_loss(*broadcast_all(self.logits, value)) + self._log_norm()

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        p = self._away()
        plain = (p.pow(value) * (1 - p).pow(1 - value) + p - 1) / (2 * p - 1)
        inside = lampion.where(self._outside(), plain, value)
        return lampion.where(value <= 0, 0.0, lampion.where(value >= 1, 1.0, inside))

    def icdf(self, value: Tensor) -> Tensor:
        p = self._away()
        plain = ((-p + value * (2 * p - 1)).log1p() - (-p).log1p()) / (p.log() - (-p).log1p())
        return lampion.where(self._outside(), plain, value)

    def entropy(self) -> Tensor:
        log0, log1 = (-self.probs).log1p(), self.probs.log()
        return self.mean * (log0 - log1) - self._log_norm() - log0

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        """log of (exp(x) - 1) / x; its series near 0."""
        x, = natural_params
        limit = math.log(self._lims[1] / (1 - self._lims[1]))
        out = x.abs() > limit
        away = lampion.where(out, x, limit)
        plain = (away.exp() - 1).abs().log() - away.abs().log()
        return lampion.where(out, plain, 0.5 * x + x.square() / 24 - x.pow(4) / 2880)
